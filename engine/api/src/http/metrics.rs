//! What is counted of requests, by the handler's path as Prometheus names it.

use super::connections::{ConnectionStats, Connections, Phase};
use crate::metrics_writer::MetricsWriter;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State as Extract};
use axum::middleware::Next;
use axum::response::Response;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

/// Upper bounds of durations, in seconds, and of sizes, in bytes: those of Prometheus.
const DURATION_BOUNDS: [f64; 9] = [0.1, 0.2, 0.4, 1.0, 3.0, 8.0, 20.0, 60.0, 120.0];
const SIZE_BOUNDS: [f64; 8] = [1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Handler of paths that nobody has.
const OTHER: &str = "other";
/// Handler of our own metrics.
const METRICS: &str = "/metrics";

#[derive(Debug)]
struct Histogram<const N: usize> {
    bounds: [f64; N],
    /// Not cumulative; the last one is beyond all bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Histogram<N> {
        Histogram { bounds, counts: vec![0; N + 1], sum: 0.0 }
    }

    fn add(&mut self, value: f64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(N);
        self.counts[at] += 1;
        self.sum += value;
    }

    fn write(&self, writer: &mut MetricsWriter, name: &str, handler: &str) {
        let mut count = 0;
        let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, in_bucket) in bounds.zip(&self.counts) {
            count += in_bucket;
            writer.line(&format!("{name}_bucket"), &[("handler", handler), ("le", &bound)], count as f64);
        }
        writer.line(&format!("{name}_sum"), &[("handler", handler)], self.sum);
        writer.line(&format!("{name}_count"), &[("handler", handler)], count as f64);
    }
}

#[derive(Debug)]
struct HandlerStats {
    requests: BTreeMap<u16, u64>,
    seconds: Histogram<9>,
    bytes: Histogram<8>,
}

impl HandlerStats {
    fn new() -> HandlerStats {
        HandlerStats {
            requests: BTreeMap::from([(200, 0)]),
            seconds: Histogram::new(DURATION_BOUNDS),
            bytes: Histogram::new(SIZE_BOUNDS),
        }
    }
}

/// Counters of all handlers.
#[derive(Debug, Default)]
pub(crate) struct HttpMetrics {
    /// By the path of the router, which has `{name}` for `:name`. Complete from the start.
    handlers: BTreeMap<String, Mutex<HandlerStats>>,
    /// Requests for our metrics that are being answered.
    metrics_in_flight: AtomicU64,
    connections: Option<Connections>,
}

impl HttpMetrics {
    pub fn new(paths: impl IntoIterator<Item = String>, connections: Option<Connections>) -> HttpMetrics {
        let paths = paths.into_iter().chain([OTHER.to_owned()]);
        let handlers = paths.map(|path| (path, Mutex::new(HandlerStats::new()))).collect();
        HttpMetrics { handlers, metrics_in_flight: AtomicU64::new(0), connections }
    }

    fn add(&self, path: &str, status: u16, seconds: f64, bytes: u64) {
        let Some(stats) = self.handlers.get(path).or_else(|| self.handlers.get(OTHER)) else { return };
        let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
        *stats.requests.entry(status).or_insert(0) += 1;
        stats.seconds.add(seconds);
        stats.bytes.add(bytes as f64);
    }

    pub fn write(&self, writer: &mut MetricsWriter) {
        let all: Vec<_> = self
            .handlers
            .iter()
            .map(|(path, stats)| (handler(path), stats.lock().unwrap_or_else(PoisonError::into_inner)))
            .collect();
        let name = "prometheus_http_requests_total";
        writer.family(name, "counter", "HTTP requests by handler and status code.");
        for (handler, stats) in &all {
            for (code, count) in &stats.requests {
                writer.line(name, &[("code", &code.to_string()), ("handler", handler)], *count as f64);
            }
        }
        let name = "prometheus_http_request_duration_seconds";
        writer.family(name, "histogram", "Time from the head of a request to the end of its answer.");
        all.iter().for_each(|(handler, stats)| stats.seconds.write(writer, name, handler));
        let name = "prometheus_http_response_size_bytes";
        writer.family(name, "histogram", "Size of answers as they are sent.");
        all.iter().for_each(|(handler, stats)| stats.bytes.write(writer, name, handler));
        let of_metrics = all.iter().find(|(handler, _)| handler == METRICS).map(|(_, stats)| &stats.requests);
        let counts: Vec<(&str, f64)> = [(200, "200"), (500, "500"), (503, "503")]
            .into_iter()
            .map(|(code, text)| (text, of_metrics.and_then(|counts| counts.get(&code)).copied().unwrap_or(0) as f64))
            .collect();
        let help = "Requests for /metrics by status code.";
        writer.by("promhttp_metric_handler_requests_total", "counter", help, "code", counts);
        let in_flight = self.metrics_in_flight.load(Ordering::Relaxed) as f64;
        let help = "Requests for /metrics that are being answered.";
        writer.gauge("promhttp_metric_handler_requests_in_flight", help, in_flight);
        drop(all);
        self.write_connections(writer);
    }

