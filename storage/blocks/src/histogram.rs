//! Chunks of native histograms, of whole counts and of floats, bit for bit as Prometheus reads and writes them.
//!
//! Format: docs/format/block.md, and Prometheus' page on chunks.
//!
//! Invariants:
//!   * a chunk has one layout: schema, zero threshold, bounds, and the buckets that any of its samples has
//!   * in a chunk of counters nothing falls: a reset begins another chunk, whose head says so
//!   * reading foreign bytes is an error, never a panic, and gives no more buckets than they have bits

use crate::bits::{BitWriter, Bits, XorWindow, put_varbit_int, put_varbit_uint};
use crate::chunk::Chunk;
pub use crate::chunk::{FLOAT_HISTOGRAM, FLOAT_HISTOGRAM_WITH_STARTS, HISTOGRAM, HISTOGRAM_WITH_STARTS};
use crate::error::{ChunkError, UNEXPECTED_END};
use crate::start_times::{NO_START, StartReader, StartWriter};
use ahash::AHashSet;
use series::histogram::{BucketCount, CUSTOM_SCHEMA, ResetHint, SCHEMA_MAX};
use series::{Histogram, is_stale};
use std::sync::Arc;

/// Samples of a chunk that is written here, and counts of buckets in all of them.
const SAMPLES_MAX: usize = 120;
const COUNTS_MAX: usize = 65_536;
/// Longest chunk that is read. A count takes nine bytes at most, so none that is written here is as long.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Schemas that may come with a later Prometheus; finer ones than ours are read at our finest.
const SCHEMAS_KNOWN: std::ops::RangeInclusive<i64> = -9..=52;

const RESET: u8 = 0b1000_0000;
const NO_RESET: u8 = 0b0100_0000;
const GAUGE: u8 = 0b1100_0000;
const FLAGS: u8 = 0b1100_0000;

/// A zero threshold of 2^k is one byte for k from -243 to 10.
const THRESHOLD_EXPONENTS: std::ops::RangeInclusive<i64> = -243..=10;
const THRESHOLD_BYTE_BIAS: i64 = 244;
const THRESHOLD_IN_FULL: u8 = 255;
/// Custom bounds of so many thousandths at most are written as such.
const BOUND_THOUSANDTHS_MAX: f64 = 33_554_430.0;

/// Whether every count is a whole number.
fn is_whole(histogram: &Histogram) -> bool {
    let whole = |count: f64| count.fract() == 0.0 && (0.0..=series::EXACT_INTEGER_MAX).contains(&count);
    let mut buckets = histogram.positive.iter().chain(&histogram.negative);
    whole(histogram.count) && whole(histogram.zero_count) && buckets.all(|bucket| whole(bucket.count))
}

fn same_layout(one: &Histogram, other: &Histogram) -> bool {
    let bounds =
        |histogram: &Histogram| histogram.custom_values.iter().map(|bound| bound.to_bits()).collect::<Vec<_>>();
    one.schema == other.schema
        && one.zero_threshold.to_bits() == other.zero_threshold.to_bits()
        && (!one.is_custom() || bounds(one) == bounds(other))
}

/// Whether a sample belongs into the chunk of the one before it. What follows a marker does not, unless it is one.
fn goes_on(before: &Histogram, now: &Histogram) -> bool {
    if is_stale(now.sum) {
        return true;
    }
    let is_gauge = now.hint == ResetHint::Gauge;
    !is_stale(before.sum)
        && is_gauge == (before.hint == ResetHint::Gauge)
        && same_layout(before, now)
        && (is_gauge || (now.hint != ResetHint::Reset && !now.detect_reset(before)))
}

/// What the head of a chunk says of its first sample and the one before it.
fn flags(before: Option<&Histogram>, first: &Histogram) -> u8 {
    match (first.hint, before) {
        (ResetHint::Gauge, _) => GAUGE,
        (ResetHint::Reset, _) => RESET,
        (_, Some(before)) if !is_stale(before.sum) && same_layout(before, first) && before.hint != ResetHint::Gauge => {
            if first.detect_reset(before) {
                RESET
            } else {
                NO_RESET
            }
        }
        _ => 0,
    }
}

