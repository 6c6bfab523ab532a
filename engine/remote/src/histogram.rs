//! Native histograms on the wire: the same message in remote write 1.0, 2.0 and remote read.
//!
//! Invariants:
//!   * what comes out satisfies what Prometheus asks of a histogram; otherwise there is its text
//!   * a histogram has at most [`BUCKETS_MAX`] buckets and custom bounds

use crate::wire::{Fields, Value, put_bytes, put_double, put_number, put_varint};
use series::histogram::{BucketCount, CUSTOM_SCHEMA, ResetHint, SCHEMA_MAX, SCHEMA_MIN};
use series::{Histogram, is_stale};

/// Buckets and bounds of one histogram: more than any resolution needs, less than what a message could claim.
const BUCKETS_MAX: usize = 8192;
/// The finest schema that is taken, at our finest resolution, as Prometheus does.
const SCHEMA_RESERVED_MAX: i32 = 52;

/// Field of a histogram of 2.0 with its start time.
pub(crate) const HISTOGRAM_START_FIELD: u64 = 17;

/// Why a histogram is not taken. The texts are Prometheus'.
pub type Invalid = String;

/// One side of the buckets as it is sent.
#[derive(Default)]
struct Side {
    spans: Vec<(i64, u64)>,
    deltas: Vec<i64>,
    counts: Vec<f64>,
}

/// A native histogram with spans and counts as a target or writer sends them. A side is spans (offset to the one before,
/// and length), differences of whole counts, and counts of floats.
pub struct HistogramParts {
    pub hint: ResetHint,
    pub is_float: bool,
    pub schema: i32,
    pub zero_threshold: f64,
    pub zero_count: f64,
    pub count: f64,
    pub sum: f64,
    pub positive: (Vec<(i64, u64)>, Vec<i64>, Vec<f64>),
    pub negative: (Vec<(i64, u64)>, Vec<i64>, Vec<f64>),
    /// Upper bounds of custom buckets.
    pub custom_bounds: Vec<f64>,
}

/// The histogram of these parts, or why it is none, in Prometheus' words. A schema that is finer than any of ours, up to
/// 52, is reduced.
pub fn check_histogram(parts: HistogramParts) -> Result<Histogram, String> {
    let HistogramParts { hint, is_float, schema, zero_threshold, zero_count, count, sum, .. } = parts;
    let histogram = Histogram { hint, zero_threshold, zero_count, count, sum, ..Histogram::default() };
    let [positive, negative] =
        [parts.positive, parts.negative].map(|(spans, deltas, counts)| Side { spans, deltas, counts });
    checked(histogram, schema, is_float, [positive, negative], parts.custom_bounds)
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Numbers of a repeated field of doubles, packed or not.
fn doubles(value: Value, out: &mut Vec<f64>) -> Result<(), &'static str> {
    match value {
        Value::Fixed64(bits) => out.push(f64::from_bits(bits)),
        Value::Bytes(bytes) if bytes.len().is_multiple_of(8) => {
            let each = bytes.chunks_exact(8).map(|eight| f64::from_le_bytes(eight.try_into().expect("eight bytes")));
            out.extend(each);
        }
        _ => return Err("a field is of another type"),
    }
    Ok(())
}

fn span(value: Value) -> Result<(i64, u64), &'static str> {
    let (mut offset, mut length) = (0, 0);
    let mut fields = Fields::new(value.bytes()?);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => offset = i64::from(zigzag(value.number()?) as i32),
            2 => length = u64::from(value.number()? as u32),
            _ => {}
        }
    }
    Ok((offset, length))
}

