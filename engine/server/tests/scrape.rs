//! What a target says and what becomes of it: the real binary against targets on loopback.

mod support;

use serde_json::Value;
use support::{FakeTarget, Ringscrape, config, job, ok, until};

/// The only active target once it has been scraped.
fn scraped(server: &Ringscrape) -> Value {
    until("the target is scraped", || {
        let targets = server.targets();
        assert!(targets.len() <= 1);
        targets.into_iter().next().filter(|target| target["health"] != "unknown")
    })
}

struct Case<'a> {
    name: &'a str,
    job: &'a str,
    answer: Vec<u8>,
    /// Part of `lastError`; "" for a good scrape.
    error: &'a str,
    /// `up`, `scrape_samples_scraped`, `scrape_samples_post_metric_relabeling`, `scrape_series_added`.
    report: [f64; 4],
    /// Series of the body that are readable afterwards, without the target's own labels.
    series: &'a [&'a str],
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A 200 after which the fake closes the connection.
fn closing(header: &str, body: &[u8]) -> Vec<u8> {
    let close = std::str::from_utf8(support::CLOSE).unwrap();
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{TEXT}{close}{header}\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

const TEXT: &str = "Content-Type: text/plain; version=0.0.4\r\n";

/// One server with a job per case, so that the cases share the time of one scrape.
#[track_caller]
fn check(cases: Vec<Case>) {
    let targets: Vec<FakeTarget> = cases
        .iter()
        .map(|case| {
            let answer = case.answer.clone();
            FakeTarget::start(move |_| answer.clone())
        })
        .collect();
    let jobs: Vec<String> =
        cases.iter().zip(&targets).map(|(case, target)| job(case.name, &[target.address], case.job)).collect();
    let server = Ringscrape::start(&config(&jobs), &[]);
    for (case, target) in cases.iter().zip(&targets) {
        let name = case.name;
        let state = until(name, || {
            let targets = server.targets();
            targets.into_iter().find(|target| target["scrapePool"] == name && target["health"] != "unknown")
        });
        let error = state["lastError"].as_str().unwrap();
        assert_eq!(error.is_empty(), case.error.is_empty(), "{name}: {error:?}");
        assert!(error.contains(case.error), "{name}: {error:?} has no {:?}", case.error);
        assert_eq!(state["health"], if case.error.is_empty() { "up" } else { "down" }, "{name}");
        let report = ["up", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling", "scrape_series_added"];
        // A slow disk may show a scrape later than its status, which waits for a second.
        let first = until(name, || server.value(&format!("scrape_series_added{{job=\"{name}\"}}")));
        for (metric, want) in report.iter().zip(case.report) {
            let got = server.value(&format!("{metric}{{job=\"{name}\"}}")).unwrap();
            // Later scrapes add nothing, and one may have come meanwhile.
            let later = *metric == "scrape_series_added" && (first == 0.0 || got == 0.0);
            assert!(got == want || later, "{name}: {metric} is {got}, not {want}");
        }
        let mut series = Vec::new();
        let own = format!(r#"instance="{}",job="{name}""#, target.address);
        for line in server.federate(&format!("{{job=\"{name}\",__name__!~\"up|scrape_.*\"}}")) {
            let line = line.rsplit_once(' ').unwrap().0;
            let line = line.replace(&format!("{{{own}}}"), "").replace(&format!("{own},"), "");
            series.push(line.replace(&format!(",{own}"), ""));
        }
        assert_eq!(series, case.series, "{name}");
    }
}

#[test]
fn bodies_and_their_samples() {
    let text = |body: &str| response("200 OK", TEXT, body.as_bytes());
    check(vec![
        Case {
            name: "plain",
            job: "",
            answer: text("a 1\nb{x=\"y\"} 2\n"),
            error: "",
            report: [1.0, 2.0, 2.0, 2.0],
            series: &["a 1", "b{x=\"y\"} 2"],
        },
        Case {
            name: "no-newline-at-end",
            job: "",
            answer: text("a 1"),
            error: "",
            report: [1.0, 1.0, 1.0, 1.0],
            series: &["a 1"],
        },
        Case { name: "empty", job: "", answer: text(""), error: "", report: [1.0, 0.0, 0.0, 0.0], series: &[] },
        Case {
            name: "comments",
            job: "",
            answer: text("# HELP a b\n"),
            error: "",
            report: [1.0, 0.0, 0.0, 0.0],
            series: &[],
        },
        Case {
            name: "duplicates",
            job: "",
            answer: text("a 1\na 2\na 1\n"),
            error: "",
            report: [1.0, 3.0, 3.0, 1.0],
            series: &["a 1"],
        },
        Case {
            name: "spoof",
            job: "",
            answer: text("up 5\na 1\n"),
            error: "",
            report: [1.0, 2.0, 2.0, 1.0],
            series: &["a 1"],
        },
        Case {
            name: "broken-line",
            job: "",
            answer: text("a 1\nb 2\n7 7\nc 3\n"),
            error: "expected a valid start token, got \"7\"",
            report: [0.0, 2.0, 2.0, 0.0],
            series: &[],
        },
        Case {
            name: "crlf",
            job: "",
            answer: text("a 1\r\n"),
            error: "invalid syntax",
            report: [0.0, 0.0, 0.0, 0.0],
            series: &[],
        },
        Case {
            name: "conflict",
            job: "",
            answer: text("a{job=\"own\"} 1\n"),
            error: "",
            report: [1.0, 1.0, 1.0, 1.0],
            series: &["a{exported_job=\"own\"} 1"],
        },
        Case {
            name: "relabel",
            job: "metric_relabel_configs: [{source_labels: [__name__], regex: 'go_.*', action: drop}]",
            answer: text("a 1\ngo_x 2\ngo_y 2\n"),
            error: "",
            report: [1.0, 3.0, 1.0, 1.0],
            series: &["a 1"],
        },
        Case {
            name: "sample-limit",
            job: "sample_limit: 2",
            answer: text("a 1\nb 1\nc 1\n"),
            error: "sample limit exceeded",
            report: [0.0, 3.0, 3.0, 0.0],
            series: &[],
        },
        Case {
            name: "sample-limit-met",
            job: "sample_limit: 2",
            answer: text("a 1\nb 1\n"),
            error: "",
            report: [1.0, 2.0, 2.0, 2.0],
            series: &["a 1", "b 1"],
        },
        Case {
            name: "label-limit",
            job: "label_limit: 4",
            answer: text("a 1\nb{c=\"1\",d=\"2\"} 1\n"),
            error: "label_limit exceeded (metric: b, number of labels: 5, limit: 4)",
            report: [0.0, 2.0, 1.0, 0.0],
            series: &[],
        },
        Case {
            name: "label-name",
            job: "label_name_length_limit: 8",
            answer: text("lb{name_long=\"1\"} 1\n"),
            error: "label_name_length_limit exceeded (metric: lb, label name: name_long, length: 9, limit: 8)",
            report: [0.0, 1.0, 0.0, 0.0],
            series: &[],
        },
        Case {
            name: "body-size",
            job: "body_size_limit: 10B",
            answer: text("a 12345\n\n\n"),
            error: "body size limit exceeded",
            report: [0.0, 0.0, 0.0, 0.0],
            series: &[],
        },
        Case {
            name: "far-future",
            job: "",
            answer: text("a 1 99999999999999\nb 1\n"),
            error: "",
            report: [1.0, 2.0, 2.0, 1.0],
            series: &["b 1"],
        },
        Case {
            name: "utf8-names",
            job: "",
            answer: text("{\"u.tf8\",\"a.b\"=\"c\"} 1\n"),
            error: "",
            report: [1.0, 1.0, 1.0, 1.0],
            series: &["u_tf8{a_b=\"c\"} 1"],
        },
        Case {
            name: "status",
            job: "",
            answer: response("500 Internal Server Error", TEXT, b"a 1\n"),
            error: "server returned HTTP status 500 Internal Server Error",
            report: [0.0, 0.0, 0.0, 0.0],
            series: &[],
        },
        Case {
            name: "blank-type",
            job: "",
            answer: response("200 OK", "", b"a 1\n"),
            error: "non-compliant scrape target sending blank Content-Type and no fallback_scrape_protocol",
            report: [0.0, 0.0, 0.0, 0.0],
            series: &[],
        },
        Case {
            name: "odd-type",
            job: "",
            answer: response("200 OK", "Content-Type: application/foo\r\n", b"a 1\n"),
            error: "received unsupported Content-Type \"application/foo\"",
            report: [0.0, 0.0, 0.0, 0.0],
            series: &[],
        },
        Case {
            name: "fallback",
            job: "fallback_scrape_protocol: PrometheusText0.0.4",
            answer: response("200 OK", "", b"a 1\n"),
            error: "",
            report: [1.0, 1.0, 1.0, 1.0],
            series: &["a 1"],
        },
        Case {
            name: "not-http",
            job: "",
            answer: b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(),
            error: "malformed HTTP",
            report: [0.0, 0.0, 0.0, 0.0],
            series: &[],
        },
        Case {
            name: "short-body",
            job: "",
            answer: closing("Content-Length: 50", b"a 1\nb 2\n"),
            error: "unexpected EOF",
            report: [0.0, 0.0, 0.0, 0.0],
            series: &[],
        },
        Case {
            name: "until-close",
            job: "",
            answer: closing("X-No-Length: 1", b"a 1\n"),
            error: "",
            report: [1.0, 1.0, 1.0, 1.0],
            series: &["a 1"],
        },
        Case {
            name: "chunked",
            job: "",
            answer: closing("Transfer-Encoding: chunked", b"2\r\na \r\n2\r\n1\n\r\n0\r\n\r\n"),
            error: "",
            report: [1.0, 1.0, 1.0, 1.0],
            series: &["a 1"],
        },
        Case {
            name: "bad-chunk",
            job: "",
            answer: closing("Transfer-Encoding: chunked", b"zz\r\na 1\n\r\n0\r\n\r\n"),
            error: "invalid",
            report: [0.0, 0.0, 0.0, 0.0],
            series: &[],
        },
    ]);
}

const OPEN_METRICS: &str = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";

#[test]
fn openmetrics_bodies_and_their_samples() {
    let open = |body: &str| response("200 OK", OPEN_METRICS, body.as_bytes());
    let good = |name, body, report, series| Case { name, job: "", answer: open(body), error: "", report, series };
    let bad = |name, body, error, scraped| {
        let report = [0.0, scraped, scraped, 0.0];
        Case { name, job: "", answer: open(body), error, report, series: &[] }
    };
    check(vec![
        good("empty", "", [1.0, 0.0, 0.0, 0.0], &[]),
        good("end-without-newline", "a 1\n# EOF", [1.0, 1.0, 1.0, 1.0], &["a 1"]),
        good(
            "types-and-exemplars",
            "# HELP c Text.\n# TYPE c counter\nc_total{a=\"1\"} 1 # {trace_id=\"abc\"} 0.5 1796029575.5\nc_created{a=\"1\"} \
             1796029575.5\n# TYPE h histogram\nh_bucket{le=\"1\"} 1 # {} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\nh_sum 3\n# EOF\n",
            [1.0, 6.0, 6.0, 6.0],
            &[
                "c_created{a=\"1\"} 1.7960295755e+09",
                "c_total{a=\"1\"} 1",
                "h_bucket{le=\"1.0\"} 1",
                "h_bucket{le=\"+Inf\"} 2",
                "h_count 2",
                "h_sum 3",
            ],
        ),
        good("duplicates", "a 1\na 2\n# EOF\n", [1.0, 2.0, 2.0, 1.0], &["a 1"]),
        good("far-past", "a 1 0\nb 1\n# EOF\n", [1.0, 2.0, 2.0, 1.0], &["b 1"]),
        good("old-version", "a 1\n# EOF\n", [1.0, 1.0, 1.0, 1.0], &["a 1"]),
        Case {
            name: "fallback",
            job: "fallback_scrape_protocol: OpenMetricsText0.0.1",
            answer: response("200 OK", "Content-Type: text/plain;;\r\n", b"a 1\n# EOF\n"),
            error: "",
            report: [1.0, 1.0, 1.0, 1.0],
            series: &["a 1"],
        },
        Case {
            name: "sample-limit",
            job: "sample_limit: 1",
            answer: open("a 1 # {k=\"1\"} 1\nb 1\n# EOF\n"),
            error: "sample limit exceeded",
            report: [0.0, 2.0, 2.0, 0.0],
            series: &[],
        },
        Case {
            name: "cannot-parse-type",
            job: "",
            answer: response("200 OK", "Content-Type: text/plain;;\r\n", b"a 1\n"),
            error: "cannot parse Content-Type \"text/plain;;\" and no fallback_scrape_protocol for target\nmime: invalid media",
            report: [0.0; 4],
            series: &[],
        },
        bad("no-end", "a 1\n", "data does not end with # EOF", 1.0),
        bad("behind-the-end", "a 1\n# EOF\n\n", "unexpected data after # EOF", 1.0),
        bad(
            "two-blanks",
            "a  1\n# EOF\n",
            "expected value after metric, got \"  \" (\"INVALID\") while parsing: \"a  \"",
            0.0,
        ),
        bad("blank-at-end", "a 1 \n# EOF\n", "expected a valid start token, got \"\\n#\" (\"LINEBREAK\")", 1.0),
        bad("untyped", "# TYPE a untyped\n# EOF\n", "invalid metric type \"untyped\"", 0.0),
        bad("unit", "# UNIT seconds seconds\n# EOF\n", "unit \"seconds\" not a suffix of metric \"seconds\"", 0.0),
    ]);
}

/// Values, exemplars and lines that change from scrape to scrape, and a target that changes its format.
#[test]
fn openmetrics_target_is_followed() {
    let body = |value: u32, more: &str| {
        let body = format!(
            "# TYPE c counter\n# UNIT c_seconds seconds\n# HELP c_seconds Time \\\"spent\\\".\nc_seconds_total {value} \
             # {{trace_id=\"{value}\"}} {value}\n{more}# EOF\n"
        );
        response("200 OK", OPEN_METRICS, body.as_bytes())
    };
    let target = FakeTarget::start(move |_| body(1, ""));
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    scraped(&server);
    assert_eq!(server.value("c_seconds_total"), Some(1.0));
    let warm = || server.metric("ringscrape_scans_total{kind=\"warm\"}").unwrap_or(0.0);
    let before = warm();
    target.now(move |_| body(2, ""));
    until("the new value", || (server.value("c_seconds_total") == Some(2.0)).then_some(()));
    until("the line is known", || (warm() >= before + 3.0).then_some(()));
    let metadata = server.api("/api/v1/targets/metadata?metric=c_seconds");
    assert_eq!((&metadata[0]["unit"], &metadata[0]["help"]), (&"seconds".into(), &"Time \"spent\".".into()));
    target.now(move |_| body(3, "d{x=\"y\"} 4 # {} 1\n"));
    until("the new line", || (server.value("d{x=\"y\"}") == Some(4.0)).then_some(()));
    target.now_says("c_seconds_total 5\n");
    until("text again", || (server.value("c_seconds_total") == Some(5.0)).then_some(()));
    assert_eq!(server.value("d{x=\"y\"}"), None, "d has ended");
    target.now(move |_| body(6, ""));
    until("OpenMetrics again", || (server.value("c_seconds_total") == Some(6.0)).then_some(()));
}

/// Exemplars of scrapes, with `--enable-feature=exemplar-storage`, are found by what selects their series.
#[test]
fn exemplars_are_kept_and_found() {
    let body = |trace: &str, time: &str| {
        let body = format!("a_total{{x=\"1\"}} 1 # {{trace_id=\"{trace}\"}} 0.5{time}\nb 2 # {{}} 3\nc 1\n# EOF\n");
        response("200 OK", OPEN_METRICS, body.as_bytes())
    };
    let target = FakeTarget::start(move |_| body("one", " 1796029656.125"));
    let config =
        format!("storage: {{exemplars: {{max_exemplars: 1000}}}}\n{}", config(&[job("j", &[target.address], "")]));
    let server = Ringscrape::start(&config, &["--enable-feature=exemplar-storage"]);
    let ask = |query: &str| server.api(&format!("/api/v1/query_exemplars?query={}", support::encode(query)));
    let found = until("the first exemplar", || Some(ask("rate(a_total[5m]) + c")).filter(|found| found[0].is_object()));
    let address = target.address.to_string();
    let labels = serde_json::json!({"__name__": "a_total", "x": "1", "instance": address, "job": "j"});
    let exemplar = serde_json::json!({"labels": {"trace_id": "one"}, "value": "0.5", "timestamp": 1796029656.125});
    assert_eq!(found, serde_json::json!([{"seriesLabels": labels, "exemplars": [exemplar]}]));
    assert_eq!(ask("b")[0]["exemplars"][0]["value"], "3");
    target.now(move |_| body("two", " 1796029657"));
    let found = until("the second", || {
        Some(ask("a_total")).filter(|found| found[0]["exemplars"].as_array().is_some_and(|all| all.len() == 2))
    });
    assert_eq!(found[0]["exemplars"][1]["labels"]["trace_id"], "two");
    target.now(move |_| body("three", " 1796029650"));
    until("an older one is refused", || {
        server.metric("prometheus_target_scrapes_exemplar_out_of_order_total").filter(|count| *count > 0.0)
    });
    assert_eq!(
        server.metric("prometheus_tsdb_exemplar_exemplars_in_storage"),
        Some(3.0),
        "those that stay are kept once"
    );
    assert_eq!(server.api("/api/v1/query_exemplars?query=a_total&start=1796029658"), serde_json::json!([]));
    assert_eq!(server.get("/api/v1/query_exemplars?query=1%2B1").status, 204);
    let refused = server.get("/api/v1/query_exemplars?query=a&start=2&end=1");
    assert!(refused.status == 400 && refused.body.contains("end timestamp must not be before start timestamp"));
}

fn protobuf_body(gauge: f64, observations: u64, claimed: u64) -> Vec<u8> {
    response("200 OK", support::protobuf::PAYLOAD_TYPE, &support::protobuf::payload(gauge, observations, claimed))
}

/// Protobuf with a native histogram, which is stored as such where the job wants it, and as a classic one otherwise.
#[test]
fn native_histograms_are_scraped() {
    let target = FakeTarget::start(|_| protobuf_body(1.0, 10, 10));
    let jobs = [
        job("native", &[target.address], "scrape_native_histograms: true"),
        job("classic", &[target.address], "scrape_protocols: [PrometheusProto]"),
    ];
    let receiver = Ringscrape::start("scrape_configs: []\n", &["--web.enable-remote-write-receiver"]);
    let endpoint = format!(
        "remote_write: [{{url: 'http://{}/api/v1/write', send_native_histograms: true, queue_config: {{batch_send_deadline: 100ms}}}}]\n",
        receiver.address
    );
    let mut server = Ringscrape::start(&(endpoint + &config(&jobs)), &[]);
    let count = |server: &Ringscrape| {
        let query = support::encode("histogram_count(h{job=\"native\",path=\"/\"})");
        let answer = server.api(&format!("/api/v1/query?query={query}"));
        answer["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    until("the histogram", || (count(&server).as_deref() == Some("10")).then_some(()));
    until("it is sent", || (count(&receiver).as_deref() == Some("10")).then_some(()));
    assert_eq!(server.value("g{job=\"native\"}"), Some(1.0));
    assert_eq!(server.value("h_count{job=\"native\"}"), None);
    until("the classic one", || (server.value("h_count{job=\"classic\"}") == Some(10.0)).then_some(()));
    assert_eq!(server.value("h_bucket{job=\"classic\",le=\"+Inf\"}"), Some(10.0));
    assert_eq!(server.value("scrape_samples_scraped{job=\"native\"}"), Some(2.0));
    let heads = target.requests.lock().unwrap();
    assert!(
        heads.iter().any(|(_, head)| head.contains("Accept: application/vnd.google.protobuf;proto=")),
        "asked first"
    );
    drop(heads);
    target.now(|_| protobuf_body(2.0, 14, 14));
    until("the next one", || (count(&server).as_deref() == Some("14")).then_some(()));
    target.now(|_| protobuf_body(3.0, 0, 0));
    until("the histogram ends", || count(&server).is_none().then_some(()));
    until("and where it is sent", || count(&receiver).is_none().then_some(()));
    until("the gauge goes on", || (server.value("g{job=\"native\"}") == Some(3.0)).then_some(()));
    target.now(|_| protobuf_body(4.0, 20, 21));
    let failed = until("one that contradicts itself", || {
        let mut targets = server.targets().into_iter();
        targets.find(|target| target["scrapePool"] == "native" && target["health"] == "down")
    });
    let error = failed["lastError"].as_str().unwrap().to_owned();
    assert!(error.contains("20 observations found in buckets, but the Count field is 21"), "{error}");
    assert_eq!(server.value("g{job=\"native\"}"), None, "a scrape is stored whole or not at all");
    target.now(|_| protobuf_body(5.0, 30, 30));
    until("it is back", || (count(&server).as_deref() == Some("30")).then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let least = |server: &Ringscrape| {
        let query = support::encode("min_over_time(histogram_count(h{job=\"native\",path=\"/\"})[5m:50ms])");
        let answer = server.get(&format!("/api/v1/query?query={query}"));
        let json: Value = serde_json::from_str(&answer.body).ok()?;
        json["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    assert_eq!(least(&server).as_deref(), Some("10"));
    server.restart(9, &[]);
    until("scrapes go on", || (server.metric("ringscrape_scrapes_total") >= Some(6.0)).then_some(()));
    until("it goes on", || (count(&server).as_deref() == Some("30")).then_some(()));
    until("it is read from the log", || (least(&server).as_deref() == Some("10")).then_some(()));
    target.now(|_| response("200 OK", "Content-Type: application/vnd.google.protobuf\r\n", b"a 1\n"));
    until("what is no protobuf", || {
        let mut targets = server.targets().into_iter();
        let text = "clientpb: insufficient length of buffer, expected at least 98 bytes, got 4 bytes";
        targets.find(|target| target["lastError"] == text)
    });
    until("all ends with it", || count(&server).is_none().then_some(()));
}

/// Classic histograms as native ones with their bounds, from text and protobuf, beside the classic ones or instead of them.
#[test]
fn classic_histograms_become_native_where_wanted() {
    let body = |counts: [u32; 3]| {
        let body = format!(
            "# TYPE h histogram\nh_bucket{{x=\"1\",le=\"0.5\"}} {}\nh_bucket{{x=\"1\",le=\"1\"}} {}\n\
             h_bucket{{x=\"1\",le=\"+Inf\"}} {}\nh_sum{{x=\"1\"}} 4\nh_count{{x=\"1\"}} {}\n# TYPE g gauge\ng 1\n",
            counts[0], counts[1], counts[2], counts[2]
        );
        response("200 OK", TEXT, body.as_bytes())
    };
    let target = FakeTarget::start(move |_| body([1, 3, 4]));
    let convert = "convert_classic_histograms_to_nhcb: true";
    let jobs = [
        job("instead", &[target.address], convert),
        job("beside", &[target.address], &format!("{convert}\nalways_scrape_classic_histograms: true")),
        job("limited", &[target.address], &format!("{convert}\nnative_histogram_bucket_limit: 2")),
        job(
            "dropped",
            &[target.address],
            &format!("{convert}\nmetric_relabel_configs: [{{source_labels: [__name__], regex: h, action: drop}}]"),
        ),
    ];
    let server = Ringscrape::start(&config(&jobs), &[]);
    let ask = |query: &str| {
        let answer = server.api(&format!("/api/v1/query?query={}", support::encode(query)));
        answer["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    for name in ["instead", "beside"] {
        let count = format!("histogram_count(h{{job=\"{name}\",x=\"1\"}})");
        until(name, || (ask(&count).as_deref() == Some("4")).then_some(()));
        let fraction = format!("histogram_fraction(0.5, 1, h{{job=\"{name}\"}})");
        assert_eq!(ask(&fraction).as_deref(), Some("0.5"), "{name}");
        assert_eq!(server.value(&format!("g{{job=\"{name}\"}}")), Some(1.0));
    }
    assert_eq!(server.value("h_count{job=\"instead\"}"), None);
    assert_eq!(server.value("h_bucket{job=\"beside\",le=\"1.0\"}"), Some(3.0));
    let report = |name: &str| {
        let value = |metric: &str| server.value(&format!("{metric}{{job=\"{name}\"}}")).unwrap();
        (value("up"), value("scrape_samples_scraped"), value("scrape_samples_post_metric_relabeling"))
    };
    assert_eq!(report("instead"), (1.0, 2.0, 2.0));
    assert_eq!(report("beside"), (1.0, 7.0, 7.0));
    let limited = until("too many buckets", || {
        server.targets().into_iter().find(|target| target["scrapePool"] == "limited" && target["health"] == "down")
    });
    assert_eq!(limited["lastError"], "histogram bucket limit exceeded");
    assert!(server.metric("prometheus_target_scrapes_exceeded_native_histogram_bucket_limit_total") >= Some(1.0));
    until("a scrape", || server.value("up{job=\"dropped\"}"));
    assert_eq!(report("dropped"), (1.0, 2.0, 1.0), "rules see the native histogram");
    target.now(move |_| body([1, 3, 9]));
    until("the next one", || (ask("histogram_count(h{job=\"instead\"})").as_deref() == Some("9")).then_some(()));
    target.now_says("# TYPE g gauge\ng 2\n");
    until("it has ended", || ask("histogram_count(h{job=\"instead\"})").is_none().then_some(()));
    // One that cannot be converted stays classic.
    target.now(move |_| body([3, 1, 4]));
    until("classic", || (server.value("h_count{job=\"instead\"}") == Some(4.0)).then_some(()));
}

/// Python's client library, in both formats. Needs python3-prometheus-client (`make test-deps`).
#[test]
fn client_library_of_python_is_scraped() {
    const SCRIPT: &str = r#"
import sys, time
from prometheus_client import Counter, Gauge, Histogram, Summary, Info, Enum, start_http_server
c = Counter("work", "Work \"done\".\nTwo lines.", ["kind"], unit="seconds")
c.labels("a\\b").inc(2.5, exemplar={"trace_id": "abc123"})
g = Gauge("temperature", "Now.")
g.set(-3.5)
h = Histogram("latency_seconds", "Latency.", buckets=[0.1, 1, 10])
h.observe(0.5, {"trace_id": "def"})
s = Summary("size", "Sizes.")
s.observe(7)
Info("build", "Build.").info({"version": "1"})
Enum("state", "State.", states=["on", "off"]).state("on")
start_http_server(int(sys.argv[1]), addr="127.0.0.1")
print("ready", flush=True)
time.sleep(600)
"#;
    use std::io::BufRead;
    use std::process::{Command, Stdio};
    // Debian's, which has Debian's library.
    const PYTHON: &str = "/usr/bin/python3";
    let has_library = Command::new(PYTHON).args(["-c", "import prometheus_client"]).output();
    if !has_library.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "python3-prometheus-client is missing; run scripts/test-deps");
        eprintln!("skipped: python3-prometheus-client is not installed; run scripts/test-deps");
        return;
    }
    let address = support::free("127.0.0.1");
    let port = address.port().to_string();
    let mut child = Command::new(PYTHON).args(["-c", SCRIPT, &port]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let jobs = [
        job("open", &[address], "scrape_protocols: [OpenMetricsText1.0.0]"),
        job("default", &[address], ""),
        job("text", &[address], "scrape_protocols: [PrometheusText0.0.4]"),
    ];
    let server = Ringscrape::start(&config(&jobs), &[]);
    for name in ["open", "default", "text"] {
        until(name, || (server.value(&format!("up{{job=\"{name}\"}}")) == Some(1.0)).then_some(()));
        let value = |series: &str| server.value(&series.replace('}', &format!(",job=\"{name}\"}}")));
        assert_eq!(value(r#"work_seconds_total{kind="a\\b"}"#), Some(2.5), "{name}");
        assert_eq!(value(r#"temperature{x=""}"#), Some(-3.5), "{name}");
        assert_eq!(value(r#"latency_seconds_bucket{le="1.0"}"#), Some(1.0), "{name}");
        assert_eq!(value(r#"latency_seconds_sum{x=""}"#), Some(0.5), "{name}");
        assert_eq!(value(r#"size_sum{x=""}"#), Some(7.0), "{name}");
        assert_eq!(value(r#"build_info{version="1"}"#), Some(1.0), "{name}");
        assert_eq!(value(r#"state{state="on"}"#), Some(1.0), "{name}");
    }
    child.kill().unwrap();
    let _ = child.wait();
}

#[test]
fn request_carries_prometheus_headers() {
    let target = FakeTarget::saying("a 1\n");
    let extra = "scrape_interval: 300ms\nscrape_timeout: 250ms\nparams: {x: ['1', '2'], a: ['b c']}\nmetrics_path: /m";
    let server = Ringscrape::start(&config(&[job("j", &[target.address], extra)]), &[]);
    scraped(&server);
    let head = target.requests.lock().unwrap()[0].1.to_lowercase();
    assert!(head.starts_with("get /m?a=b+c&x=1&x=2 http/1.1\r\n"), "{head}");
    for header in [
        &format!("host: {}\r\n", target.address),
        "accept-encoding: gzip\r\n",
        "x-prometheus-scrape-timeout-seconds: 0.25\r\n",
        "accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
         application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
         text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n",
    ] {
        assert!(head.contains(header), "{header:?} is missing in {head}");
    }
}

#[test]
fn honor_labels_keeps_what_the_target_says() {
    let target = FakeTarget::saying("a{job=\"theirs\",instance=\"\"} 1\n");
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "honor_labels: true")]), &[]);
    scraped(&server);
    let lines = server.federate("a");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("a{job=\"theirs\",instance=\"\"} 1 "), "{lines:?}");
}

#[test]
fn series_that_vanish_go_stale_and_come_back() {
    let target = FakeTarget::saying("a 1\nb 2\n");
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    scraped(&server);
    assert_eq!(server.value("b"), Some(2.0));
    target.now_says("a 3\n");
    until("b goes stale", || server.value("b").is_none().then_some(()));
    until("a is 3", || (server.value("a") == Some(3.0)).then_some(()));
    target.now_says("a 1\nb 4\n");
    until("b comes back", || (server.value("b") == Some(4.0)).then_some(()));
}

#[test]
fn failed_scrape_ends_every_series_even_those_before_the_fault() {
    let target = FakeTarget::saying("a 1\nb 2\n");
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    scraped(&server);
    assert_eq!(server.federate("{__name__=~\"a|b\"}").len(), 2);
    target.now_says("a 1\n7\n");
    until("the target is down", || (server.value("up") == Some(0.0)).then_some(()));
    assert_eq!(server.federate("{__name__=~\"a|b\"}"), Vec::<String>::new());
    target.now_says("a 1\nb 2\n");
    until("the target is up", || (server.value("up") == Some(1.0)).then_some(()));
    assert_eq!(server.federate("{__name__=~\"a|b\"}").len(), 2);
}

#[test]
fn explicit_timestamps_are_kept_and_repeats_are_no_samples() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let target = FakeTarget::saying(&format!("a 1 {}\nb 2\n", now - 30_000));
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    scraped(&server);
    let line = server.federate("a").remove(0);
    assert!(line.ends_with(&format!(" {}", now - 30_000)), "{line}");
    target.now_says(&format!("a 5 {}\nb 2\n", now - 60_000));
    until("an older timestamp is refused and counted", || {
        server.metric("prometheus_target_scrapes_sample_out_of_order_total").filter(|count| *count > 0.0)
    });
    assert_eq!(server.value("a"), Some(1.0));
    target.now_says(&format!("a 5 {now}\nb 2\n"));
    until("a newer one is taken", || (server.value("a") == Some(5.0)).then_some(()));
}

#[test]
fn hung_target_fails_at_its_deadline_and_scrapes_never_overlap() {
    let hung = FakeTarget::start(|_| {
        std::thread::sleep(std::time::Duration::from_secs(2));
        ok("a 1\n")
    });
    let good = FakeTarget::saying("a 1\n");
    let jobs = [job("hung", &[hung.address], "scrape_timeout: 200ms"), job("good", &[good.address], "")];
    let server = Ringscrape::start(&config(&jobs), &[]);
    until("the hung target is down", || (server.value("up{job=\"hung\"}") == Some(0.0)).then_some(()));
    let target = server.targets().into_iter().find(|target| target["scrapePool"] == "hung").unwrap();
    let want = format!("Get \"http://{}/metrics\": context deadline exceeded", hung.address);
    assert_eq!(target["lastError"], want);
    until("ten good scrapes", || (good.request_count() >= 10).then_some(()));
    let seen = hung.request_count();
    assert!((4..=14).contains(&seen), "one attempt a tick, like the good target: {seen}");
    assert_eq!(server.value("up{job=\"good\"}"), Some(1.0));
}

#[test]
fn refused_connection_is_down_with_the_words_of_go() {
    let free = support::free("127.0.0.1");
    let server = Ringscrape::start(&config(&[job("j", &[free], "")]), &[]);
    let error = scraped(&server)["lastError"].as_str().unwrap().to_owned();
    assert_eq!(error, format!("Get \"http://{free}/metrics\": dial tcp {free}: connect: connection refused"));
    assert_eq!(server.value("up"), Some(0.0));
}

#[test]
fn connection_is_kept_between_scrapes() {
    let target = FakeTarget::saying("a 1\n");
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    until("five scrapes", || (target.request_count() >= 5).then_some(()));
    assert_eq!(server.metric("ringscrape_connections_opened_total"), Some(1.0));
}

#[test]
fn redirect_is_followed_unless_the_job_says_no() {
    let place = FakeTarget::saying("a 1\n");
    let to = place.address;
    let away = FakeTarget::start(move |_| {
        format!("HTTP/1.1 302 Found\r\nLocation: http://{to}/metrics\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    let jobs = [job("yes", &[away.address], ""), job("no", &[away.address], "follow_redirects: false")];
    let server = Ringscrape::start(&config(&jobs), &[]);
    until("followed", || (server.value("up{job=\"yes\"}") == Some(1.0)).then_some(()));
    until("not followed", || (server.value("up{job=\"no\"}") == Some(0.0)).then_some(()));
    assert_eq!(server.federate("a").len(), 1);
}

#[test]
fn metadata_is_kept() {
    let target = FakeTarget::saying("# HELP a What a is.\n# TYPE a counter\na 1\n");
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    scraped(&server);
    assert_eq!(server.api("/api/v1/metadata")["a"][0]["type"], "counter");
    assert_eq!(server.api("/api/v1/metadata")["a"][0]["help"], "What a is.");
    let of_targets = server.api("/api/v1/targets/metadata?metric=a");
    assert_eq!(of_targets[0]["target"]["job"], "j");
}

#[test]
fn extra_scrape_metrics_are_written_when_asked_for() {
    let target = FakeTarget::saying("a 1\n");
    let extra = "extra_scrape_metrics: true\nsample_limit: 7";
    let server = Ringscrape::start(&config(&[job("j", &[target.address], extra)]), &[]);
    scraped(&server);
    assert_eq!(server.value("scrape_sample_limit"), Some(7.0));
    assert_eq!(server.value("scrape_body_size_bytes"), Some(4.0));
    assert_eq!(server.value("scrape_timeout_seconds"), Some(0.2));
}
