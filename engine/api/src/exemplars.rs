//! `/api/v1/query_exemplars`: the exemplars of every selector in an expression.

use crate::answer::{ApiError, Data, bulk};
use crate::params::Params;
use crate::query::{bad_query, parse_options};
use crate::state::State;
use crate::v1::LabelMap;
use axum::extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use promql::{Expr, Kind};
use serde::Serialize;
use series::{Labels, Matcher, Timestamp};
use shard::{ExemplarsRequest, StoredExemplar};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SeriesExemplars {
    series_labels: LabelMap,
    exemplars: Vec<Exemplar>,
}

#[derive(Serialize)]
struct Exemplar {
    labels: LabelMap,
    value: String,
    /// Seconds.
    timestamp: f64,
}

/// Exemplars in `[start, end]`, by series. Functions, ranges, `offset` and `@` of the expression mean nothing; one without
/// a selector has no answer.
pub async fn exemplars(state: extract::State<State>, params: Params) -> Result<Response, ApiError> {
    let (start, end) = (params.time("start", i64::MIN)?, params.time("end", i64::MAX)?);
    if end < start {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let expr = promql::parse(params.get("query").unwrap_or(""), &parse_options(&state)).map_err(bad_query)?;
    let mut selectors = Vec::new();
    collect_selectors(&expr, &mut selectors);
    if selectors.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let request = ExemplarsRequest { selectors, from: Timestamp(start), to: Timestamp(end) };
    let found = state.parts.shards.exemplars(request).await?;
    bulk(move || {
        let answer: Vec<SeriesExemplars> = found.into_iter().map(of_series).collect();
        Ok(Data(answer).into_response())
    })
    .await
}

fn of_series((labels, exemplars): (Labels, Vec<StoredExemplar>)) -> SeriesExemplars {
    let exemplar = |exemplar: StoredExemplar| {
        let mut value = String::new();
        series::format_float_json(exemplar.value, &mut value).expect("writing to a string");
        Exemplar { labels: (&exemplar.labels).into(), value, timestamp: exemplar.timestamp.0 as f64 / 1000.0 }
    };
    SeriesExemplars { series_labels: (&labels).into(), exemplars: exemplars.into_iter().map(exemplar).collect() }
}

/// The parser bounds how deep expressions nest.
fn collect_selectors(expr: &Expr, found: &mut Vec<Vec<Matcher>>) {
    match &expr.kind {
        Kind::Number(_) | Kind::String(_) | Kind::InvalidString(_) => {}
        Kind::Vector(selector) | Kind::Matrix { selector, .. } => found.push(selector.matchers.clone()),
        Kind::Subquery(subquery) => collect_selectors(&subquery.expr, found),
        Kind::Call { args, .. } => args.iter().for_each(|arg| collect_selectors(arg, found)),
        Kind::Negation(inner) | Kind::Paren(inner) => collect_selectors(inner, found),
        Kind::Binary(binary) => {
            [&binary.left, &binary.right].into_iter().for_each(|side| collect_selectors(side, found))
        }
        Kind::Aggregate(aggregate) => {
            aggregate.parameter.iter().for_each(|parameter| collect_selectors(parameter, found));
            collect_selectors(&aggregate.expr, found);
        }
    }
}
