//! Functions of range vectors.

use crate::annotations::AnnotationSink;
use crate::eval::context::{ColumnSink, EvalContext, EvalError, failed};
use crate::eval::math::{self, seconds};
use crate::eval::value::{ABSENT, Column, Point, is_absent};
use crate::eval::window::{COUNTER_SUFFIXES, NOT_A_COUNTER, Window};
use crate::functions::label;
use crate::plan::grid::StepGrid;
use crate::syntax::ast::{Expr, Kind, RangeModifier};
use crate::syntax::signature::{Function, ValueType};

/// A function of the floats of a window, at an index of the grid.
type OfFloats<'f> = dyn Fn(&Window, &[series::Sample], usize) -> Option<f64> + 'f;

/// Evaluates a function of a range vector and hands over one column per series. Its columns may have the same labels.
pub(crate) fn over_time(
    context: &EvalContext,
    function: &Function,
    args: &[Expr],
    grid: StepGrid,
    out: &mut ColumnSink,
) -> Result<(), EvalError> {
    let name = function.name;
    let arg = args.iter().find(|arg| arg.value_type() == ValueType::Matrix).expect("its type was checked");
    let sink = AnnotationSink { notes: &context.annotations, span: arg.span };
    check_modifier(name, arg)?;
    if name == "absent_over_time" {
        return absent_over_time(context, arg, grid, out);
    }
    let keep_name = matches!(name, "first_over_time" | "last_over_time");
    if let Some(of) = of_samples(name) {
        return context.over_time(arg, grid, keep_name, &|window, _| of(window, &sink), out);
    }
    // Histograms take no part in the others.
    let mut of_floats = |of: &OfFloats| {
        let of = |window: &Window, i: usize| of(window, window.floats_only(&sink)?, i).map(Point::Float);
        context.over_time(arg, grid, false, &of, out)
    };
    let scalar = |i: usize| context.scalar(&args[i], grid);
    match name {
        "quantile_over_time" => {
            let q = scalar(0)?;
            for value in &q {
                context.check_quantile(*value, args[0].span);
            }
            of_floats(&|_, samples, i| Some(math::quantile(q[i], &mut values(samples))))
        }
        "predict_linear" => {
            let ahead = scalar(1)?;
            of_floats(&|_, samples, i| {
                let (slope, value) = math::regression(samples, grid.time(i))?;
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
            of_floats(&|_, samples, i| math::smoothed(samples, factors[i], trends[i]))
        }
        name => {
            let of = of_float_samples(name);
            of_floats(&|window, samples, _| of(window, samples))
        }
    }
}

fn values(samples: &[series::Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.value).collect()
}

/// Functions of all samples of a window, histograms included.
fn of_samples(name: &str) -> Option<fn(&Window, &AnnotationSink) -> Option<Point>> {
    fn rate(window: &Window, per_second: bool, sink: &AnnotationSink) -> Option<Point> {
        // A rate needs two samples to be worth an annotation.
        if window.floats.len() > 1 {
            let metric = window.labels.metric_name();
            if !metric.is_empty() && !COUNTER_SUFFIXES.iter().any(|suffix| metric.ends_with(suffix)) {
                sink.info(format!("{NOT_A_COUNTER}: {metric:?}"));
            }
        }
        window.extrapolated(true, per_second, sink)
    }
    Some(match name {
        "rate" => |window, sink| rate(window, true, sink),
        "increase" => |window, sink| rate(window, false, sink),
        "delta" => |window, sink| window.extrapolated(false, false, sink),
        "irate" => |window, sink| window.instant_change(true, sink),
        "idelta" => |window, sink| window.instant_change(false, sink),
        "sum_over_time" => |window, sink| window.total(false, sink),
        "avg_over_time" => |window, sink| window.total(true, sink),
        "count_over_time" => |window, _| Some(Point::Float(window.count() as f64)),
        "present_over_time" => |_, _| Some(Point::Float(1.0)),
        "changes" => |window, _| Some(Point::Float(window.anchored()?.changes())),
        "resets" => |window, _| Some(Point::Float(window.anchored()?.resets())),
        "first_over_time" => |window, _| Some(window.first().1),
        "last_over_time" => |window, _| Some(window.last().1),
        "ts_of_first_over_time" => |window, _| Some(Point::Float(seconds(window.first().0))),
        "ts_of_last_over_time" => |window, _| Some(Point::Float(seconds(window.last().0))),
        _ => return None,
    })
}

/// Functions of the floats of a window.
fn of_float_samples(name: &str) -> fn(&Window, &[series::Sample]) -> Option<f64> {
    /// The smallest or largest sample; of equal ones the last, if it is the time that counts.
    fn extreme(samples: &[series::Sample], largest: bool, last: bool) -> &series::Sample {
        let mut best = &samples[0];
        for sample in &samples[1..] {
            let better = if largest { sample.value > best.value } else { sample.value < best.value };
            if better || (last && sample.value == best.value) || best.value.is_nan() {
                best = sample;
            }
        }
        best
    }
    match name {
        "min_over_time" => |_, samples| Some(extreme(samples, false, false).value),
        "max_over_time" => |_, samples| Some(extreme(samples, true, false).value),
        "ts_of_min_over_time" => |_, samples| Some(seconds(extreme(samples, false, true).timestamp.0)),
        "ts_of_max_over_time" => |_, samples| Some(seconds(extreme(samples, true, true).timestamp.0)),
        "stddev_over_time" => |window, _| Some(math::variance(window.values()).sqrt()),
        "stdvar_over_time" => |window, _| Some(math::variance(window.values())),
        "deriv" => |_, samples| math::regression(samples, samples[0].timestamp.0).map(|(slope, _)| slope),
        "mad_over_time" => |_, samples| {
            if samples.iter().any(|sample| sample.value.is_nan()) {
                return Some(f64::NAN);
            }
            let median = math::quantile(0.5, &mut values(samples));
            let mut distances: Vec<f64> = samples.iter().map(|sample| (sample.value - median).abs()).collect();
            Some(math::quantile(0.5, &mut distances))
        },
        _ => unreachable!("{name} is in the table of functions"),
    }
}

fn absent_over_time(context: &EvalContext, arg: &Expr, grid: StepGrid, out: &mut ColumnSink) -> Result<(), EvalError> {
    let mut column = Column::new(label::absent_labels(arg), context.new_values(1.0, grid)?);
    context.over_time(arg, grid, false, &|_, _| Some(Point::Float(1.0)), &mut |present| {
        for (value, there) in column.values.iter_mut().zip(&present.values) {
            if !is_absent(*there) {
                *value = ABSENT;
            }
        }
        context.release(present.size(), present.bytes());
        Ok(())
    })?;
    if column.is_empty() { Ok(()) } else { out(column) }
}

/// Anchored and smoothed ranges go with few functions.
fn check_modifier(name: &str, arg: &Expr) -> Result<(), EvalError> {
    let Kind::Matrix { selector, .. } = &arg.inner().kind else { return Ok(()) };
    let (kind, allowed): (_, &[&str]) = match selector.modifier {
        RangeModifier::Plain => return Ok(()),
        RangeModifier::Anchored => ("anchored", &["resets", "changes", "rate", "increase", "delta"]),
        RangeModifier::Smoothed => ("smoothed", &["rate", "increase", "delta"]),
    };
    if allowed.contains(&name) {
        return Ok(());
    }
    let mut sorted = allowed.to_vec();
    sorted.sort_unstable();
    failed(format!("{kind} modifier can only be used with: {} - not with {name}", sorted.join(", ")))
}
