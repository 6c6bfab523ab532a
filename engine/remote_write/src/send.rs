//! One endpoint's sender: batches to requests, in order for each source, tried again for as long as it may help.

use crate::cursor::{self, Cursor};
use crate::flight::{Batch, Flight};
use crate::stats::Stats;
use client::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use client::{Client, Request, StatusCode};
use config::{RemoteWrite, WriteMessage};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use url::Url;

/// How often the cursor is written at most: what was acknowledged since is sent again after a crash.
const SAVE_EVERY: Duration = Duration::from_millis(100);
/// How often it is made durable, so that little is sent again after a power cut.
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// How long requests under way may take at the end.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// The same for an endpoint that did not take the last ones.
const FLUSH_WITHIN_AWAY: Duration = Duration::from_millis(500);
/// Of an answer's body that the log shows.
const SHOWN_BYTES_MAX: usize = 256;

/// Where batches go.
pub struct Sender {
    pub name: String,
    pub url: Url,
    pub settings: RemoteWrite,
    pub client: Client,
    pub stats: Arc<Stats>,
    pub cursor_file: PathBuf,
    /// What was acknowledged.
    pub acknowledged: Arc<Mutex<Cursor>>,
}

/// What came of a request.
enum Answer {
    Taken,
    /// It may be taken another time, not before so long.
    Again(String, Option<Duration>),
    /// It will not be.
    Refused(String),
}

/// Never, without a time.
async fn until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

impl Sender {
    /// Sends until there are no more batches, or it is stopped.
    pub async fn run(self: Arc<Self>, mut batches: mpsc::Receiver<Batch>, mut stop: watch::Receiver<bool>) {
        let at_once = self.settings.queue_config.max_shards.max(1) as usize;
        let (mut flight, mut requests) = (Flight::default(), JoinSet::new());
        // At first, so that a crash finds who has begun.
        let (mut waiting, mut is_saved): (Option<Batch>, bool) = (None, false);
        let mut save = tokio::time::interval(SAVE_EVERY);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut synced: Option<Instant> = None;
        // Once it is stopped, what the reader has made until then still goes, within a while.
        let (mut is_closed, mut end): (bool, Option<tokio::time::Instant>) = (false, None);
        while !(is_closed && waiting.is_none() && requests.is_empty()) {
            if let Some(batch) = waiting.take_if(|batch| requests.len() < at_once && flight.may_go(batch)) {
                let number = flight.go(&batch);
                self.stats.under_way.fetch_add(1, Ordering::Relaxed);
                let sender = self.clone();
                requests.spawn(async move {
                    sender.deliver(&batch).await;
                    (number, batch)
                });
                continue;
            }
            tokio::select! {
                batch = batches.recv(), if waiting.is_none() && !is_closed => {
                    is_closed = batch.is_none();
                    waiting = batch;
                }
                Some(done) = requests.join_next(), if !requests.is_empty() => {
                    self.note(&mut flight, done.expect("sending does not panic"));
                    is_saved = false;
                }
                _ = save.tick(), if !is_saved => {
                    let sync = synced.is_none_or(|synced| synced.elapsed() >= SYNC_EVERY);
                    if sync {
                        synced = Some(Instant::now());
                    }
                    self.save(sync);
                    is_saved = true;
                }
                _ = stop.wait_for(|stop| *stop), if end.is_none() => {
                    let is_away = self.stats.last_error.lock().expect("no panic while held").is_some();
                    let within = if is_away { FLUSH_WITHIN_AWAY } else { FLUSH_WITHIN };
                    end = Some(tokio::time::Instant::now() + within);
                }
                () = until(end) => break,
            }
        }
        self.save(true);
    }

    fn note(&self, flight: &mut Flight, (number, batch): (u64, Batch)) {
        self.stats.under_way.fetch_sub(1, Ordering::Relaxed);
        self.stats.pending.fetch_sub(batch.samples as u64, Ordering::Relaxed);
        if let Some(reached) = flight.done(number, &batch) {
            *self.acknowledged.lock().expect("no panic while held") = reached;
        }
    }

