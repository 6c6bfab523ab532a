//! Builds all targets of a job from the lists of its sources.
//!
//! Invariants:
//!   * an unchanged address is not built again: a change of one address costs one relabelling, and a pass over the others
//!     without hashing labels
//!   * an unchanged target is the same `Arc`, so that a comparison of pointers suffices

use crate::build::{TargetBuild, build, build_with, discovered_labels};
use crate::discovery::{Group, List};
use crate::partition::{FleetPartition, PartitionView};
use crate::target::{DropReason, DroppedTarget, FailedTarget, Leaving, OtherTarget, Pool, Target, TargetId};
use ahash::{HashMap, HashMapExt, HashSet};
use config::ScrapeConfig;
use series::Labels;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Largest number of addresses of other members that a pool lists; all are counted. `keep_dropped_targets` may lower it.
const OTHERS_LISTED_MAX: usize = 1000;

/// The result for each discovered address of a job, kept from one list to the next. It is valid for the settings of one job.
#[derive(Default)]
pub struct BuildCache {
    /// The lists of the last build.
    lists: Vec<List>,
    /// The state of each of their addresses, in order.
    known: Vec<AddressState>,
    /// The partition for which the owners in `known` were computed.
    division: Option<Arc<FleetPartition>>,
}

/// State of a discovered address.
#[derive(Clone, Default)]
struct AddressState {
    /// `None`: another member owns it, and it was not built.
    outcome: Option<Outcome>,
    /// The hash key that decides about its owner.
    key: Option<Box<str>>,
    /// Whether this member owns it by `BuildCache::division`.
    is_owned: Option<bool>,
    /// Labels before relabelling, if it became no target and they are to be shown.
    discovered: Option<Labels>,
}

#[derive(Clone)]
enum Outcome {
    Target(Arc<Target>),
    Dropped,
    Failed(Box<FailedTarget>),
}

/// An address: its own labels and those of its group.
type Address<'a> = (&'a Labels, &'a Labels);

fn addresses<'a>(groups: &[&'a Arc<Group>]) -> impl Iterator<Item = Address<'a>> {
    groups.iter().flat_map(|group| group.targets.iter().map(|own| (own, &group.labels)))
}

fn groups_of(lists: &[List]) -> Vec<&Arc<Group>> {
    lists.iter().flat_map(|list| list.iter()).collect()
}

/// Returns the length of the common prefix.
fn common<T>(one: impl Iterator<Item = T>, other: impl Iterator<Item = T>, same: impl Fn(&T, &T) -> bool) -> usize {
    one.zip(other).take_while(|(one, other)| same(one, other)).count()
}

impl BuildCache {
    /// Builds the pool. `before` is the result of the last call, or the pool of the job under other settings. `share` is set if
    /// the job's targets are divided among members.
    pub fn build_pool(
        &mut self,
        job: &Arc<ScrapeConfig>,
        lists: Vec<List>,
        source_errors: Vec<String>,
        before: Option<&Pool>,
        share: Option<PartitionView>,
    ) -> Pool {
        self.take_over(lists);
        let lists = std::mem::take(&mut self.lists);
        let groups = groups_of(&lists);
        let pool = self.build(job, &groups, source_errors, before, share);
        self.lists = lists;
        pool
    }

    /// Updates the state for these lists. The common prefix and suffix with the last lists stay where they are;
    /// addresses between them are looked up by their labels.
    fn take_over(&mut self, lists: Vec<List>) {
        let old_lists = std::mem::replace(&mut self.lists, lists);
        let (old, new) = (groups_of(&old_lists), groups_of(&self.lists));
        let count = |groups: &[&Arc<Group>]| groups.iter().map(|group| group.targets.len()).sum::<usize>();
        let same_group = |one: &&&Arc<Group>, other: &&&Arc<Group>| Arc::ptr_eq(one, other);
        let head = common(old.iter(), new.iter(), same_group);
        let (same, old, new) = (&new[..head], &old[head..], &new[head..]);
        let tail = common(old.iter().rev(), new.iter().rev(), same_group);
        let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
        if old.is_empty() && new.is_empty() {
            return;
        }
        let from = count(same);
        let to = from + count(old);
        // Groups that differ may differ in few addresses.
        let (old, new): (Vec<Address>, Vec<Address>) = (addresses(old).collect(), addresses(new).collect());
        let same_address = |one: &&Address, other: &&Address| one == other;
        let head = common(old.iter(), new.iter(), same_address);
        let (old, new) = (&old[head..], &new[head..]);
        let tail = common(old.iter().rev(), new.iter().rev(), same_address);
        let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
        let changed = from + head..to - tail;
        let known = self.known[changed.clone()].iter_mut().map(std::mem::take);
        let known: HashMap<Address, AddressState> = old.iter().copied().zip(known).collect();
        let taken = new.iter().map(|address| known.get(address).cloned().unwrap_or_default());
        drop(self.known.splice(changed, taken));
    }

