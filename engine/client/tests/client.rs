//! What goes over the wire, to real sockets.

mod support;

use client::{Client, ClientOptions, Error, ErrorKind, Request, StatusCode, Url};
use config::HttpConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Server, answer, ok};

/// The settings of a client in YAML, as they stand in an HTTP discovery.
fn settings(yaml: &str) -> HttpConfig {
    let lines: String = yaml.lines().map(|line| format!("        {line}\n")).collect();
    let text = format!("scrape_configs:\n  - job_name: j\n    http_sd_configs:\n      - url: http://h\n{lines}");
    let config = config::parse_config("/prometheus.yml".as_ref(), &text, &config::Env::process());
    let config = config.unwrap_or_else(|error| panic!("{text}\n{error}"));
    match &config.scrape_configs[0].discoveries[0] {
        config::Discovery::Http(http) => http.http.clone(),
        _ => unreachable!(),
    }
}

fn client(yaml: &str) -> Client {
    let options =
        ClientOptions { timeout: Duration::from_secs(20), body_bytes_max: 1 << 20, ..ClientOptions::default() };
    Client::new(&settings(yaml), options).unwrap()
}

fn header(request: &str, name: &str) -> String {
    let line = |line: &str| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then(|| value.to_owned())
    };
    request.lines().filter_map(line).collect::<Vec<_>>().join("|")
}

#[tokio::test]
async fn settings_become_headers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "  from file\n").unwrap();
    let path = file.display();
    let server = Server::plain(|_| ok("x")).await;
    for (yaml, name, want) in [
        ("", "authorization", ""),
        ("basic_auth: {username: u, password: p}", "authorization", "Basic dTpw"),
        (&format!("basic_auth: {{username: u, password_file: {path}}}"), "authorization", "Basic dTpmcm9tIGZpbGU="),
        ("authorization: {credentials: c}", "authorization", "Bearer c"),
        (&format!("authorization: {{type: T, credentials_file: {path}}}"), "authorization", "T from file"),
        ("bearer_token: old", "authorization", "Bearer old"),
        (&format!("http_headers: {{X-A: {{values: [1], secrets: [2], files: [{path}]}}}}"), "x-a", "1|2|from file"),
        ("", "accept-encoding", "gzip"),
        ("", "user-agent", concat!("ringscrape/", env!("CARGO_PKG_VERSION"))),
    ] {
        client(yaml).get(&server.url("/")).await.unwrap();
        assert_eq!(header(&server.last(), name), want, "{yaml}");
    }
    // A file is read at each request.
    let client = client(&format!("authorization: {{credentials_file: {path}}}"));
    for secret in ["one", "two"] {
        std::fs::write(&file, secret).unwrap();
        client.get(&server.url("/")).await.unwrap();
        assert_eq!(header(&server.last(), "authorization"), format!("Bearer {secret}"));
    }
    std::fs::remove_file(&file).unwrap();
    let error = client.get(&server.url("/")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Settings);
    assert!(error.text.contains(&path.to_string()), "{error}");
    let count = server.count();
    assert!(client.get(&server.url("/")).await.is_err());
    assert_eq!(server.count(), count, "nothing is asked without its credentials");
}

#[tokio::test]
async fn user_in_a_url_becomes_a_header() {
    let server = Server::plain(|_| ok("x")).await;
    let mut url = server.url("/p?q=1");
    url.set_username("u").unwrap();
    url.set_password(Some("p%40")).unwrap();
    client("").get(&url).await.unwrap();
    assert_eq!(header(&server.last(), "authorization"), "Basic dTpwQA==");
    assert!(server.last().starts_with("GET /p?q=1 HTTP/1.1\r\n"), "{}", server.last());
}

