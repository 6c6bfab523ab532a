//! The query service of a whole server: isolation, memory, clients that leave, questions about labels.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{FakeTarget, Ringscrape, encode, request, request_with_body, until};

fn config(target: &FakeTarget) -> String {
    format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: j\n    static_configs: [{{targets: ['{}']}}]\n",
        target.address
    )
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The outcome of an instant query.
fn query(server: &Ringscrape, expr: &str) -> (u16, Value) {
    let answer = server.get(&format!("/api/v1/query?query={}", encode(expr)));
    (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::Null))
}

#[test]
fn an_evaluation_that_panics_costs_its_query() {
    let target = FakeTarget::saying("a 1\n");
    let panicking = "RINGSCRAPE_TEST_PANICKING_QUERY=sum(a) + 1";
    let server = Ringscrape::start_under(&["env", panicking], &config(&target), &[]);
    server.until_ready();
    until("it is scraped", || (query(&server, "a").1["data"]["result"].as_array()?.len() == 1).then_some(()));
    let (status, body) = query(&server, "sum(a) + 1");
    assert_eq!((status, &body["errorType"]), (500, &json!("internal")), "{body}");
    let error = body["error"].as_str().unwrap();
    let id = error.strip_prefix("internal error ").unwrap().split(':').next().unwrap();
    let line = until("it is in the log", || server.log().lines().find(|line| line.contains(id)).map(str::to_owned));
    assert!(line.contains("sum(a) + 1") && line.contains("a test wants this query to panic"), "{line}");
    assert_eq!(query(&server, "sum(a) + 2").0, 200, "the server goes on");
    assert_eq!(server.metric("ringscrape_queries_failed_total{reason=\"panic\"}"), Some(1.0));
    let scrapes = target.requests.lock().unwrap().len();
    until("it still scrapes", || (target.requests.lock().unwrap().len() > scrapes + 1).then_some(()));
}

#[test]
fn selectors_that_select_everything_are_refused_by_all_who_take_them() {
    let target = FakeTarget::saying("a 1\n");
    let server = Ringscrape::start(&config(&target), &["--web.enable-admin-api"]);
    until("it is scraped", || (server.federate("a").len() == 1).then_some(()));
    let text = "match[] must contain at least one non-empty matcher";
    for selector in ["{}", "{job=~\".*\"}", "{none=\"\"}"] {
        let selector = encode(selector);
        for (method, path) in [
            ("GET", "/api/v1/series"),
            ("GET", "/api/v1/labels"),
            ("GET", "/api/v1/label/job/values"),
            ("GET", "/federate"),
            ("POST", "/api/v1/admin/tsdb/delete_series"),
        ] {
            let answer = request(server.address, method, &format!("{path}?match[]=a&match[]={selector}"), &[]);
            assert_eq!(answer.status, 400, "{path} {selector}");
            assert!(answer.body.contains(text), "{path} {selector}: {}", answer.body);
        }
    }
    assert_eq!(server.federate("a").len(), 1, "nothing was deleted");
    let deleted = server.post("/api/v1/admin/tsdb/delete_series?match[]=a");
    assert_eq!(deleted.status, 204, "{}", deleted.body);
}

