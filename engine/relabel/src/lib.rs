//! Relabelling rules compiled once, applied to targets and to series, and explained step by step.
//!
//! The promise: for every label set a program does what Prometheus' `relabel_configs` or `metric_relabel_configs` with
//! the same text would do, and it refuses what Prometheus refuses, in the same words. Knows nothing of files, targets or
//! scrapes: a configuration hands in [`RuleSpec`]s, the owner of a label set hands in a `LabelsBuilder`.
//!
//! Invariants:
//!   * a compiled rule cannot fail: every check of names, numbers and expressions is done by [`Rule::compile`]
//!   * programs are immutable and shared: cloning copies a pointer, any thread may apply one
//!
//! Where we differ: `labelmap` walks labels by name, Prometheus walks unchanged labels by name and then those that earlier
//! rules set. It shows only if two names map to one, where the last wins.

mod letters;
mod rule;
mod template;

pub use rule::{Action, NameScheme, Rule, RuleError, RuleSpec};

use rule::Scratch;
use series::{Labels, LabelsBuilder};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rules in the order in which they apply. Equality is that of what the rules were made from.
#[derive(Clone, Debug)]
pub struct Program(Arc<[Rule]>);

/// What becomes of a target or a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a dropped label set is left half changed"]
pub enum Verdict {
    Keep,
    Drop,
}

/// One rule's part in an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index of the rule in its program, from 0.
    pub rule_index: usize,
    /// The rule as it would stand in a file, in one line.
    pub rendering: String,
    /// The labels after the rule.
    pub labels: Labels,
    /// Whether the rule let the labels pass. If not, this is the last step.
    pub kept: bool,
}

/// Which labels a program can read or write, whatever labels it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelUse {
    /// Any: a rule matches label names, or makes the name of its target from values.
    All,
    /// No other than these. The program's verdict is the same for two label sets that agree on them, and so is what it
    /// does to them; all other labels come out as they went in.
    Some(BTreeSet<Box<str>>),
}

/// Which rule of a list was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("relabel rule {}: {error}", .rule_index + 1)]
pub struct ProgramError {
    /// Index of the rule in the list, from 0. The text counts from 1.
    pub rule_index: usize,
    pub error: RuleError,
}

impl Verdict {
    pub fn is_kept(self) -> bool {
        self == Verdict::Keep
    }
}

impl LabelUse {
    /// Whether the program can read or write the label `name`.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            LabelUse::All => true,
            LabelUse::Some(names) => names.contains(name),
        }
    }
}

impl Program {
    /// Compiles all rules, or says which one is wrong.
    pub fn compile(specs: impl IntoIterator<Item = RuleSpec>, scheme: NameScheme) -> Result<Program, ProgramError> {
        let compile =
            |(rule_index, spec)| Rule::compile(spec, scheme).map_err(|error| ProgramError { rule_index, error });
        specs.into_iter().enumerate().map(compile).collect::<Result<Vec<_>, _>>().map(Program::from)
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no rule: then everything is kept as it is.
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

    /// What each rule makes of `labels`, up to the one that drops.
    pub fn explain(&self, labels: Labels) -> Vec<Step> {
        let mut labels = labels.to_builder();
        let mut scratch = Scratch::default();
        let mut steps = Vec::with_capacity(self.len());
        for (rule_index, rule) in self.0.iter().enumerate() {
            let kept = rule.apply(&mut labels, &mut scratch).is_kept();
            steps.push(Step { rule_index, rendering: rule.to_string(), labels: labels.build(), kept });
            if !kept {
                break;
            }
        }
        steps
    }

    /// Whether a rule can change the label `name`, whatever labels there are. If not, what it is after the program it is
    /// before.
    pub fn may_write(&self, name: &str) -> bool {
        self.0.iter().any(|rule| rule.may_write(name))
    }

    /// Which labels decide the outcome or can be part of it. Two targets whose own labels are not among them can share
    /// the outcome for a series.
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
    /// The program without rules.
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
