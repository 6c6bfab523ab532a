//! What a segment becomes: chunks of its slots, in parts by ranges of time.

use crate::row::RowError;

/// What the entry of a slot of floats begins with: whether its first and last sample are those of the segment's part, or
/// what their distances are.
pub(crate) const TIMES_OF_SEGMENT: u8 = 0;
pub(crate) const TIMES_OF_ITS_OWN: u8 = 1;

/// The chunks of a segment, divided by ranges of time: a sample lies in the part of its own time, whatever row brought it.
#[derive(Debug, Default)]
pub struct EncodedSegment {
    /// By range, ascending; all have samples.
    pub parts: Vec<EncodedPart>,
    /// Rows at the end that could not be read, with the reason.
    pub unread: Option<(usize, RowError)>,
}

/// What lies in one range of time.
#[derive(Debug)]
pub struct EncodedPart {
    /// Beginning of the range, which all samples are in.
    pub range: i64,
    /// End of each slot's entry in `entries`; as many as slots.
    pub ends: Vec<u32>,
    /// For each slot with samples: distance of its first and last sample from `first` and `last`, chunk, checksums.
    pub entries: Vec<u8>,
    /// Times of the first and last sample.
    pub first: i64,
    pub last: i64,
    pub samples: u64,
}

impl EncodedPart {
    pub(crate) fn new(range: i64) -> EncodedPart {
        EncodedPart { range, ends: Vec::new(), entries: Vec::new(), first: i64::MAX, last: i64::MIN, samples: 0 }
    }
}

/// Beginning of the range of a time; ranges are `range_ms` long.
pub fn range_of(at: i64, range_ms: i64) -> i64 {
    at.div_euclid(range_ms).saturating_mul(range_ms)
}

/// The parts of the ranges that samples lie in, found before anything is written.
pub(crate) struct Parts {
    range_ms: i64,
    /// By range.
    pub parts: Vec<EncodedPart>,
    /// The part that was looked up last.
    latest: usize,
}

impl Parts {
    pub fn new(range_ms: i64) -> Parts {
        Parts { range_ms, parts: Vec::new(), latest: 0 }
    }

    /// Notes that there is a sample.
    pub fn note(&mut self, at: i64) {
        let is_in = |part: &EncodedPart| at >= part.range && at.saturating_sub(part.range) < self.range_ms;
        if !self.parts.get(self.latest).is_some_and(is_in) {
            let range = range_of(at, self.range_ms);
            let place = self.parts.binary_search_by_key(&range, |part| part.range);
            self.latest = place.unwrap_or_else(|place| {
                self.parts.insert(place, EncodedPart::new(range));
                place
            });
        }
        let part = &mut self.parts[self.latest];
        (part.first, part.last) = (part.first.min(at), part.last.max(at));
    }

    /// Parts with samples; the rest was noted for nothing.
    pub fn finish(mut self) -> Vec<EncodedPart> {
        self.parts.retain(|part| part.samples > 0);
        self.parts
    }
}
