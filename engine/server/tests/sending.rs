//! What the real binary makes of receivers that redirect, throttle, refuse, understand something else, or break off.

mod support;

use remote::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::receiver::{Receiver, Reply, WriteCall};
use support::{FakeTarget, Ringscrape, config, job, ok, until};

/// A target whose counter grows with each scrape.
fn counting(more: &'static str) -> FakeTarget {
    let count = AtomicU64::new(0);
    FakeTarget::start(move |_| ok(&format!("a {}\n{more}", count.fetch_add(1, Ordering::Relaxed))))
}

fn start_with(target: &FakeTarget, receiver: &Receiver, flags: &[&str]) -> Ringscrape {
    let yaml = config(&[job("j", &[target.address], "")]);
    Ringscrape::start(&format!("{yaml}remote_write:\n{}", receiver.section("")), flags)
}

fn start(target: &FakeTarget, receiver: &Receiver, more: &str) -> Ringscrape {
    let yaml = config(&[job("j", &[target.address], "")]);
    Ringscrape::start(&format!("{yaml}remote_write:\n{}", receiver.section(more)), &[])
}

/// A counter of the endpoint; 0 if it is not there.
fn counter(server: &Ringscrape, name: &str) -> f64 {
    let page = server.get("/metrics").body;
    let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    lines.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

const V2: &str = "    protobuf_message: io.prometheus.write.v2.Request\n";
const SAMPLES_FAILED: &str = "prometheus_remote_storage_samples_failed_total{";
const SAMPLES_SENT: &str = "prometheus_remote_storage_samples_total{";

/// Every value of `a` arrived: they count scrapes. A scrape that failed has a marker in the place of its value, or `up` is 0
/// if it was the first one.
fn has_no_gap(receiver: &Receiver) -> bool {
    let first_up = receiver.of("__name__=\"up\"").values().next().map(|bits| f64::from_bits(*bits));
    let (mut last, mut has_failed) = (None, first_up == Some(0.0));
    for bits in receiver.of("__name__=\"a\"").values() {
        let value = f64::from_bits(*bits);
        if value.is_nan() {
            has_failed = true;
            continue;
        }
        if value != last.map_or(0.0, |last| last + 1.0) && !has_failed {
            return false;
        }
        (last, has_failed) = (Some(value), false);
    }
    last.is_some()
}

/// VictoriaMetrics reads 2.0 as 1.0, finds nothing in it, and answers 204.
#[test]
fn a_receiver_that_reads_1_0_only_gets_everything_though_2_0_is_configured() {
    for refusal in [Reply::status(204, ""), Reply::status(415, "unsupported")].map(Arc::new) {
        let target = counting("");
        let status = refusal.status;
        let receiver = Receiver::start(move |call| match call.message {
            Message::V2 => Reply::status(status, ""),
            Message::V1 => Reply { headers: Vec::new(), ..Reply::stored(call) },
        });
        let server = start(&target, &receiver, V2);
        until("samples in 1.0", || (receiver.of("__name__=\"a\"").len() >= 5).then_some(()));
        assert!(has_no_gap(&receiver));
        assert_eq!(counter(&server, SAMPLES_FAILED), 0.0);
        receiver.with(|stored| {
            let v2 = stored.calls.iter().filter(|call| call.message == Message::V2).count();
            // One, and those that were in flight beside it.
            assert!(v2 <= 3, "{v2} requests in 2.0");
        });
        assert_eq!(server.log().matches("does not read 2.0").count(), 1, "{}", server.log());
    }
}

#[test]
fn redirects_are_refused_and_never_become_an_empty_get() {
    let (target, other) = (counting(""), Receiver::start(Reply::stored));
    let location = format!("http://{}/elsewhere", other.address);
    let receiver = Receiver::start({
        let location = location.clone();
        move |call| Reply::status([301, 302, 303][call.number % 3], "").header("Location", &location)
    });
    let server = start(&target, &receiver, "");
    until("samples are counted as lost", || (counter(&server, SAMPLES_FAILED) > 5.0).then_some(()));
    assert_eq!((other.calls(), counter(&server, SAMPLES_SENT)), (0, 0.0));
    assert!(server.log().contains(&location), "{}", server.log());
    // The two that keep method and body are followed.
    receiver.now(move |call| Reply::status([307, 308][call.number % 2], "").header("Location", &location));
    until("samples arrive elsewhere", || (other.of("__name__=\"a\"").len() >= 3).then_some(()));
    other.with(|stored| assert!(stored.calls.iter().all(|call| call.method == "POST" && call.path == "/elsewhere")));
}

#[test]
fn retry_after_is_read_in_both_forms_and_0_still_backs_off() {
    let (target, begun) = (counting(""), Instant::now());
    let receiver = Receiver::start(|_| Reply::status(503, "").header("Retry-After", 0));
    let _server = start(&target, &receiver, "");
    until("a request", || (receiver.calls() > 0).then_some(()));
    let before = receiver.calls();
    std::thread::sleep(Duration::from_secs(2));
    // 30, 60, 120 and then each 200 ms; one request at a time, because a single target has one row in flight.
    let calls = receiver.calls() - before;
    assert!((3..=20).contains(&calls), "{calls} requests in two seconds");
    let date = httpdate_in(Duration::from_secs(4));
    receiver.now(move |_| Reply::status(503, "").header("Retry-After", &date));
    let before = until("a request with a date", || Some(receiver.calls()).filter(|calls| *calls > before));
    std::thread::sleep(Duration::from_millis(1500));
    let calls = receiver.calls() - before;
    assert!(calls <= 2, "{calls} requests before the date");
    receiver.now(Reply::stored);
    until("everything arrives", || (receiver.of("__name__=\"a\"").len() >= 5).then_some(()));
    assert!(has_no_gap(&receiver), "after {:?}", begun.elapsed());
}

fn httpdate_in(pause: Duration) -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now() + pause)
}

