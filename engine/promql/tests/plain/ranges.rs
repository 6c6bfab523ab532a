//! Functions of the samples in one window.

use super::{Element, Outcome, Plain, Range, Stored, Value, is_marker, seconds, unique};
use promql::Expr;
use promql::ast::RangeModifier;
use series::histogram::{Histogram, ResetHint};
use std::sync::Arc;

/// What a histogram says of the sample before it does not hold in a subquery.
pub fn detached(value: Value) -> Value {
    match value {
        Value::Histogram(mut histogram) if histogram.hint != ResetHint::Gauge => {
            Arc::make_mut(&mut histogram).hint = ResetHint::Unknown;
            Value::Histogram(histogram)
        }
        other => other,
    }
}

/// The value at `time` on the line between two samples; a counter that was reset between them began again at zero.
fn line(before: &(i64, Value), after: &(i64, Value), time: i64, counter: bool) -> Option<Value> {
    if time == before.0 {
        return Some(before.1.clone());
    }
    if time == after.0 {
        return Some(after.1.clone());
    }
    let share = (time - before.0) as f64 / (after.0 - before.0) as f64;
    match (&before.1, &after.1) {
        (Value::Float(low), Value::Float(high)) => {
            let base = if counter && high < low { 0.0 } else { *low };
            Some(Value::Float(base + (high - base) * share))
        }
        (Value::Histogram(low), Value::Histogram(high)) => {
            let mut value = (**high).clone();
            let reset = counter && high.is_reset_after(low);
            if !reset {
                value.sub(low).ok()?;
            }
            value.scale(share);
            if !reset {
                value.add(low).ok()?;
            }
            Some(Value::Histogram(Arc::new(value)))
        }
        _ => None,
    }
}

fn are_mixed(samples: &[(i64, Value)]) -> bool {
    let floats = samples.iter().filter(|(_, value)| matches!(value, Value::Float(_))).count();
    floats != 0 && floats != samples.len()
}

/// A smoothed instant selector.
pub fn smoothed_at(stored: &Stored, time: i64, lookback: i64) -> Option<Value> {
    let near = |(at, value): &&(i64, Value)| *at > time - lookback && *at <= time + lookback && !is_marker(value);
    let samples: Vec<(i64, Value)> = stored.samples.iter().filter(near).cloned().collect();
    if are_mixed(&samples) {
        return None;
    }
    let before = samples.iter().rfind(|(at, _)| *at <= time)?;
    match samples.iter().find(|(at, _)| *at > time) {
        Some(after) => line(before, after, time, false),
        None => Some(before.1.clone()),
    }
}

/// The samples of a window, or of what a modifier looks at around it.
pub fn within(all: &[(i64, Value)], start: i64, end: i64, modifier: RangeModifier, lookback: i64) -> Vec<(i64, Value)> {
    let (from, to) = match modifier {
        RangeModifier::Plain => (start, end),
        RangeModifier::Anchored => (start - lookback, end),
        RangeModifier::Smoothed => (start - lookback, end + lookback),
    };
    all.iter().filter(|(at, _)| *at > from && *at <= to).cloned().collect()
}

