//! A rule group with the states of its rules, and one evaluation of it.
//!
//! Each rule is a push source of its own, so that its series end when it no longer yields them, independent of the other
//! rules.

use crate::alert::{AlertState, AlertTimings, Alerts, Element};
use crate::host::{PendingWrite, RuleBackend, VectorElements, as_numbers};
use crate::load::GroupSpec;
use crate::options::{ConcurrencyPermit, Options};
use crate::order;
use crate::rule::{ALERT_NAME, ALERTS_FOR_STATE, Alerting, Rule};
use crate::snapshot::{AlertView, Evaluation, GroupView, Health, RuleKind, RuleView};
use crate::stats::{Counters, Timings};
use series::{Labels, METRIC_NAME, MatchOp, Matcher, Timestamp, Value};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use template::{Context, Sample, Template};

/// Largest number of rules whose queries are sent together: a shard answers them without yielding, while scrapes wait.
const RULES_TOGETHER_MAX: usize = 64;
/// Evaluations that a group remembers: two hours at one a minute.
const EVALUATIONS_MAX: usize = 120;

/// A rule group and its state.
#[derive(Debug)]
pub struct Group {
    pub spec: Arc<GroupSpec>,
    rules: Vec<RuleState>,
    /// Indices of rules in the order of evaluation. The queries of one part are sent together.
    runs: Vec<Vec<usize>>,
    /// The same, for concurrent evaluation.
    stages: Vec<Vec<usize>>,
    reads_earlier: Vec<bool>,
    counters: Counters,
    /// The newest evaluations, oldest first.
    evaluations: VecDeque<Evaluation>,
    /// Push sources of removed rules. Their series end with the next evaluation.
    ended: Vec<String>,
}

#[derive(Debug)]
struct RuleState {
    rule: Arc<Rule>,
    /// Name of its push source.
    source: String,
    alerts: Alerts,
    /// Whether the alerts of the last run were restored. Rows are written only afterwards.
    restored: bool,
    health: Health,
    last_error: Option<String>,
    /// Whether the error is that of a template, which does not stop the rule.
    is_complaint: bool,
    evaluation_time: Duration,
    last_evaluation: Option<i64>,
}

/// Inputs of one evaluation that all rules share.
#[derive(Clone, Copy)]
struct GroupRun<'a> {
    spec: &'a GroupSpec,
    options: &'a Options,
    host: &'a dyn RuleBackend,
    timings: &'a Timings,
    at: i64,
    wall: i64,
}

/// The row that a rule writes at one time.
type Rows = Vec<(Labels, Value)>;

/// The outcome of one rule.
struct Outcome {
    samples: u64,
    failed: bool,
    pending: Option<PendingWrite>,
}

impl Group {
    /// `restored`: whether there is nothing to restore from an earlier run.
    pub fn new(spec: Arc<GroupSpec>, restored: bool) -> Group {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let state = |rule: &Arc<Rule>| {
            let kind = if rule.alert.is_some() { "alert" } else { "record" };
            let own = format!("{};{kind};{};{}", spec.key(), rule.name, rule.labels);
            let count = seen.entry(own.clone()).or_default();
            *count += 1;
            RuleState {
                rule: rule.clone(),
                source: format!("{own};{count}"),
                alerts: Alerts::default(),
                restored,
                health: Health::Unknown,
                last_error: None,
                is_complaint: false,
                evaluation_time: Duration::ZERO,
                last_evaluation: None,
            }
        };
        Group {
            rules: spec.rules.iter().map(state).collect(),
            runs: parts(&order::runs(&spec.rules)),
            stages: parts(&order::evaluation_stages(&spec.rules)),
            reads_earlier: order::reads_earlier(&spec.rules),
            counters: Counters::default(),
            evaluations: VecDeque::new(),
            ended: Vec::new(),
            spec,
        }
    }

