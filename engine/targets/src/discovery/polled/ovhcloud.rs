//! OVHcloud: dedicated servers and VPS, each asked for by its name, with signed requests.

use super::row::{Label, Row};
use super::session::{Call, CallError, Session, below, reveal, segment};
use Label::At;
use client::Url;
use ring::digest;
use serde_json::Value;
use series::Labels;
use std::time::{SystemTime, UNIX_EPOCH};

const ENDPOINTS: [(&str, &str); 7] = [
    ("ovh-eu", "https://eu.api.ovh.com/1.0"),
    ("ovh-ca", "https://ca.api.ovh.com/1.0"),
    ("ovh-us", "https://api.us.ovhcloud.com/1.0"),
    ("kimsufi-eu", "https://eu.api.kimsufi.com/1.0"),
    ("kimsufi-ca", "https://ca.api.kimsufi.com/1.0"),
    ("soyoustart-eu", "https://eu.api.soyoustart.com/1.0"),
    ("soyoustart-ca", "https://ca.api.soyoustart.com/1.0"),
];

const DEDICATED: &[Label] = &[
    At("state", "/state"),
    At("commercial_range", "/commercialRange"),
    At("link_speed", "/linkSpeed"),
    At("rack", "/rack"),
    At("no_intervention", "/noIntervention"),
    At("os", "/os"),
    At("support_level", "/supportLevel"),
    At("server_id", "/serverId"),
    At("reverse", "/reverse"),
    At("datacenter", "/datacenter"),
    At("name", "/name"),
];

const VPS: &[Label] = &[
    At("offer", "/model/offer"),
    At("model_vcore", "/model/vcore"),
    At("maximum_additional_ip", "/model/maximumAdditionnalIp"),
    At("version", "/model/version"),
    At("model_name", "/model/name"),
    At("disk", "/model/disk"),
    At("memory", "/model/memory"),
    At("zone", "/zone"),
    At("display_name", "/displayName"),
    At("cluster", "/cluster"),
    At("state", "/state"),
    At("name", "/name"),
    At("netboot_mode", "/netbootMode"),
    At("memory_limit", "/memoryLimit"),
    At("offer_type", "/offerType"),
    At("vcore", "/vcore"),
];

/// Times that a service may have: from the year 2020 to that of 36812.
const TIMES: std::ops::Range<i64> = 1_577_836_800..1 << 40;

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let (path, prefix, table) = match session.text("service") {
        "vps" => ("vps", "__meta_ovhcloud_vps_", VPS),
        _ => ("dedicated/server", "__meta_ovhcloud_dedicated_server_", DEDICATED),
    };
    let endpoint = session.text("endpoint");
    let base = match ENDPOINTS.iter().find(|(name, _)| *name == endpoint) {
        Some((_, url)) => (*url).to_owned(),
        None if endpoint.contains('/') => endpoint.to_owned(),
        None => return Err(format!("unknown endpoint {endpoint:?}; write ovh-eu, ovh-ca, ovh-us or a URL")),
    };
    let time = session.call(Call::get(below(&base, "auth/time")?)).await?;
    let time = time.body.as_i64().filter(|time| TIMES.contains(time));
    let offset = time.ok_or("auth/time: not a time in seconds")? - now();
    let signed = |path: &str| below(&base, path).map(|url| sign(session, url, now() + offset));
    let names = session.rows(signed(path)?, "").await?;
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    let mut calls = Vec::with_capacity(2 * names.len());
    for name in &names {
        calls.push(signed(&format!("{path}/{}", segment(name)))?);
        calls.push(signed(&format!("{path}/{}/ips", segment(name)))?);
    }
    let mut answers = session.each(calls).await?.into_iter();
    let mut targets = Vec::new();
    let mut failed = 0;
    for name in &names {
        let (Some(detail), Some(ips)) = (answers.next(), answers.next()) else { break };
        let detail = detail.and_then(|detail| ips.map(|ips| (detail.body, ips.body)));
        match detail
            .map_err(|error: CallError| error.text)
            .and_then(|(detail, ips)| target(prefix, table, &detail, &ips))
        {
            Ok(target) => targets.push(target),
            Err(error) => {
                failed += 1;
                session.warn(format!("server {name:?} is left out: {error}"));
            }
        }
    }
    // Prometheus leaves them all out; then a key that was revoked takes all targets away.
    if failed > 0 && targets.is_empty() {
        return Err(session.warnings().into_iter().next().unwrap_or_default());
    }
    Ok(targets)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64
}

fn sign(session: &Session, url: Url, time: i64) -> Call {
    let settings = session.settings();
    let consumer = reveal(settings.secret("consumer_key"));
    let secret = reveal(settings.secret("application_secret"));
    let signature = signature(secret, consumer, url.as_str(), time);
    Call::get(url)
        .any_success()
        .header("x-ovh-application", settings.text("application_key"))
        .secret_header("x-ovh-consumer", consumer)
        .header("x-ovh-timestamp", &time.to_string())
        .secret_header("x-ovh-signature", &signature)
}

fn signature(secret: &str, consumer: &str, url: &str, time: i64) -> String {
    let text = format!("{secret}+{consumer}+GET+{url}++{time}");
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    format!("$1${}", client::aws_signature::hex(hash.as_ref()))
}

fn target(prefix: &'static str, table: &[Label], detail: &Value, ips: &Value) -> Result<Labels, String> {
    if !detail.is_object() {
        return Err("its description is no object".to_owned());
    }
    let mut row = Row::new(prefix);
    row.fill(table, detail);
    let places = row.scalars(detail, "/model/datacenter");
    if !places.is_empty() {
        row.set("datacenter", format!("[{}]", places.join(" ")));
    }
    let (mut ipv4, mut ipv6) = (String::new(), String::new());
    for ip in row.scalars(ips, "") {
        let (address, length) = ip.split_once('/').unwrap_or((&ip, ""));
        match address.parse() {
            Ok(std::net::IpAddr::V4(_)) if ["", "32"].contains(&length) => address.clone_into(&mut ipv4),
            Ok(std::net::IpAddr::V6(_)) if ["", "128"].contains(&length) => address.clone_into(&mut ipv6),
            _ => {}
        }
    }
    let host = if ipv4.is_empty() { &ipv6 } else { &ipv4 };
    if host.is_empty() {
        return Err("could not parse IP addresses from list".to_owned());
    }
    row.set_plain("__address__", host.as_str());
    row.set("ipv4", ipv4.as_str());
    row.set("ipv6", ipv6.as_str());
    let name = row.scalar(detail, "/name");
    row.set_plain("instance", name);
    row.finish()
}

#[cfg(test)]
mod tests {
    /// A request that the service's own client signed.
    #[test]
    fn requests_are_signed() {
        let url = "http://127.0.0.1:23200/ovh/dedicated/server";
        let signature = super::signature("AS", "CK", url, 1_700_000_000);
        assert_eq!(signature, "$1$482b4901d782bfdc862f9537979ffe7b21fa655c");
    }
}
