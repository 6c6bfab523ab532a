//! Questions asked over HTTP: answered like Prometheus answers them, within limits, from memory and from blocks.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use support::{FakeTarget, Prometheus, Ringscrape, config, encode, job, request, request_with_body, until};

const SIGKILL: i32 = 9;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

// --- beside Prometheus ----------------------------------------------------------------------------------------------

const SAMPLES: i64 = 160;
const INTERVAL: i64 = 15;

/// The value of a series at its i-th sample.
type At = Box<dyn Fn(i64) -> Option<f64>>;

/// Counters with resets, gauges with gaps, classic histograms, special values: OpenMetrics text from `start` on.
fn corpus(start: i64) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, series: &[(String, At)]| {
        text += &format!("# TYPE {name} {kind}\n");
        for (series, value) in series {
            for i in 0..SAMPLES {
                if let Some(value) = value(i) {
                    text += &format!("{series} {value} {}\n", start + i * INTERVAL);
                }
            }
        }
    };
    let mut requests: Vec<(String, At)> = Vec::new();
    for (host, code) in [("a", 200), ("a", 500), ("b", 200), ("b", 404), ("c", 200)] {
        let slope = f64::from(code) / 100.0 + f64::from(host.as_bytes()[0] - b'a');
        let reset = 40 + i64::from(code) / 10;
        let value = move |i: i64| Some(((i % reset) as f64 * slope).floor());
        requests.push((format!("requests_total{{host=\"{host}\",code=\"{code}\"}}"), Box::new(value)));
    }
    family("requests", "counter", &requests);
    let mut loads: Vec<(String, At)> = Vec::new();
    for (n, host) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let n = n as i64;
        let value = move |i: i64| {
            let gap = n == 1 && (30..70).contains(&i);
            (!gap).then(|| ((i * 7 + n * 13) % 23) as f64 / 4.0 - 2.0)
        };
        loads.push((format!("load{{host=\"{host}\",zone=\"{}\"}}", ["x", "y"][n as usize % 2]), Box::new(value)));
    }
    family("load", "gauge", &loads);
    let mut buckets: Vec<(String, At)> = Vec::new();
    for host in ["a", "b"] {
        for (n, le) in ["0.1", "0.5", "1.0", "5.0", "+Inf"].into_iter().enumerate() {
            let share = (n + 1) as f64 * if host == "a" { 1.5 } else { 2.5 };
            let series = format!("latency_seconds_bucket{{host=\"{host}\",le=\"{le}\"}}");
            buckets.push((series, Box::new(move |i: i64| Some((i as f64 * share).floor()))));
        }
        let top = 5.0 * if host == "a" { 1.5 } else { 2.5 };
        buckets.push((
            format!("latency_seconds_count{{host=\"{host}\"}}"),
            Box::new(move |i: i64| Some((i as f64 * top).floor())),
        ));
        buckets.push((format!("latency_seconds_sum{{host=\"{host}\"}}"), Box::new(|i: i64| Some(i as f64 * 0.75))));
    }
    family("latency_seconds", "histogram", &buckets);
    let info = |host: &str, zone: &str| {
        (format!("node_info{{host=\"{host}\",zone=\"{zone}\"}}"), Box::new(|_: i64| Some(1.0)) as At)
    };
    family("node_info", "gauge", &[info("a", "x"), info("b", "y"), info("c", "x")]);
    text + "# EOF\n"
}

