//! Discovery sources. Each is a task that sends complete lists of target groups. The last valid list stays in use
//! while the source fails; its error is reported beside the list.
//!
//! Invariants:
//!   * a list is replaced only by a complete list; an error replaces nothing
//!   * a list of more than [`TARGETS_MAX`] targets is an error
//!   * after a failure, a source is tried again after a pause that grows up to its refresh interval

mod attempts;
mod bounded;
mod consul;
mod dns;
mod docker;
mod file;
mod http;
mod kubernetes;
mod list;
mod list_cache;
mod polled;
mod zookeeper;

pub use attempts::{Attempts, BOUNDS_SECONDS, LastAttempt};
pub use list::ListReader;

use list_cache::ListCache;

use config::{Discovery, TargetGroup};
use series::Labels;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use xxhash_rust::xxh64::xxh64;

/// Number of targets of one source.
pub const TARGETS_MAX: usize = 500_000;
/// Capacity of the channel of updates to the manager.
pub const UPDATES_MAX: usize = 64;
/// First pause after a failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Bounds of the time for an answer: the refresh interval, as in Prometheus, within these.
const ANSWER_WITHIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Options of all sources.
#[derive(Clone, Debug, Default)]
pub struct SdOptions {
    /// Folder for cached lists. `None`: after a restart there are no targets until the sources respond.
    pub keep_in: Option<PathBuf>,
    /// DNS servers to use instead of those of /etc/resolv.conf.
    pub dns_servers: Vec<SocketAddr>,
}

/// Shared by all sources: the options, and the cache of lists. Cloning copies pointers.
#[derive(Clone, Default)]
pub struct DiscoveryContext {
    options: Arc<SdOptions>,
    keeper: ListCache,
}

impl DiscoveryContext {
    /// Starts the cache of lists, with a task of the runtime.
    pub fn start(options: SdOptions) -> DiscoveryContext {
        DiscoveryContext { keeper: ListCache::start(options.keep_in.clone()), options: Arc::new(options) }
    }
}

/// All groups of a source.
pub type List = Arc<Vec<Arc<Group>>>;

/// A target group: discovered addresses with common labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Labels of each address; they contain `__address__`.
    pub targets: Vec<Labels>,
    pub labels: Labels,
}

impl Group {
    /// Returns the group of a file or configuration.
    fn stated(group: &TargetGroup, labels: Labels) -> Group {
        let target = |address: &String| Labels::from_pairs([("__address__", address.as_str())]);
        Group { targets: group.targets.iter().map(target).collect(), labels }
    }
}

/// Current state of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiscoveryState {
    /// The last valid list.
    pub groups: List,
    /// Current errors.
    pub errors: Vec<String>,
    /// Number of failed attempts.
    pub failures_total: u64,
    /// Since when each attempt has failed; `None` if the last one was good.
    pub failing_since: Option<SystemTime>,
    /// Attempts to get the list: refreshes, look-ups or calls.
    pub attempts: Attempts,
    /// The same by kind of call; Consul only.
    pub calls: BTreeMap<&'static str, Attempts>,
    /// Number of attempts that found the list unchanged.
    pub unchanged_total: u64,
    /// Number of answers that were kept from an earlier attempt.
    pub cache_hits_total: u64,
    /// Events of objects, by event and role; Kubernetes only.
    pub events: BTreeMap<(&'static str, &'static str), u64>,
    /// When each file in use was modified last; files only.
    pub modified: BTreeMap<Arc<str>, SystemTime>,
    /// Number of errors of the watch of files.
    pub watch_errors_total: u64,
}

/// Identity of a source within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(pub u64);

/// An update of a source.
pub struct Update {
    pub source: SourceId,
    pub found: DiscoveryState,
}

/// A running source. It ends when this is dropped.
pub struct Source {
    pub id: SourceId,
    pub discovery: Discovery,
    pub found: DiscoveryState,
    task: Option<JoinHandle<()>>,
}

