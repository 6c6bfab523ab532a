//! Oracle Cloud: the instances of compartments and their primary interfaces, with requests signed by an RSA key.

use super::super::sanitized;
use super::clock;
use super::row::{Label, Row, around, rows_of, text_at, text_of};
use super::session::{Answer, Call, CallError, Session, below, segment, with_params};
use Label::{At, Map};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Url;
use client::rsa::{RsaDigest, RsaKey};
use serde_json::Value;
use series::Labels;
use std::collections::{BTreeSet, VecDeque};

const PREFIX: &str = "__meta_oci_";
/// Number of compartments of a tenancy that are looked into.
const COMPARTMENTS_MAX: usize = 5_000;

const INSTANCE: &[Label] = &[
    At("instance_id", "/id"),
    At("instance_name", "/displayName"),
    At("instance_state", "/lifecycleState"),
    At("instance_shape", "/shape"),
    At("availability_domain", "/availabilityDomain"),
    At("fault_domain", "/faultDomain"),
    At("compartment_id", "/compartmentId"),
    At("image_id", "/imageId"),
    Map("tag_", "/freeformTags"),
];

const VNIC: &[Label] = &[
    At("vnic_id", "/id"),
    At("private_ip", "/privateIp"),
    At("public_ip", "/publicIp"),
    At("hostname_label", "/hostnameLabel"),
];

struct Signer<'a> {
    session: &'a Session,
    key: RsaKey,
    key_id: String,
}

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let settings = session.settings();
    if settings.text("auth") != "api_key" {
        return Err("oci_sd: auth instance_principal is not carried out by this build; use api_key".to_owned());
    }
    let signer = signer(session).await?;
    let compartments = match settings.texts("compartments") {
        [] => signer.compartments().await?,
        given => given.to_vec(),
    };
    let mut targets = Vec::new();
    for compartment in &compartments {
        signer.instances(compartment, &mut targets).await?;
    }
    Ok(targets)
}

async fn signer(session: &Session) -> Result<Signer<'_>, String> {
    let settings = session.settings();
    let Some(file) = settings.path("key_file").map(std::path::Path::to_owned) else {
        return Err("oci_sd: key_file is missing".to_owned());
    };
    let shown = file.display().to_string();
    let pem =
        tokio::task::spawn_blocking(move || client::files::read(&file)).await.map_err(|panic| panic.to_string())?;
    let pem = pem.map_err(|error| error.text)?;
    let key = RsaKey::from_pem(&pem).map_err(|error| format!("{shown}: {error}"))?;
    let key_id = format!("{}/{}/{}", settings.text("tenancy"), settings.text("user"), settings.text("fingerprint"));
    Ok(Signer { session, key, key_id })
}

/// Returns the header of a request that is signed: its date, method and path, and host.
fn authorization(key: &RsaKey, key_id: &str, url: &Url, date: &str) -> Result<String, String> {
    let host = url.host_str().unwrap_or("");
    let host = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let text = format!("date: {date}\n(request-target): get {}{query}\nhost: {host}", url.path());
    let signature = STANDARD.encode(key.sign(RsaDigest::Sha256, text.as_bytes())?);
    Ok(format!(
        "Signature version=\"1\",headers=\"date (request-target) host\",keyId=\"{key_id}\",algorithm=\"rsa-sha256\",\
         signature=\"{signature}\""
    ))
}

