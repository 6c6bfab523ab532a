//! Request bodies are read whole before a handler runs.
//!
//! A client that sends a head and then nothing holds its connection and nothing else: no permit, no query slot.
//!
//! Invariants:
//!   * a body has at most [`BODY_BYTES_MAX`]; all bodies that are being read or handled have at most [`ALL_BYTES_MAX`]
//!   * a body arrives within the read timeout, and never stands still for [`STALL_MAX`]

use crate::answer::ApiError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Largest body, as it comes over the wire.
pub(crate) const BODY_BYTES_MAX: usize = 32 << 20;
/// All bodies together: eight of the largest.
const ALL_BYTES_MAX: usize = 8 * BODY_BYTES_MAX;
/// Longest time without a byte of a body.
const STALL_MAX: Duration = Duration::from_secs(30);

/// What all bodies together may take. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub(crate) struct BodyBuffer {
    free_bytes: Arc<Semaphore>,
    read_timeout: Duration,
}

impl BodyBuffer {
    pub fn new(read_timeout: Duration) -> BodyBuffer {
        BodyBuffer { free_bytes: Arc::new(Semaphore::new(ALL_BYTES_MAX)), read_timeout }
    }

    /// Reads a body to its end. The permit stands for its bytes.
    async fn read(&self, mut body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), BodyError> {
        let expected = body.size_hint().exact().unwrap_or(0);
        if expected > BODY_BYTES_MAX as u64 {
            return Err(BodyError::TooLarge);
        }
        let deadline = Instant::now() + self.read_timeout;
        let mut permit: Option<OwnedSemaphorePermit> = None;
        let mut whole = Vec::new();
        loop {
            let within = deadline.min(Instant::now() + STALL_MAX);
            let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx));
            let frame = match timeout_at(within, frame).await {
                Err(_) => return Err(BodyError::TooSlow),
                Ok(None) => return Ok((whole.into(), permit)),
                Ok(Some(Err(error))) => return Err(BodyError::Broken(error.to_string())),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > BODY_BYTES_MAX {
                return Err(BodyError::TooLarge);
            }
            // A `u32` holds BODY_BYTES_MAX.
            let more = self.free_bytes.clone().try_acquire_many_owned(data.len() as u32);
            let more = more.map_err(|_| BodyError::TooMany)?;
            match &mut permit {
                Some(permit) => permit.merge(more),
                None => permit = Some(more),
            }
            whole.extend_from_slice(&data);
        }
    }
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the body has more than {BODY_BYTES_MAX} bytes, which is the limit")]
    TooLarge,
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("too many bodies at once; try again")]
    TooMany,
    #[error("reading the body: {0}")]
    Broken(String),
}

impl BodyError {
    fn status(&self) -> StatusCode {
        match self {
            BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BodyError::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// The answer: the envelope of the API where clients expect it, text where Prometheus answers text.
    fn response(&self, path: &str) -> Response {
        let is_remote = ["/write", "/read", "/otlp/v1/metrics"].iter().any(|end| path.ends_with(end));
        let mut response = if path.contains("/api/v1/") && !is_remote {
            let kind = if self.status().is_client_error() { "bad_data" } else { "unavailable" };
            ApiError { status: self.status(), kind, text: self.to_string() }.into_response()
        } else {
            (self.status(), format!("{self}\n")).into_response()
        };
        if matches!(self, BodyError::TooMany) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Middleware: hands a request on once its body is there.
pub(crate) async fn buffer_body(Extract(buffer): Extract<BodyBuffer>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match buffer.read(body).await {
        Ok((whole, _permit)) => next.run(Request::from_parts(parts, whole.into())).await,
        Err(error) => error.response(parts.uri.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn body(pieces: usize, bytes: usize) -> Body {
        let pieces = (0..pieces).map(move |_| Ok::<_, Infallible>(Bytes::from(vec![7; bytes])));
        Body::from_stream(futures_lite::stream::iter(pieces))
    }

    #[tokio::test]
    async fn bodies_are_bounded_one_by_one_and_together() {
        let buffer = BodyBuffer::new(Duration::from_secs(60));
        let (whole, permit) = buffer.read(body(3, 5)).await.unwrap();
        assert_eq!((whole.len(), permit.unwrap().num_permits()), (15, 15));
        assert_eq!(buffer.free_bytes.available_permits(), ALL_BYTES_MAX);
        let error = buffer.read(body(33, 1 << 20)).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let known = buffer.read(Body::from(vec![0; BODY_BYTES_MAX + 1])).await.unwrap_err();
        assert_eq!(known.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let mut held = Vec::new();
        let error = loop {
            match buffer.read(body(32, 1 << 20)).await {
                Ok((_, permit)) => held.push(permit),
                Err(error) => break error,
            }
        };
        assert_eq!((error.status(), held.len()), (StatusCode::SERVICE_UNAVAILABLE, 8));
        held.clear();
        assert_eq!(buffer.free_bytes.available_permits(), ALL_BYTES_MAX, "what was refused is given back");
    }

    #[tokio::test]
    async fn a_body_that_stands_still_is_given_up() {
        let buffer = BodyBuffer::new(Duration::from_millis(50));
        let never = Body::from_stream(futures_lite::stream::pending::<Result<Bytes, Infallible>>());
        let error = buffer.read(never).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(error.response("/api/v1/query").headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(error.response("/api/v1/write").headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    }
}
