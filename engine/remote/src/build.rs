//! Encoding of write requests, 1.0 and 2.0, series by series, into buffers that are reused.
//!
//! Labels come as text ([`WriteBuilder::add`]), or encoded before: in 1.0 as the bytes of label fields
//! ([`WriteBuilder::add_encoded`]), in 2.0 as symbols that were interned ([`WriteBuilder::add_symbols`]). The encoded ways
//! hash no text.
//!
//! Invariants:
//!   * the length of a message is computed before it is written, so no bytes are moved afterwards
//!   * nothing is allocated for a series, except for the growth of buffers and of the symbol table
//!   * a value keeps its bits, so a staleness marker stays one
//!   * in 2.0 a text is in the symbol table of a request at most once

use crate::symbols::{Symbol, SymbolTable};
use crate::wire::{BYTES, put_bytes, put_double, put_number, put_varint, varint_bytes};
use crate::write::{Message, SAMPLE_START_FIELD, kind_number};
use series::{Labels, NO_START, start_of};

/// What a series has besides its labels.
#[derive(Clone, Copy, Debug, Default)]
pub struct SeriesContent<'a> {
    /// Milliseconds and value.
    pub samples: &'a [(i64, f64)],
    /// Start times of the samples; 1.0 has no place for them.
    pub starts: &'a [(i64, i64)],
    /// Encoded by [`crate::encode_histogram`]; both messages have the same.
    pub histograms: &'a [&'a [u8]],
    pub exemplars: &'a [ExemplarContent<'a>],
    /// Of the metric. 1.0 has no place for it beside a series.
    pub metadata: Option<SeriesMetadata>,
}

/// An exemplar of a series.
#[derive(Clone, Copy, Debug)]
pub struct ExemplarContent<'a> {
    pub labels: &'a Labels,
    pub value: f64,
    /// Milliseconds.
    pub at: i64,
}

/// Metadata of a series' metric in 2.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesMetadata {
    /// Number of the metric type in the message.
    pub kind: u8,
    pub help: Symbol,
    pub unit: Symbol,
}

/// Number of samples, histograms and exemplars of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub samples: u64,
    pub histograms: u64,
    pub exemplars: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.samples += other.samples;
        self.histograms += other.histograms;
        self.exemplars += other.exemplars;
    }
}

impl Counts {
    pub fn total(self) -> u64 {
        self.samples + self.histograms + self.exemplars
    }
}

/// A write request while it is encoded.
#[derive(Debug)]
pub struct WriteBuilder {
    message: Message,
    /// Series, and in 1.0 metadata.
    body: Vec<u8>,
    counts: Counts,
    symbols: SymbolTable,
    /// Label references of the series that is being added.
    references: Vec<u8>,
    /// Exemplars of the series that is being added, as fields.
    exemplars: Vec<u8>,
}

/// Bytes of a sample's or exemplar's value and of the keys around it.
const VALUE_BYTES: usize = 1 + 8 + 1;

impl WriteBuilder {
    pub fn new(message: Message) -> WriteBuilder {
        WriteBuilder {
            message,
            body: Vec::new(),
            counts: Counts::default(),
            symbols: SymbolTable::default(),
            references: Vec::new(),
            exemplars: Vec::new(),
        }
    }

    pub fn message(&self) -> Message {
        self.message
    }

