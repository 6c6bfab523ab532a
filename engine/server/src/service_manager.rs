//! Messages to the service manager that started this process: the protocol of sd_notify(3), without its library.
//!
//! `READY=1` comes once the old logs are replayed and all addresses are served. Until then `EXTEND_TIMEOUT_USEC` moves the
//! start's timeout on, as long as there is progress. Without `NOTIFY_SOCKET`, nothing happens.
//!
//! Invariants:
//!   * no message waits: the socket does not block, and a message that it does not take is dropped
//!   * a message holds assignments only: a status has no line ends and at most [`STATUS_BYTES_MAX`]

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Bytes of a status: `systemctl status` shows one line.
const STATUS_BYTES_MAX: usize = 500;
/// How often the timeout is moved on, and how far: a few messages may be lost.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(60);
/// Longest time for opening the data folder, an import of Prometheus' head included. It shows no progress, so it has an end.
const OPENING_MAX: Duration = Duration::from_secs(3600);
/// A replay that finishes no file for so long hangs. A file has at most some hundred megabytes.
const REPLAY_STALL_MAX: Duration = Duration::from_secs(600);
/// How soon the end of a replay is noticed.
const REPLAY_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Shortest time between two signs of life, whatever `WATCHDOG_USEC` says.
const SIGN_OF_LIFE_MIN: Duration = Duration::from_millis(10);

/// The service manager, if one waits for messages of this process.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager(Option<Arc<Connection>>);

#[derive(Debug)]
struct Connection {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How often a sign of life is expected.
    watchdog: Option<Duration>,
    is_ready: AtomicBool,
}

impl ServiceManager {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_env() -> ServiceManager {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return ServiceManager::default();
        };
        let watchdog = watchdog(std::env::var("WATCHDOG_USEC").ok(), std::env::var("WATCHDOG_PID").ok());
        match ServiceManager::connect(&name, watchdog) {
            Ok(manager) => manager,
            Err(error) => {
                tracing::warn!(socket = %name.to_string_lossy(), %error, "NOTIFY_SOCKET cannot be used; the service manager learns nothing");
                ServiceManager::default()
            }
        }
    }

    fn connect(name: &OsStr, watchdog: Option<Duration>) -> std::io::Result<ServiceManager> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(std::io::Error::other("neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(ServiceManager(Some(Arc::new(Connection { socket, address, watchdog, is_ready: AtomicBool::new(false) }))))
    }

    /// The start is done: everything is served and can be queried.
    pub fn ready(&self, status: &str) {
        if let Some(connection) = &self.0 {
            connection.is_ready.store(true, Ordering::Relaxed);
        }
        self.send(&["READY=1".into(), status_line(status)]);
    }

    /// A reload begins. [`ServiceManager::reloaded`] ends it.
    pub fn reloading(&self) {
        // Before the start is done, the answer to this would pass for READY.
        if self.is_ready() {
            let mut lines = vec!["RELOADING=1".to_owned()];
            lines.extend(monotonic_usec().map(|usec| format!("MONOTONIC_USEC={usec}")));
            self.send(&lines);
        }
    }

    /// A reload has ended, with the new configuration or the old one.
    pub fn reloaded(&self, status: &str) {
        if self.is_ready() {
            self.send(&["READY=1".into(), status_line(status)]);
        }
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.send(&["STOPPING=1".into(), status_line("shutting down")]);
    }

    /// The start needs more time.
    pub fn extend(&self, status: &str) {
        self.send(&[format!("EXTEND_TIMEOUT_USEC={}", EXTEND_BY.as_micros()), status_line(status)]);
    }

    /// Extends the start's timeout until the guard is dropped, for at most [`OPENING_MAX`].
    pub fn extend_while_opening(&self, status: &'static str) -> Extending {
        let (guard, dropped) = channel::<()>();
        if self.0.is_some() {
            let (manager, begun) = (self.clone(), Instant::now());
            let extend = move || {
                while begun.elapsed() < OPENING_MAX {
                    manager.extend(status);
                    if dropped.recv_timeout(EXTEND_EVERY) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            };
            // Without a thread the timeout stays what it is.
            let _ = std::thread::Builder::new().name("service-manager".into()).spawn(extend);
        }
        Extending { _guard: guard }
    }

    /// Sends signs of life for ever, if they are expected. They come from the control plane; the cores have a watchdog of
    /// their own, which ends the process.
    pub async fn send_signs_of_life(self) {
        let Some(every) = self.0.as_ref().and_then(|connection| connection.watchdog) else { return };
        let mut tick = tokio::time::interval((every / 2).max(SIGN_OF_LIFE_MIN));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.send(&["WATCHDOG=1".into()]);
        }
    }

    /// Extends the start's timeout while the logs of the last run are read, then reports that the start is done.
    pub async fn report_start(self, replay: impl Fn() -> Option<tsdb::ReplayState>, serving: String) {
        let (mut files_done, mut moved) = (0, Instant::now());
        let mut last_message = None::<Instant>;
        while let Some(state) = replay().filter(|state| !state.done) {
            if state.files_done != files_done {
                (files_done, moved) = (state.files_done, Instant::now());
            }
            let is_due = last_message.is_none_or(|sent| sent.elapsed() >= EXTEND_EVERY);
            if is_due && moved.elapsed() < REPLAY_STALL_MAX {
                self.extend(&format!("replaying the log: {files_done} of {} files", state.files));
                last_message = Some(Instant::now());
            }
            tokio::time::sleep(REPLAY_CHECK_INTERVAL).await;
        }
        self.ready(&serving);
    }

    fn is_ready(&self) -> bool {
        self.0.as_ref().is_some_and(|connection| connection.is_ready.load(Ordering::Relaxed))
    }

    fn send(&self, lines: &[String]) {
        let Some(connection) = &self.0 else { return };
        let message = lines.join("\n");
        if let Err(error) = connection.socket.send_to_addr(message.as_bytes(), &connection.address) {
            tracing::debug!(message, %error, "the service manager did not take a message");
        }
    }
}