/// How many samples from the first on are one chunk.
fn run_length(samples: &[(i64, Arc<Histogram>)]) -> usize {
    let mut indices: AHashSet<(bool, i32)> = AHashSet::new();
    let mut fits = |place: usize, histogram: &Histogram| {
        indices.extend(histogram.positive.iter().map(|bucket| (true, bucket.index)));
        indices.extend(histogram.negative.iter().map(|bucket| (false, bucket.index)));
        place == 0 || (place + 1) * indices.len() <= COUNTS_MAX
    };
    let belongs = |place: usize| place == 0 || goes_on(&samples[place - 1].1, &samples[place].1);
    (0..samples.len()).take_while(|place| belongs(*place) && fits(*place, &samples[*place].1)).count()
}

/// Chunks of samples of one series in order of time, with a start time for each, or none for all of them.
pub fn encode(samples: &[(i64, Arc<Histogram>)], starts: &[i64]) -> Vec<Chunk> {
    let whole = samples.iter().all(|(_, histogram)| is_stale(histogram.sum) || is_whole(histogram));
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < samples.len() {
        let rest = &samples[start..samples.len().min(start + SAMPLES_MAX)];
        let run = &rest[..run_length(rest)];
        let before = start.checked_sub(1).map(|before| &*samples[before].1);
        let flags = flags(before, &run[0].1);
        let starts = starts.get(start..start + run.len()).filter(|all| all.iter().any(|start| *start != NO_START));
        let starts = starts.unwrap_or(&[]);
        let bytes = match whole {
            true => encode_run::<Whole>(run, starts, flags),
            false => encode_run::<Float>(run, starts, flags),
        };
        let encoding = match (whole, starts.is_empty()) {
            (true, true) => HISTOGRAM,
            (true, false) => HISTOGRAM_WITH_STARTS,
            (false, true) => FLOAT_HISTOGRAM,
            (false, false) => FLOAT_HISTOGRAM_WITH_STARTS,
        };
        chunks.push(Chunk::new(run[0].0, run[run.len() - 1].0, encoding, bytes));
        start += run.len();
    }
    chunks
}

/// How a count is written: against those before it in its column.
trait Column: Default + Clone {
    /// Buckets hold what they differ by from the bucket before, rather than their counts.
    const IN_STEPS: bool;
    fn put_first(&mut self, value: f64, is_bucket: bool, bits: &mut BitWriter, out: &mut Vec<u8>);
    fn put(&mut self, value: f64, bits: &mut BitWriter, out: &mut Vec<u8>);
    fn take_first(&mut self, is_bucket: bool, bits: &mut Bits) -> Result<(), ChunkError>;
    fn take(&mut self, bits: &mut Bits) -> Result<(), ChunkError>;
    fn value(&self) -> f64;
}

/// Whole numbers: how their difference changes.
#[derive(Clone, Default)]
struct Whole {
    value: i64,
    delta: i64,
}

impl Column for Whole {
    const IN_STEPS: bool = true;

    fn put_first(&mut self, value: f64, is_bucket: bool, bits: &mut BitWriter, out: &mut Vec<u8>) {
        self.value = value as i64;
        match is_bucket {
            true => put_varbit_int(self.value, bits, out),
            false => put_varbit_uint(self.value as u64, bits, out),
        }
    }

    fn put(&mut self, value: f64, bits: &mut BitWriter, out: &mut Vec<u8>) {
        let delta = (value as i64).wrapping_sub(self.value);
        put_varbit_int(delta.wrapping_sub(self.delta), bits, out);
        *self = Whole { value: value as i64, delta };
    }

    fn take_first(&mut self, is_bucket: bool, bits: &mut Bits) -> Result<(), ChunkError> {
        self.value = if is_bucket { bits.varbit_int()? } else { bits.varbit_uint()? as i64 };
        Ok(())
    }

    fn take(&mut self, bits: &mut Bits) -> Result<(), ChunkError> {
        self.delta = self.delta.wrapping_add(bits.varbit_int()?);
        self.value = self.value.wrapping_add(self.delta);
        Ok(())
    }

    fn value(&self) -> f64 {
        self.value as f64
    }
}

/// Floats: which bits change.
#[derive(Clone, Default)]
struct Float {
    value: u64,
    window: XorWindow,
}

impl Column for Float {
    const IN_STEPS: bool = false;

    fn put_first(&mut self, value: f64, _: bool, bits: &mut BitWriter, out: &mut Vec<u8>) {
        self.value = value.to_bits();
        bits.put(self.value, 64, out);
    }

    fn put(&mut self, value: f64, bits: &mut BitWriter, out: &mut Vec<u8>) {
        self.window.put(value.to_bits() ^ self.value, bits, out);
        self.value = value.to_bits();
    }