    fn build(
        &mut self,
        job: &Arc<ScrapeConfig>,
        groups: &[&Arc<Group>],
        source_errors: Vec<String>,
        before: Option<&Pool>,
        share: Option<PartitionView>,
    ) -> Pool {
        let mut pool = Pool { discovered_count: self.known.len(), source_errors, ..Pool::empty(job) };
        let kept_max = if job.keep_dropped_targets == 0 { usize::MAX } else { job.keep_dropped_targets as usize };
        let others_max = kept_max.min(OTHERS_LISTED_MAX);
        let owners = share.map_or_else(HashMap::new, |share| self.divide(job, groups, share.division));
        // Only a handover removes targets that are still in the lists.
        let active_before: HashSet<TargetId> =
            before.filter(|_| share.is_some()).into_iter().flat_map(|pool| &pool.active).map(|old| old.id).collect();
        // A target in a handover is identified by its id, which is computed anew under new settings.
        let seeks_leaving = before.is_some_and(|old| !old.leaving.is_empty() && !Arc::ptr_eq(&old.job, job));
        let mut found: HashMap<TargetId, usize> = HashMap::with_capacity(self.known.len());
        for (index, (known, (own, shared))) in self.known.iter_mut().zip(addresses(groups)).enumerate() {
            match share {
                None => known.is_owned = None,
                Some(share) => known.find_owner(job, own, shared, share.division, &owners),
            }
            let is_others = known.is_owned == Some(false);
            if known.outcome.is_none() && (!is_others || seeks_leaving) {
                known.outcome = Some(outcome(build(job, own, shared), &mut known.discovered));
            }
            if is_others && matches!(known.outcome, None | Some(Outcome::Target(_))) {
                let Some(share) = share else { continue };
                let owner_names = || {
                    let key = known.key.as_deref().unwrap_or("");
                    match owners.get(key) {
                        Some(owners) => share.division.names(owners),
                        None => share.division.names(&share.division.view.owners(key)),
                    }
                };
                match &known.outcome {
                    // A target that was scraped here stays until its new owner has scraped it.
                    Some(Outcome::Target(target))
                        if active_before.contains(&target.id) && !share.released.contains(&target.id) =>
                    {
                        if let Entry::Vacant(place) = found.entry(target.id) {
                            place.insert(index);
                            pool.leaving.push(Leaving { id: target.id, to: owner_names() });
                        }
                    }
                    outcome => {
                        pool.others_count += 1;
                        if pool.others.len() < others_max {
                            let owners = owner_names();
                            let discovered = match outcome {
                                Some(Outcome::Target(target)) => target.discovered.clone(),
                                _ => {
                                    let find = || discovered_labels(job, own, shared);
                                    known.discovered.get_or_insert_with(find).clone()
                                }
                            };
                            pool.others.push(OtherTarget { discovered, owners });
                        }
                    }
                }
                continue;
            }
            match &known.outcome {
                // A target that was discovered twice is one target.
                Some(Outcome::Target(target)) => match found.entry(target.id) {
                    Entry::Vacant(place) => drop(place.insert(index)),
                    Entry::Occupied(_) => {
                        pool.duplicates_count += 1;
                        if pool.dropped.len() < kept_max {
                            let discovered = target.discovered.clone();
                            pool.dropped.push(DroppedTarget { discovered, reason: DropReason::Duplicate });
                        }
                    }
                },
                Some(Outcome::Dropped) => {
                    pool.dropped_count += 1;
                    if pool.dropped.len() < kept_max {
                        let find = || discovered_labels(job, own, shared);
                        let discovered = known.discovered.get_or_insert_with(find).clone();
                        pool.dropped.push(DroppedTarget { discovered, reason: DropReason::Relabelling });
                    } else {
                        known.discovered = None;
                    }
                }
                Some(Outcome::Failed(failed)) => pool.failed.push((**failed).clone()),
                None => {}
            }
        }
        let before = before.map_or(&[][..], |pool| &pool.active);
        pool.active = if job.target_limit > 0 && found.len() as u64 > job.target_limit {
            self.refused(job, &found, before)
        } else {
            self.merged(found, before)
        };
        pool
    }

