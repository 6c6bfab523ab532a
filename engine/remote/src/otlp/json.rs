//! Reads requests as JSON: protobuf's mapping, with enums as numbers, and 64-bit integers as texts or numbers.

use super::any_value::AnyValue;
use super::data::{
    Attributes, Buckets, ExponentialPoint, FLAG_NO_RECORDED_VALUE, HistogramPoint, Metric, MetricData, NumberPoint,
    OtlpMetrics, PointExemplar, PointHead, ResourceMetrics, Scope, ScopeMetrics, SummaryPoint, Temporality,
};
use super::{ITEMS_MAX, VALUE_DEPTH_MAX};
use crate::DecodeError;
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, DecodeError>;

/// JSON is read into a tree first, which takes many times its bytes: so fewer of them are taken.
const BYTES_MAX: usize = 16 << 20;

fn failed(reason: &'static str) -> DecodeError {
    DecodeError::Json(reason.to_owned())
}

struct Decoder {
    items_left: usize,
}

pub fn decode(body: &[u8]) -> Result<OtlpMetrics> {
    if body.len() > BYTES_MAX {
        return Err(DecodeError::TooLarge { bytes: body.len(), bytes_max: BYTES_MAX });
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| DecodeError::Json(error.to_string()))?;
    let mut decoder = Decoder { items_left: ITEMS_MAX };
    let resources = decoder.list(object(&value)?, "resourceMetrics", Decoder::resource)?;
    Ok(OtlpMetrics { resources })
}

fn object(value: &Value) -> Result<&Map<String, Value>> {
    value.as_object().ok_or(failed("an object is expected"))
}

fn text(object: &Map<String, Value>, name: &str) -> Result<String> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(failed("a text is expected")),
    }
}

fn double_of(value: &Value) -> Result<f64> {
    let parsed = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        _ => None,
    };
    parsed.ok_or(failed("a number is expected"))
}

