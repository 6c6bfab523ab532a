//! Labels of series, encoded once: for a slot group and the names of a target's labels, the order in which labels of the
//! slot and of the target follow each other is fixed. A stencil has it as a few runs for each slot: ranges of the slot's
//! encoded labels, and of the target's. A series is then a few copies, whatever the number of its labels.
//!
//! In 1.0 encoded labels are bytes; in 2.0 they are symbols, which each request numbers by an array.
//!
//! Invariants:
//!   * a series has the labels that [`OutgoingLabels::of_slot`] and [`OutgoingLabels::relabel`] give it
//!   * stencils take [`CACHE_BYTES_MAX`] at most; what does not fit is encoded from text, sample by sample
//!   * a group or target that the log reader has dropped is dropped here with the next sweep

use crate::outgoing::{Origin, OutgoingLabels};
use ahash::AHashMap;
use remote::{Message, SeriesContent, Symbol, WriteBuilder, put_label};
use series::Labels;
use std::sync::{Arc, Weak};
use tsdb::SlotGroup;
use tsdb::log::TargetKey;

/// Memory of an endpoint's stencils: a million series of targets that share no slots fit.
const CACHE_BYTES_MAX: usize = 256 << 20;
/// Memory of interned texts, after which all are forgotten.
const SYMBOL_BYTES_MAX: usize = 256 << 20;
/// Targets that were added since the last sweep, beside as many as it left.
const SWEEP_TARGETS_MIN: usize = 256;

/// The labels of a target, a slot or a group, encoded.
#[derive(Debug, Default)]
struct Encoded {
    /// Of 1.0: fields.
    bytes: Vec<u8>,
    /// Of 2.0: name and value in turn.
    symbols: Vec<Symbol>,
}

impl Encoded {
    fn push(&mut self, builder: &mut WriteBuilder, name: &str, value: &str) {
        match builder.message() {
            Message::V1 => put_label(name, value, &mut self.bytes),
            Message::V2 => self.symbols.extend([builder.intern(name), builder.intern(value)]),
        }
    }

    /// Where the next label begins.
    fn end(&self) -> u32 {
        u32::try_from(self.bytes.len() + self.symbols.len()).expect("labels of one group stay below 4 GiB")
    }

    fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.symbols.capacity() * size_of::<Symbol>()
    }
}

/// LabelSource labels a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LabelSource {
    Group,
    /// The range is one of labels, because their lengths differ from target to target.
    Target,
    External,
}

/// A run of labels that lie one behind the other in their source.
#[derive(Clone, Copy, Debug)]
struct LabelRun {
    source_of: LabelSource,
    start: u32,
    end: u32,
}

/// The address of what an [`Arc`] points to. A [`Weak`] to it is kept wherever an address is, so it is not used again.
type Address = usize;

fn address<T>(arc: &Arc<T>) -> Address {
    Arc::as_ptr(arc) as Address
}

#[derive(Debug)]
struct Stencil {
    group: Weak<SlotGroup>,
    own: Encoded,
    runs: Vec<LabelRun>,
    /// For each slot its first run; one more than there are slots.
    starts: Vec<u32>,
}

impl Stencil {
    fn heap_bytes(&self) -> usize {
        self.own.heap_bytes() + self.runs.capacity() * size_of::<LabelRun>() + self.starts.capacity() * size_of::<u32>()
    }
}

/// What the rules make of a slot's series: [`UNCHANGED`], [`DROPPED`], or a range of what is encoded.
type Outcome = (u32, u32);
const UNCHANGED: Outcome = (u32::MAX, 0);
const DROPPED: Outcome = (u32::MAX, 1);

/// A group of a target.
#[derive(Debug)]
struct GroupOfTarget {
    group: Address,
    stencil: Arc<Stencil>,
    /// For each slot; none without rules.
    outcomes: Vec<Outcome>,
    changed: Encoded,
}

impl GroupOfTarget {
    fn heap_bytes(&self) -> usize {
        self.outcomes.capacity() * size_of::<Outcome>() + self.changed.heap_bytes()
    }
}

