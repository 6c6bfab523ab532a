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

/// As in a container whose seccomp profile has no io_uring.
#[test]
fn a_machine_without_io_uring_is_told_what_to_allow() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), config(&[])).unwrap();
    let deny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/deny_io_uring.py");
    let (code, lines) = run(folder.path(), &["python3", deny], &["--web.listen-address=127.0.0.1:0"]);
    assert_eq!((code, lines.len()), (Some(3), 1), "{lines:?}");
    assert!(lines[0].contains("io_uring is not usable") && lines[0].contains("seccomp"), "{lines:?}");
    assert!(!folder.path().join("data").exists(), "the folder is untouched");
}

/// Disks of the test's own, mounted where nobody else sees them.
#[test]
fn disks_that_cannot_be_written_are_named_or_waited_for() {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let may_mount = || Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !is_root || !may_mount() {
        eprintln!("SKIPPED: disks of the test's own: needs root and unshare");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), config(&[])).unwrap();
    std::fs::create_dir(folder.path().join("disk")).unwrap();
    let flags = ["--web.listen-address=127.0.0.1:0", "--storage.tsdb.path=disk/data"];
    let read_only = "mount -t tmpfs -o size=64k,ro none disk && exec \"$@\"";
    let (code, lines) = run(folder.path(), &["unshare", "-m", "sh", "-c", read_only, "sh"], &flags);
    assert_eq!((code, lines.len()), (Some(1), 1), "{lines:?}");
    assert!(lines[0].contains("Read-only file system") && lines[0].contains("--storage.tsdb.path"), "{lines:?}");

    // A full disk is no reason not to scrape: samples wait in memory until there is space.
    let full =
        "mkdir -p data && mount -t tmpfs -o size=64k none data && head -c 100000 /dev/zero > data/fill; exec \"$@\"";
    let target = support::FakeTarget::saying("a 1\n");
    let text = config(&[support::job("j", &[target.address], "")]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), text).unwrap();
    let full = format!("cd {} && {full}", folder.path().display());
    let server = Ringscrape::start_under_in(&["unshare", "-m", "sh", "-c", &full, "sh"], folder, &[]);
    until("the target is scraped", || server.targets().iter().find(|target| target["health"] == "up").map(|_| ()));
    until("the disk is told of", || server.log().contains("No space left on device").then_some(()));
}

#[test]
fn few_open_files_are_warned_of() {
    let server = Ringscrape::start_under(&["prlimit", "--nofile=1024:1024"], &config(&[]), &[]);
    until("it warns", || server.log().contains("LimitNOFILE").then_some(()));
    assert_eq!(server.get("/-/healthy").status, 200);
}
