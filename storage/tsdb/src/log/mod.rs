//! The write-ahead log: frames in files, records in frames, and the policy that writes them. Format: docs/format/log.md.

pub(crate) mod frame;
mod journal;
mod kept;
pub(crate) mod record;
mod replay;
mod survey;
mod tail;
pub(crate) mod writer;

pub use frame::{Damage, FileId};
pub use journal::{Journal, SegmentMark, TargetKey};
pub(crate) use kept::logs_in;
pub use kept::{KeptLogs, Logs};
pub use record::{put_matchers, read_matchers};
pub use replay::{Last, Recovered, Replay, Replayed, Restored, replay_file};
pub(crate) use survey::Survey;
pub use tail::{Border, Reached, Tail, Told, Untold};
pub use writer::{Action, FileToken, Options, Writer};
