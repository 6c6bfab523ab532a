//! What somebody writes to us: samples with their own times, in any order over series, in order within one.
//!
//! The series of one job and instance are one source, so that what another server scraped from a target lies together
//! again (decision 023). Each takes stamped slots: one time comes in several requests.
//!
//! Invariants:
//!   * the verdict on a sample is Prometheus': in order, late within the window, or refused with its reason
//!   * a core holds at most [`SERIES_MAX`] received series

use super::{Head, Histograms, PushStore, SeriesSlot, Source};
use ahash::{AHashMap, RandomState};
use series::histogram::ResetHint;
use series::{Histogram, Labels, NO_START, Sample, StartTimes, Timestamp, start_of};
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use tsdb::log::Journal;
use tsdb::{AppendScratch, SparseSample, Timed};

/// Labels of a series that make its source.
const SOURCE_LABELS: [&str; 2] = ["instance", "job"];
/// A sample may be ahead of the wall clock by this much, as in Prometheus.
pub const AHEAD_MS_MAX: i64 = 10 * 60 * 1000;
/// Series that one core takes from others.
const SERIES_MAX: usize = 20_000_000;
/// Series of a request that are taken at once, and samples of them; and rows, of which each costs a look at all slots of a
/// head. All of it takes less than a millisecond or two.
const SERIES_PER_PIECE: usize = 2048;
const SAMPLES_PER_PIECE: usize = 2048;
const ROWS_PER_PIECE: usize = 128;
/// A series that comes several times in a request, now with floats and now with histograms, keeps its order up to so many
/// samples each time.
const ROWS_PER_PIECE_MIN: usize = 8;
/// A series with so many samples in a request gets a small head of its own: each sample is a row there.
const SAMPLES_ALONE_MIN: usize = 1024;
/// So many of them in a request are taken one by one; more come together, and share rows.
const SERIES_ALONE_MAX: usize = SAMPLES_PER_PIECE / ROWS_PER_PIECE;
/// Refused samples that are told one by one.
const REFUSED_LISTED_MAX: usize = 10;

/// A series with samples.
#[derive(Clone, Debug, PartialEq)]
pub struct PushedSeries {
    pub labels: Labels,
    pub samples: Vec<Sample>,
    pub histograms: Timed,
    /// When the first of these began to count, where a zero is to be stored for it.
    pub start: Option<i64>,
    /// When what they count began, where that is stored.
    pub starts: StartTimes,
}

impl PushedSeries {
    /// Whether it has so many samples that each should be a row of a small head.
    fn is_long(&self) -> bool {
        self.samples.len() >= SAMPLES_ALONE_MIN
    }
}

/// Series of sources that one core keeps: the labels of the source, then its series without these.
#[derive(Clone, Debug, Default)]
pub struct ReceiveRequest {
    pub sources: Vec<(Labels, Vec<PushedSeries>)>,
}

/// Why a sample is not taken. The texts are Prometheus'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("out of order sample")]
    OutOfOrder,
    #[error("out of bounds")]
    OutOfBounds,
    #[error("too old sample")]
    TooOld,
    #[error("duplicate sample for timestamp")]
    Duplicate,
    #[error("more than {SERIES_MAX} received series on one core")]
    TooManySeries,
}

/// A sample that is not taken.
#[derive(Clone, Debug, PartialEq)]
pub struct RejectedSamples {
    pub labels: Labels,
    pub at: Timestamp,
    pub refusal: Refusal,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReceiveOutcome {
    /// Taken, those that were there already included.
    pub samples: u64,
    pub histograms: u64,
    /// Of them, those behind their series' newest.
    pub late: u64,
    /// How many were refused for each reason, and the first few.
    pub counts: Vec<(Refusal, u64)>,
    pub refused: Vec<RejectedSamples>,
}

impl ReceiveOutcome {
    pub fn count(&self, refusal: Refusal) -> u64 {
        self.counts.iter().filter(|(other, _)| *other == refusal).map(|(_, count)| count).sum()
    }

    fn refuse(&mut self, refusal: Refusal, at: i64, labels: impl FnOnce() -> Labels) {
        match self.counts.iter_mut().find(|(other, _)| *other == refusal) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((refusal, 1)),
        }
        if self.refused.len() < REFUSED_LISTED_MAX {
            self.refused.push(RejectedSamples { labels: labels(), at: Timestamp(at), refusal });
        }
    }

