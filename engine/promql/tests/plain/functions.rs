//! Functions of instant vectors and scalars.

use super::{Element, Outcome, Plain, Result1, Value, seconds, unique};
use promql::{Expr, Kind, ValueType};
use series::histogram::{Bucket, Histogram};
use series::{Labels, parse_float};

/// Year, month, day and days since the epoch, by counting.
fn date(time: i64) -> (i64, i64, i64, i64) {
    let days = time.div_euclid(86_400);
    let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let (mut year, mut left) = (1970, days);
    // Whole cycles of the calendar first, so that far dates take no longer.
    let cycles = left.div_euclid(146_097);
    (year, left) = (year + cycles * 400, left - cycles * 146_097);
    while left >= if is_leap(year) { 366 } else { 365 } {
        left -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let mut month = 1;
    while left >= days_in_month(year, month) {
        left -= days_in_month(year, month);
        month += 1;
    }
    (year, month, left + 1, days)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn of_float(name: &str, value: f64) -> f64 {
    // What is no time of a calendar is taken for the farthest one.
    let time = (value as i64).clamp(-(1 << 50), 1 << 50);
    let (year, month, day, days) = date(time);
    let second = time.rem_euclid(86_400);
    match name {
        "abs" => value.abs(),
        "acos" => value.acos(),
        "acosh" => value.acosh(),
        "asin" => value.asin(),
        "asinh" => value.asinh(),
        "atan" => value.atan(),
        "atanh" => value.atanh(),
        "ceil" => value.ceil(),
        "cos" => value.cos(),
        "cosh" => value.cosh(),
        "deg" => value * 180.0 / std::f64::consts::PI,
        "exp" => value.exp(),
        "floor" => value.floor(),
        "ln" => value.ln(),
        "log10" => value.log10(),
        "log2" => value.log2(),
        "rad" => value * std::f64::consts::PI / 180.0,
        "sgn" => match value.partial_cmp(&0.0) {
            Some(std::cmp::Ordering::Greater) => 1.0,
            Some(std::cmp::Ordering::Less) => -1.0,
            _ => value,
        },
        "sin" => value.sin(),
        "sinh" => value.sinh(),
        "sqrt" => value.sqrt(),
        "tan" => value.tan(),
        "tanh" => value.tanh(),
        "day_of_month" => day as f64,
        "day_of_week" => (days + 4).rem_euclid(7) as f64,
        "day_of_year" => ((1..month).map(|month| days_in_month(year, month)).sum::<i64>() + day) as f64,
        "days_in_month" => days_in_month(year, month) as f64,
        "hour" => (second / 3600) as f64,
        "minute" => (second / 60 % 60) as f64,
        "month" => month as f64,
        "year" => year as f64,
        other => panic!("no plain form of {other}"),
    }
}

impl Plain<'_> {
    pub fn call(&self, name: &str, args: &[Expr], time: i64) -> Outcome<Result1> {
        if args.iter().any(|arg| arg.value_type() == ValueType::Matrix) {
            return self.over_range(name, args, time).map(Result1::Vector);
        }
        let scalar = |i: usize| self.scalar(&args[i], time);
        let vector = |i: usize| self.vector(&args[i], time);
        let float = |value: f64| Some(Value::Float(value));
        Ok(match name {
            "pi" => Result1::Scalar(std::f64::consts::PI),
            "time" => Result1::Scalar(seconds(time)),
            "start" => Result1::Scalar(seconds(self.start)),
            "end" => Result1::Scalar(seconds(self.end)),
            "step" => Result1::Scalar(if self.is_range { seconds(self.step) } else { 0.0 }),
            "range" => Result1::Scalar(seconds(self.end - self.start)),
            "min_of" | "max_of" => {
                let (a, b) = (scalar(0)?, scalar(1)?);
                Result1::Scalar(if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else if (name == "min_of") == (a < b) {
                    a
                } else {
                    b
                })
            }
            "scalar" => {
                let floats: Vec<f64> = vector(0)?.iter().filter_map(as_float).collect();
                Result1::Scalar(if let [only] = floats[..] { only } else { f64::NAN })
            }
            "vector" => Result1::Vector(vec![Element {
                labels: Labels::empty(),
                drop_name: false,
                value: Value::Float(scalar(0)?),
            }]),
            "absent" => Result1::Vector(self.absent(&args[0], vector(0)?.is_empty())),
            "timestamp" => Result1::Vector(match &args[0].inner().kind {
                Kind::Vector(selector) => self.map(self.timestamps(selector, time), |value| Some(value.clone()))?,
                _ => self.map(vector(0)?, |_| float(seconds(time)))?,
            }),
            "info" => Result1::Vector(self.info(args, time)?),
            "label_replace" => Result1::Vector(self.label_replace(args, time)?),
            "label_join" => Result1::Vector(self.label_join(args, time)?),
            "sort" | "sort_desc" => {
                let mut elements = vector(0)?;
                if !self.is_range {
                    elements.retain(|element| as_float(element).is_some());
                }
                Result1::Vector(elements)
            }
            "sort_by_label" | "sort_by_label_desc" => Result1::Vector(vector(0)?),
            "histogram_quantile" => {
                let outer = self.stats.replace(false);
                let (q, elements) = (scalar(0), vector(1));
                self.stats.set(outer);
                Result1::Vector(self.quantiles(q?, elements?, |q, one| one.quantile(q))?)
            }
            "histogram_fraction" => {
                let outer = self.stats.replace(false);
                let (low, high, elements) = (scalar(0), scalar(1), vector(2));
                self.stats.set(outer);
                let high = high?;
                Result1::Vector(self.quantiles(low?, elements?, |low, one| one.fraction(low, high))?)
            }
            name if name.starts_with("histogram_") => {
                let stats = matches!(name, "histogram_count" | "histogram_sum" | "histogram_avg");
                let outer = self.stats.replace(stats);
                let elements = vector(0);
                self.stats.set(outer);
                Result1::Vector(self.map(elements?, |value| match value {
                    Value::Float(_) => None,
                    Value::Histogram(histogram) => float(of_histogram(name, histogram)),
                })?)
            }
            "round" | "clamp" | "clamp_min" | "clamp_max" => {
                let other: Outcome<Vec<f64>> = args[1..].iter().map(|arg| self.scalar(arg, time)).collect();
                let other = other?;
                Result1::Vector(self.map(vector(0)?, |value| {
                    let Value::Float(value) = value else { return None };
                    bounded(name, *value, &other).map(Value::Float)
                })?)
            }
            name => {
                let elements = match args.first() {
                    Some(_) => vector(0)?,
                    None => {
                        vec![Element { labels: Labels::empty(), drop_name: false, value: Value::Float(seconds(time)) }]
                    }
                };
                Result1::Vector(self.map(elements, |value| match value {
                    Value::Float(value) => float(of_float(name, *value)),
                    Value::Histogram(_) => None,
                })?)
            }
        })
    }

    /// Sorts a vector into histograms and applies a function to each.
    fn quantiles(
        &self,
        parameter: f64,
        elements: Vec<Element>,
        of: impl Fn(f64, &Family) -> Option<f64>,
    ) -> Outcome<Vec<Element>> {
        let mut families: Vec<Family> = Vec::new();
        for element in elements {
            let (labels, bound) = match &element.value {
                Value::Histogram(_) => (element.labels.clone(), f64::NAN),
                Value::Float(_) => {
                    let Ok(bound) = parse_float(element.labels.get("le").unwrap_or("")) else { continue };
                    (Labels::from_pairs(element.labels.iter().filter(|(name, _)| *name != "le")), bound)
                }
            };
            let family = match families.iter_mut().find(|family| family.labels == labels) {
                Some(family) => family,
                None => {
                    let drop_name = element.drop_name;
                    families.push(Family { labels, drop_name, buckets: Vec::new(), native: None });
                    families.last_mut().expect("just pushed")
                }
            };
            match element.value {
                Value::Float(count) => family.buckets.push((bound, count)),
                Value::Histogram(histogram) => family.native = Some((*histogram).clone()),
            }
        }
        let mut out = Vec::new();
        for family in families {
            let Some(value) = of(parameter, &family) else { continue };
            let mut element =
                Element { labels: family.labels, drop_name: family.drop_name, value: Value::Float(value) };
            self.nameless(&mut element);
            out.push(element);
        }
        unique(out)
    }
}

fn as_float(element: &Element) -> Option<f64> {
    match element.value {
        Value::Float(value) => Some(value),
        Value::Histogram(_) => None,
    }
}

fn bounded(name: &str, value: f64, other: &[f64]) -> Option<f64> {
    // Infinity goes before NaN, and NaN before all else.
    let lowest = |one: f64, other: f64| match (one, other) {
        (f64::NEG_INFINITY, _) | (_, f64::NEG_INFINITY) => f64::NEG_INFINITY,
        _ if one.is_nan() || other.is_nan() => f64::NAN,
        _ if one < other => one,
        _ => other,
    };
    let highest = |one: f64, other: f64| match (one, other) {
        (f64::INFINITY, _) | (_, f64::INFINITY) => f64::INFINITY,
        _ if one.is_nan() || other.is_nan() => f64::NAN,
        _ if one > other => one,
        _ => other,
    };
    Some(match name {
        "round" => {
            let inverse = 1.0 / other.first().copied().unwrap_or(1.0);
            (value * inverse + 0.5).floor() / inverse
        }
        "clamp_min" => highest(other[0], value),
        "clamp_max" => lowest(other[0], value),
        _ if other[1] < other[0] => return None,
        _ => highest(other[0], lowest(other[1], value)),
    })
}

/// A classic or a native histogram, or by mistake both.
struct Family {
    labels: Labels,
    drop_name: bool,
    buckets: Vec<(f64, f64)>,
    native: Option<Histogram>,
}

impl Family {
    fn quantile(&self, q: f64) -> Option<f64> {
        match (&self.native, self.buckets.is_empty()) {
            (Some(_), false) | (None, true) => None,
            (None, false) => Some(classic_quantile(q, &self.buckets)),
            (Some(native), true) => Some(native_quantile(q, native)),
        }
    }

    fn fraction(&self, low: f64, high: f64) -> Option<f64> {
        match (&self.native, self.buckets.is_empty()) {
            (Some(_), false) | (None, true) => None,
            (None, false) => Some(classic_fraction(low, high, &self.buckets)),
            (Some(native), true) => Some(native_fraction(low, high, native)),
        }
    }
}

/// Sorted bounds with counts that never fall; None without a last bound of infinity.
fn cumulative(buckets: &[(f64, f64)]) -> Option<Vec<(f64, f64)>> {
    let mut sorted = buckets.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    if sorted.last()?.0 != f64::INFINITY {
        return None;
    }
    let mut out: Vec<(f64, f64)> = Vec::new();
    for (bound, count) in sorted {
        match out.last_mut() {
            Some(last) if last.0 == bound => last.1 += count,
            _ => out.push((bound, count)),
        }
    }
    for i in 1..out.len() {
        let (before, now) = (out[i - 1].1, out[i].1);
        let nearly_equal = (now - before).abs() <= 1e-12 * (now.abs() + before.abs());
        if now < before || nearly_equal {
            out[i].1 = before;
        }
    }
    Some(out)
}

fn classic_quantile(q: f64, buckets: &[(f64, f64)]) -> f64 {
    if q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let Some(buckets) = cumulative(buckets) else { return f64::NAN };
    let total = buckets[buckets.len() - 1].1;
    if buckets.len() < 2 || total == 0.0 || total.is_nan() {
        return f64::NAN;
    }
    let rank = q * total;
    let mut before = (0.0, 0.0);
    for (i, (bound, count)) in buckets.iter().enumerate() {
        if i == buckets.len() - 1 {
            break;
        }
        if *count >= rank {
            if i == 0 && *bound <= 0.0 {
                return *bound;
            }
            return before.0 + (bound - before.0) * ((rank - before.1) / (count - before.1));
        }
        before = (*bound, *count);
    }
    before.0
}

fn classic_fraction(low: f64, high: f64, buckets: &[(f64, f64)]) -> f64 {
    let Some(buckets) = cumulative(buckets) else { return f64::NAN };
    let total = buckets[buckets.len() - 1].1;
    if total == 0.0 || total.is_nan() || low.is_nan() || high.is_nan() {
        return f64::NAN;
    }
    if low >= high {
        return 0.0;
    }
    let below = |value: f64| {
        let mut before = (if buckets[0].0 > 0.0 { 0.0 } else { f64::NEG_INFINITY }, 0.0);
        for (bound, count) in &buckets {
            if before.0 >= value {
                break;
            }
            if *bound > value {
                return match (before.0 == f64::NEG_INFINITY, *bound == f64::INFINITY) {
                    (true, _) => *count,
                    (_, true) => before.1,
                    _ => before.1 + (count - before.1) * (value - before.0) / (bound - before.0),
                };
            }
            before = (*bound, *count);
        }
        before.1
    };
    (below(high) - below(low)) / total
}

fn of_histogram(name: &str, histogram: &Histogram) -> f64 {
    match name {
        "histogram_count" => histogram.count,
        "histogram_sum" => histogram.sum,
        "histogram_avg" => histogram.sum / histogram.count,
        "histogram_stdvar" => histogram_variance(histogram),
        "histogram_stddev" => histogram_variance(histogram).sqrt(),
        other => panic!("no plain form of {other}"),
    }
}

fn histogram_variance(histogram: &Histogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let middle = |bucket: &Bucket| {
        if histogram.is_custom() {
            if bucket.lower == f64::NEG_INFINITY && bucket.upper == f64::INFINITY {
                return 0.0;
            }
            if bucket.lower == f64::NEG_INFINITY {
                return if bucket.upper > 0.0 { bucket.upper / 2.0 } else { bucket.upper };
            }
            if bucket.upper == f64::INFINITY {
                return bucket.lower;
            }
            return (bucket.lower + bucket.upper) / 2.0;
        }
        if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            return 0.0;
        }
        (bucket.lower * bucket.upper).sqrt() * bucket.lower.signum()
    };
    let square = |bucket: Bucket| bucket.count * (middle(&bucket) - mean).powi(2);
    histogram.buckets().map(square).sum::<f64>() / histogram.count
}

