//! One core: its targets, their tasks, and the questions it answers.
//!
//! Runs on one pinned executor and owns everything it touches. What is decided (when to scrape, what a body means) is
//! decided by `schedule` and `ingest`, which know no runtime; this file carries it out.
//!
//! Invariants:
//!   * one task per target, for as long as the target is there; it alone scrapes the target, so scrapes never overlap
//!   * no borrow is held across an await
//!   * a scrape of a target that was removed meanwhile leaves nothing but markers

mod federate;
mod written;

use crate::access::Accesses;
use crate::asking::Asking;
use crate::fetch::{FetchError, Fetched, Fetcher, Opened};
use crate::handle::{
    Cardinality, Command, InstantAnswer, InstantRequest, LimitError, MetadataRequest, Older, RangeRequest,
    ReduceAnswer, ReduceRequest, TargetMetadata,
};
use crate::ingest::{Ingested, Interner, MetadataCache, Reader, Report};
use crate::log::LogFiles;
use crate::reduce::Reducing;
use crate::resolver::{Resolver, ResolverThreads};
use crate::runtime::Pulse;
use crate::schedule::{Action, PHASE_GRID_US, Schedule, Slot, first_due_in_us};
use crate::select::Matching;
use crate::signal::{Signal, Start};
use crate::status::{CoreStats, Health, LogStats, Missed, Reason, TargetStatus};
use crate::written::{Acknowledgements, HistogramHolder, Holder, Written};
use crate::{content_type, sys};
use ahash::AHashMap;
use exposition::Readings;
use glommio::timer::Timer;
use glommio::{Latency, Shares, TaskQueueHandle};
use series::Timestamp;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use targets::{Target, TargetDiff, TargetId};
use tsdb::log::{FileId, Journal, TargetKey, Writer};
use tsdb::{
    AppendScratch, Job, Piece, Recalled, SameGroups, SegmentLimits, SlotGroup, Store, TargetHead, within_bounds,
};

/// What a core is started with.
pub(crate) struct Settings {
    pub index: usize,
    pub cpu: usize,
    pub offset_seed: u64,
    pub store: Option<Arc<Store>>,
    pub pulse: Arc<Pulse>,
    pub resolver: ResolverThreads,
    pub accesses: Accesses,
}

/// How often what was appended is handed to the kernel: with the wakes of the schedule, so that it costs none of its own.
const LOG_EVERY: Duration = Duration::from_micros(PHASE_GRID_US);
/// A wake that is so little early takes the log along.
const LOG_EARLY_US: u64 = PHASE_GRID_US / 5;
/// How long the end of the process waits for the last write and sync.
const LOG_PATIENCE: Duration = Duration::from_secs(8);
/// How often segments that are in chunks are dropped and unused templates forgotten.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Targets that upkeep or a question visits before it lets others run.
const TARGETS_PER_TURN: usize = 16;
/// How long a body is read before others may run. What is new in most bodies is read in less: of thousands that come at
/// once, as after a start, one after the other holds its buffers, and not all of them together.
const READ_SLICE: Duration = Duration::from_millis(2);
/// A scrape so little late is stamped with the time it was due: timestamps at even distances take less room.
const SNAP_MS_MAX: u64 = 2;
/// A wall clock that went back by less than this leaves no gap: stamps go on a millisecond at a time.
const HOLD_MS_MAX: i64 = 60_000;
/// Buffers for readings at rest; more scrapes than this are rarely being read at once.
const READINGS_KEPT_MAX: usize = 8;

/// Runs until the process ends.
pub(crate) async fn run(settings: Settings, commands: flume::Receiver<Command>) {
    let queue = |shares, latency, name| glommio::executor().create_task_queue(Shares::Static(shares), latency, name);
    let scrapes = queue(1000, Latency::NotImportant, "scrapes");
    // A question from another thread must not wait for the preempt timer of a busy core.
    let queries = queue(200, Latency::Matters(Duration::from_millis(20)), "queries");
    let federations = queue(100, Latency::Matters(Duration::from_millis(20)), "federations");
    let log = queue(400, Latency::NotImportant, "log");
    let upkeep = queue(50, Latency::NotImportant, "upkeep");
    let pulse = settings.pulse.clone();
    let core = Rc::new(Core::new(settings, scrapes, federations));
    spawn(pulse.beat_forever(), scrapes);
    spawn(core.clone().keep_time(), scrapes);
    spawn(core.clone().keep_log(), log);
    spawn(core.clone().keep_up(), upkeep);
    spawn(core.answer(commands), queries);
    // An executor that ends while the kernel still writes into its buffers is not safe: it lives as long as the process.
    std::future::pending().await
}

fn spawn(task: impl Future<Output = ()> + 'static, queue: TaskQueueHandle) {
    glommio::spawn_local_into(task, queue).expect("queues live as long as the core").detach();
}

