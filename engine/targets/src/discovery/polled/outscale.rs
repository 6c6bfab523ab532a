//! Outscale: virtual machines, with requests signed by SigV4.

use super::clock;
use super::row::{Label, Row, text_at};
use super::session::{Answer, Call, Session, below};
use super::sigv4::{Credentials, Scope};
use Label::At;
use serde_json::{Value, json};
use series::Labels;

const PREFIX: &str = "__meta_outscale_vm_";

const LABELS: &[Label] = &[
    At("instance_id", "/VmId"),
    At("subregion", "/Placement/SubregionName"),
    At("state", "/State"),
    At("private_ip", "/PrivateIp"),
    At("public_ip", "/PublicIp"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let settings = session.settings();
    let region = settings.text("region");
    let base = match settings.text("endpoint") {
        "" => format!("https://api.{region}.outscale.com/api/v1"),
        endpoint => endpoint.to_owned(),
    };
    let credentials = Credentials {
        access_key: settings.text("access_key").to_owned(),
        secret_key: session.secret("secret_key", "secret_key_file").await?,
        token: String::new(),
    };
    let url = below(&base, "ReadVms")?;
    let call = |body: &Value| {
        let mut call = Call::post(url.clone(), body);
        // The service takes this region in signatures, whatever the endpoint.
        let scope = Scope { region: "eu-west-2", service: "oapi", signs_accept: true };
        super::sigv4::sign(call.request_mut(), &credentials, &scope, clock::now());
        call
    };
    let next = |answer: &Answer, _| {
        let token = text_at(&answer.body, "/NextPageToken");
        (!token.is_empty()).then(|| call(&json!({"NextPageToken": token})))
    };
    let machines = session.pages(call(&json!({})), "/Vms", next).await;
    let machines = machines.map_err(|error| format!("outscale ReadVms: {error}"))?;
    let mut targets = Vec::new();
    for machine in &machines {
        let mut row = Row::new(PREFIX);
        row.set("region", region);
        row.fill(LABELS, machine);
        row.fill(&[Label::Pairs("tag_", "/Tags", "/Key", "/Value")], machine);
        let private = text_at(machine, "/PrivateIp");
        let host = if private.is_empty() { text_at(machine, "/PublicIp") } else { private };
        row.address(host, session.port());
        let labels = row.finish()?;
        if !host.is_empty() {
            targets.push(labels);
        }
    }
    Ok(targets)
}
