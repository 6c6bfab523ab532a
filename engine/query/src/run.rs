//! Carries plans out: admission, selects, evaluation.

use crate::batches::{SelectReader, SingleBatch};
use crate::error::QueryError;
use crate::gather::reduce::Reduced;
use crate::observer::QueryReport;
use crate::request::{QueryAnswer, QueryOptions, Timings};
use crate::service::QueryService;
use crate::stats::{QueryStats, Slice};
use crate::task::QueryTask;
use promql::budget::{Budget, Charge};
use promql::{EvalError, Plan, SelectResult};
use series::Timestamp;
use shard::ReduceRequest;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A plan, and its query.
#[derive(Clone)]
pub(crate) struct PlannedQuery {
    pub plan: Arc<Plan>,
    pub task: QueryTask,
}

/// What answers the selects of a plan, and the charges for partial aggregates in it.
type SelectedData = (Vec<SelectResult>, Vec<Charge>);

impl QueryService {
    /// A query with a budget of its own, which ends at `deadline`.
    pub(crate) fn task(&self, text: &str, deadline: Instant) -> QueryTask {
        let budget = Budget::new(self.budget_limits(deadline), Some(self.pool.clone()));
        QueryTask::new(text, budget, self.stats.clone())
    }

    /// Carries plans out together: in one place and with one deadline, each within its own budget.
    pub(crate) async fn run_all(
        &self,
        plans: Vec<(String, Arc<Plan>)>,
        options: &QueryOptions,
    ) -> Result<Vec<Result<QueryAnswer, QueryError>>, QueryError> {
        self.gatherer.check_ready()?;
        if plans.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let deadline = started + options.timeout;
        let planned = |(text, plan): (String, Arc<Plan>)| PlannedQuery { plan, task: self.task(&text, deadline) };
        let queries: Vec<PlannedQuery> = plans.into_iter().map(planned).collect();
        let origin = options.origin.as_str();
        let _active: Vec<_> = queries.iter().map(|query| self.stats.begin(query.task.text.clone(), origin)).collect();
        // Whoever waits for the answer may leave: then everything that works for it stops.
        let _cancel: Vec<_> = queries.iter().map(|query| query.task.budget.cancel_on_drop()).collect();
        let observer = self.observer.get().filter(|observer| observer.is_interested());
        let observed: Vec<Arc<Plan>> =
            observer.iter().flat_map(|_| queries.iter().map(|query| query.plan.clone())).collect();
        let outcome = self.run_admitted(queries, options, started).await;
        for (i, plan) in observed.iter().enumerate() {
            let outcome = match &outcome {
                Ok(answers) => answers[i].as_ref().map(QueryAnswer::cost),
                Err(error) => Err(error),
            };
            let (start, end) = (Timestamp(plan.grid.start), Timestamp(plan.end()));
            let (expr, step_ms, caller) =
                (plan.text(), if plan.is_range() { plan.grid.step } else { 0 }, options.caller.as_deref());
            let report = QueryReport { expr, start, end, step_ms, caller, outcome };
            observer.iter().for_each(|observer| observer.query_ended(&report));
        }
        let count_error = |error: &QueryError| match error {
            QueryError::Timeout(_) => QueryStats::add(&self.stats.timeouts, 1),
            QueryError::Canceled => QueryStats::add(&self.stats.canceled, 1),
            QueryError::Limit(_) | QueryError::TooManySamples => QueryStats::add(&self.stats.limits, 1),
            _ => {}
        };
        match &outcome {
            Err(error) => count_error(error),
            Ok(all) => all.iter().filter_map(|one| one.as_ref().err()).for_each(count_error),
        }
        outcome
    }

