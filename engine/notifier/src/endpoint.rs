//! One Alertmanager: its queue, and the task that delivers from it.
//!
//! Invariants:
//!   * one request at a time, within the timeout of the set; no other Alertmanager waits for it
//!   * a failed batch is retried after a pause; alerts that arrive meanwhile are queued after it

use crate::queue::{Counts, DeliveryOutcome, Queue, QueuedAlert};
use crate::{Alert, Options};
use client::{Client, Request, StatusCode, header};
use hdrhistogram::Histogram;
use series::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use url::Url;

/// Pause after the first failure. It doubles with each further failure in a row, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Size of a response body up to which it is read. Its content is not used.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest duration of a delivery that the histogram resolves, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What the task shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Send the queue once, without retries, then end.
    Draining,
    /// End and drop the queue.
    Ending,
}

/// An Alertmanager that alerts are sent to.
pub struct Endpoint {
    pub url: Url,
    client: Client,
    timeout: Duration,
    queue: Mutex<Queue>,
    /// Durations of successful deliveries, in microseconds.
    latency_us: Mutex<Histogram<u64>>,
    wake: Notify,
    phase: watch::Sender<Phase>,
    ended: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// Starts the task, which ends after [`Endpoint::end`].
    pub fn start(url: Url, client: Client, timeout: Duration, options: &Options) -> Arc<Endpoint> {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 2);
        let endpoint = Arc::new(Endpoint {
            url,
            client,
            timeout,
            queue: Mutex::new(Queue::new(options.queue_capacity, options.batch_max)),
            latency_us: Mutex::new(histogram.expect("the bounds are constants that are valid")),
            wake: Notify::new(),
            phase: watch::Sender::new(Phase::Running),
            ended: watch::Sender::new(false),
        });
        tokio::spawn(endpoint.clone().run());
        endpoint
    }

    /// Queues alerts. Does not wait.
    pub fn push(&self, alerts: &[Arc<Alert>], now: Timestamp) {
        let dropped = lock(&self.queue).push(alerts.iter().cloned(), now);
        if dropped > 0 {
            let url = client::shown(&self.url);
            tracing::warn!(alertmanager = url, dropped, "notification queue is full, dropping oldest alerts");
        }
        self.wake.notify_one();
    }

    /// Returns the number of queued alerts.
    pub fn queue_length(&self) -> usize {
        lock(&self.queue).len()
    }

    pub fn counts(&self) -> Counts {
        lock(&self.queue).counts()
    }

    pub fn latency_us(&self) -> Histogram<u64> {
        lock(&self.latency_us).clone()
    }

    /// Ends the task, after sending the queue or at once.
    pub fn end(&self, drain: bool) {
        self.phase.send_replace(if drain { Phase::Draining } else { Phase::Ending });
    }

    /// Waits until the task has ended.
    pub async fn ended(&self) {
        // The sender is a field of `self`, so the channel is open.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    async fn run(self: Arc<Endpoint>) {
        let mut phase = self.phase.subscribe();
        let mut failures_in_row = 0;
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Ending {
                break;
            }
            let batch = lock(&self.queue).next_batch();
            if batch.is_empty() {
                if now == Phase::Draining {
                    break;
                }
                tokio::select! {
                    () = self.wake.notified() => {}
                    _ = phase.changed() => {}
                }
                continue;
            }
            let outcome = self.deliver(batch).await;
            if outcome != DeliveryOutcome::Failed {
                failures_in_row = 0;
                continue;
            }
            if now != Phase::Running || *phase.borrow() != Phase::Running {
                break;
            }
            let pause = PAUSE.saturating_mul(1 << failures_in_row.min(8)).min(PAUSE_MAX);
            failures_in_row += 1;
            let _ = tokio::time::timeout(pause, phase.changed()).await;
        }
        let left = lock(&self.queue).drop_all();
        if left > 0 {
            tracing::warn!(
                alertmanager = client::shown(&self.url),
                dropped = left,
                "dropping unsent alerts at the end of an Alertmanager"
            );
        }
        self.ended.send_replace(true);
    }

    async fn deliver(&self, batch: Vec<QueuedAlert>) -> DeliveryOutcome {
        let began = Instant::now();
        let mut phase = self.phase.subscribe();
        let posted = tokio::select! {
            posted = self.post(&batch) => posted,
            _ = phase.wait_for(|phase| *phase == Phase::Ending) => {
                Err((DeliveryOutcome::Failed, format!("{}: no response before the shutdown deadline", client::shown(&self.url))))
            }
        };
        let outcome = match posted {
            Ok(()) => {
                let took = began.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
                lock(&self.latency_us).saturating_record(took);
                DeliveryOutcome::Sent
            }
            Err((outcome, error)) => {
                tracing::error!(alerts = batch.len(), error, "sending alerts failed");
                outcome
            }
        };
        let dropped = lock(&self.queue).done(batch, outcome);
        if dropped > 0 {
            tracing::warn!(
                alertmanager = client::shown(&self.url),
                dropped,
                "dropping alerts that could not be delivered"
            );
        }
        outcome
    }

    async fn post(&self, batch: &[QueuedAlert]) -> Result<(), (DeliveryOutcome, String)> {
        let alerts: Vec<&Alert> = batch.iter().map(|waiting| &*waiting.alert).collect();
        let body = serde_json::to_vec(&alerts).map_err(|error| (DeliveryOutcome::Refused, error.to_string()))?;
        let request = Request::post(self.url.clone(), body).header(header::CONTENT_TYPE, "application/json");
        let status = match self.client.send(Request { timeout: Some(self.timeout), ..request }).await {
            Ok(response) => response.status,
            Err(error) => return Err((DeliveryOutcome::Failed, error.text)),
        };
        let text = || format!("{}: bad response status {status}", client::shown(&self.url));
        match status {
            _ if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS => Err((DeliveryOutcome::Failed, text())),
            _ if status.is_server_error() => Err((DeliveryOutcome::Failed, text())),
            _ => Err((DeliveryOutcome::Refused, text())),
        }
    }
}
