//! Delimited protobuf messages, `io.prometheus.client.MetricFamily`, as OpenMetrics text and native histograms.
//!
//! Everything but native histograms becomes lines of OpenMetrics: they take the way of all payloads from there, with its
//! templates, rules, limits and metadata. Values keep their bits but for those of NaN.
//!
//! Invariants:
//!   * bytes are read where they lie; linear time, no recursion beyond the messages' own four levels
//!   * text and native histograms together have at most [`EXPANSION_MAX`] times the bytes of the body, or [`BYTES_MIN`], and no
//!     more than [`BYTES_MAX`]; more is an error
//!   * a native histogram has at most [`BUCKETS_MAX`] numbers, a classic one as many buckets, a payload [`NATIVES_MAX`] native ones
//!
//! Where we differ from Prometheus 3.14, which has defects there: each metric is native or classic for itself, exemplars are
//! those of the metric, an untyped metric without a value is 0, and the bits of a staleness marker are a NaN.

use crate::native::{
    BUCKETS_MAX, BucketSide, ClassicHistogram, HistogramOptions, NATIVES_MAX, NativeHistogram, Transcoded,
};
use crate::openmetrics::{Exemplar, START_SUFFIX};
use crate::series_text::{SeriesText, push_label, push_quoted};
use crate::text::{Kind, ParseError};
use series::Labels;
use std::fmt::Write;

/// Bytes of text per byte of the body: a bucket of a dozen bytes repeats name and labels of its metric.
const EXPANSION_MAX: usize = 64;
const BYTES_MIN: usize = 16 << 20;
/// Payloads that are asked for have a tenth of it: 20,000 native histograms of 160 buckets are 100 MiB.
const BYTES_MAX: usize = 512 << 20;
/// Metrics that a step reads, and bytes that it makes of them, but for those of the last one.
const METRICS_PER_STEP: usize = 64;
const BYTES_PER_STEP: usize = 64 << 10;
/// Exemplars of a native histogram that are read.
const EXEMPLARS_MAX: usize = 1024;

/// Reads a body in steps.
pub struct Transcoder<'a> {
    body: &'a [u8],
    at: usize,
    options: HistogramOptions,
    family: Option<Family<'a>>,
    has_failed: bool,
    text: Vec<u8>,
    bytes_max: usize,
    natives: Vec<NativeHistogram>,
    natives_bytes: usize,
    /// Name and labels of the metric at hand, up to the closing brace, which is not there.
    series: SeriesText,
}

/// A family whose metrics are being read.
struct Family<'a> {
    name: &'a str,
    kind: Kind,
    /// The fields, of which metrics are read.
    rest: Fields<'a>,
}

type Outcome<T> = Result<T, String>;

