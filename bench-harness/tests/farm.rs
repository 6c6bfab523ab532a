//! The farm as a process: what a scraper sees on the wire.
//!
//! Every test starts a farm of its own on a free port and ends it by its id.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Long enough for a reply over loopback on a busy machine, short enough to wait for one that never comes.
const SILENCE: Duration = Duration::from_millis(400);
/// For replies that have to come; a payload that is not the farm's kind is rendered when first asked for.
const PATIENCE: Duration = Duration::from_secs(20);

struct Farm {
    process: Child,
    port: u16,
    port_full: u16,
    /// Lines printed at the start, after the two with the ports.
    said: Vec<String>,
}

impl Farm {
    fn start(arguments: &[&str]) -> Farm {
        let mut process = Command::new(env!("CARGO_BIN_EXE_farm"))
            .args(["--listen", "0", "--max-seconds", "60"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting the farm");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut port = |start: &str| -> u16 {
            let line = lines.next().expect("the farm ended before it said its ports");
            line.strip_prefix(start).unwrap_or_else(|| panic!("{line}")).parse().unwrap()
        };
        let (port, port_full) = (port("farm listening on 127.0.0.1:"), port("farm full-backlog on 127.0.0.1:"));
        let said = lines.by_ref().take(2).collect();
        Farm { process, port, port_full, said }
    }

    fn connect(&self, address: &str) -> TcpStream {
        let stream = TcpStream::connect((address, self.port)).expect("connecting to the farm");
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        stream
    }

    /// Asks and reads until the farm closes, resets, falls silent or has sent `bytes_max`.
    fn ask(&self, address: &str, path: &str, headers: &str, bytes_max: usize) -> Seen {
        let mut stream = self.connect(address);
        request(&mut stream, "GET", path, &format!("Connection: close\r\n{headers}"));
        see(&mut stream, bytes_max)
    }

    /// A whole reply of status 200, as head and body.
    #[track_caller]
    fn get(&self, address: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
        let mut stream = self.connect(address);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        request(&mut stream, "GET", path, &format!("Connection: close\r\n{headers}"));
        let seen = see(&mut stream, usize::MAX);
        assert_eq!(seen.end, End::Closed, "{path} did not end: {}", seen.text());
        let (head, body) = seen.split();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        (head, body)
    }

    fn text(&self, address: &str, path: &str) -> String {
        String::from_utf8(self.get(address, path, "").1).expect("UTF-8")
    }

    /// A number on the page /stats.
    #[track_caller]
    fn stat(&self, name: &str) -> u64 {
        let stats = self.text("127.0.0.1", "/stats");
        let start = stats.find(&format!("\"{name}\": ")).unwrap_or_else(|| panic!("no {name} in {stats}"));
        let digits = &stats[start + name.len() + 4..];
        digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Time on a processor so far, all threads together, in seconds.
    fn cpu_seconds(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let nanoseconds = |task: std::io::Result<std::fs::DirEntry>| -> f64 {
            let schedstat = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            schedstat.split(' ').next().unwrap().parse().unwrap()
        };
        tasks.map(nanoseconds).sum::<f64>() / 1e9
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn request(stream: &mut TcpStream, method: &str, path: &str, headers: &str) {
    // One write: pieces would wait for each other's acknowledgement.
    let request = format!("{method} {path} HTTP/1.1\r\nHost: farm\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("asking the farm");
}

#[derive(Debug, PartialEq)]
enum End {
    Closed,
    Reset,
    Silent,
    More,
}

struct Seen {
    bytes: Vec<u8>,
    end: End,
}

impl Seen {
    fn split(self) -> (String, Vec<u8>) {
        let end = self.bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        (String::from_utf8(self.bytes[..end].to_vec()).unwrap(), self.bytes[end..].to_vec())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(2_000)]).into_owned()
    }
}

/// Reads until something ends it; silence is measured from the start, so a slow drip counts as silence too.
fn see(stream: &mut TcpStream, bytes_max: usize) -> Seen {
    let start = Instant::now();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        if bytes.len() >= bytes_max {
            break End::More;
        }
        if (1..100).contains(&bytes.len()) && start.elapsed() > SILENCE {
            break End::Silent;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break End::Closed,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break End::Reset,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break End::Silent,
            Err(e) => panic!("{e}"),
        }
    };
    Seen { bytes, end }
}

fn samples(body: &str) -> Vec<&str> {
    body.lines().filter(|line| !line.starts_with('#')).collect()
}

/// Every line is a comment or a sample of a name, perhaps labels, and a float; no series comes twice.
#[track_caller]
fn check_lines(body: &str, samples_want: std::ops::RangeInclusive<usize>) {
    let mut seen = HashSet::new();
    for line in samples(body) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        assert!(!series.contains('{') || series.ends_with("\"}"), "{line}");
        assert!(seen.insert(series), "{line} comes twice");
    }
    assert!(samples_want.contains(&seen.len()), "{} samples", seen.len());
    assert!(body.ends_with('\n'));
}

#[test]
fn kinds_have_their_sizes() {
    let farm = Farm::start(&["--kind", "node"]);
    check_lines(&farm.text("127.1.0.1", "/metrics"), 1_250..=1_350);
    check_lines(&farm.text("127.1.0.1", "/metrics/app"), 1_360..=1_360);
    check_lines(&farm.text("127.1.0.1", "/metrics/small"), 20..=20);
    check_lines(&farm.text("127.1.0.1", "/metrics/huge"), 50_000..=50_000);
    assert!(farm.said[0].starts_with("Node: 12"), "{:?}", farm.said);
}

#[test]
fn samples_are_as_many_as_asked_for() {
    let farm = Farm::start(&["--kind", "app", "--samples", "1000"]);
    check_lines(&farm.text("127.1.0.1", "/metrics"), 1_000..=1_000);
}

#[test]
fn gzip_unpacks_to_the_plain_body() {
    let farm = Farm::start(&["--variants", "1"]);
    let (head_plain, plain) = farm.get("127.1.0.1", "/metrics", "");
    let (head, zipped) = farm.get("127.1.0.1", "/metrics", "Accept-Encoding: gzip\r\n");
    assert!(!head_plain.contains("Content-Encoding"));
    assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!((11_000..15_000).contains(&zipped.len()), "{} bytes", zipped.len());
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(&zipped[..]).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == plain);
}

