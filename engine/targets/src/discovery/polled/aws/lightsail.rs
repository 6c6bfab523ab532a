//! Lightsail: the instances of a region.

use super::super::row::{Label, Row, text_at};
use super::super::session::{Answer, Session};
use super::Account;
use Label::{Around, At, Pairs};
use serde_json::json;
use series::Labels;

const PREFIX: &str = "__meta_lightsail_";
const TARGET: &str = "Lightsail_20161128.GetInstances";

const LABELS: &[Label] = &[
    At("availability_zone", "/location/availabilityZone"),
    At("blueprint_id", "/blueprintId"),
    At("bundle_id", "/bundleId"),
    At("instance_name", "/name"),
    At("instance_state", "/state/name"),
    At("instance_support_code", "/supportCode"),
    At("private_ip", "/privateIpAddress"),
    At("public_ip", "/publicIpAddress"),
    Around("ipv6_addresses", "/ipv6Addresses"),
    Pairs("tag_", "/tags", "/key", "/value"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let account = Account::of(session).await?;
    // Prometheus takes the first page only.
    let next = |answer: &Answer, _| {
        let token = text_at(&answer.body, "/nextPageToken");
        if token.is_empty() { None } else { account.json("lightsail", TARGET, &json!({"pageToken": token})).ok() }
    };
    let first = account.json("lightsail", TARGET, &json!({}))?;
    let instances = session.pages(first, "/instances", next).await;
    let instances = instances.inspect_err(|_| session.forget("credentials"));
    let instances = instances.map_err(|error| format!("could not get instances: {error}"))?;
    let mut targets = Vec::new();
    for instance in &instances {
        let mut row = Row::new(PREFIX);
        row.set("region", account.region.as_str());
        row.fill(LABELS, instance);
        let host = text_at(instance, "/privateIpAddress");
        row.address(host, session.port());
        let labels = row.finish()?;
        if !host.is_empty() {
            targets.push(labels);
        }
    }
    Ok(targets)
}
