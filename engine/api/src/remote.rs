//! Remote write and remote read over HTTP: negotiation, bounds, and Prometheus' texts.
//!
//! Invariants:
//!   * a body is bounded before it is read, and its unpacked length before it is unpacked
//!   * 2xx means that the log has every sample

use crate::pieces::{self, FirstPiece};
use crate::read_params::refuse_everything;
use crate::state::State;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use promql::SelectedSeries;
use query::{QueryError, RawSeries, SelectRequest};
use remote::{DecodeError, Message, ResponseType, SeriesAnswer, WriteLimits};
use series::{Labels, MatchOp, Matcher, NO_START, Timestamp, start_of};
use shard::{Exemplar, PushedSeries, ReceiveOutcome, ShardError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A body as it comes, and unpacked.
const BODY_BYTES_MAX: usize = 32 << 20;
const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// How long another request waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// An answer in plain text, as Go's `http.Error` gives it.
pub(crate) fn refuse(status: StatusCode, text: impl std::fmt::Display) -> Response {
    let mut response = (status, format!("{text}\n")).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

impl From<DecodeError> for RequestError {
    fn from(error: DecodeError) -> RequestError {
        let status = match error {
            DecodeError::TooLarge { .. } | DecodeError::TooMany { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            DecodeError::Compression(_) | DecodeError::Zstd(_) | DecodeError::Message(_) | DecodeError::Json(_) => {
                StatusCode::BAD_REQUEST
            }
        };
        RequestError(status, error.to_string())
    }
}

impl From<ShardError> for RequestError {
    fn from(error: ShardError) -> RequestError {
        QueryError::from(error).into()
    }
}

impl From<QueryError> for RequestError {
    fn from(error: QueryError) -> RequestError {
        let status = match error {
            QueryError::Limit(_) | QueryError::TooManySamples | QueryError::Syntax(_) | QueryError::Execution(_) => {
                StatusCode::BAD_REQUEST
            }
            QueryError::Storage(_) | QueryError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            QueryError::Timeout(_) | QueryError::Canceled | QueryError::Unavailable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        RequestError(status, error.to_string())
    }
}

/// Why a request is not served.
pub(crate) struct RequestError(StatusCode, String);

impl RequestError {
    pub(crate) fn new(status: StatusCode, text: impl std::fmt::Display) -> RequestError {
        RequestError(status, text.to_string())
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        refuse(self.0, self.1)
    }
}

pub(crate) async fn turn(places: &Semaphore) -> Result<SemaphorePermit<'_>, RequestError> {
    match tokio::time::timeout(TURN_WITHIN, places.acquire()).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(RequestError::new(StatusCode::TOO_MANY_REQUESTS, "too many requests at once; try again")),
    }
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Snappy,
    /// As VictoriaMetrics' agents send it.
    Zstd,
}

/// A body, decompressed.
async fn unpacked(body: Body, compression: Compression) -> Result<Vec<u8>, RequestError> {
    let packed: Bytes = axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| {
        let text = error.to_string();
        let status = if text.contains("limit") { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        RequestError::new(status, format!("reading the body, of which {BODY_BYTES_MAX} bytes are taken: {text}"))
    })?;
    let whole = tokio::task::spawn_blocking(move || match compression {
        Compression::Snappy => remote::unpack(&packed, UNPACKED_BYTES_MAX),
        Compression::Zstd => remote::unpack_zstd(&packed, UNPACKED_BYTES_MAX),
    });
    Ok(whole.await.map_err(|error| RequestError::new(StatusCode::INTERNAL_SERVER_ERROR, error))??)
}

// --- write --------------------------------------------------------------------------------------------------------

/// Which message the headers announce, and how it is compressed.
fn message(headers: &HeaderMap) -> Result<(Message, Compression), RequestError> {
    let unsupported = |text: String| RequestError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").trim().to_owned();
    let content = text(header::CONTENT_TYPE);
    let mut parts = content.split(';').map(str::trim);
    let media = parts.next().unwrap_or("");
    if !media.is_empty() && !media.eq_ignore_ascii_case("application/x-protobuf") {
        return Err(unsupported(format!(
            "expected application/x-protobuf as the first (media) part, got {content} content-type"
        )));
    }
    let mut message = Message::V1;
    for part in parts {
        let Some((name, value)) = part.split_once('=') else {
            return Err(unsupported(format!(
                "as per https://www.rfc-editor.org/rfc/rfc9110#parameter expected parameters to be key-values, got {part} in {content} content-type"
            )));
        };
        if name.trim() == "proto" {
            message = match value.trim() {
                "prometheus.WriteRequest" => Message::V1,
                "io.prometheus.write.v2.Request" => Message::V2,
                other => {
                    return Err(unsupported(format!(
                        "got {content} content type; unknown type for remote write protobuf message {other}, supported: \
                         prometheus.WriteRequest, io.prometheus.write.v2.Request"
                    )));
                }
            };
        }
    }
    match &*text(header::CONTENT_ENCODING) {
        "" | "snappy" => Ok((message, Compression::Snappy)),
        "zstd" => Ok((message, Compression::Zstd)),
        other => Err(unsupported(format!(
            "{other} encoding (compression) is not accepted by this server; only snappy and zstd are acceptable"
        ))),
    }
}

/// `GET /api/v1/write?get_vm_proto_version=1`: older agents of VictoriaMetrics ask so whether zstd is taken.
pub async fn protocol_version(Extract(state): Extract<State>, request: Request) -> Response {
    let asks =
        request.uri().query().is_some_and(|query| query.split('&').any(|one| one.starts_with("get_vm_proto_version=")));
    match state.parts.remote.receiver && asks {
        true => "1".into_response(),
        false => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

/// `POST /api/v1/write`.
pub async fn write(Extract(state): Extract<State>, request: Request) -> Response {
    if !state.parts.remote.receiver {
        let text = "remote write receiver needs to be enabled with --web.enable-remote-write-receiver";
        return refuse(StatusCode::NOT_FOUND, text);
    }
    take(&state, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn take(state: &State, request: Request) -> Result<Response, RequestError> {
    let (message, compression) = message(request.headers())?;
    let _place = turn(&state.remote.writes).await?;
    let body = unpacked(request.into_body(), compression).await?;
    let labels_types = state.parts.remote.features.labels_types;
    let limits = WriteLimits { labels_types, ..WriteLimits::default() };
    let decode = move || remote::decode_write(message, &body, &limits);
    let decoded = tokio::task::spawn_blocking(decode).await;
    let decoded = decoded.map_err(|error| RequestError::new(StatusCode::INTERNAL_SERVER_ERROR, error))??;
    let received = |one: remote::Incoming| received(state, one);
    state.remote.metadata.take(decoded.metadata);
    let exemplars_written = append_exemplars(state, decoded.exemplars).await?;
    let outcome = state.parts.shards.receive(decoded.series.into_iter().map(received).collect()).await?;
    let mut reasons = decoded.refusals;
    reasons.extend(outcome.refused.iter().map(|refused| format!("{} for series {}", refused.refusal, refused.labels)));
    let full = outcome.count(shard::Refusal::TooManySeries) > 0;
    let status = match (reasons.is_empty(), full) {
        (_, true) => StatusCode::TOO_MANY_REQUESTS,
        (true, _) => StatusCode::NO_CONTENT,
        (false, _) => StatusCode::BAD_REQUEST,
    };
    let mut response = match reasons.is_empty() {
        true => status.into_response(),
        false => refuse(status, reasons.join("\n")),
    };
    written(&outcome, exemplars_written, response.headers_mut());
    Ok(response)
}

/// A series for the shards.
pub fn received(state: &State, series: remote::Incoming) -> PushedSeries {
    let remote::Incoming { labels, samples, histograms, mut starts } = series;
    let features = state.parts.remote.features;
    let first = samples.first().map(|sample| sample.timestamp.0).or(histograms.first().map(|(at, _)| *at));
    let start = first.map(|at| start_of(&starts, at)).filter(|start| features.injects_zeros && *start != NO_START);
    if !features.stores_starts {
        starts.clear();
    }
    PushedSeries { labels, samples, histograms, start, starts }
}

/// Stores exemplars, before their samples: the log has them in this order. Returns how many are accepted.
pub async fn append_exemplars(state: &State, exemplars: Vec<remote::IncomingExemplar>) -> Result<u64, RequestError> {
    let exemplar = |one: remote::IncomingExemplar| {
        let remote::IncomingExemplar { series, labels, value, timestamp } = one;
        (series, Exemplar { labels, value, timestamp: Some(timestamp.0) })
    };
    Ok(state.parts.shards.append_exemplars(exemplars.into_iter().map(exemplar).collect()).await?)
}

/// Tells what was kept, as remote write 2.0 wants it.
fn written(outcome: &ReceiveOutcome, exemplars: u64, headers: &mut HeaderMap) {
    let mut set = |name: &'static str, count: u64| headers.insert(name, HeaderValue::from(count));
    set("x-prometheus-remote-write-samples-written", outcome.samples);
    set("x-prometheus-remote-write-histograms-written", outcome.histograms);
    set("x-prometheus-remote-write-exemplars-written", exemplars);
}

// --- read ---------------------------------------------------------------------------------------------------------

/// `POST /api/v1/read`.
pub async fn read(Extract(state): Extract<State>, request: Request) -> Response {
    answer(&state, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(state: &State, request: Request) -> Result<Response, RequestError> {
    let _place = turn(&state.remote.reads).await?;
    let body = unpacked(request.into_body(), Compression::Snappy).await?;
    let request = remote::decode_read(&body)?;
    let Some(kind) = request.response else {
        let text = "none of requested response types are supported: SAMPLES and STREAMED_XOR_CHUNKS are";
        return Err(RequestError::new(StatusCode::BAD_REQUEST, text));
    };
    let settings = &state.parts.remote;
    let external = state.running().config.global.external_labels.clone();
    let samples_max = match kind {
        ResponseType::Samples => settings.read_samples_max,
        // A stream is bounded by the memory of its query.
        ResponseType::StreamedXorChunks => 0,
    };
    let mut left = samples_max;
    let mut answers: Vec<Vec<SelectedSeries>> = Vec::with_capacity(request.queries.len());
    // For the memory of the answers, until they have been written.
    let mut charges = Vec::with_capacity(request.queries.len());
    for query in request.queries {
        refuse_everything(&query.matchers).map_err(|error| RequestError::new(StatusCode::BAD_REQUEST, error))?;
        let matchers = query.matchers.into_iter().map(|matcher| without_external(matcher, &external)).collect();
        let (from, to) = (Timestamp(query.from), Timestamp(query.to));
        // What earlier questions have taken counts; a limit of 0 would be none.
        let request = SelectRequest { matchers, from, to, samples_max: left };
        let RawSeries { series: found, charge } =
            state.parts.query.select_raw(request).await.map_err(|error| match error {
                QueryError::TooManySamples => {
                    RequestError::new(StatusCode::BAD_REQUEST, format!("exceeded sample limit ({samples_max})"))
                }
                error => error.into(),
            })?;
        charges.push(charge);
        if samples_max > 0 {
            let histograms = found.iter().flat_map(|series| &series.histograms);
            let histograms: usize = histograms.map(|(_, histogram)| promql::histogram_size(histogram)).sum();
            let taken = histograms + found.iter().map(|series| series.samples.len()).sum::<usize>();
            left = left.saturating_sub(taken).max(1);
        }
        answers.push(found);
    }
    let sorted = move || {
        let of_series = |series: SelectedSeries| SeriesAnswer {
            labels: series.labels.merged(&external),
            samples: series.samples,
            histograms: series.histograms,
        };
        let of_query = |found: Vec<SelectedSeries>| {
            let mut found: Vec<SeriesAnswer> = found.into_iter().map(of_series).collect();
            found.sort_by(|one, other| one.labels.cmp(&other.labels));
            found
        };
        answers.into_iter().map(of_query).collect::<Vec<_>>()
    };
    let ended = |error| RequestError::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    Ok(match kind {
        ResponseType::Samples => {
            let whole = move || {
                let _charges = charges;
                remote::pack(&remote::encode_samples(&sorted()))
            };
            let body = query::spawn_low_priority(whole).await.map_err(ended)?;
            let headers = [(header::CONTENT_TYPE, "application/x-protobuf"), (header::CONTENT_ENCODING, "snappy")];
            (headers, body).into_response()
        }
        ResponseType::StreamedXorChunks => {
            let frame_bytes_max = settings.frame_bytes_max;
            let frames = move || remote::Frames::new(sorted(), frame_bytes_max);
            let frames = query::spawn_low_priority(frames).await.map_err(ended)?;
            let frames = frames.inspect(move |_| {
                let _charges = &charges;
            });
            let kind = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
            ([(header::CONTENT_TYPE, kind)], pieces::body(frames, FirstPiece::OnThread)).into_response()
        }
    })
}

/// A matcher that names one of our external labels by its value: no stored series has that label.
fn without_external(matcher: Matcher, external: &Labels) -> Matcher {
    let ours = external.get(matcher.name()).is_some_and(|value| value == matcher.value());
    match matcher.op() {
        MatchOp::Equal if ours => Matcher::new(matcher.name(), MatchOp::Equal, "").unwrap_or(matcher),
        _ => matcher,
    }
}
