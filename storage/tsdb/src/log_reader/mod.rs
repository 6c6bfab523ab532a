//! Reads logs back: whole after a start, and along as they are written. Format: docs/format/log.md.

mod replay;
mod tail;

pub use replay::{Last, Recovered, Replay, Replayed, Restored, replay_file};
pub use tail::{BatchOffset, LogSink, ReadLimit, Tail, TailLosses, TailSample, TailStatus};
