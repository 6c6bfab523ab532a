//! Exemplars of the real binary: they outlive restarts, and go where samples go.

mod support;

use remote::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use support::receiver::{Receiver, Reply, WriteCall};
use support::{FakeTarget, Ringscrape, config, encode, job, ok_openmetrics, until};

const FEATURE: &str = "--enable-feature=exemplar-storage";
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const V2: &str = "    protobuf_message: io.prometheus.write.v2.Request\n";

/// Two counters; one gets an exemplar with each scrape, the other has one that stays.
fn target() -> FakeTarget {
    let count = Arc::new(AtomicU64::new(0));
    FakeTarget::start(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        ok_openmetrics(&format!(
            "a_total{{x=\"1\"}} {number} # {{trace_id=\"{number}\"}} 0.5 {}\nb 2 # {{trace_id=\"stays\"}} 3 1796029656\n# EOF\n",
            1_796_029_656 + number
        ))
    })
}

/// Traces of a selector's exemplars, series by series.
fn traces(server: &Ringscrape, selector: &str) -> Vec<Vec<String>> {
    let found = server.api(&format!("/api/v1/query_exemplars?query={}", encode(selector)));
    let trace = |exemplar: &serde_json::Value| exemplar["labels"]["trace_id"].as_str().unwrap_or_default().to_owned();
    let of_series = |series: &serde_json::Value| series["exemplars"].as_array().unwrap().iter().map(trace).collect();
    found.as_array().unwrap().iter().map(of_series).collect()
}

fn has_traces(server: &Ringscrape, selector: &str, want: &[String]) -> bool {
    let found = traces(server, selector);
    found.len() == 1 && found[0].windows(want.len()).any(|some| some == want)
}

#[test]
fn exemplars_outlive_kills_and_restarts_within_the_size_of_the_ring() {
    let target = target();
    let yaml = |max: usize| {
        let jobs = config(&[job("j", &[target.address], "")]);
        format!("storage: {{exemplars: {{max_exemplars: {max}}}}}\n{jobs}")
    };
    let mut server = Ringscrape::start(&yaml(1000), &[FEATURE, "--shards=2"]);
    until("exemplars", || Some(traces(&server, "a_total")).filter(|found| found.iter().any(|one| one.len() >= 5)));
    let before = traces(&server, "a_total")[0].clone();
    // The second time they are read from copies; the third time there is another number of cores.
    for (signal, flag) in [(SIGKILL, "--shards=2"), (SIGKILL, "--shards=1"), (SIGTERM, "--shards=2")] {
        server.restart(signal, &[FEATURE, flag]);
        until("those of the last run", || has_traces(&server, "a_total", &before).then_some(()));
        assert_eq!(traces(&server, "b"), [["stays"]], "one that is exposed all the time is there once");
    }
    // A smaller ring takes the newest.
    std::fs::write(server.path("prometheus.yml"), yaml(4)).unwrap();
    let newest = traces(&server, "a_total")[0].last().unwrap().parse::<u64>().unwrap();
    server.restart(SIGKILL, &[FEATURE, "--shards=1"]);
    until("few", || {
        let found = traces(&server, "a_total").into_iter().flatten().collect::<Vec<_>>();
        Some(found).filter(|found| found.len() == 4 && found[0].parse::<u64>().unwrap() >= newest - 2)
    });
    // Without the feature none are taken, and old ones do not stand in the way.
    server.restart(SIGTERM, &[]);
    until("scraped", || server.value("b"));
    assert_eq!(server.api("/api/v1/query_exemplars?query=a_total"), serde_json::json!([]));
}

fn sent(receiver: &Receiver, metric: &str) -> usize {
    let of_metric = |call: &WriteCall| call.exemplars.iter().filter(|one| one.series.metric_name() == metric).count();
    receiver.with(|stored| stored.calls.iter().map(of_metric).sum())
}

/// Whether each exemplar came with a sample of its series.
fn all_have_samples(receiver: &Receiver) -> bool {
    let has_sample = |call: &WriteCall, labels: &series::Labels| {
        call.series.iter().any(|series| series.labels == *labels && !series.samples.is_empty())
    };
    receiver
        .with(|stored| stored.calls.iter().all(|call| call.exemplars.iter().all(|one| has_sample(call, &one.series))))
}

const DROPS: &str = "    write_relabel_configs:\n      - {source_labels: [__name__], regex: b, action: drop}\n";

