//! Histograms in rows of a log. Format: docs/format/histogram-row.md.
//!
//! Each sample stands for itself. A count is what it differs by from the bucket before, if all of a sample's are whole.

use crate::bytes::{Reader, put_varint, unzigzag, zigzag};
use series::histogram::{BucketCount, CUSTOM_SCHEMA, ResetHint};
use series::{Histogram, STALE_NAN, is_stale};

const MARKER: u8 = 1 << 0;
const WHOLE: u8 = 1 << 1;
const HINT_SHIFT: u8 = 2;

fn is_whole(histogram: &Histogram) -> bool {
    let whole = |count: f64| {
        count.fract() == 0.0 && (0.0..=series::EXACT_INTEGER_MAX).contains(&count) && !count.is_sign_negative()
    };
    let mut buckets = histogram.positive.iter().chain(&histogram.negative);
    whole(histogram.count) && whole(histogram.zero_count) && buckets.all(|bucket| whole(bucket.count))
}

pub fn put(histogram: &Histogram, out: &mut Vec<u8>) {
    if is_stale(histogram.sum) {
        out.push(MARKER);
        return;
    }
    let whole = is_whole(histogram);
    let hint = match histogram.hint {
        ResetHint::Unknown => 0,
        ResetHint::Reset => 1,
        ResetHint::NotReset => 2,
        ResetHint::Gauge => 3,
    };
    out.push(if whole { WHOLE } else { 0 } | hint << HINT_SHIFT);
    put_varint(zigzag(i64::from(histogram.schema)), out);
    out.extend_from_slice(&histogram.sum.to_bits().to_le_bytes());
    if histogram.is_custom() {
        put_varint(histogram.custom_values.len() as u64, out);
        histogram.custom_values.iter().for_each(|bound| out.extend_from_slice(&bound.to_bits().to_le_bytes()));
    } else {
        out.extend_from_slice(&histogram.zero_threshold.to_bits().to_le_bytes());
    }
    put_count(histogram.count, 0.0, whole, out);
    put_count(histogram.zero_count, 0.0, whole, out);
    put_side(&histogram.positive, whole, out);
    put_side(&histogram.negative, whole, out);
}

fn put_count(count: f64, before: f64, whole: bool, out: &mut Vec<u8>) {
    match whole {
        true => put_varint(zigzag(count as i64 - before as i64), out),
        false => out.extend_from_slice(&count.to_bits().to_le_bytes()),
    }
}

fn put_side(buckets: &[BucketCount], whole: bool, out: &mut Vec<u8>) {
    put_varint(buckets.len() as u64, out);
    let (mut next, mut before) = (0, 0.0);
    for bucket in buckets {
        put_varint(zigzag(i64::from(bucket.index) - next), out);
        put_count(bucket.count, before, whole, out);
        (next, before) = (i64::from(bucket.index) + 1, bucket.count);
    }
}

/// Reads what [`put`] writes, to the end of the bytes.
pub fn read(bytes: &[u8]) -> Result<Histogram, &'static str> {
    let mut reader = Reader::new(bytes);
    let flags = reader.byte()?;
    if flags & MARKER != 0 {
        return Ok(Histogram { sum: STALE_NAN, ..Histogram::default() });
    }
    let whole = flags & WHOLE != 0;
    let mut histogram = Histogram {
        hint: match flags >> HINT_SHIFT {
            0 => ResetHint::Unknown,
            1 => ResetHint::Reset,
            2 => ResetHint::NotReset,
            3 => ResetHint::Gauge,
            _ => return Err("an unknown hint"),
        },
        schema: i32::try_from(unzigzag(reader.varint()?)).map_err(|_| "an unknown schema")?,
        sum: f64::from_bits(reader.word()?),
        ..Histogram::default()
    };
    if histogram.schema == CUSTOM_SCHEMA {
        let bounds = (0..reader.count()?).map(|_| reader.word().map(f64::from_bits));
        histogram.custom_values = bounds.collect::<Result<Vec<f64>, _>>()?.into();
    } else {
        histogram.zero_threshold = f64::from_bits(reader.word()?);
    }
    histogram.count = read_count(&mut reader, 0.0, whole)?;
    histogram.zero_count = read_count(&mut reader, 0.0, whole)?;
    histogram.positive = read_side(&mut reader, whole)?;
    histogram.negative = read_side(&mut reader, whole)?;
    if reader.rest().is_empty() { Ok(histogram) } else { Err("bytes behind a histogram") }
}

fn read_count(reader: &mut Reader, before: f64, whole: bool) -> Result<f64, &'static str> {
    match whole {
        true => Ok((before as i64).wrapping_add(unzigzag(reader.varint()?)) as f64),
        false => reader.word().map(f64::from_bits),
    }
}

fn read_side(reader: &mut Reader, whole: bool) -> Result<Vec<BucketCount>, &'static str> {
    let count = reader.count()?;
    let (mut next, mut before) = (0i64, 0.0);
    let mut buckets: Vec<BucketCount> = Vec::with_capacity(count);
    for _ in 0..count {
        let index = next.checked_add(unzigzag(reader.varint()?)).and_then(|index| i32::try_from(index).ok());
        let index = index.ok_or("a bucket is out of range")?;
        if buckets.last().is_some_and(|last| last.index >= index) {
            return Err("buckets are not ascending");
        }
        before = read_count(reader, before, whole)?;
        next = i64::from(index) + 1;
        buckets.push(BucketCount { index, count: before });
    }
    Ok(buckets)
}
