//! Reads a block, ours or Prometheus': postings, series, chunks.
//!
//! Invariants:
//!   * every checksum is looked at; damaged bytes are an error that names file and offset
//!   * lengths and counts are believed only as far as the file is long
//!   * an open block holds less than a megabyte: its tables stay in the files (`index`), what a query reads in its reader

use crate::block_file::{BlockFile, SectionReader, Window};
use crate::chunk::Chunk;
use crate::chunk::LinkedFile;
use crate::codec::{ByteCursor, CursorExt};
use crate::error::{BlockError, ChunkError, Fault};
use crate::index::{Contents, PostingsTable, SymbolCache, SymbolTable};
use crate::tombstones::Tombstones;
use crate::{CHUNKS_MAGIC, CHUNKS_VERSION, Meta};
use series::{Labels, MatchOp, Matcher, Value};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, RwLock};

/// Bytes of a series entry, and of a chunk, that are read before its length is known.
const ENTRY_BYTES: usize = 512;
/// Longest series entry: a chunk is three bytes at least.
const ENTRY_BYTES_MAX: usize = 64 << 20;
/// Longest chunk that is read.
const CHUNK_BYTES_MAX: usize = 64 << 20;
/// Faults of a block that are remembered; the others are counted.
const FAULTS_MAX: usize = 16;

/// Faults that were met while reading a block.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The first ones.
    pub first: Vec<BlockError>,
    pub count: u64,
}

#[derive(Debug)]
struct Tables {
    symbols: SymbolTable,
    postings: PostingsTable,
}

/// An open block.
pub struct Block {
    folder: PathBuf,
    meta: Meta,
    index: BlockFile,
    contents: Contents,
    /// By number less one; a file that cannot be used is the error that says why.
    chunks: Vec<Result<BlockFile, BlockError>>,
    /// Read at first use.
    tables: OnceLock<Result<Tables, BlockError>>,
    tombstones: RwLock<Tombstones>,
    faults: Mutex<Faults>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A series of a block, with its chunks that overlap the range that was asked for.
#[derive(Clone, Debug)]
pub struct SeriesEntry {
    pub id: u32,
    pub labels: Labels,
    chunks: Vec<ChunkSpan>,
}

/// First and last time of a chunk, and where it is: number of the file less one, and offset in it.
#[derive(Clone, Copy, Debug)]
struct ChunkSpan {
    min: i64,
    max: i64,
    reference: u64,
}

impl Block {
    /// Opens a block's folder. Only `meta.json` and the ends of the other files are read; the tables of the index are at
    /// first use. The block is known by the name of its folder, whatever ULID its `meta.json` has.
    ///
    /// # Errors
    /// If `meta.json` or the index cannot be used. Of chunk files and tombstones that cannot be used the rest is served;
    /// [`Block::faults`] has the errors.
    pub fn open(folder: &Path) -> Result<Block, BlockError> {
        let mut meta = Meta::read(folder)?;
        let mut faults = Faults::default();
        let mut add = |error| {
            faults.count += 1;
            faults.first.push(error);
        };
        if let Some(name) = folder.file_name().map(|name| name.to_string_lossy())
            && name != *meta.ulid
        {
            let reason = format!("its ULID is {:?}, that of the folder {name:?}", meta.ulid);
            add(BlockError::new(&folder.join("meta.json"), 0, reason));
            meta.ulid = name.into_owned();
        }
        if meta.min_time > meta.max_time {
            let reason = format!("minTime {} is after maxTime {}", meta.min_time, meta.max_time);
            return Err(BlockError::new(&folder.join("meta.json"), 0, reason));
        }
        let index = BlockFile::open(folder.join("index"))?;
        let contents = Contents::read(&index)?;
        let chunks = open_chunk_files(folder);
        chunks.iter().filter_map(|file| file.as_ref().err()).for_each(|error| add(error.clone()));
        let tombstones = Tombstones::read(folder).unwrap_or_else(|error| {
            add(error);
            Tombstones::default()
        });
        Ok(Block {
            folder: folder.to_owned(),
            meta,
            index,
            contents,
            chunks,
            tables: OnceLock::new(),
            tombstones: RwLock::new(tombstones),
            faults: Mutex::new(faults),
        })
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its chunk files, in the order of their numbers. None of those behind one that cannot be used.
    pub fn chunk_paths(&self) -> Vec<&Path> {
        self.chunks.iter().map_while(|file| Some(file.as_ref().ok()?.path.as_path())).collect()
    }

    /// Bytes of the block's files.
    pub fn bytes(&self) -> u64 {
        self.index.length + self.chunks.iter().flatten().map(|file| file.length).sum::<u64>()
    }

    /// Bytes of memory that the open block holds, its tombstones aside.
    pub fn heap_bytes(&self) -> usize {
        let tables = self.tables.get().and_then(|tables| tables.as_ref().ok());
        let tables = tables.map_or(0, |tables| tables.symbols.heap_bytes() + tables.postings.heap_bytes());
        size_of::<Block>() + self.chunks.len() * size_of::<Result<BlockFile, BlockError>>() + tables
    }

    /// How many ranges are deleted.
    pub fn tombstones(&self) -> u64 {
        self.tombstones.read().expect("no panic while held").count()
    }

    /// Faults that were met so far.
    pub fn faults(&self) -> Faults {
        self.faults.lock().expect("no panic while held").clone()
    }

    /// Remembers that a part of the block cannot be used.
    pub fn add_fault(&self, error: &BlockError) {
        let mut faults = self.faults.lock().expect("no panic while held");
        // A query that is repeated meets the same fault.
        if faults.first.contains(error) {
            return;
        }
        faults.count += 1;
        if faults.first.len() < FAULTS_MAX {
            faults.first.push(error.clone());
        }
    }

    /// Marks the block in its `meta.json`, so that no compaction takes it, now or after a restart.
    pub fn mark_failed(&self) -> std::io::Result<()> {
        let mut meta = Meta::read(&self.folder).map_err(std::io::Error::other)?;
        meta.compaction.failed = true;
        meta.replace(&self.folder)
    }

    /// Reads the tables of the index, if that was not done yet.
    ///
    /// # Errors
    /// If one of them is damaged; it is not read again.
    pub fn load_tables(&self) -> Result<(), BlockError> {
        self.tables().map(drop)
    }

    fn tables(&self) -> Result<&Tables, BlockError> {
        let tables = self.tables.get_or_init(|| {
            let symbols = SymbolTable::read(&self.index, self.contents.symbols);
            let tables = symbols.and_then(|symbols| {
                let postings = PostingsTable::read(&self.index, self.contents.postings_offsets)?;
                Ok(Tables { symbols, postings })
            });
            tables.inspect_err(|error| self.add_fault(error))
        });
        tables.as_ref().map_err(Clone::clone)
    }

    /// A reader with buffers of its own, for one query.
    pub fn reader(&self) -> BlockReader<'_> {
        BlockReader {
            block: self,
            entries: Window::default(),
            symbols: SymbolCache::default(),
            chunks: Window::default(),
            chunk_file: u64::MAX,
            numbers: Vec::new(),
        }
    }

