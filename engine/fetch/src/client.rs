//! Sends a target's request over its kept connection or a new one, follows redirects, reads the response.
//!
//! Per scrape of a small body: one send, one poll, one receive; the connection is kept.
//!
//! Invariants:
//!   * at most [`REQUESTS_MAX`] requests per fetch and one retry, and that only where a kept connection had ended before
//!     the first byte of an answer
//!   * a buffer is held only once bytes have come, and a full-size one only for more than [`PARKED_BYTES_MAX`] of them:
//!     targets that answer a byte a second cost little
//!   * a complete response is not polled again

use super::buffers::{Buffer, BufferPool, PoolExhausted};
use super::connect::{Connections, Opened, net_words};
use super::fetcher::{Fetcher, Resolve};
use super::http::{Progress, ResponseReader, packed_limit};
use super::http_error::{HEAD_BYTES_MAX, HttpError};
use super::request::Request;
use super::stream::Stream;
use super::{BodyLimit, FetchError};
use crate::Reason;
use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

/// The first request and the redirects followed; as many as Go makes.
const REQUESTS_MAX: usize = 10;
/// A read asks for no less than this.
const READ_BYTES_MIN: usize = 16 << 10;
/// So little received is put aside while waiting for more.
const PARKED_BYTES_MAX: usize = 2 << 10;
/// What a response may have around its body: heads and chunk framing.
const AROUND_BODY_BYTES_MAX: usize = HEAD_BYTES_MAX + (1 << 20);

/// How far a fetch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Phase {
    /// Until there is a connection; `Connections` knows more.
    #[default]
    Connect,
    /// Until the response's head is complete.
    Head,
    Body,
}

/// One target's side of its fetches: the connection kept between them.
#[derive(Default)]
pub struct Client {
    kept: Option<Stream>,
    connections: Connections,
    phase: Phase,
    /// Length of the last body, as a first guess for the next.
    body_bytes_last: usize,
}

/// A complete response, unpacked. Its buffers go back to the core's pool when it is dropped.
pub struct Fetched {
    wire: Buffer,
    plain: Option<Buffer>,
    body: Range<usize>,
    content_type: Option<Range<usize>>,
}

impl Fetched {
    /// The body, unpacked.
    pub fn body(&self) -> &[u8] {
        self.plain.as_ref().map_or(&self.wire.data()[self.body.clone()], Buffer::data)
    }

    /// Length of the body as it came over the wire.
    pub fn wire_bytes(&self) -> usize {
        self.body.len()
    }

    /// The Content-Type header, empty when there is none.
    pub fn content_type(&self) -> Cow<'_, str> {
        match self.content_type.clone() {
            Some(place) => String::from_utf8_lossy(&self.wire.data()[place]),
            None => Cow::Borrowed(""),
        }
    }
}

impl Client {
    /// Fetches once. Dropping the future ends everything it has begun, the connection included.
    ///
    /// `deadline` bounds each connection attempt; the whole is bounded by the caller, who drops the future then.
    pub async fn fetch<R: Resolve>(
        &mut self,
        fetcher: &Fetcher<R>,
        request: &Request,
        limit: BodyLimit,
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        self.phase = Phase::Connect;
        let mut answer = self.request(fetcher, request, limit, deadline).await?;
        let mut redirected: Option<Request> = None;
        for requests in 1.. {
            let current = redirected.as_ref().unwrap_or(request);
            if answer.complete && answer.reader.reusable() && requests == 1 {
                self.kept = Some(answer.stream);
            }
            let head = answer.reader.head().expect("an answer has a head");
            let wire = answer.wire.data();
            if head.status == 200 {
                let (packed, body) = (head.is_gzip(wire), answer.reader.body());
                let content_type = head.content_type_place();
                let mut fetched = Fetched { wire: answer.wire, plain: None, body, content_type };
                if packed {
                    let mut plain = fetcher.pool.plain()?;
                    let packed = fetched.body();
                    fetcher.unpacker.gunzip(packed, &mut plain, self.body_bytes_last, limit).await?;
                    fetched.plain = Some(plain);
                }
                self.body_bytes_last = fetched.body().len();
                return Ok(fetched);
            }
            if head.status == 401 && current.is_at_home {
                current.ways().refused.store(true, Ordering::Relaxed);
            }
            let location = match head.status {
                301 | 302 | 303 | 307 | 308 if current.follows_redirects() => head.location(wire),
                _ => None,
            };
            let Some(location) = location else {
                let text = format!("server returned HTTP status {}", head.status_text(wire));
                return Err(FetchError { reason: Reason::Status, text });
            };
            if requests == REQUESTS_MAX {
                return Err(current.failed(Reason::Redirect, format_args!("stopped after {REQUESTS_MAX} redirects")));
            }
            let next = current.redirected(location)?;
            // What the redirect leads to is asked over a connection of its own, which is not kept.
            self.phase = Phase::Connect;
            let stream = self.connections.open(fetcher, &next, deadline).await?;
            answer = self.exchange(stream, &fetcher.pool, &next, limit).await.map_err(|failed| failed.error)?;
            redirected = Some(next);
        }
        unreachable!("the number of requests is bounded")
    }

