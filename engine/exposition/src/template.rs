//! The template scan: a payload that is known is walked with one comparison and one number per line.
//!
//! A payload is cut into runs of lines at places that depend on its content alone, so that payloads which differ in one
//! line have all other runs in common and can share them. A [`Template`] is such a run without its values. A walk goes
//! from template to template. Where a line differs, lines are parsed until a known one stands there again, and the template
//! is cut in two: a line that changes often is soon alone, and costs its neighbours nothing.
//!
//! Invariants:
//!   * the readings of a walk are those of the plain parser, bit for bit, in the order of the body
//!   * a walk looks at each byte of the body a bounded number of times, whatever the shape says
//!   * equal text under an equal TYPE makes an equal template

use crate::number::{read_timestamp, read_value};
use crate::text::{Kind, MetadataEntry, ParseError, Parser, SampleLine, metadata};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// A family border ends a run of at least so many lines, if the next family's name says so.
const RUN_LINES_MIN: usize = 8;
/// Any family border ends a run of so many lines.
const RUN_LINES_FULL: usize = 96;
/// A run ends here wherever it is.
const RUN_LINES_MAX: usize = 256;
/// Known lines read before other tasks of the core get their turn: about a millisecond.
const KNOWN_LINES_PER_STEP: usize = 8192;
/// How many lines of a template, and how many templates behind it, are looked at to find the place again after a
/// difference.
const LINES_AHEAD: usize = 32;
const TEMPLATES_AHEAD: usize = 8;

/// A line of a template; 8 bytes, as there is one per distinct line of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    /// End of the line's literal in the text; the top bit says that a timestamp follows the value.
    end: u32,
    /// Start of the metric text.
    raw: u32,
}

const STAMPED: u32 = 1 << 31;

impl Line {
    fn end(self) -> usize {
        (self.end & !STAMPED) as usize
    }

    fn stamped(self) -> bool {
        self.end & STAMPED != 0
    }
}

/// A run of lines without their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The literals of the lines, then what follows the last line up to the end of the payload, if the run is its last.
    text: Box<[u8]>,
    lines: Box<[Line]>,
    /// The TYPE in force before the run and behind it.
    kind_before: Kind,
    kind_behind: Kind,
}

/// What a walk has read, in the order of the body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    pub values: Vec<f64>,
    /// One for each line that has a timestamp.
    pub stamps: Vec<i64>,
}

impl Readings {
    pub fn clear(&mut self) {
        self.values.clear();
        self.stamps.clear();
    }
}

/// How far a scan came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The first line that was not read; the number of lines if all were.
    pub line: usize,
    /// Where that line, or whatever follows, begins in the body.
    pub at: usize,
    /// Whether everything was as known.
    pub whole: bool,
}

impl Template {
    /// Makes a template of the lines of a run, which must follow each other in `body`; `tail` is the end of what
    /// belongs to it behind its last line.
    fn new(body: &[u8], kind_before: Kind, kind_behind: Kind, lines: &[SampleLine], tail: Range<usize>) -> Template {
        let mut text = Vec::new();
        let mut table = Vec::with_capacity(lines.len());
        for line in lines {
            let raw = text.len() + (line.raw.start - line.literal.start);
            text.extend_from_slice(&body[line.literal.clone()]);
            assert!(text.len() < STAMPED as usize, "a run of bounded lines stays below 2 GiB");
            let stamped = if line.timestamp.is_some() { STAMPED } else { 0 };
            table.push(Line { end: text.len() as u32 | stamped, raw: raw as u32 });
        }
        text.extend_from_slice(&body[tail]);
        Template { text: text.into(), lines: table.into(), kind_before, kind_behind }
    }

    /// How many samples it has.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether it is only comments.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The metric text of a line.
    pub fn raw(&self, line: usize) -> &[u8] {
        let line = self.lines[line];
        self.text[line.raw as usize..line.end()].trim_ascii_end()
    }

    /// Whether a line carries a timestamp.
    pub fn is_stamped(&self, line: usize) -> bool {
        self.lines[line].stamped()
    }

