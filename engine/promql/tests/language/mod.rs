//! The test language: `load`, `clear` and `eval`, as Prometheus' promqltest describes it.

use promql::budget::{Budget, BudgetLimits};
use promql::notation::{Value, split_series, values};
use promql::{
    Column, ParseOptions, PartialAggregate, Plan, PlanOptions, Point, QueryValue, SelectResult, SelectedSeries,
    parse_duration_ms,
};
use series::histogram::{BucketCount, Histogram, ResetHint};
use series::{Labels, METRIC_NAME, Matcher, NORMAL_NAN, Regex, Sample, Timestamp, parse_float};
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Outcome {
    pub passed: usize,
    pub failures: Vec<String>,
}

#[derive(Default)]
struct Storage {
    series: BTreeMap<Labels, BTreeMap<i64, Value>>,
}

/// Runs a whole script; a failure tells its line.
pub fn run(text: &str) -> Outcome {
    let mut outcome = Outcome { passed: 0, failures: Vec::new() };
    let mut storage = Storage::default();
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at].trim();
        let number = at + 1;
        at += 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // What belongs to a command follows it, up to an empty line.
        let mut body = Vec::new();
        while at < lines.len() && !lines[at].trim().is_empty() && !is_command(lines[at]) {
            if !lines[at].trim().starts_with('#') {
                body.push(lines[at].trim());
            }
            at += 1;
        }
        let result = match line.split_whitespace().next().unwrap_or("") {
            "clear" => {
                storage = Storage::default();
                continue;
            }
            command if command.starts_with("load") => match load(&mut storage, line, &body) {
                Ok(()) => continue,
                Err(error) => Err(error),
            },
            command if command.starts_with("eval") => eval(&storage, line, &body),
            other => Err(format!("unknown command {other}")),
        };
        match result {
            Ok(()) => outcome.passed += 1,
            Err(error) => outcome.failures.push(format!("{number}: {line}\n    {error}")),
        }
    }
    outcome
}

fn is_command(line: &str) -> bool {
    !line.starts_with([' ', '\t']) && ["clear", "load", "eval"].iter().any(|command| line.starts_with(command))
}

fn time(text: &str) -> Result<i64, String> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    parse_duration_ms(text).map(|ms| sign * ms).ok_or_else(|| format!("no time: {text}"))
}

// --- load -----------------------------------------------------------------------------------------------------------

fn load(storage: &mut Storage, line: &str, body: &[&str]) -> Result<(), String> {
    let mut parts = line.split_whitespace();
    let command = parts.next().unwrap_or("");
    let step = time(parts.next().ok_or("load has no interval")?)?;
    let mut loaded: Vec<(Labels, Vec<Option<Value>>)> = Vec::new();
    for line in body {
        let (labels, text) = split_series(line)?;
        loaded.push((labels, values(text)?));
    }
    if command == "load_with_nhcb" {
        let native = with_custom_buckets(&loaded);
        loaded.extend(native);
    }
    for (labels, values) in loaded {
        let series = storage.series.entry(labels).or_default();
        for (i, value) in values.into_iter().enumerate() {
            if let Some(value) = value {
                series.insert(i as i64 * step, value);
            }
        }
    }
    Ok(())
}

