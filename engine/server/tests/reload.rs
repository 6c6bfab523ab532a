//! Changing the configuration and the target lists of a running server.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{FakeTarget, PATIENCE, Ringscrape, config, job, until};

fn up(server: &Ringscrape, job: &str) -> Option<f64> {
    server.value(&format!("up{{job=\"{job}\"}}"))
}

const SIGHUP: i32 = 1;
const SIGTERM: i32 = 15;

#[test]
fn bad_configuration_leaves_the_running_one_untouched() {
    let target = FakeTarget::saying("a 1\n");
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &["--web.enable-lifecycle"]);
    until("scraped", || up(&server, "j"));
    std::fs::write(server.path("prometheus.yml"), "scrape_configs:\n  - job_name: j\n    no_such_field: 1\n").unwrap();
    let answer = server.post("/-/reload");
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("prometheus.yml:3:"), "{}", answer.body);
    assert!(answer.body.contains("no_such_field"), "{}", answer.body);
    assert_eq!(server.metric("prometheus_config_last_reload_successful"), Some(0.0));
    let before = target.request_count();
    until("scraping goes on", || (target.request_count() > before + 2).then_some(()));
    std::fs::write(server.path("prometheus.yml"), config(&[job("j", &[target.address], "")])).unwrap();
    assert_eq!(server.post("/-/reload").status, 200);
    assert_eq!(server.metric("prometheus_config_last_reload_successful"), Some(1.0));
}

#[test]
fn lifecycle_is_off_by_default() {
    let server = Ringscrape::start("", &[]);
    assert_eq!(server.post("/-/reload").status, 403);
    assert_eq!(server.post("/-/quit").status, 403);
}

#[test]
fn removed_job_goes_stale_and_others_go_on_undisturbed() {
    let (kept, gone) = (FakeTarget::saying("a 1\n"), FakeTarget::saying("b 1\n"));
    let kept_job = job("kept", &[kept.address], "");
    let server = Ringscrape::start(&config(&[kept_job.clone(), job("gone", &[gone.address], "")]), &[]);
    until("both are up", || Some(up(&server, "kept")? + up(&server, "gone")?));
    std::fs::write(server.path("prometheus.yml"), config(&[kept_job])).unwrap();
    server.signal(SIGHUP);
    until("the removed job is stale, report series included", || {
        server.federate("{job=\"gone\"}").is_empty().then_some(())
    });
    let at_reload = kept.request_count();
    until("five more scrapes", || (kept.request_count() >= at_reload + 5).then_some(()));
    assert_eq!(server.value("scrape_series_added{job=\"kept\"}"), Some(0.0));
    assert_steady(&kept, 200);
}

/// Scrapes came at the interval, none twice, none left out.
#[track_caller]
fn assert_steady(target: &FakeTarget, interval_ms: u64) {
    let requests = target.requests.lock().unwrap();
    let first = requests[0].0;
    for (i, (at, _)) in requests.iter().enumerate() {
        let ideal = Duration::from_millis(interval_ms) * i as u32;
        let off = (*at - first).abs_diff(ideal);
        // Three quarters of an interval tells a lost or doubled scrape from a busy machine.
        assert!(off < Duration::from_millis(interval_ms * 3 / 4), "scrape {i} is {off:?} off its tick");
    }
}

#[test]
fn changed_limit_loses_nothing() {
    let target = FakeTarget::saying("a 1\nb 2\n");
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "scrape_interval: 500ms")]), &[]);
    until("scraped twice", || (target.request_count() >= 2).then_some(()));
    let changed = job("j", &[target.address], "scrape_interval: 500ms\nsample_limit: 1000\nbody_size_limit: 1MB");
    std::fs::write(server.path("prometheus.yml"), config(&[changed])).unwrap();
    server.signal(SIGHUP);
    until("the new limit is in force", || {
        server.api("/api/v1/status/config")["yaml"].as_str()?.contains("sample_limit: 1000").then_some(())
    });
    let at_reload = target.request_count();
    until("three more scrapes", || (target.request_count() >= at_reload + 3).then_some(()));
    assert_eq!(server.value("scrape_series_added"), Some(0.0), "the parse state survived");
    assert_steady(&target, 500);
    let lowered = job("j", &[target.address], "scrape_interval: 500ms\nsample_limit: 1");
    std::fs::write(server.path("prometheus.yml"), config(&[lowered])).unwrap();
    server.signal(SIGHUP);
    until("a lower limit fails the scrape", || (up(&server, "j") == Some(0.0)).then_some(()));
}

