//! `/api/v1`: what is stored, and how: series and labels; the state of the data folder; admin.

use crate::answer::{ApiError, ApiResult, Data, bulk};
use crate::json::labels::{write_labels, write_text};
use crate::json::list::respond;
use crate::params::Params;
use crate::read_params::{api_selectors, label_name, limit};
use crate::state::State;
use axum::extract;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use query::{LabelRequest, LabelTexts, SeriesLabels};
use serde::Serialize;
use series::Timestamp;
use series::clock::now_ms;
use shard::Cardinality;
use std::collections::BTreeMap;
use std::sync::Arc;
use tsdb::Store;

type S = extract::State<State>;

/// Entries of each list of `/status/tsdb`.
const TOP_DEFAULT: usize = 10;
const TOP_MAX: usize = 10_000;

fn unavailable(text: impl Into<String>) -> ApiError {
    ApiError { status: StatusCode::SERVICE_UNAVAILABLE, kind: "unavailable", text: text.into() }
}

pub(crate) fn store(state: &State) -> Result<&Arc<Store>, ApiError> {
    state.parts.shards.store().ok_or_else(|| unavailable("this server keeps no data folder"))
}

/// Which series the parameters select, and in which range of time: without one, all that is kept. None for a range that
/// ends before it begins: nothing is in it.
fn label_request(params: &Params) -> Result<Option<LabelRequest>, ApiError> {
    let limit = limit(params)?;
    let (from, to) = (params.time("start", i64::MIN)?, params.time("end", i64::MAX)?);
    let selectors = api_selectors(params)?;
    Ok((from <= to).then_some(LabelRequest { selectors, from: Timestamp(from), to: Timestamp(to), limit }))
}

pub async fn series(state: S, params: Params) -> Result<Response, ApiError> {
    if params.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let Some(request) = label_request(&params)? else { return Ok(nothing()) };
    let SeriesLabels { sets, is_truncated, charge } = state.parts.query.series(request).await?;
    Ok(respond(sets, write_labels, is_truncated, charge))
}

fn respond_texts(found: LabelTexts) -> Response {
    let LabelTexts { texts, is_truncated, charge } = found;
    respond(texts, |out, text| write_text(out, text), is_truncated, charge)
}

/// An answer without entries.
fn nothing() -> Response {
    Data(Vec::<()>::new()).into_response()
}

pub async fn label_names(state: S, params: Params) -> Result<Response, ApiError> {
    let Some(request) = label_request(&params)? else { return Ok(nothing()) };
    Ok(respond_texts(state.parts.query.label_names(request).await?))
}

pub async fn label_values(
    state: S,
    name: Result<extract::Path<String>, PathRejection>,
    params: Params,
) -> Result<Response, ApiError> {
    let Ok(name) = name else { return Err(ApiError::bad_data("invalid label name: it is not UTF-8")) };
    let name = label_name(&name);
    if name.is_empty() {
        return Err(ApiError::bad_data("invalid label name: \"\""));
    }
    let Some(request) = label_request(&params)? else { return Ok(nothing()) };
    Ok(respond_texts(state.parts.query.label_values(&name, request).await?))
}

// --- status -------------------------------------------------------------------------------------------------------

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WalReplay {
    min: u64,
    max: u64,
    current: u64,
    state: &'static str,
    // Ours from here on.
    bytes: u64,
    rows: u64,
    samples: u64,
    rows_lost: u64,
}

/// How far the replay of old logs has come, in files. An agent replays nothing.
pub async fn walreplay(state: S) -> ApiResult<WalReplay> {
    let replay = match state.parts.shards.agent() {
        Some(_) => tsdb::ReplayState { done: true, ..tsdb::ReplayState::default() },
        None => store(&state)?.replay(),
    };
    Ok(Data(WalReplay {
        min: 0,
        max: replay.files,
        current: replay.files_done,
        state: if replay.done { "done" } else { "in progress" },
        bytes: replay.bytes,
        rows: replay.rows,
        samples: replay.samples,
        rows_lost: replay.rows_lost,
    }))
}

