//! Scaleway: bare metal servers, and instances with the addresses of their private networks.

use super::row::{Label, Row, text_at};
use super::session::{Call, Session, below, with_params};
use Label::{Around, At};
use serde_json::Value;
use series::Labels;
use std::collections::HashMap;

const BAREMETAL_PREFIX: &str = "__meta_scaleway_baremetal_";
const INSTANCE_PREFIX: &str = "__meta_scaleway_instance_";

const BAREMETAL: &[Label] = &[
    At("id", "/id"),
    At("name", "/name"),
    At("zone", "/zone"),
    At("status", "/status"),
    At("project_id", "/project_id"),
    Around("tags", "/tags"),
];

const INSTANCE: &[Label] = &[
    At("id", "/id"),
    At("name", "/name"),
    At("hostname", "/hostname"),
    At("status", "/state"),
    At("type", "/commercial_type"),
    At("boot_type", "/boot_type"),
    At("organization_id", "/organization"),
    At("project_id", "/project"),
    At("zone", "/zone"),
    At("image_arch", "/image/arch"),
    At("image_id", "/image/id"),
    At("image_name", "/image/name"),
    At("location_cluster_id", "/location/cluster_id"),
    At("location_hypervisor_id", "/location/hypervisor_id"),
    At("location_node_id", "/location/node_id"),
    At("security_group_id", "/security_group/id"),
    At("security_group_name", "/security_group/name"),
    Around("tags", "/tags"),
    At("public_ipv6", "/ipv6/address"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let key = session.secret("secret_key", "secret_key_file").await?;
    match session.text("role") {
        "baremetal" => baremetal(session, &key).await,
        _ => instances(session, &key).await,
    }
}

/// All pages of a list: as many as the total needs at the size of the first page.
async fn list(
    session: &Session,
    key: &str,
    path: &str,
    params: &[(&str, &str)],
    pointer: &str,
) -> Result<Vec<Value>, String> {
    let url = with_params(below(session.text("api_url"), path)?, params);
    let page = |number: usize| {
        let url = with_params(url.clone(), &[("page", &number.to_string())]);
        Call::get(url).secret_header("x-auth-token", key)
    };
    let mut asked = 1;
    let mut before = 0;
    let rows = session.pages(page(1), pointer, |answer, rows| {
        let total = match answer.header("x-total-count").parse::<usize>() {
            Ok(total) => total,
            Err(_) => answer.body.get("total_count").and_then(Value::as_u64).unwrap_or(0) as usize,
        };
        let is_last = rows >= total || rows == before;
        before = rows;
        asked += 1;
        (!is_last).then(|| page(asked))
    });
    rows.await
}

async fn baremetal(session: &Session, key: &str) -> Result<Vec<Labels>, String> {
    let settings = session.settings();
    let zone = format!("/baremetal/v1/zones/{}", settings.text("zone"));
    let mut params = vec![("name", settings.text("name_filter"))];
    params.extend(settings.texts("tags_filter").iter().map(|tag| ("tags", tag.as_str())));
    params.push(("order_by", "created_at_asc"));
    let servers = list(session, key, &format!("{zone}/servers"), &params, "/servers").await?;
    let period = [("subscription_period", "unknown_subscription_period")];
    let offers = list(session, key, &format!("{zone}/offers"), &period, "/offers").await?;
    let systems = list(session, key, &format!("{zone}/os"), &[], "/os").await?;
    let by_id = |rows: &'_ [Value]| -> HashMap<String, Value> {
        rows.iter().map(|row| (text_at(row, "/id").to_owned(), row.clone())).collect()
    };
    let (offers, systems) = (by_id(&offers), by_id(&systems));
    let target = |server: &Value| {
        let mut row = Row::new(BAREMETAL_PREFIX);
        row.fill(BAREMETAL, server);
        if let Some(offer) = offers.get(text_at(server, "/offer_id")) {
            row.fill(&[At("type", "/name")], offer);
        }
        if let Some(system) = systems.get(text_at(server, "/install/os_id")) {
            row.fill(&[At("os_name", "/name"), At("os_version", "/version")], system);
        }
        let (mut ipv4, mut ipv6) = ("", "");
        for ip in row.list(server, "/ips") {
            let address = text_at(ip, "/address");
            match text_at(ip, "/version") {
                "IPv4" if ipv4.is_empty() => ipv4 = address,
                "IPv6" if ipv6.is_empty() => ipv6 = address,
                "IPv4" | "IPv6" => {}
                other => row.fail(format!("unknown IP version: {other}")),
            }
        }
        row.set("public_ipv4", ipv4);
        row.set("public_ipv6", ipv6);
        row.address(if ipv4.is_empty() { ipv6 } else { ipv4 }, session.port());
        row.finish()
    };
    servers.iter().map(target).collect()
}

