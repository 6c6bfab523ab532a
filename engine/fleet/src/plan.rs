//! The targets that a changed list of members moves.

use crate::view::View;
use std::collections::BTreeMap;

/// The effect on targets when one view follows another.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Load of every member of either view, by name.
    pub loads: Vec<Load>,
    /// The moves, in the order of the targets.
    pub moves: Vec<Move>,
    /// Number of `moves` between two members of both views.
    pub stray_count: usize,
    pub targets_count: usize,
}

/// Number of targets of a member in each view; `None`: it is not in that view.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    pub member: String,
    pub before: Option<usize>,
    pub after: Option<usize>,
}

/// A change of one owner of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Index in the list of keys.
    pub target: usize,
    /// `None`: the target gets an additional owner.
    pub from: Option<String>,
    /// `None`: the target loses an owner.
    pub to: Option<String>,
}

/// Compares two views over the same targets. `keys` are sorted and unique.
pub fn plan(before: &View, after: &View, keys: &[impl AsRef<str>]) -> Plan {
    let (old, new) = (before.divide(keys), after.divide(keys));
    let mut loads: BTreeMap<&str, (Option<usize>, Option<usize>)> = BTreeMap::new();
    for member in before.members() {
        loads.entry(&member.name).or_default().0 = Some(0);
    }
    for member in after.members() {
        loads.entry(&member.name).or_default().1 = Some(0);
    }
    let mut moves = Vec::new();
    let mut stray_count = 0;
    for target in 0..keys.len() {
        let names = |view: &View, owners: &[usize]| -> Vec<String> {
            owners.iter().map(|owner| view.members()[*owner].name.clone()).collect()
        };
        let (from, to) = (names(before, &old[target]), names(after, &new[target]));
        for owner in &old[target] {
            let load = loads.entry(&before.members()[*owner].name).or_default();
            load.0 = load.0.map(|count| count + 1);
        }
        for owner in &new[target] {
            let load = loads.entry(&after.members()[*owner].name).or_default();
            load.1 = load.1.map(|count| count + 1);
        }
        let mut lost = from.iter().filter(|name| !to.contains(name)).cloned();
        let mut won = to.iter().filter(|name| !from.contains(name)).cloned();
        loop {
            let (from, to) = (lost.next(), won.next());
            if from.is_none() && to.is_none() {
                break;
            }
            if let (Some(from), Some(to)) = (&from, &to)
                && after.index_of(from).is_some()
                && before.index_of(to).is_some()
            {
                stray_count += 1;
            }
            moves.push(Move { target, from, to });
        }
    }
    let loads = loads.into_iter();
    let loads = loads.map(|(member, (before, after))| Load { member: member.to_owned(), before, after }).collect();
    Plan { loads, moves, stray_count, targets_count: keys.len() }
}
