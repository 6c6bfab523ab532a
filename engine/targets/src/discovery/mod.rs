//! Where targets come from. Every mechanism is a task that sends whole lists of groups; what it last sent stays in use
//! while it has trouble, and the trouble is told beside it.
//!
//! Invariants:
//!   * a list is replaced only by a list that the source gave whole; an error replaces nothing
//!   * a source gives at most [`TARGETS_MAX`] targets, or its last good list stays and it says so
//!   * a source that fails is asked again after a pause that grows up to its refresh interval

mod consul;
mod dns;
mod docker;
mod file;
mod http;
mod keep;
mod kubernetes;
mod list;

pub use list::ListReader;

use keep::Keeper;

use config::{Discovery, TargetGroup};
use series::Labels;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use xxhash_rust::xxh64::xxh64;

/// Most targets that one source may give.
pub const TARGETS_MAX: usize = 500_000;
/// Updates waiting for the manager.
pub const UPDATES_MAX: usize = 64;
/// First pause after a failure; the next ones are twice as long each.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// What holds for all sources.
#[derive(Clone, Debug, Default)]
pub struct SdOptions {
    /// Folder for lists that outlive the process. `None`: a restart knows nothing until the sources answer.
    pub keep_in: Option<PathBuf>,
    /// DNS servers to ask instead of those of /etc/resolv.conf.
    pub dns_servers: Vec<SocketAddr>,
}

/// What all sources have in common: the options, and who keeps their lists. Cloning copies pointers.
#[derive(Clone, Default)]
pub struct Sd {
    options: Arc<SdOptions>,
    keeper: Keeper,
}

impl Sd {
    /// Has lists kept from now on, by a task of the runtime.
    pub fn start(options: SdOptions) -> Sd {
        Sd { keeper: Keeper::start(options.keep_in.clone()), options: Arc::new(options) }
    }
}

/// All groups of a source, at one time.
pub type List = Arc<Vec<Arc<Group>>>;

/// Discovered addresses that share labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Each with `__address__` and labels of its own.
    pub targets: Vec<Labels>,
    pub labels: Labels,
}

impl Group {
    /// A group as a file or a configuration states it.
    fn stated(group: &TargetGroup, labels: Labels) -> Group {
        let target = |address: &String| Labels::from_pairs([("__address__", address.as_str())]);
        Group { targets: group.targets.iter().map(target).collect(), labels }
    }
}

/// What a source knows at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The last good list.
    pub groups: List,
    /// What is wrong now.
    pub errors: Vec<String>,
    /// Failed attempts since the source began.
    pub failures_total: u64,
    /// Attempts since then: refreshes, look-ups or calls.
    pub attempts_total: u64,
    /// Time that they took.
    pub attempts_time: Duration,
    /// News of objects, by event and role; Kubernetes only.
    pub events: BTreeMap<(&'static str, &'static str), u64>,
}

/// Names a source for as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(pub u64);

/// News of a source.
pub struct Update {
    pub source: SourceId,
    pub found: Found,
}

/// A mechanism at work; it ends when this is dropped.
pub struct Source {
    pub id: SourceId,
    pub discovery: Discovery,
    pub found: Found,
    task: Option<JoinHandle<()>>,
}

impl Source {
    /// Starts the mechanism. Targets that are known without waiting are in `found` at once.
    pub async fn start(id: SourceId, discovery: &Discovery, updates: mpsc::Sender<Update>, sd: &Sd) -> Source {
        let Sd { options, keeper } = sd;
        let asks = matches!(
            discovery,
            Discovery::Http(_)
                | Discovery::Dns(_)
                | Discovery::Consul(_)
                | Discovery::Kubernetes(_)
                | Discovery::Docker(_)
        );
        let found = match discovery {
            Discovery::Static(groups) => {
                let groups = groups.iter().map(|group| Arc::new(Group::stated(group, group.labels.clone()))).collect();
                Found { groups: Arc::new(groups), ..Found::default() }
            }
            _ if asks => keeper.read(discovery).await,
            _ => Found::default(),
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
            // Others are read and checked by the configuration and named in its warning; nothing is found.
            Discovery::Static(_) | Discovery::Other(_) => None,
        };
        Source { id, discovery: discovery.clone(), found, task }
    }

