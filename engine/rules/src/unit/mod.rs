//! Unit tests of rules in promtool's format: input series, and expected alerts and samples.
//!
//! As in promtool, every group is evaluated at every step of `evaluation_interval`, regardless of its own interval.

mod memory;

pub use memory::MemoryBackend;

use crate::group::millis;
use crate::load::{Settings, load};
use crate::{Group, Options, Timings};
use config::{ExpectedSample, RuleTest, RuleTests};
use promql::notation::{Value, split_series, values};
use promql::{PlanOptions, Point, QueryValue};
use series::{Labels, Timestamp};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Largest number of evaluations of one test.
const EVALUATIONS_MAX: i64 = 1_000_000;

/// Runs the tests of a file whose names `wants` accepts. Returns one text for each failure.
pub fn run_file(path: &Path, settings: &Settings, wants: impl Fn(&str) -> bool) -> Vec<String> {
    let file = match config::load_rule_tests(path) {
        Ok(file) => file,
        Err(errors) => return errors.iter().map(ToString::to_string).collect(),
    };
    for (i, name) in file.group_eval_order.iter().enumerate() {
        if file.group_eval_order[..i].contains(name) {
            return vec![format!("group name repeated in evaluation order: {name}")];
        }
    }
    for pattern in &file.rule_files {
        if config::glob(pattern).is_empty() {
            return vec![format!("no file matches rule_files pattern {}", pattern.display())];
        }
    }
    let wanted = file.tests.iter().filter(|test| wants(&test.name));
    wanted.flat_map(|test| run(&file, test, settings)).collect()
}

fn run(file: &RuleTests, test: &RuleTest, settings: &Settings) -> Vec<String> {
    let named = |failure: String| match test.name.is_empty() {
        true => failure,
        false => format!("name: {},\n{failure}", test.name),
    };
    let mut failures = Vec::new();
    if let Err(error) = run_test(file, test, settings, &mut failures) {
        failures.push(error);
    }
    failures.into_iter().map(named).collect()
}

/// Returns `start_timestamp` in Unix milliseconds.
fn start_of(text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok((seconds * 1000.0) as i64);
    }
    let start = series::parse_rfc3339(text).map(|start| start.0);
    start.ok_or_else(|| format!("start_timestamp {text:?} is neither Unix seconds nor RFC 3339"))
}

fn run_test(file: &RuleTests, test: &RuleTest, settings: &Settings, failures: &mut Vec<String>) -> Result<(), String> {
    let start = start_of(&test.start_timestamp)?;
    let step = millis(file.evaluation_interval).max(1);
    let interval = if test.interval.is_zero() { step } else { millis(test.interval) };
    let settings = Settings {
        interval: file.evaluation_interval,
        query_offset: Duration::ZERO,
        external_labels: Labels::from_pairs(test.external_labels.iter().map(|(name, value)| (name, value))),
        external_url: test.external_url.clone(),
        ..settings.clone()
    };
    let specs = load(&file.rule_files, &settings).map_err(|errors| errors.to_string())?;
    let mut groups: Vec<Group> = specs.into_iter().map(|spec| Group::new(Arc::new(spec), true)).collect();
    let place = |group: &Group| {
        let named = file.group_eval_order.iter().position(|name| *name == group.spec.name);
        named.unwrap_or(usize::MAX)
    };
    groups.sort_by_key(place);
    let world = MemoryBackend::new(PlanOptions {
        parse: settings.parse,
        inner_step: file.evaluation_interval,
        ..PlanOptions::default()
    });
    for input in &test.input_series {
        let (labels, rest) =
            split_series(&input.series).map_err(|error| format!("series {:?}: {error}", input.series))?;
        if !rest.is_empty() {
            return Err(format!("series {:?}: unexpected {rest:?}", input.series));
        }
        let list = values(&input.values).map_err(|error| format!("values of {}: {error}", input.series))?;
        for (i, value) in list.into_iter().enumerate() {
            if let Some(value) = value {
                world.insert(labels.clone(), start + interval * i as i64, value);
            }
        }
    }
    let times = test.alert_rule_test.iter().map(|case| case.eval_time);
    let last =
        millis(times.chain(test.promql_expr_test.iter().map(|case| case.eval_time)).max().unwrap_or(Duration::ZERO));
    if last / step > EVALUATIONS_MAX {
        return Err(format!("more than {EVALUATIONS_MAX} evaluations; choose a longer evaluation_interval"));
    }
    let (options, timings) = (Options::default(), Timings::default());
    for at in (0..=last).step_by(step as usize) {
        let now = Timestamp(start + at);
        let mut broken = false;
        for group in &mut groups {
            group.evaluate(now, now, &world, &options, &timings);
            for (rule, error) in group.errors() {
                failures.push(format!("    rule: {rule}, time: {}, err: {error}", shown(at)));
                broken = true;
            }
        }
        if broken {
            return Ok(());
        }
        let due = |time: Duration| (at..at + step).contains(&millis(time));
        for case in test.alert_rule_test.iter().filter(|case| due(case.eval_time)) {
            let wanted = case.exp_alerts.iter().map(|alert| {
                let mut labels = Labels::from_pairs(alert.exp_labels.iter().map(|(n, v)| (n, v))).to_builder();
                labels.set("alertname", &case.alertname);
                (labels.build(), Labels::from_pairs(alert.exp_annotations.iter().map(|(n, v)| (n, v))))
            });
            let mut wanted: Vec<(Labels, Labels)> = wanted.collect();
            let mut got: Vec<_> = groups.iter().flat_map(|group| group.firing(&case.alertname)).collect();
            wanted.sort();
            got.sort();
            if wanted != got {
                let mut text = format!("    alertname: {}, time: {}, ", case.alertname, shown(millis(case.eval_time)));
                // Writing into a string does not fail.
                let _ = write!(text, "\n        exp:{}, \n        got:{}", list(&wanted), list(&got));
                failures.push(text);
            }
        }
    }
    for case in &test.promql_expr_test {
        let at = millis(case.eval_time);
        let here = format!("    expr: {:?}, time: {}, ", case.expr, shown(at));
        match compare(&world, &case.expr, start + at, &case.exp_samples, file.fuzzy_compare) {
            Ok(None) => {}
            Ok(Some(difference)) => failures.push(format!("{here}\n{difference}")),
            Err(error) => failures.push(format!("{here}err: {error}")),
        }
    }
    Ok(())
}

