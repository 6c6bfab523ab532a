//! One core: its targets, their tasks, and the questions it answers.
//!
//! Runs on one pinned executor and owns everything it touches. What is decided (when to scrape, what a body means) is
//! decided by `schedule` and `ingest`, which know no runtime; this file carries it out, `questions` and `federate` answer,
//! `written` takes what no scrape brings, and `upkeep` is what goes on beside it.
//!
//! Invariants:
//!   * one task per target, for as long as the target is there; it alone scrapes the target, so scrapes never overlap
//!   * no borrow is held across an await
//!   * a scrape of a target that was removed meanwhile leaves nothing but markers

mod exemplars;
mod federate;
mod index;
mod labels;
mod layouts;
mod questions;
mod start_times;
mod upkeep;
mod written;

use crate::exemplars::ExemplarRing;
use crate::failure_log::FailureLog;
use crate::head_owner::{HeadOwner, HistogramOwner};
use crate::heartbeat::Heartbeat;
use crate::ingest::{Interner, Reader, Report};
use crate::layouts::LayoutFile;
use crate::message::Command;
use crate::natives::NativeRows;
use crate::payload::{Scraped, read_payload};
use crate::sample_features::SampleFeatures;
use crate::schedule::{Action, PHASE_GRID_US, Schedule, Slot, first_due_in_us};
use crate::signal::{Signal, Start};
use crate::status::{CoreStats, Missed, TargetStatus};
use crate::time_slice::{CoreTask, TaskTimes, TimeSlice};
use crate::written::{Acknowledgements, HistogramStamps, PushStore, WriteRowsRequest};
use ahash::AHashMap;
use exposition::Readings;
use fetch::Accesses;
use fetch::Reason;
use fetch::TargetClient;
use fetch::content_type;
use fetch::{FetchError, Fetched, Fetcher, Opened};
use fetch::{Resolver, ResolverThreads};
use glommio::timer::Timer;
use glommio::{Latency, Shares, TaskQueueHandle};
use series::Timestamp;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use targets::{Target, TargetDiff, TargetId};
use tsdb::log::{FileId, Journal, TargetKey, Writer};
use tsdb::{AgentStore, AppendScratch, FlushQueue, SegmentLimits, Store, TargetHead, within_bounds};

/// What a core is started with.
pub(crate) struct Settings {
    pub index: usize,
    /// How many cores there are.
    pub cores: usize,
    pub cpu: usize,
    pub offset_seed: u64,
    pub store: Option<Arc<Store>>,
    pub agent: Option<Arc<AgentStore>>,
    pub heartbeat: Arc<Heartbeat>,
    pub resolver: ResolverThreads,
    pub accesses: Accesses,
    pub failures: FailureLog,
    /// Of the last run.
    pub layouts: Arc<[LayoutFile]>,
    pub features: SampleFeatures,
}

/// How often what was appended is handed to the kernel: with the wakes of the schedule, so that it costs none of its own.
const LOG_EVERY: Duration = Duration::from_micros(PHASE_GRID_US);
/// A wake that is so little early takes the log along.
const LOG_EARLY_US: u64 = PHASE_GRID_US / 5;
/// How long a body is read before others may run. What is new in most bodies is read in less: of thousands that come at
/// once, as after a start, one after the other holds its buffers, and not all of them together.
const READ_SLICE: Duration = Duration::from_millis(2);
/// A scrape so little late is stamped with the time it was due: timestamps at even distances take less room.
const SNAP_MS_MAX: u64 = 2;
/// A wall clock that went back by less than this leaves no gap: stamps go on a millisecond at a time.
const HOLD_MS_MAX: i64 = 60_000;
/// Buffers for readings at rest; more scrapes than this are rarely being read at once.
const READINGS_STORED_MAX: usize = 8;

