//! Functions of instant vectors that look at labels or at the vector as a whole.

use crate::eval::context::{EvalContext, EvalError, failed};
use crate::eval::math::by_value;
use crate::eval::series::NewestSample;
use crate::eval::value::{ABSENT, Column, Point, is_absent};
use crate::plan::grid::StepGrid;
use crate::syntax::ast::{Expr, Kind, Selector};
use crate::syntax::error::Span;
use ahash::AHashSet;
use series::{Groups, Labels, METRIC_NAME, MatchOp, Matcher, Regex};
use std::cmp::Ordering;

/// The value of the only float of each time.
pub(crate) fn scalar(context: &EvalContext, arg: &Expr, grid: StepGrid) -> Result<Vec<f64>, EvalError> {
    let mut values = context.new_values(ABSENT, grid)?;
    context.hold(0, grid.count * size_of::<u32>())?;
    let mut seen = vec![0u32; grid.count];
    context.each_column(arg, grid, &mut |column| {
        for (i, value) in column.values.iter().enumerate() {
            if !is_absent(*value) {
                values[i] = *value;
                seen[i] = seen[i].saturating_add(1);
            }
        }
        Ok(())
    })?;
    Ok(values.into_iter().zip(seen).map(|(value, seen)| if seen == 1 { value } else { f64::NAN }).collect())
}

/// The labels of an absent series, as Prometheus gives them: those whose first equality matcher is followed by no other
/// matcher of theirs.
pub(crate) fn absent_labels(arg: &Expr) -> Labels {
    let selector: &Selector = match &arg.inner().kind {
        Kind::Vector(selector) => selector,
        Kind::Matrix { selector, .. } => selector,
        _ => return Labels::empty(),
    };
    let mut labels = Labels::empty().to_builder();
    let mut asked: AHashSet<&str> = AHashSet::new();
    for matcher in selector.matchers.iter().filter(|matcher| matcher.name() != METRIC_NAME) {
        let is_first = matcher.op() == MatchOp::Equal && asked.insert(matcher.name());
        // An empty value removes the label.
        labels.set(matcher.name(), if is_first { matcher.value() } else { "" });
    }
    labels.build()
}

pub(crate) fn absent(context: &EvalContext, arg: &Expr, grid: StepGrid) -> Result<Vec<Column>, EvalError> {
    let mut column = Column::new(absent_labels(arg), context.new_values(1.0, grid)?);
    context.each_column(arg, grid, &mut |present| {
        for i in 0..grid.count {
            if present.has(i) {
                column.values[i] = ABSENT;
            }
        }
        Ok(())
    })?;
    Ok(if column.is_empty() { Vec::new() } else { vec![column] })
}

fn label_name(name: &str) -> Result<(), EvalError> {
    if name.is_empty() { failed(format!("invalid label name {name:?}")) } else { Ok(()) }
}

/// Columns, or bytes of labels, that are made between two looks at the account and the clock.
const COLUMNS_PER_LOOK: usize = 1024;
const BYTES_PER_LOOK: usize = 1 << 20;
/// The longest value that a function makes: as long as a scrape may bring.
const VALUE_BYTES_MAX: usize = 1 << 20;

fn too_long(function: &str, name: &str) -> EvalError {
    EvalError::Execution(format!(
        "{function}(): a value of label {name:?} would have more than {VALUE_BYTES_MAX} bytes"
    ))
}

/// Sets a label of every column, where `of` returns a value.
fn relabelled(
    context: &EvalContext,
    mut columns: Vec<Column>,
    name: &str,
    of: impl Fn(&Labels) -> Result<Option<String>, EvalError>,
) -> Result<Vec<Column>, EvalError> {
    let (mut made, mut bytes) = (0, 0);
    for column in &mut columns {
        if let Some(value) = of(&column.labels)? {
            let mut builder = column.labels.to_builder();
            builder.set(name, &value);
            column.labels = builder.build();
            column.drop_name &= name != METRIC_NAME;
            bytes += column.labels.bytes();
        }
        made += 1;
        if made == COLUMNS_PER_LOOK || bytes >= BYTES_PER_LOOK {
            // The selected series may have the labels of before.
            context.hold(0, bytes)?;
            context.check()?;
            (made, bytes) = (0, 0);
        }
    }
    context.hold(0, bytes)?;
    context.unique(columns)
}

