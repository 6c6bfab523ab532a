//! A chunk file that is read: its index, and the chunks behind it.

use super::index::{ChunkIndexEntry, Index, SelectedSlot, SelectedTarget, TimeBounds};
use crate::bytes::{Reader, unzigzag};
use crate::encoded::{TIMES_OF_ITS_OWN, TIMES_OF_SEGMENT};
use crate::group::SlotGroup;
use crate::histograms;
use crate::log::TargetKey;
use crate::log::frame::{FRAME_HEAD_BYTES, FileId, frame_head, search_bytes, verify_frame};
use crate::log::record::{self, ChunksHead, Record};
use crate::log::writer::{HEADER, HEADER_V1};
use crate::series_part::SeriesPart;
use ahash::AHashMap;
use blocks::xor;
use blocks::{CHUNK_FILE_HEADER, Chunk, ChunkError, ChunkRef, LinkedFile};
use series::{Labels, Matcher};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// A definition that is read back is at most this long.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;
/// Bytes that are looked through for the frame after a damage.
const SEARCH_BYTES_MAX: u64 = 64 << 20;
/// Slots from which on a segment's table is read in one piece.
const TABLE_AT_ONCE: usize = 8;
/// Bytes between the chunks of two slots that are rather read than left out: copying them takes as long as one more call.
const GAP_BYTES_MAX: u64 = 4 << 10;
/// Bytes of chunks that are read at once.
const SPAN_BYTES_MAX: u64 = 256 << 10;

/// Payload of the first frame of a file whose chunks of floats lie in it as in those of a block.
pub(super) const HEADER_V2: &[u8] = b"ringscrape chunks 2";
/// Chunks of fewer samples than this on average are rather put together than taken over.
const SAMPLES_LONG: u64 = 60;

/// One file of chunks.
pub struct ChunkFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Whether chunks of floats lie in it as in those of a block.
    pub(super) is_framed: bool,
    pub(super) index: RwLock<Index>,
    pub(super) bounds: TimeBounds,
}

/// What was found wrong while opening or reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    pub file: PathBuf,
    pub offset: u64,
    pub reason: String,
}

impl std::fmt::Display for Corruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.reason)
    }
}

impl ChunkFile {
    /// Reads a file's frames, without the chunks behind them.
    pub(super) fn open(path: PathBuf, id: FileId, corruptions: &mut Vec<Corruption>) -> io::Result<ChunkFile> {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        let mut index = Index::default();
        let mut numbers: (AHashMap<u32, u32>, AHashMap<u32, u32>) = Default::default();
        let mut corruption =
            |offset, reason: String| corruptions.push(Corruption { file: path.clone(), offset, reason });
        let mut begin = [0; CHUNK_FILE_HEADER.len()];
        let has_header = file.read_exact_at(&mut begin, 0).is_ok() && begin == CHUNK_FILE_HEADER;
        let mut at = if has_header { CHUNK_FILE_HEADER.len() as u64 } else { 0 };
        let mut is_framed = true;
        while at < length {
            match read_frame(&file, id, at, length) {
                Some((kind, payload)) => {
                    let behind = at + (FRAME_HEAD_BYTES + payload.len()) as u64;
                    let taken = match kind {
                        HEADER if payload == HEADER_V1 => {
                            is_framed = false;
                            Ok(0)
                        }
                        HEADER if payload == HEADER_V2 => Ok(0),
                        HEADER => Err("chunks of a newer version"),
                        kind => record::read(kind, &payload)
                            .and_then(|record| take(record, behind, length, &mut index, &mut numbers)),
                    };
                    at = behind + taken.unwrap_or(0);
                    if let Err(reason) = taken {
                        corruption(behind, reason.to_owned());
                    }
                }
                None => {
                    let window = (length - at).min(SEARCH_BYTES_MAX) as usize;
                    let mut bytes = vec![0; window];
                    file.read_exact_at(&mut bytes, at)?;
                    match search_bytes(id, at, &bytes) {
                        Some(next) => {
                            corruption(at, format!("{} bytes are damaged", next - at));
                            at = next;
                        }
                        None => {
                            corruption(at, format!("the last {} bytes are torn or damaged", length - at));
                            break;
                        }
                    }
                }
            }
        }
        let bounds = TimeBounds::of(&index.entries);
        Ok(ChunkFile { path, file, is_framed, index: RwLock::new(index), bounds })
    }

