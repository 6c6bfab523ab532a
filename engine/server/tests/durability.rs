//! What was visible stays: the real binary, killed, restarted, out of disk, beside Debian's Prometheus.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{FakeTarget, Prometheus, Ringscrape, config, encode, job, ok, request, until};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGSTOP: i32 = 19;

/// Samples by series: milliseconds and value.
type Samples = BTreeMap<String, BTreeMap<i64, String>>;

fn matrix(data: &Value) -> Samples {
    let mut samples = Samples::new();
    for series in data["result"].as_array().unwrap() {
        let of_series = samples.entry(series["metric"].to_string()).or_default();
        for point in series["values"].as_array().unwrap() {
            let at = (point[0].as_f64().unwrap() * 1000.0).round() as i64;
            of_series.insert(at, point[1].as_str().unwrap().to_owned());
        }
    }
    samples
}

fn samples(server: &Ringscrape, selector: &str) -> Samples {
    matrix(&server.api(&format!("/api/v1/query?query={}", encode(selector))))
}

/// Everything in `old` is in `new`.
#[track_caller]
fn contains(new: &Samples, old: &Samples, what: &str) {
    for (series, samples) in old {
        let kept = new.get(series);
        let lost: Vec<_> =
            samples.iter().filter(|(at, value)| kept.and_then(|kept| kept.get(at)) != Some(value)).collect();
        assert!(
            lost.is_empty(),
            "{what}: {series} lost {} of {}: {:?}",
            lost.len(),
            samples.len(),
            &lost[..lost.len().min(5)]
        );
    }
}

fn count(samples: &Samples) -> usize {
    samples.values().map(BTreeMap::len).sum()
}

/// A target whose counter goes up with every scrape.
fn counter() -> FakeTarget {
    let scrapes = Arc::new(AtomicU64::new(0));
    FakeTarget::start(move |_| {
        let value = scrapes.fetch_add(1, Ordering::Relaxed);
        let rest: String = (0..20).map(|i| format!("part{{i=\"{i}\"}} {}\n", value / (i + 1))).collect();
        ok(&format!("scrapes_total {value}\n{rest}"))
    })
}

const ALL: &str = "{job=\"counter\"}[1h]";