#[test]
fn exemplars_are_sent_once_with_their_samples_to_those_who_want_them() {
    for (message, more) in [(Message::V1, ""), (Message::V2, V2)] {
        let (target, receiver, other) = (target(), Receiver::start(Reply::stored), Receiver::start(Reply::stored));
        let jobs = config(&[job("j", &[target.address], "")]);
        let wants = receiver.section(&format!("    send_exemplars: true\n{DROPS}{more}"));
        let others = other.section(more).replace("far", "other");
        let global = "global: {external_labels: {zone: z}}\n";
        let yaml = format!("{global}{jobs}remote_write:\n{wants}{others}");
        let mut server = Ringscrape::start(&yaml, &[FEATURE]);
        until("exemplars", || (sent(&receiver, "a_total") >= 5).then_some(()));
        assert!(all_have_samples(&receiver), "{message:?}");
        assert_eq!((sent(&receiver, "b"), sent(&other, "a_total")), (0, 0));
        let count = |name: &str, more: &str| {
            let page = server.get("/metrics").body;
            let line = page.lines().find(|line| {
                line.starts_with(&format!("prometheus_remote_storage_exemplars_{name}{{"))
                    && line.contains("\"far\"")
                    && line.contains(more)
            });
            line.unwrap_or_else(|| panic!("{name}")).rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
        };
        until("they are counted", || (count("total", "") >= 5.0).then_some(()));
        assert_eq!((count("failed_total", ""), count("dropped_total", "dropped_series")), (0.0, 1.0));
        // What was not acknowledged is sent after a kill.
        receiver.now(|_| Reply::status(503, ""));
        std::thread::sleep(std::time::Duration::from_secs(1));
        server.restart(SIGKILL, &[FEATURE]);
        receiver.now(Reply::stored);
        let newest = traces(&server, "a_total").into_iter().flatten().count();
        until("all of them", || (sent(&receiver, "a_total") >= 15 + newest / 2).then_some(()));
        receiver.with(|stored| {
            let all = stored.calls.iter().flat_map(|call| &call.exemplars);
            let mut numbers: Vec<u64> = all.map(|one| one.labels.get("trace_id").unwrap().parse().unwrap()).collect();
            let labels = &stored.calls.iter().flat_map(|call| &call.exemplars).next().unwrap().series;
            assert_eq!((labels.get("x"), labels.get("job"), labels.get("zone")), (Some("1"), Some("j"), Some("z")));
            numbers.sort_unstable();
            numbers.dedup();
            let gaps = numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
            // A scrape that was answered may be lost with the kill.
            assert!(gaps <= 1, "{numbers:?}");
        });
    }
}

#[test]
fn an_agent_sends_exemplars_without_a_feature() {
    let (target, receiver) = (target(), Receiver::start(Reply::stored));
    let jobs = config(&[job("j", &[target.address], "")]);
    let yaml = format!("{jobs}remote_write:\n{}", receiver.section("    send_exemplars: true\n"));
    let _server = Ringscrape::start(&yaml, &["--agent"]);
    until("exemplars", || (sent(&receiver, "a_total") >= 5).then_some(()));
    assert_eq!(sent(&receiver, "b"), 1, "one that stays is sent once");
    assert!(all_have_samples(&receiver));
}

/// What a server of ours sends in either message is found at another one, and sent on by it.
#[test]
fn exemplars_cross_servers() {
    for more in ["", V2] {
        let (target, last) = (target(), Receiver::start(Reply::stored));
        let yaml = format!("remote_write:\n{}", last.section(&format!("    send_exemplars: true\n{V2}")));
        let middle = Ringscrape::start(&yaml, &[FEATURE, "--web.enable-remote-write-receiver"]);
        let jobs = config(&[job("j", &[target.address], "")]);
        let url = format!("http://{}/api/v1/write", middle.address);
        let yaml = format!(
            "{jobs}remote_write:\n  - url: {url}\n    send_exemplars: true\n    queue_config: {{batch_send_deadline: 100ms}}\n{more}"
        );
        let _first = Ringscrape::start(&yaml, &[FEATURE]);
        until("exemplars in the middle", || {
            Some(traces(&middle, "a_total")).filter(|found| found.iter().any(|one| one.len() >= 3))
        });
        assert_eq!(traces(&middle, "b"), [["stays"]]);
        until("exemplars at the end", || (sent(&last, "a_total") >= 3).then_some(()));
        assert!(all_have_samples(&last));
    }
}
