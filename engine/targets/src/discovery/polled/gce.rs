//! Google Compute Engine: the instances of a zone, with a token of the default credentials.

use super::jwt;
use super::row::{Label, Row, around, text_at};
use super::session::{Answer, Call, Session, below, read_secret, segment, with_params};
use Label::{At, Map, Pairs};
use client::Url;
use client::rsa::RsaDigest;
use serde_json::{Value, json};
use series::Labels;
use std::path::PathBuf;

const PREFIX: &str = "__meta_gce_";
const API: &str = "https://compute.googleapis.com/compute/v1";
const SCOPE: &str = "https://www.googleapis.com/auth/compute.readonly";
const TOKENS: &str = "https://oauth2.googleapis.com/token";
const METADATA: &str = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token";

const LABELS: &[Label] = &[
    At("zone", "/zone"),
    At("instance_id", "/id"),
    At("instance_name", "/name"),
    At("instance_status", "/status"),
    At("machine_type", "/machineType"),
    At("network", "/networkInterfaces/0/network"),
    At("subnetwork", "/networkInterfaces/0/subnetwork"),
    At("private_ip", "/networkInterfaces/0/networkIP"),
    Pairs("interface_ipv4_", "/networkInterfaces", "/name", "/networkIP"),
    Pairs("metadata_", "/metadata/items", "/key", "/value"),
    Map("label_", "/labels"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let settings = session.settings();
    let token = token(session).await?;
    let (project, zone) = (settings.text("project"), settings.text("zone"));
    let path = format!("projects/{}/zones/{}/instances", segment(project), segment(zone));
    let params = [("alt", "json"), ("filter", settings.text("filter")), ("prettyPrint", "false")];
    let url = with_params(below(API, &path)?, &params);
    let page =
        |token_of_page: &str| Call::get(with_params(url.clone(), &[("pageToken", token_of_page)])).bearer(&token);
    let next = |answer: &Answer, _| {
        let token = text_at(&answer.body, "/nextPageToken");
        (!token.is_empty()).then(|| page(token))
    };
    // A zone without instances has no list.
    let instances = session.pages(page(""), "/items?", next).await.inspect_err(|_| session.forget("token"));
    let instances = instances.map_err(|error| format!("error retrieving refresh targets from gce: {error}"))?;
    let mut targets = Vec::new();
    for instance in &instances {
        let mut row = Row::new(PREFIX);
        row.set("project", project);
        row.fill(LABELS, instance);
        let tags = row.scalars(instance, "/tags/items");
        row.set("tags", around(&tags, session.text("tag_separator")));
        if text_at(instance, "/networkInterfaces/0/accessConfigs/0/type") == "ONE_TO_ONE_NAT" {
            row.set("public_ip", text_at(instance, "/networkInterfaces/0/accessConfigs/0/natIP"));
        }
        row.address(text_at(instance, "/networkInterfaces/0/networkIP"), session.port());
        let has_interface = !row.list(instance, "/networkInterfaces").is_empty();
        let labels = row.finish()?;
        if has_interface {
            targets.push(labels);
        }
    }
    Ok(targets)
}

/// The file with credentials: that of the environment, or that of gcloud.
fn credentials_file() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS").filter(|file| !file.is_empty()) {
        return Some(file.into());
    }
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let file = home.join(".config/gcloud/application_default_credentials.json");
    file.exists().then_some(file)
}

/// The token of the default credentials.
async fn token(session: &Session) -> Result<String, String> {
    if let Some(token) = session.recall("token") {
        return Ok(token.as_str().unwrap_or_default().to_owned());
    }
    let Some(file) = credentials_file() else {
        let url = Url::parse(METADATA).map_err(|error| error.to_string())?;
        let call = Call::get(url).plain().header("metadata-flavor", "Google");
        return jwt::take_token(session, "token", call).await;
    };
    let shown = file.display().to_string();
    let credentials: Value =
        serde_json::from_str(&read_secret(&file).await?).map_err(|_| format!("{shown}: not the expected JSON"))?;
    let form = form_of(session, &credentials).map_err(|error| format!("{shown}: {error}"))?;
    let url = match text_at(&credentials, "/token_uri") {
        "" => TOKENS,
        url => url,
    };
    let url = Url::parse(url).map_err(|_| format!("{shown}: token_uri is no URL"))?;
    let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    jwt::token(session, "token", url, &form).await
}

/// The form that is exchanged for a token.
fn form_of(session: &Session, credentials: &Value) -> Result<Vec<(&'static str, String)>, String> {
    let text = |field: &str| text_at(credentials, field).to_owned();
    match text_at(credentials, "/type") {
        "service_account" => {
            let audience = match text_at(credentials, "/token_uri") {
                "" => TOKENS,
                url => url,
            };
            let claims = json!({"iss": text("/client_email"), "scope": SCOPE, "aud": audience});
            let (key, id) = (text("/private_key"), text("/private_key_id"));
            let assertion = jwt::assertion(&key, RsaDigest::Sha256, &id, claims)?;
            session.hide(&assertion);
            Ok(vec![("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer".to_owned()), ("assertion", assertion)])
        }
        "authorized_user" => {
            session.hide(&text("/client_secret"));
            session.hide(&text("/refresh_token"));
            Ok(vec![
                ("grant_type", "refresh_token".to_owned()),
                ("client_id", text("/client_id")),
                ("client_secret", text("/client_secret")),
                ("refresh_token", text("/refresh_token")),
            ])
        }
        other => Err(format!("credentials of type {other:?} are not known; use service_account or authorized_user")),
    }
}
