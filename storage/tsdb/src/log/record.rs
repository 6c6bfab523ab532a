//! What files say: targets, groups of slots, segments, rows, exemplars, chunks. Format: docs/format/log.md.
//!
//! Invariants:
//!   * a file that has the beginning of a segment also has the target and the groups that the segment names
//!   * decoding foreign bytes is an error, never a panic, and allocates no more than a small multiple of them

use crate::bytes::{Reader, put_text, put_varint, unzigzag, zigzag};
use crate::group::{GroupBuilder, SlotGroup};
use crate::starts::StartRun;
use series::{Labels, MatchOp, Matcher, Timestamp};
use std::io::Read;

const TARGET: u8 = 1;
const GROUP: u8 = 2;
const BEGIN: u8 = 3;
const PLACE: u8 = 4;
const ROW: u8 = 5;
const CHUNKS: u8 = 6;
const BEGIN_HISTOGRAMS: u8 = 7;
const HISTOGRAM_CHUNKS: u8 = 8;
const EXEMPLARS: u8 = 9;
const STARTS: u8 = 10;

/// A record of exemplars gets no more of them once it has so many bytes.
const EXEMPLARS_BYTES: usize = 1 << 20;

/// A group's text is at most this long, unpacked.
const GROUP_BYTES_MAX: u64 = 1 << 30;
/// Level of zstd for label text: it is read rarely and written once per group and file.
const ZSTD_LEVEL: i32 = 1;

/// A record with what it borrows from the file.
#[derive(Debug)]
pub enum Record<'a> {
    Target {
        target: u32,
        id: u64,
        labels: Labels,
    },
    Group {
        group: u32,
        slots: SlotGroup,
    },
    /// A target's new segment. All slots are stale; stamps are those of the slots that had one.
    Begin {
        segment: u32,
        target: u32,
        groups: Vec<u32>,
        stamps: Vec<(u32, i64)>,
    },
    /// A source's new segment of histograms: its rows hold such.
    BeginHistograms {
        segment: u32,
        target: u32,
        groups: Vec<u32>,
    },
    /// More groups at the end of a segment's slots.
    Place {
        segment: u32,
        step: u32,
        groups: Vec<u32>,
    },
    /// Steps count the records of a segment after its beginning: a gap shows that one was lost.
    Row {
        segment: u32,
        step: u32,
        at: Timestamp,
        row: &'a [u8],
    },
    Exemplars(LoggedExemplars),
    /// Slots of a segment that have another start time from the row with this step on.
    Starts {
        segment: u32,
        step: u32,
        runs: Vec<StartRun>,
    },
    Chunks(ChunksHead),
}

/// Exemplars of series of one source. They come before the row that has the samples.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedExemplars {
    /// Who the source is, as in its segments; and the labels that it puts on its samples.
    pub source: u64,
    pub labels: Labels,
    /// Whether all of them stood in an earlier file, which was about to be removed.
    pub is_copy: bool,
    pub exemplars: Vec<LoggedExemplar>,
}

/// An exemplar as the log has it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedExemplar {
    /// Labels of its series, without those of the source.
    pub series: Labels,
    pub labels: Labels,
    pub value: f64,
    pub timestamp: Timestamp,
}

/// The head of a segment's chunks; the chunks lie behind its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunksHead {
    /// Of histograms: an entry may have several chunks, and says their encodings.
    pub histograms: bool,
    pub target: u32,
    pub groups: Vec<u32>,
    /// Times of the first and the last sample.
    pub first: i64,
    pub last: i64,
    /// Time of the first row: with the target, who the segment is.
    pub first_row: i64,
    pub samples: u64,
    /// Bytes behind the frame: the table, its checksum, the entries.
    pub bytes: u64,
}

/// Whether a record of this kind is a row.
pub fn is_row(kind: u8) -> bool {
    kind == ROW
}

pub fn put_labels(labels: &Labels, out: &mut Vec<u8>) {
    put_varint(labels.len() as u64, out);
    for (name, value) in labels.iter() {
        put_text(name, out);
        put_text(value, out);
    }
}

