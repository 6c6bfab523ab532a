//! Samples that no scrape brings: who brings them is a *source*, kept like a target without a schedule.
//!
//! A source's series lie in heads of at most [`SLOTS_MAX`] slots, and each of its rows is a row there (decision 023).
//!
//! Invariants:
//!   * a series has one slot in a source, and a place among its histograms if it has such; of two samples of one row
//!     for it the first counts
//!   * what a writer is told is kept, the log has: nothing is acknowledged while the log cannot be written
//!   * a source that brings nothing for [`IDLE_MS_MAX`] is forgotten once its rows are in chunks

use crate::head_owner::{HeadOwner, HistogramOwner};
use ahash::{AHashMap, AHashSet, RandomState};
use series::{Histogram, Labels, NO_START, STALE_NAN, Timestamp, Value};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use tsdb::log::{Journal, TargetKey};
use tsdb::{
    AppendScratch, GroupBuilder, HistogramHead, HistogramSample, SegmentLimits, SlotGroup, SparseSample, TargetHead,
};
use xxhash_rust::xxh64::xxh64;

mod received;

pub use received::{
    AHEAD_MS_MAX, PushedSeries, ReceiveOutcome, ReceiveRequest, Receiving, Refusal, RejectedSamples,
    received_source_id, source_labels, source_of, zero_like,
};

/// Slots of one head: a row costs a look at each of them.
const SLOTS_MAX: usize = 2048;
/// Slots of a head for series that bring very many samples at once.
const SLOTS_ALONE_MAX: usize = 8;
/// Slots of a group: what is replaced together.
const GROUP_SLOTS_MAX: usize = 64;
/// Small groups that a head may have beside those that it needs.
const GROUPS_SPARE_MAX: usize = 16;
/// A source that brings nothing for so long is forgotten.
const IDLE_MS_MAX: i64 = 3_600_000;
/// A series without histograms.
const NO_HISTOGRAMS: u32 = u32::MAX;

/// A head that got a row, and its owner.
pub enum Head<'a> {
    Floats(&'a Rc<HeadOwner>, &'a mut TargetHead),
    Histograms(&'a Rc<HistogramOwner>, &'a mut HistogramHead),
}

/// Those to whom nothing more comes.
#[derive(Default)]
pub struct EndedOwners {
    pub holders: Vec<Rc<HeadOwner>>,
    pub histograms: Vec<Rc<HistogramOwner>>,
}

/// Samples of one time from one source.
#[derive(Clone, Debug)]
pub struct WriteRowsRequest {
    pub source: String,
    pub at: Timestamp,
    pub rows: Vec<(Labels, Value)>,
    pub stamps: HistogramStamps,
    /// Places of histograms among the rows, ascending, and when what they count began.
    pub starts: Vec<(usize, i64)>,
}

/// Own times of histograms among the rows of a scrape.
#[derive(Clone, Debug, Default)]
pub struct HistogramStamps {
    /// For each row, where any has one; not older than its series' newest, or it is not stored.
    pub of_rows: Vec<Option<Timestamp>>,
    /// Whether series with own times end when they are not among the rows.
    pub ends: bool,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOutcome {
    pub samples: u64,
    /// Not after the source's newest row.
    pub out_of_order: u64,
    /// Of a series that an earlier one in the same row has.
    pub duplicates: u64,
}

/// Why samples are not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("the log cannot be written: {0}; send the samples again later")]
    Log(String),
    #[error("the server is shutting down")]
    Stopping,
}

/// The same for a source on every core and in every run.
pub fn source_id(source: &str) -> u64 {
    xxh64(source.as_bytes(), 0)
}

type Answer = Box<dyn FnOnce(Result<(), WriteError>)>;

/// Writers that wait until the log has what they brought.
#[derive(Default)]
pub struct Acknowledgements(VecDeque<(u64, Answer)>);

impl Acknowledgements {
    /// Answers once the log is visible up to `position`.
    pub fn wait(&mut self, position: u64, answer: Answer) {
        self.0.push_back((position, answer));
    }

    pub fn answer(&mut self, visible: u64, failing: Option<&str>) {
        while let Some((position, _)) = self.0.front()
            && (*position <= visible || failing.is_some())
        {
            let (_, answer) = self.0.pop_front().expect("looked at above");
            answer(failing.map_or(Ok(()), |error| Err(WriteError::Log(error.to_owned()))));
        }
    }
}

