//! Aggregations over the heads of a core.

use crate::head_owner::{HeadOwner, HistogramOwner};
use crate::message::{LimitError, ReduceAnswer, ReduceRequest, piece_bytes};
use crate::select::{CandidateGroups, Matching};
use ahash::{AHashMap, AHashSet, RandomState};
use promql::budget::{BudgetError, Charge};
use promql::{PartialAggregate, Pushdown};
use series::{Labels, METRIC_NAME, Sample, Timestamp};
use std::hash::{BuildHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use tsdb::{Elsewhere, Rows, SeriesPart, SlotGroup, slots_matching};

/// Labels that tell targets apart, and with them their series, as long as no series has others of its own.
const IDENTITY: [&str; 2] = ["instance", "job"];

/// What the requests of a read want of a group, for targets whose labels satisfy the same matchers.
struct SlotSelection {
    /// Slots that any of them wants.
    slots: Rc<[u32]>,
    /// For each request its slots, and where they are among all; None if the series may be those of another target.
    of_works: Box<[Option<Columns>]>,
}

/// Slots, and where each is among those that are read.
type Columns = Box<[(u32, u32)]>;

/// Aggregations while they go from target to target. Those over the same time read each target's rows together.
pub struct Reducing<'a> {
    elsewhere: Elsewhere,
    candidates: &'a CandidateGroups,
    reads: Vec<Read<'a>>,
    hashing: RandomState,
}

/// Requests for which the same rows are read. Targets that share their slot groups, and satisfy the same matchers, share the
/// decision of which slots are wanted.
struct Read<'a> {
    times: (Timestamp, Timestamp),
    newest_from: Option<Timestamp>,
    works: Vec<Work<'a>>,
    known: AHashMap<(*const SlotGroup, u64), Rc<SlotSelection>>,
    /// Keeps the groups of `known` alive, so that no address in it is used again.
    held: Vec<Arc<SlotGroup>>,
    rows: Rows,
    /// Of the target at hand, in the order of its slots.
    groups: Vec<(Arc<SlotGroup>, Rc<SlotSelection>)>,
    /// The slots of a group that none matches of.
    none: Rc<[u32]>,
    newest: NewestOfSource,
}

/// Newest samples of a source, by group and slot.
#[derive(Default)]
struct NewestOfSource {
    groups: Vec<Arc<SlotGroup>>,
    /// The place of its group in the list, its slot, and the sample.
    samples: Vec<(usize, u32, Sample)>,
}

/// What one request takes of the rows of a target. Targets that come one after the other are often alike.
#[derive(Default)]
struct Scratch {
    /// What the columns and places are of: a target's groups and the key of its labels.
    layout: Vec<Rc<SlotSelection>>,
    target_key: u64,
    columns: Vec<usize>,
    places: Vec<u32>,
    /// The same for the classes of a group.
    class_places: Vec<u32>,
    values: Vec<f64>,
}

/// Slots of a group whose series are in one group of the aggregation, whatever the target.
struct SlotClasses {
    /// For each column its class.
    of_columns: Box<[u32]>,
    /// A slot of each.
    examples: Box<[u32]>,
}

/// Where the columns of a target were found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ColumnSearch {
    /// Where they were in the target before.
    Same,
    /// There as well, but the series are in other groups of the aggregation.
    SameColumns,
    Anew,
    /// Nowhere: whole series have to be looked at.
    Nowhere,
}

/// One request. Targets that share that decision, and agree on the labels of the grouping, share the places of the slots.
struct Work<'a> {
    /// Its place among all.
    place: usize,
    request: &'a ReduceRequest,
    answer: Result<ReduceAnswer, LimitError>,
    matching: Matching<'a>,
    /// Slots that it wants of a group, by what they have in common.
    classes: AHashMap<*const SlotSelection, Rc<SlotClasses>>,
    /// Lists of groups in which series differ in more than their names.
    told_apart: AHashSet<u64>,
    partial_account: PartialAccount,
    scratch: Scratch,
}

/// What the partial sums of an aggregation are charged with. They are measured when their groups may have grown by an
/// eighth: measuring looks at every group.
#[derive(Default)]
struct PartialAccount {
    bytes: u64,
    /// How often the groups of slots were found anew, and when to measure next.
    grown: usize,
    measured_at: usize,
}

