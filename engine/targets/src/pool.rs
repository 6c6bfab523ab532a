//! All targets of a job out of what its sources have found.
//!
//! Invariants:
//!   * what was built before and has not changed is not built again: a change of one address costs one relabelling and
//!     one look at each of the others
//!   * a target that is the same as before is the same `Arc`, so that its owners see at once that nothing has changed

use crate::build::{Built, build, build_with, discovered_labels};
use crate::discovery::Group;
use crate::fleet::{Division, Share};
use crate::target::{DropReason, DroppedTarget, FailedTarget, Leaving, Pool, Target};
use ahash::{HashMap, HashMapExt, HashSet};
use config::ScrapeConfig;
use series::Labels;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// What became of each discovered address of a job, kept from one list to the next. It belongs to one job's settings.
#[derive(Default)]
pub struct BuildCache {
    addresses: HashMap<(Labels, Labels), Known>,
    /// Lists so far; an outcome of an earlier one is of an address that is gone.
    list: u64,
    /// By which members were divided when the owners in `addresses` were found out.
    division: Option<Arc<Division>>,
}

/// What is known of an address.
#[derive(Default)]
struct Known {
    /// The last list that had it.
    seen: u64,
    /// `None`: it is another member's, and nobody has built it.
    outcome: Option<Outcome>,
    /// What decides on its owner.
    key: Option<Box<str>>,
    /// Whether it is ours by `BuildCache::division`.
    is_owned: Option<bool>,
}

enum Outcome {
    Target(Arc<Target>),
    /// Labels where they are to be shown.
    Dropped(Option<Labels>),
    Failed(FailedTarget),
}

