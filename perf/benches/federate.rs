//! Both ends of a federation: writing samples as /federate does, and what a hub does with half a million of them, beside
//! the same lines without times of their own.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use exposition::{
    Escaping, Format, LayoutPart, Readings, ScanProgress, ScanResult, Template, walk, write_sample, write_type,
};
use perf::Random;
use series::{Labels, Timestamp};
use std::sync::Arc;
use tsdb::log::{Action, FileId, Journal, Options, TargetKey, Writer};
use tsdb::{AppendScratch, GroupBuilder, SegmentLimits, SlotGroup, TargetHead, encode_segment};

const SAMPLES: usize = 1_360;

fn benches(criterion: &mut Criterion) {
    let labels: Vec<Vec<(String, String)>> = (0..SAMPLES)
        .map(|at| {
            let pairs = [("instance", "10.1.2.3:9100".to_owned()), ("job", "node".to_owned()), ("le", at.to_string())];
            pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
        })
        .collect();
    let mut out = String::with_capacity(1 << 20);
    let mut group = criterion.benchmark_group("federate");
    group.throughput(Throughput::Elements(SAMPLES as u64));
    for (name, family, escaping) in [
        ("plain names", "http_server_requests_seconds_bucket", Escaping::Underscores),
        ("names with dots, escaped", "http.server.requests", Escaping::Values),
        ("names with dots, quoted", "http.server.requests", Escaping::AllowUtf8),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                write_type(family, "untyped", escaping, &mut out);
                for (at, labels) in labels.iter().enumerate() {
                    let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                    write_sample(family, labels, at as f64 * 1.5, Some(1_700_000_000_000), escaping, &mut out);
                }
                out.len()
            });
        });
    }
    group.finish();
}

/// Lines of an edge's answer; few when nothing is measured.
fn lines() -> usize {
    if std::env::args().any(|argument| argument == "--bench") { 500_000 } else { 5_000 }
}

const INSTANCES: usize = 250;
const START_MS: i64 = 1_700_000_000_000;
const INTERVAL_MS: i64 = 15_000;

/// An edge's answer at an interval, as its lines come: name by name, each instance with its time. Of the values, two in
/// five have changed.
fn answer(interval: i64, stamped: bool) -> String {
    let mut out = String::new();
    let mut random = Random::new(7);
    for at in 0..lines() {
        let (name, instance) = (format!("job_{}:requests:rate5m", at / INSTANCES), at % INSTANCES);
        if instance == 0 {
            write_type(&name, "untyped", Escaping::Underscores, &mut out);
        }
        let grows = random.below(5) < 2;
        let value = random.below(1_000_000) as f64 / 8.0 + if grows { interval as f64 } else { 0.0 };
        let instance = format!("10.1.{}.{}:9100", instance / 100, instance % 100);
        let labels = [("instance", &*instance), ("job", "node"), ("region", "eu-central"), ("severity", "critical")];
        let stamp = stamped.then_some(START_MS + interval * INTERVAL_MS - (at % INSTANCES) as i64 * 37);
        write_sample(&name, labels.into_iter(), value, stamp, Escaping::Underscores, &mut out);
    }
    out
}

fn shape_of(body: &str, readings: &mut Readings) -> Vec<Template> {
    let ScanProgress::Unfinished(mut walker) = walk::<Template>(&[], Format::Text, body.as_bytes(), readings) else {
        return Vec::new();
    };
    while walker.step() {}
    let ScanResult::Changed { pieces, .. } = walker.finish() else { return Vec::new() };
    let new = |piece| match piece {
        LayoutPart::New(template) => template,
        LayoutPart::Known(_) => unreachable!("nothing was known"),
    };
    pieces.into_iter().map(new).collect()
}

fn groups(shape: &[Template]) -> Vec<Arc<SlotGroup>> {
    let group = |template: &Template| {
        let mut builder = GroupBuilder::default();
        for line in 0..template.len() {
            let labels = exposition::labels(template.raw(line), exposition::Kind::Unknown);
            let labels = Labels::from_pairs(labels.iter().map(|(name, value)| (&**name, &**value)));
            builder.push(&labels, template.is_stamped(line));
        }
        Arc::new(builder.build())
    };
    shape.iter().map(group).collect()
}

/// Takes what the log writes and throws it away.
fn discard(journal: &mut Journal, now_ms: u64) {
    let Some(writer) = journal.writer_mut() else { return };
    while let Some(action) = writer.next(now_ms, false) {
        let outcome = if let Action::Write { bytes, .. } = &action { bytes.len() } else { 0 };
        writer.done(&action, Ok(outcome), now_ms);
    }
}

fn hub(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hub");
    group.sample_size(10);
    for (what, stamped) in [("with times of their own", true), ("without", false)] {
        let bodies: Vec<String> = (1..4).map(|interval| answer(interval, stamped)).collect();
        let mut readings = Readings::default();
        let shape = shape_of(&bodies[0], &mut readings);
        group.throughput(Throughput::Elements(lines() as u64));
        group.bench_function(format!("scan, lines {what}"), |bencher| {
            bencher.iter(|| match walk(&shape, Format::Text, bodies[1].as_bytes(), &mut readings) {
                ScanProgress::Warm => {}
                ScanProgress::Unfinished(mut walker) => while walker.step() {},
            });
        });
        let key = TargetKey { id: 1, labels: Labels::from_pairs([("instance", "edge:9090"), ("job", "federate")]) };
        let mut head = TargetHead::new(key, SegmentLimits::default(), 60);
        let mut journal = Journal::new(Writer::new(FileId { boot: 1, writer: 0, sequence: 1 }, Options::default()));
        let mut scratch = AppendScratch::default();
        head.replace(&groups(&shape));
        let rows: Vec<(Vec<f64>, Vec<i64>)> = bodies
            .iter()
            .map(|body| {
                shape_of(body, &mut readings);
                let newest = readings.stamps.first().copied().unwrap_or(0);
                (readings.values.clone(), readings.stamps.iter().map(|stamp| stamp - newest).collect())
            })
            .collect();
        let (mut now, mut stamps, mut closed) = (START_MS, Vec::new(), None);
        let mut append = || {
            now += INTERVAL_MS;
            let (values, behind) = &rows[(now / INTERVAL_MS) as usize % rows.len()];
            stamps.clear();
            stamps.extend(behind.iter().map(|behind| now + behind));
            head.append(Timestamp(now), values, &stamps, true, &mut journal, &mut scratch).expect("time goes on");
            head.take_closed(|segment| {
                segment.mark_flushed();
                closed = Some(segment);
            });
            head.drop_flushed();
            discard(&mut journal, now as u64);
            closed.is_some()
        };
        group.bench_function(format!("row and log, lines {what}"), |bencher| bencher.iter(&mut append));
        while !append() {}
        let closed = closed.expect("looked at above");
        group.throughput(Throughput::Elements((lines() * closed.segment.rows()) as u64));
        group.bench_function(format!("segment into chunks, lines {what}"), |bencher| {
            bencher.iter(|| encode_segment(&closed.segment, 7_200_000).parts[0].entries.len());
        });
    }
    group.finish();
}

criterion_group!(federate, benches, hub);
criterion_main!(federate);
