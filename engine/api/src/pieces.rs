//! Bodies of answers that are made piece by piece, as fast as the client takes them.
//!
//! A piece is made on a thread that may block: the control threads serve everybody, and a client that reads fast would keep
//! one of them.

use crate::answer::ENTRIES_ON_CONTROL_MAX;
use axum::body::{Body, Bytes};
use futures_lite::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// So much is made at a time, but for a piece that is larger: makers of texts make pieces of this size.
pub const BYTES_AT_ONCE: usize = 64 << 10;

/// Where the first piece is made. All others are made on threads that may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPiece {
    /// On the control thread: for small answers.
    OnControl,
    OnThread,
}

impl FirstPiece {
    /// Of an answer with so many entries.
    pub fn of(entries: usize) -> FirstPiece {
        if entries <= ENTRIES_ON_CONTROL_MAX { FirstPiece::OnControl } else { FirstPiece::OnThread }
    }
}

/// A body of these pieces.
pub fn body<I>(pieces: I, first: FirstPiece) -> Body
where
    I: Iterator<Item: Into<Bytes> + Send> + Send + 'static,
{
    let state = match first {
        FirstPiece::OnControl => State::Here(pieces),
        FirstPiece::OnThread => State::Waiting(pieces),
    };
    Body::from_stream(PieceStream(state))
}

/// Pieces up to [`BYTES_AT_ONCE`] together: a change of threads costs as much as a small piece. None at the end.
fn enough_of(pieces: &mut impl Iterator<Item: Into<Bytes>>) -> Option<Bytes> {
    let first: Bytes = pieces.next()?.into();
    if first.len() >= BYTES_AT_ONCE {
        return Some(first);
    }
    let mut all = first.to_vec();
    while all.len() < BYTES_AT_ONCE {
        let Some(piece) = pieces.next() else { break };
        all.extend_from_slice(&piece.into());
    }
    Some(all.into())
}

struct PieceStream<I: Iterator>(State<I>);

// Nothing in it is pinned.
impl<I: Iterator> Unpin for PieceStream<I> {}

enum State<I: Iterator> {
    Here(I),
    /// Until the client takes the next piece.
    Waiting(I),
    AtWork(JoinHandle<Option<(I, Bytes)>>),
    Ended,
}

impl<I> Stream for PieceStream<I>
where
    I: Iterator<Item: Into<Bytes> + Send> + Send + 'static,
{
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            let made = match &mut self.0 {
                State::AtWork(work) => ready!(Pin::new(work).poll(cx)).map_err(io::Error::other)?,
                state => match std::mem::replace(state, State::Ended) {
                    State::Waiting(mut pieces) => {
                        let work = move || enough_of(&mut pieces).map(|bytes| (pieces, bytes));
                        *state = State::AtWork(query::spawn_low_priority(work));
                        continue;
                    }
                    State::Here(mut pieces) => pieces.next().map(|piece| (pieces, piece.into())),
                    State::AtWork(_) | State::Ended => None,
                },
            };
            return Poll::Ready(match made {
                Some((pieces, bytes)) => {
                    self.0 = State::Waiting(pieces);
                    Some(Ok(bytes))
                }
                None => {
                    self.0 = State::Ended;
                    None
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::thread::ThreadId;

    #[tokio::test]
    async fn pieces_come_in_order_and_are_made_on_other_threads() {
        for (first, on_control) in [(FirstPiece::OnControl, 1), (FirstPiece::OnThread, 0)] {
            let makers: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
            let noted = makers.clone();
            let text = |i: usize| format!("{i}{},", "x".repeat(i * i * 20));
            let pieces = (0..100).map(move |i| {
                noted.lock().unwrap().push(std::thread::current().id());
                text(i)
            });
            let whole = axum::body::to_bytes(body(pieces, first), usize::MAX).await.unwrap();
            let expected: String = (0..100).map(text).collect();
            assert!(whole == expected.as_bytes(), "{} bytes for {}", whole.len(), expected.len());
            let own = std::thread::current().id();
            assert_eq!(makers.lock().unwrap().iter().filter(|id| **id == own).count(), on_control);
        }
    }

    #[tokio::test]
    async fn a_body_of_nothing_is_empty() {
        for first in [FirstPiece::OnControl, FirstPiece::OnThread] {
            let whole = axum::body::to_bytes(body(std::iter::empty::<String>(), first), usize::MAX).await.unwrap();
            assert!(whole.is_empty());
        }
    }

    /// A piece that cannot be made ends the connection, so that the client does not take what it has for the whole.
    #[tokio::test]
    async fn a_maker_that_panics_is_an_error() {
        let pieces = (0..3).map(|i| if i == 1 { panic!("a test wants this") } else { "piece".to_owned() });
        assert!(axum::body::to_bytes(body(pieces, FirstPiece::OnThread), usize::MAX).await.is_err());
    }
}
