//! Reads one HTTP/1.1 response out of a buffer that somebody else fills: no sockets, no clock, no copies of the body.
//!
//! The caller appends what it receives to one buffer and calls [`ResponseReader::feed`], which says how many bytes of
//! the buffer to keep. The head stays at the front; a body of known length or up to the end of the stream lies right
//! behind it, a chunked one is closed up in place. Where servers differ from the RFC we do what Go's client does.
//!
//! Invariants:
//!   * the outcome does not depend on how the bytes were split
//!   * every byte is looked at a bounded number of times, whatever the split
//!   * head <= [`HEAD_BYTES_MAX`], interim responses <= [`INTERIM_MAX`], a chunk's line <= [`CHUNK_LINE_BYTES_MAX`], trailer
//!     <= [`TRAILER_BYTES_MAX`], framing around chunks is in proportion to their data
//!   * the body kept is never longer than the limit by more than one read

use super::head::{self, Framing, Head, Parsed};
use super::http_error::{HEAD_BYTES_MAX, HttpError, TRAILER_BYTES_MAX, quoted};
use std::ops::Range;

/// 1xx responses before the real one.
pub const INTERIM_MAX: usize = 8;
pub const CHUNK_LINE_BYTES_MAX: usize = 4 << 10;
/// Chunk framing a response may spend beyond 16 bytes plus twice the data per chunk, as in Go.
const CHUNK_EXCESS_BYTES_MAX: usize = 16 << 10;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Keep the first `keep` bytes, append more, feed again.
    More { keep: usize },
    /// The final head is known: look at it, then feed again before reading on (the body may be here already).
    Head,
    /// Complete. Bytes behind `keep` do not belong to the response.
    Done { keep: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length { end: usize },
    ToEof,
    ChunkLine,
    ChunkData { left: usize },
    ChunkEnd,
    Trailer,
    Done,
}

/// Reads one response.
#[derive(Debug)]
pub struct ResponseReader {
    body_bytes_limit: usize,
    state: State,
    head: Option<Head>,
    /// Next byte to be understood; the bytes before it are head and body.
    at: usize,
    /// No line end between `at` and this place, so it is not searched twice.
    searched: usize,
    /// Where the head's line begins that is being searched for its end.
    line_start: usize,
    /// Where the body lies; its end moves as chunks are closed up.
    body: Range<usize>,
    /// At which body length the response fails.
    body_fails_at: usize,
    interim: usize,
    chunk_excess: usize,
    trailer_bytes: usize,
    reusable: bool,
}

impl ResponseReader {
    /// A body fails once it has `body_bytes_limit` bytes; a packed one is allowed a little more, see [`packed_limit`].
    pub fn new(body_bytes_limit: usize) -> ResponseReader {
        ResponseReader {
            body_bytes_limit,
            state: State::Head,
            head: None,
            at: 0,
            searched: 0,
            line_start: 0,
            body: 0..0,
            body_fails_at: 0,
            interim: 0,
            chunk_excess: 0,
            trailer_bytes: 0,
            reusable: false,
        }
    }

    /// The final head, once [`Progress::Head`] was returned.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Where the body lies in the buffer, once done.
    pub fn body(&self) -> Range<usize> {
        self.body.clone()
    }

    /// Whether the connection can serve another request; known once done.
    pub fn reusable(&self) -> bool {
        self.reusable && self.state == State::Done
    }

    /// Goes on with `wire`: the bytes kept last time and those received since.
    pub fn feed(&mut self, wire: &mut [u8]) -> Result<Progress, HttpError> {
        loop {
            match self.state {
                State::Head => match self.read_head(wire)? {
                    Some(progress) => return Ok(progress),
                    None => continue,
                },
                State::Length { end } => {
                    if wire.len() < end {
                        return Ok(Progress::More { keep: wire.len() });
                    }
                    self.body.end = end;
                    self.at = end;
                    self.state = State::Done;
                }
                State::ToEof => {
                    self.body.end = wire.len();
                    self.at = wire.len();
                    self.check_size()?;
                    return Ok(Progress::More { keep: wire.len() });
                }
                State::ChunkLine | State::ChunkData { .. } | State::ChunkEnd | State::Trailer => {
                    if !self.read_chunked(wire)? {
                        return Ok(self.close_up(wire));
                    }
                }
                State::Done => {
                    if self.at < wire.len() {
                        // Bytes that nobody asked for: whatever they are, they must not answer the next request.
                        self.reusable = false;
                    }
                    return Ok(Progress::Done { keep: self.body.end });
                }
            }
        }
    }

