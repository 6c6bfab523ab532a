//! Remote write: follows the logs and sends every sample to every endpoint, from where it was left.
//!
//! Each endpoint has a sender, which has many batches in flight. A reader on a thread of its own makes them of what the logs say,
//! for one endpoint or for several that get the same ones. Logs are kept by hard links until every endpoint has acknowledged what they hold, so an endpoint that
//! is away costs disk, within [`Retention`], and nothing else; a restart goes on behind the last acknowledgement
//! (decision 032).
//!
//! Invariants:
//!   * a sample is acknowledged, counted as lost or dropped, or sent again after a restart
//!   * samples of one series go in the order in which they were scraped

mod batch;
mod cursor;
mod exemplars;
mod hosts;
mod in_flight;
mod metadata;
mod outgoing;
mod output;
mod parts;
mod protocol;
mod reader;
mod response;
mod retention;
mod rounding;
mod send;
mod sharding;
#[cfg(test)]
mod simulation;
mod stats;
mod stencil;
mod window;

pub use metadata::{Metadata, MetadataSource};
pub use retention::Retention;
pub use stats::{BUCKETS, KindStats, Stats};

use crate::batch::{BatchBuilder, BatchSettings};
use crate::cursor::{LogPosition, SendCursor};
use crate::hosts::Hosts;
use crate::metadata::MetadataSnapshot;
use crate::outgoing::OutgoingLabels;
use crate::output::{Output, Outputs, Patience, ReadUntil, StopSignal};
use crate::protocol::Protocol;
use crate::reader::{Reader, Start};
use crate::send::{FlushLimits, Sender};
use crate::sharding::Shard;
use client::{Client, ClientOptions, Cloud};
use config::{Config, RemoteWrite as Settings, WriteMessage};
use remote::Message;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tsdb::log::RetainedLogs;

/// How often logs are kept and let go.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a response's body that are read: it is only shown to people.
const RESPONSE_BYTES_MAX: usize = 4 << 10;
/// Connections of an endpoint that stay open while nothing is sent.
const IDLE_CONNECTIONS_MAX: u64 = 200;
/// How long requests in flight may take when the settings of an endpoint change.
const FLUSH_AT_RELOAD: FlushLimits =
    FlushLimits { within: Duration::from_secs(5), away_within: Duration::from_millis(500) };
/// How long the process waits at its end for an endpoint that fails: what is not sent stays on disk, so a receiver that is away
/// does not hold up a restart for the whole of `--storage.remote.flush-deadline`.
const FLUSH_AWAY_WITHIN: Duration = Duration::from_secs(5);
/// Batches that wait for one that is under way to end.
const BATCHES_WAITING: usize = 2;

/// All endpoints. Cloning copies a pointer.
#[derive(Clone)]
pub struct RemoteWrite(Arc<Inner>);

struct Inner {
    logs: RetainedLogs,
    boot: u32,
    retention: Retention,
    metadata: MetadataSource,
    hosts: Arc<Hosts>,
    state: tokio::sync::Mutex<State>,
    /// Whether logs are kept; held while they are linked.
    keeps: Arc<Mutex<bool>>,
    /// For whoever asks, without waiting for a reload.
    shown: Mutex<Vec<EndpointStats>>,
}

#[derive(Default)]
struct State {
    endpoints: BTreeMap<String, Endpoint>,
    has_begun: bool,
    keeper: Option<tokio::task::JoinHandle<()>>,
}

struct Endpoint {
    settings: Settings,
    outgoing: OutgoingLabels,
    acknowledged: Arc<Mutex<SendCursor>>,
    cursor_file: PathBuf,
    stop_reader: Arc<StopSignal>,
    stop: watch::Sender<Option<FlushLimits>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    shown: EndpointStats,
}

/// An endpoint as metrics name it.
#[derive(Clone)]
pub struct EndpointStats {
    pub name: String,
    /// Without what may be secret.
    pub url: String,
    pub shards_max: u64,
    pub shards_min: u64,
    pub capacity: u64,
    pub samples_per_send_max: u64,
    pub stats: Arc<Stats>,
}

impl EndpointStats {
    /// Requests in flight, and one more than may be while batches wait that may not go: then more would be of use.
    pub fn shards_desired(&self) -> u64 {
        let in_flight = self.stats.in_flight.load(Ordering::Relaxed);
        in_flight + u64::from(in_flight >= self.shards_max && self.stats.lag().is_none_or(|lag| lag > BEHIND))
    }
}

/// An endpoint that is this far behind needs more than it has.
const BEHIND: Duration = Duration::from_secs(10);

