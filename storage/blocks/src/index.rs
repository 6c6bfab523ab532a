//! The tables of a block's index: symbols, and where the postings of each label are.
//!
//! Both stay in the file. What is held of them is where every so many entries begin, so that an entry is found by reading
//! a few hundred bytes; however large a block is, that is less than a megabyte.
//!
//! Invariants:
//!   * both tables are read once as a whole, and their checksums compared, before anything in them is believed
//!   * symbols are not assumed to be sorted; names of labels and the values of a name are, or the table is refused

use crate::block_file::{BlockFile, SectionReader, Window};
use crate::codec::{ByteCursor, CursorExt};
use crate::error::{BlockError, Fault};
use ahash::AHashMap;
use std::cmp::Ordering;

/// Most positions that are held of a table.
const SAMPLES_MAX: u32 = 65_536;
/// Fewest entries between two positions, as in Prometheus.
const ENTRIES_BETWEEN_MIN: u32 = 32;
/// Bytes that are read at once to find an entry behind a position.
const LOOKUP_BYTES: usize = 1 << 10;
/// Bytes of symbols that a reader keeps.
const SYMBOL_CACHE_BYTES: usize = 1 << 20;
const INDEX_MAGIC: u32 = crate::INDEX_MAGIC;
const INDEX_VERSION: u32 = 2;
const CONTENTS_BYTES: u64 = 52;

/// Where the sections of an index begin; 0 for those that it has not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    pub symbols: u64,
    pub series: u64,
    label_indices: u64,
    label_offsets: u64,
    postings: u64,
    pub postings_offsets: u64,
}

impl Contents {
    pub fn read(index: &BlockFile) -> Result<Contents, BlockError> {
        let head: [u8; 5] = index.read(0)?;
        let magic = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if magic != INDEX_MAGIC {
            return Err(index.fault(0, Fault::Magic { want: INDEX_MAGIC, got: magic }));
        }
        if u32::from(head[4]) != INDEX_VERSION {
            return Err(index.fault(4, Fault::Version { want: INDEX_VERSION, got: u32::from(head[4]) }));
        }
        let short = || index.fault(0, Fault::Short { want: CONTENTS_BYTES + 5, got: index.length });
        let at = index.length.checked_sub(CONTENTS_BYTES).ok_or_else(short)?;
        let bytes: [u8; CONTENTS_BYTES as usize] = index.read(at)?;
        let (references, sum) = bytes.split_at(48);
        let (want, got) = (u32::from_be_bytes(sum.try_into().expect("four bytes")), crc32c::crc32c(references));
        if want != got {
            return Err(index.fault(at, Fault::Checksum { want, got }));
        }
        let mut cursor = ByteCursor::new(references);
        let mut next = || cursor.u64_be().expect("48 bytes");
        Ok(Contents {
            symbols: next(),
            series: next(),
            label_indices: next(),
            label_offsets: next(),
            postings: next(),
            postings_offsets: next(),
        })
    }

    /// Where the section of series ends.
    pub fn series_end(&self, index: &BlockFile) -> u64 {
        let others = [self.symbols, self.label_indices, self.label_offsets, self.postings, self.postings_offsets];
        let end = others.into_iter().filter(|at| *at > self.series).min();
        end.unwrap_or(index.length.saturating_sub(CONTENTS_BYTES)).min(index.length)
    }
}

/// Entries between two positions, so that at most [`SAMPLES_MAX`] are held.
fn entries_between(count: u32) -> u32 {
    count.div_ceil(SAMPLES_MAX).max(ENTRIES_BETWEEN_MIN)
}

/// Texts by number.
#[derive(Debug)]
pub(crate) struct SymbolTable {
    /// Of the first entry in the file.
    start: u64,
    end: u64,
    count: u32,
    between: u32,
    /// Bytes from `start` to every `between`-th entry.
    positions: Box<[u32]>,
}

impl SymbolTable {
    pub fn read(index: &BlockFile, offset: u64) -> Result<SymbolTable, BlockError> {
        let mut section = index.section(offset)?;
        let count = section.parse(|cursor| cursor.u32_be())?;
        if u64::from(count) > section.rest() {
            return Err(index.bad(offset, format!("{count} symbols in {} bytes", section.rest())));
        }
        let (start, between) = (section.offset(), entries_between(count));
        let mut positions = Vec::with_capacity(count.div_ceil(between) as usize);
        for number in 0..count {
            if number % between == 0 {
                positions.push((section.offset() - start) as u32);
            }
            section.parse(|cursor| cursor.bytes().map(drop))?;
        }
        let end = section.offset();
        section.finish()?;
        Ok(SymbolTable { start, end, count, between, positions: positions.into() })
    }

