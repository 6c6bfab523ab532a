//! The labels that a remote end sees: those of the series, external labels that it does not have, then
//! write_relabel_configs.

use relabel::{Program, Verdict};
use series::{Labels, LabelsBuilder};

/// What is done to labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Outward {
    pub external: Labels,
    pub rules: Program,
}

impl Outward {
    /// The labels of a series, given sorted by name, as they go out; nothing if its samples do not.
    pub fn relabel<'a>(&'a self, labels: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Option<Labels> {
        let mut builder = LabelsBuilder::default();
        self.merged(labels).for_each(|(name, value)| builder.set(name, value));
        let kept = self.rules.apply(&mut builder) == Verdict::Keep;
        Some(builder.build()).filter(|labels| kept && labels.iter().next().is_some())
    }

    /// The labels of a series with the external ones that it does not have.
    pub fn merged<'a>(
        &'a self,
        labels: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + Clone {
        let (mut own, mut external) = (labels.peekable(), self.external.iter().peekable());
        std::iter::from_fn(move || match (own.peek(), external.peek()) {
            (Some(one), Some(other)) if one.0 == other.0 => {
                external.next();
                own.next()
            }
            (Some(one), Some(other)) if one.0 > other.0 => external.next(),
            (Some(_), _) => own.next(),
            (None, _) => external.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relabel::{NameScheme, RuleSpec};

    #[test]
    fn external_labels_come_before_the_rules() {
        let external = Labels::from_pairs([("job", "external"), ("zone", "z"), ("a", "first")]);
        let own = Labels::from_pairs([("__name__", "up"), ("job", "own")]);
        let outward = Outward { external: external.clone(), rules: Program::default() };
        let merged: Vec<_> = outward.merged(own.iter()).collect();
        assert_eq!(merged, [("__name__", "up"), ("a", "first"), ("job", "own"), ("zone", "z")]);
        assert_eq!(outward.relabel(own.iter()), Some(Labels::from_sorted(merged.into_iter())));
        let drop = |regex: &str| RuleSpec {
            source_labels: vec!["zone".into()],
            regex: Some(regex.into()),
            action: Some("drop".into()),
            ..RuleSpec::default()
        };
        for (regex, kept) in [("z", false), ("y", true)] {
            let rules = Program::compile([drop(regex)], NameScheme::Utf8).unwrap();
            let outward = Outward { external: external.clone(), rules };
            assert_eq!(outward.relabel(own.iter()).is_some(), kept, "{regex}");
        }
    }
}