    /// Takes in what became of the rest, on another core.
    pub fn add(&mut self, other: ReceiveOutcome) {
        self.samples += other.samples;
        self.histograms += other.histograms;
        self.late += other.late;
        self.counts.extend(other.counts);
        self.refused.extend(other.refused);
        self.refused.truncate(REFUSED_LISTED_MAX);
    }
}

/// The same for a source of received series on every core and in every run.
pub fn received_source_id(source: &Labels) -> u64 {
    source.hash64().rotate_left(32) ^ 0x7265_6365_6976_6564
}

/// Labels of a received series that make its source, and the others.
pub fn source_labels(series: &Labels) -> (Labels, Labels) {
    let of_source = |(name, _): &(&str, &str)| SOURCE_LABELS.contains(name);
    let source = Labels::from_sorted(series.iter().filter(of_source));
    (source, Labels::from_sorted(series.iter().filter(|label| !of_source(label))))
}

/// Divides series by source: the labels that make it, and its series without them.
pub fn source_of(series: Vec<PushedSeries>) -> impl Iterator<Item = (Labels, Vec<PushedSeries>)> {
    let mut sources: AHashMap<Labels, Vec<PushedSeries>> = AHashMap::new();
    for PushedSeries { labels, samples, histograms, start, starts } in series {
        let (source, labels) = source_labels(&labels);
        sources.entry(source).or_default().push(PushedSeries { labels, samples, histograms, start, starts });
    }
    sources.into_iter()
}

/// What becomes of a sample.
enum Verdict {
    InOrder,
    /// What is sent again is taken again.
    Again,
    Late,
    Refused(Refusal),
}

/// Who decides it.
struct OrderCheck {
    now_ms: i64,
    late_ms: i64,
    old_ms: i64,
    /// The newest sample of the source.
    newest: i64,
}

impl OrderCheck {
    /// Whether no sample of a series that has none yet is taken.
    fn refuses_all(&self, floats: &[Sample], histograms: &[(i64, Arc<Histogram>)]) -> bool {
        let place = SeriesSlot::pending(0);
        let mut times = floats.iter().map(|sample| sample.timestamp.0).chain(histograms.iter().map(|(at, _)| *at));
        times.all(|at| matches!(self.verdict(&place, at, || false), Verdict::Refused(_)))
    }

    fn verdict(&self, place: &SeriesSlot, at: i64, is_same: impl FnOnce() -> bool) -> Verdict {
        let old = self.late_ms > 0 && at >= self.newest.saturating_sub(self.late_ms);
        if at > self.now_ms.saturating_add(AHEAD_MS_MAX) || at == i64::MIN {
            Verdict::Refused(Refusal::OutOfBounds)
        } else if at > place.newest && at >= self.newest.saturating_sub(self.old_ms) {
            Verdict::InOrder
        } else if at == place.newest {
            if is_same() { Verdict::Again } else { Verdict::Refused(Refusal::Duplicate) }
        } else if old && at < place.newest {
            Verdict::Late
        } else if self.late_ms > 0 {
            Verdict::Refused(Refusal::TooOld)
        } else if at < self.newest.saturating_sub(self.old_ms) {
            Verdict::Refused(Refusal::OutOfBounds)
        } else {
            Verdict::Refused(Refusal::OutOfOrder)
        }
    }
}

/// A histogram of the same kind without observations, for the time at which a series began.
pub fn zero_like(histogram: &Histogram) -> Histogram {
    Histogram {
        hint: ResetHint::Reset,
        schema: histogram.schema,
        zero_threshold: histogram.zero_threshold,
        custom_values: histogram.custom_values.clone(),
        ..Histogram::default()
    }
}

/// Tells histograms apart, whatever is said of the sample before.
fn fingerprint(histogram: &Histogram, hashing: &RandomState) -> u64 {
    let mut hasher = hashing.build_hasher();
    let Histogram { hint: _, schema, zero_threshold, zero_count, count, sum, positive, negative, custom_values } =
        histogram;
    schema.hash(&mut hasher);
    [zero_threshold, zero_count, count, sum].map(|number| number.to_bits()).hash(&mut hasher);
    for bucket in positive {
        (1u8, bucket.index, bucket.count.to_bits()).hash(&mut hasher);
    }
    for bucket in negative {
        (2u8, bucket.index, bucket.count.to_bits()).hash(&mut hasher);
    }
    custom_values.iter().for_each(|bound| bound.to_bits().hash(&mut hasher));
    hasher.finish()
}