    /// Why an entry cannot be read in full.
    fn verify_entry(&self, entry: &ChunkIndexEntry) -> Option<String> {
        let mut table = vec![0; entry.slots as usize * 4 + 4];
        if let Err(error) = self.file.read_exact_at(&mut table, entry.offset) {
            return Some(error.to_string());
        }
        let (ends, sum) = table.split_at(table.len() - 4);
        if crc32c::crc32c(ends).to_le_bytes() != *sum {
            return Some("the checksum of a table does not fit".into());
        }
        let slots: Vec<u32> = (0..entry.slots).collect();
        self.read_slots(entry, &slots, |_, _, _| Ok(())).into_iter().next()
    }

    /// Forgets entries of a target's segment that cannot be read in full; gives how many can be, and how many cannot.
    pub(super) fn forget_unreadable(&self, target: u64, first_row: i64) -> (usize, usize) {
        let of_segment: Vec<ChunkIndexEntry> = {
            let index = self.index.read().expect("no panic while held");
            let is_it = |entry: &&ChunkIndexEntry| {
                entry.first_row == first_row && index.targets[entry.target as usize].id == target
            };
            index.entries.iter().filter(is_it).cloned().collect()
        };
        let (of_segment_count, mut forgotten) = (of_segment.len(), 0);
        for entry in of_segment {
            if let Some(reason) = self.verify_entry(&entry) {
                let file = self.path.display();
                tracing::error!(%file, offset = entry.offset, reason, "chunks that cannot be read are taken from the log");
                let mut index = self.index.write().expect("no panic while held");
                index.forget_entry(entry.offset);
                forgotten += 1;
            }
        }
        (of_segment_count - forgotten, forgotten)
    }

    /// False when the taker wants no more.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a select, handed on")]
    pub(super) fn select(
        &self,
        selectors: &[Vec<Matcher>],
        from: i64,
        to: i64,
        skip: &impl Fn(u64) -> bool,
        stop: &AtomicBool,
        corruptions: &AtomicU64,
        found: &mut impl FnMut(SeriesPart) -> bool,
    ) -> bool {
        if self.bounds.get().is_none_or(|(first, last)| first > to || last < from) {
            return true;
        }
        // The lock is not held while chunks are read.
        let selected = self.index.read().expect("no panic while held").select(selectors, (from, to), skip, stop);
        for SelectedTarget { labels, entries } in &selected.targets {
            // By address: the entries keep the groups alive.
            let mut pieces: AHashMap<(usize, u32), SeriesPart> = AHashMap::new();
            for of_segment in entries {
                if stop.load(Ordering::Relaxed) {
                    return false;
                }
                let slots = selected.slots_of(of_segment);
                let numbers: Vec<u32> = slots.iter().map(|slot| slot.in_entry).collect();
                let damaged = self.read_slots(&of_segment.entry, &numbers, |at, chunk, _| {
                    if chunk.min > to || chunk.max < from {
                        return Ok(());
                    }
                    let SelectedSlot { group, slot, .. } = slots[at];
                    let group = &of_segment.groups[group as usize];
                    let piece = pieces
                        .entry((Arc::as_ptr(group).addr(), slot))
                        .or_insert_with(|| SeriesPart::new(group.series_labels(slot as usize, labels)));
                    piece.add_chunk(chunk, (from, to))
                });
                corruptions.fetch_add(damaged.len() as u64, Ordering::Relaxed);
            }
            if !pieces.into_values().all(|piece| piece.is_empty() || found(piece)) {
                return false;
            }
        }
        true
    }

