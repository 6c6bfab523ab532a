//! Aggregations: groups of columns, and what becomes of each group at each time.

use crate::annotations::AnnotationSink;
use crate::eval::context::{EvalContext, EvalError, failed};
use crate::eval::math::{self, HistogramSum, Mean, Sum, by_value, float_text, group_labels};
use crate::eval::value::{ABSENT, Column, Point, QueryValue, heap_bytes, histogram_point, histogram_size, is_absent};
use crate::plan::grid::StepGrid;
use crate::syntax::ast::{Aggregate, AggregateOp};
use ahash::AHashMap;
use series::{Labels, METRIC_NAME, format_float_json};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Columns that are collected before those are left out that cannot be in the answer.
const CANDIDATES: usize = 1024;

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
    use AggregateOp::*;
    if let Some(columns) = context.pushed_down(aggregate, grid)? {
        return Ok(QueryValue::Vector(columns));
    }
    let op = aggregate.op;
    if matches!(op, Sum | Avg | Count | Group | Min | Max) {
        return folded(context, aggregate, grid).map(QueryValue::Vector);
    }
    let scalar = match &aggregate.parameter {
        Some(parameter) if op != CountValues => Some(context.scalar(parameter, grid)?),
        _ => None,
    };
    let columns = match (op, &scalar) {
        (Topk | Bottomk | Limitk, Some(scalar)) => candidates(context, aggregate, scalar, grid)?,
        _ => context.vector(&aggregate.expr, grid)?,
    };
    let groups = groups(&columns, aggregate);
    let parameter_span = aggregate.parameter.as_ref().map_or(aggregate.expr.span, |parameter| parameter.span);
    let out = match (op, scalar) {
        (Stddev, _) => reduce(context, &columns, groups, grid, aggregate, |values, _| {
            math::variance(values.iter().copied()).sqrt()
        }),
        (Stdvar, _) => {
            reduce(context, &columns, groups, grid, aggregate, |values, _| math::variance(values.iter().copied()))
        }
        (Quantile, Some(scalar)) => {
            if !columns.is_empty() {
                scalar.iter().for_each(|q| context.check_quantile(*q, parameter_span));
            }
            reduce(context, &columns, groups, grid, aggregate, |values, i| math::quantile(scalar[i], values))
        }
        (_, Some(scalar)) => select(context, aggregate, &columns, &groups, &scalar, grid),
        (_, None) => {
            let parameter = aggregate.parameter.as_ref().expect("the parser counts parameters");
            let label = context.text(parameter, grid)?;
            count_values(context, &columns, groups, &label, grid)
        }
    };
    out.map(QueryValue::Vector)
}

/// What an aggregation keeps of a group while the columns of its members pass by, one after the other.
struct FoldedGroup {
    column: Column,
    fold: Fold,
}

/// State of each time.
enum Fold {
    /// The values of the column are the state.
    Column,
    Sums {
        sums: Vec<Sum>,
        seen: Vec<bool>,
        histograms: BTreeMap<usize, HistogramSum>,
    },
    Means {
        means: Vec<Mean>,
        seen: Vec<bool>,
        histograms: BTreeMap<usize, HistogramSum>,
    },
}

/// Aggregations that need one member at a time.
fn folded(context: &EvalContext, aggregate: &Aggregate, grid: StepGrid) -> Result<Vec<Column>, EvalError> {
    let mut indexes: AHashMap<Labels, usize> = AHashMap::new();
    let mut groups: Vec<FoldedGroup> = Vec::new();
    context.each_column(&aggregate.expr, grid, &mut |member| {
        let labels = group_labels(&member.labels, aggregate);
        let index = match indexes.get(&labels) {
            Some(index) => *index,
            None => {
                let column = context.new_column(labels.clone(), grid)?;
                let fold = Fold::new(context, aggregate.op, grid)?;
                groups.push(FoldedGroup { column, fold });
                indexes.insert(labels, groups.len() - 1);
                groups.len() - 1
            }
        };
        let group = &mut groups[index];
        group.column.drop_name |= member.drop_name;
        group.add(context, aggregate, &member)
    })?;
    let sink = AnnotationSink { notes: &context.annotations, span: aggregate.expr.span };
    let columns = groups.into_iter().map(|group| group.finish(&sink));
    Ok(columns.filter(|column| !column.is_empty()).collect())
}

impl Fold {
    fn new(context: &EvalContext, op: AggregateOp, grid: StepGrid) -> Result<Fold, EvalError> {
        let count = grid.count;
        let (seen, histograms) = (|| vec![false; count], BTreeMap::new());
        Ok(match op {
            AggregateOp::Sum => {
                context.hold(0, count * (size_of::<Sum>() + 1))?;
                Fold::Sums { sums: vec![Sum::default(); count], seen: seen(), histograms }
            }
            AggregateOp::Avg => {
                context.hold(0, count * (size_of::<Mean>() + 1))?;
                Fold::Means { means: vec![Mean::default(); count], seen: seen(), histograms }
            }
            _ => Fold::Column,
        })
    }
}

