//! Civil time: dates of the proleptic Gregorian calendar and RFC 3339, in UTC.
//!
//! Source of the arithmetic: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".

use crate::Timestamp;
use std::fmt;

/// Days from 0000-03-01, where the algorithm counts from, to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;

/// Shows a timestamp as RFC 3339 with as many digits of the milliseconds as it needs.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(pub Timestamp);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unix_ms = self.0.0;
        let (days, in_day) = (unix_ms.div_euclid(86_400_000), unix_ms.rem_euclid(86_400_000));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second, ms) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60, in_day % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if ms != 0 {
            write!(f, ".{}", format!("{ms:03}").trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// Returns year, month (1 to 12) and day of the month of a day counted from 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(ERA_DAYS);
    let day_of_era = days.rem_euclid(ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Returns the day, counted from 1970-01-01, of a date. `month` is 1 to 12; a `day` past the end of its month counts on
/// into the next one.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * ERA_DAYS + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - EPOCH_DAYS
}

/// Returns the number of days of a month (1 to 12).
pub fn days_in_month(year: i64, month: i64) -> i64 {
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_from_civil(next_year, next_month, 1) - days_from_civil(year, month, 1)
}

/// Reads RFC 3339, with a fraction of a second and any zone: `2024-02-29T12:34:56.789Z`, `2024-02-29T13:34:56+01:00`.
/// Digits below a millisecond are dropped. Returns none for anything else, dates that do not exist included.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, want)| text.as_bytes().get(*at) != Some(want)) {
        return None;
    }
    let (year, month, day) = (digits(text, 0, 4)?, digits(text, 5, 7)?, digits(text, 8, 10)?);
    let (hour, minute, second) = (digits(text, 11, 13)?, digits(text, 14, 16)?, digits(text, 17, 19)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction_ms, zone) = match text.get(19..)?.strip_prefix(['.', ',']) {
        None => (0, text.get(19..)?),
        Some(rest) => {
            let count = rest.bytes().take_while(u8::is_ascii_digit).count();
            let padded = format!("{:0<3}", rest.get(..count.min(3))?);
            (if count == 0 { None } else { padded.parse::<i64>().ok() }?, rest.get(count..)?)
        }
    };
    let days = days_from_civil(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + (minute - zone_minutes(zone)?) * 60 + second;
    Some(Timestamp(seconds * 1000 + fraction_ms))
}

fn digits(text: &str, from: usize, to: usize) -> Option<i64> {
    let digits = text.get(from..to)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Minutes that a zone, `Z` or `+01:00`, is ahead of UTC.
fn zone_minutes(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    if zone.len() != 6 || zone.as_bytes()[3] != b':' {
        return None;
    }
    let (hours, minutes) = (digits(zone, 1, 3)?, digits(zone, 4, 6)?);
    (hours <= 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_and_read() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_709_210_096_789, "2024-02-29T12:34:56.789Z"),
            (4_107_542_399_100, "2100-02-28T23:59:59.1Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Rfc3339(Timestamp(unix_ms)).to_string(), text);
            assert_eq!(parse_rfc3339(text), Some(Timestamp(unix_ms)));
        }
    }

    #[test]
    fn rfc3339_in_other_zones_and_what_is_none() {
        for (text, want) in [
            ("2024-02-29T13:34:56.789+01:00", Some(1_709_210_096_789)),
            ("2024-02-29T04:04:56.7891-08:30", Some(1_709_210_096_789)),
            ("1970-01-01T00:00:00.5Z", Some(500)),
            ("1970-01-01T00:00:00.000999Z", Some(0)),
            ("1970-01-01T00:00:00.Z", None),
            ("1970-01-01T00:00:00", None),
            ("1970-01-01 00:00:00Z", None),
            ("1970-01-01t00:00:00z", None),
            ("1970-13-01T00:00:00Z", None),
            ("1970-00-01T00:00:00Z", None),
            ("2023-02-29T00:00:00Z", None),
            ("2024-02-30T00:00:00Z", None),
            ("1970-01-01T24:00:00Z", None),
            ("1970-01-01T00:60:00Z", None),
            ("1970-01-01T00:00:60Z", None),
            ("1970-01-01T00:00:00+1:00", None),
            ("1970-01-01T00:00:00+01:60", None),
            ("1970-01-01T00:00:00é", None),
            ("+970-01-01T00:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339(text), want.map(Timestamp), "{text:?}");
        }
    }

    #[test]
    fn days_and_dates_are_inverse() {
        let mut expected = (1599, 12, 31);
        for days in days_from_civil(1600, 1, 1)..days_from_civil(2401, 1, 1) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
            let is_next = match expected {
                (y, 12, 31) => (year, month, day) == (y + 1, 1, 1),
                (y, m, d) if d == days_in_month(y, m) => (year, month, day) == (y, m + 1, 1),
                (y, m, d) => (year, month, day) == (y, m, d + 1),
            };
            assert!(is_next, "{expected:?} is followed by {:?}", (year, month, day));
            expected = (year, month, day);
        }
    }
}
