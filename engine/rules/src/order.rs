//! Which rules of a group may be queried or evaluated at the same time without a change of their results.

use crate::rule::Rule;
use std::sync::Arc;

/// Returns the stage of each rule. Stages are evaluated one after the other, the rules of one stage together.
///
/// A rule is in a later stage than every earlier rule that it may read, and not before an earlier rule that reads it, which
/// sees its previous row.
pub fn evaluation_stages(rules: &[Arc<Rule>]) -> Vec<usize> {
    let mut stages: Vec<usize> = Vec::with_capacity(rules.len());
    for (i, rule) in rules.iter().enumerate() {
        let after = |(earlier, wave): (&Arc<Rule>, &usize)| {
            if rule.may_read(earlier) || earlier.may_read(rule) { wave + 1 } else { 0 }
        };
        stages.push(rules[..i].iter().zip(&stages).map(after).max().unwrap_or(0));
    }
    stages
}

/// Returns the run of each rule: consecutive rules of which none may read an earlier one.
pub fn runs(rules: &[Arc<Rule>]) -> Vec<usize> {
    let (mut first, mut run) = (0, 0);
    let number = |(i, rule): (usize, &Arc<Rule>)| {
        if rules[first..i].iter().any(|earlier| rule.may_read(earlier)) {
            (first, run) = (i, run + 1);
        }
        run
    };
    rules.iter().enumerate().map(number).collect()
}

/// Returns for each rule whether a later rule may read it, or it an earlier one.
pub fn reads_earlier(rules: &[Arc<Rule>]) -> Vec<bool> {
    rules.iter().enumerate().map(|(i, rule)| rules[..i].iter().any(|earlier| rule.may_read(earlier))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::NameScheme;
    use std::path::Path;

    #[test]
    fn stages() {
        let check = |rules: &[(&str, &str)], runs_want: &[usize], stages_want: &[usize]| {
            let rule = |(name, expr): &(&str, &str)| format!("{{record: {name}, expr: '{expr}'}}");
            let text =
                format!("groups: [{{name: g, rules: [{}]}}]", rules.iter().map(rule).collect::<Vec<_>>().join(", "));
            let file = Path::new("r.yml");
            let groups = config::parse_rules(file, &text, NameScheme::Utf8).unwrap().groups;
            let group = &groups[0];
            let compile = |(i, spec)| Arc::new(Rule::compile(spec, group, i, file, &Default::default()).unwrap());
            let compiled: Vec<Arc<Rule>> = group.rules.iter().enumerate().map(compile).collect();
            assert_eq!(
                (runs(&compiled), evaluation_stages(&compiled)),
                (runs_want.to_vec(), stages_want.to_vec()),
                "{rules:?}"
            );
        };
        check(&[("a", "m"), ("b", "m"), ("c", "m")], &[0, 0, 0], &[0, 0, 0]);
        // A rule that reads a later one may be queried with it: it sees the previous row in both cases.
        check(&[("a", "c"), ("b", "m"), ("c", "m")], &[0, 0, 0], &[0, 0, 1]);
        check(&[("a", "m"), ("b", "a"), ("c", "m"), ("d", "a"), ("e", "b")], &[0, 1, 1, 1, 2], &[0, 1, 0, 1, 2]);
        check(&[("a", "m"), ("b", "{x=\"1\"}"), ("c", "m")], &[0, 1, 1], &[0, 1, 2]);
    }
}