/// A request while it is taken, a piece at a time: some series of a source, and of each some samples.
pub struct Receiving {
    request: ReceiveRequest,
    source: usize,
    /// Whether only a few of the source's series have many samples: each of these is taken by itself.
    has_few_long: bool,
    series: Range<usize>,
    /// Samples of each of these series that are taken.
    done: usize,
    pub outcome: ReceiveOutcome,
}

/// A piece of a request.
struct ReceivePiece {
    source: usize,
    series: Range<usize>,
    samples: Range<usize>,
}

impl Receiving {
    pub fn new(request: ReceiveRequest) -> Receiving {
        let outcome = ReceiveOutcome::default();
        let mut receiving = Receiving { request, source: 0, has_few_long: false, series: 0..0, done: 0, outcome };
        receiving.begin_source(0);
        receiving
    }

    fn begin_source(&mut self, source: usize) {
        self.source = source;
        let series = self.request.sources.get(source).map_or(&[][..], |(_, series)| series);
        self.has_few_long = series.iter().filter(|one| one.is_long()).count() <= SERIES_ALONE_MAX;
        self.begin_series(0);
    }

    fn begin_series(&mut self, first: usize) {
        let series = self.request.sources.get(self.source).map_or(&[][..], |(_, series)| &series[first..]);
        let is_alone = |one: &PushedSeries| self.has_few_long && one.is_long();
        let count = match series.first() {
            Some(one) if is_alone(one) => 1,
            _ => series.iter().take(SERIES_PER_PIECE).take_while(|one| !is_alone(one)).count(),
        };
        self.series = first..first + count;
        self.done = 0;
    }

    fn next_piece(&mut self) -> Option<ReceivePiece> {
        loop {
            let (_, series) = self.request.sources.get(self.source)?;
            let samples_of = |one: &PushedSeries| one.samples.len().max(one.histograms.len());
            let most = series[self.series.clone()].iter().map(samples_of).max().unwrap_or(0);
            if self.done < most {
                let rows = (SAMPLES_PER_PIECE / self.series.len()).clamp(ROWS_PER_PIECE_MIN, ROWS_PER_PIECE);
                let samples = self.done..most.min(self.done + rows);
                self.done = samples.end;
                return Some(ReceivePiece { source: self.source, series: self.series.clone(), samples });
            }
            if self.series.end == series.len() {
                self.begin_source(self.source + 1);
            } else {
                self.begin_series(self.series.end);
            }
        }
    }
}

/// The samples of a range, as far as there are any.
fn part_of<'s, T>(samples: &'s [T], range: &Range<usize>) -> &'s [T] {
    &samples[range.start.min(samples.len())..range.end.min(samples.len())]
}

