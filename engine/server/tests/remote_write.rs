//! What the real binary sends by remote write, to receivers of the test's own, to Debian's Prometheus and to itself.

mod support;

use remote::{Message, WriteLimits, decode_write, unpack};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::http_server::listen;
use support::{FakeTarget, Prometheus, Ringscrape, config, encode, job, ok, request, until};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGHUP: i32 = 1;

/// Series to time to the bits of the value.
type Samples = BTreeMap<String, BTreeMap<i64, u64>>;

#[derive(Default)]
struct Received {
    samples: Samples,
    /// Names of metrics to their types.
    metadata: BTreeMap<String, String>,
    heads: Vec<String>,
    /// Samples that were there already, and new ones older than their series' newest.
    repeated: usize,
    out_of_order: usize,
}

/// A remote end of the test's own.
struct Receiver {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    received: Arc<Mutex<Received>>,
}

impl Receiver {
    fn start() -> Receiver {
        let (status, received) = (Arc::new(AtomicU16::new(204)), Arc::<Mutex<Received>>::default());
        let (answered, kept) = (status.clone(), received.clone());
        let address = listen(move |stream| while answer(&stream, &answered, &kept).is_some() {});
        Receiver { address, status, received }
    }

    /// A section of a configuration that sends here.
    fn section(&self, more: &str) -> String {
        format!(
            "  - url: http://{}/write\n    queue_config: {{batch_send_deadline: 100ms, max_backoff: 200ms, max_samples_per_send: 3}}\n{more}",
            self.address
        )
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn with<T>(&self, look: impl FnOnce(&Received) -> T) -> T {
        look(&self.received.lock().unwrap())
    }

    /// Samples of the series whose text contains this, by time.
    fn of(&self, part: &str) -> BTreeMap<i64, u64> {
        self.with(|received| {
            let of = received.samples.iter().filter(|(series, _)| series.contains(part));
            of.flat_map(|(_, samples)| samples.clone()).collect()
        })
    }

    fn count(&self) -> usize {
        self.with(|received| received.samples.values().map(BTreeMap::len).sum())
    }
}

/// Takes one request and answers it.
fn answer(stream: &TcpStream, status: &AtomicU16, received: &Mutex<Received>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let mut body = vec![0; header("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let status = status.load(Ordering::Relaxed);
    let mut confirmed = String::new();
    if status < 300 {
        assert_eq!(header("content-encoding").as_deref(), Some("snappy"));
        let message = if header("content-type")?.contains("v2.Request") { Message::V2 } else { Message::V1 };
        let body = unpack(&body, 64 << 20).unwrap();
        let write = decode_write(message, &body, &WriteLimits::default()).unwrap();
        assert_eq!(write.refusals, Vec::<String>::new());
        let mut received = received.lock().unwrap();
        if message == Message::V2 {
            let count: usize = write.series.iter().map(|series| series.samples.len()).sum();
            confirmed = format!("X-Prometheus-Remote-Write-Samples-Written: {count}\r\n");
        }
        let Received { samples, metadata, heads, repeated, out_of_order } = &mut *received;
        for series in write.series {
            let of_series = samples.entry(series.labels.to_string()).or_default();
            for sample in series.samples {
                let at = sample.timestamp.0;
                let is_older = of_series.last_key_value().is_some_and(|(last, _)| at < *last);
                let before = of_series.insert(at, sample.value.to_bits());
                *out_of_order += usize::from(is_older && before.is_none());
                *repeated += usize::from(before.is_some());
                assert!(
                    before.is_none_or(|before| before == sample.value.to_bits()),
                    "another value for the same time"
                );
            }
        }
        metadata.extend(write.metadata.into_iter().map(|entry| (entry.metric, entry.kind.to_owned())));
        heads.push(head);
    }
    let answer = format!("HTTP/1.1 {status} Whatever\r\n{confirmed}Content-Length: 5\r\n\r\ntext\n");
    (&mut &*stream).write_all(answer.as_bytes()).ok()
}

/// Samples as the server has them, markers left out.
fn stored(address: SocketAddr, query: &str) -> BTreeMap<i64, u64> {
    let answer = request(address, "GET", &format!("/api/v1/query?query={}", encode(query)), &[]);
    let json: Value = serde_json::from_str(&answer.body).unwrap();
    let series = json["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {json}")).clone();
    let sample = |value: &Value| {
        let at = (value[0].as_f64().unwrap() * 1000.0).round() as i64;
        (at, value[1].as_str().unwrap().parse::<f64>().unwrap().to_bits())
    };
    series.iter().flat_map(|one| one["values"].as_array().unwrap().iter().map(sample)).collect()
}

fn without_markers(samples: BTreeMap<i64, u64>) -> BTreeMap<i64, u64> {
    samples.into_iter().filter(|(_, bits)| !series::is_stale(f64::from_bits(*bits))).collect()
}

/// A target whose counter grows with each scrape.
fn counting() -> FakeTarget {
    let count = std::sync::atomic::AtomicU64::new(0);
    FakeTarget::start(move |_| {
        let count = count.fetch_add(1, Ordering::Relaxed);
        ok(&format!("# HELP a Text.\n# TYPE a counter\na {count}\nb{{x=\"y\"}} 2\n"))
    })
}

fn remote_write(sections: &str) -> String {
    format!("remote_write:\n{sections}")
}

#[test]
fn every_sample_and_marker_arrives_as_it_is_to_look_outside() {
    for (message, content) in [
        ("prometheus.WriteRequest", "content-type: application/x-protobuf\r\n"),
        (
            "io.prometheus.write.v2.Request",
            "content-type: application/x-protobuf;proto=io.prometheus.write.v2.request\r\n",
        ),
    ] {
        let (target, receiver) = (counting(), Receiver::start());
        let more = format!(
            "    protobuf_message: {message}\n    headers: {{X-Scope-OrgID: tenant}}\n    basic_auth: {{username: u, \
             password: sesame}}\n    metadata_config: {{send_interval: 1s}}\n    write_relabel_configs:\n      - \
             {{source_labels: [__name__], regex: 'scrape_.*', action: drop}}\n      - {{target_label: job, replacement: \
             other}}\n"
        );
        let yaml = format!(
            "global: {{external_labels: {{zone: z, instance: never}}}}\n{}{}",
            config(&[job("j", &[target.address], "")]),
            remote_write(&receiver.section(&more))
        );
        let server = Ringscrape::start(&yaml, &["--shards=2"]);
        until("some samples", || (receiver.of("__name__=\"a\"").len() >= 5).then_some(()));
        target.now_says("c 3\n");
        let ended = until("the marker of a", || {
            let samples = receiver.of("__name__=\"a\"");
            samples.values().any(|bits| series::is_stale(f64::from_bits(*bits))).then_some(samples)
        });
        assert!(series::is_stale(f64::from_bits(*ended.last_key_value().unwrap().1)));
        until("c", || (!receiver.of("__name__=\"c\"").is_empty()).then_some(()));
        assert_eq!(without_markers(ended), stored(server.address, "a[1h]"));
        let series: Vec<String> = receiver.with(|received| received.samples.keys().cloned().collect());
        let labels = |rest: &str| format!("instance=\"{}\", job=\"other\"{rest}, zone=\"z\"}}", target.address);
        let want = [
            format!("{{__name__=\"a\", {}", labels("")),
            format!("{{__name__=\"b\", {}", labels(", x=\"y\"")),
            format!("{{__name__=\"c\", {}", labels("")),
            format!("{{__name__=\"up\", {}", labels("")),
        ];
        assert_eq!(series, want);
        receiver.with(|received| {
            assert_eq!((received.repeated, received.out_of_order), (0, 0));
            let head = received.heads[0].to_lowercase();
            for part in [
                content,
                "x-scope-orgid: tenant",
                "authorization: basic dtpzzxnhbwu=",
                "x-prometheus-remote-write-version: ",
            ] {
                assert!(head.contains(part), "{part} in {head}");
            }
        });
        until("metadata", || {
            receiver.with(|received| received.metadata.get("a").cloned()).filter(|kind| kind == "counter")
        });
        let counter = |name: &str| {
            let page = server.get("/metrics").body;
            let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
            lines.map(|(_, value)| value.parse::<f64>().unwrap()).sum::<f64>()
        };
        assert!(counter("prometheus_remote_storage_samples_total{") >= 10.0);
        assert!(counter("prometheus_remote_storage_samples_dropped_total{") >= 20.0);
        assert_eq!(counter("prometheus_remote_storage_samples_failed_total{"), 0.0);
        assert!(!server.log().contains("sesame") && !server.get("/metrics").body.contains("sesame"));
    }
}

/// An endpoint that is away, a kill in the meantime, and another one: everything arrives in its order.
#[test]
fn nothing_is_lost_while_an_endpoint_is_away_and_across_a_kill() {
    let (target, receiver) = (counting(), Receiver::start());
    let yaml = config(&[job("j", &[target.address], "")]) + &remote_write(&receiver.section(""));
    let mut server = Ringscrape::start(&yaml, &[]);
    until("some samples", || (receiver.of("__name__=\"a\"").len() >= 3).then_some(()));
    receiver.answers(503);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(
        server.get("/metrics").body.lines().any(|line| {
            line.starts_with("prometheus_remote_storage_samples_retried_total{") && !line.ends_with(" 0")
        })
    );
    assert_eq!(server.log().matches("sending failed; it is tried again").count(), 1, "{}", server.log());
    server.restart(SIGKILL, &[]);
    server.until_ready();
    std::thread::sleep(Duration::from_millis(800));
    receiver.answers(200);
    let everything = |server: &Ringscrape| {
        until("everything that is stored has arrived", || {
            let (want, got) = (stored(server.address, "a[1h]"), receiver.of("__name__=\"a\""));
            (want.len() > 10 && want.iter().all(|sample| got.get(sample.0) == Some(sample.1))).then_some(want)
        })
    };
    everything(&server);
    let repeated = receiver.with(|received| received.repeated);
    assert!(repeated <= 4 * 7, "{repeated} samples came twice after the kill");
    server.restart(SIGTERM, &[]);
    server.until_ready();
    let before = everything(&server).len();
    until("it goes on", || (everything(&server).len() > before + 3).then_some(()));
    // After an end in order nothing comes twice.
    receiver.with(|received| assert_eq!((received.out_of_order, received.repeated), (0, repeated)));
    until("logs that were sent are let go", || {
        let kept = std::fs::read_dir(server.path("data/remote-write")).unwrap();
        let starts = kept.filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.split_once('-')?.0.to_owned()));
        (starts.collect::<std::collections::BTreeSet<_>>().len() == 1).then_some(())
    });
}