    /// Takes over the state of an older version of the group, for each rule with the same name and labels.
    pub fn take_over(&mut self, old: Group) {
        self.counters = old.counters;
        self.evaluations = old.evaluations;
        self.ended = old.ended;
        let mut known: HashMap<String, RuleState> =
            old.rules.into_iter().map(|rule| (rule.source.clone(), rule)).collect();
        for rule in &mut self.rules {
            if let Some(old) = known.remove(&rule.source) {
                rule.alerts = old.alerts;
                rule.restored = old.restored;
                rule.health = old.health;
                rule.last_error = old.last_error;
                rule.evaluation_time = old.evaluation_time;
                rule.last_evaluation = old.last_evaluation;
            }
        }
        self.ended.extend(known.into_keys());
    }

    /// Evaluates the group for the time `at`. `wall` is the time of the wall clock.
    pub fn evaluate(
        &mut self,
        at: Timestamp,
        wall: Timestamp,
        host: &dyn RuleBackend,
        options: &Options,
        timings: &Timings,
    ) {
        let started = Instant::now();
        let spec = self.spec.clone();
        let round = GroupRun { spec: &spec, options, host, timings, at: at.0, wall: wall.0 };
        let mut samples = 0;
        let mut waiting: Vec<(usize, PendingWrite)> = Vec::new();
        let mut failures = HashSet::new();
        let parts = if options.concurrent_rules { &self.stages } else { &self.runs };
        for now in parts.clone() {
            if now.iter().any(|i| self.reads_earlier[*i]) {
                self.settle(&mut waiting, &mut failures);
            }
            let outcomes = self.evaluate_together(&now, round);
            for (i, outcome) in outcomes {
                samples += outcome.samples;
                if outcome.failed {
                    failures.insert(i);
                }
                waiting.extend(outcome.pending.map(|pending| (i, pending)));
            }
        }
        self.settle(&mut waiting, &mut failures);
        let written_at = Timestamp(at.0 - millis(spec.query_offset));
        for source in std::mem::take(&mut self.ended) {
            if let Err(error) = host.write(&source, written_at, Vec::new())() {
                tracing::warn!(group = spec.name, error, "ending the series of a removed rule failed");
            }
        }
        self.counters.evaluations += self.rules.len() as u64;
        self.counters.failures += failures.len() as u64;
        self.counters.iterations += 1;
        self.counters.samples = samples;
        self.counters.rules_seconds = self.rules.iter().map(|rule| rule.evaluation_time.as_secs_f64()).sum();
        let took = started.elapsed();
        if self.evaluations.len() == EVALUATIONS_MAX {
            self.evaluations.pop_front();
        }
        self.evaluations.push_back(Evaluation { at_ms: wall.0, took });
        timings.group(took);
    }

    /// Waits until all writes are visible.
    fn settle(&mut self, waiting: &mut Vec<(usize, PendingWrite)>, failures: &mut HashSet<usize>) {
        for (i, pending) in waiting.drain(..) {
            if let Err(error) = pending() {
                self.rules[i].fail(&self.spec, error);
                failures.insert(i);
            }
        }
    }

    /// Evaluates rules that do not read each other. Their queries are sent together; with concurrent evaluation, in as many parts
    /// as there are permits for further threads.
    fn evaluate_together(&mut self, now: &[usize], round: GroupRun) -> Vec<(usize, Outcome)> {
        let mut states: Vec<(usize, &mut RuleState)> =
            self.rules.iter_mut().enumerate().filter(|(i, _)| now.contains(i)).collect();
        if !round.options.concurrent_rules {
            return evaluate_part(&mut states, round);
        }
        let places: Vec<ConcurrencyPermit> =
            std::iter::from_fn(|| round.options.concurrency.take()).take(now.len() - 1).collect();
        let mut parts = states.chunks_mut(now.len().div_ceil(places.len() + 1));
        let own = parts.next().expect("there is a rule");
        std::thread::scope(|scope| {
            let start = |(part, place)| {
                scope.spawn(move || {
                    let _place: ConcurrencyPermit = place;
                    evaluate_part(part, round)
                })
            };
            let running: Vec<_> = parts.zip(places).map(start).collect();
            let mut done = evaluate_part(own, round);
            done.extend(running.into_iter().flat_map(|thread| thread.join().expect("a rule does not panic")));
            done
        })
    }

