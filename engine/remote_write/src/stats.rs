//! Counters of an endpoint.

use remote::Counts;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tsdb::log_reader::TailLosses;

/// Upper bounds of the histogram of request times, in seconds. Prometheus' own.
pub const BUCKETS: [f64; 15] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0];

/// Counters of samples, histograms or exemplars.
#[derive(Debug, Default)]
pub struct KindStats {
    /// Read from the log.
    pub read: AtomicU64,
    /// Stored by the receiver.
    pub sent: AtomicU64,
    /// Lost: see `Loss`.
    pub failed: AtomicU64,
    /// Once for each further attempt.
    pub retried: AtomicU64,
    pub dropped_by_rules: AtomicU64,
    pub dropped_too_old: AtomicU64,
    /// In batches that are not complete.
    pub pending: AtomicU64,
}

/// Why samples and histograms were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The receiver refused them for good.
    Rejected,
    /// The receiver accepted the request, but did not confirm that it stored them.
    NotConfirmed,
    /// Every request with them failed while others were accepted.
    NeverAccepted,
}

/// Losses by their names in metrics.
pub const LOSSES: [(&str, Loss); 3] =
    [("rejected", Loss::Rejected), ("not_confirmed", Loss::NotConfirmed), ("never_accepted", Loss::NeverAccepted)];

#[derive(Debug, Default)]
pub struct Stats {
    pub samples: KindStats,
    pub histograms: KindStats,
    pub exemplars: KindStats,
    /// Histograms with custom buckets, which 1.0 has no place for.
    pub custom_buckets_dropped: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub metadata_sent: AtomicU64,
    pub metadata_failed: AtomicU64,
    pub metadata_retried: AtomicU64,
    pub metadata_bytes_sent: AtomicU64,
    /// Requests in flight.
    pub in_flight: AtomicU64,
    /// Requests that were accepted.
    pub accepted: AtomicU64,
    pub newest_read_ms: AtomicI64,
    pub newest_sent_ms: AtomicI64,
    /// When the newest log was written.
    pub newest_written_ms: AtomicI64,
    /// Endpoints that get the same batches, with this one.
    pub same_batches: AtomicU64,
    /// The newest log file of which something was acknowledged, by its number within its log.
    pub current_file: AtomicU64,
    /// Bytes of logs that were not acknowledged.
    pub lag_bytes: AtomicU64,
    /// Samples and histograms per second that were accepted lately, see [`Stats::measure_rate`].
    pub rate: AtomicU64,
    /// Of them, how many there were at the last measurement.
    measured: AtomicU64,
    pub rows_lost: AtomicU64,
    /// Log files that were removed before the endpoint had acknowledged them.
    pub files_lost: AtomicU64,
    /// Bytes of them.
    pub log_bytes_lost: AtomicU64,
    losses: [AtomicU64; LOSSES.len()],
    requests: [AtomicU64; BUCKETS.len() + 1],
    requests_us: AtomicU64,
    /// Why the last request failed; nothing once one was accepted.
    last_error: Mutex<Option<String>>,
}

impl Stats {
    /// Samples, histograms and exemplars, with the number of each.
    fn kinds(&self, counts: Counts) -> [(&KindStats, u64); 3] {
        let Counts { samples, histograms, exemplars } = counts;
        [(&self.samples, samples), (&self.histograms, histograms), (&self.exemplars, exemplars)]
    }

    /// Adds to a counter of each kind.
    pub fn add(&self, counter: impl Fn(&KindStats) -> &AtomicU64, counts: Counts) {
        for (kind, count) in self.kinds(counts) {
            if count > 0 {
                counter(kind).fetch_add(count, Relaxed);
            }
        }
    }

    pub fn subtract_pending(&self, counts: Counts) {
        for (kind, count) in self.kinds(counts) {
            kind.pending.fetch_sub(count, Relaxed);
        }
    }

    pub fn add_lost(&self, loss: Loss, counts: Counts) {
        self.add(|kind| &kind.failed, counts);
        let reason = LOSSES.iter().position(|(_, other)| *other == loss).expect("every loss has a name");
        self.losses[reason].fetch_add(counts.total(), Relaxed);
    }

    /// Lost samples, histograms and exemplars, in the order of `LOSSES`.
    pub fn losses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        LOSSES.iter().zip(&self.losses).map(|((name, _), count)| (*name, count.load(Relaxed)))
    }

    pub fn add_losses(&self, before: TailLosses, now: TailLosses) {
        self.rows_lost.fetch_add(now.rows - before.rows, Relaxed);
    }

    pub fn note_request(&self, took: Duration) {
        let bucket = BUCKETS.partition_point(|bound| *bound < took.as_secs_f64());
        self.requests[bucket].fetch_add(1, Relaxed);
        self.requests_us.fetch_add(took.as_micros() as u64, Relaxed);
    }

    /// Requests up to each of [`BUCKETS`] and in all, and the sum of their times in seconds.
    pub fn requests(&self) -> (Vec<u64>, f64) {
        let mut sum = 0;
        let counts = self.requests.iter().map(|count| {
            sum += count.load(Relaxed);
            sum
        });
        (counts.collect(), self.requests_us.load(Relaxed) as f64 / 1e6)
    }

    /// Updates the rate of accepted samples, as a moving average over about ten calls.
    pub fn measure_rate(&self, since: Duration) {
        let sent = self.samples.sent.load(Relaxed) + self.histograms.sent.load(Relaxed);
        let before = self.measured.swap(sent, Relaxed);
        let now = (sent - before) as f64 / since.as_secs_f64().max(0.001);
        let rate = self.rate.load(Relaxed) as f64;
        self.rate.store((rate + (now - rate) / 10.0).round() as u64, Relaxed);
    }

    /// How far the newest acknowledged sample is behind the newest of the log; nothing before the first one.
    pub fn lag(&self) -> Option<Duration> {
        let newest_sent = self.newest_sent_ms.load(Relaxed);
        if self.lag_bytes.load(Relaxed) == 0 {
            return Some(Duration::ZERO);
        }
        let lag_ms = self.highest_ms() - newest_sent;
        (newest_sent > 0).then(|| Duration::from_millis(u64::try_from(lag_ms).unwrap_or(0)))
    }

    /// The newest timestamp of the log: of what was read, or when the log was written if that is behind.
    pub fn highest_ms(&self) -> i64 {
        self.newest_read_ms.load(Relaxed).max(self.newest_written_ms.load(Relaxed))
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the outcome of a request; returns that of the one before.
    pub fn set_last_error(&self, error: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.last_error.lock().unwrap_or_else(PoisonError::into_inner), error)
    }
}
