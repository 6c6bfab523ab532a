//! Each mechanism with a decoder of its own, against a service that lies: the last good list stays, the error says why, and the
//! list is there again when the service is well. The polled mechanisms have the same in `src/discovery/polled/tests.rs`.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Ask, JSON, Server, reply};
use targets::{DiscoveryContext, Manager, ManagerHandle, Pool, SdOptions};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// Longest time that anything may take to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a service does instead of answering with its list.
#[derive(Clone, Debug)]
enum Fault {
    Answer(&'static str, &'static str, String),
    /// Half of the bytes that its head promises.
    Half,
    /// Half of the list, as if it were whole.
    Truncated,
    /// The connection ends without an answer.
    Closed,
    /// No answer, for ever.
    Silent,
}

/// A mechanism: its section on a port, the answer to a request, and the start of the path of its list.
struct Mechanism {
    name: &'static str,
    section: fn(u16) -> String,
    answer: fn(&str) -> &'static str,
    list: &'static str,
    /// Answers of the right syntax that are no list.
    wrong: &'static [&'static str],
}

const MECHANISMS: [Mechanism; 4] = [
    Mechanism {
        name: "http",
        section: |port| {
            format!(
                "http_sd_configs: [{{url: 'http://127.0.0.1:{port}/l', refresh_interval: 100ms, authorization: {{credentials: hush}}}}]"
            )
        },
        answer: |_| r#"[{"targets": ["10.0.0.1:80"]}]"#,
        list: "/l",
        wrong: &[
            r#"[{"targets": 5}]"#,
            r#"[{"targets": [5]}]"#,
            r#"[{"labels": {"a": []}}]"#,
            r#"[{"other": 1}]"#,
            "{}",
        ],
    },
    Mechanism {
        name: "consul",
        section: |port| {
            format!("consul_sd_configs: [{{server: '127.0.0.1:{port}', refresh_interval: 100ms, token: hush}}]")
        },
        answer: |path| match path {
            "/v1/agent/self" => r#"{"Config": {"Datacenter": "dc"}}"#,
            "/v1/catalog/services" => r#"{"web": []}"#,
            _ => r#"[{"Node": {"Address": "10.0.0.1"}, "Service": {"Port": 80}}]"#,
        },
        list: "/v1/health/service/web",
        wrong: &[
            r#"[{"Node": 5}]"#,
            r#"[{"Node": {}, "Service": {"Port": "x"}}]"#,
            r#"[{"Service": {}}]"#,
            "{}",
            "[5]",
        ],
    },
    Mechanism {
        name: "consul",
        section: |port| {
            format!("consul_sd_configs: [{{server: '127.0.0.1:{port}', refresh_interval: 100ms, token: hush}}]")
        },
        answer: |path| match path {
            "/v1/agent/self" => r#"{"Config": {"Datacenter": "dc"}}"#,
            "/v1/catalog/services" => r#"{"web": []}"#,
            _ => r#"[{"Node": {"Address": "10.0.0.1"}, "Service": {"Port": 80}}]"#,
        },
        list: "/v1/catalog/services",
        wrong: &["[]", r#"{"web": 5}"#, r#"{"web": [5]}"#, "5"],
    },
    Mechanism {
        name: "docker",
        section: |port| {
            format!(
                "docker_sd_configs: [{{host: 'tcp://127.0.0.1:{port}', refresh_interval: 100ms, authorization: {{credentials: hush}}}}]"
            )
        },
        answer: |path| match path {
            "/networks" => r#"[{"Id": "n", "Name": "bridge"}]"#,
            _ => {
                r#"[{"Id": "c", "Names": ["/web"], "Ports": [], "NetworkSettings":
                {"Networks": {"bridge": {"NetworkID": "n", "IPAddress": "10.0.0.1"}}}}]"#
            }
        },
        list: "/containers/json",
        wrong: &["{}", r#"[{"Id": 5}]"#, r#"[{"Ports": [{"PrivatePort": "x"}]}]"#, r#"{"message": "no"}"#],
    },
];

