//! Aggregations: groups of columns, and what becomes of each group at each time.

use crate::annotations::AnnotationSink;
use crate::eval::context::{EvalContext, EvalError, failed};
use crate::eval::math::{self, HistogramSum, Mean, Sum, group_labels};
use crate::eval::value::{Column, Point, QueryValue, histogram_point, is_absent};
use crate::plan::grid::StepGrid;
use crate::syntax::ast::{Aggregate, AggregateOp};
use ahash::AHashMap;
use series::{Labels, METRIC_NAME, format_float_json};
use std::collections::BTreeMap;

/// Columns with the same labels of the grouping.
struct Group {
    labels: Labels,
    drop_name: bool,
    members: Vec<usize>,
}

fn groups(columns: &[Column], aggregate: &Aggregate) -> Vec<Group> {
    let mut indexes: AHashMap<Labels, usize> = AHashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (i, column) in columns.iter().enumerate() {
        let labels = group_labels(&column.labels, aggregate);
        let index = *indexes.entry(labels).or_insert_with_key(|labels| {
            groups.push(Group { labels: labels.clone(), drop_name: false, members: Vec::new() });
            groups.len() - 1
        });
        groups[index].drop_name |= column.drop_name;
        groups[index].members.push(i);
    }
    groups
}

pub(crate) fn eval(context: &EvalContext, aggregate: &Aggregate, grid: StepGrid) -> Result<QueryValue, EvalError> {
    if let Some(columns) = context.pushed_down(aggregate, grid)? {
        return Ok(QueryValue::Vector(columns));
    }
    let scalar = match (&aggregate.parameter, aggregate.op) {
        (Some(parameter), op) if op != AggregateOp::CountValues => Some(context.scalar(parameter, grid)?),
        _ => None,
    };
    let columns = context.vector(&aggregate.expr, grid)?;
    let groups = groups(&columns, aggregate);
    let parameter_span = aggregate.parameter.as_ref().map_or(aggregate.expr.span, |parameter| parameter.span);
    let out = match aggregate.op {
        AggregateOp::CountValues => {
            let parameter = aggregate.parameter.as_ref().expect("the parser counts parameters");
            let label = context.text(parameter, grid)?;
            return count_values(context, &columns, groups, &label, grid).map(QueryValue::Vector);
        }
        AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
            let scalar = scalar.expect("the parser counts parameters");
            return select(context, aggregate, &columns, &groups, &scalar, grid).map(QueryValue::Vector);
        }
        AggregateOp::Quantile => {
            let scalar = scalar.expect("the parser counts parameters");
            if !columns.is_empty() {
                scalar.iter().for_each(|q| context.check_quantile(*q, parameter_span));
            }
            reduce(context, &columns, groups, grid, aggregate, |values, i| math::quantile(scalar[i], values))
        }
        AggregateOp::Stddev => reduce(context, &columns, groups, grid, aggregate, |values, _| {
            math::variance(values.iter().copied()).sqrt()
        }),
        AggregateOp::Stdvar => {
            reduce(context, &columns, groups, grid, aggregate, |values, _| math::variance(values.iter().copied()))
        }
        AggregateOp::Sum | AggregateOp::Avg => sums(context, &columns, groups, grid, aggregate),
        AggregateOp::Count | AggregateOp::Group => {
            let counted = groups.into_iter().map(|group| {
                let mut column = Column::absent(group.labels, grid.count);
                column.drop_name = group.drop_name;
                for member in &group.members {
                    for i in 0..grid.count {
                        if columns[*member].has(i) {
                            let value = &mut column.values[i];
                            *value = if is_absent(*value) || aggregate.op == AggregateOp::Group {
                                1.0
                            } else {
                                *value + 1.0
                            };
                        }
                    }
                }
                column
            });
            counted.collect()
        }
        AggregateOp::Min | AggregateOp::Max => {
            let largest = aggregate.op == AggregateOp::Max;
            let best = groups.into_iter().map(|group| {
                let mut column = Column::absent(group.labels, grid.count);
                column.drop_name = group.drop_name;
                for member in &group.members {
                    ignore_histograms(context, &columns[*member], aggregate);
                    for (best, value) in column.values.iter_mut().zip(&columns[*member].values) {
                        let better = if largest { *value > *best } else { *value < *best };
                        // NaN counts only if there is nothing else.
                        if !is_absent(*value) && (better || best.is_nan()) {
                            *best = *value;
                        }
                    }
                }
                column
            });
            best.collect()
        }
    };
    let out: Vec<Column> = out.into_iter().filter(|column: &Column| !column.is_empty()).collect();
    for column in &out {
        context.spend(column.size())?;
    }
    Ok(QueryValue::Vector(out))
}

