//! PromQL: from text to an answer, without I/O.
//!
//! A query is parsed ([`parse`]), planned once for the times at which it is asked ([`Plan`]), and evaluated over the
//! samples of its selects for all those times at once: each node of the expression gives one column per series.
//!
//! Modules depend on those before them only: `syntax`, `plan`, `eval`, `functions`, `aggregate` and `binary`, `run`.

mod aggregate;
mod annotations;
mod binary;
pub mod budget;
mod eval;
mod functions;
pub mod notation;
mod plan;
mod run;
mod syntax;

pub use annotations::Annotations;
pub use eval::context::{EvalError, SelectResult, SeriesBatch, SeriesSource};
pub use eval::partial::{NO_VALUE, PartialAggregate, nameless};
pub use eval::value::{Column, Point, QueryValue, SelectedSeries, histogram_size, is_absent};
pub use plan::grid::StepGrid;
pub use plan::planner::{Plan, PlanOptions, SELECTORS_MATCHERS_MAX};
pub use plan::pushdown::Pushdown;
pub use plan::select::Select;
pub use run::QueryResult;
pub use syntax::ast::{Expr, Kind};
/// The parts of the tree below [`Expr`].
pub mod ast {
    pub use crate::syntax::ast::*;
}
pub use syntax::error::{ParseError, Span, position};
pub use syntax::parse::{
    MATCHERS_MAX, ParseOptions, parse, parse_duration_ms, parse_metric, parse_selector, selects_anything,
};
pub use syntax::print::{format, tree};
pub use syntax::signature::{Function, ValueType, all as all_functions};
