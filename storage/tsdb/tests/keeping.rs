//! From rows through logs and chunks to blocks and back, with every sample checked against a naive truth.

use series::histogram::BucketCount;
use series::{Histogram, Labels, MatchOp, Matcher, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tsdb::log::{Action, FileId, Journal, TargetKey, Writer};
use tsdb::log_reader::{Replay, Restored, replay_file};
use tsdb::{
    AppendScratch, Elsewhere, GroupBuilder, HistogramHead, HistogramSample, Recalled, Rows, SameGroups, SegmentLimits,
    SlotGroup, Store, StoreOptions, TargetHead,
};

type Truth = BTreeMap<String, BTreeMap<i64, u64>>;

const INTERVAL_MS: i64 = 5_000;

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    }
}

/// Carries out what a log wants, on the disk.
fn carry_out(folder: &Path, journal: &mut Journal, now_ms: u64, finish: bool) {
    use std::os::unix::fs::FileExt;
    let Some(writer) = journal.writer_mut() else { return };
    while let Some(action) = writer.next(now_ms, finish) {
        let open = |file: &FileId| std::fs::File::options().write(true).open(folder.join(file.to_string()));
        let outcome = match &action {
            Action::Create(file) => std::fs::File::create_new(folder.join(file.to_string())).map(|_| 0),
            Action::Write { file, offset, bytes } => {
                open(file).and_then(|file| file.write_all_at(bytes, *offset)).map(|()| bytes.len())
            }
            Action::Sync(_) | Action::Close(_) => Ok(0),
        };
        writer.done(&action, outcome.map_err(|error| error.to_string()), now_ms);
    }
}

/// A core without a runtime: heads, a log, and the truth beside them.
struct Core {
    store: Arc<Store>,
    journal: Journal,
    heads: Vec<TargetHead>,
    groups: Vec<Arc<SlotGroup>>,
    scratch: AppendScratch,
    values: Vec<Vec<f64>>,
}

impl Core {
    fn new(store: &Arc<Store>, targets: usize, series: usize, limits: SegmentLimits) -> Core {
        let first = FileId { boot: store.boot(), writer: 0, sequence: 1 };
        let mut journal = Journal::new(Writer::new(first, store.options().log));
        journal.set_now(0);
        let mut builder = GroupBuilder::default();
        for i in 0..series {
            let (name, le) = (format!("metric_{}", i % 7), format!("{i}"));
            builder.push(&Labels::from_pairs([("__name__", name.as_str()), ("le", le.as_str())]), false);
        }
        let groups = vec![Arc::new(builder.build())];
        let heads = (0..targets).map(|i| {
            let labels = Labels::from_pairs([("instance", format!("host-{i}").as_str()), ("job", "load")]);
            let mut head = TargetHead::new(TargetKey { id: i as u64, labels }, limits, i as u64 * 7);
            head.replace(&groups);
            head
        });
        let heads = heads.collect();
        let values = vec![vec![0.0; series]; targets];
        Core { store: store.clone(), journal, heads, groups, scratch: AppendScratch::default(), values }
    }

    fn scrape(&mut self, at: i64, truth: &mut Truth, next: &mut impl FnMut(u64) -> u64) {
        for (i, head) in self.heads.iter_mut().enumerate() {
            let at = at + i as i64;
            let values = &mut self.values[i];
            for value in values.iter_mut() {
                if next(5) < 2 {
                    *value += next(100) as f64;
                }
            }
            let failed = next(40) == 0;
            if failed {
                head.append_failed(Timestamp(at), 0, &[], false, &mut self.journal, &mut self.scratch).unwrap();
            } else {
                head.append(Timestamp(at), values, &[], false, &mut self.journal, &mut self.scratch).unwrap();
            }
            let labels = Labels::from_pairs([("instance", format!("host-{i}").as_str()), ("job", "load")]);
            for (slot, value) in values.iter().enumerate() {
                let of_series = truth.entry(self.groups[0].series_labels(slot, &labels).to_string()).or_default();
                let was_alive =
                    of_series.last_key_value().is_some_and(|(_, bits)| *bits != series::STALE_NAN.to_bits());
                match failed {
                    false => drop(of_series.insert(at, value.to_bits())),
                    true if was_alive => drop(of_series.insert(at, series::STALE_NAN.to_bits())),
                    true => {}
                }
            }
            head.take_closed(|closed| self.store.flush_queue().flush(closed));
        }
        carry_out(&self.store.log_folder(), &mut self.journal, (at / INTERVAL_MS) as u64 * 5000, false);
        self.tidy();
    }

    /// Forgets what is in chunks, and has log files deleted that only held that.
    fn tidy(&mut self) {
        for head in &mut self.heads {
            head.drop_flushed();
        }
        let unused = self.journal.writer_mut().unwrap().take_unused();
        if !unused.is_empty() {
            self.store.flush_queue().remove_logs(unused);
        }
    }

