//! A request of our own, built again: a part of it, without samples that are too old, or as the other message.
//!
//! This is for the rare case that a receiver does not take a request as it is, so it costs what decoding costs.
//!
//! Invariants:
//!   * a value is a sample, a histogram or an exemplar; values keep the order of the request, and so the order within each series
//!   * the parts `0..n` and `n..` of a request have together what it has

use crate::DecodeError;
use crate::build::{Counts, ExemplarContent, SeriesContent, SeriesMetadata, WriteBuilder};
use crate::symbols::Symbol;
use crate::wire::{Fields, Value};
use crate::write::{Message, sample};
use series::{Labels, Sample, StartTimes, Timestamp, note_start};
use std::ops::Range;

/// What to keep of a request.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which of its values.
    pub values: Range<u64>,
    /// Values older than this are left out.
    pub oldest_ms: i64,
}

impl Part {
    /// All of it.
    pub const ALL: Part = Part { values: 0..u64::MAX, oldest_ms: i64::MIN };
}

/// A request that was built again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Uncompressed.
    pub body: Vec<u8>,
    pub counts: Counts,
    /// What was left out because of its age.
    pub too_old: Counts,
    /// Timestamp of the oldest and the newest value; the largest and the smallest number if there is none.
    pub range_ms: (i64, i64),
}

/// Builds a part of a request as `to`. The body is uncompressed, and a message of ours: 2.0 has its symbols in front.
pub fn rewrite(from: Message, body: &[u8], to: Message, part: &Part) -> Result<Rewritten, DecodeError> {
    let mut rewriter = Rewriter {
        from,
        part,
        symbols: Vec::new(),
        seen: 0,
        builder: WriteBuilder::new(to),
        too_old: Counts::default(),
        range_ms: (i64::MAX, i64::MIN),
    };
    let mut fields = Fields::new(body);
    while let Some((number, value)) = fields.next().map_err(DecodeError::Message)? {
        let taken = match (from, number) {
            (Message::V1, 1) | (Message::V2, 5) => value.bytes().and_then(|bytes| rewriter.series(bytes)),
            (Message::V2, 4) => value.text().map(|text| rewriter.symbols.push(text)),
            _ => Ok(()),
        };
        taken.map_err(DecodeError::Message)?;
    }
    let Rewriter { mut builder, too_old, range_ms, .. } = rewriter;
    let counts = builder.counts();
    Ok(Rewritten { body: builder.finish(), counts, too_old, range_ms })
}

struct Rewriter<'a> {
    from: Message,
    part: &'a Part,
    symbols: Vec<&'a str>,
    /// Values before.
    seen: u64,
    builder: WriteBuilder,
    too_old: Counts,
    range_ms: (i64, i64),
}

/// Texts of metadata of 2.0.
type MetadataTexts<'a> = (u8, &'a str, &'a str);
/// Labels, value and milliseconds of an exemplar.
type ExemplarParts<'a> = (Vec<(&'a str, &'a str)>, f64, i64);

impl<'a> Rewriter<'a> {
    fn series(&mut self, bytes: &'a [u8]) -> Result<(), &'static str> {
        let (mut labels, mut samples, mut histograms, mut metadata) = (Vec::new(), Vec::new(), Vec::new(), None);
        let (mut exemplars, mut starts) = (Vec::new(), StartTimes::new());
        let (histograms_field, exemplars_field) = match self.from {
            Message::V1 => (4, 3),
            Message::V2 => (3, 4),
        };
        let mut fields = Fields::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match (self.from, number) {
                (Message::V1, 1) => labels.push(pair(value)?),
                (Message::V2, 1) => self.references(value, &mut labels)?,
                (Message::V2, 5) => metadata = Some(self.metadata(value)?),
                (_, 2) => {
                    let (Sample { timestamp: Timestamp(at), value }, start) = sample(value)?;
                    if self.keeps(at, |counts| &mut counts.samples) {
                        samples.push((at, value));
                        note_start(&mut starts, at, start);
                    }
                }
                (_, field) if field == histograms_field => {
                    let histogram = value.bytes()?;
                    if self.keeps(histogram_time(histogram)?, |counts| &mut counts.histograms) {
                        histograms.push(histogram);
                    }
                }
                (_, field) if field == exemplars_field => {
                    let (of_exemplar, number, at) = self.exemplar(value.bytes()?)?;
                    if self.keeps(at, |counts| &mut counts.exemplars) {
                        exemplars.push((Labels::from_pairs(of_exemplar), number, at));
                    }
                }
                _ => {}
            }
        }
        if samples.is_empty() && histograms.is_empty() && exemplars.is_empty() {
            return Ok(());
        }
        let exemplars: Vec<ExemplarContent> =
            exemplars.iter().map(|(labels, value, at)| ExemplarContent { labels, value: *value, at: *at }).collect();
        let metadata = metadata.filter(|_| self.builder.message() == Message::V2).map(|(kind, help, unit)| {
            let [help, unit] = [help, unit].map(|text| self.builder.intern(text));
            SeriesMetadata { kind, help, unit }
        });
        let content = SeriesContent {
            samples: &samples,
            starts: &starts,
            histograms: &histograms,
            exemplars: &exemplars,
            metadata,
        };
        self.builder.add(labels.iter().copied(), &content);
        Ok(())
    }

