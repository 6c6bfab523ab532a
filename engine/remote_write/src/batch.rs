//! Batches while they are made: from the samples of logs to requests.
//!
//! Invariants:
//!   * a batch's cursor is a position before which every sample is in the batch or in one before it
//!   * a request has [`REQUEST_BYTES_MAX`] uncompressed bytes at most, unless a single series has more

use crate::cursor::{LogId, LogPosition, SendCursor};
use crate::exemplars::{WaitingExemplars, WaitingSeries, content};
use crate::in_flight::{Batch, Rows};
use crate::metadata::MetadataSchedule;
use crate::outgoing::OutgoingLabels;
use crate::output::Outputs;
use crate::protocol::Format;
use crate::rounding::Rounding;
use crate::stencil::SeriesEncoder;
use crate::window::{Window, WindowSample, WindowSeries};
use ahash::AHashMap;
use bytes::Bytes;
use config::RemoteWrite;
use remote::{Counts, ExemplarContent, Message, SeriesContent, WriteBuilder};
use series::NO_START;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tsdb::log::LoggedExemplars;
use tsdb::log_reader::{BatchOffset, TailSample};

/// Uncompressed bytes of a request after which no series is added: well below the 32 MiB of Prometheus and others, with
/// room for a series of many megabytes.
const REQUEST_BYTES_MAX: usize = 8 << 20;

/// Rows older than this are collected in a window: the endpoint is behind, and waits for what is read at once.
const BEHIND_MS: i64 = 5_000;
/// How long a window is collected, if reading is slow.
const WINDOW_WITHIN: Duration = Duration::from_secs(1);
/// How often the cursor moves while there is nothing to send.
const EMPTY_BATCH_EVERY: Duration = Duration::from_secs(1);
/// Number of the next window: an endpoint may get windows of several readers in turn.
static WINDOWS: AtomicU64 = AtomicU64::new(1);

/// What decides what batches have and where they end: endpoints for which it is equal can get the same ones.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchSettings {
    pub outgoing: OutgoingLabels,
    pub samples_max: u64,
    pub deadline: Duration,
    pub age_max: Duration,
    pub sends_histograms: bool,
    pub sends_exemplars: bool,
    pub rounding: Rounding,
    /// How often series of 2.0 carry metadata; nothing if they do not.
    pub metadata_interval: Option<Duration>,
}

impl BatchSettings {
    pub fn new(settings: &RemoteWrite, outgoing: OutgoingLabels) -> BatchSettings {
        let (queue, metadata) = (&settings.queue_config, &settings.metadata_config);
        BatchSettings {
            outgoing,
            samples_max: queue.max_samples_per_send.max(1),
            deadline: queue.batch_send_deadline,
            age_max: queue.sample_age_limit,
            sends_histograms: settings.send_native_histograms,
            sends_exemplars: settings.send_exemplars,
            rounding: Rounding::new(settings),
            metadata_interval: metadata.send.then_some(metadata.send_interval),
        }
    }
}

/// What was read and is not in the counters of endpoints yet.
#[derive(Default)]
struct ReadCounts {
    read: Counts,
    too_old: Counts,
    dropped_by_rules: Counts,
    custom_buckets: u64,
}

/// Makes batches of samples, for one endpoint or several that get the same ones.
pub struct BatchBuilder {
    settings: BatchSettings,
    builder: WriteBuilder,
    encoder: SeriesEncoder,
    /// Encoded histogram of the series that is being added.
    histogram: Vec<u8>,
    metadata: MetadataSchedule,
    pub outputs: Outputs,
    /// Where everything ends that is in batches or in this one.
    pub cursor: SendCursor,
    sources: AHashMap<u64, Rows>,
    runs: Vec<(u64, u64)>,
    /// Source and rows of the last sample.
    last_source: Option<(u64, Rows)>,
    exemplars: WaitingExemplars,
    window: Window,
    /// Where everything before the window ends: the cursor of batches, for as long as the window is not empty.
    window_cursor: Option<SendCursor>,
    window_begun: Instant,
    /// Rows before this time are collected, and samples before this one are dropped.
    behind_before_ms: i64,
    oldest_ms: i64,
    uncounted: ReadCounts,
    newest_read_ms: i64,
    range_ms: (i64, i64),
    begun: Option<Instant>,
    /// When the last batch was finished, and where it ended.
    finished_at: Instant,
    finished_cursor: SendCursor,
}

