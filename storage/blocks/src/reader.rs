//! Reads a block, ours or Prometheus': postings, series, chunks.
//!
//! Invariants:
//!   * every checksum is looked at; damaged bytes are an error that names file and offset
//!   * lengths and counts are believed only as far as the file is long

use crate::chunk::Chunk;
use crate::tombstones::Tombstones;
use crate::{BlockError, CHUNKS_MAGIC, Cursor, INDEX_MAGIC, Meta};
use series::{Labels, Matcher, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

/// A series entry is read in one piece up to this length.
const ENTRY_BYTES: usize = 4096;
/// Longest chunk that is read.
const CHUNK_BYTES_MAX: usize = 64 << 20;

struct Source {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Source {
    fn open(path: PathBuf) -> Result<Source, BlockError> {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, file) = opened.map_err(|error| BlockError::new(&path, 0, error.to_string()))?;
        Ok(Source { path, file, length })
    }

    fn bad(&self, offset: u64, reason: impl Into<String>) -> BlockError {
        BlockError::new(&self.path, offset, reason)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, BlockError> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(self.bad(offset, format!("{length} bytes wanted, the file has {}", self.length)));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| self.bad(offset, error.to_string()))?;
        Ok(bytes)
    }

    /// A section with its length before and its checksum behind it.
    fn section(&self, offset: u64) -> Result<Vec<u8>, BlockError> {
        let head = self.read(offset, 4)?;
        let length = u32::from_be_bytes(head.try_into().expect("four bytes")) as usize;
        let mut bytes = self.read(offset + 4, length + 4)?;
        let sum = bytes.split_off(length);
        if crc32c::crc32c(&bytes).to_be_bytes() != *sum {
            return Err(self.bad(offset, "the checksum does not fit"));
        }
        Ok(bytes)
    }
}

/// Symbols one after the other, with where each ends.
struct Symbols {
    text: Box<str>,
    ends: Box<[u32]>,
}

impl Symbols {
    fn get(&self, i: u64) -> Option<&str> {
        let i = usize::try_from(i).ok()?;
        let start = if i == 0 { 0 } else { *self.ends.get(i - 1)? as usize };
        self.text.get(start..*self.ends.get(i)? as usize)
    }
}

/// An open block.
pub struct Block {
    folder: PathBuf,
    meta: Meta,
    index: Source,
    chunks: Vec<Source>,
    symbols: Symbols,
    /// Where the postings of each value of each label are.
    postings: BTreeMap<Box<str>, Vec<(Box<str>, u64)>>,
    tombstones: RwLock<Tombstones>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A series that matches, with its chunks that overlap the range.
#[derive(Clone, Debug)]
pub struct Found {
    pub id: u32,
    pub labels: Labels,
    chunks: Vec<(i64, i64, u64)>,
}

impl Block {
    /// Opens a block's folder.
    pub fn open(folder: &Path) -> Result<Block, BlockError> {
        let meta = Meta::read(folder)?;
        let index = Source::open(folder.join("index"))?;
        let head = index.read(0, 5)?;
        if head[..4] != INDEX_MAGIC.to_be_bytes() || head[4] != 2 {
            return Err(index.bad(0, "no index of version 2"));
        }
        let toc_at = index.length.checked_sub(52).ok_or_else(|| index.bad(0, "it ends early"))?;
        let toc = index.read(toc_at, 52)?;
        if crc32c::crc32c(&toc[..48]).to_be_bytes() != toc[48..] {
            return Err(index.bad(toc_at, "the checksum of the table of contents does not fit"));
        }
        let mut cursor = Cursor(&toc);
        let mut references = [0; 6];
        for reference in &mut references {
            *reference = cursor.u64().expect("48 bytes");
        }
        let symbols = read_symbols(&index, references[0])?;
        let postings = read_table(&index, references[5])?;
        let mut chunks = Vec::new();
        for number in 1.. {
            let path = folder.join("chunks").join(format!("{number:06}"));
            if !path.exists() {
                break;
            }
            let source = Source::open(path)?;
            if source.read(0, 5)? != [&CHUNKS_MAGIC.to_be_bytes()[..], &[1]].concat() {
                return Err(source.bad(0, "no chunks of version 1"));
            }
            chunks.push(source);
        }
        let tombstones = RwLock::new(Tombstones::read(folder)?);
        Ok(Block { folder: folder.to_owned(), meta, index, chunks, symbols, postings, tombstones })
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of the block's files.
    pub fn bytes(&self) -> u64 {
        self.index.length + self.chunks.iter().map(|source| source.length).sum::<u64>()
    }

    pub fn tombstones(&self) -> u64 {
        self.tombstones.read().expect("no panic while held").count()
    }

    /// Names of all labels.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.postings.keys().map(|name| &**name).filter(|name| !name.is_empty())
    }

    /// Values of a label, sorted.
    pub fn label_values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.postings.get(name).into_iter().flatten().map(|(value, _)| &**value)
    }

