//! Which groups and owners the matchers of a selector select, found in bounded steps.
//!
//! A matcher says of each value of an owner label once whether it fits, and of each slot of a group once for all owners
//! that agree on the matched labels. Groups are visited from the smaller side: those that have the metric name, or those
//! of the owners that have the label.
//!
//! Invariants:
//!   * a step looks at [`VALUES_PER_STEP`] label values, at one group's owners, or makes [`COMPARISONS_PER_STEP`]
//!     comparisons with slots at most
//!   * what is found of an index that does not change between the steps is exactly what a scan over all series finds

use super::{IndexedGroup, LabelIndex, is_metric_name};
use crate::group::SlotGroup;
use roaring::RoaringBitmap;
use series::{MatchOp, Matcher};
use std::ops::Bound;
use std::sync::Arc;

/// Values of a label that a step compares with a matcher: some ten microseconds.
const VALUES_PER_STEP: usize = 512;
/// Comparisons of slots with matchers in a step.
const COMPARISONS_PER_STEP: usize = 2048;
/// Owners whose groups are collected in a step.
const OWNERS_PER_STEP: usize = 512;
/// So many groups cost as much to visit as the groups of one owner to collect.
const GROUPS_PER_OWNER: u64 = 8;

/// Slots of a group that a selector selects, for each of some owners.
#[derive(Clone, Debug)]
pub struct MatchedGroup {
    pub group: Arc<SlotGroup>,
    /// Its number in the index.
    pub(super) number: u32,
    /// Ascending; None for all of them.
    pub slots: Option<Box<[u32]>>,
    /// Owners of the group for which the slots match; not empty.
    pub owners: RoaringBitmap,
}

impl MatchedGroup {
    /// The selected slots, ascending.
    pub fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        let all = if self.slots.is_none() { 0..self.group.len() } else { 0..0 };
        all.chain(self.slots.iter().flatten().map(|slot| *slot as usize))
    }

    /// How many series these are.
    pub fn series(&self) -> u64 {
        self.slots.as_ref().map_or(self.group.len(), |slots| slots.len()) as u64 * self.owners.len()
    }
}

/// What a matcher says of owners and groups.
struct MatcherScope {
    /// Owners whose own labels satisfy it.
    owners: RoaringBitmap,
    /// Of a matcher that the absent label does not satisfy: groups with slots whose own label may satisfy it.
    groups: Option<RoaringBitmap>,
}

enum Stage {
    /// Compares the values of the labels of the matcher with this number.
    Owners {
        matcher: usize,
        after: Option<Box<str>>,
    },
    /// Compares metric names with it.
    Names {
        matcher: usize,
        after: Option<Box<str>>,
    },
    /// Collects groups of owners.
    Collect {
        owners: std::vec::IntoIter<u32>,
        groups: RoaringBitmap,
    },
    Visit(std::vec::IntoIter<u32>),
}

/// A search for what a selector, a list of matchers that must all hold, selects.
pub struct Search<'q> {
    matchers: &'q [Matcher],
    scopes: Vec<MatcherScope>,
    /// None for all.
    owners: Option<RoaringBitmap>,
    groups: Option<RoaringBitmap>,
    stage: Stage,
    /// The group that is looked at.
    visit: Option<Visit>,
}

/// Owners whose labels agree on some matchers, and whether they satisfy each of them.
type OwnerKind = (RoaringBitmap, Vec<bool>);

/// A group whose slots are compared.
struct Visit {
    group: Arc<SlotGroup>,
    number: u32,
    /// Numbers of the matchers that slots may decide otherwise than their owners.
    open: Vec<usize>,
    kinds: Vec<OwnerKind>,
    /// The slot that is compared next, and those that fit before it, for the last kind.
    next: u32,
    fitting: Vec<u32>,
}

impl Visit {
    /// Compares some more slots. True if all were compared.
    fn compare_slots(&mut self, matchers: &[Matcher], found: &mut impl FnMut(MatchedGroup)) -> bool {
        let Some((_, verdicts)) = self.kinds.last() else { return true };
        let (slots, group) = (self.group.len() as u32, &self.group);
        if !self.open.is_empty() {
            let end = (self.next + (COMPARISONS_PER_STEP / self.open.len()).max(1) as u32).min(slots);
            let fits = |slot: &u32| {
                let mut all = self.open.iter().zip(verdicts);
                all.all(|(matcher, own)| group.satisfies_one(*slot as usize, &matchers[*matcher], *own))
            };
            self.fitting.extend((self.next..end).filter(fits));
            self.next = end;
            if end < slots {
                return false;
            }
        }
        let (owners, _) = self.kinds.pop().expect("looked at above");
        let fitting = std::mem::take(&mut self.fitting);
        self.next = 0;
        let all = self.open.is_empty() || fitting.len() == slots as usize;
        if slots > 0 && (all || !fitting.is_empty()) {
            let slots = (!all).then(|| fitting.into_boxed_slice());
            found(MatchedGroup { group: group.clone(), number: self.number, slots, owners });
        }
        self.kinds.is_empty()
    }
}

