//! Prometheus' head: what its data folder has that is in no block yet. It is read from its write-ahead log and its mapped
//! chunks and written as blocks.
//!
//! The log comes first as the newest checkpoint, then as the segments behind it. Chunks that Prometheus has mapped are copied
//! as they are, and the samples that the log has of the same times are passed over, as Prometheus does at its start.
//! Samples that came out of order lie in a log of their own (`wbl`).
//!
//! Invariants:
//!   * the folder is changed only when the blocks are durable: they get their places, then the files that were read are moved
//!     into `prometheus-head/`. A crash at any point is carried on or begun anew by the next call
//!   * what cannot be read is named; everything else is taken
//!   * memory: that of a `BlockBuilder`, and 56 bytes for each mapped chunk

mod import;
mod mapped;
mod publish;
mod record;
mod segment;
#[cfg(test)]
mod tests;

pub use import::{HeadImport, ImportOptions, has_head, import_head};
pub use publish::{IMPORTED_DIR, WORK_DIR};
