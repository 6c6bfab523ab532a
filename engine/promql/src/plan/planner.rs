//! The selects of an expression, with their ranges of time.

use crate::plan::grid::{StepGrid, at_ms, inner_grid, offset_ms};
use crate::plan::pushdown::Pushdown;
use crate::plan::select::Select;
use crate::syntax::ast::*;
use crate::syntax::error::{ParseError, position};
use crate::syntax::parse::{ParseOptions, parse};
use crate::syntax::signature::ValueType;
use series::{METRIC_NAME, MatchOp, Matcher};
use std::sync::Arc;
use std::time::Duration;

/// Steps of an inner query.
const INNER_STEPS_MAX: i64 = 10_000_000;
/// Steps of an aggregation that is carried out where the samples are: 24 bytes for each group and step there. As many as a
/// range query may have.
const PUSHDOWN_STEPS_MAX: usize = 11_001;

#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    pub parse: ParseOptions,
    pub lookback: Duration,
    /// Of subqueries that name none.
    pub inner_step: Duration,
    /// `--enable-feature=promql-delayed-name-removal`
    pub delayed_name_removal: bool,
    /// `--enable-feature=use-start-timestamps`
    pub start_times: bool,
}

impl Default for PlanOptions {
    fn default() -> PlanOptions {
        PlanOptions {
            parse: ParseOptions::default(),
            lookback: Duration::from_secs(300),
            inner_step: Duration::from_secs(60),
            delayed_name_removal: false,
            start_times: false,
        }
    }
}

/// Functions of counters that look at start times.
const FUNCTIONS_OF_STARTS: [&str; 5] = ["rate", "increase", "irate", "resets", "start_timestamp"];

/// Matchers of all selectors of a query or a request: a core compares them with the slots of a group in one go.
pub const SELECTORS_MATCHERS_MAX: usize = 2048;

/// An expression, the times at which it is evaluated, and the selects that it needs.
pub struct Plan {
    pub(crate) text: String,
    pub(crate) expr: Expr,
    pub grid: StepGrid,
    /// Of the query; the last time of the grid may be before.
    pub(crate) end: i64,
    pub(crate) is_range: bool,
    pub(crate) lookback: i64,
    pub(crate) inner_step: i64,
    pub(crate) delayed_names: bool,
    pub(crate) start_times: bool,
    selects: Vec<Select>,
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

impl Plan {
    /// The expression as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is for a range of times, even if that is one time only.
    pub fn is_range(&self) -> bool {
        self.is_range
    }

    pub fn instant(text: &str, at: i64, options: &PlanOptions) -> Result<Plan, ParseError> {
        Plan::new(text, StepGrid::instant(at), false, at, options)
    }

    pub fn range(text: &str, start: i64, end: i64, step: i64, options: &PlanOptions) -> Result<Plan, ParseError> {
        Plan::new(text, StepGrid::range(start, end, step), true, end, options)
    }

    fn new(text: &str, grid: StepGrid, is_range: bool, end: i64, options: &PlanOptions) -> Result<Plan, ParseError> {
        let mut parse_options = options.parse;
        if is_range {
            (parse_options.step_ms, parse_options.range_ms) = (grid.step, end - grid.start);
        }
        let mut expr = parse(text, &parse_options)?;
        let with_position = |mut error: ParseError| {
            error.position = position(text, error.span.start);
            error
        };
        if is_range && !matches!(expr.value_type(), ValueType::Scalar | ValueType::Vector) {
            let kind = expr.value_type().documented();
            let text = format!("invalid expression type {kind:?} for range query, must be Scalar or instant Vector");
            return Err(with_position(ParseError::at(expr.span, text)));
        }
        let lookback = millis(options.lookback).max(1);
        let inner_step = millis(options.inner_step).max(1);
        let mut planner = Planner {
            grid: (grid.start, end),
            lookback,
            inner_step,
            selects: Vec::new(),
            histogram_stats: false,
            delayed_names: options.delayed_name_removal,
            start_times: options.start_times,
            wants_starts: false,
        };
        planner.expr(&mut expr, grid).map_err(with_position)?;
        let selects = planner.selects;
        if selects.iter().map(|select| select.matchers.len()).sum::<usize>() > SELECTORS_MATCHERS_MAX {
            let text = format!("the selectors have more than {SELECTORS_MATCHERS_MAX} matchers");
            return Err(with_position(ParseError::at(expr.span, text)));
        }
        Ok(Plan {
            text: text.to_owned(),
            expr,
            grid,
            end,
            is_range,
            lookback,
            inner_step,
            delayed_names: options.delayed_name_removal,
            start_times: options.start_times,
            selects,
        })
    }

