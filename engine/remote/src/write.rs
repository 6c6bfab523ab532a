//! Write requests, 1.0 and 2.0, to series with samples.
//!
//! Invariants:
//!   * a series that comes out has a metric name, sorted names, no name twice, and is within the limits; others are
//!     counted and told by a text
//!   * samples of a series are in the order of the message

use crate::DecodeError;
use crate::histogram::{self, HISTOGRAM_START_FIELD};
use crate::wire::{Fields, Value};
use series::{
    Histogram, Labels, METRIC_NAME, NO_START, Sample, StartTimes, Timestamp, note_start, sort_starts,
    with_metadata_labels,
};
use std::sync::Arc;

/// Which of the messages a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// `prometheus.WriteRequest`.
    V1,
    /// `io.prometheus.write.v2.Request`.
    V2,
}

/// What one request may hold.
#[derive(Clone, Copy, Debug)]
pub struct WriteLimits {
    pub series_max: usize,
    pub samples_max: usize,
    /// Bytes of histograms, which take up to three times as much once they are read.
    pub histogram_bytes_max: usize,
    pub metadata_max: usize,
    pub symbols_max: usize,
    /// Of one series.
    pub labels_max: usize,
    pub name_bytes_max: usize,
    pub value_bytes_max: usize,
    /// Whether series of 2.0 get labels for the type and unit of their metric.
    pub labels_types: bool,
}

impl Default for WriteLimits {
    fn default() -> WriteLimits {
        WriteLimits {
            series_max: 200_000,
            samples_max: 2_000_000,
            histogram_bytes_max: 32 << 20,
            metadata_max: 100_000,
            symbols_max: 2_000_000,
            labels_max: 512,
            name_bytes_max: 64 << 10,
            value_bytes_max: 1 << 20,
            labels_types: false,
        }
    }
}

/// Field of a sample of 2.0 with its start time.
pub(crate) const SAMPLE_START_FIELD: u64 = 3;

/// A series of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    pub labels: Labels,
    pub samples: Vec<Sample>,
    pub histograms: Vec<(i64, Arc<Histogram>)>,
    /// When what they count began, where that is said.
    pub starts: StartTimes,
}

/// An exemplar of a series of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct IncomingExemplar {
    /// Of the series.
    pub series: Labels,
    pub labels: Labels,
    pub value: f64,
    pub timestamp: Timestamp,
}

/// What is said of a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingMetadata {
    pub metric: String,
    pub kind: &'static str,
    pub help: String,
    pub unit: String,
}

impl IncomingMetadata {
    fn empty() -> IncomingMetadata {
        IncomingMetadata { metric: String::new(), kind: kind(0), help: String::new(), unit: String::new() }
    }
}

/// What a request says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteRequest {
    pub series: Vec<Incoming>,
    /// Samples of series that cannot be taken, and the reasons of the first few.
    pub samples_refused: usize,
    pub refusals: Vec<String>,
    pub metadata: Vec<IncomingMetadata>,
    /// In the order of the message. Those without readable labels, or with long ones, are left out.
    pub exemplars: Vec<IncomingExemplar>,
}

/// Most bytes of all labels of an exemplar: 128 characters of four bytes, which is what the standard allows.
const EXEMPLAR_BYTES_MAX: usize = 4 * 128;
/// Labels of a series beyond which nothing more is read: whoever sends them does not mean metrics.
const LABELS_READ_MAX: usize = 65_536;
/// Refused series whose reasons are in the answer one by one.
const REFUSALS_SHOWN_MAX: usize = 10;