impl PushStore {
    /// Takes a piece of a request. False once all of it is taken.
    pub fn receive(
        &mut self,
        receiving: &mut Receiving,
        now_ms: i64,
        journal: &mut Journal,
        scratch: &mut AppendScratch,
        mut appended: impl FnMut(Head),
    ) -> bool {
        let Some(piece) = receiving.next_piece() else { return false };
        let Receiving { request, outcome, .. } = receiving;
        let (labels, series) = &request.sources[piece.source];
        let PushStore { limits, hashing, received, received_series, .. } = self;
        let source = received
            .entry(labels.clone())
            .or_insert_with(|| Source::new(received_source_id(labels), labels.clone(), limits));
        source.seen_ms = now_ms;
        let series = &series[piece.series.clone()];
        let late_ms = limits.late_ms;
        let old_ms = late_ms.max(limits.range_ms / 2);
        let mut judge = OrderCheck { now_ms, late_ms, old_ms, newest: source.newest };
        let mut keys = Vec::with_capacity(series.len());
        let mut fresh: Vec<(u64, &Labels)> = Vec::new();
        let mut alone: Vec<(u64, &Labels)> = Vec::new();
        // Series that come together share rows.
        let has_few_series = piece.samples.len() >= ROWS_PER_PIECE;
        for one in series {
            let floats = part_of(&one.samples, &piece.samples);
            let histograms = part_of(&one.histograms, &piece.samples);
            let of_histograms = histograms.iter().map(|(at, _)| *at);
            let Some(at) = floats.iter().map(|sample| sample.timestamp.0).chain(of_histograms).next() else {
                continue;
            };
            let key = source.key(&one.labels, hashing, &fresh);
            match source.places.get(&key) {
                None if *received_series >= SERIES_MAX => {
                    outcome.refuse(Refusal::TooManySeries, at, || one.labels.merged(labels));
                    continue;
                }
                None if judge.refuses_all(floats, histograms) => {
                    // A series without samples is none: nothing may list it.
                    let times = floats.iter().map(|sample| sample.timestamp.0);
                    for at in times.chain(histograms.iter().map(|(at, _)| *at)) {
                        if let Verdict::Refused(refusal) = judge.verdict(&SeriesSlot::pending(0), at, || false) {
                            outcome.refuse(refusal, at, || one.labels.merged(labels));
                        }
                    }
                    continue;
                }
                None => {
                    *received_series += 1;
                    fresh.push((key, &one.labels));
                    source.places.insert(key, SeriesSlot::pending(fresh.len() - 1));
                }
                Some(place) if has_few_series && one.is_long() => {
                    if source.is_in_large_part(place) {
                        alone.push((key, &one.labels));
                    }
                }
                Some(_) => {}
            }
            keys.push((key, one, floats, histograms));
        }
        let many = |(key, _): &(u64, &Labels)| keys.iter().any(|(other, one, ..)| other == key && one.is_long());
        let (fresh_alone, fresh): (Vec<_>, Vec<_>) = match has_few_series {
            true => fresh.into_iter().partition(many),
            false => (Vec::new(), fresh),
        };
        source.add(&fresh, limits, true);
        source.add_alone(&[fresh_alone, alone].concat(), limits);
        let mut rounds: Vec<Round> = Vec::new();
        let mut histograms = Histograms::default();
        // A series may come twice in a request, and has one sample in a row.
        let mut rows: AHashMap<u64, (usize, usize)> = AHashMap::with_capacity(keys.len());
        for (key, one, floats, of_histograms) in keys {
            let place = source.places.get_mut(&key).expect("added above");
            let (in_order, late) = rows.entry(key).or_default();
            let first = floats.first().map(|sample| sample.timestamp.0);
            let first = first.or(of_histograms.first().map(|(at, _)| *at)).unwrap_or(i64::MIN);
            if let Some(start) = one.start.filter(|start| piece.samples.start == 0 && *start < first)
                && matches!(judge.verdict(place, start, || false), Verdict::InOrder)
            {
                if floats.is_empty() {
                    let zero = Arc::new(zero_like(&of_histograms[0].1));
                    histograms.push(place, &one.labels, (start, NO_START, zero.clone()), &source.histograms);
                    (place.newest, place.newest_is_histogram, place.bits) = (start, true, fingerprint(&zero, hashing));
                } else {
                    push(&mut rounds, *in_order, place.part, place.sample_at(start, 0.0, NO_START), false);
                    *in_order += 1;
                    (place.newest, place.newest_is_histogram, place.bits) = (start, false, 0);
                }
            }
            for Sample { timestamp: Timestamp(at), value } in floats {
                let (at, value, began) = (*at, *value, start_of(&one.starts, *at));
                let is_same = || !place.newest_is_histogram && value.to_bits() == place.bits;
                match judge.verdict(place, at, is_same) {
                    // The end of a histogram is one itself.
                    Verdict::InOrder if place.newest_is_histogram && series::is_stale(value) => {
                        histograms.end(place, at);
                        (place.newest, place.newest_is_histogram, place.bits) = (at, false, value.to_bits());
                        outcome.samples += 1;
                    }
                    Verdict::InOrder => {
                        push(&mut rounds, *in_order, place.part, place.sample_at(at, value, began), false);
                        *in_order += 1;
                        (place.newest, place.newest_is_histogram, place.bits) = (at, false, value.to_bits());
                        outcome.samples += 1;
                    }
                    Verdict::Again => outcome.samples += 1,
                    Verdict::Late => {
                        push(&mut rounds, *late, place.part, place.sample_at(at, value, began), true);
                        *late += 1;
                        outcome.samples += 1;
                        outcome.late += 1;
                    }
                    Verdict::Refused(refusal) => outcome.refuse(refusal, at, || one.labels.merged(labels)),
                }
                judge.newest = judge.newest.max(place.newest);
            }
            for (at, histogram) in of_histograms {
                let bits = fingerprint(histogram, hashing);
                let is_same = || place.newest_is_histogram && bits == place.bits;
                let verdict = judge.verdict(place, *at, is_same);
                if let Verdict::Refused(refusal) = verdict {
                    outcome.refuse(refusal, *at, || one.labels.merged(labels));
                    continue;
                }
                outcome.histograms += 1;
                match verdict {
                    Verdict::Again => continue,
                    Verdict::Late => outcome.late += 1,
                    _ => (place.newest, place.newest_is_histogram, place.bits) = (*at, true, bits),
                }
                let given = (*at, start_of(&one.starts, *at), histogram.clone());
                histograms.push(place, &one.labels, given, &source.histograms);
                judge.newest = judge.newest.max(place.newest);
            }
        }
        source.newest = judge.newest;
        for round in rounds {
            for (part, (given, late)) in round {
                let holder = &source.parts[part as usize].holder;
                let mut head = holder.head.borrow_mut();
                let newest = given.iter().map(|sample| sample.stamp).max().unwrap_or(i64::MIN);
                let at = match head.newest_at() {
                    Some(before) => before.plus_ms(1).max(Timestamp(newest)),
                    None => Timestamp(newest),
                };
                head.append_sparse(at, &given, &late, journal, scratch).expect("the time is after the newest row");
                appended(Head::Floats(holder, &mut head));
            }
        }
        histograms.append(&source.histograms, now_ms, journal, &mut appended);
        true
    }
}

