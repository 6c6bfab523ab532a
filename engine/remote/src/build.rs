//! Write requests, 1.0 and 2.0, while they are made: sample by sample, into buffers that are used again.

use crate::wire::{BYTES, FIXED64, VARINT, put_bytes, put_number, put_varint, varint_bytes};
use crate::write::{Message, kind_number};
use ahash::AHashMap;

/// A write request while it is made.
#[derive(Debug)]
pub struct WriteBuilder {
    message: Message,
    /// Series, and of 1.0 metadata.
    body: Vec<u8>,
    samples: usize,
    metadata: usize,
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
            metadata: 0,
            symbols: AHashMap::new(),
            table: Vec::new(),
            references: Vec::new(),
        }
    }

    /// Adds a series with its samples: milliseconds and value. Labels come sorted by name, none is empty.
    pub fn add<'a>(&mut self, labels: impl Iterator<Item = (&'a str, &'a str)> + Clone, samples: &[(i64, f64)]) {
        self.samples += samples.len();
        let of_samples: usize = samples.iter().map(|(at, _)| field_bytes(sample_bytes(*at))).sum();
        match self.message {
            Message::V1 => {
                let label_bytes = |name: &str, value: &str| field_bytes(name.len()) + field_bytes(value.len());
                let of_labels: usize = labels.clone().map(|(name, value)| field_bytes(label_bytes(name, value))).sum();
                self.body.reserve(field_bytes(of_labels + of_samples));
                put_head(1, of_labels + of_samples, &mut self.body);
                for (name, value) in labels {
                    put_head(1, label_bytes(name, value), &mut self.body);
                    put_bytes(1, name.as_bytes(), &mut self.body);
                    put_bytes(2, value.as_bytes(), &mut self.body);
                }
            }
            Message::V2 => {
                self.references.clear();
                for (name, value) in labels {
                    let (name, value) = (self.symbol(name), self.symbol(value));
                    put_varint(u64::from(name), &mut self.references);
                    put_varint(u64::from(value), &mut self.references);
                }
                put_head(5, field_bytes(self.references.len()) + of_samples, &mut self.body);
                put_bytes(1, &self.references, &mut self.body);
            }
        }
        for (at, value) in samples {
            put_head(2, sample_bytes(*at), &mut self.body);
            put_varint(1 << 3 | FIXED64, &mut self.body);
            self.body.extend_from_slice(&value.to_bits().to_le_bytes());
            put_varint(2 << 3 | VARINT, &mut self.body);
            put_varint(*at as u64, &mut self.body);
        }
    }

    /// Adds what is said of a metric. 2.0 says it with each series and has no place for it.
    pub fn add_metadata(&mut self, metric: &str, kind: &str, help: &str, unit: &str) {
        if self.message == Message::V2 {
            return;
        }
        self.metadata += 1;
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

    pub fn is_empty(&self) -> bool {
        self.samples == 0 && self.metadata == 0
    }

    /// The message, unpacked. The next one begins.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut message = Vec::with_capacity(2 + self.table.len() + self.body.len());
        if self.message == Message::V2 {
            put_bytes(4, b"", &mut message);
            message.extend_from_slice(&self.table);
        }
        message.extend_from_slice(&self.body);
        self.body.clear();
        self.table.clear();
        self.symbols.clear();
        (self.samples, self.metadata) = (0, 0);
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
        let body = builder.finish();
        assert!(builder.is_empty());
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
                    let samples = (0..1 + next(4)).map(|k| {
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
        let mut builder = WriteBuilder::new(Message::V2);
        builder.add_metadata("m", "counter", "Text.", "");
        assert!(builder.is_empty());
    }
}