/// Ends [`ServiceManager::extend_while_opening`] when it is dropped.
#[derive(Debug)]
pub struct Extending {
    _guard: Sender<()>,
}

/// `STATUS=` with a text of one line and bounded length.
fn status_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("STATUS={}", &line[..line.floor_char_boundary(STATUS_BYTES_MAX)])
}

/// The watchdog's interval, if it is meant for this process.
fn watchdog(usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid == std::process::id().to_string());
    let usec = usec?.parse::<u64>().ok().filter(|usec| *usec > 0)?;
    is_ours.then(|| Duration::from_micros(usec))
}

/// Microseconds of the clock that the service manager compares a reload with: never too early, for it would not count then.
/// The kernel shows this clock with hundredths of a second, and with the time that the machine was suspended.
fn monotonic_usec() -> Option<u64> {
    const RESOLUTION_USEC: u64 = 10_000;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some((seconds * 1e6) as u64 + RESOLUTION_USEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_reach_paths_and_abstract_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("ringscrape-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (name, socket) in [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}").into(), UnixDatagram::bind_addr(&address).unwrap()),
        ] {
            let manager = ServiceManager::connect(&name, None).unwrap();
            // A reload during the start would pass for its end.
            manager.reloading();
            manager.reloaded("too early");
            manager.ready("serving");
            assert_eq!(receive(&socket), "READY=1\nSTATUS=serving");
            manager.reloading();
            let reloading = receive(&socket);
            let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(usec.parse::<u64>().is_ok(), "{reloading}");
            manager.reloaded("line 1\nREADY=0");
            assert_eq!(receive(&socket), "READY=1\nSTATUS=line 1 READY=0", "a text adds no assignment");
            drop(manager.extend_while_opening("opening"));
            assert_eq!(receive(&socket), "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=opening");
        }
    }

    #[test]
    fn a_service_manager_that_does_not_read_holds_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::connect(path.as_os_str(), None).unwrap();
        (0..10_000).for_each(|_| manager.extend("still at it"));
        drop(socket);
        manager.stopping();
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["vsock:2:1", "relative", ""] {
            assert!(ServiceManager::connect(OsStr::new(name), None).is_err(), "{name}");
        }
        assert!(ServiceManager::connect(OsStr::new(&format!("/{}", "x".repeat(200))), None).is_err());
    }

    #[test]
    fn texts_are_one_line_of_bounded_length() {
        let line = status_line(&"ü".repeat(1000));
        assert!(line.len() <= "STATUS=".len() + STATUS_BYTES_MAX && line.ends_with('ü'));
        assert_eq!(status_line("a\tb\u{7f}c"), "STATUS=a b c");
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        for (usec, pid, want) in [
            (Some("1000000"), None, second),
            (Some("1000000"), Some(own.as_str()), second),
            (Some("1000000"), Some("1"), None),
            (Some("0"), None, None),
            (Some("x"), None, None),
            (None, None, None),
        ] {
            assert_eq!(watchdog(usec.map(str::to_owned), pid.map(str::to_owned)), want, "{usec:?} {pid:?}");
        }
    }
}
