//! Linode: instances, with the names of their addresses. From the second refresh on, events say whether anything changed.

use super::Refreshed;
use super::clock;
use super::row::{Label, Row, around, text_at};
use super::session::{Answer, Call, Session, below, with_params};
use Label::At;
use client::StatusCode;
use serde_json::{Value, json};
use series::Labels;
use std::collections::HashMap;

const PREFIX: &str = "__meta_linode_";
const API: &str = "https://api.linode.com/v4";
/// Number of refreshes that may rely on events before a whole list is asked for.
const EVENTS_MAX: u64 = 9;

const LABELS: &[Label] = &[
    At("instance_id", "/id"),
    At("instance_label", "/label"),
    At("image", "/image"),
    At("region", "/region"),
    At("type", "/type"),
    At("status", "/status"),
    At("group", "/group"),
    At("gpus", "/specs/gpus"),
    At("hypervisor", "/hypervisor"),
    At("specs_vcpus", "/specs/vcpus"),
];

pub async fn targets(session: &Session) -> Refreshed {
    let started = clock::utc(clock::now()).seconds_text();
    let last = session.recall("last").unwrap_or_default();
    let count = last["count"].as_u64().unwrap_or(0);
    if let Some(since) =
        last["time"].as_str().filter(|_| count < EVENTS_MAX && !last["no_events"].as_bool().unwrap_or(false))
    {
        let filter = json!({"created": {"+gte": since}}).to_string();
        let url = with_params(below(API, "account/events")?, &[("page", "1"), ("page_size", "25")]);
        match session.call(Call::get(url).header("x-filter", &filter)).await {
            Ok(answer) => {
                let Some(events) = answer.body.get("data").and_then(Value::as_array) else {
                    return Err("account/events: the answer has no list /data".to_owned());
                };
                if events.is_empty() {
                    session.keep("last", json!({"time": started, "count": count + 1}), None);
                    return Ok(None);
                }
            }
            // A token that may not see events: whole lists from now on.
            Err(error) if error.status == Some(StatusCode::UNAUTHORIZED) => {
                session.keep("last", json!({"no_events": true}), None);
            }
            Err(error) => return Err(error.text),
        }
    }
    let no_events = session.recall("last").unwrap_or_default()["no_events"].as_bool().unwrap_or(false);
    let instances = list(session, "linode/instances").await?;
    let ips = list(session, "networking/ips").await?;
    let ranges = list(session, "networking/ipv6/ranges").await?;
    let by_address: HashMap<&str, &Value> = ips.iter().map(|ip| (text_at(ip, "/address"), ip)).collect();
    let mut targets = Vec::new();
    for instance in &instances {
        targets.extend(target(session, instance, &by_address, &ranges)?);
    }
    session.keep("last", json!({"time": started, "count": 0, "no_events": no_events}), None);
    Ok(Some(targets))
}

async fn list(session: &Session, path: &str) -> Result<Vec<Value>, String> {
    let region = session.text("region");
    let url = below(API, path)?;
    let page = |number: u64| {
        let url = with_params(url.clone(), &[("page", &number.to_string()), ("page_size", "500")]);
        let call = Call::get(url);
        if region.is_empty() { call } else { call.header("x-filter", &json!({"region": region}).to_string()) }
    };
    let mut number = 1;
    let next = |answer: &Answer, _| {
        let pages = answer.body.get("pages").and_then(Value::as_u64).unwrap_or(1);
        number += 1;
        (number <= pages).then(|| page(number))
    };
    session.pages(page(1), "/data", next).await
}

fn target(
    session: &Session,
    instance: &Value,
    ips: &HashMap<&str, &Value>,
    ranges: &[Value],
) -> Result<Option<Labels>, String> {
    let mut row = Row::new(PREFIX);
    row.fill(LABELS, instance);
    let own = row.scalars(instance, "/ipv4");
    if own.is_empty() {
        return row.finish().map(|_| None);
    }
    let is_backed_up = instance.pointer("/backups/enabled").and_then(Value::as_bool).unwrap_or(false);
    row.set("backups", if is_backed_up { "enabled" } else { "disabled" });
    for (label, field) in [("disk_bytes", "disk"), ("memory_bytes", "memory"), ("transfer_bytes", "transfer")] {
        let mib = instance.pointer(&format!("/specs/{field}")).and_then(Value::as_u64).unwrap_or(0);
        row.set(&format!("specs_{label}"), mib.saturating_mul(1 << 20).to_string());
    }
    let tags = row.scalars(instance, "/tags");
    row.set("tags", around(&tags, session.text("tag_separator")));
    let (mut public, mut private, mut extra) = (None, None, Vec::new());
    for address in own {
        let Some(ip) = ips.get(address.as_str()) else { continue };
        let is_public = ip.get("public").and_then(Value::as_bool).unwrap_or(false);
        let first = if is_public { &mut public } else { &mut private };
        if first.is_none() {
            let name = if is_public { "public_ipv4" } else { "private_ipv4" };
            row.set(name, address.as_str());
            row.set(&format!("{name}_rdns"), text_at(ip, "/rdns"));
            *first = Some(address);
        } else {
            extra.push(address);
        }
    }
    row.set("extra_ips", around(&extra, session.text("tag_separator")));
    let ipv6 = text_at(instance, "/ipv6").split('/').next().unwrap_or("");
    if let Some(ip) = ips.get(ipv6).filter(|_| !ipv6.is_empty()) {
        row.set("public_ipv6", ipv6);
        row.set("public_ipv6_rdns", text_at(ip, "/rdns"));
    }
    let is_ours = |range: &&Value| !ipv6.is_empty() && text_at(range, "/route_target") == ipv6;
    let ranges: Vec<String> = ranges
        .iter()
        .filter(is_ours)
        .map(|range| format!("{}/{}", text_at(range, "/range"), range.get("prefix").unwrap_or(&Value::Null)))
        .collect();
    row.set("ipv6_ranges", around(&ranges, session.text("tag_separator")));
    row.address(public.as_deref().unwrap_or(""), session.port());
    row.finish().map(Some)
}
