//! The real binary in agent mode: it scrapes and sends, keeps what it could not send, and serves what is left to serve.

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::receiver::{Receiver, Reply};
use support::{FakeTarget, Prometheus, Ringscrape, config, free, job, ok, request, until};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGHUP: i32 = 1;

/// A target whose counter grows with each scrape.
fn counting() -> FakeTarget {
    let count = AtomicU64::new(0);
    FakeTarget::start(move |_| {
        let count = count.fetch_add(1, Ordering::Relaxed);
        ok(&format!("# HELP a Text.\n# TYPE a counter\na {count}\nb{{x=\"y\"}} 2\n"))
    })
}

fn sends_to(jobs: &[String], receiver: &Receiver) -> String {
    format!("{}remote_write:\n{}", config(jobs), receiver.section(""))
}

/// Samples of `a`, by value: the target counts its scrapes, so a gap in the values is a scrape that did not arrive.
fn values_of_a(receiver: &Receiver) -> BTreeMap<u64, usize> {
    let mut values = BTreeMap::new();
    for bits in receiver.of("__name__=\"a\"").values() {
        *values.entry(f64::from_bits(*bits) as u64).or_default() += 1;
    }
    values
}

#[test]
fn it_scrapes_and_sends_and_keeps_neither_chunks_nor_blocks() {
    let (target, receiver) = (counting(), Receiver::start(Reply::stored));
    let server = Ringscrape::start(&sends_to(&[job("j", &[target.address], "")], &receiver), &["--agent"]);
    until("some samples", || (values_of_a(&receiver).len() >= 8).then_some(()));
    let values = values_of_a(&receiver);
    assert!(values.keys().copied().eq(0..values.len() as u64), "{values:?}");
    target.now_says("c 3\n");
    until("the marker of a", || {
        receiver.of("__name__=\"a\"").values().any(|bits| series::is_stale(f64::from_bits(*bits))).then_some(())
    });
    until("c", || (receiver.of("__name__=\"c\"").len() >= 2).then_some(()));
    receiver.with(|received| assert_eq!((received.repeated, received.out_of_order), (0, 0)));
    let entries = std::fs::read_dir(server.path("data")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["boot", "lock", "log", "remote-write", "starts"]);
    until("series are counted", || server.metric("prometheus_agent_active_series").filter(|series| *series > 0.0));
    assert!(server.metric("prometheus_agent_samples_appended_total{type=\"float\"}").unwrap() > 40.0);
}

/// An endpoint that is away, a kill and an orderly end in the meantime: everything arrives, in its order.
#[test]
fn nothing_is_missing_while_the_endpoint_is_away_and_across_restarts() {
    let (target, receiver) = (counting(), Receiver::start(Reply::stored));
    let yaml = sends_to(&[job("j", &[target.address], "")], &receiver);
    let mut server = Ringscrape::start(&yaml, &["--agent", "--shards=2"]);
    until("some samples", || (values_of_a(&receiver).len() >= 3).then_some(()));
    receiver.now(|_| Reply::status(503, "away"));
    std::thread::sleep(Duration::from_millis(1200));
    server.restart(SIGKILL, &["--agent", "--shards=1"]);
    server.until_ready();
    std::thread::sleep(Duration::from_millis(1200));
    server.restart(SIGTERM, &["--agent", "--shards=2"]);
    server.until_ready();
    std::thread::sleep(Duration::from_millis(600));
    let scraped = target.request_count() as u64;
    receiver.now(Reply::stored);
    // The log of the moment before the kill may lack a scrape whose answer had just come.
    until("everything has arrived", || {
        let values = values_of_a(&receiver);
        (values.keys().next_back() >= Some(&scraped) && values.len() as u64 + 2 >= scraped).then_some(())
    });
    receiver.with(|received| assert_eq!(received.out_of_order, 0));
    until("logs that were sent are removed", || {
        let kept = std::fs::read_dir(server.path("data/remote-write")).unwrap();
        let starts = kept.filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.split_once('-')?.0.to_owned()));
        (starts.collect::<std::collections::BTreeSet<_>>().len() == 1).then_some(())
    });
    let log = std::fs::read_dir(server.path("data/log")).unwrap().count();
    assert!(log <= 2, "logs of earlier runs are only where they are sent from: {log}");
}

