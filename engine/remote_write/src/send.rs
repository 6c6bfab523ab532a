//! One endpoint's sender: batches to requests, in order for each source, until they are acknowledged or lost.

use crate::cursor::{self, SendCursor};
use crate::in_flight::{Batch, InFlight};
use crate::parts::{BatchPart, BatchParts, Next};
use crate::protocol::{Compression, Format, Protocol};
use crate::response::{self, Sent, Verdict};
use crate::stats::{Loss, Stats};
use bytes::Bytes;
use client::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use client::{Client, Request, Url};
use config::RemoteWrite;
use remote::{Counts, Message, Part, WriteLimits, decode_write};
use series::clock::now_ms;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How often the cursor is written at most: what was acknowledged since is sent again after a crash.
const SAVE_EVERY: Duration = Duration::from_millis(100);
/// How often it is made durable, so that little is sent again after a power cut.
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// How often a sender that is stopped looks whether its time is over.
const CHECK_END_EVERY: Duration = Duration::from_millis(20);
/// VictoriaMetrics has this header in each response. Only who has it is asked for its protocol.
const VICTORIA_METRICS_HEADER: &str = "x-server-hostname";
const PROBE_WITHIN: Duration = Duration::from_secs(5);
/// Text of a failed request in the log.
const FAILED_REQUEST_BYTES_MAX: usize = 64 << 10;
/// Losses are counted all, and logged this often.
const LOG_LOSS_EVERY: Duration = Duration::from_secs(10);
/// Attempts at a request with metadata. It comes again after the next interval.
const METADATA_ATTEMPTS_MAX: u32 = 5;

/// Sends the batches of an endpoint.
pub struct Sender {
    pub name: String,
    pub url: Url,
    pub settings: RemoteWrite,
    pub client: Client,
    pub protocol: Arc<Protocol>,
    /// Whether the receiver was asked for VictoriaMetrics' protocol.
    pub has_probed: AtomicBool,
    pub stats: Arc<Stats>,
    /// Whether the last request failed in a way that may pass.
    pub is_away: AtomicBool,
    /// When a loss was logged last.
    pub loss_logged: Mutex<Option<Instant>>,
    pub cursor_file: PathBuf,
    /// What was acknowledged.
    pub acknowledged: Arc<Mutex<SendCursor>>,
}

/// How long a sender that is stopped goes on with what its reader has read.
#[derive(Clone, Copy, Debug)]
pub struct FlushLimits {
    pub within: Duration,
    /// Without an accepted request, once one has failed.
    pub away_within: Duration,
}

/// When a sender that was stopped ends at the latest.
struct Flush {
    limits: FlushLimits,
    begun: Instant,
    /// Requests that were accepted, and when that changed last.
    accepted: (u64, Instant),
}

impl Flush {
    fn is_over(&mut self, accepted: u64, is_away: bool) -> bool {
        if self.accepted.0 != accepted {
            self.accepted = (accepted, Instant::now());
        }
        self.begun.elapsed() >= self.limits.within || (is_away && self.accepted.1.elapsed() >= self.limits.away_within)
    }
}

