//! EC2: all instances of a region.

use super::super::row::{Label, Row, around, rows_of, text_at};
use super::super::session::Session;
use super::super::xml;
use super::{Account, Query, numbered};
use Label::{At, Pairs};
use serde_json::{Map, Value};
use series::Labels;
use std::collections::HashSet;

const PREFIX: &str = "__meta_ec2_";
pub const SERVICE: Query = Query { name: "ec2", version: "2016-11-15", has_endpoint: true };

const LABELS: &[Label] = &[
    At("instance_id", "/instanceId"),
    At("ami", "/imageId"),
    At("architecture", "/architecture"),
    At("availability_zone", "/placement/availabilityZone"),
    At("instance_lifecycle", "/instanceLifecycle"),
    At("instance_state", "/instanceState/name"),
    At("instance_type", "/instanceType"),
    At("platform", "/platform"),
    At("private_ip", "/privateIpAddress"),
    At("private_dns_name", "/privateDnsName"),
    Pairs("tag_", "/tagSet", "/key", "/value"),
];

const IN_VPC: &[Label] = &[At("vpc_id", "/vpcId"), At("primary_subnet_id", "/subnetId")];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let account = Account::of(session).await?;
    let zones = zones(&account).await;
    let mut params = Vec::new();
    for (index, filter) in session.settings().filters("filters").iter().enumerate() {
        let name = format!("Filter.{}", index + 1);
        params.push((format!("{name}.Name"), filter.name.clone()));
        params.extend(numbered(&format!("{name}.Value"), filter.values.iter().map(String::as_str)));
    }
    let reservations = describe(&account, &SERVICE, "DescribeInstances", "reservationSet", &params).await;
    let reservations = reservations.inspect_err(|_| session.forget("credentials"));
    let reservations = reservations.map_err(|error| format!("could not describe instances: {error}"))?;
    let mut targets = Vec::new();
    for mut reservation in reservations {
        for instance in rows_of(&mut reservation, "/instancesSet?")? {
            targets.extend(target(&account, text_at(&reservation, "/ownerId"), &instance, &zones)?);
        }
    }
    Ok(targets)
}

/// All pages of a list of EC2.
pub async fn describe(
    account: &Account<'_>,
    service: &Query,
    action: &str,
    set: &str,
    params: &[(String, String)],
) -> Result<Vec<Value>, String> {
    let mut rows = Vec::new();
    let mut token = String::new();
    let mut seen = HashSet::new();
    loop {
        let mut params = params.to_vec();
        if !token.is_empty() {
            params.push(("NextToken".to_owned(), token));
        }
        let mut body = account.session.call(account.query(service, action, &params)?).await?.body;
        xml::lists(&mut body, &["item"]);
        let Some(response) = body.get_mut(format!("{action}Response")) else {
            return Err(format!("the answer is no {action}Response"));
        };
        let next = text_at(response, "/nextToken").to_owned();
        if response.get(set).is_none() {
            return Err(format!("the answer has no element <{set}>"));
        }
        rows.append(&mut rows_of(response, &format!("/{set}?"))?);
        if next.is_empty() {
            return Ok(rows);
        }
        if !seen.insert(next.clone()) {
            return Err(format!("{action}: the pages do not end: a token is given again"));
        }
        token = next;
    }
}

/// The ids of availability zones by their names. Without them, the label is missing, and nothing else.
async fn zones(account: &Account<'_>) -> Map<String, Value> {
    if let Some(Value::Object(zones)) = account.session.recall("zones") {
        return zones;
    }
    match describe(account, &SERVICE, "DescribeAvailabilityZones", "availabilityZoneInfo", &[]).await {
        Ok(zones) => {
            let zone = |zone: &Value| (text_at(zone, "/zoneName").to_owned(), text_at(zone, "/zoneId").into());
            let zones: Map<String, Value> = zones.iter().map(zone).collect();
            account.session.keep("zones", Value::Object(zones.clone()), None);
            zones
        }
        Err(error) => {
            let error = account.session.redacted(error);
            tracing::debug!(error, "availability zones are not known");
            Map::new()
        }
    }
}

fn target(
    account: &Account,
    owner: &str,
    instance: &Value,
    zones: &Map<String, Value>,
) -> Result<Option<Labels>, String> {
    let mut row = Row::new(PREFIX);
    row.set("region", account.region.as_str());
    row.set("owner_id", owner);
    row.fill(LABELS, instance);
    let zone = zones.get(text_at(instance, "/placement/availabilityZone")).and_then(Value::as_str).unwrap_or("");
    row.set("availability_zone_id", zone);
    let public = text_at(instance, "/ipAddress");
    if !public.is_empty() {
        row.set("public_ip", public);
        row.set("public_dns_name", text_at(instance, "/dnsName"));
    }
    let ipv6 = if text_at(instance, "/vpcId").is_empty() { String::new() } else { in_vpc(&mut row, instance) };
    let private = text_at(instance, "/privateIpAddress");
    let host = if private.is_empty() { &ipv6 } else { private };
    row.address(host, account.session.port());
    let has_host = !host.is_empty();
    let labels = row.finish()?;
    Ok(has_host.then_some(labels))
}

/// Sets the labels of an instance in a VPC. Returns its default IPv6 address.
fn in_vpc(row: &mut Row, instance: &Value) -> String {
    row.fill(IN_VPC, instance);
    let (mut subnets, mut all, mut primary): (Vec<String>, Vec<String>, Vec<String>) = Default::default();
    for interface in row.list(instance, "/networkInterfaceSet") {
        let subnet = text_at(interface, "/subnetId").to_owned();
        if !subnet.is_empty() && !subnets.contains(&subnet) {
            subnets.push(subnet);
        }
        for address in row.list(interface, "/ipv6AddressesSet") {
            let ip = text_at(address, "/ipv6Address").to_owned();
            if text_at(address, "/isPrimaryIpv6") == "true" {
                // An instance has few interfaces; what an answer says beyond that is no index.
                const DEVICES_MAX: usize = 64;
                let index =
                    text_at(interface, "/attachment/deviceIndex").parse::<usize>().unwrap_or(0).min(DEVICES_MAX);
                if primary.len() <= index {
                    primary.resize(index + 1, String::new());
                }
                primary[index].clone_from(&ip);
            }
            all.push(ip);
        }
    }
    row.set("subnet_id", around(&subnets, ","));
    row.set("ipv6_addresses", around(&all, ","));
    row.set("primary_ipv6_addresses", around(&primary, ","));
    let default = primary.iter().find(|ip| !ip.is_empty()).or(all.first()).cloned().unwrap_or_default();
    row.set("default_ipv6_address", default.as_str());
    default
}