async fn instances(session: &Session, key: &str) -> Result<Vec<Labels>, String> {
    let settings = session.settings();
    let zone = settings.text("zone");
    let tags = settings.texts("tags_filter").join(",");
    let params = [("name", settings.text("name_filter")), ("tags", tags.as_str()), ("order", "creation_date_desc")];
    let servers = list(session, key, &format!("/instance/v1/zones/{zone}/servers"), &params, "/servers").await?;
    let nics: Vec<&str> =
        servers.iter().filter(is_private_only).flat_map(nics_of).map(|nic| text_at(nic, "/id")).collect();
    let mut by_nic: HashMap<String, String> = HashMap::new();
    // The parameters of a URL must not grow without bound.
    for nics in nics.chunks(50) {
        let region = region_of(zone);
        let mut params: Vec<(&str, &str)> = nics.iter().map(|nic| ("resource_ids", *nic)).collect();
        params.push(("resource_types", "instance_private_nic"));
        for ip in list(session, key, &format!("/ipam/v1/regions/{region}/ips"), &params, "/ips").await? {
            let address = text_at(&ip, "/address").split('/').next().unwrap_or("").to_owned();
            by_nic.entry(text_at(&ip, "/resource/id").to_owned()).or_insert(address);
        }
    }
    let mut targets = Vec::new();
    for server in &servers {
        targets.extend(instance(session, server, &by_nic)?);
    }
    Ok(targets)
}

/// The region of a zone: without its number.
fn region_of(zone: &str) -> &str {
    zone.rsplit_once('-').map_or(zone, |(region, _)| region)
}

fn nics_of(server: &Value) -> &[Value] {
    server.get("private_nics").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether the server has no address but those of its private networks.
fn is_private_only(server: &&Value) -> bool {
    ["/private_ip", "/public_ip", "/ipv6"].iter().all(|field| server.pointer(field).is_none_or(Value::is_null))
}

fn instance(session: &Session, server: &Value, by_nic: &HashMap<String, String>) -> Result<Option<Labels>, String> {
    let mut row = Row::new(INSTANCE_PREFIX);
    row.fill(INSTANCE, server);
    let zone = row.scalar(server, "/zone");
    row.set("region", region_of(&zone));
    for (label, is_family) in [("public_ipv4_addresses", false), ("public_ipv6_addresses", true)] {
        let addresses: Vec<String> = row
            .list(server, "/public_ips")
            .iter()
            .filter(|ip| (text_at(ip, "/family") == "inet6") == is_family)
            .map(|ip| text_at(ip, "/address").to_owned())
            .collect();
        row.set(label, super::row::around(&addresses, ","));
    }
    let public =
        if text_at(server, "/public_ip/family") == "inet6" { "" } else { text_at(server, "/public_ip/address") };
    row.set("public_ipv4", public);
    let private = match text_at(server, "/private_ip") {
        "" if is_private_only(&server) => {
            nics_of(server).iter().find_map(|nic| by_nic.get(text_at(nic, "/id"))).map_or("", String::as_str)
        }
        ip => ip,
    };
    row.set("private_ipv4", private);
    let any_public = text_at(server, "/public_ip/address");
    let host = [private, any_public, text_at(server, "/ipv6/address")].into_iter().find(|host| !host.is_empty());
    row.address(host.unwrap_or(""), session.port());
    let labels = row.finish()?;
    Ok(host.map(|_| labels))
}