    /// Whether the next value, of this time, is in the part; counts it if it is too old.
    fn keeps(&mut self, at: i64, count: impl Fn(&mut Counts) -> &mut u64) -> bool {
        let is_in_part = self.part.values.contains(&self.seen);
        let is_too_old = at < self.part.oldest_ms;
        self.seen += 1;
        if is_in_part && is_too_old {
            *count(&mut self.too_old) += 1;
        }
        if is_in_part && !is_too_old {
            self.range_ms = (self.range_ms.0.min(at), self.range_ms.1.max(at));
        }
        is_in_part && !is_too_old
    }

    fn symbol(&self, reference: u64) -> Result<&'a str, &'static str> {
        let symbol = usize::try_from(reference).ok().and_then(|place| self.symbols.get(place));
        symbol.copied().ok_or("a reference outside of the symbol table")
    }

    fn references(&self, value: Value, labels: &mut Vec<(&'a str, &'a str)>) -> Result<(), &'static str> {
        let mut references = Vec::new();
        value.numbers(|reference| references.push(reference))?;
        for pair in references.chunks_exact(2) {
            labels.push((self.symbol(pair[0])?, self.symbol(pair[1])?));
        }
        Ok(())
    }

    /// Labels, value and time of an exemplar.
    fn exemplar(&self, bytes: &'a [u8]) -> Result<ExemplarParts<'a>, &'static str> {
        let (mut labels, mut number, mut at) = (Vec::new(), 0.0, 0);
        let mut fields = Fields::new(bytes);
        while let Some((field, value)) = fields.next()? {
            match (self.from, field) {
                (Message::V1, 1) => labels.push(pair(value)?),
                (Message::V2, 1) => self.references(value, &mut labels)?,
                (_, 2) => number = value.double()?,
                (_, 3) => at = value.number()? as i64,
                _ => {}
            }
        }
        Ok((labels, number, at))
    }

    fn metadata(&self, value: Value) -> Result<MetadataTexts<'a>, &'static str> {
        let (mut kind, mut help, mut unit) = (0, "", "");
        let mut fields = Fields::new(value.bytes()?);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => kind = u8::try_from(value.number()?).unwrap_or(0),
                3 => help = self.symbol(value.number()?)?,
                4 => unit = self.symbol(value.number()?)?,
                _ => {}
            }
        }
        Ok((kind, help, unit))
    }
}