    /// The stream has ended after what `wire` holds.
    pub fn end_of_stream(&mut self, wire: &[u8]) -> Result<Progress, HttpError> {
        match self.state {
            State::Head if wire.is_empty() => Err(HttpError::Eof),
            State::Head => match first_line(&wire[self.at..]) {
                line if is_http(line) || line.is_empty() => Err(HttpError::HeadCut),
                line => Err(HttpError::NotHttp(quoted(line))),
            },
            State::ToEof | State::Done => {
                self.state = State::Done;
                self.reusable = false;
                Ok(Progress::Done { keep: self.body.end })
            }
            _ => Err(HttpError::BodyCut),
        }
    }

    /// None when it read an interim response and there may be another head right behind it.
    fn read_head(&mut self, wire: &mut [u8]) -> Result<Option<Progress>, HttpError> {
        let Some(end) = self.head_end(wire)? else {
            return Ok(Some(Progress::More { keep: wire.len() }));
        };
        let Parsed { head, framing, keeps_connection } = head::parse(wire, self.at..end)?;
        if (100..200).contains(&head.status) && head.status != 101 {
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Err(HttpError::TooManyInterim);
            }
            self.at = end;
            return Ok(None);
        }
        let status = head.status;
        self.reusable = keeps_connection;
        self.body_fails_at =
            if head.is_gzip(wire) { packed_limit(self.body_bytes_limit) } else { self.body_bytes_limit };
        self.head = Some(head);
        self.body = end..end;
        self.at = end;
        self.state = match framing {
            Framing::Length(length) if length >= self.body_fails_at && status == 200 => {
                return Err(HttpError::BodySize);
            }
            Framing::Length(length) => {
                let end = end.checked_add(length).ok_or_else(|| HttpError::ContentLength(length.to_string()))?;
                State::Length { end }
            }
            Framing::Chunked => State::ChunkLine,
            Framing::ToEof => State::ToEof,
        };
        Ok(Some(Progress::Head))
    }

    /// Where the head that begins at `at` ends: behind its first empty line.
    fn head_end(&mut self, wire: &[u8]) -> Result<Option<usize>, HttpError> {
        loop {
            let found = memchr::memchr(b'\n', &wire[self.searched..]).map(|found| self.searched + found);
            if found.unwrap_or(wire.len()) - self.at >= HEAD_BYTES_MAX {
                return Err(HttpError::HeadTooLong);
            }
            let Some(line_end) = found else {
                self.searched = wire.len();
                return Ok(None);
            };
            let line_start = std::mem::replace(&mut self.line_start, line_end + 1);
            self.searched = line_end + 1;
            let line = &wire[line_start..line_end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line_start == self.at && !is_http(line) {
                // Told at once: a server of another protocol says one line and waits.
                return Err(HttpError::NotHttp(quoted(line)));
            }
            if line.is_empty() {
                return Ok(Some(line_end + 1));
            }
        }
    }

    /// True when the state has moved on, false when it needs more bytes.
    fn read_chunked(&mut self, wire: &mut [u8]) -> Result<bool, HttpError> {
        match self.state {
            State::ChunkLine => {
                let Some(line) = self.line(wire, CHUNK_LINE_BYTES_MAX, HttpError::ChunkLineTooLong)? else {
                    return Ok(false);
                };
                let line_bytes = line.len() + 1;
                let Some(text) = wire[line].strip_suffix(b"\r") else {
                    return Err(HttpError::ChunkBareLf);
                };
                let length = chunk_length(text)?;
                let allowed = length.saturating_mul(2).saturating_add(16);
                self.chunk_excess = (self.chunk_excess + line_bytes).saturating_sub(allowed);
                if self.chunk_excess > CHUNK_EXCESS_BYTES_MAX {
                    return Err(HttpError::ChunkExcess);
                }
                self.state = if length == 0 { State::Trailer } else { State::ChunkData { left: length } };
            }
            State::ChunkData { left } => {
                let count = left.min(wire.len() - self.at);
                if self.at != self.body.end {
                    wire.copy_within(self.at..self.at + count, self.body.end);
                }
                self.at += count;
                self.searched = self.at;
                self.body.end += count;
                self.check_size()?;
                if count < left {
                    self.state = State::ChunkData { left: left - count };
                    return Ok(false);
                }
                self.state = State::ChunkEnd;
            }
            State::ChunkEnd => match &wire[self.at..] {
                [b'\r', b'\n', ..] => {
                    self.at += 2;
                    self.searched = self.at;
                    self.state = State::ChunkLine;
                }
                [] | [b'\r'] => return Ok(false),
                _ => return Err(HttpError::ChunkEnd),
            },
            State::Trailer => {
                let left = TRAILER_BYTES_MAX - self.trailer_bytes;
                let Some(line) = self.line(wire, left, HttpError::TrailerTooLong)? else {
                    return Ok(false);
                };
                self.trailer_bytes += line.len() + 1;
                if matches!(&wire[line], b"" | b"\r") {
                    self.state = State::Done;
                }
            }
            State::Head | State::Length { .. } | State::ToEof | State::Done => unreachable!("not in chunks"),
        }
        Ok(true)
    }

    /// Takes the next line (without its `\n`), if all of it is here and it is shorter than `bytes_max`.
    fn line(&mut self, wire: &[u8], bytes_max: usize, error: HttpError) -> Result<Option<Range<usize>>, HttpError> {
        let found = memchr::memchr(b'\n', &wire[self.searched..]).map(|found| self.searched + found);
        if found.unwrap_or(wire.len()) - self.at >= bytes_max {
            return Err(error);
        }
        let Some(end) = found else {
            self.searched = wire.len();
            return Ok(None);
        };
        let line = self.at..end;
        self.at = end + 1;
        self.searched = self.at;
        Ok(Some(line))
    }

    /// Moves what is not understood yet (part of a line at most) to the body's end.
    fn close_up(&mut self, wire: &mut [u8]) -> Progress {
        let gap = self.at - self.body.end;
        if gap > 0 {
            wire.copy_within(self.at.., self.body.end);
            self.at -= gap;
            self.searched -= gap;
        }
        Progress::More { keep: wire.len() - gap }
    }

    fn check_size(&self) -> Result<(), HttpError> {
        if self.body.len() >= self.body_fails_at { Err(HttpError::BodySize) } else { Ok(()) }
    }
}