/// Several hundred queries: every function, operator, aggregation and modifier that Prometheus 2.42 knows as we do.
fn queries() -> Vec<String> {
    let mut all = Vec::new();
    let mut push = |query: String| all.push(query);
    for selector in [
        "load",
        "load{host=\"a\"}",
        "load{host!=\"a\"}",
        "{host=~\"a|b\",__name__=\"load\"}",
        "load{zone!~\"x\"}",
        "requests_total",
        "load offset 2m",
        "load offset -2m",
        "{__name__=~\"load|node_info\",host=\"a\"}",
        "nothing",
        "load @ end()",
        "load @ start() offset 1m",
    ] {
        push(selector.into());
        push(format!("sum({selector})"));
        push(format!("count by (host) ({selector})"));
    }
    for function in [
        "abs",
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "ceil",
        "cos",
        "cosh",
        "deg",
        "exp",
        "floor",
        "ln",
        "log10",
        "log2",
        "rad",
        "sgn",
        "sin",
        "sinh",
        "sqrt",
        "tan",
        "tanh",
        "absent",
        "day_of_month",
        "day_of_week",
        "day_of_year",
        "days_in_month",
        "hour",
        "minute",
        "month",
        "year",
        "timestamp",
        "round",
    ] {
        push(format!("{function}(load)"));
        push(format!("max({function}(requests_total))"));
    }
    for function in [
        "rate",
        "increase",
        "delta",
        "irate",
        "idelta",
        "deriv",
        "changes",
        "resets",
        "avg_over_time",
        "min_over_time",
        "max_over_time",
        "sum_over_time",
        "count_over_time",
        "stddev_over_time",
        "stdvar_over_time",
        "last_over_time",
        "present_over_time",
        "absent_over_time",
    ] {
        for range in ["1m5s", "7m3s", "31m"] {
            push(format!("{function}(requests_total[{range}])"));
            push(format!("{function}(load[{range}] offset 3m)"));
            push(format!("sum by (host) ({function}(requests_total[{range}]))"));
        }
        // Before version 3, rates whose first sample is far from the beginning of the range reached to the zero of a
        // counter. Those of selectors begin at zero here.
        if !matches!(function, "rate" | "increase") {
            push(format!("{function}(requests_total[10m1s:1m])"));
        }
        push(format!("max_over_time({function}(requests_total[3m1s])[8m11s:30s])"));
        push(format!("avg without (code) ({function}(requests_total[5m1s]))"));
    }
    for op in ["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"] {
        for grouping in ["", " by (host)", " by (zone, host)", " without (host)", " by (none)"] {
            push(format!("{op}{grouping} (load)"));
            push(format!("{op}{grouping} ({{__name__=~\"load|requests_total\"}})"));
        }
    }
    for query in [
        "topk(2, load)",
        "bottomk(2, load)",
        "topk by (zone) (1, load)",
        "quantile(0.3, load)",
        "quantile by (zone) (0.9, load)",
        "count_values(\"v\", floor(load))",
        "quantile_over_time(0.4, load[5m1s])",
        "predict_linear(load[5m1s], 600)",
        "clamp(load, -1, 1)",
        "clamp_min(load, 0)",
        "clamp_max(load, 0)",
        "round(load, 0.5)",
        "scalar(sum(load))",
        "vector(3)",
        "time()",
        "pi()",
        "sort(load)",
        "sort_desc(load)",
        "label_replace(load, \"dst\", \"$1-x\", \"host\", \"(.)\")",
        "label_join(load, \"dst\", \"-\", \"host\", \"zone\")",
        "histogram_quantile(0.5, latency_seconds_bucket)",
        "histogram_quantile(0.95, rate(latency_seconds_bucket[5m1s]))",
        "histogram_quantile(0.5, sum by (le) (rate(latency_seconds_bucket[5m1s])))",
        "rate(latency_seconds_sum[5m1s]) / rate(latency_seconds_count[5m1s])",
        "load * on (host) group_left (zone) node_info",
        "node_info * on (host) group_right () load",
        "sum by (host) (rate(requests_total{code=~\"5..|4..\"}[5m1s])) / sum by (host) (rate(requests_total[5m1s]))",
        "load and on (host) node_info",
        "load unless on (host) node_info",
        "load or node_info",
        "load{host=\"a\"} or load{host=\"b\"}",
        "-load",
        "+load",
        "(load + 1) * 2 ^ 2 % 5",
        "(load atan2 load) * 1",
        "1 + 2 * 3",
        "max_over_time(load[10m1s]) - min_over_time(load[10m1s])",
        "sum(load) > 1",
        "load > bool 0",
        "0 < load",
        "load == load",
        "load != bool 2",
        "load >= 0 <= 2",
        "requests_total - requests_total offset 5m1s",
        "absent(nothing{a=\"b\"})",
        "absent_over_time(nothing{a=\"b\"}[5m])",
        "\"text\"",
        "load{host=\"a\"}[2m1s]",
        "count(requests_total) by (code) * 2",
        "sum(sum by (host) (load))",
        "avg_over_time(sum(load)[5m1s:15s])",
    ] {
        push(query.into());
    }
    all
}

