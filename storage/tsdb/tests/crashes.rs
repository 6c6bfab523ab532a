//! A log on a simulated disk that crashes at every operation and keeps any part of what was not synced.
//!
//! The model: what was synced is there after a crash; of every 512 bytes that were written since, the old ones, the new
//! ones, zeros or a torn half are. A name that was created is durable (the log asks for that before it writes).
//! `RINGSCRAPE_CRASH_SEEDS` asks for more seeds.

use series::histogram::BucketCount;
use series::{Histogram, Labels, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use tsdb::log::{Action, FileId, Journal, Options, TargetKey, Writer};
use tsdb::log_reader::{Replay, Restored, replay_file};
use tsdb::{AppendScratch, GroupBuilder, HistogramHead, HistogramSample, SegmentLimits, SlotGroup, TargetHead};

const SECTOR: usize = 512;
const TARGETS: usize = 3;
const SLOTS: usize = 70;
/// Whose histograms there are, besides.
const HISTOGRAMS: u64 = 99;

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    }
}

#[derive(Clone, Default)]
struct SimFile {
    durable: Vec<u8>,
    written: Vec<u8>,
}

/// Files in memory, and what goes wrong with them.
struct SimDisk {
    files: BTreeMap<FileId, SimFile>,
    operations: u64,
    /// This operation fails, and so do some after it.
    fail_at: u64,
    fail_until: u64,
}

impl SimDisk {
    fn new(fail_at: u64, fail_until: u64) -> SimDisk {
        SimDisk { files: BTreeMap::new(), operations: 0, fail_at, fail_until }
    }

    fn carry_out(&mut self, action: &Action, next: &mut impl FnMut(u64) -> u64) -> Result<usize, String> {
        self.operations += 1;
        let fails = (self.fail_at..self.fail_until).contains(&self.operations);
        match action {
            Action::Create(id) => {
                if fails {
                    return Err("no space".into());
                }
                assert!(self.files.insert(*id, SimFile::default()).is_none(), "{id} is created once");
                Ok(0)
            }
            Action::Write { file, offset, bytes } => {
                let file = self.files.get_mut(file).expect("created before");
                assert_eq!(file.written.len() as u64, *offset, "writes are appends");
                // Short writes are ordinary, and a failed one may have written something.
                let taken = if next(8) == 0 || fails { next(bytes.len() as u64 + 1) as usize } else { bytes.len() };
                file.written.extend_from_slice(&bytes[..taken]);
                if fails {
                    Err("no space".into())
                } else {
                    Ok(taken.max(1).min(bytes.len())).inspect(|count| {
                        if *count > taken {
                            file.written.push(bytes[0]);
                        }
                    })
                }
            }
            Action::Sync(file) => {
                if fails {
                    // After a failed sync nobody knows what is there.
                    return Err("input/output error".into());
                }
                let file = self.files.get_mut(file).expect("created before");
                file.durable = file.written.clone();
                Ok(0)
            }
            Action::Close(_) => Ok(0),
        }
    }

    /// What a crash leaves.
    fn crash(&self, next: &mut impl FnMut(u64) -> u64) -> Vec<(FileId, Vec<u8>)> {
        let image = |file: &SimFile| {
            let mut bytes = file.durable.clone();
            let length = file.durable.len() + next((file.written.len() - file.durable.len()) as u64 + 1) as usize;
            bytes.resize(length, 0);
            let first = file.durable.len() / SECTOR;
            for sector in first..length.div_ceil(SECTOR) {
                let from = (sector * SECTOR).max(file.durable.len());
                let to = ((sector + 1) * SECTOR).min(length);
                match next(4) {
                    0 => {}
                    1 => bytes[from..to].copy_from_slice(&file.written[from..to]),
                    2 => bytes[from..to].fill(0),
                    _ => {
                        let half = from + (to - from) / 2;
                        bytes[from..half].copy_from_slice(&file.written[from..half]);
                    }
                }
            }
            bytes
        };
        let mut image = image;
        self.files.iter().map(|(id, file)| (*id, image(file))).collect()
    }
}

