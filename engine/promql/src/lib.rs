//! PromQL: from text to an answer, without I/O.
//!
//! A query is parsed ([`parse`]), planned once for the times at which it is asked ([`Plan`]), and evaluated over the
//! samples of its selects for all those times at once: each node of the expression gives one column per series.

mod aggregate;
mod annotations;
mod ast;
mod binary;
pub mod budget;
mod column;
mod eval;
mod functions;
mod lex;
pub mod notation;
mod parse;
mod plan;
mod print;
mod quantile;
mod ranges;
mod reduce;
mod vectors;

pub use annotations::Annotations;
pub use ast::{Expr, Kind, Span, ValueType};
pub use column::{Column, Point, SelectedSeries, histogram_size, is_absent};
pub use eval::{Answer, EvalError, Evaluated, Limits, Selected};
pub use functions::{Function, all as all_functions};
pub use parse::{
    ParseError, ParseOptions, parse, parse_duration_ms, parse_metric, parse_selector, position, selects_anything,
};
pub use plan::{Grid, Plan, PlanOptions, Select};
pub use print::{format, tree};
pub use reduce::{NO_VALUE, Partial, Reduction, nameless};