impl PartialAccount {
    fn charge(&mut self, partial: &PartialAggregate, charge: &mut Charge) -> Result<(), BudgetError> {
        let bytes = partial.bytes();
        charge.grow(0, bytes.saturating_sub(self.bytes))?;
        self.bytes = self.bytes.max(bytes);
        self.measured_at = self.grown + self.grown / 8 + 1;
        Ok(())
    }
}

impl<'a> Reducing<'a> {
    pub fn new(requests: &'a [ReduceRequest], elsewhere: Elsewhere, candidates: &'a CandidateGroups) -> Reducing<'a> {
        let mut reads: Vec<Read> = Vec::new();
        for (place, request) in requests.iter().enumerate() {
            let (times, newest_from) = ((request.from, request.to), request.reduction.newest_from());
            let work = Work::new(place, request, candidates);
            match reads.iter_mut().find(|read| read.times == times && read.newest_from == newest_from) {
                Some(read) => read.works.push(work),
                None => reads.push(Read::new(times, newest_from, work)),
            }
        }
        Reducing { elsewhere, candidates, reads, hashing: hashing() }
    }

    pub fn target(&mut self, holder: &HeadOwner, visible: u64) {
        let identity = identity(&self.hashing, holder.labels.iter());
        for read in &mut self.reads {
            read.target(holder, visible, (self.elsewhere, self.candidates), identity, &self.hashing);
        }
    }

    /// A target that is gone, or a source of samples that no scrape brings: its series may have gone on elsewhere.
    pub fn source(&mut self, holder: &HeadOwner, visible: u64) {
        let Reducing { elsewhere, reads, hashing, .. } = self;
        for read in reads {
            for work in &mut read.works {
                if !work.matching.any(holder) {
                    continue;
                }
                let newest = &mut read.newest;
                let is_single = read.newest_from.is_some_and(|first| first >= read.times.1);
                if !is_single || !work.take_newest(holder, visible, *elsewhere, newest, hashing) {
                    work.in_pieces(holder, visible, hashing);
                }
            }
        }
    }

    /// Histograms are aggregated as whole series.
    pub fn histograms(&mut self, holder: &HistogramOwner) {
        for work in self.reads.iter_mut().flat_map(|read| &mut read.works) {
            if let Ok(answer) = &mut work.answer {
                answer.refused |= work.matching.touches(holder, work.request.from);
            }
        }
    }

    /// Whether no request has an answer any more, so that going on is of no use.
    pub fn is_lost(&self) -> bool {
        self.reads.iter().flat_map(|read| &read.works).all(|work| work.answer.is_err())
    }

    /// The answers, as the requests were.
    pub fn finish(self) -> Vec<Result<ReduceAnswer, LimitError>> {
        let mut works: Vec<Work> = self.reads.into_iter().flat_map(|read| read.works).collect();
        works.sort_unstable_by_key(|work| work.place);
        works.into_iter().map(|work| work.answer).collect()
    }
}

