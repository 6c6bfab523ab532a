//! Hostile targets harm nobody else: every fault of the farm beside good targets on the same cores.

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Ringscrape, request, until};

const GOOD: usize = 60;
const EVIL: usize = 112;
const ROUNDS: u64 = 8;

/// The farm, ended when the test is.
struct Farm {
    child: Child,
    address: SocketAddr,
}

/// The farm's program: cargo builds it beside ours when all tests run; by itself this test builds it.
fn farm_program() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_ringscrape")).with_file_name("farm");
    if !program.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "-p", "bench-harness"]).status().unwrap();
        assert!(built.success());
    }
    program
}

impl Farm {
    fn start(interval_ms: u64) -> Farm {
        let interval = format!("--interval-ms={interval_ms}");
        let mut child = Command::new(farm_program())
            .args(["--listen", "0", "--samples", "200", "--max-seconds", "300", &interval])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let address = first.trim().rsplit(' ').next().unwrap().parse().unwrap();
        Farm { child, address }
    }

    fn stats(&self) -> Value {
        serde_json::from_str(&request(self.address, "GET", "/stats", &[]).body).unwrap()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rss_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn good_targets_keep_all_their_scrapes_beside_hostile_ones() {
    let farm = Farm::start(2000);
    let made = Command::new(farm_program())
        .args(["targets", "--format", "prometheus", "--interval", "2s", "--timeout", "1s"])
        .args(["--count", &(GOOD + EVIL).to_string(), "--hostile", &EVIL.to_string()])
        .args(["--port", &farm.address.port().to_string()])
        .output()
        .unwrap();
    let yaml = String::from_utf8(made.stdout).unwrap().replacen("global:", "global:\n  body_size_limit: 4MB", 1);
    let server = Ringscrape::start(&yaml, &[]);
    until("every target was scraped", || {
        let targets = server.targets();
        (targets.len() == GOOD + EVIL && targets.iter().all(|target| target["health"] != "unknown")).then_some(())
    });
    request(farm.address, "POST", "/stats/reset", &[]);
    std::thread::sleep(Duration::from_secs(2 * ROUNDS));
    let stats = farm.stats();

    let scrapes = |field: &str| stats[field].as_u64().unwrap();
    assert_eq!(scrapes("targets_seen"), GOOD as u64 + 1, "the good ones and the one that redirects lead to: {stats}");
    assert!(scrapes("target_scrapes_min") >= ROUNDS - 1, "{stats}");
    assert_eq!(scrapes("overlapping_scrapes"), 0);
    for target in server.targets() {
        if target["scrapePool"] == "hostile" {
            assert_eq!(target["lastError"] == "", target["health"] == "up", "{target}");
            assert_eq!(target["lastErrorReason"] == "", target["health"] == "up", "{target}");
        } else {
            assert_eq!(target["health"], "up", "{target}");
            assert_eq!(target["missedScrapes"]["in_flight"], 0, "{target}");
            assert_eq!(target["missedScrapes"]["core_late"], 0, "{target}");
        }
    }
    let rss = rss_bytes(server.pid());
    assert!(rss < 1 << 30, "{} MiB", rss >> 20);
    assert_eq!(server.federate("up{job=\"farm\"}").len(), GOOD);
}

/// What each hostile path has to lead to, where the farm's list says so without conditions.
#[test]
fn each_fault_ends_as_the_list_says() {
    let farm = Farm::start(2000);
    let list = Command::new(farm_program()).arg("evil-list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let mut want = Vec::new();
    for line in list.lines() {
        let (Some(name), Some((_, verdict))) = (line.split_whitespace().next(), line.split_once("=> ")) else {
            continue;
        };
        let up = verdict.starts_with("up 1") && !verdict.starts_with("up 1,0") && !verdict.starts_with("up 1, 0");
        let down = verdict.starts_with("up 0") && !verdict.contains("unless") && !verdict.contains(" or ");
        // Without limits a bomb of series is a payload like another; the backlog has a port of its own; some change.
        let judged = (up || down) && !["cardinality-bomb", "full-backlog", "time-frozen"].contains(&name);
        let steady = !name.contains("flapping") && !name.contains("changing");
        if judged && steady && !name.starts_with("endless") && !name.contains("1gib") {
            want.push((name.to_owned(), up));
        }
    }
    assert!(want.len() > 70, "{} faults are judged", want.len());
    let jobs: Vec<String> = want
        .iter()
        .map(|(name, _)| {
            support::job(
                name,
                &[farm.address],
                &format!("metrics_path: /evil/{name}\nscrape_interval: 2s\nscrape_timeout: 1s"),
            )
        })
        .collect();
    let server = Ringscrape::start(&support::config(&jobs), &[]);
    let targets = until("every fault was met", || {
        let targets = server.targets();
        targets.iter().all(|target| target["health"] != "unknown").then_some(targets)
    });
    for (name, up) in want {
        let target = targets.iter().find(|target| target["scrapePool"] == name.as_str()).unwrap();
        assert_eq!(target["health"], if up { "up" } else { "down" }, "{name}: {target}");
        let kept = server.federate(&format!("{{job=\"{name}\",__name__=~\"good_.*\"}}"));
        assert!(up || kept.is_empty(), "{name}: {kept:?}");
    }
}
