//! The answer to a query as JSON, written in pieces of about [`BYTES_AT_ONCE`], as fast as the client takes them.

use super::labels::write_labels;
use crate::answer::{ApiError, bulk, drop_entries};
use crate::pieces::{self, BYTES_AT_ONCE, FirstPiece};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use promql::budget::Charge;
use promql::{Annotations, Column, QueryResult, QueryValue, SelectedSeries, StepGrid};
use query::{QueryAnswer, QueryCost};
use serde_json::{Value, json};
use series::histogram::Histogram;
use series::{Labels, format_float_json, is_stale};
use std::fmt::Write;
use std::time::Duration;

/// The response to a query, with at most `limit` series.
pub async fn respond(answer: QueryAnswer, is_range: bool, limit: usize, stats: bool) -> Result<Response, ApiError> {
    let steps = answer.grid.count;
    let points = match &answer.evaluated.value {
        QueryValue::Vector(columns) => columns.len() * steps,
        QueryValue::Matrix(series) => series.iter().map(|series| 1 + series.samples.len()).sum(),
        QueryValue::Scalar(_) => steps,
        QueryValue::String(_) => 1,
    };
    let first = FirstPiece::of(points);
    let make = move || {
        let pieces = JsonStream::new(answer, is_range, limit, stats);
        Ok(([(header::CONTENT_TYPE, "application/json")], pieces::body(pieces, first)).into_response())
    };
    match first {
        FirstPiece::OnControl => make(),
        FirstPiece::OnThread => bulk(make).await,
    }
}

/// The series of an answer, written one after the other.
enum Rows {
    None,
    Columns(std::vec::IntoIter<Column>),
    Matrix(std::vec::IntoIter<SelectedSeries>),
}

/// An answer as JSON, piece by piece.
struct JsonStream {
    head: Option<String>,
    rows: Rows,
    tail: Option<String>,
    grid: StepGrid,
    is_range: bool,
    first: bool,
    /// For the memory of the answer, until it has been written.
    _charge: Charge,
}

impl JsonStream {
    fn new(answer: QueryAnswer, is_range: bool, limit: usize, stats: bool) -> JsonStream {
        let cost = answer.cost();
        let QueryAnswer { evaluated, grid, .. } = answer;
        let QueryResult { value, annotations, charge, .. } = evaluated;
        let Annotations { mut warnings, infos } = annotations;
        let mut tail = String::new();
        let mut truncated = false;
        let (kind, rows) = match value {
            QueryValue::Scalar(values) if is_range => {
                ("matrix", Rows::Columns(vec![scalar_column(values)].into_iter()))
            }
            QueryValue::Scalar(values) => {
                write_point(&mut tail, grid.start, values[0]);
                ("scalar", Rows::None)
            }
            QueryValue::String(text) => {
                tail.push('[');
                write_time(&mut tail, grid.start);
                let _ = write!(tail, ",{}]", Value::from(text));
                ("string", Rows::None)
            }
            QueryValue::Vector(mut columns) => {
                columns.retain(|column| !column.is_empty());
                if is_range {
                    columns.sort_unstable_by(|one, other| one.labels.cmp(&other.labels));
                }
                truncated = columns.len() > limit;
                columns.truncate(limit);
                (if is_range { "matrix" } else { "vector" }, Rows::Columns(columns.into_iter()))
            }
            QueryValue::Matrix(mut series) => {
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
            let _ = write!(tail, ",\"stats\":{}", self::stats(&cost));
        }
        tail.push('}');
        for (name, texts) in [("warnings", warnings), ("infos", infos)] {
            if !texts.is_empty() {
                let _ = write!(tail, ",\"{name}\":{}", json!(texts));
            }
        }
        tail.push('}');
        JsonStream { head: Some(head), rows, tail: Some(tail), grid, is_range, first: true, _charge: charge }
    }
}

/// A client that leaves early leaves what it has not read.
impl Drop for JsonStream {
    fn drop(&mut self) {
        let left = match &self.rows {
            Rows::None => 0,
            Rows::Columns(columns) => columns.len(),
            Rows::Matrix(series) => series.len(),
        };
        drop_entries(std::mem::replace(&mut self.rows, Rows::None), left);
    }
}

/// Times and samples of a query, as Prometheus names them.
pub fn stats(cost: &QueryCost) -> Value {
    let QueryCost { timings, samples, samples_peak } = cost;
    let seconds = |duration: Duration| duration.as_secs_f64();
    let inner = timings.total.saturating_sub(timings.queued + timings.selected);
    json!({
        "timings": {
            "evalTotalTime": seconds(timings.total.saturating_sub(timings.queued)), "resultSortTime": 0.0,
            "queryPreparationTime": seconds(timings.selected), "innerEvalTime": seconds(inner),
            "execQueueTime": seconds(timings.queued), "execTotalTime": seconds(timings.total),
        },
        "samples": {"totalQueryableSamples": samples, "peakSamples": samples_peak},
    })
}

fn scalar_column(values: Vec<f64>) -> Column {
    Column::of_floats(Labels::empty(), values)
}

impl Iterator for JsonStream {
    type Item = String;

    fn next(&mut self) -> Option<Self::Item> {
        let mut out = self.head.take().unwrap_or_default();
        while out.len() < BYTES_AT_ONCE {
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
        (!out.is_empty()).then_some(out)
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

fn write_column(out: &mut String, column: &Column, grid: StepGrid, is_range: bool) {
    out.push_str("{\"metric\":");
    write_labels(out, &column.labels);
    if is_range {
        let floats = column.floats();
        write_list(
            out,
            "values",
            floats.map(|(i, value)| move |out: &mut String| write_point(out, grid.time(i), value)),
        );
        write_list(
            out,
            "histograms",
            column
                .histograms()
                .map(|(i, histogram)| move |out: &mut String| write_histogram_point(out, grid.time(i), histogram)),
        );
    } else if let Some(histogram) = column.histogram(0) {
        out.push_str(",\"histogram\":");
        write_histogram_point(out, grid.start, histogram);
    } else {
        out.push_str(",\"value\":");
        let value = column.floats().next().map_or(f64::NAN, |(_, value)| value);
        write_point(out, grid.start, value);
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
}
