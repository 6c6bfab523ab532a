//! The writing end of a chunk file.
//!
//! Invariants:
//!   * what was appended is in the file's index, and readable, once it is synced
//!   * what could not be synced is as if it had never been appended: no entry of it, no definition, no byte that counts

use super::file::{ChunkFile, HEADER_V2};
use super::index::{ChunkIndexEntry, Index, TimeBounds};
use crate::encoded::EncodedPart;
use crate::group::SlotGroup;
use crate::log::TargetKey;
use crate::log::frame::{FileId, put_frame};
use crate::log::record::{self, ChunksHead};
use crate::log::writer::HEADER;
use ahash::AHashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, RwLock};

/// A file of so many bytes is followed by another one, as in Prometheus' blocks: references reach no further than 4 GiB.
const FILE_BYTES_FULL: u64 = 512 << 20;

/// The file that takes the chunks of a range.
pub struct OpenChunkFile {
    pub file: Arc<ChunkFile>,
    id: FileId,
    /// End of what is written, and of what is durable.
    offset: u64,
    offset_synced: u64,
    /// What is written and not durable.
    pending: Index,
    targets: AHashMap<u64, u32>,
    /// By address; the reference keeps the address from being used again.
    groups: AHashMap<usize, (u32, Arc<SlotGroup>)>,
}

/// What is written of a segment into one file.
pub struct SegmentChunks<'a> {
    pub groups: &'a [&'a Arc<SlotGroup>],
    pub first_row: i64,
    pub encoded: &'a EncodedPart,
    pub histograms: bool,
}

impl OpenChunkFile {
    /// Creates the file, with its name durable.
    pub fn create(folder: &Path, range: i64, id: FileId) -> io::Result<OpenChunkFile> {
        crate::faults::check()?;
        let path = folder.join(crate::file_names::chunk_file(range, id));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = blocks::file::sync_folder(folder) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        let (index, bounds) = (RwLock::default(), TimeBounds::default());
        let file = Arc::new(ChunkFile { path, file, is_framed: true, index, bounds });
        let (targets, groups, pending) = (AHashMap::new(), AHashMap::new(), Index::default());
        Ok(OpenChunkFile { file, id, offset: 0, offset_synced: 0, pending, targets, groups })
    }

    /// Whether there is anything to be synced.
    pub fn is_dirty(&self) -> bool {
        self.offset > self.offset_synced
    }

    /// Whether it is long enough for another one to be begun.
    pub fn is_full(&self) -> bool {
        self.offset >= FILE_BYTES_FULL
    }

    /// Whether nothing in it is durable.
    pub fn is_empty(&self) -> bool {
        self.offset_synced == 0
    }

    /// Writes chunks. After an error nothing more may be appended before [`OpenChunkFile::roll_back`].
    pub fn append(&mut self, key: &TargetKey, chunks: &SegmentChunks, buffer: &mut Vec<u8>) -> io::Result<()> {
        let SegmentChunks { groups: of_segment, first_row, encoded, histograms } = chunks;
        buffer.clear();
        let mut payload = Vec::new();
        let mut put = |buffer: &mut Vec<u8>, write: &dyn Fn(&mut Vec<u8>) -> u8| {
            payload.clear();
            let kind = write(&mut payload);
            put_frame(self.id, self.offset, kind, &payload, buffer);
        };
        if self.offset == 0 {
            buffer.extend_from_slice(&blocks::CHUNK_FILE_HEADER);
            put(buffer, &|out| {
                out.extend_from_slice(HEADER_V2);
                HEADER
            });
        }
        let (targets_synced, groups_synced) = {
            let index = self.file.index.read().expect("no panic while held");
            (index.targets.len(), index.groups.len())
        };
        let target = *self.targets.entry(key.id).or_insert_with(|| {
            let target = (targets_synced + self.pending.targets.len()) as u32;
            put(buffer, &|out| record::target(target, key.id, &key.labels, out));
            self.pending.targets.push(key.clone());
            target
        });
        let mut groups = Vec::with_capacity(of_segment.len());
        for group in *of_segment {
            let (number, _) = self.groups.entry(Arc::as_ptr(group).addr()).or_insert_with(|| {
                let number = (groups_synced + self.pending.groups.len()) as u32;
                put(buffer, &|out| record::group(number, group, out));
                self.pending.groups.push(Arc::clone(group));
                (number, Arc::clone(group))
            });
            groups.push(*number);
        }
        let table_bytes = encoded.ends.len() * 4 + 4;
        let head = ChunksHead {
            histograms: *histograms,
            target,
            groups: groups.clone(),
            first: encoded.first,
            last: encoded.last,
            first_row: *first_row,
            samples: encoded.samples,
            bytes: (table_bytes + encoded.entries.len()) as u64,
        };
        put(buffer, &|out| record::chunks(&head, out));
        let offset = self.offset + buffer.len() as u64;
        let table_at = buffer.len();
        encoded.ends.iter().for_each(|end| buffer.extend_from_slice(&end.to_le_bytes()));
        let sum = crc32c::crc32c(&buffer[table_at..]);
        buffer.extend_from_slice(&sum.to_le_bytes());
        buffer.extend_from_slice(&encoded.entries);
        if let Err(error) = crate::faults::check() {
            // A full disk takes a part.
            self.file.file.write_all_at(&buffer[..buffer.len() / 2], self.offset)?;
            return Err(error);
        }
        self.file.file.write_all_at(buffer, self.offset)?;
        self.offset += buffer.len() as u64;
        self.pending.samples += encoded.samples;
        self.pending.entries.push(ChunkIndexEntry {
            target,
            groups: groups.into(),
            offset,
            slots: encoded.ends.len() as u32,
            bytes: head.bytes,
            samples: encoded.samples,
            histograms: *histograms,
            first: encoded.first,
            last: encoded.last,
            first_row: *first_row,
        });
        Ok(())
    }

    /// Makes what was appended durable, and puts it into the file's index.
    pub fn sync(&mut self) -> io::Result<()> {
        crate::faults::check()?;
        self.file.file.sync_data()?;
        self.offset_synced = self.offset;
        let pending = std::mem::take(&mut self.pending);
        let mut index = self.file.index.write().expect("no panic while held");
        pending.targets.into_iter().for_each(|target| index.add_target(target));
        index.groups.extend(pending.groups);
        self.file.bounds.add(&pending.entries);
        pending.entries.into_iter().for_each(|entry| index.add_entry(entry));
        index.samples += pending.samples;
        Ok(())
    }

    /// Undoes what is not durable. After an error the file takes nothing more.
    pub fn roll_back(&mut self) -> io::Result<()> {
        let index = self.file.index.read().expect("no panic while held");
        let (targets, groups) = (index.targets.len() as u32, index.groups.len() as u32);
        drop(index);
        self.pending = Index::default();
        self.targets.retain(|_, number| *number < targets);
        self.groups.retain(|_, (number, _)| *number < groups);
        self.offset = self.offset_synced;
        self.file.file.set_len(self.offset)
    }
}
