//! `/federate` of the real program: against Debian's Prometheus, under guards, and with readers that do not read.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::{FakeTarget, Prometheus, Ringscrape, encode, job, request, until};

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

fn path(selectors: &[&str]) -> String {
    let all: Vec<String> = selectors.iter().map(|selector| format!("match[]={}", encode(selector))).collect();
    format!("/federate?{}", all.join("&"))
}

/// Lines by metric name: inside a name their order is free.
fn families(body: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut names = Vec::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            names.push(rest.split(' ').next().unwrap().to_owned());
        }
        all.entry(names.last().expect("a TYPE line comes first").clone()).or_default().push(line.to_owned());
    }
    assert!(names.is_sorted(), "names come in order: {names:?}");
    all.values_mut().for_each(|lines| lines.sort());
    all
}

#[test]
fn the_text_is_that_of_prometheus() {
    let now = now_ms();
    let mut payload = String::new();
    for i in 0..300 {
        payload +=
            &format!("requests_total{{code=\"{}\",path=\"/p{i}\"}} {} {}\n", 200 + i % 3, i * 1_000_003, now - i);
        payload += &format!("load{{cpu=\"{i}\"}} {} {now}\n", f64::from(i as u32) / 7.0);
    }
    payload += &format!("odd{{v=\"a\\\\b\\\"c\\nd\",z=\"é\"}} NaN {now}\nodd{{v=\"inf\"}} -Inf {now}\n");
    payload += &format!("own{{instance=\"theirs\",region=\"own\"}} 1 {now}\nown{{instance=\"\"}} 2 {now}\n");
    payload +=
        &format!("small 1e-7 {now}\nlarge 123456789 {now}\nnegative -0.5 {now}\ngone_long_ago 1 {}\n", now - 400_000);
    let target = FakeTarget::saying(&payload);
    let other = FakeTarget::saying(&format!("load{{cpu=\"x\"}} 9 {now}\n"));
    let config = format!(
        "global: {{external_labels: {{region: eu, zone: z1}}}}\nscrape_configs:\n{}{}",
        job("j", &[target.address], "honor_labels: true"),
        job("k", &[other.address], "")
    );
    let server = Ringscrape::start(&config, &[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, &config).unwrap();
    let prometheus = Prometheus::start(&file, &folder.path().join("data"), &[]);
    let ask = |address: SocketAddr, path: &str| request(address, "GET", path, &[]);
    // Two that have scraped nothing yet agree, too.
    let everything = path(&["{__name__=~\".+\",__name__!~\"up|scrape_.*\"}"]);
    let has_all = |address| ask(address, &everything).body.lines().filter(|line| !line.starts_with('#')).count() == 608;
    until("both have scraped", || (has_all(server.address) && has_all(prometheus.address)).then_some(()));
    for path in [
        path(&["{job=\"j\",__name__!~\"up|scrape_.*\"}"]),
        path(&["load", "own", "{__name__=~\"lo.*\"}"]),
        path(&["requests_total{code=\"201\"}", "{cpu=\"7\"}"]),
        path(&["own"]),
        path(&["nothing"]),
        "/federate".to_owned(),
    ] {
        until("both have scraped, and say the same", || {
            let (ours, theirs) = (ask(server.address, &path), ask(prometheus.address, &path));
            assert_eq!((ours.status, theirs.status), (200, 200));
            (families(&ours.body) == families(&theirs.body)).then_some(())
        });
    }
    // The texts of what the lexer alone refuses differ between versions; the answer does not.
    let same_text = [
        "up{a=b}",
        "rate(up[5m])",
        "",
        "up[5m]",
        "up + 1",
        "1",
        "{a=\"b\",}x",
        "{a=\"b\" c=\"d\"}",
        "(up)",
        "-up",
        "up,own",
        "up{,}",
    ];
    let same_status = [
        "up{",
        "up}",
        "up{a",
        "up{a=",
        "up{a=~\"(\"}",
        " ",
        "up offset 5m",
        "\"up\"",
        "{",
        "sum",
        "up{a=\"b\"",
        "up{\"a",
        "up{a=\"\\z\"}",
        "load{__name__=\"own\"}",
        "up @ 5",
        "by{cpu=\"7\"}",
    ];
    for selector in same_text.into_iter().chain(same_status) {
        let path = path(&[selector]);
        let (ours, theirs) = (ask(server.address, &path), ask(prometheus.address, &path));
        assert_eq!(ours.status, theirs.status, "{selector:?}: {} {}", ours.body, theirs.body);
        if same_text.contains(&selector) {
            assert_eq!(ours.body, theirs.body, "{selector:?}");
        }
    }
    // Prometheus sends everything it has for these.
    for selector in ["{}", "{a=\"\"}"] {
        let ours = ask(server.address, &path(&[selector]));
        let text = "match[] must contain at least one non-empty matcher";
        assert!(ours.status == 400 && ours.body.contains(text), "{selector:?}: {} {}", ours.status, ours.body);
    }
}

#[test]
fn a_series_of_two_targets_is_written_once_with_its_newest_sample() {
    let now = now_ms();
    let series = |value: u32, at: u128| format!("a{{instance=\"i\",job=\"j\"}} {value} {at}\n");
    let one = FakeTarget::saying(&series(1, now - 2000));
    let two = FakeTarget::saying(&(series(2, now - 1000) + "b{instance=\"i\",job=\"j\"} 7\n"));
    let config = support::config(&[job("hub", &[one.address, two.address], "honor_labels: true")]);
    let server = Ringscrape::start(&config, &["--shards=2"]);
    let want = [format!("a{{instance=\"i\",job=\"j\"}} 2 {}", now - 1000)];
    until("both are scraped", || (server.federate("up").len() == 2 && server.federate("b").len() == 1).then_some(()));
    until("the newest alone is there", || (server.federate("a") == want).then_some(()));
    one.now_says(&series(3, now - 500));
    let want = [format!("a{{instance=\"i\",job=\"j\"}} 3 {}", now - 500)];
    until("the other one is newer now", || (server.federate("a") == want).then_some(()));
}

/// The compression asks for more after the end of what it packs, again and again.
#[test]
fn packed_answers_end_in_order() {
    let target = FakeTarget::saying(&(0..2000).map(|i| format!("a{{i=\"{i}\"}} {i}\n")).collect::<String>());
    let server = Ringscrape::start(&support::config(&[job("j", &[target.address], "")]), &[]);
    until("it is scraped", || (server.federate("a").len() == 2000).then_some(()));
    for packing in ["gzip", "zstd"] {
        for selector in ["a", "nothing", "{__name__=~\".+\"}"] {
            let path = path(&[selector]);
            let answer = request(server.address, "GET", &path, &[("Accept-Encoding", packing)]);
            assert_eq!(answer.status, 200, "{packing} {selector}");
        }
    }
    assert_eq!(server.federate("a").len(), 2000, "it goes on");
}

#[test]
fn what_the_process_before_scraped_is_there_for_the_lookback() {
    let target = FakeTarget::saying("a 1\nb 1\nc{x=\"y\"} 1\n");
    let config = support::config(&[job("j", &[target.address], "")]);
    let mut server = Ringscrape::start(&config, &["--shards=2"]);
    until("it is scraped", || (server.federate("{__name__=~\"a|b|c\"}").len() == 3).then_some(()));
    target.now_says("a 2\nd 1\n");
    server.restart(9, &["--shards=1"]);
    until("what was scraped before and since is there, each once", || {
        let lines = server.federate("{__name__=~\"a|b|c|d\"}");
        let name_and_value = |line: &String| {
            let (name, rest) = line.split_once('{').unwrap();
            (name.to_owned(), rest.rsplit(' ').nth(1).unwrap().to_owned())
        };
        let found: Vec<_> = lines.iter().map(name_and_value).collect();
        let want = [("a", "2"), ("b", "1"), ("c", "1"), ("d", "1")].map(|(name, v)| (name.to_owned(), v.to_owned()));
        (found == want).then_some(())
    });
}

#[test]
fn guards_refuse_with_a_reason_and_count() {
    let mut payload = String::from("job:load:sum 1\njob:secret:sum 2\n");
    (0..400).for_each(|i| payload += &format!("raw_{}{{i=\"{i}\"}} {i}\n", i % 20));
    let target = FakeTarget::saying(&payload);
    let start = |section: &str| {
        let config = format!("{section}\n{}", support::config(&[job("j", &[target.address], "")]));
        let server = Ringscrape::start(&config, &[]);
        until("it is scraped", || {
            (server.metric("ringscrape_core_series{core=\"0\"}").is_some() && {
                let all: f64 = (0..64)
                    .filter_map(|core| server.metric(&format!("ringscrape_core_series{{core=\"{core}\"}}")))
                    .sum();
                all > 400.0
            })
            .then_some(())
        });
        server
    };
    let server =
        start("federation: {series_max: 100, refuse_catch_all: true, log_requests: true, deny: ['job:secret:sum']}");
    let ask = |selectors: &[&str]| server.get(&path(selectors));
    assert_eq!(server.federate("{__name__=~\"job:.*\"}").len(), 1);
    assert_eq!(server.federate("job:secret:sum").len(), 0);
    let many = ask(&["{__name__=~\"raw_[0-9]\"}"]);
    assert_eq!(many.status, 422, "{}", many.body);
    assert!(many.body.contains("selects 200 series, more than federation.series_max (100)"), "{}", many.body);
    for (outcome, count) in [("served", 2.0), ("series_max", 1.0)] {
        assert_eq!(server.metric(&format!("ringscrape_federations_total{{outcome=\"{outcome}\"}}")), Some(count));
    }
    let log = server.log();
    let line =
        log.lines().find(|line| line.contains("federation") && line.contains("series=1")).expect("a line a request");
    assert!(line.contains("client=") && line.contains("bytes=") && line.contains("seconds="), "{line}");

    let server = start("federation: {refuse_catch_all: true}");
    let ask = |selectors: &[&str]| server.get(&path(selectors));
    for spelled in
        ["{__name__=~\".+\"}", "{job=\"j\"}", "{job!=\"\",i!=\"17\"}", "{__name__!=\"\"}", "{__name__=~\"raw.*\"}"]
    {
        let refused = ask(&[spelled]);
        assert_eq!(refused.status, 403, "{spelled}: {}", refused.body);
        assert!(refused.body.contains("refuse_catch_all"), "{}", refused.body);
    }
    assert_eq!(ask(&["{__name__=~\"job:.*\"}", "raw_3"]).status, 200);

    let server = start("federation: {allow: ['{__name__=~\"job:.*\"}'], refuse_catch_all: true}");
    assert_eq!(server.federate("{__name__=~\".+\"}").len(), 2, "what is allowed is what there is");
}

#[test]
fn the_federation_listener_serves_nothing_else() {
    let target = FakeTarget::saying("a 1\n");
    let config = support::config(&[job("j", &[target.address], "")]);
    let flags = ["--web.federation-listen-address=127.0.0.1:0", "--web.enable-lifecycle", "--web.enable-admin-api"];
    let server = Ringscrape::start(&config, &flags);
    until("it is scraped", || (server.federate("a").len() == 1).then_some(()));
    let address: SocketAddr = until("it says where", || {
        let log = server.log();
        let (_, rest) = log.split_once("federation alone is served on http://")?;
        rest.split(|c: char| c.is_whitespace() || c == '"').next()?.parse().ok()
    });
    for (method, path, status) in [
        ("GET", "/federate?match[]=a", 200),
        ("GET", "/-/healthy", 200),
        ("GET", "/-/ready", 200),
        ("POST", "/federate?match[]=a", 405),
        ("GET", "/metrics", 404),
        ("GET", "/targets", 404),
        ("GET", "/api/v1/query?query=a", 404),
        ("POST", "/-/reload", 404),
        ("POST", "/-/quit", 404),
        ("POST", "/api/v1/admin/tsdb/delete_series?match[]=a", 404),
    ] {
        assert_eq!(request(address, method, path, &[]).status, status, "{method} {path}");
    }
}

/// Resident memory in kB.
fn resident_kb(server: &Ringscrape) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn readers_that_do_not_read_cost_their_buffers_only() {
    const READERS: usize = 30;
    // Long lines: 60,000 series are 18 MB of text, which no socket takes at once.
    let label = "x".repeat(220);
    let payload: String = (0..60_000).map(|i| format!("m{}{{label=\"{label}\",i=\"{i}\"}} {i}\n", i / 1200)).collect();
    let target = FakeTarget::saying(&payload);
    let config = support::config(&[job("j", &[target.address], "scrape_interval: 1s")]);
    let server = Ringscrape::start(&config, &[]);
    let everything = path(&["{__name__=~\".+\"}"]);
    until("it is scraped", || (server.get(&everything).body.len() > 15_000_000).then_some(()));
    let before = resident_kb(&server);
    let mut readers: Vec<TcpStream> = (0..READERS)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            write!(stream, "GET {everything} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let in_flight = || server.metric("ringscrape_federations_in_flight");
    until("all are under way", || (in_flight() == Some(READERS as f64)).then_some(()));
    let mut most = 0;
    for _ in 0..3 {
        for reader in &mut readers {
            reader.read_exact(&mut [0]).unwrap();
        }
        std::thread::sleep(Duration::from_millis(500));
        most = most.max(resident_kb(&server));
    }
    // Two pieces of each core, one of the merger, one of the connection, and the buffers of HTTP; sockets are the
    // kernel's.
    let each = (most.saturating_sub(before)) / READERS as u64;
    assert!(each < 2500, "{each} kB for each reader: {before} kB before, {most} kB with all");
    // The edge goes on.
    let scrapes = || server.targets()[0]["lastScrape"].clone();
    let last = scrapes();
    until("scrapes go on", || (scrapes() != last).then_some(()));
    assert!(server.get(&everything).body.len() > 15_000_000, "another reader gets all of it");
    drop(readers);
    until("they are gone", || (in_flight() == Some(0.0)).then_some(()));
    assert!(server.metric("ringscrape_federations_total{outcome=\"cut\"}").unwrap() >= READERS as f64);
}