    pub fn heap_bytes(&self) -> usize {
        self.positions.len() * size_of::<u32>()
    }

    /// Calls `visit` with each symbol in the order of the table, until it says that it has seen enough.
    pub fn each(&self, index: &BlockFile, mut visit: impl FnMut(&str) -> bool) -> Result<(), BlockError> {
        let mut entries = index.span(self.start, self.end)?;
        for _ in 0..self.count {
            if !entries.parse(|cursor| cursor.text().map(&mut visit))? {
                break;
            }
        }
        Ok(())
    }

    fn find(&self, index: &BlockFile, window: &mut Window, number: u64, out: &mut String) -> Result<(), BlockError> {
        let number = u32::try_from(number).ok().filter(|number| *number < self.count);
        let number = number.ok_or_else(|| index.bad(self.start, "a series has a symbol that is not in the table"))?;
        let mut at = self.start + u64::from(self.positions[(number / self.between) as usize]);
        let mut skip = number % self.between;
        let mut wanted = LOOKUP_BYTES;
        loop {
            let bytes = window.get(index, at, wanted)?;
            let mut cursor = ByteCursor::new(&bytes[..bytes.len().min((self.end - at) as usize)]);
            let all = cursor.rest().len();
            let mut used = 0;
            let mut ended_early = false;
            while skip > 0 {
                ended_early = cursor.bytes().is_err();
                if ended_early {
                    break;
                }
                used = all - cursor.rest().len();
                skip -= 1;
            }
            if !ended_early {
                match cursor.text() {
                    Ok(text) => {
                        out.push_str(text);
                        return Ok(());
                    }
                    Err(reason) if at + all as u64 >= self.end => return Err(index.bad(at, reason)),
                    Err(_) => {}
                }
            } else if at + all as u64 >= self.end && used == 0 {
                return Err(index.bad(at, crate::error::UNEXPECTED_END));
            }
            // The next round begins at the first entry that was not passed.
            wanted = if used == 0 { wanted * 2 } else { LOOKUP_BYTES };
            at += used as u64;
        }
    }
}

/// Symbols that a reader has met, up to [`SYMBOL_CACHE_BYTES`].
#[derive(Debug, Default)]
pub(crate) struct SymbolCache {
    window: Window,
    text: String,
    spans: AHashMap<u64, (u32, u32)>,
}

impl SymbolCache {
    /// Makes sure that a symbol can be asked for by [`SymbolCache::get`].
    pub fn load(&mut self, table: &SymbolTable, index: &BlockFile, number: u64) -> Result<(), BlockError> {
        if self.spans.contains_key(&number) {
            return Ok(());
        }
        let start = self.text.len();
        if let Err(error) = table.find(index, &mut self.window, number, &mut self.text) {
            self.text.truncate(start);
            return Err(error);
        }
        self.spans.insert(number, (start as u32, self.text.len() as u32));
        Ok(())
    }

    pub fn get(&self, number: u64) -> &str {
        let (start, end) = self.spans[&number];
        &self.text[start as usize..end as usize]
    }

    /// Forgets all symbols if they take too much. Between series: those of one are asked for together.
    pub fn shrink(&mut self) {
        if self.text.len() > SYMBOL_CACHE_BYTES {
            self.text.clear();
            self.spans.clear();
        }
    }
}

#[derive(Debug)]
struct LabelName {
    name: Box<str>,
    /// Its first position in [`PostingsTable::positions`].
    first: u32,
    values: u32,
    /// Bytes from the start of the table to the end of its last entry.
    end: u32,
}

/// Where the postings of each value of each label are.
#[derive(Debug)]
pub(crate) struct PostingsTable {
    start: u64,
    between: u32,
    /// Sorted.
    names: Box<[LabelName]>,
    /// Bytes from `start` to the first entry of each name and to every `between`-th behind it.
    positions: Box<[u32]>,
}

