//! A cache of target lists on disk, so that a start without the source has the last list. Format: docs/format/discovery-lists.md.
//!
//! Invariants:
//!   * a file is replaced as a whole or not at all
//!   * a file that cannot be read counts as absent and never prevents a start
//!   * no secret is written: the name of a file is a hash of the settings without secrets

use super::{DiscoveryState, Group, List};
use config::Discovery;
use serde::{Deserialize, Serialize, Serializer};
use series::Labels;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use xxhash_rust::xxh64::xxh64;

/// Name of the format in a file.
const FORMAT: &str = "ringscrape discovery list 1";
/// Size of a file, in bytes. A larger one is neither written nor read.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// Smallest interval between two writes of one list.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Age from which a file is removed, because its source no longer exists.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 86400);
/// Capacity of the queue of lists to write. A further list is dropped; the next change writes a newer one.
const WAITING_MAX: usize = 1024;

/// Reads and writes the cached lists of all sources. Cloning copies a pointer.
#[derive(Clone, Default)]
pub struct ListCache(Option<Arc<CachedList>>);

struct CachedList {
    folder: PathBuf,
    writes: mpsc::Sender<(PathBuf, List)>,
}

#[derive(Serialize)]
struct CacheFile<'a> {
    format: &'a str,
    kind: &'a str,
    saved_ms: u64,
    groups: Vec<CacheFileGroup<'a>>,
}

#[derive(Serialize)]
struct CacheFileGroup<'a> {
    labels: Map<'a>,
    targets: Vec<Map<'a>>,
}

/// Serializes labels as an object.
struct Map<'a>(&'a Labels);

impl Serialize for Map<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

#[derive(Deserialize)]
struct Read<'a> {
    format: &'a str,
    saved_ms: u64,
    #[serde(borrow)]
    groups: Vec<ReadGroup<'a>>,
}

#[derive(Deserialize)]
struct ReadGroup<'a> {
    #[serde(borrow)]
    labels: BTreeMap<&'a str, &'a str>,
    #[serde(borrow)]
    targets: Vec<BTreeMap<&'a str, &'a str>>,
}

impl ListCache {
    /// Starts the task that writes. Without a folder nothing is cached.
    pub fn start(folder: Option<PathBuf>) -> ListCache {
        let Some(folder) = folder else { return ListCache(None) };
        let (writes, inbox) = mpsc::channel(WAITING_MAX);
        let forget_in = folder.clone();
        tokio::task::spawn_blocking(move || forget_old(&forget_in));
        tokio::spawn(write_all(inbox));
        ListCache(Some(Arc::new(CachedList { folder, writes })))
    }

    /// Returns the cached list of a source with a message about its age, or nothing.
    pub async fn read(&self, discovery: &Discovery) -> DiscoveryState {
        let Some(kept) = &self.0 else { return DiscoveryState::default() };
        let path = kept.path(discovery);
        let shown = path.display().to_string();
        match tokio::task::spawn_blocking(move || read(&path)).await {
            Ok(Ok(Some((groups, age)))) => {
                let age = config::format_duration(Duration::from_secs(age.as_secs()));
                let error = format!("{}: has not answered yet; its list of {age} ago is in use", discovery.kind());
                DiscoveryState { groups: Arc::new(groups), errors: vec![error], ..DiscoveryState::default() }
            }
            Ok(Ok(None)) => DiscoveryState::default(),
            Ok(Err(error)) => {
                tracing::warn!(file = shown, error, "cached target list cannot be used");
                DiscoveryState::default()
            }
            Err(_) => DiscoveryState::default(),
        }
    }

    /// Queues the list to be written.
    pub fn write(&self, discovery: &Discovery, groups: List) {
        if let Some(kept) = &self.0 {
            // If the queue is full this version is dropped; the next change writes a newer one.
            let _ = kept.writes.try_send((kept.path(discovery), groups));
        }
    }
}

impl CachedList {
    fn path(&self, discovery: &Discovery) -> PathBuf {
        // `Debug` of the settings contains everything that identifies a source, and hides secrets.
        let hash = xxh64(format!("{discovery:?}").as_bytes(), 0);
        self.folder.join(format!("{}-{hash:016x}.json", discovery.kind()))
    }
}

