//! `/api/v1/ringscrape/status/history`: what this server did in the last hour and day. It works from the first seconds on,
//! and where no job scrapes ringscrape: the server keeps the figures by itself, in memory.
//!
//! Invariants:
//!   * one point every [`FINE_MS`] for an hour and one every [`COARSE_MS`] for a day; older ones are dropped
//!   * a point holds figures and short lists, never a list of targets: some 400 bytes with eight cores

use crate::answer::{ApiError, ApiResult, Data};
use crate::params::Params;
use crate::state::{Inner, State};
use crate::telemetry::{log_bytes, process_usage};
use axum::{Extension, extract};
use hdrhistogram::Histogram;
use serde::Serialize;
use series::clock::now_ms;
use shard::{CoreStats, Health, ShardError, TargetStatus};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use targets::{TargetId, TargetSet};

/// Between two fine points, and between two coarse ones.
const FINE_MS: i64 = 5_000;
const COARSE_MS: i64 = 60_000;
/// An hour of fine points, a day of coarse ones.
const FINE_MAX: usize = 720;
const COARSE_MAX: usize = 1_440;
/// Every how many fine points the targets are looked through.
const TARGETS_EVERY: u64 = 3;
/// Jobs in the list of what costs most, and targets in each list of the worst.
const JOBS_MAX: usize = 200;
const TARGETS_MAX: usize = 10;
/// A target is near a limit from this share of it on.
const NEAR_LIMIT: f64 = 0.8;

/// Figures of the process at one time. Rates are per second, times are seconds, sizes are bytes.
const NAMES: [&str; 17] = [
    "samples",
    "scrapes",
    "scrapesFailed",
    "missed",
    "latenessP50",
    "latenessP99",
    "latenessP999",
    "cpu",
    "rss",
    "headBytes",
    "templatesBytes",
    "series",
    "seriesAdded",
    "logBytesWritten",
    "logBytes",
    "chunksBytes",
    "blocksBytes",
];
type Figures = [f32; NAMES.len()];

/// What is known of one moment.
#[derive(Clone, Debug)]
struct Point {
    at: i64,
    figures: Figures,
    /// CPU of each core's thread, as a share of one CPU.
    cores: Box<[f32]>,
    /// Targets that are down, by reason.
    reasons: Arc<[(&'static str, u32)]>,
    /// Seconds that each endpoint of remote write is behind; NaN: nothing was accepted yet.
    remote: Box<[(String, f32)]>,
    queries: f32,
    alerts_firing: f32,
}

/// Counters at one time, to take differences from.
#[derive(Clone, Default)]
struct Counters {
    at: i64,
    samples: u64,
    scrapes: u64,
    failed: u64,
    missed: u64,
    log_bytes: u64,
    cpu_seconds: f64,
    cores: Vec<f64>,
    lateness: Option<Histogram<u64>>,
}

impl Counters {
    fn of(at: i64, cores: &[CoreStats], cpu_seconds: f64) -> Counters {
        let mut lateness: Option<Histogram<u64>> = None;
        for core in cores {
            match &mut lateness {
                // Both have the same bounds.
                Some(sum) => drop(sum.add(&core.lateness_us)),
                None => lateness = Some(core.lateness_us.clone()),
            }
        }
        let sum = |of: fn(&CoreStats) -> u64| cores.iter().map(of).sum();
        Counters {
            at,
            samples: sum(|core| core.samples_appended),
            scrapes: sum(|core| core.scrapes),
            failed: sum(|core| core.scrapes_failed.values().sum()),
            missed: sum(|core| core.missed.values().sum()),
            log_bytes: sum(|core| core.log.bytes_written),
            cpu_seconds,
            cores: cores.iter().map(|core| core.cpu_seconds).collect(),
            lateness,
        }
    }

    /// Lateness of the scrapes since `before`, at these quantiles, in seconds.
    fn lateness_since(&self, before: &Counters, quantiles: [f64; 3]) -> [f32; 3] {
        let Some(now) = &self.lateness else { return [f32::NAN; 3] };
        let mut since = now.clone();
        let is_whole = before.lateness.as_ref().is_none_or(|before| since.subtract(before).is_ok());
        if !is_whole || since.is_empty() {
            return [f32::NAN; 3];
        }
        quantiles.map(|quantile| since.value_at_quantile(quantile) as f32 / 1e6)
    }
}

/// A job with what its targets cost, per second.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct JobCost {
    name: String,
    targets: usize,
    down: usize,
    samples: f64,
    seconds: f64,
    bytes: f64,
    series_added: f64,
}

/// A target in a list of the worst.
#[derive(Clone, Debug, Serialize)]
struct TargetShare {
    id: String,
    job: String,
    url: String,
    used: f64,
    limit: f64,
}

/// What looking through all targets gave.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TargetsView {
    targets: usize,
    up: usize,
    down: usize,
    unknown: usize,
    reasons: BTreeMap<&'static str, u32>,
    jobs: Vec<JobCost>,
    /// Duration beside the timeout, in seconds.
    slowest: Vec<TargetShare>,
    /// Samples beside `sample_limit`.
    near_sample_limit: Vec<TargetShare>,
    others: usize,
    dropped: usize,
    source_errors: usize,
}

