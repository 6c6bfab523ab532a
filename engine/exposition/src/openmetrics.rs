//! The plain parser of OpenMetrics text, 1.0.0 and 0.0.1: what it accepts, Prometheus accepts, and nothing else.
//!
//! It is the oracle of the template scan and the way in for every line that is not known yet, as `text` is for the text
//! format. Prometheus checks less than the standard asks, and so does this: any line may have an exemplar, names need no
//! suffix, families may interleave.
//!
//! Invariants:
//!   * linear time, no recursion, no allocation but for errors
//!   * the end of the body is exactly where `# EOF` says that it is
//!   * names, label values, lines and labels of a sample are bounded as in the text format; an exemplar has at most
//!     [`LABELS_MAX`] labels

use crate::number;
use crate::text::{
    Kind, LABELS_MAX, LINE_BYTES_MAX, NAME_BYTES_MAX, ParseError, SampleLine, is_name_start, name_end, quote,
};
use series::Labels;
use std::ops::Range;

/// Ends the name of a line that says when the series of a metric began.
pub const START_SUFFIX: &str = "_created";
/// The last line of every body.
const EOF_MISSING: &str = "data does not end with # EOF";

/// A token of the format, by Prometheus' names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Eof,
    Invalid,
    Linebreak,
    Help,
    Type,
    Unit,
    EofWord,
    Text,
    Comment,
    MetricName,
    Quoted,
    BraceOpen,
    BraceClose,
    LabelName,
    LabelValue,
    Comma,
    Equal,
    Timestamp,
    Value,
}

impl Token {
    fn name(self) -> &'static str {
        match self {
            Token::Eof => "EOF",
            Token::Invalid => "INVALID",
            Token::Linebreak => "LINEBREAK",
            Token::Help => "HELP",
            Token::Type => "TYPE",
            Token::Unit => "UNIT",
            Token::EofWord => "EOFWORD",
            Token::Text => "TEXT",
            Token::Comment => "COMMENT",
            Token::MetricName => "MNAME",
            Token::Quoted => "QSTRING",
            Token::BraceOpen => "BOPEN",
            Token::BraceClose => "BCLOSE",
            Token::LabelName => "LNAME",
            Token::LabelValue => "LVALUE",
            Token::Comma => "COMMA",
            Token::Equal => "EQUAL",
            Token::Timestamp => "TIMESTAMP",
            Token::Value => "VALUE",
        }
    }
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A line begins.
    Line,
    MetadataName,
    MetadataText,
    Labels,
    LabelValue,
    Value,
    /// Behind a value: a timestamp, an exemplar or the end of the line.
    Timestamp,
    ExemplarLabels,
    ExemplarValue,
    ExemplarTimestamp,
}

/// Cuts a body into tokens. The grammar decides by what may come next where a token ends, so errors quote what
/// Prometheus' quote.
#[derive(Clone, Debug)]
struct Lexer<'a> {
    body: &'a [u8],
    /// The last token, or how far it went before it was none.
    start: usize,
    at: usize,
    state: State,
}

