//! One scrape into the head: rows of 1,360 slots of which 41 % changed, and reads of what was written.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use perf::Random;
use series::{Labels, MatchOp, Matcher, Timestamp};
use std::rc::Rc;
use tsdb::{AppendScratch, GroupBuilder, SlotGroup, TargetHead};

const SLOTS: usize = 1360;
const ROWS: i64 = 60;

/// Groups as a payload of many families is cut into.
fn groups() -> Vec<Rc<SlotGroup>> {
    (0..SLOTS / 40)
        .map(|group| {
            let mut builder = GroupBuilder::default();
            for slot in 0..40 {
                let name = format!("http_server_requests_f{group}_seconds_bucket");
                let le = slot.to_string();
                builder.push(&Labels::from_pairs([("__name__", name.as_str()), ("le", &le), ("method", "GET")]), false);
            }
            Rc::new(builder.build())
        })
        .collect()
}

/// The same values with 41 % of them a little larger.
fn next_values(values: &mut [f64], random: &mut Random) {
    for value in values {
        if random.below(100) < 41 {
            *value += random.below(60) as f64;
        }
    }
}

fn benches(criterion: &mut Criterion) {
    let mut random = Random::new(3);
    let mut values: Vec<f64> = (0..SLOTS).map(|_| random.below(1_000_000) as f64).collect();
    let rows: Vec<Vec<f64>> = (0..12)
        .map(|_| {
            next_values(&mut values, &mut random);
            values.clone()
        })
        .collect();
    let mut head = TargetHead::default();
    let mut scratch = AppendScratch::default();
    head.replace(&groups());
    let mut at = 0;
    let mut append = |head: &mut TargetHead| {
        at += 5_000;
        let row = &rows[at as usize / 5_000 % rows.len()];
        head.append(Timestamp(at), row, &[], false, &mut scratch).expect("time goes on");
        head.trim(Timestamp(at - ROWS * 5_000));
        at
    };
    let mut group = criterion.benchmark_group("head/1360 slots");
    group.throughput(Throughput::Elements(SLOTS as u64));
    group.bench_function("append and trim", |bencher| bencher.iter(|| append(&mut head)));
    let now = append(&mut head);
    let name = Matcher::new("__name__", MatchOp::Equal, "http_server_requests_f7_seconds_bucket").expect("no regex");
    let le = Matcher::new("le", MatchOp::Equal, "7").expect("no regex");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("range of one series over 60 rows", |bencher| {
        let matchers = [name.clone(), le.clone()];
        bencher.iter(|| head.range(&matchers, &Labels::empty(), Timestamp(0), Timestamp(now)).expect("own rows").len());
    });
    group.throughput(Throughput::Elements(SLOTS as u64));
    let every: Rc<[u32]> = (0..40).collect();
    group.bench_function("newest of all", |bencher| {
        bencher.iter(|| {
            let mut sum = 0.0;
            let found = |_: &Rc<SlotGroup>, _: u32, sample: series::Sample| sum += sample.value;
            head.instant(Timestamp(0), Timestamp(now), |_| every.clone(), found).expect("own rows");
            sum
        });
    });
    group.finish();
}

criterion_group!(ingest, benches);
criterion_main!(ingest);
