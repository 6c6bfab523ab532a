//! How a job's connections are made: certificates, proxies. Made off the cores, shared by all targets of the job.

use client::proxy::Proxies;
use rustls::ClientConfig;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use url::Url;

/// What became of `tls_config`: `None` while it is not known, an error that names the file otherwise.
pub type TlsOutcome = Option<Result<Arc<ClientConfig>, String>>;

/// How connections are made.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    pub tls: TlsOutcome,
    /// The name to expect in certificates; empty for that of the host.
    pub server_name: String,
    pub proxies: Proxies,
    /// Sent with CONNECT.
    pub connect_headers: Vec<(String, String)>,
    /// Set when a target has refused our credentials, so that a token may be fetched anew.
    pub refused: Arc<AtomicBool>,
}

/// The proxy on the way to a target. Not printable: it may hold a password.
#[derive(Clone, PartialEq)]
pub(super) struct Proxy {
    pub is_tls: bool,
    pub host: String,
    pub port: u16,
    /// `Basic …`
    pub authorization: Option<String>,
}

impl Proxy {
    /// The proxy that this URL names.
    pub fn of(url: &Url) -> Result<Proxy, String> {
        let is_tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => {
                return Err(format!("{other} is no kind of proxy that we speak to; use http or https in proxy_url"));
            }
        };
        let host = url.host_str().unwrap_or("").trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let authorization = client::auth::of_url(url).map_err(|error| error.text)?;
        let authorization = authorization.and_then(|value| value.to_str().map(str::to_owned).ok());
        Ok(Proxy { is_tls, host, port, authorization })
    }
}