    /// What the heads, the chunks and the blocks hold together.
    fn read(&self, matchers: &[Matcher], from: i64, to: i64) -> Truth {
        let mut read = Truth::new();
        let mut take = |labels: &Labels, samples: &[series::Sample]| {
            let of_series = read.entry(labels.to_string()).or_default();
            for sample in samples {
                let bits = of_series.entry(sample.timestamp.0).or_insert(sample.value.to_bits());
                if *bits == series::STALE_NAN.to_bits() {
                    *bits = sample.value.to_bits();
                }
            }
        };
        for (i, head) in self.heads.iter().enumerate() {
            let labels = Labels::from_pairs([("instance", format!("host-{i}").as_str()), ("job", "load")]);
            let matching = |group: &Arc<SlotGroup>| group.matching(matchers, &labels).into();
            head.range(Timestamp(from), Timestamp(to), u64::MAX, matching, |group, slot, samples| {
                take(&group.series_labels(slot as usize, &labels), samples);
            })
            .unwrap();
        }
        let stop = AtomicBool::new(false);
        self.store
            .select(
                &[matchers.to_vec()],
                Timestamp(from),
                Timestamp(to),
                |_| false,
                &stop,
                |piece| {
                    take(&piece.labels, &piece.samples);
                    true
                },
            )
            .unwrap();
        read
    }
}

fn within(truth: &Truth, from: i64, to: i64) -> Truth {
    let cut = |samples: &BTreeMap<i64, u64>| samples.range(from..=to).map(|(at, bits)| (*at, *bits)).collect();
    let all = truth.iter().map(|(labels, samples)| (labels.clone(), cut(samples)));
    all.filter(|(_, samples): &(String, BTreeMap<i64, u64>)| !samples.is_empty()).collect()
}

#[track_caller]
fn same(read: &Truth, want: &Truth, what: &str) {
    let differ = want.iter().find(|(labels, samples)| read.get(*labels) != Some(samples));
    if let Some((labels, samples)) = differ {
        let read = read.get(labels).cloned().unwrap_or_default();
        let missing: Vec<_> = samples.iter().filter(|(at, bits)| read.get(at) != Some(bits)).collect();
        let extra: Vec<_> = read.iter().filter(|(at, bits)| samples.get(at) != Some(bits)).collect();
        panic!("{what}: {labels} lacks {missing:?} and has {extra:?}");
    }
    assert_eq!(read.len(), want.len(), "{what}");
}

/// Questions about labels have the answers that reading all samples gives.
fn labels_are_those_of_the_samples(store: &Store) {
    let (range, stop) = ((Timestamp(0), Timestamp(i64::MAX)), AtomicBool::new(false));
    let matcher = |name, op, value| Matcher::new(name, op, value).unwrap();
    for matchers in [
        vec![],
        vec![matcher("__name__", MatchOp::Regex, "metric_[34]")],
        vec![matcher("le", MatchOp::Equal, "0")],
        vec![matcher("le", MatchOp::Equal, "none")],
        vec![matcher("instance", MatchOp::Equal, "host-1")],
        vec![matcher("instance", MatchOp::NotEqual, "host-1"), matcher("__name__", MatchOp::Equal, "metric_2")],
        vec![matcher("zone", MatchOp::Equal, "")],
    ] {
        let selectors = [matchers];
        let mut want = BTreeSet::new();
        let found = |piece: tsdb::SeriesPart| {
            want.insert(piece.labels);
            true
        };
        store.select(&selectors, range.0, range.1, |_| false, &stop, found).unwrap();
        let mut sets = Vec::new();
        store.label_sets(&selectors, range, 1_000_000, &stop, &mut sets);
        assert_eq!(BTreeSet::from_iter(sets), want, "{selectors:?}");
        let names: BTreeSet<Box<str>> =
            want.iter().flat_map(|labels| labels.iter().map(|(name, _)| name.into())).collect();
        assert_eq!(store.label_names(&selectors, range, &stop), names, "{selectors:?}");
        for name in ["__name__", "le", "instance", "zone"] {
            let values: BTreeSet<Box<str>> =
                want.iter().filter_map(|labels| labels.get(name)).map(Into::into).collect();
            let all = store.label_values(name, &selectors, range, 1_000_000, &stop);
            assert_eq!(all, values, "{name} {selectors:?}");
        }
    }
    let mut none = Vec::new();
    store.label_sets(&[Vec::new()], (Timestamp(0), Timestamp(1)), 10, &stop, &mut none);
    assert_eq!(none, []);
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn options(folder: &Path) -> StoreOptions {
    let mut options = StoreOptions::new(folder);
    options.log.file_bytes_max = 20_000;
    options.upkeep_every = Duration::from_millis(50);
    options
}

fn open(folder: &Path) -> Arc<Store> {
    open_with(options(folder))
}

fn open_with(options: StoreOptions) -> Arc<Store> {
    let store = Store::open(options).unwrap();
    wait("replay ends", || store.replay().done);
    store
}

fn close(core: Core) {
    let store = core.store.clone();
    close_with(core, store);
}

/// Gives up a store with what holds it.
fn close_with(core: Core, store: Arc<Store>) {
    drop(core);
    store.stop();
    wait("threads end", || store.has_stopped());
}

const LIMITS: SegmentLimits = SegmentLimits { rows_max: 20, range_ms: 7_200_000, late_ms: 0, log_only: false };
const START: i64 = 1_700_000_000_000 / 7_200_000 * 7_200_000;

#[test]
fn every_sample_is_read_from_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut next = random(1);
    let mut truth = Truth::new();
    let store = open(folder.path());
    let mut core = Core::new(&store, 5, 150, LIMITS);
    drop(store);
    for row in 0..130 {
        core.scrape(START + row * INTERVAL_MS, &mut truth, &mut next);
    }
    wait("segments are sealed", || core.store.stats().segments_sealed > 20);
    let end = START + 130 * INTERVAL_MS;
    same(&core.read(&[], 0, end), &truth, "after scraping");
    for _ in 0..20 {
        let from = START + next(130 * INTERVAL_MS as u64) as i64;
        let to = from + next(300_000) as i64;
        same(&core.read(&[], from, to), &within(&truth, from, to), "a part");
    }
    // Of a segment all, some, and few slots, at its beginning, at its end, and far apart.
    for (label, wanted) in [
        ("__name__", "metric_[34]"),
        ("le", "0"),
        ("le", "149"),
        ("le", "0|1|148|149"),
        ("le", "1?[0-9]|75|14[0-9]"),
        ("le", "150"),
    ] {
        let matcher = Matcher::new(label, MatchOp::Regex, wanted).unwrap();
        let fits = |labels: &str| {
            let value = labels.split(&format!("{label}=\"")).nth(1).and_then(|rest| rest.split('"').next());
            matcher.matches(value.expect("a label that all have"))
        };
        let wanted: Truth =
            truth.iter().filter(|(labels, _)| fits(labels)).map(|(l, s)| (l.clone(), s.clone())).collect();
        assert_eq!(wanted.is_empty(), matcher.value() == "150");
        same(&core.read(&[matcher], 0, end), &wanted, "by label");
    }
    assert!(core.store.stats().log_bytes < 200_000, "{:?}", core.store.stats());
    // Of segments that began in deleted files, later files may hold rows: those are not missed.
    core.tidy();
    let first = folder.path().join("log").join(FileId { boot: core.store.boot(), writer: 0, sequence: 1 }.to_string());
    wait("the first file of the log is deleted", || !first.exists());

    // The process ends without a word: the log has everything that was handed to the kernel.
    close(core);
    let store = open(folder.path());
    assert!(store.replay().samples > 0 && store.replay().rows_lost == 0, "{:?}", store.replay());
    let core = Core::new(&store, 0, 1, LIMITS);
    drop(store);
    same(&core.read(&[], 0, end), &truth, "after a restart");
    labels_are_those_of_the_samples(&core.store);
    close(core);
    // And once more, with nothing to replay.
    let store = open(folder.path());
    let core = Core::new(&store, 0, 1, LIMITS);
    drop(store);
    assert_eq!(core.store.replay().files, 0);
    same(&core.read(&[], 0, end), &truth, "after two restarts");
    labels_are_those_of_the_samples(&core.store);
    close(core);
}

