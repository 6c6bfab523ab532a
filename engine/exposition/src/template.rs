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
//!   * equal text of one format under an equal TYPE makes an equal template
//!   * an exemplar is no part of a template: it may come, change and go on a known line, and is parsed where its text is
//!     another than at the last walk

use crate::number::{read_timestamp, read_value};
use crate::openmetrics::{exemplar_end, milliseconds};
use crate::text::{Kind, LINE_BYTES_MAX, Metadata, MetadataEntry, ParseError, SampleLine, metadata};
use crate::{Format, PayloadParser};
use std::ops::Range;
use std::sync::Arc;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
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

/// A run of lines without their values. Its archived form may be read in place; [`Template::restore`] makes one of it.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Template {
    /// The literals of the lines, then what follows the last line up to the end of the payload, if the run is its last.
    text: Box<[u8]>,
    lines: Box<[Line]>,
    format: Format,
    /// The TYPE in force before the run and behind it.
    kind_before: Kind,
    kind_behind: Kind,
}

/// A family, and its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyUnit {
    pub metric: String,
    pub unit: Arc<str>,
}

/// Takes the comments before a line into account.
fn note_units(comments: &[u8], format: Format, in_force: &mut Option<FamilyUnit>) {
    // In front of most lines there is nothing.
    if !comments.contains(&b'#') {
        return;
    }
    for MetadataEntry { metric, fact } in metadata(comments, format) {
        match fact {
            Metadata::Unit(unit) => {
                *in_force = (!unit.is_empty()).then(|| FamilyUnit { metric, unit: unit.into() });
            }
            _ if in_force.as_ref().is_some_and(|family| family.metric != metric) => *in_force = None,
            _ => {}
        }
    }
}

/// An exemplar that a walk has met.
#[derive(Clone, Debug, PartialEq)]
pub struct ExemplarReading {
    /// Index of its sample's value.
    pub value: u32,
    /// Where its text lies in the body, see [`crate::exemplar`].
    pub text: Range<usize>,
    /// Hash of the text.
    pub hash: u64,
    /// Whether the text is another than the line's at the last walk.
    pub is_new: bool,
}

/// The exemplar of the value with this index, at the last walk: the hash of its text.
pub type ExemplarSeen = (u32, u64);

/// What a walk has read, in the order of the body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    pub values: Vec<f64>,
    /// One for each line that has a timestamp.
    pub stamps: Vec<i64>,
    pub exemplars: Vec<ExemplarReading>,
    /// Exemplars of the last walk over the same target's payload, in order. Those that are as they were are not parsed.
    pub seen: Vec<ExemplarSeen>,
    /// First of `seen` that has not been passed.
    seen_next: usize,
}

impl Readings {
    /// Forgets what was read, but not what was seen before.
    pub fn clear(&mut self) {
        self.values.clear();
        self.stamps.clear();
        self.exemplars.clear();
        self.seen_next = 0;
    }

    /// Adds the exemplar of the next value. `check` says whether its text can be read; it is asked where the text is new.
    fn push_exemplar(&mut self, body: &[u8], text: Range<usize>, check: impl FnOnce() -> bool) -> bool {
        let hash = xxh3_64(&body[text.clone()]);
        let value = self.values.len() as u32;
        while self.seen.get(self.seen_next).is_some_and(|seen| seen.0 < value) {
            self.seen_next += 1;
        }
        let is_new = self.seen.get(self.seen_next) != Some(&(value, hash));
        if is_new && !check() {
            return false;
        }
        self.exemplars.push(ExemplarReading { value, text, hash, is_new });
        true
    }

