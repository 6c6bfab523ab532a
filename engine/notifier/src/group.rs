//! The Alertmanagers of one entry of `alertmanagers`: discovered, relabelled, each with its endpoint.
//!
//! Invariants:
//!   * an Alertmanager that is discovered again keeps its endpoint and its queue
//!   * two addresses with the same URL are one Alertmanager

use crate::endpoint::{ANSWER_BYTES_MAX, Endpoint};
use crate::{Alert, Options};
use client::{Client, ClientOptions, Cloud};
use config::AlertmanagerConfig;
use series::{Labels, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};
use targets::{DiscoveryContext, DiscoveryWatcher};
use tokio::task::JoinHandle;
use url::Url;

const ADDRESS: &str = "__address__";
const SCHEME: &str = "__scheme__";
const PATH: &str = "__alerts_path__";

/// The discovered Alertmanagers.
#[derive(Clone, Default)]
pub struct DiscoveredEndpoints {
    pub active: Vec<Arc<Endpoint>>,
    /// URLs of those that relabelling dropped.
    pub dropped: Vec<String>,
    /// Errors of discovery: invalid addresses, lists that cannot be read.
    pub errors: Vec<String>,
}

/// One entry of `alertmanagers`.
pub struct AlertmanagerSet {
    pub config: AlertmanagerConfig,
    members: Arc<Mutex<DiscoveredEndpoints>>,
    task: JoinHandle<()>,
}

impl AlertmanagerSet {
    /// Starts discovery. Statically configured Alertmanagers receive alerts from the return of this function on.
    pub async fn start(config: AlertmanagerConfig, options: Options, sd: &DiscoveryContext) -> AlertmanagerSet {
        let members = Arc::new(Mutex::new(DiscoveredEndpoints::default()));
        let limits =
            ClientOptions { timeout: config.timeout, body_bytes_max: ANSWER_BYTES_MAX, ..ClientOptions::default() };
        let sign = |sigv4| Cloud::aws(sigv4, config.timeout, client::process_variables());
        let cloud = config.sigv4.as_ref().map(sign).transpose();
        let client = match cloud.and_then(|cloud| Client::with_cloud(&config.http, limits, cloud)) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "invalid HTTP settings, no alerts are sent to these Alertmanagers");
                lock(&members).errors.push(error.to_string());
                return AlertmanagerSet { config, members, task: tokio::spawn(async {}) };
            }
        };
        let mut follow = DiscoveryWatcher::start(&config.discoveries, sd).await;
        update(&members, &follow, &config, &client, &options);
        let (shared, settings) = (members.clone(), config.clone());
        let task = tokio::spawn(async move {
            loop {
                follow.changed().await;
                update(&shared, &follow, &settings, &client, &options);
            }
        });
        AlertmanagerSet { config, members, task }
    }

    pub fn members(&self) -> DiscoveredEndpoints {
        lock(&self.members).clone()
    }

    /// Queues alerts for each Alertmanager, after applying the relabelling rules of the entry.
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

    /// Ends discovery and the endpoints.
    pub fn end(&self, drain: bool) {
        self.task.abort();
        lock(&self.members).active.iter().for_each(|endpoint| endpoint.end(drain));
    }
}

fn lock(members: &Mutex<DiscoveredEndpoints>) -> std::sync::MutexGuard<'_, DiscoveredEndpoints> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}

fn update(
    members: &Mutex<DiscoveredEndpoints>,
    follow: &DiscoveryWatcher,
    config: &AlertmanagerConfig,
    client: &Client,
    options: &Options,
) {
    let mut found = DiscoveredEndpoints { errors: follow.errors(), ..DiscoveredEndpoints::default() };
    let mut members = lock(members);
    for address in follow.addresses() {
        match endpoint_address(config, &address) {
            AlertmanagerAddress::Valid(url) if found.active.iter().any(|endpoint| endpoint.url == url) => {}
            AlertmanagerAddress::Valid(url) => {
                let known = members.active.iter().find(|endpoint| endpoint.url == url);
                let start = || Endpoint::start(url.clone(), client.clone(), config.timeout, options);
                found.active.push(known.map_or_else(start, Arc::clone));
            }
            AlertmanagerAddress::Dropped(url) => found.dropped.push(url),
            AlertmanagerAddress::Invalid(error) => found.errors.push(error),
        }
    }
    for error in found.errors.iter().filter(|error| !members.errors.contains(error)) {
        tracing::error!(error, "discovery of Alertmanagers failed");
    }
    for gone in members.active.iter().filter(|old| !found.active.iter().any(|new| Arc::ptr_eq(old, new))) {
        gone.end(options.drain_on_shutdown);
    }
    *members = found;
}

#[derive(Debug)]
enum AlertmanagerAddress {
    Valid(Url),
    Dropped(String),
    Invalid(String),
}

/// Returns the address of the Alertmanager with these discovered labels.
fn endpoint_address(config: &AlertmanagerConfig, found: &Labels) -> AlertmanagerAddress {
    let mut labels = found.to_builder();
    labels.set(SCHEME, &config.scheme);
    let prefix = config.path_prefix.trim_matches('/');
    let slash = if prefix.is_empty() { "" } else { "/" };
    labels.set(PATH, &format!("{slash}{prefix}/api/v2/alerts"));
    // Discovered labels win over those of the configuration.
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
    if !config.relabel_configs.apply(&mut labels).is_keep() {
        return AlertmanagerAddress::Dropped(Url::parse(&before).map_or(before, |url| client::shown(&url)));
    }
    let address = labels.get(ADDRESS);
    if address.is_empty() || address.contains('/') {
        return AlertmanagerAddress::Invalid(format!("{address:?} is not a valid hostname"));
    }
    if !["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(labels.get(SCHEME))) {
        return AlertmanagerAddress::Invalid(format!(
            "{address}: unsupported protocol scheme {:?}",
            labels.get(SCHEME)
        ));
    }
    match Url::parse(&text(&labels)) {
        Ok(url) => AlertmanagerAddress::Valid(url),
        Err(error) => AlertmanagerAddress::Invalid(format!("{address:?} is not a valid Alertmanager address: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(settings: &str, labels: &[(&str, &str)], want: &str) {
        let yaml = format!("alerting:\n  alertmanagers:\n    - {{{settings}}}\n");
        let config = config::parse_config("prometheus.yml".as_ref(), &yaml, &config::Env::process()).unwrap();
        let got = match endpoint_address(&config.alerting.alertmanagers[0], &Labels::from_pairs(labels.iter().copied()))
        {
            AlertmanagerAddress::Valid(url) => url.to_string(),
            AlertmanagerAddress::Dropped(url) => format!("dropped {url}"),
            AlertmanagerAddress::Invalid(error) => error,
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
