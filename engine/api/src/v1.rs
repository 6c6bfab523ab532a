//! `/api/v1`: targets, metadata, status. Names and shapes are Prometheus'; what we add stands beside them.

use crate::answer::{ApiError, ApiResult, Data, NEVER, bulk, rfc3339, rfc3339_of};
use crate::params::Params;
use crate::state::State;
use axum::extract;
use axum::response::{IntoResponse, Response};
use promql::parse_selector;
use serde::Serialize;
use series::Labels;
use shard::{Health, MetadataRequest, TargetStatus};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use targets::{DropReason, Pool, Target, TargetId};

type S = extract::State<State>;

/// A label set as a JSON object.
#[derive(Serialize)]
#[serde(transparent)]
pub struct LabelMap(BTreeMap<String, String>);

impl From<&Labels> for LabelMap {
    fn from(labels: &Labels) -> LabelMap {
        LabelMap(labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveTarget {
    discovered_labels: LabelMap,
    labels: LabelMap,
    scrape_pool: String,
    scrape_url: String,
    global_url: String,
    last_error: String,
    last_scrape: String,
    /// Seconds.
    last_scrape_duration: f64,
    health: &'static str,
    scrape_interval: String,
    scrape_timeout: String,
    // Ours from here on.
    /// At which step the last scrape failed; "" when it did not.
    last_error_reason: &'static str,
    core: Option<usize>,
    last_scrape_samples: u64,
    last_scrape_series_added: u64,
    /// Unpacked, and as they came over the wire.
    last_scrape_body_bytes: u64,
    last_scrape_wire_bytes: u64,
    scrapes: u64,
    scrapes_failed: u64,
    missed_scrapes: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DroppedTarget {
    discovered_labels: LabelMap,
    scrape_pool: String,
}

/// A discovered target that cannot be scraped.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedTarget {
    discovered_labels: LabelMap,
    scrape_pool: String,
    error: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherTarget {
    discovered_labels: LabelMap,
    scrape_pool: String,
    members: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceError {
    scrape_pool: String,
    error: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Targets {
    active_targets: Vec<ActiveTarget>,
    dropped_targets: Vec<DroppedTarget>,
    /// Null where the dropped ones are not shown.
    dropped_target_counts: Option<BTreeMap<String, usize>>,
    other_members_targets: Vec<OtherTarget>,
    /// Of jobs that other members have a part of.
    other_members_target_counts: BTreeMap<String, usize>,
    failed_targets: Vec<FailedTarget>,
    source_errors: Vec<SourceError>,
}

/// State of every target by id.
pub async fn statuses(state: &State) -> Result<HashMap<TargetId, TargetStatus>, ApiError> {
    Ok(state.parts.shards.statuses().await?.into_iter().map(|status| (status.id, status)).collect())
}

fn active(state: &State, pool: &Pool, target: &Target, status: Option<&TargetStatus>) -> ActiveTarget {
    let missed = |status: &TargetStatus| {
        BTreeMap::from([
            (shard::Missed::InFlight.as_str(), status.missed_in_flight),
            (shard::Missed::CoreLate.as_str(), status.missed_core_late),
        ])
    };
    ActiveTarget {
        discovered_labels: (&target.discovered).into(),
        labels: (&target.labels).into(),
        scrape_pool: pool.job.job_name.clone(),
        scrape_url: target.url.to_string(),
        global_url: global_url(state, target),
        last_error: status.and_then(|status| status.last_error.clone()).unwrap_or_default(),
        last_scrape: status.and_then(|status| status.last_scrape).map_or_else(|| NEVER.to_owned(), |at| rfc3339(at.0)),
        last_scrape_duration: status.map_or(0.0, |status| status.last_duration.as_secs_f64()),
        health: status.map_or(Health::Unknown, |status| status.health).as_str(),
        scrape_interval: as_written(target, "__scrape_interval__", target.interval),
        scrape_timeout: as_written(target, "__scrape_timeout__", target.timeout),
        last_error_reason: status.and_then(|status| status.last_reason).map_or("", |reason| reason.as_str()),
        core: status.map(|status| status.core),
        last_scrape_samples: status.map_or(0, |status| status.samples_scraped),
        last_scrape_series_added: status.map_or(0, |status| status.series_added),
        last_scrape_body_bytes: status.map_or(0, |status| status.body_bytes),
        last_scrape_wire_bytes: status.map_or(0, |status| status.wire_bytes),
        scrapes: status.map_or(0, |status| status.scrapes),
        scrapes_failed: status.map_or(0, |status| status.scrapes_failed),
        missed_scrapes: status.map(missed).unwrap_or_default(),
    }
}

/// A duration as the target's label says it, unless relabelling has made another one of it.
fn as_written(target: &Target, label: &str, duration: Duration) -> String {
    let written =
        target.discovered.get(label).filter(|text| config::parse_duration(text).is_ok_and(|it| it == duration));
    written.map_or_else(|| config::format_duration(duration), str::to_owned)
}

/// The URL with the host of the external URL in place of a loopback one.
fn global_url(state: &State, target: &Target) -> String {
    let url = target.url.to_string();
    let external = state.parts.external_url.as_deref().and_then(|external| url::Url::parse(external).ok());
    let host = external.and_then(|external| external.host_str().map(str::to_owned));
    match host {
        Some(host) if ["localhost", "127.0.0.1", "::1"].contains(&target.url.host.as_str()) => {
            let port = target.url.authority.rsplit_once(':').map(|(_, port)| format!(":{port}")).unwrap_or_default();
            url.replacen(&target.url.authority, &format!("{host}{port}"), 1)
        }
        _ => url,
    }
}

pub async fn targets(extract::State(state): S, params: Params) -> Result<Response, ApiError> {
    // As in Prometheus, an unknown state shows nothing.
    let (show_active, show_dropped) = match params.get("state").unwrap_or("").to_lowercase().as_str() {
        "" | "any" => (true, true),
        "active" => (true, false),
        "dropped" => (false, true),
        _ => (false, false),
    };
    let statuses = if show_active { statuses(&state).await? } else { HashMap::new() };
    bulk(move || Ok(Data(list_targets(&state, &params, &statuses, show_active, show_dropped)).into_response())).await
}

fn list_targets(
    state: &State,
    params: &Params,
    statuses: &HashMap<TargetId, TargetStatus>,
    show_active: bool,
    show_dropped: bool,
) -> Targets {
    let set = state.target_set();
    let mut answer = Targets {
        active_targets: Vec::new(),
        dropped_targets: Vec::new(),
        dropped_target_counts: show_dropped.then(BTreeMap::new),
        other_members_targets: Vec::new(),
        other_members_target_counts: BTreeMap::new(),
        failed_targets: Vec::new(),
        source_errors: Vec::new(),
    };
    for pool in &set.pools {
        let name = &pool.job.job_name;
        if let Some(counts) = &mut answer.dropped_target_counts {
            counts.insert(name.clone(), pool.dropped_count);
        }
        if params.get("scrapePool").is_some_and(|wanted| !wanted.is_empty() && wanted != name) {
            continue;
        }
        if pool.others_count > 0 {
            answer.other_members_target_counts.insert(name.clone(), pool.others_count);
        }
        if show_active {
            let one = |target: &Arc<Target>| active(state, pool, target, statuses.get(&target.id));
            answer.active_targets.extend(pool.active.iter().map(one));
        }
        if show_dropped {
            let one = |labels| DroppedTarget { discovered_labels: labels, scrape_pool: name.clone() };
            let dropped = pool.dropped.iter().filter(|dropped| dropped.reason != DropReason::Duplicate);
            answer.dropped_targets.extend(dropped.map(|dropped| one(LabelMap::from(&dropped.discovered))));
            let other = |other: &targets::OtherTarget| OtherTarget {
                discovered_labels: (&other.discovered).into(),
                scrape_pool: name.clone(),
                members: other.owners.clone(),
            };
            answer.other_members_targets.extend(pool.others.iter().map(other));
        }
        answer.failed_targets.extend(pool.failed.iter().map(|failed| FailedTarget {
            discovered_labels: (&failed.discovered).into(),
            scrape_pool: name.clone(),
            error: failed.error.clone(),
        }));
        let error = |error: &String| SourceError { scrape_pool: name.clone(), error: error.clone() };
        answer.source_errors.extend(pool.source_errors.iter().map(error));
    }
    answer
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrapePools {
    scrape_pools: Vec<String>,
}

pub async fn scrape_pools(state: S) -> ApiResult<ScrapePools> {
    let pools = state.target_set().pools.iter().map(|pool| pool.job.job_name.clone()).collect();
    Ok(Data(ScrapePools { scrape_pools: pools }))
}

#[derive(Serialize)]
pub struct Yaml {
    yaml: String,
}

fn no_such_pool(name: &str) -> ApiError {
    ApiError::bad_data(format!("error retrieving scrape config: scrape pool {name:?} not found"))
}

pub async fn scrape_pool_config(state: S, params: Params) -> ApiResult<Yaml> {
    let name = params.get("scrapePool").ok_or_else(|| ApiError::bad_data("no scrapePool parameter provided"))?;
    let set = state.target_set();
    let pool = set.pools.iter().find(|pool| pool.job.job_name == name);
    let pool = pool.ok_or_else(|| no_such_pool(name))?;
    Ok(Data(Yaml { yaml: pool.job.to_yaml() }))
}

#[derive(Serialize)]
pub struct RelabelSteps {
    steps: Vec<RelabelStep>,
}

#[derive(Serialize)]
pub struct RelabelStep {
    rule: String,
    output: LabelMap,
    keep: bool,
}

pub async fn relabel_steps(state: S, params: Params) -> ApiResult<RelabelSteps> {
    let name = params.get("scrapePool").ok_or_else(|| ApiError::bad_data("no scrapePool parameter provided"))?;
    let labels = params.get("labels").ok_or_else(|| ApiError::bad_data("no labels parameter provided"))?;
    let labels: BTreeMap<String, String> = serde_json::from_str(labels)
        .map_err(|error| ApiError::bad_data(format!("labels are not a JSON object of strings: {error}")))?;
    let set = state.target_set();
    let pool = set.pools.iter().find(|pool| pool.job.job_name == name);
    let pool = pool.ok_or_else(|| no_such_pool(name))?;
    let steps = pool.job.relabel_configs.explain(Labels::from_pairs(labels));
    let step =
        |step: relabel::Step| RelabelStep { rule: step.rendering, output: (&step.labels).into(), keep: step.kept };
    Ok(Data(RelabelSteps { steps: steps.into_iter().map(step).collect() }))
}

#[derive(Serialize)]
pub struct TargetMetadata {
    target: LabelMap,
    #[serde(skip_serializing_if = "String::is_empty")]
    metric: String,
    r#type: String,
    help: String,
    unit: String,
}

pub async fn targets_metadata(extract::State(state): S, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit("limit")?;
    let target_matchers = match params.get("match_target") {
        Some(text) if !text.is_empty() => {
            parse_selector(text).map_err(|error| ApiError::bad_data(error.to_string()))?
        }
        _ => Vec::new(),
    };
    let metric = params.get("metric").filter(|metric| !metric.is_empty()).map(str::to_owned);
    if limit == 0 {
        return Ok(Data(Vec::<TargetMetadata>::new()).into_response());
    }
    // The limit is one of metrics: how many targets they take is not known before.
    let request = MetadataRequest { metric, target_matchers, targets_max: 0 };
    let single = request.metric.is_some();
    let found = state.parts.shards.metadata(request).await?;
    bulk(move || Ok(Data(list_metadata(&state.target_set(), &found, single, limit)).into_response())).await
}

/// At most `limit` metrics with their targets; `single` leaves their names out, as Prometheus does if one was asked for.
fn list_metadata(
    set: &targets::TargetSet,
    found: &[shard::TargetMetadata],
    single: bool,
    limit: usize,
) -> Vec<TargetMetadata> {
    let targets: HashMap<TargetId, &Target> =
        set.pools.iter().flat_map(|pool| &pool.active).map(|target| (target.id, &**target)).collect();
    let mut answer = Vec::new();
    for of_target in found {
        let Some(target) = targets.get(&of_target.target) else { continue };
        for metadata in &of_target.metrics {
            answer.push(TargetMetadata {
                target: (&target.labels).into(),
                metric: if single { String::new() } else { metadata.metric.clone() },
                r#type: metadata.kind.clone(),
                help: metadata.help.clone(),
                unit: metadata.unit.clone(),
            });
            if answer.len() >= limit {
                return answer;
            }
        }
    }
    answer
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricMetadata {
    r#type: String,
    help: String,
    unit: String,
}

pub async fn metadata(state: S, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit("limit")?;
    // 0 is no limit for this one, as in Prometheus.
    let limit_per_metric = match params.limit("limit_per_metric")? {
        0 => usize::MAX,
        limit => limit,
    };
    let metric = params.get("metric").filter(|metric| !metric.is_empty()).map(str::to_owned);
    let written = state.remote.metadata.all(metric.as_deref());
    let request = MetadataRequest { metric, ..MetadataRequest::default() };
    let found = state.parts.shards.metadata(request).await?;
    bulk(move || Ok(Data(merge_metadata(&found, &written, limit, limit_per_metric)).into_response())).await
}

/// Metadata by metric: of at most `limit` metrics, and at most `limit_per_metric` of each.
fn merge_metadata(
    found: &[shard::TargetMetadata],
    written: &[Arc<shard::Metadata>],
    limit: usize,
    limit_per_metric: usize,
) -> BTreeMap<String, BTreeSet<MetricMetadata>> {
    let mut answer: BTreeMap<String, BTreeSet<MetricMetadata>> = BTreeMap::new();
    // Targets share what they expose alike; what was looked at once needs no second look.
    let mut seen = std::collections::HashSet::new();
    for metadata in found.iter().flat_map(|of_target| &of_target.metrics).chain(written) {
        if !seen.insert(Arc::as_ptr(metadata)) {
            continue;
        }
        if answer.len() >= limit && !answer.contains_key(&metadata.metric) {
            continue;
        }
        let of_metric = answer.entry(metadata.metric.clone()).or_default();
        if of_metric.len() < limit_per_metric {
            let (kind, help, unit) = (metadata.kind.clone(), metadata.help.clone(), metadata.unit.clone());
            of_metric.insert(MetricMetadata { r#type: kind, help, unit });
        }
    }
    answer
}

pub async fn status_config(state: S) -> ApiResult<Yaml> {
    Ok(Data(Yaml { yaml: state.running().config.to_yaml() }))
}

pub async fn status_flags(state: S) -> ApiResult<BTreeMap<String, String>> {
    Ok(Data(state.parts.flags.clone()))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildInfo {
    version: &'static str,
    revision: &'static str,
    branch: &'static str,
    build_user: &'static str,
    build_date: &'static str,
    go_version: &'static str,
    /// Tells us from Prometheus.
    application: &'static str,
}

/// The build. `version` is that of Prometheus which we follow, because clients choose by it what they ask; our own stands
/// behind its plus sign.
pub fn build_info() -> BuildInfo {
    BuildInfo {
        version: crate::telemetry::FOLLOWED_VERSION,
        revision: "",
        branch: "",
        build_user: "",
        build_date: "",
        go_version: "",
        application: "ringscrape",
    }
}

pub async fn status_buildinfo() -> ApiResult<BuildInfo> {
    Ok(Data(build_info()))
}

/// `/version`: the same without the envelope.
pub async fn status_version() -> axum::Json<BuildInfo> {
    axum::Json(build_info())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeInfo {
    start_time: String,
    #[serde(rename = "CWD")]
    cwd: String,
    hostname: String,
    server_time: String,
    reload_config_success: bool,
    last_config_time: String,
    corruption_count: u64,
    /// Executors that scrape.
    cores: usize,
    time_series: u64,
    storage_retention: String,
    /// Why targets are held back, while they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    safe_mode: Option<String>,
}

pub async fn status_runtimeinfo(state: S) -> ApiResult<RuntimeInfo> {
    Ok(Data(runtime_info(&state).await?))
}

fn safe_mode(state: &State) -> Option<String> {
    let shards = &state.parts.shards;
    let of_agent = || shards.agent().and_then(|agent| agent.safe_mode());
    let safe_mode = shards.store().and_then(|store| store.safe_mode()).or_else(of_agent);
    safe_mode.map(ToString::to_string)
}

pub async fn runtime_info(state: &State) -> Result<RuntimeInfo, ApiError> {
    let running = state.running();
    let stats = state.parts.shards.stats().await?;
    Ok(RuntimeInfo {
        start_time: rfc3339_of(state.started_at),
        cwd: std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
        hostname: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        server_time: rfc3339_of(std::time::SystemTime::now()),
        reload_config_success: running.refused.is_none(),
        last_config_time: rfc3339_of(running.loaded_at),
        safe_mode: safe_mode(state),
        corruption_count: state.parts.shards.store().map_or(0, |store| store.stats().damages),
        cores: stats.len(),
        time_series: stats.iter().map(|core| core.series).sum(),
        storage_retention: state.parts.shards.store().map_or_else(String::new, |store| {
            config::format_duration(std::time::Duration::from_millis(store.options().retention_ms as u64))
        }),
    })
}

/// Endpoints of Prometheus that this build does not have, and names that nobody has.
pub async fn missing(request: extract::Request) -> ApiError {
    ApiError::not_found(format!("{} is not part of this build; see docs/compatibility.md", request.uri().path()))
}
