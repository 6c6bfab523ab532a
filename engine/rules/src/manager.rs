//! Runs groups, each at its phase, and applies changed rule files.
//!
//! Invariants:
//!   * a group is evaluated by one thread at a time, and at most once for a time
//!   * a reload leaves unchanged groups as they are; rules that stay keep their states in a changed group
//!   * the series of removed rules end

use crate::group::Group;
use crate::host::RuleBackend;
use crate::load::GroupSpec;
use crate::options::Options;
use crate::schedule::Schedule;
use crate::snapshot::{GroupView, Snapshot};
use crate::stats::Timings;
use series::{Labels, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Interval at which a start checks whether queries have complete data.
const READY_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Runs groups. Cloning copies a pointer.
#[derive(Clone)]
pub struct Manager(Arc<Inner>);

struct Inner {
    host: Arc<dyn RuleBackend>,
    options: Options,
    timings: Timings,
    /// For the monotonic clock.
    started: Instant,
    running: Mutex<RunningGroups>,
    /// Serializes reloads.
    reloading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct RunningGroups {
    groups: Vec<Runner>,
    /// Views of the groups; they remain while a reload owns the groups.
    views: Vec<watch::Receiver<Arc<GroupView>>>,
    /// Whether groups were applied before: later groups have nothing to restore.
    loaded: bool,
}

/// A group and the task that evaluates it.
struct Runner {
    key: String,
    fingerprint: String,
    view: watch::Receiver<Arc<GroupView>>,
    /// Ends the task, which returns the group.
    stop: oneshot::Sender<()>,
    task: JoinHandle<Group>,
}

fn wall() -> Timestamp {
    Timestamp(series::clock::now_ms())
}

impl Manager {
    /// Returns a manager without groups; the first [`Manager::reload`] adds them.
    pub fn new(host: Arc<dyn RuleBackend>, options: Options) -> Manager {
        let (timings, started) = (Timings::default(), Instant::now());
        let (running, reloading) = (Mutex::default(), tokio::sync::Mutex::default());
        Manager(Arc::new(Inner { host, options, timings, started, running, reloading }))
    }

    fn running<T>(&self, act: impl FnOnce(&mut RunningGroups) -> T) -> T {
        act(&mut self.0.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applies these groups. Waits for evaluations of changed groups.
    pub async fn reload(&self, specs: Vec<GroupSpec>) {
        let _one = self.0.reloading.lock().await;
        let (old, loaded) = self.running(|running| (std::mem::take(&mut running.groups), running.loaded));
        let mut old: HashMap<String, Runner> = old.into_iter().map(|runner| (runner.key.clone(), runner)).collect();
        let mut groups = Vec::with_capacity(specs.len());
        for spec in specs {
            let (key, fingerprint) = (spec.key(), spec.fingerprint());
            match old.remove(&key) {
                Some(runner) if runner.fingerprint == fingerprint => groups.push(runner),
                before => {
                    let mut group = Group::new(Arc::new(spec), loaded);
                    if let Some(before) = before
                        && let Some(before) = before.stop().await
                    {
                        group.take_over(before);
                    }
                    groups.push(self.run(group, key, fingerprint));
                }
            }
        }
        groups.sort_by(|one, other| {
            let place = |runner: &Runner| {
                let view = runner.view.borrow();
                (view.file.clone(), view.name.clone())
            };
            place(one).cmp(&place(other))
        });
        let views = groups.iter().map(|runner| runner.view.clone()).collect();
        self.running(|running| *running = RunningGroups { groups, views, loaded: true });
        for runner in old.into_values() {
            if let Some(group) = runner.stop().await {
                self.end_series(&group).await;
            }
        }
    }

    /// Ends the series of a removed group.
    async fn end_series(&self, group: &Group) {
        let (host, sources) = (self.0.host.clone(), group.sources());
        let end = move || {
            let at = wall();
            let waiting: Vec<_> = sources.iter().map(|source| host.write(source, at, Vec::new())).collect();
            waiting.into_iter().filter_map(|pending| pending().err()).for_each(|error| {
                tracing::warn!(error, "ending the series of a removed rule failed");
            });
        };
        if let Err(error) = tokio::task::spawn_blocking(end).await {
            tracing::error!(%error, "ending series failed");
        }
    }

    fn run(&self, group: Group, key: String, fingerprint: String) -> Runner {
        let (view_to, view) = watch::channel(Arc::new(group.view()));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(self.clone().evaluate(group, view_to, stopped));
        Runner { key, fingerprint, view, stop, task }
    }

    fn now_ms(&self) -> i64 {
        self.0.started.elapsed().as_millis() as i64
    }

    /// Evaluates a group at its times until it is stopped.
    async fn evaluate(
        self,
        mut group: Group,
        view: watch::Sender<Arc<GroupView>>,
        mut stopped: oneshot::Receiver<()>,
    ) -> Group {
        while !self.0.host.is_ready() {
            tokio::select! {
                _ = &mut stopped => return group,
                () = tokio::time::sleep(READY_AGAIN_AFTER) => {}
            }
        }
        let spec = group.spec.clone();
        let file = spec.file.display().to_string();
        let hash = Labels::from_pairs([("file", file.as_str()), ("name", spec.name.as_str())]).hash64();
        let mut schedule = Schedule::start(hash, crate::group::millis(spec.interval), wall().0, self.now_ms());
        let mut rounds = 0_u64;
        loop {
            let wait = u64::try_from(schedule.due() - self.now_ms()).unwrap_or(0);
            tokio::select! {
                _ = &mut stopped => return group,
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
            if self.now_ms() < schedule.due() {
                continue;
            }
            let tick = schedule.tick(wall().0, self.now_ms());
            rounds += 1;
            let inner = self.0.clone();
            let view = view.clone();
            let work = move || {
                group.missed(tick.missed);
                if tick.jumped_ms != 0 {
                    tracing::warn!(
                        group = group.spec.name,
                        ms = tick.jumped_ms,
                        "the wall clock was set; alerts keep their age"
                    );
                    group.shift(tick.jumped_ms);
                }
                group.evaluate(Timestamp(tick.at), wall(), &*inner.host, &inner.options, &inner.timings);
                // The first evaluation may run before the data that alerts depend on is available.
                if rounds == 2 {
                    group.restore(wall(), &*inner.host, &inner.options);
                }
                view.send_replace(Arc::new(group.view()));
                group
            };
            group = match tokio::task::spawn_blocking(work).await {
                Ok(group) => group,
                // Only at the end of the process, because a panic ends it as well.
                Err(_) => return std::future::pending().await,
            };
        }
    }

    /// Returns the current state of all rules.
    pub fn snapshot(&self) -> Snapshot {
        self.running(|running| Snapshot { groups: running.views.iter().map(|view| view.borrow().clone()).collect() })
    }

    pub fn timings(&self) -> &Timings {
        &self.0.timings
    }

    /// Ends all evaluations. The series do not end, so that a restart continues them.
    pub async fn shutdown(&self) {
        let _one = self.0.reloading.lock().await;
        for runner in self.running(|running| std::mem::take(&mut running.groups)) {
            runner.stop().await;
        }
    }
}

impl Runner {
    /// Waits for the current evaluation.
    async fn stop(self) -> Option<Group> {
        // The receiver is gone if the task has ended already.
        let _ = self.stop.send(());
        self.task.await.ok()
    }
}
