//! What arrives, in seeded runs: targets that come, change, fail and move between cores, logs that are written to real files,
//! endpoints that take batches in any order, are away and come back, share a reader and leave it, and a process that is killed
//! and starts with another number of cores. Every sample arrives at every endpoint, each series in the order of its
//! samples; twice only what a crash repeats.

use crate::batch::{BatchBuilder, BatchSettings};
use crate::cursor::SendCursor;
use crate::in_flight::{Batch, InFlight};
use crate::outgoing::OutgoingLabels;
use crate::output::{Output, Outputs, Patience};
use crate::protocol::Protocol;
use crate::reader::{Reader, Start};
use config::RemoteWrite;
use remote::{Message, WriteLimits, decode_write};
use series::clock::now_ms;
use series::{Labels, STALE_NAN, Timestamp};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;
use tsdb::log::{Action, FileId, Journal, Options, RetainedLogs, TargetKey, Writer};
use tsdb::{AppendScratch, GroupBuilder, SegmentLimits, SlotGroup, TargetHead};

const TARGETS: usize = 4;
const CORES_MAX: u64 = 3;
/// Runs in an ordinary test: a few seconds. `RINGSCRAPE_SENDING_SEEDS` asks for more.
const SEEDS: u64 = 150;
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
        let count = 1 + random.below(CORES_MAX);
        // They overlap, so that series move between groups.
        let names = |from: usize, to: usize| (from..to).map(|i| format!("m{i}")).collect::<Vec<_>>();
        let groups = vec![group(&names(0, 5)), group(&names(3, 9)), group(&names(0, 12)), group(&names(9, 14))];
        let target = |number| Target {
            number,
            core: random.below(count) as usize,
            head: head(number, number.is_multiple_of(2)),
            alive: Vec::new(),
            values: 0,
        };
        Cores {
            boot,
            journals: (0..count).map(journal).collect(),
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
            target.head = head(target.number, target.number.is_multiple_of(2));
            target.core = (target.core + 1) % self.journals.len();
            self.at += MOVE_AFTER_MS;
        }
    }

    /// Hands what was appended to files, and keeps them.
    fn write(&mut self, logs: &RetainedLogs, folder: &Path) {
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

/// The sending half of an endpoint: batches, and what is in flight.
struct Endpoint {
    batches: mpsc::Receiver<Arc<Batch>>,
    waiting: Option<Arc<Batch>>,
    in_flight: InFlight,
    started: Vec<(u64, Arc<Batch>)>,
    acknowledged: SendCursor,
    arrived: Arrived,
    is_away: bool,
}

/// Endpoints that get equal batches, and those who read for them.
struct Sending {
    endpoints: Vec<Endpoint>,
    readers: Vec<Reader>,
    splits: usize,
    joins: usize,
}

/// A reader for one endpoint, and its batches.
fn reader(
    logs: &RetainedLogs,
    boot: u32,
    cursor: SendCursor,
    message: Message,
) -> (Reader, mpsc::Receiver<Arc<Batch>>) {
    let mut settings = RemoteWrite::default();
    settings.queue_config.max_samples_per_send = 20;
    settings.queue_config.batch_send_deadline = std::time::Duration::ZERO;
    let (to, batches) = mpsc::channel(2);
    let outgoing = OutgoingLabels { external: Labels::empty(), shard: None, rules: relabel::Program::default() };
    let protocol = Arc::new(Protocol::new(message));
    let output = Output::new(to, Arc::default(), Arc::default(), protocol, Arc::default());
    // Minutes pass in milliseconds here.
    let outputs = Outputs::new(output, Patience { lags_for: std::time::Duration::ZERO, waits: false });
    let builder = BatchBuilder::new(BatchSettings::new(&settings, outgoing), cursor, outputs);
    (Reader::new(Start { logs: logs.clone(), boot, skip: false }, builder, Arc::default()), batches)
}

impl Sending {
    /// Starts, or starts anew behind what was acknowledged.
    fn start(logs: &RetainedLogs, boot: u32, message: Message, before: Vec<Endpoint>) -> Sending {
        let (mut endpoints, mut readers) = (Vec::new(), Vec::new());
        for Endpoint { acknowledged, arrived, is_away, .. } in before {
            let (reader, batches) = reader(logs, boot, acknowledged.clone(), message);
            let (in_flight, started) = (InFlight::default(), Vec::new());
            endpoints.push(Endpoint { batches, waiting: None, in_flight, started, acknowledged, arrived, is_away });
            readers.push(reader);
        }
        Sending { endpoints, readers, splits: 0, joins: 0 }
    }

    /// A reader reads for a while, if a thread would not wait now; or hands its endpoints to another one.
    fn read(&mut self, place: usize, random: &mut Random) {
        let reader = &mut self.readers[place];
        if reader.has_capacity() {
            reader.look_again();
            reader.round().unwrap();
            let alone = reader.split();
            self.splits += alone.len();
            self.readers.extend(alone);
        }
        if self.readers.len() > 1 && random.below(3) == 0 {
            let mut guest = self.readers.swap_remove(place);
            let host = random.below(self.readers.len() as u64) as usize;
            match guest.has_capacity()
                && self.readers[host].has_capacity()
                && self.readers[host].take_over(&mut guest).unwrap()
            {
                true => self.joins += 1,
                false => self.readers.push(guest),
            }
        }
    }

    /// Whether anything went to an endpoint, or could have.
    fn deliver(&mut self, random: &mut Random) -> bool {
        let mut any = false;
        for endpoint in &mut self.endpoints {
            any |= endpoint.deliver(random);
        }
        any
    }
}

impl Endpoint {
    fn new() -> Endpoint {
        let (acknowledged, arrived) = (SendCursor::new(1), Arrived::default());
        let (in_flight, started) = (InFlight::default(), Vec::new());
        Endpoint {
            batches: mpsc::channel(1).1,
            waiting: None,
            in_flight,
            started,
            acknowledged,
            arrived,
            is_away: false,
        }
    }

    /// Starts what may go, and takes one of what is in flight.
    fn deliver(&mut self, random: &mut Random) -> bool {
        if self.is_away {
            return false;
        }
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
            self.arrived.take(&batch);
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

/// Returns how often endpoints changed their reader.
fn run(seed: u64) -> usize {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let folder = tempfile::tempdir().unwrap();
    let (log, kept) = (folder.path().join("log"), folder.path().join("kept"));
    std::fs::create_dir(&log).unwrap();
    let logs = RetainedLogs::new(&log, &kept);
    // Some runs are behind, so that rows are collected; in the others every row is as good as new.
    let first = if seed.is_multiple_of(2) { 1_000_000 } else { now_ms() + 3_600_000 };
    let message = if seed.is_multiple_of(3) { Message::V2 } else { Message::V1 };
    let mut truth = Series::new();
    let mut cores = Cores::start(1, first, &mut random);
    let endpoints = (0..1 + seed as usize % 3).map(|_| Endpoint::new()).collect();
    let mut sending = Sending::start(&logs, 1, message, endpoints);
    let (mut crashes, mut changes) = (0, 0);
    for _ in 0..400 {
        match random.below(24) {
            0..=9 => cores.scrape(&mut random, &mut truth),
            10..=12 => cores.write(&logs, &log),
            13..=16 => {
                let place = random.below(sending.readers.len() as u64) as usize;
                sending.read(place, &mut random);
            }
            17..=21 => drop(sending.deliver(&mut random)),
            22 => {
                // An endpoint goes away or comes back.
                let which = random.below(sending.endpoints.len() as u64) as usize;
                sending.endpoints[which].is_away ^= random.below(2) == 0;
            }
            _ if random.below(12) > 0 => {}
            _ => {
                // What was written is what a kill leaves; the next start has other logs, and goes on from the cursor. What was
                // in flight may have arrived or not.
                crashes += 1;
                cores.write(&logs, &log);
                let lost = random.below(2) == 0;
                while !lost && sending.deliver(&mut random) {}
                let (boot, at) = (cores.boot + 1, cores.at + MOVE_AFTER_MS);
                cores = Cores::start(boot, at, &mut random);
                std::fs::remove_dir_all(&log).unwrap();
                std::fs::create_dir(&log).unwrap();
                changes += sending.splits + sending.joins;
                sending = Sending::start(&logs, boot, message, sending.endpoints);
            }
        }
    }
    cores.write(&logs, &log);
    sending.endpoints.iter_mut().for_each(|endpoint| endpoint.is_away = false);
    let mut idle = 0;
    while idle < 3 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        let mut any = false;
        for place in (0..sending.readers.len()).rev() {
            sending.read(place, &mut random);
            while sending.deliver(&mut random) {
                any = true;
            }
        }
        idle = if any { 0 } else { idle + 1 };
    }
    for Endpoint { arrived, .. } in &sending.endpoints {
        assert!(crashes > 0 || arrived.repeated == 0, "{} came twice", arrived.repeated);
        for (series, samples) in &truth {
            assert_eq!(arrived.series.get(series), Some(samples), "{series}");
        }
        assert_eq!(arrived.series.len(), truth.len());
    }
    changes + sending.splits + sending.joins
}

#[test]
fn every_sample_arrives_in_the_order_of_its_series() {
    let seeds = std::env::var("RINGSCRAPE_SENDING_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let mut changes = 0;
    for seed in 0..seeds {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(of_seed) => changes += of_seed,
            Err(_) => panic!("seed {seed}"),
        }
    }
    assert!(changes as u64 > seeds, "endpoints hardly change their readers: {changes}");
}