fn pair(value: Value<'_>) -> Result<(&str, &str), &'static str> {
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

fn histogram_time(bytes: &[u8]) -> Result<i64, &'static str> {
    let mut at = 0;
    let mut fields = Fields::new(bytes);
    while let Some((field, value)) = fields.next()? {
        if field == 15 {
            at = value.number()? as i64;
        }
    }
    Ok(at)
}

impl Default for SeriesMetadata {
    fn default() -> SeriesMetadata {
        SeriesMetadata { kind: 0, help: Symbol::EMPTY, unit: Symbol::EMPTY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::{Incoming, WriteLimits, decode_write};
    use series::STALE_NAN;

    /// Two series of four and two values, the first with a histogram and an exemplar.
    fn request(message: Message) -> Vec<u8> {
        let mut builder = WriteBuilder::new(message);
        let mut histogram = Vec::new();
        let one = series::Histogram { count: 2.0, zero_count: 2.0, ..series::Histogram::default() };
        crate::encode_histogram(30, &one, &mut histogram);
        let metadata = SeriesMetadata { kind: 2, help: builder.intern("Text."), unit: Symbol::EMPTY };
        let first = SeriesContent {
            starts: &[],
            samples: &[(10, 1.0), (20, STALE_NAN)],
            histograms: &[&histogram],
            exemplars: &[ExemplarContent { labels: &Labels::from_pairs([("t", "a")]), value: 0.5, at: 21 }],
            metadata: (message == Message::V2).then_some(metadata),
        };
        builder.add([("__name__", "a"), ("x", "é")].into_iter(), &first);
        let second = SeriesContent { samples: &[(15, 3.0), (25, -0.0)], ..SeriesContent::default() };
        builder.add([("__name__", "b")].into_iter(), &second);
        builder.finish()
    }

    fn read(message: Message, body: &[u8]) -> (Vec<String>, usize) {
        let read = decode_write(message, body, &WriteLimits::default()).unwrap();
        assert_eq!(read.refusals, Vec::<String>::new());
        let text = |Incoming { labels, samples, histograms, .. }: &Incoming| {
            let samples = samples.iter().map(|s| format!("{}:{:x}", s.timestamp.0, s.value.to_bits()));
            let histograms = histograms.iter().map(|(at, histogram)| format!("{at}:h{}", histogram.count));
            format!("{labels} {}", samples.chain(histograms).collect::<Vec<_>>().join(" "))
        };
        let exemplars = read
            .exemplars
            .iter()
            .map(|one| format!("{} e{:?}={}@{}", one.series.metric_name(), one.labels, one.value, one.timestamp.0));
        (read.series.iter().map(text).chain(exemplars).collect(), read.metadata.len())
    }

    #[test]
    fn a_request_as_the_other_message_has_the_same_series() {
        for from in [Message::V1, Message::V2] {
            let body = request(from);
            for to in [Message::V1, Message::V2] {
                let rewritten = rewrite(from, &body, to, &Part::ALL).unwrap();
                assert_eq!(rewritten.counts, Counts { samples: 4, histograms: 1, exemplars: 1 });
                assert_eq!(rewritten.range_ms, (10, 30));
                let (series, metadata) = read(to, &rewritten.body);
                assert_eq!(series, read(from, &body).0);
                assert_eq!(metadata, usize::from((from, to) == (Message::V2, Message::V2)));
            }
        }
    }

    #[test]
    fn parts_have_together_what_the_request_has() {
        for message in [Message::V1, Message::V2] {
            let body = request(message);
            let values = |range: Range<u64>| {
                let part = Part { values: range, oldest_ms: i64::MIN };
                let rewritten = rewrite(message, &body, message, &part).unwrap();
                (rewritten.counts.total(), read(message, &rewritten.body).0)
            };
            for middle in 0..=6 {
                let ((first, one), (second, other)) = (values(0..middle), values(middle..6));
                assert_eq!((first, second), (middle, 6 - middle));
                let is_value = |word: &&str| word.contains(':') && !word.contains('"') || word.contains('@');
                let count = |series: &[String]| series.iter().flat_map(|one| one.split(' ')).filter(is_value).count();
                assert_eq!(count(&one) + count(&other), 6, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn what_is_too_old_is_left_out_and_counted() {
        let part = Part { values: 1..6, oldest_ms: 20 };
        let rewritten = rewrite(Message::V2, &request(Message::V2), Message::V1, &part).unwrap();
        assert_eq!(rewritten.counts, Counts { samples: 2, histograms: 1, exemplars: 1 });
        assert_eq!(rewritten.too_old, Counts { samples: 1, ..Counts::default() }, "15; 10 is in no part");
        assert_eq!(rewritten.range_ms, (20, 30));
        let nothing = Part { values: 0..5, oldest_ms: 31 };
        let rewritten = rewrite(Message::V1, &request(Message::V1), Message::V1, &nothing).unwrap();
        assert_eq!((rewritten.counts, rewritten.body.len()), (Counts::default(), 0));
    }
}
