//! The plain parser of the text format, 0.0.4 and 1.0.0: what it accepts, Prometheus accepts, and nothing else.
//!
//! It is the oracle of the template scan and the way in for every line that is not known yet.
//!
//! Invariants:
//!   * linear time, no recursion, no allocation but for errors and decoded labels
//!   * a metric name or label name has at most [`NAME_BYTES_MAX`] bytes, a line [`LINE_BYTES_MAX`],
//!     a sample [`LABELS_MAX`] labels; more is an error

use crate::{Format, number};
use std::borrow::Cow;
use std::ops::Range;

/// Longest metric or label name, in bytes.
pub const NAME_BYTES_MAX: usize = 64 << 10;
/// Longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Most labels of one sample.
pub const LABELS_MAX: usize = 512;
/// Bytes of the body that an error quotes.
const QUOTED_BYTES_MAX: usize = 200;

/// What a TYPE line says. It stays in force until the next one, as in Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    /// The last three are OpenMetrics' and protobuf's alone.
    GaugeHistogram,
    Info,
    StateSet,
    #[default]
    Unknown,
}

impl Kind {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
            Kind::GaugeHistogram => "gaugehistogram",
            Kind::Info => "info",
            Kind::StateSet => "stateset",
            Kind::Unknown => "unknown",
        }
    }

    fn from_text(text: &[u8]) -> Option<Kind> {
        Some(match text {
            b"counter" => Kind::Counter,
            b"gauge" => Kind::Gauge,
            b"histogram" => Kind::Histogram,
            b"summary" => Kind::Summary,
            b"untyped" => Kind::Unknown,
            _ => return None,
        })
    }

    pub(crate) fn from_openmetrics(text: &[u8]) -> Option<Kind> {
        Some(match text {
            b"counter" => Kind::Counter,
            b"gauge" => Kind::Gauge,
            b"histogram" => Kind::Histogram,
            b"gaugehistogram" => Kind::GaugeHistogram,
            b"summary" => Kind::Summary,
            b"info" => Kind::Info,
            b"stateset" => Kind::StateSet,
            b"unknown" => Kind::Unknown,
            _ => return None,
        })
    }
}

/// Where and why a body is not in text format. The words are Prometheus'.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ParseError {
    /// Offset in the body at which the broken line begins.
    pub offset_bytes: usize,
    pub text: String,
}

/// One sample line, as places in the body.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleLine {
    /// From the end of the previous sample's line to the value: comments and blank lines, the metric text, white space.
    pub literal: Range<usize>,
    /// The metric text: name and labels as they are written.
    pub raw: Range<usize>,
    pub value: f64,
    pub timestamp: Option<i64>,
    /// The exemplar, from the blank before its `#` up to the end of the line; OpenMetrics only.
    pub exemplar: Option<Range<usize>>,
    /// The TYPE in force.
    pub kind: Kind,
    /// Where the next line begins.
    pub end: usize,
}

/// A token of the format, by Prometheus' names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Eof,
    Linebreak,
    LabelName,
    Quoted,
    Equal,
    Comma,
    BraceClose,
    Invalid,
}

impl Token {
    fn name(self) -> &'static str {
        match self {
            Token::Eof => "EOF",
            Token::Linebreak => "LINEBREAK",
            Token::LabelName => "LNAME",
            Token::Quoted => "QSTRING",
            Token::Equal => "EQUAL",
            Token::Comma => "COMMA",
            Token::BraceClose => "BCLOSE",
            Token::Invalid => "INVALID",
        }
    }
}

/// Walks a body sample by sample.
#[derive(Clone, Debug)]
pub struct Parser<'a> {
    body: &'a [u8],
    at: usize,
    kind: Kind,
}

pub(crate) fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b':'
}

pub(crate) fn name_end(body: &[u8], at: usize) -> usize {
    let rest = &body[at..];
    let is_name = |byte: &u8| is_name_start(*byte) || byte.is_ascii_digit();
    at + rest.iter().position(|byte| !is_name(byte)).unwrap_or(rest.len())
}

