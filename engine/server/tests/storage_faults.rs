//! Faults of the data folder that a user meets: a file that cannot be read, a full disk under writers, deletions.

mod support;

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use support::protobuf::{bytes, number};
use support::{FakeTarget, Ringscrape, config, encode, job, request_with_body, until};

const SIGKILL: i32 = 9;
const RECEIVER: &str = "--web.enable-remote-write-receiver";

/// A request of remote write 1.0: series of this name with a label `i` from 0 on, each with one sample of now.
fn request_of(name: &str, series: usize) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut out = Vec::new();
    for i in 0..series {
        let mut message = Vec::new();
        for (label, value) in [("__name__", name), ("i", &i.to_string())] {
            let mut pair = Vec::new();
            bytes(1, label.as_bytes(), &mut pair);
            bytes(2, value.as_bytes(), &mut pair);
            bytes(1, &pair, &mut message);
        }
        let mut sample = vec![1 << 3 | 1];
        sample.extend_from_slice(&(i as f64 + 1.0).to_le_bytes());
        number(2, now, &mut sample);
        bytes(2, &sample, &mut message);
        bytes(1, &message, &mut out);
    }
    out
}

fn write(address: SocketAddr, message: &[u8]) -> u16 {
    let headers = [("Content-Encoding", "snappy"), ("Content-Type", "application/x-protobuf")];
    request_with_body(address, "POST", "/api/v1/write", &headers, &remote::pack(message)).status
}

fn results(server: &Ringscrape, query: &str) -> usize {
    server.api(&format!("/api/v1/query?query={}", encode(query)))["result"].as_array().unwrap().len()
}

/// A deleted newest value is gone from instant queries, sums, ranges and federation at once, and after a kill.
#[test]
fn deleted_values_are_gone_from_every_reader() {
    let flags = [RECEIVER, "--web.enable-admin-api"];
    let mut server = Ringscrape::start("scrape_configs: []\n", &flags);
    assert_eq!(write(server.address, &request_of("gone", 3)), 204);
    assert_eq!(write(server.address, &request_of("stays", 2)), 204);
    until("samples are there", || (results(&server, "gone") == 3).then_some(()));
    assert_eq!(server.post("/api/v1/admin/tsdb/delete_series?match[]=gone").status, 204);
    let check = |server: &Ringscrape, when: &str| {
        for query in ["gone", "sum(gone)", "count(gone)", "gone[5m]", "rate(gone[5m])", "max_over_time(gone[5m])"] {
            assert_eq!(results(server, query), 0, "{query} {when}");
        }
        assert_eq!(results(server, "sum(stays) == 3"), 1, "{when}");
        assert_eq!(server.federate("gone"), Vec::<String>::new(), "{when}");
        assert_eq!(server.federate("stays").len(), 2, "{when}");
    };
    check(&server, "at once");
    server.restart(SIGKILL, &flags);
    server.until_ready();
    check(&server, "after a kill");
}

/// One file of chunks gives errors when it is read, as of a disk that is broken in one place.
#[test]
fn a_chunk_file_that_cannot_be_read_does_not_stop_the_start() {
    let target = FakeTarget::saying("a 1\nb 2\n");
    let flags = ["--storage.tsdb.min-block-duration=4s"];
    let mut server = Ringscrape::start(&config(&[job("chunks", &[target.address], "")]), &flags);
    let head = server.path("data/head");
    let files = || -> Vec<std::path::PathBuf> {
        std::fs::read_dir(&head).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    until("chunks are written", || (!files().is_empty()).then_some(()));
    server.signal(SIGKILL);
    server.wait();
    let broken = files().into_iter().next().unwrap();
    std::fs::remove_file(&broken).unwrap();
    // To read a directory is an error.
    std::fs::create_dir(&broken).unwrap();
    server.restart_ended(&flags);
    server.until_ready();
    until("scraping goes on", || server.value("a"));
    assert!(server.log().contains(broken.file_name().unwrap().to_str().unwrap()), "{}", server.log());
    assert!(server.metric("prometheus_tsdb_wal_corruptions_total").unwrap() >= 1.0);
    assert!(results(&server, "count_over_time(a[1h])") == 1);
}

/// Writers that are refused because the disk is full fill no memory.
#[test]
fn refused_writes_are_not_held() {
    let flags = [RECEIVER, "--shards=1"];
    let Some((server, inside)) = Ringscrape::start_on_disk(3, "scrape_configs: []\n", &flags) else { return };
    server.until_ready();
    let filler = format!("{inside}/filler");
    assert!(std::fs::write(&filler, vec![1; 6 << 20]).is_err(), "the file system is full");
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    };
    // Until the disk is known to fail, requests are answered.
    let message = request_of("written", 20_000);
    until("writes are refused", || (write(server.address, &message) == 503).then_some(()));
    let before = memory();
    for round in 0..60 {
        assert_eq!(write(server.address, &request_of("written", 20_000)), 503, "round {round}");
    }
    let after = memory();
    assert!(after < before + 100, "{before} MB, then {after} MB");
    assert_eq!(server.get("/-/healthy").status, 200);
    std::fs::remove_file(&filler).unwrap();
    until("writes are taken again", || (write(server.address, &request_of("again", 1)) == 204).then_some(()));
}
