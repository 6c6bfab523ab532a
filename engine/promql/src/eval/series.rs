//! From the series of selects to columns, one series after the other.

use crate::annotations::AnnotationSink;
use crate::eval::context::{ColumnSink, EvalContext, EvalError, SelectResult, failed};
use crate::eval::extended::{between, reach, smooth, without_markers};
use crate::eval::math::seconds;
use crate::eval::value::{Column, Point, SelectedSeries, is_absent, without_name};
use crate::eval::window::Window;
use crate::plan::grid::{StepGrid, offset_ms};
use crate::syntax::ast::{Aggregate, Expr, Kind, RangeModifier, Selector};
use crate::syntax::error::Span;
use series::histogram::{Histogram, ResetHint};
use series::{METRIC_NAME, MatchOp, Sample, Timestamp, is_stale, start_of};
use std::sync::Arc;

/// Within one series, deadline and cancellation are looked at after so many samples: some milliseconds of any function.
const CHECK_SAMPLES: usize = 1 << 16;

/// What is wanted of the newest sample of a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewestSample {
    Value,
    /// Its time in seconds.
    Time,
    /// The same of floats; histograms as they are.
    TimeOfFloat,
    /// When what it counts began, in seconds; 0 if that is not known.
    Start,
}

/// The windows that functions of a range vector see.
#[derive(Clone, Copy)]
pub(crate) struct WindowSpec {
    pub range: i64,
    pub offset: i64,
    /// Fixed by `@`.
    pub at: Option<i64>,
    pub modifier: RangeModifier,
}

impl WindowSpec {
    /// The bounds of the window of a time: open at the first, closed at the second.
    pub fn bounds(&self, time: i64) -> (i64, i64) {
        let end = self.at.unwrap_or(time) - self.offset;
        (end - self.range, end)
    }
}

/// Takes the series of a range vector one by one; the flag says that the name is dropped at the end.
type SeriesSink<'s> = dyn FnMut(SelectedSeries, bool) -> Result<(), EvalError> + 's;

/// Whether series of this vector differ in more than their names: then they can be handled one by one also where names are
/// dropped.
pub(crate) fn differ_without_names(expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Paren(inner) => differ_without_names(inner),
        Kind::Vector(selector) | Kind::Matrix { selector, .. } => {
            selector.matchers.iter().any(|one| one.name() == METRIC_NAME && one.op() == MatchOp::Equal)
        }
        Kind::Subquery(subquery) => differ_without_names(&subquery.expr),
        _ => false,
    }
}