/// Where a series is.
#[derive(Clone, Copy)]
struct SeriesSlot {
    part: u32,
    group: u32,
    /// Its number among the source's histograms.
    histogram: u32,
    slot: u16,
    /// The last sample is a histogram.
    newest_is_histogram: bool,
    /// Time of its last sample, and the sample: its bits, or a hash.
    newest: i64,
    bits: u64,
}

impl SeriesSlot {
    fn sample_at(&self, stamp: i64, value: f64, start: i64) -> SparseSample {
        SparseSample { group: self.group, slot: self.slot.into(), stamp, value, start }
    }

    /// Of a series that gets its slot later: the number among those.
    fn pending(number: usize) -> SeriesSlot {
        SeriesSlot::at(u32::MAX, number as u32, 0)
    }

    fn at(part: u32, group: u32, slot: u16) -> SeriesSlot {
        let histogram = NO_HISTOGRAMS;
        SeriesSlot { part, group, histogram, slot, newest_is_histogram: false, newest: i64::MIN, bits: 0 }
    }
}

/// A head and its groups.
struct Part {
    holder: Rc<HeadOwner>,
    groups: Vec<Arc<SlotGroup>>,
    slots: usize,
    /// Slots that it may have.
    slots_max: usize,
}

/// Names a source.
pub enum SourceKey {
    Rule(String),
    Received(Labels),
}

/// Everything that comes from one source.
struct Source {
    id: u64,
    /// Labels of all its series.
    labels: Labels,
    /// By hash of the series' own labels; of two with one hash the second lies at the next number.
    places: AHashMap<u64, SeriesSlot>,
    parts: Vec<Part>,
    histograms: Rc<HistogramOwner>,
    /// Whether histograms came with times of their own.
    has_stamps: bool,
    /// Series whose last row has a histogram, where rows end what they do not have.
    alive_histograms: Vec<u64>,
    /// When it last brought something.
    seen_ms: i64,
    newest: i64,
}

/// A core's sources.
pub struct PushStore {
    limits: SegmentLimits,
    hashing: RandomState,
    rules: AHashMap<String, Source>,
    /// Those that write to us, by the labels that their series have in common.
    received: AHashMap<Labels, Source>,
    /// Series of all of these.
    received_series: usize,
}

impl PushStore {
    pub fn new(limits: SegmentLimits) -> PushStore {
        let hashing = RandomState::new();
        PushStore { limits, hashing, rules: AHashMap::new(), received: AHashMap::new(), received_series: 0 }
    }

    /// How far behind the newest sample of its source a series may begin.
    pub fn old_ms(&self) -> i64 {
        self.limits.late_ms.max(self.limits.range_ms / 2)
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        self.rules.values().chain(self.received.values())
    }

    pub fn holders(&self) -> impl Iterator<Item = Rc<HeadOwner>> {
        self.sources().flat_map(|source| source.parts.iter().map(|part| part.holder.clone()))
    }

    pub fn histogram_holders(&self) -> impl Iterator<Item = Rc<HistogramOwner>> {
        self.sources().map(|source| source.histograms.clone())
    }

    /// Bytes beside those of the heads.
    pub fn heap_bytes(&self) -> usize {
        let places = |source: &Source| source.places.capacity() * (size_of::<SeriesSlot>() + 9);
        self.sources().map(places).sum()
    }