impl FoldedGroup {
    fn add(&mut self, context: &EvalContext, aggregate: &Aggregate, member: &Column) -> Result<(), EvalError> {
        let op = aggregate.op;
        match &mut self.fold {
            Fold::Sums { sums, seen, histograms } => {
                for (i, value) in member.values.iter().enumerate() {
                    if !is_absent(*value) {
                        seen[i] = true;
                        sums[i].add(*value);
                    }
                }
                add_histograms(context, histograms, member, false)
            }
            Fold::Means { means, seen, histograms } => {
                for (i, value) in member.values.iter().enumerate() {
                    if !is_absent(*value) {
                        seen[i] = true;
                        means[i].add(*value);
                    }
                }
                add_histograms(context, histograms, member, true)
            }
            Fold::Column if matches!(op, AggregateOp::Count | AggregateOp::Group) => {
                for (i, value) in self.column.values.iter_mut().enumerate() {
                    if member.has(i) {
                        let is_first = is_absent(*value) || op == AggregateOp::Group;
                        *value = if is_first { 1.0 } else { *value + 1.0 };
                    }
                }
                Ok(())
            }
            Fold::Column => {
                let largest = op == AggregateOp::Max;
                ignore_histograms(context, member, aggregate);
                for (best, value) in self.column.values.iter_mut().zip(&member.values) {
                    let better = if largest { *value > *best } else { *value < *best };
                    // NaN counts only if there is nothing else.
                    if !is_absent(*value) && (better || best.is_nan()) {
                        *best = *value;
                    }
                }
                Ok(())
            }
        }
    }

    fn finish(self, sink: &AnnotationSink) -> Column {
        let FoldedGroup { mut column, fold } = self;
        let (values, seen, mut histograms): (Vec<f64>, _, _) = match fold {
            Fold::Column => return column,
            Fold::Sums { sums, seen, histograms } => (sums.into_iter().map(Sum::get).collect(), seen, histograms),
            Fold::Means { means, seen, histograms } => (means.into_iter().map(Mean::get).collect(), seen, histograms),
        };
        for (i, (value, seen)) in values.into_iter().zip(seen).enumerate() {
            match (seen, histograms.remove(&i)) {
                (true, Some(_)) => sink.warn("encountered a mix of histograms and floats for aggregation"),
                (true, None) => column.values[i] = value,
                (false, Some(sum)) => match sum.finish(sink) {
                    Some(histogram) => column.set(i, Some(histogram_point(histogram))),
                    None => sink.warn(
                        "vector contains a mix of histograms with exponential and custom buckets schemas for aggregation",
                    ),
                },
                (false, None) => {}
            }
        }
        column
    }
}

fn add_histograms(
    context: &EvalContext,
    sums: &mut BTreeMap<usize, HistogramSum>,
    member: &Column,
    as_mean: bool,
) -> Result<(), EvalError> {
    for (i, histogram) in member.histograms.iter().flatten().enumerate() {
        let Some(histogram) = histogram else { continue };
        match sums.entry(i) {
            Entry::Vacant(entry) => {
                context.hold(histogram_size(histogram), size_of::<HistogramSum>() + heap_bytes(histogram))?;
                entry.insert(HistogramSum::new(histogram, as_mean));
            }
            Entry::Occupied(mut sum) => sum.get_mut().add(histogram),
        }
    }
    Ok(())
}

