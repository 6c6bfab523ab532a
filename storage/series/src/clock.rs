//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the Unix time in milliseconds; 0 if the clock is set to before 1970.
pub fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}

/// Returns `time` as Unix time in milliseconds; 0 for times before 1970.
pub fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
