//! Which code carries out a function.

use crate::eval::context::{Context, EvalError};
use crate::eval::math::seconds;
use crate::eval::value::{Answer, Column, Point};
use crate::functions::time::{bounded, float_function};
use crate::functions::{histogram, label, rate};
use crate::plan::grid::Grid;
use crate::syntax::ast::{Expr, Kind};
use crate::syntax::error::Span;
use crate::syntax::signature::{Function, ValueType};
use series::Labels;

pub(crate) fn call(
    context: &Context,
    function: &'static Function,
    args: &[Expr],
    span: Span,
    grid: Grid,
) -> Result<Answer, EvalError> {
    if function.args.contains(&ValueType::Matrix) {
        return rate::over_time(context, function, args, grid).map(Answer::Vector);
    }
    let constant = |value: f64| Ok(Answer::Scalar(vec![value; grid.count]));
    let whole = context.plan.grid;
    match function.name {
        "pi" => constant(std::f64::consts::PI),
        "start" => constant(seconds(whole.start)),
        "end" => constant(seconds(context.plan.end)),
        "step" => constant(if context.plan.is_range { seconds(whole.step) } else { 0.0 }),
        "range" => constant(seconds(context.plan.end - whole.start)),
        "time" => Ok(Answer::Scalar(grid.times().map(seconds).collect())),
        "min_of" | "max_of" => {
            let (one, other) = (context.scalar(&args[0], grid)?, context.scalar(&args[1], grid)?);
            let pick = |(a, b): (f64, f64)| match function.name {
                _ if a.is_nan() || b.is_nan() => f64::NAN,
                "min_of" => a.min(b),
                _ => a.max(b),
            };
            Ok(Answer::Scalar(one.into_iter().zip(other).map(pick).collect()))
        }
        "scalar" => label::scalar(context, &args[0], grid).map(Answer::Scalar),
        "vector" => Ok(Answer::Vector(vec![Column::new(Labels::empty(), context.scalar(&args[0], grid)?)])),
        "absent" => label::absent(context, &args[0], grid).map(Answer::Vector),
        "timestamp" => timestamp(context, &args[0], grid).map(Answer::Vector),
        "start_timestamp" => Ok(Answer::Vector(Vec::new())),
        "label_replace" => label::label_replace(context, args, grid).map(Answer::Vector),
        "label_join" => label::label_join(context, args, grid).map(Answer::Vector),
        "info" => label::info(context, args, grid).map(Answer::Vector),
        "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
            label::sort(context, function.name, args, span, grid).map(Answer::Vector)
        }
        name if name.starts_with("histogram_") => histogram::call(context, name, args, grid).map(Answer::Vector),
        "round" | "clamp" | "clamp_min" | "clamp_max" => {
            bounded(context, function.name, args, grid).map(Answer::Vector)
        }
        name => {
            let columns = match args.first() {
                Some(arg) => context.vector(arg, grid)?,
                // The functions of dates look at the time of evaluation if they are given nothing.
                None => vec![Column::new(Labels::empty(), grid.times().map(seconds).collect())],
            };
            let of = float_function(name);
            context.map_floats(columns, |value, _| of(value)).map(Answer::Vector)
        }
    }
}

fn timestamp(context: &Context, arg: &Expr, grid: Grid) -> Result<Vec<Column>, EvalError> {
    if let Kind::Vector(selector) = &arg.inner().kind {
        let columns = context.select(selector, grid, true)?;
        return context.map_floats(columns, |time, _| time);
    }
    let columns = context.vector(arg, grid)?;
    context.map(columns, |_, i| Some(Point::Float(seconds(grid.time(i)))))
}
