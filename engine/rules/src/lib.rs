//! Recording and alerting rules: from rule files to recorded rows and alerts, and the unit tests of both.
//!
//! Knows no core, no socket and no clock but the timer of [`Manager`]: whoever runs rules hands in a [`Host`] that
//! answers queries and takes what the rules yield. There are two, the server and the runner of unit tests.
//!
//! Invariants:
//!   * rule files are taken over as a whole or not at all; what is wrong is told with file and line
//!   * a rule that fails harms no other: it is unhealthy with Prometheus' message, and its series stay as they are
//!   * of the rules of a group the later sees what the earlier wrote
//!   * how long an alert has been pending or firing is counted by evaluations, so that a clock that jumps neither
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
pub use host::{Found, Host, NO_VECTOR, Pending};
pub use load::{Duplicate, GroupSpec, Settings, compile, duplicates, load};
pub use manager::Manager;
pub use options::{Options, Places};
pub use rule::Rule;
pub use snapshot::{AlertView, GroupView, Health, RuleKind, RuleView, Snapshot};
pub use stats::{Counters, Timings};
pub use template::Sample;