impl BuildCache {
    /// Builds the pool. `before` is what the last call gave; `share` is there if others have a part of the targets.
    pub fn build_pool<'a>(
        &mut self,
        job: &Arc<ScrapeConfig>,
        groups: impl IntoIterator<Item = &'a Arc<Group>>,
        source_errors: Vec<String>,
        before: Option<&Pool>,
        share: Option<Share>,
    ) -> Pool {
        let mut pool = Pool {
            job: job.clone(),
            active: Vec::new(),
            dropped: Vec::new(),
            dropped_count: 0,
            duplicates_count: 0,
            leaving: Vec::new(),
            others_count: 0,
            failed: Vec::new(),
            source_errors,
        };
        let kept_max = if job.keep_dropped_targets == 0 { usize::MAX } else { job.keep_dropped_targets as usize };
        self.list += 1;
        let groups: Vec<&Arc<Group>> = groups.into_iter().collect();
        let owners = share.map_or_else(HashMap::new, |share| self.divide(job, &groups, share.division));
        let active_before: HashSet<_> =
            before.into_iter().flat_map(|pool| &pool.active).map(|target| target.id).collect();
        let mut found: HashMap<_, Arc<Target>> = HashMap::with_capacity(active_before.len());
        let mut addresses_count = 0;
        for group in groups {
            addresses_count += group.targets.len();
            for own in &group.targets {
                let known = self.look_up(job, own, &group.labels, pool.dropped.len() < kept_max, share, &owners);
                if known.is_owned == Some(false) && matches!(known.outcome, None | Some(Outcome::Target(_))) {
                    let Some(share) = share else { continue };
                    // What was scraped here goes on until its new owner has begun.
                    match &known.outcome {
                        Some(Outcome::Target(target))
                            if active_before.contains(&target.id) && !share.released.contains(&target.id) =>
                        {
                            let key = known.key.as_deref().unwrap_or("");
                            let to = match owners.get(key) {
                                Some(owners) => share.division.names(owners),
                                None => share.division.names(&share.division.view.owners(key)),
                            };
                            if let Entry::Vacant(place) = found.entry(target.id) {
                                place.insert(target.clone());
                                pool.leaving.push(Leaving { id: target.id, to });
                            }
                        }
                        _ => pool.others_count += 1,
                    }
                    continue;
                }
                match &known.outcome {
                    // Two discoveries of one target are one target.
                    Some(Outcome::Target(target)) => match found.entry(target.id) {
                        Entry::Vacant(place) => drop(place.insert(target.clone())),
                        Entry::Occupied(_) => {
                            pool.duplicates_count += 1;
                            if pool.dropped.len() < kept_max {
                                let discovered = target.discovered.clone();
                                pool.dropped.push(DroppedTarget { discovered, reason: DropReason::Duplicate });
                            }
                        }
                    },
                    Some(Outcome::Dropped(discovered)) => {
                        pool.dropped_count += 1;
                        if let Some(discovered) = discovered.as_ref().filter(|_| pool.dropped.len() < kept_max) {
                            let discovered = discovered.clone();
                            pool.dropped.push(DroppedTarget { discovered, reason: DropReason::Relabelling });
                        }
                    }
                    Some(Outcome::Failed(failed)) => pool.failed.push(failed.clone()),
                    None => {}
                }
            }
        }
        if self.addresses.len() > addresses_count {
            let list = self.list;
            self.addresses.retain(|_, known| known.seen == list);
        }
        if job.target_limit > 0 && found.len() as u64 > job.target_limit {
            let (count, limit) = (found.len(), job.target_limit);
            let error: Arc<str> = format!("target_limit exceeded (number of targets: {count}, limit: {limit})").into();
            let known: HashMap<_, _> =
                before.into_iter().flat_map(|pool| &pool.active).map(|target| (target.id, target)).collect();
            for target in found.values_mut() {
                let failed = Target { forced_error: Some(error.clone()), ..(**target).clone() };
                *target = match known.get(&failed.id) {
                    Some(old) if same(old, &failed) => (*old).clone(),
                    _ => Arc::new(failed),
                };
            }
        }
        pool.active = merge(before.map_or(&[][..], |pool| &pool.active), found);
        pool
    }

    /// Owners of all targets by their keys, where those depend on each other; empty where each can be looked at alone.
    fn divide(
        &mut self,
        job: &Arc<ScrapeConfig>,
        groups: &[&Arc<Group>],
        division: &Arc<Division>,
    ) -> HashMap<Box<str>, Vec<usize>> {
        if self.division.as_ref() != Some(division) {
            let has_other_keys = self.division.as_ref().is_some_and(|old| old.hash_labels != division.hash_labels);
            for known in self.addresses.values_mut() {
                known.is_owned = None;
                if has_other_keys {
                    known.key = None;
                }
            }
            self.division = Some(division.clone());
        }
        if !division.view.is_bounded() {
            return HashMap::new();
        }
        let is_before = division.is_known_before(job);
        let mut keys: Vec<Box<str>> = Vec::new();
        for group in groups {
            for own in &group.targets {
                let known = self.addresses.entry((own.clone(), group.labels.clone())).or_default();
                known.is_owned = None;
                known.find_key(job, own, &group.labels, division, is_before);
                keys.extend(known.key.clone());
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let owners = division.view.divide(&keys);
        keys.into_iter().zip(owners).collect()
    }

    /// What becomes of an address: known from the last list, or found out now.
    fn look_up(
        &mut self,
        job: &Arc<ScrapeConfig>,
        own: &Labels,
        shared: &Labels,
        with_labels: bool,
        share: Option<Share>,
        owners: &HashMap<Box<str>, Vec<usize>>,
    ) -> &Known {
        let known = self.addresses.entry((own.clone(), shared.clone())).or_default();
        known.seen = self.list;
        match share {
            None => known.is_owned = None,
            Some(_) if known.is_owned.is_some() => {}
            Some(Share { division, .. }) => {
                known.find_key(job, own, shared, division, division.is_known_before(job));
                known.is_owned = known.key.as_ref().map(|key| match owners.get(key) {
                    Some(owners) => division.me.is_some_and(|me| owners.contains(&me)),
                    None => division.owns(key),
                });
            }
        }
        let is_wanted = known.is_owned != Some(false);
        let is_hidden = with_labels && matches!(known.outcome, Some(Outcome::Dropped(None)));
        if is_wanted && (known.outcome.is_none() || is_hidden) {
            known.outcome = Some(look(job, own, shared, with_labels));
        }
        known
    }
}

impl Known {
    /// Finds out what decides on the owner. An address that relabelling drops or that cannot be scraped has no owner.
    fn find_key(
        &mut self,
        job: &Arc<ScrapeConfig>,
        own: &Labels,
        shared: &Labels,
        division: &Division,
        is_before: bool,
    ) {
        if self.key.is_some() {
            return;
        }
        if is_before {
            let key = division.key_of_found(own, shared).unwrap_or_else(|| {
                let discovered = discovered_labels(job, own, shared);
                division.key(|name| discovered.get(name).unwrap_or(""))
            });
            self.key = Some(key.into());
        } else if self.outcome.is_none() || matches!(self.outcome, Some(Outcome::Target(_))) {
            let mut key = None;
            let built = build_with(job, own, shared, |labels| key = Some(division.key(|name| labels.get(name)).into()));
            match (&self.outcome, outcome(built, false)) {
                (None, Outcome::Target(target)) => (self.outcome, self.key) = (Some(Outcome::Target(target)), key),
                (None, other) => self.outcome = Some(other),
                (Some(_), _) => self.key = key,
            }
        }
    }
}

fn look(job: &Arc<ScrapeConfig>, own: &Labels, shared: &Labels, with_labels: bool) -> Outcome {
    outcome(build(job, own, shared), with_labels)
}

fn outcome(built: Built, with_labels: bool) -> Outcome {
    match built {
        Built::Target(target) => Outcome::Target(Arc::new(target)),
        Built::Dropped { discovered } => Outcome::Dropped(with_labels.then_some(discovered)),
        Built::Failed { discovered, error } => Outcome::Failed(FailedTarget { discovered, error }),
    }
}

/// What was found, in order. What was there before is in order already.
fn merge(before: &[Arc<Target>], mut found: HashMap<crate::TargetId, Arc<Target>>) -> Vec<Arc<Target>> {
    let mut all = Vec::with_capacity(found.len());
    for old in before {
        if let Entry::Occupied(entry) = found.entry(old.id)
            && Arc::ptr_eq(entry.get(), old)
        {
            all.push(entry.remove());
        }
    }
    if !found.is_empty() {
        let mut fresh: Vec<Arc<Target>> = found.into_values().collect();
        fresh.sort_by(|one, other| in_order(one, other));
        all.append(&mut fresh);
        // Two sorted runs: the stable sort merges them.
        all.sort_by(|one, other| in_order(one, other));
    }
    all
}

/// The order of targets in a pool.
pub fn in_order(one: &Target, other: &Target) -> std::cmp::Ordering {
    one.labels.cmp(&other.labels).then(one.id.cmp(&other.id))
}

/// Whether nothing about a target has changed. Equal jobs are the same job: the manager sees to that.
fn same(one: &Target, other: &Target) -> bool {
    Arc::ptr_eq(&one.job, &other.job)
        && (&one.labels, &one.discovered, &one.url) == (&other.labels, &other.discovered, &other.url)
        && (one.interval, one.timeout, &one.forced_error) == (other.interval, other.timeout, &other.forced_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_job;

    fn group(addresses: &[&str]) -> Arc<Group> {
        let target = |address: &&str| Labels::from_pairs([("__address__", *address)]);
        Arc::new(Group { targets: addresses.iter().map(target).collect(), labels: Labels::empty() })
    }

    fn pool(job: &Arc<ScrapeConfig>, groups: &[Arc<Group>]) -> Pool {
        BuildCache::default().build_pool(job, groups, vec![], None, None)
    }

    fn instances(pool: &Pool) -> Vec<&str> {
        pool.active.iter().map(|target| target.labels.get("instance").unwrap()).collect()
    }

    #[test]
    fn duplicates_drops_and_failures_are_told_apart() {
        let rules =
            "relabel_configs: [{source_labels: [__address__], regex: 'd.*', action: drop}]\nkeep_dropped_targets: 2";
        let pool = pool(&test_job("j", rules), &[group(&["b:1", "a:1", "b:1"]), group(&["d:1", "d:2", "x/y"])]);
        assert_eq!(instances(&pool), ["a:1", "b:1"]);
        let reasons: Vec<_> = pool.dropped.iter().map(|dropped| dropped.reason).collect();
        assert_eq!(reasons, [DropReason::Duplicate, DropReason::Relabelling]);
        assert_eq!((pool.dropped_count, pool.duplicates_count), (2, 1));
        assert_eq!(pool.failed.len(), 1);
    }

    #[test]
    fn too_many_targets_all_fail() {
        let job = test_job("j", "target_limit: 1");
        let mut cache = BuildCache::default();
        let few = cache.build_pool(&job, &[group(&["a:1", "a:1"])], vec![], None, None);
        assert_eq!(few.active[0].forced_error, None, "counted after duplicates are gone");
        let many = cache.build_pool(&job, &[group(&["a:1", "b:1"])], vec![], Some(&few), None);
        for target in &many.active {
            assert_eq!(target.forced_error.as_deref(), Some("target_limit exceeded (number of targets: 2, limit: 1)"));
        }
        let again = cache.build_pool(&job, &[group(&["b:1", "a:1"])], vec![], Some(&many), None);
        assert!(many.active.iter().zip(&again.active).all(|(one, other)| Arc::ptr_eq(one, other)));
        let few = cache.build_pool(&job, &[group(&["b:1"])], vec![], Some(&again), None);
        assert_eq!((instances(&few), few.active[0].forced_error.clone()), (vec!["b:1"], None));
    }

    #[test]
    fn unchanged_targets_stay_the_same_object() {
        let job = test_job("j", "");
        let mut cache = BuildCache::default();
        let before = cache.build_pool(&job, &[group(&["c:1", "b:1"])], vec![], None, None);
        let after = cache.build_pool(&job, &[group(&["d:1", "c:1", "a:1"])], vec![], Some(&before), None);
        assert_eq!(instances(&after), ["a:1", "c:1", "d:1"]);
        assert!(Arc::ptr_eq(&before.active[1], &after.active[1]));
        assert_eq!(cache.addresses.len(), 3, "what is gone is forgotten");
    }

    #[test]
    fn a_changed_meta_label_replaces_the_target() {
        let job = test_job("j", "");
        let mut cache = BuildCache::default();
        let with = |rack: &str| {
            let target = Labels::from_pairs([("__address__", "a:1"), ("__meta_rack", rack)]);
            Arc::new(Group { targets: vec![target], labels: Labels::empty() })
        };
        let before = cache.build_pool(&job, &[with("1")], vec![], None, None);
        let after = cache.build_pool(&job, &[with("2")], vec![], Some(&before), None);
        assert_eq!(before.active[0].id, after.active[0].id);
        assert_eq!(after.active[0].discovered.get("__meta_rack"), Some("2"));
    }

    #[test]
    fn dropped_labels_are_found_again_when_there_is_place() {
        let rules =
            "relabel_configs: [{regex: 'd.*', source_labels: [__address__], action: drop}]\nkeep_dropped_targets: 1";
        let job = test_job("j", rules);
        let mut cache = BuildCache::default();
        let before = cache.build_pool(&job, &[group(&["d:1", "d:2"])], vec![], None, None);
        let after = cache.build_pool(&job, &[group(&["d:2"])], vec![], Some(&before), None);
        assert_eq!(after.dropped[0].discovered.get("__address__"), Some("d:2"));
    }

    fn division(members: &[&str], me: &str, hash_labels: &[&str], load_max: Option<f64>) -> Arc<Division> {
        let rules = fleet::Rules { load_max, ..fleet::Rules::default() };
        let (view, _) = fleet::View::new(members.iter().map(|name| fleet::Member::named(name)).collect(), rules);
        let me = view.index_of(me);
        Arc::new(Division { view, me, hash_labels: hash_labels.iter().map(|name| (*name).to_owned()).collect() })
    }

    /// Every member's pool, each built on its own.
    fn pools(job: &Arc<ScrapeConfig>, hash_labels: &[&str], load_max: Option<f64>) -> Vec<Pool> {
        let addresses: Vec<String> = (0..300).map(|i| format!("host{i}:9100")).collect();
        let groups = [group(&addresses.iter().map(String::as_str).collect::<Vec<_>>())];
        let members = ["a", "b", "c"];
        let pool = |me: &&str| {
            let division = division(&members, me, hash_labels, load_max);
            let share = Share { division: &division, released: &Default::default() };
            BuildCache::default().build_pool(job, &groups, vec![], None, Some(share))
        };
        members.iter().map(pool).collect()
    }

    #[test]
    fn members_have_every_target_once() {
        let renamed = "relabel_configs: [{source_labels: [__address__], regex: '(.*):.*', target_label: host}]";
        let rewritten = "relabel_configs: [{source_labels: [__address__], regex: '(.*):.*', target_label: __address__, replacement: '$1:1'}]";
        for (settings, hash_labels, before) in [
            ("", "__address__", true),
            (renamed, "__address__", true),
            (renamed, "host", false),
            (rewritten, "__address__", false),
        ] {
            for load_max in [None, Some(1.1)] {
                let job = test_job("j", settings);
                let division = division(&["a"], "a", &[hash_labels], None);
                assert_eq!(division.is_known_before(&job), before, "{settings} {hash_labels}");
                let pools = pools(&job, &[hash_labels], load_max);
                let mut all: Vec<_> =
                    pools.iter().flat_map(|pool| pool.active.iter().map(|target| target.id)).collect();
                all.sort_unstable();
                all.dedup();
                let counts: Vec<usize> = pools.iter().map(|pool| pool.active.len()).collect();
                assert_eq!(
                    (all.len(), counts.iter().sum::<usize>()),
                    (300, 300),
                    "{settings} {hash_labels} {counts:?}"
                );
                assert!(pools.iter().all(|pool| pool.active.len() + pool.others_count == 300));
                let most = load_max.map_or(130, |load_max| (load_max * 100.0_f64).ceil() as usize);
                assert!(counts.iter().all(|count| *count <= most), "{counts:?}");
            }
        }
    }

    #[test]
    fn a_moved_target_stays_until_it_is_released() {
        let job = test_job("j", "");
        let mut cache = BuildCache::default();
        let addresses: Vec<String> = (0..100).map(|i| format!("host{i}:9100")).collect();
        let groups = [group(&addresses.iter().map(String::as_str).collect::<Vec<_>>())];
        let mut released = std::collections::HashSet::new();
        let two = division(&["a", "b"], "a", &["__address__"], None);
        let share = Share { division: &two, released: &released };
        let before = cache.build_pool(&job, &groups, vec![], None, Some(share));
        assert_eq!((before.leaving.len(), before.active.len() + before.others_count), (0, 100));
        let three = division(&["a", "b", "c"], "a", &["__address__"], None);
        let share = Share { division: &three, released: &released };
        let after = cache.build_pool(&job, &groups, vec![], Some(&before), Some(share));
        assert!(!after.leaving.is_empty() && after.leaving.iter().all(|leaving| leaving.to == ["c"]));
        assert_eq!(after.active.len(), before.active.len());
        released.insert(after.leaving[0].id);
        let share = Share { division: &three, released: &released };
        let later = cache.build_pool(&job, &groups, vec![], Some(&after), Some(share));
        assert_eq!((later.leaving.len(), later.active.len()), (after.leaving.len() - 1, after.active.len() - 1));
        let gone = division(&["b", "c"], "a", &["__address__"], None);
        let share = Share { division: &gone, released: &Default::default() };
        let last = cache.build_pool(&job, &groups, vec![], Some(&later), Some(share));
        assert_eq!(last.leaving.len(), last.active.len(), "who is not in the list hands everything over");
    }
}