/// Samples that become one row, by part: in order, and late.
type Round = AHashMap<u32, (Vec<SparseSample>, Vec<SparseSample>)>;

fn push(rounds: &mut Vec<Round>, round: usize, part: u32, given: SparseSample, late: bool) {
    if rounds.len() <= round {
        rounds.resize_with(round + 1, Round::default);
    }
    let (in_order, behind) = rounds[round].entry(part).or_default();
    if late { behind } else { in_order }.push(given);
}

#[cfg(test)]
mod tests {
    use super::*;
    use series::Matcher;
    use std::collections::BTreeMap;
    use tsdb::{SegmentLimits, SlotGroup};

    const NOW: i64 = 1_700_000_000_000;

    struct Rig {
        written: PushStore,
        journal: Journal,
        scratch: AppendScratch,
        ended: Vec<std::rc::Rc<crate::head_owner::HeadOwner>>,
    }

    impl Rig {
        fn new(late_ms: i64) -> Rig {
            let limits = SegmentLimits { rows_max: 9, late_ms, ..SegmentLimits::default() };
            Rig {
                written: PushStore::new(limits),
                journal: Journal::off(),
                scratch: AppendScratch::default(),
                ended: vec![],
            }
        }

        fn receive(&mut self, series: &[(Labels, Vec<(i64, f64)>)]) -> ReceiveOutcome {
            let sample = |(at, value): &(i64, f64)| Sample { timestamp: Timestamp(*at), value: *value };
            let series = series.iter().map(|(labels, samples)| PushedSeries {
                labels: labels.clone(),
                samples: samples.iter().map(sample).collect(),
                histograms: Vec::new(),
                start: None,
                starts: StartTimes::new(),
            });
            let request = ReceiveRequest { sources: source_of(series.collect()).collect() };
            self.take(request)
        }

        fn take(&mut self, request: ReceiveRequest) -> ReceiveOutcome {
            let mut receiving = Receiving::new(request);
            while self.written.receive(&mut receiving, NOW, &mut self.journal, &mut self.scratch, |_| ()) {}
            receiving.outcome
        }

        fn read(&self) -> BTreeMap<Labels, BTreeMap<i64, u64>> {
            let mut all: BTreeMap<Labels, BTreeMap<i64, u64>> = BTreeMap::new();
            for holder in self.written.holders().chain(self.ended.iter().cloned()) {
                let none: &[Matcher] = &[];
                let matching = |group: &Arc<SlotGroup>| group.matching(none, &holder.labels).into();
                let head = holder.head.borrow();
                head.range(Timestamp(i64::MIN), Timestamp(i64::MAX), u64::MAX, matching, |group, slot, samples| {
                    let of_series = all.entry(group.series_labels(slot as usize, &holder.labels)).or_default();
                    for sample in samples {
                        of_series.insert(sample.timestamp.0, sample.value.to_bits());
                    }
                })
                .unwrap();
            }
            all
        }
    }