fn shown(ms: i64) -> String {
    config::format_duration(Duration::from_millis(ms.unsigned_abs()))
}

fn list(alerts: &[(Labels, Labels)]) -> String {
    if alerts.is_empty() {
        return "[]".into();
    }
    let one = |(i, (labels, annotations)): (usize, &(Labels, Labels))| {
        format!("\n            {i}:\n              Labels:{labels}\n              Annotations:{annotations}")
    };
    format!("[{}\n            ]", alerts.iter().enumerate().map(one).collect::<String>())
}

/// Returns the result of an expression in a form that can be compared.
type Elements = Vec<(Labels, Point)>;

fn point(sample: &ExpectedSample) -> Result<Point, String> {
    if !sample.histogram.is_empty() {
        return match values(&sample.histogram)?.into_iter().next().flatten() {
            Some(Value::Histogram(histogram, _)) => Ok(Point::Histogram(Arc::new(histogram))),
            _ => Err(format!("{:?} is no histogram", sample.histogram)),
        };
    }
    let text = match sample.value.as_str() {
        "" => "0",
        text => text.strip_prefix('.').filter(|rest| rest.starts_with(['i', 'I', 'n', 'N'])).unwrap_or(text),
    };
    let text = text.replacen("-.", "-", usize::from(text.starts_with("-.i") || text.starts_with("-.I")));
    series::parse_float(&text).map(Point::Float).map_err(|error| error.to_string())
}

fn same(one: &Point, other: &Point, fuzzy: bool) -> bool {
    match (one, other) {
        (Point::Float(one), Point::Float(other)) => {
            let close = |one: f64, other: f64| (one - other).abs() <= 1e-15 * one.abs().max(other.abs());
            one == other || one.is_nan() && other.is_nan() || fuzzy && close(*one, *other)
        }
        (Point::Histogram(one), Point::Histogram(other)) => {
            let plain = |histogram: &series::Histogram| {
                let mut plain = histogram.clone();
                plain.hint = series::histogram::ResetHint::Unknown;
                plain.compact();
                plain
            };
            plain(one) == plain(other)
        }
        _ => false,
    }
}

/// Returns the difference, if there is one.
fn compare(
    world: &MemoryBackend,
    expr: &str,
    at: i64,
    wanted: &[ExpectedSample],
    fuzzy: bool,
) -> Result<Option<String>, String> {
    let mut got: Elements = match world.evaluate(expr, at)?.value {
        QueryValue::Scalar(values) => vec![(Labels::empty(), Point::Float(values[0]))],
        QueryValue::Vector(columns) => {
            columns.into_iter().filter_map(|column| Some((column.labels.clone(), column.point(0)?))).collect()
        }
        QueryValue::String(_) | QueryValue::Matrix(_) => return Err("rule result is not a vector or scalar".into()),
    };
    let mut expected = Elements::new();
    for sample in wanted {
        let labels = match sample.labels.trim() {
            "" => Labels::empty(),
            text => split_series(text)?.0,
        };
        expected.push((labels, point(sample).map_err(|error| format!("labels {:?}: {error}", sample.labels))?));
    }
    got.sort_by(|one, other| one.0.cmp(&other.0));
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    let equal = got.len() == expected.len()
        && got.iter().zip(&expected).all(|(got, wanted)| got.0 == wanted.0 && same(&got.1, &wanted.1, fuzzy));
    let text = |elements: &Elements| {
        let one = |(labels, point): &(Labels, Point)| match point {
            Point::Float(value) => format!("\n            {labels} {value:E}"),
            Point::Histogram(histogram) => format!("\n            {labels} {histogram:?}"),
        };
        if elements.is_empty() { "nil".to_owned() } else { elements.iter().map(one).collect() }
    };
    Ok((!equal).then(|| format!("        exp: {}\n        got: {}", text(&expected), text(&got))))
}
