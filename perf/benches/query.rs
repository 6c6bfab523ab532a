//! What queries do with samples: matching of labels, newest values and rows of many targets, rates over series.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use perf::Random;
use promql::budget::Budget;
use promql::{Plan, PlanOptions, SelectResult, SelectedSeries};
use series::{Labels, MatchOp, Matcher, Sample, Timestamp};
use std::collections::HashMap;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use tsdb::log::{Action, FileId, Journal, Options, TargetKey, Writer};
use tsdb::{AppendScratch, Elsewhere, GroupBuilder, Rows, SegmentLimits, SlotGroup, TargetHead};

const TARGETS: usize = 100;
const GROUPS: usize = 34;
const SLOTS_PER_GROUP: usize = 40;
const INTERVAL_MS: i64 = 5_000;
const ROWS: i64 = 24;
const SERIES: usize = 1_000;

fn groups() -> Vec<Arc<SlotGroup>> {
    let group = |group: usize| {
        let mut builder = GroupBuilder::default();
        for slot in 0..SLOTS_PER_GROUP {
            let (name, le) = (format!("http_server_requests_f{group}_seconds_bucket"), slot.to_string());
            builder.push(&Labels::from_pairs([("__name__", name.as_str()), ("le", &le), ("method", "GET")]), false);
        }
        Arc::new(builder.build())
    };
    (0..GROUPS).map(group).collect()
}

/// Targets that share their groups, with two minutes of rows each.
fn fleet(groups: &[Arc<SlotGroup>]) -> Vec<TargetHead> {
    let mut journal = Journal::new(Writer::new(FileId { boot: 1, writer: 0, sequence: 1 }, Options::default()));
    let mut scratch = AppendScratch::default();
    let mut random = Random::new(7);
    let head = |target: usize| {
        let instance = format!("host-{target}:9100");
        let labels = Labels::from_pairs([("instance", instance.as_str()), ("job", "load")]);
        let mut head = TargetHead::new(TargetKey { id: target as u64, labels }, SegmentLimits::default(), 0);
        head.replace(groups);
        let mut values: Vec<f64> = (0..GROUPS * SLOTS_PER_GROUP).map(|_| random.below(1_000_000) as f64).collect();
        for row in 1..=ROWS {
            values.iter_mut().for_each(|value| *value += random.below(3) as f64);
            let at = Timestamp(row * INTERVAL_MS);
            head.append(at, &values, &[], false, &mut journal, &mut scratch).expect("time goes on");
            let Some(writer) = journal.writer_mut() else { continue };
            while let Some(action) = writer.next(at.0 as u64, false) {
                let outcome = if let Action::Write { bytes, .. } = &action { bytes.len() } else { 0 };
                writer.done(&action, Ok(outcome), at.0 as u64);
            }
        }
        head
    };
    (0..TARGETS).map(head).collect()
}

fn equal(name: &str, value: &str) -> Matcher {
    Matcher::new(name, MatchOp::Equal, value).expect("no regex")
}

fn select(criterion: &mut Criterion) {
    let groups = groups();
    let fleet = fleet(&groups);
    let now = Timestamp(ROWS * INTERVAL_MS);
    let mut group = criterion.benchmark_group("select/100 targets of 1360 slots");
    let regex = Matcher::new("__name__", MatchOp::Regex, "http_server_requests_f.*").expect("an expression");
    for (name, matchers) in
        [("one name", vec![equal("__name__", "http_server_requests_f7_seconds_bucket")]), ("all", vec![regex])]
    {
        group.bench_function(format!("match {name}"), |bencher| {
            bencher.iter(|| {
                let of_group = |group: &Arc<SlotGroup>| group.matching(black_box(&matchers), &Labels::empty()).len();
                groups.iter().map(of_group).sum::<usize>()
            });
        });
        // As a core does it: decided once per group, remembered for all targets.
        let slots: HashMap<*const SlotGroup, Rc<[u32]>> = groups
            .iter()
            .map(|group| (Arc::as_ptr(group), group.matching(&matchers, &Labels::empty()).into()))
            .collect();
        let series: usize = slots.values().map(|slots| slots.len()).sum::<usize>() * TARGETS;
        group.throughput(Throughput::Elements(series as u64));
        group.bench_function(format!("newest of {name}"), |bencher| {
            bencher.iter(|| {
                let mut sum = 0.0;
                for head in &fleet {
                    let matching = |group: &Arc<SlotGroup>| slots[&Arc::as_ptr(group)].clone();
                    let found = |_: &Arc<SlotGroup>, _: u32, sample: Sample| sum += sample.value;
                    head.instant(Timestamp(0), now, u64::MAX, Elsewhere::Nothing, matching, found).expect("own rows");
                }
                sum
            });
        });
        let mut rows = Rows::default();
        group.bench_function(format!("a minute of {name}"), |bencher| {
            bencher.iter(|| {
                let mut values = 0;
                for head in &fleet {
                    let matching = |group: &Arc<SlotGroup>| slots[&Arc::as_ptr(group)].clone();
                    let span = (now.plus_ms(-60_000), now);
                    let complete =
                        head.rows(span, u64::MAX, Elsewhere::Nothing, None, &mut rows, matching).expect("own rows");
                    assert!(complete);
                    values += rows.values.len();
                }
                values
            });
        });
    }
    group.finish();
}

fn evaluate(criterion: &mut Criterion) {
    let mut random = Random::new(9);
    let one = |at: usize| {
        let instance = format!("host-{}:9100", at / 4);
        let method = ["GET", "PUT", "POST", "DELETE"][at % 4];
        let mut value = random.below(1_000_000) as f64;
        let samples = (1..=61).map(|row| {
            value += random.below(60) as f64;
            Sample { timestamp: Timestamp(row * INTERVAL_MS), value }
        });
        let labels = Labels::from_pairs([("__name__", "requests_total"), ("instance", &instance), ("method", method)]);
        SelectedSeries { labels, samples: samples.collect(), histograms: Vec::new(), starts: Vec::new() }
    };
    let series: Vec<SelectedSeries> = (0..SERIES).map(one).collect();
    let mut group = criterion.benchmark_group("evaluate/1000 series");
    group.throughput(Throughput::Elements(SERIES as u64));
    let end = 61 * INTERVAL_MS;
    for (name, query, steps) in [
        ("rate at one time", "rate(requests_total[1m])", 1),
        ("rate at 48 times", "rate(requests_total[1m])", 48),
        ("sum of rates at one time", "sum by (method) (rate(requests_total[1m]))", 1),
        ("division at one time", "requests_total / on (instance, method) requests_total", 1),
    ] {
        let options = PlanOptions::default();
        let plan = match steps {
            1 => Plan::instant(query, end, &options),
            _ => Plan::range(query, end - (steps - 1) * INTERVAL_MS, end, INTERVAL_MS, &options),
        };
        let plan = plan.expect("a query that parses");
        let data = || plan.selects().iter().map(|_| SelectResult::Series(series.clone())).collect::<Vec<_>>();
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                data,
                |data| plan.evaluate(data, &Budget::unlimited()).expect("an answer").samples,
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(query, select, evaluate);
criterion_main!(query);