    /// The TYPE in force at each line, from the first on.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        let mut kind = self.kind_before;
        let mut start = 0;
        self.lines.iter().map(move |line| {
            // A literal is comments and a metric text; with a value behind it, it is a text that parses.
            let comments = &self.text[start..line.raw as usize];
            start = line.end();
            if !comments.is_empty() {
                let mut parser = Parser::new(comments, 0, kind);
                debug_assert_eq!(parser.next_sample(), Ok(None));
                let _ = parser.next_sample();
                kind = parser.kind();
            }
            kind
        })
    }

    /// The HELP, TYPE and UNIT lines of the run.
    pub fn metadata(&self) -> impl Iterator<Item = MetadataEntry> {
        let starts = std::iter::once(0).chain(self.lines.iter().map(|line| line.end()));
        let ends = self.lines.iter().map(|line| line.raw as usize).chain([self.text.len()]);
        starts.zip(ends).flat_map(|(start, end)| metadata(&self.text[start..end]))
    }

    /// Equal for equal templates.
    pub fn content_hash(&self) -> u64 {
        xxh3_64(&self.text) ^ (self.kind_before as u64) << 56 ^ (self.lines.len() as u64) << 48
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.text.len() + self.lines.len() * size_of::<Line>()
    }

    /// Reads the run at `at`, as far as it is as known.
    pub fn scan(&self, body: &[u8], at: usize, readings: &mut Readings) -> Scan {
        self.scan_from(0, body, at, readings)
    }

    /// Reads the lines from `first` on, as far as they are as known.
    #[inline]
    fn scan_from(&self, first: usize, body: &[u8], mut at: usize, readings: &mut Readings) -> Scan {
        let mut start = self.start(first);
        let mut last = at;
        readings.values.reserve(self.lines.len() - first);
        for (i, line) in self.lines.iter().enumerate().skip(first) {
            let Some(end) = self.scan_line(&self.text[start..line.end()], line.stamped(), body, at, readings) else {
                return Scan { line: i, at, whole: false };
            };
            start = line.end();
            (last, at) = (at, end);
        }
        let tail = &self.text[start..];
        let end = at + tail.len();
        // A tail is the end of a payload; more behind it means that the payload has grown.
        if body.get(at..end) == Some(tail) && (tail.is_empty() || end == body.len()) {
            return Scan { line: self.lines.len(), at: end, whole: true };
        }
        if first < self.lines.len() {
            // The tail belongs to the last line.
            readings.values.pop();
            if self.is_stamped(self.lines.len() - 1) {
                readings.stamps.pop();
            }
        }
        Scan { line: self.lines.len().saturating_sub(1), at: last, whole: false }
    }

    /// Reads one line; gives its end, or None if it is another one.
    #[inline(always)]
    fn scan_line(
        &self,
        literal: &[u8],
        stamped: bool,
        body: &[u8],
        at: usize,
        readings: &mut Readings,
    ) -> Option<usize> {
        if body.get(at..at + literal.len())? != literal {
            return None;
        }
        let (value, mut at) = read_value(body, at + literal.len())?;
        let mut stamp = None;
        if stamped {
            if body.get(at) != Some(&b' ') {
                return None;
            }
            let (found, end) = read_timestamp(body, at + 1)?;
            (stamp, at) = (Some(found), end);
        }
        match body.get(at) {
            Some(b'\n') => at += 1,
            None => {}
            Some(_) => return None,
        }
        readings.values.push(value);
        readings.stamps.extend(stamp);
        Some(at)
    }

    /// Where a line's literal begins in the text; of the line behind the last, where the tail does.
    fn start(&self, line: usize) -> usize {
        if line == 0 { 0 } else { self.lines[line - 1].end() }
    }

    /// The TYPE in force before a line.
    fn kind_before(&self, line: usize) -> Kind {
        if line == 0 { self.kind_before } else { self.kinds().nth(line - 1).expect("there are so many lines") }
    }

    /// Whether a line stands at `at`; of a template without lines, what it has.
    fn stands_at(&self, line: usize, body: &[u8], at: usize, kind: Kind) -> bool {
        let end = self.lines.get(line).map_or(self.text.len(), |line| line.end());
        let literal = &self.text[self.start(line)..end];
        body.get(at..at + literal.len()) == Some(literal) && kind == self.kind_before(line)
    }

    /// A template of some of the lines; with the last one, of what follows it too.
    fn slice(&self, lines: Range<usize>) -> Template {
        let start = self.start(lines.start);
        let (end, kind_behind) = match lines.end == self.lines.len() {
            true => (self.text.len(), self.kind_behind),
            false => (self.start(lines.end), self.kind_before(lines.end)),
        };
        let shift = |line: &Line| Line { end: line.end - start as u32, raw: line.raw - start as u32 };
        Template {
            text: self.text[start..end].into(),
            kind_before: self.kind_before(lines.start),
            kind_behind,
            lines: self.lines[lines].iter().map(shift).collect(),
        }
    }
}