    /// Gives `take` the chunks of slots of an entry, one of floats at most or any number of histograms, with the place
    /// of the slot among `slots`, which ascend, and where in the file the chunk's length begins. What lies close together is read together. Gives why slots, or all of
    /// them, were not read.
    fn read_slots(
        &self,
        entry: &ChunkIndexEntry,
        slots: &[u32],
        mut take: impl FnMut(usize, ChunkRef, u64) -> Result<(), ChunkError>,
    ) -> Vec<String> {
        let spans = match self.spans(entry, slots) {
            Ok(spans) => spans,
            Err(reason) => return vec![reason],
        };
        let mut failed = Vec::new();
        let mut rest = &spans[..];
        // Of a span that could not be read, every slot alone.
        let mut alone = 0usize;
        let mut bytes = Vec::new();
        while let Some(first) = rest.first() {
            let near = |pair: &[ByteSpan]| {
                pair[1].start - pair[0].end <= GAP_BYTES_MAX && pair[1].end - first.start <= SPAN_BYTES_MAX
            };
            let count = if alone > 0 { 1 } else { 1 + rest.windows(2).take_while(|pair| near(pair)).count() };
            alone = alone.saturating_sub(1);
            let (span, behind) = rest.split_at(count);
            bytes.resize((span[count - 1].end - first.start) as usize, 0);
            if let Err(error) = self.file.read_exact_at(&mut bytes, entry.offset + first.start) {
                if count > 1 {
                    alone = count;
                } else {
                    failed.push(error.to_string());
                    rest = behind;
                }
                continue;
            }
            rest = behind;
            for place in span {
                let of_slot = &bytes[(place.start - first.start) as usize..(place.end - first.start) as usize];
                let begins = entry.offset + place.start;
                let take = |chunk: ChunkRef, frame| take(place.at, chunk, begins + frame);
                if let Err(reason) = self.read_entry(of_slot, entry, take) {
                    failed.push(reason);
                }
            }
        }
        failed
    }

    /// Reads what an entry has of a slot; `take` gets each chunk, and where in `bytes` its length begins.
    fn read_entry(
        &self,
        bytes: &[u8],
        entry: &ChunkIndexEntry,
        mut take: impl FnMut(ChunkRef, u64) -> Result<(), ChunkError>,
    ) -> Result<(), String> {
        let mut take = |chunk: ChunkRef, frame| take(chunk, frame).map_err(|error| error.to_string());
        if self.is_framed && !entry.histograms {
            let (min, max, frame) = read_times(bytes, entry)?;
            let (encoding, bytes_of_chunk) = blocks::read_chunk_frame(frame)?;
            let begin = (bytes.len() - frame.len()) as u64;
            return take(ChunkRef { min, max, encoding, bytes: bytes_of_chunk }, begin);
        }
        let (sum, rest) = bytes.split_first_chunk::<4>().ok_or("an entry ends early")?;
        if crc32c::crc32c(rest) != u32::from_le_bytes(*sum) {
            return Err("the checksum of a chunk does not fit".into());
        }
        if entry.histograms {
            return histograms::read_entry(rest, entry.first)?.into_iter().try_for_each(|chunk| take(chunk, 0));
        }
        let mut reader = Reader::new(rest);
        let (min, max) = read_distances(&mut reader, entry)?;
        take(ChunkRef { min, max, encoding: xor::XOR, bytes: reader.rest() }, 0)
    }