    fn target(&self, index: usize) -> &Arc<Target> {
        match &self.known[index].outcome {
            Some(Outcome::Target(target)) => target,
            _ => unreachable!("only addresses of targets are found"),
        }
    }

    /// Returns all targets of a job that exceeds its limit, in order, each with the reason why it is not scraped.
    fn refused(
        &self,
        job: &ScrapeConfig,
        found: &HashMap<TargetId, usize>,
        before: &[Arc<Target>],
    ) -> Vec<Arc<Target>> {
        let (count, limit) = (found.len(), job.target_limit);
        let error: Arc<str> = format!("target_limit exceeded (number of targets: {count}, limit: {limit})").into();
        let known: HashMap<_, _> = before.iter().map(|target| (target.id, target)).collect();
        let refuse = |index: &usize| {
            let failed = Target { forced_error: Some(error.clone()), ..(**self.target(*index)).clone() };
            match known.get(&failed.id) {
                Some(old) if same(old, &failed) => (*old).clone(),
                _ => Arc::new(failed),
            }
        };
        let mut all: Vec<Arc<Target>> = found.values().map(refuse).collect();
        all.sort_by(|one, other| in_order(one, other));
        all
    }

    /// Sorts the targets. Those of the last build are sorted already.
    fn merged(&self, mut found: HashMap<TargetId, usize>, before: &[Arc<Target>]) -> Vec<Arc<Target>> {
        let mut stay = Vec::with_capacity(found.len());
        for old in before {
            if let Entry::Occupied(entry) = found.entry(old.id)
                && Arc::ptr_eq(self.target(*entry.get()), old)
            {
                entry.remove();
                stay.push(old.clone());
            }
        }
        if found.is_empty() {
            return stay;
        }
        // In the order of the lists, which is often a meaningful one.
        let mut fresh: Vec<usize> = found.into_values().collect();
        fresh.sort_unstable();
        let mut fresh: Vec<&Arc<Target>> = fresh.into_iter().map(|index| self.target(index)).collect();
        fresh.sort_by(|one, other| in_order(one, other));
        let mut all = Vec::with_capacity(stay.len() + fresh.len());
        let mut stay = stay.into_iter();
        for target in fresh {
            let smaller = stay.as_slice().partition_point(|old| in_order(old, target).is_lt());
            all.extend(stay.by_ref().take(smaller));
            all.push(target.clone());
        }
        all.extend(stay);
        all
    }