    /// What has to be selected, in the order in which [`Plan::evaluate`] takes the answers.
    pub fn selects(&self) -> &[Select] {
        &self.selects
    }

    /// The end of the query; the last time of the grid may be before.
    pub fn end(&self) -> i64 {
        self.end
    }

    pub fn value_type(&self) -> ValueType {
        self.expr.value_type()
    }

    /// The time that `@` fixes.
    pub(crate) fn at(&self, at: Option<At>) -> Option<i64> {
        at_ms(at, (self.grid.start, self.end))
    }

    /// The times of a subquery whose first evaluation is for `start`, and whose last for `end`.
    pub(crate) fn inner_grid(&self, subquery: &Subquery, start: i64, end: i64) -> StepGrid {
        inner_grid(subquery, start, end, self.inner_step)
    }
}

struct Planner {
    /// Start and end of the whole query.
    grid: (i64, i64),
    lookback: i64,
    inner_step: i64,
    selects: Vec<Select>,
    histogram_stats: bool,
    delayed_names: bool,
    start_times: bool,
    /// The next select is the argument of a function that looks at start times.
    wants_starts: bool,
}

impl Planner {
    /// `times` are those at which the node is evaluated; within a subquery they are not those of the query.
    fn expr(&mut self, expr: &mut Expr, times: StepGrid) -> Result<(), ParseError> {
        let span = expr.span;
        match &mut expr.kind {
            Kind::Number(_) | Kind::String(_) | Kind::InvalidString(_) => Ok(()),
            Kind::Paren(inner) | Kind::Negation(inner) => self.expr(inner, times),
            Kind::Aggregate(aggregate) => {
                if let Some(parameter) = &mut aggregate.parameter {
                    self.expr(parameter, times)?;
                }
                self.expr(&mut aggregate.expr, times)?;
                // The pushdown is for the times of this node, be they those of the query or of a subquery.
                // Cores aggregate without looking at start times.
                let wants_starts = self.selects.last().is_some_and(|select| select.wants_starts);
                if (1..=PUSHDOWN_STEPS_MAX).contains(&times.count) && !self.histogram_stats && !wants_starts {
                    let grid = self.grid;
                    let at = |selector: &Selector| at_ms(selector.at, grid);
                    if let Some(pushdown) = Pushdown::of(aggregate, times, at, self.lookback, self.delayed_names) {
                        self.selects.last_mut().expect("its own select").pushdown = Some(Arc::new(pushdown));
                    }
                }
                Ok(())
            }
            Kind::Binary(binary) => {
                // What trims a histogram looks at its buckets.
                let outer = self.histogram_stats;
                self.histogram_stats &= !matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
                self.expr(&mut binary.left, times)?;
                self.expr(&mut binary.right, times)?;
                self.histogram_stats = outer;
                Ok(())
            }
            Kind::Subquery(subquery) => {
                let (start, end) = at_ms(subquery.at, self.grid).map_or((times.start, times.end()), |at| (at, at));
                let inner = inner_grid(subquery, start, end, self.inner_step);
                if inner.count as i64 > INNER_STEPS_MAX {
                    return Err(ParseError::at(span, format!("subquery has more than {INNER_STEPS_MAX} steps")));
                }
                let outer = std::mem::replace(&mut self.histogram_stats, false);
                self.expr(&mut subquery.expr, inner)?;
                self.histogram_stats = outer;
                Ok(())
            }
            Kind::Vector(selector) => {
                let back = self.lookback;
                self.select(selector, times, back, true);
                Ok(())
            }
            Kind::Matrix { selector, range } => {
                let back = range.ms;
                if selector.modifier == RangeModifier::Plain {
                    self.select(selector, times, back, false);
                } else {
                    let lookback = self.lookback;
                    self.select(selector, times, back.saturating_add(lookback), false);
                    if selector.modifier == RangeModifier::Smoothed {
                        let select = self.selects.last_mut().expect("just pushed");
                        select.to = select.to.saturating_add(lookback);
                    }
                }
                Ok(())
            }
            Kind::Call { function, args } => {
                let is_info = function.name == "info";
                let outer = self.histogram_stats;
                match function.name {
                    "histogram_count" | "histogram_sum" | "histogram_avg" => self.histogram_stats = true,
                    name if name.starts_with("histogram_") => self.histogram_stats = false,
                    _ => {}
                }
                if is_info && args.len() == 1 {
                    args.push(Expr { kind: Kind::Vector(any_info()), span });
                }
                if is_info {
                    // What is known of a series is looked up for the time of its samples.
                    let (at, offset) =
                        first_selector(&args[0]).map_or((None, None), |first| (first.at, first.offset.clone()));
                    if let Kind::Vector(selector) = &mut args[1].kind {
                        (selector.at, selector.offset) = (at, offset);
                    }
                }
                for (i, arg) in args.iter_mut().enumerate() {
                    if is_info && i == 1 {
                        if let Kind::Vector(selector) = &mut arg.kind {
                            self.info_select(selector, times);
                        }
                    } else {
                        self.wants_starts = self.start_times
                            && FUNCTIONS_OF_STARTS.contains(&function.name)
                            && is_plain_selector(arg.inner());
                        self.expr(arg, times)?;
                    }
                }
                self.histogram_stats = outer;
                Ok(())
            }
        }
    }

