//! Frames: how records lie in a log file. Format: docs/format/log.md.
//!
//! Every checksum covers the file's id and the frame's offset, so that bytes of another file or another place, however
//! valid they once were, are never taken for a frame.
//!
//! Invariants:
//!   * reading never fails: what is damaged becomes a [`Damage`], what is whole comes out
//!   * a batch ends with a parity frame, from which a damaged stretch of up to 1/64 of the batch is restored

use std::fmt;

/// First byte of a frame.
const MAGIC: u8 = 0xb7;
/// Magic, kind, length of the payload, checksum.
pub const FRAME_HEAD_BYTES: usize = 10;
/// Kind of the frame that ends a batch.
pub const PARITY: u8 = 0xff;
/// Units that a batch is divided into for its parity.
const PARITY_UNITS: usize = 64;
/// A unit is no shorter than this.
const PARITY_UNIT_BYTES_MIN: usize = 32;
/// Bytes checksummed in the search for the frame after a damage, in file lengths: bounds what crafted bytes can cost.
const SEARCH_LENGTHS_MAX: usize = 8;

/// What a log file is called, inside and out. Bound into every checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Counts the starts of the process on this data folder.
    pub boot: u32,
    /// Which writer of that process.
    pub writer: u16,
    /// Counts the files of the writer.
    pub sequence: u32,
}

impl FileId {
    fn bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..4].copy_from_slice(&self.boot.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.writer.to_le_bytes());
        bytes[6..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// From a file name as [`FileId`] displays it.
    pub fn parse(name: &str) -> Option<FileId> {
        let mut parts = name.strip_suffix(".log")?.split('-');
        let mut number = |digits: usize| {
            let part = parts.next()?;
            (part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse().ok())?
        };
        let (boot, writer, sequence): (u32, u32, u32) = (number(8)?, number(5)?, number(8)?);
        let id = FileId { boot, writer: u16::try_from(writer).ok()?, sequence };
        parts.next().is_none().then_some(id)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}-{:05}-{:08}.log", self.boot, self.writer, self.sequence)
    }
}

fn checksum(file: FileId, offset: u64, kind: u8, payload: &[u8]) -> u32 {
    let mut place = [0; 19];
    place[..10].copy_from_slice(&file.bytes());
    place[10..18].copy_from_slice(&offset.to_le_bytes());
    place[18] = kind;
    crc32c::crc32c_append(crc32c::crc32c(&place), payload)
}

/// Appends a frame to `out`, which begins at `base` in its file.
pub fn put_frame(file: FileId, base: u64, kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    let sum = checksum(file, base + out.len() as u64, kind, payload);
    out.extend_from_slice(&[MAGIC, kind]);
    out.extend_from_slice(&u32::try_from(payload.len()).expect("a record stays below 4 GiB").to_le_bytes());
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(payload);
}

/// How long a unit of the parity over so many bytes is.
fn unit_bytes(batch_bytes: usize) -> usize {
    batch_bytes.div_ceil(PARITY_UNITS).max(PARITY_UNIT_BYTES_MIN)
}

fn xor_units(batch: &[u8], unit: usize) -> Vec<u8> {
    let mut parity = vec![0; unit];
    for piece in batch.chunks(unit) {
        parity.iter_mut().zip(piece).for_each(|(parity, byte)| *parity ^= byte);
    }
    parity
}

/// Ends a batch: everything in `out`, which begins at `base` in its file.
pub fn put_parity(file: FileId, base: u64, out: &mut Vec<u8>) {
    let unit = unit_bytes(out.len());
    let mut payload = Vec::with_capacity(4 + unit);
    payload.extend_from_slice(&(out.len() as u32).to_le_bytes());
    payload.append(&mut xor_units(out, unit));
    put_frame(file, base, PARITY, &payload, out);
}

/// One record of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub offset: u64,
    pub kind: u8,
    pub payload: &'a [u8],
}

/// Bytes that are no frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub offset: u64,
    pub bytes: u64,
    /// Everything in them was brought back from the parity.
    pub restored: bool,
    /// Nothing valid follows: what a crash leaves of the last write.
    pub tail: bool,
}

/// Kind and payload length of a frame's head.
pub fn frame_head(head: &[u8; FRAME_HEAD_BYTES]) -> Option<(u8, usize)> {
    let length = u32::from_le_bytes(head[2..6].try_into().expect("four bytes")) as usize;
    (head[0] == MAGIC).then_some((head[1], length))
}

/// Whether head and payload belong together at this place.
pub fn verify_frame(file: FileId, offset: u64, head: &[u8; FRAME_HEAD_BYTES], payload: &[u8]) -> bool {
    checksum(file, offset, head[1], payload).to_le_bytes() == head[6..]
}

