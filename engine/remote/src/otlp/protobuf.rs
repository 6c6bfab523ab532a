//! Reads requests as protobuf. Field numbers are those of opentelemetry-proto 1.x.

use super::any_value::AnyValue;
use super::data::{
    Attributes, Buckets, ExponentialPoint, FLAG_NO_RECORDED_VALUE, HistogramPoint, Metric, MetricData, NumberPoint,
    OtlpMetrics, PointExemplar, PointHead, ResourceMetrics, Scope, ScopeMetrics, SummaryPoint, Temporality,
};
use super::{ITEMS_MAX, VALUE_DEPTH_MAX};
use crate::DecodeError;
use crate::wire::{Fields, Value};

/// Of a trace, which has the longer one.
const ID_BYTES_MAX: usize = 16;

type Result<T> = std::result::Result<T, DecodeError>;

fn failed(reason: &'static str) -> DecodeError {
    DecodeError::Message(reason)
}

/// Counts items, so that a small body does not become a large tree.
struct Decoder {
    items_left: usize,
}

pub fn decode(body: &[u8]) -> Result<OtlpMetrics> {
    let mut decoder = Decoder { items_left: ITEMS_MAX };
    let mut metrics = OtlpMetrics::default();
    each(body, |number, value| {
        if number == 1 {
            let resource = decoder.resource(bytes(value)?)?;
            metrics.resources.push(resource);
        }
        Ok(())
    })?;
    Ok(metrics)
}

fn each<'a>(message: &'a [u8], mut field: impl FnMut(u64, Value<'a>) -> Result<()>) -> Result<()> {
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next().map_err(failed)? {
        field(number, value)?;
    }
    Ok(())
}

fn bytes(value: Value<'_>) -> Result<&[u8]> {
    value.bytes().map_err(failed)
}

fn text(value: Value) -> Result<String> {
    value.text().map(str::to_owned).map_err(failed)
}

fn number(value: Value) -> Result<u64> {
    value.number().map_err(failed)
}

fn double(value: Value) -> Result<f64> {
    value.double().map_err(failed)
}

/// A `fixed64` or `sfixed64`.
fn fixed(value: Value) -> Result<u64> {
    match value {
        Value::Fixed64(bits) => Ok(bits),
        _ => Err(failed("a field is of another type")),
    }
}

/// A `sint32`.
fn signed(value: Value) -> Result<i32> {
    let number = number(value)?;
    Ok(((number >> 1) as i64 ^ -((number & 1) as i64)) as i32)
}

impl Decoder {
    fn take(&mut self, items: usize) -> Result<()> {
        let left = self.items_left.checked_sub(items);
        self.items_left = left.ok_or(DecodeError::TooMany { what: "items", max: ITEMS_MAX })?;
        Ok(())
    }

