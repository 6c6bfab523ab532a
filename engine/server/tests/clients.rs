//! Clients that are slow, wrong, many, or gone: none of them costs another one its answer.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{PATIENCE, Ringscrape, config, free, request, request_with_body, until};

/// Time in which an undisturbed client is answered, on a loaded machine.
const SOON: Duration = Duration::from_secs(3);

fn start(flags: &[&str]) -> Ringscrape {
    Ringscrape::start(&config(&[]), flags)
}

/// A connection that has sent these bytes.
fn connect(address: SocketAddr, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(sent).unwrap();
    stream
}

/// What the server sends until it ends the connection.
fn read_all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The next answer on a kept connection: status and body.
fn next_answer(reader: &mut BufReader<TcpStream>) -> (u16, String) {
    let mut status = 0;
    let mut length = 0;
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the connection was closed");
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().unwrap();
        }
        if let Some(rest) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = rest.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

#[track_caller]
fn is_healthy(server: &Ringscrape) {
    let begun = Instant::now();
    assert_eq!(server.get("/-/healthy").status, 200);
    assert!(begun.elapsed() < SOON, "answered after {:?}", begun.elapsed());
}

fn connections(server: &Ringscrape, phase: &str) -> f64 {
    server.metric(&format!("ringscrape_http_connections{{phase=\"{phase}\"}}")).unwrap()
}

fn post_head(path: &str, length: usize) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

#[test]
fn half_requests_take_no_place_from_whole_ones() {
    let server = start(&["--web.enable-remote-write-receiver", "--web.read-timeout=4s"]);
    let paths = ["/api/v1/read", "/api/v1/write", "/api/v1/query"];
    let half: Vec<TcpStream> = paths
        .iter()
        .flat_map(|path| (0..25).map(|at| (*path, at)))
        .map(|(path, at)| connect(server.address, &[post_head(path, 1000), vec![0; at]].concat()))
        .collect();
    for path in ["/api/v1/read", "/api/v1/write"] {
        let begun = Instant::now();
        let answer = request_with_body(server.address, "POST", path, &[], b"no snappy");
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(begun.elapsed() < SOON, "{path}: after {:?}", begun.elapsed());
    }
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    assert_eq!(request_with_body(server.address, "POST", "/api/v1/query", &[form], b"query=1").status, 200);
    for stream in half {
        let text = read_all(stream);
        assert!(text.starts_with("HTTP/1.1 408") && text.contains("did not arrive in time"), "{text}");
    }
}

#[test]
fn connections_that_wait_for_their_client_make_room() {
    let server = start(&["--web.max-connections=100"]);
    let head = b"GET /-/healthy HTTP/1.1\r\nHost:";
    let body = post_head("/api/v1/query", 10);
    for sent in [&b""[..], &head[..], &body[..]] {
        let waiting: Vec<TcpStream> = (0..150).map(|_| connect(server.address, sent)).collect();
        is_healthy(&server);
        let phases = ["handshake", "idle", "head", "body", "answer", "write"];
        let open: f64 = phases.iter().map(|phase| connections(&server, phase)).sum();
        assert!(open <= 100.0, "{open}");
        drop(waiting);
    }
    let evicted = |phase: &str| {
        server.metric(&format!("ringscrape_http_connections_evicted_total{{phase=\"{phase}\"}}")).unwrap()
    };
    assert!(evicted("idle") >= 50.0 && evicted("head") >= 1.0 && evicted("body") >= 1.0);
    assert_eq!(evicted("answer"), 0.0);
}

