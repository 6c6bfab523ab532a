//! Quantiles and fractions of histograms, classic and native, and the parts of native ones.
//!
//! Source: the querying chapter of Prometheus on histogram_quantile and histogram_fraction.

use crate::annotations::for_metric;
use crate::eval::context::{EvalContext, EvalError, failed};
use crate::eval::math::float_text;
use crate::eval::value::{Column, Point, is_absent};
use crate::plan::grid::StepGrid;
use crate::syntax::ast::Expr;
use crate::syntax::error::Span;
use series::histogram::{Bucket, Histogram};
use series::{Labels, parse_float};
use std::collections::BTreeMap;

/// Classic buckets closer to each other than this share of their sum are taken for equal.
const SMALL_DELTA: f64 = 1e-12;

pub(crate) fn call(context: &EvalContext, name: &str, args: &[Expr], grid: StepGrid) -> Result<Vec<Column>, EvalError> {
    let simple = |of: fn(&Histogram) -> f64| {
        let columns = context.vector(&args[0], grid)?;

        context.map(columns, |point, _| match point {
            Point::Float(_) => None,
            Point::Histogram(histogram) => Some(Point::Float(of(&histogram))),
        })
    };
    match name {
        "histogram_count" => simple(|histogram| histogram.count),
        "histogram_sum" => simple(|histogram| histogram.sum),
        "histogram_avg" => simple(|histogram| histogram.sum / histogram.count),
        "histogram_stdvar" => simple(variance),
        "histogram_stddev" => simple(|histogram| variance(histogram).sqrt()),
        "histogram_quantile" => {
            let q = context.scalar(&args[0], grid)?;
            q.iter().for_each(|q| context.check_quantile(*q, args[0].span));
            let histograms = gather(context, context.vector(&args[1], grid)?, args[1].span, grid)?;
            let columns =
                answers(context, &histograms, grid, |family, i| family.quantile(context, i, q[i], args[1].span))?;
            context.unique(columns)
        }
        "histogram_quantiles" => {
            let label = context.text(&args[1], grid)?;
            if label.is_empty() {
                return failed(format!("invalid label name {label:?}"));
            }
            let histograms = gather(context, context.vector(&args[0], grid)?, args[0].span, grid)?;
            let mut columns = Vec::new();
            for arg in &args[2..] {
                let q = context.scalar(arg, grid)?;
                q.iter().for_each(|q| context.check_quantile(*q, arg.span));
                for (i, q) in q.into_iter().enumerate() {
                    let mut value = float_text(q);
                    if q.is_finite() && !value.contains(['.', 'e']) {
                        value += ".0";
                    }
                    for mut column in answers(context, &histograms, grid, |family, at| {
                        if at == i { family.quantile(context, i, q, args[0].span) } else { None }
                    })? {
                        let mut builder = column.labels.to_builder();
                        builder.set(&label, &value);
                        column.labels = builder.build();
                        columns.push(column);
                    }
                }
            }
            context.unique(columns)
        }
        "histogram_fraction" => {
            let (lower, upper) = (context.scalar(&args[0], grid)?, context.scalar(&args[1], grid)?);
            let histograms = gather(context, context.vector(&args[2], grid)?, args[2].span, grid)?;
            let columns = answers(context, &histograms, grid, |family, i| {
                family.fraction(context, i, lower[i], upper[i], args[2].span)
            })?;
            context.unique(columns)
        }
        _ => unreachable!("{name} is in the table of functions"),
    }
}

/// What belongs to one histogram: the buckets of a classic one, a native one, or by mistake both.
struct Family {
    labels: Labels,
    drop_name: bool,
    /// Bounds and counts.
    classic: Vec<(f64, Column)>,
    native: Option<Column>,
}