impl Source {
    /// Starts the source. Targets that are available without waiting are in `found` at once.
    pub async fn start(
        id: SourceId,
        discovery: &Discovery,
        updates: mpsc::Sender<Update>,
        sd: &DiscoveryContext,
    ) -> Source {
        let DiscoveryContext { options, keeper } = sd;
        let asks = matches!(
            discovery,
            Discovery::Http(_)
                | Discovery::Dns(_)
                | Discovery::Consul(_)
                | Discovery::Kubernetes(_)
                | Discovery::Docker(_)
                | Discovery::Mechanism(_)
        );
        let found = match discovery {
            Discovery::Static(groups) => {
                let groups = groups.iter().map(|group| Arc::new(Group::stated(group, group.labels.clone()))).collect();
                DiscoveryState { groups: Arc::new(groups), ..DiscoveryState::default() }
            }
            _ if asks => keeper.read(discovery).await,
            _ => DiscoveryState::default(),
        };
        let report = Reporter {
            source: id,
            kind: discovery.kind(),
            updates: updates.clone(),
            found: found.clone(),
            failures_in_row: 0,
            keep: keeper.clone(),
            discovery: discovery.clone(),
        };
        let task = match discovery {
            Discovery::File(settings) => {
                let mut files = file::Files::new(settings.clone());
                let found = files.read().await;
                let task = Some(tokio::spawn(files.follow(id, updates)));
                return Source { id, discovery: discovery.clone(), found, task };
            }
            Discovery::Http(settings) => Some(tokio::spawn(http::follow(settings.clone(), report))),
            Discovery::Dns(settings) => {
                Some(tokio::spawn(dns::follow(settings.clone(), options.dns_servers.clone(), report)))
            }
            Discovery::Consul(settings) => Some(tokio::spawn(consul::follow(settings.clone(), report))),
            Discovery::Kubernetes(settings) => Some(tokio::spawn(kubernetes::follow(settings.clone(), report))),
            Discovery::Docker(settings) => Some(tokio::spawn(docker::follow(settings.clone(), report))),
            Discovery::Mechanism(settings) if matches!(settings.kind, "nerve" | "serverset") => {
                Some(tokio::spawn(zookeeper::follow(settings.clone(), report)))
            }
            Discovery::Mechanism(settings) => Some(tokio::spawn(polled::follow(settings.clone(), report))),
            Discovery::Static(_) => None,
        };
        Source { id, discovery: discovery.clone(), found, task }
    }

