//! Remote write and remote read between the real binary, Debian's Prometheus and a client of the test's own.

mod support;

use serde_json::Value;
use series::STALE_NAN;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use support::protobuf::{bytes, number, varint};
use support::{
    FakeTarget, PATIENCE, Prometheus, Ringscrape, config, encode, job, ok, request, request_with_body, until,
};

const SIGKILL: i32 = 9;
const RECEIVER: &str = "--web.enable-remote-write-receiver";
const SNAPPY: (&str, &str) = ("Content-Encoding", "snappy");

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

// --- protobuf, by hand ----------------------------------------------------------------------------------------------

fn sample(at: i64, value: f64) -> Vec<u8> {
    let mut out = vec![9];
    out.extend_from_slice(&value.to_le_bytes());
    number(2, at as u64, &mut out);
    out
}

type Series<'a> = (&'a [(&'a str, &'a str)], &'a [(i64, f64)]);

/// `prometheus.WriteRequest`.
fn v1(series: &[Series]) -> Vec<u8> {
    let mut out = Vec::new();
    for (labels, samples) in series {
        let mut message = Vec::new();
        for (name, value) in *labels {
            let mut label = Vec::new();
            bytes(1, name.as_bytes(), &mut label);
            bytes(2, value.as_bytes(), &mut label);
            bytes(1, &label, &mut message);
        }
        samples.iter().for_each(|(at, value)| bytes(2, &sample(*at, *value), &mut message));
        bytes(1, &message, &mut out);
    }
    out
}

/// `io.prometheus.write.v2.Request`.
fn v2(series: &[Series]) -> Vec<u8> {
    let mut symbols = vec![""];
    let mut out = Vec::new();
    for (labels, samples) in series {
        let (mut message, mut references) = (Vec::new(), Vec::new());
        for text in labels.iter().flat_map(|(name, value)| [*name, *value]) {
            let known = symbols.iter().position(|symbol| *symbol == text).unwrap_or_else(|| {
                symbols.push(text);
                symbols.len() - 1
            });
            varint(known as u64, &mut references);
        }
        bytes(1, &references, &mut message);
        samples.iter().for_each(|(at, value)| bytes(2, &sample(*at, *value), &mut message));
        bytes(5, &message, &mut out);
    }
    symbols.iter().for_each(|symbol| bytes(4, symbol.as_bytes(), &mut out));
    out
}

fn pack(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).unwrap()
}

const V1: &str = "application/x-protobuf";
const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

fn write(address: SocketAddr, kind: &str, message: &[u8]) -> support::Response {
    request_with_body(address, "POST", "/api/v1/write", &[SNAPPY, ("Content-Type", kind)], &pack(message))
}

/// Samples by series: milliseconds and value.
type Samples = BTreeMap<String, BTreeMap<i64, String>>;

fn samples(address: SocketAddr, query: &str) -> Samples {
    let answer = request(address, "GET", &format!("/api/v1/query?query={}", encode(query)), &[]);
    let json: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body));
    let mut samples = Samples::new();
    for series in json["data"]["result"].as_array().unwrap_or_else(|| panic!("{json}")) {
        let of_series = samples.entry(series["metric"].to_string()).or_default();
        for point in series["values"].as_array().into_iter().flatten() {
            let at = (point[0].as_f64().unwrap() * 1000.0).round() as i64;
            of_series.insert(at, point[1].as_str().unwrap().to_owned());
        }
    }
    samples
}

fn count(samples: &Samples) -> usize {
    samples.values().map(BTreeMap::len).sum()
}

/// A target whose series change and come and go.
fn busy() -> FakeTarget {
    let scrapes = Arc::new(AtomicU64::new(0));
    FakeTarget::start(move |_| {
        let value = scrapes.fetch_add(1, Ordering::Relaxed);
        let series = |i: u64| format!("part{{i=\"{i}\"}} {}\n", value * i);
        let alive = |i: &u64| !(value + i).is_multiple_of(5);
        let rest: String = (0..90).filter(alive).map(series).collect();
        ok(&format!("scrapes_total {value}\nnot_a_number NaN\n{rest}"))
    })
}

// --- write ----------------------------------------------------------------------------------------------------------

