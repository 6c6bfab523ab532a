//! Metrics of OpenTelemetry, sent to the real binary.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use support::{Response, Ringscrape, encode, request_with_body, until};

const PATH: &str = "/api/v1/otlp/v1/metrics";

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

fn send(server: &Ringscrape, body: &[u8], headers: &[(&str, &str)]) -> Response {
    request_with_body(server.address, "POST", PATH, headers, body)
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn request(metrics: &Value) -> Value {
    let text = |name: &str, value: &str| json!({"key": name, "value": {"stringValue": value}});
    json!({"resourceMetrics": [{
        "resource": {"attributes": [text("service.name", "shop"), text("service.instance.id", "1"), text("host.name", "h")]},
        "scopeMetrics": [{"scope": {"name": "lib"}, "metrics": metrics}]
    }]})
}

fn sum(name: &str, temporality: u64, at_ms: u64, value: f64) -> Value {
    let point = json!({"timeUnixNano": (at_ms * 1_000_000).to_string(), "asDouble": value});
    json!({"name": name, "unit": "By", "description": "Text.",
        "sum": {"aggregationTemporality": temporality, "isMonotonic": true, "dataPoints": [point]}})
}

/// The values of a query, series by series, in order.
fn values(server: &Ringscrape, query: &str) -> Vec<String> {
    let data = server.api(&format!("/api/v1/query?query={}", encode(query)));
    let series = data["result"].as_array().unwrap().iter();
    let mut lines: Vec<String> = series
        .map(|one| {
            let value = one["value"].get(1).or_else(|| one["histogram"][1].get("count")).cloned().unwrap_or_default();
            format!("{} {}", one["metric"], value)
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn exemplars_of_points_are_found() {
    let flags = ["--web.enable-otlp-receiver", "--enable-feature=exemplar-storage"];
    let server = Ringscrape::start("", &flags);
    let now = now_ms();
    let exemplar = json!({"timeUnixNano": (now * 1_000_000).to_string(), "asInt": "3", "traceId": "0AF7651916CD43DD8448EB211C80319C",
        "spanId": "0000000000000000", "filteredAttributes": [{"key": "k.a", "value": {"stringValue": "v"}}]});
    let mut metric = sum("sent", 2, now, 7.0);
    metric["sum"]["dataPoints"][0]["exemplars"] = json!([exemplar]);
    let answer = send(&server, request(&json!([metric])).to_string().as_bytes(), &[JSON]);
    assert_eq!((answer.status, &*answer.body), (200, ""));
    let found = server.api("/api/v1/query_exemplars?query=sent_bytes_total");
    let labels = json!({"k.a": "v", "trace_id": "0af7651916cd43dd8448eb211c80319c"});
    let want = json!([{"labels": labels, "value": "3", "timestamp": now as f64 / 1000.0}]);
    assert_eq!((&found[0]["seriesLabels"]["job"], &found[0]["exemplars"]), (&json!("shop"), &want));
}

#[test]
fn points_become_series_and_what_is_rejected_is_told() {
    let server =
        Ringscrape::start("otlp: {promote_resource_attributes: [host.name]}\n", &["--web.enable-otlp-receiver"]);
    let now = now_ms();
    let histogram = json!({"name": "e", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [
        {"timeUnixNano": (now * 1_000_000).to_string(), "count": "3", "sum": 4, "scale": 0, "zeroCount": 1,
         "positive": {"offset": 0, "bucketCounts": ["2"]}}]}});
    let metrics = json!([sum("sent", 2, now, 7.0), sum("delta", 1, now, 7.0), histogram]);
    let answer = send(&server, request(&metrics).to_string().as_bytes(), &[JSON]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["partialSuccess"]["rejectedDataPoints"], "1");
    let reason = body["partialSuccess"]["errorMessage"].as_str().unwrap();
    assert!(reason.contains("invalid temporality and type combination for metric \"delta\""), "{reason}");
    let of = r#""host_name":"h","instance":"1","job":"shop"}"#;
    until("the samples can be read", || (!values(&server, "sent_bytes_total").is_empty()).then_some(()));
    assert_eq!(values(&server, "sent_bytes_total"), [format!(r#"{{"__name__":"sent_bytes_total",{of} "7""#)]);
    assert_eq!(values(&server, "histogram_count(e)"), [format!("{{{of} \"3\"")]);
    assert_eq!(values(&server, "target_info"), [format!(r#"{{"__name__":"target_info",{of} "1""#)]);
    assert!(values(&server, "delta_bytes_total").is_empty());
    let metadata = server.api("/api/v1/metadata?metric=sent_bytes_total");
    assert_eq!(metadata["sent_bytes_total"][0], json!({"type": "counter", "help": "Text.", "unit": "bytes"}));
    assert_eq!(server.metric("ringscrape_otlp_rejected_points_total"), Some(1.0));
    // The same point again is no mistake; an older one is.
    let again = send(&server, request(&json!([sum("sent", 2, now, 7.0)])).to_string().as_bytes(), &[JSON]);
    assert_eq!((again.status, again.body.as_str()), (200, ""));
    let older = send(&server, request(&json!([sum("sent", 2, now - 5_000, 6.0)])).to_string().as_bytes(), &[JSON]);
    assert!(older.status == 200 && older.body.contains("rejectedDataPoints"), "{}", older.body);
}

#[test]
fn deltas_are_added_up_or_stored_if_a_feature_says_so() {
    for (feature, want) in [("otlp-deltatocumulative", "12"), ("otlp-native-delta-ingestion", "5")] {
        let flags = ["--web.enable-otlp-receiver", &format!("--enable-feature={feature}")];
        let server = Ringscrape::start("", &flags);
        let now = now_ms();
        for (at, value) in [(now - 2_000, 7.0), (now - 1_000, 5.0)] {
            let answer = send(&server, request(&json!([sum("d", 1, at, value)])).to_string().as_bytes(), &[JSON]);
            assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        }
        let line = until("the second point", || {
            values(&server, "d_bytes_total").first().filter(|line| line.ends_with(&format!("\"{want}\""))).cloned()
        });
        assert!(line.contains("\"job\":\"shop\""), "{line}");
    }
}

#[test]
fn requests_are_refused_in_prometheus_words() {
    let server = Ringscrape::start("", &[]);
    let answer = send(&server, b"{}", &[JSON]);
    let text = "otlp write receiver needs to be enabled with --web.enable-otlp-receiver\n";
    assert_eq!((answer.status, answer.body.as_str()), (404, text));
    let server = Ringscrape::start("", &["--web.enable-otlp-receiver"]);
    #[track_caller]
    fn check(server: &Ringscrape, body: &[u8], headers: &[(&str, &str)], status: u16, want: &str) {
        let answer = send(server, body, headers);
        assert!(answer.status == status && answer.body.contains(want), "{} {}", answer.status, answer.body);
    }
    const PROTOBUF: (&str, &str) = ("Content-Type", "application/x-protobuf");
    check(&server, b"", &[PROTOBUF], 200, "");
    check(&server, b"{}", &[JSON], 200, "");
    check(&server, b"{}", &[("Content-Type", "text/plain")], 400, "unsupported content type: text/plain");
    check(&server, b"{", &[JSON], 400, "json: ");
    check(&server, b"\x0a\xff", &[PROTOBUF], 400, "protobuf: ");
    let brotli = [PROTOBUF, ("Content-Encoding", "br")];
    check(&server, b"", &brotli, 400, "unsupported compression: br. Only \"gzip\" or no compression supported");
    let gzip = [JSON, ("Content-Encoding", "gzip")];
    check(&server, b"no gzip", &gzip, 400, "gzip: ");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(request(&json!([sum("z", 2, now_ms(), 1.0)])).to_string().as_bytes()).unwrap();
    check(&server, &packed.finish().unwrap(), &gzip, 200, "");
    // A body that unpacks to far more than is taken.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..70 {
        bomb.write_all(&vec![b' '; 1 << 20]).unwrap();
    }
    check(&server, &bomb.finish().unwrap(), &gzip, 413, "unpacks to more than");
}