    fn take_first(&mut self, _: bool, bits: &mut Bits) -> Result<(), ChunkError> {
        self.value = bits.take(64)?;
        Ok(())
    }

    fn take(&mut self, bits: &mut Bits) -> Result<(), ChunkError> {
        self.value ^= self.window.take(bits)?;
        Ok(())
    }

    fn value(&self) -> f64 {
        f64::from_bits(self.value)
    }
}

// --- layout -------------------------------------------------------------------------------------------------------

fn put_threshold(threshold: f64, bits: &mut BitWriter, out: &mut Vec<u8>) {
    let (exponent, fraction) = ((threshold.to_bits() >> 52) as i64 - 1023, threshold.to_bits() << 12);
    if threshold == 0.0 {
        bits.put(0, 8, out);
    } else if fraction == 0 && THRESHOLD_EXPONENTS.contains(&exponent) {
        bits.put((exponent + THRESHOLD_BYTE_BIAS) as u64, 8, out);
    } else {
        bits.put(u64::from(THRESHOLD_IN_FULL), 8, out);
        bits.put(threshold.to_bits(), 64, out);
    }
}

fn take_threshold(bits: &mut Bits) -> Result<f64, ChunkError> {
    Ok(match bits.take(8)? as u8 {
        0 => 0.0,
        THRESHOLD_IN_FULL => f64::from_bits(bits.take(64)?),
        byte => f64::from_bits(((i64::from(byte) - THRESHOLD_BYTE_BIAS + 1023) as u64) << 52),
    })
}

/// Buckets as spans: how many follow each other, and how far they are from those before.
fn put_spans(indices: &[i32], bits: &mut BitWriter, out: &mut Vec<u8>) {
    let spans: Vec<&[i32]> = indices.chunk_by(|one, next| i64::from(*one) + 1 == i64::from(*next)).collect();
    put_varbit_uint(spans.len() as u64, bits, out);
    let mut end = 0i64;
    for span in spans {
        let first = i64::from(span[0]);
        put_varbit_uint(span.len() as u64, bits, out);
        put_varbit_int(first - end, bits, out);
        end = first + span.len() as i64;
    }
}

fn take_spans(bits: &mut Bits) -> Result<Vec<i32>, ChunkError> {
    let too_many = ChunkError("more buckets than the chunk can hold");
    let spans = bits.varbit_uint()?;
    if spans > bits.left() as u64 {
        return Err(too_many);
    }
    let mut indices = Vec::new();
    let mut end = 0i64;
    for i in 0..spans {
        let (length, offset) = (bits.varbit_uint()?, bits.varbit_int()?);
        if i > 0 && offset < 0 {
            return Err(ChunkError("spans of buckets are not ascending"));
        }
        // Every bucket has a bit in the first sample.
        if length > bits.left() as u64 || indices.len() as u64 + length > bits.left() as u64 {
            return Err(too_many);
        }
        let first = end.checked_add(offset).ok_or(too_many)?;
        end = first.checked_add(length as i64).ok_or(too_many)?;
        if first < i64::from(i32::MIN) || end > i64::from(i32::MAX) {
            return Err(ChunkError("a bucket is out of range"));
        }
        indices.extend(first as i32..end as i32);
    }
    Ok(indices)
}

fn put_bounds(bounds: &[f64], bits: &mut BitWriter, out: &mut Vec<u8>) {
    put_varbit_uint(bounds.len() as u64, bits, out);
    for bound in bounds {
        let thousandths = (bound * 1000.0).round();
        if (0.0..=BOUND_THOUSANDTHS_MAX).contains(&thousandths) && (thousandths / 1000.0).to_bits() == bound.to_bits() {
            put_varbit_uint(thousandths as u64 + 1, bits, out);
        } else {
            bits.put(0, 1, out);
            bits.put(bound.to_bits(), 64, out);
        }
    }
}

fn take_bounds(bits: &mut Bits) -> Result<Vec<f64>, ChunkError> {
    let count = bits.varbit_uint()?;
    if count > bits.left() as u64 {
        return Err(ChunkError("more bounds than the chunk can hold"));
    }
    let bound = |_| match bits.varbit_uint()? {
        0 => bits.take(64).map(f64::from_bits),
        thousandths => Ok((thousandths - 1) as f64 / 1000.0),
    };
    (0..count).map(bound).collect()
}

