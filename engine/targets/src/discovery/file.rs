//! Target lists in files, which are read when they change, and at an interval in case a change was missed.
//!
//! Invariants:
//!   * a file that cannot be read or is invalid (half written, for instance) keeps its last valid list, and its error stays
//!     until it is valid again
//!   * a removed file removes its targets

use super::list::ListReader;
use super::{Attempts, DiscoveryState, Group, List, SourceId, Update};
use config::FileSdConfig;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// Size of a target file, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Time without events after which files are read: the events of a writer come in bursts.
const SETTLE: Duration = Duration::from_millis(50);
/// Age from which a file's version identifies its content.
const VERSION_SETTLED: Duration = Duration::from_secs(2);

/// Version of a file: modification time, length and inode.
type Version = (SystemTime, u64, u64);

/// The files of one `file_sd_config`.
pub struct Files {
    settings: FileSdConfig,
    good: BTreeMap<PathBuf, Good>,
    failures_total: u64,
    attempts: Attempts,
    watch_errors_total: Arc<AtomicU64>,
}

/// The last valid list of a file, and its version.
#[derive(Clone)]
struct Good {
    groups: List,
    version: Option<Version>,
    modified: Option<SystemTime>,
    reader: ListReader,
}

impl Files {
    pub fn new(settings: FileSdConfig) -> Files {
        Files {
            settings,
            good: BTreeMap::new(),
            failures_total: 0,
            attempts: Attempts::default(),
            watch_errors_total: Arc::default(),
        }
    }

    /// Reads all files that match.
    pub async fn read(&mut self) -> DiscoveryState {
        let since = Instant::now();
        let patterns = self.settings.files.clone();
        let known = self.good.clone();
        let read = tokio::task::spawn_blocking(move || {
            let paths: BTreeSet<PathBuf> = patterns.iter().flat_map(|pattern| config::glob(pattern)).collect();
            let read = |path: PathBuf| (read_changed(&path, known.get(&path)), path);
            paths.into_iter().map(read).collect::<Vec<_>>()
        });
        let read = match read.await {
            Ok(read) => read,
            Err(panic) => return self.found(vec![format!("reading target files failed: {panic}")]),
        };
        self.attempts.add(since);
        let mut errors = Vec::new();
        let paths: BTreeSet<&PathBuf> = read.iter().map(|(_, path)| path).collect();
        self.good.retain(|path, _| paths.contains(path));
        for (outcome, path) in read {
            match outcome {
                Ok(good) => {
                    self.good.insert(path, good);
                }
                Err(error) => {
                    self.failures_total += 1;
                    let kept = if self.good.contains_key(&path) { "; its last good list is in use" } else { "" };
                    errors.push(format!("{error}{kept}"));
                }
            }
        }
        self.found(errors)
    }

    fn found(&self, errors: Vec<String>) -> DiscoveryState {
        let mut lists = self.good.values().map(|good| &good.groups);
        let groups = match (lists.next(), lists.next()) {
            (Some(only), None) => only.clone(),
            _ => Arc::new(self.good.values().flat_map(|good| good.groups.iter().cloned()).collect()),
        };
        DiscoveryState {
            groups,
            errors,
            failures_total: self.failures_total,
            attempts: self.attempts.clone(),
            modified: self
                .good
                .iter()
                .filter_map(|(path, good)| Some((path.to_string_lossy().into(), good.modified?)))
                .collect(),
            watch_errors_total: self.watch_errors_total.load(Ordering::Relaxed),
            ..DiscoveryState::default()
        }
    }

