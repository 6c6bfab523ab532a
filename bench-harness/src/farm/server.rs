//! The event loop: accepts on every loopback address, reads requests, writes what was rendered before.
//!
//! Knows nothing of metrics. One loop is one thread; loops share the payloads and the counters and nothing else, and
//! the kernel deals connections out between them.
//!
//! Invariants:
//!   * the usual scrape costs one read, one write and its share of one epoll_wait: events are edge-triggered, a read
//!     that did not fill the buffer is not repeated, and writability is registered once for all
//!   * one reply per connection at a time; requests that come meanwhile wait in `input`, at most `INPUT_BYTES_MAX`
//!   * a connection's token is reused only after the events of the turn in which it ended are through
//!   * nobody outside 127.0.0.0/8 is ever answered

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream as StdTcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};

use crate::address;
use crate::catalogue::{self, HUGE_SAMPLES};
use crate::evil::{self, EVILS, Request, reply};
use crate::payload::{Catalogue, Motion, Payload};
use crate::script::{Progress, Script, Step, write_some};
use crate::stats::Stats;
use crate::wire::Wire;

const LISTENER: Token = Token(usize::MAX);
const EVENTS_PER_TURN: usize = 1024;
const READ_BYTES: usize = 16 * 1024;
/// A request head longer than this is answered with 431.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Connections waiting to be accepted; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 16 * 1024;
/// How soon a signal or the end of the run is noticed.
const WAKE_MAX: Duration = Duration::from_millis(200);

/// The kinds of target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// As a node exporter: about 1,300 samples.
    Node,
    /// As a JVM service: 1,360 samples or as --samples says.
    App,
    /// As the application, with 50,000 samples.
    Huge,
    /// Twenty samples.
    Small,
    /// By target: 1 of 1,000 huge, 3 of 10 node, 1 of 10 small, the others app.
    Mix,
}

/// What all loops share.
pub struct Farm {
    pub stats: Stats,
    /// What `/metrics` is.
    kind: Kind,
    app_samples: usize,
    motion: Motion,
    /// Each target answers a scrape this late.
    delay: Duration,
    /// Every body goes out unpacked, whatever the scraper says it takes.
    pub plain_only: bool,
    payloads: [OnceLock<Payload>; 4],
}

impl Farm {
    /// Payloads are rendered when first asked for; `warm` does it before.
    pub fn new(stats: Stats, kind: Kind, app_samples: usize, motion: Motion, delay: Duration) -> Self {
        Self { stats, kind, app_samples, motion, delay, plain_only: false, payloads: Default::default() }
    }

    /// Renders what `/metrics` needs and says what came out, one line per kind.
    pub fn warm(&self) -> Vec<String> {
        let kinds = match self.kind {
            Kind::Mix => vec![Kind::Node, Kind::App, Kind::Huge, Kind::Small],
            kind => vec![kind],
        };
        let line = |kind: Kind| {
            let payload = self.payload(kind);
            format!(
                "{kind:?}: {} samples, {} changing per scrape, {} bytes plain, {} gzipped, {} variants",
                payload.samples,
                payload.samples_changing,
                payload.body_bytes,
                payload.body_gzip_bytes,
                payload.variants.len(),
            )
        };
        kinds.into_iter().map(line).collect()
    }

    /// The kind that `/metrics` has on a target.
    fn kind_of(&self, slot: usize) -> Kind {
        match (self.kind, slot % 1_000, slot % 10) {
            (Kind::Mix, 999, _) => Kind::Huge,
            (Kind::Mix, _, 0..=2) => Kind::Node,
            (Kind::Mix, _, 3) => Kind::Small,
            (Kind::Mix, ..) => Kind::App,
            (kind, ..) => kind,
        }
    }

    fn payload(&self, kind: Kind) -> &Payload {
        let seed = self.motion.seed;
        let render = |catalogue: Catalogue, motion: &Motion| Payload::render(catalogue, motion);
        match kind {
            Kind::Node => self.payloads[0].get_or_init(|| render(catalogue::node(seed), &self.motion)),
            Kind::Small => self.payloads[1].get_or_init(|| render(catalogue::small(seed), &self.motion)),
            Kind::Huge => self.payloads[2].get_or_init(|| {
                // A variant of the huge payload is about 5 MB, so there are fewer of them.
                let motion = Motion { variants: self.motion.variants.min(4), ..self.motion.clone() };
                render(catalogue::app(HUGE_SAMPLES, seed), &motion)
            }),
            Kind::App | Kind::Mix => {
                self.payloads[3].get_or_init(|| render(catalogue::app(self.app_samples, seed), &self.motion))
            }
        }
    }
}

