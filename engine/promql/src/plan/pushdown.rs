//! Aggregations that can be carried out where the samples are.

use crate::plan::grid::{StepGrid, offset_ms};
use crate::syntax::ast::{Aggregate, AggregateOp, Expr, Kind, RangeModifier, Selector};
use crate::syntax::error::Span;
use series::{Labels, METRIC_NAME, MatchOp, Matcher, Timestamp};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

/// The value of each series that is aggregated: its newest sample, or a function of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeriesInput {
    Newest,
    Over(Function),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Rate,
    Increase,
    Delta,
    Irate,
    Idelta,
    Sum,
    Avg,
    Min,
    Max,
    Count,
    Present,
    Changes,
    Resets,
}

impl Function {
    fn named(name: &str) -> Option<Function> {
        Some(match name {
            "rate" => Function::Rate,
            "increase" => Function::Increase,
            "delta" => Function::Delta,
            "irate" => Function::Irate,
            "idelta" => Function::Idelta,
            "sum_over_time" => Function::Sum,
            "avg_over_time" => Function::Avg,
            "min_over_time" => Function::Min,
            "max_over_time" => Function::Max,
            "count_over_time" => Function::Count,
            "present_over_time" => Function::Present,
            "changes" => Function::Changes,
            "resets" => Function::Resets,
            _ => return None,
        })
    }
}

/// An aggregation over a select that needs no more of a series than its samples.
#[derive(Debug)]
pub struct Pushdown {
    pub(crate) aggregate: Arc<Aggregate>,
    pub(crate) inner: SeriesInput,
    pub(crate) grid: StepGrid,
    /// Fixed by `@`.
    pub(crate) at: Option<i64>,
    pub(crate) offset: i64,
    /// How far back a sample counts: the range, or the lookback.
    pub(crate) back: i64,
    pub(crate) argument: Span,
    /// The function drops the name, and series may differ in their names alone.
    pub(crate) names_vanish: bool,
}

impl Pushdown {
    /// The pushdown of an aggregation, if it has one.
    pub(crate) fn of(
        aggregate: &Aggregate,
        grid: StepGrid,
        at: impl Fn(&Selector) -> Option<i64>,
        lookback: i64,
        delayed_names: bool,
    ) -> Option<Pushdown> {
        use AggregateOp::*;
        if !matches!(aggregate.op, Sum | Avg | Count | Min | Max | Group) {
            return None;
        }
        let by_name = !aggregate.without && aggregate.labels.iter().any(|label| label == METRIC_NAME);
        let inner: &Expr = aggregate.expr.inner();
        let (selector, kind, back, argument) = match &inner.kind {
            Kind::Vector(selector) => (selector, SeriesInput::Newest, lookback, inner.span),
            Kind::Call { function, args } if !by_name => {
                let over = Function::named(function.name)?;
                let Kind::Matrix { selector, range } = &args[0].inner().kind else { return None };
                (selector, SeriesInput::Over(over), range.ms, args[0].span)
            }
            _ => return None,
        };
        if selector.modifier != RangeModifier::Plain {
            return None;
        }
        let one_name = |matcher: &Matcher| matcher.name() == METRIC_NAME && matcher.op() == MatchOp::Equal;
        Some(Pushdown {
            aggregate: Arc::new(aggregate.clone()),
            inner: kind,
            grid,
            at: at(selector),
            offset: offset_ms(&selector.offset),
            back,
            argument,
            names_vanish: kind != SeriesInput::Newest && !delayed_names && !selector.matchers.iter().any(one_name),
        })
    }

    /// Whether only the newest sample at each time matters.
    pub fn is_newest(&self) -> bool {
        self.inner == SeriesInput::Newest
    }

    /// The time of the first step, if each step takes the newest sample up to its time: of those up to the first only the
    /// newest matters.
    pub fn newest_from(&self) -> Option<Timestamp> {
        let first = self.at.unwrap_or(self.grid.start) - self.offset;
        (self.inner == SeriesInput::Newest).then_some(Timestamp(first))
    }

    /// Whether series that differ in their names alone are an error.
    pub fn names_vanish(&self) -> bool {
        self.names_vanish
    }

    /// Targets that agree on this have the same groups for the same slots.
    pub fn target_key(&self, target: &Labels) -> u64 {
        let listed = |name: &str| self.aggregate.labels.iter().any(|label| label == name);
        let mut hasher = ahash::RandomState::with_seeds(1, 2, 3, 4).build_hasher();
        for label in target.iter().filter(|(name, _)| listed(name) != self.aggregate.without) {
            label.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// What of a series' own labels decides on its group: series of one target that agree on this are in one group.
    pub fn own_key<'p>(&self, own: impl Iterator<Item = (&'p str, &'p str)>) -> Vec<(&'p str, &'p str)> {
        let listed = |name: &str| self.aggregate.labels.iter().any(|label| label == name);
        // Rates are remarked on by the names of their metrics.
        let decides = |name: &str| match name == METRIC_NAME {
            true => self.reset_corrected() || (!self.aggregate.without && listed(name)),
            false => listed(name) != self.aggregate.without,
        };
        own.filter(|(name, _)| decides(name)).collect()
    }

    pub(crate) fn reset_corrected(&self) -> bool {
        matches!(self.inner, SeriesInput::Over(Function::Rate | Function::Increase))
    }
}