#[test]
fn prometheus_writes_to_us_and_both_answer_the_same() {
    let ours = Ringscrape::start("scrape_configs: []\n", &[RECEIVER, "--shards=2"]);
    let (one, two) = (busy(), busy());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    let remote = format!(
        "remote_write:\n  - url: http://{}/api/v1/write\n    queue_config: {{batch_send_deadline: 200ms, \
         max_samples_per_send: 37, max_shards: 3, min_shards: 2}}\n",
        ours.address
    );
    let jobs = config(&[job("busy", &[one.address, two.address], "scrape_timeout: 200ms")]);
    std::fs::write(&file, format!("{jobs}{remote}")).unwrap();
    let theirs = Prometheus::start(&file, &folder.path().join("data"), &[]);
    until("some scrapes", || (count(&samples(theirs.address, "scrapes_total[1h]")) > 40).then_some(()));
    // Stopped targets: from now on nothing but failed scrapes comes, with markers.
    [one, two].iter().for_each(|target| target.now(|_| b"HTTP/1.1 500 Gone\r\nContent-Length: 0\r\n\r\n".to_vec()));
    let all = "{__name__=~\"part|scrapes_total|not_a_number\"}[1h]";
    let want = until("the last sample of every series is there", || {
        let (got, want) = (samples(ours.address, all), samples(theirs.address, all));
        (got == want && count(&want) > 1500).then_some(want)
    });
    assert_eq!(want.len(), 2 * 92);
    for query in ["count({job=\"busy\", __name__!~\"up|scrape_.*\"})", "scrapes_total"] {
        // The markers end every series.
        until(query, || samples(theirs.address, query).is_empty().then_some(()));
        until(query, || samples(ours.address, query).is_empty().then_some(()));
    }
    let last = want.values().flat_map(|samples| samples.keys()).max().unwrap();
    let time = (last - 1500) as f64 / 1000.0;
    for query in
        ["max by (instance) (rate(part[2s]))", "topk(3, part)", "count by (job) (part)", "max_over_time(part[3s])"]
    {
        let path = format!("/api/v1/query?query={}&time={time}", encode(query));
        let result = |address: SocketAddr| {
            let json: Value = serde_json::from_str(&request(address, "GET", &path, &[]).body).unwrap();
            let of = |series: &Value| (series["metric"].to_string(), series["value"].to_string());
            let result = json["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {json}"));
            result.iter().map(of).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(result(ours.address), result(theirs.address), "{query}");
    }
}

#[test]
fn answers_follow_the_specification() {
    let mut ours = Ringscrape::start("scrape_configs: []\n", &[]);
    let at = now();
    let name = [("__name__", "m"), ("job", "j")];
    assert_eq!(write(ours.address, V1, &v1(&[(&name, &[(at, 1.0)])])).status, 404);
    ours.restart(SIGKILL, &[RECEIVER]);
    let check = |kind: &str, message: &[u8], status: u16, text: &str, written: u64| {
        let answer = write(ours.address, kind, message);
        assert_eq!((answer.status, answer.body.trim_end()), (status, text), "{kind}");
        let head = answer.head.to_ascii_lowercase();
        assert!(head.contains(&format!("x-prometheus-remote-write-samples-written: {written}\r\n")), "{head}");
    };
    check(V1, b"", 204, "", 0);
    check(V1, &v1(&[(&name, &[(at, 1.0), (at + 1, 2.0)])]), 204, "", 2);
    check(V2, &v2(&[(&name, &[(at + 2, 3.0)])]), 204, "", 1);
    let m = r#"{__name__="m", job="j"}"#;
    check(V2, &v2(&[(&name, &[(at + 1, 9.0), (at + 3, 4.0)])]), 400, &format!("out of order sample for series {m}"), 1);
    let same_time = format!("duplicate sample for timestamp for series {m}");
    check(V1, &v1(&[(&name, &[(at + 3, 9.0)])]), 400, &same_time, 0);
    check(V1, &v1(&[(&name, &[(at + 3, 4.0)])]), 204, "", 1);
    check(V1, &v1(&[(&name, &[(at + 3_600_000, 1.0)])]), 400, &format!("out of bounds for series {m}"), 0);
    check(
        V1,
        &v1(&[(&[("job", "j")], &[(at, 1.0)]), (&name, &[(at + 4, 5.0)])]),
        400,
        r#"invalid metric name or labels, got {job="j"}"#,
        1,
    );
    let values: Vec<String> = samples(ours.address, "m[1h]").into_values().flatten().map(|(_, value)| value).collect();
    assert_eq!(values, ["1", "2", "3", "4", "5"]);

    let send = |headers: &[(&str, &str)], body: &[u8]| {
        let answer = request_with_body(ours.address, "POST", "/api/v1/write", headers, body);
        (answer.status, answer.body)
    };
    for (headers, status, text) in [
        (&[("Content-Type", "text/plain")][..], 415, "expected application/x-protobuf"),
        (&[("Content-Type", "application/x-protobuf;proto=x.Y")], 415, "unknown type for remote write protobuf"),
        (&[("Content-Type", "application/x-protobuf;x")], 415, "expected parameters to be key-values"),
        (&[("Content-Encoding", "gzip")], 415, "only snappy and zstd are acceptable"),
        (&[], 400, "snappy: "),
    ] {
        let (got, body) = send(headers, b"\xff\xff\xff\xff\xff\xff nonsense");
        assert!(got == status && body.contains(text), "{headers:?}: {got} {body}");
    }
    // As VictoriaMetrics' agents send it, and as older ones ask for it.
    let zstd = remote::pack_zstd(&v1(&[(&name, &[(at + 5, 6.0)])]), 1);
    assert_eq!(send(&[("Content-Encoding", "zstd")], &zstd).0, 204);
    assert_eq!(send(&[("Content-Encoding", "zstd")], &pack(b"snappy")).0, 400);
    let version = request(ours.address, "GET", "/api/v1/write?get_vm_proto_version=1", &[]);
    assert_eq!((version.status, &*version.body), (200, "1"));
    // A length that lies: nothing is made for it.
    let (status, body) = send(&[], b"\xff\xff\xff\xff\x0fx");
    assert!(status == 413 && body.contains("more than 67108864 are not taken"), "{status} {body}");
    assert_eq!(request(ours.address, "GET", "/api/v1/write", &[]).status, 405);
}