#[test]
fn a_second_process_is_told_who_holds_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let error = Store::open(options(folder.path())).unwrap_err().to_string();
    assert!(error.contains(&format!("held by process {}", std::process::id())), "{error}");
    store.stop();
}

#[test]
fn ranges_become_blocks_and_blocks_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let mut next = random(2);
    let mut truth = Truth::new();
    let mut settings = options(folder.path());
    (settings.block_ms, settings.block_ms_max, settings.retention_ms) = (200_000, 600_000, 0);
    let store = Store::open(settings).unwrap();
    wait("replay ends", || store.replay().done);
    let mut core =
        Core::new(&store, 3, 60, SegmentLimits { rows_max: 20, range_ms: 200_000, late_ms: 0, log_only: false });
    let start = START / 600_000 * 600_000;
    let rows = 6 * 40 + 10;
    for row in 0..rows {
        core.scrape(start + row * INTERVAL_MS, &mut truth, &mut next);
    }
    core.heads.iter_mut().for_each(|head| {
        head.close_all();
        head.take_closed(|closed| store.flush_queue().flush(closed));
    });
    // All of it is long past, so every range is cut, and the full ones are joined.
    wait("blocks are cut and joined", || {
        let (metas, _) = store.block_metas();
        store.stats().head_samples == 0 && metas.iter().any(|meta| meta.compaction.level > 1)
    });
    for head in &mut core.heads {
        head.drop_flushed();
    }
    let end = start + rows * INTERVAL_MS;
    same(&core.read(&[], 0, end), &truth, "from blocks");
    labels_are_those_of_the_samples(&store);
    let promtool = std::process::Command::new("promtool").args(["tsdb", "list"]).arg(folder.path()).output();
    let promtool = promtool.expect("promtool is installed: make test-deps");
    let (metas, bad) = store.block_metas();
    assert!(bad.is_empty(), "{bad:?}");
    let listed = String::from_utf8_lossy(&promtool.stdout);
    assert!(metas.iter().all(|meta| listed.contains(&meta.ulid)), "{listed}");

    // Deletions hold for blocks; a snapshot has what is left.
    let doomed = Matcher::new("__name__", MatchOp::Equal, "metric_1").unwrap();
    store.delete(&[doomed], start, start + 300_000, end).unwrap();
    for (labels, samples) in &mut truth {
        if labels.contains("metric_1\"") {
            samples.retain(|at, _| *at > start + 300_000);
        }
    }
    same(&core.read(&[], 0, end), &truth, "after a deletion");
    store.clean_tombstones().unwrap();
    same(&core.read(&[], 0, end), &truth, "after the deletion was carried out");
    let name = store.snapshot(Some(Vec::new())).unwrap();
    assert!(folder.path().join("snapshots").join(name).read_dir().unwrap().count() >= 1);
    drop(store);
    close(core);
}

