//! Uyuni: the endpoints of monitored systems, by XML-RPC.

use super::row::{Label, Row, text_at};
use super::session::{Call, Session, below, reveal};
use Label::At;
use serde_json::{Map, Value, json};
use series::Labels;
use std::collections::BTreeMap;
use std::time::Duration;

const PREFIX: &str = "__meta_uyuni_";
/// Seconds for which a session is asked for.
const SESSION_SECONDS: i64 = 600;
/// Time after which a new one is asked for.
const SESSION_HOLDS: Duration = Duration::from_secs(300 + 60);

const LABELS: &[Label] = &[
    At("endpoint_name", "/endpoint_name"),
    At("exporter", "/exporter_name"),
    At("proxy_module", "/module"),
    At("metrics_path", "/path"),
    At("system_id", "/system_id"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let token = match session.recall("token") {
        Some(token) => token,
        None => log_in(session).await?,
    };
    let targets = list(session, &token).await;
    if targets.is_err() {
        session.forget("token");
    }
    targets
}

async fn log_in(session: &Session) -> Result<Value, String> {
    let settings = session.settings();
    let user = [settings.text("username").into(), reveal(settings.secret("password")).into(), SESSION_SECONDS.into()];
    let failed = |error: String| format!("unable to login to Uyuni API: {error}");
    let token = rpc(session, "auth.login", &user).await.map_err(failed)?;
    let token = token.as_str().ok_or_else(|| failed("the answer is no token".to_owned()))?.to_owned();
    session.keep_token("token", &token, SESSION_HOLDS);
    Ok(token.into())
}

async fn list(session: &Session, token: &Value) -> Result<Vec<Labels>, String> {
    let entitlement = session.text("entitlement");
    let arguments = [token.clone(), entitlement.into()];
    let groups = rpc(session, "system.listSystemGroupsForSystemsWithEntitlement", &arguments).await;
    let groups = groups.and_then(rows).map_err(|error| {
        format!("unable to get the managed system groups information of monitored clients: {error}")
    })?;
    let mut names: BTreeMap<i64, String> = BTreeMap::new();
    for system in &groups {
        let of = system.get("system_groups").and_then(Value::as_array).into_iter().flatten();
        let of: Vec<&str> = of.map(|group| text_at(group, "/name")).collect();
        names.insert(id_of(system, "id")?, of.join(session.text("separator")));
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let arguments = [token.clone(), names.keys().copied().collect()];
    let endpoints = rpc(session, "system.monitoring.listEndpoints", &arguments).await.and_then(rows);
    let endpoints = endpoints.map_err(|error| format!("unable to get endpoints information: {error}"))?;
    let networks = rpc(session, "system.getNetworkForSystems", &arguments).await.and_then(rows);
    let networks = networks.map_err(|error| format!("unable to get the systems network information: {error}"))?;
    let mut by_system = BTreeMap::new();
    for network in &networks {
        by_system.insert(id_of(network, "system_id")?, network);
    }
    let mut targets = Vec::new();
    for endpoint in &endpoints {
        let system = id_of(endpoint, "system_id")?;
        let network = by_system.get(&system).copied().unwrap_or(&Value::Null);
        targets.push(target(endpoint, network, names.get(&system).map_or("", String::as_str))?);
    }
    Ok(targets)
}

fn target(endpoint: &Value, network: &Value, groups: &str) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    row.fill(LABELS, endpoint);
    row.fill(&[At("minion_hostname", "/hostname"), At("primary_fqdn", "/primary_fqdn")], network);
    row.set("groups", groups);
    let is_tls = endpoint.get("tls_enabled").and_then(Value::as_bool).unwrap_or(false);
    row.set("scheme", if is_tls { "https" } else { "http" });
    let (host, port) = (row.scalar(network, "/hostname"), row.scalar(endpoint, "/port"));
    row.address(&host, port);
    row.finish()
}

fn id_of(row: &Value, field: &str) -> Result<i64, String> {
    row.get(field).and_then(Value::as_i64).ok_or_else(|| format!("an entry without a number {field}"))
}

fn rows(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(rows) if rows.iter().all(Value::is_object) => Ok(rows),
        _ => Err("the answer is no list of structures".to_owned()),
    }
}

