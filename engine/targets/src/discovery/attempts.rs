//! How often a source has tried to get its list, how long that took and how many requests it made.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

/// Bounds of the histogram of attempts, in seconds: those of Prometheus.
pub const BOUNDS_SECONDS: [f64; 4] = [0.01, 0.1, 1.0, 10.0];
/// Number of latest attempts that quantiles are taken of.
const RECENT_MAX: usize = 64;

/// Attempts of one or more sources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attempts {
    pub count: u64,
    pub time: Duration,
    pub requests: u64,
    /// Number of attempts within each of [`BOUNDS_SECONDS`].
    pub within: [u64; 4],
    pub last: Option<LastAttempt>,
    /// Seconds that the latest attempts took.
    recent: VecDeque<f32>,
}

/// The latest attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastAttempt {
    /// When it ended.
    pub at: SystemTime,
    pub time: Duration,
    pub requests: u64,
}

impl Attempts {
    /// Counts an attempt that has just ended.
    pub(super) fn add(&mut self, since: Instant) {
        let time = since.elapsed();
        let seconds = time.as_secs_f64();
        self.count += 1;
        self.time += time;
        for (count, bound) in self.within.iter_mut().zip(BOUNDS_SECONDS) {
            *count += u64::from(seconds <= bound);
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(seconds as f32);
        self.last = Some(LastAttempt { at: SystemTime::now(), time, requests: 0 });
    }

    /// Counts requests of the latest attempt.
    pub(super) fn add_requests(&mut self, count: u64) {
        self.requests += count;
        if let Some(last) = &mut self.last {
            last.requests += count;
        }
    }

    /// Adds the attempts of another source.
    pub fn merge(&mut self, other: &Attempts) {
        self.count += other.count;
        self.time += other.time;
        self.requests += other.requests;
        self.within.iter_mut().zip(other.within).for_each(|(own, other)| *own += other);
        self.recent.extend(&other.recent);
        if other.last.map(|last| last.at) > self.last.map(|last| last.at) {
            self.last = other.last;
        }
    }

    /// Returns the seconds within which this share of the latest attempts ended; NaN if there was none.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut recent: Vec<f32> = self.recent.iter().copied().collect();
        recent.sort_by(f32::total_cmp);
        let rank = (share * recent.len() as f64).ceil() as usize;
        recent.get(rank.saturating_sub(1)).map_or(f64::NAN, |seconds| f64::from(*seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_merged_and_ranked() {
        let mut attempts = Attempts::default();
        assert!(attempts.quantile(0.5).is_nan());
        let now = Instant::now();
        for milliseconds in (1..=100).rev() {
            attempts.add(now.checked_sub(Duration::from_millis(milliseconds * 3)).unwrap());
            attempts.add_requests(2);
        }
        assert_eq!((attempts.count, attempts.requests, attempts.recent.len()), (100, 200, RECENT_MAX));
        assert!(attempts.within[0] <= 3 && attempts.within[2..] == [100, 100], "{:?}", attempts.within);
        assert_eq!(attempts.last.unwrap().requests, 2);
        // Of the last 64: 3, 6, …, 192 ms and what this loop took.
        assert!((0.096..0.15).contains(&attempts.quantile(0.5)), "{}", attempts.quantile(0.5));
        let mut both = Attempts::default();
        both.add(now.checked_sub(Duration::from_secs(20)).unwrap());
        both.merge(&attempts);
        assert_eq!((both.count, both.within[3], both.requests), (101, 100, 200));
        assert!(both.quantile(1.0) >= 20.0);
        assert!(both.last.unwrap().time >= Duration::from_secs(20), "the one that ended last");
    }
}