/// By target and time: the values of a row, or how many each bucket of a histogram counts.
type Truth = BTreeMap<(u64, i64), Vec<u64>>;

struct Rig {
    journal: Journal,
    heads: Vec<TargetHead>,
    histograms: HistogramHead,
    scratch: AppendScratch,
    values: Vec<Vec<f64>>,
    /// By target and time: the values, and the position of the row.
    truth: Truth,
    positions: Vec<(u64, u64, i64)>,
}

fn group() -> Arc<SlotGroup> {
    let mut builder = GroupBuilder::default();
    for i in 0..SLOTS {
        builder.push(&Labels::from_pairs([("__name__", format!("metric_{i}").as_str())]), false);
    }
    Arc::new(builder.build())
}

impl Rig {
    fn new(options: Options) -> Rig {
        let group = group();
        let limits = SegmentLimits { rows_max: 12, ..SegmentLimits::default() };
        let heads = (0..TARGETS as u64).map(|id| {
            let labels = Labels::from_pairs([("instance", id.to_string().as_str())]);
            let mut head = TargetHead::new(TargetKey { id, labels }, limits, id * 5);
            head.replace(std::slice::from_ref(&group));
            head
        });
        Rig {
            journal: Journal::new(Writer::new(FileId { boot: 1, writer: 0, sequence: 1 }, options)),
            heads: heads.collect(),
            histograms: HistogramHead::new(histograms_key(), limits),
            scratch: AppendScratch::default(),
            values: vec![vec![0.0; SLOTS]; TARGETS],
            truth: Truth::new(),
            positions: Vec::new(),
        }
    }

    fn scrape(&mut self, target: usize, at: i64, next: &mut impl FnMut(u64) -> u64) {
        let values = &mut self.values[target];
        for value in values.iter_mut() {
            if next(3) == 0 {
                *value += next(1000) as f64;
            }
        }
        self.heads[target].append(Timestamp(at), values, &[], false, &mut self.journal, &mut self.scratch).unwrap();
        self.truth.insert((target as u64, at), values.iter().map(|value| value.to_bits()).collect());
        let position = self.journal.writer().unwrap().appended();
        self.positions.push((position, target as u64, at));
        // Segments that are closed stay needed: nothing is sealed here.
    }

    /// Histograms of two series at one time; the first begins another group now and then.
    fn observe(&mut self, at: i64, next: &mut impl FnMut(u64) -> u64) {
        if self.histograms.series() == 0 || next(10) == 0 {
            let labels = |i: u64| Labels::from_pairs([("__name__", format!("h{i}").as_str())]);
            let known = self.histograms.series() as u64;
            self.histograms.add(&[labels(known), labels(known + 1)]);
        }
        let last = self.histograms.series() as u32 - 1;
        let counts: Vec<u64> = (0..4).map(|_| 1 + next(1000)).collect();
        let buckets = (0..).zip(&counts).map(|(index, count)| BucketCount { index, count: *count as f64 });
        let histogram = Histogram { count: at as f64, positive: buckets.collect(), ..Histogram::default() };
        let histogram = Arc::new(histogram);
        let given = |series| HistogramSample { series, at, start: 0, histogram: histogram.clone() };
        let samples = [0, last].map(given);
        self.histograms.append(&samples, &mut self.journal);
        self.truth.insert((HISTOGRAMS, at), [&counts[..], &counts[..]].concat());
        self.positions.push((self.journal.writer().unwrap().appended(), HISTOGRAMS, at));
    }
}

fn histograms_key() -> TargetKey {
    TargetKey { id: HISTOGRAMS, labels: Labels::empty() }
}