/// Runs until the process ends.
pub(crate) async fn run(settings: Settings, commands: flume::Receiver<Command>) {
    let queue = |shares, latency, name| glommio::executor().create_task_queue(Shares::Static(shares), latency, name);
    let scrapes = queue(1000, Latency::NotImportant, "scrapes");
    // A question from another thread must not wait for the preempt timer of a busy core.
    let queries = queue(200, Latency::Matters(Duration::from_millis(20)), "queries");
    let federations = queue(100, Latency::Matters(Duration::from_millis(20)), "federations");
    // Commands: pushed series, and the way of all others to their lanes.
    let pushes = queue(400, Latency::Matters(Duration::from_millis(20)), "commands");
    let targets = queue(200, Latency::NotImportant, "targets");
    let log = queue(400, Latency::NotImportant, "log");
    let upkeep = queue(50, Latency::NotImportant, "upkeep");
    let heartbeat = settings.heartbeat.clone();
    let core = Rc::new(Core::new(settings, scrapes, federations));
    spawn(heartbeat.beat_forever(), scrapes);
    spawn(core.clone().keep_time(), scrapes);
    spawn(core.clone().keep_log(), log);
    spawn(core.clone().keep_up(), upkeep);
    core.start_keeping_layouts(upkeep);
    spawn(core.answer(commands, questions::LaneQueues { pushes, queries, targets }), pushes);
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
    holder: Rc<HeadOwner>,
    /// Away while a body is being read.
    reader: RefCell<Option<Reader>>,
    status: RefCell<TargetStatus>,
    last_start_us: Cell<Option<u64>>,
    /// Another member of the fleet scrapes the target now.
    has_moved: Cell<bool>,
    /// Native histograms of the last scrape.
    natives: Cell<usize>,
}

