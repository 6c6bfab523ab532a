//! Alerts from rule to notification: a whole ringscrape, or a pair of them, before Debian's Alertmanager and one that hangs.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use support::http_server::{listen, read_request};
use support::{FakeTarget, Ringscrape, config, encode, free, job, request, until};

/// Debian's Alertmanager, on a free port, in a folder of its own.
struct Alertmanager {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Alertmanager {
    /// Sends notifications to `webhook`; returns once it is ready.
    fn start(webhook: &Webhook) -> Alertmanager {
        let folder = tempfile::tempdir().unwrap();
        let settings = format!(
            "route: {{receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 1s}}\n\
             receivers: [{{name: hook, webhook_configs: [{{url: 'http://{}/'}}]}}]\n",
            webhook.address
        );
        std::fs::write(folder.path().join("alertmanager.yml"), settings).unwrap();
        let address = free("127.0.0.6");
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", folder.path().join("alertmanager.yml").display()))
            .arg(format!("--storage.path={}", folder.path().display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus-alertmanager is installed: make test-deps");
        until("the Alertmanager is ready", || {
            std::net::TcpStream::connect(address).ok()?;
            (request(address, "GET", "/-/ready", &[]).status == 200).then_some(())
        });
        Alertmanager { child, address, _folder: folder }
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes an Alertmanager's notifications.
struct Webhook {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Webhook {
    fn start() -> Webhook {
        let bodies: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
        let kept = bodies.clone();
        let address = listen(move |mut stream| {
            while let Some(request) = read_request(&stream) {
                kept.lock().unwrap().push(serde_json::from_slice(&request.body).unwrap());
                let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        Webhook { address, bodies }
    }

    /// Alerts of each notification with this status.
    fn notifications(&self, status: &str) -> Vec<usize> {
        let bodies = self.bodies.lock().unwrap();
        let of_status = bodies.iter().filter(|body| body["status"] == status);
        of_status.map(|body| body["alerts"].as_array().unwrap().len()).collect()
    }
}

/// A rule that fires where a target says `broken 1`.
const RULES: &str = "groups: [{name: g, interval: 200ms, rules: [{alert: Broken, expr: broken == 1}]}]\n";

/// A configuration that scrapes the target, with RULES, and with these Alertmanagers.
fn settings(replica: &str, target: &FakeTarget, alertmanagers: &str) -> String {
    format!(
        "global: {{external_labels: {{replica: {replica}}}}}\nrule_files: [rules.yml]\nalerting:\n  \
         alert_relabel_configs: [{{regex: replica, action: labeldrop}}]\n  alertmanagers:\n{alertmanagers}{}",
        config(&[job("j", &[target.address], "")])
    )
}

fn group(address: SocketAddr, extra: &str) -> String {
    format!("    - {{static_configs: [{{targets: ['{address}']}}]{extra}}}\n")
}

/// Writes the rules beside the configuration and loads them.
fn load_rules(ringscrape: &Ringscrape) {
    std::fs::write(ringscrape.path("rules.yml"), RULES).unwrap();
    assert_eq!(ringscrape.post("/-/reload").status, 200);
}

fn sent(ringscrape: &Ringscrape, address: SocketAddr) -> f64 {
    let url = format!("http://{address}/api/v2/alerts");
    ringscrape.metric(&format!("prometheus_notifications_sent_total{{alertmanager=\"{url}\"}}")).unwrap_or(0.0)
}

#[test]
fn pair_is_one_notification_and_one_of_them_suffices() {
    let webhook = Webhook::start();
    let real = Alertmanager::start(&webhook);
    let target = FakeTarget::saying("broken 1\n");
    let flags = ["--web.enable-lifecycle", "--rules.alert.resend-delay=1s"];
    let start = |replica| Ringscrape::start(&settings(replica, &target, &group(real.address, "")), &flags);
    let pair = [start("a"), start("b")];
    pair.iter().for_each(load_rules);
    until("both have sent it twice", || pair.iter().all(|one| sent(one, real.address) >= 2.0).then_some(()));
    let known = request(real.address, "GET", "/api/v2/alerts", &[]).body;
    let known = known[known.find('[').unwrap()..=known.rfind(']').unwrap()].to_owned();
    let known: serde_json::Value = serde_json::from_str(&known).unwrap();
    assert_eq!(known.as_array().unwrap().len(), 1, "{known}");
    assert_eq!(known[0]["labels"]["alertname"], "Broken");
    assert_eq!(known[0]["labels"].get("replica"), None);
    until("somebody is notified", || (!webhook.notifications("firing").is_empty()).then_some(()));
    let [first, second] = pair;
    drop(first);
    target.now_says("broken 0\n");
    until("the end is told by the other", || (!webhook.notifications("resolved").is_empty()).then_some(()));
    assert_eq!((webhook.notifications("firing"), webhook.notifications("resolved")), (vec![1], vec![1]));
    assert!(second.get("/api/v1/rules").body.contains("Broken"));
    let alertmanagers = second.get("/api/v1/alertmanagers").body;
    assert!(alertmanagers.contains(&real.address.to_string()), "{alertmanagers}");
}

#[test]
fn hung_alertmanager_delays_neither_rules_nor_others() {
    // Takes connections and never answers.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let hung_at = hung.local_addr().unwrap();
    let good = FakeTarget::start(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Then: close\r\n\r\n".to_vec());
    let target = FakeTarget::saying("broken 1\n");
    let both = group(hung_at, ", timeout: 1h") + &group(good.address, "");
    let flags = [
        "--web.enable-lifecycle",
        "--rules.alert.resend-delay=1s",
        "--no-alertmanager.drain-notification-queue-on-shutdown",
    ];
    let mut ringscrape = Ringscrape::start(&settings("a", &target, &both), &flags);
    load_rules(&ringscrape);
    until("the good one is told again and again", || (sent(&ringscrape, good.address) >= 3.0).then_some(()));
    assert_eq!(sent(&ringscrape, hung_at), 0.0);
    let name = format!("prometheus_notifications_queue_length{{alertmanager=\"http://{hung_at}/api/v2/alerts\"}}");
    assert_eq!(ringscrape.metric(&name), Some(1.0), "the repetitions are one");
    ringscrape.signal(15);
    assert!(ringscrape.wait().success(), "the end does not wait for it");
}

#[test]
fn reload_changes_the_list_and_secrets_are_not_shown() {
    let target = FakeTarget::saying("broken 0\n");
    let one: SocketAddr = "127.0.0.1:19093".parse().unwrap();
    let other: SocketAddr = "127.0.0.1:29093".parse().unwrap();
    let secret = ", basic_auth: {username: u, password: geheim}, path_prefix: /am";
    let ringscrape = Ringscrape::start(&settings("a", &target, &group(one, secret)), &["--web.enable-lifecycle"]);
    let active = || {
        let all = ringscrape.api("/api/v1/alertmanagers")["activeAlertmanagers"].clone();
        let urls = all.as_array().unwrap().iter().map(|one| serde_json::json!({"url": one["url"]}));
        urls.collect::<serde_json::Value>()
    };
    assert_eq!(active(), serde_json::json!([{"url": format!("http://{one}/am/api/v2/alerts")}]));
    let drop = ", relabel_configs: [{action: drop}]";
    let next = settings("a", &target, &(group(one, &format!("{secret}{drop}")) + &group(other, "")));
    std::fs::write(ringscrape.path("prometheus.yml"), next).unwrap();
    assert_eq!(ringscrape.post("/-/reload").status, 200);
    assert_eq!(active(), serde_json::json!([{"url": format!("http://{other}/api/v2/alerts")}]));
    let dropped = &ringscrape.api("/api/v1/alertmanagers")["droppedAlertmanagers"];
    assert_eq!(*dropped, serde_json::json!([{"url": format!("http://{one}/am/api/v2/alerts")}]));
    for path in ["/api/v1/alertmanagers", "/api/v1/status/config", "/alerts", "/rules", "/config", "/metrics"] {
        assert!(!ringscrape.get(path).body.contains("geheim"), "{path}");
    }
    assert!(!ringscrape.log().contains("geheim"));
    assert_eq!(ringscrape.metric("prometheus_notifications_alertmanagers_discovered"), Some(1.0));
    let query = encode("broken == 1");
    until("samples are scraped", || {
        let found = ringscrape.api(&format!("/api/v1/query?query={}", encode("broken")));
        (!found["result"].as_array().unwrap().is_empty()).then_some(())
    });
    assert_eq!(ringscrape.api(&format!("/api/v1/query?query={query}"))["result"], serde_json::json!([]));
}

#[test]
fn example_of_a_pair_loads() {
    for file in ["prometheus-a.yml", "prometheus-b.yml"] {
        let output = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
            .args(["check", "config"])
            .arg(support::root().join("configs/ha-pair").join(file))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
