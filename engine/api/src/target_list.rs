//! `/api/v1/ringscrape/targets/…`: all targets in columns, for pages that show ten thousand of them, and one whole.
//!
//! Bounded: a target costs some 150 bytes in the list, which changes seldom, and some 60 in the state. Texts are cut.

use crate::answer::{ApiError, ApiResult, Data};
use crate::params::Params;
use crate::state::State;
use crate::v1::{LabelMap, statuses};
use axum::extract;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use series::Labels;
use series::clock::now_ms;
use shard::{Health, TargetStatus};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::Arc;
use targets::{Pool, Target, TargetId, TargetSet};
use xxhash_rust::xxh3::Xxh3;

type S = extract::State<State>;

/// Bytes of an error in the state of all targets; one target has the whole text.
const ERROR_BYTES_MAX: usize = 300;
/// Errors and failed addresses that are shown of a job.
const ERRORS_MAX: usize = 20;

/// A number that changes when the list of targets does: its ids, and what the list says of jobs.
fn generation(set: &TargetSet) -> u64 {
    let mut hasher = Xxh3::new();
    for pool in &set.pools {
        hasher.write(pool.job.job_name.as_bytes());
        let counts = [pool.active.len(), pool.discovered_count, pool.dropped_count, pool.duplicates_count];
        let more = [pool.others_count, pool.leaving.len(), pool.failed.len(), pool.source_errors.len()];
        counts.iter().chain(&more).for_each(|count| hasher.write_usize(*count));
        hasher.write_u64(pool.job.sample_limit);
        hasher.write_u64(pool.job.body_size_limit);
        pool.source_errors.iter().for_each(|error| hasher.write(error.as_bytes()));
        for target in &pool.active {
            hasher.write_u64(target.id.0);
            hasher.write_u64(target.interval.as_millis() as u64);
            hasher.write_u64(target.timeout.as_millis() as u64);
        }
    }
    hasher.finish()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PoolRow {
    name: String,
    /// Milliseconds.
    interval: u64,
    timeout: u64,
    sample_limit: u64,
    body_size_limit: u64,
    target_limit: u64,
    /// Labels that all its targets have alike.
    labels: LabelMap,
    active: usize,
    discovered: usize,
    dropped: usize,
    duplicates: usize,
    leaving: usize,
    others: usize,
    failed: usize,
    /// The first of those that cannot be scraped.
    failed_targets: Vec<FailedRow>,
    source_errors: Vec<String>,
}

#[derive(Serialize)]
struct FailedRow {
    labels: LabelMap,
    error: String,
}

/// Columns: entry i of each is of target i.
#[derive(Default, Serialize)]
struct ListColumns {
    id: Vec<String>,
    /// Index of its pool.
    pool: Vec<usize>,
    url: Vec<String>,
    /// Names and values one after the other, without labels that the pool has.
    labels: Vec<Vec<String>>,
    /// Milliseconds, for those that differ from their pool.
    intervals: BTreeMap<usize, u64>,
}

#[derive(Serialize)]
struct TargetList {
    generation: String,
    pools: Vec<PoolRow>,
    targets: ListColumns,
}

/// Labels that all targets of a pool have with the same value.
fn common_labels(pool: &Pool) -> Labels {
    let Some((first, others)) = pool.active.split_first() else { return Labels::empty() };
    let is_common = |(name, value): &(&str, &str)| others.iter().all(|other| other.labels.get(name) == Some(value));
    Labels::from_pairs(first.labels.iter().filter(is_common))
}

fn pool_row(pool: &Pool, common: &Labels) -> PoolRow {
    let job = &pool.job;
    let failed = pool.failed.iter().take(ERRORS_MAX);
    PoolRow {
        name: job.job_name.clone(),
        interval: job.scrape_interval.as_millis() as u64,
        timeout: job.scrape_timeout.as_millis() as u64,
        sample_limit: job.sample_limit,
        body_size_limit: job.body_size_limit,
        target_limit: job.target_limit,
        labels: common.into(),
        active: pool.active.len(),
        discovered: pool.discovered_count,
        dropped: pool.dropped_count,
        duplicates: pool.duplicates_count,
        leaving: pool.leaving.len(),
        others: pool.others_count,
        failed: pool.failed.len(),
        failed_targets: failed
            .map(|failed| FailedRow { labels: (&failed.discovered).into(), error: shorten(&failed.error).to_owned() })
            .collect(),
        source_errors: pool.source_errors.iter().take(ERRORS_MAX).cloned().collect(),
    }
}

fn build_list(set: &TargetSet) -> TargetList {
    let mut targets = ListColumns::default();
    let mut pools = Vec::with_capacity(set.pools.len());
    for (index, pool) in set.pools.iter().enumerate() {
        let common = common_labels(pool);
        for target in &pool.active {
            if target.interval != pool.job.scrape_interval {
                targets.intervals.insert(targets.id.len(), target.interval.as_millis() as u64);
            }
            targets.id.push(format!("{:016x}", target.id.0));
            targets.pool.push(index);
            targets.url.push(target.url.to_string());
            let own = target.labels.iter().filter(|(name, _)| common.get(name).is_none());
            targets.labels.push(own.flat_map(|(name, value)| [name.to_owned(), value.to_owned()]).collect());
        }
        pools.push(pool_row(pool, &common));
    }
    TargetList { generation: format!("{:016x}", generation(set)), pools, targets }
}

/// `targets/list`: what changes only when the targets do. A client that has it sends its `ETag` and gets a 304.
pub(crate) async fn list(state: S, headers: HeaderMap) -> Response {
    let set = state.target_set();
    let tag = format!("\"{:016x}\"", generation(&set));
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        // At ten thousand targets this takes some milliseconds.
        false => match tokio::task::spawn_blocking(move || build_list(&set)).await {
            Ok(list) => Data(list).into_response(),
            Err(error) => return internal(&error).into_response(),
        },
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn internal(error: &tokio::task::JoinError) -> ApiError {
    ApiError::internal(error.to_string())
}

/// Columns in the order of the list.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TargetStates {
    /// Of the list that the columns belong to.
    generation: String,
    now: i64,
    /// A letter for each target: `u` up, `d` down, `n` not scraped yet.
    health: String,
    /// The last 64 outcomes in hexadecimal, the newest in the lowest bit.
    outcomes: Vec<String>,
    /// How many outcomes there are, where there are fewer than 64.
    outcome_counts: BTreeMap<usize, u64>,
    /// Indexes into `reasons`, of targets that are down.
    reason: BTreeMap<usize, usize>,
    reasons: Vec<&'static str>,
    errors: BTreeMap<usize, String>,
    /// Unix milliseconds of the last scrape; 0: none.
    at: Vec<i64>,
    /// Unix milliseconds since when the health is what it is; 0: not scraped.
    since: Vec<i64>,
    /// Microseconds that the last scrape took.
    took: Vec<u64>,
    samples: Vec<u64>,
    /// After metric relabelling, where that differs.
    samples_kept: BTreeMap<usize, u64>,
    bytes: Vec<u64>,
    /// Ticks without a scrape, where there are any.
    missed: BTreeMap<usize, u64>,
    core: Vec<usize>,
}

/// The begin of a text that may be long.
fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_BYTES_MAX)]
}

