//! Durations and sizes as Prometheus writes them.

use series::DurationError;
use std::fmt::Write;
use std::time::Duration;

const SIZE_UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];

/// A size in bytes, written with a unit: `512MB`. Units are powers of 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a duration or a size was refused, with an example of a valid one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// Reads `1h30m`, `500ms`, `0`, as [`series::parse_duration`] does.
///
/// # Errors
/// Prometheus' text, with an example of a valid duration.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let refused = |error: DurationError| {
        UnitError(match error {
            DurationError::Empty => format!("{error}; write a number and a unit, such as 15s"),
            DurationError::Invalid => format!("{error}: {text:?}; write a number and a unit, such as 15s or 1h30m"),
            DurationError::OutOfRange => format!("{error}: {text:?}; the longest duration is 292y"),
        })
    };
    series::parse_duration(text).map(Duration::from_millis).map_err(refused)
}

/// Writes a duration so that [`parse_duration`] reads it: `1m30s`, `2w`, `0s`. Fractions of a millisecond are dropped.
pub fn format_duration(duration: Duration) -> String {
    series::format_duration(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Reads `512MB`, `1.5GiB`, `0` and returns bytes. All units are powers of 1024.
///
/// # Errors
/// Prometheus' text, with an example of a valid size.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let invalid =
        || UnitError(format!("units: invalid size {text:?}; write a number and a unit, such as 512KB, 10MB or 2GB"));
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let prefix = unit.strip_suffix("iB").or_else(|| unit.strip_suffix('B')).ok_or_else(invalid)?;
        let power = SIZE_UNITS.iter().position(|name| *name == prefix).ok_or_else(invalid)?;
        total += number * 1024_f64.powi(i32::try_from(power).expect("there are seven units"));
        rest = tail;
    }
    if total >= i64::MAX as f64 {
        return Err(UnitError(format!("units: size {text:?} is out of range; the largest size is below 8EB")));
    }
    Ok(total as u64)
}

/// Writes a size so that [`parse_size`] reads it: `8MiB`, `1KiB512B`, `0B`.
pub fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    let mut out = String::new();
    for (power, unit) in SIZE_UNITS.iter().enumerate().rev() {
        let number = (bytes >> (10 * power)) & 0x3ff;
        if number > 0 {
            let suffix = if power == 0 { "B" } else { "iB" };
            write!(out, "{number}{unit}{suffix}").expect("writing into a String does not fail");
        }
    }
    out
}
