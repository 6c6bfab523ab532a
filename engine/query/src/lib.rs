//! The one service that every read of stored samples goes through.
//!
//! The API, the rules, remote read and federation ask [`QueryService`] and nothing else, so that its limits hold for all
//! of them together. It admits a query, reads what the plan selects from shards, chunk files and blocks, and evaluates.
//! Knows no HTTP, no JSON, no rules and no configuration files.

mod admission;
mod error;
mod federate;
mod gather;
mod run;
mod service;

pub use error::QueryError;
pub use federate::{Federation, StreamError};
pub use run::{QueryAnswer, QueryOptions, Timings};
pub use service::{LabelRequest, QueryService, QuerySettings, SelectRequest};