pub fn read_labels(reader: &mut Reader) -> Result<Labels, &'static str> {
    let count = reader.count()?;
    let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(count);
    for _ in 0..count {
        let pair = (reader.text()?, reader.text()?);
        if pairs.last().is_some_and(|last| last.0 >= pair.0) {
            return Err("labels are not sorted");
        }
        pairs.push(pair);
    }
    Ok(Labels::from_sorted(pairs))
}

/// Kind and payload of a target's definition.
pub fn target(target: u32, id: u64, labels: &Labels, out: &mut Vec<u8>) -> u8 {
    put_varint(u64::from(target), out);
    out.extend_from_slice(&id.to_le_bytes());
    put_labels(labels, out);
    TARGET
}

/// Kind and payload of a group's definition.
pub fn group(group: u32, slots: &SlotGroup, out: &mut Vec<u8>) -> u8 {
    put_varint(u64::from(group), out);
    let mut text = Vec::new();
    put_slots(slots, &mut text);
    out.extend_from_slice(&zstd::bulk::compress(&text, ZSTD_LEVEL).expect("compression into memory does not fail"));
    GROUP
}

fn put_slots(slots: &SlotGroup, out: &mut Vec<u8>) {
    put_varint(slots.len() as u64, out);
    for slot in 0..slots.len() {
        let labels = slots.label_pairs(slot);
        put_varint((labels.clone().count() as u64) << 1 | u64::from(slots.is_stamped(slot)), out);
        for (name, value) in labels {
            put_text(name, out);
            put_text(value, out);
        }
    }
}

fn read_slots(packed: &[u8]) -> Result<SlotGroup, &'static str> {
    let mut text = Vec::new();
    let unpacked = zstd::stream::Decoder::new(packed).and_then(|decoder| {
        let mut decoder = decoder.take(GROUP_BYTES_MAX);
        decoder.read_to_end(&mut text)
    });
    unpacked.map_err(|_| "a group does not unpack")?;
    let mut reader = Reader::new(&text);
    let mut builder = GroupBuilder::default();
    for _ in 0..reader.count()? {
        let head = reader.varint()?;
        if head >> 1 > reader.rest().len() as u64 {
            return Err(crate::bytes::SHORT);
        }
        let mut pairs = Vec::with_capacity((head >> 1) as usize);
        for _ in 0..head >> 1 {
            let pair = (reader.text()?, reader.text()?);
            if pairs.last().is_some_and(|last: &(&str, &str)| last.0 >= pair.0) {
                return Err("labels are not sorted");
            }
            pairs.push(pair);
        }
        builder.push(&Labels::from_sorted(pairs), head & 1 == 1);
    }
    Ok(builder.build())
}

fn put_numbers(numbers: &[u32], out: &mut Vec<u8>) {
    put_varint(numbers.len() as u64, out);
    numbers.iter().for_each(|number| put_varint(u64::from(*number), out));
}

fn read_numbers(reader: &mut Reader) -> Result<Vec<u32>, &'static str> {
    (0..reader.count()?).map(|_| reader.number()).collect()
}

/// Kind and payload of a segment's beginning.
pub fn begin(segment: u32, target: u32, groups: &[u32], stamps: &[(u32, i64)], out: &mut Vec<u8>) -> u8 {
    put_varint(u64::from(segment), out);
    put_varint(u64::from(target), out);
    put_numbers(groups, out);
    put_varint(stamps.len() as u64, out);
    for (slot, stamp) in stamps {
        put_varint(u64::from(*slot), out);
        put_varint(zigzag(*stamp), out);
    }
    BEGIN
}

pub fn begin_histograms(segment: u32, target: u32, groups: &[u32], out: &mut Vec<u8>) -> u8 {
    put_varint(u64::from(segment), out);
    put_varint(u64::from(target), out);
    put_numbers(groups, out);
    BEGIN_HISTOGRAMS
}

pub fn place(segment: u32, step: u32, groups: &[u32], out: &mut Vec<u8>) -> u8 {
    put_varint(u64::from(segment), out);
    put_varint(u64::from(step), out);
    put_numbers(groups, out);
    PLACE
}

pub fn row(segment: u32, step: u32, at: Timestamp, row: &[u8], out: &mut Vec<u8>) -> u8 {
    put_varint(u64::from(segment), out);
    put_varint(u64::from(step), out);
    put_varint(zigzag(at.0), out);
    out.extend_from_slice(row);
    ROW
}

