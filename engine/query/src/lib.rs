//! The one service that every read of stored samples goes through.
//!
//! The API, the rules, remote read and federation send their queries to [`QueryService`] and nowhere else, so that its
//! limits hold for all of them together. It admits a query, reads what the plan selects from shards, chunk files and
//! blocks, and evaluates. Knows no HTTP, no JSON, no rules and no configuration files.

mod admission;
mod batches;
mod error;
mod federate;
mod gather;
pub mod isolation;
mod memory;
mod observer;
mod request;
mod run;
mod service;
pub mod stats;
mod task;

pub use admission::Origin;
pub use error::QueryError;
pub use federate::{FederatedHistogram, Federation, StreamError};
pub use memory::MemoryBounds;
pub use observer::{QueryObserver, QueryReport};
pub use request::{
    Caller, LabelRequest, LabelTexts, QueryAnswer, QueryCost, QueryOptions, RawSeries, SelectRequest, SeriesLabels,
    Timings,
};
pub use service::{QueryService, QuerySettings};
pub use task::spawn_low_priority;
