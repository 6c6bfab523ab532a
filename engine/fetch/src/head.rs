//! The head of one response: what a scrape wants of it, read as Go's client reads it.
//!
//! It accepts any HTTP version of one digit, a dot and one digit; any number of headers; folded lines; a name with a blank in it is no
//! name that anybody looks for. The bytes are whole: whoever calls has found the empty line, and bounds the length.

use super::http_error::{HttpError, quoted};
use std::ops::Range;

/// The head of the final response, as places in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    reason: Range<usize>,
    content_type: Option<Range<usize>>,
    content_encoding: Option<Range<usize>>,
    location: Option<Range<usize>>,
}

impl Head {
    /// `500 Internal Server Error`, as the server put it.
    pub fn status_text(&self, wire: &[u8]) -> String {
        let reason = String::from_utf8_lossy(&wire[self.reason.clone()]);
        format!("{:03} {reason}", self.status).trim_end().to_owned()
    }

    pub fn content_type_place(&self) -> Option<Range<usize>> {
        self.content_type.clone()
    }

    pub fn location<'a>(&self, wire: &'a [u8]) -> Option<&'a [u8]> {
        self.location.clone().map(|place| &wire[place])
    }

    /// Whether the body is packed. Only this exact spelling counts, as for Prometheus; anything else is taken as it is.
    pub fn is_gzip(&self, wire: &[u8]) -> bool {
        self.content_encoding.clone().is_some_and(|place| &wire[place] == b"gzip")
    }
}

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    ToEof,
}

/// A head that was read.
pub(super) struct Parsed {
    pub head: Head,
    pub framing: Framing,
    /// Whether the server keeps the connection once the body has ended.
    pub keeps_connection: bool,
}

/// What headers say that matters, in the order in which they come.
#[derive(Default)]
struct Headers {
    content_type: Option<Range<usize>>,
    content_encoding: Option<Range<usize>>,
    location: Option<Range<usize>>,
    transfer_encoding: Option<Range<usize>>,
    transfer_encodings: usize,
    content_length: Option<Range<usize>>,
    /// The first Content-Length that is another than the first of all.
    content_length_other: Option<Range<usize>>,
    close: bool,
}

/// Status line and headers, up to and with the empty line, at this range of the buffer.
pub(super) fn parse(wire: &mut [u8], range: Range<usize>) -> Result<Parsed, HttpError> {
    let mut at = range.start;
    let first = next_line(wire, &mut at, range.end);
    let (status, is_1_1, reason) = status_line(wire, first)?;
    unfold(wire, at..range.end)?;
    let mut headers = Headers::default();
    while at < range.end {
        let line = next_line(wire, &mut at, range.end);
        if line.is_empty() {
            break;
        }
        headers.read(wire, line)?;
    }
    let framing = framing(wire, status, is_1_1, &headers)?;
    // HTTP/1.0 can keep connections too; its servers that are left do not.
    let keeps_connection = is_1_1 && !headers.close && framing != Framing::ToEof && status != 101;
    let Headers { content_type, content_encoding, location, .. } = headers;
    let head = Head { status, reason, content_type, content_encoding, location };
    Ok(Parsed { head, framing, keeps_connection })
}

/// The line at `at`, without its end; `at` moves behind it.
fn next_line(wire: &[u8], at: &mut usize, end: usize) -> Range<usize> {
    let start = *at;
    let line_end = memchr::memchr(b'\n', &wire[start..end]).map_or(end, |length| start + length);
    *at = (line_end + 1).min(end);
    let line = &wire[start..line_end];
    start..line_end - usize::from(line.ends_with(b"\r"))
}

/// Makes one line of each folded one: the line end before a blank becomes blanks.
fn unfold(wire: &mut [u8], headers: Range<usize>) -> Result<(), HttpError> {
    if matches!(wire.get(headers.start), Some(b' ' | b'\t')) {
        let line = next_line(wire, &mut headers.start.clone(), headers.end);
        return Err(HttpError::Header(format!("malformed MIME header initial line: {}", quoted(&wire[line]))));
    }
    for at in headers.start + 1..headers.end {
        if matches!(wire[at], b' ' | b'\t') && wire[at - 1] == b'\n' {
            wire[at - 1] = b' ';
            if at >= headers.start + 2 && wire[at - 2] == b'\r' {
                wire[at - 2] = b' ';
            }
        }
    }
    Ok(())
}