/// Prometheus refuses a whole 1.0 request for one sample that is out of order.
#[test]
fn one_sample_that_is_refused_does_not_take_the_others_with_it() {
    let target = counting("b 1\nbad 1\nc 1\n");
    let receiver = Receiver::start(|call| match call.has("bad") {
        true => Reply::status(400, "out of order sample"),
        false => Reply { headers: Vec::new(), ..Reply::stored(call) },
    });
    let server = start(&target, &receiver, "");
    until("the others", || (receiver.of("__name__=\"a\"").len() >= 5).then_some(()));
    assert!(has_no_gap(&receiver));
    for name in ["__name__=\"b\"", "__name__=\"c\"", "__name__=\"up\""] {
        assert!(receiver.of(name).len() >= 4, "{name}");
    }
    assert_eq!(receiver.of("bad").len(), 0);
    until("the bad one is counted", || (counter(&server, SAMPLES_FAILED) >= 4.0).then_some(()));
    let page = server.get("/metrics").body;
    let lost =
        page.lines().find(|line| line.contains("ringscrape_remote_storage_lost_total") && line.contains("rejected"));
    assert!(lost.is_some_and(|line| !line.ends_with(" 0")), "{lost:?}");
}

#[test]
fn samples_are_counted_as_the_headers_say() {
    for more in ["", V2] {
        let target = counting("b 1\n");
        // Each request is stored but for one sample.
        let receiver = Receiver::start(|call| {
            let written = call.samples().saturating_sub(1);
            Reply {
                stores: true,
                ..Reply::status(200, "").header("X-Prometheus-Remote-Write-Samples-Written", written)
            }
        });
        let server = start(&target, &receiver, more);
        until("some requests", || (receiver.calls() >= 5).then_some(()));
        until("all is counted", || {
            let (sent, lost) = (counter(&server, SAMPLES_SENT), counter(&server, SAMPLES_FAILED));
            (lost >= 5.0 && sent >= 5.0).then_some(())
        });
        assert!(server.log().contains("but stored"), "{}", server.log());
    }
}

