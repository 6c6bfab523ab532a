//! Operators between two sides.

use crate::eval::context::{ColumnEvaluator, ColumnSink, EvalContext, EvalError, SAME_LABELS, failed};
use crate::eval::value::{Column, Point, QueryValue, histogram_point, is_absent, without_name};
use crate::plan::grid::StepGrid;
use crate::syntax::ast::{Binary, BinaryOp, Cardinality, VectorMatching};
use crate::syntax::error::Span;
use crate::syntax::signature::ValueType;
use ahash::AHashMap;
use series::histogram::ResetHint;
use series::{Labels, METRIC_NAME};

pub(crate) fn eval(
    context: &EvalContext,
    binary: &Binary,
    span: Span,
    grid: StepGrid,
) -> Result<QueryValue, EvalError> {
    let op = binary.op;
    let mut kept = Vec::new();
    let mut keep = |column: Column| {
        context.hold(column.size(), column.bytes())?;
        kept.push(column);
        Ok(())
    };
    let columns: ColumnEvaluator = |context, expr, grid, sink| context.each_column(expr, grid, sink);
    if let Some(done) = each_with_scalar(context, binary, span, grid, &mut keep, columns) {
        done?;
        return context.unique(kept).map(QueryValue::Vector);
    }
    match (context.eval(&binary.left, grid)?, context.eval(&binary.right, grid)?) {
        (QueryValue::Scalar(left), QueryValue::Scalar(right)) => {
            let values = left.into_iter().zip(right).map(|(left, right)| scalar_op(op, left, right));
            Ok(QueryValue::Scalar(values.collect()))
        }
        (QueryValue::Vector(left), QueryValue::Vector(right)) => {
            let matching = binary.matching.as_ref().expect("the parser gives vectors a matching");
            if op.is_set() {
                Ok(QueryValue::Vector(set(context, op, matching, left, right, grid)?))
            } else {
                between(context, binary, matching, span, left, right, grid).map(QueryValue::Vector)
            }
        }
        _ => failed("binary expression must contain only scalar and instant vector types"),
    }
}

const MANY_TO_ONE: &str = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";

/// Go's remainder: the sign of the dividend.
fn arithmetic(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => left.powf(right),
        BinaryOp::Atan2 => left.atan2(right),
        _ => unreachable!("{} is no arithmetic", op.name()),
    }
}

fn compares(op: BinaryOp, left: f64, right: f64) -> bool {
    match op {
        BinaryOp::Equal => left == right,
        BinaryOp::NotEqual => left != right,
        BinaryOp::Greater => left > right,
        BinaryOp::Less => left < right,
        BinaryOp::GreaterEqual => left >= right,
        BinaryOp::LessEqual => left <= right,
        _ => unreachable!("{} is no comparison", op.name()),
    }
}

fn scalar_op(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op {
        op if op.is_comparison() => f64::from(u8::from(compares(op, left, right))),
        BinaryOp::TrimUpper | BinaryOp::TrimLower => f64::NAN,
        op => arithmetic(op, left, right),
    }
}

/// What an operator makes of two points: the value, and for comparisons whether they hold.
fn points(context: &EvalContext, op: BinaryOp, left: &Point, right: &Point, span: Span) -> Option<(Point, bool)> {
    use BinaryOp::*;
    let incompatible = || {
        let kind = |point: &Point| match point {
            Point::Float(_) => "float",
            Point::Histogram(_) => "histogram",
        };
        let (left, right, op) = (kind(left), kind(right), op.name());
        let text = format!("incompatible sample types encountered for binary operator {op:?}: {left} {op} {right}");
        context.annotations.info(span, text);
        None
    };
    match (left, right) {
        (Point::Float(left), Point::Float(right)) => match op {
            op if op.is_comparison() => Some((Point::Float(*left), compares(op, *left, *right))),
            TrimUpper | TrimLower => incompatible(),
            op => Some((Point::Float(arithmetic(op, *left, *right)), true)),
        },
        (Point::Histogram(histogram), Point::Float(value)) => match op {
            Mul | Div => {
                let mut scaled = (**histogram).clone();
                if op == Mul {
                    scaled.scale(*value)
                } else {
                    scaled.divide(*value)
                }
                Some((histogram_point(scaled), true))
            }
            TrimUpper | TrimLower => Some((histogram_point(histogram.trimmed(*value, op == TrimUpper)), true)),
            _ => incompatible(),
        },
        (Point::Float(value), Point::Histogram(histogram)) => match op {
            Mul => {
                let mut scaled = (**histogram).clone();
                scaled.scale(*value);
                Some((histogram_point(scaled), true))
            }
            _ => incompatible(),
        },
        (Point::Histogram(one), Point::Histogram(other)) => match op {
            Add | Sub => {
                let mut result = (**one).clone();
                let done = if op == Add { result.add(other) } else { result.sub(other) };
                let name = if op == Add { "addition" } else { "subtraction" };
                let Ok(done) = done else {
                    let text = format!("incompatible bucket layout encountered for binary operator {}", op.name());
                    context.annotations.warn(span, text);
                    return None;
                };
                if done.resets_collide {
                    context.annotations.warn(span, format!("conflicting counter resets during histogram {name}"));
                }
                if done.custom_bounds {
                    context.annotations.info(span, format!("mismatched custom buckets were reconciled during {name}"));
                }
                if op == Sub {
                    result.hint = ResetHint::Gauge;
                }
                Some((histogram_point(result), true))
            }
            Equal => Some((left.clone(), one.same_as(other))),
            NotEqual => Some((left.clone(), !one.same_as(other))),
            _ => incompatible(),
        },
    }
}