    /// Where the bytes of slots lie in an entry, of those that have any.
    fn spans(&self, entry: &ChunkIndexEntry, slots: &[u32]) -> Result<Vec<ByteSpan>, String> {
        let table_bytes = u64::from(entry.slots) * 4 + 4;
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let mut table = Vec::new();
        if slots.len() >= TABLE_AT_ONCE {
            table.resize(table_bytes as usize, 0);
            self.file.read_exact_at(&mut table, entry.offset).map_err(|error| error.to_string())?;
            let (ends, sum) = table.split_at(table_bytes as usize - 4);
            if crc32c::crc32c(ends) != word(sum) {
                return Err("the checksum of a table does not fit".into());
            }
        }
        let mut spans = Vec::with_capacity(slots.len());
        for (at, slot) in slots.iter().enumerate() {
            // The end of the slot before, and its own.
            let from = u64::from(*slot).saturating_sub(1) * 4;
            let length = if *slot == 0 { 4 } else { 8 };
            let mut ends = [0; 8];
            if table.is_empty() {
                let read = self.file.read_exact_at(&mut ends[8 - length..], entry.offset + from);
                read.map_err(|error| error.to_string())?;
            } else {
                ends[8 - length..].copy_from_slice(&table[from as usize..][..length]);
            }
            let (start, end) = (u64::from(word(&ends[..4])), u64::from(word(&ends[4..])));
            if table_bytes + end > entry.bytes {
                return Err("a table reaches behind its chunks".into());
            }
            if start > end || spans.last().is_some_and(|last: &ByteSpan| last.end > table_bytes + start) {
                return Err("a table is not ascending".into());
            }
            if start < end {
                spans.push(ByteSpan { at, start: table_bytes + start, end: table_bytes + end });
            }
        }
        Ok(spans)
    }

    /// What a block is made of: targets, groups, and for each target and group the spans of its chunks.
    pub(crate) fn contents(&self) -> Contents {
        let index = self.index.read().expect("no panic while held");
        let mut spans = Vec::new();
        for (number, entry) in index.entries.iter().enumerate() {
            let mut base = 0;
            for group in &entry.groups {
                spans.push((entry.target, *group, number as u32, base));
                base += index.groups[*group as usize].len() as u32;
            }
        }
        Contents {
            targets: index.targets.iter().map(|key| key.labels.clone()).collect(),
            groups: index.groups.clone(),
            spans,
        }
    }

    /// Whether a block of `range` may take the file over: most of it are chunks that stay as they are, and nothing lies
    /// outside of the range.
    pub(crate) fn may_be_taken_over(&self, range: (i64, i64)) -> bool {
        let index = self.index.read().expect("no panic while held");
        let sum = |of: fn(&ChunkIndexEntry) -> u64| index.entries.iter().map(of).sum::<u64>();
        let (slots, samples) = (sum(|entry| u64::from(entry.slots)), sum(|entry| entry.samples));
        let of_histograms = sum(|entry| if entry.histograms { entry.bytes } else { 0 });
        let are_few = index.entries.len() <= 2 * index.targets.len();
        let is_within = |entry: &ChunkIndexEntry| entry.first >= range.0 && entry.last < range.1;
        self.is_framed
            && (are_few || samples >= SAMPLES_LONG * slots)
            && of_histograms <= sum(|entry| entry.bytes) / 10
            && index.entries.iter().all(is_within)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The chunks of a slot of an entry; with the places that they have in a block that has taken the file over.
    pub(crate) fn chunks(&self, entry: u32, slot: u32, linked: Option<LinkedFile>) -> Result<Vec<Chunk>, Corruption> {
        let entry = self.index.read().expect("no panic while held").entries[entry as usize].clone();
        let mut chunks = Vec::new();
        // Histograms have no frames.
        let linked = linked.filter(|_| self.is_framed && !entry.histograms);
        let failed = self.read_slots(&entry, &[slot], |_, chunk, frame| {
            let place = linked.and_then(|file| file.place(frame));
            chunks.push(Chunk { place, ..chunk.to_owned() });
            Ok(())
        });
        match failed.into_iter().next() {
            Some(reason) => Err(Corruption { file: self.path.clone(), offset: entry.offset, reason }),
            None => Ok(chunks),
        }
    }
}

/// Of one file, for a block.
pub(crate) struct Contents {
    pub targets: Vec<Labels>,
    pub groups: Vec<Arc<SlotGroup>>,
    /// Target, group, entry, first slot of the group in the entry.
    pub spans: Vec<(u32, u32, u32, u32)>,
}

/// Where the chunks of a slot lie, from the beginning of the entry's table on.
struct ByteSpan {
    /// The slot's place among those that are wanted.
    at: usize,
    start: u64,
    end: u64,
}

/// The times of a slot's first and last sample, and what follows them.
fn read_times<'a>(bytes: &'a [u8], entry: &ChunkIndexEntry) -> Result<(i64, i64, &'a [u8]), &'static str> {
    match bytes.split_first() {
        Some((&TIMES_OF_SEGMENT, frame)) => Ok((entry.first, entry.last, frame)),
        Some((&TIMES_OF_ITS_OWN, rest)) => {
            let mut reader = Reader::new(rest);
            let (min, max) = read_distances(&mut reader, entry)?;
            let (sum, frame) = reader.rest().split_first_chunk::<4>().ok_or("an entry ends early")?;
            let distances = &rest[..rest.len() - reader.rest().len()];
            if crc32c::crc32c(distances) != u32::from_le_bytes(*sum) {
                return Err("the checksum of an entry's times does not fit");
            }
            Ok((min, max, frame))
        }
        _ => Err("an entry of an unknown kind"),
    }
}

fn read_distances(reader: &mut Reader, entry: &ChunkIndexEntry) -> Result<(i64, i64), &'static str> {
    let min = entry.first.wrapping_add(unzigzag(reader.varint()?));
    Ok((min, entry.last.wrapping_sub(unzigzag(reader.varint()?))))
}

