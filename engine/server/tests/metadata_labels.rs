//! `--enable-feature=type-and-unit-labels`: labels for the type and unit of a series' metric.

mod support;

use std::collections::BTreeSet;
use support::protobuf::{bytes, number, varint};
use support::{FakeTarget, Ringscrape, config, encode, job, ok, ok_openmetrics, request_with_body, until};

const FEATURE: &str = "--enable-feature=type-and-unit-labels";

/// Type and unit of each series with this name.
fn labels(server: &Ringscrape, selector: &str) -> BTreeSet<(String, String)> {
    let found = server.api(&format!("/api/v1/query?query={}", encode(selector)));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
    let of = |one: &serde_json::Value| (text(&one["metric"]["__type__"]), text(&one["metric"]["__unit__"]));
    found["result"].as_array().unwrap().iter().map(of).collect()
}

#[track_caller]
fn check(server: &Ringscrape, selector: &str, kind: &str, unit: &str) {
    until(selector, || (!labels(server, selector).is_empty()).then_some(()));
    assert_eq!(labels(server, selector), BTreeSet::from([(kind.to_owned(), unit.to_owned())]), "{selector}");
}

const OPENMETRICS: &str = "# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total 5\n# TYPE b gauge\nb 1\n\
    # TYPE h_bytes histogram\n# UNIT h_bytes bytes\nh_bytes_bucket{le=\"+Inf\"} 1\nh_bytes_count 1\nh_bytes_sum 1\nu 1\n\
    # TYPE own gauge\nown{__type__=\"mine\",__unit__=\"mine\"} 1\n# TYPE i info\ni_info{x=\"y\"} 1\n# EOF\n";

#[test]
fn series_of_scrapes_have_their_type_and_unit() {
    let openmetrics = FakeTarget::start(|_| ok_openmetrics(OPENMETRICS));
    let text = FakeTarget::start(|_| ok("plain 1\nplain2{__type__=\"mine\"} 1\n# TYPE t counter\nt 1\n"));
    let jobs = [job("o", &[openmetrics.address], ""), job("t", &[text.address], "")];
    let server = Ringscrape::start(&config(&jobs), &[FEATURE]);
    check(&server, "a_seconds_total", "counter", "seconds");
    check(&server, "b", "gauge", "");
    check(&server, "h_bytes_bucket", "histogram", "bytes");
    check(&server, "h_bytes_count", "histogram", "bytes");
    check(&server, "own", "gauge", "mine");
    check(&server, "i_info", "info", "");
    check(&server, "t", "counter", "");
    check(&server, "plain", "", "");
    check(&server, "plain2", "mine", "");
    check(&server, "up{job=\"o\"}", "", "");
    assert_eq!(server.value("a_seconds_total{__type__=\"counter\",__unit__=\"seconds\"}"), Some(5.0));
    // They go where the name goes.
    check(&server, "-a_seconds_total", "", "");
    check(&server, "rate(a_seconds_total[1m])", "", "");
    // A family that changes its unit or type makes other series, and lines that stay get them, too.
    openmetrics.now(|_| {
        ok_openmetrics(&OPENMETRICS.replace("# UNIT a_seconds seconds\n", "").replace("b gauge", "b counter"))
    });
    until("the new labels", || {
        let now = (labels(&server, "a_seconds_total"), labels(&server, "b"));
        let one = |kind: &str| BTreeSet::from([(kind.to_owned(), String::new())]);
        (now == (one("counter"), one("counter"))).then_some(())
    });
    assert!(server.log().lines().all(|line| !line.contains("level=ERROR")), "{}", server.log());
}

#[test]
fn without_the_feature_there_are_none() {
    let target = FakeTarget::start(|_| ok_openmetrics(OPENMETRICS));
    let server = Ringscrape::start(&config(&[job("o", &[target.address], "")]), &[]);
    check(&server, "a_seconds_total", "", "");
    check(&server, "own", "mine", "mine");
}

#[test]
fn series_that_are_written_to_us_have_them_too() {
    let server = Ringscrape::start("", &[FEATURE, "--web.enable-remote-write-receiver"]);
    let message = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let sample = message(&|out| {
        varint(1 << 3 | 1, out);
        out.extend_from_slice(&7.0f64.to_le_bytes());
        number(2, now, out);
    });
    let said = message(&|out| {
        number(1, 2, out);
        number(4, 3, out);
    });
    let series = message(&|out| {
        bytes(1, &[1, 2], out);
        bytes(2, &sample, out);
        bytes(5, &said, out);
    });
    let body = message(&|out| {
        ["", "__name__", "m", "bytes"].iter().for_each(|symbol| bytes(4, symbol.as_bytes(), out));
        bytes(5, &series, out);
    });
    let headers = [("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")];
    let answer = request_with_body(server.address, "POST", "/api/v1/write", &headers, &remote::pack(&body));
    assert_eq!(answer.status, 204, "{}", answer.body);
    check(&server, "m", "gauge", "bytes");
}