#[derive(Debug)]
struct Target {
    key: Weak<TargetKey>,
    /// Its labels and the external ones.
    given: Labels,
    encoded: Encoded,
    /// End of each label in `encoded`.
    ends: Vec<u32>,
    /// Number of the list of its names.
    names: u32,
    /// What its samples are told apart by: targets with equal labels have the same series.
    source: u64,
    groups: Vec<GroupOfTarget>,
    /// Place of the group that was used last.
    last_group: usize,
}

/// Adds series to requests, with the labels that an endpoint gets.
#[derive(Debug)]
pub struct SeriesEncoder {
    outgoing: OutgoingLabels,
    external: Encoded,
    external_ends: Vec<u32>,
    targets: Vec<Target>,
    by_address: AHashMap<Address, usize>,
    /// The target of the last series, and its place.
    last: (Address, usize),
    stencils: AHashMap<(Address, u32), Arc<Stencil>>,
    /// Lists of label names of targets, and the number of the next one.
    names: AHashMap<Vec<Box<str>>, u32>,
    next_names: u32,
    bytes: usize,
    bytes_max: usize,
    sweep_at: usize,
}

impl SeriesEncoder {
    /// `builder` is the one that all series are added to.
    pub fn new(outgoing: OutgoingLabels, builder: &mut WriteBuilder) -> SeriesEncoder {
        let (external, external_ends) = encode(&outgoing.external, builder);
        SeriesEncoder {
            outgoing,
            external,
            external_ends,
            targets: Vec::new(),
            by_address: AHashMap::new(),
            last: (0, 0),
            stencils: AHashMap::new(),
            names: AHashMap::new(),
            next_names: 0,
            bytes: 0,
            bytes_max: CACHE_BYTES_MAX,
            sweep_at: SWEEP_TARGETS_MIN,
        }
    }

    /// What samples of a target are told apart by.
    pub fn source(&mut self, target: &Arc<TargetKey>, builder: &mut WriteBuilder) -> u64 {
        let place = self.target(target, builder);
        self.targets[place].source
    }

    /// Adds a series. Returns false if the rules drop it.
    pub fn add(
        &mut self,
        target: &Arc<TargetKey>,
        group: &Arc<SlotGroup>,
        slot: usize,
        content: &SeriesContent,
        builder: &mut WriteBuilder,
    ) -> bool {
        let place = self.target(target, builder);
        if !self.has_group(place, group) && !self.add_group(place, group, builder) {
            return self.add_text(place, group, slot, content, builder);
        }
        let target = &self.targets[place];
        let of_target = &target.groups[target.last_group];
        let outcome = of_target.outcomes.get(slot).copied().unwrap_or(UNCHANGED);
        if outcome == DROPPED {
            return false;
        }
        let (whole, stencil) = ([outcome], &of_target.stencil);
        if outcome != UNCHANGED {
            let range = |range: &Outcome| range.0 as usize..range.1 as usize;
            match builder.message() {
                Message::V1 => {
                    builder.add_encoded(whole.iter().map(|one| &of_target.changed.bytes[range(one)]), content);
                }
                Message::V2 => {
                    builder.add_symbols(whole.iter().map(|one| &of_target.changed.symbols[range(one)]), content);
                }
            }
            return true;
        }
        let runs = stencil.starts[slot] as usize..stencil.starts[slot + 1] as usize;
        let runs = stencil.runs[runs].iter().map(|run| match run.source_of {
            LabelSource::Group => (&stencil.own, run.start as usize..run.end as usize),
            LabelSource::Target => (&target.encoded, labels_range(&target.ends, run)),
            LabelSource::External => (&self.external, labels_range(&self.external_ends, run)),
        });
        match builder.message() {
            Message::V1 => builder.add_encoded(runs.map(|(from, range)| &from.bytes[range]), content),
            Message::V2 => builder.add_symbols(runs.map(|(from, range)| &from.symbols[range]), content),
        }
        true
    }

    /// The same for a group that does not come again: nothing of it is remembered.
    pub fn add_once(
        &mut self,
        target: &Arc<TargetKey>,
        group: &Arc<SlotGroup>,
        slot: usize,
        content: &SeriesContent,
        builder: &mut WriteBuilder,
    ) -> bool {
        let place = self.target(target, builder);
        self.add_text(place, group, slot, content, builder)
    }

