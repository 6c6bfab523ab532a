//! From points to series, as Prometheus translates them: attributes to labels, `job`, `instance` and `target_info` from the
//! resource, classic or native histograms.

use super::data::{
    Attributes, HistogramPoint, Metric, MetricData, NumberPoint, OtlpMetrics, PointExemplar, PointHead,
    ResourceMetrics, Scope, SummaryPoint, Temporality,
};
use super::histogram;
use super::names::{NameStrategy, unit_name};
use crate::write::{Incoming, IncomingExemplar, IncomingMetadata};
use ahash::AHashMap;
use series::histogram::ResetHint;
use series::{
    Histogram, Labels, METRIC_NAME, NO_START, STALE_NAN, Sample, StartTimes, Timestamp, note_start, sort_starts,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Reasons that are told one by one.
const REASONS_MAX: usize = 10;
/// Samples of one request: a point of a histogram becomes many.
const SAMPLES_MAX: usize = 4_000_000;
/// Of a series; of a name, and of a value.
const LABELS_MAX: usize = 512;
const NAME_BYTES_MAX: usize = 64 << 10;
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Of all labels of an exemplar.
const EXEMPLAR_CHARS_MAX: usize = 128;
/// Samples of `target_info` of one resource: a request that covers years needs no more.
const TARGET_INFO_SAMPLES_MAX: i64 = 1000;
/// What identifies a resource.
const IDENTIFYING: [&str; 3] = ["service.namespace", "service.name", "service.instance.id"];

/// Which attributes of the resource become labels of its series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promotion {
    Only(BTreeSet<String>),
    AllBut(BTreeSet<String>),
}

/// What is done with points that say how much was added since the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeltaHandling {
    #[default]
    Reject,
    /// They are stored as they are; their type is unknown.
    Store,
    /// They are marked, so that the caller adds them up.
    Accumulate,
}

/// How requests become series.
#[derive(Clone, Debug)]
pub struct OtlpSettings {
    pub names: NameStrategy,
    pub promotion: Promotion,
    pub promotes_scope: bool,
    /// `target_info` has what became `job` and `instance`, too.
    pub keeps_identifying: bool,
    /// Histograms with explicit bounds become native ones with custom buckets.
    pub custom_buckets: bool,
    pub deltas: DeltaHandling,
    /// `target_info` has a sample in each half of it.
    pub lookback_ms: i64,
}

impl Default for OtlpSettings {
    fn default() -> OtlpSettings {
        OtlpSettings {
            names: NameStrategy::default(),
            promotion: Promotion::Only(BTreeSet::new()),
            promotes_scope: false,
            keeps_identifying: false,
            custom_buckets: false,
            deltas: DeltaHandling::Reject,
            lookback_ms: 300_000,
        }
    }
}

/// What a request becomes.
#[derive(Debug, Default)]
pub struct OtlpTranslation {
    pub series: Vec<Incoming>,
    /// Places in `series` of those whose samples are to be added up.
    pub deltas: Vec<usize>,
    pub metadata: Vec<IncomingMetadata>,
    /// By time.
    pub exemplars: Vec<IncomingExemplar>,
    pub rejected_points: u64,
    /// Of the first few.
    pub reasons: Vec<String>,
}

/// Translates a request.
pub fn translate(metrics: &OtlpMetrics, settings: &OtlpSettings) -> OtlpTranslation {
    let mut translator = Translator {
        settings,
        out: OtlpTranslation::default(),
        places: AHashMap::new(),
        samples: 0,
        is_delta: false,
        has_starts: false,
    };
    for resource in &metrics.resources {
        translator.resource(resource);
    }
    // Points need not come in order.
    for series in &mut translator.out.series {
        series.samples.sort_by_key(|sample| sample.timestamp);
        series.histograms.sort_by_key(|(at, _)| *at);
        sort_starts(&mut series.starts);
    }
    translator.out.exemplars.sort_by_key(|exemplar| exemplar.timestamp);
    translator.out
}