    /// Calls `visit` with every symbol.
    pub(crate) fn each_symbol(&self, visit: impl FnMut(&str) -> bool) -> Result<(), BlockError> {
        self.tables()?.symbols.each(&self.index, visit)
    }

    // --- postings -------------------------------------------------------------------------------------------------

    /// Reads postings front to back; `visit` gets ascending ids.
    fn each_posting(&self, offset: u64, mut visit: impl FnMut(u32)) -> Result<(), BlockError> {
        let mut section = self.index.section(offset)?;
        let count = section.parse(|cursor| cursor.u32_be())?;
        if section.rest() != u64::from(count) * 4 {
            return Err(self.index.bad(offset, format!("{count} postings in {} bytes", section.rest())));
        }
        let mut last = None;
        while !section.is_at_end() {
            let piece = section.piece()?;
            let whole = piece.len() / 4 * 4;
            let mut is_sorted = true;
            for id in piece[..whole].chunks_exact(4) {
                let id = u32::from_be_bytes(id.try_into().expect("four bytes"));
                is_sorted &= last < Some(id);
                last = Some(id);
                visit(id);
            }
            if !is_sorted {
                return Err(self.index.bad(offset, "postings are not sorted"));
            }
            if whole > 0 {
                section.consume(whole);
            } else {
                // The piece ends within an id.
                section
                    .parse(|cursor| cursor.take(4).map(|id| visit(u32::from_be_bytes(id.try_into().expect("four")))))?;
            }
        }
        section.finish()
    }

    /// All series, in the order of the index.
    pub(crate) fn all_ids(&self) -> Result<IdReader<'_>, BlockError> {
        let offset = self.all_postings()?;
        let mut section = self.index.section(offset)?;
        section.parse(|cursor| cursor.u32_be())?;
        if !section.rest().is_multiple_of(4) {
            return Err(self.index.bad(offset, format!("postings of {} bytes", section.rest())));
        }
        Ok(IdReader(Some(section)))
    }

