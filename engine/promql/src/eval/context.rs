//! What every node of an evaluation needs: the plan, the budget, annotations, and operations on columns.
//!
//! Invariants:
//!   * a node yields, for all times of its grid at once, one column per series; no two columns of a value have the same
//!     labels and a value at the same time
//!   * after a node, the evaluation is charged with its value and with nothing else that the node took
//!   * each select is taken once, and its samples are released as soon as they have become columns

use crate::annotations::AnnotationCollector;
use crate::budget::{Budget, BudgetError, Charge};
use crate::eval::math::float_text;
use crate::eval::partial::PartialAggregate;
use crate::eval::value::{Column, Point, QueryValue, SelectedSeries, is_absent, without_name};
use crate::plan::grid::StepGrid;
use crate::plan::planner::Plan;
use crate::syntax::ast::Expr;
use crate::syntax::error::Span;
use ahash::AHashMap;
use series::Labels;
use std::cell::{Cell, RefCell};

/// The evaluation charges its budget in steps of so many samples and bytes; a limit is exact for what the evaluation itself
/// holds.
const CHARGE_SAMPLES: u64 = 4096;
const CHARGE_BYTES: u64 = 64 << 10;

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("{0}")]
    Execution(String),
    /// It needs more samples or memory than it may use.
    #[error("{0}")]
    TooLarge(BudgetError),
    #[error("query timed out in expression evaluation")]
    Timeout,
    #[error("query was canceled in expression evaluation")]
    Canceled,
}

impl From<BudgetError> for EvalError {
    fn from(error: BudgetError) -> EvalError {
        match error {
            BudgetError::Timeout => EvalError::Timeout,
            BudgetError::Canceled => EvalError::Canceled,
            error => EvalError::TooLarge(error),
        }
    }
}

pub(crate) fn failed<T>(text: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Execution(text.into()))
}

pub(crate) const SAME_LABELS: &str = "vector cannot contain metrics with the same labelset";

/// Some of the series of a select, and the charge for their memory if they have one.
#[derive(Debug)]
pub struct SeriesBatch {
    pub series: Vec<SelectedSeries>,
    pub charge: Option<Charge>,
}

/// Yields the series of a select batch by batch: each series is whole and comes once. The evaluation fetches a batch when it
/// has made columns of the one before.
pub trait SeriesSource: Send {
    /// None after the last one.
    fn next_batch(&mut self) -> Result<Option<SeriesBatch>, EvalError>;
}

/// The result of a select.
pub enum SelectResult {
    Series(Vec<SelectedSeries>),
    Batches(Box<dyn SeriesSource>),
    /// The aggregation over it, carried out.
    Partial(Box<PartialAggregate>),
}

impl std::fmt::Debug for SelectResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SelectResult::Series(series) => f.debug_tuple("Series").field(series).finish(),
            SelectResult::Batches(_) => f.write_str("Batches"),
            SelectResult::Partial(partial) => f.debug_tuple("Partial").field(partial).finish(),
        }
    }
}

/// Evaluates a node of the tree, children included.
pub(crate) type NodeEvaluator = fn(&EvalContext, &Expr, StepGrid) -> Result<QueryValue, EvalError>;

/// Takes columns one by one.
pub(crate) type ColumnSink<'s> = dyn FnMut(Column) -> Result<(), EvalError> + 's;

/// Evaluates a node that yields a vector, column by column where the node allows it.
pub(crate) type ColumnEvaluator = fn(&EvalContext, &Expr, StepGrid, &mut ColumnSink) -> Result<(), EvalError>;

/// How nodes are evaluated. Functions and operators know the context; the context knows none of them.
#[derive(Clone, Copy)]
pub(crate) struct Evaluators {
    pub node: NodeEvaluator,
    pub columns: ColumnEvaluator,
}

/// Everything a node needs.
pub(crate) struct EvalContext<'a> {
    pub plan: &'a Plan,
    pub annotations: AnnotationCollector,
    /// Of each select, until it is taken.
    selects: Vec<RefCell<Option<SelectResult>>>,
    evaluators: Evaluators,
    budget: &'a Budget,
    /// What the evaluation holds: samples and bytes.
    held: Cell<(u64, u64)>,
    /// At least what it holds, but for one step.
    charge: RefCell<Charge>,
    samples_peak: Cell<u64>,
    scanned: Cell<u64>,
}

