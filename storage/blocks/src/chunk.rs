//! A chunk: samples of one series, encoded.

/// Numbers of the encodings: floats, histograms of whole counts, histograms of floats.
pub const XOR: u8 = 1;
pub const HISTOGRAM: u8 = 2;
pub const FLOAT_HISTOGRAM: u8 = 3;
/// The same in encodings that have start times of the samples.
pub const XOR2: u8 = 4;
pub const HISTOGRAM_WITH_STARTS: u8 = 5;
pub const FLOAT_HISTOGRAM_WITH_STARTS: u8 = 6;

/// Bits of the number of samples where flags of the chunk lie above it.
const SAMPLES_BELOW_FLAGS: u16 = 0x3fff;

/// Whether chunks of this encoding have floats.
pub fn is_float(encoding: u8) -> bool {
    matches!(encoding, XOR | XOR2)
}

/// Whether chunks of this encoding may have start times of their samples.
pub fn may_have_starts(encoding: u8) -> bool {
    matches!(encoding, XOR2 | HISTOGRAM_WITH_STARTS | FLOAT_HISTOGRAM_WITH_STARTS)
}

/// A chunk with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Times of its first and its last sample.
    pub min: i64,
    pub max: i64,
    pub encoding: u8,
    pub bytes: Vec<u8>,
    /// Where a block under construction has it already.
    pub place: Option<LinkedPlace>,
}

/// Where a chunk lies in a file that a block under construction has taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkedPlace(pub(crate) u64);

/// A file of chunks that a block under construction has taken over.
#[derive(Clone, Copy, Debug)]
pub struct LinkedFile {
    /// Counted from 0.
    pub(crate) number: u64,
}

impl LinkedFile {
    /// The place of the chunk whose length begins at `offset`. None if references do not reach as far.
    pub fn place(self, offset: u64) -> Option<LinkedPlace> {
        u32::try_from(offset).ok().map(|offset| LinkedPlace(self.number << 32 | u64::from(offset)))
    }
}

impl Chunk {
    /// A chunk that lies in no file.
    pub fn new(min: i64, max: i64, encoding: u8, bytes: Vec<u8>) -> Chunk {
        Chunk { min, max, encoding, bytes, place: None }
    }

    /// How many samples it has, as its head says.
    pub fn samples(&self) -> u16 {
        let head = self.bytes.first_chunk::<2>().map_or(0, |head| u16::from_be_bytes(*head));
        match self.encoding {
            HISTOGRAM_WITH_STARTS | FLOAT_HISTOGRAM_WITH_STARTS => head & SAMPLES_BELOW_FLAGS,
            _ => head,
        }
    }

    pub fn is_float(&self) -> bool {
        is_float(self.encoding)
    }
}

/// A chunk in bytes of someone else.
#[derive(Clone, Copy, Debug)]
pub struct ChunkRef<'a> {
    pub min: i64,
    pub max: i64,
    pub encoding: u8,
    pub bytes: &'a [u8],
}

impl ChunkRef<'_> {
    pub fn to_owned(&self) -> Chunk {
        Chunk::new(self.min, self.max, self.encoding, self.bytes.to_vec())
    }
}