/// A part of a payload's shape after a walk that found differences.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// The template at this place of the old shape.
    Known(usize),
    /// Lines that no template of the old shape has, or only one that has others as well.
    New(Template),
}

/// How far a walk has come.
pub enum Walk<'a, T> {
    /// The shape fits as it is; everything is read.
    Warm,
    /// There is more to do: go on with [`Walker::step`].
    Unfinished(Walker<'a, T>),
}

/// What a walk has found.
#[derive(Clone, Debug, PartialEq)]
pub enum Walked {
    /// The shape fits as it is.
    Warm,
    /// The pieces that the payload is made of; with an error, those before it.
    Changed { pieces: Vec<Piece>, error: Option<ParseError> },
}

/// Reads a body along a shape. The readings are cleared first. A body of ordinary size that is known is read at once.
pub fn walk<'a, T: AsRef<Template>>(shape: &'a [T], body: &'a [u8], readings: &'a mut Readings) -> Walk<'a, T> {
    readings.clear();
    let kind = Kind::Unknown;
    let mut walker = Walker {
        shape,
        body,
        readings,
        pieces: Vec::new(),
        in_order: true,
        error: None,
        next: 0,
        line: 0,
        at: 0,
        kind,
    };
    let more = walker.scan_known();
    if !more && walker.in_order { Walk::Warm } else { Walk::Unfinished(walker) }
}

/// A walk that is not at its end. It reads on in steps of bounded length, so that a core can do other things in between.
pub struct Walker<'a, T> {
    shape: &'a [T],
    body: &'a [u8],
    readings: &'a mut Readings,
    /// Empty as long as nothing differs.
    pieces: Vec<Piece>,
    /// Nothing has differed so far.
    in_order: bool,
    error: Option<ParseError>,
    /// First template of the shape that has not been used up, and its first line that has not.
    next: usize,
    line: usize,
    at: usize,
    kind: Kind,
}

