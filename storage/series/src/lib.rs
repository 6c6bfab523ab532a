//! Labels, matchers, samples and the primitives that several crates need: text forms of floats, durations and times,
//! variable-length integers, regular expressions with RE2's meaning, and the rule for samples of one time.
//!
//! This crate knows nothing of targets, files, sockets or shards. Values are immutable once built and cheap to clone
//! across threads.
//!
//! This is an API boundary: other crates build on these types, so a change here is reviewed as one.

#![warn(missing_docs)]

pub mod clock;
pub mod codec;
mod duration;
mod float;
pub mod histogram;
mod labels;
mod matcher;
mod metadata_labels;
pub mod order;
mod quote;
mod regex;
mod start_times;
mod time;
mod value;

pub use duration::{DURATION_MS_MAX, DurationError, format_duration, parse_duration};
pub use float::{EXACT_INTEGER_MAX, FloatError, NORMAL_NAN, format_float, format_float_json, parse_float};
pub use histogram::Histogram;
pub use labels::{Labels, LabelsBuilder, METRIC_NAME, is_legacy_label_name, is_legacy_metric_name};
pub use matcher::{MatchOp, Matcher};
pub use metadata_labels::{TYPE_LABEL, UNIT_LABEL, with_metadata_labels};
pub use quote::Quoted;
pub use regex::{Groups, Regex, RegexError, Replacement};
pub use start_times::{NO_START, StartTimes, note_start, sort_starts, start_of};
pub use time::{Rfc3339, civil_from_days, days_from_civil, days_in_month, parse_rfc3339};
pub use value::{STALE_NAN, Sample, SeriesData, Timestamp, Value, is_stale};
