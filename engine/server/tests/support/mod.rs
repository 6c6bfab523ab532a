//! Starts the real binary on real sockets and files, and ends it by id.
#![allow(dead_code, reason = "each test program uses its part")]

pub mod authority;
pub mod http_server;
pub mod object_store;
pub mod protobuf;
pub mod receiver;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Longest time that anything in these tests may take to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An address of this host that nobody listens on. The kernel gives a port that was let go again: none is given twice.
pub fn free(host: &str) -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address) {
            return address;
        }
    }
}

/// The part of names of flags that is not the same in both modes.
fn mode(flags: &[&str]) -> &'static str {
    if flags.contains(&"--agent") { "agent" } else { "tsdb" }
}

/// A running ringscrape with its folder.
pub struct Ringscrape {
    child: Child,
    pub address: SocketAddr,
    pub folder: tempfile::TempDir,
    log: Arc<Mutex<String>>,
}

impl Ringscrape {
    /// Starts with this prometheus.yml and further flags; returns once it can be asked.
    pub fn start(config: &str, flags: &[&str]) -> Ringscrape {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let server = Ringscrape::start_in(folder, flags);
        server.until_ready();
        server
    }

    /// Waits until everything stored can be asked for.
    pub fn until_ready(&self) {
        until("the server is ready", || (self.get("/-/ready").status == 200).then_some(()));
    }

    /// Starts in a folder that holds a prometheus.yml; returns once it listens.
    pub fn start_in(folder: tempfile::TempDir, flags: &[&str]) -> Ringscrape {
        let (child, address, log) = Ringscrape::spawn(&[], folder.path(), flags);
        Ringscrape { child, address, folder, log }
    }

    /// Starts under another program, which gets ringscrape and its arguments as its own.
    pub fn start_under(program: &[&str], config: &str, flags: &[&str]) -> Ringscrape {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        Ringscrape::start_under_in(program, folder, flags)
    }

    /// The same in a folder that holds a prometheus.yml.
    pub fn start_under_in(program: &[&str], folder: tempfile::TempDir, flags: &[&str]) -> Ringscrape {
        let (child, address, log) = Ringscrape::spawn(program, folder.path(), flags);
        Ringscrape { child, address, folder, log }
    }

    /// Starts with the data folder on a disk of its own, of so many MB; gives where the folder is seen from outside, too. None
    /// where no mounts are allowed, as in some containers.
    pub fn start_on_disk(megabytes: u32, config: &str, flags: &[&str]) -> Option<(Ringscrape, String)> {
        // Root keeps its own user namespace: in another one, its locked memory counts against a limit.
        let allowed =
            |flags: &&str| Command::new("unshare").args([flags, "true"]).status().is_ok_and(|status| status.success());
        let Some(unshare) = ["-m", "-rm"].into_iter().find(allowed) else {
            eprintln!("no mount namespaces here: not run");
            return None;
        };
        // A mount of the process' own; seen from outside by way of /proc.
        let script = format!("mkdir data && mount -t tmpfs -o size={megabytes}m none data && exec \"$@\"");
        let server = Ringscrape::start_under(&["unshare", unshare, "sh", "-c", &script, "sh"], config, flags);
        let inside = format!("/proc/{}/root{}", server.pid(), server.path("data").display());
        Some((server, inside))
    }

    /// Ends the process by this signal and starts another one in the same folder.
    pub fn restart(&mut self, signal: i32, flags: &[&str]) {
        self.signal(signal);
        self.wait();
        self.restart_ended(flags);
    }

    /// Starts another process in the folder of one that has ended.
    pub fn restart_ended(&mut self, flags: &[&str]) {
        (self.child, self.address, self.log) = Ringscrape::spawn(&[], self.folder.path(), flags);
    }

    fn spawn(program: &[&str], folder: &Path, flags: &[&str]) -> (Child, SocketAddr, Arc<Mutex<String>>) {
        let mut command = Command::new(program.first().copied().unwrap_or(env!("CARGO_BIN_EXE_ringscrape")));
        if !program.is_empty() {
            command.args(&program[1..]).arg(env!("CARGO_BIN_EXE_ringscrape"));
        }
        let mut child = command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.{}.path={}", mode(flags), folder.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .args(flags)
            .current_dir(folder)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (found_to, found) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some((_, place)) = line.split_once("listening on http")
                    && let Some((_, address)) = place.split_once("://")
                {
                    let address = address.split_whitespace().next().unwrap_or_default();
                    let _ = found_to.send(address.trim_matches('"').parse().unwrap());
                }
                let mut log = lines.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        match found.recv_timeout(PATIENCE) {
            Ok(address) => (child, address, log),
            Err(_) => {
                let _ = child.kill();
                panic!("ringscrape did not listen; log:\n{}", log.lock().unwrap());
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn get(&self, path: &str) -> Response {
        request(self.address, "GET", path, &[])
    }

    pub fn post(&self, path: &str) -> Response {
        request(self.address, "POST", path, &[])
    }

    /// The `data` of an API answer, which must be a success.
    pub fn api(&self, path: &str) -> serde_json::Value {
        let answer = self.get(path);
        let mut json: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| {
            panic!("{path}: {error}: {}", answer.body);
        });
        assert_eq!(json["status"], "success", "{path}: {}", answer.body);
        json["data"].take()
    }

    /// Active targets as `/api/v1/targets` shows them.
    pub fn targets(&self) -> Vec<serde_json::Value> {
        self.api("/api/v1/targets?state=active")["activeTargets"].as_array().unwrap().clone()
    }

    /// Lines of `/federate` that match the selector, without comments.
    pub fn federate(&self, selector: &str) -> Vec<String> {
        let answer = self.get(&format!("/federate?match[]={}", encode(selector)));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
    }

    /// The value of the only series that matches.
    pub fn value(&self, selector: &str) -> Option<f64> {
        let lines = self.federate(selector);
        assert!(lines.len() <= 1, "{selector}: {lines:?}");
        lines.first().map(|line| line.rsplit(' ').nth(1).unwrap().parse().unwrap())
    }

    /// The value of one of ringscrape's own metrics, by its line up to the value.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let body = self.get("/metrics").body;
        body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    pub fn signal(&self, signal: i32) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "ringscrape did not end; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Ringscrape {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of ringscrape:\n{}", self.log());
        }
    }
}

