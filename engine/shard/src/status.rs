//! What a core tells about its targets and itself: plain values that leave the core by message.

use crate::exemplars::ExemplarStats;
use crate::time_slice::CoreTask;
use fetch::Reason;
use hdrhistogram::Histogram;
use series::{Labels, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use targets::TargetId;

/// What the last scrape said of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Health {
    /// Not scraped yet.
    #[default]
    Unknown,
    Up,
    Down,
}

impl Health {
    /// As the HTTP API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Down => "down",
        }
    }
}

/// Why a tick passed without a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missed {
    /// The previous scrape of the target was still in flight.
    InFlight,
    /// The core was busy, or the process was stopped, for longer than an interval.
    CoreLate,
}

impl Missed {
    pub fn as_str(self) -> &'static str {
        match self {
            Missed::InFlight => "in_flight",
            Missed::CoreLate => "core_late",
        }
    }
}

/// A scrape that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Start of the scrape.
    pub at: Timestamp,
    pub reason: Reason,
    /// At most `FAILURE_TEXT_BYTES_MAX` bytes.
    pub text: String,
}

/// Failures that are kept of a target, newest last.
const FAILURES_MAX: usize = 8;
/// Bytes of the text of one of them.
const FAILURE_TEXT_BYTES_MAX: usize = 400;
/// Bytes that are kept of the last body that was refused: enough to see what a target sends instead of metrics.
const BODY_HEAD_BYTES_MAX: usize = 1024;

/// State of one target as its core sees it.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    pub id: TargetId,
    /// Which core owns the target.
    pub core: usize,
    pub health: Health,
    /// Start of the last scrape.
    pub last_scrape: Option<Timestamp>,
    pub last_duration: Duration,
    /// Text of the last failure, None when the last scrape was good.
    pub last_error: Option<String>,
    pub last_reason: Option<Reason>,
    /// Outcomes of the last 64 scrapes, the newest in the lowest bit; 1 is a good one. [`TargetStatus::scrapes`] says how
    /// many of them there are.
    pub outcomes: u64,
    /// Start of the scrape that brought the health that the target has now.
    pub health_since: Option<Timestamp>,
    /// Old ones stay when the target is good again. Most targets have none.
    pub failures: Vec<Failure>,
    /// Begin of the last body that was refused.
    pub refused_body_head: Option<Arc<[u8]>>,
    pub samples_scraped: u64,
    pub samples_post_relabel: u64,
    pub series_added: u64,
    /// Unpacked bytes of the last body.
    pub body_bytes: u64,
    /// Bytes of the last body as they came over the wire.
    pub wire_bytes: u64,
    /// Ticks without a scrape since the target came to this core.
    pub missed_in_flight: u64,
    pub missed_core_late: u64,
    pub scrapes: u64,
    pub scrapes_failed: u64,
}

/// One metric's metadata as targets expose it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metadata {
    pub metric: String,
    /// `counter`, `gauge`, …; `unknown` when the target does not say.
    pub kind: String,
    pub help: String,
    pub unit: String,
}

/// Newest value of a series, as an instant select returns it.
#[derive(Clone, Debug, PartialEq)]
pub struct InstantSample {
    pub labels: Labels,
    pub timestamp: Timestamp,
    pub value: f64,
}

/// A core's log since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    pub bytes_written: u64,
    /// How long the oldest record that is not durable has waited.
    pub behind_ms: u64,
    pub syncs: u64,
    pub records: u64,
    /// Records that a power cut would cost now.
    pub records_behind: u64,
    pub failures: u64,
    /// Records given up because the disk failed for too long.
    pub discarded: u64,
    /// Why writing does not work, while it does not.
    pub failing: Option<String>,
}

/// How many metrics have metadata, and the bytes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataSize {
    pub metrics: u64,
    pub bytes: u64,
}

impl std::ops::AddAssign for MetadataSize {
    fn add_assign(&mut self, other: MetadataSize) {
        self.metrics += other.metrics;
        self.bytes += other.bytes;
    }
}

/// Counters, gauges and histograms of one core since it started.
#[derive(Clone, Debug)]
pub struct CoreStats {
    pub core: usize,
    /// The CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
    pub targets: u64,
    /// Live series: slots of all targets that are not stale, report series included.
    pub series: u64,
    /// Series that came, and those of them that are no more: their lines have vanished, or their targets.
    pub series_created: u64,
    pub series_removed: u64,
    /// Metadata of targets by job.
    pub metadata: BTreeMap<String, MetadataSize>,
    /// Interned templates and the bytes they take.
    pub templates: u64,
    pub templates_bytes: u64,
    /// Bytes of rows, values and everything else that hangs on targets, as far as they are counted.
    pub head_bytes: u64,
    pub scrapes: u64,
    pub scrapes_failed: BTreeMap<Reason, u64>,
    pub missed: BTreeMap<Missed, u64>,
    /// Samples put into the head, report series included.
    pub samples_appended: u64,
    /// Those of them that are native histograms.
    pub histograms_appended: u64,
    pub samples_scraped: u64,
    pub body_bytes: u64,
    pub wire_bytes: u64,
    pub exceeded_sample_limit: u64,
    pub exceeded_body_size_limit: u64,
    pub exceeded_label_limits: u64,
    pub exceeded_bucket_limit: u64,
    pub duplicate_timestamp: u64,
    pub out_of_order: u64,
    /// Older than their series' newest, and taken within the window.
    pub late: u64,
    pub out_of_bounds: u64,
    /// Scrapes whose body was walked without parsing a line, and those that needed the parser.
    pub scans_warm: u64,
    pub scans_cold: u64,
    pub connections_opened: u64,
    /// TLS handshakes, from the start and by an earlier session.
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    pub log: LogStats,
    pub exemplars: ExemplarStats,
    /// Microseconds that syncs of the log took.
    pub log_sync_us: Histogram<u64>,
    /// Seconds of CPU time of the core's thread.
    pub cpu_seconds: f64,
    /// Longest time in which the core's heartbeat did not move.
    pub stall_max: Duration,
    /// Longest time that tasks of each kind held the core without letting others run.
    pub task_longest: Vec<(CoreTask, Duration)>,
    /// Microseconds between the time a scrape was due and the time it started.
    pub lateness_us: Histogram<u64>,
    /// Microseconds a scrape took, connect to last byte parsed.
    pub duration_us: Histogram<u64>,
    /// Microseconds between two scrape starts of a target, by interval in milliseconds.
    pub interval_us: BTreeMap<u64, Histogram<u64>>,
}

