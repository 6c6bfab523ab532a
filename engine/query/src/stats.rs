//! What queries cost, and which run now.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Times are kept as microseconds with two digits; what takes longer counts as this.
const MICROS_MAX: u64 = 3_600_000_000;
const DIGITS: u8 = 2;
/// Bytes of an expression that are kept while it runs, and shown in the log.
pub(crate) const TEXT_BYTES_MAX: usize = 2048;

/// The parts of a query whose times are kept, as Prometheus names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// Evaluation.
    InnerEval,
    /// Reading what the plan selects.
    PrepareTime,
    /// Waiting for a slot.
    QueueTime,
    /// Sorting the answer.
    ResultSort,
}

impl Slice {
    pub const ALL: [Slice; 4] = [Slice::InnerEval, Slice::PrepareTime, Slice::QueueTime, Slice::ResultSort];

    pub fn as_str(self) -> &'static str {
        match self {
            Slice::InnerEval => "inner_eval",
            Slice::PrepareTime => "prepare_time",
            Slice::QueueTime => "queue_time",
            Slice::ResultSort => "result_sort",
        }
    }
}

/// Counters of the service since its start.
#[derive(Debug, Default)]
pub struct QueryStats {
    /// Samples that were looked at, as Prometheus counts them.
    pub samples: AtomicU64,
    /// Queries that ended because of a defect of the evaluation.
    pub panics: AtomicU64,
    /// Queries that ended because nobody waited for their answer any more.
    pub canceled: AtomicU64,
    pub timeouts: AtomicU64,
    /// Queries that ended at a bound of samples or memory.
    pub limits: AtomicU64,
    times: Mutex<Option<[Histogram<u64>; 4]>>,
    active: Mutex<Active>,
}

#[derive(Debug, Default)]
struct Active {
    next: u64,
    queries: BTreeMap<u64, Arc<ActiveQuery>>,
}

/// A query that waits or runs.
#[derive(Clone, Debug)]
pub struct ActiveQuery {
    pub text: Arc<str>,
    /// Who sent it: `api` or `rules`, for example.
    pub origin: &'static str,
    pub started_at: SystemTime,
    pub started: Instant,
}

/// Takes a query off the list when it is dropped.
#[derive(Debug)]
pub(crate) struct ActiveGuard {
    stats: Arc<QueryStats>,
    id: u64,
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        lock(&self.stats.active).queries.remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds the lock panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QueryStats {
    /// Notes that a query waits or runs, until the guard is dropped.
    pub(crate) fn begin(self: &Arc<QueryStats>, text: Arc<str>, origin: &'static str) -> ActiveGuard {
        let query = ActiveQuery { text, origin, started_at: SystemTime::now(), started: Instant::now() };
        let mut active = lock(&self.active);
        let id = active.next;
        active.next += 1;
        active.queries.insert(id, Arc::new(query));
        ActiveGuard { stats: self.clone(), id }
    }

    /// Queries that wait or run, the oldest first.
    pub fn active(&self) -> Vec<Arc<ActiveQuery>> {
        lock(&self.active).queries.values().cloned().collect()
    }

    /// How many queries wait or run.
    pub fn active_count(&self) -> usize {
        lock(&self.active).queries.len()
    }

    pub(crate) fn record(&self, times: &[(Slice, Duration)]) {
        let mut all = lock(&self.times);
        let all = all.get_or_insert_with(empty);
        for (slice, time) in times {
            all[*slice as usize].saturating_record((time.as_micros() as u64).min(MICROS_MAX));
        }
    }

    /// Times of a slice in microseconds.
    pub fn times(&self, slice: Slice) -> Histogram<u64> {
        lock(&self.times).get_or_insert_with(empty)[slice as usize].clone()
    }

    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

fn empty() -> [Histogram<u64>; 4] {
    Slice::ALL.map(|_| Histogram::new_with_max(MICROS_MAX, DIGITS).expect("valid bounds"))
}

/// The beginning of an expression, short enough for a log line.
pub(crate) fn shortened(text: &str) -> Arc<str> {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_listed_while_they_run() {
        let stats = Arc::new(QueryStats::default());
        let first = stats.begin("up".into(), "api");
        let second = stats.begin("a".into(), "rules");
        assert_eq!(stats.active().iter().map(|query| &*query.text).collect::<Vec<_>>(), ["up", "a"]);
        drop(first);
        assert_eq!(stats.active_count(), 1);
        drop(second);
        assert_eq!(stats.active_count(), 0);
    }

    #[test]
    fn long_texts_are_shortened_between_characters() {
        assert_eq!(&*shortened("up"), "up");
        let long = "ü".repeat(TEXT_BYTES_MAX);
        assert_eq!(shortened(&format!("a{long}")).len(), TEXT_BYTES_MAX - 1);
    }
}
