//! HTTP API v1, federation and the web pages.
//!
//! Asks the cores by messages and shows what they answer; knows nothing of how a core works.

mod active_notifications;
mod agent;
mod alerting;
mod answer;
mod block_list;
mod config_file;
mod discovery;
mod exemplars;
mod features;
mod federate;
mod federation_stats;
mod fleet;
mod http;
mod json;
mod lifecycle;
mod metrics_writer;
mod notifications;
mod otlp;
mod params;
mod pieces;
mod query;
mod query_log;
mod read_params;
mod remote;
mod remote_state;
mod remote_write;
mod routes;
mod rule_groups;
mod security;
mod self_history;
mod shipper;
mod state;
mod storage;
mod target_list;
mod telemetry;
mod ui;
mod v1;

pub use ::remote::otlp::DeltaHandling;
pub use answer::rfc3339;
pub use http::{ConnectionLimits, ListenerRole, Server, bind};
pub use query_log::QueryLog;
pub use remote_state::RemoteSettings;
pub use routes::{federation_router, router, server};
pub use security::Security;
pub use state::{ActiveConfig, Parts, ReloadRequest, State};
