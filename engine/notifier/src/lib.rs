//! Alerts to every Alertmanager of the configuration: relabelled, queued for each, delivered.
//!
//! Who evaluates rules hands alerts to [`Notifier::send`], again and again while they fire; this crate knows nothing of
//! rules and expressions.
//!
//! Invariants:
//!   * every Alertmanager that is known gets every alert that its rules let pass
//!   * `send` never waits: what cannot be delivered fills a queue of [`Options::queue_capacity`] and then pushes out the oldest
//!   * an Alertmanager that hangs or fails delays no other

mod alert;
mod endpoint;
mod group;
pub mod queue;

pub use alert::Alert;

use config::{AlertmanagerConfig, Config};
use group::Group;
use hdrhistogram::Histogram;
use queue::Counts;
use relabel::Program;
use series::{Labels, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use targets::Sd;

/// How long the notifications that wait may take at the end of the process.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// Settings of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Alerts that may wait for one Alertmanager.
    pub queue_capacity: usize,
    /// Alerts in one request.
    pub batch_max: usize,
    /// Whether what waits is still sent at the end, and to an Alertmanager that is no longer in the list.
    pub drain_on_shutdown: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { queue_capacity: 10_000, batch_max: 256, drain_on_shutdown: true }
    }
}

/// Takes alerts and delivers them. Cloning copies a pointer.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    options: Options,
    sd: Sd,
    state: Mutex<State>,
}

struct State {
    external_labels: Labels,
    rules: Program,
    groups: Vec<Arc<Group>>,
}

/// One Alertmanager and what became of its alerts.
#[derive(Clone, Debug)]
pub struct AlertmanagerStats {
    pub url: String,
    pub counts: Counts,
    pub queue_length: usize,
    /// Microseconds of each delivery that went well.
    pub latency_us: Histogram<u64>,
}

/// What is known of all Alertmanagers.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub alertmanagers: Vec<AlertmanagerStats>,
    /// URLs of those that relabelling dropped.
    pub dropped: Vec<String>,
    /// What is wrong with their discovery at the moment.
    pub errors: Vec<String>,
    pub queue_capacity: usize,
}

impl Notifier {
    /// Knows no Alertmanager before the first [`Notifier::reload`].
    pub fn new(options: Options, sd: Sd) -> Notifier {
        let state = State { external_labels: Labels::empty(), rules: Program::default(), groups: Vec::new() };
        Notifier(Arc::new(Inner { options, sd, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the section `alerting` and the external labels. Reloads follow each other, one at a time. A group with
    /// equal settings goes on as it is; the Alertmanagers of others get what waits for them, and are forgotten.
    pub async fn reload(&self, config: &Config) {
        let mut old = self.state().groups.clone();
        let mut groups = Vec::with_capacity(config.alerting.alertmanagers.len());
        for settings in &config.alerting.alertmanagers {
            let settings: &AlertmanagerConfig = settings;
            let group = match old.iter().position(|group| group.config == *settings) {
                Some(at) => old.swap_remove(at),
                None => Arc::new(Group::start(settings.clone(), self.0.options.clone(), &self.0.sd).await),
            };
            groups.push(group);
        }
        {
            let mut state = self.state();
            state.external_labels = config.global.external_labels.clone();
            state.rules = config.alerting.alert_relabel_configs.clone();
            state.groups = groups;
        }
        old.iter().for_each(|group| group.end(self.0.options.drain_on_shutdown));
    }

    /// Queues alerts for every Alertmanager. Never waits.
    pub fn send(&self, alerts: Vec<Alert>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let state = self.state();
        let relabelled = |alert: &Alert| alert.relabelled(&state.external_labels, &state.rules).map(Arc::new);
        let alerts: Vec<Arc<Alert>> = alerts.iter().filter_map(relabelled).collect();
        if !alerts.is_empty() {
            state.groups.iter().for_each(|group| group.push(&alerts, Timestamp(now)));
        }
    }

    /// Alertmanagers with their queues, as they are now.
    pub fn stats(&self) -> Stats {
        let groups = self.state().groups.clone();
        let mut stats = Stats { queue_capacity: self.0.options.queue_capacity, ..Stats::default() };
        for members in groups.iter().map(|group| group.members()) {
            stats.dropped.extend(members.dropped);
            stats.errors.extend(members.errors);
            stats.alertmanagers.extend(members.active.iter().map(|endpoint| AlertmanagerStats {
                url: client::shown(&endpoint.url),
                counts: endpoint.counts(),
                queue_length: endpoint.queue_length(),
                latency_us: endpoint.latency_us(),
            }));
        }
        stats
    }

    /// Ends all deliveries. What waits is sent before, if the options say so, within `DRAIN_WITHIN`; `send` must not be
    /// called any more.
    pub async fn shutdown(&self) {
        let groups = std::mem::take(&mut self.state().groups);
        groups.iter().for_each(|group| group.end(self.0.options.drain_on_shutdown));
        let endpoints: Vec<_> = groups.iter().flat_map(|group| group.members().active).collect();
        let all_ended = async {
            for endpoint in &endpoints {
                endpoint.ended().await;
            }
        };
        if tokio::time::timeout(DRAIN_WITHIN, all_ended).await.is_err() {
            groups.iter().for_each(|group| group.end(false));
            for endpoint in &endpoints {
                endpoint.ended().await;
            }
        }
    }
}
