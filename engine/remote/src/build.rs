//! Write requests, 1.0 and 2.0, while they are made: sample by sample, into buffers that are used again.
//!
//! Invariants:
//!   * the length of a message is counted before it is written, so nothing is moved afterwards
//!   * nothing is allocated for a series, but for the growth of buffers; in 2.0 a new symbol is a key of the map
//!   * a value keeps its bits: a stale marker stays one

use crate::wire::{BYTES, put_bytes, put_double, put_number, put_varint, varint_bytes};
use crate::write::{Message, kind_number};
use ahash::AHashMap;

/// A write request while it is made.
#[derive(Debug)]
pub struct WriteBuilder {
    message: Message,
    /// Series, and of 1.0 metadata.
    body: Vec<u8>,
    samples: usize,
    /// Numbers of symbols; 0 is the empty one.
    symbols: AHashMap<Box<str>, u32>,
    /// The symbols as the message has them.
    table: Vec<u8>,
    references: Vec<u8>,
}

/// Bytes of a sample's value and of the keys around it.
const VALUE_BYTES: usize = 1 + 8 + 1;

impl WriteBuilder {
    pub fn new(message: Message) -> WriteBuilder {
        WriteBuilder {
            message,
            body: Vec::new(),
            samples: 0,
            symbols: AHashMap::new(),
            table: Vec::new(),
            references: Vec::new(),
        }
    }

    /// Adds a series with its samples: milliseconds and value. Labels come sorted by name, none is empty.
    pub fn add<'a>(&mut self, labels: impl Iterator<Item = (&'a str, &'a str)> + Clone, samples: &[(i64, f64)]) {
        self.samples += samples.len();
        let of_samples: usize = samples.iter().map(|(at, _)| field_bytes(sample_bytes(*at))).sum();
        let (begin, length) = match self.message {
            Message::V1 => {
                let label_bytes = |name: &str, value: &str| field_bytes(name.len()) + field_bytes(value.len());
                let of_labels: usize = labels.clone().map(|(name, value)| field_bytes(label_bytes(name, value))).sum();
                let length = of_labels + of_samples;
                self.body.reserve(field_bytes(length));
                put_head(1, length, &mut self.body);
                let begin = self.body.len();
                for (name, value) in labels {
                    put_head(1, label_bytes(name, value), &mut self.body);
                    put_bytes(1, name.as_bytes(), &mut self.body);
                    put_bytes(2, value.as_bytes(), &mut self.body);
                }
                (begin, length)
            }
            Message::V2 => {
                self.references.clear();
                for (name, value) in labels {
                    let (name, value) = (self.symbol(name), self.symbol(value));
                    put_varint(u64::from(name), &mut self.references);
                    put_varint(u64::from(value), &mut self.references);
                }
                let length = field_bytes(self.references.len()) + of_samples;
                self.body.reserve(field_bytes(length));
                put_head(5, length, &mut self.body);
                let begin = self.body.len();
                put_bytes(1, &self.references, &mut self.body);
                (begin, length)
            }
        };
        for (at, value) in samples {
            put_head(2, sample_bytes(*at), &mut self.body);
            put_double(1, *value, &mut self.body);
            put_number(2, *at as u64, &mut self.body);
        }
        debug_assert_eq!(self.body.len() - begin, length);
    }

    /// Adds what is said of a metric. 2.0 says it with each series and has no place for it.
    pub fn add_metadata(&mut self, metric: &str, kind: &str, help: &str, unit: &str) {
        if self.message == Message::V2 {
            return;
        }
        let kind = kind_number(kind);
        let texts = [(2, metric), (4, help), (5, unit)];
        let of_texts: usize = texts.iter().map(|(_, text)| field_bytes(text.len())).sum();
        put_head(3, 1 + varint_bytes(kind) + of_texts, &mut self.body);
        put_number(1, kind, &mut self.body);
        texts.iter().for_each(|(field, text)| put_bytes(*field, text.as_bytes(), &mut self.body));
    }

    /// How many samples are in it.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Whether it holds neither a series nor metadata.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Bytes of the unpacked message so far.
    pub fn len_bytes(&self) -> usize {
        let first_symbol = if self.message == Message::V2 { field_bytes(0) } else { 0 };
        first_symbol + self.table.len() + self.body.len()
    }

    /// The message, unpacked. The next one begins.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.len_bytes());
        if self.message == Message::V2 {
            put_bytes(4, b"", &mut message);
            message.extend_from_slice(&self.table);
        }
        message.extend_from_slice(&self.body);
        self.body.clear();
        self.table.clear();
        self.symbols.clear();
        self.samples = 0;
        message
    }

    fn symbol(&mut self, text: &str) -> u32 {
        if let Some(number) = self.symbols.get(text) {
            return *number;
        }
        if text.is_empty() {
            return 0;
        }
        let number = self.symbols.len() as u32 + 1;
        self.symbols.insert(text.into(), number);
        put_bytes(4, text.as_bytes(), &mut self.table);
        number
    }
}

/// Bytes of a field of so many bytes; numbers of fields are below 16.
fn field_bytes(length: usize) -> usize {
    1 + varint_bytes(length as u64) + length
}

fn put_head(field: u64, length: usize, out: &mut Vec<u8>) {
    put_varint(field << 3 | BYTES, out);
    put_varint(length as u64, out);
}

fn sample_bytes(at: i64) -> usize {
    VALUE_BYTES + varint_bytes(at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::{IncomingMetadata, WriteLimits, decode_write};
    use series::{Labels, STALE_NAN};

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    type Series = Vec<(Labels, Vec<(i64, f64)>)>;

    #[track_caller]
    fn check(builder: &mut WriteBuilder, series: &Series) {
        for (labels, samples) in series {
            builder.add(labels.iter(), samples);
        }
        assert_eq!(builder.samples(), series.iter().map(|(_, samples)| samples.len()).sum::<usize>());
        assert_eq!(builder.is_empty(), series.is_empty());
        let bytes = builder.len_bytes();
        let body = builder.finish();
        assert_eq!(body.len(), bytes);
        assert!(builder.is_empty());
        assert_eq!(builder.samples(), 0);
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
                builder.add(last.into_iter(), &[(1, STALE_NAN), (2, -0.0)]);
                builder.finish()
            };
            let mut used = WriteBuilder::new(message);
            used.add(other.into_iter(), &[(7, 1.0)]);
            used.add_metadata("other", "gauge", "Text.", "");
            used.finish();
            assert_eq!(build(&mut used), build(&mut WriteBuilder::new(message)));
        }
    }

    /// Names and values by number: a symbol is there once, the empty one first.
    #[test]
    fn symbols_are_shared_by_the_series_of_a_request() {
        let mut builder = WriteBuilder::new(Message::V2);
        builder.add([("__name__", "a"), ("b", "a")].into_iter(), &[(1, 0.5)]);
        builder.add([("__name__", "b")].into_iter(), &[]);
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
}