pub(crate) fn label_replace(context: &EvalContext, args: &[Expr], grid: StepGrid) -> Result<Vec<Column>, EvalError> {
    let text = |i: usize| context.text(&args[i], grid);
    let (name, replacement, source, expression) = (text(1)?, text(2)?, text(3)?, text(4)?);
    let regex = Regex::new(&expression)
        .map_err(|_| EvalError::Execution(format!("invalid regular expression in label_replace(): {expression}")))?;
    label_name(&name)?;
    let columns = context.vector(&args[0], grid)?;
    relabelled(context, columns, &name, |labels| {
        let value = labels.get(&source).unwrap_or("");
        let mut groups = Groups::default();
        if !regex.find_groups(value, &mut groups) {
            return Ok(None);
        }
        expand(&replacement, &regex, &groups, value).map(Some).ok_or_else(|| too_long("label_replace", &name))
    })
}

/// Go's `Regexp.Expand`: `$1`, `${1}`, `$name`, `$$`; the longest name counts. None if it is too long.
fn expand(template: &str, regex: &Regex, groups: &Groups, value: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (name, after) = match rest.strip_prefix('{') {
            Some(inside) => match inside.find('}') {
                Some(end) => (&inside[..end], &inside[end + 1..]),
                None => {
                    out.push('$');
                    continue;
                }
            },
            None => {
                let end = rest.find(|letter: char| !(letter.is_alphanumeric() || letter == '_')).unwrap_or(rest.len());
                (&rest[..end], &rest[end..])
            }
        };
        if name.is_empty() || !name.chars().all(|letter| letter.is_alphanumeric() || letter == '_') {
            out.push('$');
            continue;
        }
        rest = after;
        let group = match name.parse::<usize>() {
            Ok(group) if name == "0" || !name.starts_with('0') => groups.get(group).copied().flatten(),
            _ => regex.groups_named(name).find_map(|group| groups.get(group).copied().flatten()),
        };
        out.push_str(group.map_or("", |(start, end)| &value[start..end]));
        if out.len() > VALUE_BYTES_MAX {
            return None;
        }
    }
    out.push_str(rest);
    (out.len() <= VALUE_BYTES_MAX).then_some(out)
}

pub(crate) fn label_join(context: &EvalContext, args: &[Expr], grid: StepGrid) -> Result<Vec<Column>, EvalError> {
    let texts: Result<Vec<String>, EvalError> = args[1..].iter().map(|arg| context.text(arg, grid)).collect();
    let texts = texts?;
    let (name, separator, sources) = (&texts[0], &texts[1], &texts[2..]);
    if let Some(source) = sources.iter().find(|source| source.is_empty()) {
        return failed(format!("invalid source label name in label_join(): {source}"));
    }
    if name.is_empty() {
        return failed(format!("invalid destination label name in label_join(): {name}"));
    }
    let columns = context.vector(&args[0], grid)?;
    relabelled(context, columns, name, |labels| {
        let values: Vec<&str> = sources.iter().map(|source| labels.get(source).unwrap_or("")).collect();
        let bytes = values.iter().map(|value| value.len() + separator.len()).sum::<usize>();
        if bytes > VALUE_BYTES_MAX + separator.len() {
            return Err(too_long("label_join", name));
        }
        Ok(Some(values.join(separator)))
    })
}

pub(crate) fn sort(
    context: &EvalContext,
    name: &str,
    args: &[Expr],
    span: Span,
    grid: StepGrid,
) -> Result<Vec<Column>, EvalError> {
    let mut columns = context.vector(&args[0], grid)?;
    let names: Result<Vec<String>, EvalError> = args[1..].iter().map(|arg| context.text(arg, grid)).collect();
    let names = names?;
    if context.plan.is_range {
        let text = "sort is ineffective for range queries since results are always ordered by labels";
        context.annotations.warn(span, text);
        return Ok(columns);
    }
    let descending = name.ends_with("_desc");
    if name.starts_with("sort_by_label") {
        columns.sort_by(|one, other| {
            let by_value = names
                .iter()
                .map(|name| natural(one.labels.get(name).unwrap_or(""), other.labels.get(name).unwrap_or("")));
            let order = by_value.fold(Ordering::Equal, Ordering::then).then_with(|| one.labels.cmp(&other.labels));
            if descending { order.reverse() } else { order }
        });
        return Ok(columns);
    }
    // Histograms have no place in an order of floats.
    for column in &mut columns {
        column.histograms = None;
    }
    columns.retain(|column| !column.is_empty());
    // NaN comes last, whatever the direction.
    columns.sort_by(|one, other| {
        let (a, b) = (one.values[0], other.values[0]);
        match (a.is_nan(), b.is_nan()) {
            (false, false) if descending => by_value(b, a),
            (false, false) => by_value(a, b),
            (a, b) => a.cmp(&b),
        }
    });
    Ok(columns)
}