impl Sender {
    /// Sends until there are no more batches, or it is stopped.
    pub async fn run(
        self: Arc<Self>,
        mut batches: mpsc::Receiver<Arc<Batch>>,
        mut stop: watch::Receiver<Option<FlushLimits>>,
    ) {
        let requests_max = self.settings.queue_config.max_shards.max(1) as usize;
        let (mut in_flight, mut requests) = (InFlight::default(), JoinSet::new());
        // The cursor is saved at first, so that a crash finds endpoints that have begun.
        let (mut waiting, mut is_saved): (Option<Arc<Batch>>, bool) = (None, false);
        let mut save = tokio::time::interval(SAVE_EVERY);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut synced: Option<Instant> = None;
        // Each source of a batch comes once at most.
        let (release, mut released) = mpsc::unbounded_channel();
        // Once it is stopped, what the reader makes of what it still reads is sent, within a bound.
        let (mut is_closed, mut flush): (bool, Option<Flush>) = (false, None);
        let mut check_end = tokio::time::interval(CHECK_END_EVERY);
        while !(is_closed && waiting.is_none() && requests.is_empty()) {
            if let Some(batch) = waiting.take_if(|batch| requests.len() < requests_max && in_flight.may_start(batch)) {
                let number = in_flight.start(&batch);
                self.stats.in_flight.fetch_add(1, Ordering::Relaxed);
                let (sender, release) = (self.clone(), release.clone());
                requests.spawn(async move {
                    // Nobody receives it once sending has ended.
                    sender.deliver(&batch, |sources| drop(release.send((number, sources)))).await;
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
                    self.complete(&mut in_flight, done.expect("sending does not panic"));
                    is_saved = false;
                }
                Some((number, sources)) = released.recv() => in_flight.release(number, &sources),
                _ = save.tick(), if !is_saved => {
                    let sync = synced.is_none_or(|synced| synced.elapsed() >= SYNC_EVERY);
                    if sync {
                        synced = Some(Instant::now());
                    }
                    self.save(sync);
                    is_saved = true;
                }
                Ok(limits) = async { stop.wait_for(Option::is_some).await.map(|limits| *limits) }, if flush.is_none() => {
                    let accepted = (self.stats.accepted.load(Ordering::Relaxed), Instant::now());
                    flush = limits.map(|limits| Flush { limits, begun: Instant::now(), accepted });
                }
                _ = check_end.tick(), if flush.is_some() => {
                    let (accepted, is_away) =
                        (self.stats.accepted.load(Ordering::Relaxed), self.is_away.load(Ordering::Relaxed));
                    if flush.as_mut().is_some_and(|flush| flush.is_over(accepted, is_away)) {
                        self.log_unsent(is_away);
                        break;
                    }
                }
            }
        }
        self.save(true);
    }

    fn complete(&self, in_flight: &mut InFlight, (number, batch): (u64, Arc<Batch>)) {
        self.stats.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.stats.subtract_pending(batch.counts);
        if let Some(reached) = in_flight.complete(number, &batch) {
            *self.acknowledged.lock().expect("no panic while held") = reached;
        }
    }

    fn log_unsent(&self, is_away: bool) {
        let pending = self.stats.samples.pending.load(Ordering::Relaxed);
        let error = self.stats.last_error().unwrap_or_default();
        tracing::warn!(
            remote_name = self.name,
            pending,
            is_away,
            error,
            "not everything could be sent before the end; the rest is sent after the next start"
        );
    }

    /// Writes the cursor: a few hundred bytes.
    fn save(&self, sync: bool) {
        let cursor = self.acknowledged.lock().expect("no panic while held").clone();
        if let Err(error) = cursor::save(&self.cursor_file, &self.name, &cursor, sync) {
            let file = self.cursor_file.display();
            tracing::error!(remote_name = self.name, %file, %error, "saving the send cursor of remote write failed");
        }
    }

    /// Sends a batch until every sample of it is acknowledged or lost. `release` is told of sources for which that holds
    /// before it does for the batch.
    async fn deliver(self: &Arc<Self>, batch: &Batch, release: impl Fn(Vec<u64>)) {
        if batch.counts == Counts::default() {
            return;
        }
        let all = 0..batch.counts.total();
        let whole = BatchPart::new(batch.body.clone(), batch.format, batch.counts, batch.range_ms, all);
        let mut unreleased: Vec<u64> = batch.sources.iter().map(|(source, _)| *source).collect();
        let mut parts = BatchParts::new(whole, batch.has_several_rows());
        let queue = &self.settings.queue_config;
        let mut backoff = queue.min_backoff;
        while let Some(part) = parts.next() {
            let Some(part) = self.prepare(part) else { continue };
            if part.values.end - part.values.start < batch.counts.total() {
                let mut left = parts.values_left();
                left.push(part.values.clone());
                let waiting = batch.sources_in(&left);
                let done: Vec<u64> = unreleased.extract_if(.., |source| !waiting.contains(source)).collect();
                if !done.is_empty() {
                    release(done);
                }
            }
            let begun = Instant::now();
            match self.attempt(&part).await {
                Verdict::Accepted { written, warning } => {
                    self.accept(&part, written, warning);
                    parts.accepted();
                    backoff = queue.min_backoff;
                }
                Verdict::Rejected { error, written } => {
                    self.log_failed(&part);
                    self.stats.add(|kind| &kind.sent, written);
                    self.lose(Loss::Rejected, subtract(part.counts, written), error);
                }
                Verdict::Downgrade { error } => {
                    if self.protocol.downgrade() {
                        tracing::warn!(
                            remote_name = self.name,
                            error,
                            "the receiver does not read 2.0; 1.0 is sent instead"
                        );
                    }
                    parts.put_back([part].into_iter());
                }
                Verdict::Repack => parts.put_back([part].into_iter()),
                Verdict::Split { error } => match parts.refused(part) {
                    Next::Split(part) => self.split(part, &mut parts),
                    Next::Again => {}
                    Next::Lost(part) => self.lose(Loss::Rejected, part.counts, error),
                },
                Verdict::Retry { error, after, is_throttled } => {
                    self.stats.add(|kind| &kind.retried, part.counts);
                    self.stats.set_last_error(Some(error.clone()));
                    // Once, not for each of the batches in flight.
                    if !self.is_away.swap(true, Ordering::Relaxed) {
                        tracing::warn!(remote_name = self.name, error, "sending failed; it is tried again");
                    }
                    tokio::time::sleep(after.unwrap_or(backoff)).await;
                    backoff = (backoff * 2).min(queue.max_backoff.max(queue.min_backoff));
                    let asks_for_time = is_throttled || after.is_some();
                    let accepted = (!asks_for_time).then(|| self.stats.accepted.load(Ordering::Relaxed));
                    match parts.failed(part, accepted, begun.elapsed()) {
                        Next::Again => {}
                        Next::Split(part) => self.split(part, &mut parts),
                        Next::Lost(part) => self.lose(Loss::NeverAccepted, part.counts, error),
                    }
                }
            }
        }
    }

    /// A part as it is to be sent now: in the format that the receiver reads, and without what has become too old.
    fn prepare(&self, mut part: BatchPart) -> Option<BatchPart> {
        let (to, age_max) = (self.protocol.adjust(part.format), self.settings.queue_config.sample_age_limit);
        let oldest_ms = if age_max.is_zero() { i64::MIN } else { now_ms() - age_max.as_millis() as i64 };
        if to == part.format && part.range_ms.0 >= oldest_ms {
            return Some(part);
        }
        let rewritten =
            part.format.rewrite(&part.body, to, &Part { oldest_ms, ..Part::ALL }).expect("a request of ours");
        self.stats.add(|kind| &kind.dropped_too_old, rewritten.too_old);
        let counts = rewritten.counts;
        part.body = Bytes::from(rewritten.body);
        (part.format, part.counts, part.range_ms) = (to, counts, rewritten.range_ms);
        (counts != Counts::default()).then_some(part)
    }

    /// Puts the halves of a part back.
    fn split(&self, part: BatchPart, parts: &mut BatchParts) {
        let (middle, [first, second]) = (part.counts.total() / 2, part.halves());
        let half = |values, of_batch| {
            let values = Part { values, ..Part::ALL };
            let half = part.format.rewrite(&part.body, part.format, &values).expect("a request of ours");
            BatchPart::new(Bytes::from(half.body), part.format, half.counts, half.range_ms, of_batch)
        };
        parts.put_back([half(0..middle, first), half(middle..u64::MAX, second)].into_iter());
    }

    fn accept(&self, part: &BatchPart, written: Counts, warning: Option<String>) {
        let stats = &self.stats;
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        stats.add(|kind| &kind.sent, written);
        stats.bytes_sent.fetch_add(part.body.len() as u64, Ordering::Relaxed);
        stats.newest_sent_ms.fetch_max(part.range_ms.1, Ordering::Relaxed);
        if self.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!(remote_name = self.name, "samples are accepted again");
        }
        match warning {
            None => {
                stats.set_last_error(None);
            }
            Some(warning) => self.lose(Loss::NotConfirmed, subtract(part.counts, written), warning),
        }
    }