impl<'a> Lexer<'a> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.body.get(at).copied()
    }

    fn token(&self) -> &'a [u8] {
        &self.body[self.start..self.at]
    }

    fn next(&mut self) -> Token {
        let Some(first) = self.byte(self.at) else { return Token::Eof };
        self.start = self.at;
        match self.state {
            State::Line => match first {
                b'#' => self.hash(),
                b'{' => self.one(Token::BraceOpen, State::Labels),
                _ => self.name(Token::MetricName, State::Value),
            },
            State::MetadataName => match first {
                b'"' => self.quoted(true, Token::Quoted, State::MetadataText),
                _ => self.name(Token::MetricName, State::MetadataText),
            },
            State::MetadataText => {
                if first != b' ' {
                    return Token::Invalid;
                }
                match memchr::memchr(b'\n', &self.body[self.at..]) {
                    Some(length) => self.end(self.at + length + 1, Token::Text, State::Line),
                    None => self.invalid(self.body.len()),
                }
            }
            State::Labels => match first {
                b'"' => self.quoted(true, Token::Quoted, State::Labels),
                b'}' => self.one(Token::BraceClose, State::Value),
                b'=' => self.one(Token::Equal, State::LabelValue),
                b',' => self.one(Token::Comma, State::Labels),
                _ => self.label_name(State::Labels),
            },
            State::LabelValue => self.quoted(false, Token::LabelValue, State::Labels),
            State::Value if first == b'{' => self.one(Token::BraceOpen, State::Labels),
            State::Value => self.word(Token::Value, State::Timestamp),
            State::Timestamp => match first {
                b'\n' => self.one(Token::Linebreak, State::Line),
                b' ' if self.byte(self.at + 1) == Some(b'#') && self.byte(self.at + 2) == Some(b' ') => {
                    match self.byte(self.at + 3) {
                        Some(b'{') => self.end(self.at + 4, Token::Comment, State::ExemplarLabels),
                        _ => self.invalid(self.at + 3),
                    }
                }
                _ => self.word(Token::Timestamp, State::Timestamp),
            },
            State::ExemplarLabels => match first {
                b'"' => self.quoted(false, Token::Quoted, State::ExemplarLabels),
                b'}' => self.one(Token::BraceClose, State::ExemplarValue),
                b'=' => self.one(Token::Equal, State::ExemplarValue),
                b',' => self.one(Token::Comma, State::ExemplarLabels),
                _ => self.label_name(State::ExemplarLabels),
            },
            State::ExemplarValue => match first {
                b'"' => self.quoted(false, Token::LabelValue, State::ExemplarLabels),
                _ => self.word(Token::Value, State::ExemplarTimestamp),
            },
            State::ExemplarTimestamp => match first {
                b'\n' => self.one(Token::Linebreak, State::Line),
                _ => self.word(Token::Timestamp, State::ExemplarTimestamp),
            },
        }
    }

    fn end(&mut self, at: usize, token: Token, state: State) -> Token {
        (self.at, self.state) = (at, state);
        token
    }

    /// No token: `at` is the first byte that fits none.
    fn invalid(&mut self, at: usize) -> Token {
        self.at = at.min(self.body.len());
        Token::Invalid
    }

    fn one(&mut self, token: Token, state: State) -> Token {
        self.end(self.at + 1, token, state)
    }

    fn name(&mut self, token: Token, state: State) -> Token {
        match self.byte(self.at) {
            Some(byte) if is_name_start(byte) => self.end(name_end(self.body, self.at), token, state),
            _ => Token::Invalid,
        }
    }

    fn label_name(&mut self, state: State) -> Token {
        let rest = &self.body[self.at..];
        let is_label = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        match rest.iter().position(|byte| !is_label(byte)).unwrap_or(rest.len()) {
            length if length > 0 && !rest[0].is_ascii_digit() => self.end(self.at + length, Token::LabelName, state),
            _ => Token::Invalid,
        }
    }

    /// A blank, then everything up to the next blank or line end.
    fn word(&mut self, token: Token, state: State) -> Token {
        if self.body[self.at] != b' ' {
            return Token::Invalid;
        }
        let rest = &self.body[self.at + 1..];
        match rest.iter().position(|byte| matches!(byte, b' ' | b'\n' | 0)).unwrap_or(rest.len()) {
            0 => self.invalid(self.at + 1),
            length => self.end(self.at + 1 + length, token, state),
        }
    }

    fn quoted(&mut self, may_have_line_ends: bool, token: Token, state: State) -> Token {
        let (start, before) = (self.at, self.state);
        let found = self.quoted_bytes(may_have_line_ends, token, state);
        // Prometheus' lexer takes a NUL for the end, but in label values.
        match memchr::memchr(0, &self.body[start..self.at]) {
            Some(nul) if before != State::LabelValue => {
                self.state = before;
                self.invalid(start + nul)
            }
            _ => found,
        }
    }

    fn quoted_bytes(&mut self, may_have_line_ends: bool, token: Token, state: State) -> Token {
        if self.body[self.at] != b'"' {
            return Token::Invalid;
        }
        let mut cursor = self.at + 1;
        loop {
            let Some(rest) = self.body.get(cursor..) else { return self.invalid(cursor) };
            let Some(found) = memchr::memchr3(b'"', b'\\', b'\n', rest) else { return self.invalid(self.body.len()) };
            cursor += found;
            match self.body[cursor] {
                b'"' => return self.end(cursor + 1, token, state),
                b'\n' if may_have_line_ends => cursor += 1,
                b'\n' => return self.invalid(cursor),
                _ if matches!(self.byte(cursor + 1), None | Some(b'\n')) => return self.invalid(cursor + 1),
                _ => cursor += 2,
            }
        }
    }

    /// `# ` and a keyword.
    fn hash(&mut self) -> Token {
        if self.byte(self.at + 1) != Some(b' ') {
            return self.invalid(self.at + 1);
        }
        let word = self.at + 2;
        let keywords: [(&[u8], Token); 4] =
            [(b"HELP ", Token::Help), (b"TYPE ", Token::Type), (b"UNIT ", Token::Unit), (b"EOF", Token::EofWord)];
        for (keyword, token) in keywords {
            if self.byte(word) != Some(keyword[0]) {
                continue;
            }
            let rest = &self.body[word..];
            let same = rest.iter().zip(keyword).take_while(|(byte, wanted)| byte == wanted).count();
            if same < keyword.len() {
                return self.invalid(word + same);
            }
            let end = word + same;
            return match token {
                Token::EofWord => self.end(end + usize::from(self.byte(end) == Some(b'\n')), token, State::Line),
                _ => self.end(end, token, State::MetadataName),
            };
        }
        self.invalid(word)
    }
}

