//! Series in memory, as the backend of unit tests.

use crate::host::{NO_VECTOR, PendingWrite, RuleBackend, VectorElements};
use crate::load::GroupSpec;
use notifier::Alert;
use promql::budget::{Budget, BudgetLimits};
use promql::notation::Value;
use promql::{Plan, PlanOptions, QueryResult, SelectResult, SelectedSeries};
use series::histogram::{Histogram, ResetHint};
use series::{Labels, Matcher, STALE_NAN, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Largest number of samples of a query, as by Prometheus' default.
const SAMPLES_MAX: u64 = 50_000_000;

/// A backend without clock and files. It records alerts.
pub struct MemoryBackend {
    pub options: PlanOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    series: BTreeMap<Labels, BTreeMap<i64, Value>>,
    /// The last row of each push source.
    written: HashMap<String, HashSet<Labels>>,
    notified: Vec<Alert>,
}

impl MemoryBackend {
    pub fn new(options: PlanOptions) -> MemoryBackend {
        MemoryBackend { options, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn insert(&self, labels: Labels, at: i64, value: Value) {
        self.state().series.entry(labels).or_default().insert(at, value);
    }

    /// Returns the alerts that were passed on since the last call.
    pub fn take_notified(&self) -> Vec<Alert> {
        std::mem::take(&mut self.state().notified)
    }

    /// Evaluates an expression at one time.
    pub fn evaluate(&self, expr: &str, at: i64) -> Result<QueryResult, String> {
        let plan = Plan::instant(expr, at, &self.options).map_err(|error| error.to_string())?;
        let data = {
            let state = self.state();
            let select =
                |select: &promql::Select| SelectResult::Series(state.select(&select.matchers, select.from, select.to));
            plan.selects().iter().map(select).collect()
        };
        let limits = BudgetLimits { samples_max: SAMPLES_MAX, ..BudgetLimits::default() };
        plan.evaluate(data, &Budget::new(limits, None)).map_err(|error| error.to_string())
    }
}

impl State {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Vec<SelectedSeries> {
        let mut found = Vec::new();
        for (labels, values) in &self.series {
            if from > to || !matchers.iter().all(|matcher| matcher.matches_labels(labels)) {
                continue;
            }
            let mut series = SelectedSeries {
                labels: labels.clone(),
                samples: Vec::new(),
                histograms: Vec::new(),
                starts: Vec::new(),
            };
            let mut before: Option<&Histogram> = None;
            for (time, value) in values.range(from..=to) {
                match value {
                    Value::Float(value) => {
                        before = None;
                        series.samples.push(series::Sample { timestamp: Timestamp(*time), value: *value });
                    }
                    Value::Histogram(histogram, _) => {
                        let mut hinted = histogram.clone();
                        let goes_on = |before: &Histogram| {
                            before.hint != ResetHint::Gauge
                                && !histogram.detect_reset(before)
                                && histogram.schema == before.schema
                        };
                        hinted.hint = match before {
                            _ if histogram.hint == ResetHint::Gauge => ResetHint::Gauge,
                            Some(before) if goes_on(before) => ResetHint::NotReset,
                            _ => ResetHint::Unknown,
                        };
                        before = Some(histogram);
                        series.histograms.push((*time, Arc::new(hinted)));
                    }
                }
            }
            if !series.samples.is_empty() || !series.histograms.is_empty() {
                found.push(series);
            }
        }
        found
    }
}

impl RuleBackend for MemoryBackend {
    fn is_ready(&self) -> bool {
        true
    }

    fn query_all(&self, _: &GroupSpec, exprs: &[&str], at: Timestamp) -> Vec<Result<VectorElements, String>> {
        let found = |expr: &&str| self.evaluate(expr, at.0)?.value.into_elements().ok_or_else(|| NO_VECTOR.into());
        exprs.iter().map(found).collect()
    }

    fn write(&self, source: &str, at: Timestamp, rows: Vec<(Labels, series::Value)>) -> PendingWrite {
        let mut state = self.state();
        let now: HashSet<Labels> = rows.iter().map(|(labels, _)| labels.clone()).collect();
        let before = state.written.insert(source.to_owned(), now.clone()).unwrap_or_default();
        let ended = before.difference(&now).map(|labels| (labels.clone(), series::Value::Float(STALE_NAN)));
        for (labels, value) in rows.into_iter().chain(ended) {
            let value = match value {
                series::Value::Float(value) => Value::Float(value),
                series::Value::Histogram(histogram) => Value::Histogram((*histogram).clone(), false),
            };
            state.series.entry(labels).or_default().insert(at.0, value);
        }
        Box::new(|| Ok(()))
    }

    fn newest(
        &self,
        matchers: &[Matcher],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Labels, series::Sample)>, String> {
        let found = self.state().select(matchers, from.0, to.0);
        Ok(found.into_iter().filter_map(|series| Some((series.labels, *series.samples.last()?))).collect())
    }

    fn notify(&self, alerts: Vec<Alert>) {
        self.state().notified.extend(alerts);
    }
}