#[test]
fn kept_connections_may_be_idle() {
    let server = start(&[]);
    let ask = b"GET /-/healthy HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut reader = BufReader::new(connect(server.address, ask));
    assert_eq!(next_answer(&mut reader).0, 200);
    // Longer than a head may take.
    std::thread::sleep(Duration::from_secs(12));
    reader.get_mut().write_all(ask).unwrap();
    assert_eq!(next_answer(&mut reader).0, 200);

    let server = start(&["--web.read-timeout=1s"]);
    let mut reader = BufReader::new(connect(server.address, ask));
    assert_eq!(next_answer(&mut reader).0, 200);
    let begun = Instant::now();
    assert_eq!(read_all(reader.into_inner()), "");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn heads_end_or_are_ended() {
    let server = start(&["--web.read-timeout=2s"]);
    let mut slow = connect(server.address, b"GET / HTTP/1.1\r\n");
    let begun = Instant::now();
    while slow.write_all(b"a: b\r\n").is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a head that never ends is read for ever");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut endless = connect(server.address, b"GET / HTTP/1.1\r\n");
    let line = [b"a".repeat(100), b": b\r\n".to_vec()].concat().repeat(1000);
    let _ = endless.write_all(&line);
    assert!(read_all(endless).starts_with("HTTP/1.1 431"));
    let mut long = connect(server.address, b"GET /");
    let _ = long.write_all(&b"a".repeat(200_000));
    let _ = long.write_all(b" HTTP/1.1\r\n\r\n");
    let text = read_all(long);
    assert!(text.starts_with("HTTP/1.1 4"), "{text}");
    is_healthy(&server);
}

#[test]
fn bodies_that_cannot_be_are_refused_at_once() {
    let server = start(&["--web.enable-remote-write-receiver"]);
    for path in ["/api/v1/write", "/api/v1/query"] {
        let begun = Instant::now();
        let text = read_all(connect(server.address, &post_head(path, 1 << 40)));
        assert!(text.starts_with("HTTP/1.1 413") && text.to_ascii_lowercase().contains("connection: close"), "{text}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    let chunked = b"POST /api/v1/query HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnonsense";
    let text = read_all(connect(server.address, chunked));
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    let both = b"POST /api/v1/query HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: xyz\r\n\r\nabc";
    let text = read_all(connect(server.address, both));
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    for nonsense in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\0\0\0\0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        drop(connect(server.address, nonsense));
    }
    is_healthy(&server);
}

#[test]
fn answers_to_bodies_that_were_not_read_arrive() {
    let server = start(&[]);
    let mut stream = connect(server.address, &post_head("/-/reload", 100_000));
    stream.write_all(&vec![b'x'; 100_000]).unwrap();
    let mut reader = BufReader::new(stream);
    assert_eq!(next_answer(&mut reader), (403, "Lifecycle API is not enabled.".into()));
    // The body was read: the connection goes on.
    reader.get_mut().write_all(b"GET /-/healthy HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(next_answer(&mut reader).0, 200);
}

#[test]
fn old_and_impatient_clients_are_served() {
    let server = start(&[]);
    let text = read_all(connect(server.address, b"GET /-/healthy HTTP/1.0\r\n\r\n"));
    assert!(text.starts_with("HTTP/1.0 200"), "{text}");
    let ask = b"GET /-/healthy HTTP/1.1\r\nHost: h\r\n\r\nGET /version HTTP/1.1\r\nHost: h\r\n\r\n\
        POST /api/v1/format_query HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n\
        Content-Length: 11\r\n\r\nquery=1%2B2GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut reader = BufReader::new(connect(server.address, ask));
    assert_eq!(next_answer(&mut reader).0, 200);
    assert!(next_answer(&mut reader).1.contains("ringscrape"));
    assert!(next_answer(&mut reader).1.contains("1 + 2"));
    assert_eq!(next_answer(&mut reader).0, 404);
    let wait = b"POST /api/v1/query HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n\
        Content-Length: 7\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    let mut stream = connect(server.address, wait);
    let mut line = [0; 25];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"query=1").unwrap();
    assert!(read_all(stream).starts_with("HTTP/1.1 200"));
}

#[test]
fn readers_that_do_not_read_are_cut_when_there_are_too_many() {
    let server = start(&["--web.max-connections=8"]);
    // The largest file of the pages: more of it than the buffers of both sides hold.
    let page = server.get("/query").body;
    let files = page.split('"').filter(|part| part.starts_with("assets/"));
    let file = files.max_by_key(|file| server.get(&format!("/{file}")).body.len()).unwrap();
    let ask = format!("GET /{file} HTTP/1.1\r\nHost: h\r\n\r\n").repeat(1000);
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(server.address, b"");
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(ask.as_bytes());
        readers.push(stream);
    }
    until("the server waits for all of them", || (connections(&server, "write") == 4.0).then_some(()));
    // Longer than a reader may pause while there is no room.
    std::thread::sleep(Duration::from_millis(2500));
    let idle: Vec<TcpStream> = (0..6).map(|_| connect(server.address, b"")).collect();
    is_healthy(&server);
    let evicted = server.metric("ringscrape_http_connections_evicted_total{phase=\"write\"}").unwrap();
    assert!(evicted >= 1.0, "{evicted}");
    drop(idle);
}

#[test]
fn targets_need_no_percent_signs() {
    let server = start(&[]);
    for target in [
        "/api/v1/query?query=up{job=\"a\"}",
        "/api/v1/query?query=(up>0)",
        "/api/v1/query?query={\"ü\"=~\"a|b\",x!=`^`}",
        "/api/v1/query?query=1#comment",
        "/api/v1/label/ü/values",
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let text = read_all(connect(server.address, head.as_bytes()));
        assert!(text.starts_with("HTTP/1.1 200"), "{target}: {text}");
        // Also in two pieces.
        let cut = head.find('?').unwrap_or(5) + 8;
        let mut stream = connect(server.address, &head.as_bytes()[..cut]);
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(&head.as_bytes()[cut..]).unwrap();
        assert!(read_all(stream).starts_with("HTTP/1.1 200"), "{target}");
    }
}

#[test]
fn an_address_without_host_is_reached_by_both_families() {
    let port = free("127.0.0.1").port();
    let server = start(&[&format!("--web.listen-address=:{port}")]);
    assert_eq!(request(([127, 0, 0, 1], port).into(), "GET", "/-/healthy", &[]).status, 200);
    let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    if TcpStream::connect(v6).is_ok() {
        assert_eq!(request(v6, "GET", "/-/healthy", &[]).status, 200);
    } else {
        assert!(std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().is_empty(), "IPv6 is there");
    }
    drop(server);
}

/// nginx before a server, with its default of rewriting `Host`.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_proxy_that_rewrites_the_host_is_no_other_origin() {
    let server = start(&["--web.enable-lifecycle", "--web.external-url=https://prom.example/"]);
    let proxy = free("127.0.0.1");
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().display();
    let settings = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c;\n\
         uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;\n\
         server {{ listen {proxy}; location / {{ proxy_pass http://{}; }} }} }}\n",
        server.address
    );
    std::fs::write(folder.path().join("nginx.conf"), settings).unwrap();
    let nginx = Command::new("nginx")
        .args(["-c", &folder.path().join("nginx.conf").display().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx is installed: make test-deps");
    let _nginx = Nginx(nginx);
    until("nginx listens", || TcpStream::connect(proxy).ok());
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let ask = |path: &str, origin: &str| {
        request_with_body(proxy, "POST", path, &[("Origin", origin), form], b"query=1").status
    };
    let own = format!("http://{proxy}");
    assert_eq!(ask("/api/v1/query", &own), 200, "a query changes nothing");
    assert_eq!(ask("/-/reload", "https://prom.example"), 200, "the external URL is ours");
    assert_eq!(ask("/-/reload", "https://evil.example"), 403);
}