    /// Counts what is lost, and logs it now and then.
    fn lose(&self, loss: Loss, counts: Counts, error: String) {
        self.stats.add_lost(loss, counts);
        self.stats.set_last_error(Some(error.clone()));
        let mut logged = self.loss_logged.lock().expect("no panic while held");
        if logged.is_none_or(|logged| logged.elapsed() >= LOG_LOSS_EVERY) {
            *logged = Some(Instant::now());
            let Counts { samples, histograms, .. } = counts;
            tracing::error!(
                remote_name = self.name,
                samples,
                histograms,
                error,
                "samples are lost: non-recoverable error"
            );
        }
    }

    /// Logs what a request had that was refused for good, if the settings ask for it.
    fn log_failed(&self, part: &BatchPart) {
        if !self.settings.failed_request_logging {
            return;
        }
        let decoded = part.format.compression.unpack(&part.body);
        let Ok(write) = decoded.and_then(|body| decode_write(part.format.message, &body, &WriteLimits::default()))
        else {
            return;
        };
        let mut request = String::new();
        for series in &write.series {
            request.push_str(&series.labels.to_string());
            series
                .samples
                .iter()
                .for_each(|sample| request.push_str(&format!(" {}@{}", sample.value, sample.timestamp.0)));
            series.histograms.iter().for_each(|(at, histogram)| request.push_str(&format!(" {histogram}@{at}")));
            request.push_str("; ");
            if request.len() > FAILED_REQUEST_BYTES_MAX {
                break;
            }
        }
        tracing::debug!(remote_name = self.name, request, "a request failed for good");
    }

    async fn attempt(self: &Arc<Self>, part: &BatchPart) -> Verdict {
        let begun = Instant::now();
        let verdict = self.request(part).await;
        self.stats.note_request(begun.elapsed());
        verdict
    }