fn view_targets(set: &TargetSet, statuses: &HashMap<TargetId, TargetStatus>) -> TargetsView {
    let mut view = TargetsView::default();
    let (mut slow, mut near) = (Vec::new(), Vec::new());
    for pool in &set.pools {
        let mut job = JobCost { name: pool.job.job_name.clone(), targets: pool.active.len(), ..JobCost::default() };
        view.others += pool.others_count;
        view.dropped += pool.dropped_count;
        view.source_errors += pool.source_errors.len();
        for target in &pool.active {
            let Some(status) = statuses.get(&target.id) else { continue };
            let per_second = 1.0 / target.interval.as_secs_f64().max(0.001);
            job.samples += status.samples_scraped as f64 * per_second;
            job.seconds += status.last_duration.as_secs_f64() * per_second;
            job.bytes += status.wire_bytes as f64 * per_second;
            job.series_added += status.series_added as f64 * per_second;
            match status.health {
                Health::Up => view.up += 1,
                Health::Down => {
                    view.down += 1;
                    job.down += 1;
                    let reason = status.last_reason.map_or("unknown", |reason| reason.as_str());
                    *view.reasons.entry(reason).or_default() += 1;
                }
                Health::Unknown => view.unknown += 1,
            }
            let share = |used: f64, limit: f64| (used / limit, pool, target, used, limit);
            if status.scrapes > 0 {
                slow.push(share(status.last_duration.as_secs_f64(), target.timeout.as_secs_f64()));
            }
            let limit = pool.job.sample_limit as f64;
            if limit > 0.0 && status.samples_post_relabel as f64 >= NEAR_LIMIT * limit {
                near.push(share(status.samples_post_relabel as f64, limit));
            }
        }
        view.targets += pool.active.len();
        view.jobs.push(job);
    }
    view.jobs.sort_by(|one, other| other.samples.total_cmp(&one.samples));
    view.jobs.truncate(JOBS_MAX);
    let worst = |mut all: Vec<RankedTarget>| {
        all.sort_by(|one, other| other.0.total_cmp(&one.0));
        let row = |(_, pool, target, used, limit): RankedTarget| {
            let (job, url) = (pool.job.job_name.clone(), target.url.to_string());
            TargetShare { id: format!("{:016x}", target.id.0), job, url, used, limit }
        };
        all.into_iter().take(TARGETS_MAX).map(row).collect::<Vec<_>>()
    };
    view.slowest = worst(slow);
    view.near_sample_limit = worst(near);
    view
}

/// A target by what it is ranked by, with what it uses and its limit.
type RankedTarget<'a> = (f64, &'a Arc<targets::Pool>, &'a Arc<targets::Target>, f64, f64);

#[derive(Default)]
struct Rings {
    fine: VecDeque<Point>,
    coarse: VecDeque<Point>,
    /// Counters at the newest point of each.
    fine_counters: Option<Counters>,
    coarse_counters: Option<Counters>,
    view: Arc<TargetsView>,
    /// Whether a core's log cannot be written.
    log_failing: bool,
    rounds: u64,
}

/// The figures of the last day. Cloning copies a pointer.
#[derive(Clone, Default)]
pub(crate) struct SelfHistory(Arc<Mutex<Rings>>);

impl SelfHistory {
    fn rings(&self) -> MutexGuard<'_, Rings> {
        // Every change is whole: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, now: &Counters, gauges: &Gauges) {
        let mut rings = self.rings();
        let rings = &mut *rings;
        if let Some(before) = &rings.fine_counters {
            push_bounded(&mut rings.fine, gauges.point(now, before), FINE_MAX);
        }
        rings.fine_counters = Some(now.clone());
        match &rings.coarse_counters {
            Some(before) if now.at - before.at >= COARSE_MS - FINE_MS / 2 => {
                push_bounded(&mut rings.coarse, gauges.point(now, before), COARSE_MAX);
                rings.coarse_counters = Some(now.clone());
            }
            Some(_) => {}
            None => rings.coarse_counters = Some(now.clone()),
        }
    }
}

