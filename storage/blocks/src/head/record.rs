//! Records of Prometheus' write-ahead log: series, samples, histograms, deletions.
//!
//! Numbers of fixed length are big-endian. Exemplars and metadata are counted only: nothing here keeps them.
//!
//! Invariants:
//!   * counts are believed only as far as the record is long, so a record of n bytes gives at most n buckets
//!   * an error ends the record; what was read of it before has been given

use crate::codec::{ByteCursor, CursorExt};
use series::histogram::{BucketCount, CUSTOM_SCHEMA, ResetHint, SCHEMA_MAX};
use series::{Histogram, Labels};

const SERIES: u8 = 1;
const SAMPLES: u8 = 2;
const TOMBSTONES: u8 = 3;
const EXEMPLARS: u8 = 4;
const MMAP_MARKERS: u8 = 5;
const METADATA: u8 = 6;
const HISTOGRAMS: u8 = 7;
const FLOAT_HISTOGRAMS: u8 = 8;
const CUSTOM_HISTOGRAMS: u8 = 9;
const CUSTOM_FLOAT_HISTOGRAMS: u8 = 10;
const SAMPLES_V2: u8 = 11;
const HISTOGRAMS_V2: u8 = 12;
const FLOAT_HISTOGRAMS_V2: u8 = 13;
/// Oldest time of the samples in a checkpoint.
const MIN_VALID_TIME: u8 = 14;

/// Schemas of exponential buckets that a later Prometheus may write; those finer than ours are read at our finest.
const SCHEMAS_KNOWN: std::ops::RangeInclusive<i64> = -9..=52;

/// Takes what records hold. Series are named by the numbers that the log gives them.
pub trait RecordSink {
    fn series(&mut self, reference: u64, labels: Labels);
    fn float(&mut self, reference: u64, at: i64, value: f64);
    fn histogram(&mut self, reference: u64, at: i64, histogram: Histogram);
    fn deletion(&mut self, reference: u64, from: i64, to: i64);
    /// Something that is not kept.
    fn skip(&mut self, what: Skipped);
}

/// What a record may hold that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    Exemplar,
    Metadata,
    /// A histogram of a schema that is not known.
    UnknownSchema,
    /// A record of a kind that is not known.
    UnknownRecord(u8),
}

type ReadResult<T> = Result<T, &'static str>;

/// Reads one record.
pub fn read_record(record: &[u8], sink: &mut impl RecordSink) -> ReadResult<()> {
    let mut cursor = ByteCursor::new(record);
    // An empty record is nothing.
    let Ok(kind) = cursor.byte() else { return Ok(()) };
    match kind {
        SERIES => each(&mut cursor, |cursor| {
            let reference = cursor.u64_be()?;
            sink.series(reference, read_labels(cursor)?);
            Ok(())
        }),
        SAMPLES => old_form(&mut cursor, |cursor, reference, at| {
            sink.float(reference, at, cursor.f64()?);
            Ok(())
        }),
        SAMPLES_V2 => new_form(&mut cursor, |cursor, reference, at| {
            sink.float(reference, at, cursor.f64()?);
            Ok(())
        }),
        TOMBSTONES => each(&mut cursor, |cursor| {
            let (reference, from, to) = (cursor.u64_be()?, cursor.varint()?, cursor.varint()?);
            sink.deletion(reference, from, to);
            Ok(())
        }),
        EXEMPLARS => old_form(&mut cursor, |cursor, _, _| {
            cursor.f64()?;
            read_labels(cursor)?;
            sink.skip(Skipped::Exemplar);
            Ok(())
        }),
        MMAP_MARKERS => each(&mut cursor, |cursor| cursor.take(16).map(drop)),
        METADATA => each(&mut cursor, |cursor| {
            cursor.uvarint()?;
            cursor.byte()?;
            for _ in 0..2 * cursor.count_of(2)? {
                cursor.bytes()?;
            }
            sink.skip(Skipped::Metadata);
            Ok(())
        }),
        HISTOGRAMS | CUSTOM_HISTOGRAMS => {
            old_form(&mut cursor, |cursor, reference, at| pass_on(read_histogram(cursor, false)?, reference, at, sink))
        }
        FLOAT_HISTOGRAMS | CUSTOM_FLOAT_HISTOGRAMS => {
            old_form(&mut cursor, |cursor, reference, at| pass_on(read_histogram(cursor, true)?, reference, at, sink))
        }
        HISTOGRAMS_V2 => {
            new_form(&mut cursor, |cursor, reference, at| pass_on(read_histogram(cursor, false)?, reference, at, sink))
        }
        FLOAT_HISTOGRAMS_V2 => {
            new_form(&mut cursor, |cursor, reference, at| pass_on(read_histogram(cursor, true)?, reference, at, sink))
        }
        MIN_VALID_TIME => Ok(()),
        kind => {
            sink.skip(Skipped::UnknownRecord(kind));
            Ok(())
        }
    }
}

