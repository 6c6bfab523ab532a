//! Durations and sizes as Prometheus writes them.

use std::fmt::Write;
use std::time::Duration;

const MS: u64 = 1;
const SECOND: u64 = 1000 * MS;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const YEAR: u64 = 365 * DAY;
/// Go keeps durations as nanoseconds in 63 bits; we refuse what it refuses.
const DURATION_MS_MAX: u64 = (i64::MAX as u64) / 1_000_000;

/// Units in the order in which they may follow each other, in milliseconds. The first three are printed only if nothing
/// is left over.
const DURATION_UNITS: [(&str, u64); 7] =
    [("y", YEAR), ("w", WEEK), ("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", MS)];
const EXACT_UNITS_COUNT: usize = 3;

const SIZE_UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];

/// Why a duration or a size was refused, with an example of a good one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// Reads `1h30m`, `500ms`, `0`: whole numbers with units, from years down to milliseconds, each at most once.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let invalid =
        || UnitError(format!("not a valid duration string: {text:?}; write a number and a unit, such as 15s or 1h30m"));
    let out_of_range = || UnitError(format!("duration out of range: {text:?}; at most 292y fit"));
    match text {
        "0" => return Ok(Duration::ZERO),
        "" => return Err(UnitError("empty duration string; write a number and a unit, such as 15s".to_owned())),
        _ => {}
    }
    let mut rest = text;
    let mut units = DURATION_UNITS.iter();
    let mut total_ms = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let (_, unit_ms) = units.find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        if number.is_empty() {
            return Err(invalid());
        }
        let number: u64 = number.parse().map_err(|_| out_of_range())?;
        let part_ms = number.checked_mul(*unit_ms).ok_or_else(out_of_range)?;
        total_ms = total_ms.checked_add(part_ms).filter(|ms| *ms <= DURATION_MS_MAX).ok_or_else(out_of_range)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration so that [`parse_duration`] reads it: `1m30s`, `2w`, `0s`. Parts of a millisecond are cut off.
pub fn format_duration(duration: Duration) -> String {
    let mut rest_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest_ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (index, (unit, unit_ms)) in DURATION_UNITS.iter().enumerate() {
        if index < EXACT_UNITS_COUNT && !rest_ms.is_multiple_of(*unit_ms) {
            continue;
        }
        let number = rest_ms / unit_ms;
        if number > 0 {
            write!(out, "{number}{unit}").expect("a string takes everything");
            rest_ms %= unit_ms;
        }
    }
    out
}

/// Reads `512MB`, `1.5GiB`, `0`: bytes with a unit, always by powers of 1024.
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
        total += number * 1024_f64.powi(i32::try_from(power).expect("seven units"));
        rest = tail;
    }
    if total >= i64::MAX as f64 {
        return Err(UnitError(format!("units: size {text:?} is out of range; at most 8EB fit")));
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
            write!(out, "{number}{unit}{suffix}").expect("a string takes everything");
        }
    }
    out
}
