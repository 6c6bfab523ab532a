//! Containers of a Docker daemon: a target for each network address and port of each.

use super::bounded::Bounded;
use super::{Group, ReceiverClosed, Reporter, answer_within, host_port, sanitized};
use client::{Client, ClientOptions, Request, StatusCode, Url};
use config::DockerSdConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use series::Labels;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const P: &str = "__meta_docker_";
/// How far the owner of a container's network is looked for. Docker itself allows one step; a circle would have no end.
const OWNERS_MAX: usize = 16;

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Container {
    id: String,
    names: Option<Vec<String>>,
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    labels: Option<BTreeMap<String, String>>,
    ports: Option<Vec<Port>>,
    host_config: HostConfig,
    network_settings: Option<NetworkSettings>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig {
    network_mode: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    networks: Option<BTreeMap<String, Option<Endpoint>>>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "PascalCase", default)]
struct Endpoint {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Port {
    #[serde(rename = "IP")]
    ip: String,
    private_port: u64,
    public_port: u64,
    r#type: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Network {
    id: String,
    name: String,
    scope: String,
    internal: bool,
    ingress: bool,
    labels: Option<BTreeMap<String, String>>,
}

/// Reports the containers of the daemon until it is dropped.
pub async fn follow(settings: DockerSdConfig, mut report: Reporter) {
    let (client, base) = match reach(&settings) {
        Ok(reached) => reached,
        Err(error) => {
            let _ = report.failed(error).await;
            return;
        }
    };
    loop {
        let since = Instant::now();
        let listed = list(&client, &base, &settings).await;
        report.attempted(since);
        report.count_requests(2);
        let told = match listed {
            Ok((containers, networks)) => {
                let targets = targets(&settings, &containers, &networks);
                report.good(vec![Arc::new(Group { targets, labels: Labels::empty() })], Vec::new()).await
            }
            Err(error) => report.failed(error).await,
        };
        if let Err(ReceiverClosed) = told {
            return;
        }
        report.pause(settings.refresh_interval).await;
    }
}

/// `unix://` is a socket; `tcp://` is HTTP, with TLS if the settings have some.
fn reach(settings: &DockerSdConfig) -> Result<(Client, Url), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("host {:?}: {error}", settings.host);
    let options = ClientOptions { timeout: answer_within(settings.refresh_interval), ..ClientOptions::default() };
    if let Some(path) = settings.host.strip_prefix("unix://") {
        let client = Client::on_socket(&settings.http, options, PathBuf::from(path));
        let base = Url::parse("http://docker/").map_err(|error| wrong(&error))?;
        return Ok((client.map_err(|error| error.text)?, base));
    }
    let has_tls = settings.http.tls_config != config::TlsConfig::default();
    let text = match settings.host.strip_prefix("tcp://") {
        Some(rest) => format!("{}://{rest}", if has_tls { "https" } else { "http" }),
        None => settings.host.clone(),
    };
    let base = Url::parse(&text).map_err(|error| wrong(&error))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(wrong(&"write unix:///var/run/docker.sock, tcp://, http:// or https://"));
    }
    Ok((Client::new(&settings.http, options).map_err(|error| error.text)?, base))
}

async fn list(
    client: &Client,
    base: &Url,
    settings: &DockerSdConfig,
) -> Result<(Vec<Container>, Vec<Network>), String> {
    let mut filters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for filter in &settings.filters {
        filters.entry(&filter.name).or_default().extend(filter.values.iter().map(String::as_str));
    }
    let filters = serde_json::to_string(&filters).map_err(|error| error.to_string())?;
    let containers: Bounded<Container> = request(client, base, "/containers/json", &[("filters", filters)]).await?;
    let networks: Bounded<Network> = request(client, base, "/networks", &[]).await?;
    Ok((containers.0, networks.0))
}

async fn request<T: DeserializeOwned>(
    client: &Client,
    base: &Url,
    path: &str,
    query: &[(&str, String)],
) -> Result<T, String> {
    let mut url = base.join(path).map_err(|error| error.to_string())?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    let place = client::shown(&url);
    let response = client.send(Request::get(url)).await.map_err(|error| error.text)?;
    if response.status != StatusCode::OK {
        return Err(format!("{place}: answered {}", response.status));
    }
    // The fast parser would index the whole body before its entries are counted.
    serde_json::from_slice(&response.body).map_err(|error| format!("{place}: {error}"))
}