/// Reads an unpacked body.
pub fn decode_write(message: Message, body: &[u8], limits: &WriteLimits) -> Result<WriteRequest, DecodeError> {
    let mut request = WriteRequest::default();
    let mut decoder = Decoder { limits, symbols: Vec::new(), samples: 0, histogram_bytes: 0, request: &mut request };
    let failed = DecodeError::Message;
    let (series_field, labels_field) = match message {
        Message::V1 => (1, 1),
        Message::V2 => (5, 1),
    };
    if message == Message::V2 {
        // Symbols may come behind what names them.
        let mut fields = Fields::new(body);
        while let Some((number, value)) = fields.next().map_err(failed)? {
            if number == 4 {
                if decoder.symbols.len() >= limits.symbols_max {
                    return Err(DecodeError::TooMany { what: "symbols", max: limits.symbols_max });
                }
                decoder.symbols.push(value.text().map_err(failed)?);
            }
        }
        if decoder.symbols.first().is_some_and(|first| !first.is_empty()) {
            return Err(failed("the first symbol is not empty"));
        }
    }
    let mut fields = Fields::new(body);
    while let Some((number, value)) = fields.next().map_err(failed)? {
        if number == series_field {
            let bytes = value.bytes().map_err(failed)?;
            decoder.series(message, labels_field, bytes)?;
        } else if message == Message::V1 && number == 3 {
            let metadata = metadata(value).map_err(failed)?;
            decoder.metadata(metadata)?;
        }
    }
    Ok(request)
}

/// Types of metrics by their numbers.
const KINDS: [&str; 8] = ["unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"];

fn kind(number: u64) -> &'static str {
    usize::try_from(number).ok().and_then(|number| KINDS.get(number)).unwrap_or(&KINDS[0])
}

/// The number of a type; that of `unknown` for what is none.
pub fn kind_number(kind: &str) -> u64 {
    KINDS.iter().position(|other| *other == kind).unwrap_or(0) as u64
}

/// Metadata of 1.0.
fn metadata(value: Value) -> Result<IncomingMetadata, &'static str> {
    let mut metadata = IncomingMetadata::empty();
    let mut fields = Fields::new(value.bytes()?);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => metadata.kind = kind(value.number()?),
            2 => metadata.metric = value.text()?.to_owned(),
            4 => metadata.help = value.text()?.to_owned(),
            5 => metadata.unit = value.text()?.to_owned(),
            _ => {}
        }
    }
    Ok(metadata)
}

/// The metric family that a series of this name belongs to if its type is `kind`, as targets expose it.
pub fn family_of<'n>(name: &'n str, kind: &str) -> &'n str {
    let suffixes: &[&str] = match kind {
        "histogram" | "gaugehistogram" => &["_bucket", "_count", "_sum", "_gcount", "_gsum"],
        "summary" => &["_count", "_sum"],
        _ => &[],
    };
    suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

struct Decoder<'a, 'r> {
    limits: &'a WriteLimits,
    symbols: Vec<&'a str>,
    samples: usize,
    histogram_bytes: usize,
    request: &'r mut WriteRequest,
}

