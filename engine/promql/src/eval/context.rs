//! What every node of an evaluation needs: samples, limits, annotations, and evaluation over windows.
//!
//! Invariants:
//!   * a node gives, for all times of its grid at once, one column per series; no two columns of an answer have the same
//!     labels and a value at the same time
//!   * the samples and points in memory are counted against the limit, and the deadline is looked at for every series

use crate::annotations::AnnotationCollector;
use crate::eval::partial::PartialAggregate;
use crate::eval::value::{Column, Point, QueryValue, SelectedSeries, histogram_size, is_absent, without_name};
use crate::eval::window::{Window, edged, interpolate};
use crate::plan::grid::{StepGrid, offset_ms};
use crate::plan::planner::Plan;
use crate::syntax::ast::{Aggregate, Expr, Kind, RangeModifier, Selector};
use crate::syntax::error::Span;
use ahash::AHashMap;
use series::histogram::ResetHint;
use series::{Labels, Sample, Timestamp, is_stale};
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a query may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    pub samples_max: usize,
    pub deadline: Option<Instant>,
    /// Set when nobody waits any more.
    pub stop: &'a AtomicBool,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("{0}")]
    Execution(String),
    #[error("query timed out in expression evaluation")]
    Timeout,
    #[error("query was canceled in expression evaluation")]
    Canceled,
}

pub(crate) fn failed<T>(text: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Execution(text.into()))
}

pub(crate) const SAME_LABELS: &str = "vector cannot contain metrics with the same labelset";
pub(crate) const TOO_MANY_SAMPLES: &str = "query processing would load too many samples into memory in query execution";

/// What answers a select.
#[derive(Debug)]
pub enum SelectResult {
    Series(Vec<SelectedSeries>),
    /// The aggregation over it, carried out.
    Partial(Box<PartialAggregate>),
}

/// Everything a node needs.
pub(crate) struct EvalContext<'a> {
    pub plan: &'a Plan,
    data: &'a [SelectResult],
    limits: Limits<'a>,
    pub notes: AnnotationCollector,
    points: Cell<usize>,
    looked_at: Cell<usize>,
    /// Evaluates one node: functions and operators know the context, and the context knows none of them.
    node: NodeEvaluator,
}

/// Evaluates a node of the tree, children included.
pub(crate) type NodeEvaluator = fn(&EvalContext, &Expr, StepGrid) -> Result<QueryValue, EvalError>;

/// Series with their samples, and the window that functions over ranges look through.
pub(crate) struct Windows<'a> {
    pub series: Cow<'a, [SelectedSeries]>,
    /// Of each series, whether its name is not part of the answer.
    pub dropped_names: Vec<bool>,
    pub range: i64,
    pub offset: i64,
    /// Fixed by `@`.
    pub at: Option<i64>,
    pub modifier: RangeModifier,
}

impl<'a> EvalContext<'a> {
    pub fn new(plan: &'a Plan, data: &'a [SelectResult], limits: Limits<'a>, node: NodeEvaluator) -> EvalContext<'a> {
        let (points, looked_at) = (Cell::new(0), Cell::new(0));
        EvalContext { plan, data, limits, notes: AnnotationCollector::default(), points, looked_at, node }
    }

    /// Samples that were looked at, and the most points that were in memory.
    pub fn samples(&self) -> (usize, usize) {
        (self.looked_at.get(), self.points.get())
    }

    /// Looks at the deadline, and counts points that came into memory.
    pub fn spend(&self, points: usize) -> Result<(), EvalError> {
        self.points.set(self.points.get() + points);
        if self.points.get() > self.limits.samples_max {
            return failed(TOO_MANY_SAMPLES);
        }
        if self.limits.stop.load(Ordering::Relaxed) {
            return Err(EvalError::Canceled);
        }
        match self.limits.deadline {
            Some(deadline) if Instant::now() > deadline => Err(EvalError::Timeout),
            _ => Ok(()),
        }
    }

    fn count_scanned(&self, samples: usize) {
        self.looked_at.set(self.looked_at.get() + samples);
    }

    pub fn eval(&self, expr: &Expr, grid: StepGrid) -> Result<QueryValue, EvalError> {
        let answer = (self.node)(self, expr, grid)?;
        if let QueryValue::Scalar(values) = &answer {
            self.spend(values.len())?;
        }
        Ok(answer)
    }

    pub fn vector(&self, expr: &Expr, grid: StepGrid) -> Result<Vec<Column>, EvalError> {
        match self.eval(expr, grid)? {
            QueryValue::Vector(columns) => Ok(columns),
            _ => failed("expected type instant vector"),
        }
    }

    pub fn scalar(&self, expr: &Expr, grid: StepGrid) -> Result<Vec<f64>, EvalError> {
        match self.eval(expr, grid)? {
            QueryValue::Scalar(values) => Ok(values),
            _ => failed("expected type scalar"),
        }
    }

    pub fn text(&self, expr: &Expr, grid: StepGrid) -> Result<String, EvalError> {
        match self.eval(expr, grid)? {
            QueryValue::String(text) => Ok(text),
            _ => failed("expected type string"),
        }
    }

    pub fn data(&self, selector: &Selector) -> &'a [SelectedSeries] {
        match &self.data[selector.select] {
            SelectResult::Series(series) => series,
            SelectResult::Partial(_) => unreachable!("a partial aggregate is taken by its aggregation"),
        }
    }