    fn select(&mut self, selector: &mut Selector, times: StepGrid, back: i64, is_instant: bool) {
        let (start, end) = at_ms(selector.at, self.grid).map_or((times.start, times.end()), |at| (at, at));
        let offset = offset_ms(&selector.offset);
        let from = start.saturating_sub(offset).saturating_sub(back).saturating_add(1);
        let mut to = end.saturating_sub(offset);
        if is_instant && selector.modifier == RangeModifier::Smoothed {
            to = to.saturating_add(self.lookback);
        }
        selector.select = self.selects.len();
        self.selects.push(Select {
            matchers: selector.matchers.clone(),
            from,
            to,
            is_instant,
            wants_starts: std::mem::take(&mut self.wants_starts),
            histogram_stats: self.histogram_stats,
            pushdown: None,
        });
    }

    /// Series that describe others: by the conditions on names, or `target_info`. Other conditions hold on the labels
    /// that they give, and are looked at later.
    fn info_select(&mut self, selector: &mut Selector, times: StepGrid) {
        let on_name = |matcher: &&Matcher| matcher.name() == METRIC_NAME;
        let mut matchers: Vec<Matcher> = selector.matchers.iter().filter(on_name).cloned().collect();
        let positive = |matcher: &Matcher| matches!(matcher.op(), MatchOp::Equal | MatchOp::Regex);
        if matchers.is_empty() {
            matchers.push(Matcher::new(METRIC_NAME, MatchOp::Equal, "target_info").expect("no expression"));
        } else if !matchers.iter().any(positive) {
            matchers.push(Matcher::new(METRIC_NAME, MatchOp::Regex, ".+_info").expect("a valid expression"));
        }
        selector.select = self.selects.len();
        let (start, end) = at_ms(selector.at, self.grid).map_or((times.start, times.end()), |at| (at, at));
        let offset = offset_ms(&selector.offset);
        let from = start.saturating_sub(offset).saturating_sub(self.lookback).saturating_add(1);
        self.selects.push(Select {
            matchers,
            from,
            to: end.saturating_sub(offset),
            is_instant: true,
            wants_starts: false,
            histogram_stats: false,
            pushdown: None,
        });
    }
}

/// Whether it is a selector without `anchored` or `smoothed`.
fn is_plain_selector(expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Vector(selector) | Kind::Matrix { selector, .. } => selector.modifier == RangeModifier::Plain,
        _ => false,
    }
}

/// `{}`: every label of target_info.
fn any_info() -> Selector {
    Selector {
        name: None,
        matchers: Vec::new(),
        offset: None,
        at: None,
        modifier: RangeModifier::Plain,
        select: usize::MAX,
    }
}

/// The first selector of an expression, in the order of the text.
fn first_selector(expr: &Expr) -> Option<&Selector> {
    match &expr.kind {
        Kind::Number(_) | Kind::String(_) | Kind::InvalidString(_) => None,
        Kind::Vector(selector) | Kind::Matrix { selector, .. } => Some(selector),
        Kind::Subquery(subquery) => first_selector(&subquery.expr),
        Kind::Call { args, .. } => args.iter().find_map(first_selector),
        Kind::Negation(inner) | Kind::Paren(inner) => first_selector(inner),
        Kind::Binary(binary) => first_selector(&binary.left).or_else(|| first_selector(&binary.right)),
        Kind::Aggregate(aggregate) => {
            aggregate.parameter.as_ref().and_then(first_selector).or_else(|| first_selector(&aggregate.expr))
        }
    }
}
