//! Start times of samples: when what a counter or histogram counts began.
//!
//! They are many samples' in common, so a series has a list of where they change, apart from its samples.

/// No start time, as Prometheus has it.
pub const NO_START: i64 = 0;

/// Times of samples in Unix milliseconds, ascending, and the start time that samples have from then on; [`NO_START`] for none.
pub type StartTimes = Vec<(i64, i64)>;

/// Notes the start time of a sample. Samples that came in another order than that of time need [`sort_starts`].
pub fn note_start(starts: &mut StartTimes, time_ms: i64, start: i64) {
    let (from, last) = starts.last().copied().unwrap_or((i64::MIN, NO_START));
    if last != start || time_ms < from {
        starts.push((time_ms, start));
    }
}

/// The start time of a sample at this time.
pub fn start_of(starts: &[(i64, i64)], time_ms: i64) -> i64 {
    match starts.partition_point(|(from, _)| *from <= time_ms) {
        0 => NO_START,
        place => starts[place - 1].1,
    }
}

/// Puts start times that were noted in any order into the order of time; of two for one time the later one counts.
pub fn sort_starts(starts: &mut StartTimes) {
    starts.sort_by_key(|(at, _)| *at);
    starts.reverse();
    starts.dedup_by_key(|(at, _)| *at);
    starts.reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_the_start_time_that_was_noted_last() {
        let mut starts = StartTimes::new();
        [(10, 0), (20, 5), (30, 5), (40, 0), (50, 45)]
            .iter()
            .for_each(|(at, start)| note_start(&mut starts, *at, *start));
        assert_eq!(starts, [(20, 5), (40, 0), (50, 45)]);
        assert_eq!([10, 19, 20, 39, 40, 50, 99].map(|at| start_of(&starts, at)), [0, 0, 5, 5, 0, 45, 45]);
        let mut mixed = vec![(50, 45), (20, 4), (40, 0), (20, 5)];
        sort_starts(&mut mixed);
        assert_eq!(mixed, starts);
    }
}
