//! Which member of a fleet scrapes a target, which targets a change of members moves, and whether external labels are unique.
//!
//! Pure functions: no clock, no sockets, no configuration. Two members with the same list compute the same result, on any
//! machine.
//!
//! Invariants:
//!   * as long as there is a member, every target has an owner
//!   * without a bound of load, a joining member receives targets and nothing else moves; a leaving member is the
//!     mirror (decision 020)

mod plan;
mod unique;
mod view;

pub use plan::{Load, Move, Plan, plan};
pub use unique::{Identity, LabelProblem, check};
pub use view::{MEMBERS_MAX, Member, Mode, Problem, Rules, View, key_of};
