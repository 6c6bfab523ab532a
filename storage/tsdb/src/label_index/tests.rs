//! Label questions of the index beside a plain scan over all series, on random owners, groups and matchers.

use super::*;
use crate::group::GroupBuilder;
use ahash::{AHashMap, AHashSet};
use series::{MatchOp, Matcher};
use std::collections::BTreeSet;

/// Seeds of one run, and questions of each.
const SEEDS: u64 = 200;
const QUESTIONS_PER_SEED: u64 = 100;

pub(super) struct Random(u64);

impl Random {
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

const OWNER_NAMES: [&str; 4] = ["instance", "job", "zone", "__meta"];
const SLOT_NAMES: [&str; 5] = ["Upper", "code", "instance", "job", "le"];
const VALUES: [&str; 8] = ["", "a", "ab", "b", "c", "d", "e", "f"];
const METRICS: [&str; 6] = ["", "a", "ab", "m", "node_x", "up"];

fn random_labels(random: &mut Random, names: &[&str], keep_empty: bool) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for name in names {
        let value = random.one(&VALUES);
        if random.below(2) == 0 && (keep_empty || !value.is_empty()) {
            pairs.push(((*name).to_owned(), value.to_owned()));
        }
    }
    pairs
}

fn random_group(random: &mut Random) -> Arc<SlotGroup> {
    let mut builder = GroupBuilder::default();
    for _ in 0..random.below(6) {
        let mut pairs = random_labels(random, &SLOT_NAMES, random_bool(random.0));
        let metric = random.one(&METRICS);
        if !metric.is_empty() {
            pairs.push(("__name__".to_owned(), metric.to_owned()));
        }
        builder.push(&Labels::from_pairs(pairs), false);
    }
    Arc::new(builder.build())
}

fn random_bool(state: u64) -> bool {
    state >> 40 & 3 == 0
}

fn random_matchers(random: &mut Random) -> Vec<Matcher> {
    let mut matchers = Vec::new();
    for _ in 0..random.below(4) {
        let name = match random.below(4) {
            0 => "__name__",
            1 => random.one(&OWNER_NAMES),
            2 => random.one(&SLOT_NAMES),
            _ => "nowhere",
        };
        let (op, value) = match random.below(4) {
            0 => (MatchOp::Equal, random.one(&VALUES)),
            1 => (MatchOp::NotEqual, random.one(&VALUES)),
            2 => (MatchOp::Regex, random.one(&["", "a|b", "a.*", ".+", ".*", "a|", "[a-e]", "up|m"])),
            _ => (MatchOp::NotRegex, random.one(&["", "a|b", "a.*", ".+", ".*", "a|", "up|m"])),
        };
        matchers.push(Matcher::new(name, op, value).unwrap());
    }
    matchers
}

/// Owners and their groups, as a plain list.
#[derive(Default)]
struct Plain {
    owners: AHashMap<OwnerId, (Labels, Vec<Arc<SlotGroup>>)>,
}

impl Plain {
    /// The label sets of all matching series of owners and groups that `within` lets through.
    fn series(&self, matchers: &[Matcher], within: impl Fn(OwnerId, &Arc<SlotGroup>) -> bool) -> BTreeSet<Labels> {
        let mut all = BTreeSet::new();
        for (id, (target, groups)) in &self.owners {
            for group in groups.iter().filter(|group| within(*id, group)) {
                for slot in 0..group.len() {
                    let labels = group.series_labels(slot, target);
                    if matchers.iter().all(|matcher| matcher.matches_labels(&labels)) {
                        all.insert(labels);
                    }
                }
            }
        }
        all
    }
}

fn listed(index: &LabelIndex<()>, matched: Vec<MatchedGroup>, window: usize) -> Vec<Labels> {
    let ids: BTreeSet<u32> = matched.iter().flat_map(|matched| &matched.owners).collect();
    let owners = ids.into_iter().map(|id| (id, index.owner(id).unwrap().labels.clone())).collect();
    let mut listing = SeriesListing::new(matched, owners, window);
    let mut all = Vec::new();
    while listing.step(&mut all) {}
    all
}

