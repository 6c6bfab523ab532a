//! Every route, answered from targets and a core that are made up here.

use api::{ActiveConfig, Parts, State};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use promql::budget::Charge;
use query::{MemoryBounds, QueryService, QuerySettings};
use serde_json::{Value, json};
use series::{Labels, Timestamp};
use shard::{
    Command, CoreStats, FederateChannel, FederateCommand, FederateReply, FederateRequest, FederateSummary, Health,
    InstantAnswer, InstantSample, Lines, Metadata, Reason, Shards, TargetMetadata, TargetStatus,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use targets::{DropReason, DroppedTarget, FailedTarget, ManagerHandle, OtherTarget, Pool, TargetBuild, TargetSet};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

const YAML: &str = "
global: {external_labels: {region: eu}}
scrape_configs:
  - job_name: web
    basic_auth: {username: u, password: geheim}
    relabel_configs: [{target_label: zone, replacement: z1}]
    static_configs: [{targets: ['a:1']}]
  - job_name: db
    static_configs: [{targets: ['b:1']}]
";

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

fn config() -> Arc<config::Config> {
    Arc::new(config::parse_config("prometheus.yml".as_ref(), YAML, &config::Env::process()).unwrap())
}

/// Pools of the configuration with `count` targets each.
fn pools(config: &config::Config, count: usize) -> TargetSet {
    let pool = |job: &Arc<config::ScrapeConfig>| {
        let build = |i| {
            let own = labels(&[
                ("__address__", &format!("{}-{i}:1", job.job_name)),
                ("__meta_x", "<script>alert(1)</script>"),
            ]);
            let TargetBuild::Target(target) = targets::build(job, &own, &labels(&[("note", "<script>")])) else {
                panic!()
            };
            Arc::new(target)
        };
        Arc::new(Pool {
            job: job.clone(),
            active: (0..count).map(build).collect(),
            discovered_count: count + 10,
            dropped: vec![DroppedTarget {
                discovered: labels(&[("__address__", "gone:1")]),
                reason: DropReason::Relabelling,
            }],
            dropped_count: 7,
            duplicates_count: 0,
            leaving: Vec::new(),
            others: vec![OtherTarget {
                discovered: labels(&[("__address__", "elsewhere:1")]),
                owners: vec!["member<b>".into(), "c".into()],
            }],
            others_count: 2,
            failed: vec![FailedTarget {
                discovered: labels(&[("__address__", "x/y")]),
                error: "no hostname <b>".into(),
            }],
            source_errors: vec![format!("{}.json: broken", job.job_name)],
        })
    };
    TargetSet { pools: config.scrape_configs.iter().map(pool).collect() }
}

/// Answers as a core would; the first target of each pool is down, the last has not been scraped.
fn core(set: &TargetSet) -> flume::Sender<Command> {
    let (queue, commands) = flume::bounded(8);
    let mut statuses = Vec::new();
    for pool in &set.pools {
        for (i, target) in pool.active.iter().enumerate() {
            let mut status = TargetStatus::new(target.id, 0);
            if i + 1 < pool.active.len() {
                status.scrapes = 3;
                status.last_scrape = Some(Timestamp(1_700_000_000_123));
                status.health = if i == 0 { Health::Down } else { Health::Up };
                status.last_duration = Duration::from_millis(1500);
                status.samples_scraped = 42;
            }
            if i == 0 {
                status.last_error = Some("<script>boom</script>".to_owned());
                status.last_reason = Some(Reason::Parse);
            }
            statuses.push(status);
        }
    }
    let target = set.pools[0].active[0].id;
    std::thread::spawn(move || {
        for command in commands.iter() {
            // Who asked may have gone.
            match command {
                Command::Statuses(reply) => drop(reply.send(statuses.clone())),
                Command::Stats(reply) => drop(reply.send(Box::new(CoreStats::new(0, 0)))),
                Command::Instant(request, _, reply) => {
                    let wanted = |sample: &InstantSample| {
                        request.selectors.iter().any(|all| all.iter().all(|one| one.matches_labels(&sample.labels)))
                    };
                    let sample = |pairs: &[(&str, &str)], value| InstantSample {
                        labels: labels(pairs),
                        timestamp: Timestamp(5),
                        value,
                    };
                    let all = [
                        sample(&[("__name__", "up"), ("instance", "i")], 1.0),
                        sample(&[("__name__", "a.b"), ("instance", "i"), ("region", "own")], 2.5),
                    ];
                    let samples = all.into_iter().filter(wanted).collect();
                    drop(reply.send(Ok(InstantAnswer { samples, ..InstantAnswer::default() })));
                }
                Command::Federate(request, _, talk) => federate(&request, &talk),
                Command::Metadata(request, reply) => {
                    let metric = |name: &str| {
                        let (kind, help) = ("counter".to_owned(), "Help.".to_owned());
                        Arc::new(Metadata { metric: name.to_owned(), kind, help, unit: String::new() })
                    };
                    let mut metrics = vec![metric("a"), metric("b")];
                    metrics.retain(|metadata| request.metric.as_ref().is_none_or(|wanted| *wanted == metadata.metric));
                    drop(reply.send(vec![TargetMetadata { target, metrics }]));
                }
                Command::Reduce(requests, _, reply) => {
                    let partial =
                        |request: &shard::ReduceRequest| promql::PartialAggregate::new(request.reduction.clone());
                    let refused = |request: &shard::ReduceRequest| Ok(whole_series_wanted(partial(request), request));
                    drop(reply.send(requests.iter().map(refused).collect()));
                }
                Command::Range(request, reply) => {
                    let charge = Charge::empty(&request.budget);
                    drop(reply.send(Ok(shard::RangeAnswer { pieces: Vec::new(), charge })));
                }
                Command::Labels(_, reply) => drop(reply.send(Ok(shard::LabelsAnswer::default()))),
                Command::Receive(_, reply) => drop(reply.send(Ok(shard::ReceiveOutcome::default()))),
                Command::WriteRows(_, reply) => drop(reply.send(Ok(shard::WriteOutcome::default()))),
                Command::Cardinality(reply) => drop(reply.send(Box::default())),
                Command::Unflushed(reply) => drop(reply.send(Vec::new())),
                Command::Exemplars(_, reply) => drop(reply.send(Vec::new())),
                Command::AppendExemplars(exemplars, reply) => drop(reply.send(exemplars.len() as u64)),
                Command::ResizeExemplars(_, reply) => drop(reply.send(())),
                Command::Apply(_, reply) | Command::Shutdown(reply) => drop(reply.send(())),
            }
        }
    });
    queue
}

/// An answer of a core that leaves an aggregation to the asker.
fn whole_series_wanted(partial: promql::PartialAggregate, request: &shard::ReduceRequest) -> shard::ReduceAnswer {
    shard::ReduceAnswer {
        partial,
        whole: Vec::new(),
        pieces: Vec::new(),
        identities: Vec::new(),
        pieces_identities: Default::default(),
        series: Vec::new(),
        refused: true,
        samples: 0,
        charge: Charge::empty(&request.budget),
    }
}

/// Two series, in order of their names.
fn federate(request: &FederateRequest, talk: &FederateChannel) {
    let all = [
        (labels(&[("__name__", "a.b"), ("instance", "i"), ("region", "own")]), "a.b", 2.5),
        (labels(&[("__name__", "up"), ("instance", "i")]), "up", 1.0),
    ];
    let fits = |labels: &Labels| request.selectors.iter().any(|all| all.iter().all(|one| one.matches_labels(labels)));
    let mut lines = Lines::default();
    for (labels, name, value) in all.iter().filter(|(labels, _, _)| fits(labels)) {
        let own = labels.iter().filter(|(name, _)| *name != "__name__");
        exposition::write_sample(name, own, *value, Some(5), request.escaping, &mut lines.text);
        lines.names.push((Arc::from(*name), lines.text.len()));
        lines.series += 1;
    }
    let begun = FederateSummary { series: lines.series, series_all: 2, ..FederateSummary::default() };
    // Who asked may have gone.
    let _ = talk.told.send(FederateReply::Begun(Box::new(begun)));
    while let Ok(go) = talk.go.recv() {
        if matches!(go, FederateCommand::Write(_)) {
            let _ = talk.told.send(FederateReply::Lines(lines));
            let _ = talk.told.send(FederateReply::Done);
            return;
        }
        let _ = talk.told.send(FederateReply::Done);
    }
}

fn state(count: usize) -> State {
    let config = config();
    let set = pools(&config, count);
    let (_, running) = watch::channel(Arc::new(ActiveConfig::good(config)));
    let shards = Shards::new(vec![core(&set)], None);
    let settings = QuerySettings {
        plan: promql::PlanOptions::default(),
        timeout: Duration::from_secs(10),
        concurrency: 4,
        samples_max: 1000,
        memory: MemoryBounds::new(None, None),
        panics_on: None,
    };
    State::new(Parts {
        notifier: notifier::Notifier::new(notifier::Options::default(), targets::DiscoveryContext::default()),
        remote_write: remote_write::RemoteWrite::none(),
        shipper: shipper::Shipper::none(),
        rules: rules::Manager::new(
            Arc::new(rules::unit::MemoryBackend::new(promql::PlanOptions::default())),
            rules::Options::default(),
        ),
        query: Arc::new(QueryService::new(shards.clone(), settings)),
        query_log: Arc::new(api::QueryLog::start().unwrap()),
        shards,
        targets: ManagerHandle::showing(set),
        fleet: targets::FleetHandle::showing(targets::FleetStatus::default()),
        running,
        flags: BTreeMap::from([("config.file".to_owned(), "prometheus.yml".to_owned())]),
        remote: api::RemoteSettings::default(),
        external_url: None,
        external_path: String::new(),
        route_prefix: String::new(),
        enable_admin_api: false,
        enable_lifecycle: false,
        cors_origin: Some("https://good.example".to_owned()),
        reload: mpsc::channel(1).0,
        quit: mpsc::channel(1).0,
        stopping: watch::channel(false).1,
        notifications_subscribers_max: 2,
    })
    .unwrap()
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn ask(state: &State, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "here:9090");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = api::router(state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    Answer { status, headers, body }
}

async fn get(state: &State, path: &str) -> Answer {
    ask(state, "GET", path, &[]).await
}

async fn data(state: &State, path: &str) -> Value {
    let answer = get(state, path).await;
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("success")), "{path}");
    answer.json()["data"].take()
}

