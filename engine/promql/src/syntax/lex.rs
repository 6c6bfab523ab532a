//! Words of the language.

use crate::syntax::ast::AggregateOp;
use crate::syntax::error::{ParseError, Span};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name, with colons perhaps; keywords are names, too, and the parser knows where they are none.
    Word(String),
    Number(f64),
    /// Milliseconds.
    Duration(i64),
    String(String),
    /// No UTF-8; quoted.
    InvalidString(String),
    /// An operator, a bracket or a comma.
    Sign(&'static str),
    End,
}

impl Token {
    /// As errors name it.
    pub fn describe(&self, text: &str) -> String {
        match self {
            Token::Word(word) if word.contains(':') => format!("metric identifier {}", go_quoted(word)),
            Token::Word(word) => match keyword(word) {
                Some(kind) => {
                    format!("{kind}{}", if kind.is_empty() { format!("<{word}>") } else { format!(" <{word}>") })
                }
                None => format!("identifier {}", go_quoted(word)),
            },
            Token::Number(_) => format!("number {}", go_quoted(text)),
            Token::Duration(_) => format!("duration {}", go_quoted(text)),
            Token::String(_) | Token::InvalidString(_) => format!("string {text}"),
            Token::Sign("{" | "}" | "(" | ")" | "[" | "]" | "," | "=" | ":") => go_quoted(text),
            Token::Sign(sign) => format!("<op:{sign}>"),
            Token::End => "end of input".into(),
        }
    }
}

/// How errors name words that are keywords, or None.
pub(crate) fn keyword(word: &str) -> Option<&'static str> {
    match word.to_ascii_lowercase().as_str() {
        "and" | "or" | "unless" | "atan2" => Some(""),
        "by" | "without" | "on" | "ignoring" | "group_left" | "group_right" | "bool" | "offset" => Some("keyword"),
        lower if AggregateOp::ALL.iter().any(|op| op.name() == lower) => Some("aggregation"),
        _ => None,
    }
}

pub(crate) fn go_quoted(text: &str) -> String {
    series::Quoted(text).to_string()
}

const SIGNS: [&str; 25] = [
    "=~", "!~", "==", "!=", ">=", "<=", "</", ">/", "=", ">", "<", "+", "-", "*", "/", "%", "^", "(", ")", "{", "}",
    "[", "]", ",", "@",
];

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b':'
}

