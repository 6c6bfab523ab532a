//! Lists of an HTTP service that returns target groups in JSON.

use super::list::ListReader;
use super::{Group, ReceiverClosed, Reporter, answer_within};
use client::header::{ACCEPT, ETAG, IF_NONE_MATCH};
use client::{Client, ClientOptions, HeaderName, HeaderValue, Request, StatusCode};
use config::HttpSdConfig;
use std::sync::Arc;
use std::time::Instant;

/// Request header with the refresh interval.
const REFRESH_INTERVAL: HeaderName = HeaderName::from_static("x-prometheus-refresh-interval-seconds");

/// Reports the lists of the service until it is dropped.
pub async fn follow(settings: HttpSdConfig, mut report: Reporter) {
    let Some(url) = settings.url.clone() else { return };
    let options = ClientOptions { timeout: answer_within(settings.refresh_interval), ..ClientOptions::default() };
    let client = match Client::new(&settings.http, options) {
        Ok(client) => client,
        Err(error) => {
            let _ = report.failed(error.text).await;
            return;
        }
    };
    let mut last = Last { tag: None, reader: ListReader::new("__meta_url", url.as_str()) };
    loop {
        let since = Instant::now();
        let answer = request(&client, &url, &settings, &mut last).await;
        report.attempted(since);
        report.count_requests(1);
        let told = match answer {
            Ok(Some(groups)) => report.good(groups, Vec::new()).await,
            Ok(None) => report.unchanged().await,
            Err(error) => report.failed(error).await,
        };
        if let Err(ReceiverClosed) = told {
            return;
        }
        report.pause(settings.refresh_interval).await;
    }
}

/// The last valid list.
struct Last {
    tag: Option<HeaderValue>,
    reader: ListReader,
}

/// Returns the list, or `None` if it is unchanged.
async fn request(
    client: &Client,
    url: &client::Url,
    settings: &HttpSdConfig,
    last: &mut Last,
) -> Result<Option<Vec<Arc<Group>>>, String> {
    let mut request = Request::get(url.clone()).header(ACCEPT, "application/json");
    if let Ok(seconds) = settings.refresh_interval.as_secs_f64().to_string().parse() {
        request.headers.insert(REFRESH_INTERVAL, seconds);
    }
    if let Some(tag) = &last.tag {
        request.headers.insert(IF_NONE_MATCH, tag.clone());
    }
    let place = client::shown(url);
    let response = client.send(request).await.map_err(|error| error.text)?;
    if response.status == StatusCode::NOT_MODIFIED && last.tag.is_some() {
        return Ok(None);
    }
    if response.status != StatusCode::OK {
        return Err(format!("{place}: server returned HTTP status {}", response.status));
    }
    if response.content_type() != "application/json" {
        return Err(format!(
            "{place}: unsupported content type {:?}; it must be application/json",
            response.content_type()
        ));
    }
    let tag = response.headers.get(ETAG).cloned();
    let mut reader = last.reader.clone();
    let parsed = tokio::task::spawn_blocking(move || (reader.read(&response.body), reader));
    let (groups, reader) = parsed.await.map_err(|panic| panic.to_string())?;
    let groups = groups.map_err(|error| format!("{place}: {error}"))?;
    // Only of a valid list: after an invalid one, the whole list is requested again.
    *last = Last { tag, reader };
    Ok(Some(groups))
}
