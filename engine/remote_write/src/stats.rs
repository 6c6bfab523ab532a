//! What became of samples, counted per endpoint.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tsdb::log::Untold;

/// Upper bounds of the histogram of request times, in seconds.
pub const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Debug)]
pub struct Stats {
    pub sent: AtomicU64,
    pub failed: AtomicU64,
    pub retried: AtomicU64,
    pub dropped_by_rules: AtomicU64,
    pub dropped_too_old: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub metadata_sent: AtomicU64,
    pub metadata_failed: AtomicU64,
    /// In batches that were not acknowledged.
    pub pending: AtomicU64,
    pub under_way: AtomicU64,
    pub newest_read_ms: AtomicI64,
    pub newest_sent_ms: AtomicI64,
    pub rows_lost: AtomicU64,
    pub histograms_left_out: AtomicU64,
    requests: [AtomicU64; BUCKETS.len() + 1],
    requests_us: AtomicU64,
    /// Why the last request was not taken; nothing once one was.
    pub last_error: Mutex<Option<String>>,
}

impl Default for Stats {
    fn default() -> Stats {
        let zero = AtomicU64::default;
        Stats {
            sent: zero(),
            failed: zero(),
            retried: zero(),
            dropped_by_rules: zero(),
            dropped_too_old: zero(),
            bytes_sent: zero(),
            metadata_sent: zero(),
            metadata_failed: zero(),
            pending: zero(),
            under_way: zero(),
            newest_read_ms: AtomicI64::new(0),
            newest_sent_ms: AtomicI64::new(0),
            rows_lost: zero(),
            histograms_left_out: zero(),
            requests: Default::default(),
            requests_us: zero(),
            last_error: Mutex::default(),
        }
    }
}

impl Stats {
    pub fn read(&self, at_ms: i64) {
        self.newest_read_ms.fetch_max(at_ms, Ordering::Relaxed);
    }

    pub fn add_untold(&self, before: Untold, now: Untold) {
        self.rows_lost.fetch_add(now.rows - before.rows, Ordering::Relaxed);
        self.histograms_left_out.fetch_add(now.histograms - before.histograms, Ordering::Relaxed);
    }

    pub fn request(&self, took: Duration) {
        let bucket = BUCKETS.partition_point(|bound| *bound < took.as_secs_f64());
        self.requests[bucket].fetch_add(1, Ordering::Relaxed);
        self.requests_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// Requests up to each of [`BUCKETS`] and in all, and the sum of their times in seconds.
    pub fn requests(&self) -> (Vec<u64>, f64) {
        let mut sum = 0;
        let counts = self.requests.iter().map(|count| {
            sum += count.load(Ordering::Relaxed);
            sum
        });
        (counts.collect(), self.requests_us.load(Ordering::Relaxed) as f64 / 1e6)
    }
}
