//! Three evaluations of the same query agree: over whole series, over partial aggregates merged from several shards, and
//! the slow, plain one in `plain`. Expressions, series and grids are random; every case follows from its printed seed.
//!
//! RINGSCRAPE_PROMQL_CASES sets the number of cases, RINGSCRAPE_PROMQL_SEED the first seed: to see one case again, set the
//! seed and one case.

mod plain;
mod random;

use plain::{Element, Plain, Stored, Value};
use promql::budget::Budget;
use promql::{
    Expr, ParseOptions, PartialAggregate, Plan, PlanOptions, Point, QueryValue, Select, SelectResult, SelectedSeries,
};
use random::Random;
use random::data::{Data, LENGTH_MS};
use random::expr::Writer;
use series::{Labels, Sample, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Cases of one run, unless the environment says otherwise.
const CASES: u64 = 40_000;
/// Expressions over the same series.
const EXPRESSIONS_PER_DATA: u64 = 16;
/// An expression that is evaluated at more inner times takes too long in the plain form.
const EXPRESSION_BYTES_MAX: usize = 240;

/// The values of each series, by the place in the grid.
type Table = BTreeMap<Labels, BTreeMap<usize, Value>>;

struct Case {
    text: String,
    plan: Plan,
    expr: Expr,
    options: PlanOptions,
    is_range: bool,
}

fn options(random: &mut Random) -> PlanOptions {
    let parse = ParseOptions {
        experimental_functions: true,
        extended_range_selectors: true,
        fill_modifiers: true,
        ..ParseOptions::default()
    };
    PlanOptions {
        parse,
        lookback: Duration::from_secs([300, 300, 60][random.below(3)]),
        inner_step: Duration::from_secs([60, 15, 45][random.below(3)]),
        delayed_name_removal: random.one_in(4),
        ..PlanOptions::default()
    }
}

fn case(random: &mut Random) -> Option<Case> {
    let text = Writer { random, modifiers: true }.vector(3);
    let mut options = options(random);
    // Which of two elements with the same labels keeps its name depends on the times at which they are there.
    let decides_by_name = [" or ", "label_", "fill", "info("].iter().any(|word| text.contains(word));
    options.delayed_name_removal &= !decides_by_name;
    let is_range = !random.one_in(3);
    let step = [15_000, 30_000, 60_000, 300_000, 17_000][random.below(5)];
    let mut start = random.below(LENGTH_MS as usize * 3 / 4) as i64;
    if random.one_in(2) {
        start -= start % step;
    }
    let mut end = start + step * random.below(12) as i64;
    if random.one_in(3) {
        end += random.below(step as usize) as i64;
    }
    if text.len() > EXPRESSION_BYTES_MAX {
        return None;
    }
    let mut parse = options.parse;
    let plan = if is_range {
        (parse.step_ms, parse.range_ms) = (step, end - start);
        Plan::range(&text, start, end, step, &options)
    } else {
        Plan::instant(&text, start, &options)
    };
    let expr = promql::parse(&text, &parse);
    match (plan, expr) {
        (Ok(plan), Ok(expr)) => Some(Case { text, plan, expr, options, is_range }),
        // Such as labels both in `on` and in a group.
        _ => None,
    }
}

fn selected(stored: &[Stored], select: &Select) -> Vec<SelectedSeries> {
    let mut found = Vec::new();
    for one in stored.iter().filter(|one| select.matchers.iter().all(|matcher| matcher.matches_labels(&one.labels))) {
        let mut series = SelectedSeries {
            labels: one.labels.clone(),
            samples: Vec::new(),
            histograms: Vec::new(),
            starts: Vec::new(),
        };
        for (time, value) in one.samples.iter().filter(|(time, _)| (select.from..=select.to).contains(time)) {
            match value {
                Value::Float(value) => series.samples.push(Sample { timestamp: Timestamp(*time), value: *value }),
                Value::Histogram(histogram) => series.histograms.push((*time, histogram.clone())),
            }
        }
        if !series.samples.is_empty() || !series.histograms.is_empty() {
            found.push(series);
        }
    }
    found
}

/// The aggregation carried out by several shards, each of which has some of the targets; None where the query falls back to
/// whole series, as the shards would have it.
fn pushed_down(data: &Data, stored: &[Stored], select: &Select, shards: usize) -> Option<PartialAggregate> {
    let pushdown = select.pushdown.clone()?;
    let whole = selected(stored, select);
    if whole.iter().any(|series| !series.histograms.is_empty()) {
        return None;
    }
    let mut nameless = BTreeSet::new();
    if pushdown.names_vanish() && !whole.iter().all(|series| nameless.insert(promql::nameless(&series.labels))) {
        return None;
    }
    let mut partials: Vec<PartialAggregate> = (0..shards).map(|_| PartialAggregate::new(pushdown.clone())).collect();
    for (i, target) in data.targets.iter().enumerate() {
        let partial = &mut partials[i % shards];
        let matching = |labels: &Labels| select.matchers.iter().all(|matcher| matcher.matches_labels(labels));
        let columns: Vec<_> = target.series.iter().filter(|(labels, _)| matching(labels)).collect();
        let rows: Vec<usize> =
            (0..target.times.len()).filter(|row| (select.from..=select.to).contains(&target.times[*row])).collect();
        if rows.is_empty() || columns.is_empty() {
            continue;
        }
        let groups: Vec<u32> = columns.iter().map(|(labels, _)| partial.group(labels)).collect();
        let times: Vec<i64> = rows.iter().map(|row| target.times[*row]).collect();
        let value = |row: usize, column: usize| columns[column].1[row].unwrap_or(promql::NO_VALUE);
        let values: Vec<f64> =
            rows.iter().flat_map(|row| (0..columns.len()).map(move |column| value(*row, column))).collect();
        partial.add_rows(&groups, &times, &values);
    }
    let mut all = partials.pop()?;
    partials.into_iter().for_each(|partial| all.merge(partial));
    // What chunks alone have comes as series.
    for other in &data.others {
        for mut series in selected(std::slice::from_ref(other), select) {
            if !pushdown.is_newest() {
                series.samples.retain(|sample| !series::is_stale(sample.value));
            }
            if !series.samples.is_empty() {
                let group = all.group(&series.labels);
                all.add_series(group, &series.samples);
            }
        }
    }
    all.is_final().then_some(all)
}

fn evaluated(plan: &Plan, data: Vec<SelectResult>) -> Result<Table, String> {
    let result = plan.evaluate(data, &Budget::unlimited()).map_err(|error| error.to_string())?;
    let mut table = Table::new();
    let columns = match result.value {
        QueryValue::Scalar(values) => {
            let values = values.into_iter().enumerate().map(|(i, value)| (i, Value::Float(value)));
            table.insert(Labels::empty(), values.collect());
            return Ok(table);
        }
        QueryValue::Vector(columns) => columns,
        other => return Err(format!("a value of another kind: {other:?}")),
    };
    for column in columns {
        let point = |i: usize| {
            let value = match column.point(i)? {
                Point::Float(value) => Value::Float(value),
                Point::Histogram(histogram) => Value::Histogram(histogram),
            };
            Some((i, value))
        };
        let points: BTreeMap<usize, Value> = (0..plan.grid.count).filter_map(point).collect();
        if !points.is_empty() && table.insert(column.labels.clone(), points).is_some() {
            return Err(format!("two columns of {}", column.labels));
        }
    }
    Ok(table)
}

fn plainly(case: &Case, stored: &[Stored]) -> Result<Table, String> {
    let grid = case.plan.grid;
    let plain = Plain {
        stored,
        start: grid.start,
        end: case.plan.end(),
        step: grid.step,
        is_range: case.is_range,
        lookback: case.options.lookback.as_millis() as i64,
        inner_step: case.options.inner_step.as_millis() as i64,
        delayed_names: case.options.delayed_name_removal,
        stats: false.into(),
    };
    let mut table = Table::new();
    for (i, time) in grid.times().enumerate() {
        for Element { labels, value, .. } in plain.result(&case.expr, time)? {
            table.entry(labels).or_default().insert(i, value);
        }
    }
    Ok(table)
}

fn near(one: f64, other: f64) -> bool {
    let difference = (one - other).abs();
    one == other
        || (one.is_nan() && other.is_nan())
        || difference <= 1e-9 * one.abs().max(other.abs())
        || difference < 1e-9
}

fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => near(*one, *other),
        (Value::Histogram(one), Value::Histogram(other)) => {
            let buckets = |one: &[series::histogram::BucketCount], other: &[series::histogram::BucketCount]| {
                one.len() == other.len()
                    && one.iter().zip(other).all(|(a, b)| a.index == b.index && near(a.count, b.count))
            };
            one.schema == other.schema
                && near(one.count, other.count)
                && near(one.sum, other.sum)
                && near(one.zero_count, other.zero_count)
                && one.zero_threshold == other.zero_threshold
                && one.custom_values == other.custom_values
                && buckets(&one.positive, &other.positive)
                && buckets(&one.negative, &other.negative)
        }
        _ => false,
    }
}

