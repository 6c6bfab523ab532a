//! Which rules of a group may be asked or evaluated at the same time without a difference in what they see.

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

/// For each rule the number of its run: rules that follow each other and of which none may read an earlier one.
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

/// For each rule whether a later one may read it, or it an earlier one.
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
        let check = |rules: &[(&str, &str)], runs_want: &[usize], waves_want: &[usize]| {
            let rule = |(name, expr): &(&str, &str)| format!("{{record: {name}, expr: '{expr}'}}");
            let text =
                format!("groups: [{{name: g, rules: [{}]}}]", rules.iter().map(rule).collect::<Vec<_>>().join(", "));
            let file = Path::new("r.yml");
            let groups = config::parse_rules(file, &text, NameScheme::Utf8).unwrap().groups;
            let group = &groups[0];
            let compile = |(i, spec)| Arc::new(Rule::compile(spec, group, i, file, &Default::default()).unwrap());
            let compiled: Vec<Arc<Rule>> = group.rules.iter().enumerate().map(compile).collect();
            assert_eq!((runs(&compiled), waves(&compiled)), (runs_want.to_vec(), waves_want.to_vec()), "{rules:?}");
        };
        check(&[("a", "m"), ("b", "m"), ("c", "m")], &[0, 0, 0], &[0, 0, 0]);
        // One that reads a later rule is asked with it: both times it sees what was written the time before.
        check(&[("a", "c"), ("b", "m"), ("c", "m")], &[0, 0, 0], &[0, 0, 1]);
        check(&[("a", "m"), ("b", "a"), ("c", "m"), ("d", "a"), ("e", "b")], &[0, 1, 1, 1, 2], &[0, 1, 0, 1, 2]);
        check(&[("a", "m"), ("b", "{x=\"1\"}"), ("c", "m")], &[0, 1, 1], &[0, 1, 2]);
    }
}
