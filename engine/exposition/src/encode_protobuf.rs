//! Writes delimited protobuf messages, `io.prometheus.client.MetricFamily`, as `/federate` serves them to those who ask.
//!
//! Floats come from lines of the text format, native histograms as they are stored.

use crate::text::{Kind, Parser, labels};
use series::histogram::BucketCount;
use series::{Histogram, METRIC_NAME};

/// Types of families by their numbers.
const GAUGE_HISTOGRAM: u64 = 5;
const HISTOGRAM: u64 = 4;
const UNTYPED: u64 = 3;

/// Writes the samples of a text that [`crate::Line`] has written, as untyped families: one for each run of lines with one name.
pub fn write_untyped_families(text: &[u8], out: &mut Vec<u8>) {
    let mut parser = Parser::new(text, 0, Kind::Unknown);
    let mut family: (String, Vec<u8>) = (String::new(), Vec::new());
    let (mut metric, mut message) = (Vec::new(), Vec::new());
    // What this process has written can be parsed.
    while let Ok(Some(line)) = parser.next_sample() {
        let labels = labels(&text[line.raw.clone()], line.kind);
        let name = labels.iter().find(|(name, _)| name == METRIC_NAME).map_or("", |(_, value)| &**value);
        if name != family.0 {
            write_family(&family.0, UNTYPED, &family.1, out);
            name.clone_into(&mut family.0);
            family.1.clear();
        }
        metric.clear();
        let pairs = labels.iter().filter(|(name, _)| name != METRIC_NAME);
        pairs.for_each(|(name, value)| put_label(name, value, &mut message, &mut metric));
        message.clear();
        put_double(1, line.value, &mut message);
        put_bytes(5, &message, &mut metric);
        if let Some(timestamp) = line.timestamp {
            put_number(6, timestamp as u64, &mut metric);
        }
        put_bytes(4, &metric, &mut family.1);
    }
    write_family(&family.0, UNTYPED, &family.1, out);
}

/// Writes a native histogram as a family of its own. Labels come in the order in which they shall be written, without
/// `__name__`.
pub fn write_histogram_family<'a>(
    name: &str,
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    histogram: &Histogram,
    timestamp_ms: i64,
    out: &mut Vec<u8>,
) {
    let (mut metric, mut message) = (Vec::new(), Vec::new());
    labels.for_each(|(name, value)| put_label(name, value, &mut message, &mut metric));
    message.clear();
    put_histogram(histogram, &mut message);
    put_bytes(7, &message, &mut metric);
    put_number(6, timestamp_ms as u64, &mut metric);
    let mut metrics = Vec::new();
    put_bytes(4, &metric, &mut metrics);
    let is_gauge = histogram.hint == series::histogram::ResetHint::Gauge;
    write_family(name, if is_gauge { GAUGE_HISTOGRAM } else { HISTOGRAM }, &metrics, out);
}

/// The buckets of a histogram with custom bounds as those of a classic one: upper bounds and cumulative counts.
pub fn classic_buckets(histogram: &Histogram) -> impl Iterator<Item = (f64, f64)> {
    let bounds = histogram.custom_values.iter().copied().chain([f64::INFINITY]);
    let mut buckets = histogram.positive.iter().peekable();
    let mut count = 0.0;
    bounds.enumerate().map(move |(index, bound)| {
        while let Some(bucket) = buckets.next_if(|bucket| i64::from(bucket.index) <= index as i64) {
            count += bucket.count;
        }
        (bound, count)
    })
}

/// Counts are floats, as Prometheus sends them.
fn put_histogram(histogram: &Histogram, out: &mut Vec<u8>) {
    put_double(4, histogram.count, out);
    put_double(2, histogram.sum, out);
    let mut message = Vec::new();
    if histogram.is_custom() {
        for (bound, count) in classic_buckets(histogram) {
            message.clear();
            put_double(4, count, &mut message);
            put_double(2, bound, &mut message);
            put_bytes(3, &message, out);
        }
        return;
    }
    put_number(5, zigzag(i64::from(histogram.schema)), out);
    put_double(6, histogram.zero_threshold, out);
    put_double(8, histogram.zero_count, out);
    put_side(&histogram.negative, 9, 11, out);
    put_side(&histogram.positive, 12, 14, out);
    if histogram.negative.is_empty() && histogram.positive.is_empty() {
        // A span of no buckets: without one it would be a classic histogram.
        put_bytes(12, &[], out);
    }
}

fn put_side(buckets: &[BucketCount], span_field: u64, counts_field: u64, out: &mut Vec<u8>) {
    let mut next = 0i64;
    let mut message = Vec::new();
    for run in buckets.chunk_by(|one, other| i64::from(one.index) + 1 == i64::from(other.index)) {
        let first = i64::from(run[0].index);
        message.clear();
        put_number(1, zigzag(first - next), &mut message);
        put_number(2, run.len() as u64, &mut message);
        put_bytes(span_field, &message, out);
        next = first + run.len() as i64;
    }
    message.clear();
    buckets.iter().for_each(|bucket| message.extend_from_slice(&bucket.count.to_le_bytes()));
    if !message.is_empty() {
        put_bytes(counts_field, &message, out);
    }
}