/// Reads the whole text.
pub(crate) fn lex(text: &str) -> Result<Vec<(Token, Span)>, ParseError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    // Within brackets a colon parts range and step, within braces there are labels only.
    let mut brackets: Vec<&str> = Vec::new();
    while at < bytes.len() {
        let start = at;
        let byte = bytes[at];
        let token = match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'#' => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'"' | b'\'' | b'`' => {
                let (token, end) = string(text, at)?;
                at = end;
                token
            }
            b':' if brackets.last() == Some(&"[") => {
                at += 1;
                Token::Sign(":")
            }
            b'0'..=b'9' => number(text, &mut at)?,
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => number(text, &mut at)?,
            _ if is_word_start(byte) => {
                let in_range = brackets.last() == Some(&"[");
                while at < bytes.len()
                    && (is_word_start(bytes[at]) || bytes[at].is_ascii_digit())
                    && !(in_range && bytes[at] == b':')
                {
                    at += 1;
                }
                let word = &text[start..at];
                match word {
                    _ if brackets.last() == Some(&"{") => Token::Word(word.to_owned()),
                    _ if word.eq_ignore_ascii_case("inf") => Token::Number(f64::INFINITY),
                    _ if word.eq_ignore_ascii_case("nan") => Token::Number(f64::NAN),
                    _ => Token::Word(word.to_owned()),
                }
            }
            _ => match SIGNS.iter().find(|sign| bytes[at..].starts_with(sign.as_bytes())) {
                Some(sign) => {
                    at += sign.len();
                    match *sign {
                        "(" | "[" | "{" => brackets.push(sign),
                        ")" | "]" | "}" => {
                            let open = match *sign {
                                ")" => "(",
                                "]" => "[",
                                _ => "{",
                            };
                            if brackets.pop() != Some(open) {
                                let name = match *sign {
                                    ")" => "right parenthesis",
                                    "]" => "right bracket",
                                    _ => "right brace",
                                };
                                return Err(ParseError::at(
                                    Span { start, end: at },
                                    format!("unexpected {name} '{sign}'"),
                                ));
                            }
                        }
                        _ => {}
                    }
                    Token::Sign(sign)
                }
                None => {
                    let letter = text[at..].chars().next().unwrap_or('\u{fffd}');
                    let span = Span { start, end: at + letter.len_utf8() };
                    let place = match brackets.last() {
                        Some(&"{") => " inside braces",
                        _ if letter == '!' => " after '!'",
                        _ => "",
                    };
                    if letter == '!' {
                        let next =
                            text[at + 1..].chars().next().map_or("end of input".into(), |next| format!("{next:?}"));
                        return Err(ParseError::at(
                            span,
                            format!(
                                "unexpected character after '!'{}: {next}",
                                if place == " inside braces" { place } else { "" }
                            ),
                        ));
                    }
                    return Err(ParseError::at(span, format!("unexpected character{place}: {letter:?}")));
                }
            },
        };
        tokens.push((token, Span { start, end: at }));
    }
    if let Some(open) = brackets.last() {
        let name = match *open {
            "(" => "left parenthesis",
            "[" => "left bracket",
            _ => "left brace",
        };
        return Err(ParseError::at(Span { start: text.len(), end: text.len() }, format!("unclosed {name}")));
    }
    tokens.push((Token::End, Span { start: text.len(), end: text.len() }));
    Ok(tokens)
}

/// A number or a duration: both begin with a digit.
fn number(text: &str, at: &mut usize) -> Result<Token, ParseError> {
    let start = *at;
    let bytes = text.as_bytes();
    while *at < bytes.len() {
        let byte = bytes[*at];
        let exponent_sign = matches!(byte, b'+' | b'-')
            && matches!(bytes[*at - 1], b'e' | b'E' | b'p' | b'P')
            && (bytes[start..*at].contains(&b'x')) == matches!(bytes[*at - 1], b'p' | b'P');
        if !(byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || exponent_sign) {
            break;
        }
        *at += 1;
    }
    let word = &text[start..*at];
    let span = Span { start, end: *at };
    if let Some(value) = go_number(word) {
        if value.is_infinite() {
            let text =
                format!("error parsing number: strconv.ParseFloat: parsing {}: value out of range", go_quoted(word));
            return Err(ParseError::at(span, text));
        }
        return Ok(Token::Number(value));
    }
    match duration_ms(word) {
        Some(Ok(ms)) => Ok(Token::Duration(ms)),
        Some(Err(error)) => Err(ParseError::at(span, error)),
        None => Err(ParseError::at(span, format!("bad number or duration syntax: {}", go_quoted(word)))),
    }
}

/// Integers in all of Go's bases, floats, underscores between digits.
fn go_number(word: &str) -> Option<f64> {
    let well_placed = |digits: &str| !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    let lower = word.to_ascii_lowercase();
    for (prefix, radix) in [("0x", 16), ("0b", 2), ("0o", 8)] {
        if let Some(digits) = lower.strip_prefix(prefix) {
            let digits = digits.strip_prefix('_').unwrap_or(digits);
            if let Ok(value) = u64::from_str_radix(&digits.replace('_', ""), radix) {
                return well_placed(digits).then_some(value as f64);
            }
            return if radix == 16 { hex_float(digits) } else { None };
        }
    }
    if !well_placed(word) {
        return None;
    }
    let plain = word.replace('_', "");
    // A leading zero makes an integer octal, as in Go.
    if plain.len() > 1
        && plain.starts_with('0')
        && plain.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(value) = u64::from_str_radix(&plain, 8)
    {
        return Some(value as f64);
    }
    if !plain.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    plain.parse().ok()
}