    /// Adds a series. Labels come sorted by name, none is empty.
    pub fn add<'a>(&mut self, labels: impl Iterator<Item = (&'a str, &'a str)> + Clone, content: &SeriesContent<'_>) {
        match self.message {
            Message::V1 => {
                let label_bytes: usize =
                    labels.clone().map(|(name, value)| field_bytes(label_bytes(name, value))).sum();
                self.begin_series(1, label_bytes, content);
                for (name, value) in labels {
                    put_label(name, value, &mut self.body);
                }
                self.put_content(content);
            }
            Message::V2 => {
                self.references.clear();
                for (name, value) in labels {
                    for text in [name, value] {
                        let symbol = self.symbols.intern(text);
                        put_varint(self.symbols.reference(symbol).into(), &mut self.references);
                    }
                }
                self.put_v2_series(content);
            }
        }
    }

    /// Adds a series of 1.0 whose labels are these pieces of encoded labels, see [`put_label`].
    pub fn add_encoded<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]> + Clone, content: &SeriesContent<'_>) {
        debug_assert_eq!(self.message, Message::V1);
        self.begin_series(1, pieces.clone().map(<[u8]>::len).sum(), content);
        pieces.for_each(|piece| self.body.extend_from_slice(piece));
        self.put_content(content);
    }

    /// Adds a series of 2.0 whose label names and values are these pieces of symbols.
    pub fn add_symbols<'a>(&mut self, pieces: impl Iterator<Item = &'a [Symbol]>, content: &SeriesContent<'_>) {
        debug_assert_eq!(self.message, Message::V2);
        self.references.clear();
        for symbol in pieces.flatten() {
            put_varint(self.symbols.reference(*symbol).into(), &mut self.references);
        }
        self.put_v2_series(content);
    }

    /// Interns a text for [`WriteBuilder::add_symbols`]. The symbol is valid until [`WriteBuilder::forget_symbols`].
    pub fn intern(&mut self, text: &str) -> Symbol {
        self.symbols.intern(text)
    }

    /// Bytes of memory of interned texts.
    pub fn symbol_bytes(&self) -> usize {
        self.symbols.heap_bytes()
    }

    /// Forgets all symbols. Only between two requests.
    pub fn forget_symbols(&mut self) {
        debug_assert!(self.is_empty());
        self.symbols = SymbolTable::default();
    }

    fn put_v2_series(&mut self, content: &SeriesContent<'_>) {
        // References to help and unit come first, because they may grow the table.
        let metadata = content.metadata.map(|SeriesMetadata { kind, help, unit }| {
            [u32::from(kind), self.symbols.reference(help), self.symbols.reference(unit)].map(u64::from)
        });
        let metadata_bytes = metadata.map_or(0, |metadata| field_bytes(numbers_bytes(&metadata)));
        self.begin_series(5, field_bytes(self.references.len()) + metadata_bytes, content);
        put_bytes(1, &self.references, &mut self.body);
        self.put_content(content);
        if let Some(metadata) = metadata {
            put_field_header(5, numbers_bytes(&metadata), &mut self.body);
            for (field, number) in [1, 3, 4].into_iter().zip(metadata) {
                put_number(field, number, &mut self.body);
            }
        }
    }

    /// Encodes the exemplars of a series as fields of it.
    fn encode_exemplars(&mut self, exemplars: &[ExemplarContent<'_>]) {
        self.exemplars.clear();
        for ExemplarContent { labels, value, at } in exemplars {
            let others_bytes = sample_bytes(*at);
            match self.message {
                Message::V1 => {
                    let label_bytes: usize =
                        labels.iter().map(|(name, value)| field_bytes(label_bytes(name, value))).sum();
                    put_field_header(3, label_bytes + others_bytes, &mut self.exemplars);
                    labels.iter().for_each(|(name, value)| put_label(name, value, &mut self.exemplars));
                }
                Message::V2 => {
                    let mut references = Vec::new();
                    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
                        let symbol = self.symbols.intern(text);
                        put_varint(self.symbols.reference(symbol).into(), &mut references);
                    }
                    put_field_header(4, field_bytes(references.len()) + others_bytes, &mut self.exemplars);
                    put_bytes(1, &references, &mut self.exemplars);
                }
            }
            put_double(2, *value, &mut self.exemplars);
            put_number(3, *at as u64, &mut self.exemplars);
        }
    }

    /// Begins a series whose labels and metadata are so many bytes.
    fn begin_series(&mut self, field: u64, other_bytes: usize, content: &SeriesContent<'_>) {
        let SeriesContent { samples, histograms, exemplars, .. } = content;
        self.counts.samples += samples.len() as u64;
        self.counts.histograms += histograms.len() as u64;
        self.counts.exemplars += exemplars.len() as u64;
        self.encode_exemplars(exemplars);
        let samples_bytes: usize = match self.starts_of(content) {
            [] => samples.iter().map(|(at, _)| field_bytes(sample_bytes(*at))).sum(),
            starts => samples.iter().map(|(at, _)| field_bytes(started_bytes(*at, start_of(starts, *at)))).sum(),
        };
        let histograms_bytes: usize = histograms.iter().map(|histogram| field_bytes(histogram.len())).sum();
        let length = other_bytes + samples_bytes + histograms_bytes + self.exemplars.len();
        self.body.reserve(field_bytes(length));
        put_field_header(field, length, &mut self.body);
    }

    /// The start times of samples, as far as the message has them.
    fn starts_of<'a>(&self, content: &SeriesContent<'a>) -> &'a [(i64, i64)] {
        match self.message {
            Message::V1 => &[],
            Message::V2 => content.starts,
        }
    }

    fn put_content(&mut self, content: &SeriesContent<'_>) {
        let starts = self.starts_of(content);
        for (at, value) in content.samples {
            let start = if starts.is_empty() { NO_START } else { start_of(starts, *at) };
            put_field_header(2, started_bytes(*at, start), &mut self.body);
            put_double(1, *value, &mut self.body);
            put_number(2, *at as u64, &mut self.body);
            if start != NO_START {
                put_number(SAMPLE_START_FIELD, start as u64, &mut self.body);
            }
        }
        let field = match self.message {
            Message::V1 => 4,
            Message::V2 => 3,
        };
        content.histograms.iter().for_each(|histogram| put_bytes(field, histogram, &mut self.body));
        self.body.extend_from_slice(&self.exemplars);
    }

    /// Adds metadata of a metric to a request of 1.0. In 2.0 it belongs to series.
    pub fn add_metadata(&mut self, metric: &str, kind: &str, help: &str, unit: &str) {
        if self.message == Message::V2 {
            return;
        }
        let kind = kind_number(kind);
        let texts = [(2, metric), (4, help), (5, unit)];
        let texts_bytes: usize = texts.iter().map(|(_, text)| field_bytes(text.len())).sum();
        put_field_header(3, 1 + varint_bytes(kind) + texts_bytes, &mut self.body);
        put_number(1, kind, &mut self.body);
        texts.iter().for_each(|(field, text)| put_bytes(*field, text.as_bytes(), &mut self.body));
    }

    /// What is in it so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether it holds neither a series nor metadata.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Bytes of the uncompressed message so far.
    pub fn len_bytes(&self) -> usize {
        let first_symbol = if self.message == Message::V2 { field_bytes(0) } else { 0 };
        first_symbol + self.symbols.encoded().len() + self.body.len()
    }

    /// The message, uncompressed. The next one begins.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.len_bytes());
        if self.message == Message::V2 {
            put_bytes(4, b"", &mut message);
            message.extend_from_slice(self.symbols.encoded());
        }
        message.extend_from_slice(&self.body);
        self.body.clear();
        self.symbols.begin_request();
        self.counts = Counts::default();
        message
    }
}

