//! What arrives, in seeded runs: targets that come, change, fail and move between cores, logs that are written to real files, an
//! endpoint that takes batches in any order, is away, and a process that is killed. Every sample arrives, each series in the
//! order of its samples; twice only what a crash repeats.

use crate::batch::BatchBuilder;
use crate::cursor::SendCursor;
use crate::in_flight::{Batch, InFlight};
use crate::metadata::MetadataSnapshot;
use crate::outgoing::OutgoingLabels;
use crate::protocol::Protocol;
use crate::reader::{Reader, Start};
use crate::stats::Stats;
use config::RemoteWrite;
use remote::{Message, WriteLimits, decode_write};
use series::clock::now_ms;
use series::{Labels, STALE_NAN, Timestamp};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;
use tsdb::log::{Action, FileId, Journal, KeptLogs, Options, TargetKey, Writer};
use tsdb::{AppendScratch, GroupBuilder, SegmentLimits, SlotGroup, TargetHead};

const TARGETS: usize = 4;
const CORES: usize = 2;
/// Rows of cores may be read so far out of order; see `reader`.
const MOVE_AFTER_MS: i64 = 700;

struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }
}

/// Series to time to the bits of the value.
type Series = BTreeMap<String, BTreeMap<i64, u64>>;

struct Target {
    number: usize,
    core: usize,
    head: TargetHead,
    /// Series of its last row.
    alive: Vec<String>,
    values: u64,
}

/// The scraping half: heads and logs of one start.
struct Cores {
    boot: u32,
    journals: Vec<Journal>,
    targets: Vec<Target>,
    groups: Vec<Arc<SlotGroup>>,
    at: i64,
}

fn group(names: &[String]) -> Arc<SlotGroup> {
    let mut builder = GroupBuilder::default();
    names.iter().for_each(|name| builder.push(&Labels::from_pairs([("__name__", name.as_str())]), false));
    Arc::new(builder.build())
}

fn head(number: usize, log_only: bool) -> TargetHead {
    let labels = Labels::from_pairs([("instance", format!("t{number}"))]);
    let limits = SegmentLimits { rows_max: 5, log_only, ..SegmentLimits::default() };
    TargetHead::new(TargetKey { id: number as u64, labels }, limits, number as u64)
}

impl Cores {
    fn start(boot: u32, at: i64, random: &mut Random) -> Cores {
        let journal = |writer| {
            let first = FileId { boot, writer: writer as u16, sequence: 1 };
            Journal::new(Writer::new(first, Options { file_age_ms_max: 3_000, ..Options::default() }))
        };
        // They overlap, so that series move between groups.
        let names = |from: usize, to: usize| (from..to).map(|i| format!("m{i}")).collect::<Vec<_>>();
        let groups = vec![group(&names(0, 5)), group(&names(3, 9)), group(&names(0, 12)), group(&names(9, 14))];
        let target = |number| Target {
            number,
            core: random.below(CORES as u64) as usize,
            head: head(number, number % 2 == 0),
            alive: Vec::new(),
            values: 0,
        };
        Cores {
            boot,
            journals: (0..CORES).map(journal).collect(),
            targets: (0..TARGETS).map(target).collect(),
            groups,
            at,
        }
    }