#[tokio::test]
async fn targets_and_their_filters() {
    let state = state(3);
    let all = data(&state, "/api/v1/targets").await;
    assert_eq!(all["activeTargets"].as_array().unwrap().len(), 6);
    assert_eq!(all["droppedTargetCounts"], json!({"db": 7, "web": 7}));
    assert_eq!(all["failedTargets"][0]["error"], "no hostname <b>");
    assert_eq!(all["sourceErrors"][1]["error"], "db.json: broken");
    let down = &all["activeTargets"][0];
    assert_eq!((&down["health"], &down["lastErrorReason"]), (&json!("down"), &json!("parse")));
    assert_eq!(down["lastScrape"], "2023-11-14T22:13:20.123Z");
    assert_eq!(down["lastScrapeDuration"], 1.5);
    assert_eq!(down["scrapeInterval"], "1m");
    assert_eq!(down["labels"], json!({"instance": "web-0:1", "job": "web", "note": "<script>", "zone": "z1"}));
    assert_eq!(down["discoveredLabels"]["__meta_x"], "<script>alert(1)</script>");
    let never = &all["activeTargets"][2];
    assert_eq!((&never["health"], &never["lastScrape"]), (&json!("unknown"), &json!("0001-01-01T00:00:00Z")));

    let of_db = data(&state, "/api/v1/targets?state=active&scrapePool=db").await;
    assert_eq!(of_db["activeTargets"].as_array().unwrap().len(), 3);
    assert_eq!(of_db["droppedTargets"], json!([]));
    assert_eq!(of_db["droppedTargetCounts"], json!(null), "as in Prometheus");
    let neither = data(&state, "/api/v1/targets?state=up").await;
    assert_eq!((&neither["activeTargets"], &neither["droppedTargets"]), (&json!([]), &json!([])));
    let no_pool = data(&state, "/api/v1/targets?scrapePool=none").await;
    assert_eq!(no_pool["activeTargets"], json!([]));
    assert_eq!(no_pool["droppedTargetCounts"], json!({"db": 7, "web": 7}), "never filtered");
    let dropped = data(&state, "/api/v1/targets?state=dropped").await;
    assert_eq!(dropped["activeTargets"], json!([]));
    assert_eq!(dropped["droppedTargets"][0]["discoveredLabels"], json!({"__address__": "gone:1"}));
    let others = &dropped["otherMembersTargets"][0];
    assert_eq!(others["discoveredLabels"], json!({"__address__": "elsewhere:1"}));
    assert_eq!(others["members"], json!(["member<b>", "c"]));
    assert_eq!(dropped["otherMembersTargetCounts"], json!({"db": 2, "web": 2}));
    assert_eq!(of_db["otherMembersTargets"], json!([]));
}