impl<'a> Decoder<'a, '_> {
    fn series(&mut self, message: Message, labels_field: u64, bytes: &'a [u8]) -> Result<(), DecodeError> {
        let failed = DecodeError::Message;
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        let mut references: Vec<u64> = Vec::new();
        let mut samples = Vec::new();
        let (samples_field, histograms_field, exemplars_field) = match message {
            Message::V1 => (2, 4, 3),
            Message::V2 => (2, 3, 4),
        };
        let mut histograms = Vec::new();
        let mut refused = Vec::new();
        let mut said = None;
        let (mut exemplars, mut starts) = (Vec::new(), StartTimes::new());
        let mut fields = Fields::new(bytes);
        while let Some((number, value)) = fields.next().map_err(failed)? {
            if number == labels_field {
                match message {
                    Message::V1 => pairs.push(label(value).map_err(failed)?),
                    Message::V2 => value.numbers(|number| references.push(number)).map_err(failed)?,
                }
                if pairs.len() + references.len() / 2 > LABELS_READ_MAX {
                    return Err(DecodeError::TooMany { what: "labels of a series", max: LABELS_READ_MAX });
                }
            } else if number == samples_field {
                self.samples += 1;
                if self.samples > self.limits.samples_max {
                    return Err(DecodeError::TooMany { what: "samples", max: self.limits.samples_max });
                }
                let (sample, start) = sample(value).map_err(failed)?;
                if message == Message::V2 {
                    note_start(&mut starts, sample.timestamp.0, start);
                }
                samples.push(sample);
            } else if number == histograms_field {
                let bytes = value.bytes().map_err(failed)?;
                self.samples += 1;
                self.histogram_bytes += bytes.len();
                if self.samples > self.limits.samples_max {
                    return Err(DecodeError::TooMany { what: "samples", max: self.limits.samples_max });
                }
                if self.histogram_bytes > self.limits.histogram_bytes_max {
                    let max = self.limits.histogram_bytes_max;
                    return Err(DecodeError::TooMany { what: "bytes of histograms", max });
                }
                let (at, histogram) = histogram::decode(bytes).map_err(failed)?;
                if message == Message::V2 {
                    note_start(&mut starts, at, start_of_histogram(value).map_err(failed)?);
                }
                match histogram {
                    Ok(histogram) => histograms.push((at, Arc::new(histogram))),
                    Err(reason) => refused.push(reason),
                }
            } else if message == Message::V2 && number == 5 {
                said = Some(value);
            } else if number == exemplars_field {
                self.samples += 1;
                if self.samples > self.limits.samples_max {
                    return Err(DecodeError::TooMany { what: "samples", max: self.limits.samples_max });
                }
                exemplars.push(value);
            }
        }
        if self.request.series.len() >= self.limits.series_max {
            return Err(DecodeError::TooMany { what: "series", max: self.limits.series_max });
        }
        let resolved = match message {
            Message::V1 => Ok(()),
            Message::V2 => self.resolve(&references, &mut pairs),
        };
        match resolved.and_then(|()| self.labels(pairs)) {
            Ok(labels) => {
                for reason in refused {
                    self.refuse(1, || format!("{reason} for series {labels}"));
                }
                let mut labels = labels;
                if let Some(said) = said {
                    let metadata = self.metadata_v2(labels.metric_name(), said).map_err(failed)?;
                    if self.limits.labels_types {
                        labels = Labels::from_pairs(with_metadata_labels(labels.iter(), metadata.kind, &metadata.unit));
                    }
                    self.metadata(metadata)?;
                }
                for exemplar in exemplars {
                    let exemplar = self.exemplar(message, &labels, exemplar).map_err(failed)?;
                    self.request.exemplars.extend(exemplar);
                }
                // Senders may bring exemplars apart from samples.
                if !starts.is_sorted_by_key(|(at, _)| *at) {
                    sort_starts(&mut starts);
                }
                self.request.series.push(Incoming { labels, samples, histograms, starts });
            }
            Err(reason) => self.refuse(samples.len() + histograms.len() + refused.len(), || reason),
        }
        Ok(())
    }

    fn exemplar(
        &self,
        message: Message,
        series: &Labels,
        value: Value<'a>,
    ) -> Result<Option<IncomingExemplar>, &'static str> {
        let (mut pairs, mut references, mut number, mut at) = (Vec::new(), Vec::new(), 0.0, 0);
        let mut fields = Fields::new(value.bytes()?);
        while let Some((field, value)) = fields.next()? {
            match (field, message) {
                (1, Message::V1) => pairs.push(label(value)?),
                (1, Message::V2) => value.numbers(|reference| references.push(reference))?,
                (2, _) => number = value.double()?,
                (3, _) => at = value.number()? as i64,
                _ => {}
            }
            if pairs.len() + references.len() / 2 > EXEMPLAR_BYTES_MAX {
                return Ok(None);
            }
        }
        if self.resolve(&references, &mut pairs).is_err() {
            return Ok(None);
        }
        pairs.retain(|(_, value)| !value.is_empty());
        pairs.sort_unstable_by_key(|(name, _)| *name);
        let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > EXEMPLAR_BYTES_MAX || pairs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Ok(None);
        }
        let labels = Labels::from_sorted(pairs);
        Ok(Some(IncomingExemplar { series: series.clone(), labels, value: number, timestamp: Timestamp(at) }))
    }

    fn refuse(&mut self, samples: usize, reason: impl FnOnce() -> String) {
        self.request.samples_refused += samples;
        if self.request.refusals.len() < REFUSALS_SHOWN_MAX {
            self.request.refusals.push(reason());
        }
    }

    /// What 2.0 says of a series' metric; nothing if all of it is empty.
    fn metadata_v2(&self, name: &str, value: Value) -> Result<IncomingMetadata, &'static str> {
        let symbol = |reference: u64| {
            let symbol = usize::try_from(reference).ok().and_then(|place| self.symbols.get(place));
            symbol.map(|text| (*text).to_owned()).ok_or("metadata outside of symbols table")
        };
        let mut metadata = IncomingMetadata::empty();
        let mut fields = Fields::new(value.bytes()?);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => metadata.kind = kind(value.number()?),
                3 => metadata.help = symbol(value.number()?)?,
                4 => metadata.unit = symbol(value.number()?)?,
                _ => {}
            }
        }
        if metadata.kind != kind(0) || !metadata.help.is_empty() || !metadata.unit.is_empty() {
            metadata.metric = family_of(name, metadata.kind).to_owned();
        }
        Ok(metadata)
    }

    fn metadata(&mut self, metadata: IncomingMetadata) -> Result<(), DecodeError> {
        let WriteLimits { metadata_max, name_bytes_max, value_bytes_max, .. } = self.limits;
        if metadata.metric.is_empty() {
            return Ok(());
        }
        if metadata.metric.len() > *name_bytes_max || metadata.help.len() + metadata.unit.len() > *value_bytes_max {
            return Err(DecodeError::TooMany { what: "bytes of metadata of a metric", max: *value_bytes_max });
        }
        if self.request.metadata.len() >= *metadata_max {
            return Err(DecodeError::TooMany { what: "metadata", max: *metadata_max });
        }
        // Series of one metric come one after the other, each with the same.
        if self.request.metadata.last() != Some(&metadata) {
            self.request.metadata.push(metadata);
        }
        Ok(())
    }

    fn resolve(&self, references: &[u64], pairs: &mut Vec<(&'a str, &'a str)>) -> Result<(), String> {
        if !references.len().is_multiple_of(2) {
            return Err(format!(
                "parsing labels for series {references:?}: invalid labelRefs length {}",
                references.len()
            ));
        }
        let symbol = |reference: u64| {
            let symbol = usize::try_from(reference).ok().and_then(|place| self.symbols.get(place));
            let count = self.symbols.len();
            symbol.copied().ok_or_else(|| format!("labelRefs {reference} outside of symbols table (size {count})"))
        };
        for pair in references.chunks_exact(2) {
            pairs.push((symbol(pair[0])?, symbol(pair[1])?));
        }
        Ok(())
    }

    /// A series' labels, or why they are none. A label without a value is no label.
    fn labels(&self, mut pairs: Vec<(&str, &str)>) -> Result<Labels, String> {
        let WriteLimits { labels_max, name_bytes_max, value_bytes_max, .. } = self.limits;
        pairs.retain(|(_, value)| !value.is_empty());
        if pairs.len() > *labels_max {
            return Err(format!("a series has {} labels, more than {labels_max} are not taken", pairs.len()));
        }
        for (name, value) in &pairs {
            for (text, what, max) in [(name, "name", name_bytes_max), (value, "value", value_bytes_max)] {
                if text.len() > *max {
                    return Err(format!("a label {what} is {} bytes long, more than {max} are not taken", text.len()));
                }
            }
        }
        pairs.sort_unstable_by_key(|(name, _)| *name);
        if let Some(twice) = pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let name = twice[0].0;
            pairs.dedup_by_key(|(name, _)| *name);
            let labels = Labels::from_sorted(pairs);
            return Err(format!("invalid labels for series, labels {labels}, duplicated label {name}"));
        }
        let named = pairs.iter().any(|(name, _)| *name == METRIC_NAME);
        let valid = pairs.iter().all(|(name, _)| !name.is_empty());
        let labels = Labels::from_sorted(pairs);
        if named && valid { Ok(labels) } else { Err(format!("invalid metric name or labels, got {labels}")) }
    }
}

