//! Bytes of a file as text: UTF-8, or UTF-16 with a byte order mark. YAML may be either.

/// Bytes that are no text: where the first of them stand, and what to do.
#[derive(Debug)]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    pub message: &'static str,
}

/// Decodes the bytes of a file. A byte order mark of UTF-16 decides; without one the text is UTF-8.
///
/// # Errors
/// Where the first byte is that belongs to no character, and what to do.
pub fn decode_text(bytes: Vec<u8>) -> Result<String, TextError> {
    let unit: fn([u8; 2]) -> u16 = match bytes.get(..2) {
        Some([0xff, 0xfe]) => u16::from_le_bytes,
        Some([0xfe, 0xff]) => u16::from_be_bytes,
        _ => {
            return String::from_utf8(bytes).map_err(|error| {
                let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let good = String::from_utf8_lossy(good);
                error_after(&good, "this is not UTF-8; save the file as UTF-8")
            });
        }
    };
    let (pairs, rest) = bytes[2..].as_chunks::<2>();
    let mut text = String::with_capacity(pairs.len());
    for decoded in char::decode_utf16(pairs.iter().copied().map(unit)) {
        match decoded {
            Ok(char) => text.push(char),
            Err(_) => {
                return Err(error_after(&text, "half of a UTF-16 surrogate pair; save the file as UTF-8"));
            }
        }
    }
    match rest {
        [] => Ok(text),
        _ => Err(error_after(&text, "incomplete UTF-16 character; save the file as UTF-8")),
    }
}

/// Returns line and column behind a text.
fn end_of(text: &str) -> (usize, usize) {
    let line_start = text.rfind('\n').map_or(0, |at| at + 1);
    (text.matches('\n').count() + 1, text[line_start..].chars().count() + 1)
}

fn error_after(text: &str, message: &'static str) -> TextError {
    let (line, column) = end_of(text);
    TextError { line, column, message }
}

/// Returns line and column of the first character that no YAML file may contain: control characters and non-characters.
pub(crate) fn find_control(text: &str) -> Option<(usize, usize)> {
    let is_bad = |c: char| match c {
        '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' => false,
        '\u{fffe}' | '\u{ffff}' => true,
        other => other < '\u{a0}',
    };
    text.find(is_bad).map(|at| end_of(&text[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf_16_is_read_by_its_mark() {
        let text = "a: ä\nb: 😀\n";
        let units: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> =
            [0xff, 0xfe].into_iter().chain(units.iter().flat_map(|unit| unit.to_le_bytes())).collect();
        let big: Vec<u8> = [0xfe, 0xff].into_iter().chain(units.iter().flat_map(|unit| unit.to_be_bytes())).collect();
        assert_eq!(decode_text(little.clone()).unwrap(), text);
        assert_eq!(decode_text(big.clone()).unwrap(), text);
        let at = |bytes: &[u8]| decode_text(bytes.to_vec()).map_err(|error| (error.line, error.column));
        assert_eq!(at(&little[..little.len() - 1]), Err((2, 5)));
        assert_eq!(at(&[&big[..], &[0xdc, 0, 0, 0x41]].concat()), Err((3, 1)));
        assert_eq!(at(&[&big[..], &[0xd8, 0]].concat()), Err((3, 1)));
        assert_eq!(at(b"a: b\nc\xff"), Err((2, 2)));
        assert_eq!(at(&[0xff, 0xfe]), Ok(String::new()));
        assert_eq!(at(&[0xff]), Err((1, 1)));
    }

    #[test]
    fn control_characters_are_found() {
        for good in ["a\tb\r\n", "~", "\u{85}\u{a0}\u{2028}\u{e000}\u{fffd}\u{feff}\u{10ffff}"] {
            assert_eq!(find_control(good), None, "{good:?}");
        }
        for bad in ["\0", "\u{b}", "\u{1b}", "\u{7f}", "\u{80}", "\u{9f}", "\u{fffe}"] {
            assert_eq!(find_control(&format!("x\nä{bad}")), Some((2, 2)), "{bad:?}");
        }
    }
}
