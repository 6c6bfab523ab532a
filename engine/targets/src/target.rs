//! One target: what to fetch, how often, and the labels its samples carry.

use config::ScrapeConfig;
use series::Labels;
use std::sync::Arc;
use std::time::Duration;

/// Who a target is, across reloads and restarts: XXH64 of its job, its labels and its URL.
///
/// Interval, timeout and limits are not part of it, so a change of those keeps the target, its phase and its parse
/// state (Prometheus makes a new target of a changed interval).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetId(pub u64);

/// A target after relabelling. Shared read-only by the control plane and the core that owns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub id: TargetId,
    /// The job's settings; every target of the job points at the same ones.
    pub job: Arc<ScrapeConfig>,
    /// Labels put on every sample: those after relabelling without the ones that begin with `__`.
    pub labels: Labels,
    /// Labels as discovered, before relabelling: what the UI shows as `discoveredLabels`.
    pub discovered: Labels,
    pub url: TargetUrl,
    /// From `__scrape_interval__`, by default the job's.
    pub interval: Duration,
    /// From `__scrape_timeout__`; never longer than `interval`.
    pub timeout: Duration,
    /// Set when the target must not be scraped and why (`target_limit exceeded …`): it is down with this error.
    pub forced_error: Option<Arc<str>>,
}

/// Where a scrape goes, taken apart for the core that fetches it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetUrl {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host name or IP address, an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// What the `Host` header says: `__address__` as it was written.
    pub authority: String,
    /// Path and query, beginning with `/`.
    pub path_and_query: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl std::fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority, self.path_and_query)
    }
}

/// All targets of one job, as the last good discovery and the relabelling rules made them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub job: Arc<ScrapeConfig>,
    pub active: Vec<Arc<Target>>,
    /// How many addresses discovery has found.
    pub discovered_count: usize,
    /// Discovered addresses that became no target, at most `keep_dropped_targets` of them.
    pub dropped: Vec<DroppedTarget>,
    /// How many relabelling dropped, kept or not.
    pub dropped_count: usize,
    /// How many were the same target as another.
    pub duplicates_count: usize,
    /// Active targets that belong to other members of the fleet and stay until those have scraped them.
    pub leaving: Vec<Leaving>,
    /// Addresses of other members, at most `keep_dropped_targets` and a thousand of them.
    pub others: Vec<OtherTarget>,
    /// How many targets other members have. Those that are left out before relabelling count as addresses.
    pub others_count: usize,
    /// Discovered targets that cannot be scraped, with the reason (`no address`, …).
    pub failed: Vec<FailedTarget>,
    /// What is wrong with the job's sources at the moment (an unreadable file …); the last good list is in use.
    pub source_errors: Vec<String>,
}

impl Pool {
    /// A job's pool before anything is known.
    pub fn empty(job: &Arc<ScrapeConfig>) -> Pool {
        Pool {
            job: job.clone(),
            active: Vec::new(),
            discovered_count: 0,
            dropped: Vec::new(),
            dropped_count: 0,
            duplicates_count: 0,
            leaving: Vec::new(),
            others: Vec::new(),
            others_count: 0,
            failed: Vec::new(),
            source_errors: Vec::new(),
        }
    }
}

/// A target on its way to other members.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaving {
    pub id: TargetId,
    /// Names of its owners.
    pub to: Vec<String>,
}

/// An address that other members scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherTarget {
    pub discovered: Labels,
    /// Names of its owners.
    pub owners: Vec<String>,
}

/// A discovered address that became no target.
#[derive(Clone, Debug, PartialEq)]
pub struct DroppedTarget {
    pub discovered: Labels,
    pub reason: DropReason,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// A rule said so.
    Relabelling,
    /// Another address of the job is the same target.
    Duplicate,
}

impl DropReason {
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::Relabelling => "relabelling",
            DropReason::Duplicate => "duplicate",
        }
    }
}

/// A discovered target that is none.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedTarget {
    pub discovered: Labels,
    pub error: String,
}

/// Every pool, sorted by job name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TargetSet {
    pub pools: Vec<Arc<Pool>>,
}

/// What one core has to change. Targets in none of the lists go on untouched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetDiff {
    pub add: Vec<Arc<Target>>,
    /// Same id, other settings: phase and parse state stay.
    pub update: Vec<Arc<Target>>,
    pub remove: Vec<TargetId>,
    /// Those that another member of the fleet scrapes now: they end here without markers.
    pub moved: Vec<TargetId>,
}

impl TargetDiff {
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.update.is_empty() && self.remove.is_empty() && self.moved.is_empty()
    }
}
