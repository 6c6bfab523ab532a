//! What one query may use: samples, bytes and time, and whether it has been cancelled.
//!
//! One [`Budget`] belongs to one query. It is shared by everything that works for the query: the shards, the code that
//! gathers series, the evaluation and the writer of the answer. Memory is charged when it is taken and released when its
//! [`Charge`] or [`Meter`] is dropped. A [`MemoryPool`] bounds the bytes of all queries of a process together.
//!
//! Samples are counted as Prometheus counts them for `--query.max-samples`: samples that are present in memory at the same
//! time. A step without a sample counts nothing, and samples that have been dropped count no longer.
//!
//! Invariants:
//!   * `samples` and `bytes` of a budget are the sums over its live charges; those of a pool over its budgets
//!   * a charge that fails leaves everything as it was
//!   * after [`Budget::cancel`], every [`Budget::check`] and every charge fails

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Flag that bounds the samples of one query.
pub const SAMPLES_FLAG: &str = "--query.max-samples";
/// Flag that bounds the memory of one query.
pub const QUERY_BYTES_FLAG: &str = "--query.max-memory-per-query";
/// Flag that bounds the memory of all queries together.
pub const POOL_BYTES_FLAG: &str = "--query.max-memory-total";

/// A meter charges its budget after so many samples, so that threads rarely meet at the shared counters.
const METER_SAMPLES: u64 = 4096;
/// The same for bytes.
const METER_BYTES: u64 = 64 << 10;

/// Bounds of one query. The default has none.
#[derive(Clone, Copy, Debug)]
pub struct BudgetLimits {
    /// Samples in memory at the same time.
    pub samples_max: u64,
    /// Bytes in memory at the same time.
    pub bytes_max: u64,
    pub deadline: Option<Instant>,
}

impl Default for BudgetLimits {
    fn default() -> BudgetLimits {
        BudgetLimits { samples_max: u64::MAX, bytes_max: u64::MAX, deadline: None }
    }
}

/// Why a query may not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Begins with Prometheus' text.
    #[error(
        "query processing would load too many samples into memory in query execution \
         (at least {needed} samples needed, {SAMPLES_FLAG}={max})"
    )]
    Samples { needed: u64, max: u64 },
    #[error("query needs at least {} of memory, which exceeds {QUERY_BYTES_FLAG}={}", Size(*needed), Size(*max))]
    QueryBytes { needed: u64, max: u64 },
    #[error(
        "query needs at least {} of memory, but all queries together would then use {}, which exceeds \
         {POOL_BYTES_FLAG}={}", Size(*needed), Size(*total), Size(*max)
    )]
    PoolBytes { needed: u64, total: u64, max: u64 },
    #[error("query timed out in expression evaluation")]
    Timeout,
    #[error("query was canceled in expression evaluation")]
    Canceled,
}

/// Bytes as people read them, never rounded down: a limit of this size would suffice.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes < 10 << 10 => write!(f, "{bytes}B"),
            bytes if bytes < 10 << 20 => write!(f, "{}KiB", bytes.div_ceil(1 << 10)),
            bytes => write!(f, "{}MiB", bytes.div_ceil(1 << 20)),
        }
    }
}

/// Bytes that all queries of a process may use together.
#[derive(Debug)]
pub struct MemoryPool {
    bytes_max: u64,
    bytes: AtomicU64,
    bytes_peak: AtomicU64,
}

