//! Evaluates a plan over the series of its selects: the walk through the tree.

use crate::annotations::Annotations;
use crate::budget::{Budget, Charge};
use crate::eval::context::{ColumnSink, EvalContext, EvalError, Evaluators, SelectResult, failed};
use crate::eval::series::{NewestSample, differ_without_names};
use crate::eval::value::{Column, Point, QueryValue};
use crate::functions::dispatch;
use crate::functions::time::{float_function, is_float_function};
use crate::plan::grid::StepGrid;
use crate::plan::planner::Plan;
use crate::syntax::ast::{Expr, Kind};
use crate::syntax::signature::ValueType;
use crate::{aggregate, binary};
use std::sync::Arc;

/// The value of a query, its annotations and its statistics.
#[derive(Debug)]
pub struct QueryResult {
    pub value: QueryValue,
    pub annotations: Annotations,
    /// Samples that were scanned, as Prometheus counts them.
    pub samples: usize,
    /// Most samples that were in memory.
    pub samples_peak: usize,
    /// For the value: it is held until the value has been written.
    pub charge: Charge,
}

const EVALUATORS: Evaluators = Evaluators { node, columns };

impl Plan {
    /// Evaluates over the results of its selects, in their order, and charges `budget` with what is held.
    ///
    /// # Errors
    /// [`EvalError`]. Nothing stays charged then.
    pub fn evaluate(&self, selects: Vec<SelectResult>, budget: &Budget) -> Result<QueryResult, EvalError> {
        assert_eq!(selects.len(), self.selects().len(), "a result for every select");
        let context = EvalContext::new(self, selects, budget, EVALUATORS);
        let value = match context.eval_final(self.expr.inner(), self.grid)? {
            QueryValue::Vector(columns) => QueryValue::Vector(context.without_dropped_names(columns, self.grid)?),
            other => other,
        };
        let (samples, samples_peak) = context.samples();
        let (annotations, charge) = context.finish()?;
        Ok(QueryResult { value, annotations: annotations.finish(&self.text), samples, samples_peak, charge })
    }
}

fn node(context: &EvalContext, expr: &Expr, grid: StepGrid) -> Result<QueryValue, EvalError> {
    match &expr.kind {
        Kind::Paren(inner) => context.eval(inner, grid),
        Kind::Number(number) => context.new_values(number.value, grid).map(QueryValue::Scalar),
        Kind::String(text) => Ok(QueryValue::String(text.clone())),
        Kind::InvalidString(quoted) => failed(format!("invalid label name {quoted}")),
        Kind::Vector(selector) => {
            Ok(QueryValue::Vector(context.select(selector, grid, NewestSample::Value, expr.span)?))
        }
        Kind::Matrix { .. } | Kind::Subquery(_) => context.matrix(expr, grid).map(QueryValue::Matrix),
        Kind::Negation(inner) => match context.eval(inner, grid)? {
            QueryValue::Scalar(values) => Ok(QueryValue::Scalar(values.into_iter().map(|value| -value).collect())),
            QueryValue::Vector(columns) => context.map(columns, negated).map(QueryValue::Vector),
            _ => failed("unary expression only allowed on expressions of type scalar or instant vector"),
        },
        Kind::Binary(binary) => binary::eval(context, binary, expr.span, grid),
        Kind::Aggregate(aggregate) => aggregate::eval(context, aggregate, grid),
        Kind::Call { function, args } => dispatch::call(context, function, args, expr.span, grid),
    }
}

fn negated(point: Point, _: usize) -> Option<Point> {
    Some(match point {
        Point::Float(value) => Point::Float(-value),
        Point::Histogram(histogram) => {
            let mut negated = (*histogram).clone();
            negated.scale(-1.0);
            Point::Histogram(Arc::new(negated))
        }
    })
}

/// Hands the columns of a vector to `sink`. Nodes that handle each series by itself do so one by one, as long as dropping
/// the name cannot make two series the same; the others are evaluated whole.
fn columns(context: &EvalContext, expr: &Expr, grid: StepGrid, sink: &mut ColumnSink) -> Result<(), EvalError> {
    let single = |expr: &Expr| differ_without_names(series_of(expr)) || context.plan.delayed_names;
    match &expr.kind {
        Kind::Paren(inner) => return columns(context, inner, grid, sink),
        Kind::Vector(selector) => {
            context.check()?;
            return context.each_newest(selector, grid, NewestSample::Value, expr.span, sink);
        }
        Kind::Negation(inner) if inner.value_type() == ValueType::Vector && single(expr) => {
            return columns(context, inner, grid, &mut |column| mapped(context.map_column(column, negated), sink));
        }
        Kind::Binary(binary) if single(expr) => {
            if let Some(done) = binary::each_with_scalar(context, binary, expr.span, grid, sink, columns) {
                return done;
            }
        }
        Kind::Call { function, args } if single(expr) => {
            if function.args.contains(&ValueType::Matrix) && function.name != "absent_over_time" {
                return dispatch::each_over_time(context, function, args, grid, sink);
            }
            if let ([arg], true) = (&args[..], is_float_function(function.name)) {
                let of = float_function(function.name);
                return columns(context, arg, grid, &mut |column| {
                    mapped(context.map_floats_of(column, |value, _| of(value)), sink)
                });
            }
        }
        _ => {}
    }
    match context.eval(expr, grid)? {
        QueryValue::Vector(columns) => columns.into_iter().try_for_each(sink),
        QueryValue::Scalar(values) => sink(Column::new(series::Labels::empty(), values)),
        _ => failed("expected type instant vector"),
    }
}

fn mapped(column: Option<Column>, sink: &mut ColumnSink) -> Result<(), EvalError> {
    column.map_or(Ok(()), sink)
}

/// The expression whose series become those of `expr`, one by one; `expr` itself where that is not so.
fn series_of(expr: &Expr) -> &Expr {
    match &expr.kind {
        Kind::Paren(inner) | Kind::Negation(inner) => series_of(inner),
        Kind::Binary(binary) => match (binary.left.value_type(), binary.right.value_type()) {
            (ValueType::Vector, ValueType::Scalar) => series_of(&binary.left),
            (ValueType::Scalar, ValueType::Vector) => series_of(&binary.right),
            _ => expr,
        },
        Kind::Call { function, args } if is_float_function(function.name) => args.first().map_or(expr, series_of),
        Kind::Call { function, args } if function.args.contains(&ValueType::Matrix) => {
            args.iter().find(|arg| arg.value_type() == ValueType::Matrix).map_or(expr, series_of)
        }
        Kind::Subquery(subquery) => series_of(&subquery.expr),
        _ => expr,
    }
}
