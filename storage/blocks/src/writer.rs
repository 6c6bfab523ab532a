//! Writes a block: series in order, each with its chunks, in one pass.
//!
//! Invariants:
//!   * the folder has its final name only when every byte in it is durable
//!   * a writer that is dropped before its end removes its unfinished folder
//!   * memory: the symbols, and about one byte per label of each series for the postings

use crate::chunk::{Chunk, LinkedFile, LinkedPlace};
use crate::codec::{ByteCursor, UNEXPECTED_END, put_text, put_uvarint, put_varint};
use crate::file::{sync_folder, write_synced};
use crate::meta::{Meta, Stats};
use crate::{CHUNK_FILE_HEADER, INDEX_MAGIC, TOMBSTONES_MAGIC};
use ahash::AHashMap;
use series::Labels;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Suffix of a block that is not finished.
pub const UNFINISHED: &str = ".tmp-for-creation";
/// Suffix of a block that is being removed.
pub const DELETED: &str = ".tmp-for-deletion";
/// Longest chunk file.
const CHUNK_FILE_BYTES_MAX: u64 = 512 << 20;
const BUFFER_BYTES: usize = 256 << 10;

/// Series ids of one label pair: differences as varints.
#[derive(Default)]
struct Postings {
    bytes: Vec<u8>,
    last: u32,
    count: u32,
}

/// A folder that is removed unless its block is finished.
struct UnfinishedFolder {
    path: PathBuf,
    is_finished: bool,
}

impl Drop for UnfinishedFolder {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed now is at the next start.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A block under construction. Dropped without [`BlockWriter::finish`], it removes its unfinished folder.
pub struct BlockWriter {
    parent: PathBuf,
    folder: UnfinishedFolder,
    ulid: String,
    index: BufWriter<File>,
    index_at: u64,
    symbols: AHashMap<Box<str>, u32>,
    symbols_at: u64,
    series_at: u64,
    /// By numbers of name and value.
    postings: AHashMap<(u32, u32), Postings>,
    all: Postings,
    chunks: Option<BufWriter<File>>,
    chunk_file: u64,
    chunk_at: u64,
    stats: Stats,
    last: Option<Labels>,
    entry: Vec<u8>,
}

impl BlockWriter {
    /// Begins a block in `parent`. `symbols` are all names and values of the labels to come.
    pub fn new(parent: &Path, ulid: &str, symbols: &BTreeSet<String>) -> io::Result<BlockWriter> {
        let path = parent.join(format!("{ulid}{UNFINISHED}"));
        let folder = UnfinishedFolder { path, is_finished: false };
        std::fs::create_dir_all(folder.path.join("chunks"))?;
        let index = BufWriter::with_capacity(BUFFER_BYTES, File::create(folder.path.join("index"))?);
        let mut writer = BlockWriter {
            parent: parent.to_owned(),
            folder,
            ulid: ulid.to_owned(),
            index,
            index_at: 0,
            symbols: symbols.iter().enumerate().map(|(i, text)| (text.as_str().into(), i as u32)).collect(),
            symbols_at: 0,
            series_at: 0,
            postings: AHashMap::new(),
            all: Postings::default(),
            chunks: None,
            chunk_file: 0,
            chunk_at: 0,
            stats: Stats::default(),
            last: None,
            entry: Vec::new(),
        };
        let mut head = INDEX_MAGIC.to_be_bytes().to_vec();
        head.push(2);
        writer.put(&head)?;
        writer.symbols_at = writer.index_at;
        writer.section(|out| {
            out(&(symbols.len() as u32).to_be_bytes())?;
            let mut entry = Vec::new();
            for text in symbols {
                entry.clear();
                put_text(text, &mut entry);
                out(&entry)?;
            }
            Ok(())
        })?;
        writer.pad(16)?;
        writer.series_at = writer.index_at;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.index_at += bytes.len() as u64;
        self.index.write_all(bytes)
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        let missing = self.index_at.next_multiple_of(to) - self.index_at;
        self.put(&[0; 16][..missing as usize])
    }

