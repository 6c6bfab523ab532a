//! The content of a request, without what nothing is made of: minimum and maximum of histograms.

use super::any_value::AnyValue;

/// Attributes in the order of the message.
pub type Attributes = Vec<(String, AnyValue)>;

/// The metrics of a request.
#[derive(Debug, Default, PartialEq)]
pub struct OtlpMetrics {
    pub(super) resources: Vec<ResourceMetrics>,
}

#[derive(Debug, Default, PartialEq)]
pub struct ResourceMetrics {
    pub attributes: Attributes,
    pub scopes: Vec<ScopeMetrics>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Scope {
    pub name: String,
    pub version: String,
    pub attributes: Attributes,
    pub schema_url: String,
}

#[derive(Debug, Default, PartialEq)]
pub struct ScopeMetrics {
    pub scope: Scope,
    pub metrics: Vec<Metric>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Metric {
    pub name: String,
    pub description: String,
    pub unit: String,
    pub data: MetricData,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Temporality {
    #[default]
    Unspecified,
    Delta,
    Cumulative,
}

impl Temporality {
    pub fn from_number(number: u64) -> Temporality {
        match number {
            1 => Temporality::Delta,
            2 => Temporality::Cumulative,
            _ => Temporality::Unspecified,
        }
    }
}

#[derive(Debug, Default, PartialEq)]
pub enum MetricData {
    /// None, or one that is not known here.
    #[default]
    Unset,
    Gauge(Vec<NumberPoint>),
    Sum {
        points: Vec<NumberPoint>,
        temporality: Temporality,
        is_monotonic: bool,
    },
    Histogram {
        points: Vec<HistogramPoint>,
        temporality: Temporality,
    },
    Exponential {
        points: Vec<ExponentialPoint>,
        temporality: Temporality,
    },
    Summary(Vec<SummaryPoint>),
}

/// What all points have.
#[derive(Debug, Default, PartialEq)]
pub struct PointHead {
    pub attributes: Attributes,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// When it began to count, in nanoseconds since 1970; 0 if nothing is said.
    pub start_ns: u64,
    /// Whether the point says that there is no value any more.
    pub is_stale: bool,
    pub exemplars: Vec<PointExemplar>,
}

#[derive(Debug, Default, PartialEq)]
pub struct PointExemplar {
    /// Those that are not attributes of the point.
    pub attributes: Attributes,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub value: Option<f64>,
    /// In hexadecimal; empty if there is none.
    pub trace_id: String,
    pub span_id: String,
}

#[derive(Debug, Default, PartialEq)]
pub struct NumberPoint {
    pub head: PointHead,
    pub value: f64,
}

#[derive(Debug, Default, PartialEq)]
pub struct HistogramPoint {
    pub head: PointHead,
    pub count: u64,
    pub sum: Option<f64>,
    pub bucket_counts: Vec<u64>,
    pub bounds: Vec<f64>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Buckets {
    pub offset: i32,
    pub counts: Vec<u64>,
}

#[derive(Debug, Default, PartialEq)]
pub struct ExponentialPoint {
    pub head: PointHead,
    pub count: u64,
    pub sum: Option<f64>,
    pub scale: i32,
    pub zero_count: u64,
    pub zero_threshold: f64,
    pub positive: Buckets,
    pub negative: Buckets,
}

#[derive(Debug, Default, PartialEq)]
pub struct SummaryPoint {
    pub head: PointHead,
    pub count: u64,
    pub sum: f64,
    /// Quantile and value.
    pub quantiles: Vec<(f64, f64)>,
}

/// The bit of a point's flags that says that there is no value any more.
pub const FLAG_NO_RECORDED_VALUE: u64 = 1;
