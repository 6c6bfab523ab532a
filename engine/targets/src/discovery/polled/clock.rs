//! Times as requests and signatures have them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A time of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    year: u64,
    month: u64,
    day: u64,
    second: u64,
    /// Thursday is 0, as 1 January 1970 was one.
    weekday: usize,
}

/// Returns the time of the calendar (Howard Hinnant's algorithm for days of the era).
pub fn utc(seconds: u64) -> Utc {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    Utc { year, month, day, second, weekday: (days % 7) as usize }
}

impl Utc {
    fn clock(self) -> (u64, u64, u64) {
        (self.second / 3600, self.second / 60 % 60, self.second % 60)
    }

    /// `20150830T123600Z`
    pub fn basic_text(self) -> String {
        let (hour, minute, second) = self.clock();
        format!("{:04}{:02}{:02}T{hour:02}{minute:02}{second:02}Z", self.year, self.month, self.day)
    }

    /// `2015-08-30T12:36:00`
    pub fn seconds_text(self) -> String {
        let (hour, minute, second) = self.clock();
        format!("{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}", self.year, self.month, self.day)
    }

    /// `Sun, 30 Aug 2015 12:36:00 GMT`
    pub fn http_text(self) -> String {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let (hour, minute, second) = self.clock();
        let (weekday, month) = (DAYS[self.weekday % 7], MONTHS[(self.month as usize + 11) % 12]);
        format!("{weekday}, {:02} {month} {:04} {hour:02}:{minute:02}:{second:02} GMT", self.day, self.year)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written() {
        let time = utc(1_440_938_160);
        assert_eq!(time.basic_text(), "20150830T123600Z");
        assert_eq!(time.seconds_text(), "2015-08-30T12:36:00");
        assert_eq!(time.http_text(), "Sun, 30 Aug 2015 12:36:00 GMT");
        assert_eq!(utc(0).http_text(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(utc(951_782_400).seconds_text(), "2000-02-29T00:00:00");
        assert_eq!(utc(4_107_542_399).seconds_text(), "2100-02-28T23:59:59");
    }
}