impl BatchBuilder {
    /// Makes batches for endpoints from where a cursor stands.
    pub fn new(settings: BatchSettings, cursor: SendCursor, outputs: Outputs) -> BatchBuilder {
        let mut builder = WriteBuilder::new(outputs.format().message);
        let mut metadata = MetadataSchedule::new(settings.metadata_interval.unwrap_or(Duration::MAX));
        metadata.set(outputs.metadata());
        BatchBuilder {
            encoder: SeriesEncoder::new(settings.outgoing.clone(), &mut builder),
            builder,
            histogram: Vec::new(),
            metadata,
            settings,
            outputs,
            finished_cursor: cursor.clone(),
            cursor,
            sources: AHashMap::new(),
            runs: Vec::new(),
            last_source: None,
            exemplars: WaitingExemplars::default(),
            window: Window::default(),
            window_cursor: None,
            window_begun: Instant::now(),
            behind_before_ms: i64::MIN,
            oldest_ms: i64::MIN,
            uncounted: ReadCounts::default(),
            newest_read_ms: 0,
            range_ms: (i64::MAX, i64::MIN),
            begun: None,
            finished_at: Instant::now(),
        }
    }

    pub fn settings(&self) -> &BatchSettings {
        &self.settings
    }

    /// Adds a sample of a log.
    pub fn add(&mut self, log: LogId, told: &TailSample) {
        let TailSample { target, group, slot, sample, start, histogram, row, border } = told;
        let at = sample.timestamp.0;
        let one = match histogram {
            None => Counts { samples: 1, ..Counts::default() },
            Some(_) => Counts { histograms: 1, ..Counts::default() },
        };
        self.uncounted.read += one;
        self.newest_read_ms = self.newest_read_ms.max(at);
        if at < self.oldest_ms {
            self.uncounted.too_old += one;
            return;
        }
        if histogram.is_none() {
            if row.0 < self.behind_before_ms {
                self.collect(log, told);
                return;
            }
            self.flush_window();
        }
        if let Some(histogram) = histogram {
            if !self.settings.sends_histograms {
                return;
            }
            if self.builder.message() == Message::V1 && histogram.is_custom() {
                self.uncounted.custom_buckets += 1;
                return;
            }
        }
        let before = self.builder.counts().total();
        let metadata = self.metadata.of(target, row.0, group, *slot, &mut self.builder);
        let waited = self.exemplars.take(target.id, group, *slot);
        let exemplars: Vec<ExemplarContent> = waited.iter().map(content).collect();
        let exemplars = &exemplars[..];
        let samples = [(at, self.settings.rounding.round(sample.value))];
        let starts = [(at, *start)];
        let starts = if *start == NO_START { &[][..] } else { &starts };
        let is_added = match histogram {
            None => {
                let content =
                    SeriesContent { samples: &samples, starts, exemplars, metadata, ..SeriesContent::default() };
                self.encoder.add(target, group, *slot, &content, &mut self.builder)
            }
            Some(histogram) => {
                self.histogram.clear();
                remote::encode_histogram(at, histogram, &mut self.histogram);
                if *start != NO_START && self.builder.message() == Message::V2 {
                    remote::encode_histogram_start(*start, &mut self.histogram);
                }
                let histograms = [&self.histogram[..]];
                let content =
                    SeriesContent { histograms: &histograms, exemplars, metadata, ..SeriesContent::default() };
                self.encoder.add(target, group, *slot, &content, &mut self.builder)
            }
        };
        if !is_added {
            self.uncounted.dropped_by_rules += one;
            self.uncounted.dropped_by_rules.exemplars += exemplars.len() as u64;
            return;
        }
        // A row of histograms may have several of one series, so its parts have to follow each other.
        let rows = if histogram.is_none() { Rows::One(row.0) } else { Rows::Several };
        let source = self.encoder.source(target, &mut self.builder);
        self.note_source(source, rows, before);
        self.range_ms = (self.range_ms.0.min(at), self.range_ms.1.max(at));
        self.begun.get_or_insert_with(Instant::now);
        if self.is_full() {
            self.move_to(log, *border);
            self.send();
        }
    }

