//! Counters of `/federate`.

use std::sync::atomic::AtomicU64;

/// What federation has done so far.
#[derive(Debug, Default)]
pub struct FederationStats {
    pub in_flight: AtomicU64,
    pub served: AtomicU64,
    /// Answers that did not come to their end.
    pub cut: AtomicU64,
    pub failed: AtomicU64,
    pub series: AtomicU64,
    pub bytes: AtomicU64,
    pub refused_selector: AtomicU64,
    pub refused_series: AtomicU64,
    pub refused_catch_all: AtomicU64,
    pub refused_concurrent: AtomicU64,
}
