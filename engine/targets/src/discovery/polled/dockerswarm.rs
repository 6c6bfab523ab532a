//! Docker Swarm: its nodes, its services and their tasks.

use super::row::{Label, Row, rows_of, text_at};
use super::session::{Call, Session, below};
use Label::{At, Map};
use client::Method;
use serde_json::{Value, json};
use series::Labels;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

const PREFIX: &str = "__meta_dockerswarm_";
/// Versions of the API that the tables hold for; the daemon's own one is taken if it lies between them.
const VERSIONS: (u64, u64) = (40, 55);
/// A daemon that was updated says so when it is asked again.
const VERSION_HOLDS: Duration = Duration::from_secs(3600);

/// Labels of a node that its tasks have, too.
const NODE: &[Label] = &[
    At("node_id", "/ID"),
    At("node_role", "/Spec/Role"),
    At("node_availability", "/Spec/Availability"),
    At("node_hostname", "/Description/Hostname"),
    At("node_platform_architecture", "/Description/Platform/Architecture"),
    At("node_platform_os", "/Description/Platform/OS"),
    At("node_status", "/Status/State"),
    At("node_address", "/Status/Addr"),
    Map("node_label_", "/Spec/Labels"),
];

const NODE_ALONE: &[Label] = &[
    At("node_engine_version", "/Description/Engine/EngineVersion"),
    At("node_manager_leader", "/ManagerStatus/Leader"),
    At("node_manager_reachability", "/ManagerStatus/Reachability"),
    At("node_manager_address", "/ManagerStatus/Addr"),
];

/// Labels of a service that its tasks have, too.
const SERVICE: &[Label] =
    &[At("service_id", "/ID"), At("service_name", "/Spec/Name"), Map("service_label_", "/Spec/Labels")];

const SERVICE_ALONE: &[Label] = &[
    At("service_task_container_image", "/Spec/TaskTemplate/ContainerSpec/Image"),
    At("service_task_container_hostname", "/Spec/TaskTemplate/ContainerSpec/Hostname"),
    At("service_updating_status", "/UpdateStatus/State"),
];

const TASK: &[Label] = &[
    At("task_id", "/ID"),
    At("task_desired_state", "/DesiredState"),
    At("task_state", "/Status/State"),
    At("task_container_id", "/Status/ContainerStatus/ContainerID"),
    Map("container_label_", "/Spec/ContainerSpec/Labels"),
];

const NETWORK: &[Label] = &[
    At("network_id", "/Id"),
    At("network_name", "/Name"),
    At("network_scope", "/Scope"),
    At("network_internal", "/Internal"),
    At("network_ingress", "/Ingress"),
    Map("network_label_", "/Labels"),
];

type ById = HashMap<String, Value>;

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let role = session.text("role");
    let rows = list(session, role, true).await?;
    match role {
        "nodes" => rows.iter().map(|node| node_target(session, node)).collect(),
        "services" => {
            let networks = by_id(list(session, "networks", false).await?, "/Id");
            let mut targets = Vec::new();
            for service in &rows {
                service_targets(session, service, &networks, &mut targets)?;
            }
            Ok(targets)
        }
        _ => {
            let services = by_id(list(session, "services", false).await?, "/ID");
            let nodes = by_id(list(session, "nodes", false).await?, "/ID");
            let networks = by_id(list(session, "networks", false).await?, "/Id");
            let mut targets = Vec::new();
            for task in &rows {
                task_targets(session, task, (&services, &nodes, &networks), &mut targets)?;
            }
            Ok(targets)
        }
    }
}

fn by_id(rows: Vec<Value>, pointer: &str) -> ById {
    rows.into_iter().map(|row| (text_at(&row, pointer).to_owned(), row)).collect()
}

/// The URL of the daemon: a socket has a name that counts for nothing.
fn base(session: &Session) -> String {
    let host = session.text("host");
    let has_tls = session.settings().http.tls_config != config::TlsConfig::default();
    match (host.strip_prefix("tcp://"), host.starts_with("unix://")) {
        (_, true) => "http://docker/".to_owned(),
        (Some(rest), _) => format!("{}://{rest}", if has_tls { "https" } else { "http" }),
        _ => host.to_owned(),
    }
}

async fn list(session: &Session, name: &str, is_filtered: bool) -> Result<Vec<Value>, String> {
    let version = match session.recall("version") {
        Some(version) => version.as_u64().unwrap_or(VERSIONS.0),
        None => {
            let ping = Call::get(below(&base(session), "_ping")?).method(Method::HEAD).no_body().any_status();
            let answer = session.call(ping).await?;
            let version = answer.header("api-version").strip_prefix("1.").and_then(|minor| minor.parse::<u64>().ok());
            let version = version.unwrap_or(VERSIONS.0).clamp(VERSIONS.0, VERSIONS.1);
            session.keep("version", version.into(), Some(VERSION_HOLDS));
            version
        }
    };
    let mut url = below(&base(session), &format!("v1.{version}/{name}"))?;
    let mut filters: BTreeMap<&str, BTreeMap<&str, bool>> = BTreeMap::new();
    for filter in session.settings().filters("filters") {
        filters.entry(&filter.name).or_default().extend(filter.values.iter().map(|value| (value.as_str(), true)));
    }
    if is_filtered && !filters.is_empty() {
        url.query_pairs_mut().append_pair("filters", &json!(filters).to_string());
    }
    let mut answer = session.call(Call::get(url)).await?;
    rows_of(&mut answer.body, "")
}