#[test]
fn labels_are_those_of_all_that_is_kept() {
    let target = FakeTarget::saying("a{x=\"1\"} 1\nb{x=\"2\",y=\"3\"} 1\n");
    let server = Ringscrape::start(&config(&target), &[]);
    until("it is scraped", || (server.federate("{__name__=~\"a|b\"}").len() == 2).then_some(()));
    target.now_says("a{x=\"1\"} 1\n");
    until("one has ended", || server.federate("b").is_empty().then_some(()));
    // Without times, what has ended is there, too; with times, what has samples in them.
    assert_eq!(server.api("/api/v1/label/x/values"), json!(["1", "2"]));
    assert_eq!(server.api("/api/v1/series?match[]=b").as_array().unwrap().len(), 1);
    assert!(server.api("/api/v1/labels").as_array().unwrap().contains(&json!("y")));
    let later = now() + 3600.0;
    assert_eq!(server.api(&format!("/api/v1/label/x/values?start={later}&end={}", later + 60.0)), json!([]));
    assert_eq!(server.api(&format!("/api/v1/labels?start={later}&end={}", later - 60.0)), json!([]), "no range at all");
    // Limits cut with a warning, names may be escaped.
    let limited = server.get("/api/v1/label/x/values?limit=1");
    let want = json!({"status": "success", "data": ["1"], "warnings": ["results truncated due to limit"]});
    assert_eq!(serde_json::from_str::<Value>(&limited.body).unwrap(), want);
    let whole = server.get("/api/v1/label/x/values?limit=2");
    assert_eq!(serde_json::from_str::<Value>(&whole.body).unwrap(), json!({"status": "success", "data": ["1", "2"]}));
    let series = server.get(&format!("/api/v1/series?match[]={}&limit=1", encode("{x!=\"\"}")));
    let series: Value = serde_json::from_str(&series.body).unwrap();
    assert_eq!(series["data"].as_array().unwrap().len(), 1);
    assert_eq!(series["warnings"], json!(["results truncated due to limit"]));
    assert_eq!(server.api("/api/v1/label/U__x/values"), json!(["1", "2"]));
    assert_eq!(server.api("/api/v1/label/U___78_/values"), json!(["1", "2"]));
    for (parameter, error) in [
        ("limit=-1", "invalid parameter \"limit\": limit must be non-negative"),
        ("limit=x", "invalid parameter \"limit\": strconv.Atoi: parsing \"x\": invalid syntax"),
    ] {
        for path in ["labels?", "label/x/values?", "series?match[]=a&", "query?query=a&"] {
            let answer = server.get(&format!("/api/v1/{path}{parameter}"));
            let body: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!((answer.status, &body["error"]), (400, &json!(error)), "{path}");
        }
    }
}

#[test]
fn parameters_that_are_none_are_refused_as_in_prometheus() {
    let target = FakeTarget::saying("a 1\n");
    let server = Ringscrape::start(&config(&target), &[]);
    for (path, status, kind, error) in [
        ("query?query=1&timeout=0", 422, "execution", "context deadline exceeded"),
        ("label/%FF/values", 400, "bad_data", "invalid label name: it is not UTF-8"),
        ("metadata?limit=x", 400, "bad_data", "limit must be a number"),
        ("metadata?limit_per_metric=x", 400, "bad_data", "limit_per_metric must be a number"),
        ("targets/metadata?limit=x", 400, "bad_data", "limit must be a number"),
    ] {
        let answer = server.get(&format!("/api/v1/{path}"));
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{path}: {}", answer.body));
        assert_eq!(
            (answer.status, &body["errorType"], &body["error"]),
            (status, &json!(kind), &json!(error)),
            "{path}"
        );
    }
}

/// Each matcher is compared with every slot: what no person writes is refused, before a core begins with it.
#[test]
fn selectors_with_very_many_matchers_are_refused() {
    let target = FakeTarget::saying("a 1\n");
    let server = Ringscrape::start(&config(&target), &[]);
    until("it is scraped", || (query(&server, "a").1["data"]["result"].as_array()?.len() == 1).then_some(()));
    let matchers = |count: usize| (0..count).map(|i| format!(",l{i}=\"\"")).collect::<String>();
    let selector = |count: usize| format!("a{{job=\"j\"{}}}", matchers(count));
    assert_eq!(query(&server, &selector(200)).0, 200, "many are taken");
    let post = |path: &str, body: &str| {
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let answer = support::request_with_body(server.address, "POST", path, &headers, body.as_bytes());
        (answer.status, answer.body)
    };
    let too_many = "has more than 256 matchers";
    for (path, name) in [("query", "query"), ("series", "match[]"), ("labels", "match[]")] {
        let (status, body) = post(&format!("/api/v1/{path}"), &format!("{name}={}", encode(&selector(20_000))));
        assert!(status == 400 && body.contains(too_many), "{path}: {status} {body}");
    }
    let joined = vec![selector(250); 9].join(" or ");
    let (status, body) = post("/api/v1/query", &format!("query={}", encode(&joined)));
    assert!(status == 400 && body.contains("the selectors have more than 2048 matchers"), "{status} {body}");
    let repeated = "match[]=a&".repeat(20_000);
    assert_eq!(post("/api/v1/series", &repeated).0, 200, "a selector that comes again is one");
    let different: String = (0..3000).map(|i| format!("match[]=a{i}&")).collect();
    let (status, body) = post("/api/v1/series", &different);
    assert!(status == 400 && body.contains("the selectors have more than 2048 matchers"), "{status} {body}");
    assert_eq!(query(&server, "a").0, 200);
}