#[tokio::test]
async fn credentials_do_not_follow_to_another_host() {
    let other = Server::plain(|_| ok("other")).await;
    let target = format!("Location: http://127.0.0.1:{}/landed\r\n", other.port);
    let own = Server::plain(move |request| match request {
        request if request.starts_with("GET /away") => answer("302 Found", &target, b""),
        request if request.starts_with("GET /here") => answer("307 Temporary Redirect", "Location: /home\r\n", b""),
        request if request.starts_with("GET /loop") => answer("301 Moved", "Location: /loop\r\n", b""),
        request if request.starts_with("GET /file") => answer("301 Moved", "Location: file:///etc/passwd\r\n", b""),
        request if request.starts_with("POST /kept") => answer("308 Permanent Redirect", "Location: /home\r\n", b""),
        request if request.starts_with("POST /home") => ok("home"),
        request if request.starts_with("POST ") => answer("303 See Other", "Location: /home\r\n", b""),
        _ => ok("home"),
    })
    .await;
    let client = client("authorization: {credentials: hush}\nhttp_headers: {X-Key: {secrets: [hush]}}");
    let mut request = Request::get(own.url("/away"));
    request.headers.insert("x-token", client::auth::secret_value("x-token", "hush").unwrap());
    request.headers.insert("x-open", "open".parse().unwrap());
    assert_eq!(client.send(request.clone()).await.unwrap().body, "other");
    assert!(!other.last().contains("hush"), "{}", other.last());
    assert_eq!(header(&other.last(), "x-open"), "open");
    request.url = own.url("/here");
    assert_eq!(client.send(request).await.unwrap().body, "home");
    assert_eq!(header(&own.last(), "authorization"), "Bearer hush");
    assert_eq!(header(&own.last(), "x-token"), "hush");
    // A GET without its body would say nothing about what was posted, so this is an answer.
    let refused = client.send(Request::post(own.url("/"), "body")).await.unwrap();
    assert_eq!((refused.status, &refused.headers["location"]), (StatusCode::SEE_OTHER, &"/home".parse().unwrap()));
    assert!(own.last().starts_with("POST /"), "{}", own.last());
    let kept = client.send(Request::post(own.url("/kept"), "body")).await.unwrap();
    assert_eq!(kept.body, "home");
    assert!(own.last().starts_with("POST /home") && own.last().ends_with("body"), "{}", own.last());
    for path in ["/loop", "/file"] {
        assert_eq!(client.get(&own.url(path)).await.unwrap_err().kind, ErrorKind::Protocol);
    }
    let stays = self::client("follow_redirects: false");
    assert_eq!(stays.get(&own.url("/away")).await.unwrap().status, StatusCode::FOUND);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn answers_are_bounded() {
    const PACKED: &str = "Content-Encoding: gzip\r\n";
    let server = Server::plain(|request| match request.split(' ').nth(1).unwrap() {
        "/packed" => answer("200 OK", PACKED, &gzip(b"unpacked")),
        "/bomb" => answer("200 OK", PACKED, &gzip(&vec![0; 100 << 20])),
        "/broken" => answer("200 OK", PACKED, &gzip(&vec![0; 1000])[..15]),
        "/large" => answer("200 OK", "", &vec![b'x'; (1 << 20) + 1]),
        "/cut" => b"HTTP/1.1 200 OK\r\nContent-length: 100\r\n\r\nhalf".to_vec(),
        "/nonsense" => b"this is not HTTP\r\n\r\n".to_vec(),
        "/status" => answer("503 Service Unavailable", "", b"later"),
        _ => Vec::new(),
    })
    .await;
    let client = client("");
    assert_eq!(client.get(&server.url("/packed")).await.unwrap().body, "unpacked");
    assert_eq!(client.get(&server.url("/status")).await.unwrap().status, 503);
    for (path, kind) in [
        ("/bomb", ErrorKind::TooLarge),
        ("/large", ErrorKind::TooLarge),
        ("/broken", ErrorKind::Protocol),
        ("/cut", ErrorKind::Protocol),
        ("/nonsense", ErrorKind::Protocol),
    ] {
        let error = client.get(&server.url(path)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{path}: {error}");
        assert!(error.text.starts_with(&format!("http://127.0.0.1:{}{path}: ", server.port)), "{error}");
    }
    // To whom the status says everything.
    let options = ClientOptions { body_bytes_max: 100, truncates_body: true, ..ClientOptions::default() };
    let status_only = Client::new(&config::HttpConfig::default(), options).unwrap();
    for (path, bytes) in [("/large", 100), ("/cut", 4), ("/bomb", 100), ("/packed", 8)] {
        let answer = status_only.get(&server.url(path)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, bytes), "{path}");
    }
    let mut slow = Request::get(server.url("/silent?token=hush"));
    slow.timeout = Some(Duration::from_millis(300));
    let error = client.send(slow).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert!(!error.text.contains("hush"), "{error}");
}

#[tokio::test]
async fn connections_are_kept() {
    let connections = Arc::new(AtomicUsize::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let count = connections.clone();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    stream.write_all(&ok("x")).await.unwrap();
                }
            });
        }
    });
    let client = client("");
    for _ in 0..5 {
        client.get(&url).await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// An authority and what it has signed.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key in PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    /// A server's settings; with `clients`, it wants a certificate of theirs.
    fn server(&self, name: &str, clients: Option<&Authority>) -> rustls::ServerConfig {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let (cert, key) = self.sign(name);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(clients.pem().as_bytes()).unwrap()).unwrap();
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
    }
}

