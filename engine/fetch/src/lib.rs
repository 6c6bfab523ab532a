//! One scrape's fetch: connect, ask, read the body before the deadline, unpack, hand the bytes on.
//!
//! Runs on the core that owns the target. Knows no formats: `ingest` reads what we return. The deadline is the
//! caller's: it drops the future, and with it the connection, and asks [`Client::timed_out`] for the error.
//!
//! Invariants:
//!   * a connection is taken out before use and put back only after a complete, clean response, so a dropped future
//!     leaves none behind
//!   * what a response makes us hold is bounded: head, headers, interim responses, chunk framing, packed and plain
//!     body, and all bodies of a core together
//!   * a body is handed on complete or not at all
//!   * credentials and our certificate leave for the target's own host and port only; a redirect away from it loses them
//!     for good, and none leads from https to http

mod access;
mod buffers;
mod client;
mod connect;
pub mod content_type;
mod fetcher;
mod head;
mod http;
mod http_error;
mod reason;
mod request;
mod resolver;
mod stream;
mod target_client;
mod tls;
mod unpack;
mod ways;

pub use access::{Access, Accesses, Headers, HttpSettings};
pub use client::{Client, Fetched};
pub use connect::Opened;
pub use fetcher::{Fetcher, Resolve};
pub use reason::Reason;
pub use request::{Request, RequestOptions};
pub use resolver::{Resolver, ResolverThreads};
pub use target_client::{TargetClient, build_request};
pub use ways::{ConnectOptions, TlsOutcome};

/// Largest unpacked body of a job without `body_size_limit`. Prometheus has no limit then, so that one target can take
/// all memory.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Why a fetch gave no body: `text` is for `lastError`, in Go's words where operators know them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct FetchError {
    pub reason: Reason,
    pub text: String,
}

impl FetchError {
    fn new(reason: Reason, text: impl std::fmt::Display) -> FetchError {
        FetchError { reason, text: text.to_string() }
    }
}

/// The unpacked size at which a body fails: `body_size_limit`, or the built-in one where that is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit {
    bytes: usize,
    built_in: bool,
}

impl BodyLimit {
    /// `body_size_limit` in bytes; 0 means [`BODY_BYTES_MAX`].
    pub fn new(body_size_limit: u64) -> BodyLimit {
        match usize::try_from(body_size_limit) {
            Ok(0) => BodyLimit { bytes: BODY_BYTES_MAX, built_in: true },
            Ok(bytes) => BodyLimit { bytes, built_in: false },
            Err(_) => BodyLimit { bytes: usize::MAX, built_in: false },
        }
    }

    fn exceeded(self) -> FetchError {
        let text = if self.built_in {
            format!(
                "body size limit exceeded (built-in limit of {BODY_BYTES_MAX} bytes; set body_size_limit to change it)"
            )
        } else {
            "body size limit exceeded".to_owned()
        };
        FetchError { reason: Reason::BodySize, text }
    }
}

/// A job with these further lines of YAML.
#[cfg(test)]
fn test_job(settings: &str) -> std::sync::Arc<config::ScrapeConfig> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    let settings: String = settings.lines().map(|line| format!("    {line}\n")).collect();
    std::fs::write(&file, format!("scrape_configs:\n  - job_name: j\n{settings}")).unwrap();
    config::load(&file, &config::Env::process()).unwrap().scrape_configs[0].clone()
}