impl<'a> Transcoder<'a> {
    pub fn new(body: &'a [u8], options: HistogramOptions) -> Transcoder<'a> {
        Transcoder {
            body,
            at: 0,
            options,
            family: None,
            has_failed: false,
            text: Vec::with_capacity(body.len().saturating_mul(2).min(BYTES_MIN)),
            bytes_max: body.len().saturating_mul(EXPANSION_MAX).clamp(BYTES_MIN, BYTES_MAX),
            natives: Vec::new(),
            natives_bytes: 0,
            series: SeriesText::default(),
        }
    }

    /// Reads some metrics. False at the end of the body.
    pub fn step(&mut self) -> Result<bool, ParseError> {
        let at = self.at;
        let outcome = self.read_some();
        self.has_failed |= outcome.is_err();
        outcome.map_err(|text| ParseError { offset_bytes: at, text })
    }

    /// What was read: all of it after the last step, what stood before it after an error.
    pub fn finish(mut self) -> Transcoded {
        if self.at == self.body.len() && self.family.is_none() && !self.has_failed {
            self.text.extend_from_slice(b"# EOF\n");
        }
        Transcoded { text: self.text, natives: self.natives }
    }

    fn read_some(&mut self) -> Outcome<bool> {
        if self.family.is_none() {
            if self.at == self.body.len() {
                return Ok(false);
            }
            self.family = self.next_family()?;
        }
        let Some(mut family) = self.family.take() else { return Ok(true) };
        let bytes_before = self.text.len() + self.natives_bytes;
        for _ in 0..METRICS_PER_STEP {
            if self.text.len() + self.natives_bytes > bytes_before + BYTES_PER_STEP {
                break;
            }
            let Some((number, value)) = family.rest.next()? else { return Ok(true) };
            if number == 4 {
                self.metric(&family, value.bytes("Metric")?)?;
            }
        }
        self.family = Some(family);
        Ok(true)
    }

    /// The family at `at`, with its metadata written; None if it has no metrics.
    fn next_family(&mut self) -> Outcome<Option<Family<'a>>> {
        let rest = &self.body[self.at..];
        let mut length = 0u64;
        let mut prefix = 0;
        loop {
            let byte = *rest.get(prefix).ok_or("clientpb: invalid varint encountered")?;
            length |= u64::from(byte & 0x7f) << (7 * prefix);
            prefix += 1;
            if byte < 0x80 {
                break;
            }
            if prefix == 5 {
                return Err("clientpb: invalid varint encountered".to_owned());
            }
        }
        let expected = prefix as u64 + length;
        if expected > rest.len() as u64 {
            return Err(format!(
                "clientpb: insufficient length of buffer, expected at least {expected} bytes, got {} bytes",
                rest.len()
            ));
        }
        let message = &rest[prefix..expected as usize];
        let (mut name, mut help, mut kind, mut unit, mut has_metrics) = (&b""[..], &b""[..], 0, &b""[..], false);
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => name = value.bytes("Name")?,
                2 => help = value.bytes("Help")?,
                3 => kind = value.varint("Type")?,
                4 => has_metrics = true,
                5 => unit = value.bytes("Unit")?,
                _ => {}
            }
        }
        self.at += expected as usize;
        if !has_metrics {
            return Ok(None);
        }
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("invalid metric name: {}", lossy(self.name_of(message))))?;
        let help =
            std::str::from_utf8(help).map_err(|_| format!("invalid help for metric {name:?}: {}", lossy(help)))?;
        let kind = match kind {
            0 => Kind::Counter,
            1 => Kind::Gauge,
            2 => Kind::Summary,
            3 => Kind::Unknown,
            4 => Kind::Histogram,
            5 => Kind::GaugeHistogram,
            other => return Err(format!("unknown metric type for metric {name:?}: {other}")),
        };
        self.metadata(name, help, kind, std::str::from_utf8(unit).unwrap_or_default());
        Ok(Some(Family { name, kind, rest: Fields(message) }))
    }

    fn name_of(&self, message: &'a [u8]) -> &'a [u8] {
        let mut fields = Fields(message);
        while let Ok(Some((number, value))) = fields.next() {
            if let (1, Ok(name)) = (number, value.bytes("Name")) {
                return name;
            }
        }
        b""
    }

    fn metadata(&mut self, name: &str, help: &str, kind: Kind, unit: &str) {
        let is_plain = series::is_legacy_metric_name(name);
        let mut line = |keyword: &str, text: &str| {
            self.text.extend_from_slice(format!("# {keyword} ").as_bytes());
            match is_plain {
                true => self.text.extend_from_slice(name.as_bytes()),
                false => push_quoted(name, &mut self.text),
            }
            self.text.push(b' ');
            self.text.extend_from_slice(text.as_bytes());
            self.text.push(b'\n');
        };
        line("HELP", &help.replace('\\', r"\\").replace('\n', r"\n").replace('"', r#"\""#));
        line("TYPE", kind.as_str());
        // OpenMetrics asks that the name ends in it; protobuf does not.
        let is_suffix = name.strip_suffix(unit).is_some_and(|before| before.ends_with('_'));
        if !unit.is_empty() && is_suffix && !unit.contains('\n') {
            line("UNIT", unit);
        }
    }

    fn metric(&mut self, family: &Family, message: &[u8]) -> Outcome<()> {
        self.series.clear();
        let (mut value, mut summary, mut histogram, mut timestamp) = (None, None, None, None);
        let mut fields = Fields(message);
        while let Some((number, field)) = fields.next()? {
            match number {
                1 => {
                    let (name, text) = read_label(field.bytes("Label")?)?;
                    if !name.is_empty() {
                        self.series.label(name, text);
                    }
                }
                2 if family.kind == Kind::Gauge => value = Some(field.bytes("Gauge")?),
                3 if family.kind == Kind::Counter => value = Some(field.bytes("Counter")?),
                4 if family.kind == Kind::Summary => summary = Some(field.bytes("Summary")?),
                5 if family.kind == Kind::Unknown => value = Some(field.bytes("Untyped")?),
                6 => timestamp = Some(field.varint("TimestampMs")? as i64).filter(|at| *at != 0),
                7 => histogram = Some(field.bytes("Histogram")?),
                _ => {}
            }
        }
        match family.kind {
            Kind::Summary => self.summary(family, summary.unwrap_or_default(), timestamp),
            Kind::Histogram | Kind::GaugeHistogram => self.histogram(family, histogram.unwrap_or_default(), timestamp),
            _ => {
                let (mut number, mut exemplar, mut start) = (0.0, None, None);
                let mut fields = Fields(value.unwrap_or_default());
                while let Some((field, value)) = fields.next()? {
                    match field {
                        1 => number = value.double("Value")?,
                        2 if family.kind == Kind::Counter => exemplar = Some(value.bytes("Exemplar")?),
                        3 if family.kind == Kind::Counter => {
                            start = Some(read_timestamp(value.bytes("StartTimestamp")?)?)
                        }
                        _ => {}
                    }
                }
                let exemplar = exemplar.map(read_exemplar).transpose()?;
                self.line(family.name, "", None, Number::Float(number), timestamp, exemplar.as_ref())?;
                self.start_line(family, start)
            }
        }
    }

    fn summary(&mut self, family: &Family, message: &[u8], timestamp: Option<i64>) -> Outcome<()> {
        let (mut count, mut sum, mut start) = (0, 0.0, None);
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => count = value.varint("SampleCount")?,
                2 => sum = value.double("SampleSum")?,
                4 => start = Some(read_timestamp(value.bytes("StartTimestamp")?)?),
                _ => {}
            }
        }
        self.line(family.name, "_count", None, Number::Whole(count), timestamp, None)?;
        self.line(family.name, "_sum", None, Number::Float(sum), timestamp, None)?;
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            if number != 3 {
                continue;
            }
            let (mut quantile, mut number) = (0.0, 0.0);
            let mut fields = Fields(value.bytes("Quantile")?);
            while let Some((field, value)) = fields.next()? {
                match field {
                    1 => quantile = value.double("Quantile")?,
                    2 => number = value.double("Value")?,
                    _ => {}
                }
            }
            self.line(family.name, "", Some(("quantile", quantile)), Number::Float(number), timestamp, None)?;
        }
        self.start_line(family, start)
    }

    fn histogram(&mut self, family: &Family, message: &[u8], timestamp: Option<i64>) -> Outcome<()> {
        let mut read = HistogramFields::default();
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            read.field(number, value)?;
        }
        let has_classic = !read.buckets.is_empty();
        if self.options.native && read.is_native() {
            let mut exemplars = Vec::new();
            for message in read.exemplars.iter().take(EXEMPLARS_MAX) {
                exemplars.push(read_exemplar(message)?);
            }
            if exemplars.is_empty() {
                for bucket in read.buckets.iter().take(EXEMPLARS_MAX) {
                    exemplars.extend(read_bucket(bucket)?.exemplar);
                }
            }
            exemplars.retain(|exemplar| exemplar.timestamp.is_some());
            let is_float = read.count_float > 0.0 || read.zero_count_float > 0.0;
            let mut raw = Vec::new();
            self.series.write(family.name, "", None, &mut raw);
            self.push_native(NativeHistogram {
                raw,
                timestamp,
                start: self.start(read.start),
                is_gauge: family.kind == Kind::GaugeHistogram,
                is_float,
                schema: read.schema,
                zero_threshold: read.zero_threshold,
                zero_count: if is_float { read.zero_count_float } else { read.zero_count as f64 },
                count: if is_float { read.count_float } else { read.count as f64 },
                sum: read.sum,
                positive: std::mem::take(&mut read.positive),
                negative: std::mem::take(&mut read.negative),
                custom_bounds: Vec::new(),
                exemplars,
            })?;
            if !(self.options.always_classic && has_classic) {
                return Ok(());
            }
        } else if self.options.convert_classic {
            self.convert(family, &read, timestamp)?;
            if !self.options.always_classic {
                return Ok(());
            }
        }
        let count = if read.count_float > 0.0 { Number::Float(read.count_float) } else { Number::Whole(read.count) };
        self.line(family.name, "_count", None, count, timestamp, None)?;
        self.line(family.name, "_sum", None, Number::Float(read.sum), timestamp, None)?;
        for bucket in std::mem::take(&mut read.buckets) {
            let Bucket { bound, count, exemplar } = read_bucket(bucket)?;
            self.line(family.name, "_bucket", Some(("le", bound)), count, timestamp, exemplar.as_ref())?;
            if bound == f64::INFINITY {
                return self.start_line(family, read.start);
            }
        }
        self.line(family.name, "_bucket", Some(("le", f64::INFINITY)), count, timestamp, None)?;
        self.start_line(family, read.start)
    }

    /// A start time, where one is said and asked for.
    fn start(&self, said: Option<i64>) -> Option<i64> {
        said.filter(|start| self.options.start_times && *start != 0)
    }

    /// When the series of a metric began, as OpenMetrics says it; the lines before it have it.
    fn start_line(&mut self, family: &Family, start: Option<i64>) -> Outcome<()> {
        let says_start = matches!(family.kind, Kind::Counter | Kind::Summary | Kind::Histogram);
        match self.start(start).filter(|_| says_start) {
            Some(start) => self.line(family.name, START_SUFFIX, None, Number::Float(start as f64 / 1000.0), None, None),
            None => Ok(()),
        }
    }

    fn check_bytes(&self) -> Outcome<()> {
        let max = self.bytes_max;
        match self.text.len() + self.natives_bytes > max {
            true => Err(format!("the protobuf payload has more than {max} bytes of names, labels and values")),
            false => Ok(()),
        }
    }

    fn push_native(&mut self, native: NativeHistogram) -> Outcome<()> {
        if self.natives.len() >= NATIVES_MAX {
            return Err(format!("the protobuf payload has more than {NATIVES_MAX} native histograms"));
        }
        self.natives_bytes += native.bytes();
        self.check_bytes()?;
        self.natives.push(native);
        Ok(())
    }

    /// Pushes a classic histogram as a native one.
    fn convert(&mut self, family: &Family, read: &HistogramFields, timestamp: Option<i64>) -> Outcome<()> {
        let as_float = |number: Number| match number {
            Number::Whole(number) => number as f64,
            Number::Float(number) => number,
        };
        let count = if read.count_float > 0.0 { read.count_float } else { read.count as f64 };
        let mut classic = ClassicHistogram { count: Some(count), sum: Some(read.sum), buckets: Vec::new() };
        let mut exemplars = Vec::new();
        for bucket in &read.buckets {
            let Bucket { bound, count, exemplar } = read_bucket(bucket)?;
            classic.buckets.push((bound, as_float(count)));
            exemplars.extend(exemplar.filter(|exemplar| exemplar.timestamp.is_some()));
            if bound == f64::INFINITY {
                break;
            }
        }
        let mut native = classic.convert()?;
        self.series.write(family.name, "", None, &mut native.raw);
        (native.timestamp, native.exemplars) = (timestamp, exemplars);
        native.start = self.start(read.start);
        native.is_gauge = family.kind == Kind::GaugeHistogram;
        self.push_native(native)
    }

    fn line(
        &mut self,
        name: &str,
        suffix: &str,
        bound: Option<(&str, f64)>,
        value: Number,
        timestamp: Option<i64>,
        exemplar: Option<&Exemplar>,
    ) -> Outcome<()> {
        self.check_bytes()?;
        self.series.write(name, suffix, bound, &mut self.text);
        self.text.push(b' ');
        value.write(&mut self.text);
        if let Some(at) = timestamp {
            self.text.push(b' ');
            push_seconds(at, &mut self.text);
        }
        if let Some(Exemplar { labels, value, timestamp }) = exemplar {
            self.text.extend_from_slice(b" # {");
            for (index, (name, value)) in labels.iter().enumerate() {
                if index > 0 {
                    self.text.push(b',');
                }
                push_label(name, value, &mut self.text);
            }
            self.text.extend_from_slice(b"} ");
            Number::Float(*value).write(&mut self.text);
            if let Some(at) = timestamp {
                self.text.push(b' ');
                push_seconds(*at, &mut self.text);
            }
        }
        self.text.push(b'\n');
        Ok(())
    }
}

