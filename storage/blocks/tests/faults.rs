//! Blocks that are damaged, contradict themselves or come from others: what can be served is, and the rest is named.

use blocks::{Block, BlockWriter, Chunk, Compaction, Fault, Meta, encode, repair};
use series::{Labels, MatchOp, Matcher, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Truth = BTreeMap<Labels, Vec<(i64, f64)>>;

const ULID: &str = "01HF0000000000000000000001";
const REPAIRED: &str = "01HF0000000000000000000002";

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }
}

/// Series of `metrics` metrics with `instances` instances each.
fn truth(metrics: usize, instances: usize, samples: i64) -> Truth {
    let mut truth = Truth::new();
    for metric in 0..metrics {
        for instance in 0..instances {
            let mut pairs = vec![
                ("__name__", format!("metric_{metric}")),
                ("instance", format!("host-{instance}:9100")),
                ("job", format!("job-{}", instance % 3)),
            ];
            if instance % 2 == 0 {
                pairs.push(("zone", format!("zone-{}", instance % 5)));
            }
            let labels = Labels::from_pairs(pairs);
            let values = (0..samples).map(|i| (i * 15_000, (metric * 1000 + instance) as f64 + i as f64 / 8.0));
            truth.insert(labels, values.collect());
        }
    }
    truth
}

fn chunks(samples: &[(i64, f64)]) -> Vec<Chunk> {
    let samples: Vec<(i64, Value)> = samples.iter().map(|(at, value)| (*at, Value::Float(*value))).collect();
    encode(&samples)
}

fn write(parent: &Path, truth: &Truth) -> PathBuf {
    let symbols: BTreeSet<String> =
        truth.keys().flat_map(|labels| labels.iter().flat_map(|(n, v)| [n.to_owned(), v.to_owned()])).collect();
    let mut writer = BlockWriter::new(parent, ULID, &symbols).unwrap();
    for (labels, samples) in truth {
        writer.add_series(labels, &chunks(samples)).unwrap();
    }
    let max = truth.values().map(|samples| samples[samples.len() - 1].0).max().unwrap() + 1;
    let compaction = Compaction { level: 1, sources: vec![ULID.into()], ..Compaction::default() };
    writer.finish(Meta { min_time: 0, max_time: max, compaction, ..Meta::default() }).unwrap();
    parent.join(ULID)
}

fn select(block: &Block, matchers: &[Matcher]) -> Truth {
    let mut read = Truth::new();
    block.select(&[matchers.to_vec()], i64::MIN, i64::MAX, |reader, entry| {
        let samples = read.entry(entry.labels.clone()).or_default();
        reader.readable_samples(&entry, i64::MIN, i64::MAX, |_, at, value| {
            let Value::Float(value) = value else { panic!("no histogram was written") };
            samples.push((at, value));
        });
        true
    });
    read
}

fn matcher(name: &str, op: MatchOp, value: &str) -> Matcher {
    Matcher::new(name, op, value).unwrap()
}

fn values(block: &Block, name: &str, matchers: &[Matcher], limit: usize) -> Vec<String> {
    let mut values = Vec::new();
    block
        .label_values(name, matchers, |value| {
            values.push(value.to_owned());
            values.len() < limit
        })
        .unwrap();
    values
}

/// Enough values for several positions of the tables, and matchers that take each way through them.
#[test]
fn labels_and_series_are_found_without_tables_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(3, 700, 2);
    let block = Block::open(&write(folder.path(), &truth)).unwrap();
    let cases: Vec<Vec<Matcher>> = vec![
        vec![],
        vec![matcher("__name__", MatchOp::Equal, "metric_1")],
        vec![matcher("instance", MatchOp::Equal, "host-699:9100")],
        vec![matcher("instance", MatchOp::Equal, "host-0:9100")],
        vec![matcher("instance", MatchOp::Equal, "zzz")],
        vec![matcher("instance", MatchOp::Regex, "host-6.*")],
        vec![matcher("instance", MatchOp::Regex, "host-7:9100|host-8:9100|host-8:9100|nowhere")],
        vec![matcher("instance", MatchOp::NotRegex, "host-.*"), matcher("job", MatchOp::Equal, "job-1")],
        vec![matcher("instance", MatchOp::NotRegex, "host-1:9100|host-2:9100")],
        vec![matcher("zone", MatchOp::Equal, ""), matcher("__name__", MatchOp::Equal, "metric_2")],
        vec![matcher("zone", MatchOp::NotEqual, ""), matcher("job", MatchOp::NotEqual, "job-0")],
        vec![matcher("zone", MatchOp::Regex, "zone-1|"), matcher("instance", MatchOp::NotEqual, "host-3:9100")],
        vec![matcher("job", MatchOp::Regex, "job-.+"), matcher("zone", MatchOp::NotEqual, "zone-0")],
        vec![matcher("nowhere", MatchOp::NotEqual, "")],
    ];
    for matchers in cases {
        let wanted: Vec<&Labels> =
            truth.keys().filter(|labels| matchers.iter().all(|matcher| matcher.matches_labels(labels))).collect();
        let found = select(&block, &matchers);
        assert_eq!(found.keys().collect::<Vec<_>>(), wanted, "{matchers:?}");
        let names: BTreeSet<&str> = wanted.iter().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
        assert_eq!(block.label_names(&matchers).unwrap(), names.into_iter().collect::<Vec<_>>(), "{matchers:?}");
        for name in ["instance", "zone", "job", "nowhere", ""] {
            let all: BTreeSet<&str> = wanted.iter().filter_map(|labels| labels.get(name)).collect();
            let all: Vec<&str> = all.into_iter().collect();
            assert_eq!(values(&block, name, &matchers, usize::MAX), all, "{name} {matchers:?}");
            assert_eq!(values(&block, name, &matchers, 3), all[..all.len().min(3)], "{name} {matchers:?}");
        }
    }
    assert_eq!(block.faults().count, 0);
}

