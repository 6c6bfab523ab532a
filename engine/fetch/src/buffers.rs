//! The byte buffers of one core: lent for as long as a response is in flight, then used again.
//!
//! Invariants:
//!   * a buffer's bytes are all initialised, so a read or an unpack goes straight into it and nothing is zeroed twice
//!   * buffers lent out take at most [`LENT_BYTES_MAX`] together; growth beyond that is refused
//!   * buffers at rest take at most [`IDLE_BYTES_MAX`] and none of them more than [`IDLE_BUFFER_BYTES_MAX`]
//!   * buffers that nobody needed between two [`BufferPool::trim`]s are given up: a burst leaves nothing behind

use super::FetchError;
use crate::Reason;
use std::cell::RefCell;
use std::rc::Rc;

/// What all responses in flight on a core may hold: one plain body at the built-in limit, its packed form, and as much
/// again for everybody else.
pub const LENT_BYTES_MAX: usize = 512 << 20;
/// What a core keeps for the next responses.
const IDLE_BYTES_MAX: usize = 16 << 20;
const IDLE_BUFFER_BYTES_MAX: usize = 8 << 20;
/// Most bytes a buffer grows at once: fresh pages cost about a millisecond per 4 MiB, during which the core does nothing
/// else.
const GROW_BYTES_MAX: usize = 4 << 20;
/// Size of a new buffer. Most responses on the wire fit, so one read takes them.
pub const BUFFER_BYTES_MIN: usize = 64 << 10;

/// What a buffer is for. Packed bodies are a tenth of plain ones, so the two are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BufferKind {
    Wire,
    Plain,
}

/// Buffers of one kind at rest. The last one given back is the first to be lent: it is still in the cache.
#[derive(Default)]
struct Stack {
    buffers: Vec<Vec<u8>>,
    /// The fewest there were since the last trim: so many were not needed.
    fewest: usize,
}

impl Stack {
    fn pop(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop();
        self.fewest = self.fewest.min(self.buffers.len());
        buffer
    }

    /// Drops what was not needed; gives its bytes.
    fn trim(&mut self) -> usize {
        let bytes = self.buffers.drain(..self.fewest).map(|buffer| buffer.len()).sum();
        self.fewest = self.buffers.len();
        bytes
    }
}

#[derive(Default)]
struct PoolState {
    wire: Stack,
    plain: Stack,
    idle_bytes: usize,
    lent_bytes: usize,
}

impl PoolState {
    fn free_list(&mut self, shelf: BufferKind) -> &mut Stack {
        match shelf {
            BufferKind::Wire => &mut self.wire,
            BufferKind::Plain => &mut self.plain,
        }
    }
}

/// One core's buffers. Cloning copies a pointer.
#[derive(Clone, Default)]
pub struct BufferPool {
    shelves: Rc<RefCell<PoolState>>,
}

impl BufferPool {
    /// A buffer for what comes over the wire, empty; an error when the responses in flight hold too much.
    pub(super) fn wire(&self) -> Result<Buffer, PoolExhausted> {
        self.lend(BufferKind::Wire)
    }

    /// A buffer for unpacked bytes, empty.
    pub(super) fn plain(&self) -> Result<Buffer, PoolExhausted> {
        self.lend(BufferKind::Plain)
    }

    fn lend(&self, shelf: BufferKind) -> Result<Buffer, PoolExhausted> {
        let mut shelves = self.shelves.borrow_mut();
        let bytes = match shelves.free_list(shelf).pop() {
            Some(bytes) => {
                shelves.idle_bytes -= bytes.len();
                bytes
            }
            None => vec![0; BUFFER_BYTES_MIN],
        };
        shelves.lent_bytes += bytes.len();
        let buffer = Buffer { bytes, used: 0, shelf, pool: self.clone() };
        if shelves.lent_bytes > LENT_BYTES_MAX {
            drop(shelves);
            return Err(PoolExhausted);
        }
        Ok(buffer)
    }

    /// Gives up the buffers that nobody has needed since the last time.
    pub fn trim(&self) {
        let mut shelves = self.shelves.borrow_mut();
        let bytes = shelves.wire.trim() + shelves.plain.trim();
        shelves.idle_bytes -= bytes;
    }

    #[cfg(test)]
    pub(super) fn lent_bytes(&self) -> usize {
        self.shelves.borrow().lent_bytes
    }

    #[cfg(test)]
    pub(super) fn idle_bytes(&self) -> usize {
        self.shelves.borrow().idle_bytes
    }
}

/// The responses in flight on this core hold [`LENT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolExhausted;

impl From<PoolExhausted> for FetchError {
    fn from(PoolExhausted: PoolExhausted) -> FetchError {
        let text = format!("no room for the body: the responses in flight on this core hold {LENT_BYTES_MAX} bytes");
        FetchError { reason: Reason::BodySize, text }
    }
}

/// A lent buffer; dropping it gives it back.
pub(super) struct Buffer {
    /// All of it is initialised; the first `used` bytes are data.
    bytes: Vec<u8>,
    used: usize,
    shelf: BufferKind,
    pool: BufferPool,
}

