//! Simulated weeks: the four owners of a data folder through months of their own time, beside a model that is a sorted map.
//!
//! Time, targets, cuts, compactions, retention, deletions, snapshots, restarts, power cuts and damages come out of one seed, which
//! a failure prints; the same seed gives the same run. A range is twenty seconds here, so that a minute has what a day has.
//! `RINGSCRAPE_SIMULATION_SEEDS` sets how many seeds are run, `RINGSCRAPE_SIMULATION_SEED` which is the first.
//!
//! The value of a sample is made of its series and its time, so that which of two copies is read never matters.

use crate::block_keeper::{BlockKeeper, BlockSettings};
use crate::chunks::{ChunkStore, Flushable, StoredSegments};
use crate::data_dir::DataDir;
use crate::deletions::Deletions;
use crate::faults;
use crate::head::{AppendScratch, SegmentLimits, SparseSample, TargetHead};
use crate::histograms::HistogramHead;
use crate::log::{Action, FileId, Journal, Options as LogOptions, TargetKey, Writer};
use crate::log_keeper::LogKeeper;
use crate::read::apply_deletions;
use crate::series_part::SeriesPart;
use crate::store::ReplayIntoChunks;
use crate::{GroupBuilder, SlotGroup};
use series::{Histogram, Labels, MatchOp, Matcher, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const BLOCK_MS: i64 = 20_000;
const SETTINGS: BlockSettings =
    BlockSettings { block_ms: BLOCK_MS, block_ms_max: 9 * BLOCK_MS, retention_ms: 0, retention_bytes: 0 };
const LATE_MS: i64 = 3 * BLOCK_MS;
const LIMITS: SegmentLimits = SegmentLimits { rows_max: 12, range_ms: BLOCK_MS, late_ms: LATE_MS, log_only: false };
/// Slots of a target: the first half takes the time of its scrapes, the others bring their own.
const SLOTS: usize = 6;
const START: i64 = 1_700_000_000_000 / (9 * BLOCK_MS) * (9 * BLOCK_MS);

struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Of a source that writes to us one slot has histograms.
const HISTOGRAM_SLOT: usize = SLOTS;

/// Series by target and slot.
type SeriesId = (u64, usize);

fn value_of(series: SeriesId, at: i64) -> f64 {
    let mixed =
        (series.0 * 31 + series.1 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at as u64).wrapping_mul(0xff51_afd7);
    (mixed >> 40) as f64
}

fn target_labels(id: u64) -> Labels {
    Labels::from_pairs([("instance", format!("host-{id}").as_str()), ("job", "simulated")])
}

fn slot_labels(slot: usize) -> Labels {
    Labels::from_pairs([("__name__", format!("m{slot}").as_str())])
}

/// Slots of a target; of a source that writes to us all have their own times.
fn group(is_pushed: bool) -> Arc<SlotGroup> {
    let mut builder = GroupBuilder::default();
    for slot in 0..SLOTS {
        builder.push(&slot_labels(slot), is_pushed || slot >= SLOTS / 2);
    }
    Arc::new(builder.build())
}

/// What a sample is: there, or perhaps there, because a power cut may have taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Surely,
    Perhaps,
}

#[derive(Default)]
struct Model(BTreeMap<SeriesId, BTreeMap<i64, (u64, Expected)>>);

impl Model {
    fn add(&mut self, series: SeriesId, at: i64, bits: u64) {
        let sample = self.0.entry(series).or_default().entry(at).or_insert((bits, Expected::Surely));
        // A marker gives way.
        if series::is_stale(f64::from_bits(sample.0)) && !series::is_stale(f64::from_bits(bits)) {
            *sample = (bits, Expected::Surely);
        }
    }
}

/// What was read, by series and time.
#[derive(Default)]
struct Read(BTreeMap<SeriesId, BTreeMap<i64, u64>>);

impl Read {
    fn take(&mut self, piece: &SeriesPart) {
        let number = |name: &str, prefix: &str| {
            let text = piece.labels.get(name).expect("all series have it");
            text.strip_prefix(prefix).and_then(|text| text.parse::<u64>().ok()).expect("a number")
        };
        let series = (number("instance", "host-"), number("__name__", "m") as usize);
        let of_series = self.0.entry(series).or_default();
        for sample in &piece.samples {
            let bits = of_series.entry(sample.timestamp.0).or_insert(sample.value.to_bits());
            if series::is_stale(f64::from_bits(*bits)) {
                *bits = sample.value.to_bits();
            }
        }
        of_series.extend(piece.histograms.iter().map(|(at, histogram)| (*at, histogram.sum.to_bits())));
    }
}

struct Target {
    id: u64,
    head: TargetHead,
    /// It is written to us: any of its slots at any time, and histograms beside.
    histograms: Option<HistogramHead>,
    interval: i64,
    due: i64,
    /// How far its own times are behind.
    lag: i64,
    last_stamps: Vec<i64>,
    alive: bool,
}