/// Rate, increase and delta of an anchored or smoothed range.
fn extended(range: &Range, counter: bool, per_second: bool) -> Option<Value> {
    let (start, end) = (range.start, range.end);
    let smoothed = range.modifier == RangeModifier::Smoothed;
    if are_mixed(&range.samples) {
        return None;
    }
    let inside: Vec<&(i64, Value)> = range.samples.iter().filter(|(at, _)| *at > start && *at <= end).collect();
    let before = range.samples.iter().rfind(|(at, _)| *at <= start);
    let after = range.samples.iter().find(|(at, _)| *at > end);
    let first = *inside.first().or(after.as_ref())?;
    let last = inside.last().copied().or(before)?;
    if inside.is_empty() && !(smoothed && before.is_some() && after.is_some()) {
        return None;
    }
    let left = match before {
        Some(before) if smoothed => line(before, first, start, counter)?,
        Some(before) => before.1.clone(),
        None => first.1.clone(),
    };
    let right = match after {
        Some(after) if smoothed && last.0 != end => line(last, after, end, counter)?,
        _ => last.1.clone(),
    };
    let length = seconds(end - start);
    // The values in order, without that at the end itself.
    let mut values = vec![left.clone()];
    values.extend(inside.iter().filter(|(at, _)| *at < end).map(|(_, value)| value.clone()));
    match (&left, &right) {
        (Value::Float(first), Value::Float(last)) => {
            values.push(right.clone());
            let fell = |pair: &[Value]| match pair {
                [Value::Float(a), Value::Float(b)] if b < a => *a,
                _ => 0.0,
            };
            let lost: f64 = if counter { values.windows(2).map(fell).sum() } else { 0.0 };
            let change = last - first + lost;
            Some(Value::Float(if per_second { change / length } else { change }))
        }
        (Value::Histogram(left), Value::Histogram(right)) => {
            let all: Vec<&Arc<Histogram>> = range
                .samples
                .iter()
                .filter_map(|(at, value)| match value {
                    Value::Histogram(histogram) if smoothed || *at <= end => Some((*at, histogram)),
                    _ => None,
                })
                .filter(|(at, _)| {
                    before.is_none_or(|before| *at >= before.0)
                        && (*at <= end || after.is_some_and(|after| *at == after.0))
                })
                .map(|(_, histogram)| histogram)
                .collect();
            if all.iter().any(|one| one.is_custom() != all[0].is_custom()) {
                return None;
            }
            let mut change = (**right).clone();
            change.sub(left).ok()?;
            if counter {
                let mut steps: Vec<&Histogram> = values
                    .iter()
                    .filter_map(|value| match value {
                        Value::Histogram(histogram) => Some(&**histogram),
                        Value::Float(_) => None,
                    })
                    .collect();
                let ends_inside = last.0 == end || after.is_none() || !smoothed;
                if ends_inside && last.0 < end && steps.len() > 1 {
                    // The last sample is the right edge.
                    steps.pop();
                }
                let spent = smoothed
                    && before.is_some_and(|before| match (&before.1, &first.1) {
                        (Value::Histogram(a), Value::Histogram(b)) => before.0 < start && b.is_reset_after(a),
                        _ => false,
                    });
                let Value::Histogram(first) = &first.1 else { return None };
                if spent {
                    // The line at the start has that reset in it.
                    steps = steps.split_off(1);
                    if steps.is_empty() {
                        steps = if inside.is_empty() { Vec::new() } else { vec![first] };
                        if !inside.is_empty() && Arc::ptr_eq(first, right) {
                            steps.clear();
                        }
                    }
                }
                if !steps.is_empty() {
                    steps.push(right);
                }
                for pair in steps.windows(2) {
                    if pair[1].is_reset_after(pair[0]) {
                        change.add(pair[0]).ok()?;
                    }
                }
            }
            if per_second {
                change.divide(length);
            }
            change.hint = ResetHint::Gauge;
            Some(Value::Histogram(Arc::new(change)))
        }
        _ => None,
    }
}

/// The samples over which an anchored range counts: its own, and of each kind the one that it begins with.
fn anchored(range: &Range) -> Vec<(i64, Value)> {
    let mut all = Vec::new();
    for is_float in [true, false] {
        let kind: Vec<&(i64, Value)> =
            range.samples.iter().filter(|(_, value)| matches!(value, Value::Float(_)) == is_float).collect();
        if kind.iter().any(|(at, _)| *at > range.start) {
            all.extend(kind.iter().rfind(|(at, _)| *at <= range.start).map(|sample| (**sample).clone()));
            all.extend(kind.iter().filter(|(at, _)| *at > range.start).map(|sample| (**sample).clone()));
        }
    }
    all.sort_by_key(|(at, _)| *at);
    all
}