    /// Length, what `write` gives, checksum.
    fn section(
        &mut self,
        write: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        let start = self.index_at;
        self.put(&[0; 4])?;
        let (mut sum, mut length) = (0u32, 0u64);
        let index = &mut self.index;
        write(&mut |bytes| {
            sum = crc32c::crc32c_append(sum, bytes);
            length += bytes.len() as u64;
            index.write_all(bytes)
        })?;
        self.index_at += length;
        self.put(&sum.to_be_bytes())?;
        let end = self.index_at;
        let length = u32::try_from(length).map_err(|_| io::Error::other("a section of the index passes 4 GiB"))?;
        self.index.seek(SeekFrom::Start(start))?;
        self.index.write_all(&length.to_be_bytes())?;
        self.index.seek(SeekFrom::Start(end))?;
        Ok(())
    }

    /// Adds a series, after all that are before it in label order, with its chunks in order of time.
    pub fn add_series(&mut self, labels: &Labels, chunks: &[Chunk]) -> io::Result<()> {
        assert!(self.last.as_ref().is_none_or(|last| last < labels), "series come in order: {labels}");
        assert!(chunks.is_sorted_by(|one, other| one.max < other.min), "chunks do not overlap: {labels}");
        self.last = Some(labels.clone());
        let mut entry = std::mem::take(&mut self.entry);
        entry.clear();
        self.pad(16)?;
        let id = u32::try_from(self.index_at / 16).map_err(|_| io::Error::other("the index passes 64 GiB"))?;
        put_uvarint(labels.len() as u64, &mut entry);
        for pair in labels.iter() {
            let symbol = |text: &str| *self.symbols.get(text).expect("every label is among the symbols");
            let pair = (symbol(pair.0), symbol(pair.1));
            put_uvarint(u64::from(pair.0), &mut entry);
            put_uvarint(u64::from(pair.1), &mut entry);
            self.postings.entry(pair).or_default().push(id);
        }
        self.all.push(id);
        put_uvarint(chunks.len() as u64, &mut entry);
        let (mut last_max, mut last_reference) = (0i64, 0u64);
        for (i, chunk) in chunks.iter().enumerate() {
            let reference = self.put_chunk(chunk)?;
            if i == 0 {
                put_varint(chunk.min, &mut entry);
                put_uvarint(chunk.max.wrapping_sub(chunk.min) as u64, &mut entry);
                put_uvarint(reference, &mut entry);
            } else {
                put_uvarint(chunk.min.wrapping_sub(last_max) as u64, &mut entry);
                put_uvarint(chunk.max.wrapping_sub(chunk.min) as u64, &mut entry);
                put_varint(reference.wrapping_sub(last_reference) as i64, &mut entry);
            }
            (last_max, last_reference) = (chunk.max, reference);
            self.stats.num_samples += u64::from(chunk.samples());
            let kind = match chunk.is_float() {
                true => &mut self.stats.num_float_samples,
                false => &mut self.stats.num_histogram_samples,
            };
            *kind += u64::from(chunk.samples());
        }
        self.stats.num_series += 1;
        self.stats.num_chunks += chunks.len() as u64;
        let mut length = Vec::with_capacity(5);
        put_uvarint(entry.len() as u64, &mut length);
        self.put(&length)?;
        self.put(&entry)?;
        self.put(&crc32c::crc32c(&entry).to_be_bytes())?;
        self.entry = entry;
        Ok(())
    }

    /// Takes over a durable file of chunks: it becomes one of the block, by a hard link. Chunks with a place in it are not
    /// written again. All files are taken over before the first chunk is written.
    ///
    /// # Errors
    /// Where there are no hard links, or none between the two folders.
    pub fn link_chunk_file(&mut self, path: &Path) -> io::Result<LinkedFile> {
        assert!(self.chunks.is_none(), "files are taken over first");
        let number = self.chunk_file;
        std::fs::hard_link(path, self.chunk_file_path(number + 1))?;
        self.chunk_file += 1;
        Ok(LinkedFile { number })
    }

