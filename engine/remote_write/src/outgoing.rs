//! The labels that a receiver sees: those of the series, external labels that it does not have, then
//! write_relabel_configs.

use crate::sharding::Shard;
use relabel::{Program, Verdict};
use series::{Labels, LabelsBuilder};
use tsdb::SlotGroup;

/// Labels that most series have at most.
const LABELS_USUAL: usize = 24;

/// What is done to the labels of series.
#[derive(Clone, Debug, PartialEq)]
pub struct OutgoingLabels {
    pub external: Labels,
    /// Which series it is about; nothing: all.
    pub shard: Option<Shard>,
    pub rules: Program,
}

/// Which label of whose a label of a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Slot(usize),
    Target(usize),
    External(usize),
}

impl OutgoingLabels {
    /// The labels that a target gives to series which do not have them, external ones included.
    pub fn of_target(&self, target: &Labels) -> Labels {
        target.merged(&self.external)
    }

    /// The labels of a slot's series, sorted by name; `given` are those of its target, see [`OutgoingLabels::of_target`].
    pub fn of_slot<'a>(&'a self, group: &'a SlotGroup, slot: usize, given: &'a Labels) -> Vec<(&'a str, &'a str)> {
        let mut all = Vec::with_capacity(LABELS_USUAL);
        self.merge(group, slot, given, |_, name, value| all.push((name, value)));
        all
    }

    /// Gives each label of a slot's series, in the order of names, and where it is from. Order and origins depend on the
    /// slot and on the names of `given` only, not on its values.
    pub fn merge<'a>(
        &'a self,
        group: &'a SlotGroup,
        slot: usize,
        given: &'a Labels,
        mut each: impl FnMut(Origin, &'a str, &'a str),
    ) {
        let mut given = given.iter().enumerate().peekable();
        for (own, (name, value)) in group.label_pairs(slot).enumerate() {
            while let Some((i, (other, value))) = given.next_if(|(_, (other, _))| *other < name) {
                each(Origin::Target(i), other, value);
            }
            given.next_if(|(_, (other, _))| *other == name);
            if !value.is_empty() {
                each(Origin::Slot(own), name, value);
                continue;
            }
            // An empty one hides the target's label, and no external one.
            let external = self.external.iter().enumerate().find(|(_, (other, _))| *other == name);
            if let Some((i, (_, value))) = external.filter(|(_, (_, value))| !value.is_empty()) {
                each(Origin::External(i), name, value);
            }
        }
        given.for_each(|(i, (name, value))| each(Origin::Target(i), name, value));
    }

    /// Whether every series is sent with the labels that it has.
    pub fn changes_nothing(&self) -> bool {
        self.rules.is_empty() && self.shard.is_none()
    }

    /// The labels after the rules; nothing if the series is not sent.
    pub fn relabel(&self, labels: &[(&str, &str)]) -> Option<Labels> {
        if self.shard.as_ref().is_some_and(|shard| !shard.owns(labels)) {
            return None;
        }
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
        let outgoing = |rules: Program| OutgoingLabels { external: external.clone(), shard: None, rules };
        let given = outgoing(Program::default()).of_target(&Labels::from_pairs([("instance", "i"), ("job", "own")]));
        let mut builder = GroupBuilder::default();
        builder.push(&Labels::from_pairs([("__name__", "up")]), false);
        builder.push(&Labels::from_pairs([("__name__", "up"), ("a", "mine"), ("instance", ""), ("job", "")]), false);
        let group = builder.build();
        let check = |slot, want: &[(&str, &str)]| {
            let outgoing = outgoing(Program::default());
            assert_eq!(outgoing.of_slot(&group, slot, &given), want);
            assert_eq!(outgoing.relabel(want), Some(Labels::from_sorted(want.iter().copied())));
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
            let outgoing = outgoing(Program::compile([drop], NameScheme::Utf8).unwrap());
            assert_eq!(outgoing.relabel(&outgoing.of_slot(&group, 0, &given)).is_some(), kept, "{regex}");
        }
    }
}
