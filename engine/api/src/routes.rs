//! Paths and their handlers, and what holds for every answer.
//!
//! Invariants:
//!   * nothing that changes state answers a page of another origin
//!   * a handler runs once the body of its request is there

use crate::config_file::ConfigFileCache;
use crate::http::{
    BodyBuffer, ConnectionLimits, Connections, HttpMetrics, Server, allowed_origin, buffer_body, compress,
    is_cross_origin, record,
};
use crate::security::Security;
use crate::self_history::SelfHistory;
use crate::state::State;
use crate::{
    agent, alerting, block_list, config_file, discovery, exemplars, features, federate, fleet, lifecycle,
    notifications, otlp, query, remote, remote_write, rule_groups, self_history, shipper, storage, target_list,
    telemetry, ui, v1,
};
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use std::sync::Arc;
use std::time::Duration;

/// Endpoints that take their parameters by POST and change nothing.
const READ_ONLY_POSTS: [&str; 8] = [
    "/api/v1/query",
    "/api/v1/query_range",
    "/api/v1/query_exemplars",
    "/api/v1/format_query",
    "/api/v1/parse_query",
    "/api/v1/series",
    "/api/v1/labels",
    "/api/v1/read",
];

/// Routes with the list of their paths.
pub(crate) struct Routes {
    router: Router<State>,
    pub paths: Vec<String>,
}

impl Routes {
    fn new() -> Routes {
        Routes { router: Router::new(), paths: Vec::new() }
    }

    fn route(self, path: &str, methods: MethodRouter<State>) -> Routes {
        let Routes { router, mut paths } = self;
        paths.push(path.to_owned());
        Routes { router: router.route(path, methods), paths }
    }

    /// Adds the routes of `inner` below a path; what is not among them is answered by the API's own refusal.
    fn nest(self, prefix: &str, inner: Routes) -> Routes {
        let Routes { router, mut paths } = self;
        paths.extend(inner.paths.iter().map(|path| format!("{prefix}{path}")));
        Routes { router: router.nest(prefix, inner.router.fallback(v1::missing)), paths }
    }

    /// Adds what holds for every answer.
    pub fn finish(
        self,
        state: State,
        metrics: Arc<HttpMetrics>,
        history: SelfHistory,
        read_timeout: Duration,
    ) -> Router {
        self.router
            .layer(from_fn_with_state(BodyBuffer::new(read_timeout), buffer_body))
            .layer(from_fn(compress))
            .layer(from_fn_with_state(state.clone(), agent::guard))
            .layer(from_fn_with_state(state.clone(), guard))
            .layer(from_fn_with_state(metrics.clone(), record))
            .layer(Extension(metrics))
            .layer(Extension(history))
            .layer(Extension(ConfigFileCache::default()))
            .with_state(state)
    }
}

/// What is served where only federation is.
pub(crate) fn federation_routes() -> Routes {
    Routes::new()
        .route("/federate", get(federate::federate))
        .route("/-/healthy", get(lifecycle::healthy).head(lifecycle::healthy))
        .route("/-/ready", get(lifecycle::ready).head(lifecycle::ready))
}