fn pass_on(histogram: Option<Histogram>, reference: u64, at: i64, sink: &mut impl RecordSink) -> ReadResult<()> {
    match histogram {
        Some(histogram) => sink.histogram(reference, at, histogram),
        None => sink.skip(Skipped::UnknownSchema),
    }
    Ok(())
}

fn each<'a>(
    cursor: &mut ByteCursor<'a>,
    mut entry: impl FnMut(&mut ByteCursor<'a>) -> ReadResult<()>,
) -> ReadResult<()> {
    while !cursor.is_empty() {
        entry(cursor)?;
    }
    Ok(())
}

/// Series and times as differences from those of the first entry.
fn old_form<'a>(
    cursor: &mut ByteCursor<'a>,
    mut entry: impl FnMut(&mut ByteCursor<'a>, u64, i64) -> ReadResult<()>,
) -> ReadResult<()> {
    if cursor.is_empty() {
        return Ok(());
    }
    let (first, first_at) = (cursor.u64_be()?, cursor.u64_be()? as i64);
    each(cursor, |cursor| {
        let (reference, at) = (first.wrapping_add(cursor.varint()? as u64), first_at.wrapping_add(cursor.varint()?));
        entry(cursor, reference, at)
    })
}

/// Series as differences from the entry before, times from the first; start times, which are not kept, between.
fn new_form<'a>(
    cursor: &mut ByteCursor<'a>,
    mut entry: impl FnMut(&mut ByteCursor<'a>, u64, i64) -> ReadResult<()>,
) -> ReadResult<()> {
    if cursor.is_empty() {
        return Ok(());
    }
    let (mut reference, first_at) = (cursor.varint()? as u64, cursor.varint()?);
    cursor.varint()?;
    entry(cursor, reference, first_at)?;
    each(cursor, |cursor| {
        reference = reference.wrapping_add(cursor.varint()? as u64);
        let at = first_at.wrapping_add(cursor.varint()?);
        // 0 is no start time, 1 that of the entry before.
        if cursor.byte()? > 1 {
            cursor.varint()?;
        }
        entry(cursor, reference, at)
    })
}

fn read_labels(cursor: &mut ByteCursor<'_>) -> ReadResult<Labels> {
    let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(16);
    for _ in 0..cursor.count_of(2)? {
        let (name, value) = (cursor.text()?, cursor.text()?);
        if !value.is_empty() {
            pairs.push((name, value));
        }
    }
    match pairs.is_sorted_by(|one, other| one.0 < other.0) {
        true => Ok(Labels::from_sorted(pairs)),
        false => Ok(Labels::from_pairs(pairs)),
    }
}