/// Numbers of a histogram; buckets and exemplars are read where they are needed.
#[derive(Default)]
struct HistogramFields<'a> {
    count: u64,
    count_float: f64,
    sum: f64,
    buckets: Vec<&'a [u8]>,
    schema: i64,
    zero_threshold: f64,
    zero_count: u64,
    zero_count_float: f64,
    positive: BucketSide,
    negative: BucketSide,
    exemplars: Vec<&'a [u8]>,
    start: Option<i64>,
}

impl<'a> HistogramFields<'a> {
    fn field(&mut self, number: u64, value: Value<'a>) -> Outcome<()> {
        match number {
            1 => self.count = value.varint("SampleCount")?,
            2 => self.sum = value.double("SampleSum")?,
            3 => self.buckets.push(value.bytes("Bucket")?),
            4 => self.count_float = value.double("SampleCountFloat")?,
            5 => self.schema = i64::from(zigzag(value.varint("Schema")?) as i32),
            6 => self.zero_threshold = value.double("ZeroThreshold")?,
            7 => self.zero_count = value.varint("ZeroCount")?,
            8 => self.zero_count_float = value.double("ZeroCountFloat")?,
            9 => self.negative.spans.push(read_span(value.bytes("NegativeSpan")?)?),
            10 => value.varints("NegativeDelta", |delta| self.negative.deltas.push(zigzag(delta)))?,
            11 => value.doubles("NegativeCount", &mut self.negative.counts)?,
            12 => self.positive.spans.push(read_span(value.bytes("PositiveSpan")?)?),
            13 => value.varints("PositiveDelta", |delta| self.positive.deltas.push(zigzag(delta)))?,
            14 => value.doubles("PositiveCount", &mut self.positive.counts)?,
            15 => self.start = Some(read_timestamp(value.bytes("StartTimestamp")?)?),
            16 => self.exemplars.push(value.bytes("Exemplars")?),
            _ => {}
        }
        let numbers = |side: &BucketSide| side.spans.len() + side.deltas.len() + side.counts.len();
        if numbers(&self.positive) + numbers(&self.negative) > BUCKETS_MAX {
            return Err(format!("a native histogram has more than {BUCKETS_MAX} spans and buckets"));
        }
        if self.buckets.len() > BUCKETS_MAX || self.exemplars.len() > BUCKETS_MAX {
            return Err(format!("a histogram has more than {BUCKETS_MAX} classic buckets or exemplars"));
        }
        Ok(())
    }