#[tokio::test]
async fn pools_metadata_and_status() {
    let state = state(2);
    assert_eq!(data(&state, "/api/v1/scrape_pools").await, json!({"scrapePools": ["web", "db"]}));
    let yaml = data(&state, "/api/v1/scrape_pools/config?scrapePool=web").await;
    assert!(yaml["yaml"].as_str().unwrap().contains("password: <secret>"), "{yaml}");
    for path in ["/api/v1/status/config", "/config", "/api/v1/scrape_pools/config?scrapePool=web"] {
        assert!(!get(&state, path).await.text().contains("geheim"), "{path}");
    }
    let labels = "%7B%22job%22%3A%22x%22%7D";
    let steps = data(&state, &format!("/api/v1/targets/relabel_steps?scrapePool=web&labels={labels}")).await;
    assert_eq!(steps["steps"][0]["output"], json!({"job": "x", "zone": "z1"}));
    assert_eq!(steps["steps"][0]["keep"], true);
    let metadata = data(&state, "/api/v1/metadata").await;
    assert_eq!(metadata["a"], json!([{"type": "counter", "help": "Help.", "unit": ""}]));
    assert_eq!(data(&state, "/api/v1/metadata?limit=1").await.as_object().unwrap().len(), 1);
    assert_eq!(data(&state, "/api/v1/metadata?metric=b").await.as_object().unwrap().len(), 1);
    let of_targets = data(&state, "/api/v1/targets/metadata?metric=a&limit=5").await;
    assert_eq!(of_targets[0]["target"]["instance"], "web-0:1");
    assert_eq!(of_targets[0].get("metric"), None, "the name was given");
    assert_eq!(data(&state, "/api/v1/targets/metadata?metric=a&limit=0").await, json!([]));
    assert_eq!(data(&state, "/api/v1/metadata?limit_per_metric=0").await["a"].as_array().unwrap().len(), 1);
    assert_eq!(data(&state, "/api/v1/status/flags").await["config.file"], "prometheus.yml");
    assert_eq!(data(&state, "/api/v1/status/buildinfo").await["application"], "ringscrape");
    assert_eq!(data(&state, "/api/v1/status/runtimeinfo").await["reloadConfigSuccess"], true);
    assert_eq!(get(&state, "/version").await.json()["application"], "ringscrape");
    let version = data(&state, "/api/v1/status/buildinfo").await["version"].clone();
    assert!(version.as_str().unwrap().starts_with("3.14.0+ringscrape."), "{version}");
}

