//! `/api/v1/query`, `/query_range`, and questions about the text of a query: parameters in, answers out.

use crate::answer::{ApiError, ApiResult, Data};
use crate::federate::Client;
use crate::json::result::respond;
use crate::params::Params;
use crate::query_log::RequestedUri;
use crate::read_params::limit;
use crate::state::State;
use axum::extract::{self, FromRequestParts};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use promql::{ParseError, ParseOptions};
use query::{Caller, Origin, QueryError, QueryOptions};
use serde_json::Value;
use series::Timestamp;
use series::clock::now_ms;
use std::sync::Arc;
use std::time::Duration;

type S = extract::State<State>;

/// Points of a series that a range query may ask for.
const POINTS_MAX: i64 = 11_000;

pub(crate) fn bad_query(error: ParseError) -> ApiError {
    // It is not the text that is wrong: Prometheus names no place.
    if error.text.starts_with("invalid expression type") && error.text.contains("for range query") {
        return ApiError::bad_data(format!("invalid parameter \"query\": {}", error.text));
    }
    ApiError::bad_data(format!("invalid parameter \"query\": {error}"))
}

fn failed(error: QueryError) -> ApiError {
    match error {
        QueryError::Syntax(error) => bad_query(error),
        error => error.into(),
    }
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

/// The request that sends a query, for the log of queries.
pub struct RequestCaller(Arc<Caller>);

impl<S: Sync> FromRequestParts<S> for RequestCaller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<RequestCaller, Self::Rejection> {
        let client = parts.extensions.get::<Client>().map(|client| client.0.ip().to_string()).unwrap_or_default();
        // Routers take their prefix off.
        let uri = parts.extensions.get::<RequestedUri>().map_or(&parts.uri, |whole| &whole.0);
        let fields = vec![("clientIP", client), ("method", parts.method.to_string()), ("path", uri.path().to_owned())];
        Ok(RequestCaller(Arc::new(Caller { kind: "httpRequest", fields })))
    }
}

/// What holds for this query: settings, the configuration, and its own parameters.
fn options(state: &State, params: &Params, caller: Arc<Caller>) -> Result<QueryOptions, ApiError> {
    let settings = state.parts.query.settings();
    let mut plan = settings.plan;
    plan.inner_step = state.running().config.global.evaluation_interval;
    if let Some(text) = params.get("lookback_delta").filter(|text| !text.is_empty()) {
        let invalid = || format!("error parsing lookback delta duration: cannot parse {text:?} to a valid duration");
        let ms = promql::parse_duration_ms(text).ok_or_else(|| ApiError::bad_data(invalid()))?;
        // As in Prometheus, one that is not positive means the default.
        if let Ok(ms @ 1..) = u64::try_from(ms) {
            plan.lookback = Duration::from_millis(ms);
        }
    }
    let timeout = duration(params, "timeout", settings.timeout)?.min(settings.timeout);
    if timeout.is_zero() {
        let text = "context deadline exceeded".to_owned();
        return Err(ApiError { status: StatusCode::UNPROCESSABLE_ENTITY, kind: "execution", text });
    }
    Ok(QueryOptions { plan, timeout, origin: Origin::Api, caller: Some(caller) })
}

pub async fn query(state: S, RequestCaller(caller): RequestCaller, params: Params) -> Result<Response, ApiError> {
    let at = params.time("time", now_ms())?;
    let limit = series_max(&params)?;
    let options = options(&state, &params, caller)?;
    let expr = params.get("query").unwrap_or("");
    let answer = state.parts.query.instant(expr, Timestamp(at), &options).await.map_err(failed)?;
    respond(answer, false, limit, wants_stats(&params)).await
}

pub async fn query_range(state: S, RequestCaller(caller): RequestCaller, params: Params) -> Result<Response, ApiError> {
    let (start, end) = (params.required_time("start")?, params.required_time("end")?);
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
    let limit = series_max(&params)?;
    let options = options(&state, &params, caller)?;
    let expr = params.get("query").unwrap_or("");
    let times = (Timestamp(start), Timestamp(end));
    let answer = state.parts.query.range(expr, times, step, &options).await.map_err(failed)?;
    respond(answer, true, limit, wants_stats(&params)).await
}

/// Most series of an answer.
fn series_max(params: &Params) -> Result<usize, ApiError> {
    Ok(match limit(params)? {
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

pub(crate) fn parse_options(state: &State) -> ParseOptions {
    state.parts.query.settings().plan.parse
}
