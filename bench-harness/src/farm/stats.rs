//! What the farm saw: enough to prove that no scrape was missed and that none overlapped.
//!
//! Invariants:
//!   * every counter is an atomic of its own; readers may see a scrape half counted, never a torn number
//!   * a reset keeps what is about now (open connections, requests in flight) and forgets the rest

use std::fmt::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::evil::EVILS;

/// Upper bounds of the histogram of interval deviations; one more bucket takes the rest.
const DEVIATION_MS_BOUNDS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, 15_000];

/// One target, as seen from its own side.
#[derive(Default)]
struct Target {
    /// Scrapes since the start of the process; picks the variant, so a reset does not disturb the payloads.
    scrapes_ever: AtomicU32,
    requests: AtomicU32,
    in_flight: AtomicU32,
    connections: AtomicU32,
    /// When the newest request came, in microseconds since the farm's start; 0 = none yet.
    request_last_us: AtomicU64,
    /// The distance of the first two requests; 0 = not known yet.
    interval_first_us: AtomicU64,
}

/// All counters of one farm.
pub struct Stats {
    start: Instant,
    /// The interval that was promised, if any; otherwise each target's first interval is its measure.
    interval_expected: Option<Duration>,
    /// One per tracked target, and a last one shared by every address outside them.
    targets: Vec<Target>,
    requests: AtomicU64,
    requests_gzip: AtomicU64,
    bytes_sent: AtomicU64,
    /// Scrapes answered to the end and their samples, since the start of the process: a reset leaves them alone.
    scrapes_ever: AtomicU64,
    samples_ever: AtomicU64,
    connections_accepted: AtomicU64,
    connections_open: AtomicU64,
    connections_refused: AtomicU64,
    connections_doubled: AtomicU64,
    overlaps: AtomicU64,
    intervals_missed: AtomicU64,
    intervals_short: AtomicU64,
    /// Intervals longer than one and a quarter, and the longest of all.
    intervals_long: AtomicU64,
    interval_us_max: AtomicU64,
    deviation_us_max: AtomicU64,
    deviation_us_sum: AtomicU64,
    deviations: [AtomicU64; DEVIATION_MS_BOUNDS.len() + 1],
    evil: Vec<AtomicU64>,
}

impl Stats {
    /// Room for `targets_max` targets; requests to other addresses share one slot and are left out of the intervals.
    pub fn new(targets_max: usize, interval_expected: Option<Duration>) -> Self {
        Self {
            start: Instant::now(),
            interval_expected,
            targets: (0..=targets_max).map(|_| Target::default()).collect(),
            requests: AtomicU64::new(0),
            requests_gzip: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            scrapes_ever: AtomicU64::new(0),
            samples_ever: AtomicU64::new(0),
            connections_accepted: AtomicU64::new(0),
            connections_open: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            connections_doubled: AtomicU64::new(0),
            overlaps: AtomicU64::new(0),
            intervals_missed: AtomicU64::new(0),
            intervals_short: AtomicU64::new(0),
            intervals_long: AtomicU64::new(0),
            interval_us_max: AtomicU64::new(0),
            deviation_us_max: AtomicU64::new(0),
            deviation_us_sum: AtomicU64::new(0),
            deviations: Default::default(),
            evil: EVILS.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The slot of a target; the shared one for `None` and for targets beyond those tracked.
    pub fn slot(&self, target: Option<usize>) -> usize {
        let slot_shared = self.targets.len() - 1;
        target.map_or(slot_shared, |t| t.min(slot_shared))
    }

    fn is_shared(&self, slot: usize) -> bool {
        slot == self.targets.len() - 1
    }

    /// A connection was accepted on the slot's address.
    pub fn connection_opened(&self, slot: usize) {
        self.connections_accepted.fetch_add(1, Relaxed);
        self.connections_open.fetch_add(1, Relaxed);
        let before = self.targets[slot].connections.fetch_add(1, Relaxed);
        if before > 0 && !self.is_shared(slot) {
            self.connections_doubled.fetch_add(1, Relaxed);
        }
    }

    /// The connection is gone.
    pub fn connection_closed(&self, slot: usize) {
        self.connections_open.fetch_sub(1, Relaxed);
        self.targets[slot].connections.fetch_sub(1, Relaxed);
    }

    /// A connection from or to an address outside 127.0.0.0/8 was turned away.
    pub fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Relaxed);
    }

    /// A scrape of a payload begins; returns its number on this target, from 0.
    pub fn scrape_began(&self, slot: usize, gzip: bool, now: Instant) -> u32 {
        let target = &self.targets[slot];
        self.requests.fetch_add(1, Relaxed);
        self.requests_gzip.fetch_add(u64::from(gzip), Relaxed);
        target.requests.fetch_add(1, Relaxed);
        if !self.is_shared(slot) {
            if target.in_flight.fetch_add(1, Relaxed) > 0 {
                self.overlaps.fetch_add(1, Relaxed);
            }
            // 0 means "none yet", so the very first microsecond is rounded up.
            let now_us = (now.saturating_duration_since(self.start).as_micros() as u64).max(1);
            let last_us = target.request_last_us.swap(now_us, Relaxed);
            if last_us != 0 {
                self.interval_seen(target, now_us.saturating_sub(last_us));
            }
        }
        target.scrapes_ever.fetch_add(1, Relaxed)
    }