#[test]
fn a_target_cycles_through_its_variants_and_others_start_elsewhere() {
    let farm = Farm::start(&["--variants", "3", "--changing", "25"]);
    let scrapes: Vec<String> = (0..4).map(|_| farm.text("127.1.0.7", "/metrics")).collect();
    assert!(scrapes[0] == scrapes[3]);
    for pair in scrapes.windows(2) {
        let (before, after) = (samples(&pair[0]), samples(&pair[1]));
        assert_eq!(before.iter().zip(&after).filter(|(b, a)| b != a).count(), 340);
    }
    assert!(farm.text("127.1.0.8", "/metrics") == scrapes[1]);
}

/// The same payloads come over TLS, whole, also those that no buffer holds, and many over one connection.
#[test]
fn tls_serves_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("farm.crt");
    let certificate_flag = format!("--tls-certificate={}", certificate.display());
    let farm = Farm::start(&["--variants", "1", "--tls-listen", "0", &certificate_flag]);
    let port: u16 = farm.said[0].strip_prefix("farm TLS on 127.0.0.1:").unwrap().parse().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let settings = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = rustls::ClientConnection::new(Arc::new(settings), "farm".try_into().unwrap()).unwrap();
    let socket = TcpStream::connect(("127.1.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = rustls::StreamOwned::new(client, socket);
    let bodies = ["/metrics", "/metrics/huge", "/metrics"].map(|path| {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: farm\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.split("Content-Length: ").nth(1).unwrap().split('\r').next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        body
    });
    for (path, body) in ["/metrics", "/metrics/huge", "/metrics"].iter().zip(&bodies) {
        assert!(farm.get("127.1.0.1", path, "").1 == *body, "{path}");
    }
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    // An end without a word of the farm would be an error.
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&bodies[0]));
    assert_eq!(farm.stat("overlapping_scrapes"), 0);
}