    /// Restores the alerts of the last run, once.
    pub fn restore(&mut self, now: Timestamp, host: &dyn RuleBackend, options: &Options) {
        let started = Instant::now();
        let grace_ms = millis(options.for_grace_period);
        let from = now.plus_ms(-millis(options.for_outage_tolerance));
        for state in &mut self.rules {
            let Some(alert) = state.rule.alert.as_ref().filter(|_| !state.restored) else { continue };
            state.restored = true;
            let hold_ms = millis(alert.hold);
            if hold_ms < grace_ms || state.alerts.active.is_empty() {
                continue;
            }
            let equal = |name: &str, value: &str| {
                Matcher::new(name, MatchOp::Equal, value).expect("an equality is no expression")
            };
            let matchers = [equal(METRIC_NAME, ALERTS_FOR_STATE), equal(ALERT_NAME, &state.rule.name)];
            match host.newest(&matchers, from, now) {
                Ok(found) => {
                    let nameless = |(labels, sample): (Labels, series::Sample)| {
                        let own = labels.iter().filter(|(name, _)| *name != METRIC_NAME);
                        (Labels::from_sorted(own), sample)
                    };
                    let known = found.into_iter().map(nameless).collect();
                    state.alerts.restore(now.0, &known, hold_ms, grace_ms);
                }
                Err(error) => {
                    tracing::error!(alert = state.rule.name, error, "restoring the 'for' state failed");
                }
            }
        }
        self.counters.restore = started.elapsed();
    }

    /// Moves all times of alerts by the change of the wall clock.
    pub fn shift(&mut self, ms: i64) {
        self.rules.iter_mut().for_each(|rule| rule.alerts.shift(ms));
    }

    pub fn missed(&mut self, count: u64) {
        self.counters.missed += count;
        self.counters.iterations += count;
    }

    /// Returns the push sources of its rules.
    pub fn sources(&self) -> Vec<String> {
        self.rules.iter().map(|rule| rule.source.clone()).chain(self.ended.iter().cloned()).collect()
    }

    /// Returns the firing alerts of rules with this name.
    pub fn firing(&self, alert: &str) -> Vec<(Labels, Labels)> {
        let rules = self.rules.iter().filter(|state| state.rule.alert.is_some() && state.rule.name == alert);
        let alerts = rules.flat_map(|state| &state.alerts.active);
        let firing = alerts.filter(|(_, alert)| alert.state == AlertState::Firing);
        firing.map(|(labels, alert)| (labels.clone(), alert.annotations.clone())).collect()
    }

    /// Returns the errors of its rules in the last evaluation, by their names. Errors of templates are not included.
    pub fn errors(&self) -> impl Iterator<Item = (&str, &str)> {
        let failed = self.rules.iter().filter(|state| !state.is_complaint);
        failed.filter_map(|state| Some((state.rule.name.as_str(), state.last_error.as_deref()?)))
    }

    pub fn view(&self) -> GroupView {
        let last = self.evaluations.back();
        GroupView {
            name: self.spec.name.clone(),
            file: self.spec.file.clone(),
            interval: self.spec.interval,
            limit: self.spec.limit,
            rules: self.rules.iter().map(RuleState::view).collect(),
            evaluation_time: last.map_or(Duration::ZERO, |last| last.took),
            last_evaluation: last.map(|last| last.at_ms),
            evaluations: self.evaluations.iter().copied().collect(),
            counters: self.counters.clone(),
        }
    }
}

