//! `/federate`: newest samples of selected series, as Prometheus serves them.

use crate::params::Params;
use crate::state::State;
use axum::body::{Body, Bytes};
use axum::extract;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use exposition::Escaping;
use promql::parse_selector;
use series::{Labels, METRIC_NAME, Timestamp};
use shard::{InstantRequest, InstantSample};
use std::time::{SystemTime, UNIX_EPOCH};

/// Text that is handed to the connection at once.
const PIECE_BYTES: usize = 64 << 10;

pub async fn federate(state: extract::State<State>, headers: HeaderMap, params: Params) -> Response {
    let mut selectors = Vec::new();
    for text in params.all("match[]") {
        match parse_selector(text) {
            Ok(matchers) => selectors.push(matchers),
            Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
        }
    }
    let escaping = negotiate(&headers);
    let kind = format!("text/plain; version=0.0.4; charset=utf-8; escaping={}", escaping.as_str());
    if selectors.is_empty() {
        return ([(header::CONTENT_TYPE, kind)], Body::empty()).into_response();
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let request =
        InstantRequest { selectors, at: Timestamp(now_ms), lookback: state.parts.query.plan.lookback, series_max: 0 };
    let samples = match state.parts.shards.instant(request).await {
        Ok(samples) => samples,
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    };
    let external = state.running().config.global.external_labels.clone();
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(Pieces::new(in_order(samples), external, escaping)))
        .into_response()
}

/// The escaping that the client asks for in its Accept header.
fn negotiate(headers: &HeaderMap) -> Escaping {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let wanted = accept.split([',', ';']).find_map(|part| part.trim().strip_prefix("escaping="));
    wanted.and_then(Escaping::from_text).unwrap_or_default()
}

/// Sorted by name, then labels; of several samples of a series the newest.
fn in_order(mut samples: Vec<InstantSample>) -> Vec<InstantSample> {
    samples.sort_unstable_by(|one, other| {
        let names = one.labels.metric_name().cmp(other.labels.metric_name());
        names.then_with(|| one.labels.cmp(&other.labels)).then(other.timestamp.cmp(&one.timestamp))
    });
    samples.dedup_by(|later, kept| later.labels == kept.labels);
    samples
}

/// Writes the samples piece by piece, as fast as the reader takes them.
struct Pieces {
    samples: std::vec::IntoIter<InstantSample>,
    external: Labels,
    escaping: Escaping,
    name: Option<String>,
}

impl Pieces {
    fn new(samples: Vec<InstantSample>, external: Labels, escaping: Escaping) -> Pieces {
        Pieces { samples: samples.into_iter(), external, escaping, name: None }
    }

    fn write(&mut self, sample: &InstantSample, out: &mut String) {
        let name = sample.labels.metric_name();
        if self.name.as_deref() != Some(name) {
            exposition::write_type(name, "untyped", self.escaping, out);
            self.name = Some(name.to_owned());
        }
        let own = sample.labels.iter().filter(|(name, _)| *name != METRIC_NAME);
        let missing = |name: &str| sample.labels.get(name).is_none();
        let external = self.external.iter().filter(|(name, _)| missing(name));
        // Without it the scraper would add its own instance.
        let no_instance = missing("instance") && self.external.get("instance").is_none();
        let instance = no_instance.then_some(("instance", ""));
        let labels = own.chain(external).chain(instance);
        exposition::write_sample(name, labels, sample.value, Some(sample.timestamp.0), self.escaping, out);
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut text = String::with_capacity(PIECE_BYTES + 1024);
        while text.len() < PIECE_BYTES {
            let Some(sample) = self.samples.next() else { break };
            self.write(&sample, &mut text);
        }
        (!text.is_empty()).then(|| text.into())
    }
}

impl futures_core::Stream for Pieces {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.next().map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pairs: &[(&str, &str)], timestamp: i64, value: f64) -> InstantSample {
        let labels = Labels::from_pairs(pairs.iter().copied());
        InstantSample { labels, timestamp: Timestamp(timestamp), value }
    }

    #[track_caller]
    fn check(samples: &[InstantSample], external: &[(&str, &str)], escaping: Escaping, want: &str) {
        let external = Labels::from_pairs(external.iter().copied());
        let pieces = Pieces::new(in_order(samples.to_vec()), external, escaping);
        let text: Vec<u8> = pieces.flat_map(|piece| piece.to_vec()).collect();
        assert_eq!(String::from_utf8(text).unwrap(), want);
    }

    #[test]
    fn lines_as_prometheus_writes_them() {
        let plain = Escaping::Underscores;
        check(
            &[
                sample(&[("__name__", "b"), ("instance", "i")], 7, 1.5),
                sample(&[("__name__", "a"), ("instance", "i"), ("x", "2")], 7, 1e6),
                sample(&[("__name__", "a"), ("instance", "i"), ("x", "1")], 7, f64::INFINITY),
            ],
            &[("region", "eu"), ("x", "ext")],
            plain,
            "# TYPE a untyped\na{instance=\"i\",x=\"1\",region=\"eu\"} +Inf 7\na{instance=\"i\",x=\"2\",region=\"eu\"} 1e+06 7\n\
             # TYPE b untyped\nb{instance=\"i\",region=\"eu\",x=\"ext\"} 1.5 7\n",
        );
        check(&[sample(&[("__name__", "a")], 1, 0.0)], &[], plain, "# TYPE a untyped\na{instance=\"\"} 0 1\n");
        let twice = [sample(&[("__name__", "a")], 1, 0.0), sample(&[("__name__", "a")], 2, 5.0)];
        check(&twice, &[], plain, "# TYPE a untyped\na{instance=\"\"} 5 2\n");
        let dotted = [sample(&[("__name__", "a.b"), ("instance", "i")], 1, 0.0)];
        check(&dotted, &[], Escaping::AllowUtf8, "# TYPE \"a.b\" untyped\n{\"a.b\",instance=\"i\"} 0 1\n");
        check(&[], &[], plain, "");
    }

    #[test]
    fn long_answers_come_in_pieces() {
        let many: Vec<_> = (0..20_000).map(|i| sample(&[("__name__", "a"), ("i", &i.to_string())], 1, 0.0)).collect();
        let pieces = Pieces::new(in_order(many), Labels::empty(), Escaping::default());
        let sizes: Vec<usize> = pieces.map(|piece| piece.len()).collect();
        assert!(sizes.len() > 5 && sizes.iter().all(|size| *size < PIECE_BYTES + 1024), "{sizes:?}");
    }
}
