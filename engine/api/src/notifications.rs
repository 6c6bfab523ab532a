//! `/api/v1/notifications`: what an operator should know now, as a list and as a stream of events.

use crate::active_notifications::Notification;
use crate::answer::{ApiResult, Data};
use crate::state::{Inner, State};
use axum::body::{Body, Bytes};
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a stream looks at what there is to know.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A stream without news says at least this often that it is alive.
const SIGN_OF_LIFE_EVERY: u32 = 15;
/// Comments of a stream are no events.
const SIGN_OF_LIFE: &str = ": still here\n\n";

/// Counts a listener for as long as its stream lives.
struct Subscription(State);

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.notifications.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is to know of the state at hand.
fn texts(state: &Inner) -> Vec<&'static str> {
    let replays = state.parts.shards.store().is_some_and(|store| !store.replay().done);
    let all = [
        (state.running().refused.is_some(), "Configuration reload has failed."),
        (replays, "ringscrape has started and reads the logs of its last run."),
        (*state.parts.stopping.borrow(), "ringscrape is shutting down."),
    ];
    all.into_iter().filter(|(is_so, _)| *is_so).map(|(_, text)| text).collect()
}

fn look(state: &State) -> Vec<Notification> {
    state.notifications.update(&texts(state))
}

/// `/api/v1/notifications`.
pub(crate) async fn list(state: extract::State<State>) -> ApiResult<Vec<Notification>> {
    Ok(Data(look(&state)))
}

/// `/api/v1/notifications/live`: what is active first, then what begins and ends. Without content when too many listen.
pub(crate) async fn live(state: extract::State<State>) -> Response {
    let state = state.0;
    let take = |listening: usize| (listening < state.parts.notifications_subscribers_max).then_some(listening + 1);
    if state.notifications.subscribers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
        return StatusCode::NO_CONTENT.into_response();
    }
    let subscription = Subscription(state);
    let events = futures_lite::stream::unfold((subscription, None), async |(subscription, known)| {
        let (text, known) = news(&subscription.0, known).await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), (subscription, Some(known))))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(events)).into_response()
}

/// The next events for somebody who knows these, or a sign of life; None at the end of the server.
async fn news(state: &State, known: Option<Vec<Notification>>) -> Option<(String, Vec<Notification>)> {
    let Some(known) = known else {
        let now = look(state);
        // Something is sent at once, so that the listener knows that it is heard.
        let text = if now.is_empty() { SIGN_OF_LIFE.to_owned() } else { events(state, now.clone()) };
        return Some((text, now));
    };
    let mut stopping = state.parts.stopping.clone();
    for _ in 0..SIGN_OF_LIFE_EVERY {
        let now = look(state);
        let ended = known.iter().filter(|one| !now.iter().any(|other| other.text == one.text));
        let ended = ended.map(|one| Notification { active: false, ..one.clone() });
        let begun = now.iter().filter(|one| !known.contains(one)).cloned();
        let changes: Vec<Notification> = ended.chain(begun).collect();
        if !changes.is_empty() {
            return Some((events(state, changes), now));
        }
        if *stopping.borrow() {
            return None;
        }
        // An error says that the server has gone.
        let _ = tokio::time::timeout(LOOK_EVERY, stopping.wait_for(|stop| *stop)).await;
    }
    Some((SIGN_OF_LIFE.to_owned(), known))
}

fn events(state: &State, notifications: Vec<Notification>) -> String {
    state.notifications.sent.fetch_add(notifications.len() as u64, Ordering::Relaxed);
    let event = |one: Notification| format!("data: {}\n\n", serde_json::to_string(&one).unwrap_or_default());
    notifications.into_iter().map(event).collect()
}
