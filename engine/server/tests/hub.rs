//! The hub's side of a federation: scrapes of lines that bring their own times, their limits and their staleness.

mod support;

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use support::{FakeTarget, Ringscrape, config, job, ok, until};

/// An edge's answer: series of a name, each with labels of its own and a time a little before now.
fn edge(names: &[&str]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let line = |name: &&str| {
        format!("# TYPE {name} untyped\n{name}{{instance=\"host\",job=\"app\",region=\"eu\"}} 1 {}\n", now - 100)
    };
    ok(&names.iter().map(line).collect::<String>())
}

/// The hub's job: as docs/federation.md has it, with further settings.
fn hub(target: SocketAddr, settings: &str) -> Ringscrape {
    Ringscrape::start(&config(&[job("federate", &[target], &format!("honor_labels: true\n{settings}"))]), &[])
}

fn has(server: &Ringscrape, name: &str) -> bool {
    server
        .federate(name)
        .iter()
        .any(|line| line.starts_with(&format!("{name}{{instance=\"host\",job=\"app\",region=\"eu\"}} 1 ")))
}

#[test]
fn series_that_vanish_from_the_edge_end_if_the_job_says_so() {
    for (settings, ends) in [("track_timestamps_staleness: true", true), ("", false)] {
        let target = FakeTarget::start(|_| edge(&["stays", "goes"]));
        let server = hub(target.address, settings);
        until("both are there", || (has(&server, "stays") && has(&server, "goes")).then_some(()));
        target.now(|_| edge(&["stays", "comes"]));
        until("the new one is there", || has(&server, "comes").then_some(()));
        assert_eq!(has(&server, "goes"), !ends, "{settings:?}");
        assert!(has(&server, "stays"));

        // An edge that cannot be scraped ends everything, or nothing for five minutes.
        target.now(|_| b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec());
        until("the edge is down", || (server.value("up") == Some(0.0)).then_some(()));
        assert_eq!([has(&server, "stays"), has(&server, "comes")], [!ends, !ends], "{settings:?}");

        target.now(|_| edge(&["stays", "goes"]));
        until("it is back", || (has(&server, "stays") && has(&server, "goes")).then_some(()));
    }
}

#[test]
fn limits_hold_for_lines_with_their_own_times() {
    for (settings, error) in [
        ("sample_limit: 2", "sample limit exceeded"),
        ("label_limit: 3", "label_limit exceeded (metric: a, number of labels: 4, limit: 3)"),
        (
            "label_name_length_limit: 8",
            "label_name_length_limit exceeded (metric: ccc, label name: a_long_name, length: 11, limit: 8)",
        ),
        (
            "label_value_length_limit: 7",
            "label_value_length_limit exceeded (metric: ccc, label name: a_long_name, value: \"long value\", length: 10, \
             limit: 7)",
        ),
        ("body_size_limit: 100B", "body size limit exceeded"),
    ] {
        let long = |names: &[&str]| {
            let mut answer = String::from_utf8(edge(names)).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("200 OK"));
            answer = body.replace("ccc{", "ccc{a_long_name=\"long value\",");
            ok(&answer)
        };
        let target = FakeTarget::start(move |_| long(&["a", "b", "ccc"]));
        let server = hub(target.address, settings);
        let found = until("it fails", || {
            let found = server.targets()[0]["lastError"].as_str()?.to_owned();
            (!found.is_empty()).then_some(found)
        });
        assert_eq!(found, error, "{settings}");
        for name in ["a", "b", "ccc"] {
            assert_eq!(server.federate(name), [""; 0], "{settings}: nothing is stored of a scrape that fails");
        }
        assert_eq!(server.value("up"), Some(0.0));
    }
}

/// A native histogram of a target crosses an edge and comes to a hub, with its time and without the edge's labels.
#[test]
fn native_histograms_cross_a_hierarchy() {
    let payload = |gauge: f64, count: u64| {
        let body = support::protobuf::payload(gauge, count, count);
        let head =
            format!("HTTP/1.1 200 OK\r\n{}Content-Length: {}\r\n\r\n", support::protobuf::PAYLOAD_TYPE, body.len());
        [head.into_bytes(), body].concat()
    };
    let target = FakeTarget::start(move |_| payload(1.0, 10));
    let native = "scrape_native_histograms: true";
    let labels = "global: {external_labels: {region: eu}}\n";
    let edge = Ringscrape::start(&format!("{labels}{}", config(&[job("app", &[target.address], native)])), &[]);
    let federate = format!(
        "honor_labels: true\ntrack_timestamps_staleness: true\n{native}\nmetrics_path: /federate\n\
         params: {{'match[]': ['{{job=\"app\"}}']}}"
    );
    let hub = Ringscrape::start(&config(&[job("federate", &[edge.address], &federate)]), &[]);
    let count = |server: &Ringscrape, selector: &str| {
        let query = support::encode(&format!("histogram_count({selector})"));
        let answer = server.api(&format!("/api/v1/query?query={query}"));
        answer["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let selector = format!("h{{job=\"app\",instance=\"{}\",region=\"eu\",path=\"/\"}}", target.address);
    until("the histogram at the hub", || (count(&hub, &selector).as_deref() == Some("10")).then_some(()));
    until("the gauge at the hub", || (hub.value("g{job=\"app\",region=\"eu\"}") == Some(1.0)).then_some(()));
    assert_eq!(count(&edge, &selector.replace(",region=\"eu\"", "")).as_deref(), Some("10"));
    assert_eq!(hub.value("up{job=\"federate\"}"), Some(1.0));
    target.now(move |_| payload(2.0, 17));
    until("the next one", || (count(&hub, &selector).as_deref() == Some("17")).then_some(()));
    let text = edge.federate("{job=\"app\"}");
    assert!(text.iter().all(|line| !line.starts_with("h{")), "text cannot say them: {text:?}");
    target.now(move |_| payload(3.0, 0));
    until("it has ended at the hub", || count(&hub, &selector).is_none().then_some(()));
    until("the gauge goes on", || (hub.value("g{job=\"app\"}") == Some(3.0)).then_some(()));
}

#[test]
fn samples_seen_before_are_not_stored_again() {
    let fixed = edge(&["a", "b"]);
    let target = FakeTarget::start(move |_| fixed.clone());
    let server = hub(target.address, "");
    until("some scrapes", || {
        (has(&server, "a") && server.metric("ringscrape_scrapes_total") > Some(4.0)).then_some(())
    });
    let stored = server.api("/api/v1/query?query=count_over_time(a[5m])");
    assert_eq!(stored["result"][0]["value"][1], "1", "{stored}");
}
