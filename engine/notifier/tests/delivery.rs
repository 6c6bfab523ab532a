//! Deliveries over real sockets: to Alertmanagers made up here that answer, fail, refuse and hang, and to Debian's.

use notifier::{Alert, AlertmanagerStats, Notifier, Options};
use series::{Labels, Timestamp};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use targets::DiscoveryContext;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a made-up Alertmanager does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Answers(u16),
    Hangs,
}

/// An Alertmanager made up here, with what it was sent.
struct Fake {
    address: std::net::SocketAddr,
    mood: Arc<Mutex<Mood>>,
    /// Head and body of each request.
    requests: Arc<Mutex<Vec<(String, serde_json::Value)>>>,
}

impl Fake {
    async fn start(mood: Mood) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Fake { address, mood: Arc::new(Mutex::new(mood)), requests: Arc::default() };
        let (mood, requests) = (fake.mood.clone(), fake.requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, mood.clone(), requests.clone()));
            }
        });
        fake
    }

    fn is_now(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Names of alerts in the order in which they were accepted or refused.
    fn names(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let alerts = requests.iter().flat_map(|(_, body)| body.as_array().unwrap());
        alerts.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }
}

async fn serve(mut stream: TcpStream, mood: Arc<Mutex<Mood>>, requests: Arc<Mutex<Vec<(String, serde_json::Value)>>>) {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        while bytes.len() < length.unwrap_or(0) {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = bytes.drain(..length.unwrap_or(0)).collect();
        let now = *mood.lock().unwrap();
        let Mood::Answers(status) = now else {
            // Longer than any test.
            tokio::time::sleep(PATIENCE * 2).await;
            return;
        };
        requests.lock().unwrap().push((head, serde_json::from_slice(&body).unwrap()));
        let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64)
}

fn alert(name: &str) -> Alert {
    Alert {
        labels: Labels::from_pairs([("alertname", name), ("severity", "page")]),
        annotations: Labels::from_pairs([("summary", "it is")]),
        starts_at: now(),
        ends_at: now().plus_ms(240_000),
        generator_url: "http://here/graph?g0.expr=up".to_owned(),
    }
}

fn alerts(numbers: std::ops::Range<usize>) -> Vec<Alert> {
    numbers.map(|number| alert(&format!("a{number}"))).collect()
}

/// The configuration of a section `alerting`, `{0}` and so on standing for the addresses.
fn config(alerting: &str, fakes: &[&Fake]) -> config::Config {
    let mut yaml = format!("global: {{external_labels: {{region: eu, replica: a}}}}\nalerting:\n{alerting}");
    for (number, fake) in fakes.iter().enumerate() {
        yaml = yaml.replace(&format!("<{number}>"), &fake.address.to_string());
    }
    config::parse_config("prometheus.yml".as_ref(), &yaml, &config::Env::process()).unwrap()
}

fn stats(notifier: &Notifier, fake: &Fake) -> AlertmanagerStats {
    let all = notifier.stats().alertmanagers;
    all.into_iter().find(|one| one.url.contains(&fake.address.to_string())).expect("it is in the list")
}

