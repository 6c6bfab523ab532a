//! What the benches share: corpora, and the record that they are compared by.

pub mod corpora;
pub mod record;

pub use corpora::{Random, application, node, pathological};
