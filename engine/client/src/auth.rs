//! The headers that the settings ask for, files read anew each time.

use crate::files::read_secret;
use crate::{Error, ErrorKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use config::{HttpConfig, Secret};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use std::path::Path;
use url::Url;

/// Whether one of the headers comes from a file.
pub fn has_files(http: &HttpConfig) -> bool {
    http.basic_auth.as_ref().is_some_and(|basic| basic.username_file.is_some() || basic.password_file.is_some())
        || http.authorization.as_ref().is_some_and(|authorization| authorization.credentials_file.is_some())
        || http.http_headers.iter().any(|(_, values)| !values.files.is_empty())
}

/// All headers that belong to the host of the request and to no other; the token of `oauth2` is not among them.
pub fn headers(http: &HttpConfig) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    let mut headers = Vec::new();
    for (name, given) in &http.http_headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::new(ErrorKind::Settings, format!("http_headers: {name:?} is no name of a header")))?;
        for value in &given.values {
            headers.push((name.clone(), secret_value(name.as_str(), value)?));
        }
        for secret in &given.secrets {
            headers.push((name.clone(), secret_value(name.as_str(), secret.reveal())?));
        }
        for file in &given.files {
            headers.push((name.clone(), secret_value(name.as_str(), &read_secret(file)?)?));
        }
    }
    if let Some(basic) = &http.basic_auth {
        let username = match &basic.username_file {
            Some(file) => read_secret(file)?,
            None => basic.username.clone(),
        };
        let password = one_of(basic.password.as_ref(), basic.password_file.as_deref())?;
        headers.push((AUTHORIZATION, basic_value(&username, &password)?));
    }
    if let Some(authorization) = &http.authorization {
        let credentials = one_of(authorization.credentials.as_ref(), authorization.credentials_file.as_deref())?;
        let value = format!("{} {credentials}", authorization.r#type);
        headers.push((AUTHORIZATION, secret_value("authorization", &value)?));
    }
    Ok(headers)
}

/// A header value that is not shown and does not leave for another host.
pub fn secret_value(name: &str, value: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
        Error::new(ErrorKind::Settings, format!("the value of header {name} holds a control character"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Basic …`
pub fn basic_value(username: &str, password: &str) -> Result<HeaderValue, Error> {
    secret_value("authorization", &format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// User and password in front of a URL's host, as `Basic …`.
pub fn of_url(url: &Url) -> Result<Option<HeaderValue>, Error> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    basic_value(&plain(url.username()), &plain(url.password().unwrap_or(""))).map(Some)
}

pub fn one_of(given: Option<&Secret>, file: Option<&Path>) -> Result<String, Error> {
    match (given, file) {
        (Some(secret), _) => Ok(secret.reveal().to_owned()),
        (None, Some(file)) => read_secret(file),
        (None, None) => Ok(String::new()),
    }
}