fn build_states(set: &TargetSet, statuses: &HashMap<TargetId, TargetStatus>) -> TargetStates {
    let mut states =
        TargetStates { generation: format!("{:016x}", generation(set)), now: now_ms(), ..TargetStates::default() };
    for (index, target) in set.pools.iter().flat_map(|pool| &pool.active).enumerate() {
        let new = TargetStatus::new(target.id, 0);
        let status = statuses.get(&target.id).unwrap_or(&new);
        states.health.push(match status.health {
            Health::Up => 'u',
            Health::Down => 'd',
            Health::Unknown => 'n',
        });
        states.outcomes.push(format!("{:x}", status.outcomes));
        if status.scrapes < 64 {
            states.outcome_counts.insert(index, status.scrapes);
        }
        if let Some(reason) = status.last_reason {
            let known = states.reasons.iter().position(|known| *known == reason.as_str());
            let place = known.unwrap_or_else(|| {
                states.reasons.push(reason.as_str());
                states.reasons.len() - 1
            });
            states.reason.insert(index, place);
        }
        if let Some(error) = &status.last_error {
            states.errors.insert(index, shorten(error).to_owned());
        }
        states.at.push(status.last_scrape.map_or(0, |at| at.0));
        states.since.push(status.health_since.map_or(0, |at| at.0));
        states.took.push(status.last_duration.as_micros() as u64);
        states.samples.push(status.samples_scraped);
        if status.samples_post_relabel != status.samples_scraped {
            states.samples_kept.insert(index, status.samples_post_relabel);
        }
        states.bytes.push(status.body_bytes);
        let missed = status.missed_in_flight + status.missed_core_late;
        if missed > 0 {
            states.missed.insert(index, missed);
        }
        states.core.push(status.core);
    }
    states
}

