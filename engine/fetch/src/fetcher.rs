//! What the fetches of one core share: the resolver, buffers, and what unpacks bodies.

use super::buffers::BufferPool;
use super::unpack::Unpacker;
use std::net::SocketAddr;

/// Turns a host, which may be an IP address, into addresses to connect to, without blocking the core.
pub trait Resolve {
    /// The error is the text for `lastError`, `lookup NAME: …`.
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = Result<Vec<SocketAddr>, String>>;
}

impl Resolve for crate::resolver::Resolver {
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = Result<Vec<SocketAddr>, String>> {
        crate::resolver::Resolver::resolve(self, host, port)
    }
}

/// What the fetches of one core share.
pub struct Fetcher<R> {
    pub(super) resolver: R,
    pub(super) pool: BufferPool,
    pub(super) unpacker: Unpacker,
}

impl<R: Resolve> Fetcher<R> {
    pub fn new(resolver: R) -> Fetcher<R> {
        Fetcher { resolver, pool: BufferPool::default(), unpacker: Unpacker::default() }
    }

    /// Gives up memory that no response has needed since the last time.
    pub fn trim(&self) {
        self.pool.trim();
    }
}
