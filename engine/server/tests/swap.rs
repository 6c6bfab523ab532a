//! The binary is swapped on a data folder: Debian's Prometheus out, ringscrape in, and back. The same queries answer the
//! same, to the last scrape.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use support::{FakeTarget, Prometheus, Ringscrape, config, encode, job, ok, request, until};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

type Samples = BTreeMap<String, BTreeMap<i64, String>>;

/// A target with a counter, gauges, a NaN, and a line that comes and goes.
fn target() -> FakeTarget {
    let scrapes = Arc::new(AtomicU64::new(0));
    FakeTarget::start(move |_| {
        let value = scrapes.fetch_add(1, Ordering::Relaxed);
        let parts: String = (0..30).map(|i| format!("part{{i=\"{i}\"}} {}\n", value / (i + 1))).collect();
        let sometimes = if value % 7 < 4 { "sometimes 1\n" } else { "" };
        ok(&format!("scrapes_total {value}\nnothing NaN\nsmall {}\n{sometimes}{parts}", value as f64 / 8.0))
    })
}

fn samples(address: SocketAddr, selector: &str) -> Samples {
    let path = format!("/api/v1/query?query={}", encode(selector));
    let answer: Value = serde_json::from_str(&request(address, "GET", &path, &[]).body).unwrap();
    let mut samples = Samples::new();
    for series in answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}")) {
        let of_series = samples.entry(series["metric"].to_string()).or_default();
        for point in series["values"].as_array().unwrap() {
            let at = (point[0].as_f64().unwrap() * 1000.0).round() as i64;
            of_series.insert(at, point[1].as_str().unwrap().to_owned());
        }
    }
    samples
}

fn count(samples: &Samples) -> usize {
    samples.values().map(BTreeMap::len).sum()
}

fn newest(samples: &Samples) -> i64 {
    samples.values().filter_map(|of_series| of_series.keys().next_back()).copied().max().unwrap_or(0)
}

const ALL: &str = "{job=\"swap\"}[1h]";
const EXPRESSIONS: [&str; 4] =
    ["sum(scrapes_total)", "sum by (i) (increase(part[20s]))", "max_over_time(small[30s])", "count(sometimes)"];

/// Ranges of expressions that end at a time which both programs have in the past.
fn answers(address: SocketAddr, end: i64) -> Vec<Value> {
    // Beside the times of the scrapes: whether the start of a range belongs to it has changed since Prometheus 2.
    let end = end + 37;
    let ask = |expression: &&str| {
        let (start, end) = ((end - 30_000) as f64 / 1000.0, end as f64 / 1000.0);
        let path = format!("/api/v1/query_range?query={}&start={start}&end={end}&step=1", encode(expression));
        let mut answer: Value = serde_json::from_str(&request(address, "GET", &path, &[]).body).unwrap();
        assert_eq!(answer["status"], "success", "{answer}");
        let mut result = answer["data"]["result"].take();
        result.as_array_mut().unwrap().sort_by_key(|series| series["metric"].to_string());
        result
    };
    EXPRESSIONS.iter().map(ask).collect()
}

/// Equal but for the series and samples that only one of the scrapers makes.
#[track_caller]
fn same(one: &Samples, other: &Samples, what: &str) {
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "{what}");
    for (series, samples) in one {
        assert_eq!(samples, &other[series], "{what}: {series}");
    }
}

/// What was scraped up to a time.
fn until_time(mut samples: Samples, end: i64) -> Samples {
    samples.values_mut().for_each(|of_series| of_series.retain(|at, _| *at <= end));
    samples.retain(|_, of_series| !of_series.is_empty());
    samples
}

fn idle(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("idle.yml");
    std::fs::write(&file, "scrape_configs: []\n").unwrap();
    file
}

