//! Whether the external labels of members are unique.
//!
//! Members whose labels differ in replica labels only are replicas of each other, and need different replica labels.

use series::Labels;
use std::collections::BTreeMap;

/// External labels of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of a member, or of a file.
    pub member: String,
    pub external_labels: Labels,
}

/// A problem of external labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelProblem {
    /// These members have the same labels: receivers cannot distinguish their samples and blocks.
    Same { members: Vec<String>, labels: Labels },
    /// It has no external labels. For a single member this is a warning.
    Missing { member: String },
    /// It has the labels of others, but none of the replica labels that distinguish those.
    NoReplica { member: String, others: Vec<String> },
}

impl LabelProblem {
    /// Returns whether it is an error; otherwise it is a warning.
    pub fn is_error(&self) -> bool {
        !matches!(self, LabelProblem::Missing { .. })
    }
}

impl std::fmt::Display for LabelProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LabelProblem::Same { members, labels } => write!(
                f,
                "{} have the same external_labels {labels}: their samples mix wherever both are sent; give each a label \
                 of its own",
                members.join(" and ")
            ),
            LabelProblem::Missing { member } => {
                write!(f, "{member} has no external_labels; give it some before a second one has none either")
            }
            LabelProblem::NoReplica { member, others } => {
                write!(f, "{member} has the external_labels of {} but no replica label; add it", others.join(" and "))
            }
        }
    }
}

/// Compares all members. Problems are in the order of the first member that each concerns.
pub fn check(identities: &[Identity], replica_labels: &[String]) -> Vec<LabelProblem> {
    let mut findings = Vec::new();
    let mut same: BTreeMap<&Labels, Vec<usize>> = BTreeMap::new();
    let mut kin: BTreeMap<Labels, Vec<usize>> = BTreeMap::new();
    let is_replica = |name: &str| replica_labels.iter().any(|label| label == name);
    for (index, identity) in identities.iter().enumerate() {
        let labels = &identity.external_labels;
        if labels.is_empty() {
            findings.push((index, LabelProblem::Missing { member: identity.member.clone() }));
        }
        same.entry(labels).or_default().push(index);
        kin.entry(Labels::from_sorted(labels.iter().filter(|(name, _)| !is_replica(name)))).or_default().push(index);
    }
    let name = |index: &usize| identities[*index].member.clone();
    for (labels, members) in &same {
        if members.len() > 1 {
            let finding = LabelProblem::Same { members: members.iter().map(name).collect(), labels: (*labels).clone() };
            findings.push((members[0], finding));
        }
    }
    for members in kin.values().filter(|members| members.len() > 1) {
        let has_replica = |index: &&usize| identities[**index].external_labels.iter().any(|(name, _)| is_replica(name));
        let (with, without): (Vec<&usize>, Vec<&usize>) = members.iter().partition(has_replica);
        if let (false, [alone]) = (with.is_empty(), without.as_slice())
            && !identities[**alone].external_labels.is_empty()
        {
            let others = with.into_iter().map(name).collect();
            findings.push((**alone, LabelProblem::NoReplica { member: name(alone), others }));
        }
    }
    findings.sort_by_key(|(index, _)| *index);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn verdicts(all: &[(&str, &[(&str, &str)])], want: &[&str]) {
        let identity = |(member, labels): &(&str, &[(&str, &str)])| Identity {
            member: (*member).to_owned(),
            external_labels: Labels::from_pairs(labels.iter().copied()),
        };
        let identities: Vec<Identity> = all.iter().map(identity).collect();
        let short = |finding: LabelProblem| match finding {
            LabelProblem::Same { members, .. } => format!("same {}", members.join(",")),
            LabelProblem::Missing { member } => format!("missing {member}"),
            LabelProblem::NoReplica { member, others } => format!("no replica {member} {}", others.join(",")),
        };
        let got: Vec<String> = check(&identities, &["replica".to_owned()]).into_iter().map(short).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn members_need_labels_of_their_own() {
        verdicts(&[("a", &[("member", "a")]), ("b", &[("member", "b")])], &[]);
        verdicts(&[("a", &[("c", "1")]), ("b", &[("c", "2")]), ("d", &[("c", "1")])], &["same a,d"]);
        verdicts(&[("a", &[]), ("b", &[("c", "1")])], &["missing a"]);
        verdicts(&[("a", &[]), ("b", &[])], &["missing a", "same a,b", "missing b"]);
    }

    #[test]
    fn replicas_are_told_apart_by_their_label() {
        let pair = |one, other| [("c", one), ("replica", other)];
        verdicts(&[("a", &pair("1", "x")), ("b", &pair("1", "y"))], &[]);
        verdicts(&[("a", &pair("1", "x")), ("b", &pair("1", "x"))], &["same a,b"]);
        verdicts(&[("a", &pair("1", "x")), ("b", &[("c", "1")])], &["no replica b a"]);
        verdicts(&[("a", &pair("1", "x")), ("b", &pair("2", "x"))], &[]);
    }
}