/// Lets other tasks of the core run.
async fn pause() {
    glommio::executor().yield_task_queue_now().await;
}

/// One target of this core.
struct Scraper {
    slot: Slot,
    target: RefCell<Arc<Target>>,
    signal: Signal,
    holder: Rc<Holder>,
    /// Away while a body is being read.
    reader: RefCell<Option<Reader>>,
    status: RefCell<TargetStatus>,
    last_start_us: Cell<Option<u64>>,
    /// Another member of the fleet scrapes the target now.
    has_moved: Cell<bool>,
}

struct Core {
    index: usize,
    offset_seed: u64,
    store: Option<Arc<Store>>,
    /// Where segments go that are closed; without it they stay in memory.
    jobs: Option<std::sync::mpsc::Sender<Job>>,
    log_folder: Option<std::path::PathBuf>,
    limits: SegmentLimits,
    journal: RefCell<Journal>,
    started: Instant,
    scrapes: TaskQueueHandle,
    /// Texts for readers that may be slow: each is a task of its own.
    federations: TaskQueueHandle,
    schedule: RefCell<Schedule>,
    scrapers: RefCell<Vec<Option<Rc<Scraper>>>>,
    free: RefCell<Vec<Slot>>,
    by_id: RefCell<AHashMap<TargetId, Slot>>,
    /// Targets and sources that are gone, while their rows are not in chunks yet.
    ended: RefCell<Vec<Rc<Holder>>>,
    ended_histograms: RefCell<Vec<Rc<HistogramHolder>>>,
    /// Samples that no scrape brings.
    written: RefCell<Written>,
    acknowledgements: RefCell<Acknowledgements>,
    interner: RefCell<Interner>,
    fetcher: Fetcher<Resolver>,
    accesses: Accesses,
    readings: RefCell<Vec<Readings>>,
    append: RefCell<(AppendScratch, Vec<f64>)>,
    stats: RefCell<CoreStats>,
    pulse: Arc<Pulse>,
    stopping: Cell<bool>,
    /// Starts a turn of the log.
    log_turn: Signal,
    /// Everything is written and synced: nothing more comes.
    log_ended: Cell<bool>,
}

