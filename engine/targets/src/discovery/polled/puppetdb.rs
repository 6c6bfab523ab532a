//! PuppetDB: the resources that a query finds.

use super::super::sanitized;
use super::row::{Label, Row, general, rows_of};
use super::session::{Call, Session, below};
use Label::{Around, At};
use serde_json::{Value, json};
use series::Labels;

const PREFIX: &str = "__meta_puppetdb_";

const LABELS: &[Label] = &[
    At("certname", "/certname"),
    At("resource", "/resource"),
    At("type", "/type"),
    At("title", "/title"),
    At("exported", "/exported"),
    Around("tags", "/tags"),
    At("file", "/file"),
    At("environment", "/environment"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let settings = session.settings();
    let query = settings.text("query");
    let call = Call::post(below(settings.text("url"), "pdb/query/v4")?, &json!({"query": query}));
    let mut answer = session.call(call).await?;
    let kind = answer.header("content-type").to_ascii_lowercase().replace(['"', ' '], "");
    if !matches!(kind.as_str(), "application/json" | "application/json;charset=utf-8") {
        return Err(format!("unsupported content type {:?}", answer.header("content-type")));
    }
    let resources = rows_of(&mut answer.body, "")?;
    resources.iter().map(|resource| target(session, query, resource)).collect()
}

fn target(session: &Session, query: &str, resource: &Value) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    row.set("query", query);
    row.fill(LABELS, resource);
    if session.settings().flag("include_parameters")
        && let Some(parameters) = resource.get("parameters").and_then(Value::as_object)
    {
        for (name, value) in parameters {
            parameter(&mut row, &format!("parameter_{}", sanitized(name)), value, 0);
        }
    }
    let host = row.scalar(resource, "/certname");
    row.address(&host, session.port());
    row.finish()
}

/// Sets the labels of a parameter; those of a map have its keys behind its name.
fn parameter(row: &mut Row, name: &str, value: &Value, depth: usize) {
    const DEPTH_MAX: usize = 16;
    match value {
        Value::Object(fields) if depth < DEPTH_MAX => {
            for (key, value) in fields {
                parameter(row, &format!("{name}_{}", sanitized(key)), value, depth + 1);
            }
        }
        Value::Array(list) => row.set(name, list.iter().map(text).collect::<Vec<_>>().join(",")),
        value => row.set(name, text(value)),
    }
}

/// A scalar of a parameter; lists and maps within lists are empty.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.as_f64().map(general).unwrap_or_default(),
        _ => String::new(),
    }
}