#[test]
fn what_is_refused_is_given_up_and_counted() {
    let (target, receiver) = (counting(), Receiver::start());
    let yaml = config(&[job("j", &[target.address], "")]) + &remote_write(&receiver.section("    name: far\n"));
    receiver.answers(400);
    let server = Ringscrape::start(&yaml, &[]);
    let failed = || {
        let page = server.get("/metrics").body;
        let line =
            page.lines().find(|line| line.starts_with("prometheus_remote_storage_samples_failed_total{"))?.to_owned();
        assert!(line.contains("remote_name=\"far\""), "{line}");
        line.rsplit_once(' ')?.1.parse::<f64>().ok().filter(|failed| *failed > 0.0)
    };
    until("samples are refused", failed);
    assert!(server.log().contains("server returned HTTP status 400"), "{}", server.log());
    assert_eq!(receiver.count(), 0);
    let page = server.get("/api/v1/ringscrape/status/remote_write").body;
    assert!(page.contains("far") && page.contains("server returned HTTP status 400"), "{page}");
    receiver.answers(200);
    until("later ones are taken", || (receiver.count() > 10).then_some(()));
    assert!(!receiver.of("__name__=\"a\"").values().any(|bits| f64::from_bits(*bits) == 0.0), "the first is gone");
}

/// Whoever wants nothing is not taken for one who is away: the logs are let go.
#[test]
fn an_endpoint_that_wants_nothing_is_not_behind() {
    let (target, receiver) = (counting(), Receiver::start());
    let drop = "    write_relabel_configs: [{source_labels: [__name__], regex: '.*', action: drop}]\n";
    let yaml = config(&[job("j", &[target.address], "")]) + &remote_write(&receiver.section(drop));
    let server = Ringscrape::start(&yaml, &[]);
    let cursor = || {
        let entries = std::fs::read_dir(server.path("data/remote-write")).ok()?;
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let path = paths.find(|path| path.extension().is_some_and(|ending| ending == "json"))?;
        let json: Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
        json["logs"].as_array()?.iter().filter_map(|log| log["offset"].as_u64()).max()
    };
    let first = until("the cursor moves", || cursor().filter(|offset| *offset > 0));
    until("it moves on", || cursor().filter(|offset| *offset > first));
    assert_eq!(receiver.count(), 0);
}

