//! The headers that a job's http_config asks for: credentials and headers of the user's own.

use crate::fetch::FetchError;
use crate::status::Reason;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use config::{BasicAuth, HttpConfig, Secret};
use std::path::Path;

/// Largest file that is taken for a secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Headers for the target's own host. What this build cannot do is an error, so that no request leaves without its
/// credentials or around its proxy. Files are read here, once per target and change of its job.
pub fn headers(http: &HttpConfig) -> Result<Vec<(String, String)>, FetchError> {
    if http.oauth2.is_some() {
        return unsupported("oauth2");
    }
    if http.proxy_url.is_some() || http.proxy_from_environment {
        return unsupported("a proxy");
    }
    let mut headers = Vec::new();
    for (name, given) in &http.http_headers {
        for value in &given.values {
            headers.push((name.clone(), value.clone()));
        }
        for secret in &given.secrets {
            headers.push((name.clone(), secret.reveal().to_owned()));
        }
        for file in &given.files {
            headers.push((name.clone(), read_secret(file)?));
        }
    }
    if let Some(basic) = &http.basic_auth {
        headers.push(("Authorization".to_owned(), basic_value(basic)?));
    }
    if let Some(authorization) = &http.authorization {
        let credentials = one_of(&authorization.credentials, authorization.credentials_file.as_deref())?;
        headers.push(("Authorization".to_owned(), format!("{} {credentials}", authorization.r#type)));
    }
    Ok(headers)
}

fn unsupported<T>(what: &str) -> Result<T, FetchError> {
    let text = format!("this build does not scrape through {what}; the target is left alone");
    Err(FetchError { reason: Reason::Unsupported, text })
}

fn basic_value(basic: &BasicAuth) -> Result<String, FetchError> {
    let username = match &basic.username_file {
        Some(file) => read_secret(file)?,
        None => basic.username.clone(),
    };
    let password = one_of(&basic.password, basic.password_file.as_deref())?;
    Ok(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

fn one_of(given: &Option<Secret>, file: Option<&Path>) -> Result<String, FetchError> {
    match (given, file) {
        (Some(secret), _) => Ok(secret.reveal().to_owned()),
        (None, Some(file)) => read_secret(file),
        (None, None) => Ok(String::new()),
    }
}

/// The text of a file without the white space around it. The error names the file, never what is in it.
fn read_secret(file: &Path) -> Result<String, FetchError> {
    let failed = |why: String| {
        let text = format!("unable to read the secret in {}: {why}", file.display());
        FetchError { reason: Reason::Unsupported, text }
    };
    let size = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?.len();
    if size > SECRET_BYTES_MAX {
        return Err(failed(format!("it has {size} bytes, more than {SECRET_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_become_headers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "open sesame\n").unwrap();
        let basic = BasicAuth {
            username: "Aladdin".into(),
            username_file: None,
            password: None,
            password_file: Some(file.clone()),
        };
        let http = HttpConfig { basic_auth: Some(basic), ..HttpConfig::default() };
        let want = ("Authorization".to_owned(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned());
        assert_eq!(headers(&http).unwrap(), [want]);
        std::fs::remove_file(&file).unwrap();
        let error = headers(&http).unwrap_err();
        assert!(error.text.contains("password") && !error.text.contains("sesame"), "{}", error.text);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let http = HttpConfig { proxy_from_environment: true, ..HttpConfig::default() };
        assert_eq!(headers(&http).unwrap_err().reason, Reason::Unsupported);
    }
}