    /// A few hundred bytes.
    fn save(&self, sync: bool) {
        let cursor = self.acknowledged.lock().expect("no panic while held").clone();
        if let Err(error) = cursor::save(&self.cursor_file, &self.name, &cursor, sync) {
            let file = self.cursor_file.display();
            tracing::error!(remote_name = self.name, %file, %error, "where remote write stands could not be written");
        }
    }

    /// Notes what the last answer was; gives the one before.
    fn told(&self, error: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.stats.last_error.lock().expect("no panic while held"), error)
    }

    /// Sends a batch until it is taken or refused.
    async fn deliver(&self, batch: &Batch) {
        if batch.samples == 0 {
            return;
        }
        let queue = &self.settings.queue_config;
        let mut wait = queue.min_backoff;
        let mut attempt = 0;
        loop {
            let begun = Instant::now();
            let answer = self.request(batch.body.clone(), attempt).await;
            self.stats.request(begun.elapsed());
            let samples = batch.samples as u64;
            match answer {
                Answer::Taken => {
                    self.stats.sent.fetch_add(samples, Ordering::Relaxed);
                    self.stats.bytes_sent.fetch_add(batch.body.len() as u64, Ordering::Relaxed);
                    self.stats.newest_sent_ms.fetch_max(batch.newest_ms, Ordering::Relaxed);
                    if self.told(None).is_some() {
                        tracing::info!(remote_name = self.name, "samples are taken again");
                    }
                    return;
                }
                Answer::Refused(error) => {
                    self.stats.failed.fetch_add(samples, Ordering::Relaxed);
                    tracing::error!(remote_name = self.name, samples, error, "samples were refused and are given up");
                    self.told(Some(error));
                    return;
                }
                Answer::Again(error, after) => {
                    self.stats.retried.fetch_add(samples, Ordering::Relaxed);
                    let pause = after.unwrap_or(wait);
                    // Once, not for each of the batches that are under way.
                    if self.told(Some(error.clone())).is_none() {
                        tracing::warn!(remote_name = self.name, error, "samples are not taken; they are sent again");
                    }
                    tokio::time::sleep(pause).await;
                    wait = (wait * 2).min(queue.max_backoff.max(queue.min_backoff));
                    attempt += 1;
                }
            }
        }
    }

    async fn request(&self, body: Vec<u8>, attempt: u32) -> Answer {
        let (content, version) = match self.settings.protobuf_message {
            WriteMessage::V1 => ("application/x-protobuf", "0.1.0"),
            WriteMessage::V2 => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
        };
        let mut request = Request::post(self.url.clone(), body)
            .header(CONTENT_ENCODING, "snappy")
            .header(CONTENT_TYPE, content)
            .header(HeaderName::from_static("x-prometheus-remote-write-version"), version);
        for (name, value) in &self.settings.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                request.headers.insert(name, value);
            }
        }
        if attempt > 0 {
            request.headers.insert(HeaderName::from_static("retry-attempt"), HeaderValue::from(attempt));
        }
        let response = match self.client.send(request).await {
            Ok(response) => response,
            Err(error) => return Answer::Again(error.text, None),
        };
        let status = response.status;
        if status.is_success() {
            return Answer::Taken;
        }
        let shown = String::from_utf8_lossy(&response.body[..response.body.len().min(SHOWN_BYTES_MAX)]);
        let error = format!("server returned HTTP status {status}: {}", shown.trim());
        let is_throttled = status == StatusCode::TOO_MANY_REQUESTS;
        if status.is_server_error() || (is_throttled && self.settings.queue_config.retry_on_http_429) {
            let after = response.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            return Answer::Again(error, after.map(Duration::from_secs));
        }
        Answer::Refused(error)
    }

    /// Sends what is said of metrics; lost if it is not taken at once, it comes again.
    pub async fn send_metadata(&self, body: Vec<u8>, entries: usize) {
        let counter = match self.request(body, 0).await {
            Answer::Taken => &self.stats.metadata_sent,
            Answer::Again(error, _) | Answer::Refused(error) => {
                tracing::warn!(remote_name = self.name, error, "metadata was not taken");
                &self.stats.metadata_failed
            }
        };
        counter.fetch_add(entries as u64, Ordering::Relaxed);
    }
}