#[test]
fn changed_relabelling_takes_over_without_a_gap() {
    let target = FakeTarget::saying("a 1\nb 2\n");
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    until("scraped", || server.value("b"));
    let drop_b = "metric_relabel_configs: [{source_labels: [__name__], regex: b, action: drop}]";
    std::fs::write(server.path("prometheus.yml"), config(&[job("j", &[target.address], drop_b)])).unwrap();
    server.signal(SIGHUP);
    until("b is gone", || server.value("b").is_none().then_some(()));
    assert_eq!(server.value("a"), Some(1.0));
    assert_steady(&target, 200);
}

#[test]
fn changed_files_are_loaded_by_themselves() {
    let target = FakeTarget::saying("a 1\n");
    let flags = ["--config.auto-reload", "--config.auto-reload-interval=100ms"];
    let server = Ringscrape::start(&config(&[job("one", &[target.address], "")]), &flags);
    until("scraped", || up(&server, "one"));
    std::fs::write(server.path("prometheus.yml"), config(&[job("other", &[target.address], "")])).unwrap();
    until("the new job is scraped", || up(&server, "other"));
}

#[test]
fn target_file_is_followed_and_a_broken_one_keeps_the_last_good_list() {
    let (one, two) = (FakeTarget::saying("a 1\n"), FakeTarget::saying("a 2\n"));
    let folder = tempfile::tempdir().unwrap();
    let list = |targets: &[&FakeTarget]| {
        let targets: Vec<String> = targets.iter().map(|target| target.address.to_string()).collect();
        serde_json::json!([{"targets": targets, "labels": {"zone": "z1"}}]).to_string()
    };
    std::fs::write(folder.path().join("targets.json"), list(&[&one])).unwrap();
    let file_job =
        "scrape_configs:\n  - job_name: j\n    scrape_interval: 200ms\n    file_sd_configs: [{files: ['*.json']}]\n";
    std::fs::write(folder.path().join("prometheus.yml"), file_job).unwrap();
    let server = Ringscrape::start_in(folder, &[]);
    until("one is scraped", || server.value("a{zone=\"z1\"}"));
    std::fs::write(server.path("targets.json"), list(&[&one, &two])).unwrap();
    until("two is scraped as well", || (server.federate("a").len() == 2).then_some(()));

    std::fs::write(server.path("targets.json"), &list(&[&two])[..30]).unwrap();
    until("the broken file is reported", || {
        let page = server.get("/api/v1/targets").body;
        page.contains("targets.json").then_some(())
    });
    assert_eq!(server.targets().len(), 2);
    std::fs::write(server.path("targets.json"), list(&[&two])).unwrap();
    until("one is gone and stale", || (server.federate("{job=\"j\",__name__=\"up\"}").len() == 1).then_some(()));
    assert_eq!(server.value("a"), Some(2.0));
}

#[test]
fn target_that_cannot_be_one_is_visible() {
    let yaml = "scrape_configs:\n  - job_name: j\n    static_configs: [{targets: ['a/b', 'x:1']}]\n    \
        relabel_configs: [{source_labels: [__address__], regex: 'x.*', target_label: __scrape_interval__, replacement: '0s'}]\n";
    let server = Ringscrape::start(yaml, &[]);
    let body = until("both are listed", || {
        let body = server.get("/api/v1/targets").body;
        body.contains("is not a valid hostname").then_some(body)
    });
    assert!(body.contains("scrape interval cannot be 0"), "{body}");
    let list = server.get("/api/v1/ringscrape/targets/list").body;
    assert!(list.contains("is not a valid hostname"), "{list}");
}