/// A file, under whatever name: its inode, and when it was last written, as inodes are used again.
fn identity(metadata: &std::fs::Metadata) -> (u64, SystemTime) {
    (std::os::unix::fs::MetadataExt::ino(metadata), metadata.modified().unwrap())
}

/// The chunk files of each block, with its level.
fn files_of_blocks(store: &Store, folder: &Path) -> Vec<(u32, (u64, SystemTime))> {
    let (metas, bad) = store.block_metas();
    assert!(bad.is_empty(), "{bad:?}");
    let files = |meta: &blocks::Meta| {
        let level = meta.compaction.level;
        let entries = std::fs::read_dir(folder.join(&meta.ulid).join("chunks")).unwrap();
        entries.map(|entry| (level, identity(&entry.unwrap().metadata().unwrap()))).collect::<Vec<_>>()
    };
    metas.iter().flat_map(files).collect()
}

/// The first block of a range takes the chunk files over; those that are joined of first ones are written in the order of
/// series; and later ones take over what those have. Where samples are deleted, nothing of them stays in a file.
#[test]
fn chunks_are_written_once_as_they_come_and_once_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut any = random(5);
    // No scrape fails: heads that are closed in between would not know what to end.
    let mut next = |below| any(below).max(u64::from(below == 40));
    let mut truth = Truth::new();
    let mut settings = options(folder.path());
    (settings.block_ms, settings.block_ms_max, settings.retention_ms) = (200_000, 1_800_000, 0);
    let store = Store::open(settings).unwrap();
    wait("replay ends", || store.replay().done);
    let limits = SegmentLimits { rows_max: 20, range_ms: 200_000, late_ms: 0, log_only: false };
    let mut core = Core::new(&store, 3, 60, limits);
    let start = START / 1_800_000 * 1_800_000;
    let (mut of_head, mut of_second) = (BTreeSet::new(), BTreeSet::new());
    let mut seen: BTreeSet<(u32, bool)> = BTreeSet::new();
    // Twelve ranges: the first nine are joined by threes, and those three once more.
    for range in 0..12 {
        for row in range * 40..(range + 1) * 40 {
            core.scrape(start + row * INTERVAL_MS, &mut truth, &mut next);
        }
        core.heads.iter_mut().for_each(|head| {
            head.close_all();
            head.take_closed(|closed| store.flush_queue().flush(closed));
            head.replace(&core.groups);
        });
        wait("segments are in chunks or blocks", || store.stats().segments_waiting == 0);
        for entry in std::fs::read_dir(folder.path().join("head")).unwrap().flatten() {
            of_head.extend(entry.metadata().map(|metadata| identity(&metadata)));
        }
        wait("the range is a block", || store.stats().head_samples == 0);
        for (level, file) in files_of_blocks(&store, folder.path()) {
            seen.insert((level, of_head.contains(&file)));
            of_second.extend((level == 2).then_some(file));
        }
    }
    wait("blocks are joined twice", || store.block_metas().0.iter().any(|meta| meta.compaction.level == 3));
    for head in &mut core.heads {
        head.drop_flushed();
    }
    let end = start + 12 * 200_000;
    same(&core.read(&[], 0, end), &truth, "from blocks");
    labels_are_those_of_the_samples(&store);
    assert!(seen.contains(&(1, true)) && !seen.contains(&(2, true)), "{seen:?}");
    let files = files_of_blocks(&store, folder.path());
    let third: Vec<_> = files.iter().filter(|(level, _)| *level == 3).map(|(_, file)| file).collect();
    assert!(third.len() == 3 && third.iter().any(|file| of_second.contains(file)), "{files:?}");

    // What is deleted is in no file that a block takes over.
    let doomed = Matcher::new("__name__", MatchOp::Equal, "metric_1").unwrap();
    store.delete(&[doomed], start, end, end).unwrap();
    truth.retain(|labels, _| !labels.contains("metric_1\""));
    same(&core.read(&[], 0, end), &truth, "after a deletion");
    store.clean_tombstones().unwrap();
    same(&core.read(&[], 0, end), &truth, "after the deletion was carried out");
    let after = files_of_blocks(&store, folder.path());
    assert!(after.iter().all(|(_, file)| files.iter().all(|(_, before)| before != file)), "{files:?} {after:?}");
    let verified = std::process::Command::new("promtool").args(["tsdb", "analyze"]).arg(folder.path()).output();
    assert!(verified.expect("promtool is installed: make test-deps").status.success());
    drop(store);
    close(core);
}