/// An entry of the table: name, value, offset of the postings.
fn entry<'a>(cursor: &mut ByteCursor<'a>) -> Result<(&'a str, &'a str, u64), &'static str> {
    if cursor.byte()? != 2 {
        return Err("an entry does not have two texts");
    }
    Ok((cursor.text()?, cursor.text()?, cursor.uvarint()?))
}

impl PostingsTable {
    pub fn read(index: &BlockFile, offset: u64) -> Result<PostingsTable, BlockError> {
        let mut section = index.section(offset)?;
        let count = section.parse(|cursor| cursor.u32_be())?;
        if u64::from(count) > section.rest() {
            return Err(index.bad(offset, format!("{count} entries in {} bytes", section.rest())));
        }
        let (start, between) = (section.offset(), entries_between(count));
        let mut names: Vec<LabelName> = Vec::new();
        let mut positions: Vec<u32> = Vec::new();
        let mut last_value = String::new();
        for _ in 0..count {
            let at = section.offset();
            section.parse(|cursor| {
                let (name, value, _) = entry(cursor)?;
                let order = names.last().map_or(Ordering::Greater, |last| name.cmp(&last.name));
                if order == Ordering::Less || (order == Ordering::Equal && *value <= *last_value) {
                    return Err("the table of postings is not sorted");
                }
                if order == Ordering::Greater {
                    names.push(LabelName { name: name.into(), first: positions.len() as u32, values: 0, end: 0 });
                }
                let last = names.last_mut().expect("pushed above");
                if last.values.is_multiple_of(between) {
                    positions.push((at - start) as u32);
                }
                last.values += 1;
                last_value.clear();
                last_value.push_str(value);
                Ok(())
            })?;
            names.last_mut().expect("an entry was read").end = (section.offset() - start) as u32;
        }
        section.finish()?;
        Ok(PostingsTable { start, between, names: names.into(), positions: positions.into() })
    }

    pub fn heap_bytes(&self) -> usize {
        let names = self.names.iter().map(|name| size_of::<LabelName>() + name.name.len()).sum::<usize>();
        names + self.positions.len() * size_of::<u32>()
    }

    /// Names of labels, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        // The entry of all series has the empty name.
        self.names.iter().map(|name| &*name.name).filter(|name| !name.is_empty())
    }

    fn name(&self, name: &str) -> Option<&LabelName> {
        self.names.binary_search_by(|other| (*other.name).cmp(name)).ok().map(|at| &self.names[at])
    }

    /// How many values a label has.
    pub fn value_count(&self, name: &str) -> u32 {
        self.name(name).map_or(0, |name| name.values)
    }

    /// The last position of the name whose value is not behind `value`.
    fn position_before(&self, index: &BlockFile, name: &LabelName, value: &str) -> Result<u32, BlockError> {
        let count = name.values.div_ceil(self.between);
        let (mut low, mut high) = (0, count);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let at = u64::from(self.positions[(name.first + middle) as usize]);
            let mut entries = self.entries(index, at, name)?;
            let order = entries.parse(|cursor| Ok(entry(cursor)?.1.cmp(value)))?;
            if order == Ordering::Greater { high = middle } else { low = middle }
        }
        Ok(self.positions[(name.first + low) as usize])
    }

    fn entries<'a>(&self, index: &'a BlockFile, at: u64, name: &LabelName) -> Result<SectionReader<'a>, BlockError> {
        index.span(self.start + at, self.start + u64::from(name.end))
    }

    /// Calls `visit` with the values of a label from `from` on, sorted, and where their postings are, until it says that it
    /// has seen enough.
    pub fn values(
        &self,
        index: &BlockFile,
        name: &str,
        from: &str,
        mut visit: impl FnMut(&str, u64) -> bool,
    ) -> Result<(), BlockError> {
        let Some(name) = self.name(name) else { return Ok(()) };
        let at = u64::from(self.position_before(index, name, from)?);
        let mut entries = self.entries(index, at, name)?;
        while !entries.is_at_end() {
            let more = entries.parse(|cursor| {
                let (_, value, offset) = entry(cursor)?;
                Ok(value < from || visit(value, offset))
            })?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Where the postings of one value are.
    pub fn find(&self, index: &BlockFile, name: &str, value: &str) -> Result<Option<u64>, BlockError> {
        let mut found = None;
        self.values(index, name, value, |other, offset| {
            found = (other == value).then_some(offset);
            false
        })?;
        Ok(found)
    }
}