    /// Returns the name of the mechanism in metrics: that of the role for `aws`.
    pub fn mechanism(&self) -> &'static str {
        match &self.discovery {
            Discovery::Mechanism(settings) => settings.mechanism(),
            other => other.kind(),
        }
    }

    /// Returns whether the source has given up, because of settings that cannot work.
    pub fn has_ended(&self) -> bool {
        self.task.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Returns whether the first list of the source is not available at the start.
    pub fn answers_later(&self) -> bool {
        self.task.is_some() && !matches!(self.discovery, Discovery::File(_))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Reports lists and errors of a source.
pub struct Reporter {
    source: SourceId,
    kind: &'static str,
    updates: mpsc::Sender<Update>,
    found: DiscoveryState,
    failures_in_row: u32,
    keep: ListCache,
    discovery: Discovery,
}

/// The receiver was dropped, so the source ends.
pub struct ReceiverClosed;

impl Reporter {
    /// Returns the list in use. At the start it is the cached one.
    pub fn groups(&self) -> List {
        self.found.groups.clone()
    }

    /// Counts an attempt and its duration.
    pub fn attempted(&mut self, since: Instant) {
        self.found.attempts.add(since);
    }

    /// Counts an attempt that is one kind of call.
    pub fn called(&mut self, call: &'static str, since: Instant) {
        self.attempted(since);
        self.found.calls.entry(call).or_default().add(since);
    }

    /// Counts requests of an attempt.
    pub fn count_requests(&mut self, count: u64) {
        self.found.attempts.add_requests(count);
    }

    /// Counts answers that were kept from an earlier attempt.
    pub fn count_cache_hits(&mut self, count: u64) {
        self.found.cache_hits_total += count;
    }

    /// Counts an event of an object.
    pub fn event(&mut self, event: &'static str, role: &'static str) {
        *self.found.events.entry((event, role)).or_default() += 1;
    }

    /// Counts a failure that [`Reporter::good`] or [`Reporter::failed`] will report.
    pub fn count_failure(&mut self) {
        self.found.failures_total += 1;
    }

    /// Reports a complete new list, and errors beside it.
    pub async fn good(&mut self, groups: Vec<Arc<Group>>, errors: Vec<String>) -> Result<(), ReceiverClosed> {
        let count: usize = groups.iter().map(|group| group.targets.len()).sum();
        if count > TARGETS_MAX {
            return self.failed(list::too_many(count)).await;
        }
        if errors.is_empty() {
            self.failures_in_row = 0;
            self.found.failing_since = None;
        } else {
            self.found.failing_since.get_or_insert_with(SystemTime::now);
        }
        if *self.found.groups != groups {
            self.found.groups = Arc::new(groups);
            self.keep.write(&self.discovery, self.found.groups.clone());
        }
        self.found.errors = errors;
        self.send().await
    }

    /// Reports that the list is unchanged.
    pub async fn unchanged(&mut self) -> Result<(), ReceiverClosed> {
        self.failures_in_row = 0;
        self.found.unchanged_total += 1;
        self.found.failing_since = None;
        self.found.errors.clear();
        self.send().await
    }

    /// Reports a failure. The last list stays in use.
    pub async fn failed(&mut self, error: String) -> Result<(), ReceiverClosed> {
        self.failures_in_row += 1;
        self.found.failures_total += 1;
        let kept = if self.found.groups.is_empty() { "" } else { "; its last good list is in use" };
        let error = format!("{}: {error}{kept}", self.kind);
        if self.found.errors.first() != Some(&error) {
            tracing::warn!(error, "discovery failed");
        }
        self.found.errors = vec![error];
        self.found.failing_since.get_or_insert_with(SystemTime::now);
        self.send().await
    }

    async fn send(&self) -> Result<(), ReceiverClosed> {
        let update = Update { source: self.source, found: self.found.clone() };
        self.updates.send(update).await.map_err(|_| ReceiverClosed)
    }

    /// Waits until the next refresh.
    pub async fn pause(&self, interval: Duration) {
        tokio::time::sleep(pause(self.failures_in_row, interval, random())).await;
    }
}

/// Returns the time for an answer of a service that is asked at this interval.
fn answer_within(interval: Duration) -> Duration {
    interval.clamp(ANSWER_WITHIN.0, ANSWER_WITHIN.1)
}

/// Returns the pause before the next refresh: up to a tenth longer than the interval, shorter after the first failures.
fn pause(failures_in_row: u32, interval: Duration, random: u64) -> Duration {
    let backoff = match failures_in_row {
        0 => interval,
        n => interval.min(RETRY_FIRST * 2u32.saturating_pow(n.min(16) - 1)),
    };
    backoff + backoff.mul_f64((random % 1000) as f64 / 10_000.0)
}

/// Returns a number that differs from call to call and from host to host, for jitter.
fn random() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    xxh64(&since.as_nanos().to_le_bytes(), u64::from(std::process::id()))
}

/// Returns a label name for a text such as the name of a tag or an annotation, as Prometheus does.
fn sanitized(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// Returns `host:port`, with brackets around an IPv6 address.
fn host_port(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_after_failures_up_to_the_interval() {
        let seconds = |failures, random| pause(failures, Duration::from_secs(30), random).as_secs_f64();
        assert_eq!(seconds(0, 0), 30.0);
        assert!((32.9..33.0).contains(&seconds(0, 999)));
        assert_eq!([1, 2, 3, 6, 99].map(|n| seconds(n, 0)), [1.0, 2.0, 4.0, 30.0, 30.0]);
        assert_eq!(pause(3, Duration::from_millis(100), 0), Duration::from_millis(100));
    }

    #[test]
    fn names_and_addresses() {
        assert_eq!(sanitized("app.kubernetes.io/name-é"), "app_kubernetes_io_name__");
        assert_eq!(host_port("::1", 9), "[::1]:9");
        assert_eq!(host_port("h", "x"), "h:x");
    }
}
