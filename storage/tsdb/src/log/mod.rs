//! The write-ahead log: frames in files, records in frames, and the policy that writes them. Format: docs/format/log.md.

pub(crate) mod frame;
mod journal;
pub(crate) mod record;
mod retained;
mod survey;
pub(crate) mod writer;

pub use frame::{Damage, FileId};
pub use journal::{Journal, SegmentMark, TargetKey};
pub use record::{LoggedExemplar, LoggedExemplars, exemplars_of, put_matchers, read_matchers};
pub(crate) use retained::logs_in;
pub use retained::{Logs, RetainedLogs};
pub(crate) use survey::Survey;
pub use writer::{Action, FileToken, Options, Writer};