/// Writes the newest list of each file, each at most once per [`WRITE_EVERY`].
async fn write_all(mut inbox: mpsc::Receiver<(PathBuf, List)>) {
    let mut waiting: HashMap<PathBuf, List> = HashMap::new();
    let mut written: HashMap<PathBuf, Instant> = HashMap::new();
    loop {
        let news = if waiting.is_empty() {
            inbox.recv().await
        } else {
            match tokio::time::timeout(WRITE_EVERY / 10, inbox.recv()).await {
                Ok(news) => news,
                Err(_) => Some((PathBuf::new(), Arc::default())),
            }
        };
        match news {
            None => return,
            Some((path, _)) if path.as_os_str().is_empty() => {}
            Some((path, groups)) => drop(waiting.insert(path, groups)),
        }
        let is_due = |path: &PathBuf| written.get(path).is_none_or(|at| at.elapsed() >= WRITE_EVERY);
        let due: Vec<PathBuf> = waiting.keys().filter(|path| is_due(path)).cloned().collect();
        for path in due {
            let Some(groups) = waiting.remove(&path) else { continue };
            written.insert(path.clone(), Instant::now());
            let shown = path.display().to_string();
            match tokio::task::spawn_blocking(move || write(&path, &groups)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(file = shown, %error, "writing the cached target list failed"),
                Err(error) => tracing::warn!(file = shown, %error, "writing the cached target list failed"),
            }
        }
    }
}

fn write(path: &Path, groups: &[Arc<Group>]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let written = CacheFile {
        format: FORMAT,
        kind: name.split('-').next().unwrap_or(""),
        saved_ms: series::clock::now_ms().unsigned_abs(),
        groups: groups
            .iter()
            .map(|group| CacheFileGroup {
                labels: Map(&group.labels),
                targets: group.targets.iter().map(Map).collect(),
            })
            .collect(),
    };
    let new = path.with_extension("json.tmp");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&new)?);
    serde_json::to_writer(&mut out, &written)?;
    out.flush()?;
    let file = out.into_inner()?;
    if file.metadata()?.len() > FILE_BYTES_MAX {
        std::fs::remove_file(&new)?;
        return Err(std::io::Error::other(format!("the list takes more than {FILE_BYTES_MAX} bytes")));
    }
    file.sync_data()?;
    std::fs::rename(&new, path)
}

/// Groups and their age.
type Aged = (Vec<Arc<Group>>, Duration);

/// Returns the content of a file, or nothing if it does not exist.
fn read(path: &Path) -> Result<Option<Aged>, String> {
    let length = match std::fs::metadata(path) {
        Ok(data) => data.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > FILE_BYTES_MAX {
        return Err(format!("{length} bytes are more than {FILE_BYTES_MAX}"));
    }
    let mut bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let read: Read = simd_json::serde::from_slice(&mut bytes).map_err(|error| error.to_string())?;
    if read.format != FORMAT {
        return Err(format!("it is no {FORMAT:?}"));
    }
    let group = |group: &ReadGroup| {
        let labels = |map: &BTreeMap<&str, &str>| Labels::from_sorted(map.iter().map(|(name, value)| (*name, *value)));
        Arc::new(Group { targets: group.targets.iter().map(labels).collect(), labels: labels(&group.labels) })
    };
    let groups = read.groups.iter().map(group).collect();
    let age_ms = series::clock::now_ms().unsigned_abs().saturating_sub(read.saved_ms);
    Ok(Some((groups, Duration::from_millis(age_ms))))
}

/// Removes files of sources that no longer exist, and temporary files.
fn forget_old(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|at| at.elapsed().ok());
        let is_old = age.is_some_and(|age| age > FORGOTTEN_AFTER);
        let is_ours = path.extension().is_some_and(|extension| extension == "json" || extension == "tmp");
        if is_old && is_ours {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<Arc<Group>> {
        let targets = vec![Labels::from_pairs([("__address__", "a:1"), ("é", "\"\n")]), Labels::empty()];
        vec![Arc::new(Group { targets, labels: Labels::from_pairs([("zone", "z")]) })]
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/http-1.json");
        assert!(read(&path).unwrap().is_none());
        write(&path, &groups()).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().0, groups());
        write(&path, &[]).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().0, []);
    }

    #[test]
    fn damage_is_an_error_and_never_another_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http-1.json");
        write(&path, &groups()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path).is_err(), "cut at {length}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            // A changed letter of a label is not detected; it must not panic.
            let _ = read(&path);
        }
        std::fs::write(&path, String::from_utf8(whole).unwrap().replace("list 1", "list 2")).unwrap();
        assert!(read(&path).is_err());
    }
}