    fn labels(i: u64, instance: u64) -> Labels {
        let (i, instance) = (i.to_string(), format!("i{instance}"));
        Labels::from_pairs([("__name__", "m"), ("instance", &instance), ("job", "j"), ("x", &i)])
    }

    #[test]
    fn verdicts_are_those_of_prometheus() {
        let hour = 3_600_000;
        let series = || labels(1, 1);
        #[track_caller]
        fn check(rig: &mut Rig, samples: &[(i64, f64)], want: Option<Refusal>) {
            let outcome = rig.receive(&[(labels(1, 1), samples.to_vec())]);
            assert_eq!(outcome.refused.first().map(|refused| refused.refusal), want, "{samples:?}");
            let taken = samples.len() as u64 - outcome.counts.iter().map(|(_, count)| count).sum::<u64>();
            assert_eq!(outcome.samples, taken);
        }
        let mut rig = Rig::new(0);
        check(&mut rig, &[(NOW, 1.0), (NOW + 1, series::STALE_NAN), (NOW + 5, 2.0)], None);
        check(&mut rig, &[(NOW + 5, 2.0)], None);
        check(&mut rig, &[(NOW + 5, 3.0)], Some(Refusal::Duplicate));
        check(&mut rig, &[(NOW + 4, 3.0), (NOW + 6, 3.0)], Some(Refusal::OutOfOrder));
        check(&mut rig, &[(NOW - 2 * hour, 3.0)], Some(Refusal::OutOfBounds));
        check(&mut rig, &[(NOW + AHEAD_MS_MAX + 1, 3.0)], Some(Refusal::OutOfBounds));
        let other = rig.receive(&[(labels(2, 1), vec![(NOW - hour - 1, 1.0), (NOW, 1.0)])]);
        assert_eq!((other.samples, other.count(Refusal::OutOfBounds)), (1, 1), "a new series is not exempt");
        assert_eq!(rig.receive(&[(labels(2, 9), vec![(NOW - hour - 1, 1.0)])]).samples, 1, "but another source is");
        assert_eq!(rig.read()[&series()].len(), 4);

        let mut rig = Rig::new(hour / 2);
        check(&mut rig, &[(NOW, 1.0)], None);
        check(&mut rig, &[(NOW - hour / 2, 2.0), (NOW - 5, 3.0), (NOW - 7, 4.0), (NOW + 1, 5.0)], None);
        check(&mut rig, &[(NOW - hour / 2, 2.0)], Some(Refusal::TooOld));
        let read: Vec<i64> = rig.read()[&series()].keys().map(|at| at - NOW).collect();
        assert_eq!(read, [-hour / 2, -7, -5, 0, 1]);
    }

    #[test]
    fn a_series_whose_samples_are_all_refused_is_none() {
        let mut rig = Rig::new(0);
        rig.receive(&[(labels(1, 1), vec![(NOW, 1.0)])]);
        let outcome = rig.receive(&[(labels(2, 1), vec![(NOW - 7_200_000, 1.0), (NOW + AHEAD_MS_MAX + 1, 1.0)])]);
        assert_eq!((outcome.samples, outcome.count(Refusal::OutOfBounds)), (0, 2));
        assert_eq!(outcome.refused[0].labels, labels(2, 1));
        assert_eq!(rig.written.received_series, 1);
        assert!(!rig.read().contains_key(&labels(2, 1)));
    }

    impl Rig {
        /// Of one series, by how many they count.
        fn receive_histograms(&mut self, labels: Labels, counts: &[(i64, f64)]) -> ReceiveOutcome {
            let histogram = |(at, count): &(i64, f64)| (*at, histogram(*count));
            let histograms = counts.iter().map(histogram).collect();
            let series =
                vec![PushedSeries { labels, samples: Vec::new(), histograms, start: None, starts: StartTimes::new() }];
            let request = ReceiveRequest { sources: source_of(series).collect() };
            self.take(request)
        }