/// Status, whether the version is 1.1 or later, and what the server says behind the status.
fn status_line(wire: &[u8], line: Range<usize>) -> Result<(u16, bool, Range<usize>), HttpError> {
    let text = &wire[line.clone()];
    let Some(blank) = memchr::memchr(b' ', text) else { return Err(HttpError::NotHttp(quoted(text))) };
    let version = &text[..blank];
    let code_start = blank + text[blank..].iter().take_while(|byte| **byte == b' ').count();
    let code_end = memchr::memchr(b' ', &text[code_start..]).map_or(text.len(), |length| code_start + length);
    let code = &text[code_start..code_end];
    if code.len() != 3 || !code.iter().all(u8::is_ascii_digit) {
        return Err(HttpError::StatusCode(quoted(code)));
    }
    let status = code.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let (major, minor) = match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            (major - b'0', minor - b'0')
        }
        _ => return Err(HttpError::Version(quoted(version))),
    };
    let reason = (code_end + 1).min(text.len());
    Ok((status, (major, minor) >= (1, 1), line.start + reason..line.end))
}

impl Headers {
    fn read(&mut self, wire: &[u8], line: Range<usize>) -> Result<(), HttpError> {
        let line = trim(wire, line);
        let text = &wire[line.clone()];
        let malformed = || Err(HttpError::Header(format!("malformed MIME header line: {}", quoted(text))));
        let Some(colon) = memchr::memchr(b':', text) else { return malformed() };
        let name = &text[..colon];
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if !name.iter().all(|byte| is_token(byte) || *byte == b' ') {
            return malformed();
        }
        let value = trim(wire, line.start + colon + 1..line.end);
        if !wire[value.clone()].iter().all(|byte| *byte >= b' ' && *byte != 0x7f || *byte == b'\t') {
            return malformed();
        }
        let first = |place: &mut Option<Range<usize>>| {
            place.get_or_insert_with(|| value.clone());
        };
        // A name with a blank is none of these.
        if name.eq_ignore_ascii_case(b"content-type") {
            first(&mut self.content_type);
        } else if name.eq_ignore_ascii_case(b"content-encoding") {
            first(&mut self.content_encoding);
        } else if name.eq_ignore_ascii_case(b"location") {
            first(&mut self.location);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            first(&mut self.transfer_encoding);
            self.transfer_encodings += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            first(&mut self.content_length);
            let is_same = self.content_length.clone().is_some_and(|first| wire[first] == wire[value.clone()]);
            if !is_same {
                first(&mut self.content_length_other);
            }
        } else if name.eq_ignore_ascii_case(b"connection") {
            let mut parts = wire[value].split(|byte| *byte == b',');
            self.close |= parts.any(|part| part.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
        Ok(())
    }
}

/// Without blanks and tabs at its ends.
fn trim(wire: &[u8], mut range: Range<usize>) -> Range<usize> {
    let is_blank = |byte: u8| byte == b' ' || byte == b'\t';
    while !range.is_empty() && is_blank(wire[range.start]) {
        range.start += 1;
    }
    while !range.is_empty() && is_blank(wire[range.end - 1]) {
        range.end -= 1;
    }
    range
}

fn framing(wire: &[u8], status: u16, is_1_1: bool, headers: &Headers) -> Result<Framing, HttpError> {
    if headers.transfer_encodings > 1 {
        return Err(HttpError::TransferEncodings);
    }
    let text = |range: &Range<usize>| &wire[range.clone()];
    if let (Some(first), Some(other)) = (&headers.content_length, &headers.content_length_other) {
        return Err(HttpError::ContentLengths(quoted(text(first)), quoted(text(other))));
    }
    let length = headers.content_length.as_ref().map(|length| content_length(text(length))).transpose()?;
    if matches!(status, 101 | 204 | 304) {
        return Ok(Framing::Length(0));
    }
    match &headers.transfer_encoding {
        // HTTP/1.0 has no transfer encodings; Go ignores the header there.
        Some(encoding) if is_1_1 => {
            if !text(encoding).eq_ignore_ascii_case(b"chunked") {
                return Err(HttpError::TransferEncoding(quoted(text(encoding))));
            }
            // A length beside it is ignored: chunks say where they end.
            Ok(Framing::Chunked)
        }
        _ => Ok(length.map_or(Framing::ToEof, Framing::Length)),
    }
}

fn content_length(value: &[u8]) -> Result<usize, HttpError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse::<i64>().ok());
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| HttpError::ContentLength(quoted(value)))
}
