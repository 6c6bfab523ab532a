//! A target: what to fetch, how often, and the labels of its samples.

use config::ScrapeConfig;
use series::Labels;
use std::sync::Arc;
use std::time::Duration;

/// Identity of a target across reloads and restarts: XXH64 of its job, its labels and its URL.
///
/// Interval, timeout and limits are not part of it, so a change of those keeps the target, its phase and its parse
/// state. In Prometheus a changed interval makes a new target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetId(pub u64);

/// A target after relabelling. It is shared read-only by the control plane and the shard that owns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub id: TargetId,
    /// Settings of the job, shared by all its targets.
    pub job: Arc<ScrapeConfig>,
    /// Labels of every sample: those after relabelling, without names that begin with `__`.
    pub labels: Labels,
    /// Labels before relabelling: `discoveredLabels` of the API.
    pub discovered: Labels,
    pub url: TargetUrl,
    /// Value of `__scrape_interval__`, by default the interval of the job.
    pub interval: Duration,
    /// Value of `__scrape_timeout__`, never longer than `interval`.
    pub timeout: Duration,
    /// Values of `__scrape_native_histograms__`, `__always_scrape_classic_histograms__` and
    /// `__convert_classic_histograms_to_nhcb__`, by default those of the job.
    pub scrape_native_histograms: bool,
    pub always_scrape_classic_histograms: bool,
    pub convert_classic_histograms_to_nhcb: bool,
    /// Why the target must not be scraped (`target_limit exceeded …`). It is down with this error.
    pub forced_error: Option<Arc<str>>,
}

/// The URL of a scrape, in parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetUrl {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host name or IP address; an IPv6 address has no brackets.
    pub host: String,
    pub port: u16,
    /// Value of the `Host` header: `__address__` as it is written.
    pub authority: String,
    /// Path and query as they are written: the path may be empty, and begins with `/` otherwise.
    pub path_and_query: String,
    /// Why it cannot be requested, if it cannot.
    pub defect: Option<Arc<UrlDefect>>,
}

/// What makes a URL useless. Such a target is down with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UrlDefect {
    /// The scheme as it is written.
    pub scheme: String,
    /// The text for `lastError`, in the words of Go's client.
    pub error: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl std::fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match (&self.defect, self.scheme) {
            (Some(defect), _) => defect.scheme.as_str(),
            (None, Scheme::Http) => "http",
            (None, Scheme::Https) => "https",
        };
        let colon = if scheme.is_empty() { "" } else { ":" };
        write!(f, "{scheme}{colon}//")?;
        // As Go writes a host: these are escaped in it.
        for part in self.authority.split_inclusive(['%', '@', ' ']) {
            match part.char_indices().next_back() {
                Some((at, last @ ('%' | '@' | ' '))) => write!(f, "{}%{:02X}", &part[..at], last as u32)?,
                _ => f.write_str(part)?,
            }
        }
        f.write_str(&self.path_and_query)
    }
}

/// All targets of one job, by the last valid lists of its sources and its relabelling rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub job: Arc<ScrapeConfig>,
    pub active: Vec<Arc<Target>>,
    /// Number of discovered addresses.
    pub discovered_count: usize,
    /// Discovered addresses that became no target, at most `keep_dropped_targets` of them.
    pub dropped: Vec<DroppedTarget>,
    /// Number of addresses that relabelling dropped.
    pub dropped_count: usize,
    /// Number of addresses that were the same target as another one.
    pub duplicates_count: usize,
    /// Active targets that other members own, in a handover until those have scraped them.
    pub leaving: Vec<Leaving>,
    /// Addresses of other members, at most `keep_dropped_targets` and a thousand of them.
    pub others: Vec<OtherTarget>,
    /// Number of targets of other members. Addresses that are skipped before relabelling are counted as targets.
    pub others_count: usize,
    /// Discovered targets that cannot be scraped, with the reason (`no address`, …).
    pub failed: Vec<FailedTarget>,
    /// Current errors of the job's sources (an unreadable file …). The last valid list is in use.
    pub source_errors: Vec<String>,
}

impl Pool {
    /// Returns the pool of a job before its first list.
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

/// A target in a handover to other members.
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

/// Why a discovered address became no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// A relabelling rule dropped it.
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

/// A discovered target that cannot be scraped.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedTarget {
    pub discovered: Labels,
    pub error: String,
}

/// The pools of all jobs, sorted by job name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TargetSet {
    pub pools: Vec<Arc<Pool>>,
}

/// Changes for one shard. Targets in none of the lists stay as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetDiff {
    pub add: Vec<Arc<Target>>,
    /// Same id, other settings: phase and parse state stay.
    pub update: Vec<Arc<Target>>,
    pub remove: Vec<TargetId>,
    /// Targets that another member scrapes now: they end here without staleness markers.
    pub moved: Vec<TargetId>,
}

impl TargetDiff {
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.update.is_empty() && self.remove.is_empty() && self.moved.is_empty()
    }
}
