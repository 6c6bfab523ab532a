//! `/api/v1/ringscrape/config/file`: the configuration file as it is on disk now, beside which a page shows what is in force.
//!
//! Invariants:
//!   * secrets are masked as in `/api/v1/status/config`
//!   * an unchanged file is read once, however often it is asked for, and files are read one at a time

use crate::answer::{ApiError, ApiResult, Data};
use crate::state::State;
use axum::{Extension, extract};
use serde::Serialize;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Largest file that is looked at. Larger ones are loaded, but not compared by a page.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What the file says.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConfigFile {
    file: String,
    /// With all that is inherited written out; None if the file would be refused.
    yaml: Option<String>,
    /// Why, with file, line and column of each mistake.
    error: Option<String>,
}

/// Time of change and length: a file that keeps both was not changed.
type Version = (Option<SystemTime>, u64);

/// The last look at the file. Cloning copies a pointer.
#[derive(Clone, Default)]
pub(crate) struct ConfigFileCache(Arc<Mutex<Option<(Version, ConfigFile)>>>);

impl ConfigFileCache {
    fn read(&self, path: &Path) -> ConfigFile {
        // A panic while reading leaves the last answer, which is whole.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = std::fs::metadata(path);
        let version = metadata.as_ref().map_or((None, 0), |found| (found.modified().ok(), found.len()));
        if let Some((known, answer)) = &*last
            && *known == version
            && version.0.is_some()
        {
            return answer.clone();
        }
        let answer = read_config(path, metadata);
        *last = Some((version, answer.clone()));
        answer
    }
}

fn read_config(path: &Path, metadata: std::io::Result<std::fs::Metadata>) -> ConfigFile {
    let file = path.display().to_string();
    let refused = |error: String| ConfigFile { file: file.clone(), yaml: None, error: Some(error) };
    match metadata {
        Err(error) => return refused(format!("{file}: {error}")),
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            return refused(format!("{file} has more than {FILE_BYTES_MAX} bytes and is not compared"));
        }
        Ok(_) => {}
    }
    match config::load(path, &config::Env::process()) {
        Ok(config) => ConfigFile { file, yaml: Some(config.to_yaml()), error: None },
        Err(errors) => refused(errors.to_string()),
    }
}

pub(crate) async fn config_file(
    state: extract::State<State>,
    cache: Extension<ConfigFileCache>,
) -> ApiResult<ConfigFile> {
    let path = state.parts.flags.get("config.file").cloned().unwrap_or_default();
    let Extension(cache) = cache;
    let read = tokio::task::spawn_blocking(move || cache.read(Path::new(&path))).await;
    Ok(Data(read.map_err(|error| ApiError::internal(error.to_string()))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_and_secrets_are_masked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prometheus.yml");
        let cache = ConfigFileCache::default();
        assert!(cache.read(&path).error.unwrap().contains("prometheus.yml"));
        std::fs::write(&path, "scrape_configs:\n  - job_name: a\n    basic_auth: {username: u, password: geheim}\n")
            .unwrap();
        let good = cache.read(&path);
        assert!(good.error.is_none() && good.yaml.as_ref().unwrap().contains("<secret>"));
        assert!(!good.yaml.unwrap().contains("geheim"));
        std::fs::write(&path, "scrape_configs:\n  - job_nam: a\n").unwrap();
        let bad = cache.read(&path);
        assert!(bad.yaml.is_none() && bad.error.as_ref().unwrap().contains(":2:"), "{bad:?}");
    }
}
