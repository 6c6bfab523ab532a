//! A connection: plain, or in TLS inside another one.
//!
//! Invariants:
//!   * a TLS connection at rest holds no buffer: what it reads into and decrypts from is borrowed from the core's pool
//!     while bytes are there, and a few bytes of an unfinished record are put aside
//!   * what is read is authenticated; an end without close_notify is an error and never the end of a body
//!   * what a peer makes us hold is at most [`INCOMING_BYTES_MAX`] and a record; one poll does a bounded amount of work

use super::buffers::{Buffer, BufferPool, PoolExhausted};
use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, HandshakeKind};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A handshake message has at most 64 KiB, and a record 16 KiB.
const INCOMING_BYTES_MAX: usize = 128 << 10;
/// A read asks for no less than this.
const READ_BYTES_MIN: usize = 16 << 10;
/// So little of an unfinished record is put aside while waiting for the rest.
const PARKED_BYTES_MAX: usize = 2 << 10;
/// Reads of one poll that bring nothing to hand on; then others have their turn.
const FRUITLESS_READS_MAX: usize = 16;
/// What encryption adds to a record.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Largest piece of what is sent that goes into one record.
const RECORD_BYTES_MAX: usize = 16 << 10;

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Plain(stream)
    }
}

impl Stream {
    /// Reads once; 0 is the end of the stream.
    pub fn poll_read(&mut self, context: &mut Context, pool: &BufferPool, out: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, out),
            Stream::Tls(stream) => stream.poll_read(context, pool, out),
        }
    }

    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        poll_fn(|context| self.poll_write_all(context, bytes, &mut sent)).await
    }

    fn poll_write_all(&mut self, context: &mut Context, bytes: &[u8], sent: &mut usize) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(stream) => {
                while *sent < bytes.len() {
                    match ready!(Pin::new(&mut *stream).poll_write(context, &bytes[*sent..]))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        count => *sent += count,
                    }
                }
                Poll::Ready(Ok(()))
            }
            Stream::Tls(stream) => stream.poll_write_all(context, bytes, sent),
        }
    }

    /// Whether an idle connection is still open and silent. Costs no system call: glommio has been watching it since the
    /// last read. What a server says unasked would be taken for the answer to our next request; session tickets and the
    /// like are TLS' own affair.
    pub async fn is_quiet(&mut self, pool: &BufferPool) -> bool {
        let mut byte = [0];
        futures_lite::future::poll_once(poll_fn(|context| self.poll_read(context, pool, &mut byte))).await.is_none()
    }

    /// The connection underneath.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.inner.tcp(),
        }
    }
}

pub(super) struct TlsStream {
    inner: Stream,
    connection: UnbufferedClientConnection,
    /// There while bytes wait to be understood, from `incoming_start` on.
    incoming: Option<Buffer>,
    incoming_start: usize,
    /// Holds these bytes while a read waits and they are few.
    parked: Vec<u8>,
    outgoing: Vec<u8>,
    outgoing_sent: usize,
    /// Decrypted, but the reader had no room, from `plain_start` on.
    plain: Vec<u8>,
    plain_start: usize,
    /// The peer has said that it is done.
    closed: bool,
}

/// What the connection needs next.
enum Step {
    Data(usize),
    /// `outgoing` is to be sent.
    Send,
    /// More bytes of the peer, before the handshake is over or after.
    Input {
        shaking: bool,
    },
    Closed,
}

