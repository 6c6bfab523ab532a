//! Connections: to the host itself or through a proxy, in TLS where the URL says so.

use crate::dial::dial;
use crate::proxy::Proxies;
use crate::{Error, ErrorKind, auth, tls};
use config::TlsConfig;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Name, connection and handshakes together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Largest head of a proxy's answer to CONNECT.
const CONNECT_HEAD_BYTES_MAX: usize = 16 << 10;

/// Makes connections. Cloning copies a pointer.
#[derive(Clone)]
pub struct Connector(pub Arc<ConnectOptions>);

/// How connections are made.
pub struct ConnectOptions {
    /// Instead of any host.
    pub socket: Option<PathBuf>,
    pub proxies: Proxies,
    /// Sent with CONNECT.
    pub connect_headers: Vec<(String, String)>,
    pub tls: TlsConfig,
    /// `None` for a client that has met no `https` yet.
    pub tls_client: Option<Arc<ClientConfig>>,
    /// See [`crate::ClientOptions::random_address`].
    pub random_address: bool,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, however it was made.
pub struct Stream {
    io: Box<dyn Io>,
    /// Requests name the whole URL, because a proxy reads them.
    is_for_proxy: bool,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let ways = self.0.clone();
        Box::pin(async move {
            let connected = tokio::time::timeout(CONNECT_WITHIN, ways.connect(&uri)).await;
            let late = |_| Error::new(ErrorKind::Timeout, format!("not connected within {CONNECT_WITHIN:?}"));
            Ok(TokioIo::new(connected.map_err(late)??))
        })
    }
}

impl ConnectOptions {
    async fn connect(&self, uri: &Uri) -> Result<Stream, Error> {
        if let Some(socket) = &self.socket {
            let failed = |error| Error::new(ErrorKind::Connect, format!("connecting to {}: {error}", socket.display()));
            let io = Box::new(UnixStream::connect(socket).await.map_err(failed)?);
            return Ok(Stream { io, is_for_proxy: false });
        }
        let is_https = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or("").to_owned();
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let Some(proxy) = self.proxies.of(is_https, &host, port) else {
            let tcp = dial(&host, port, self.random_address).await?;
            let io = if is_https { self.secure(Box::new(tcp), &self.tls, &host).await? } else { Box::new(tcp) };
            return Ok(Stream { io, is_for_proxy: false });
        };
        let named = |error: Error| Error { text: format!("proxy {}: {}", crate::shown(proxy), error.text), ..error };
        let proxied = self.reach(proxy).await.map_err(named)?;
        if !is_https {
            return Ok(Stream { io: proxied, is_for_proxy: true });
        }
        let tunnel = self.tunnel(proxied, proxy, &host, port).await.map_err(named)?;
        Ok(Stream { io: self.secure(tunnel, &self.tls, &host).await?, is_for_proxy: false })
    }

    /// A connection to the proxy itself.
    async fn reach(&self, proxy: &Url) -> Result<Box<dyn Io>, Error> {
        let host = proxy.host_str().unwrap_or("");
        match proxy.scheme() {
            "http" => Ok(Box::new(dial(host, proxy.port().unwrap_or(80), false).await?)),
            "https" => {
                let tcp = dial(host, proxy.port().unwrap_or(443), false).await?;
                // The name in the settings is that of the server behind.
                let tls = TlsConfig { server_name: String::new(), ..self.tls.clone() };
                self.secure(Box::new(tcp), &tls, host).await
            }
            other => Err(Error::new(
                ErrorKind::Settings,
                format!("{other} is no kind of proxy that we speak to; use http or https"),
            )),
        }
    }

    async fn secure(&self, io: Box<dyn Io>, tls: &TlsConfig, host: &str) -> Result<Box<dyn Io>, Error> {
        let Some(config) = &self.tls_client else {
            return Err(Error::new(ErrorKind::Tls, "TLS was not prepared for this connection"));
        };
        let name = tls::server_name(tls, host)?;
        let stream = TlsConnector::from(config.clone()).connect(name, io).await;
        Ok(Box::new(stream.map_err(|error| tls::handshake_error(&error))?))
    }

    /// Asks the proxy for a way through to the host.
    async fn tunnel(&self, mut io: Box<dyn Io>, proxy: &Url, host: &str, port: u16) -> Result<Box<dyn Io>, Error> {
        let mut head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        for (name, value) in &self.connect_headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(basic) = auth::of_url(proxy)? {
            head.push_str(&format!("Proxy-Authorization: {}\r\n", basic.to_str().unwrap_or("")));
        }
        head.push_str("\r\n");
        let broken = |error: io::Error| Error::new(ErrorKind::Connect, error.to_string());
        io.write_all(head.as_bytes()).await.map_err(broken)?;
        let mut answer = Vec::with_capacity(256);
        // Byte by byte, so that nothing of what comes through the tunnel is taken; it is one short head per connection.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == CONNECT_HEAD_BYTES_MAX {
                return Err(Error::new(ErrorKind::Protocol, "its answer to CONNECT has no end"));
            }
            answer.push(io.read_u8().await.map_err(broken)?);
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&answer).map(|_| response.code) {
            Ok(Some(200..=299)) => Ok(io),
            Ok(Some(407)) => {
                Err(Error::new(ErrorKind::Connect, "it wants other credentials than those in proxy_url (407)"))
            }
            Ok(Some(code)) => Err(Error::new(ErrorKind::Connect, format!("it answered CONNECT with {code}"))),
            _ => Err(Error::new(ErrorKind::Protocol, "its answer to CONNECT is not HTTP")),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_for_proxy)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
