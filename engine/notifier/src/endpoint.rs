//! One Alertmanager: its queue, and the task that empties it.
//!
//! Invariants:
//!   * one request at a time; it has the group's timeout and no other Alertmanager waits for it
//!   * what fails is tried again after a pause; alerts that come meanwhile wait behind it

use crate::queue::{Counts, Outcome, Queue, Waiting};
use crate::{Alert, Options};
use client::{Client, Request, StatusCode, header};
use hdrhistogram::Histogram;
use series::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use url::Url;

/// Pause after the first failure; twice as long after each further one in a row, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Largest answer that is read; nothing in it is needed.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest delivery that is told from others, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Whether the task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Sends what waits, tries nothing twice, ends.
    Draining,
    /// Ends with what waits.
    Ending,
}

/// An Alertmanager that gets alerts.
pub struct Endpoint {
    pub url: Url,
    client: Client,
    timeout: Duration,
    queue: Mutex<Queue>,
    /// Microseconds of each delivery that went well.
    latency_us: Mutex<Histogram<u64>>,
    wake: Notify,
    phase: watch::Sender<Phase>,
    ended: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// Starts the task. It ends after [`Endpoint::end`].
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

    /// Takes alerts in, at once and always.
    pub fn push(&self, alerts: &[Arc<Alert>], now: Timestamp) {
        let dropped = lock(&self.queue).push(alerts.iter().cloned(), now);
        if dropped > 0 {
            let url = client::shown(&self.url);
            tracing::warn!(alertmanager = url, dropped, "the queue of notifications is full; the oldest are dropped");
        }
        self.wake.notify_one();
    }

    /// Alerts that wait.
    pub fn queue_length(&self) -> usize {
        lock(&self.queue).len()
    }

    pub fn counts(&self) -> Counts {
        lock(&self.queue).counts()
    }

    pub fn latency_us(&self) -> Histogram<u64> {
        lock(&self.latency_us).clone()
    }

    /// Lets the task end, with or without sending what waits.
    pub fn end(&self, drain: bool) {
        self.phase.send_replace(if drain { Phase::Draining } else { Phase::Ending });
    }

    /// Waits until the task has ended.
    pub async fn ended(&self) {
        // The sender is ours and lives as long as we do.
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
            if outcome != Outcome::Failed {
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
        let left = lock(&self.queue).give_up();
        if left > 0 {
            tracing::warn!(alertmanager = client::shown(&self.url), dropped = left, "notifications were not sent");
        }
        self.ended.send_replace(true);
    }

    async fn deliver(&self, batch: Vec<Waiting>) -> Outcome {
        let began = Instant::now();
        let mut phase = self.phase.subscribe();
        let posted = tokio::select! {
            posted = self.post(&batch) => posted,
            _ = phase.wait_for(|phase| *phase == Phase::Ending) => {
                Err((Outcome::Failed, format!("{}: no answer before the end", client::shown(&self.url))))
            }
        };
        let outcome = match posted {
            Ok(()) => {
                let took = began.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
                lock(&self.latency_us).saturating_record(took);
                Outcome::Sent
            }
            Err((outcome, error)) => {
                tracing::error!(alerts = batch.len(), error, "sending alerts failed");
                outcome
            }
        };
        let given_up = lock(&self.queue).done(batch, outcome);
        if given_up > 0 {
            tracing::warn!(alertmanager = client::shown(&self.url), dropped = given_up, "notifications were given up");
        }
        outcome
    }

    async fn post(&self, batch: &[Waiting]) -> Result<(), (Outcome, String)> {
        let alerts: Vec<&Alert> = batch.iter().map(|waiting| &*waiting.alert).collect();
        let body = serde_json::to_vec(&alerts).map_err(|error| (Outcome::Refused, error.to_string()))?;
        let request = Request::post(self.url.clone(), body).header(header::CONTENT_TYPE, "application/json");
        let status = match self.client.send(Request { timeout: Some(self.timeout), ..request }).await {
            Ok(response) => response.status,
            Err(error) => return Err((Outcome::Failed, error.text)),
        };
        let text = || format!("{}: bad response status {status}", client::shown(&self.url));
        match status {
            _ if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS => Err((Outcome::Failed, text())),
            _ if status.is_server_error() => Err((Outcome::Failed, text())),
            _ => Err((Outcome::Refused, text())),
        }
    }
}