fn floats(range: &Range) -> Vec<(i64, f64)> {
    let float = |(at, value): &(i64, Value)| match value {
        Value::Float(value) => Some((*at, *value)),
        Value::Histogram(_) => None,
    };
    range.samples.iter().filter_map(float).collect()
}

fn histograms(range: &Range) -> Vec<(i64, Arc<Histogram>)> {
    let histogram = |(at, value): &(i64, Value)| match value {
        Value::Histogram(histogram) => Some((*at, histogram.clone())),
        Value::Float(_) => None,
    };
    range.samples.iter().filter_map(histogram).collect()
}

/// By how much the change between first and last sample grows.
fn growth(range: &Range, first: i64, last: i64, count: usize, to_zero: Option<f64>) -> f64 {
    let sampled = seconds(last - first);
    let mut to_start = seconds(first - range.start);
    let mut to_end = seconds(range.end - last);
    let average = sampled / (count as f64 - 1.0);
    if to_start >= average * 1.1 {
        to_start = average / 2.0;
    }
    if let Some(to_zero) = to_zero {
        to_start = to_start.min(to_zero);
    }
    if to_end >= average * 1.1 {
        to_end = average / 2.0;
    }
    (sampled + to_start + to_end) / sampled
}

fn extrapolated(range: &Range, counter: bool, per_second: bool) -> Option<Value> {
    if range.modifier != RangeModifier::Plain {
        return extended(range, counter, per_second);
    }
    let (floats, histograms) = (floats(range), histograms(range));
    if !floats.is_empty() && !histograms.is_empty() {
        return None;
    }
    let length = seconds(range.end - range.start);
    if histograms.is_empty() {
        if floats.len() < 2 {
            return None;
        }
        let (first, last) = (floats[0], floats[floats.len() - 1]);
        let mut change = last.1 - first.1;
        if counter {
            change += floats.windows(2).filter(|pair| pair[1].1 < pair[0].1).map(|pair| pair[0].1).sum::<f64>();
        }
        let sampled = seconds(last.0 - first.0);
        let to_zero = (counter && change > 0.0 && first.1 >= 0.0).then(|| sampled * (first.1 / change));
        let grown = change * growth(range, first.0, last.0, floats.len(), to_zero);
        return Some(Value::Float(if per_second { grown / length } else { grown }));
    }
    if histograms.len() < 2 {
        return None;
    }
    // All of one kind.
    if histograms.iter().any(|(_, one)| one.is_custom() != histograms[0].1.is_custom()) {
        return None;
    }
    let (first, last) = (&histograms[0], &histograms[histograms.len() - 1]);
    let mut change = (*last.1).clone();
    change.sub(&first.1).ok()?;
    if counter {
        for pair in histograms.windows(2) {
            if pair[1].1.is_reset_after(&pair[0].1) {
                change.add(&pair[0].1).ok()?;
            }
        }
    }
    let sampled = seconds(last.0 - first.0);
    let to_zero =
        (counter && change.count > 0.0 && first.1.count >= 0.0).then(|| sampled * (first.1.count / change.count));
    let mut factor = growth(range, first.0, last.0, histograms.len(), to_zero);
    if per_second {
        factor /= length;
    }
    change.scale(factor);
    change.hint = ResetHint::Gauge;
    Some(Value::Histogram(Arc::new(change)))
}

fn last_change(range: &Range, rate: bool) -> Option<Value> {
    let [.., before, last] = &range.samples[..] else { return None };
    let time = seconds(last.0 - before.0);
    match (&before.1, &last.1) {
        (Value::Float(a), Value::Float(b)) => {
            let change = if rate && b < a { *b } else { b - a };
            Some(Value::Float(if rate { change / time } else { change }))
        }
        (Value::Histogram(a), Value::Histogram(b)) => {
            let mut change = (**b).clone();
            if !(rate && b.is_reset_after(a)) {
                change.sub(a).ok()?;
            }
            if rate {
                change.scale(1.0 / time);
            }
            change.hint = ResetHint::Gauge;
            Some(Value::Histogram(Arc::new(change)))
        }
        _ => None,
    }
}