#[derive(Serialize)]
pub struct Stat {
    name: String,
    value: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeadStats {
    num_series: u64,
    num_label_pairs: usize,
    chunk_count: u64,
    min_time: i64,
    max_time: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TsdbStatus {
    head_stats: HeadStats,
    series_count_by_metric_name: Vec<Stat>,
    label_value_count_by_label_name: Vec<Stat>,
    memory_in_bytes_by_label_name: Vec<Stat>,
    series_count_by_label_value_pair: Vec<Stat>,
}

/// The live series by name and label.
pub async fn status_tsdb(state: S, params: Params) -> Result<Response, ApiError> {
    let top = match params.limit("limit")? {
        usize::MAX => TOP_DEFAULT,
        limit if (1..=TOP_MAX).contains(&limit) => limit,
        _ => return Err(ApiError::bad_data(format!("limit must be a number between 1 and {TOP_MAX}"))),
    };
    // One at a time: the lists of all label pairs are large.
    let _turn = state.cardinality_turn.lock().await;
    let of_cores = state.parts.shards.cardinality().await?;
    let stats = state.parts.shards.store().map(|store| (store.stats(), store.head_bounds()));
    let (segments, bounds) = stats.map_or((0, None), |(stats, bounds)| (stats.segments_sealed, bounds));
    bulk(move || {
        let counts = Cardinality::sum(of_cores);
        let min_time = bounds.map_or(counts.min_time, |(oldest, _)| oldest.min(counts.min_time));
        let head_stats = HeadStats {
            num_series: counts.series,
            num_label_pairs: counts.pairs.len(),
            chunk_count: segments,
            min_time,
            max_time: counts.max_time,
        };
        Ok(Data(tsdb_status(head_stats, &counts, top)).into_response())
    })
    .await
}

/// What the head has, and the `top` largest of what is counted.
fn tsdb_status(head_stats: HeadStats, counts: &Cardinality, top: usize) -> TsdbStatus {
    #[derive(Default)]
    struct OfName {
        values: u64,
        bytes: u64,
    }
    let mut names: BTreeMap<&str, u64> = BTreeMap::new();
    let mut of_names: BTreeMap<&str, OfName> = BTreeMap::new();
    for ((name, value), series) in &counts.pairs {
        if name == series::METRIC_NAME {
            *names.entry(value).or_default() += series;
        }
        let of_name = of_names.entry(name).or_default();
        of_name.values += 1;
        of_name.bytes += (name.len() + value.len()) as u64 * series;
    }
    let values = of_names.iter().map(|(name, of_name)| (*name, of_name.values));
    let bytes = of_names.iter().map(|(name, of_name)| (*name, of_name.bytes));
    let pairs = counts.pairs.iter().map(|(pair, series)| (pair, *series));
    TsdbStatus {
        head_stats,
        series_count_by_metric_name: largest(names, top, |name| (*name).to_owned()),
        label_value_count_by_label_name: largest(values, top, |name| (*name).to_owned()),
        memory_in_bytes_by_label_name: largest(bytes, top, |name| (*name).to_owned()),
        series_count_by_label_value_pair: largest(pairs, top, |(name, value)| format!("{name}={value}")),
    }
}

/// The `top` largest counts, in order; those that are equal by what they count.
fn largest<K: Ord>(counts: impl IntoIterator<Item = (K, u64)>, top: usize, text: impl Fn(&K) -> String) -> Vec<Stat> {
    let mut counts: Vec<(K, u64)> = counts.into_iter().collect();
    let by_count = |one: &(K, u64), other: &(K, u64)| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0));
    if counts.len() > top {
        counts.select_nth_unstable_by(top, by_count);
        counts.truncate(top);
    }
    counts.sort_unstable_by(by_count);
    counts.iter().map(|(key, value)| Stat { name: text(key), value: *value }).collect()
}

#[derive(Serialize)]
pub struct Blocks {
    blocks: Vec<blocks::Meta>,
    /// Ours: blocks that cannot be opened, and why.
    #[serde(rename = "badBlocks")]
    bad: Vec<String>,
}

pub async fn status_blocks(state: S) -> ApiResult<Blocks> {
    let (blocks, bad) = store(&state)?.block_metas();
    Ok(Data(Blocks { blocks, bad: bad.iter().map(ToString::to_string).collect() }))
}

// --- admin --------------------------------------------------------------------------------------------------------

fn admin(state: &State) -> Result<&Arc<Store>, ApiError> {
    if !state.parts.enable_admin_api {
        return Err(unavailable("admin APIs disabled"));
    }
    store(state)
}

/// Work on the data folder, on a thread that may block.
async fn on_folder<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, String> + Send + 'static,
) -> Result<T, ApiError> {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    done.map_err(|error| ApiError::internal(error.to_string()))?.map_err(ApiError::internal)
}

pub async fn delete_series(state: S, params: Params) -> Result<Response, ApiError> {
    let store = admin(&state)?;
    state.parts.query.check_ready()?;
    if params.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let selectors = api_selectors(&params)?;
    let now = now_ms();
    let (from, to) = (params.time("start", i64::MIN)?, params.time("end", i64::MAX)?);
    on_folder(store, move |store| selectors.iter().try_for_each(|matchers| store.delete(matchers, from, to, now)))
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub async fn clean_tombstones(state: S) -> Result<Response, ApiError> {
    on_folder(admin(&state)?, Store::clean_tombstones).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize)]
pub struct Snapshot {
    name: String,
}

/// Blocks and, unless `skip_head` is set, everything scraped and written until now.
pub async fn snapshot(state: S, params: Params) -> ApiResult<Snapshot> {
    let store = admin(&state)?;
    state.parts.query.check_ready()?;
    let with_head = match params.get("skip_head") {
        None | Some("") | Some("false") => true,
        Some("true") => false,
        Some(other) => {
            return Err(ApiError::bad_data(format!("unable to parse boolean 'skip_head' argument: {other}")));
        }
    };
    let memory = if with_head { Some(state.parts.shards.unflushed().await?) } else { None };
    let name = on_folder(store, move |store| store.snapshot(memory)).await?;
    Ok(Data(Snapshot { name }))
}
