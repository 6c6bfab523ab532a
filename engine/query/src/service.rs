//! The service and its questions.

use crate::admission::{Admission, Origin};
use crate::error::QueryError;
use crate::federate::Federation;
use crate::gather::range::ReadBounds;
use crate::gather::{Gathered, Gatherer};
use crate::memory::MemoryBounds;
use crate::observer::QueryObserver;
use crate::request::{
    Caller, LabelRequest, LabelTexts, QueryAnswer, QueryOptions, RawSeries, SelectRequest, SeriesLabels,
};
use crate::stats::QueryStats;
use promql::budget::{BudgetLimits, MemoryPool};
use promql::{Plan, PlanOptions};
use series::Timestamp;
use shard::{FederateRequest, LabelsWanted, Shards};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Lists of label sets that are made at once. One of all series takes a second of CPU, which queries need, too.
const LISTINGS_MAX: usize = 4;

/// What queries may do and use.
#[derive(Clone, Debug)]
pub struct QuerySettings {
    /// Features, and how far back an instant select looks.
    pub plan: PlanOptions,
    /// Longest time of a query, the wait for a place included.
    pub timeout: Duration,
    /// Queries that run at once.
    pub concurrency: usize,
    /// Most samples that the evaluation of a query may hold at once; 0 is no limit.
    pub samples_max: usize,
    pub memory: MemoryBounds,
    /// For tests: the evaluation of this expression panics.
    pub panics_on: Option<String>,
}

/// Answers every question about stored samples. There is one in a process, so that its limits hold.
pub struct QueryService {
    pub(crate) gatherer: Gatherer,
    pub(crate) settings: QuerySettings,
    pub(crate) admission: Admission,
    /// Lists of label sets that are made at once.
    listings: Semaphore,
    pub(crate) pool: Arc<MemoryPool>,
    pub(crate) stats: Arc<QueryStats>,
    pub(crate) observer: OnceLock<Arc<dyn QueryObserver>>,
}

impl QueryService {
    pub fn new(shards: Shards, mut settings: QuerySettings) -> QueryService {
        if settings.samples_max == 0 {
            settings.samples_max = usize::MAX;
        }
        let admission = Admission::new(settings.concurrency);
        let pool = MemoryPool::new(settings.memory.total_bytes_max);
        let (stats, observer) = (Arc::default(), OnceLock::new());
        let listings = Semaphore::new(LISTINGS_MAX);
        QueryService { gatherer: Gatherer::new(shards), settings, admission, listings, pool, stats, observer }
    }

    /// Has the observer told of every query from now on. The first one stays.
    pub fn observe(&self, observer: Arc<dyn QueryObserver>) {
        let _ = self.observer.set(observer);
    }

    pub fn settings(&self) -> &QuerySettings {
        &self.settings
    }

    pub fn stats(&self) -> &QueryStats {
        &self.stats
    }

    /// Memory of all queries together.
    pub fn memory(&self) -> &MemoryPool {
        &self.pool
    }

    /// Whether questions can be answered in full: the logs of the last run have been read.
    pub fn is_ready(&self) -> bool {
        self.gatherer.is_ready()
    }

    /// An error with the reason if questions cannot be answered in full yet.
    pub fn check_ready(&self) -> Result<(), QueryError> {
        self.gatherer.check_ready()
    }

    pub(crate) fn budget_limits(&self, deadline: Instant) -> BudgetLimits {
        BudgetLimits {
            samples_max: self.settings.samples_max as u64,
            bytes_max: self.settings.memory.query_bytes_max,
            deadline: Some(deadline),
        }
    }

    /// Evaluates an expression at one time.
    pub async fn instant(&self, expr: &str, at: Timestamp, options: &QueryOptions) -> Result<QueryAnswer, QueryError> {
        self.run(expr, Plan::instant(expr, at.0, &options.plan)?, options).await
    }

    /// Evaluates an expression from `start` to `end`, every `step_ms` milliseconds.
    pub async fn range(
        &self,
        expr: &str,
        (start, end): (Timestamp, Timestamp),
        step_ms: i64,
        options: &QueryOptions,
    ) -> Result<QueryAnswer, QueryError> {
        self.run(expr, Plan::range(expr, start.0, end.0, step_ms, &options.plan)?, options).await
    }