#[test]
fn one_connection_serves_many_requests() {
    let farm = Farm::start(&["--kind", "small", "--variants", "1"]);
    let mut stream = farm.connect("127.1.0.1");
    // Two at once, then one in two pieces.
    request(&mut stream, "GET", "/metrics", "");
    request(&mut stream, "GET", "/metrics", "");
    stream.write_all(b"GET /metrics HT").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    stream.write_all(b"TP/1.1\r\n\r\n").unwrap();
    let seen = see(&mut stream, usize::MAX);
    assert_eq!(seen.end, End::Silent);
    assert_eq!(seen.bytes.windows(15).filter(|window| window == b"HTTP/1.1 200 OK").count(), 3);
    assert_eq!(farm.stat("scrapes"), 3);
}

#[test]
fn the_address_asked_is_the_target() {
    let farm = Farm::start(&["--kind", "small"]);
    for address in ["127.1.0.1", "127.1.0.3", "127.1.0.3", "127.0.0.1", "127.200.0.1"] {
        farm.text(address, "/metrics");
    }
    assert_eq!(farm.text("127.0.0.1", "/stats/targets"), "[1, 0, 2]\n");
    assert_eq!(farm.stat("scrapes"), 5);
    assert_eq!(farm.stat("targets_seen"), 2);
    assert_eq!(farm.stat("target_scrapes_max"), 2);
    let mut stream = farm.connect("127.0.0.1");
    request(&mut stream, "POST", "/stats/reset", "Connection: close\r\n");
    see(&mut stream, usize::MAX);
    assert_eq!(farm.stat("scrapes"), 0);
}

#[test]
fn overlapping_scrapes_of_one_target_are_seen() {
    let farm = Farm::start(&["--kind", "small", "--delay-ms", "100"]);
    let mut streams: Vec<TcpStream> = ["127.1.0.1", "127.1.0.1", "127.1.0.2"].map(|a| farm.connect(a)).into();
    streams.iter_mut().for_each(|stream| request(stream, "GET", "/metrics", ""));
    for stream in &mut streams {
        assert!(see(stream, 1_000).text().starts_with("HTTP/1.1 200 OK"));
    }
    assert_eq!((farm.stat("overlapping_scrapes"), farm.stat("connections_doubled")), (1, 1));
}

#[test]
fn threads_share_the_targets_and_the_counters() {
    let farm = Farm::start(&["--kind", "small", "--threads", "2"]);
    (0..20).for_each(|_| drop(farm.text("127.1.0.1", "/metrics")));
    assert_eq!(farm.text("127.0.0.1", "/stats/targets"), "[20]\n");
}

#[test]
fn sigterm_ends_it_cleanly() {
    let mut farm = Farm::start(&["--kind", "small"]);
    let _idle = farm.connect("127.1.0.1");
    farm.signal("-TERM");
    assert!(farm.process.wait().unwrap().success());
}