/// End of the quoted string that begins at `at`, behind its closing quote.
fn quoted_end(body: &[u8], at: usize) -> Option<usize> {
    if body.get(at) != Some(&b'"') {
        return None;
    }
    let mut cursor = at + 1;
    loop {
        cursor += memchr::memchr2(b'"', b'\\', body.get(cursor..)?)?;
        if body[cursor] == b'"' {
            return Some(cursor + 1);
        }
        if matches!(body.get(cursor + 1), None | Some(b'\n')) {
            return None;
        }
        cursor += 2;
    }
}

fn skip_blanks(body: &[u8], at: usize) -> usize {
    let rest = &body[at..];
    at + rest.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(rest.len())
}

impl<'a> Parser<'a> {
    /// Begins at `at`, with the TYPE that is in force there.
    pub fn new(body: &'a [u8], at: usize, kind: Kind) -> Parser<'a> {
        Parser { body, at, kind }
    }

    /// Where the next line begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The TYPE in force.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The next sample; None at the end of the body.
    pub fn next_sample(&mut self) -> Result<Option<SampleLine>, ParseError> {
        let literal_start = self.at;
        loop {
            let start = self.at;
            let first = skip_blanks(self.body, start);
            match self.body.get(first) {
                // Prometheus' lexer takes a NUL for the end.
                None | Some(0) => {
                    self.at = self.body.len();
                    return Ok(None);
                }
                Some(b'\n') => self.at = first + 1,
                Some(b'#') => {
                    if !self.comment(start, first)? {
                        self.at = self.body.len();
                        return Ok(None);
                    }
                }
                Some(byte) if *byte == b'{' || is_name_start(*byte) => {
                    let line = self.sample(literal_start, start, first)?;
                    self.at = line.end;
                    return Ok(Some(line));
                }
                Some(_) => return Err(self.unexpected("expected a valid start token", Token::Invalid, first, start)),
            }
        }
    }

    /// A comment line; false if a NUL in it ends the text.
    fn comment(&mut self, line: usize, hash: usize) -> Result<bool, ParseError> {
        let end = memchr::memchr(b'\n', &self.body[hash..]).map_or(self.body.len(), |length| hash + length);
        let text = skip_blanks(self.body, hash + 1);
        let keyword = self.body.get(text..text + 4).filter(|_| text > hash + 1 && text + 4 <= end);
        let name = skip_blanks(self.body, (text + 4).min(end));
        let keyword = keyword.filter(|word| (*word == b"HELP" || *word == b"TYPE") && name > text + 4);
        let Some(keyword) = keyword else {
            self.at = (end + 1).min(self.body.len());
            return Ok(memchr::memchr(0, &self.body[hash..end]).is_none());
        };
        let after = match self.body.get(name) {
            Some(b'"') => quoted_end(self.body, name),
            Some(byte) if is_name_start(*byte) => Some(name_end(self.body, name)),
            _ => None,
        };
        let Some(after) = after else {
            let want =
                if keyword == b"HELP" { "expected metric name after HELP" } else { "expected metric name after TYPE" };
            return Err(self.unexpected(want, Token::Invalid, name, line));
        };
        let end = memchr::memchr(b'\n', &self.body[after..]).map_or(self.body.len(), |length| after + length);
        // The byte behind the name parts it from the text, whatever it is.
        let text = &self.body[(after + 1).min(end)..end];
        if keyword == b"TYPE" {
            self.kind = Kind::from_text(text)
                .ok_or_else(|| self.error(line, format!("invalid metric type {}", quote(text))))?;
        } else if std::str::from_utf8(text).is_err() {
            return Err(self.error(line, format!("help text {} is not a valid utf8 string", quote(text))));
        }
        self.at = (end + 1).min(self.body.len());
        Ok(true)
    }

    fn sample(&self, literal_start: usize, line: usize, first: usize) -> Result<SampleLine, ParseError> {
        let mut cursor = first;
        let named = self.body[first] != b'{';
        if named {
            cursor = name_end(self.body, first);
            self.check_length(line, "metric name", cursor - first)?;
        }
        let mut raw_end = cursor;
        let brace = skip_blanks(self.body, cursor);
        if self.body.get(brace) == Some(&b'{') {
            cursor = self.label_set(line, brace + 1, named, &mut |_| {})?;
            raw_end = cursor;
        }
        let value_start = skip_blanks(self.body, cursor);
        let value_end = number::value_end(self.body, value_start);
        if value_end == value_start {
            let token = match self.body.get(value_start) {
                None | Some(b'\n') => Token::Linebreak,
                Some(_) => Token::Invalid,
            };
            return Err(self.unexpected("expected value after metric", token, value_start, line));
        }
        let value = number::parse_value(&self.body[value_start..value_end]).map_err(|error| {
            self.error(line, format!("{error} while parsing: {}", quote(&self.body[line..value_end])))
        })?;
        let mut end = skip_blanks(self.body, value_end);
        let mut timestamp = None;
        if self.body.get(end).is_some_and(u8::is_ascii_digit) {
            let Some((found, behind)) = number::read_timestamp(self.body, end) else {
                let digits = self.body[end..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let digits = String::from_utf8_lossy(&self.body[end..end + digits]).into_owned();
                let text = format!("strconv.ParseInt: parsing {digits:?}: value out of range");
                return Err(self.error(line, format!("{text} while parsing: {}", quote(&self.body[line..end]))));
            };
            timestamp = Some(found);
            end = skip_blanks(self.body, behind);
        }
        match self.body.get(end) {
            None => {}
            Some(b'\n') => end += 1,
            Some(_) => {
                let want = match timestamp {
                    Some(_) => "expected next entry after timestamp",
                    None => "expected timestamp or new record",
                };
                return Err(self.unexpected(want, Token::Invalid, end, line));
            }
        }
        if end - line > LINE_BYTES_MAX {
            return Err(self.error(line, format!("line is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(SampleLine {
            literal: literal_start..value_start,
            raw: line..raw_end,
            value,
            timestamp,
            exemplar: None,
            kind: self.kind,
            end,
        })
    }

    /// What lies between braces, from behind the opening one; returns the place behind the closing one. `found` is
    /// told every part.
    fn label_set(
        &self,
        line: usize,
        start: usize,
        mut named: bool,
        found: &mut dyn FnMut(Part),
    ) -> Result<usize, ParseError> {
        let mut count = 0;
        let (mut token, mut place) = self.token(start);
        loop {
            match token {
                Token::BraceClose => break,
                Token::LabelName | Token::Quoted => {}
                _ => return Err(self.unexpected("expected label name", token, place.start, line)),
            }
            let name = if token == Token::Quoted { place.start + 1..place.end - 1 } else { place.clone() };
            self.check_length(line, "label name", name.len())?;
            let (next, next_place) = self.token(place.end);
            if token == Token::Quoted && matches!(next, Token::Comma | Token::BraceClose) {
                if named {
                    let text = quote(&self.body[line..next_place.end]);
                    return Err(self.error(line, format!("metric name already set while parsing: {text}")));
                }
                named = true;
                found(Part::Name(name));
                (token, place) = if next == Token::Comma { self.token(next_place.end) } else { (next, next_place) };
                continue;
            }
            if next != Token::Equal {
                return Err(self.unexpected("expected equal", next, next_place.start, line));
            }
            let value_start = skip_blanks(self.body, next_place.end);
            let Some(value_end) = quoted_end(self.body, value_start) else {
                return Err(self.unexpected("expected label value", Token::Invalid, value_start, line));
            };
            let value = value_start + 1..value_end - 1;
            if std::str::from_utf8(&self.body[value.clone()]).is_err() {
                let text = quote(&self.body[value_start..value_end]);
                return Err(self.error(line, format!("invalid UTF-8 label value: {text}")));
            }
            count += 1;
            if count > LABELS_MAX {
                return Err(self.error(line, format!("sample has more than {LABELS_MAX} labels")));
            }
            found(Part::Label(name, value));
            (token, place) = self.token(value_end);
            if token == Token::Comma {
                (token, place) = self.token(place.end);
            }
        }
        if !named {
            let text = quote(&self.body[line..place.end]);
            return Err(self.error(line, format!("metric name not set while parsing: {text}")));
        }
        Ok(place.end)
    }

    /// The token within braces at or behind `at`, and where it lies.
    fn token(&self, at: usize) -> (Token, Range<usize>) {
        let start = skip_blanks(self.body, at);
        let one = |token| (token, start..start + 1);
        match self.body.get(start) {
            None => (Token::Eof, start..start),
            Some(b'}') => one(Token::BraceClose),
            Some(b'=') => one(Token::Equal),
            Some(b',') => one(Token::Comma),
            Some(b'"') => match quoted_end(self.body, start) {
                // Whether the name is UTF-8 is looked at where labels are made of it, see `is_invalid_byte`.
                Some(end) => (Token::Quoted, start..end),
                None => (Token::Invalid, start..start),
            },
            Some(byte) if is_name_start(*byte) && *byte != b':' => {
                let rest = &self.body[start..];
                let is_label = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
                let length = rest.iter().position(|byte| !is_label(byte)).unwrap_or(rest.len());
                (Token::LabelName, start..start + length)
            }
            Some(_) => (Token::Invalid, start..start),
        }
    }

    fn check_length(&self, line: usize, what: &str, bytes: usize) -> Result<(), ParseError> {
        if bytes > NAME_BYTES_MAX {
            return Err(self.error(line, format!("{what} of {bytes} bytes is longer than {NAME_BYTES_MAX}")));
        }
        Ok(())
    }

    fn unexpected(&self, want: &str, got: Token, at: usize, line: usize) -> ParseError {
        let end = (at + 1).min(self.body.len());
        let (found, all) = (quote(&self.body[at.min(end)..end]), quote(&self.body[line..end]));
        self.error(line, format!("{want}, got {found} ({:?}) while parsing: {all}", got.name()))
    }

    fn error(&self, line: usize, text: String) -> ParseError {
        ParseError { offset_bytes: line, text }
    }
}

/// A part of what lies between braces.
enum Part {
    Name(Range<usize>),
    Label(Range<usize>, Range<usize>),
}

/// Bytes from outside as an error shows them: quoted, control characters escaped, cut when long.
pub(crate) fn quote(bytes: &[u8]) -> String {
    if bytes.len() <= QUOTED_BYTES_MAX {
        return format!("{:?}", String::from_utf8_lossy(bytes));
    }
    let head = String::from_utf8_lossy(&bytes[..QUOTED_BYTES_MAX]);
    format!("{:?}", format!("{head}… ({} bytes)", bytes.len()))
}

/// The labels that a metric text spells, `__name__` first, in the order of the text, duplicates included. The text must
/// have come out of a [`Parser`]. Bucket bounds and quantiles of histograms and summaries take their float form
/// (`1` becomes `1.0`), as Prometheus stores them.
pub fn labels(raw: &[u8], kind: Kind) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let parser = Parser::new(raw, 0, kind);
    let start = skip_blanks(raw, 0);
    let end = name_end(raw, start);
    let mut labels: Vec<(Cow<str>, Cow<str>)> = Vec::new();
    let named = end > start;
    if named {
        labels.push((series::METRIC_NAME.into(), unescape(&raw[start..end])));
    }
    let brace = skip_blanks(raw, end);
    if raw.get(brace) == Some(&b'{') {
        let outcome = parser.label_set(0, brace + 1, named, &mut |part| match part {
            Part::Name(name) => labels.insert(0, (series::METRIC_NAME.into(), unescape(&raw[name]))),
            Part::Label(name, value) => {
                let name = unescape(&raw[name]);
                let value = unescape(&raw[value]);
                let bound = matches!((kind, &*name), (Kind::Histogram, "le") | (Kind::Summary, "quantile"));
                labels.push((name, if bound { float_form(value) } else { value }));
            }
        });
        debug_assert!(outcome.is_ok(), "the text was parsed before");
    }
    labels
}

/// Bytes of quoted names that are not UTF-8 become these characters, of a private range, so that relabelling can go on as
/// Prometheus' does.
const INVALID_BYTES: std::ops::RangeInclusive<char> = '\u{10ff00}'..='\u{10ffff}';

/// Whether the character stands for a byte of a name that is not UTF-8. A sample with such a name fails its scrape.
pub fn is_invalid_byte(char: char) -> bool {
    INVALID_BYTES.contains(&char)
}

/// Writes bytes that are not UTF-8 as Go does, `\xff`, in the text of a label set, where their characters are escaped.
pub fn write_invalid_bytes(label_set: &str) -> String {
    label_set.replace(r"\U0010ff", r"\x")
}

fn decode(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    let mut text = String::with_capacity(bytes.len() * 2);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let stand_in = |byte: &u8| char::from_u32(*INVALID_BYTES.start() as u32 + u32::from(*byte));
        text.extend(chunk.invalid().iter().filter_map(stand_in));
    }
    text.into()
}

fn unescape(bytes: &[u8]) -> Cow<'_, str> {
    let text = decode(bytes);
    if memchr::memchr(b'\\', bytes).is_none() {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        if char != '\\' {
            plain.push(char);
            continue;
        }
        match rest.next() {
            Some('n') => plain.push('\n'),
            Some(escaped @ ('"' | '\\')) => plain.push(escaped),
            Some(other) => plain.extend(['\\', other]),
            None => plain.push('\\'),
        }
    }
    plain.into()
}

fn float_form(value: Cow<'_, str>) -> Cow<'_, str> {
    number::parse_go_float(&value).map_or(value, |number| bound_text(number).into())
}

/// A bound or quantile as a label value: with a point or an exponent, and without the sign of a zero.
pub(crate) fn bound_text(number: f64) -> String {
    let mut text = String::new();
    // Adding zero makes -0 a 0.
    series::format_float(number + 0.0, &mut text).expect("writing to a string");
    if number.is_finite() && !text.contains(['.', 'e']) {
        text.push_str(".0");
    }
    text
}

/// One fact about a metric family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metadata {
    Help(String),
    Kind(Kind),
    Unit(String),
}

/// A metadata line: the family and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataEntry {
    pub metric: String,
    pub fact: Metadata,
}

