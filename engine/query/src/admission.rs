//! How many queries run at once.

use crate::error::QueryError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who sends a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Api,
    Rules,
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Api => "api",
            Origin::Rules => "rules",
        }
    }
}

/// Lets a number of queries run at once, whoever sends them; more wait, in the order in which they came. One place is
/// for rules alone, so that dashboards do not hold up alerts; where there is only one place, all share it.
pub(crate) struct Admission {
    all: Arc<Semaphore>,
    /// What others than rules may take of `all`.
    others: Arc<Semaphore>,
}

/// The right to run; given back when it is dropped.
pub(crate) struct Permit {
    _all: OwnedSemaphorePermit,
    _other: Option<OwnedSemaphorePermit>,
}

impl Admission {
    pub fn new(concurrency: usize) -> Admission {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.max(1)));
        Admission { all: semaphore(concurrency), others: semaphore(concurrency - 1) }
    }

    /// Waits for a place, at most `timeout`.
    pub async fn admit(&self, origin: Origin, timeout: Duration) -> Result<Permit, QueryError> {
        let acquire = async {
            let other = match origin {
                Origin::Rules => None,
                Origin::Api => Some(self.others.clone().acquire_owned().await.ok()?),
            };
            Some(Permit { _all: self.all.clone().acquire_owned().await.ok()?, _other: other })
        };
        match tokio::time::timeout(timeout, acquire).await {
            Ok(Some(permit)) => Ok(permit),
            _ => Err(QueryError::Timeout("query timed out in query queue".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn rules_have_a_place_of_their_own() {
        let admission = Admission::new(3);
        let held =
            [admission.admit(Origin::Api, SHORT).await.unwrap(), admission.admit(Origin::Api, SHORT).await.unwrap()];
        let error = admission.admit(Origin::Api, SHORT).await.err();
        assert_eq!(error, Some(QueryError::Timeout("query timed out in query queue".into())));
        let rule = admission.admit(Origin::Rules, SHORT).await.unwrap();
        assert!(admission.admit(Origin::Rules, SHORT).await.is_err(), "three run at once, not four");
        drop(held);
        let more =
            [admission.admit(Origin::Rules, SHORT).await.unwrap(), admission.admit(Origin::Api, SHORT).await.unwrap()];
        assert!(admission.admit(Origin::Rules, SHORT).await.is_err());
        drop((rule, more));
        assert!(admission.admit(Origin::Api, SHORT).await.is_ok());
    }

    #[tokio::test]
    async fn a_single_place_is_shared() {
        let admission = Admission::new(1);
        let held = admission.admit(Origin::Api, SHORT).await.unwrap();
        assert!(admission.admit(Origin::Rules, SHORT).await.is_err());
        drop(held);
        assert!(admission.admit(Origin::Rules, SHORT).await.is_ok());
    }
}
