//! Under a service manager: what it is told by `NOTIFY_SOCKET`, and the unit file that is shipped.

mod support;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{FakeTarget, PATIENCE, Ringscrape, config, job, root};

/// The socket of a service manager, which reads what comes.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket }
    }

    /// The next message.
    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("a message comes");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message that begins so; others may come before it, but none of `never`.
    fn until(&self, prefix: &str, never: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let message = self.next();
            if message.starts_with(prefix) {
                return message;
            }
            assert!(never.is_empty() || !message.contains(never), "{message} before {prefix}");
            assert!(Instant::now() < end, "{prefix} does not come");
        }
    }
}

#[test]
fn the_service_manager_learns_of_start_reloads_life_and_end() {
    let target = FakeTarget::saying("a 1\n");
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::listen(&folder.path().join("notify"));
    let socket = format!("NOTIFY_SOCKET={}", folder.path().join("notify").display());
    let text = config(&[job("j", &[target.address], "")]);
    let mut server =
        Ringscrape::start_under(&["env", "-u", "WATCHDOG_PID", &socket, "WATCHDOG_USEC=200000"], &text, &[]);

    let opening = manager.next();
    assert_eq!(opening, "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=opening the data folder");
    let ready = manager.until("READY=1", "RELOADING");
    assert_eq!(ready, format!("READY=1\nSTATUS=serving at http://{}", server.address));
    assert_eq!(server.get("/-/ready").status, 200, "everything is served by then");

    let begun = Instant::now();
    (0..5).for_each(|_| drop(manager.until("WATCHDOG=1", "READY")));
    assert!(begun.elapsed() > Duration::from_millis(350), "at half the interval, not without end");

    server.signal(1);
    manager.until("RELOADING=1\nMONOTONIC_USEC=", "READY");
    let loaded = manager.until("READY=1", "");
    assert!(loaded.contains("STATUS=configuration loaded from "), "{loaded}");
    std::fs::write(server.path("prometheus.yml"), "scrape_configs: [{}]\n").unwrap();
    server.signal(1);
    manager.until("RELOADING=1", "READY");
    let refused = manager.until("READY=1", "");
    assert!(refused.contains("STATUS=configuration refused") && refused.contains("prometheus.yml:1:"), "{refused}");

    server.signal(15);
    manager.until("STOPPING=1", "READY");
    assert!(server.wait().success());
}

/// The logs of a run that was killed are read before the start counts as done.
#[test]
fn a_start_is_done_when_the_replay_is() {
    let target = FakeTarget::saying("a 1\n");
    let mut server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    support::until("something is stored", || server.value("a"));
    server.signal(9);
    server.wait();
    let manager = Manager::listen(&server.path("notify"));
    let child = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"])
        .env("NOTIFY_SOCKET", server.path("notify"))
        .env_remove("WATCHDOG_USEC")
        .current_dir(server.folder.path())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut child = child.unwrap();
    let ready = manager.until("READY=1", "WATCHDOG");
    let address = ready.rsplit_once("http://").unwrap().1.parse().unwrap();
    let replay = support::request(address, "GET", "/api/v1/status/walreplay", &[]).body;
    assert!(replay.contains("\"state\":\"done\""), "{replay}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A socket that is not there costs a start nothing.
#[test]
fn without_a_service_manager_nothing_is_missing() {
    let server = Ringscrape::start_under(&["env", "NOTIFY_SOCKET=/nowhere/notify"], &config(&[]), &[]);
    server.until_ready();
    let server = Ringscrape::start_under(&["env", "NOTIFY_SOCKET=vsock:2:1"], &config(&[]), &[]);
    assert!(server.log().contains("NOTIFY_SOCKET cannot be used"), "{}", server.log());
}

/// The unit file is one that systemd understands, and leaves little of the system to the process.
#[test]
fn the_unit_file_is_understood_and_confined() {
    let analyze = |arguments: &[&str]| Command::new("systemd-analyze").args(arguments).output();
    if analyze(&["--version"]).is_err() {
        eprintln!("SKIPPED: systemd-analyze is not installed (Debian: systemd)");
        return;
    }
    // Its ExecStart is a path of the package, which is not installed here.
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("ringscrape.service");
    let text = std::fs::read_to_string(root().join("packaging/ringscrape.service")).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/ringscrape "), "{text}");
    std::fs::write(&unit, text.replace("/usr/bin/ringscrape", env!("CARGO_BIN_EXE_ringscrape"))).unwrap();
    let unit = unit.display().to_string();
    let verified = analyze(&["verify", "--man=no", &unit]).unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    // Other units of this machine may have mistakes of their own.
    assert!(!said.contains("ringscrape.service"), "{said}");
    let security = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager", &unit]).unwrap();
    let text = String::from_utf8_lossy(&security.stdout).into_owned();
    assert!(security.status.success(), "above 2.0: {}", text.lines().last().unwrap_or_default());
    assert!(text.contains("Overall exposure level"), "{text}");
}