/// Debian's prometheus, serving a folder.
pub struct Prometheus {
    child: Child,
    pub address: SocketAddr,
}

impl Prometheus {
    /// Returns once it is ready.
    pub fn start(config: &Path, data: &Path, flags: &[&str]) -> Prometheus {
        Prometheus::start_at(free("127.0.0.4"), config, data, flags)
    }

    /// The same at an address, where one may have been before.
    pub fn start_at(address: SocketAddr, config: &Path, data: &Path, flags: &[&str]) -> Prometheus {
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed: make test-deps");
        let prometheus = Prometheus { child, address };
        let up = Instant::now() + PATIENCE;
        let ready = || {
            TcpStream::connect(prometheus.address).is_ok()
                && request(prometheus.address, "GET", "/-/ready", &[]).status == 200
        };
        while !ready() {
            assert!(Instant::now() < up, "prometheus does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        prometheus
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `check` gives a value; panics with the last refusal when patience ends.
#[track_caller]
pub fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One HTTP request on a connection of its own.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    request_with_body(address, method, path, headers, &[])
}

pub fn request_with_body(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Response { status, head: head.to_owned(), body: body.to_owned() }
}

/// Percent-encodes everything but letters and digits.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// What a test target answers: bytes that are sent as they are, then the connection is closed.
type Answer = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// A target of the test's own, on a free port of 127.0.0.1.
pub struct FakeTarget {
    pub address: SocketAddr,
    /// Request heads, oldest first, with the time they came.
    pub requests: Arc<Mutex<Vec<(Instant, String)>>>,
    answer: Arc<Mutex<Answer>>,
}

impl FakeTarget {
    /// Answers every request with `answer(path)`.
    pub fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> FakeTarget {
        let requests: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Arc::new(answer)));
        let (kept, answers) = (requests.clone(), answer.clone());
        let address = http_server::listen(move |stream| serve(stream, &kept, &answers));
        FakeTarget { address, requests, answer }
    }

    /// A target that always says this payload.
    pub fn saying(payload: &str) -> FakeTarget {
        let payload = payload.to_owned();
        FakeTarget::start(move |_| ok(&payload))
    }

    /// From now on it says this payload.
    pub fn now_says(&self, payload: &str) {
        let payload = payload.to_owned();
        self.now(move |_| ok(&payload));
    }

    /// From now on it answers so.
    pub fn now(&self, answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(answer);
    }

    pub fn request_count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

/// An answer with this header is the last one on its connection.
pub const CLOSE: &[u8] = b"X-Then: close\r\n";

fn serve(stream: TcpStream, kept: &Mutex<Vec<(Instant, String)>>, answers: &Mutex<Answer>) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        loop {
            match reader.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) if head.ends_with("\r\n\r\n") => break,
                Ok(_) => {}
            }
        }
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        kept.lock().unwrap().push((Instant::now(), head));
        let answer = answers.lock().unwrap().clone();
        let bytes = answer(&path);
        if writer.write_all(&bytes).is_err() || bytes.windows(CLOSE.len()).any(|part| part == CLOSE) {
            return;
        }
    }
}

/// A 200 with this payload in text format.
pub fn ok(payload: &str) -> Vec<u8> {
    let length = payload.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\n\r\n{payload}")
        .into_bytes()
}

/// A 200 with this body in OpenMetrics.
pub fn ok_openmetrics(body: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A job of these targets, scraped each 200 ms unless `extra` says otherwise.
pub fn job(name: &str, targets: &[SocketAddr], extra: &str) -> String {
    let list: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
    let interval = if extra.contains("scrape_interval") { "" } else { "    scrape_interval: 200ms\n" };
    let extra: String = extra.lines().map(|line| format!("    {line}\n")).collect();
    format!("  - job_name: {name}\n{interval}{extra}    static_configs: [{{targets: [{}]}}]\n", list.join(", "))
}

/// A configuration of these jobs.
pub fn config(jobs: &[String]) -> String {
    format!("scrape_configs:\n{}", jobs.concat())
}

/// Where the repository lies.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