/// Labels by name.
type LabelMap = BTreeMap<String, String>;

struct Translator<'s> {
    settings: &'s OtlpSettings,
    out: OtlpTranslation,
    /// Places of series by their labels.
    places: AHashMap<Labels, usize>,
    samples: usize,
    /// Whether the metric at hand has deltas that are to be added up.
    is_delta: bool,
    /// Whether series of the metric at hand have start times.
    has_starts: bool,
}

/// A resource and what all its series get.
struct Resource<'r> {
    attributes: &'r Attributes,
    promoted: Vec<(String, String)>,
    /// `job` and `instance`.
    identity: Vec<(&'static str, String)>,
}

fn attribute(attributes: &Attributes, name: &str) -> Option<String> {
    attributes.iter().find(|(other, _)| other == name).map(|(_, value)| value.to_text())
}

fn milliseconds(time_ns: u64) -> i64 {
    (time_ns / 1_000_000) as i64
}

/// Times of all points of a metric.
fn times(metric: &Metric) -> Vec<u64> {
    let heads: Vec<&PointHead> = match &metric.data {
        MetricData::Unset => Vec::new(),
        MetricData::Gauge(points) | MetricData::Sum { points, .. } => points.iter().map(|point| &point.head).collect(),
        MetricData::Histogram { points, .. } => points.iter().map(|point| &point.head).collect(),
        MetricData::Exponential { points, .. } => points.iter().map(|point| &point.head).collect(),
        MetricData::Summary(points) => points.iter().map(|point| &point.head).collect(),
    };
    heads.into_iter().map(|head| head.time_ns).collect()
}

