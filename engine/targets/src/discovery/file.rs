//! Target lists in files: read when they change, and now and then in case a change went unnoticed.
//!
//! Invariants:
//!   * a file that cannot be read or is broken (half written, say) keeps its last good list, and its error stays until
//!     it is mended
//!   * a file that is gone takes its targets along

use super::{Found, Group, SourceId, Update};
use config::FileSdConfig;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Largest target file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// A writer's events come in bursts; the files are read once it is quiet for so long.
const SETTLE: Duration = Duration::from_millis(50);

/// The files of one configuration.
pub struct Files {
    settings: FileSdConfig,
    good: BTreeMap<PathBuf, Arc<Vec<Group>>>,
    failures_total: u64,
}

impl Files {
    pub fn new(settings: FileSdConfig) -> Files {
        Files { settings, good: BTreeMap::new(), failures_total: 0 }
    }

    /// Reads all files that match now.
    pub async fn read(&mut self) -> Found {
        let patterns = self.settings.files.clone();
        let read = tokio::task::spawn_blocking(move || {
            let paths: BTreeSet<PathBuf> = patterns.iter().flat_map(|pattern| config::glob(pattern)).collect();
            paths.into_iter().map(|path| (read_file(&path), path)).collect::<Vec<_>>()
        });
        let read = match read.await {
            Ok(read) => read,
            Err(panic) => return self.found(vec![format!("reading target files failed: {panic}")]),
        };
        let mut errors = Vec::new();
        let paths: BTreeSet<&PathBuf> = read.iter().map(|(_, path)| path).collect();
        self.good.retain(|path, _| paths.contains(path));
        for (outcome, path) in read {
            match outcome {
                Ok(groups) => {
                    self.good.insert(path, Arc::new(groups));
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

    fn found(&self, errors: Vec<String>) -> Found {
        let groups = self.good.values().flat_map(|groups| groups.iter().cloned()).collect();
        Found { groups: Arc::new(groups), errors, failures_total: self.failures_total }
    }

    /// Sends what has changed, for ever.
    pub async fn follow(mut self, source: SourceId, updates: mpsc::Sender<Update>) {
        let (event_to, mut events) = mpsc::channel::<()>(1);
        // A full channel says already that something happened.
        let watcher = notify::recommended_watcher(move |_| {
            let _ = event_to.try_send(());
        });
        let mut watcher =
            watcher.map_err(|error| tracing::warn!(%error, "target files are only read again by time")).ok();
        let mut watched = BTreeSet::new();
        let mut last: Option<Found> = None;
        loop {
            if let Some(watcher) = &mut watcher {
                watch_folders(watcher, &self.settings.files, &mut watched);
            }
            // Read after the watch is set, so that no change falls between.
            let found = self.read().await;
            if last.as_ref() != Some(&found) {
                last = Some(found.clone());
                if updates.send(Update { source, found }).await.is_err() {
                    return;
                }
            }
            let _ = tokio::time::timeout(self.settings.refresh_interval, events.recv()).await;
            while let Ok(Some(())) = tokio::time::timeout(SETTLE, events.recv()).await {}
        }
    }
}

/// Watches the folders of the patterns; one that does not exist yet is tried again next time.
fn watch_folders(watcher: &mut RecommendedWatcher, patterns: &[PathBuf], watched: &mut BTreeSet<PathBuf>) {
    for folder in patterns.iter().filter_map(|pattern| pattern.parent()) {
        if !watched.contains(folder) && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok() {
            watched.insert(folder.to_owned());
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<Group>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("{}: {bytes} bytes are more than {FILE_BYTES_MAX}", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    // JSON is YAML, but half of a JSON file may be YAML as well: it must be whole.
    if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let groups = config::parse_target_groups(path, &text).map_err(|errors| errors.to_string())?;
    let with_path = |group: &config::TargetGroup| {
        let mut labels = group.labels.to_builder();
        labels.set("__meta_filepath", &path.to_string_lossy());
        Group::stated(group, labels.build())
    };
    Ok(groups.iter().map(with_path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pattern: PathBuf) -> Files {
        Files::new(FileSdConfig { files: vec![pattern], refresh_interval: Duration::from_secs(3600) })
    }

    fn addresses(found: &Found) -> Vec<String> {
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

    #[tokio::test]
    async fn changes_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yml");
        let (to, mut updates) = mpsc::channel(8);
        let task = tokio::spawn(files(folder.path().join("*.yml")).follow(SourceId(7), to));
        let mut next = async || tokio::time::timeout(Duration::from_secs(20), updates.recv()).await.unwrap().unwrap();
        assert_eq!(addresses(&next().await.found), Vec::<String>::new());
        std::fs::write(&path, "- targets: ['a:1']\n").unwrap();
        // A writer caught in the middle gives an empty file first, which is an empty list.
        while addresses(&next().await.found) != ["a:1"] {}
        std::fs::rename(&path, folder.path().join("b.yml")).unwrap();
        assert_eq!(addresses(&next().await.found), ["a:1"]);
        std::fs::remove_file(folder.path().join("b.yml")).unwrap();
        assert_eq!(addresses(&next().await.found), Vec::<String>::new());
        task.abort();
    }
}
