//! Files with unit tests of rules, in promtool's format.

use crate::decode::{Context, Fields, Value, section};
use crate::errors::ConfigErrors;
use crate::yaml::parse;
use relabel::NameScheme;
use std::path::{Path, PathBuf};
use std::time::Duration;

section! {
    /// A file of unit tests.
    pub struct RuleTests in "a test file" {
        /// Patterns of the files under test.
        rule_files: Vec<PathBuf> = Vec::new(),
        /// Time between evaluations. Default 1m.
        evaluation_interval: Duration = Duration::from_secs(60),
        /// Names of groups in the order of their evaluation; those that are not named follow.
        group_eval_order: Vec<String> = Vec::new(),
        /// Whether values may differ in their last bits. Default false.
        fuzzy_compare: bool = false,
        /// The tests.
        tests: Vec<RuleTest> = Vec::new(),
    }
}

section! {
    /// Series, and what rules make of them.
    pub struct RuleTest in "a test group" {
        /// Time between samples. Default: the evaluation interval.
        interval: Duration = Duration::ZERO,
        /// What there is.
        input_series: Vec<InputSeries> = Vec::new(),
        /// Of the test, for messages.
        name: String = String::new(),
        /// Time of the first sample: Unix seconds or RFC 3339. Default 0.
        start_timestamp: String = String::new(),
        /// Alerts that fire.
        alert_rule_test: Vec<AlertTest> = Vec::new(),
        /// What expressions yield.
        promql_expr_test: Vec<ExprTest> = Vec::new(),
        /// For templates.
        external_labels: Vec<(String, String)> = Vec::new(),
        /// For templates.
        external_url: String = String::new(),
    }
}

section! {
    /// One series.
    pub struct InputSeries in "a series" {
        /// Name and labels.
        series: String = String::new(),
        /// Values in expanding notation.
        values: String = String::new(),
    }
}

section! {
    /// What fires under one name at one time.
    pub struct AlertTest in "an alert test" {
        /// Since the start.
        eval_time: Duration = Duration::ZERO,
        /// Of all its rules.
        alertname: String = String::new(),
        /// None: it does not fire.
        exp_alerts: Vec<ExpectedAlert> = Vec::new(),
    }
}

section! {
    /// One alert.
    pub struct ExpectedAlert in "an alert" {
        /// Without `alertname`.
        exp_labels: Vec<(String, String)> = Vec::new(),
        /// Expanded.
        exp_annotations: Vec<(String, String)> = Vec::new(),
    }
}

section! {
    /// What an expression yields at one time.
    pub struct ExprTest in "an expression test" {
        /// PromQL.
        expr: String = String::new(),
        /// Since the start.
        eval_time: Duration = Duration::ZERO,
        /// In any order.
        exp_samples: Vec<ExpectedSample> = Vec::new(),
    }
}

section! {
    /// One element.
    pub struct ExpectedSample in "a sample" {
        /// Name and labels.
        labels: String = String::new(),
        /// A number.
        value: String = String::new(),
        /// In the notation of series, instead of a value.
        histogram: String = String::new(),
    }
}

/// Reads a file of unit tests.
pub fn load_rule_tests(path: &Path) -> Result<RuleTests, ConfigErrors> {
    let text = crate::load::read(path)?;
    let cx = Context::new(path, path.parent().unwrap_or(Path::new("")), NameScheme::Utf8);
    let tests = match parse(&text) {
        Ok(node) => Fields::of(&node, &cx, "a test file").and_then(|_| RuleTests::read(&node, &cx)),
        Err((mark, message)) => {
            cx.refuse(mark, message);
            None
        }
    };
    let errors = cx.into_errors();
    tests.filter(|_| errors.is_empty()).ok_or(ConfigErrors(errors))
}