    /// A span of no buckets says so too.
    fn is_native(&self) -> bool {
        let has_spans = !self.positive.spans.is_empty() || !self.negative.spans.is_empty();
        has_spans || self.zero_threshold > 0.0 || self.zero_count > 0
    }
}

struct Bucket {
    bound: f64,
    count: Number,
    exemplar: Option<Exemplar>,
}

fn read_bucket(message: &[u8]) -> Outcome<Bucket> {
    let (mut count, mut count_float, mut bound, mut exemplar) = (0, 0.0, 0.0, None);
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => count = value.varint("CumulativeCount")?,
            2 => bound = value.double("UpperBound")?,
            3 => exemplar = Some(read_exemplar(value.bytes("Exemplar")?)?),
            4 => count_float = value.double("CumulativeCountFloat")?,
            _ => {}
        }
    }
    let count = if count_float > 0.0 { Number::Float(count_float) } else { Number::Whole(count) };
    Ok(Bucket { bound, count, exemplar })
}

fn read_span(message: &[u8]) -> Outcome<(i64, u64)> {
    let (mut offset, mut length) = (0, 0);
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => offset = i64::from(zigzag(value.varint("Offset")?) as i32),
            2 => length = u64::from(value.varint("Length")? as u32),
            _ => {}
        }
    }
    Ok((offset, length))
}

