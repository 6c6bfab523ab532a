//! Amazon Web Services: what its services have in common, and a module for each of them.

mod credentials;
pub mod ec2;
pub mod ecs;
pub mod elasticache;
mod fields;
pub mod lightsail;
pub mod msk;
pub mod rds;

use super::clock;
use super::session::{Call, Session, below};
use super::sigv4::{self, Credentials, Scope};
use client::Url;
use serde_json::Value;

/// Credentials and region of a section.
pub struct Account<'a> {
    pub session: &'a Session,
    pub region: String,
    credentials: Credentials,
}

impl Account<'_> {
    /// Finds the region and credentials, in the order of AWS' own clients.
    pub async fn of(session: &Session) -> Result<Account<'_>, String> {
        let region = credentials::region(session).await?;
        let credentials = credentials::find(session, &region).await?;
        Ok(Account { session, region, credentials })
    }

    /// The URL of a service: the endpoint of the section, or the public one.
    fn base(&self, service: &str, has_endpoint: bool) -> String {
        match self.session.text("endpoint") {
            endpoint if has_endpoint && !endpoint.is_empty() => endpoint.to_owned(),
            _ => public_endpoint(service, &self.region),
        }
    }

    fn signed(&self, mut call: Call, service: &str) -> Call {
        let scope = Scope { region: &self.region, service, signs_accept: false };
        sigv4::sign(call.request_mut(), &self.credentials, &scope, clock::now());
        call
    }

    /// A request of the query protocol, answered in XML.
    pub fn query(&self, service: &Query, action: &str, params: &[(String, String)]) -> Result<Call, String> {
        let mut form = vec![("Action".to_owned(), action.to_owned())];
        form.extend_from_slice(params);
        form.push(("Version".to_owned(), service.version.to_owned()));
        let url = endpoint_url(&self.base(service.name, service.has_endpoint))?;
        Ok(self.signed(Call::form(url, &form).xml(), service.name))
    }

    /// A request of the JSON protocol.
    pub fn json(&self, service: &str, target: &str, body: &Value) -> Result<Call, String> {
        let url = endpoint_url(&self.base(service, true))?;
        let call = Call::post_text(url, "application/x-amz-json-1.1", body.to_string());
        Ok(self.signed(call.header("x-amz-target", target), service))
    }

    /// A request of the REST protocol.
    pub fn rest(&self, service: &str, path: &str) -> Result<Call, String> {
        let url = below(&self.base(service, true), path)?;
        Ok(self.signed(Call::get(url), service))
    }
}

/// A service with the query protocol.
pub struct Query {
    pub name: &'static str,
    pub version: &'static str,
    /// Whether the endpoint of the section is that of this service.
    pub has_endpoint: bool,
}

fn public_endpoint(service: &str, region: &str) -> String {
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://{service}.{region}.{suffix}/")
}

fn endpoint_url(base: &str) -> Result<Url, String> {
    let url = Url::parse(base).map_err(|error| format!("endpoint is no URL: {error}"))?;
    if url.has_host() { Ok(url) } else { Err("endpoint has no host; write https://host".to_owned()) }
}

/// Returns a list as numbered parameters: `Name.1`, `Name.2` and so on.
pub fn numbered<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Vec<(String, String)> {
    let values = values.into_iter().enumerate();
    values.map(|(index, value)| (format!("{name}.{}", index + 1), value.to_owned())).collect()
}
