//! Exposition formats: the plain text parser, the template scan that replaces it on known payloads, and the encoder.
//!
//! Works on borrowed bytes; knows nothing of targets, relabelling or storage.

mod encode;
mod number;
mod template;
mod text;

pub use encode::{Escaping, Line, write_label_value, write_sample, write_type};
pub use template::{Piece, Readings, Scan, Template, Walk, Walked, Walker, walk};
pub use text::{
    Kind, LABELS_MAX, LINE_BYTES_MAX, Metadata, MetadataEntry, NAME_OR_VALUE_BYTES_MAX, ParseError, Parser, SampleLine,
    labels,
};