impl RemoteWrite {
    /// Nothing is sent before [`RemoteWrite::reload`]. `boot` is the number of this start in the names of logs.
    pub fn new(logs: RetainedLogs, boot: u32, retention: Retention, metadata: MetadataSource) -> RemoteWrite {
        let (hosts, state, shown) = (Arc::default(), tokio::sync::Mutex::default(), Mutex::default());
        RemoteWrite(Arc::new(Inner { logs, boot, retention, metadata, hosts, state, keeps: Arc::default(), shown }))
    }

    /// Sends nothing, of no logs.
    pub fn none() -> RemoteWrite {
        let retention = Retention::default();
        RemoteWrite::new(RetainedLogs::new("", ""), 0, retention, Arc::new(|| Box::pin(std::future::ready(Vec::new()))))
    }

    pub fn stats(&self) -> Vec<EndpointStats> {
        self.0.shown.lock().expect("no panic while held").clone()
    }

    /// Sends to the endpoints of a configuration. One whose settings are as they were goes on; one with others goes on
    /// where the one before it stood; one that is new gets what is scraped from now on.
    pub async fn reload(&self, config: &Config) {
        let mut state = self.0.state.lock().await;
        let mut wanted: BTreeMap<String, (Settings, OutgoingLabels)> = BTreeMap::new();
        for settings in &config.remote_write {
            let external = config.global.external_labels.clone();
            let outgoing = OutgoingLabels { external, shard: None, rules: settings.write_relabel_configs.clone() };
            wanted.insert(key(settings, |key| wanted.contains_key(key)), (settings.clone(), outgoing));
        }
        divide(&mut wanted);
        let is_same = |key: &String, endpoint: &Endpoint| {
            let same = |(settings, outgoing): &(_, _)| endpoint.settings == *settings && endpoint.outgoing == *outgoing;
            wanted.get(key).is_some_and(same)
        };
        let others: Vec<String> = state
            .endpoints
            .iter()
            .filter(|(key, endpoint)| !is_same(key, endpoint))
            .map(|(key, _)| key.clone())
            .collect();
        others
            .iter()
            .filter_map(|key| state.endpoints.get(key))
            .for_each(|endpoint| endpoint.stop(ReadUntil::Now, FLUSH_AT_RELOAD));
        for key in others {
            let endpoint = state.endpoints.remove(&key).expect("listed above");
            let cursor_file = endpoint.cursor_file.clone();
            endpoint.wait().await;
            if !wanted.contains_key(&key) {
                let _ = std::fs::remove_file(cursor_file);
            }
        }
        if wanted.is_empty() {
            if let Some(keeper) = state.keeper.take() {
                keeper.abort();
            }
            *self.0.keeps.lock().expect("no panic while held") = false;
            let folder = self.0.logs.folder();
            if let Err(error) = std::fs::remove_dir_all(folder)
                && folder.exists()
            {
                tracing::error!(folder = %folder.display(), %error, "logs that nobody reads any more could not be removed");
            }
        } else {
            *self.0.keeps.lock().expect("no panic while held") = true;
            // Before anybody reads.
            self.keep().await;
        }
        let at_start = !std::mem::replace(&mut state.has_begun, true);
        for (key, (settings, outgoing)) in wanted {
            if state.endpoints.contains_key(&key) {
                continue;
            }
            let name = settings.name.clone();
            match self.begin(&key, settings, outgoing, at_start) {
                Ok(endpoint) => drop(state.endpoints.insert(key, endpoint)),
                Err(error) => tracing::error!(remote_name = name, error, "remote write does not begin"),
            }
        }
        *self.0.shown.lock().expect("no panic while held") =
            state.endpoints.values().map(|endpoint| endpoint.shown.clone()).collect();
        if state.keeper.is_none() && !state.endpoints.is_empty() {
            let keeper = self.clone();
            state.keeper = Some(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(KEEP_EVERY).await;
                    keeper.keep().await;
                    let endpoints: Vec<(SendCursor, Arc<Stats>)> = {
                        let state = keeper.0.state.lock().await;
                        let each = |endpoint: &Endpoint| {
                            (endpoint.acknowledged.lock().expect("no panic").clone(), endpoint.shown.stats.clone())
                        };
                        state.endpoints.values().map(each).collect()
                    };
                    let (logs, boot, retention) = (keeper.0.logs.clone(), keeper.0.boot, keeper.0.retention);
                    let maintain = move || {
                        measure(&logs, &endpoints, KEEP_EVERY);
                        retention.remove_unneeded(&logs, boot, &endpoints);
                    };
                    let _ = tokio::task::spawn_blocking(maintain).await;
                }
            }));
        }
    }

    /// Keeps the logs that there are.
    async fn keep(&self) {
        let (logs, keeps) = (self.0.logs.clone(), self.0.keeps.clone());
        let link = move || {
            let keeps = keeps.lock().expect("no panic while held");
            if *keeps { logs.link() } else { Ok(()) }
        };
        let linked = tokio::task::spawn_blocking(link).await;
        if let Ok(Err(error)) = linked {
            let folder = self.0.logs.folder().display();
            tracing::error!(%folder, %error, "logs cannot be kept for remote write; it needs a file system with hard links");
        }
    }

    fn begin(
        &self,
        key: &str,
        settings: Settings,
        outgoing: OutgoingLabels,
        at_start: bool,
    ) -> Result<Endpoint, String> {
        let Inner { logs, boot, .. } = &*self.0;
        let url = settings.url.clone().ok_or("it has no url")?;
        let options = ClientOptions {
            timeout: settings.remote_timeout,
            body_bytes_max: RESPONSE_BYTES_MAX,
            truncates_body: true,
            idle_per_host_max: settings.queue_config.max_shards.clamp(1, IDLE_CONNECTIONS_MAX) as usize,
            random_address: settings.round_robin_dns,
        };
        let cloud = cloud(&settings).map_err(|error| error.text)?;
        let client = Client::with_cloud(&settings.http, options, cloud).map_err(|error| error.text)?;
        let hash = xxhash_rust::xxh3::xxh3_64(key.as_bytes());
        let cursor_file = logs.folder().join(format!("{hash:016x}.json"));
        let name =
            if settings.name.is_empty() { format!("{hash:016x}")[..6].to_owned() } else { settings.name.clone() };
        let resume = cursor::load(&cursor_file).unwrap_or_else(|error| {
            tracing::error!(remote_name = name, %error, "where remote write stood cannot be read; all that is kept is sent");
            let oldest = logs.files().ok().and_then(|files| files.first_key_value().map(|((boot, _), _)| *boot));
            Some(SendCursor::new(oldest.unwrap_or(*boot)))
        });
        let skip = !at_start && resume.is_none();
        let cursor = resume.unwrap_or_else(|| SendCursor::new(*boot));
        let acknowledged = Arc::new(Mutex::new(cursor.clone()));
        let stats = Arc::new(Stats::default());
        let message = match settings.protobuf_message {
            WriteMessage::V1 => Message::V1,
            WriteMessage::V2 => Message::V2,
        };
        let protocol = Arc::new(Protocol::new(message));
        let shown = EndpointStats {
            name: name.clone(),
            url: client::shown(&url),
            shards_max: settings.queue_config.max_shards,
            shards_min: settings.queue_config.min_shards,
            capacity: settings.queue_config.capacity,
            samples_per_send_max: settings.queue_config.max_samples_per_send,
            stats: stats.clone(),
        };
        let (batches_to, batches) = mpsc::channel(BATCHES_WAITING);
        let metadata = Arc::new(MetadataSnapshot::default());
        let start = Start { logs: logs.clone(), boot: *boot, skip };
        let stop_reader = Arc::new(StopSignal::default());
        let output = Output::new(batches_to, stop_reader.clone(), stats.clone(), protocol.clone(), metadata.clone());
        let batch_settings = BatchSettings::new(&settings, outgoing.clone());
        let batch_builder = BatchBuilder::new(batch_settings, cursor, Outputs::new(output, Patience::default()));
        let reader = Reader::new(start, batch_builder, self.0.hosts.clone());
        reader.spawn().map_err(|error| format!("starting its thread: {error}"))?;
        let (stop, stopped) = watch::channel(None);
        let sender = Arc::new(Sender {
            name,
            url,
            settings: settings.clone(),
            client,
            protocol,
            has_probed: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            loss_logged: Mutex::default(),
            stats,
            cursor_file: cursor_file.clone(),
            acknowledged: acknowledged.clone(),
        });
        let mut tasks = vec![tokio::spawn(sender.clone().run(batches, stopped.clone()))];
        if settings.metadata_config.send {
            let (config, source) = (settings.metadata_config.clone(), self.0.metadata.clone());
            tasks.push(tokio::spawn(metadata::run(sender, config, source, metadata, stopped)));
        }
        Ok(Endpoint { settings, outgoing, acknowledged, cursor_file, stop_reader, stop, tasks, shown })
    }

    /// Sends what the logs still have, for at most `within`, and ends all sending; what was not acknowledged then is sent
    /// after the next start. Nothing is appended to the logs any more.
    pub async fn shutdown(&self, within: Duration) {
        let mut state = self.0.state.lock().await;
        if let Some(keeper) = state.keeper.take() {
            keeper.abort();
        }
        if !state.endpoints.is_empty() {
            self.keep().await;
        }
        let limits = FlushLimits { within, away_within: FLUSH_AWAY_WITHIN };
        state.endpoints.values().for_each(|endpoint| endpoint.stop(ReadUntil::EndOfLogs, limits));
        for endpoint in std::mem::take(&mut state.endpoints).into_values() {
            endpoint.wait().await;
        }
    }
}

