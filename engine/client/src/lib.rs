//! The control plane's HTTP client: TLS, credentials, OAuth 2.0, proxies and bounds as `http_config` states them.
//!
//! Discovery, the notifier and remote ends use it; scrapes have a client of their own on the cores.
//!
//! Invariants:
//!   * credentials and headers of the settings go to the host of the request and to no other, whatever redirects say;
//!     once a redirect has left that host they do not come back
//!   * every request has a deadline, every body a largest size
//!   * files with credentials are read at each request; files of TLS too, and a change of them makes new connections
//!   * a POST is redirected by 307 and 308 only; other redirects of it are answers
//!   * errors name the place and the cause, and never a secret: no query, no user, no header
//!
//! It speaks HTTP/1.1. `enable_http2` is accepted and changes nothing: who asks once in 30 seconds gains nothing by it.

pub mod auth;
pub mod aws_signature;
mod cloud;
mod connect;
mod dial;
mod error;
pub mod files;
pub mod oauth2;
pub mod proxy;
pub mod rsa;
pub mod tls;

pub use cloud::{Cloud, Variables, process_variables};
pub use error::{Error, ErrorKind, shown};
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
pub use url::Url;

use bytes::Bytes;
use config::HttpConfig;
use connect::{ConnectOptions, Connector};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tls::Pem;
use tokio::time::Instant;

/// Redirects that are followed for one request, as in Go.
const REDIRECTS_MAX: usize = 10;
/// Idle connections kept for one host by default.
const IDLE_PER_HOST_MAX: usize = 8;
/// How long they are kept.
const IDLE_FOR: Duration = Duration::from_secs(90);
const USER_AGENT: &str = concat!("ringscrape/", env!("CARGO_PKG_VERSION"));

/// What a request may take where it does not say.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Connection, redirects, token and body together.
    pub timeout: Duration,
    /// Of an unpacked body.
    pub body_bytes_max: usize,
    /// A body that is too large or breaks off is cut short instead of being an error: for callers to whom the status says
    /// everything.
    pub truncates_body: bool,
    /// Idle connections kept for one host.
    pub idle_per_host_max: usize,
    /// Each connection goes to a random address of the host, instead of to the first one that answers.
    pub random_address: bool,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            timeout: Duration::from_secs(30),
            body_bytes_max: 64 << 20,
            truncates_body: false,
            idle_per_host_max: IDLE_PER_HOST_MAX,
            random_address: false,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub url: Url,
    /// Those that are marked sensitive do not leave for another host.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Instead of the client's.
    pub timeout: Option<Duration>,
}

impl Request {
    pub fn get(url: Url) -> Request {
        Request { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), timeout: None }
    }

    pub fn post(url: Url, body: impl Into<Bytes>) -> Request {
        Request { method: Method::POST, body: body.into(), ..Request::get(url) }
    }

    /// With a header that is no secret.
    pub fn header(mut self, name: HeaderName, value: &'static str) -> Request {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }
}

/// A whole answer, unpacked. Any status is an answer.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    /// The type of the body without its parameters, in lower case.
    pub fn content_type(&self) -> String {
        let value = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
    }
}

/// An answer whose body comes piece by piece, for as long as the caller likes.
pub struct Streaming {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
}

impl Streaming {
    /// The next piece; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(|error| Error::of(&error))?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

type Hyper = legacy::Client<Connector, Full<Bytes>>;

/// A client with the settings of one section. Cloning copies a pointer; clones share connections and token.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: HttpConfig,
    options: ClientOptions,
    proxies: proxy::Proxies,
    tokens: Option<oauth2::Tokens>,
    cloud: Option<Cloud>,
    /// Every connection goes here instead of to the host of the URL.
    socket: Option<PathBuf>,
    /// Connections, and the certificates with which they were made.
    current: Mutex<Option<(Hyper, Option<Pem>)>>,
}

impl Client {
    /// Reads no file yet: a certificate that is missing is an error of the request, and may be there at the next.
    pub fn new(http: &HttpConfig, options: ClientOptions) -> Result<Client, Error> {
        Client::with(http, options, None, None)
    }

    /// A client whose requests prove to a cloud who it is.
    pub fn with_cloud(http: &HttpConfig, options: ClientOptions, cloud: Option<Cloud>) -> Result<Client, Error> {
        Client::with(http, options, None, cloud)
    }

    /// A client that speaks to a Unix socket, whatever the host of the URL.
    pub fn on_socket(http: &HttpConfig, options: ClientOptions, socket: PathBuf) -> Result<Client, Error> {
        Client::with(http, options, Some(socket), None)
    }

    fn with(
        http: &HttpConfig,
        options: ClientOptions,
        socket: Option<PathBuf>,
        cloud: Option<Cloud>,
    ) -> Result<Client, Error> {
        let env = |name: &str| std::env::var(name).ok();
        let proxies = proxy::Proxies::new(http.proxy_url.as_ref(), &http.no_proxy, http.proxy_from_environment, env)
            .map_err(|text| Error::new(ErrorKind::Settings, text))?;
        let tokens = http.oauth2.as_ref().map(|oauth2| oauth2::Tokens::new(oauth2, options.timeout)).transpose()?;
        let current = Mutex::default();
        Ok(Client(Arc::new(Inner { http: http.clone(), options, proxies, tokens, cloud, socket, current })))
    }

