//! How the server is reached: what `--web.config.file` protects, and the paths that proxies put before it.

mod support;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use support::authority::Authority;
use support::{Ringscrape, config, request, until};

/// Of "secret" and "changed", at the lowest cost.
const SECRET: &str = "$2b$04$gdnbkhbkaibbiqcemslhtuVfzDwMepAtJ7321MrRmYl1ewYI1mqwC";
const CHANGED: &str = "$2b$04$gdnbkhbkaibbiqcemslhtuEx8F5NHw5ojnWHJ7nSR4iFeztoLIgN.";
/// `ann:secret`, `ann:changed` and `bob:secret`.
const ANN: (&str, &str) = ("Authorization", "Basic YW5uOnNlY3JldA==");
const ANN_CHANGED: (&str, &str) = ("Authorization", "Basic YW5uOmNoYW5nZWQ=");
const BOB: (&str, &str) = ("Authorization", "Basic Ym9iOnNlY3JldA==");

/// Starts with a web configuration beside an empty prometheus.yml; returns once it listens.
fn start(web: &str, prepare: impl Fn(&Path), flags: &[&str]) -> Ringscrape {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), config(&[])).unwrap();
    std::fs::write(folder.path().join("web.yml"), web).unwrap();
    prepare(folder.path());
    Ringscrape::start_in(folder, &[&["--web.config.file=web.yml"], flags].concat())
}

#[test]
fn nothing_is_told_without_the_password() {
    let extra = support::free("127.0.0.1");
    let web = |hash: &str| {
        format!("basic_auth_users: {{ann: '{hash}'}}\nhttp_server_config: {{headers: {{X-Frame-Options: deny}}}}\n")
    };
    let federation = format!("--web.federation-listen-address={extra}");
    let server = start(&web(SECRET), |_| (), &[&federation]);
    let ask = |path: &str, header: &[(&str, &str)]| request(server.address, "GET", path, header);
    for path in ["/", "/metrics", "/-/healthy", "/-/ready", "/federate?match[]=up", "/api/v1/status/flags", "/nowhere"]
    {
        let wrong = ("Authorization", "Basic bm9uc2Vuc2U=");
        for header in [&[][..], &[BOB], &[ANN_CHANGED], &[wrong], &[("Authorization", "Bearer secret")]] {
            let answer = ask(path, header);
            assert_eq!((answer.status, answer.body.as_str()), (401, "Unauthorized\n"), "{path} {header:?}");
            let head = answer.head.to_ascii_lowercase();
            assert!(head.contains("www-authenticate: basic") && head.contains("x-frame-options: deny"), "{head}");
        }
    }
    assert_eq!(request(extra, "GET", "/federate?match[]=up", &[]).status, 401);
    until("it is ready", || (ask("/-/ready", &[ANN]).status == 200).then_some(()));
    assert_eq!(request(extra, "GET", "/federate?match[]=up", &[ANN]).status, 200);
    let flags = ask("/api/v1/status/flags", &[ANN]);
    assert!(flags.body.contains("\"web.config.file\":\"web.yml\""), "{}", flags.body);
    assert!(flags.head.to_ascii_lowercase().contains("x-frame-options: deny"), "{}", flags.head);

    // A change that cannot be used changes nothing; one that can holds for connections and requests to come.
    std::fs::write(server.path("web.yml"), "basic_auth_users: {ann: plain}\n").unwrap();
    until("it is told", || server.log().contains("is not hashed with bcrypt").then_some(()));
    assert_eq!((ask("/", &[]).status, ask("/-/healthy", &[ANN]).status), (401, 200));
    std::fs::write(server.path("web.yml"), web(CHANGED)).unwrap();
    until("the new password holds", || (ask("/-/healthy", &[ANN_CHANGED]).status == 200).then_some(()));
    assert_eq!(ask("/-/healthy", &[ANN]).status, 401);
    assert!(!server.log().contains(SECRET) && !server.log().contains("plain"), "{}", server.log());
}