/// None for a schema that is not known. A histogram of whole counts has each bucket as its difference from the one before.
fn read_histogram(cursor: &mut ByteCursor<'_>, is_float: bool) -> ReadResult<Option<Histogram>> {
    let hint = match cursor.byte()? {
        1 => ResetHint::Reset,
        2 => ResetHint::NotReset,
        3 => ResetHint::Gauge,
        _ => ResetHint::Unknown,
    };
    let schema = cursor.varint()?;
    let zero_threshold = cursor.f64()?;
    let count_of = |cursor: &mut ByteCursor<'_>| if is_float { cursor.f64() } else { Ok(cursor.uvarint()? as f64) };
    let (zero_count, count) = (count_of(cursor)?, count_of(cursor)?);
    let sum = cursor.f64()?;
    let (positive, negative) = (read_spans(cursor)?, read_spans(cursor)?);
    let positive = read_buckets(cursor, is_float, &positive)?;
    let negative = read_buckets(cursor, is_float, &negative)?;
    let mut custom_values: Vec<f64> = Vec::new();
    if schema == i64::from(CUSTOM_SCHEMA) {
        for _ in 0..cursor.count_of(8)? {
            custom_values.push(cursor.f64()?);
        }
        let is_outside = |bucket: &BucketCount| bucket.index < 0 || bucket.index as usize > custom_values.len();
        if !negative.is_empty() || positive.iter().any(is_outside) {
            return Err("a bucket is outside of the custom bounds");
        }
    } else if !SCHEMAS_KNOWN.contains(&schema) {
        return Ok(None);
    }
    let mut histogram = Histogram {
        hint,
        schema: schema as i32,
        zero_threshold,
        zero_count,
        count,
        sum,
        positive,
        negative,
        custom_values: custom_values.into(),
    };
    while histogram.schema > SCHEMA_MAX {
        // A step is at most as many halvings as a bucket's number has bits.
        histogram.reduce(SCHEMA_MAX.max(histogram.schema - 31));
    }
    Ok(Some(histogram))
}

fn read_spans(cursor: &mut ByteCursor<'_>) -> ReadResult<Vec<(i64, u64)>> {
    let count = cursor.count_of(2)?;
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        spans.push((cursor.varint()?, cursor.uvarint()?));
    }
    Ok(spans)
}

fn read_buckets(cursor: &mut ByteCursor<'_>, is_float: bool, spans: &[(i64, u64)]) -> ReadResult<Vec<BucketCount>> {
    let count = cursor.count_of(if is_float { 8 } else { 1 })?;
    let in_spans = spans.iter().fold(0u64, |all, (_, length)| all.saturating_add(*length));
    if in_spans != count as u64 {
        return Err("spans and buckets do not fit together");
    }
    let mut buckets = Vec::with_capacity(count);
    let (mut next, mut whole) = (0i64, 0i64);
    for (i, (offset, length)) in spans.iter().enumerate() {
        if i > 0 && *offset < 0 {
            return Err("spans of buckets are not ascending");
        }
        next = next.checked_add(*offset).ok_or("a bucket is out of range")?;
        for _ in 0..*length {
            let index = i32::try_from(next).map_err(|_| "a bucket is out of range")?;
            next += 1;
            let count = if is_float {
                cursor.f64()?
            } else {
                whole = whole.wrapping_add(cursor.varint()?);
                whole as f64
            };
            if count != 0.0 {
                buckets.push(BucketCount { index, count });
            }
        }
    }
    Ok(buckets)
}

#[cfg(test)]
pub(super) mod testing {
    use crate::codec::{put_uvarint, put_varint};

    /// Writes records as the pages of Prometheus describe them.
    pub struct RecordWriter(pub Vec<u8>);

    impl RecordWriter {
        pub fn new(kind: u8) -> RecordWriter {
            RecordWriter(vec![kind])
        }

        pub fn fixed(mut self, value: u64) -> RecordWriter {
            self.0.extend_from_slice(&value.to_be_bytes());
            self
        }

        pub fn float(self, value: f64) -> RecordWriter {
            self.fixed(value.to_bits())
        }

        pub fn u(mut self, value: u64) -> RecordWriter {
            put_uvarint(value, &mut self.0);
            self
        }

        pub fn v(mut self, value: i64) -> RecordWriter {
            put_varint(value, &mut self.0);
            self
        }

        pub fn byte(mut self, value: u8) -> RecordWriter {
            self.0.push(value);
            self
        }

        pub fn text(mut self, text: &str) -> RecordWriter {
            put_uvarint(text.len() as u64, &mut self.0);
            self.0.extend_from_slice(text.as_bytes());
            self
        }

        pub fn labels(self, pairs: &[(&str, &str)]) -> RecordWriter {
            pairs.iter().fold(self.u(pairs.len() as u64), |all, (name, value)| all.text(name).text(value))
        }