    pub async fn get(&self, url: &Url) -> Result<Response, Error> {
        self.send(Request::get(url.clone())).await
    }

    /// The whole answer within the deadline.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let url = request.url.clone();
        let within = request.timeout.unwrap_or(self.0.options.timeout);
        let answer = async {
            let (response, unpack) = self.follow(request, true).await?;
            let (head, body) = response.into_parts();
            let body = self.read(body, unpack).await?;
            Ok(Response { status: head.status, headers: head.headers, body })
        };
        let outcome = tokio::time::timeout_at(Instant::now() + within, answer).await;
        outcome.unwrap_or_else(|_| Err(late(within))).map_err(|error| error.at(&url))
    }

    /// The head of the answer within the deadline; what follows has none, and is not packed.
    pub async fn stream(&self, request: Request) -> Result<Streaming, Error> {
        let url = request.url.clone();
        let within = request.timeout.unwrap_or(self.0.options.timeout);
        let outcome = tokio::time::timeout(within, self.follow(request, false)).await;
        let (response, _) = outcome.unwrap_or_else(|_| Err(late(within))).map_err(|error| error.at(&url))?;
        let (head, body) = response.into_parts();
        Ok(Streaming { status: head.status, headers: head.headers, body })
    }

    /// Asks, and asks again where it is sent. Tells whether the body is to be unpacked.
    async fn follow(&self, request: Request, may_pack: bool) -> Result<(http::Response<Incoming>, bool), Error> {
        let Request { method, mut url, mut headers, body, .. } = request;
        let may_pack = may_pack && !headers.contains_key(ACCEPT_ENCODING);
        let mut is_own_host = true;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.once(&method, &url, &headers, &body, is_own_host, may_pack).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED
                && let Some(tokens) = &self.0.tokens
            {
                tokens.forget().await;
            }
            if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
                && let Some(cloud) = &self.0.cloud
            {
                cloud.forget().await;
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            // 301 to 303 would turn a POST into a GET without its body, whose 2xx says nothing about what was posted.
            let is_redirect = match status.as_u16() {
                307 | 308 => true,
                301..=303 => matches!(method, Method::GET | Method::HEAD),
                _ => false,
            };
            let (true, true, Some(location)) = (self.0.http.follow_redirects, is_redirect, location) else {
                let packed = response.headers().get(CONTENT_ENCODING).is_some_and(|value| value == "gzip");
                return Ok((response, may_pack && packed));
            };
            let next = url.join(location).ok().filter(|next| matches!(next.scheme(), "http" | "https"));
            let Some(next) = next else {
                return Err(Error::new(ErrorKind::Protocol, "redirected to what is no http or https URL"));
            };
            is_own_host &= is_same_host(&url, &next);
            if !is_own_host {
                // A header with several values that is sensitive in one of them goes as a whole.
                let secret: Vec<_> = headers.iter().filter(|(_, v)| v.is_sensitive()).map(|(n, _)| n.clone()).collect();
                secret.iter().for_each(|name| drop(headers.remove(name)));
            }
            url = next;
        }
        Err(Error::new(ErrorKind::Protocol, format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// One request to one place.
    async fn once(
        &self,
        method: &Method,
        url: &Url,
        given: &HeaderMap,
        body: &Bytes,
        is_own_host: bool,
        may_pack: bool,
    ) -> Result<http::Response<Incoming>, Error> {
        let prepared = self.prepare(url, is_own_host).await?;
        let mut headers = given.clone();
        for (name, value) in prepared.headers {
            headers.append(name, value);
        }
        if is_own_host && let Some(tokens) = &self.0.tokens {
            headers.insert(AUTHORIZATION, tokens.header().await?);
        }
        headers.entry(http::header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        if may_pack {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if is_own_host && let Some(cloud) = &self.0.cloud {
            cloud.sign(method, url, &mut headers, body).await?;
        }
        let mut plain = url.clone();
        plain.set_fragment(None);
        // Credentials went into a header; they are no part of what is asked for.
        let _ = plain.set_username("");
        let _ = plain.set_password(None);
        // A kept connection may have been closed by the other side a moment ago.
        let mut is_last_try = !matches!(*method, Method::GET | Method::HEAD);
        loop {
            let mut request = http::Request::builder().method(method).uri(plain.as_str());
            if let Some(all) = request.headers_mut() {
                all.clone_from(&headers);
            }
            let request = request
                .body(Full::new(body.clone()))
                .map_err(|error| Error::new(ErrorKind::Settings, format!("no valid request: {error}")))?;
            match prepared.hyper.request(request).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_connect() || is_last_try => return Err(Error::of(&error)),
                Err(_) => is_last_try = true,
            }
        }
    }

    /// Connections and headers for a request, with the files as they are now.
    async fn prepare(&self, url: &Url, is_own_host: bool) -> Result<PreparedRequest, Error> {
        let port = url.port_or_known_default().unwrap_or(80);
        let proxy = self.0.proxies.of(url.scheme() == "https", url.host_str().unwrap_or(""), port);
        let needs_tls = url.scheme() == "https" || proxy.is_some_and(|proxy| proxy.scheme() == "https");
        let http = &self.0.http;
        let has_files = (needs_tls && tls::has_files(&http.tls_config)) || (is_own_host && auth::has_files(http));
        let (pem, mut headers) = if has_files {
            let http = http.clone();
            let read = move || read_files(&http, needs_tls, is_own_host);
            let read = tokio::task::spawn_blocking(read).await;
            read.map_err(|panic| Error::new(ErrorKind::Settings, panic.to_string()))??
        } else {
            read_files(http, needs_tls, is_own_host)?
        };
        if is_own_host
            && let Some(basic) = auth::of_url(url)?
            && !headers.iter().any(|(name, _)| name == AUTHORIZATION)
        {
            headers.push((AUTHORIZATION, basic));
        }
        if url.scheme() == "http"
            && let Some(proxy) = proxy
            && let Some(basic) = auth::of_url(proxy)?
        {
            headers.push((http::header::PROXY_AUTHORIZATION, basic));
        }
        Ok(PreparedRequest { hyper: self.connections(pem)?, headers })
    }

    /// Those that there are, unless the certificates have changed.
    fn connections(&self, pem: Option<Pem>) -> Result<Hyper, Error> {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((hyper, made_with)) = &*current
            && (pem.is_none() || pem == *made_with)
        {
            return Ok(hyper.clone());
        }
        let tls_client = match &pem {
            Some(pem) => Some(Arc::new(tls::client_config(&self.0.http.tls_config, pem)?)),
            None => None,
        };
        let connect_headers = self
            .0
            .http
            .proxy_connect_header
            .iter()
            .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.reveal().to_owned())));
        let ways = ConnectOptions {
            socket: self.0.socket.clone(),
            proxies: self.0.proxies.clone(),
            connect_headers: connect_headers.collect(),
            tls: self.0.http.tls_config.clone(),
            tls_client,
            random_address: self.0.options.random_address,
        };
        let hyper = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(self.0.options.idle_per_host_max)
            .build(Connector(Arc::new(ways)));
        *current = Some((hyper.clone(), pem));
        Ok(hyper)
    }

    async fn read(&self, mut body: Incoming, unpack: bool) -> Result<Bytes, Error> {
        let ClientOptions { body_bytes_max: bytes_max, truncates_body, .. } = self.0.options;
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => data,
                Ok(Err(_)) => continue,
                Err(_) if truncates_body => break,
                Err(error) => return Err(Error::of(&error)),
            };
            if read.len() + data.len() > bytes_max {
                if truncates_body {
                    read.extend_from_slice(&data[..bytes_max - read.len()]);
                    break;
                }
                return Err(too_large(bytes_max));
            }
            read.extend_from_slice(&data);
        }
        if !unpack {
            return Ok(read.into());
        }
        let unpacked = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            let gzip = flate2::read::MultiGzDecoder::new(read.as_slice());
            let unpacked = gzip.take(bytes_max as u64 + 1).read_to_end(&mut out);
            if truncates_body {
                out.truncate(bytes_max);
                return Ok(out);
            }
            unpacked.map(|_| out)
        });
        match unpacked.await {
            Ok(Ok(out)) if out.len() > bytes_max => Err(too_large(bytes_max)),
            Ok(Ok(out)) => Ok(out.into()),
            Ok(Err(error)) => Err(Error::new(ErrorKind::Protocol, format!("the gzip of the body is broken: {error}"))),
            Err(panic) => Err(Error::new(ErrorKind::Protocol, panic.to_string())),
        }
    }
}

struct PreparedRequest {
    hyper: Hyper,
    headers: Vec<(HeaderName, HeaderValue)>,
}

type Files = (Option<Pem>, Vec<(HeaderName, HeaderValue)>);

fn read_files(http: &HttpConfig, needs_tls: bool, needs_headers: bool) -> Result<Files, Error> {
    let pem = if needs_tls { Some(Pem::read(&http.tls_config)?) } else { None };
    let headers = if needs_headers { auth::headers(http)? } else { Vec::new() };
    Ok((pem, headers))
}

/// Whether credentials for one may be sent to the other: same host, and same port or from http to https.
fn is_same_host(one: &Url, other: &Url) -> bool {
    let is_secured = one.scheme() == "http" && other.scheme() == "https";
    let same_port = one.scheme() == other.scheme() && one.port_or_known_default() == other.port_or_known_default();
    one.host_str() == other.host_str() && (same_port || is_secured)
}

fn late(within: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("no whole answer within {}", config::format_duration(within)))
}

fn too_large(bytes_max: usize) -> Error {
    Error::new(ErrorKind::TooLarge, format!("the body is larger than {bytes_max} bytes"))
}
