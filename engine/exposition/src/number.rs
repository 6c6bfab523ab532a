//! Sample values and timestamps out of text, fast where the text is short and ordinary.
//!
//! Invariant: what the fast path accepts, it reads bit for bit as `series::parse_float` does; the rest it leaves to it.

use series::{FloatError, parse_float};

/// 10^0 to 10^22: the powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The same as integers, for up to eight digits at once.
const INTEGER_POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// How many of the eight bytes are digits, counted from the first.
fn leading_digits(word: u64) -> usize {
    // A byte is a digit exactly if its high nibble is 3 and stays 3 when 6 is added to it.
    let high = 0xf0f0_f0f0_f0f0_f0f0;
    let threes = 0x3030_3030_3030_3030;
    let not_digit = ((word & high) ^ threes) | ((word.wrapping_add(0x0606_0606_0606_0606) & high) ^ threes);
    (not_digit.trailing_zeros() / 8) as usize
}

/// The number that the first `count` (1 to 8) bytes spell, all digits.
fn digits(word: u64, count: usize) -> u64 {
    // Shifted so that the digits end at the last byte and zero bytes stand for leading zeros.
    let word = (word << (64 - 8 * count)) & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8) & 0x00ff_00ff_00ff_00ff;
    let quads = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    quads.wrapping_mul(10_000).wrapping_add(quads >> 32) & 0xffff_ffff
}

fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads a value that begins at `at` and ends before white space or the end of the text; gives it and its end. None
/// when the text there is no float.
#[inline]
pub fn read_value(body: &[u8], at: usize) -> Option<(f64, usize)> {
    // Most values are integers of up to seven digits followed by the end of the line.
    if let Some(word) = word_at(body, at) {
        let count = leading_digits(word);
        if (1..8).contains(&count) && body[at + count] == b'\n' {
            return Some((digits(word, count) as f64, at + count));
        }
    }
    read_decimal(body, at).or_else(|| read_slow(body, at))
}

/// Plain decimals with at most 18 digits whose value is exact by one multiplication or division (Clinger's fast path).
fn read_decimal(body: &[u8], at: usize) -> Option<(f64, usize)> {
    let negative = *body.get(at)? == b'-';
    let mut cursor = at + usize::from(negative);
    let first = cursor;
    let mut mantissa = 0u64;
    let mut take_digits = |cursor: &mut usize| {
        while let Some(word) = word_at(body, *cursor) {
            let count = leading_digits(word);
            if count == 0 {
                return;
            }
            // Overflow shows below, as too many digits.
            mantissa = mantissa.wrapping_mul(INTEGER_POWERS[count]).wrapping_add(digits(word, count));
            *cursor += count;
            if count < 8 {
                return;
            }
        }
        while let Some(digit) = body.get(*cursor).filter(|byte| byte.is_ascii_digit()) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            *cursor += 1;
        }
    };
    take_digits(&mut cursor);
    let mut count = cursor - first;
    let mut exponent = 0i32;
    if body.get(cursor) == Some(&b'.') {
        cursor += 1;
        let fraction = cursor;
        take_digits(&mut cursor);
        count += cursor - fraction;
        exponent = -((cursor - fraction) as i32);
    }
    if count == 0 || count > 18 {
        return None;
    }
    if let Some(b'e' | b'E') = body.get(cursor) {
        cursor += 1;
        let sign = match body.get(cursor)? {
            b'-' => -1,
            b'+' => 1,
            _ => 0,
        };
        cursor += usize::from(sign != 0);
        let start = cursor;
        let mut written = 0i32;
        while let Some(digit) = body.get(cursor).filter(|byte| byte.is_ascii_digit()) {
            written = written * 10 + i32::from(digit - b'0');
            cursor += 1;
            if cursor - start > 4 {
                return None;
            }
        }
        if cursor == start {
            return None;
        }
        exponent += if sign < 0 { -written } else { written };
    }
    if !matches!(body.get(cursor), None | Some(b'\n' | b' ' | b'\t')) || mantissa > 1 << 53 {
        return None;
    }
    let power = *POWERS.get(exponent.unsigned_abs() as usize)?;
    let value = if exponent < 0 { mantissa as f64 / power } else { mantissa as f64 * power };
    Some((if negative { -value } else { value }, cursor))
}

fn read_slow(body: &[u8], at: usize) -> Option<(f64, usize)> {
    let end = value_end(body, at);
    let text = std::str::from_utf8(&body[at..end]).ok()?;
    Some((parse_float(text).ok()?, end))
}

/// Where the value token that begins at `at` ends.
pub fn value_end(body: &[u8], at: usize) -> usize {
    let rest = &body[at..];
    at + rest.iter().position(|byte| matches!(byte, b'\n' | b' ' | b'\t' | b'{')).unwrap_or(rest.len())
}

/// A whole value token, with the reason when it is none.
pub fn parse_value(token: &[u8]) -> Result<f64, FloatError> {
    match std::str::from_utf8(token) {
        Ok(text) => parse_float(text),
        Err(_) => Err(FloatError::Syntax(String::from_utf8_lossy(token).into_owned())),
    }
}

