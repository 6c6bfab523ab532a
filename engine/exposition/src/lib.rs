//! Exposition formats: the plain parsers of text and OpenMetrics, the template scan that replaces them on known payloads,
//! protobuf as OpenMetrics and native histograms, classic histograms as native ones, and the encoder.
//!
//! Works on borrowed bytes; knows nothing of targets, relabelling or storage.

mod classic;
mod encode;
mod encode_protobuf;
mod native;
mod number;
mod openmetrics;
mod protobuf;
mod series_text;
mod template;
mod text;

pub use classic::ClassicConverter;
pub use encode::{Escaping, Line, write_label_value, write_sample, write_type};
pub use encode_protobuf::{classic_buckets, write_histogram_family, write_untyped_families};
pub use native::{BucketSide, HistogramOptions, NativeHistogram, Transcoded};
pub use openmetrics::{Exemplar, START_SUFFIX, exemplar};
pub use protobuf::Transcoder;
pub use template::{
    ArchivedTemplate, ExemplarReading, ExemplarSeen, FamilyUnit, LayoutPart, LayoutScanner, Readings, Scan,
    ScanProgress, ScanResult, Template, walk,
};
pub use text::{
    Kind, LABELS_MAX, LINE_BYTES_MAX, Metadata, MetadataEntry, NAME_BYTES_MAX, ParseError, Parser, SampleLine,
    is_invalid_byte, labels, write_invalid_bytes,
};

/// A format of payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Format {
    /// Text 0.0.4 and 1.0.0.
    #[default]
    Text,
    /// OpenMetrics 0.0.1 and 1.0.0.
    OpenMetrics,
}

/// The plain parser of a payload of any format, sample by sample.
#[derive(Clone, Debug)]
pub struct PayloadParser<'a>(Plain<'a>);

#[derive(Clone, Debug)]
enum Plain<'a> {
    Text(Parser<'a>),
    OpenMetrics(openmetrics::Parser<'a>),
}

impl<'a> PayloadParser<'a> {
    /// Begins at `at`, with the TYPE that is in force there.
    pub fn new(format: Format, body: &'a [u8], at: usize, kind: Kind) -> PayloadParser<'a> {
        PayloadParser(match format {
            Format::Text => Plain::Text(Parser::new(body, at, kind)),
            Format::OpenMetrics => Plain::OpenMetrics(openmetrics::Parser::new(body, at, kind)),
        })
    }

    /// The next sample; None at the end of the payload.
    pub fn next_sample(&mut self) -> Result<Option<SampleLine>, ParseError> {
        match &mut self.0 {
            Plain::Text(parser) => parser.next_sample(),
            Plain::OpenMetrics(parser) => parser.next_sample(),
        }
    }

    /// The TYPE in force.
    pub fn kind(&self) -> Kind {
        match &self.0 {
            Plain::Text(parser) => parser.kind(),
            Plain::OpenMetrics(parser) => parser.kind(),
        }
    }

    /// Reads comments that stand alone: TYPE lines change the kind in force.
    pub(crate) fn skip_comments(&mut self) {
        match &mut self.0 {
            // A text that is only comments has no sample; it was parsed before.
            Plain::Text(parser) => {
                let outcome = parser.next_sample();
                debug_assert_eq!(outcome, Ok(None));
            }
            Plain::OpenMetrics(parser) => parser.skip_comments(),
        }
    }
}