#[track_caller]
fn until(what: &str, mut check: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let end = Instant::now() + PATIENCE;
    let what = what.to_owned();
    async move {
        while !check() {
            assert!(Instant::now() < end, "waited {PATIENCE:?} in vain: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn every_alertmanager_gets_every_alert_as_its_group_says() {
    let (plain, other) = (Fake::start(Mood::Answers(200)).await, Fake::start(Mood::Answers(200)).await);
    let config = config(
        "  alert_relabel_configs: [{regex: replica, action: labeldrop}]
  alertmanagers:
    - static_configs: [{targets: ['<0>']}]
    - path_prefix: /team
      basic_auth: {username: u, password: geheim}
      alert_relabel_configs: [{source_labels: [severity], regex: page, target_label: team, replacement: t}]
      static_configs: [{targets: ['<1>']}]
",
        &[&plain, &other],
    );
    let notifier = Notifier::new(Options::default(), DiscoveryContext::default());
    notifier.send(alerts(0..1));
    notifier.reload(&config).await;
    notifier.send(alerts(1..3));
    until("both have both", || plain.names().len() == 2 && other.names().len() == 2).await;
    assert_eq!(plain.names(), ["a1", "a2"], "what came before there was an Alertmanager went nowhere");
    let (head, body) = plain.requests.lock().unwrap()[0].clone();
    assert!(head.starts_with("POST /api/v2/alerts HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("content-type: application/json\r\n"), "{head}");
    assert_eq!(body[0]["labels"], serde_json::json!({"alertname": "a1", "region": "eu", "severity": "page"}));
    assert_eq!(body[0]["annotations"], serde_json::json!({"summary": "it is"}));
    assert_eq!(body[0]["generatorURL"], "http://here/graph?g0.expr=up");
    let (head, body) = other.requests.lock().unwrap()[0].clone();
    assert!(head.starts_with("POST /team/api/v2/alerts HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Basic dTpnZWhlaW0="), "{head}");
    assert_eq!(body[0]["labels"]["team"], "t");
    until("both are counted", || {
        [&plain, &other]
            .iter()
            .all(|fake| stats(&notifier, fake).counts.sent == 2 && !stats(&notifier, fake).latency_us.is_empty())
    })
    .await;
    assert!(!format!("{:?}", notifier.stats()).contains("geheim"));
    notifier.shutdown().await;
}

#[tokio::test]
async fn hung_alertmanager_fills_its_own_queue_and_delays_no_other() {
    let (hung, good) = (Fake::start(Mood::Hangs).await, Fake::start(Mood::Answers(200)).await);
    let config =
        config("  alertmanagers: [{timeout: 1h, static_configs: [{targets: ['<0>', '<1>']}]}]\n", &[&hung, &good]);
    let options = Options { queue_capacity: 10, batch_max: 4, drain_on_shutdown: false };
    let notifier = Notifier::new(options, DiscoveryContext::default());
    notifier.reload(&config).await;
    notifier.send(alerts(0..4));
    until("the first batch hangs", || stats(&notifier, &hung).queue_length == 0).await;
    for from in (4..40).step_by(4) {
        notifier.send(alerts(from..from + 4));
        until("the good one has them", || good.names().len() == from + 4).await;
    }
    let held = stats(&notifier, &hung);
    assert_eq!((held.queue_length, held.counts.dropped, held.counts.sent), (10, 26, 0));
    until("all are counted", || stats(&notifier, &good).counts.sent == 40).await;
    assert_eq!(stats(&notifier, &good).counts.dropped, 0);
    // Ends although one hangs: nothing is to be drained.
    notifier.shutdown().await;
}

#[tokio::test]
async fn failures_are_tried_again_and_refusals_are_not() {
    for (status, tries) in [(500, 3), (429, 3), (400, 1), (302, 1)] {
        let fake = Fake::start(Mood::Answers(status)).await;
        let config = config("  alertmanagers: [{static_configs: [{targets: ['<0>']}]}]\n", &[&fake]);
        let notifier = Notifier::new(Options::default(), DiscoveryContext::default());
        notifier.reload(&config).await;
        notifier.send(alerts(0..2));
        until("they are given up", || stats(&notifier, &fake).counts.dropped == 2).await;
        let counts = stats(&notifier, &fake).counts;
        assert_eq!((counts.errors, counts.sent), (2 * tries, 0), "{status}");
        assert_eq!(fake.requests.lock().unwrap().len() as u64, tries, "{status}");
        notifier.shutdown().await;
    }
    let fake = Fake::start(Mood::Answers(503)).await;
    let config = config("  alertmanagers: [{static_configs: [{targets: ['<0>']}]}]\n", &[&fake]);
    let notifier = Notifier::new(Options::default(), DiscoveryContext::default());
    notifier.reload(&config).await;
    notifier.send(alerts(0..1));
    until("it fails once", || stats(&notifier, &fake).counts.errors == 1).await;
    fake.is_now(Mood::Answers(200));
    until("it is sent", || stats(&notifier, &fake).counts.sent == 1).await;
    assert_eq!(stats(&notifier, &fake).counts.dropped, 0);
    notifier.shutdown().await;
}

#[tokio::test]
async fn slow_alertmanager_is_given_its_timeout() {
    let fake = Fake::start(Mood::Hangs).await;
    let config = config("  alertmanagers: [{timeout: 100ms, static_configs: [{targets: ['<0>']}]}]\n", &[&fake]);
    let notifier = Notifier::new(Options::default(), DiscoveryContext::default());
    notifier.reload(&config).await;
    notifier.send(alerts(0..1));
    until("it is given up", || stats(&notifier, &fake).counts.dropped == 1).await;
    assert_eq!(stats(&notifier, &fake).counts.errors, 3);
    notifier.shutdown().await;
}

#[tokio::test]
async fn what_waits_is_sent_before_the_end() {
    let (good, failing) = (Fake::start(Mood::Answers(200)).await, Fake::start(Mood::Answers(500)).await);
    let config = config("  alertmanagers: [{static_configs: [{targets: ['<0>', '<1>']}]}]\n", &[&good, &failing]);
    let notifier = Notifier::new(Options { batch_max: 1, ..Options::default() }, DiscoveryContext::default());
    notifier.reload(&config).await;
    notifier.send(alerts(0..20));
    notifier.shutdown().await;
    assert_eq!(good.names().len(), 20);
    assert!(failing.names().len() <= 2, "one that fails gets no more of it");
}

#[tokio::test]
async fn reload_keeps_queues_and_changes_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("list.json");
    let (hung, next) = (Fake::start(Mood::Hangs).await, Fake::start(Mood::Answers(200)).await);
    std::fs::write(&file, format!("[{{\"targets\": [\"{}\"]}}]", hung.address)).unwrap();
    let group = format!("    - timeout: 1h\n      file_sd_configs: [{{files: ['{}']}}]\n", file.display());
    let notifier = Notifier::new(
        Options { batch_max: 1, drain_on_shutdown: false, ..Options::default() },
        DiscoveryContext::default(),
    );
    notifier.reload(&config(&format!("  alertmanagers:\n{group}"), &[])).await;
    notifier.send(alerts(0..3));
    until("one is under way, two wait", || stats(&notifier, &hung).queue_length == 2).await;
    // Another entry comes; the queue of the first is not touched.
    let both = format!("  alertmanagers:\n    - static_configs: [{{targets: ['<0>']}}]\n{group}");
    notifier.reload(&config(&both, &[&next])).await;
    assert_eq!(stats(&notifier, &hung).queue_length, 2);
    notifier.send(alerts(3..4));
    until("the new one has it", || next.names() == ["a3"]).await;
    // The list in the file changes.
    std::fs::write(&file, "[{\"targets\": [\"gone.example:1\", \"x/y\"]}]").unwrap();
    let urls = || notifier.stats().alertmanagers.into_iter().map(|one| one.url).collect::<Vec<_>>();
    let want = [format!("http://{}/api/v2/alerts", next.address), "http://gone.example:1/api/v2/alerts".to_owned()];
    until("the list has changed", || urls() == want).await;
    assert_eq!(notifier.stats().errors, ["\"x/y\" is not a valid hostname"]);
    notifier.shutdown().await;
}

/// Debian's Alertmanager, on a free port, in a folder of its own.
struct RealAlertmanager {
    child: std::process::Child,
    address: std::net::SocketAddr,
    _folder: tempfile::TempDir,
}

impl RealAlertmanager {
    /// Sends notifications to `webhook`; returns once it is ready.
    async fn start(webhook: &Fake) -> RealAlertmanager {
        let folder = tempfile::tempdir().unwrap();
        let settings = format!(
            "route: {{receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 1s}}\n\
             receivers: [{{name: hook, webhook_configs: [{{url: 'http://{}/'}}]}}]\n",
            webhook.address
        );
        std::fs::write(folder.path().join("alertmanager.yml"), settings).unwrap();
        // An address that no other test takes meanwhile.
        let address = std::net::TcpListener::bind("127.0.0.5:0").unwrap().local_addr().unwrap();
        let child = std::process::Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", folder.path().join("alertmanager.yml").display()))
            .arg(format!("--storage.path={}", folder.path().display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("prometheus-alertmanager is installed: make test-deps");
        let real = RealAlertmanager { child, address, _folder: folder };
        let end = Instant::now() + PATIENCE;
        while real.get("/-/ready").await.is_none() {
            assert!(Instant::now() < end, "the Alertmanager does not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        real
    }

    async fn get(&self, path: &str) -> Option<client::Response> {
        let client = client::Client::new(&config::HttpConfig::default(), client::ClientOptions::default()).unwrap();
        let url = format!("http://{}{path}", self.address).parse().unwrap();
        client.get(&url).await.ok().filter(|answer| answer.status.is_success())
    }

    async fn alerts(&self) -> serde_json::Value {
        serde_json::from_slice(&self.get("/api/v2/alerts").await.expect("it answers").body).unwrap()
    }
}

impl Drop for RealAlertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn real_alertmanager_takes_a_pair_for_one() {
    // The webhook counts what people would get.
    let webhook = Fake::start(Mood::Answers(200)).await;
    let real = RealAlertmanager::start(&webhook).await;
    let member = |replica: &str| {
        let yaml = format!(
            "global: {{external_labels: {{replica: {replica}}}}}
alerting:
  alert_relabel_configs: [{{regex: replica, action: labeldrop}}]
  alertmanagers: [{{static_configs: [{{targets: ['{}']}}]}}]
",
            real.address
        );
        config::parse_config("prometheus.yml".as_ref(), &yaml, &config::Env::process()).unwrap()
    };
    let pair = [
        Notifier::new(Options::default(), DiscoveryContext::default()),
        Notifier::new(Options::default(), DiscoveryContext::default()),
    ];
    for (notifier, replica) in pair.iter().zip(["a", "b"]) {
        notifier.reload(&member(replica)).await;
        notifier.send(vec![alert("Down")]);
    }
    let sent = |at: usize| pair[at].stats().alertmanagers[0].counts;
    until("both have sent it", || sent(0).sent == 1 && sent(1).sent == 1).await;
    let known = real.alerts().await;
    assert_eq!(known.as_array().unwrap().len(), 1, "{known}");
    assert_eq!(known[0]["labels"], serde_json::json!({"alertname": "Down", "severity": "page"}));
    let notifications = |status: &str| {
        let requests = webhook.requests.lock().unwrap();
        let of_status = requests.iter().filter(|(_, body)| body["status"] == status);
        of_status.map(|(_, body)| body["alerts"].as_array().unwrap().len()).collect::<Vec<_>>()
    };
    until("somebody is notified", || !notifications("firing").is_empty()).await;
    for notifier in &pair {
        let over = Alert { ends_at: now(), ..alert("Down") };
        notifier.send(vec![over]);
    }
    until("the end is told", || !notifications("resolved").is_empty()).await;
    assert_eq!((notifications("firing"), notifications("resolved")), (vec![1], vec![1]), "one notification each");
    for notifier in &pair {
        assert_eq!(notifier.stats().alertmanagers[0].counts.errors, 0);
        notifier.shutdown().await;
    }
}