#[tokio::test]
async fn features_and_own_metrics_are_told_to_programs() {
    let state = state(1);
    let features = data(&state, "/api/v1/features").await;
    assert_eq!(features.as_object().unwrap().len(), 12);
    assert_eq!(features["api"]["remote_write_receiver"], false);
    assert_eq!(features["promql"]["group_left"], true);
    assert_eq!(features["promql_operators"]["limitk"], false);
    assert_eq!(features["service_discovery_providers"]["kubernetes"], true);
    let found = data(&state, "/api/v1/status/self_metrics?metric_name_pattern=prometheus_build.*").await;
    assert_eq!(found[0]["type"], "GAUGE");
    assert_eq!(found[0]["metric"][0]["gauge"]["value"], 1.0);
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(get(&state, "/api/v1/status/self_metrics?metric_name_pattern=(").await.status, StatusCode::BAD_REQUEST);
}

/// Documents of all pages.
const PAGES: [&str; 14] = [
    "/overview",
    "/query",
    "/graph",
    "/targets",
    "/target",
    "/service-discovery",
    "/rules",
    "/alerts",
    "/alertmanager-discovery",
    "/fleet",
    "/tsdb-status",
    "/config",
    "/flags",
    "/status",
];

#[tokio::test]
async fn documents_ask_no_other_host_and_have_no_text_from_outside() {
    let state = state(1);
    for page in PAGES {
        let answer =
            get(&state, &format!("{page}?g0.expr=%3Cscript%3Ealert(1)%3C/script%3E&id=%22%3E%3Cscript%3E")).await;
        assert_eq!(answer.status, StatusCode::OK, "{page}");
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
        let text = answer.text();
        assert!(!text.contains("alert(1)") && !text.contains("http://") && !text.contains("https://"), "{text}");
        assert!(!text.contains("<style") && !text.contains(" style=") && !text.contains("<script>"), "{text}");
        assert!(!text.contains("=\"/"), "all links are relative: {text}");
        assert!(text.contains("· eu · ringscrape"), "the title names the server: {text}");
        let assets: Vec<&str> = text.split('"').filter(|part| part.starts_with("assets/")).collect();
        assert_eq!(assets.len(), 4, "{assets:?}");
        for asset in assets {
            let answer = get(&state, &format!("/{asset}")).await;
            let cached = "public, max-age=31536000, immutable";
            assert_eq!((answer.status, answer.header("cache-control")), (StatusCode::OK, cached));
            for encoding in ["gzip", "zstd"] {
                let packed = ask(&state, "GET", &format!("/{asset}"), &[("accept-encoding", encoding)]).await;
                assert_eq!(packed.header("content-encoding"), encoding);
                assert!(packed.body.len() < answer.body.len());
            }
        }
    }
    assert_eq!(get(&state, "/assets/app-0000000000000000.js").await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(&state, "/assets/app.js").await.status, StatusCode::NOT_FOUND);
}

