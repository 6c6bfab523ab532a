//! Warnings and infos about an answer, each with its place in the query.

use crate::syntax::error::{Span, position};
use std::cell::RefCell;

/// Annotations of each kind in a result.
const SHOWN_MAX: usize = 10;
/// Different annotations that are collected while evaluating.
const COLLECTED_MAX: usize = 1000;

/// What an answer's reader should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
}

#[derive(Default)]
pub(crate) struct AnnotationCollector {
    warnings: RefCell<Vec<(String, Span)>>,
    infos: RefCell<Vec<(String, Span)>>,
}

impl AnnotationCollector {
    fn add(list: &RefCell<Vec<(String, Span)>>, text: String, span: Span) {
        let mut list = list.borrow_mut();
        if list.len() < COLLECTED_MAX && !list.iter().any(|(known, place)| *known == text && *place == span) {
            list.push((text, span));
        }
    }

    pub fn warn(&self, span: Span, text: impl Into<String>) {
        AnnotationCollector::add(&self.warnings, text.into(), span);
    }

    pub fn info(&self, span: Span, text: impl Into<String>) {
        AnnotationCollector::add(&self.infos, text.into(), span);
    }

    pub fn finish(self, query: &str) -> Annotations {
        let shown = |list: RefCell<Vec<(String, Span)>>, kind: &str| {
            let list = list.into_inner();
            let text =
                |(text, span): &(String, Span)| format!("PromQL {kind}: {text} ({})", position(query, span.start));
            let mut shown: Vec<String> = list.iter().take(SHOWN_MAX).map(text).collect();
            if list.len() > SHOWN_MAX {
                shown.push(format!("{} more {kind} annotations omitted", list.len() - SHOWN_MAX));
            }
            shown
        };
        Annotations { warnings: shown(self.warnings, "warning"), infos: shown(self.infos, "info") }
    }
}

/// ` for metric name "x"`, or nothing for series without a name.
pub(crate) fn for_metric(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" for metric name {name:?}") }
}

/// Where annotations go.
pub(crate) struct AnnotationSink<'a> {
    pub notes: &'a AnnotationCollector,
    pub span: Span,
}

impl AnnotationSink<'_> {
    pub fn warn(&self, text: impl Into<String>) {
        self.notes.warn(self.span, text);
    }

    pub fn info(&self, text: impl Into<String>) {
        self.notes.info(self.span, text);
    }
}