/// A chunk file of version 1: chunks of floats have their checksum before them.
#[test]
fn chunk_files_of_the_version_before_are_read() {
    const NAME: &str = "1796092420000-1-1.chunks";
    let folder = tempfile::tempdir().unwrap();
    let head = folder.path().join("head");
    std::fs::create_dir_all(&head).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(NAME);
    std::fs::copy(fixture, head.join(NAME)).unwrap();
    let mut settings = options(folder.path());
    (settings.block_ms, settings.block_ms_max, settings.retention_ms) = (20_000, 20_000, 0);
    let store = Store::open(settings).unwrap();
    wait("replay ends", || store.replay().done);
    let read = |store: &Arc<Store>| {
        let core = Core::new(store, 0, 1, LIMITS);
        core.read(&[], 0, i64::MAX)
    };
    let values = |truth: &Truth, name: &str| -> Vec<f64> {
        let series = truth.iter().find(|(labels, _)| labels.contains(&format!("\"{name}\"")));
        series.unwrap_or_else(|| panic!("{name} in {truth:?}")).1.values().map(|bits| f64::from_bits(*bits)).collect()
    };
    let check = |truth: &Truth| {
        let counted = values(truth, "n");
        assert!(counted.len() > 5 && counted.windows(2).all(|pair| pair[1] == pair[0] + 1.0), "{counted:?}");
        let thirds: Vec<f64> = counted.iter().map(|n| n / 3.0).collect();
        assert_eq!(values(truth, "fraction"), thirds);
        assert!(values(truth, "same").iter().all(|value| *value == 5.0));
        let sometimes = values(truth, "sometimes");
        assert!(sometimes.contains(&1.0) && sometimes.iter().any(|value| value.is_nan()), "{sometimes:?}");
    };
    check(&read(&store));
    wait("it becomes a block", || store.stats().blocks == 1 && store.stats().head_samples == 0);
    check(&read(&store));
    assert_eq!(store.stats().damages, 0);
    store.stop();
}

/// Histograms by series and time, from memory, chunks and blocks: how many each counts, and its buckets.
fn histograms(store: &Store, head: &HistogramHead) -> BTreeMap<String, BTreeMap<i64, String>> {
    let mut read: BTreeMap<String, BTreeMap<i64, String>> = BTreeMap::new();
    let mut take = |labels: &Labels, samples: &[(i64, Arc<Histogram>)]| {
        let of_series = read.entry(labels.to_string()).or_default();
        for (at, histogram) in samples {
            let text = histogram.to_string();
            assert_eq!(of_series.entry(*at).or_insert_with(|| text.clone()), &text, "{labels} at {at}");
        }
    };
    let every = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect();
    let (from, to) = (Timestamp(i64::MIN), Timestamp(i64::MAX));
    head.range(from, to, u64::MAX, every, |group, slot, samples| take(&group.labels(slot as usize), &samples));
    let found = |piece: tsdb::SeriesPart| {
        take(&piece.labels, &piece.histograms);
        true
    };
    store.select(&[Vec::new()], from, to, |_| false, &AtomicBool::new(false), found).unwrap();
    read
}

#[test]
fn histograms_go_the_way_of_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut next = random(6);
    let settings = || {
        let mut settings = options(folder.path());
        (settings.block_ms, settings.block_ms_max, settings.retention_ms) = (200_000, 600_000, 0);
        settings
    };
    let open = || {
        let store = Store::open(settings()).unwrap();
        wait("replay ends", || store.replay().done);
        store
    };
    let mut store = open();
    let mut truth: BTreeMap<String, BTreeMap<i64, String>> = BTreeMap::new();
    let start = START / 600_000 * 600_000;
    let limits = SegmentLimits { range_ms: 200_000, ..SegmentLimits::default() };
    // A run after the other over the same folder: each ends without a word.
    for run in 0..4i64 {
        let mut core = Core::new(&store, 0, 1, LIMITS);
        let mut head = HistogramHead::new(TargetKey { id: 5, labels: Labels::empty() }, limits);
        let labels: Vec<Labels> =
            (0..70).map(|i| Labels::from_pairs([("__name__", "h"), ("i", i.to_string().as_str())])).collect();
        head.add(&labels);
        let mut counts = vec![[0u64; 5]; labels.len()];
        for round in 0..70 {
            let at = start + (run * 70 + round) * INTERVAL_MS;
            let mut samples = Vec::new();
            for (i, counts) in counts.iter_mut().enumerate() {
                if next(3) == 0 {
                    continue;
                }
                if next(30) == 0 {
                    *counts = [0; 5];
                }
                for count in counts.iter_mut() {
                    let (some, more) = (next(4), next(100));
                    *count += some * more;
                }
                let fraction = if i % 7 == 0 { 0.25 } else { 0.0 };
                let buckets = (0..).zip(counts.iter()).filter(|(_, count)| **count > 0);
                let positive: Vec<BucketCount> =
                    buckets.map(|(index, count)| BucketCount { index, count: *count as f64 + fraction }).collect();
                let count = positive.iter().map(|bucket| bucket.count).sum();
                let histogram =
                    Histogram { schema: (i % 3) as i32, count, sum: count / 3.0, positive, ..Histogram::default() };
                truth.entry(labels[i].to_string()).or_default().insert(at, histogram.to_string());
                samples.push(HistogramSample { series: i as u32, at, start: 0, histogram: Arc::new(histogram) });
            }
            head.append(&samples, &mut core.journal);
            head.take_closed(|closed| store.flush_queue().flush(closed));
            carry_out(&store.log_folder(), &mut core.journal, (run * 70 + round) as u64 * 5000, false);
            head.drop_flushed();
        }
        assert_eq!(histograms(&store, &head), truth, "run {run}");
        drop(head);
        close_with(core, store);
        store = open();
    }
    let nothing = HistogramHead::new(TargetKey { id: 5, labels: Labels::empty() }, limits);
    assert_eq!(histograms(&store, &nothing), truth, "from chunks");
    wait("blocks are cut and joined", || {
        let (metas, _) = store.block_metas();
        store.stats().head_samples == 0 && metas.iter().any(|meta| meta.compaction.level > 1)
    });
    assert_eq!(histograms(&store, &nothing), truth, "from blocks");
    let doomed = Matcher::new("i", MatchOp::Regex, "1.").unwrap();
    let end = start + 300 * INTERVAL_MS;
    store.delete(&[doomed], start, start + 700_000, end).unwrap();
    for i in 10..20 {
        let labels = Labels::from_pairs([("__name__", "h"), ("i", i.to_string().as_str())]);
        truth.get_mut(&labels.to_string()).unwrap().retain(|at, _| *at > start + 700_000);
    }
    assert_eq!(histograms(&store, &nothing), truth, "after a deletion");
    store.clean_tombstones().unwrap();
    assert_eq!(histograms(&store, &nothing), truth, "after the deletion was carried out");
    assert_eq!(store.stats().damages, 0);
    store.stop();
}

