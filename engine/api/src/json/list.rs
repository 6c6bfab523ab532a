//! A list as the data of an answer, written in pieces as fast as the client takes them.

use crate::answer::drop_entries;
use crate::pieces::{self, BYTES_AT_ONCE, FirstPiece};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use promql::budget::Charge;
use serde_json::json;

/// Prometheus' warning about a list that a limit has shortened.
pub const TRUNCATED: &str = "results truncated due to limit";

/// A list that is written item by item.
struct ListStream<T: Send + 'static, W> {
    items: std::vec::IntoIter<T>,
    write: W,
    head: Option<&'static str>,
    tail: Option<String>,
    is_first: bool,
    /// For the memory of the items, until they have been written.
    _charge: Charge,
}

/// A client that leaves early leaves what it has not read.
impl<T: Send + 'static, W> Drop for ListStream<T, W> {
    fn drop(&mut self) {
        let count = self.items.len();
        drop_entries(std::mem::take(&mut self.items), count);
    }
}

impl<T: Send + 'static, W: Fn(&mut String, &T)> Iterator for ListStream<T, W> {
    type Item = String;

    fn next(&mut self) -> Option<Self::Item> {
        let mut out = self.head.take().unwrap_or_default().to_owned();
        while out.len() < BYTES_AT_ONCE {
            let Some(item) = self.items.next() else {
                out += &self.tail.take().unwrap_or_default();
                break;
            };
            if !std::mem::take(&mut self.is_first) {
                out.push(',');
            }
            (self.write)(&mut out, &item);
        }
        (!out.is_empty()).then_some(out)
    }
}

/// The response with a list, each item written by `write`.
pub fn respond<T: Send + 'static>(
    items: Vec<T>,
    write: impl Fn(&mut String, &T) + Send + 'static,
    is_truncated: bool,
    charge: Charge,
) -> Response {
    let warnings = if is_truncated { format!(",\"warnings\":{}", json!([TRUNCATED])) } else { String::new() };
    let first = FirstPiece::of(items.len());
    let stream = ListStream {
        items: items.into_iter(),
        write,
        head: Some("{\"status\":\"success\",\"data\":["),
        tail: Some(format!("]{warnings}}}")),
        is_first: true,
        _charge: charge,
    };
    ([(header::CONTENT_TYPE, "application/json")], pieces::body(stream, first)).into_response()
}
