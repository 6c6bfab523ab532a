//! All targets of a job out of what its sources have found.
//!
//! Invariants:
//!   * what was built before and has not changed is not built again: a change of one address costs one relabelling and
//!     one look at each of the others
//!   * a target that is the same as before is the same `Arc`, so that its owners see at once that nothing has changed

use crate::build::{Built, build};
use crate::discovery::Group;
use crate::target::{DropReason, DroppedTarget, FailedTarget, Pool, Target};
use ahash::{HashMap, HashMapExt};
use config::ScrapeConfig;
use series::Labels;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// What became of each discovered address of a job, kept from one list to the next. It belongs to one job's settings.
#[derive(Default)]
pub struct BuildCache {
    outcomes: HashMap<(Labels, Labels), (Outcome, u64)>,
    /// Lists so far; an outcome of an earlier one is of an address that is gone.
    list: u64,
}

enum Outcome {
    Target(Arc<Target>),
    /// Labels where they are to be shown.
    Dropped(Option<Labels>),
    Failed(FailedTarget),
}

impl BuildCache {
    /// Builds the pool. `before` is what the last call gave.
    pub fn build_pool<'a>(
        &mut self,
        job: &Arc<ScrapeConfig>,
        groups: impl IntoIterator<Item = &'a Arc<Group>>,
        source_errors: Vec<String>,
        before: Option<&Pool>,
    ) -> Pool {
        let mut pool = Pool {
            job: job.clone(),
            active: Vec::new(),
            dropped: Vec::new(),
            dropped_count: 0,
            duplicates_count: 0,
            failed: Vec::new(),
            source_errors,
        };
        let kept_max = if job.keep_dropped_targets == 0 { usize::MAX } else { job.keep_dropped_targets as usize };
        self.list += 1;
        let mut found: HashMap<_, Arc<Target>> = HashMap::with_capacity(before.map_or(0, |pool| pool.active.len()));
        let mut addresses_count = 0;
        for group in groups {
            addresses_count += group.targets.len();
            for own in &group.targets {
                match self.outcome(job, own, &group.labels, pool.dropped.len() < kept_max) {
                    // Two discoveries of one target are one target.
                    Outcome::Target(target) => match found.entry(target.id) {
                        Entry::Vacant(place) => drop(place.insert(target.clone())),
                        Entry::Occupied(_) => {
                            pool.duplicates_count += 1;
                            if pool.dropped.len() < kept_max {
                                let discovered = target.discovered.clone();
                                pool.dropped.push(DroppedTarget { discovered, reason: DropReason::Duplicate });
                            }
                        }
                    },
                    Outcome::Dropped(discovered) => {
                        pool.dropped_count += 1;
                        if let Some(discovered) = discovered.as_ref().filter(|_| pool.dropped.len() < kept_max) {
                            let discovered = discovered.clone();
                            pool.dropped.push(DroppedTarget { discovered, reason: DropReason::Relabelling });
                        }
                    }
                    Outcome::Failed(failed) => pool.failed.push(failed.clone()),
                }
            }
        }
        if self.outcomes.len() > addresses_count {
            let list = self.list;
            self.outcomes.retain(|_, (_, seen)| *seen == list);
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

    /// What becomes of an address: known from the last list, or found out now.
    fn outcome(&mut self, job: &Arc<ScrapeConfig>, own: &Labels, shared: &Labels, with_labels: bool) -> &Outcome {
        let list = self.list;
        let (outcome, seen) = self
            .outcomes
            .entry((own.clone(), shared.clone()))
            .or_insert_with(|| (look(job, own, shared, with_labels), list));
        *seen = list;
        if with_labels && matches!(outcome, Outcome::Dropped(None)) {
            *outcome = look(job, own, shared, with_labels);
        }
        outcome
    }
}

fn look(job: &Arc<ScrapeConfig>, own: &Labels, shared: &Labels, with_labels: bool) -> Outcome {
    match build(job, own, shared) {
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
        BuildCache::default().build_pool(job, groups, vec![], None)
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
        let few = cache.build_pool(&job, &[group(&["a:1", "a:1"])], vec![], None);
        assert_eq!(few.active[0].forced_error, None, "counted after duplicates are gone");
        let many = cache.build_pool(&job, &[group(&["a:1", "b:1"])], vec![], Some(&few));
        for target in &many.active {
            assert_eq!(target.forced_error.as_deref(), Some("target_limit exceeded (number of targets: 2, limit: 1)"));
        }
        let again = cache.build_pool(&job, &[group(&["b:1", "a:1"])], vec![], Some(&many));
        assert!(many.active.iter().zip(&again.active).all(|(one, other)| Arc::ptr_eq(one, other)));
        let few = cache.build_pool(&job, &[group(&["b:1"])], vec![], Some(&again));
        assert_eq!((instances(&few), few.active[0].forced_error.clone()), (vec!["b:1"], None));
    }

    #[test]
    fn unchanged_targets_stay_the_same_object() {
        let job = test_job("j", "");
        let mut cache = BuildCache::default();
        let before = cache.build_pool(&job, &[group(&["c:1", "b:1"])], vec![], None);
        let after = cache.build_pool(&job, &[group(&["d:1", "c:1", "a:1"])], vec![], Some(&before));
        assert_eq!(instances(&after), ["a:1", "c:1", "d:1"]);
        assert!(Arc::ptr_eq(&before.active[1], &after.active[1]));
        assert_eq!(cache.outcomes.len(), 3, "what is gone is forgotten");
    }

    #[test]
    fn a_changed_meta_label_replaces_the_target() {
        let job = test_job("j", "");
        let mut cache = BuildCache::default();
        let with = |rack: &str| {
            let target = Labels::from_pairs([("__address__", "a:1"), ("__meta_rack", rack)]);
            Arc::new(Group { targets: vec![target], labels: Labels::empty() })
        };
        let before = cache.build_pool(&job, &[with("1")], vec![], None);
        let after = cache.build_pool(&job, &[with("2")], vec![], Some(&before));
        assert_eq!(before.active[0].id, after.active[0].id);
        assert_eq!(after.active[0].discovered.get("__meta_rack"), Some("2"));
    }

    #[test]
    fn dropped_labels_are_found_again_when_there_is_place() {
        let rules =
            "relabel_configs: [{regex: 'd.*', source_labels: [__address__], action: drop}]\nkeep_dropped_targets: 1";
        let job = test_job("j", rules);
        let mut cache = BuildCache::default();
        let before = cache.build_pool(&job, &[group(&["d:1", "d:2"])], vec![], None);
        let after = cache.build_pool(&job, &[group(&["d:2"])], vec![], Some(&before));
        assert_eq!(after.dropped[0].discovered.get("__address__"), Some("d:2"));
    }
}