impl Target {
    fn close(&mut self) {
        self.head.close_all();
        if let Some(head) = &mut self.histograms {
            head.close();
        }
    }
}

/// The owners as a process has them.
struct Process {
    dir: Arc<DataDir>,
    logs: Arc<LogKeeper>,
    chunks: Arc<ChunkStore>,
    deletions: Arc<Deletions>,
    blocks: BlockKeeper,
    journal: Journal,
    targets: Vec<Target>,
    scratch: AppendScratch,
    failed: bool,
}

struct World {
    seed: u64,
    random: Random,
    folder: tempfile::TempDir,
    settings: BlockSettings,
    now: i64,
    /// Samples before it may have been removed by retention.
    horizon: i64,
    groups: [Arc<SlotGroup>; 2],
    model: Model,
    next_target: u64,
    /// Samples that the log has and no sync has made durable.
    unsynced: Vec<(SeriesId, i64)>,
    /// What was deleted: slot, first and last time.
    deleted: Vec<(usize, i64, i64)>,
    /// Durable bytes of the log's files.
    synced_bytes: BTreeMap<PathBuf, u64>,
    events: BTreeMap<&'static str, u64>,
    /// Nothing but scrapes, flushes and maintenance, and these regularly.
    is_calm: bool,
    /// Calls of the system fail now and then.
    has_faults: bool,
}

