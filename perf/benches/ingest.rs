//! One scrape into head and log: rows of 1,360 slots of which 41 % changed, reads of what was written, and chunks.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use perf::Random;
use series::{Labels, MatchOp, Matcher, Sample, Timestamp};
use std::rc::Rc;
use std::sync::Arc;
use tsdb::log::{Action, FileId, Journal, Options, TargetKey, Writer};
use tsdb::{AppendScratch, Closed, Elsewhere, GroupBuilder, SegmentLimits, SlotGroup, TargetHead, encode_segment};

const SLOTS: usize = 1360;

/// Groups as a payload of many families is cut into.
fn groups() -> Vec<Arc<SlotGroup>> {
    (0..SLOTS / 40)
        .map(|group| {
            let mut builder = GroupBuilder::default();
            for slot in 0..40 {
                let name = format!("http_server_requests_f{group}_seconds_bucket");
                let le = slot.to_string();
                builder.push(&Labels::from_pairs([("__name__", name.as_str()), ("le", &le), ("method", "GET")]), false);
            }
            Arc::new(builder.build())
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
    let key = TargetKey { id: 1, labels: Labels::from_pairs([("instance", "host:9100"), ("job", "load")]) };
    let mut head = TargetHead::new(key, SegmentLimits::default(), 0);
    let mut scratch = AppendScratch::default();
    let mut journal = Journal::new(Writer::new(FileId { boot: 1, writer: 0, sequence: 1 }, Options::default()));
    head.replace(&groups());
    let mut at = 0;
    let closed = std::cell::RefCell::new(None);
    let mut append = |head: &mut TargetHead| {
        at += 5_000;
        let row = &rows[at as usize / 5_000 % rows.len()];
        head.append(Timestamp(at), row, &[], false, &mut journal, &mut scratch).expect("time goes on");
        head.take_closed(|segment| {
            segment.mark_flushed();
            closed.replace(Some(segment));
        });
        head.drop_flushed();
        discard(&mut journal, at as u64);
        at
    };
    let mut group = criterion.benchmark_group("head/1360 slots");
    group.throughput(Throughput::Elements(SLOTS as u64));
    group.bench_function("append and log", |bencher| bencher.iter(|| append(&mut head)));
    let now = append(&mut head);
    let name = Matcher::new("__name__", MatchOp::Equal, "http_server_requests_f7_seconds_bucket").expect("no regex");
    let le = Matcher::new("le", MatchOp::Equal, "7").expect("no regex");
    group.bench_function("one series of the open segment", |bencher| {
        let matchers = [name.clone(), le.clone()];
        bencher.iter(|| {
            let matching = |group: &Arc<SlotGroup>| group.matching(&matchers, &Labels::empty()).into();
            let mut samples = 0;
            let found = |_: &Arc<SlotGroup>, _: u32, of_slot: &[Sample]| samples += of_slot.len();
            head.range(Timestamp(0), Timestamp(now), u64::MAX, matching, found).expect("own rows");
            samples
        });
    });
    let every: Rc<[u32]> = (0..40).collect();
    group.bench_function("newest of all", |bencher| {
        bencher.iter(|| {
            let mut sum = 0.0;
            let found = |_: &Arc<SlotGroup>, _: u32, sample: Sample| sum += sample.value;
            head.instant(Timestamp(now - 5_000), Timestamp(now), u64::MAX, Elsewhere::Chunks, |_| every.clone(), found)
                .expect("own rows");
            sum
        });
    });
    while closed.borrow().is_none() {
        append(&mut head);
    }
    let closed: Arc<Closed> = closed.take().expect("looked at above");
    group.throughput(Throughput::Elements((SLOTS * closed.segment.rows()) as u64));
    group.bench_function("segment into chunks", |bencher| {
        bencher.iter(|| encode_segment(&closed.segment, 7_200_000).parts[0].entries.len())
    });
    group.finish();
}

/// Takes what the log writes and throws it away.
fn discard(journal: &mut Journal, now_ms: u64) {
    let Some(writer) = journal.writer_mut() else { return };
    while let Some(action) = writer.next(now_ms, false) {
        let outcome = if let Action::Write { bytes, .. } = &action { bytes.len() } else { 0 };
        writer.done(&action, Ok(outcome), now_ms);
    }
}

criterion_group!(ingest, benches);
criterion_main!(ingest);
