//! Settings of rule evaluation, and the limit of rules that are evaluated at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Settings of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--rules.alert.for-outage-tolerance`
    pub for_outage_tolerance: Duration,
    /// `--rules.alert.for-grace-period`
    pub for_grace_period: Duration,
    /// `--rules.alert.resend-delay`
    pub resend_delay: Duration,
    /// `--enable-feature=concurrent-rule-eval`
    pub concurrent_rules: bool,
    /// `--rules.max-concurrent-evals`
    pub concurrency: ConcurrencyLimit,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            for_outage_tolerance: Duration::from_secs(3600),
            for_grace_period: Duration::from_secs(600),
            resend_delay: Duration::from_secs(60),
            concurrent_rules: false,
            concurrency: ConcurrencyLimit::new(4),
        }
    }
}

/// Number of threads that rules may use besides those of their groups.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit(Arc<AtomicUsize>);

/// A permit for one thread; dropping it releases the permit.
pub struct ConcurrencyPermit(Arc<AtomicUsize>);

impl ConcurrencyLimit {
    pub fn new(count: usize) -> ConcurrencyLimit {
        ConcurrencyLimit(Arc::new(AtomicUsize::new(count)))
    }

    /// Returns a permit if one is free.
    pub fn take(&self) -> Option<ConcurrencyPermit> {
        let less = |free: usize| free.checked_sub(1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok().map(|_| ConcurrencyPermit(self.0.clone()))
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}