    /// Returns the owners of all targets by their keys if they depend on each other (bounded load), else an empty map.
    fn divide(
        &mut self,
        job: &Arc<ScrapeConfig>,
        groups: &[&Arc<Group>],
        division: &Arc<FleetPartition>,
    ) -> HashMap<Box<str>, Vec<usize>> {
        if self.division.as_ref() != Some(division) {
            let has_other_keys = self.division.as_ref().is_some_and(|old| old.hash_labels != division.hash_labels);
            for known in &mut self.known {
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
        let mut keys: Vec<Box<str>> = Vec::new();
        for (known, (own, shared)) in self.known.iter_mut().zip(addresses(groups)) {
            known.is_owned = None;
            known.find_key(job, own, shared, division);
            keys.extend(known.key.clone());
        }
        keys.sort_unstable();
        keys.dedup();
        let owners = division.view.divide(&keys);
        keys.into_iter().zip(owners).collect()
    }
}

impl AddressState {
    /// Computes whether this member owns the address.
    fn find_owner(
        &mut self,
        job: &Arc<ScrapeConfig>,
        own: &Labels,
        shared: &Labels,
        division: &FleetPartition,
        owners: &HashMap<Box<str>, Vec<usize>>,
    ) {
        if self.is_owned.is_none() {
            self.find_key(job, own, shared, division);
            self.is_owned = self.key.as_ref().map(|key| match owners.get(key) {
                Some(owners) => division.me.is_some_and(|me| owners.contains(&me)),
                None => division.owns(key),
            });
        }
    }

    /// Computes the hash key. An address that relabelling drops or that cannot be scraped has no owner.
    fn find_key(&mut self, job: &Arc<ScrapeConfig>, own: &Labels, shared: &Labels, division: &FleetPartition) {
        if self.key.is_some() {
            return;
        }
        if division.is_known_before(job) {
            let key = division.key_of_found(own, shared).unwrap_or_else(|| {
                let discovered = discovered_labels(job, own, shared);
                division.key(|name| discovered.get(name).unwrap_or(""))
            });
            self.key = Some(key.into());
        } else if self.outcome.is_none() || matches!(self.outcome, Some(Outcome::Target(_))) {
            let mut key = None;
            let built = build_with(job, own, shared, |labels| key = Some(division.key(|name| labels.get(name)).into()));
            match (&self.outcome, outcome(built, &mut self.discovered)) {
                (None, Outcome::Target(target)) => (self.outcome, self.key) = (Some(Outcome::Target(target)), key),
                (None, other) => self.outcome = Some(other),
                (Some(_), _) => self.key = key,
            }
        }
    }
}

fn outcome(built: TargetBuild, discovered_to: &mut Option<Labels>) -> Outcome {
    match built {
        TargetBuild::Target(target) => Outcome::Target(Arc::new(target)),
        TargetBuild::Dropped { discovered } => {
            *discovered_to = Some(discovered);
            Outcome::Dropped
        }
        TargetBuild::Failed { discovered, error } => Outcome::Failed(Box::new(FailedTarget { discovered, error })),
    }
}

/// Compares targets by their order in a pool.
pub fn in_order(one: &Target, other: &Target) -> std::cmp::Ordering {
    one.labels.cmp(&other.labels).then(one.id.cmp(&other.id))
}

/// Returns whether a target is unchanged. Jobs are compared by pointer: the manager keeps the `Arc` of equal jobs.
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

    fn lists(groups: &[Arc<Group>]) -> Vec<List> {
        vec![Arc::new(groups.to_vec())]
    }

    fn pool(job: &Arc<ScrapeConfig>, groups: &[Arc<Group>]) -> Pool {
        BuildCache::default().build_pool(job, lists(groups), vec![], None, None)
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
        let few = cache.build_pool(&job, lists(&[group(&["a:1", "a:1"])]), vec![], None, None);
        assert_eq!(few.active[0].forced_error, None, "counted after duplicates are gone");
        let many = cache.build_pool(&job, lists(&[group(&["a:1", "b:1"])]), vec![], Some(&few), None);
        for target in &many.active {
            assert_eq!(target.forced_error.as_deref(), Some("target_limit exceeded (number of targets: 2, limit: 1)"));
        }
        let again = cache.build_pool(&job, lists(&[group(&["b:1", "a:1"])]), vec![], Some(&many), None);
        assert!(many.active.iter().zip(&again.active).all(|(one, other)| Arc::ptr_eq(one, other)));
        let few = cache.build_pool(&job, lists(&[group(&["b:1"])]), vec![], Some(&again), None);
        assert_eq!((instances(&few), few.active[0].forced_error.clone()), (vec!["b:1"], None));
    }

    #[test]
    fn unchanged_targets_stay_the_same_object() {
        let job = test_job("j", "");
        let mut cache = BuildCache::default();
        let before = cache.build_pool(&job, lists(&[group(&["c:1", "b:1"])]), vec![], None, None);
        let after = cache.build_pool(&job, lists(&[group(&["d:1", "c:1", "a:1"])]), vec![], Some(&before), None);
        assert_eq!(instances(&after), ["a:1", "c:1", "d:1"]);
        assert!(Arc::ptr_eq(&before.active[1], &after.active[1]));
        assert_eq!(cache.known.len(), 3, "what is gone is forgotten");
    }

    #[test]
    fn a_changed_meta_label_replaces_the_target() {
        let job = test_job("j", "");
        let mut cache = BuildCache::default();
        let with = |rack: &str| {
            let target = Labels::from_pairs([("__address__", "a:1"), ("__meta_rack", rack)]);
            Arc::new(Group { targets: vec![target], labels: Labels::empty() })
        };
        let before = cache.build_pool(&job, lists(&[with("1")]), vec![], None, None);
        let after = cache.build_pool(&job, lists(&[with("2")]), vec![], Some(&before), None);
        assert_eq!(before.active[0].id, after.active[0].id);
        assert_eq!(after.active[0].discovered.get("__meta_rack"), Some("2"));
    }

    #[test]
    fn dropped_labels_are_found_again_when_there_is_place() {
        let rules =
            "relabel_configs: [{regex: 'd.*', source_labels: [__address__], action: drop}]\nkeep_dropped_targets: 1";
        let job = test_job("j", rules);
        let mut cache = BuildCache::default();
        let before = cache.build_pool(&job, lists(&[group(&["d:1", "d:2"])]), vec![], None, None);
        let after = cache.build_pool(&job, lists(&[group(&["d:2"])]), vec![], Some(&before), None);
        assert_eq!(after.dropped[0].discovered.get("__address__"), Some("d:2"));
    }

    fn division(members: &[&str], me: &str, hash_labels: &[&str], load_max: Option<f64>) -> Arc<FleetPartition> {
        let rules = fleet::Rules { load_max, ..fleet::Rules::default() };
        let (view, _) = fleet::View::new(members.iter().map(|name| fleet::Member::named(name)).collect(), rules);
        let me = view.index_of(me);
        Arc::new(FleetPartition { view, me, hash_labels: hash_labels.iter().map(|name| (*name).to_owned()).collect() })
    }

    /// Returns the pool of every member, each built independently.
    fn pools(job: &Arc<ScrapeConfig>, hash_labels: &[&str], load_max: Option<f64>) -> Vec<Pool> {
        let addresses: Vec<String> = (0..300).map(|i| format!("host{i}:9100")).collect();
        let groups = [group(&addresses.iter().map(String::as_str).collect::<Vec<_>>())];
        let members = ["a", "b", "c"];
        let pool = |me: &&str| {
            let division = division(&members, me, hash_labels, load_max);
            let share = PartitionView { division: &division, released: &Default::default() };
            BuildCache::default().build_pool(job, lists(&groups), vec![], None, Some(share))
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
        let share = PartitionView { division: &two, released: &released };
        let before = cache.build_pool(&job, lists(&groups), vec![], None, Some(share));
        assert_eq!((before.leaving.len(), before.active.len() + before.others_count), (0, 100));
        let three = division(&["a", "b", "c"], "a", &["__address__"], None);
        let share = PartitionView { division: &three, released: &released };
        let after = cache.build_pool(&job, lists(&groups), vec![], Some(&before), Some(share));
        assert!(!after.leaving.is_empty() && after.leaving.iter().all(|leaving| leaving.to == ["c"]));
        assert_eq!(after.active.len(), before.active.len());
        released.insert(after.leaving[0].id);
        let share = PartitionView { division: &three, released: &released };
        let later = cache.build_pool(&job, lists(&groups), vec![], Some(&after), Some(share));
        assert_eq!((later.leaving.len(), later.active.len()), (after.leaving.len() - 1, after.active.len() - 1));
        let gone = division(&["b", "c"], "a", &["__address__"], None);
        let share = PartitionView { division: &gone, released: &Default::default() };
        let last = cache.build_pool(&job, lists(&groups), vec![], Some(&later), Some(share));
        assert_eq!(last.leaving.len(), last.active.len(), "who is not in the list hands everything over");
    }

    #[test]
    fn what_is_on_its_way_stays_so_under_new_settings() {
        let addresses: Vec<String> = (0..100).map(|i| format!("host{i}:9100")).collect();
        let groups = [group(&addresses.iter().map(String::as_str).collect::<Vec<_>>())];
        let none = Default::default();
        let share_of = |division| PartitionView { division, released: &none };
        let (two, three) = (&["a", "b"][..], &["a", "b", "c"][..]);
        let [two, three] = [two, three].map(|members| division(members, "a", &["__address__"], None));
        let mut cache = BuildCache::default();
        let job = test_job("j", "");
        let before = cache.build_pool(&job, lists(&groups), vec![], None, Some(share_of(&two)));
        let after = cache.build_pool(&job, lists(&groups), vec![], Some(&before), Some(share_of(&three)));
        let limited = test_job("j", "sample_limit: 5");
        let mut cache = BuildCache::default();
        let later = cache.build_pool(&limited, lists(&groups), vec![], Some(&after), Some(share_of(&three)));
        assert!(!after.leaving.is_empty());
        assert_eq!(later.leaving, after.leaving);
        assert_eq!((later.active.len(), later.others_count), (after.active.len(), after.others_count));
        assert!(later.active.iter().all(|target| Arc::ptr_eq(&target.job, &limited)));
    }

    #[test]
    fn others_are_listed_with_their_owners_up_to_a_bound() {
        let addresses: Vec<String> = (0..3000).map(|i| format!("host{i}:9100")).collect();
        let groups = [group(&addresses.iter().map(String::as_str).collect::<Vec<_>>())];
        let dropping = "relabel_configs: [{source_labels: [__address__], target_label: __address__}]";
        for (settings, want) in [("", 1000), (dropping, 1000), ("keep_dropped_targets: 7", 7)] {
            let job = test_job("j", settings);
            let division = division(&["a", "b", "c"], "a", &["__address__"], None);
            let share = PartitionView { division: &division, released: &Default::default() };
            let pool = BuildCache::default().build_pool(&job, lists(&groups), vec![], None, Some(share));
            assert_eq!(pool.active.len() + pool.others_count, 3000);
            assert_eq!(pool.others.len(), want, "{settings}");
            for other in &pool.others {
                let address = other.discovered.get("__address__").unwrap();
                assert_eq!(other.owners, division.names(&division.view.owners(&division.key(|_| address))));
                assert_eq!(other.discovered.get("job"), Some("j"));
            }
        }
    }

    /// After any additions, removals, changes and moves, the pool depends on the list alone, and unchanged targets are kept.
    #[test]
    fn any_change_of_a_list_gives_the_pool_of_the_list() {
        let rules = "relabel_configs: [{source_labels: [__address__], regex: 'd.*', action: drop}]";
        let job = test_job("j", rules);
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % below
        };
        let mut all: Vec<Arc<Group>> = (0..30).map(|i| group(&[&format!("h{i}:1"), &format!("d{i}:1")])).collect();
        let mut cache = BuildCache::default();
        let mut before: Option<Pool> = None;
        for step in 0..300 {
            let at = next(all.len());
            match next(6) {
                0 => all.insert(at, group(&[&format!("n{step}:1"), &format!("h{}:1", next(40))])),
                1 if all.len() > 5 => drop(all.remove(at)),
                2 => all.swap(at, 0),
                3 => all[at] = Arc::new(Group::clone(&all[at])),
                4 => {
                    let mut changed = Group::clone(&all[at]);
                    changed.targets.insert(0, Labels::from_pairs([("__address__", format!("c{step}:1"))]));
                    all[at] = Arc::new(changed);
                }
                _ => {
                    let labels = Labels::from_pairs([("step", step.to_string())]);
                    all[at] = Arc::new(Group { labels, ..Group::clone(&all[at]) });
                }
            }
            // One source or two; the addresses are the same.
            let (one, other) = all.split_at(next(all.len()));
            let lists = vec![Arc::new(one.to_vec()), Arc::new(other.to_vec())];
            let pool = cache.build_pool(&job, lists.clone(), vec![], before.as_ref(), None);
            let fresh = BuildCache::default().build_pool(&job, lists, vec![], None, None);
            assert_eq!(pool, fresh, "step {step}");
            // Of two addresses of one target, the order decides which one is kept.
            if let Some(before) = before.as_ref().filter(|old| old.duplicates_count + pool.duplicates_count == 0) {
                for target in &pool.active {
                    let old = before.active.iter().find(|old| old.discovered == target.discovered);
                    assert!(old.is_none_or(|old| Arc::ptr_eq(old, target)), "step {step}: {}", target.discovered);
                }
            }
            before = Some(pool);
        }
    }
}
