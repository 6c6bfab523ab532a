//! `/api/v1/query`, `/query_range`, and questions about the text of a query.
//!
//! Invariants:
//!   * at most `concurrency` queries are evaluated at once; more wait, for as long as their timeout
//!   * when the client goes, evaluation stops at the next series
//!   * an answer is written in pieces of about [`PIECE_BYTES`], as fast as the client takes them

use crate::answer::{ApiError, ApiResult, Data};
use crate::params::Params;
use crate::state::State;
use crate::storage::{now_ms, replayed};
use axum::body::Body;
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use promql::{
    Annotations, Answer, Column, EvalError, Evaluated, Grid, Limits, ParseError, ParseOptions, Partial, Plan,
    PlanOptions, Select, Selected, SelectedSeries,
};
use rules::{Found, NO_VECTOR};
use serde_json::{Value, json};
use series::histogram::Histogram;
use series::{Labels, Sample, Timestamp, format_float_json, is_stale};
use shard::{AskError, InstantFound, InstantRequest, RangeRequest, ReduceRequest, Series, Shards};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

type S = extract::State<State>;

/// Points of a series that a range query may ask for.
const POINTS_MAX: i64 = 11_000;
/// How much of an answer is made at a time.
const PIECE_BYTES: usize = 64 << 10;

/// What queries may do and use.
#[derive(Clone, Debug)]
pub struct QuerySettings {
    /// Features, and how far back an instant select looks.
    pub plan: PlanOptions,
    pub timeout: Duration,
    pub concurrency: usize,
    /// Most samples that a question may load.
    pub samples_max: usize,
}

/// Who answers queries, some at a time. Cloning copies pointers.
#[derive(Clone)]
pub struct Queries {
    shards: Shards,
    settings: QuerySettings,
    places: Arc<Semaphore>,
}

impl Queries {
    pub fn new(shards: Shards, settings: QuerySettings) -> Queries {
        let places = Arc::new(Semaphore::new(settings.concurrency.max(1)));
        Queries { shards, settings, places }
    }

    /// Whether questions can be answered in full: the logs of the last run have been read.
    pub fn is_ready(&self) -> bool {
        self.shards.store().is_none_or(|store| store.replay().done)
    }

    /// What expressions yield at one time, as rules want it. What they aggregate is read together; where that fails as a
    /// whole, each is asked alone, so that one that takes too long harms no other.
    pub async fn vectors(&self, exprs: &[&str], at: Timestamp, inner_step: Duration) -> Vec<Result<Found, String>> {
        let options = PlanOptions { inner_step, ..self.settings.plan };
        let timeout = self.settings.timeout;
        let plan = |expr: &&str| Plan::instant(expr, at.0, &options).map(Arc::new).map_err(|error| error.to_string());
        let plans: Vec<Result<Arc<Plan>, String>> = exprs.iter().map(plan).collect();
        let valid: Vec<Arc<Plan>> = plans.iter().filter_map(|plan| plan.as_ref().ok()).cloned().collect();
        let together = run_all(self, valid, &options, timeout).await.ok();
        let mut together = together.map(Vec::into_iter);
        let mut all = Vec::with_capacity(plans.len());
        for plan in plans {
            all.push(match (plan, &mut together) {
                (Err(error), _) => Err(error),
                (Ok(_), Some(ran)) => elements(ran.next().expect("one for each valid plan")),
                (Ok(plan), None) => elements(run(self, plan, &options, timeout).await),
            });
        }
        all
    }
}

fn elements(ran: Result<Timed, ApiError>) -> Result<Found, String> {
    ran.map_err(|error| error.text)?.evaluated.answer.into_elements().ok_or_else(|| NO_VECTOR.into())
}

impl From<EvalError> for ApiError {
    fn from(error: EvalError) -> ApiError {
        let (status, kind) = match error {
            EvalError::Execution(_) => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            EvalError::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            // As nginx has it: the client closed the request.
            EvalError::Canceled => (StatusCode::from_u16(499).expect("a status"), "canceled"),
        };
        ApiError { status, kind, text: error.to_string() }
    }
}

