//! Why a request failed, in words that hold no secret.

use std::fmt::Write;
use url::Url;

/// Whose fault it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A setting, or a file that it names.
    Settings,
    /// No connection: name, network, proxy.
    Connect,
    /// The handshake, or a certificate.
    Tls,
    /// No token to be had.
    Token,
    /// No answer in time.
    Timeout,
    /// The answer is larger than it may be.
    TooLarge,
    /// The answer is not HTTP, is cut short, or leads nowhere.
    Protocol,
}

/// A request that got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    pub kind: ErrorKind,
    pub text: String,
}

impl Error {
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Error {
        Error { kind, text: text.into() }
    }

    /// The same with the place in front.
    pub(crate) fn at(self, url: &Url) -> Error {
        Error { text: format!("{}: {}", shown(url), self.text), ..self }
    }

    /// Of hyper: what the connector said, or the chain of causes.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Error {
        let mut text = String::new();
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(own) = error.downcast_ref::<Error>() {
                return own.clone();
            }
            let more = error.to_string();
            // Some errors repeat their cause.
            if !text.ends_with(&more) {
                let separator = if text.is_empty() { "" } else { ": " };
                let _ = write!(text, "{separator}{more}");
            }
            cause = error.source();
        }
        Error::new(ErrorKind::Protocol, text)
    }
}

/// A URL without what may be secret in it: user, password, query and fragment.
pub fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or(""), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        let url = Url::parse("https://user:pass@h:1/p?token=x#f").unwrap();
        assert_eq!(shown(&url), "https://h:1/p");
    }
}
