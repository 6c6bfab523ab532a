//! The envelope of API answers, and times and numbers as Prometheus writes them.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use series::{Rfc3339, Timestamp};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{SystemTime, UNIX_EPOCH};

/// A refused or failed question, with Prometheus' error types.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub kind: &'static str,
    pub text: String,
}

impl ApiError {
    pub fn bad_data(text: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::BAD_REQUEST, kind: "bad_data", text: text.into() }
    }

    pub fn internal(text: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "internal", text: text.into() }
    }

    pub fn not_found(text: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::NOT_FOUND, kind: "not_found", text: text.into() }
    }
}

impl From<shard::ShardError> for ApiError {
    fn from(error: shard::ShardError) -> ApiError {
        let (status, kind) = match error {
            shard::ShardError::Timeout { .. } => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            shard::ShardError::Stopped { .. } | shard::ShardError::NotKept(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            shard::ShardError::Limit(_) | shard::ShardError::Blocks(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "execution")
            }
        };
        ApiError { status, kind, text: error.to_string() }
    }
}

impl From<query::QueryError> for ApiError {
    fn from(error: query::QueryError) -> ApiError {
        use query::QueryError;
        let (status, kind) = match &error {
            QueryError::Syntax(_) => (StatusCode::BAD_REQUEST, "bad_data"),
            QueryError::Execution(_) | QueryError::Limit(_) | QueryError::TooManySamples | QueryError::Storage(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "execution")
            }
            QueryError::Timeout(_) => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            // As nginx has it: the client closed the request.
            QueryError::Canceled => (StatusCode::from_u16(499).expect("a status"), "canceled"),
            QueryError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            QueryError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        ApiError { status, kind, text: error.to_string() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"status": "error", "errorType": self.kind, "error": self.text});
        (self.status, axum::Json(body)).into_response()
    }
}

/// A successful answer.
pub struct Data<T>(pub T);

impl<T: Serialize> IntoResponse for Data<T> {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Envelope<T> {
            status: &'static str,
            data: T,
        }
        axum::Json(Envelope { status: "success", data: self.0 }).into_response()
    }
}

/// Makes an answer that grows with targets or series on a thread that may block: the control threads serve everybody.
///
/// # Errors
/// Those of `make`.
pub async fn bulk(make: impl FnOnce() -> Result<Response, ApiError> + Send + 'static) -> Result<Response, ApiError> {
    let made = query::spawn_low_priority(make).await;
    made.unwrap_or_else(|error| Err(ApiError::internal(format!("the thread of the answer ended: {error}"))))
}

/// Entries of an answer that a control thread may sort or drop: a fraction of a millisecond.
pub const ENTRIES_ON_CONTROL_MAX: usize = 1024;

/// Drops the `count` entries that a client has not read: many of them on a thread for that alone, one answer after the
/// other, so that hundreds of clients that leave at once do not take the CPUs from everybody else.
pub fn drop_entries<T: Send + 'static>(entries: T, count: usize) {
    static DROPPER: OnceLock<Option<Sender<Box<dyn Send>>>> = OnceLock::new();
    if count <= ENTRIES_ON_CONTROL_MAX {
        return;
    }
    let start = || {
        let (dropper, unread) = channel::<Box<dyn Send>>();
        let work = move || unread.into_iter().for_each(drop);
        std::thread::Builder::new().name("drop".into()).spawn(work).ok().map(|_| dropper)
    };
    if let Some(dropper) = DROPPER.get_or_init(start) {
        // If the thread has ended, the entries come back in the error and are dropped here.
        let _ = dropper.send(Box::new(entries));
    }
}

/// What an API handler returns.
pub type ApiResult<T> = Result<Data<T>, ApiError>;

/// Go's zero time, which stands for "never".
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(unix_ms: i64) -> String {
    Rfc3339(Timestamp(unix_ms)).to_string()
}

pub fn rfc3339_of(time: SystemTime) -> String {
    rfc3339(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
}