fn bad_query(error: ParseError) -> ApiError {
    ApiError::bad_data(format!("invalid parameter \"query\": {error}"))
}

/// Tells the evaluation that nobody waits for it any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the answers to the selects of plans are made of.
async fn select(
    queries: &Queries,
    plans: &[Arc<Plan>],
    lookback: Duration,
) -> Result<Vec<Result<Vec<Selected>, ApiError>>, ApiError> {
    let samples_max = queries.settings.samples_max;
    let selects = plans.iter().flat_map(|plan| plan.selects());
    let requests = selects.filter_map(|select| {
        Some(ReduceRequest {
            selectors: vec![select.matchers.clone()],
            from: Timestamp(select.from),
            to: Timestamp(select.to),
            reduction: select.reduction.clone()?,
            samples_max,
        })
    });
    let mut reduced = queries.shards.reduce(requests.collect()).await?.into_iter();
    let mut all = Vec::with_capacity(plans.len());
    for plan in plans {
        // Each takes its own, whatever becomes of the plan.
        let own: Vec<_> =
            plan.selects().iter().map(|select| select.reduction.as_ref().and_then(|_| reduced.next())).collect();
        all.push(selected(queries, plan, own, lookback).await);
    }
    Ok(all)
}

/// The same for one plan, where the cores said this to its aggregations.
async fn selected(
    queries: &Queries,
    plan: &Plan,
    reduced: Vec<Option<Result<Option<Partial>, AskError>>>,
    lookback: Duration,
) -> Result<Vec<Selected>, ApiError> {
    let mut data = Vec::with_capacity(reduced.len());
    for (select, reduced) in plan.selects().iter().zip(reduced) {
        data.push(match reduced.transpose()?.flatten() {
            Some(partial) => Selected::Reduced(Box::new(partial)),
            None => Selected::Series(series(queries, select, lookback).await?),
        });
    }
    Ok(data)
}

async fn series(queries: &Queries, select: &Select, lookback: Duration) -> Result<Vec<SelectedSeries>, ApiError> {
    let (from, to) = (Timestamp(select.from), Timestamp(select.to));
    let selectors = vec![select.matchers.clone()];
    let settings = &queries.settings;
    let single = select.is_instant && select.to - select.from == lookback.as_millis() as i64 - 1;
    if single {
        let request = InstantRequest { selectors, at: to, lookback, series_max: settings.samples_max };
        let InstantFound { mut samples, histograms } = queries.shards.instant(request).await?;
        samples.sort_unstable_by(|one, other| one.labels.cmp(&other.labels).then(other.timestamp.cmp(&one.timestamp)));
        samples.dedup_by(|later, kept| later.labels == kept.labels);
        let of_floats = samples.into_iter().map(|sample| SelectedSeries {
            labels: sample.labels,
            samples: vec![Sample { timestamp: sample.timestamp, value: sample.value }],
            histograms: Vec::new(),
        });
        let mut series: Vec<SelectedSeries> = of_floats.collect();
        if !histograms.is_empty() {
            series.extend(histograms.into_iter().map(whole));
            // One series may have both: the evaluation takes the newer.
            series.sort_by(|one, other| one.labels.cmp(&other.labels));
            series.dedup_by(|second, first| {
                let same = second.labels == first.labels;
                if same {
                    first.histograms.append(&mut second.histograms);
                }
                same
            });
        }
        return Ok(series);
    }
    if from > to {
        return Ok(Vec::new());
    }
    let request = RangeRequest { selectors, from, to, samples_max: settings.samples_max, labels_only: false };
    let found = queries.shards.range(request).await?;
    Ok(found.into_iter().map(whole).collect())
}

fn whole(series: Series) -> SelectedSeries {
    SelectedSeries { labels: series.labels, samples: series.samples, histograms: series.histograms }
}

struct Timed {
    evaluated: Evaluated,
    queued: Duration,
    selected: Duration,
    total: Duration,
}

/// Carries a plan out within its limits.
async fn run(queries: &Queries, plan: Arc<Plan>, options: &PlanOptions, timeout: Duration) -> Result<Timed, ApiError> {
    run_all(queries, vec![plan], options, timeout).await?.pop().expect("one plan, one answer")
}

