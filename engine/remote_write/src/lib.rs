//! Remote write: follows the logs and sends every sample to every endpoint, from where it was left.
//!
//! Each endpoint has a reader on a thread of its own, which makes batches of what the logs say, and a sender, which has many
//! of them under way. Logs are kept by hard links until every endpoint has acknowledged what they hold, so an endpoint that
//! is away costs disk, up to [`KEPT_FOR_MAX`], and nothing else; a restart goes on behind the last acknowledgement
//! (decision 032).
//!
//! Invariants:
//!   * a sample is acknowledged, counted as refused or dropped, or sent again after a restart
//!   * samples of one series go in the order in which they were scraped

mod cursor;
mod flight;
mod labels;
mod read;
mod send;
mod stats;

pub use stats::{BUCKETS, Stats};

use crate::cursor::Cursor;
use crate::labels::Outward;
use crate::read::{Outbox, Reader, Start};
use crate::send::Sender;
use client::{Client, ClientOptions};
use config::{Config, RemoteWrite as Settings, WriteMessage};
use remote::{Message, WriteBuilder};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tsdb::log::KeptLogs;

/// How long a log is kept for an endpoint that does not take it.
pub const KEPT_FOR_MAX: Duration = Duration::from_hours(3);
/// How often logs are kept and let go.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Batches that wait for one that is under way to end.
const BATCHES_WAITING: usize = 2;

/// What HELP and TYPE say of a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub metric: String,
    pub kind: String,
    pub help: String,
    pub unit: String,
}

/// Gives the metadata of all targets.
pub type MetadataSource = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Metadata>> + Send>> + Send + Sync>;

/// All endpoints. Cloning copies a pointer.
#[derive(Clone)]
pub struct RemoteWrite(Arc<Inner>);

struct Inner {
    logs: KeptLogs,
    boot: u32,
    metadata: MetadataSource,
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
    outward: Outward,
    acknowledged: Arc<Mutex<Cursor>>,
    cursor_file: PathBuf,
    stop_reader: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
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
    pub stats: Arc<Stats>,
}

impl RemoteWrite {
    /// Nothing is sent before [`RemoteWrite::reload`]. `boot` is the number of this start in the names of logs.
    pub fn new(logs: KeptLogs, boot: u32, metadata: MetadataSource) -> RemoteWrite {
        let (state, shown) = (tokio::sync::Mutex::default(), Mutex::default());
        RemoteWrite(Arc::new(Inner { logs, boot, metadata, state, keeps: Arc::default(), shown }))
    }

    /// Sends nothing, of no logs.
    pub fn none() -> RemoteWrite {
        RemoteWrite::new(KeptLogs::new("", ""), 0, Arc::new(|| Box::pin(std::future::ready(Vec::new()))))
    }

    pub fn stats(&self) -> Vec<EndpointStats> {
        self.0.shown.lock().expect("no panic while held").clone()
    }

