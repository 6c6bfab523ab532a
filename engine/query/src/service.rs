//! The service and its questions.

use crate::admission::Admission;
use crate::error::QueryError;
use crate::federate::Federation;
use crate::gather::Gatherer;
use crate::run::{QueryAnswer, QueryOptions};
use promql::{Plan, PlanOptions, SelectedSeries};
use series::{Labels, Matcher, Timestamp};
use shard::{FederateRequest, RangeRequest, Shards};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What queries may do and use.
#[derive(Clone, Debug)]
pub struct QuerySettings {
    /// Features, and how far back an instant select looks.
    pub plan: PlanOptions,
    /// Longest time of a query, the wait for a slot included.
    pub timeout: Duration,
    /// Queries that run at once.
    pub concurrency: usize,
    /// Most samples that a query may load.
    pub samples_max: usize,
}

/// Answers every question about stored samples. There is one in a process, so that its limits hold.
pub struct QueryService {
    pub(crate) gatherer: Gatherer,
    pub(crate) settings: QuerySettings,
    pub(crate) admission: Admission,
}

/// Series with samples in `[from, to]` that satisfy one of the selectors.
#[derive(Clone, Debug)]
pub struct LabelRequest {
    /// Each a list of matchers that must all hold.
    pub selectors: Vec<Vec<Matcher>>,
    pub from: Timestamp,
    pub to: Timestamp,
}

/// Samples in `[from, to]`, staleness markers included, of series that satisfy all matchers.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    pub matchers: Vec<Matcher>,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Most samples of the answer; 0 is no limit.
    pub samples_max: usize,
}

impl QueryService {
    pub fn new(shards: Shards, settings: QuerySettings) -> QueryService {
        let admission = Admission::new(settings.concurrency);
        QueryService { gatherer: Gatherer::new(shards), settings, admission }
    }

    pub fn settings(&self) -> &QuerySettings {
        &self.settings
    }

    /// Whether questions can be answered in full: the logs of the last run have been read.
    pub fn is_ready(&self) -> bool {
        self.gatherer.is_ready()
    }

    /// An error with the reason if questions cannot be answered in full yet.
    pub fn check_ready(&self) -> Result<(), QueryError> {
        self.gatherer.check_ready()
    }

    /// Evaluates an expression at one time.
    pub async fn instant(&self, expr: &str, at: Timestamp, options: &QueryOptions) -> Result<QueryAnswer, QueryError> {
        self.run(Plan::instant(expr, at.0, &options.plan)?, options).await
    }

    /// Evaluates an expression from `start` to `end`, every `step_ms` milliseconds.
    pub async fn range(
        &self,
        expr: &str,
        (start, end): (Timestamp, Timestamp),
        step_ms: i64,
        options: &QueryOptions,
    ) -> Result<QueryAnswer, QueryError> {
        self.run(Plan::range(expr, start.0, end.0, step_ms, &options.plan)?, options).await
    }

    /// Evaluates expressions at one time. What they aggregate is read together; where that fails as a whole, each is
    /// evaluated alone, so that one that takes too long harms no other.
    pub async fn instant_many(
        &self,
        exprs: &[&str],
        at: Timestamp,
        inner_step: Duration,
    ) -> Vec<Result<QueryAnswer, QueryError>> {
        let plan = PlanOptions { inner_step, ..self.settings.plan };
        let options = QueryOptions { plan, timeout: self.settings.timeout };
        let plan_of = |expr: &&str| Plan::instant(expr, at.0, &options.plan).map(Arc::new).map_err(QueryError::from);
        let plans: Vec<Result<Arc<Plan>, QueryError>> = exprs.iter().map(plan_of).collect();
        let valid: Vec<Arc<Plan>> = plans.iter().filter_map(|plan| plan.as_ref().ok()).cloned().collect();
        let mut together = self.run_all(valid, &options).await.ok().map(Vec::into_iter);
        let mut all = Vec::with_capacity(plans.len());
        for plan in plans {
            all.push(match (plan, &mut together) {
                (Err(error), _) => Err(error),
                (Ok(_), Some(ran)) => ran.next().expect("one for each valid plan"),
                (Ok(plan), None) => {
                    let alone = self.run_all(vec![plan], &options).await;
                    alone.and_then(|mut one| one.pop().expect("one plan, one answer"))
                }
            });
        }
        all
    }

    /// Label sets of series, sorted.
    pub async fn series(&self, request: LabelRequest) -> Result<Vec<Labels>, QueryError> {
        self.check_ready()?;
        let LabelRequest { selectors, from, to } = request;
        self.gatherer.label_sets(selectors, (from, to), self.settings.samples_max).await
    }

    /// Names of labels, sorted.
    pub async fn label_names(&self, request: LabelRequest) -> Result<Vec<String>, QueryError> {
        let sets = self.series(request).await?;
        let names: BTreeSet<&str> = sets.iter().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    /// Values of the label `name`, sorted.
    pub async fn label_values(&self, name: &str, request: LabelRequest) -> Result<Vec<String>, QueryError> {
        let sets = self.series(request).await?;
        let values: BTreeSet<&str> = sets.iter().filter_map(|labels| labels.get(name)).collect();
        Ok(values.into_iter().map(str::to_owned).collect())
    }

    /// Samples as they are stored, sorted by labels.
    pub async fn select_raw(&self, request: SelectRequest) -> Result<Vec<SelectedSeries>, QueryError> {
        let SelectRequest { matchers, from, to, samples_max } = request;
        let request = RangeRequest { selectors: vec![matchers], from, to, samples_max, labels_only: false };
        self.gatherer.range(request).await
    }

    /// Newest samples as text.
    pub async fn federate(&self, request: FederateRequest) -> Result<Federation, QueryError> {
        self.gatherer.federate(request).await
    }
}
