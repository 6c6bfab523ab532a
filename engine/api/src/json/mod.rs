//! Answers of queries as JSON, written piece by piece.

pub mod labels;
pub mod list;
pub mod result;