impl<T: AsRef<Template>> Walker<'_, T> {
    /// Reads on along the known templates; behind a difference, also one run of lines that are not known. False at the end
    /// of the body or at an error.
    pub fn step(&mut self) -> bool {
        if self.in_order {
            let more = self.scan_known();
            return more || !self.in_order && self.at < self.body.len();
        }
        let more = self.follow_known();
        if !more && self.at < self.body.len() {
            self.error = self.parse_run();
        }
        self.error.is_none() && self.at < self.body.len()
    }

    /// How many samples were read so far.
    pub fn samples(&self) -> usize {
        self.readings.values.len()
    }

    /// How many pieces the payload is made of so far; none as long as nothing differs.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Scans some known templates, each where it is expected. True if there are more.
    fn scan_known(&mut self) -> bool {
        let mut lines = 0;
        while let Some(template) = self.shape.get(self.next).map(AsRef::as_ref) {
            if lines >= KNOWN_LINES_PER_STEP {
                return true;
            }
            let scan = template.scan(self.body, self.at, self.readings);
            self.at = scan.at;
            if !scan.whole {
                self.line = scan.line;
                break;
            }
            (self.next, self.kind) = (self.next + 1, template.kind_behind);
            lines += template.len();
        }
        let whole = self.next == self.shape.len() && self.at == self.body.len() && !self.shape.is_empty();
        if !whole {
            self.in_order = false;
            self.pieces.extend((0..self.next).map(Piece::Known));
            self.take_part(self.next, 0..self.line);
        }
        false
    }

    /// Lines of a template that does not fit as a whole.
    fn take_part(&mut self, template: usize, lines: Range<usize>) {
        if !lines.is_empty() {
            let part = self.shape[template].as_ref().slice(lines);
            self.kind = part.kind_behind;
            self.pieces.push(Piece::New(part));
        }
    }

    /// What the steps have found.
    pub fn finish(self) -> Walked {
        if self.in_order { Walked::Warm } else { Walked::Changed { pieces: self.pieces, error: self.error } }
    }

    /// Parses lines up to a border, or to one that is known.
    fn parse_run(&mut self) -> Option<ParseError> {
        let start = self.at;
        let kind_before = self.kind;
        let mut parser = Parser::new(self.body, start, kind_before);
        let mut lines: Vec<SampleLine> = Vec::new();
        let mut tail = start..start;
        let mut kind_behind = kind_before;
        let mut error = None;
        loop {
            let before = parser.clone();
            match parser.next_sample() {
                Ok(Some(line)) => {
                    if let Some(last) = lines.last()
                        && (ends_run(self.body, lines.len(), last, &line)
                            || self.known_at(line.literal.start, before.kind()).is_some())
                    {
                        // The line belongs to the next run and is read again there.
                        break;
                    }
                    self.readings.values.push(line.value);
                    self.readings.stamps.extend(line.timestamp);
                    kind_behind = parser.kind();
                    tail = line.end..line.end;
                    lines.push(line);
                }
                Ok(None) => {
                    tail.end = self.body.len();
                    kind_behind = parser.kind();
                    break;
                }
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        self.at = if error.is_some() { self.body.len() } else { tail.end.max(lines.last().map_or(0, |line| line.end)) };
        self.kind = kind_behind;
        if !lines.is_empty() || !tail.is_empty() {
            self.pieces.push(Piece::New(Template::new(self.body, kind_before, kind_behind, &lines, tail)));
        }
        error
    }

    /// The template and its line that stand at `at`, of those that may come next.
    fn known_at(&self, at: usize, kind: Kind) -> Option<(usize, usize)> {
        let lines = self.shape.get(self.next).map_or(0, |template| template.as_ref().len().max(1));
        let here = (self.line..lines.min(self.line + LINES_AHEAD)).map(|line| (self.next, line));
        let behind = (self.next + 1..self.shape.len()).take(TEMPLATES_AHEAD).map(|template| (template, 0));
        let stands =
            |(template, line): &(usize, usize)| self.shape[*template].as_ref().stands_at(*line, self.body, at, kind);
        here.chain(behind).find(stands)
    }

    /// Reads what stands there of the known templates, up to a line that is not known. True if there may be more.
    fn follow_known(&mut self) -> bool {
        let lines_max = self.readings.values.len() + KNOWN_LINES_PER_STEP;
        while self.at < self.body.len() {
            let Some((next, line)) = self.known_at(self.at, self.kind) else { return false };
            let template = self.shape[next].as_ref();
            let scan = template.scan_from(line, self.body, self.at, self.readings);
            self.at = scan.at;
            if !scan.whole {
                self.take_part(next, line..scan.line);
                // One whose text stands there and that cannot be read is not tried again.
                (self.next, self.line) = (next, scan.line.max(line + 1));
                if scan.line == line {
                    return false;
                }
                continue;
            }
            match line {
                0 => self.pieces.push(Piece::Known(next)),
                _ => self.pieces.push(Piece::New(template.slice(line..template.len()))),
            }
            (self.next, self.line, self.kind) = (next + 1, 0, template.kind_behind);
            if self.readings.values.len() >= lines_max {
                return true;
            }
        }
        false
    }
}

/// Whether the run ends before `line`.
fn ends_run(body: &[u8], count: usize, last: &SampleLine, line: &SampleLine) -> bool {
    if count >= RUN_LINES_MAX {
        return true;
    }
    let name = name_of(&body[line.raw.clone()]);
    let has_comments = line.raw.start > line.literal.start;
    if has_comments || family(name) != family(name_of(&body[last.raw.clone()])) {
        return count >= RUN_LINES_FULL || count >= RUN_LINES_MIN && xxh3_64(name).is_multiple_of(4);
    }
    count >= RUN_LINES_FULL && xxh3_64(&body[line.raw.clone()]).is_multiple_of(16)
}

fn name_of(raw: &[u8]) -> &[u8] {
    let raw = raw.trim_ascii_start();
    let end = raw.iter().position(|byte| matches!(byte, b'{' | b' ' | b'\t'));
    &raw[..end.unwrap_or(raw.len())]
}

/// The name without what parts of a histogram or a summary add to it.
fn family(name: &[u8]) -> &[u8] {
    ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix.as_bytes())).unwrap_or(name)
}