impl Signer<'_> {
    fn call(&self, service: &str, path: &str, params: &[(&str, &str)]) -> Result<Call, String> {
        let region = self.session.text("region");
        let host = match service {
            "identity" => format!("https://identity.{region}.oci.oraclecloud.com/20160918"),
            _ => format!("https://iaas.{region}.oraclecloud.com/20160918"),
        };
        let url = with_params(below(&host, path)?, params);
        let date = clock::utc(clock::now()).http_text();
        let header = authorization(&self.key, &self.key_id, &url, &date)?;
        Ok(Call::get(url).header("date", &date).secret_header("authorization", &header))
    }

    /// All pages of a list.
    async fn list(&self, service: &str, path: &str, params: &[(&str, &str)]) -> Result<Vec<Value>, String> {
        let page = |token: &str| {
            let with_page: Vec<(&str, &str)> = params.iter().copied().chain([("page", token)]).collect();
            self.call(service, path, &with_page)
        };
        let next = |answer: &Answer, _| {
            let token = answer.header("opc-next-page");
            if token.is_empty() { None } else { page(token).ok() }
        };
        self.session.pages(page("")?, "", next).await
    }

    /// The tenancy and all active compartments below it, breadth first. Those that may not be listed are left out.
    async fn compartments(&self) -> Result<Vec<String>, String> {
        let tenancy = self.session.text("tenancy").to_owned();
        let mut known = BTreeSet::from([tenancy.clone()]);
        let mut order = vec![tenancy.clone()];
        let mut waiting = VecDeque::from([tenancy.clone()]);
        while let Some(parent) = waiting.pop_front() {
            let params = [
                ("accessLevel", "ACCESSIBLE"),
                ("compartmentId", parent.as_str()),
                ("compartmentIdInSubtree", "false"),
                ("limit", "100"),
            ];
            let children = match self.list("identity", "compartments", &params).await {
                Ok(children) => children,
                Err(error) if parent == tenancy => return Err(error),
                Err(error) => {
                    self.session.warn(format!("compartments below {parent} are left out: {error}"));
                    continue;
                }
            };
            for child in children.iter().filter(|child| text_at(child, "/lifecycleState") == "ACTIVE") {
                let id = text_at(child, "/id").to_owned();
                if !id.is_empty() && known.insert(id.clone()) {
                    order.push(id.clone());
                    waiting.push_back(id);
                }
            }
            if order.len() > COMPARTMENTS_MAX {
                return Err(format!("more than {COMPARTMENTS_MAX} compartments; name those that matter"));
            }
        }
        Ok(order)
    }

    async fn instances(&self, compartment: &str, targets: &mut Vec<Labels>) -> Result<(), String> {
        let params = [("compartmentId", compartment), ("limit", "100")];
        let instances = self.list("iaas", "instances", &params).await?;
        let mut calls = Vec::new();
        for instance in &instances {
            let params = [("compartmentId", compartment), ("instanceId", text_at(instance, "/id")), ("limit", "100")];
            calls.push(self.call("iaas", "vnicAttachments", &params)?);
        }
        let attachments = self.session.each(calls).await?;
        let count = instances.len();
        let mut failed = 0;
        for (instance, attachments) in instances.iter().zip(attachments) {
            match self.target(instance, attachments).await {
                Ok(target) => targets.extend(target),
                Err(error) => {
                    failed += 1;
                    let name = text_at(instance, "/displayName");
                    self.session.warn(format!("instance {name:?} is left out: {error}"));
                }
            }
        }
        if failed > 0 && failed == count {
            return Err(format!("none of the {count} instances of {compartment} could be described"));
        }
        Ok(())
    }

    /// The target of an instance; one that is not running has no interface and is none.
    async fn target(&self, instance: &Value, attachments: Result<Answer, CallError>) -> Result<Option<Labels>, String> {
        let mut attachments = attachments?;
        for attachment in rows_of(&mut attachments.body, "")? {
            if text_at(&attachment, "/lifecycleState") != "ATTACHED" {
                continue;
            }
            let id = segment(text_at(&attachment, "/vnicId"));
            let vnic = self.session.call(self.call("iaas", &format!("vnics/{id}"), &[])?).await?.body;
            if vnic.get("isPrimary").and_then(Value::as_bool) == Some(true) {
                return target(self.session, instance, &vnic).map(Some);
            }
        }
        Ok(None)
    }
}

fn target(session: &Session, instance: &Value, vnic: &Value) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    row.fill(INSTANCE, instance);
    row.fill(VNIC, vnic);
    row.set("region", session.text("region"));
    row.set("tenancy_id", session.text("tenancy"));
    for (namespace, tags) in instance.get("definedTags").and_then(Value::as_object).into_iter().flatten() {
        for (key, value) in tags.as_object().into_iter().flatten() {
            // Only scalars become labels.
            if let Ok(value) = text_of(value) {
                row.set(&format!("defined_tag_{}_{}", sanitized(namespace), sanitized(key)), value);
            }
        }
    }
    let mut ipv6 = row.scalars(vnic, "/ipv6Addresses");
    ipv6.sort();
    row.set("ipv6_addresses", around(&ipv6, ","));
    let hosts = [text_at(vnic, "/privateIp"), text_at(vnic, "/publicIp"), ipv6.first().map_or("", String::as_str)];
    let host = hosts.into_iter().find(|host| !host.is_empty()).unwrap_or("");
    row.address(host, session.port());
    row.finish()
}