/// Sizes that a browser loads before a page is drawn, and for the editor beside that.
#[tokio::test]
async fn scripts_stay_within_their_budget() {
    let state = state(1);
    let page = get(&state, "/query").await.text();
    let bytes = async |name: &str| {
        let path = page.split('"').find(|part| part.starts_with(&format!("assets/{name}-"))).unwrap();
        ask(&state, "GET", &format!("/{path}"), &[("accept-encoding", "gzip")]).await.body.len()
    };
    let (app, theme, style, editor) =
        (bytes("app").await, bytes("theme").await, bytes("style").await, bytes("editor").await);
    assert!(app + theme + style < 90_000, "{app} + {theme} + {style}");
    assert!(editor < 160_000, "{editor}");
}

#[tokio::test]
async fn a_time_range_that_ends_before_it_starts_is_empty() {
    let state = state(1);
    assert_eq!(data(&state, "/api/v1/labels?start=5&end=4").await, json!([]));
}

#[tokio::test]
async fn refusals_have_the_envelope() {
    let state = state(1);
    for (path, status, kind) in [
        ("/api/v1/query?query=up%7B", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/query?query=up&time=x", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/query_range?query=up", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/series", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/status/tsdb?limit=0", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/status/walreplay", StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        ("/api/v1/nothing", StatusCode::NOT_FOUND, "not_found"),
        ("/api/v1/metadata?limit=x", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/targets/metadata?match_target=%7B", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/scrape_pools/config", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/scrape_pools/config?scrapePool=none", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/targets/relabel_steps?scrapePool=none&labels=%7B%7D", StatusCode::BAD_REQUEST, "bad_data"),
        ("/api/v1/targets/relabel_steps?scrapePool=web&labels=1", StatusCode::BAD_REQUEST, "bad_data"),
    ] {
        let answer = get(&state, path).await;
        assert_eq!((answer.status, &answer.json()["errorType"]), (status, &json!(kind)), "{path}");
    }
}

#[tokio::test]
async fn selectors_are_answered() {
    let state = state(1);
    let answer = data(&state, "/api/v1/query?query=up&time=7").await;
    let metric = json!({"__name__": "up", "instance": "i"});
    assert_eq!(answer, json!({"resultType": "vector", "result": [{"metric": metric, "value": [7, "1"]}]}));
    let answer = data(&state, "/api/v1/query?query=up%5B5m%5D").await;
    assert_eq!(answer, json!({"resultType": "matrix", "result": []}));
}

#[tokio::test]
async fn federation() {
    let state = state(1);
    let none = get(&state, "/federate").await;
    assert_eq!((none.status, none.body.len()), (StatusCode::OK, 0));
    assert_eq!(get(&state, "/federate?match[]=up%7B").await.status, StatusCode::BAD_REQUEST);
    let all = get(&state, "/federate?match[]=up&match[]=%7B__name__=~%22a.*%22%7D").await;
    assert_eq!(
        all.text(),
        "# TYPE a_b untyped\na_b{instance=\"i\",region=\"own\"} 2.5 5\n# TYPE up untyped\nup{instance=\"i\"} 1 5\n"
    );
    assert_eq!(all.header("content-type"), "text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
    let utf8 = [("accept", "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6")];
    let quoted = ask(&state, "GET", "/federate?match[]=%7B__name__=~%22a.*%22%7D", &utf8).await;
    assert!(quoted.text().contains("{\"a.b\",instance=\"i\",region=\"own\"} 2.5 5\n"), "{}", quoted.text());
    let packed = ask(&state, "GET", "/metrics", &[("accept-encoding", "gzip")]).await;
    assert_eq!((packed.header("content-encoding"), &packed.body[..2]), ("gzip", &[0x1f, 0x8b][..]));
    let packed = ask(&state, "GET", "/metrics", &[("accept-encoding", "zstd")]).await;
    assert_eq!((packed.header("content-encoding"), &packed.body[..4]), ("zstd", &[0x28, 0xb5, 0x2f, 0xfd][..]));
}

#[tokio::test]
async fn own_metrics_are_well_formed() {
    let text = get(&state(2), "/metrics").await.text();
    let mut families = std::collections::BTreeSet::new();
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} stands twice");
            assert!(text.contains(&format!("# HELP {family} ")), "{family} has no help");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(family), "{line} is not of {family}");
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
        }
    }
    for name in
        ["prometheus_config_last_reload_successful", "process_resident_memory_bytes", "ringscrape_scrapes_total"]
    {
        assert!(families.contains(name), "{name}");
    }
}

