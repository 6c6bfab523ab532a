//! What somebody writes to us: samples with their own times, in any order over series, in order within one.
//!
//! The series of one job and instance are one source, so that what another server scraped from a target lies together
//! again (decision 023). Each takes stamped slots: one time comes in several requests.
//!
//! Invariants:
//!   * the verdict on a sample is Prometheus': in order, late within the window, or refused with its reason
//!   * a core holds at most [`SERIES_MAX`] received series

use super::{Head, Histograms, Place, Source, Written};
use ahash::{AHashMap, RandomState};
use series::{Histogram, Labels, Sample, Timestamp};
use std::hash::{BuildHasher, Hash, Hasher};
use tsdb::log::Journal;
use tsdb::{AppendScratch, Given, Timed};

/// Labels of a series that make its source.
const SOURCE_LABELS: [&str; 2] = ["instance", "job"];
/// A sample may be ahead of the wall clock by this much, as in Prometheus.
const AHEAD_MS_MAX: i64 = 10 * 60 * 1000;
/// Series that one core takes from others.
const SERIES_MAX: usize = 20_000_000;
/// Refused samples that are told one by one.
const REFUSED_TOLD_MAX: usize = 10;

/// A series with samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    pub labels: Labels,
    pub samples: Vec<Sample>,
    pub histograms: Timed,
}

/// Series of sources that one core keeps: the labels of the source, then its series without these.
#[derive(Clone, Debug, Default)]
pub struct ReceiveRequest {
    pub sources: Vec<(Labels, Vec<Received>)>,
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
pub struct Refused {
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
    pub refused: Vec<Refused>,
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
        if self.refused.len() < REFUSED_TOLD_MAX {
            self.refused.push(Refused { labels: labels(), at: Timestamp(at), refusal });
        }
    }

    /// Takes in what became of the rest, on another core.
    pub fn add(&mut self, other: ReceiveOutcome) {
        self.samples += other.samples;
        self.histograms += other.histograms;
        self.late += other.late;
        self.counts.extend(other.counts);
        self.refused.extend(other.refused);
        self.refused.truncate(REFUSED_TOLD_MAX);
    }
}

