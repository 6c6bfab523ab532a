//! Which code carries out a function.

use crate::eval::context::{ColumnSink, EvalContext, EvalError};
use crate::eval::math::seconds;
use crate::eval::series::NewestSample;
use crate::eval::value::{Column, Point, QueryValue};
use crate::functions::time::{bounded, float_function};
use crate::functions::{histogram, label, rate};
use crate::plan::grid::StepGrid;
use crate::syntax::ast::{Expr, Kind};
use crate::syntax::error::Span;
use crate::syntax::signature::{Function, ValueType};
use series::Labels;

pub(crate) fn call(
    context: &EvalContext,
    function: &'static Function,
    args: &[Expr],
    span: Span,
    grid: StepGrid,
) -> Result<QueryValue, EvalError> {
    if function.args.contains(&ValueType::Matrix) {
        let mut columns = Vec::new();
        each_over_time(context, function, args, grid, &mut |column| {
            columns.push(column);
            Ok(())
        })?;
        return context.unique(columns).map(QueryValue::Vector);
    }
    let constant = |value: f64| context.new_values(value, grid).map(QueryValue::Scalar);
    let whole = context.plan.grid;
    match function.name {
        "pi" => constant(std::f64::consts::PI),
        "start" => constant(seconds(whole.start)),
        "end" => constant(seconds(context.plan.end)),
        "step" => constant(if context.plan.is_range { seconds(whole.step) } else { 0.0 }),
        "range" => constant(seconds(context.plan.end - whole.start)),
        "time" => {
            context.hold(grid.count, grid.count * size_of::<f64>())?;
            Ok(QueryValue::Scalar(grid.times().map(seconds).collect()))
        }
        "min_of" | "max_of" => {
            let (one, other) = (context.scalar(&args[0], grid)?, context.scalar(&args[1], grid)?);
            let pick = |(a, b): (f64, f64)| match function.name {
                _ if a.is_nan() || b.is_nan() => f64::NAN,
                "min_of" => a.min(b),
                _ => a.max(b),
            };
            Ok(QueryValue::Scalar(one.into_iter().zip(other).map(pick).collect()))
        }
        "scalar" => label::scalar(context, &args[0], grid).map(QueryValue::Scalar),
        "vector" => Ok(QueryValue::Vector(vec![Column::new(Labels::empty(), context.scalar(&args[0], grid)?)])),
        "absent" => label::absent(context, &args[0], grid).map(QueryValue::Vector),
        "timestamp" => timestamp(context, &args[0], grid).map(QueryValue::Vector),
        "start_timestamp" => start_timestamp(context, &args[0], grid).map(QueryValue::Vector),
        "label_replace" => label::label_replace(context, args, grid).map(QueryValue::Vector),
        "label_join" => label::label_join(context, args, grid).map(QueryValue::Vector),
        "info" => label::info(context, args, grid).map(QueryValue::Vector),
        "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
            label::sort(context, function.name, args, span, grid).map(QueryValue::Vector)
        }
        name if name.starts_with("histogram_") => histogram::call(context, name, args, grid).map(QueryValue::Vector),
        "round" | "clamp" | "clamp_min" | "clamp_max" => {
            bounded(context, function.name, args, grid).map(QueryValue::Vector)
        }
        name => {
            let columns = match args.first() {
                Some(arg) => context.vector(arg, grid)?,
                // The functions of dates look at the time of evaluation if they are given nothing.
                None => {
                    context.hold(grid.count, grid.count * size_of::<f64>())?;
                    vec![Column::new(Labels::empty(), grid.times().map(seconds).collect())]
                }
            };
            let of = float_function(name);
            context.map_floats(columns, |value, _| of(value)).map(QueryValue::Vector)
        }
    }
}

/// Evaluates a function of a range vector, one series after the other.
pub(crate) fn each_over_time(
    context: &EvalContext,
    function: &Function,
    args: &[Expr],
    grid: StepGrid,
    sink: &mut ColumnSink,
) -> Result<(), EvalError> {
    rate::over_time(context, function, args, grid, sink)
}

/// Start times of the samples of a selector; nothing for any other expression, and without the feature for it.
fn start_timestamp(context: &EvalContext, arg: &Expr, grid: StepGrid) -> Result<Vec<Column>, EvalError> {
    match &arg.inner().kind {
        Kind::Vector(selector) if context.plan.start_times => {
            let columns = context.select(selector, grid, NewestSample::Start, arg.span)?;
            context.map_floats(columns, |start, _| start)
        }
        _ => Ok(Vec::new()),
    }
}

fn timestamp(context: &EvalContext, arg: &Expr, grid: StepGrid) -> Result<Vec<Column>, EvalError> {
    if let Kind::Vector(selector) = &arg.inner().kind {
        let columns = context.select(selector, grid, NewestSample::Time, arg.span)?;
        return context.map_floats(columns, |time, _| time);
    }
    let columns = context.vector(arg, grid)?;
    context.map(columns, |_, i| Some(Point::Float(seconds(grid.time(i)))))
}
