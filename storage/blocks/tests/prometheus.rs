//! Our blocks under Debian's promtool, and promtool's blocks under our reader.

use blocks::{Block, BlockWriter, Chunk, Compaction, Meta, xor};
use series::{Labels, MatchOp, Matcher, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

type Truth = BTreeMap<Labels, Vec<(i64, f64)>>;

const START: i64 = 1_700_000_000_000 / 7_200_000 * 7_200_000;

fn truth(from: i64, seed: u64) -> Truth {
    let mut state = seed;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let mut truth = Truth::new();
    for metric in 0..6 {
        for instance in 0..20 {
            let labels = [
                ("__name__", format!("metric_{metric}")),
                ("instance", format!("host-{instance}:9100")),
                ("job", "node".to_owned()),
            ];
            let labels = Labels::from_pairs(labels.iter().map(|(n, v)| (*n, v.as_str())));
            let mut value = 0.0;
            let samples = (0..400)
                .map(|i| {
                    value = match metric {
                        0 => 1.0,
                        1 => value + next(100) as f64,
                        2 => next(1000) as f64 / 8.0,
                        3 => [f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e-300][next(4) as usize],
                        _ => (i / 50) as f64,
                    };
                    (from + i * 15_000 + next(5) as i64, value)
                })
                .collect();
            truth.insert(labels, samples);
        }
    }
    truth
}

fn chunks(samples: &[(i64, f64)]) -> Vec<Chunk> {
    let chunk = |samples: &[(i64, f64)]| {
        let (mut encoder, mut bytes) = (xor::Encoder::default(), Vec::new());
        samples.iter().for_each(|(at, value)| encoder.push(*at, *value, &mut bytes));
        encoder.finish(0, &mut bytes);
        Chunk::new(samples[0].0, samples[samples.len() - 1].0, xor::XOR, bytes)
    };
    samples.chunks(120).map(chunk).collect()
}

fn write(parent: &Path, ulid: &str, truth: &Truth) -> Meta {
    let symbols: BTreeSet<String> =
        truth.keys().flat_map(|labels| labels.iter().flat_map(|(n, v)| [n.to_owned(), v.to_owned()])).collect();
    let mut writer = BlockWriter::new(parent, ulid, &symbols).unwrap();
    for (labels, samples) in truth {
        writer.add_series(labels, &chunks(samples)).unwrap();
    }
    let min = truth.values().map(|samples| samples[0].0).min().unwrap();
    let max = truth.values().map(|samples| samples[samples.len() - 1].0).max().unwrap() + 1;
    let compaction = Compaction { level: 1, sources: vec![ulid.into()], ..Compaction::default() };
    writer.finish(Meta { min_time: min, max_time: max, compaction, ..Meta::default() }).unwrap()
}

fn read(block: &Block, matchers: &[Matcher]) -> Truth {
    let mut read = Truth::new();
    for id in block.ids(matchers).unwrap() {
        let Some(found) = block.series(id, i64::MIN, i64::MAX).unwrap() else { continue };
        let samples = read.entry(found.labels.clone()).or_default();
        let take = |at, value| match value {
            Value::Float(value) => samples.push((at, value)),
            Value::Histogram(_) => panic!("no histogram was written"),
        };
        block.samples(&found, i64::MIN, i64::MAX, take).unwrap();
    }
    read
}

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool").args(arguments).output().expect("promtool is installed: make test-deps");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

const ULIDS: [&str; 3] = ["01HF0000000000000000000001", "01HF0000000000000000000002", "01HF0000000000000000000003"];

/// `promtool tsdb dump` as a truth.
fn dumped(parent: &Path) -> Truth {
    // promtool dumps a whole data folder and wants to see a log in it.
    std::fs::create_dir_all(parent.join("wal")).unwrap();
    let mut found = Truth::new();
    for line in promtool(&["tsdb", "dump", parent.to_str().unwrap()]).lines() {
        let (labels, rest) = line.rsplit_once("} ").unwrap();
        let mut pairs = Vec::new();
        for pair in labels.trim_start_matches('{').split(", ") {
            let (name, value) = pair.split_once('=').unwrap();
            pairs.push((name.to_owned(), value.trim_matches('"').to_owned()));
        }
        let (value, at) = rest.split_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        found.entry(Labels::from_pairs(pairs)).or_default().push((at.parse().unwrap(), value));
    }
    found
}

#[test]
fn promtool_reads_our_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(START, 1);
    let meta = write(folder.path(), ULIDS[0], &truth);
    assert_eq!((meta.stats.num_series, meta.stats.num_samples), (120, 48_000));
    assert!(promtool(&["tsdb", "list", folder.path().to_str().unwrap()]).contains(ULIDS[0]));
    let analysis = promtool(&["tsdb", "analyze", folder.path().to_str().unwrap()]);
    assert!(analysis.contains("Series: 120"), "{analysis}");
    assert_eq!(dumped(folder.path()), truth);
    let block = Block::open(&folder.path().join(ULIDS[0])).unwrap();
    assert_eq!(read(&block, &[]), truth);
    assert_eq!(block.verify().unwrap(), 48_000);
}

