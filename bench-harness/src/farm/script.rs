//! A reply that is more than one write: a list of steps that the event loop carries out as the peer allows.
//!
//! Invariants:
//!   * a step holds one block at a time, so an endless reply costs no more memory than a short one
//!   * a turn writes at most `TURN_BYTES_MAX`, so one greedy reader cannot hold up the others
//!   * a script that runs out of steps leaves the connection open for the next request

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use crate::wire::Wire;

/// What one connection may write before the others get their turn.
const TURN_BYTES_MAX: usize = 256 * 1024;

/// Fills an empty buffer with the block of that number.
pub type MakeBlock = Box<dyn Fn(u64, &mut Vec<u8>) + Send>;

/// One thing to do on a connection.
pub enum Step {
    /// Write these bytes.
    Send(Vec<u8>),
    /// Write the same block many times; `u64::MAX` is for ever.
    Repeat { block: Arc<[u8]>, times: u64 },
    /// Write blocks that are made when their turn comes.
    Generate { make: MakeBlock, blocks: u64 },
    /// One byte, a pause, the next byte.
    Drip { bytes: Vec<u8>, gap: Duration },
    /// Write nothing more and wait until the peer leaves.
    Hang,
    /// Send a FIN and go on listening.
    HalfClose,
    /// Drop the connection with a RST.
    Reset,
    /// Drop the connection with a FIN.
    Close,
}

/// What the event loop has to do next.
#[derive(Debug, PartialEq)]
pub enum Progress {
    /// All steps are done; the connection is ready for another request.
    Done,
    /// The socket is full; go on when it is writable.
    Blocked,
    /// The turn is over; go on after the others had theirs.
    Turn,
    /// Go on after the pause.
    Pause(Duration),
    /// Nothing more will be written; only the peer can end this.
    Hang,
    /// The connection is to be dropped.
    Close,
}

/// The steps still to do and the place in the first of them.
pub struct Script {
    steps: VecDeque<Step>,
    /// Blocks of the first step that are written already.
    blocks_done: u64,
    /// Bytes of the current block that are written already.
    bytes_done: usize,
    generated: Vec<u8>,
}

impl Script {
    /// A script at its start.
    pub fn new(steps: Vec<Step>) -> Self {
        Self { steps: steps.into(), blocks_done: 0, bytes_done: 0, generated: Vec::new() }
    }

    /// Goes on as far as the socket and the turn allow; adds the bytes written to `sent`.
    pub fn advance(&mut self, stream: &mut Wire, sent: &mut usize) -> io::Result<Progress> {
        let mut turn_bytes = 0;
        loop {
            let Some(step) = self.steps.front() else { return Ok(Progress::Done) };
            let (block, blocks): (&[u8], u64) = match step {
                Step::Send(bytes) => (bytes, 1),
                Step::Repeat { block, times } => (block, *times),
                Step::Generate { make, blocks } => {
                    if self.generated.is_empty() {
                        make(self.blocks_done, &mut self.generated);
                    }
                    (&self.generated, *blocks)
                }
                Step::Drip { bytes, gap } => {
                    let Some(byte) = bytes.get(self.bytes_done) else {
                        self.next_step();
                        continue;
                    };
                    return match write_some(stream, std::slice::from_ref(byte))? {
                        None => Ok(Progress::Blocked),
                        Some(written) => {
                            self.bytes_done += written;
                            *sent += written;
                            Ok(Progress::Pause(*gap))
                        }
                    };
                }
                Step::Hang => return Ok(Progress::Hang),
                Step::HalfClose => {
                    stream.socket().shutdown(Shutdown::Write)?;
                    self.next_step();
                    continue;
                }
                Step::Reset => {
                    // With a linger of zero the kernel sends a RST instead of a FIN when the socket is closed.
                    SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO))?;
                    return Ok(Progress::Close);
                }
                Step::Close => return Ok(Progress::Close),
            };
            if self.blocks_done == blocks {
                self.next_step();
                continue;
            }
            match write_some(stream, &block[self.bytes_done..])? {
                None => return Ok(Progress::Blocked),
                Some(written) => {
                    *sent += written;
                    turn_bytes += written;
                    self.bytes_done += written;
                    if self.bytes_done == block.len() {
                        self.bytes_done = 0;
                        self.blocks_done += 1;
                        self.generated.clear();
                    }
                }
            }
            if turn_bytes >= TURN_BYTES_MAX {
                return Ok(Progress::Turn);
            }
        }
    }

    fn next_step(&mut self) {
        self.steps.pop_front();
        self.blocks_done = 0;
        self.bytes_done = 0;
        self.generated.clear();
    }
}

/// One write; `None` = the socket is full.
pub fn write_some(stream: &mut Wire, bytes: &[u8]) -> io::Result<Option<usize>> {
    if bytes.is_empty() {
        return Ok(Some(0));
    }
    loop {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(Some(written)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
