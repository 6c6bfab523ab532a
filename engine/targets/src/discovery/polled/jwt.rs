//! Assertions of services accounts, signed with their keys (RFC 7523), and the tokens that they are exchanged for.

use super::clock;
use super::row::text_at;
use super::session::{Call, Session};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::Url;
use client::rsa::{RsaDigest, RsaKey};
use serde_json::{Value, json};
use std::time::Duration;

/// Seconds for which an assertion holds.
pub const ASSERTION_SECONDS: u64 = 3600;
/// Time for which a token holds that does not say how long it does.
const TOKEN_HOLDS: Duration = Duration::from_secs(300);

/// Returns an assertion with these claims, and with times.
pub fn assertion(key_pem: &str, digest: RsaDigest, key_id: &str, mut claims: Value) -> Result<String, String> {
    let key = RsaKey::from_pem(key_pem.as_bytes()).map_err(|error| format!("private key: {error}"))?;
    let algorithm = match digest {
        RsaDigest::Sha256 => "RS256",
        RsaDigest::Sha384 => "RS384",
        RsaDigest::Sha512 => "RS512",
    };
    let now = clock::now();
    claims["iat"] = now.into();
    claims["exp"] = (now + ASSERTION_SECONDS).into();
    let header = json!({"alg": algorithm, "typ": "JWT", "kid": key_id});
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(&header), encode(&claims));
    let signature = key.sign(digest, text.as_bytes()).map_err(|error| format!("private key: {error}"))?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Returns the token that is kept under this name, or calls for one with a form and keeps it.
pub async fn token(session: &Session, name: &str, url: Url, form: &[(&str, &str)]) -> Result<String, String> {
    if let Some(token) = session.recall(name) {
        return Ok(token.as_str().unwrap_or_default().to_owned());
    }
    take_token(session, name, Call::form(url, form)).await
}

/// Asks for a token and keeps it until shortly before it expires.
pub async fn take_token(session: &Session, name: &str, call: Call) -> Result<String, String> {
    let answer = session.call(call).await.map_err(|error| format!("token: {}", error.text))?;
    let token = text_at(&answer.body, "/access_token");
    if token.is_empty() {
        return Err("token: the answer holds no access_token".to_owned());
    }
    let seconds = match answer.body.get("expires_in") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64(),
        None => None,
    };
    // A day at most: whatever the answer says, a token is renewed.
    let holds = seconds.map_or(TOKEN_HOLDS, |seconds| Duration::from_secs(seconds.min(86_400)));
    session.keep_token(name, token, holds);
    Ok(token.to_owned())
}