/// What has become too old while an endpoint was away is not sent any more.
#[test]
fn the_age_limit_holds_at_each_attempt() {
    let target = counting("");
    let receiver = Receiver::start(|_| Reply::status(503, ""));
    let yaml = config(&[job("j", &[target.address], "")]);
    let section = format!(
        "remote_write:\n  - url: http://{}/write\n    queue_config: {{batch_send_deadline: 100ms, max_backoff: 200ms, \
         sample_age_limit: 3s}}\n",
        receiver.address
    );
    let server = Ringscrape::start(&format!("{yaml}{section}"), &[]);
    until("attempts", || (receiver.calls() > 0).then_some(()));
    std::thread::sleep(Duration::from_secs(5));
    receiver.now(Reply::stored);
    until("fresh samples", || (receiver.of("__name__=\"a\"").len() >= 3).then_some(()));
    let oldest = f64::from_bits(*receiver.of("__name__=\"a\"").first_key_value().unwrap().1);
    assert!(oldest >= 2.0, "sample {oldest} was five seconds old");
    let dropped = |reason: &str| {
        let page = server.get("/metrics").body;
        let line = page
            .lines()
            .find(|line| line.contains("samples_dropped_total") && line.contains(reason))
            .unwrap()
            .to_owned();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    until("the old ones are counted", || (dropped("too_old") >= oldest).then_some(()));
    assert_eq!(counter(&server, SAMPLES_FAILED), 0.0);
}

/// A response that breaks off after its head, or is much too long, is an answer still: nothing is sent twice.
#[test]
fn the_body_of_a_response_does_not_matter() {
    let target = counting("");
    let receiver = Receiver::start(|call| Reply { body: "x".repeat(3 << 20), status: 200, ..Reply::stored(call) });
    let _server = start(&target, &receiver, "");
    until("samples", || (receiver.of("__name__=\"a\"").len() >= 5).then_some(()));
    receiver.with(|stored| assert_eq!(stored.repeated, 0));
    assert!(has_no_gap(&receiver));
}

/// Connections that end after the request was stored: it comes again, and nothing is missing.
#[test]
fn resets_repeat_and_lose_nothing() {
    let target = counting("");
    // Each third request with samples; metadata comes between them.
    let with_samples = AtomicUsize::new(0);
    let receiver = Receiver::start(move |call| {
        let resets = call.samples() > 0 && with_samples.fetch_add(1, Ordering::Relaxed) % 3 == 1;
        Reply { resets, ..Reply::stored(call) }
    });
    let _server = start(&target, &receiver, "");
    until("samples", || (receiver.of("__name__=\"a\"").len() >= 8).then_some(()));
    until("repeated ones", || receiver.with(|stored| stored.repeated > 0).then_some(()));
    assert!(has_no_gap(&receiver));
    assert_eq!(receiver.with(|stored| stored.out_of_order), 0);
}

/// VictoriaMetrics is asked for its protocol, and gets zstd until it refuses that.
#[test]
fn zstd_is_sent_to_those_who_take_it() {
    let target = counting("");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let receiver = Receiver::start(move |call| {
        if call.method == "GET" {
            assert_eq!(call.path, "/write?get_vm_proto_version=1");
            count.fetch_add(1, Ordering::Relaxed);
            return Reply::status(200, "1");
        }
        Reply { headers: vec![("X-Server-Hostname", "vm".to_owned())], ..Reply::stored(call) }
    });
    let server = start(&target, &receiver, "");
    let is_zstd = |call: &WriteCall| call.headers.get("content-encoding").is_some_and(|name| name == "zstd");
    until("zstd", || receiver.with(|stored| stored.calls.iter().any(is_zstd)).then_some(()));
    let before = receiver.of("__name__=\"a\"").len();
    until("it goes on", || (receiver.of("__name__=\"a\"").len() >= before + 3).then_some(()));
    receiver.with(|stored| {
        let last = stored.calls.iter().rev().find(|call| is_zstd(call)).unwrap();
        assert_eq!(last.headers["x-victoriametrics-remote-write-version"], "1");
    });
    receiver.now(move |call| match is_zstd(call) {
        true => Reply::status(415, "no zstd"),
        false => Reply { headers: Vec::new(), ..Reply::stored(call) },
    });
    let before = receiver.of("__name__=\"a\"").len();
    until("it goes on in snappy", || (receiver.of("__name__=\"a\"").len() >= before + 3).then_some(()));
    assert!(has_no_gap(&receiver));
    assert_eq!((counter(&server, SAMPLES_FAILED), asked.load(Ordering::Relaxed)), (0.0, 1));
}

/// Native histograms, which come in by remote write, go on in both messages; those with custom buckets in 2.0 only.
#[test]
fn native_histograms_are_sent() {
    for (message, more) in [(Message::V1, ""), (Message::V2, V2)] {
        let receiver = Receiver::start(Reply::stored);
        let more = format!("    send_native_histograms: true\n{more}");
        let yaml = format!("scrape_configs: []\nremote_write:\n{}", receiver.section(&more));
        let server = Ringscrape::start(&yaml, &["--web.enable-remote-write-receiver"]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        let buckets = vec![series::histogram::BucketCount { index: 1, count: 3.0 }];
        let plain = series::Histogram { count: 3.0, positive: buckets.clone(), ..Default::default() };
        let custom = series::Histogram { schema: -53, custom_values: [0.5, 2.0].into(), ..plain.clone() };
        let mut builder = remote::WriteBuilder::new(Message::V2);
        for (name, histogram) in [("plain", &plain), ("custom", &custom)] {
            let encoded: Vec<Vec<u8>> = (0..5)
                .map(|i| {
                    let mut out = Vec::new();
                    remote::encode_histogram(now - 5_000 + i * 1_000, histogram, &mut out);
                    out
                })
                .collect();
            let histograms: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
            let content = remote::SeriesContent { histograms: &histograms, ..Default::default() };
            builder.add([("__name__", name), ("job", "j")].into_iter(), &content);
        }
        let kind = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
        let headers = [("Content-Encoding", "snappy"), ("Content-Type", kind)];
        let body = remote::pack(&builder.finish());
        let answer = support::request_with_body(server.address, "POST", "/api/v1/write", &headers, &body);
        assert_eq!(answer.status, 204, "{}", answer.body);
        let want = if message == Message::V1 { 1 } else { 2 };
        until("the histograms", || {
            receiver.with(|stored| {
                let is_whole = |of_series: &std::collections::BTreeMap<i64, f64>| of_series.len() == 5;
                (stored.histograms.len() == want && stored.histograms.values().all(is_whole)).then_some(())
            })
        });
        receiver.with(|stored| {
            assert!(stored.histograms.contains_key("{__name__=\"plain\", job=\"j\"}"));
            assert!(stored.histograms.values().flat_map(|one| one.values()).all(|count| *count == 3.0));
        });
        let sent = 5.0 * want as f64;
        until("they are counted", || {
            (counter(&server, "prometheus_remote_storage_histograms_total{") == sent).then_some(())
        });
        let page = server.get("/metrics").body;
        let dropped = page.lines().find(|line| line.contains("nhcb_in_rw1_not_supported")).unwrap();
        assert!(dropped.ends_with(if message == Message::V1 { " 5" } else { " 0" }), "{dropped}");
    }
}

/// Wide series; and a receiver that is not VictoriaMetrics is not asked for its protocol.
#[test]
fn requests_are_bounded_in_bytes() {
    let value = "x".repeat(60 << 10);
    let page: String = (0..200).map(|i| format!("wide{{i=\"{i}\",v=\"{value}\"}} 1\n")).collect();
    let target = FakeTarget::start(move |_| ok(&page));
    let receiver = Receiver::start(Reply::stored);
    let _server = start(&target, &receiver, "");
    until("a whole scrape", || receiver.with(|stored| stored.samples.len() >= 200).then_some(()));
    receiver.with(|stored| {
        let largest = stored.calls.iter().map(|call| call.unpacked_bytes).max().unwrap();
        assert!((1 << 20..9 << 20).contains(&largest), "{largest} bytes");
        assert!(stored.calls.iter().all(|call| call.method == "POST"));
    });
}

/// Faults of every kind, kills and restarts: in the end the receiver has every sample that is stored here, and each series
/// came in its order but for what a fault or a kill repeated.
#[test]
fn everything_arrives_through_faults_of_every_kind() {
    for (seed, more) in [(1u64, ""), (2, V2)] {
        let targets = [counting("b 1\n"), counting(""), counting("c 1\n")];
        let state = std::sync::Mutex::new(seed);
        let random = move |below: u64| {
            let mut state = state.lock().unwrap();
            *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (*state >> 33) % below
        };
        let receiver = Receiver::start(move |call| match random(12) {
            0 => Reply::status(500, "broken"),
            1 => Reply::status(503, "busy").header("Retry-After", random(2)),
            2 => Reply::status(429, "slow down"),
            3 => Reply { resets: true, ..Reply::status(500, "") },
            4 => Reply { resets: true, ..Reply::stored(call) },
            5 => Reply { stores: true, ..Reply::status(502, "stored all the same") },
            6 => {
                std::thread::sleep(Duration::from_millis(random(400)));
                Reply::stored(call)
            }
            _ => Reply::stored(call),
        });
        let addresses: Vec<_> = targets.iter().map(|target| target.address).collect();
        let section = receiver
            .section(more)
            .replace("max_backoff", "retry_on_http_429: true, max_samples_per_send: 5, max_backoff");
        let yaml = format!("{}remote_write:\n{section}", config(&[job("j", &addresses, "")]));
        let mut server = Ringscrape::start(&yaml, &["--shards=2"]);
        for (signal, shards) in [(9, "--shards=1"), (15, "--shards=2"), (9, "--shards=2")] {
            std::thread::sleep(Duration::from_secs(3));
            server.restart(signal, &[shards]);
            server.until_ready();
        }
        std::thread::sleep(Duration::from_secs(2));
        receiver.now(Reply::stored);
        for (target, metrics) in targets.iter().zip([&["a", "b", "up"][..], &["a", "up"], &["a", "c", "up"]]) {
            for metric in metrics {
                let labels = format!("instance=\"{}\", job=\"j\"}}", target.address);
                until("every stored sample has arrived", || {
                    let query = support::encode(&format!("{metric}{{{labels}[1h]"));
                    let json = server.api(&format!("/api/v1/query?query={query}"));
                    let values = json["result"][0]["values"].as_array()?.clone();
                    let got = receiver.of(&format!("__name__=\"{metric}\", {labels}"));
                    let has = |value: &serde_json::Value| {
                        let at = (value[0].as_f64().unwrap() * 1000.0).round() as i64;
                        let bits = value[1].as_str().unwrap().parse::<f64>().unwrap().to_bits();
                        got.get(&at) == Some(&bits)
                    };
                    (values.len() > 20 && values.iter().all(has)).then_some(())
                });
            }
        }
        receiver.with(|stored| assert_eq!(stored.out_of_order, 0, "seed {seed}"));
        assert_eq!(counter(&server, SAMPLES_FAILED), 0.0);
    }
}

/// Endpoints that are to get the same are read for once, and get the same bytes. One that goes away holds up none of the others,
/// loses nothing, and joins them again.
#[test]
fn equal_endpoints_get_equal_bytes_and_one_that_was_away_loses_nothing() {
    const SIGTERM: i32 = 15;
    let (target, receivers) = (counting("b 1\n"), [0; 4].map(|_| Receiver::start(Reply::stored)));
    let section = |at: usize| {
        let rules = match at {
            3 => "    write_relabel_configs: [{source_labels: [__name__], regex: b, action: drop}]\n",
            _ => "",
        };
        receivers[at].section(rules).replace("name: far", &format!("name: r{at}"))
    };
    let sections: String = (0..4).map(section).collect();
    let yaml = format!("{}remote_write:\n{sections}", config(&[job("j", &[target.address], "")]));
    let mut server = Ringscrape::start(&yaml, &[]);
    let together = |server: &Ringscrape| {
        let of =
            |at: usize| counter(server, &format!("ringscrape_remote_storage_equal_endpoints{{remote_name=\"r{at}\""));
        [0, 1, 2, 3].map(of)
    };
    let hashes = |at: usize, from: usize| -> Vec<u32> {
        let of_rows = |call: &&WriteCall| call.has("b");
        receivers[at].with(|stored| stored.calls[from..].iter().filter(of_rows).map(|call| call.body_hash).collect())
    };
    until("three are read for at once", || (together(&server) == [3.0, 3.0, 3.0, 1.0]).then_some(()));
    let from = receivers[0].calls();
    let some = until("some requests", || Some(hashes(0, from)).filter(|hashes| hashes.len() >= 4));
    for at in [1, 2] {
        until("the same bytes", || some.iter().all(|hash| hashes(at, 0).contains(hash)).then_some(()));
    }
    receivers[1].now(|_| Reply::status(503, "away"));
    until("the one that is away goes alone", || (together(&server) == [2.0, 1.0, 2.0, 1.0]).then_some(()));
    let arrived = |at: usize| receivers[at].of("__name__=\"a\"").len();
    let before = [0, 2].map(arrived);
    until("the others go on", || (arrived(0) > before[0] + 5 && arrived(2) > before[1] + 5).then_some(()));
    assert!(arrived(1) + 5 < arrived(0));
    receivers[1].now(Reply::stored);
    until("it has caught up", || (arrived(1) + 1 >= arrived(0)).then_some(()));
    until("it is with the others again", || (together(&server) == [3.0, 3.0, 3.0, 1.0]).then_some(()));
    server.restart(SIGTERM, &[]);
    server.until_ready();
    let before = arrived(0);
    until("samples of the next start", || (0..4).all(|at| arrived(at) > before + 3).then_some(()));
    for (at, receiver) in receivers.iter().enumerate() {
        assert!(has_no_gap(receiver), "{at}");
        receiver.with(|stored| assert_eq!((stored.repeated, stored.out_of_order), (0, 0), "{at}"));
    }
    assert!(receivers[3].of("__name__=\"b\"").is_empty());
}

const SIGTERM: i32 = 15;

/// The end in order: the last rows are in the log before its readers read to the end, also behind a moment in which the receiver
/// was away.
#[test]
fn nothing_waits_on_disk_after_an_end_in_order() {
    for (more, flags) in [("", &["--agent", "--shards=2"][..]), (V2, &["--shards=1"])] {
        let targets = [0; 10].map(|_| counting(""));
        let addresses: Vec<_> = targets.iter().map(|target| target.address).collect();
        let receiver = Receiver::start(Reply::stored);
        let yaml = config(&[job("j", &addresses, "")]);
        let mut server = Ringscrape::start(&format!("{yaml}remote_write:\n{}", receiver.section(more)), flags);
        until("samples", || (receiver.of("__name__=\"a\"").len() >= 50).then_some(()));
        if flags.len() == 1 {
            receiver.now(|_| Reply::status(503, "away for a moment"));
            std::thread::sleep(Duration::from_millis(700));
        }
        server.signal(SIGTERM);
        std::thread::sleep(Duration::from_millis(300));
        receiver.now(Reply::stored);
        let begun = Instant::now();
        assert!(server.wait().success(), "{}", server.log());
        assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
        let ended_ms = series::clock::now_ms();
        let before: usize = receiver.with(|stored| stored.samples.values().map(|samples| samples.len()).sum());
        server.restart_ended(flags);
        let is_new = |(at, _): (&i64, &u64)| *at > ended_ms;
        until("samples of the next start", || receiver.of("__name__=\"a\"").iter().any(is_new).then_some(()));
        let until_end = |samples: &std::collections::BTreeMap<i64, u64>| samples.range(..=ended_ms).count();
        receiver.with(|stored| {
            assert_eq!(stored.samples.values().map(until_end).sum::<usize>(), before, "sent after the next start");
            assert_eq!((stored.repeated, stored.out_of_order), (0, 0));
        });
        for target in &targets {
            let of_target = receiver.of(&format!("__name__=\"a\", instance=\"{}\"", target.address));
            let of_first_run = of_target.range(..=ended_ms).map(|(_, bits)| f64::from_bits(*bits) as u64);
            let values: Vec<u64> = of_first_run.collect();
            assert!(values.iter().copied().eq(0..values.len() as u64), "{values:?}");
        }
    }
}

/// A receiver that never answers holds up the end for the flush deadline, one that fails for a few seconds; what they lack is
/// sent after the next start.
#[test]
fn the_end_waits_for_a_receiver_that_is_away_only_so_long() {
    let hangs = |_: &WriteCall| {
        std::thread::sleep(Duration::from_secs(8));
        Reply::status(503, "")
    };
    let fails = |_: &WriteCall| Reply::status(503, "");
    type Decide = fn(&WriteCall) -> Reply;
    let cases: [(Decide, &str, Duration); 2] = [
        (hangs, "--storage.remote.flush-deadline=2s", Duration::from_secs(2)),
        (fails, "--storage.remote.flush-deadline=1m", Duration::from_secs(5)),
    ];
    for (decide, flag, bound) in cases {
        let (target, receiver) = (counting(""), Receiver::start(Reply::stored));
        let mut server = start_with(&target, &receiver, &[flag]);
        until("samples", || (receiver.of("__name__=\"a\"").len() >= 3).then_some(()));
        receiver.now(decide);
        std::thread::sleep(Duration::from_secs(1));
        let begun = Instant::now();
        server.signal(SIGTERM);
        assert!(server.wait().success(), "{}", server.log());
        let took = begun.elapsed();
        assert!(took >= bound && took < bound + Duration::from_secs(4), "{flag}: {took:?}");
        assert!(server.log().contains("the rest is sent after the next start"), "{}", server.log());
        let arrived = receiver.of("__name__=\"a\"").len();
        receiver.now(Reply::stored);
        server.restart_ended(&[flag]);
        until("what it lacked", || (receiver.of("__name__=\"a\"").len() >= arrived + 8).then_some(()));
        assert!(has_no_gap(&receiver));
        receiver.with(|stored| assert_eq!(stored.out_of_order, 0));
    }
}

/// As vmagent's shardByURL: two of three endpoints get each series, whole and in order, also across a restart; and values are rounded.
#[test]
fn endpoints_of_a_group_divide_the_series() {
    let lines: String = (0..60).map(|line| format!("m{{line=\"{line}\"}} 1.23456\n")).collect();
    let (target, receivers) = (counting(&*lines.leak()), [0; 3].map(|_| Receiver::start(Reply::stored)));
    let section = |at: usize| {
        let more = "    sharding: {group: g, replicas: 2}\n    significant_figures: 3\n";
        receivers[at].section(more).replace("name: far", &format!("name: r{at}"))
    };
    let sections: String = (0..3).map(section).collect();
    let yaml = format!("{}remote_write:\n{sections}", config(&[job("j", &[target.address], "")]));
    let mut server = Ringscrape::start(&yaml, &[]);
    let series = |at: usize| -> Vec<String> {
        receivers[at].with(|stored| stored.samples.keys().filter(|series| series.contains("line=")).cloned().collect())
    };
    let owners = || {
        let mut owners = std::collections::BTreeMap::<String, Vec<usize>>::new();
        (0..3).for_each(|at| series(at).into_iter().for_each(|one| owners.entry(one).or_default().push(at)));
        owners
    };
    until("all series", || {
        let owners = owners();
        (owners.len() == 60 && owners.values().all(|owners| owners.len() == 2)).then_some(())
    });
    let before = owners();
    assert!((0..3).all(|at| (25..56).contains(&series(at).len())), "{before:?}");
    server.restart(SIGTERM, &[]);
    server.until_ready();
    let samples =
        |at: usize| receivers[at].with(|stored| stored.samples.values().map(|samples| samples.len()).sum::<usize>());
    let counts = [0, 1, 2].map(samples);
    until("samples of the next start", || (0..3).all(|at| samples(at) > counts[at] + 200).then_some(()));
    assert_eq!(owners(), before);
    for receiver in &receivers {
        let values = receiver.of("line=");
        assert!(values.values().all(|bits| *bits == 1.23f64.to_bits() || series::is_stale(f64::from_bits(*bits))));
        receiver.with(|stored| assert_eq!((stored.repeated, stored.out_of_order), (0, 0)));
    }
}
