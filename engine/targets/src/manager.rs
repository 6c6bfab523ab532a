//! Keeps the targets of all jobs up to date: reads updates of sources and sends differences to shards.
//!
//! One task owns the state. The rest of the program sends it messages and watches the target set that it publishes.
//!
//! Invariants:
//!   * a job with unchanged settings keeps its `Arc`, its sources and its targets
//!   * the targets on the shards and the published ones are the same, apart from the delay of a message
//!   * updates are collected for [`SETTLE`], so that a burst costs one pass

use crate::discovery::{
    Attempts, DiscoveryContext, DiscoveryState, LastAttempt, List, SdOptions, Source, SourceId, UPDATES_MAX, Update,
};
use crate::partition::{FleetPartition, PartitionView};
use crate::placement::Placement;
use crate::pool::{BuildCache, in_order};
use crate::target::{Pool, Target, TargetDiff, TargetId, TargetSet};
use config::{Config, Discovery, ScrapeConfig};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};

/// Time for which updates are collected before targets are rebuilt.
const SETTLE: Duration = Duration::from_millis(100);
/// Time between two publications of what sources have tried, if their lists do not change; longer if that takes its time.
const ATTEMPTS_EVERY: Duration = Duration::from_secs(1);
/// The share of a core that these publications may take: one of so many parts.
const ATTEMPTS_PARTS: u32 = 50;
/// Time within which [`pool_now`] waits for sources that are not static.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Capacity of the manager's message queue.
const MESSAGES_MAX: usize = 16;

/// Counters of service discovery, with the meaning of Prometheus' metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SdStats {
    /// Discovered addresses of each job, before relabelling.
    pub discovered_targets: BTreeMap<String, u64>,
    /// Failed attempts of each mechanism (`file`, …) to read its list.
    pub failures_total: BTreeMap<&'static str, u64>,
    /// Attempts of each mechanism.
    pub attempts: BTreeMap<&'static str, Attempts>,
    /// Attempts of Consul by kind of call.
    pub calls: BTreeMap<&'static str, Attempts>,
    /// Attempts of each mechanism that found its list unchanged.
    pub unchanged_total: BTreeMap<&'static str, u64>,
    /// Answers of each mechanism that were kept from earlier attempts.
    pub cache_hits_total: BTreeMap<&'static str, u64>,
    /// When each target file in use was modified last.
    pub files_modified: BTreeMap<Arc<str>, SystemTime>,
    pub watch_errors_total: u64,
    /// Sources that have given up, because of settings that cannot work.
    pub failed_sources: u64,
    /// The sources of each job, in the order of its sections.
    pub sources: BTreeMap<String, Vec<SourceStats>>,
    /// Events of Kubernetes objects, by event and role.
    pub kubernetes_events: BTreeMap<(&'static str, &'static str), u64>,
    /// Lists received from sources.
    pub received_updates_total: u64,
    /// Number of rebuilds of targets.
    pub updates_total: u64,
    pub last_update: Option<SystemTime>,
    /// Jobs that came, and jobs whose settings changed, with all configurations so far.
    pub pools_made_total: u64,
    pub pools_reloaded_total: u64,
    /// Passes over the lists of each job.
    pub pools: BTreeMap<String, PoolStats>,
    /// Attempts of a job's mechanisms to get their lists.
    pub refreshes: BTreeMap<(String, &'static str), RefreshStats>,
}

/// What making the targets of a job from its lists has taken and refused, since the job has been there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    pub syncs: u64,
    pub sync_time: Duration,
    /// Entries that could not become a target, counted at each pass.
    pub failed_targets: u64,
    /// Passes that found more targets than `target_limit`.
    pub target_limit_exceeded: u64,
}

/// Attempts of one mechanism to get a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RefreshStats {
    pub attempts: Attempts,
    pub failures: u64,
}

/// State of one source of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceStats {
    pub mechanism: &'static str,
    /// Number of addresses of its last good list.
    pub targets: usize,
    pub attempts: u64,
    pub failures: u64,
    pub last: Option<LastAttempt>,
    pub failing_since: Option<SystemTime>,
}

