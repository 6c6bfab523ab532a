//! One query under way: its text, its budget, and the threads that work for it.

use crate::error::QueryError;
use crate::isolation::isolated;
use crate::stats::{QueryStats, shortened};
use promql::budget::Budget;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// Of the threads that queries work on.
const NICENESS: i32 = 5;

/// Runs work on a thread that may block. Shards and control threads go first: whatever clients ask for puts neither scrapes
/// nor health off.
pub fn spawn_low_priority<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        // Of this thread alone. Refused only where it does not matter.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        work()
    })
}

/// What every step of a query needs. Cloning copies pointers.
#[derive(Clone, Debug)]
pub(crate) struct QueryTask {
    /// The beginning of the expression, for the log.
    pub text: Arc<str>,
    pub budget: Budget,
    pub stats: Arc<QueryStats>,
}

impl QueryTask {
    pub fn new(text: &str, budget: Budget, stats: Arc<QueryStats>) -> QueryTask {
        QueryTask { text: shortened(text), budget, stats }
    }

    /// How long the query may still take; `otherwise` if it has no deadline.
    pub fn time_left(&self, otherwise: Duration) -> Duration {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.budget.limits().deadline.map_or(otherwise, left)
    }

    /// Runs work on a thread that may block. A panic of it costs this query only.
    pub async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        match spawn_low_priority(move || isolated(work)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(self.report(&panic)),
            Err(error) => Err(QueryError::Internal(format!("the query's thread ended: {error}"))),
        }
    }

    /// One log line about a defect, with what is needed to find it; its number is in the error.
    fn report(&self, panic: &str) -> QueryError {
        QueryStats::add(&self.stats.panics, 1);
        let id = report_id();
        tracing::error!(id, expression = &*self.text, panic, "a query ended by a defect of this program");
        QueryError::Internal(format!("internal error {id}: the query met a defect; see the log"))
    }
}

/// A number that no other report of this process has, and hardly one of another.
fn report_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}-{count}", (nanos / 1_000) as u32)
}
