//! A log that is written to real files and followed meanwhile: every sample and every marker comes out once.

use series::{Histogram, Labels, STALE_NAN, Timestamp};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tsdb::log::{Action, FileId, Journal, Options, RetainedLogs, TargetKey, Writer};
use tsdb::log_reader::{BatchOffset, Tail, TailLosses, TailStatus};
use tsdb::{
    AppendScratch, GroupBuilder, HistogramHead, HistogramSample, NotedStarts, SegmentLimits, SlotGroup, TargetHead,
};

const LOG: (u32, u16) = (3, 1);
const START: BatchOffset = BatchOffset { sequence: 1, offset: 0 };

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    }
}

fn group(names: &[String], stamped: bool) -> Arc<SlotGroup> {
    let mut builder = GroupBuilder::default();
    for name in names {
        builder.push(&Labels::from_pairs([("__name__", name.as_str())]), stamped);
    }
    Arc::new(builder.build())
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}{i}")).collect()
}

fn journal(file_age_ms_max: u64) -> Journal {
    let first = FileId { boot: LOG.0, writer: LOG.1, sequence: 1 };
    Journal::new(Writer::new(first, Options { file_age_ms_max, ..Options::default() }))
}

/// Hands over what the log has to write; a sync that fails makes it write all of it again, to another file.
fn write_out(journal: &mut Journal, folder: &Path, now_ms: u64, mut sync_fails: impl FnMut() -> bool) {
    journal.set_now(now_ms);
    let writer = journal.writer_mut().expect("a log that is written");
    while let Some(action) = writer.next(now_ms, true) {
        let open = |id: &FileId| {
            let path = folder.join(id.to_string());
            std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a file")
        };
        let outcome = match &action {
            Action::Create(id) => {
                open(id);
                Ok(0)
            }
            Action::Write { file, bytes, .. } => {
                open(file).write_all(bytes).expect("written");
                Ok(bytes.len())
            }
            Action::Sync(_) if sync_fails() => Err("input/output error".to_owned()),
            Action::Sync(_) | Action::Close(_) => Ok(0),
        };
        writer.done(&action, outcome, now_ms);
    }
}

/// Series by target and name: time to the bits of the value.
type Series = BTreeMap<(u64, String), BTreeMap<i64, u64>>;

fn tail(folder: &Path, first: u32, from: BatchOffset) -> Tail {
    Tail::new(folder, LOG, true, first, from)
}

/// Reads to the end of what there is; a sample that comes twice is a mistake.
fn read(tail: &mut Tail, series: &mut Series) {
    loop {
        let told = |told: tsdb::log_reader::TailSample| {
            let name = told.group.metric_name(told.slot).to_owned();
            let of_series = series.entry((told.target.id, name)).or_default();
            // Of a histogram its count.
            let value = told.histogram.map_or(told.sample.value, |histogram| histogram.count);
            let before = of_series.insert(told.sample.timestamp.0, value.to_bits());
            assert_eq!(before, None, "{} at {}", told.group.metric_name(told.slot), told.sample.timestamp.0);
        };
        if tail.read(told).unwrap() == TailStatus::End {
            return;
        }
    }
}

struct Source {
    head: TargetHead,
    id: u64,
    alive: Vec<String>,
}

impl Source {
    fn new(id: u64) -> Source {
        let key = TargetKey { id, labels: Labels::from_pairs([("job", "j")]) };
        // The log is the same whether heads keep their rows or not.
        let limits = SegmentLimits { rows_max: 6, log_only: id % 2 == 1, ..SegmentLimits::default() };
        Source { head: TargetHead::new(key, limits, id), id, alive: vec![] }
    }