    /// Between two requests: forgets texts and stencils if they have become too many.
    pub fn begin_request(&mut self, builder: &mut WriteBuilder) {
        if builder.symbol_bytes() > SYMBOL_BYTES_MAX {
            builder.forget_symbols();
            *self = SeriesEncoder::new(self.outgoing.clone(), builder);
        }
    }

    /// Place of a target.
    #[inline]
    fn target(&mut self, target: &Arc<TargetKey>, builder: &mut WriteBuilder) -> usize {
        let address = address(target);
        if self.last.0 != address {
            let place = self.by_address.get(&address).copied();
            self.last = (address, place.unwrap_or_else(|| self.add_target(target, builder)));
        }
        self.last.1
    }

    fn add_target(&mut self, target: &Arc<TargetKey>, builder: &mut WriteBuilder) -> usize {
        if self.targets.len() >= self.sweep_at {
            self.sweep();
        }
        let given = self.outgoing.of_target(&target.labels);
        let (encoded, ends) = encode(&given, builder);
        let list: Vec<Box<str>> = given.iter().map(|(name, _)| name.into()).collect();
        let names = *self.names.entry(list).or_insert(self.next_names);
        self.next_names += 1;
        self.bytes += encoded.heap_bytes();
        self.targets.push(Target {
            key: Arc::downgrade(target),
            given,
            encoded,
            ends,
            names,
            // By labels: late samples, and a target with another path, have other ids.
            source: target.labels.hash64(),
            groups: Vec::new(),
            last_group: 0,
        });
        self.by_address.insert(address(target), self.targets.len() - 1);
        self.targets.len() - 1
    }

    /// Whether a target has a group; it is then its last one.
    #[inline]
    fn has_group(&mut self, place: usize, group: &Arc<SlotGroup>) -> bool {
        let (target, address) = (&mut self.targets[place], address(group));
        if target.groups.get(target.last_group).is_some_and(|last| last.group == address) {
            return true;
        }
        let found = target.groups.iter().position(|one| one.group == address);
        target.last_group = found.unwrap_or(target.last_group);
        found.is_some()
    }

    /// Adds a group to a target; false if there is no memory for it.
    fn add_group(&mut self, place: usize, group: &Arc<SlotGroup>, builder: &mut WriteBuilder) -> bool {
        if self.bytes >= self.bytes_max {
            return false;
        }
        let key = (address(group), self.targets[place].names);
        let stencil = match self.stencils.get(&key) {
            Some(stencil) => stencil.clone(),
            None => {
                let stencil = Arc::new(self.stencil(place, group, builder));
                self.bytes += stencil.heap_bytes();
                self.stencils.insert(key, stencil.clone());
                stencil
            }
        };
        let (outcomes, changed) = self.outcomes(place, group, builder);
        let of_target = GroupOfTarget { group: key.0, stencil, outcomes, changed };
        self.bytes += of_target.heap_bytes();
        let target = &mut self.targets[place];
        target.last_group = target.groups.len();
        target.groups.push(of_target);
        true
    }

    fn stencil(&self, place: usize, group: &Arc<SlotGroup>, builder: &mut WriteBuilder) -> Stencil {
        let given = &self.targets[place].given;
        let (mut own, mut runs, mut starts) = (Encoded::default(), Vec::<LabelRun>::new(), vec![0]);
        for slot in 0..group.len() {
            let first = runs.len();
            self.outgoing.merge(group, slot, given, |origin, name, value| {
                let (source_of, start, end) = match origin {
                    Origin::Slot(_) => {
                        let start = own.end();
                        own.push(builder, name, value);
                        (LabelSource::Group, start, own.end())
                    }
                    Origin::Target(i) => (LabelSource::Target, i as u32, i as u32 + 1),
                    Origin::External(i) => (LabelSource::External, i as u32, i as u32 + 1),
                };
                match runs[first..].last_mut() {
                    Some(last) if last.source_of == source_of && last.end == start => last.end = end,
                    _ => runs.push(LabelRun { source_of, start, end }),
                }
            });
            starts.push(runs.len() as u32);
        }
        own.bytes.shrink_to_fit();
        own.symbols.shrink_to_fit();
        runs.shrink_to_fit();
        Stencil { group: Arc::downgrade(group), own, runs, starts }
    }

