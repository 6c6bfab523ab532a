//! Discovery of targets, their labels, their placement on shards, and differences between two target sets.

mod build;
mod discovery;
mod fleet;
mod follow;
mod manager;
mod partition;
mod placement;
mod pool;
mod target;

pub use build::{TargetBuild, build};
pub use discovery::{Attempts, BOUNDS_SECONDS, DiscoveryContext, Group, LastAttempt, List, ListReader, SdOptions};
pub use fleet::{FleetHandle, FleetStatus, IDS_MAX, Ids, MemberStatus, about, members, rules};
pub use follow::DiscoveryWatcher;
pub use manager::{
    Manager, ManagerHandle, PoolStats, RefreshStats, SdStats, SourceAnswer, SourceStats, discover_now, pool_now,
};
pub use partition::FleetPartition;
pub use pool::BuildCache;
pub use target::{
    DropReason, DroppedTarget, FailedTarget, OtherTarget, Pool, Scheme, Target, TargetDiff, TargetId, TargetSet,
    TargetUrl, UrlDefect,
};

/// Returns a job with these further lines of YAML.
#[cfg(test)]
fn test_job(name: &str, settings: &str) -> std::sync::Arc<config::ScrapeConfig> {
    let settings: String = settings.lines().map(|line| format!("    {line}\n")).collect();
    let yaml = format!("scrape_configs:\n  - job_name: {name}\n{settings}");
    let config = config::parse_config("prometheus.yml".as_ref(), &yaml, &config::Env::process());
    config.expect("the test's settings are good").scrape_configs[0].clone()
}
