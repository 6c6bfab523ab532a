//! Which member of a fleet scrapes a target, what a change of members moves, and whether members can be told apart.
//!
//! Pure: no clock, no sockets, no configuration. Two members that hand in the same list get the same answers, on any
//! machine.
//!
//! Invariants:
//!   * as long as there is a member, every target has an owner
//!   * without a bound of load, a member that joins takes targets and no other change happens; one that leaves is the
//!     mirror (decision 020)

mod plan;
mod unique;
mod view;

pub use plan::{Load, Move, Plan, plan};
pub use unique::{Finding, Identity, check};
pub use view::{MEMBERS_MAX, Member, Mode, Problem, Rules, View, key_of};