/// Type of the result, and points by labels.
type Comparable = (String, BTreeMap<String, Vec<(f64, f64)>>);

/// The answer in an order and with values that can be compared.
fn comparable(body: &str) -> Result<Comparable, String> {
    let json: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
    if json["status"] != "success" {
        return Err(json["errorType"].to_string());
    }
    let kind = json["data"]["resultType"].as_str().unwrap_or_default().to_owned();
    let point = |point: &Value| {
        let text = point[1].as_str().unwrap_or_default();
        (point[0].as_f64().unwrap_or_default(), text.parse().unwrap_or_else(|_| f64::from(text.len() as u32)))
    };
    let mut series = BTreeMap::new();
    match json["data"]["result"].as_array() {
        Some(result) if !matches!(kind.as_str(), "scalar" | "string") => {
            for one in result {
                let points = match one.get("values") {
                    Some(values) => values.as_array().unwrap().iter().map(point).collect(),
                    None => vec![point(&one["value"])],
                };
                series.insert(one["metric"].to_string(), points);
            }
        }
        _ => drop(series.insert(String::new(), vec![point(&json["data"]["result"])])),
    }
    Ok((kind, series))
}

fn near(one: f64, other: f64) -> bool {
    one == other
        || (one.is_nan() && other.is_nan())
        || (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1e-3)
}

fn difference(ours: &str, theirs: &str) -> Option<String> {
    let (ours, theirs) = match (comparable(ours), comparable(theirs)) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (ours, theirs) if ours == theirs => return None,
        (ours, theirs) => return Some(format!("we {ours:?}, they {theirs:?}")),
    };
    if ours.0 != theirs.0 || !ours.1.keys().eq(theirs.1.keys()) {
        return Some(format!("we {} {:?}, they {} {:?}", ours.0, ours.1.keys(), theirs.0, theirs.1.keys()));
    }
    for ((labels, ours), theirs) in ours.1.iter().zip(theirs.1.values()) {
        let same = |(a, b): (&(f64, f64), &(f64, f64))| a.0 == b.0 && near(a.1, b.1);
        if ours.len() != theirs.len() || !ours.iter().zip(theirs).all(same) {
            return Some(format!("{labels}: we {ours:?}, they {theirs:?}"));
        }
    }
    None
}