    fn all_postings(&self) -> Result<u64, BlockError> {
        let found = self.tables()?.postings.find(&self.index, "", "")?;
        found.ok_or_else(|| self.index.bad(self.contents.postings_offsets, "the postings of all series are missing"))
    }

    fn posting_count(&self, offset: u64) -> Result<u32, BlockError> {
        Ok(u32::from_be_bytes(self.index.read(offset.saturating_add(4))?))
    }

    /// Ids that are in one of the postings, sorted.
    fn union(&self, offsets: &[u64]) -> Result<Vec<u32>, BlockError> {
        let mut ids = Vec::new();
        for offset in offsets {
            self.each_posting(*offset, |id| ids.push(id))?;
        }
        if offsets.len() > 1 {
            // Many runs, each sorted.
            ids.sort();
            ids.dedup();
        }
        Ok(ids)
    }

    /// Keeps of `ids` those that are in the postings, or those that are not.
    fn filter(&self, ids: &mut Vec<u32>, offsets: &[u64], keep_found: bool) -> Result<(), BlockError> {
        if let [offset] = offsets {
            let (mut at, mut kept) = (0, 0);
            self.each_posting(*offset, |posting| {
                while at < ids.len() && ids[at] <= posting {
                    if (ids[at] == posting) == keep_found {
                        ids[kept] = ids[at];
                        kept += 1;
                    }
                    at += 1;
                }
            })?;
            if !keep_found {
                let rest = ids.len() - at;
                ids.copy_within(at.., kept);
                kept += rest;
            }
            ids.truncate(kept);
            return Ok(());
        }
        let other = self.union(offsets)?;
        ids.retain(|id| other.binary_search(id).is_ok() == keep_found);
        Ok(())
    }

    /// Where the postings are of the values of the matcher's label for which `wanted` holds.
    fn offsets(&self, matcher: &Matcher, wanted: impl Fn(&str) -> bool) -> Result<Vec<u64>, BlockError> {
        let postings = &self.tables()?.postings;
        let mut offsets = Vec::new();
        let regex = matcher.regex();
        let literals: Option<Vec<&str>> = match matcher.op() {
            MatchOp::Equal | MatchOp::NotEqual => Some(vec![matcher.value()]),
            MatchOp::Regex | MatchOp::NotRegex => regex
                .and_then(|regex| regex.literal_alternatives())
                .map(|all| all.iter().map(|value| &**value).collect()),
        };
        let is_one_of_them = literals.as_ref().and_then(|values| values.first()).is_some_and(|value| wanted(value));
        if let Some(values) = literals.filter(|_| is_one_of_them) {
            for value in values {
                offsets.extend(postings.find(&self.index, matcher.name(), value)?);
            }
            // Alternatives may be named twice.
            offsets.sort_unstable();
            offsets.dedup();
            return Ok(offsets);
        }
        let prefix = regex.map_or("", |regex| regex.prefix());
        let is_included = !prefix.is_empty() && !wanted("");
        let from = if is_included && matcher.op() == MatchOp::Regex { prefix } else { "" };
        postings.values(&self.index, matcher.name(), from, |value, offset| {
            if wanted(value) {
                offsets.push(offset);
            }
            value.starts_with(from)
        })?;
        Ok(offsets)
    }

    /// Ids of the series that satisfy all matchers, in label order.
    pub fn ids(&self, matchers: &[Matcher]) -> Result<Vec<u32>, BlockError> {
        // A matcher that takes the missing label excludes; the others include.
        let mut included: Vec<(u64, Vec<u64>)> = Vec::new();
        for matcher in matchers.iter().filter(|matcher| !matcher.matches("")) {
            let offsets = self.offsets(matcher, |value| matcher.matches(value))?;
            if offsets.is_empty() {
                return Ok(Vec::new());
            }
            let counts = offsets.iter().map(|offset| self.posting_count(*offset).map(u64::from));
            included.push((counts.sum::<Result<u64, BlockError>>()?, offsets));
        }
        included.sort_by_key(|(count, _)| *count);
        let mut included = included.into_iter();
        let mut ids = match included.next() {
            Some((_, offsets)) => self.union(&offsets)?,
            None => self.union(&[self.all_postings()?])?,
        };
        for (_, offsets) in included {
            self.filter(&mut ids, &offsets, true)?;
        }
        for matcher in matchers.iter().filter(|matcher| matcher.matches("")) {
            if ids.is_empty() {
                break;
            }
            let offsets = self.offsets(matcher, |value| !matcher.matches(value))?;
            if !offsets.is_empty() {
                self.filter(&mut ids, &offsets, false)?;
            }
        }
        Ok(ids)
    }