/// Expressions that would take far more memory than they may.
const BOMBS: [&str; 8] = [
    "count_over_time({job=\"j\"}[100d:1s])",
    "sum_over_time(a[30d:1s])",
    "max_over_time((a + on() group_left() vector(time()))[10d:1s])",
    "count_values(\"v\", sum_over_time(a[50d:1s])[1h:1s])",
    "quantile_over_time(0.9, (a * 2)[100d:1s])",
    "label_replace(a[100d:1s], \"x\", \"y\", \"z\", \"\")",
    "rate(a[100d:1s])",
    "absent_over_time(({job=\"j\"} or {job=\"j\"})[60d:1s])",
];

/// What a query keeps must fit in its memory; the series that it passes over need not.
#[test]
fn series_that_do_not_fit_at_once_are_evaluated_in_batches() {
    let lines: String =
        (0..6000).map(|i| format!("a{{i=\"{i}\",path=\"/a/long/path/of/a/page/{i}\"}} {i}\n")).collect();
    let target = FakeTarget::saying(&lines);
    let server = Ringscrape::start(&config(&target), &["--query.max-memory-per-query=1MB"]);
    until("it is scraped twice", || {
        (query(&server, "max(count_over_time(a[1h]))").1["data"]["result"][0]["value"][1]
            .as_str()?
            .parse::<u32>()
            .ok()?
            >= 2)
            .then_some(())
    });
    let values = |expr: &str| {
        let (status, body) = query(&server, expr);
        assert_eq!(status, 200, "{expr}: {body}");
        let mut values: Vec<f64> = Vec::new();
        for series in body["data"]["result"].as_array().unwrap() {
            values.push(series["value"][1].as_str().unwrap().parse().unwrap());
        }
        values.sort_by(f64::total_cmp);
        values
    };
    let (status, body) = query(&server, "a");
    assert_eq!(status, 422, "all of it is more than the query may hold: {body}");
    assert_eq!(values("a > 5996"), [5997.0, 5998.0, 5999.0]);
    assert_eq!(values("a == 17"), [17.0]);
    assert_eq!(values("max_over_time(a[1h]) > 5997"), [5998.0, 5999.0]);
    assert_eq!(values("rate(a[1h]) > 0"), Vec::<f64>::new());
    assert_eq!(values("topk(2, a * 2)"), [11996.0, 11998.0]);
    assert_eq!(values("bottomk(3, a)"), [0.0, 1.0, 2.0]);
    assert_eq!(values("sum(a + 0)"), [17_997_000.0]);
    assert_eq!(values("count(last_over_time(a[1h]) >= 0)"), [6000.0]);
}