impl<'a> Read<'a> {
    fn new(times: (Timestamp, Timestamp), newest_from: Option<Timestamp>, work: Work<'a>) -> Read<'a> {
        Read {
            times,
            newest_from,
            works: vec![work],
            known: AHashMap::new(),
            held: Vec::new(),
            rows: Rows::default(),
            groups: Vec::new(),
            none: Rc::default(),
            newest: NewestOfSource::default(),
        }
    }

    fn target(
        &mut self,
        holder: &HeadOwner,
        visible: u64,
        (elsewhere, candidates): (Elsewhere, &CandidateGroups),
        identity: u64,
        hashing: &RandomState,
    ) {
        let Read { times, newest_from, works, known, held, rows, groups, none, newest: _ } = self;
        let (head, labels) = (holder.head.borrow(), &holder.labels);
        let candidates = candidates.of(&holder.index, head.rows_version());
        let mut key = hashing.build_hasher();
        works.iter().for_each(|work| work.verdicts(labels, &mut key));
        let key = key.finish();
        groups.clear();
        let matching = |group: &Arc<SlotGroup>| {
            if candidates.is_some_and(|groups| !groups.contains(&Arc::as_ptr(group).addr())) {
                return none.clone();
            }
            let wanted = known.entry((Arc::as_ptr(group), key)).or_insert_with(|| {
                held.push(group.clone());
                Rc::new(SlotSelection::of_group(works, group, labels))
            });
            groups.push((group.clone(), wanted.clone()));
            wanted.slots.clone()
        };
        let whole = head.rows(*times, visible, elsewhere, *newest_from, rows, matching);
        // Rows in memory were written by this process: one that does not decode is our own mistake.
        if !whole.expect("rows of this process decode") {
            works.iter_mut().for_each(|work| work.in_pieces(holder, visible, hashing));
            return;
        }
        for (at, work) in works.iter_mut().enumerate() {
            let target_key = work.request.reduction.target_key(labels);
            match work.find_columns(at, groups, labels, target_key) {
                ColumnSearch::Nowhere => work.in_pieces(holder, visible, hashing),
                found => work.take(holder, identity, rows, groups, found, hashing),
            }
        }
    }
}

impl SlotSelection {
    fn of_group(works: &[Work], group: &SlotGroup, target: &Labels) -> SlotSelection {
        let of_works: Vec<Vec<u32>> =
            works.iter().map(|work| slots_matching(&work.request.selectors, group, target)).collect();
        let mut slots = of_works.concat();
        slots.sort_unstable();
        slots.dedup();
        let own_identity = |slot: &u32| group.label_pairs(*slot as usize).any(|(name, _)| IDENTITY.contains(&name));
        let column = |slot: u32| (slot, slots.binary_search(&slot).expect("one of them") as u32);
        let columns = |own: Vec<u32>| (!own.iter().any(own_identity)).then(|| own.into_iter().map(column).collect());
        SlotSelection { of_works: of_works.into_iter().map(columns).collect(), slots: slots.into() }
    }
}

impl SlotClasses {
    fn new(reduction: &Pushdown, group: &SlotGroup, columns: &[(u32, u32)]) -> SlotClasses {
        let mut classes: AHashMap<Vec<(&str, &str)>, u32> = AHashMap::new();
        let mut examples = Vec::new();
        let mut class_of = |(slot, _): &(u32, u32)| {
            let key = reduction.own_key(group.label_pairs(*slot as usize));
            *classes.entry(key).or_insert_with(|| {
                examples.push(*slot);
                examples.len() as u32 - 1
            })
        };
        let of_columns = columns.iter().map(&mut class_of).collect();
        SlotClasses { of_columns, examples: examples.into() }
    }
}

impl Scratch {
    /// The groups, the times and the values of these columns.
    fn of_rows<'s>(&'s mut self, rows: &'s Rows) -> (&'s [u32], &'s [i64], &'s [f64]) {
        let Scratch { columns, places, values, .. } = self;
        // No column comes twice: as many as there are, are all.
        if columns.len() == rows.width {
            return (places, &rows.times, &rows.values);
        }
        values.clear();
        if !columns.is_empty() {
            for row in rows.values.chunks_exact(rows.width) {
                values.extend(columns.iter().map(|column| row[*column]));
            }
        }
        (places, &rows.times, values)
    }
}

