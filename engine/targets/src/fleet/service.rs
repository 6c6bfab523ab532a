//! This process as a member: follows the list of members, divides the targets, hands over those that others scrape, and
//! checks that members have different external labels.
//!
//! Invariants:
//!   * an empty list changes nothing: the last list with a member stays in use. At the start, when there is none, this
//!     member scrapes everything
//!   * a target in a handover is released when all of its owners have scraped it, or when the deadline has passed
//!   * every problem is in [`FleetStatus`], and once in the log

use crate::discovery::DiscoveryContext;
use crate::fleet::members::{members, rules};
use crate::fleet::peers::{MemberStatus, Peers};
use crate::follow::DiscoveryWatcher;
use crate::manager::ManagerHandle;
use crate::partition::FleetPartition;
use crate::target::TargetId;
use config::{Config, Fleet};
use fleet::{Identity, LabelProblem, View};
use series::Labels;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Interval of requests to the owners of targets in a handover.
const HAND_OVER_EVERY: Duration = Duration::from_millis(500);
/// Interval of comparisons of the members.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Time for which a start waits for the first list.
const FIRST_LIST_WITHIN: Duration = Duration::from_secs(10);
/// Time after which different lists are reported: no list changes for all members at once.
const SPLIT_AFTER: Duration = Duration::from_secs(60);

/// Published state of the service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetStatus {
    /// Name of this member. `None`: the configuration has no fleet.
    pub member: Option<String>,
    pub division: Option<Arc<FleetPartition>>,
    /// Problems of the list of members.
    pub problems: Vec<String>,
    /// The last response of each other member, or its error.
    pub peers: BTreeMap<String, Result<MemberStatus, String>>,
    /// Problems that the comparison of external labels has found.
    pub findings: Vec<LabelProblem>,
    /// Members that have had another list for a while.
    pub split: Vec<String>,
    pub handed_over_total: u64,
    /// Number of targets that were released at the deadline, before their owners scraped them.
    pub expired_total: u64,
    /// Number of lists that changed the division.
    pub changes_total: u64,
}

impl FleetStatus {
    pub fn fingerprint(&self) -> String {
        self.division.as_ref().map_or_else(String::new, |division| format!("{:016x}", division.view.fingerprint()))
    }
}

/// Handle to the service. Cloning copies pointers.
#[derive(Clone)]
pub struct FleetHandle {
    configs: mpsc::Sender<(Arc<Config>, oneshot::Sender<()>)>,
    status: watch::Receiver<Arc<FleetStatus>>,
}

impl FleetHandle {
    /// Starts the service. Without a fleet in the configuration it is idle.
    pub fn start(manager: ManagerHandle, sd: DiscoveryContext) -> FleetHandle {
        let (configs, inbox) = mpsc::channel(1);
        let (status_to, status) = watch::channel(Arc::default());
        tokio::spawn(run(manager, sd, inbox, status_to));
        FleetHandle { configs, status }
    }

    /// Returns a handle that publishes this state, for tests of readers.
    pub fn showing(status: FleetStatus) -> FleetHandle {
        FleetHandle { configs: mpsc::channel(1).0, status: watch::channel(Arc::new(status)).1 }
    }

