//! What rules need of the world.

use notifier::Alert;
use series::{Labels, Matcher, Timestamp};
use template::Sample;

/// Waits until a write can be seen by queries.
pub type Pending = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// Answers queries and takes what rules yield. Its methods may block.
pub trait Host: Send + Sync {
    /// Whether queries can be answered in full: the logs of the last run have been read. Does not block.
    fn is_ready(&self) -> bool;

    /// The elements of a vector; a scalar is one element without labels.
    fn query(&self, expr: &str, at: Timestamp) -> Result<Vec<Sample>, String>;

    /// Writes the rows of one rule at one time. Series of `source` that are not among them end.
    fn write(&self, source: &str, at: Timestamp, rows: Vec<(Labels, f64)>) -> Pending;

    /// The newest sample in `[from, to]` of every series that satisfies the matchers, markers of staleness included.
    fn newest(
        &self,
        matchers: &[Matcher],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Labels, series::Sample)>, String>;

    /// Hands alerts on to who notifies. Never waits.
    fn notify(&self, alerts: Vec<Alert>);
}
