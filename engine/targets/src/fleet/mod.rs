//! The fleet service: follows the members, divides targets, hands them over.

mod members;
mod peers;
mod service;

pub use members::{members, rules};
pub use peers::{IDS_MAX, Ids, MemberStatus};
pub use service::{FleetHandle, FleetStatus, about};