    /// What the rules make of a target's series of a group.
    fn outcomes(&self, place: usize, group: &Arc<SlotGroup>, builder: &mut WriteBuilder) -> (Vec<Outcome>, Encoded) {
        let (mut outcomes, mut changed) = (Vec::new(), Encoded::default());
        if self.outgoing.changes_nothing() {
            return (outcomes, changed);
        }
        let given = &self.targets[place].given;
        for slot in 0..group.len() {
            let labels = self.outgoing.of_slot(group, slot, given);
            outcomes.push(match self.outgoing.relabel(&labels) {
                None => DROPPED,
                Some(relabelled) if relabelled.iter().eq(labels.iter().copied()) => UNCHANGED,
                Some(relabelled) => {
                    let start = changed.end();
                    relabelled.iter().for_each(|(name, value)| changed.push(builder, name, value));
                    (start, changed.end())
                }
            });
        }
        changed.bytes.shrink_to_fit();
        changed.symbols.shrink_to_fit();
        (outcomes, changed)
    }

    /// Adds a series whose group has no stencil.
    fn add_text(
        &self,
        place: usize,
        group: &Arc<SlotGroup>,
        slot: usize,
        content: &SeriesContent,
        builder: &mut WriteBuilder,
    ) -> bool {
        let labels = self.outgoing.of_slot(group, slot, &self.targets[place].given);
        if self.outgoing.changes_nothing() {
            builder.add(labels.iter().copied(), content);
            return true;
        }
        let relabelled = self.outgoing.relabel(&labels);
        if let Some(labels) = &relabelled {
            builder.add(labels.iter(), content);
        }
        relabelled.is_some()
    }

    /// Drops targets and groups that the log reader has dropped.
    fn sweep(&mut self) {
        self.targets.retain(|target| target.key.strong_count() > 0);
        self.stencils.retain(|_, stencil| stencil.group.strong_count() > 0);
        self.bytes = self.stencils.values().map(|stencil| stencil.heap_bytes()).sum();
        for target in &mut self.targets {
            target.groups.retain(|one| one.stencil.group.strong_count() > 0);
            target.last_group = 0;
            self.bytes += target.encoded.heap_bytes();
            self.bytes += target.groups.iter().map(GroupOfTarget::heap_bytes).sum::<usize>();
        }
        let addresses = self.targets.iter().enumerate().map(|(place, target)| (target.key.as_ptr() as Address, place));
        self.by_address = addresses.collect();
        let names: ahash::AHashSet<u32> = self.targets.iter().map(|target| target.names).collect();
        self.names.retain(|_, number| names.contains(number));
        self.stencils.retain(|(_, number), _| names.contains(number));
        self.last = (0, 0);
        self.sweep_at = (self.targets.len() * 2).max(SWEEP_TARGETS_MIN);
    }
}

/// Labels and the end of each.
fn encode(labels: &Labels, builder: &mut WriteBuilder) -> (Encoded, Vec<u32>) {
    let mut encoded = Encoded::default();
    let ends = labels.iter().map(|(name, value)| {
        encoded.push(builder, name, value);
        encoded.end()
    });
    let ends = ends.collect();
    (encoded, ends)
}