#[tokio::test]
async fn lifecycle_origins_and_headers() {
    let state = state(1);
    assert_eq!(get(&state, "/-/healthy").await.status, StatusCode::OK);
    assert_eq!(get(&state, "/-/ready").await.text(), "ringscrape is Ready.\n");
    let reload = ask(&state, "POST", "/-/reload", &[]).await;
    assert_eq!((reload.status, reload.text().as_str()), (StatusCode::FORBIDDEN, "Lifecycle API is not enabled."));
    let foreign = ask(&state, "POST", "/-/reload", &[("origin", "https://evil.example")]).await;
    assert!(foreign.text().contains("other origins"), "{}", foreign.text());
    let own = ask(&state, "POST", "/-/reload", &[("origin", "http://here:9090")]).await;
    assert!(own.text().contains("Lifecycle"), "{}", own.text());
    for (origin, want) in [("https://good.example", "https://good.example"), ("https://evil.example", "")] {
        let answer = ask(&state, "GET", "/api/v1/scrape_pools", &[("origin", origin)]).await;
        assert_eq!(answer.header("access-control-allow-origin"), want);
    }
    for path in ["/targets", "/metrics", "/api/v1/nothing", "/nowhere"] {
        let answer = get(&state, path).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{path}: {policy}");
        assert!(policy.ends_with("require-trusted-types-for 'script'; trusted-types 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    assert_eq!(get(&state, "/").await.header("location"), "/overview");
}

#[tokio::test]
async fn discovery_tells_what_became_of_each_address_and_why() {
    let state = state(5_000);
    let data =
        async |query: &str| get(&state, &format!("/api/v1/ringscrape/discovery{query}")).await.json()["data"].clone();
    let first = data("").await;
    assert_eq!((&first["total"], first["rows"].as_array().unwrap().len()), (&json!(10_006), 100));
    let pool = &first["pools"][0];
    assert_eq!((&pool["active"], &pool["discovered"], &pool["dropped"]), (&json!(5_000), &json!(5_010), &json!(7)));
    assert_eq!((&pool["others"], &pool["othersListed"]), (&json!(2), &json!(1)));
    assert_eq!(first["pools"][1]["sourceErrors"], json!(["db.json: broken"]));
    assert_eq!(
        (&first["rows"][0]["outcome"], &first["rows"][0]["error"]),
        (&json!("failed"), &json!("no hostname <b>"))
    );
    let dropped = data("?state=relabelling&pool=web").await;
    assert_eq!(dropped["rows"][0]["discoveredLabels"]["__address__"], json!("gone:1"));
    assert_eq!(dropped["total"], json!(1));
    let others = data("?state=other-member&pool=web").await;
    assert_eq!(others["rows"][0]["owners"], json!(["member<b>", "c"]));
    assert_eq!(data("?search=member%3Cb").await["total"], json!(2));
    let found = data("?search=instance%3Ddb-77%3A").await;
    assert_eq!((&found["total"], &found["rows"][0]["labels"]["instance"]), (&json!(1), &json!("db-77:1")));
    let last = data("?offset=10000&limit=1000").await;
    assert_eq!(last["rows"].as_array().unwrap().len(), 6);
    assert_eq!(data("?offset=99999999").await["rows"], json!([]));
    for refused in ["limit=1001", "limit=x", "offset=x"] {
        let answer = get(&state, &format!("/api/v1/ringscrape/discovery?{refused}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{refused}");
    }
}

#[tokio::test]
async fn ten_thousand_targets_fit_in_two_columns() {
    let state = state(5_000);
    let answer = get(&state, "/api/v1/ringscrape/targets/list").await;
    let (tag, bytes) = (answer.header("etag").to_owned(), answer.body.len());
    let list = answer.json()["data"].clone();
    assert!(bytes < 1_500_000, "{bytes} bytes");
    let targets = &list["targets"];
    assert!(["id", "pool", "url", "labels"].iter().all(|column| targets[*column].as_array().unwrap().len() == 10_000));
    assert_eq!(list["pools"][0]["labels"], json!({"job": "web", "note": "<script>", "zone": "z1"}));
    assert_eq!(targets["labels"][0], json!(["instance", "web-0:1"]));
    let known = ask(&state, "GET", "/api/v1/ringscrape/targets/list", &[("if-none-match", &tag)]).await;
    assert_eq!((known.status, known.body.len()), (StatusCode::NOT_MODIFIED, 0));
    let answer = get(&state, "/api/v1/ringscrape/targets/state").await;
    let bytes = answer.body.len();
    let states = answer.json()["data"].clone();
    assert!(bytes < 700_000, "{bytes} bytes");
    assert_eq!(format!("\"{}\"", states["generation"].as_str().unwrap()), tag);
    let health = states["health"].as_str().unwrap();
    assert_eq!((health.len(), health.matches('d').count(), health.matches('n').count()), (10_000, 2, 2));
    assert_eq!((&states["reasons"], &states["reason"]), (&json!(["parse"]), &json!({"0": 0, "5000": 0})));
    assert_eq!(states["errors"]["0"], json!("<script>boom</script>"));
    for column in ["outcomes", "at", "since", "took", "samples", "bytes", "core"] {
        assert_eq!(states[column].as_array().unwrap().len(), 10_000, "{column}");
    }
    let id = targets["id"][0].as_str().unwrap();
    let one = get(&state, &format!("/api/v1/ringscrape/targets/one?id={id}")).await.json()["data"].clone();
    assert_eq!((&one["job"], &one["labels"]["instance"]), (&json!("web"), &json!("web-0:1")));
    assert_eq!(
        (&one["relabelSteps"][0]["changed"], &one["relabelSteps"][0]["labels"]["zone"]),
        (&json!(true), &json!("z1"))
    );
    assert!(one["settings"].as_str().unwrap().contains("<secret>") && !one.to_string().contains("geheim"));
    for (id, status) in [("", 400), ("xyz", 400), ("0", 404), ("00000000000000000000000000000000001", 404)] {
        let answer = get(&state, &format!("/api/v1/ringscrape/targets/one?id={id}")).await;
        assert_eq!(answer.status.as_u16(), status, "{id:?}");
    }
}

#[tokio::test]
async fn figures_of_the_server_are_answered_before_there_are_any() {
    let state = state(2);
    for range in ["", "?range=1h", "?range=24h"] {
        let data = get(&state, &format!("/api/v1/ringscrape/status/history{range}")).await.json()["data"].clone();
        assert_eq!((&data["times"], &data["process"]["samples"]), (&json!([]), &json!([])), "{range}");
    }
    let refused = get(&state, "/api/v1/ringscrape/status/history?range=2h").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let remote = get(&state, "/api/v1/ringscrape/status/remote_write").await.json();
    assert_eq!(remote["data"]["endpoints"], json!([]));
}

/// Whatever stands in a URL is answered, and never with a fault of ours.
#[tokio::test]
async fn mutated_urls_are_answered() {
    let state = state(2);
    let seeds = [
        "/api/v1/targets?state=active&scrapePool=web",
        "/api/v1/targets/metadata?match_target=%7Bjob%3D%22web%22%7D&limit=3&metric=a",
        "/api/v1/metadata?limit=1&limit_per_metric=1",
        "/federate?match[]=%7B__name__%3D~%22a.%2A%22%7D&match[]=up",
        "/api/v1/ringscrape/discovery?state=active&pool=web&search=a&offset=2&limit=3",
        "/api/v1/ringscrape/targets/one?id=0123456789abcdef",
        "/api/v1/ringscrape/status/history?range=1h",
        "/api/v1/targets/relabel_steps?scrapePool=web&labels=%7B%22a%22%3A%22b%22%7D",
    ];
    let mut seed = 42u64;
    let mut next = move |below: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    let alphabet = b"%7B%22&=?/[]{}~.*(|)\\+-0123456789abcxyz\"'<>";
    for round in 0..600 {
        let mut path = seeds[next(seeds.len())].as_bytes().to_vec();
        for _ in 0..next(4) + 1 {
            let at = 1 + next(path.len() - 1);
            match next(3) {
                0 => path[at] = alphabet[next(alphabet.len())],
                1 => path.insert(at, alphabet[next(alphabet.len())]),
                _ => path.truncate(at + 1),
            }
        }
        let Ok(uri) = axum::http::Uri::try_from(&path[..]) else { continue };
        let answer = get(&state, &uri.to_string()).await;
        assert!(answer.status.as_u16() < 500, "round {round}: {uri}: {}", answer.status);
    }
}