fn read_exemplar(message: &[u8]) -> Outcome<Exemplar> {
    let (mut labels, mut value, mut timestamp) = (Vec::new(), 0.0, None);
    let mut fields = Fields(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => {
                let (name, text) = read_label(field.bytes("Label")?)?;
                if !name.is_empty() {
                    labels.push((name.to_owned(), text.to_owned()));
                }
            }
            2 => value = field.double("Value")?,
            3 => timestamp = Some(read_timestamp(field.bytes("Timestamp")?)?),
            _ => {}
        }
    }
    Ok(Exemplar { labels: Labels::from_pairs(labels), value, timestamp })
}

fn read_timestamp(message: &[u8]) -> Outcome<i64> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => seconds = value.varint("Seconds")? as i64,
            2 => nanos = value.varint("Nanos")? as i32,
            _ => {}
        }
    }
    Ok(seconds.saturating_mul(1000).saturating_add(i64::from(nanos) / 1_000_000))
}

/// Name and value of a label pair.
fn read_label(message: &[u8]) -> Outcome<(&str, &str)> {
    let (mut name, mut value) = (&b""[..], &b""[..]);
    let mut fields = Fields(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => name = field.bytes("Name")?,
            2 => value = field.bytes("Value")?,
            _ => {}
        }
    }
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let is_none = name.is_empty() && value.is_empty();
    let text = std::str::from_utf8(name).ok().filter(|name| is_none || !name.is_empty());
    let text = text.ok_or_else(|| format!("invalid label name: {}", lossy(name)))?;
    Ok((text, std::str::from_utf8(value).map_err(|_| format!("invalid label value: {}", lossy(value)))?))
}

