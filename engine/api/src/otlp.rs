//! `POST /api/v1/otlp/v1/metrics`: metrics as OpenTelemetry sends them.
//!
//! Invariants:
//!   * a body is bounded before it is read, and its unpacked length while it is unpacked
//!   * 200 means that the log has every point but those that the response counts as rejected

use crate::remote::{RequestError, append_exemplars, received, refuse, turn};
use crate::state::State;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use config::{Otlp, TranslationStrategy};
use remote::otlp::{
    DeltaHandling, NameStrategy, OtlpMetrics, OtlpSettings, OtlpTranslation, Promotion, partial_success_json,
    partial_success_protobuf, translate,
};
use series::clock::now_ms;
use std::io::Read;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// A body as it comes, and unpacked.
const BODY_BYTES_MAX: usize = 32 << 20;
const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// Bytes of reasons in a response.
const REASONS_BYTES_MAX: usize = 4 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Protobuf,
    Json,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::Protobuf => "application/x-protobuf",
            Form::Json => "application/json",
        }
    }

    fn of(headers: &HeaderMap) -> Result<Form, RequestError> {
        let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let form = [Form::Protobuf, Form::Json].into_iter().find(|form| form.name() == given);
        form.ok_or_else(|| {
            let text =
                format!("unsupported content type: {given}, supported: [application/json, application/x-protobuf]");
            RequestError::new(StatusCode::BAD_REQUEST, text)
        })
    }
}

/// Whether the body is gzipped.
fn is_gzipped(headers: &HeaderMap) -> Result<bool, RequestError> {
    match headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("") {
        "" => Ok(false),
        "gzip" => Ok(true),
        other => {
            let text = format!("unsupported compression: {other}. Only \"gzip\" or no compression supported");
            Err(RequestError::new(StatusCode::BAD_REQUEST, text))
        }
    }
}

/// How the section of the configuration has requests translated.
pub(crate) fn settings(section: Option<&Otlp>, deltas: DeltaHandling, lookback_ms: i64) -> OtlpSettings {
    let section = section.cloned().unwrap_or_default();
    let (escapes, has_suffixes) = match section.translation_strategy {
        TranslationStrategy::UnderscoreEscapingWithSuffixes => (true, true),
        TranslationStrategy::UnderscoreEscapingWithoutSuffixes => (true, false),
        TranslationStrategy::NoUtf8EscapingWithSuffixes => (false, true),
        TranslationStrategy::NoTranslation => (false, false),
    };
    OtlpSettings {
        names: NameStrategy {
            escapes,
            has_suffixes,
            sanitizes_underscores: section.label_name_underscore_sanitization,
            preserves_underscores: section.label_name_preserve_multiple_underscores,
        },
        promotion: match section.promote_all_resource_attributes {
            true => Promotion::AllBut(section.ignore_resource_attributes.into_iter().collect()),
            false => Promotion::Only(section.promote_resource_attributes.into_iter().collect()),
        },
        promotes_scope: section.promote_scope_metadata,
        keeps_identifying: section.keep_identifying_resource_attributes,
        custom_buckets: section.convert_histograms_to_nhcb,
        deltas,
        lookback_ms,
    }
}

/// `POST /api/v1/otlp/v1/metrics`.
pub async fn write(Extract(state): Extract<State>, request: Request) -> Response {
    if !state.parts.remote.otlp_receiver {
        return refuse(
            StatusCode::NOT_FOUND,
            "otlp write receiver needs to be enabled with --web.enable-otlp-receiver",
        );
    }
    take(&state, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn take(state: &State, request: Request) -> Result<Response, RequestError> {
    let form = Form::of(request.headers())?;
    let is_gzipped = is_gzipped(request.headers())?;
    let _place = turn(&state.remote.writes).await?;
    let body = read(request.into_body()).await?;
    let lookback_ms = i64::try_from(state.parts.query.settings().plan.lookback.as_millis()).unwrap_or(i64::MAX);
    let settings = settings(state.running().config.otlp.as_ref(), state.parts.remote.otlp_deltas, lookback_ms);
    let work = move || translated(&body, is_gzipped, form, &settings);
    let translated = tokio::task::spawn_blocking(work).await;
    let mut translated = translated.map_err(|error| RequestError::new(StatusCode::INTERNAL_SERVER_ERROR, error))??;
    if !translated.deltas.is_empty() {
        state.remote.deltas.lock().unwrap_or_else(PoisonError::into_inner).apply(&mut translated, now_ms());
    }
    let OtlpTranslation { series, metadata, exemplars, mut rejected_points, mut reasons, .. } = translated;
    state.remote.metadata.take(metadata);
    append_exemplars(state, exemplars).await?;
    let received = |one: remote::Incoming| received(state, one);
    let outcome = state.parts.shards.receive(series.into_iter().map(received).collect()).await?;
    if outcome.count(shard::Refusal::TooManySeries) > 0 {
        return Err(RequestError::new(StatusCode::TOO_MANY_REQUESTS, "too many series; try again"));
    }
    rejected_points += outcome.counts.iter().map(|(_, count)| count).sum::<u64>();
    reasons.extend(outcome.refused.iter().map(|refused| format!("{} for series {}", refused.refusal, refused.labels)));
    if rejected_points == 0 {
        return Ok((StatusCode::OK, [(header::CONTENT_TYPE, form.name())]).into_response());
    }
    state.remote.otlp_rejected_points.fetch_add(rejected_points, Ordering::Relaxed);
    let mut message = reasons.join("; ");
    message.truncate(message.floor_char_boundary(REASONS_BYTES_MAX));
    tracing::debug!(rejected_points, message, "points of OTLP were rejected");
    let body = match form {
        Form::Protobuf => partial_success_protobuf(rejected_points, &message),
        Form::Json => partial_success_json(rejected_points, &message),
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(form.name()))], body).into_response())
}

async fn read(body: Body) -> Result<Bytes, RequestError> {
    axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| {
        let text = error.to_string();
        let status = if text.contains("limit") { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        RequestError::new(status, format!("reading the body, of which {BODY_BYTES_MAX} bytes are taken: {text}"))
    })
}

fn translated(
    body: &[u8],
    is_gzipped: bool,
    form: Form,
    settings: &OtlpSettings,
) -> Result<OtlpTranslation, RequestError> {
    let mut unpacked = Vec::new();
    let body = if is_gzipped {
        let decoder = flate2::read::MultiGzDecoder::new(body);
        let read = decoder.take(UNPACKED_BYTES_MAX as u64 + 1).read_to_end(&mut unpacked);
        let failed = |error: std::io::Error| RequestError::new(StatusCode::BAD_REQUEST, format!("gzip: {error}"));
        if read.map_err(failed)? > UNPACKED_BYTES_MAX {
            let text = format!("the body unpacks to more than {UNPACKED_BYTES_MAX} bytes");
            return Err(RequestError::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        &unpacked
    } else {
        body
    };
    let metrics = match form {
        Form::Protobuf => OtlpMetrics::from_protobuf(body),
        Form::Json => OtlpMetrics::from_json(body),
    };
    Ok(translate(&metrics?, settings))
}
