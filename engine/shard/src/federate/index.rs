//! Which slots match, by metric name: the names of a core in order, and for each the targets that have it.
//!
//! Targets that share their groups share the finding. What is kept is places: two numbers for each run of slots that
//! have one name, and a number for each target and group.

use super::{FederateRequest, IDENTITY};
use ahash::AHashMap;
use series::{Labels, Matcher};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;
use tsdb::{SlotGroup, TargetHead};

/// Slots looked at in one step.
const SLOTS_PER_STEP: usize = 64;

/// Matching slots of a group, for targets that agree on the matched labels.
pub(crate) struct Plan {
    pub group: Arc<SlotGroup>,
    /// Slots that follow each other and have one name, sorted by the name.
    runs: Vec<Range<u32>>,
    /// How many slots match.
    pub slots: u64,
    /// Whether a series may be that of another target, whatever the labels of the target.
    pub clashing: bool,
    entries: Vec<u32>,
    /// Its names are among those that come: `current` tells when it is their turn.
    listed: bool,
    /// The last name that came and is one of the plan's, by number, and its runs.
    current: (u64, Range<usize>),
}

impl Plan {
    fn name(&self, run: usize) -> &str {
        self.group.metric_name(self.runs[run].start as usize)
    }

    /// The matching slots of a name, which is the last that came, with its number.
    pub fn of_name(&self, name: &str, number: u64) -> &[Range<u32>] {
        if self.listed {
            return if self.current.0 == number { &self.runs[self.current.1.clone()] } else { &[] };
        }
        let name_of = |run: &Range<u32>| self.group.metric_name(run.start as usize);
        let first = self.runs.partition_point(|run| name_of(run) < name);
        let count = self.runs[first..].iter().take_while(|run| name_of(run) == name).count();
        &self.runs[first..first + count]
    }

    /// All matching slots.
    pub fn all(&self) -> &[Range<u32>] {
        &self.runs
    }
}

/// A plan while it is made, a few slots at a time.
struct GroupMatchBuilder {
    group: Arc<SlotGroup>,
    at: usize,
    runs: Vec<Range<u32>>,
    slots: u64,
    clashing: bool,
}

/// One target.
#[derive(Default)]
pub(crate) struct Entry {
    /// Of the head, when `places` were found.
    pub layout: Option<u64>,
    verdict: u32,
    /// Place in the head, and plan.
    pub places: Vec<(u32, u32)>,
    /// The last name of which it was asked.
    asked: u64,
}

/// What matches on a core.
pub(crate) struct Index<'r> {
    request: &'r FederateRequest,
    verdicts: AHashMap<Box<[bool]>, u32>,
    verdicts_by_number: Vec<Box<[bool]>>,
    pub plans: Vec<Plan>,
    known: AHashMap<(*const SlotGroup, u32), u32>,
    pub entries: Vec<Entry>,
    next: BinaryHeap<Reverse<(Arc<str>, u32)>>,
    names_begun: u64,
    finding: Option<GroupMatchBuilder>,
}

