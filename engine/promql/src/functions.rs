//! The functions of the language: what they take, what they give, and where each is carried out.

use crate::ast::{Edges, Expr, Kind, Span, ValueType};
use crate::column::{ABSENT, Column, Point, is_absent};
use crate::eval::{Answer, Context, EvalError, failed};
use crate::plan::Grid;
use crate::ranges::{self, Place, Window};
use crate::{quantile, vectors};
use series::Labels;
use std::sync::Arc;

/// A function's name and types.
#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    pub args: &'static [ValueType],
    /// How many of the last arguments may be left out.
    pub optional: usize,
    /// How many more of the last argument's type may follow.
    pub repeated: Option<usize>,
    pub returns: ValueType,
    pub experimental: bool,
}

use ValueType::{Matrix, Scalar, String as Text, Vector};

const fn function(name: &'static str, args: &'static [ValueType], returns: ValueType) -> Function {
    Function { name, args, optional: 0, repeated: None, returns, experimental: false }
}

const fn optional(mut function: Function, count: usize) -> Function {
    function.optional = count;
    function
}

const fn repeated(mut function: Function, optional: usize, more: usize) -> Function {
    function.optional = optional;
    function.repeated = Some(more);
    function
}

const fn experimental(mut function: Function) -> Function {
    function.experimental = true;
    function
}

static FUNCTIONS: &[Function] = &[
    function("abs", &[Vector], Vector),
    function("absent", &[Vector], Vector),
    function("absent_over_time", &[Matrix], Vector),
    function("acos", &[Vector], Vector),
    function("acosh", &[Vector], Vector),
    function("asin", &[Vector], Vector),
    function("asinh", &[Vector], Vector),
    function("atan", &[Vector], Vector),
    function("atanh", &[Vector], Vector),
    function("avg_over_time", &[Matrix], Vector),
    function("ceil", &[Vector], Vector),
    function("changes", &[Matrix], Vector),
    function("clamp", &[Vector, Scalar, Scalar], Vector),
    function("clamp_max", &[Vector, Scalar], Vector),
    function("clamp_min", &[Vector, Scalar], Vector),
    function("cos", &[Vector], Vector),
    function("cosh", &[Vector], Vector),
    function("count_over_time", &[Matrix], Vector),
    optional(function("day_of_month", &[Vector], Vector), 1),
    optional(function("day_of_week", &[Vector], Vector), 1),
    optional(function("day_of_year", &[Vector], Vector), 1),
    optional(function("days_in_month", &[Vector], Vector), 1),
    function("deg", &[Vector], Vector),
    function("delta", &[Matrix], Vector),
    function("deriv", &[Matrix], Vector),
    experimental(function("double_exponential_smoothing", &[Matrix, Scalar, Scalar], Vector)),
    experimental(function("end", &[], Scalar)),
    function("exp", &[Vector], Vector),
    function("first_over_time", &[Matrix], Vector),
    function("floor", &[Vector], Vector),
    function("histogram_avg", &[Vector], Vector),
    function("histogram_count", &[Vector], Vector),
    function("histogram_fraction", &[Scalar, Scalar, Vector], Vector),
    function("histogram_quantile", &[Scalar, Vector], Vector),
    experimental(repeated(function("histogram_quantiles", &[Vector, Text, Scalar], Vector), 0, 9)),
    function("histogram_stddev", &[Vector], Vector),
    function("histogram_stdvar", &[Vector], Vector),
    function("histogram_sum", &[Vector], Vector),
    optional(function("hour", &[Vector], Vector), 1),
    function("idelta", &[Matrix], Vector),
    function("increase", &[Matrix], Vector),
    experimental(optional(function("info", &[Vector, Vector], Vector), 1)),
    function("irate", &[Matrix], Vector),
    repeated(function("label_join", &[Vector, Text, Text, Text], Vector), 1, usize::MAX - 8),
    function("label_replace", &[Vector, Text, Text, Text, Text], Vector),
    function("last_over_time", &[Matrix], Vector),
    function("ln", &[Vector], Vector),
    function("log10", &[Vector], Vector),
    function("log2", &[Vector], Vector),
    experimental(function("mad_over_time", &[Matrix], Vector)),
    experimental(function("max_of", &[Scalar, Scalar], Scalar)),
    function("max_over_time", &[Matrix], Vector),
    experimental(function("min_of", &[Scalar, Scalar], Scalar)),
    function("min_over_time", &[Matrix], Vector),
    optional(function("minute", &[Vector], Vector), 1),
    optional(function("month", &[Vector], Vector), 1),
    function("pi", &[], Scalar),
    function("predict_linear", &[Matrix, Scalar], Vector),
    function("present_over_time", &[Matrix], Vector),
    function("quantile_over_time", &[Scalar, Matrix], Vector),
    function("rad", &[Vector], Vector),
    experimental(function("range", &[], Scalar)),
    function("rate", &[Matrix], Vector),
    function("resets", &[Matrix], Vector),
    optional(function("round", &[Vector, Scalar], Vector), 1),
    function("scalar", &[Vector], Scalar),
    function("sgn", &[Vector], Vector),
    function("sin", &[Vector], Vector),
    function("sinh", &[Vector], Vector),
    function("sort", &[Vector], Vector),
    experimental(repeated(function("sort_by_label", &[Vector, Text], Vector), 1, usize::MAX - 8)),
    experimental(repeated(function("sort_by_label_desc", &[Vector, Text], Vector), 1, usize::MAX - 8)),
    function("sort_desc", &[Vector], Vector),
    function("sqrt", &[Vector], Vector),
    experimental(function("start", &[], Scalar)),
    function("start_timestamp", &[Vector], Vector),
    function("stddev_over_time", &[Matrix], Vector),
    function("stdvar_over_time", &[Matrix], Vector),
    experimental(function("step", &[], Scalar)),
    function("sum_over_time", &[Matrix], Vector),
    function("tan", &[Vector], Vector),
    function("tanh", &[Vector], Vector),
    function("time", &[], Scalar),
    function("timestamp", &[Vector], Vector),
    experimental(function("ts_of_first_over_time", &[Matrix], Vector)),
    experimental(function("ts_of_last_over_time", &[Matrix], Vector)),
    experimental(function("ts_of_max_over_time", &[Matrix], Vector)),
    experimental(function("ts_of_min_over_time", &[Matrix], Vector)),
    function("vector", &[Scalar], Vector),
    optional(function("year", &[Vector], Vector), 1),
];