/// Reads a message: time, and the histogram or why it is none. The outer error is one of the encoding.
pub fn decode(bytes: &[u8]) -> Result<(i64, Result<Histogram, Invalid>), &'static str> {
    let mut at = 0;
    let mut histogram = Histogram::default();
    let (mut positive, mut negative, mut bounds) = (Side::default(), Side::default(), Vec::new());
    let mut is_float = false;
    let mut schema = 0i64;
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => (histogram.count, is_float) = (value.number()? as f64, false),
            2 => (histogram.count, is_float) = (value.double()?, true),
            3 => histogram.sum = value.double()?,
            4 => schema = i64::from(zigzag(value.number()?) as i32),
            5 => histogram.zero_threshold = value.double()?,
            6 => histogram.zero_count = value.number()? as f64,
            7 => histogram.zero_count = value.double()?,
            8 => negative.spans.push(span(value)?),
            9 => value.numbers(|number| negative.deltas.push(zigzag(number)))?,
            10 => doubles(value, &mut negative.counts)?,
            11 => positive.spans.push(span(value)?),
            12 => value.numbers(|number| positive.deltas.push(zigzag(number)))?,
            13 => doubles(value, &mut positive.counts)?,
            14 => {
                histogram.hint = match value.number()? {
                    1 => ResetHint::Reset,
                    2 => ResetHint::NotReset,
                    3 => ResetHint::Gauge,
                    _ => ResetHint::Unknown,
                }
            }
            15 => at = value.number()? as i64,
            16 => doubles(value, &mut bounds)?,
            _ => {}
        }
        let counts = [&positive, &negative].map(|side| side.deltas.len() + side.counts.len() + side.spans.len());
        if counts.into_iter().sum::<usize>() + bounds.len() > 4 * BUCKETS_MAX {
            return Ok((at, Err(format!("a histogram has more than {BUCKETS_MAX} buckets"))));
        }
    }
    if is_stale(histogram.sum) {
        return Ok((at, Ok(Histogram { sum: histogram.sum, ..Histogram::default() })));
    }
    Ok((at, checked(histogram, schema as i32, is_float, [positive, negative], bounds)))
}

fn checked(
    mut histogram: Histogram,
    schema: i32,
    is_float: bool,
    [positive, negative]: [Side; 2],
    bounds: Vec<f64>,
) -> Result<Histogram, Invalid> {
    histogram.schema = schema;
    if schema == CUSTOM_SCHEMA {
        check_bounds(&bounds, &positive.spans).map_err(|reason| format!("custom buckets: {reason}"))?;
        let counts = |side: &Side| side.deltas.len() + side.counts.len();
        for (there, what) in [
            (histogram.zero_count != 0.0, "must have zero count of 0"),
            (histogram.zero_threshold != 0.0, "must have zero threshold of 0"),
            (!negative.spans.is_empty(), "must not have negative spans"),
            (counts(&negative) > 0, "must not have negative buckets"),
        ] {
            if there {
                return Err(format!("custom buckets: {what}"));
            }
        }
        histogram.custom_values = bounds.into();
    } else if !(SCHEMA_MIN..=SCHEMA_RESERVED_MAX).contains(&schema) {
        return Err(format!(
            "histogram has an invalid schema, which must be between {SCHEMA_MIN} and {SCHEMA_MAX} for exponential \
             buckets, or {CUSTOM_SCHEMA} for custom buckets, got schema {schema}"
        ));
    } else if !bounds.is_empty() {
        return Err("histogram with exponential schema must not have custom bounds".into());
    }
    let negative_count = "histogram has a bucket whose observation count is negative";
    let mut observations = histogram.zero_count;
    for (side, name, buckets) in
        [(positive, "positive side", &mut histogram.positive), (negative, "negative side", &mut histogram.negative)]
    {
        let counts = if is_float { side.counts } else { summed(&side.deltas) };
        *buckets = placed(&side.spans, &counts).map_err(|reason| format!("{name}: {reason}"))?;
        if let Some(place) = counts.iter().position(|count| *count < 0.0) {
            let place = place + 1;
            let count = counts[place - 1];
            return Err(format!("{name}: bucket number {place} has observation count of {count}: {negative_count}"));
        }
        observations += counts.iter().sum::<f64>();
    }
    if histogram.zero_count < 0.0 {
        return Err(format!("zero bucket has observation count of {}: {negative_count}", histogram.zero_count));
    }
    if histogram.count < 0.0 {
        return Err(format!("observation count is {}: histogram's observation count is negative", histogram.count));
    }
    if !is_float && histogram.count > series::EXACT_INTEGER_MAX {
        return Err(format!("observation count is {}: more than 2^53 are not kept exactly", histogram.count));
    }
    let count = histogram.count;
    let found = || format!("{observations} observations found in buckets, but the Count field is {count}");
    if !is_float && histogram.sum.is_nan() && observations > count {
        return Err(format!(
            "{}: histogram's observation count should be at least the number of observations found in the buckets",
            found()
        ));
    }
    if !is_float && !histogram.sum.is_nan() && observations != count {
        return Err(format!(
            "{}: histogram's observation count should equal the number of observations found in the buckets (in absence \
             of NaN)",
            found()
        ));
    }
    while histogram.schema > SCHEMA_MAX {
        // A step is at most as many halvings as a bucket's number has bits.
        histogram.reduce(SCHEMA_MAX.max(histogram.schema - 31));
    }
    Ok(histogram)
}

