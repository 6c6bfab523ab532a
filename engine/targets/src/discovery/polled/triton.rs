//! Triton: containers, or compute nodes, of the container monitor.

use super::row::{Label, Row, around, text_at};
use super::session::{Call, Session, below, with_params};
use Label::At;
use serde_json::Value;
use series::Labels;

const PREFIX: &str = "__meta_triton_";

const CONTAINER: &[Label] = &[
    At("machine_id", "/vm_uuid"),
    At("machine_alias", "/vm_alias"),
    At("machine_brand", "/vm_brand"),
    At("machine_image", "/vm_image_uuid"),
    At("server_id", "/server_uuid"),
];

const NODE: &[Label] = &[At("machine_id", "/server_uuid"), At("machine_alias", "/server_hostname")];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let settings = session.settings();
    let (path, list, table, id) = match settings.text("role") {
        "cn" => ("gz/discover", "/cns", NODE, "/server_uuid"),
        _ => ("discover", "/containers", CONTAINER, "/vm_uuid"),
    };
    let (endpoint, port) = (settings.text("endpoint"), session.port());
    let base = format!("https://{endpoint}:{port}/v{}", settings.number("version"));
    let groups = settings.texts("groups").join(",");
    let url = with_params(below(&base, path)?, &[("groups", &groups)]);
    let rows = session.rows(Call::get(url).any_success(), list).await?;
    let target = |machine: &Value| {
        let mut row = Row::new(PREFIX);
        row.fill(table, machine);
        let groups = row.scalars(machine, "/groups");
        row.set("groups", around(&groups, ","));
        let id = text_at(machine, id);
        if !id.is_empty() {
            row.address(&format!("{id}.{}", settings.text("dns_suffix")), port);
        }
        row.finish()
    };
    rows.iter().map(target).collect()
}
