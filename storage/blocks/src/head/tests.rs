//! Heads made by hand: every part that a head may have, damaged in every way.

use super::mapped::testing::file as mapped_file;
use super::record::testing::RecordWriter;
use super::segment::testing::{Packing, SegmentWriter};
use super::*;
use crate::{Block, BlockWriter, Chunk, Compaction, Meta, encode};
use series::{Labels, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;

const HOUR: i64 = 3_600_000;
/// Start of a range.
const START: i64 = 1_700_000_000_000 / (2 * HOUR) * 2 * HOUR;

type Samples = BTreeMap<String, BTreeMap<i64, String>>;

fn options() -> ImportOptions {
    ImportOptions { range_ms: 2 * HOUR, chunk_bytes_max: crate::CHUNK_BYTES_MAX }
}

fn run(folder: &Path, options: &ImportOptions) -> HeadImport {
    let mut number = 0;
    let new_ulid = || {
        number += 1;
        format!("01HF00000000000000000{number:05}")
    };
    import_head(folder, options, new_ulid, &AtomicBool::new(false)).unwrap().expect("there is a head")
}

/// All samples of all blocks of a folder.
fn samples(folder: &Path) -> Samples {
    let mut all = Samples::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("meta.json").exists() {
            continue;
        }
        let block = Block::open(&path).unwrap();
        assert!(block.check().is_good(), "{:?}", block.check());
        block.select(&[vec![]], i64::MIN, i64::MAX, |reader, entry| {
            let of_series = all.entry(entry.labels.to_string()).or_default();
            reader
                .samples(&entry, i64::MIN, i64::MAX, |at, value| {
                    let text = match value {
                        Value::Float(value) => format!("{value}"),
                        Value::Histogram(histogram) if series::is_stale(histogram.sum) => "histogram marker".into(),
                        Value::Histogram(histogram) => format!("histogram of {}", histogram.count),
                    };
                    of_series.entry(at).or_insert(text);
                })
                .unwrap();
            true
        });
    }
    all
}

fn write_segment(folder: &Path, name: &str, records: &[Vec<u8>]) {
    let packings = [Packing::Snappy, Packing::None, Packing::Zstd];
    let mut writer = SegmentWriter::default();
    records.iter().enumerate().for_each(|(i, record)| writer.push(record, packings[i % 3]));
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), writer.0).unwrap();
}

fn series(reference: u64, name: &str) -> Vec<u8> {
    RecordWriter::new(1).fixed(reference).labels(&[("__name__", name), ("job", "j")]).0
}

/// A sample a minute of each of the series.
fn scrapes(references: &[u64], from: i64, count: i64) -> Vec<Vec<u8>> {
    let scrape = |at: i64| {
        let first = references[0];
        let record = RecordWriter::new(2).fixed(first).fixed(at as u64);
        let value = |reference: u64| reference as f64 + ((at - START) / 60_000) as f64 / 1000.0;
        references
            .iter()
            .fold(record, |record, reference| {
                record.v(reference.wrapping_sub(first) as i64).v(0).float(value(*reference))
            })
            .0
    };
    (0..count).map(|i| scrape(from + i * 60_000)).collect()
}

fn labels(name: &str) -> String {
    format!("{{__name__=\"{name}\", job=\"j\"}}")
}

fn want(reference: u64, from: i64, count: i64) -> BTreeMap<i64, String> {
    let value = |at: i64| format!("{}", reference as f64 + ((at - START) / 60_000) as f64 / 1000.0);
    (0..count).map(|i| from + i * 60_000).map(|at| (at, value(at))).collect()
}

fn float_chunk(reference: u64, from: i64, count: i64) -> Chunk {
    let values: Vec<(i64, Value)> = want(reference, from, count)
        .into_iter()
        .map(|(at, value)| (at, Value::Float(value.parse().unwrap())))
        .collect();
    encode(&values).remove(0)
}

#[test]
fn a_log_becomes_blocks_of_its_ranges() {
    let folder = tempfile::tempdir().unwrap();
    let wal = folder.path().join("wal");
    write_segment(&wal, "00000000", &[vec![series(1, "a"), series(2, "b")], scrapes(&[1, 2], START, 100)].concat());
    write_segment(&wal, "00000001", &scrapes(&[1, 2], START + 100 * 60_000, 50));
    assert!(has_head(folder.path()).unwrap());
    let report = run(folder.path(), &options());
    assert_eq!((report.series, report.samples, report.damage_count, report.segments), (2, 300, 0, 2));
    let ranges: Vec<_> = report.blocks.iter().map(|meta| (meta.min_time, meta.max_time)).collect();
    let last = START + 149 * 60_000;
    assert_eq!(ranges, [(START, START + 119 * 60_000 + 1), (START + 2 * HOUR, last + 1)]);
    let found = samples(folder.path());
    assert_eq!(found[&labels("a")], want(1, START, 150));
    assert_eq!(found[&labels("b")], want(2, START, 150));
    // The log was moved, and nothing is left to take.
    assert!(folder.path().join(IMPORTED_DIR).join("000001/wal/00000001").exists());
    assert!(!has_head(folder.path()).unwrap() && !folder.path().join(WORK_DIR).exists());
    assert!(import_head(folder.path(), &options(), || unreachable!(), &AtomicBool::new(false)).unwrap().is_none());
}