/// Rounds of kill -9 under scrapes, with a ledger of what a client has seen. `RINGSCRAPE_KILL_ROUNDS` asks for more.
#[test]
fn nothing_visible_is_lost_by_kill() {
    let rounds: u64 = std::env::var("RINGSCRAPE_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let targets = [counter(), counter(), counter()];
    let addresses: Vec<_> = targets.iter().map(|target| target.address).collect();
    let config = config(&[job("counter", &addresses, "scrape_interval: 100ms\nscrape_timeout: 100ms")]);
    let mut server = Ringscrape::start(&config, &["--shards=2"]);
    let mut ledger = Samples::new();
    let mut seen = 0;
    for round in 0..rounds {
        // At a different moment of the 50 ms between two writes each time.
        std::thread::sleep(Duration::from_millis(150 + round * 7 % 120));
        server.until_ready();
        let visible = samples(&server, "{job=\"counter\"}[2s]");
        seen += count(&visible);
        for (series, samples) in visible {
            ledger.entry(series).or_default().extend(samples);
        }
        server.restart(SIGKILL, if round % 3 == 0 { &["--shards=1"] } else { &["--shards=2"] });
        if round % 20 == 19 || round + 1 == rounds {
            server.until_ready();
            contains(&samples(&server, ALL), &ledger, &format!("after round {round}"));
        }
    }
    assert!(seen as u64 > rounds * 60, "{seen} samples seen in {rounds} rounds");
    assert_eq!(server.metric("prometheus_tsdb_wal_corruptions_total"), Some(0.0));
}

#[test]
fn orderly_end_loses_nothing() {
    let target = counter();
    let config = config(&[job("counter", &[target.address], "")]);
    let mut server = Ringscrape::start(&config, &[]);
    until("some scrapes", || (count(&samples(&server, ALL)) > 200).then_some(()));
    let before = samples(&server, ALL);
    server.restart(SIGTERM, &[]);
    server.until_ready();
    contains(&samples(&server, ALL), &before, "after SIGTERM");
    let replay = server.api("/api/v1/status/walreplay");
    assert_eq!((&replay["state"], &replay["rowsLost"]), (&"done".into(), &0.into()), "{replay}");
    // An instant query right after the start still finds the value of before.
    assert!(server.value("scrapes_total").is_some());
}

#[test]
fn second_process_says_who_holds_the_folder() {
    let server = Ringscrape::start(&config(&[]), &[]);
    let second = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .arg(format!("--config.file={}", server.path("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", server.path("data").display()))
        .arg("--web.listen-address=127.0.0.1:0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("held by process {}", server.pid())), "{said}");
}

/// A small file system fills up and is freed again: scraping goes on, it is told, and both sides survive a restart.
#[test]
fn full_disk_leaves_both_sides() {
    let target = counter();
    let config = config(&[job("counter", &[target.address], "")]);
    // Where there are no mounts, the simulated disk of storage/tsdb/tests/crashes.rs fills up.
    let Some((mut server, inside)) = Ringscrape::start_on_disk(2, &config, &[]) else { return };
    let filler = format!("{inside}/filler");
    until("some scrapes", || (count(&samples(&server, ALL)) > 200).then_some(()));
    let before = samples(&server, ALL);
    let fill = std::fs::write(&filler, vec![1; 4 << 20]);
    assert!(fill.is_err(), "the file system is full");
    until("the log fails", || server.metric("ringscrape_log_failing").filter(|failing| *failing > 0.0));
    assert!(server.log().contains("No space left on device"), "{}", server.log());
    let scrapes = target.request_count();
    until("scraping goes on", || (target.request_count() > scrapes + 10).then_some(()));
    let within = samples(&server, ALL);
    assert!(count(&within) > count(&before) + 100, "what is scraped meanwhile is visible");
    std::fs::remove_file(&filler).unwrap();
    until("the log works again", || server.metric("ringscrape_log_failing").filter(|failing| *failing == 0.0));
    let scrapes = target.request_count();
    until("some more scrapes", || (target.request_count() > scrapes + 10).then_some(()));
    let after = samples(&server, ALL);
    // The mount ends with the process: what it holds is copied while it is stopped, as if it had been killed there.
    server.signal(SIGSTOP);
    let saved = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").args(["-r", &inside]).arg(saved.path()).status().unwrap();
    assert!(copied.success());
    server.signal(SIGKILL);
    server.wait();
    let config_text = std::fs::read_to_string(server.path("prometheus.yml")).unwrap();
    std::fs::write(saved.path().join("prometheus.yml"), config_text).unwrap();
    let server = Ringscrape::start_in(saved, &[]);
    server.until_ready();
    let survived = samples(&server, ALL);
    contains(&survived, &before, "before the gap");
    contains(&survived, &after, "before, within and after the gap");
}

/// A file system of its own that loses power: `make soak` runs it, as root, since it needs a loop device.
#[test]
#[ignore = "needs root and a loop device"]
fn power_cut_costs_a_second_and_a_half() {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let target = counter();
    let config = config(&[job("counter", &[target.address], "scrape_interval: 100ms\nscrape_timeout: 100ms")]);
    let mut worst = 0;
    for round in 0..10u64 {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("prometheus.yml"), &config).unwrap();
        let (image, data) = (folder.path().join("image"), folder.path().join("data"));
        let (image, data) = (image.to_str().unwrap().to_owned(), data.to_str().unwrap().to_owned());
        std::fs::create_dir(&data).unwrap();
        run("truncate", &["-s", "64M", &image]);
        run("mkfs.ext4", &["-q", &image]);
        run("mount", &["-o", "loop", &image, &data]);
        let mut server = Ringscrape::start_in(folder, &[]);
        std::thread::sleep(Duration::from_millis(3000 + round * 171));
        let before = samples(&server, "scrapes_total[1h]");
        // FS_IOC_SHUTDOWN without a flush: what was not synced is gone.
        let shutdown = "open(my $f, '<', $ARGV[0]) or die; my $a = pack('L', 2); ioctl($f, 0x8004587d, $a) or die $!";
        run("perl", &["-e", shutdown, &data]);
        server.signal(SIGKILL);
        server.wait();
        run("umount", &[&data]);
        run("mount", &["-o", "loop", &image, &data]);
        let folder = std::mem::replace(&mut server.folder, tempfile::tempdir().unwrap());
        let server = Ringscrape::start_in(folder, &[]);
        server.until_ready();
        let after = samples(&server, "scrapes_total[1h]");
        let last = before.values().flat_map(BTreeMap::keys).max().unwrap();
        let newer = |at: &&i64| *at <= last;
        let kept = after.values().flat_map(BTreeMap::keys).filter(newer).max().copied().unwrap_or(0);
        worst = worst.max(last - kept);
        println!("round {round}: {} ms lost", last - kept);
        drop(server);
        run("umount", &[&data]);
    }
    assert!(worst <= 1500, "{worst} ms of visible samples lost");
}

/// What operators see of blocks: sizes, what goes next, what was written.
#[test]
fn blocks_are_listed_with_what_retention_removes_next() {
    let target = counter();
    let flags = [
        "--storage.tsdb.min-block-duration=2s",
        "--storage.tsdb.retention.time=1h",
        "--storage.tsdb.retention.size=100MB",
    ];
    let server = Ringscrape::start(&config(&[job("counter", &[target.address], "")]), &flags);
    let list = until("two blocks", || {
        let list = server.api("/api/v1/ringscrape/status/blocks");
        (list["blocks"].as_array().unwrap().len() >= 2).then_some(list)
    });
    let (first, retention) = (&list["blocks"][0], &list["retention"]);
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {list}"));
    for size in ["bytes", "series", "samples", "chunks", "level"] {
        assert!(number(&first[size]) > 0, "{size} of {first}");
    }
    assert_eq!((&first["isMarked"], &first["fault"], number(&first["tombstones"])), (&false.into(), &"".into(), 0));
    assert_eq!((number(&retention["time"]), number(&retention["bytes"])), (3_600_000, 100 << 20));
    assert_eq!((&retention["nextByAge"]["ulid"], &retention["nextBySize"]), (&first["ulid"], &first["ulid"]));
    assert_eq!(number(&retention["nextByAge"]["at"]), number(&first["maxTime"]) + 3_600_000);
    let of_blocks: u64 = list["blocks"].as_array().unwrap().iter().map(|block| number(&block["bytes"])).sum();
    assert!(number(&retention["usedBytes"]) >= of_blocks);
    for kind in ["samples", "logBytes", "chunkBytes", "blockBytes"] {
        assert!(number(&list["written"][kind]) > 0, "{kind} of {list}");
    }
    let written = server.metric("ringscrape_tsdb_written_bytes_total{kind=\"blocks\"}").unwrap();
    assert!(written > 0.0);
    assert!(server.metric("ringscrape_log_unsynced_seconds{core=\"0\"}").unwrap() < 10.0);
}

#[test]
fn prometheus_opens_what_we_wrote() {
    let targets = [counter(), counter()];
    let addresses: Vec<_> = targets.iter().map(|target| target.address).collect();
    let config = config(&[job("counter", &addresses, "")]);
    let mut server = Ringscrape::start(&config, &["--storage.tsdb.min-block-duration=2s"]);
    until("three blocks", || {
        let blocks = server.api("/api/v1/status/tsdb/blocks");
        let end = blocks["blocks"].as_array().unwrap().iter().filter_map(|block| block["maxTime"].as_i64()).max();
        let start = blocks["blocks"].as_array().unwrap().iter().filter_map(|block| block["minTime"].as_i64()).min();
        (end? - start? >= 6000).then_some(())
    });
    server.signal(SIGTERM);
    server.wait();
    let folder = server.path("data");
    let listed = Command::new("promtool").args(["tsdb", "list"]).arg(&folder).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let verified =
        Command::new(env!("CARGO_BIN_EXE_ringscrape")).args(["tsdb", "verify"]).arg(&folder).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let dump = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .args(["tsdb", "dump"])
        .arg(&folder)
        .arg("{job=\"counter\"}")
        .output()
        .unwrap();
    let lines = String::from_utf8_lossy(&dump.stdout);
    assert!(lines.contains("__name__=\"scrapes_total\""));
    // What is in a block and in chunks is there once.
    let series_and_time = |line: &str| {
        let (series, at) = line.rsplit_once(' ').unwrap();
        format!("{} {at}", series.rsplit_once(' ').unwrap().0)
    };
    let mut all: Vec<String> = lines.lines().map(series_and_time).collect();
    let lines = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), lines, "lines of one series and time");
    let list = Command::new(env!("CARGO_BIN_EXE_ringscrape")).args(["tsdb", "list"]).arg(&folder).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).lines().count() >= 2);

    let empty = server.path("empty.yml");
    std::fs::write(&empty, "scrape_configs: []\n").unwrap();
    let prometheus = Prometheus::start(&empty, &folder, &[]);
    let address = prometheus.address;
    let path = format!("/api/v1/query?query={}", encode(ALL));
    let theirs: Value = serde_json::from_str(&request(address, "GET", &path, &[]).body).unwrap();
    let theirs = matrix(&theirs["data"]);
    drop(prometheus);
    std::fs::remove_dir_all(folder.join("chunks_head")).ok();

    // The folder goes back to us: blocks that Prometheus had in its hands, and what was in none.
    std::fs::write(server.path("prometheus.yml"), "scrape_configs: []\n").unwrap();
    let server = Ringscrape::start_in(std::mem::replace(&mut server.folder, tempfile::tempdir().unwrap()), &[]);
    server.until_ready();
    let ours = samples(&server, ALL);
    assert!(count(&theirs) > 1000, "{}", count(&theirs));
    contains(&ours, &theirs, "what Prometheus read");
    // Prometheus sees blocks only; what it sees of a block it sees in full.
    let (first, last) =
        theirs.values().flat_map(BTreeMap::keys).fold((i64::MAX, 0), |all, at| (all.0.min(*at), all.1.max(*at)));
    let mut in_blocks = ours.clone();
    in_blocks.values_mut().for_each(|samples| samples.retain(|at, _| *at >= first && *at <= last));
    in_blocks.retain(|_, samples| !samples.is_empty());
    contains(&theirs, &in_blocks, "what we read of the blocks");
}

