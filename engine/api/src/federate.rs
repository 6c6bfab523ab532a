//! `/federate`: newest samples of selected series, as Prometheus serves them, written by the cores while they are read.
//!
//! Floats come first; native histograms follow in protobuf, and those with custom bounds as classic histograms in text.
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
use exposition::{Escaping, classic_buckets, write_histogram_family, write_sample, write_type, write_untyped_families};
use query::{FederatedHistogram, Federation, QueryError, StreamError};
use series::{Labels, METRIC_NAME, Matcher};
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

/// Media type of protobuf.
const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
/// Bytes of native histograms that are written at a time, and one histogram.
const HISTOGRAMS_BYTES: usize = 32 << 10;

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
    is_protobuf: bool,
    /// Those that are not written yet, once the floats are.
    histograms: Option<std::vec::IntoIter<FederatedHistogram>>,
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
        is_protobuf: false,
        histograms: None,
    };
    let selectors = match selectors(&params) {
        Ok(selectors) => selectors,
        Err(error) => {
            let counter = &counters.refused_selector;
            return request.refuse(StatusCode::BAD_REQUEST, counter, "bad selector", error);
        }
    };
    let (is_protobuf, escaping) = negotiate(&headers);
    request.is_protobuf = is_protobuf;
    let media = if is_protobuf { PROTOBUF } else { "text/plain; version=0.0.4; charset=utf-8" };
    let kind = format!("{media}; escaping={}", escaping.as_str());
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
    #[error(transparent)]
    Histograms(#[from] QueryError),
    #[error("the answer took longer than {} s", WITHIN.as_secs())]
    TooLong,
}

type Under = (Federation, Request);

async fn next((mut federation, mut request): Under) -> Option<(Result<Bytes, AbortReason>, Under)> {
    if request.begun.elapsed() > WITHIN {
        return Some((Err(AbortReason::TooLong), (federation, request)));
    }
    let piece = match &request.histograms {
        None => federation.next().await,
        Some(_) => None,
    };
    let piece = match piece {
        Some(Err(error)) => return Some((Err(error.into()), (federation, request))),
        Some(Ok(text)) if request.is_protobuf => {
            let mut families = Vec::with_capacity(text.len());
            write_untyped_families(text.as_bytes(), &mut families);
            families
        }
        Some(Ok(text)) => text.into_bytes(),
        None => match histograms(&federation, &mut request).await {
            Ok(piece) => piece,
            Err(error) => return Some((Err(error.into()), (federation, request))),
        },
    };
    request.series = federation.series();
    request.bytes += piece.len() as u64;
    if piece.is_empty() {
        request.outcome = "served";
        return None;
    }
    Some((Ok(piece.into()), (federation, request)))
}

/// The next native histograms; nothing at the end.
async fn histograms(federation: &Federation, request: &mut Request) -> Result<Vec<u8>, QueryError> {
    let mut histograms = match request.histograms.take() {
        Some(histograms) => histograms,
        None if request.is_protobuf || federation.begun().has_histograms => federation.histograms().await?.into_iter(),
        None => Vec::new().into_iter(),
    };
    let mut piece = Vec::new();
    while piece.len() < HISTOGRAMS_BYTES
        && let Some(one) = histograms.next()
    {
        let FederateRequest { external_labels, escaping, .. } = federation.request();
        match request.is_protobuf {
            true => write_protobuf(&one, external_labels, *escaping, &mut piece),
            false => write_classic(&one, external_labels, *escaping, &mut piece),
        }
    }
    request.histograms = Some(histograms);
    Ok(piece)
}

/// The labels of a series but its name, then the external ones that it does not have.
fn labels_of<'a>(series: &'a Labels, external: &'a Labels) -> impl Iterator<Item = (&'a str, &'a str)> {
    let own = series.iter().filter(|(name, _)| *name != METRIC_NAME);
    own.chain(external.iter().filter(|(name, _)| series.get(name).is_none()))
}

fn write_protobuf(one: &FederatedHistogram, external: &Labels, escaping: Escaping, out: &mut Vec<u8>) {
    let labels: Vec<(String, &str)> =
        labels_of(&one.labels, external).map(|(name, value)| (escaping.escaped(name), value)).collect();
    let labels = labels.iter().map(|(name, value)| (&**name, *value));
    let name = escaping.escaped(one.labels.metric_name());
    write_histogram_family(&name, labels, &one.histogram, one.timestamp.0, out);
}

/// One with custom bounds as a classic histogram; the text has no others.
fn write_classic(one: &FederatedHistogram, external: &Labels, escaping: Escaping, out: &mut Vec<u8>) {
    if !one.histogram.is_custom() {
        return;
    }
    let (name, at) = (one.labels.metric_name(), Some(one.timestamp.0));
    let mut text = String::new();
    write_type(name, "histogram", escaping, &mut text);
    let bucket = format!("{name}_bucket");
    for (bound, count) in classic_buckets(&one.histogram) {
        let mut le = String::new();
        series::format_float(bound, &mut le).expect("writing to a string");
        let labels = labels_of(&one.labels, external).chain([("le", &*le)]);
        write_sample(&bucket, labels, count, at, escaping, &mut text);
    }
    for (suffix, value) in [("_sum", one.histogram.sum), ("_count", one.histogram.count)] {
        let labels = labels_of(&one.labels, external);
        write_sample(&format!("{name}{suffix}"), labels, value, at, escaping, &mut text);
    }
    out.extend_from_slice(text.as_bytes());
}

/// Whether the client prefers delimited protobuf to text, and the escaping that it asks for in its Accept header.
fn negotiate(headers: &HeaderMap) -> (bool, Escaping) {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let wanted = accept.split([',', ';']).find_map(|part| part.trim().strip_prefix("escaping="));
    let escaping = wanted.and_then(Escaping::from_text).unwrap_or_default();
    let mut best = (false, 0.0);
    for element in accept.split(',') {
        let mut parts = element.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        let parameter = |name: &str| {
            let mut all = parts.clone().filter_map(|part| part.split_once('='));
            all.find(|(other, _)| other.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let is_protobuf = media == "application/vnd.google.protobuf"
            && parameter("proto") == Some("io.prometheus.client.MetricFamily")
            && parameter("encoding") == Some("delimited");
        let is_text = media == "text/plain" && parameter("version").is_none_or(|version| version == "0.0.4");
        let weight = parameter("q").map_or(Ok(1.0), str::parse).unwrap_or(0.0);
        if (is_protobuf || is_text) && weight > best.1 {
            best = (is_protobuf, weight);
        }
    }
    (best.0, escaping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, want: (bool, Escaping)) {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        assert_eq!(negotiate(&headers), want, "{accept}");
    }

    #[test]
    fn protobuf_is_for_those_who_prefer_it() {
        const PROTOBUF: &str =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        check(&format!("{PROTOBUF};q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"), (true, Escaping::Underscores));
        check(&format!("text/plain;version=0.0.4;q=0.6,{PROTOBUF};q=0.5"), (false, Escaping::Underscores));
        check(
            &format!("{PROTOBUF};q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5"),
            (true, Escaping::AllowUtf8),
        );
        check("application/vnd.google.protobuf;proto=x;encoding=delimited", (false, Escaping::Underscores));
        check(&PROTOBUF.replace("delimited", "text"), (false, Escaping::Underscores));
        check("application/openmetrics-text;version=1.0.0,*/*", (false, Escaping::Underscores));
        check(&format!("{PROTOBUF};q=x"), (false, Escaping::Underscores));
        check(";;=,,q", (false, Escaping::Underscores));
    }
}
