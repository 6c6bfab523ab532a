//! The Alertmanagers of one entry of `alertmanagers`: found, relabelled, and each with its endpoint.
//!
//! Invariants:
//!   * an Alertmanager that is found again keeps its endpoint and its queue
//!   * two addresses with one URL are one Alertmanager

use crate::endpoint::{ANSWER_BYTES_MAX, Endpoint};
use crate::{Alert, Options};
use client::{Client, ClientOptions};
use config::AlertmanagerConfig;
use series::{Labels, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};
use targets::{Follow, Sd};
use tokio::task::JoinHandle;
use url::Url;

const ADDRESS: &str = "__address__";
const SCHEME: &str = "__scheme__";
const PATH: &str = "__alerts_path__";

/// What was found, and what became of it.
#[derive(Clone, Default)]
pub struct Members {
    pub active: Vec<Arc<Endpoint>>,
    /// URLs of those that relabelling dropped.
    pub dropped: Vec<String>,
    /// What is wrong: an address that is none, a list that cannot be read.
    pub errors: Vec<String>,
}

/// One entry of `alertmanagers` at work.
pub struct Group {
    pub config: AlertmanagerConfig,
    members: Arc<Mutex<Members>>,
    task: JoinHandle<()>,
}

impl Group {
    /// Starts it. Alertmanagers that are known without waiting get alerts from now on.
    pub async fn start(config: AlertmanagerConfig, options: Options, sd: &Sd) -> Group {
        let members = Arc::new(Mutex::new(Members::default()));
        let limits = ClientOptions { timeout: config.timeout, body_bytes_max: ANSWER_BYTES_MAX };
        let client = match Client::new(&config.http, limits) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "alerts do not go to these Alertmanagers");
                lock(&members).errors.push(error.to_string());
                return Group { config, members, task: tokio::spawn(async {}) };
            }
        };
        let mut follow = Follow::start(&config.discoveries, sd).await;
        update(&members, &follow, &config, &client, &options);
        let (shared, settings) = (members.clone(), config.clone());
        let task = tokio::spawn(async move {
            loop {
                follow.changed().await;
                update(&shared, &follow, &settings, &client, &options);
            }
        });
        Group { config, members, task }
    }

    pub fn members(&self) -> Members {
        lock(&self.members).clone()
    }

    /// Gives alerts to each Alertmanager, after the group's own rules.
    pub fn push(&self, alerts: &[Arc<Alert>], now: Timestamp) {
        let rules = &self.config.alert_relabel_configs;
        let own: Vec<Arc<Alert>>;
        let alerts = if rules.is_empty() {
            alerts
        } else {
            let relabelled = |alert: &Arc<Alert>| alert.relabelled(&Labels::empty(), rules).map(Arc::new);
            own = alerts.iter().filter_map(relabelled).collect();
            &own
        };
        if !alerts.is_empty() {
            lock(&self.members).active.iter().for_each(|endpoint| endpoint.push(alerts, now));
        }
    }

    /// Ends discovery, and lets the endpoints end.
    pub fn end(&self, drain: bool) {
        self.task.abort();
        lock(&self.members).active.iter().for_each(|endpoint| endpoint.end(drain));
    }
}

fn lock(members: &Mutex<Members>) -> std::sync::MutexGuard<'_, Members> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}

fn update(members: &Mutex<Members>, follow: &Follow, config: &AlertmanagerConfig, client: &Client, options: &Options) {
    let mut found = Members { errors: follow.errors(), ..Members::default() };
    let mut members = lock(members);
    for address in follow.addresses() {
        match place(config, &address) {
            Place::At(url) if found.active.iter().any(|endpoint| endpoint.url == url) => {}
            Place::At(url) => {
                let known = members.active.iter().find(|endpoint| endpoint.url == url);
                let start = || Endpoint::start(url.clone(), client.clone(), config.timeout, options);
                found.active.push(known.map_or_else(start, Arc::clone));
            }
            Place::Dropped(url) => found.dropped.push(url),
            Place::Nowhere(error) => found.errors.push(error),
        }
    }
    for error in found.errors.iter().filter(|error| !members.errors.contains(error)) {
        tracing::error!(error, "looking for Alertmanagers");
    }
    for gone in members.active.iter().filter(|old| !found.active.iter().any(|new| Arc::ptr_eq(old, new))) {
        gone.end(options.drain_on_shutdown);
    }
    *members = found;
}

