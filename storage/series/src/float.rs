//! The text forms of floats that Go reads and writes.

use std::fmt;

/// Largest magnitude up to which every integer is a float of its own: 2^53.
pub const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// The NaN that every scraped NaN becomes.
pub const NORMAL_NAN: f64 = f64::from_bits(0x7ff8_0000_0000_0001);

/// Why a text is not a float. The texts are those of Go's strconv, which operators know from `lastError`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FloatError {
    /// The text does not have the form of a float.
    #[error("strconv.ParseFloat: parsing {0:?}: invalid syntax")]
    Syntax(String),
    /// The value does not fit a float.
    #[error("strconv.ParseFloat: parsing {0:?}: value out of range")]
    Range(String),
    /// A character that Go accepts and Prometheus refuses: hexadecimal exponents and underscores.
    #[error("unsupported character in float")]
    Character,
}

/// Reads a float as Prometheus reads sample values: Go's ParseFloat without hexadecimal and underscores. Infinities and
/// NaN may be in any case; NaN becomes [`NORMAL_NAN`].
pub fn parse_float(text: &str) -> Result<f64, FloatError> {
    if text.bytes().any(|b| matches!(b, b'p' | b'P' | b'_')) {
        return Err(FloatError::Character);
    }
    let syntax = || FloatError::Syntax(text.to_owned());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.as_bytes().first() {
        Some(b'0'..=b'9' | b'.') => {
            let value: f64 = text.parse().map_err(|_| syntax())?;
            if value.is_infinite() { Err(FloatError::Range(text.to_owned())) } else { Ok(value) }
        }
        Some(b'i' | b'I') if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") => {
            Ok(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY })
        }
        Some(b'n' | b'N') if text.eq_ignore_ascii_case("nan") => Ok(NORMAL_NAN),
        _ => Err(syntax()),
    }
}

/// Writes a float as Go's `strconv.FormatFloat(v, 'g', -1, 64)` does, and with it every text exposition: the shortest
/// digits that read back the same, with an exponent below 1e-4 and from 1e6 on.
pub fn format_float(value: f64, out: &mut impl fmt::Write) -> fmt::Result {
    format_between(value, 1e-4, 1e6, out)
}

/// Writes a float as Prometheus' JSON does: with an exponent only below 1e-6 and from 1e21 on.
pub fn format_float_json(value: f64, out: &mut impl fmt::Write) -> fmt::Result {
    format_between(value, 1e-6, 1e21, out)
}

fn format_between(value: f64, plain_from: f64, plain_below: f64, out: &mut impl fmt::Write) -> fmt::Result {
    if value.is_nan() {
        return out.write_str("NaN");
    }
    if value.is_infinite() {
        return out.write_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    }
    let magnitude = value.abs();
    if magnitude == 0.0 || (plain_from..plain_below).contains(&magnitude) {
        return write!(out, "{value}");
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').expect("LowerExp writes an exponent");
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    write!(out, "{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_format(value: f64, want: &str) {
        let mut got = String::new();
        format_float(value, &mut got).unwrap();
        assert_eq!(got, want);
    }

    #[test]
    fn floats_are_written_as_go_writes_them() {
        check_format(0.0, "0");
        check_format(-0.0, "-0");
        check_format(1.0, "1");
        check_format(0.0001, "0.0001");
        check_format(0.00001, "1e-05");
        check_format(999999.5, "999999.5");
        check_format(1e6, "1e+06");
        check_format(123456789.0, "1.23456789e+08");
        check_format(1e21, "1e+21");
        check_format(-1.5e-7, "-1.5e-07");
        check_format(1.7976931348623157e308, "1.7976931348623157e+308");
        check_format(5e-324, "5e-324");
        check_format(f64::INFINITY, "+Inf");
        check_format(f64::NEG_INFINITY, "-Inf");
        check_format(NORMAL_NAN, "NaN");
    }

    #[test]
    fn json_floats_have_fewer_exponents() {
        for (value, want) in [(1e6, "1000000"), (1e20, "100000000000000000000"), (1e21, "1e+21"), (1e-6, "0.000001")] {
            let mut got = String::new();
            format_float_json(value, &mut got).unwrap();
            assert_eq!(got, want);
        }
    }

    #[track_caller]
    fn check_parse(text: &str, want: Option<f64>) {
        assert_eq!(parse_float(text).ok().map(f64::to_bits), want.map(f64::to_bits), "{text:?}");
    }

    #[test]
    fn floats_are_read_as_go_reads_them() {
        for (text, want) in [
            ("1", 1.0),
            ("+1", 1.0),
            ("-0", -0.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("inf", f64::INFINITY),
            ("+Inf", f64::INFINITY),
            ("-infinity", f64::NEG_INFINITY),
            ("NaN", NORMAL_NAN),
            ("nan", NORMAL_NAN),
            ("1e-400", 0.0),
        ] {
            check_parse(text, Some(want));
        }
        for text in ["", "-", ".", "e", "1e", "1e400", "0x1p-2", "1_000", "+nan", "-nan", "infi", "1 ", "1\r", "0x10"] {
            check_parse(text, None);
        }
    }
}