    /// A scrape, and what it says in the truth. `fails` ends all.
    fn scrape(
        &mut self,
        at: i64,
        fails: bool,
        value: &mut impl FnMut() -> f64,
        journal: &mut Journal,
        truth: &mut Series,
    ) {
        let mut scratch = AppendScratch::default();
        let mut alive = Vec::new();
        let mut tell = |name: &str, value: f64| {
            truth.entry((self.id, name.to_owned())).or_default().insert(at, value.to_bits());
        };
        if fails {
            self.head.append_failed(Timestamp(at), 0, &[], false, journal, &mut scratch).unwrap();
        } else {
            let mut values = Vec::new();
            for group in self.head.groups() {
                for slot in 0..group.len() {
                    values.push(value());
                    alive.push(group.metric_name(slot).to_owned());
                    tell(group.metric_name(slot), values[values.len() - 1]);
                }
            }
            self.head.append(Timestamp(at), &values, &[], false, journal, &mut scratch).unwrap();
        }
        self.alive.iter().filter(|name| !alive.contains(name)).for_each(|name| tell(name, STALE_NAN));
        self.alive = alive;
    }
}

#[test]
fn every_sample_comes_out_once() {
    for seed in 0..40 {
        let mut next = random(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(2_000);
        // Groups overlap in their names, so that series move between them.
        let pool: Vec<_> = (0..6)
            .map(|i| {
                let mut list = names("m", 5 + 13 * i);
                list.drain(..i);
                list.extend(names(&format!("own{i}_"), 30));
                group(&list, false)
            })
            .collect();
        let mut sources: Vec<Source> = (1..4).map(Source::new).collect();
        let (mut truth, mut told) = (Series::new(), Series::new());
        let mut following = tail(folder.path(), 1, START);
        let mut at = 1_000;
        for _ in 0..300 {
            at += 1 + next(100) as i64;
            let source = &mut sources[next(3) as usize];
            if next(8) == 0 || source.head.groups().next().is_none() {
                let mut groups = vec![pool[next(6) as usize].clone()];
                if next(2) == 0 {
                    groups.insert(0, group(&names(&format!("fresh{at}_"), 40), false));
                }
                source.head.replace(&groups);
            }
            let fails = next(12) == 0;
            source.scrape(at, fails, &mut || next(50) as f64 / 4.0, &mut journal, &mut truth);
            if next(10) == 0 {
                write_out(&mut journal, folder.path(), at as u64, || next(3) == 0);
            }
            match next(10) {
                0..3 => read(&mut following, &mut told),
                // Somebody else goes on where it stands, with the files that it says it needs.
                3 => {
                    let first = following.first_needed();
                    following = tail(folder.path(), first, following.border());
                    let log = RetainedLogs::new("", folder.path());
                    for file in log.files().unwrap().remove(&LOG).into_iter().flatten() {
                        if file.sequence < first {
                            log.remove(file).unwrap();
                        }
                    }
                }
                _ => {}
            }
        }
        write_out(&mut journal, folder.path(), at as u64 + 60_000, || false);
        read(&mut following, &mut told);
        assert_eq!(told.len(), truth.len(), "seed {seed}");
        for (series, samples) in &truth {
            assert_eq!(told.get(series), Some(samples), "seed {seed}: {series:?}");
        }
        assert_eq!(following.losses(), TailLosses::default(), "seed {seed}");
        assert!(following.border().sequence > 2, "several files: {:?}", following.border());
    }
}

#[test]
fn samples_with_times_of_their_own_have_them() {
    [false, true].into_iter().for_each(check_samples_with_times);
}

fn check_samples_with_times(log_only: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(600_000);
    let limits = SegmentLimits { late_ms: 10_000, log_only, ..SegmentLimits::default() };
    let key = TargetKey { id: 1, labels: Labels::empty() };
    let mut head = TargetHead::new(key, limits, 0);
    head.replace(&[group(&names("a", 2), true), group(&names("b", 1), false)]);
    let mut scratch = AppendScratch::default();
    // The third is the second again; the fourth comes late.
    for (at, stamps) in
        [(20_000, [15_000, 16_000]), (21_000, [17_000, 18_000]), (22_000, [17_000, 19_000]), (23_000, [16_500, 20_000])]
    {
        let values = [at as f64, at as f64 + 1.0, at as f64 + 2.0];
        head.append(Timestamp(at), &values, &stamps, false, &mut journal, &mut scratch).unwrap();
    }
    write_out(&mut journal, folder.path(), 0, || false);
    let mut told = Series::new();
    read(&mut tail(folder.path(), 1, START), &mut told);
    let of = |id: u64, name: &str| {
        let samples = told.get(&(id, name.to_owned())).into_iter().flatten();
        samples.map(|(at, bits)| (*at, f64::from_bits(*bits))).collect::<Vec<_>>()
    };
    assert_eq!(of(1, "a0"), [(15_000, 20_000.0), (17_000, 21_000.0)]);
    assert_eq!(of(!1, "a0"), [(16_500, 23_000.0)], "the late one");
    assert_eq!(of(1, "a1"), [(16_000, 20_001.0), (18_000, 21_001.0), (19_000, 22_001.0), (20_000, 23_001.0)]);
    assert_eq!(of(1, "b0"), [20_000, 21_000, 22_000, 23_000].map(|at| (at, at as f64 + 2.0)));
}

/// Histograms come with the times that they have, also to one who goes on in the middle of a segment.
#[test]
fn histograms_come_out_once() {
    [false, true].into_iter().for_each(check_histograms);
}

fn check_histograms(log_only: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(2_000);
    let limits = SegmentLimits { rows_max: 5, log_only, ..SegmentLimits::default() };
    let mut head = HistogramHead::new(TargetKey { id: 7, labels: Labels::from_pairs([("job", "j")]) }, limits);
    let labels = |name: &String| Labels::from_pairs([("__name__", name.as_str())]);
    head.add(&names("h", 3).iter().map(labels).collect::<Vec<_>>());
    let (mut truth, mut told) = (Series::new(), Series::new());
    let mut following = tail(folder.path(), 1, START);
    for round in 0..60i64 {
        if round == 20 {
            // A group that the open segment gets later.
            head.add(&names("more", 70).iter().map(labels).collect::<Vec<_>>());
        }
        let mut row = Vec::new();
        for series in 0..head.series() as u32 {
            let at = 1_000 * round + i64::from(series);
            // Each has one sample, and the first a second one.
            for at in if series == 0 { vec![at, at + 500] } else { vec![at] } {
                let count = (round + i64::from(series)) as f64;
                let name = if series < 3 { format!("h{series}") } else { format!("more{}", series - 3) };
                truth.entry((7, name)).or_default().insert(at, count.to_bits());
                let histogram = Arc::new(Histogram { count, zero_count: count, ..Histogram::default() });
                row.push(HistogramSample { series, at, start: 0, histogram });
            }
        }
        head.append(&row, &mut journal);
        write_out(&mut journal, folder.path(), 1_000 * round as u64, || false);
        if round % 3 == 0 {
            read(&mut following, &mut told);
        }
        if round % 7 == 0 {
            following = tail(folder.path(), following.first_needed(), following.border());
        }
    }
    read(&mut following, &mut told);
    assert_eq!(told, truth);
    assert_eq!(following.losses(), TailLosses::default());
}

/// Start times come with the samples that have them, whoever reads, and wherever it begins to.
#[test]
fn start_times_come_with_their_samples() {
    for seed in 0..20 {
        check_start_times(seed);
    }
}

fn check_start_times(seed: u64) {
    let mut next = random(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(2_000);
    let limits = SegmentLimits { rows_max: 7, log_only: seed % 2 == 1, ..SegmentLimits::default() };
    let mut head = TargetHead::new(TargetKey { id: 1, labels: Labels::empty() }, limits, seed);
    let mut histograms = HistogramHead::new(TargetKey { id: 2, labels: Labels::empty() }, limits);
    histograms.add(&[Labels::from_pairs([("__name__", "h")])]);
    let pool = [group(&names("a", 70), false), group(&names("b", 3), true), group(&names("c", 9), false)];
    // By name and time; what each slot has now.
    let (mut truth, mut now) = (BTreeMap::new(), BTreeMap::<String, i64>::new());
    let (mut told, mut of_histogram) = (BTreeMap::new(), 0);
    let (mut following, mut scratch) = (tail(folder.path(), 1, START), AppendScratch::default());
    head.replace(&pool[..2]);
    for round in 1..120i64 {
        let at = round * 1_000;
        let mut is_whole = next(8) == 0;
        if next(15) == 0 {
            let (from, to) = [(0, 2), (1, 3), (0, 3)][next(3) as usize];
            head.replace(&pool[from..to]);
            // As scrapes do: what comes back may have begun anew.
            is_whole = true;
        }
        let groups: Vec<Arc<SlotGroup>> = head.groups().cloned().collect();
        let mut slots = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            for slot in 0..group.len() {
                let name = group.metric_name(slot).to_owned();
                if next(if is_whole { 2 } else { 30 }) == 0 {
                    let start = if next(4) == 0 { 0 } else { at - next(5_000) as i64 };
                    slots.push((number as u32, slot as u32, start));
                    now.insert(name, start);
                } else if is_whole {
                    now.remove(&name);
                }
            }
        }
        if is_whole {
            now.retain(|name, _| {
                groups.iter().any(|group| (0..group.len()).any(|slot| group.metric_name(slot) == name))
            });
        }
        if is_whole || !slots.is_empty() {
            head.note_starts(NotedStarts { slots, is_whole });
        }
        let count: usize = groups.iter().map(|group| group.len()).sum();
        let stamps: Vec<i64> =
            groups.iter().flat_map(|group| vec![at - 100; if group.any_stamped() { group.len() } else { 0 }]).collect();
        for group in &groups {
            let stamp = if group.any_stamped() { at - 100 } else { at };
            for slot in 0..group.len() {
                let name = group.metric_name(slot).to_owned();
                let start = now.get(&name).copied().unwrap_or(0);
                truth.insert((name, stamp), start);
            }
        }
        head.append(Timestamp(at), &vec![round as f64; count], &stamps, false, &mut journal, &mut scratch).unwrap();
        let mut row = Vec::new();
        for at in [at, at + 500] {
            if next(3) == 0 {
                of_histogram = at - next(900) as i64;
            }
            truth.insert(("h".to_owned(), at), of_histogram);
            let histogram = Arc::new(Histogram { count: 1.0, zero_count: 1.0, ..Histogram::default() });
            row.push(HistogramSample { series: 0, at, start: of_histogram, histogram });
        }
        histograms.append(&row, &mut journal);
        write_out(&mut journal, folder.path(), at as u64, || next(9) == 0);
        if next(6) == 0 {
            following = tail(folder.path(), following.first_needed(), following.border());
        }
        let mut tell = |one: tsdb::log_reader::TailSample| {
            if !series::is_stale(one.sample.value) {
                told.insert((one.group.metric_name(one.slot).to_owned(), one.sample.timestamp.0), one.start);
            }
        };
        while next(3) > 0 && following.read(&mut tell).unwrap() == TailStatus::More {}
    }
    write_out(&mut journal, folder.path(), 1_000_000, || false);
    let mut tell = |one: tsdb::log_reader::TailSample| {
        if !series::is_stale(one.sample.value) {
            told.insert((one.group.metric_name(one.slot).to_owned(), one.sample.timestamp.0), one.start);
        }
    };
    while following.read(&mut tell).unwrap() == TailStatus::More {}
    assert_eq!(told.len(), truth.len(), "seed {seed}");
    for (sample, start) in &truth {
        assert_eq!(told.get(sample), Some(start), "seed {seed}: {sample:?}");
    }
    assert!(truth.values().filter(|start| **start != 0).count() > 500, "seed {seed}");
}

/// Where the log alone is read, memory has one value for each series however long it goes on, and a segment ends in time.
#[test]
fn a_head_for_the_log_alone_keeps_no_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(600_000);
    let limits = SegmentLimits { log_only: true, ..SegmentLimits::default() };
    let mut head = TargetHead::new(TargetKey { id: 4, labels: Labels::empty() }, limits, 60);
    head.replace(&[group(&names("a", 1000), false)]);
    let mut scratch = AppendScratch::default();
    for minute in 1..100i64 {
        let values: Vec<f64> = (0..1000).map(|slot| (slot * minute) as f64 / 7.0).collect();
        head.append(Timestamp(minute * 60_000), &values, &[], false, &mut journal, &mut scratch).unwrap();
        write_out(&mut journal, folder.path(), minute as u64 * 60_000, || false);
        assert!(head.heap_bytes() < 10_000, "{}", head.heap_bytes());
    }
    let log = RetainedLogs::new("", folder.path());
    let files = log.files().unwrap().remove(&LOG).unwrap();
    let rows: u64 = files.iter().map(|file| log.count_rows(*file, 0).unwrap()).sum();
    assert_eq!(rows, 99);
    let mut following = tail(folder.path(), 1, START);
    let mut series = Series::new();
    read(&mut following, &mut series);
    assert!(series.values().all(|samples| samples.len() == 99));
    let newest = files.last().unwrap().sequence;
    assert!(following.first_needed() + 2 >= newest, "{} of {newest}", following.first_needed());
}

