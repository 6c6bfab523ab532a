//! meta.json: what a block says of itself.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// As Prometheus writes it; fields of others (Thanos) are kept as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    pub ulid: String,
    /// Milliseconds; the block has samples in `[min_time, max_time)`.
    pub min_time: i64,
    pub max_time: i64,
    #[serde(default)]
    pub stats: Stats,
    #[serde(default)]
    pub compaction: Compaction,
    pub version: u32,
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    pub num_samples: u64,
    pub num_float_samples: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_histogram_samples: u64,
    pub num_series: u64,
    pub num_chunks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_tombstones: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compaction {
    pub level: u32,
    pub sources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Parent>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    pub ulid: String,
    pub min_time: i64,
    pub max_time: i64,
}

/// Longest meta.json that is read.
const META_BYTES_MAX: u64 = 16 << 20;

impl Meta {
    /// Whether it was made of several blocks. One that was written anew without what was deleted is not.
    pub fn is_joined(&self) -> bool {
        let Compaction { sources, level, .. } = &self.compaction;
        sources.len() > 1 || (sources.is_empty() && *level > 1)
    }

    pub fn read(folder: &Path) -> Result<Meta, crate::BlockError> {
        let path = folder.join("meta.json");
        let bad = |reason: String| crate::BlockError::new(&path, 0, reason);
        let io = |error: std::io::Error| crate::BlockError::io(&path, 0, &error);
        let length = std::fs::metadata(&path).map_err(io)?.len();
        if length > META_BYTES_MAX {
            return Err(bad(format!("{length} bytes are too many")));
        }
        let text = std::fs::read(&path).map_err(io)?;
        let meta: Meta = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        match meta.version {
            1 => Ok(meta),
            got => Err(crate::BlockError { file: path, offset: 0, fault: crate::Fault::Version { want: 1, got } }),
        }
    }

    /// Replaces the file of a block that is complete.
    pub fn replace(&self, folder: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("strings and numbers only");
        crate::file::replace(&folder.join("meta.json"), &text)
    }

    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("strings and numbers only");
        crate::file::write_synced(&folder.join("meta.json"), &text)
    }
}