    fn chunk_file_path(&self, number: u64) -> PathBuf {
        self.folder.path.join("chunks").join(format!("{number:06}"))
    }

    fn put_chunk(&mut self, chunk: &Chunk) -> io::Result<u64> {
        if let Some(LinkedPlace(reference)) = chunk.place {
            return Ok(reference);
        }
        let mut head = Vec::with_capacity(6);
        put_frame_head(chunk.encoding, chunk.bytes.len(), &mut head);
        let length = (head.len() + chunk.bytes.len() + 4) as u64;
        if self.chunks.is_none() || self.chunk_at + length > CHUNK_FILE_BYTES_MAX {
            self.end_chunk_file()?;
            self.chunk_file += 1;
            let path = self.chunk_file_path(self.chunk_file);
            let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
            file.write_all(&CHUNK_FILE_HEADER)?;
            self.chunk_at = CHUNK_FILE_HEADER.len() as u64;
            self.chunks = Some(file);
        }
        let file = self.chunks.as_mut().expect("opened above");
        let reference = (self.chunk_file - 1) << 32 | self.chunk_at;
        file.write_all(&head)?;
        file.write_all(&chunk.bytes)?;
        file.write_all(&frame_sum(chunk.encoding, &chunk.bytes))?;
        self.chunk_at += length;
        Ok(reference)
    }

    fn end_chunk_file(&mut self) -> io::Result<()> {
        match self.chunks.take() {
            Some(file) => file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all(),
            None => Ok(()),
        }
    }

    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Writes what is left and gives the folder its name. `meta`'s ULID and counts are filled in.
    pub fn finish(mut self, mut meta: Meta) -> io::Result<Meta> {
        self.end_chunk_file()?;
        let symbols: Vec<Box<str>> = {
            let mut sorted: Vec<(u32, Box<str>)> = self.symbols.drain().map(|(text, i)| (i, text)).collect();
            sorted.sort_unstable_by_key(|(i, _)| *i);
            sorted.into_iter().map(|(_, text)| text).collect()
        };
        let mut lists: Vec<((u32, u32), Postings)> = std::mem::take(&mut self.postings).into_iter().collect();
        // Numbers of symbols are in the order of their texts.
        lists.sort_unstable_by_key(|(pair, _)| *pair);
        let mut offsets: Vec<((&str, &str), u64)> = Vec::with_capacity(lists.len() + 1);
        let postings_at = self.index_at.next_multiple_of(4);
        let all = std::mem::take(&mut self.all);
        let every = std::iter::once((("", ""), all));
        let pairs = lists
            .into_iter()
            .map(|((name, value), list)| ((&*symbols[name as usize], &*symbols[value as usize]), list));
        for (pair, list) in every.chain(pairs) {
            self.pad(4)?;
            offsets.push((pair, self.index_at));
            self.section(|out| {
                out(&list.count.to_be_bytes())?;
                list.each(|id| out(&id.to_be_bytes()))
            })?;
        }
        let table_at = self.index_at;
        self.section(|out| {
            out(&(offsets.len() as u32).to_be_bytes())?;
            let mut entry = Vec::new();
            for ((name, value), offset) in &offsets {
                entry.clear();
                entry.push(2);
                for text in [name, value] {
                    put_text(text, &mut entry);
                }
                put_uvarint(*offset, &mut entry);
                out(&entry)?;
            }
            Ok(())
        })?;
        let mut toc = Vec::with_capacity(52);
        // Label indices are a thing of the past; zero says that there are none.
        for reference in [self.symbols_at, self.series_at, 0, 0, postings_at, table_at] {
            toc.extend_from_slice(&reference.to_be_bytes());
        }
        toc.extend_from_slice(&crc32c::crc32c(&toc).to_be_bytes());
        self.put(&toc)?;
        self.index.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;

        let mut tombstones = TOMBSTONES_MAGIC.to_be_bytes().to_vec();
        tombstones.push(1);
        tombstones.extend_from_slice(&crc32c::crc32c(&[]).to_be_bytes());
        write_synced(&self.folder.path.join("tombstones"), &tombstones)?;
        meta.ulid = self.ulid.clone();
        meta.version = 1;
        meta.stats = self.stats;
        meta.write(&self.folder.path)?;
        sync_folder(&self.folder.path.join("chunks"))?;
        sync_folder(&self.folder.path)?;
        std::fs::rename(&self.folder.path, self.parent.join(&self.ulid))?;
        self.folder.is_finished = true;
        sync_folder(&self.parent)?;
        Ok(meta)
    }
}

fn put_frame_head(encoding: u8, length: usize, out: &mut Vec<u8>) {
    put_uvarint(length as u64, out);
    out.push(encoding);
}

fn frame_sum(encoding: u8, bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(&[encoding]), bytes).to_be_bytes()
}