/// A value, as it was sent.
#[derive(Clone, Copy)]
enum Number {
    Whole(u64),
    Float(f64),
}

impl Number {
    fn write(self, out: &mut Vec<u8>) {
        // As many digits as read back the same.
        let mut text = Ascii(out);
        let written = match self {
            Number::Whole(value) => write!(text, "{value}"),
            Number::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 && value != 0.0 => {
                write!(text, "{}", value as i64)
            }
            Number::Float(value) => write!(text, "{value:?}"),
        };
        written.expect("writing to memory");
    }
}

fn push_seconds(ms: i64, out: &mut Vec<u8>) {
    let sign = if ms < 0 { "-" } else { "" };
    let ms = ms.unsigned_abs();
    write!(Ascii(out), "{sign}{}.{:03}", ms / 1000, ms % 1000).expect("writing to memory");
}

struct Ascii<'a>(&'a mut Vec<u8>);

impl Write for Ascii<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The fields of a message, in their order.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

/// A field as it lies on the wire.
#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

const SHORT: &str = "unexpected EOF";

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Outcome<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Outcome<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("proto: integer overflow".to_owned())
    }

    /// Number and value of the next field; None at the end.
    fn next(&mut self) -> Outcome<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes"))),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).map_err(|_| SHORT)?)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            other => return Err(format!("proto: illegal wireType {other}")),
        };
        match key >> 3 {
            0 => Err(format!("proto: illegal tag 0 (wire type {})", key & 7)),
            number => Ok(Some((number, value))),
        }
    }
}

impl<'a> Value<'a> {
    fn wrong(self, field: &str) -> String {
        let kind = match self {
            Value::Varint(_) => 0,
            Value::Fixed64(_) => 1,
            Value::Bytes(_) => 2,
            Value::Fixed32 => 5,
        };
        format!("proto: wrong wireType = {kind} for field {field}")
    }

    fn bytes(self, field: &str) -> Outcome<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(other.wrong(field)),
        }
    }

    fn varint(self, field: &str) -> Outcome<u64> {
        match self {
            Value::Varint(value) => Ok(value),
            other => Err(other.wrong(field)),
        }
    }

    fn double(self, field: &str) -> Outcome<f64> {
        match self {
            Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
            other => Err(other.wrong(field)),
        }
    }

    /// Numbers of a repeated field, packed or not.
    fn varints(self, field: &str, mut each: impl FnMut(u64)) -> Outcome<()> {
        match self {
            Value::Varint(value) => each(value),
            Value::Bytes(bytes) => {
                let mut packed = Fields(bytes);
                while !packed.0.is_empty() {
                    each(packed.varint()?);
                }
            }
            other => return Err(other.wrong(field)),
        }
        Ok(())
    }

    fn doubles(self, field: &str, out: &mut Vec<f64>) -> Outcome<()> {
        match self {
            Value::Fixed64(bits) => out.push(f64::from_bits(bits)),
            Value::Bytes(bytes) if bytes.len().is_multiple_of(8) => {
                out.extend(bytes.chunks_exact(8).map(|eight| f64::from_le_bytes(eight.try_into().expect("eight"))));
            }
            Value::Bytes(_) => return Err(SHORT.to_owned()),
            other => return Err(other.wrong(field)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