/// A listener that every address of 127.0.0.0/8 reaches and, as far as the kernel lets us say so, nothing else.
///
/// There is no way to bind a whole network, so the socket is bound to all addresses but only to the loopback device;
/// the loop checks both ends of every connection as well, for kernels older than 5.7 that reserve the former to root.
fn listen(port: u16, backlog: i32, shared: bool) -> anyhow::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).context("making a socket")?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    _ = socket.bind_device(Some(b"lo"));
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    socket.bind(&address.into()).with_context(|| format!("binding port {port}; choose another with --listen"))?;
    socket.listen(backlog).with_context(|| format!("listening on port {port}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The farm's own listener, with a queue long enough for all targets to connect at once.
pub fn listen_wide(port: u16, shared: bool) -> anyhow::Result<std::net::TcpListener> {
    listen(port, BACKLOG, shared)
}

/// A listener whose queue is full from the start and stays so: further connections get no answer to their SYN.
pub struct FullBacklog {
    pub port: u16,
    _listener: std::net::TcpListener,
    /// The connections that fill the queue; their number is what the kernel makes of a backlog of 0, and some more.
    _fillers: Vec<StdTcpStream>,
}

impl FullBacklog {
    /// Takes a free port and fills the queue.
    pub fn start() -> anyhow::Result<Self> {
        let listener = listen(0, 0, false)?;
        let port = listener.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let fill = |_| StdTcpStream::connect_timeout(&address, Duration::from_millis(50));
        let fillers = (0..3).map_while(|n| fill(n).ok()).collect();
        Ok(Self { port, _listener: listener, _fillers: fillers })
    }
}

/// What a connection is writing.
enum Output<'a> {
    /// Nothing: a request may come.
    Idle,
    /// A rendered payload, `slot` being in flight meanwhile.
    Payload { response: &'a [u8], bytes_done: usize, samples: usize },
    /// Anything else.
    Script(Script),
}

struct Connection<'a> {
    stream: Wire,
    local: Ipv4Addr,
    slot: usize,
    /// Tells this connection from others that had its token before.
    serial: u64,
    /// The beginning of a request, or requests that came while a reply was being written.
    input: Vec<u8>,
    output: Output<'a>,
    /// A timer or a turn is due that goes on with the output; until then events on the socket must not.
    waiting: bool,
    close_after_reply: bool,
    /// The peer sent its FIN.
    peer_left: bool,
}

/// Whether the connection lives on.
#[derive(PartialEq)]
enum Fate {
    Keep,
    Drop,
}

/// A connection's token and serial number.
type Key = (usize, u64);

/// One event loop.
pub struct Loop<'a> {
    farm: &'a Farm,
    poll: Poll,
    listener: TcpListener,
    port: u16,
    /// How connections are secured, if they are.
    tls: Option<Arc<ServerConfig>>,
    connections: Vec<Option<Connection<'a>>>,
    tokens_free: Vec<usize>,
    tokens_freed_now: Vec<usize>,
    serial_next: u64,
    timers: BinaryHeap<Reverse<(Instant, Key)>>,
    /// Those whose turn ended before their socket was full.
    turns: Vec<Key>,
    read_buffer: Vec<u8>,
    /// Set while accepting failed for want of descriptors.
    accept_again: bool,
}