    /// Takes a row of a source; its series that are not in the row end.
    pub fn rows(
        &mut self,
        request: &WriteRowsRequest,
        now_ms: i64,
        journal: &mut Journal,
        scratch: &mut AppendScratch,
        mut appended: impl FnMut(Head),
    ) -> WriteOutcome {
        let PushStore { limits, hashing, rules, .. } = self;
        let at = request.at.0;
        if !rules.contains_key(&request.source) {
            if request.rows.is_empty() {
                return WriteOutcome::default();
            }
            let source = Source::new(source_id(&request.source), Labels::empty(), limits);
            rules.insert(request.source.clone(), source);
        }
        let source = rules.get_mut(&request.source).expect("inserted above");
        source.seen_ms = now_ms;
        let mut outcome = WriteOutcome::default();
        if at <= source.newest {
            outcome.out_of_order = request.rows.len() as u64;
            return outcome;
        }
        source.newest = at;
        source.has_stamps |= !request.stamps.of_rows.is_empty();
        let stamps = &request.stamps;
        let stamp_of = |row: usize| stamps.of_rows.get(row).copied().flatten();
        let starts_of = |row: usize| {
            let place = request.starts.binary_search_by_key(&row, |(row, _)| *row);
            place.map_or(NO_START, |place| request.starts[place].1)
        };
        let alive = || request.rows.iter().enumerate().filter(|(_, (_, value))| !value.is_stale());
        let mut keys = Vec::with_capacity(request.rows.len());
        let mut fresh: Vec<(u64, &Labels)> = Vec::new();
        for (_, (labels, _)) in alive() {
            let key = source.key(labels, hashing, &fresh);
            if !source.places.contains_key(&key) {
                fresh.push((key, labels));
                source.places.insert(key, SeriesSlot::pending(fresh.len() - 1));
            }
            keys.push(key);
        }
        source.add(&fresh, limits, false);
        let mut given: Vec<Vec<SparseSample>> = vec![Vec::new(); source.parts.len()];
        let mut histograms = Histograms::default();
        let mut alive_histograms = Vec::new();
        for (key, (row, (labels, value))) in keys.into_iter().zip(alive()) {
            let place = source.places.get_mut(&key).expect("added above");
            if let (Some(Timestamp(stamp)), Value::Histogram(histogram)) = (stamp_of(row), value) {
                if stamps.ends {
                    alive_histograms.push(key);
                }
                if stamp > place.newest {
                    (place.newest, place.newest_is_histogram) = (stamp, true);
                    let given = (stamp, starts_of(row), histogram.clone());
                    histograms.push(place, labels, given, &source.histograms);
                } else {
                    outcome.out_of_order += u64::from(stamp < place.newest);
                }
                continue;
            }
            if place.newest == at {
                outcome.duplicates += 1;
                continue;
            }
            place.newest = at;
            place.newest_is_histogram = matches!(value, Value::Histogram(_));
            match value {
                Value::Float(value) => given[place.part as usize].push(place.sample_at(at, *value, NO_START)),
                Value::Histogram(histogram) => {
                    histograms.push(place, labels, (at, starts_of(row), histogram.clone()), &source.histograms);
                    alive_histograms.push(key);
                }
            }
        }
        let still_there: AHashSet<u64> = match stamps.of_rows.is_empty() {
            true => AHashSet::new(),
            false => alive_histograms.iter().copied().collect(),
        };
        for key in std::mem::replace(&mut source.alive_histograms, alive_histograms) {
            let place = source.places.get_mut(&key).filter(|place| place.newest < at);
            if let Some(place) = place.filter(|_| !still_there.contains(&key)) {
                histograms.end(place, at);
                if stamps.ends {
                    // What comes again with an old time has been seen.
                    place.newest = at;
                }
            }
        }
        outcome.samples += histograms.append(&source.histograms, now_ms, journal, &mut appended);
        for (part, given) in source.parts.iter().zip(given) {
            let mut head = part.holder.head.borrow_mut();
            if given.is_empty() && head.all_ended() {
                continue;
            }
            match head.append_sparse(request.at, &given, &[], journal, scratch) {
                Ok(row) => outcome.samples += row.samples,
                Err(_) => outcome.out_of_order += given.len() as u64,
            }
            appended(Head::Floats(&part.holder, &mut head));
        }
        outcome
    }

    /// All sources, to be tidied one by one.
    pub fn source_keys(&self) -> Vec<SourceKey> {
        let rules = self.rules.keys().cloned().map(SourceKey::Rule);
        rules.chain(self.received.keys().cloned().map(SourceKey::Received)).collect()
    }

    /// Makes room in a source where series have gone.
    pub fn tidy(&mut self, key: &SourceKey) {
        match key {
            SourceKey::Rule(name) => {
                if let Some(source) = self.rules.get_mut(name) {
                    let keeps_ms = if source.has_stamps { IDLE_MS_MAX } else { 0 };
                    source.tidy(source.newest.saturating_sub(keeps_ms), false);
                }
            }
            SourceKey::Received(labels) => {
                if let Some(source) = self.received.get_mut(labels) {
                    source.tidy(source.newest.saturating_sub(IDLE_MS_MAX), true);
                }
            }
        }
    }

    /// Takes out what has brought nothing for long.
    pub fn remove_idle(&mut self, now_ms: i64) -> EndedOwners {
        let gone = self.take_idle(now_ms.saturating_sub(IDLE_MS_MAX));
        self.received_series = self.received.values().map(|source| source.places.len()).sum();
        gone
    }