fn ignore_histograms(context: &EvalContext, column: &Column, aggregate: &Aggregate) {
    if column.histograms.iter().flatten().any(Option::is_some) {
        let text = format!("ignored histogram in {} aggregation", aggregate.op.name());
        context.annotations.info(aggregate.expr.span, text);
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
) -> Result<Vec<Column>, EvalError> {
    let mut values = Vec::new();
    let mut out = Vec::with_capacity(groups.len());
    for group in groups {
        let mut column = context.new_column(group.labels, grid)?;
        column.drop_name = group.drop_name;
        group.members.iter().for_each(|member| ignore_histograms(context, &columns[*member], aggregate));
        for i in 0..grid.count {
            context.check()?;
            values.clear();
            let members = group.members.iter().map(|member| columns[*member].values[i]);
            values.extend(members.filter(|value| !is_absent(*value)));
            if !values.is_empty() {
                column.values[i] = of(&mut values, i);
            }
        }
        if !column.is_empty() {
            out.push(column);
        }
    }
    Ok(out)
}

/// The columns of an aggregation that keeps some at each time. What others keep out for good is left out on the way, so that
/// a few of many series cost the memory of a few.
fn candidates(
    context: &EvalContext,
    aggregate: &Aggregate,
    parameter: &[f64],
    grid: StepGrid,
) -> Result<Vec<Column>, EvalError> {
    let mut columns: Vec<Column> = Vec::new();
    let mut full = CANDIDATES;
    context.each_column(&aggregate.expr, grid, &mut |column| {
        context.hold(column.size(), column.bytes())?;
        columns.push(column);
        if columns.len() < full {
            return Ok(());
        }
        let kept = select(context, aggregate, &columns, &groups(&columns, aggregate), parameter, grid)?;
        context.hold(kept.iter().map(Column::size).sum(), 0)?;
        let before = std::mem::replace(&mut columns, kept);
        context.release(before.iter().map(Column::size).sum(), before.iter().map(Column::bytes).sum());
        full = 2 * columns.len() + CANDIDATES;
        Ok(())
    })?;
    Ok(columns)
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
                let (got, cap) = (float_text(*value), float_text(value.signum()));
                let text = format!("ratio value should be between -1 and 1, got {got}, capping to {cap}");
                context
                    .annotations
                    .warn(aggregate.parameter.as_ref().map_or(aggregate.expr.span, |expr| expr.span), text);
            }
        } else if value.is_nan() {
            return failed("Parameter value is NaN");
        } else if *value >= i64::MAX as f64 {
            return failed(format!("Scalar value {} overflows int64", float_text(*value)));
        } else if *value <= i64::MIN as f64 {
            return failed(format!("Scalar value {} underflows int64", float_text(*value)));
        }
    }
    // A column for each member that is chosen at some time.
    let mut chosen: Vec<Option<Column>> = columns.iter().map(|_| None).collect();
    let mut order: Vec<usize> = Vec::new();
    for group in groups {
        if matches!(op, Topk | Bottomk) {
            group.members.iter().for_each(|member| ignore_histograms(context, &columns[*member], aggregate));
        }
        for (i, parameter) in parameter.iter().enumerate() {
            context.check()?;
            let mut members: Vec<usize> =
                group.members.iter().copied().filter(|member| columns[*member].has(i)).collect();
            match op {
                Topk | Bottomk => {
                    members.retain(|member| !is_absent(columns[*member].values[i]));
                    // NaN is farthest from both ends.
                    members.sort_by(|one, other| {
                        let (a, b) = (columns[*one].values[i], columns[*other].values[i]);
                        match (a.is_nan(), b.is_nan()) {
                            (false, false) if op == Topk => by_value(b, a),
                            (false, false) => by_value(a, b),
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
                let Column { labels, drop_name, .. } = &columns[member];
                let column = match &mut chosen[member] {
                    Some(column) => column,
                    none => {
                        let column = context.new_column(labels.clone(), grid)?;
                        none.insert(Column { drop_name: *drop_name, ..column })
                    }
                };
                column.set(i, columns[member].point(i));
                if grid.count == 1 {
                    order.push(member);
                }
            }
        }
    }
    // At one time the best comes first.
    if grid.count == 1 {
        return Ok(order.into_iter().filter_map(|member| chosen[member].take()).collect());
    }
    Ok(chosen.into_iter().flatten().collect())
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
    // Of each new series the times at which it has a value, in order, and how many members have it.
    let mut counted: BTreeMap<Labels, ValueCounts> = BTreeMap::new();
    for group in groups {
        for i in 0..grid.count {
            context.check()?;
            for member in &group.members {
                let Some(point) = columns[*member].point(i) else { continue };
                let mut builder = group.labels.to_builder();
                builder.set(label, &value_text(&point));
                let counts = match counted.entry(builder.build()) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => {
                        context.hold(0, size_of::<ValueCounts>() + entry.key().bytes())?;
                        let drop_name = group.drop_name && label != METRIC_NAME;
                        entry.insert(ValueCounts { drop_name, first: i, counts: Vec::new() })
                    }
                };
                if i < counts.first {
                    // Another group has the same labels, and the value before.
                    let missing = counts.first - i;
                    context.hold(0, missing * size_of::<f64>())?;
                    counts.counts.splice(0..0, std::iter::repeat_n(ABSENT, missing));
                    counts.first = i;
                }
                // A value that comes again after a while has gaps in between.
                let at = i - counts.first;
                if at >= counts.counts.len() {
                    context.hold(1, (at + 1 - counts.counts.len()) * size_of::<f64>())?;
                    counts.counts.resize(at + 1, ABSENT);
                }
                let count = &mut counts.counts[at];
                *count = if is_absent(*count) { 1.0 } else { *count + 1.0 };
            }
        }
    }
    let column = |(labels, counts): (Labels, ValueCounts)| {
        let mut column = Column::starting_at(counts.first, labels, counts.counts);
        column.drop_name = counts.drop_name;
        column
    };
    Ok(counted.into_iter().map(column).collect())
}

/// How often a value occurs, from the first time at which it does.
struct ValueCounts {
    drop_name: bool,
    first: usize,
    counts: Vec<f64>,
}

/// A value as `count_values` writes it into a label.
fn value_text(point: &Point) -> String {
    match point {
        Point::Float(value) => {
            let mut text = String::new();
            // Writing into a string does not fail.
            let _ = plain_float(*value, &mut text);
            text
        }
        Point::Histogram(histogram) => histogram.to_string(),
    }
}

/// Digits without an exponent.
fn plain_float(value: f64, out: &mut String) -> std::fmt::Result {
    use std::fmt::Write;
    if value.is_finite() { write!(out, "{value}") } else { format_float_json(value, out) }
}