impl<'a> Loop<'a> {
    /// A loop on a listener made by `listen`.
    pub fn new(
        farm: &'a Farm,
        listener: std::net::TcpListener,
        tls: Option<Arc<ServerConfig>>,
    ) -> anyhow::Result<Self> {
        let port = listener.local_addr()?.port();
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new().context("making an epoll instance")?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            farm,
            poll,
            listener,
            port,
            tls,
            connections: Vec::new(),
            tokens_free: Vec::new(),
            tokens_freed_now: Vec::new(),
            serial_next: 0,
            timers: BinaryHeap::new(),
            turns: Vec::new(),
            read_buffer: vec![0; READ_BYTES],
            accept_again: false,
        })
    }

    /// Serves until `stop` is set or the deadline has passed.
    pub fn run(&mut self, stop: &AtomicBool, deadline: Instant) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            let now = Instant::now();
            if stop.load(Relaxed) || now >= deadline {
                return Ok(());
            }
            let mut wait = WAKE_MAX;
            if let Some(Reverse((due, _))) = self.timers.peek() {
                wait = wait.min(due.saturating_duration_since(now));
            }
            if !self.turns.is_empty() {
                wait = Duration::ZERO;
            }
            match self.poll.poll(&mut events, Some(wait)) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.context("waiting for events")?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_all(),
                    Token(token) => {
                        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                        self.with_connection(token, None, |this, c| this.on_ready(c, token, readable));
                    }
                }
            }
            if std::mem::take(&mut self.accept_again) {
                self.accept_all();
            }
            for (token, serial) in std::mem::take(&mut self.turns) {
                self.resume((token, serial));
            }
            self.fire_timers();
            self.tokens_free.append(&mut self.tokens_freed_now);
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((due, (token, serial)))) = self.timers.peek() {
            if due > now {
                return;
            }
            self.timers.pop();
            self.resume((token, serial));
        }
    }

    /// What a connection waited for has come, if it still is there.
    fn resume(&mut self, (token, serial): Key) {
        self.with_connection(token, Some(serial), |this, c| {
            c.waiting = false;
            this.go_on(c, token)
        });
    }

    fn wait_for_timer(&mut self, c: &mut Connection<'a>, token: usize, due: Instant) {
        c.waiting = true;
        self.timers.push(Reverse((due, (token, c.serial))));
    }

    fn accept_all(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted || e.kind() == ErrorKind::ConnectionAborted => {}
                // Out of descriptors: the edge was used up, so ask again at the next wake-up.
                Err(_) => return self.accept_again = true,
            }
        }
    }

    fn admit(&mut self, mut stream: TcpStream, peer: SocketAddr) {
        let local = match (stream.local_addr(), peer) {
            (Ok(SocketAddr::V4(local)), SocketAddr::V4(peer))
                if local.ip().is_loopback() && peer.ip().is_loopback() =>
            {
                *local.ip()
            }
            _ => return self.farm.stats.connection_refused(),
        };
        // A reply longer than the socket buffer takes two writes, which Nagle would hold apart.
        _ = stream.set_nodelay(true);
        let token = self.tokens_free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        if self.poll.registry().register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE).is_err() {
            return self.tokens_free.push(token);
        }
        let Ok(stream) = Wire::new(stream, self.tls.as_ref()) else { return self.tokens_free.push(token) };
        let slot = self.farm.stats.slot(address::target_of(local));
        self.farm.stats.connection_opened(slot);
        self.serial_next += 1;
        self.connections[token] = Some(Connection {
            stream,
            local,
            slot,
            serial: self.serial_next,
            input: Vec::new(),
            output: Output::Idle,
            waiting: false,
            close_after_reply: false,
            peer_left: false,
        });
    }

    /// Runs `act` on a connection, if it still is the one that was meant, and drops it when that is its fate.
    fn with_connection(
        &mut self,
        token: usize,
        serial: Option<u64>,
        act: impl FnOnce(&mut Self, &mut Connection<'a>) -> io::Result<Fate>,
    ) {
        let Some(mut connection) = self.connections[token].take() else { return };
        if serial.is_some_and(|serial| serial != connection.serial) {
            self.connections[token] = Some(connection);
            return;
        }
        // An error on the socket is the peer's doing, and ends this connection only.
        if act(self, &mut connection).unwrap_or(Fate::Drop) == Fate::Keep {
            self.connections[token] = Some(connection);
            return;
        }
        connection.stream.send_close_notify();
        if let Output::Payload { .. } = connection.output {
            self.farm.stats.scrape_ended(connection.slot);
        }
        self.farm.stats.connection_closed(connection.slot);
        self.tokens_freed_now.push(token);
    }

    fn on_ready(&mut self, c: &mut Connection<'a>, token: usize, readable: bool) -> io::Result<Fate> {
        if readable && self.read(c)? == Fate::Drop {
            return Ok(Fate::Drop);
        }
        c.stream.hand_on()?;
        match c.output {
            Output::Idle => self.serve_input(c, token),
            _ => self.go_on(c, token),
        }
    }

    /// Takes in what has come. A peer that leaves while it is being answered ends the connection.
    fn read(&mut self, c: &mut Connection<'a>) -> io::Result<Fate> {
        loop {
            match c.stream.read(&mut self.read_buffer) {
                Ok(0) => {
                    c.peer_left = true;
                    let finished = matches!(c.output, Output::Idle) && c.input.is_empty();
                    let scripted = matches!(c.output, Output::Script(_));
                    return Ok(if finished || scripted { Fate::Drop } else { Fate::Keep });
                }
                Ok(read) => {
                    c.input.extend_from_slice(&self.read_buffer[..read]);
                    if c.input.len() > INPUT_BYTES_MAX {
                        return Ok(Fate::Drop);
                    }
                    // A short read has emptied the socket; the next bytes, or the FIN, raise an edge of their own.
                    if read < self.read_buffer.len() && c.stream.reads_all_at_once() {
                        return Ok(Fate::Keep);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Fate::Keep),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Answers the requests that are complete, one after the other.
    fn serve_input(&mut self, c: &mut Connection<'a>, token: usize) -> io::Result<Fate> {
        while let Output::Idle = c.output {
            let Some(end) = memmem::find(&c.input, b"\r\n\r\n") else {
                return Ok(if c.peer_left { Fate::Drop } else { Fate::Keep });
            };
            // The buffer is lent out and put back, so that the next request finds it allocated.
            let mut input = std::mem::take(&mut c.input);
            let request = RequestHead::read(&input[..end]);
            c.close_after_reply = request.close;
            self.answer(c, token, request);
            input.drain(..end + 4);
            c.input = input;
            if self.write(c, token)? == Fate::Drop {
                return Ok(Fate::Drop);
            }
        }
        Ok(Fate::Keep)
    }

    /// Goes on with the reply and, when it is through, with the next request.
    fn go_on(&mut self, c: &mut Connection<'a>, token: usize) -> io::Result<Fate> {
        if self.write(c, token)? == Fate::Drop {
            return Ok(Fate::Drop);
        }
        match c.output {
            Output::Idle if !c.input.is_empty() || c.peer_left => self.serve_input(c, token),
            _ => Ok(Fate::Keep),
        }
    }

    /// Writes as much as the socket takes; leaves `Output::Idle` behind when the reply is through.
    fn write(&mut self, c: &mut Connection<'a>, token: usize) -> io::Result<Fate> {
        if c.waiting {
            return Ok(Fate::Keep);
        }
        match &mut c.output {
            Output::Idle => return Ok(Fate::Keep),
            Output::Payload { response, bytes_done, samples } => {
                while *bytes_done < response.len() {
                    let Some(written) = write_some(&mut c.stream, &response[*bytes_done..])? else {
                        return Ok(Fate::Keep);
                    };
                    *bytes_done += written;
                    self.farm.stats.sent(written);
                }
                if !c.stream.hand_on()? {
                    return Ok(Fate::Keep);
                }
                self.farm.stats.scrape_answered(*samples);
                self.farm.stats.scrape_ended(c.slot);
            }
            Output::Script(script) => {
                let mut sent = 0;
                let progress = script.advance(&mut c.stream, &mut sent);
                self.farm.stats.sent(sent);
                match progress? {
                    Progress::Done if !c.stream.hand_on()? => return Ok(Fate::Keep),
                    Progress::Done => {}
                    Progress::Blocked | Progress::Hang => return Ok(Fate::Keep),
                    Progress::Close => return Ok(Fate::Drop),
                    Progress::Turn => {
                        c.waiting = true;
                        self.turns.push((token, c.serial));
                        return Ok(Fate::Keep);
                    }
                    Progress::Pause(pause) => {
                        self.wait_for_timer(c, token, Instant::now() + pause);
                        return Ok(Fate::Keep);
                    }
                }
            }
        }
        c.output = Output::Idle;
        Ok(if c.close_after_reply { Fate::Drop } else { Fate::Keep })
    }

    /// Chooses the reply.
    fn answer(&mut self, c: &mut Connection<'a>, token: usize, request: RequestHead) {
        let farm = self.farm;
        let path = request.path.split_once('?').map_or(request.path, |(path, _)| path);
        let kind = match path {
            "/metrics" => Some(farm.kind_of(c.slot)),
            "/metrics/node" => Some(Kind::Node),
            "/metrics/app" => Some(Kind::App),
            "/metrics/huge" => Some(Kind::Huge),
            "/metrics/small" => Some(Kind::Small),
            _ => None,
        };
        if let Some(kind) = kind {
            let payload = farm.payload(kind);
            let variants = &payload.variants;
            let now = Instant::now();
            let gzip = request.gzip && !farm.plain_only;
            let scrape = farm.stats.scrape_began(c.slot, gzip, now) as usize;
            let variant = &variants[(c.slot + scrape) % variants.len()];
            let response = if gzip { &variant.gzip } else { &variant.plain };
            c.output = Output::Payload { response, bytes_done: 0, samples: payload.samples };
            if !farm.delay.is_zero() {
                self.wait_for_timer(c, token, now + farm.delay);
            }
            return;
        }
        let json = "Content-Type: application/json\r\n";
        let text = "Content-Type: text/plain; charset=utf-8\r\n";
        let page = match (request.method, path) {
            (_, "/") => reply("200 OK", text, index_page().as_bytes()),
            (_, "/stats") => reply("200 OK", json, farm.stats.json().as_bytes()),
            (_, "/stats/targets") => reply("200 OK", json, farm.stats.targets_json().as_bytes()),
            ("POST", "/stats/reset") => {
                farm.stats.reset();
                reply("200 OK", text, b"reset\n")
            }
            (_, "/stats/reset") => reply("405 Method Not Allowed", "Allow: POST\r\n", b"use POST\n"),
            _ => {
                let rest = path.strip_prefix("/evil/").unwrap_or_default();
                let (name, rest) = rest.split_once('/').unwrap_or((rest, ""));
                match evil::find(name) {
                    Some(evil) => {
                        let request = Request {
                            local: c.local,
                            port: self.port,
                            served_before: farm.stats.evil_served(evil),
                            now_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64),
                            rest,
                        };
                        c.output = Output::Script(Script::new((EVILS[evil].script)(&request)));
                        return;
                    }
                    None => reply("404 Not Found", text, b"no such page; / lists them\n"),
                }
            }
        };
        c.output = Output::Script(Script::new(vec![Step::Send(page)]));
    }
}

fn index_page() -> String {
    format!(
        "/metrics            what --kind says\n\
         /metrics/KIND       node, app, huge or small\n\
         /stats              counters (JSON); POST /stats/reset forgets them\n\
         /stats/targets      scrapes by target (JSON)\n\
         /evil/NAME          one of these:\n\n{}",
        evil::listing()
    )
}

/// What matters of a request head.
struct RequestHead<'a> {
    method: &'a str,
    path: &'a str,
    gzip: bool,
    close: bool,
}

impl<'a> RequestHead<'a> {
    /// Reads a head without its empty line. What cannot be read becomes the path "", which is no page.
    fn read(head: &'a [u8]) -> Self {
        let mut lines = head.split(|&byte| byte == b'\n');
        let request_line = std::str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default().trim_end();
        let mut words = request_line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let version = words.next().unwrap_or_default();
        let mut request = Self { method, path, gzip: false, close: version != "HTTP/1.1" };
        for line in lines {
            if let Some(value) = header(line, b"accept-encoding:") {
                request.gzip = contains_ignoring_case(value, b"gzip");
            } else if let Some(value) = header(line, b"connection:") {
                request.close |= contains_ignoring_case(value, b"close");
            } else if let Some(value) = header(line, b"content-length:") {
                // Bodies are not read; their bytes must not be taken for the next request.
                request.close |= value.trim_ascii() != b"0";
            }
        }
        request
    }
}

fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    line.split_at_checked(name.len()).filter(|(start, _)| start.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn contains_ignoring_case(value: &[u8], word: &[u8]) -> bool {
    value.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, method: &str, path: &str, gzip: bool, close: bool) {
        let request = RequestHead::read(head.as_bytes());
        assert_eq!((request.method, request.path, request.gzip, request.close), (method, path, gzip, close));
    }

    #[test]
    fn heads_are_read_for_what_matters() {
        check("GET /metrics HTTP/1.1\r\nHost: x", "GET", "/metrics", false, false);
        check("GET /m HTTP/1.1\r\nAccept-Encoding: deflate, GZIP;q=1", "GET", "/m", true, false);
        check("GET /m HTTP/1.1\r\nX-Accept-Encoding: gzip", "GET", "/m", false, false);
        check("GET /m HTTP/1.0\r\nHost: x", "GET", "/m", false, true);
        check("GET /m HTTP/1.1\r\nCONNECTION: Close", "GET", "/m", false, true);
        check("POST /stats/reset HTTP/1.1\r\nContent-Length: 0", "POST", "/stats/reset", false, false);
        check("POST /stats/reset HTTP/1.1\r\nContent-Length: 5", "POST", "/stats/reset", false, true);
        check("", "", "", false, true);
        check("\u{0}\r\n\r\n", "\0", "", false, true);
    }
}