/// From labels to where they are encoded.
fn labels_range(ends: &[u32], run: &LabelRun) -> std::ops::Range<usize> {
    let end = |labels: u32| if labels == 0 { 0 } else { ends[labels as usize - 1] as usize };
    end(run.start)..end(run.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use relabel::{NameScheme, Program, RuleSpec};
    use tsdb::GroupBuilder;

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    fn rules(specs: &[(&str, &str, &str)]) -> Program {
        let spec = |(action, label, regex): &(&str, &str, &str)| RuleSpec {
            source_labels: vec![(*label).into()],
            regex: Some((*regex).into()),
            action: Some((*action).into()),
            target_label: if *action == "replace" { "z".into() } else { String::new() },
            replacement: (*action == "replace").then(|| "w".into()),
            ..RuleSpec::default()
        };
        Program::compile(specs.iter().map(spec), NameScheme::Utf8).unwrap()
    }

    /// Labels out of a few names, so that slots, targets and external labels often have the same; a slot's may be empty.
    fn labels(next: &mut impl FnMut(u64) -> u64, may_be_empty: bool) -> Labels {
        let names = ["__name__", "a", "b", "c", "instance", "job", "zone"];
        let mut pairs = vec![("__name__", format!("m{}", next(3)))];
        for name in &names[if may_be_empty { 1 } else { 2 }..] {
            match next(3) {
                0 => pairs.push((name, format!("v{}", next(4)))),
                1 if may_be_empty => pairs.push((name, String::new())),
                _ => {}
            }
        }
        if !may_be_empty {
            pairs.remove(0);
        }
        Labels::from_pairs(pairs)
    }

    #[test]
    fn stencils_make_the_requests_that_texts_make() {
        let all_rules =
            [rules(&[]), rules(&[("drop", "__name__", "m1")]), rules(&[("replace", "a", "v1"), ("drop", "b", "v2")])];
        for (seed, rules) in (0..).zip(all_rules.iter().cycle().take(60)) {
            let mut next = random(seed);
            let message = if seed % 2 == 0 { Message::V1 } else { Message::V2 };
            let outgoing = OutgoingLabels { external: labels(&mut next, false), shard: None, rules: rules.clone() };
            let (mut builder, mut plain) = (WriteBuilder::new(message), WriteBuilder::new(message));
            let mut encoder = SeriesEncoder::new(outgoing.clone(), &mut builder);
            // Some runs have memory for some groups only, some for none.
            encoder.bytes_max = [usize::MAX, 2000, 0][next(3) as usize];
            encoder.sweep_at = 3;
            let (mut targets, mut groups) = (Vec::new(), Vec::new());
            for round in 0..40 {
                if round % 5 == 0 {
                    // Old ones are dropped, and their addresses may be used again.
                    targets.truncate(2);
                    groups.truncate(2);
                    for _ in 0..3 {
                        let key = TargetKey { id: next(100), labels: labels(&mut next, false) };
                        targets.push(Arc::new(key));
                        let mut group = GroupBuilder::default();
                        (0..1 + next(9)).for_each(|_| group.push(&labels(&mut next, true), false));
                        groups.push(Arc::new(group.build()));
                    }
                }
                for _ in 0..30 {
                    let target = &targets[next(targets.len() as u64) as usize];
                    let group = &groups[next(groups.len() as u64) as usize];
                    let slot = next(group.len() as u64) as usize;
                    let content = SeriesContent { samples: &[(next(9) as i64, 0.5)], ..SeriesContent::default() };
                    let is_sent = encoder.add(target, group, slot, &content, &mut builder);
                    let given = outgoing.of_target(&target.labels);
                    let want = outgoing.relabel(&outgoing.of_slot(group, slot, &given));
                    assert_eq!(is_sent, want.is_some());
                    if let Some(want) = want {
                        plain.add(want.iter(), &content);
                    }
                    assert_eq!(encoder.source(target, &mut builder), target.labels.hash64());
                }
                assert_eq!(builder.finish(), plain.finish(), "seed {seed}");
                encoder.begin_request(&mut builder);
            }
        }
    }

    /// What is dropped elsewhere does not stay here.
    #[test]
    fn targets_and_groups_are_dropped_with_their_owners() {
        let mut builder = WriteBuilder::new(Message::V1);
        let outgoing = OutgoingLabels { external: Labels::empty(), shard: None, rules: Program::default() };
        let mut encoder = SeriesEncoder::new(outgoing, &mut builder);
        let content = SeriesContent { samples: &[(1, 0.5)], ..SeriesContent::default() };
        for id in 0..10 * SWEEP_TARGETS_MIN as u64 {
            let target = Arc::new(TargetKey { id, labels: Labels::from_pairs([("instance", id.to_string())]) });
            let mut group = GroupBuilder::default();
            group.push(&Labels::from_pairs([("__name__", format!("m{id}"))]), false);
            encoder.add(&target, &Arc::new(group.build()), 0, &content, &mut builder);
            builder.finish();
        }
        assert!(encoder.targets.len() <= SWEEP_TARGETS_MIN + 1, "{}", encoder.targets.len());
        assert!(encoder.stencils.len() <= SWEEP_TARGETS_MIN + 1, "{}", encoder.stencils.len());
    }
}