fn resident_mib(server: &Ringscrape) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Forty bombs at once end each with an answer or an error, beside scrapes and small queries.
#[test]
fn bombs_end_and_harm_nobody() {
    let lines: String = (0..100).map(|i| format!("a{{i=\"{i}\"}} {i}\n")).collect();
    let target = FakeTarget::saying(&lines);
    let flags = ["--query.max-memory-total=96MB", "--query.max-memory-per-query=48MB", "--query.timeout=20s"];
    let server = Ringscrape::start(&config(&target), &flags);
    until("it is scraped", || (query(&server, "a").1["data"]["result"].as_array()?.len() == 100).then_some(()));
    let before = resident_mib(&server);
    let address = server.address;
    let bombs: Vec<_> = (0..40)
        .map(|i| {
            std::thread::spawn(move || {
                let expr = encode(BOMBS[i % BOMBS.len()]);
                let answer = request(address, "GET", &format!("/api/v1/query?query={expr}&timeout=20s"), &[]);
                (BOMBS[i % BOMBS.len()], answer.status, answer.body)
            })
        })
        .collect();
    let mut peak = before;
    while bombs.iter().any(|bomb| !bomb.is_finished()) {
        peak = peak.max(resident_mib(&server));
        std::thread::sleep(Duration::from_millis(20));
    }
    for bomb in bombs {
        let (expr, status, body) = bomb.join().unwrap();
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{expr}: {error}: {body}"));
        assert!([200, 400, 422, 503].contains(&status), "{expr}: {status} {body}");
        assert!(status == 200 || body["error"].as_str().is_some_and(|error| !error.is_empty()), "{expr}: {body}");
    }
    println!("resident: {before} MiB before, {peak} MiB at most");
    assert_eq!(query(&server, "count(a)").0, 200, "the server goes on");
    until("everything is given back", || (server.metric("ringscrape_query_memory_bytes")? == 0.0).then_some(()));
}