    /// Both at once.
    #[cfg(test)]
    fn maintain(&mut self, now_ms: i64) -> EndedOwners {
        self.source_keys().iter().for_each(|key| self.tidy(key));
        self.remove_idle(now_ms)
    }

    fn take_idle(&mut self, before_ms: i64) -> EndedOwners {
        let mut gone = EndedOwners::default();
        let mut keeps = |source: &mut Source| {
            let keep = source.seen_ms >= before_ms;
            if !keep {
                gone.holders.extend(source.parts.drain(..).map(|part| part.holder));
                gone.histograms.push(source.histograms.clone());
            }
            keep
        };
        self.rules.retain(|_, source| keeps(source));
        self.received.retain(|_, source| keeps(source));
        gone
    }
}

impl Source {
    fn new(id: u64, labels: Labels, limits: &SegmentLimits) -> Source {
        Source {
            id,
            histograms: Rc::new(HistogramOwner::new(id, labels.clone(), *limits)),
            labels,
            places: AHashMap::new(),
            parts: Vec::new(),
            has_stamps: false,
            alive_histograms: Vec::new(),
            seen_ms: 0,
            newest: i64::MIN,
        }
    }

    /// The number under which a series is or will be found. `fresh` are series that have no slot yet.
    fn key(&self, labels: &Labels, hashing: &RandomState, fresh: &[(u64, &Labels)]) -> u64 {
        let mut key = hashing.hash_one(labels);
        while let Some(place) = self.places.get(&key) {
            let same = match self.parts.get(place.part as usize) {
                Some(part) => part.groups[place.group as usize].label_pairs(place.slot as usize).eq(labels.iter()),
                None => fresh[place.group as usize].1 == labels,
            };
            if same {
                break;
            }
            key = key.wrapping_add(1);
        }
        key
    }

    /// Gives slots to series that have none.
    fn add(&mut self, fresh: &[(u64, &Labels)], limits: &SegmentLimits, stamped: bool) {
        let mut rest = fresh;
        while !rest.is_empty() {
            let part =
                match self.parts.iter().position(|part| part.slots < part.slots_max && part.slots_max == SLOTS_MAX) {
                    Some(part) => part,
                    None => {
                        self.add_part(limits, SLOTS_MAX);
                        self.parts.len() - 1
                    }
                };
            let room = SLOTS_MAX - self.parts[part].slots;
            let (taken, left) = rest.split_at(room.min(rest.len()));
            rest = left;
            for (slots, group) in taken.chunks(GROUP_SLOTS_MAX).zip(self.parts[part].groups.len() as u32..) {
                let mut builder = GroupBuilder::default();
                for (slot, (key, labels)) in slots.iter().enumerate() {
                    builder.push(labels, stamped);
                    self.places.insert(*key, SeriesSlot::at(part as u32, group, slot as u16));
                }
                self.parts[part].groups.push(Arc::new(builder.build()));
                self.parts[part].slots += slots.len();
            }
            let part = &self.parts[part];
            part.holder.head.borrow_mut().replace(&part.groups);
        }
    }

    /// Whether a series shares its rows with so many others that each of its samples is dear.
    fn is_in_large_part(&self, place: &SeriesSlot) -> bool {
        self.parts.get(place.part as usize).is_some_and(|part| part.slots > SLOTS_ALONE_MAX)
    }

    /// Gives stamped slots in small heads to series that bring very many samples, whether they have slots already or not.
    fn add_alone(&mut self, series: &[(u64, &Labels)], limits: &SegmentLimits) {
        for (key, labels) in series {
            let has_room = |part: &Part| part.slots < part.slots_max && part.slots_max == SLOTS_ALONE_MAX;
            let part = self.parts.iter().position(has_room).unwrap_or_else(|| {
                self.add_part(limits, SLOTS_ALONE_MAX);
                self.parts.len() - 1
            });
            let mut builder = GroupBuilder::default();
            builder.push(labels, true);
            let group = self.parts[part].groups.len() as u32;
            self.parts[part].groups.push(Arc::new(builder.build()));
            self.parts[part].slots += 1;
            let place = self.places.get_mut(key).expect("a series that was found");
            let is_new = place.part == u32::MAX;
            match is_new {
                true => *place = SeriesSlot::at(part as u32, group, 0),
                false => (place.part, place.group, place.slot) = (part as u32, group, 0),
            }
            let part = &self.parts[part];
            part.holder.head.borrow_mut().replace(&part.groups);
        }
    }