    /// Reports changed lists until it is dropped.
    pub async fn follow(mut self, source: SourceId, updates: mpsc::Sender<Update>) {
        let (event_to, mut events) = mpsc::channel::<()>(1);
        // Reading a file causes an event as well, which must not count as a change. If the channel is full,
        // an event is in it already.
        let watch_errors = self.watch_errors_total.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_err() {
                watch_errors.fetch_add(1, Ordering::Relaxed);
            }
            if !event.is_ok_and(|event| event.kind.is_access() && !written(event.kind)) {
                let _ = event_to.try_send(());
            }
        });
        let mut watcher =
            watcher.map_err(|error| tracing::warn!(%error, "target files cannot be watched, they are only read at their refresh interval")).ok();
        if watcher.is_none() {
            self.watch_errors_total.fetch_add(1, Ordering::Relaxed);
        }
        let mut watched = BTreeSet::new();
        let mut failing_since = None;
        loop {
            if let Some(watcher) = &mut watcher {
                watch_folders(watcher, &self.settings.files, &mut watched);
            }
            // Read after the watch is set, so that no change is missed.
            let mut found = self.read().await;
            failing_since = (!found.errors.is_empty()).then(|| failing_since.unwrap_or_else(SystemTime::now));
            found.failing_since = failing_since;
            if updates.send(Update { source, found }).await.is_err() {
                return;
            }
            let _ = tokio::time::timeout(self.settings.refresh_interval, events.recv()).await;
            while let Ok(Some(())) = tokio::time::timeout(SETTLE, events.recv()).await {}
        }
    }
}