    fn list(&self, offset: u64) -> Result<Vec<u32>, BlockError> {
        let bytes = self.index.section(offset)?;
        let mut cursor = Cursor(&bytes);
        let count = cursor.u32().map_err(|reason| self.index.bad(offset, reason))? as usize;
        if cursor.0.len() != count * 4 {
            return Err(self.index.bad(offset, "a list has not as many entries as it says"));
        }
        let ids: Vec<u32> =
            cursor.0.chunks_exact(4).map(|id| u32::from_be_bytes(id.try_into().expect("four bytes"))).collect();
        if !ids.is_sorted() {
            return Err(self.index.bad(offset, "a list is not sorted"));
        }
        Ok(ids)
    }

    fn union(&self, name: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<u32>, BlockError> {
        let mut ids = Vec::new();
        for (_, offset) in self.postings.get(name).into_iter().flatten().filter(|(value, _)| wanted(value)) {
            ids.append(&mut self.list(*offset)?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Ids of the series that satisfy all matchers, in label order.
    pub fn ids(&self, matchers: &[Matcher]) -> Result<Vec<u32>, BlockError> {
        let mut ids: Option<Vec<u32>> = None;
        // A matcher that takes the missing label excludes; the others include.
        for matcher in matchers.iter().filter(|matcher| !matcher.matches("")) {
            let one = self.union(matcher.name(), |value| matcher.matches(value))?;
            ids = Some(match ids {
                None => one,
                Some(ids) => ids.into_iter().filter(|id| one.binary_search(id).is_ok()).collect(),
            });
        }
        let mut ids = match ids {
            Some(ids) => ids,
            None => self.union("", |_| true)?,
        };
        for matcher in matchers.iter().filter(|matcher| matcher.matches("")) {
            let not = self.union(matcher.name(), |value| !matcher.matches(value))?;
            ids.retain(|id| not.binary_search(id).is_err());
        }
        Ok(ids)
    }

    /// Labels and chunks of a series; None if it has no chunk in `[from, to]`.
    pub fn series(&self, id: u32, from: i64, to: i64) -> Result<Option<Found>, BlockError> {
        let offset = u64::from(id) * 16;
        let bad = |reason: &str| self.index.bad(offset, reason);
        let there = self.index.length.saturating_sub(offset).min(ENTRY_BYTES as u64) as usize;
        let mut bytes = self.index.read(offset, there)?;
        let mut cursor = Cursor(&bytes);
        let length = cursor.uvarint().map_err(bad)?;
        let head = bytes.len() - cursor.0.len();
        let whole = usize::try_from(length).ok().and_then(|length| length.checked_add(head + 4));
        let whole = whole.ok_or_else(|| bad("an entry is too long"))?;
        if whole > bytes.len() {
            bytes = self.index.read(offset, whole)?;
        }
        let (entry, sum) = bytes[head..whole].split_at(whole - head - 4);
        if crc32c::crc32c(entry).to_be_bytes() != sum {
            return Err(bad("the checksum does not fit"));
        }
        self.entry(id, entry, from, to).map_err(bad)
    }

    fn entry(&self, id: u32, entry: &[u8], from: i64, to: i64) -> Result<Option<Found>, &'static str> {
        let mut cursor = Cursor(entry);
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for _ in 0..cursor.count()? {
            let name = self.symbols.get(cursor.uvarint()?).ok_or("an unknown symbol")?;
            let value = self.symbols.get(cursor.uvarint()?).ok_or("an unknown symbol")?;
            if pairs.last().is_some_and(|last| last.0 >= name) {
                return Err("labels are not sorted");
            }
            pairs.push((name, value));
        }
        let mut chunks = Vec::new();
        let (mut last_max, mut reference) = (0i64, 0u64);
        for i in 0..cursor.count()? {
            let min = match i {
                0 => cursor.varint()?,
                _ => last_max.wrapping_add(cursor.uvarint()? as i64),
            };
            let max = min.wrapping_add(cursor.uvarint()? as i64);
            reference = match i {
                0 => cursor.uvarint()?,
                _ => reference.wrapping_add(cursor.varint()? as u64),
            };
            if min <= to && max >= from {
                chunks.push((min, max, reference));
            }
            last_max = max;
        }
        Ok((!chunks.is_empty()).then(|| Found { id, labels: Labels::from_sorted(pairs), chunks }))
    }

    /// The bytes of a series' chunks, in order of time.
    pub fn chunks(&self, found: &Found) -> Result<Vec<Chunk>, BlockError> {
        found.chunks.iter().map(|(min, max, reference)| self.chunk(*min, *max, *reference)).collect()
    }

    fn chunk(&self, min: i64, max: i64, reference: u64) -> Result<Chunk, BlockError> {
        let source = usize::try_from(reference >> 32).ok().and_then(|file| self.chunks.get(file));
        let source = source.ok_or_else(|| {
            BlockError::new(&self.folder.join("chunks"), 0, format!("chunk file {} is missing", (reference >> 32) + 1))
        })?;
        let offset = reference & 0xffff_ffff;
        let there = source.length.saturating_sub(offset).min(512) as usize;
        let mut bytes = source.read(offset, there)?;
        let mut cursor = Cursor(&bytes);
        let length = cursor.uvarint().map_err(|reason| source.bad(offset, reason))? as usize;
        if length > CHUNK_BYTES_MAX {
            return Err(source.bad(offset, format!("a chunk of {length} bytes")));
        }
        let head = bytes.len() - cursor.0.len();
        let whole = head + 1 + length + 4;
        if whole > bytes.len() {
            bytes = source.read(offset, whole)?;
        }
        let (data, sum) = bytes[head..whole].split_at(1 + length);
        if crc32c::crc32c(data).to_be_bytes() != sum {
            return Err(source.bad(offset, "the checksum of a chunk does not fit"));
        }
        Ok(Chunk { min, max, encoding: data[0], bytes: data[1..].to_vec() })
    }

    /// Samples of a series in `[from, to]` that are not deleted, in order of time.
    pub fn samples(
        &self,
        found: &Found,
        from: i64,
        to: i64,
        mut sample: impl FnMut(i64, Value),
    ) -> Result<(), BlockError> {
        let deleted = self.tombstones.read().expect("no panic while held").0.get(&found.id).cloned();
        let deleted = deleted.unwrap_or_default();
        for (min, max, reference) in &found.chunks {
            let chunk = self.chunk(*min, *max, *reference)?;
            let bad = |reason: String| self.chunks[(reference >> 32) as usize].bad(reference & 0xffff_ffff, reason);
            let decoded = chunk.decode(|at, value| {
                if at >= from && at <= to && !deleted.iter().any(|(min, max)| at >= *min && at <= *max) {
                    sample(at, value);
                }
            });
            decoded.map_err(|error| bad(error.to_string()))?;
        }
        Ok(())
    }

    /// Deleted ranges of a series.
    pub fn deleted(&self, id: u32) -> Vec<(i64, i64)> {
        self.tombstones.read().expect("no panic while held").0.get(&id).cloned().unwrap_or_default()
    }

    /// Hides samples in `[from, to]` of matching series, for good.
    pub fn delete(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<(), BlockError> {
        let ids = self.ids(matchers)?;
        let mut tombstones = self.tombstones.write().expect("no panic while held");
        let mut changed = tombstones.clone();
        for id in ids {
            if let Some(found) = self.series(id, from, to)? {
                let (first, last) = (found.chunks[0].0, found.chunks[found.chunks.len() - 1].1);
                changed.add(id, from.max(first), to.min(last));
            }
        }
        changed
            .write(&self.folder)
            .map_err(|error| BlockError::new(&self.folder.join("tombstones"), 0, error.to_string()))?;
        *tombstones = changed;
        Ok(())
    }

    /// Reads every byte that a query could need, and counts the samples.
    pub fn verify(&self) -> Result<u64, BlockError> {
        let mut samples = 0;
        for id in self.ids(&[])? {
            if let Some(found) = self.series(id, i64::MIN, i64::MAX)? {
                for chunk in self.chunks(&found)? {
                    samples += u64::from(chunk.samples());
                    chunk.decode(|_, _| ()).map_err(|error| self.index.bad(u64::from(id) * 16, error.to_string()))?;
                }
            }
        }
        Ok(samples)
    }
}

fn read_symbols(index: &Source, offset: u64) -> Result<Symbols, BlockError> {
    let bytes = index.section(offset)?;
    let bad = |reason| index.bad(offset, reason);
    let mut cursor = Cursor(&bytes);
    let count = cursor.u32().map_err(bad)? as usize;
    if count > cursor.0.len() {
        return Err(bad("a count is too large"));
    }
    let mut text = String::with_capacity(cursor.0.len());
    let mut ends = Vec::with_capacity(count);
    for _ in 0..count {
        text.push_str(cursor.text().map_err(bad)?);
        ends.push(text.len() as u32);
    }
    Ok(Symbols { text: text.into(), ends: ends.into() })
}

type PostingsTable = BTreeMap<Box<str>, Vec<(Box<str>, u64)>>;

fn read_table(index: &Source, offset: u64) -> Result<PostingsTable, BlockError> {
    let bytes = index.section(offset)?;
    let bad = |reason| index.bad(offset, reason);
    let mut cursor = Cursor(&bytes);
    let mut table = PostingsTable::new();
    for _ in 0..cursor.u32().map_err(bad)? {
        let mut entry = || {
            if cursor.take(1)? != [2] {
                return Err("an entry does not have two strings");
            }
            Ok((cursor.text()?, cursor.text()?, cursor.uvarint()?))
        };
        let (name, value, at) = entry().map_err(bad)?;
        match table.get_mut(name) {
            Some(values) => values.push((value.into(), at)),
            None => {
                table.insert(name.into(), vec![(value.into(), at)]);
            }
        }
    }
    Ok(table)
}