fn sum(range: &Range, mean: bool) -> Option<Value> {
    let (floats, histograms) = (floats(range), histograms(range));
    match (floats.is_empty(), histograms.is_empty()) {
        (false, true) => {
            let total = floats.iter().fold(0.0, |sum, (_, value)| sum + value);
            Some(Value::Float(if mean { total / floats.len() as f64 } else { total }))
        }
        (true, false) => {
            let mut total = (*histograms[0].1).clone();
            for (_, histogram) in &histograms[1..] {
                total.add(histogram).ok()?;
            }
            if mean {
                total.divide(histograms.len() as f64);
            }
            Some(Value::Histogram(Arc::new(total)))
        }
        _ => None,
    }
}

fn differ(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a != b && !(a.is_nan() && b.is_nan()),
        (Value::Histogram(a), Value::Histogram(b)) => !a.same_as(b),
        _ => true,
    }
}

fn is_reset(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => b < a,
        (Value::Histogram(a), Value::Histogram(b)) => {
            (a.hint == ResetHint::Gauge) != (b.hint == ResetHint::Gauge) || b.detect_reset(a)
        }
        _ => true,
    }
}

pub fn variance(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / values.len() as f64
}

pub fn quantile(q: f64, values: &[f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    let mut all = vec![f64::NAN; values.len() - sorted.len()];
    all.append(&mut sorted);
    let rank = q * (all.len() - 1) as f64;
    let (low, high) = (rank.floor() as usize, (rank.floor() as usize + 1).min(all.len() - 1));
    let weight = rank - rank.floor();
    all[low] * (1.0 - weight) + all[high] * weight
}

/// Slope and value at `origin` of the line of least squares.
fn regression(samples: &[(i64, f64)], origin: i64) -> Option<(f64, f64)> {
    if samples.len() < 2 {
        return None;
    }
    if samples.iter().all(|(_, value)| *value == samples[0].1) {
        let value = samples[0].1;
        return Some(if value.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, value) });
    }
    let n = samples.len() as f64;
    let x = |at: i64| seconds(at - origin);
    let sum = |of: &dyn Fn(f64, f64) -> f64| samples.iter().map(|(at, y)| of(x(*at), *y)).sum::<f64>();
    let (sum_x, sum_y) = (sum(&|x, _| x), sum(&|_, y| y));
    let covariance = sum(&|x, y| x * y) - sum_x * sum_y / n;
    let slope = covariance / (sum(&|x, _| x * x) - sum_x * sum_x / n);
    Some((slope, sum_y / n - slope * sum_x / n))
}

fn holt(samples: &[(i64, f64)], smoothing: f64, trend_factor: f64) -> Option<f64> {
    if samples.len() < 2 {
        return None;
    }
    let mut level = samples[0].1;
    let mut trend = samples[1].1 - samples[0].1;
    let mut before = 0.0;
    for (i, (_, value)) in samples.iter().enumerate().skip(1) {
        if i > 1 {
            trend = trend_factor * (level - before) + (1.0 - trend_factor) * trend;
        }
        before = level;
        level = smoothing * value + (1.0 - smoothing) * (before + trend);
    }
    Some(level)
}

/// The smallest or largest float and its time; the last of equals counts for the time.
fn extreme(samples: &[(i64, f64)], largest: bool) -> Option<(i64, f64)> {
    let mut best = *samples.first()?;
    for sample in &samples[1..] {
        let better = if largest { sample.1 >= best.1 } else { sample.1 <= best.1 };
        if better || best.1.is_nan() {
            best = *sample;
        }
    }
    Some(best)
}