fn node_target(session: &Session, node: &Value) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    row.fill(NODE, node);
    row.fill(NODE_ALONE, node);
    let host = row.scalar(node, "/Status/Addr");
    row.address(&host, session.port());
    row.finish()
}

fn mode(service: &Value) -> &'static str {
    match service.pointer("/Spec/Mode").and_then(Value::as_object) {
        Some(mode) if mode.get("Global").is_some_and(Value::is_object) => "global",
        Some(mode) if mode.get("Replicated").is_some_and(Value::is_object) => "replicated",
        _ => "",
    }
}

/// The address of a network in CIDR notation.
fn ip_of(cidr: &str) -> Result<String, String> {
    let ip = cidr.split('/').next().unwrap_or("");
    match ip.parse::<std::net::IpAddr>() {
        Ok(ip) => Ok(ip.to_string()),
        Err(_) => Err(format!("error while parsing address {cidr:?}")),
    }
}

fn tcp_ports<'a>(row: &mut Row, owner: &'a Value, pointer: &str) -> Vec<&'a Value> {
    row.list(owner, pointer).iter().filter(|port| text_at(port, "/Protocol") == "tcp").collect()
}

fn published(port: &Value) -> u64 {
    port.get("PublishedPort").and_then(Value::as_u64).unwrap_or_default()
}

fn service_targets(
    session: &Session,
    service: &Value,
    networks: &ById,
    targets: &mut Vec<Labels>,
) -> Result<(), String> {
    let mut common = Row::new(PREFIX);
    common.fill(SERVICE, service);
    common.fill(SERVICE_ALONE, service);
    common.set("service_mode", mode(service));
    let ports = tcp_ports(&mut common, service, "/Endpoint/Ports");
    for virtual_ip in common.list(service, "/Endpoint/VirtualIPs") {
        let Some(cidr) = virtual_ip.get("Addr").and_then(Value::as_str).filter(|cidr| !cidr.is_empty()) else {
            continue;
        };
        let ip = ip_of(cidr)?;
        let mut common = common.clone();
        if let Some(network) = networks.get(text_at(virtual_ip, "/NetworkID")) {
            common.fill(NETWORK, network);
        }
        for port in &ports {
            let mut row = common.clone();
            row.fill(
                &[At("service_endpoint_port_name", "/Name"), At("service_endpoint_port_publish_mode", "/PublishMode")],
                port,
            );
            row.address(&ip, published(port));
            targets.push(row.finish()?);
        }
        if ports.is_empty() {
            common.address(&ip, session.port());
            targets.push(common.finish()?);
        }
    }
    Ok(())
}

fn task_targets(
    session: &Session,
    task: &Value,
    (services, nodes, networks): (&ById, &ById, &ById),
    targets: &mut Vec<Labels>,
) -> Result<(), String> {
    let mut common = Row::new(PREFIX);
    common.fill(TASK, task);
    let slot = common.scalar(task, "/Slot");
    common.set("task_slot", if slot.is_empty() { "0" } else { &slot });
    let service = services.get(text_at(task, "/ServiceID")).unwrap_or(&Value::Null);
    common.fill(SERVICE, service);
    common.set("service_mode", mode(service));
    let node = nodes.get(text_at(task, "/NodeID")).unwrap_or(&Value::Null);
    common.fill(NODE, node);
    for port in tcp_ports(&mut common, task, "/Status/PortStatus/Ports") {
        let mut row = common.clone();
        row.fill(&[At("task_port_publish_mode", "/PublishMode")], port);
        row.address(text_at(node, "/Status/Addr"), published(port));
        targets.push(row.finish()?);
    }
    let ports = tcp_ports(&mut common, service, "/Endpoint/Ports");
    for attachment in common.list(task, "/NetworksAttachments") {
        let mut common = common.clone();
        if let Some(network) = networks.get(text_at(attachment, "/Network/ID")) {
            common.fill(NETWORK, network);
        }
        for cidr in common.scalars(attachment, "/Addresses") {
            let ip = ip_of(&cidr)?;
            for port in &ports {
                let mut row = common.clone();
                row.fill(&[At("task_port_publish_mode", "/PublishMode")], port);
                row.address(&ip, published(port));
                targets.push(row.finish()?);
            }
            if ports.is_empty() {
                let mut row = common.clone();
                row.address(&ip, session.port());
                targets.push(row.finish()?);
            }
        }
    }
    common.finish().map(drop)
}