/// Sorts a vector into histograms.
fn gather(context: &EvalContext, columns: Vec<Column>, span: Span, grid: StepGrid) -> Result<Vec<Family>, EvalError> {
    let mut families: BTreeMap<Labels, Family> = BTreeMap::new();
    for mut column in columns {
        let native = column.histograms.take();
        if let Some(histograms) = native {
            let mut native = context.new_column(column.labels.clone(), grid)?;
            native.histograms = Some(histograms);
            let family = family(&mut families, &column.labels, &column);
            family.native = Some(native);
        }
        if column.values.iter().all(|value| is_absent(*value)) {
            continue;
        }
        let le = column.labels.get("le").unwrap_or("");
        let Ok(bound) = parse_float(le) else {
            let metric = column.labels.metric_name();
            let text = format!("bucket label \"le\" is missing or has a malformed value of {le:?}");
            context.annotations.warn(span, format!("{text}{}", for_metric(metric)));
            continue;
        };
        let mut builder = column.labels.to_builder();
        builder.remove("le");
        let labels = builder.build();
        family(&mut families, &labels, &column).classic.push((bound, column));
    }
    Ok(families.into_values().collect())
}

fn family<'f>(families: &'f mut BTreeMap<Labels, Family>, labels: &Labels, column: &Column) -> &'f mut Family {
    families.entry(labels.clone()).or_insert_with(|| Family {
        labels: labels.clone(),
        drop_name: column.drop_name,
        classic: Vec::new(),
        native: None,
    })
}

fn answers(
    context: &EvalContext,
    families: &[Family],
    grid: StepGrid,
    of: impl Fn(&Family, usize) -> Option<f64>,
) -> Result<Vec<Column>, EvalError> {
    let mut columns = Vec::with_capacity(families.len());
    for family in families {
        context.check()?;
        let mut column = context.new_column(family.labels.clone(), grid)?;
        column.drop_name = family.drop_name;
        for i in 0..grid.count {
            if let Some(value) = of(family, i) {
                column.values[i] = value;
            }
        }
        if !column.is_empty() {
            columns.push(context.drop_name(column));
        }
    }
    Ok(columns)
}

impl Family {
    fn buckets(&self, i: usize) -> Vec<(f64, f64)> {
        let there = self.classic.iter().filter(|(_, column)| !is_absent(column.values[i]));
        there.map(|(bound, column)| (*bound, column.values[i])).collect()
    }

    /// The one histogram of a time; both at once are neither.
    fn either(&self, context: &EvalContext, i: usize, span: Span) -> Option<Either<'_>> {
        let buckets = self.buckets(i);
        match (self.native.as_ref().and_then(|native| native.histogram(i)), buckets.is_empty()) {
            (Some(_), false) => {
                let text = "vector contains a mix of classic and native histograms";
                context.annotations.warn(span, format!("{text}{}", for_metric(self.labels.metric_name())));
                None
            }
            (Some(histogram), true) => Some(Either::Native(histogram)),
            (None, false) => Some(Either::Classic(buckets)),
            (None, true) => None,
        }
    }

    fn quantile(&self, context: &EvalContext, i: usize, q: f64, span: Span) -> Option<f64> {
        let metric = for_metric(self.labels.metric_name());
        match self.either(context, i, span)? {
            Either::Native(histogram) => {
                let (value, skewed) = native_quantile(q, histogram);
                if let Some(how) = skewed {
                    let text = format!("input to histogram_quantile has NaN observations, result is {how}{metric}");
                    context.annotations.info(span, text);
                }
                Some(value)
            }
            Either::Classic(buckets) => {
                let (value, forced) = classic_quantile(q, buckets);
                if forced {
                    let place =
                        "(see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)";
                    let text =
                        format!("input to histogram_quantile needed to be fixed for monotonicity {place}{metric}");
                    context.annotations.info(span, text);
                }
                Some(value)
            }
        }
    }

    fn fraction(&self, context: &EvalContext, i: usize, lower: f64, upper: f64, span: Span) -> Option<f64> {
        match self.either(context, i, span)? {
            Either::Native(histogram) => {
                if histogram.sum.is_nan()
                    && histogram.count != 0.0
                    && !lower.is_nan()
                    && !upper.is_nan()
                    && lower < upper
                {
                    let total: f64 = histogram.buckets().map(|bucket| bucket.count).sum();
                    if total < histogram.count {
                        let text =
                            "input to histogram_fraction has NaN observations, which are excluded from all fractions";
                        context.annotations.info(span, format!("{text}{}", for_metric(self.labels.metric_name())));
                    }
                }
                Some(native_fraction(lower, upper, histogram))
            }
            Either::Classic(buckets) => Some(classic_fraction(lower, upper, buckets)),
        }
    }
}

