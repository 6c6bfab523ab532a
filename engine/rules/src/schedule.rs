//! The times at which a group is evaluated: a fixed phase of the wall clock, measured by the monotonic clock.
//!
//! Invariants:
//!   * times of evaluation lie on `phase + n * interval`
//!   * each tick is an evaluation or is counted as missed
//!   * when the wall clock is set, the phase applies to the new time, and the change is reported

/// Difference between the clocks above which the wall clock counts as set.
const JUMP_MS_MIN: i64 = 1500;

#[derive(Debug)]
pub struct Schedule {
    interval_ms: i64,
    phase_ms: i64,
    /// Wall-clock time of the next evaluation.
    next_at: i64,
    /// The same time by the monotonic clock.
    due: i64,
}

/// A due evaluation.
#[derive(Debug, PartialEq, Eq)]
pub struct Tick {
    pub at: i64,
    /// Number of evaluations before it that were missed.
    pub missed: u64,
    /// Change of the wall clock since the last evaluation.
    pub jumped_ms: i64,
}

impl Schedule {
    /// `hash` determines the phase. `wall` and `now` are the two clocks, in milliseconds.
    pub fn start(hash: u64, interval_ms: i64, wall: i64, now: i64) -> Schedule {
        let interval_ms = interval_ms.max(1);
        // In nanoseconds, as Prometheus does.
        let phase_ms = (hash % (interval_ms as u64).saturating_mul(1_000_000) / 1_000_000) as i64;
        let mut schedule = Schedule { interval_ms, phase_ms, next_at: 0, due: 0 };
        schedule.next_at = schedule.slot(wall) + interval_ms;
        schedule.due = now + schedule.next_at - wall;
        schedule
    }

    /// Returns the last time of evaluation that is not after `wall`.
    fn slot(&self, wall: i64) -> i64 {
        (wall - self.phase_ms).div_euclid(self.interval_ms) * self.interval_ms + self.phase_ms
    }

    /// Returns when the next evaluation is due, by the monotonic clock.
    pub fn due(&self) -> i64 {
        self.due
    }

    /// Returns the due evaluation. `now` must not be before [`Schedule::due`].
    pub fn tick(&mut self, wall: i64, now: i64) -> Tick {
        let late = (now - self.due).max(0);
        let missed = late / self.interval_ms;
        let mut at = self.next_at + missed * self.interval_ms;
        let drift = wall - (self.next_at + late);
        let mut jumped_ms = 0;
        if drift.abs() >= JUMP_MS_MIN {
            let slot = self.slot(wall);
            jumped_ms = slot - at;
            at = slot;
        }
        self.next_at = at + self.interval_ms;
        self.due = now + (self.next_at - wall).max(0);
        Tick { at, missed: missed as u64, jumped_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phase_is_fixed() {
        for wall in [0, 1, 9_999, 10_000, 123_456_789] {
            let schedule = Schedule::start(3_000_000_000, 10_000, wall, 5);
            assert_eq!(schedule.next_at % 10_000, 3_000);
            assert!(schedule.next_at > wall && schedule.next_at <= wall + 10_000);
            assert_eq!(schedule.due(), 5 + schedule.next_at - wall);
        }
    }

    #[test]
    fn missed_evaluations_are_counted() {
        let mut schedule = Schedule::start(0, 1000, 10_500, 0);
        assert_eq!(schedule.tick(11_001, 501), Tick { at: 11_000, missed: 0, jumped_ms: 0 });
        assert_eq!(schedule.due(), 1500);
        assert_eq!(schedule.tick(15_300, 4800), Tick { at: 15_000, missed: 3, jumped_ms: 0 });
        assert_eq!(schedule.tick(16_000, 5500), Tick { at: 16_000, missed: 0, jumped_ms: 0 });
    }

    #[test]
    fn clocks_that_jump_move_the_evaluation_and_are_told() {
        let mut schedule = Schedule::start(0, 1000, 10_500, 0);
        assert_eq!(schedule.tick(11_000, 500).at, 11_000);
        assert_eq!(schedule.tick(3_612_000, 1500), Tick { at: 3_612_000, missed: 0, jumped_ms: 3_600_000 });
        assert_eq!(schedule.tick(3_613_000, 2500), Tick { at: 3_613_000, missed: 0, jumped_ms: 0 });
        assert_eq!(schedule.tick(14_200, 3500), Tick { at: 14_000, missed: 0, jumped_ms: -3_600_000 });
        assert_eq!(schedule.due(), 4300);
    }

    #[test]
    fn drift_is_followed() {
        let mut schedule = Schedule::start(0, 1000, 10_500, 0);
        // The wall clock runs a tenth slower.
        assert_eq!(schedule.tick(10_950, 500), Tick { at: 11_000, missed: 0, jumped_ms: 0 });
        assert_eq!(schedule.due(), 1550);
    }
}