impl<'a> EvalContext<'a> {
    pub fn new(
        plan: &'a Plan,
        selects: Vec<SelectResult>,
        budget: &'a Budget,
        evaluators: Evaluators,
    ) -> EvalContext<'a> {
        EvalContext {
            plan,
            annotations: AnnotationCollector::default(),
            selects: selects.into_iter().map(|select| RefCell::new(Some(select))).collect(),
            evaluators,
            budget,
            held: Cell::new((0, 0)),
            charge: RefCell::new(Charge::empty(budget)),
            samples_peak: Cell::new(0),
            scanned: Cell::new(0),
        }
    }

    /// The annotations, and the charge for what the evaluation holds at its end: its value.
    pub fn finish(self) -> Result<(AnnotationCollector, Charge), EvalError> {
        let (samples, bytes) = self.held.get();
        let mut charge = self.charge.into_inner();
        charge.grow(samples.saturating_sub(charge.samples()), bytes.saturating_sub(charge.bytes()))?;
        charge.shrink(charge.samples() - samples, charge.bytes() - bytes);
        Ok((self.annotations, charge))
    }

    // --- account ----------------------------------------------------------------------------------------------------

    /// Looks at the deadline and at cancellation.
    pub fn check(&self) -> Result<(), EvalError> {
        Ok(self.budget.check()?)
    }

    /// Counts samples and bytes that came into memory.
    pub fn hold(&self, samples: usize, bytes: usize) -> Result<(), EvalError> {
        let (before_samples, before_bytes) = self.held.get();
        let (samples, bytes) = (before_samples + samples as u64, before_bytes + bytes as u64);
        self.samples_peak.set(self.samples_peak.get().max(samples));
        let max = self.budget.limits().samples_max;
        if samples > max {
            return Err(BudgetError::Samples { needed: samples, max }.into());
        }
        let mut charge = self.charge.borrow_mut();
        let (missing_samples, missing_bytes) =
            (samples.saturating_sub(charge.samples()), bytes.saturating_sub(charge.bytes()));
        if missing_samples >= CHARGE_SAMPLES || missing_bytes >= CHARGE_BYTES {
            charge.grow(missing_samples, missing_bytes)?;
        }
        self.held.set((samples, bytes));
        Ok(())
    }

    /// Fails if so many samples more cannot be held for a moment.
    pub fn touch(&self, samples: usize) -> Result<(), EvalError> {
        let samples = self.held.get().0 + samples as u64;
        self.samples_peak.set(self.samples_peak.get().max(samples));
        let max = self.budget.limits().samples_max;
        if samples > max { Err(BudgetError::Samples { needed: samples, max }.into()) } else { Ok(()) }
    }

    /// Counts samples and bytes that left memory.
    pub fn release(&self, samples: usize, bytes: usize) {
        let (before_samples, before_bytes) = self.held.get();
        self.set_held((before_samples.saturating_sub(samples as u64), before_bytes.saturating_sub(bytes as u64)));
    }

    fn set_held(&self, held: (u64, u64)) {
        self.held.set(held);
        let mut charge = self.charge.borrow_mut();
        let (spare_samples, spare_bytes) =
            (charge.samples().saturating_sub(held.0), charge.bytes().saturating_sub(held.1));
        if spare_samples >= CHARGE_SAMPLES || spare_bytes >= CHARGE_BYTES {
            charge.shrink(spare_samples, spare_bytes);
        }
    }

    /// Counts samples that were scanned, as Prometheus' statistics do.
    pub fn count_scanned(&self, samples: usize) {
        self.scanned.set(self.scanned.get() + samples as u64);
    }

    /// Samples that were scanned, and the most that were in memory.
    pub fn samples(&self) -> (usize, usize) {
        (self.scanned.get() as usize, self.samples_peak.get() as usize)
    }

    // --- nodes ------------------------------------------------------------------------------------------------------

    /// Evaluates a node for another: its columns have a value for each time.
    pub fn eval(&self, expr: &Expr, grid: StepGrid) -> Result<QueryValue, EvalError> {
        match self.eval_final(expr, grid)? {
            QueryValue::Vector(columns) => {
                let expanded: Result<_, _> = columns.into_iter().map(|column| self.expanded(column, grid)).collect();
                expanded.map(QueryValue::Vector)
            }
            other => Ok(other),
        }
    }

    /// Evaluates the node that yields the result: series that live shortly have only as many values as they need.
    pub fn eval_final(&self, expr: &Expr, grid: StepGrid) -> Result<QueryValue, EvalError> {
        self.check()?;
        let before = self.held.get();
        let value = (self.evaluators.node)(self, expr, grid)?;
        // What the node took for itself is gone; its value stays.
        self.set_held(before);
        self.hold(value.samples(), value.bytes())?;
        Ok(value)
    }

    pub fn vector(&self, expr: &Expr, grid: StepGrid) -> Result<Vec<Column>, EvalError> {
        match self.eval(expr, grid)? {
            QueryValue::Vector(columns) => Ok(columns),
            _ => failed("expected type instant vector"),
        }
    }

    /// One value for each time of the grid, counted as held.
    pub fn expanded(&self, column: Column, grid: StepGrid) -> Result<Column, EvalError> {
        if column.len() != grid.count {
            self.hold(0, (grid.count - column.len()) * size_of::<f64>())?;
        }
        Ok(column.expanded(grid.count))
    }

    /// Evaluates a vector and hands its columns to `sink`, one after the other where the expression allows it: then no more
    /// than one is in memory. The column is released when `sink` returns.
    pub fn each_column(&self, expr: &Expr, grid: StepGrid, sink: &mut ColumnSink) -> Result<(), EvalError> {
        (self.evaluators.columns)(self, expr, grid, &mut |column| {
            let (samples, bytes) = (column.size(), column.bytes());
            sink(column)?;
            self.release(samples, bytes);
            Ok(())
        })
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

    /// The result of a select, which is taken once.
    pub fn take_select(&self, index: usize) -> SelectResult {
        self.selects[index].borrow_mut().take().expect("a selector is evaluated once")
    }

    /// Takes the result of a select if its aggregation was carried out where the samples are.
    pub fn take_partial(&self, index: usize) -> Option<Box<PartialAggregate>> {
        let mut select = self.selects[index].borrow_mut();
        match &*select {
            Some(SelectResult::Partial(_)) => {}
            _ => return None,
        }
        match select.take() {
            Some(SelectResult::Partial(partial)) => Some(partial),
            _ => None,
        }
    }

    // --- columns ----------------------------------------------------------------------------------------------------

    /// A column without values, counted as held.
    pub fn new_column(&self, labels: Labels, grid: StepGrid) -> Result<Column, EvalError> {
        self.hold(0, Column::bytes_of(&labels, grid.count))?;
        Ok(Column::absent(labels, grid.count))
    }

    /// As many values as the grid has times, counted as held.
    pub fn new_values(&self, value: f64, grid: StepGrid) -> Result<Vec<f64>, EvalError> {
        self.hold(grid.count, grid.count * size_of::<f64>())?;
        Ok(vec![value; grid.count])
    }

    /// A function of each value and its index in the grid; names are dropped. None if nothing is left.
    pub fn map_column(&self, mut column: Column, of: impl Fn(Point, usize) -> Option<Point>) -> Option<Column> {
        for i in 0..column.values.len() {
            if let Some(point) = column.point(i) {
                column.set(i, of(point, i));
            }
        }
        (!column.is_empty()).then(|| self.drop_name(column))
    }

    /// A function of floats; histograms vanish. None if nothing is left.
    pub fn map_floats_of(&self, mut column: Column, of: impl Fn(f64, usize) -> f64) -> Option<Column> {
        column.histograms = None;
        for (i, value) in column.values.iter_mut().enumerate() {
            if !is_absent(*value) {
                *value = of(*value, i);
            }
        }
        (!column.is_empty()).then(|| self.drop_name(column))
    }

    /// [`EvalContext::map_column`] of each column.
    pub fn map(
        &self,
        columns: Vec<Column>,
        of: impl Fn(Point, usize) -> Option<Point>,
    ) -> Result<Vec<Column>, EvalError> {
        self.unique(columns.into_iter().filter_map(|column| self.map_column(column, &of)).collect())
    }

    /// [`EvalContext::map_floats_of`] of each column.
    pub fn map_floats(&self, columns: Vec<Column>, of: impl Fn(f64, usize) -> f64) -> Result<Vec<Column>, EvalError> {
        self.unique(columns.into_iter().filter_map(|column| self.map_floats_of(column, &of)).collect())
    }

    /// Warns of a quantile that is out of bounds; it is evaluated all the same.
    pub fn check_quantile(&self, q: f64, span: Span) {
        if q.is_nan() || !(0.0..=1.0).contains(&q) {
            self.annotations.warn(span, format!("quantile value should be between 0 and 1, got {}", float_text(q)));
        }
    }

    /// Drops the name, now or at the end.
    pub fn drop_name(&self, mut column: Column) -> Column {
        if self.plan.delayed_names {
            column.drop_name = true;
        } else {
            column.labels = without_name(&column.labels);
        }
        column
    }

    /// Joins columns of the same labels; two values at one time are an error.
    pub fn unique(&self, columns: Vec<Column>) -> Result<Vec<Column>, EvalError> {
        // A second list, and the places by labels.
        self.hold(0, columns.len() * (size_of::<Column>() + 2 * size_of::<(Labels, usize)>()))?;
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

    /// Drops the names that were to be dropped at the end.
    pub fn without_dropped_names(&self, columns: Vec<Column>, grid: StepGrid) -> Result<Vec<Column>, EvalError> {
        if !columns.iter().any(|column| column.drop_name) {
            return Ok(columns);
        }
        let named: Result<Vec<Column>, EvalError> = columns
            .into_iter()
            .map(|mut column| {
                if column.drop_name {
                    column.labels = without_name(&column.labels);
                    column.drop_name = false;
                }
                self.expanded(column, grid)
            })
            .collect();
        self.unique(named?)
    }
}
