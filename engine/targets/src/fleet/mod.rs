//! A part of the targets for each member of a fleet.

mod members;
mod peers;
mod service;

pub use members::{members, rules};
pub use peers::{About, IDS_MAX, Ids};
pub use service::{FleetHandle, FleetStatus, about};
