//! Durations as Prometheus writes them: `1h30m`, `15s`, `500ms`.
//!
//! Source: `ParseDuration` and `Duration.String` of Prometheus' common library.

use std::fmt::Write;

/// Longest duration in milliseconds, about 292 years: Go keeps durations as nanoseconds in 63 bits.
pub const DURATION_MS_MAX: u64 = i64::MAX as u64 / 1_000_000;

const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const WEEK_MS: u64 = 7 * DAY_MS;
const YEAR_MS: u64 = 365 * DAY_MS;

/// Units with their milliseconds, in the order in which they may follow each other.
const UNITS: [(&str, u64); 7] =
    [("y", YEAR_MS), ("w", WEEK_MS), ("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS), ("ms", 1)];

/// The first units are written only if nothing is left over: `90d` reads better than `12w6d`.
const EXACT_UNITS: usize = 2;

/// Why a text is not a duration. The texts are Prometheus', without the input, which callers quote in their own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text is empty.
    #[error("empty duration string")]
    Empty,
    /// The text does not have the form of a duration.
    #[error("not a valid duration string")]
    Invalid,
    /// The duration is longer than [`DURATION_MS_MAX`].
    #[error("duration out of range")]
    OutOfRange,
}

/// Reads a duration and returns milliseconds: whole numbers with units, from years down to milliseconds, each unit at
/// most once. `0` needs no unit.
pub fn parse_duration(text: &str) -> Result<u64, DurationError> {
    match text {
        "0" => return Ok(0),
        "" => return Err(DurationError::Empty),
        _ => {}
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total_ms = 0_u64;
    let mut is_out_of_range = false;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let (_, unit_ms) = units.find(|(name, _)| *name == unit).ok_or(DurationError::Invalid)?;
        if number.is_empty() {
            return Err(DurationError::Invalid);
        }
        // The form is checked to the end before the size: `99999999999999999999y1q` is no duration at all.
        let part_ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*unit_ms));
        match part_ms.and_then(|part_ms| total_ms.checked_add(part_ms)).filter(|total| *total <= DURATION_MS_MAX) {
            Some(total) => total_ms = total,
            None => is_out_of_range = true,
        }
        rest = tail;
    }
    if is_out_of_range { Err(DurationError::OutOfRange) } else { Ok(total_ms) }
}

/// Writes milliseconds so that [`parse_duration`] reads them: `1m30s`, `2w`, `0s`.
pub fn format_duration(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    let mut rest_ms = ms;
    for (index, (unit, unit_ms)) in UNITS.iter().enumerate() {
        if index < EXACT_UNITS && !rest_ms.is_multiple_of(*unit_ms) {
            continue;
        }
        let number = rest_ms / unit_ms;
        if number > 0 {
            write!(out, "{number}{unit}").expect("writing into a String does not fail");
            rest_ms %= unit_ms;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, want) in [
            ("0", Ok(0)),
            ("0s", Ok(0)),
            ("15s", Ok(15_000)),
            ("1h30m", Ok(5_400_000)),
            ("1y2w3d4h5m6s7ms", Ok(YEAR_MS + 2 * WEEK_MS + 3 * DAY_MS + 4 * HOUR_MS + 5 * MINUTE_MS + 6007)),
            ("292y", Ok(292 * YEAR_MS)),
            ("9223372036854ms", Ok(DURATION_MS_MAX)),
            ("9223372036855ms", Err(DurationError::OutOfRange)),
            ("293y", Err(DurationError::OutOfRange)),
            ("99999999999999999999s", Err(DurationError::OutOfRange)),
            ("99999999999999999999s1q", Err(DurationError::Invalid)),
            ("", Err(DurationError::Empty)),
            ("1", Err(DurationError::Invalid)),
            ("s", Err(DurationError::Invalid)),
            ("1m1h", Err(DurationError::Invalid)),
            ("1s1s", Err(DurationError::Invalid)),
            ("1.5s", Err(DurationError::Invalid)),
            ("-1s", Err(DurationError::Invalid)),
            (" 1s", Err(DurationError::Invalid)),
            ("1s ", Err(DurationError::Invalid)),
            ("1µs", Err(DurationError::Invalid)),
            ("5M", Err(DurationError::Invalid)),
        ] {
            assert_eq!(parse_duration(text), want, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_prometheus_writes_them() {
        for (ms, want) in [
            (0, "0s"),
            (1, "1ms"),
            (90_000, "1m30s"),
            (36 * HOUR_MS, "1d12h"),
            (90 * DAY_MS, "90d"),
            (14 * DAY_MS, "2w"),
            (YEAR_MS, "1y"),
            (YEAR_MS + DAY_MS, "366d"),
            (3 * YEAR_MS + 1, "1095d1ms"),
        ] {
            assert_eq!(format_duration(ms), want);
            assert_eq!(parse_duration(want), Ok(ms));
        }
    }
}
