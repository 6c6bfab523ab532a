//! `/api/v1/ringscrape/discovery`: what discovery has found, and what became of each address and why.
//!
//! Bounded for jobs of any size: an answer has at most [`ROWS_MAX`] addresses, and looks at each address once.

use crate::answer::{ApiError, ApiResult, Data};
use crate::params::Params;
use crate::state::State;
use crate::v1::LabelMap;
use axum::extract;
use serde::Serialize;
use series::Labels;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};
use targets::{Pool, SdStats, SourceStats, Target, TargetId};

/// Addresses of one answer, and of one that does not say how many it wants.
const ROWS_MAX: usize = 1_000;
const ROWS_DEFAULT: usize = 100;
/// Errors of one job.
const ERRORS_MAX: usize = 20;
/// Sources of one job.
const SOURCES_MAX: usize = 50;

/// What became of an address.
struct Row<'a> {
    pool: &'a Pool,
    discovered: &'a Labels,
    target: Option<&'a Target>,
    /// `active`, or the reason why it is not scraped.
    state: &'a str,
    error: &'a str,
    /// The members of the fleet that scrape it, if this one does not, or soon will not.
    owners: &'a [String],
}

impl Row<'_> {
    /// Whether the search text, in lower case, is in what the row shows.
    fn contains(&self, text: &str) -> bool {
        let has = |labels: &Labels| {
            labels.iter().any(|(name, value)| format!("{name}={value}").to_lowercase().contains(text))
        };
        let is_owner = |owner: &String| owner.to_lowercase().contains(text);
        text.is_empty()
            || self.owners.iter().any(is_owner)
            || has(self.discovered)
            || self.target.is_some_and(|target| has(&target.labels))
    }
}

fn rows(pool: &Pool) -> impl Iterator<Item = Row<'_>> {
    let leaving: HashMap<TargetId, &[String]> =
        pool.leaving.iter().map(|leaving| (leaving.id, leaving.to.as_slice())).collect();
    let active = pool.active.iter().map(move |target| {
        let owners = leaving.get(&target.id).copied();
        Row {
            pool,
            discovered: &target.discovered,
            target: Some(target),
            state: match owners {
                _ if target.forced_error.is_some() => "limit",
                Some(_) => "leaving",
                None => "active",
            },
            error: target.forced_error.as_deref().unwrap_or(""),
            owners: owners.unwrap_or(&[]),
        }
    });
    let dropped = pool.dropped.iter().map(move |dropped| Row {
        pool,
        discovered: &dropped.discovered,
        target: None,
        state: dropped.reason.as_str(),
        error: "",
        owners: &[],
    });
    let failed = pool.failed.iter().map(move |failed| Row {
        pool,
        discovered: &failed.discovered,
        target: None,
        state: "failed",
        error: &failed.error,
        owners: &[],
    });
    let others = pool.others.iter().map(move |other| Row {
        pool,
        discovered: &other.discovered,
        target: None,
        state: "other-member",
        error: "",
        owners: &other.owners,
    });
    failed.chain(active).chain(dropped).chain(others)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PoolCounts {
    name: String,
    discovered: usize,
    active: usize,
    dropped: usize,
    duplicates: usize,
    failed: usize,
    leaving: usize,
    others: usize,
    /// Active ones that `target_limit` makes fail.
    over_limit: usize,
    /// Dropped ones that are listed: see `keep_dropped_targets`.
    remembered: usize,
    others_listed: usize,
    source_errors: Vec<String>,
    sources: Vec<SourceRow>,
}

/// A source of a job and its last attempt to get its list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceRow {
    mechanism: &'static str,
    targets: usize,
    attempts: u64,
    failures: u64,
    /// Unix seconds at which the last attempt ended.
    last_attempt: Option<f64>,
    last_seconds: Option<f64>,
    /// 0 where requests are not counted.
    last_requests: u64,
    /// Unix seconds since which each attempt has failed.
    failing_since: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AddressRow {
    pool: String,
    outcome: String,
    discovered_labels: LabelMap,
    /// Of addresses that are targets.
    labels: Option<LabelMap>,
    id: Option<String>,
    error: String,
    owners: Vec<String>,
}