    /// The scrape that `scrape_began` announced was written to the end, or its connection is gone.
    pub fn scrape_ended(&self, slot: usize) {
        if !self.is_shared(slot) {
            self.targets[slot].in_flight.fetch_sub(1, Relaxed);
        }
    }

    /// A payload was handed to the kernel whole.
    pub fn scrape_answered(&self, samples: usize) {
        self.scrapes_ever.fetch_add(1, Relaxed);
        self.samples_ever.fetch_add(samples as u64, Relaxed);
    }

    fn interval_seen(&self, target: &Target, interval_us: u64) {
        let expected_us = match self.interval_expected {
            Some(expected) => expected.as_micros() as u64,
            None => match target.interval_first_us.load(Relaxed) {
                0 => return target.interval_first_us.store(interval_us.max(1), Relaxed),
                first_us => first_us,
            },
        };
        // A gap of one and a half intervals or more hides at least one scrape that never came.
        let intervals = (interval_us + expected_us / 2) / expected_us.max(1);
        self.intervals_missed.fetch_add(intervals.saturating_sub(1), Relaxed);
        self.intervals_short.fetch_add(u64::from(intervals == 0), Relaxed);
        self.intervals_long.fetch_add(u64::from(interval_us > expected_us + expected_us / 4), Relaxed);
        self.interval_us_max.fetch_max(interval_us, Relaxed);
        let deviation_us = interval_us.abs_diff(expected_us);
        self.deviation_us_max.fetch_max(deviation_us, Relaxed);
        self.deviation_us_sum.fetch_add(deviation_us, Relaxed);
        let bucket = DEVIATION_MS_BOUNDS.partition_point(|&bound_ms| bound_ms * 1_000 < deviation_us);
        self.deviations[bucket].fetch_add(1, Relaxed);
    }