/// The value within a bucket below which a share of its observations lies.
fn within(histogram: &Histogram, bucket: &Bucket, share: f64) -> f64 {
    if histogram.is_custom() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return bucket.lower + (bucket.upper - bucket.lower) * share;
    }
    if bucket.lower > 0.0 {
        return bucket.lower * (bucket.upper / bucket.lower).powf(share);
    }
    bucket.lower * (bucket.upper / bucket.lower).powf(share)
}

fn native_quantile(q: f64, histogram: &Histogram) -> f64 {
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if histogram.count == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    let buckets: Vec<Bucket> = histogram.buckets().collect();
    let Some(last) = buckets.last() else { return f64::NAN };
    // The upper half is counted from above: where the rank lies between two buckets, that decides.
    let from_below = q < 0.5;
    let rank = if from_below { q } else { 1.0 - q } * histogram.count;
    let mut passed = 0.0;
    let mut found = *last;
    let ordered: Vec<&Bucket> = if from_below { buckets.iter().collect() } else { buckets.iter().rev().collect() };
    for bucket in ordered {
        found = *bucket;
        passed += bucket.count;
        if passed >= rank {
            break;
        }
    }
    let bucket = histogram.one_sided(found);
    passed = passed.min(histogram.count);
    if passed < rank && !histogram.is_custom() {
        return if from_below { bucket.upper } else { bucket.lower };
    }
    let share = if from_below { rank - (passed - bucket.count) } else { passed - rank } / bucket.count;
    if histogram.is_custom() {
        if bucket.lower == f64::NEG_INFINITY && bucket.upper <= 0.0 {
            return bucket.upper;
        }
        if bucket.upper == f64::INFINITY {
            return if bucket.lower == f64::NEG_INFINITY { f64::NAN } else { bucket.lower };
        }
        if bucket.lower == f64::NEG_INFINITY {
            return bucket.upper * share;
        }
    }
    within(histogram, &bucket, share)
}

fn native_fraction(low: f64, high: f64, histogram: &Histogram) -> f64 {
    if histogram.count == 0.0 || low.is_nan() || high.is_nan() {
        return f64::NAN;
    }
    if low >= high {
        return 0.0;
    }
    let below = |value: f64| {
        let part = |bucket: Bucket| {
            let mut bucket = histogram.one_sided(bucket);
            if histogram.is_custom()
                && bucket.lower == f64::NEG_INFINITY
                && bucket.upper > 0.0
                && bucket.upper.is_finite()
            {
                bucket.lower = 0.0;
            }
            if bucket.lower >= value {
                return 0.0;
            }
            if bucket.upper <= value {
                return bucket.count;
            }
            if bucket.upper == f64::INFINITY {
                return 0.0;
            }
            if bucket.lower == f64::NEG_INFINITY {
                return bucket.count;
            }
            let share = if histogram.is_custom() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
                (value - bucket.lower) / (bucket.upper - bucket.lower)
            } else {
                (value / bucket.lower).ln() / (bucket.upper / bucket.lower).ln()
            };
            bucket.count * share
        };
        histogram.buckets().map(part).sum::<f64>()
    };
    (below(high) - below(low)) / histogram.count
}