fn ringscrape(arguments: &[&str], folder: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringscrape")).args(arguments).arg(folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn prometheus_is_replaced_and_comes_back() {
    let targets = [target(), target()];
    let addresses: Vec<_> = targets.iter().map(|target| target.address).collect();
    let config = config(&[job("swap", &addresses, "scrape_interval: 100ms\nscrape_timeout: 100ms")]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), &config).unwrap();
    let data = folder.path().join("data");

    // Prometheus scrapes until the first chunks of its head, of 120 samples, are mapped. Then it is killed.
    let file = folder.path().join("prometheus.yml");
    let prometheus = Prometheus::start(&file, &data, &[]);
    let longest = || samples(prometheus.address, "up[1h]").values().map(BTreeMap::len).max();
    until("Prometheus has filled chunks", || (longest() > Some(140)).then_some(()));
    targets.iter().for_each(|target| target.now(|_| Vec::new()));
    let theirs = {
        // Two equal answers: nothing more comes than what is there.
        let mut last = 0;
        until("the last scrape is in", || {
            std::thread::sleep(std::time::Duration::from_millis(500));
            let of_parts = samples(prometheus.address, "part{job=\"swap\"}[1h]");
            let before = std::mem::replace(&mut last, newest(&of_parts));
            (before == last).then_some(())
        });
        samples(prometheus.address, ALL)
    };
    let end = newest(&theirs);
    let their_answers = answers(prometheus.address, end);
    drop(prometheus);
    assert!(data.join("wal/00000000").exists());
    let (listed, text) = ringscrape(&["tsdb", "list"], &data);
    assert!(listed && text.contains("tsdb import"), "{text}");

    // Ringscrape goes on in the folder.
    targets.iter().for_each(|target| target.now_says("scrapes_total 5\npart{i=\"0\"} 7\n"));
    let mut server = Ringscrape::start_in(folder, &[]);
    server.until_ready();
    same(&until_time(samples(server.address, ALL), end), &until_time(theirs.clone(), end), "after the swap");
    assert_eq!(answers(server.address, end), their_answers);
    let log = server.log();
    assert!(log.contains("Prometheus' head was imported"), "{log}");
    assert!(data.join("prometheus-head/000001/wal/00000000").exists());

    // A kill later it is still there, and taken once.
    server.restart(SIGKILL, &[]);
    server.until_ready();
    same(&until_time(samples(server.address, ALL), end), &until_time(theirs.clone(), end), "after a kill");
    assert!(!data.join("prometheus-head/000002").exists());
    until("ringscrape has scraped", || (newest(&samples(server.address, "part[1h]")) > end + 3000).then_some(()));

    // And back: the end puts everything into blocks.
    server.restart(SIGTERM, &["--storage.tsdb.export-on-shutdown"]);
    server.until_ready();
    until("it has scraped again", || (newest(&samples(server.address, "part[1h]")) > end + 6000).then_some(()));
    targets.iter().for_each(|target| target.now(|_| Vec::new()));
    let mut last = 0;
    until("the last scrape is in", || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        let before = std::mem::replace(&mut last, newest(&samples(server.address, "part[1h]")));
        (before == last).then_some(())
    });
    let ours = samples(server.address, ALL);
    let end = newest(&ours);
    let our_answers = answers(server.address, end);
    server.signal(SIGTERM);
    assert!(server.wait().success(), "{}", server.log());
    let (verified, text) = ringscrape(&["tsdb", "verify"], &data);
    assert!(verified && text.contains("ok: 0 samples in chunks"), "{text}");
    let prometheus = Prometheus::start(&idle(server.folder.path()), &data, &[]);
    same(&until_time(samples(prometheus.address, ALL), end), &ours, "back at Prometheus");
    assert_eq!(answers(prometheus.address, end), our_answers);
}

#[test]
fn a_head_is_imported_and_exported_by_hand() {
    let target = target();
    let config = config(&[job("swap", &[target.address], "")]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), &config).unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("prometheus.yml");
    // Blocks of a few seconds: some are cut, the log has a checkpoint, the rest is in the head.
    let flags = ["--storage.tsdb.min-block-duration=4s", "--storage.tsdb.max-block-duration=4s"];
    let prometheus = Prometheus::start(&file, &data, &flags);
    let blocks =
        || std::fs::read_dir(&data).unwrap().flatten().filter(|entry| entry.path().join("index").exists()).count();
    until("Prometheus has cut a block", || (blocks() > 0).then_some(()));
    until("and scraped on", || (count(&samples(prometheus.address, "part[1h]")) > 1500).then_some(()));
    let theirs = samples(prometheus.address, ALL);
    drop(prometheus);
    let (good, text) = ringscrape(&["tsdb", "import"], &data);
    assert!(good && text.contains("samples from"), "{text}");
    let (good, text) = ringscrape(&["tsdb", "import"], &data);
    assert!(good && text.contains("nothing but blocks"), "{text}");
    let (good, text) = ringscrape(&["tsdb", "verify"], &data);
    assert!(good, "{text}");
    let idle = idle(folder.path());
    std::fs::copy(&idle, folder.path().join("prometheus.yml")).unwrap();
    let mut server = Ringscrape::start_in(folder, &[]);
    server.until_ready();
    let end = newest(&theirs);
    let ours = until_time(samples(server.address, ALL), end);
    same(&ours, &theirs, "after an import by hand");
    server.signal(SIGTERM);
    assert!(server.wait().success());
    let (good, text) = ringscrape(&["tsdb", "export", "--to-blocks"], &data);
    assert!(good && text.contains("samples put into"), "{text}");
    let promtool = Command::new("promtool").args(["tsdb", "list"]).arg(&data).output().unwrap();
    assert!(promtool.status.success());
}