/// Writes a chunk as it stands in a chunk file: length, encoding, bytes, checksum.
pub fn put_chunk_frame(encoding: u8, bytes: &[u8], out: &mut Vec<u8>) {
    put_frame_head(encoding, bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(&frame_sum(encoding, bytes));
}

/// Reads what [`put_chunk_frame`] writes, to the end of the bytes; gives encoding and chunk.
pub fn read_chunk_frame(bytes: &[u8]) -> Result<(u8, &[u8]), &'static str> {
    let mut cursor = ByteCursor::new(bytes);
    let length = cursor.uvarint()?;
    let rest = cursor.rest();
    let is_whole = rest.len() >= 5 && rest.len() as u64 - 5 == length;
    let (data, sum) = is_whole.then(|| rest.split_at(rest.len() - 4)).ok_or(UNEXPECTED_END)?;
    if crc32c::crc32c(data).to_be_bytes() != *sum {
        return Err("the checksum of a chunk does not fit");
    }
    Ok((data[0], &data[1..]))
}

impl Postings {
    fn push(&mut self, id: u32) {
        put_uvarint(u64::from(id - self.last), &mut self.bytes);
        self.last = id;
        self.count += 1;
    }

    fn each(&self, mut id: impl FnMut(u32) -> io::Result<()>) -> io::Result<()> {
        let (mut last, mut step, mut shift) = (0, 0u32, 0);
        for byte in &self.bytes {
            step |= u32::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                last += step;
                id(last)?;
                (step, shift) = (0, 0);
            }
        }
        Ok(())
    }
}

/// Removes what an interrupted run left behind.
pub fn remove_leftovers(parent: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(UNFINISHED) || name.ends_with(DELETED) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Removes a block so that no half of it is ever seen. One that is gone already is no error.
pub fn remove(folder: &Path) -> io::Result<()> {
    let mut doomed = folder.as_os_str().to_owned();
    doomed.push(DELETED);
    match std::fs::rename(folder, &doomed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed.and_then(|()| std::fs::remove_dir_all(&doomed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_chunks_come_back_and_damage_is_an_error() {
        for bytes in [&b""[..], b"\x00\x01chunk", &[7; 300]] {
            let mut frame = Vec::new();
            put_chunk_frame(1, bytes, &mut frame);
            assert_eq!(read_chunk_frame(&frame), Ok((1, bytes)));
            for at in 0..frame.len() {
                let mut damaged = frame.clone();
                damaged[at] ^= 1 << (at % 8);
                assert!(read_chunk_frame(&damaged).is_err(), "byte {at} of {}", frame.len());
                assert!(read_chunk_frame(&frame[..at]).is_err(), "cut at {at}");
            }
            frame.push(0);
            assert!(read_chunk_frame(&frame).is_err(), "something behind it");
        }
    }
}
