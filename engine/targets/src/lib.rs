//! Who is to be scraped: discovery, target labels, placement on cores, and the diff between two such answers.

mod target;

pub use target::{FailedTarget, Pool, Scheme, Target, TargetDiff, TargetId, TargetSet, TargetUrl};
