//! Counters and durations of rule evaluations.

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Counters of a group. They persist while a group of its name exists.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub evaluations: u64,
    pub failures: u64,
    pub iterations: u64,
    pub missed: u64,
    /// Number of samples of the last evaluation.
    pub samples: u64,
    /// Total duration of the last evaluations of all rules, in seconds.
    pub rules_seconds: f64,
    pub restore: Duration,
}

/// Durations of evaluations, and how many templates of alerts were expanded.
#[derive(Debug)]
pub struct Timings {
    durations: Mutex<(Histogram<u64>, Histogram<u64>)>,
    expansions: AtomicU64,
    expansion_failures: AtomicU64,
}

impl Default for Timings {
    fn default() -> Timings {
        let histogram = || Histogram::new(3).expect("three digits are allowed");
        Timings {
            durations: Mutex::new((histogram(), histogram())),
            expansions: AtomicU64::new(0),
            expansion_failures: AtomicU64::new(0),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

impl Timings {
    fn with<T>(&self, act: impl FnOnce(&mut (Histogram<u64>, Histogram<u64>)) -> T) -> T {
        act(&mut self.durations.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn rule(&self, took: Duration) {
        self.with(|(rules, _)| rules.saturating_record(micros(took)));
    }

    pub(crate) fn group(&self, took: Duration) {
        self.with(|(_, groups)| groups.saturating_record(micros(took)));
    }

    pub(crate) fn expansion(&self, is_ok: bool) {
        self.expansions.fetch_add(1, Ordering::Relaxed);
        self.expansion_failures.fetch_add(u64::from(!is_ok), Ordering::Relaxed);
    }

    /// Returns how many templates were expanded, and for how many of them that failed.
    pub fn expansions(&self) -> (u64, u64) {
        (self.expansions.load(Ordering::Relaxed), self.expansion_failures.load(Ordering::Relaxed))
    }

    /// Returns the durations of rules, and of whole groups, in microseconds.
    pub fn histograms(&self) -> (Histogram<u64>, Histogram<u64>) {
        self.with(|both| both.clone())
    }
}
