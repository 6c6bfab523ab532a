//! `/metrics`: ringscrape's own, under Prometheus' names where operators alert on them.
//!
//! One file per section, each above [`MetricsWriter`] and below this list.

mod agent;
mod discovery;
mod federation;
mod fleet;
mod notifications;
mod process;
mod queries;
mod remote_write;
mod rules;
mod scraping;
mod shipper;
mod storage;

pub(crate) use agent::log_bytes;
pub(crate) use process::{FOLLOWED_VERSION, process_usage};

use crate::answer::{ApiError, Data, bulk};
use crate::http::HttpMetrics;
use crate::metrics_writer::MetricsWriter;
use crate::params::Params;
use crate::state::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, extract};
use shard::CoreStats;
use std::sync::Arc;

/// `/metrics`.
pub(crate) async fn metrics(state: extract::State<State>, http: Extension<Arc<HttpMetrics>>) -> Response {
    match write(&state, &http).await {
        Ok(writer) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], writer.into_text()).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.text)).into_response(),
    }
}

/// `/api/v1/status/self_metrics`: the same as JSON, of families whose whole name fits `metric_name_pattern`.
pub(crate) async fn self_metrics(
    state: extract::State<State>,
    http: Extension<Arc<HttpMetrics>>,
    params: Params,
) -> Result<Response, ApiError> {
    let pattern = params.get("metric_name_pattern").unwrap_or("");
    let regex = match pattern {
        "" => None,
        pattern => Some(
            regex::Regex::new(&format!("^(?:{pattern})$"))
                .map_err(|error| ApiError::bad_data(format!("invalid metric_name_pattern: {error}")))?,
        ),
    };
    let writer = write(&state, &http).await?;
    let is_wanted = move |name: &str| regex.as_ref().is_none_or(|regex| regex.is_match(name));
    bulk(move || Ok(Data(writer.into_json(is_wanted)).into_response())).await
}

async fn write(state: &State, http: &Arc<HttpMetrics>) -> Result<MetricsWriter, ApiError> {
    let stats = state.parts.shards.stats().await?;
    let (state, http) = (state.clone(), http.clone());
    // The text grows with jobs and rule groups, and the process is asked about in files.
    let written = tokio::task::spawn_blocking(move || sections(&state, &http, &stats)).await;
    written.map_err(|error| ApiError::internal(error.to_string()))
}

fn sections(state: &State, http: &HttpMetrics, stats: &[CoreStats]) -> MetricsWriter {
    let mut writer = MetricsWriter::default();
    scraping::scraping(&mut writer, state, stats);
    scraping::cores(&mut writer, stats);
    discovery::discovery(&mut writer, state);
    process::configuration(&mut writer, state);
    remote_write::remote_write(&mut writer, state);
    remote_write::receivers(&mut writer, state);
    shipper::shipper(&mut writer, state);
    fleet::fleet(&mut writer, state);
    match state.parts.shards.agent() {
        Some(store) => agent::agent(&mut writer, store, stats),
        None => {
            notifications::notifications(&mut writer, state);
            federation::federation(&mut writer, &state.federations);
            queries::queries(&mut writer, state);
            rules::rules(&mut writer, state);
        }
    }
    http.write(&mut writer);
    state.notifications.write(&mut writer);
    if let Some(store) = state.parts.shards.store() {
        storage::storage(&mut writer, store, stats, state.started_at);
    }
    process::process(&mut writer, state, &process::ProcessStats::read());
    writer
}