fn temporary_folder() -> tempfile::TempDir {
    match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm").unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

impl Process {
    fn start(folder: &Path, settings: BlockSettings) -> Process {
        let (dir, old) = DataDir::open(folder, Duration::ZERO).unwrap();
        let dir = Arc::new(dir);
        let logs = Arc::new(LogKeeper::new(dir.clone(), &old));
        let (chunks, _) = ChunkStore::open(&dir.chunks_folder(), dir.boot(), settings.block_ms).unwrap();
        let chunks = Arc::new(chunks);
        let (deletions, outcome) = Deletions::open(folder, &logs.files().unwrap());
        outcome.unwrap();
        let deletions = Arc::new(deletions);
        let blocks = BlockKeeper::open(dir.clone(), chunks.clone(), logs.clone(), deletions.clone(), settings).unwrap();
        logs.replay_all(old, &ReplayIntoChunks::new(&chunks));
        faults::plan(0, 0);
        logs.replay_failed(|| ReplayIntoChunks::new(&chunks));
        let first = FileId { boot: dir.boot(), writer: 0, sequence: 1 };
        let options = LogOptions { file_bytes_max: 4_000, file_age_ms_max: 30_000, ..LogOptions::default() };
        let journal = Journal::new(Writer::new(first, options));
        let scratch = AppendScratch::default();
        Process { dir, logs, chunks, deletions, blocks, journal, targets: Vec::new(), scratch, failed: false }
    }

    /// Flushes closed segments, as the flush thread does.
    fn flush(&mut self) {
        let mut segments: Vec<Arc<dyn Flushable>> = Vec::new();
        for target in &mut self.targets {
            target.head.take_all_closed(|closed| segments.push(closed));
            if let Some(head) = &mut target.histograms {
                head.take_all_closed(|closed| segments.push(closed));
            }
        }
        let kept: Option<StoredSegments> = self.failed.then(|| self.chunks.stored_segments());
        let batch = self.chunks.begin();
        let appended = segments.iter().try_for_each(|one| one.append_to(&self.chunks, kept.as_ref()).map(drop));
        self.failed = appended.and_then(|()| self.chunks.sync(batch)).is_err();
        if !self.failed {
            segments.iter().for_each(|segment| segment.mark_flushed());
        }
        drop(segments);
        let mut targets = std::mem::take(&mut self.targets);
        targets.retain_mut(|target| {
            let of_histograms = target.histograms.as_mut().is_some_and(HistogramHead::drop_flushed);
            target.head.drop_flushed() || of_histograms || target.alive
        });
        // As the core does now and then.
        let pinned = self.journal.writer().unwrap().pinned_by_few();
        targets.iter_mut().for_each(|target| target.head.turn_over_in(&pinned));
        self.targets = targets;
        let unused = self.journal.writer_mut().unwrap().take_unused();
        self.logs.remove(&unused);
    }
}

impl World {
    fn new(seed: u64, settings: BlockSettings) -> World {
        World {
            seed,
            random: Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5851_f42d),
            folder: temporary_folder(),
            settings,
            now: START,
            horizon: i64::MIN,
            groups: [group(false), group(true)],
            model: Model::default(),
            next_target: 1,
            unsynced: Vec::new(),
            deleted: Vec::new(),
            synced_bytes: BTreeMap::new(),
            events: BTreeMap::new(),
            is_calm: false,
            has_faults: false,
        }
    }

    fn calm(seed: u64, settings: BlockSettings) -> World {
        World { is_calm: true, ..World::new(seed, settings) }
    }

    fn count(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }

    fn add_target(&mut self, process: &mut Process) {
        let id = self.next_target;
        self.next_target += 1;
        self.begin_target(process, id);
    }

    fn begin_target(&mut self, process: &mut Process, id: u64) {
        let is_pushed = id.is_multiple_of(3);
        let mut head = TargetHead::new(TargetKey { id, labels: target_labels(id) }, LIMITS, id * 7);
        head.replace(std::slice::from_ref(&self.groups[usize::from(is_pushed)]));
        let histograms = is_pushed.then(|| {
            let key = TargetKey { id: id + (1 << 32), labels: target_labels(id) };
            let mut head = HistogramHead::new(key, LIMITS);
            head.add(&[slot_labels(HISTOGRAM_SLOT)]);
            head
        });
        let interval = [500, 1_000, 1_500, 4_000, 15_000][self.random.below(5) as usize];
        let lag = [0, 700, 3_000, 25_000][self.random.below(4) as usize];
        let due = self.now + self.random.below(interval as u64) as i64;
        let last_stamps = vec![i64::MIN; SLOTS + 1];
        process.targets.push(Target { id, head, histograms, interval, due, lag, last_stamps, alive: true });
        self.count("targets");
    }

    /// Scrapes what is due.
    fn scrape(&mut self, process: &mut Process) {
        for at in 0..process.targets.len() {
            if !process.targets[at].alive || process.targets[at].due > self.now {
                continue;
            }
            self.scrape_one(process, at);
        }
    }

    fn scrape_one(&mut self, process: &mut Process, at: usize) {
        let Process { targets, journal, scratch, .. } = process;
        let target = &mut targets[at];
        target.due += target.interval;
        let now = self.now;
        if target.head.newest_at().is_some_and(|newest| newest.0 >= now) {
            return;
        }
        if target.histograms.is_some() {
            return self.write_one(process, at);
        }
        let failed = self.random.one_in(30);
        let was_alive: Vec<bool> = (0..SLOTS / 2).map(|slot| target.last_stamps[slot] != i64::MIN).collect();
        if failed {
            target.head.append_failed(Timestamp(now), 0, &[], false, journal, scratch).unwrap();
            for slot in (0..SLOTS / 2).filter(|slot| was_alive[*slot]) {
                self.model.add((target.id, slot), now, series::STALE_NAN.to_bits());
                self.unsynced.push(((target.id, slot), now));
                target.last_stamps[slot] = i64::MIN;
            }
            return;
        }
        let mut stamps = Vec::new();
        for slot in SLOTS / 2..SLOTS {
            let last = target.last_stamps[slot];
            // As before, late, ahead, far behind, or somewhat behind.
            let stamp = match self.random.below(12) {
                0 if last != i64::MIN => last,
                1 if last != i64::MIN => last - 1 - self.random.below(LATE_MS as u64) as i64,
                2 => now + self.random.below(2 * BLOCK_MS as u64) as i64,
                3 => now - self.random.below(2 * LATE_MS as u64) as i64,
                _ => now - target.lag - self.random.below(300) as i64,
            };
            // Whether a sample that comes after its deletion is seen depends on when chunks are cut.
            let hidden = self.deleted.iter().any(|(of, from, to)| *of == slot && stamp >= *from && stamp <= *to);
            stamps.push(if hidden { now } else { stamp });
        }
        let time = |slot: usize| if slot < SLOTS / 2 { now } else { stamps[slot - SLOTS / 2] };
        let values: Vec<f64> = (0..SLOTS).map(|slot| value_of((target.id, slot), time(slot))).collect();
        target.head.append(Timestamp(now), &values, &stamps, false, journal, scratch).unwrap();
        for (slot, value) in values.iter().enumerate() {
            let (stamp, last) = (time(slot), target.last_stamps[slot]);
            let taken = slot < SLOTS / 2 || stamp > last || (stamp < last && stamp >= now - LATE_MS);
            if taken {
                self.model.add((target.id, slot), stamp, value.to_bits());
                self.unsynced.push(((target.id, slot), stamp));
                target.last_stamps[slot] = last.max(stamp);
            }
        }
    }

    /// A time that a source that writes to us has for a slot, which is none that was deleted.
    fn pushed_stamp(&mut self, slot: usize, last: i64) -> i64 {
        let now = self.now;
        let stamp = match self.random.below(10) {
            0 => now + self.random.below(2 * BLOCK_MS as u64) as i64,
            1 if last != i64::MIN => last - 1 - self.random.below(LATE_MS as u64) as i64,
            2 => now - self.random.below(2 * LATE_MS as u64) as i64,
            _ => now - self.random.below(1_000) as i64,
        };
        let hidden = self.deleted.iter().any(|(of, from, to)| *of == slot && stamp >= *from && stamp <= *to);
        if hidden { now } else { stamp }
    }

    /// A source writes some of its series.
    fn write_one(&mut self, process: &mut Process, at: usize) {
        let now = self.now;
        let id = process.targets[at].id;
        let (mut given, mut late) = (Vec::new(), Vec::new());
        for slot in 0..SLOTS {
            let last = process.targets[at].last_stamps[slot];
            let stamp = self.pushed_stamp(slot, last);
            let sample =
                SparseSample { group: 0, slot: slot as u32, stamp, value: value_of((id, slot), stamp), start: 0 };
            if self.random.one_in(2) || stamp == last {
                continue;
            } else if stamp > last {
                given.push(sample);
                process.targets[at].last_stamps[slot] = stamp;
            } else if stamp >= now - LATE_MS {
                late.push(sample);
            } else {
                continue;
            }
            self.model.add((id, slot), stamp, sample.value.to_bits());
            self.unsynced.push(((id, slot), stamp));
        }
        let Process { targets, journal, scratch, .. } = process;
        let target = &mut targets[at];
        target.head.append_sparse(Timestamp(now), &given, &late, journal, scratch).unwrap();
        let last = target.last_stamps[HISTOGRAM_SLOT];
        let stamp = self.pushed_stamp(HISTOGRAM_SLOT, last);
        if stamp > last {
            let series = (id, HISTOGRAM_SLOT);
            let histogram =
                Histogram { count: 1.0, sum: value_of(series, stamp), zero_count: 1.0, ..Histogram::default() };
            target.last_stamps[HISTOGRAM_SLOT] = stamp;
            self.model.add(series, stamp, histogram.sum.to_bits());
            self.unsynced.push((series, stamp));
            let head = target.histograms.as_mut().expect("it is one that writes");
            let given = crate::HistogramSample { series: 0, at: stamp, start: 0, histogram: Arc::new(histogram) };
            head.append(&[given], journal);
        }
        self.count("writes");
    }

    /// Writes the log, as the core does.
    fn write_log(&mut self, process: &mut Process, finish: bool) {
        let folder = process.dir.log_folder();
        let now_ms = (self.now - START) as u64 + 1;
        process.journal.set_now(now_ms);
        while let Some(action) = process.journal.writer_mut().unwrap().next(now_ms, finish) {
            let path = |file: &FileId| folder.join(file.to_string());
            let outcome = match &action {
                Action::Create(file) => File::create_new(path(file)).map(|_| 0),
                Action::Write { file, offset, bytes } => File::options()
                    .write(true)
                    .open(path(file))
                    .and_then(|file| file.write_all_at(bytes, *offset))
                    .map(|()| bytes.len()),
                Action::Sync(file) => {
                    let length = std::fs::metadata(path(file)).unwrap().len();
                    self.synced_bytes.insert(path(file), length);
                    Ok(0)
                }
                Action::Close(_) => Ok(0),
            };
            process.journal.writer_mut().unwrap().done(&action, outcome.map_err(|error| error.to_string()), now_ms);
        }
        let writer = process.journal.writer().unwrap();
        if writer.durable() == writer.appended() {
            self.unsynced.clear();
        }
    }

    /// Everything that memory, chunks and blocks hold.
    fn read(&self, process: &Process, from: i64, to: i64) -> BTreeMap<SeriesId, BTreeMap<i64, u64>> {
        let mut read = Read::default();
        let deletions = process.deletions.all();
        for target in &process.targets {
            let labels = target_labels(target.id);
            let every = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect();
            let range = (Timestamp(from), Timestamp(to));
            let found = |group: &Arc<SlotGroup>, slot: u32, samples: &[series::Sample]| {
                let mut piece = SeriesPart::new(group.series_labels(slot as usize, &labels));
                piece.samples.extend_from_slice(samples);
                apply_deletions(&deletions, &mut piece);
                read.take(&piece);
            };
            target.head.range(range.0, range.1, u64::MAX, every, found).unwrap();
            let Some(head) = &target.histograms else { continue };
            head.range(range.0, range.1, u64::MAX, every, |group, slot, samples| {
                let mut piece = SeriesPart::new(group.series_labels(slot as usize, &labels));
                piece.histograms = samples;
                apply_deletions(&deletions, &mut piece);
                read.take(&piece);
            });
        }
        let sources = (&*process.chunks, || process.blocks.open_blocks(), &*deletions);
        let (range, stop) = ((Timestamp(from), Timestamp(to)), AtomicBool::new(false));
        crate::read::select(
            sources,
            &[Vec::new()],
            range,
            |_| false,
            &stop,
            |piece| {
                read.take(&piece);
                true
            },
        )
        .unwrap();
        read.0.retain(|_, samples| !samples.is_empty());
        read.0
    }

    /// Every query equals the model. What may be lost is settled by what is there.
    #[track_caller]
    fn check(&mut self, process: &Process, from: i64, to: i64, what: &str) {
        let read = self.read(process, from, to);
        self.compare(read, from, to, what);
    }

    #[track_caller]
    fn compare(&mut self, read: BTreeMap<SeriesId, BTreeMap<i64, u64>>, from: i64, to: i64, what: &str) {
        let seed = self.seed;
        for (series, samples) in &read {
            for (at, bits) in samples {
                let expected = self.model.0.get(series).and_then(|samples| samples.get(at)).map(|(bits, _)| *bits);
                assert_eq!(expected, Some(*bits), "seed {seed}: {what}: {series:?} at {} is there", at - START);
            }
        }
        for (series, samples) in &mut self.model.0 {
            let none = BTreeMap::new();
            let found = read.get(series).unwrap_or(&none);
            let mut gone = Vec::new();
            for (at, (_, expected)) in samples.range_mut(from.max(self.horizon)..=to.max(self.horizon)) {
                match (found.contains_key(at), *expected) {
                    (true, _) => *expected = Expected::Surely,
                    (false, Expected::Perhaps) => gone.push(*at),
                    (false, Expected::Surely) => {
                        panic!("seed {seed}: {what}: {series:?} at {} is missing", at - START)
                    }
                }
            }
            gone.iter().for_each(|at| {
                samples.remove(at);
            });
        }
    }

    /// Nothing is left behind, and blocks lie where they belong.
    #[track_caller]
    fn check_folder(&self, process: &Process) {
        let seed = self.seed;
        let blocks = process.blocks.open_blocks();
        let names: BTreeSet<String> = blocks.iter().map(|block| block.meta().ulid.clone()).collect();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            let known = ["lock", "boot", "log", "head", "wal", "deletions", "snapshots", "quarantine"];
            assert!(names.contains(&name) || known.contains(&&*name), "seed {seed}: {name} is left behind");
        }
        for block in &blocks {
            let (min, max) = (block.meta().min_time, block.meta().max_time);
            let aligned = min % BLOCK_MS == 0 && max % BLOCK_MS == 0;
            assert!(aligned && max - min <= SETTINGS.block_ms_max, "seed {seed}: a block of {} from {min}", max - min);
        }
        let files = std::fs::read_dir(process.dir.chunks_folder()).unwrap().count();
        // A file for each start and range that is no block yet: ranges that late samples and those ahead lie in.
        let ranges = (2 * LATE_MS + 6 * BLOCK_MS) / BLOCK_MS + 4;
        let bound = ranges as usize * (1 + process.dir.boot().min(4) as usize);
        assert!(files <= bound, "seed {seed}: {files} chunk files");
    }

    fn delete(&mut self, process: &mut Process) {
        let slot = self.random.below(SLOTS as u64 + 1);
        let matcher = Matcher::new("__name__", MatchOp::Equal, format!("m{slot}").as_str()).unwrap();
        let to = self.now - self.random.below(4 * BLOCK_MS as u64) as i64 + BLOCK_MS;
        let from = to - self.random.below(6 * BLOCK_MS as u64) as i64;
        process.blocks.delete(&[matcher], from, to, self.now).unwrap();
        let to = to.min(self.now);
        for (series, samples) in &mut self.model.0 {
            if series.1 == slot as usize && from <= to {
                samples.retain(|at, _| *at < from || *at > to);
            }
        }
        self.deleted.push((slot as usize, from, to));
        self.count("deletions");
    }

    /// The process is killed, perhaps with the machine; gives the next one.
    fn restart(&mut self, mut process: Process) -> Process {
        faults::plan(0, 0);
        let kind = self.random.below(4);
        let mut torn = None;
        let ids: Vec<u64> = process.targets.iter().filter(|target| target.alive).map(|target| target.id).collect();
        match kind {
            0 => {
                process.targets.iter_mut().for_each(Target::close);
                self.write_log(&mut process, true);
                process.flush();
                self.count("shutdowns");
            }
            1 => {
                self.write_log(&mut process, false);
                self.count("kills");
            }
            _ => {
                self.count("power cuts");
                torn = Some(self.append_unsynced(&mut process));
            }
        }
        let log_folder = process.dir.log_folder();
        drop(process);
        if kind >= 2 {
            self.lose_unsynced(&log_folder);
            self.tear(torn.unwrap_or_default());
        } else {
            self.unsynced.clear();
        }
        if self.has_faults && self.random.one_in(3) {
            faults::plan(self.random.below(10) as u32, 1 + self.random.below(5) as u32);
        }
        let mut process = Process::start(self.folder.path(), self.settings);
        self.synced_bytes.clear();
        ids.into_iter().for_each(|id| self.begin_target(&mut process, id));
        process
    }

    /// Appends closed segments to chunk files without a sync; gives the files with what is durable of them.
    fn append_unsynced(&mut self, process: &mut Process) -> Vec<(PathBuf, u64)> {
        let files = |folder: &Path| {
            let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            files.map(|path| (std::fs::metadata(&path).unwrap().len(), path)).map(|(length, path)| (path, length))
        };
        let folder = process.dir.chunks_folder();
        let before: BTreeMap<PathBuf, u64> = files(&folder).collect();
        let mut segments = Vec::new();
        process.targets.iter_mut().for_each(|target| target.head.take_all_closed(|closed| segments.push(closed)));
        for segment in segments {
            segment.append_to(&process.chunks, None).unwrap();
        }
        let grown = files(&folder).map(|(path, length)| (before.get(&path).copied().unwrap_or(0), path, length));
        let grown = grown.filter(|(synced, _, length)| synced < length).map(|(synced, path, _)| (path, synced));
        grown.collect()
    }

    /// Loses what is not durable of files.
    fn tear(&mut self, files: Vec<(PathBuf, u64)>) {
        for (path, synced) in files {
            let length = std::fs::metadata(&path).unwrap().len();
            if synced >= length {
                continue;
            }
            let file = File::options().write(true).open(&path).unwrap();
            let keep = synced + self.random.below(length - synced + 1);
            match self.random.below(4) {
                0 => file.set_len(keep).unwrap(),
                1 | 2 => file.write_all_at(&vec![0; (length - keep) as usize], keep).unwrap(),
                _ => {}
            }
        }
    }

    /// What no sync has made durable is lost, torn or zeroed.
    fn lose_unsynced(&mut self, log_folder: &Path) {
        for (series, at) in std::mem::take(&mut self.unsynced) {
            if let Some(sample) = self.model.0.get_mut(&series).and_then(|samples| samples.get_mut(&at)) {
                sample.1 = Expected::Perhaps;
            }
        }
        let files = std::fs::read_dir(log_folder).unwrap().map(|entry| entry.unwrap().path());
        let files = files.map(|path| (self.synced_bytes.get(&path).copied().unwrap_or(0), path));
        let files = files.map(|(synced, path)| (path, synced)).collect();
        self.tear(files);
    }

    /// A snapshot has what memory, chunks and blocks have.
    fn snapshot(&mut self, process: &Process) {
        faults::plan(0, 0);
        let mut segments: Vec<Arc<dyn Flushable>> = Vec::new();
        for target in &process.targets {
            segments.extend(target.head.unflushed().into_iter().map(|segment| segment as Arc<dyn Flushable>));
            let histograms = target.histograms.iter().flat_map(HistogramHead::unflushed);
            segments.extend(histograms.map(|segment| segment as Arc<dyn Flushable>));
        }
        let name = process.blocks.snapshot(Some(segments)).unwrap();
        let folder = self.folder.path().join("snapshots").join(name);
        let blocks =
            std::fs::read_dir(&folder).unwrap().map(|entry| blocks::Block::open(&entry.unwrap().path()).unwrap());
        let blocks: Vec<Arc<blocks::Block>> = blocks.map(Arc::new).collect();
        let empty = temporary_folder();
        let (chunks, _) = ChunkStore::open(empty.path(), 1, BLOCK_MS).unwrap();
        let mut read = Read::default();
        let stop = AtomicBool::new(false);
        let range = (Timestamp(i64::MIN), Timestamp(i64::MAX));
        crate::read::select(
            (&chunks, || blocks, &[]),
            &[Vec::new()],
            range,
            |_| false,
            &stop,
            |piece| {
                read.take(&piece);
                true
            },
        )
        .unwrap();
        self.compare(read.0, i64::MIN, i64::MAX, "in a snapshot");
        std::fs::remove_dir_all(&folder).unwrap();
        self.count("snapshots");
    }

    fn step(&mut self, mut process: Process) -> Process {
        self.now += [50, 100, 250, 250][self.random.below(4) as usize];
        self.scrape(&mut process);
        self.write_log(&mut process, false);
        if self.is_calm {
            process.flush();
            if self.random.one_in(20) {
                process.blocks.run_maintenance(self.now);
            }
            return process;
        }
        if self.has_faults && self.random.one_in(300) {
            // Some calls work, then some fail.
            faults::plan(self.random.below(6) as u32, 1 + self.random.below(8) as u32);
            self.count("faults");
        }
        if self.random.one_in(4) {
            process.flush();
        }
        if self.random.one_in(60) {
            process.blocks.run_maintenance(self.now);
            if self.settings.retention_ms > 0 {
                self.horizon = self.horizon.max(self.now - self.settings.retention_ms);
            }
            self.count("maintenance");
            self.check_folder(&process);
        }
        if self.random.one_in(150) {
            let from = self.now - self.random.below(10 * BLOCK_MS as u64) as i64;
            let to = from + self.random.below(4 * BLOCK_MS as u64) as i64;
            self.check(&process, from, to, "a part");
        }
        if self.random.one_in(400) && process.targets.len() < 6 {
            self.add_target(&mut process);
        }
        if self.random.one_in(700) && process.targets.len() > 2 {
            let gone = self.random.below(process.targets.len() as u64) as usize;
            process.targets[gone].alive = false;
            process.targets[gone].close();
            self.count("targets gone");
        }
        if self.random.one_in(900) {
            self.delete(&mut process);
            self.check(&process, i64::MIN, i64::MAX, "after a deletion");
        }
        if self.random.one_in(900) {
            self.snapshot(&process);
        }
        if self.random.one_in(700) {
            process = self.restart(process);
            self.check(&process, i64::MIN, i64::MAX, "after a start");
        }
        process
    }

    fn start(&mut self) -> Process {
        let mut process = Process::start(self.folder.path(), self.settings);
        for _ in 0..3 {
            self.add_target(&mut process);
        }
        process
    }

    /// Lets so many ranges of time pass.
    fn pass(&mut self, mut process: Process, ranges: i64) -> Process {
        let end = self.now + ranges * BLOCK_MS;
        while self.now < end {
            process = self.step(process);
        }
        faults::plan(0, 0);
        process
    }

    fn run(&mut self, ranges: i64) {
        let process = self.start();
        let mut process = self.pass(process, ranges);
        process.flush();
        process.flush();
        process.blocks.run_maintenance(self.now);
        self.check(&process, i64::MIN, i64::MAX, "at the end");
        self.check_folder(&process);
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn weeks_of_random_events_leave_what_the_model_has() {
    let first = number("RINGSCRAPE_SIMULATION_SEED", 1);
    let seeds = number("RINGSCRAPE_SIMULATION_SEEDS", 12);
    let mut events: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..first + seeds {
        let retention_ms = if seed.is_multiple_of(3) { 15 * BLOCK_MS } else { 0 };
        let mut world = World::new(seed, BlockSettings { retention_ms, ..SETTINGS });
        world.has_faults = seed.is_multiple_of(2);
        world.run(30);
        world.events.into_iter().for_each(|(event, count)| *events.entry(event).or_default() += count);
    }
    println!("{seeds} seeds from {first} on: {events:?}");
}

/// Files and folders of the data folder whose names end so.
fn names(world: &World, end: &str) -> Vec<String> {
    let entries = std::fs::read_dir(world.folder.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(end)).collect()
}

#[test]
fn blocks_of_samples_with_own_times_do_not_chain_and_retention_removes_what_is_old() {
    let settings = BlockSettings { retention_ms: 12 * BLOCK_MS, ..SETTINGS };
    let mut world = World::calm(3, settings);
    let mut process = world.start();
    process.targets.iter_mut().for_each(|target| (target.interval, target.lag) = (500, 3_000));
    let process = world.pass(process, 60);
    let blocks = process.blocks.open_blocks();
    world.check_folder(&process);
    let newest = blocks.iter().map(|block| block.meta().max_time).max().unwrap();
    let oldest = blocks.iter().map(|block| block.meta().min_time).min().unwrap();
    // Some are as long as the longest, which goes as a whole.
    let bound = settings.retention_ms + settings.block_ms_max;
    assert!(newest - oldest <= bound, "{} ranges are there", (newest - oldest) / BLOCK_MS);
    assert!(newest - oldest >= settings.retention_ms - BLOCK_MS, "{} ranges are there", (newest - oldest) / BLOCK_MS);
    assert!(blocks.windows(2).all(|two| two[0].meta().max_time <= two[1].meta().min_time), "blocks overlap");

    // By size: the oldest go, one by one. A start puts the log into chunks first.
    drop(process);
    let process = Process::start(world.folder.path(), SETTINGS);
    let bytes: u64 = blocks.iter().map(|block| block.bytes()).sum();
    let other_bytes = process.chunks.size().bytes + process.logs.bytes();
    drop(process);
    let settings = BlockSettings { retention_bytes: bytes * 3 / 4 + other_bytes, ..SETTINGS };
    let process = Process::start(world.folder.path(), settings);
    process.blocks.run_maintenance(world.now);
    let left = process.blocks.open_blocks();
    assert!(!left.is_empty() && left.len() < blocks.len(), "{} of {}", left.len(), blocks.len());
    assert!(left[0].meta().min_time > blocks[0].meta().min_time, "the oldest is still there");
}

#[test]
fn a_damaged_block_is_marked_and_the_rest_goes_on() {
    let mut world = World::calm(4, BlockSettings { block_ms_max: BLOCK_MS, ..SETTINGS });
    let process = world.start();
    let process = world.pass(process, 20);
    let damaged = process.blocks.open_blocks()[4].folder().to_owned();
    drop(process);
    let chunks = damaged.join("chunks").join("000001");
    let mut bytes = std::fs::read(&chunks).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&chunks, bytes).unwrap();
    let process = Process::start(world.folder.path(), SETTINGS);
    for round in 0..20 {
        process.blocks.run_maintenance(world.now + round * 60_000);
        assert_eq!(names(&world, blocks::UNFINISHED), Vec::<String>::new(), "round {round}");
    }
    let blocks = process.blocks.open_blocks();
    let failed: Vec<_> = blocks.iter().filter(|block| block.meta().compaction.failed).collect();
    assert_eq!(failed.iter().map(|block| block.folder()).collect::<Vec<_>>(), [&*damaged]);
    assert!(blocks.iter().filter(|block| block.meta().compaction.level > 1).count() >= 3, "{} blocks", blocks.len());
    let failures = &process.blocks.stats.compaction_failures;
    assert_eq!(failures.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn what_was_deleted_stays_away_when_other_sources_are_flushed_and_after_a_start() {
    let mut world = World::calm(5, SETTINGS);
    let mut process = world.start();
    // One target is so slow that its rows are in memory when those of the others are in blocks.
    process.targets.iter_mut().for_each(|target| (target.interval, target.lag) = (500, 0));
    (process.targets[0].interval, process.targets[0].due) = (3 * BLOCK_MS, world.now);
    let mut process = world.pass(process, 3);
    let every = Matcher::new("job", MatchOp::Equal, "simulated").unwrap();
    process.blocks.delete(&[every], i64::MIN, world.now, world.now).unwrap();
    let now = world.now;
    world.model.0.values_mut().for_each(|samples| samples.retain(|at, _| *at > now));
    for slot in 0..SLOTS {
        world.deleted.push((slot, i64::MIN, world.now));
    }
    for round in 0..12 {
        process = world.pass(process, 1);
        world.check(&process, i64::MIN, i64::MAX, &format!("{round} ranges after the deletion"));
    }
    assert!(process.deletions.all().is_empty(), "the deletion is remembered for ever");
    let process = world.restart(process);
    world.check(&process, i64::MIN, i64::MAX, "after a start");
}

#[test]
fn chunks_that_were_not_synced_are_taken_from_the_log() {
    let mut world = World::calm(6, SETTINGS);
    let mut process = world.start();
    process.targets.iter_mut().for_each(|target| (target.interval, target.lag) = (500, 3_000));
    for _ in 0..60 {
        world.now += 250;
        world.scrape(&mut process);
        world.write_log(&mut process, true);
    }
    let grown = world.append_unsynced(&mut process);
    assert!(!grown.is_empty());
    drop(process);
    for (path, synced) in grown {
        // The frames are there, the chunks behind the last of them are not.
        let length = std::fs::metadata(&path).unwrap().len();
        let file = File::options().write(true).open(&path).unwrap();
        let zeros = ((length - synced) / 4).min(40);
        file.write_all_at(&vec![0; zeros as usize], length - zeros).unwrap();
    }
    let process = Process::start(world.folder.path(), SETTINGS);
    world.check(&process, i64::MIN, i64::MAX, "after the power cut");
    assert!(process.chunks.corruptions() > 0, "the damage is reported");
}

#[test]
fn a_full_disk_has_no_more_files_than_an_empty_one() {
    let mut world = World::calm(7, SETTINGS);
    let process = world.start();
    let mut process = world.pass(process, 1);
    process.targets.iter_mut().for_each(|target| (target.interval, target.due) = (500, world.now));
    let count = |process: &Process| std::fs::read_dir(process.dir.chunks_folder()).unwrap().count();
    let before = count(&process);
    for works in 0..8 {
        faults::plan(works, u32::MAX);
        for _ in 0..30 {
            world.now += 250;
            world.scrape(&mut process);
            world.write_log(&mut process, true);
            process.flush();
        }
        assert!(process.failed);
        assert!(count(&process) <= before + 2, "{} files were {before}", count(&process));
    }
    faults::plan(0, 0);
    process.flush();
    process.flush();
    assert!(!process.failed);
    world.check(&process, i64::MIN, i64::MAX, "when there is room again");
    let samples = process.chunks.size().samples;
    drop(process);
    let process = Process::start(world.folder.path(), SETTINGS);
    world.check(&process, i64::MIN, i64::MAX, "after a start");
    assert!(process.chunks.size().samples >= samples);
}

#[test]
fn a_damaged_list_of_deletions_does_not_stop_the_start() {
    let mut world = World::calm(8, SETTINGS);
    let process = world.start();
    let process = world.pass(process, 1);
    let every = Matcher::new("job", MatchOp::Equal, "simulated").unwrap();
    process.blocks.delete(&[every], 0, START, world.now).unwrap();
    drop(process);
    let path = world.folder.path().join("deletions");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let store = crate::Store::open(crate::StoreOptions::new(world.folder.path())).unwrap();
    assert!(store.stats().damages > 0 && !path.exists());
    assert!(world.folder.path().join("quarantine").join("deletions").exists());
    store.stop();
}