/// Damage costs what is in it and, as rows build on each other, the rest of the segments it hits; nothing wrong comes out.
#[test]
fn damage_tells_nothing_wrong() {
    let mut next = random(7);
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(1_000_000);
    let mut sources: Vec<Source> = (1..4).map(Source::new).collect();
    let mut truth = Series::new();
    for source in &mut sources {
        source.head.replace(&[group(&names("a", 50), false)]);
    }
    for at in 1..120 {
        for source in &mut sources {
            source.scrape(at, at % 31 == 0, &mut || next(900) as f64, &mut journal, &mut truth);
        }
        write_out(&mut journal, folder.path(), at as u64, || false);
    }
    let path = folder.path().join(FileId { boot: LOG.0, writer: LOG.1, sequence: 1 }.to_string());
    let good = std::fs::read(&path).unwrap();
    let mut fewer = 0;
    for round in 0..200 {
        let mut bytes = good.clone();
        for _ in 0..1 + next(3) {
            let at = next(bytes.len() as u64) as usize;
            match next(3) {
                0 => bytes[at] ^= 1 << next(8),
                1 => bytes.truncate(at),
                _ => {
                    let end = (at + next(3_000) as usize).min(bytes.len());
                    bytes[at..end].fill(0);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let mut told = Series::new();
        let mut following = Tail::new(folder.path(), LOG, false, 1, START);
        read(&mut following, &mut told);
        let samples = told.values().map(BTreeMap::len).sum::<usize>();
        fewer += usize::from(samples < truth.values().map(BTreeMap::len).sum());
        for (series, samples) in told {
            assert!(samples.iter().all(|(at, bits)| truth[&series].get(at) == Some(bits)), "round {round}: {series:?}");
        }
    }
    assert!(fewer > 150, "{fewer}");
}

#[test]
fn kept_logs_outlive_their_writer() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, kept) = (folder.path().join("log"), folder.path().join("kept"));
    std::fs::create_dir(&logs).unwrap();
    let log = RetainedLogs::new(&logs, &kept);
    let id = |sequence| FileId { boot: 1, writer: 0, sequence };
    for sequence in [2, 1] {
        std::fs::write(logs.join(id(sequence).to_string()), "x").unwrap();
    }
    std::fs::write(logs.join("other"), "x").unwrap();
    assert!(log.files().unwrap().is_empty());
    log.link().unwrap();
    std::fs::remove_file(logs.join(id(1).to_string())).unwrap();
    log.link().unwrap();
    assert_eq!(log.files().unwrap(), BTreeMap::from([((1, 0), vec![id(1), id(2)])]));
    assert_eq!(log.in_use().unwrap(), BTreeMap::from([((1, 0), vec![id(2)])]));
    log.remove(id(1)).unwrap();
    log.remove(id(1)).unwrap();
    assert_eq!(log.files().unwrap()[&(1, 0)], [id(2)]);
}
