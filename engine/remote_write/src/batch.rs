//! Batches while they are made: from the samples of logs to requests.
//!
//! Invariants:
//!   * a batch's cursor is a position before which every sample is in the batch or in one before it
//!   * a request has [`REQUEST_BYTES_MAX`] uncompressed bytes at most, unless a single series has more

use crate::cursor::{LogId, LogPosition, SendCursor};
use crate::in_flight::Batch;
use crate::metadata::{MetadataSchedule, MetadataSnapshot};
use crate::outgoing::OutgoingLabels;
use crate::protocol::{Format, Protocol};
use crate::stats::Stats;
use crate::stencil::SeriesEncoder;
use ahash::AHashMap;
use bytes::Bytes;
use config::RemoteWrite;
use remote::{Counts, Message, SeriesContent, WriteBuilder};
use series::clock::now_ms;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tsdb::log::TargetKey;
use tsdb::log_reader::{Border, Told};

/// Uncompressed bytes of a request after which no series is added: well below the 32 MiB of Prometheus and others, with
/// room for a series of many megabytes.
const REQUEST_BYTES_MAX: usize = 8 << 20;

/// How often the cursor moves while there is nothing to send.
const EMPTY_BATCH_EVERY: Duration = Duration::from_secs(1);

/// Makes batches of samples.
pub struct BatchBuilder {
    protocol: Arc<Protocol>,
    outgoing: OutgoingLabels,
    builder: WriteBuilder,
    encoder: SeriesEncoder,
    /// Encoded histogram of the series that is being added.
    histogram: Vec<u8>,
    sends_histograms: bool,
    metadata: MetadataSchedule,
    samples_max: u64,
    deadline: Duration,
    age_max: Duration,
    batches: mpsc::Sender<Batch>,
    pub stats: Arc<Stats>,
    /// Where everything ends that is in batches or in this one.
    pub cursor: SendCursor,
    sources: AHashMap<u64, Option<i64>>,
    /// Source and row of the last sample.
    last_source: Option<(u64, Option<i64>)>,
    range_ms: (i64, i64),
    begun: Option<Instant>,
    /// When the last batch was finished, and where it ended.
    finished_at: Instant,
    finished_cursor: SendCursor,
}

impl BatchBuilder {
    /// Makes batches for an endpoint from where its cursor stands.
    pub fn new(
        settings: &RemoteWrite,
        outgoing: OutgoingLabels,
        cursor: SendCursor,
        batches: mpsc::Sender<Batch>,
        protocol: Arc<Protocol>,
        stats: Arc<Stats>,
        metadata: Arc<MetadataSnapshot>,
    ) -> BatchBuilder {
        let queue = &settings.queue_config;
        let mut builder = WriteBuilder::new(protocol.format().message);
        BatchBuilder {
            protocol,
            encoder: SeriesEncoder::new(outgoing.clone(), &mut builder),
            outgoing,
            builder,
            histogram: Vec::new(),
            sends_histograms: settings.send_native_histograms,
            metadata: MetadataSchedule::new(metadata, settings.metadata_config.send_interval),
            samples_max: queue.max_samples_per_send.max(1),
            deadline: queue.batch_send_deadline,
            age_max: queue.sample_age_limit,
            batches,
            stats,
            finished_cursor: cursor.clone(),
            cursor,
            sources: AHashMap::new(),
            last_source: None,
            range_ms: (i64::MAX, i64::MIN),
            begun: None,
            finished_at: Instant::now(),
        }
    }

    /// Adds a sample of a log.
    pub fn add(&mut self, log: LogId, told: &Told) {
        let Told { target, group, slot, sample, histogram, row, border } = told;
        let (at, stats) = (sample.timestamp.0, &self.stats);
        let kind = if histogram.is_some() { &stats.histograms } else { &stats.samples };
        kind.read.fetch_add(1, Ordering::Relaxed);
        stats.newest_read_ms.fetch_max(at, Ordering::Relaxed);
        if !self.age_max.is_zero() && at < now_ms() - self.age_max.as_millis() as i64 {
            kind.dropped_too_old.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let metadata = self.metadata.of(target, row.0, group, *slot, &mut self.builder);
        let samples = [(at, sample.value)];
        let is_added = match histogram {
            None => {
                let content = SeriesContent { samples: &samples, metadata, ..SeriesContent::default() };
                self.encoder.add(target, group, *slot, &content, &mut self.builder)
            }
            Some(histogram) => {
                if !self.sends_histograms {
                    return;
                }
                if self.builder.message() == Message::V1 && histogram.is_custom() {
                    stats.custom_buckets_dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                self.histogram.clear();
                remote::encode_histogram(at, histogram, &mut self.histogram);
                let histograms = [&self.histogram[..]];
                let content = SeriesContent { histograms: &histograms, metadata, ..SeriesContent::default() };
                self.encoder.add(target, group, *slot, &content, &mut self.builder)
            }
        };
        if !is_added {
            kind.dropped_by_rules.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A row of histograms may have several of one series, so its parts have to follow each other.
        let row = Some(row.0).filter(|_| histogram.is_none());
        self.note_source(target, row);
        self.range_ms = (self.range_ms.0.min(at), self.range_ms.1.max(at));
        self.begun.get_or_insert_with(Instant::now);
        if self.builder.counts().total() >= self.samples_max || self.builder.len_bytes() >= REQUEST_BYTES_MAX {
            self.move_to(log, *border);
            self.finish();
        }
    }

    /// Notes whose samples the batch has.
    fn note_source(&mut self, target: &Arc<TargetKey>, row: Option<i64>) {
        let source = self.encoder.source(target, &mut self.builder);
        if self.last_source == Some((source, row)) {
            return;
        }
        self.last_source = Some((source, row));
        let of_source = self.sources.entry(source).or_insert(row);
        if *of_source != row {
            *of_source = None;
        }
    }

    fn move_to(&mut self, log: LogId, border: Border) {
        if let Some(LogPosition { border: reached, .. }) = self.cursor.positions.get_mut(&log) {
            *reached = border.max(*reached);
        }
    }

    /// Finishes a batch that has waited long enough; without samples, a batch that says how far the reader is.
    pub fn finish_if_late(&mut self) {
        let is_late = match self.begun {
            Some(begun) => begun.elapsed() >= self.deadline,
            None => self.finished_at.elapsed() >= EMPTY_BATCH_EVERY && self.cursor != self.finished_cursor,
        };
        if is_late {
            self.finish();
        }
    }

    /// Hands a batch to the sender; waits while too many are in flight.
    pub fn finish(&mut self) {
        let counts = self.builder.counts();
        let Format { message, compression } = self.protocol.format();
        let format = Format { message: self.builder.message(), compression };
        let is_empty = counts == Counts::default();
        let body = if is_empty { Vec::new() } else { format.compression.pack(&self.builder.finish()) };
        let batch = Batch {
            body: Bytes::from(body),
            format,
            counts,
            range_ms: self.range_ms,
            sources: self.sources.drain().collect(),
            cursor: self.cursor.clone(),
        };
        self.begun = None;
        self.last_source = None;
        self.range_ms = (i64::MAX, i64::MIN);
        (self.finished_at, self.finished_cursor) = (Instant::now(), self.cursor.clone());
        self.stats.add(|kind| &kind.pending, counts);
        // Nobody takes it once the endpoint has been stopped.
        let _ = self.batches.blocking_send(batch);
        if message != self.builder.message() {
            self.builder = WriteBuilder::new(message);
            self.encoder = SeriesEncoder::new(self.outgoing.clone(), &mut self.builder);
        }
        self.encoder.begin_request(&mut self.builder);
    }
}