/// Encodes one label as a field of a series of 1.0.
pub fn put_label(name: &str, value: &str, out: &mut Vec<u8>) {
    put_field_header(1, label_bytes(name, value), out);
    put_bytes(1, name.as_bytes(), out);
    put_bytes(2, value.as_bytes(), out);
}

fn label_bytes(name: &str, value: &str) -> usize {
    field_bytes(name.len()) + field_bytes(value.len())
}

/// Bytes of three numbers in fields below 16.
fn numbers_bytes(numbers: &[u64; 3]) -> usize {
    numbers.iter().map(|number| 1 + varint_bytes(*number)).sum()
}

/// Bytes of a field of so many bytes; numbers of fields are below 16.
pub(crate) fn field_bytes(length: usize) -> usize {
    1 + varint_bytes(length as u64) + length
}

fn put_field_header(field: u64, length: usize, out: &mut Vec<u8>) {
    put_varint(field << 3 | BYTES, out);
    put_varint(length as u64, out);
}

fn sample_bytes(at: i64) -> usize {
    VALUE_BYTES + varint_bytes(at as u64)
}

/// Bytes of a sample with its start time, if it has one.
fn started_bytes(at: i64, start: i64) -> usize {
    let of_start = if start == NO_START { 0 } else { 1 + varint_bytes(start as u64) };
    sample_bytes(at) + of_start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::{IncomingMetadata, WriteLimits, decode_write};
    use series::STALE_NAN;

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    fn floats(samples: &[(i64, f64)]) -> SeriesContent<'_> {
        SeriesContent { samples, ..SeriesContent::default() }
    }

    type Series = Vec<(Labels, Vec<(i64, f64)>)>;

    #[track_caller]
    fn check(builder: &mut WriteBuilder, series: &Series) {
        for (labels, samples) in series {
            builder.add(labels.iter(), &floats(samples));
        }
        let count = series.iter().map(|(_, samples)| samples.len() as u64).sum::<u64>();
        assert_eq!(builder.counts(), Counts { samples: count, ..Counts::default() });
        assert_eq!(builder.is_empty(), series.is_empty());
        let bytes = builder.len_bytes();
        let body = builder.finish();
        assert_eq!(body.len(), bytes);
        assert!(builder.is_empty());
        assert_eq!(builder.counts(), Counts::default());
        let read = decode_write(builder.message, &body, &WriteLimits::default()).unwrap();
        assert_eq!(read.refusals, Vec::<String>::new());
        let bits = |at: i64, value: f64| (at, value.to_bits());
        let got: Vec<_> = read
            .series
            .iter()
            .map(|one| {
                (one.labels.clone(), one.samples.iter().map(|s| bits(s.timestamp.0, s.value)).collect::<Vec<_>>())
            })
            .collect();
        let want: Vec<_> = series
            .iter()
            .map(|(labels, samples)| (labels.clone(), samples.iter().map(|(at, value)| bits(*at, *value)).collect()))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn what_is_built_is_read() {
        for message in [Message::V1, Message::V2] {
            let mut next = random(4);
            let mut builder = WriteBuilder::new(message);
            for _ in 0..50 {
                let mut series = Series::new();
                for i in 0..next(30) {
                    let mut pairs = vec![("__name__".to_owned(), format!("m{}", next(9))), ("i".into(), i.to_string())];
                    pairs.extend((0..next(5)).map(|j| (format!("l{j}"), "é".repeat(1 + next(200) as usize))));
                    let samples = (0..next(5)).map(|k| {
                        let value = if next(5) == 0 { STALE_NAN } else { next(1000) as f64 / 8.0 };
                        (next(1 << 42) as i64 * 10 + k as i64, value)
                    });
                    series.push((Labels::from_pairs(pairs), samples.collect()));
                }
                check(&mut builder, &series);
            }
        }
    }

    #[test]
    fn a_finished_request_leaves_nothing_to_the_next() {
        let other = [("__name__", "other"), ("x", "y")];
        let last = [("__name__", "last"), ("x", "é")];
        for message in [Message::V1, Message::V2] {
            let build = |builder: &mut WriteBuilder| {
                builder.add(last.into_iter(), &floats(&[(1, STALE_NAN), (2, -0.0)]));
                builder.finish()
            };
            let mut used = WriteBuilder::new(message);
            used.add(other.into_iter(), &floats(&[(7, 1.0)]));
            used.add_metadata("other", "gauge", "Text.", "");
            used.finish();
            assert_eq!(build(&mut used), build(&mut WriteBuilder::new(message)));
        }
    }

    #[test]
    fn exemplars_that_are_built_are_read() {
        let series = Labels::from_pairs([("__name__", "m"), ("le", "1")]);
        let trace = Labels::from_pairs([("trace_id", "é".repeat(20)), ("z", "m".into())]);
        let exemplars = [
            ExemplarContent { labels: &trace, value: 0.5, at: 12 },
            ExemplarContent { labels: &Labels::empty(), value: -0.0, at: -1 },
        ];
        for message in [Message::V1, Message::V2] {
            let mut builder = WriteBuilder::new(message);
            for samples in [&[(12, 3.0)][..], &[]] {
                let content = SeriesContent { samples, exemplars: &exemplars, ..SeriesContent::default() };
                builder.add(series.iter(), &content);
            }
            assert_eq!(builder.counts(), Counts { samples: 1, histograms: 0, exemplars: 4 });
            let bytes = builder.len_bytes();
            let body = builder.finish();
            assert_eq!(body.len(), bytes);
            let read = decode_write(message, &body, &WriteLimits::default()).unwrap();
            let read: Vec<_> =
                read.exemplars.iter().map(|one| (&one.series, &one.labels, one.value, one.timestamp.0)).collect();
            let want = [(&series, &trace, 0.5, 12), (&series, &Labels::empty(), 0.0, -1)];
            assert_eq!(read, [want, want].concat(), "{message:?}");
        }
    }

    /// Names and values by number: a symbol is there once, the empty one first.
    #[test]
    fn symbols_are_shared_by_the_series_of_a_request() {
        let mut builder = WriteBuilder::new(Message::V2);
        builder.add([("__name__", "a"), ("b", "a")].into_iter(), &floats(&[(1, 0.5)]));
        builder.add([("__name__", "b")].into_iter(), &floats(&[]));
        let mut want = b"\x22\x00\x22\x08__name__\x22\x01a\x22\x01b".to_vec();
        want.extend_from_slice(b"\x2a\x13\x0a\x04\x01\x02\x03\x02\x12\x0b\x09\0\0\0\0\0\0\xe0\x3f\x10\x01");
        want.extend_from_slice(b"\x2a\x04\x0a\x02\x01\x03");
        assert_eq!(builder.finish(), want);
    }

    #[test]
    fn lengths_at_the_borders_of_their_encoding() {
        for message in [Message::V1, Message::V2] {
            for length in [1, 100, 127, 128, 129, 16_383, 16_384, 16_385] {
                let labels = Labels::from_pairs([("__name__", "m".repeat(length)), ("v", "w".repeat(length))]);
                check(&mut WriteBuilder::new(message), &vec![(labels, vec![(-1, 1.0), (0, 2.0), (i64::MAX, 3.0)])]);
            }
        }
    }

    #[test]
    fn metadata_goes_with_the_first_message() {
        let mut builder = WriteBuilder::new(Message::V1);
        builder.add_metadata("m", "counter", "Text.", "seconds");
        builder.add_metadata("n", "unknown", "", "");
        let read = decode_write(Message::V1, &builder.finish(), &WriteLimits::default()).unwrap();
        let entry = |metric: &str, kind: &'static str, help: &str, unit: &str| IncomingMetadata {
            metric: metric.into(),
            kind,
            help: help.into(),
            unit: unit.into(),
        };
        assert_eq!(read.metadata, [entry("m", "counter", "Text.", "seconds"), entry("n", "unknown", "", "")]);
        let kinds = ["unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "?"];
        kinds.iter().for_each(|kind| builder.add_metadata("m", kind, &"h".repeat(128), ""));
        let read = decode_write(Message::V1, &builder.finish(), &WriteLimits::default()).unwrap();
        let read: Vec<&str> = read.metadata.iter().map(|entry| entry.kind).collect();
        assert_eq!(read[..8], kinds[..8]);
        assert_eq!(read[8], "unknown");
        let mut builder = WriteBuilder::new(Message::V2);
        builder.add_metadata("m", "counter", "Text.", "");
        assert!(builder.is_empty());
    }

    /// The three ways to name labels make the same request.
    #[test]
    fn encoded_labels_make_the_same_request_as_text() {
        let labels = [("__name__", "m"), ("a", "é"), ("b", "m"), ("c", "é")];
        let mut histogram = Vec::new();
        crate::histogram::encode(
            9,
            &series::Histogram { count: 1.0, zero_count: 1.0, ..Default::default() },
            &mut histogram,
        );
        let (samples, histograms) = ([(1, 2.0), (3, STALE_NAN)], [&histogram[..]]);
        let content = SeriesContent { samples: &samples, histograms: &histograms, ..SeriesContent::default() };
        for message in [Message::V1, Message::V2] {
            let (mut text, mut encoded) = (WriteBuilder::new(message), WriteBuilder::new(message));
            for round in 0..3 {
                let mut pieces = [Vec::new(), Vec::new()];
                let mut symbols = [Vec::new(), Vec::new()];
                for (i, (name, value)) in labels.iter().enumerate() {
                    put_label(name, value, &mut pieces[i / 2]);
                    // Texts that another request had have symbols, and are no part of this one.
                    symbols[i / 2].extend([encoded.intern(name), encoded.intern(value)]);
                    encoded.intern(&format!("other {round}"));
                }
                for _ in 0..2 {
                    text.add(labels.into_iter(), &content);
                    match message {
                        Message::V1 => encoded.add_encoded(pieces.iter().map(|piece| &piece[..]), &content),
                        Message::V2 => encoded.add_symbols(symbols.iter().map(|piece| &piece[..]), &content),
                    }
                }
                assert_eq!(text.len_bytes(), encoded.len_bytes());
                assert_eq!(text.counts(), Counts { samples: 4, histograms: 2, exemplars: 0 });
                assert_eq!(text.finish(), encoded.finish());
            }
            encoded.forget_symbols();
            assert_eq!(encoded.symbol_bytes(), WriteBuilder::new(message).symbol_bytes());
        }
    }

    #[test]
    fn metadata_of_2_0_is_with_its_series() {
        let mut builder = WriteBuilder::new(Message::V2);
        let metadata = SeriesMetadata { kind: 1, help: builder.intern("Text."), unit: builder.intern("") };
        let content = SeriesContent { samples: &[(1, 2.0)], metadata: Some(metadata), ..SeriesContent::default() };
        builder.add([("__name__", "m_total")].into_iter(), &content);
        let bytes = builder.len_bytes();
        let body = builder.finish();
        assert_eq!(body.len(), bytes);
        let read = decode_write(Message::V2, &body, &WriteLimits::default()).unwrap();
        let want =
            IncomingMetadata { metric: "m_total".into(), kind: "counter", help: "Text.".into(), unit: "".into() };
        assert_eq!((read.metadata, read.series[0].samples.len()), (vec![want], 1));
    }
}
