//! Carries plans out: admission, selects, evaluation.

use crate::error::QueryError;
use crate::service::QueryService;
use promql::budget::{Budget, BudgetLimits};
use promql::{EvalError, Evaluated, Grid, Partial, Plan, PlanOptions, Select, Selected, SelectedSeries};
use series::Timestamp;
use shard::{InstantRequest, RangeRequest, ReduceRequest};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What holds for one query.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    pub plan: PlanOptions,
    /// Longest time, the wait for a slot included.
    pub timeout: Duration,
}

/// The answer to a query.
#[derive(Debug)]
pub struct QueryAnswer {
    pub evaluated: Evaluated,
    /// The times of the answer.
    pub grid: Grid,
    pub timings: Timings,
}

/// How long the parts of a query took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Waiting for a slot.
    pub queued: Duration,
    /// Reading what the plan selects.
    pub selected: Duration,
    pub total: Duration,
}

impl QueryService {
    /// Carries one plan out within its limits.
    pub(crate) async fn run(&self, plan: Plan, options: &QueryOptions) -> Result<QueryAnswer, QueryError> {
        self.run_all(vec![Arc::new(plan)], options).await?.pop().expect("one plan, one answer")
    }

    /// Carries plans out together: with one permit and one deadline, each within the limit of samples.
    pub(crate) async fn run_all(
        &self,
        plans: Vec<Arc<Plan>>,
        options: &QueryOptions,
    ) -> Result<Vec<Result<QueryAnswer, QueryError>>, QueryError> {
        self.gatherer.check_ready()?;
        let started = Instant::now();
        let deadline = started + options.timeout;
        let permit = self.admission.admit(options.timeout).await?;
        let queued = started.elapsed();
        let samples_max = self.settings.samples_max as u64;
        let limits = BudgetLimits { samples_max, deadline: Some(deadline), ..BudgetLimits::default() };
        let budgets: Vec<Budget> = plans.iter().map(|_| Budget::new(limits, None)).collect();
        // Cancelled when the client goes.
        let _guards: Vec<_> = budgets.iter().map(Budget::cancel_on_drop).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let data = tokio::time::timeout(left, self.select_all(&plans, options.plan.lookback)).await;
        let data = data.map_err(|_| QueryError::from(EvalError::Timeout))??;
        let selected = started.elapsed() - queued;
        let work = move || {
            // Held until the evaluation has ended, whether somebody waits or not.
            let _permit = permit;
            let eval = |((plan, data), budget): ((Arc<Plan>, Result<_, QueryError>), Budget)| {
                let evaluated = plan.evaluate(data?, &budget)?;
                let timings = Timings { queued, selected, total: started.elapsed() };
                Ok(QueryAnswer { evaluated, grid: plan.grid, timings })
            };
            plans.into_iter().zip(data).zip(budgets).map(eval).collect::<Vec<Result<QueryAnswer, QueryError>>>()
        };
        let evaluated = tokio::task::spawn_blocking(work).await;
        evaluated.map_err(|error| QueryError::Internal(format!("evaluation ended: {error}")))
    }

    /// What answers the selects of plans.
    async fn select_all(
        &self,
        plans: &[Arc<Plan>],
        lookback: Duration,
    ) -> Result<Vec<Result<Vec<Selected>, QueryError>>, QueryError> {
        let samples_max = self.settings.samples_max;
        let selects = plans.iter().flat_map(|plan| plan.selects());
        let requests = selects.filter_map(|select| {
            Some(ReduceRequest {
                selectors: vec![select.matchers.clone()],
                from: Timestamp(select.from),
                to: Timestamp(select.to),
                reduction: select.pushdown.clone()?,
                samples_max,
            })
        });
        let mut reduced = self.gatherer.reduce(requests.collect()).await?.into_iter();
        let mut all = Vec::with_capacity(plans.len());
        for plan in plans {
            // Each takes its own, whether the plan succeeds or not.
            let own: Vec<_> =
                plan.selects().iter().map(|select| select.pushdown.as_ref().and_then(|_| reduced.next())).collect();
            all.push(self.select_for(plan, own, lookback).await);
        }
        Ok(all)
    }

    /// What answers the selects of one plan, with the outcomes of its aggregations.
    async fn select_for(
        &self,
        plan: &Plan,
        reduced: Vec<Option<Result<Option<Partial>, QueryError>>>,
        lookback: Duration,
    ) -> Result<Vec<Selected>, QueryError> {
        let mut data = Vec::with_capacity(reduced.len());
        for (select, reduced) in plan.selects().iter().zip(reduced) {
            data.push(match reduced.transpose()?.flatten() {
                Some(partial) => Selected::Partial(Box::new(partial)),
                None => Selected::Series(self.select(select, lookback).await?),
            });
        }
        Ok(data)
    }

    async fn select(&self, select: &Select, lookback: Duration) -> Result<Vec<SelectedSeries>, QueryError> {
        let (from, to) = (Timestamp(select.from), Timestamp(select.to));
        let selectors = vec![select.matchers.clone()];
        let samples_max = self.settings.samples_max;
        if select.is_instant && select.to - select.from == lookback.as_millis() as i64 - 1 {
            let request = InstantRequest { selectors, at: to, lookback, series_max: samples_max };
            return self.gatherer.instant(request).await;
        }
        if from > to {
            return Ok(Vec::new());
        }
        self.gatherer.range(RangeRequest { selectors, from, to, samples_max, labels_only: false }).await
    }
}
