//! Alertmanagers and what is sent to them: `/api/v1/alertmanagers`.

use crate::answer::{ApiResult, Data};
use crate::state::State;
use axum::extract;
use serde::Serialize;

#[derive(Serialize)]
pub struct Alertmanager {
    url: String,
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
    let urls = |urls: Vec<String>| urls.into_iter().map(|url| Alertmanager { url }).collect();
    Ok(Data(Alertmanagers {
        active_alertmanagers: urls(stats.alertmanagers.into_iter().map(|one| one.url).collect()),
        dropped_alertmanagers: urls(stats.dropped),
        errors: stats.errors,
    }))
}
