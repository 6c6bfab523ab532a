//! Tokens by OAuth 2.0: client credentials, or an assertion that we sign (RFC 7523).
//!
//! Invariants:
//!   * one request for a token at a time; whoever comes meanwhile waits for it
//!   * a token is used until shortly before it expires, and dropped when the server refuses it
//!   * what the token service answers is shown only as far as it names an error

use crate::rsa::{RsaDigest, RsaKey};
use crate::{Client, ClientOptions, Error, ErrorKind, Request, Response, auth};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use config::{GrantType, HttpConfig, OAuth2, SignatureAlgorithm, Tree};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use ring::rand::{SecureRandom, SystemRandom};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use url::Url;

/// A token is renewed so long before it expires.
const RENEW_BEFORE: Duration = Duration::from_secs(10);
/// Largest answer of a token service.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long an assertion holds.
const ASSERTION_HOLDS: Duration = Duration::from_secs(3600);
/// Longest error of a token service that is shown.
const SHOWN_BYTES_MAX: usize = 200;

/// Where tokens come from, and the one in use.
pub struct Tokens {
    settings: OAuth2,
    url: Url,
    client: Box<Client>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// Whether the service wants the client's secret in the form; found out by trying, as Go does.
    secret_in_form: bool,
}

/// A token, as the header that has it, and when it expires.
pub(crate) struct Token {
    pub header: HeaderValue,
    pub expires: Option<Instant>,
}

#[derive(serde::Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

impl Tokens {
    pub fn new(settings: &OAuth2, timeout: Duration) -> Result<Tokens, Error> {
        let url = Url::parse(&settings.token_url)
            .map_err(|error| Error::new(ErrorKind::Settings, format!("oauth2.token_url: {error}")))?;
        let http = HttpConfig {
            tls_config: settings.tls_config.clone(),
            proxy_url: settings.proxy_url.clone(),
            no_proxy: settings.no_proxy.clone(),
            proxy_from_environment: settings.proxy_from_environment,
            proxy_connect_header: settings.proxy_connect_header.clone(),
            ..HttpConfig::default()
        };
        let client = Client::new(
            &http,
            ClientOptions { timeout, body_bytes_max: ANSWER_BYTES_MAX, ..ClientOptions::default() },
        )?;
        Ok(Tokens { settings: settings.clone(), url, client: Box::new(client), state: Mutex::default() })
    }

    /// The value of the Authorization header.
    pub async fn header(&self) -> Result<HeaderValue, Error> {
        let mut state = self.state.lock().await;
        let holds = |token: &&Token| token.expires.is_none_or(|expires| Instant::now() + RENEW_BEFORE < expires);
        if let Some(token) = state.token.as_ref().filter(holds) {
            return Ok(token.header.clone());
        }
        state.token = None;
        let named = |error: Error| {
            Error::new(ErrorKind::Token, format!("oauth2 token of {}: {}", crate::shown(&self.url), error.text))
        };
        let token = self.fetch(&mut state).await.map_err(named)?;
        let header = token.header.clone();
        state.token = Some(token);
        Ok(header)
    }

    /// Forgets a token that was refused.
    pub async fn forget(&self) {
        self.state.lock().await.token = None;
    }

    async fn fetch(&self, state: &mut State) -> Result<Token, Error> {
        let mut form: Vec<(String, String)> = self.settings.endpoint_params.clone();
        if self.settings.grant_type == Some(GrantType::JwtBearer) {
            let settings = self.settings.clone();
            let assertion = tokio::task::spawn_blocking(move || assertion(&settings)).await;
            let assertion = assertion.map_err(|panic| Error::new(ErrorKind::Token, panic.to_string()))??;
            form.push(("grant_type".into(), "urn:ietf:params:oauth:grant-type:jwt-bearer".into()));
            form.push(("assertion".into(), assertion));
            return token(&self.request_token(&form, None).await?);
        }
        let settings = self.settings.clone();
        let secret = tokio::task::spawn_blocking(move || {
            auth::one_of(settings.client_secret.as_ref(), settings.client_secret_file.as_deref())
        });
        let secret = secret.await.map_err(|panic| Error::new(ErrorKind::Token, panic.to_string()))??;
        form.push(("grant_type".into(), "client_credentials".into()));
        if !self.settings.scopes.is_empty() {
            form.push(("scope".into(), self.settings.scopes.join(" ")));
        }
        if !state.secret_in_form {
            // RFC 6749 wants both encoded as in a form.
            let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let basic = auth::basic_value(&encoded(&self.settings.client_id), &encoded(&secret))?;
            let answer = self.request_token(&form, Some(basic)).await?;
            if answer.status.is_success() {
                return token(&answer);
            }
        }
        form.push(("client_id".into(), self.settings.client_id.clone()));
        if !secret.is_empty() {
            form.push(("client_secret".into(), secret));
        }
        let token = token(&self.request_token(&form, None).await?)?;
        state.secret_in_form = true;
        Ok(token)
    }

