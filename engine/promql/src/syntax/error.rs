//! Places in the text of a query, and errors about it.

/// Bytes `start..end` of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

/// Why a text is no query, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: parse error: {text}")]
pub struct ParseError {
    pub text: String,
    pub span: Span,
    /// Line and column, from 1.
    pub position: String,
}

impl ParseError {
    pub(crate) fn at(span: Span, text: String) -> ParseError {
        ParseError { text, span, position: String::new() }
    }

    pub(crate) fn placed(mut self, query: &str) -> ParseError {
        self.position = position(query, self.span.start);
        self
    }
}

/// Line and column of a byte, both from 1.
pub fn position(query: &str, byte: usize) -> String {
    let before = &query.as_bytes()[..byte.min(query.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    format!("{line}:{column}")
}