#[derive(Serialize)]
pub(crate) struct Discovery {
    pools: Vec<PoolCounts>,
    /// Addresses that fit, of which `rows` are those from `offset` on.
    total: usize,
    offset: usize,
    rows: Vec<AddressRow>,
}

fn counts(pool: &Pool, stats: &SdStats) -> PoolCounts {
    let sources = stats.sources.get(&pool.job.job_name).map_or(&[][..], |sources| sources);
    PoolCounts {
        name: pool.job.job_name.clone(),
        discovered: pool.discovered_count,
        active: pool.active.len(),
        dropped: pool.dropped_count,
        duplicates: pool.duplicates_count,
        failed: pool.failed.len(),
        leaving: pool.leaving.len(),
        others: pool.others_count,
        over_limit: pool.active.iter().filter(|target| target.forced_error.is_some()).count(),
        remembered: pool.dropped.len(),
        others_listed: pool.others.len(),
        source_errors: pool.source_errors.iter().take(ERRORS_MAX).cloned().collect(),
        sources: sources.iter().take(SOURCES_MAX).map(source_row).collect(),
    }
}

fn source_row(source: &SourceStats) -> SourceRow {
    let unix = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    SourceRow {
        mechanism: source.mechanism,
        targets: source.targets,
        attempts: source.attempts,
        failures: source.failures,
        last_attempt: source.last.map(|last| unix(last.at)),
        last_seconds: source.last.map(|last| last.time.as_secs_f64()),
        last_requests: source.last.map_or(0, |last| last.requests),
        failing_since: source.failing_since.map(unix),
    }
}

fn address_row(row: &Row) -> AddressRow {
    AddressRow {
        pool: row.pool.job.job_name.clone(),
        outcome: row.state.to_owned(),
        discovered_labels: row.discovered.into(),
        labels: row.target.map(|target| (&target.labels).into()),
        id: row.target.map(|target| format!("{:016x}", target.id.0)),
        error: row.error.to_owned(),
        owners: row.owners.to_vec(),
    }
}

/// `?pool=&state=&search=&offset=&limit=`: addresses of a job, with an outcome, with a text in their labels.
pub(crate) async fn discovery(state: extract::State<State>, params: Params) -> ApiResult<Discovery> {
    let wanted = |name| params.get(name).unwrap_or("").trim().to_owned();
    let (outcome, job, search) = (wanted("state"), wanted("pool"), wanted("search").to_lowercase());
    let offset = match params.limit("offset")? {
        usize::MAX => 0,
        offset => offset,
    };
    let limit = match params.limit("limit")? {
        usize::MAX => ROWS_DEFAULT,
        limit if limit <= ROWS_MAX => limit,
        _ => return Err(ApiError::bad_data(format!("limit must be a number up to {ROWS_MAX}"))),
    };
    let set = state.target_set();
    let stats = state.parts.targets.stats();
    let look = move || {
        let pools = set.pools.iter().map(|pool| &**pool).filter(|pool| job.is_empty() || pool.job.job_name == job);
        let fits = |row: &Row| (outcome.is_empty() || row.state == outcome) && row.contains(&search);
        let (mut total, mut rows_found) = (0, Vec::new());
        for row in pools.flat_map(rows).filter(fits) {
            if total >= offset && rows_found.len() < limit {
                rows_found.push(address_row(&row));
            }
            total += 1;
        }
        Discovery {
            pools: set.pools.iter().map(|pool| counts(pool, &stats)).collect(),
            total,
            offset,
            rows: rows_found,
        }
    };
    let found = tokio::task::spawn_blocking(look).await;
    Ok(Data(found.map_err(|error| ApiError::internal(error.to_string()))?))
}