impl TlsStream {
    /// Shakes hands over `inner`. Bounded by the caller's deadline.
    pub async fn connect(
        inner: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        pool: &BufferPool,
    ) -> io::Result<TlsStream> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = TlsStream {
            inner,
            connection,
            incoming: None,
            incoming_start: 0,
            parked: Vec::new(),
            outgoing: Vec::new(),
            outgoing_sent: 0,
            plain: Vec::new(),
            plain_start: 0,
            closed: false,
        };
        poll_fn(|context| stream.poll_handshake(context, pool)).await?;
        Ok(stream)
    }

    /// How the handshake went.
    pub fn was_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    fn poll_handshake(&mut self, context: &mut Context, pool: &BufferPool) -> Poll<io::Result<()>> {
        for _ in 0..FRUITLESS_READS_MAX {
            let step = self.step(&mut []);
            if step.is_err() {
                self.send_close_notify(context);
            }
            match step? {
                Step::Send => ready!(self.poll_send(context))?,
                Step::Input { shaking: true } => ready!(self.poll_fill(context, pool))?,
                Step::Input { shaking: false } | Step::Data(_) => return Poll::Ready(Ok(())),
                Step::Closed => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_read(&mut self, context: &mut Context, pool: &BufferPool, out: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.plain_start < self.plain.len() {
            let count = out.len().min(self.plain.len() - self.plain_start);
            out[..count].copy_from_slice(&self.plain[self.plain_start..][..count]);
            self.plain_start += count;
            if self.plain_start == self.plain.len() {
                (self.plain, self.plain_start) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(count));
        }
        for _ in 0..FRUITLESS_READS_MAX {
            if self.closed {
                return Poll::Ready(Ok(0));
            }
            match self.step(out)? {
                Step::Data(0) => {}
                Step::Data(count) => return Poll::Ready(Ok(count)),
                Step::Send => ready!(self.poll_send(context))?,
                Step::Input { .. } => ready!(self.poll_fill(context, pool))?,
                Step::Closed => self.closed = true,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets the connection do what it can with what has come. What it decrypts goes to `out`, the rest to `plain`.
    fn step(&mut self, out: &mut [u8]) -> io::Result<Step> {
        if self.outgoing_sent < self.outgoing.len() {
            return Ok(Step::Send);
        }
        loop {
            let incoming = match &mut self.incoming {
                Some(buffer) => &mut buffer.data_mut()[self.incoming_start..],
                None => &mut self.parked[..],
            };
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(incoming);
            let mut step = None;
            match state.map_err(io::Error::other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    let mut count = 0;
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        discard += record.discard;
                        let fits = record.payload.len().min(out.len() - count);
                        out[count..][..fits].copy_from_slice(&record.payload[..fits]);
                        count += fits;
                        self.plain.extend_from_slice(&record.payload[fits..]);
                    }
                    step = Some(Step::Data(count));
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let at = self.outgoing.len();
                    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
                        self.outgoing.resize(at + size.required_size, 0);
                        data.encode(&mut self.outgoing[at..]).map_err(io::Error::other)?;
                    }
                }
                // It goes out before anything else is done.
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    step = Some(Step::Send);
                }
                ConnectionState::BlockedHandshake => step = Some(Step::Input { shaking: true }),
                ConnectionState::WriteTraffic(_) => step = Some(Step::Input { shaking: false }),
                ConnectionState::PeerClosed | ConnectionState::Closed => step = Some(Step::Closed),
                _ => return Err(io::Error::other("early data, which only a server could have")),
            }
            self.discard(discard);
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    fn discard(&mut self, count: usize) {
        match &self.incoming {
            Some(buffer) => {
                self.incoming_start += count;
                if self.incoming_start >= buffer.data().len() {
                    (self.incoming, self.incoming_start) = (None, 0);
                }
            }
            None => drop(self.parked.drain(..count)),
        }
    }

    /// Reads once from the connection underneath.
    fn poll_fill(&mut self, context: &mut Context, pool: &BufferPool) -> Poll<io::Result<()>> {
        let no_room =
            |PoolExhausted| io::Error::new(io::ErrorKind::OutOfMemory, "the responses in flight hold all buffers");
        let mut buffer = match self.incoming.take() {
            Some(buffer) => buffer,
            None => {
                let mut buffer = pool.wire().map_err(no_room)?;
                buffer.spare()[..self.parked.len()].copy_from_slice(&self.parked);
                buffer.set_used(self.parked.len());
                self.parked.clear();
                buffer
            }
        };
        if self.incoming_start > 0 {
            let (start, end) = (std::mem::take(&mut self.incoming_start), buffer.data().len());
            buffer.data_mut().copy_within(start.., 0);
            buffer.set_used(end - start);
        }
        if buffer.spare().len() < READ_BYTES_MIN {
            if buffer.size() >= INCOMING_BYTES_MAX {
                return Poll::Ready(Err(io::Error::other("a TLS message without end")));
            }
            buffer.grow(INCOMING_BYTES_MAX).map_err(no_room)?;
        }
        let used = buffer.data().len();
        let outcome = match self.inner.poll_read(context, pool, buffer.spare()) {
            Poll::Pending if used <= PARKED_BYTES_MAX => {
                // Replaced rather than cleared: most connections at rest have nothing to put aside.
                self.parked = buffer.data().to_vec();
                return Poll::Pending;
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(count)) => {
                buffer.set_used(used + count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        };
        if !buffer.data().is_empty() {
            self.incoming = Some(buffer);
        }
        outcome
    }

    /// Sends what is in `outgoing`.
    fn poll_send(&mut self, context: &mut Context) -> Poll<io::Result<()>> {
        ready!(self.inner.poll_write_all(context, &self.outgoing, &mut self.outgoing_sent))?;
        (self.outgoing, self.outgoing_sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_write_all(&mut self, context: &mut Context, bytes: &[u8], taken: &mut usize) -> Poll<io::Result<()>> {
        loop {
            match self.step(&mut [])? {
                Step::Send => ready!(self.poll_send(context))?,
                Step::Data(_) => {}
                Step::Input { shaking: false } if *taken == bytes.len() => return Poll::Ready(Ok(())),
                Step::Input { shaking: false } => {
                    let piece = &bytes[*taken..][..RECORD_BYTES_MAX.min(bytes.len() - *taken)];
                    self.outgoing = self.encrypt(piece)?;
                    *taken += piece.len();
                }
                Step::Input { shaking: true } | Step::Closed => {
                    self.closed = true;
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
            }
        }
    }

    /// After a step that waits for input: nothing else is to be done, so the connection may write.
    fn encrypt(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        let incoming = match &mut self.incoming {
            Some(buffer) => &mut buffer.data_mut()[self.incoming_start..],
            None => &mut self.parked[..],
        };
        let UnbufferedStatus { discard, state } = self.connection.process_tls_records(incoming);
        let ConnectionState::WriteTraffic(mut traffic) = state.map_err(io::Error::other)? else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut record = vec![0; piece.len() + RECORD_OVERHEAD_BYTES];
        let length = traffic.encrypt(piece, &mut record).map_err(io::Error::other)?;
        record.truncate(length);
        self.discard(discard);
        Ok(record)
    }

    /// Tells the peer why the handshake ends; it need not listen.
    fn send_close_notify(&mut self, context: &mut Context) {
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = state
            && let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut [])
        {
            let mut alert = vec![0; size.required_size];
            if data.encode(&mut alert).is_ok() {
                let _ = self.inner.poll_write_all(context, &alert, &mut 0);
            }
        }
    }
}