async fn rpc(session: &Session, method: &str, arguments: &[Value]) -> Result<Value, String> {
    let arguments: String = arguments.iter().map(|value| format!("<param>{}</param>", written(value))).collect();
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><methodCall><methodName>{method}</methodName>\
         <params>{arguments}</params></methodCall>"
    );
    let url = below(session.text("server"), "rpc/api")?;
    let answer = session.call(Call::post_text(url, "text/xml", body).xml()).await?;
    let Some(response) = answer.body.get("methodResponse") else {
        return Err("the answer is no methodResponse".to_owned());
    };
    if let Some(fault) = response.pointer("/fault/value") {
        let fault = read(fault)?;
        return Err(format!("fault {}: {}", fault["faultCode"], text_at(&fault, "/faultString")));
    }
    response.pointer("/params/param/value").ok_or("the answer has no value".to_owned()).and_then(read)
}

/// Writes a value of XML-RPC.
fn written(value: &Value) -> String {
    let inner = match value {
        Value::Number(number) => format!("<int>{number}</int>"),
        Value::Array(list) => format!("<array><data>{}</data></array>", list.iter().map(written).collect::<String>()),
        Value::String(text) => format!("<string>{}</string>", quick_xml::escape::escape(text.as_str())),
        other => format!("<string>{other}</string>"),
    };
    format!("<value>{inner}</value>")
}

/// The elements of a name: none, one, or a list.
fn elements<'a>(parent: &'a Value, name: &str) -> &'a [Value] {
    match parent.get(name) {
        None => &[],
        Some(Value::Array(list)) => list,
        Some(one) => std::slice::from_ref(one),
    }
}

/// Reads a value of XML-RPC, which `xml` has read as an object with the type as its only field, or as a text.
fn read(value: &Value) -> Result<Value, String> {
    let Value::Object(fields) = value else { return Ok(value.clone()) };
    let wrong = || "no value of XML-RPC".to_owned();
    let (kind, inner) = fields.iter().find(|(name, _)| !name.starts_with(['@', '#'])).ok_or_else(wrong)?;
    let text = inner.as_str().unwrap_or("");
    match kind.as_str() {
        "int" | "i4" | "i8" => text.trim().parse::<i64>().map(Value::from).map_err(|_| wrong()),
        "boolean" => Ok(Value::from(text.trim() == "1")),
        "double" => text.trim().parse::<f64>().map(Value::from).map_err(|_| wrong()),
        "array" => {
            let data = inner.get("data").unwrap_or(&Value::Null);
            elements(data, "value").iter().map(read).collect::<Result<Vec<Value>, String>>().map(Value::from)
        }
        "struct" => {
            let mut members = Map::new();
            for member in elements(inner, "member") {
                let value = member.get("value").ok_or_else(wrong)?;
                members.insert(text_at(member, "/name").to_owned(), read(value)?);
            }
            Ok(Value::Object(members))
        }
        "nil" => Ok(Value::Null),
        _ => Ok(json!(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::xml;
    use super::*;

    #[test]
    fn values_of_xml_rpc() {
        assert_eq!(
            written(&json!(["a<b", 7])),
            "<value><array><data><value><string>a&lt;b</string></value><value><int>7</int></value></data></array></value>"
        );
        let document = b"<value><struct><member><name>a</name><value><array><data/></array></value></member>\
            <member><name>b</name><value>text</value></member><member><name>c</name><value><boolean>1</boolean></value>\
            </member><member><name>d</name><value><array><data><value><i4>-7</i4></value></data></array></value></member>\
            </struct></value>";
        let value = xml::parse(document).unwrap();
        assert_eq!(read(&value["value"]), Ok(json!({"a": [], "b": "text", "c": true, "d": [-7]})));
        assert!(read(&json!({"int": "x"})).is_err());
        assert!(read(&json!({"int": {}})).is_err());
    }
}