/// The first difference between two outcomes.
fn difference(got: &Result<Table, String>, want: &Result<Table, String>) -> Option<String> {
    let (got, want) = match (got, want) {
        (Ok(got), Ok(want)) => (got, want),
        (Err(_), Err(_)) => return None,
        (got, want) => return Some(format!("got {got:?}\n  wanted {want:?}")),
    };
    for labels in got.keys().chain(want.keys()) {
        let nothing = BTreeMap::new();
        let (got, want) = (got.get(labels).unwrap_or(&nothing), want.get(labels).unwrap_or(&nothing));
        for i in got.keys().chain(want.keys()) {
            let agree = match (got.get(i), want.get(i)) {
                (Some(got), Some(want)) => same(got, want),
                _ => false,
            };
            if !agree {
                return Some(format!("{labels} at step {i}: got {:?}\n  wanted {:?}", got.get(i), want.get(i)));
            }
        }
    }
    None
}

#[derive(Default)]
struct Counts {
    cases: usize,
    with_values: usize,
    with_pushdown: usize,
    with_subquery: usize,
    failed: usize,
    /// Cases that differ because a last digit decides.
    rounded: usize,
}

/// Whether the last digit of an inexact value decides over whole numbers: whether it changed, fell, or is larger.
fn amplifies_rounding(text: &str) -> bool {
    const INEXACT: [&str; 9] =
        ["std", "deriv", "predict", "smoothing", "smoothed", "quantile", "fraction", "avg", "rate"];
    const DECIDING: [&str; 17] = [
        "changes", "resets", "rate", "increase", "floor", "ceil", "round", "%", "==", "!=", "<", ">", "sgn", "_of_",
        "hour", "minute", "topk",
    ];
    INEXACT.iter().any(|word| text.contains(word)) && DECIDING.iter().any(|word| text.contains(word))
}

