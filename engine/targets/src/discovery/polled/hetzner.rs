//! Hetzner: dedicated servers of Robot, and servers of the cloud.

use super::super::sanitized;
use super::row::{Label, Row, text_at};
use super::session::{Answer, Call, Session, with_params};
use Label::{At, Lower, Map, Present};
use client::Url;
use serde_json::Value;
use series::Labels;
use std::collections::BTreeMap;

const PREFIX: &str = "__meta_hetzner_";
const ROBOT: &str = "https://robot-ws.your-server.de/server";
const CLOUD: &str = "https://api.hetzner.cloud/v1/";

const ROBOT_LABELS: &[Label] = &[
    At("server_id", "/server/server_number"),
    At("server_name", "/server/server_name"),
    At("server_status", "/server/status"),
    Lower("datacenter", "/server/dc"),
    Lower("robot_datacenter", "/server/dc"),
    At("public_ipv4", "/server/server_ip"),
    At("robot_product", "/server/product"),
    At("robot_cancelled", "/server/cancelled"),
];

const CLOUD_LABELS: &[Label] = &[
    At("server_id", "/id"),
    At("server_name", "/name"),
    At("server_status", "/status"),
    At("public_ipv4", "/public_net/ipv4/ip"),
    At("public_ipv6_network", "/public_net/ipv6/ip"),
    At("hcloud_location", "/location/name"),
    At("hcloud_location_network_zone", "/location/network_zone"),
    At("hcloud_datacenter_location", "/location/name"),
    At("hcloud_datacenter_location_network_zone", "/location/network_zone"),
    At("hcloud_server_type", "/server_type/name"),
    At("hcloud_cpu_cores", "/server_type/cores"),
    At("hcloud_cpu_type", "/server_type/cpu_type"),
    At("hcloud_disk_size_gb", "/server_type/disk"),
    At("hcloud_image_name", "/image/name"),
    At("hcloud_image_description", "/image/description"),
    At("hcloud_image_os_flavor", "/image/os_flavor"),
    At("hcloud_image_os_version", "/image/os_version"),
    Map("hcloud_label_", "/labels"),
    Present("hcloud_labelpresent_", "/labels"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    match session.text("role") {
        "robot" => {
            let url = Url::parse(ROBOT).map_err(|error| error.to_string())?;
            let servers = session.rows(Call::get(url).any_success(), "").await?;
            servers.iter().map(|server| robot(session, server)).collect()
        }
        _ => {
            let selector = session.text("label_selector");
            let servers = cloud_list(session, "servers", &[("label_selector", selector)]).await?;
            let networks = cloud_list(session, "networks", &[]).await?;
            let names: BTreeMap<u64, &str> =
                networks.iter().filter_map(|net| Some((net.get("id")?.as_u64()?, text_at(net, "/name")))).collect();
            servers.iter().map(|server| cloud(session, server, &names)).collect()
        }
    }
}

fn robot(session: &Session, server: &Value) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    row.set("role", "robot");
    if !server.get("server").is_some_and(Value::is_object) {
        row.fail("an entry without `server`");
    }
    row.fill(ROBOT_LABELS, server);
    let subnets = row.list(server, "/server/subnet");
    if let Some(subnet) = subnets.iter().find(|subnet| text_at(subnet, "/ip").contains(':')) {
        row.set("public_ipv6_network", format!("{}/{}", text_at(subnet, "/ip"), text_at(subnet, "/mask")));
    }
    let host = row.scalar(server, "/server/server_ip");
    row.address(&host, session.port());
    row.finish()
}

async fn cloud_list(session: &Session, name: &str, params: &[(&str, &str)]) -> Result<Vec<Value>, String> {
    let url = Url::parse(&format!("{CLOUD}{name}")).map_err(|error| error.to_string())?;
    let page = |number: u64| {
        let number = number.to_string();
        let url = with_params(url.clone(), params);
        Call::get(with_params(url, &[("page", &number), ("per_page", "50")]))
    };
    let next = |answer: &Answer, _| answer.body.pointer("/meta/pagination/next_page")?.as_u64().map(page);
    session.pages(page(1), &format!("/{name}"), next).await
}

fn cloud(session: &Session, server: &Value, networks: &BTreeMap<u64, &str>) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    row.set("role", "hcloud");
    row.fill(CLOUD_LABELS, server);
    if let Some(memory) = server.pointer("/server_type/memory").and_then(Value::as_f64) {
        row.set("hcloud_memory_size_gb", (memory as i64).to_string());
    }
    let private: Vec<(String, String)> = row
        .list(server, "/private_net")
        .iter()
        .map(|net| {
            let name = net.get("network").and_then(Value::as_u64).and_then(|id| networks.get(&id));
            (name.copied().unwrap_or_default().to_owned(), text_at(net, "/ip").to_owned())
        })
        .collect();
    for (name, ip) in private.iter().filter(|(name, _)| !name.is_empty()) {
        row.set(&format!("hcloud_private_ipv4_{}", sanitized(name)), ip.as_str());
    }
    // Prometheus has `<nil>` as the address of a server without a public one.
    let public = row.scalar(server, "/public_net/ipv4/ip");
    let host = if public.is_empty() { private.first().map_or("", |(_, ip)| ip) } else { &public };
    row.address(host, session.port());
    row.finish()
}