#[test]
fn a_bad_block_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("01HF0000000000000000000001");
    std::fs::create_dir_all(&bad).unwrap();
    std::fs::write(bad.join("meta.json"), b"{").unwrap();
    let store = open(folder.path());
    let (metas, errors) = store.block_metas();
    assert!(metas.is_empty() && errors.len() == 1, "{errors:?}");
    assert!(errors[0].to_string().contains("meta.json"), "{}", errors[0]);
    store.stop();
}

/// A log of a few hundred rows, cut and flipped everywhere.
#[test]
fn damaged_logs_give_what_was_durable() {
    let folder = tempfile::tempdir().unwrap();
    let mut next = random(3);
    let mut truth = Truth::new();
    let store = open(folder.path());
    let mut core =
        Core::new(&store, 3, 100, SegmentLimits { rows_max: 1000, range_ms: 7_200_000, late_ms: 0, log_only: false });
    core.journal =
        Journal::new(Writer::new(FileId { boot: store.boot(), writer: 0, sequence: 1 }, tsdb::log::Options::default()));
    drop(store);
    for row in 0..60 {
        core.scrape(START + row * INTERVAL_MS, &mut truth, &mut next);
    }
    let log = core.store.log_folder();
    let name = std::fs::read_dir(&log).unwrap().next().unwrap().unwrap().file_name();
    let good = std::fs::read(log.join(&name)).unwrap();
    close(core);
    assert!(good.len() > 15_000, "{}", good.len());
    let file = FileId::parse(&name.to_string_lossy()).unwrap();
    let check = |bytes: Vec<u8>, whole: bool, what: &str| {
        let mut replay = Replay::default();
        replay_file(file, &mut bytes.clone(), &mut replay);
        let mut rows = 0;
        let mut recovered = replay.finish();
        let mut read = |_: FileId, offset: u64, into: &mut [u8]| {
            into.copy_from_slice(&bytes[offset as usize..offset as usize + into.len()]);
            Ok(())
        };
        while let Some((key, restored, _)) = recovered.next(&mut read).unwrap() {
            let Restored::Floats(segment) = restored else { panic!("{what}: histograms") };
            rows += segment.rows();
            let mut head = TargetHead::new(key.clone(), LIMITS, 0);
            head.adopt(segment);
            head.range(
                Timestamp(0),
                Timestamp(i64::MAX),
                u64::MAX,
                |group| (0..group.len() as u32).collect(),
                |group, slot, samples| {
                    let of_series = &truth[&group.series_labels(slot as usize, &key.labels).to_string()];
                    for sample in samples {
                        assert_eq!(of_series.get(&sample.timestamp.0), Some(&sample.value.to_bits()), "{what}");
                    }
                },
            )
            .unwrap();
        }
        assert!(!whole || rows == 180, "{what}: {rows} rows");
        rows
    };
    check(good.clone(), true, "undamaged");
    let mut last = 0;
    for cut in (0..good.len()).step_by(13).chain([good.len()]) {
        let rows = check(good[..cut].to_vec(), false, "cut");
        assert!(rows >= last, "a longer log never has less");
        last = rows;
    }
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << next(8);
        // The parity mends one place of a batch.
        check(bytes, true, &format!("byte {at} flipped"));
    }
    for at in (0..good.len() - 512).step_by(101) {
        let mut bytes = good.clone();
        bytes[at..at + 512].fill(0);
        check(bytes, false, &format!("zeros at {at}"));
    }
    // A disk that says something else when a row is read again.
    let mut replay = Replay::default();
    replay_file(file, &mut good.clone(), &mut replay);
    let mut recovered = replay.finish();
    let error = recovered.next(|_, offset, into| {
        into.copy_from_slice(&good[offset as usize..offset as usize + into.len()]);
        *into.last_mut().unwrap() ^= 1;
        Ok(())
    });
    let error = error.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains(&name.to_string_lossy().into_owned()) && error.contains("other bytes"), "{error}");
}

