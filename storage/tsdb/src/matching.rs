//! Which slots a question wants.

use crate::group::SlotGroup;
use ahash::{AHashMap, AHashSet};
use series::{Labels, Matcher};
use std::rc::Rc;
use std::sync::Arc;

/// Verdicts of matchers on target labels that fit in a key; a question with more matchers does without the memory.
const MATCHERS_REMEMBERED_MAX: usize = 64;

/// The slots of a group that satisfy any of the selectors, ascending, for a target with these labels.
pub fn slots_matching(selectors: &[Vec<Matcher>], group: &SlotGroup, target: &Labels) -> Vec<u32> {
    let mut slots: Vec<u32> = selectors.iter().flat_map(|matchers| group.matching(matchers, target)).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// Decides which slots a question wants, once per group and kind of target: ten thousand targets that share their groups
/// and agree on the matched labels cost one decision.
pub struct Matching<'a> {
    selectors: &'a [Vec<Matcher>],
    known: AHashMap<(*const SlotGroup, u64), Rc<[u32]>>,
    /// Keeps the groups of `known` alive, so that no address in it is used again.
    held: Vec<Arc<SlotGroup>>,
}

impl<'a> Matching<'a> {
    pub fn new(selectors: &'a [Vec<Matcher>]) -> Matching<'a> {
        Matching { selectors, known: AHashMap::new(), held: Vec::new() }
    }

    pub fn selectors(&self) -> &'a [Vec<Matcher>] {
        self.selectors
    }

    /// The matching slots of groups of a target.
    pub fn of_target<'t>(&'t mut self, target: &'t Labels) -> impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]> + 't {
        self.of_candidates(target, None)
    }

    /// The same where a search has found that no group of the target has any that match but those at the addresses
    /// `candidates`.
    pub fn of_candidates<'t>(
        &'t mut self,
        target: &'t Labels,
        candidates: Option<&'t AHashSet<usize>>,
    ) -> impl FnMut(&Arc<SlotGroup>) -> Rc<[u32]> + 't {
        let matchers = self.selectors.iter().flatten();
        let remember = matchers.clone().count() <= MATCHERS_REMEMBERED_MAX;
        let verdicts = matchers.take(MATCHERS_REMEMBERED_MAX).enumerate().fold(0u64, |bits, (i, matcher)| {
            bits | u64::from(matcher.matches(target.get(matcher.name()).unwrap_or(""))) << i
        });
        let none: Rc<[u32]> = Rc::default();
        move |group| {
            if candidates.is_some_and(|groups| !groups.contains(&Arc::as_ptr(group).addr())) {
                return none.clone();
            }
            let key = (Arc::as_ptr(group), verdicts);
            if let Some(slots) = self.known.get(&key).filter(|_| remember) {
                return slots.clone();
            }
            let slots: Rc<[u32]> = slots_matching(self.selectors, group, target).into();
            if remember {
                self.known.insert(key, slots.clone());
                self.held.push(group.clone());
            }
            slots
        }
    }
}