fn check_questions(index: &LabelIndex<()>, plain: &Plain, random: &mut Random, seed: u64) {
    let matchers = random_matchers(random);
    let mut matched = Search::all(&matchers, index);
    let mut filter = TimeFilter::default();
    let filtered = random.below(3) == 0;
    let mut covered: AHashMap<OwnerId, AHashSet<usize>> = AHashMap::new();
    if filtered {
        for (id, (_, groups)) in &plain.owners {
            match random.below(3) {
                0 => {
                    filter.set(*id, Coverage::Whole);
                    covered.insert(*id, groups.iter().map(|group| Arc::as_ptr(group).addr()).collect());
                }
                1 => {
                    let some = groups.iter().filter(|_| random.below(2) == 0);
                    let some: AHashSet<usize> = some.map(|group| Arc::as_ptr(group).addr()).collect();
                    filter.set(*id, Coverage::Groups(some.clone()));
                    covered.insert(*id, some);
                }
                _ => filter.set(*id, Coverage::Nothing),
            }
        }
        matched.retain_mut(|matched| filter.apply(matched));
    }
    let none = AHashSet::new();
    let within = |id: OwnerId, group: &Arc<SlotGroup>| {
        !filtered || covered.get(&id).unwrap_or(&none).contains(&Arc::as_ptr(group).addr())
    };
    let want = plain.series(&matchers, within);
    let about = || format!("seed {seed}: {matchers:?}");

    let count: u64 = matched.iter().map(MatchedGroup::series).sum();
    assert!(count >= want.len() as u64, "{}", about());
    let mut names = NameCollector::default();
    matched.iter().for_each(|matched| names.add(index, matched));
    let want_names: Vec<&str> = want
        .iter()
        .flat_map(|labels| labels.iter().map(|(name, _)| name))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let names = names.finish(index, usize::MAX);
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), want_names, "{}", about());

    let name = match random.below(3) {
        0 => "__name__",
        1 => random.one(&OWNER_NAMES),
        _ => random.one(&SLOT_NAMES),
    };
    let mut values = ValueCollector::new(name);
    matched.iter().for_each(|matched| values.add(index, matched));
    let (mut values, mut got) = (values.finish(), Vec::new());
    loop {
        let mut batch = Vec::new();
        let more = values.next_batch(index, 1 + random.below(3) as usize, &mut batch);
        got.append(&mut batch);
        if !more {
            break;
        }
    }
    let want_values: BTreeSet<&str> = want.iter().filter_map(|labels| labels.get(name)).collect();
    let got: Vec<&str> = got.iter().map(|value| &**value).collect();
    assert_eq!(got, want_values.into_iter().collect::<Vec<_>>(), "values of {name}, {}", about());

    let got = listed(index, matched, 1 + random.below(9) as usize);
    let mut want: Vec<Labels> = want.into_iter().collect();
    want.sort_by(|one, other| one.metric_name().cmp(other.metric_name()).then_with(|| one.cmp(other)));
    assert_eq!(got, want, "{}", about());
}

#[test]
fn questions_are_answered_as_by_a_scan_over_all_series() {
    let first = std::env::var("RINGSCRAPE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seeds {first}..{}", first + SEEDS);
    for seed in first..first + SEEDS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut index: LabelIndex<()> = LabelIndex::default();
        let mut plain = Plain::default();
        let groups: Vec<Arc<SlotGroup>> = (0..12).map(|_| random_group(&mut random)).collect();
        for _ in 0..QUESTIONS_PER_SEED {
            change(&mut index, &mut plain, &groups, &mut random);
            check_questions(&index, &plain, &mut random, seed);
        }
        for id in plain.owners.into_keys() {
            index.remove(id).unwrap();
        }
        assert!(index.groups.items.iter().flatten().next().is_none(), "seed {seed}: groups are left");
        assert!(index.metric_names.is_empty() && index.slot_labels.is_empty() && index.owner_labels.is_empty());
        assert!(index.filled_owners.is_empty() && index.group_numbers.is_empty());
    }
}