    async fn request(self: &Arc<Self>, part: &BatchPart) -> Verdict {
        let Format { message, compression } = part.format;
        let (content, version) = match message {
            Message::V1 => ("application/x-protobuf", "0.1.0"),
            Message::V2 => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
        };
        let mut request = Request::post(self.url.clone(), part.body.clone())
            .header(CONTENT_ENCODING, compression.name())
            .header(CONTENT_TYPE, content)
            .header(HeaderName::from_static("x-prometheus-remote-write-version"), version);
        if compression == Compression::Zstd {
            request = request.header(HeaderName::from_static("x-victoriametrics-remote-write-version"), "1");
        }
        self.add_headers(&mut request);
        if part.attempts > 0 {
            request.headers.insert(HeaderName::from_static("retry-attempt"), HeaderValue::from(part.attempts));
        }
        let response = match self.client.send(request).await {
            Ok(response) => response,
            Err(error) => {
                return Verdict::Retry { error: error.text, after: None, is_throttled: false };
            }
        };
        let sent = Sent {
            message,
            counts: part.counts,
            retries_throttled: self.settings.queue_config.retry_on_http_429,
            may_downgrade: self.protocol.may_downgrade(),
        };
        let status = response.status.as_u16();
        if compression == Compression::Zstd && matches!(status, 400 | 415) {
            // Packed anew before the next attempt, as VictoriaMetrics' agent does it.
            if self.protocol.set_refuses_zstd() {
                tracing::warn!(
                    remote_name = self.name,
                    status,
                    "the receiver refuses zstd; snappy is sent from now on"
                );
            }
            return Verdict::Repack;
        }
        if message == Message::V1 && status == 415 && self.protocol.set_refuses_v1() {
            return Verdict::Repack;
        }
        if response.headers.contains_key(VICTORIA_METRICS_HEADER) && !self.has_probed.swap(true, Ordering::Relaxed) {
            tokio::spawn(self.clone().probe());
        }
        response::judge(&sent, response.status, &response.headers, &response.body, SystemTime::now())
    }

    fn add_headers(&self, request: &mut Request) {
        for (name, value) in &self.settings.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                request.headers.insert(name, value);
            }
        }
    }

    /// Asks the receiver whether it speaks VictoriaMetrics' protocol: 1.0 in zstd.
    async fn probe(self: Arc<Self>) {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("get_vm_proto_version", "1");
        let mut request = Request::get(url);
        request.timeout = Some(PROBE_WITHIN);
        self.add_headers(&mut request);
        let answer = self.client.send(request).await;
        let speaks = answer.is_ok_and(|answer| answer.status.is_success() && answer.body.trim_ascii() == b"1");
        if speaks {
            self.protocol.set_takes_zstd();
            tracing::info!(
                remote_name = self.name,
                "the receiver speaks VictoriaMetrics' protocol; requests are packed with zstd"
            );
        }
    }

    /// Sends metadata of 1.0. It is lost if some attempts fail, and comes again.
    pub async fn send_metadata(self: &Arc<Self>, body: Vec<u8>, entries: usize) {
        let format = Format { message: Message::V1, compression: Compression::Snappy };
        let mut part = BatchPart::new(Bytes::from(body), format, Counts::default(), (0, 0), 0..0);
        let queue = &self.settings.queue_config;
        let (mut backoff, entries, stats) = (queue.min_backoff, entries as u64, &self.stats);
        loop {
            let (error, after) = match self.request(&part).await {
                Verdict::Accepted { .. } => {
                    stats.metadata_sent.fetch_add(entries, Ordering::Relaxed);
                    stats.metadata_bytes_sent.fetch_add(part.body.len() as u64, Ordering::Relaxed);
                    return;
                }
                Verdict::Retry { error, after, .. } => (error, Some(after.unwrap_or(backoff))),
                Verdict::Rejected { error, .. } | Verdict::Split { error } | Verdict::Downgrade { error } => {
                    (error, None)
                }
                Verdict::Repack => ("it reads 2.0 only".to_owned(), None),
            };
            let pause = after.filter(|_| part.attempts + 1 < METADATA_ATTEMPTS_MAX);
            let Some(pause) = pause else {
                tracing::warn!(remote_name = self.name, error, "sending metadata failed");
                stats.metadata_failed.fetch_add(entries, Ordering::Relaxed);
                return;
            };
            stats.metadata_retried.fetch_add(entries, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            backoff = (backoff * 2).min(queue.max_backoff.max(queue.min_backoff));
            part.attempts += 1;
        }
    }
}

/// What of one is not in the other.
fn subtract(all: Counts, some: Counts) -> Counts {
    Counts {
        samples: all.samples.saturating_sub(some.samples),
        histograms: all.histograms.saturating_sub(some.histograms),
        exemplars: all.exemplars.saturating_sub(some.exemplars),
    }
}