impl Translator<'_> {
    fn reject(&mut self, points: usize, reason: impl FnOnce() -> String) {
        self.out.rejected_points += points as u64;
        if points > 0 && self.out.reasons.len() < REASONS_MAX {
            self.out.reasons.push(reason());
        }
    }

    fn resource(&mut self, given: &ResourceMetrics) {
        let mut identity = Vec::new();
        if let Some(name) = attribute(&given.attributes, "service.name") {
            let namespace = attribute(&given.attributes, "service.namespace");
            identity.push(("job", namespace.map_or(name.clone(), |namespace| format!("{namespace}/{name}"))));
        }
        if let Some(instance) = attribute(&given.attributes, "service.instance.id") {
            identity.push(("instance", instance));
        }
        let is_promoted = |name: &String| match &self.settings.promotion {
            Promotion::Only(names) => names.contains(name),
            Promotion::AllBut(names) => !names.contains(name),
        };
        let promoted = given.attributes.iter().filter(|(name, _)| is_promoted(name));
        let mut promoted: Vec<(String, String)> =
            promoted.map(|(name, value)| (name.clone(), value.to_text())).collect();
        promoted.sort();
        let resource = Resource { attributes: &given.attributes, promoted, identity };
        let mut range: Option<(u64, u64)> = None;
        for scope in &given.scopes {
            for metric in &scope.metrics {
                for time in times(metric) {
                    let (first, last) = range.unwrap_or((time, time));
                    range = Some((first.min(time), last.max(time)));
                }
                self.metric(&resource, &scope.scope, metric);
            }
        }
        if let Some((first, last)) = range {
            self.target_info(&resource, milliseconds(first), milliseconds(last));
        }
    }

    fn metric(&mut self, resource: &Resource, scope: &Scope, metric: &Metric) {
        let count = times(metric).len();
        let (temporality, kind) = match &metric.data {
            MetricData::Unset => return,
            MetricData::Gauge(_) => (Temporality::Cumulative, "gauge"),
            MetricData::Sum { temporality, is_monotonic, .. } => {
                (*temporality, if *is_monotonic { "counter" } else { "gauge" })
            }
            MetricData::Histogram { temporality, .. } | MetricData::Exponential { temporality, .. } => {
                (*temporality, "histogram")
            }
            MetricData::Summary(_) => (Temporality::Cumulative, "summary"),
        };
        let is_delta = temporality == Temporality::Delta;
        if temporality == Temporality::Unspecified || is_delta && self.settings.deltas == DeltaHandling::Reject {
            self.reject(count, || format!("invalid temporality and type combination for metric {:?}", metric.name));
            return;
        }
        let is_stored_delta = is_delta && self.settings.deltas == DeltaHandling::Store;
        self.has_starts = !is_delta && kind != "gauge";
        self.is_delta = is_delta && self.settings.deltas == DeltaHandling::Accumulate;
        let name = match self.settings.names.metric_name(metric) {
            Ok(name) => name,
            Err(reason) => return self.reject(count, || reason),
        };
        if count == 0 {
            return;
        }
        self.out.metadata.push(IncomingMetadata {
            metric: name.clone(),
            kind: if is_stored_delta { "unknown" } else { kind },
            help: metric.description.clone(),
            unit: unit_name(&metric.unit),
        });
        let of_metric = OfMetric { name: &name, resource, scope };
        let hint = if is_stored_delta { ResetHint::Gauge } else { ResetHint::Unknown };
        match &metric.data {
            MetricData::Unset => {}
            MetricData::Gauge(points) => points.iter().for_each(|point| self.number(&of_metric, point, false)),
            MetricData::Sum { points, .. } => points.iter().for_each(|point| self.number(&of_metric, point, true)),
            MetricData::Histogram { points, .. } if self.settings.custom_buckets => points.iter().for_each(|point| {
                let native = histogram::custom(point, hint);
                self.native(&of_metric, &point.head, native);
            }),
            MetricData::Histogram { points, .. } => points.iter().for_each(|point| self.classic(&of_metric, point)),
            MetricData::Exponential { points, .. } => points.iter().for_each(|point| {
                let native = histogram::exponential(point, hint);
                self.native(&of_metric, &point.head, native);
            }),
            MetricData::Summary(points) => points.iter().for_each(|point| self.summary(&of_metric, point)),
        }
        self.is_delta = false;
    }

    /// Labels of a point's series, but for the name.
    fn labels(&self, of: &OfMetric, head: &PointHead) -> Result<LabelMap, String> {
        let OfMetric { resource, scope, .. } = of;
        let names = &self.settings.names;
        let mut labels = self.joined(&head.attributes, |_| true)?;
        for (name, value) in &resource.promoted {
            labels.entry(names.label_name(name)?).or_insert_with(|| value.clone());
        }
        if self.settings.promotes_scope && !scope.name.is_empty() {
            labels.insert("otel_scope_name".to_owned(), scope.name.clone());
            labels.insert("otel_scope_version".to_owned(), scope.version.clone());
            labels.insert("otel_scope_schema_url".to_owned(), scope.schema_url.clone());
            for (name, value) in &scope.attributes {
                labels.insert(names.label_name(&format!("otel_scope_{name}"))?, value.to_text());
            }
        }
        for (name, value) in &resource.identity {
            labels.insert((*name).to_owned(), value.clone());
        }
        Ok(labels)
    }

    /// Labels of attributes. Values of those that get the same name are joined, in the order of the attributes' names.
    fn joined(&self, attributes: &Attributes, is_wanted: impl Fn(&str) -> bool) -> Result<LabelMap, String> {
        let mut sorted: Vec<_> = attributes.iter().filter(|(name, _)| is_wanted(name)).collect();
        sorted.sort_by(|one, other| one.0.cmp(&other.0));
        let mut labels = LabelMap::new();
        for (name, value) in sorted {
            let value = value.to_text();
            match labels.entry(self.settings.names.label_name(name)?) {
                std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(value)),
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    entry.get_mut().push(';');
                    entry.get_mut().push_str(&value);
                }
            }
        }
        Ok(labels)
    }

    fn number(&mut self, of: &OfMetric, point: &NumberPoint, has_exemplars: bool) {
        let value = if point.head.is_stale { STALE_NAN } else { point.value };
        let samples = |labels: &LabelMap| vec![(with_name(labels, of.name, None), value)];
        self.floats(of, &point.head, samples, |_| has_exemplars.then_some(0));
    }

    fn classic(&mut self, of: &OfMetric, point: &HistogramPoint) {
        let value = |count: f64| if point.head.is_stale { STALE_NAN } else { count };
        // Behind the sum and the count.
        let first_bucket = 1 + usize::from(point.sum.is_some());
        let buckets = point.bounds.len().min(point.bucket_counts.len());
        let bucket_of = |number: f64| {
            let bounds = &point.bounds[..buckets];
            Some(first_bucket + bounds.iter().position(|bound| number <= *bound).unwrap_or(buckets))
        };
        let samples = |labels: &LabelMap| {
            let mut all = Vec::with_capacity(point.bounds.len() + 3);
            if let Some(sum) = point.sum {
                all.push((with_name(labels, &format!("{}_sum", of.name), None), value(sum)));
            }
            all.push((with_name(labels, &format!("{}_count", of.name), None), value(point.count as f64)));
            let bucket = format!("{}_bucket", of.name);
            let mut below = 0u64;
            for (bound, count) in point.bounds.iter().zip(&point.bucket_counts) {
                below = below.saturating_add(*count);
                all.push((with_name(labels, &bucket, Some(("le", bound.to_string()))), value(below as f64)));
            }
            all.push((with_name(labels, &bucket, Some(("le", "+Inf".to_owned()))), value(point.count as f64)));
            all
        };
        self.floats(of, &point.head, samples, bucket_of);
    }

    fn summary(&mut self, of: &OfMetric, point: &SummaryPoint) {
        let value = |value: f64| if point.head.is_stale { STALE_NAN } else { value };
        let samples = |labels: &LabelMap| {
            let mut all = vec![
                (with_name(labels, &format!("{}_sum", of.name), None), value(point.sum)),
                (with_name(labels, &format!("{}_count", of.name), None), value(point.count as f64)),
            ];
            for (quantile, found) in &point.quantiles {
                let quantile = Some(("quantile", quantile.to_string()));
                all.push((with_name(labels, of.name, quantile), value(*found)));
            }
            all
        };
        self.floats(of, &point.head, samples, |_| None);
    }

    /// Adds the samples of a point, all of them or none. `place` says which of them has an exemplar of this value.
    fn floats(
        &mut self,
        of: &OfMetric,
        head: &PointHead,
        samples: impl FnOnce(&LabelMap) -> Vec<(LabelMap, f64)>,
        place: impl Fn(f64) -> Option<usize>,
    ) {
        let labelled = self.labels(of, head).and_then(|labels| {
            let samples = samples(&labels).into_iter().map(|(labels, value)| Ok((checked(&labels)?, value)));
            samples.collect::<Result<Vec<(Labels, f64)>, String>>()
        });
        match labelled {
            Ok(samples) if self.samples + samples.len() > SAMPLES_MAX => {
                self.reject(1, || format!("more than {SAMPLES_MAX} samples in one request are not taken"));
            }
            Ok(samples) => {
                let timestamp = Timestamp(milliseconds(head.time_ns));
                for exemplar in &head.exemplars {
                    let series = exemplar.value.and_then(&place).and_then(|place| samples.get(place));
                    self.out.exemplars.extend(series.and_then(|(series, _)| incoming(exemplar, series)));
                }
                for (labels, value) in samples {
                    self.series(labels, head).samples.push(Sample { timestamp, value });
                }
            }
            Err(reason) => self.reject(1, || reason),
        }
    }

    fn native(&mut self, of: &OfMetric, head: &PointHead, native: Result<Histogram, String>) {
        let labelled = native.and_then(|native| {
            let labels = with_name(&self.labels(of, head)?, of.name, None);
            Ok((checked(&labels)?, native))
        });
        match labelled {
            Ok((labels, native)) => {
                let at = milliseconds(head.time_ns);
                self.out.exemplars.extend(head.exemplars.iter().filter_map(|exemplar| incoming(exemplar, &labels)));
                self.series(labels, head).histograms.push((at, Arc::new(native)));
            }
            Err(reason) => self.reject(1, || format!("{reason} for metric {:?}", of.name)),
        }
    }

    fn series(&mut self, labels: Labels, head: &PointHead) -> &mut Incoming {
        self.samples += 1;
        let OtlpTranslation { series, deltas, .. } = &mut self.out;
        let is_delta = self.is_delta;
        let start = if self.has_starts && head.start_ns > 0 { milliseconds(head.start_ns) } else { NO_START };
        let place = *self.places.entry(labels).or_insert_with_key(|labels| {
            if is_delta {
                deltas.push(series.len());
            }
            let starts = StartTimes::new();
            series.push(Incoming { labels: labels.clone(), samples: Vec::new(), histograms: Vec::new(), starts });
            series.len() - 1
        });
        let series = &mut series[place];
        note_start(&mut series.starts, milliseconds(head.time_ns), start);
        series
    }

    /// The attributes of a resource that do not identify it, as a series of their own.
    fn target_info(&mut self, resource: &Resource, first: i64, last: i64) {
        let is_identifying = |name: &str| IDENTIFYING.contains(&name);
        let has_others = resource.attributes.iter().any(|(name, _)| !is_identifying(name));
        if !has_others || resource.identity.is_empty() {
            return;
        }
        let is_wanted = |name: &str| self.settings.keeps_identifying || !is_identifying(name);
        let Ok(mut labels) = self.joined(resource.attributes, is_wanted) else { return };
        for (name, value) in &resource.identity {
            labels.insert((*name).to_owned(), value.clone());
        }
        let Ok(labels) = checked(&with_name(&labels, "target_info", None)) else { return };
        let step = (self.settings.lookback_ms / 2).max(1).max((last - first) / TARGET_INFO_SAMPLES_MAX);
        self.has_starts = false;
        let samples = &mut self.series(labels, &PointHead::default()).samples;
        let mut at = first;
        while at < last {
            samples.push(Sample { timestamp: Timestamp(at), value: 1.0 });
            at += step;
        }
        samples.push(Sample { timestamp: Timestamp(last), value: 1.0 });
    }
}

