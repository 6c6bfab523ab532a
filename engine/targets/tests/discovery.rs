//! Every mechanism against a service that changes, fails and lies.

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Answering, Ask, Catalogue, Dnsmasq, JSON, Mood, Server, consul, list_service, reply};
use targets::{DiscoveryContext, Manager, ManagerHandle, Pool, SdOptions};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

/// Longest time that anything may take to happen.
const PATIENCE: Duration = Duration::from_secs(60);

struct Rig(ManagerHandle);

impl Rig {
    /// One job `j` with these lines.
    async fn start(options: SdOptions, settings: &str) -> Rig {
        let rig = Rig(Manager::start(1, DiscoveryContext::start(options), |_, _| std::future::ready(())));
        rig.reload(&[("j", settings)]).await;
        rig
    }

    async fn reload(&self, jobs: &[(&str, &str)]) {
        let job = |(name, settings): &(&str, &str)| format!("  - job_name: {name}\n    {settings}\n");
        let yaml = format!("scrape_configs:\n{}", jobs.iter().map(job).collect::<String>());
        let config = config::parse_config("prometheus.yml".as_ref(), &yaml, &config::Env::process());
        self.0.reload(Arc::new(config.unwrap_or_else(|error| panic!("{yaml}\n{error}")))).await;
    }

    /// Waits for the first pool to be so.
    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&Pool) -> bool) -> impl Future<Output = Arc<Pool>> {
        let mut set = self.0.watch();
        let what = what.to_owned();
        async move {
            let found = set.wait_for(|set| set.pools.first().is_some_and(|pool| is_so(pool)));
            let found = tokio::time::timeout(PATIENCE, found).await.ok().map(|set| set.unwrap().pools[0].clone());
            found.unwrap_or_else(|| panic!("{what}: {:?}", set.borrow().pools))
        }
    }

    /// Waits for targets with these addresses, in order, and no error.
    async fn wait_for(&self, want: &[&str]) -> Arc<Pool> {
        let want: Vec<String> = want.iter().map(|address| (*address).to_owned()).collect();
        let text = format!("waiting for {want:?}");
        self.wait(&text, move |pool| addresses(pool) == want && pool.source_errors.is_empty()).await
    }

    /// Waits for an error with this text; the targets must be these.
    async fn wait_for_error(&self, text: &str, want: &[&str]) {
        let part = text.to_owned();
        let pool = self.wait(text, move |pool| pool.source_errors.iter().any(|error| error.contains(&part))).await;
        assert_eq!(addresses(&pool), want, "{text}");
    }
}

fn addresses(pool: &Pool) -> Vec<String> {
    pool.active.iter().map(|target| target.discovered.get("__address__").unwrap().to_owned()).collect()
}

fn kept_in(folder: &Path) -> SdOptions {
    SdOptions { keep_in: Some(folder.to_owned()), ..SdOptions::default() }
}

fn http(server: &Server) -> String {
    format!("http_sd_configs: [{{url: 'http://127.0.0.1:{}/list', refresh_interval: 100ms}}]", server.port)
}

const TWO: &str = r#"[{"targets": ["a:1", "b:1"], "labels": {"zone": "z"}}]"#;