    /// Whether the source has to be waited for: it has a task, and its list is not known at the start.
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

/// How a mechanism tells what it has found.
pub struct Reporter {
    source: SourceId,
    kind: &'static str,
    updates: mpsc::Sender<Update>,
    found: Found,
    failures_in_row: u32,
    keep: Keeper,
    discovery: Discovery,
}

/// Nobody listens any more; the mechanism ends.
pub struct Gone;

impl Reporter {
    /// The list in use: at the start, what was kept from an earlier run.
    pub fn groups(&self) -> List {
        self.found.groups.clone()
    }

    /// Counts an attempt, whatever comes of it.
    pub fn attempted(&mut self, since: Instant) {
        self.found.attempts_total += 1;
        self.found.attempts_time += since.elapsed();
    }

    /// Counts news of an object.
    pub fn event(&mut self, event: &'static str, role: &'static str) {
        *self.found.events.entry((event, role)).or_default() += 1;
    }

    /// Counts a failure that [`Reporter::good`] or [`Reporter::failed`] will tell about.
    pub fn count_failure(&mut self) {
        self.found.failures_total += 1;
    }

    /// A whole new list, and what is wrong beside it.
    pub async fn good(&mut self, groups: Vec<Arc<Group>>, errors: Vec<String>) -> Result<(), Gone> {
        let count: usize = groups.iter().map(|group| group.targets.len()).sum();
        if count > TARGETS_MAX {
            return self.failed(list::too_many(count)).await;
        }
        if errors.is_empty() {
            self.failures_in_row = 0;
        }
        if *self.found.groups != groups {
            self.found.groups = Arc::new(groups);
            self.keep.write(&self.discovery, self.found.groups.clone());
        }
        self.found.errors = errors;
        self.send().await
    }

    /// The list has not changed.
    pub async fn unchanged(&mut self) -> Result<(), Gone> {
        self.failures_in_row = 0;
        self.found.errors.clear();
        self.send().await
    }

    /// No list to be had; the last one stays.
    pub async fn failed(&mut self, error: String) -> Result<(), Gone> {
        self.failures_in_row += 1;
        self.found.failures_total += 1;
        let kept = if self.found.groups.is_empty() { "" } else { "; its last good list is in use" };
        let error = format!("{}: {error}{kept}", self.kind);
        if self.found.errors.first() != Some(&error) {
            tracing::warn!(error, "discovery failed");
        }
        self.found.errors = vec![error];
        self.send().await
    }

    async fn send(&self) -> Result<(), Gone> {
        let update = Update { source: self.source, found: self.found.clone() };
        self.updates.send(update).await.map_err(|_| Gone)
    }

    /// Waits until it is time to ask again.
    pub async fn pause(&self, interval: Duration) {
        tokio::time::sleep(pause(self.failures_in_row, interval, random())).await;
    }
}

/// Up to a tenth longer than the interval; shorter after the first failures.
fn pause(failures_in_row: u32, interval: Duration, random: u64) -> Duration {
    let backoff = match failures_in_row {
        0 => interval,
        n => interval.min(RETRY_FIRST * 2u32.saturating_pow(n.min(16) - 1)),
    };
    backoff + backoff.mul_f64((random % 1000) as f64 / 10_000.0)
}

/// Differs from call to call and from host to host; nothing depends on how.
fn random() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    xxh64(&since.as_nanos().to_le_bytes(), u64::from(std::process::id()))
}

/// A label name made of any text, as Prometheus makes one of a tag's or an annotation's name.
fn sanitized(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// `host:port`, with brackets around an IPv6 address.
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