#[test]
fn target_limit_takes_all_targets_of_the_job_down() {
    let (one, two) = (FakeTarget::saying("a 1\n"), FakeTarget::saying("a 2\n"));
    let server = Ringscrape::start(&config(&[job("j", &[one.address, two.address], "target_limit: 1")]), &[]);
    let targets = until("both are down", || {
        let targets = server.targets();
        (targets.len() == 2 && targets.iter().all(|target| target["health"] == "down")).then_some(targets)
    });
    assert_eq!(targets[0]["lastError"], "target_limit exceeded (number of targets: 2, limit: 1)");
    assert_eq!(server.federate("up").len(), 2);
    assert_eq!(one.request_count() + two.request_count(), 0);
}

#[test]
fn ends_orderly_on_sigterm_and_quit() {
    let target = FakeTarget::saying("a 1\n");
    let yaml = config(&[job("j", &[target.address], "")]);
    let mut server = Ringscrape::start(&yaml, &[]);
    until("scraped", || up(&server, "j"));
    server.signal(SIGTERM);
    assert!(server.wait().success());
    let mut server = Ringscrape::start(&yaml, &["--web.enable-lifecycle"]);
    assert_eq!(server.post("/-/quit").status, 200);
    assert!(server.wait().success());
}

/// A client that listens to notifications.
struct Listener(BufReader<TcpStream>);

impl Listener {
    /// None if too many listen.
    fn start(server: &Ringscrape) -> Option<Listener> {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /api/v1/notifications/live HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut listener = Listener(BufReader::new(stream));
        let status = listener.line("HTTP/1.1 ").unwrap();
        if status.starts_with("204") {
            return None;
        }
        assert!(status.starts_with("200"), "{status}");
        listener.line("content-type: text/event-stream").unwrap();
        // Something comes at once.
        listener.line(": ").unwrap();
        Some(listener)
    }

    /// The rest of the next line that begins so; None at the end.
    fn line(&mut self, begin: &str) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(rest) = line.strip_prefix(begin) {
                return Some(rest.trim_end().to_owned());
            }
        }
    }

    fn event(&mut self) -> Option<(String, bool)> {
        let event: serde_json::Value = serde_json::from_str(&self.line("data: ")?).unwrap();
        assert!(event["date"].as_str().unwrap().ends_with('Z'), "{event}");
        Some((event["text"].as_str().unwrap().to_owned(), event["active"].as_bool().unwrap()))
    }
}

#[test]
fn notifications_begin_and_end_with_what_they_tell() {
    let flags = ["--web.enable-lifecycle", "--web.max-notifications-subscribers=2"];
    let mut server = Ringscrape::start("", &flags);
    let list = || {
        let answer: serde_json::Value = serde_json::from_str(&server.get("/api/v1/notifications").body).unwrap();
        answer["data"].clone()
    };
    assert_eq!(list(), serde_json::json!([]));
    let listening = "prometheus_api_notification_active_subscribers";
    let mut first = Listener::start(&server).expect("one may listen");
    let second = Listener::start(&server).expect("two may listen");
    assert!(Listener::start(&server).is_none());
    assert_eq!(server.metric(listening), Some(2.0));
    drop(second);
    until("a listener that has gone is forgotten", || (server.metric(listening) == Some(1.0)).then_some(()));

    std::fs::write(server.path("prometheus.yml"), "no_such_field: 1\n").unwrap();
    assert_eq!(server.post("/-/reload").status, 500);
    let failed = "Configuration reload has failed.";
    assert_eq!(first.event(), Some((failed.to_owned(), true)));
    assert_eq!(list()[0]["text"], failed);
    assert_eq!(list()[0]["active"], true);
    std::fs::write(server.path("prometheus.yml"), "").unwrap();
    assert_eq!(server.post("/-/reload").status, 200);
    assert_eq!(first.event(), Some((failed.to_owned(), false)));
    assert_eq!(list(), serde_json::json!([]));

    server.signal(SIGTERM);
    assert_eq!(first.event(), Some(("ringscrape is shutting down.".to_owned(), true)));
    assert_eq!(first.event(), None, "the stream does not outlive the server");
    assert!(server.wait().success());
}