impl<'a> Work<'a> {
    fn new(place: usize, request: &'a ReduceRequest, candidates: &'a CandidateGroups) -> Work<'a> {
        let answer = ReduceAnswer {
            partial: PartialAggregate::new(request.reduction.clone()),
            whole: Vec::new(),
            pieces: Vec::new(),
            identities: Vec::new(),
            pieces_identities: AHashSet::new(),
            series: Vec::new(),
            refused: false,
            samples: 0,
            charge: Charge::empty(&request.budget),
        };
        let matching = Matching::new(&request.selectors, candidates);
        Work {
            place,
            request,
            answer: Ok(answer),
            matching,
            classes: AHashMap::new(),
            told_apart: AHashSet::new(),
            partial_account: PartialAccount::default(),
            scratch: Scratch::default(),
        }
    }

    /// Which of its matchers the labels of a target satisfy.
    fn verdicts(&self, labels: &Labels, key: &mut impl Hasher) {
        for matcher in self.request.selectors.iter().flatten() {
            key.write_u8(u8::from(matcher.matches(labels.get(matcher.name()).unwrap_or(""))));
        }
    }

    /// Finds its columns among all that are read of a target; `at` is its place in the read.
    fn find_columns(
        &mut self,
        at: usize,
        groups: &[(Arc<SlotGroup>, Rc<SlotSelection>)],
        target: &Labels,
        target_key: u64,
    ) -> ColumnSearch {
        let Ok(ReduceAnswer { partial, .. }) = &mut self.answer else { return ColumnSearch::Nowhere };
        let scratch = &mut self.scratch;
        let is_same = scratch.layout.len() == groups.len()
            && scratch.layout.iter().zip(groups).all(|(before, (_, wanted))| Rc::ptr_eq(before, wanted));
        if is_same && scratch.target_key == target_key && !groups.is_empty() {
            return ColumnSearch::Same;
        }
        if !is_same {
            scratch.layout.clear();
            scratch.columns.clear();
            let mut base = 0;
            for (_, wanted) in groups {
                let Some(columns) = &wanted.of_works[at] else {
                    scratch.layout.clear();
                    return ColumnSearch::Nowhere;
                };
                scratch.columns.extend(columns.iter().map(|(_, column)| base + *column as usize));
                scratch.layout.push(wanted.clone());
                base += wanted.slots.len();
            }
        }
        scratch.target_key = target_key;
        scratch.places.clear();
        let reduction = &self.request.reduction;
        for (group, wanted) in groups {
            let columns = wanted.of_works[at].as_deref().expect("there, or there are no columns");
            let classes = self
                .classes
                .entry(Rc::as_ptr(wanted))
                .or_insert_with(|| Rc::new(SlotClasses::new(reduction, group, columns)));
            let Scratch { class_places, places, .. } = scratch;
            class_places.clear();
            let place = |slot: &u32| partial.place(&group.series_labels(*slot as usize, target));
            class_places.extend(classes.examples.iter().map(place));
            places.extend(classes.of_columns.iter().map(|class| class_places[*class as usize]));
        }
        self.partial_account.grown += 1;
        if is_same { ColumnSearch::SameColumns } else { ColumnSearch::Anew }
    }

    /// Takes what it wants of the rows of a target, whose columns were found.
    fn take(
        &mut self,
        holder: &HeadOwner,
        identity: u64,
        rows: &Rows,
        groups: &[(Arc<SlotGroup>, Rc<SlotSelection>)],
        found: ColumnSearch,
        hashing: &RandomState,
    ) {
        let is_any = !self.scratch.places.is_empty();
        // Of a target like the one before it is known.
        let refused = found != ColumnSearch::Same && is_any && self.request.reduction.names_vanish() && {
            let wanted = groups.iter().map(|(group, wanted)| (Arc::as_ptr(group), Rc::as_ptr(wanted)));
            let layout = hashing.hash_one((self.scratch.target_key, wanted.collect::<Vec<_>>()));
            self.told_apart.insert(layout) && !self.differ_without_names(groups, &holder.labels)
        };
        let Ok(answer) = &mut self.answer else { return };
        answer.refused |= refused;
        answer.whole.push(holder.id);
        if is_any {
            let (places, times, values) = self.scratch.of_rows(rows);
            answer.samples += values.len();
            answer.partial.add_rows(places, times, values);
            answer.identities.push(identity);
            self.charge_partial();
        }
    }

    /// Whether no two matching series of a target have all labels but the name in common.
    fn differ_without_names(&self, groups: &[(Arc<SlotGroup>, Rc<SlotSelection>)], target: &Labels) -> bool {
        let mut seen: AHashMap<Labels, &str> = AHashMap::new();
        groups.iter().all(|(group, _)| {
            slots_matching(&self.request.selectors, group, target).into_iter().all(|slot| {
                let pairs = group.series_pairs(slot as usize, target);
                let others = Labels::from_sorted(pairs.filter(|(name, _)| *name != METRIC_NAME));
                let name = group.metric_name(slot as usize);
                // A series may have been in slots of several groups.
                *seen.entry(others).or_insert(name) == name
            })
        })
    }

    /// Takes the newest samples of a source, if there is nothing else to know of its series.
    fn take_newest(
        &mut self,
        holder: &HeadOwner,
        visible: u64,
        elsewhere: Elsewhere,
        found: &mut NewestOfSource,
        hashing: &RandomState,
    ) -> bool {
        let Ok(answer) = &mut self.answer else { return true };
        let (head, target) = (holder.head.borrow(), &holder.labels);
        let NewestOfSource { groups, samples } = found;
        groups.clear();
        samples.clear();
        let take = |group: &Arc<SlotGroup>, slot: u32, sample: Sample| {
            if groups.last().is_none_or(|last| !Arc::ptr_eq(last, group)) {
                groups.push(group.clone());
            }
            samples.push((groups.len() - 1, slot, sample));
        };
        let (after, at) = (self.request.from.plus_ms(-1), self.request.to);
        let slots = self.matching.slots_of(&holder.labels, &holder.index, head.rows_version());
        let whole = head.instant(after, at, visible, elsewhere, slots, take);
        if !whole.expect("rows of this process decode") {
            return false;
        }
        let bytes = samples.len() * (size_of::<u64>() + size_of::<(usize, u32, Sample)>());
        if let Err(error) = answer.charge.grow(0, bytes as u64) {
            self.answer = Err(error.into());
            return true;
        }
        answer.whole.push(holder.id);
        answer.samples += samples.len();
        let is_one_group = answer.partial.has_one_group();
        for (group, slot, sample) in samples.drain(..) {
            let (group, slot) = (&groups[group], slot as usize);
            let pairs = group.series_pairs(slot, target);
            answer.series.push(series_hash(hashing, pairs.clone()));
            answer.pieces_identities.insert(identity(hashing, pairs.clone()));
            // A marker of its own says that the series has ended.
            if !series::is_stale(sample.value) {
                let labels = if is_one_group { Labels::empty() } else { Labels::from_sorted(pairs) };
                let place = answer.partial.place(&labels);
                answer.partial.add_rows(&[place], &[sample.timestamp.0], &[sample.value]);
            }
        }
        self.partial_account.grown += 1;
        self.charge_partial();
        true
    }

    /// Charges the partial sums if they may have grown.
    fn charge_partial(&mut self) {
        let (Ok(answer), account) = (&mut self.answer, &mut self.partial_account) else { return };
        if account.grown >= account.measured_at
            && let Err(error) = account.charge(&answer.partial, &mut answer.charge)
        {
            self.answer = Err(error.into());
        }
    }

    /// Takes the samples of a source as they are.
    fn in_pieces(&mut self, holder: &HeadOwner, visible: u64, hashing: &RandomState) {
        let Ok(answer) = &mut self.answer else { return };
        let mut pieces: Vec<SeriesPart> = Vec::new();
        let (from, to) = (self.request.from, self.request.to);
        answer.samples += self.matching.range(holder, from, to, visible, &mut pieces);
        if let Err(error) = answer.charge.grow(0, pieces.iter().map(piece_bytes).sum()) {
            self.answer = Err(error.into());
            return;
        }
        answer.pieces_identities.extend(pieces.iter().map(|piece| identity(hashing, piece.labels.iter())));
        answer.pieces.append(&mut pieces);
    }
}

