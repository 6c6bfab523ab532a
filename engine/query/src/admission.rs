//! How many queries run at once.

use crate::error::QueryError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets a number of queries run at once; more wait, in the order in which they came.
pub(crate) struct Admission {
    slots: Arc<Semaphore>,
}

/// The right to run; given back when it is dropped.
pub(crate) type Permit = OwnedSemaphorePermit;

impl Admission {
    pub fn new(concurrency: usize) -> Admission {
        Admission { slots: Arc::new(Semaphore::new(concurrency.clamp(1, Semaphore::MAX_PERMITS))) }
    }

    /// Waits for a slot, at most `timeout`.
    pub async fn admit(&self, timeout: Duration) -> Result<Permit, QueryError> {
        match tokio::time::timeout(timeout, self.slots.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(QueryError::Timeout("query timed out in query queue".into())),
        }
    }
}
