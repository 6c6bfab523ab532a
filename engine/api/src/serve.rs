//! Routes, what holds for every answer, and the connections themselves.
//!
//! Invariants:
//!   * at most `max_connections` connections are served at once; more wait to be accepted
//!   * a client that takes nothing for [`STALL_MAX`] of what is sent to it is cut
//!   * a client has [`HEAD_WITHIN`] for a handshake, and to send a request's head; a head is at most [`HEAD_BYTES_MAX`]
//!   * nothing that changes state answers a page of another origin

use crate::federate::Client;
use crate::security::{self, Security};
use crate::stall::Guarded;
use crate::state::State;
use crate::{
    alerting, discovery, federate, fleet, manage, metrics, pages, query, remote, rule_groups, rule_pages, storage, v1,
};
use axum::Router;
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tower_http::compression::CompressionLayer;

/// Time for a handshake, and for a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Largest request head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long a client may take nothing of what waits for it.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, for lack of descriptors perhaps.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    Everything,
    /// Federation and the state of health: nothing that changes or tells more.
    Federation,
}

/// What is served where only federation is.
pub fn federation_router(state: State) -> Router {
    let routes = Router::new()
        .route("/federate", get(federate::federate))
        .route("/-/healthy", get(manage::healthy).head(manage::healthy))
        .route("/-/ready", get(manage::ready).head(manage::ready));
    finish(routes, state)
}

fn finish(routes: Router<State>, state: State) -> Router {
    routes.layer(CompressionLayer::new()).layer(from_fn_with_state(state.clone(), guard)).with_state(state)
}

/// Everything that is served.
pub fn router(state: State) -> Router {
    let api = Router::new()
        .route("/targets", get(v1::targets))
        .route("/targets/metadata", get(v1::targets_metadata))
        .route("/targets/relabel_steps", get(v1::relabel_steps))
        .route("/scrape_pools", get(v1::scrape_pools))
        .route("/scrape_pools/config", get(v1::scrape_pool_config))
        .route("/metadata", get(v1::metadata))
        .route("/status/config", get(v1::status_config))
        .route("/status/flags", get(v1::status_flags))
        .route("/status/buildinfo", get(v1::status_buildinfo))
        .route("/status/runtimeinfo", get(v1::status_runtimeinfo))
        .route("/status/walreplay", get(storage::walreplay))
        .route("/status/tsdb", get(storage::status_tsdb))
        .route("/status/tsdb/blocks", get(storage::status_blocks))
        .route("/status/fleet", get(fleet::overview))
        .route("/fleet/member", get(fleet::member))
        .route("/fleet/scraped", post(fleet::scraped))
        .route("/query", get(query::query).post(query::query))
        .route("/query_range", get(query::query_range).post(query::query_range))
        .route("/query_exemplars", get(query::exemplars).post(query::exemplars))
        .route("/format_query", get(query::format_query).post(query::format_query))
        .route("/parse_query", get(query::parse_query).post(query::parse_query))
        .route("/write", post(remote::write))
        .route("/read", post(remote::read))
        .route("/rules", get(rule_groups::rules))
        .route("/alerts", get(rule_groups::alerts))
        .route("/alertmanagers", get(alerting::alertmanagers))
        .route("/features", get(query::features))
        .route("/series", get(storage::series).post(storage::series))
        .route("/labels", get(storage::label_names).post(storage::label_names))
        .route("/label/{name}/values", get(storage::label_values))
        .route("/admin/tsdb/delete_series", post(storage::delete_series).put(storage::delete_series))
        .route("/admin/tsdb/clean_tombstones", post(storage::clean_tombstones).put(storage::clean_tombstones))
        .route("/admin/tsdb/snapshot", post(storage::snapshot).put(storage::snapshot))
        .fallback(v1::missing);
    let routes = Router::new()
        .route("/", get(pages::root))
        .route("/query", get(pages::query))
        .route("/graph", get(pages::query))
        .route("/tsdb-status", get(pages::storage))
        .route("/targets", get(pages::targets))
        .route("/service-discovery", get(discovery::page))
        .route("/service-discovery-explain", get(discovery::explain))
        .route("/rules", get(rule_pages::rules))
        .route("/alerts", get(rule_pages::alerts))
        .route("/config", get(pages::configuration))
        .route("/flags", get(pages::flags))
        .route("/status", get(pages::status))
        .route("/fleet", get(fleet::page))
        .route("/assets/{name}", get(pages::asset))
        .route("/federate", get(federate::federate))
        .route("/metrics", get(metrics::metrics))
        .route("/version", get(v1::status_version))
        .route("/-/healthy", get(manage::healthy).head(manage::healthy))
        .route("/-/ready", get(manage::ready).head(manage::ready))
        .route("/-/reload", post(manage::reload).put(manage::reload))
        .route("/-/quit", post(manage::quit).put(manage::quit))
        .nest("/api/v1", api);
    finish(routes, state)
}