    /// A row of a target, and what is true after it.
    fn scrape(&mut self, random: &mut Random, truth: &mut Series) {
        self.at += 1 + random.below(120) as i64;
        let target = &mut self.targets[random.below(TARGETS as u64) as usize];
        let mut scratch = AppendScratch::default();
        if random.below(7) == 0 || target.head.groups().next().is_none() {
            let one = self.groups[random.below(3) as usize].clone();
            let more = (random.below(3) == 0).then(|| self.groups[3].clone());
            // The last group has no series of the first two.
            let both = more.filter(|_| !Arc::ptr_eq(&one, &self.groups[2]));
            target.head.replace(&[one].into_iter().chain(both).collect::<Vec<_>>());
        }
        let moves = random.below(25) == 0;
        let fails = moves || random.below(12) == 0;
        let series = |name: &str| format!("{{__name__=\"{name}\", instance=\"t{}\"}}", target.number);
        let (mut values, mut alive) = (Vec::new(), Vec::new());
        let mut add = |name: &str, value: f64| {
            truth.entry(series(name)).or_default().insert(self.at, value.to_bits());
        };
        let journal = &mut self.journals[target.core];
        if fails {
            target.head.append_failed(Timestamp(self.at), 0, &[], false, journal, &mut scratch).unwrap();
        } else {
            for group in target.head.groups() {
                for slot in 0..group.len() {
                    target.values += 1;
                    values.push(target.values as f64);
                    alive.push(group.metric_name(slot).to_owned());
                    add(group.metric_name(slot), target.values as f64);
                }
            }
            target.head.append(Timestamp(self.at), &values, &[], false, journal, &mut scratch).unwrap();
        }
        target.alive.iter().filter(|name| !alive.contains(name)).for_each(|name| add(name, STALE_NAN));
        target.alive = alive;
        if moves {
            target.head = head(target.number, target.number % 2 == 0);
            target.core = (target.core + 1) % CORES;
            self.at += MOVE_AFTER_MS;
        }
    }

    /// Hands what was appended to files, and keeps them.
    fn write(&mut self, logs: &KeptLogs, folder: &Path) {
        for journal in &mut self.journals {
            let now_ms = self.at as u64;
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
                    Action::Sync(_) | Action::Close(_) => Ok(0),
                };
                writer.done(&action, outcome, now_ms);
            }
            for file in writer.take_unused() {
                std::fs::remove_file(folder.join(file.to_string())).expect("it was written");
            }
        }
        logs.link().expect("hard links");
    }
}

/// The sending half: reader, batches, and what is in flight.
struct Endpoint {
    reader: Reader,
    batches: mpsc::Receiver<Batch>,
    waiting: Option<Batch>,
    in_flight: InFlight,
    started: Vec<(u64, Batch)>,
    acknowledged: SendCursor,
}

impl Endpoint {
    fn start(logs: &KeptLogs, boot: u32, cursor: SendCursor, message: Message) -> Endpoint {
        let mut settings = RemoteWrite::default();
        settings.queue_config.max_samples_per_send = 20;
        settings.queue_config.batch_send_deadline = std::time::Duration::ZERO;
        let (to, batches) = mpsc::channel(100_000);
        let outgoing = OutgoingLabels { external: Labels::empty(), rules: relabel::Program::default() };
        let (stats, metadata) = (Arc::new(Stats::default()), Arc::new(MetadataSnapshot::default()));
        let protocol = Arc::new(Protocol::new(message));
        let builder = BatchBuilder::new(&settings, outgoing, cursor.clone(), to, protocol, stats, metadata);
        let start = Start { logs: logs.clone(), boot, skip: false };
        let reader = Reader::new(start, builder, Arc::new(AtomicBool::new(false)));
        let in_flight = InFlight::default();
        Endpoint { reader, batches, waiting: None, in_flight, started: Vec::new(), acknowledged: cursor }
    }

    /// Starts what may go, and takes one of what is in flight.
    fn deliver(&mut self, random: &mut Random, arrived: &mut Arrived) -> bool {
        let mut any = false;
        for _ in 0..8 {
            if self.waiting.is_none() {
                self.waiting = self.batches.try_recv().ok();
            }
            if let Some(batch) = self.waiting.take_if(|batch| self.in_flight.may_start(batch)) {
                self.started.push((self.in_flight.start(&batch), batch));
                any = true;
            }
        }
        if !self.started.is_empty() {
            let (number, batch) = self.started.swap_remove(random.below(self.started.len() as u64) as usize);
            arrived.take(&batch);
            if let Some(cursor) = self.in_flight.complete(number, &batch) {
                self.acknowledged = cursor;
            }
            any = true;
        }
        any
    }
}