impl MemoryPool {
    pub fn new(bytes_max: u64) -> Arc<MemoryPool> {
        Arc::new(MemoryPool { bytes_max, bytes: AtomicU64::new(0), bytes_peak: AtomicU64::new(0) })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn bytes_peak(&self) -> u64 {
        self.bytes_peak.load(Ordering::Relaxed)
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

/// Adds to a counter unless it would pass `max`. Returns the value that was reached, or that would have been.
fn add_bounded(counter: &AtomicU64, peak: &AtomicU64, add: u64, max: u64) -> Result<(), u64> {
    let add_to = |now: u64| now.checked_add(add).filter(|sum| *sum <= max);
    match counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add_to) {
        Ok(before) => {
            peak.fetch_max(before + add, Ordering::Relaxed);
            Ok(())
        }
        Err(now) => Err(now.saturating_add(add)),
    }
}

fn subtract(counter: &AtomicU64, amount: u64) {
    let before = counter.fetch_sub(amount, Ordering::Relaxed);
    debug_assert!(before >= amount, "only what was charged is released");
}

#[derive(Debug)]
struct Account {
    limits: BudgetLimits,
    samples: AtomicU64,
    samples_peak: AtomicU64,
    bytes: AtomicU64,
    bytes_peak: AtomicU64,
    is_canceled: Arc<AtomicBool>,
    pool: Option<Arc<MemoryPool>>,
}

/// The account of one query. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Account>);

impl Budget {
    pub fn new(limits: BudgetLimits, pool: Option<Arc<MemoryPool>>) -> Budget {
        Budget(Arc::new(Account {
            limits,
            samples: AtomicU64::new(0),
            samples_peak: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_peak: AtomicU64::new(0),
            is_canceled: Arc::default(),
            pool,
        }))
    }

    /// Without bounds; it can be cancelled.
    pub fn unlimited() -> Budget {
        Budget::new(BudgetLimits::default(), None)
    }

    pub fn limits(&self) -> BudgetLimits {
        self.0.limits
    }

    /// Makes every later check and charge fail.
    pub fn cancel(&self) {
        self.0.is_canceled.store(true, Ordering::Relaxed);
    }

    pub fn is_canceled(&self) -> bool {
        self.0.is_canceled.load(Ordering::Relaxed)
    }

    /// The flag that [`Budget::cancel`] sets, for code that knows no budgets.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.0.is_canceled.clone()
    }

    /// Cancels the query when the guard is dropped: its owner has gone.
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// # Errors
    /// [`BudgetError::Canceled`] and [`BudgetError::Timeout`].
    pub fn check(&self) -> Result<(), BudgetError> {
        if self.is_canceled() {
            return Err(BudgetError::Canceled);
        }
        match self.0.limits.deadline {
            Some(deadline) if Instant::now() > deadline => Err(BudgetError::Timeout),
            _ => Ok(()),
        }
    }

    /// Charges samples and bytes for as long as the charge lives.
    pub fn charge(&self, samples: u64, bytes: u64) -> Result<Charge, BudgetError> {
        let mut charge = Charge::empty(self);
        charge.grow(samples, bytes)?;
        Ok(charge)
    }

    /// An empty charge that grows in batches: for code that counts sample by sample.
    pub fn meter(&self) -> Meter {
        Meter { charge: Charge::empty(self), samples: 0, bytes: 0 }
    }

    /// Samples that are charged now.
    pub fn samples(&self) -> u64 {
        self.0.samples.load(Ordering::Relaxed)
    }

    /// Bytes that are charged now.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub fn samples_peak(&self) -> u64 {
        self.0.samples_peak.load(Ordering::Relaxed)
    }

    pub fn bytes_peak(&self) -> u64 {
        self.0.bytes_peak.load(Ordering::Relaxed)
    }

    fn add(&self, samples: u64, bytes: u64) -> Result<(), BudgetError> {
        self.check()?;
        let Account { limits, pool, .. } = &*self.0;
        if samples > 0 {
            add_bounded(&self.0.samples, &self.0.samples_peak, samples, limits.samples_max)
                .map_err(|needed| BudgetError::Samples { needed, max: limits.samples_max })?;
        }
        if bytes == 0 {
            return Ok(());
        }
        let undo_samples = |error| {
            subtract(&self.0.samples, samples);
            error
        };
        add_bounded(&self.0.bytes, &self.0.bytes_peak, bytes, limits.bytes_max)
            .map_err(|needed| undo_samples(BudgetError::QueryBytes { needed, max: limits.bytes_max }))?;
        let Some(pool) = pool else { return Ok(()) };
        add_bounded(&pool.bytes, &pool.bytes_peak, bytes, pool.bytes_max).map_err(|total| {
            let needed = self.0.bytes.load(Ordering::Relaxed);
            subtract(&self.0.bytes, bytes);
            undo_samples(BudgetError::PoolBytes { needed, total, max: pool.bytes_max })
        })
    }

    fn release(&self, samples: u64, bytes: u64) {
        subtract(&self.0.samples, samples);
        subtract(&self.0.bytes, bytes);
        if let Some(pool) = &self.0.pool {
            subtract(&pool.bytes, bytes);
        }
    }
}

/// Cancels a query when it is dropped.
#[derive(Debug)]
pub struct CancelOnDrop(Budget);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Samples and bytes that a budget is charged with; dropping it releases them.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    samples: u64,
    bytes: u64,
}

impl Charge {
    /// A charge of nothing.
    pub fn empty(budget: &Budget) -> Charge {
        Charge { budget: budget.clone(), samples: 0, bytes: 0 }
    }