    /// Ids of all series, found without postings, and what is where an entry cannot be read; until `visit` says that it has
    /// seen enough.
    pub(crate) fn scan_ids(&self, mut visit: impl FnMut(Result<u32, BlockError>) -> bool) {
        let end = self.contents.series_end(&self.index);
        let mut reader = self.reader();
        let mut at = self.contents.series.next_multiple_of(16);
        while at < end {
            let Ok(id) = u32::try_from(at / 16) else { return };
            match reader.entry_bytes(id).map(|(whole, _)| whole) {
                // Padding.
                Ok(whole) if whole == EMPTY_ENTRY_BYTES => at += 16,
                Ok(whole) => {
                    if !visit(Ok(id)) {
                        return;
                    }
                    at = (at + whole as u64).next_multiple_of(16);
                }
                Err(error) => {
                    if error.is_io() || !visit(Err(error)) {
                        return;
                    }
                    at += 16;
                }
            }
        }
    }

    // --- labels ---------------------------------------------------------------------------------------------------

    /// Names of labels of the series that satisfy all matchers, sorted; of all series if there are none.
    pub fn label_names(&self, matchers: &[Matcher]) -> Result<Vec<String>, BlockError> {
        if matchers.is_empty() {
            return Ok(self.tables()?.postings.names().map(str::to_owned).collect());
        }
        let mut reader = self.reader();
        let mut numbers = ahash::AHashSet::new();
        for id in self.ids(matchers)? {
            match reader.label_numbers(id) {
                Ok(pairs) => numbers.extend(pairs.iter().map(|(name, _)| *name)),
                Err(error) => self.add_fault(&error),
            }
        }
        reader.texts(numbers)
    }

    /// Calls `visit` with the values that a label has in series that satisfy all matchers, sorted, until it says that it has
    /// seen enough. Series are not read if there are no matchers, or fewer values than series that satisfy them.
    pub fn label_values(
        &self,
        name: &str,
        matchers: &[Matcher],
        mut visit: impl FnMut(&str) -> bool,
    ) -> Result<(), BlockError> {
        let postings = &self.tables()?.postings;
        if name.is_empty() {
            return Ok(());
        }
        if matchers.is_empty() {
            return postings.values(&self.index, name, "", |value, _| visit(value));
        }
        let ids = self.ids(matchers)?;
        if ids.len() <= postings.value_count(name) as usize {
            let mut reader = self.reader();
            let mut numbers = ahash::AHashSet::new();
            for id in ids {
                match reader.label_value_number(id, name) {
                    Ok(value) => numbers.extend(value),
                    Err(error) => self.add_fault(&error),
                }
            }
            reader.texts(numbers)?.iter().all(|value| visit(value));
            return Ok(());
        }
        let mut failed = None;
        postings.values(&self.index, name, "", |value, offset| {
            let mut at = 0;
            let mut is_found = false;
            let read = self.each_posting(offset, |posting| {
                while !is_found && at < ids.len() && ids[at] < posting {
                    at += 1;
                }
                is_found |= ids.get(at) == Some(&posting);
            });
            if let Err(error) = read {
                failed = Some(error);
                return false;
            }
            !is_found || visit(value)
        })?;
        failed.map_or(Ok(()), Err)
    }

    // --- series and samples ---------------------------------------------------------------------------------------

