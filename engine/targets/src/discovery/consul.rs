//! Services of a Consul catalogue: one blocking query for the catalogue, one per service for its instances.
//!
//! Invariants:
//!   * a service whose query fails keeps its last good instances
//!   * the first list is reported when every service has responded once, if only with an error, or after [`FIRST_WITHIN`]
//!   * a query is sent at most once per refresh interval, however often the index changes

use super::bounded::{Bounded, BoundedMap};
use super::{Group, ReceiverClosed, Reporter, host_port, pause, random, sanitized};
use client::{Client, ClientOptions, Request, Response, StatusCode, Url};
use config::{BasicAuth, ConsulSdConfig, HttpConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use series::Labels;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// Time for which Consul may hold a query while nothing changes.
const WAIT: Duration = Duration::from_secs(120);
/// Time allowed beyond that: Consul adds up to a sixteenth, and the network its latency.
const ANSWER_WITHIN: Duration = Duration::from_secs(WAIT.as_secs() + 15);
/// Size of a response, in bytes.
const BODY_BYTES_MAX: usize = 128 << 20;
/// Number of services that are watched.
const SERVICES_MAX: usize = 20_000;
/// Time for which changes are collected before a list is reported.
const SETTLE: Duration = Duration::from_millis(100);
/// Time after which the first list is reported without the services that have not responded.
const FIRST_WITHIN: Duration = Duration::from_secs(30);
const NEWS_WAITING_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Node {
    node: String,
    address: String,
    partition: String,
    tagged_addresses: Option<BTreeMap<String, String>>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    address: String,
    port: u64,
    namespace: String,
    partition: String,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Check {
    #[serde(rename = "CheckID")]
    check_id: String,
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Agent {
    config: AgentConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AgentConfig {
    datacenter: String,
}

/// Result of a query.
struct SourceUpdate {
    since: Instant,
    /// As Prometheus names it: `services` or `service`.
    call: &'static str,
    what: What,
}

enum What {
    /// Services that have all required tags.
    Catalogue(Result<BTreeSet<String>, String>),
    Instances(String, Result<Vec<Labels>, String>),
    /// The index has not changed.
    Nothing,
}

/// Client for the configured Consul.
#[derive(Clone)]
struct Consul {
    client: Client,
    settings: Arc<ConsulSdConfig>,
    base: Url,
    datacenter: String,
    news: mpsc::Sender<SourceUpdate>,
}

/// Reports the services of the catalogue until it is dropped.
pub async fn follow(settings: ConsulSdConfig, mut report: Reporter) {
    let (news, mut inbox) = mpsc::channel(NEWS_WAITING_MAX);
    let settings = Arc::new(settings);
    let mut consul = match reach(settings.clone(), news) {
        Ok(consul) => consul,
        Err(error) => {
            let _ = report.failed(error).await;
            return;
        }
    };
    while consul.datacenter.is_empty() {
        let since = Instant::now();
        let answer: Result<(Agent, u64), String> = consul.request("agent/self", &[], 0).await;
        report.attempted(since);
        match answer {
            Ok((agent, _)) => consul.datacenter = agent.config.datacenter,
            Err(error) => {
                if report.failed(error).await.is_err() {
                    return;
                }
                report.pause(settings.refresh_interval).await;
                continue;
            }
        }
        if consul.datacenter.is_empty() {
            let _ = report.failed("the agent names no datacenter; set `datacenter`".to_owned()).await;
            report.pause(settings.refresh_interval).await;
        }
    }
    // Aborts all queries when this future is dropped.
    let mut tasks = JoinSet::new();
    let mut state = State::new(&report);
    if settings.services.is_empty() || !settings.tags.is_empty() || !settings.filter.is_empty() {
        tasks.spawn(consul.clone().watch_catalogue());
    } else {
        state.watch(settings.services.iter().cloned().collect(), &consul, &mut tasks);
    }
    let started = Instant::now();
    while let Some(first) = inbox.recv().await {
        state.take(first, &mut report, &consul, &mut tasks);
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                Some(news) = inbox.recv() => state.take(news, &mut report, &consul, &mut tasks),
                () = &mut settled => break,
            }
        }
        let is_whole = state.has_catalogue && state.silent.is_empty();
        let told = if is_whole || (state.has_catalogue && started.elapsed() > FIRST_WITHIN) {
            report.good(state.groups(), state.errors()).await
        } else if let Some(error) = state.errors().into_iter().next() {
            report.failed(error).await
        } else {
            Ok(())
        };
        if let Err(ReceiverClosed) = told {
            return;
        }
    }
}

/// State of the catalogue.
struct State {
    has_catalogue: bool,
    good: BTreeMap<String, Arc<Group>>,
    /// Services that have not responded yet.
    silent: BTreeSet<String>,
    tasks: BTreeMap<String, AbortHandle>,
    failing: BTreeMap<String, String>,
}

/// Key of the catalogue's own errors among those of services; no service has this name.
const CATALOGUE: &str = "";

impl State {
    fn new(report: &Reporter) -> State {
        let kept = |group: &Arc<Group>| Some((group.labels.get("__meta_consul_service")?.to_owned(), group.clone()));
        let good = report.groups().iter().filter_map(kept).collect();
        State { has_catalogue: false, good, silent: BTreeSet::new(), tasks: BTreeMap::new(), failing: BTreeMap::new() }
    }

    /// Starts and ends queries, so that exactly these services are watched.
    fn watch(&mut self, services: BTreeSet<String>, consul: &Consul, tasks: &mut JoinSet<()>) {
        self.has_catalogue = true;
        self.tasks.retain(|name, task| {
            let stays = services.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
        self.good.retain(|name, _| services.contains(name));
        self.silent.retain(|name| services.contains(name));
        self.failing.retain(|name, _| name == CATALOGUE || services.contains(name));
        for name in services {
            if !self.tasks.contains_key(&name) {
                let task = tasks.spawn(consul.clone().watch_service(name.clone()));
                self.tasks.insert(name.clone(), task);
                self.silent.insert(name);
            }
        }
        while tasks.try_join_next().is_some() {}
    }

    fn take(&mut self, news: SourceUpdate, report: &mut Reporter, consul: &Consul, tasks: &mut JoinSet<()>) {
        report.called(news.call, news.since);
        report.count_requests(1);
        match news.what {
            What::Nothing => {}
            What::Catalogue(Ok(services)) if services.len() > SERVICES_MAX => {
                let count = services.len();
                report.count_failure();
                let error = format!("{count} services are more than {SERVICES_MAX}; narrow them by services or filter");
                self.failing.insert(CATALOGUE.to_owned(), error);
            }
            What::Catalogue(Ok(services)) => {
                self.failing.remove(CATALOGUE);
                self.watch(services, consul, tasks);
            }
            What::Catalogue(Err(error)) => {
                report.count_failure();
                self.failing.insert(CATALOGUE.to_owned(), error);
            }
            What::Instances(name, outcome) => {
                if !self.tasks.contains_key(&name) {
                    return;
                }
                match outcome {
                    Ok(targets) => {
                        self.silent.remove(&name);
                        self.failing.remove(&name);
                        let dc = consul.datacenter.as_str();
                        let labels = [("__meta_consul_dc", dc), ("__meta_consul_service", name.as_str())];
                        let labels = Labels::from_pairs(labels);
                        self.good.insert(name, Arc::new(Group { targets, labels }));
                    }
                    Err(error) => {
                        // Its last instances stay; those of the other services do not wait for it.
                        report.count_failure();
                        self.silent.remove(&name);
                        self.failing.insert(name, error);
                    }
                }
            }
        }
    }

    fn groups(&self) -> Vec<Arc<Group>> {
        self.good.values().cloned().collect()
    }

    /// Returns one error for the catalogue, and one for all services that fail in the same way.
    fn errors(&self) -> Vec<String> {
        let mut by_text: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, error) in &self.failing {
            by_text.entry(error).or_default().push(name);
        }
        let shown = |(error, names): (&str, Vec<&str>)| match names.as_slice() {
            [CATALOGUE] => format!("consul: {error}"),
            [name] => format!("consul: service {name:?}: {error}; its last instances are in use"),
            names => format!("consul: {} queries: {error}; the last instances are in use", names.len()),
        };
        by_text.into_iter().map(shown).collect()
    }
}

fn reach(settings: Arc<ConsulSdConfig>, news: mpsc::Sender<SourceUpdate>) -> Result<Consul, String> {
    let text = format!("{}://{}/", settings.scheme, settings.server);
    let base = Url::parse(&text).map_err(|error| format!("server {:?} makes no URL: {error}", settings.server))?;
    let mut http: HttpConfig = settings.http.clone();
    if !settings.username.is_empty() || settings.password.is_some() {
        http.basic_auth = Some(BasicAuth {
            username: settings.username.clone(),
            password: settings.password.clone(),
            ..BasicAuth::default()
        });
    }
    let options = ClientOptions { timeout: ANSWER_WITHIN, body_bytes_max: BODY_BYTES_MAX, ..ClientOptions::default() };
    let client = Client::new(&http, options).map_err(|error| error.text)?;
    Ok(Consul { client, base, datacenter: settings.datacenter.clone(), settings, news })
}

impl Consul {
    async fn watch_catalogue(self) {
        let wanted = &self.settings;
        let mut params: Vec<(&str, String)> = self.common();
        if !wanted.filter.is_empty() {
            params.push(("filter", wanted.filter.clone()));
        }
        let chosen = |services: BoundedMap<Option<Vec<String>>>| {
            let is_wanted = |(name, tags): &(String, Option<Vec<String>>)| {
                let tags = tags.as_deref().unwrap_or(&[]);
                (wanted.services.is_empty() || wanted.services.contains(name))
                    && wanted.tags.iter().all(|tag| tags.contains(tag))
            };
            services.0.into_iter().filter(is_wanted).map(|(name, _)| name).collect()
        };
        self.watch("services", "catalog/services", &params, |answer| What::Catalogue(answer.map(chosen))).await;
    }

    async fn watch_service(self, name: String) {
        let mut params = self.common();
        params.extend(self.settings.tags.iter().map(|tag| ("tag", tag.clone())));
        if !self.settings.health_filter.is_empty() {
            params.push(("filter", self.settings.health_filter.clone()));
        }
        let separator = &self.settings.tag_separator;
        let instances = |entries: Bounded<Entry>| entries.0.iter().map(|entry| target(entry, separator)).collect();
        // A name may contain any character.
        let encoded = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("health/service/{encoded}");
        self.watch("service", &path, &params, |answer| What::Instances(name.clone(), answer.map(instances))).await;
    }

    /// Repeats the query. Consul responds when its index has changed, or after the wait time.
    async fn watch<T: DeserializeOwned + Send + 'static>(
        &self,
        call: &'static str,
        path: &str,
        params: &[(&'static str, String)],
        news: impl Fn(Result<T, String>) -> What,
    ) {
        let mut index = 0;
        let mut failures_in_row = 0;
        loop {
            let since = Instant::now();
            let answer = self.request::<T>(path, params, index).await;
            let what = match answer {
                Ok((_, new)) if new == index && index != 0 => What::Nothing,
                Ok((value, new)) => {
                    // A lower index means that Consul was restored: begin from the start.
                    index = if new < index { 0 } else { new };
                    failures_in_row = 0;
                    news(Ok(value))
                }
                Err(error) => {
                    index = 0;
                    failures_in_row += 1;
                    news(Err(error))
                }
            };
            if self.news.send(SourceUpdate { since, call, what }).await.is_err() {
                return;
            }
            let held = since.elapsed().min(self.settings.refresh_interval);
            let rest = if failures_in_row == 0 {
                self.settings.refresh_interval - held
            } else {
                self.settings.refresh_interval
            };
            tokio::time::sleep(pause(failures_in_row, rest, random())).await;
        }
    }

    /// Returns the parameters of every query.
    fn common(&self) -> Vec<(&'static str, String)> {
        let settings = &self.settings;
        let mut params = vec![];
        let texts = [("dc", &self.datacenter), ("ns", &settings.namespace), ("partition", &settings.partition)];
        params.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, text.clone())));
        if settings.allow_stale {
            params.push(("stale", String::new()));
        }
        params.extend(settings.node_meta.iter().map(|(key, value)| ("node-meta", format!("{key}:{value}"))));
        params
    }

    /// Sends one query. Returns the response and its index. Consul responds to index 0 at once.
    async fn request<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        params: &[(&'static str, String)],
        index: u64,
    ) -> Result<(T, u64), String> {
        let mut url = self.base.clone();
        let prefix = self.settings.path_prefix.trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        url.set_path(&format!("{prefix}{slash}v1/{path}"));
        let mut query: Vec<(&str, String)> = params.to_vec();
        if index > 0 {
            query.push(("index", index.to_string()));
            query.push(("wait", format!("{}ms", WAIT.as_millis())));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let place = client::shown(&url);
        let mut request = Request::get(url);
        if let Some(token) = &self.settings.token {
            let value = client::auth::secret_value("x-consul-token", token.reveal()).map_err(|error| error.text)?;
            request.headers.insert("x-consul-token", value);
        }
        let response = self.client.send(request).await.map_err(|error| error.text)?;
        if response.status != StatusCode::OK {
            return Err(format!("{place}: answered {}", response.status));
        }
        let index = index_of(&response);
        let parsed =
            tokio::task::spawn_blocking(move || simd_json::serde::from_slice(&mut response.body.to_vec())).await;
        let value = parsed.map_err(|panic| panic.to_string())?.map_err(|error| format!("{place}: {error}"))?;
        Ok((value, index))
    }
}

fn index_of(response: &Response) -> u64 {
    let text = response.headers.get("x-consul-index").and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn target(entry: &Entry, separator: &str) -> Labels {
    let (node, service) = (&entry.node, &entry.service);
    let host = if service.address.is_empty() { &node.address } else { &service.address };
    let tags = service.tags.as_deref().unwrap_or(&[]).join(separator);
    let partition = if service.partition.is_empty() { &node.partition } else { &service.partition };
    let mut labels: Vec<(String, String)> = vec![
        ("__address__".into(), host_port(host, service.port)),
        ("__meta_consul_address".into(), node.address.clone()),
        ("__meta_consul_node".into(), node.node.clone()),
        // With separators around it, so that a rule can match a whole tag.
        ("__meta_consul_tags".into(), format!("{separator}{tags}{separator}")),
        ("__meta_consul_service_address".into(), service.address.clone()),
        ("__meta_consul_service_port".into(), service.port.to_string()),
        ("__meta_consul_service_id".into(), service.id.clone()),
        ("__meta_consul_health".into(), health(entry.checks.as_deref().unwrap_or(&[])).to_owned()),
        ("__meta_consul_namespace".into(), service.namespace.clone()),
        ("__meta_consul_partition".into(), partition.clone()),
    ];
    let maps =
        [("metadata", &node.meta), ("service_metadata", &service.meta), ("tagged_address", &node.tagged_addresses)];
    for (name, map) in maps {
        for (key, value) in map.iter().flatten() {
            labels.push((format!("__meta_consul_{name}_{}", sanitized(key)), value.clone()));
        }
    }
    labels.retain(|(_, value)| !value.is_empty());
    Labels::from_pairs(labels)
}

/// Returns the worst status of the checks, as Consul aggregates them.
fn health(checks: &[Check]) -> &'static str {
    let is_maintenance =
        |check: &Check| check.check_id == "_node_maintenance" || check.check_id.starts_with("_service_maintenance:");
    let has = |status: &str| checks.iter().any(|check| !is_maintenance(check) && check.status == status);
    match () {
        () if checks.iter().any(is_maintenance) => "maintenance",
        () if has("critical") => "critical",
        () if has("warning") => "warning",
        () => "passing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entry: &str, want: &str) {
        let entry: Entry = simd_json::serde::from_slice(&mut entry.as_bytes().to_vec()).unwrap();
        let labels = target(&entry, ",");
        let shown: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{}={value}", name.strip_prefix("__meta_consul_").unwrap_or(name)))
            .collect();
        assert_eq!(shown.join(" "), want);
    }

    #[test]
    fn instances_become_labels() {
        check(
            r#"{"Node": {"ID": "x", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1",
                "TaggedAddresses": {"lan": "10.0.0.1", "wan_ipv4": "1.2.3.4"}, "Meta": {"rack-no": "7"}},
                "Service": {"ID": "web-1", "Service": "web", "Tags": ["a", "b"], "Address": "10.0.0.9",
                "Meta": {"v.1": "x"}, "Port": 8080, "Weights": {"Passing": 1}},
                "Checks": [{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "c", "Status": "warning"}]}"#,
            "__address__=10.0.0.9:8080 address=10.0.0.1 health=warning metadata_rack_no=7 node=n1 \
             service_address=10.0.0.9 service_id=web-1 service_metadata_v_1=x service_port=8080 \
             tagged_address_lan=10.0.0.1 tagged_address_wan_ipv4=1.2.3.4 tags=,a,b,",
        );
        check(
            r#"{"Node": {"Node": "n", "Address": "fd00::1", "Meta": null}, "Service": {"Tags": null, "Port": 1},
                "Checks": [{"CheckID": "_node_maintenance", "Status": "critical"}]}"#,
            "__address__=[fd00::1]:1 address=fd00::1 health=maintenance node=n service_port=1 tags=,,",
        );
    }

    #[test]
    fn health_is_that_of_the_worst_check() {
        let of = |statuses: &[&str]| {
            let check = |status: &&str| Check { check_id: "c".into(), status: (*status).into() };
            health(&statuses.iter().map(check).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), "passing");
        assert_eq!(of(&["passing", "critical", "warning"]), "critical");
    }
}