fn ignore_histograms(context: &EvalContext, column: &Column, aggregate: &Aggregate) {
    if column.histograms.iter().flatten().any(Option::is_some) {
        let text = format!("ignored histogram in {} aggregation", aggregate.op.name());
        context.notes.info(aggregate.expr.span, text);
    }
}

/// A function of all floats of a group at a time.
fn reduce(
    context: &EvalContext,
    columns: &[Column],
    groups: Vec<Group>,
    grid: StepGrid,
    aggregate: &Aggregate,
    of: impl Fn(&mut [f64], usize) -> f64,
) -> Vec<Column> {
    let mut values = Vec::new();
    let mut out = Vec::with_capacity(groups.len());
    for group in groups {
        let mut column = Column::absent(group.labels, grid.count);
        column.drop_name = group.drop_name;
        group.members.iter().for_each(|member| ignore_histograms(context, &columns[*member], aggregate));
        for i in 0..grid.count {
            values.clear();
            let members = group.members.iter().map(|member| columns[*member].values[i]);
            values.extend(members.filter(|value| !is_absent(*value)));
            if !values.is_empty() {
                column.values[i] = of(&mut values, i);
            }
        }
        out.push(column);
    }
    out
}

/// Sums and means, of floats or of histograms, never of both.
fn sums(
    context: &EvalContext,
    columns: &[Column],
    groups: Vec<Group>,
    grid: StepGrid,
    aggregate: &Aggregate,
) -> Vec<Column> {
    let as_mean = aggregate.op == AggregateOp::Avg;
    let sink = AnnotationSink { notes: &context.notes, span: aggregate.expr.span };
    let mut out = Vec::with_capacity(groups.len());
    for group in groups {
        let mut column = Column::absent(group.labels, grid.count);
        column.drop_name = group.drop_name;
        let mut sums = vec![Sum::default(); if as_mean { 0 } else { grid.count }];
        let mut means = vec![Mean::default(); if as_mean { grid.count } else { 0 }];
        let mut seen = vec![false; grid.count];
        let mut histograms: BTreeMap<usize, HistogramSum> = BTreeMap::new();
        for member in &group.members {
            let member = &columns[*member];
            for (i, value) in member.values.iter().enumerate() {
                if !is_absent(*value) {
                    seen[i] = true;
                    if as_mean { means[i].add(*value) } else { sums[i].add(*value) }
                }
            }
            for (i, histogram) in member.histograms.iter().flatten().enumerate() {
                if let Some(histogram) = histogram {
                    match histograms.entry(i) {
                        std::collections::btree_map::Entry::Vacant(entry) => {
                            entry.insert(HistogramSum::new(histogram, as_mean));
                        }
                        std::collections::btree_map::Entry::Occupied(mut sum) => sum.get_mut().add(histogram),
                    }
                }
            }
        }
        for (i, seen) in seen.into_iter().enumerate() {
            match (seen, histograms.remove(&i)) {
                (true, Some(_)) => sink.warn("encountered a mix of histograms and floats for aggregation"),
                (true, None) => column.values[i] = if as_mean { means[i].get() } else { sums[i].get() },
                (false, Some(sum)) => match sum.finish(&sink) {
                    Some(histogram) => column.set(i, Some(histogram_point(histogram))),
                    None => sink.warn(
                        "vector contains a mix of histograms with exponential and custom buckets schemas for aggregation",
                    ),
                },
                (false, None) => {}
            }
        }
        out.push(column);
    }
    out
}

