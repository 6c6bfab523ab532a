//! What rules need of the world.

use notifier::Alert;
use series::{Labels, Matcher, Timestamp, Value};
use template::Sample;

/// Waits until a write can be seen by queries.
pub type Pending = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// The error of an expression that yields a string or a matrix.
pub const NO_VECTOR: &str = "rule result is not a vector or scalar";

/// The elements of a vector.
pub type Found = Vec<(Labels, Value)>;

/// Elements as alerts and templates know them, where a histogram is nothing but there.
pub fn as_numbers(found: Found) -> Vec<Sample> {
    let number = |value| match value {
        Value::Float(value) => value,
        Value::Histogram(_) => 0.0,
    };
    found.into_iter().map(|(labels, value)| Sample { labels, value: number(value) }).collect()
}

/// Answers queries and takes what rules yield. Its methods may block.
pub trait Host: Send + Sync {
    /// Whether queries can be answered in full: the logs of the last run have been read. Does not block.
    fn is_ready(&self) -> bool;

    /// What each of these expressions yields: the elements of a vector; a scalar is one element without labels. Those
    /// that are asked together may share their work.
    fn query_all(&self, exprs: &[&str], at: Timestamp) -> Vec<Result<Found, String>>;

    /// The same for one.
    fn query(&self, expr: &str, at: Timestamp) -> Result<Found, String> {
        self.query_all(&[expr], at).pop().expect("one expression, one answer")
    }

    /// Writes the rows of one rule at one time. Series of `source` that are not among them end.
    fn write(&self, source: &str, at: Timestamp, rows: Vec<(Labels, Value)>) -> Pending;

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