    /// Calls `found` for each series that satisfies one of the selectors and has a chunk in `[from, to]`, in label order,
    /// until it says that it has seen enough. What cannot be read is remembered as a fault and passed over: if the postings
    /// cannot be used, the series are looked through one by one.
    pub fn select(
        &self,
        selectors: &[Vec<Matcher>],
        from: i64,
        to: i64,
        mut found: impl FnMut(&mut BlockReader<'_>, SeriesEntry) -> bool,
    ) {
        let mut reader = self.reader();
        let ids = selectors.iter().map(|matchers| self.ids(matchers)).collect::<Result<Vec<_>, _>>();
        let mut one = |id: u32, is_wanted: &dyn Fn(&Labels) -> bool| match reader.series(id, from, to) {
            Ok(Some(entry)) if is_wanted(&entry.labels) => found(&mut reader, entry),
            Ok(_) => true,
            Err(error) => {
                self.add_fault(&error);
                true
            }
        };
        match ids {
            Ok(lists) => {
                let mut ids = lists.concat();
                if lists.len() > 1 {
                    ids.sort();
                    ids.dedup();
                }
                ids.into_iter().all(|id| one(id, &|_| true));
            }
            Err(error) => {
                self.add_fault(&error);
                let matches = |labels: &Labels| {
                    selectors.iter().any(|matchers| matchers.iter().all(|matcher| matcher.matches_labels(labels)))
                };
                self.scan_ids(|id| match id {
                    Ok(id) => one(id, &matches),
                    Err(error) => {
                        self.add_fault(&error);
                        true
                    }
                });
            }
        }
    }

    /// Labels and chunks of a series; None if it has no chunk in `[from, to]`.
    pub fn series(&self, id: u32, from: i64, to: i64) -> Result<Option<SeriesEntry>, BlockError> {
        self.reader().series(id, from, to)
    }

    /// The bytes of a series' chunks, in order of time.
    pub fn chunks(&self, entry: &SeriesEntry) -> Result<Vec<Chunk>, BlockError> {
        self.reader().chunks(entry)
    }

    /// Samples of a series in `[from, to]` that are not deleted, in order of time.
    pub fn samples(
        &self,
        entry: &SeriesEntry,
        from: i64,
        to: i64,
        sample: impl FnMut(i64, Value),
    ) -> Result<(), BlockError> {
        self.reader().samples(entry, from, to, sample)
    }

    /// Deleted ranges of a series.
    pub fn deleted(&self, id: u32) -> Vec<(i64, i64)> {
        self.tombstones.read().expect("no panic while held").0.get(&id).cloned().unwrap_or_default()
    }

    /// Hides samples in `[from, to]` of one series, for good.
    pub(crate) fn delete_series(&self, labels: &Labels, from: i64, to: i64) -> Result<(), BlockError> {
        let equal = |(name, value)| Matcher::new(name, MatchOp::Equal, value).expect("no expression");
        let matchers: Vec<Matcher> = labels.iter().map(equal).collect();
        let mut reader = self.reader();
        self.delete_ids(
            from,
            to,
            |id| Ok(reader.series(id, from, to)?.filter(|entry| entry.labels == *labels)),
            &matchers,
        )
    }

    /// Hides samples in `[from, to]` of matching series, for good.
    pub fn delete(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<(), BlockError> {
        let mut reader = self.reader();
        self.delete_ids(from, to, |id| reader.series(id, from, to), matchers)
    }

    fn delete_ids(
        &self,
        from: i64,
        to: i64,
        mut entry: impl FnMut(u32) -> Result<Option<SeriesEntry>, BlockError>,
        matchers: &[Matcher],
    ) -> Result<(), BlockError> {
        let mut tombstones = self.tombstones.write().expect("no panic while held");
        let mut changed = tombstones.clone();
        for id in self.ids(matchers)? {
            if let Some(entry) = entry(id)? {
                let first = entry.chunks.iter().map(|chunk| chunk.min).min().unwrap_or(from);
                let last = entry.chunks.iter().map(|chunk| chunk.max).max().unwrap_or(to);
                changed.add(id, from.max(first), to.min(last));
            }
        }
        changed.write(&self.folder).map_err(|error| BlockError::io(&self.folder.join("tombstones"), 0, &error))?;
        *tombstones = changed;
        Ok(())
    }
}

/// Reads the ids of all series without holding them.
pub(crate) struct IdReader<'a>(Option<SectionReader<'a>>);

impl IdReader<'_> {
    pub fn next(&mut self) -> Result<Option<u32>, BlockError> {
        let Some(section) = &mut self.0 else { return Ok(None) };
        if section.is_at_end() {
            return self.0.take().map_or(Ok(()), SectionReader::finish).map(|()| None);
        }
        section.parse(|cursor| cursor.u32_be()).map(Some)
    }
}

fn open_chunk_files(folder: &Path) -> Vec<Result<BlockFile, BlockError>> {
    let path = |number: usize| folder.join("chunks").join(format!("{number:06}"));
    let numbers = std::fs::read_dir(folder.join("chunks")).into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|file| file.file_name().to_str()?.parse::<usize>().ok());
    let last = numbers.filter(|number| path(*number).exists()).max().unwrap_or(0);
    let open = |number: usize| {
        let file = BlockFile::open(path(number))?;
        let head: [u8; 5] = file.read(0)?;
        let magic = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if magic != CHUNKS_MAGIC {
            return Err(file.fault(0, Fault::Magic { want: CHUNKS_MAGIC, got: magic }));
        }
        if head[4] != CHUNKS_VERSION {
            return Err(file.fault(4, Fault::Version { want: u32::from(CHUNKS_VERSION), got: u32::from(head[4]) }));
        }
        Ok(file)
    };
    (1..=last.min(FILES_MAX)).map(open).collect()
}