#[test]
fn blocks_of_prometheus_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() - 600;
    let lines: String = (0..60).map(|i| format!("foreign{{job=\"counter\"}} {i} {}\n", now + i * 5)).collect();
    let input = folder.path().join("input.txt");
    std::fs::write(&input, format!("# TYPE foreign gauge\n{lines}# EOF\n")).unwrap();
    let made = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .arg(&input)
        .arg(folder.path().join("data"))
        .output()
        .expect("promtool is installed: make test-deps");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::write(folder.path().join("prometheus.yml"), config(&[])).unwrap();
    let server = Ringscrape::start_in(folder, &["--web.enable-admin-api"]);
    server.until_ready();
    assert_eq!(count(&samples(&server, "foreign[1h]")), 60);
    assert_eq!(server.api("/api/v1/label/__name__/values?start=0"), serde_json::json!(["foreign"]));

    // Deleted, cleaned, and still deleted after a restart.
    let delete = format!("/api/v1/admin/tsdb/delete_series?match[]=foreign&end={}", now + 100);
    assert_eq!(server.post(&delete).status, 204);
    assert_eq!(count(&samples(&server, "foreign[1h]")), 39);
    assert_eq!(server.post("/api/v1/admin/tsdb/clean_tombstones").status, 204);
    assert_eq!(count(&samples(&server, "foreign[1h]")), 39);
    let snapshot = server.post("/api/v1/admin/tsdb/snapshot");
    assert_eq!(snapshot.status, 200, "{}", snapshot.body);
    let json: Value = serde_json::from_str(&snapshot.body).unwrap();
    let copy = server.path("data/snapshots").join(json["data"]["name"].as_str().unwrap());
    let blocks = std::fs::read_dir(copy).unwrap().count();
    assert!(blocks >= 1);
    let mut server = server;
    server.restart(SIGTERM, &[]);
    server.until_ready();
    assert_eq!(count(&samples(&server, "foreign[1h]")), 39);
    let refused = server.post(&delete);
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.body.contains("admin APIs disabled"), "{}", refused.body);
}

/// Deletions reach what is in logs and chunks, too.
#[test]
fn deleted_samples_of_the_head_stay_deleted() {
    let target = counter();
    let config = config(&[job("counter", &[target.address], "")]);
    let mut server = Ringscrape::start(&config, &["--web.enable-admin-api"]);
    until("some scrapes", || (count(&samples(&server, ALL)) > 200).then_some(()));
    let gone = samples(&server, "part[1h]");
    assert_eq!(server.post("/api/v1/admin/tsdb/delete_series?match[]=part").status, 204);
    let check = |server: &Ringscrape| {
        let left = samples(server, "part[1h]");
        for (series, samples) in &gone {
            let kept = left.get(series);
            assert!(samples.keys().all(|at| kept.is_none_or(|kept| !kept.contains_key(at))), "{series}");
        }
        assert!(count(&samples(server, "scrapes_total[1h]")) > 5);
    };
    check(&server);
    server.restart(SIGKILL, &[]);
    server.until_ready();
    check(&server);
    until("new samples come", || (count(&samples(&server, "part[1h]")) > 40).then_some(()));
}