    pub fn samples(&self) -> u64 {
        self.samples
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    pub fn grow(&mut self, samples: u64, bytes: u64) -> Result<(), BudgetError> {
        self.budget.add(samples, bytes)?;
        self.samples += samples;
        self.bytes += bytes;
        Ok(())
    }

    /// Releases a part.
    ///
    /// # Panics
    /// If it is more than was charged.
    pub fn shrink(&mut self, samples: u64, bytes: u64) {
        assert!(samples <= self.samples && bytes <= self.bytes, "only what was charged is released");
        self.budget.release(samples, bytes);
        self.samples -= samples;
        self.bytes -= bytes;
    }

    /// Takes over another charge of the same budget.
    pub fn merge(&mut self, mut other: Charge) {
        assert!(Arc::ptr_eq(&self.budget.0, &other.budget.0), "charges of one budget");
        self.samples += std::mem::take(&mut other.samples);
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.release(self.samples, self.bytes);
    }
}

/// A charge that counts for itself and charges its budget in batches of some thousand samples: up to one batch is not
/// charged yet.
#[derive(Debug)]
pub struct Meter {
    charge: Charge,
    /// Counted and not yet charged.
    samples: u64,
    bytes: u64,
}

impl Meter {
    /// Counts samples and bytes; now and then charges them and looks at deadline and cancellation.
    #[inline]
    pub fn add(&mut self, samples: u64, bytes: u64) -> Result<(), BudgetError> {
        self.samples += samples;
        self.bytes += bytes;
        if self.samples >= METER_SAMPLES || self.bytes >= METER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Charges what was counted.
    pub fn flush(&mut self) -> Result<(), BudgetError> {
        self.charge.grow(self.samples, self.bytes)?;
        (self.samples, self.bytes) = (0, 0);
        Ok(())
    }

    /// The charge for everything that was counted.
    pub fn into_charge(mut self) -> Result<Charge, BudgetError> {
        self.flush()?;
        Ok(self.charge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn budget(samples_max: u64, bytes_max: u64, pool: Option<&Arc<MemoryPool>>) -> Budget {
        Budget::new(BudgetLimits { samples_max, bytes_max, deadline: None }, pool.cloned())
    }

    #[test]
    fn what_is_charged_is_released() {
        let pool = MemoryPool::new(1000);
        let budget = budget(10, 900, Some(&pool));
        {
            let mut charge = budget.charge(4, 300).unwrap();
            charge.grow(2, 100).unwrap();
            charge.shrink(1, 50);
            let other = budget.charge(1, 1).unwrap();
            charge.merge(other);
            assert_eq!((budget.samples(), budget.bytes(), pool.bytes()), (6, 351, 351));
        }
        assert_eq!((budget.samples(), budget.bytes(), pool.bytes()), (0, 0, 0));
        assert_eq!((budget.samples_peak(), budget.bytes_peak(), pool.bytes_peak()), (6, 400, 400));
    }

    #[test]
    fn a_charge_that_fails_leaves_everything_as_it_was() {
        let pool = MemoryPool::new(1000);
        let (one, other) = (budget(10, 900, Some(&pool)), budget(10, 900, Some(&pool)));
        let held = one.charge(8, 800).unwrap();
        let text = |error: BudgetError| error.to_string();
        let samples = text(one.charge(3, 0).unwrap_err());
        assert!(samples.starts_with("query processing would load too many samples into memory in query execution"));
        assert!(samples.ends_with("(at least 11 samples needed, --query.max-samples=10)"), "{samples}");
        let bytes = text(one.charge(1, 101).unwrap_err());
        assert_eq!(bytes, "query needs at least 901B of memory, which exceeds --query.max-memory-per-query=900B");
        let pooled = text(other.charge(1, 201).unwrap_err());
        let want = "query needs at least 201B of memory, but all queries together would then use 1001B, which exceeds \
                    --query.max-memory-total=1000B";
        assert_eq!(pooled, want);
        assert_eq!((one.samples(), one.bytes(), other.samples(), other.bytes(), pool.bytes()), (8, 800, 0, 0, 800));
        drop(held);
        assert!(other.charge(10, 900).is_ok());
    }

    #[test]
    fn a_meter_charges_in_batches() {
        let budget = budget(METER_SAMPLES, u64::MAX, None);
        let mut meter = budget.meter();
        for _ in 0..METER_SAMPLES - 1 {
            meter.add(1, 8).unwrap();
        }
        assert_eq!(budget.samples(), 0);
        meter.add(1, 8).unwrap();
        assert_eq!((budget.samples(), budget.bytes()), (METER_SAMPLES, METER_SAMPLES * 8));
        meter.add(1, 8).unwrap();
        assert!(meter.into_charge().is_err(), "one sample too many");
        assert_eq!((budget.samples(), budget.bytes()), (0, 0));
    }

    #[test]
    fn cancelled_and_late_queries_stop() {
        let budget = Budget::unlimited();
        assert_eq!(budget.check(), Ok(()));
        drop(budget.cancel_on_drop());
        assert_eq!(budget.check(), Err(BudgetError::Canceled));
        assert!(budget.charge(1, 1).is_err() && budget.cancel_flag().load(Ordering::Relaxed));
        let deadline = Instant::now().checked_sub(Duration::from_millis(1));
        let late = Budget::new(BudgetLimits { deadline, ..BudgetLimits::default() }, None);
        assert_eq!(late.check(), Err(BudgetError::Timeout));
    }

    #[test]
    fn sizes_are_never_rounded_down() {
        for (bytes, want) in
            [(0, "0B"), (10_239, "10239B"), (10_241, "11KiB"), ((10 << 20) + 1, "11MiB"), (1 << 40, "1048576MiB")]
        {
            assert_eq!(Size(bytes).to_string(), want);
        }
    }
}