/// Everything that is served.
pub(crate) fn routes() -> Routes {
    let api = Routes::new()
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
        .route("/status/self_metrics", get(telemetry::self_metrics))
        .route("/status/walreplay", get(storage::walreplay))
        .route("/status/tsdb", get(storage::status_tsdb))
        .route("/status/tsdb/blocks", get(storage::status_blocks))
        .route("/status/fleet", get(fleet::overview))
        .route("/fleet/member", get(fleet::member))
        .route("/fleet/scraped", post(fleet::scraped))
        .route("/query", get(query::query).post(query::query))
        .route("/query_range", get(query::query_range).post(query::query_range))
        .route("/query_exemplars", get(exemplars::exemplars).post(exemplars::exemplars))
        .route("/format_query", get(query::format_query).post(query::format_query))
        .route("/parse_query", get(query::parse_query).post(query::parse_query))
        .route("/write", post(remote::write).get(remote::protocol_version))
        .route("/otlp/v1/metrics", post(otlp::write))
        .route("/read", post(remote::read))
        .route("/rules", get(rule_groups::rules))
        .route("/alerts", get(rule_groups::alerts))
        .route("/alertmanagers", get(alerting::alertmanagers))
        .route("/features", get(features::features))
        .route("/notifications", get(notifications::list))
        .route("/notifications/live", get(notifications::live))
        .route("/series", get(storage::series).post(storage::series))
        .route("/labels", get(storage::label_names).post(storage::label_names))
        .route("/label/{name}/values", get(storage::label_values))
        .route("/ringscrape/targets/list", get(target_list::list))
        .route("/ringscrape/targets/state", get(target_list::states))
        .route("/ringscrape/targets/one", get(target_list::one))
        .route("/ringscrape/discovery", get(discovery::discovery))
        .route("/ringscrape/rules/evaluations", get(rule_groups::evaluations))
        .route("/ringscrape/config/file", get(config_file::config_file))
        .route("/ringscrape/status/remote_write", get(remote_write::status))
        .route("/ringscrape/status/blocks", get(block_list::status))
        .route("/ringscrape/status/object_storage", get(shipper::status))
        .route("/ringscrape/status/history", get(self_history::history))
        .route("/admin/tsdb/delete_series", post(storage::delete_series).put(storage::delete_series))
        .route("/admin/tsdb/clean_tombstones", post(storage::clean_tombstones).put(storage::clean_tombstones))
        .route("/admin/tsdb/snapshot", post(storage::snapshot).put(storage::snapshot));
    Routes::new()
        .route("/", get(ui::root))
        .route("/agent", get(agent::page))
        .route("/overview", get(ui::overview))
        .route("/query", get(ui::query))
        .route("/graph", get(ui::query))
        .route("/targets", get(ui::targets))
        .route("/target", get(ui::target))
        .route("/service-discovery", get(ui::discovery))
        .route("/rules", get(ui::rules))
        .route("/alerts", get(ui::alerts))
        .route("/alertmanager-discovery", get(ui::alerts))
        .route("/fleet", get(ui::fleet))
        .route("/tsdb-status", get(ui::storage))
        .route("/config", get(ui::config))
        .route("/flags", get(ui::flags))
        .route("/status", get(ui::status))
        .route("/assets/{name}", get(ui::asset))
        .route("/federate", get(federate::federate))
        .route("/metrics", get(telemetry::metrics))
        .route("/version", get(v1::status_version))
        .route("/-/healthy", get(lifecycle::healthy).head(lifecycle::healthy))
        .route("/-/ready", get(lifecycle::ready).head(lifecycle::ready))
        .route("/-/reload", post(lifecycle::reload).put(lifecycle::reload))
        .route("/-/quit", post(lifecycle::quit).put(lifecycle::quit))
        .nest("/api/v1", api)
}

/// A server of all routes, for any number of listeners. Needs a runtime: it keeps figures of itself from now on.
pub fn server(state: State, security: Security, limits: ConnectionLimits) -> Server {
    let history = SelfHistory::default();
    self_history::start(state.downgrade(), history.clone());
    let connections = Connections::new(limits);
    let (everything, federation) = (routes(), federation_routes());
    let paths = everything.paths.iter().chain(&federation.paths).cloned();
    let metrics = Arc::new(HttpMetrics::new(paths, Some(connections.clone())));
    let prefix = state.parts.route_prefix.clone();
    let everything = everything.finish(state.clone(), metrics.clone(), history.clone(), limits.read_timeout);
    let federation = federation.finish(state, metrics, history, limits.read_timeout);
    Server::new(everything, federation, security, &prefix, connections)
}

/// Everything that is served, without connections: for tests and other servers.
pub fn router(state: State) -> Router {
    finish_alone(routes(), state)
}

/// What a listener for federation alone serves, without connections.
pub fn federation_router(state: State) -> Router {
    finish_alone(federation_routes(), state)
}

fn finish_alone(routes: Routes, state: State) -> Router {
    let metrics = Arc::new(HttpMetrics::new(routes.paths.iter().cloned(), None));
    routes.finish(state, metrics, SelfHistory::default(), ConnectionLimits::default().read_timeout)
}

/// The host and port under which the server is reached from outside, if it was told.
fn external_host(state: &State) -> Option<&str> {
    let (_, rest) = state.parts.external_url.as_deref()?.split_once("://")?;
    rest.split('/').next().filter(|host| !host.is_empty())
}

/// Refuses what a page of another origin asks for, and sets the headers that every answer has.
async fn guard(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    let allowed = allowed_origin(request.headers(), state.cors_origin.as_ref());
    let changes = !READ_ONLY_POSTS.contains(&request.uri().path());
    let is_foreign = changes && is_cross_origin(request.method(), request.headers(), external_host(&state));
    let mut response = if is_foreign && allowed.is_none() {
        (
            StatusCode::FORBIDDEN,
            "Requests of other origins are refused; see --web.cors.origin and --web.external-url.\n",
        )
            .into_response()
    } else if *request.method() == Method::OPTIONS
        && (allowed.is_some() || request.uri().path().starts_with("/api/v1/"))
    {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(ui::CONTENT_SECURITY_POLICY));
    // Not `no-referrer`: with it, browsers send no origin with the forms of our own pages.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    if let Some(origin) = allowed.and_then(|origin| HeaderValue::from_str(&origin).ok()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("Accept, Authorization, Content-Type, Origin"),
        );
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date"));
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    response
}
