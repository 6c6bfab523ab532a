//! Safe mode: what a start does differently after three crashes, so that it is not the fourth.
//!
//! Invariants:
//!   * scraping goes on; what is held back says so itself, as the error of its scrape
//!   * one old log at a time is replayed, and of it one segment at a time is in memory

use crate::log::{FileId, Survey};
use ahash::AHashMap;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Lines that any target may have.
const SAMPLES_MIN: u64 = 10_000;
/// A target may have this many times the series of the median target.
const MEDIANS: u64 = 10;
/// What holds as long as safe mode does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SafeMode {
    /// Crashes that led to it.
    pub crashes: usize,
    /// Longest body of a target that is stored.
    pub samples_max: u64,
    /// How long it lasts, unless there is another crash.
    pub lasts: Duration,
}

impl std::fmt::Display for SafeMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SafeMode { crashes, samples_max, lasts } = self;
        write!(
            f,
            "{crashes} crashes within {} s: old logs are replayed one by one, and a target with more than {samples_max} \
             samples is held back, until {0} s have passed without another",
            lasts.as_secs()
        )
    }
}

/// The limit on targets: far more than what they usually had in these logs.
pub(crate) fn samples_max(folder: &Path, logs: &BTreeMap<(u32, u16), Vec<FileId>>) -> u64 {
    let mut series: AHashMap<u64, u64> = AHashMap::new();
    for files in logs.values() {
        let mut survey = Survey::default();
        for file in files {
            // A file that cannot be read is the replay's to tell.
            if let Ok(bytes) = std::fs::read(folder.join(file.to_string())) {
                survey.take(*file, bytes);
            }
        }
        survey.finish(&mut series);
    }
    let mut all: Vec<u64> = series.into_values().collect();
    all.sort_unstable();
    let median = all.get(all.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    (median * MEDIANS).max(SAMPLES_MIN)
}
