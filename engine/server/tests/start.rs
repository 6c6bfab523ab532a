//! Starts that cannot succeed: one line that says what to change, the exit code of docs/operations.md, no data touched.

mod support;

use std::path::Path;
use std::process::Command;
use support::{Ringscrape, config, until};

/// Runs until it ends; returns the exit code and the lines on stderr that are no log lines.
fn run(folder: &Path, under: &[&str], flags: &[&str]) -> (Option<i32>, Vec<String>) {
    let mut command = Command::new(under.first().copied().unwrap_or(env!("CARGO_BIN_EXE_ringscrape")));
    if !under.is_empty() {
        command.args(&under[1..]).arg(env!("CARGO_BIN_EXE_ringscrape"));
    }
    let output = command.args(flags).current_dir(folder).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines = stderr.lines().filter(|line| !line.starts_with("time=")).map(str::to_owned).collect();
    (output.status.code(), lines)
}

#[test]
fn a_start_that_cannot_succeed_says_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    std::fs::write(place.join("prometheus.yml"), config(&[])).unwrap();
    std::fs::write(place.join("bad.yml"), "scrape_configs: [{}]\n").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("--web.listen-address={}", listener.local_addr().unwrap());
    let free = "--web.listen-address=127.0.0.1:0";
    for (under, flags, code, want) in [
        (&[][..], &["--web.nonsense"][..], 2, "--web.nonsense"),
        (&[], &["--query.timeout=5"], 2, "--query.timeout: not a valid duration"),
        (&[], &["--web.external-url='http://a'"], 2, "quotes"),
        (&[], &["--agent", "--query.timeout=1m"], 3, "agent mode"),
        (&[], &["--config.file=missing.yml"], 2, "missing.yml"),
        (&[], &["--config.file=bad.yml"], 2, "bad.yml:1:"),
        (&[], &[&taken], 1, "another process listens there"),
        (&[], &["--web.listen-address=192.0.2.1:9090"], 1, "no interface of this machine"),
        (&[], &["--web.listen-address=9090"], 1, "has no port"),
        (&[], &[free, "--storage.tsdb.path=/proc/data"], 1, "--storage.tsdb.path"),
        (&["prlimit", "--memlock=65536:65536"], &[free], 3, "LimitMEMLOCK"),
    ] {
        let (found, lines) = run(place, under, flags);
        assert_eq!(found, Some(code), "{flags:?}: {lines:?}");
        assert!(lines[0].contains(want), "{flags:?}: {lines:?}");
        // clap says besides how to get help.
        assert!(lines.len() == 1 || flags[0].contains("nonsense") || flags[0].contains("url"), "{flags:?}: {lines:?}");
    }
    drop(listener);
    assert!(!place.join("data").exists(), "the folder is untouched");
}

#[test]
fn few_open_files_are_warned_of() {
    let server = Ringscrape::start_under(&["prlimit", "--nofile=1024:1024"], &config(&[]), &[]);
    until("it warns", || server.log().contains("LimitNOFILE").then_some(()));
    assert_eq!(server.get("/-/healthy").status, 200);
}