fn wall_us() -> u64 {
    // A wall clock before 1970 is a broken machine; its samples are stamped 0.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

fn wall_ms() -> i64 {
    (wall_us() / 1000) as i64
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

impl Core {
    fn new(settings: Settings, scrapes: TaskQueueHandle, federations: TaskQueueHandle) -> Core {
        let journal = settings.store.as_ref().map_or_else(Journal::off, |store| {
            let first = FileId { boot: store.boot(), writer: settings.index as u16, sequence: 1 };
            Journal::new(Writer::new(first, store.options().log))
        });
        let kept = settings.store.as_ref().map(|store| store.options());
        let limits = SegmentLimits {
            range_ms: kept.map_or(i64::MAX, |options| options.block_ms),
            late_ms: kept.map_or(0, |options| options.late_ms),
            ..SegmentLimits::default()
        };
        Core {
            index: settings.index,
            offset_seed: settings.offset_seed,
            store: settings.store.clone(),
            jobs: settings.store.as_ref().map(|store| store.jobs()),
            log_folder: settings.store.as_ref().map(|store| store.log_folder()),
            limits,
            journal: RefCell::new(journal),
            started: Instant::now(),
            scrapes,
            federations,
            schedule: RefCell::default(),
            scrapers: RefCell::default(),
            free: RefCell::default(),
            by_id: RefCell::default(),
            ended: RefCell::default(),
            ended_histograms: RefCell::default(),
            written: RefCell::new(Written::new(limits)),
            acknowledgements: RefCell::default(),
            interner: RefCell::default(),
            fetcher: Fetcher::new(Resolver::new(settings.resolver)),
            accesses: settings.accesses,
            readings: RefCell::default(),
            append: RefCell::default(),
            stats: RefCell::new(CoreStats::new(settings.index, settings.cpu)),
            pulse: settings.pulse,
            stopping: Cell::new(false),
            log_turn: Signal::default(),
            log_ended: Cell::new(false),
        }
    }

    fn now_us(&self) -> u64 {
        micros(self.started.elapsed())
    }

    /// Starts what is due and ends what has passed its deadline; one timer for all targets of the core and its log.
    async fn keep_time(self: Rc<Self>) {
        let mut actions = Vec::new();
        let mut log_due_us = 0;
        while !self.stopping.get() {
            self.pulse.beat();
            self.schedule.borrow_mut().step(self.now_us(), &mut actions);
            for action in actions.drain(..) {
                self.carry_out(action);
            }
            let now_us = self.now_us();
            if now_us >= log_due_us {
                log_due_us = now_us + PHASE_GRID_US - LOG_EARLY_US;
                self.log_turn.start(Start { due_us: now_us });
            }
            // A target that was just added may be due before the next known event, but not by more than the grid.
            let next_us = self.schedule.borrow().next_us().unwrap_or(u64::MAX);
            let wait_us = next_us.saturating_sub(self.now_us()).min(PHASE_GRID_US);
            Timer::new(Duration::from_micros(wait_us)).await;
        }
        self.log_turn.stop();
    }

    fn scraper(&self, slot: Slot) -> Option<Rc<Scraper>> {
        self.scrapers.borrow().get(slot.0 as usize)?.clone()
    }

    fn carry_out(&self, action: Action) {
        match action {
            Action::Start { slot, due_us, .. } => {
                if let Some(scraper) = self.scraper(slot) {
                    scraper.signal.start(Start { due_us });
                }
            }
            Action::Expire { slot } => {
                if let Some(scraper) = self.scraper(slot) {
                    scraper.signal.expire();
                }
            }
            Action::Missed { slot, reason, ticks } => {
                *self.stats.borrow_mut().missed.entry(reason).or_default() += ticks;
                if let Some(scraper) = self.scraper(slot) {
                    let mut status = scraper.status.borrow_mut();
                    match reason {
                        Missed::InFlight => status.missed_in_flight += ticks,
                        Missed::CoreLate => status.missed_core_late += ticks,
                    }
                }
            }
        }
    }

    // --- targets -------------------------------------------------------------------------------------------------

    fn apply(self: &Rc<Self>, diff: TargetDiff) {
        for id in diff.remove {
            self.remove(id, false);
        }
        for id in diff.moved {
            self.remove(id, true);
        }
        for target in diff.add.into_iter().chain(diff.update) {
            let known = self.by_id.borrow().get(&target.id).and_then(|slot| self.scraper(*slot));
            match known {
                Some(scraper) => self.update(&scraper, target),
                None => self.add(target),
            }
        }
    }

    /// When a target is first due, on the clock of the schedule.
    fn first_due_us(&self, target: &Target) -> u64 {
        self.now_us() + first_due_in_us(target.id.0, self.offset_seed, micros(target.interval), wall_us())
    }

    fn add(self: &Rc<Self>, target: Arc<Target>) {
        let mut scrapers = self.scrapers.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            scrapers.push(None);
            Slot(scrapers.len() as u32 - 1)
        });
        let reader = Reader::new(&mut self.interner.borrow_mut(), &target.job, &target.labels);
        let key = TargetKey { id: target.id.0, labels: target.labels.clone() };
        let mut head = TargetHead::new(key, self.limits, target.id.0);
        head.replace(&reader.groups());
        let scraper = Rc::new(Scraper {
            slot,
            signal: Signal::default(),
            holder: Rc::new(Holder {
                id: target.id.0,
                labels: target.labels.clone(),
                head: RefCell::new(head),
                histograms: None,
            }),
            reader: RefCell::new(Some(reader)),
            status: RefCell::new(TargetStatus::new(target.id, self.index)),
            last_start_us: Cell::new(None),
            has_moved: Cell::new(false),
            target: RefCell::new(target.clone()),
        });
        scrapers[slot.0 as usize] = Some(scraper.clone());
        self.by_id.borrow_mut().insert(target.id, slot);
        let due_us = self.first_due_us(&target);
        self.schedule.borrow_mut().add(slot, due_us, micros(target.interval), micros(target.timeout));
        spawn(self.clone().scrape_forever(scraper), self.scrapes);
    }

    fn update(&self, scraper: &Scraper, target: Arc<Target>) {
        let old = scraper.target.replace(target.clone());
        if (old.interval, old.timeout) != (target.interval, target.timeout) {
            let due_us = self.first_due_us(&target);
            let (interval_us, timeout_us) = (micros(target.interval), micros(target.timeout));
            self.schedule.borrow_mut().change(scraper.slot, due_us, interval_us, timeout_us);
            scraper.last_start_us.set(None);
        }
    }

    /// Ends a target. Where it has moved, its series go on elsewhere and get no markers.
    fn remove(&self, id: TargetId, has_moved: bool) {
        let Some(slot) = self.by_id.borrow_mut().remove(&id) else { return };
        self.schedule.borrow_mut().remove(slot);
        if let Some(scraper) = self.scrapers.borrow_mut()[slot.0 as usize].take() {
            scraper.has_moved.set(has_moved);
            scraper.signal.stop();
        }
        self.free.borrow_mut().push(slot);
    }

    // --- scrapes -------------------------------------------------------------------------------------------------

    /// A target's task: one scrape after the other until the target is gone, then the markers.
    async fn scrape_forever(self: Rc<Self>, scraper: Rc<Scraper>) {
        let target = scraper.target.borrow().clone();
        let access = self.accesses.of(&target.job.http);
        let mut asking = Asking::new(target, access);
        while let Some(start) = scraper.signal.next().await {
            let newest = scraper.target.borrow().clone();
            if !Arc::ptr_eq(&newest, asking.target()) {
                self.retarget(&scraper, &newest);
                let access = self.accesses.of(&newest.job.http);
                asking.retarget(newest, access);
            }
            self.scrape(&scraper, &mut asking, start).await;
            if !scraper.signal.is_expired() && !scraper.signal.is_stopped() {
                self.schedule.borrow_mut().finished(scraper.slot);
            }
        }
        if self.stopping.get() {
            return;
        }
        let mut head = scraper.holder.head.borrow_mut();
        if !scraper.has_moved.get() {
            let at = stamp(wall_us() / 1000, head.newest_at());
            let target = asking.target();
            let mark_stamped = target.job.track_timestamps_staleness;
            // Only a clock that went far back refuses the row; the series then end when they are out of the lookback.
            let _ = head.end(at, mark_stamped, &mut self.journal.borrow_mut(), &mut self.append.borrow_mut().0);
        }
        head.close_all();
        self.hand_over(&mut head);
        drop(head);
        self.ended.borrow_mut().push(scraper.holder.clone());
    }

    /// The job has other settings: what they touch is made anew, the rest stays.
    fn retarget(&self, scraper: &Scraper, target: &Target) {
        let mut reader = scraper.reader.borrow_mut();
        let Some(reader) = reader.as_mut() else { return };
        if let Some(report) = reader.retarget(&mut self.interner.borrow_mut(), &target.job) {
            let mut head = scraper.holder.head.borrow_mut();
            let payload: Vec<_> = head.groups().skip(1).cloned().collect();
            head.replace(&[&[report], &payload[..]].concat());
        }
    }

    async fn scrape(&self, scraper: &Scraper, asking: &mut Asking, start: Start) {
        let target = asking.target().clone();
        let begun = Instant::now();
        let start_us = self.now_us();
        let late_us = start_us.saturating_sub(start.due_us);
        let mut stamp_ms = wall_us() / 1000;
        if late_us <= (micros(target.interval) / 100).min(SNAP_MS_MAX * 1000) {
            stamp_ms = (wall_us() - late_us) / 1000;
        }
        self.note_start(scraper, &target, start_us, late_us);

        let opened_before = asking.opened();
        let fetched = match &target.forced_error {
            Some(error) => Err(FetchError { reason: Reason::TargetLimit, text: error.to_string() }),
            None => {
                let fetch = asking.fetch(&self.fetcher, begun + target.timeout);
                // Boxed, so that ten thousand idle targets do not each hold the room of a scrape in flight.
                match scraper.signal.unless_over(Box::pin(fetch)).await {
                    Some(fetched) => fetched,
                    None if scraper.signal.is_stopped() => return,
                    None => Err(asking.timed_out()),
                }
            }
        };
        self.note_opened(opened_before, asking.opened());

        let mut reader = scraper.reader.take().expect("only the target's task takes it");
        let mut readings = self.readings.borrow_mut().pop().unwrap_or_default();
        let read = match fetched.and_then(|fetched| content_type::check(&fetched, &target.job).map(|()| fetched)) {
            Ok(fetched) => {
                let safe_mode = self.store.as_ref().and_then(|store| store.safe_mode());
                let samples_max = safe_mode.map_or(u64::MAX, |safe_mode| safe_mode.samples_max);
                let since = Cell::new(Instant::now());
                let pause = async || {
                    if since.get().elapsed() >= READ_SLICE {
                        pause().await;
                        since.set(Instant::now());
                    }
                };
                let ingested = reader.read(fetched.body(), samples_max, &mut readings, pause).await;
                Ok((ingested, fetched))
            }
            Err(error) => Err(error),
        };
        if !scraper.signal.is_stopped() {
            self.commit(scraper, &target, &reader, read, &readings, begun, stamp_ms);
        }
        *scraper.reader.borrow_mut() = Some(reader);
        let mut kept = self.readings.borrow_mut();
        if kept.len() < READINGS_KEPT_MAX {
            kept.push(readings);
        }
    }

    fn note_start(&self, scraper: &Scraper, target: &Target, start_us: u64, late_us: u64) {
        let mut stats = self.stats.borrow_mut();
        stats.lateness_us.saturating_record(late_us);
        if let Some(last_us) = scraper.last_start_us.replace(Some(start_us)) {
            let interval_ms = target.interval.as_millis() as u64;
            let lengths = stats.interval_us.entry(interval_ms).or_insert_with(crate::status::histogram);
            lengths.saturating_record(start_us - last_us);
        }
    }

    fn note_opened(&self, before: Opened, now: Opened) {
        if before != now {
            let mut stats = self.stats.borrow_mut();
            stats.connections_opened += now.connections - before.connections;
            stats.handshakes_full += now.handshakes_full - before.handshakes_full;
            stats.handshakes_resumed += now.handshakes_resumed - before.handshakes_resumed;
        }
    }

    /// Writes the row of a scrape, and what it says of the target.
    #[expect(clippy::too_many_arguments, reason = "the one place where everything about a scrape comes together")]
    fn commit(
        &self,
        scraper: &Scraper,
        target: &Target,
        reader: &Reader,
        read: Result<(Ingested, Fetched), FetchError>,
        readings: &Readings,
        begun: Instant,
        stamp_ms: u64,
    ) {
        let mut head = scraper.holder.head.borrow_mut();
        let at = stamp(stamp_ms, head.newest_at());
        let mut stats = self.stats.borrow_mut();
        let mut status = scraper.status.borrow_mut();
        let mut report = Report::default();
        let mut wire_bytes = 0;
        let mut failure = None;
        let mut good = false;
        match read {
            Ok((ingested, fetched)) => {
                report.samples_scraped = ingested.samples_scraped;
                report.samples_post_relabel = ingested.samples_post_relabel;
                report.body_bytes = fetched.body().len() as i64;
                wire_bytes = fetched.wire_bytes() as u64;
                stats.duplicate_timestamp += ingested.duplicates;
                let kind = if ingested.warm { &mut stats.scans_warm } else { &mut stats.scans_cold };
                *kind += 1;
                good = ingested.refusal.is_none();
                if let Some(refusal) = ingested.refusal {
                    failure = Some((refusal.reason, refusal.text));
                } else if ingested.reshaped {
                    // A series whose only sample is refused is none.
                    let refused = readings.stamps.iter().filter(|stamp| !within_bounds(at, **stamp)).count() as u64;
                    report.series_added = head.replace(&reader.groups()).added.saturating_sub(refused);
                }
            }
            Err(error) => {
                if error.reason == Reason::BodySize {
                    report.body_bytes = -1;
                }
                failure = Some((error.reason, error.text));
            }
        }
        report.up = good;
        let duration = begun.elapsed();
        report.duration_seconds = duration.as_secs_f64();

        let (scratch, row) = &mut *self.append.borrow_mut();
        row.clear();
        row.extend(report.values(&target.job, target.timeout.as_secs_f64()));
        let mark_stamped = target.job.track_timestamps_staleness;
        let appended = match good {
            true => {
                row.extend_from_slice(&readings.values);
                head.append(at, row, &readings.stamps, mark_stamped, &mut self.journal.borrow_mut(), scratch)
            }
            false => head.append_failed(at, 1, row, mark_stamped, &mut self.journal.borrow_mut(), scratch),
        };
        self.hand_over(&mut head);
        match appended {
            Ok(appended) => {
                stats.samples_appended += appended.samples;
                stats.out_of_order += appended.out_of_order;
                stats.late += appended.late;
                stats.duplicate_timestamp += appended.duplicate;
                stats.out_of_bounds += appended.out_of_bounds;
            }
            // The wall clock is far behind the newest row: the whole scrape is out of order until it has caught up.
            Err(_) => stats.out_of_order += row.len() as u64,
        }

        stats.scrapes += 1;
        stats.samples_scraped += report.samples_scraped;
        stats.body_bytes += report.body_bytes.max(0) as u64;
        stats.wire_bytes += wire_bytes;
        stats.duration_us.saturating_record(micros(duration));
        status.scrapes += 1;
        status.health = if good { Health::Up } else { Health::Down };
        status.last_scrape = Some(at);
        status.last_duration = duration;
        status.samples_scraped = report.samples_scraped;
        status.samples_post_relabel = report.samples_post_relabel;
        status.series_added = report.series_added;
        status.body_bytes = report.body_bytes.max(0) as u64;
        status.wire_bytes = wire_bytes;
        status.scrapes_failed += u64::from(!good);
        status.last_reason = failure.as_ref().map(|(reason, _)| *reason);
        if let Some((reason, _)) = &failure {
            *stats.scrapes_failed.entry(*reason).or_default() += 1;
            match reason {
                Reason::SampleLimit => stats.exceeded_sample_limit += 1,
                Reason::BodySize => stats.exceeded_body_size_limit += 1,
                Reason::LabelLimit => stats.exceeded_label_limits += 1,
                _ => {}
            }
        }
        status.last_error = failure.map(|(_, text)| text);
    }

    // --- upkeep --------------------------------------------------------------------------------------------------

    /// Gives closed segments to the thread that puts them into chunks.
    fn hand_over(&self, head: &mut TargetHead) {
        if let Some(jobs) = &self.jobs {
            // The receiver lives as long as the process.
            head.take_closed(|closed| drop(jobs.send(Job::Seal(closed))));
        }
    }

    /// Hands what was appended to the kernel, and syncs it.
    async fn keep_log(self: Rc<Self>) {
        let Some(folder) = self.log_folder.clone() else {
            self.log_ended.set(true);
            return;
        };
        let mut files = LogFiles::new(folder);
        let mut failing = false;
        while self.log_turn.next().await.is_some() {
            let now_ms = self.now_us() / 1000;
            self.journal.borrow_mut().set_now(now_ms);
            files.carry_out(&self.journal, now_ms, false).await;
            self.acknowledge();
            let journal = self.journal.borrow();
            let error = journal.writer().and_then(|writer| writer.failing());
            if error.is_some() != failing {
                failing = error.is_some();
                match error {
                    Some(error) => {
                        tracing::error!(core = self.index, error, "the log cannot be written; samples wait in memory")
                    }
                    None => tracing::info!(core = self.index, "the log is written again"),
                }
            }
        }
        files.carry_out(&self.journal, self.now_us() / 1000, true).await;
        self.acknowledge();
        self.log_ended.set(true);
    }

    /// Gives heads the newest rows of the last run, after a start.
    async fn recall(&self, store: &Store) {
        let mut same = SameGroups::default();
        let mut taken = 0;
        for (i, scraper) in self.all_scrapers().into_iter().enumerate() {
            let id = scraper.holder.id;
            if let Some(rows) = store.take_last_rows(id) {
                match scraper.holder.head.borrow_mut().recall(rows, &mut same) {
                    Recalled::Taken => taken += 1,
                    Recalled::Refused => {}
                    Recalled::TooEarly(rows) => store.give_back_last_rows(id, rows),
                }
            }
            if i % TARGETS_PER_TURN == 0 {
                pause().await;
            }
        }
        if taken > 0 {
            tracing::info!(core = self.index, targets = taken, "newest rows of the last run are in memory again");
        }
    }

    /// Drops segments that are in chunks, and forgets templates that nobody uses and buffers that nobody needed.
    async fn keep_up(self: Rc<Self>) {
        loop {
            Timer::new(UPKEEP_EVERY).await;
            if let Some(store) = self.store.as_ref().filter(|store| store.has_last_rows()) {
                self.recall(store).await;
            }
            let (mut series, mut bytes) = (0, 0);
            let gone = self.written.borrow_mut().retire(wall_ms());
            self.end_holders(gone);
            let of_histograms = self.keep_up_histograms();
            (series, bytes) = (series + of_histograms.0, bytes + of_histograms.1);
            for (i, holder) in self.all_holders().into_iter().enumerate() {
                {
                    let mut head = holder.head.borrow_mut();
                    head.drop_sealed();
                    series += head.live_series() as u64;
                    bytes += head.heap_bytes() as u64;
                }
                if i % TARGETS_PER_TURN == 0 {
                    pause().await;
                }
            }
            self.ended.borrow_mut().retain(|ended| ended.head.borrow_mut().drop_sealed());
            bytes += self.ended.borrow().iter().map(|ended| ended.head.borrow().heap_bytes() as u64).sum::<u64>();
            bytes += self.written.borrow().heap_bytes() as u64;
            let unused = self.journal.borrow_mut().writer_mut().map(Writer::take_unused).unwrap_or_default();
            if let Some(jobs) = self.jobs.as_ref().filter(|_| !unused.is_empty()) {
                let _ = jobs.send(Job::Remove(unused));
            }
            self.fetcher.trim();
            let (templates, templates_bytes) = self.interner.borrow_mut().sweep();
            let mut stats = self.stats.borrow_mut();
            (stats.series, stats.head_bytes) = (series, bytes);
            (stats.templates, stats.templates_bytes) = (templates, templates_bytes);
        }
    }

    /// Waits until what was appended so far can be read: a status tells of no scrape whose samples cannot be seen. For
    /// a log that is not written it does not wait long.
    async fn shown(&self) {
        let appended = self.journal.borrow().writer().map_or(0, Writer::appended);
        let patience = self.now_us() + 20 * LOG_EVERY.as_micros() as u64;
        while self.journal.borrow().visible() < appended && self.now_us() < patience && !self.stopping.get() {
            Timer::new(LOG_EVERY / 10).await;
        }
    }

    fn all_scrapers(&self) -> Vec<Rc<Scraper>> {
        self.scrapers.borrow().iter().flatten().cloned().collect()
    }

    /// What takes samples: targets, then sources of samples that no scrape brings.
    fn all_holders(&self) -> Vec<Rc<Holder>> {
        let scrapers = self.scrapers.borrow();
        let of_targets = scrapers.iter().flatten().map(|scraper| scraper.holder.clone());
        of_targets.chain(self.written.borrow().holders()).collect()
    }

    // --- questions -----------------------------------------------------------------------------------------------

    /// Answers commands in order. Who asked may have gone; then the answer is thrown away.
    async fn answer(self: Rc<Self>, commands: flume::Receiver<Command>) {
        while let Ok(command) = commands.recv_async().await {
            match command {
                Command::Apply(diff, reply) => {
                    self.apply(diff);
                    let _ = reply.send(());
                }
                Command::Statuses(reply) => {
                    self.shown().await;
                    let statuses = self.all_scrapers().iter().map(|scraper| scraper.status.borrow().clone()).collect();
                    let _ = reply.send(statuses);
                }
                Command::Instant(request, older, reply) => {
                    let answer = self.instant(&request, older, || reply.is_closed()).await;
                    let _ = reply.send(answer);
                }
                Command::Federate(request, older, talk) => {
                    spawn(self.clone().federate(request, older, talk), self.federations);
                }
                Command::Range(request, reply) => {
                    let answer = self.range(&request, || reply.is_closed()).await;
                    let _ = reply.send(answer);
                }
                Command::Reduce(requests, older, reply) => {
                    let answers = self.reduce(&requests, older, || reply.is_closed()).await;
                    let _ = reply.send(answers);
                }
                Command::WriteRows(request, reply) => self.write_rows(&request, reply),
                Command::Receive(request, reply) => self.receive(&request, reply),
                Command::Seal(reply) => {
                    self.all_scrapers().iter().for_each(|scraper| scraper.holder.head.borrow_mut().turn_over());
                    let gone = self.written.borrow_mut().turn_over(wall_ms());
                    self.end_holders(gone);
                    self.close_histograms(|_| true);
                    let _ = reply.send(());
                }
                Command::Metadata(request, reply) => {
                    let _ = reply.send(self.metadata(&request).await);
                }
                Command::Stats(reply) => {
                    let _ = reply.send(Box::new(self.stats()));
                }
                Command::Cardinality(reply) => {
                    let _ = reply.send(Box::new(self.cardinality().await));
                }
                Command::Shutdown(reply) => {
                    self.stopping.set(true);
                    self.all_scrapers().iter().for_each(|scraper| scraper.signal.stop());
                    let patience = Instant::now() + LOG_PATIENCE;
                    while !self.log_ended.get() && Instant::now() < patience {
                        Timer::new(Duration::from_millis(5)).await;
                    }
                    let _ = reply.send(());
                }
            }
        }
    }

    /// Newest samples of what matches; nothing once the asker has `gone`.
    async fn instant(
        &self,
        request: &InstantRequest,
        older: Older,
        gone: impl Fn() -> bool,
    ) -> Result<InstantAnswer, LimitError> {
        let after = request.at.plus_ms(-(request.lookback.as_millis() as i64));
        let mut matching = Matching::new(&request.selectors);
        let mut answer = InstantAnswer::default();
        let mut read = |holder: &Holder| {
            let visible = self.journal.borrow().visible();
            matching.instant(holder, after, request.at, visible, older, &mut answer);
            match request.series_max {
                max if max > 0 && answer.samples.len() > max => Err(LimitError::Series { series_max: max }),
                _ => Ok(()),
            }
        };
        for (i, holder) in self.all_holders().into_iter().enumerate() {
            read(&holder)?;
            if i % TARGETS_PER_TURN == 0 {
                pause().await;
                if gone() {
                    return Ok(InstantAnswer::default());
                }
            }
        }
        for ended in self.ended.borrow().iter() {
            read(ended)?;
        }
        let visible = self.journal.borrow().visible();
        for holder in self.histogram_holders() {
            matching.newest_histograms(&holder, after, request.at, visible, &mut answer.histograms);
        }
        Ok(answer)
    }

    /// Samples in memory of what matches; nothing once the asker has `gone`.
    async fn range(&self, request: &RangeRequest, gone: impl Fn() -> bool) -> Result<Vec<Piece>, LimitError> {
        let mut matching = Matching::new(&request.selectors);
        let mut pieces = Vec::new();
        let mut samples = 0;
        let mut read = |holder: &Holder| {
            let visible = self.journal.borrow().visible();
            let before = pieces.len();
            samples += matching.range(holder, request.from, request.to, visible, &mut pieces);
            if request.labels_only {
                samples -= pieces[before..].iter_mut().map(|piece| piece.samples.drain(1..).len()).sum::<usize>();
            }
            match request.samples_max {
                max if max > 0 && samples > max => Err(LimitError::Samples),
                _ => Ok(()),
            }
        };
        for (i, holder) in self.all_holders().into_iter().enumerate() {
            read(&holder)?;
            if i % TARGETS_PER_TURN == 0 {
                pause().await;
                if gone() {
                    return Ok(Vec::new());
                }
            }
        }
        for ended in self.ended.borrow().iter() {
            read(ended)?;
        }
        let visible = self.journal.borrow().visible();
        for holder in self.histogram_holders() {
            let before = pieces.len();
            samples += matching.histograms(&holder, request.from, request.to, visible, &mut pieces);
            if request.labels_only {
                pieces[before..].iter_mut().for_each(|piece| piece.histograms.truncate(1));
            } else if request.samples_max > 0 && samples > request.samples_max {
                return Err(LimitError::Samples);
            }
        }
        Ok(pieces)
    }

    /// Aggregates what matches; incomplete once the asker has `gone`, or when every request is beyond its limit.
    async fn reduce(
        &self,
        requests: &[ReduceRequest],
        older: Older,
        gone: impl Fn() -> bool,
    ) -> Vec<Result<ReduceAnswer, LimitError>> {
        let mut reducing = Reducing::new(requests, older);
        let targets_per_turn = (TARGETS_PER_TURN / requests.len().max(1)).max(1);
        for (i, scraper) in self.all_scrapers().into_iter().enumerate() {
            let visible = self.journal.borrow().visible();
            reducing.target(&scraper.holder, visible);
            if i % targets_per_turn == 0 {
                pause().await;
                if gone() || reducing.is_lost() {
                    return reducing.finish();
                }
            }
        }
        let written: Vec<Rc<Holder>> = self.written.borrow().holders().collect();
        for holder in written.iter().chain(self.ended.borrow().iter()) {
            let visible = self.journal.borrow().visible();
            reducing.in_pieces(holder, visible);
        }
        self.histogram_holders().iter().for_each(|holder| reducing.histograms(holder));
        reducing.finish()
    }

    async fn metadata(&self, request: &MetadataRequest) -> Vec<TargetMetadata> {
        let mut seen = MetadataCache::default();
        let mut found = Vec::new();
        for scraper in self.all_scrapers() {
            let target = scraper.target.borrow().clone();
            if !request.target_matchers.iter().all(|matcher| matcher.matches_labels(&target.labels)) {
                continue;
            }
            let mut metrics = match &*scraper.reader.borrow() {
                Some(reader) => reader.metadata(&mut seen),
                None => continue,
            };
            if let Some(wanted) = &request.metric {
                metrics.retain(|metadata| metadata.metric == *wanted);
            }
            found.push(TargetMetadata { target: target.id, metrics });
            if request.targets_max > 0 && found.len() >= request.targets_max {
                break;
            }
        }
        found
    }

    /// Live series by label: a group's once for all targets that have it.
    async fn cardinality(&self) -> Cardinality {
        let now = wall_us() as i64 / 1000;
        let mut all = Cardinality { min_time: now, max_time: i64::MIN, ..Cardinality::default() };
        let mut of_groups: AHashMap<*const SlotGroup, (Arc<SlotGroup>, u64)> = AHashMap::new();
        for holder in self.all_holders() {
            let head = holder.head.borrow();
            let mut series = 0;
            for group in head.groups() {
                series += group.len() as u64;
                of_groups.entry(Arc::as_ptr(group)).or_insert_with(|| (group.clone(), 0)).1 += 1;
            }
            all.series += series;
            if let Some((oldest, newest)) = head.bounds() {
                all.min_time = all.min_time.min(oldest.0);
                all.max_time = all.max_time.max(newest.0);
            }
            for (name, value) in holder.labels.iter() {
                *all.pairs.entry((name.to_owned(), value.to_owned())).or_default() += series;
            }
        }
        for (oldest, newest) in self.histogram_holders().iter().filter_map(|holder| holder.head.borrow().bounds()) {
            all.min_time = all.min_time.min(oldest.0);
            all.max_time = all.max_time.max(newest.0);
        }
        for (group, targets) in of_groups.into_values() {
            for slot in 0..group.len() {
                for (name, value) in group.label_pairs(slot).filter(|(_, value)| !value.is_empty()) {
                    *all.pairs.entry((name.to_owned(), value.to_owned())).or_default() += targets;
                }
            }
            pause().await;
        }
        all
    }

    fn stats(&self) -> CoreStats {
        let mut stats = self.stats.borrow().clone();
        stats.targets = self.by_id.borrow().len() as u64;
        stats.cpu_seconds = sys::thread_cpu_seconds();
        stats.stall_max = self.pulse.stall_max();
        if let Some(writer) = self.journal.borrow().writer() {
            stats.log = LogStats {
                bytes_written: writer.bytes_written(),
                syncs: writer.syncs(),
                records: writer.appended(),
                records_behind: writer.appended() - writer.durable().min(writer.appended()),
                failures: writer.failures(),
                discarded: writer.discarded(),
                failing: writer.failing().map(str::to_owned),
            };
        }
        stats
    }
}

/// The time of a row: strictly after the newest one if the clock has not gone far back.
fn stamp(wall_ms: u64, newest: Option<Timestamp>) -> Timestamp {
    let wall = Timestamp(wall_ms as i64);
    match newest {
        Some(newest) if wall <= newest && newest.0 - wall.0 <= HOLD_MS_MAX => newest.plus_ms(1),
        _ => wall,
    }
}