        /// By time: how many a histogram counts, None for a marker.
        fn read_histograms(&self) -> BTreeMap<i64, Option<f64>> {
            let mut all = BTreeMap::new();
            for holder in self.written.histogram_holders() {
                let every = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect::<Vec<_>>().into();
                let (from, to) = (Timestamp(i64::MIN), Timestamp(i64::MAX));
                holder.head.borrow().range(from, to, u64::MAX, every, |_, _, samples| {
                    for (at, one) in samples {
                        let count = (!series::is_stale(one.sum)).then_some(one.count);
                        assert_eq!(all.insert(at - NOW, count), None);
                    }
                });
            }
            all
        }
    }

    fn histogram(count: f64) -> Arc<Histogram> {
        Arc::new(Histogram { count, ..Histogram::default() })
    }

    #[test]
    fn histograms_and_floats_of_a_series_have_one_order() {
        let mut rig = Rig::new(0);
        let series = || labels(1, 1);
        #[track_caller]
        fn check(outcome: &ReceiveOutcome, histograms: u64, refusal: Option<Refusal>) {
            let first = outcome.refused.first().map(|refused| refused.refusal);
            assert_eq!((outcome.histograms, first), (histograms, refusal));
        }
        check(&rig.receive_histograms(series(), &[(NOW, 1.0), (NOW + 1, 2.0)]), 2, None);
        check(&rig.receive_histograms(series(), &[(NOW + 1, 2.0)]), 1, None);
        check(&rig.receive_histograms(series(), &[(NOW + 1, 3.0)]), 0, Some(Refusal::Duplicate));
        check(&rig.receive(&[(series(), vec![(NOW + 1, 2.0)])]), 0, Some(Refusal::Duplicate));
        check(&rig.receive_histograms(series(), &[(NOW, 1.0)]), 0, Some(Refusal::OutOfOrder));
        check(&rig.receive(&[(series(), vec![(NOW + 2, 5.0)])]), 0, None);
        check(&rig.receive_histograms(series(), &[(NOW + 2, 5.0), (NOW + 4, 6.0)]), 1, Some(Refusal::Duplicate));
        check(&rig.receive_histograms(series(), &[(NOW + AHEAD_MS_MAX + 1, 1.0)]), 0, Some(Refusal::OutOfBounds));
        // The marker of a histogram is one itself; that of a float is not.
        check(&rig.receive(&[(series(), vec![(NOW + 5, series::STALE_NAN), (NOW + 6, series::STALE_NAN)])]), 0, None);
        check(&rig.receive(&[(series(), vec![(NOW + 5, 1.0)])]), 0, Some(Refusal::OutOfOrder));
        let want = [(0, Some(1.0)), (1, Some(2.0)), (4, Some(6.0)), (5, None)];
        assert_eq!(rig.read_histograms(), BTreeMap::from(want));
        let floats: Vec<i64> = rig.read()[&series()].keys().map(|at| at - NOW).collect();
        assert_eq!(floats, [2, 6]);

        let mut rig = Rig::new(1_000);
        check(&rig.receive_histograms(series(), &[(NOW, 1.0)]), 1, None);
        let late = rig.receive_histograms(series(), &[(NOW - 500, 2.0), (NOW - 1_001, 3.0)]);
        check(&late, 1, Some(Refusal::TooOld));
        assert_eq!((late.late, rig.read_histograms().len()), (1, 2));
    }

    #[test]
    fn requests_read_as_they_were_written() {
        let mut state = 11u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let mut rig = Rig::new(600_000);
        let mut truth: BTreeMap<Labels, BTreeMap<i64, u64>> = BTreeMap::new();
        let mut at = NOW - 3_000_000;
        for request in 0..300u64 {
            at += next(20_000) as i64;
            let mut series: Vec<(Labels, Vec<(i64, f64)>)> = Vec::new();
            for i in 0..next(60) {
                let labels = labels(request / 40 * 20 + next(40) + i, next(3));
                // Several times of a series in a request, some of them late.
                let mut samples = Vec::new();
                for _ in 0..1 + next(3) {
                    samples.push((at + next(5_000) as i64 - if next(9) == 0 { 400_000 } else { 0 }, next(99) as f64));
                }
                series.push((labels, samples));
            }
            for (labels, samples) in &series {
                for (at, value) in samples {
                    truth.entry(labels.clone()).or_default().entry(*at).or_insert(value.to_bits());
                }
            }
            let outcome = rig.receive(&series);
            assert!(outcome.refused.iter().all(|refused| refused.refusal == Refusal::Duplicate), "{outcome:?}");
            if next(10) == 0 {
                rig.ended.extend(rig.written.maintain(NOW).holders);
            }
        }
        let read = rig.read();
        for (labels, samples) in &truth {
            let times = |samples: &BTreeMap<i64, u64>| samples.keys().copied().collect::<Vec<_>>();
            assert_eq!(read.get(labels).map(times), Some(times(samples)), "{labels}");
        }
        assert!(rig.written.holders().count() >= 3);
    }