/// The HELP, TYPE and UNIT lines of a text that the parser of its format has accepted.
pub(crate) fn metadata(text: &[u8], format: Format) -> impl Iterator<Item = MetadataEntry> {
    memchr::memchr_iter(b'\n', text)
        .chain([text.len()])
        .scan(0, |start, end| {
            let line = &text[*start..end];
            *start = end + 1;
            Some(line)
        })
        .filter_map(move |line| metadata_line(line, format))
}

fn metadata_line(line: &[u8], format: Format) -> Option<MetadataEntry> {
    let line = std::str::from_utf8(line).ok()?.trim_start_matches([' ', '\t']);
    let after_hash = line.strip_prefix('#')?;
    let rest = after_hash.trim_start_matches([' ', '\t']);
    if rest.len() == after_hash.len() {
        return None;
    }
    let (keyword, rest) = rest.split_once([' ', '\t'])?;
    let rest = rest.trim_start_matches([' ', '\t']);
    let end = match rest.starts_with('"') {
        true => quoted_end(rest.as_bytes(), 0)?,
        false => name_end(rest.as_bytes(), 0),
    };
    let text = rest.get(end..)?.get(1..).unwrap_or("");
    let is_text = format == Format::Text;
    let kind = if is_text { Kind::from_text } else { Kind::from_openmetrics };
    let fact = match keyword {
        "HELP" if is_text => Metadata::Help(unescape_help(text)),
        "HELP" => Metadata::Help(unescape(text.as_bytes()).into_owned()),
        "TYPE" => Metadata::Kind(kind(text.as_bytes())?),
        // In the text format it is a comment.
        "UNIT" if !is_text => Metadata::Unit(text.to_owned()),
        _ => return None,
    };
    let name = rest[..end].trim_matches('"');
    let metric = if is_text { unescape(name.as_bytes()).into_owned() } else { name.to_owned() };
    Some(MetadataEntry { metric, fact })
}