/// Every bucket that one of the samples has.
fn all_indices(run: &[(i64, Arc<Histogram>)], of: impl Fn(&Histogram) -> &[BucketCount]) -> Vec<i32> {
    let of_sample = |(_, histogram): &(i64, Arc<Histogram>)| match is_stale(histogram.sum) {
        true => Vec::new(),
        false => of(histogram).iter().map(|bucket| bucket.index).collect::<Vec<i32>>(),
    };
    let mut indices: Vec<i32> = run.iter().flat_map(of_sample).collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}

/// What is written for each bucket of the layout.
fn steps<'a>(indices: &'a [i32], buckets: &'a [BucketCount], in_steps: bool) -> impl Iterator<Item = f64> + 'a {
    let (mut rest, mut last) = (buckets.iter().peekable(), 0.0);
    indices.iter().map(move |index| {
        let count = rest.next_if(|bucket| bucket.index == *index).map_or(0.0, |bucket| bucket.count);
        let step = if in_steps { count - last } else { count };
        last = count;
        step
    })
}

fn encode_run<C: Column>(run: &[(i64, Arc<Histogram>)], starts: &[i64], flags: u8) -> Vec<u8> {
    let mut out = (run.len() as u16).to_be_bytes().to_vec();
    // With start times, the flags are above the number of samples, and the byte says where start times are.
    out.push(flags);
    if !starts.is_empty() {
        out[0] |= flags;
    }
    let mut start_writer = StartWriter::default();
    let mut bits = BitWriter::default();
    let (positive, negative) = (all_indices(run, |one| &one.positive), all_indices(run, |one| &one.negative));
    let stale = Histogram::default();
    let layout = if is_stale(run[0].1.sum) { &stale } else { &*run[0].1 };
    put_threshold(layout.zero_threshold, &mut bits, &mut out);
    put_varbit_int(i64::from(layout.schema), &mut bits, &mut out);
    put_spans(&positive, &mut bits, &mut out);
    put_spans(&negative, &mut bits, &mut out);
    if layout.is_custom() {
        put_bounds(&layout.custom_values, &mut bits, &mut out);
    }
    let (mut count, mut zero_count, mut sum) = (C::default(), C::default(), Float::default());
    let mut buckets = vec![C::default(); positive.len() + negative.len()];
    let (mut at, mut delta) = (0i64, 0i64);
    for (i, (time, histogram)) in run.iter().enumerate() {
        if i == 0 {
            put_varbit_int(*time, &mut bits, &mut out);
        } else {
            let now = time.wrapping_sub(at);
            put_varbit_int(now.wrapping_sub(delta), &mut bits, &mut out);
            delta = now;
        }
        let before = if i == 0 { *time } else { at };
        at = *time;
        let is_marker = is_stale(histogram.sum);
        let (counted, zeros) = if is_marker { (0.0, 0.0) } else { (histogram.count, histogram.zero_count) };
        let filled = steps(&positive, &histogram.positive, C::IN_STEPS);
        let filled = filled.chain(steps(&negative, &histogram.negative, C::IN_STEPS)).zip(&mut buckets);
        if i == 0 {
            count.put_first(counted, false, &mut bits, &mut out);
            zero_count.put_first(zeros, false, &mut bits, &mut out);
            sum.put_first(histogram.sum, false, &mut bits, &mut out);
            filled.for_each(|(step, bucket)| bucket.put_first(step, true, &mut bits, &mut out));
        } else {
            count.put(counted, &mut bits, &mut out);
            zero_count.put(zeros, &mut bits, &mut out);
            sum.put(histogram.sum, &mut bits, &mut out);
            // A marker has no buckets.
            if !is_marker {
                filled.for_each(|(step, bucket)| bucket.put(step, &mut bits, &mut out));
            }
        }
        if let Some(start) = starts.get(i) {
            start_writer.put(i as u16, before, *start, &mut bits, &mut out);
        }
    }
    bits.finish(&mut out);
    if !starts.is_empty() {
        out[2] = start_writer.head();
    }
    out
}

/// Reads all samples of a chunk, in order: start time, [`NO_START`] if there is none, time and histogram.
pub fn decode(encoding: u8, chunk: &[u8], sample: impl FnMut(i64, i64, Histogram)) -> Result<(), ChunkError> {
    match encoding {
        HISTOGRAM => decode_run::<Whole>(chunk, false, sample),
        FLOAT_HISTOGRAM => decode_run::<Float>(chunk, false, sample),
        HISTOGRAM_WITH_STARTS => decode_run::<Whole>(chunk, true, sample),
        FLOAT_HISTOGRAM_WITH_STARTS => decode_run::<Float>(chunk, true, sample),
        _ => Err(ChunkError("its encoding is not read by this build")),
    }
}