    fn add_part(&mut self, limits: &SegmentLimits, slots_max: usize) {
        let number = self.parts.len() as u64;
        let id = xxh64(&number.to_le_bytes(), self.id);
        let labels = self.labels.clone();
        let key = TargetKey { id, labels: labels.clone() };
        let head = TargetHead::new(key, *limits, id);
        let holder = Rc::new(HeadOwner::of_pushed(id, labels, head, self.histograms.clone()));
        self.parts.push(Part { holder, groups: Vec::new(), slots: 0, slots_max });
    }

    /// Lays the series with a sample at or after `since` together where most slots are of others, or groups are small.
    fn tidy(&mut self, since: i64, stamped: bool) {
        let mut live = vec![0usize; self.parts.len()];
        self.places.values().filter(|place| place.newest >= since).for_each(|place| live[place.part as usize] += 1);
        for (number, part) in self.parts.iter_mut().enumerate() {
            let spare = part.groups.len() > live[number].div_ceil(GROUP_SLOTS_MAX) + GROUPS_SPARE_MAX;
            let dead = part.slots - live[number];
            if !spare && (dead <= GROUP_SLOTS_MAX || dead <= live[number]) {
                continue;
            }
            let of_part = |place: &SeriesSlot| place.part as usize == number;
            self.places.retain(|_, place| !of_part(place) || place.newest >= since);
            let old = std::mem::take(&mut part.groups);
            let mut places: Vec<&mut SeriesSlot> = self.places.values_mut().filter(|place| of_part(place)).collect();
            places.sort_unstable_by_key(|place| (place.group, place.slot));
            for (group, places) in places.chunks_mut(GROUP_SLOTS_MAX).enumerate() {
                let mut builder = GroupBuilder::default();
                for (slot, place) in places.iter_mut().enumerate() {
                    builder.push(&old[place.group as usize].labels(place.slot as usize), stamped);
                    (place.group, place.slot) = (group as u32, slot as u16);
                }
                part.groups.push(Arc::new(builder.build()));
            }
            part.slots = places.len();
            part.holder.head.borrow_mut().replace(&part.groups);
        }
        self.tidy_histograms();
    }

    /// Numbers histograms anew where most numbers are of series that are gone.
    fn tidy_histograms(&mut self) {
        let mut head = self.histograms.head.borrow_mut();
        let mut places: Vec<&mut SeriesSlot> =
            self.places.values_mut().filter(|place| place.histogram != NO_HISTOGRAMS).collect();
        if head.series() <= 2 * places.len() + GROUP_SLOTS_MAX {
            return;
        }
        places.sort_unstable_by_key(|place| place.histogram);
        head.keep(&places.iter().map(|place| place.histogram).collect::<Vec<u32>>());
        (0..).zip(places).for_each(|(number, place)| place.histogram = number);
    }
}

/// Histograms of one source that become rows together.
#[derive(Default)]
struct Histograms<'a> {
    /// Series that have none yet.
    fresh: Vec<&'a Labels>,
    given: Vec<HistogramSample>,
}

impl<'a> Histograms<'a> {
    /// Adds a histogram with its time and start time.
    fn push(
        &mut self,
        place: &mut SeriesSlot,
        labels: &'a Labels,
        (at, start, histogram): (i64, i64, Arc<Histogram>),
        holder: &HistogramOwner,
    ) {
        if place.histogram == NO_HISTOGRAMS {
            place.histogram = (holder.head.borrow().series() + self.fresh.len()) as u32;
            self.fresh.push(labels);
        }
        self.given.push(HistogramSample { series: place.histogram, at, start, histogram });
    }

    /// Marks the end of a series that has histograms.
    fn end(&mut self, place: &SeriesSlot, at: i64) {
        let histogram = Arc::new(Histogram { sum: STALE_NAN, ..Histogram::default() });
        self.given.push(HistogramSample { series: place.histogram, at, start: NO_START, histogram });
    }