    #[test]
    fn one_series_with_very_many_samples_gets_a_head_of_its_own() {
        let mut rig = Rig::new(0);
        let begin = NOW - 200_000;
        let all: Vec<_> = (0..2000).map(|i| (labels(i, 1), vec![(begin, i as f64)])).collect();
        assert_eq!(rig.receive(&all).samples, 2000);
        let samples: Vec<(i64, f64)> = (1..=100_000).map(|i| (begin + i, i as f64)).collect();
        let begun = std::time::Instant::now();
        assert_eq!(rig.receive(&[(labels(7, 1), samples)]).samples, 100_000);
        let took = begun.elapsed();
        assert_eq!(rig.receive(&[(labels(7, 1), vec![(NOW, 5.0)]), (labels(8, 1), vec![(NOW, 6.0)])]).samples, 2);
        let read = rig.read();
        assert_eq!((read.len(), read[&labels(7, 1)].len(), read[&labels(8, 1)].len()), (2000, 100_002, 2));
        assert_eq!(rig.written.holders().count(), 2);
        // 40 s on the machine where it was found, with a row over 2,048 slots for each sample.
        assert!(took.as_secs() < 20, "{took:?}");
    }

    #[test]
    fn it_gets_one_as_well_when_it_comes_with_many_others() {
        let mut rig = Rig::new(0);
        let begin = NOW - 200_000;
        let many = |i: u64| if i == 7 { 20_000 } else { 2 };
        let samples = |i: u64| (1..=many(i)).map(|at| (begin + at, (i as i64 * at) as f64)).collect();
        let all: Vec<(Labels, Vec<(i64, f64)>)> = (0..2048).map(|i| (labels(i, 1), samples(i))).collect();
        assert_eq!(rig.receive(&all).samples, 2 * 2047 + 20_000);
        let read = rig.read();
        assert!(all.iter().all(|(labels, samples)| read[labels].len() == samples.len()));
        // In a head of 2,048 slots each of its samples would be a row of as many.
        let rows: Vec<usize> = rig.written.holders().map(|holder| rows_of(&holder)).collect();
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().any(|rows| *rows <= 4), "{rows:?}");
    }

    /// How many rows a head has.
    fn rows_of(holder: &crate::head_owner::HeadOwner) -> usize {
        let mut times = std::collections::BTreeSet::new();
        let all = |group: &Arc<SlotGroup>| (0..group.len() as u32).collect::<Vec<_>>().into();
        let none = Timestamp(i64::MIN);
        let head = holder.head.borrow();
        head.range(none, Timestamp(i64::MAX), u64::MAX, all, |_, _, samples| {
            times.extend(samples.iter().map(|sample| sample.timestamp.0));
        })
        .unwrap();
        times.len()
    }

    #[test]
    fn request_in_pieces_is_all_of_it() {
        let mut rig = Rig::new(0);
        let begin = NOW - 500_000;
        // More series than a piece has, with more samples than a piece takes of each.
        let all: Vec<_> = (0..5000)
            .map(|i| (labels(i, i % 3), (0..3).map(|at| (begin + at * 1000, (i as i64 * at) as f64)).collect()))
            .collect();
        assert_eq!(rig.receive(&all).samples, 15_000);
        let read = rig.read();
        assert_eq!(read.len(), 5000);
        for (labels, samples) in &all {
            let want: BTreeMap<i64, u64> =
                samples.iter().map(|(at, value): &(i64, f64)| (*at, value.to_bits())).collect();
            assert_eq!(read[labels], want, "{labels}");
        }
    }
}