#[test]
fn selects_by_every_operator() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(START, 2);
    write(folder.path(), ULIDS[0], &truth);
    let block = Block::open(&folder.path().join(ULIDS[0])).unwrap();
    let cases: &[&[(&str, MatchOp, &str)]] = &[
        &[("__name__", MatchOp::Equal, "metric_3")],
        &[("__name__", MatchOp::Regex, "metric_[12]"), ("instance", MatchOp::NotEqual, "host-3:9100")],
        &[("instance", MatchOp::NotRegex, "host-1.*")],
        &[("nowhere", MatchOp::Equal, "")],
        &[("nowhere", MatchOp::NotEqual, "")],
        &[("job", MatchOp::Regex, "node|"), ("__name__", MatchOp::Equal, "metric_0")],
    ];
    for case in cases {
        let matchers: Vec<_> = case.iter().map(|(n, op, v)| Matcher::new(n, *op, v).unwrap()).collect();
        let want: Vec<&Labels> =
            truth.keys().filter(|labels| matchers.iter().all(|m| m.matches_labels(labels))).collect();
        let found = read(&block, &matchers);
        assert_eq!(found.keys().collect::<Vec<_>>(), want, "{case:?}");
    }
}

#[test]
fn we_read_promtools_blocks_and_ours_are_no_larger() {
    let folder = tempfile::tempdir().unwrap();
    let truth = truth(START, 3);
    let mut text = String::new();
    for metric in 0..6 {
        let name = format!("metric_{metric}");
        text.push_str(&format!("# TYPE {name} gauge\n"));
        for (labels, samples) in truth.iter().filter(|(labels, _)| labels.metric_name() == name) {
            for (at, value) in samples {
                let instance = labels.get("instance").unwrap();
                text.push_str(&format!("{name}{{instance=\"{instance}\",job=\"node\"}} "));
                series::format_float(*value, &mut text).unwrap();
                text.push_str(&format!(" {}.{:03}\n", at / 1000, at % 1000));
            }
        }
    }
    text.push_str("# EOF\n");
    let input = folder.path().join("input.txt");
    std::fs::write(&input, text).unwrap();
    let theirs = folder.path().join("theirs");
    promtool(&["tsdb", "create-blocks-from", "openmetrics", input.to_str().unwrap(), theirs.to_str().unwrap()]);
    let mut found = Truth::new();
    let mut bytes = 0;
    for entry in std::fs::read_dir(&theirs).unwrap() {
        let path = entry.unwrap().path();
        if path.join("meta.json").exists() {
            let block = Block::open(&path).unwrap();
            bytes += block.bytes();
            found.append(&mut read(&block, &[]));
        }
    }
    assert_eq!(found, truth);
    write(folder.path(), ULIDS[0], &truth);
    let ours = Block::open(&folder.path().join(ULIDS[0])).unwrap().bytes();
    assert!(ours <= bytes, "ours {ours} bytes, theirs {bytes}");
}