/// Returns the rules of each stage, in parts of bounded size.
fn parts(stages: &[usize]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..stages.len()).collect();
    order.sort_by_key(|i| stages[*i]);
    let together = order.chunk_by(|one, other| stages[*one] == stages[*other]);
    together.flat_map(|stage| stage.chunks(RULES_TOGETHER_MAX)).map(<[usize]>::to_vec).collect()
}

/// Sends the queries of all rules together, then processes the result of each.
fn evaluate_part(states: &mut [(usize, &mut RuleState)], round: GroupRun) -> Vec<(usize, Outcome)> {
    let started = Instant::now();
    let at = Timestamp(round.at - millis(round.spec.query_offset));
    let rules: Vec<Arc<Rule>> = states.iter().map(|(_, state)| state.rule.clone()).collect();
    let exprs: Vec<&str> = rules.iter().map(|rule| rule.expr.as_str()).collect();
    let found = round.host.query_all(round.spec, &exprs, at);
    let share = started.elapsed() / states.len().max(1) as u32;
    let evaluate = |((i, state), found): (&mut (usize, &mut RuleState), _)| (*i, state.take(found, share, round));
    states.iter_mut().zip(found).map(evaluate).collect()
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

impl RuleState {
    fn fail(&mut self, spec: &GroupSpec, error: String) {
        tracing::warn!(file = %spec.file.display(), group = spec.name, rule = self.rule.name, error, "rule failed");
        self.health = Health::Bad;
        self.last_error = Some(error);
        self.is_complaint = false;
    }

    /// Processes the result of its expression. `asked` is its share of the duration of the queries.
    fn take(&mut self, found: Result<VectorElements, String>, asked: Duration, round: GroupRun) -> Outcome {
        let started = Instant::now();
        let rows = found.and_then(|found| self.rows(found, round));
        let outcome = match rows {
            Ok((rows, complaint)) => {
                (self.health, self.last_error) = (Health::Good, None);
                let failed = complaint.is_some();
                if let Some(complaint) = complaint {
                    self.fail(round.spec, complaint);
                    self.is_complaint = true;
                }
                let at = Timestamp(round.at - millis(round.spec.query_offset));
                let samples = rows.len() as u64;
                // Before the rows of the last run were read, an empty row would end their series.
                let writes = self.restored || self.rule.alert.is_none();
                let pending = writes.then(|| round.host.write(&self.source, at, rows));
                Outcome { samples, failed, pending }
            }
            Err(error) => {
                self.fail(round.spec, error);
                Outcome { samples: 0, failed: true, pending: None }
            }
        };
        self.evaluation_time = asked + started.elapsed();
        self.last_evaluation = Some(round.wall);
        round.timings.rule(self.evaluation_time);
        outcome
    }

    /// Returns the row to write, and an error that makes the rule unhealthy.
    fn rows(&mut self, found: VectorElements, round: GroupRun) -> Result<(Rows, Option<String>), String> {
        let rule = self.rule.clone();
        match &rule.alert {
            None => recorded(&rule, found, round.spec.limit).map(|rows| (rows, None)),
            Some(alert) => self.alerted(&rule, alert, as_numbers(found), round),
        }
    }

    fn alerted(
        &mut self,
        rule: &Rule,
        alert: &Alerting,
        found: Vec<Sample>,
        round: GroupRun,
    ) -> Result<(Rows, Option<String>), String> {
        let mut complaint = None;
        let elements = found.iter().map(|sample| element(rule, alert, sample, round, &mut complaint)).collect();
        let terms = AlertTimings {
            hold_ms: millis(alert.hold),
            keep_firing_ms: millis(alert.keep_firing),
            limit: round.spec.limit,
        };
        self.alerts.step(round.at, elements, terms)?;
        let link = table_link(&round.spec.external_url, &rule.expr);
        let resend_ms = millis(round.options.resend_delay);
        let notices = self.alerts.notices(round.at, resend_ms, millis(round.spec.interval), &link);
        if !notices.is_empty() {
            round.host.notify(notices);
        }
        let rows = if self.restored { self.alerts.rows(&rule.name) } else { Vec::new() };
        Ok((rows.into_iter().map(|(labels, value)| (labels, Value::Float(value))).collect(), complaint))
    }

    fn view(&self) -> RuleView {
        let kind = match &self.rule.alert {
            None => RuleKind::Recording,
            Some(alert) => RuleKind::Alerting {
                state: self.alerts.state(),
                hold: alert.hold,
                keep_firing: alert.keep_firing,
                annotations: alert.annotations.clone(),
                alerts: self
                    .alerts
                    .active
                    .iter()
                    .filter(|(_, alert)| alert.state != AlertState::Inactive)
                    .map(|(labels, alert)| AlertView {
                        labels: labels.clone(),
                        annotations: alert.annotations.clone(),
                        state: alert.state,
                        active_at: alert.active_at,
                        keep_firing_since: alert.keep_firing_since,
                        value: alert.value,
                    })
                    .collect(),
            },
        };
        RuleView {
            name: self.rule.name.clone(),
            query: self.rule.expr.clone(),
            labels: self.rule.labels.clone(),
            health: self.health,
            last_error: self.last_error.clone(),
            evaluation_time: self.evaluation_time,
            last_evaluation: self.last_evaluation,
            kind,
        }
    }
}

/// Returns the address of the page that shows an expression as a table.
fn table_link(external_url: &str, expr: &str) -> String {
    let query: String = url::form_urlencoded::byte_serialize(expr.as_bytes()).collect();
    format!("{external_url}/graph?g0.expr={query}&g0.tab=1")
}

fn recorded(rule: &Rule, found: VectorElements, limit: usize) -> Result<Rows, String> {
    let mut seen = HashSet::with_capacity(found.len());
    let mut rows = Vec::with_capacity(found.len());
    for (labels, value) in found {
        let mut builder = labels.to_builder();
        builder.set(METRIC_NAME, &rule.name);
        rule.labels.iter().for_each(|(name, value)| builder.set(name, value));
        let labels = builder.build();
        if !seen.insert(labels.clone()) {
            return Err("vector contains metrics with the same labelset after applying rule labels".into());
        }
        rows.push((labels, value));
    }
    if limit > 0 && rows.len() > limit {
        return Err(format!("exceeded limit of {limit} with {} series", rows.len()));
    }
    Ok(rows)
}

/// Returns an element with its labels and annotations. The error of a template appears in its text.
fn element(rule: &Rule, alert: &Alerting, sample: &Sample, round: GroupRun, complaint: &mut Option<String>) -> Element {
    let context = Context {
        labels: &sample.labels,
        external_labels: &round.spec.external_labels,
        external_url: &round.spec.external_url,
        value: sample.value,
        now_ms: round.at,
    };
    let mut query = |expr: &str| round.host.query(round.spec, expr, Timestamp(round.at)).map(as_numbers);
    let mut expand = |template: &Template| {
        let expanded = template.expand(&context, &mut query);
        round.timings.expansion(expanded.is_ok());
        expanded.unwrap_or_else(|error| {
            complaint.get_or_insert_with(|| error.to_string());
            format!("<error expanding template: {error}>")
        })
    };
    let mut builder = sample.labels.to_builder();
    builder.remove(METRIC_NAME);
    for (name, template) in &alert.label_templates {
        builder.set(name, &expand(template));
    }
    builder.set(ALERT_NAME, &rule.name);
    let annotations: Vec<(&str, String)> =
        alert.annotation_templates.iter().map(|(name, template)| (name.as_str(), expand(template))).collect();
    Element { labels: builder.build(), annotations: Labels::from_pairs(annotations), value: sample.value }
}