/// Carries plans out together: in one place, with one deadline, each within the limit of samples.
async fn run_all(
    queries: &Queries,
    plans: Vec<Arc<Plan>>,
    options: &PlanOptions,
    timeout: Duration,
) -> Result<Vec<Result<Timed, ApiError>>, ApiError> {
    replayed(&queries.shards)?;
    let started = Instant::now();
    let deadline = started + timeout;
    let late = |_| ApiError {
        status: StatusCode::SERVICE_UNAVAILABLE,
        kind: "timeout",
        text: "query timed out in query queue".into(),
    };
    let place = tokio::time::timeout(timeout, queries.places.clone().acquire_owned()).await.map_err(late)?;
    let queued = started.elapsed();
    let stop = StopOnDrop::default();
    let stopping = stop.0.clone();
    let left = deadline.saturating_duration_since(Instant::now());
    let data = tokio::time::timeout(left, select(queries, &plans, options.lookback)).await;
    let data = data.map_err(|_| ApiError::from(EvalError::Timeout))??;
    let selected = started.elapsed() - queued;
    let samples_max = queries.settings.samples_max;
    let work = move || {
        // Held until the evaluation has really ended, whether somebody waits or not.
        let _place = place;
        let limits = Limits { samples_max, deadline: Some(deadline), stop: &stopping };
        let eval = |(plan, data): (Arc<Plan>, Result<_, ApiError>)| Ok(plan.eval(data?, limits)?);
        plans.into_iter().zip(data).map(eval).collect::<Vec<Result<Evaluated, ApiError>>>()
    };
    let evaluated = tokio::task::spawn_blocking(work).await;
    let evaluated = evaluated.map_err(|error| ApiError {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        kind: "internal",
        text: format!("evaluation ended: {error}"),
    })?;
    let total = started.elapsed();
    Ok(evaluated.into_iter().map(|one| Ok(Timed { evaluated: one?, queued, selected, total })).collect())
}

fn duration(params: &Params, name: &str, default: Duration) -> Result<Duration, ApiError> {
    match params.get(name) {
        None | Some("") => Ok(default),
        Some(text) => match promql::parse_duration_ms(text) {
            Some(ms) if ms >= 0 => Ok(Duration::from_millis(ms as u64)),
            _ => Err(ApiError::bad_data(format!(
                "invalid parameter {name:?}: cannot parse {text:?} to a valid duration"
            ))),
        },
    }
}

/// What holds for this query: settings, the configuration, and its own parameters.
fn options(state: &State, params: &Params) -> Result<(PlanOptions, Duration), ApiError> {
    let settings = &state.parts.query;
    let mut options = settings.plan;
    options.inner_step = state.running().config.global.evaluation_interval;
    options.lookback = match duration(params, "lookback_delta", options.lookback)? {
        Duration::ZERO => options.lookback,
        lookback => lookback,
    };
    let timeout = duration(params, "timeout", settings.timeout)?.min(settings.timeout);
    Ok((options, timeout))
}

pub async fn query(state: S, params: Params) -> Result<Response, ApiError> {
    let at = params.time("time", now_ms())?;
    let limit = limit(&params)?;
    let (options, timeout) = options(&state, &params)?;
    let plan = Plan::instant(params.get("query").unwrap_or(""), at, &options).map_err(bad_query)?;
    let plan = Arc::new(plan);
    let timed = run(&state.queries, plan.clone(), &options, timeout).await?;
    Ok(respond(timed, plan.grid, false, limit, wants_stats(&params)))
}

