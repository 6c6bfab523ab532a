//! Who may talk to us, and how: the file of `--web.config.file`, followed while running.
//!
//! Invariants:
//!   * without a file everybody may, in plain text; with one that cannot be used there is no server
//!   * a change that cannot be used changes nothing, and is told once
//!   * a password is compared off the async threads, one at a time, and a user who does not exist takes as long

mod password;
mod tls;

use axum::extract::{Request, State as Extract};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use config::WebConfig;
use password::Passwords;
use rustls::ServerConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tls::Pem;
use tokio::sync::watch;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The rules that hold now.
#[derive(Clone)]
pub struct Security {
    policy: watch::Receiver<Arc<Policy>>,
    passwords: Arc<Passwords>,
}

/// What the file asks for.
#[derive(Default)]
pub(crate) struct Policy {
    /// Connections are plain without it.
    pub tls: Option<Arc<ServerConfig>>,
    /// Names and hashes; everybody is let in without any.
    users: Vec<(String, config::Secret)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What the policy is made of; equal bytes make an equal one.
#[derive(PartialEq)]
struct Source {
    web: WebConfig,
    pem: Option<Pem>,
}

impl Source {
    fn read(file: &Path) -> Result<Source, String> {
        let web = config::load_web(file).map_err(|errors| errors.to_string())?;
        let pem = web.tls_server_config.as_ref().map(Pem::read).transpose();
        Ok(Source { web, pem: pem.map_err(|error| format!("{}: {error}", file.display()))? })
    }

    fn policy(&self, file: &Path) -> Result<Policy, String> {
        let failed = |error: String| format!("{}: {error}", file.display());
        let tls = self.web.tls_server_config.as_ref().zip(self.pem.as_ref());
        let tls = tls.map(|(tls, pem)| tls::server_config(tls, pem)).transpose();
        let users = self.web.basic_auth_users.clone();
        password::check(&users).map_err(failed)?;
        let header = |(name, value): &(String, String)| {
            let name = HeaderName::try_from(name).map_err(|error| failed(format!("header {name}: {error}")))?;
            let value = HeaderValue::try_from(value).map_err(|error| failed(format!("header {name}: {error}")))?;
            Ok((name, value))
        };
        let headers = self.web.http_server_config.headers.iter().map(header).collect::<Result<_, String>>()?;
        Ok(Policy { tls: tls.map_err(|error| failed(error.to_string()))?, users, headers })
    }
}

impl Security {
    /// Everybody, in plain text.
    pub fn none() -> Security {
        Security { policy: watch::channel(Arc::default()).1, passwords: Arc::default() }
    }

    /// An error if the file, or one that it names, cannot be used.
    pub fn check(file: &Path) -> Result<(), String> {
        Source::read(file)?.policy(file).map(|_| ())
    }

    /// What the file asks for, now and after it or a file that it names has changed. Needs a runtime of tokio.
    pub fn follow(file: &Path) -> Result<Security, String> {
        let source = Source::read(file)?;
        let (policy_to, policy) = watch::channel(Arc::new(source.policy(file)?));
        tokio::spawn(follow(file.to_owned(), source, policy_to));
        Ok(Security { policy, passwords: Arc::default() })
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.borrow().clone()
    }

    /// Whether connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.policy().tls.is_some()
    }

    async fn lets_in(&self, policy: &Policy, given: Option<(String, String)>) -> bool {
        if policy.users.is_empty() {
            return true;
        }
        let Some((user, password)) = given else { return false };
        let hash = policy.users.iter().find(|(name, _)| *name == user).map(|(_, hash)| hash.reveal().to_owned());
        self.passwords.is_right(user, hash, password).await
    }
}

/// User and password of a header.
fn credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// Lets in who may, and sets the headers that the file asks for.
pub(crate) async fn guard(Extract(security): Extract<Security>, request: Request, next: Next) -> Response {
    let policy = security.policy();
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(credentials);
    let mut response = if security.lets_in(&policy, given).await {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic")], "Unauthorized\n").into_response()
    };
    for (name, value) in &policy.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

async fn follow(file: PathBuf, mut current: Source, policy: watch::Sender<Arc<Policy>>) {
    let mut told = String::new();
    while !policy.is_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
        let path = file.clone();
        let read = tokio::task::spawn_blocking(move || Source::read(&path)).await;
        let changed = match read.expect("reading does not panic") {
            Ok(source) if source == current => {
                told.clear();
                continue;
            }
            Ok(source) => source.policy(&file).map(|policy| (source, policy)),
            Err(error) => Err(error),
        };
        match changed {
            Ok((source, changed)) => {
                current = source;
                policy.send_replace(Arc::new(changed));
                told.clear();
                tracing::info!(file = %file.display(), "the changed web configuration holds");
            }
            Err(error) if error != told => {
                tracing::error!(error, "the changed web configuration cannot be used; the one before holds");
                told = error;
            }
            Err(_) => {}
        }
    }
}
