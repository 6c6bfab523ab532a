//! One core at work: schedule, fetch, ingest, staleness, limits, report series.

mod handle;
mod status;

pub use handle::{
    ANSWER_TIMEOUT, AskError, COMMANDS_MAX, Command, InstantRequest, LimitError, MetadataRequest, Shards,
    TargetMetadata,
};
pub use status::{CoreStats, Health, InstantSample, Metadata, Missed, Reason, TargetStatus};