    /// Takes the last value back, and what belongs to it.
    fn pop(&mut self, is_stamped: bool) {
        self.values.pop();
        if is_stamped {
            self.stamps.pop();
        }
        self.exemplars.pop_if(|exemplar| exemplar.value as usize == self.values.len());
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
    fn new(
        (body, format): (&[u8], Format),
        kind_before: Kind,
        kind_behind: Kind,
        lines: &[SampleLine],
        tail: Range<usize>,
    ) -> Template {
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
        Template { text: text.into(), lines: table.into(), format, kind_before, kind_behind }
    }

    /// The template that was archived. None if its lines are not within its text, in order.
    pub fn restore(archived: &ArchivedTemplate) -> Option<Template> {
        let template = rkyv::deserialize::<Template, rkyv::rancor::Error>(archived).ok()?;
        let mut start = 0;
        let is_sound = template.lines.iter().all(|line| {
            let is_in_order = start <= line.raw as usize && line.raw as usize <= line.end();
            start = line.end();
            is_in_order
        });
        (is_sound && start <= template.text.len()).then_some(template)
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

    /// Of its payloads.
    pub fn format(&self) -> Format {
        self.format
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
                let mut parser = PayloadParser::new(self.format, comments, 0, kind);
                parser.skip_comments();
                kind = parser.kind();
            }
            kind
        })
    }

    /// The unit of each line's family, from the first line on, as far as UNIT says one. `in_force` is what was said before the
    /// run, and then what holds behind it: until another family begins.
    pub fn units(&self, in_force: &mut Option<FamilyUnit>) -> Vec<Option<Arc<str>>> {
        let mut units = Vec::with_capacity(self.lines.len());
        let mut start = 0;
        for line in &self.lines {
            note_units(&self.text[start..line.raw as usize], self.format, in_force);
            units.push(in_force.as_ref().map(|family| family.unit.clone()));
            start = line.end();
        }
        note_units(&self.text[start..], self.format, in_force);
        units
    }

    /// The HELP, TYPE and UNIT lines of the run.
    pub fn metadata(&self) -> impl Iterator<Item = MetadataEntry> {
        let starts = std::iter::once(0).chain(self.lines.iter().map(|line| line.end()));
        let ends = self.lines.iter().map(|line| line.raw as usize).chain([self.text.len()]);
        starts.zip(ends).flat_map(|(start, end)| metadata(&self.text[start..end], self.format))
    }

    /// Equal for equal templates.
    pub fn content_hash(&self) -> u64 {
        let context = (self.kind_before as u64) << 56 ^ (self.format as u64) << 60;
        xxh3_64(&self.text) ^ context ^ (self.lines.len() as u64) << 48
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
    fn scan_from(&self, first: usize, body: &[u8], at: usize, readings: &mut Readings) -> Scan {
        match self.format {
            Format::Text => self.scan_lines::<false>(first, body, at, readings),
            Format::OpenMetrics => self.scan_lines::<true>(first, body, at, readings),
        }
    }

    #[inline]
    fn scan_lines<const OPEN_METRICS: bool>(
        &self,
        first: usize,
        body: &[u8],
        mut at: usize,
        readings: &mut Readings,
    ) -> Scan {
        let mut start = self.start(first);
        let mut last = at;
        readings.values.reserve(self.lines.len() - first);
        for (i, line) in self.lines.iter().enumerate().skip(first) {
            let Some(end) = scan_line::<OPEN_METRICS>(&self.text[start..], start, *line, body, at, readings) else {
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
            readings.pop(self.is_stamped(self.lines.len() - 1));
        }
        Scan { line: self.lines.len().saturating_sub(1), at: last, whole: false }
    }

    /// Whether something follows its last line.
    fn has_tail(&self) -> bool {
        self.start(self.lines.len()) < self.text.len()
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
    fn matches_at(&self, line: usize, body: &[u8], at: usize, kind: Kind) -> bool {
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
            format: self.format,
            kind_before: self.kind_before(lines.start),
            kind_behind,
            lines: self.lines[lines].iter().map(shift).collect(),
        }
    }
}

/// Reads the line whose literal begins at `start` of a template, which is the first of `text`; gives its end in the body, or
/// None if another one stands there.
#[inline(always)]
fn scan_line<const OPEN_METRICS: bool>(
    text: &[u8],
    start: usize,
    line: Line,
    body: &[u8],
    at: usize,
    readings: &mut Readings,
) -> Option<usize> {
    let literal = &text[..line.end() - start];
    if body.get(at..at + literal.len())? != literal {
        return None;
    }
    let (value, mut end) = read_value(body, at + literal.len())?;
    let mut stamp = None;
    if line.stamped() {
        if body.get(end) != Some(&b' ') {
            return None;
        }
        let (found, behind) = if OPEN_METRICS { read_seconds(body, end + 1)? } else { read_timestamp(body, end + 1)? };
        (stamp, end) = (Some(found), behind);
    }
    match body.get(end) {
        Some(b'\n') => {}
        None if !OPEN_METRICS => end -= 1,
        Some(b' ') if OPEN_METRICS => {
            let text = end..end + memchr::memchr(b'\n', &body[end..])?;
            let line_start = at + line.raw as usize - start;
            if text.end - line_start >= LINE_BYTES_MAX || !body[end..].starts_with(b" # {") {
                return None;
            }
            end = text.end;
            let check = || exemplar_end(body, text.start) == Some(text.end);
            if !readings.push_exemplar(body, text.clone(), check) {
                return None;
            }
        }
        _ => return None,
    }
    readings.values.push(value);
    readings.stamps.extend(stamp);
    Some(end + 1)
}

/// Seconds that begin at `at`, in milliseconds; gives them and their end.
fn read_seconds(body: &[u8], at: usize) -> Option<(i64, usize)> {
    let (seconds, end) = read_value(body, at)?;
    Some((milliseconds(seconds)?, end))
}

/// A part of a payload's shape after a walk that found differences.
#[derive(Clone, Debug, PartialEq)]
pub enum LayoutPart {
    /// The template at this place of the old shape.
    Known(usize),
    /// Lines that no template of the old shape has, or only one that has others as well.
    New(Template),
}

/// How far a walk has come.
pub enum ScanProgress<'a, T> {
    /// The shape fits as it is; everything is read.
    Warm,
    /// There is more to do: go on with [`LayoutScanner::step`].
    Unfinished(LayoutScanner<'a, T>),
}

/// What a walk has found.
#[derive(Clone, Debug, PartialEq)]
pub enum ScanResult {
    /// The shape fits as it is.
    Warm,
    /// The pieces that the payload is made of; with an error, those before it.
    Changed { pieces: Vec<LayoutPart>, error: Option<ParseError> },
}

/// Reads a body along a shape, whose templates are of the same format. The readings are cleared first. A body of ordinary
/// size that is known is read at once.
pub fn walk<'a, T: AsRef<Template>>(
    shape: &'a [T],
    format: Format,
    body: &'a [u8],
    readings: &'a mut Readings,
) -> ScanProgress<'a, T> {
    readings.clear();
    let kind = Kind::Unknown;
    let mut walker = LayoutScanner {
        shape,
        format,
        body,
        has_end: format == Format::Text,
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
    if !more && walker.in_order { ScanProgress::Warm } else { ScanProgress::Unfinished(walker) }
}