    async fn request_token(&self, form: &[(String, String)], basic: Option<HeaderValue>) -> Result<Response, Error> {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = Request::post(self.url.clone(), body.into_bytes());
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        if let Some(basic) = basic {
            request.headers.insert(AUTHORIZATION, basic);
        }
        // A client that asks a client: boxed, or its future would contain itself.
        Box::pin(self.client.send(request)).await
    }
}

/// The token in an answer of a service.
pub(crate) fn token(response: &Response) -> Result<Token, Error> {
    if !response.status.is_success() {
        // `error` is one of a few words (RFC 6749, 5.2); descriptions might repeat what we sent.
        let word = serde_json::from_slice::<serde_json::Value>(&response.body)
            .ok()
            .and_then(|answer| answer["error"].as_str().map(str::to_owned))
            .filter(|word| {
                word.len() <= SHOWN_BYTES_MAX && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            });
        let word = word.map(|word| format!(" {word:?}")).unwrap_or_default();
        return Err(Error::new(ErrorKind::Token, format!("answered {}{word}", response.status)));
    }
    let answer: Answer = serde_json::from_slice(&response.body)
        .map_err(|_| Error::new(ErrorKind::Token, "the answer holds no access_token in JSON"))?;
    let kind = match answer.token_type.to_ascii_lowercase().as_str() {
        "" | "bearer" => "Bearer",
        "mac" => "MAC",
        "basic" => "Basic",
        _ => &answer.token_type,
    };
    let seconds = answer.expires_in.and_then(|value| match value {
        serde_json::Value::String(text) => text.parse::<f64>().ok(),
        value => value.as_f64(),
    });
    let expires = seconds
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .and_then(|holds| Instant::now().checked_add(holds));
    let header = auth::secret_value("authorization", &format!("{kind} {}", answer.access_token))?;
    Ok(Token { header, expires })
}

/// A signed assertion of who we are.
pub(crate) fn assertion(settings: &OAuth2) -> Result<String, Error> {
    let wrong = |text: &str| Error::new(ErrorKind::Settings, format!("oauth2 client certificate key: {text}"));
    let pem = auth::one_of(settings.client_certificate_key.as_ref(), settings.client_certificate_key_file.as_deref())?;
    let key = RsaKey::from_pem(pem.as_bytes()).map_err(wrong)?;
    let (name, digest) = match settings.signature_algorithm {
        None | Some(SignatureAlgorithm::Rs256) => ("RS256", RsaDigest::Sha256),
        Some(SignatureAlgorithm::Rs384) => ("RS384", RsaDigest::Sha384),
        Some(SignatureAlgorithm::Rs512) => ("RS512", RsaDigest::Sha512),
    };
    let random = SystemRandom::new();
    let mut unique = [0u8; 16];
    random.fill(&mut unique).map_err(|_| wrong("the system has no random numbers"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let or = |given: &str, default: &str| if given.is_empty() { default.to_owned() } else { given.to_owned() };
    let mut header = serde_json::json!({"alg": name, "typ": "JWT"});
    if !settings.client_certificate_key_id.is_empty() {
        header["kid"] = settings.client_certificate_key_id.clone().into();
    }
    let mut claims = serde_json::json!({
        "iss": or(&settings.iss, &settings.client_id),
        "aud": or(&settings.audience, &settings.token_url),
        "jti": URL_SAFE_NO_PAD.encode(unique),
        "iat": now.as_secs(),
        "exp": (now + ASSERTION_HOLDS).as_secs(),
    });
    if !settings.client_id.is_empty() {
        claims["sub"] = settings.client_id.clone().into();
    }
    if !settings.scopes.is_empty() {
        claims["scope"] = settings.scopes.join(" ").into();
    }
    for (name, value) in &settings.claims {
        claims[name] = json(value);
    }
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(digest, text.as_bytes()).map_err(wrong)?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// A claim as the configuration holds it.
fn json(value: &Tree) -> serde_json::Value {
    match value {
        Tree::Text(text) => text.clone().into(),
        Tree::Plain(text) => serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()),
        Tree::List(items) => items.iter().map(json).collect(),
        Tree::Map(fields) => fields.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
    }
}