#[test]
fn answers_are_those_of_prometheus() {
    let folder = tempfile::tempdir().unwrap();
    // Times at which no sample lies: Prometheus 2 and 3 differ in what belongs to the left end of a range.
    // Steps of subqueries are multiples of their length, so no sample may lie at a multiple of its interval.
    let start = (now() - SAMPLES * INTERVAL - 180).div_euclid(60) * 60 + 7;
    let input = folder.path().join("input.txt");
    std::fs::write(&input, corpus(start)).unwrap();
    let yaml = config(&[]);
    std::fs::write(folder.path().join("prometheus.yml"), &yaml).unwrap();
    for data in ["data", "theirs"] {
        let made = Command::new("promtool")
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([input.as_path(), &folder.path().join(data)])
            .output()
            .expect("promtool is installed: make test-deps");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let prometheus = Prometheus::start(
        &folder.path().join("prometheus.yml"),
        &folder.path().join("theirs"),
        &["--enable-feature=promql-at-modifier,promql-negative-offset"],
    );
    let server = Ringscrape::start_in(folder, &[]);
    server.until_ready();
    let mut differences = Vec::new();
    let queries = queries();
    assert!(queries.len() > 400, "only {} queries", queries.len());
    // Subqueries are evaluated at multiples of their step, so no range may end at a multiple of a second.
    let (from, to) = (start + 2, start + SAMPLES * INTERVAL - 300);
    for query in &queries {
        let text = encode(query);
        let instant = [from + 950, from + 1703, to].map(|time| format!("/api/v1/query?query={text}&time={time}.4"));
        let range = format!("/api/v1/query_range?query={text}&start={from}.4&end={to}.4&step=73");
        for path in instant.into_iter().chain([range]) {
            let ours = server.get(&path).body;
            let theirs = request(prometheus.address, "GET", &path, &[]).body;
            if let Some(difference) = difference(&ours, &theirs) {
                differences.push(format!("{query}\n  {path}\n  {difference:.600}"));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {}:\n{}",
        differences.len(),
        queries.len() * 4,
        differences[..differences.len().min(25)].join("\n")
    );
}

// --- memory, and the cores that own it ------------------------------------------------------------------------------

#[test]
fn aggregations_are_the_same_on_the_cores_and_over_whole_series() {
    let targets: Vec<FakeTarget> = (0..6)
        .map(|n| {
            FakeTarget::saying(&format!(
                "# TYPE a_total counter\na_total{{kind=\"x\"}} {n}\na_total{{kind=\"y\"}} {}\nb{{kind=\"x\"}} -{n}\n",
                n * 10
            ))
        })
        .collect();
    let addresses: Vec<_> = targets.iter().map(|target| target.address).collect();
    let flags = ["--shards=2", "--web.enable-admin-api"];
    let mut server = Ringscrape::start(&config(&[job("j", &addresses, "")]), &flags);
    until("ten samples", || {
        let data = server.api(&format!("/api/v1/query?query={}", encode("min(count_over_time(a_total[1m]))")));
        let count: f64 = data["result"][0]["value"][1].as_str()?.parse().ok()?;
        (count >= 10.0).then_some(())
    });
    let seconds_now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let number = |server: &Ringscrape, query: &str| -> Option<f64> {
        let data = server.api(&format!("/api/v1/query?query={}", encode(query)));
        data["result"][0]["value"][1].as_str()?.parse().ok()
    };
    let mut time = seconds_now();
    // With all samples in memory; with those of before a snapshot in chunks; across a restart, before heads have taken the
    // newest rows of before, and after it.
    for place in ["memory", "chunks", "restart", "recalled"] {
        match place {
            "restart" => {
                server.restart(SIGKILL, &flags);
                server.until_ready();
                until("new samples", || (number(&server, "min(count_over_time(up[1s]))")? >= 2.0).then_some(()));
                time = seconds_now();
            }
            "recalled" => {
                let taken = "newest rows of the last run are in memory again";
                until("both cores have taken rows", || (server.log().matches(taken).count() == 2).then_some(()));
            }
            _ => {}
        }
        for inner in [
            "a_total",
            "rate(a_total[20s])",
            "max_over_time(a_total[5s])",
            "{__name__=~\"a_total|b\"}",
            "count_over_time(b[7s])",
        ] {
            for outer in ["sum", "avg", "count", "min", "max", "group"] {
                for grouping in ["", "by (kind)", "by (instance, kind)", "without (instance)", "by (__name__)"] {
                    // A sum of a product with one is no aggregation that the cores know.
                    let plain = format!("{outer} {grouping} ({inner})");
                    let whole = format!("{outer} {grouping} (label_replace({inner}, \"none\", \"\", \"none\", \"\"))");
                    for range in
                        [format!("query?time={time}"), format!("query_range?start={}&end={time}&step=1", time - 5.0)]
                    {
                        let ask = |query: &str| server.get(&format!("/api/v1/{range}&query={}", encode(query))).body;
                        assert_eq!(difference(&ask(&plain), &ask(&whole)), None, "{plain} {range}, {place}");
                    }
                }
            }
        }
        // Many at once share the reading: over the same and other slots, over the same and other times.
        let parts = [
            "sum by (kind) (rate(a_total[20s]))",
            "sum(rate(a_total{kind=\"x\"}[20s]))",
            "sum by (instance) (rate(a_total[20s]))",
            "max by (instance) (a_total)",
            "count(count_over_time(b[7s]))",
            "sum(nothing)",
            "min(rate({__name__=\"a_total\",kind=~\"x|z\"}[20s]))",
            "avg without (instance) (max_over_time(a_total[5s]))",
        ];
        let ask = |expr: &str| {
            let data = server.api(&format!("/api/v1/query?time={time}&query={}", encode(expr)));
            data["result"].as_array().unwrap().clone()
        };
        let named = |(i, part): (usize, &&str)| format!("label_replace({part}, \"part\", \"{i:02}\", \"\", \"\")");
        let alone: Vec<_> = parts.iter().enumerate().flat_map(|part| ask(&named(part))).collect();
        let together: Vec<String> = parts.iter().enumerate().map(named).collect();
        let together = ask(&together.join(" or "));
        let sorted = |elements: &[serde_json::Value]| {
            let mut texts: Vec<String> = elements.iter().map(serde_json::Value::to_string).collect();
            texts.sort();
            texts
        };
        assert!(alone.len() > 18);
        assert_eq!(sorted(&together), sorted(&alone), "{place}");
        if place == "memory" {
            assert_eq!(server.post("/api/v1/admin/tsdb/snapshot").status, 200);
        }
    }
    // Names that a function takes away may leave two series that are one.
    let both = server.get(&format!("/api/v1/query?query={}", encode("sum(rate({__name__=~\"a_total|b\"}[20s]))")));
    assert_eq!(both.status, 422, "{}", both.body);
    assert!(both.body.contains("vector cannot contain metrics with the same labelset"), "{}", both.body);
}

#[test]
fn one_series_from_two_targets_counts_once() {
    let targets = [
        FakeTarget::saying("m{instance=\"hub\",job=\"edge\"} 5\n"),
        FakeTarget::saying("m{instance=\"hub\",job=\"edge\"} 5\n"),
    ];
    let addresses: Vec<_> = targets.iter().map(|target| target.address).collect();
    let server = Ringscrape::start(&config(&[job("j", &addresses, "honor_labels: true")]), &["--shards=2"]);
    let value = |query: &str| {
        let data = server.api(&format!("/api/v1/query?query={}", encode(query)));
        data["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    until("both are up", || (value("sum(up)")? == "2").then_some(()));
    until("the series is there", || (value("count(m)")? == "1").then_some(()));
    assert_eq!(value("sum(m)"), Some("5".into()));
}

// --- limits and errors ----------------------------------------------------------------------------------------------

#[test]
fn limits_end_queries_with_prometheus_errors() {
    let target = FakeTarget::saying(&(0..50).map(|n| format!("m{{n=\"{n}\"}} {n}\n")).collect::<String>());
    let server = Ringscrape::start(
        &config(&[job("j", &[target.address], "")]),
        &["--query.max-samples=400", "--query.timeout=1s", "--query.max-concurrency=1"],
    );
    until("it is scraped", || {
        let data = server.api("/api/v1/query?query=count(m)");
        (data["result"][0]["value"][1] == "50").then_some(())
    });
    let time = now();
    let too_many = "query processing would load too many samples into memory in query execution";
    for (path, status, kind, text) in [
        (
            "query?query=m%2B".to_owned(),
            400,
            "bad_data",
            "invalid parameter \"query\": 1:3: parse error: unexpected end of input",
        ),
        (
            "query?query=rate(m)".into(),
            400,
            "bad_data",
            "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector",
        ),
        (
            "query?query=m&time=x".into(),
            400,
            "bad_data",
            "invalid parameter \"time\": invalid time value for 'time': cannot parse \"x\" to a valid timestamp",
        ),
        (
            "query_range?query=m&start=x&end=1&step=1".into(),
            400,
            "bad_data",
            "invalid parameter \"start\": cannot parse \"x\" to a valid timestamp",
        ),
        ("query?query=topk(Inf,m)".into(), 422, "execution", "Scalar value +Inf overflows int64"),
        (
            "query?query=m&timeout=x".into(),
            400,
            "bad_data",
            "invalid parameter \"timeout\": cannot parse \"x\" to a valid duration",
        ),
        (
            format!("query_range?query=m&start={time}&end={}&step=1", time - 1),
            400,
            "bad_data",
            "end timestamp must not be before start time",
        ),
        (
            format!("query_range?query=m&start={}&end={time}&step=0", time - 1),
            400,
            "bad_data",
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ),
        (
            format!("query_range?query=m&start={}&end={time}&step=1", time - 11_001),
            400,
            "bad_data",
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ),
        (
            format!("query_range?query=m[5m]&start={}&end={time}&step=1", time - 10),
            400,
            "bad_data",
            "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector",
        ),
        (format!("query_range?query=-m&start={time}&end={}&step=1", time + 60), 422, "execution", too_many),
        (format!("query_range?query=time()&start={}&end={time}&step=1", time - 600), 422, "execution", too_many),
        ("query?query=sum_over_time(vector(1)[100y:1ms])".into(), 400, "bad_data", "steps"),
        ("query?query=holt(m)".into(), 400, "bad_data", "unknown function with name \"holt\""),
        ("query?query=topk(NaN,m)".into(), 422, "execution", "Parameter value is NaN"),
        ("query?query=sort_by_label(m,\"n\")".into(), 400, "bad_data", "function \"sort_by_label\" is not enabled"),
    ] {
        let answer = server.get(&format!("/api/v1/{}", path.replace('"', "%22")));
        let json: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, &json["errorType"]), (status, &json!(kind)), "{path}: {}", answer.body);
        let error = json["error"].as_str().unwrap();
        assert!(error.contains(text), "{path}: {error}");
    }
    // Times that are none, or further than samples can be.
    for at in ["NaN", "-Inf", "1e300"] {
        assert_eq!(server.api(&format!("/api/v1/query?query=m&time={at}"))["result"], json!([]), "{at}");
    }
    let bounds = "start=-292273086-05-16T16:47:06Z&end=292277025-08-18T07:12:54.999999999Z";
    assert_eq!(server.api(&format!("/api/v1/series?match[]=m&{bounds}")).as_array().unwrap().len(), 50);
    // What a form says goes before what the address says.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let answer = request_with_body(server.address, "POST", "/api/v1/query?query=m", &form, b"query=count(m)");
    let counted: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(counted["data"]["result"][0]["value"][1], "50");
    // Browsers ask before they send; without an origin that may, the answer has no leave in it.
    let answer = request(server.address, "OPTIONS", "/api/v1/query", &[("Origin", "http://other.example")]);
    assert_eq!(answer.status, 204);
    assert!(!answer.head.to_lowercase().contains("access-control-allow-origin"), "{}", answer.head);
    // The server lives, and limits what it shows when asked.
    let limited: Value = serde_json::from_str(&server.get("/api/v1/query?query=m&limit=3").body).unwrap();
    assert_eq!(limited["data"]["result"].as_array().unwrap().len(), 3);
    assert_eq!(limited["warnings"], json!(["results truncated due to limit"]));
    let stats: Value = serde_json::from_str(&server.get("/api/v1/query?query=m&stats=all").body).unwrap();
    assert_eq!(stats["data"]["stats"]["samples"]["totalQueryableSamples"], 50);
}

// --- what Grafana asks ----------------------------------------------------------------------------------------------

#[test]
fn grafana_session() {
    let target = FakeTarget::saying(
        "# HELP hits_total Hits.\n# TYPE hits_total counter\nhits_total{code=\"200\"} 5\nodd{text=\"a\\\"b\\nc\"} 1e21\n",
    );
    let server = Ringscrape::start(
        &config(&[job("j", &[target.address], "")]),
        &["--enable-feature=promql-experimental-functions"],
    );
    until("it is scraped", || (!server.federate("hits_total").is_empty()).then_some(()));
    let time = now() + 1;
    assert_eq!(server.api("/api/v1/status/buildinfo")["application"], "ringscrape");
    assert_eq!(server.api("/api/v1/rules"), json!({"groups": []}));
    assert_eq!(server.api("/api/v1/alerts"), json!({"alerts": []}));
    let alertmanagers = server.api("/api/v1/alertmanagers");
    assert_eq!(
        (&alertmanagers["activeAlertmanagers"], &alertmanagers["droppedAlertmanagers"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(
        server.api(&format!("/api/v1/query_exemplars?query=hits_total&start={}&end={time}", time - 60)),
        json!([])
    );
    assert_eq!(server.api("/api/v1/features")["promql_functions"]["sort_by_label"], true);
    let selector = encode("{__name__!=\"\"}");
    let names = server
        .api(&format!("/api/v1/label/__name__/values?match[]={selector}&start={}&end={time}&limit=40000", time - 60));
    assert!(names.as_array().unwrap().contains(&json!("hits_total")), "{names}");
    let labels = server.api(&format!("/api/v1/labels?match[]={}", encode("hits_total")));
    assert_eq!(labels, json!(["__name__", "code", "instance", "job"]));
    let form = format!("query={}&start={}&end={time}&step=15", encode("rate(hits_total[1m])"), time - 300);
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let posted = support::request_with_body(server.address, "POST", "/api/v1/query_range", &headers, form.as_bytes());
    let json: Value = serde_json::from_str(&posted.body).unwrap();
    assert_eq!((posted.status, &json["data"]["resultType"]), (200, &json!("matrix")), "{}", posted.body);
    let odd = server.get("/api/v1/query?query=odd").body;
    assert!(odd.contains(r#""text":"a\"b\nc""#) && odd.contains("\"1e+21\""), "{odd}");
    assert_eq!(server.api("/api/v1/format_query?query=sum(foo)by(bar)"), json!("sum by (bar) (foo)"));
    let tree =
        server.api(&format!("/api/v1/parse_query?query={}", encode("foo/bar{a='b'}[5m]")).replace("%5B5m%5D", ""));
    assert_eq!((&tree["type"], &tree["rhs"]["matchers"][0]["name"]), (&json!("binaryExpr"), &json!("a")));
    // Only a series with two samples has a rate that may be wrong.
    let infos = until("two samples", || {
        let answer: Value = serde_json::from_str(&server.get("/api/v1/query?query=rate(odd[1m])").body).unwrap();
        answer.get("infos").cloned()
    });
    let text =
        "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"odd\" (1:6)";
    assert_eq!(infos, json!([text]));
}

#[test]
fn promtool_asks() {
    let target = FakeTarget::saying("hits_total{code=\"200\"} 5\n");
    let server = Ringscrape::start(&config(&[job("j", &[target.address], "")]), &[]);
    until("it is scraped", || (!server.federate("hits_total").is_empty()).then_some(()));
    let url = format!("http://{}", server.address);
    let promtool = |arguments: &[&str]| {
        let output =
            Command::new("promtool").arg("query").args(arguments).output().expect("make test-deps installs it");
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{error}");
        out.into_owned()
    };
    assert!(promtool(&["instant", &url, "hits_total + 1"]).contains("=> 6 @["));
    assert!(promtool(&["range", &url, "sum by (code) (hits_total)"]).contains("{code=\"200\"} =>"));
    assert!(promtool(&["series", "--match=hits_total", &url]).contains("code=\"200\""));
    assert!(promtool(&["labels", &url, "code"]).contains("200"));
}