        /// A histogram of whole counts in buckets 1, 2 and 5, the last one empty; custom bounds of schema -53.
        pub fn histogram(self, schema: i64, sum: f64, is_float: bool) -> RecordWriter {
            let count = |all: RecordWriter, value: u64| if is_float { all.float(value as f64) } else { all.u(value) };
            let all = self.byte(3).v(schema).float(0.5);
            let all = count(count(all, 1), 6).float(sum);
            let all = all.u(2).v(1).u(2).v(2).u(1).u(0).u(3);
            let all = match is_float {
                true => all.float(2.0).float(3.0).float(0.0),
                false => all.v(2).v(1).v(-3),
            };
            let all = all.u(0);
            if schema != -53 {
                return all;
            }
            (0..6).fold(all.u(6), |all, bound| all.float(f64::from(bound)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::RecordWriter;
    use super::*;

    #[derive(Default)]
    struct Lines(Vec<String>);

    impl RecordSink for Lines {
        fn series(&mut self, reference: u64, labels: Labels) {
            self.0.push(format!("series {reference} {labels}"));
        }

        fn float(&mut self, reference: u64, at: i64, value: f64) {
            self.0.push(format!("{reference} {value} @{at}"));
        }

        fn histogram(&mut self, reference: u64, at: i64, histogram: Histogram) {
            let Histogram { schema, sum, count, zero_count, hint, ref positive, .. } = histogram;
            let buckets: Vec<_> = positive.iter().map(|bucket| (bucket.index, bucket.count)).collect();
            let bounds = histogram.custom_values.len();
            self.0.push(format!("{reference} {schema} {hint:?} {count} {zero_count} {sum} {buckets:?} {bounds} @{at}"));
        }

        fn deletion(&mut self, reference: u64, from: i64, to: i64) {
            self.0.push(format!("delete {reference} {from} {to}"));
        }

        fn skip(&mut self, what: Skipped) {
            self.0.push(format!("{what:?}"));
        }
    }

    fn read(record: &[u8]) -> (Vec<String>, ReadResult<()>) {
        let mut lines = Lines::default();
        let outcome = read_record(record, &mut lines);
        (lines.0, outcome)
    }

    #[track_caller]
    fn check(record: &RecordWriter, want: &[&str]) {
        let (lines, outcome) = read(&record.0);
        assert_eq!((lines, outcome), (want.iter().map(|line| (*line).to_owned()).collect(), Ok(())));
    }

    fn all_kinds() -> Vec<RecordWriter> {
        let new = RecordWriter::new;
        vec![
            new(SERIES).fixed(7).labels(&[("__name__", "up"), ("a", "")]).fixed(8).labels(&[("b", "2"), ("a", "1")]),
            new(SAMPLES).fixed(7).fixed(1000).v(0).v(0).float(1.5).v(1).v(-5).float(2.0),
            new(SAMPLES_V2)
                .v(7)
                .v(1000)
                .v(1)
                .float(1.5)
                .v(1)
                .v(5)
                .byte(0)
                .float(2.0)
                .v(-1)
                .v(6)
                .byte(2)
                .v(9)
                .float(3.0),
            new(TOMBSTONES).fixed(7).v(-5).v(10),
            new(EXEMPLARS).fixed(7).fixed(1000).v(0).v(0).float(1.0).labels(&[("trace", "x")]),
            new(MMAP_MARKERS).fixed(7).fixed(8),
            new(METADATA).u(7).byte(1).u(2).text("UNIT").text("").text("HELP").text("what it is"),
            new(HISTOGRAMS).fixed(7).fixed(1000).v(0).v(1).histogram(3, 9.5, false),
            new(FLOAT_HISTOGRAMS).fixed(7).fixed(1000).v(0).v(1).histogram(3, 9.5, true),
            new(CUSTOM_HISTOGRAMS).fixed(7).fixed(1000).v(0).v(0).histogram(-53, 9.5, false),
            new(CUSTOM_FLOAT_HISTOGRAMS).fixed(7).fixed(1000).v(0).v(0).histogram(-53, 9.5, true),
            new(HISTOGRAMS_V2).v(7).v(1000).v(0).histogram(3, 9.5, false).v(1).v(5).byte(1).histogram(-53, 1.0, false),
            new(FLOAT_HISTOGRAMS_V2)
                .v(7)
                .v(1000)
                .v(0)
                .histogram(3, 9.5, true)
                .v(1)
                .v(5)
                .byte(2)
                .v(4)
                .histogram(3, 1.0, true),
            new(MIN_VALID_TIME).fixed(5),
        ]
    }

    #[test]
    fn every_kind_of_record_is_read() {
        let kinds = all_kinds();
        let histogram = |of: &str, bounds: usize, at: i64| format!("{of} [(1, 2.0), (2, 3.0)] {bounds} @{at}");
        let exponential = histogram("7 3 Gauge 6 1 9.5", 0, 1001);
        let custom = histogram("7 -53 Gauge 6 1 9.5", 6, 1000);
        check(&kinds[0], &[r#"series 7 {__name__="up"}"#, r#"series 8 {a="1", b="2"}"#]);
        check(&kinds[1], &["7 1.5 @1000", "8 2 @995"]);
        check(&kinds[2], &["7 1.5 @1000", "8 2 @1005", "7 3 @1006"]);
        check(&kinds[3], &["delete 7 -5 10"]);
        check(&kinds[4], &["Exemplar"]);
        check(&kinds[5], &[]);
        check(&kinds[6], &["Metadata"]);
        check(&kinds[7], &[&exponential]);
        check(&kinds[8], &[&exponential]);
        check(&kinds[9], &[&custom]);
        check(&kinds[10], &[&custom]);
        let first = histogram("7 3 Gauge 6 1 9.5", 0, 1000);
        check(&kinds[11], &[&first, &histogram("8 -53 Gauge 6 1 1", 6, 1005)]);
        check(&kinds[12], &[&first, &histogram("8 3 Gauge 6 1 1", 0, 1005)]);
        check(&kinds[13], &[]);
        check(&RecordWriter::new(77).fixed(1), &["UnknownRecord(77)"]);
        check(&RecordWriter::new(HISTOGRAMS).fixed(7).fixed(0).v(0).v(0).histogram(60, 1.0, false), &["UnknownSchema"]);
        check(&RecordWriter(Vec::new()), &[]);
    }

    #[test]
    fn what_does_not_fit_together_is_an_error() {
        let cases: [RecordWriter; 4] = [
            RecordWriter::new(SAMPLES).fixed(7).fixed(1000).v(0),
            RecordWriter::new(SERIES).fixed(7).u(1 << 40),
            // A bucket in no span.
            RecordWriter::new(HISTOGRAMS)
                .fixed(7)
                .fixed(0)
                .v(0)
                .v(0)
                .byte(0)
                .v(0)
                .float(0.0)
                .u(0)
                .u(1)
                .float(1.0)
                .u(0)
                .u(0)
                .u(1)
                .v(1)
                .u(0),
            // A span that goes back.
            RecordWriter::new(HISTOGRAMS)
                .fixed(7)
                .fixed(0)
                .v(0)
                .v(0)
                .byte(0)
                .v(0)
                .float(0.0)
                .u(0)
                .u(2)
                .float(1.0)
                .u(2)
                .v(1)
                .u(1)
                .v(-9)
                .u(1)
                .u(0)
                .u(2)
                .v(1)
                .v(0)
                .u(0),
        ];
        for record in &cases {
            assert!(read(&record.0).1.is_err(), "{:?}", record.0);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let mut state = 5u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut refused = 0;
        for record in all_kinds() {
            for _ in 0..3000 {
                let mut bytes = record.0.clone();
                for _ in 0..1 + next(3) {
                    let at = next(bytes.len());
                    match next(4) {
                        0 => bytes.truncate(at.max(1)),
                        1 => bytes.insert(at, next(256) as u8),
                        2 => bytes[at] = 0xff,
                        _ => bytes[at] ^= 1 << next(8),
                    }
                }
                let (lines, outcome) = read(&bytes);
                refused += usize::from(outcome.is_err());
                assert!(lines.iter().map(String::len).sum::<usize>() < 100_000, "more than the record can hold");
            }
        }
        assert!(refused > 1000, "{refused}");
    }
}