fn identity<'p>(hashing: &RandomState, pairs: impl Iterator<Item = (&'p str, &'p str)> + Clone) -> u64 {
    let value = |wanted: &str| pairs.clone().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value);
    hashing.hash_one(IDENTITY.map(value))
}

/// The same on every core for the same labels.
fn series_hash<'p>(hashing: &RandomState, pairs: impl Iterator<Item = (&'p str, &'p str)>) -> u64 {
    let mut hasher = hashing.build_hasher();
    pairs.for_each(|pair| pair.hash(&mut hasher));
    hasher.finish()
}

/// Tells series apart that answers of several cores and chunks have: equal labels have one hash.
pub struct SeriesHashes {
    hashing: RandomState,
    seen: AHashSet<u64>,
}

impl Default for SeriesHashes {
    fn default() -> SeriesHashes {
        SeriesHashes { hashing: hashing(), seen: AHashSet::new() }
    }
}

impl SeriesHashes {
    /// Adds the series of an answer; false if one may be there already.
    pub fn add_all(&mut self, series: &[u64]) -> bool {
        self.seen.reserve(series.len());
        series.iter().all(|hash| self.seen.insert(*hash))
    }

    pub fn may_have(&self, labels: &Labels) -> bool {
        !self.seen.is_empty() && self.seen.contains(&series_hash(&self.hashing, labels.iter()))
    }
}

fn hashing() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}
