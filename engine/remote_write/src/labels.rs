//! The labels that a remote end sees: those of the series, external labels that it does not have, then
//! write_relabel_configs.

use relabel::{Program, Verdict};
use series::{Labels, LabelsBuilder};
use tsdb::SlotGroup;

/// Labels that most series have room in.
const LABELS_USUAL: usize = 24;

/// What is done to labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Outward {
    pub external: Labels,
    pub rules: Program,
}

impl Outward {
    /// The labels that a target gives to series which do not have them, external ones included.
    pub fn of_target(&self, target: &Labels) -> Labels {
        target.merged(&self.external)
    }

    /// The labels of a slot's series, sorted by name; `given` are those of its target.
    pub fn of_slot<'a>(&'a self, group: &'a SlotGroup, slot: usize, given: &'a Labels) -> Vec<(&'a str, &'a str)> {
        let mut all = Vec::with_capacity(LABELS_USUAL);
        let mut given = given.iter().peekable();
        for (name, value) in group.label_pairs(slot) {
            while let Some(other) = given.next_if(|(other, _)| *other < name) {
                all.push(other);
            }
            given.next_if(|(other, _)| *other == name);
            // An empty one hides the target's label, and no external one.
            let value = if value.is_empty() { self.external.get(name).unwrap_or("") } else { value };
            if !value.is_empty() {
                all.push((name, value));
            }
        }
        all.extend(given);
        all
    }

    /// What the rules make of labels; nothing if the series does not go out.
    pub fn relabel(&self, labels: &[(&str, &str)]) -> Option<Labels> {
        let mut builder = LabelsBuilder::default();
        labels.iter().for_each(|(name, value)| builder.set(name, value));
        let kept = self.rules.apply(&mut builder) == Verdict::Keep;
        Some(builder.build()).filter(|labels| kept && !labels.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relabel::{NameScheme, RuleSpec};
    use tsdb::GroupBuilder;

    #[test]
    fn external_labels_come_behind_all_others_and_before_the_rules() {
        let external = Labels::from_pairs([("job", "external"), ("zone", "z"), ("a", "first")]);
        let outward = |rules: Program| Outward { external: external.clone(), rules };
        let given = outward(Program::default()).of_target(&Labels::from_pairs([("instance", "i"), ("job", "own")]));
        let mut builder = GroupBuilder::default();
        builder.push(&Labels::from_pairs([("__name__", "up")]), false);
        builder.push(&Labels::from_pairs([("__name__", "up"), ("a", "mine"), ("instance", ""), ("job", "")]), false);
        let group = builder.build();
        let check = |slot, want: &[(&str, &str)]| {
            let outward = outward(Program::default());
            assert_eq!(outward.of_slot(&group, slot, &given), want);
            assert_eq!(outward.relabel(want), Some(Labels::from_sorted(want.iter().copied())));
        };
        check(0, &[("__name__", "up"), ("a", "first"), ("instance", "i"), ("job", "own"), ("zone", "z")]);
        check(1, &[("__name__", "up"), ("a", "mine"), ("job", "external"), ("zone", "z")]);
        for (regex, kept) in [("z", false), ("y", true)] {
            let drop = RuleSpec {
                source_labels: vec!["zone".into()],
                regex: Some(regex.into()),
                action: Some("drop".into()),
                ..RuleSpec::default()
            };
            let outward = outward(Program::compile([drop], NameScheme::Utf8).unwrap());
            assert_eq!(outward.relabel(&outward.of_slot(&group, 0, &given)).is_some(), kept, "{regex}");
        }
    }
}
