//! Segments of Prometheus' write-ahead log: pages of fragments, put together to records.
//!
//! A segment is a row of pages of 32 KiB. A fragment does not cross a page, a record does not cross a segment. The kind of
//! a fragment is in three bits of its first byte; two more say how the whole record is compressed.
//!
//! Invariants:
//!   * a record is given only if every fragment of it had its checksum
//!   * behind damage reading goes on at the next page, with the next record that begins there
//!   * memory: a page, a record, and a record unpacked, of [`RECORD_BYTES_MAX`] each

use crate::error::{BlockError, Fault};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const PAGE_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// Longest record, packed or not: as long as Prometheus' longest segment.
pub const RECORD_BYTES_MAX: usize = 128 << 20;

const KIND_MASK: u8 = 0b0000_0111;
const SNAPPY: u8 = 0b0000_1000;
const ZSTD: u8 = 0b0001_0000;

const PAGE_END: u8 = 0;
const FULL: u8 = 1;
const FIRST: u8 = 2;
#[cfg(test)]
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// How a segment ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentEnd {
    pub records: u64,
    /// Bytes of a record that was being written when the process or the machine stopped.
    pub torn_bytes: u64,
}

/// Unpacks records; keeps its buffers.
#[derive(Default)]
pub struct RecordReader {
    record: Vec<u8>,
    unpacked: Vec<u8>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

struct Fragment<'a> {
    kind: u8,
    packing: u8,
    data: &'a [u8],
    bytes: usize,
}

/// The fragment at the start of the rest of a page; None where the page ends.
fn fragment(page: &[u8]) -> Result<Option<Fragment<'_>>, Fault> {
    let Some(first) = page.first() else { return Ok(None) };
    let kind = first & KIND_MASK;
    if kind == PAGE_END {
        return match page.iter().all(|byte| *byte == 0) {
            true => Ok(None),
            false => Err(Fault::Invalid("bytes behind the end of a page".into())),
        };
    }
    if kind > LAST {
        return Err(Fault::Invalid(format!("kind 1 to 4 of a fragment wanted, got {kind}")));
    }
    let Some(header) = page.first_chunk::<HEADER_BYTES>() else {
        return Err(Fault::Short { want: HEADER_BYTES as u64, got: page.len() as u64 });
    };
    let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
    let want = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
    let rest = &page[HEADER_BYTES..];
    let data = rest.get(..length).ok_or(Fault::Short { want: length as u64, got: rest.len() as u64 })?;
    let got = crc32c::crc32c(data);
    if want != got {
        return Err(Fault::Checksum { want, got });
    }
    Ok(Some(Fragment { kind, packing: first & (SNAPPY | ZSTD), data, bytes: HEADER_BYTES + length }))
}