/// A family without help; nothing if it has no metrics. `metrics` are its fields with their keys.
fn write_family(name: &str, kind: u64, metrics: &[u8], out: &mut Vec<u8>) {
    if metrics.is_empty() {
        return;
    }
    let mut head = Vec::with_capacity(name.len() + 8);
    put_bytes(1, name.as_bytes(), &mut head);
    put_number(3, kind, &mut head);
    put_varint((head.len() + metrics.len()) as u64, out);
    out.extend_from_slice(&head);
    out.extend_from_slice(metrics);
}

fn put_label(name: &str, value: &str, message: &mut Vec<u8>, out: &mut Vec<u8>) {
    message.clear();
    put_bytes(1, name.as_bytes(), message);
    put_bytes(2, value.as_bytes(), message);
    put_bytes(1, message, out);
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(field: u64, value: u64, out: &mut Vec<u8>) {
    put_varint(field << 3, out);
    put_varint(value, out);
}

fn put_double(field: u64, value: f64, out: &mut Vec<u8>) {
    put_varint(field << 3 | 1, out);
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(field << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HistogramOptions, Transcoded, Transcoder};
    use series::histogram::CUSTOM_SCHEMA;

    fn read(body: &[u8]) -> Transcoded {
        let options = HistogramOptions { native: true, ..HistogramOptions::default() };
        let mut transcoder = Transcoder::new(body, options);
        while transcoder.step().unwrap() {}
        transcoder.finish()
    }

    #[test]
    fn lines_read_as_they_were_written() {
        let mut body = Vec::new();
        write_untyped_families(
            b"# TYPE a untyped\na{b=\"x\\\"y\\\\z\\n\",instance=\"\"} 1.5 7\na 2 1000\n# TYPE c untyped\nc NaN 5\n",
            &mut body,
        );
        assert_eq!(
            String::from_utf8(read(&body).text).unwrap(),
            "# HELP a \n# TYPE a unknown\na{b=\"x\\\"y\\\\z\\n\",instance=\"\"} 1.5 0.007\na 2 1.000\n\
             # HELP c \n# TYPE c unknown\nc NaN 0.005\n# EOF\n"
        );
        let mut empty = Vec::new();
        write_untyped_families(b"# TYPE a untyped\n", &mut empty);
        assert_eq!(empty, b"");
    }

    #[test]
    fn histograms_read_as_they_were_written() {
        let bucket = |index, count| BucketCount { index, count };
        let histogram = Histogram {
            schema: 3,
            zero_threshold: 0.25,
            zero_count: 2.0,
            count: 17.5,
            sum: -3.0,
            positive: vec![bucket(-4, 1.0), bucket(-3, 2.5), bucket(7, 3.0)],
            negative: vec![bucket(2, 9.0)],
            ..Histogram::default()
        };
        let mut body = Vec::new();
        write_histogram_family("h", [("a", "b")].into_iter(), &histogram, 1_700_000, &mut body);
        let natives = read(&body).natives;
        let native = &natives[0];
        assert_eq!((&native.raw[..], native.timestamp), (&b"h{a=\"b\"}"[..], Some(1_700_000)));
        assert_eq!((native.schema, native.zero_threshold, native.zero_count), (3, 0.25, 2.0));
        assert_eq!((native.count, native.sum, native.is_float, native.is_gauge), (17.5, -3.0, true, false));
        assert_eq!(native.positive.spans, [(-4, 2), (9, 1)]);
        assert_eq!(native.positive.counts, [1.0, 2.5, 3.0]);
        assert_eq!((&native.negative.spans[..], &native.negative.counts[..]), (&[(2, 1)][..], &[9.0][..]));
        let empty = Histogram { hint: series::histogram::ResetHint::Gauge, ..Histogram::default() };
        body.clear();
        write_histogram_family("h", std::iter::empty(), &empty, 1, &mut body);
        let natives = read(&body).natives;
        assert!(natives.len() == 1 && natives[0].is_gauge, "an empty one is native too");
    }

    #[test]
    fn custom_bounds_become_classic_buckets() {
        let histogram = Histogram {
            schema: CUSTOM_SCHEMA,
            count: 5.0,
            sum: 4.0,
            positive: vec![BucketCount { index: 1, count: 2.0 }, BucketCount { index: 3, count: 3.0 }],
            custom_values: [0.5, 1.0, 2.0].into(),
            ..Histogram::default()
        };
        let buckets: Vec<_> = classic_buckets(&histogram).collect();
        assert_eq!(buckets, [(0.5, 0.0), (1.0, 2.0), (2.0, 2.0), (f64::INFINITY, 5.0)]);
        let mut body = Vec::new();
        write_histogram_family("h", std::iter::empty(), &histogram, 5000, &mut body);
        assert_eq!(
            String::from_utf8(read(&body).text).unwrap(),
            "# HELP h \n# TYPE h histogram\nh_count 5 5.000\nh_sum 4 5.000\nh_bucket{le=\"0.5\"} 0 5.000\n\
             h_bucket{le=\"1.0\"} 2 5.000\nh_bucket{le=\"2.0\"} 2 5.000\nh_bucket{le=\"+Inf\"} 5 5.000\n# EOF\n"
        );
    }
}