/// Replays an image; every row read must be one that was written, once.
fn recover(image: &[(FileId, Vec<u8>)], truth: &Truth) -> Truth {
    let mut replay = Replay::default();
    for (id, bytes) in image {
        replay_file(*id, &mut bytes.clone(), &mut replay);
    }
    let mut found = Truth::new();
    let (mut segments, mut histograms) = (Vec::new(), Vec::new());
    let mut recovered = replay.finish();
    let mut read = |file: FileId, offset: u64, into: &mut [u8]| {
        let (_, bytes) = image.iter().find(|(id, _)| *id == file).expect("a file of the image");
        into.copy_from_slice(&bytes[offset as usize..offset as usize + into.len()]);
        Ok(())
    };
    while let Some((key, restored, _)) = recovered.next(&mut read).unwrap() {
        match restored {
            Restored::Floats(segment) => segments.push((key, segment)),
            Restored::Histograms(segment) => histograms.push((key, segment)),
        }
    }
    for (key, segment) in histograms {
        let mut head = HistogramHead::new(key.clone(), SegmentLimits::default());
        head.adopt(segment);
        let every = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect();
        let mut rows: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
        head.range(Timestamp(0), Timestamp(i64::MAX), u64::MAX, every, |_, _, samples| {
            for (at, histogram) in samples {
                assert_eq!(histogram.count, at as f64);
                rows.entry(at).or_default().extend(histogram.positive.iter().map(|bucket| bucket.count as u64));
            }
        });
        for (at, row) in rows {
            assert_eq!(truth.get(&(key.id, at)), Some(&row), "histograms at {at} are altered");
            assert!(found.insert((key.id, at), row).is_none(), "histograms at {at} are there twice");
        }
    }
    for (key, segment) in segments {
        let mut head = TargetHead::new(key.clone(), SegmentLimits::default(), 0);
        head.adopt(segment);
        let mut rows: BTreeMap<i64, BTreeMap<u32, u64>> = BTreeMap::new();
        let every = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect();
        head.range(Timestamp(0), Timestamp(i64::MAX), u64::MAX, every, |_, slot, samples| {
            for sample in samples {
                rows.entry(sample.timestamp.0).or_default().insert(slot, sample.value.to_bits());
            }
        })
        .unwrap();
        for (at, row) in rows {
            let row: Vec<u64> = row.into_values().collect();
            assert_eq!(truth.get(&(key.id, at)), Some(&row), "target {} at {at} is altered", key.id);
            assert!(found.insert((key.id, at), row).is_none(), "target {} at {at} is there twice", key.id);
        }
    }
    found
}