/// Kind and payload of start times that slots have from a row on. Runs ascend by slot.
pub fn starts(segment: u32, step: u32, runs: &[StartRun], out: &mut Vec<u8>) -> u8 {
    put_varint(u64::from(segment), out);
    put_varint(u64::from(step), out);
    let (mut end, mut last) = (0, 0i64);
    for StartRun { slot, slots, start } in runs {
        put_varint(u64::from(slot - end), out);
        put_varint(u64::from(*slots), out);
        put_varint(zigzag(start.wrapping_sub(last)), out);
        (end, last) = (slot + slots, *start);
    }
    STARTS
}

fn read_starts(reader: &mut Reader) -> Result<Record<'static>, &'static str> {
    let (segment, step) = (reader.number()?, reader.number()?);
    let (mut runs, mut end, mut last) = (Vec::new(), 0u32, 0i64);
    while !reader.rest().is_empty() {
        let (gap, slots) = (reader.number()?, reader.number()?);
        last = last.wrapping_add(unzigzag(reader.varint()?));
        let slot = end.checked_add(gap).ok_or("a start time of an unknown slot")?;
        end = slot.checked_add(slots).ok_or("a start time of an unknown slot")?;
        runs.push(StartRun { slot, slots, start: last });
    }
    Ok(Record::Starts { segment, step, runs })
}

/// Kind and payload of a record of the first of some exemplars, and how many there are in it.
pub fn exemplars(
    (source, labels, is_copy): (u64, &Labels, bool),
    exemplars: &[LoggedExemplar],
    out: &mut Vec<u8>,
) -> (u8, usize) {
    out.push(u8::from(is_copy));
    out.extend_from_slice(&source.to_le_bytes());
    put_labels(labels, out);
    let mut count = 0;
    while let Some(LoggedExemplar { series, labels, value, timestamp }) = exemplars.get(count)
        && (count == 0 || out.len() < EXEMPLARS_BYTES)
    {
        put_labels(series, out);
        put_labels(labels, out);
        out.extend_from_slice(&value.to_bits().to_le_bytes());
        put_varint(zigzag(timestamp.0), out);
        count += 1;
    }
    (EXEMPLARS, count)
}

fn read_exemplars(reader: &mut Reader) -> Result<LoggedExemplars, &'static str> {
    let is_copy = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err("exemplars of an unknown form"),
    };
    let (source, labels) = (reader.word()?, read_labels(reader)?);
    let mut exemplars = Vec::new();
    while !reader.rest().is_empty() {
        let (series, labels) = (read_labels(reader)?, read_labels(reader)?);
        let (value, timestamp) = (f64::from_bits(reader.word()?), Timestamp(unzigzag(reader.varint()?)));
        exemplars.push(LoggedExemplar { series, labels, value, timestamp });
    }
    Ok(LoggedExemplars { source, labels, is_copy, exemplars })
}

/// What a payload says that was read as exemplars before.
pub fn exemplars_of(payload: &[u8]) -> Option<LoggedExemplars> {
    read_exemplars(&mut Reader::new(payload)).ok()
}

pub fn chunks(head: &ChunksHead, out: &mut Vec<u8>) -> u8 {
    put_varint(u64::from(head.target), out);
    put_numbers(&head.groups, out);
    put_varint(zigzag(head.first), out);
    put_varint(zigzag(head.last), out);
    put_varint(zigzag(head.first_row), out);
    put_varint(head.samples, out);
    put_varint(head.bytes, out);
    if head.histograms { HISTOGRAM_CHUNKS } else { CHUNKS }
}

