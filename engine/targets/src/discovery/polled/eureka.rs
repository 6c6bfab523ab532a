//! Eureka: all instances of all applications, in XML.

use super::super::sanitized;
use super::row::{Label, Row, text_of};
use super::session::{Call, Session, below};
use Label::{At, Map};
use serde_json::Value;
use series::Labels;

const PREFIX: &str = "__meta_eureka_app_";

const LABELS: &[Label] = &[
    At("instance_hostname", "/hostName"),
    At("instance_homepage_url", "/homePageUrl"),
    At("instance_statuspage_url", "/statusPageUrl"),
    At("instance_healthcheck_url", "/healthCheckUrl"),
    At("instance_ip_addr", "/ipAddr"),
    At("instance_vip_address", "/vipAddress"),
    At("instance_secure_vip_address", "/secureVipAddress"),
    At("instance_status", "/status"),
    At("instance_id", "/instanceId"),
    At("instance_port", "/port/#text"),
    At("instance_port_enabled", "/port/@enabled"),
    At("instance_secure_port", "/securePort/#text"),
    At("instance_secure_port_enabled", "/securePort/@enabled"),
    At("instance_datacenterinfo_name", "/dataCenterInfo/name"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let call = Call::get(below(session.text("server"), "apps")?).xml().any_success();
    let answer = session.call(call).await?;
    let Some(root) = answer.body.get("applications") else {
        return Err("the answer has no element <applications>".to_owned());
    };
    let mut targets = Vec::new();
    for application in elements(root, "application")? {
        for instance in elements(application, "instance")? {
            targets.push(target(application, instance)?);
        }
    }
    Ok(targets)
}

/// The elements of a name: none, one, or a list.
fn elements<'a>(parent: &'a Value, name: &str) -> Result<&'a [Value], String> {
    let found = match parent.get(name) {
        None => &[],
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    match found.iter().find(|element| !element.is_object()) {
        Some(_) => Err(format!("an element <{name}> without elements")),
        None => Ok(found),
    }
}

fn target(application: &Value, instance: &Value) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    let name = row.scalar(application, "/name");
    row.set("name", name);
    row.fill(LABELS, instance);
    // A port without attributes is a text, not an object.
    for (label, field) in [("instance_port", "port"), ("instance_secure_port", "securePort")] {
        if let Some(Value::String(port)) = instance.get(field) {
            row.set(label, port.as_str());
        }
    }
    let country = row.scalar(instance, "/countryId");
    row.set("instance_country_id", if country.is_empty() { "0" } else { &country });
    if instance.pointer("/dataCenterInfo/metadata").is_some_and(Value::is_object) {
        row.fill(&[Map("instance_datacenterinfo_metadata_", "/dataCenterInfo/metadata")], instance);
    }
    for (key, value) in instance.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        // Attributes of the element itself are none of its entries; an entry that has elements of its own has no text.
        if !key.starts_with(['@', '#']) {
            row.set(&format!("instance_metadata_{}", sanitized(key)), text_of(value).unwrap_or_default());
        }
    }
    let id = row.scalar(instance, "/instanceId");
    row.set_plain("instance", id);
    let port = match instance.get("port") {
        Some(Value::String(port)) => port.clone(),
        _ => row.scalar(instance, "/port/#text"),
    };
    let host = row.scalar(instance, "/hostName");
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).unwrap_or(80);
    row.address(&host, port);
    row.finish()
}
