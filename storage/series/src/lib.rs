//! Labels, matchers, samples and their text forms: the nouns every room shares.
//!
//! Knows nothing of targets, files or sockets. Everything here is immutable once built and cheap to clone across
//! threads.

pub mod histogram;
mod labels;
mod matcher;
mod quote;
mod regex;
mod time;
mod value;

pub use histogram::Histogram;
pub use labels::{Labels, LabelsBuilder, METRIC_NAME, is_legacy_label_name, is_legacy_metric_name};
pub use matcher::{MatchOp, Matcher};
pub use quote::Quoted;
pub use regex::{Groups, Regex, RegexError};
pub use time::{Rfc3339, civil_from_days};
pub use value::{
    FloatError, NORMAL_NAN, STALE_NAN, Sample, Timestamp, Value, format_float, format_float_json, is_stale, parse_float,
};