#[tokio::test]
async fn http_list_is_followed_and_no_fault_takes_it_away() {
    let (mood, seen) = watch::channel(Mood::List(TWO.into()));
    let service = list_service(seen).await;
    let rig = Rig::start(SdOptions::default(), &http(&service)).await;
    let pool = rig.wait_for(&["a:1", "b:1"]).await;
    assert_eq!(pool.active[0].labels.get("zone"), Some("z"));
    let url = format!("http://127.0.0.1:{}/list", service.port);
    assert_eq!(pool.active[0].discovered.get("__meta_url"), Some(url.as_str()));
    assert!(service.last("/list").contains("x-prometheus-refresh-interval-seconds: 0.1"), "{}", service.last("/list"));
    let million = format!("[{{\"targets\": [{}\"x:1\"]}}]", "\"x:1\",".repeat(1_000_000));
    for (fault, want) in [
        (Mood::Status("500 Internal Server Error"), "500"),
        (Mood::Status("404 Not DiscoveryState"), "404"),
        (Mood::Body("text/html", TWO.into()), "unsupported content type \"text/html\""),
        (Mood::Body("application/json", "[{\"targets\": [\"c:1\"]".into()), "JSON"),
        (Mood::Body("application/json", million), "1000001 targets are more than"),
        (Mood::Body("application/json", " ".repeat((64 << 20) + 1)), "larger than"),
        (Mood::Cut, "/list"),
        (Mood::Body("application/json; charset=utf-8", "[null]".into()), "nil target group"),
    ] {
        mood.send_replace(fault);
        rig.wait_for_error(want, &["a:1", "b:1"]).await;
        mood.send_replace(Mood::List(TWO.into()));
        rig.wait_for(&["a:1", "b:1"]).await;
    }
    assert!(rig.0.stats().failures_total["http"] >= 8);
    mood.send_replace(Mood::List(r#"[{"targets": ["c:1"]}]"#.into()));
    rig.wait_for(&["c:1"]).await;
    mood.send_replace(Mood::List("[]".into()));
    rig.wait_for(&[]).await;
}

#[tokio::test]
async fn an_unchanged_http_list_is_not_sent_again() {
    let (_mood, seen) = watch::channel(Mood::List(TWO.into()));
    let service = list_service(seen).await;
    let rig = Rig::start(SdOptions::default(), &http(&service)).await;
    rig.wait_for(&["a:1", "b:1"]).await;
    let until = std::time::Instant::now() + PATIENCE;
    while service.count(&format!("if-none-match: \"{}\"", TWO.len())) < 2 {
        assert!(std::time::Instant::now() < until, "{}", service.last(""));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.wait_for(&["a:1", "b:1"]).await;
}

#[tokio::test]
async fn equal_configurations_share_one_watch() {
    let (_mood, seen) = watch::channel(Mood::List(TWO.into()));
    let service = list_service(seen).await;
    let slow = http(&service).replace("100ms", "1h");
    let rig = Rig::start(SdOptions::default(), &slow).await;
    rig.wait_for(&["a:1", "b:1"]).await;
    rig.reload(&[("j", &slow), ("k", &slow)]).await;
    let set = rig.0.watch().borrow().clone();
    assert_eq!(addresses(&set.pools[1]), ["a:1", "b:1"], "known at once");
    assert_eq!(service.count("/list"), 1);
}

#[tokio::test]
async fn a_start_without_the_source_knows_the_last_fleet_if_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let (mood, seen) = watch::channel(Mood::List(TWO.into()));
    let service = list_service(seen).await;
    let rig = Rig::start(kept_in(folder.path()), &http(&service)).await;
    rig.wait_for(&["a:1", "b:1"]).await;
    let until = std::time::Instant::now() + PATIENCE;
    while std::fs::read_dir(folder.path())
        .unwrap()
        .next()
        .is_none_or(|entry| entry.unwrap().path().extension().is_none_or(|extension| extension != "json"))
    {
        assert!(std::time::Instant::now() < until, "no list in the folder");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(rig);
    mood.send_replace(Mood::Silent);
    let again = Rig::start(kept_in(folder.path()), &http(&service)).await;
    let pool = again.0.watch().borrow().pools[0].clone();
    assert_eq!(addresses(&pool), ["a:1", "b:1"]);
    assert!(pool.source_errors[0].contains("has not answered yet"), "{:?}", pool.source_errors);
    let without = Rig::start(SdOptions::default(), &http(&service)).await;
    assert_eq!(addresses(&without.0.watch().borrow().pools[0]), [""; 0]);
    mood.send_replace(Mood::Status("503 Service Unavailable"));
    let third = Rig::start(kept_in(folder.path()), &http(&service)).await;
    third.wait_for_error("503", &["a:1", "b:1"]).await;
    mood.send_replace(Mood::List(r#"[{"targets": ["c:1"]}]"#.into()));
    third.wait_for(&["c:1"]).await;
}

fn consul_settings(server: &Server, more: &str) -> String {
    format!("consul_sd_configs: [{{server: '127.0.0.1:{}', refresh_interval: 100ms{more}}}]", server.port)
}

#[tokio::test]
async fn consul_is_followed_by_blocking_queries() {
    let mut first = Catalogue::default();
    first.set("db", &["primary"], &["10.0.0.1:1"]);
    first.set("web", &[], &["10.0.0.2:2", "10.0.0.3:2"]);
    let (catalogue, seen) = watch::channel(first);
    let server = consul(seen).await;
    let more = ", token: hush, node_meta: {rack: r1}, namespace: team, partition: part, health_filter: 'F == 1'";
    let rig = Rig::start(SdOptions::default(), &consul_settings(&server, more)).await;
    let pool = rig.wait_for(&["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:2"]).await;
    let labels = &pool.active[0].discovered;
    for (name, value) in [("service", "db"), ("dc", "dc1"), ("tags", ",primary,"), ("health", "passing")] {
        assert_eq!(labels.get(&format!("__meta_consul_{name}")), Some(value), "{labels}");
    }
    let query = server.last("/v1/health/service/web");
    for part in
        ["x-consul-token: hush", "dc=dc1", "ns=team", "partition=part", "stale=", "node-meta=rack%3Ar1", "filter=F+"]
    {
        assert!(query.contains(part), "{part}: {query}");
    }
    catalogue.send_modify(|now| now.set("web", &[], &["10.0.0.4:2"]));
    rig.wait_for(&["10.0.0.1:1", "10.0.0.4:2"]).await;
    assert!(server.last("/v1/health/service/web").contains("wait=120000ms"), "{}", server.last("/v1/health"));
    catalogue.send_modify(|now| now.fault = Some("500 Internal Server Error"));
    rig.wait_for_error("500", &["10.0.0.1:1", "10.0.0.4:2"]).await;
    // Restored from a snapshot: its index begins anew.
    catalogue.send_modify(|now| {
        *now = Catalogue::default();
        now.set("web", &[], &["10.0.0.5:2"]);
    });
    rig.wait_for(&["10.0.0.5:2"]).await;
    catalogue.send_modify(|now| {
        now.services.clear();
        now.index += 1;
    });
    rig.wait_for(&[]).await;
}

#[tokio::test]
async fn consul_services_are_chosen_by_name_and_tags() {
    let mut all = Catalogue::default();
    all.set("a", &["x", "y"], &["a:1"]);
    all.set("b", &["x"], &["b:1"]);
    all.set("c", &["x", "y"], &["c:1"]);
    let (_catalogue, seen) = watch::channel(all);
    let server = consul(seen).await;
    let rig = Rig::start(SdOptions::default(), &consul_settings(&server, ", tags: [x, y], services: [a, b]")).await;
    rig.wait_for(&["a:1"]).await;
    assert!(server.last("/v1/health/service/a").contains("tag=x&tag=y"));
    let named = consul_settings(&server, ", services: [b, nowhere], allow_stale: false");
    let named = Rig::start(SdOptions::default(), &named).await;
    named.wait_for(&["b:1"]).await;
    assert!(!server.last("/v1/health/service/nowhere").contains("stale"));
}

#[tokio::test]
async fn a_service_of_consul_that_fails_costs_that_service() {
    let mut first = Catalogue { faulty: Some(("secret", "403 Forbidden")), ..Catalogue::default() };
    first.set("open", &[], &["10.0.0.1:1"]);
    first.set("secret", &[], &["10.0.0.2:1"]);
    let (catalogue, seen) = watch::channel(first);
    let server = consul(seen).await;
    let started = std::time::Instant::now();
    let rig = Rig::start(SdOptions::default(), &consul_settings(&server, "")).await;
    let is_there = |pool: &Pool| addresses(pool) == ["10.0.0.1:1"] && !pool.source_errors.is_empty();
    let pool = rig.wait("the other service", is_there).await;
    assert!(started.elapsed() < Duration::from_secs(20), "it waits for the service that fails");
    let error = &pool.source_errors[0];
    assert!(error.contains("\"secret\"") && error.contains("403"), "{error}");
    catalogue.send_modify(|now| {
        now.faulty = None;
        now.index += 1;
    });
    rig.wait_for(&["10.0.0.1:1", "10.0.0.2:1"]).await;
    catalogue.send_modify(|now| {
        now.faulty = Some(("secret", "500 Internal Server Error"));
        now.index += 1;
        now.set("open", &[], &["10.0.0.3:1"]);
    });
    let is_there = |pool: &Pool| {
        addresses(pool) == ["10.0.0.2:1", "10.0.0.3:1"] && pool.source_errors.iter().any(|error| error.contains("500"))
    };
    rig.wait("its last instances beside the new ones", is_there).await;
}

/// A Kubernetes API server with pods; its watches send what the test says.
struct Cluster {
    pods: Mutex<Vec<(String, String)>>,
    /// Lines for all watches that are open, by number.
    lines: watch::Sender<Vec<String>>,
    fault: Mutex<Option<&'static str>>,
}

impl Cluster {
    fn pod(name: &str, ip: &str, version: u64) -> String {
        format!(
            r#"{{"metadata": {{"name": "{name}", "namespace": "ns", "resourceVersion": "{version}"}},
            "spec": {{"containers": [{{"name": "c", "ports": [{{"containerPort": 80}}]}}]}}, "status": {{"podIP": "{ip}"}}}}"#
        )
        .replace('\n', " ")
    }

    async fn serve(self: Arc<Cluster>, ask: Ask, mut stream: tokio::net::TcpStream) {
        let fault = *self.fault.lock().unwrap();
        if let Some(status) = fault {
            let body = br#"{"kind": "Status", "message": "pods is forbidden: user \"x\" cannot list"}"#;
            return reply(&mut stream, status, JSON, body).await;
        }
        if ask.param("watch") != "true" {
            // Pages of one object.
            let pods = self.pods.lock().unwrap().clone();
            let from: usize = ask.param("continue").parse().unwrap_or(0);
            let items: Vec<&str> = pods.iter().skip(from).take(1).map(|(_, json)| json.as_str()).collect();
            let next = if from + 1 < pods.len() { (from + 1).to_string() } else { String::new() };
            let items = if items.is_empty() { "null".to_owned() } else { format!("[{}]", items.join(",")) };
            let body = format!(r#"{{"metadata": {{"resourceVersion": "7", "continue": "{next}"}}, "items": {items}}}"#);
            return reply(&mut stream, "200 OK", JSON, body.as_bytes()).await;
        }
        let head = format!("HTTP/1.1 200 OK\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let mut lines = self.lines.subscribe();
        let mut told = lines.borrow().len();
        loop {
            if lines.wait_for(|lines| lines.len() > told).await.is_err() {
                return;
            }
            let new: Vec<String> = lines.borrow()[told..].to_vec();
            told += new.len();
            for line in new {
                if line == "BREAK" {
                    return;
                }
                // In two pieces, as a network may bring it.
                let (one, other) = line.split_at(line.len() / 2);
                for part in [one.to_owned(), format!("{other}\n")] {
                    let _ = stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await;
                    let _ = stream.flush().await;
                }
            }
        }
    }

    fn say(&self, line: String) {
        self.lines.send_modify(|lines| lines.push(line));
    }
}

#[tokio::test]
async fn kubernetes_is_followed_through_resets_and_gone_versions() {
    let pods =
        vec![("p1".to_owned(), Cluster::pod("p1", "1.1.1.1", 1)), ("p2".to_owned(), Cluster::pod("p2", "2.2.2.2", 2))];
    let cluster =
        Arc::new(Cluster { pods: Mutex::new(pods), lines: watch::channel(Vec::new()).0, fault: Mutex::default() });
    let serving = cluster.clone();
    let server = Server::start(move |ask, stream| Box::pin(serving.clone().serve(ask, stream))).await;
    let settings = format!(
        "kubernetes_sd_configs: [{{role: pod, api_server: 'http://127.0.0.1:{}', namespaces: {{names: [ns]}}, \
         selectors: [{{role: pod, label: 'app=web'}}], authorization: {{credentials: hush}}}}]",
        server.port
    );
    let rig = Rig::start(SdOptions::default(), &settings).await;
    let pool = rig.wait_for(&["1.1.1.1:80", "2.2.2.2:80"]).await;
    assert_eq!(pool.active[0].discovered.get("__meta_kubernetes_pod_name"), Some("p1"));
    let watches = async |count: usize| {
        let until = std::time::Instant::now() + PATIENCE;
        while server.count("watch=true") < count {
            assert!(std::time::Instant::now() < until, "{count} watches: {}", server.last(""));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The stand-in listens for lines a moment after it has noted the request.
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.last("watch=true")
    };
    let first = watches(1).await;
    for part in
        ["/api/v1/namespaces/ns/pods?", "labelSelector=app%3Dweb", "resourceVersion=7", "authorization: Bearer hush"]
    {
        assert!(first.contains(part), "{part}: {first}");
    }
    cluster.say(format!(r#"{{"type": "ADDED", "object": {}}}"#, Cluster::pod("p3", "3.3.3.3", 8)));
    rig.wait_for(&["1.1.1.1:80", "2.2.2.2:80", "3.3.3.3:80"]).await;
    cluster.say(format!(r#"{{"type": "DELETED", "object": {}}}"#, Cluster::pod("p1", "1.1.1.1", 9)));
    cluster.say(format!(r#"{{"type": "MODIFIED", "object": {}}}"#, Cluster::pod("p2", "2.2.2.9", 10)));
    cluster.say(r#"{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "12"}}}"#.to_owned());
    rig.wait_for(&["2.2.2.9:80", "3.3.3.3:80"]).await;
    // The connection breaks: the next watch goes on from the bookmark, without a list.
    let lists = server.count("limit=");
    cluster.say("BREAK".to_owned());
    assert!(watches(2).await.contains("resourceVersion=12"), "{}", server.last("watch=true"));
    assert_eq!(server.count("limit="), lists);
    // The version is gone: everything is listed anew.
    *cluster.pods.lock().unwrap() = vec![("p4".to_owned(), Cluster::pod("p4", "4.4.4.4", 20))];
    cluster.say(r#"{"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}"#.to_owned());
    rig.wait_for(&["4.4.4.4:80"]).await;
    watches(3).await;
    // Refused: what was known stays, and the server's words are shown.
    *cluster.fault.lock().unwrap() = Some("403 Forbidden");
    cluster.say("BREAK".to_owned());
    rig.wait_for_error("pods is forbidden", &["4.4.4.4:80"]).await;
    *cluster.fault.lock().unwrap() = None;
    rig.wait_for(&["4.4.4.4:80"]).await;
    let events = rig.0.stats().kubernetes_events;
    assert_eq!(events[&("add", "pod")], 1);
    assert_eq!((events[&("update", "pod")], events[&("delete", "pod")]), (1, 1));
}

#[tokio::test]
async fn names_are_looked_up_at_a_real_dns_server() {
    let mut dnsmasq = Dnsmasq::start(&[
        "--host-record=web.test,10.0.0.1",
        "--host-record=web.test,10.0.0.2,fd00::2",
        "--srv-host=_m._tcp.test,h1.test,9100",
        "--srv-host=_m._tcp.test,h2.test,9200",
        "--mx-host=test,mail.test,10",
        "--dns-rr=zone.test,2,036e7331047465737400",
    ]);
    let options = || SdOptions { dns_servers: vec![dnsmasq.address], ..SdOptions::default() };
    let settings =
        |names: &str, more: &str| format!("dns_sd_configs: [{{names: [{names}], refresh_interval: 200ms{more}}}]");
    /// Names, further settings, addresses, and some labels of the first one.
    type Case = (&'static str, &'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);
    let cases: [Case; 6] = [
        ("web.test", ", type: A, port: 80", &["10.0.0.1:80", "10.0.0.2:80"], &[("name", "web.test")]),
        ("web.test", ", type: aaaa, port: 80", &["[fd00::2]:80"], &[]),
        (
            "_m._tcp.test",
            "",
            &["h1.test:9100", "h2.test:9200"],
            &[("srv_record_target", "h1.test."), ("srv_record_port", "9100"), ("name", "_m._tcp.test")],
        ),
        ("test", ", type: MX, port: 25", &["mail.test:25"], &[("mx_record_target", "mail.test.")]),
        ("zone.test", ", type: NS, port: 53", &["ns1.test:53"], &[("ns_record_target", "ns1.test.")]),
        ("nothing.test", ", type: A, port: 80", &[], &[]),
    ];
    for (name, more, want, labels) in cases {
        let rig = Rig::start(options(), &settings(name, more)).await;
        let until = std::time::Instant::now() + PATIENCE;
        while rig.0.stats().attempts.get("dns").is_none_or(|attempts| attempts.count == 0) {
            assert!(std::time::Instant::now() < until, "{name}{more}: not looked up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let pool = rig.wait_for(want).await;
        for (label, value) in labels {
            let label = format!("__meta_dns_{label}");
            assert_eq!(pool.active[0].discovered.get(&label), Some(*value), "{name}{more}");
        }
    }
    let rig = Rig::start(options(), &settings("web.test", ", type: A, port: 80")).await;
    rig.wait_for(&["10.0.0.1:80", "10.0.0.2:80"]).await;
    dnsmasq.stop();
    rig.wait_for_error("web.test", &["10.0.0.1:80", "10.0.0.2:80"]).await;
}

/// A Docker daemon with one container.
fn docker(ask: Ask, mut stream: impl AsyncWrite + Unpin + Send + 'static) -> Answering {
    Box::pin(async move {
        let body = match ask.path.as_str() {
            "/containers/json" => {
                assert_eq!(ask.param("filters"), r#"{"label":["a","b"]}"#);
                r#"[{"Id": "c", "Names": ["/web"], "HostConfig": {"NetworkMode": "bridge"},
                    "Ports": [{"PrivatePort": 80, "Type": "tcp"}],
                    "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "n", "IPAddress": "172.17.0.2"}}}}]"#
            }
            _ => r#"[{"Id": "n", "Name": "bridge"}]"#,
        };
        reply(&mut stream, "200 OK", JSON, body.as_bytes()).await;
    })
}

#[tokio::test]
async fn containers_of_docker_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let server = Server::start(|ask, stream| docker(ask, stream)).await;
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let on_socket = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let ask = support::read(&mut stream).await.unwrap();
            docker(ask, stream).await;
        }
    });
    for host in [format!("tcp://127.0.0.1:{}", server.port), format!("unix://{}", socket.display())] {
        let settings = format!(
            "docker_sd_configs: [{{host: '{host}', refresh_interval: 1s, filters: [{{name: label, values: [a, b]}}]}}]"
        );
        let rig = Rig::start(SdOptions::default(), &settings).await;
        let pool = rig.wait_for(&["172.17.0.2:80"]).await;
        assert_eq!(pool.active[0].discovered.get("__meta_docker_network_name"), Some("bridge"), "{host}");
    }
    on_socket.abort();
    let nobody =
        format!("docker_sd_configs: [{{host: 'unix://{}/none', refresh_interval: 1s}}]", folder.path().display());
    Rig::start(SdOptions::default(), &nobody).await.wait_for_error("/none", &[]).await;
}
