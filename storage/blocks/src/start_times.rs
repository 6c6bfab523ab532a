//! Start times of the samples of a chunk: those of XOR2 chunks and of the histogram chunks that have them.
//!
//! A byte in the chunk's head says whether the first sample has one, and which sample is the first with another one; from that
//! one on, each sample has bits for its own. Prometheus keeps no start time as 0.

use crate::bits::{BitWriter, Bits, put_varbit_int};
use crate::codec::{unzigzag, zigzag};
use crate::error::ChunkError;

pub use series::NO_START;

const FIRST_KNOWN: u8 = 0x80;
/// The last sample at which start times may begin to have bits of their own; they do there, whatever they are.
const CHANGED_ON_MAX: u16 = 0x7f;

/// Writes start times behind the samples of a chunk.
#[derive(Debug, Default)]
pub(crate) struct StartWriter {
    head: u8,
    start: i64,
    /// The last sample's start, from the time of the sample before that.
    distance: i64,
}

impl StartWriter {
    /// Writes the start of the sample with this number, behind the sample; `before` is the time of the sample before, or of
    /// the first one itself.
    #[inline]
    pub fn put(&mut self, number: u16, before: i64, start: i64, bits: &mut BitWriter, out: &mut Vec<u8>) {
        let distance = before.wrapping_sub(start);
        if number == 0 {
            if start != NO_START {
                self.head = FIRST_KNOWN;
                bits.put_varint(zigzag(distance), out);
            }
        } else if self.head & !FIRST_KNOWN != 0 {
            put_varbit_int(distance.wrapping_sub(self.distance), bits, out);
            self.distance = distance;
        } else if start != self.start || number == CHANGED_ON_MAX {
            self.head |= number as u8;
            put_varbit_int(distance, bits, out);
            self.distance = distance;
        }
        self.start = start;
    }

    /// The byte for the chunk's head.
    pub fn head(&self) -> u8 {
        self.head
    }
}

/// Reads what [`StartWriter`] writes.
#[derive(Debug)]
pub(crate) struct StartReader {
    is_first_known: bool,
    changed_on: u16,
    start: i64,
    distance: i64,
}

impl StartReader {
    pub fn new(head: u8) -> StartReader {
        let (is_first_known, changed_on) = (head & FIRST_KNOWN != 0, u16::from(head & !FIRST_KNOWN));
        StartReader { is_first_known, changed_on, start: NO_START, distance: 0 }
    }

    /// The start of the sample with this number, whose bits were read.
    #[inline]
    pub fn take(&mut self, number: u16, before: i64, bits: &mut Bits) -> Result<i64, ChunkError> {
        if number == 0 {
            if self.is_first_known {
                self.start = before.wrapping_sub(unzigzag(bits.varint()?));
            }
        } else if self.changed_on > 0 && number >= self.changed_on {
            self.distance = self.distance.wrapping_add(bits.varbit_int()?);
            self.start = before.wrapping_sub(self.distance);
        }
        Ok(self.start)
    }
}
