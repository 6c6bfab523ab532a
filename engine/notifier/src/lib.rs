//! Sends alerts to every Alertmanager of the configuration: relabelling, a queue for each, delivery.
//!
//! Rule evaluation calls [`Notifier::send`] with each alert, repeatedly while it fires. This crate knows nothing of rules
//! and expressions.
//!
//! Invariants:
//!   * every discovered Alertmanager is sent every alert that its relabelling rules do not drop
//!   * `send` does not wait: undelivered alerts fill a queue of [`Options::queue_capacity`], which then drops the oldest
//!   * an Alertmanager that hangs or fails delays no other

mod alert;
mod endpoint;
mod group;
pub mod queue;

pub use alert::Alert;

use config::{AlertmanagerConfig, Config};
use group::AlertmanagerSet;
use hdrhistogram::Histogram;
use queue::Counts;
use relabel::Program;
use series::{Labels, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use targets::DiscoveryContext;

/// Time within which queued notifications are sent at the end of the process.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// Settings of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Capacity of the queue of one Alertmanager, in alerts.
    pub queue_capacity: usize,
    /// Largest number of alerts in one request.
    pub batch_max: usize,
    /// Whether queued alerts are sent at shutdown, and to an Alertmanager that is no longer discovered.
    pub drain_on_shutdown: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { queue_capacity: 10_000, batch_max: 256, drain_on_shutdown: true }
    }
}

/// Queues and delivers alerts. Cloning copies a pointer.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    options: Options,
    sd: DiscoveryContext,
    state: Mutex<State>,
}

struct State {
    external_labels: Labels,
    rules: Program,
    groups: Vec<Arc<AlertmanagerSet>>,
}

/// State of one Alertmanager.
#[derive(Clone, Debug)]
pub struct AlertmanagerStats {
    pub url: String,
    pub counts: Counts,
    pub queue_length: usize,
    /// Durations of successful deliveries, in microseconds.
    pub latency_us: Histogram<u64>,
}

/// State of all Alertmanagers.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub alertmanagers: Vec<AlertmanagerStats>,
    /// URLs of those that relabelling dropped.
    pub dropped: Vec<String>,
    /// Current errors of their discovery.
    pub errors: Vec<String>,
    pub queue_capacity: usize,
}

impl Notifier {
    /// Returns a notifier without Alertmanagers; the first [`Notifier::reload`] adds them.
    pub fn new(options: Options, sd: DiscoveryContext) -> Notifier {
        let state = State { external_labels: Labels::empty(), rules: Program::default(), groups: Vec::new() };
        Notifier(Arc::new(Inner { options, sd, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the section `alerting` and the external labels. Only one reload runs at a time. An entry with equal settings
    /// stays as it is; the Alertmanagers of removed entries are sent their queues and are then removed.
    pub async fn reload(&self, config: &Config) {
        let mut old = self.state().groups.clone();
        let mut groups = Vec::with_capacity(config.alerting.alertmanagers.len());
        for settings in &config.alerting.alertmanagers {
            let settings: &AlertmanagerConfig = settings;
            let group = match old.iter().position(|group| group.config == *settings) {
                Some(at) => old.swap_remove(at),
                None => Arc::new(AlertmanagerSet::start(settings.clone(), self.0.options.clone(), &self.0.sd).await),
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

    /// Queues alerts for every Alertmanager. Does not wait.
    pub fn send(&self, alerts: Vec<Alert>) {
        let now = Timestamp(series::clock::now_ms());
        let state = self.state();
        let relabelled = |alert: &Alert| alert.relabelled(&state.external_labels, &state.rules).map(Arc::new);
        let alerts: Vec<Arc<Alert>> = alerts.iter().filter_map(relabelled).collect();
        if !alerts.is_empty() {
            state.groups.iter().for_each(|group| group.push(&alerts, now));
        }
    }

    /// Returns the current state of all Alertmanagers.
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

    /// Ends all deliveries, after sending the queues within `DRAIN_WITHIN` if the options say so. `send` must not be called
    /// afterwards.
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