enum Either<'a> {
    Native(&'a Histogram),
    Classic(Vec<(f64, f64)>),
}

/// Sorted, of each bound one, never falling; whether that took force. None without a bucket up to infinity.
fn cumulative(mut buckets: Vec<(f64, f64)>) -> Option<(Vec<(f64, f64)>, bool)> {
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    if buckets.last()?.0 != f64::INFINITY {
        return None;
    }
    let mut merged: Vec<(f64, f64)> = Vec::with_capacity(buckets.len());
    for (bound, count) in buckets {
        match merged.last_mut() {
            Some(last) if last.0 == bound => last.1 += count,
            _ => merged.push((bound, count)),
        }
    }
    let mut forced = false;
    let mut before = merged[0].1;
    for (_, count) in &mut merged[1..] {
        if *count == before {
            continue;
        }
        if (*count - before).abs() <= SMALL_DELTA * (count.abs() + before.abs()) {
            *count = before;
        } else if *count < before {
            *count = before;
            forced = true;
        } else {
            before = *count;
        }
    }
    Some((merged, forced))
}

fn classic_quantile(q: f64, buckets: Vec<(f64, f64)>) -> (f64, bool) {
    if q.is_nan() {
        return (f64::NAN, false);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, false);
    }
    if q > 1.0 {
        return (f64::INFINITY, false);
    }
    let Some((buckets, forced)) = cumulative(buckets) else { return (f64::NAN, false) };
    let last = buckets.len() - 1;
    let observations = buckets[last].1;
    if last == 0 || observations == 0.0 || observations.is_nan() {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    let at = buckets[..last].iter().position(|(_, count)| *count >= rank).unwrap_or(last);
    if at == last {
        return (buckets[last - 1].0, forced);
    }
    let (end, mut count) = buckets[at];
    if at == 0 && end <= 0.0 {
        return (end, forced);
    }
    let mut start = 0.0;
    if at > 0 {
        start = buckets[at - 1].0;
        count -= buckets[at - 1].1;
        rank -= buckets[at - 1].1;
    }
    (start + (end - start) * (rank / count), forced)
}

fn classic_fraction(lower: f64, upper: f64, buckets: Vec<(f64, f64)>) -> f64 {
    let Some((buckets, _)) = cumulative(buckets) else { return f64::NAN };
    let count = buckets[buckets.len() - 1].1;
    if count == 0.0 || count.is_nan() || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let below = |value: f64| {
        let mut rank = 0.0;
        for (i, (bound, count)) in buckets.iter().enumerate() {
            let start = match i {
                // Nothing is known of where the first bucket begins; observations are rarely negative.
                0 if *bound > 0.0 => 0.0,
                0 => f64::NEG_INFINITY,
                _ => buckets[i - 1].0,
            };
            if start >= value {
                return rank;
            }
            if *bound > value {
                // Buckets without end are not divided.
                if start == f64::NEG_INFINITY {
                    return *count;
                }
                if *bound == f64::INFINITY {
                    return rank;
                }
                return rank + (count - rank) * (value - start) / (bound - start);
            }
            rank = *count;
        }
        rank
    };
    (below(upper) - below(lower)) / count
}

