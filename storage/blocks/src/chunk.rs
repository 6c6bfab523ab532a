//! A chunk: samples of one series, encoded.

/// Numbers of the encodings: floats, histograms of whole counts, histograms of floats.
pub const XOR: u8 = 1;
pub const HISTOGRAM: u8 = 2;
pub const FLOAT_HISTOGRAM: u8 = 3;

/// A chunk with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Times of its first and its last sample.
    pub min: i64,
    pub max: i64,
    pub encoding: u8,
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// How many samples it has, as its head says.
    pub fn samples(&self) -> u16 {
        self.bytes.first_chunk::<2>().map_or(0, |head| u16::from_be_bytes(*head))
    }

    pub fn is_float(&self) -> bool {
        self.encoding == XOR
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
        Chunk { min: self.min, max: self.max, encoding: self.encoding, bytes: self.bytes.to_vec() }
    }
}
