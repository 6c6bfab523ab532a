//! The whole program with services that tell it what to scrape: a change becomes live, a dead service changes nothing,
//! and a restart without it goes on with the last known fleet.

#[path = "../../targets/tests/support/mod.rs"]
mod sources;
mod support;

use sources::{Catalogue, Dnsmasq, Mood, consul, list_service};
use support::{FakeTarget, Ringscrape, until};
use tokio::sync::watch;

const SIGKILL: i32 = 9;

/// Where the services of these tests run.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn config(discovery: &str) -> String {
    format!(
        "scrape_configs:\n  - job_name: found\n    scrape_interval: 200ms\n    {discovery}\n    relabel_configs:\n    \
         - {{source_labels: [__meta_url], regex: .+, target_label: by, replacement: http}}\n"
    )
}

/// Waits until exactly these targets have been scraped well.
fn wait_for(server: &Ringscrape, want: &[&FakeTarget]) {
    let mut want: Vec<String> = want.iter().map(|target| target.address.to_string()).collect();
    want.sort();
    until(&format!("{want:?} are up"), || {
        let targets = server.targets();
        let up = targets.iter().filter(|target| target["health"] == "up");
        let mut up: Vec<String> = up.map(|target| target["labels"]["instance"].as_str().unwrap().to_owned()).collect();
        up.sort();
        (up == want && targets.len() == want.len()).then_some(())
    });
}

fn wait_for_error(server: &Ringscrape, text: &str) {
    until(&format!("discovery shows {text:?}"), || {
        server.get("/api/v1/ringscrape/discovery").body.contains(text).then_some(())
    });
}

fn list(targets: &[&FakeTarget]) -> Mood {
    let targets: Vec<String> = targets.iter().map(|target| format!("\"{}\"", target.address)).collect();
    Mood::List(format!("[{{\"targets\": [{}]}}]", targets.join(",")))
}

#[test]
fn http_list_is_live_outlives_its_service_and_a_restart() {
    let runtime = runtime();
    let (one, two) = (FakeTarget::saying("a 1\n"), FakeTarget::saying("a 2\n"));
    let (mood, seen) = watch::channel(list(&[&one]));
    let service = runtime.block_on(list_service(seen));
    let yaml =
        config(&format!("http_sd_configs: [{{url: 'http://127.0.0.1:{}/l', refresh_interval: 200ms}}]", service.port));
    let mut server = Ringscrape::start(&yaml, &[]);
    wait_for(&server, &[&one]);
    assert_eq!(server.value("a"), Some(1.0));
    mood.send_replace(list(&[&one, &two]));
    wait_for(&server, &[&one, &two]);
    let found = server.api("/api/v1/ringscrape/discovery");
    assert_eq!((&found["pools"][0]["active"], &found["pools"][0]["discovered"]), (&2.into(), &2.into()));
    assert!(found["rows"][0]["discoveredLabels"]["__meta_url"].is_string(), "{found}");
    let source = &found["pools"][0]["sources"][0];
    assert_eq!(
        (&source["mechanism"], &source["targets"], &source["lastRequests"]),
        (&"http".into(), &2.into(), &1.into())
    );
    assert!(source["lastSeconds"].is_number() && source["failingSince"].is_null(), "{source}");
    mood.send_replace(Mood::Status("503 Service Unavailable"));
    wait_for_error(&server, "503");
    until("the page says since when", || {
        let found = server.api("/api/v1/ringscrape/discovery");
        found["pools"][0]["sources"][0]["failingSince"].is_number().then_some(())
    });
    wait_for(&server, &[&one, &two]);
    let failures = server.metric("prometheus_sd_http_failures_total").unwrap();
    assert!(failures >= 1.0, "{failures}");
    // The list was written some seconds ago at most every five: wait for the second one.
    until("the list of two is on disk", || {
        let files = std::fs::read_dir(server.path("data/discovery")).ok()?;
        let text = std::fs::read_to_string(files.flatten().next()?.path()).ok()?;
        text.contains(&two.address.to_string()).then_some(())
    });
    server.restart(SIGKILL, &[]);
    wait_for(&server, &[&one, &two]);
    wait_for_error(&server, "503");
    server.restart(SIGKILL, &["--discovery.keep-lists=false"]);
    wait_for_error(&server, "503");
    assert_eq!(server.targets().len(), 0, "as asked, nothing is known without the service");
    mood.send_replace(list(&[&two]));
    wait_for(&server, &[&two]);
}