    /// Applies the section. Returns when the targets are divided by it, before a job of the same configuration is
    /// built.
    pub async fn reload(&self, config: Arc<Config>) {
        let (reply, done) = oneshot::channel();
        if self.configs.send((config, reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    pub fn status(&self) -> Arc<FleetStatus> {
        self.status.borrow().clone()
    }
}

async fn run(
    manager: ManagerHandle,
    sd: DiscoveryContext,
    mut inbox: mpsc::Receiver<(Arc<Config>, oneshot::Sender<()>)>,
    status: watch::Sender<Arc<FleetStatus>>,
) {
    let mut service: Option<Service> = None;
    let mut hand_over = interval(HAND_OVER_EVERY);
    let mut check = interval(CHECK_EVERY);
    hand_over.set_missed_tick_behavior(MissedTickBehavior::Delay);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_member = service.is_some();
        let changed = async {
            match &mut service {
                Some(service) => service.follow.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            config = inbox.recv() => {
                let Some((config, reply)) = config else { return };
                reload(&mut service, &manager, &sd, &config, &status).await;
                let _ = reply.send(());
            }
            () = changed => {
                if let Some(service) = &mut service {
                    service.divide(&manager).await;
                }
            }
            _ = hand_over.tick(), if is_member => {
                if let Some(service) = &mut service {
                    service.hand_over(&manager).await;
                }
            }
            _ = check.tick(), if is_member => {
                if let Some(service) = &mut service {
                    service.check(&manager).await;
                }
            }
        }
    }
}

async fn reload(
    service: &mut Option<Service>,
    manager: &ManagerHandle,
    sd: &DiscoveryContext,
    config: &Arc<Config>,
    status: &watch::Sender<Arc<FleetStatus>>,
) {
    let Some(settings) = &config.fleet else {
        if service.take().is_some() {
            status.send_replace(Arc::default());
            manager.divide(None).await;
        }
        return;
    };
    let labels = &config.global.external_labels;
    if let Some(service) = service.as_mut().filter(|service| service.settings == *settings) {
        service.external_labels = labels.clone();
        return;
    }
    let old = service.take();
    let mut fresh = Service {
        settings: settings.clone(),
        external_labels: labels.clone(),
        peers: Peers::new(settings),
        follow: DiscoveryWatcher::start(&settings.discoveries, sd).await,
        leaving_since: HashMap::new(),
        split_since: BTreeMap::new(),
        reported: Default::default(),
        status: status.clone(),
    };
    if let Some(old) = old {
        fresh.leaving_since = old.leaving_since;
    }
    fresh.set(|status| status.member = Some(settings.member.clone()));
    let first = async {
        while members(&fresh.settings, &fresh.follow.addresses()).is_empty() {
            fresh.follow.changed().await;
        }
    };
    // A missing list is reported by `divide`.
    let _ = tokio::time::timeout(FIRST_LIST_WITHIN, first).await;
    fresh.divide(manager).await;
    *service = Some(fresh);
}

/// Indices into `Service::reported`.
const LIST: usize = 0;
const CHECK: usize = 1;
const WARNINGS: usize = 2;

struct Service {
    settings: Fleet,
    external_labels: Labels,
    peers: Result<Peers, String>,
    follow: DiscoveryWatcher,
    /// Start and destination of each handover.
    leaving_since: HashMap<TargetId, (Instant, Vec<String>)>,
    split_since: BTreeMap<String, Instant>,
    /// Problems that are in the log: those of the list, those of the check, and its warnings.
    reported: [Vec<String>; 3],
    status: watch::Sender<Arc<FleetStatus>>,
}

impl Service {
    fn set(&self, change: impl FnOnce(&mut FleetStatus)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }

    /// Divides the targets by the current list.
    async fn divide(&mut self, manager: &ManagerHandle) {
        let list = members(&self.settings, &self.follow.addresses());
        let mut problems = self.follow.errors();
        let old = self.status.borrow().division.clone();
        let division = if list.is_empty() {
            problems.push(match &old {
                Some(_) => "the list of members is empty; the last one stays in use".to_owned(),
                None => "the list of members is empty; this member scrapes all targets until it names one".to_owned(),
            });
            old.clone()
        } else {
            let (view, more) = View::new(list, rules(&self.settings));
            problems.extend(more.iter().map(ToString::to_string));
            let me = view.index_of(&self.settings.member);
            if me.is_none() {
                let member = &self.settings.member;
                problems.push(format!(
                    "this member, {member:?}, is not in the list; the members that are have all targets, and what is \
                     still scraped here is handed over"
                ));
            }
            Some(Arc::new(FleetPartition { view, me, hash_labels: self.settings.hash_labels.clone() }))
        };
        let is_news = division != old;
        if is_news && let Some(division) = &division {
            tracing::info!(members = division.view.members().len(), "targets divided among a changed list of members");
        }
        self.report(LIST, &problems);
        self.set(|status| {
            status.problems = problems;
            status.division = division.clone();
            status.changes_total += u64::from(is_news);
        });
        if is_news {
            manager.divide(division).await;
        }
    }

    /// Logs the problems that are new.
    fn report(&mut self, which: usize, troubles: &[String]) {
        for trouble in troubles.iter().filter(|trouble| !self.reported[which].contains(trouble)) {
            match which {
                WARNINGS => tracing::warn!(trouble, "fleet"),
                _ => tracing::error!(trouble, "fleet"),
            }
        }
        self.reported[which] = troubles.to_vec();
    }

    fn member(&self, name: &str) -> Option<fleet::Member> {
        let division = self.status.borrow().division.clone()?;
        division.view.index_of(name).map(|index| division.view.members()[index].clone())
    }

    /// Asks the owners of targets in a handover, and releases those that they have scraped.
    async fn hand_over(&mut self, manager: &ManagerHandle) {
        let set = manager.watch().borrow().clone();
        let leaving: HashMap<TargetId, &Vec<String>> =
            set.pools.iter().flat_map(|pool| &pool.leaving).map(|leaving| (leaving.id, &leaving.to)).collect();
        self.leaving_since.retain(|id, _| leaving.contains_key(id));
        if leaving.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut by_owner: BTreeMap<&str, Vec<TargetId>> = BTreeMap::new();
        for (id, to) in &leaving {
            let (since, known) = self.leaving_since.entry(*id).or_insert_with(|| (now, (*to).clone()));
            if known != *to {
                // The owner has changed during the handover; the time begins anew.
                (*since, *known) = (now, (*to).clone());
            }
            to.iter().for_each(|owner| by_owner.entry(owner).or_default().push(*id));
        }
        let mut confirmed: HashMap<TargetId, usize> = HashMap::new();
        let asked = by_owner.iter().filter(|(owner, _)| **owner != self.settings.member);
        let questions = asked.map(|(owner, ids)| {
            let member = self.member(owner);
            let peers = self.peers.as_ref().ok();
            async move { peers?.scraped(&member?, ids).await.ok() }
        });
        // Concurrently, so that a member that does not respond does not delay the others.
        for answer in join_all(questions).await {
            for id in answer.into_iter().flatten() {
                *confirmed.entry(id).or_default() += 1;
            }
        }
        let is_confirmed = |id: &TargetId| {
            let owners =
                leaving.get(id).map_or(0, |to| to.iter().filter(|name| **name != self.settings.member).count());
            owners > 0 && confirmed.get(id).is_some_and(|count| *count >= owners)
        };
        let (done, rest): (Vec<TargetId>, Vec<TargetId>) = leaving.keys().copied().partition(is_confirmed);
        let deadline = self.settings.handover_deadline;
        let is_late =
            |id: &TargetId| self.leaving_since.get(id).is_some_and(|(since, _)| now.duration_since(*since) >= deadline);
        let late: Vec<TargetId> = rest.into_iter().filter(is_late).collect();
        if !late.is_empty() {
            tracing::warn!(
                targets = late.len(),
                "targets released at the handover deadline, before their owners scraped them"
            );
        }
        let (done_count, late_count) = (done.len() as u64, late.len() as u64);
        if done_count + late_count > 0 {
            manager.release(done.into_iter().chain(late).collect()).await;
            self.set(|status| {
                status.handed_over_total += done_count;
                status.expired_total += late_count;
            });
        }
    }

    /// Compares the members.
    async fn check(&mut self, manager: &ManagerHandle) {
        let Some(division) = self.status.borrow().division.clone() else { return };
        let own = self.about(manager);
        let others = division.view.members().iter().filter(|member| member.name != self.settings.member);
        let answers = others.map(|member| {
            let peers = self.peers.as_ref();
            async move {
                let answer = match peers {
                    Ok(peers) => peers.about(member).await,
                    Err(error) => Err(error.clone()),
                };
                (member.name.clone(), answer)
            }
        });
        let peers: BTreeMap<String, Result<MemberStatus, String>> = join_all(answers).await.into_iter().collect();
        let identity = |name: &str, labels: &BTreeMap<String, String>| Identity {
            member: format!("member {name:?}"),
            external_labels: Labels::from_pairs(labels),
        };
        let mut identities = vec![identity(&own.member, &own.external_labels)];
        let mut imposters = Vec::new();
        for (name, about) in peers.iter().filter_map(|(name, about)| Some((name, about.as_ref().ok()?))) {
            identities.push(identity(name, &about.external_labels));
            if about.member != *name {
                imposters.push(format!(
                    "the member listed as {name:?} calls itself {:?}; correct its section",
                    about.member
                ));
            }
        }
        let findings = fleet::check(&identities, &self.settings.replica_labels);
        let now = Instant::now();
        let other = |about: &MemberStatus| about.fingerprint != own.fingerprint;
        self.split_since.retain(|name, _| matches!(peers.get(name), Some(Ok(about)) if other(about)));
        for (name, _) in peers.iter().filter(|(_, about)| about.as_ref().is_ok_and(other)) {
            self.split_since.entry(name.clone()).or_insert(now);
        }
        let lasting = self.split_since.iter().filter(|(_, since)| now.duration_since(**since) >= SPLIT_AFTER);
        let split: Vec<String> = lasting.map(|(name, _)| name.clone()).collect();
        let (errors, warnings): (Vec<&LabelProblem>, Vec<&LabelProblem>) =
            findings.iter().partition(|finding| finding.is_error());
        let mut troubles: Vec<String> = errors.into_iter().map(ToString::to_string).collect();
        let warnings: Vec<String> = warnings.into_iter().map(ToString::to_string).collect();
        troubles.extend(
            split.iter().map(|name| format!("member {name:?} sees another list of members, or divides by other rules")),
        );
        troubles.extend(imposters.iter().cloned());
        self.report(CHECK, &troubles);
        self.report(WARNINGS, &warnings);
        self.set(|status| {
            status.problems.retain(|problem| !problem.starts_with("the member listed as"));
            status.problems.extend(imposters);
            (status.peers, status.findings, status.split) = (peers, findings, split);
        });
    }

    fn about(&self, manager: &ManagerHandle) -> MemberStatus {
        about(&self.status.borrow(), &self.external_labels, manager)
    }
}

/// Returns the state of this member.
pub fn about(status: &FleetStatus, external_labels: &Labels, manager: &ManagerHandle) -> MemberStatus {
    let set = manager.watch().borrow().clone();
    MemberStatus {
        member: status.member.clone().unwrap_or_default(),
        fingerprint: status.fingerprint(),
        external_labels: external_labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        targets: set.pools.iter().map(|pool| pool.active.len()).sum(),
        leaving: set.pools.iter().map(|pool| pool.leaving.len()).sum(),
    }
}

/// Runs all futures concurrently in this task; returns their results in order.
async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut is_done = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}