/// What a client that trusts an authority and shows a certificate, perhaps, is answered.
fn ask_over_tls(address: SocketAddr, trusted: &str, shown: Option<(&Path, &str)>) -> Result<String, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some((folder, name)) => {
            let chain = vec![CertificateDer::from_pem_file(folder.join(format!("{name}.crt"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    let mut answer = String::new();
    let exchange =
        stream.write_all(b"GET /-/healthy HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
    exchange.map(|_| answer).map_err(|error| error.to_string())
}

#[test]
fn clients_show_the_certificate_that_is_asked_for() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let prepare = |place: &Path| {
        std::fs::write(place.join("ca.pem"), &ours.pem).unwrap();
        ours.issue(place, "server", &["127.0.0.1"]);
        ours.issue(place, "client", &["scraper"]);
        other.issue(place, "stranger", &["scraper"]);
    };
    // Asked for; who is let in: nobody known, a stranger, a client of ours.
    for (asked, want) in [
        ("NoClientCert", [true, true, true]),
        ("RequestClientCert", [true, true, true]),
        ("RequireAnyClientCert", [false, true, true]),
        ("VerifyClientCertIfGiven", [true, false, true]),
        ("RequireAndVerifyClientCert", [false, false, true]),
    ] {
        let authority = if asked == "NoClientCert" { "" } else { ", client_ca_file: ca.pem" };
        let web = format!(
            "tls_server_config: {{cert_file: server.crt, key_file: server.key, client_auth_type: {asked}{authority}}}"
        );
        let server = start(&web, prepare, &[]);
        let place = server.folder.path();
        let ask = |shown| ask_over_tls(server.address, &ours.pem, shown);
        let answers = [ask(None), ask(Some((place, "stranger"))), ask(Some((place, "client")))];
        let good = |answer: &Result<String, String>| answer.as_ref().is_ok_and(|answer| answer.contains(" 200 OK"));
        assert_eq!([good(&answers[0]), good(&answers[1]), good(&answers[2])], want, "{asked}: {answers:?}");
        // Who speaks no TLS gets nothing.
        let plain = request(server.address, "GET", "/-/healthy", &[]);
        assert_eq!(plain.status, 0, "{asked}: {}", plain.body);
    }
}

#[test]
fn half_handshakes_make_room() {
    let authority = Authority::new("ours");
    let web = "tls_server_config: {cert_file: server.crt, key_file: server.key}";
    let server = start(web, |place| authority.issue(place, "server", &["127.0.0.1"]), &["--web.max-connections=10"]);
    let half: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
            stream
        })
        .collect();
    let begun = std::time::Instant::now();
    let answer = ask_over_tls(server.address, &authority.pem, None).unwrap();
    assert!(answer.contains(" 200 OK"), "{answer}");
    // Less than a handshake may take: it did not wait for one of them to end.
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(half);
}

#[test]
fn certificates_follow_their_files_and_scrapes_go_through() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let web = format!(
        "tls_server_config: {{cert_file: server.crt, key_file: server.key, max_version: TLS12,\n  cipher_suites: \
         [TLS_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384], curve_preferences: [CurveP256]}}\n\
         basic_auth_users: {{ann: '{SECRET}'}}\n"
    );
    let server = start(&web, |place| first.issue(place, "server", &["127.0.0.1"]), &[]);
    let is_let_in = |authority: &Authority| ask_over_tls(server.address, &authority.pem, None);
    assert!(is_let_in(&first).unwrap().contains(" 401 "));
    assert!(is_let_in(&second).unwrap_err().contains("UnknownIssuer"));

    // Another ringscrape scrapes it as prometheus.yml says.
    let job = format!(
        "  - job_name: guarded\n    scheme: https\n    scrape_interval: 200ms\n    static_configs: [{{targets: ['{}']}}]\n    \
         basic_auth: {{username: ann, password: secret}}\n    tls_config: {{ca_file: ca.pem}}\n",
        server.address
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), config(&[job])).unwrap();
    std::fs::write(folder.path().join("ca.pem"), &first.pem).unwrap();
    let scraper = Ringscrape::start_in(folder, &[]);
    scraper.until_ready();
    until("it is scraped", || (scraper.value("up{job=\"guarded\"}")? == 1.0).then_some(()));

    second.issue(server.folder.path(), "server", &["127.0.0.1"]);
    until("the new certificate is shown", || is_let_in(&second).ok());
    assert!(is_let_in(&first).unwrap_err().contains("UnknownIssuer"));
}

