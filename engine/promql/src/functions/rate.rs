//! Functions of range vectors.

use crate::annotations::AnnotationSink;
use crate::eval::context::{EvalContext, EvalError, failed};
use crate::eval::math::{self, seconds};
use crate::eval::value::{ABSENT, Column, Point, is_absent};
use crate::eval::window::{COUNTER_SUFFIXES, NOT_A_COUNTER, Window};
use crate::functions::label;
use crate::plan::grid::StepGrid;
use crate::syntax::ast::{Expr, Kind, RangeModifier};
use crate::syntax::signature::{Function, ValueType};

/// A function of the floats of a window, at a sink of the grid.
type OfFloats<'f> = dyn Fn(&Window, &[series::Sample], usize) -> Option<f64> + 'f;

pub(crate) fn over_time(
    context: &EvalContext,
    function: &Function,
    args: &[Expr],
    grid: StepGrid,
) -> Result<Vec<Column>, EvalError> {
    let name = function.name;
    let arg = args.iter().find(|arg| arg.value_type() == ValueType::Matrix).expect("its type was checked");
    let sink = AnnotationSink { notes: &context.notes, span: arg.span };
    let scalar = |i: usize| context.scalar(&args[i], grid);
    check_edges(name, arg)?;
    let float = |value: f64| Some(Point::Float(value));
    // For functions that histograms take no part in.
    let of_floats = |of: &OfFloats| {
        context.over_time(arg, grid, false, |window, i| {
            let samples = window.floats_only(&sink)?;
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
                        sink.info(format!("{NOT_A_COUNTER}: {metric:?}"));
                    }
                }
                window.extrapolated(true, name == "rate", &sink)
            })?;
            Ok(columns)
        }
        "delta" => context.over_time(arg, grid, false, |window, _| window.extrapolated(false, false, &sink)),
        "irate" | "idelta" => {
            context.over_time(arg, grid, false, |window, _| window.instant_change(name == "irate", &sink))
        }
        "sum_over_time" => context.over_time(arg, grid, false, |window, _| window.total(false, &sink)),
        "avg_over_time" => context.over_time(arg, grid, false, |window, _| window.total(true, &sink)),
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
        "stddev_over_time" => of_floats(&|window, _, _| Some(math::variance(window.values()).sqrt())),
        "stdvar_over_time" => of_floats(&|window, _, _| Some(math::variance(window.values()))),
        "mad_over_time" => of_floats(&|_, samples, _| {
            if samples.iter().any(|sample| sample.value.is_nan()) {
                return Some(f64::NAN);
            }
            let median = math::quantile(0.5, &mut values(samples));
            let mut distances: Vec<f64> = samples.iter().map(|sample| (sample.value - median).abs()).collect();
            Some(math::quantile(0.5, &mut distances))
        }),
        "quantile_over_time" => {
            let q = scalar(0)?;
            for value in &q {
                context.check_quantile(*value, args[0].span);
            }
            of_floats(&|_, samples, i| Some(math::quantile(q[i], &mut values(samples))))
        }
        "deriv" => of_floats(&|_, samples, _| {
            let start = samples[0].timestamp.0;
            math::regression(samples, start).map(|(slope, _)| slope)
        }),
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
        "absent_over_time" => {
            let present = context.over_time(arg, grid, false, |_, _| float(1.0))?;
            let mut column = Column::new(label::absent_labels(arg), vec![1.0; grid.count]);
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
