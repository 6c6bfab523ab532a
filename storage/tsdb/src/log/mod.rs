//! The write-ahead log: frames in files, records in frames, and the policy that writes them. Format: docs/format/log.md.

pub(crate) mod frame;
mod journal;
mod kept;
pub(crate) mod record;
mod survey;
pub(crate) mod writer;

pub use frame::{Damage, FileId};
pub use journal::{Journal, SegmentMark, TargetKey};
pub(crate) use kept::logs_in;
pub use kept::{KeptLogs, Logs};
pub use record::{LoggedExemplar, LoggedExemplars, exemplars_of, put_matchers, read_matchers};
pub(crate) use survey::Survey;
pub use writer::{Action, FileToken, Options, Writer};
