//! Agent mode: what is not served there is refused in Prometheus' words, and the page that stands in for the query page.
//!
//! One table decides, before any handler runs: nothing else of this crate has to know the mode.

use crate::answer::ApiError;
use crate::state::State;
use crate::ui;
use axum::extract::{Request, State as Extract};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// What a path is in agent mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InAgentMode {
    Served,
    /// The API's refusal.
    Unavailable,
    /// There is nothing to read samples from.
    Unsupported,
    /// A page that is not there.
    NoPage,
    /// Another page instead.
    Redirect(&'static str),
}

/// Paths of the API that need stored samples, rules or alerts; with a slash at the end, all below.
const UNAVAILABLE: [&str; 15] = [
    "query",
    "query_range",
    "query_exemplars",
    "format_query",
    "parse_query",
    "labels",
    "label/",
    "series",
    "alertmanagers",
    "alerts",
    "rules",
    "ringscrape/rules/",
    "ringscrape/status/blocks",
    "status/tsdb",
    "admin/tsdb/",
];

impl InAgentMode {
    fn of(path: &str) -> InAgentMode {
        match path {
            "/" => return InAgentMode::Redirect("/agent"),
            "/graph" => return InAgentMode::Redirect("/query"),
            "/query" | "/alerts" | "/rules" | "/tsdb-status" => return InAgentMode::NoPage,
            "/federate" | "/api/v1/read" => return InAgentMode::Unsupported,
            "/api/v1/status/tsdb/blocks" => return InAgentMode::Unavailable,
            _ => {}
        }
        let Some(path) = path.strip_prefix("/api/v1/") else { return InAgentMode::Served };
        let is_of = |entry: &str| if entry.ends_with('/') { path.starts_with(entry) } else { path == entry };
        if UNAVAILABLE.into_iter().any(is_of) { InAgentMode::Unavailable } else { InAgentMode::Served }
    }
}

/// Refuses what agent mode does not serve.
pub(crate) async fn guard(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    if state.parts.shards.agent().is_none() {
        return next.run(request).await;
    }
    match InAgentMode::of(request.uri().path()) {
        InAgentMode::Served => next.run(request).await,
        InAgentMode::Unavailable => {
            let text = "unavailable with Prometheus Agent".to_owned();
            ApiError { status: StatusCode::UNPROCESSABLE_ENTITY, kind: "execution", text }.into_response()
        }
        InAgentMode::Unsupported => {
            (StatusCode::INTERNAL_SERVER_ERROR, "unsupported operation with WAL-only storage\n").into_response()
        }
        InAgentMode::NoPage => StatusCode::NOT_FOUND.into_response(),
        InAgentMode::Redirect(to) => {
            (StatusCode::FOUND, [(header::LOCATION, format!("{}{to}", state.parts.external_path))]).into_response()
        }
    }
}

/// `/agent`: what is scraped, and how far each endpoint has it.
pub(crate) async fn page(state: Extract<State>) -> Response {
    match state.parts.shards.agent() {
        Some(_) => ui::agent(state).await.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, want: InAgentMode) {
        assert_eq!(InAgentMode::of(path), want, "{path}");
    }

    #[test]
    fn what_needs_stored_samples_rules_or_alerts_is_not_served() {
        for path in ["query", "query_range", "labels", "label/a/values", "series", "rules", "alerts", "alertmanagers"] {
            check(&format!("/api/v1/{path}"), InAgentMode::Unavailable);
        }
        for path in [
            "status/tsdb",
            "status/tsdb/blocks",
            "ringscrape/status/blocks",
            "admin/tsdb/snapshot",
            "query_exemplars",
            "parse_query",
        ] {
            check(&format!("/api/v1/{path}"), InAgentMode::Unavailable);
        }
        for path in
            ["targets", "targets/metadata", "scrape_pools", "metadata", "write", "status/config", "status/fleet"]
        {
            check(&format!("/api/v1/{path}"), InAgentMode::Served);
        }
        for path in ["/agent", "/targets", "/config", "/metrics", "/-/ready", "/service-discovery", "/fleet", "/status"]
        {
            check(path, InAgentMode::Served);
        }
        for path in ["/query", "/alerts", "/rules", "/tsdb-status"] {
            check(path, InAgentMode::NoPage);
        }
        check("/", InAgentMode::Redirect("/agent"));
        check("/graph", InAgentMode::Redirect("/query"));
        check("/federate", InAgentMode::Unsupported);
        check("/api/v1/read", InAgentMode::Unsupported);
    }
}
