//! Read requests, and the two ways to answer them: samples at once, or frames of XOR chunks.

use crate::DecodeError;
use crate::histogram;
use crate::wire::{self, Fields, put_bytes, put_double, put_number, put_varint};
use blocks::Chunk;
use series::{Histogram, Labels, MatchOp, Matcher, Sample, Value};
use std::sync::Arc;

/// How an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseType {
    Samples,
    StreamedXorChunks,
}

/// One question of a request. Its hints are not read: what they allow to leave out is sent.
#[derive(Clone, Debug)]
pub struct Query {
    pub from: i64,
    pub to: i64,
    pub matchers: Vec<Matcher>,
}

#[derive(Clone, Debug)]
pub struct ReadRequest {
    pub queries: Vec<Query>,
    /// The first of the accepted ones that is known; None if none is.
    pub response: Option<ResponseType>,
}

/// Questions in one request.
const QUERIES_MAX: usize = 1024;
/// Matchers of one question.
const MATCHERS_MAX: usize = 1024;

/// Reads an unpacked body.
pub fn decode_read(body: &[u8]) -> Result<ReadRequest, DecodeError> {
    let failed = DecodeError::Message;
    let mut queries = Vec::new();
    let mut accepted: Vec<u64> = Vec::new();
    let mut fields = Fields::new(body);
    while let Some((number, value)) = fields.next().map_err(failed)? {
        match number {
            1 if queries.len() >= QUERIES_MAX => {
                return Err(DecodeError::TooMany { what: "queries", max: QUERIES_MAX });
            }
            1 => queries.push(query(value.bytes().map_err(failed)?)?),
            2 => value.numbers(|number| accepted.push(number)).map_err(failed)?,
            _ => {}
        }
    }
    let known = |number: &u64| match number {
        0 => Some(ResponseType::Samples),
        1 => Some(ResponseType::StreamedXorChunks),
        _ => None,
    };
    let response = if accepted.is_empty() { Some(ResponseType::Samples) } else { accepted.iter().find_map(known) };
    Ok(ReadRequest { queries, response })
}

fn query(bytes: &[u8]) -> Result<Query, DecodeError> {
    let failed = DecodeError::Message;
    let mut query = Query { from: 0, to: 0, matchers: Vec::new() };
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next().map_err(failed)? {
        match number {
            1 => query.from = value.number().map_err(failed)? as i64,
            2 => query.to = value.number().map_err(failed)? as i64,
            3 if query.matchers.len() >= MATCHERS_MAX => {
                return Err(DecodeError::TooMany { what: "matchers", max: MATCHERS_MAX });
            }
            3 => query.matchers.push(matcher(value.bytes().map_err(failed)?).map_err(failed)?),
            _ => {}
        }
    }
    Ok(query)
}

fn matcher(bytes: &[u8]) -> Result<Matcher, &'static str> {
    let (mut op, mut name, mut text) = (0, "", "");
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => op = value.number()?,
            2 => name = value.text()?,
            3 => text = value.text()?,
            _ => {}
        }
    }
    let op = match op {
        0 => MatchOp::Equal,
        1 => MatchOp::NotEqual,
        2 => MatchOp::Regex,
        3 => MatchOp::NotRegex,
        _ => return Err("invalid matcher type"),
    };
    Matcher::new(name, op, text).map_err(|_| "a matcher's regular expression does not compile")
}

/// A series of an answer, sorted by labels within its query.
#[derive(Clone, Debug)]
pub struct SeriesAnswer {
    pub labels: Labels,
    pub samples: Vec<Sample>,
    pub histograms: Vec<(i64, Arc<Histogram>)>,
}

fn put_labels(labels: &Labels, out: &mut Vec<u8>) {
    let mut pair = Vec::new();
    for (name, value) in labels.iter() {
        pair.clear();
        put_bytes(1, name.as_bytes(), &mut pair);
        put_bytes(2, value.as_bytes(), &mut pair);
        put_bytes(1, &pair, out);
    }
}

/// `ReadResponse`, for each query its series; not packed.
pub fn encode_samples(queries: &[Vec<SeriesAnswer>]) -> Vec<u8> {
    let (mut out, mut result, mut series, mut sample) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for answers in queries {
        result.clear();
        for answer in answers {
            series.clear();
            put_labels(&answer.labels, &mut series);
            for Sample { timestamp, value } in &answer.samples {
                sample.clear();
                if value.to_bits() != 0 {
                    put_double(1, *value, &mut sample);
                }
                put_number(2, timestamp.0 as u64, &mut sample);
                put_bytes(2, &sample, &mut series);
            }
            for (at, one) in &answer.histograms {
                sample.clear();
                histogram::encode(*at, one, &mut sample);
                put_bytes(4, &sample, &mut series);
            }
            put_bytes(1, &series, &mut result);
        }
        put_bytes(1, &result, &mut out);
    }
    out
}