/// Histograms with custom buckets made of classic ones.
fn with_custom_buckets(loaded: &[(Labels, Vec<Option<Value>>)]) -> Vec<(Labels, Vec<Option<Value>>)> {
    type Parts = (BTreeMap<u64, (f64, Vec<f64>)>, Vec<f64>, Vec<f64>);
    let mut families: BTreeMap<Labels, Parts> = BTreeMap::new();
    for (labels, values) in loaded {
        let name = labels.metric_name();
        let floats: Vec<f64> = values
            .iter()
            .map(|value| match value {
                Some(Value::Float(value)) => *value,
                _ => f64::NAN,
            })
            .collect();
        let base = |suffix: &str| {
            let base = name.strip_suffix(suffix)?;
            let mut builder = labels.to_builder();
            builder.set(METRIC_NAME, base);
            builder.remove("le");
            Some(builder.build())
        };
        if let (Some(base), Some(Ok(bound))) = (base("_bucket"), labels.get("le").map(parse_float)) {
            let order = if bound < 0.0 { !bound.to_bits() } else { bound.to_bits() | 1 << 63 };
            families.entry(base).or_default().0.insert(order, (bound, floats));
        } else if let Some(base) = base("_count") {
            families.entry(base).or_default().1 = floats;
        } else if let Some(base) = base("_sum") {
            families.entry(base).or_default().2 = floats;
        }
    }
    let mut out = Vec::new();
    for (labels, (buckets, counts, sums)) in families {
        if buckets.is_empty() {
            continue;
        }
        let length = buckets.values().map(|(_, values)| values.len()).max().unwrap_or(0);
        let values = (0..length).map(|i| {
            let mut histogram = Histogram { schema: series::histogram::CUSTOM_SCHEMA, ..Histogram::default() };
            let mut before = 0.0;
            let mut bounds = Vec::new();
            for (index, (bound, values)) in buckets.values().enumerate() {
                let count = values.get(i).copied().unwrap_or(f64::NAN);
                if count.is_nan() {
                    continue;
                }
                if bound.is_finite() {
                    bounds.push(*bound);
                }
                histogram.positive.push(BucketCount { index: index as i32, count: count - before });
                before = count;
            }
            histogram.custom_values = bounds.into();
            histogram.count = counts.get(i).copied().filter(|count| !count.is_nan()).unwrap_or(before);
            if histogram.count > before {
                let index = histogram.custom_values.len() as i32;
                match histogram.positive.last_mut() {
                    Some(last) if last.index == index => last.count += histogram.count - before,
                    _ => histogram.positive.push(BucketCount { index, count: histogram.count - before }),
                }
            }
            histogram.sum = sums.get(i).copied().filter(|sum| !sum.is_nan()).unwrap_or(0.0);
            histogram.compact();
            Some(Value::Histogram(histogram, false))
        });
        out.push((labels, values.collect()));
    }
    out
}

impl Storage {
    fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Vec<SelectedSeries> {
        let mut found = Vec::new();
        for (labels, values) in &self.series {
            if !matchers.iter().all(|matcher| matcher.matches_labels(labels)) {
                continue;
            }
            let mut series = SelectedSeries {
                labels: labels.clone(),
                samples: Vec::new(),
                histograms: Vec::new(),
                starts: Vec::new(),
            };
            let mut before: Option<&Histogram> = None;
            for (time, value) in values {
                let within = (from..=to).contains(time);
                match value {
                    Value::Float(value) => {
                        before = None;
                        if within {
                            series.samples.push(Sample { timestamp: Timestamp(*time), value: *value });
                        }
                    }
                    Value::Histogram(histogram, _) => {
                        // As samples come out of chunks: what begins one says nothing of the sample before.
                        let mut hinted = histogram.clone();
                        hinted.hint = match before {
                            _ if histogram.hint == ResetHint::Gauge => ResetHint::Gauge,
                            Some(before)
                                if before.hint != ResetHint::Gauge
                                    && !histogram.detect_reset(before)
                                    && histogram.schema == before.schema =>
                            {
                                ResetHint::NotReset
                            }
                            _ => ResetHint::Unknown,
                        };
                        before = Some(histogram);
                        if within {
                            series.histograms.push((*time, Arc::new(hinted)));
                        }
                    }
                }
            }
            if !series.samples.is_empty() || !series.histograms.is_empty() {
                found.push(series);
            }
        }
        found
    }
}

// --- eval -----------------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Expected {
    /// None: no failure. Some(None): any text.
    fail: Option<Option<Pattern>>,
    warn: Vec<Option<Pattern>>,
    info: Vec<Option<Pattern>>,
    no_warn: bool,
    no_info: bool,
    ordered: bool,
    string: Option<String>,
    range: Option<(i64, i64)>,
    series: Vec<(Labels, Vec<Option<Value>>)>,
    scalar: Option<Vec<Option<Value>>>,
}