fn check_bounds(bounds: &[f64], spans: &[(i64, u64)]) -> Result<(), String> {
    let mut last = f64::NEG_INFINITY;
    for bound in bounds {
        if bound.is_nan() {
            return Err("histogram custom bounds must not be NaN".into());
        }
        if *bound <= last {
            return Err(format!(
                "previous bound is {last:.6} and current is {bound:.6}: histogram custom bounds must be in strictly \
                 increasing order"
            ));
        }
        last = *bound;
    }
    if last == f64::INFINITY {
        return Err("last +Inf bound must not be explicitly defined: histogram custom bounds must be finite".into());
    }
    if let Some(place) = spans.iter().position(|(offset, _)| *offset < 0) {
        return Err(negative_offset(place, spans[place].0));
    }
    let length: i64 = spans.iter().map(|(offset, length)| offset.saturating_add(*length as i64)).sum();
    if length > bounds.len() as i64 + 1 {
        return Err(format!(
            "only {} custom bounds defined which is insufficient to cover total span length of {length}: histogram \
             custom bounds are too few",
            bounds.len()
        ));
    }
    Ok(())
}

fn negative_offset(place: usize, offset: i64) -> String {
    format!("span number {} with offset {offset}: histogram has a span whose offset is negative", place + 1)
}

/// From differences to counts.
fn summed(deltas: &[i64]) -> Vec<f64> {
    let mut count = 0i64;
    let next = |delta: &i64| {
        count = count.saturating_add(*delta);
        count as f64
    };
    deltas.iter().map(next).collect()
}

/// Populated buckets of one side.
fn placed(spans: &[(i64, u64)], counts: &[f64]) -> Result<Vec<BucketCount>, String> {
    let mut needed = 0u64;
    for (i, (offset, length)) in spans.iter().enumerate() {
        if i > 0 && *offset < 0 {
            return Err(negative_offset(i, *offset));
        }
        needed = needed.saturating_add(*length);
    }
    if needed != counts.len() as u64 {
        return Err(format!(
            "spans need {needed} buckets, have {} buckets: histogram spans specify different number of buckets than \
             provided",
            counts.len()
        ));
    }
    if counts.len() > BUCKETS_MAX {
        return Err(format!("more than {BUCKETS_MAX} buckets are not taken"));
    }
    let mut counts = counts.iter();
    let mut buckets = Vec::new();
    let mut next = 0i64;
    for (offset, length) in spans {
        next = next.saturating_add(*offset);
        for count in counts.by_ref().take(*length as usize) {
            let index = i32::try_from(next).map_err(|_| "a bucket is out of range".to_owned())?;
            next += 1;
            if *count != 0.0 {
                buckets.push(BucketCount { index, count: *count });
            }
        }
    }
    Ok(buckets)
}

/// Encodes a message of floats, which readers of remote read take for both kinds.
pub fn encode(at: i64, histogram: &Histogram, out: &mut Vec<u8>) {
    encode_as(at, histogram, false, out);
}

/// Encodes a message for remote write: of integers if all counts are whole, so that a receiver keeps the kind.
pub fn encode_for_write(at: i64, histogram: &Histogram, out: &mut Vec<u8>) {
    let is_whole = |count: f64| count.fract() == 0.0 && (0.0..=series::EXACT_INTEGER_MAX).contains(&count);
    let mut buckets = histogram.positive.iter().chain(&histogram.negative);
    let is_integer =
        is_whole(histogram.count) && is_whole(histogram.zero_count) && buckets.all(|bucket| is_whole(bucket.count));
    encode_as(at, histogram, is_integer, out);
}

/// Adds a start time to an encoded message of 2.0.
pub fn encode_start(start: i64, out: &mut Vec<u8>) {
    put_number(HISTOGRAM_START_FIELD, start as u64, out);
}

