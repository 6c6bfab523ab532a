//! Go's text templates with Prometheus' functions, for the labels and annotations of alerts.
//!
//! Language: <https://pkg.go.dev/text/template>; functions: Prometheus' template reference. No maintained crate has both.
//! Not implemented: methods, and templates of other files (consoles).
//!
//! Invariants:
//!   * text is parsed once; more than [`NESTING_MAX`] levels are an error
//!   * an expansion of more than [`STEPS_MAX`] nodes, [`CALLS_MAX`] nested templates or [`OUTPUT_BYTES_MAX`] bytes of output is
//!     an error
//!   * for any text, labels and query results, the outcome is a string or an error with line and column

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

/// Levels to which actions and parentheses may be nested.
pub const NESTING_MAX: usize = 100;
/// Nodes that one expansion may visit.
pub const STEPS_MAX: usize = 1_000_000;
/// Depth of calls from template to template.
pub const CALLS_MAX: usize = 100;
/// Size of an expansion, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Why a template could not be parsed or expanded. The texts are Go's where Go has one for the case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("error parsing template {name}: template: {name}:{line}: {what}")]
    Parse { name: String, line: usize, what: String },
    #[error("error executing template {name}: template: {name}:{line}:{column}: executing {name:?} at <{at}>: {what}")]
    Execute { name: String, line: usize, column: usize, at: String, what: String },
}

/// Input of a template: `.Labels`, `.ExternalLabels`, `.ExternalURL`, `.Value`, and the variables
/// `$labels`, `$externalLabels`, `$externalURL`, `$value`.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub labels: &'a Labels,
    pub external_labels: &'a Labels,
    /// External URL of the server, without a trailing slash.
    pub external_url: &'a str,
    pub value: f64,
    /// The time of the evaluation, in Unix milliseconds.
    pub now_ms: i64,
}

/// Implements the `query` function: returns the vector of an expression at the time of the evaluation, or an error.
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
    /// Parses `text`. Errors refer to the template by `name`.
    pub fn parse(name: &str, text: &str) -> Result<Template, TemplateError> {
        let parsed = parse::parse(text).map_err(|error| TemplateError::Parse {
            name: name.to_owned(),
            line: line_of(text, error.at),
            what: error.what,
        })?;
        let (nodes, defined) = parsed;
        Ok(Template { name: name.to_owned(), text: text.to_owned(), nodes, defined })
    }

    /// Returns the text with all actions replaced by their output.
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
