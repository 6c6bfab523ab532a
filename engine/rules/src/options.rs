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
    pub places: Places,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            for_outage_tolerance: Duration::from_secs(3600),
            for_grace_period: Duration::from_secs(600),
            resend_delay: Duration::from_secs(60),
            concurrent_rules: false,
            places: Places::new(4),
        }
    }
}

/// Threads that rules may have beside those of their groups.
#[derive(Clone, Debug)]
pub struct Places(Arc<AtomicUsize>);

/// One of them, until it is dropped.
pub struct Place(Arc<AtomicUsize>);

impl Places {
    pub fn new(count: usize) -> Places {
        Places(Arc::new(AtomicUsize::new(count)))
    }

    /// A place, if one is free.
    pub fn take(&self) -> Option<Place> {
        let less = |free: usize| free.checked_sub(1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok().map(|_| Place(self.0.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}