impl EvalContext<'_> {
    /// Hands over every series of a select, ready for evaluation. A series is released when `sink` returns.
    fn each_selected(
        &self,
        selector: &Selector,
        sink: &mut dyn FnMut(SelectedSeries) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let select = &self.plan.selects()[selector.select];
        let mut prepared = |mut series: SelectedSeries| {
            self.check()?;
            if select.histogram_stats {
                hint_resets(&mut series.histograms);
                series.histograms.iter_mut().for_each(|(_, histogram)| keep_stats(histogram));
            }
            if !select.is_instant {
                // Ranges know no markers.
                if series.samples.iter().any(|sample| is_stale(sample.value)) {
                    series.samples.retain(|sample| !is_stale(sample.value));
                }
                series.histograms.retain(|(_, histogram)| !is_stale(histogram.sum));
            }
            sink(series)
        };
        match self.take_select(selector.select) {
            SelectResult::Series(all) => all.into_iter().try_for_each(prepared),
            SelectResult::Batches(mut source) => {
                while let Some(batch) = source.next_batch()? {
                    batch.series.into_iter().try_for_each(&mut prepared)?;
                    drop(batch.charge);
                }
                Ok(())
            }
            SelectResult::Partial(_) => unreachable!("a partial aggregate is taken by its aggregation"),
        }
    }

    /// The columns of an aggregation that was carried out where the samples are.
    pub fn pushed_down(&self, aggregate: &Aggregate, grid: StepGrid) -> Result<Option<Vec<Column>>, EvalError> {
        let selector = match &aggregate.expr.inner().kind {
            Kind::Vector(selector) => selector,
            Kind::Call { args, .. } => match args.first().map(|arg| &arg.inner().kind) {
                Some(Kind::Matrix { selector, .. }) => selector,
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let Some(partial) = self.take_partial(selector.select) else { return Ok(None) };
        assert_eq!(partial.grid(), grid, "a pushdown is for the times at which its aggregation is evaluated");
        self.count_scanned(partial.samples());
        self.hold(0, partial.groups() * grid.count * size_of::<f64>())?;
        Ok(Some(partial.finish(&self.annotations).expect("only final partial aggregates are handed in")))
    }

    /// One column per series: the newest sample within the lookback of each time, or what is wanted of it.
    pub fn each_newest(
        &self,
        selector: &Selector,
        grid: StepGrid,
        wanted: NewestSample,
        span: Span,
        sink: &mut ColumnSink,
    ) -> Result<(), EvalError> {
        let (at, offset) = (self.plan.at(selector.at), offset_ms(&selector.offset));
        let annotations = AnnotationSink { notes: &self.annotations, span };
        self.each_selected(selector, &mut |mut series| {
            let mut column = self.new_column(series.labels.clone(), grid)?;
            if selector.modifier == RangeModifier::Smoothed && wanted == NewestSample::Value {
                without_markers(&mut series);
                smooth(&series, grid, at, offset, self.plan.lookback, &annotations, &mut column);
            } else {
                newest(&series, grid, at, offset, self.plan.lookback, wanted, &mut column);
            }
            let size = column.size();
            self.count_scanned(size);
            if size == 0 {
                self.release(0, column.bytes());
                return Ok(());
            }
            self.hold(size, column.histogram_bytes())?;
            sink(column)
        })
    }

    /// The same, all of them.
    pub fn select(
        &self,
        selector: &Selector,
        grid: StepGrid,
        wanted: NewestSample,
        span: Span,
    ) -> Result<Vec<Column>, EvalError> {
        let mut columns = Vec::new();
        self.each_newest(selector, grid, wanted, span, &mut |column| {
            columns.push(column);
            Ok(())
        })?;
        Ok(columns)
    }

    /// The value of a range vector at one time.
    pub fn matrix(&self, expr: &Expr, grid: StepGrid) -> Result<Vec<SelectedSeries>, EvalError> {
        let (start, end) = self.window_spec(expr)?.bounds(grid.start);
        let within = |time: i64| time > start && time <= end;
        let mut found = Vec::new();
        self.each_series(expr, grid, &mut |mut series, drop_name| {
            series.samples.retain(|sample| within(sample.timestamp.0));
            series.histograms.retain(|(time, _)| within(*time));
            if drop_name {
                series.labels = without_name(&series.labels);
            }
            if !series.samples.is_empty() || !series.histograms.is_empty() {
                self.hold(series.size(), series.bytes())?;
                found.push(series);
            }
            Ok(())
        })?;
        Ok(found)
    }

    pub fn window_spec(&self, expr: &Expr) -> Result<WindowSpec, EvalError> {
        Ok(match &expr.kind {
            Kind::Paren(inner) => return self.window_spec(inner),
            Kind::Matrix { selector, range } => WindowSpec {
                range: range.ms,
                offset: offset_ms(&selector.offset),
                at: self.plan.at(selector.at),
                modifier: selector.modifier,
            },
            Kind::Subquery(subquery) => WindowSpec {
                range: subquery.range.ms,
                offset: offset_ms(&subquery.offset),
                at: self.plan.at(subquery.at),
                modifier: RangeModifier::Plain,
            },
            _ => return failed("expected type range vector"),
        })
    }

    /// Hands over the series of a range vector; those of a subquery one by one where its expression allows it.
    pub fn each_series(&self, expr: &Expr, grid: StepGrid, sink: &mut SeriesSink) -> Result<(), EvalError> {
        match &expr.kind {
            Kind::Paren(inner) => self.each_series(inner, grid, sink),
            Kind::Matrix { selector, .. } => self.each_selected(selector, &mut |series| sink(series, false)),
            Kind::Subquery(subquery) => {
                let at = self.plan.at(subquery.at);
                let (start, end) = at.map_or((grid.start, grid.end()), |at| (at, at));
                let inner = self.plan.inner_grid(subquery, start, end);
                self.each_column(&subquery.expr, inner, &mut |column| {
                    let drop_name = column.drop_name;
                    let series = inner_series(column, inner);
                    let (size, bytes) = (series.size(), series.bytes());
                    self.hold(size, bytes)?;
                    sink(series, drop_name)?;
                    self.release(size, bytes);
                    Ok(())
                })
            }
            _ => failed("expected type range vector"),
        }
    }

    /// A function of each window of each series, at each time. Windows without samples yield nothing.
    pub fn over_time(
        &self,
        expr: &Expr,
        grid: StepGrid,
        keep_name: bool,
        of: &dyn Fn(&Window, usize) -> Option<Point>,
        sink: &mut ColumnSink,
    ) -> Result<(), EvalError> {
        let spec = self.window_spec(expr)?;
        self.each_series(expr, grid, &mut |series, drop_name| {
            let mut column = self.new_column(series.labels.clone(), grid)?;
            self.of_windows(&series, spec, grid, of, &mut column)?;
            let size = column.size();
            if size == 0 {
                self.release(0, column.bytes());
                return Ok(());
            }
            self.hold(size, column.histogram_bytes())?;
            column.drop_name = drop_name;
            sink(if keep_name { column } else { self.drop_name(column) })
        })
    }

    fn of_windows(
        &self,
        series: &SelectedSeries,
        spec: WindowSpec,
        grid: StepGrid,
        of: &dyn Fn(&Window, usize) -> Option<Point>,
        column: &mut Column,
    ) -> Result<(), EvalError> {
        let (mut floats, mut histograms) = (Slide::default(), Slide::default());
        let modifier = spec.modifier;
        let (mut widest, mut unchecked) = (0, 0);
        for (i, time) in grid.times().enumerate() {
            let (start, end) = spec.bounds(time);
            let (floats, histograms) = if modifier == RangeModifier::Plain {
                let floats = floats.to(&series.samples, start, end, |sample| sample.timestamp.0);
                (floats, histograms.to(&series.histograms, start, end, |(time, _)| *time))
            } else {
                let (from, to) = reach(modifier, start, end, self.plan.lookback);
                let floats = between(&series.samples, from, to, |sample| sample.timestamp.0);
                (floats, between(&series.histograms, from, to, |(time, _)| *time))
            };
            if floats.is_empty() && histograms.is_empty() {
                continue;
            }
            let size = floats.len() + histograms.len();
            self.count_scanned(size);
            unchecked += size;
            if unchecked >= CHECK_SAMPLES {
                unchecked = 0;
                self.check()?;
            }
            // Prometheus counts the samples of one window of one series at a time.
            if size > widest {
                widest = size;
                self.touch(size)?;
            }
            let (labels, starts) = (&series.labels, &series.starts[..]);
            match of(&Window { labels, floats, histograms, starts, start, end, modifier }, i) {
                None => {}
                Some(Point::Float(value)) => column.values[i] = value,
                Some(point) => column.set(i, Some(point)),
            }
        }
        Ok(())
    }
}

/// The samples that a column of a subquery has.
fn inner_series(column: Column, inner: StepGrid) -> SelectedSeries {
    let floats = inner.times().zip(&column.values).filter(|(_, value)| !is_absent(**value));
    let samples = floats.map(|(time, value)| Sample { timestamp: Timestamp(time), value: *value }).collect();
    // A hint refers to the sample before in the stored series, which need not be the one before here.
    let detached = |mut histogram: Arc<Histogram>| {
        if !matches!(histogram.hint, ResetHint::Gauge | ResetHint::Unknown) {
            Arc::make_mut(&mut histogram).hint = ResetHint::Unknown;
        }
        histogram
    };
    let histograms = inner.times().zip(column.histograms.into_iter().flatten());
    let histograms = histograms.filter_map(|(time, histogram)| Some((time, detached(histogram?)))).collect();
    SelectedSeries { labels: column.labels, samples, histograms, starts: Vec::new() }
}

/// Says of samples of unknown past whether they follow a reset.
fn hint_resets(histograms: &mut [(i64, Arc<Histogram>)]) {
    for i in 1..histograms.len() {
        let (before, now) = histograms.split_at_mut(i);
        let (before, now) = (&before[i - 1].1, &mut now[0].1);
        if now.hint == ResetHint::Unknown && !is_stale(now.sum) {
            let hint = if now.detect_reset(before) { ResetHint::Reset } else { ResetHint::NotReset };
            Arc::make_mut(now).hint = hint;
        }
    }
}

/// Leaves count, sum, hint and kind.
fn keep_stats(histogram: &mut Arc<Histogram>) {
    let Histogram { hint, schema, count, sum, .. } = **histogram;
    *histogram = Arc::new(Histogram { hint, schema, count, sum, ..Histogram::default() });
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
    wanted: NewestSample,
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
                column.values[i] = match wanted {
                    NewestSample::Value => sample.value,
                    NewestSample::Start => seconds(start_of(&series.starts, float_time)),
                    NewestSample::Time | NewestSample::TimeOfFloat => seconds(float_time),
                };
            }
        } else if let Some((at, histogram)) = histogram
            && *at > oldest
            && !is_stale(histogram.sum)
        {
            let point = match wanted {
                NewestSample::Time => Point::Float(seconds(*at)),
                NewestSample::Start => Point::Float(seconds(start_of(&series.starts, *at))),
                NewestSample::Value | NewestSample::TimeOfFloat => Point::Histogram(Arc::clone(histogram)),
            };
            column.set(i, Some(point));
        }
    }
}