#[test]
fn a_block_holds_little_memory_however_many_values_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(1, 100_000, 1);
    let block = Block::open(&write(folder.path(), &truth)).unwrap();
    assert!(block.heap_bytes() < 4096, "{}", block.heap_bytes());
    let found = select(&block, &[matcher("instance", MatchOp::Equal, "host-77777:9100")]);
    assert_eq!(found.len(), 1);
    assert!(block.heap_bytes() < 64 << 10, "{} bytes", block.heap_bytes());
}

#[test]
fn a_bad_chunk_costs_its_own_samples_only() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(2, 10, 300);
    let path = write(folder.path(), &truth);
    let file = path.join("chunks/000001");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let block = Block::open(&path).unwrap();
    let found = select(&block, &[]);
    let first = truth.keys().next().unwrap();
    assert_eq!(found[first], truth[first][120..]);
    assert!(truth.iter().skip(1).all(|(labels, samples)| found[labels] == *samples));
    let faults = block.faults();
    assert_eq!(faults.count, 1);
    assert!(matches!(faults.first[0].fault, Fault::Checksum { .. }) && faults.first[0].file == file, "{faults:?}");
    // A query that is repeated tells nothing new.
    select(&block, &[]);
    assert_eq!(block.faults().count, 1);
    assert_eq!(block.check().fault_count, 1);
    // It is left alone by compactions, now and later.
    block.mark_failed().unwrap();
    let again = Block::open(&path).unwrap();
    assert!(again.meta().compaction.failed);
    assert!(blocks::plan(&[(again.meta(), 0), (again.meta(), 0)], &[10, 30]).is_empty());
    assert!(blocks::compact(folder.path(), REPAIRED, &[&again], &false.into(), || ()).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the unfinished block is gone");
}

#[test]
fn bad_postings_are_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(2, 10, 10);
    let path = write(folder.path(), &truth);
    let index = path.join("index");
    let good = std::fs::read(&index).unwrap();
    // The table of postings lies before the table of contents.
    let mut bytes = good.clone();
    let at = bytes.len() - 80;
    bytes[at] ^= 1;
    std::fs::write(&index, &bytes).unwrap();
    let block = Block::open(&path).unwrap();
    assert!(block.load_tables().is_err());
    assert_eq!(select(&block, &[]).len(), 0, "labels cannot be read without symbols");
    assert!(block.faults().count > 0 && !block.check().is_good());
    // One list of postings.
    let list = good.len() - 1;
    let toc = &good[list + 1 - 52..];
    let postings = u64::from_be_bytes(toc[32..40].try_into().unwrap()) as usize;
    let mut bytes = good;
    bytes[postings + 9] ^= 1;
    std::fs::write(&index, &bytes).unwrap();
    let block = Block::open(&path).unwrap();
    assert_eq!(select(&block, &[]), truth);
    assert!(block.faults().count > 0);
}