    /// The aggregation over a select, if it was carried out where the samples are.
    pub fn pushed_down(&self, aggregate: &Aggregate, grid: StepGrid) -> Result<Option<Vec<Column>>, EvalError> {
        let selector = match &aggregate.expr.inner().kind {
            Kind::Vector(selector) => selector,
            Kind::Call { args, .. } => match args.first().map(|arg| &arg.inner().kind) {
                Some(Kind::Matrix { selector, .. }) => selector,
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let SelectResult::Partial(partial) = &self.data[selector.select] else { return Ok(None) };
        assert_eq!(partial.grid(), grid, "a pushdown is for the times at which its aggregation is evaluated");
        let columns = partial.finish(&self.notes).expect("only final sums are handed in");
        self.count_scanned(partial.samples());
        self.spend(columns.len() * grid.count)?;
        Ok(Some(columns))
    }

    /// The newest sample within the lookback of each time; its time in seconds, if `timestamps`.
    pub fn select(&self, selector: &Selector, grid: StepGrid, timestamps: bool) -> Result<Vec<Column>, EvalError> {
        let (at, offset) = (self.plan.at(selector.at), offset_ms(&selector.offset));
        let mut columns = Vec::new();
        for series in self.data(selector) {
            let mut column = Column::absent(series.labels.clone(), grid.count);
            if selector.modifier == RangeModifier::Smoothed {
                interpolate(series, grid, at, offset, self.plan.lookback, &mut column);
            } else {
                newest(series, grid, at, offset, self.plan.lookback, timestamps, &mut column);
            }
            let size = column.size();
            self.spend(size)?;
            self.count_scanned(size);
            if size > 0 {
                columns.push(column);
            }
        }
        Ok(columns)
    }

    pub fn matrix(&self, expr: &Expr, grid: StepGrid) -> Result<Vec<SelectedSeries>, EvalError> {
        let windows = self.windows(expr, grid)?;
        let end = windows.at.unwrap_or(grid.start) - windows.offset;
        let within = |time: i64| time > end - windows.range && time <= end;
        let mut found = Vec::new();
        for (series, dropped) in windows.series.iter().zip(&windows.dropped_names) {
            let labels = if *dropped { without_name(&series.labels) } else { series.labels.clone() };
            let samples: Vec<Sample> =
                series.samples.iter().filter(|sample| within(sample.timestamp.0)).copied().collect();
            let histograms: Vec<_> = series.histograms.iter().filter(|(time, _)| within(*time)).cloned().collect();
            self.spend(samples.len())?;
            if !samples.is_empty() || !histograms.is_empty() {
                found.push(SelectedSeries { labels, samples, histograms });
            }
        }
        Ok(found)
    }

    /// The samples behind a range selector or subquery.
    pub fn windows(&self, expr: &Expr, grid: StepGrid) -> Result<Windows<'a>, EvalError> {
        match &expr.kind {
            Kind::Paren(inner) => self.windows(inner, grid),
            Kind::Matrix { selector, range } => {
                let series = self.data(selector);
                for one in series {
                    let histograms: usize = one.histograms.iter().map(|(_, histogram)| histogram_size(histogram)).sum();
                    self.spend(one.samples.len() + histograms)?;
                }
                Ok(Windows {
                    series: Cow::Borrowed(series),
                    dropped_names: vec![false; series.len()],
                    range: range.ms,
                    offset: offset_ms(&selector.offset),
                    at: self.plan.at(selector.at),
                    modifier: selector.modifier,
                })
            }
            Kind::Subquery(subquery) => {
                let at = self.plan.at(subquery.at);
                let (start, end) = at.map_or((grid.start, grid.end()), |at| (at, at));
                let inner = self.plan.inner_grid(subquery, start, end);
                let columns = match self.eval(&subquery.expr, inner)? {
                    QueryValue::Vector(columns) => columns,
                    QueryValue::Scalar(values) => vec![Column::new(Labels::empty(), values)],
                    _ => return failed("subquery is only allowed on instant vector"),
                };
                let dropped_names = columns.iter().map(|column| column.drop_name).collect();
                let mut series = Vec::with_capacity(columns.len());
                for column in columns {
                    let floats = inner.times().zip(&column.values).filter(|(_, value)| !is_absent(**value));
                    let samples =
                        floats.map(|(time, value)| Sample { timestamp: Timestamp(time), value: *value }).collect();
                    let histograms = match column.histograms {
                        None => Vec::new(),
                        // What a point of another time says of the sample before it does not hold here.
                        Some(list) => inner
                            .times()
                            .zip(list)
                            .filter_map(|(time, histogram)| {
                                let mut histogram = histogram?;
                                if !matches!(histogram.hint, ResetHint::Gauge | ResetHint::Unknown) {
                                    Arc::make_mut(&mut histogram).hint = ResetHint::Unknown;
                                }
                                Some((time, histogram))
                            })
                            .collect(),
                    };
                    series.push(SelectedSeries { labels: column.labels, samples, histograms });
                }
                Ok(Windows {
                    series: Cow::Owned(series),
                    dropped_names,
                    range: subquery.range.ms,
                    offset: offset_ms(&subquery.offset),
                    at,
                    modifier: RangeModifier::Plain,
                })
            }
            _ => failed("expected type range vector"),
        }
    }

    /// A function of each window of each series, at each time. Windows without samples give nothing.
    pub fn over_time(
        &self,
        expr: &Expr,
        grid: StepGrid,
        keep_name: bool,
        of: impl Fn(&Window, usize) -> Option<Point>,
    ) -> Result<Vec<Column>, EvalError> {
        let windows = self.windows(expr, grid)?;
        let mut columns = Vec::with_capacity(windows.series.len());
        for (series, dropped) in windows.series.iter().zip(&windows.dropped_names) {
            let mut column = Column::absent(series.labels.clone(), grid.count);
            let mut floats = Slide::default();
            let mut histograms = Slide::default();
            let mut any = false;
            for (i, time) in grid.times().enumerate() {
                let end = windows.at.unwrap_or(time) - windows.offset;
                let start = end - windows.range;
                let floats = floats.to(&series.samples, start, end, |sample| sample.timestamp.0);
                let histograms = histograms.to(&series.histograms, start, end, |(time, _)| *time);
                if windows.modifier != RangeModifier::Plain {
                    let point = edged(windows.modifier, series, start, end, self.plan.lookback, |samples| {
                        let window = Window {
                            labels: &series.labels,
                            floats: samples,
                            histograms: &[],
                            start,
                            end,
                            modifier: windows.modifier,
                        };
                        of(&window, i)
                    });
                    any |= point.is_some();
                    column.set(i, point);
                    continue;
                }
                if floats.is_empty() && histograms.is_empty() {
                    continue;
                }
                self.count_scanned(floats.len() + histograms.len());
                let window =
                    Window { labels: &series.labels, floats, histograms, start, end, modifier: RangeModifier::Plain };
                if let Some(point) = of(&window, i) {
                    any = true;
                    match point {
                        Point::Float(value) => column.values[i] = value,
                        point => column.set(i, Some(point)),
                    }
                }
            }
            self.spend(grid.count)?;
            if any {
                column.drop_name = *dropped;
                columns.push(if keep_name { column } else { self.drop_name(column) });
            }
        }
        self.unique(columns)
    }

    /// A function of each value and its place in the grid; names are dropped.
    pub fn map(
        &self,
        columns: Vec<Column>,
        of: impl Fn(Point, usize) -> Option<Point>,
    ) -> Result<Vec<Column>, EvalError> {
        let mut mapped = Vec::with_capacity(columns.len());
        for mut column in columns {
            for i in 0..column.values.len() {
                if let Some(point) = column.point(i) {
                    column.set(i, of(point, i));
                }
            }
            if !column.is_empty() {
                mapped.push(self.drop_name(column));
            }
        }
        self.unique(mapped)
    }

    /// A function of floats; histograms vanish.
    pub fn map_floats(&self, columns: Vec<Column>, of: impl Fn(f64, usize) -> f64) -> Result<Vec<Column>, EvalError> {
        let mut mapped = Vec::with_capacity(columns.len());
        for mut column in columns {
            column.histograms = None;
            for (i, value) in column.values.iter_mut().enumerate() {
                if !is_absent(*value) {
                    *value = of(*value, i);
                }
            }
            if !column.is_empty() {
                mapped.push(self.drop_name(column));
            }
        }
        self.unique(mapped)
    }

    /// A quantile out of bounds is answered, with a warning.
    pub fn check_quantile(&self, q: f64, span: Span) {
        if q.is_nan() || !(0.0..=1.0).contains(&q) {
            let mut text = "quantile value should be between 0 and 1, got ".to_owned();
            // Writing into a string does not fail.
            let _ = series::format_float(q, &mut text);
            self.notes.warn(span, text);
        }
    }

    /// Takes the name off, now or at the end.
    pub fn drop_name(&self, mut column: Column) -> Column {
        if self.plan.delayed_names {
            column.drop_name = true;
        } else {
            column.labels = without_name(&column.labels);
        }
        column
    }

    /// Joins columns of the same labels; two values at one time are an error, unless names are dropped at the end.
    pub fn unique(&self, columns: Vec<Column>) -> Result<Vec<Column>, EvalError> {
        let mut indexes: AHashMap<Labels, usize> = AHashMap::with_capacity(columns.len());
        let mut joined: Vec<Column> = Vec::with_capacity(columns.len());
        for column in columns {
            match indexes.get(&column.labels) {
                None => {
                    indexes.insert(column.labels.clone(), joined.len());
                    joined.push(column);
                }
                Some(index) => {
                    let first = &mut joined[*index];
                    first.drop_name |= column.drop_name;
                    for i in 0..column.values.len() {
                        if let Some(point) = column.point(i) {
                            if first.has(i) {
                                return failed(SAME_LABELS);
                            }
                            first.set(i, Some(point));
                        }
                    }
                }
            }
        }
        Ok(joined)
    }

    pub fn without_dropped_names(&self, columns: Vec<Column>) -> Result<Vec<Column>, EvalError> {
        if !columns.iter().any(|column| column.drop_name) {
            return Ok(columns);
        }
        let named = columns.into_iter().map(|mut column| {
            if column.drop_name {
                column.labels = without_name(&column.labels);
                column.drop_name = false;
            }
            column
        });
        self.unique(named.collect())
    }
}

/// A window that moves over sorted samples.
#[derive(Default)]
struct Slide {
    from: usize,
    to: usize,
}

impl Slide {
    fn to<'s, T>(&mut self, all: &'s [T], start: i64, end: i64, time: impl Fn(&T) -> i64) -> &'s [T] {
        while all.get(self.to).is_some_and(|one| time(one) <= end) {
            self.to += 1;
        }
        while self.from < self.to && time(&all[self.from]) <= start {
            self.from += 1;
        }
        &all[self.from..self.to]
    }
}