/// All samples of a series as chunks.
fn chunks(answer: SeriesAnswer) -> Vec<Chunk> {
    let floats = answer.samples.into_iter().map(|sample| (sample.timestamp.0, Value::Float(sample.value)));
    let mut samples: Vec<(i64, Value)> = floats.collect();
    if !answer.histograms.is_empty() {
        samples.extend(answer.histograms.into_iter().map(|(at, histogram)| (at, Value::Histogram(histogram))));
        series::order::dedupe(&mut samples);
    }
    blocks::encode(&samples)
}

/// Frames of `ChunkedReadResponse`: length, CRC32C, message. One series a frame; a long one has several.
pub struct Frames {
    queries: Vec<std::vec::IntoIter<SeriesAnswer>>,
    query: usize,
    /// What is left of a series: its labels as they are sent, its chunks.
    open: Option<(Vec<u8>, std::vec::IntoIter<Chunk>)>,
    frame_bytes_max: usize,
}

impl Frames {
    pub fn new(queries: Vec<Vec<SeriesAnswer>>, frame_bytes_max: usize) -> Frames {
        Frames { queries: queries.into_iter().map(Vec::into_iter).collect(), query: 0, open: None, frame_bytes_max }
    }

    fn open_next(&mut self) -> bool {
        while let Some(query) = self.queries.get_mut(self.query) {
            let is_empty = |answer: &SeriesAnswer| answer.samples.is_empty() && answer.histograms.is_empty();
            if let Some(answer) = query.find(|answer| !is_empty(answer)) {
                let mut labels = Vec::new();
                put_labels(&answer.labels, &mut labels);
                self.open = Some((labels, chunks(answer).into_iter()));
                return true;
            }
            self.query += 1;
        }
        false
    }
}

impl Iterator for Frames {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.open.is_none() && !self.open_next() {
            return None;
        }
        let (labels, chunks) = self.open.as_mut().expect("opened above");
        let mut series = labels.clone();
        // One chunk always goes, so that a small limit ends as well.
        for chunk in chunks.by_ref() {
            put_bytes(2, &put_chunk(&chunk), &mut series);
            if series.len() >= self.frame_bytes_max {
                break;
            }
        }
        if chunks.len() == 0 {
            self.open = None;
        }
        let mut message = Vec::with_capacity(series.len() + 16);
        put_bytes(1, &series, &mut message);
        if self.query > 0 {
            put_number(2, self.query as u64, &mut message);
        }
        let mut frame = Vec::with_capacity(message.len() + 4 + wire::varint_bytes(message.len() as u64));
        put_varint(message.len() as u64, &mut frame);
        frame.extend_from_slice(&crc32c::crc32c(&message).to_be_bytes());
        frame.append(&mut message);
        Some(frame)
    }
}

