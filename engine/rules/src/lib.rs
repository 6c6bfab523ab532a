//! Recording and alerting rules: from rule files to recorded rows and alerts, and the unit tests of both.
//!
//! This crate knows no shard, no socket and no clock but the timer of [`Manager`]. A [`RuleBackend`] executes queries and
//! stores results. There are two: the server, and the runner of unit tests.
//!
//! Invariants:
//!   * rule files are applied as a whole or not at all; errors have file and line
//!   * a rule that fails affects no other: it is unhealthy with Prometheus' message, and its series stay as they are
//!   * a rule of a group sees what earlier rules of the group wrote
//!   * the time for which an alert is pending or firing is counted by evaluations, so that a jump of the clock neither
//!     fires nor resolves it

mod alert;
mod group;
mod host;
mod load;
mod manager;
mod options;
mod order;
mod rule;
mod schedule;
mod snapshot;
mod stats;
pub mod unit;

pub use alert::AlertState;
pub use group::Group;
pub use host::{NO_VECTOR, PendingWrite, RuleBackend, VectorElements};
pub use load::{Duplicate, GroupSpec, Settings, compile, duplicates, load};
pub use manager::Manager;
pub use options::{ConcurrencyLimit, Options};
pub use rule::Rule;
pub use snapshot::{AlertView, Evaluation, GroupView, Health, RuleKind, RuleView, Snapshot};
pub use stats::{Counters, Timings};
pub use template::Sample;
