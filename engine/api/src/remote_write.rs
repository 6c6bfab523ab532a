//! `/api/v1/ringscrape/status/remote_write`: what is sent by remote write, what waits and why.

use crate::answer::{ApiResult, Data};
use crate::state::State;
use axum::extract;
use remote_write::{EndpointStats, KindStats, Stats};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

type OfKind = fn(&KindStats) -> &AtomicU64;

/// Of samples, histograms and exemplars together.
fn total(stats: &Stats, of: OfKind) -> u64 {
    [&stats.samples, &stats.histograms, &stats.exemplars].iter().map(|kind| of(kind).load(Ordering::Relaxed)).sum()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    name: String,
    /// Without credentials.
    url: String,
    /// None: nothing was accepted yet.
    lag_seconds: Option<f64>,
    lag_bytes: u64,
    pending: u64,
    /// Samples a second.
    rate: u64,
    sent: u64,
    retried: u64,
    /// Lost samples, by reason.
    losses: BTreeMap<&'static str, u64>,
    /// Endpoints that get the same batches as this one, itself among them (decision 064).
    equal_endpoints: u64,
    /// Files of the log that were removed before they were acknowledged, and their bytes.
    files_lost: u64,
    /// Dropped by rules, or too old.
    not_sent: u64,
    last_error: String,
}

#[derive(Serialize)]
pub(crate) struct Endpoints {
    endpoints: Vec<Endpoint>,
}

fn endpoint(EndpointStats { name, url, stats, .. }: &EndpointStats) -> Endpoint {
    Endpoint {
        name: name.clone(),
        url: url.to_string(),
        lag_seconds: stats.lag().map(|lag| lag.as_secs_f64()),
        lag_bytes: stats.lag_bytes.load(Ordering::Relaxed),
        pending: total(stats, |kind| &kind.pending),
        rate: stats.rate.load(Ordering::Relaxed),
        sent: total(stats, |kind| &kind.sent),
        retried: total(stats, |kind| &kind.retried),
        losses: stats.losses().filter(|(_, count)| *count > 0).collect(),
        equal_endpoints: stats.same_batches.load(Ordering::Relaxed),
        files_lost: stats.files_lost.load(Ordering::Relaxed),
        not_sent: total(stats, |kind| &kind.dropped_by_rules) + total(stats, |kind| &kind.dropped_too_old),
        last_error: stats.last_error().unwrap_or_default(),
    }
}

/// Every endpoint.
pub(crate) async fn status(state: extract::State<State>) -> ApiResult<Endpoints> {
    let endpoints = state.parts.remote_write.stats();
    Ok(Data(Endpoints { endpoints: endpoints.iter().map(endpoint).collect() }))
}
