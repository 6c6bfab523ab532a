//! All targets of a job out of what its sources have found.

use crate::build::{Built, build};
use crate::discovery::Group;
use crate::target::{FailedTarget, Pool, Target};
use config::ScrapeConfig;
use std::collections::HashSet;
use std::sync::Arc;

/// Builds the pool. `before` gives targets that are the same as now, so that their owners see the same `Arc`.
pub fn build_pool<'a>(
    job: &Arc<ScrapeConfig>,
    groups: impl IntoIterator<Item = &'a Group>,
    source_errors: Vec<String>,
    before: Option<&Pool>,
) -> Pool {
    let mut pool = Pool {
        job: job.clone(),
        active: Vec::new(),
        dropped: Vec::new(),
        dropped_count: 0,
        failed: Vec::new(),
        source_errors,
    };
    let kept_max = if job.keep_dropped_targets == 0 { usize::MAX } else { job.keep_dropped_targets as usize };
    let mut seen = HashSet::new();
    let mut targets = Vec::new();
    for group in groups {
        for own in &group.targets {
            match build(job, own, &group.labels) {
                // Two discoveries of one target are one target.
                Built::Target(target) if seen.insert(target.id) => targets.push(target),
                Built::Target(_) => {}
                Built::Dropped { discovered } => {
                    pool.dropped_count += 1;
                    if pool.dropped.len() < kept_max {
                        pool.dropped.push(discovered);
                    }
                }
                Built::Failed { discovered, error } => pool.failed.push(FailedTarget { discovered, error }),
            }
        }
    }
    if job.target_limit > 0 && targets.len() as u64 > job.target_limit {
        let (count, limit) = (targets.len(), job.target_limit);
        let error: Arc<str> = format!("target_limit exceeded (number of targets: {count}, limit: {limit})").into();
        targets.iter_mut().for_each(|target| target.forced_error = Some(error.clone()));
    }
    targets.sort_by(|one, other| one.labels.cmp(&other.labels).then(one.id.cmp(&other.id)));
    let known: std::collections::HashMap<_, _> =
        before.into_iter().flat_map(|pool| &pool.active).map(|target| (target.id, target)).collect();
    let reuse = |target: Target| match known.get(&target.id) {
        Some(old) if same(old, &target) => (*old).clone(),
        _ => Arc::new(target),
    };
    pool.active = targets.into_iter().map(reuse).collect();
    pool
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
    use series::Labels;

    fn group(addresses: &[&str]) -> Group {
        let target = |address: &&str| Labels::from_pairs([("__address__", *address)]);
        Group { targets: addresses.iter().map(target).collect(), labels: Labels::empty() }
    }

    #[test]
    fn duplicates_drops_and_failures_are_told_apart() {
        let rules =
            "relabel_configs: [{source_labels: [__address__], regex: 'd.*', action: drop}]\nkeep_dropped_targets: 1";
        let pool = build_pool(
            &test_job("j", rules),
            &[group(&["b:1", "a:1", "b:1"]), group(&["d:1", "d:2", "x/y"])],
            vec![],
            None,
        );
        let active: Vec<&str> = pool.active.iter().map(|target| target.labels.get("instance").unwrap()).collect();
        assert_eq!(active, ["a:1", "b:1"]);
        assert_eq!((pool.dropped.len(), pool.dropped_count), (1, 2));
        assert_eq!(pool.failed.len(), 1);
    }

    #[test]
    fn too_many_targets_all_fail() {
        let job = test_job("j", "target_limit: 1");
        let pool = build_pool(&job, &[group(&["a:1", "a:1"])], vec![], None);
        assert_eq!(pool.active[0].forced_error, None, "counted after duplicates are gone");
        let pool = build_pool(&job, &[group(&["a:1", "b:1"])], vec![], None);
        for target in &pool.active {
            assert_eq!(target.forced_error.as_deref(), Some("target_limit exceeded (number of targets: 2, limit: 1)"));
        }
    }

    #[test]
    fn unchanged_targets_stay_the_same_object() {
        let job = test_job("j", "");
        let before = build_pool(&job, &[group(&["a:1", "b:1"])], vec![], None);
        let after = build_pool(&job, &[group(&["b:1", "c:1"])], vec![], Some(&before));
        assert!(Arc::ptr_eq(&before.active[1], &after.active[0]));
    }
}