enum Pattern {
    Exact(String),
    Regex(Regex),
}

impl Pattern {
    fn new(text: &str) -> Result<Pattern, String> {
        let text = text.trim();
        if let Some(exact) = text.strip_prefix("msg:") {
            return Ok(Pattern::Exact(exact.trim().to_owned()));
        }
        let source = text.strip_prefix("regex:").ok_or_else(|| format!("no pattern: {text}"))?;
        Ok(Pattern::Regex(Regex::new(&format!(".*{}.*", source.trim())).map_err(|error| error.to_string())?))
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(exact) => exact == text,
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }
}

fn expected(command: &str, body: &[&str]) -> Result<Expected, String> {
    let mut expected = Expected { ordered: command == "eval_ordered", ..Expected::default() };
    match command {
        "eval_fail" => expected.fail = Some(None),
        "eval_warn" => expected.warn.push(None),
        "eval_info" => expected.info.push(None),
        _ => {}
    }
    for line in body {
        if let Some(rest) = line.strip_prefix("expect ") {
            let rest = rest.trim();
            let (kind, detail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let pattern = if detail.trim().is_empty() || matches!(kind, "string" | "range") {
                None
            } else {
                Some(Pattern::new(detail)?)
            };
            match kind {
                "fail" => expected.fail = Some(pattern),
                "warn" => expected.warn.push(pattern),
                "info" => expected.info.push(pattern),
                "no_warn" => expected.no_warn = true,
                "no_info" => expected.no_info = true,
                "ordered" => expected.ordered = true,
                "string" => expected.string = Some(string_literal(detail.trim())?),
                "range" => {
                    let words: Vec<&str> = detail.split_whitespace().collect();
                    expected.range = Some((time(words[2])?, time(words[6])?));
                }
                other => return Err(format!("unknown expectation {other}")),
            }
            continue;
        }
        if let Some(text) = line.strip_prefix("expected_fail_message") {
            expected.fail = Some(Some(Pattern::Exact(text.trim().to_owned())));
            continue;
        }
        match split_series(line) {
            Ok((labels, text)) if !text.is_empty() => expected.series.push((labels, values(text)?)),
            _ => expected.scalar = Some(values(line)?),
        }
    }
    Ok(expected)
}

fn string_literal(text: &str) -> Result<String, String> {
    let plan = Plan::instant(text, 0, &PlanOptions::default()).map_err(|error| error.to_string())?;
    match plan.evaluate(Vec::new(), &budget()).map_err(|error| error.to_string())?.value {
        QueryValue::String(text) => Ok(text),
        _ => Err(format!("no string: {text}")),
    }
}

fn budget() -> Budget {
    Budget::new(BudgetLimits { samples_max: 10_000_000, ..BudgetLimits::default() }, None)
}

pub fn options() -> PlanOptions {
    PlanOptions {
        parse: ParseOptions {
            experimental_functions: true,
            extended_range_selectors: true,
            fill_modifiers: true,
            ..ParseOptions::default()
        },
        delayed_name_removal: true,
        ..PlanOptions::default()
    }
}

/// The series of a select, or their reduction where there is one and no histogram among them.
fn answer(select: &promql::Select, found: Vec<SelectedSeries>) -> SelectResult {
    let floats = found.iter().all(|series| series.histograms.is_empty());
    let Some(pushdown) = select.pushdown.clone().filter(|_| floats) else { return SelectResult::Series(found) };
    // Every second series goes to another owner.
    let mut owners = [PartialAggregate::new(pushdown.clone()), PartialAggregate::new(pushdown.clone())];
    let mut names = std::collections::BTreeSet::new();
    for (i, series) in found.iter().enumerate() {
        if pushdown.names_vanish() && !names.insert(promql::nameless(&series.labels)) {
            return SelectResult::Series(found);
        }
        let mut samples = series.samples.clone();
        if !pushdown.is_newest() {
            samples.retain(|sample| !series::is_stale(sample.value));
        }
        if samples.is_empty() {
            continue;
        }
        let owner = &mut owners[i % 2];
        let group = owner.group(&series.labels);
        if i % 3 == 0 {
            owner.add_series(group, &samples);
        } else {
            let times: Vec<i64> = series.samples.iter().map(|sample| sample.timestamp.0).collect();
            let values: Vec<f64> = series.samples.iter().map(|sample| sample.value).collect();
            owner.add_rows(&[group], &times, &values);
        }
    }
    let [mut one, other] = owners;
    one.merge(other);
    if one.is_final() { SelectResult::Partial(Box::new(one)) } else { SelectResult::Series(found) }
}

fn eval(storage: &Storage, line: &str, body: &[&str]) -> Result<(), String> {
    let (command, rest) = line.split_once(char::is_whitespace).ok_or("eval of nothing")?;
    let expected = expected(command, body)?;
    let rest = rest.trim();
    let mut query = rest;
    let mut word = || -> Result<&str, String> {
        let (word, more) = query.split_once(char::is_whitespace).ok_or_else(|| format!("too short: {rest}"))?;
        query = more.trim_start();
        Ok(word)
    };
    let kind = word()?;
    let (mut start, mut step, mut count) = (0, 1, 1);
    let plan = if kind == "instant" {
        word()?;
        start = time(word()?)?;
        Plan::instant(query, start, &options())
    } else {
        word()?;
        start += time(word()?)?;
        word()?;
        let end = time(word()?)?;
        word()?;
        step = time(word()?)?;
        count = ((end - start) / step + 1) as usize;
        Plan::range(query, start, end, step, &options())
    };
    let run = plan.map_err(|error| error.to_string()).and_then(|plan| {
        let data = plan
            .selects()
            .iter()
            .map(|select| answer(select, storage.select(&select.matchers, select.from, select.to)));
        plan.evaluate(data.collect(), &budget()).map_err(|error| error.to_string())
    });
    let evaluated = match (run, &expected.fail) {
        (Err(_), Some(None)) => return Ok(()),
        (Err(error), Some(Some(pattern))) if pattern.matches(&error) => return Ok(()),
        (Err(error), Some(Some(_))) => return Err(format!("fails otherwise: {error}")),
        (Err(error), None) => return Err(format!("fails: {error}")),
        (Ok(evaluated), Some(_)) => return Err(format!("does not fail: {:?}", evaluated.value)),
        (Ok(evaluated), None) => evaluated,
    };
    annotated("warning", &expected.warn, expected.no_warn, &evaluated.annotations.warnings)?;
    annotated("info", &expected.info, expected.no_info, &evaluated.annotations.infos)?;
    match evaluated.value {
        QueryValue::String(text) => match &expected.string {
            Some(want) if *want == text => Ok(()),
            want => Err(format!("string {text:?}, wanted {want:?}")),
        },
        QueryValue::Scalar(got) => {
            let want = expected.scalar.or_else(|| expected.series.into_iter().next().map(|(_, values)| values));
            let want = want.ok_or("a scalar was not expected")?;
            {
                let column = Column::of_floats(Labels::empty(), got);
                same(&column, &want, count)
            }
        }
        QueryValue::Matrix(found) => {
            // The values of each series lie in the order of their times.
            for series in &found {
                let mut points: Vec<(i64, Point)> =
                    series.samples.iter().map(|sample| (sample.timestamp.0, Point::Float(sample.value))).collect();
                points.extend(
                    series.histograms.iter().map(|(time, histogram)| (*time, Point::Histogram(Arc::clone(histogram)))),
                );
                points.sort_by_key(|(time, _)| *time);
                let Some((_, want)) = expected.series.iter().find(|(labels, _)| *labels == series.labels) else {
                    return Err(format!("unexpected series {}", series.labels));
                };
                let (from, step) = expected.range.unwrap_or((points[0].0, step));
                for (i, want) in want.iter().enumerate() {
                    let got =
                        points.iter().find(|(time, _)| *time == from + step * i as i64).map(|(_, point)| point.clone());
                    same_point(got.as_ref(), want.as_ref())?;
                }
                if points.len() != want.iter().flatten().count() {
                    return Err(format!("{} has {} points, wanted {}", series.labels, points.len(), want.len()));
                }
            }
            if found.len() == expected.series.len() { Ok(()) } else { Err("series are missing".into()) }
        }
        QueryValue::Vector(mut columns) => {
            columns.retain(|column| !column.is_empty());
            if expected.ordered {
                for (column, (labels, _)) in columns.iter().zip(&expected.series) {
                    if column.labels != *labels {
                        let order: Vec<String> = columns.iter().map(|column| column.labels.to_string()).collect();
                        return Err(format!("wrong order: {}", order.join(" ")));
                    }
                }
            }
            for column in &columns {
                let Some((_, want)) = expected.series.iter().find(|(labels, _)| *labels == column.labels) else {
                    return Err(format!("unexpected series {} with {:?}", column.labels, column.point(0)));
                };
                same(column, want, count).map_err(|error| format!("{}: {error}", column.labels))?;
            }
            let missing = expected.series.iter().find(|(labels, values)| {
                values.iter().any(Option::is_some) && !columns.iter().any(|column| column.labels == *labels)
            });
            match missing {
                Some((labels, _)) => Err(format!("{labels} is missing")),
                None => Ok(()),
            }
        }
    }
}

fn annotated(kind: &str, wanted: &[Option<Pattern>], none: bool, got: &[String]) -> Result<(), String> {
    if none && !got.is_empty() {
        return Err(format!("unexpected {kind}: {got:?}"));
    }
    for pattern in wanted {
        let found = match pattern {
            None => !got.is_empty(),
            Some(pattern) => got.iter().any(|text| pattern.matches(text)),
        };
        if !found {
            return Err(format!("no such {kind} in {got:?}"));
        }
    }
    let explained =
        |text: &String| wanted.iter().any(|pattern| pattern.as_ref().is_none_or(|pattern| pattern.matches(text)));
    match got.iter().find(|text| !wanted.is_empty() && !explained(text)) {
        Some(text) => Err(format!("unexpected {kind}: {text}")),
        None => Ok(()),
    }
}

fn same(column: &Column, want: &[Option<Value>], count: usize) -> Result<(), String> {
    if want.len() > count {
        return Err(format!("{} values wanted for {count} times", want.len()));
    }
    for i in 0..count {
        let want = want.get(i).and_then(Option::as_ref);
        same_point(column.point(i).as_ref(), want).map_err(|error| format!("at step {i}: {error}"))?;
    }
    Ok(())
}

fn near(a: f64, b: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < 1e-6 * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < 1e-6
}

fn same_point(got: Option<&Point>, want: Option<&Value>) -> Result<(), String> {
    let equal = match (got, want) {
        (None, None) => true,
        (Some(Point::Float(got)), Some(Value::Float(want))) => {
            near(*got, if want.is_nan() { NORMAL_NAN } else { *want })
        }
        (Some(Point::Histogram(got)), Some(Value::Histogram(want, hinted))) => {
            let buckets = |one: &[BucketCount], other: &[BucketCount]| {
                one.len() == other.len()
                    && one.iter().zip(other).all(|(a, b)| a.index == b.index && near(a.count, b.count))
            };
            got.schema == want.schema
                && near(got.count, want.count)
                && near(got.sum, want.sum)
                && near(got.zero_count, want.zero_count)
                && near(got.zero_threshold, want.zero_threshold)
                && got.custom_values == want.custom_values
                && buckets(&got.positive, &want.positive)
                && buckets(&got.negative, &want.negative)
                && (!hinted || got.hint == want.hint)
        }
        _ => false,
    };
    if equal { Ok(()) } else { Err(format!("got {got:?}\n    wanted {want:?}")) }
}
