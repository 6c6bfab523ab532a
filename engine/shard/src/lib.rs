//! One core at work: schedule, ingest, staleness, limits, report series.

mod class;
mod core;
mod exemplars;
mod failure_log;
pub mod federate;
mod handle;
mod head_owner;
mod heartbeat;
mod ingest;
mod layouts;
mod log;
pub mod message;
mod native_state;
mod natives;
mod payload;
mod preview;
mod reduce;
mod runtime;
mod sample_features;
mod schedule;
mod select;
mod signal;
mod start_times;
mod status;
mod sys;
mod time_slice;
mod written;

pub use exemplars::{ExemplarStats, ExemplarsRequest, StoredExemplar};
pub use exposition::Exemplar;
pub use failure_log::FailureLog;
pub use federate::{
    Claim, ClaimState, FederateChannel, FederateCommand, FederateReply, FederateRequest, FederateSummary, Lines, Owner,
    Owners,
};
pub use fetch::Reason;
pub use handle::{ANSWER_TIMEOUT, COMMANDS_MAX, ShardError, Shards};
pub use message::{
    Cardinality, Command, InstantAnswer, InstantRequest, LabelsAnswer, LabelsRequest, LabelsWanted, LimitError,
    MetadataRequest, RangeAnswer, RangeRequest, ReduceAnswer, ReduceRequest, TargetMetadata,
};
pub use preview::{Preview, preview};
pub use reduce::SeriesHashes;
pub use runtime::{Options, StartError, default_cpus, probe, start};
pub use sample_features::SampleFeatures;
pub use status::{CoreStats, Failure, Health, InstantSample, LogStats, Metadata, MetadataSize, Missed, TargetStatus};
pub use sys::{Limit, raise_open_files};
pub use time_slice::CoreTask;
pub use written::{
    PushedSeries, ReceiveOutcome, ReceiveRequest, Refusal, RejectedSamples, WriteError, WriteOutcome, WriteRowsRequest,
};

/// A job with these further lines of YAML.
#[cfg(test)]
fn test_job(settings: &str) -> std::sync::Arc<config::ScrapeConfig> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    let settings: String = settings.lines().map(|line| format!("    {line}\n")).collect();
    std::fs::write(&file, format!("scrape_configs:\n  - job_name: j\n{settings}")).unwrap();
    config::load(&file, &config::Env::process()).unwrap().scrape_configs[0].clone()
}