impl RecordReader {
    /// Reads a segment. `record` gets each record with its place; `damage` what cannot be read. `is_last` says that no
    /// segment follows, so that a record may end with the file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read_segment(
        &mut self,
        path: &Path,
        is_last: bool,
        mut record: impl FnMut(u64, &[u8]),
        mut damage: impl FnMut(BlockError),
    ) -> Result<SegmentEnd, BlockError> {
        let mut file = File::open(path).map_err(|error| BlockError::io(path, 0, &error))?;
        let mut page = vec![0; PAGE_BYTES];
        let mut page_at = 0u64;
        let mut end = SegmentEnd::default();
        // Where the record begins that is being put together, and how it is packed.
        let mut open: Option<(u64, u8)> = None;
        let bad = |offset: u64, fault: Fault| BlockError { file: PathBuf::from(path), offset, fault };
        loop {
            let length = read_page(&mut file, &mut page).map_err(|error| BlockError::io(path, page_at, &error))?;
            let is_short = length < PAGE_BYTES;
            let mut at = 0;
            while at < length {
                let offset = page_at + at as u64;
                let fragment = match fragment(&page[at..length]) {
                    Ok(Some(fragment)) => fragment,
                    Ok(None) => break,
                    // The last write did not come to its end.
                    Err(Fault::Short { .. }) if is_short && is_last => {
                        end.torn_bytes = offset + (length - at) as u64 - open.take().map_or(offset, |(start, _)| start);
                        break;
                    }
                    Err(fault) => {
                        damage(bad(offset, fault));
                        open = None;
                        break;
                    }
                };
                at += fragment.bytes;
                if matches!(fragment.kind, FULL | FIRST) {
                    if let Some((start, _)) = open.take() {
                        damage(bad(start, Fault::Invalid("a record does not end".into())));
                    }
                    self.record.clear();
                    open = Some((offset, fragment.packing));
                }
                // The beginning was lost, and said so.
                let Some((start, packing)) = open else { continue };
                if self.record.len() + fragment.data.len() > RECORD_BYTES_MAX {
                    damage(bad(start, Fault::Invalid(format!("a record of more than {RECORD_BYTES_MAX} bytes"))));
                    open = None;
                    continue;
                }
                self.record.extend_from_slice(fragment.data);
                if matches!(fragment.kind, FULL | LAST) {
                    open = None;
                    match self.unpack(packing) {
                        Ok(bytes) => {
                            end.records += 1;
                            record(start, bytes);
                        }
                        Err(reason) => damage(bad(start, Fault::Invalid(reason))),
                    }
                }
            }
            page_at += length as u64;
            if is_short {
                break;
            }
        }
        match open {
            Some((start, _)) if is_last => end.torn_bytes = page_at - start,
            Some((start, _)) => damage(bad(start, Fault::Invalid("a record does not end".into()))),
            None => {}
        }
        Ok(end)
    }

    fn unpack(&mut self, packing: u8) -> Result<&[u8], String> {
        match packing {
            0 => return Ok(&self.record),
            SNAPPY => {
                let length = snap::raw::decompress_len(&self.record).map_err(|error| error.to_string())?;
                if length > RECORD_BYTES_MAX {
                    return Err(format!("a record of {length} bytes"));
                }
                self.unpacked.resize(length, 0);
                snap::raw::Decoder::new()
                    .decompress(&self.record, &mut self.unpacked)
                    .map_err(|error| error.to_string())?;
            }
            ZSTD => {
                let decoder = match &mut self.zstd {
                    Some(decoder) => decoder,
                    none => none.insert(zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?),
                };
                // The length need not be in the frame.
                let mut room = (self.record.len() * 4).clamp(64 << 10, RECORD_BYTES_MAX);
                loop {
                    self.unpacked.clear();
                    self.unpacked.reserve(room);
                    match decoder.decompress_to_buffer(&self.record, &mut self.unpacked) {
                        Ok(_) => break,
                        Err(error) if room >= RECORD_BYTES_MAX => return Err(error.to_string()),
                        Err(error) if !error.to_string().contains("too small") => return Err(error.to_string()),
                        Err(_) => room = (room * 4).min(RECORD_BYTES_MAX),
                    }
                }
            }
            _ => return Err("a record that is packed in two ways".into()),
        }
        Ok(&self.unpacked)
    }
}

