//! Every open connection, what it waits for, and which one is closed when there are too many.
//!
//! Invariants:
//!   * at most `max` connections are open; when one more comes, the one that has waited longest for its client is closed
//!   * a connection on which a request is evaluated, or whose client reads its answer, is never closed for another one

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Longest time for a TLS handshake, and from the first byte of a request's head to its last.
const HEAD_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// An answer of which the client has taken nothing for this long may be cut for a new connection.
const WRITE_STALL_EVICTABLE_MS: u64 = 2_000;
/// Time between two looks for a connection that can be closed, while there is none.
const EVICTION_RETRY: Duration = Duration::from_millis(100);

/// Limits of all connections together.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Open connections of all listeners together.
    pub connections_max: usize,
    /// Time to read a whole request, and time without a request on a kept connection.
    pub read_timeout: Duration,
}

impl Default for ConnectionLimits {
    /// Prometheus' defaults.
    fn default() -> ConnectionLimits {
        ConnectionLimits { connections_max: 512, read_timeout: Duration::from_secs(300) }
    }
}

impl ConnectionLimits {
    pub(crate) fn head_timeout(&self) -> Duration {
        self.read_timeout.min(HEAD_TIMEOUT_MAX)
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The rest of a TLS handshake.
    Handshake,
    /// The first byte of the next request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// More of a request's body.
    Body,
    /// The server.
    Answer,
    /// The client to take some of the answer.
    Write,
}

impl Phase {
    pub(crate) const ALL: [Phase; 6] =
        [Phase::Handshake, Phase::Idle, Phase::Head, Phase::Body, Phase::Answer, Phase::Write];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Phase::Handshake => "handshake",
            Phase::Idle => "idle",
            Phase::Head => "head",
            Phase::Body => "body",
            Phase::Answer => "answer",
            Phase::Write => "write",
        }
    }

    fn from_u8(value: u8) -> Phase {
        Phase::ALL.get(usize::from(value)).copied().unwrap_or(Phase::Answer)
    }
}

/// The state of one connection, shared by its stream, its requests and the table of connections.
#[derive(Debug)]
pub(crate) struct Connection {
    clock: Instant,
    phase: AtomicU8,
    /// When the phase began or the client last made progress in it, in milliseconds of `clock`.
    since_ms: AtomicU64,
    /// Since when a write waits for the client, in milliseconds of `clock`, plus one; 0 if none does.
    write_wait: AtomicU64,
    /// Whether the next bytes of the client begin a request.
    expects_head: AtomicBool,
    /// Whether the body of the current request has been read to its end.
    body_read: AtomicBool,
    close: Notify,
}

impl Connection {
    fn new(clock: Instant, phase: Phase) -> Connection {
        let connection = Connection {
            clock,
            phase: AtomicU8::new(phase as u8),
            since_ms: AtomicU64::new(0),
            write_wait: AtomicU64::new(0),
            expects_head: AtomicBool::new(true),
            body_read: AtomicBool::new(true),
            close: Notify::new(),
        };
        connection.enter(phase);
        connection
    }