    async fn run(&self, expr: &str, plan: Plan, options: &QueryOptions) -> Result<QueryAnswer, QueryError> {
        let plans = vec![(expr.to_owned(), Arc::new(plan))];
        self.run_all(plans, options).await?.pop().expect("one plan, one answer")
    }

    /// Evaluates expressions of rules at one time. What they aggregate is read together; where that fails as a whole, each
    /// is evaluated alone, so that one that takes too long harms no other.
    pub async fn instant_many(
        &self,
        exprs: &[&str],
        at: Timestamp,
        inner_step: Duration,
        caller: Option<Arc<Caller>>,
    ) -> Vec<Result<QueryAnswer, QueryError>> {
        let plan = PlanOptions { inner_step, ..self.settings.plan };
        let options = QueryOptions { plan, timeout: self.settings.timeout, origin: Origin::Rules, caller };
        let plan_of = |expr: &&str| match Plan::instant(expr, at.0, &options.plan) {
            Ok(plan) => Ok(((*expr).to_owned(), Arc::new(plan))),
            Err(error) => Err(QueryError::from(error)),
        };
        let plans: Vec<Result<(String, Arc<Plan>), QueryError>> = exprs.iter().map(plan_of).collect();
        let valid = plans.iter().filter_map(|plan| plan.as_ref().ok()).cloned().collect();
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

    /// Label sets of series.
    pub async fn series(&self, request: LabelRequest) -> Result<SeriesLabels, QueryError> {
        let read = async |task: &_| {
            let _place = self.listings.acquire().await;
            self.gatherer.label_sets(task, request).await
        };
        let found = self.within_timeout("series", read).await?;
        let (sets, is_truncated) = (found.entries, found.is_truncated);
        Ok(SeriesLabels { sets, is_truncated, charge: found.charge })
    }

    /// Names of labels.
    pub async fn label_names(&self, request: LabelRequest) -> Result<LabelTexts, QueryError> {
        self.label_texts("label names", request, LabelsWanted::Names).await
    }

    /// Values of the label `name`.
    pub async fn label_values(&self, name: &str, request: LabelRequest) -> Result<LabelTexts, QueryError> {
        self.label_texts("label values", request, LabelsWanted::Values(name.to_owned())).await
    }

    async fn label_texts(
        &self,
        text: &str,
        request: LabelRequest,
        wanted: LabelsWanted,
    ) -> Result<LabelTexts, QueryError> {
        let read = async |task: &_| self.gatherer.label_texts(task, request, wanted).await;
        let found = self.within_timeout(text, read).await?;
        let (texts, is_truncated) = (found.entries, found.is_truncated);
        Ok(LabelTexts { texts, is_truncated, charge: found.charge })
    }

    /// Samples as they are stored.
    pub async fn select_raw(&self, request: SelectRequest) -> Result<RawSeries, QueryError> {
        let SelectRequest { matchers, from, to, samples_max } = request;
        let bounds = ReadBounds { samples_max, ..ReadBounds::default() };
        let read = async |task: &_| self.gatherer.range(task, matchers, (from, to), bounds).await;
        let gathered = self.within_timeout("stored samples", read).await?;
        let Gathered { series, charge } = gathered.expect("bytes are not bounded");
        Ok(RawSeries { series, charge })
    }

    /// Newest samples as text.
    pub async fn federate(&self, request: FederateRequest) -> Result<Federation, QueryError> {
        let deadline = Instant::now() + self.settings.timeout;
        self.gatherer.federate(self.task("federation", deadline), request).await
    }

    /// Reads with a budget of its own. The budget is cancelled when the time is over, or when the caller leaves.
    async fn within_timeout<T>(
        &self,
        text: &str,
        read: impl AsyncFnOnce(&crate::task::QueryTask) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        self.check_ready()?;
        let task = self.task(text, Instant::now() + self.settings.timeout);
        let _cancel = task.budget.cancel_on_drop();
        match tokio::time::timeout(self.settings.timeout, read(&task)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(promql::EvalError::Timeout.into()),
        }
    }
}