enum Message {
    Reload(Arc<Config>, oneshot::Sender<()>),
    Costs(HashMap<TargetId, f64>),
    /// How targets are divided from now on. `None`: this process owns all of them.
    Divide(Option<Arc<FleetPartition>>),
    /// Targets that other members have scraped.
    Release(HashSet<TargetId>),
}

/// Handle to the manager. Cloning copies pointers.
#[derive(Clone)]
pub struct ManagerHandle {
    messages: mpsc::Sender<Message>,
    set: watch::Receiver<Arc<TargetSet>>,
    stats: watch::Receiver<SdStats>,
}

impl ManagerHandle {
    /// Returns a handle that publishes these targets, for tests of readers.
    pub fn showing(set: TargetSet) -> ManagerHandle {
        let (messages, _) = mpsc::channel(1);
        ManagerHandle { messages, set: watch::channel(Arc::new(set)).1, stats: watch::channel(SdStats::default()).1 }
    }

    /// Applies the jobs of a configuration. Returns once the targets that are available without waiting were sent to their
    /// shards.
    pub async fn reload(&self, config: Arc<Config>) {
        let (reply, done) = oneshot::channel();
        if self.messages.send(Message::Reload(config, reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Sets the cost of targets, for targets that are placed from now on.
    pub async fn set_costs(&self, costs: HashMap<TargetId, f64>) {
        let _ = self.messages.send(Message::Costs(costs)).await;
    }

    /// Divides the targets of all jobs among the members of a fleet. A target of another member that is scraped here stays until
    /// it is released.
    pub async fn divide(&self, division: Option<Arc<FleetPartition>>) {
        let _ = self.messages.send(Message::Divide(division)).await;
    }

    /// Removes these targets without staleness markers, because other members scrape them.
    pub async fn release(&self, targets: HashSet<TargetId>) {
        let _ = self.messages.send(Message::Release(targets)).await;
    }

    /// Returns the targets of all jobs, and their changes.
    pub fn watch(&self) -> watch::Receiver<Arc<TargetSet>> {
        self.set.clone()
    }

    pub fn stats(&self) -> SdStats {
        self.stats.borrow().clone()
    }
}

type Sink = Box<dyn Fn(usize, TargetDiff) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

struct Job {
    job: Arc<ScrapeConfig>,
    sources: Vec<SourceId>,
    pool: Arc<Pool>,
    cache: BuildCache,
    stats: PoolStats,
}

/// What one section of a job has given when it was asked once.
#[derive(Debug)]
pub struct SourceAnswer {
    /// The mechanism.
    pub kind: &'static str,
    pub groups: List,
    pub errors: Vec<String>,
    /// Duration of the attempts, and number of requests where the mechanism counts them.
    pub time: Duration,
    pub requests: u64,
}

/// Returns the current targets of one job, once, without watching its sources. Waits for sources that are not static.
pub async fn pool_now(job: &Arc<ScrapeConfig>, options: &SdOptions) -> Pool {
    discover_now(job, options).await.1
}

/// Asks each source of a job once. Returns what it has given, and the targets of all of them.
pub async fn discover_now(job: &Arc<ScrapeConfig>, options: &SdOptions) -> (Vec<SourceAnswer>, Pool) {
    let (updates, mut inbox) = mpsc::channel(UPDATES_MAX);
    let sd = DiscoveryContext::start(SdOptions { keep_in: None, ..options.clone() });
    let mut sources = Vec::new();
    for (number, discovery) in job.discoveries.iter().enumerate() {
        let id = SourceId(number as u64);
        sources.push(Source::start(id, discovery, updates.clone(), &sd).await);
    }
    let mut waiting: BTreeSet<u64> =
        sources.iter().filter(|source| source.answers_later()).map(|source| source.id.0).collect();
    let deadline = tokio::time::Instant::now() + ANSWER_WITHIN;
    while !waiting.is_empty() {
        let Ok(Some(update)) = tokio::time::timeout_at(deadline, inbox.recv()).await else { break };
        waiting.remove(&update.source.0);
        if let Some(source) = sources.get_mut(update.source.0 as usize) {
            source.found = update.found;
        }
    }
    for source in sources.iter_mut().filter(|source| waiting.contains(&source.id.0)) {
        let late = format!("{}: no answer within {ANSWER_WITHIN:?}", source.discovery.kind());
        source.found.errors.push(late);
    }
    let errors = sources.iter().flat_map(|source| source.found.errors.iter().cloned()).collect();
    let lists = sources.iter().map(|source| source.found.groups.clone()).collect();
    let pool = BuildCache::default().build_pool(job, lists, errors, None, None);
    let answer = |source: &Source| SourceAnswer {
        kind: source.discovery.kind(),
        groups: source.found.groups.clone(),
        errors: source.found.errors.clone(),
        time: source.found.attempts.time,
        requests: source.found.attempts.requests,
    };
    (sources.iter().map(answer).collect(), pool)
}

/// State of the task.
pub struct Manager {
    sink: Sink,
    placement: Placement,
    jobs: BTreeMap<String, Job>,
    sources: Vec<Source>,
    source_next: u64,
    division: Option<Arc<FleetPartition>>,
    /// Filled for one rebuild only: a target that is gone after it is no longer listed here.
    released: HashSet<TargetId>,
    /// The targets on the shards, by job.
    told: BTreeMap<String, Arc<Pool>>,
    updates_to: mpsc::Sender<Update>,
    sd: DiscoveryContext,
    set: watch::Sender<Arc<TargetSet>>,
    stats: watch::Sender<SdStats>,
    pools_made: u64,
    pools_reloaded: u64,
    /// When attempts may be published again, and whether some are not published.
    attempts_due: Instant,
    has_unpublished: bool,
}

impl Manager {
    /// Starts the task. `sink` sends a difference to a shard; calls are awaited one after the other.
    pub fn start<F, D>(cores: usize, sd: DiscoveryContext, sink: F) -> ManagerHandle
    where
        F: Fn(usize, TargetDiff) -> D + Send + 'static,
        D: Future<Output = ()> + Send + 'static,
    {
        let (messages, inbox) = mpsc::channel(MESSAGES_MAX);
        let (updates_to, updates) = mpsc::channel(UPDATES_MAX);
        let (set, set_seen) = watch::channel(Arc::default());
        let (stats, stats_seen) = watch::channel(SdStats::default());
        let manager = Manager {
            sink: Box::new(move |core, diff| Box::pin(sink(core, diff))),
            placement: Placement::new(cores),
            jobs: BTreeMap::new(),
            sources: Vec::new(),
            source_next: 0,
            division: None,
            released: HashSet::new(),
            told: BTreeMap::new(),
            updates_to,
            sd,
            set,
            stats,
            pools_made: 0,
            pools_reloaded: 0,
            attempts_due: Instant::now(),
            has_unpublished: false,
        };
        tokio::spawn(manager.run(inbox, updates));
        ManagerHandle { messages, set: set_seen, stats: stats_seen }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Message>, mut updates: mpsc::Receiver<Update>) {
        loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Message::Reload(config, reply)) => {
                        self.reload(&config).await;
                        let _ = reply.send(());
                    }
                    Some(Message::Costs(costs)) => self.placement.set_costs(costs),
                    Some(Message::Divide(division)) => {
                        self.division = division;
                        self.rebuild_all().await;
                    }
                    Some(Message::Release(targets)) => {
                        self.released = targets;
                        self.rebuild_all().await;
                        self.released.clear();
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(self.attempts_due.into()), if self.has_unpublished => {
                    self.publish_attempts();
                }
                Some(update) = updates.recv() => {
                    let mut changed = BTreeSet::new();
                    self.take(update, &mut changed);
                    let settled = tokio::time::sleep(SETTLE);
                    tokio::pin!(settled);
                    loop {
                        tokio::select! {
                            Some(update) = updates.recv() => self.take(update, &mut changed),
                            () = &mut settled => break,
                        }
                    }
                    self.has_unpublished = true;
                    if !changed.is_empty() {
                        changed.iter().for_each(|name| self.rebuild(name));
                        self.publish().await;
                    }
                }
            }
        }
    }

    /// Records an update of a source, and which jobs it affects.
    fn take(&mut self, update: Update, changed: &mut BTreeSet<String>) {
        self.stats.send_modify(|stats| stats.received_updates_total += 1);
        let Some(source) = self.sources.iter_mut().find(|source| source.id == update.source) else { return };
        let same =
            |found: &DiscoveryState| (&found.groups, &found.errors) == (&update.found.groups, &update.found.errors);
        let is_news = !same(&source.found);
        source.found = update.found;
        if is_news {
            let jobs = self.jobs.iter().filter(|(_, job)| job.sources.contains(&update.source));
            changed.extend(jobs.map(|(name, _)| name.clone()));
        }
    }

    async fn reload(&mut self, config: &Config) {
        let mut jobs = BTreeMap::new();
        let mut used = BTreeSet::new();
        let mut changed = Vec::new();
        for job in &config.scrape_configs {
            let name = &job.job_name;
            let before = match self.jobs.remove(name) {
                Some(old) if old.job == *job => {
                    used.extend(old.sources.iter().map(|source| source.0));
                    jobs.insert(name.clone(), old);
                    continue;
                }
                old => old.map(|old| (old.pool, old.stats)),
            };
            match before {
                None => self.pools_made += 1,
                Some(_) => self.pools_reloaded += 1,
            }
            let mut sources = Vec::new();
            for discovery in &job.discoveries {
                let source = self.source(discovery).await;
                used.insert(source.0);
                sources.push(source);
            }
            // Targets in a handover stay in it under new settings.
            let (pool, stats) = before.unwrap_or_else(|| (Arc::new(Pool::empty(job)), PoolStats::default()));
            jobs.insert(name.clone(), Job { job: job.clone(), sources, pool, cache: BuildCache::default(), stats });
            changed.push(name);
        }
        self.jobs = jobs;
        self.sources.retain(|source| used.contains(&source.id.0));
        changed.into_iter().for_each(|name| self.rebuild(name));
        self.publish().await;
    }

    /// Returns the source of a discovery: a running one with equal settings, or a new one.
    async fn source(&mut self, discovery: &Discovery) -> SourceId {
        if let Some(source) = self.sources.iter().find(|source| source.discovery == *discovery) {
            return source.id;
        }
        let id = SourceId(self.source_next);
        self.source_next += 1;
        let updates = self.updates_to.clone();
        self.sources.push(Source::start(id, discovery, updates, &self.sd).await);
        id
    }

    async fn rebuild_all(&mut self) {
        let names: Vec<String> = self.jobs.keys().cloned().collect();
        names.iter().for_each(|name| self.rebuild(name));
        self.publish().await;
    }

    fn rebuild(&mut self, name: &str) {
        let Some(job) = self.jobs.get_mut(name) else { return };
        let begun = Instant::now();
        let sources: Vec<&Source> = self.sources.iter().filter(|source| job.sources.contains(&source.id)).collect();
        let lists = sources.iter().map(|source| source.found.groups.clone()).collect();
        let errors = sources.iter().flat_map(|source| source.found.errors.iter().cloned()).collect();
        let share = self.division.as_ref().map(|division| PartitionView { division, released: &self.released });
        job.pool = Arc::new(job.cache.build_pool(&job.job, lists, errors, Some(&job.pool), share));
        job.stats.syncs += 1;
        job.stats.sync_time += begun.elapsed();
        job.stats.failed_targets += job.pool.failed.len() as u64;
        let limit = job.job.target_limit;
        job.stats.target_limit_exceeded += u64::from(limit > 0 && job.pool.active.len() as u64 > limit);
    }

    /// Publishes what the sources have tried, which changes without their lists. Jobs with equal settings share a source and
    /// its attempts.
    fn publish_attempts(&mut self) {
        let begun = Instant::now();
        let sources: HashMap<SourceId, &Source> = self.sources.iter().map(|source| (source.id, source)).collect();
        let mut refreshes: BTreeMap<_, RefreshStats> = BTreeMap::new();
        let mut of_jobs = BTreeMap::new();
        for (name, job) in &self.jobs {
            let of_job: Vec<SourceStats> =
                job.sources.iter().filter_map(|id| sources.get(id)).map(|source| stats_of(source)).collect();
            for source in job.sources.iter().filter_map(|id| sources.get(id)) {
                if matches!(source.discovery, Discovery::Static(_)) {
                    continue;
                }
                let stats = refreshes.entry((name.clone(), source.mechanism())).or_default();
                stats.attempts.merge(&source.found.attempts);
                stats.failures += source.found.failures_total;
            }
            of_jobs.insert(name.clone(), of_job);
        }
        self.stats.send_modify(|stats| {
            let received_updates_total = stats.received_updates_total;
            *stats = SdStats {
                discovered_targets: std::mem::take(&mut stats.discovered_targets),
                pools: std::mem::take(&mut stats.pools),
                updates_total: stats.updates_total,
                last_update: stats.last_update,
                received_updates_total,
                pools_made_total: self.pools_made,
                pools_reloaded_total: self.pools_reloaded,
                refreshes,
                sources: of_jobs,
                ..SdStats::default()
            };
            self.sources.iter().for_each(|source| stats.add(source));
        });
        self.has_unpublished = false;
        self.attempts_due = Instant::now() + ATTEMPTS_EVERY.max(begun.elapsed() * ATTEMPTS_PARTS);
    }

    /// Sends the differences to the shards, then publishes the target set.
    async fn publish(&mut self) {
        let mut diffs: BTreeMap<usize, TargetDiff> = BTreeMap::new();
        let mut told = std::mem::take(&mut self.told);
        let mut now = BTreeMap::new();
        for (name, job) in &self.jobs {
            let old = told.remove(name);
            if old.as_ref().is_none_or(|old| !Arc::ptr_eq(old, &job.pool)) {
                let old = old.as_ref().map_or(&[][..], |pool| &pool.active);
                differences(old, &job.pool.active, &mut self.placement, &mut diffs);
            }
            now.insert(name.clone(), job.pool.clone());
        }
        for gone in told.values() {
            differences(&gone.active, &[], &mut self.placement, &mut diffs);
        }
        self.told = now;
        for (core, mut diff) in diffs {
            if !self.released.is_empty() {
                let released = &self.released;
                (diff.moved, diff.remove) = diff.remove.into_iter().partition(|id| released.contains(id));
            }
            (self.sink)(core, diff).await;
        }
        self.set.send_replace(Arc::new(TargetSet { pools: self.jobs.values().map(|job| job.pool.clone()).collect() }));
        self.stats.send_modify(|stats| {
            stats.updates_total += 1;
            stats.last_update = Some(SystemTime::now());
            let found = |job: &Job| job.pool.discovered_count as u64;
            stats.discovered_targets = self.jobs.iter().map(|(name, job)| (name.clone(), found(job))).collect();
            stats.pools = self.jobs.iter().map(|(name, job)| (name.clone(), job.stats)).collect();
        });
        self.publish_attempts();
    }
}

fn stats_of(source: &Source) -> SourceStats {
    let found = &source.found;
    SourceStats {
        mechanism: source.mechanism(),
        targets: found.groups.iter().map(|group| group.targets.len()).sum(),
        attempts: found.attempts.count,
        failures: found.failures_total,
        last: found.attempts.last,
        failing_since: found.failing_since,
    }
}

impl SdStats {
    /// Adds what a source has tried to the numbers of its mechanism.
    fn add(&mut self, source: &Source) {
        let (mechanism, found) = (source.mechanism(), &source.found);
        *self.failures_total.entry(mechanism).or_default() += found.failures_total;
        *self.unchanged_total.entry(mechanism).or_default() += found.unchanged_total;
        *self.cache_hits_total.entry(mechanism).or_default() += found.cache_hits_total;
        self.attempts.entry(mechanism).or_default().merge(&found.attempts);
        for (call, attempts) in &found.calls {
            self.calls.entry(call).or_default().merge(attempts);
        }
        for (event, count) in &found.events {
            *self.kubernetes_events.entry(*event).or_default() += count;
        }
        self.files_modified.extend(found.modified.iter().map(|(file, at)| (file.clone(), *at)));
        self.watch_errors_total += found.watch_errors_total;
        self.failed_sources += u64::from(source.has_ended());
    }
}

/// Adds the differences between two lists of a job's targets to `diffs`. Both lists are sorted and hold each target once.
fn differences(
    old: &[Arc<Target>],
    new: &[Arc<Target>],
    placement: &mut Placement,
    diffs: &mut BTreeMap<usize, TargetDiff>,
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(one), Some(other)) if Arc::ptr_eq(one, other) => {
                old.next();
                new.next();
                continue;
            }
            (Some(one), Some(other)) => in_order(one, other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        if order.is_le()
            && let Some(gone) = old.next()
            && order.is_lt()
        {
            if let Some(core) = placement.remove(gone.id) {
                diffs.entry(core).or_default().remove.push(gone.id);
            }
        } else if let Some(target) = new.next() {
            let core = placement.place(target.id);
            let diff = diffs.entry(core).or_default();
            if order.is_eq() { &mut diff.update } else { &mut diff.add }.push(target.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// The targets on the shards, by applying differences as they arrive.
    #[derive(Default)]
    struct Cores {
        targets: Vec<HashMap<TargetId, Arc<Target>>>,
        /// Added, updated, removed.
        counts: (usize, usize, usize),
    }

    struct Rig {
        cores: Arc<Mutex<Cores>>,
        handle: ManagerHandle,
    }

    impl Rig {
        fn new(cores: usize) -> Rig {
            let state = Cores { targets: vec![HashMap::new(); cores], ..Cores::default() };
            let cores_state = Arc::new(Mutex::new(state));
            let sink = cores_state.clone();
            let handle = Manager::start(cores, DiscoveryContext::default(), move |core, diff| {
                let mut cores = sink.lock().unwrap();
                let (added, updated, removed) = cores.counts;
                cores.counts = (added + diff.add.len(), updated + diff.update.len(), removed + diff.remove.len());
                let targets = &mut cores.targets[core];
                diff.remove.iter().for_each(|id| assert!(targets.remove(id).is_some(), "it was there"));
                for target in diff.add {
                    assert!(targets.insert(target.id, target).is_none(), "it was new");
                }
                for target in diff.update {
                    assert!(targets.insert(target.id, target).is_some(), "it was there");
                }
                std::future::ready(())
            });
            Rig { cores: cores_state, handle }
        }

        async fn reload(&self, yaml: &str) {
            let config = config::parse_config("prometheus.yml".as_ref(), yaml, &config::Env::process()).unwrap();
            self.handle.reload(Arc::new(config)).await;
        }

        /// Returns the instances on the shards; checks that they are the published ones, each on one shard.
        fn instances(&self) -> Vec<String> {
            let cores = self.cores.lock().unwrap();
            let mut on_cores: Vec<String> =
                cores.targets.iter().flat_map(HashMap::values).map(|target| target.labels.to_string()).collect();
            on_cores.sort();
            let set = self.handle.watch().borrow().clone();
            let mut published: Vec<String> =
                set.pools.iter().flat_map(|pool| &pool.active).map(|target| target.labels.to_string()).collect();
            published.sort();
            assert_eq!(on_cores, published);
            on_cores
        }

        fn counts(&self) -> (usize, usize, usize) {
            std::mem::take(&mut self.cores.lock().unwrap().counts)
        }
    }

    fn job(name: &str, settings: &str, targets: &str) -> String {
        format!("  - job_name: {name}\n    static_configs: [{{targets: [{targets}]}}]\n{settings}")
    }

    fn yaml(jobs: &[String]) -> String {
        format!("scrape_configs:\n{}", jobs.concat())
    }

    #[tokio::test]
    async fn reload_touches_only_what_changed() {
        let rig = Rig::new(3);
        let (a, b) = (job("a", "", "'x:1', 'x:2'"), job("b", "", "'y:1'"));
        rig.reload(&yaml(&[a.clone(), b.clone()])).await;
        assert_eq!(rig.instances().len(), 3);
        assert_eq!(rig.counts(), (3, 0, 0));
        rig.reload(&yaml(&[b.clone(), a.clone()])).await;
        assert_eq!(rig.counts(), (0, 0, 0), "another order is no change");
        rig.reload(&yaml(&[a.clone(), job("b", "    sample_limit: 5\n", "'y:1'")])).await;
        assert_eq!(rig.counts(), (0, 1, 0), "a limit updates the job's targets");
        rig.reload(&yaml(&[job("a", "", "'x:2', 'x:3'"), b.clone()])).await;
        assert_eq!(rig.counts(), (1, 2, 1));
        rig.reload(&yaml(&[a])).await;
        assert_eq!(rig.counts(), (1, 1, 2));
        rig.reload("").await;
        assert_eq!(rig.counts(), (0, 0, 2));
        assert_eq!(rig.instances(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn file_is_followed_through_reloads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json");
        std::fs::write(&path, r#"[{"targets": ["x:1"]}]"#).unwrap();
        let rig = Rig::new(2);
        let with = |extra: &str| {
            format!(
                "scrape_configs:\n  - job_name: f\n    file_sd_configs: [{{files: ['{}']}}]\n{extra}",
                path.display()
            )
        };
        rig.reload(&with("")).await;
        assert_eq!(rig.instances().len(), 1, "known at once");
        rig.reload(&with("    sample_limit: 5\n")).await;
        assert_eq!(rig.counts(), (1, 1, 0));
        std::fs::write(&path, r#"[{"targets": ["x:1", "x:2"]}]"#).unwrap();
        let mut set = rig.handle.watch();
        let grown = set.wait_for(|set| set.pools[0].active.len() == 2);
        tokio::time::timeout(Duration::from_secs(20), grown).await.unwrap().unwrap();
        assert_eq!(rig.instances().len(), 2);
        assert_eq!(rig.handle.stats().discovered_targets["f"], 2);
        std::fs::write(&path, "[{").unwrap();
        let told = set.wait_for(|set| !set.pools[0].source_errors.is_empty());
        tokio::time::timeout(Duration::from_secs(20), told).await.unwrap().unwrap();
        assert_eq!(rig.instances().len(), 2, "the last good list stays");
        let stats = rig.handle.stats();
        assert!(stats.failures_total["file"] >= 1);
        let source = &stats.sources["f"][0];
        assert!(source.failing_since.is_some() && source.last.is_some() && source.targets == 2, "{source:?}");
        assert!(stats.files_modified.contains_key(path.to_str().unwrap()));
        assert_eq!((stats.pools_made_total, stats.pools_reloaded_total), (1, 1));
        assert!(stats.refreshes[&("f".to_owned(), "file")].failures >= 1 && stats.pools["f"].syncs >= 3, "{stats:?}");
    }

    #[tokio::test]
    async fn fifty_thousand_targets_come_and_one_goes() {
        let rig = Rig::new(4);
        let list = |count: usize| (0..count).map(|i| format!("'h{i}:9100'")).collect::<Vec<_>>().join(",");
        rig.reload(&yaml(&[job("big", "", &list(50_000))])).await;
        assert_eq!(rig.counts(), (50_000, 0, 0));
        rig.reload(&yaml(&[job("big", "", &list(49_999))])).await;
        assert_eq!(rig.counts().2, 1);
        assert_eq!(rig.instances().len(), 49_999);
    }
}