impl<'r> Index<'r> {
    pub fn new(request: &'r FederateRequest) -> Index<'r> {
        Index {
            request,
            verdicts: AHashMap::new(),
            verdicts_by_number: Vec::new(),
            plans: Vec::new(),
            known: AHashMap::new(),
            entries: Vec::new(),
            next: BinaryHeap::new(),
            names_begun: 0,
            finding: None,
        }
    }

    fn lists(&self) -> impl Iterator<Item = &'r Vec<Matcher>> + use<'r> {
        let request = self.request;
        request.selectors.iter().chain(&request.allow).chain(&request.deny)
    }

    /// What the matchers say of a target's labels, as a number.
    pub fn verdict(&mut self, target: &Labels) -> u32 {
        let matches = |matcher: &Matcher| matcher.matches(target.get(matcher.name()).unwrap_or(""));
        let verdict: Box<[bool]> = self.lists().flatten().map(matches).collect();
        *self.verdicts.entry(verdict.clone()).or_insert_with(|| {
            self.verdicts_by_number.push(verdict);
            self.verdicts_by_number.len() as u32 - 1
        })
    }

    /// One more target; its places are not known yet.
    pub fn add(&mut self, target: &Labels) {
        let verdict = self.verdict(target);
        self.entries.push(Entry { verdict, ..Entry::default() });
    }

    /// Finds the places of a target anew; false if there is more to do, in further calls. Those found at first make
    /// the names to come, and later ones only take part in those. `dead` says whether it matters what has ended.
    pub fn place(&mut self, entry: u32, head: &TargetHead, first: bool, dead: bool) -> bool {
        let verdict = self.entries[entry as usize].verdict;
        let mut places = std::mem::take(&mut self.entries[entry as usize].places);
        places.clear();
        for (place, (group, live)) in head.newest_groups().enumerate() {
            // Series with their own times need not have ended.
            if !live && !dead && !group.any_stamped() {
                continue;
            }
            match self.known.get(&(Arc::as_ptr(group), verdict)) {
                Some(plan) => places.push((place as u32, *plan)),
                None => {
                    self.step(group, verdict);
                    return false;
                }
            }
        }
        places.retain(|(_, plan)| self.plans[*plan as usize].slots > 0);
        if first {
            for (_, plan) in &places {
                self.plans[*plan as usize].entries.push(entry);
            }
        }
        let entry = &mut self.entries[entry as usize];
        (entry.places, entry.layout) = (places, Some(head.layout()));
        true
    }

    /// The plan of a group, made at once.
    pub fn plan_now(&mut self, group: &Arc<SlotGroup>, verdict: u32) -> u32 {
        loop {
            if let Some(plan) = self.known.get(&(Arc::as_ptr(group), verdict)) {
                return *plan;
            }
            self.step(group, verdict);
        }
    }

    /// Looks at a few more slots of a group.
    fn step(&mut self, group: &Arc<SlotGroup>, verdict: u32) {
        let request = self.request;
        let mut finding = self
            .finding
            .take()
            .filter(|finding| Arc::ptr_eq(&finding.group, group))
            .unwrap_or(GroupMatchBuilder { group: group.clone(), at: 0, runs: Vec::new(), slots: 0, clashing: false });
        let of_target = &self.verdicts_by_number[verdict as usize];
        let any = |lists: &[Vec<Matcher>], of_target: &[bool], slot: usize| {
            let mut rest = of_target;
            lists.iter().any(|matchers| {
                let (own, behind) = rest.split_at(matchers.len());
                rest = behind;
                group.fits(slot, matchers, own)
            })
        };
        let count = |lists: &[Vec<Matcher>]| lists.iter().map(Vec::len).sum::<usize>();
        let (selects, others) = of_target.split_at(count(&request.selectors));
        let (allows, denies) = others.split_at(count(&request.allow));
        let end = (finding.at + SLOTS_PER_STEP).min(group.len());
        for slot in finding.at..end {
            let fits = any(&request.selectors, selects, slot)
                && (request.allow.is_empty() || any(&request.allow, allows, slot))
                && !any(&request.deny, denies, slot);
            let name = group.metric_name(slot);
            // Prometheus leaves out what has no name.
            if !fits || name.is_empty() {
                continue;
            }
            finding.slots += 1;
            finding.clashing |=
                group.is_stamped(slot) || group.label_pairs(slot).any(|(name, _)| IDENTITY.contains(&name));
            match finding.runs.last_mut() {
                Some(run) if run.end == slot as u32 && group.metric_name(run.start as usize) == name => {
                    run.end += 1;
                }
                _ => finding.runs.push(slot as u32..slot as u32 + 1),
            }
        }
        finding.at = end;
        if end < group.len() {
            self.finding = Some(finding);
            return;
        }
        let GroupMatchBuilder { mut runs, slots, clashing, .. } = finding;
        runs.sort_by(|one, other| group.metric_name(one.start as usize).cmp(group.metric_name(other.start as usize)));
        runs.shrink_to_fit();
        self.known.insert((Arc::as_ptr(group), verdict), self.plans.len() as u32);
        // The plan holds the group, so that its address is not used again.
        let (entries, current) = (Vec::new(), (0, 0..0));
        self.plans.push(Plan { group: group.clone(), runs, slots, clashing, entries, listed: false, current });
    }

    /// All targets are there: names can be asked for.
    pub fn begin(&mut self) {
        for at in 0..self.plans.len() {
            self.plans[at].listed = !self.plans[at].entries.is_empty();
            self.put(at as u32, 0);
        }
    }

    fn put(&mut self, plan: u32, run: usize) {
        let found = &self.plans[plan as usize];
        if run < found.runs.len() && !found.entries.is_empty() {
            self.next.push(Reverse((found.name(run).into(), plan)));
        }
    }

    /// The number of the last name that came.
    pub fn name_number(&self) -> u64 {
        self.names_begun
    }

    /// The next name in order, and the targets that may have it.
    pub fn next_name(&mut self, entries: &mut Vec<u32>) -> Option<Arc<str>> {
        entries.clear();
        let Reverse((name, _)) = self.next.peek()?;
        let name = name.clone();
        self.names_begun += 1;
        while let Some(Reverse((_, plan))) = self.next.peek().filter(|Reverse((other, _))| *other == name) {
            let plan = *plan;
            self.next.pop();
            for entry in &self.plans[plan as usize].entries {
                let asked = &mut self.entries[*entry as usize].asked;
                if *asked != self.names_begun {
                    *asked = self.names_begun;
                    entries.push(*entry);
                }
            }
            let found = &mut self.plans[plan as usize];
            let name_of = |run: &Range<u32>| found.group.metric_name(run.start as usize);
            let first = found.runs.partition_point(|run| *name_of(run) < *name);
            let behind = found.runs.partition_point(|run| *name_of(run) <= *name);
            found.current = (self.names_begun, first..behind);
            self.put(plan, behind);
        }
        Some(name)
    }
}
