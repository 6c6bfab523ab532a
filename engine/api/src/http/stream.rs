//! The bytes of one connection on their way between client and HTTP library.
//!
//! Invariants:
//!   * bytes that wait to be written wait at most the limit without any of them being taken
//!   * the first line of a head is held back until it is whole, at most [`LINE_BYTES_MAX`] bytes of it

use super::connections::{Connection, Phase};
use super::request_line::{self, LINE_BYTES_MAX};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream that tells its connection what the client does, fails when a write makes no progress for too long, and passes
/// each head's first line through [`request_line`].
pub(crate) struct ClientStream<S> {
    stream: S,
    connection: Arc<Connection>,
    write_stall_max: Duration,
    /// There while a write waits.
    write_wait: Option<Pin<Box<Sleep>>>,
    /// A first line that is not whole yet, while `collects`; then bytes that the library has not read.
    line: Vec<u8>,
    /// Bytes of `line` that the library has read.
    line_read: usize,
    collects: bool,
}

impl<S> ClientStream<S> {
    pub fn new(stream: S, connection: Arc<Connection>, write_stall_max: Duration) -> ClientStream<S> {
        ClientStream {
            stream,
            connection,
            write_stall_max,
            write_wait: None,
            line: Vec::new(),
            line_read: 0,
            collects: false,
        }
    }

    /// Passes an outcome of a write on, or fails once writes have waited too long.
    fn bound_write<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            if self.write_wait.take().is_some() {
                self.connection.set_write_waits(false);
            }
            return outcome;
        }
        if self.write_wait.is_none() {
            self.connection.set_write_waits(true);
        }
        let limit = self.write_stall_max;
        let wait = self.write_wait.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(wait.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader stopped reading")))
    }

    /// Gives the library what is held back.
    fn drain_line(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = &self.line[self.line_read..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.line_read += count;
        if self.line_read == self.line.len() {
            self.line = Vec::new();
            self.line_read = 0;
        }
    }

    /// Looks at what has come while a first line is expected. Returns whether it is whole, or will not be.
    fn collect(&mut self, fresh: &[u8]) -> bool {
        let scanned = self.line.len();
        self.line.extend_from_slice(fresh);
        // Line ends before a first line are skipped by the library as well.
        let begin = self.line.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let from = scanned.max(begin);
        match self.line[from..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let end = from + at;
                if let Some(encoded) = request_line::encoded(&self.line[begin..end]) {
                    self.line.splice(begin..end, encoded);
                }
                true
            }
            None => fresh.is_empty() || self.line.len() > LINE_BYTES_MAX,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !this.collects && !this.line.is_empty() {
            this.drain_line(buffer);
            return Poll::Ready(Ok(()));
        }
        loop {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            let fresh = &buffer.filled()[before..];
            if !fresh.is_empty() && this.connection.phase() == Phase::Idle {
                this.connection.enter(Phase::Head);
            }
            if !this.collects {
                if !this.connection.take_expects_head() {
                    return Poll::Ready(Ok(()));
                }
                this.collects = true;
            }
            let fresh = fresh.to_vec();
            let at_end = fresh.is_empty();
            if this.collect(&fresh) {
                this.collects = false;
                buffer.set_filled(before);
                if at_end && this.line.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                this.drain_line(buffer);
                return Poll::Ready(Ok(()));
            }
            buffer.set_filled(before);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bound_write(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.bound_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.bound_write(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bound_write(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMIT: Duration = Duration::from_millis(300);

    fn client_stream<S>(stream: S, limit: Duration) -> ClientStream<S> {
        ClientStream::new(stream, Connection::detached(), limit)
    }

    #[tokio::test]
    async fn a_reader_that_stops_is_cut() {
        let (near, _far) = tokio::io::duplex(16);
        let mut near = client_stream(near, LIMIT);
        let error = near.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_slow_reader_is_not() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = client_stream(near, Duration::from_secs(30));
        let reader = tokio::spawn(async move {
            let mut bytes = [0; 16];
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                far.read_exact(&mut bytes).await.unwrap();
            }
        });
        near.write_all(&[0; 64]).await.unwrap();
        reader.await.unwrap();
    }

    /// What the library reads if these pieces come one after the other, by a buffer of `room` bytes.
    async fn read_back(pieces: &[&[u8]], room: usize) -> Vec<u8> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = client_stream(near, LIMIT);
        let mut found = Vec::new();
        let mut buffer = vec![0; room];
        for piece in pieces {
            far.write_all(piece).await.unwrap();
            while let Ok(read) = tokio::time::timeout(Duration::from_millis(5), near.read(&mut buffer)).await {
                found.extend_from_slice(&buffer[..read.unwrap()]);
            }
        }
        drop(far);
        near.read_to_end(&mut found).await.unwrap();
        found
    }

    #[tokio::test]
    async fn first_lines_are_encoded_however_they_come() {
        let sent = b"\r\nGET /q?a={\"} HTTP/1.1\r\nHost: {x}\r\n\r\n";
        let want = b"\r\nGET /q?a=%7B%22%7D HTTP/1.1\r\nHost: {x}\r\n\r\n";
        for room in [1, 7, 4096] {
            assert_eq!(read_back(&[sent], room).await, want);
            for cut in 0..sent.len() {
                assert_eq!(read_back(&[&sent[..cut], &sent[cut..]], room).await, want, "{cut} {room}");
            }
        }
    }

    #[tokio::test]
    async fn only_first_lines_are_looked_at() {
        let body = b"POST / HTTP/1.1\r\n\r\nGET /{ HTTP/1.1\r\n";
        assert_eq!(read_back(&[body, body], 100).await, [&body[..], body].concat());
        let endless = vec![b'{'; 3 * LINE_BYTES_MAX];
        assert_eq!(read_back(&[&endless], 4096).await, endless);
        assert_eq!(read_back(&[b"GET /{"], 4096).await, b"GET /{");
    }
}
