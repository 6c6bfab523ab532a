//! The interface between rules and the system that runs them.

use crate::load::GroupSpec;
use notifier::Alert;
use series::{Labels, Matcher, Timestamp, Value};
use template::Sample;

/// Waits until a write is visible to queries.
pub type PendingWrite = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// Error of an expression that yields a string or a matrix.
pub const NO_VECTOR: &str = "rule result is not a vector or scalar";

/// The elements of an instant vector.
pub type VectorElements = Vec<(Labels, Value)>;

/// Returns the elements as numbers, as alerts and templates use them. A histogram has no number.
pub fn as_numbers(found: VectorElements) -> Vec<Sample> {
    let number = |value| match value {
        Value::Float(value) => value,
        Value::Histogram(_) => 0.0,
    };
    found.into_iter().map(|(labels, value)| Sample { labels, value: number(value) }).collect()
}

/// Executes queries and stores the results of rules. Its methods may block.
pub trait RuleBackend: Send + Sync {
    /// Returns whether queries have complete data, because the logs of the last run were replayed. Does not block.
    fn is_ready(&self) -> bool;

    /// Returns the elements of each of these expressions of a group; a scalar is one element without labels. Expressions of
    /// one call may share work.
    fn query_all(&self, group: &GroupSpec, exprs: &[&str], at: Timestamp) -> Vec<Result<VectorElements, String>>;

    /// Evaluates one expression.
    fn query(&self, group: &GroupSpec, expr: &str, at: Timestamp) -> Result<VectorElements, String> {
        self.query_all(group, &[expr], at).pop().expect("one expression, one answer")
    }

    /// Writes the row of one rule at one time. Series of `source` that are not in it end.
    fn write(&self, source: &str, at: Timestamp, rows: Vec<(Labels, Value)>) -> PendingWrite;

    /// Returns the newest sample in `[from, to]` of every series that satisfies the matchers, staleness markers included.
    fn newest(
        &self,
        matchers: &[Matcher],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Labels, series::Sample)>, String>;

    /// Passes alerts to the notifier. Does not wait.
    fn notify(&self, alerts: Vec<Alert>);
}