#[test]
fn checkpoint_mapped_chunks_late_samples_and_deletions_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let wal = folder.path().join("wal");
    // The segments that the checkpoint stands for are there still.
    write_segment(&wal, "00000004", &[series(1, "wrong")]);
    write_segment(&wal.join("checkpoint.00000004"), "00000000", &[series(1, "a"), series(2, "h")]);
    let histogram = |at: i64| RecordWriter::new(7).fixed(2).fixed(at as u64).v(0).v(0).histogram(3, 1.0, false).0;
    let marker =
        RecordWriter::new(2).fixed(2).fixed(START as u64 + 120_000).v(0).v(0).fixed(series::STALE_NAN.to_bits());
    let mut records = scrapes(&[1], START, 60);
    records.extend([histogram(START), histogram(START + 60_000), marker.0]);
    // Out of order, and of a series that nobody knows.
    records.extend(scrapes(&[1], START + 5 * 60_000, 1));
    records.extend(scrapes(&[99], START, 1));
    records.push(RecordWriter::new(3).fixed(1).v(START + 60_000).v(START + 120_000).0);
    records.push(RecordWriter::new(4).fixed(1).fixed(0).v(0).v(0).float(1.0).labels(&[]).0);
    write_segment(&wal, "00000005", &records);
    write_segment(&folder.path().join("wbl"), "00000000", &scrapes(&[1], START - 3 * HOUR, 3));
    std::fs::create_dir_all(folder.path().join("chunks_head")).unwrap();
    let chunks = [
        (1, float_chunk(1, START, 30), false),
        // Of a scrape that the log has lost.
        (1, float_chunk(1, START - HOUR, 2), false),
        (1, float_chunk(1, START - 5 * HOUR, 2), true),
        (50, float_chunk(1, START, 2), false),
    ];
    std::fs::write(folder.path().join("chunks_head/000001"), mapped_file(&chunks)).unwrap();
    std::fs::write(folder.path().join("chunks_head/000002"), b"").unwrap();
    std::fs::create_dir_all(folder.path().join("chunk_snapshot.000005.0000000001")).unwrap();
    let report = run(folder.path(), &options());
    assert_eq!((report.mapped_chunks, report.samples_known, report.samples_out_of_order), (3, 30, 1));
    assert_eq!((report.samples_without_series, report.deletions, report.exemplars), (2, 1, 1));
    assert_eq!(report.damage_count, 0, "{:?}", report.damages);
    let mut of_a = want(1, START, 60);
    of_a.retain(|at, _| *at < START + 60_000 || *at > START + 120_000);
    for (from, count) in [(START - HOUR, 2), (START - 3 * HOUR, 3), (START - 5 * HOUR, 2)] {
        of_a.extend(want(1, from, count));
    }
    let found = samples(folder.path());
    assert_eq!(found[&labels("a")], of_a);
    let of_h = ["histogram of 6", "histogram of 6", "histogram marker"].map(str::to_owned);
    assert_eq!(found[&labels("h")].values().cloned().collect::<Vec<_>>(), of_h);
    assert!(folder.path().join(IMPORTED_DIR).join("000001/chunk_snapshot.000005.0000000001").exists());
    assert!(!folder.path().join("wbl").exists());
}

#[test]
fn what_blocks_have_is_not_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let symbols: BTreeSet<String> = ["__name__", "a", "job", "j"].map(str::to_owned).into();
    let mut writer = BlockWriter::new(folder.path(), "01HF0000000000000000099999", &symbols).unwrap();
    let of_a = Labels::from_pairs([("__name__", "a"), ("job", "j")]);
    writer.add_series(&of_a, &[float_chunk(1, START, 60)]).unwrap();
    let compaction = Compaction { level: 1, ..Compaction::default() };
    writer.finish(Meta { min_time: START, max_time: START + HOUR, compaction, ..Meta::default() }).unwrap();
    let wal = folder.path().join("wal");
    write_segment(&wal, "00000000", &[vec![series(1, "a")], scrapes(&[1], START, 90)].concat());
    let report = run(folder.path(), &options());
    assert_eq!((report.samples_known, report.samples), (60, 30));
    assert_eq!(samples(folder.path())[&labels("a")], want(1, START, 90));
}

