//! Start times of series: with `--enable-feature=created-timestamp-zero-ingestion` a zero where a series began, with `st-storage` kept
//! beside the samples and sent on.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use support::protobuf::{PAYLOAD_TYPE, bytes, double, number, varint};
use support::receiver::{Receiver, Reply};
use support::{FakeTarget, Ringscrape, config, encode, job, ok_openmetrics, request_with_body, until};

const FEATURE: &str = "--enable-feature=created-timestamp-zero-ingestion";
const STORAGE: &str = "--enable-feature=st-storage";
const V2: &str = "    protobuf_message: io.prometheus.write.v2.Request\n    send_native_histograms: true\n";
const SIGKILL: i32 = 9;

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

fn response(kind: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{kind}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Times of the zeros of a series in the last hour.
fn zeros(server: &Ringscrape, selector: &str) -> Vec<i64> {
    let found = server.api(&format!("/api/v1/query?query={}", encode(&format!("{selector}[1h]"))));
    let series = found["result"].as_array().unwrap();
    assert!(series.len() <= 1, "{found}");
    let samples = series.iter().flat_map(|one| one["values"].as_array().unwrap());
    let zeros = samples.filter(|sample| sample[1] == "0");
    zeros.map(|sample| (sample[0].as_f64().unwrap() * 1000.0).round() as i64).collect()
}

#[test]
fn zeros_stand_where_counters_began_and_began_again() {
    let (began, target) = (Arc::new(AtomicI64::new(now_ms() - 60_000)), FakeTarget::saying(""));
    let start = began.clone();
    target.now(move |_| {
        let at = start.load(Ordering::Relaxed) as f64 / 1000.0;
        let old = at - 7200.0;
        ok_openmetrics(&format!(
            "# TYPE a counter\na_total{{x=\"1\"}} 5\na_created{{x=\"1\"}} {at:.3}\n# TYPE b counter\nb_total 5\nb_created {old:.3}\n\
             # TYPE h histogram\nh_bucket{{le=\"1\"}} 2\nh_bucket{{le=\"+Inf\"}} 3\nh_count 3\nh_sum 4\nh_created {at:.3}\n\
             # TYPE d gauge\nd_created 7\n# EOF\n"
        ))
    });
    let receiver = Receiver::start(Reply::stored);
    let yaml = format!("{}remote_write:\n{}", config(&[job("j", &[target.address], "")]), receiver.section(""));
    let mut server = Ringscrape::start(&yaml, &[FEATURE]);
    until("samples", || server.value("a_total"));
    let heads = target.requests.lock().unwrap().clone();
    assert!(heads[0].1.contains("Accept: application/vnd.google.protobuf;proto="), "protobuf is asked for first");
    let first = began.load(Ordering::Relaxed);
    until("zeros", || (zeros(&server, "a_total") == [first]).then_some(()));
    for series in ["h_count", "h_sum", "h_bucket{le=\"1.0\"}", "h_bucket{le=\"+Inf\"}"] {
        assert_eq!(zeros(&server, series), [first], "{series}");
    }
    assert_eq!(zeros(&server, "b_total"), Vec::<i64>::new(), "it began too long ago");
    assert_eq!(server.value("d_created"), Some(7.0), "a series of its own");
    assert_eq!(server.value("a_created"), None);
    assert_eq!(server.value("scrape_samples_scraped"), Some(7.0));
    assert_eq!(server.value("scrape_samples_post_metric_relabeling"), Some(7.0));
    // It has counted to five since it began.
    let increase = server.api(&format!("/api/v1/query?query={}", encode("sum(increase(a_total[10m])) > 4.9")));
    assert_eq!(increase["result"].as_array().unwrap().len(), 1, "{increase}");
    until("samples are sent", || (receiver.of("__name__=\"a_total\"").len() > 2).then_some(()));
    let samples = receiver.of("__name__=\"a_total\"");
    assert_eq!(samples.first_key_value(), Some((&first, &0)), "the zero is sent, before the others");
    receiver.with(|stored| assert_eq!(stored.out_of_order, 0));
    // A restart of the target.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let second = now_ms();
    began.store(second, Ordering::Relaxed);
    until("another zero", || (zeros(&server, "a_total") == [first, second]).then_some(()));
    // A restart of the server invents nothing, and what there was is read from chunks.
    server.restart(SIGKILL, &[FEATURE]);
    until("samples", || server.value("a_total"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(zeros(&server, "a_total"), [first, second]);
    assert!(server.log().lines().all(|line| !line.contains("level=ERROR")), "{}", server.log());
}

#[test]
fn without_the_feature_created_lines_are_series() {
    let target = FakeTarget::start(|_| ok_openmetrics("# TYPE a counter\na_total 5\na_created 7\n# EOF\n"));
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    until("samples", || server.value("a_created").filter(|value| *value == 7.0));
    assert_eq!(zeros(&server, "a_total"), Vec::<i64>::new());
}

fn message(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn family(name: &str, kind: u64, field: u64, value: &[u8], body: &mut Vec<u8>) {
    let family = message(|out| {
        bytes(1, name.as_bytes(), out);
        number(3, kind, out);
        bytes(4, &message(|out| bytes(field, value, out)), out);
    });
    varint(family.len() as u64, body);
    body.extend(family);
}

/// A counter and a native histogram of protobuf that began at this time.
fn counter_and_histogram(start_ms: i64) -> (Vec<u8>, Vec<u8>) {
    let start = message(|out| {
        number(1, start_ms as u64 / 1000, out);
        number(2, start_ms as u64 % 1000 * 1_000_000, out);
    });
    let counter = message(|out| {
        double(1, 5.0, out);
        bytes(3, &start, out);
    });
    let histogram = message(|out| {
        number(1, 1, out);
        double(2, 1.5, out);
        number(7, 1, out);
        bytes(15, &start, out);
    });
    (counter, histogram)
}

/// In protobuf native histograms have start times, too.
#[test]
fn start_times_of_protobuf_are_read() {
    let start_ms = now_ms() - 60_000;
    let target = FakeTarget::start(move |_| {
        let (counter, histogram) = counter_and_histogram(start_ms);
        let mut body = Vec::new();
        family("c_total", 0, 3, &counter, &mut body);
        family("h", 4, 7, &histogram, &mut body);
        response(PAYLOAD_TYPE, &body)
    });
    let server =
        Ringscrape::start(&config(&[job("j", &[target.address], "scrape_native_histograms: true")]), &[FEATURE]);
    until("samples", || server.value("c_total"));
    until("zeros", || (zeros(&server, "c_total") == [start_ms]).then_some(()));
    let found = server.api(&format!("/api/v1/query?query={}", encode("h[1h]")));
    let first = &found["result"][0]["histograms"][0];
    assert_eq!(
        ((first[0].as_f64().unwrap() * 1000.0).round() as i64, &first[1]["count"]),
        (start_ms, &serde_json::json!("0"))
    );
    assert_eq!(server.value("scrape_samples_scraped"), Some(2.0));
}

/// Remote write 2.0 and OTLP say start times, too.
#[test]
fn start_times_that_are_written_to_us_become_zeros() {
    let flags = [FEATURE, "--web.enable-remote-write-receiver", "--web.enable-otlp-receiver"];
    let server = Ringscrape::start("", &flags);
    let (now, start) = (now_ms(), now_ms() - 60_000);
    let sample = |at: i64, start: i64| {
        message(|out| {
            varint(1 << 3 | 1, out);
            out.extend_from_slice(&7.0f64.to_le_bytes());
            number(2, at as u64, out);
            number(3, start as u64, out);
        })
    };
    let send = |at: i64, start: i64| {
        let series = message(|out| {
            bytes(1, &[1, 2], out);
            bytes(2, &sample(at, start), out);
        });
        let body = message(|out| {
            ["", "__name__", "m_total"].iter().for_each(|symbol| bytes(4, symbol.as_bytes(), out));
            bytes(5, &series, out);
        });
        let headers = [("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")];
        let answer = request_with_body(server.address, "POST", "/api/v1/write", &headers, &remote::pack(&body));
        assert_eq!(answer.status, 204, "{}", answer.body);
        assert!(answer.head.to_ascii_lowercase().contains("samples-written: 1\r\n"), "{}", answer.head);
    };
    send(now - 2000, start);
    send(now - 1000, start);
    assert_eq!(zeros(&server, "m_total"), [start], "once");
    send(now, now - 500);
    assert_eq!(zeros(&server, "m_total"), [start, now - 500], "it began again");
    let point = serde_json::json!({"timeUnixNano": (now * 1_000_000).to_string(), "startTimeUnixNano": (start * 1_000_000).to_string(),
        "asDouble": 5});
    let sum = serde_json::json!({"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [point]});
    let metrics = serde_json::json!([{"name": "s", "sum": sum}, {"name": "g", "gauge": {"dataPoints": [point]}}]);
    let body = serde_json::json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}).to_string();
    let headers = [("Content-Type", "application/json")];
    let answer = request_with_body(server.address, "POST", "/api/v1/otlp/v1/metrics", &headers, body.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!((zeros(&server, "s_total"), zeros(&server, "g")), (vec![start], vec![]));
}

/// Samples of a series that were stored by a receiver, by time, with their start times.
fn starts_sent(receiver: &Receiver, part: &str) -> BTreeMap<i64, i64> {
    receiver.with(|stored| {
        let all = stored.calls.iter().flat_map(|call| &call.series);
        let of = all.filter(|series| series.labels.to_string().contains(part));
        let times = of.flat_map(|one| {
            let floats = one.samples.iter().map(|sample| sample.timestamp.0);
            let times = floats.chain(one.histograms.iter().map(|(at, _)| *at));
            times.map(|at| (at, series::start_of(&one.starts, at))).collect::<Vec<_>>()
        });
        times.collect()
    })
}

#[test]
fn start_times_are_kept_and_sent_through_restarts_of_both_sides() {
    let (began, target) = (Arc::new(AtomicI64::new(now_ms() - 60_000)), FakeTarget::saying(""));
    let start = began.clone();
    target.now(move |_| {
        let at = start.load(Ordering::Relaxed) as f64 / 1000.0;
        ok_openmetrics(&format!(
            "# TYPE a counter\na_total{{x=\"1\"}} 5\na_created{{x=\"1\"}} {at:.3}\n# TYPE b counter\nb_total 5\n\
             # TYPE h histogram\nh_bucket{{le=\"1\"}} 2\nh_bucket{{le=\"+Inf\"}} 3\nh_count 3\nh_sum 4\nh_created {at:.3}\n\
             # TYPE d gauge\nd_created 7\n# EOF\n"
        ))
    });
    let receiver = Receiver::start(Reply::stored);
    let yaml = format!("{}remote_write:\n{}", config(&[job("j", &[target.address], "")]), receiver.section(V2));
    let mut server = Ringscrape::start(&yaml, &[STORAGE]);
    until("samples", || server.value("a_total"));
    let heads = target.requests.lock().unwrap().clone();
    assert!(heads[0].1.contains("Accept: application/vnd.google.protobuf;proto="), "protobuf is asked for first");
    let first = began.load(Ordering::Relaxed);
    let newest = |part: &str| starts_sent(&receiver, part).into_values().last();
    for part in ["a_total", "h_count", "h_sum", "le=\"1.0\"", "le=\"+Inf\""] {
        until(part, || (newest(part) == Some(first)).then_some(()));
        assert!(starts_sent(&receiver, part).into_values().all(|start| start == first), "{part}");
    }
    for part in ["b_total", "d_created", "\"up\""] {
        until(part, || (newest(part) == Some(0)).then_some(()));
    }
    assert_eq!(server.value("a_created"), None);
    assert_eq!(server.value("scrape_samples_scraped"), Some(7.0));
    assert!(zeros(&server, "a_total").is_empty(), "no zeros without their feature");
    // While the receiver is away, the target begins again, and the server is killed.
    receiver.now(|_| Reply::status(503, "away"));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = now_ms();
    began.store(second, Ordering::Relaxed);
    until("scrapes of the second start", || (now_ms() > second + 2500).then_some(()));
    server.restart(SIGKILL, &[STORAGE]);
    receiver.now(Reply::stored);
    until("the second start", || (newest("a_total") == Some(second)).then_some(()));
    for part in ["a_total", "h_count"] {
        let sent = starts_sent(&receiver, part);
        assert!(sent.iter().all(|(at, start)| *start == if *at < second { first } else { second }), "{part}: {sent:?}");
        assert!(sent.values().filter(|start| **start == second).count() > 1, "{part}: {sent:?}");
    }
    assert!(server.log().lines().all(|line| !line.contains("level=ERROR")), "{}", server.log());
}

/// The value of an expression that has one.
fn ask(server: &Ringscrape, expr: &str) -> Option<f64> {
    let found = server.api(&format!("/api/v1/query?query={}", encode(expr)));
    let series = found["result"].as_array().unwrap();
    assert!(series.len() <= 1, "{found}");
    series.first().map(|one| one["value"][1].as_str().unwrap().parse().unwrap())
}

/// Start times in memory, in chunks and behind a restart; of counters, and of a native histogram.
#[test]
fn start_times_are_read_by_queries_through_restarts() {
    let (began, target) = (Arc::new(AtomicI64::new(now_ms() - 40_000)), FakeTarget::saying(""));
    let start = began.clone();
    target.now(move |_| {
        let start_ms = start.load(Ordering::Relaxed);
        let (counter, histogram) = counter_and_histogram(start_ms);
        let gauge = message(|out| double(1, 3.0, out));
        let mut body = Vec::new();
        family("c_total", 0, 3, &counter, &mut body);
        family("g", 1, 2, &gauge, &mut body);
        family("h", 4, 7, &histogram, &mut body);
        response(PAYLOAD_TYPE, &body)
    });
    let flags = [STORAGE, "--enable-feature=use-start-timestamps,promql-experimental-functions"];
    let mut server =
        Ringscrape::start(&config(&[job("j", &[target.address], "scrape_native_histograms: true")]), &flags);
    until("samples", || server.value("c_total"));
    let starts = |server: &Ringscrape, series: &str| {
        ask(server, &format!("start_timestamp({series})")).map(|start| (start * 1000.0).round() as i64)
    };
    let first = began.load(Ordering::Relaxed);
    for series in ["c_total", "h"] {
        until(series, || (starts(&server, series) == Some(first)).then_some(()));
    }
    assert_eq!(starts(&server, "g"), Some(0), "it has none");
    assert_eq!(ask(&server, "start_timestamp(c_total + 0)"), None, "of a selector alone");
    // It has counted to five within the range, and never moved.
    let increase = |server: &Ringscrape, of: &str| ask(server, &format!("increase({of}[10m])")).unwrap_or(-1.0);
    until("the increase since it began", || ((5.0..5.6).contains(&increase(&server, "c_total"))).then_some(()));
    until("the same of a histogram", || {
        let counted = ask(&server, "histogram_count(increase(h[10m]))").unwrap_or(-1.0);
        ((1.0..1.2).contains(&counted)).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let second = now_ms();
    began.store(second, Ordering::Relaxed);
    until("the second start", || (starts(&server, "c_total") == Some(second)).then_some(()));
    until("both starts", || ((10.0..11.0).contains(&increase(&server, "c_total"))).then_some(()));
    assert_eq!(ask(&server, "resets(c_total[10m])"), Some(1.0));
    assert_eq!(ask(&server, "resets(g[10m])"), Some(0.0));
    // What was in memory comes back, and what is in chunks is read from there.
    server.restart(SIGKILL, &flags);
    server.until_ready();
    until("samples", || server.value("c_total"));
    for series in ["c_total", "h"] {
        until(series, || (starts(&server, series) == Some(second)).then_some(()));
    }
    let increased = increase(&server, "c_total");
    assert!((10.0..12.0).contains(&increased), "{increased}");
    assert_eq!(ask(&server, "resets(c_total[10m])"), Some(1.0));
    let earlier = format!("start_timestamp(c_total @ {:.3})", (second - 500) as f64 / 1000.0);
    let earlier = ask(&server, &earlier).map(|start| (start * 1000.0).round() as i64);
    assert_eq!(earlier, Some(first), "from chunks");
    // Without the flag of PromQL they mean nothing.
    server.restart(SIGKILL, &[STORAGE, "--enable-feature=promql-experimental-functions"]);
    server.until_ready();
    until("samples", || server.value("c_total"));
    assert_eq!(ask(&server, "start_timestamp(c_total)"), None);
    assert_eq!(ask(&server, "resets(c_total[10m])"), Some(0.0));
    assert!(server.log().lines().all(|line| !line.contains("level=ERROR")), "{}", server.log());
}

/// What writers say comes out as they said it, of floats and of histograms.
#[test]
fn start_times_that_are_written_to_us_are_sent_on() {
    let receiver = Receiver::start(Reply::stored);
    let yaml = format!("remote_write:\n{}", receiver.section(V2));
    let server = Ringscrape::start(&yaml, &[STORAGE, "--web.enable-remote-write-receiver"]);
    let now = now_ms();
    let times = [(now - 3000, 0), (now - 2000, now - 9000), (now - 1000, now - 9000), (now, now - 500)];
    let series = |name: u8, fields: &dyn Fn(&mut Vec<u8>)| {
        message(|out| {
            bytes(1, &[1, name], out);
            fields(out);
        })
    };
    let floats = series(2, &|out| {
        for (at, start) in times {
            let sample = message(|out| {
                varint(1 << 3 | 1, out);
                out.extend_from_slice(&7.0f64.to_le_bytes());
                number(2, at as u64, out);
                number(3, start as u64, out);
            });
            bytes(2, &sample, out);
        }
    });
    let histograms = series(3, &|out| {
        for (at, start) in times {
            let mut one = Vec::new();
            remote::encode_histogram(
                at,
                &series::Histogram { count: 1.0, zero_count: 1.0, ..Default::default() },
                &mut one,
            );
            remote::encode_histogram_start(start, &mut one);
            bytes(3, &one, out);
        }
    });
    let body = message(|out| {
        ["", "__name__", "m_total", "h"].iter().for_each(|symbol| bytes(4, symbol.as_bytes(), out));
        bytes(5, &floats, out);
        bytes(5, &histograms, out);
    });
    let headers = [("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")];
    let answer = request_with_body(server.address, "POST", "/api/v1/write", &headers, &remote::pack(&body));
    assert_eq!(answer.status, 204, "{}", answer.body);
    for part in ["m_total", "\"h\""] {
        until(part, || (starts_sent(&receiver, part).len() == times.len()).then_some(()));
        assert_eq!(starts_sent(&receiver, part), BTreeMap::from(times), "{part}");
    }
}
