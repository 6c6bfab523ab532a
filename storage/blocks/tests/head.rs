//! The head of a real Prometheus: what it scraped until it was killed is in the blocks that its head becomes.

use blocks::head::{ImportOptions, has_head, import_head};
use blocks::{Block, CHUNK_BYTES_MAX};
use series::{Labels, Value};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Truth = BTreeMap<Labels, BTreeMap<i64, u64>>;

const PATIENCE: Duration = Duration::from_secs(60);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bits of a value; all that are no number are one.
fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

/// All samples that promtool sees in a copy of the folder, those of the head included.
fn dumped(folder: &Path, copy: &Path) -> Truth {
    let copied = Command::new("cp").arg("-a").arg(folder).arg(copy).status().unwrap();
    assert!(copied.success());
    let output = Command::new("promtool").args(["tsdb", "dump"]).arg(copy).output().expect("make test-deps");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = Truth::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (labels, rest) = line.rsplit_once("} ").unwrap();
        let pairs = labels.trim_start_matches('{').split(", ").map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        });
        let (value, at) = rest.split_once(' ').unwrap();
        let of_series = found.entry(Labels::from_pairs(pairs)).or_default();
        of_series.insert(at.parse().unwrap(), bits(value.parse().unwrap()));
    }
    found
}

fn read(folder: &Path) -> Truth {
    let mut found = Truth::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("meta.json").exists() {
            continue;
        }
        let block = Block::open(&path).unwrap();
        assert!(block.check().is_good(), "{:?}", block.check());
        block.select(&[vec![]], i64::MIN, i64::MAX, |reader, entry| {
            let of_series = found.entry(entry.labels.clone()).or_default();
            let mut add = |at, value| match value {
                Value::Float(value) => drop(of_series.insert(at, bits(value))),
                Value::Histogram(_) => panic!("it scraped no histogram"),
            };
            reader.samples(&entry, i64::MIN, i64::MAX, &mut add).unwrap();
            true
        });
    }
    found
}

/// A target of one sample; gives its address and how often it was scraped.
fn target() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.6:0").unwrap();
    let (address, scrapes) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = scrapes.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let payload = format!("counted {}\n", counted.fetch_add(1, Ordering::Relaxed));
            let length = payload.len();
            let kind = "Content-Type: text/plain; version=0.0.4\r\nConnection: close";
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{payload}");
        }
    });
    (address, scrapes)
}

/// Prometheus scrapes itself with these flags until `is_enough`, then it is ended; what promtool saw in the folder before is
/// what the blocks have after the import.
fn check(flags: &[&str], is_enough: impl Fn(&Path, u64) -> bool, want_mapped: bool) {
    let (counter, scrapes) = target();
    // Chunks that were to be mapped are written in order only at an orderly end.
    let signal = if want_mapped { "-TERM" } else { "-KILL" };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let address = TcpListener::bind("127.0.0.5:0").unwrap().local_addr().unwrap();
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "scrape_configs:\n- job_name: self\n  scrape_interval: 500ms\n  static_configs: [{{targets: ['{address}']}}]\n\
         - job_name: counter\n  scrape_interval: 50ms\n  static_configs: [{{targets: ['{counter}']}}]\n"
    );
    std::fs::write(&config, text).unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address={address}"))
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus is installed: make test-deps");
    let mut prometheus = Killed(child);
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() || !is_enough(&data, scrapes.load(Ordering::Relaxed)) {
        assert!(Instant::now() < end, "Prometheus has not scraped enough");
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = Command::new("kill").arg(signal).arg(prometheus.0.id().to_string()).status().unwrap();
    assert!(ended.success() && prometheus.0.wait().is_ok());
    let theirs = dumped(&data, &folder.path().join("copy"));
    assert!(has_head(&data).unwrap());
    let mut number = 0;
    let new_ulid = || {
        number += 1;
        format!("01HF00000000000000000{number:05}")
    };
    let options = ImportOptions { range_ms: 2 * 3600 * 1000, chunk_bytes_max: CHUNK_BYTES_MAX };
    let import = import_head(&data, &options, new_ulid, &false.into()).unwrap().expect("there is a head");
    assert_eq!((import.damage_count, import.samples_without_series, import.unknown), (0, 0, 0), "{import:?}");
    assert!(import.mapped_chunks > 0 || !want_mapped, "{import:?}");
    let ours = read(&data);
    assert!(theirs.len() > 200, "{}", theirs.len());
    for (labels, samples) in &theirs {
        assert_eq!(ours.get(labels), Some(samples), "{labels}");
    }
    assert_eq!(ours.len(), theirs.len());
}

/// More than 120 samples of a series: its first chunk is mapped.
#[test]
fn a_log_and_mapped_chunks_are_imported() {
    check(&[], |_, scrapes| scrapes > 150, true);
}

/// Blocks of a few seconds are cut meanwhile: the log has a checkpoint, and samples that blocks have.
#[test]
fn a_checkpoint_and_the_log_behind_it_are_imported() {
    let has_checkpoint = |data: &Path, _| {
        let entries = std::fs::read_dir(data.join("wal")).into_iter().flatten().flatten();
        let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.iter().any(|name| name.starts_with("checkpoint.") && !name.ends_with(".tmp"))
    };
    let flags = ["--storage.tsdb.min-block-duration=5s", "--storage.tsdb.max-block-duration=5s"];
    check(&flags, has_checkpoint, false);
}