impl Endpoint {
    /// It gets no more than `until` says. Those that are stopped together end together.
    fn stop(&self, until: ReadUntil, limits: FlushLimits) {
        self.stop_reader.set(until);
        self.stop.send_replace(Some(limits));
    }

    /// Waits for the end of an endpoint that was stopped.
    async fn wait(self) {
        for task in self.tasks {
            let _ = task.await;
        }
        // A reader that still reads, because the time was over, has nobody to read for.
        self.stop_reader.set(ReadUntil::Now);
    }
}

/// Credentials of a cloud, if the endpoint wants them.
fn cloud(settings: &Settings) -> Result<Option<Cloud>, client::Error> {
    let (timeout, variables) = (settings.remote_timeout, client::process_variables);
    if let Some(sigv4) = &settings.sigv4 {
        return Cloud::aws(sigv4, timeout, variables()).map(Some);
    }
    if let Some(azuread) = &settings.azuread {
        return Cloud::azure(azuread, timeout, variables()).map(Some);
    }
    settings.google_iam.as_ref().map(|google| Cloud::google(google, timeout, variables())).transpose()
}

/// Says of each endpoint of a group which series it gets.
fn divide(endpoints: &mut BTreeMap<String, (Settings, OutgoingLabels)>) {
    let group = |settings: &Settings| settings.sharding.as_ref().map(|sharding| sharding.group.clone());
    let members: Vec<(String, String)> =
        endpoints.iter().filter_map(|(key, (settings, _))| Some((group(settings)?, key.clone()))).collect();
    for (key, (settings, outgoing)) in endpoints.iter_mut() {
        let Some(sharding) = &settings.sharding else { continue };
        let of_group: Vec<&str> =
            members.iter().filter(|(group, _)| *group == sharding.group).map(|(_, key)| &**key).collect();
        outgoing.shard = Some(Shard::new(sharding, key, &of_group));
    }
}

