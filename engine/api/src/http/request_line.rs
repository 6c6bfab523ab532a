//! Request targets that hold characters which should have been percent-encoded.
//!
//! `GET /api/v1/query?query=up{job="a"}` is no valid request target, yet people and programs send it, and Prometheus
//! answers. The HTTP library refuses it. So the first line of each head is looked at before the library sees it, and such
//! bytes of the target are encoded: the only place where bytes of a client are changed.
//!
//! Invariants:
//!   * a line changes only if it is `METHOD SP target SP HTTP/1.x`, and only inside the target
//!   * no line end is added or removed, so the frame of requests stays as it was sent

/// Longest first line that is looked at; a longer one goes on as it is, and is refused as too long.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;

/// Whether a byte of a target has to be encoded for the HTTP library. In a query `#` is a byte like any other; control
/// characters stay, and are refused.
fn is_unsafe(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'#' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80..=0xff)
}

/// The target's range in a first line without its line end.
fn target(line: &[u8]) -> Option<std::ops::Range<usize>> {
    let begin = line.iter().position(|byte| *byte == b' ')? + 1;
    let end = line.iter().rposition(|byte| *byte == b' ')?;
    let is_method = begin > 1 && line[..begin - 1].iter().all(u8::is_ascii_uppercase);
    let is_http = line.get(end + 1..).is_some_and(|version| matches!(version, b"HTTP/1.1" | b"HTTP/1.0"));
    (is_method && is_http && begin < end).then_some(begin..end)
}

/// The line (without its line end) with its target encoded; None if it stays as it is.
pub(crate) fn encoded(line: &[u8]) -> Option<Vec<u8>> {
    let (line, end) = match line.strip_suffix(b"\r") {
        Some(line) => (line, &b"\r"[..]),
        None => (line, &b""[..]),
    };
    let range = target(line)?;
    let count = line[range.clone()].iter().filter(|byte| is_unsafe(**byte)).count();
    if count == 0 {
        return None;
    }
    let mut out = Vec::with_capacity(line.len() + 2 * count + end.len());
    out.extend_from_slice(&line[..range.start]);
    for byte in &line[range.clone()] {
        if is_unsafe(*byte) {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            out.push(*byte);
        }
    }
    out.extend_from_slice(&line[range.end..]);
    out.extend_from_slice(end);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, want: Option<&str>) {
        let found = encoded(line.as_bytes());
        assert_eq!(found.map(|line| String::from_utf8(line).unwrap()).as_deref(), want, "{line}");
    }

    #[test]
    fn targets_are_encoded() {
        check("GET /q?query=up{job=\"a\"} HTTP/1.1\r", Some("GET /q?query=up%7Bjob=%22a%22%7D HTTP/1.1\r"));
        check("GET /q?query=a>1|b#c HTTP/1.0", Some("GET /q?query=a%3E1%7Cb%23c HTTP/1.0"));
        check("GET /label/ü/values HTTP/1.1\r", Some("GET /label/%C3%BC/values HTTP/1.1\r"));
    }

    #[test]
    fn other_lines_stay() {
        for line in [
            "GET /q?query=up%7B%7D HTTP/1.1\r",
            "GET /{ HTTP/2.0\r",
            "GET HTTP/1.1\r",
            "Host: a{b} HTTP/1.1\r",
            "get /{ HTTP/1.1",
            " /{ HTTP/1.1",
            "",
            "\r",
        ] {
            check(line, None);
        }
    }
}