#[test]
fn missing_and_contradicting_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(1, 4, 10);
    let path = write(folder.path(), &truth);
    let open = || Block::open(&path);
    // Chunks are missing: the series are there.
    std::fs::rename(path.join("chunks/000001"), path.join("away")).unwrap();
    let block = open().unwrap();
    assert_eq!(block.label_names(&[]).unwrap(), ["__name__", "instance", "job", "zone"]);
    assert!(select(&block, &[]).values().all(Vec::is_empty));
    assert!(block.faults().first[0].to_string().contains("chunks/000001"), "{:?}", block.faults());
    // No file of chunks.
    std::fs::write(path.join("chunks/000001"), b"12345678").unwrap();
    let block = open().unwrap();
    assert!(matches!(block.faults().first[0].fault, Fault::Magic { .. }));
    std::fs::rename(path.join("away"), path.join("chunks/000001")).unwrap();
    // Another folder's name.
    let meta = std::fs::read_to_string(path.join("meta.json")).unwrap();
    std::fs::write(path.join("meta.json"), meta.replace(ULID, REPAIRED)).unwrap();
    let block = open().unwrap();
    assert_eq!((block.meta().ulid.as_str(), block.faults().count), (ULID, 1));
    assert_eq!(select(&block, &[]), truth);
    // Times that contradict the chunks, and each other.
    let with = |from: &str, to: &str| std::fs::write(path.join("meta.json"), meta.replace(from, to)).unwrap();
    with("\"maxTime\": 135001", "\"maxTime\": 100");
    assert_eq!(select(&open().unwrap(), &[]), truth);
    assert!(!open().unwrap().check().is_good());
    with("\"minTime\": 0", "\"minTime\": 999999999");
    assert!(open().unwrap_err().to_string().contains("minTime"));
    with("\"version\": 1", "\"version\": 2");
    assert!(matches!(open().unwrap_err().fault, Fault::Version { want: 1, got: 2 }));
    std::fs::write(path.join("meta.json"), &meta).unwrap();
    assert!(open().unwrap().check().is_good());
    // Damaged tombstones: what was deleted cannot be known.
    std::fs::write(path.join("tombstones"), b"1234567890").unwrap();
    assert_eq!((select(&open().unwrap(), &[]), open().unwrap().faults().count), (truth, 1));
    std::fs::remove_file(path.join("index")).unwrap();
    let error = open().unwrap_err();
    assert!(error.is_io() && error.to_string().contains("index"), "{error}");
}

/// Any byte of any file flipped, cut or zeroed: nothing that was not written is ever read, nothing panics, and a check sees
/// what a read missed.
#[test]
fn any_damage_loses_samples_but_invents_none() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(2, 6, 130);
    let all: usize = truth.values().map(Vec::len).sum();
    let path = write(folder.path(), &truth);
    let mut random = Random(9);
    let mut lost = 0;
    for file in ["index", "chunks/000001", "tombstones", "meta.json"] {
        let file = path.join(file);
        let good = std::fs::read(&file).unwrap();
        for _ in 0..250 {
            let mut bytes = good.clone();
            let at = random.below(bytes.len());
            match random.below(6) {
                0 => bytes.truncate(at),
                1 => bytes[at..].fill(0),
                2 => bytes.insert(at, 7),
                _ => bytes[at] ^= 1 << random.below(8),
            }
            if bytes == good {
                continue;
            }
            std::fs::write(&file, &bytes).unwrap();
            let Ok(block) = Block::open(&path) else { continue };
            let found = select(&block, &[]);
            for (labels, samples) in &found {
                let wanted = truth.get(labels).unwrap_or_else(|| panic!("{labels} was not written"));
                assert!(samples.iter().all(|sample| wanted.contains(sample)), "{labels} has what was not written");
            }
            let count: usize = found.values().map(Vec::len).sum();
            if count < all {
                lost += 1;
                assert!(block.faults().count > 0, "{file:?}: {count} of {all} samples and no fault");
                assert!(!block.check().is_good());
            }
            let _ = block.label_names(&[matcher("job", MatchOp::NotEqual, "")]);
        }
        std::fs::write(&file, &good).unwrap();
    }
    assert!(lost > 100, "{lost}");
}

#[test]
fn a_repair_keeps_what_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(2, 10, 300);
    let path = write(folder.path(), &truth);
    Block::open(&path).unwrap().delete(&[matcher("instance", MatchOp::Equal, "host-3:9100")], 0, 15_000 * 9).unwrap();
    let index = path.join("index");
    let mut bytes = std::fs::read(&index).unwrap();
    let toc = bytes.len() - 52;
    let series = u64::from_be_bytes(bytes[toc + 8..toc + 16].try_into().unwrap()) as usize;
    let postings = u64::from_be_bytes(bytes[toc + 32..toc + 40].try_into().unwrap()) as usize;
    // The first series, and the list of all.
    bytes[series + 3] ^= 1;
    bytes[postings + 9] ^= 1;
    std::fs::write(&index, bytes).unwrap();
    let chunks = path.join("chunks/000001");
    let mut bytes = std::fs::read(&chunks).unwrap();
    let last = bytes.len() - 6;
    bytes[last] ^= 1;
    std::fs::write(&chunks, bytes).unwrap();
    let block = Block::open(&path).unwrap();
    let repaired = repair(&block, folder.path(), REPAIRED).unwrap();
    assert_eq!((repaired.series_lost, repaired.chunks_lost), (1, 1));
    let good = Block::open(&folder.path().join(REPAIRED)).unwrap();
    assert!(good.check().is_good(), "{:?}", good.check());
    let found = select(&good, &[]);
    let last = truth.keys().next_back().unwrap();
    for (labels, samples) in truth.iter().skip(1) {
        let mut wanted = samples.clone();
        if labels == last {
            wanted.truncate(240);
        }
        if labels.get("instance") == Some("host-3:9100") {
            wanted.drain(..10);
        }
        assert_eq!(found[labels], wanted, "{labels}");
    }
    assert_eq!(found.len(), truth.len() - 1);
}
