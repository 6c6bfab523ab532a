//! Who is to be scraped: discovery, target labels, placement on cores, and the diff between two such answers.

mod build;
mod discovery;
mod fleet;
mod follow;
mod manager;
mod partition;
mod placement;
mod pool;
mod target;

pub use build::{Built, build};
pub use discovery::{Group, List, ListReader, Sd, SdOptions};
pub use fleet::{About, FleetHandle, FleetStatus, IDS_MAX, Ids, about, members, rules};
pub use follow::Follow;
pub use manager::{Manager, ManagerHandle, SdStats, pool_now};
pub use partition::Division;
pub use pool::BuildCache;
pub use target::{
    DropReason, DroppedTarget, FailedTarget, OtherTarget, Pool, Scheme, Target, TargetDiff, TargetId, TargetSet,
    TargetUrl,
};

/// A job with these further lines of YAML.
#[cfg(test)]
fn test_job(name: &str, settings: &str) -> std::sync::Arc<config::ScrapeConfig> {
    let settings: String = settings.lines().map(|line| format!("    {line}\n")).collect();
    let yaml = format!("scrape_configs:\n  - job_name: {name}\n{settings}");
    let config = config::parse_config("prometheus.yml".as_ref(), &yaml, &config::Env::process());
    config.expect("the test's settings are good").scrape_configs[0].clone()
}
