//! Accepting connections, and serving requests on them.
//!
//! Invariants:
//!   * a client has [`ConnectionLimits::head_timeout`] for a handshake, and from a head's first byte to its last
//!   * a client that takes nothing for [`WRITE_STALL_MAX`] of what is sent to it is cut
//!   * a head is at most [`HEAD_BYTES_MAX`]
//!   * a connection whose request was answered before its body was read ends with that answer

use super::connections::{Connection, ConnectionLimits, Connections, OpenConnection, Phase};
use super::stream::ClientStream;
use crate::federate::Client;
use crate::query_log::RequestedUri;
use crate::security::{self, Security};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, Uri, header};
use axum::middleware::from_fn_with_state;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tower::Service;

/// Largest request head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long a client may take nothing of what waits for it.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, for lack of descriptors perhaps.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// After the last answer of a connection, what the client still sends is read for this long and this far, so that the
/// kernel does not throw the answer away with a reset.
const LINGER_MAX: Duration = Duration::from_millis(500);
const LINGER_BYTES_MAX: usize = 256 << 10;

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    Everything,
    /// Federation and the state of health: nothing that changes or shows more.
    Federation,
}

/// All listeners share its routes, its table of connections and its counters. Cloning copies pointers.
#[derive(Clone)]
pub struct Server {
    everything: Router,
    federation: Router,
    security: Security,
    prefix: Arc<str>,
    connections: Connections,
}

impl Server {
    /// `prefix` is the path before all routes.
    pub(crate) fn new(
        everything: Router,
        federation: Router,
        security: Security,
        prefix: &str,
        connections: Connections,
    ) -> Server {
        let guarded = |router: Router| router.layer(from_fn_with_state(security.clone(), security::guard));
        Server {
            everything: guarded(everything),
            federation: guarded(federation),
            security: security.clone(),
            prefix: prefix.into(),
            connections,
        }
    }

    /// Serves until `shutdown` resolves, then lets requests in flight end.
    pub async fn serve(
        self,
        listener: TcpListener,
        role: ListenerRole,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) {
        let router = match role {
            ListenerRole::Everything => self.everything.clone(),
            ListenerRole::Federation => self.federation.clone(),
        };
        let (stop_to, stop) = watch::channel(false);
        tokio::pin!(shutdown);
        loop {
            let (stream, client) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(_) => {
                        tokio::time::sleep(ACCEPT_RETRY).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            let tls = self.security.policy().tls.clone();
            let phase = if tls.is_some() { Phase::Handshake } else { Phase::Idle };
            let open = tokio::select! {
                open = self.connections.add(phase) => open,
                () = &mut shutdown => break,
            };
            let _ = stream.set_nodelay(true);
            let service = RequestService {
                router: router.clone(),
                prefix: self.prefix.clone(),
                client: SocketAddr::new(client.ip().to_canonical(), client.port()),
                connection: open.connection.clone(),
            };
            let limits = *self.connections.limits();
            tokio::spawn(serve_client(stream, tls, open, service, limits, stop.clone()));
        }
        drop(stop);
        let _ = stop_to.send(true);
        stop_to.closed().await;
    }
}

type Tls = Option<Arc<rustls::ServerConfig>>;

/// One connection from its handshake to its end.
async fn serve_client(
    stream: TcpStream,
    tls: Tls,
    open: OpenConnection,
    service: RequestService,
    limits: ConnectionLimits,
    stop: watch::Receiver<bool>,
) {
    let Some(tls) = tls else { return serve_stream(stream, open, service, limits, stop).await };
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(limits.head_timeout(), TlsAcceptor::from(tls).accept(stream)) => handshake,
        () = open.connection.closed() => return,
    };
    match handshake {
        Ok(Ok(stream)) => {
            open.connection.enter(Phase::Idle);
            serve_stream(stream, open, service, limits, stop).await;
        }
        Ok(Err(_)) => {}
        Err(_) => open.count_timeout(),
    }
}