/// Returns whether the event is the closing of a file that was open for writing.
fn written(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

/// Watches the folders of the patterns. A folder that does not exist is tried again at the next refresh.
fn watch_folders(watcher: &mut RecommendedWatcher, patterns: &[PathBuf], watched: &mut BTreeSet<PathBuf>) {
    for folder in patterns.iter().filter_map(|pattern| pattern.parent()) {
        if !watched.contains(folder) && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok() {
            watched.insert(folder.to_owned());
        }
    }
}

/// Returns the list of a file, or the known one if its version is unchanged and old enough. Timestamps are coarse, so
/// a recent one may hide a second change.
fn read_changed(path: &Path, known: Option<&Good>) -> Result<Good, String> {
    let found = std::fs::metadata(path).ok().and_then(|meta| Some((meta.modified().ok()?, meta.len(), meta.ino())));
    let version = found.filter(|(modified, ..)| modified.elapsed().is_ok_and(|age| age > VERSION_SETTLED));
    match known {
        Some(good) if version.is_some() && good.version == version => Ok(good.clone()),
        _ => {
            let fresh = || ListReader::new("__meta_filepath", &path.to_string_lossy());
            let mut reader = known.map_or_else(fresh, |good| good.reader.clone());
            let modified = found.map(|(modified, ..)| modified);
            Ok(Good { groups: Arc::new(read_file(path, &mut reader)?), version, modified, reader })
        }
    }
}

fn read_file(path: &Path, reader: &mut ListReader) -> Result<Vec<Arc<Group>>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let meta = std::fs::metadata(path).map_err(failed)?;
    // Opening a pipe waits for a writer, and a device may have no end.
    if !meta.is_file() && !meta.is_dir() {
        return Err(format!("{}: this is a pipe, a socket or a device; name a file", path.display()));
    }
    let bytes = meta.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("{}: {bytes} bytes are more than {FILE_BYTES_MAX}", path.display()));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let json_error = match is_json.then(|| reader.read(&bytes)) {
        Some(Ok(groups)) => return Ok(groups),
        Some(Err(error)) => Some(format!("{}: {error}", path.display())),
        None => None,
    };
    let text = config::decode_text(bytes)
        .map_err(|error| format!("{}:{}:{}: {}", path.display(), error.line, error.column, error.message))?;
    // JSON is YAML: if that parser sees a mistake too, it says where it is and what to write instead.
    let parsed = config::parse_target_groups(path, &text).map_err(|errors| errors.to_string());
    if let Some(error) = json_error {
        let is_complete = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        return Err(parsed.err().filter(|_| is_complete).unwrap_or(error));
    }
    let groups = parsed?;
    let name = path.to_string_lossy();
    let with_path = |group: &config::TargetGroup| {
        let mut labels = group.labels.to_builder();
        labels.set("__meta_filepath", &name);
        Arc::new(Group::stated(group, labels.build()))
    };
    Ok(groups.iter().map(with_path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pattern: PathBuf) -> Files {
        Files::new(FileSdConfig { files: vec![pattern], refresh_interval: Duration::from_secs(3600) })
    }

    fn addresses(found: &DiscoveryState) -> Vec<String> {
        let all = found.groups.iter().flat_map(|group| &group.targets);
        all.map(|target| target.get("__address__").unwrap().to_owned()).collect()
    }

    const JSON: &str = r#"[{"targets": ["a:1", "b:1"], "labels": {"zone": "z"}}, {"targets": ["c:1"]}]"#;

    #[tokio::test]
    async fn json_and_yaml_are_read_with_their_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json"), JSON).unwrap();
        std::fs::write(folder.path().join("b.yml"), "- targets: ['d:1']\n").unwrap();
        let found = files(folder.path().join("*.json")).read().await;
        assert_eq!(addresses(&found), ["a:1", "b:1", "c:1"]);
        assert_eq!(found.groups[0].labels.get("zone"), Some("z"));
        assert!(found.groups[1].labels.get("__meta_filepath").unwrap().ends_with("a.json"));
        assert_eq!(addresses(&files(folder.path().join("*.yml")).read().await), ["d:1"]);
    }

    #[tokio::test]
    async fn a_pipe_costs_itself() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json"), JSON).unwrap();
        let pipe = folder.path().join("p.json");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut files = files(folder.path().join("*.json"));
        let found =
            tokio::time::timeout(Duration::from_secs(10), files.read()).await.expect("nobody writes into the pipe");
        assert_eq!(addresses(&found).len(), 3);
        assert!(found.errors[0].contains("p.json: this is a pipe"), "{:?}", found.errors);
    }

    #[tokio::test]
    async fn file_cut_anywhere_keeps_the_last_good_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let mut files = files(path.clone());
        std::fs::write(&path, JSON).unwrap();
        files.read().await;
        for length in 0..JSON.len() {
            std::fs::write(&path, &JSON[..length]).unwrap();
            let found = files.read().await;
            assert_eq!(addresses(&found).len(), 3, "cut at {length}");
            assert!(found.errors[0].contains("a.json"), "{:?}", found.errors);
        }
        std::fs::write(&path, "[]").unwrap();
        let found = files.read().await;
        assert_eq!((addresses(&found).len(), found.errors.len()), (0, 0));
        assert_eq!(found.failures_total, JSON.len() as u64);
    }

    /// Reading a file causes an access event, which must not cause another read.
    #[tokio::test]
    async fn reading_is_not_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, "[]").unwrap();
        let (to, mut updates) = mpsc::channel(8);
        let task = tokio::spawn(files(path.clone()).follow(SourceId(7), to));
        updates.recv().await.unwrap();
        // Each read of an invalid file is an update, because its failure is counted.
        std::fs::write(&path, "[").unwrap();
        while updates.recv().await.unwrap().found.failures_total == 0 {}
        while let Ok(Some(update)) = tokio::time::timeout(Duration::from_secs(1), updates.recv()).await {
            let times = update.found.failures_total;
            assert!(times < 5, "one broken file was read {times} times");
        }
        task.abort();
    }

    #[tokio::test]
    async fn unchanged_file_is_not_parsed_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, JSON).unwrap();
        let past = SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options().append(true).open(&path).unwrap().set_modified(past).unwrap();
        let mut files = files(path.clone());
        files.read().await;
        let first = files.good[&path].groups.clone();
        files.read().await;
        assert!(Arc::ptr_eq(&first, &files.good[&path].groups));
        std::fs::write(&path, "[]").unwrap();
        assert!(addresses(&files.read().await).is_empty());
    }

    #[tokio::test]
    async fn changes_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yml");
        let (to, mut updates) = mpsc::channel(8);
        let task = tokio::spawn(files(folder.path().join("*.yml")).follow(SourceId(7), to));
        let mut next = async || tokio::time::timeout(Duration::from_secs(20), updates.recv()).await.unwrap().unwrap();
        assert_eq!(addresses(&next().await.found), Vec::<String>::new());
        std::fs::write(&path, "- targets: ['a:1']\n").unwrap();
        // A writer may leave an empty file first, which is an empty list.
        while addresses(&next().await.found) != ["a:1"] {}
        std::fs::rename(&path, folder.path().join("b.yml")).unwrap();
        assert_eq!(addresses(&next().await.found), ["a:1"]);
        std::fs::remove_file(folder.path().join("b.yml")).unwrap();
        // The rename may have been read more than once.
        while !addresses(&next().await.found).is_empty() {}
        task.abort();
    }
}
