//! Kuma: monitoring assignments by xDS over HTTP, a long poll that names the version it has.

use super::super::sanitized;
use super::Refreshed;
use super::row::{Label, Row, rows_of, text_at, text_of};
use super::session::{Call, Session, below};
use Label::At;
use client::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

const PREFIX: &str = "__meta_kuma_";
const KIND: &str = "type.googleapis.com/kuma.observability.v1.MonitoringAssignment";
/// Time allowed beyond that for which the server holds a request.
const BEYOND_FETCH: Duration = Duration::from_secs(15);

pub async fn targets(session: &Session) -> Refreshed {
    let refreshed = fetch(session).await;
    if refreshed.is_err() {
        // A server that was restored may not know the version that we have.
        session.forget("seen");
    }
    refreshed
}

async fn fetch(session: &Session) -> Refreshed {
    let settings = session.settings();
    let server = settings.text("server");
    if !server.starts_with("http://") && !server.starts_with("https://") {
        return Err("kuma_sd: invalid xDS server URL protocol. must be either 'http' or 'https'".to_owned());
    }
    let within = settings.duration("fetch_timeout");
    let path = format!("v3/discovery:monitoringassignments?fetch-timeout={}", config::format_duration(within));
    let seen = session.recall("seen").unwrap_or_default();
    let mut question = json!({"node": {"id": client_id(session)}, "type_url": KIND});
    for (field, known) in [("version_info", "version"), ("response_nonce", "nonce")] {
        if let Some(value) = seen.get(known).filter(|value| value.as_str() != Some("")) {
            question[field] = value.clone();
        }
    }
    let call = Call::post(below(server, &path)?, &question).any_status().within(within + BEYOND_FETCH);
    let mut answer = session.call(call.no_json_unless_ok()).await?;
    match answer.status {
        StatusCode::NOT_MODIFIED if !seen.is_null() => return Ok(None),
        StatusCode::OK => {}
        status => return Err(format!("non 200 status '{status}' response during xDS fetch")),
    }
    if text_at(&answer.body, "/type_url") != KIND {
        return Err(format!("unexpected type_url {:?} in the answer", text_at(&answer.body, "/type_url")));
    }
    let next = json!({"version": text_at(&answer.body, "/version_info"), "nonce": text_at(&answer.body, "/nonce")});
    let mut targets = Vec::new();
    for assignment in rows_of(&mut answer.body, "/resources?")? {
        let mut common = Row::new(PREFIX);
        common.fill(&[At("mesh", "/mesh"), At("service", "/service")], &assignment);
        labels(&mut common, &assignment);
        for target in common.list(&assignment, "/targets") {
            let mut row = common.clone();
            labels(&mut row, target);
            row.fill(&[At("dataplane", "/name")], target);
            for (label, field) in
                [("instance", "/name"), ("__scheme__", "/scheme"), ("__metrics_path__", "/metrics_path")]
            {
                let value = row.scalar(target, field);
                row.set_plain(label, value);
            }
            let address = row.scalar(target, "/address");
            row.set_plain("__address__", address);
            targets.push(row.finish()?);
        }
        common.finish()?;
    }
    session.keep("seen", next, None);
    Ok(Some(targets))
}

/// The labels of an assignment or target; the first of equal names counts.
fn labels(row: &mut Row, owner: &Value) {
    match owner.get("labels") {
        Some(Value::Object(labels)) => {
            for (key, value) in labels {
                match text_of(value) {
                    Ok(value) => row.set(&format!("label_{}", sanitized(key)), value),
                    Err(error) => row.fail(error),
                }
            }
        }
        None | Some(Value::Null) => {}
        Some(_) => row.fail("labels: not an object"),
    }
}

/// The name of this client: that of the section, or that of the host.
fn client_id(session: &Session) -> String {
    let given = session.text("client_id");
    if !given.is_empty() {
        return given.to_owned();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if host.trim().is_empty() { "prometheus".to_owned() } else { host.trim().to_owned() }
}
