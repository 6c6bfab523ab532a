//! Credentials of clouds: requests that are signed for AWS, and tokens of Azure and Google.
//!
//! Invariants:
//!   * credentials and tokens are fetched when a request needs them, by one request at a time, and renewed before they expire
//!   * answers of token services are bounded, and never shown
//!   * environment and clock are handed in, so that a test owns them

mod aws;
mod azure;
mod google;

use crate::oauth2::{Token, token};
use crate::{Client, ClientOptions, Error, ErrorKind, Request};
use bytes::Bytes;
use config::{AzureAd, GoogleIam, HttpConfig, SigV4};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use url::Url;

/// Largest answer of a service that gives credentials.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// A token is renewed so long before it expires.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// The variables of the environment that settings fall back to.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The variables of this process.
pub fn process_variables() -> Variables {
    Arc::new(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// How a client proves to a cloud who it is.
pub struct Cloud(Kind);

enum Kind {
    Aws(aws::Signer),
    Tokens(TokenCache),
}

impl Cloud {
    /// Signs requests for AWS.
    ///
    /// # Errors
    /// If the settings cannot be used.
    pub fn aws(settings: &SigV4, timeout: Duration, variables: Variables) -> Result<Cloud, Error> {
        Ok(Cloud(Kind::Aws(aws::Signer::new(settings, service(timeout)?, variables))))
    }

    /// Gets tokens of Azure.
    ///
    /// # Errors
    /// If the settings cannot be used.
    pub fn azure(settings: &AzureAd, timeout: Duration, variables: Variables) -> Result<Cloud, Error> {
        let source = azure::Source::new(settings, variables);
        Ok(Cloud(Kind::Tokens(TokenCache::new(Source::Azure(Box::new(source)), service(timeout)?))))
    }

    /// Gets tokens of Google.
    ///
    /// # Errors
    /// If the settings cannot be used.
    pub fn google(settings: &GoogleIam, timeout: Duration, variables: Variables) -> Result<Cloud, Error> {
        let source = google::Source::new(settings, variables);
        Ok(Cloud(Kind::Tokens(TokenCache::new(Source::Google(source), service(timeout)?))))
    }

    /// Adds what proves a request.
    pub(crate) async fn sign(
        &self,
        method: &Method,
        url: &Url,
        headers: &mut HeaderMap,
        body: &Bytes,
    ) -> Result<(), Error> {
        match &self.0 {
            Kind::Aws(signer) => signer.sign(method, url, headers, body).await,
            Kind::Tokens(tokens) => {
                headers.insert(AUTHORIZATION, tokens.header().await?);
                Ok(())
            }
        }
    }

    /// Forgets what was refused.
    pub(crate) async fn forget(&self) {
        match &self.0 {
            Kind::Aws(signer) => signer.forget().await,
            Kind::Tokens(tokens) => *tokens.token.lock().await = None,
        }
    }
}

/// The client that asks services for credentials.
fn service(timeout: Duration) -> Result<Box<Client>, Error> {
    let options = ClientOptions { timeout, body_bytes_max: ANSWER_BYTES_MAX, ..ClientOptions::default() };
    // Services of the machine itself are never behind a proxy; the others may be.
    let http = HttpConfig { proxy_from_environment: true, ..HttpConfig::default() };
    Ok(Box::new(Client::new(&http, options)?))
}

fn settings_error(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Settings, text.into())
}

fn parse_url(text: &str) -> Result<Url, Error> {
    Url::parse(text).map_err(|error| settings_error(format!("{text:?} is no URL: {error}")))
}

/// Posts a form and reads the token of the answer.
async fn post_form(service: &Client, url: &str, form: &[(&str, &str)]) -> Result<Token, Error> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let mut request = Request::post(parse_url(url)?, body.into_bytes());
    request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    // A client that asks a client: boxed, or its future would contain itself.
    token(&Box::pin(service.send(request)).await?)
}

/// Gets a token of a service that knows who asks by where the request comes from.
async fn get_token(service: &Client, url: Url, header: (&'static str, String)) -> Result<Token, Error> {
    let mut request = Request::get(url);
    request.headers.insert(header.0, crate::auth::secret_value(header.0, &header.1)?);
    token(&Box::pin(service.send(request)).await?)
}

enum Source {
    Azure(Box<azure::Source>),
    Google(google::Source),
}

/// The token in use.
struct TokenCache {
    source: Source,
    service: Box<Client>,
    token: Mutex<Option<Token>>,
}

impl TokenCache {
    fn new(source: Source, service: Box<Client>) -> TokenCache {
        TokenCache { source, service, token: Mutex::default() }
    }

    async fn header(&self) -> Result<HeaderValue, Error> {
        let mut held = self.token.lock().await;
        let holds = |token: &&Token| token.expires.is_none_or(|expires| Instant::now() + RENEW_BEFORE < expires);
        if let Some(token) = held.as_ref().filter(holds) {
            return Ok(token.header.clone());
        }
        *held = None;
        let (name, fetched) = match &self.source {
            Source::Azure(source) => ("azuread", source.fetch(&self.service).await),
            Source::Google(source) => ("google_iam", source.fetch(&self.service).await),
        };
        let fetched = fetched.map_err(|error| Error::new(ErrorKind::Token, format!("{name} token: {}", error.text)))?;
        Ok(held.insert(fetched).header.clone())
    }
}