fn push_bounded(ring: &mut VecDeque<Point>, point: Point, max: usize) {
    if ring.len() >= max {
        ring.pop_front();
    }
    ring.push_back(point);
}

/// What is read as it is, beside the counters.
struct Gauges {
    rss: f64,
    head_bytes: u64,
    templates_bytes: u64,
    series: u64,
    series_added: f64,
    log_bytes: u64,
    chunks_bytes: u64,
    blocks_bytes: u64,
    reasons: Arc<[(&'static str, u32)]>,
    remote: Vec<(String, f32)>,
    queries: usize,
    alerts_firing: usize,
}

impl Gauges {
    fn point(&self, now: &Counters, before: &Counters) -> Point {
        let seconds = ((now.at - before.at) as f64 / 1e3).max(0.001);
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as f32;
        let [p50, p99, p999] = now.lateness_since(before, [0.5, 0.99, 0.999]);
        let cpu = |now: f64, before: f64| ((now - before).max(0.0) / seconds) as f32;
        let core =
            |(index, seconds): (usize, &f64)| cpu(*seconds, before.cores.get(index).copied().unwrap_or(*seconds));
        Point {
            at: now.at,
            figures: [
                rate(now.samples, before.samples),
                rate(now.scrapes, before.scrapes),
                rate(now.failed, before.failed),
                rate(now.missed, before.missed),
                p50,
                p99,
                p999,
                cpu(now.cpu_seconds, before.cpu_seconds),
                self.rss as f32,
                self.head_bytes as f32,
                self.templates_bytes as f32,
                self.series as f32,
                self.series_added as f32,
                rate(now.log_bytes, before.log_bytes),
                self.log_bytes as f32,
                self.chunks_bytes as f32,
                self.blocks_bytes as f32,
            ],
            cores: now.cores.iter().enumerate().map(core).collect(),
            reasons: self.reasons.clone(),
            remote: self.remote.clone().into(),
            queries: self.queries as f32,
            alerts_firing: self.alerts_firing as f32,
        }
    }
}

/// Reads everything once and puts a point into the rings.
async fn take_point(state: &Inner, history: &SelfHistory) -> Result<(), ShardError> {
    let cores = state.parts.shards.stats().await?;
    let usage = process_usage();
    let round = {
        let mut rings = history.rings();
        rings.rounds += 1;
        rings.rounds
    };
    if round % TARGETS_EVERY == 1 {
        let set = state.target_set();
        let statuses = state.parts.shards.statuses().await?;
        let look = move || {
            let statuses = statuses.into_iter().map(|status| (status.id, status)).collect();
            view_targets(&set, &statuses)
        };
        if let Ok(view) = tokio::task::spawn_blocking(look).await {
            history.rings().view = Arc::new(view);
        }
    }
    let view = {
        let mut rings = history.rings();
        rings.log_failing = cores.iter().any(|core| core.log.failing.is_some());
        rings.view.clone()
    };
    let store = state.parts.shards.store().map(|store| store.stats());
    let agent_log_bytes = state.parts.shards.agent().map_or(0, |agent| log_bytes(agent));
    let sum = |of: fn(&CoreStats) -> u64| cores.iter().map(of).sum();
    let lag = |stats: &remote_write::Stats| stats.lag().map_or(f32::NAN, |lag| lag.as_secs_f32());
    let remote = state.parts.remote_write.stats();
    let gauges = Gauges {
        rss: usage.resident_bytes,
        head_bytes: sum(|core| core.head_bytes),
        templates_bytes: sum(|core| core.templates_bytes),
        series: sum(|core| core.series),
        series_added: view.jobs.iter().map(|job| job.series_added).sum(),
        log_bytes: store.as_ref().map_or(agent_log_bytes, |store| store.log_bytes),
        chunks_bytes: store.as_ref().map_or(0, |store| store.head_bytes),
        blocks_bytes: store.as_ref().map_or(0, |store| store.blocks_bytes),
        reasons: view.reasons.iter().map(|(reason, count)| (*reason, *count)).collect(),
        remote: remote.iter().map(|one| (one.name.clone(), lag(&one.stats))).collect(),
        queries: state.parts.query.stats().active_count(),
        alerts_firing: alerts_firing(state),
    };
    history.push(&Counters::of(now_ms(), &cores, usage.cpu_seconds), &gauges);
    Ok(())
}

fn alerts_firing(state: &Inner) -> usize {
    let snapshot = state.parts.rules.snapshot();
    let rules = snapshot.groups.iter().flat_map(|group| &group.rules);
    let alerts = rules.flat_map(|rule| match &rule.kind {
        rules::RuleKind::Alerting { alerts, .. } => alerts.as_slice(),
        rules::RuleKind::Recording => &[],
    });
    alerts.filter(|alert| alert.state == rules::AlertState::Firing).count()
}

/// Takes points until the server is gone.
pub(crate) fn start(state: Weak<Inner>, history: SelfHistory) {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(FINE_MS as u64));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let Some(state) = state.upgrade() else { return };
            if let Err(error) = take_point(&state, &history).await {
                tracing::debug!("no figures for the overview: {error}");
            }
        }
    });
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct History {
    /// Milliseconds between two points.
    step: i64,
    /// Unix milliseconds.
    times: Vec<i64>,
    /// By name, entry i at time i; null: not known.
    process: BTreeMap<&'static str, Vec<Option<f32>>>,
    cores: Vec<Vec<f32>>,
    reasons: BTreeMap<&'static str, Vec<u32>>,
    /// Seconds behind, by endpoint of remote write.
    remote: BTreeMap<String, Vec<Option<f32>>>,
    targets: TargetsView,
    now: Now,
}