/// Writes the newest sample of each time into the column.
fn newest(
    series: &SelectedSeries,
    grid: StepGrid,
    at: Option<i64>,
    offset: i64,
    lookback: i64,
    timestamps: bool,
    column: &mut Column,
) {
    let (mut floats, mut histograms) = (0, 0);
    for (i, time) in grid.times().enumerate() {
        let time = at.unwrap_or(time) - offset;
        while series.samples.get(floats).is_some_and(|sample| sample.timestamp.0 <= time) {
            floats += 1;
        }
        while series.histograms.get(histograms).is_some_and(|(at, _)| *at <= time) {
            histograms += 1;
        }
        let float = floats.checked_sub(1).map(|newest| &series.samples[newest]);
        let histogram = histograms.checked_sub(1).map(|newest| &series.histograms[newest]);
        let float_time = float.map_or(i64::MIN, |sample| sample.timestamp.0);
        let histogram_time = histogram.map_or(i64::MIN, |(at, _)| *at);
        let oldest = time - lookback;
        if float_time > histogram_time {
            let sample = float.expect("it has a time");
            if float_time > oldest && !is_stale(sample.value) {
                column.values[i] = if timestamps { float_time as f64 / 1000.0 } else { sample.value };
            }
        } else if let Some((at, histogram)) = histogram
            && *at > oldest
            && !is_stale(histogram.sum)
        {
            let point =
                if timestamps { Point::Float(*at as f64 / 1000.0) } else { Point::Histogram(Arc::clone(histogram)) };
            column.set(i, Some(point));
        }
    }
}