    /// Gives how many samples there are that are no markers.
    fn append(
        self,
        holder: &Rc<HistogramOwner>,
        now_ms: i64,
        journal: &mut Journal,
        appended: &mut impl FnMut(Head),
    ) -> u64 {
        if self.given.is_empty() {
            return 0;
        }
        holder.note_row(now_ms);
        let mut head = holder.head.borrow_mut();
        head.add(self.fresh);
        head.append(&self.given, journal);
        appended(Head::Histograms(holder, &mut head));
        self.given.iter().filter(|given| !series::is_stale(given.histogram.sum)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use series::Sample;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    type Truth = BTreeMap<Labels, BTreeMap<i64, u64>>;

    /// Sources without a log, and the naive truth beside them.
    struct Rig {
        written: PushStore,
        journal: Journal,
        scratch: AppendScratch,
        ended: Vec<Rc<HeadOwner>>,
        truth: Truth,
        alive: Vec<Labels>,
    }

    impl Rig {
        fn new() -> Rig {
            Rig {
                written: PushStore::new(SegmentLimits { rows_max: 7, ..SegmentLimits::default() }),
                journal: Journal::off(),
                scratch: AppendScratch::default(),
                ended: Vec::new(),
                truth: Truth::new(),
                alive: Vec::new(),
            }
        }

        fn write(&mut self, source: &str, at: i64, rows: &[(Labels, f64)]) -> WriteOutcome {
            let rows = rows.iter().map(|(labels, value)| (labels.clone(), Value::Float(*value))).collect();
            self.write_values(source, at, rows)
        }

        fn write_values(&mut self, source: &str, at: i64, rows: Vec<(Labels, Value)>) -> WriteOutcome {
            let request = WriteRowsRequest {
                source: source.into(),
                at: Timestamp(at),
                rows,
                stamps: HistogramStamps::default(),
                starts: Vec::new(),
            };
            self.written.rows(&request, at, &mut self.journal, &mut self.scratch, |_| ())
        }

        /// A row of the one source that the truth follows.
        fn row(&mut self, at: i64, rows: &[(Labels, f64)]) {
            let outcome = self.write("group", at, rows);
            assert_eq!(outcome, WriteOutcome { samples: rows.len() as u64, ..WriteOutcome::default() });
            for gone in self.alive.iter().filter(|labels| !rows.iter().any(|row| row.0 == **labels)) {
                self.truth.get_mut(gone).unwrap().insert(at, STALE_NAN.to_bits());
            }
            for (labels, value) in rows {
                self.truth.entry(labels.clone()).or_default().insert(at, value.to_bits());
            }
            self.alive = rows.iter().map(|row| row.0.clone()).collect();
        }

        fn read(&self) -> Truth {
            let mut all: BTreeMap<Labels, Vec<Sample>> = BTreeMap::new();
            for holder in self.written.holders().chain(self.ended.iter().cloned()) {
                let matching = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect::<Vec<_>>().into();
                let head = holder.head.borrow();
                head.range(Timestamp(0), Timestamp(i64::MAX), u64::MAX, matching, |group, slot, samples| {
                    let labels = group.series_labels(slot as usize, &holder.labels);
                    all.entry(labels).or_default().extend_from_slice(samples);
                })
                .unwrap();
            }
            let in_order = |mut samples: Vec<Sample>| {
                series::order::dedupe(&mut samples);
                // A marker behind a marker says nothing more.
                samples.dedup_by(|one, before| series::is_stale(one.value) && series::is_stale(before.value));
                samples.into_iter().map(|sample| (sample.timestamp.0, sample.value.to_bits())).collect()
            };
            all.into_iter().map(|(labels, samples)| (labels, in_order(samples))).collect()
        }
    }

    fn labels(i: u64) -> Labels {
        Labels::from_pairs([("__name__", format!("m{}", i % 7)), ("i", i.to_string())])
    }

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    #[test]
    fn rows_of_changing_series_read_as_they_were_written() {
        for seed in 0..20 {
            let mut next = random(seed);
            let mut rig = Rig::new();
            let mut base = 0;
            for row in 1..120 {
                // Series come and go one by one, and now and then all at once.
                base += next(3) * next(40);
                let mut rows: Vec<(Labels, f64)> = Vec::new();
                for i in 0..200 {
                    if next(20) > 0 {
                        rows.push((labels(base + i), if next(2) == 0 { 1.0 } else { next(1000) as f64 }));
                    }
                }
                rig.row(row * 1000, if next(15) == 0 { &[] } else { &rows });
                if next(4) == 0 {
                    let gone = rig.written.maintain(row * 1000);
                    assert!(gone.holders.is_empty());
                }
                if next(30) == 0 {
                    rig.ended.extend(rig.written.take_idle(row * 1000 - 60_000).holders);
                }
            }
            let (read, truth) = (rig.read(), std::mem::take(&mut rig.truth));
            for (labels, samples) in &truth {
                assert_eq!(read.get(labels), Some(samples), "seed {seed}: {labels}");
            }
            assert_eq!(read.len(), truth.len(), "seed {seed}");
        }
    }

    /// Histograms of all series: how many each counts, None for a marker.
    fn histograms(written: &PushStore) -> BTreeMap<(Labels, i64), Option<f64>> {
        let mut all = BTreeMap::new();
        for holder in written.histogram_holders() {
            let every = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect::<Vec<_>>().into();
            let (from, to) = (Timestamp(0), Timestamp(i64::MAX));
            holder.head.borrow().range(from, to, u64::MAX, every, |group, slot, samples| {
                let labels = group.series_labels(slot as usize, &holder.labels);
                for (at, one) in samples {
                    all.insert((labels.clone(), at), (!series::is_stale(one.sum)).then_some(one.count));
                }
            });
        }
        all
    }

    #[test]
    fn histograms_begin_end_and_take_turns_with_floats() {
        let mut rig = Rig::new();
        let one = |count: f64| Value::Histogram(Arc::new(Histogram { count, ..Histogram::default() }));
        let (a, b) = (labels(1), labels(2));
        let rows = |of_a: Option<Value>, of_b: Option<Value>| {
            let rows = [of_a.map(|value| (a.clone(), value)), of_b.map(|value| (b.clone(), value))];
            rows.into_iter().flatten().collect::<Vec<_>>()
        };
        for (at, rows, samples) in [
            (1000, rows(Some(one(1.0)), Some(Value::Float(1.0))), 2),
            (2000, rows(Some(one(2.0)), Some(one(2.0))), 2),
            (3000, rows(Some(Value::Float(3.0)), Some(one(3.0))), 2),
            (4000, rows(Some(one(4.0)), None), 1),
            (5000, rows(None, None), 0),
            (6000, rows(None, Some(one(6.0))), 1),
        ] {
            let outcome = rig.write_values("group", at, rows);
            assert_eq!(outcome, WriteOutcome { samples, ..WriteOutcome::default() }, "at {at}");
        }
        let twice = vec![(b.clone(), one(7.0)), (b.clone(), Value::Float(7.0))];
        assert_eq!(rig.write_values("group", 7000, twice).duplicates, 1);
        let of = |labels: &Labels| {
            let all = histograms(&rig.written).into_iter().filter(|((other, _), _)| other == labels);
            all.map(|((_, at), count)| (at, count)).collect::<Vec<_>>()
        };
        assert_eq!(of(&a), [(1000, Some(1.0)), (2000, Some(2.0)), (4000, Some(4.0)), (5000, None)]);
        assert_eq!(of(&b), [(2000, Some(2.0)), (3000, Some(3.0)), (4000, None), (6000, Some(6.0)), (7000, Some(7.0))]);
        let floats = rig.read();
        let times = |labels: &Labels| floats[labels].keys().copied().collect::<Vec<_>>();
        assert_eq!((times(&a), times(&b)), (vec![3000, 4000], vec![1000, 2000]), "floats end with a marker");
    }

    #[test]
    fn histograms_with_own_times_are_stored_once() {
        for ends in [false, true] {
            let mut rig = Rig::new();
            let mut write = |at: i64, stamps: &[Option<i64>]| {
                let row = |(i, stamp): (usize, &Option<i64>)| {
                    let histogram = Histogram { count: stamp.unwrap_or(at) as f64, ..Histogram::default() };
                    (labels(i as u64), Value::Histogram(Arc::new(histogram)))
                };
                let rows = stamps.iter().enumerate().map(row).collect();
                let stamps =
                    HistogramStamps { of_rows: stamps.iter().map(|stamp| stamp.map(Timestamp)).collect(), ends };
                let request =
                    WriteRowsRequest { source: "s".into(), at: Timestamp(at), rows, stamps, starts: Vec::new() };
                rig.written.rows(&request, at, &mut rig.journal, &mut rig.scratch, |_| ())
            };
            assert_eq!(write(1000, &[Some(900), None]).samples, 2);
            assert_eq!(write(2000, &[Some(900), None]).samples, 1, "the same again");
            assert_eq!(write(3000, &[Some(800), None]).out_of_order, 1);
            assert_eq!(write(4000, &[Some(3900), None]).samples, 2);
            write(5000, &[]);
            assert_eq!(write(6000, &[Some(3900), None]).samples, 1);
            let all = histograms(&rig.written);
            let times =
                |i: u64| all.iter().filter(move |((of, _), _)| *of == labels(i)).map(|((_, at), count)| (*at, *count));
            let mut want = vec![(900, Some(900.0)), (3900, Some(3900.0))];
            want.extend(ends.then_some((5000, None)));
            assert_eq!(times(0).collect::<Vec<_>>(), want, "{ends}");
            assert_eq!(times(1).next_back(), Some((6000, Some(6000.0))));
            assert_eq!(times(1).filter(|(_, count)| count.is_none()).count(), 1);
        }
    }

    #[test]
    fn room_of_histograms_is_given_back() {
        let mut rig = Rig::new();
        for row in 1..100i64 {
            let one = Value::Histogram(Arc::new(Histogram { count: row as f64, ..Histogram::default() }));
            let rows = (0..100).map(|i| (labels(row as u64 * 100 + i), one.clone())).collect();
            assert_eq!(rig.write_values("group", row * 1000, rows).samples, 100);
            rig.written.maintain(row * 1000);
        }
        let series = rig.written.rules["group"].histograms.head.borrow().series();
        assert!(series < 1000, "{series} series");
        let all = histograms(&rig.written);
        for row in 1..100i64 {
            let of_row = |i: u64| all[&(labels(row as u64 * 100 + i), row * 1000)];
            assert!((0..100).all(|i| of_row(i) == Some(row as f64)), "row {row}");
        }
    }

    #[test]
    fn room_is_given_back() {
        let mut rig = Rig::new();
        for row in 1..200i64 {
            let rows: Vec<_> = (0..100).map(|i| (labels(row as u64 * 100 + i), 1.0)).collect();
            rig.row(row * 1000, &rows);
            rig.written.maintain(row * 1000);
        }
        let source = &rig.written.rules["group"];
        assert!(source.places.len() < 500, "{} places", source.places.len());
        assert_eq!(source.parts.len(), 1);
        assert!(source.parts[0].slots < 500, "{} slots", source.parts[0].slots);
        assert!(rig.written.maintain(200_000 + IDLE_MS_MAX - 2_000).holders.is_empty());
        assert_eq!(rig.written.maintain(200_000 + IDLE_MS_MAX).holders.len(), 1);
        assert_eq!(rig.written.holders().count(), 0);
    }

    #[test]
    fn many_series_are_several_heads() {
        let mut rig = Rig::new();
        let rows: Vec<_> = (0..5000).map(|i| (labels(i), i as f64)).collect();
        rig.row(1000, &rows);
        rig.row(2000, &rows[..4000]);
        assert_eq!(rig.written.holders().count(), 3);
        assert_eq!(rig.read(), rig.truth);
    }

    #[test]
    fn what_cannot_be_taken_is_counted() {
        let mut rig = Rig::new();
        let rows = [(labels(1), 1.0), (labels(1), 2.0), (labels(2), 3.0), (labels(3), STALE_NAN)];
        assert_eq!(rig.write("a", 10, &rows), WriteOutcome { samples: 2, duplicates: 1, out_of_order: 0 });
        assert_eq!(rig.write("a", 10, &rows[..1]), WriteOutcome { out_of_order: 1, ..WriteOutcome::default() });
        assert_eq!(rig.write("b", 5, &rows[..1]).samples, 1, "sources have their own time");
        assert_eq!(rig.write("c", 5, &[]), WriteOutcome::default());
        assert_eq!(rig.written.rules.len(), 2, "nothing from a new source makes none");
    }

    #[test]
    fn nothing_is_acknowledged_before_the_log_has_it() {
        let told = Rc::new(RefCell::new(Vec::new()));
        let mut waiting = Acknowledgements::default();
        for position in [1, 3, 3] {
            let told = told.clone();
            waiting.wait(position, Box::new(move |kept| told.borrow_mut().push((position, kept.is_ok()))));
        }
        waiting.answer(2, None);
        assert_eq!(*told.borrow(), [(1, true)]);
        waiting.answer(u64::MAX, Some("no space left"));
        assert_eq!(*told.borrow(), [(1, true), (3, false), (3, false)]);
    }
}