/// Runs of digits compare as numbers.
fn natural(one: &str, other: &str) -> Ordering {
    let chunk = |text: &str| {
        let digit = text.as_bytes().first().is_some_and(u8::is_ascii_digit);
        text.bytes().take_while(|byte| byte.is_ascii_digit() == digit).count()
    };
    let (mut one, mut other) = (one, other);
    while !one.is_empty() && !other.is_empty() {
        let (a, rest_a) = one.split_at(chunk(one));
        let (b, rest_b) = other.split_at(chunk(other));
        let digits = |text: &str| text.as_bytes()[0].is_ascii_digit();
        let order = if digits(a) && digits(b) {
            let (short_a, short_b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
            short_a.len().cmp(&short_b.len()).then_with(|| short_a.cmp(short_b)).then_with(|| a.len().cmp(&b.len()))
        } else {
            a.cmp(b)
        };
        if order != Ordering::Equal {
            return order;
        }
        (one, other) = (rest_a, rest_b);
    }
    one.len().cmp(&other.len())
}

/// Labels that a series and its info series have in common.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// Adds the labels of the info series with the same job and instance.
pub(crate) fn info(context: &EvalContext, args: &[Expr], grid: StepGrid) -> Result<Vec<Column>, EvalError> {
    let base = context.vector(&args[0], grid)?;
    let Kind::Vector(selector) = &args[1].inner().kind else { return failed("expected label selectors only") };
    let (on_name, on_data): (Vec<&Matcher>, Vec<&Matcher>) =
        selector.matchers.iter().partition(|matcher| matcher.name() == METRIC_NAME);
    let is_info = |labels: &Labels| {
        if on_name.is_empty() {
            return labels.metric_name() == "target_info";
        }
        let positive = on_name.iter().any(|matcher| matches!(matcher.op(), MatchOp::Equal | MatchOp::Regex));
        on_name.iter().all(|matcher| matcher.matches(labels.metric_name()))
            && (positive || (labels.metric_name().ends_with("_info") && labels.metric_name().len() > "_info".len()))
    };
    let key = |labels: &Labels| IDENTIFYING.map(|name| labels.get(name).unwrap_or("").to_owned());
    let infos = context.select(selector, grid, NewestSample::TimeOfFloat, args[1].span)?;
    if infos.iter().any(|info| info.histograms().next().is_some()) {
        return failed("info sample should be float");
    }
    let mut by_key: ahash::AHashMap<[String; 2], Vec<&Column>> = ahash::AHashMap::new();
    for info in &infos {
        by_key.entry(key(&info.labels)).or_default().push(info);
    }
    let needs_match = on_data.iter().any(|matcher| !matcher.matches(""));
    let mut out = Vec::new();
    for column in base {
        if is_info(&column.labels) {
            out.push(column);
            continue;
        }
        // The answer's labels may change from time to time.
        let mut by_labels: Vec<Column> = Vec::new();
        let candidates = by_key.get(&key(&column.labels)).map_or(&[][..], |found| found);
        for i in 0..grid.count {
            let Some(point) = column.point(i) else { continue };
            // Of each info metric the newest series counts.
            let mut newest: Vec<&Column> = Vec::new();
            for candidate in candidates.iter().filter(|candidate| candidate.has(i)) {
                let name = candidate.labels.metric_name();
                match newest.iter_mut().find(|known| known.labels.metric_name() == name) {
                    None => newest.push(candidate),
                    Some(known) if candidate.values[i] > known.values[i] => *known = candidate,
                    Some(known) if candidate.values[i] == known.values[i] => {
                        return failed(format!("found duplicate series for info metric {name}"));
                    }
                    Some(_) => {}
                }
            }
            let mut builder = column.labels.to_builder();
            let mut enriched = false;
            for info in newest {
                if !on_data.iter().all(|matcher| matcher.matches_labels(&info.labels)) {
                    continue;
                }
                enriched = true;
                for (name, value) in info.labels.iter() {
                    let wanted = on_data.is_empty() || on_data.iter().any(|matcher| matcher.name() == name);
                    let own = name == METRIC_NAME || IDENTIFYING.contains(&name);
                    if wanted && !own && column.labels.get(name).is_none() {
                        let known = builder.get(name);
                        if !known.is_empty() && known != value {
                            return failed(format!("conflicting label: {name}"));
                        }
                        builder.set(name, value);
                    }
                }
            }
            if !enriched && needs_match {
                continue;
            }
            put(context, &mut by_labels, builder.build(), column.drop_name, grid, i, point)?;
        }
        out.extend(by_labels);
    }
    context.unique(out)
}

fn put(
    context: &EvalContext,
    columns: &mut Vec<Column>,
    labels: Labels,
    drop_name: bool,
    grid: StepGrid,
    i: usize,
    point: Point,
) -> Result<(), EvalError> {
    let index = match columns.iter().position(|column| column.labels == labels) {
        Some(index) => index,
        None => {
            columns.push(Column { drop_name, ..context.new_column(labels, grid)? });
            columns.len() - 1
        }
    };
    columns[index].set(i, Some(point));
    Ok(())
}
