//! Clouds whose lists need a token in a header and nothing else: DigitalOcean, IONOS and Vultr.

use super::super::sanitized;
use super::row::{Label, Row, around, text_at};
use super::session::{Answer, Call, Session, below, segment, with_params};
use Label::{Around, At};
use serde_json::Value;
use series::Labels;

const DIGITALOCEAN: &str = "https://api.digitalocean.com/v2";
const IONOS: &str = "https://api.ionos.com/cloudapi/v6";
const VULTR: &str = "https://api.vultr.com/v2";

const DROPLET: &[Label] = &[
    At("droplet_id", "/id"),
    At("droplet_name", "/name"),
    At("image", "/image/slug"),
    At("image_name", "/image/name"),
    At("region", "/region/slug"),
    At("size", "/size_slug"),
    At("status", "/status"),
    At("vpc", "/vpc_uuid"),
    Around("features", "/features"),
    Around("tags", "/tags"),
];

const DATABASE: &[Label] = &[
    At("db_id", "/id"),
    At("db_name", "/name"),
    At("db_engine", "/engine"),
    At("db_version", "/version"),
    At("db_status", "/status"),
    At("db_region", "/region"),
    At("db_size", "/size"),
    At("db_num_nodes", "/num_nodes"),
    At("db_host", "/connection/host"),
    At("db_private_host", "/private_connection/host"),
];

pub async fn digitalocean(session: &Session) -> Result<Vec<Labels>, String> {
    if session.text("role") == "databases" {
        return databases(session).await;
    }
    let url = below(DIGITALOCEAN, "droplets")?;
    let mut number = 1;
    let next = |answer: &Answer, _| {
        let has_next = !text_at(&answer.body, "/links/pages/next").is_empty();
        number += 1;
        has_next.then(|| Call::get(with_params(url.clone(), &[("page", &number.to_string())])))
    };
    let droplets = session.pages(Call::get(url.clone()), "/droplets", next).await;
    let droplets = droplets.map_err(|error| format!("error while listing droplets: {error}"))?;
    let mut targets = Vec::new();
    for droplet in &droplets {
        let mut row = Row::new("__meta_digitalocean_");
        row.fill(DROPLET, droplet);
        let mut public = "";
        let first = |list: &'_ [Value], kind: &str| -> Option<String> {
            list.iter().find(|net| text_at(net, "/type") == kind).map(|net| text_at(net, "/ip_address").to_owned())
        };
        let (v4, v6) = (row.list(droplet, "/networks/v4"), row.list(droplet, "/networks/v6"));
        let found = first(v4, "public");
        if let Some(ip) = &found {
            public = ip;
        }
        row.set("public_ipv4", public);
        row.set("private_ipv4", first(v4, "private").unwrap_or_default());
        row.set("public_ipv6", first(v6, "public").unwrap_or_default());
        row.address(public, session.port());
        let labels = row.finish()?;
        if !v4.is_empty() {
            targets.push(labels);
        }
    }
    Ok(targets)
}

async fn databases(session: &Session) -> Result<Vec<Labels>, String> {
    let url = below(DIGITALOCEAN, "databases")?;
    let page =
        |number: usize| Call::get(with_params(url.clone(), &[("page", &number.to_string()), ("per_page", "100")]));
    let (mut number, mut before) = (1, 0);
    // The service does not say which page is the last one: it is empty.
    let next = |_: &Answer, rows: usize| {
        let is_empty = rows == before;
        before = rows;
        number += 1;
        (!is_empty).then(|| page(number))
    };
    let databases = session.pages(page(1), "/databases?", next).await?;
    let target = |database: &Value| {
        let mut row = Row::new("__meta_digitalocean_");
        row.fill(DATABASE, database);
        for tag in row.scalars(database, "/tags") {
            row.set(&format!("db_tag_{tag}"), "true");
        }
        let private = text_at(database, "/private_connection/host");
        let host = if private.is_empty() { text_at(database, "/connection/host") } else { private };
        row.address(host, session.port());
        row.finish()
    };
    databases.iter().map(target).collect()
}

