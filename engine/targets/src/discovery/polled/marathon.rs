//! Marathon: the tasks of all apps and the ports of each. A server that fails is passed over for another one.

use super::super::random;
use super::row::{Label, Row, rows_of, text_at};
use super::session::{Answer, Call, Session, below};
use Label::{At, Map};
use serde_json::Value;
use series::Labels;

const PREFIX: &str = "__meta_marathon_";

const APP: &[Label] = &[At("app", "/id"), At("image", "/container/docker/image"), Map("app_label_", "/labels")];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let mut answer = call_any(session).await?;
    let mut targets = Vec::new();
    for app in rows_of(&mut answer.body, "/apps")? {
        app_targets(&app, &mut targets)?;
    }
    Ok(targets)
}

/// The answer of the first server, from a random one on, that gives one.
async fn call_any(session: &Session) -> Result<Answer, String> {
    let servers = session.settings().texts("servers");
    let token = session.secret("auth_token", "auth_token_file").await?;
    let first = random() as usize % servers.len().max(1);
    let mut failure = "no server".to_owned();
    for server in servers.iter().cycle().skip(first).take(servers.len()) {
        let mut call = Call::get(below(server, "v2/apps/?embed=apps.tasks")?).any_success();
        if !token.is_empty() {
            call = call.secret_header("authorization", &format!("token={token}"));
        }
        match session.call(call).await {
            Ok(answer) => return Ok(answer),
            Err(error) => failure = error.text,
        }
    }
    Err(failure)
}

/// A port of an app: its number, 0 if each task has its own, and its labels.
type Port<'a> = (u64, Option<&'a Value>);

fn number(row: &Value, field: &str) -> u64 {
    row.get(field).and_then(Value::as_u64).unwrap_or_default()
}

/// The ports of an app, and the name of the labels that they have.
fn ports_of<'a>(row: &mut Row, app: &'a Value, is_container_network: bool) -> (Vec<Port<'a>>, &'static str) {
    for pointer in ["/container/portMappings", "/container/docker/portMappings"] {
        let mappings = row.list(app, pointer);
        let field = if is_container_network { "containerPort" } else { "hostPort" };
        if !mappings.is_empty() {
            let ports = mappings.iter().map(|mapping| (number(mapping, field), Some(mapping)));
            return (ports.collect(), "port_mapping_label_");
        }
    }
    let is_required = app.get("requirePorts").and_then(Value::as_bool).unwrap_or(false);
    let definitions = row.list(app, "/portDefinitions");
    let port = |definition: &'a Value| (if is_required { number(definition, "port") } else { 0 }, Some(definition));
    (definitions.iter().map(port).collect(), "port_definition_label_")
}

fn app_targets(app: &Value, targets: &mut Vec<Labels>) -> Result<(), String> {
    let mut common = Row::new(PREFIX);
    common.fill(APP, app);
    let is_container_network = text_at(app, "/networks/0/mode") == "container";
    let (mut ports, label) = ports_of(&mut common, app, is_container_network);
    for task in common.list(app, "/tasks") {
        let own: Vec<u64> = common.list(task, "/ports").iter().filter_map(Value::as_u64).collect();
        if ports.is_empty() {
            ports = own.iter().map(|port| (*port, None)).collect();
        }
        for (index, (port, labels)) in ports.iter().enumerate() {
            let port = if *port == 0 && own.len() == ports.len() { own[index] } else { *port };
            let mut row = common.clone();
            row.fill(&[At("task", "/id")], task);
            row.set("port_index", index.to_string());
            if let Some(labels) = labels {
                row.fill(&[Map(label, "/labels")], labels);
            }
            let ip = text_at(task, "/ipAddresses/0/ipAddress");
            let host = if is_container_network && !ip.is_empty() { ip } else { text_at(task, "/host") };
            row.address(host, port);
            targets.push(row.finish()?);
        }
    }
    common.finish().map(drop)
}