/// An exemplar of a series. Attributes are in it if all labels stay within what is allowed. None without a value.
fn incoming(exemplar: &PointExemplar, series: &Labels) -> Option<IncomingExemplar> {
    let ids = [("trace_id", &exemplar.trace_id), ("span_id", &exemplar.span_id)];
    let ids = ids.into_iter().filter(|(_, id)| !id.is_empty()).map(|(name, id)| (name.to_owned(), id.clone()));
    let mut labels: LabelMap = ids.collect();
    let attributes: LabelMap =
        exemplar.attributes.iter().map(|(name, value)| (name.clone(), value.to_text())).collect();
    let chars = |labels: &LabelMap| -> usize {
        labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum()
    };
    if chars(&labels) + chars(&attributes) <= EXEMPLAR_CHARS_MAX {
        for (name, value) in attributes {
            labels.entry(name).or_insert(value);
        }
    }
    labels.retain(|name, value| !name.is_empty() && !value.is_empty());
    let labels = Labels::from_sorted(labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let timestamp = Timestamp(milliseconds(exemplar.time_ns));
    Some(IncomingExemplar { series: series.clone(), labels, value: exemplar.value?, timestamp })
}

/// The name of a metric and where it is from.
struct OfMetric<'a> {
    name: &'a str,
    resource: &'a Resource<'a>,
    scope: &'a Scope,
}