fn integer_of(value: &Value) -> Result<i128> {
    let parsed = match value {
        Value::Number(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
        Value::String(text) => text.parse::<i128>().ok(),
        _ => None,
    };
    parsed.ok_or(failed("an integer is expected"))
}

fn unsigned_of(value: &Value) -> Result<u64> {
    u64::try_from(integer_of(value)?).map_err(|_| failed("an integer is out of range"))
}

fn unsigned(object: &Map<String, Value>, name: &str) -> Result<u64> {
    object.get(name).filter(|value| !value.is_null()).map_or(Ok(0), unsigned_of)
}

fn small(object: &Map<String, Value>, name: &str) -> Result<i32> {
    let number = object.get(name).filter(|value| !value.is_null()).map_or(Ok(0), integer_of)?;
    i32::try_from(number).map_err(|_| failed("an integer is out of range"))
}

fn double(object: &Map<String, Value>, name: &str) -> Result<Option<f64>> {
    object.get(name).filter(|value| !value.is_null()).map(double_of).transpose()
}

/// The value of a point or exemplar.
fn number_of(object: &Map<String, Value>) -> Result<Option<f64>> {
    let integer = object.get("asInt").filter(|value| !value.is_null()).map(integer_of).transpose()?;
    Ok(double(object, "asDouble")?.or(integer.map(|integer| integer as f64)))
}

fn temporality(object: &Map<String, Value>) -> Result<Temporality> {
    Ok(match object.get("aggregationTemporality") {
        Some(Value::String(name)) if name == "AGGREGATION_TEMPORALITY_DELTA" => Temporality::Delta,
        Some(Value::String(name)) if name == "AGGREGATION_TEMPORALITY_CUMULATIVE" => Temporality::Cumulative,
        Some(Value::String(_)) => Temporality::Unspecified,
        _ => Temporality::from_number(unsigned(object, "aggregationTemporality")?),
    })
}

impl Decoder {
    fn take(&mut self) -> Result<()> {
        let left = self.items_left.checked_sub(1);
        self.items_left = left.ok_or(DecodeError::TooMany { what: "items", max: ITEMS_MAX })?;
        Ok(())
    }

    fn list<T>(
        &mut self,
        object: &Map<String, Value>,
        name: &str,
        mut one: impl FnMut(&mut Decoder, &Value) -> Result<T>,
    ) -> Result<Vec<T>> {
        let items = match object.get(name) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(failed("a list is expected")),
        };
        let mut all = Vec::with_capacity(items.len().min(self.items_left));
        for item in items {
            self.take()?;
            all.push(one(self, item)?);
        }
        Ok(all)
    }

    fn attributes(&mut self, object: &Map<String, Value>) -> Result<Attributes> {
        self.list(object, "attributes", |decoder, value| decoder.entry(value, VALUE_DEPTH_MAX))
    }

    fn resource(&mut self, value: &Value) -> Result<ResourceMetrics> {
        let value = object(value)?;
        let attributes = match value.get("resource") {
            None | Some(Value::Null) => Attributes::new(),
            Some(resource) => self.attributes(object(resource)?)?,
        };
        Ok(ResourceMetrics { attributes, scopes: self.list(value, "scopeMetrics", Decoder::scope_metrics)? })
    }

    fn scope_metrics(&mut self, value: &Value) -> Result<ScopeMetrics> {
        let value = object(value)?;
        let mut scope = Scope::default();
        if let Some(given) = value.get("scope").filter(|scope| !scope.is_null()) {
            let given = object(given)?;
            let attributes = self.attributes(given)?;
            scope = Scope { name: text(given, "name")?, version: text(given, "version")?, attributes, ..scope };
        }
        scope.schema_url = text(value, "schemaUrl")?;
        Ok(ScopeMetrics { scope, metrics: self.list(value, "metrics", Decoder::metric)? })
    }

    fn metric(&mut self, value: &Value) -> Result<Metric> {
        let value = object(value)?;
        let of = |name: &str| value.get(name).filter(|data| !data.is_null()).map(object).transpose();
        let mut data = MetricData::Unset;
        if let Some(gauge) = of("gauge")? {
            data = MetricData::Gauge(self.list(gauge, "dataPoints", Decoder::number_point)?);
        } else if let Some(sum) = of("sum")? {
            let is_monotonic = sum.get("isMonotonic").and_then(Value::as_bool).unwrap_or(false);
            let points = self.list(sum, "dataPoints", Decoder::number_point)?;
            data = MetricData::Sum { points, temporality: temporality(sum)?, is_monotonic };
        } else if let Some(histogram) = of("histogram")? {
            let points = self.list(histogram, "dataPoints", Decoder::histogram_point)?;
            data = MetricData::Histogram { points, temporality: temporality(histogram)? };
        } else if let Some(histogram) = of("exponentialHistogram")? {
            let points = self.list(histogram, "dataPoints", Decoder::exponential_point)?;
            data = MetricData::Exponential { points, temporality: temporality(histogram)? };
        } else if let Some(summary) = of("summary")? {
            data = MetricData::Summary(self.list(summary, "dataPoints", Decoder::summary_point)?);
        }
        Ok(Metric {
            name: text(value, "name")?,
            description: text(value, "description")?,
            unit: text(value, "unit")?,
            data,
        })
    }

    fn head(&mut self, value: &Map<String, Value>) -> Result<PointHead> {
        Ok(PointHead {
            attributes: self.attributes(value)?,
            time_ns: unsigned(value, "timeUnixNano")?,
            start_ns: unsigned(value, "startTimeUnixNano")?,
            is_stale: unsigned(value, "flags")? & FLAG_NO_RECORDED_VALUE != 0,
            exemplars: self.list(value, "exemplars", Decoder::exemplar)?,
        })
    }

    fn exemplar(&mut self, value: &Value) -> Result<PointExemplar> {
        let value = object(value)?;
        let id = |name: &str| {
            let id = text(value, name)?.to_ascii_lowercase();
            Ok(if id.bytes().all(|digit| digit == b'0') { String::new() } else { id })
        };
        Ok(PointExemplar {
            attributes: self.list(value, "filteredAttributes", |decoder, one| decoder.entry(one, VALUE_DEPTH_MAX))?,
            time_ns: unsigned(value, "timeUnixNano")?,
            value: number_of(value)?,
            trace_id: id("traceId")?,
            span_id: id("spanId")?,
        })
    }

    fn number_point(&mut self, value: &Value) -> Result<NumberPoint> {
        let value = object(value)?;
        Ok(NumberPoint { head: self.head(value)?, value: number_of(value)?.unwrap_or(0.0) })
    }

    fn histogram_point(&mut self, value: &Value) -> Result<HistogramPoint> {
        let value = object(value)?;
        Ok(HistogramPoint {
            head: self.head(value)?,
            count: unsigned(value, "count")?,
            sum: double(value, "sum")?,
            bucket_counts: self.list(value, "bucketCounts", |_, count| unsigned_of(count))?,
            bounds: self.list(value, "explicitBounds", |_, bound| double_of(bound))?,
        })
    }

    fn buckets(&mut self, value: Option<&Value>) -> Result<Buckets> {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Buckets::default()) };
        let value = object(value)?;
        let counts = self.list(value, "bucketCounts", |_, count| unsigned_of(count))?;
        Ok(Buckets { offset: small(value, "offset")?, counts })
    }

    fn exponential_point(&mut self, value: &Value) -> Result<ExponentialPoint> {
        let value = object(value)?;
        Ok(ExponentialPoint {
            head: self.head(value)?,
            count: unsigned(value, "count")?,
            sum: double(value, "sum")?,
            scale: small(value, "scale")?,
            zero_count: unsigned(value, "zeroCount")?,
            zero_threshold: double(value, "zeroThreshold")?.unwrap_or(0.0),
            positive: self.buckets(value.get("positive"))?,
            negative: self.buckets(value.get("negative"))?,
        })
    }

    fn summary_point(&mut self, value: &Value) -> Result<SummaryPoint> {
        let value = object(value)?;
        let quantile = |_: &mut Decoder, one: &Value| {
            let one = object(one)?;
            Ok((double(one, "quantile")?.unwrap_or(0.0), double(one, "value")?.unwrap_or(0.0)))
        };
        Ok(SummaryPoint {
            head: self.head(value)?,
            count: unsigned(value, "count")?,
            sum: double(value, "sum")?.unwrap_or(0.0),
            quantiles: self.list(value, "quantileValues", quantile)?,
        })
    }

    fn entry(&mut self, value: &Value, depth: usize) -> Result<(String, AnyValue)> {
        let value = object(value)?;
        let any = match value.get("value").filter(|value| !value.is_null()) {
            None => AnyValue::Empty,
            Some(value) => self.any_value(value, depth)?,
        };
        Ok((text(value, "key")?, any))
    }

    fn any_value(&mut self, value: &Value, depth: usize) -> Result<AnyValue> {
        let Some(depth) = depth.checked_sub(1) else { return Err(failed("a value is nested too deep")) };
        let value = object(value)?;
        let Some((kind, content)) = value.iter().find(|(_, content)| !content.is_null()) else {
            return Ok(AnyValue::Empty);
        };
        Ok(match kind.as_str() {
            "stringValue" => AnyValue::Text(text(value, "stringValue")?),
            "boolValue" => AnyValue::Bool(content.as_bool().ok_or(failed("true or false is expected"))?),
            "intValue" => AnyValue::Integer(
                i64::try_from(integer_of(content)?).map_err(|_| failed("an integer is out of range"))?,
            ),
            "doubleValue" => AnyValue::Double(double_of(content)?),
            // They would be written in base64 again.
            "bytesValue" => AnyValue::Text(text(value, "bytesValue")?),
            "arrayValue" => {
                let one = |decoder: &mut Decoder, value: &Value| decoder.any_value(value, depth);
                AnyValue::List(self.list(object(content)?, "values", one)?)
            }
            "kvlistValue" => {
                let one = |decoder: &mut Decoder, value: &Value| decoder.entry(value, depth);
                AnyValue::Map(self.list(object(content)?, "values", one)?)
            }
            _ => AnyValue::Empty,
        })
    }
}