fn decode_run<C: Column>(
    chunk: &[u8],
    has_starts: bool,
    mut sample: impl FnMut(i64, i64, Histogram),
) -> Result<(), ChunkError> {
    let (head, bytes) = chunk.split_first_chunk::<3>().ok_or(ChunkError(UNEXPECTED_END))?;
    let (first, flags, starts) = match has_starts {
        true => (head[0] & !FLAGS, head[0] & FLAGS, head[2]),
        false => (head[0], head[2] & FLAGS, 0),
    };
    let (samples, mut starts) = (u16::from_be_bytes([first, head[1]]), StartReader::new(starts));
    if samples == 0 {
        return Ok(());
    }
    if chunk.len() > CHUNK_BYTES_MAX {
        return Err(ChunkError("it is too long"));
    }
    let mut bits = Bits::new(bytes);
    let zero_threshold = take_threshold(&mut bits)?;
    let schema = bits.varbit_int()?;
    let (positive, negative) = (take_spans(&mut bits)?, take_spans(&mut bits)?);
    let mut custom_values: Arc<[f64]> = Arc::from([]);
    if schema == i64::from(CUSTOM_SCHEMA) {
        custom_values = take_bounds(&mut bits)?.into();
        let outside = |index: &i32| *index < 0 || *index as usize > custom_values.len();
        if !negative.is_empty() || positive.iter().any(outside) {
            return Err(ChunkError("a bucket is outside of the custom bounds"));
        }
    } else if !SCHEMAS_KNOWN.contains(&schema) {
        return Err(ChunkError("a histogram of an unknown schema"));
    }
    let schema = schema as i32;
    let (mut count, mut zero_count, mut sum) = (C::default(), C::default(), Float::default());
    let mut buckets = vec![C::default(); positive.len() + negative.len()];
    let (mut at, mut delta) = (0i64, 0i64);
    for i in 0..samples {
        let mut before = at;
        if i == 0 {
            at = bits.varbit_int()?;
            before = at;
            count.take_first(false, &mut bits)?;
            zero_count.take_first(false, &mut bits)?;
            sum.take_first(false, &mut bits)?;
            buckets.iter_mut().try_for_each(|bucket| bucket.take_first(true, &mut bits))?;
        } else {
            delta = delta.wrapping_add(bits.varbit_int()?);
            at = at.wrapping_add(delta);
            count.take(&mut bits)?;
            zero_count.take(&mut bits)?;
            sum.take(&mut bits)?;
            if !is_stale(sum.value()) {
                buckets.iter_mut().try_for_each(|bucket| bucket.take(&mut bits))?;
            }
        }
        let start = starts.take(i, before, &mut bits)?;
        if is_stale(sum.value()) {
            sample(start, at, Histogram { sum: sum.value(), ..Histogram::default() });
            continue;
        }
        let (of_positive, of_negative) = buckets.split_at(positive.len());
        let mut histogram = Histogram {
            hint: match (flags, i) {
                (GAUGE, _) => ResetHint::Gauge,
                (_, 1..) => ResetHint::NotReset,
                (RESET, _) => ResetHint::Reset,
                // The chunk before may be gone.
                _ => ResetHint::Unknown,
            },
            schema,
            zero_threshold,
            zero_count: zero_count.value(),
            count: count.value(),
            sum: sum.value(),
            positive: counts(&positive, of_positive),
            negative: counts(&negative, of_negative),
            custom_values: custom_values.clone(),
        };
        while histogram.schema > SCHEMA_MAX {
            // A step is at most as many halvings as a bucket's number has bits.
            histogram.reduce(SCHEMA_MAX.max(histogram.schema - 31));
        }
        sample(start, at, histogram);
    }
    Ok(())
}

fn counts<C: Column>(indices: &[i32], columns: &[C]) -> Vec<BucketCount> {
    let mut last = 0.0;
    let buckets = indices.iter().zip(columns).map(|(index, column)| {
        last = if C::IN_STEPS { last + column.value() } else { column.value() };
        BucketCount { index: *index, count: last }
    });
    buckets.filter(|bucket| bucket.count != 0.0).collect()
}

#[cfg(test)]
mod tests;
