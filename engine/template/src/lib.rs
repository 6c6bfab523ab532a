//! Go's text templates with Prometheus' functions, as labels and annotations of alerts use them.
//!
//! Language: <https://pkg.go.dev/text/template>; functions: Prometheus' template reference. Written here because no
//! maintained crate has both. Not there: methods, and templates of other files (consoles).
//!
//! Invariants:
//!   * text is parsed once; parsing ends at [`NESTING_MAX`] levels
//!   * an expansion ends after [`STEPS_MAX`] nodes, [`CALLS_MAX`] nested templates or [`OUTPUT_BYTES_MAX`] bytes of output
//!   * whatever the text, the labels and the answers of queries are, there is a string or an error with its place

mod eval;
mod functions;
mod humanize;
mod lex;
mod parse;
mod printf;
mod value;

use parse::Node;
use series::Labels;
use std::collections::BTreeMap;

pub use value::Sample;

/// How deep actions and parentheses may be nested.
pub const NESTING_MAX: usize = 100;
/// Nodes that one expansion may visit.
pub const STEPS_MAX: usize = 1_000_000;
/// Templates that may be in the middle of calling each other.
pub const CALLS_MAX: usize = 100;
/// Largest expansion.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Why a template has no expansion. The words are those of Go where it has any for the case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("error parsing template {name}: template: {name}:{line}: {what}")]
    Parse { name: String, line: usize, what: String },
    #[error("error executing template {name}: template: {name}:{line}:{column}: executing {name:?} at <{at}>: {what}")]
    Execute { name: String, line: usize, column: usize, at: String, what: String },
}

/// What an alert's template may look at: `.Labels`, `.ExternalLabels`, `.ExternalURL`, `.Value`, and the variables
/// `$labels`, `$externalLabels`, `$externalURL`, `$value`.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub labels: &'a Labels,
    pub external_labels: &'a Labels,
    /// Where the server is reached from outside, without a slash at its end.
    pub external_url: &'a str,
    pub value: f64,
    /// The time of the evaluation, in Unix milliseconds.
    pub now_ms: i64,
}

/// Answers the `query` function: the expression's vector now, or why there is none.
pub type Query<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<Sample>, String>;

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    name: String,
    text: String,
    nodes: Vec<Node>,
    defined: BTreeMap<String, Vec<Node>>,
}

impl Template {
    /// Parses; `name` is what errors call it.
    pub fn parse(name: &str, text: &str) -> Result<Template, TemplateError> {
        let parsed = parse::parse(text).map_err(|error| TemplateError::Parse {
            name: name.to_owned(),
            line: line_of(text, error.at),
            what: error.what,
        })?;
        let (nodes, defined) = parsed;
        Ok(Template { name: name.to_owned(), text: text.to_owned(), nodes, defined })
    }

    /// The text with everything in it replaced.
    pub fn expand(&self, context: &Context, query: Query) -> Result<String, TemplateError> {
        eval::expand(&self.nodes, &self.defined, context, query).map_err(|error| {
            let before = &self.text[..error.at.start];
            TemplateError::Execute {
                name: self.name.clone(),
                line: line_of(&self.text, error.at.start),
                column: before.len() - before.rfind('\n').map_or(0, |newline| newline + 1),
                at: self.text[error.at].to_owned(),
                what: error.what,
            }
        })
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].bytes().filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests;