#[derive(Default)]
struct Arrived {
    series: Series,
    repeated: usize,
}

impl Arrived {
    fn take(&mut self, batch: &Batch) {
        if batch.body.is_empty() {
            return;
        }
        let body = batch.format.compression.unpack(&batch.body).unwrap();
        let request = decode_write(batch.format.message, &body, &WriteLimits::default()).unwrap();
        let mut values = 0;
        for series in request.series {
            let of_series = self.series.entry(series.labels.to_string()).or_default();
            for sample in series.samples {
                values += 1;
                let at = sample.timestamp.0;
                let newest = of_series.last_key_value().map(|(at, _)| *at);
                match of_series.insert(at, sample.value.to_bits()) {
                    Some(before) => {
                        self.repeated += 1;
                        assert_eq!(before, sample.value.to_bits(), "another value for the same time");
                    }
                    None => {
                        assert!(newest.is_none_or(|newest| newest < at), "{}: {at} after {newest:?}", series.labels)
                    }
                }
            }
        }
        assert_eq!(values, batch.counts.total());
    }
}

fn run(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let folder = tempfile::tempdir().unwrap();
    let (log, kept) = (folder.path().join("log"), folder.path().join("kept"));
    std::fs::create_dir(&log).unwrap();
    let logs = KeptLogs::new(&log, &kept);
    // Some runs are behind, so that rows are collected; in the others every row is as good as new.
    let first = if seed % 2 == 0 { 1_000_000 } else { now_ms() + 3_600_000 };
    let message = if seed % 3 == 0 { Message::V2 } else { Message::V1 };
    let (mut truth, mut arrived) = (Series::new(), Arrived::default());
    let mut cores = Cores::start(1, first, &mut random);
    let mut endpoint = Endpoint::start(&logs, 1, SendCursor::new(1), message);
    let mut crashes = 0;
    for _ in 0..400 {
        match random.below(20) {
            0..=9 => cores.scrape(&mut random, &mut truth),
            10..=12 => cores.write(&logs, &log),
            13 | 14 => {
                // Minutes pass in milliseconds here.
                endpoint.reader.look_again();
                endpoint.reader.round().unwrap();
            }
            15..=18 => drop(endpoint.deliver(&mut random, &mut arrived)),
            _ if random.below(12) > 0 => {}
            _ => {
                // What was written is what a kill leaves; the next start has other logs, and goes on from the cursor. What was
                // in flight may have arrived or not.
                crashes += 1;
                cores.write(&logs, &log);
                let lost = random.below(2) == 0;
                while !lost && !endpoint.started.is_empty() {
                    endpoint.deliver(&mut random, &mut arrived);
                }
                let (boot, at) = (cores.boot + 1, cores.at + MOVE_AFTER_MS);
                cores = Cores::start(boot, at, &mut random);
                std::fs::remove_dir_all(&log).unwrap();
                std::fs::create_dir(&log).unwrap();
                endpoint = Endpoint::start(&logs, boot, endpoint.acknowledged.clone(), message);
            }
        }
    }
    cores.write(&logs, &log);
    let mut idle = 0;
    while idle < 3 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        endpoint.reader.look_again();
        endpoint.reader.round().unwrap();
        let mut any = false;
        while endpoint.deliver(&mut random, &mut arrived) {
            any = true;
        }
        idle = if any { 0 } else { idle + 1 };
    }
    assert!(crashes > 0 || arrived.repeated == 0, "{} came twice", arrived.repeated);
    for (series, samples) in &truth {
        assert_eq!(arrived.series.get(series), Some(samples), "{series}");
    }
    assert_eq!(arrived.series.len(), truth.len());
}

#[test]
fn every_sample_arrives_in_the_order_of_its_series() {
    let seeds: u64 = std::env::var("RINGSCRAPE_SENDING_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(150);
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
