//! The times at which an expression is evaluated.

use crate::syntax::ast::{At, DurationExpr, Subquery};

/// Times at which an expression is evaluated: `count` of them from `start` on, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepGrid {
    pub start: i64,
    pub step: i64,
    pub count: usize,
}

impl StepGrid {
    /// One time.
    pub fn instant(at: i64) -> StepGrid {
        StepGrid { start: at, step: 1, count: 1 }
    }

    /// From `start` to `end`, both included if the step fits.
    pub fn range(start: i64, end: i64, step: i64) -> StepGrid {
        let step = step.max(1);
        StepGrid { start, step, count: (end.saturating_sub(start).max(0) / step) as usize + 1 }
    }

    pub fn end(&self) -> i64 {
        self.start + self.step * (self.count as i64 - 1)
    }

    pub fn time(&self, i: usize) -> i64 {
        self.start + self.step * i as i64
    }

    pub fn times(&self) -> impl Iterator<Item = i64> + use<> {
        let (start, step) = (self.start, self.step);
        (0..self.count as i64).map(move |i| start + step * i)
    }
}

/// The time that `@` fixes, in a query from `grid.0` to `grid.1`.
pub(crate) fn at_ms(at: Option<At>, grid: (i64, i64)) -> Option<i64> {
    Some(match at? {
        At::Start => grid.0,
        At::End => grid.1,
        At::Ms(ms) => ms,
    })
}

pub(crate) fn offset_ms(offset: &Option<DurationExpr>) -> i64 {
    offset.as_ref().map_or(0, |offset| offset.ms)
}

/// The times of a subquery whose first evaluation is for `start`, and whose last for `end`.
pub(crate) fn inner_grid(subquery: &Subquery, start: i64, end: i64, default_step: i64) -> StepGrid {
    let step = subquery.step.as_ref().map_or(default_step, |step| step.ms).max(1);
    let offset = offset_ms(&subquery.offset);
    let (first, last) = (start.saturating_sub(offset).saturating_sub(subquery.range.ms), end.saturating_sub(offset));
    // Steps are multiples of the step, whatever the query's range is; the window is open to the left.
    let begin = (first.div_euclid(step) * step).saturating_add(step);
    let count = if last < begin { 0 } else { (last - begin) / step + 1 };
    StepGrid { start: begin, step, count: count as usize }
}