#[test]
fn blocks_are_joined_and_deletions_carried_out() {
    let folder = tempfile::tempdir().unwrap();
    let (one, mut two) = (truth(START, 4), truth(START + 7_200_000, 5));
    // A series of one block alone, and one whose samples overlap.
    two.insert(Labels::from_pairs([("__name__", "alone"), ("job", "x")]), vec![(START + 7_200_000, 5.0)]);
    let overlapping = one.keys().next().unwrap().clone();
    two.get_mut(&overlapping).unwrap().insert(0, (START + 14, 77.0));
    write(folder.path(), ULIDS[0], &one);
    write(folder.path(), ULIDS[1], &two);
    let open = |ulid: &str| Block::open(&folder.path().join(ulid)).unwrap();
    let doomed = Matcher::new("__name__", MatchOp::Equal, "metric_2").unwrap();
    open(ULIDS[0]).delete(std::slice::from_ref(&doomed), START, START + 3_000_000).unwrap();
    let (a, b) = (open(ULIDS[0]), open(ULIDS[1]));
    assert_eq!(a.tombstones(), 20);
    let meta = blocks::compact(folder.path(), ULIDS[2], &[&a, &b], &AtomicBool::new(false), || ()).unwrap().unwrap();
    assert_eq!((meta.compaction.level, meta.compaction.parents.len()), (2, 2));
    assert_eq!(meta.compaction.sources, ULIDS[..2]);
    let mut want = one.clone();
    for (labels, samples) in &mut want {
        if doomed.matches_labels(labels) {
            samples.retain(|(at, _)| *at > START + 3_000_000);
        }
    }
    for (labels, samples) in two {
        let all = want.entry(labels).or_default();
        all.extend(samples);
        all.sort_by_key(|(at, _)| *at);
        all.dedup_by_key(|(at, _)| *at);
    }
    assert_eq!(read(&open(ULIDS[2]), &[]), want);
    for ulid in &ULIDS[..2] {
        blocks::remove(&folder.path().join(ulid)).unwrap();
    }
    assert_eq!(dumped(folder.path()), want);
}

#[test]
fn damaged_files_are_errors_that_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let small: Truth = truth(START, 6).into_iter().take(12).collect();
    write(folder.path(), ULIDS[0], &small);
    let block = folder.path().join(ULIDS[0]);
    let mut state = 1u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for file in ["meta.json", "index", "chunks/000001", "tombstones"] {
        let path = block.join(file);
        let good = std::fs::read(&path).unwrap();
        let mut errors = 0;
        for _ in 0..300 {
            let mut bytes = good.clone();
            let at = next(bytes.len());
            match next(3) {
                0 => bytes.truncate(at),
                _ => bytes[at] ^= 1 << next(8),
            }
            std::fs::write(&path, &bytes).unwrap();
            let outcome = Block::open(&block).and_then(|block| block.verify());
            if let Err(error) = outcome {
                errors += 1;
                assert!(error.to_string().contains(ULIDS[0]), "{error}");
            }
        }
        std::fs::write(&path, &good).unwrap();
        assert!(errors > 60, "{file}: {errors} of 300 seen");
    }
    assert_eq!(read(&Block::open(&block).unwrap(), &[]), small);
}

#[test]
fn half_blocks_are_never_seen() {
    let folder = tempfile::tempdir().unwrap();
    let writer = BlockWriter::new(folder.path(), ULIDS[0], &BTreeSet::new()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    // A process that is killed does not drop its writer.
    std::mem::forget(writer);
    assert!(!folder.path().join(ULIDS[0]).exists());
    blocks::remove_leftovers(folder.path()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // One whose write fails leaves nothing.
    drop(BlockWriter::new(folder.path(), ULIDS[0], &BTreeSet::new()).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