fn put_chunk(chunk: &Chunk) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunk.bytes.len() + 24);
    put_number(1, chunk.min as u64, &mut out);
    put_number(2, chunk.max as u64, &mut out);
    put_number(3, u64::from(chunk.encoding), &mut out);
    put_bytes(4, &chunk.bytes, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use series::Timestamp;

    fn answer(name: &str, count: i64) -> SeriesAnswer {
        let sample = |i: i64| Sample { timestamp: Timestamp(i * 1000), value: i as f64 / 8.0 };
        SeriesAnswer {
            labels: Labels::from_pairs([("__name__", name)]),
            samples: (0..count).map(sample).collect(),
            histograms: Vec::new(),
        }
    }

    fn request() -> Vec<u8> {
        let (mut matcher, mut query, mut out) = (Vec::new(), Vec::new(), Vec::new());
        put_number(1, 2, &mut matcher);
        put_bytes(2, b"job", &mut matcher);
        put_bytes(3, b"a|b", &mut matcher);
        put_number(1, 5, &mut query);
        put_number(2, 9, &mut query);
        put_bytes(3, &matcher, &mut query);
        put_bytes(4, b"\x08\x01", &mut query);
        put_bytes(1, &query, &mut out);
        put_bytes(2, &[7, 1, 0], &mut out);
        out
    }

    #[test]
    fn requests_are_read() {
        let read = decode_read(&request()).unwrap();
        assert_eq!(read.response, Some(ResponseType::StreamedXorChunks), "the first that is known");
        let query = &read.queries[0];
        assert_eq!((query.from, query.to, query.matchers[0].value()), (5, 9, "a|b"));
        assert_eq!(decode_read(b"").unwrap().response, Some(ResponseType::Samples));
        assert_eq!(decode_read(b"\x10\x07").unwrap().response, None);
        assert_eq!(decode_read(b"\x0a\x04\x1a\x02\x08\x09").unwrap_err().to_string(), "protobuf: invalid matcher type");
    }

    /// Query, metric and samples of each frame.
    fn unframe(frames: Frames) -> Vec<(u64, String, usize)> {
        let read = |frame: Vec<u8>| {
            let (mut query, mut name, mut samples) = (0, String::new(), 0);
            let mut rest = Fields::new(&frame);
            let length = rest.varint().unwrap() as usize;
            let (sum, message) = frame[frame.len() - length - 4..].split_at(4);
            assert_eq!(crc32c::crc32c(message).to_be_bytes(), *sum);
            let mut fields = Fields::new(message);
            while let Some((number, value)) = fields.next().unwrap() {
                if number == 2 {
                    query = value.number().unwrap();
                    continue;
                }
                let mut series = Fields::new(value.bytes().unwrap());
                while let Some((number, value)) = series.next().unwrap() {
                    if number == 1 {
                        name = crate::write::label(value).unwrap().1.to_owned();
                        continue;
                    }
                    let mut fields = Fields::new(value.bytes().unwrap());
                    let mut chunk = Chunk::new(0, 0, 0, Vec::new());
                    while let Some((number, value)) = fields.next().unwrap() {
                        match number {
                            3 => chunk.encoding = value.number().unwrap() as u8,
                            4 => chunk.bytes = value.bytes().unwrap().to_vec(),
                            _ => {}
                        }
                    }
                    chunk.decode(|_, _| samples += 1).unwrap();
                }
            }
            (query, name, samples)
        };
        frames.map(read).collect()
    }

    #[test]
    fn frames_hold_every_sample_and_stay_short() {
        let queries =
            || vec![vec![answer("a", 500), answer("none", 0), answer("b", 1)], vec![], vec![answer("c", 121)]];
        let whole = unframe(Frames::new(queries(), 1 << 20));
        assert_eq!(whole, [(0, "a".into(), 500), (0, "b".into(), 1), (2, "c".into(), 121)]);
        let small = unframe(Frames::new(queries(), 1));
        let counts: Vec<usize> = small.iter().map(|(_, _, samples)| *samples).collect();
        assert_eq!(counts, [120, 120, 120, 120, 20, 1, 120, 1]);
    }

    #[test]
    fn histograms_go_in_order_of_time() {
        let histogram = |count: f64| Arc::new(Histogram { count, ..Histogram::default() });
        let mixed = SeriesAnswer { histograms: vec![(500, histogram(1.0)), (1000, histogram(2.0))], ..answer("a", 3) };
        let kinds: Vec<(u8, u16)> =
            chunks(mixed.clone()).iter().map(|chunk| (chunk.encoding, chunk.samples())).collect();
        assert_eq!(kinds, [(1, 1), (2, 1), (1, 2)], "at one time the float stays");
        assert_eq!(unframe(Frames::new(vec![vec![mixed.clone()]], 1 << 20)), [(0, "a".into(), 4)]);
        let bytes = encode_samples(&[vec![mixed]]);
        let mut result = Fields::new(&bytes);
        let mut series = Fields::new(result.next().unwrap().unwrap().1.bytes().unwrap());
        let mut fields = Fields::new(series.next().unwrap().unwrap().1.bytes().unwrap());
        let mut read = Vec::new();
        while let Some((number, value)) = fields.next().unwrap() {
            if number == 4 {
                let (at, histogram) = crate::histogram::decode(value.bytes().unwrap()).unwrap();
                read.push((at, histogram.map(|histogram| histogram.count)));
            }
        }
        assert_eq!(read, [(500, Ok(1.0)), (1000, Ok(2.0))]);
    }

    #[test]
    fn samples_are_written() {
        let bytes = encode_samples(&[vec![answer("a", 2)], vec![]]);
        // As protoc writes it, but for the default values that it leaves out.
        let sample = b"\x12\x02\x10\x00\x12\x0c\x09\x00\x00\x00\x00\x00\x00\xc0\x3f\x10\xe8\x07";
        let mut series = b"\x0a\x0d\x0a\x08__name__\x12\x01a".to_vec();
        series.extend_from_slice(sample);
        let mut want = vec![0x0a, series.len() as u8 + 2, 0x0a, series.len() as u8];
        want.append(&mut series);
        want.extend_from_slice(b"\x0a\x00");
        assert_eq!(bytes, want);
    }

    #[test]
    fn mutated_requests_are_errors_or_requests() {
        let mut state = 7u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut body = request();
            for _ in 0..1 + next(3) {
                let at = next(body.len());
                match next(3) {
                    0 => body[at] = next(256) as u8,
                    1 => body.truncate(at.max(1)),
                    _ => body.insert(at, next(256) as u8),
                }
            }
            refused += usize::from(decode_read(&body).is_err());
        }
        assert!(refused > 1000, "{refused}");
    }
}