/// A setting with several lines.
fn block(name: &str, pem: &str) -> String {
    let lines: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("  {name}: |\n{lines}")
}

async fn get_https(yaml: &str, server: &Server) -> Result<(), Error> {
    let url: Url = format!("https://127.0.0.1:{}/", server.port).parse().unwrap();
    client(yaml).get(&url).await.map(|response| assert_eq!(response.body, "secure"))
}

#[tokio::test]
async fn tls_is_verified_as_the_settings_say() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::tls(ours.server("127.0.0.1", None), |_| ok("secure")).await;
    let named = Server::tls(ours.server("server.example", None), |_| ok("secure")).await;
    let ca = block("ca", &ours.pem());
    let other_ca = block("ca", &theirs.pem());
    for (yaml, server, want) in [
        (format!("tls_config:\n{ca}"), &server, Ok(())),
        (format!("tls_config:\n{ca}  min_version: TLS13"), &server, Ok(())),
        (format!("tls_config:\n{ca}  max_version: TLS12"), &server, Ok(())),
        (format!("tls_config:\n{ca}  max_version: TLS11"), &server, Err((ErrorKind::Settings, "max_version"))),
        (format!("tls_config:\n{other_ca}"), &server, Err((ErrorKind::Tls, "certificate"))),
        ("tls_config: {}".to_owned(), &server, Err((ErrorKind::Tls, "certificate"))),
        ("tls_config: {insecure_skip_verify: true}".to_owned(), &server, Ok(())),
        (format!("tls_config:\n{ca}"), &named, Err((ErrorKind::Tls, "not valid for name"))),
        (format!("tls_config:\n{ca}  server_name: server.example"), &named, Ok(())),
        ("tls_config: {ca_file: /nowhere/ca.pem}".to_owned(), &server, Err((ErrorKind::Settings, "/nowhere/ca.pem"))),
        ("tls_config: {ca: nonsense}".to_owned(), &server, Err((ErrorKind::Settings, "tls_config.ca"))),
    ] {
        match (get_https(&yaml, server).await, want) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err((kind, text))) => {
                assert_eq!(error.kind, kind, "{yaml}: {error}");
                assert!(error.text.contains(text), "{error}");
            }
            (got, want) => panic!("{yaml}: {got:?}, wanted {want:?}"),
        }
    }
}