/// An exemplar as a line spells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Sorted by name; escapes stand as they are written, as in Prometheus.
    pub labels: Labels,
    pub value: f64,
    pub timestamp: Option<i64>,
}

/// Walks a body sample by sample.
#[derive(Clone, Debug)]
pub(crate) struct Parser<'a> {
    lexer: Lexer<'a>,
    /// Where the line begins.
    line: usize,
    kind: Kind,
}

/// Name and value of a label of an exemplar.
type Pair = (Range<usize>, Range<usize>);

impl<'a> Parser<'a> {
    /// Begins at `at`, with the TYPE that is in force there.
    pub fn new(body: &'a [u8], at: usize, kind: Kind) -> Parser<'a> {
        Parser { lexer: Lexer { body, start: at, at, state: State::Line }, line: at, kind }
    }

    /// The TYPE in force.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The next sample; None at the end that `# EOF` says.
    pub fn next_sample(&mut self) -> Result<Option<SampleLine>, ParseError> {
        let literal_start = self.lexer.at;
        loop {
            self.line = self.lexer.at;
            match self.lexer.next() {
                Token::EofWord if self.lexer.at == self.lexer.body.len() => return Ok(None),
                Token::EofWord => return Err(self.error("unexpected data after # EOF".to_owned())),
                Token::Eof => return Err(self.error(EOF_MISSING.to_owned())),
                keyword @ (Token::Help | Token::Type | Token::Unit) => self.metadata(keyword)?,
                Token::BraceOpen => {
                    self.label_set(false)?;
                    let raw_end = self.lexer.at;
                    return self.sample(literal_start, raw_end).map(Some);
                }
                Token::MetricName => {
                    self.check_length("metric name", self.lexer.token().len())?;
                    let mut raw_end = self.lexer.at;
                    if self.lexer.byte(raw_end) == Some(b'{') {
                        self.lexer.next();
                        self.label_set(true)?;
                        raw_end = self.lexer.at;
                    }
                    return self.sample(literal_start, raw_end).map(Some);
                }
                other => return Err(self.unexpected("expected a valid start token", other)),
            }
        }
    }

    /// The comments of a literal: TYPE lines change the kind in force.
    pub(crate) fn skip_comments(&mut self) {
        while self.lexer.at < self.lexer.body.len() {
            self.line = self.lexer.at;
            let done = match self.lexer.next() {
                keyword @ (Token::Help | Token::Type | Token::Unit) => self.metadata(keyword).is_err(),
                _ => true,
            };
            if done {
                return;
            }
        }
    }

    fn metadata(&mut self, keyword: Token) -> Result<(), ParseError> {
        let after = |what: &str| format!("{what} {}", keyword.name());
        let name = match self.lexer.next() {
            Token::MetricName => self.lexer.start..self.lexer.at,
            Token::Quoted => self.lexer.start + 1..self.lexer.at - 1,
            other => return Err(self.unexpected(&after("expected metric name after"), other)),
        };
        if self.lexer.next() != Token::Text {
            return Err(self.error(after("expected text in")));
        }
        let text = &self.lexer.body[self.lexer.start + 1..self.lexer.at - 1];
        match keyword {
            Token::Type => {
                self.kind = Kind::from_openmetrics(text)
                    .ok_or_else(|| self.error(format!("invalid metric type {}", quote(text))))?;
            }
            Token::Help if std::str::from_utf8(text).is_err() => {
                return Err(self.error(format!("help text {} is not a valid utf8 string", quote(text))));
            }
            Token::Unit if !text.is_empty() => {
                let metric = &self.lexer.body[name];
                let before = metric.strip_suffix(text);
                if before.is_none_or(|before| before.last() != Some(&b'_')) {
                    let (unit, metric) = (quote(text), quote(metric));
                    return Err(self.error(format!("unit {unit} not a suffix of metric {metric}")));
                }
            }
            _ => {}
        }
        if self.lexer.at - self.line > LINE_BYTES_MAX {
            return Err(self.error(format!("line is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(())
    }

    /// The value and what follows it.
    fn sample(&mut self, literal_start: usize, raw_end: usize) -> Result<SampleLine, ParseError> {
        let value = self.float("metric")?;
        let value_start = self.lexer.start + 1;
        let mut timestamp = None;
        let mut exemplar = None;
        let mut next = self.lexer.next();
        if next == Token::Timestamp {
            timestamp = Some(self.seconds("timestamp")?);
            next = self.lexer.next();
            if !matches!(next, Token::Linebreak | Token::Comment) {
                return Err(self.unexpected("expected next entry after timestamp", next));
            }
        }
        match next {
            Token::Eof => return Err(self.error(EOF_MISSING.to_owned())),
            Token::Comment => {
                let start = self.lexer.start;
                self.exemplar(&mut Vec::new())?;
                exemplar = Some(start..self.lexer.at - 1);
            }
            // Anything else is refused where the next line should begin.
            _ => {}
        }
        let end = self.lexer.at;
        if end - self.line > LINE_BYTES_MAX {
            return Err(self.error(format!("line is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(SampleLine {
            literal: literal_start..value_start,
            raw: self.line..raw_end,
            value,
            timestamp,
            exemplar,
            kind: self.kind,
            end,
        })
    }

    /// An exemplar from behind its opening brace up to the end of the line; gives value and timestamp.
    fn exemplar(&mut self, pairs: &mut Vec<Pair>) -> Result<(f64, Option<i64>), ParseError> {
        self.pairs(None, &mut |pair| pairs.push(pair))?;
        let value = self.float("exemplar labels")?;
        let mut timestamp = None;
        match self.lexer.next() {
            Token::Eof => return Err(self.error(EOF_MISSING.to_owned())),
            Token::Linebreak => {}
            Token::Timestamp => {
                timestamp = Some(self.seconds("exemplar timestamp")?);
                match self.lexer.next() {
                    Token::Linebreak => {}
                    other => return Err(self.unexpected("expected next entry after exemplar timestamp", other)),
                }
            }
            other => return Err(self.unexpected("expected timestamp or comment", other)),
        }
        Ok((value, timestamp))
    }

    /// The labels of a sample, from behind the opening brace to behind the closing one.
    fn label_set(&mut self, named: bool) -> Result<(), ParseError> {
        if self.pairs(Some(named), &mut |_| {})? {
            return Ok(());
        }
        let text = quote(&self.lexer.body[self.line..self.lexer.at]);
        Err(self.error(format!("metric name not set while parsing: {text}")))
    }

    /// Labels up to the closing brace. `named` says whether the metric has its name already; None, that there is none to
    /// have, as in an exemplar. Returns whether it has one behind them.
    fn pairs(&mut self, named: Option<bool>, found: &mut dyn FnMut(Pair)) -> Result<bool, ParseError> {
        let mut named = named;
        let mut count = 0;
        let mut token = self.lexer.next();
        loop {
            match token {
                Token::BraceClose => return Ok(named.unwrap_or(false)),
                Token::LabelName | Token::Quoted => {}
                other => return Err(self.unexpected("expected label name", other)),
            }
            let name = match token {
                Token::Quoted => self.lexer.start + 1..self.lexer.at - 1,
                _ => self.lexer.start..self.lexer.at,
            };
            self.check_length("label name", name.len())?;
            let next = self.lexer.next();
            if matches!(next, Token::Comma | Token::BraceClose) {
                match named {
                    None => return Err(self.unexpected("expected label name", next)),
                    Some(false) => named = Some(true),
                    Some(true) => {
                        let text = quote(&self.lexer.body[self.line..self.lexer.at]);
                        return Err(self.error(format!("metric name already set while parsing: {text}")));
                    }
                }
                if next == Token::BraceClose {
                    return Ok(true);
                }
                token = self.lexer.next();
                continue;
            }
            if next != Token::Equal {
                return Err(self.unexpected("expected equal", next));
            }
            let next = self.lexer.next();
            if next != Token::LabelValue {
                return Err(self.unexpected("expected label value", next));
            }
            let value = self.lexer.start + 1..self.lexer.at - 1;
            if std::str::from_utf8(&self.lexer.body[value.clone()]).is_err() {
                let text = quote(self.lexer.token());
                return Err(self.error(format!("invalid UTF-8 label value: {text}")));
            }
            count += 1;
            if count > LABELS_MAX {
                return Err(self.error(format!("sample has more than {LABELS_MAX} labels")));
            }
            found((name, value));
            token = self.lexer.next();
            match token {
                Token::Comma => token = self.lexer.next(),
                Token::BraceClose => {}
                other => return Err(self.unexpected("expected comma or brace close", other)),
            }
        }
    }

    fn float(&mut self, after: &str) -> Result<f64, ParseError> {
        match self.lexer.next() {
            Token::Value => self.number(),
            other => Err(self.unexpected(&format!("expected value after {after}"), other)),
        }
    }

    /// The number of the last token.
    fn number(&self) -> Result<f64, ParseError> {
        number::parse_value(&self.lexer.token()[1..]).map_err(|error| {
            let text = quote(&self.lexer.body[self.line..self.lexer.at]);
            self.error(format!("{error} while parsing: {text}"))
        })
    }

    /// The last token as seconds, in milliseconds.
    fn seconds(&self, what: &str) -> Result<i64, ParseError> {
        let seconds = self.number()?;
        milliseconds(seconds).ok_or_else(|| {
            let mut text = String::new();
            let _ = series::format_float(seconds, &mut text);
            self.error(format!("invalid {what} {text}"))
        })
    }

    fn check_length(&self, what: &str, bytes: usize) -> Result<(), ParseError> {
        if bytes > NAME_BYTES_MAX {
            return Err(self.error(format!("{what} of {bytes} bytes is longer than {NAME_BYTES_MAX}")));
        }
        Ok(())
    }

    fn unexpected(&self, want: &str, got: Token) -> ParseError {
        let end = (self.lexer.at + 1).min(self.lexer.body.len());
        let start = self.lexer.start.min(end);
        let (found, all) = (quote(&self.lexer.body[start..end]), quote(&self.lexer.body[self.line.min(end)..end]));
        self.error(format!("{want}, got {found} ({:?}) while parsing: {all}", got.name()))
    }

    fn error(&self, text: String) -> ParseError {
        ParseError { offset_bytes: self.line, text }
    }
}

/// Milliseconds of a timestamp in seconds, cut as Go cuts them; None if it is no time.
pub(crate) fn milliseconds(seconds: f64) -> Option<i64> {
    // The conversion saturates; such a time is out of bounds, as Go's is.
    seconds.is_finite().then_some((seconds * 1000.0) as i64)
}

/// End of the exemplar that begins with the blank at `at`, before the end of its line; None if there is none that can be
/// read.
pub(crate) fn exemplar_end(body: &[u8], at: usize) -> Option<usize> {
    let mut parser = Parser::new(body, at, Kind::Unknown);
    parser.lexer.state = State::Timestamp;
    if parser.lexer.next() != Token::Comment {
        return None;
    }
    parser.exemplar(&mut Vec::new()).ok()?;
    (parser.lexer.at - at <= LINE_BYTES_MAX).then_some(parser.lexer.at - 1)
}

/// The exemplar that a text spells which a walk has read: from the blank before its `#` to the end of its line.
pub fn exemplar(text: &[u8]) -> Option<Exemplar> {
    let text = [text, b"\n"].concat();
    let mut parser = Parser::new(&text, 0, Kind::Unknown);
    parser.lexer.state = State::Timestamp;
    if parser.lexer.next() != Token::Comment {
        return None;
    }
    let mut pairs = Vec::new();
    let (value, timestamp) = parser.exemplar(&mut pairs).ok()?;
    let text_of = |range: Range<usize>| String::from_utf8_lossy(&text[range]).into_owned();
    let labels = pairs.into_iter().map(|(name, value)| (text_of(name), text_of(value)));
    Some(Exemplar { labels: Labels::from_pairs(labels), value, timestamp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::labels;

    /// The samples of a body, one `labels value @timestamp #exemplar` each, and the error that ended it.
    fn parse(body: &[u8]) -> (Vec<String>, Option<String>) {
        let mut parser = Parser::new(body, 0, Kind::Unknown);
        let mut samples = Vec::new();
        loop {
            let line = match parser.next_sample() {
                Ok(Some(line)) => line,
                Ok(None) => return (samples, None),
                Err(error) => return (samples, Some(error.text)),
            };
            let pairs = labels(&body[line.raw.clone()], line.kind);
            let set: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let stamp = line.timestamp.map(|stamp| format!(" @{stamp}")).unwrap_or_default();
            let exemplar = line.exemplar.map(|range| {
                let found = exemplar(&body[range]).expect("it was parsed");
                let stamp = found.timestamp.map(|stamp| format!(" @{stamp}")).unwrap_or_default();
                format!(" #{} {}{stamp}", found.labels, found.value)
            });
            samples.push(format!("{} {}{stamp}{}", set.join(","), line.value, exemplar.unwrap_or_default()));
        }
    }

    #[track_caller]
    fn check(body: &str, want: &[&str]) {
        let want = want.iter().map(|line| line.to_string()).collect();
        assert_eq!(parse(format!("{body}# EOF\n").as_bytes()), (want, None), "{body:?}");
    }

    /// The body, which gets no `# EOF`, has this many samples and then the error.
    #[track_caller]
    fn refuse(body: impl AsRef<[u8]>, samples: usize, want: &str) {
        let body = body.as_ref();
        let (found, error) = parse(body);
        let error = error.unwrap_or_else(|| panic!("{:?} was accepted", String::from_utf8_lossy(body)));
        assert!(error.contains(want), "{error} has no {want}");
        assert_eq!(found.len(), samples, "{error}");
    }

    #[test]
    fn samples() {
        check("", &[]);
        check("a 1\n", &["__name__=a 1"]);
        check("a{} 1\n", &["__name__=a 1"]);
        check("a{b=\"c\",d=\"e\",} 1\n", &["__name__=a,b=c,d=e 1"]);
        check("{\"a.b\",\"c.d\"=\"e\"} 1\n{y=\"z\",\"w\"} 3\n", &["__name__=a.b,c.d=e 1", "__name__=w,y=z 3"]);
        check("{\"a\\nb\"} 1\n", &["__name__=a\nb 1"]);
        check("{\"a\nb\"} 1\n", &["__name__=a\nb 1"]);
        check("a{b=\"x\0y\"} 1\n", &["__name__=a,b=x\0y 1"]);
        check("a{b=\"x\\\"y\\\\z\\nw\\q\"} 1\n", &["__name__=a,b=x\"y\\z\nw\\q 1"]);
        check(
            "a NaN\nb inf\nc -Infinity\nd +1\ne .5\nf 5.\n",
            &["__name__=a NaN", "__name__=b inf", "__name__=c -inf", "__name__=d 1", "__name__=e 0.5", "__name__=f 5"],
        );
        assert_eq!(parse(b"a 1\n# EOF"), (vec!["__name__=a 1".to_owned()], None));
    }

    #[test]
    fn timestamps_are_seconds_and_cut() {
        check("a 1 1796029575.9999\n", &["__name__=a 1 @1796029575999"]);
        check("a 1 1796029575.999\n", &["__name__=a 1 @1796029575999"]);
        check("a 1 -1.5\nb 1 2e3\nc 1 0\n", &["__name__=a 1 @-1500", "__name__=b 1 @2000000", "__name__=c 1 @0"]);
        refuse("a 1 NaN\n# EOF\n", 0, "invalid timestamp NaN");
        refuse("a 1 +Inf\n# EOF\n", 0, "invalid timestamp +Inf");
        refuse("a 1 x\n# EOF\n", 0, "strconv.ParseFloat: parsing \"x\": invalid syntax while parsing: \"a 1 x\"");
        refuse("a 1 5 6\n# EOF\n", 0, "expected next entry after timestamp, got \" 6\\n\" (\"TIMESTAMP\")");
    }

    #[test]
    fn exemplars() {
        check("a_total 1 # {k=\"v\"} 0.5\n", &["__name__=a_total 1 #{k=\"v\"} 0.5"]);
        check("a 1 5 # {k=\"v\",l=\"w\",} 0.5 6.0019\n", &["__name__=a 1 @5000 #{k=\"v\", l=\"w\"} 0.5 @6001"]);
        check("a 1 # {} 0.5\n", &["__name__=a 1 #{} 0.5"]);
        check("a 1 # {\"k.x\"=\"v\"} 1\n", &["__name__=a 1 #{\"k.x\"=\"v\"} 1"]);
        // Escapes of exemplars stay as they are written.
        let written = r#"a 1 # {k="a\"b\nc\\d"} 1"#;
        let (samples, error) = parse(format!("{written}\n# EOF\n").as_bytes());
        assert_eq!((samples.len(), error), (1, None));
        let found = exemplar(&written.as_bytes()[3..]).unwrap();
        assert_eq!(found.labels.get("k"), Some(r#"a\"b\nc\\d"#));
        refuse("a 1 # {k=\"v\"} 0.5 NaN\n# EOF\n", 0, "invalid exemplar timestamp NaN");
        refuse("a 1 # {k=\"v\"}\n# EOF\n", 0, "expected value after exemplar labels, got \"\\n\" (\"INVALID\")");
        refuse("a 1 # {\"k\"} 1\n# EOF\n", 0, "expected label name, got \"} \" (\"BCLOSE\")");
        refuse("a 1 # {k=\"v\"} 1 2 3\n# EOF\n", 0, "expected next entry after exemplar timestamp");
        refuse("a 1 # {k=\"v\"} 1", 0, EOF_MISSING);
        refuse("a 1 # x\n# EOF\n", 1, "expected a valid start token, got \"x\" (\"INVALID\")");
        refuse("a 1 #x\n# EOF\n", 0, "strconv.ParseFloat: parsing \"#x\"");
    }

    #[test]
    fn the_end_is_where_it_says() {
        refuse("", 0, EOF_MISSING);
        refuse("a 1\n", 1, EOF_MISSING);
        refuse("a 1", 0, EOF_MISSING);
        refuse("a 1\n# EOF\n\n", 1, "unexpected data after # EOF");
        refuse("a 1\n# EOF ", 1, "unexpected data after # EOF");
        refuse("a 1\n# EOF\na 1\n", 1, "unexpected data after # EOF");
        refuse("a 1\n# EO", 1, "expected a valid start token");
    }

    #[test]
    fn metadata_lines() {
        check(
            "# TYPE a counter\n# HELP a Text.\n# UNIT a_s s\n# UNIT a \n# HELP a \na_total 1\n",
            &["__name__=a_total 1"],
        );
        check("# HELP a x\0y\na 1\n", &["__name__=a 1"]);
        for kind in ["counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown"] {
            check(&format!("# TYPE a {kind}\n"), &[]);
        }
        refuse("# TYPE a untyped\n# EOF\n", 0, "invalid metric type \"untyped\"");
        refuse("# TYPE a gauge \n# EOF\n", 0, "invalid metric type \"gauge \"");
        refuse("# UNIT seconds seconds\n# EOF\n", 0, "unit \"seconds\" not a suffix of metric \"seconds\"");
        refuse("# UNIT m.x x\n# EOF\n", 0, "expected text in UNIT");
        refuse("# UNIT \"m.x\" x\n# EOF\n", 0, "unit \"x\" not a suffix of metric \"m.x\"");
        refuse("# HELP a\n# EOF\n", 0, "expected text in HELP");
        refuse("# HELP 1 x\n# EOF\n", 0, "expected metric name after HELP, got \"1\" (\"INVALID\")");
        refuse(b"# HELP a \xff\n# EOF\n", 0, "is not a valid utf8 string");
        refuse("# a comment\n# EOF\n", 0, "expected a valid start token, got \"# a\" (\"INVALID\")");
        refuse("#TYPE a gauge\n# EOF\n", 0, "expected a valid start token, got \"#T\" (\"INVALID\")");
    }

    #[test]
    fn bounds_of_histograms_take_their_float_form() {
        check(
            "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nother{le=\"5\"} 1\n",
            &["__name__=h_bucket,le=1.0 1", "__name__=other,le=5.0 1"],
        );
        check(
            "# TYPE h histogram\nh{le=\"0x10p0\"} 1\nh{le=\"1_0\"} 1\nh{le=\"-0\"} 1\nh{le=\"1e400\"} 1\n",
            &["__name__=h,le=16.0 1", "__name__=h,le=10.0 1", "__name__=h,le=0.0 1", "__name__=h,le=1e400 1"],
        );
        check("# TYPE g gaugehistogram\ng_bucket{le=\"1\"} 1\n", &["__name__=g_bucket,le=1 1"]);
    }

    #[test]
    fn refusals_in_the_words_of_prometheus() {
        refuse("\n# EOF\n", 0, r##"expected a valid start token, got "\n" ("INVALID") while parsing: "\n""##);
        refuse(" a 1\n# EOF\n", 0, r#"expected a valid start token, got " " ("INVALID")"#);
        refuse("a 1\r\n# EOF\n", 0, r#"strconv.ParseFloat: parsing "1\r": invalid syntax while parsing: "a 1\r""#);
        refuse("a  1\n# EOF\n", 0, r#"expected value after metric, got "  " ("INVALID") while parsing: "a  ""#);
        refuse("a 1 \n# EOF\n", 1, r##"expected a valid start token, got "\n#" ("LINEBREAK") while parsing: "\n#""##);
        refuse("a{b=\"c\"d=\"e\"} 1\n# EOF\n", 0, r#"expected comma or brace close, got "d=" ("LNAME")"#);
        refuse("a{b=\"two\nlines\"} 1\n# EOF\n", 0, "expected label value");
        refuse(b"a{b=\"\xff\"} 1\n# EOF\n", 0, "invalid UTF-8 label value: \"\\\"");
        refuse("a 0x1p-2\n# EOF\n", 0, "unsupported character in float");
        refuse("{b=\"c\"} 1\n# EOF\n", 0, "metric name not set while parsing: \"{b=\\\"c\\\"}\"");
        refuse("a{\"n\"} 1\n# EOF\n", 0, "metric name already set");
        refuse("a\t1\n# EOF\n", 0, "expected value after metric");
    }

    #[test]
    fn sizes_are_bounded() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        refuse(format!("{long} 1\n# EOF\n"), 0, "metric name of");
        refuse(format!("a 1 # {{{long}=\"b\"}} 1\n# EOF\n"), 0, "label name of");
        // A value may be as long as a line allows.
        let value = "x".repeat(LINE_BYTES_MAX - 100);
        let line = format!("a{{b=\"{value}\"}} 1\n# EOF\n");
        assert!(Parser::new(line.as_bytes(), 0, Kind::Unknown).next_sample().unwrap().is_some());
        refuse(format!("a{{b=\"{value}{value}\"}} 1\n# EOF\n"), 0, "line is longer");
        let many: Vec<String> = (0..=LABELS_MAX).map(|i| format!("l{i}=\"\"")).collect();
        refuse(format!("a 1 # {{{}}} 1\n# EOF\n", many.join(",")), 0, "more than 512 labels");
        refuse(format!("# HELP a {}\n# EOF\n", "x".repeat(LINE_BYTES_MAX)), 0, "line is longer");
    }
}