/// Exemplars come with samples or, as Prometheus sends them, as series of their own.
#[test]
fn exemplars_that_are_written_to_us_are_found() {
    let ours = Ringscrape::start("scrape_configs: []\n", &[RECEIVER, "--enable-feature=exemplar-storage"]);
    let at = now();
    let exemplar = |labels: &dyn Fn(&mut Vec<u8>), value: f64, at: i64| {
        let mut out = Vec::new();
        labels(&mut out);
        out.push(17);
        out.extend_from_slice(&value.to_le_bytes());
        number(3, at as u64, &mut out);
        out
    };
    let label = |name: &str, value: &str, out: &mut Vec<u8>| {
        let mut label = Vec::new();
        bytes(1, name.as_bytes(), &mut label);
        bytes(2, value.as_bytes(), &mut label);
        bytes(1, &label, out);
    };
    let mut series = Vec::new();
    label("__name__", "m_total", &mut series);
    bytes(3, &exemplar(&|out| label("trace_id", "one", out), 0.5, at - 1000), &mut series);
    bytes(3, &exemplar(&|out| label("trace_id", "early", out), 0.5, at + 3_600_000), &mut series);
    let mut message = v1(&[(&[("__name__", "m_total")], &[(at, 1.0)])]);
    bytes(1, &series, &mut message);
    let answer = write(ours.address, V1, &message);
    let written = |count: u32| format!("x-prometheus-remote-write-exemplars-written: {count}\r\n");
    assert!(answer.status == 204 && answer.head.to_ascii_lowercase().contains(&written(1)), "{}", answer.head);
    let mut series = Vec::new();
    bytes(1, &[1, 2], &mut series);
    bytes(4, &exemplar(&|out| bytes(1, &[3, 4], out), 0.7, at - 500), &mut series);
    bytes(4, &exemplar(&|out| bytes(1, &[3, 4], out), 0.7, at - 2000), &mut series);
    let mut message = Vec::new();
    bytes(5, &series, &mut message);
    ["", "__name__", "m_total", "trace_id", "two"].iter().for_each(|symbol| bytes(4, symbol.as_bytes(), &mut message));
    let answer = write(ours.address, V2, &message);
    assert!(answer.status == 204 && answer.head.to_ascii_lowercase().contains(&written(1)), "{}", answer.head);
    let found = ours.api("/api/v1/query_exemplars?query=m_total");
    let traces: Vec<&str> = found[0]["exemplars"]
        .as_array()
        .unwrap()
        .iter()
        .map(|exemplar| exemplar["labels"]["trace_id"].as_str().unwrap())
        .collect();
    assert_eq!(traces, ["one", "two"], "{found}");
}