pub fn label(value: Value<'_>) -> Result<(&str, &str), &'static str> {
    let (mut name, mut text) = ("", "");
    let mut fields = Fields::new(value.bytes()?);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => name = value.text()?,
            2 => text = value.text()?,
            _ => {}
        }
    }
    Ok((name, text))
}

/// The start time of a histogram of 2.0.
fn start_of_histogram(value: Value) -> Result<i64, &'static str> {
    let mut start = NO_START;
    let mut fields = Fields::new(value.bytes()?);
    while let Some((number, value)) = fields.next()? {
        if number == HISTOGRAM_START_FIELD {
            start = value.number()? as i64;
        }
    }
    Ok(start)
}

/// A sample, and its start time, which 1.0 has not.
pub(crate) fn sample(value: Value) -> Result<(Sample, i64), &'static str> {
    let mut start = NO_START;
    let mut sample = Sample { timestamp: Timestamp(0), value: 0.0 };
    let mut fields = Fields::new(value.bytes()?);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => sample.value = value.double()?,
            2 => sample.timestamp = Timestamp(value.number()? as i64),
            SAMPLE_START_FIELD => start = value.number()? as i64,
            _ => {}
        }
    }
    Ok((sample, start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{put_bytes, put_double, put_number};

    fn put_message(field: u64, write: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
        let mut message = Vec::new();
        write(&mut message);
        put_bytes(field, &message, out);
    }

    fn put_sample(field: u64, at: i64, value: f64, out: &mut Vec<u8>) {
        put_message(
            field,
            |out| {
                put_double(1, value, out);
                put_number(2, at as u64, out);
            },
            out,
        );
    }

    type Samples<'a> = &'a [(i64, f64)];
    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn v1(series: &[(Pairs, Samples)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (labels, samples) in series {
            let write = |out: &mut Vec<u8>| {
                for (name, value) in *labels {
                    let pair = |out: &mut Vec<u8>| {
                        put_bytes(1, name.as_bytes(), out);
                        put_bytes(2, value.as_bytes(), out);
                    };
                    put_message(1, pair, out);
                }
                samples.iter().for_each(|(at, value)| put_sample(2, *at, *value, out));
                put_message(4, |out| histogram::encode_whole(7, 8, &[(-1, 2)], &[2, 3], out), out);
            };
            put_message(1, write, &mut out);
        }
        let said = |out: &mut Vec<u8>| {
            put_number(1, 1, out);
            put_bytes(2, b"requests_total", out);
            put_bytes(4, b"How many.", out);
            put_bytes(5, b"requests", out);
        };
        put_message(3, said, &mut out);
        out
    }

    fn v2(symbols: &[&str], series: &[(&[u64], Samples)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (references, samples) in series {
            let write = |out: &mut Vec<u8>| {
                let packed = |out: &mut Vec<u8>| references.iter().for_each(|r| crate::wire::put_varint(*r, out));
                put_message(1, packed, out);
                samples.iter().for_each(|(at, value)| put_sample(2, *at, *value, out));
                put_message(3, |out| histogram::encode_whole(8, 9, &[(-1, 2)], &[2, 3], out), out);
                let exemplar = |out: &mut Vec<u8>| {
                    put_bytes(1, &[1, 2], out);
                    put_double(2, 0.5, out);
                    put_number(3, 77, out);
                };
                put_message(4, exemplar, out);
                let said = |out: &mut Vec<u8>| {
                    put_number(1, 3, out);
                    put_number(3, 2, out);
                };
                put_message(5, said, out);
            };
            put_message(5, write, &mut out);
        }
        symbols.iter().for_each(|symbol| put_bytes(4, symbol.as_bytes(), &mut out));
        out
    }

    /// Series as `labels value@ms … count#ms …`, then refusals.
    #[track_caller]
    fn check(message: Message, body: &[u8], want: &[&str]) {
        let request = decode_write(message, body, &WriteLimits { labels_max: 3, ..WriteLimits::default() }).unwrap();
        let text = |series: &Incoming| {
            let samples = series.samples.iter().map(|sample| format!(" {}@{}", sample.value, sample.timestamp.0));
            let histograms = series.histograms.iter().map(|(at, histogram)| format!(" {}#{at}", histogram.count));
            series.labels.to_string() + &samples.chain(histograms).collect::<String>()
        };
        let got: Vec<String> = request.series.iter().map(text).chain(request.refusals.iter().cloned()).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn requests_of_both_versions() {
        let (name, stale) = (("__name__", "a"), series::STALE_NAN);
        let invalid = |labels: &str| {
            format!(
                "8 observations found in buckets, but the Count field is 9: histogram's observation count should equal the \
                 number of observations found in the buckets (in absence of NaN) for series {labels}"
            )
        };
        check(Message::V1, b"", &[]);
        check(
            Message::V1,
            &v1(&[(&[("x", "1"), name, ("e", "")], &[(1, 2.5), (-3, stale)]), (&[name], &[])]),
            &[r#"{__name__="a", x="1"} 2.5@1 NaN@-3 8#7"#, r#"{__name__="a"} 8#7"#],
        );
        check(
            Message::V1,
            &v1(&[
                (&[("x", "1")], &[(1, 1.0)]),
                (&[name, ("x", "1"), ("x", "2")], &[]),
                (&[name, ("", "1")], &[]),
                (&[name, ("p", "1"), ("q", "1"), ("r", "1")], &[]),
            ]),
            &[
                r#"invalid metric name or labels, got {x="1"}"#,
                r#"invalid labels for series, labels {__name__="a", x="1"}, duplicated label x"#,
                r#"invalid metric name or labels, got {""="1", __name__="a"}"#,
                "a series has 4 labels, more than 3 are not taken",
            ],
        );
        let symbols = ["", "__name__", "a", "x", "1"];
        check(
            Message::V2,
            &v2(&symbols, &[(&[1, 2, 3, 4], &[(5, 1.0)]), (&[1], &[]), (&[1, 9], &[(1, 1.0)])]),
            &[
                r#"{__name__="a", x="1"} 1@5"#,
                &invalid(r#"{__name__="a", x="1"}"#),
                "parsing labels for series [1]: invalid labelRefs length 1",
                "labelRefs 9 outside of symbols table (size 5)",
            ],
        );
        let request = decode_write(Message::V2, &v2(&symbols, &[(&[1, 2], &[])]), &WriteLimits::default()).unwrap();
        assert_eq!((request.exemplars.len(), request.samples_refused), (1, 1));
        let said = |message, body: &[u8]| {
            let metadata = decode_write(message, body, &WriteLimits::default()).unwrap().metadata.remove(0);
            [&metadata.metric, metadata.kind, &metadata.help, &metadata.unit].join("|")
        };
        assert_eq!(said(Message::V1, &v1(&[])), "requests_total|counter|How many.|requests");
        let named = ["", "__name__", "a_bucket"];
        assert_eq!(said(Message::V2, &v2(&named, &[(&[1, 2], &[])])), "a|histogram|a_bucket|");
        let other = decode_write(Message::V2, &v2(&["x"], &[]), &WriteLimits::default());
        assert_eq!(other, Err(DecodeError::Message("the first symbol is not empty")));
    }

    #[test]
    fn exemplars_of_both_versions() {
        let exemplar = |labels: &dyn Fn(&mut Vec<u8>), out: &mut Vec<u8>| {
            labels(out);
            put_double(2, 0.5, out);
            put_number(3, 77, out);
        };
        let pair = |name: &str, value: &str, out: &mut Vec<u8>| {
            let pair = |out: &mut Vec<u8>| {
                put_bytes(1, name.as_bytes(), out);
                put_bytes(2, value.as_bytes(), out);
            };
            put_message(1, pair, out);
        };
        let long = "v".repeat(EXEMPLAR_BYTES_MAX);
        let series = |out: &mut Vec<u8>| {
            pair("__name__", "a", out);
            put_message(3, |out| exemplar(&|out| pair("trace_id", "x", out), out), out);
            put_message(3, |out| exemplar(&|out| pair("trace_id", &long, out), out), out);
        };
        let mut body = Vec::new();
        put_message(1, series, &mut body);
        let symbols = ["", "__name__", "a", "trace_id", "x"];
        let in_2_0 = |out: &mut Vec<u8>| {
            put_bytes(1, &[1, 2], out);
            put_message(4, |out| exemplar(&|out| put_bytes(1, &[3, 4], out), out), out);
            put_message(4, |out| exemplar(&|out| put_bytes(1, &[3, 9], out), out), out);
        };
        let mut body_2_0 = Vec::new();
        put_message(5, in_2_0, &mut body_2_0);
        symbols.iter().for_each(|symbol| put_bytes(4, symbol.as_bytes(), &mut body_2_0));
        let want = IncomingExemplar {
            series: Labels::from_pairs([("__name__", "a")]),
            labels: Labels::from_pairs([("trace_id", "x")]),
            value: 0.5,
            timestamp: Timestamp(77),
        };
        for (message, body) in [(Message::V1, body), (Message::V2, body_2_0)] {
            let request = decode_write(message, &body, &WriteLimits::default()).unwrap();
            assert_eq!((request.exemplars, request.refusals), (vec![want.clone()], vec![]), "{message:?}");
        }
    }

    #[test]
    fn limits_hold() {
        let body = v1(&[(&[("__name__", "a")], &[(1, 1.0), (2, 1.0)]), (&[("__name__", "b")], &[(1, 1.0)])]);
        let limits = WriteLimits { samples_max: 2, ..WriteLimits::default() };
        let what = |limits: &WriteLimits| decode_write(Message::V1, &body, limits).unwrap_err().to_string();
        assert_eq!(what(&limits), "more than 2 samples in one request are not taken");
        let limits = WriteLimits { series_max: 1, ..WriteLimits::default() };
        assert_eq!(what(&limits), "more than 1 series in one request are not taken");
        let packed = crate::pack(&[0; 1000]);
        assert_eq!(crate::unpack(&packed, 999), Err(DecodeError::TooLarge { bytes: 1000, bytes_max: 999 }));
        assert_eq!(crate::unpack(&packed, 1000).unwrap().len(), 1000);
        assert!(matches!(crate::unpack(&[0xff; 9], 1000), Err(DecodeError::Compression(_))));
    }

    #[test]
    fn mutated_requests_are_errors_or_requests() {
        let mut state = 5u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let good = [
            (Message::V1, v1(&[(&[("__name__", "metric"), ("x", "1")], &[(1, 1.0), (77, -2.5)]), (&[], &[])])),
            (Message::V2, v2(&["", "__name__", "m", "x", "1"], &[(&[1, 2, 3, 4], &[(5, 1.0)]), (&[1], &[])])),
        ];
        let mut refused = 0;
        for (message, good) in good {
            let packed = crate::pack(&good);
            for round in 0..10_000 {
                let mut body = if round % 2 == 0 { good.clone() } else { packed.clone() };
                for _ in 0..1 + next(4) {
                    let at = next(body.len());
                    match next(4) {
                        0 => body[at] = next(256) as u8,
                        1 => body[at] ^= 1 << next(8),
                        2 => body.truncate(at.max(1)),
                        _ => body.insert(at, 0xff),
                    }
                }
                let body = if round % 2 == 0 { Ok(body) } else { crate::unpack(&body, 1 << 20) };
                let read = body.and_then(|body| decode_write(message, &body, &WriteLimits::default()));
                refused += usize::from(read.is_err());
            }
        }
        assert!(refused > 5000, "{refused}");
    }
}
