//! Nomad: the names of all services, then the instances of each.

use super::row::{Label, Row, around, rows_of, text_at};
use super::session::{Call, Session, segment, with_params};
use Label::At;
use client::Url;
use serde_json::Value;
use series::Labels;

const PREFIX: &str = "__meta_nomad_";

const LABELS: &[Label] = &[
    At("address", "/Address"),
    At("service_address", "/Address"),
    At("dc", "/Datacenter"),
    At("node_id", "/NodeID"),
    At("namespace", "/Namespace"),
    At("service", "/ServiceName"),
    At("service_id", "/ID"),
    At("service_port", "/Port"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let services = session.rows(Call::get(url(session, "/v1/services")?), "").await?;
    let mut names: Vec<String> = Vec::new();
    for mut namespace in services {
        // A namespace without services has null.
        let entries = rows_of(&mut namespace, "/Services?")?;
        names.extend(entries.iter().map(|entry| text_at(entry, "/ServiceName").to_owned()));
    }
    names.sort();
    names.dedup();
    let call = |name: &String| url(session, &format!("/v1/service/{}", segment(name))).map(Call::get);
    let calls = names.iter().map(call).collect::<Result<Vec<Call>, String>>()?;
    let mut targets = Vec::new();
    for mut answer in session.all(calls).await? {
        for instance in rows_of(&mut answer.body, "")? {
            targets.push(target(session, &instance)?);
        }
    }
    Ok(targets)
}

/// The URL of a request. Only scheme, user and host of the server count, as in Prometheus.
fn url(session: &Session, path: &str) -> Result<Url, String> {
    let settings = session.settings();
    let server = settings.text("server");
    let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let base = if server.starts_with("unix://") { "http://127.0.0.1" } else { server.as_str() };
    let mut url = Url::parse(base).map_err(|error| format!("server makes no URL: {error}"))?;
    url.set_path(path);
    url.set_query(None);
    let params = [("namespace", settings.text("namespace")), ("region", settings.text("region"))];
    let mut url = with_params(url, &params);
    if settings.flag("allow_stale") {
        url.query_pairs_mut().append_pair("stale", "");
    }
    Ok(url)
}

fn target(session: &Session, instance: &Value) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    row.fill(LABELS, instance);
    let tags = row.scalars(instance, "/Tags");
    row.set("tags", around(&tags, session.text("tag_separator")));
    let (host, port) = (row.scalar(instance, "/Address"), row.scalar(instance, "/Port"));
    row.address(&host, port);
    row.finish()
}