/// A bound in bytes: the oldest logs go, and it is said how much that was.
#[test]
fn beyond_the_bound_of_bytes_the_oldest_logs_are_given_up_and_counted() {
    let lines: String = (0..2000).map(|line| format!("m{{line=\"{line}\"}} {line}.123456789\n")).collect();
    let (target, receiver) = (FakeTarget::saying(&lines), Receiver::start(Reply::stored));
    receiver.now(|_| Reply::status(503, "away"));
    let yaml = sends_to(&[job("j", &[target.address], "")], &receiver);
    let flags = ["--agent", "--storage.agent.retention.size=10KB"];
    let mut server = Ringscrape::start(&yaml, &flags);
    // Each start leaves a log.
    for _ in 0..2 {
        until("some scrapes", || (server.targets()[0]["scrapes"].as_u64() >= Some(5)).then_some(()));
        server.restart(SIGTERM, &flags);
        server.until_ready();
    }
    let counter = |name: &str| {
        let page = server.get("/metrics").body;
        page.lines().find_map(|line| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or(0.0)
    };
    until("logs are given up", || (counter("ringscrape_remote_storage_files_lost_total{") >= 1.0).then_some(()));
    assert!(counter("ringscrape_remote_storage_log_bytes_lost_total{") > 1000.0);
    assert!(counter("ringscrape_remote_storage_rows_lost_total{") >= 5.0);
    assert!(server.log().contains("has not read within the retention limit"), "{}", server.log());
    receiver.now(Reply::stored);
    until("later samples arrive", || (receiver.of("__name__=\"m\"").len() >= 3).then_some(()));
}

/// Two agents divide the targets by one list and send to a Debian Prometheus. It goes away, one agent is killed, the other takes
/// over, both come back: each scrape of each target is there.
#[test]
fn two_agents_behind_one_list_lose_nothing_when_one_is_killed() {
    const TARGETS: usize = 12;
    const INTERVAL_MS: i64 = 500;
    let counts: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let target = FakeTarget::start(move |path| {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(path.to_owned()).or_default();
        *count += 1;
        ok(&format!("a {count}\n"))
    });
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("receiver.yml"), "storage: {tsdb: {out_of_order_time_window: 1h}}\n").unwrap();
    let flags = ["--web.enable-remote-write-receiver"];
    let receiver = Prometheus::start(&file("receiver.yml"), &file("receiver"), &flags);
    let (receiver_address, addresses) = (receiver.address, [free("127.0.0.9"), free("127.0.0.9")]);
    let list = |members: &[usize]| {
        let member = |at: &usize| format!(r#"{{"targets": ["{}"], "labels": {{"member": "m{at}"}}}}"#, addresses[*at]);
        let members: Vec<String> = members.iter().map(member).collect();
        std::fs::write(file("members.new"), format!("[{}]", members.join(","))).unwrap();
        std::fs::rename(file("members.new"), file("members.json")).unwrap();
    };
    list(&[0, 1]);
    let yaml = |name: &str| {
        let paths: String = (0..TARGETS)
            .map(|i| {
                format!(
                    "      - {{targets: ['{}'], labels: {{__metrics_path__: '/t{i}', path: 't{i}'}}}}\n",
                    target.address
                )
            })
            .collect();
        format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\nfleet:\n  member: {name}\n  hash_labels: [path]\n  \
             file_sd_configs: [{{files: ['{}']}}]\nremote_write:\n  - url: http://{receiver_address}/api/v1/write\n    \
             queue_config: {{batch_send_deadline: 200ms, max_backoff: 500ms}}\nscrape_configs:\n  - job_name: j\n    \
             static_configs:\n{paths}",
            file("members.json").display()
        )
    };
    let listen = addresses.map(|address| format!("--web.listen-address={address}"));
    let flags = |at: usize| ["--agent", "--shards=1", listen[at].as_str()];
    let mut killed = Ringscrape::start(&yaml("m0"), &flags(0));
    let heir = Ringscrape::start(&yaml("m1"), &flags(1));
    // Samples of `a` at the receiver, for each path: the value by the time in milliseconds.
    let arrived = || {
        let answer = request(receiver_address, "GET", "/api/v1/query?query=a%5B1h%5D", &[]);
        let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let mut samples: BTreeMap<String, BTreeMap<i64, u64>> = BTreeMap::new();
        for series in json["data"]["result"].as_array().unwrap() {
            let path = series["metric"]["path"].as_str().unwrap().to_owned();
            let of_series = series["values"].as_array().unwrap().iter();
            let sample = |one: &serde_json::Value| {
                ((one[0].as_f64().unwrap() * 1000.0).round() as i64, one[1].as_str().unwrap().parse::<u64>().unwrap())
            };
            samples.entry(path).or_default().extend(of_series.map(sample));
        }
        samples
    };
    until("all targets at the receiver", || (arrived().len() == TARGETS).then_some(()));
    let shares = [&killed, &heir].map(|agent| agent.targets().len());
    assert!(shares.iter().all(|share| (1..TARGETS).contains(share)) && shares[0] + shares[1] == TARGETS, "{shares:?}");
    drop(receiver);
    std::thread::sleep(Duration::from_secs(2));
    killed.signal(SIGKILL);
    killed.wait();
    list(&[1]);
    until("the other has all targets", || (heir.targets().len() == TARGETS).then_some(()));
    std::thread::sleep(Duration::from_secs(2));
    let flags_of_receiver = ["--web.enable-remote-write-receiver"];
    let receiver = Prometheus::start_at(receiver_address, &file("receiver.yml"), &file("receiver"), &flags_of_receiver);
    list(&[0, 1]);
    killed.restart_ended(&flags(0));
    // Each value was given to one scrape. Where one is not there, either the scrape has left no trace, and there is a hole in
    // the times; or the other agent scraped the target at the same time, as both do while it moves back: they have one phase, and
    // a series has one sample of a time.
    let missing = |samples: &BTreeMap<i64, u64>| {
        let mut lost = samples.values().min().map_or(0, |first| first - 1);
        let ordered: Vec<(i64, u64)> = samples.iter().map(|(at, value)| (*at, *value)).collect();
        for pair in ordered.windows(2) {
            let [(before, one), (at, other)] = [pair[0], pair[1]];
            let is_hole = at - before > INTERVAL_MS * 3 / 2;
            lost += if is_hole { other.saturating_sub(one + 1) } else { 0 };
        }
        lost
    };
    until("no scrape is missing", || {
        let arrived = arrived();
        let is_whole = |samples: &BTreeMap<i64, u64>| {
            // The scrape that was answered and not logged yet when the agent was killed.
            samples.values().max() >= Some(&16) && missing(samples) <= 1
        };
        (arrived.len() == TARGETS && arrived.values().all(is_whole)).then_some(())
    });
    drop(receiver);
}