    fn resource(&mut self, message: &[u8]) -> Result<ResourceMetrics> {
        self.take(1)?;
        let mut resource = ResourceMetrics::default();
        each(message, |field, value| {
            match field {
                1 => each(bytes(value)?, |field, value| {
                    if field == 1 {
                        self.attribute(value, &mut resource.attributes)?;
                    }
                    Ok(())
                })?,
                2 => resource.scopes.push(self.scope_metrics(bytes(value)?)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(resource)
    }

    fn scope_metrics(&mut self, message: &[u8]) -> Result<ScopeMetrics> {
        self.take(1)?;
        let mut metrics = ScopeMetrics::default();
        each(message, |field, value| {
            match field {
                1 => self.scope(bytes(value)?, &mut metrics.scope)?,
                2 => metrics.metrics.push(self.metric(bytes(value)?)?),
                3 => metrics.scope.schema_url = text(value)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(metrics)
    }

    fn scope(&mut self, message: &[u8], scope: &mut Scope) -> Result<()> {
        each(message, |field, value| {
            match field {
                1 => scope.name = text(value)?,
                2 => scope.version = text(value)?,
                3 => self.attribute(value, &mut scope.attributes)?,
                _ => {}
            }
            Ok(())
        })
    }

    fn metric(&mut self, message: &[u8]) -> Result<Metric> {
        self.take(1)?;
        let mut metric = Metric::default();
        each(message, |field, value| {
            match field {
                1 => metric.name = text(value)?,
                2 => metric.description = text(value)?,
                3 => metric.unit = text(value)?,
                5 => {
                    let (points, _, _) = self.points(bytes(value)?, Decoder::number_point)?;
                    metric.data = MetricData::Gauge(points);
                }
                7 => {
                    let (points, temporality, is_monotonic) = self.points(bytes(value)?, Decoder::number_point)?;
                    metric.data = MetricData::Sum { points, temporality, is_monotonic };
                }
                9 => {
                    let (points, temporality, _) = self.points(bytes(value)?, Decoder::histogram_point)?;
                    metric.data = MetricData::Histogram { points, temporality };
                }
                10 => {
                    let (points, temporality, _) = self.points(bytes(value)?, Decoder::exponential_point)?;
                    metric.data = MetricData::Exponential { points, temporality };
                }
                11 => {
                    let (points, _, _) = self.points(bytes(value)?, Decoder::summary_point)?;
                    metric.data = MetricData::Summary(points);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(metric)
    }

    /// Points, temporality, and whether it is monotonic: the fields that the kinds of metrics have in common.
    fn points<T>(
        &mut self,
        message: &[u8],
        point: impl Fn(&mut Decoder, &[u8]) -> Result<T>,
    ) -> Result<(Vec<T>, Temporality, bool)> {
        let (mut points, mut temporality, mut is_monotonic) = (Vec::new(), Temporality::Unspecified, false);
        each(message, |field, value| {
            match field {
                1 => {
                    self.take(1)?;
                    points.push(point(self, bytes(value)?)?);
                }
                2 => temporality = Temporality::from_number(number(value)?),
                3 => is_monotonic = number(value)? != 0,
                _ => {}
            }
            Ok(())
        })?;
        Ok((points, temporality, is_monotonic))
    }

    fn number_point(&mut self, message: &[u8]) -> Result<NumberPoint> {
        let mut point = NumberPoint::default();
        each(message, |field, value| {
            match field {
                2 => point.head.start_ns = fixed(value)?,
                3 => point.head.time_ns = fixed(value)?,
                4 => point.value = double(value)?,
                5 => self.exemplar(value, &mut point.head)?,
                6 => point.value = fixed(value)? as i64 as f64,
                7 => self.attribute(value, &mut point.head.attributes)?,
                8 => set_flags(&mut point.head, value)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(point)
    }

    fn histogram_point(&mut self, message: &[u8]) -> Result<HistogramPoint> {
        let mut point = HistogramPoint::default();
        each(message, |field, value| {
            match field {
                2 => point.head.start_ns = fixed(value)?,
                3 => point.head.time_ns = fixed(value)?,
                4 => point.count = fixed(value)?,
                5 => point.sum = Some(double(value)?),
                6 => self.fixed_list(value, |bits| point.bucket_counts.push(bits))?,
                7 => self.fixed_list(value, |bits| point.bounds.push(f64::from_bits(bits)))?,
                8 => self.exemplar(value, &mut point.head)?,
                9 => self.attribute(value, &mut point.head.attributes)?,
                10 => set_flags(&mut point.head, value)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(point)
    }

    fn exponential_point(&mut self, message: &[u8]) -> Result<ExponentialPoint> {
        let mut point = ExponentialPoint::default();
        each(message, |field, value| {
            match field {
                1 => self.attribute(value, &mut point.head.attributes)?,
                2 => point.head.start_ns = fixed(value)?,
                3 => point.head.time_ns = fixed(value)?,
                4 => point.count = fixed(value)?,
                5 => point.sum = Some(double(value)?),
                6 => point.scale = signed(value)?,
                7 => point.zero_count = fixed(value)?,
                8 => point.positive = self.buckets(bytes(value)?)?,
                9 => point.negative = self.buckets(bytes(value)?)?,
                10 => set_flags(&mut point.head, value)?,
                11 => self.exemplar(value, &mut point.head)?,
                14 => point.zero_threshold = double(value)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(point)
    }

    fn exemplar(&mut self, message: Value, head: &mut PointHead) -> Result<()> {
        self.take(1)?;
        let mut exemplar = PointExemplar::default();
        each(bytes(message)?, |field, value| {
            match field {
                2 => exemplar.time_ns = fixed(value)?,
                3 => exemplar.value = Some(double(value)?),
                4 => exemplar.span_id = id(bytes(value)?),
                5 => exemplar.trace_id = id(bytes(value)?),
                6 => exemplar.value = Some(fixed(value)? as i64 as f64),
                7 => self.attribute(value, &mut exemplar.attributes)?,
                _ => {}
            }
            Ok(())
        })?;
        head.exemplars.push(exemplar);
        Ok(())
    }

    fn buckets(&mut self, message: &[u8]) -> Result<Buckets> {
        let mut buckets = Buckets::default();
        each(message, |field, value| {
            match field {
                1 => buckets.offset = signed(value)?,
                2 => {
                    let (before, mut is_too_much) = (buckets.counts.len(), false);
                    let left = self.items_left;
                    value
                        .numbers(|count| match buckets.counts.len() - before < left {
                            true => buckets.counts.push(count),
                            false => is_too_much = true,
                        })
                        .map_err(failed)?;
                    self.take(buckets.counts.len() - before + usize::from(is_too_much))?;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(buckets)
    }

    fn summary_point(&mut self, message: &[u8]) -> Result<SummaryPoint> {
        let mut point = SummaryPoint::default();
        each(message, |field, value| {
            match field {
                2 => point.head.start_ns = fixed(value)?,
                3 => point.head.time_ns = fixed(value)?,
                4 => point.count = fixed(value)?,
                5 => point.sum = double(value)?,
                6 => {
                    self.take(1)?;
                    let mut quantile = (0.0, 0.0);
                    each(bytes(value)?, |field, value| {
                        match field {
                            1 => quantile.0 = double(value)?,
                            2 => quantile.1 = double(value)?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    point.quantiles.push(quantile);
                }
                7 => self.attribute(value, &mut point.head.attributes)?,
                8 => set_flags(&mut point.head, value)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(point)
    }

    /// A repeated field of eight bytes each, packed or not.
    fn fixed_list(&mut self, value: Value, mut one: impl FnMut(u64)) -> Result<()> {
        match value {
            Value::Fixed64(bits) => {
                self.take(1)?;
                one(bits);
            }
            Value::Bytes(bytes) if bytes.len().is_multiple_of(8) => {
                self.take(bytes.len() / 8)?;
                bytes.chunks_exact(8).for_each(|eight| one(u64::from_le_bytes(eight.try_into().expect("eight bytes"))));
            }
            _ => return Err(failed("a field is of another type")),
        }
        Ok(())
    }

    fn attribute(&mut self, value: Value, attributes: &mut Attributes) -> Result<()> {
        attributes.push(self.entry(bytes(value)?, VALUE_DEPTH_MAX)?);
        Ok(())
    }

    fn entry(&mut self, message: &[u8], depth: usize) -> Result<(String, AnyValue)> {
        self.take(1)?;
        let mut entry = (String::new(), AnyValue::Empty);
        each(message, |field, value| {
            match field {
                1 => entry.0 = text(value)?,
                2 => entry.1 = self.any_value(bytes(value)?, depth)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(entry)
    }

    fn any_value(&mut self, message: &[u8], depth: usize) -> Result<AnyValue> {
        let Some(depth) = depth.checked_sub(1) else { return Err(failed("a value is nested too deep")) };
        let mut any = AnyValue::Empty;
        each(message, |field, value| {
            match field {
                1 => any = AnyValue::Text(text(value)?),
                2 => any = AnyValue::Bool(number(value)? != 0),
                3 => any = AnyValue::Integer(number(value)? as i64),
                4 => any = AnyValue::Double(double(value)?),
                5 => {
                    let mut list = Vec::new();
                    each(bytes(value)?, |field, value| {
                        if field == 1 {
                            self.take(1)?;
                            list.push(self.any_value(bytes(value)?, depth)?);
                        }
                        Ok(())
                    })?;
                    any = AnyValue::List(list);
                }
                6 => {
                    let mut map = Vec::new();
                    each(bytes(value)?, |field, value| {
                        if field == 1 {
                            map.push(self.entry(bytes(value)?, depth)?);
                        }
                        Ok(())
                    })?;
                    any = AnyValue::Map(map);
                }
                7 => any = AnyValue::Bytes(bytes(value)?.to_vec()),
                _ => {}
            }
            Ok(())
        })?;
        Ok(any)
    }
}

/// An id in hexadecimal; zeros are none.
fn id(bytes: &[u8]) -> String {
    if bytes.iter().all(|byte| *byte == 0) || bytes.len() > ID_BYTES_MAX {
        return String::new();
    }
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

fn set_flags(head: &mut PointHead, value: Value) -> Result<()> {
    head.is_stale = number(value)? & FLAG_NO_RECORDED_VALUE != 0;
    Ok(())
}