#[test]
fn endpoints_come_and_go_with_the_configuration() {
    let (target, one, other) = (counting(), Receiver::start(), Receiver::start());
    let jobs = config(&[job("j", &[target.address], "")]);
    let server = Ringscrape::start(&jobs, &[]);
    let reload = |sections: &str| {
        let remote = if sections.is_empty() { String::new() } else { remote_write(sections) };
        std::fs::write(server.path("prometheus.yml"), format!("{jobs}{remote}")).unwrap();
        server.signal(SIGHUP);
    };
    until("scraped", || (stored(server.address, "a[1h]").len() > 3).then_some(()));
    assert!(!server.path("data/remote-write").exists());
    reload(&one.section(""));
    until("samples", || (one.count() > 20).then_some(()));
    let (first, _) = one.of("__name__=\"a\"").pop_first().unwrap();
    let before = stored(server.address, "a[1h]").range(..first).count();
    assert!(before >= 3, "what was there before is not sent");
    // The first goes on where it was, though it sends otherwise now.
    reload(&(one.section("    send_exemplars: true\n") + &other.section("")));
    until("both", || (other.count() > 20).then_some(()));
    let (first, last) = (first, *one.of("__name__=\"a\"").last_key_value().unwrap().0);
    let want: BTreeMap<_, _> =
        stored(server.address, "a[1h]").range(first..=last).map(|(at, bits)| (*at, *bits)).collect();
    until("no gap", || (one.of("__name__=\"a\"").range(first..=last).count() == want.len()).then_some(()));
    reload("");
    until("nothing is kept", || (!server.path("data/remote-write").exists()).then_some(()));
    let count = one.count();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(one.count(), count);
}