#[test]
fn crashes_lose_nothing_durable() {
    let seeds: u64 = std::env::var("RINGSCRAPE_CRASH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let mut images = 0u64;
    let mut lost_unsynced = 0u64;
    for seed in 0..seeds {
        let mut next = random(seed);
        let (fail_at, fails) = (10 + next(200), next(5));
        let mut disk = SimDisk::new(fail_at, fail_at + fails);
        let options = Options {
            file_bytes_max: 3_000 + next(20_000),
            sync_interval_ms: [0, 100, 1000][next(3) as usize],
            ..Options::default()
        };
        let mut rig = Rig::new(options);
        let mut now_ms = 0u64;
        for step in 0..60i64 {
            now_ms += 50;
            rig.journal.set_now(now_ms);
            for target in 0..TARGETS {
                if next(3) > 0 {
                    rig.scrape(target, 1_000 + step * 50 + target as i64, &mut next);
                }
            }
            if next(2) == 0 {
                rig.observe(1_000 + step * 50, &mut next);
            }
            while let Some(action) = rig.journal.writer_mut().unwrap().next(now_ms, false) {
                let outcome = disk.carry_out(&action, &mut next);
                let failed = outcome.is_err();
                rig.journal.writer_mut().unwrap().done(&action, outcome, now_ms);
                // A crash may come at any time.
                for _ in 0..6 {
                    let image = disk.crash(&mut next);
                    let found = recover(&image, &rig.truth);
                    let durable = rig.journal.writer().unwrap().durable();
                    for (position, target, at) in &rig.positions {
                        let there = found.contains_key(&(*target, *at));
                        assert!(there || *position > durable, "seed {seed}: target {target} at {at} was durable");
                        lost_unsynced += u64::from(!there);
                    }
                    images += 1;
                }
                if failed {
                    break;
                }
            }
        }
        assert_eq!(rig.journal.writer().unwrap().discarded(), 0);
    }
    assert!(images >= seeds * 500, "{images} images");
    assert!(lost_unsynced > 0, "the disk is not harsh enough to prove anything");
    println!("{images} crash images of {seeds} seeds");
}

/// A kill leaves everything that was written, whatever fails: nothing visible is lost, with every operation failing once.
#[test]
fn every_operation_may_fail_once() {
    for fail_at in 1..120 {
        let mut next = random(fail_at);
        let mut disk = SimDisk::new(fail_at, fail_at + 1);
        let mut rig = Rig::new(Options { sync_interval_ms: 100, file_bytes_max: 8_000, ..Options::default() });
        for step in 0..60i64 {
            let now_ms = 50 * (step as u64 + 1);
            rig.journal.set_now(now_ms);
            // Time enough at the end for what failed last.
            if step < 40 {
                (0..TARGETS).for_each(|target| rig.scrape(target, 1_000 + step * 50 + target as i64, &mut next));
                rig.observe(1_000 + step * 50, &mut next);
            }
            while let Some(action) = rig.journal.writer_mut().unwrap().next(now_ms, false) {
                let outcome = disk.carry_out(&action, &mut next);
                rig.journal.writer_mut().unwrap().done(&action, outcome, now_ms);
            }
        }
        let writer = rig.journal.writer().unwrap();
        assert_eq!((writer.failing(), writer.discarded()), (None, 0), "operation {fail_at}");
        let visible = writer.visible();
        let image: Vec<(FileId, Vec<u8>)> = disk.files.iter().map(|(id, file)| (*id, file.written.clone())).collect();
        let found = recover(&image, &rig.truth);
        for (position, target, at) in &rig.positions {
            assert!(
                *position > visible || found.contains_key(&(*target, *at)),
                "operation {fail_at}: {target} at {at}"
            );
        }
    }
}

/// A disk that stays full costs what passes the bound, is told, and both sides of the gap are there.
#[test]
fn long_failure_is_bounded() {
    let mut next = random(7);
    let mut disk = SimDisk::new(30, 600);
    let options = Options { kept_bytes_max: 20_000, sync_interval_ms: 100, ..Options::default() };
    let mut rig = Rig::new(options);
    for step in 0..4000i64 {
        let now_ms = 50 * (step as u64 + 1);
        rig.journal.set_now(now_ms);
        (0..TARGETS).for_each(|target| rig.scrape(target, 1_000 + step * 50 + target as i64, &mut next));
        while let Some(action) = rig.journal.writer_mut().unwrap().next(now_ms, false) {
            let outcome = disk.carry_out(&action, &mut next);
            rig.journal.writer_mut().unwrap().done(&action, outcome, now_ms);
        }
        // A core does not hold what is long past.
        disk.operations = disk.operations.max(if step > 3000 { 600 } else { 0 });
    }
    let writer = rig.journal.writer().unwrap();
    assert!(writer.discarded() > 1000 && writer.failing().is_none(), "{} discarded", writer.discarded());
    assert!(writer.epoch() > 0);
    let image: Vec<(FileId, Vec<u8>)> = disk.files.iter().map(|(id, file)| (*id, file.written.clone())).collect();
    let found = recover(&image, &rig.truth);
    let last = 1_000 + 3999 * 50;
    assert!(found.contains_key(&(0, 1_000)), "before the gap");
    assert!(found.contains_key(&(0, last - 50 * 20)), "after the gap");
}