fn read_frame(file: &File, id: FileId, at: u64, length: u64) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; FRAME_HEAD_BYTES];
    file.read_exact_at(&mut head, at).ok()?;
    let (kind, payload_bytes) = frame_head(&head)?;
    let fits = payload_bytes <= PAYLOAD_BYTES_MAX && at + (FRAME_HEAD_BYTES + payload_bytes) as u64 <= length;
    if !fits {
        return None;
    }
    let mut payload = vec![0; payload_bytes];
    file.read_exact_at(&mut payload, at + FRAME_HEAD_BYTES as u64).ok()?;
    verify_frame(id, at, &head, &payload).then_some((kind, payload))
}

/// Takes a record into the index; gives the bytes behind it that belong to it.
fn take(
    record: Record,
    behind: u64,
    length: u64,
    index: &mut Index,
    numbers: &mut (AHashMap<u32, u32>, AHashMap<u32, u32>),
) -> Result<u64, &'static str> {
    match record {
        Record::Target { target, id, labels } => {
            numbers.0.insert(target, index.targets.len() as u32);
            index.add_target(TargetKey { id, labels });
            Ok(0)
        }
        Record::Group { group, slots } => {
            numbers.1.insert(group, index.groups.len() as u32);
            index.groups.push(Arc::new(slots));
            Ok(0)
        }
        Record::Chunks(head) => {
            if behind.checked_add(head.bytes).is_none_or(|end| end > length) {
                return Err("chunks are torn off");
            }
            let target = *numbers.0.get(&head.target).ok_or("chunks of an unknown target")?;
            let groups = head.groups.iter().map(|group| numbers.1.get(group).copied()).collect::<Option<Box<[u32]>>>();
            let groups = groups.ok_or("chunks of an unknown group")?;
            let slots: usize = groups.iter().map(|group| index.groups[*group as usize].len()).sum();
            if head.bytes < slots as u64 * 4 + 4 {
                return Err("a table that does not fit its groups");
            }
            index.samples += head.samples;
            let ChunksHead { histograms, first, last, first_row, bytes, samples, .. } = head;
            let (offset, slots) = (behind, slots as u32);
            index.add_entry(ChunkIndexEntry {
                target,
                groups,
                offset,
                slots,
                bytes,
                samples,
                histograms,
                first,
                last,
                first_row,
            });
            Ok(bytes)
        }
        _ => Err("a record of another kind of file"),
    }
}