/// Where the first frame after `base` begins, in bytes of a file from `base` on.
pub fn search_bytes(file: FileId, base: u64, bytes: &[u8]) -> Option<u64> {
    let mut budget = bytes.len().saturating_mul(SEARCH_LENGTHS_MAX);
    memchr::memchr_iter(MAGIC, bytes.get(1..)?).find_map(|at| {
        let head: &[u8; FRAME_HEAD_BYTES] = bytes.get(at + 1..)?.first_chunk()?;
        let (_, length) = frame_head(head)?;
        let payload = bytes.get(at + 1 + FRAME_HEAD_BYTES..)?.get(..length)?;
        budget = budget.checked_sub(length)?;
        let offset = base + at as u64 + 1;
        verify_frame(file, offset, head, payload).then_some(offset)
    })
}

fn frame_at(file: FileId, bytes: &[u8], at: usize) -> Option<Frame<'_>> {
    let head = bytes.get(at..at + FRAME_HEAD_BYTES)?;
    if head[0] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(head[2..6].try_into().expect("four bytes")) as usize;
    let payload = bytes.get(at + FRAME_HEAD_BYTES..)?.get(..length)?;
    let sum = u32::from_le_bytes(head[6..].try_into().expect("four bytes"));
    (checksum(file, at as u64, head[1], payload) == sum).then_some(Frame { offset: at as u64, kind: head[1], payload })
}

fn end(frame: &Frame) -> usize {
    frame.offset as usize + FRAME_HEAD_BYTES + frame.payload.len()
}

/// The first frame after `from`.
fn search<'a>(file: FileId, bytes: &'a [u8], from: usize, budget: &mut usize) -> Option<Frame<'a>> {
    memchr::memchr_iter(MAGIC, bytes.get(from..)?).find_map(|at| {
        let head = bytes.get(from + at..from + at + FRAME_HEAD_BYTES)?;
        let length = u32::from_le_bytes(head[2..6].try_into().expect("four bytes")) as usize;
        if length > bytes.len() || length > *budget {
            return None;
        }
        *budget -= length;
        frame_at(file, bytes, from + at)
    })
}

/// Mends in place what parities can, and tells what was damaged. Afterwards [`frames`] reads what is whole.
pub fn mend(file: FileId, bytes: &mut [u8]) -> Vec<Damage> {
    let mut damages = Vec::new();
    let mut budget = bytes.len().saturating_mul(SEARCH_LENGTHS_MAX);
    let (mut at, mut batch) = (0, 0);
    while at < bytes.len() {
        if let Some(frame) = frame_at(file, bytes, at) {
            at = end(&frame);
            if frame.kind == PARITY {
                batch = at;
            }
            continue;
        }
        let next = search(file, bytes, at + 1, &mut budget).map(|frame| frame.offset as usize);
        let Some(next) = next else {
            damages.push(Damage { offset: at as u64, bytes: (bytes.len() - at) as u64, restored: false, tail: true });
            break;
        };
        let damage = Damage { offset: at as u64, bytes: (next - at) as u64, restored: true, tail: false };
        if restore(file, bytes, batch, next) {
            damages.push(damage);
        } else {
            // Of the size of the parity frame of what came before: nothing was in it.
            let parity = at > batch && next - at == FRAME_HEAD_BYTES + 4 + unit_bytes(at - batch);
            damages.push(Damage { restored: parity, ..damage });
            at = next;
            if parity {
                batch = next;
            }
        }
    }
    damages
}

/// Tries to bring a batch back whose first frame after a damage is at `next`.
fn restore(file: FileId, bytes: &mut [u8], batch: usize, next: usize) -> bool {
    let mut at = next;
    let (parity_at, unit, parity) = loop {
        let Some(frame) = frame_at(file, bytes, at) else { return false };
        if frame.kind == PARITY && frame.payload.len() > 4 {
            let length = u32::from_le_bytes(frame.payload[..4].try_into().expect("four bytes")) as usize;
            if length != at - batch {
                return false;
            }
            break (at, frame.payload.len() - 4, frame.payload[4..].to_vec());
        }
        at = end(&frame);
    };
    let wrong = xor_units(&bytes[batch..parity_at], unit).iter().zip(&parity).map(|(a, b)| a ^ b).collect::<Vec<u8>>();
    let mend = |bytes: &mut [u8], piece: usize| {
        let until = (piece + unit).min(parity_at);
        bytes[piece..until].iter_mut().zip(&wrong).for_each(|(byte, wrong)| *byte ^= wrong);
    };
    for piece in (batch..parity_at).step_by(unit) {
        mend(bytes, piece);
        let mut at = batch;
        while at < parity_at {
            match frame_at(file, bytes, at) {
                Some(frame) => at = end(&frame),
                None => break,
            }
        }
        if at == parity_at {
            return true;
        }
        mend(bytes, piece);
    }
    false
}