/// What needs no past.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Now {
    at: i64,
    started: i64,
    alerts_pending: usize,
    fleet_member: Option<String>,
    fleet_members: usize,
    fleet_problems: usize,
    config_refused: bool,
    safe_mode: bool,
    log_failing: bool,
    retention: i64,
    retention_bytes: u64,
    oldest: Option<i64>,
}

fn finite(value: f32) -> Option<f32> {
    value.is_finite().then_some(value)
}

fn columns(points: &[Point], step: i64, view: Arc<TargetsView>, now: Now) -> History {
    let column = |index: usize| points.iter().map(|point| finite(point.figures[index])).collect();
    let mut process: BTreeMap<&'static str, Vec<Option<f32>>> =
        NAMES.iter().enumerate().map(|(index, name)| (*name, column(index))).collect();
    process.insert("queries", points.iter().map(|point| finite(point.queries)).collect());
    process.insert("alertsFiring", points.iter().map(|point| finite(point.alerts_firing)).collect());
    let count = points.iter().map(|point| point.cores.len()).max().unwrap_or(0);
    let core = |index: usize| points.iter().map(|point| point.cores.get(index).copied().unwrap_or(0.0)).collect();
    let mut reasons: BTreeMap<&'static str, Vec<u32>> = BTreeMap::new();
    let mut remote: BTreeMap<String, Vec<Option<f32>>> = BTreeMap::new();
    for (index, point) in points.iter().enumerate() {
        for (reason, count) in point.reasons.iter() {
            reasons.entry(reason).or_insert_with(|| vec![0; points.len()])[index] = *count;
        }
        for (name, lag) in &point.remote {
            remote.entry(name.clone()).or_insert_with(|| vec![None; points.len()])[index] = finite(*lag);
        }
    }
    History {
        step,
        times: points.iter().map(|point| point.at).collect(),
        process,
        cores: (0..count).map(core).collect(),
        reasons,
        remote,
        targets: (*view).clone(),
        now,
    }
}