/// A client that leaves ends its query: its place and its memory are free again long before the timeout.
#[test]
fn labels_that_functions_make_are_bounded() {
    let server = Ringscrape::start("", &[]);
    server.until_ready();
    let long = format!(r#"label_replace(vector(1), "z", "{}", "", "")"#, "a".repeat(200_000));
    for (function, expr) in [
        ("label_replace", format!(r#"label_replace({long}, "z", "{}", "z", "(.*)")"#, "$1".repeat(50_000))),
        ("label_join", format!(r#"label_join({long}, "y", ""{})"#, r#","z""#.repeat(20_000))),
    ] {
        let form = ("Content-Type", "application/x-www-form-urlencoded");
        let body = format!("query={}", encode(&expr));
        let answer = request_with_body(server.address, "POST", "/api/v1/query", &[form], body.as_bytes());
        assert_eq!(answer.status, 422, "{}", answer.body);
        let want = format!("{function}(): a value of label");
        assert!(answer.body.contains(&want) && answer.body.contains("more than 1048576 bytes"), "{}", answer.body);
    }
    assert!(resident_mib(&server) < 200, "{} MiB", resident_mib(&server));
}

#[test]
fn clients_that_leave_end_their_queries() {
    let lines: String = (0..200).map(|i| format!("a{{i=\"{i}\"}} {i}\n")).collect();
    let target = FakeTarget::saying(&lines);
    let flags = ["--query.max-concurrency=2", "--query.timeout=100s"];
    let server = Ringscrape::start(&config(&target), &flags);
    until("it is scraped", || (query(&server, "a").1["data"]["result"].as_array()?.len() == 200).then_some(()));
    let expr = encode("sum(sum_over_time(a[1d:1s]))");
    for _ in 0..5 {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let times = format!("start={}&end={}&step=10", now() - 86_400.0, now());
        write!(stream, "GET /api/v1/query_range?query={expr}&{times} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    let left = Instant::now();
    until("they have ended", || (server.metric("prometheus_engine_queries")? == 0.0).then_some(()));
    assert_eq!(query(&server, "count(a)").0, 200);
    assert!(left.elapsed() < Duration::from_secs(20), "after {:?}", left.elapsed());
}

/// Texts and defaults of parameters, as Prometheus 3.14 has them.
#[test]
fn parameters_have_prometheus_texts() {
    let server = Ringscrape::start("", &[]);
    for (path, status, error) in [
        (
            "query?query=1&lookback_delta=x",
            400,
            "error parsing lookback delta duration: cannot parse \"x\" to a valid duration",
        ),
        (
            "query_range?query=m[5m]&start=1&end=2&step=1",
            400,
            "invalid parameter \"query\": invalid expression type \"range vector\" for range query, must be Scalar or instant Vector",
        ),
        ("series", 400, "no match[] parameter provided"),
    ] {
        let answer = server.get(&format!("/api/v1/{path}"));
        let body: Value = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(error.is_empty() || body["error"] == error, "{path}: {body}");
    }
    assert_eq!(server.get("/api/v1/query?query=1&lookback_delta=-1").status, 200);
    assert_eq!(server.get("/api/v1/query?query=1&lookback_delta=0").status, 200);
}

/// What is in blocks is in memory as well for a while, and blocks do not know whose it is.
#[test]
fn nothing_counts_twice_that_is_in_a_block_and_in_memory() {
    let target = FakeTarget::start(|path| {
        // One target in three has a series that comes and goes.
        let second = now() as u64 / 2;
        let sometimes = if path.contains("/2") && second.is_multiple_of(2) { "part{i=\"gone\"} 5\n" } else { "" };
        support::ok(&format!("part{{i=\"1\"}} 1\npart{{i=\"2\"}} 2\n{sometimes}"))
    });
    let jobs = (0..3).map(|i| support::job(&format!("j{i}"), &[target.address], &format!("metrics_path: /{i}")));
    let config = support::config(&jobs.collect::<Vec<_>>());
    let server = Ringscrape::start(&config, &["--storage.tsdb.min-block-duration=2s", "--shards=2"]);
    until("three blocks", || {
        let list = server.api("/api/v1/ringscrape/status/blocks");
        (list["blocks"].as_array().unwrap().len() >= 3).then_some(())
    });
    let number = |value: &Value| value[1].as_str().unwrap().parse::<f64>().unwrap();
    let (end, mut compared, mut ended) = (now(), 0, 0);
    for step in 0..60 {
        let at = format!("{:.3}", end - f64::from(step) * 0.2);
        let ask = |expr: &str| {
            let answer = server.api(&format!("/api/v1/query?query={}&time={at}", encode(expr)));
            answer["result"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
        };
        // What a select should be: of each series the newest of the last five minutes, if it is no marker.
        let series = ask("part");
        let of_each: Vec<f64> = series.iter().map(|series| number(&series["value"])).collect();
        let grouped: f64 = ask("sum by (job, i) (part)").iter().map(|group| number(&group["value"])).sum();
        for (expr, expected) in [
            ("count(part)", of_each.len() as f64),
            ("sum(part)", of_each.iter().sum()),
            // What the shards cannot aggregate.
            ("sum(last_over_time(part[10ms]) or part)", grouped),
        ] {
            let range = format!("/api/v1/query_range?query={}&start={at}&end={at}&step=1", encode(expr));
            let range = server.api(&range)["result"][0]["values"][0].clone();
            let instant = ask(expr).first().map_or(0.0, |first| number(&first["value"]));
            assert_eq!(instant, expected, "{expr} at {at}: {series:?}");
            assert_eq!(if range.is_null() { 0.0 } else { number(&range) }, expected, "{expr} over a range at {at}");
            compared += 1;
        }
        // A series lives as long as each scrape has it.
        let of_newest = "timestamp(part{i=\"gone\"}) == on() timestamp(part{i=\"1\", job=\"j2\"})";
        let gone = ask("part{i=\"gone\"}").len();
        assert_eq!(gone, ask(of_newest).len(), "a series that has ended came back at {at}");
        ended += usize::from(gone == 0);
        let samples: f64 = ask("part[10s]").iter().map(|one| one["values"].as_array().unwrap().len() as f64).sum();
        let counted: f64 = ask("sum(count_over_time(part[10s]))").iter().map(|one| number(&one["value"])).sum();
        assert_eq!(counted, samples, "at {at}");
    }
    assert!(compared == 180 && ended > 3, "{compared} comparisons, {ended} without the series");
}