/// Refuses what a foreign page asks for, and sets the headers that every answer has.
async fn guard(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    let text = |request: &Request, name| {
        request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned)
    };
    let (origin, host) = (text(&request, header::ORIGIN), text(&request, header::HOST).unwrap_or_default());
    let same = |origin: &str| origin.split_once("://").is_some_and(|(_, name)| name.eq_ignore_ascii_case(&host));
    let foreign = origin.as_deref().is_some_and(|origin| !same(origin));
    let allowed = origin.filter(|origin| state.cors_origin.as_ref().is_some_and(|regex| regex.is_match(origin)));
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let mut response = if foreign && changes && allowed.is_none() {
        (StatusCode::FORBIDDEN, "Requests of other origins are refused; see --web.cors.origin.\n").into_response()
    } else if *request.method() == Method::OPTIONS && allowed.is_some() {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'self'; img-src 'self' data:; frame-ancestors 'self'; base-uri 'none'"),
    );
    if let Some(origin) = allowed.and_then(|origin| HeaderValue::from_str(&origin).ok()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("Accept, Authorization, Content-Type, Origin"),
        );
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    response
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

/// Serves until `shutdown`, then lets requests in flight end.
pub async fn serve(
    listener: TcpListener,
    state: State,
    security: Security,
    surface: Surface,
    max_connections: usize,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let prefix: Arc<str> = state.parts.route_prefix.as_str().into();
    let router = match surface {
        Surface::Everything => router(state),
        Surface::Federation => federation_router(state),
    };
    let router = router.layer(from_fn_with_state(security.clone(), security::guard));
    let places = Arc::new(Semaphore::new(max_connections));
    let in_flight = GracefulShutdown::new();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES_MAX);
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream, client) = tokio::select! {
            (place, Ok((stream, client))) = accept => (place, stream, client),
            () = &mut shutdown => break,
            else => {
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let prefix = prefix.clone();
        let service = router.clone().map_request(move |mut request: axum::http::Request<_>| {
            request.extensions_mut().insert(Client(client));
            if let Some(behind) = behind_prefix(request.uri(), &prefix) {
                *request.uri_mut() = behind;
            }
            request
        });
        let stream = Guarded::new(stream, STALL_MAX);
        let (tls, builder, watcher) = (security.policy().tls.clone(), builder.clone(), in_flight.watcher());
        tokio::spawn(async move {
            let service = TowerToHyperService::new(service);
            // A client that goes away or talks nonsense ends its own connection.
            let _ = match tls {
                None => watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await,
                Some(tls) => {
                    let handshake = tokio::time::timeout(HEAD_WITHIN, TlsAcceptor::from(tls).accept(stream));
                    let Ok(Ok(stream)) = handshake.await else { return };
                    watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await
                }
            };
            drop(place);
        });
    }
    in_flight.shutdown().await;
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