/// Microseconds up to an hour, to two digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("the bounds are constants")
}

impl CoreStats {
    /// Of a core that has done nothing yet.
    pub fn new(core: usize, cpu: usize) -> CoreStats {
        CoreStats {
            core,
            cpu: Some(cpu),
            targets: 0,
            series: 0,
            series_created: 0,
            series_removed: 0,
            metadata: BTreeMap::new(),
            templates: 0,
            templates_bytes: 0,
            head_bytes: 0,
            scrapes: 0,
            scrapes_failed: BTreeMap::new(),
            missed: BTreeMap::new(),
            samples_appended: 0,
            histograms_appended: 0,
            samples_scraped: 0,
            body_bytes: 0,
            wire_bytes: 0,
            exceeded_sample_limit: 0,
            exceeded_body_size_limit: 0,
            exceeded_label_limits: 0,
            exceeded_bucket_limit: 0,
            duplicate_timestamp: 0,
            out_of_order: 0,
            late: 0,
            out_of_bounds: 0,
            scans_warm: 0,
            scans_cold: 0,
            connections_opened: 0,
            handshakes_full: 0,
            handshakes_resumed: 0,
            log: LogStats::default(),
            exemplars: ExemplarStats::default(),
            cpu_seconds: 0.0,
            stall_max: Duration::ZERO,
            task_longest: Vec::new(),
            lateness_us: histogram(),
            duration_us: histogram(),
            interval_us: BTreeMap::new(),
            log_sync_us: histogram(),
        }
    }
}

impl TargetStatus {
    /// Of a target that has not been scraped.
    pub fn new(id: TargetId, core: usize) -> TargetStatus {
        TargetStatus {
            id,
            core,
            health: Health::Unknown,
            last_scrape: None,
            last_duration: Duration::ZERO,
            last_error: None,
            last_reason: None,
            outcomes: 0,
            health_since: None,
            failures: Vec::new(),
            refused_body_head: None,
            samples_scraped: 0,
            samples_post_relabel: 0,
            series_added: 0,
            body_bytes: 0,
            wire_bytes: 0,
            missed_in_flight: 0,
            missed_core_late: 0,
            scrapes: 0,
            scrapes_failed: 0,
        }
    }

    /// Takes over the outcome of a scrape that began at `at`, and the body that was refused, if one was.
    pub(crate) fn record_outcome(&mut self, at: Timestamp, failure: Option<(Reason, String)>, refused: Option<&[u8]>) {
        let health = if failure.is_none() { Health::Up } else { Health::Down };
        if self.health != health {
            self.health = health;
            self.health_since = Some(at);
        }
        self.scrapes += 1;
        self.scrapes_failed += u64::from(failure.is_some());
        self.outcomes = self.outcomes << 1 | u64::from(failure.is_none());
        self.last_scrape = Some(at);
        self.last_reason = failure.as_ref().map(|(reason, _)| *reason);
        if let Some((reason, text)) = &failure {
            if self.failures.len() >= FAILURES_MAX {
                self.failures.remove(0);
            }
            let text = text[..text.floor_char_boundary(FAILURE_TEXT_BYTES_MAX)].to_owned();
            self.failures.push(Failure { at, reason: *reason, text });
        }
        if let Some(body) = refused {
            self.refused_body_head = Some(body[..body.len().min(BODY_HEAD_BYTES_MAX)].into());
        }
        self.last_error = failure.map(|(_, text)| text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_failures_are_kept_within_bounds() {
        let mut status = TargetStatus::new(TargetId(1), 0);
        status.record_outcome(Timestamp(1), None, None);
        assert_eq!((status.health, status.health_since, status.outcomes), (Health::Up, Some(Timestamp(1)), 1));
        for at in 2..22 {
            let failure = Some((Reason::Parse, "é".repeat(300)));
            status.record_outcome(Timestamp(at), failure, Some(&[b'<'; 5000]));
        }
        assert_eq!((status.health_since, status.outcomes, status.scrapes), (Some(Timestamp(2)), 1 << 20, 21));
        assert_eq!((status.failures.len(), status.failures[0].at), (FAILURES_MAX, Timestamp(14)));
        assert_eq!(status.failures[7].text.len(), FAILURE_TEXT_BYTES_MAX);
        assert_eq!(status.refused_body_head.as_ref().unwrap().len(), BODY_HEAD_BYTES_MAX);
        status.record_outcome(Timestamp(30), None, None);
        assert_eq!((status.health, status.last_error.is_none()), (Health::Up, true));
        assert_eq!((status.failures.len(), status.scrapes_failed), (FAILURES_MAX, 20));
    }
}
