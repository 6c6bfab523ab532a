//! One block to a bucket.
//!
//! Order: chunks, index, and `meta.json` last. What is uploaded are hard links in `thanos/upload`, so that the block may be removed
//! meanwhile.

use crate::bucket::{Bucket, FileError};
use blocks::{Block, Meta};
use serde_json::{Map, Value, json};
use series::clock::now_ms;
use series::{Labels, Rfc3339, Timestamp};
use std::io;
use std::path::{Path, PathBuf};

/// Who made the block, as its meta.json says.
const SOURCE: &str = "ringscrape";
/// Files are looked at again before `meta.json` so many times: somebody may have removed some meanwhile.
const ATTEMPTS: usize = 3;
/// Blocks that one was made of, of which the bucket is asked.
const SOURCES_MAX: usize = 2000;

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shipped {
    Uploaded {
        /// Those that were not there before.
        bytes: u64,
    },
    WasThere,
    /// A block that it was made of is there.
    PartsAreThere,
}

#[derive(Debug)]
pub enum UploadError {
    /// The block cannot be read.
    Block(String),
    Bucket(String),
}

impl std::fmt::Display for UploadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (UploadError::Block(text) | UploadError::Bucket(text)) = self;
        f.write_str(text)
    }
}

impl From<FileError> for UploadError {
    fn from(error: FileError) -> UploadError {
        match error {
            FileError::Local(text) => UploadError::Block(text),
            FileError::Bucket(text) => UploadError::Bucket(text),
        }
    }
}

fn staging(folder: &Path) -> PathBuf {
    folder.join("thanos").join("upload")
}

/// Removes what an interrupted upload left.
pub fn remove_staged(folder: &Path) {
    let _ = std::fs::remove_dir_all(staging(folder));
}

/// A file of a block, by its name below the block's folder.
struct BlockFile {
    name: String,
    bytes: u64,
}

/// Links the files of a block into a folder of their own: chunks in their order, then the index.
fn stage(block: &Block, folder: &Path) -> io::Result<(PathBuf, Vec<BlockFile>)> {
    let staged = staging(folder).join(&block.meta().ulid);
    if staged.exists() {
        std::fs::remove_dir_all(&staged)?;
    }
    std::fs::create_dir_all(staged.join("chunks"))?;
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(block.folder().join("chunks"))? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(format!("chunks/{name}"));
        }
    }
    names.sort_unstable();
    names.push("index".to_owned());
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        std::fs::hard_link(block.folder().join(&name), staged.join(&name))?;
        files.push(BlockFile { bytes: staged.join(&name).metadata()?.len(), name });
    }
    Ok((staged, files))
}

/// The meta.json of a block for Thanos.
fn thanos_meta(meta: &Meta, labels: &Labels, files: &[BlockFile], now_ms: i64) -> Meta {
    let labels: Map<String, Value> = labels.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let rel = |file: &BlockFile| json!({"rel_path": file.name, "size_bytes": file.bytes});
    let mut all: Vec<Value> = files.iter().map(rel).collect();
    all.push(json!({"rel_path": "meta.json"}));
    let segments = files.iter().filter_map(|file| file.name.strip_prefix("chunks/")).collect::<Vec<_>>();
    let mut meta = meta.clone();
    let thanos = json!({
        "version": 1,
        "labels": labels,
        "downsample": {"resolution": 0},
        "source": SOURCE,
        "segment_files": segments,
        "files": all,
        "index_stats": {},
        "upload_time": Rfc3339(Timestamp(now_ms)).to_string(),
    });
    meta.other.insert("thanos".to_owned(), thanos);
    meta
}

/// Uploads a block unless it is there.
pub async fn upload(
    bucket: &Bucket,
    block: &Block,
    labels: &Labels,
    with_joined: bool,
    folder: &Path,
) -> Result<Shipped, UploadError> {
    let meta = block.meta();
    let has_meta = async |ulid: &str| {
        bucket.size(&format!("{ulid}/meta.json")).await.map(|size| size.is_some()).map_err(UploadError::Bucket)
    };
    if has_meta(&meta.ulid).await? {
        return Ok(Shipped::WasThere);
    }
    if with_joined {
        for source in meta.compaction.sources.iter().filter(|source| **source != meta.ulid).take(SOURCES_MAX) {
            if has_meta(source).await? {
                return Ok(Shipped::PartsAreThere);
            }
        }
    }
    let local = |error: io::Error| UploadError::Block(format!("{}: {error}", block.folder().display()));
    let (staged, files) = stage(block, folder).map_err(local)?;
    let mut bytes = 0;
    for attempt in 0..ATTEMPTS {
        let before = bytes;
        for file in &files {
            let name = format!("{}/{}", meta.ulid, file.name);
            if bucket.size(&name).await.map_err(UploadError::Bucket)? != Some(file.bytes) {
                bucket.put_file(&name, &staged.join(&file.name), file.bytes).await?;
                bytes += file.bytes;
            }
        }
        // All were there at once.
        if bytes == before {
            break;
        }
        if attempt + 1 == ATTEMPTS {
            return Err(UploadError::Bucket(format!(
                "{}: files of it are not there after they were uploaded",
                meta.ulid
            )));
        }
    }
    let whole = thanos_meta(meta, labels, &files, now_ms());
    let content = serde_json::to_vec_pretty(&whole).expect("strings and numbers only");
    let is_new = bucket.put_new(&format!("{}/meta.json", meta.ulid), content).await.map_err(UploadError::Bucket)?;
    let _ = std::fs::remove_dir_all(&staged);
    Ok(if is_new { Shipped::Uploaded { bytes } } else { Shipped::WasThere })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_says_what_thanos_wants_and_keeps_the_rest() {
        let mut meta = Meta { ulid: "01A".into(), version: 1, ..Meta::default() };
        meta.compaction.sources = vec!["01A".into()];
        let file = |name: &str, bytes| BlockFile { name: name.to_owned(), bytes };
        let files = [file("chunks/000001", 7), file("index", 9)];
        let labels = Labels::from_pairs([("cluster", "c"), ("replica", "a")]);
        let text = serde_json::to_string(&thanos_meta(&meta, &labels, &files, 1_700_000_000_000)).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let want = json!({
            "version": 1,
            "labels": {"cluster": "c", "replica": "a"},
            "downsample": {"resolution": 0},
            "source": "ringscrape",
            "segment_files": ["000001"],
            "files": [
                {"rel_path": "chunks/000001", "size_bytes": 7},
                {"rel_path": "index", "size_bytes": 9},
                {"rel_path": "meta.json"},
            ],
            "index_stats": {},
            "upload_time": "2023-11-14T22:13:20Z",
        });
        assert_eq!(json["thanos"], want);
        assert_eq!(json["compaction"]["sources"], json!(["01A"]));
    }
}
