//! OTLP metrics: what a request says (`data`, read by `protobuf` and `json`), and the series that it becomes (`translate`,
//! with `names` and `histogram`). Knows no HTTP and no storage.
//!
//! Invariants:
//!   * bytes of others are an error or a request, never a panic; a request has at most `ITEMS_MAX` items of any kind
//!   * a point becomes samples or is counted as rejected, with the reason of the first few
//!   * series have sorted names, no name twice, and a metric name

mod accumulate;
mod any_value;
mod data;
mod histogram;
mod json;
mod names;
mod protobuf;
mod translate;

pub use accumulate::DeltaSums;
pub use data::OtlpMetrics;
pub use names::NameStrategy;
pub use translate::{DeltaHandling, OtlpSettings, OtlpTranslation, Promotion, translate};

use crate::DecodeError;

/// Resources, scopes, metrics, points, attributes, buckets of a request together.
pub(crate) const ITEMS_MAX: usize = 4_000_000;
/// How deep values of attributes may be nested.
pub(crate) const VALUE_DEPTH_MAX: usize = 16;

impl OtlpMetrics {
    /// Reads an `ExportMetricsServiceRequest` as protobuf.
    ///
    /// # Errors
    /// If the bytes are no such message, or have too many items.
    pub fn from_protobuf(body: &[u8]) -> Result<OtlpMetrics, DecodeError> {
        protobuf::decode(body)
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// If the bytes are no such message, or have too many items.
    pub fn from_json(body: &[u8]) -> Result<OtlpMetrics, DecodeError> {
        json::decode(body)
    }
}

/// The body of a response that says how many points were rejected and why, as protobuf.
pub fn partial_success_protobuf(rejected_points: u64, message: &str) -> Vec<u8> {
    use crate::wire::{put_bytes, put_number};
    let (mut partial, mut response) = (Vec::new(), Vec::new());
    put_number(1, rejected_points, &mut partial);
    put_bytes(2, message.as_bytes(), &mut partial);
    put_bytes(1, &partial, &mut response);
    response
}

/// The same as JSON.
pub fn partial_success_json(rejected_points: u64, message: &str) -> Vec<u8> {
    let body = serde_json::json!({
        "partialSuccess": {"rejectedDataPoints": rejected_points.to_string(), "errorMessage": message}
    });
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{put_bytes, put_double, put_number, put_varint};

    const JSON: &str = r#"{"resourceMetrics": [{"resource": {"attributes": [
        {"key": "service.name", "value": {"stringValue": "s"}}, {"key": "n", "value": {"intValue": "7"}},
        {"key": "l", "value": {"arrayValue": {"values": [{"boolValue": true}, {"doubleValue": 1.5}]}}}]},
      "scopeMetrics": [{"scope": {"name": "lib"}, "schemaUrl": "u", "metrics": [
        {"name": "g", "unit": "s", "gauge": {"dataPoints": [{"timeUnixNano": "1000000000", "asInt": "-3"}]}},
        {"name": "c", "description": "Text.", "sum": {"aggregationTemporality": 2, "isMonotonic": true,
          "dataPoints": [{"timeUnixNano": 2000000000, "asDouble": 0.5, "flags": 1}]}},
        {"name": "h", "histogram": {"aggregationTemporality": 1, "dataPoints": [{"timeUnixNano": "1", "count": "3", "sum": 2.5,
          "bucketCounts": ["1", "2"], "explicitBounds": [0.1]}]}},
        {"name": "e", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [{"timeUnixNano": "1", "count": 3,
          "scale": -1, "zeroCount": "1", "positive": {"offset": -2, "bucketCounts": ["2"]}}]}},
        {"name": "s", "summary": {"dataPoints": [{"timeUnixNano": "1", "count": 1, "sum": 2, "quantileValues":
          [{"quantile": 0.5, "value": 4}]}]}}]}]}]}"#;

    fn message(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        build(&mut out);
        out
    }

    fn put_fixed(field: u64, value: u64, out: &mut Vec<u8>) {
        put_varint(field << 3 | 1, out);
        out.extend_from_slice(&value.to_le_bytes());
    }

    fn put_attribute(field: u64, name: &str, value: &[u8], out: &mut Vec<u8>) {
        let entry = message(|out| {
            put_bytes(1, name.as_bytes(), out);
            put_bytes(2, value, out);
        });
        put_bytes(field, &entry, out);
    }

    /// The same request as [`JSON`].
    fn protobuf() -> Vec<u8> {
        let resource = message(|out| {
            put_attribute(1, "service.name", &message(|out| put_bytes(1, b"s", out)), out);
            put_attribute(1, "n", &message(|out| put_number(3, 7, out)), out);
            let list = message(|out| {
                put_bytes(1, &message(|out| put_number(2, 1, out)), out);
                put_bytes(1, &message(|out| put_double(4, 1.5, out)), out);
            });
            put_attribute(1, "l", &message(|out| put_bytes(5, &list, out)), out);
        });
        let metric = |name: &str, field, data: &[u8]| {
            message(|out| {
                put_bytes(1, name.as_bytes(), out);
                put_bytes(field, data, out);
            })
        };
        let point = |build: &dyn Fn(&mut Vec<u8>)| {
            message(|out| {
                let mut point = Vec::new();
                build(&mut point);
                put_bytes(1, &point, out);
            })
        };
        let mut gauge = metric(
            "g",
            5,
            &point(&|out| {
                put_fixed(3, 1_000_000_000, out);
                put_fixed(6, -3i64 as u64, out);
            }),
        );
        put_bytes(3, b"s", &mut gauge);
        let mut sum = point(&|out| {
            put_fixed(3, 2_000_000_000, out);
            put_double(4, 0.5, out);
            put_number(8, 1, out);
        });
        put_number(2, 2, &mut sum);
        put_number(3, 1, &mut sum);
        let mut sum = metric("c", 7, &sum);
        put_bytes(2, b"Text.", &mut sum);
        let mut histogram = point(&|out| {
            put_fixed(3, 1, out);
            put_fixed(4, 3, out);
            put_double(5, 2.5, out);
            put_bytes(6, &[1u64, 2].map(u64::to_le_bytes).concat(), out);
            put_double(7, 0.1, out);
        });
        put_number(2, 1, &mut histogram);
        let mut exponential = point(&|out| {
            put_fixed(3, 1, out);
            put_fixed(4, 3, out);
            put_number(6, 1, out);
            put_fixed(7, 1, out);
            let buckets = message(|out| {
                put_number(1, 3, out);
                put_bytes(2, &[2], out);
            });
            put_bytes(8, &buckets, out);
        });
        put_number(2, 2, &mut exponential);
        let summary = point(&|out| {
            put_fixed(3, 1, out);
            put_fixed(4, 1, out);
            put_double(5, 2.0, out);
            let quantile = message(|out| {
                put_double(1, 0.5, out);
                put_double(2, 4.0, out);
            });
            put_bytes(6, &quantile, out);
        });
        let scope_metrics = message(|out| {
            put_bytes(1, &message(|out| put_bytes(1, b"lib", out)), out);
            put_bytes(2, &gauge, out);
            put_bytes(2, &sum, out);
            put_bytes(2, &metric("h", 9, &histogram), out);
            put_bytes(2, &metric("e", 10, &exponential), out);
            put_bytes(2, &metric("s", 11, &summary), out);
            put_bytes(3, b"u", out);
        });
        let resource_metrics = message(|out| {
            put_bytes(1, &resource, out);
            put_bytes(2, &scope_metrics, out);
        });
        message(|out| put_bytes(1, &resource_metrics, out))
    }

    #[test]
    fn both_forms_say_the_same() {
        let json = OtlpMetrics::from_json(JSON.as_bytes()).unwrap();
        assert_eq!(OtlpMetrics::from_protobuf(&protobuf()).unwrap(), json);
        let settings = OtlpSettings { deltas: DeltaHandling::Store, ..OtlpSettings::default() };
        let translation = translate(&json, &settings);
        assert_eq!(translation.reasons, Vec::<String>::new());
        let info = translation.series.iter().find(|series| series.labels.metric_name() == "target_info").unwrap();
        assert_eq!(info.labels.to_string(), r#"{__name__="target_info", job="s", l="[true,1.5]", n="7"}"#);
    }

    /// Bytes of others never panic, whatever they are.
    #[test]
    fn mutated_requests_are_errors_or_requests() {
        let mut state = 7u64;
        let mut next = move |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for (good, is_json) in [(protobuf(), false), (JSON.as_bytes().to_vec(), true)] {
            for _ in 0..20_000 {
                let mut bytes = good.clone();
                for _ in 0..1 + next(4) {
                    let at = next(bytes.len());
                    match next(4) {
                        0 => bytes[at] ^= 1 << next(8),
                        1 => bytes.truncate(at.max(1)),
                        2 => bytes[at] = next(256) as u8,
                        _ => drop(bytes.splice(at..at, [next(256) as u8])),
                    }
                }
                let read = if is_json { OtlpMetrics::from_json(&bytes) } else { OtlpMetrics::from_protobuf(&bytes) };
                if let Ok(metrics) = read {
                    let settings = OtlpSettings {
                        deltas: DeltaHandling::Accumulate,
                        custom_buckets: next(2) == 0,
                        promotes_scope: true,
                        ..OtlpSettings::default()
                    };
                    let mut translation = translate(&metrics, &settings);
                    DeltaSums::default().apply(&mut translation, 0);
                }
            }
        }
        // Nested values, and many items in few bytes.
        let deep = format!("{}{}", r#"{"arrayValue": {"values": ["#.repeat(40), "]}}".repeat(40));
        let deep =
            format!(r#"{{"resourceMetrics": [{{"resource": {{"attributes": [{{"key": "a", "value": {deep}}}]}}}}]}}"#);
        assert!(OtlpMetrics::from_json(deep.as_bytes()).is_err());
        let empty_resources = [10u8, 0].repeat(ITEMS_MAX + 1);
        let too_many = DecodeError::TooMany { what: "items", max: ITEMS_MAX };
        assert_eq!(OtlpMetrics::from_protobuf(&empty_resources), Err(too_many));
    }

    #[test]
    fn partial_success_is_told_in_both_forms() {
        assert_eq!(partial_success_protobuf(3, "why"), [10, 7, 8, 3, 18, 3, b'w', b'h', b'y']);
        let json: serde_json::Value = serde_json::from_slice(&partial_success_json(3, "why")).unwrap();
        assert_eq!(json["partialSuccess"]["rejectedDataPoints"], "3");
    }
}