fn check(seed: u64, counts: &mut Counts) -> Result<(), String> {
    let data = Data::new(&mut Random::new(seed / EXPRESSIONS_PER_DATA));
    let stored = data.stored();
    let mut random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let Some(case) = case(&mut random) else { return Ok(()) };
    let want = plainly(&case, &stored);
    let whole = || case.plan.selects().iter().map(|select| SelectResult::Series(selected(&stored, select)));
    let grid = case.plan.grid;
    // A subquery is evaluated at all its times, also at those that lie in no window; the plain form sees the others alone.
    let outside = |got: &Result<Table, String>| case.text.contains(':') && got.is_err() && want.is_ok();
    let context = || format!("seed {seed}: {}\n  {grid:?}, {:?}", case.text, case.options);
    let got = evaluated(&case.plan, whole().collect());
    if outside(&got) {
        counts.failed += 1;
        return Ok(());
    }
    let found = difference(&got, &want);
    if found.is_some() && amplifies_rounding(&case.text) {
        counts.rounded += 1;
        return Ok(());
    }
    if let Some(difference) = found {
        return Err(format!("{}\n  whole series: {difference}", context()));
    }
    let shards = 1 + random.below(3);
    let mut is_pushed_down = false;
    let partial = |(select, series): (&Select, SelectResult)| match pushed_down(&data, &stored, select, shards) {
        Some(partial) => {
            is_pushed_down = true;
            SelectResult::Partial(Box::new(partial))
        }
        None => series,
    };
    let reduced: Vec<SelectResult> = case.plan.selects().iter().zip(whole()).map(partial).collect();
    if is_pushed_down {
        let got = evaluated(&case.plan, reduced);
        let found = difference(&got, &want);
        if found.is_some() && amplifies_rounding(&case.text) {
            counts.rounded += 1;
        } else if let Some(difference) = found {
            return Err(format!("{}\n  pushdown: {difference}", context()));
        }
    }
    counts.cases += 1;
    counts.with_pushdown += usize::from(is_pushed_down);
    counts.with_subquery += usize::from(case.text.contains(':'));
    counts.with_values += usize::from(want.as_ref().is_ok_and(|table| !table.is_empty()));
    counts.failed += usize::from(want.is_err());
    Ok(())
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn all_evaluations_agree() {
    let first = from_environment("RINGSCRAPE_PROMQL_SEED", 1);
    let cases = from_environment("RINGSCRAPE_PROMQL_CASES", CASES);
    let mut counts = Counts::default();
    let mut failures = Vec::new();
    for seed in first..first + cases {
        if let Err(failure) = check(seed, &mut counts) {
            failures.push(failure);
        }
        if failures.len() >= 10 {
            break;
        }
    }
    let Counts { cases: ran, with_values, with_pushdown, with_subquery, failed, rounded } = counts;
    println!(
        "seeds {first}..{}: {ran} cases, {with_values} with values, {with_pushdown} with pushdown, {with_subquery} with \
         subqueries, {failed} fail in every form, {rounded} differ by rounding",
        first + cases
    );
    assert!(rounded * 2_000 <= ran.max(2_000), "{rounded} of {ran} cases differ by rounding");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    if cases >= CASES {
        assert!(with_values * 3 > ran && with_pushdown * 20 > ran && failed * 3 < ran, "the cases are too much alike");
    }
}