#[derive(Debug)]
enum Place {
    At(Url),
    Dropped(String),
    Nowhere(String),
}

/// Where the Alertmanager with these labels is.
fn place(config: &AlertmanagerConfig, found: &Labels) -> Place {
    let mut labels = found.to_builder();
    labels.set(SCHEME, &config.scheme);
    let prefix = config.path_prefix.trim_matches('/');
    let slash = if prefix.is_empty() { "" } else { "/" };
    labels.set(PATH, &format!("{slash}{prefix}/api/v2/alerts"));
    // What was found says it better.
    for name in [SCHEME, PATH] {
        if let Some(value) = found.get(name) {
            labels.set(name, value);
        }
    }
    let text = |labels: &series::LabelsBuilder| {
        let path = labels.get(PATH);
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{}://{}{slash}{path}", labels.get(SCHEME), labels.get(ADDRESS))
    };
    let before = text(&labels);
    if !config.relabel_configs.apply(&mut labels).is_kept() {
        return Place::Dropped(Url::parse(&before).map_or(before, |url| client::shown(&url)));
    }
    let address = labels.get(ADDRESS);
    if address.is_empty() || address.contains('/') {
        return Place::Nowhere(format!("{address:?} is not a valid hostname"));
    }
    if !matches!(labels.get(SCHEME), "http" | "https") {
        return Place::Nowhere(format!("{address}: unsupported protocol scheme {:?}", labels.get(SCHEME)));
    }
    match Url::parse(&text(&labels)) {
        Ok(url) => Place::At(url),
        Err(error) => Place::Nowhere(format!("{address:?} is no address of an Alertmanager: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(settings: &str, labels: &[(&str, &str)], want: &str) {
        let yaml = format!("alerting:\n  alertmanagers:\n    - {{{settings}}}\n");
        let config = config::parse_config("prometheus.yml".as_ref(), &yaml, &config::Env::process()).unwrap();
        let got = match place(&config.alerting.alertmanagers[0], &Labels::from_pairs(labels.iter().copied())) {
            Place::At(url) => url.to_string(),
            Place::Dropped(url) => format!("dropped {url}"),
            Place::Nowhere(error) => error,
        };
        assert_eq!(got, want);
    }

    #[test]
    fn places() {
        const AM: &[(&str, &str)] = &[("__address__", "am:9093"), ("__meta_zone", "a")];
        check("timeout: 1s", AM, "http://am:9093/api/v2/alerts");
        check("scheme: https, path_prefix: /team/am/", AM, "https://am:9093/team/am/api/v2/alerts");
        check("path_prefix: am", AM, "http://am:9093/am/api/v2/alerts");
        check("timeout: 1s", &[("__address__", "[::1]:9093")], "http://[::1]:9093/api/v2/alerts");
        check(
            "relabel_configs: [{source_labels: [__meta_zone], regex: a, action: drop}]",
            AM,
            "dropped http://am:9093/api/v2/alerts",
        );
        check(
            "relabel_configs: [{target_label: __alerts_path__, replacement: /x}, {target_label: __scheme__, replacement: https}]",
            AM,
            "https://am:9093/x",
        );
        check(
            "relabel_configs: [{target_label: __scheme__, replacement: ftp}]",
            AM,
            "am:9093: unsupported protocol scheme \"ftp\"",
        );
        check("timeout: 1s", &[("__address__", "am/x")], "\"am/x\" is not a valid hostname");
        check("timeout: 1s", &[], "\"\" is not a valid hostname");
    }
}