/// Runs `ringscrape discover`. Returns whether all is well, and the report.
fn discover(file: &std::path::Path, job: &str) -> (bool, String) {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_ringscrape")).arg("discover").arg(file).arg(job).output();
    let output = output.unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_mechanism_is_asked_its_targets_are_scraped_and_a_tool_shows_them() {
    let target = FakeTarget::saying("a 1\n");
    let address = target.address;
    let instance = format!(
        "<instance><instanceId>{address}</instanceId><hostName>{}</hostName><port enabled=\"true\">{}</port></instance>",
        address.ip(),
        address.port()
    );
    let apps = format!("<applications><application><name>SHOP</name>{instance}</application></applications>");
    let eureka = FakeTarget::start(move |_| support::ok(&apps));
    let yaml = config(&format!(
        "eureka_sd_configs: [{{server: 'http://{}/eureka', refresh_interval: 200ms}}]",
        eureka.address
    ));
    let server = Ringscrape::start(&yaml, &[]);
    wait_for(&server, &[&target]);
    assert_eq!(server.value("a"), Some(1.0));
    let found = server.metric("prometheus_sd_discovered_targets{config=\"found\",name=\"scrape\"}");
    assert_eq!(found, Some(1.0));
    let shown = server.api("/api/v1/status/config").to_string();
    assert!(shown.contains("eureka_sd_configs"), "{shown}");
    let file = server.path("prometheus.yml");
    let (is_good, text) = discover(&file, "found");
    assert!(is_good, "{text}");
    for part in [
        "job \"found\"",
        "eureka: 1 targets in ",
        ", 1 request",
        "__meta_eureka_app_name=\"SHOP\"",
        "-> http://",
        "1 targets to scrape; 0 dropped",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    eureka.now(|_| b"HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\nbusy".to_vec());
    wait_for_error(&server, "503");
    wait_for(&server, &[&target]);
    let (is_good, text) = discover(&file, "found");
    assert!(!is_good && text.contains("ERROR eureka: ") && text.contains("busy"), "{text}");
    let (is_good, text) = discover(&file, "other");
    assert!(!is_good && text.contains("has no job \"other\"; it has found"), "{text}");
}

#[test]
fn a_changed_catalogue_of_consul_is_live() {
    let runtime = runtime();
    let (one, two) = (FakeTarget::saying("a 1\n"), FakeTarget::saying("a 2\n"));
    let mut first = Catalogue::default();
    first.set("web", &[], &[&one.address.to_string()]);
    let (catalogue, seen) = watch::channel(first);
    let service = runtime.block_on(consul(seen));
    let yaml =
        config(&format!("consul_sd_configs: [{{server: '127.0.0.1:{}', refresh_interval: 200ms}}]", service.port));
    let server = Ringscrape::start(&yaml, &[]);
    wait_for(&server, &[&one]);
    catalogue.send_modify(|now| now.set("db", &[], &[&two.address.to_string()]));
    wait_for(&server, &[&one, &two]);
    drop(service);
    wait_for_error(&server, "consul: ");
    wait_for(&server, &[&one, &two]);
    assert!(server.metric("prometheus_sd_consul_rpc_failures_total").unwrap() >= 1.0);
}

/// The same mechanisms, options and kept lists as for targets.
#[test]
fn alertmanagers_are_found_as_targets_are() {
    let runtime = runtime();
    let mut dnsmasq = Dnsmasq::start(&["--host-record=alerts.test,127.0.0.1"]);
    let (mood, seen) = watch::channel(Mood::List(r#"[{"targets": ["127.0.0.1:1"]}]"#.into()));
    let service = runtime.block_on(list_service(seen));
    let yaml = format!(
        "alerting:\n  alertmanagers:\n  - http_sd_configs: [{{url: 'http://127.0.0.1:{}/l', refresh_interval: 200ms}}]\n    \
         dns_sd_configs: [{{names: [alerts.test], type: A, port: 2, refresh_interval: 200ms}}]\n",
        service.port
    );
    let flag = format!("--discovery.dns-server={}", dnsmasq.address);
    let mut server = Ringscrape::start(&yaml, &[&flag]);
    let found = |server: &Ringscrape, want: usize| {
        until(&format!("{want} Alertmanagers are known"), || {
            let all = server.api("/api/v1/alertmanagers");
            (all["activeAlertmanagers"].as_array()?.len() == want).then_some(())
        });
    };
    found(&server, 2);
    until("both lists are on disk", || {
        let names = std::fs::read_dir(server.path("data/discovery")).ok()?.flatten().map(|file| file.file_name());
        let written = names.filter(|name| name.to_string_lossy().ends_with(".json")).count();
        (written == 2).then_some(())
    });
    mood.send_replace(Mood::Status("503 Service Unavailable"));
    dnsmasq.stop();
    server.restart(SIGKILL, &[&flag]);
    found(&server, 2);
    server.restart(SIGKILL, &[&flag, "--discovery.keep-lists=false"]);
    found(&server, 0);
}

#[test]
fn names_of_a_dns_server_are_scraped() {
    let target = FakeTarget::saying("a 1\n");
    let mut dnsmasq = Dnsmasq::start(&["--host-record=fleet.test,127.0.0.1"]);
    let yaml = config(&format!(
        "dns_sd_configs: [{{names: [fleet.test], type: A, port: {}, refresh_interval: 200ms}}]",
        target.address.port()
    ));
    let server = Ringscrape::start(&yaml, &[&format!("--discovery.dns-server={}", dnsmasq.address)]);
    wait_for(&server, &[&target]);
    dnsmasq.stop();
    wait_for_error(&server, "fleet.test");
    wait_for(&server, &[&target]);
}