#[test]
fn late_samples_are_taken_within_the_window() {
    let yaml = "storage: {tsdb: {out_of_order_time_window: 30m}}\nscrape_configs: []\n";
    let ours = Ringscrape::start(yaml, &[RECEIVER]);
    let at = now();
    let name = [("__name__", "m")];
    assert_eq!(write(ours.address, V1, &v1(&[(&name, &[(at, 1.0)])])).status, 204);
    assert_eq!(write(ours.address, V1, &v1(&[(&name, &[(at - 60_000, 2.0), (at - 90_000, 3.0)])])).status, 204);
    let answer = write(ours.address, V1, &v1(&[(&name, &[(at - 1_900_000, 4.0)])]));
    assert_eq!((answer.status, answer.body.trim()), (400, r#"too old sample for series {__name__="m"}"#));
    let values: Vec<String> = samples(ours.address, "m[1h]").into_values().flatten().map(|(_, value)| value).collect();
    assert_eq!(values, ["3", "2", "1"]);
}

/// A body of 16 MiB: each of its samples cost a row over 2,048 slots and a look at all closed segments, and the writer got
/// 503 after ten seconds.
#[test]
fn a_million_samples_of_one_series_among_many_are_taken() {
    let ours = Ringscrape::start("scrape_configs: []\n", &[RECEIVER]);
    let at = now();
    let numbers: Vec<String> = (0..2048).map(|i| i.to_string()).collect();
    let labels: Vec<[(&str, &str); 2]> = numbers.iter().map(|i| [("__name__", "big"), ("i", i.as_str())]).collect();
    let long: Vec<(i64, f64)> = (0..1_000_000).map(|i| (at - 1_000_000 + i, i as f64)).collect();
    let short = [(at, 1.0)];
    let samples_of = |i: usize| if i == 0 { &long[..] } else { &short[..] };
    let series: Vec<Series> = labels.iter().enumerate().map(|(i, labels)| (&labels[..], samples_of(i))).collect();
    let answer = write(ours.address, V1, &v1(&series));
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    let counted = |query: &str| samples_now(ours.address, query).into_values().collect::<Vec<_>>();
    assert_eq!(counted("sum(count_over_time(big[1h]))"), ["1002047"]);
    assert_eq!(counted("count(big)"), ["2048"]);
}

/// They are read in shares by the values of a label: with more values than one matcher takes, nothing was found.
#[test]
fn selects_of_very_many_pushed_series_are_whole() {
    let ours = Ringscrape::start("scrape_configs: []\n", &[RECEIVER]);
    let (at, count) = (now(), 130_000);
    let numbers: Vec<String> = (0..count).map(|i| i.to_string()).collect();
    let samples = [(at, 1.0)];
    for numbers in numbers.chunks(10_000) {
        let labels: Vec<_> = numbers.iter().map(|i| [("__name__", "many"), ("k", i.as_str())]).collect();
        let series: Vec<Series> = labels.iter().map(|labels| (&labels[..], &samples[..])).collect();
        assert_eq!(write(ours.address, V1, &v1(&series)).status, 204);
    }
    let value = |query: &str| samples_now(ours.address, query).into_values().collect::<Vec<_>>();
    for query in ["count(many)", "count(abs(many))", "count(many + 0)", "count(max_over_time(many[5m]) > 0)"] {
        assert_eq!(value(query), ["130000"], "{query}");
    }
    assert!(value("absent(many)").is_empty());
}

/// Late samples lie in the order in which they came.
#[test]
fn the_newest_of_late_samples_counts_in_whatever_order_they_came() {
    let yaml = "storage: {tsdb: {out_of_order_time_window: 30m}}\nscrape_configs: []\n";
    let ours = Ringscrape::start(yaml, &[RECEIVER]);
    let at = now();
    for (back, value) in [(100_000, 1.0), (10_000, 2.0), (50_000, 5.0), (70_000, 6.0)] {
        let name = [("__name__", "m")];
        assert_eq!(write(ours.address, V1, &v1(&[(&name, &[(at - back, value)])])).status, 204);
    }
    let time = |back: i64| (at - back) as f64 / 1000.0;
    for (back, want) in [(9_000, "2"), (45_000, "5"), (60_000, "6"), (90_000, "1")] {
        for query in ["m", "sum(m)", "m offset 1s", "abs(m)", "last_over_time(m[1m])"] {
            let path = format!("/api/v1/query?query={}&time={}", encode(query), time(back));
            let answer = request(ours.address, "GET", &path, &[]).body;
            assert!(answer.contains(&format!(",\"{want}\"]")), "{query} {back} before: {answer}");
        }
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let mut ours = Ringscrape::start("scrape_configs: []\n", &[RECEIVER, "--shards=2"]);
    let mut ledger = 0;
    let begin = now() - 600_000;
    for round in 0..12i64 {
        let mut acknowledged = 0;
        for request in 0..1 + round % 3 {
            let at = begin + round * 10_000 + request * 100;
            let series: Vec<String> = (0..40).map(|i| i.to_string()).collect();
            let labels: Vec<_> = series.iter().map(|i| [("__name__", "kept"), ("instance", i), ("job", "j")]).collect();
            let points = [(at, round as f64), (at + 1, 0.5)];
            let body: Vec<Series> = labels.iter().map(|labels| (&labels[..], &points[..])).collect();
            assert_eq!(
                write(
                    ours.address,
                    if round % 2 == 0 { V1 } else { V2 },
                    &if round % 2 == 0 { v1(&body) } else { v2(&body) }
                )
                .status,
                204
            );
            acknowledged += 80;
        }
        ours.restart(SIGKILL, &[RECEIVER, if round % 4 == 0 { "--shards=1" } else { "--shards=2" }]);
        ledger += acknowledged;
        ours.until_ready();
        assert_eq!(count(&samples(ours.address, "kept[1h]")), ledger, "round {round}");
    }
}

/// Thousands of bodies that no client would send: an answer each time, and the server goes on.
#[test]
fn mutated_bodies_are_answered() {
    let ours = Ringscrape::start("scrape_configs: []\n", &[RECEIVER]);
    let at = now();
    let labels = [("__name__", "m"), ("job", "j"), ("x", "1")];
    let good = [(V1, v1(&[(&labels, &[(at, 1.0), (at + 1, STALE_NAN)])])), (V2, v2(&[(&labels, &[(at, 1.0)])]))];
    let mut state = 21u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for round in 0..3000 {
        let (kind, message) = &good[round % 2];
        let mut body = message.clone();
        // Below the compression, or above it.
        let above = next(3) == 0;
        if above {
            body = pack(&body);
        }
        for _ in 0..1 + next(4) {
            let place = next(body.len());
            match next(4) {
                0 => body[place] = next(256) as u8,
                1 => body[place] ^= 1 << next(8),
                2 => body.truncate(place.max(1)),
                _ => body.insert(place, 0xff),
            }
        }
        let body = if above { body } else { pack(&body) };
        let path = if next(4) == 0 { "/api/v1/read" } else { "/api/v1/write" };
        let answer = request_with_body(ours.address, "POST", path, &[SNAPPY, ("Content-Type", kind)], &body);
        *statuses.entry(answer.status).or_default() += 1;
    }
    assert!(statuses.keys().all(|status| [200, 204, 400, 413].contains(status)), "{statuses:?}");
    assert_eq!(write(ours.address, V1, &v1(&[(&[("__name__", "last")], &[(at, 7.0)])])).status, 204);
    assert_eq!(count(&samples(ours.address, "last[1h]")), 1);
}

// --- read -----------------------------------------------------------------------------------------------------------

/// Status, head and body of a read request.
fn read(address: SocketAddr, message: &[u8]) -> (u16, String, Vec<u8>) {
    let body = pack(message);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /api/v1/read HTTP/1.0\r\nHost: {address}\r\nContent-Encoding: snappy\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, answer[end + 4..].to_vec())
}

/// A request with one query for `name` between two times.
fn question(name: &str, from: i64, to: i64, kinds: &[u8]) -> Vec<u8> {
    let (mut matcher, mut query, mut out) = (Vec::new(), Vec::new(), Vec::new());
    bytes(2, b"__name__", &mut matcher);
    bytes(3, name.as_bytes(), &mut matcher);
    number(1, from as u64, &mut query);
    number(2, to as u64, &mut query);
    bytes(3, &matcher, &mut query);
    bytes(1, &query, &mut out);
    bytes(2, kinds, &mut out);
    out
}

#[test]
fn prometheus_reads_from_us_and_answers_the_same() {
    let target = busy();
    let external = "global: {external_labels: {region: eu}}\n";
    let yaml = format!("{external}{}", config(&[job("busy", &[target.address], "scrape_timeout: 200ms")]));
    let ours = Ringscrape::start(&yaml, &["--shards=2", "--storage.remote.read-max-bytes-in-frame=500"]);
    until("some scrapes", || (count(&samples(ours.address, "scrapes_total[1h]")) > 30).then_some(()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    let remote = format!("remote_read: [{{url: 'http://{}/api/v1/read', read_recent: true}}]\n", ours.address);
    std::fs::write(&file, format!("{external}{remote}scrape_configs: []\n")).unwrap();
    let theirs = Prometheus::start(&file, &folder.path().join("data"), &[]);
    let time = now() as f64 / 1000.0 - 1.0;
    for query in ["{job=\"busy\"}[1m]", "scrapes_total{region=\"eu\"}[20s]", "part{i=~\"1.*\"}[3s]", "nothing[1m]"] {
        let query = query.replace("{region=\"eu\"}", "");
        let path = format!("/api/v1/query?query={}&time={time}", encode(&query));
        let result = |address: SocketAddr| {
            let json: Value = serde_json::from_str(&request(address, "GET", &path, &[]).body).unwrap();
            let of = |series: &Value| (series["metric"].to_string(), series["values"].to_string());
            let result = json["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {json}"));
            result.iter().map(of).collect::<BTreeMap<_, _>>()
        };
        let want = result(ours.address);
        assert_eq!(want.is_empty(), query.starts_with("nothing"), "{query}");
        assert_eq!(result(theirs.address), want, "{query}");
    }
    for query in ["sum(rate(part[2s]) + 0)", "count(part)", "quantile(0.5, part)", "absent(nothing)"] {
        let path = format!("/api/v1/query?query={}&time={time}", encode(query));
        let result = |address: SocketAddr| {
            let json: Value = serde_json::from_str(&request(address, "GET", &path, &[]).body).unwrap();
            let value = json["data"]["result"][0]["value"][1].as_str();
            value.unwrap_or_else(|| panic!("{address}: {query}: {json}")).parse::<f64>().unwrap()
        };
        let (got, want) = (result(theirs.address), result(ours.address));
        assert!((got - want).abs() <= want.abs() * 1e-12, "{query}: {got} {want}");
    }
}

#[test]
fn reads_are_samples_or_frames_within_limits() {
    let ours = Ringscrape::start(
        "global: {external_labels: {region: eu}}\nscrape_configs: []\n",
        &[RECEIVER, "--storage.remote.read-sample-limit=500"],
    );
    let at = now() - 500_000;
    let points: Vec<(i64, f64)> = (0..400).map(|i| (at + i * 1000, i as f64)).collect();
    for name in ["a", "b"] {
        assert_eq!(write(ours.address, V1, &v1(&[(&[("__name__", name)], &points)])).status, 204);
    }
    let (status, head, body) = read(ours.address, &question("a", at + 1000, at + 2000, &[0]));
    assert_eq!(status, 200);
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("content-type: application/x-protobuf") && head.contains("content-encoding: snappy"),
        "{head}"
    );
    let body = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
    let mut series = Vec::new();
    for (name, value) in [("__name__", "a"), ("region", "eu")] {
        let mut label = Vec::new();
        bytes(1, name.as_bytes(), &mut label);
        bytes(2, value.as_bytes(), &mut label);
        bytes(1, &label, &mut series);
    }
    bytes(2, &sample(at + 1000, 1.0), &mut series);
    bytes(2, &sample(at + 2000, 2.0), &mut series);
    let (mut result, mut want) = (Vec::new(), Vec::new());
    bytes(1, &series, &mut result);
    bytes(1, &result, &mut want);
    assert_eq!(body, want);

    let both = [question("a", at, now(), &[0]), question("b", at, now(), &[])].concat();
    let (status, _, body) = read(ours.address, &both);
    assert_eq!((status, &*String::from_utf8_lossy(&body)), (400, "exceeded sample limit (500)\n"));
    let (status, head, frames) = read(ours.address, &[both, vec![0x12, 1, 1]].concat());
    // The first accepted type decides; ask for frames first.
    assert_eq!(status, 400, "{head} {}", frames.len());
    let streamed = [question("a", at, now(), &[1, 0]), question("b", at, now(), &[])].concat();
    let (status, head, frames) = read(ours.address, &streamed);
    assert_eq!(status, 200);
    assert!(head.contains("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"), "{head}");
    let (mut rest, mut count) = (&frames[..], 0);
    while !rest.is_empty() {
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = rest[0];
            rest = &rest[1..];
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        let sum = u32::from_be_bytes(rest[..4].try_into().unwrap());
        assert_eq!(crc32c::crc32c(&rest[4..4 + length]), sum);
        rest = &rest[4 + length..];
        count += 1;
    }
    assert_eq!(count, 2, "a frame for each series");
    let (status, _, body) = read(ours.address, &question("a", 0, 1, &[9]));
    assert!(status == 400 && String::from_utf8_lossy(&body).contains("response types"), "{status}");
}

/// Instant answers of series that are pushed: aggregated where they are, or as they are, they are the same.
#[test]
fn newest_samples_of_pushed_series_are_aggregated_as_they_are_selected() {
    let ours = Ringscrape::start("scrape_configs: []\n", &[RECEIVER, "--shards=2"]);
    let at = now() - 10_000;
    let ids: Vec<String> = (0..200).map(|i| i.to_string()).collect();
    let jobs = ["a", "b", "c"];
    let of = |i: usize| [("__name__", "m"), ("i", &*ids[i]), ("job", jobs[i % 3])];
    let labels: Vec<_> = (0..ids.len()).map(of).collect();
    let push = |series: &[(usize, Vec<(i64, f64)>)]| {
        let body: Vec<Series> = series.iter().map(|(i, samples)| (&labels[*i][..], &samples[..])).collect();
        assert_eq!(write(ours.address, V1, &v1(&body)).status, 204);
    };
    let check = |want: &BTreeMap<usize, f64>| {
        let ask = |query: &str| {
            let found = samples_now(ours.address, query);
            found.into_iter().map(|(labels, value)| (labels, value.parse::<f64>().unwrap())).collect::<Vec<_>>()
        };
        let selected = ask("m");
        assert_eq!(selected.len(), want.len());
        for (i, value) in want {
            let metric = format!(r#"{{"__name__":"m","i":"{i}","job":"{}"}}"#, jobs[i % 3]);
            assert!(selected.contains(&(metric.clone(), *value)), "{metric} {value}: {selected:?}");
        }
        let sum = want.values().sum::<f64>();
        assert_eq!(ask("sum(m)"), [("{}".to_owned(), sum)]);
        assert_eq!(ask("count(m)"), [("{}".to_owned(), want.len() as f64)]);
        assert_eq!(ask("min(m)")[0].1, want.values().copied().fold(f64::INFINITY, f64::min));
        for (job, (_, found)) in ask("sum by (job) (m)").into_iter().enumerate() {
            let of_job = want.iter().filter(|(i, _)| *i % 3 == job).map(|(_, value)| value).sum::<f64>();
            assert_eq!(found, of_job, "{job}");
        }
        assert_eq!(ask("count by (i) (m)").len(), want.len());
        let federated = request(ours.address, "GET", "/federate?match[]=m", &[]).body;
        assert_eq!(federated.lines().filter(|line| line.starts_with("m{")).count(), want.len(), "{federated}");
    };
    let mut want: BTreeMap<usize, f64> = (0..ids.len()).map(|i| (i, i as f64)).collect();
    push(&(0..ids.len()).map(|i| (i, vec![(at, i as f64)])).collect::<Vec<_>>());
    check(&want);
    // So many samples at once get a head of their own; the older one keeps what the series had before.
    for i in [5, 6] {
        let many: Vec<(i64, f64)> = (1..=1100).map(|step| (at + step, (step * 2) as f64)).collect();
        push(&[(i, many)]);
        want.insert(i, 2200.0);
    }
    check(&want);
    push(&[(5, vec![(at + 2000, STALE_NAN)]), (9, vec![(at + 2000, STALE_NAN)])]);
    want.remove(&5);
    want.remove(&9);
    check(&want);
    push(&[(6, vec![(at + 3000, 7.0)]), (10, vec![(at + 3000, 8.0)])]);
    want.extend([(6, 7.0), (10, 8.0)]);
    check(&want);
}

/// Values now, by series.
fn samples_now(address: SocketAddr, query: &str) -> BTreeMap<String, String> {
    let answer = request(address, "GET", &format!("/api/v1/query?query={}", encode(query)), &[]);
    let json: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body));
    let series = json["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {json}"));
    series.iter().map(|one| (one["metric"].to_string(), one["value"][1].as_str().unwrap().to_owned())).collect()
}
