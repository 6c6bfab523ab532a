//! `/-/…`: health, readiness, reload, quit.

use crate::state::State;
use axum::extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;

pub async fn healthy() -> &'static str {
    "ringscrape is Healthy.\n"
}

/// Ready once the cores answer and everything that was stored can be asked for.
pub async fn ready(state: extract::State<State>) -> Response {
    if state.parts.shards.store().is_some_and(|store| !store.replay().done) {
        return (StatusCode::SERVICE_UNAVAILABLE, "the logs of the last run are being read\n").into_response();
    }
    match state.parts.shards.stats().await {
        Ok(_) if state.parts.shards.agent().is_some() => "ringscrape agent is Ready.\n".into_response(),
        Ok(_) => "ringscrape is Ready.\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

fn lifecycle_is_off() -> Response {
    (StatusCode::FORBIDDEN, "Lifecycle API is not enabled.").into_response()
}

pub async fn reload(state: extract::State<State>) -> Response {
    if !state.parts.enable_lifecycle {
        return lifecycle_is_off();
    }
    let (reply, outcome) = oneshot::channel();
    let failed = |text: String| (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {text}\n"));
    if state.parts.reload.try_send(reply).is_err() {
        return failed("too many reloads are waiting".into()).into_response();
    }
    match outcome.await {
        Ok(Ok(())) => StatusCode::OK.into_response(),
        Ok(Err(error)) => failed(error).into_response(),
        Err(_) => failed("the server is shutting down".into()).into_response(),
    }
}

pub async fn quit(state: extract::State<State>) -> Response {
    if !state.parts.enable_lifecycle {
        return lifecycle_is_off();
    }
    // A second wish to quit while the first is on its way changes nothing.
    let _ = state.parts.quit.try_send(());
    "Requesting termination... Goodbye!".into_response()
}
