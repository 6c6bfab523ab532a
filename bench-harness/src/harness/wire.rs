//! Counts what is in a remote write request without making anything of it.
//!
//! A walk over protobuf's tags instead of a decoder, because the sink has to cost far less than those who send: no label
//! is copied, only its length is stepped over. Both versions of the protocol are read:
//!
//! ```text
//! 1.0  WriteRequest { 1: TimeSeries { 2: Sample, 3: Exemplar, 4: Histogram }, 3: Metadata }
//! 2.0  Request      { 4: symbol, 5: TimeSeries { 2: Sample, 3: Histogram, 4: Exemplar, 5: Metadata } }
//! ```

use std::ops::AddAssign;

use anyhow::{Context, bail};

/// The version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// What requests held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub series: u64,
    pub samples: u64,
    pub histograms: u64,
    pub exemplars: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.series += other.series;
        self.samples += other.samples;
        self.histograms += other.histograms;
        self.exemplars += other.exemplars;
    }
}

/// Counts an unpacked request.
pub fn count(message: &[u8], version: Version) -> anyhow::Result<Counts> {
    let series_field = if version == Version::One { 1 } else { 5 };
    let mut counts = Counts::default();
    each_field(message, |field, inner| {
        if field == series_field {
            counts.series += 1;
            each_field(inner, |field, _| {
                match (field, version) {
                    (2, _) => counts.samples += 1,
                    (3, Version::One) | (4, Version::Two) => counts.exemplars += 1,
                    (4, Version::One) | (3, Version::Two) => counts.histograms += 1,
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(())
    })?;
    Ok(counts)
}

/// Calls for each field with a length; steps over all others.
fn each_field<'a>(
    mut message: &'a [u8],
    mut found: impl FnMut(u64, &'a [u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let skipped = match tag & 7 {
            0 => {
                varint(&mut message)?;
                continue;
            }
            1 => 8,
            2 => varint(&mut message)?,
            5 => 4,
            kind => bail!("field {} has wire type {kind}; want 0, 1, 2 or 5", tag >> 3),
        };
        let length = usize::try_from(skipped).ok().filter(|&length| length <= message.len());
        let length = length.with_context(|| format!("field {} ends behind the message", tag >> 3))?;
        let (inner, rest) = message.split_at(length);
        message = rest;
        if tag & 7 == 2 {
            found(tag >> 3, inner)?;
        }
    }
    Ok(())
}

fn varint(message: &mut &[u8]) -> anyhow::Result<u64> {
    let mut value = 0u64;
    for (at, &byte) in message.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *message = &message[at + 1..];
            return Ok(value);
        }
    }
    bail!("a number without an end")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A field with a length.
    pub(crate) fn field(number: u8, inner: &[u8]) -> Vec<u8> {
        assert!(inner.len() < 128);
        [&[number << 3 | 2, inner.len() as u8], inner].concat()
    }

    /// A series of two labels and so many samples, as version 1.0 has it.
    pub(crate) fn series(samples: usize) -> Vec<u8> {
        let label = field(1, &[field(1, b"__name__"), field(2, b"up")].concat());
        let sample = field(2, &[9, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 16, 0x80, 1]);
        field(1, &[label, sample.repeat(samples)].concat())
    }

    #[track_caller]
    fn check(message: &[u8], version: Version, want: Result<Counts, &str>) {
        let got = count(message, version).map_err(|error| error.to_string());
        assert_eq!(got, want.map_err(str::to_owned));
    }

    #[test]
    fn version_one() {
        let counts = |series, samples| Ok(Counts { series, samples, ..Counts::default() });
        check(&[], Version::One, counts(0, 0));
        check(&[series(1), series(3)].concat(), Version::One, counts(2, 4));
        let metadata = field(3, &[8, 1]);
        let rich = field(1, &[field(3, b""), field(4, b"")].concat());
        check(
            &[metadata, rich].concat(),
            Version::One,
            Ok(Counts { series: 1, samples: 0, histograms: 1, exemplars: 1 }),
        );
    }

    #[test]
    fn version_two() {
        let symbols = [field(4, b""), field(4, b"__name__"), field(4, b"up")].concat();
        let series = field(5, &[field(1, &[1, 2]), field(2, &[]), field(2, &[]), field(3, &[])].concat());
        let want = Counts { series: 1, samples: 2, histograms: 1, exemplars: 0 };
        check(&[symbols, series].concat(), Version::Two, Ok(want));
    }

    #[test]
    fn broken_requests() {
        check(&[0x0a, 5, 1], Version::One, Err("field 1 ends behind the message"));
        check(&[0x0b], Version::One, Err("field 1 has wire type 3; want 0, 1, 2 or 5"));
        check(&[0xff; 11], Version::One, Err("a number without an end"));
        check(&[0x0a], Version::One, Err("a number without an end"));
        check(&[0x09, 1], Version::One, Err("field 1 ends behind the message"));
    }
}