fn hex_float(digits: &str) -> Option<f64> {
    let (mantissa, exponent) = digits.split_once('p')?;
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let value = u64::from_str_radix(&all, 16).ok()? as f64;
    Some(value * 2f64.powi(exponent.checked_sub(4 * fraction.len() as i32)?))
}

/// `1h30m`, units from large to small, each once. None if it does not look like one.
pub(crate) fn duration_ms(word: &str) -> Option<Result<i64, String>> {
    match series::parse_duration(word) {
        Ok(ms) => Some(Ok(ms as i64)),
        Err(error @ series::DurationError::OutOfRange) => Some(Err(error.to_string())),
        Err(_) => None,
    }
}

/// Reads a string in double, single or back quotes, with Go's escapes. Returns it and its end.
fn string(text: &str, start: usize) -> Result<(Token, usize), ParseError> {
    let bytes = text.as_bytes();
    let quote = bytes[start];
    let unterminated = |end: usize| {
        let kind = if quote == b'`' { "unterminated raw string" } else { "unterminated quoted string" };
        ParseError::at(Span { start, end }, kind.into())
    };
    if quote == b'`' {
        let end = text[start + 1..].find('`').ok_or_else(|| unterminated(text.len()))? + start + 1;
        return Ok((Token::String(text[start + 1..end].to_owned()), end + 1));
    }
    let mut out: Vec<u8> = Vec::new();
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            None | Some(b'\n') => return Err(unterminated(at)),
            Some(byte) if *byte == quote => break,
            Some(b'\\') => escape(bytes, &mut at, quote, &mut out)?,
            Some(byte) => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    let token =
        String::from_utf8(out).map_or_else(|error| Token::InvalidString(quoted_bytes(error.as_bytes())), Token::String);
    Ok((token, at + 1))
}

/// Bytes that are no text, as Go quotes them.
fn quoted_bytes(bytes: &[u8]) -> String {
    let mut out = String::from('"');
    for chunk in bytes.utf8_chunks() {
        out.extend(chunk.valid().escape_debug());
        chunk.invalid().iter().for_each(|byte| out += &format!("\\x{byte:02x}"));
    }
    out + "\""
}

fn escape(bytes: &[u8], at: &mut usize, quote: u8, out: &mut Vec<u8>) -> Result<(), ParseError> {
    let start = *at;
    let bad = |text: &str| ParseError::at(Span { start, end: start + 2 }, text.into());
    let letter = *bytes.get(start + 1).ok_or_else(|| bad("escape sequence not terminated"))?;
    *at += 2;
    let simple = match letter {
        b'a' => Some(7),
        b'b' => Some(8),
        b'f' => Some(12),
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'v' => Some(11),
        b'\\' => Some(b'\\'),
        _ if letter == quote => Some(quote),
        _ => None,
    };
    if let Some(byte) = simple {
        out.push(byte);
        return Ok(());
    }
    let (digits, radix) = match letter {
        b'x' => (2, 16),
        b'u' => (4, 16),
        b'U' => (8, 16),
        b'0'..=b'7' => {
            *at -= 1;
            (3, 8)
        }
        _ => return Err(bad("unknown escape sequence")),
    };
    let code = bytes.get(*at..*at + digits).and_then(|digits| std::str::from_utf8(digits).ok());
    let code = code.and_then(|digits| u32::from_str_radix(digits, radix).ok());
    let code = code.ok_or_else(|| bad("illegal character in escape sequence"))?;
    *at += digits;
    match letter {
        b'u' | b'U' => {
            let letter = char::from_u32(code).ok_or_else(|| bad("escape sequence is an invalid Unicode code point"))?;
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        _ => out.push(u8::try_from(code).map_err(|_| bad("octal value > 255"))?),
    }
    Ok(())
}
