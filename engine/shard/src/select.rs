//! Instant selects over the heads of a core.

use crate::class::series_labels;
use crate::status::InstantSample;
use ahash::AHashMap;
use series::{Labels, Matcher, Timestamp};
use std::rc::Rc;
use tsdb::{SlotGroup, TargetHead};

/// Verdicts of matchers on target labels that fit in a key; a request with more matchers does without the memory.
const MATCHERS_REMEMBERED_MAX: usize = 64;

/// Decides which slots a request wants, once per group and kind of target: ten thousand targets that share their groups
/// and agree on the matched labels cost one decision.
pub struct Matching<'a> {
    selectors: &'a [Vec<Matcher>],
    known: AHashMap<(*const SlotGroup, u64), Rc<[u32]>>,
    /// Keeps the groups of `known` alive, so that no address in it is used again.
    held: Vec<Rc<SlotGroup>>,
}

impl<'a> Matching<'a> {
    pub fn new(selectors: &'a [Vec<Matcher>]) -> Matching<'a> {
        Matching { selectors, known: AHashMap::new(), held: Vec::new() }
    }

    /// Adds the newest samples of a target in `(after, at]`.
    pub fn read(
        &mut self,
        head: &TargetHead,
        target: &Labels,
        after: Timestamp,
        at: Timestamp,
        samples: &mut Vec<InstantSample>,
    ) {
        let matchers = self.selectors.iter().flatten();
        let remember = matchers.clone().count() <= MATCHERS_REMEMBERED_MAX;
        let verdicts = matchers.take(MATCHERS_REMEMBERED_MAX).enumerate().fold(0u64, |bits, (i, matcher)| {
            bits | u64::from(matcher.matches(target.get(matcher.name()).unwrap_or(""))) << i
        });
        let matching = |group: &Rc<SlotGroup>| {
            let key = (Rc::as_ptr(group), verdicts);
            if let Some(slots) = self.known.get(&key).filter(|_| remember) {
                return slots.clone();
            }
            let mut slots: Vec<u32> =
                self.selectors.iter().flat_map(|matchers| group.matching(matchers, target)).collect();
            slots.sort_unstable();
            slots.dedup();
            let slots: Rc<[u32]> = slots.into();
            if remember {
                self.known.insert(key, slots.clone());
                self.held.push(group.clone());
            }
            slots
        };
        let found = |group: &Rc<SlotGroup>, slot: u32, sample: series::Sample| {
            let labels = series_labels(&group.labels(slot as usize), target);
            samples.push(InstantSample { labels, timestamp: sample.timestamp, value: sample.value });
        };
        // Rows in memory were written by this process: one that does not decode is our own mistake.
        head.instant(after, at, matching, found).expect("rows of this process decode");
    }
}
