//! HTTP API v1, federation and the web pages.
//!
//! Asks the cores by messages and shows what they answer; knows nothing of how a core works.

mod alerting;
mod answer;
mod discovery;
mod federate;
mod fleet;
mod manage;
mod metrics;
mod pages;
mod params;
mod query;
mod remote;
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
pub use query::{Queries, QuerySettings};
pub use remote::RemoteSettings;
pub use security::Security;
pub use serve::{Surface, federation_router, router, serve};
pub use state::{Parts, ReloadRequest, Running, State};
