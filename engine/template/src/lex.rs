//! Splits text into tokens: literal text, and the contents of `{{` and `}}`.

use std::ops::Range;

/// Why parsing failed, and at which byte of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub at: usize,
    pub what: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// Text outside of actions.
    Text(String),
    /// `{{` and `}}`.
    Open,
    Close,
    /// A function or a keyword.
    Word(String),
    /// `.name`
    Field(String),
    /// `$name`; `$` alone is the empty name.
    Variable(String),
    Dot,
    String(String),
    Int(i64),
    Float(f64),
    Declare,
    Assign,
    Pipe,
    Left,
    Right,
    Comma,
}

/// A token, its position, and whether white space precedes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lexed {
    pub token: Token,
    pub span: Range<usize>,
    pub spaced: bool,
}

pub fn lex(text: &str) -> Result<Vec<Lexed>, ParseError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    loop {
        let open = text[at..].find("{{").map(|found| at + found);
        let mut literal = &text[at..open.unwrap_or(text.len())];
        if trim_next {
            literal = literal.trim_start_matches(is_space);
        }
        let Some(open) = open else {
            push_text(&mut tokens, literal, at);
            return Ok(tokens);
        };
        let mut inside = open + 2;
        let rest = &text[inside..];
        if rest.starts_with('-') && rest[1..].starts_with(is_space) {
            literal = literal.trim_end_matches(is_space);
            inside += 1;
        }
        push_text(&mut tokens, literal, at);
        (at, trim_next) = match comment(text, inside)? {
            Some(behind) => behind,
            None => {
                tokens.push(Lexed { token: Token::Open, span: open..inside, spaced: false });
                action(text, inside, &mut tokens)?
            }
        };
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn push_text(tokens: &mut Vec<Lexed>, text: &str, at: usize) {
    if !text.is_empty() {
        tokens.push(Lexed { token: Token::Text(text.to_owned()), span: at..at + text.len(), spaced: false });
    }
}

/// Returns, if an action ends at `at`, where the text continues and whether white space is trimmed from it.
fn closes(text: &str, at: usize) -> Option<(usize, bool)> {
    let rest = &text[at..];
    if rest.starts_with("}}") {
        return Some((at + 2, false));
    }
    let trimmed = rest.trim_start_matches(is_space);
    (trimmed.len() < rest.len() && trimmed.starts_with("-}}")).then(|| (text.len() - trimmed.len() + 3, true))
}

/// Reads a comment, which is the only content of its action.
fn comment(text: &str, inside: usize) -> Result<Option<(usize, bool)>, ParseError> {
    let start = text.len() - text[inside..].trim_start_matches(is_space).len();
    if !text[start..].starts_with("/*") {
        return Ok(None);
    }
    let error = |what: &str| ParseError { at: start, what: what.into() };
    let end = text[start..].find("*/").ok_or_else(|| error("unclosed comment"))? + start + 2;
    closes(text, end).map(Some).ok_or_else(|| error("comment ends before closing delimiter"))
}

/// Reads the tokens of one action. Returns where the text continues.
fn action(text: &str, mut at: usize, tokens: &mut Vec<Lexed>) -> Result<(usize, bool), ParseError> {
    let start = at;
    let mut spaced = true;
    loop {
        if let Some((behind, trim)) = closes(text, at) {
            tokens.push(Lexed { token: Token::Close, span: at..behind, spaced });
            return Ok((behind, trim));
        }
        let Some(first) = text[at..].chars().next() else {
            return Err(ParseError { at: start, what: "unclosed action".into() });
        };
        if is_space(first) {
            at += 1;
            spaced = true;
            continue;
        }
        let (token, end) = token(text, at, first)?;
        tokens.push(Lexed { token, span: at..end, spaced });
        at = end;
        spaced = false;
    }
}

fn name_end(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    at + rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
}

fn token(text: &str, at: usize, first: char) -> Result<(Token, usize), ParseError> {
    let one = at + first.len_utf8();
    let next = text[one..].chars().next();
    let simple = |token| Ok((token, one));
    match first {
        '|' => simple(Token::Pipe),
        '(' => simple(Token::Left),
        ')' => simple(Token::Right),
        ',' => simple(Token::Comma),
        '=' => simple(Token::Assign),
        ':' if next == Some('=') => Ok((Token::Declare, one + 1)),
        '"' => quoted(text, at),
        '\'' => quoted(text, at).and_then(|(token, end)| match token {
            Token::String(text) if text.chars().count() == 1 => {
                Ok((Token::Int(text.chars().next().map_or(0, |c| i64::from(u32::from(c)))), end))
            }
            _ => Err(ParseError { at, what: "malformed character constant".into() }),
        }),
        '`' => match text[one..].find('`') {
            Some(length) => Ok((Token::String(text[one..one + length].to_owned()), one + length + 1)),
            None => Err(ParseError { at, what: "unterminated raw quoted string".into() }),
        },
        '$' => {
            let end = name_end(text, one);
            Ok((Token::Variable(text[one..end].to_owned()), end))
        }
        '.' if next.is_some_and(|c| c.is_alphabetic() || c == '_') => {
            let end = name_end(text, one);
            Ok((Token::Field(text[one..end].to_owned()), end))
        }
        '.' if !next.is_some_and(|c| c.is_ascii_digit()) => simple(Token::Dot),
        '0'..='9' | '+' | '-' | '.' => number(text, at),
        c if c.is_alphabetic() || c == '_' => {
            let end = name_end(text, at);
            Ok((Token::Word(text[at..end].to_owned()), end))
        }
        c => Err(ParseError { at, what: format!("unexpected {c:?} in command") }),
    }
}

fn number(text: &str, at: usize) -> Result<(Token, usize), ParseError> {
    let rest = &text[at..];
    let mut length = 0;
    let mut last = ' ';
    let hex = rest.trim_start_matches(['+', '-']).get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    for c in rest.chars() {
        let sign = matches!(c, '+' | '-') && (length == 0 || (!hex && matches!(last, 'e' | 'E')));
        if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || sign) {
            break;
        }
        length += 1;
        last = c;
    }
    let written = rest[..length].replace('_', "");
    let bad = || ParseError { at, what: format!("bad number syntax: {:?}", &rest[..length]) };
    let (sign, digits) = match written.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, written.strip_prefix('+').unwrap_or(&written)),
    };
    let radix = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        Some("0b") => Some(2),
        _ => None,
    };
    let token = match radix {
        Some(radix) => i64::from_str_radix(&digits[2..], radix).ok().map(|value| Token::Int(sign * value)),
        None => written.parse().ok().map(Token::Int).or_else(|| {
            let plain = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
            written.parse().ok().filter(|value: &f64| plain && value.is_finite()).map(Token::Float)
        }),
    };
    token.map(|token| (token, at + length)).ok_or_else(bad)
}