/// Divides series by source: the labels that make it, and its series without them.
pub fn source_of(series: Vec<Received>) -> impl Iterator<Item = (Labels, Vec<Received>)> {
    let mut sources: AHashMap<Labels, Vec<Received>> = AHashMap::new();
    for Received { labels, samples, histograms } in series {
        let of_source = |(name, _): &(&str, &str)| SOURCE_LABELS.contains(name);
        let source = Labels::from_sorted(labels.iter().filter(of_source));
        let labels = Labels::from_sorted(labels.iter().filter(|label| !of_source(label)));
        sources.entry(source).or_default().push(Received { labels, samples, histograms });
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
struct Judge {
    now_ms: i64,
    late_ms: i64,
    old_ms: i64,
    /// The newest sample of the source.
    newest: i64,
}

impl Judge {
    fn verdict(&self, place: &Place, at: i64, is_same: impl FnOnce() -> bool) -> Verdict {
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

impl Written {
    /// Takes samples of several sources.
    pub fn receive(
        &mut self,
        request: &ReceiveRequest,
        now_ms: i64,
        journal: &mut Journal,
        scratch: &mut AppendScratch,
        mut appended: impl FnMut(Head),
    ) -> ReceiveOutcome {
        let mut outcome = ReceiveOutcome::default();
        let mut room = SERIES_MAX.saturating_sub(self.received.values().map(|source| source.places.len()).sum());
        let Written { limits, hashing, received, .. } = self;
        for (labels, series) in &request.sources {
            let source = received.entry(labels.clone()).or_insert_with(|| {
                Source::new(labels.hash64().rotate_left(32) ^ 0x7265_6365_6976_6564, labels.clone(), limits)
            });
            source.seen_ms = now_ms;
            let mut keys = Vec::with_capacity(series.len());
            let mut fresh: Vec<(u64, &Labels)> = Vec::new();
            for one in series {
                let of_histograms = one.histograms.iter().map(|(at, _)| *at);
                let Some(at) = one.samples.iter().map(|sample| sample.timestamp.0).chain(of_histograms).next() else {
                    continue;
                };
                let key = source.key(&one.labels, hashing, &fresh);
                if !source.places.contains_key(&key) {
                    if room == 0 {
                        outcome.refuse(Refusal::TooManySeries, at, || one.labels.merged(labels));
                        continue;
                    }
                    room -= 1;
                    fresh.push((key, &one.labels));
                    source.places.insert(key, Place::pending(fresh.len() - 1));
                }
                keys.push((key, one));
            }
            source.add(&fresh, limits, true);
            let late_ms = limits.late_ms;
            let old_ms = late_ms.max(limits.range_ms / 2);
            let mut judge = Judge { now_ms, late_ms, old_ms, newest: source.newest };
            let mut rounds: Vec<Round> = Vec::new();
            let mut histograms = Histograms::default();
            // A series may come twice in a request, and has one sample in a row.
            let mut rows: AHashMap<u64, (usize, usize)> = AHashMap::with_capacity(keys.len());
            for (key, one) in keys {
                let place = source.places.get_mut(&key).expect("added above");
                let (in_order, late) = rows.entry(key).or_default();
                for Sample { timestamp: Timestamp(at), value } in &one.samples {
                    let (at, value) = (*at, *value);
                    let is_same = || !place.newest_is_histogram && value.to_bits() == place.bits;
                    match judge.verdict(place, at, is_same) {
                        // The end of a histogram is one itself.
                        Verdict::InOrder if place.newest_is_histogram && series::is_stale(value) => {
                            histograms.end(place, at);
                            (place.newest, place.newest_is_histogram, place.bits) = (at, false, value.to_bits());
                            outcome.samples += 1;
                        }
                        Verdict::InOrder => {
                            push(&mut rounds, *in_order, place.part, place.given(at, value), false);
                            *in_order += 1;
                            (place.newest, place.newest_is_histogram, place.bits) = (at, false, value.to_bits());
                            outcome.samples += 1;
                        }
                        Verdict::Again => outcome.samples += 1,
                        Verdict::Late => {
                            push(&mut rounds, *late, place.part, place.given(at, value), true);
                            *late += 1;
                            outcome.samples += 1;
                            outcome.late += 1;
                        }
                        Verdict::Refused(refusal) => outcome.refuse(refusal, at, || one.labels.merged(labels)),
                    }
                    judge.newest = judge.newest.max(place.newest);
                }
                for (at, histogram) in &one.histograms {
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
                    histograms.push(place, &one.labels, *at, histogram.clone(), &source.histograms);
                    judge.newest = judge.newest.max(place.newest);
                }
            }
            source.newest = judge.newest;
            for round in rounds {
                for (part, (given, late)) in round {
                    let mut head = source.parts[part as usize].holder.head.borrow_mut();
                    let newest = given.iter().map(|sample| sample.stamp).max().unwrap_or(i64::MIN);
                    let at = match head.newest_at() {
                        Some(before) => before.plus_ms(1).max(Timestamp(newest)),
                        None => Timestamp(newest),
                    };
                    head.append_sparse(at, &given, &late, journal, scratch).expect("the time is after the newest row");
                    appended(Head::Floats(&mut head));
                }
            }
            histograms.append(&source.histograms, now_ms, journal, &mut appended);
        }
        outcome
    }
}

/// Samples that become one row, by part: in order, and late.
type Round = AHashMap<u32, (Vec<Given>, Vec<Given>)>;

fn push(rounds: &mut Vec<Round>, round: usize, part: u32, given: Given, late: bool) {
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
    use std::sync::Arc;
    use tsdb::{SegmentLimits, SlotGroup};

    const NOW: i64 = 1_700_000_000_000;

    struct Rig {
        written: Written,
        journal: Journal,
        scratch: AppendScratch,
        ended: Vec<std::rc::Rc<super::super::Holder>>,
    }

    impl Rig {
        fn new(late_ms: i64) -> Rig {
            let limits = SegmentLimits { rows_max: 9, late_ms, ..SegmentLimits::default() };
            Rig {
                written: Written::new(limits),
                journal: Journal::off(),
                scratch: AppendScratch::default(),
                ended: vec![],
            }
        }

        fn receive(&mut self, series: &[(Labels, Vec<(i64, f64)>)]) -> ReceiveOutcome {
            let sample = |(at, value): &(i64, f64)| Sample { timestamp: Timestamp(*at), value: *value };
            let series = series.iter().map(|(labels, samples)| Received {
                labels: labels.clone(),
                samples: samples.iter().map(sample).collect(),
                histograms: Vec::new(),
            });
            let request = ReceiveRequest { sources: source_of(series.collect()).collect() };
            self.written.receive(&request, NOW, &mut self.journal, &mut self.scratch, |_| ())
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

    impl Rig {
        /// Of one series, by how many they count.
        fn receive_histograms(&mut self, labels: Labels, counts: &[(i64, f64)]) -> ReceiveOutcome {
            let histogram = |(at, count): &(i64, f64)| (*at, histogram(*count));
            let histograms = counts.iter().map(histogram).collect();
            let series = vec![Received { labels, samples: Vec::new(), histograms }];
            let request = ReceiveRequest { sources: source_of(series).collect() };
            self.written.receive(&request, NOW, &mut self.journal, &mut self.scratch, |_| ())
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
                rig.ended.extend(rig.written.retire(NOW).holders);
            }
        }
        let read = rig.read();
        for (labels, samples) in &truth {
            let times = |samples: &BTreeMap<i64, u64>| samples.keys().copied().collect::<Vec<_>>();
            assert_eq!(read.get(labels).map(times), Some(times(samples)), "{labels}");
        }
        assert!(rig.written.holders().count() >= 3);
    }
}