/// A float in any spelling that Go's `strconv.ParseFloat` reads, hexadecimal digits and underscores among them; None where
/// it reads none. Sample values have less choice, see [`parse_value`].
pub fn parse_go_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let hex = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X"));
    let plain: String = match text.contains('_') {
        false => text.to_owned(),
        true if underscores_part_digits(unsigned, hex.is_some()) => text.replace('_', ""),
        true => return None,
    };
    if hex.is_none() {
        return parse_float(&plain).ok();
    }
    let negative = plain.starts_with('-');
    let digits = plain.trim_start_matches(['+', '-']).get(2..)?;
    let value = hex_float(digits)?;
    Some(if negative { -value } else { value })
}

/// Whether each underscore lies between digits, or between the prefix of hexadecimal digits and one.
fn underscores_part_digits(unsigned: &str, is_hex: bool) -> bool {
    let bytes = unsigned.as_bytes();
    let is_digit = |byte: Option<&u8>| {
        byte.is_some_and(|byte| if is_hex { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() })
    };
    (0..bytes.len()).filter(|at| bytes[*at] == b'_').all(|at| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        (is_digit(before) || is_hex && at == 2) && is_digit(bytes.get(at + 1))
    })
}

/// Hexadecimal digits with a point perhaps, and the exponent that Go demands.
fn hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let exponent_digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if exponent_digits.is_empty() || !exponent_digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Larger ones are zero or out of range, whatever the digits: there are at most a label's.
    let mut exponent: i64 = exponent.parse::<i64>().ok()?.clamp(-1_000_000_000, 1_000_000_000);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for (index, digit) in whole.chars().chain(fraction.chars()).enumerate() {
        let digit = u64::from(digit.to_digit(16)?);
        exponent -= if index >= whole.len() { 4 } else { 0 };
        if value >> 60 == 0 {
            value = value << 4 | digit;
        } else {
            // Digits that do not fit count for rounding only.
            value |= u64::from(digit != 0);
            exponent += 4;
        }
    }
    let value = (0..2).fold(value as f64, |value, half| {
        // In two steps, as the power alone may be out of range where the value is not.
        let power = (exponent / 2 + if half == 0 { exponent % 2 } else { 0 }).clamp(-1_070, 1_100);
        value * 2f64.powi(power as i32)
    });
    value.is_finite().then_some(value)
}

/// Digits that begin at `at`, as milliseconds; gives them and their end. None when there is no digit or too many.
pub fn read_timestamp(body: &[u8], at: usize) -> Option<(i64, usize)> {
    let rest = &body[at..];
    let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let text = std::str::from_utf8(&rest[..count]).ok()?;
    Some((text.parse().ok()?, at + count))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fast path agrees with the plain one, followed by anything that may follow.
    #[track_caller]
    fn check(text: &str) {
        let want = parse_float(text).ok().map(|value| (value.to_bits(), text.len()));
        for after in ["\n", "\nnext_metric 1", " 123\n", ""] {
            let body = format!("{text}{after}");
            let got = read_value(body.as_bytes(), 0).map(|(value, end)| (value.to_bits(), end));
            assert_eq!(got, want, "{body:?}");
        }
    }

    #[test]
    fn ordinary_and_odd_values() {
        for text in [
            "0",
            "1",
            "12",
            "1234567",
            "12345678",
            "123456789",
            "1234567890123456789",
            "-1",
            "-0",
            "+5",
            "0.1",
            "-0.1",
            "1.5e3",
            "1e-7",
            "1.7976931348623157e+308",
            "5e-324",
            "1e400",
            "9007199254740993",
            "9007199254740992",
            "0.000001",
            "1.",
            ".5",
            ".",
            "-",
            "",
            "1e",
            "1e+",
            "1e22",
            "1e23",
            "123456789012345678e-22",
            "NaN",
            "+Inf",
            "-Inf",
            "inf",
            "1_0",
            "0x10",
            "1e99999",
            "1e00005",
            "000000000000000001",
            "3.14159",
            "1.6e+09",
        ] {
            check(text);
        }
    }

    #[test]
    fn fast_path_is_exact() {
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            seed >> 16
        };
        for _ in 0..20_000 {
            let integer = random() % 10u64.pow((random() % 19) as u32 + 1);
            check(&integer.to_string());
            check(&format!("{}.{:0width$}", integer % 1_000_000, random() % 1000, width = (random() % 6) as usize));
            check(&format!("{:e}", f64::from_bits(random() << 16 | random())));
            check(&format!("-{}e{}", integer % 100_000, random() % 40));
        }
    }

    #[test]
    fn timestamps() {
        assert_eq!(read_timestamp(b"123\n", 0), Some((123, 3)));
        assert_eq!(read_timestamp(b"9223372036854775807", 0), Some((i64::MAX, 19)));
        assert_eq!(read_timestamp(b"9223372036854775808", 0), None);
        assert_eq!(read_timestamp(b"-1", 0), None);
        assert_eq!(read_timestamp(b"", 0), None);
    }
}