/// Reads a quoted string or character with Go's escapes.
fn quoted(text: &str, at: usize) -> Result<(Token, usize), ParseError> {
    let quote = text.as_bytes()[at];
    let error = |what: &str| ParseError { at, what: what.into() };
    let mut out: Vec<u8> = Vec::new();
    let bytes = text.as_bytes();
    let mut i = at + 1;
    loop {
        match bytes.get(i) {
            None | Some(b'\n') => return Err(error("unterminated quoted string")),
            Some(byte) if *byte == quote => {
                let text = String::from_utf8(out).map_err(|_| error("invalid UTF-8 in a quoted string"))?;
                return Ok((Token::String(text), i + 1));
            }
            Some(b'\\') => {
                let escape = *bytes.get(i + 1).ok_or_else(|| error("unterminated quoted string"))?;
                i += 2;
                // Start of the digits of a character code, their number and their base.
                let digits = match escape {
                    b'x' => Some((i, 2, 16)),
                    b'u' => Some((i, 4, 16)),
                    b'U' => Some((i, 8, 16)),
                    b'0'..=b'7' => Some((i - 1, 3, 8)),
                    _ => None,
                };
                let invalid = || error("invalid escape in a quoted string");
                let mut code = 0;
                if let Some((from, count, radix)) = digits {
                    let digits = text.get(from..from + count).filter(|digits| !digits.starts_with('+'));
                    code = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok()).ok_or_else(invalid)?;
                    i = from + count;
                }
                match escape {
                    b'n' => out.push(b'\n'),
                    b't' => out.push(b'\t'),
                    b'r' => out.push(b'\r'),
                    b'a' => out.push(7),
                    b'b' => out.push(8),
                    b'f' => out.push(12),
                    b'v' => out.push(11),
                    b'\\' | b'\'' | b'"' => out.push(escape),
                    b'x' | b'0'..=b'7' => out.push(u8::try_from(code).map_err(|_| invalid())?),
                    b'u' | b'U' => {
                        let c = char::from_u32(code).ok_or_else(invalid)?;
                        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    _ => return Err(invalid()),
                }
            }
            Some(byte) => {
                out.push(*byte);
                i += 1;
            }
        }
    }
}