/// The value, and how observations of NaN bend it.
fn native_quantile(q: f64, histogram: &Histogram) -> (f64, Option<&'static str>) {
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if histogram.count == 0.0 || q.is_nan() {
        return (f64::NAN, None);
    }
    let custom = histogram.is_custom();
    let with_nan = histogram.sum.is_nan();
    // Observations of NaN are in no bucket: count from below then.
    let forward = with_nan || q < 0.5;
    let mut rank = if forward { q * histogram.count } else { (1.0 - q) * histogram.count };
    let mut count = 0.0;
    let mut found: Option<Bucket> = None;
    let mut visit = |bucket: Bucket| {
        found = Some(bucket);
        count += bucket.count;
        count >= rank
    };
    if forward {
        histogram.buckets().any(&mut visit);
    } else {
        histogram.buckets().rev().any(&mut visit);
    }
    let Some(bucket) = found else {
        return (f64::NAN, with_nan.then_some("NaN"));
    };
    let mut bucket = histogram.one_sided(bucket);
    let total: f64 = if with_nan { histogram.buckets().map(|bucket| bucket.count).sum() } else { histogram.count };
    if with_nan && count < rank {
        return (f64::NAN, Some("NaN"));
    }
    let note = (with_nan && total < histogram.count).then_some("skewed higher");
    if custom {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return (bucket.upper, note);
            }
            if bucket.upper == f64::INFINITY {
                return (f64::NAN, note);
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return (bucket.lower, note);
        }
    }
    count = count.min(histogram.count);
    if count < rank {
        return (if forward { bucket.upper } else { bucket.lower }, note);
    }
    rank = if forward { rank - (count - bucket.count) } else { count - rank };
    let share = rank / bucket.count;
    let value = if custom || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        bucket.lower + (bucket.upper - bucket.lower) * share
    } else {
        let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
        if bucket.lower > 0.0 {
            f64::exp2(lower + (upper - lower) * share)
        } else {
            -f64::exp2(upper + (lower - upper) * (1.0 - share))
        }
    };
    (value, note)
}

fn native_fraction(lower: f64, upper: f64, histogram: &Histogram) -> f64 {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let custom = histogram.is_custom();
    let below = |value: f64| {
        let mut rank = 0.0;
        for bucket in histogram.buckets() {
            let is_zero = !custom && bucket.lower <= 0.0 && bucket.upper >= 0.0;
            let mut bucket = histogram.one_sided(bucket);
            if custom && bucket.lower == f64::NEG_INFINITY && bucket.upper > 0.0 && bucket.upper.is_finite() {
                bucket.lower = 0.0;
            }
            if bucket.lower >= value {
                return rank;
            }
            if bucket.upper > value {
                // Buckets without end are not divided.
                if bucket.upper == f64::INFINITY {
                    return rank;
                }
                if bucket.lower == f64::NEG_INFINITY {
                    return rank + bucket.count;
                }
                let share = if custom || is_zero {
                    (value - bucket.lower) / (bucket.upper - bucket.lower)
                } else {
                    let (low, high, at) = (bucket.lower.abs().log2(), bucket.upper.abs().log2(), value.abs().log2());
                    if value > 0.0 { (at - low) / (high - low) } else { 1.0 - (at - high) / (low - high) }
                };
                return rank + bucket.count * share;
            }
            rank += bucket.count;
        }
        rank
    };
    (below(upper) - below(lower)) / histogram.count
}

/// Population variance, every observation at the middle of its bucket.
fn variance(histogram: &Histogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let mut sum = crate::eval::math::Sum::default();
    for bucket in histogram.buckets() {
        let value = if histogram.is_custom() {
            // A bucket without a bound on one side has the value of its other bound.
            match (bucket.lower.is_finite(), bucket.upper.is_finite()) {
                (true, true) => f64::midpoint(bucket.lower, bucket.upper),
                (false, true) if bucket.upper > 0.0 => bucket.upper / 2.0,
                (false, true) => bucket.upper,
                (true, false) => bucket.lower,
                (false, false) => 0.0,
            }
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            let middle = (bucket.lower * bucket.upper).sqrt();
            if bucket.lower < 0.0 { -middle } else { middle }
        };
        let delta = value - mean;
        sum.add(bucket.count * delta * delta);
    }
    sum.get() / histogram.count
}