    /// The error of a fetch whose future was dropped at the deadline.
    pub fn timed_out(&self, request: &Request) -> FetchError {
        match self.phase {
            Phase::Connect => self.connections.timed_out(request),
            Phase::Head => request.failed(Reason::HeaderTimeout, "context deadline exceeded"),
            Phase::Body => FetchError::new(Reason::BodyTimeout, "context deadline exceeded"),
        }
    }

    /// What was opened since the client was made.
    pub fn opened(&self) -> Opened {
        self.connections.opened
    }

    /// Asks over the kept connection if it is still good, else over a new one.
    async fn request<R: Resolve>(
        &mut self,
        fetcher: &Fetcher<R>,
        request: &Request,
        limit: BodyLimit,
        deadline: Instant,
    ) -> Result<Answer, FetchError> {
        if let Some(mut stream) = self.kept.take()
            && self.connections.is_still_wanted(request)
            && stream.is_quiet(&fetcher.pool).await
        {
            match self.exchange(stream, &fetcher.pool, request, limit).await {
                Ok(answer) => return Ok(answer),
                // The server had closed it before our request came: it was not read, so it may be sent again.
                Err(failed) if failed.before_answer => {}
                Err(failed) => return Err(failed.error),
            }
        }
        self.phase = Phase::Connect;
        let stream = self.connections.open(fetcher, request, deadline).await?;
        self.exchange(stream, &fetcher.pool, request, limit).await.map_err(|failed| failed.error)
    }

    /// Sends the request and reads the answer: all of it if its status is 200, else what has come with its head.
    async fn exchange(
        &mut self,
        mut stream: Stream,
        pool: &BufferPool,
        request: &Request,
        limit: BodyLimit,
    ) -> Result<Answer, Failed> {
        self.phase = Phase::Head;
        let mut reader = ResponseReader::new(limit.bytes);
        if let Err(error) = stream.write_all(&request.bytes).await {
            let error = request.failed(Reason::Protocol, net_words("write", &stream, &error));
            return Err(Failed { error, before_answer: true });
        }
        let mut received = ReadStatus {
            buffer: None,
            parked: Vec::new(),
            bytes_max: packed_limit(limit.bytes).saturating_add(AROUND_BODY_BYTES_MAX),
        };
        let mut before_answer = true;
        loop {
            let read = received.read(&mut stream, pool).await;
            let failed = |error| Failed { error, before_answer };
            let count = read.map_err(|error| match error {
                ReadError::NoRoom => failed(PoolExhausted.into()),
                ReadError::TooLong => failed(limit.exceeded()),
                ReadError::Io(error) if reader.head().is_none() => {
                    failed(request.failed(Reason::Protocol, net_words("read", &stream, &error)))
                }
                ReadError::Io(error) => failed(FetchError::new(Reason::Body, net_words("read", &stream, &error))),
            })?;
            // Ours from here on: a retry could only hide what the server does wrong.
            before_answer &= count == 0;
            let failed = |error| Failed { error: http_error(request, limit, error), before_answer };
            let wire = received.buffer.as_mut().expect("a read leaves a buffer");
            let mut progress = match count {
                0 => reader.end_of_stream(wire.data()).map_err(failed)?,
                _ => reader.feed(wire.data_mut()).map_err(failed)?,
            };
            if progress == Progress::Head {
                self.phase = Phase::Body;
                let ok = reader.head().is_some_and(|head| head.status == 200);
                progress = match reader.feed(wire.data_mut()) {
                    Ok(progress) => progress,
                    Err(error) if ok => return Err(failed(error)),
                    Err(_) => Progress::More { keep: wire.data().len() },
                };
                if let (false, Progress::More { .. }) = (ok, progress) {
                    let wire = received.buffer.take().expect("a read leaves a buffer");
                    return Ok(Answer { stream, wire, reader, complete: false });
                }
            }
            match progress {
                Progress::Head => unreachable!("there is one head"),
                Progress::More { keep } => wire.set_used(keep),
                Progress::Done { keep } => {
                    wire.set_used(keep);
                    let wire = received.buffer.take().expect("a read leaves a buffer");
                    return Ok(Answer { stream, wire, reader, complete: true });
                }
            }
            // A sender that is always faster than we read must not keep the core.
            glommio::yield_if_needed().await;
        }
    }
}