#[test]
fn it_stops_by_itself() {
    let start = Instant::now();
    let mut process = Command::new(env!("CARGO_BIN_EXE_farm"))
        .args(["--listen", "127.0.0.1:0", "--kind", "small", "--max-seconds", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(process.wait().unwrap().success());
    assert!((1..10).contains(&start.elapsed().as_secs()));
}

#[test]
fn public_addresses_are_refused() {
    let status = |arguments: &[&str]| {
        let run = Command::new(env!("CARGO_BIN_EXE_farm")).args(arguments).output().unwrap();
        (run.status.success(), String::from_utf8(run.stderr).unwrap())
    };
    let (success, stderr) = status(&["--listen", "0.0.0.0:0"]);
    assert!(!success && stderr.contains("not in 127.0.0.0/8"), "{stderr}");
    let (success, stderr) = status(&["--changing", "101"]);
    assert!(!success && stderr.contains("between 0 and 100"), "{stderr}");
}

#[test]
fn a_full_backlog_answers_no_connection() {
    let farm = Farm::start(&["--kind", "small"]);
    let address = SocketAddr::from(([127, 0, 0, 1], farm.port_full));
    let error = TcpStream::connect_timeout(&address, SILENCE).expect_err("the queue has room");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

/// How a hostile path ends, and what is in what it sent up to there.
#[track_caller]
fn check_evil(farm: &Farm, path: &str, end: End, want: &[&str]) {
    let seen = farm.ask("127.1.0.9", &format!("/evil/{path}"), "", 4 * 1024 * 1024);
    assert_eq!(seen.end, end, "{path}: {}", seen.text());
    for part in want {
        assert!(seen.text().contains(part), "{path}: no {part:?} in {}", seen.text());
    }
}

#[test]
fn silent_and_slow_targets_are_silent_and_slow() {
    let farm = Farm::start(&["--kind", "small"]);
    check_evil(&farm, "never-answers", End::Silent, &[]);
    check_evil(&farm, "close-unanswered", End::Closed, &[]);
    check_evil(&farm, "reset-unanswered", End::Reset, &[]);
    check_evil(&farm, "slow-headers", End::Silent, &["H"]);
    check_evil(&farm, "slow-loris", End::Silent, &["Content-Length: 2097152\r\n\r\n#"]);
    check_evil(&farm, "stall-in-body", End::Silent, &["good_metric{part=\"first\"} 1\n"]);
}

#[test]
fn a_drip_goes_on_at_its_pace() {
    let farm = Farm::start(&["--kind", "small"]);
    let mut stream = farm.connect("127.1.0.1");
    request(&mut stream, "GET", "/evil/slow-chunks", "");
    // Events on the socket must not hurry it.
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(110));
        stream.write_all(b"GET ").unwrap();
    }
    stream.set_nonblocking(true).unwrap();
    let (_, body) = see(&mut stream, usize::MAX).split();
    // One at once, then one each sixth of a second.
    assert!((5..=8).contains(&body.len()), "{} bytes", body.len());
}

#[test]
fn broken_http_is_broken_as_said() {
    let farm = Farm::start(&["--kind", "small"]);
    check_evil(&farm, "half-close", End::Closed, &["good_metric{part=\"first\"} 1\n"]);
    check_evil(&farm, "reset-in-body", End::Reset, &[]);
    check_evil(&farm, "length-negative", End::Closed, &["Content-Length: -1\r\n"]);
    check_evil(&farm, "length-conflicting", End::Closed, &["Content-Length: 5\r\nContent-Length: "]);
    check_evil(&farm, "chunk-size-bad", End::Closed, &["\r\n\r\nzz\r\n"]);
    check_evil(&farm, "chunks-tiny", End::Closed, &["\r\n\r\n1\r\n#\r\n", "\r\n0\r\nX-Trailer: yes\r\n\r\n"]);
    check_evil(&farm, "interim-few", End::Closed, &["HTTP/1.1 103 Early Hints\r\n", "HTTP/1.1 200 OK\r\n"]);
    check_evil(&farm, "status-503", End::Closed, &["HTTP/1.1 503 Service Unavailable\r\n"]);
    check_evil(&farm, "type-absent", End::Closed, &["HTTP/1.1 200 OK\r\nContent-Length: "]);
    for (path, off_by) in [("length-too-long", 100), ("length-too-short", -1)] {
        let (head, body) = farm.get("127.1.0.1", &format!("/evil/{path}"), "");
        let said = head.split("Content-Length: ").nth(1).unwrap().trim_end().parse::<i64>().unwrap();
        assert_eq!((said - body.len() as i64).signum(), i64::signum(off_by), "{path}");
    }
}

#[test]
fn endless_replies_do_not_end() {
    let farm = Farm::start(&["--kind", "small"]);
    for path in [
        "endless-chunks",
        "endless-close",
        "endless-samples",
        "endless-line",
        "header-1gib",
        "status-line-endless",
        "interim-endless",
        "chunk-extension-huge",
        "trailer-flood",
        "line-100mib",
        "cardinality-bomb",
        "gzip-bomb",
    ] {
        check_evil(&farm, path, End::More, &["HTTP/1.1 "]);
    }
    assert_eq!(farm.stat("connections_open"), 1, "readers that left are still there");
}

/// What a gzip body unpacks to, or where it breaks.
#[track_caller]
fn check_gzip(farm: &Farm, path: &str, want: Result<&str, ErrorKind>) {
    let (head, body) = farm.get("127.1.0.9", &format!("/evil/{path}"), "Accept-Encoding: gzip\r\n");
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{path}: {head}");
    let mut unpacked = String::new();
    match (MultiGzDecoder::new(&body[..]).read_to_string(&mut unpacked), want) {
        (Ok(_), Ok(want)) => assert!(unpacked.ends_with(want), "{path}: {unpacked}"),
        (Err(e), Err(want)) => assert_eq!(e.kind(), want, "{path}: {e}"),
        (got, want) => panic!("{path}: {got:?}, wanted {want:?}"),
    }
}

#[test]
fn broken_gzip_is_broken_as_said() {
    let farm = Farm::start(&["--kind", "small"]);
    check_gzip(&farm, "gzip-two-members", Ok("second_member 2\n"));
    check_gzip(&farm, "gzip-truncated", Err(ErrorKind::UnexpectedEof));
    check_gzip(&farm, "gzip-no-trailer", Err(ErrorKind::UnexpectedEof));
    check_gzip(&farm, "gzip-bad-crc", Err(ErrorKind::InvalidInput));
    check_gzip(&farm, "gzip-size-lies", Err(ErrorKind::InvalidInput));
    check_gzip(&farm, "encoding-lies", Err(ErrorKind::InvalidInput));
}

#[test]
fn redirects_lead_where_they_say() {
    let farm = Farm::start(&["--kind", "small"]);
    check_evil(&farm, "redirect-loop", End::Closed, &["302 Found", "Location: /evil/redirect-loop\r\n"]);
    check_evil(&farm, "redirect-chain", End::Closed, &["Location: /evil/redirect-chain/2\r\n"]);
    check_evil(&farm, "redirect-chain/1", End::Closed, &["Location: /metrics\r\n"]);
    let elsewhere = format!("Location: http://127.0.0.2:{}/metrics\r\n", farm.port);
    check_evil(&farm, "redirect-elsewhere", End::Closed, &[&elsewhere]);
}

#[test]
fn hostile_text_changes_where_it_should() {
    let farm = Farm::start(&["--kind", "small"]);
    let churning: Vec<String> = (0..2).map(|_| farm.text("127.1.0.1", "/evil/churning-labels")).collect();
    check_lines(&churning[0], 1_000..=1_000);
    let first: HashSet<&str> = samples(&churning[0]).into_iter().collect();
    assert!(samples(&churning[1]).iter().all(|line| !first.contains(line)));
    assert!(farm.get("127.1.0.1", "/evil/type-changing", "").0.contains("text/plain"));
    assert!(farm.get("127.1.0.1", "/evil/type-changing", "").0.contains("image/png"));
    assert_eq!(farm.get("127.1.0.1", "/evil/utf8-invalid", "").1, b"good_metric{a=\"\xff\xfe\xc0\x80\"} 1\n");
    assert!(farm.text("127.1.0.1", "/evil/spoofs-up").starts_with("up 5\n"));
}

/// All hostile paths at once, each left after its first bytes, do not keep the farm from its good targets.
#[test]
fn every_hostile_path_is_served_and_survived() {
    let farm = Farm::start(&["--kind", "small"]);
    let listing = Command::new(env!("CARGO_BIN_EXE_farm")).arg("evil-list").output().unwrap().stdout;
    let listing = String::from_utf8(listing).unwrap();
    assert!(farm.text("127.0.0.1", "/").ends_with(&listing));
    let names: Vec<&str> = listing.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    let mut streams: Vec<TcpStream> = names.iter().map(|_| farm.connect("127.1.0.2")).collect();
    for (stream, name) in streams.iter_mut().zip(&names) {
        request(stream, "GET", &format!("/evil/{name}"), "");
    }
    check_lines(&farm.text("127.1.0.1", "/metrics"), 20..=20);
    let answered: usize = streams.iter_mut().map(|stream| stream.read(&mut [0; 1]).unwrap_or(0)).sum();
    assert_eq!(answered, names.len() - 3, "all but the three that say so send something");
    drop(streams);
    check_lines(&farm.text("127.1.0.1", "/metrics"), 20..=20);
    let stats = farm.text("127.0.0.1", "/stats");
    for name in names {
        assert!(stats.contains(&format!("\"{name}\": 1")), "{name} was not counted: {stats}");
    }
}

#[test]
fn the_target_list_fits_the_addresses() {
    let farm = Farm::start(&["--kind", "small"]);
    let arguments = ["targets", "--count", "300", "--port", &farm.port.to_string(), "--format", "file_sd"];
    let list = Command::new(env!("CARGO_BIN_EXE_farm")).args(arguments).output().unwrap().stdout;
    let list = String::from_utf8(list).unwrap();
    let last = list.split('"').rfind(|word| word.ends_with(&format!(":{}", farm.port))).unwrap();
    farm.text(last.split(':').next().unwrap(), "/metrics");
    let counts = farm.text("127.0.0.1", "/stats/targets");
    assert_eq!(counts.matches(',').count(), 299, "the last target of the list has another index than 299");
}

/// Not a test but the measurement in README.md: what a request costs the farm, flat out and at the pace of scrapes.
#[test]
#[ignore = "a measurement; run it in release mode on an idle machine"]
fn cost_per_request() {
    const CONNECTIONS: usize = 1_000;
    const RUN: Duration = Duration::from_secs(5);
    // Requests per second and how many of them at once; 667 a second are 10,000 targets every 15 seconds.
    let paces = [(f64::INFINITY, 10), (667.0, 1)];
    let bodies = [("app", "gzip"), ("app", "identity"), ("node", "gzip"), ("small", "gzip")];
    for ((kind, encoding), (pace, at_once)) in bodies.into_iter().flat_map(|body| paces.map(|pace| (body, pace))) {
        let farm = Farm::start(&["--kind", kind]);
        let headers = format!("Accept: text/plain;version=0.0.4\r\nAccept-Encoding: {encoding}\r\n");
        let mut streams: Vec<TcpStream> =
            (0..CONNECTIONS).map(|n| farm.connect(&format!("127.1.{}.{}", n / 250, n % 250 + 1))).collect();
        let mut buffer = vec![0; 1024 * 1024];
        let (cpu_start, start) = (farm.cpu_seconds(), Instant::now());
        let (mut requests, mut bytes) = (0u64, 0u64);
        'run: loop {
            for batch in streams.chunks_mut(at_once) {
                if start.elapsed() >= RUN {
                    break 'run;
                }
                let due = Duration::from_secs_f64(requests as f64 / pace);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
                batch.iter_mut().for_each(|stream| request(stream, "GET", "/metrics", &headers));
                for stream in batch {
                    bytes += read_reply(stream, &mut buffer) as u64;
                    requests += 1;
                }
            }
        }
        let cpu = farm.cpu_seconds() - cpu_start;
        println!(
            "{kind} {encoding}: {:.0} a second, {:.0} per CPU second, {:.1} us and {} bytes each, {:.1} % of a core",
            requests as f64 / start.elapsed().as_secs_f64(),
            requests as f64 / cpu,
            cpu * 1e6 / requests as f64,
            bytes / requests,
            cpu * 100.0 / start.elapsed().as_secs_f64(),
        );
    }
}

/// Reads one reply with a Content-Length; returns its size.
fn read_reply(stream: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    let mut whole = usize::MAX;
    while filled < whole {
        let read = stream.read(&mut buffer[filled..]).expect("a reply");
        assert!(read > 0, "closed in the middle of a reply");
        filled += read;
        if whole == usize::MAX
            && let Some(end) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n")
        {
            let head = std::str::from_utf8(&buffer[..end]).unwrap();
            let length: usize = head.rsplit("Content-Length: ").next().unwrap().trim().parse().unwrap();
            whole = end + 4 + length;
        }
    }
    whole
}