/// The records of a mended file, in order. `damages` are those that [`mend`] found.
pub fn frames<'a>(file: FileId, bytes: &'a [u8], damages: &'a [Damage]) -> impl Iterator<Item = Frame<'a>> {
    let mut lost = damages.iter().filter(|damage| !damage.restored).peekable();
    let mut skipped = damages.iter().filter(|damage| damage.restored).peekable();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            if let Some(damage) = lost.next_if(|damage| damage.offset == at as u64) {
                at += damage.bytes as usize;
            }
            match frame_at(file, bytes, at) {
                Some(frame) => {
                    at = end(&frame);
                    if frame.kind != PARITY {
                        return Some(frame);
                    }
                }
                // A damaged parity frame counts as restored and is still no frame.
                None => {
                    while skipped.next_if(|damage| damage.offset < at as u64).is_some() {}
                    at += skipped.next_if(|damage| damage.offset == at as u64)?.bytes as usize;
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId { boot: 1, writer: 2, sequence: 3 };

    fn batch(base: u64, records: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, payload) in records {
            put_frame(FILE, base, *kind, payload, &mut out);
        }
        put_parity(FILE, base, &mut out);
        out
    }

    fn sample_file() -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
        let mut records = Vec::new();
        let mut file = Vec::new();
        for i in 0..12usize {
            let of_batch: Vec<(u8, Vec<u8>)> =
                (0..1 + i % 4).map(|j| (j as u8, vec![(i * 7 + j) as u8; (i * 31 + j * 57) % 300])).collect();
            file.extend(batch(file.len() as u64, &of_batch));
            records.extend(of_batch);
        }
        (file, records)
    }

    fn read(mut bytes: Vec<u8>) -> (Vec<(u8, Vec<u8>)>, Vec<Damage>) {
        let damages = mend(FILE, &mut bytes);
        let found = frames(FILE, &bytes, &damages).map(|frame| (frame.kind, frame.payload.to_vec())).collect();
        (found, damages)
    }

    #[test]
    fn records_come_back() {
        let (file, records) = sample_file();
        assert_eq!(read(file), (records, vec![]));
        assert_eq!(read(Vec::new()), (vec![], vec![]));
    }

    #[test]
    fn any_flipped_byte_is_mended() {
        let (file, records) = sample_file();
        let last_parity = file.len() - (FRAME_HEAD_BYTES + 4 + PARITY_UNIT_BYTES_MIN);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x41;
            let (found, damages) = read(damaged);
            assert_eq!(found, records, "byte {at}");
            assert_eq!(damages.len(), 1, "byte {at}: {damages:?}");
            assert!(damages[0].restored || at >= last_parity, "byte {at}: {damages:?}");
        }
    }

    #[test]
    fn any_cut_leaves_the_records_before_it() {
        let (file, records) = sample_file();
        for cut in 0..file.len() {
            let (found, damages) = read(file[..cut].to_vec());
            assert_eq!(found, records[..found.len()], "cut at {cut}");
            assert!(damages.iter().all(|damage| damage.tail), "cut at {cut}: {damages:?}");
        }
    }

    #[test]
    fn a_wide_hole_costs_what_is_in_it() {
        let (file, records) = sample_file();
        for at in (0..file.len() - 700).step_by(37) {
            let mut damaged = file.clone();
            damaged[at..at + 600].fill(0);
            let (found, damages) = read(damaged);
            let mut rest = records.iter();
            assert!(found.iter().all(|frame| rest.any(|record| record == frame)), "hole at {at}");
            assert!(records.len() - found.len() <= 24 && !damages.is_empty(), "hole at {at}: {}", found.len());
        }
    }

    #[test]
    fn frames_of_another_file_or_place_are_none() {
        let (file, _) = sample_file();
        let other = FileId { sequence: 4, ..FILE };
        let mut bytes = file.clone();
        let damages = mend(other, &mut bytes);
        assert_eq!(frames(other, &bytes, &damages).count(), 0);
        let moved = [vec![0; 7], file].concat();
        assert_eq!(read(moved).0, vec![]);
    }

    #[test]
    fn mutations_never_give_a_record_that_was_not_written() {
        let (file, records) = sample_file();
        let mut state = 9u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for _ in 0..3000 {
            let mut damaged = file.clone();
            for _ in 0..1 + next(6) {
                let at = next(damaged.len());
                match next(3) {
                    0 => damaged[at] = next(256) as u8,
                    1 => damaged.truncate(at.max(1)),
                    _ => {
                        let (from, count) = (next(damaged.len()), next(400));
                        let piece = damaged[from..(from + count).min(damaged.len())].to_vec();
                        let until = (at + piece.len()).min(damaged.len());
                        damaged[at..until].copy_from_slice(&piece[..until - at]);
                    }
                }
            }
            let (found, _) = read(damaged);
            let mut rest = records.iter();
            assert!(found.iter().all(|frame| rest.any(|record| record == frame)));
        }
    }

    #[test]
    fn names_of_files() {
        assert_eq!(FileId::parse(&FILE.to_string()), Some(FILE));
        for name in ["", "1-2-3.log", "00000001-00002-00000003", "00000001-99999-00000003.log", "x.log"] {
            assert_eq!(FileId::parse(name), None, "{name}");
        }
    }
}