fn with_name(labels: &LabelMap, name: &str, extra: Option<(&str, String)>) -> LabelMap {
    let mut labels = labels.clone();
    labels.insert(METRIC_NAME.to_owned(), name.to_owned());
    if let Some((name, value)) = extra {
        labels.insert(name.to_owned(), value);
    }
    labels
}

/// A label set within bounds. A label without a value is no label.
fn checked(labels: &LabelMap) -> Result<Labels, String> {
    let pairs = labels.iter().filter(|(_, value)| !value.is_empty());
    if pairs.clone().count() > LABELS_MAX {
        return Err(format!("a series has more than {LABELS_MAX} labels"));
    }
    if pairs.clone().any(|(name, value)| name.len() > NAME_BYTES_MAX || value.len() > VALUE_BYTES_MAX) {
        return Err(format!(
            "a label's name is longer than {NAME_BYTES_MAX} bytes, or its value than {VALUE_BYTES_MAX}"
        ));
    }
    Ok(Labels::from_sorted(pairs.map(|(name, value)| (name.as_str(), value.as_str()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::any_value::AnyValue;
    use crate::otlp::data::{ExponentialPoint, ScopeMetrics};

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), AnyValue::Text((*value).to_owned()))).collect()
    }

    fn head(at_ms: u64, pairs: &[(&str, &str)]) -> PointHead {
        PointHead { attributes: attributes(pairs), time_ns: at_ms * 1_000_000, ..PointHead::default() }
    }

    fn number(at_ms: u64, value: f64, pairs: &[(&str, &str)]) -> NumberPoint {
        NumberPoint { head: head(at_ms, pairs), value }
    }

    fn request(resource: &[(&str, &str)], metrics: Vec<Metric>) -> OtlpMetrics {
        let scope = Scope {
            name: "lib".into(),
            version: "2".into(),
            attributes: attributes(&[("k.a", "v")]),
            schema_url: String::new(),
        };
        let scopes = vec![ScopeMetrics { scope, metrics }];
        OtlpMetrics { resources: vec![ResourceMetrics { attributes: attributes(resource), scopes }] }
    }

    fn metric(name: &str, unit: &str, data: MetricData) -> Metric {
        Metric { name: name.into(), description: "Text.".into(), unit: unit.into(), data }
    }

    fn sum(points: Vec<NumberPoint>, temporality: Temporality) -> MetricData {
        MetricData::Sum { points, temporality, is_monotonic: true }
    }

    fn lines(translation: &OtlpTranslation) -> Vec<String> {
        let mut lines = Vec::new();
        for series in &translation.series {
            let Incoming { labels, samples, histograms, .. } = series;
            lines.extend(samples.iter().map(|sample| format!("{labels} {}@{}", sample.value, sample.timestamp.0)));
            lines.extend(histograms.iter().map(|(at, histogram)| format!("{labels} {histogram}@{at}")));
        }
        lines.sort();
        lines
    }

    #[track_caller]
    fn check(metrics: &OtlpMetrics, settings: &OtlpSettings, want: &[&str]) {
        let translation = translate(metrics, settings);
        assert_eq!(lines(&translation), want);
        assert_eq!(translation.reasons, Vec::<String>::new());
    }

    const RESOURCE: [(&str, &str); 4] =
        [("service.name", "shop"), ("service.namespace", "ns"), ("service.instance.id", "i1"), ("host.name", "h")];

    #[test]
    fn numbers_get_job_and_instance_and_resources_an_info() {
        let points = vec![number(2_000, 3.0, &[("http.method", "GET"), ("http_method", "X")]), number(1_000, 1.0, &[])];
        let metrics = request(&RESOURCE, vec![metric("http.requests", "1", sum(points, Temporality::Cumulative))]);
        let usual = OtlpSettings::default();
        check(
            &metrics,
            &usual,
            &[
                r#"{__name__="http_requests_total", http_method="GET;X", instance="i1", job="ns/shop"} 3@2000"#,
                r#"{__name__="http_requests_total", instance="i1", job="ns/shop"} 1@1000"#,
                r#"{__name__="target_info", host_name="h", instance="i1", job="ns/shop"} 1@1000"#,
                r#"{__name__="target_info", host_name="h", instance="i1", job="ns/shop"} 1@2000"#,
            ],
        );
        let metadata = &translate(&metrics, &usual).metadata;
        let found: Vec<_> = metadata.iter().map(|one| (&*one.metric, one.kind, &*one.help, &*one.unit)).collect();
        assert_eq!(found, [("http_requests_total", "counter", "Text.", "")]);
        let points = vec![number(1_000, 1.0, &[])];
        let metrics = request(&RESOURCE, vec![metric("a.b", "s", MetricData::Gauge(points))]);
        let names = NameStrategy { escapes: false, has_suffixes: false, ..NameStrategy::default() };
        let all = OtlpSettings {
            names,
            promotion: Promotion::AllBut(BTreeSet::from(["service.name".to_owned()])),
            promotes_scope: true,
            keeps_identifying: true,
            ..usual
        };
        check(
            &metrics,
            &all,
            &[
                r#"{__name__="a.b", "host.name"="h", instance="i1", job="ns/shop", "otel_scope_k.a"="v", otel_scope_name="lib", otel_scope_version="2", "service.instance.id"="i1", "service.namespace"="ns"} 1@1000"#,
                r#"{__name__="target_info", "host.name"="h", instance="i1", job="ns/shop", "service.instance.id"="i1", "service.name"="shop", "service.namespace"="ns"} 1@1000"#,
            ],
        );
    }

    #[test]
    fn histograms_and_summaries_become_classic_or_native_series() {
        let histogram = || HistogramPoint {
            head: head(1_000, &[]),
            count: 6,
            sum: Some(10.0),
            bucket_counts: vec![1, 2, 3],
            bounds: vec![0.5, 10.0],
        };
        let of = |points| MetricData::Histogram { points, temporality: Temporality::Cumulative };
        let metrics = request(&[("service.name", "s")], vec![metric("h", "", of(vec![histogram()]))]);
        check(
            &metrics,
            &OtlpSettings::default(),
            &[
                r#"{__name__="h_bucket", job="s", le="+Inf"} 6@1000"#,
                r#"{__name__="h_bucket", job="s", le="0.5"} 1@1000"#,
                r#"{__name__="h_bucket", job="s", le="10"} 3@1000"#,
                r#"{__name__="h_count", job="s"} 6@1000"#,
                r#"{__name__="h_sum", job="s"} 10@1000"#,
            ],
        );
        let native = translate(&metrics, &OtlpSettings { custom_buckets: true, ..OtlpSettings::default() });
        assert_eq!((native.series.len(), native.series[0].histograms[0].1.count), (1, 6.0));
        let quantiles = vec![(0.5, 7.0)];
        let point = SummaryPoint { head: head(1_000, &[]), count: 2, sum: 9.0, quantiles };
        check(
            &request(&[], vec![metric("s", "", MetricData::Summary(vec![point]))]),
            &OtlpSettings::default(),
            &[
                r#"{__name__="s", quantile="0.5"} 7@1000"#,
                r#"{__name__="s_count"} 2@1000"#,
                r#"{__name__="s_sum"} 9@1000"#,
            ],
        );
        let stale = NumberPoint { head: PointHead { is_stale: true, ..head(1_000, &[]) }, value: 0.0 };
        let ended =
            translate(&request(&[], vec![metric("g", "", MetricData::Gauge(vec![stale]))]), &OtlpSettings::default());
        assert!(series::is_stale(ended.series[0].samples[0].value));
    }

    #[test]
    fn exemplars_belong_to_sums_and_buckets() {
        let exemplar = |value: f64, at_ms: u64, key: &str| PointExemplar {
            attributes: attributes(&[(key, "x")]),
            time_ns: at_ms * 1_000_000,
            value: Some(value),
            trace_id: "0af7".into(),
            ..PointExemplar::default()
        };
        let head = |exemplars| PointHead { exemplars, ..head(1_000, &[]) };
        let histogram = HistogramPoint {
            head: head(vec![exemplar(0.5, 900, "k"), exemplar(20.0, 800, &"k".repeat(120)), exemplar(7.0, 700, "")]),
            count: 6,
            bucket_counts: vec![1, 2, 3],
            bounds: vec![0.5, 10.0],
            ..HistogramPoint::default()
        };
        let point =
            |value| NumberPoint { head: head(vec![exemplar(value, 600, "k"), PointExemplar::default()]), value };
        let metrics = vec![
            metric("h", "", MetricData::Histogram { points: vec![histogram], temporality: Temporality::Cumulative }),
            metric("s", "", sum(vec![point(1.0)], Temporality::Cumulative)),
            metric("g", "", MetricData::Gauge(vec![point(2.0)])),
        ];
        let metrics = request(&[], metrics);
        let lines = |settings: &OtlpSettings| -> Vec<String> {
            let all = translate(&metrics, settings).exemplars;
            all.iter().map(|one| format!("{} {} {}@{}", one.series, one.labels, one.value, one.timestamp.0)).collect()
        };
        let of_sum = r#"{__name__="s_total"} {k="x", trace_id="0af7"} 1@600"#;
        let classic = [
            of_sum,
            r#"{__name__="h_bucket", le="10"} {trace_id="0af7"} 7@700"#,
            r#"{__name__="h_bucket", le="+Inf"} {trace_id="0af7"} 20@800"#,
            r#"{__name__="h_bucket", le="0.5"} {k="x", trace_id="0af7"} 0.5@900"#,
        ];
        assert_eq!(lines(&OtlpSettings::default()), classic);
        let native = lines(&OtlpSettings { custom_buckets: true, ..OtlpSettings::default() });
        assert_eq!(native[0], of_sum);
        assert_eq!(native[1..].iter().filter(|line| line.starts_with(r#"{__name__="h"} "#)).count(), 3);
    }

    #[test]
    fn what_cannot_be_taken_is_rejected_alone() {
        let exponential = ExponentialPoint { head: head(1_000, &[]), scale: -7, ..ExponentialPoint::default() };
        let exponential = MetricData::Exponential { points: vec![exponential], temporality: Temporality::Cumulative };
        let metrics = request(
            &[],
            vec![
                metric("good", "", MetricData::Gauge(vec![number(1_000, 1.0, &[])])),
                metric("delta", "", sum(vec![number(1_000, 1.0, &[]), number(2_000, 1.0, &[])], Temporality::Delta)),
                metric("e", "", exponential),
                metric("", "", MetricData::Gauge(vec![number(1_000, 1.0, &[])])),
                metric("label", "", MetricData::Gauge(vec![number(1_000, 1.0, &[("", "x")])])),
            ],
        );
        let translation = translate(&metrics, &OtlpSettings::default());
        assert_eq!(lines(&translation), [r#"{__name__="good"} 1@1000"#]);
        assert_eq!(translation.rejected_points, 5);
        let reasons = translation.reasons.join("\n");
        for part in ["for metric \"delta\"", "Scale must be >= -4, was -7", "resulted in empty name", "label name \"\""]
        {
            assert!(reasons.contains(part), "{part}: {reasons}");
        }
        let stored = translate(&metrics, &OtlpSettings { deltas: DeltaHandling::Store, ..OtlpSettings::default() });
        assert_eq!((stored.rejected_points, stored.deltas.len()), (3, 0));
        assert!(stored.metadata.iter().any(|one| one.metric == "delta_total" && one.kind == "unknown"));
        let marked =
            translate(&metrics, &OtlpSettings { deltas: DeltaHandling::Accumulate, ..OtlpSettings::default() });
        assert_eq!(marked.deltas.iter().map(|at| marked.series[*at].samples.len()).collect::<Vec<_>>(), [2]);
    }
}