/// Adds, changes or removes an owner.
fn change(index: &mut LabelIndex<()>, plain: &mut Plain, groups: &[Arc<SlotGroup>], random: &mut Random) {
    let mut ids: Vec<OwnerId> = plain.owners.keys().copied().collect();
    ids.sort_unstable();
    let pick = |random: &mut Random| -> Vec<Arc<SlotGroup>> {
        (0..random.below(5)).map(|_| groups[random.below(groups.len() as u64) as usize].clone()).collect()
    };
    match random.below(8) {
        0..4 => {
            let labels = Labels::from_pairs(random_labels(random, &OWNER_NAMES, false));
            let id = index.add(labels.clone(), ());
            let own = pick(random);
            index.set_groups(id, &own);
            assert!(plain.owners.insert(id, (labels, own)).is_none());
        }
        4 if !ids.is_empty() => {
            let id = ids[random.below(ids.len() as u64) as usize];
            let own = pick(random);
            index.set_groups(id, &own);
            plain.owners.get_mut(&id).unwrap().1 = own;
        }
        5 if !ids.is_empty() => {
            let id = ids[random.below(ids.len() as u64) as usize];
            let more = pick(random);
            index.add_groups(id, &more);
            plain.owners.get_mut(&id).unwrap().1.extend(more);
        }
        6 if !ids.is_empty() => {
            let id = ids[random.below(ids.len() as u64) as usize];
            index.remove(id).unwrap();
            plain.owners.remove(&id);
        }
        _ => {}
    }
}

#[test]
fn numbers_are_not_used_again_while_the_index_is_pinned() {
    let mut random = Random(7);
    let group = loop {
        let group = random_group(&mut random);
        if !group.is_empty() {
            break group;
        }
    };
    let mut index: LabelIndex<&str> = LabelIndex::default();
    let first = index.add(Labels::from_pairs([("job", "a")]), "first");
    index.set_groups(first, [&group]);
    index.pin();
    assert_eq!(index.remove(first), Some("first"));
    assert_eq!(index.remove(first), None);
    let second = index.add(Labels::from_pairs([("job", "b")]), "second");
    assert_ne!(first, second);
    index.unpin();
    assert_eq!(index.add(Labels::empty(), "third"), first);
    assert_eq!((index.owner_count(), index.group_count()), (2, 0));
}

#[test]
fn selects_start_from_the_smaller_side() {
    // A thousand owners with a group of their own each, and one that all have.
    let group = |name: &str| {
        let mut builder = GroupBuilder::default();
        builder.push(&Labels::from_pairs([("__name__", name)]), false);
        Arc::new(builder.build())
    };
    let mut index: LabelIndex<()> = LabelIndex::default();
    let up = group("up");
    for i in 0..1000 {
        let id = index.add(Labels::from_pairs([("instance", format!("i{i}")), ("job", "j".to_owned())]), ());
        index.set_groups(id, [&up, &group(&format!("own_{i}"))]);
    }
    let steps = |matchers: &[(&str, MatchOp, &str)]| {
        let matchers: Vec<_> =
            matchers.iter().map(|(name, op, value)| Matcher::new(name, *op, value).unwrap()).collect();
        let mut search = Search::new(&matchers);
        let (mut steps, mut found) = (0, 0);
        while search.step(&index, &mut |matched| found += matched.series()) {
            steps += 1;
        }
        (steps, found)
    };
    for (matchers, found) in [
        (&[("instance", MatchOp::Equal, "i7")][..], 2),
        (&[("instance", MatchOp::Regex, "i7|i8")], 4),
        (&[("__name__", MatchOp::Equal, "own_5")], 1),
        (&[("__name__", MatchOp::Regex, "own_5|own_6")], 2),
        (&[("__name__", MatchOp::Equal, "up")], 1000),
        (&[("__name__", MatchOp::Equal, "up"), ("instance", MatchOp::Equal, "i9")], 1),
        (&[("job", MatchOp::Equal, "j"), ("__name__", MatchOp::Equal, "own_5")], 1),
        (&[("job", MatchOp::Equal, "none")], 0),
        (&[("nowhere", MatchOp::Equal, "x")], 0),
    ] {
        let (steps, all) = steps(matchers);
        assert_eq!(all, found, "{matchers:?}");
        assert!(steps < 20, "{matchers:?}: {steps} steps");
    }
}