const VULTR_INSTANCE: &[Label] = &[
    At("id", "/id"),
    At("label", "/label"),
    At("os", "/os"),
    At("os_id", "/os_id"),
    At("region", "/region"),
    At("plan", "/plan"),
    At("vcpu_count", "/vcpu_count"),
    At("ram_mb", "/ram"),
    At("allowed_bandwidth_gb", "/allowed_bandwidth"),
    At("disk_gb", "/disk"),
    At("main_ip", "/main_ip"),
    At("main_ipv6", "/v6_main_ip"),
    At("internal_ip", "/internal_ip"),
    At("hostname", "/hostname"),
    At("server_status", "/server_status"),
    Around("features", "/features"),
    Around("tags", "/tags"),
];

pub async fn vultr(session: &Session) -> Result<Vec<Labels>, String> {
    let url = with_params(below(VULTR, "instances")?, &[("per_page", "100")]);
    let next = |answer: &Answer, _| {
        let cursor = text_at(&answer.body, "/meta/links/next");
        (!cursor.is_empty()).then(|| Call::get(with_params(url.clone(), &[("cursor", cursor)])))
    };
    let instances = session.pages(Call::get(url.clone()), "/instances", next).await?;
    let target = |instance: &Value| {
        let mut row = Row::new("__meta_vultr_instance_");
        row.fill(VULTR_INSTANCE, instance);
        row.address(text_at(instance, "/main_ip"), session.port());
        row.finish()
    };
    instances.iter().map(target).collect()
}

const IONOS_SERVER: &[Label] = &[
    At("id", "/id"),
    At("name", "/properties/name"),
    At("availability_zone", "/properties/availabilityZone"),
    At("cpu_family", "/properties/cpuFamily"),
    At("type", "/properties/type"),
    At("state", "/properties/vmState"),
    At("lifecycle", "/metadata/state"),
    At("boot_cdrom_id", "/properties/bootCdrom/id"),
    At("boot_volume_id", "/properties/bootVolume/id"),
    At("boot_image_id", "/entities/volumes/items/0/properties/image"),
];

/// Number of servers of one page.
const IONOS_PAGE: usize = 1000;

pub async fn ionos(session: &Session) -> Result<Vec<Labels>, String> {
    let path = format!("datacenters/{}/servers", segment(session.text("datacenter_id")));
    let url = below(IONOS, &path)?;
    let page = |offset: usize| {
        let offset = offset.to_string();
        let limit = IONOS_PAGE.to_string();
        let params = [("depth", "3"), ("limit", &limit), ("offset", &offset), ("pretty", "true")];
        Call::get(with_params(url.clone(), &params))
    };
    let mut list = String::new();
    let next = |answer: &Answer, rows: usize| {
        text_at(&answer.body, "/id").clone_into(&mut list);
        (rows > 0 && rows.is_multiple_of(IONOS_PAGE)).then(|| page(rows))
    };
    let servers = session.pages(page(0), "/items", next).await?;
    let mut targets = Vec::new();
    for server in &servers {
        let mut row = Row::new("__meta_ionos_server_");
        row.fill(IONOS_SERVER, server);
        row.set("servers_id", list.as_str());
        let mut all: Vec<String> = Vec::new();
        let mut by_name: Vec<(String, Vec<String>)> = Vec::new();
        for nic in row.list(server, "/entities/nics/items") {
            let ips = row.scalars(nic, "/properties/ips");
            let name = match text_at(nic, "/properties/name") {
                "" => "unnamed",
                name => name,
            };
            // Each interface stands before those that the answer has before it.
            all = ips.iter().cloned().chain(all).collect();
            match by_name.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => known.extend(ips),
                None => by_name.push((name.to_owned(), ips)),
            }
        }
        row.set("ip", around(&all, ","));
        for (name, ips) in &by_name {
            row.set(&format!("nic_ip_{}", sanitized(name)), around(ips, ","));
        }
        let host = all.first().cloned().unwrap_or_default();
        row.address(&host, session.port());
        let labels = row.finish()?;
        if !host.is_empty() {
            targets.push(labels);
        }
    }
    Ok(targets)
}