    async fn run_admitted(
        &self,
        queries: Vec<PlannedQuery>,
        options: &QueryOptions,
        started: Instant,
    ) -> Result<Vec<Result<QueryAnswer, QueryError>>, QueryError> {
        let permit = self.admission.admit(options.origin, options.timeout).await?;
        let queued = started.elapsed();
        let left = options.timeout.saturating_sub(queued);
        let data = tokio::time::timeout(left, self.select_all(&queries, options.plan.lookback)).await;
        let data = data.map_err(|_| QueryError::from(EvalError::Timeout))??;
        let selected = started.elapsed() - queued;
        let mut answers = Vec::with_capacity(queries.len());
        let permit = Arc::new(permit);
        for (PlannedQuery { plan, task }, data) in queries.into_iter().zip(data) {
            let data = match data {
                Ok(data) => data,
                Err(error) => {
                    answers.push(Err(error));
                    continue;
                }
            };
            let (budget, permit, grid) = (task.budget.clone(), permit.clone(), plan.grid);
            let panics = self.settings.panics_on.as_deref() == Some(&*task.text);
            let evaluation = task.on_thread(move || {
                // Held until the evaluation has ended, whether somebody waits or not.
                let _permit = permit;
                assert!(!panics, "a test wants this query to panic");
                let (selects, _charges) = data;
                Ok(plan.evaluate(selects, &budget)?)
            });
            let before = started.elapsed();
            answers.push(evaluation.await.map(|evaluated| {
                let total = started.elapsed();
                let times =
                    [(Slice::QueueTime, queued), (Slice::PrepareTime, selected), (Slice::InnerEval, total - before)];
                self.stats.record(&times);
                QueryStats::add(&self.stats.samples, evaluated.samples as u64);
                QueryAnswer { evaluated, grid, timings: Timings { queued, selected, total } }
            }));
        }
        Ok(answers)
    }

    /// What answers the selects of plans.
    async fn select_all(
        &self,
        queries: &[PlannedQuery],
        lookback: Duration,
    ) -> Result<Vec<Result<SelectedData, QueryError>>, QueryError> {
        let selects = queries.iter().flat_map(|query| query.plan.selects().iter().map(move |select| (query, select)));
        let requests = selects.filter_map(|(query, select)| {
            Some(ReduceRequest {
                selectors: vec![select.matchers.clone()],
                from: Timestamp(select.from),
                to: Timestamp(select.to),
                reduction: select.pushdown.clone()?,
                budget: query.task.budget.clone(),
            })
        });
        let requests: Vec<ReduceRequest> = requests.collect();
        let mut reduced = match queries.first() {
            Some(first) => self.gatherer.reduce(&first.task, requests).await?.into_iter(),
            None => Vec::new().into_iter(),
        };
        let mut all = Vec::with_capacity(queries.len());
        for query in queries {
            // Each takes its own, whether the plan succeeds or not.
            let selects = query.plan.selects().iter();
            let own: Vec<_> = selects.map(|select| select.pushdown.as_ref().and_then(|_| reduced.next())).collect();
            all.push(self.select_for(query, own, lookback).await);
        }
        Ok(all)
    }

    /// What answers the selects of one plan, with the outcomes of its aggregations.
    async fn select_for(
        &self,
        query: &PlannedQuery,
        reduced: Vec<Option<Reduced>>,
        lookback: Duration,
    ) -> Result<SelectedData, QueryError> {
        let mut data = Vec::with_capacity(reduced.len());
        let mut charges = Vec::with_capacity(reduced.len());
        for (select, reduced) in query.plan.selects().iter().zip(reduced) {
            let result = match reduced.transpose()?.flatten() {
                Some((partial, charge)) => {
                    charges.push(charge);
                    SelectResult::Partial(Box::new(partial))
                }
                None if select.from > select.to => SelectResult::Series(Vec::new()),
                None => {
                    let reader = SelectReader::new(&self.gatherer, &query.task, select, lookback);
                    let batch_bytes_max = self.settings.memory.batch_bytes_max;
                    // What is read counts as memory; samples are counted where the evaluation holds them.
                    match reader.read(&[], batch_bytes_max).await? {
                        Some(all) => SelectResult::Batches(Box::new(SingleBatch(Some(all)))),
                        None => SelectResult::Batches(Box::new(reader.batches(batch_bytes_max).await?)),
                    }
                }
            };
            data.push(result);
        }
        Ok((data, charges))
    }
}