/// The same from Prometheus' point of view, and from our own.
#[test]
fn prometheus_and_ringscrape_take_what_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, "scrape_configs: []\n").unwrap();
    let theirs = Prometheus::start(&file, &folder.path().join("data"), &["--web.enable-remote-write-receiver"]);
    let ours = Ringscrape::start("scrape_configs: []\n", &["--web.enable-remote-write-receiver"]);
    let target = counting();
    let section = |address: SocketAddr, message: &str| {
        format!(
            "  - url: http://{address}/api/v1/write\n    protobuf_message: {message}\n    queue_config: \
             {{batch_send_deadline: 100ms}}\n"
        )
    };
    let sections =
        section(theirs.address, "prometheus.WriteRequest") + &section(ours.address, "io.prometheus.write.v2.Request");
    let server = Ringscrape::start(&(config(&[job("j", &[target.address], "")]) + &remote_write(&sections)), &[]);
    until("some scrapes", || (stored(server.address, "a[1h]").len() > 8).then_some(()));
    target.now(|_| b"HTTP/1.1 500 Gone\r\nContent-Length: 0\r\n\r\n".to_vec());
    until("a has ended", || stored(server.address, "a[1h]").len().gt(&8).then_some(()));
    for address in [theirs.address, ours.address] {
        until("all of a is there", || (stored(address, "a[1h]") == stored(server.address, "a[1h]")).then_some(()));
        until("the marker ends it", || {
            let answer = request(address, "GET", &format!("/api/v1/query?query={}", encode("a")), &[]);
            answer.body.contains("\"result\":[]").then_some(())
        });
    }
}
