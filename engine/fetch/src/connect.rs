//! Opens a target's connections: name, addresses, proxy, handshake. All of it under the one deadline of the scrape.
//!
//! Invariants:
//!   * what a proxy says before the tunnel is there takes at most [`CONNECT_HEAD_BYTES_MAX`]
//!   * an error names the step that failed and never what was sent: that may be a password

use super::fetcher::{Fetcher, Resolve};
use super::request::Request;
use super::stream::{Stream, TlsStream};
use super::tls::{self, Tls};
use super::ways::Proxy;
use super::{ConnectOptions, FetchError};
use crate::Reason;
use glommio::net::TcpStream;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use targets::Scheme;

/// Least time for one of several addresses, as in Go, unless less is left.
const CONNECT_SHARE_MIN: Duration = Duration::from_secs(2);
/// Largest head of a proxy's answer to CONNECT.
const CONNECT_HEAD_BYTES_MAX: usize = 16 << 10;
const CONNECT_HEADERS_MAX: usize = 64;

/// What a target has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    pub connections: u64,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
}

/// Which step is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Dial,
    Proxy,
    Handshake,
}

/// What a connection to the target itself was made with.
struct ConnectionKey {
    proxy: Option<Rc<Proxy>>,
    config: Option<Arc<ClientConfig>>,
}

/// How one target's connections are made, and how the last one was.
#[derive(Default)]
pub(super) struct Connections {
    tls: Tls,
    /// How the connection to the target itself was made that may be kept.
    home: Option<ConnectionKey>,
    step: Step,
    pub opened: Opened,
}

impl Connections {
    /// Whether a kept connection is still the kind that this request goes out on: same proxy, same certificates.
    pub fn is_still_wanted(&mut self, request: &Request) -> bool {
        let Some(home) = &self.home else { return false };
        if home.proxy != request.proxy {
            return false;
        }
        match &home.config {
            Some(config) => self.tls.at_home(request.ways()).is_ok_and(|now| Arc::ptr_eq(&now, config)),
            None => true,
        }
    }

    /// The error of a connection that was not there at the deadline.
    pub fn timed_out(&self, request: &Request) -> FetchError {
        let (reason, during) = match self.step {
            Step::Dial => (Reason::HeaderTimeout, ""),
            Step::Proxy => (Reason::Proxy, " while the proxy was asked for a way through"),
            Step::Handshake => (Reason::Tls, " during the TLS handshake"),
        };
        request.failed(reason, format_args!("context deadline exceeded{during}"))
    }

    /// A connection for this request, handshakes included.
    pub async fn open<R: Resolve>(
        &mut self,
        fetcher: &Fetcher<R>,
        request: &Request,
        deadline: Instant,
    ) -> Result<Stream, FetchError> {
        let (url, ways) = (&request.url, request.ways());
        let proxy = request.proxy.clone();
        let mut stream = match &proxy {
            None => self.dial(fetcher, request, &url.host, url.port, deadline).await?.into(),
            Some(proxy) => {
                let through = |error: FetchError| FetchError { reason: Reason::Proxy, ..error };
                let tcp = self.dial(fetcher, request, &proxy.host, proxy.port, deadline).await.map_err(through)?;
                match proxy.is_tls {
                    false => tcp.into(),
                    true => {
                        let config = tls::elsewhere(ways).map_err(|text| request.failed(Reason::Credentials, text))?;
                        self.secure(fetcher, request, tcp.into(), config, &proxy.host).await.map_err(through)?
                    }
                }
            }
        };
        if let Some(proxy) = proxy.as_ref().filter(|_| url.scheme == Scheme::Https) {
            self.step = Step::Proxy;
            tunnel(&mut stream, fetcher, request, proxy).await?;
        }
        let mut config = None;
        if url.scheme == Scheme::Https {
            let settings = match request.is_at_home {
                true => self.tls.at_home(ways),
                false => tls::elsewhere(ways),
            };
            let settings = settings.map_err(|text| request.failed(Reason::Credentials, text))?;
            let name = if ways.server_name.is_empty() { &url.host } else { &ways.server_name };
            stream = self.secure(fetcher, request, stream, settings.clone(), name).await?;
            config = Some(settings);
        }
        if request.is_at_home {
            self.home = Some(ConnectionKey { proxy, config });
        }
        Ok(stream)
    }

    /// A plain connection to one of the host's addresses.
    async fn dial<R: Resolve>(
        &mut self,
        fetcher: &Fetcher<R>,
        request: &Request,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, FetchError> {
        self.step = Step::Dial;
        let to_proxy = if request.proxy.is_some() { "proxyconnect tcp: " } else { "" };
        let addresses = fetcher.resolver.resolve(host, port).await;
        let addresses =
            addresses.map_err(|text| request.failed(Reason::Dns, format_args!("{to_proxy}dial tcp: {text}")))?;
        let mut first_error = None;
        for (tried, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.timed_out(request));
            }
            let share = left / (addresses.len() - tried) as u32;
            let budget = share.max(CONNECT_SHARE_MIN.min(left));
            self.opened.connections += 1;
            let error = match TcpStream::connect_timeout(address, budget).await {
                Ok(stream) => {
                    // A request is one write, so this changes little; if it cannot be set, nothing is lost.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => io::Error::from(error),
            };
            if error.kind() == io::ErrorKind::TimedOut && Instant::now() >= deadline {
                return Err(self.timed_out(request));
            }
            let error = match error.kind() {
                io::ErrorKind::TimedOut => format!("{to_proxy}dial tcp {address}: i/o timeout"),
                _ => format!("{to_proxy}dial tcp {address}: connect: {}", os_words(&error)),
            };
            first_error.get_or_insert(error);
        }
        let error = first_error.unwrap_or_else(|| format!("{to_proxy}dial tcp: no addresses"));
        Err(request.failed(Reason::Connect, error))
    }