pub async fn query_range(state: S, params: Params) -> Result<Response, ApiError> {
    let required = |name: &str| match params.get(name) {
        None | Some("") => {
            Err(ApiError::bad_data(format!("invalid parameter {name:?}: cannot parse \"\" to a valid timestamp")))
        }
        Some(_) => params.time(name, 0),
    };
    let (start, end) = (required("start")?, required("end")?);
    if end < start {
        return Err(ApiError::bad_data("invalid parameter \"end\": end timestamp must not be before start time"));
    }
    let step = match params.get("step") {
        None | Some("") => {
            return Err(ApiError::bad_data("invalid parameter \"step\": cannot parse \"\" to a valid duration"));
        }
        Some(text) => promql::parse_duration_ms(text).ok_or_else(|| {
            ApiError::bad_data(format!("invalid parameter \"step\": cannot parse {text:?} to a valid duration"))
        })?,
    };
    if step <= 0 {
        let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiError::bad_data(format!("invalid parameter \"step\": {text}")));
    }
    if (end.saturating_sub(start)) / step > POINTS_MAX {
        let text = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
        return Err(ApiError::bad_data(text));
    }
    let limit = limit(&params)?;
    let (options, timeout) = options(&state, &params)?;
    let plan = Plan::range(params.get("query").unwrap_or(""), start, end, step, &options).map_err(bad_query)?;
    let plan = Arc::new(plan);
    let timed = run(&state.queries, plan.clone(), &options, timeout).await?;
    Ok(respond(timed, plan.grid, true, limit, wants_stats(&params)))
}

/// Series of an answer; 0 is no limit.
fn limit(params: &Params) -> Result<usize, ApiError> {
    Ok(match params.limit("limit")? {
        0 => usize::MAX,
        limit => limit,
    })
}

fn wants_stats(params: &Params) -> bool {
    params.get("stats").is_some_and(|stats| !stats.is_empty())
}

pub async fn format_query(state: S, params: Params) -> ApiResult<String> {
    let text = params.get("query").unwrap_or("");
    promql::format(text, &parse_options(&state)).map(Data).map_err(bad_query)
}

pub async fn parse_query(state: S, params: Params) -> ApiResult<Value> {
    let text = params.get("query").unwrap_or("");
    promql::tree(text, &parse_options(&state)).map(Data).map_err(bad_query)
}

fn parse_options(state: &State) -> ParseOptions {
    state.parts.query.plan.parse
}

/// Exemplars are not kept.
pub async fn exemplars(state: S, params: Params) -> ApiResult<Vec<()>> {
    promql::parse(params.get("query").unwrap_or(""), &parse_options(&state)).map_err(bad_query)?;
    let (start, end) = (params.time("start", i64::MIN)?, params.time("end", i64::MAX)?);
    if end < start {
        return Err(ApiError::bad_data("invalid parameter \"end\": end timestamp must not be before start timestamp"));
    }
    Ok(Data(Vec::new()))
}

pub async fn features(state: S) -> ApiResult<Value> {
    let plan = &state.parts.query.plan;
    let functions: serde_json::Map<String, Value> = promql::all_functions()
        .iter()
        .map(|function| (function.name.to_owned(), json!(!function.experimental || plan.parse.experimental_functions)))
        .collect();
    Ok(Data(json!({
        "api": {
            "query_stats": true, "query_warnings": true, "lifecycle": state.parts.enable_lifecycle,
            "admin": state.parts.enable_admin_api, "exemplars": false, "remote_write_receiver": false,
        },
        "promql": {
            "at_modifier": true, "negative_offset": true, "subqueries": true, "duration_expr": true, "bool": true,
            "fill": plan.parse.fill_modifiers, "anchored": plan.parse.extended_range_selectors,
            "smoothed": plan.parse.extended_range_selectors, "delayed_name_removal": plan.delayed_name_removal,
            "per_query_lookback_delta": true,
        },
        "promql_functions": functions,
    })))
}

// --- JSON -----------------------------------------------------------------------------------------------------------

fn respond(timed: Timed, grid: Grid, is_range: bool, limit: usize, stats: bool) -> Response {
    let body = Pieces::new(timed, grid, is_range, limit, stats);
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(futures_lite::stream::iter(body))).into_response()
}

/// The series of an answer, written one after the other.
enum Rows {
    None,
    Columns(std::vec::IntoIter<Column>),
    Matrix(std::vec::IntoIter<SelectedSeries>),
}

/// An answer as JSON, piece by piece.
struct Pieces {
    head: Option<String>,
    rows: Rows,
    tail: Option<String>,
    grid: Grid,
    is_range: bool,
    first: bool,
}