/// Aggregations whose answer is some of the input.
fn select(
    context: &EvalContext,
    aggregate: &Aggregate,
    columns: &[Column],
    groups: &[Group],
    parameter: &[f64],
    grid: StepGrid,
) -> Result<Vec<Column>, EvalError> {
    use AggregateOp::*;
    let op = aggregate.op;
    let mut warned = false;
    for value in parameter {
        if op == LimitRatio {
            if value.is_nan() {
                return failed("Ratio value is NaN");
            }
            if value.abs() > 1.0 && !warned {
                warned = true;
                let (mut got, mut cap) = (String::new(), String::new());
                // Writing into a string does not fail.
                let _ = series::format_float(*value, &mut got);
                let _ = series::format_float(value.signum(), &mut cap);
                let text = format!("ratio value should be between -1 and 1, got {got}, capping to {cap}");
                context.notes.warn(aggregate.parameter.as_ref().map_or(aggregate.expr.span, |expr| expr.span), text);
            }
        } else if value.is_nan() {
            return failed("Parameter value is NaN");
        } else if *value >= i64::MAX as f64 {
            return failed(format!("Scalar value {value} overflows int64"));
        } else if *value <= i64::MIN as f64 {
            return failed(format!("Scalar value {value} underflows int64"));
        }
    }
    let mut kept: Vec<Column> = columns
        .iter()
        .map(|column| Column { drop_name: column.drop_name, ..Column::absent(column.labels.clone(), grid.count) })
        .collect();
    let mut order: Vec<usize> = Vec::new();
    for group in groups {
        if matches!(op, Topk | Bottomk) {
            group.members.iter().for_each(|member| ignore_histograms(context, &columns[*member], aggregate));
        }
        for (i, parameter) in parameter.iter().enumerate() {
            let mut members: Vec<usize> =
                group.members.iter().copied().filter(|member| columns[*member].has(i)).collect();
            match op {
                Topk | Bottomk => {
                    members.retain(|member| !is_absent(columns[*member].values[i]));
                    // NaN is farthest from both ends.
                    members.sort_by(|one, other| {
                        let (a, b) = (columns[*one].values[i], columns[*other].values[i]);
                        match (a.is_nan(), b.is_nan()) {
                            (false, false) if op == Topk => b.total_cmp(&a),
                            (false, false) => a.total_cmp(&b),
                            (a, b) => a.cmp(&b),
                        }
                    });
                    members.truncate(count(*parameter));
                }
                Limitk => members.truncate(count(*parameter)),
                _ => members.retain(|member| {
                    let share = columns[*member].labels.hash64() as f64 / u64::MAX as f64;
                    let ratio = parameter.clamp(-1.0, 1.0);
                    if ratio >= 0.0 { share < ratio } else { share >= 1.0 + ratio }
                }),
            }
            for member in members {
                kept[member].set(i, columns[member].point(i));
                if grid.count == 1 {
                    order.push(member);
                }
            }
        }
    }
    let mut out = Vec::new();
    if grid.count == 1 {
        let empty = || Column::absent(Labels::empty(), 0);
        out.extend(order.into_iter().map(|member| std::mem::replace(&mut kept[member], empty())));
    } else {
        out.extend(kept.into_iter().filter(|column| !column.is_empty()));
    }
    Ok(out)
}

fn count(parameter: f64) -> usize {
    if parameter < 1.0 { 0 } else { parameter as usize }
}

fn count_values(
    context: &EvalContext,
    columns: &[Column],
    groups: Vec<Group>,
    label: &str,
    grid: StepGrid,
) -> Result<Vec<Column>, EvalError> {
    if label.is_empty() {
        return failed(format!("invalid label name {label:?}"));
    }
    let mut out: BTreeMap<Labels, Column> = BTreeMap::new();
    for group in groups {
        for member in &group.members {
            for i in 0..grid.count {
                let value = match columns[*member].point(i) {
                    None => continue,
                    Some(Point::Float(value)) => {
                        let mut text = String::new();
                        // Writing into a string does not fail.
                        let _ = plain_float(value, &mut text);
                        text
                    }
                    Some(Point::Histogram(histogram)) => histogram.to_string(),
                };
                let mut builder = group.labels.to_builder();
                builder.set(label, &value);
                let labels = builder.build();
                let column = out.entry(labels.clone()).or_insert_with(|| {
                    let mut column = Column::absent(labels, grid.count);
                    column.drop_name = group.drop_name && label != METRIC_NAME;
                    column
                });
                let count = &mut column.values[i];
                *count = if is_absent(*count) { 1.0 } else { *count + 1.0 };
            }
        }
    }
    context.spend(out.len() * grid.count)?;
    Ok(out.into_values().collect())
}

/// Digits without an exponent.
fn plain_float(value: f64, out: &mut String) -> std::fmt::Result {
    use std::fmt::Write;
    if value.is_finite() { write!(out, "{value}") } else { format_float_json(value, out) }
}