/// How large a packed body may be whose plain form must stay below `limit`: bytes that do not pack take 5 bytes more per
/// 16 KiB block, plus a header and trailer per member.
pub fn packed_limit(limit: usize) -> usize {
    limit.saturating_add(limit / 64).saturating_add(1024)
}

fn first_line(bytes: &[u8]) -> &[u8] {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn is_http(line: &[u8]) -> bool {
    line.starts_with(b"HTTP/") && line.contains(&b' ')
}

/// The hexadecimal length before an extension, if any.
fn chunk_length(line: &[u8]) -> Result<usize, HttpError> {
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    let digits = line[..end].trim_ascii_end();
    if digits.is_empty() {
        return Err(HttpError::ChunkLength);
    }
    if digits.len() > 15 {
        return Err(HttpError::ChunkTooLarge);
    }
    digits.iter().try_fold(0, |length: usize, digit| {
        let value = char::from(*digit).to_digit(16).ok_or(HttpError::ChunkLength)?;
        Ok(length << 4 | value as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    /// What a whole response comes to: status text, body, whether the connection can be kept; or the error's text.
    fn read_split(response: &[u8], sizes: &mut dyn FnMut() -> usize) -> Result<(String, Vec<u8>, bool), HttpError> {
        let mut reader = ResponseReader::new(LIMIT);
        let (mut wire, mut sent) = (Vec::new(), 0);
        loop {
            let progress = match reader.feed(&mut wire)? {
                Progress::More { keep } if sent == response.len() => {
                    wire.truncate(keep);
                    reader.end_of_stream(&wire)?
                }
                progress => progress,
            };
            match progress {
                Progress::More { keep } => {
                    wire.truncate(keep);
                    let count = sizes().clamp(1, response.len() - sent);
                    wire.extend_from_slice(&response[sent..sent + count]);
                    sent += count;
                    assert!(wire.len() <= 2 * HEAD_BYTES_MAX + response.len().min(LIMIT + 20_000), "memory is bounded");
                }
                Progress::Head => assert!(reader.head().is_some()),
                Progress::Done { keep } => {
                    assert_eq!(keep, reader.body().end);
                    let reusable = reader.reusable() && sent == response.len();
                    let status = reader.head().unwrap().status_text(&wire);
                    return Ok((status, wire[reader.body()].to_vec(), reusable));
                }
            }
        }
    }

    fn read(response: &[u8]) -> Result<(String, Vec<u8>, bool), HttpError> {
        read_split(response, &mut || usize::MAX)
    }

    /// `want` is `status|body|kept or closed`, or the error; and the same comes out for every split in two and for
    /// single bytes.
    #[track_caller]
    fn check(response: &str, want: &str) {
        let show = |outcome: Result<(String, Vec<u8>, bool), HttpError>| match outcome {
            Ok((status, body, kept)) => {
                format!("{status}|{}|{}", String::from_utf8_lossy(&body), if kept { "kept" } else { "closed" })
            }
            Err(error) => error.to_string(),
        };
        let response = response.as_bytes();
        assert_eq!(show(read(response)), want);
        assert_eq!(show(read_split(response, &mut || 1)), want, "byte by byte");
        for split in 1..response.len().min(2000) {
            let mut sizes = [split, usize::MAX].into_iter();
            assert_eq!(show(read_split(response, &mut || sizes.next().unwrap_or(1))), want, "split at {split}");
        }
    }

    #[test]
    fn length_tells_the_end() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n", "200 OK|up 1\n|kept");
        check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 OK||kept");
        check("HTTP/1.1 200 OK\r\ncontent-length:5\r\nCONTENT-LENGTH: 5 \r\n\r\nup 1\n", "200 OK|up 1\n|kept");
        check("HTTP/1.1 200 OK\nContent-Length: 5\n\nup 1\n", "200 OK|up 1\n|kept");
        check("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nup 1\n", "unexpected EOF");
    }

    #[test]
    fn bytes_behind_the_response_are_not_its_body() {
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\nHTTP/1.1 200 OK\r\n";
        assert_eq!(read(response), Ok(("200 OK".into(), b"up 1\n".to_vec(), false)));
        let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nup \r\n2\r\n1\n\r\n0\r\n\r\nx";
        assert_eq!(read(response), Ok(("200 OK".into(), b"up 1\n".to_vec(), false)));
    }

    #[test]
    fn without_length_the_stream_tells_the_end() {
        check("HTTP/1.1 200 OK\r\n\r\nup 1\n", "200 OK|up 1\n|closed");
        check("HTTP/1.0 200 OK\r\n\r\n", "200 OK||closed");
        check("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nup 1\n", "200 OK|up 1\n|closed");
    }

    #[test]
    fn some_responses_close_the_connection() {
        check("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n", "200 OK|up 1\n|closed");
        check("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nup 1\n", "200 OK|up 1\n|closed");
        check("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\nup 1\n", "200 OK|up 1\n|closed");
        check("HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nup 1\n", "200 OK|up 1\n|kept");
        check("HTTP/1.1 101 Switching Protocols\r\n\r\n", "101 Switching Protocols||closed");
    }

    #[test]
    fn some_responses_have_no_body() {
        check("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "204 No Content||kept");
        check("HTTP/1.1 304 Not Modified\r\n\r\n", "304 Not Modified||kept");
    }

    #[test]
    fn status_is_told_as_the_server_put_it() {
        check("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", "500 Internal Server Error||kept");
        check("HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n", "500||kept");
        check("HTTP/1.1 599 nai\u{308}f\r\nContent-Length: 0\r\n\r\n", "599 nai\u{308}f||kept");
    }

    fn chunked(chunks: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
    }

    #[test]
    fn chunks_are_closed_up() {
        check(&chunked("5\r\nup 1\n\r\n0\r\n\r\n"), "200 OK|up 1\n|kept");
        check(&chunked("3\r\nup \r\n02;a=b;c\r\n1\n\r\n000\r\n\r\n"), "200 OK|up 1\n|kept");
        check(&chunked("A \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"), "200 OK|0123456789|kept");
        check(&chunked("0\r\n\r\n"), "200 OK||kept");
        let both = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nup 1\n\r\n0\r\n\r\n";
        check(both, "200 OK|up 1\n|kept");
    }

    #[test]
    fn bad_chunks_fail() {
        check(&chunked("5\r\nup 1\n\r\n0\r\n"), "unexpected EOF");
        check(&chunked("5\r\nup 1\n\r\n"), "unexpected EOF");
        check(&chunked("5\r\nup"), "unexpected EOF");
        check(&chunked("5\r\nup 1\n\r"), "unexpected EOF");
        check(&chunked("5"), "unexpected EOF");
        check(&chunked("5\r\nup 1\n!\r\n0\r\n\r\n"), "malformed chunked encoding");
        check(&chunked("x\r\n"), "invalid byte in chunk length");
        check(&chunked("-5\r\nup 1\n\r\n"), "invalid byte in chunk length");
        check(&chunked("+5\r\nup 1\n\r\n"), "invalid byte in chunk length");
        check(&chunked("\r\n"), "invalid byte in chunk length");
        check(&chunked("1000000000000000\r\n"), "http chunk length too large");
        check(&chunked("5\nup 1\n\r\n"), "chunked line ends with bare LF");
    }

    #[test]
    fn chunk_framing_is_bounded() {
        check(&chunked(&format!("5;{}", "x".repeat(CHUNK_LINE_BYTES_MAX))), "header line too long");
        let trailer = chunked(&format!("0\r\n{}", "T: x\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1)));
        check(&trailer, "trailer exceeded 16384 bytes");
        let tiny = format!("1;{}\r\nx\r\n", "x".repeat(100));
        check(&chunked(&tiny.repeat(250)), "chunked encoding contains too much non-data");
        check(&chunked(&format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(900))), &format!("200 OK|{}|kept", "x".repeat(900)));
    }

    #[test]
    fn body_limit_fails_when_reached() {
        let over = "body size limit exceeded";
        let (under, equal) = ("x".repeat(LIMIT - 1), "x".repeat(LIMIT));
        let with_length = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        check(&with_length(&under), &format!("200 OK|{under}|kept"));
        check(&with_length(&equal), over);
        check(&format!("HTTP/1.1 200 OK\r\n\r\n{under}"), &format!("200 OK|{under}|closed"));
        check(&format!("HTTP/1.1 200 OK\r\n\r\n{equal}"), over);
        check(&chunked(&format!("3e7\r\n{under}\r\n0\r\n\r\n")), &format!("200 OK|{under}|kept"));
        check(&chunked(&format!("3e8\r\n{equal}\r\n0\r\n\r\n")), over);
        // A packed body may be as long as one that does not pack; a failed response's length does not matter.
        let packed = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {LIMIT}\r\n\r\n{equal}");
        check(&packed, &format!("200 OK|{equal}|kept"));
        check("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2100\r\n\r\n", over);
        check("HTTP/1.1 500 Oh\r\nContent-Length: 2100\r\n\r\n", "unexpected EOF");
    }

    #[test]
    fn bad_lengths_fail() {
        for bad in ["-1", "+1", "1,1", "0x1", "", "1 1", "9223372036854775808", "99999999999999999999999"] {
            let want = format!("bad Content-Length \"{bad}\"");
            check(&format!("HTTP/1.1 200 OK\r\nContent-Length: {bad}\r\n\r\n"), &want);
        }
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "http: message cannot contain multiple Content-Length headers; got \"5\" and \"6\"",
        );
    }

    #[test]
    fn other_transfer_encodings_fail() {
        let want = "unsupported transfer encoding: \"gzip, chunked\"";
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", want);
        let twice = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(twice, "too many transfer encodings");
    }

    #[test]
    fn what_is_not_http_is_told() {
        check("", "EOF");
        check("SSH-2.0-OpenSSH_9.9\r\n\r\n", "malformed HTTP response \"SSH-2.0-OpenSSH_9.9\"");
        check("SSH-2.0-OpenSSH_9.9\r\n and then", "malformed HTTP response \"SSH-2.0-OpenSSH_9.9\"");
        check("\u{15}\u{3}\u{1}", "malformed HTTP response \"\\x15\\x03\\x01\"");
        check("\r\nHTTP/1.1 200 OK\r\n\r\n", "malformed HTTP response \"\"");
        check("HTTP/1.11 200 OK\r\n\r\n", "malformed HTTP version \"HTTP/1.11\"");
        check("HTTP/1 200 OK\r\n\r\n", "malformed HTTP version \"HTTP/1\"");
        check("HTTP/1.1 20 OK\r\n\r\n", "malformed HTTP status code \"20\"");
        check("HTTP/1.1 \r\n\r\n", "malformed HTTP status code \"\"");
        check("HTTP/1.1 2x0 OK\r\n\r\n", "malformed HTTP status code \"2x0\"");
        check("HTTP/1.1 200 OK\r\nbroken\r\n\r\n", "malformed MIME header line: broken");
        check("HTTP/1.1 200 OK\r\nA\t: b\r\n\r\n", "malformed MIME header line: A\\t: b");
        check("HTTP/1.1 200 OK\r\nA: b\u{0}\r\n\r\n", "malformed MIME header line: A: b\\x00");
        check("HTTP/1.1 200 OK\r\n A: b\r\n\r\n", "malformed MIME header initial line:  A: b");
        check("HTTP/1.1 200 OK\r\nContent-Le", "unexpected EOF");
        check("HTTP/1.1 200 OK\r\n", "unexpected EOF");
    }

    /// Heads that Go's client accepts, though the standard does not.
    #[test]
    fn odd_heads_are_read() {
        for version in ["HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/1.1 "] {
            check(&format!("{version} 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n"), "200 OK|up 1\n|kept");
            check(&format!("{version} 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "200 OK||kept");
        }
        check("HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n", "200 OK|up 1\n|closed");
        check("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\td\r\nContent-Length:\r\n  5\r\n\r\nup 1\n", "200 OK|up 1\n|kept");
        check("HTTP/1.1 200 OK\r\nConnection: x,\r\n close\r\nContent-Length: 5\n\n\nup 1", "200 OK|\nup 1|closed");
        check("HTTP/1.1 200 OK\r\nContent-Length : 3\r\n: x\r\nA B: c\r\n\r\nup 1\n", "200 OK|up 1\n|closed");
    }

    #[test]
    fn interim_responses_are_skipped_up_to_a_bound() {
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n";
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        check(&format!("{}{ok}", interim.repeat(INTERIM_MAX)), "200 OK|up 1\n|kept");
        let endless = "net/http: too many 1xx informational responses";
        check(&format!("{}{ok}", interim.repeat(INTERIM_MAX + 1)), endless);
        check(interim, "unexpected EOF");
    }

    #[test]
    fn head_is_bounded() {
        let too_long = format!("net/http: server response headers exceeded {HEAD_BYTES_MAX} bytes; aborted");
        for head in [
            format!("HTTP/1.1 200 {}", "x".repeat(HEAD_BYTES_MAX)),
            format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX)),
            format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(HEAD_BYTES_MAX / 6 + 1)),
        ] {
            assert_eq!(read(head.as_bytes()).unwrap_err().to_string(), too_long);
            assert_eq!(read_split(head.as_bytes(), &mut || 1000).unwrap_err().to_string(), too_long);
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "Content-Length: 0\r\n".repeat(20_000));
        assert_eq!(read(many.as_bytes()).map(|(status, ..)| status), Ok("200 OK".to_owned()));
    }

    #[test]
    fn only_exact_gzip_is_packed() {
        for (value, want) in [("gzip", true), (" gzip ", true), ("GZIP", false), ("x-gzip", false), ("gzip, br", false)]
        {
            let mut wire = format!("HTTP/1.1 200 OK\r\nContent-Encoding:{value}\r\n\r\n").into_bytes();
            let mut reader = ResponseReader::new(LIMIT);
            assert_eq!(reader.feed(&mut wire), Ok(Progress::Head));
            assert_eq!(reader.head().unwrap().is_gzip(&wire), want, "{value}");
        }
    }

    /// Numbers that look random and are the same in every run.
    struct Seeded(u64);

    impl Seeded {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % bound
        }
    }

    #[test]
    fn mutated_responses_give_the_same_in_any_split() {
        let originals = [
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nup 1\n".into(),
            chunked("3;x=y\r\nup \r\n2\r\n1\n\r\n0\r\nTrailer: x\r\n\r\n"),
            "HTTP/1.0 302 Found\r\nLocation: /x\r\nConnection: close\r\n\r\nmoved".into(),
        ];
        let bytes = b"\r\n :;0159afHT/.-\0\xff";
        for seed in 0..6000 {
            let mut random = Seeded(seed);
            let mut response = originals[random.below(originals.len())].clone().into_bytes();
            for _ in 0..=random.below(4) {
                let at = random.below(response.len());
                match random.below(3) {
                    0 => response[at] = bytes[random.below(bytes.len())],
                    1 => drop(response.remove(at)),
                    _ => response.insert(at, bytes[random.below(bytes.len())]),
                }
            }
            // Whether bytes follow the response is seen only if they come with it; the rest must not differ.
            let outcome =
                |result: Result<(String, Vec<u8>, bool), HttpError>| result.map(|(status, body, _)| (status, body));
            let whole = outcome(read(&response));
            assert_eq!(outcome(read_split(&response, &mut || 1)), whole, "seed {seed}");
            let mut splits = Seeded(seed);
            assert_eq!(outcome(read_split(&response, &mut || splits.below(9))), whole, "seed {seed}");
        }
    }
}