/// `status/history?range=1h|24h`: fine points of the last hour, or coarse ones of the last day.
pub(crate) async fn history(
    state: extract::State<State>,
    kept: Extension<SelfHistory>,
    params: Params,
) -> ApiResult<History> {
    let is_day = match params.get("range").unwrap_or("1h") {
        "1h" | "" => false,
        "24h" | "1d" => true,
        other => return Err(ApiError::bad_data(format!("invalid parameter \"range\": want 1h or 24h, not {other:?}"))),
    };
    let (points, view, step, log_failing) = {
        let rings = kept.rings();
        let (ring, step) = if is_day { (&rings.coarse, COARSE_MS) } else { (&rings.fine, FINE_MS) };
        (ring.iter().cloned().collect::<Vec<_>>(), rings.view.clone(), step, rings.log_failing)
    };
    let fleet = state.parts.fleet.status();
    let store = state.parts.shards.store();
    let snapshot = state.parts.rules.snapshot();
    let pending = snapshot.groups.iter().flat_map(|group| &group.rules).map(|rule| match &rule.kind {
        rules::RuleKind::Alerting { alerts, .. } => {
            alerts.iter().filter(|alert| alert.state == rules::AlertState::Pending).count()
        }
        rules::RuleKind::Recording => 0,
    });
    let now = Now {
        at: now_ms(),
        started: state.started_at.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64),
        alerts_pending: pending.sum(),
        fleet_members: fleet.division.as_ref().map_or(0, |division| division.view.members().len()),
        fleet_problems: fleet.problems.len() + fleet.split.len(),
        fleet_member: fleet.member.clone(),
        config_refused: state.running().refused.is_some(),
        safe_mode: store.is_some_and(|store| store.safe_mode().is_some()),
        log_failing,
        retention: store.map_or(0, |store| store.options().retention_ms),
        retention_bytes: store.map_or(0, |store| store.options().retention_bytes),
        oldest: store.and_then(|store| store.bounds()).map(|(oldest, _)| oldest),
    };
    Ok(Data(columns(&points, step, view, now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauges() -> Gauges {
        Gauges {
            rss: 5e6,
            head_bytes: 1,
            templates_bytes: 2,
            series: 3,
            series_added: 0.5,
            log_bytes: 4,
            chunks_bytes: 5,
            blocks_bytes: 6,
            reasons: Arc::new([("dns", 2)]),
            remote: vec![("far".to_owned(), f32::NAN)],
            queries: 1,
            alerts_firing: 7,
        }
    }

    /// Counters at a time: `scrapes` of them, each late by a millisecond more than the one before.
    fn counters(at: i64, scrapes: u64) -> Counters {
        let mut core = CoreStats::new(0, 0);
        core.samples_appended = 100 * scrapes;
        core.scrapes = scrapes;
        core.cpu_seconds = scrapes as f64 / 1000.0;
        (0..scrapes).for_each(|late| core.lateness_us.record(1_000 * (late + 1)).unwrap());
        Counters::of(at, &[core], 0.0)
    }

    #[test]
    fn figures_are_differences_per_second() {
        let history = SelfHistory::default();
        history.push(&counters(0, 10), &gauges());
        assert!(history.rings().fine.is_empty(), "one look gives no difference");
        history.push(&counters(5_000, 60), &gauges());
        let point = history.rings().fine[0].clone();
        assert_eq!((point.figures[0], point.figures[1]), (1_000.0, 10.0));
        assert!((point.figures[4] - 0.035).abs() < 0.002, "of the new ones alone: {}", point.figures[4]);
        assert!((point.cores[0] - 0.01).abs() < 1e-6);
        // A restart of a counter is no negative rate.
        history.push(&counters(10_000, 1), &gauges());
        assert_eq!(history.rings().fine[1].figures[0], 0.0);
    }

    #[test]
    fn rings_are_bounded_and_the_coarse_one_covers_a_day() {
        let history = SelfHistory::default();
        for round in 0..2_000 {
            history.push(&counters(round * FINE_MS, round as u64 % 50), &gauges());
        }
        let rings = history.rings();
        assert_eq!((rings.fine.len(), rings.coarse.len()), (FINE_MAX, 166));
        let steps: Vec<i64> = rings.coarse.iter().zip(rings.coarse.iter().skip(1)).map(|(a, b)| b.at - a.at).collect();
        assert!(steps.iter().all(|step| *step == COARSE_MS), "{steps:?}");
    }

    #[test]
    fn columns_have_an_entry_for_each_time() {
        let history = SelfHistory::default();
        (0..4).for_each(|round| history.push(&counters(round * FINE_MS, 5 * round as u64), &gauges()));
        let points: Vec<Point> = history.rings().fine.iter().cloned().collect();
        let now = Now {
            at: 0,
            started: 0,
            alerts_pending: 0,
            fleet_member: None,
            fleet_members: 0,
            fleet_problems: 0,
            config_refused: false,
            safe_mode: false,
            log_failing: false,
            retention: 0,
            retention_bytes: 0,
            oldest: None,
        };
        let json = serde_json::to_value(columns(&points, FINE_MS, Arc::default(), now)).unwrap();
        assert_eq!(json["times"], serde_json::json!([5_000, 10_000, 15_000]));
        assert_eq!(json["reasons"]["dns"], serde_json::json!([2, 2, 2]));
        assert_eq!(json["remote"]["far"], serde_json::json!([null, null, null]));
        assert!(json["process"].as_object().unwrap().values().all(|column| column.as_array().unwrap().len() == 3));
        assert_eq!(json["process"].as_object().unwrap().len(), NAMES.len() + 2);
    }
}