fn faults(mechanism: &Mechanism) -> Vec<Fault> {
    let answer = |status, body: &str| Fault::Answer(status, JSON, body.to_owned());
    let mut faults = vec![
        answer("401 Unauthorized", r#"{"message": "the token hush is expired"}"#),
        answer("403 Forbidden", "hush"),
        answer("500 Internal Server Error", "<html>"),
        answer("204 No Content", ""),
        answer("302 Found", ""),
        Fault::Answer("200 OK", "Content-Type: text/html\r\n", "<html><body>Sign in</body></html>".to_owned()),
        answer("200 OK", "null"),
        answer("200 OK", "\"text\""),
        answer("200 OK", ""),
        answer("200 OK", &"[".repeat(100_000)),
        answer("200 OK", &"{\"a\":".repeat(100_000)),
        Fault::Half,
        Fault::Truncated,
        Fault::Closed,
    ];
    // Consul may hold a query for minutes.
    if mechanism.name != "consul" {
        faults.push(Fault::Silent);
    }
    faults.extend(mechanism.wrong.iter().map(|body| answer("200 OK", body)));
    faults
}

type Shared = Arc<Mutex<Option<Fault>>>;

async fn serve(mechanism: &'static Mechanism, fault: Shared) -> Server {
    Server::start(move |ask: Ask, mut stream| {
        let fault = fault.clone();
        Box::pin(async move {
            let good = (mechanism.answer)(&ask.path);
            let now = fault.lock().unwrap().clone().filter(|_| ask.path == mechanism.list);
            if now.is_none() && !ask.param("index").is_empty() {
                // A blocking query of Consul whose index does not move.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let headers = format!("{JSON}X-Consul-Index: 7\r\n");
            match now {
                None => reply(&mut stream, "200 OK", &headers, good.as_bytes()).await,
                Some(Fault::Answer(status, headers, body)) => {
                    reply(&mut stream, status, headers, body.as_bytes()).await
                }
                Some(Fault::Half) => {
                    let (half, length) = (&good[..good.len() / 2], good.len());
                    let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{half}");
                    let _ = stream.write_all(head.as_bytes()).await;
                }
                Some(Fault::Truncated) => {
                    reply(&mut stream, "200 OK", &headers, &good.as_bytes()[..good.len() / 2]).await
                }
                Some(Fault::Closed) => {}
                Some(Fault::Silent) => std::future::pending().await,
            }
        })
    })
    .await
}

async fn start(section: &str) -> ManagerHandle {
    let handle = Manager::start(1, DiscoveryContext::start(SdOptions::default()), |_, _| std::future::ready(()));
    let yaml = format!("scrape_configs:\n  - job_name: j\n    {section}\n");
    let config = config::parse_config("prometheus.yml".as_ref(), &yaml, &config::Env::process());
    handle.reload(Arc::new(config.unwrap_or_else(|error| panic!("{yaml}\n{error}")))).await;
    handle
}

async fn wait(handle: &ManagerHandle, what: &str, is_so: impl Fn(&Pool) -> bool) -> Arc<Pool> {
    let mut set = handle.watch();
    let found = set.wait_for(|set| set.pools.first().is_some_and(|pool| is_so(pool)));
    let found = tokio::time::timeout(PATIENCE, found).await.ok().map(|set| set.unwrap().pools[0].clone());
    found.unwrap_or_else(|| panic!("{what}: {:?}", set.borrow().pools[0]))
}

fn has_the_list(pool: &Pool) -> bool {
    pool.active.len() == 1 && pool.active[0].discovered.get("__address__") == Some("10.0.0.1:80")
}

async fn check(mechanism: &'static Mechanism) {
    let fault = Shared::default();
    let server = serve(mechanism, fault.clone()).await;
    let handle = start(&(mechanism.section)(server.port)).await;
    wait(&handle, mechanism.name, has_the_list).await;
    for one in faults(mechanism) {
        let what = format!("{} {}: {one:.100?}", mechanism.name, mechanism.list);
        *fault.lock().unwrap() = Some(one);
        let pool = wait(&handle, &what, |pool| !pool.source_errors.is_empty()).await;
        assert!(has_the_list(&pool), "{what}: {:?}", pool.active);
        let error = &pool.source_errors[0];
        assert!(error.starts_with(mechanism.name) && error.len() < 2000 && !error.contains("hush"), "{what}: {error}");
        let stats = handle.stats();
        assert!(stats.sources["j"][0].failing_since.is_some(), "{what}: {:?}", stats.sources);
        *fault.lock().unwrap() = None;
        let pool = wait(&handle, &what, |pool| pool.source_errors.is_empty()).await;
        assert!(has_the_list(&pool), "{what}: {:?}", pool.active);
    }
    let million = format!("[{}{{}}]", "{},".repeat(1_000_000));
    if mechanism.name == "docker" {
        *fault.lock().unwrap() = Some(Fault::Answer("200 OK", JSON, million));
        let is_so = |pool: &Pool| pool.source_errors.iter().any(|error| error.contains("more than 500000 entries"));
        let pool = wait(&handle, "a million containers", is_so).await;
        assert!(has_the_list(&pool));
    }
}

#[tokio::test]
async fn no_fault_of_an_answer_takes_a_list_away() {
    for mechanism in &MECHANISMS {
        check(mechanism).await;
    }
}

/// Faults of a list of pods. Each watch ends with "gone", so that the list is read again.
#[tokio::test]
async fn no_fault_of_kubernetes_takes_a_list_away() {
    const LIST: &str = r#"{"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}, "status": {"podIP": "10.0.0.1"}}]}"#;
    let body: Arc<Mutex<(&'static str, String)>> = Arc::new(Mutex::new(("200 OK", LIST.to_owned())));
    let now = body.clone();
    let server = Server::start(move |ask, mut stream| {
        let now = now.clone();
        Box::pin(async move {
            if ask.param("watch") == "true" {
                tokio::time::sleep(Duration::from_millis(50)).await;
                return reply(&mut stream, "410 Gone", JSON, b"{}").await;
            }
            let (status, body) = now.lock().unwrap().clone();
            let body = body.replace("NEXT", &format!("{}x", ask.param("continue")));
            reply(&mut stream, status, JSON, body.as_bytes()).await;
        })
    })
    .await;
    let section = format!(
        "kubernetes_sd_configs: [{{role: pod, api_server: 'http://127.0.0.1:{}', authorization: {{credentials: hush}}}}]",
        server.port
    );
    let handle = start(&section).await;
    wait(&handle, "the list", has_the_list).await;
    let million = format!(r#"{{"metadata": {{}}, "items": [{}{{}}]}}"#, "{},".repeat(1_000_000));
    for (status, text, want) in [
        ("401 Unauthorized", r#"{"message": "expired"}"#.to_owned(), "401 Unauthorized expired"),
        ("200 OK", LIST[..LIST.len() / 2].to_owned(), "/api/v1/pods"),
        ("200 OK", "<html>".to_owned(), "/api/v1/pods"),
        ("200 OK", "null".to_owned(), "/api/v1/pods"),
        ("200 OK", r#"{"items": []}"#.to_owned(), "/api/v1/pods"),
        ("200 OK", r#"{"metadata": {}, "items": [5]}"#.to_owned(), "/api/v1/pods"),
        ("200 OK", "{\"a\":".repeat(100_000), "/api/v1/pods"),
        ("200 OK", million, "more than 500000 entries"),
        (
            "200 OK",
            r#"{"metadata": {"continue": "again"}, "items": []}"#.to_owned(),
            "the pages of the list do not end",
        ),
    ] {
        *body.lock().unwrap() = (status, text.clone());
        let is_so = |pool: &Pool| pool.source_errors.iter().any(|error| error.contains(want));
        let pool = wait(&handle, &format!("{text:.100}"), is_so).await;
        assert!(has_the_list(&pool), "{text:.100}");
        assert!(pool.source_errors.iter().all(|error| error.len() < 2000 && !error.contains("hush")), "{text:.100}");
        *body.lock().unwrap() = ("200 OK", LIST.to_owned());
        wait(&handle, "the list again", |pool| has_the_list(pool) && pool.source_errors.is_empty()).await;
    }
}

/// A server with a certificate that nobody has signed. What it reads after the handshake is counted.
async fn unverified() -> (u16, Arc<Mutex<usize>>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let settings = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(settings));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            if support::read(&mut stream).await.is_some() {
                *count.lock().unwrap() += 1;
            }
            reply(&mut stream, "404 Not Found", JSON, b"{}").await;
        }
    });
    (port, asked)
}

#[tokio::test]
async fn certificates_that_do_not_verify_are_errors_of_each_mechanism() {
    let (port, asked) = unverified().await;
    let secret = "refresh_interval: 100ms, authorization: {credentials: hush}";
    let sections = [
        ("http", format!("http_sd_configs: [{{url: 'https://127.0.0.1:{port}/', {secret}}}]")),
        ("consul", format!("consul_sd_configs: [{{server: '127.0.0.1:{port}', scheme: https, {secret}}}]")),
        ("docker", format!("docker_sd_configs: [{{host: 'https://127.0.0.1:{port}', {secret}}}]")),
        (
            "dockerswarm",
            format!("dockerswarm_sd_configs: [{{host: 'https://127.0.0.1:{port}', role: nodes, {secret}}}]"),
        ),
        ("nomad", format!("nomad_sd_configs: [{{server: 'https://127.0.0.1:{port}', {secret}}}]")),
        ("eureka", format!("eureka_sd_configs: [{{server: 'https://127.0.0.1:{port}', {secret}}}]")),
        ("puppetdb", format!("puppetdb_sd_configs: [{{url: 'https://127.0.0.1:{port}', query: q, {secret}}}]")),
        ("kuma", format!("kuma_sd_configs: [{{server: 'https://127.0.0.1:{port}', {secret}}}]")),
        (
            "kubernetes",
            format!(
                "kubernetes_sd_configs: [{{role: pod, api_server: 'https://127.0.0.1:{port}', authorization: {{credentials: hush}}}}]"
            ),
        ),
        (
            "triton",
            format!(
                "triton_sd_configs: [{{account: a, dns_suffix: d, endpoint: 127.0.0.1, port: {port}, refresh_interval: 100ms}}]"
            ),
        ),
    ];
    for (name, section) in &sections {
        let handle = start(section).await;
        let pool = wait(&handle, name, |pool| !pool.source_errors.is_empty()).await;
        let error = &pool.source_errors[0];
        assert!(error.contains("certificate") && !error.contains("hush"), "{name}: {error}");
        assert_eq!(*asked.lock().unwrap(), 0, "{name}: a request before the certificate was good");
    }
    // The same service, trusted: it is asked, and its answer is what the error says.
    let section =
        sections[0].1.replace("refresh_interval", "tls_config: {insecure_skip_verify: true}, refresh_interval");
    let handle = start(&section).await;
    wait(&handle, "trusted", |pool| pool.source_errors.iter().any(|error| error.contains("404"))).await;
    assert!(*asked.lock().unwrap() > 0);
}
