//! Evaluates a plan over the samples of its selects.

use crate::annotations::Annotations;
use crate::eval::context::{Context, EvalError, Limits, Selected, failed};
use crate::eval::value::{Answer, Point};
use crate::functions::dispatch;
use crate::plan::grid::Grid;
use crate::plan::planner::Plan;
use crate::syntax::ast::{Expr, Kind};
use crate::{aggregate, binary};
use series::histogram::{Histogram, ResetHint};
use series::is_stale;
use std::sync::Arc;

/// An answer with what its reader should know, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    pub answer: Answer,
    pub annotations: Annotations,
    /// Samples that were looked at, as Prometheus counts them.
    pub samples: usize,
    pub samples_peak: usize,
}

impl Plan {
    /// Evaluates over the answers of its selects, in their order.
    pub fn eval(&self, mut data: Vec<Selected>, limits: Limits) -> Result<Evaluated, EvalError> {
        assert_eq!(data.len(), self.selects().len(), "an answer for every select");
        for (select, found) in self.selects().iter().zip(&mut data) {
            let Selected::Series(found) = found else { continue };
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
        let context = Context::new(self, &data, limits, node);
        let answer = context.eval(&self.expr, self.grid)?;
        let answer = match answer {
            Answer::Vector(columns) => Answer::Vector(context.without_dropped_names(columns)?),
            other => other,
        };
        let (samples, samples_peak) = context.samples();
        Ok(Evaluated { answer, annotations: context.notes.finish(&self.text), samples, samples_peak })
    }
}

fn node(context: &Context, expr: &Expr, grid: Grid) -> Result<Answer, EvalError> {
    context.spend(0)?;
    match &expr.kind {
        Kind::Paren(inner) => context.eval(inner, grid),
        Kind::Number(number) => Ok(Answer::Scalar(vec![number.value; grid.count])),
        Kind::String(text) => Ok(Answer::String(text.clone())),
        Kind::InvalidString(quoted) => failed(format!("invalid label name {quoted}")),
        Kind::Vector(selector) => Ok(Answer::Vector(context.select(selector, grid, false)?)),
        Kind::Matrix { .. } | Kind::Subquery(_) => context.matrix(expr, grid).map(Answer::Matrix),
        Kind::Negation(inner) => match context.eval(inner, grid)? {
            Answer::Scalar(values) => Ok(Answer::Scalar(values.into_iter().map(|value| -value).collect())),
            Answer::Vector(columns) => {
                let negated = context.map(columns, |point, _| match point {
                    Point::Float(value) => Some(Point::Float(-value)),
                    Point::Histogram(histogram) => {
                        let mut negated = (*histogram).clone();
                        negated.scale(-1.0);
                        Some(Point::Histogram(Arc::new(negated)))
                    }
                });
                negated.map(Answer::Vector)
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