fn encode_as(at: i64, histogram: &Histogram, is_integer: bool, out: &mut Vec<u8>) {
    if is_stale(histogram.sum) {
        put_number(1, 0, out);
        put_double(3, histogram.sum, out);
        put_number(15, at as u64, out);
        return;
    }
    match is_integer {
        true => put_number(1, histogram.count as u64, out),
        false => put_double(2, histogram.count, out),
    }
    put_double(3, histogram.sum, out);
    put_number(4, unzigzag(histogram.schema), out);
    put_double(5, histogram.zero_threshold, out);
    match is_integer {
        true => put_number(6, histogram.zero_count as u64, out),
        false => put_double(7, histogram.zero_count, out),
    }
    put_side(&histogram.negative, 8, is_integer, out);
    put_side(&histogram.positive, 11, is_integer, out);
    let hint = match histogram.hint {
        ResetHint::Unknown => 0,
        ResetHint::Reset => 1,
        ResetHint::NotReset => 2,
        ResetHint::Gauge => 3,
    };
    put_number(14, hint, out);
    put_number(15, at as u64, out);
    if !histogram.custom_values.is_empty() {
        put_doubles(16, histogram.custom_values.iter().copied(), out);
    }
}

fn unzigzag(value: i32) -> u64 {
    u64::from((value << 1 ^ value >> 31) as u32)
}

fn put_doubles(field: u64, values: impl Iterator<Item = f64>, out: &mut Vec<u8>) {
    let bytes: Vec<u8> = values.flat_map(|value| value.to_bits().to_le_bytes()).collect();
    put_bytes(field, &bytes, out);
}

/// Spans, then in the field behind them the differences of whole counts, or in the one after that floats.
fn put_side(buckets: &[BucketCount], spans_field: u64, is_integer: bool, out: &mut Vec<u8>) {
    if buckets.is_empty() {
        return;
    }
    let mut end = 0;
    for span in buckets.chunk_by(|one, next| one.index.checked_add(1) == Some(next.index)) {
        let mut message = Vec::new();
        put_number(1, unzigzag(span[0].index.wrapping_sub(end)), &mut message);
        put_number(2, span.len() as u64, &mut message);
        put_bytes(spans_field, &message, out);
        end = span[span.len() - 1].index.wrapping_add(1);
    }
    if !is_integer {
        put_doubles(spans_field + 2, buckets.iter().map(|bucket| bucket.count), out);
        return;
    }
    let (mut deltas, mut before) = (Vec::new(), 0);
    for bucket in buckets {
        let delta = bucket.count as i64 - before;
        put_varint((delta << 1 ^ delta >> 63) as u64, &mut deltas);
        before = bucket.count as i64;
    }
    put_bytes(spans_field + 1, &deltas, out);
}