fn keeps_name(op: BinaryOp, is_bool: bool) -> bool {
    (op.is_comparison() && !is_bool) || matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

fn truth(holds: bool) -> Point {
    Point::Float(f64::from(u8::from(holds)))
}

/// Evaluates an operator between a vector and a scalar column by column. None if it has other sides.
pub(crate) fn each_with_scalar(
    context: &EvalContext,
    binary: &Binary,
    span: Span,
    grid: StepGrid,
    sink: &mut ColumnSink,
    columns: ColumnEvaluator,
) -> Option<Result<(), EvalError>> {
    let (vector, scalar, swapped) = match (binary.left.value_type(), binary.right.value_type()) {
        (ValueType::Vector, ValueType::Scalar) => (&binary.left, &binary.right, false),
        (ValueType::Scalar, ValueType::Vector) => (&binary.right, &binary.left, true),
        _ => return None,
    };
    let mut evaluate = || {
        let scalars = context.scalar(scalar, grid)?;
        columns(context, vector, grid, &mut |column| {
            column_with_scalar(context, binary, span, column, &scalars, swapped).map_or(Ok(()), &mut *sink)
        })
    };
    Some(evaluate())
}

/// One column and a scalar; None if nothing is left.
fn column_with_scalar(
    context: &EvalContext,
    binary: &Binary,
    span: Span,
    mut column: Column,
    scalars: &[f64],
    swapped: bool,
) -> Option<Column> {
    let (op, is_bool) = (binary.op, binary.is_bool);
    let plain = !op.is_comparison() && !matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
    if plain && column.histograms.is_none() {
        for (value, scalar) in column.values.iter_mut().zip(scalars) {
            if !is_absent(*value) {
                *value = if swapped { arithmetic(op, *scalar, *value) } else { arithmetic(op, *value, *scalar) };
            }
        }
    } else {
        for (i, scalar) in scalars.iter().enumerate() {
            let Some(point) = column.point(i) else { continue };
            let scalar = Point::Float(*scalar);
            let (left, right) = if swapped { (&scalar, &point) } else { (&point, &scalar) };
            let result = points(context, op, left, right, span).and_then(|(value, holds)| {
                if op.is_comparison() {
                    // A filter keeps the vector's value, on whichever side it is.
                    if is_bool { Some(truth(holds)) } else { holds.then(|| point.clone()) }
                } else {
                    Some(value)
                }
            });
            column.set(i, result);
        }
        if column.is_empty() {
            return None;
        }
    }
    Some(if keeps_name(op, is_bool) { column } else { context.drop_name(column) })
}

/// The labels by which series find each other.
fn signature(labels: &Labels, matching: &VectorMatching) -> Labels {
    let listed = |name: &str| matching.labels.iter().any(|label| label == name);
    if matching.on {
        Labels::from_sorted(labels.iter().filter(|(name, _)| listed(name)))
    } else {
        Labels::from_sorted(labels.iter().filter(|(name, _)| *name != METRIC_NAME && !listed(name)))
    }
}

fn set(
    context: &EvalContext,
    op: BinaryOp,
    matching: &VectorMatching,
    left: Vec<Column>,
    right: Vec<Column>,
    grid: StepGrid,
) -> Result<Vec<Column>, EvalError> {
    // Whether a signature is present, at each time.
    let presence = |columns: &[Column]| -> Result<AHashMap<Labels, Vec<bool>>, EvalError> {
        let mut present: AHashMap<Labels, Vec<bool>> = AHashMap::with_capacity(columns.len());
        for column in columns {
            let signature = signature(&column.labels, matching);
            context.hold(0, signature.bytes() + grid.count)?;
            let times = present.entry(signature).or_insert_with(|| vec![false; grid.count]);
            times.iter_mut().enumerate().for_each(|(i, there)| *there |= column.has(i));
        }
        Ok(present)
    };
    let filter = |columns: Vec<Column>, present: &AHashMap<Labels, Vec<bool>>, wanted: bool| {
        let mut kept = Vec::with_capacity(columns.len());
        for mut column in columns {
            let times = present.get(&signature(&column.labels, matching));
            for i in 0..grid.count {
                if times.is_some_and(|times| times[i]) != wanted && column.has(i) {
                    column.set(i, None);
                }
            }
            if !column.is_empty() {
                kept.push(column);
            }
        }
        kept
    };
    match op {
        BinaryOp::And => Ok(filter(left, &presence(&right)?, true)),
        BinaryOp::Unless => Ok(filter(left, &presence(&right)?, false)),
        _ => {
            let others = filter(right, &presence(&left)?, false);
            let mut all = left;
            all.extend(others);
            context.unique(all)
        }
    }
}

/// Series of both sides with one signature.
#[derive(Default)]
struct Pair {
    many: Vec<usize>,
    one: Vec<usize>,
}

fn between(
    context: &EvalContext,
    binary: &Binary,
    matching: &VectorMatching,
    span: Span,
    left: Vec<Column>,
    right: Vec<Column>,
    grid: StepGrid,
) -> Result<Vec<Column>, EvalError> {
    let swapped = matching.cardinality == Cardinality::OneToMany;
    let (many, one) = if swapped { (right, left) } else { (left, right) };
    let (fill_many, fill_one) =
        if swapped { (matching.fill_right, matching.fill_left) } else { (matching.fill_left, matching.fill_right) };
    let mut pairs: AHashMap<Labels, usize> = AHashMap::with_capacity(many.len());
    let mut list: Vec<(Labels, Pair)> = Vec::new();
    let mut place = |labels: Labels, list: &mut Vec<(Labels, Pair)>| {
        *pairs.entry(labels).or_insert_with_key(|labels| {
            list.push((labels.clone(), Pair::default()));
            list.len() - 1
        })
    };
    for (i, column) in many.iter().enumerate() {
        let at = place(signature(&column.labels, matching), &mut list);
        list[at].1.many.push(i);
    }
    for (i, column) in one.iter().enumerate() {
        let at = place(signature(&column.labels, matching), &mut list);
        list[at].1.one.push(i);
    }
    // Where the many side is empty as a whole, nothing is matched and nothing is a fault.
    let any_many: Vec<bool> = if grid.count == 1 || list.iter().all(|(_, pair)| pair.one.len() < 2) {
        vec![!many.is_empty(); grid.count]
    } else {
        (0..grid.count).map(|i| many.iter().any(|column| column.has(i))).collect()
    };
    let fills = fill_many.is_some() || fill_one.is_some();
    let mut out: Vec<Column> = Vec::new();
    for (labels, pair) in &list {
        context.check()?;
        // Which column of the one side speaks at each time.
        let mut chosen: Vec<Option<usize>> = vec![None; grid.count];
        for column in &pair.one {
            for i in 0..grid.count {
                if !one[*column].has(i) || !(any_many[i] || fills) {
                    continue;
                }
                if let Some(other) = chosen[i] {
                    return duplicate(&one[*column], &one[other], labels, swapped);
                }
                chosen[i] = Some(*column);
            }
        }
        let mut matched = vec![false; grid.count];
        // Pairs that a filter drops are ambiguous, too.
        if matching.cardinality == Cardinality::OneToOne && pair.many.len() > 1 {
            let twice = |i: usize| pair.many.iter().filter(|column| many[**column].has(i)).count() > 1;
            if (0..grid.count).any(|i| (chosen[i].is_some() || fill_one.is_some()) && twice(i)) {
                return failed(MANY_TO_ONE);
            }
        }
        let mut results: Vec<Column> = Vec::new();
        for column in &pair.many {
            context.check()?;
            let column = &many[*column];
            // The answer's labels may depend on the series of the one side.
            let mut by_one: Vec<(Option<usize>, Column)> = Vec::new();
            for i in 0..grid.count {
                let Some(point) = column.point(i) else { continue };
                matched[i] = true;
                let partner = match (chosen[i], fill_one) {
                    (Some(partner), _) => one[partner].point(i).expect("it was chosen for this time"),
                    (None, Some(fill)) if any_many[i] => Point::Float(fill),
                    _ => continue,
                };
                let Some(result) = element(context, binary, &point, &partner, swapped, span) else { continue };
                let at = match by_one.iter().position(|(which, _)| *which == chosen[i]) {
                    Some(at) => at,
                    None => {
                        let partner = chosen[i].map(|partner| &one[partner]);
                        by_one.push((chosen[i], result_column(context, binary, matching, column, partner, grid)?));
                        by_one.len() - 1
                    }
                };
                by_one[at].1.set(i, Some(result));
            }
            results.extend(by_one.into_iter().map(|(_, column)| column));
        }
        if let Some(fill) = fill_many {
            for partner in &pair.one {
                let partner = &one[*partner];
                let nothing = Column::absent(labels.clone(), 0);
                let mut column = result_column(context, binary, matching, &nothing, Some(partner), grid)?;
                for i in (0..grid.count).filter(|i| !matched[*i]) {
                    let Some(point) = partner.point(i) else { continue };
                    let result = element(context, binary, &Point::Float(fill), &point, swapped, span);
                    column.set(i, result);
                }
                results.push(column);
            }
        }
        out.extend(results.into_iter().filter(|column| !column.is_empty()));
    }
    // Two results with the same labels at one time were ambiguous.
    match context.unique(out) {
        Err(EvalError::Execution(text)) if text == SAME_LABELS => {
            if matching.cardinality == Cardinality::OneToOne {
                failed(MANY_TO_ONE)
            } else {
                failed("multiple matches for labels: grouping labels must ensure unique matches")
            }
        }
        result => result,
    }
}

fn duplicate<T>(new: &Column, known: &Column, labels: &Labels, swapped: bool) -> Result<T, EvalError> {
    let side = if swapped { "left" } else { "right" };
    let (one, other) = if known.labels < new.labels { (known, new) } else { (new, known) };
    failed(format!(
        "found duplicate series for the match group {labels} on the {side} hand-side of the operation: [{}, \
         {}];many-to-many matching not allowed: matching labels must be unique on one side",
        one.labels, other.labels
    ))
}

/// The result for one pair; `many` is the left side unless swapped.
fn element(
    context: &EvalContext,
    binary: &Binary,
    many: &Point,
    one: &Point,
    swapped: bool,
    span: Span,
) -> Option<Point> {
    let (left, right) = if swapped { (one, many) } else { (many, one) };
    let (value, holds) = points(context, binary.op, left, right, span)?;
    if binary.is_bool {
        return Some(truth(holds));
    }
    holds.then_some(value)
}

fn result_column(
    context: &EvalContext,
    binary: &Binary,
    matching: &VectorMatching,
    many: &Column,
    one: Option<&Column>,
    grid: StepGrid,
) -> Result<Column, EvalError> {
    let mut labels = many.labels.clone();
    let mut drop_name = many.drop_name;
    if !keeps_name(binary.op, binary.is_bool) {
        if context.plan.delayed_names {
            drop_name = true;
        } else {
            labels = without_name(&labels);
        }
    }
    if matching.cardinality == Cardinality::OneToOne {
        let listed = |name: &str| matching.labels.iter().any(|label| label == name);
        labels = Labels::from_sorted(labels.iter().filter(|(name, _)| listed(name) == matching.on));
    }
    if !matching.include.is_empty() {
        // A value that was filled in has the labels of the match alone.
        let one = one.map_or_else(|| signature(&many.labels, matching), |one| one.labels.clone());
        let mut builder = labels.to_builder();
        for name in &matching.include {
            match one.get(name) {
                Some(value) => builder.set(name, value),
                None => builder.remove(name),
            }
        }
        labels = builder.build();
    }
    Ok(Column { drop_name, ..context.new_column(labels, grid)? })
}