impl Plain<'_> {
    /// A function of a range vector.
    pub fn over_range(&self, name: &str, args: &[Expr], time: i64) -> Outcome<Vec<Element>> {
        let at = args.iter().position(|arg| arg.value_type() == promql::ValueType::Matrix).expect("a range vector");
        let ranges = self.range(&args[at], time)?;
        let mut scalars = Vec::new();
        for (i, arg) in args.iter().enumerate() {
            if i != at {
                scalars.push(self.scalar(arg, time)?);
            }
        }
        check_factors(name, &scalars)?;
        if name == "absent_over_time" {
            return Ok(self.absent(&args[at], ranges.is_empty()));
        }
        let mut out = Vec::new();
        for range in ranges {
            let Some(value) = over_samples(name, &range, &scalars, time) else { continue };
            let mut element = Element { labels: range.labels, drop_name: range.drop_name, value };
            if !matches!(name, "first_over_time" | "last_over_time") {
                self.nameless(&mut element);
            }
            out.push(element);
        }
        unique(out)
    }
}

fn check_factors(name: &str, scalars: &[f64]) -> Outcome<()> {
    let fits = |value: &f64| *value > 0.0 && *value < 1.0;
    if name == "double_exponential_smoothing" && !scalars.iter().all(fits) {
        return Err("invalid factor".into());
    }
    Ok(())
}

fn over_samples(name: &str, range: &Range, scalars: &[f64], time: i64) -> Option<Value> {
    let only_floats = floats(range);
    let values: Vec<f64> = only_floats.iter().map(|(_, value)| *value).collect();
    let of_floats = |value: Option<f64>| if values.is_empty() { None } else { value.map(Value::Float) };
    let counted = if range.modifier == RangeModifier::Anchored { anchored(range) } else { range.samples.clone() };
    if counted.is_empty() {
        return None;
    }
    let pairs = || counted.windows(2);
    let (first, last) = (&range.samples[0], &range.samples[range.samples.len() - 1]);
    match name {
        "rate" => extrapolated(range, true, true),
        "increase" => extrapolated(range, true, false),
        "delta" => extrapolated(range, false, false),
        "irate" => last_change(range, true),
        "idelta" => last_change(range, false),
        "sum_over_time" => sum(range, false),
        "avg_over_time" => sum(range, true),
        "count_over_time" => Some(Value::Float(range.samples.len() as f64)),
        "present_over_time" => Some(Value::Float(1.0)),
        "changes" => Some(Value::Float(pairs().filter(|pair| differ(&pair[0].1, &pair[1].1)).count() as f64)),
        "resets" => Some(Value::Float(pairs().filter(|pair| is_reset(&pair[0].1, &pair[1].1)).count() as f64)),
        "first_over_time" => Some(first.1.clone()),
        "last_over_time" => Some(last.1.clone()),
        "ts_of_first_over_time" => Some(Value::Float(seconds(first.0))),
        "ts_of_last_over_time" => Some(Value::Float(seconds(last.0))),
        "min_over_time" => of_floats(extreme(&only_floats, false).map(|(_, value)| value)),
        "max_over_time" => of_floats(extreme(&only_floats, true).map(|(_, value)| value)),
        "ts_of_min_over_time" => of_floats(extreme(&only_floats, false).map(|(at, _)| seconds(at))),
        "ts_of_max_over_time" => of_floats(extreme(&only_floats, true).map(|(at, _)| seconds(at))),
        "stdvar_over_time" => of_floats(Some(variance(&values))),
        "stddev_over_time" => of_floats(Some(variance(&values).sqrt())),
        "quantile_over_time" => of_floats(Some(quantile(scalars[0], &values))),
        "mad_over_time" => of_floats(Some(if values.iter().any(|value| value.is_nan()) {
            f64::NAN
        } else {
            let median = quantile(0.5, &values);
            quantile(0.5, &values.iter().map(|value| (value - median).abs()).collect::<Vec<f64>>())
        })),
        "deriv" => {
            of_floats(only_floats.first().and_then(|first| regression(&only_floats, first.0)).map(|(slope, _)| slope))
        }
        "predict_linear" => of_floats(regression(&only_floats, time).map(|(slope, value)| value + slope * scalars[0])),
        "double_exponential_smoothing" => of_floats(holt(&only_floats, scalars[0], scalars[1])),
        other => panic!("no plain form of {other}"),
    }
}