    /// Puts TLS on a connection.
    async fn secure<R: Resolve>(
        &mut self,
        fetcher: &Fetcher<R>,
        request: &Request,
        inner: Stream,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> Result<Stream, FetchError> {
        self.step = Step::Handshake;
        let server = ServerName::try_from(name.to_owned()).map_err(|_| {
            let why = format_args!("{name:?} is no name that a certificate could have; set tls_config.server_name");
            request.failed(Reason::Tls, why)
        })?;
        let ends = ends(&inner);
        match TlsStream::connect(inner, config, server, &fetcher.pool).await {
            Ok(stream) => {
                let kind = match stream.was_resumed() {
                    true => &mut self.opened.handshakes_resumed,
                    false => &mut self.opened.handshakes_full,
                };
                *kind += 1;
                Ok(Stream::Tls(Box::new(stream)))
            }
            Err(error) => {
                let why = match (tls::words(&error), error.kind()) {
                    (Some(words), _) => words,
                    (None, io::ErrorKind::UnexpectedEof) => "EOF during the TLS handshake".to_owned(),
                    (None, _) => format!("TLS handshake: {}", error_words("read", &ends, &error)),
                };
                Err(request.failed(Reason::Tls, why))
            }
        }
    }
}

/// Asks the proxy for a way through to the target's host.
async fn tunnel<R: Resolve>(
    stream: &mut Stream,
    fetcher: &Fetcher<R>,
    request: &Request,
    proxy: &Proxy,
) -> Result<(), FetchError> {
    let failed = |why: &dyn std::fmt::Display| request.failed(Reason::Proxy, format_args!("proxyconnect: {why}"));
    let host = match request.url.host.contains(':') {
        true => format!("[{}]:{}", request.url.host, request.url.port),
        false => format!("{}:{}", request.url.host, request.url.port),
    };
    let head = connect_head(&host, request.ways(), proxy).map_err(|why| failed(&why))?;
    stream.write_all(head.as_bytes()).await.map_err(|error| failed(&net_words("write", stream, &error)))?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while !answer.ends_with(b"\r\n\r\n") {
        let read = poll_fn(|context| stream.poll_read(context, &fetcher.pool, &mut piece)).await;
        match read.map_err(|error| failed(&net_words("read", stream, &error)))? {
            0 => return Err(failed(&"it closed the connection instead of answering")),
            count => answer.extend_from_slice(&piece[..count]),
        }
        if answer.len() > CONNECT_HEAD_BYTES_MAX {
            return Err(failed(&format_args!("the head of its answer has more than {CONNECT_HEAD_BYTES_MAX} bytes")));
        }
        if memchr::memmem::find(&answer, b"\r\n\r\n").is_some() {
            break;
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; CONNECT_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(&answer) {
        // The one behind speaks second: whatever follows is not from it.
        Ok(httparse::Status::Complete(end)) if response.code.is_some_and(|code| code / 100 == 2) => {
            if end == answer.len() { Ok(()) } else { Err(failed(&"it says more than that the way is free")) }
        }
        Ok(httparse::Status::Complete(_)) => {
            let (code, words) = (response.code.unwrap_or(0), response.reason.unwrap_or(""));
            let advice = if code == 407 { "; it wants other credentials than those in proxy_url" } else { "" };
            Err(failed(&format_args!("{code} {words}{advice}")))
        }
        _ => Err(failed(&"its answer is not HTTP")),
    }
}

fn connect_head(host: &str, ways: &ConnectOptions, proxy: &Proxy) -> Result<String, String> {
    let mut head = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n");
    let authorization = proxy.authorization.as_ref().map(|value| ("Proxy-Authorization", value.as_str()));
    let given = ways.connect_headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in given.chain(authorization) {
        if name.is_empty() || (name.bytes().chain(value.bytes())).any(|byte| byte < b' ' && byte != b'\t') {
            return Err(format!("proxy_connect_header: {name:?} or its value is not fit for a header"));
        }
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    Ok(head)
}

/// ` 127.0.0.1:40000->127.0.0.1:9100`
fn ends(stream: &Stream) -> String {
    match (stream.tcp().local_addr(), stream.tcp().peer_addr()) {
        (Ok(local), Ok(peer)) => format!(" {local}->{peer}"),
        // A connection that was reset no longer tells its ends.
        _ => String::new(),
    }
}

/// `read tcp 127.0.0.1:40000->127.0.0.1:9100: read: connection reset by peer`
pub(super) fn net_words(operation: &str, stream: &Stream, error: &io::Error) -> String {
    error_words(operation, &ends(stream), error)
}

fn error_words(operation: &str, ends: &str, error: &io::Error) -> String {
    if let Some(words) = tls::words(error) {
        return words;
    }
    match error.kind() {
        // An end that was not announced may be somebody else's doing.
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        _ => format!("{operation} tcp{ends}: {operation}: {}", os_words(error)),
    }
}

/// `connection refused`, where Rust says `Connection refused (os error 111)`.
fn os_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