#[tokio::test]
async fn client_certificates_are_read_again() {
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let server = Server::tls(servers.server("127.0.0.1", Some(&clients)), |_| ok("secure")).await;
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let write = |authority: &Authority| {
        let (cert_pem, key_pem) = authority.sign("client.example");
        std::fs::write(&cert, cert_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
    };
    let yaml = format!(
        "tls_config:\n{}  cert_file: {}\n  key_file: {}",
        block("ca", &servers.pem()),
        cert.display(),
        key.display()
    );
    let url: Url = format!("https://127.0.0.1:{}/", server.port).parse().unwrap();
    let client = client(&yaml);
    assert_eq!(client.get(&url).await.unwrap_err().kind, ErrorKind::Settings, "no files yet");
    write(&strangers);
    assert!(client.get(&url).await.is_err());
    write(&clients);
    assert_eq!(client.get(&url).await.unwrap().body, "secure");
    std::fs::write(&key, "secret that is no key").unwrap();
    let error = client.get(&url).await.unwrap_err();
    assert!(error.text.contains("key.pem") && !error.text.contains("secret that"), "{error}");
}

fn oauth2(server: &Server, extra: &str) -> String {
    format!(
        "oauth2: {{client_id: me, client_secret: hush, scopes: [a, b], token_url: '{}'{extra}}}",
        server.url("/token")
    )
}

#[tokio::test]
async fn token_is_kept_until_it_expires_or_is_refused() {
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let tokens = Server::plain(move |request| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        assert!(request.starts_with("POST /token"), "{request}");
        // The second one has expired by the time it is used.
        let seconds = if number == 1 { 1 } else { 3600 };
        ok(&format!(r#"{{"access_token": "t{number}", "token_type": "bearer", "expires_in": {seconds}}}"#))
    })
    .await;
    let server =
        Server::plain(
            |request| {
                if request.contains("/refused") { answer("401 Unauthorized", "", b"") } else { ok("x") }
            },
        )
        .await;
    let client = client(&oauth2(&tokens, ", endpoint_params: {aud: x}"));
    for _ in 0..3 {
        client.get(&server.url("/")).await.unwrap();
        assert_eq!(header(&server.last(), "authorization"), "Bearer t0");
    }
    assert_eq!(header(&tokens.last(), "authorization"), "Basic bWU6aHVzaA==");
    assert!(tokens.last().ends_with("aud=x&grant_type=client_credentials&scope=a+b"), "{}", tokens.last());
    assert_eq!(client.get(&server.url("/refused")).await.unwrap().status, 401);
    for want in ["Bearer t1", "Bearer t2", "Bearer t2"] {
        client.get(&server.url("/")).await.unwrap();
        assert_eq!(header(&server.last(), "authorization"), want);
    }
    assert_eq!(given.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn token_service_that_refuses_is_named_and_nothing_is_asked() {
    let server = Server::plain(|_| ok("x")).await;
    let form_only = Server::plain(|request| match request.contains("client_secret=hush") {
        true => ok(r#"{"access_token": "t"}"#),
        false => answer("401 Unauthorized", "", br#"{"error": "invalid_client"}"#),
    })
    .await;
    let client = client(&oauth2(&form_only, ""));
    client.get(&server.url("/")).await.unwrap();
    assert_eq!(header(&server.last(), "authorization"), "Bearer t");
    let count = server.count();
    let body = br#"{"error": "invalid_client", "error_description": "wrong secret hush"}"#;
    let refusing = Server::plain(move |_| answer("400 Bad Request", "", body)).await;
    let silent = Server::plain(|_| answer("200 OK", "", b"<html>")).await;
    for (tokens, want) in [(&refusing, "invalid_client"), (&silent, "access_token")] {
        let error = self::client(&oauth2(tokens, "")).get(&server.url("/")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Token);
        assert!(error.text.contains(want) && !error.text.contains("hush"), "{error}");
    }
    assert_eq!(server.count(), count);
}

#[tokio::test]
async fn assertion_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let made = std::process::Command::new("openssl").args(["genrsa", "-out"]).arg(&key).output().unwrap();
    assert!(made.status.success(), "openssl makes an RSA key");
    let tokens = Server::plain(|_| ok(r#"{"access_token": "t", "expires_in": "60"}"#)).await;
    let server = Server::plain(|_| ok("x")).await;
    let yaml = format!(
        "oauth2: {{client_id: me, grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', claims: {{n: 5}}, \
         client_certificate_key_file: {}, client_certificate_key_id: k1, token_url: '{}'}}",
        key.display(),
        tokens.url("/token")
    );
    client(&yaml).get(&server.url("/")).await.unwrap();
    assert_eq!(header(&server.last(), "authorization"), "Bearer t");
    let request = tokens.last();
    let assertion = request.split("assertion=").nth(1).unwrap();
    let parts: Vec<&str> = assertion.split('.').collect();
    use base64::Engine;
    let decode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
    let (head, claims): (serde_json::Value, serde_json::Value) =
        (serde_json::from_slice(&decode(parts[0])).unwrap(), serde_json::from_slice(&decode(parts[1])).unwrap());
    assert_eq!((&head["alg"], &head["kid"]), (&"RS256".into(), &"k1".into()));
    assert_eq!((&claims["iss"], &claims["sub"], &claims["n"]), (&"me".into(), &"me".into(), &5.into()));
    assert_eq!(claims["aud"], tokens.url("/token").as_str());
    let (text, signature) = (folder.path().join("text"), folder.path().join("signature"));
    std::fs::write(&text, format!("{}.{}", parts[0], parts[1])).unwrap();
    std::fs::write(&signature, decode(parts[2])).unwrap();
    let checked = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-prverify"])
        .args([&key, std::path::Path::new("-signature"), &signature, &text])
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[tokio::test]
async fn requests_go_through_the_proxy() {
    let ours = Authority::new();
    let secure = Server::tls(ours.server("127.0.0.1", None), |_| ok("secure")).await;
    let proxy = Server::plain(|request| match request {
        request if request.starts_with("CONNECT refused") => answer("403 Forbidden", "", b""),
        request if request.starts_with("CONNECT ") => b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec(),
        _ => ok("by proxy"),
    })
    .await;
    let yaml = format!(
        "proxy_url: http://user:pw@127.0.0.1:{}\nproxy_connect_header: {{X-Via: [hush]}}\ntls_config:\n{}",
        proxy.port,
        block("ca", &ours.pem())
    );
    let client = client(&yaml);
    let plain = client.get(&"http://nowhere.invalid/x?y".parse().unwrap()).await.unwrap();
    assert_eq!(plain.body, "by proxy");
    assert!(proxy.last().starts_with("GET http://nowhere.invalid/x?y HTTP/1.1"), "{}", proxy.last());
    assert_eq!(header(&proxy.last(), "proxy-authorization"), "Basic dXNlcjpwdw==");
    let url: Url = format!("https://127.0.0.1:{}/", secure.port).parse().unwrap();
    assert_eq!(client.get(&url).await.unwrap().body, "secure");
    assert_eq!(header(&proxy.last(), "x-via"), "hush");
    assert_eq!(header(&proxy.last(), "proxy-authorization"), "Basic dXNlcjpwdw==");
    assert_eq!(header(&secure.last(), "proxy-authorization"), "");
    let error = client.get(&"https://refused.invalid/".parse().unwrap()).await.unwrap_err();
    assert!(error.text.contains("403") && !error.text.contains("pw"), "{error}");
    let around = self::client(&format!("{yaml}\nno_proxy: 127.0.0.1"));
    let count = proxy.count();
    assert_eq!(around.get(&url).await.unwrap().body, "secure");
    assert_eq!(proxy.count(), count);
}