/// Most chunk files of a block: 32 TiB.
const FILES_MAX: usize = 65_536;
/// What [`BlockReader::entry_bytes`] gives for padding: a length of 0 and the checksum of nothing.
const EMPTY_ENTRY_BYTES: usize = 5;

/// Reads series and chunks of a block, with buffers that one query keeps.
pub struct BlockReader<'a> {
    block: &'a Block,
    entries: Window,
    symbols: SymbolCache,
    chunks: Window,
    /// Of which file `chunks` is.
    chunk_file: u64,
    /// Of the labels that were read last.
    numbers: Vec<(u64, u64)>,
}

impl BlockReader<'_> {
    /// Bytes of an entry with length and checksum, and the entry itself.
    fn entry_bytes(&mut self, id: u32) -> Result<(usize, &[u8]), BlockError> {
        let index = &self.block.index;
        let offset = u64::from(id) * 16;
        let mut wanted = ENTRY_BYTES;
        loop {
            let bytes = self.entries.get(index, offset, wanted)?;
            let mut cursor = ByteCursor::new(bytes);
            let length = cursor.uvarint().map_err(|reason| index.bad(offset, reason))?;
            let head = bytes.len() - cursor.rest().len();
            if length > ENTRY_BYTES_MAX as u64 {
                return Err(index.bad(offset, format!("a series entry of {length} bytes")));
            }
            let whole = head + length as usize + 4;
            if whole > bytes.len() {
                if wanted >= whole {
                    return Err(index.fault(offset, Fault::Short { want: whole as u64, got: bytes.len() as u64 }));
                }
                wanted = whole;
                continue;
            }
            // Borrowed anew: the loop holds the first borrow.
            let bytes = &self.entries.get(index, offset, wanted)?[..whole];
            let (entry, sum) = bytes[head..].split_at(length as usize);
            let (want, got) = (u32::from_be_bytes(sum.try_into().expect("four bytes")), crc32c::crc32c(entry));
            // Padding has no checksum.
            if want != got && length > 0 {
                return Err(index.fault(offset, Fault::Checksum { want, got }));
            }
            return Ok((whole, entry));
        }
    }

    /// Numbers of the symbols of a series' labels.
    fn label_numbers(&mut self, id: u32) -> Result<&[(u64, u64)], BlockError> {
        let mut numbers = std::mem::take(&mut self.numbers);
        numbers.clear();
        let bad = |reason| self.block.index.bad(u64::from(id) * 16, reason);
        let (_, entry) = self.entry_bytes(id)?;
        let mut cursor = ByteCursor::new(entry);
        let read = read_numbers(&mut cursor, &mut numbers);
        self.numbers = numbers;
        read.map_err(bad)?;
        Ok(&self.numbers)
    }

    fn label_value_number(&mut self, id: u32, name: &str) -> Result<Option<u64>, BlockError> {
        self.label_numbers(id)?;
        let tables = self.block.tables()?;
        self.symbols.shrink();
        for (label, value) in &self.numbers {
            self.symbols.load(&tables.symbols, &self.block.index, *label)?;
            if self.symbols.get(*label) == name {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }

    /// Texts of symbols, sorted.
    fn texts(&mut self, numbers: impl IntoIterator<Item = u64>) -> Result<Vec<String>, BlockError> {
        let tables = self.block.tables()?;
        let mut texts = Vec::new();
        for number in numbers {
            self.symbols.shrink();
            self.symbols.load(&tables.symbols, &self.block.index, number)?;
            texts.push(self.symbols.get(number).to_owned());
        }
        texts.sort_unstable();
        texts.dedup();
        Ok(texts)
    }

    /// Labels and chunks of a series; None if it has no chunk in `[from, to]`.
    pub fn series(&mut self, id: u32, from: i64, to: i64) -> Result<Option<SeriesEntry>, BlockError> {
        let mut numbers = std::mem::take(&mut self.numbers);
        numbers.clear();
        let block = self.block;
        let bad = |reason| block.index.bad(u64::from(id) * 16, reason);
        let (_, entry) = self.entry_bytes(id)?;
        let mut cursor = ByteCursor::new(entry);
        let read = read_numbers(&mut cursor, &mut numbers).and_then(|()| read_chunks(&mut cursor, from, to));
        self.numbers = numbers;
        let chunks = read.map_err(bad)?;
        if chunks.is_empty() {
            return Ok(None);
        }
        Ok(Some(SeriesEntry { id, labels: self.labels()?, chunks }))
    }

    /// The label set whose numbers were read last.
    fn labels(&mut self) -> Result<Labels, BlockError> {
        let tables = self.block.tables()?;
        self.symbols.shrink();
        for (name, value) in &self.numbers {
            self.symbols.load(&tables.symbols, &self.block.index, *name)?;
            self.symbols.load(&tables.symbols, &self.block.index, *value)?;
        }
        let pairs = self.numbers.iter().map(|(name, value)| (self.symbols.get(*name), self.symbols.get(*value)));
        let is_sorted = pairs.clone().is_sorted_by(|one, other| one.0 < other.0);
        // Prometheus writes them sorted; others may not.
        Ok(if is_sorted { Labels::from_sorted(pairs) } else { Labels::from_pairs(pairs) })
    }

    /// A chunk of a series.
    fn chunk(&mut self, span: ChunkSpan) -> Result<Chunk, BlockError> {
        let ChunkSpan { min, max, reference } = span;
        let (number, offset) = (reference >> 32, reference & 0xffff_ffff);
        let missing = || {
            let path = self.block.folder.join("chunks").join(format!("{:06}", number + 1));
            BlockError::new(&path, offset, "the file of a chunk is missing")
        };
        let file = usize::try_from(number).ok().and_then(|number| self.block.chunks.get(number)).ok_or_else(missing)?;
        let file = file.as_ref().map_err(Clone::clone)?;
        if self.chunk_file != number {
            (self.chunks, self.chunk_file) = (Window::default(), number);
        }
        let bytes = self.chunks.get(file, offset, ENTRY_BYTES)?;
        let mut cursor = ByteCursor::new(bytes);
        let length = cursor.uvarint().map_err(|reason| file.bad(offset, reason))?;
        if length > CHUNK_BYTES_MAX as u64 {
            return Err(file.bad(offset, format!("a chunk of {length} bytes")));
        }
        let head = bytes.len() - cursor.rest().len();
        let whole = head + 1 + length as usize + 4;
        let bytes = self.chunks.get(file, offset, whole)?;
        if bytes.len() < whole {
            return Err(file.fault(offset, Fault::Short { want: whole as u64, got: bytes.len() as u64 }));
        }
        let (data, sum) = bytes[head..whole].split_at(1 + length as usize);
        let (want, got) = (u32::from_be_bytes(sum.try_into().expect("four bytes")), crc32c::crc32c(data));
        if want != got {
            return Err(file.fault(offset, Fault::Checksum { want, got }));
        }
        Ok(Chunk::new(min, max, data[0], data[1..].to_vec()))
    }

    /// The bytes of a series' chunks, in order of time.
    pub fn chunks(&mut self, entry: &SeriesEntry) -> Result<Vec<Chunk>, BlockError> {
        entry.chunks.iter().map(|span| self.chunk(*span)).collect()
    }

    /// Like [`BlockReader::chunks`], with the places that they have in a block under construction, for files that it has
    /// taken over.
    pub(crate) fn linked_chunks(
        &mut self,
        entry: &SeriesEntry,
        files: &[LinkedFile],
    ) -> Result<Vec<Chunk>, BlockError> {
        let chunk = |span: &ChunkSpan| {
            let file = files.get((span.reference >> 32) as usize);
            let place = file.and_then(|file| file.place(span.reference & 0xffff_ffff));
            Ok(Chunk { place, ..self.chunk(*span)? })
        };
        entry.chunks.iter().map(chunk).collect()
    }

    /// Like [`BlockReader::chunks`], without those that cannot be read, which `bad` gets.
    pub fn readable_chunks(&mut self, entry: &SeriesEntry, mut bad: impl FnMut(BlockError)) -> Vec<Chunk> {
        let mut chunks = Vec::with_capacity(entry.chunks.len());
        for span in &entry.chunks {
            match self.chunk(*span) {
                Ok(chunk) => chunks.push(chunk),
                Err(error) => bad(error),
            }
        }
        chunks
    }

    /// Samples of a series in `[from, to]` that are not deleted, in order of time.
    ///
    /// # Errors
    /// At the first chunk that cannot be read; samples before it have been given.
    pub fn samples(
        &mut self,
        entry: &SeriesEntry,
        from: i64,
        to: i64,
        mut sample: impl FnMut(i64, Value),
    ) -> Result<(), BlockError> {
        let deleted = self.block.deleted(entry.id);
        let mut sample = |_, at, value| sample(at, value);
        entry.chunks.iter().try_for_each(|span| self.chunk_samples(*span, (from, to), &deleted, &mut sample))
    }

    /// Like [`BlockReader::samples`], but goes on behind chunks that cannot be read; they are remembered as faults of the
    /// block. Of a chunk that is damaged in the middle the samples before the damage are given.
    /// Gives start time ([`series::NO_START`] for none), time and value.
    pub fn readable_samples(
        &mut self,
        entry: &SeriesEntry,
        from: i64,
        to: i64,
        mut sample: impl FnMut(i64, i64, Value),
    ) {
        let deleted = self.block.deleted(entry.id);
        for span in &entry.chunks {
            if let Err(error) = self.chunk_samples(*span, (from, to), &deleted, &mut sample) {
                self.block.add_fault(&error);
            }
        }
    }

    fn chunk_samples(
        &mut self,
        span: ChunkSpan,
        (from, to): (i64, i64),
        deleted: &[(i64, i64)],
        sample: &mut impl FnMut(i64, i64, Value),
    ) -> Result<(), BlockError> {
        let chunk = self.chunk(span)?;
        let decoded = chunk.decode_with_starts(|start, at, value| {
            if at >= from && at <= to && !deleted.iter().any(|(min, max)| at >= *min && at <= *max) {
                sample(start, at, value);
            }
        });
        decoded.map_err(|error| self.chunk_error(span, error))
    }

    /// An error that names the file and place of a chunk.
    fn chunk_error(&self, span: ChunkSpan, error: ChunkError) -> BlockError {
        let file = self.block.chunks.get((span.reference >> 32) as usize).and_then(|file| file.as_ref().ok());
        let path = file.map_or(&self.block.folder, |file| &file.path);
        BlockError::new(path, span.reference & 0xffff_ffff, error.to_string())
    }

    /// Reads a chunk and compares its samples with what the index says of it.
    fn verify_chunk(&mut self, span: ChunkSpan) -> Result<u64, BlockError> {
        let chunk = self.chunk(span)?;
        let checked = crate::merge::check_times(&chunk).and_then(|()| match chunk.samples() {
            0 => Err(ChunkError("it has no samples")),
            samples => Ok(u64::from(samples)),
        });
        checked.map_err(|error| self.chunk_error(span, error))
    }

    /// Reads all chunks of a series; gives how many samples they have.
    pub(crate) fn verify_series(&mut self, entry: &SeriesEntry, mut bad: impl FnMut(BlockError)) -> u64 {
        let mut samples = 0;
        for span in &entry.chunks {
            match self.verify_chunk(*span) {
                Ok(of_chunk) => samples += of_chunk,
                Err(error) => bad(error),
            }
        }
        samples
    }
}

impl SeriesEntry {
    /// First and last time of its chunks, as the index has them.
    pub fn bounds(&self) -> Option<(i64, i64)> {
        let bounds = self.chunks.iter().map(|span| (span.min, span.max));
        bounds.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }
}

fn read_numbers(cursor: &mut ByteCursor<'_>, numbers: &mut Vec<(u64, u64)>) -> Result<(), &'static str> {
    for _ in 0..cursor.count_of(2)? {
        numbers.push((cursor.uvarint()?, cursor.uvarint()?));
    }
    Ok(())
}

/// Chunks of an entry that overlap `[from, to]`.
fn read_chunks(cursor: &mut ByteCursor<'_>, from: i64, to: i64) -> Result<Vec<ChunkSpan>, &'static str> {
    let mut chunks = Vec::new();
    let (mut last_max, mut reference) = (0i64, 0u64);
    for i in 0..cursor.count_of(3)? {
        let min = match i {
            0 => cursor.varint()?,
            _ => last_max.wrapping_add(cursor.uvarint()? as i64),
        };
        let max = min.wrapping_add(cursor.uvarint()? as i64);
        reference = match i {
            0 => cursor.uvarint()?,
            _ => reference.wrapping_add(cursor.varint()? as u64),
        };
        if min > max {
            return Err("a chunk ends before it begins");
        }
        if min <= to && max >= from {
            chunks.push(ChunkSpan { min, max, reference });
        }
        last_max = max;
    }
    Ok(chunks)
}