/// A response, of which at least the head is there.
struct Answer {
    stream: Stream,
    wire: Buffer,
    reader: ResponseReader,
    complete: bool,
}

struct Failed {
    error: FetchError,
    /// Not a byte of an answer had come.
    before_answer: bool,
}

enum ReadError {
    Io(io::Error),
    NoRoom,
    TooLong,
}

/// What has come of a response.
struct ReadStatus {
    /// There after every read.
    buffer: Option<Buffer>,
    /// Holds the bytes while a read waits and they are few.
    parked: Vec<u8>,
    bytes_max: usize,
}

impl ReadStatus {
    /// Reads once, behind what is there; 0 is the end of the stream.
    async fn read(&mut self, stream: &mut Stream, pool: &BufferPool) -> Result<usize, ReadError> {
        poll_fn(|context| {
            let mut buffer = match self.buffer.take() {
                Some(buffer) => buffer,
                None => {
                    let mut buffer = pool.wire().map_err(|PoolExhausted| ReadError::NoRoom)?;
                    buffer.spare()[..self.parked.len()].copy_from_slice(&self.parked);
                    buffer.set_used(self.parked.len());
                    buffer
                }
            };
            if buffer.spare().len() < READ_BYTES_MIN {
                buffer.grow(self.bytes_max).map_err(|PoolExhausted| ReadError::NoRoom)?;
                if buffer.spare().is_empty() {
                    return Poll::Ready(Err(ReadError::TooLong));
                }
            }
            let used = buffer.data().len();
            let outcome = match stream.poll_read(context, pool, buffer.spare()) {
                Poll::Pending if used <= PARKED_BYTES_MAX => {
                    self.parked.clear();
                    self.parked.extend_from_slice(buffer.data());
                    return Poll::Pending;
                }
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(count)) => {
                    buffer.set_used(used + count);
                    Poll::Ready(Ok(count))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(ReadError::Io(error))),
            };
            self.buffer = Some(buffer);
            outcome
        })
        .await
    }
}