    /// Adds exemplars of a log: they wait for the samples of their series.
    pub fn add_exemplars(&mut self, log: LogId, mut logged: LoggedExemplars, border: BatchOffset) {
        if !self.settings.sends_exemplars {
            return;
        }
        let read = logged.exemplars.len() as u64;
        logged.exemplars.retain(|exemplar| exemplar.timestamp.0 >= self.oldest_ms);
        self.uncounted.read.exemplars += read;
        self.uncounted.too_old.exemplars += read - logged.exemplars.len() as u64;
        self.exemplars.add(log, logged, border);
        if self.exemplars.is_over() {
            self.flush_window();
            self.flush_exemplars();
        }
    }

    /// Adds exemplars whose samples have not come, or came before: without samples, which 1.0 and most receivers of 2.0 take.
    fn flush_exemplars(&mut self) {
        for WaitingSeries { target, group, exemplars } in self.exemplars.take_all() {
            let before = self.builder.counts().total();
            let contents: Vec<ExemplarContent> = exemplars.iter().map(content).collect();
            let content = SeriesContent { exemplars: &contents, ..SeriesContent::default() };
            if !self.encoder.add_once(&target, &group, 0, &content, &mut self.builder) {
                self.uncounted.dropped_by_rules.exemplars += exemplars.len() as u64;
                continue;
            }
            let source = self.encoder.source(&target, &mut self.builder);
            self.note_source(source, Rows::Several, before);
            for exemplar in &exemplars {
                let at = exemplar.timestamp.0;
                self.range_ms = (self.range_ms.0.min(at), self.range_ms.1.max(at));
            }
            self.begun.get_or_insert_with(Instant::now);
            if self.is_full() {
                self.send();
            }
        }
    }

    /// Counts what was read since the last call.
    fn count_read(&mut self) {
        let ReadCounts { read, too_old, dropped_by_rules, custom_buckets } = std::mem::take(&mut self.uncounted);
        for stats in self.outputs.stats() {
            stats.add(|kind| &kind.read, read);
            stats.add(|kind| &kind.dropped_too_old, too_old);
            stats.add(|kind| &kind.dropped_by_rules, dropped_by_rules);
            stats.custom_buckets_dropped.fetch_add(custom_buckets, Ordering::Relaxed);
            stats.newest_read_ms.fetch_max(self.newest_read_ms, Ordering::Relaxed);
        }
    }

    fn is_full(&self) -> bool {
        self.builder.counts().total() >= self.settings.samples_max || self.builder.len_bytes() >= REQUEST_BYTES_MAX
    }

    /// Notes whose samples the batch has; `before` counts the values before them.
    fn note_source(&mut self, source: u64, rows: Rows, before: u64) {
        if self.last_source == Some((source, rows)) {
            return;
        }
        if self.runs.last().is_none_or(|(_, last)| *last != source) {
            self.runs.push((before, source));
        }
        self.last_source = Some((source, rows));
        let of_source = self.sources.entry(source).or_insert(rows);
        if *of_source != rows {
            *of_source = Rows::Several;
        }
    }

    /// Says what time it is: rows older than a few seconds are behind, and samples may be too old.
    pub fn set_now(&mut self, now_ms: i64) {
        self.behind_before_ms = now_ms - BEHIND_MS;
        let age_max = self.settings.age_max;
        if !age_max.is_zero() {
            self.oldest_ms = now_ms - age_max.as_millis() as i64;
        }
    }

    /// Puts a sample into the window.
    fn collect(&mut self, log: LogId, told: &TailSample) {
        let TailSample { target, group, slot, sample, start, row, border, .. } = told;
        let source = self.encoder.source(target, &mut self.builder);
        let (at, value) = (sample.timestamp.0, self.settings.rounding.round(sample.value));
        let sample = WindowSample { target, group, slot: *slot, source, row: row.0, at, value, start: *start };
        for _ in 0..2 {
            if self.window.is_empty() {
                self.move_to(log, *border);
                self.window_cursor = Some(self.cursor.clone());
                self.window_begun = Instant::now();
            }
            if self.window.add(&sample) {
                return;
            }
            self.flush_window();
        }
    }