    /// A connection that is in no table.
    #[cfg(test)]
    pub(crate) fn detached() -> Arc<Connection> {
        Arc::new(Connection::new(Instant::now(), Phase::Idle))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Enters a phase, or notes progress in the current one.
    pub(crate) fn enter(&self, phase: Phase) {
        self.since_ms.store(self.now_ms(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// What the connection waits for: a write that waits comes before everything else.
    pub(crate) fn phase(&self) -> Phase {
        match self.write_wait.load(Ordering::Relaxed) {
            0 => Phase::from_u8(self.phase.load(Ordering::Acquire)),
            _ => Phase::Write,
        }
    }

    /// A write begins to wait for the client, or goes on.
    pub(crate) fn set_write_waits(&self, waits: bool) {
        self.write_wait.store(if waits { self.now_ms() + 1 } else { 0 }, Ordering::Relaxed);
    }

    /// Time since the phase began or the client made progress in it.
    pub(crate) fn waited(&self) -> Duration {
        let since_ms = match self.write_wait.load(Ordering::Relaxed) {
            0 => self.since_ms.load(Ordering::Relaxed),
            since_ms => since_ms - 1,
        };
        Duration::from_millis(self.now_ms().saturating_sub(since_ms))
    }

    /// A request begins; `body_read` tells that it has no body.
    pub(crate) fn begin_request(&self, body_read: bool) {
        self.enter(Phase::Answer);
        self.body_read.store(body_read, Ordering::Release);
        self.expects_head.store(body_read, Ordering::Release);
    }

    /// The body of the request has been read: what comes next is another head.
    pub(crate) fn end_body(&self) {
        self.body_read.store(true, Ordering::Release);
        self.expects_head.store(true, Ordering::Release);
    }

    pub(crate) fn is_body_read(&self) -> bool {
        self.body_read.load(Ordering::Acquire)
    }

    /// Whether the next bytes begin a head; true once for each head.
    pub(crate) fn take_expects_head(&self) -> bool {
        self.expects_head.swap(false, Ordering::AcqRel)
    }

    /// Resolves when the connection has to make room for another one.
    pub(crate) async fn closed(&self) {
        self.close.notified().await;
    }

    /// How long the connection may stay in its phase; None if something else bounds it.
    pub(crate) fn timeout(&self, limits: &ConnectionLimits) -> Option<Duration> {
        match self.phase() {
            Phase::Idle => Some(limits.read_timeout),
            Phase::Head | Phase::Handshake => Some(limits.head_timeout()),
            // `body` and `stream` bound these.
            Phase::Body | Phase::Answer | Phase::Write => None,
        }
    }

    /// Whether the connection may be closed for a new one.
    fn is_evictable(&self) -> bool {
        match self.phase() {
            Phase::Handshake | Phase::Idle | Phase::Head | Phase::Body => true,
            Phase::Write => self.waited() >= Duration::from_millis(WRITE_STALL_EVICTABLE_MS),
            Phase::Answer => false,
        }
    }
}

/// Counters of connections.
#[derive(Debug, Default)]
pub(crate) struct ConnectionStats {
    pub accepted: AtomicU64,
    pub closed: AtomicU64,
    /// Closed for a new one, by phase.
    pub evicted: [AtomicU64; Phase::ALL.len()],
    /// Closed because the client took too long, by phase.
    pub timed_out: [AtomicU64; Phase::ALL.len()],
}

/// The table of all connections. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Table>);

#[derive(Debug)]
struct Table {
    limits: ConnectionLimits,
    clock: Instant,
    permits: Arc<Semaphore>,
    next_id: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    stats: ConnectionStats,
}

impl Connections {
    pub fn new(limits: ConnectionLimits) -> Connections {
        let max = limits.connections_max.clamp(1, Semaphore::MAX_PERMITS);
        Connections(Arc::new(Table {
            limits,
            clock: Instant::now(),
            permits: Arc::new(Semaphore::new(max)),
            next_id: AtomicU64::new(0),
            open: Mutex::default(),
            stats: ConnectionStats::default(),
        }))
    }

    pub(crate) fn limits(&self) -> &ConnectionLimits {
        &self.0.limits
    }

    pub(crate) fn stats(&self) -> &ConnectionStats {
        &self.0.stats
    }

    /// Open connections by phase.
    pub(crate) fn counts(&self) -> [u64; Phase::ALL.len()] {
        let mut counts = [0; Phase::ALL.len()];
        self.lock().values().for_each(|connection| counts[connection.phase() as usize] += 1);
        counts
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. If there are as many as allowed, closes another one and waits until it is gone.
    pub(crate) async fn add(&self, phase: Phase) -> OpenConnection {
        let permit = loop {
            if let Ok(permit) = self.0.permits.clone().try_acquire_owned() {
                break permit;
            }
            self.evict_one();
            // The semaphore is never closed; a place may also become free by itself.
            if let Ok(Ok(permit)) = tokio::time::timeout(EVICTION_RETRY, self.0.permits.clone().acquire_owned()).await {
                break permit;
            }
        };
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(self.0.clock, phase));
        self.lock().insert(id, connection.clone());
        self.0.stats.accepted.fetch_add(1, Ordering::Relaxed);
        OpenConnection { connection, id, connections: self.clone(), _permit: permit }
    }

    /// Asks the connection that has waited longest for its client to close.
    fn evict_one(&self) {
        let open = self.lock();
        let evictable = open.iter().filter(|(_, connection)| connection.is_evictable());
        let Some((_, longest)) = evictable.max_by_key(|(_, connection)| connection.waited()) else { return };
        self.0.stats.evicted[longest.phase() as usize].fetch_add(1, Ordering::Relaxed);
        longest.close.notify_one();
    }
}

/// An entry of the table, which ends with it.
pub(crate) struct OpenConnection {
    pub connection: Arc<Connection>,
    id: u64,
    connections: Connections,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    /// Counts a connection that is closed because its client took too long.
    pub fn count_timeout(&self) {
        let phase = self.connection.phase() as usize;
        self.connections.stats().timed_out[phase].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
        self.connections.0.stats.closed.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(connections_max: usize) -> Connections {
        Connections::new(ConnectionLimits { connections_max, ..ConnectionLimits::default() })
    }

    /// Ends each connection when it is asked to.
    fn serve(open: OpenConnection) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { open.connection.closed().await })
    }

    #[tokio::test]
    async fn the_longest_waiting_connection_makes_room() {
        let connections = table(3);
        let busy = connections.add(Phase::Answer).await;
        let oldest = serve(connections.add(Phase::Idle).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let newer = serve(connections.add(Phase::Head).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _new = connections.add(Phase::Idle).await;
        oldest.await.unwrap();
        assert!(!newer.is_finished());
        assert_eq!((busy.connection.phase(), connections.counts().iter().sum()), (Phase::Answer, 3));
        assert_eq!(connections.stats().evicted[Phase::Idle as usize].load(Ordering::Relaxed), 1);
        newer.abort();
    }

    #[tokio::test]
    async fn busy_connections_are_waited_for() {
        let connections = table(1);
        let busy = connections.add(Phase::Answer).await;
        let others = connections.clone();
        let waiting = tokio::spawn(async move { drop(others.add(Phase::Idle).await) });
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(!waiting.is_finished());
        drop(busy);
        waiting.await.unwrap();
        assert_eq!(connections.counts().iter().sum::<u64>(), 0);
    }
}
