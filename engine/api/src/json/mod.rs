//! Answers of queries as JSON, written piece by piece.

pub mod labels;
pub mod result;