    /// Makes batches of what is in the window.
    pub fn flush_window(&mut self) {
        if self.window.is_empty() {
            return;
        }
        let rows = Rows::Window(WINDOWS.fetch_add(1, Ordering::Relaxed));
        let mut window = std::mem::take(&mut self.window);
        window.drain(|series| self.add_series(&series, rows));
        self.window_cursor = None;
    }

    fn add_series(&mut self, series: &WindowSeries, rows: Rows) {
        let WindowSeries { target, group, slot, source, samples, starts } = *series;
        let (Some((oldest, _)), Some((newest, _))) = (samples.first().copied(), samples.last().copied()) else {
            return;
        };
        let before = self.builder.counts().total();
        if before > 0 && before + samples.len() as u64 > self.settings.samples_max {
            self.send();
        }
        let before = self.builder.counts().total();
        let metadata = self.metadata.of(target, self.behind_before_ms, group, slot, &mut self.builder);
        let waited = self.exemplars.take(target.id, group, slot);
        let exemplars: Vec<ExemplarContent> = waited.iter().map(content).collect();
        let content = SeriesContent { samples, starts, exemplars: &exemplars, metadata, ..SeriesContent::default() };
        if !self.encoder.add(target, group, slot, &content, &mut self.builder) {
            self.uncounted.dropped_by_rules.samples += samples.len() as u64;
            self.uncounted.dropped_by_rules.exemplars += exemplars.len() as u64;
            return;
        }
        self.note_source(source, rows, before);
        self.range_ms = (self.range_ms.0.min(oldest), self.range_ms.1.max(newest));
        self.begun.get_or_insert_with(Instant::now);
        if self.is_full() {
            self.send();
        }
    }

    fn move_to(&mut self, log: LogId, border: BatchOffset) {
        if let Some(LogPosition { border: reached, .. }) = self.cursor.positions.get_mut(&log) {
            *reached = border.max(*reached);
        }
    }

    /// Finishes a batch that has waited long enough; without samples, a batch that says how far the reader is.
    pub fn finish_if_late(&mut self) {
        self.count_read();
        if self.window_begun.elapsed() >= WINDOW_WITHIN {
            self.flush_window();
        }
        if self.exemplars.is_over() {
            self.flush_window();
            self.flush_exemplars();
        }
        let is_late = match self.begun {
            Some(begun) => begun.elapsed() >= self.settings.deadline,
            None => {
                let has_moved = self.window.is_empty() && self.cursor != self.finished_cursor;
                has_moved && self.finished_at.elapsed() >= EMPTY_BATCH_EVERY
            }
        };
        if is_late {
            self.send();
        }
    }

    /// Hands everything that was added to the sender.
    pub fn finish(&mut self) {
        self.flush_window();
        self.flush_exemplars();
        self.send();
    }

    /// Hands a batch to the senders; waits while too many are in flight at all of them.
    fn send(&mut self) {
        self.count_read();
        let mut cursor = self.window_cursor.as_ref().unwrap_or(&self.cursor).clone();
        self.exemplars.hold_back(&mut cursor);
        let counts = self.builder.counts();
        let Format { message, compression } = self.outputs.format();
        let format = Format { message: self.builder.message(), compression };
        let is_empty = counts == Counts::default();
        let body = if is_empty { Vec::new() } else { format.compression.pack(&self.builder.finish()) };
        let batch = Batch {
            body: Bytes::from(body),
            format,
            counts,
            range_ms: self.range_ms,
            sources: self.sources.drain().collect(),
            runs: std::mem::take(&mut self.runs),
            cursor: cursor.clone(),
        };
        self.begun = None;
        self.last_source = None;
        self.range_ms = (i64::MAX, i64::MIN);
        (self.finished_at, self.finished_cursor) = (Instant::now(), cursor);
        self.outputs.hand(batch);
        self.metadata.set(self.outputs.metadata());
        if message != self.builder.message() {
            self.builder = WriteBuilder::new(message);
            self.encoder = SeriesEncoder::new(self.settings.outgoing.clone(), &mut self.builder);
        }
        self.encoder.begin_request(&mut self.builder);
    }
}
