//! STACKIT: the servers of a project, with a token of the section or one for the key of a service account.

use super::super::sanitized;
use super::jwt;
use super::row::{Label, Row, text_at};
use super::session::{Call, Session, below, read_secret, segment, with_params};
use Label::At;
use client::Url;
use client::rsa::RsaDigest;
use serde_json::{Value, json};
use series::Labels;
use std::path::Path;

const PREFIX: &str = "__meta_stackit_";
const TOKENS: &str = "https://service-account.api.stackit.cloud/token";

const LABELS: &[Label] = &[
    At("id", "/id"),
    At("name", "/name"),
    At("availability_zone", "/availabilityZone"),
    At("status", "/status"),
    At("power_status", "/powerStatus"),
    At("type", "/machineType"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let settings = session.settings();
    let base = match settings.text("endpoint") {
        "" => format!("https://iaas.api.{}.stackit.cloud", settings.text("region")),
        endpoint => endpoint.to_owned(),
    };
    let path = format!("v1/projects/{}/servers", segment(settings.text("project")));
    let mut call = Call::get(with_params(below(&base, &path)?, &[("details", "true")]));
    if let Some(token) = token(session).await? {
        call = call.bearer(&token);
    }
    let servers = session.rows(call, "/items").await?;
    let mut targets = Vec::new();
    for server in &servers {
        targets.extend(target(session, server)?);
    }
    Ok(targets)
}

/// A text of the section, or that of a file, or that which the credentials file names.
async fn of_key(session: &Session, field: &str, path: &str, variable: &str) -> Result<String, String> {
    let settings = session.settings();
    if let Some(key) = settings.secret(field) {
        return Ok(key.reveal().to_owned());
    }
    let mut file = settings.text(path).to_owned();
    let credentials = settings.text("credentials_file_path");
    if file.is_empty() && !credentials.is_empty() {
        let credentials: Value = serde_json::from_str(&read_secret(Path::new(credentials)).await?)
            .map_err(|_| format!("{credentials}: not the expected JSON"))?;
        let inline = text_at(&credentials, &format!("/{variable}"));
        if !inline.is_empty() {
            return Ok(inline.to_owned());
        }
        text_at(&credentials, &format!("/{variable}_PATH")).clone_into(&mut file);
    }
    if file.is_empty() { Ok(String::new()) } else { read_secret(Path::new(&file)).await }
}

async fn token(session: &Session) -> Result<Option<String>, String> {
    let key = of_key(session, "service_account_key", "service_account_key_path", "STACKIT_SERVICE_ACCOUNT_KEY").await?;
    if key.is_empty() {
        return Ok(None);
    }
    if let Some(token) = session.recall("token") {
        return Ok(token.as_str().map(str::to_owned));
    }
    let key: Value = serde_json::from_str(&key).map_err(|_| "service_account_key: not the expected JSON".to_owned())?;
    let mut pem = of_key(session, "private_key", "private_key_path", "STACKIT_PRIVATE_KEY").await?;
    if pem.is_empty() {
        text_at(&key, "/credentials/privateKey").clone_into(&mut pem);
    }
    let claims = json!({
        "iss": text_at(&key, "/credentials/iss"),
        "sub": text_at(&key, "/credentials/sub"),
        "aud": text_at(&key, "/credentials/aud"),
        "jti": format!("{:x}-{:x}", super::clock::now(), super::super::random()),
    });
    let assertion = jwt::assertion(&pem, RsaDigest::Sha512, text_at(&key, "/credentials/kid"), claims)?;
    session.hide(&assertion);
    let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion.as_str())];
    let url = Url::parse(TOKENS).map_err(|error| error.to_string())?;
    jwt::token(session, "token", url, &form).await.map(Some)
}

fn target(session: &Session, server: &Value) -> Result<Option<Labels>, String> {
    let mut row = Row::new(PREFIX);
    row.set("project", session.text("project"));
    row.fill(LABELS, server);
    match server.get("labels") {
        Some(Value::Object(labels)) => {
            for (key, value) in labels.iter().filter_map(|(key, value)| Some((key, value.as_str()?))) {
                row.set(&format!("label_{}", sanitized(key)), value);
                row.set(&format!("labelpresent_{}", sanitized(key)), "true");
            }
        }
        None | Some(Value::Null) => {}
        Some(_) => row.fail("/labels: not an object"),
    }
    let (mut public, mut private) = ("", "");
    for nic in row.list(server, "/nics") {
        let (ipv4, of_all) = (text_at(nic, "/ipv4"), text_at(nic, "/publicIp"));
        if public.is_empty() {
            public = of_all;
        }
        if private.is_empty() {
            private = ipv4;
        }
        row.set(&format!("private_ipv4_{}", sanitized(text_at(nic, "/networkName"))), ipv4);
    }
    row.set("public_ipv4", public);
    let host = if public.is_empty() { private } else { public };
    row.address(host, session.port());
    let labels = row.finish()?;
    Ok((!host.is_empty()).then_some(labels))
}