/// Files of chunks, cut and flipped: what is read is what was written, and nothing else happens.
#[test]
fn damaged_chunks_cost_their_own_samples() {
    let folder = tempfile::tempdir().unwrap();
    let mut next = random(4);
    let mut truth = Truth::new();
    let store = open(folder.path());
    let mut core = Core::new(&store, 2, 40, LIMITS);
    drop(store);
    for row in 0..70 {
        core.scrape(START + row * INTERVAL_MS, &mut truth, &mut next);
    }
    wait("segments are sealed", || core.store.stats().segments_sealed >= 6);
    close(core);
    let store = open(folder.path());
    let core = Core::new(&store, 0, 1, LIMITS);
    drop(store);
    let whole: usize = core.read(&[], 0, i64::MAX).values().map(BTreeMap::len).sum();
    close(core);
    assert_eq!(whole, truth.values().map(BTreeMap::len).sum::<usize>());
    let head = folder.path().join("head");
    let path = std::fs::read_dir(&head)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| std::fs::metadata(path).unwrap().len());
    let path = path.unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut lost = 0;
    for round in 0..100 {
        let mut bytes = good.clone();
        let at = next(bytes.len() as u64) as usize;
        match next(4) {
            0 => bytes.truncate(at),
            1 => bytes[at..(at + 300).min(good.len())].fill(0),
            _ => bytes[at] ^= 1 << next(8),
        }
        std::fs::write(&path, &bytes).unwrap();
        let store = open(folder.path());
        let core = Core::new(&store, 0, 1, LIMITS);
        drop(store);
        let read = core.read(&[], 0, i64::MAX);
        let mut samples = 0;
        for (labels, of_series) in &read {
            samples += of_series.len();
            for (at, bits) in of_series {
                assert_eq!(truth[labels].get(at), Some(bits), "round {round}: {labels} at {at}");
            }
        }
        assert!(samples == whole || core.store.stats().damages > 0, "round {round}: {samples} of {whole} and no word");
        lost += whole - samples;
        close(core);
    }
    assert!(lost > 0);
    // What the disk does not give any more costs its own samples, too.
    std::fs::write(&path, &good).unwrap();
    let store = open(folder.path());
    let core = Core::new(&store, 0, 1, LIMITS);
    drop(store);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(good.len() as u64 - 1).unwrap();
    let samples: usize = core.read(&[], 0, i64::MAX).values().map(BTreeMap::len).sum();
    assert!((whole - LIMITS.rows_max * 3 / 2..whole).contains(&samples), "{samples} of {whole}");
    assert_eq!(core.store.stats().damages, 1);
    close(core);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), &to).unwrap()),
        }
    }
}

/// Files of chunks, cut and flipped while the log still has what is in them: nothing is lost.
#[test]
fn damaged_chunks_are_taken_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut next = random(6);
    let mut truth = Truth::new();
    let mut whole_logs = options(folder.path());
    whole_logs.log.file_bytes_max = 10_000_000;
    whole_logs.upkeep_every = Duration::from_hours(1);
    let store = open_with(whole_logs);
    let mut core = Core::new(&store, 2, 40, LIMITS);
    drop(store);
    for row in 0..70 {
        core.scrape(START + row * INTERVAL_MS, &mut truth, &mut next);
    }
    wait("segments are sealed", || core.store.stats().segments_sealed >= 6);
    close(core);
    let chunks = |folder: &Path| {
        let files = std::fs::read_dir(folder.join("head")).unwrap().map(|entry| entry.unwrap().path());
        files.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
    };
    let good = std::fs::read(chunks(folder.path())).unwrap();
    for round in 0..60 {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        let mut bytes = good.clone();
        let at = next(bytes.len() as u64) as usize;
        match next(4) {
            0 => bytes.truncate(at),
            1 => bytes[at..(at + 300).min(good.len())].fill(0),
            _ => bytes[at] ^= 1 << next(8),
        }
        std::fs::write(chunks(copy.path()), &bytes).unwrap();
        let store = open(copy.path());
        let core = Core::new(&store, 0, 1, LIMITS);
        drop(store);
        same(&core.read(&[], 0, i64::MAX), &truth, &format!("round {round}, byte {at}"));
        close(core);
    }
}

/// What a head has of the matrix of a target's last rows, if it needs no chunks for it.
fn rows_of(core: &Core, target: usize, from: i64, to: i64) -> Option<(Vec<i64>, Vec<u64>)> {
    let mut rows = Rows::default();
    let all = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect();
    let whole =
        core.heads[target].rows((Timestamp(from), Timestamp(to)), u64::MAX, Elsewhere::Chunks, None, &mut rows, all);
    let bits = |value: &f64| if series::is_stale(*value) { series::STALE_NAN.to_bits() } else { value.to_bits() };
    whole.unwrap().then(|| (rows.times.clone(), rows.values.iter().map(bits).collect()))
}

fn recall(core: &mut Core) -> Vec<bool> {
    let store = core.store.clone();
    let mut same = SameGroups::default();
    let one = |(id, head): (usize, &mut TargetHead)| match store.take_last_rows(id as u64) {
        Some(rows) => match head.recall(rows, &mut same) {
            Recalled::TooEarly(rows) => {
                store.return_last_rows(id as u64, rows);
                false
            }
            Recalled::Taken => true,
            Recalled::Refused => false,
        },
        None => false,
    };
    core.heads.iter_mut().enumerate().map(one).collect()
}

/// Nearly now, as rows that are too old are not held; in one range of time, as a new one begins another segment.
fn recently() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64 - 240_000
}

