//! Text in double quotes, as Go's `strconv.Quote` writes it and PromQL parses it.

use std::fmt;

/// Displays a text in double quotes, with Go's escapes.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for letter in self.0.chars() {
            match letter {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\x07' => f.write_str("\\a")?,
                '\x08' => f.write_str("\\b")?,
                '\x0c' => f.write_str("\\f")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\x0b' => f.write_str("\\v")?,
                '\0'..'\x20' | '\x7f' => write!(f, "\\x{:02x}", letter as u32)?,
                '\u{80}'.. if letter.escape_debug().len() > 1 => match letter as u32 {
                    code @ ..0x1_0000 => write!(f, "\\u{code:04x}")?,
                    code => write!(f, "\\U{code:08x}")?,
                },
                _ => write!(f, "{letter}")?,
            }
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_go() {
        for (text, want) in [
            ("plain é", "\"plain é\""),
            ("a\"b\\c\nd", r#""a\"b\\c\nd""#),
            ("\x12\x7f\0", r#""\x12\x7f\x00""#),
            ("\u{200b}\u{e0001}", r#""\u200b\U000e0001""#),
        ] {
            assert_eq!(Quoted(text).to_string(), want);
        }
    }
}
