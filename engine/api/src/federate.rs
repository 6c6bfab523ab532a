//! `/federate`: newest samples of selected series, as Prometheus serves them, written by the cores while they are read.
//!
//! Invariants:
//!   * a request holds pieces of text, never what it selects; its reader alone sets its pace
//!   * what the guards refuse is refused before a line is written

use crate::params::Params;
use crate::read_params::selectors;
use crate::state::State;
use ahash::RandomState;
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use exposition::Escaping;
use query::{Federation, StreamError};
use series::{Labels, Matcher};
use shard::FederateRequest;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest time of one answer.
const WITHIN: Duration = Duration::from_secs(600);
/// A request is a catch-all if it selects more than this share of all series.
const CATCH_ALL_SHARE: f64 = 0.5;
/// With fewer series than this nothing is a catch-all.
const CATCH_ALL_SERIES_MIN: u64 = 100;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Client(pub SocketAddr);

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// One request from its start to the end of its answer; tells of itself when it is over.
struct Request {
    state: State,
    client: Option<SocketAddr>,
    selectors: String,
    begun: Instant,
    log: bool,
    series: u64,
    bytes: u64,
    outcome: &'static str,
}

impl Request {
    /// Refuses it with a text.
    fn refuse(mut self, status: StatusCode, counter: &AtomicU64, outcome: &'static str, text: String) -> Response {
        add(counter, 1);
        self.outcome = outcome;
        let mut response = (status, text + "\n").into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let counters = &self.state.federations;
        counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        add(&counters.series, self.series);
        add(&counters.bytes, self.bytes);
        match self.outcome {
            "served" => add(&counters.served, 1),
            "cut" => add(&counters.cut, 1),
            _ => {}
        }
        let client = self.client.map(|client| client.to_string()).unwrap_or_default();
        let seconds = self.begun.elapsed().as_secs_f64();
        let Request { series, bytes, outcome, selectors, .. } = self;
        if self.log {
            tracing::info!(client, selectors, series, bytes, seconds, outcome, "federation");
        } else {
            tracing::debug!(client, selectors, series, bytes, seconds, outcome, "federation");
        }
    }
}

pub async fn federate(
    state: extract::State<State>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
    params: Params,
) -> Response {
    let running = state.running();
    let guards = running.config.federation.as_ref();
    let counters = &state.federations;
    let in_flight = counters.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
    let mut request = Request {
        state: state.0.clone(),
        client: client.map(|client| client.0.0),
        selectors: params.all("match[]").collect::<Vec<_>>().join(" "),
        begun: Instant::now(),
        log: guards.is_some_and(|guards| guards.log_requests),
        series: 0,
        bytes: 0,
        outcome: "cut",
    };
    let selectors = match selectors(&params) {
        Ok(selectors) => selectors,
        Err(error) => {
            let counter = &counters.refused_selector;
            return request.refuse(StatusCode::BAD_REQUEST, counter, "bad selector", error);
        }
    };
    let escaping = negotiate(&headers);
    let kind = format!("text/plain; version=0.0.4; charset=utf-8; escaping={}", escaping.as_str());
    if selectors.is_empty() {
        request.outcome = "served";
        return ([(header::CONTENT_TYPE, kind)], Body::empty()).into_response();
    }
    if let Some(max) = guards.map(|guards| guards.concurrent_max).filter(|max| *max > 0 && in_flight > *max) {
        let text = format!("{max} federations are under way, which is federation.concurrent_max; ask again later");
        let counter = &counters.refused_concurrent;
        return request.refuse(StatusCode::SERVICE_UNAVAILABLE, counter, "too many at once", text);
    }
    let matchers = |selectors: &[config::Selector]| -> Vec<Vec<Matcher>> {
        selectors.iter().map(|selector| selector.matchers.clone()).collect()
    };
    let asked = FederateRequest {
        selectors,
        allow: guards.map(|guards| matchers(&guards.allow)).unwrap_or_default(),
        deny: guards.map(|guards| matchers(&guards.deny)).unwrap_or_default(),
        lookback: state.parts.query.settings().plan.lookback,
        external_labels: with_instance(&running.config.global.external_labels),
        escaping,
        names: guards.is_some_and(|guards| guards.refuse_catch_all),
        hashing: RandomState::new(),
    };
    let mut federation = match state.parts.query.federate(asked).await {
        Ok(federation) => federation,
        Err(error) => {
            return request.refuse(StatusCode::SERVICE_UNAVAILABLE, &counters.failed, "failed", error.to_string());
        }
    };
    if let Some(guards) = guards {
        let begun = federation.begun();
        if guards.series_max > 0 && begun.series > guards.series_max {
            let text = format!(
                "match[] selects {} series, more than federation.series_max ({}); ask for fewer, or for aggregates",
                begun.series, guards.series_max
            );
            let counter = &counters.refused_series;
            return request.refuse(StatusCode::UNPROCESSABLE_ENTITY, counter, "too many series", text);
        }
        let most = begun.series as f64 > begun.series_all as f64 * CATCH_ALL_SHARE;
        if guards.refuse_catch_all && begun.series_all >= CATCH_ALL_SERIES_MIN && (most || begun.is_every_name()) {
            let text = format!(
                "match[] selects {} of {} series{}, a catch-all, which federation.refuse_catch_all refuses; name what \
                 is needed",
                begun.series,
                begun.series_all,
                if most { "" } else { " and all metric names" }
            );
            let counter = &counters.refused_catch_all;
            return request.refuse(StatusCode::FORBIDDEN, counter, "catch-all", text);
        }
    }
    if let Err(error) = federation.begin().await {
        return request.refuse(StatusCode::SERVICE_UNAVAILABLE, &counters.failed, "failed", error.to_string());
    }
    // The compression of the answer asks once more after the end.
    let pieces = futures_lite::StreamExt::fuse(futures_lite::stream::unfold((federation, request), next));
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(pieces)).into_response()
}

/// External labels, with an empty `instance` if there is none: or the scraper would add its own to what has none.
fn with_instance(external: &Labels) -> Labels {
    Labels::from_pairs([("instance", "")].into_iter().chain(external.iter()))
}

/// Why an answer ends before its end: the connection is cut, so that nobody takes a part for the whole.
#[derive(Debug, thiserror::Error)]
enum AbortReason {
    #[error(transparent)]
    Core(#[from] StreamError),
    #[error("the answer took longer than {} s", WITHIN.as_secs())]
    TooLong,
}

type Under = (Federation, Request);

async fn next((mut federation, mut request): Under) -> Option<(Result<Bytes, AbortReason>, Under)> {
    if request.begun.elapsed() > WITHIN {
        return Some((Err(AbortReason::TooLong), (federation, request)));
    }
    let piece = federation.next().await;
    request.series = federation.series();
    match piece {
        None => {
            request.outcome = "served";
            None
        }
        Some(Err(error)) => Some((Err(error.into()), (federation, request))),
        Some(Ok(text)) => {
            request.bytes += text.len() as u64;
            Some((Ok(text.into()), (federation, request)))
        }
    }
}

/// The escaping that the client asks for in its Accept header.
fn negotiate(headers: &HeaderMap) -> Escaping {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let wanted = accept.split([',', ';']).find_map(|part| part.trim().strip_prefix("escaping="));
    wanted.and_then(Escaping::from_text).unwrap_or_default()
}
