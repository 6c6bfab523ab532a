//! Scrapes over TLS, with credentials, tokens and proxies: the real binary against nginx and stand-ins on loopback.

mod support;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use support::authority::Authority;
use support::http_server::listen;
use support::{FakeTarget, PATIENCE, Ringscrape, config, job, until};

/// A free port on an address that other tests leave alone.
fn free() -> SocketAddr {
    support::free("127.0.0.5")
}

/// nginx with these server sections.
struct Nginx {
    child: Child,
    folder: PathBuf,
}

impl Nginx {
    fn start(folder: &Path, servers: &str, address: SocketAddr) -> Nginx {
        let place = folder.display();
        let text = format!(
            "daemon off; user root root; worker_processes 1; pid {place}/nginx.pid; error_log {place}/nginx.log info;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; \
             fastcgi_temp_path {place}/t3; uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;\n{servers}\n}}\n"
        );
        std::fs::write(folder.join("nginx.conf"), text).unwrap();
        let child = Command::new("nginx")
            .args(["-p", folder.to_str().unwrap(), "-c", folder.join("nginx.conf").to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed: make test-deps");
        until("nginx listens", || TcpStream::connect(address).ok());
        Nginx { child, folder: folder.to_owned() }
    }

    /// Takes changed certificates.
    fn reload(&self) {
        let status = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("nginx: {}", std::fs::read_to_string(self.folder.join("nginx.log")).unwrap_or_default());
        }
    }
}

/// The target of a job, once its last scrape is as wanted: "" for a good one, else part of its error.
#[track_caller]
fn wait_for(server: &Ringscrape, name: &str, want: &str) -> Value {
    let mut last = String::new();
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let targets = server.targets();
        if let Some(target) = targets.iter().find(|target| target["scrapePool"] == name) {
            let error = target["lastError"].as_str().unwrap_or_default();
            assert!(!error.contains("hush"), "a secret is shown: {error}");
            let good = target["health"] == "up";
            if if want.is_empty() { good } else { error.contains(want) } {
                return target.clone();
            }
            last = format!("{}: {error}", target["health"]);
        }
        assert!(std::time::Instant::now() < end, "job {name}: {last:?}, want {want:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn nginx_with_tls_client_certificates_and_basic_auth() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    std::fs::write(place.join("ca.pem"), &ours.pem).unwrap();
    std::fs::write(place.join("other.pem"), &other.pem).unwrap();
    ours.issue(place, "server", &["node.example", "127.0.0.5"]);
    ours.issue(place, "expired", &["127.0.0.5"]);
    ours.issue(place, "client", &["scraper"]);
    other.issue(place, "stranger", &["scraper"]);
    std::fs::write(place.join("metrics"), "up_and_running 1\n").unwrap();
    std::fs::write(place.join("users"), "prom:{PLAIN}hush\n").unwrap();
    let (plain, mutual, basic, expired, old) = (free(), free(), free(), free(), free());
    let d = place.display();
    let server = |address: SocketAddr, name: &str, more: &str| {
        format!(
            "server {{ listen {address} ssl; ssl_certificate {d}/{name}.crt; ssl_certificate_key {d}/{name}.key; \
             root {d}; default_type text/plain; {more} }}\n"
        )
    };
    let servers = [
        server(plain, "server", "gzip on; gzip_types text/plain; gzip_min_length 1;"),
        server(mutual, "server", &format!("ssl_client_certificate {d}/ca.pem; ssl_verify_client on;")),
        server(basic, "server", &format!("auth_basic x; auth_basic_user_file {d}/users;")),
        server(expired, "expired", ""),
        server(old, "server", "ssl_protocols TLSv1.2; keepalive_requests 1;"),
    ];
    let nginx = Nginx::start(place, &servers.concat(), plain);
    let ca = format!("ca_file: {d}/ca.pem");
    let user = "basic_auth: {username: prom, password_file: password}";
    std::fs::write(place.join("password"), "hush\n").unwrap();
    let with = |name: &str, address: SocketAddr, tls: &str, more: &str| {
        job(name, &[address], &format!("scheme: https\nscrape_interval: 500ms\ntls_config: {{{tls}}}\n{more}"))
    };
    let client = format!("{ca}, cert_file: {d}/client.crt, key_file: {d}/client.key");
    let stranger = format!("{ca}, cert_file: {d}/stranger.crt, key_file: {d}/stranger.key");
    let jobs = [
        with("good", plain, &ca, ""),
        with("name", plain, &format!("{ca}, server_name: node.example"), ""),
        with("wrong-name", plain, &format!("{ca}, server_name: other.example"), ""),
        with("unknown", plain, &format!("ca_file: {d}/other.pem"), ""),
        with("unchecked", plain, "insecure_skip_verify: true", ""),
        with("missing", plain, &format!("ca_file: {d}/nowhere.pem"), ""),
        with("expired", expired, &ca, ""),
        with("mutual", mutual, &client, ""),
        with("stranger", mutual, &stranger, ""),
        with("basic", basic, &ca, &user.replace("password_file: password", &format!("password_file: {d}/password"))),
        with("basic-wrong", basic, &ca, "basic_auth: {username: prom, password: hushhush}"),
        with("tls12", old, &ca, ""),
        with("only13", old, &format!("{ca}, min_version: TLS13"), ""),
        with("not-tls", FakeTarget::saying("x 1\n").address, &ca, ""),
        job("plain-to-tls", &[plain], ""),
    ];
    let ringscrape = Ringscrape::start(&config(&jobs), &[]);
    for (name, want) in [
        ("good", ""),
        ("name", ""),
        ("wrong-name", "x509: certificate is valid for node.example"),
        ("unknown", "x509: certificate signed by unknown authority"),
        ("unchecked", ""),
        ("missing", "nowhere.pem: No such file"),
        ("expired", "x509: certificate has expired or is not yet valid"),
        ("mutual", ""),
        ("stranger", "400"),
        ("basic", ""),
        ("basic-wrong", "server returned HTTP status 401 Unauthorized"),
        ("tls12", ""),
        ("only13", "protocol version not supported"),
        ("not-tls", "TLS"),
        ("plain-to-tls", "server returned HTTP status 400"),
    ] {
        wait_for(&ringscrape, name, want);
    }
    // A server that closes after each answer costs one full handshake, then sessions go on.
    until("sessions are resumed", || {
        ringscrape.metric("ringscrape_tls_handshakes_total{kind=\"resumed\"}").filter(|count| *count >= 2.0)
    });

    // Everything that a file says may change while we run: the server's authority, our password, our certificate.
    std::fs::write(place.join("password"), "other").unwrap();
    wait_for(&ringscrape, "basic", "401");
    std::fs::write(place.join("password"), "hush").unwrap();
    wait_for(&ringscrape, "basic", "");
    other.issue(place, "client", &["scraper"]);
    wait_for(&ringscrape, "mutual", "400");
    ours.issue(place, "client", &["scraper"]);
    wait_for(&ringscrape, "mutual", "");
    other.issue(place, "server", &["127.0.0.5"]);
    nginx.reload();
    wait_for(&ringscrape, "unknown", "");
    wait_for(&ringscrape, "good", "signed by unknown authority");
    std::fs::write(place.join("ca.pem"), &other.pem).unwrap();
    wait_for(&ringscrape, "good", "");
    std::fs::write(place.join("ca.pem"), &ours.pem).unwrap();
    wait_for(&ringscrape, "good", "signed by unknown authority");
    assert!(!ringscrape.log().contains("hush"));
}

/// A certificate that signed itself, as `openssl req -x509` makes them, trusted as it is.
#[test]
fn a_trusted_certificate_may_have_signed_itself() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let mut params = CertificateParams::new(vec!["127.0.0.5".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(place.join("self.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(place.join("self.key"), key.serialize_pem()).unwrap();
    std::fs::write(place.join("metrics"), "a 1\n").unwrap();
    let (address, d) = (free(), place.display());
    let server = format!(
        "server {{ listen {address} ssl; ssl_certificate {d}/self.crt; ssl_certificate_key {d}/self.key; root {d}; \
         default_type text/plain; }}"
    );
    let _nginx = Nginx::start(place, &server, address);
    let jobs = [
        job("good", &[address], &format!("scheme: https\ntls_config: {{ca_file: {d}/self.crt}}")),
        job("name", &[address], &format!("scheme: https\ntls_config: {{ca_file: {d}/self.crt, server_name: other}}")),
    ];
    let ringscrape = Ringscrape::start(&config(&jobs), &[]);
    wait_for(&ringscrape, "good", "");
    wait_for(&ringscrape, "name", "not other");
}

/// Keeps a connection until the other side ends it.
fn hold(mut stream: TcpStream) {
    let mut bytes = [0; 1024];
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
}

#[test]
fn hostile_handshakes_end_with_the_deadline_and_their_cause() {
    let say = |bytes: &'static [u8]| {
        listen(move |mut stream| {
            let _ = stream.write_all(bytes);
            hold(stream);
        })
    };
    // The head of a handshake record that promises 16 KiB, and of one that is larger than may be.
    let promise: &[u8] = &[22, 3, 3, 0x40, 0];
    let huge: &[u8] = &[22, 3, 3, 0xff, 0xff, 2, 0, 0, 0];
    // It has read what it was sent: what is closed with unread bytes is reset.
    let cut = listen(|mut stream| {
        let _ = stream.read(&mut [0; 1 << 14]);
        let _ = stream.write_all(&[22, 3, 3, 0, 80, 2]);
    });
    let drip = listen(|mut stream| {
        for byte in [22u8, 3, 3, 0x10, 0].into_iter().chain(std::iter::repeat_n(2, 4096)) {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let flood = listen(|mut stream| while stream.write_all(&[23, 3, 3, 0, 0].repeat(1000)).is_ok() {});
    let extra = "scheme: https\nscrape_interval: 1s\nscrape_timeout: 400ms";
    let cases = [
        ("silent", listen(hold), "context deadline exceeded during the TLS handshake"),
        ("garbage", say(b"\x00\xff\x13\x37 not TLS at all, whatever it may be"), "tls: "),
        ("promise", say(promise), "context deadline exceeded during the TLS handshake"),
        ("huge", say(huge), "tls: "),
        ("cut", cut, "EOF during the TLS handshake"),
        ("drip", drip, "context deadline exceeded during the TLS handshake"),
        ("flood", flood, "tls: "),
        ("alert", say(&[21, 3, 3, 0, 2, 2, 40]), "remote error: tls: handshake failure"),
    ];
    let jobs: Vec<String> = cases.iter().map(|(name, address, _)| job(name, &[*address], extra)).collect();
    let ringscrape = Ringscrape::start(&config(&jobs), &[]);
    for (name, _, want) in cases {
        wait_for(&ringscrape, name, want);
    }
}

/// A proxy that wants these credentials and lets everything through; it keeps the heads that it was sent.
fn proxy(authorization: &'static str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = heads.clone();
    let address = listen(move |mut stream| {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
            bytes.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&bytes).into_owned();
        kept.lock().unwrap().push(head.clone());
        if !head.contains(authorization) {
            let _ = stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let to = head.split(' ').nth(1).unwrap_or_default().trim_start_matches("http://");
        let to = to.split('/').next().unwrap_or_default().to_owned();
        let Ok(mut behind) = TcpStream::connect(&to) else { return };
        if head.starts_with("CONNECT ") {
            let _ = stream.write_all(b"HTTP/1.1 200 Go on\r\n\r\n");
        } else {
            let _ = behind.write_all(head.replacen(&format!("http://{to}"), "", 1).as_bytes());
        }
        let (mut back, mut from) = (stream.try_clone().unwrap(), behind.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut back));
        let _ = std::io::copy(&mut stream, &mut behind);
    });
    (address, heads)
}

/// An nginx that serves `a 1` with the certificate that was issued as `server`.
fn serving(place: &Path) -> (Nginx, SocketAddr) {
    std::fs::write(place.join("metrics"), "a 1\n").unwrap();
    let (secure, d) = (free(), place.display());
    let server = format!(
        "server {{ listen {secure} ssl; ssl_certificate {d}/server.crt; ssl_certificate_key {d}/server.key; root {d}; \
         default_type text/plain; }}"
    );
    (Nginx::start(place, &server, secure), secure)
}

#[test]
fn proxies_are_used_and_their_refusals_told() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let authority = Authority::new("ours");
    std::fs::write(place.join("ca.pem"), &authority.pem).unwrap();
    authority.issue(place, "server", &["127.0.0.5"]);
    let (_nginx, secure) = serving(place);
    let d = place.display();
    let plain = FakeTarget::saying("a 1\n");
    let (through, heads) = proxy("Proxy-Authorization: Basic bWU6aHVzaA==\r");
    let url = |password: &str| format!("proxy_url: http://me:{password}@{through}");
    let tls = format!("scheme: https\ntls_config: {{ca_file: {d}/ca.pem}}");
    let nobody = free();
    let jobs = [
        job("http", &[plain.address], &format!("{}\nbasic_auth: {{username: u, password: hush}}", url("hush"))),
        job("https", &[secure], &format!("{tls}\n{}\nproxy_connect_header: {{X-Way: [north]}}", url("hush"))),
        job("wrong", &[secure], &format!("{tls}\n{}", url("hushhush"))),
        job("wrong-http", &[plain.address], &url("hushhush")),
        job("spared", &[secure], &format!("{tls}\nproxy_url: http://{nobody}\nno_proxy: 127.0.0.0/8")),
        job("nobody", &[secure], &format!("{tls}\nproxy_url: http://{nobody}")),
        job("mute", &[secure], &format!("{tls}\nproxy_url: http://{}\nscrape_timeout: 200ms", listen(hold))),
        job(
            "mad",
            &[secure],
            &format!("{tls}\nproxy_url: http://{}", FakeTarget::start(|_| b"?!\r\n\r\n".to_vec()).address),
        ),
    ];
    let ringscrape = Ringscrape::start(&config(&jobs), &[]);
    for (name, want) in [
        ("http", ""),
        ("https", ""),
        ("wrong", "proxyconnect: 407 Proxy Authentication Required; it wants other credentials"),
        ("wrong-http", "server returned HTTP status 407"),
        ("spared", ""),
        ("nobody", "proxyconnect tcp: dial tcp"),
        ("mute", "context deadline exceeded while the proxy was asked for a way through"),
        ("mad", "its answer is not HTTP"),
    ] {
        wait_for(&ringscrape, name, want);
    }
    let heads = heads.lock().unwrap().clone();
    let connect = heads.iter().find(|head| head.starts_with("CONNECT") && head.contains("X-Way: north"));
    assert!(connect.is_some_and(|head| !head.contains("\r\nAuthorization")), "{heads:?}");
    assert!(plain.requests.lock().unwrap()[0].1.contains("\r\nAuthorization: Basic"));
}

/// Go spares this machine where the environment names the proxy; so these targets have names that only the proxy knows.
#[test]
fn proxies_of_the_environment_are_used_where_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let authority = Authority::new("ours");
    std::fs::write(place.join("ca.pem"), &authority.pem).unwrap();
    authority.issue(place, "server", &["node.invalid"]);
    let (_nginx, secure) = serving(place);
    let d = place.display();
    let plain_proxy = FakeTarget::saying("by_proxy 1\n");
    let secure_proxy = listen(move |mut stream| {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
            bytes.push(byte[0]);
        }
        if !bytes.starts_with(b"CONNECT node.invalid:9443 ") {
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 Go on\r\n\r\n");
        let mut behind = TcpStream::connect(secure).unwrap();
        let (mut back, mut from) = (stream.try_clone().unwrap(), behind.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut back));
        let _ = std::io::copy(&mut stream, &mut behind);
    });
    let here = FakeTarget::saying("a 1\n");
    let named = |name: &str, address: &str, extra: &str| {
        job(name, &[], &format!("static_configs: [{{targets: ['{address}']}}]\n{extra}"))
            .replace("    static_configs: [{targets: []}]\n", "")
    };
    let from_environment = "proxy_from_environment: true";
    let tls = format!("scheme: https\ntls_config: {{ca_file: {d}/ca.pem}}\n{from_environment}");
    let jobs = [
        named("plain", "node.invalid:9100", from_environment),
        named("secure", "node.invalid:9443", &tls),
        named("excepted", "spared.invalid:9100", from_environment),
        named("not-asked", "node.invalid:9100", ""),
        job("here", &[here.address], from_environment),
    ];
    let variables = [
        format!("HTTP_PROXY=http://{}", plain_proxy.address),
        format!("https_proxy={secure_proxy}"),
        "NO_PROXY=spared.invalid".to_owned(),
    ];
    let program: Vec<&str> = std::iter::once("env").chain(variables.iter().map(String::as_str)).collect();
    let ringscrape = Ringscrape::start_under(&program, &config(&jobs), &[]);
    for (name, want) in [("plain", ""), ("secure", ""), ("excepted", "lookup"), ("not-asked", "lookup"), ("here", "")] {
        wait_for(&ringscrape, name, want);
    }
    let requests = plain_proxy.requests.lock().unwrap().clone();
    assert!(requests.iter().all(|(_, head)| head.starts_with("GET http://node.invalid:9100/metrics ")), "{requests:?}");
}

#[test]
fn headers_follow_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "hush-1\n").unwrap();
    let target = FakeTarget::saying("a 1\n");
    let extra = format!("http_headers: {{X-Key: {{values: [open], files: [{}]}}}}", file.display());
    let ringscrape = Ringscrape::start(&config(&[job("j", &[target.address], &extra)]), &[]);
    let sent = |secret: &str| {
        let values = |head: &str| {
            let of = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .filter(|(name, _)| name.eq_ignore_ascii_case("x-key"));
            of.map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
        };
        until(&format!("{secret} is sent"), || {
            let requests = target.requests.lock().unwrap();
            (values(&requests.last()?.1) == ["open", secret]).then_some(())
        });
    };
    sent("hush-1");
    std::fs::write(&file, "hush-2").unwrap();
    sent("hush-2");
    std::fs::remove_file(&file).unwrap();
    wait_for(&ringscrape, "j", "key: No such file");
    std::fs::write(&file, "hush-3").unwrap();
    sent("hush-3");
    wait_for(&ringscrape, "j", "");
}

#[test]
fn redirects_carry_no_credentials_to_another_host() {
    let away = FakeTarget::saying("a 1\n");
    let there = away.address;
    let home = FakeTarget::start(move |path| match path {
        "/metrics" => b"HTTP/1.1 302 Found\r\nLocation: /here\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => format!("HTTP/1.1 302 Found\r\nLocation: http://{there}/m\r\nContent-Length: 0\r\n\r\n").into_bytes(),
    });
    let extra = "authorization: {credentials: hush}\nhttp_headers: {X-Key: {secrets: [hush2]}}";
    let ringscrape = Ringscrape::start(&config(&[job("j", &[home.address], extra)]), &[]);
    wait_for(&ringscrape, "j", "");
    assert!(home.requests.lock().unwrap().iter().all(|(_, head)| head.contains("Bearer hush")));
    assert!(away.requests.lock().unwrap().iter().all(|(_, head)| !head.contains("hush")));
}

#[test]
fn tokens_are_fetched_used_and_renewed() {
    let service = FakeTarget::start(|_| {
        let body = "{\"access_token\":\"hush-1\",\"token_type\":\"bearer\",\"expires_in\":3600}";
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    });
    let target = FakeTarget::saying("a 1\n");
    let refused = FakeTarget::start(|_| b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_vec());
    let oauth2 = |secret: &str, service: SocketAddr| {
        format!("oauth2: {{client_id: me, client_secret: {secret}, token_url: 'http://{service}/token'}}")
    };
    let broken = FakeTarget::start(|_| {
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 26\r\n\r\n{\"error\":\"invalid_client\"}".to_vec()
    });
    let jobs = [
        job("good", &[target.address], &oauth2("hush", service.address)),
        job("broken", &[target.address], &oauth2("hush", broken.address)),
        job("refused", &[refused.address], &oauth2("hush2", service.address)),
    ];
    let ringscrape = Ringscrape::start(&config(&jobs), &[]);
    wait_for(&ringscrape, "good", "");
    wait_for(&ringscrape, "broken", "401 Unauthorized \"invalid_client\"");
    wait_for(&ringscrape, "refused", "server returned HTTP status 401");
    let heads = target.requests.lock().unwrap().clone();
    assert!(heads.iter().all(|(_, head)| head.contains("\r\nAuthorization: Bearer hush-1\r\n")), "{heads:?}");
    // One token for all scrapes of a job; a refused one is fetched anew, but not with each scrape.
    until("the refused token is fetched anew", || (service.request_count() >= 3).then_some(()));
    assert!(refused.request_count() > service.request_count());
}

/// A body without a length ends only with a word of the server: an end without close_notify may be an attacker's.
#[test]
fn an_end_without_close_notify_ends_no_body() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let authority = Authority::new("ours");
    std::fs::write(place.join("ca.pem"), &authority.pem).unwrap();
    authority.issue(place, "server", &["127.0.0.1"]);
    let key = PrivateKeyDer::from_pem_file(place.join("server.key")).unwrap();
    let chain = vec![CertificateDer::from_pem_file(place.join("server.crt")).unwrap()];
    let settings = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let settings = Arc::new(settings);
    let serve = |answer: &'static str, says_farewell: bool| {
        let settings = settings.clone();
        listen(move |tcp| {
            let connection = rustls::ServerConnection::new(settings.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, tcp);
            let mut request = [0; 4096];
            if !stream.read(&mut request).is_ok_and(|count| count > 0) {
                return;
            }
            let _ = stream.write_all(answer.as_bytes());
            if says_farewell {
                stream.conn.send_close_notify();
            }
            let _ = stream.flush();
            // Only our side: a connection that is dropped with bytes unread would be reset.
            let _ = stream.sock.shutdown(std::net::Shutdown::Write);
            hold(stream.sock);
        })
    };
    let (endless, sized) = ("HTTP/1.1 200 OK\r\n\r\na 1\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n");
    let extra = format!(
        "scheme: https\nfallback_scrape_protocol: PrometheusText0.0.4\ntls_config: {{ca_file: {}/ca.pem}}",
        place.display()
    );
    let jobs = [
        job("farewell", &[serve(endless, true)], &extra),
        job("cut", &[serve(endless, false)], &extra),
        job("sized", &[serve(sized, false)], &extra),
    ];
    let ringscrape = Ringscrape::start(&config(&jobs), &[]);
    wait_for(&ringscrape, "farewell", "");
    wait_for(&ringscrape, "cut", "unexpected EOF");
    wait_for(&ringscrape, "sized", "");
}