/// What an endpoint is known by across reloads and restarts: its name, or its URL and which of those with the same it is.
fn key(settings: &Settings, is_taken: impl Fn(&str) -> bool) -> String {
    if !settings.name.is_empty() {
        return settings.name.clone();
    }
    let url = settings.url.as_ref().map(ToString::to_string).unwrap_or_default();
    let numbered = (1..).map(|number| format!("{url}#{number}"));
    numbered.into_iter().find(|key| !is_taken(key)).expect("numbers do not end")
}

/// Measures how far each endpoint is behind and how fast it is; `since` is the time since the last call.
fn measure(logs: &RetainedLogs, endpoints: &[(SendCursor, Arc<Stats>)], since: Duration) {
    let (mut newest_written, mut lags) = (None, vec![0; endpoints.len()]);
    for (log, files) in logs.files().unwrap_or_default() {
        for file in files {
            let Ok(data) = logs.folder().join(file.to_string()).metadata() else { continue };
            newest_written = newest_written.max(data.modified().ok());
            for (lag, (cursor, _)) in lags.iter_mut().zip(endpoints) {
                let Some(LogPosition { border, .. }) = cursor.position(log) else { continue };
                *lag += match file.sequence.cmp(&border.sequence) {
                    std::cmp::Ordering::Less => 0,
                    std::cmp::Ordering::Equal => data.len().saturating_sub(border.offset),
                    std::cmp::Ordering::Greater => data.len(),
                };
            }
        }
    }
    let newest_written = newest_written.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    for (lag, (cursor, stats)) in lags.into_iter().zip(endpoints) {
        let unfinished = cursor.positions.values().filter(|position| **position != LogPosition::END);
        let newest = unfinished.map(|position| u64::from(position.border.sequence)).max();
        stats.current_file.store(newest.unwrap_or(0), Ordering::Relaxed);
        stats.lag_bytes.store(lag, Ordering::Relaxed);
        // What was acknowledged is as new as what was read; what is behind may have been written by now.
        let written_ms = newest_written.filter(|_| lag > 0).map_or(0, |at| at.as_millis() as i64);
        stats.newest_written_ms.store(written_ms, Ordering::Relaxed);
        stats.measure_rate(since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_known_by_name_or_url() {
        let settings = |name: &str| Settings {
            url: Some("http://h/api".parse().unwrap()),
            name: name.into(),
            ..Settings::default()
        };
        assert_eq!(key(&settings("n"), |_| true), "n");
        assert_eq!(key(&settings(""), |_| false), "http://h/api#1");
        assert_eq!(key(&settings(""), |key| key.ends_with("#1")), "http://h/api#2");
    }
}