impl Pieces {
    fn new(timed: Timed, grid: Grid, is_range: bool, limit: usize, stats: bool) -> Pieces {
        let Evaluated { answer, annotations, samples, samples_peak } = timed.evaluated;
        let Annotations { mut warnings, infos } = annotations;
        let mut tail = String::new();
        let mut truncated = false;
        let (kind, rows) = match answer {
            Answer::Scalar(values) if is_range => {
                ("matrix", Rows::Columns(vec![scalar_column(values, grid)].into_iter()))
            }
            Answer::Scalar(values) => {
                write_point(&mut tail, grid.start, values[0]);
                ("scalar", Rows::None)
            }
            Answer::String(text) => {
                tail.push('[');
                write_time(&mut tail, grid.start);
                let _ = write!(tail, ",{}]", Value::from(text));
                ("string", Rows::None)
            }
            Answer::Vector(mut columns) => {
                columns.retain(|column| !column.is_empty());
                if is_range {
                    columns.sort_unstable_by(|one, other| one.labels.cmp(&other.labels));
                }
                truncated = columns.len() > limit;
                columns.truncate(limit);
                (if is_range { "matrix" } else { "vector" }, Rows::Columns(columns.into_iter()))
            }
            Answer::Matrix(mut series) => {
                series.sort_unstable_by(|one, other| one.labels.cmp(&other.labels));
                truncated = series.len() > limit;
                series.truncate(limit);
                ("matrix", Rows::Matrix(series.into_iter()))
            }
        };
        if truncated {
            warnings.push("results truncated due to limit".into());
        }
        let listed = !matches!(rows, Rows::None);
        let head = format!(
            "{{\"status\":\"success\",\"data\":{{\"resultType\":\"{kind}\",\"result\":{}",
            if listed { "[" } else { "" }
        );
        if listed {
            tail.push(']');
        }
        if stats {
            let seconds = |duration: Duration| duration.as_secs_f64();
            let inner = timed.total.saturating_sub(timed.queued + timed.selected);
            let stats = json!({
                "timings": {
                    "evalTotalTime": seconds(timed.total - timed.queued), "resultSortTime": 0.0,
                    "queryPreparationTime": seconds(timed.selected), "innerEvalTime": seconds(inner),
                    "execQueueTime": seconds(timed.queued), "execTotalTime": seconds(timed.total),
                },
                "samples": {"totalQueryableSamples": samples, "peakSamples": samples_peak},
            });
            let _ = write!(tail, ",\"stats\":{stats}");
        }
        tail.push('}');
        for (name, texts) in [("warnings", warnings), ("infos", infos)] {
            if !texts.is_empty() {
                let _ = write!(tail, ",\"{name}\":{}", json!(texts));
            }
        }
        tail.push('}');
        Pieces { head: Some(head), rows, tail: Some(tail), grid, is_range, first: true }
    }
}

fn scalar_column(values: Vec<f64>, grid: Grid) -> Column {
    let mut column = Column::absent(Labels::empty(), grid.count);
    column.values = values;
    column
}

impl Iterator for Pieces {
    type Item = Result<String, std::convert::Infallible>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut out = self.head.take().unwrap_or_default();
        while out.len() < PIECE_BYTES {
            let separator = if self.first { "" } else { "," };
            let row = match &mut self.rows {
                Rows::None => None,
                Rows::Columns(columns) => columns.next().map(|column| {
                    out.push_str(separator);
                    write_column(&mut out, &column, self.grid, self.is_range);
                }),
                Rows::Matrix(series) => series.next().map(|series| {
                    out.push_str(separator);
                    write_series(&mut out, &series);
                }),
            };
            if row.is_none() {
                out += &self.tail.take().unwrap_or_default();
                break;
            }
            self.first = false;
        }
        (!out.is_empty()).then_some(Ok(out))
    }
}

fn write_labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (i, (name, value)) in labels.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_text(out, name);
        out.push(':');
        write_text(out, value);
    }
    out.push('}');
}

fn write_text(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // Writing into a string does not fail.
        let _ = write!(out, "{}", Value::from(text));
    }
}

/// Seconds, with three digits behind the point where there are any.
fn write_time(out: &mut String, ms: i64) {
    let sign = if ms < 0 { "-" } else { "" };
    let (seconds, fraction) = (ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000);
    let _ = if fraction == 0 { write!(out, "{sign}{seconds}") } else { write!(out, "{sign}{seconds}.{fraction:03}") };
}

