//! Slots that come and go together, shared by all targets that expose the same lines.

use crate::bits::Bits;
use ahash::AHashSet;
use series::{Labels, METRIC_NAME, Matcher};

/// An immutable list of slots with their own labels. The text lies in one piece: on a mixed fleet many groups belong
/// to one target alone, and then a slot's share of the group is what a series costs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SlotGroup {
    text: Box<str>,
    /// End of each name and each value in the text, slot by slot.
    ends: Box<[u32]>,
    /// For each slot the index of its first end; one more than there are slots.
    starts: Box<[u32]>,
    stamped: Bits,
    any_stamped: bool,
    /// Has the bit of every label name of a slot, see [`name_bit`].
    names: u64,
}

/// One of 64 bits for a label's name: names that have it may be another's, one that nobody set is nobody's.
fn name_bit(name: &str) -> u64 {
    let mixed = name.bytes().fold(0u64, |mixed, byte| (mixed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    1 << (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

/// Collects the slots of a group.
#[derive(Clone, Debug, Default)]
pub struct GroupBuilder {
    text: String,
    ends: Vec<u32>,
    starts: Vec<u32>,
    stamped: Bits,
    any_stamped: bool,
    names: u64,
}

impl GroupBuilder {
    /// Adds a slot. A stamped one takes samples with timestamps of their own.
    pub fn push(&mut self, labels: &Labels, stamped: bool) {
        if stamped {
            self.stamped.set(self.starts.len());
            self.any_stamped = true;
        }
        self.starts.push(self.ends.len() as u32);
        for (name, value) in labels.iter() {
            self.names |= name_bit(name);
            for part in [name, value] {
                self.text.push_str(part);
                self.ends.push(u32::try_from(self.text.len()).expect("a group's labels stay below 4 GiB"));
            }
        }
    }

    pub fn build(mut self) -> SlotGroup {
        self.starts.push(self.ends.len() as u32);
        SlotGroup {
            text: self.text.into(),
            ends: self.ends.into(),
            starts: self.starts.into(),
            stamped: self.stamped,
            any_stamped: self.any_stamped,
            names: self.names,
        }
    }
}

/// From so many matchers on, the label names of a group are listed: those that no slot has are decided by the target alone.
const NAMES_WORTH_LISTING: usize = 8;

impl SlotGroup {
    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether samples of the slot carry timestamps of their own.
    pub fn is_stamped(&self, slot: usize) -> bool {
        self.any_stamped && self.stamped.get(slot)
    }

    /// Whether any slot does.
    pub fn any_stamped(&self) -> bool {
        self.any_stamped
    }

    /// The slot's own labels, sorted by name. An empty value hides the target's label of that name.
    pub fn label_pairs(&self, slot: usize) -> impl Iterator<Item = (&str, &str)> + Clone {
        let (first, last) = (self.starts[slot] as usize, self.starts[slot + 1] as usize);
        let end = |at: usize| if at == 0 { 0 } else { self.ends[at - 1] as usize };
        (first..last).step_by(2).map(move |at| {
            let (name, value) = (end(at)..end(at + 1), end(at + 1)..end(at + 2));
            (&self.text[name], &self.text[value])
        })
    }

    /// The slot's metric name, or "".
    pub fn metric_name(&self, slot: usize) -> &str {
        self.label_pairs(slot).find(|(name, _)| *name == METRIC_NAME).map_or("", |(_, value)| value)
    }

    /// Equal for slots with equal labels; two that differ are told apart as far as 64 bits do.
    pub fn slot_hash(&self, slot: usize, hasher: &impl std::hash::BuildHasher) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = hasher.build_hasher();
        self.label_pairs(slot).for_each(|pair| pair.hash(&mut hasher));
        hasher.finish()
    }

    /// The slot's own labels as a set.
    pub fn labels(&self, slot: usize) -> Labels {
        Labels::from_sorted(self.label_pairs(slot))
    }

    /// The labels of a slot's series for a target with these labels, sorted by name. Where both have a name, the slot's
    /// value stands; where that is empty, there is no such label.
    pub fn series_pairs<'a>(
        &'a self,
        slot: usize,
        target: &'a Labels,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + Clone {
        let (mut own, mut outer) = (self.label_pairs(slot).peekable(), target.iter().peekable());
        std::iter::from_fn(move || match (own.peek(), outer.peek()) {
            (Some(one), Some(other)) if one.0 == other.0 => {
                outer.next();
                own.next()
            }
            (Some(one), Some(other)) if one.0 > other.0 => outer.next(),
            (Some(_), _) => own.next(),
            (None, _) => outer.next(),
        })
        .filter(|(_, value)| !value.is_empty())
    }

    /// The labels of a slot's series as a set.
    pub fn series_labels(&self, slot: usize, target: &Labels) -> Labels {
        Labels::from_sorted(self.series_pairs(slot, target))
    }

    /// The slots whose series satisfy all matchers, for a target with these labels. A label of the slot decides over
    /// the target's of the same name.
    pub fn matching(&self, matchers: &[Matcher], target: &Labels) -> Vec<u32> {
        self.all_matching(matchers, target).map(|slot| slot as u32).collect()
    }

    /// Whether a slot's series satisfies all matchers, for a target whose labels satisfy those of `of_target`.
    pub fn fits(&self, slot: usize, matchers: &[Matcher], of_target: &[bool]) -> bool {
        matchers.iter().zip(of_target).all(|(matcher, fits)| self.satisfies_one(slot, matcher, *fits))
    }

    /// Whether there is a slot whose series satisfies all matchers, for a target with these labels.
    pub fn any_matches(&self, matchers: &[Matcher], target: &Labels) -> bool {
        self.all_matching(matchers, target).next().is_some()
    }

    fn all_matching(&self, matchers: &[Matcher], target: &Labels) -> impl Iterator<Item = usize> {
        let of_target = |matcher: &Matcher| matcher.matches(target.get(matcher.name()).unwrap_or(""));
        let (mut open, mut none) = (Vec::new(), false);
        for matcher in matchers {
            match (of_target(matcher), self.names & name_bit(matcher.name()) == 0) {
                // No slot has the label: the target has decided for all of them.
                (fits, true) => none |= !fits,
                (fits, false) => open.push((matcher, fits)),
            }
        }
        if open.len() > NAMES_WORTH_LISTING && !none {
            let names: AHashSet<&str> =
                (0..self.len()).flat_map(|slot| self.label_pairs(slot)).map(|pair| pair.0).collect();
            open.retain(|(matcher, fits)| {
                let is_open = names.contains(matcher.name());
                none |= !is_open && !fits;
                is_open
            });
        }
        let slots = if none { 0 } else { self.len() };
        (0..slots).filter(move |slot| open.iter().all(|(matcher, fits)| self.satisfies_one(*slot, matcher, *fits)))
    }

    /// `of_target` says whether the target's labels satisfy the matcher, where the slot has no such label.
    #[inline]
    pub(crate) fn satisfies_one(&self, slot: usize, matcher: &Matcher, of_target: bool) -> bool {
        let own = self.label_pairs(slot).find(|(name, _)| *name == matcher.name());
        own.map_or(of_target, |(_, value)| matcher.matches(value))
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.text.len() + (self.ends.len() + self.starts.len()) * 4 + self.stamped.0.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use series::MatchOp;

    #[test]
    fn labels_come_back() {
        let sets = [&[("__name__", "a"), ("b", "")][..], &[], &[("__name__", "c")]];
        let mut builder = GroupBuilder::default();
        for (i, set) in sets.iter().enumerate() {
            builder.push(&Labels::from_pairs(set.iter().copied()), i == 2);
        }
        let group = builder.build();
        assert_eq!(group.len(), 3);
        for (slot, set) in sets.iter().enumerate() {
            assert_eq!(group.label_pairs(slot).collect::<Vec<_>>(), *set);
        }
        assert!(group.is_stamped(2) && !group.is_stamped(0));
        assert!(SlotGroup::default().is_empty());
    }

    #[test]
    fn matchers_see_slot_labels_before_target_labels() {
        let mut builder = GroupBuilder::default();
        builder.push(&Labels::from_pairs([("__name__", "a"), ("job", "own")]), false);
        builder.push(&Labels::from_pairs([("__name__", "a"), ("job", "")]), false);
        builder.push(&Labels::from_pairs([("__name__", "b")]), false);
        let group = builder.build();
        let target = Labels::from_pairs([("instance", "i"), ("job", "j")]);
        let check = |matchers: &[(&str, MatchOp, &str)], want: &[u32]| {
            let matchers: Vec<_> = matchers.iter().map(|(n, op, v)| Matcher::new(n, *op, v).unwrap()).collect();
            assert_eq!(group.matching(&matchers, &target), want, "{matchers:?}");
            assert_eq!(group.any_matches(&matchers, &target), !want.is_empty(), "{matchers:?}");
        };
        check(&[("job", MatchOp::Equal, "j")], &[2]);
        check(&[("job", MatchOp::Equal, "own")], &[0]);
        check(&[("job", MatchOp::Equal, "")], &[1]);
        check(&[("job", MatchOp::Regex, "own|j"), ("__name__", MatchOp::Equal, "a")], &[0]);
        // Of a label that no slot has, the target's decides for all of them.
        check(&[("instance", MatchOp::Equal, "i")], &[0, 1, 2]);
        check(&[("instance", MatchOp::Regex, "i.*"), ("__name__", MatchOp::Equal, "b")], &[2]);
        check(&[("instance", MatchOp::Equal, "other")], &[]);
        check(&[("nowhere", MatchOp::Equal, "")], &[0, 1, 2]);
        check(&[("nowhere", MatchOp::NotEqual, "")], &[]);
        check(&[], &[0, 1, 2]);
    }
}
