//! Which rules of a group may be evaluated at the same time without a difference in what they see.

use crate::rule::Rule;
use std::sync::Arc;

/// For each rule the number of its wave: waves are evaluated one after the other, the rules of one together.
///
/// A rule comes after every earlier one that it may read, and no sooner than an earlier one that reads it, which sees
/// what it wrote the last time.
pub fn waves(rules: &[Arc<Rule>]) -> Vec<usize> {
    let mut waves: Vec<usize> = Vec::with_capacity(rules.len());
    for (i, rule) in rules.iter().enumerate() {
        let after = |(earlier, wave): (&Arc<Rule>, &usize)| {
            if rule.may_read(earlier) || earlier.may_read(rule) { wave + 1 } else { 0 }
        };
        waves.push(rules[..i].iter().zip(&waves).map(after).max().unwrap_or(0));
    }
    waves
}

/// For each rule whether a later one may read it, or it an earlier one.
pub fn reads_earlier(rules: &[Arc<Rule>]) -> Vec<bool> {
    rules.iter().enumerate().map(|(i, rule)| rules[..i].iter().any(|earlier| rule.may_read(earlier))).collect()
}