#[test]
fn newest_rows_come_back_after_a_crash() {
    let limits = SegmentLimits { range_ms: 1 << 50, ..LIMITS };
    let mut random = random(5);
    for round in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let mut truth = Truth::new();
        // Old files are deleted soon, but for those that still have one of the newest rows.
        let mut options = options(folder.path());
        options.log.file_bytes_max = 3_000;
        let store = open_with(options.clone());
        let mut core = Core::new(&store, 3, 150, limits);
        drop(store);
        let (start, before, after) = (recently(), 1 + random(120) as i64, 1 + random(8) as i64);
        let interval = 1_000;
        for row in 0..before {
            core.scrape(start + row * interval, &mut truth, &mut random);
        }
        if round % 2 == 0 {
            let closed = core.store.stats().segments_waiting;
            wait("segments are sealed", || core.store.stats().segments_waiting == 0 || closed == 0);
        }
        let values = core.values.clone();
        close(core);
        let store = open_with(options);
        let mut core = Core::new(&store, 3, 150, limits);
        drop(store);
        core.values = values;
        assert!(core.store.has_last_rows(), "round {round}");
        assert_eq!(recall(&mut core), [false; 3], "there is nothing yet to compare them with");
        let mut good = |below| if below == 40 { 1 } else { random(below) };
        for row in before..before + after {
            core.scrape(start + row * interval, &mut truth, &mut good);
        }
        let end = start + (before + after) * interval;
        for target in 0..3 {
            assert_eq!(
                rows_of(&core, target, end - interval * (after + 1), end),
                None,
                "round {round}: not recalled yet"
            );
        }
        assert_eq!(recall(&mut core), [true; 3], "round {round}");
        assert!(!core.store.has_last_rows());
        for target in 0..3 {
            let labels = Labels::from_pairs([("instance", format!("host-{target}").as_str()), ("job", "load")]);
            let mut whole = 0;
            for rows in 1..before + after {
                let from = end - rows * interval;
                let Some((mut times, values)) = rows_of(&core, target, from, end) else { break };
                whole = rows;
                let mut expected = values.iter();
                for at in &times {
                    for slot in 0..150 {
                        let of_series = &truth[&core.groups[0].series_labels(slot, &labels).to_string()];
                        let bits = of_series.get(at).copied().unwrap_or(series::STALE_NAN.to_bits());
                        assert_eq!(expected.next(), Some(&bits), "round {round}, target {target}, slot {slot} at {at}");
                    }
                }
                // Where a failed scrape begins a segment, the one before ends at its time, too.
                times.dedup();
                let wanted: Vec<i64> = (before + after - rows..before + after)
                    .map(|row| start + row * interval + target as i64)
                    .filter(|at| *at >= from && *at <= end)
                    .collect();
                assert_eq!(times, wanted, "round {round}, target {target}");
            }
            // Where a failed scrape begins a segment, the end of the one before counts as a row.
            let wanted = (after + before.min(20) - 3).min(before + after - 1);
            assert!(whole >= wanted, "round {round}, target {target}: {whole} rows of {before} and {after}");
            // Nothing is told twice.
            let samples: Truth = core.read(&[], start, end);
            same(&samples, &truth, "beside what is in chunks");
        }
        core.tidy();
        assert!(rows_of(&core, 2, end - interval * (after + 1), end).is_some(), "upkeep leaves them");
        close(core);
    }
}

#[test]
fn rows_that_do_not_go_on_are_not_taken() {
    let limits = SegmentLimits { rows_max: 10, range_ms: 1 << 50, ..LIMITS };
    let mut random = random(6);
    let mut next = |below| if below == 40 { 1 } else { random(below) };
    for case in ["torn", "other series", "too late"] {
        let folder = tempfile::tempdir().unwrap();
        let mut truth = Truth::new();
        let store = open(folder.path());
        let mut core = Core::new(&store, 1, 30, limits);
        drop(store);
        let start = recently();
        let log_bytes = |core: &Core| {
            let path = std::fs::read_dir(core.store.log_folder()).unwrap().next().unwrap().unwrap().path();
            (path.clone(), std::fs::metadata(path).unwrap().len())
        };
        // Its first segment is over after five rows.
        (0..4).for_each(|row| core.scrape(start + row * 1000, &mut truth, &mut next));
        let (path, bytes) = log_bytes(&core);
        (4..6).for_each(|row| core.scrape(start + row * 1000, &mut truth, &mut next));
        wait("the segment is sealed", || core.store.stats().segments_sealed == 1);
        close(core);
        if case == "torn" {
            // What is torn off the log is whole in chunks: its newest rows are not the newest.
            std::fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
        }
        let store = open(folder.path());
        assert_eq!(store.has_last_rows(), case != "torn");
        let mut core = Core::new(&store, 1, if case == "other series" { 31 } else { 30 }, limits);
        drop(store);
        // A segment that began after others have ended has not all that there was in between.
        let rows = if case == "too late" { 6 } else { 1 };
        (0..rows).for_each(|row| core.scrape(start + 10_000 + row * 1000, &mut truth, &mut next));
        assert_eq!(recall(&mut core), [false], "{case}");
        assert!(!core.store.has_last_rows(), "{case}");
        let to = start + 9_000 + rows * 1000;
        assert_eq!(rows_of(&core, 0, start + 4_500, to), None, "{case}");
        close(core);
    }
}