    fn write_connections(&self, writer: &mut MetricsWriter) {
        let none = ConnectionStats::default();
        let stats = self.connections.as_ref().map_or(&none, Connections::stats);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let listener = |value| [("http", value)];
        let help = "Connections that listeners accepted.";
        let name = "net_conntrack_listener_conn_accepted_total";
        writer.by(name, "counter", help, "listener_name", listener(of(&stats.accepted)));
        let help = "Accepted connections that are closed.";
        let name = "net_conntrack_listener_conn_closed_total";
        writer.by(name, "counter", help, "listener_name", listener(of(&stats.closed)));
        let open = self.connections.as_ref().map(Connections::counts).unwrap_or_default();
        let open = Phase::ALL.iter().zip(open).map(|(phase, count)| (phase.as_str(), count as f64));
        let help = "Open connections of clients, by what they wait for.";
        writer.by("ringscrape_http_connections", "gauge", help, "phase", open);
        let max = self.connections.as_ref().map_or(0, |all| all.limits().connections_max) as f64;
        writer.gauge("ringscrape_http_connections_max", "The value of --web.max-connections.", max);
        let by_phase = |counts: &[AtomicU64]| {
            Phase::ALL.iter().zip(counts).map(|(phase, count)| (phase.as_str(), of(count))).collect::<Vec<_>>()
        };
        let help = "Connections closed for new ones at the limit, by what they waited for.";
        let name = "ringscrape_http_connections_evicted_total";
        writer.by(name, "counter", help, "phase", by_phase(&stats.evicted));
        let help = "Connections closed because the client took too long, by what they waited for.";
        let name = "ringscrape_http_connections_timed_out_total";
        writer.by(name, "counter", help, "phase", by_phase(&stats.timed_out));
    }
}

/// The path as Prometheus writes it: `/api/v1/label/:name/values`.
fn handler(path: &str) -> String {
    path.replace('{', ":").replace('}', "")
}

/// Middleware: counts a request once its answer has been sent, or given up.
pub(crate) async fn record(Extract(metrics): Extract<Arc<HttpMetrics>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or_else(|| OTHER.into(), |path| path.as_str().into());
    let mut answer = Answer { metrics, path, status: 0, begun: Instant::now(), bytes: 0 };
    if answer.path == METRICS {
        answer.metrics.metrics_in_flight.fetch_add(1, Ordering::Relaxed);
    }
    let response = next.run(request).await;
    answer.status = response.status().as_u16();
    response.map(|body| Body::new(CountedBody { body, answer }))
}

/// An answer on its way; counted when dropped.
struct Answer {
    metrics: Arc<HttpMetrics>,
    path: String,
    /// 0 until the handler has answered.
    status: u16,
    begun: Instant,
    bytes: u64,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.path == METRICS {
            self.metrics.metrics_in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        // A client that left before the answer: nginx' code, which Prometheus uses for cancelled queries as well.
        let status = if self.status == 0 { 499 } else { self.status };
        self.metrics.add(&self.path, status, self.begun.elapsed().as_secs_f64(), self.bytes);
    }
}

struct CountedBody {
    body: Body,
    answer: Answer,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.answer.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_there_from_the_start_under_the_names_of_prometheus() {
        let paths = ["/metrics", "/api/v1/label/{name}/values"].map(String::from);
        let metrics = HttpMetrics::new(paths, None);
        metrics.add("/metrics", 200, 0.15, 2_000);
        metrics.add("/nowhere", 404, 0.0, 0);
        let mut writer = MetricsWriter::default();
        metrics.write(&mut writer);
        let text = writer.into_text();
        for line in [
            r#"prometheus_http_requests_total{code="200",handler="/api/v1/label/:name/values"} 0"#,
            r#"prometheus_http_requests_total{code="200",handler="/metrics"} 1"#,
            r#"prometheus_http_requests_total{code="404",handler="other"} 1"#,
            r#"prometheus_http_request_duration_seconds_bucket{handler="/metrics",le="0.1"} 0"#,
            r#"prometheus_http_request_duration_seconds_bucket{handler="/metrics",le="0.2"} 1"#,
            r#"prometheus_http_response_size_bytes_bucket{handler="/metrics",le="1000"} 0"#,
            r#"prometheus_http_response_size_bytes_bucket{handler="/metrics",le="10000"} 1"#,
            r#"promhttp_metric_handler_requests_total{code="200"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