async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    open: OpenConnection,
    service: RequestService,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    let connection = open.connection.clone();
    let stream = ClientStream::new(stream, connection.clone(), WRITE_STALL_MAX);
    let mut builder = http1::Builder::new();
    // Times are watched here: the library has one for heads and idle connections together.
    builder.header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    let mut http = builder.serve_connection(TokioIo::new(stream), service);
    let mut is_stopping = false;
    loop {
        // A phase begins without waking this loop, so it looks again as soon as the shortest limit could have passed.
        let rest = connection.timeout(&limits).map(|limit| limit.saturating_sub(connection.waited()));
        let check = rest.unwrap_or(Duration::MAX).clamp(Duration::from_millis(1), limits.head_timeout());
        tokio::select! {
            // A client that goes away or talks nonsense ends its own connection.
            _ = std::future::poll_fn(|cx| http.poll_without_shutdown(cx)) => break,
            () = connection.closed() => return,
            _ = stop.wait_for(|stop| *stop), if !is_stopping => {
                is_stopping = true;
                Pin::new(&mut http).graceful_shutdown();
            }
            () = tokio::time::sleep(check) => {
                if connection.timeout(&limits).is_some_and(|limit| connection.waited() >= limit) {
                    open.count_timeout();
                    return;
                }
            }
        }
    }
    // The reader of this connection's answers may be done, what it sent may not have been read.
    connection.enter(Phase::Idle);
    let stream = http.into_parts().io.into_inner();
    tokio::select! {
        _ = tokio::time::timeout(LINGER_MAX, linger(stream)) => {}
        () = connection.closed() => {}
    }
}

/// Ends our side, and reads what the client has sent until it ends its own.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut buffer = [0; 4096];
    let mut left = LINGER_BYTES_MAX;
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read if read >= left => return Ok(()),
            read => left -= read,
        }
    }
}

/// What is asked for behind the prefix of all routes. They are served without it as well: members of a fleet and targets of
/// a configuration that knows of none find them.
fn behind_prefix(uri: &Uri, prefix: &str) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(prefix).filter(|_| !prefix.is_empty())?;
    match rest.as_bytes().first() {
        Some(b'/') => rest.parse().ok(),
        None | Some(b'?') => format!("/{rest}").parse().ok(),
        // Another name that begins alike.
        Some(_) => None,
    }
}

/// The routes, as one connection asks them.
struct RequestService {
    router: Router,
    prefix: Arc<str>,
    client: SocketAddr,
    connection: Arc<Connection>,
}

impl hyper::service::Service<Request<Incoming>> for RequestService {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let connection = self.connection.clone();
        connection.begin_request(request.body().is_end_stream());
        request.extensions_mut().insert(Client(self.client));
        if let Some(behind) = behind_prefix(request.uri(), &self.prefix) {
            *request.uri_mut() = behind;
        }
        let uri = request.uri().clone();
        request.extensions_mut().insert(RequestedUri(uri));
        let request = request.map(|body| Body::new(RequestBody { body, connection: connection.clone() }));
        let mut router = self.router.clone();
        Box::pin(async move {
            let mut response = router.call(request).await?;
            if !connection.is_body_read() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| AnswerBody { body, connection }))
        })
    }
}

/// A request's body, which tells its connection how far it is.
struct RequestBody {
    body: Incoming,
    connection: Arc<Connection>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending if self.connection.phase() != Phase::Body => self.connection.enter(Phase::Body),
            Poll::Pending => {}
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => self.connection.enter(Phase::Answer),
            Poll::Ready(_) => {
                self.connection.enter(Phase::Answer);
                self.connection.end_body();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body. When it is dropped, the connection waits for the next request.
pub(crate) struct AnswerBody {
    body: Body,
    connection: Arc<Connection>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.connection.enter(Phase::Idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_taken_off_whole() {
        for (uri, want) in [
            ("/prometheus/targets?state=up", Some("/targets?state=up")),
            ("/prometheus/", Some("/")),
            ("/prometheus", Some("/")),
            ("/prometheus?x", Some("/?x")),
            ("/prometheus//metrics", Some("//metrics")),
            ("/prometheus2/targets", None),
            ("/targets", None),
        ] {
            let found = behind_prefix(&uri.parse().unwrap(), "/prometheus");
            assert_eq!(found.map(|uri| uri.to_string()).as_deref(), want, "{uri}");
            assert_eq!(behind_prefix(&uri.parse().unwrap(), ""), None);
        }
    }
}
