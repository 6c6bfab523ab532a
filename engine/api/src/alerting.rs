//! Alertmanagers and what is sent to them: `/api/v1/alertmanagers`.

use crate::answer::{ApiResult, Data};
use crate::state::State;
use axum::extract;
use serde::Serialize;

#[derive(Serialize)]
pub struct Alertmanager {
    url: String,
    /// Ours: what waits for it and what came of the rest.
    #[serde(flatten)]
    counts: Option<DeliveryCounts>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryCounts {
    queue_length: usize,
    sent: u64,
    errors: u64,
    dropped: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alertmanagers {
    active_alertmanagers: Vec<Alertmanager>,
    dropped_alertmanagers: Vec<Alertmanager>,
    /// Ours: what is wrong with their discovery at the moment.
    errors: Vec<String>,
}

pub async fn alertmanagers(state: extract::State<State>) -> ApiResult<Alertmanagers> {
    let stats = state.parts.notifier.stats();
    let active = |one: notifier::AlertmanagerStats| {
        let (sent, errors, dropped) = (one.counts.sent, one.counts.errors, one.counts.dropped);
        let counts = DeliveryCounts { queue_length: one.queue_length, sent, errors, dropped };
        Alertmanager { url: one.url, counts: Some(counts) }
    };
    Ok(Data(Alertmanagers {
        active_alertmanagers: stats.alertmanagers.into_iter().map(active).collect(),
        dropped_alertmanagers: stats.dropped.into_iter().map(|url| Alertmanager { url, counts: None }).collect(),
        errors: stats.errors,
    }))
}
