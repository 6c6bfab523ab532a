//! Aggregations over the heads of a core.

use crate::handle::{LimitError, Older, ReduceAnswer, ReduceRequest};
use crate::select::Matching;
use crate::written::{HistogramHolder, Holder};
use ahash::{AHashMap, AHashSet, RandomState};
use promql::Partial;
use series::{Labels, METRIC_NAME};
use std::hash::{BuildHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use tsdb::{Piece, Rows, SlotGroup};

/// Labels that tell targets apart, and with them their series, as long as no series has others of its own.
const IDENTITY: [&str; 2] = ["instance", "job"];

/// Verdicts of matchers on target labels that fit in a key; a request with more does without the memory.
const MATCHERS_REMEMBERED_MAX: usize = 64;

/// Slots of a group, and the aggregation's group of each.
type Pairs = Rc<[(u32, u32)]>;

/// An aggregation while it goes from target to target.
///
/// Targets that share their slot groups, and agree on the labels that count, share the decision of what belongs where.
pub struct Reducing<'a> {
    request: &'a ReduceRequest,
    older: Older,
    answer: ReduceAnswer,
    matching: Matching<'a>,
    /// None for groups whose series may be those of another target.
    known: AHashMap<(*const SlotGroup, u64, u64), Option<Pairs>>,
    /// Keeps the groups of `known` alive, so that no address in it is used again.
    held: Vec<Arc<SlotGroup>>,
    /// Lists of groups in which series differ in more than their names.
    told_apart: AHashSet<u64>,
    rows: Rows,
    hashing: RandomState,
}

impl<'a> Reducing<'a> {
    pub fn new(request: &'a ReduceRequest, older: Older) -> Reducing<'a> {
        Reducing {
            request,
            older,
            answer: ReduceAnswer {
                partial: Partial::new(request.reduction.clone()),
                whole: Vec::new(),
                pieces: Vec::new(),
                identities: Vec::new(),
                pieces_identities: AHashSet::new(),
                refused: false,
                samples: 0,
            },
            matching: Matching::new(&request.selectors),
            known: AHashMap::new(),
            held: Vec::new(),
            told_apart: AHashSet::new(),
            rows: Rows::default(),
            hashing: RandomState::with_seeds(1, 2, 3, 4),
        }
    }

    pub fn target(&mut self, holder: &Holder, visible: u64) -> Result<(), LimitError> {
        let Reducing { request, older, answer, known, held, rows, hashing, .. } = self;
        let (head, labels) = (holder.head.borrow(), &holder.labels);
        let matchers = request.selectors.iter().flatten();
        let remember = matchers.clone().count() <= MATCHERS_REMEMBERED_MAX;
        let verdicts = matchers.fold(0u64, |bits, matcher| {
            bits << 1 | u64::from(matcher.matches(labels.get(matcher.name()).unwrap_or("")))
        });
        let target_key = request.reduction.target_key(labels);
        let names_vanish = request.reduction.names_vanish();
        let mut layout = hashing.build_hasher();
        let mut matched: Vec<(Arc<SlotGroup>, Pairs)> = Vec::new();
        let pairs_of = |group: &Arc<SlotGroup>| {
            let key = (Arc::as_ptr(group), verdicts, target_key);
            let pairs = match known.get(&key).filter(|_| remember) {
                Some(pairs) => pairs.clone(),
                None => {
                    let pairs = pairs_of_group(request, group, labels, &mut answer.partial);
                    if remember {
                        known.insert(key, pairs.clone());
                        held.push(group.clone());
                    }
                    pairs
                }
            };
            if let (Some(pairs), true) = (&pairs, names_vanish) {
                key.hash(&mut layout);
                matched.push((group.clone(), pairs.clone()));
            }
            pairs
        };
        let times = (request.from, request.to);
        let whole = head.rows(times, visible, *older == Older::Nothing, request.reduction.is_single(), rows, pairs_of);
        // Rows in memory were written by this process: one that does not decode is our own mistake.
        if !whole.expect("rows of this process decode") {
            return self.in_pieces(holder, visible);
        }
        self.answer.whole.push(holder.id);
        let Rows { places, times, values, .. } = &self.rows;
        if places.is_empty() {
            return Ok(());
        }
        self.answer.samples += values.len();
        self.answer.partial.add_rows(places, times, values);
        if names_vanish && self.told_apart.insert(layout.finish()) && !differ_without_names(&matched, labels) {
            self.answer.refused = true;
        }
        let identity = self.identity(labels);
        self.answer.identities.push(identity);
        self.check()
    }

    /// A target whose rows are not everything, one that is gone, or a source of samples that no scrape brings: its
    /// series may have gone on elsewhere.
    pub fn in_pieces(&mut self, holder: &Holder, visible: u64) -> Result<(), LimitError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let (from, to) = (self.request.from, self.request.to);
        self.answer.samples += self.matching.range(holder, from, to, visible, &mut pieces);
        for piece in &pieces {
            let identity = self.identity(&piece.labels);
            self.answer.pieces_identities.insert(identity);
        }
        self.answer.pieces.append(&mut pieces);
        self.check()
    }

    /// Histograms are aggregated as whole series.
    pub fn histograms(&mut self, holder: &HistogramHolder) {
        self.answer.refused |= self.matching.touches(holder, self.request.from);
    }

    fn identity(&self, labels: &Labels) -> u64 {
        self.hashing.hash_one(IDENTITY.map(|name| labels.get(name).unwrap_or("")))
    }

    fn check(&self) -> Result<(), LimitError> {
        match self.request.samples_max {
            max if max > 0 && self.answer.samples > max => Err(LimitError::Samples),
            _ => Ok(()),
        }
    }

    pub fn finish(self) -> ReduceAnswer {
        self.answer
    }
}

fn pairs_of_group(request: &ReduceRequest, group: &SlotGroup, target: &Labels, partial: &mut Partial) -> Option<Pairs> {
    let mut slots: Vec<u32> = request.selectors.iter().flat_map(|matchers| group.matching(matchers, target)).collect();
    slots.sort_unstable();
    slots.dedup();
    let own_identity = |slot: &u32| group.label_pairs(*slot as usize).any(|(name, _)| IDENTITY.contains(&name));
    if slots.iter().any(own_identity) {
        return None;
    }
    Some(slots.iter().map(|slot| (*slot, partial.place(&group.series_labels(*slot as usize, target)))).collect())
}

/// Whether no two series of a target have all labels but the name in common.
fn differ_without_names(matched: &[(Arc<SlotGroup>, Pairs)], target: &Labels) -> bool {
    let mut seen = AHashSet::new();
    matched.iter().all(|(group, pairs)| {
        pairs.iter().all(|(slot, _)| {
            let pairs = group.series_pairs(*slot as usize, target);
            seen.insert(Labels::from_sorted(pairs.filter(|(name, _)| *name != METRIC_NAME)))
        })
    })
}