/// Fills the page, but at the end of the file.
fn read_page(file: &mut File, page: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < page.len() {
        match file.read(&mut page[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Numbers and paths of the files in a folder whose names are numbers, ascending; none if there is no such folder.
pub fn numbered_files(folder: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(number) = number.and_then(|name| name.parse().ok())
            && entry.file_type()?.is_file()
        {
            files.push((number, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// How a test packs its records.
    #[derive(Clone, Copy, Debug)]
    pub enum Packing {
        None,
        Snappy,
        Zstd,
    }

    /// Writes records as Prometheus does.
    #[derive(Default)]
    pub struct SegmentWriter(pub Vec<u8>);

    impl SegmentWriter {
        pub fn push(&mut self, record: &[u8], packing: Packing) {
            let (bits, packed) = match packing {
                Packing::None => (0, record.to_vec()),
                Packing::Snappy => (SNAPPY, snap::raw::Encoder::new().compress_vec(record).unwrap()),
                Packing::Zstd => (ZSTD, zstd::bulk::compress(record, 1).unwrap()),
            };
            let mut rest = &packed[..];
            let mut is_first = true;
            loop {
                let mut room = PAGE_BYTES - self.0.len() % PAGE_BYTES;
                if room <= HEADER_BYTES {
                    self.0.resize(self.0.len() + room, 0);
                    room = PAGE_BYTES;
                }
                let part;
                (part, rest) = rest.split_at(rest.len().min(room - HEADER_BYTES));
                let kind = match (is_first, rest.is_empty()) {
                    (true, true) => FULL,
                    (true, false) => FIRST,
                    (false, false) => MIDDLE,
                    (false, true) => LAST,
                };
                self.0.push(kind | bits);
                self.0.extend_from_slice(&(part.len() as u16).to_be_bytes());
                self.0.extend_from_slice(&crc32c::crc32c(part).to_be_bytes());
                self.0.extend_from_slice(part);
                is_first = false;
                if rest.is_empty() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Packing, SegmentWriter};
    use super::*;

    fn records() -> Vec<Vec<u8>> {
        let lengths = [0, 1, 100, 32_750, 32_761, 32_762, 70_000, 5, 300_000, 7];
        lengths
            .iter()
            .enumerate()
            .map(|(i, length)| (0..*length).map(|at| (at * 7 + i * 3) as u8 / 2).collect())
            .collect()
    }

    fn read(bytes: &[u8], is_last: bool) -> (Vec<Vec<u8>>, Vec<BlockError>, SegmentEnd) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("00000000");
        std::fs::write(&path, bytes).unwrap();
        let (mut records, mut damages) = (Vec::new(), Vec::new());
        let mut reader = RecordReader::default();
        let end = reader.read_segment(&path, is_last, |_, one| records.push(one.to_vec()), |one| damages.push(one));
        (records, damages, end.unwrap())
    }

    #[test]
    fn records_of_all_lengths_and_packings_come_back() {
        for packing in [Packing::None, Packing::Snappy, Packing::Zstd] {
            let mut writer = SegmentWriter::default();
            records().iter().for_each(|record| writer.push(record, packing));
            let (found, damages, end) = read(&writer.0, true);
            assert_eq!(found, records(), "{packing:?}");
            assert_eq!((damages.len(), end.torn_bytes), (0, 0));
        }
    }

    #[test]
    fn a_torn_tail_is_no_damage_but_a_hole_is() {
        let mut writer = SegmentWriter::default();
        records().iter().for_each(|record| writer.push(record, Packing::None));
        let cut = writer.0.len() - 20;
        let (found, damages, end) = read(&writer.0[..cut], true);
        assert_eq!(found, records()[..8]);
        assert!(damages.is_empty() && end.torn_bytes > 250_000, "{damages:?} {end:?}");
        let (_, damages, _) = read(&writer.0[..cut], false);
        assert!(!damages.is_empty());
    }

    #[test]
    fn reading_goes_on_behind_damage() {
        let mut writer = SegmentWriter::default();
        for record in 0..2000u32 {
            writer.push(&record.to_be_bytes().repeat(25), Packing::None);
        }
        let mut bytes = writer.0;
        bytes[40_000] ^= 1;
        let (found, damages, _) = read(&bytes, true);
        assert_eq!(damages.len(), 1);
        assert_eq!(damages[0].offset / PAGE_BYTES as u64, 1);
        // Not more than the rest of a page is lost.
        assert!(found.len() < 2000 && found.len() > 100, "{}", found.len());
        assert_eq!(found.last().unwrap(), &1999u32.to_be_bytes().repeat(25));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let mut writer = SegmentWriter::default();
        for (i, record) in records().iter().enumerate() {
            writer.push(record, [Packing::None, Packing::Snappy, Packing::Zstd][i % 3]);
        }
        let mut state = 11u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for _ in 0..400 {
            let mut bytes = writer.0.clone();
            for _ in 0..1 + next(4) {
                let at = next(bytes.len());
                match next(4) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes[at] = 0,
                    2 => drop(bytes.remove(at)),
                    _ => bytes[at] ^= 1 << next(8),
                }
            }
            let (found, ..) = read(&bytes, next(2) == 0);
            assert!(found.iter().all(|record| records().contains(record)), "a damaged record was believed");
        }
    }
}