impl<'q> Search<'q> {
    /// A search that has not looked at anything yet. The index has to be pinned if others change it between the steps.
    pub fn new(matchers: &'q [Matcher]) -> Search<'q> {
        let stage = Stage::Owners { matcher: 0, after: None };
        Search { matchers, scopes: Vec::with_capacity(matchers.len()), owners: None, groups: None, stage, visit: None }
    }

    /// Finds everything at once.
    pub fn all<T>(matchers: &'q [Matcher], index: &LabelIndex<T>) -> Vec<MatchedGroup> {
        let mut search = Search::new(matchers);
        let mut all = Vec::new();
        while search.step(index, &mut |matched| all.push(matched)) {}
        all
    }

    /// Looks at a little more. False once everything was found.
    pub fn step<T>(&mut self, index: &LabelIndex<T>, found: &mut impl FnMut(MatchedGroup)) -> bool {
        match &mut self.stage {
            Stage::Owners { matcher, .. } if *matcher == self.matchers.len() => self.begin_groups(index),
            Stage::Owners { matcher, after } => {
                let number = *matcher;
                let one = &self.matchers[number];
                if self.scopes.len() == number {
                    self.scopes.push(MatcherScope { owners: RoaringBitmap::new(), groups: None });
                }
                if compare_owners(one, index, &mut self.scopes[number].owners, after) {
                    let by_name = is_metric_name(one.name()) && self.scopes[number].owners.is_empty();
                    self.stage = match by_name && !one.matches("") {
                        true => Stage::Names { matcher: number, after: None },
                        false => {
                            self.scopes[number].groups = groups_with_label(one, index);
                            Stage::Owners { matcher: number + 1, after: None }
                        }
                    };
                }
            }
            Stage::Names { matcher, after } => {
                let number = *matcher;
                let groups = self.scopes[number].groups.get_or_insert_default();
                if compare_values(&self.matchers[number], &index.metric_names, groups, after) {
                    self.stage = Stage::Owners { matcher: number + 1, after: None };
                }
            }
            Stage::Collect { owners, groups } => {
                let mut any = false;
                for owner in owners.by_ref().take(OWNERS_PER_STEP) {
                    any = true;
                    groups.extend(index.owner(owner).iter().flat_map(|owner| owner.groups.iter().copied()));
                }
                if !any {
                    let groups = match &self.groups {
                        Some(others) => &*groups & others,
                        None => std::mem::take(groups),
                    };
                    self.stage = Stage::Visit(groups.into_iter().collect::<Vec<u32>>().into_iter());
                }
            }
            Stage::Visit(groups) => match &mut self.visit {
                Some(visit) => {
                    if visit.compare_slots(self.matchers, found) {
                        self.visit = None;
                    }
                }
                None => {
                    let Some(number) = groups.next() else { return false };
                    self.visit = index.groups.get(number).and_then(|entry| self.begin_visit(index, number, entry));
                }
            },
        }
        true
    }

    /// Decides from which side to go.
    fn begin_groups<T>(&mut self, index: &LabelIndex<T>) {
        for (matcher, scope) in self.matchers.iter().zip(&self.scopes).filter(|(matcher, _)| !matcher.matches("")) {
            let of_slots = scope.groups.as_ref().filter(|groups| !groups.is_empty());
            if scope.owners.is_empty() {
                let groups = of_slots.cloned().unwrap_or_default();
                self.groups = Some(self.groups.take().map_or(groups.clone(), |others| others & groups));
            } else {
                let mut owners = scope.owners.clone();
                for entry in of_slots.into_iter().flatten().filter_map(|number| index.groups.get(number)) {
                    entry.owners.add_to(&mut owners);
                }
                self.owners = Some(self.owners.take().map_or(owners.clone(), |others| others & owners));
            }
            debug_assert!(!is_metric_name(matcher.name()) || scope.groups.is_some());
        }
        let group_count = self.groups.as_ref().map_or(index.groups.len() as u64, RoaringBitmap::len);
        self.stage = match &self.owners {
            Some(owners) if owners.len() * GROUPS_PER_OWNER < group_count => {
                let owners = owners.iter().collect::<Vec<u32>>().into_iter();
                Stage::Collect { owners, groups: RoaringBitmap::new() }
            }
            _ => {
                let all = || (0..index.groups.items.len() as u32).collect();
                let groups: Vec<u32> = self.groups.as_ref().map_or_else(all, |groups| groups.iter().collect());
                Stage::Visit(groups.into_iter())
            }
        };
    }

    /// Finds out which of a group's owners may have matching slots. None if none has.
    fn begin_visit<T>(&self, index: &LabelIndex<T>, number: u32, entry: &IndexedGroup) -> Option<Visit> {
        let mut owners = entry.owners.within(self.owners.as_ref());
        let mut open = Vec::new();
        for (i, (matcher, scope)) in self.matchers.iter().zip(&self.scopes).enumerate() {
            if index.slot_labels.get(matcher.name()).is_some_and(|label| label.has(number)) {
                open.push(i);
            } else {
                owners &= &scope.owners;
            }
        }
        if owners.is_empty() {
            return None;
        }
        let mut kinds: Vec<OwnerKind> = vec![(owners, Vec::with_capacity(open.len()))];
        for satisfying in open.iter().map(|i| &self.scopes[*i].owners) {
            let mut split = Vec::with_capacity(kinds.len() + 1);
            for (owners, verdicts) in kinds {
                for (owners, verdict) in [(&owners & satisfying, true), (&owners - satisfying, false)] {
                    if !owners.is_empty() {
                        split.push((owners, [&verdicts[..], &[verdict]].concat()));
                    }
                }
            }
            kinds = split;
        }
        Some(Visit { group: entry.group.clone(), number, open, kinds, next: 0, fitting: Vec::new() })
    }
}

/// Groups with slots whose own label may satisfy a matcher that the absent label does not; None for one that it does.
fn groups_with_label<T>(matcher: &Matcher, index: &LabelIndex<T>) -> Option<RoaringBitmap> {
    if matcher.matches("") {
        return None;
    }
    let mut groups = RoaringBitmap::new();
    if let Some(label) = index.slot_labels.get(matcher.name()) {
        label.filled.add_to(&mut groups);
    }
    Some(groups)
}

/// Adds the owners whose labels satisfy a matcher. False if there is more to compare.
fn compare_owners<T>(
    matcher: &Matcher,
    index: &LabelIndex<T>,
    owners: &mut RoaringBitmap,
    after: &mut Option<Box<str>>,
) -> bool {
    let absent = matcher.matches("");
    let Some(label) = index.owner_labels.get(matcher.name()) else {
        if absent {
            owners.clone_from(&index.filled_owners);
        }
        return true;
    };
    let exclusion = match (matcher.op(), matcher.regex().map(|regex| regex.literal_alternatives())) {
        (MatchOp::NotEqual, _) => Some(vec![matcher.value()]),
        (MatchOp::NotRegex, Some(Some(values))) => Some(values.iter().map(|value| &**value).collect()),
        _ => None,
    };
    if let Some(values) = exclusion {
        owners.clone_from(&index.filled_owners);
        for value in values {
            match value {
                "" => {
                    let mut without = index.filled_owners.clone();
                    label.owners.remove_from(&mut without);
                    *owners -= without;
                }
                value => label.values.get(value).into_iter().for_each(|ids| ids.remove_from(owners)),
            }
        }
        return true;
    }
    if absent && after.is_none() {
        owners.clone_from(&index.filled_owners);
        label.owners.remove_from(owners);
    }
    compare_values(matcher, &label.values, owners, after)
}

/// Adds the numbers under the values that satisfy a matcher. False if there is more to compare.
fn compare_values(
    matcher: &Matcher,
    values: &std::collections::BTreeMap<Box<str>, super::IdSet>,
    ids: &mut RoaringBitmap,
    after: &mut Option<Box<str>>,
) -> bool {
    let regex = matcher.regex();
    let wanted = match matcher.op() {
        MatchOp::Equal => Some(vec![matcher.value()]),
        MatchOp::Regex => regex
            .and_then(|regex| regex.literal_alternatives())
            .map(|values| values.iter().map(|value| &**value).collect()),
        MatchOp::NotEqual | MatchOp::NotRegex => None,
    };
    if let Some(wanted) = wanted {
        wanted.into_iter().filter_map(|value| values.get(value)).for_each(|found| found.add_to(ids));
        return true;
    }
    let prefix = regex.filter(|_| matcher.op() == MatchOp::Regex).map_or("", |regex| regex.prefix());
    let from = match after.as_deref() {
        Some(last) => Bound::Excluded(last),
        None => Bound::Included(prefix),
    };
    let mut last = None;
    for (value, found) in values.range::<str, _>((from, Bound::Unbounded)).take(VALUES_PER_STEP) {
        if !value.starts_with(prefix) {
            return true;
        }
        if matcher.matches(value) {
            found.add_to(ids);
        }
        last = Some(value);
    }
    match last {
        Some(value) => {
            *after = Some(value.clone());
            false
        }
        None => true,
    }
}
