//! A real exporter: Debian's prometheus-node-exporter, scraped beside ringscrape itself.

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use support::{Ringscrape, config, free, job, request, until};

struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it on a free port of 127.0.0.3. `make test-deps` has installed it.
fn node_exporter() -> (Exporter, SocketAddr) {
    let address = free("127.0.0.3");
    let mut child = Command::new("prometheus-node-exporter")
        .arg(format!("--web.listen-address={address}"))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("prometheus-node-exporter is installed by `make test-deps`");
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let exporter = Exporter(child);
    // Its log has to be read on, or it would block.
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(drop));
    until("the exporter listens", || std::net::TcpStream::connect(address).ok());
    (exporter, address)
}

#[test]
fn node_exporter_and_itself_are_scraped_whole() {
    let (_exporter, address) = node_exporter();
    // Not 127.0.0.1: there a port that was free a moment ago is easily another's by now.
    let itself = free("127.0.0.2");
    let jobs = [job("node", &[address], "scrape_interval: 500ms"), job("self", &[itself], "scrape_interval: 500ms")];
    let listen = format!("--web.listen-address={itself}");
    let server = Ringscrape::start(&config(&jobs), &[&listen]);
    until("both are up twice", || {
        let targets = server.targets();
        let twice = |target: &serde_json::Value| target["health"] == "up" && target["scrapes"].as_u64() >= Some(2);
        (targets.len() == 2 && targets.iter().all(twice)).then_some(())
    });
    let plain = request(address, "GET", "/metrics", &[]).body;
    let exposed = plain.lines().filter(|line| !line.starts_with('#')).count() as f64;
    let scraped = server.value("scrape_samples_scraped{job=\"node\"}").unwrap();
    // Counters of the exporter itself come and go with who asks it.
    assert!((scraped - exposed).abs() < 30.0 && scraped > 200.0, "{scraped} of {exposed}");
    let boot = plain.lines().find_map(|line| line.strip_prefix("node_boot_time_seconds ")).unwrap();
    assert_eq!(server.value("node_boot_time_seconds"), Some(boot.parse().unwrap()));
    let metadata = server.api("/api/v1/metadata?metric=node_boot_time_seconds");
    assert_eq!(metadata["node_boot_time_seconds"][0]["type"], "gauge");
    assert_eq!(server.value("ringscrape_build_info"), Some(1.0));
    assert_eq!(server.value("scrape_series_added{job=\"self\"}").map(|added| added < 200.0), Some(true));
}

#[test]
fn preview_shows_what_the_exporter_would_bring() {
    let (_exporter, address) = node_exporter();
    let preview = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .args(["preview", &format!("http://{address}/metrics")])
        .output()
        .unwrap();
    let text = String::from_utf8(preview.stdout).unwrap();
    assert!(preview.status.success(), "{text}");
    for part in ["samples", "series", "node_cpu_seconds_total", "on the wire", "cpu ("] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[test]
fn check_config_tells_good_from_bad() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.yml"), folder.path().join("bad.yml"));
    std::fs::write(&good, "scrape_configs: [{job_name: a}]\n").unwrap();
    std::fs::write(&bad, "scrape_configs:\n  - job_name: a\n    scrape_timeout: 2m\n").unwrap();
    let check = |files: &[&std::path::Path]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringscrape"));
        let output = command.args(["check", "config"]).args(files).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(check(&[&good]).0, Some(0));
    let (code, text) = check(&[&good, &bad]);
    assert_eq!(code, Some(1));
    assert!(text.contains("bad.yml:3:"), "{text}");
}

#[test]
fn missing_permissions_are_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), "").unwrap();
    let run = |shell: &str| {
        let script = format!("{shell}; exec \"$0\" --config.file=prometheus.yml --web.listen-address=127.0.0.1:0 $1");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_ringscrape"), "--shard-cpus=0"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run("ulimit -l 64");
    assert!(code == Some(3) && text.contains("raise it: ulimit -l"), "{code:?}: {text}");
    let output = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .args(["--config.file=prometheus.yml", "--shard-cpus=4000"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(3) && text.contains("cannot be pinned to CPU 4000"), "{text}");
}