/// `targets/state`: what each scrape changes.
pub(crate) async fn states(state: S) -> Result<Response, ApiError> {
    let set = state.target_set();
    let statuses = statuses(&state).await?;
    let states = tokio::task::spawn_blocking(move || build_states(&set, &statuses)).await;
    Ok(Data(states.map_err(|error| internal(&error))?).into_response())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TargetDetail {
    id: String,
    job: String,
    url: String,
    labels: LabelMap,
    discovered_labels: LabelMap,
    relabel_steps: Vec<RelabelStep>,
    /// Members of the fleet that are about to take it over.
    leaving_to: Vec<String>,
    /// The settings of its job, with those that it inherits.
    settings: String,
    limits: Vec<Limit>,
    /// Milliseconds.
    interval: u64,
    timeout: u64,
    health: &'static str,
    since: Option<i64>,
    core: Option<usize>,
    last_scrape: Option<i64>,
    /// Microseconds.
    took: u64,
    samples: u64,
    samples_kept: u64,
    series_added: u64,
    body_bytes: u64,
    wire_bytes: u64,
    scrapes: u64,
    scrapes_failed: u64,
    missed_in_flight: u64,
    missed_core_late: u64,
    outcomes: String,
    last_error: String,
    last_reason: &'static str,
    /// Newest first.
    failures: Vec<FailureRow>,
    /// Begin of the last body that was refused; what is not UTF-8 is replaced.
    refused_body_head: Option<String>,
}

#[derive(Serialize)]
struct RelabelStep {
    rule: String,
    labels: LabelMap,
    keep: bool,
    /// Whether the rule changed a label.
    changed: bool,
}

#[derive(Serialize)]
struct Limit {
    name: &'static str,
    /// 0: no limit.
    limit: u64,
    /// What the last scrape had; None where that is not counted.
    used: Option<u64>,
}

#[derive(Serialize)]
struct FailureRow {
    at: i64,
    reason: &'static str,
    error: String,
}

fn relabel_steps(target: &Target) -> Vec<RelabelStep> {
    let mut before = target.discovered.clone();
    let steps = target.job.relabel_configs.explain(before.clone());
    let step = |step: relabel::Step| {
        let changed = step.labels != before;
        before = step.labels.clone();
        RelabelStep { rule: step.rendering, labels: (&step.labels).into(), keep: step.kept, changed }
    };
    steps.into_iter().map(step).collect()
}

fn limits(pool: &Pool, status: &TargetStatus) -> Vec<Limit> {
    let job = &pool.job;
    let limit = |name, limit, used| Limit { name, limit, used };
    vec![
        limit("sample_limit", job.sample_limit, Some(status.samples_post_relabel)),
        limit("body_size_limit", job.body_size_limit, Some(status.body_bytes)),
        limit("target_limit", job.target_limit, Some(pool.active.len() as u64)),
        limit("label_limit", job.label_limit, None),
        limit("label_name_length_limit", job.label_name_length_limit, None),
        limit("label_value_length_limit", job.label_value_length_limit, None),
    ]
}

/// The target with the id of the parameter `id`, and its pool.
fn find(set: &TargetSet, params: &Params) -> Result<(Arc<Pool>, Arc<Target>), ApiError> {
    let id = params.get("id").unwrap_or("");
    let wrong = || ApiError::bad_data(format!("invalid parameter \"id\": want 16 hexadecimal digits, not {id:?}"));
    let wanted = TargetId(u64::from_str_radix(id, 16).map_err(|_| wrong())?);
    let mut all = set.pools.iter().flat_map(|pool| pool.active.iter().map(move |target| (pool, target)));
    let found = all.find(|(_, target)| target.id == wanted);
    let (pool, target) = found.ok_or_else(|| {
        ApiError::not_found("no such target here: it is gone, or another member of the fleet scrapes it now")
    })?;
    Ok((pool.clone(), target.clone()))
}

/// `targets/one?id=…`
pub(crate) async fn one(state: S, params: Params) -> ApiResult<TargetDetail> {
    let (pool, target) = find(&state.target_set(), &params)?;
    let known = state.parts.shards.statuses().await?.into_iter().find(|status| status.id == target.id);
    let core = known.as_ref().map(|status| status.core);
    let status = known.unwrap_or_else(|| TargetStatus::new(target.id, 0));
    let leaving = pool.leaving.iter().find(|leaving| leaving.id == target.id);
    let failure = |failure: &shard::Failure| FailureRow {
        at: failure.at.0,
        reason: failure.reason.as_str(),
        error: failure.text.clone(),
    };
    Ok(Data(TargetDetail {
        id: format!("{:016x}", target.id.0),
        job: pool.job.job_name.clone(),
        url: target.url.to_string(),
        labels: (&target.labels).into(),
        discovered_labels: (&target.discovered).into(),
        relabel_steps: relabel_steps(&target),
        leaving_to: leaving.map(|leaving| leaving.to.clone()).unwrap_or_default(),
        settings: pool.job.to_yaml(),
        limits: limits(&pool, &status),
        interval: target.interval.as_millis() as u64,
        timeout: target.timeout.as_millis() as u64,
        health: status.health.as_str(),
        since: status.health_since.map(|at| at.0),
        core,
        last_scrape: status.last_scrape.map(|at| at.0),
        took: status.last_duration.as_micros() as u64,
        samples: status.samples_scraped,
        samples_kept: status.samples_post_relabel,
        series_added: status.series_added,
        body_bytes: status.body_bytes,
        wire_bytes: status.wire_bytes,
        scrapes: status.scrapes,
        scrapes_failed: status.scrapes_failed,
        missed_in_flight: status.missed_in_flight,
        missed_core_late: status.missed_core_late,
        outcomes: format!("{:x}", status.outcomes),
        last_error: status.last_error.clone().unwrap_or_default(),
        last_reason: status.last_reason.map_or("", |reason| reason.as_str()),
        failures: status.failures.iter().rev().map(failure).collect(),
        refused_body_head: status.refused_body_head.map(|head| String::from_utf8_lossy(&head).into_owned()),
    }))
}