fn targets(settings: &DockerSdConfig, containers: &[Container], networks: &[Network]) -> Vec<Labels> {
    let networks: HashMap<&str, &Network> = networks.iter().map(|network| (network.id.as_str(), network)).collect();
    let by_id: HashMap<&str, &Container> =
        containers.iter().map(|container| (container.id.as_str(), container)).collect();
    let mut all = Vec::new();
    for container in containers {
        let Some(name) = container.names.as_deref().unwrap_or(&[]).first() else { continue };
        let mut common: Vec<(String, String)> = vec![
            (format!("{P}container_id"), container.id.clone()),
            (format!("{P}container_name"), name.clone()),
            (format!("{P}container_image"), container.image.clone()),
            (format!("{P}container_image_id"), container.image_id.clone()),
            (format!("{P}container_network_mode"), container.host_config.network_mode.clone()),
        ];
        for (key, value) in container.labels.iter().flatten() {
            common.push((format!("{P}container_label_{}", sanitized(key)), value.clone()));
        }
        // A container that shares the network of another one has its addresses.
        let mut owner = container;
        for _ in 0..OWNERS_MAX {
            let Some(id) = owner.host_config.network_mode.strip_prefix("container:") else { break };
            let Some(next) = by_id.get(id) else { break };
            owner = next;
        }
        let endpoints = owner.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        // In order of the network names; only the first one if the settings say so.
        let take = if settings.match_first_network { 1 } else { usize::MAX };
        for endpoint in endpoints.into_iter().flat_map(BTreeMap::values).flatten().take(take) {
            let mut labels = common.clone();
            labels.push((format!("{P}network_ip"), endpoint.ip_address.clone()));
            if let Some(network) = networks.get(endpoint.network_id.as_str()) {
                labels.push((format!("{P}network_id"), network.id.clone()));
                labels.push((format!("{P}network_name"), network.name.clone()));
                labels.push((format!("{P}network_scope"), network.scope.clone()));
                labels.push((format!("{P}network_internal"), network.internal.to_string()));
                labels.push((format!("{P}network_ingress"), network.ingress.to_string()));
                for (key, value) in network.labels.iter().flatten() {
                    labels.push((format!("{P}network_label_{}", sanitized(key)), value.clone()));
                }
            }
            let mut finish = |address: String, more: Vec<(String, String)>| {
                let labels = labels.iter().cloned().chain(more).chain([("__address__".to_owned(), address)]);
                all.push(Labels::from_pairs(labels.filter(|(_, value)| !value.is_empty())));
            };
            let ports: Vec<&Port> = owner.ports.iter().flatten().filter(|port| port.r#type == "tcp").collect();
            for port in &ports {
                let mut more = vec![(format!("{P}port_private"), port.private_port.to_string())];
                if port.public_port > 0 {
                    more.push((format!("{P}port_public"), port.public_port.to_string()));
                    more.push((format!("{P}port_public_ip"), port.ip.clone()));
                }
                finish(host_port(&endpoint.ip_address, port.private_port), more);
            }
            if ports.is_empty() {
                let address = if container.host_config.network_mode == "host" {
                    settings.host_networking_host.clone()
                } else {
                    host_port(&endpoint.ip_address, settings.port)
                };
                finish(address, Vec::new());
            }
        }
    }
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(match_first_network: bool, containers: &str, want: &[&str]) {
        let read = |json: &str| json.as_bytes().to_vec();
        let containers: Vec<Container> = simd_json::serde::from_slice(&mut read(containers)).unwrap();
        let networks = r#"[{"Id": "n1", "Name": "bridge", "Scope": "local", "Internal": false, "Ingress": false,
            "Labels": {"a-b": "c"}}, {"Id": "n2", "Name": "other"}]"#;
        let networks: Vec<Network> = simd_json::serde::from_slice(&mut read(networks)).unwrap();
        let settings = DockerSdConfig { match_first_network, ..DockerSdConfig::default() };
        let shown = |labels: &Labels| {
            let one = |(name, value)| format!("{}={value}", str::strip_prefix(name, P).unwrap_or(name));
            labels.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(targets(&settings, &containers, &networks).iter().map(shown).collect::<Vec<_>>(), want);
    }

    #[test]
    fn containers_become_targets() {
        let ports = r#""Ports": [{"PrivatePort": 80, "PublicPort": 8080, "IP": "0.0.0.0", "Type": "tcp"},
            {"PrivatePort": 53, "Type": "udp"}]"#;
        let networks = r#""NetworkSettings": {"Networks": {
            "bridge": {"NetworkID": "n1", "IPAddress": "172.17.0.2"},
            "other": {"NetworkID": "n2", "IPAddress": "172.18.0.2"}}}"#;
        let web = format!(
            r#"{{"Id": "c1", "Names": ["/web"], "Image": "i", "ImageID": "sha", "Labels": {{"x.y": "z"}},
            "HostConfig": {{"NetworkMode": "default"}}, {ports}, {networks}}}"#
        );
        let first = "__address__=172.17.0.2:80 container_id=c1 container_image=i container_image_id=sha \
                     container_label_x_y=z container_name=/web container_network_mode=default network_id=n1 \
                     network_ingress=false network_internal=false network_ip=172.17.0.2 network_label_a_b=c \
                     network_name=bridge network_scope=local port_private=80 port_public=8080 port_public_ip=0.0.0.0";
        check(true, &format!("[{web}]"), &[first]);
        check(
            false,
            &format!("[{web}]"),
            &[
                first,
                "__address__=172.18.0.2:80 container_id=c1 container_image=i container_image_id=sha \
                 container_label_x_y=z container_name=/web container_network_mode=default network_id=n2 \
                 network_ingress=false network_internal=false network_ip=172.18.0.2 network_name=other \
                 port_private=80 port_public=8080 port_public_ip=0.0.0.0",
            ],
        );
        let host = r#"{"Id": "c2", "Names": ["/h"], "HostConfig": {"NetworkMode": "host"},
            "NetworkSettings": {"Networks": {"host": {"NetworkID": "", "IPAddress": ""}}}}"#;
        check(
            true,
            &format!("[{host}]"),
            &["__address__=localhost container_id=c2 container_name=/h container_network_mode=host"],
        );
        let silent = r#"{"Id": "c3", "Names": ["/s"], "HostConfig": {"NetworkMode": "b"},
            "NetworkSettings": {"Networks": {"b": {"NetworkID": "", "IPAddress": "1.2.3.4"}}}}"#;
        let beside = r#"{"Id": "c4", "Names": ["/t"], "HostConfig": {"NetworkMode": "container:c3"}}"#;
        check(
            true,
            &format!("[{silent}, {beside}]"),
            &[
                "__address__=1.2.3.4:80 container_id=c3 container_name=/s container_network_mode=b network_ip=1.2.3.4",
                "__address__=1.2.3.4:80 container_id=c4 container_name=/t container_network_mode=container:c3 \
                 network_ip=1.2.3.4",
            ],
        );
    }
}
