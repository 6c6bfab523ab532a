//! Which owners and groups have samples in a range of time.

use super::{MatchedGroup, OwnerId};
use ahash::{AHashMap, AHashSet};
use roaring::RoaringBitmap;
use std::sync::Arc;

/// How much of an owner lies in a range of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    Nothing,
    /// Every group has samples there.
    Whole,
    /// Groups at these addresses have.
    Groups(AHashSet<usize>),
}

impl Coverage {
    /// Puts parts together: whether each is in the range, and how to get the addresses of its groups.
    pub fn of_parts<A: IntoIterator<Item = usize>>(parts: impl Iterator<Item = (bool, impl Fn() -> A)>) -> Coverage {
        let (mut any_outside, mut inside) = (false, Vec::new());
        for (within, groups) in parts {
            any_outside |= !within;
            if within {
                inside.push(groups);
            }
        }
        match (inside.is_empty(), any_outside) {
            (true, _) => Coverage::Nothing,
            (false, false) => Coverage::Whole,
            (false, true) => Coverage::Groups(inside.iter().flat_map(|groups| groups()).collect()),
        }
    }
}

/// Owners and groups with samples in a range of time.
#[derive(Debug, Default)]
pub struct TimeFilter {
    /// Owners all of whose groups have some.
    whole: RoaringBitmap,
    /// Addresses of the groups that have some, of owners of which not all have.
    groups: AHashMap<OwnerId, AHashSet<usize>>,
}

impl TimeFilter {
    pub fn set(&mut self, owner: OwnerId, coverage: Coverage) {
        match coverage {
            Coverage::Nothing => {}
            Coverage::Whole => drop(self.whole.insert(owner)),
            Coverage::Groups(groups) => drop(self.groups.insert(owner, groups)),
        }
    }

    /// Adds groups of an owner that have samples in the range.
    pub fn add_groups(&mut self, owner: OwnerId, groups: impl Iterator<Item = usize>) {
        self.groups.entry(owner).or_default().extend(groups);
    }

    /// Takes out the owners whose group has no samples in the range. False if none is left.
    pub fn apply(&self, matched: &mut MatchedGroup) -> bool {
        let address = Arc::as_ptr(&matched.group).addr();
        let mut owners = &matched.owners & &self.whole;
        if !self.groups.is_empty() {
            let others = &matched.owners - &self.whole;
            let covered = |owner: &u32| self.groups.get(owner).is_some_and(|groups| groups.contains(&address));
            owners.extend(others.iter().filter(covered));
        }
        matched.owners = owners;
        !matched.owners.is_empty()
    }
}