impl Buffer {
    pub fn data(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.used]
    }

    /// The bytes behind the data, of any content.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used..]
    }

    /// How many bytes the buffer has, data or not.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Says that the first `used` bytes are data now.
    pub fn set_used(&mut self, used: usize) {
        assert!(used <= self.bytes.len());
        self.used = used;
    }

    /// Makes the buffer at least `size` bytes long.
    pub fn grow_to(&mut self, size: usize) -> Result<(), PoolExhausted> {
        let more = size.saturating_sub(self.bytes.len());
        if more == 0 {
            return Ok(());
        }
        let mut shelves = self.pool.shelves.borrow_mut();
        if more > LENT_BYTES_MAX - shelves.lent_bytes.min(LENT_BYTES_MAX) {
            return Err(PoolExhausted);
        }
        shelves.lent_bytes += more;
        if self.used == 0 {
            // Nothing to carry over, and memory fresh from the system is zero already.
            self.bytes = vec![0; size];
        } else {
            self.bytes.resize(size, 0);
        }
        Ok(())
    }

    /// Makes the buffer larger, up to twice its size, but not beyond `size_max` (which is larger than it is now).
    pub fn grow(&mut self, size_max: usize) -> Result<(), PoolExhausted> {
        let size = self.bytes.len();
        self.grow_to((size + size.min(GROW_BYTES_MAX)).min(size_max))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut shelves = self.pool.shelves.borrow_mut();
        let bytes = std::mem::take(&mut self.bytes);
        shelves.lent_bytes -= bytes.len();
        if bytes.len() <= IDLE_BUFFER_BYTES_MAX && shelves.idle_bytes + bytes.len() <= IDLE_BYTES_MAX {
            shelves.idle_bytes += bytes.len();
            shelves.free_list(self.shelf).buffers.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_is_used_again_with_its_size() {
        let pool = BufferPool::default();
        let mut buffer = pool.wire().unwrap();
        buffer.grow_to(1 << 20).unwrap();
        buffer.set_used(3);
        assert_eq!((pool.lent_bytes(), pool.idle_bytes()), (1 << 20, 0));
        drop(buffer);
        assert_eq!((pool.lent_bytes(), pool.idle_bytes()), (0, 1 << 20));
        let buffer = pool.wire().unwrap();
        assert_eq!((buffer.size(), buffer.data()), (1 << 20, &b""[..]));
        assert_eq!(pool.plain().unwrap().size(), BUFFER_BYTES_MIN);
    }

    #[test]
    fn buffer_grows_in_bounded_steps() {
        let pool = BufferPool::default();
        let mut buffer = pool.wire().unwrap();
        buffer.set_used(1);
        let mut sizes = Vec::new();
        while buffer.size() < 17 << 20 {
            buffer.grow(17 << 20).unwrap();
            sizes.push(buffer.size() >> 10);
        }
        assert_eq!(sizes, [128, 256, 512, 1024, 2048, 4096, 8192, 12 << 10, 16 << 10, 17 << 10]);
    }

    #[test]
    fn huge_buffer_is_not_kept() {
        let pool = BufferPool::default();
        let mut buffer = pool.plain().unwrap();
        buffer.grow_to(IDLE_BUFFER_BYTES_MAX + 1).unwrap();
        drop(buffer);
        assert_eq!((pool.lent_bytes(), pool.idle_bytes()), (0, 0));
    }

    #[test]
    fn idle_bytes_are_bounded() {
        let pool = BufferPool::default();
        let lent: Vec<Buffer> = (0..IDLE_BYTES_MAX / BUFFER_BYTES_MIN + 10).map(|_| pool.wire().unwrap()).collect();
        drop(lent);
        assert_eq!((pool.lent_bytes(), pool.idle_bytes()), (0, IDLE_BYTES_MAX));
    }

    #[test]
    fn burst_leaves_what_is_needed() {
        let pool = BufferPool::default();
        let lend = |count: usize| drop((0..count).map(|_| pool.wire().unwrap()).collect::<Vec<Buffer>>());
        lend(10);
        pool.trim();
        assert_eq!(pool.idle_bytes(), 10 * BUFFER_BYTES_MIN, "all ten were needed");
        lend(3);
        pool.trim();
        assert_eq!(pool.idle_bytes(), 3 * BUFFER_BYTES_MIN);
        pool.trim();
        assert_eq!(pool.idle_bytes(), 0);
        lend(1);
        assert_eq!(pool.idle_bytes(), BUFFER_BYTES_MIN);
    }

    #[test]
    fn lent_bytes_are_bounded() {
        let pool = BufferPool::default();
        let (mut first, mut second) = (pool.wire().unwrap(), pool.wire().unwrap());
        first.grow_to(LENT_BYTES_MAX - BUFFER_BYTES_MIN).unwrap();
        assert_eq!(second.grow_to(BUFFER_BYTES_MIN + 1), Err(PoolExhausted));
        assert_eq!(second.size(), BUFFER_BYTES_MIN);
        assert!(pool.wire().is_err());
        drop(first);
        second.grow_to(BUFFER_BYTES_MIN + 1).unwrap();
        drop(second);
        assert_eq!(pool.lent_bytes(), 0);
    }
}