/// Reads the payload of a frame.
pub fn read(kind: u8, payload: &[u8]) -> Result<Record<'_>, &'static str> {
    let mut reader = Reader::new(payload);
    Ok(match kind {
        TARGET => Record::Target { target: reader.number()?, id: reader.word()?, labels: read_labels(&mut reader)? },
        GROUP => Record::Group { group: reader.number()?, slots: read_slots(reader.rest())? },
        BEGIN => {
            let (segment, target) = (reader.number()?, reader.number()?);
            let groups = read_numbers(&mut reader)?;
            let stamps = (0..reader.count()?).map(|_| Ok((reader.number()?, unzigzag(reader.varint()?))));
            Record::Begin { segment, target, groups, stamps: stamps.collect::<Result<_, &'static str>>()? }
        }
        PLACE => {
            Record::Place { segment: reader.number()?, step: reader.number()?, groups: read_numbers(&mut reader)? }
        }
        ROW => {
            let (segment, step, at) = (reader.number()?, reader.number()?, Timestamp(unzigzag(reader.varint()?)));
            Record::Row { segment, step, at, row: reader.rest() }
        }
        BEGIN_HISTOGRAMS => Record::BeginHistograms {
            segment: reader.number()?,
            target: reader.number()?,
            groups: read_numbers(&mut reader)?,
        },
        EXEMPLARS => Record::Exemplars(read_exemplars(&mut reader)?),
        STARTS => read_starts(&mut reader)?,
        CHUNKS | HISTOGRAM_CHUNKS => Record::Chunks(ChunksHead {
            histograms: kind == HISTOGRAM_CHUNKS,
            target: reader.number()?,
            groups: read_numbers(&mut reader)?,
            first: unzigzag(reader.varint()?),
            last: unzigzag(reader.varint()?),
            first_row: unzigzag(reader.varint()?),
            samples: reader.varint()?,
            bytes: reader.varint()?,
        }),
        _ => return Err("a record of an unknown kind"),
    })
}

// --- matchers of deletions ----------------------------------------------------------------------------------------

pub fn put_matchers(matchers: &[Matcher], out: &mut Vec<u8>) {
    put_varint(matchers.len() as u64, out);
    for matcher in matchers {
        put_text(matcher.name(), out);
        out.push(match matcher.op() {
            MatchOp::Equal => 0,
            MatchOp::NotEqual => 1,
            MatchOp::Regex => 2,
            MatchOp::NotRegex => 3,
        });
        put_text(matcher.value(), out);
    }
}

pub fn read_matchers(reader: &mut Reader) -> Result<Vec<Matcher>, &'static str> {
    (0..reader.count()?)
        .map(|_| {
            let name = reader.text()?;
            let op = match reader.byte()? {
                0 => MatchOp::Equal,
                1 => MatchOp::NotEqual,
                2 => MatchOp::Regex,
                3 => MatchOp::NotRegex,
                _ => return Err("an unknown match operator"),
            };
            Matcher::new(name, op, reader.text()?).map_err(|_| "a matcher does not compile")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(u8, Vec<u8>)> {
        let labels = Labels::from_pairs([("instance", "i:1"), ("job", "j")]);
        let mut builder = GroupBuilder::default();
        for i in 0..40 {
            let name = format!("metric_{i}");
            builder.push(&Labels::from_pairs([("__name__", name.as_str()), ("le", "0.5"), ("x", "")]), i % 7 == 0);
        }
        let mut all = Vec::new();
        let mut add = |write: &dyn Fn(&mut Vec<u8>) -> u8| {
            let mut payload = Vec::new();
            all.push((write(&mut payload), payload));
        };
        add(&|out| target(7, u64::MAX, &labels, out));
        add(&|out| group(9, &builder_clone(&builder), out));
        add(&|out| begin(1, 7, &[9, 10], &[(3, i64::MIN), (5, 12)], out));
        add(&|out| place(1, 1, &[11], out));
        add(&|out| row(1, 2, Timestamp(-5), &[1, 2, 3], out));
        let head = ChunksHead {
            histograms: false,
            target: 7,
            groups: vec![9],
            first: -1,
            last: 5,
            first_row: 0,
            samples: 6,
            bytes: 99,
        };
        add(&|out| chunks(&head, out));
        add(&|out| begin_histograms(2, 7, &[9], out));
        add(&|out| chunks(&ChunksHead { histograms: true, ..head.clone() }, out));
        add(&|out| exemplars((7, &labels, true), &two_exemplars(), out).0);
        add(&|out| starts(1, 2, &start_runs(), out));
        all
    }

    fn start_runs() -> [StartRun; 3] {
        [(3, 2, 1_700_000_000_000), (5, 1, i64::MIN), (9, 1, 0)].map(|(slot, slots, start)| StartRun {
            slot,
            slots,
            start,
        })
    }

    fn two_exemplars() -> [LoggedExemplar; 2] {
        let series = Labels::from_pairs([("__name__", "m"), ("le", "0.5")]);
        let one = LoggedExemplar { series, labels: Labels::empty(), value: -0.5, timestamp: Timestamp(-7) };
        let labels = Labels::from_pairs([("trace_id", "é")]);
        [one.clone(), LoggedExemplar { labels, value: f64::INFINITY, timestamp: Timestamp(i64::MAX), ..one }]
    }

    fn builder_clone(builder: &GroupBuilder) -> SlotGroup {
        builder.clone().build()
    }

    #[test]
    fn records_come_back() {
        let texts: Vec<String> =
            all().iter().map(|(kind, bytes)| format!("{:?}", read(*kind, bytes).unwrap())).collect();
        assert!(texts[0].contains("target: 7") && texts[0].contains("i:1"), "{}", texts[0]);
        let Record::Group { group: 9, slots } = read(GROUP, &all()[1].1).unwrap() else { panic!("a group") };
        assert_eq!((slots.len(), slots.is_stamped(7), slots.is_stamped(8)), (40, true, false));
        assert_eq!(slots.labels(39).to_string(), r#"{__name__="metric_39", le="0.5", x=""}"#);
        assert!(texts[2].contains("groups: [9, 10], stamps: [(3, -9223372036854775808), (5, 12)]"), "{}", texts[2]);
        assert!(texts[4].contains("Timestamp(-5)") && texts[4].contains("[1, 2, 3]"), "{}", texts[4]);
        assert!(texts[5].contains("first: -1, last: 5") && texts[5].contains("bytes: 99"), "{}", texts[5]);
        assert!(texts[5].contains("histograms: false") && texts[7].contains("histograms: true"), "{}", texts[7]);
        assert_eq!(texts[6], "BeginHistograms { segment: 2, target: 7, groups: [9] }");
        let Record::Exemplars(read) = read(EXEMPLARS, &all()[8].1).unwrap() else { panic!("exemplars") };
        let labels = Labels::from_pairs([("instance", "i:1"), ("job", "j")]);
        assert_eq!(read, LoggedExemplars { source: 7, labels, is_copy: true, exemplars: two_exemplars().into() });
        let Record::Starts { segment, step, runs } = super::read(STARTS, &all()[9].1).unwrap() else {
            panic!("starts")
        };
        assert_eq!((segment, step, runs), (1, 2, start_runs().to_vec()));
    }

    #[test]
    fn a_record_of_exemplars_is_bounded() {
        let labels = Labels::from_pairs([("long", "x".repeat(100_000))]);
        let many: Vec<_> =
            (0..30).map(|_| LoggedExemplar { labels: labels.clone(), ..two_exemplars()[0].clone() }).collect();
        let (mut out, mut left, mut counts) = (Vec::new(), &many[..], Vec::new());
        while !left.is_empty() {
            out.clear();
            let (_, count) = exemplars((7, &Labels::empty(), false), left, &mut out);
            assert!(out.len() < EXEMPLARS_BYTES + 101_000);
            left = &left[count..];
            counts.push(count);
        }
        assert_eq!(counts, [11, 11, 8]);
    }

    #[test]
    fn matchers_come_back() {
        let matchers = [("a", MatchOp::Equal, "b"), ("c", MatchOp::NotRegex, "d|e"), ("f", MatchOp::NotEqual, "")];
        let matchers: Vec<_> = matchers.iter().map(|(n, op, v)| Matcher::new(n, *op, v).unwrap()).collect();
        let mut bytes = Vec::new();
        put_matchers(&matchers, &mut bytes);
        let read = read_matchers(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(format!("{read:?}"), format!("{matchers:?}"));
    }

    #[test]
    fn mutations_are_errors_or_records() {
        let mut state = 3u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut refused = 0;
        for (kind, good) in all() {
            for _ in 0..3000 {
                let mut bytes = good.clone();
                for _ in 0..1 + next(3) {
                    let at = next(bytes.len());
                    match next(3) {
                        0 => bytes[at] = next(256) as u8,
                        1 => bytes.truncate(at.max(1)),
                        _ => bytes.insert(at, 0xff),
                    }
                }
                refused += usize::from(read(kind, &bytes).is_err());
            }
        }
        assert!(refused > 5000, "{refused}");
        assert!(read(99, &[]).is_err());
    }
}