struct Core {
    index: usize,
    cores: usize,
    offset_seed: u64,
    store: Option<Arc<Store>>,
    /// In agent mode, instead of a store.
    agent: Option<Arc<AgentStore>>,
    /// Where segments go that are closed; without it they stay in memory.
    flush_queue: Option<FlushQueue>,
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
    ended: RefCell<Vec<Rc<HeadOwner>>>,
    ended_histograms: RefCell<Vec<Rc<HistogramOwner>>>,
    /// Samples that no scrape brings.
    written: RefCell<PushStore>,
    label_index: index::CoreIndex,
    task_times: TaskTimes,
    acknowledgements: RefCell<Acknowledgements>,
    features: SampleFeatures,
    interner: RefCell<Interner>,
    layouts: layouts::CoreLayouts,
    fetcher: Fetcher<Resolver>,
    accesses: Accesses,
    failures: FailureLog,
    exemplars: RefCell<ExemplarRing>,
    /// Files of the last run whose exemplars are in the log up to a position: they can go once that is durable.
    old_logs: RefCell<Vec<(u64, Vec<FileId>)>>,
    readings: RefCell<Vec<Readings>>,
    append: RefCell<(AppendScratch, Vec<f64>)>,
    stats: RefCell<CoreStats>,
    heartbeat: Arc<Heartbeat>,
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
        let (store, agent) = (settings.store.as_deref(), settings.agent.as_deref());
        let log = store.map(|store| (store.boot(), store.options().log));
        let log = log.or_else(|| agent.map(|agent| (agent.boot(), agent.options().log)));
        let journal = log.map_or_else(Journal::off, |(boot, options)| {
            let first = FileId { boot, writer: settings.index as u16, sequence: 1 };
            Journal::new(Writer::new(first, options))
        });
        let late_ms = store.map(|store| store.options().late_ms);
        let limits = SegmentLimits {
            range_ms: store.map_or(i64::MAX, |store| store.options().block_ms),
            late_ms: late_ms.or_else(|| agent.map(|agent| agent.options().late_ms)).unwrap_or(0),
            log_only: agent.is_some(),
            ..SegmentLimits::default()
        };
        let layouts_folder = crate::layouts::folder(store, agent);
        let log_folder = store.map(Store::log_folder).or_else(|| agent.map(AgentStore::log_folder));
        Core {
            index: settings.index,
            cores: settings.cores,
            offset_seed: settings.offset_seed,
            store: settings.store.clone(),
            agent: settings.agent.clone(),
            flush_queue: settings.store.as_ref().map(|store| store.flush_queue()),
            log_folder,
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
            written: RefCell::new(PushStore::new(limits)),
            label_index: index::CoreIndex::default(),
            task_times: TaskTimes::default(),
            acknowledgements: RefCell::default(),
            interner: RefCell::new(Interner::new(settings.features)),
            layouts: layouts::CoreLayouts::new(layouts_folder, settings.layouts),
            features: settings.features,
            fetcher: Fetcher::new(Resolver::new(settings.resolver)),
            accesses: settings.accesses,
            failures: settings.failures,
            exemplars: RefCell::default(),
            old_logs: RefCell::default(),
            readings: RefCell::default(),
            append: RefCell::default(),
            stats: RefCell::new(CoreStats::new(settings.index, settings.cpu)),
            heartbeat: settings.heartbeat,
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
            self.heartbeat.beat();
            self.schedule.borrow_mut().step(self.now_us(), &mut actions);
            for action in actions.drain(..) {
                self.carry_out(action);
            }
            let now_us = self.now_us();
            if now_us >= log_due_us {
                log_due_us = now_us + PHASE_GRID_US - LOG_EARLY_US;
                // A turn that hangs in a call of the system is seen here.
                self.journal.borrow_mut().set_now(now_us / 1000);
                self.acknowledge();
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

    async fn apply(self: &Rc<Self>, diff: TargetDiff) {
        let slice = self.slice(CoreTask::Targets);
        let removed = diff.remove.into_iter().map(|id| (id, false));
        for (id, has_moved) in removed.chain(diff.moved.into_iter().map(|id| (id, true))) {
            self.remove(id, has_moved);
            slice.step().await;
        }
        for target in diff.add.into_iter().chain(diff.update) {
            let known = self.by_id.borrow().get(&target.id).and_then(|slot| self.scraper(*slot));
            match known {
                Some(scraper) => self.update(&scraper, target),
                None => self.add(target),
            }
            slice.step().await;
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
            holder: Rc::new(HeadOwner::of_target(target.id.0, target.labels.clone(), head)),
            reader: RefCell::new(Some(reader)),
            status: RefCell::new(TargetStatus::new(target.id, self.index)),
            last_start_us: Cell::new(None),
            has_moved: Cell::new(false),
            natives: Cell::new(0),
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
            self.layouts.note_change();
        }
        self.free.borrow_mut().push(slot);
    }

    // --- scrapes -------------------------------------------------------------------------------------------------

    /// A target's task: one scrape after the other until the target is gone, then the markers.
    async fn scrape_forever(self: Rc<Self>, scraper: Rc<Scraper>) {
        let target = scraper.target.borrow().clone();
        let access = self.accesses.of(&target.job.http);
        let mut client = TargetClient::new(target, access);
        while let Some(start) = scraper.signal.next().await {
            let newest = scraper.target.borrow().clone();
            if !Arc::ptr_eq(&newest, client.target()) {
                self.retarget(&scraper, &newest);
                let access = self.accesses.of(&newest.job.http);
                client.retarget(newest, access);
            }
            self.scrape(&scraper, &mut client, start).await;
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
            let target = client.target();
            let mark_stamped = target.job.track_timestamps_staleness;
            // Only a clock that went far back refuses the row; the series then end when they are out of the lookback.
            let _ = head.end(at, mark_stamped, &mut self.journal.borrow_mut(), &mut self.append.borrow_mut().0);
        }
        head.close_all();
        self.hand_over(&mut head);
        scraper.holder.set_ended();
        self.note_rows(&scraper.holder, &head);
        let at = stamp(wall_us() / 1000, head.newest_at());
        drop(head);
        if !scraper.has_moved.get() {
            let (mut stats, scratch) = (self.stats.borrow_mut(), &mut self.append.borrow_mut().0);
            self.append_natives(&scraper, client.target(), NativeRows::default(), at, scratch, &mut stats);
        }
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

    async fn scrape(&self, scraper: &Scraper, client: &mut TargetClient, start: Start) {
        let target = client.target().clone();
        let begun = Instant::now();
        let start_us = self.now_us();
        let late_us = start_us.saturating_sub(start.due_us);
        let mut stamp_ms = wall_us() / 1000;
        if late_us <= (micros(target.interval) / 100).min(SNAP_MS_MAX * 1000) {
            stamp_ms = (wall_us() - late_us) / 1000;
        }
        self.note_start(scraper, &target, start_us, late_us);

        let opened_before = client.opened();
        let fetched = match &target.forced_error {
            Some(error) => Err(FetchError { reason: Reason::TargetLimit, text: error.to_string() }),
            None => {
                let fetch = client.fetch(&self.fetcher, begun + target.timeout);
                // Boxed, so that ten thousand idle targets do not each hold the room of a scrape in flight.
                match scraper.signal.unless_over(Box::pin(fetch)).await {
                    Some(fetched) => fetched,
                    None if scraper.signal.is_stopped() => return,
                    None => Err(client.timed_out()),
                }
            }
        };
        self.note_opened(opened_before, client.opened());

        let mut reader = scraper.reader.take().expect("only the target's task takes it");
        let mut readings = self.readings.borrow_mut().pop().unwrap_or_default();
        let with_format =
            |fetched: Fetched| content_type::format_of(&fetched, &target.job).map(|format| (format, fetched));
        let read = match fetched.and_then(with_format) {
            Ok((format, fetched)) => {
                self.layouts.prepare(&mut reader, &target);
                let safe_mode = self.store.as_ref().and_then(|store| store.safe_mode());
                let safe_mode = safe_mode.or_else(|| self.agent.as_ref().and_then(|agent| agent.safe_mode()));
                let samples_max = safe_mode.map_or(u64::MAX, |safe_mode| safe_mode.samples_max);
                let slice = TimeSlice::begin(&self.task_times, CoreTask::Ingest, READ_SLICE);
                let pause = async || {
                    slice.step().await;
                };
                Ok(read_payload(&mut reader, &target, (format, fetched), samples_max, &mut readings, pause).await)
            }
            Err(error) => Err(error),
        };
        if !scraper.signal.is_stopped() {
            self.commit(scraper, &target, &mut reader, read, &readings, begun, stamp_ms);
        }
        *scraper.reader.borrow_mut() = Some(reader);
        let mut kept = self.readings.borrow_mut();
        if kept.len() < READINGS_STORED_MAX {
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
        reader: &mut Reader,
        mut read: Result<Scraped, FetchError>,
        readings: &Readings,
        begun: Instant,
        stamp_ms: u64,
    ) {
        let mut head = scraper.holder.head.borrow_mut();
        let at = stamp(stamp_ms, head.newest_at());
        if head.newest_at().is_none()
            && let Some(newest) = self.newest_elsewhere(scraper.holder.id)
            && newest < at
        {
            head.nothing_elsewhere_since(newest.plus_ms(1));
        }
        let mut stats = self.stats.borrow_mut();
        let mut status = scraper.status.borrow_mut();
        let mut report = Report::default();
        let mut wire_bytes = 0;
        let mut failure = None;
        let mut good = false;
        match &read {
            Ok(Scraped { ingested, fetched, natives, .. }) => {
                report.samples_scraped = ingested.samples_scraped;
                report.samples_post_relabel = ingested.samples_post_relabel;
                report.body_bytes = fetched.body().len() as i64;
                wire_bytes = fetched.wire_bytes() as u64;
                stats.duplicate_timestamp += ingested.duplicates;
                let kind = if ingested.warm { &mut stats.scans_warm } else { &mut stats.scans_cold };
                *kind += 1;
                good = ingested.refusal.is_none();
                if let Some(refusal) = &ingested.refusal {
                    failure = Some((refusal.reason, refusal.text.clone()));
                } else if ingested.reshaped {
                    // A series whose only sample is refused is none.
                    let refused = readings.stamps.iter().filter(|stamp| !within_bounds(at, **stamp)).count() as u64;
                    let added = head.replace(&reader.groups()).added;
                    report.series_added = added.saturating_sub(refused).saturating_sub(ingested.remembered);
                    self.layouts.note_change();
                }
                if good {
                    report.series_added += natives.series_added;
                }
            }
            Err(error) => {
                if error.reason == Reason::BodySize {
                    report.body_bytes = -1;
                }
                failure = Some((error.reason, error.text.clone()));
            }
        }
        report.up = good;
        let duration = begun.elapsed();
        report.duration_seconds = duration.as_secs_f64();

        let (scratch, row) = &mut *self.append.borrow_mut();
        row.clear();
        row.extend(report.values(&target.job, target.timeout.as_secs_f64()));
        let mark_stamped = target.job.track_timestamps_staleness;
        if good && head.newest_at().is_none_or(|newest| newest < at) {
            let scraped = read.as_mut().expect("it is good");
            self.append_zeros((scraper, &head), target, (reader, &scraped.natives), at, scratch);
            if self.features.stores_starts
                && let Some(starts) = reader.take_starts()
            {
                head.note_starts(starts);
            }
            self.append_exemplars(target, reader, scraped, readings, at);
        }
        let appended = match good {
            true => {
                row.extend_from_slice(&readings.values);
                head.append(at, row, &readings.stamps, mark_stamped, &mut self.journal.borrow_mut(), scratch)
            }
            false => head.append_failed(at, 1, row, mark_stamped, &mut self.journal.borrow_mut(), scratch),
        };
        self.hand_over(&mut head);
        self.note_rows(&scraper.holder, &head);
        match appended {
            Ok(appended) => {
                let natives = match &mut read {
                    Ok(scraped) if good => std::mem::take(&mut scraped.natives),
                    _ => NativeRows::default(),
                };
                drop(head);
                self.append_natives(scraper, target, natives, at, scratch, &mut stats);
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
        status.last_duration = duration;
        status.samples_scraped = report.samples_scraped;
        status.samples_post_relabel = report.samples_post_relabel;
        status.series_added = report.series_added;
        status.body_bytes = report.body_bytes.max(0) as u64;
        status.wire_bytes = wire_bytes;
        if let Some((reason, _)) = &failure {
            *stats.scrapes_failed.entry(*reason).or_default() += 1;
            match reason {
                Reason::SampleLimit => stats.exceeded_sample_limit += 1,
                Reason::BodySize => stats.exceeded_body_size_limit += 1,
                Reason::LabelLimit => stats.exceeded_label_limits += 1,
                Reason::BucketLimit => stats.exceeded_bucket_limit += 1,
                _ => {}
            }
        }
        if let (Some((_, error)), Some(file)) = (&failure, &target.job.scrape_failure_log_file) {
            self.failures.record(file, at, &target.job.job_name, &target.url.to_string(), error);
        }
        let refused = read.as_ref().ok().filter(|scraped| scraped.ingested.refusal.is_some());
        let refused = refused.map(|scraped| scraped.fetched.body());
        status.record_outcome(at, failure, refused);
    }

    /// Writes the native histograms of a scrape, in the same turn as the row of its floats; those that the scrape before had
    /// and this one has not end.
    fn append_natives(
        &self,
        scraper: &Scraper,
        target: &Target,
        natives: NativeRows,
        at: Timestamp,
        scratch: &mut AppendScratch,
        stats: &mut CoreStats,
    ) {
        let NativeRows { mut rows, stamps: mut of_rows, mut starts, .. } = natives;
        if !self.features.stores_starts {
            starts.clear();
        }
        if rows.is_empty() && scraper.natives.get() == 0 {
            return;
        }
        if of_rows.iter().flatten().any(|stamp| !within_bounds(at, stamp.0)) {
            let is_within: Vec<bool> =
                of_rows.iter().map(|stamp| stamp.is_none_or(|stamp| within_bounds(at, stamp.0))).collect();
            let retain = |at: &mut usize| {
                *at += 1;
                is_within[*at - 1]
            };
            let (mut row, mut stamp) = (0, 0);
            let kept_before = |row: usize| is_within[..row].iter().filter(|is_within| **is_within).count();
            starts.retain(|(row, _)| is_within[*row]);
            starts.iter_mut().for_each(|(row, _)| *row = kept_before(*row));
            rows.retain(|_| retain(&mut row));
            of_rows.retain(|_| retain(&mut stamp));
            stats.out_of_bounds += is_within.iter().filter(|is_within| !**is_within).count() as u64;
        }
        scraper.natives.set(rows.len());
        let stamps = HistogramStamps { of_rows, ends: target.job.track_timestamps_staleness };
        let request = WriteRowsRequest { source: natives_source(target.id), at, rows, stamps, starts };
        let (mut written, mut journal) = (self.written.borrow_mut(), self.journal.borrow_mut());
        let outcome = written.rows(&request, wall_ms(), &mut journal, scratch, |head| self.hand_over_of(head));
        stats.samples_appended += outcome.samples;
        stats.histograms_appended += outcome.samples;
        stats.out_of_order += outcome.out_of_order;
        stats.duplicate_timestamp += outcome.duplicates;
    }

    /// For a holder that comes now, the time after which nothing of its series is in chunks or in memory, where that is
    /// known.
    fn newest_elsewhere(&self, id: u64) -> Option<Timestamp> {
        if self.ended.borrow().iter().any(|ended| ended.id == id) {
            return None;
        }
        let bounds = match &self.store {
            Some(store) if !store.replay().done => return None,
            Some(store) => store.bounds(),
            None => None,
        };
        Some(Timestamp(bounds.map_or(i64::MIN, |(_, newest)| newest)))
    }

    /// Gives closed segments to the thread that puts them into chunks.
    fn hand_over(&self, head: &mut TargetHead) {
        if let Some(queue) = &self.flush_queue {
            head.take_closed(|closed| queue.flush(closed));
        }
    }

    fn all_scrapers(&self) -> Vec<Rc<Scraper>> {
        self.scrapers.borrow().iter().flatten().cloned().collect()
    }

    /// What takes samples: targets, then sources of samples that no scrape brings.
    fn all_holders(&self) -> Vec<Rc<HeadOwner>> {
        let scrapers = self.scrapers.borrow();
        let of_targets = scrapers.iter().flatten().map(|scraper| scraper.holder.clone());
        of_targets.chain(self.written.borrow().holders()).collect()
    }
}

/// The source whose rows have a target's native histograms.
fn natives_source(target: TargetId) -> String {
    format!("scrape {:016x}", target.0)
}

/// The time of a row: strictly after the newest one if the clock has not gone far back.
fn stamp(wall_ms: u64, newest: Option<Timestamp>) -> Timestamp {
    let wall = Timestamp(wall_ms as i64);
    match newest {
        Some(newest) if wall <= newest && newest.0 - wall.0 <= HOLD_MS_MAX => newest.plus_ms(1),
        _ => wall,
    }
}