fn write_point(out: &mut String, time: i64, value: f64) {
    out.push('[');
    write_time(out, time);
    out.push_str(",\"");
    let _ = format_float_json(value, out);
    out.push_str("\"]");
}

fn write_histogram_point(out: &mut String, time: i64, histogram: &Histogram) {
    out.push('[');
    write_time(out, time);
    out.push_str(",{\"count\":\"");
    let _ = format_float_json(histogram.count, out);
    out.push_str("\",\"sum\":\"");
    let _ = format_float_json(histogram.sum, out);
    out.push('"');
    for (i, bucket) in histogram.buckets().enumerate() {
        out.push_str(if i == 0 { ",\"buckets\":[" } else { "," });
        let boundaries = match (bucket.lower_inclusive, bucket.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        };
        let _ = write!(out, "[{boundaries}");
        for number in [bucket.lower, bucket.upper, bucket.count] {
            out.push_str(",\"");
            let _ = format_float_json(number, out);
            out.push('"');
        }
        out.push(']');
    }
    if histogram.buckets().next().is_some() {
        out.push(']');
    }
    out.push_str("}]");
}

/// A list named `name` of what `write` writes; nothing if that is nothing.
fn write_list(out: &mut String, name: &str, items: impl Iterator<Item = impl FnOnce(&mut String)>) {
    let mut first = true;
    for write in items {
        if first {
            let _ = write!(out, ",\"{name}\":[");
        } else {
            out.push(',');
        }
        first = false;
        write(out);
    }
    if !first {
        out.push(']');
    }
}

fn write_column(out: &mut String, column: &Column, grid: Grid, is_range: bool) {
    out.push_str("{\"metric\":");
    write_labels(out, &column.labels);
    if is_range {
        let floats = column.values.iter().enumerate().filter(|(_, value)| !promql::is_absent(**value));
        write_list(
            out,
            "values",
            floats.map(|(i, value)| move |out: &mut String| write_point(out, grid.time(i), *value)),
        );
        let histograms = column.histograms.iter().flatten().enumerate();
        let histograms = histograms.filter_map(|(i, histogram)| histogram.as_ref().map(|histogram| (i, histogram)));
        write_list(
            out,
            "histograms",
            histograms
                .map(|(i, histogram)| move |out: &mut String| write_histogram_point(out, grid.time(i), histogram)),
        );
    } else if let Some(histogram) = column.histogram(0) {
        out.push_str(",\"histogram\":");
        write_histogram_point(out, grid.start, histogram);
    } else {
        out.push_str(",\"value\":");
        write_point(out, grid.start, column.values[0]);
    }
    out.push('}');
}

fn write_series(out: &mut String, series: &SelectedSeries) {
    out.push_str("{\"metric\":");
    write_labels(out, &series.labels);
    let floats = series.samples.iter().filter(|sample| !is_stale(sample.value));
    write_list(
        out,
        "values",
        floats.map(|sample| move |out: &mut String| write_point(out, sample.timestamp.0, sample.value)),
    );
    write_list(
        out,
        "histograms",
        series
            .histograms
            .iter()
            .map(|(time, histogram)| move |out: &mut String| write_histogram_point(out, *time, histogram)),
    );
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_values_as_prometheus_writes_them() {
        for (time, value, want) in [
            (1_435_781_451_781, 1.0, r#"[1435781451.781,"1"]"#),
            (1500, 1e21, r#"[1.500,"1e+21"]"#),
            (7000, f64::NAN, r#"[7,"NaN"]"#),
            (-5, -0.5, r#"[-0.005,"-0.5"]"#),
        ] {
            let mut out = String::new();
            write_point(&mut out, time, value);
            assert_eq!(out, want);
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        write_labels(&mut out, &Labels::from_pairs([("a\"", "x\ny"), ("b", "é")]));
        assert_eq!(out, r#"{"a\"":"x\ny","b":"é"}"#);
        assert!(serde_json::from_str::<Value>(&out).is_ok());
    }
}