/// A walk that is not at its end. It reads on in steps of bounded length, so that a core can do other things in between.
pub struct LayoutScanner<'a, T> {
    shape: &'a [T],
    format: Format,
    body: &'a [u8],
    /// The end that the format demands was read, if it demands one.
    has_end: bool,
    readings: &'a mut Readings,
    /// Empty as long as nothing differs.
    pieces: Vec<LayoutPart>,
    /// Nothing has differed so far.
    in_order: bool,
    error: Option<ParseError>,
    /// First template of the shape that has not been used up, and its first line that has not.
    next: usize,
    line: usize,
    at: usize,
    kind: Kind,
}

impl<T: AsRef<Template>> LayoutScanner<'_, T> {
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
            self.pieces.extend((0..self.next).map(LayoutPart::Known));
            self.take_part(self.next, 0..self.line);
        }
        false
    }

    /// Lines of a template that does not fit as a whole.
    fn take_part(&mut self, template: usize, lines: Range<usize>) {
        if !lines.is_empty() {
            let part = self.shape[template].as_ref().slice(lines);
            self.kind = part.kind_behind;
            self.pieces.push(LayoutPart::New(part));
        }
    }

    /// What the steps have found.
    pub fn finish(self) -> ScanResult {
        if self.in_order {
            return ScanResult::Warm;
        }
        let mut error = self.error;
        if error.is_none() && !self.has_end {
            // Every line was known, but not the one that is missing: the parser has the words.
            error = PayloadParser::new(self.format, self.body, self.body.len(), self.kind).next_sample().err();
        }
        ScanResult::Changed { pieces: self.pieces, error }
    }

    /// Parses lines up to a border, or to one that is known.
    fn parse_run(&mut self) -> Option<ParseError> {
        let start = self.at;
        let kind_before = self.kind;
        let mut parser = PayloadParser::new(self.format, self.body, start, kind_before);
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
                    if let Some(text) = &line.exemplar {
                        self.readings.push_exemplar(self.body, text.clone(), || true);
                    }
                    self.readings.values.push(line.value);
                    self.readings.stamps.extend(line.timestamp);
                    kind_behind = parser.kind();
                    tail = line.end..line.end;
                    lines.push(line);
                }
                Ok(None) => {
                    self.has_end = true;
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
            self.pieces.push(LayoutPart::New(Template::new(
                (self.body, self.format),
                kind_before,
                kind_behind,
                &lines,
                tail,
            )));
        }
        error
    }

    /// The template and its line that stand at `at`, of those that may come next.
    fn known_at(&self, at: usize, kind: Kind) -> Option<(usize, usize)> {
        let lines = self.shape.get(self.next).map_or(0, |template| template.as_ref().len().max(1));
        let here = (self.line..lines.min(self.line + LINES_AHEAD)).map(|line| (self.next, line));
        let behind = (self.next + 1..self.shape.len()).take(TEMPLATES_AHEAD).map(|template| (template, 0));
        let stands =
            |(template, line): &(usize, usize)| self.shape[*template].as_ref().matches_at(*line, self.body, at, kind);
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
            // Only the end of a payload leaves something behind the last line, and it was compared.
            self.has_end |= template.has_tail();
            match line {
                0 => self.pieces.push(LayoutPart::Known(next)),
                _ => self.pieces.push(LayoutPart::New(template.slice(line..template.len()))),
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
mod tests;