impl AsRef<Template> for Template {
    fn as_ref(&self) -> &Template {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::labels;

    /// What the plain parser reads: labels, value bits, timestamp of every sample; or the error and the samples before.
    type Plain = (Vec<(String, u64, Option<i64>)>, Option<String>);

    fn plain(body: &[u8]) -> Plain {
        let mut parser = Parser::new(body, 0, Kind::Unknown);
        let mut samples = Vec::new();
        loop {
            match parser.next_sample() {
                Ok(Some(line)) => {
                    let labels = format!("{:?}", labels(&body[line.raw.clone()], line.kind));
                    samples.push((labels, line.value.to_bits(), line.timestamp));
                }
                Ok(None) => return (samples, None),
                Err(error) => return (samples, Some(error.text)),
            }
        }
    }

    /// The same by a walk along `shape`, and the shape that comes out of it.
    fn walked(shape: &[Template], body: &[u8]) -> (Plain, Vec<Template>, bool) {
        let mut readings = Readings::default();
        let walked = match walk(shape, body, &mut readings) {
            Walk::Warm => Walked::Warm,
            Walk::Unfinished(mut walker) => {
                while walker.step() {}
                walker.finish()
            }
        };
        let (shape, error, warm) = match walked {
            Walked::Warm => (shape.to_vec(), None, true),
            Walked::Changed { pieces, error } => {
                let template = |piece| match piece {
                    Piece::Known(i) => shape[i].clone(),
                    Piece::New(template) => template,
                };
                (pieces.into_iter().map(template).collect(), error, false)
            }
        };
        let mut stamps = readings.stamps.iter();
        let mut values = readings.values.iter();
        let mut samples = Vec::new();
        for template in &shape {
            for (line, kind) in template.kinds().enumerate() {
                let labels = format!("{:?}", labels(template.raw(line), kind));
                let stamp = template.is_stamped(line).then(|| *stamps.next().unwrap());
                samples.push((labels, values.next().unwrap().to_bits(), stamp));
            }
        }
        assert_eq!((values.next(), stamps.next()), (None, None));
        ((samples, error.map(|error| error.text)), shape, warm)
    }

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    /// A payload with families of all kinds; `skip` leaves lines out, `values` seeds the values.
    fn payload(families: u64, values: u64, skip: impl Fn(u64, u64) -> bool) -> String {
        use std::fmt::Write;
        let mut value = random(values);
        let mut body = String::new();
        for family in 0..families {
            let kind = ["counter", "gauge", "histogram", "summary"][family as usize % 4];
            if family % 5 != 4 {
                writeln!(body, "# HELP fam_{family} Text of {family}.\n# TYPE fam_{family} {kind}").unwrap();
            }
            for line in 0..(family * 7) % 40 + 1 {
                if skip(family, line) {
                    continue;
                }
                let label = if kind == "histogram" { "le" } else { "code" };
                write!(body, "fam_{family}{{{label}=\"{line}\",path=\"/x\"}} ").unwrap();
                match value(4) {
                    0 => write!(body, "{}", value(1_000_000)).unwrap(),
                    1 => write!(body, "{}.{}", value(1000), value(1000)).unwrap(),
                    2 => write!(body, "{}e+09", value(100)).unwrap(),
                    _ => body.push_str(["NaN", "+Inf", "0", "-3"][value(4) as usize]),
                }
                body.push_str(if family % 9 == 3 { " 1700000000000\n" } else { "\n" });
            }
        }
        body
    }

    #[test]
    fn second_walk_is_warm_and_reads_the_same() {
        let first = payload(60, 1, |_, _| false);
        let (got, shape, warm) = walked(&[], first.as_bytes());
        assert!(!warm);
        assert_eq!(got, plain(first.as_bytes()));
        assert!(shape.len() > 5, "cut into {} runs", shape.len());
        let second = payload(60, 2, |_, _| false);
        let (got, _, warm) = walked(&shape, second.as_bytes());
        assert!(warm);
        assert_eq!(got, plain(second.as_bytes()));
    }

    #[test]
    fn long_bodies_are_walked_in_steps() {
        let body = |value: u64, last: &str| {
            let lines = 0..3 * KNOWN_LINES_PER_STEP;
            lines.map(|i| format!("a{{i=\"{i}\"}} {value} {value}\n")).collect::<String>() + last
        };
        let (_, shape, _) = walked(&[], body(1, "b 1\n").as_bytes());
        for (last, warm) in [("b 7\n", true), ("c 7\n", false), ("b 7\nc 8\n", false), ("", false), ("b\n", false)] {
            let body = body(2, last);
            let mut readings = Readings::default();
            let Walk::Unfinished(mut walker) = walk(&shape, body.as_bytes(), &mut readings) else {
                panic!("one step is not enough")
            };
            assert!(walker.samples() < 2 * KNOWN_LINES_PER_STEP);
            let mut steps = 1;
            while walker.step() {
                steps += 1;
            }
            assert!(steps >= 2, "{last:?}: {steps} steps");
            let (got, _, was_warm) = walked(&shape, body.as_bytes());
            assert_eq!((got, was_warm), (plain(body.as_bytes()), warm), "{last:?}");
        }
    }

    #[test]
    fn line_that_comes_and_goes_is_soon_alone() {
        let whole = payload(60, 1, |_, _| false);
        let (_, whole_shape, _) = walked(&[], whole.as_bytes());
        for family in 0..60 {
            let less = payload(60, 3, |f, line| f == family && line == family % 3);
            let mut shape = whole_shape.clone();
            for round in 0..6 {
                let body = if round % 2 == 0 { &less } else { &whole };
                let (got, patched, _) = walked(&shape, body.as_bytes());
                assert_eq!(got, plain(body.as_bytes()));
                let new = || patched.iter().filter(|template| !shape.contains(template));
                let (templates, lines) = (new().count(), new().map(Template::len).sum::<usize>());
                assert!(templates <= 4, "family {family}, round {round}: {templates} of {} are new", patched.len());
                // The line behind the first of a family has the comments in turn with it.
                assert!(round < 2 || lines <= 2, "family {family}, round {round}: {lines} lines are new");
                shape = patched;
            }
        }
    }

    /// Scattered lines that are others in each payload: the first changes cut the templates, then only they are new.
    #[test]
    fn lines_that_change_leave_their_neighbours_alone() {
        let body = |round: u64| {
            let line = |i: u64| match i % 70 {
                33 => format!("a{{i=\"{i}\",generation=\"{round}\"}} 1\n"),
                _ => format!("a{{i=\"{i}\"}} {round}\n"),
            };
            (0..1_400).map(line).collect::<String>()
        };
        let (_, mut shape, _) = walked(&[], body(0).as_bytes());
        for round in 1..5 {
            let (got, patched, _) = walked(&shape, body(round).as_bytes());
            assert_eq!(got, plain(body(round).as_bytes()));
            let new: Vec<usize> =
                patched.iter().filter(|template| !shape.contains(template)).map(Template::len).collect();
            assert!(round == 1 || new == [1; 20], "round {round}: {new:?}");
            shape = patched;
        }
    }

    #[test]
    fn slices_are_what_a_parse_of_their_lines_gives() {
        let body = payload(30, 1, |_, _| false) + "# end\n";
        let (_, shape, _) = walked(&[], body.as_bytes());
        let mut at = 0;
        for template in &shape {
            let len = template.len();
            for cut in 0..len {
                let (head, rest) = (template.slice(0..cut), template.slice(cut..len));
                assert_eq!((head.len(), rest.len()), (cut, len - cut));
                assert_eq!(head.kinds().chain(rest.kinds()).collect::<Vec<_>>(), template.kinds().collect::<Vec<_>>());
                assert_eq!((head.kind_before, rest.kind_behind), (template.kind_before, template.kind_behind));
                assert_eq!(head.kind_behind, rest.kind_before);
                let (mut readings, mut whole) = (Readings::default(), Readings::default());
                let Scan { at: behind, whole: fits, .. } = template.scan(body.as_bytes(), at, &mut whole);
                assert!(fits);
                let scan = head.scan(body.as_bytes(), at, &mut readings);
                assert!(scan.whole);
                assert_eq!(
                    rest.scan(body.as_bytes(), scan.at, &mut readings),
                    Scan { line: len - cut, at: behind, whole: true }
                );
                assert_eq!(readings.values.len(), whole.values.len());
            }
            at = template.scan(body.as_bytes(), at, &mut Readings::default()).at;
        }
        assert_eq!(at, body.len());
    }

    #[test]
    fn payloads_of_neighbours_share_their_templates() {
        let (_, one, _) = walked(&[], payload(60, 1, |family, line| family == 11 && line == 3).as_bytes());
        let (_, other, _) = walked(&[], payload(60, 1, |family, line| family == 40 && line == 3).as_bytes());
        let shared = one.iter().filter(|template| other.contains(template)).count();
        assert!(shared * 3 >= one.len() * 2, "{shared} of {} are shared", one.len());
        for template in &one {
            for twin in other.iter().filter(|twin| *twin == template) {
                assert_eq!(template.content_hash(), twin.content_hash());
            }
        }
    }

    #[test]
    fn ends_of_payloads() {
        for (first, second) in [
            ("a 1\n", "a 2"),
            ("a 1", "a 2\n"),
            ("a 1\n# end\n", "a 2\n# end\n"),
            ("a 1\n# end\n", "a 2\n# end\nb 1\n"),
            ("a 1\n# end\n", "a 2\n"),
            ("a 1\n", "a 1\n# end"),
            ("", "a 1\n"),
            ("a 1\n", ""),
            ("# only\n", "# only\n"),
            ("# only\n", ""),
            ("a 1\nb 2\n", "a 1\n"),
            ("a 1\n", "a 1\nb 2\n"),
            ("a 1\n", "a 1\n7\n"),
            ("a 1 5\n", "a 1\n"),
            ("a 1\n", "a 1 5\n"),
            ("# TYPE a histogram\na{le=\"1\"} 1\n", "# TYPE b gauge\na{le=\"1\"} 1\n"),
        ] {
            let (got, shape, _) = walked(&[], first.as_bytes());
            assert_eq!(got, plain(first.as_bytes()), "{first:?}");
            let (got, shape, _) = walked(&shape, second.as_bytes());
            assert_eq!(got, plain(second.as_bytes()), "{first:?} then {second:?}");
            if got.1.is_none() {
                let (again, _, warm) = walked(&shape, second.as_bytes());
                assert_eq!(again, got);
                assert!(warm || second.is_empty(), "{second:?} is known now");
            }
        }
    }

    /// The fast path and the oracle agree on whatever a hostile target makes of a payload.
    #[test]
    fn mutated_payloads_read_as_the_oracle_reads_them() {
        let base = payload(24, 1, |_, _| false).into_bytes();
        let (_, shape, _) = walked(&[], &base);
        let mut next = random(99);
        let bits: &[u8] = b"\n\n {}\",=#ae0.-\\\xff\0\r\t";
        for round in 0..6_000 {
            let mut body = base.clone();
            for _ in 0..next(4) + 1 {
                let at = next(body.len() as u64) as usize;
                match next(5) {
                    0 => body[at] = bits[next(bits.len() as u64) as usize],
                    1 => {
                        body.remove(at);
                    }
                    2 => body.insert(at, bits[next(bits.len() as u64) as usize]),
                    3 => {
                        let end = (at + next(200) as usize).min(body.len());
                        let copy = body[at..end].to_vec();
                        let to = next(body.len() as u64) as usize;
                        body.splice(to..to, copy);
                    }
                    _ => body.truncate(at.max(1)),
                }
            }
            let (got, patched, _) = walked(&shape, &body);
            let want = plain(&body);
            assert_eq!(got, want, "round {round}");
            if want.1.is_none() && round % 10 == 0 {
                let (again, _, _) = walked(&patched, &body);
                assert_eq!(again, want, "round {round} again");
                let (back, _, _) = walked(&patched, &base);
                assert_eq!(back, plain(&base), "round {round} back");
            }
        }
    }
}