fn ends(yaml: &str, flags: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), yaml).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .current_dir(folder.path())
        .arg(format!("--web.listen-address={}", free("127.0.0.1")))
        .args(flags)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn flags_and_sections_of_the_other_mode_are_refused_in_prometheus_words() {
    #[track_caller]
    fn check(yaml: &str, flags: &[&str], exit_code: i32, want: &str) {
        let (code, said) = ends(yaml, flags);
        assert!(code == Some(exit_code) && said.contains(want), "{flags:?}: {code:?} {said}");
    }
    let cannot = "The following flag(s) can not be used in agent mode: [\"--storage.tsdb.path\"]";
    check("", &["--agent", "--storage.tsdb.path=x"], 3, cannot);
    check("", &["--agent", "--query.timeout=1m"], 3, "can not be used in agent mode: [\"--query.timeout\"]");
    let only = "The following flag(s) can only be used in agent mode: [\"--storage.agent.path\"]";
    check("", &["--storage.agent.path=x"], 3, only);
    check("rule_files: [a.yml]\n", &["--agent"], 2, "field rule_files is not allowed in agent mode");
    let alerting = "alerting: {alertmanagers: [{static_configs: [{targets: ['h:1']}]}]}\n";
    check(alerting, &["--agent"], 2, "field alerting is not allowed in agent mode");
    check("remote_read: [{url: 'http://h/r'}]\n", &["--agent"], 2, "field remote_read is not allowed in agent mode");
}

#[test]
fn what_an_agent_does_not_serve_is_refused_and_the_rest_is_there() {
    let (target, receiver) = (counting(), Receiver::start(Reply::stored));
    let yaml = sends_to(&[job("j", &[target.address], "")], &receiver);
    let server = Ringscrape::start(&yaml, &["--agent"]);
    assert_eq!(server.get("/-/ready").body, "ringscrape agent is Ready.\n");
    let answer = server.get("/api/v1/query?query=up");
    assert_eq!(answer.status, 422);
    let want = r#"{"error":"unavailable with Prometheus Agent","errorType":"execution","status":"error"}"#;
    assert_eq!(answer.body, want);
    for path in ["/api/v1/labels", "/api/v1/label/job/values", "/api/v1/rules", "/api/v1/status/tsdb"] {
        assert_eq!(server.get(path).status, 422, "{path}");
    }
    assert_eq!(request(server.address, "POST", "/api/v1/admin/tsdb/snapshot", &[]).status, 422);
    let federate = server.get("/federate?match[]=up");
    assert_eq!((federate.status, federate.body.trim()), (500, "unsupported operation with WAL-only storage"));
    for path in ["/query", "/rules", "/alerts", "/tsdb-status"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    for (path, to) in [("/", "/agent"), ("/graph", "/query")] {
        let answer = server.get(path);
        assert!(answer.status == 302 && answer.head.contains(&format!("location: {to}")), "{path}: {}", answer.head);
    }
    for path in ["/agent", "/targets", "/config", "/flags", "/status", "/service-discovery", "/fleet", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    for path in ["targets", "scrape_pools", "metadata", "targets/metadata", "status/walreplay", "status/runtimeinfo"] {
        server.api(&format!("/api/v1/{path}"));
    }
    assert_eq!(server.api("/api/v1/status/flags")["agent"], "true");
    until("what the page shows has the endpoint", || {
        let endpoints = server.get("/api/v1/ringscrape/status/remote_write").body;
        endpoints.contains(&receiver.address.to_string()).then_some(())
    });
    let page = server.get("/agent").body;
    assert!(page.contains("data-page=\"agent\"") && !page.contains("href=\"query\""), "{page}");
    let metrics = server.get("/metrics").body;
    assert!(!metrics.contains("prometheus_rule_") && !metrics.contains("prometheus_tsdb_blocks_loaded"));
    // A reload is judged in the same way.
    std::fs::write(server.path("prometheus.yml"), format!("{yaml}rule_files: [a.yml]\n")).unwrap();
    server.signal(SIGHUP);
    until("the reload is refused", || {
        server.log().contains("field rule_files is not allowed in agent mode").then_some(())
    });
    let other = Ringscrape::start("", &[]);
    assert_eq!(other.get("/agent").status, 404);
}