fn unescape_help(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        match (char, rest.clone().next()) {
            ('\\', Some('n')) => plain.push('\n'),
            ('\\', Some('\\')) => plain.push('\\'),
            _ => {
                plain.push(char);
                continue;
            }
        }
        rest.next();
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The samples of a body, one `labels value @timestamp` each, or the error.
    fn parse(body: &[u8]) -> Result<Vec<String>, String> {
        let mut parser = Parser::new(body, 0, Kind::Unknown);
        let mut samples = Vec::new();
        while let Some(line) = parser.next_sample().map_err(|error| error.text)? {
            let pairs = labels(&body[line.raw.clone()], line.kind);
            let set: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let stamp = line.timestamp.map(|stamp| format!(" @{stamp}")).unwrap_or_default();
            samples.push(format!("{} {}{stamp}", set.join(","), line.value));
        }
        Ok(samples)
    }

    #[track_caller]
    fn check(body: &str, want: &[&str]) {
        assert_eq!(parse(body.as_bytes()), Ok(want.iter().map(|line| line.to_string()).collect()), "{body:?}");
    }

    #[track_caller]
    fn refuse(body: impl AsRef<[u8]>, want: &str) {
        let body = body.as_ref();
        let error = parse(body).expect_err(&format!("{:?}", String::from_utf8_lossy(body)));
        assert!(error.contains(want), "{error} has no {want}");
    }

    #[test]
    fn samples() {
        check("", &[]);
        check("\n\n# a comment\n#no space\n", &[]);
        check("a 1", &["__name__=a 1"]);
        check("a 1\n", &["__name__=a 1"]);
        check("  a\t 1 \n", &["__name__=a 1"]);
        check("a{} 1\n", &["__name__=a 1"]);
        check("a{b=\"c\"} 1\n", &["__name__=a,b=c 1"]);
        check("a { b = \"c\" , } 1\n", &["__name__=a,b=c 1"]);
        check("a{b=\"c\"}1\n", &["__name__=a,b=c 1"]);
        check("a{b=\"c\" d=\"e\"} 1\n", &["__name__=a,b=c,d=e 1"]);
        check("a{b=\"\"} 1\n", &["__name__=a,b= 1"]);
        check("a{b=\"x\\\"y\\\\z\\nw\\q\"} 1\n", &["__name__=a,b=x\"y\\z\nw\\q 1"]);
        check("a{b=\"two\nlines\"} 1\n", &["__name__=a,b=two\nlines 1"]);
        check("a:b_2 1\n", &["__name__=a:b_2 1"]);
        check("a 1 1234\na 2  1235 \n", &["__name__=a 1 @1234", "__name__=a 2 @1235"]);
        check("{\"u.tf8\",\"a.b\"=\"c\"} 1\n", &["__name__=u.tf8,a.b=c 1"]);
        check("{a=\"b\",\"n\"} 1\n", &["__name__=n,a=b 1"]);
        check("a NaN\nb +Inf\nc -inf\n", &["__name__=a NaN", "__name__=b inf", "__name__=c -inf"]);
        check("a 1\n\0b 2\n", &["__name__=a 1"]);
        check("a 1\n# c\0omment\nb 2\n", &["__name__=a 1"]);
        check("# HELP a\n# HELP b \n# TYPE\n# HELPa x\na 1\n", &["__name__=a 1"]);
    }

    #[test]
    fn bounds_take_their_float_form() {
        check("# TYPE h histogram\nh_bucket{le=\"1\"} 1\n", &["__name__=h_bucket,le=1.0 1"]);
        check("# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\n", &["__name__=h_bucket,le=+Inf 1"]);
        check("# TYPE h histogram\nh_bucket{le=\"1e+06\"} 1\n", &["__name__=h_bucket,le=1e+06 1"]);
        check("# TYPE h histogram\nh_bucket{le=\"x\"} 1\n", &["__name__=h_bucket,le=x 1"]);
        for (spelling, want) in [
            ("-0", "0.0"),
            ("0x10p0", "16.0"),
            ("0X1P-1", "0.5"),
            ("0x1_0p+1", "32.0"),
            ("-0x0p0", "0.0"),
            ("0x1.8p1", "3.0"),
            ("1_0", "10.0"),
            ("1_000.5", "1000.5"),
            ("2_0", "20.0"),
            ("inf", "+Inf"),
            ("nan", "NaN"),
            ("1__0", "1__0"),
            ("_1", "_1"),
            ("1_", "1_"),
            ("1_.5", "1_.5"),
            ("0x10", "0x10"),
            ("0x", "0x"),
            ("0xp1", "0xp1"),
            ("1p1", "1p1"),
            ("1e400", "1e400"),
            ("", ""),
        ] {
            let body = format!("# TYPE h histogram\nh_bucket{{le=\"{spelling}\"}} 1\n");
            check(&body, &[&format!("__name__=h_bucket,le={want} 1")]);
        }
        check("# TYPE s summary\ns{quantile=\"0\",le=\"1\"} 1\n", &["__name__=s,quantile=0.0,le=1 1"]);
        check("# TYPE g gauge\ng{le=\"1\"} 1\n", &["__name__=g,le=1 1"]);
    }

    #[test]
    fn refusals_in_the_words_of_prometheus() {
        refuse("7 7\n", r#"expected a valid start token, got "7" ("INVALID") while parsing: "7""#);
        refuse("a 1\r\n", r#"strconv.ParseFloat: parsing "1\r": invalid syntax while parsing: "a 1\r""#);
        refuse("a\n", r#"expected value after metric, got "\n" ("LINEBREAK")"#);
        refuse("a 1e400\n", "value out of range");
        refuse("a 0x1p-2\n", "unsupported character in float");
        refuse("a 1 -5\n", "expected timestamp or new record");
        refuse("a 1 5 6\n", "expected next entry after timestamp");
        refuse("a 1 99999999999999999999\n", "value out of range");
        refuse("a{b=\"c\",,} 1\n", "expected label name");
        refuse("a{b} 1\n", "expected equal");
        refuse("a{b=c} 1\n", "expected label value");
        refuse("a{b=\"c} 1\n", "expected label value");
        refuse("a{b=\"c\"", "expected label name");
        refuse("a{\"n\"} 1\n", "metric name already set");
        refuse("{a=\"b\"} 1\n", "metric name not set");
        refuse("{} 1\n", "metric name not set");
        refuse(b"a{b=\"\xff\"} 1\n", "invalid UTF-8 label value");
        refuse(b"# HELP a \xff\n", "is not a valid utf8 string");
        refuse("# TYPE a foo\n", "invalid metric type \"foo\"");
        refuse("# TYPE a counter \n", "invalid metric type");
        refuse("# HELP 1 x\n", "expected metric name after HELP");
        refuse("-a 1\n", "expected a valid start token");
        refuse("a\0b 1\n", "while parsing");
    }

    #[test]
    fn sizes_are_bounded() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        refuse(format!("{long} 1\n"), "metric name of 65537 bytes");
        refuse(format!("a{{{long}=\"1\"}} 1\n"), "label name of 65537 bytes");
        // A value may be as long as a line allows.
        let value = "x".repeat(LINE_BYTES_MAX - 100);
        let line = format!("a{{b=\"{value}\"}} 1\n");
        let mut parser = Parser::new(line.as_bytes(), 0, Kind::Unknown);
        assert!(parser.next_sample().unwrap().is_some());
        refuse(format!("a{{b=\"{value}{value}\"}} 1\n"), "line is longer");
        let many: Vec<String> = (0..=LABELS_MAX).map(|i| format!("l{i}=\"\"")).collect();
        refuse(format!("a{{{}}} 1\n", many.join(",")), "more than 512 labels");
        refuse(format!("a{} 1\n", " ".repeat(LINE_BYTES_MAX)), "line is longer");
    }

    #[test]
    fn metadata_lines() {
        let text = b"# HELP a Line\\none \\\\ two.\n# TYPE a counter\na 1\n# UNIT a seconds\n# note\n# HELP \"b.c\" x";
        let entry = |metric: &str, fact| MetadataEntry { metric: metric.into(), fact };
        let want = [
            entry("a", Metadata::Help("Line\none \\ two.".into())),
            entry("a", Metadata::Kind(Kind::Counter)),
            entry("b.c", Metadata::Help("x".into())),
        ];
        assert_eq!(metadata(text, Format::Text).collect::<Vec<_>>(), want);
        let text = b"# HELP a Line\\none \\\"two\\\".\n# TYPE a gaugehistogram\na 1\n# UNIT a seconds\n# EOF\n";
        let want = [
            entry("a", Metadata::Help("Line\none \"two\".".into())),
            entry("a", Metadata::Kind(Kind::GaugeHistogram)),
            entry("a", Metadata::Unit("seconds".into())),
        ];
        assert_eq!(metadata(text, Format::OpenMetrics).collect::<Vec<_>>(), want);
    }
}
