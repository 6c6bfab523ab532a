//! `thanos.shipper.json`: which blocks of a data folder were uploaded, in the form of Thanos, for all who look at it.

use blocks::Meta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

pub const FILE: &str = "thanos.shipper.json";
/// Longest file that is read: 30 bytes for each block.
const FILE_BYTES_MAX: u64 = 16 << 20;
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Go writes null for an empty list.
    uploaded: Option<BTreeSet<String>>,
}

/// ULIDs of uploaded blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadedBlocks {
    ulids: BTreeSet<String>,
    /// What the file has.
    saved: Option<BTreeSet<String>>,
}

impl UploadedBlocks {
    /// Of a data folder. A file that cannot be read counts as empty: the bucket says which blocks are there.
    pub fn read(folder: &Path) -> Result<UploadedBlocks, String> {
        let path = folder.join(FILE);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(UploadedBlocks::default()),
            Err(error) => return Err(format!("{}: {error}", path.display())),
            Ok(data) if data.len() > FILE_BYTES_MAX => return Ok(UploadedBlocks::default()),
            Ok(_) => {}
        }
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        match serde_json::from_slice::<Content>(&text) {
            Ok(Content { version: VERSION, uploaded }) => {
                let ulids = uploaded.unwrap_or_default();
                Ok(UploadedBlocks { saved: Some(ulids.clone()), ulids })
            }
            _ => {
                tracing::warn!(file = %path.display(), "the list of uploaded blocks cannot be read; the bucket is asked instead");
                Ok(UploadedBlocks::default())
            }
        }
    }

    pub fn has(&self, ulid: &str) -> bool {
        self.ulids.contains(ulid)
    }

    pub fn add(&mut self, ulid: &str) {
        self.ulids.insert(ulid.to_owned());
    }

    /// Forgets blocks that are not there any more, and are no part of those that are.
    pub fn retain<'a>(&mut self, metas: impl Iterator<Item = &'a Meta>) {
        let mut needed = BTreeSet::new();
        for meta in metas {
            needed.insert(meta.ulid.as_str());
            needed.extend(meta.compaction.sources.iter().map(String::as_str));
        }
        self.ulids.retain(|ulid| needed.contains(ulid.as_str()));
    }

    /// Writes the file if it says something else.
    pub fn save(&mut self, folder: &Path) -> Result<(), String> {
        if self.saved.as_ref() == Some(&self.ulids) {
            return Ok(());
        }
        let path = folder.join(FILE);
        let content = Content { version: VERSION, uploaded: Some(self.ulids.clone()) };
        let text = serde_json::to_vec_pretty(&content).expect("strings and numbers only");
        blocks::file::replace(&path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
        self.saved = Some(self.ulids.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_form_of_thanos_and_is_read_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut uploaded = UploadedBlocks::read(folder.path()).unwrap();
        uploaded.add("01B");
        uploaded.add("01A");
        uploaded.save(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        let words: String = text.split_whitespace().collect();
        assert_eq!(words, r#"{"version":1,"uploaded":["01A","01B"]}"#);
        for (text, want) in [
            (r#"{"version":1,"uploaded":["01A"]}"#, 1),
            (r#"{"version":1,"uploaded":null}"#, 0),
            (r#"{"version":2,"uploaded":["01A"]}"#, 0),
            ("{", 0),
        ] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            assert_eq!(UploadedBlocks::read(folder.path()).unwrap().ulids.len(), want, "{text}");
        }
    }

    #[test]
    fn blocks_that_are_gone_are_forgotten_but_for_parts_of_others() {
        let mut uploaded = UploadedBlocks::default();
        ["a", "b", "c"].iter().for_each(|ulid| uploaded.add(ulid));
        let mut joined = Meta { ulid: "d".into(), ..Meta::default() };
        joined.compaction.sources = vec!["a".into(), "x".into()];
        let plain = Meta { ulid: "b".into(), ..Meta::default() };
        uploaded.retain([&joined, &plain].into_iter());
        assert!(uploaded.has("a") && uploaded.has("b") && !uploaded.has("c"));
    }
}