    /// Sends to the endpoints of a configuration. One whose settings are as they were goes on; one with others goes on
    /// where the one before it stood; one that is new gets what is scraped from now on.
    pub async fn reload(&self, config: &Config) {
        let mut state = self.0.state.lock().await;
        let mut wanted: BTreeMap<String, (Settings, Outward)> = BTreeMap::new();
        for settings in &config.remote_write {
            let external = config.global.external_labels.clone();
            let outward = Outward { external, rules: settings.write_relabel_configs.clone() };
            wanted.insert(key(settings, |key| wanted.contains_key(key)), (settings.clone(), outward));
        }
        let is_same = |key: &String, endpoint: &Endpoint| {
            let same = |(settings, outward): &(_, _)| endpoint.settings == *settings && endpoint.outward == *outward;
            wanted.get(key).is_some_and(same)
        };
        let others: Vec<String> = state
            .endpoints
            .iter()
            .filter(|(key, endpoint)| !is_same(key, endpoint))
            .map(|(key, _)| key.clone())
            .collect();
        for key in others {
            let endpoint = state.endpoints.remove(&key).expect("listed above");
            let cursor_file = endpoint.cursor_file.clone();
            endpoint.end().await;
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
        for (key, (settings, outward)) in wanted {
            if state.endpoints.contains_key(&key) {
                continue;
            }
            let name = settings.name.clone();
            match self.begin(&key, settings, outward, at_start) {
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
                    let needed: Vec<Cursor> = {
                        let state = keeper.0.state.lock().await;
                        let acknowledged =
                            |endpoint: &Endpoint| endpoint.acknowledged.lock().expect("no panic").clone();
                        state.endpoints.values().map(acknowledged).collect()
                    };
                    let (logs, boot) = (keeper.0.logs.clone(), keeper.0.boot);
                    let let_go = move || let_go(&logs, boot, &needed);
                    let _ = tokio::task::spawn_blocking(let_go).await;
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

    fn begin(&self, key: &str, settings: Settings, outward: Outward, at_start: bool) -> Result<Endpoint, String> {
        let Inner { logs, boot, .. } = &*self.0;
        let url = settings.url.clone().ok_or("it has no url")?;
        if settings.is_of_a_cloud() {
            return Err("sigv4, azuread and google_iam are not carried out by this build".to_owned());
        }
        let options = ClientOptions { timeout: settings.remote_timeout, ..ClientOptions::default() };
        let client = Client::new(&settings.http, options).map_err(|error| error.text)?;
        let hash = xxhash_rust::xxh3::xxh3_64(key.as_bytes());
        let cursor_file = logs.folder().join(format!("{hash:016x}.json"));
        let name =
            if settings.name.is_empty() { format!("{hash:016x}")[..6].to_owned() } else { settings.name.clone() };
        let resume = cursor::load(&cursor_file).unwrap_or_else(|error| {
            tracing::error!(remote_name = name, %error, "where remote write stood cannot be read; all that is kept is sent");
            let oldest = logs.files().ok().and_then(|files| files.first_key_value().map(|((boot, _), _)| *boot));
            Some(Cursor::new(oldest.unwrap_or(*boot)))
        });
        let skip = !at_start && resume.is_none();
        let cursor = resume.unwrap_or_else(|| Cursor::new(*boot));
        let acknowledged = Arc::new(Mutex::new(cursor.clone()));
        let stats = Arc::new(Stats::default());
        let shown = EndpointStats {
            name: name.clone(),
            url: client::shown(&url),
            shards_max: settings.queue_config.max_shards,
            stats: stats.clone(),
        };
        let (batches_to, batches) = mpsc::channel(BATCHES_WAITING);
        let outbox = Outbox::new(&settings, outward.clone(), cursor, batches_to, stats.clone());
        let start = Start { logs: logs.clone(), boot: *boot, skip };
        let stop_reader = Arc::new(AtomicBool::new(false));
        let reader = Reader::new(start, outbox, stop_reader.clone());
        std::thread::Builder::new()
            .name("remote-write".into())
            .spawn(move || reader.run())
            .map_err(|error| format!("starting its thread: {error}"))?;
        let (stop, stopped) = watch::channel(false);
        let sender = Arc::new(Sender {
            name,
            url,
            settings: settings.clone(),
            client,
            stats,
            cursor_file: cursor_file.clone(),
            acknowledged: acknowledged.clone(),
        });
        let mut tasks = vec![tokio::spawn(sender.clone().run(batches, stopped.clone()))];
        if settings.metadata_config.send && settings.protobuf_message == WriteMessage::V1 {
            tasks.push(tokio::spawn(send_metadata(sender, self.0.metadata.clone(), stopped)));
        }
        Ok(Endpoint { settings, outward, acknowledged, cursor_file, stop_reader, stop, tasks, shown })
    }

    /// Ends all sending; what was not acknowledged is sent after the next start.
    pub async fn shutdown(&self) {
        let mut state = self.0.state.lock().await;
        if let Some(keeper) = state.keeper.take() {
            keeper.abort();
        }
        for endpoint in std::mem::take(&mut state.endpoints).into_values() {
            endpoint.end().await;
        }
    }
}

impl Endpoint {
    async fn end(self) {
        self.stop_reader.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        for task in self.tasks {
            let _ = task.await;
        }
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

/// Removes what no endpoint needs, and what one has not read for too long. A file that was read may be needed for longer: for
/// the segments that began in it.
fn let_go(logs: &KeptLogs, boot: u32, needed: &[Cursor]) {
    let in_use = logs.in_use().unwrap_or_default();
    for (log, files) in logs.files().unwrap_or_default() {
        // Whatever its writer has still is no gain, and would be kept again.
        let in_use = in_use.get(&log).and_then(|files| files.first()).map_or(u32::MAX, |first| first.sequence);
        let last = files.last().copied();
        for file in files.into_iter().filter(|file| file.sequence < in_use) {
            let places = needed.iter().filter_map(|cursor| cursor.place(log));
            let needed: Vec<_> = places.filter(|place| file.sequence >= place.first).collect();
            let is_unread = needed.iter().any(|place| file.sequence >= place.border.sequence);
            let may_grow = log.0 == boot && Some(file) == last;
            let gives_up = is_unread && !may_grow && age(&logs.folder().join(file.to_string())) > KEPT_FOR_MAX;
            if gives_up {
                tracing::error!(%file, "a log is given up that an endpoint of remote write has not taken for hours");
            }
            if (needed.is_empty() || gives_up)
                && let Err(error) = logs.remove(file)
            {
                tracing::warn!(%file, %error, "a log that was sent could not be removed");
            }
        }
    }
}

/// How long ago a file was written last.
fn age(path: &Path) -> Duration {
    let written = path.metadata().and_then(|data| data.modified()).ok();
    written.and_then(|written| SystemTime::now().duration_since(written).ok()).unwrap_or_default()
}

/// Sends what is said of metrics, again and again.
async fn send_metadata(sender: Arc<Sender>, source: MetadataSource, mut stop: watch::Receiver<bool>) {
    let settings = &sender.settings.metadata_config;
    let mut due = tokio::time::interval(settings.send_interval.max(Duration::from_secs(1)));
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let all = source().await;
        for some in all.chunks(settings.max_samples_per_send.max(1) as usize) {
            let mut builder = WriteBuilder::new(Message::V1);
            for Metadata { metric, kind, help, unit } in some {
                builder.add_metadata(metric, kind, help, unit);
            }
            tokio::select! {
                () = sender.send_metadata(remote::pack(&builder.finish()), some.len()) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Place;
    use tsdb::log::{Border, FileId};

    #[test]
    fn files_are_let_go_when_every_endpoint_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let logs = KeptLogs::new(folder.path().join("log"), folder.path());
        let id = |boot, sequence| FileId { boot, writer: 0, sequence };
        let all = [id(1, 1), id(1, 2), id(2, 1), id(2, 2), id(2, 3)];
        all.iter().for_each(|id| std::fs::write(folder.path().join(id.to_string()), "x").unwrap());
        let left = || logs.files().unwrap().into_values().flatten().collect::<Vec<_>>();
        let at = |first| Place { border: Border { sequence: 9, offset: 0 }, first };
        let one = Cursor { boot: 1, places: BTreeMap::from([((1, 0), at(2)), ((2, 0), at(3))]) };
        let other = Cursor { boot: 2, places: BTreeMap::from([((2, 0), at(2))]) };
        let_go(&logs, 2, &[one.clone(), Cursor::new(2)]);
        assert_eq!(left(), all[1..], "one that has not begun needs all of this start");
        let_go(&logs, 2, &[one, other.clone()]);
        assert_eq!(left(), [id(1, 2), id(2, 2), id(2, 3)]);
        let_go(&logs, 2, std::slice::from_ref(&other));
        assert_eq!(left(), [id(2, 2), id(2, 3)]);
        // Nobody reads them any more, but for the last one.
        let old = SystemTime::now() - KEPT_FOR_MAX - Duration::from_secs(60);
        for id in [id(2, 2), id(2, 3)] {
            std::fs::File::options()
                .append(true)
                .open(folder.path().join(id.to_string()))
                .unwrap()
                .set_modified(old)
                .unwrap();
        }
        let_go(&logs, 2, &[other]);
        assert_eq!(left(), [id(2, 2), id(2, 3)], "they were read, and are needed for what began there");
        let away = Cursor {
            boot: 2,
            places: BTreeMap::from([((2, 0), Place { border: Border { sequence: 2, offset: 9 }, first: 2 })]),
        };
        let_go(&logs, 2, &[away]);
        assert_eq!(left(), [id(2, 3)]);
    }

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