/// The same blocks, whether everything fits into memory or almost nothing does.
#[test]
fn little_memory_gives_the_same_samples() {
    let build = |chunk_bytes_max: usize| {
        let folder = tempfile::tempdir().unwrap();
        let references: Vec<u64> = (1..40).collect();
        let mut records: Vec<Vec<u8>> =
            references.iter().map(|reference| series(*reference, &format!("m{reference}"))).collect();
        records.extend(scrapes(&references, START + HOUR, 200));
        records.push(RecordWriter::new(3).fixed(3).v(START + HOUR).v(START + HOUR + 600_000).0);
        write_segment(&folder.path().join("wal"), "00000000", &records);
        let report = run(folder.path(), &ImportOptions { chunk_bytes_max, ..options() });
        assert_eq!((report.samples, report.blocks.len()), (39 * 200, 3));
        assert!(report.blocks.iter().all(|meta| meta.compaction.level == 1 && meta.compaction.parents.is_empty()));
        samples(folder.path())
    };
    let (plenty, little) = (build(usize::MAX), build(20_000));
    assert_eq!(plenty[&labels("m3")].len(), 200 - 11);
    assert_eq!(plenty, little);
}

#[test]
fn an_interrupted_run_is_carried_on_or_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let wal = folder.path().join("wal");
    write_segment(&wal, "00000000", &[vec![series(1, "a")], scrapes(&[1], START, 150)].concat());
    // Before it was complete: begun anew.
    std::fs::create_dir_all(folder.path().join(WORK_DIR).join("blocks/01HF0000000000000000012345")).unwrap();
    run(folder.path(), &options());
    assert!(!folder.path().join("01HF0000000000000000012345").exists());
    // When it was complete, and one block had its place: carried on.
    let work = folder.path().join(WORK_DIR);
    std::fs::create_dir_all(work.join("blocks")).unwrap();
    let second = "01HF0000000000000000000002";
    std::fs::rename(folder.path().join(second), work.join("blocks").join(second)).unwrap();
    std::fs::write(work.join("complete"), format!("{IMPORTED_DIR}/000001")).unwrap();
    std::fs::create_dir_all(folder.path().join("wal")).unwrap();
    assert!(has_head(folder.path()).unwrap());
    assert!(import_head(folder.path(), &options(), || unreachable!(), &AtomicBool::new(false)).unwrap().is_none());
    assert_eq!(samples(folder.path())[&labels("a")], want(1, START, 150));
    assert!(!work.exists() && folder.path().join(IMPORTED_DIR).join("000001/wal/00000000").exists());
    // Told to stop: as before.
    write_segment(&wal, "00000007", &[vec![series(1, "a")], scrapes(&[1], START + 9 * HOUR, 5)].concat());
    assert!(import_head(folder.path(), &options(), || "x".into(), &AtomicBool::new(true)).unwrap().is_none());
    assert!(wal.join("00000007").exists() && !work.exists());
}

#[test]
fn a_damaged_head_gives_what_can_be_read() {
    let mut state = 21u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good");
    let records = [vec![series(1, "a"), series(2, "b")], scrapes(&[1, 2], START, 200)].concat();
    write_segment(&good.join("wal"), "00000000", &records[..100]);
    write_segment(&good.join("wal"), "00000001", &records[100..]);
    std::fs::create_dir_all(good.join("chunks_head")).unwrap();
    let chunks = [(1, float_chunk(1, START, 90), false), (2, float_chunk(2, START, 90), false)];
    std::fs::write(good.join("chunks_head/000001"), mapped_file(&chunks)).unwrap();
    let files = ["wal/00000000", "wal/00000001", "chunks_head/000001"];
    let (mut whole, mut said) = (0, 0);
    for round in 0..48 {
        let target = folder.path().join(format!("{round}"));
        for file in files {
            let mut bytes = std::fs::read(good.join(file)).unwrap();
            if file == files[round % 3] {
                let at = next(bytes.len());
                match next(4) {
                    0 => bytes.truncate(at),
                    1 => bytes[at..].fill(0),
                    2 => drop(bytes.remove(at)),
                    _ => bytes[at] ^= 1 << next(8),
                }
            }
            std::fs::create_dir_all(target.join(file).parent().unwrap()).unwrap();
            std::fs::write(target.join(file), bytes).unwrap();
        }
        let report = run(&target, &options());
        let found = samples(&target);
        let mut count = 0;
        for (name, reference) in [("a", 1), ("b", 2)] {
            let all = want(reference, START, 200);
            for (at, value) in found.get(&labels(name)).into_iter().flatten() {
                assert_eq!(all.get(at), Some(value), "round {round}: a sample that nobody wrote");
                count += 1;
            }
        }
        whole += usize::from(count == 400);
        let is_told = report.damage_count > 0 || report.torn_bytes > 0 || report.samples_without_series > 0;
        said += usize::from(is_told);
        // A segment that ends between two records, or in zeros, cannot be told from one that was not written further.
        assert!(count == 400 || is_told || round % 3 < 2, "round {round}: {count} samples, nothing said");
        std::fs::remove_dir_all(target).unwrap();
    }
    // Damaged chunks are in the log, too.
    assert!(whole > 15 && said > 20, "{whole} {said}");
}
