//! Evaluates a plan over the samples of its selects.

use crate::annotations::Annotations;
use crate::eval::context::{EvalContext, EvalError, Limits, SelectResult, failed};
use crate::eval::value::{Point, QueryValue};
use crate::functions::dispatch;
use crate::plan::grid::StepGrid;
use crate::plan::planner::Plan;
use crate::syntax::ast::{Expr, Kind};
use crate::{aggregate, binary};
use series::histogram::{Histogram, ResetHint};
use series::is_stale;
use std::sync::Arc;

/// An answer with what its reader should know, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryResult {
    pub value: QueryValue,
    pub annotations: Annotations,
    /// Samples that were looked at, as Prometheus counts them.
    pub samples: usize,
    pub samples_peak: usize,
}

impl Plan {
    /// Evaluates over the answers of its selects, in their order.
    pub fn eval(&self, mut data: Vec<SelectResult>, limits: Limits) -> Result<QueryResult, EvalError> {
        assert_eq!(data.len(), self.selects().len(), "an answer for every select");
        for (select, found) in self.selects().iter().zip(&mut data) {
            let SelectResult::Series(found) = found else { continue };
            if select.histogram_stats {
                found.iter_mut().for_each(|series| hint_resets(&mut series.histograms));
            }
            if !select.is_instant {
                for series in found {
                    // Ranges know no markers.
                    if series.samples.iter().any(|sample| is_stale(sample.value)) {
                        series.samples.retain(|sample| !is_stale(sample.value));
                    }
                    series.histograms.retain(|(_, histogram)| !is_stale(histogram.sum));
                }
            }
        }
        let context = EvalContext::new(self, &data, limits, node);
        let value = match context.eval(&self.expr, self.grid)? {
            QueryValue::Vector(columns) => QueryValue::Vector(context.without_dropped_names(columns)?),
            other => other,
        };
        let (samples, samples_peak) = context.samples();
        Ok(QueryResult { value, annotations: context.notes.finish(&self.text), samples, samples_peak })
    }
}

fn node(context: &EvalContext, expr: &Expr, grid: StepGrid) -> Result<QueryValue, EvalError> {
    context.spend(0)?;
    match &expr.kind {
        Kind::Paren(inner) => context.eval(inner, grid),
        Kind::Number(number) => Ok(QueryValue::Scalar(vec![number.value; grid.count])),
        Kind::String(text) => Ok(QueryValue::String(text.clone())),
        Kind::InvalidString(quoted) => failed(format!("invalid label name {quoted}")),
        Kind::Vector(selector) => Ok(QueryValue::Vector(context.select(selector, grid, false)?)),
        Kind::Matrix { .. } | Kind::Subquery(_) => context.matrix(expr, grid).map(QueryValue::Matrix),
        Kind::Negation(inner) => match context.eval(inner, grid)? {
            QueryValue::Scalar(values) => Ok(QueryValue::Scalar(values.into_iter().map(|value| -value).collect())),
            QueryValue::Vector(columns) => {
                let negated = context.map(columns, |point, _| match point {
                    Point::Float(value) => Some(Point::Float(-value)),
                    Point::Histogram(histogram) => {
                        let mut negated = (*histogram).clone();
                        negated.scale(-1.0);
                        Some(Point::Histogram(Arc::new(negated)))
                    }
                });
                negated.map(QueryValue::Vector)
            }
            _ => failed("unary expression only allowed on expressions of type scalar or instant vector"),
        },
        Kind::Binary(binary) => binary::eval(context, binary, expr.span, grid),
        Kind::Aggregate(aggregate) => aggregate::eval(context, aggregate, grid),
        Kind::Call { function, args } => dispatch::call(context, function, args, expr.span, grid),
    }
}

/// Says of samples of unknown past whether they follow a reset.
fn hint_resets(histograms: &mut [(i64, Arc<Histogram>)]) {
    for i in 1..histograms.len() {
        let (before, now) = histograms.split_at_mut(i);
        let (before, now) = (&before[i - 1].1, &mut now[0].1);
        if now.hint == ResetHint::Unknown && !is_stale(now.sum) {
            let hint = if now.detect_reset(before) { ResetHint::Reset } else { ResetHint::NotReset };
            Arc::make_mut(now).hint = hint;
        }
    }
}