fn http_error(request: &Request, limit: BodyLimit, error: HttpError) -> FetchError {
    match (&error, error.reason()) {
        (HttpError::BodySize, _) => limit.exceeded(),
        (HttpError::Eof, reason) => request.failed(reason, error),
        (_, Reason::Protocol) => {
            request.failed(Reason::Protocol, format_args!("net/http: HTTP/1.x transport connection broken: {error}"))
        }
        (_, reason) => FetchError::new(reason, error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::RequestOptions;
    use super::super::buffers::BUFFER_BYTES_MIN;
    use super::*;
    use glommio::{LocalExecutorBuilder, Placement};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream as Peer};
    use std::rc::Rc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex, mpsc};
    use std::task::Waker;
    use std::time::Duration;
    use targets::{Scheme, TargetUrl};

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nup 1\n";

    /// Runs `work` on an executor of its own. A thread pokes it as the runtime's watchdog does: glommio 0.9 may park
    /// with work to do.
    fn run<T: Send + 'static, F: Future<Output = T> + 'static>(work: impl FnOnce() -> F + Send + 'static) -> T {
        let done = Arc::new(AtomicBool::new(false));
        let stored = Arc::new(Mutex::new(None::<Waker>));
        let poker = std::thread::spawn({
            let (done, stored) = (done.clone(), stored.clone());
            move || {
                while !done.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                    if let Some(waker) = stored.lock().unwrap().as_ref() {
                        waker.wake_by_ref();
                    }
                }
                // A waker counts its task's references without a lock, so it is dropped only after the executor.
                stored
            }
        });
        let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20).spawn(move || async move {
            let poked = glommio::spawn_local(poll_fn(move |context| {
                stored.lock().unwrap().get_or_insert_with(|| context.waker().clone());
                Poll::<()>::Pending
            }));
            let outcome = work().await;
            done.store(true, Ordering::Relaxed);
            poked.cancel().await;
            outcome
        });
        let outcome = executor.unwrap().join().unwrap();
        drop(poker.join());
        outcome
    }

    /// A server that treats its nth connection as `script` says, one after the other.
    fn serve(script: impl Fn(usize, Peer) + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (nth, peer) in listener.incoming().enumerate() {
                script(nth, peer.unwrap());
            }
        });
        address
    }

    /// A server that answers every connection's first request with these bytes and closes.
    fn serve_once(answer: impl Into<Vec<u8>>) -> SocketAddr {
        let answer = answer.into();
        serve(move |_, mut peer| {
            read_request(&mut peer);
            let _ = peer.write_all(&answer);
        })
    }

    /// The next request, empty at the end of the stream.
    fn read_request(peer: &mut Peer) -> String {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            match peer.read(&mut byte) {
                Ok(1) => request.push(byte[0]),
                _ => break,
            }
        }
        String::from_utf8(request).unwrap()
    }

    /// Makes closing the connection a reset.
    fn reset(peer: Peer) {
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn request(address: SocketAddr, path: &str) -> Request {
        request_with(address, path, RequestOptions::default())
    }

    fn request_with(address: SocketAddr, path: &str, options: RequestOptions) -> Request {
        let (host, authority) = (address.ip().to_string(), address.to_string());
        let port = address.port();
        let path_and_query = path.to_owned();
        let url = TargetUrl { scheme: Scheme::Http, host, port, authority, path_and_query, defect: None };
        Request::new(url, options).unwrap()
    }

    /// Knows addresses, `nohost`, which is none, and `pair`: a dead address and a good one at the same port.
    struct Names;

    impl Resolve for Names {
        async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
            match host {
                "nohost" => Err("lookup nohost: no such host".into()),
                "pair" => Ok(vec![SocketAddr::from(([127, 0, 0, 77], port)), SocketAddr::from(([127, 0, 0, 1], port))]),
                address => Ok(vec![SocketAddr::new(address.parse().unwrap(), port)]),
            }
        }
    }

    /// One target on a core of its own.
    struct Scraper {
        fetcher: Fetcher<Names>,
        client: Client,
        limit: BodyLimit,
    }

    impl Scraper {
        fn new() -> Scraper {
            Scraper { fetcher: Fetcher::new(Names), client: Client::default(), limit: BodyLimit::new(0) }
        }

        /// What a fetch comes to: `content type|body`, or `reason: text`.
        async fn fetch(&mut self, request: &Request) -> String {
            self.fetch_within(request, Duration::from_secs(5)).await
        }

        async fn fetch_within(&mut self, request: &Request, timeout: Duration) -> String {
            let deadline = Instant::now() + timeout;
            let work = self.client.fetch(&self.fetcher, request, self.limit, deadline);
            let over = async {
                glommio::timer::Timer::new(timeout).await;
                None
            };
            let outcome = futures_lite::future::or(async { Some(work.await) }, over).await;
            let outcome = outcome.unwrap_or_else(|| Err(self.client.timed_out(request)));
            let shown = match outcome {
                Ok(fetched) => {
                    format!("{}|{}", fetched.content_type(), String::from_utf8_lossy(fetched.body()))
                }
                Err(error) => format!("{}: {error}", error.reason.as_str()),
            };
            assert_eq!(self.fetcher.pool.lent_bytes(), 0, "buffers are given back");
            shown
        }
    }

    /// One fetch of `path` from `address` gives `want`, where `URL` stands for what was asked.
    #[track_caller]
    fn check(address: SocketAddr, want: &str) {
        let got = run(move || async move { Scraper::new().fetch(&request(address, "/metrics")).await });
        assert_eq!(got, want.replace("URL", &format!("http://{address}/metrics")));
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip_response(plain: &[u8]) -> Vec<u8> {
        let packed = gzip(plain);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", packed.len());
        [head.into_bytes(), packed].concat()
    }

    #[test]
    fn body_is_handed_on_in_every_framing() {
        check(serve_once(OK), "text/plain|up 1\n");
        check(serve_once("HTTP/1.1 200 OK\r\n\r\nup 1\n"), "|up 1\n");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nup \r\n2\r\n1\n\r\n0\r\n\r\n";
        check(serve_once(chunked), "|up 1\n");
        check(serve_once(gzip_response(b"up 1\n")), "|up 1\n");
    }

    #[test]
    fn large_bodies_arrive_whole() {
        let plain: String = (0..100_000).map(|i| format!("metric_{} {i}\n", i * 7919 % 1000)).collect();
        let length = plain.len();
        let identity = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{plain}");
        let chunks: String = plain.as_bytes().chunks(4000).fold(String::new(), |mut all, chunk| {
            all.push_str(&format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()));
            all
        });
        let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
        for answer in [identity.into_bytes(), chunked.into_bytes(), gzip_response(plain.as_bytes())] {
            check(serve_once(answer), &format!("|{plain}"));
        }
    }

    #[test]
    fn connection_is_kept() {
        let (seen_to, seen) = mpsc::channel();
        let address = serve(move |nth, mut peer| {
            while let request @ 1.. = read_request(&mut peer).len() {
                seen_to.send((nth, request)).unwrap();
                peer.write_all(OK.as_bytes()).unwrap();
            }
        });
        run(move || async move {
            let mut scraper = Scraper::new();
            for _ in 0..5 {
                assert_eq!(scraper.fetch(&request(address, "/metrics")).await, "text/plain|up 1\n");
            }
            assert_eq!(scraper.client.opened().connections, 1);
        });
        assert!(seen.iter().take(5).all(|(nth, _)| nth == 0));
    }

    #[test]
    fn failed_response_keeps_the_connection_if_it_is_complete() {
        let address = serve(move |_, mut peer| {
            while !read_request(&mut peer).is_empty() {
                peer.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy").unwrap();
            }
        });
        run(move || async move {
            let mut scraper = Scraper::new();
            for _ in 0..3 {
                let want = "status: server returned HTTP status 503 Service Unavailable";
                assert_eq!(scraper.fetch(&request(address, "/")).await, want);
            }
            assert_eq!(scraper.client.opened().connections, 1);
        });
    }

    /// A server that closes each connection in its own way after one answer costs a connection, not a scrape.
    fn check_reconnect(close: fn(Peer), answer: &'static str) {
        let address = serve(move |_, mut peer| {
            read_request(&mut peer);
            peer.write_all(answer.as_bytes()).unwrap();
            close(peer);
        });
        run(move || async move {
            let mut scraper = Scraper::new();
            for _ in 0..3 {
                assert_eq!(scraper.fetch(&request(address, "/metrics")).await, "text/plain|up 1\n");
            }
            assert_eq!(scraper.client.opened().connections, 3);
        });
    }

    #[test]
    fn closed_connection_is_replaced() {
        check_reconnect(drop, OK);
        check_reconnect(reset, OK);
        check_reconnect(drop, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nup 1\n");
        // Closed only when the next request is there: seen not before that.
        let lazily = |mut peer: Peer| drop(read_request(&mut peer));
        check_reconnect(lazily, OK);
    }

    #[test]
    fn unasked_bytes_do_not_answer_the_next_request() {
        let address = serve(move |_, mut peer| {
            read_request(&mut peer);
            peer.write_all(OK.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(10));
            let _ = peer.write_all(OK.replace("up 1", "up 0").as_bytes());
            std::thread::spawn(move || read_request(&mut peer));
        });
        run(move || async move {
            let mut scraper = Scraper::new();
            for _ in 0..3 {
                assert_eq!(scraper.fetch(&request(address, "/metrics")).await, "text/plain|up 1\n");
                glommio::timer::Timer::new(Duration::from_millis(40)).await;
            }
            assert_eq!(scraper.client.opened().connections, 3);
        });
    }

    #[test]
    fn answer_is_not_asked_for_twice() {
        let (seen_to, seen) = mpsc::channel();
        let address = serve(move |nth, mut peer| {
            read_request(&mut peer);
            peer.write_all(OK.as_bytes()).unwrap();
            read_request(&mut peer);
            seen_to.send(nth).unwrap();
            peer.write_all(b"HTTP/1.1 2").unwrap();
        });
        run(move || async move {
            let mut scraper = Scraper::new();
            let request = request(address, "/metrics");
            assert_eq!(scraper.fetch(&request).await, "text/plain|up 1\n");
            let want = format!(
                "protocol: Get \"http://{address}/metrics\": \
                 net/http: HTTP/1.x transport connection broken: unexpected EOF"
            );
            assert_eq!(scraper.fetch(&request).await, want);
            assert_eq!(scraper.client.opened().connections, 1);
        });
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn connections_that_break_are_told() {
        check(serve_once(""), "protocol: Get \"URL\": EOF");
        check(serve_once("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup 1\n"), "body: unexpected EOF");
        let half_closed = serve(|_, mut peer| {
            read_request(&mut peer);
            peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup 1\n").unwrap();
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            read_request(&mut peer);
        });
        check(half_closed, "body: unexpected EOF");
        check(
            serve_once("SSH-2.0-OpenSSH_9.9\r\n"),
            concat!(
                "protocol: Get \"URL\": net/http: HTTP/1.x transport connection broken: ",
                "malformed HTTP response \"SSH-2.0-OpenSSH_9.9\"",
            ),
        );
    }

    #[test]
    fn reset_is_told() {
        for (answer, want) in
            [("", "protocol: Get \""), ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nu", "body: read tcp")]
        {
            let address = serve(move |_, mut peer| {
                read_request(&mut peer);
                peer.write_all(answer.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                reset(peer);
            });
            let got = run(move || async move { Scraper::new().fetch(&request(address, "/metrics")).await });
            assert!(got.starts_with(want) && got.ends_with(": read: connection reset by peer"), "{got}");
        }
    }

    #[test]
    fn refused_connection_is_told() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        check(address, &format!("connect: Get \"URL\": dial tcp {address}: connect: connection refused"));
    }

    #[test]
    fn addresses_are_tried_in_turn() {
        let address = serve_once(OK);
        let got = run(move || async move {
            let url = TargetUrl {
                scheme: Scheme::Http,
                host: "pair".into(),
                port: address.port(),
                authority: "pair".into(),
                path_and_query: "/".into(),
                defect: None,
            };
            Scraper::new().fetch(&Request::new(url, RequestOptions::default()).unwrap()).await
        });
        assert_eq!(got, "text/plain|up 1\n");
    }

    /// A server that sends `head` and then a byte every 5 ms is cut off at the deadline, with this error.
    #[track_caller]
    fn check_slow(head: &'static str, byte: &'static str, want: &str) {
        let (ended_to, ended) = mpsc::channel();
        let address = serve(move |_, mut peer| {
            read_request(&mut peer);
            peer.write_all(head.as_bytes()).unwrap();
            while peer.write_all(byte.as_bytes()).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
            ended_to.send(()).unwrap();
        });
        let got = run(move || async move {
            let mut scraper = Scraper::new();
            let started = Instant::now();
            let request = request(address, "/metrics");
            let got = scraper.fetch_within(&request, Duration::from_millis(100)).await;
            assert!(started.elapsed() < Duration::from_millis(400), "took {:?}", started.elapsed());
            // The connection ends with the fetch, not with the client.
            ended.recv_timeout(Duration::from_secs(2)).expect("the server still has its connection");
            assert!(scraper.client.kept.is_none());
            got
        });
        assert_eq!(got, want.replace("URL", &format!("http://{address}/metrics")));
    }

    #[test]
    fn slow_servers_are_cut_off() {
        let head_timeout = "header_timeout: Get \"URL\": context deadline exceeded";
        check_slow("HTTP/1.1 200 OK\r\nA: ", "x", head_timeout);
        let body_timeout = "body_timeout: context deadline exceeded";
        check_slow("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "x", body_timeout);
        check_slow("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", body_timeout);
    }

    #[test]
    fn slow_server_holds_no_buffer() {
        let address = serve(|_, mut peer| {
            read_request(&mut peer);
            for part in OK.as_bytes().chunks(7) {
                peer.write_all(part).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        run(move || async move {
            let fetcher = Fetcher::new(Names);
            let (request, deadline) = (request(address, "/"), Instant::now() + Duration::from_secs(5));
            let mut client = Client::default();
            let mut work = std::pin::pin!(client.fetch(&fetcher, &request, BodyLimit::new(0), deadline));
            let fetched = poll_fn(|context| {
                let outcome = work.as_mut().poll(context);
                if outcome.is_pending() {
                    assert_eq!(fetcher.pool.lent_bytes(), 0);
                }
                outcome
            });
            let fetched = fetched.await.unwrap();
            assert_eq!((fetched.body(), fetched.wire_bytes()), (&b"up 1\n"[..], 5));
            assert_eq!(fetcher.pool.lent_bytes(), BUFFER_BYTES_MIN);
        });
    }

    #[test]
    fn body_limit_ends_the_fetch_at_once() {
        let endless = |head: &'static str, part: &'static str| {
            serve(move |_, mut peer| {
                read_request(&mut peer);
                let _ = peer.write_all(head.as_bytes());
                while peer.write_all(part.repeat(1000).as_bytes()).is_ok() {}
            })
        };
        let bomb = serve_once(gzip_response(&vec![b'\n'; 1 << 20]));
        let addresses = [
            endless("HTTP/1.1 200 OK\r\n\r\n", "up 1\n"),
            endless("HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", "up 1\n"),
            endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nup 1\n\r\n"),
            endless("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", "up 1\n"),
            bomb,
        ];
        run(move || async move {
            for address in addresses {
                let mut scraper = Scraper { limit: BodyLimit::new(100_000), ..Scraper::new() };
                let got = scraper.fetch(&request(address, "/")).await;
                assert_eq!(got, "body_size: body size limit exceeded");
                assert!(scraper.fetcher.pool.idle_bytes() <= 3 << 18);
            }
        });
    }

    /// A server that shows requests to `route`, which gives the answer.
    fn serve_routes(route: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
        serve(move |_, mut peer| {
            let request = read_request(&mut peer);
            let _ = peer.write_all(route(&request).as_bytes());
        })
    }

    fn redirect(status: &str, location: &str) -> String {
        format!("HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
    }

    #[test]
    fn redirects_are_followed() {
        let statuses = ["301 M", "302 F", "303 S", "307 T", "308 P"];
        let address =
            serve_routes(move |request| match request.split(' ').nth(1).and_then(|path| path.strip_prefix("/step")) {
                Some("5") => OK.to_owned(),
                Some(step) => {
                    let step: usize = step.parse().unwrap();
                    redirect(statuses[step], &format!("step{}", step + 1))
                }
                None => panic!("{request}"),
            });
        let got = run(move || async move { Scraper::new().fetch(&request(address, "/step0")).await });
        assert_eq!(got, "text/plain|up 1\n");
    }

    #[test]
    fn redirects_end() {
        let (seen_to, seen) = mpsc::channel();
        let around = serve_routes(move |request| {
            let _ = seen_to.send(request.len());
            redirect("302 Found", "/metrics")
        });
        check(around, "redirect: Get \"URL\": stopped after 10 redirects");
        assert_eq!(seen.try_iter().count(), REQUESTS_MAX);
        check(serve_once("HTTP/1.1 302 Found\r\n\r\n"), "status: server returned HTTP status 302 Found");
        check(serve_once("HTTP/1.1 304 Not Modified\r\n\r\n"), "status: server returned HTTP status 304 Not Modified");
        let lost = serve_once(redirect("302 Found", "http://nohost/"));
        check(lost, "dns: Get \"http://nohost/\": dial tcp: lookup nohost: no such host");
    }

    #[test]
    fn redirects_are_an_error_where_the_job_says_so() {
        let address = serve_once(redirect("302 Found", "/elsewhere"));
        let got = run(move || async move {
            let options = RequestOptions { follow_redirects: false, ..RequestOptions::default() };
            Scraper::new().fetch(&request_with(address, "/metrics", options)).await
        });
        assert_eq!(got, "status: server returned HTTP status 302 Found");
    }

    #[test]
    fn credentials_do_not_follow_a_redirect_elsewhere() {
        let answer = |request: &str| {
            let body = if request.contains("s3cret") { "told 1\n" } else { "told 0\n" };
            format!("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{body}")
        };
        let elsewhere = serve_routes(answer);
        let address = serve_routes(move |request| match request.split(' ').nth(1) {
            Some("/away") => redirect("302 Found", &format!("http://{elsewhere}/")),
            Some("/here") => redirect("302 Found", "/"),
            _ => answer(request),
        });
        run(move || async move {
            for (path, want) in [("/away", "|told 0\n"), ("/here", "|told 1\n"), ("/", "|told 1\n")] {
                let headers = vec![("Authorization".to_owned(), "Bearer s3cret".to_owned())];
                let options = RequestOptions { headers, ..RequestOptions::default() };
                assert_eq!(Scraper::new().fetch(&request_with(address, path, options)).await, want, "{path}");
            }
        });
    }

    #[test]
    fn kept_connection_survives_a_redirect() {
        let elsewhere = serve_once(OK);
        let address = serve(move |_, mut peer| {
            while !read_request(&mut peer).is_empty() {
                peer.write_all(redirect("302 Found", &format!("http://{elsewhere}/")).as_bytes()).unwrap();
            }
        });
        run(move || async move {
            let mut scraper = Scraper::new();
            for connections in [2, 3, 4] {
                assert_eq!(scraper.fetch(&request(address, "/")).await, "text/plain|up 1\n");
                assert_eq!(scraper.client.opened().connections, connections);
            }
        });
    }

    #[test]
    fn many_targets_share_the_buffers() {
        let address = serve(move |_, mut peer| {
            std::thread::spawn(move || {
                while !read_request(&mut peer).is_empty() {
                    peer.write_all(OK.as_bytes()).unwrap();
                }
            });
        });
        run(move || async move {
            let fetcher = Rc::new(Fetcher::new(Names));
            let tasks: Vec<_> = (0..50)
                .map(|_| {
                    let fetcher = fetcher.clone();
                    glommio::spawn_local(async move {
                        let (request, mut client) = (request(address, "/"), Client::default());
                        for _ in 0..10 {
                            let deadline = Instant::now() + Duration::from_secs(5);
                            let work = client.fetch(&fetcher, &request, BodyLimit::new(0), deadline);
                            assert_eq!(work.await.unwrap().body(), b"up 1\n");
                        }
                        client.opened().connections
                    })
                })
                .collect();
            for task in tasks {
                assert_eq!(task.await, 1);
            }
            // Not one of fifty waited with a buffer in hand.
            assert_eq!(fetcher.pool.idle_bytes(), BUFFER_BYTES_MIN);
        });
    }
}
