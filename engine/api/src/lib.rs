//! HTTP API v1, federation and the web pages.
//!
//! Asks the cores by messages and shows what they answer; knows nothing of how a core works.

mod alerting;
mod answer;
mod discovery;
mod federate;
mod federation_stats;
mod fleet;
mod json;
mod manage;
mod metrics;
mod pages;
mod params;
mod query;
mod read_params;
mod remote;
mod remote_state;
mod remote_write;
mod rule_groups;
mod rule_pages;
mod security;
mod serve;
mod stall;
mod state;
mod storage;
mod v1;

pub use answer::rfc3339;
pub use remote_state::RemoteSettings;
pub use security::Security;
pub use serve::{Surface, federation_router, router, serve};
pub use state::{Parts, ReloadRequest, Running, State};