/// All functions, sorted by name.
pub fn all() -> &'static [Function] {
    FUNCTIONS
}

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.binary_search_by(|function| function.name.cmp(name)).ok().map(|at| &FUNCTIONS[at])
}

/// Suffixes of names that counters have.
pub(crate) const COUNTER_SUFFIXES: [&str; 4] = ["_total", "_sum", "_count", "_bucket"];

pub(crate) const NOT_A_COUNTER: &str = "metric might not be a counter, name does not end in _total/_sum/_count/_bucket";

pub(crate) fn call(
    context: &Context,
    function: &'static Function,
    args: &[Expr],
    span: Span,
    grid: Grid,
) -> Result<Answer, EvalError> {
    if function.args.contains(&Matrix) {
        return over_time(context, function, args, grid).map(Answer::Vector);
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
        "scalar" => vectors::scalar(context, &args[0], grid).map(Answer::Scalar),
        "vector" => Ok(Answer::Vector(vec![Column::new(Labels::empty(), context.scalar(&args[0], grid)?)])),
        "absent" => vectors::absent(context, &args[0], grid).map(Answer::Vector),
        "timestamp" => timestamp(context, &args[0], grid).map(Answer::Vector),
        "start_timestamp" => Ok(Answer::Vector(Vec::new())),
        "label_replace" => vectors::label_replace(context, args, grid).map(Answer::Vector),
        "label_join" => vectors::label_join(context, args, grid).map(Answer::Vector),
        "info" => vectors::info(context, args, grid).map(Answer::Vector),
        "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
            vectors::sort(context, function.name, args, span, grid).map(Answer::Vector)
        }
        name if name.starts_with("histogram_") => quantile::call(context, name, args, grid).map(Answer::Vector),
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

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn float_function(name: &str) -> fn(f64) -> f64 {
    match name {
        "abs" => f64::abs,
        "acos" => f64::acos,
        "acosh" => f64::acosh,
        "asin" => f64::asin,
        "asinh" => f64::asinh,
        "atan" => f64::atan,
        "atanh" => f64::atanh,
        "ceil" => f64::ceil,
        "cos" => f64::cos,
        "cosh" => f64::cosh,
        "deg" => |value| value * 180.0 / std::f64::consts::PI,
        "exp" => f64::exp,
        "floor" => f64::floor,
        "ln" => f64::ln,
        "log10" => f64::log10,
        "log2" => f64::log2,
        "rad" => |value| value * std::f64::consts::PI / 180.0,
        "sgn" => |value| {
            if value > 0.0 {
                1.0
            } else if value < 0.0 {
                -1.0
            } else {
                value
            }
        },
        "sin" => f64::sin,
        "sinh" => f64::sinh,
        "sqrt" => f64::sqrt,
        "tan" => f64::tan,
        "tanh" => f64::tanh,
        "day_of_month" => |value| date(value).day as f64,
        "day_of_week" => |value| (date(value).days + 4).rem_euclid(7) as f64,
        "day_of_year" => |value| {
            let date = date(value);
            (date.days - days_from_civil(date.year, 1, 1) + 1) as f64
        },
        "days_in_month" => |value| {
            let Date { year, month, .. } = date(value);
            let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            (days_from_civil(next_year, next_month, 1) - days_from_civil(year, month, 1)) as f64
        },
        "hour" => |value| (whole_seconds(value).rem_euclid(86_400) / 3600) as f64,
        "minute" => |value| (whole_seconds(value).rem_euclid(3600) / 60) as f64,
        "month" => |value| date(value).month as f64,
        "year" => |value| date(value).year as f64,
        _ => unreachable!("{name} is in the table of functions"),
    }
}

/// As Go turns a float into a time: towards zero; what does not fit lands somewhere.
fn whole_seconds(value: f64) -> i64 {
    // A year that fits the arithmetic of dates.
    (value as i64).clamp(-(1 << 50), 1 << 50)
}

struct Date {
    days: i64,
    year: i64,
    month: i64,
    day: i64,
}

/// Days since the epoch and the date of the proleptic Gregorian calendar.
fn date(value: f64) -> Date {
    let days = whole_seconds(value).div_euclid(86_400);
    let (year, month, day) = series::civil_from_days(days);
    Date { days, year, month, day }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn timestamp(context: &Context, arg: &Expr, grid: Grid) -> Result<Vec<Column>, EvalError> {
    if let Kind::Vector(selector) = &arg.inner().kind {
        let columns = context.select(selector, grid, true)?;
        return context.map_floats(columns, |time, _| time);
    }
    let columns = context.vector(arg, grid)?;
    context.map(columns, |_, i| Some(Point::Float(seconds(grid.time(i)))))
}

fn bounded(context: &Context, name: &str, args: &[Expr], grid: Grid) -> Result<Vec<Column>, EvalError> {
    let columns = context.vector(&args[0], grid)?;
    let scalar = |i: usize| args.get(i).map(|arg| context.scalar(arg, grid)).transpose();
    let (first, second) = (scalar(1)?, scalar(2)?);
    let at = |values: &Option<Vec<f64>>, i: usize, default: f64| values.as_ref().map_or(default, |values| values[i]);
    let clamp = |value: f64, low: f64, high: f64| {
        if low.is_nan() || high.is_nan() || value.is_nan() { f64::NAN } else { value.min(high).max(low) }
    };
    context
        .map_floats(columns, |value, i| match name {
            "round" => {
                let inverse = 1.0 / at(&first, i, 1.0);
                (value * inverse + 0.5).floor() / inverse
            }
            "clamp_min" => clamp(value, at(&first, i, 0.0), f64::INFINITY),
            "clamp_max" => clamp(value, f64::NEG_INFINITY, at(&first, i, 0.0)),
            _ => {
                let (low, high) = (at(&first, i, 0.0), at(&second, i, 0.0));
                if high < low { ABSENT } else { clamp(value, low, high) }
            }
        })
        .map(|columns| columns.into_iter().filter(|column| !column.is_empty()).collect())
}

/// A function of the floats of a window, at a place of the grid.
type OfFloats<'f> = dyn Fn(&Window, &[series::Sample], usize) -> Option<f64> + 'f;

fn over_time(context: &Context, function: &Function, args: &[Expr], grid: Grid) -> Result<Vec<Column>, EvalError> {
    let name = function.name;
    let arg = args.iter().find(|arg| arg.value_type() == Matrix).expect("its type was checked");
    let place = Place { notes: &context.notes, span: arg.span };
    let scalar = |i: usize| context.scalar(&args[i], grid);
    check_edges(name, arg)?;
    let float = |value: f64| Some(Point::Float(value));
    // For functions that histograms take no part in.
    let of_floats = |of: &OfFloats| {
        context.over_time(arg, grid, false, |window, i| {
            let samples = window.floats_only(&place)?;
            of(window, samples, i).map(Point::Float)
        })
    };
    let values = |samples: &[series::Sample]| samples.iter().map(|sample| sample.value).collect::<Vec<f64>>();
    match name {
        "rate" | "increase" => {
            let columns = context.over_time(arg, grid, false, |window, _| {
                if !window.floats.is_empty() {
                    let metric = window.labels.metric_name();
                    if !metric.is_empty() && !COUNTER_SUFFIXES.iter().any(|suffix| metric.ends_with(suffix)) {
                        place.info(format!("{NOT_A_COUNTER}: {metric:?}"));
                    }
                }
                window.extrapolated(true, name == "rate", &place)
            })?;
            Ok(columns)
        }
        "delta" => context.over_time(arg, grid, false, |window, _| window.extrapolated(false, false, &place)),
        "irate" | "idelta" => {
            context.over_time(arg, grid, false, |window, _| window.instant_change(name == "irate", &place))
        }
        "sum_over_time" => context.over_time(arg, grid, false, |window, _| window.total(false, &place)),
        "avg_over_time" => context.over_time(arg, grid, false, |window, _| window.total(true, &place)),
        "count_over_time" => context.over_time(arg, grid, false, |window, _| float(window.count() as f64)),
        "present_over_time" => context.over_time(arg, grid, false, |_, _| float(1.0)),
        "changes" => context.over_time(arg, grid, false, |window, _| float(window.changes())),
        "resets" => context.over_time(arg, grid, false, |window, _| float(window.resets())),
        "first_over_time" => context.over_time(arg, grid, true, |window, _| Some(window.first().1)),
        "last_over_time" => context.over_time(arg, grid, true, |window, _| Some(window.last().1)),
        "ts_of_first_over_time" => context.over_time(arg, grid, false, |window, _| float(seconds(window.first().0))),
        "ts_of_last_over_time" => context.over_time(arg, grid, false, |window, _| float(seconds(window.last().0))),
        "min_over_time" | "max_over_time" | "ts_of_min_over_time" | "ts_of_max_over_time" => {
            let largest = name.contains("max");
            of_floats(&|_, samples, _| {
                let mut best = &samples[0];
                for sample in &samples[1..] {
                    let ties = name.starts_with("ts_of") && sample.value == best.value;
                    let better = if largest { sample.value > best.value } else { sample.value < best.value };
                    if better || ties || best.value.is_nan() {
                        best = sample;
                    }
                }
                Some(if name.starts_with("ts_of") { seconds(best.timestamp.0) } else { best.value })
            })
        }
        "stddev_over_time" => of_floats(&|window, _, _| Some(ranges::variance(window.values()).sqrt())),
        "stdvar_over_time" => of_floats(&|window, _, _| Some(ranges::variance(window.values()))),
        "mad_over_time" => of_floats(&|_, samples, _| {
            if samples.iter().any(|sample| sample.value.is_nan()) {
                return Some(f64::NAN);
            }
            let median = ranges::quantile(0.5, &mut values(samples));
            let mut distances: Vec<f64> = samples.iter().map(|sample| (sample.value - median).abs()).collect();
            Some(ranges::quantile(0.5, &mut distances))
        }),
        "quantile_over_time" => {
            let q = scalar(0)?;
            for value in &q {
                quantile::check_quantile(context, *value, args[0].span);
            }
            of_floats(&|_, samples, i| Some(ranges::quantile(q[i], &mut values(samples))))
        }
        "deriv" => of_floats(&|_, samples, _| {
            let start = samples[0].timestamp.0;
            ranges::regression(samples, start).map(|(slope, _)| slope)
        }),
        "predict_linear" => {
            let ahead = scalar(1)?;
            of_floats(&|_, samples, i| {
                let (slope, value) = ranges::regression(samples, grid.time(i))?;
                Some(slope * ahead[i] + value)
            })
        }
        "double_exponential_smoothing" => {
            let (factors, trends) = (scalar(1)?, scalar(2)?);
            for (values, what) in [(&factors, "smoothing"), (&trends, "trend")] {
                if let Some(value) = values.iter().find(|value| !(**value > 0.0 && **value < 1.0)) {
                    return failed(format!(
                        "invalid {what} factor. Expected: 0 < {} < 1, got: {value:.6}",
                        if what == "trend" { "tf" } else { "sf" }
                    ));
                }
            }
            of_floats(&|_, samples, i| ranges::smoothed(samples, factors[i], trends[i]))
        }
        "absent_over_time" => {
            let present = context.over_time(arg, grid, false, |_, _| float(1.0))?;
            let mut column = Column::new(vectors::absent_labels(arg), vec![1.0; grid.count]);
            for other in present {
                for (value, there) in column.values.iter_mut().zip(&other.values) {
                    if !is_absent(*there) {
                        *value = ABSENT;
                    }
                }
            }
            Ok(if column.is_empty() { Vec::new() } else { vec![column] })
        }
        _ => unreachable!("{name} is in the table of functions"),
    }
}

/// Anchored and smoothed ranges go with few functions.
fn check_edges(name: &str, arg: &Expr) -> Result<(), EvalError> {
    let Kind::Matrix { selector, .. } = &arg.inner().kind else { return Ok(()) };
    let (kind, allowed): (_, &[&str]) = match selector.edges {
        Edges::Plain => return Ok(()),
        Edges::Anchored => ("anchored", &["resets", "changes", "rate", "increase", "delta"]),
        Edges::Smoothed => ("smoothed", &["rate", "increase", "delta"]),
    };
    if allowed.contains(&name) {
        return Ok(());
    }
    let mut sorted = allowed.to_vec();
    sorted.sort_unstable();
    failed(format!("{kind} modifier can only be used with: {} - not with {name}", sorted.join(", ")))
}

/// A histogram as a point.
pub(crate) fn histogram_point(histogram: series::Histogram) -> Point {
    Point::Histogram(Arc::new(histogram))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(FUNCTIONS.is_sorted_by(|one, other| one.name < other.name));
    }

    #[test]
    fn dates_of_any_time() {
        for (time, year, month, day) in [
            (0.0, 1970, 1, 1),
            (-1.0, 1969, 12, 31),
            (951_782_400.0, 2000, 2, 29),
            (4_107_542_399.0, 2100, 2, 28),
            (f64::NAN, 1970, 1, 1),
        ] {
            let date = date(time);
            assert_eq!((date.year, date.month, date.day), (year, month, day), "{time}");
        }
        assert_eq!(float_function("days_in_month")(951_782_400.0), 29.0);
        assert_eq!(float_function("day_of_week")(0.0), 4.0);
        assert_eq!(float_function("day_of_year")(951_782_400.0), 60.0);
    }
}
