//! Relabelling rules compiled once, applied to targets and to series, and explained step by step.
//!
//! A program has the effect of Prometheus' `relabel_configs` or `metric_relabel_configs` with the same text on every label
//! set, and rejects what Prometheus rejects, with the same error text. This crate knows nothing of files, targets or
//! scrapes: the configuration provides [`RuleSpec`]s, the owner of a label set provides a `LabelsBuilder`.
//!
//! Invariants:
//!   * applying a compiled rule cannot fail: [`Rule::compile`] checks all names, numbers and expressions
//!   * programs are immutable and shared: cloning copies a pointer, any thread may apply one
//!
//! Difference from Prometheus: `labelmap` visits labels in order of their names, where Prometheus visits unchanged labels
//! first and then those that earlier rules set. It is visible only if two names map to one; the last one wins.

mod case_mapping;
mod rule;

pub use rule::{Action, NameScheme, Rule, RuleError, RuleSpec};

use rule::Scratch;
use series::{Labels, LabelsBuilder};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rules in the order in which they apply. Two programs are equal if their specs are.
#[derive(Clone, Debug)]
pub struct Program(Arc<[Rule]>);

/// Result of applying a program to the labels of a target or a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the labels of a dropped target or series are only partly changed"]
pub enum Verdict {
    /// The target or series stays, with the changed labels.
    Keep,
    /// The target or series is dropped.
    Drop,
}

/// The effect of one rule, for an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index of the rule in its program, from 0.
    pub rule_index: usize,
    /// The rule as one line of YAML.
    pub rendering: String,
    /// The labels after the rule.
    pub labels: Labels,
    /// Whether the rule did not drop the labels. If it did, this is the last step.
    pub kept: bool,
}

/// The labels that a program can read or write, for any input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelUse {
    /// Any label: a rule matches label names, or derives the name of its target from values.
    All,
    /// Only these. Two label sets that agree on them get the same verdict and the same changes; all other labels stay as
    /// they are.
    Some(BTreeSet<Box<str>>),
}

/// Error of a rule in a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("relabel rule {}: {error}", .rule_index + 1)]
pub struct ProgramError {
    /// Index of the rule in the list, from 0. The text counts from 1.
    pub rule_index: usize,
    /// Why the rule was rejected.
    pub error: RuleError,
}

impl Verdict {
    /// Returns whether it is [`Verdict::Keep`].
    pub fn is_keep(self) -> bool {
        self == Verdict::Keep
    }
}

impl LabelUse {
    /// Returns whether the program can read or write the label `name`.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            LabelUse::All => true,
            LabelUse::Some(names) => names.contains(name),
        }
    }
}

impl Program {
    /// Compiles all rules.
    ///
    /// # Errors
    /// The first rule that is invalid.
    pub fn compile(specs: impl IntoIterator<Item = RuleSpec>, scheme: NameScheme) -> Result<Program, ProgramError> {
        let compile =
            |(rule_index, spec)| Rule::compile(spec, scheme).map_err(|error| ProgramError { rule_index, error });
        specs.into_iter().enumerate().map(compile).collect::<Result<Vec<_>, _>>().map(Program::from)
    }

    /// Returns the rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// Returns the number of rules.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is no rule, so that every label set is kept unchanged.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Applies the rules in order until one drops. A label with an empty value counts as absent.
    pub fn apply(&self, labels: &mut LabelsBuilder) -> Verdict {
        let mut scratch = Scratch::default();
        for rule in &*self.0 {
            if rule.apply(labels, &mut scratch) == Verdict::Drop {
                return Verdict::Drop;
            }
        }
        Verdict::Keep
    }

    /// Returns the effect of each rule on `labels`, up to the rule that drops them.
    pub fn explain(&self, labels: Labels) -> Vec<Step> {
        let mut labels = labels.to_builder();
        let mut scratch = Scratch::default();
        let mut steps = Vec::with_capacity(self.len());
        for (rule_index, rule) in self.0.iter().enumerate() {
            let kept = rule.apply(&mut labels, &mut scratch).is_keep();
            steps.push(Step { rule_index, rendering: rule.to_string(), labels: labels.build(), kept });
            if !kept {
                break;
            }
        }
        steps
    }

    /// Returns whether a rule can change the label `name` of any label set. If not, the program leaves it as it is.
    pub fn may_write(&self, name: &str) -> bool {
        self.0.iter().any(|rule| rule.may_write(name))
    }

    /// Returns the labels that the result depends on or that it can change. Targets whose own labels are not among them can
    /// share the result for a series.
    pub fn reads_or_writes(&self) -> LabelUse {
        let mut names = BTreeSet::new();
        for rule in &*self.0 {
            let mut list = |name: &str| {
                names.insert(name.into());
            };
            if !rule.list_labels(&mut list) {
                return LabelUse::All;
            }
        }
        LabelUse::Some(names)
    }
}

impl From<Vec<Rule>> for Program {
    fn from(rules: Vec<Rule>) -> Program {
        Program(rules.into())
    }
}

impl Default for Program {
    /// Returns the program without rules.
    fn default() -> Program {
        Program::from(Vec::new())
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Program) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Program {}

#[cfg(test)]
mod tests;