/// A whole histogram as Prometheus sends it, for tests of what reads it.
#[cfg(test)]
pub fn encode_whole(at: i64, count: u64, spans: &[(i32, u32)], deltas: &[i64], out: &mut Vec<u8>) {
    put_number(1, count, out);
    put_double(3, 1.5, out);
    put_number(4, unzigzag(3), out);
    put_double(5, 0.001, out);
    put_number(6, 1, out);
    for (offset, length) in spans {
        let mut span = Vec::new();
        put_number(1, unzigzag(*offset), &mut span);
        put_number(2, u64::from(*length), &mut span);
        put_bytes(11, &span, out);
    }
    let mut packed = Vec::new();
    deltas.iter().for_each(|delta| crate::wire::put_varint((delta << 1 ^ delta >> 63) as u64, &mut packed));
    put_bytes(12, &packed, out);
    put_number(15, at as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_come_back() {
        let buckets = |counts: &[(i32, f64)]| -> Vec<BucketCount> {
            counts.iter().map(|(index, count)| BucketCount { index: *index, count: *count }).collect()
        };
        let exponential = Histogram {
            hint: ResetHint::Gauge,
            schema: -2,
            zero_threshold: 0.25,
            zero_count: 2.5,
            count: 17.5,
            sum: -3.0,
            positive: buckets(&[(-3, 1.0), (-2, 4.0), (7, 9.0)]),
            negative: buckets(&[(0, 1.0)]),
            ..Histogram::default()
        };
        let custom = Histogram {
            schema: CUSTOM_SCHEMA,
            count: 3.0,
            sum: 9.0,
            positive: buckets(&[(0, 1.0), (2, 2.0)]),
            custom_values: [0.5, 2.0].into(),
            ..Histogram::default()
        };
        for histogram in [exponential, custom, Histogram::default()] {
            let mut bytes = Vec::new();
            encode(-5, &histogram, &mut bytes);
            assert_eq!(decode(&bytes), Ok((-5, Ok(histogram.clone()))));
            bytes.clear();
            encode_for_write(-5, &histogram, &mut bytes);
            assert_eq!(decode(&bytes), Ok((-5, Ok(histogram.clone()))));
            // Field 1 is the count of integers, field 2 that of floats.
            let is_integer = bytes[0] >> 3 == 1;
            assert_eq!(is_integer, histogram.count.fract() == 0.0);
        }
        let mut bytes = Vec::new();
        encode(7, &Histogram { sum: series::STALE_NAN, ..Histogram::default() }, &mut bytes);
        assert!(is_stale(decode(&bytes).unwrap().1.unwrap().sum));
        let mut bytes = Vec::new();
        encode_whole(9, 8, &[(-1, 2), (1, 1)], &[2, 1, -1], &mut bytes);
        let read = decode(&bytes).unwrap().1.unwrap();
        assert_eq!(read.positive, buckets(&[(-1, 2.0), (0, 3.0), (2, 2.0)]));
        assert_eq!((read.schema, read.count, read.zero_count), (3, 8.0, 1.0));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_prometheus_texts() {
        #[track_caller]
        fn check(count: u64, spans: &[(i32, u32)], deltas: &[i64], more: impl FnOnce(&mut Vec<u8>), want: &str) {
            let mut bytes = Vec::new();
            encode_whole(1, count, spans, deltas, &mut bytes);
            more(&mut bytes);
            let refusal = decode(&bytes).unwrap().1.unwrap_err();
            assert!(refusal.contains(want), "{refusal}");
        }
        let nothing = |_: &mut Vec<u8>| ();
        check(9, &[(0, 1)], &[2], nothing, "3 observations found in buckets, but the Count field is 9");
        check(3, &[(0, 2)], &[2], nothing, "positive side: spans need 2 buckets, have 1 buckets: histogram spans");
        check(3, &[(0, 1), (-1, 1)], &[2, 0], nothing, "span number 2 with offset -1: histogram has a span whose");
        check(3, &[(0, 2)], &[2, -3], nothing, "positive side: bucket number 2 has observation count of -1");
        check(3, &[(0, 1)], &[2], |out| put_number(4, unzigzag(-5), out), "got schema -5");
        check(3, &[(0, 1)], &[2], |out| put_double(16, 1.0, out), "exponential schema must not have custom bounds");
        let custom = |bounds: &'static [f64]| {
            move |out: &mut Vec<u8>| {
                put_number(4, unzigzag(CUSTOM_SCHEMA), out);
                put_doubles(16, bounds.iter().copied(), out);
            }
        };
        check(3, &[(0, 1)], &[2], custom(&[1.0]), "custom buckets: must have zero count of 0");
        check(3, &[(0, 3)], &[2, 0, 0], custom(&[1.0]), "custom buckets: only 1 custom bounds defined which is");
        check(
            3,
            &[(-1, 1)],
            &[2],
            custom(&[1.0]),
            "custom buckets: span number 1 with offset -1: histogram has a span",
        );
        check(3, &[(0, 1)], &[2], custom(&[1.0, 1.0]), "previous bound is 1.000000 and current is 1.000000");
        check(3, &[(0, 1)], &[2], custom(&[f64::INFINITY]), "must be finite");
        check(3, &[(0, 1)], &[2], custom(&[f64::NAN]), "must not be NaN");
        check(3, &[(i32::MAX, 2)], &[2, 0], nothing, "a bucket is out of range");
        check(3, &[(0, u32::MAX)], &[2], nothing, "spans need 4294967295 buckets");
    }

    #[test]
    fn mutated_histograms_are_errors_or_histograms() {
        let mut state = 3u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut good = Vec::new();
        encode_whole(9, 8, &[(-1, 2), (1, 1)], &[2, 1, -1], &mut good);
        let (mut broken, mut invalid) = (0, 0);
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..1 + next(4) {
                let at = next(bytes.len());
                match next(4) {
                    0 => bytes[at] = next(256) as u8,
                    1 => bytes[at] ^= 1 << next(8),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, 0xff),
                }
            }
            match decode(&bytes) {
                Err(_) => broken += 1,
                Ok((_, Err(_))) => invalid += 1,
                Ok((_, Ok(histogram))) => assert!(histogram.positive.len() <= BUCKETS_MAX),
            }
        }
        assert!(broken > 1000 && invalid > 1000, "{broken} {invalid}");
    }
}
