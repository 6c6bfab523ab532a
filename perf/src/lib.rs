//! Corpora that the benches share.
