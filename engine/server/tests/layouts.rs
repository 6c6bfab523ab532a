//! Layouts of payloads go from one run to the next: first scrapes after a start are not parsed anew.

mod support;

use support::{FakeTarget, Ringscrape, config, job, ok, until};

const PAYLOAD: &str = "# TYPE requests counter\nrequests{path=\"/a\"} 1\nrequests{path=\"/b\"} 2\nup_time 3\n";

fn scans(server: &Ringscrape, kind: &str) -> f64 {
    server.metric(&format!("ringscrape_scans_total{{kind=\"{kind}\"}}")).unwrap()
}

/// Waits for the first scrape of this run; gives `scrape_series_added` of each scrape with a body.
fn added(server: &Ringscrape) -> Vec<f64> {
    until("a target was scraped", || (scans(server, "warm") + scans(server, "cold") > 0.0).then_some(()));
    until("its samples are there", || server.value("scrape_series_added"));
    let start = server.metric("process_start_time_seconds").unwrap();
    let answer = server.api("/api/v1/query?query=scrape_series_added[1m]");
    let values = answer["result"][0]["values"].as_array().unwrap();
    let of_run = values.iter().filter(|value| value[0].as_f64().unwrap() >= start);
    of_run.map(|value| value[1].as_str().unwrap().parse().unwrap()).collect()
}

fn check_restarts(flags: &[&str], read_added: bool) {
    let target = FakeTarget::saying(PAYLOAD);
    let job = job("layouts", &[target.address], "scrape_interval: 1s");
    let mut server = Ringscrape::start(&config(&[job]), flags);
    until("a second scrape", || (scans(&server, "warm") > 0.0).then_some(()));
    assert_eq!(scans(&server, "cold"), 1.0);

    server.restart(15, flags);
    server.until_ready();
    until("a scrape", || (scans(&server, "warm") > 0.0).then_some(()));
    assert_eq!(scans(&server, "cold"), 0.0, "{}", server.log());
    if read_added {
        let added = added(&server);
        assert!(!added.is_empty() && added.iter().all(|added| *added == 0.0), "{added:?}");
    }

    // A kill finds what was written soon after the start.
    let file = server.path("data/layouts/core-0");
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    target.now_says(&format!("{PAYLOAD}new 4\n"));
    until("layouts are written", || (std::fs::metadata(&file).ok()?.modified().ok()? > before).then_some(()));
    server.restart(9, flags);
    server.until_ready();
    until("a scrape", || (scans(&server, "warm") > 0.0).then_some(()));
    assert_eq!(scans(&server, "cold"), 0.0, "{}", server.log());

    // Another number of cores; what is new is added.
    target.now_says(&format!("{PAYLOAD}new 4\nnewer 5\n"));
    let flags: Vec<&str> =
        flags.iter().copied().filter(|flag| !flag.starts_with("--shards")).chain(["--shards=2"]).collect();
    server.restart(15, &flags);
    server.until_ready();
    if read_added {
        assert_eq!(added(&server)[0], 1.0);
    }

    // Damaged files are told of.
    server.signal(15);
    server.wait();
    for entry in std::fs::read_dir(server.path("data/layouts")).unwrap() {
        std::fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    server.restart_ended(&flags);
    server.until_ready();
    until("a scrape", || (scans(&server, "cold") > 0.0).then_some(()));
    assert!(server.log().contains("layouts of the last run are not used"), "{}", server.log());
}

#[test]
fn first_scrapes_of_a_server_are_warm() {
    check_restarts(&["--shards=1"], true);
}

#[test]
fn first_scrapes_of_an_agent_are_warm() {
    check_restarts(&["--agent", "--shards=1"], false);
}

/// What the configuration makes of lines is that of the new run.
#[test]
fn a_changed_configuration_decides_anew() {
    let target = FakeTarget::start(|_| ok(PAYLOAD));
    let job_with = |more: &str| job("layouts", &[target.address], &format!("scrape_interval: 1s\n{more}"));
    let mut server = Ringscrape::start(&config(&[job_with("")]), &[]);
    until("samples", || server.value("requests{path=\"/b\"}"));
    until("a second scrape", || (scans(&server, "warm") > 0.0).then_some(()));
    let rules = "metric_relabel_configs: [{source_labels: [path], regex: /b, action: drop}, {target_label: added, replacement: x}]";
    std::fs::write(server.path("prometheus.yml"), config(&[job_with(rules)])).unwrap();
    server.restart(15, &[]);
    server.until_ready();
    until("samples", || server.value("requests{path=\"/a\",added=\"x\"}"));
    assert_eq!(scans(&server, "cold"), 0.0);
    assert_eq!(server.value("requests{path=\"/b\",added=\"x\"}"), None);
}