    /// Bytes handed to the kernel, heads included.
    pub fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }

    /// An evil path was asked for; returns how often it had been before.
    pub fn evil_served(&self, evil: usize) -> u64 {
        self.evil[evil].fetch_add(1, Relaxed)
    }

    /// Forget all but open connections, requests in flight and the place of each target in its variants.
    pub fn reset(&self) {
        for target in &self.targets {
            target.requests.store(0, Relaxed);
            target.request_last_us.store(0, Relaxed);
            target.interval_first_us.store(0, Relaxed);
        }
        let totals = [
            &self.requests,
            &self.requests_gzip,
            &self.bytes_sent,
            &self.connections_accepted,
            &self.connections_refused,
            &self.connections_doubled,
            &self.overlaps,
            &self.intervals_missed,
            &self.intervals_short,
            &self.intervals_long,
            &self.interval_us_max,
            &self.deviation_us_max,
            &self.deviation_us_sum,
        ];
        totals.into_iter().chain(&self.deviations).chain(&self.evil).for_each(|counter| counter.store(0, Relaxed));
    }

    /// The page `/stats`.
    pub fn json(&self) -> String {
        let tracked = &self.targets[..self.targets.len() - 1];
        let counts: Vec<u32> = tracked.iter().map(|t| t.requests.load(Relaxed)).filter(|&n| n > 0).collect();
        let deviations: Vec<u64> = self.deviations.iter().map(|n| n.load(Relaxed)).collect();
        let seen: u64 = deviations.iter().sum();
        let deviation_us_mean = self.deviation_us_sum.load(Relaxed).checked_div(seen).unwrap_or(0);
        let mut out = String::from("{\n");
        let mut field = |name: &str, value: u64| _ = writeln!(out, "  \"{name}\": {value},");
        field("uptime_ms", self.start.elapsed().as_millis() as u64);
        field("scrapes", self.requests.load(Relaxed));
        field("scrapes_gzip", self.requests_gzip.load(Relaxed));
        field("scrapes_ever", self.scrapes_ever.load(Relaxed));
        field("samples_ever", self.samples_ever.load(Relaxed));
        field("bytes_sent", self.bytes_sent.load(Relaxed));
        field("connections_accepted", self.connections_accepted.load(Relaxed));
        field("connections_open", self.connections_open.load(Relaxed));
        field("connections_refused", self.connections_refused.load(Relaxed));
        field("connections_doubled", self.connections_doubled.load(Relaxed));
        field("targets_seen", counts.len() as u64);
        field("target_scrapes_min", counts.iter().copied().min().unwrap_or(0).into());
        field("target_scrapes_max", counts.iter().copied().max().unwrap_or(0).into());
        field("overlapping_scrapes", self.overlaps.load(Relaxed));
        field("intervals_missed", self.intervals_missed.load(Relaxed));
        field("intervals_short", self.intervals_short.load(Relaxed));
        field("intervals_over_1_25", self.intervals_long.load(Relaxed));
        field("interval_us_max", self.interval_us_max.load(Relaxed));
        field("interval_deviation_us_mean", deviation_us_mean);
        field("interval_deviation_us_max", self.deviation_us_max.load(Relaxed));
        out.push_str("  \"interval_deviation_ms\": {");
        for (bucket, count) in deviations.iter().enumerate() {
            let comma = if bucket == 0 { "" } else { ", " };
            match DEVIATION_MS_BOUNDS.get(bucket) {
                Some(bound_ms) => _ = write!(out, "{comma}\"le_{bound_ms}\": {count}"),
                None => _ = write!(out, "{comma}\"more\": {count}"),
            }
        }
        out.push_str("},\n  \"evil\": {");
        let mut comma = "";
        for (evil, count) in EVILS.iter().zip(&self.evil) {
            let count = count.load(Relaxed);
            if count > 0 {
                _ = write!(out, "{comma}\"{}\": {count}", evil.name);
                comma = ", ";
            }
        }
        out.push_str("}\n}\n");
        out
    }

    /// The page `/stats/targets`: scrapes of each tracked target, in order of target, up to the last one seen.
    pub fn targets_json(&self) -> String {
        let counts: Vec<u32> = self.targets.iter().map(|t| t.requests.load(Relaxed)).collect();
        let tracked = &counts[..counts.len() - 1];
        let seen = tracked.iter().rposition(|&n| n > 0).map_or(0, |last| last + 1);
        format!("{:?}\n", &tracked[..seen])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scrapes target 0 at the given milliseconds and looks for `want` in the page.
    #[track_caller]
    fn check(interval_expected_ms: Option<u64>, at_ms: &[u64], want: &[&str]) {
        let stats = Stats::new(4, interval_expected_ms.map(Duration::from_millis));
        for &ms in at_ms {
            stats.scrape_began(0, false, stats.start + Duration::from_millis(ms));
            stats.scrape_ended(0);
        }
        let json = stats.json();
        for part in want {
            assert!(json.contains(part), "no {part} in {json}");
        }
    }

    #[test]
    fn even_scrapes_deviate_by_nothing() {
        let want = ["\"scrapes\": 4", "\"intervals_missed\": 0", "\"interval_deviation_us_max\": 0", "\"le_1\": 3"];
        check(Some(1_000), &[5, 1_005, 2_005, 3_005], &want);
    }

    #[test]
    fn a_gap_is_a_missed_scrape() {
        check(Some(1_000), &[5, 1_005, 4_005], &["\"intervals_missed\": 2", "\"le_5000\": 1"]);
        check(Some(1_000), &[5, 1_255], &["\"intervals_over_1_25\": 0", "\"interval_us_max\": 1250000"]);
        check(Some(1_000), &[5, 1_256], &["\"intervals_over_1_25\": 1", "\"interval_us_max\": 1251000"]);
    }

    #[test]
    fn the_first_interval_is_the_measure_when_none_was_promised() {
        let want = ["\"intervals_missed\": 0", "\"le_20\": 1", "\"interval_deviation_us_max\": 12000"];
        check(None, &[5, 505, 1_017], &want);
    }

    #[test]
    fn a_scrape_far_too_early_is_short() {
        check(Some(1_000), &[5, 205], &["\"intervals_short\": 1"]);
    }

    #[test]
    fn two_scrapes_in_flight_on_one_target_are_an_overlap() {
        let stats = Stats::new(4, None);
        stats.scrape_began(1, true, Instant::now());
        stats.scrape_began(2, true, Instant::now());
        assert!(stats.json().contains("\"overlapping_scrapes\": 0"));
        stats.scrape_began(1, true, Instant::now());
        assert!(stats.json().contains("\"overlapping_scrapes\": 1"));
    }

    #[test]
    fn a_reset_leaves_what_was_ever_answered() {
        let stats = Stats::new(4, None);
        stats.scrape_answered(20);
        stats.reset();
        stats.scrape_answered(1_360);
        assert!(stats.json().contains("\"scrapes_ever\": 2,\n  \"samples_ever\": 1380,"), "{}", stats.json());
    }

    #[test]
    fn a_reset_keeps_the_place_in_the_variants() {
        let stats = Stats::new(4, None);
        assert_eq!(stats.scrape_began(3, false, Instant::now()), 0);
        stats.reset();
        assert_eq!(stats.scrape_began(3, false, Instant::now()), 1);
        assert!(stats.json().contains("\"scrapes\": 1,"));
        assert_eq!(stats.targets_json(), "[0, 0, 0, 1]\n");
    }
}