#[test]
fn protection_that_cannot_be_had_is_no_start() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let authority = Authority::new("ours");
    authority.issue(place, "server", &["127.0.0.1"]);
    authority.issue(place, "other", &["127.0.0.1"]);
    std::fs::write(place.join("prometheus.yml"), config(&[])).unwrap();
    std::fs::write(place.join("empty"), "").unwrap();
    let good = "tls_server_config: {cert_file: server.crt, key_file: server.key}";
    let more = |more: &str| good.replace('}', &format!(", {more}}}"));
    for (web, want) in [
        ("tls_server_config: {cert_file: missing.crt, key_file: server.key}".to_owned(), "missing.crt"),
        ("tls_server_config: {cert_file: empty, key_file: server.key}".to_owned(), "no certificate in PEM found"),
        ("tls_server_config: {cert_file: server.crt, key_file: empty}".to_owned(), "no private key in PEM found"),
        ("tls_server_config: {cert_file: server.crt, key_file: other.key}".to_owned(), "server.crt and"),
        (more("client_auth_type: VerifyClientCertIfGiven, client_ca_file: empty"), "empty: no certificate"),
        (more("max_version: TLS11, min_version: TLS10"), "not spoken any more"),
        (more("max_version: TLS12, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]"), "none of TLS_RSA_WITH_RC4_128_SHA"),
        (more("curve_preferences: [Curve1]"), "unknown curve \"Curve1\""),
        ("basic_auth_users: {ann: hush}".to_owned(), "\"ann\" is not hashed with bcrypt"),
        ("tls: {}".to_owned(), "web.yml:1:1"),
    ] {
        std::fs::write(place.join("web.yml"), &web).unwrap();
        let run = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_ringscrape")).args(arguments).current_dir(place).output();
            let output = output.unwrap();
            let said = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(said).unwrap())
        };
        for arguments in [
            &["--web.config.file=web.yml", "--web.listen-address=127.0.0.1:0"][..],
            &["check", "web-config", "web.yml"],
        ] {
            let (code, said) = run(arguments);
            assert_eq!(code, Some(1), "{web}: {said}");
            assert!(said.contains(want) && !said.contains("hush"), "{web}: {said}");
        }
        std::fs::write(place.join("web.yml"), good).unwrap();
        assert_eq!(run(&["check", "web-config", "web.yml"]), (Some(0), "web.yml SUCCESS\n".into()));
    }
    assert!(!place.join("data").exists(), "the folder is untouched");
}

#[test]
fn paths_of_proxies_go_before_everything() {
    let plain = |flags: &[&str]| {
        let server = Ringscrape::start(&config(&[]), flags);
        move |path: &str| {
            let answer = server.get(path);
            let location = answer.head.lines().find_map(|line| line.strip_prefix("location: ").map(str::to_owned));
            (answer.status, location, answer.body)
        }
    };
    let extra = support::free("127.0.0.1");
    let federation = format!("--web.federation-listen-address={extra}");
    let to_overview = |answer: (u16, Option<String>, String)| (answer.0, answer.1);
    let home = (303, Some("/prom/overview".to_owned()));
    // The proxy passes the path on.
    for flags in [&["--web.external-url=https://front.example/prom/", &federation][..], &["--web.external-url=/prom"]] {
        let get = plain(flags);
        for path in ["/prom/-/healthy", "/prom/api/v1/query?query=1", "/prom/metrics", "/prom/query", "/-/healthy"] {
            assert_eq!(get(path).0, 200, "{path}");
        }
        for path in ["/", "/prom", "/prom/"] {
            assert_eq!(to_overview(get(path)), home, "{path}");
        }
        assert_eq!((get("/prometheus/metrics").0, get("/prom/nothing").0), (404, 404));
        for page in [
            "overview",
            "targets",
            "target",
            "query",
            "rules",
            "alerts",
            "service-discovery",
            "fleet",
            "tsdb-status",
            "config",
            "flags",
        ] {
            let (status, _, body) = get(&format!("/prom/{page}"));
            assert_eq!(status, 200, "{page}");
            assert!(!body.contains("=\"/"), "{page} has a link that leaves the path: {body}");
        }
        if flags.len() > 1 {
            assert_eq!(request(extra, "GET", "/prom/federate?match[]=up", &[]).status, 200);
        }
    }
    // The proxy takes it off.
    let get = plain(&["--web.external-url=https://front.example/prom", "--web.route-prefix=/"]);
    assert_eq!((get("/metrics").0, get("/prom/metrics").0), (200, 404));
    assert_eq!(to_overview(get("/")), home);
    // It has another inside.
    let get = plain(&["--web.external-url=https://front.example/prom", "--web.route-prefix=inner/"]);
    assert_eq!((get("/inner/metrics").0, get("/prom/metrics").0), (200, 404));
    assert!(get("/inner/api/v1/status/flags").2.contains("\"web.route-prefix\":\"/inner/\""));
}
