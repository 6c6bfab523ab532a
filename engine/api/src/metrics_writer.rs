//! The text of `/metrics`: families sorted by name, each with its help, type and lines.

use exposition::{Escaping, write_sample};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Upper bounds of our own histograms, in seconds.
const BOUNDS_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds, in seconds, of the histograms that Prometheus has beside its summaries.
pub const BOUNDS_BESIDE_SUMMARIES: [f64; 4] = [0.01, 0.1, 1.0, 10.0];

/// Quantiles of Prometheus' summaries.
pub const SUMMARY_QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// One line of a family.
struct MetricLine {
    /// Behind the family's name: "", `_sum`, `_count` or `_bucket`.
    suffix: String,
    labels: Vec<(String, String)>,
    value: f64,
}

struct Family {
    kind: String,
    help: String,
    lines: Vec<MetricLine>,
}

/// The families so far, sorted by name.
#[derive(Default)]
pub(crate) struct MetricsWriter {
    families: BTreeMap<String, Family>,
    /// The family that lines are added to.
    current: String,
}

impl MetricsWriter {
    /// Begins a family.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let family = Family { kind: kind.to_owned(), help: help.to_owned(), lines: Vec::new() };
        let before = self.families.insert(name.to_owned(), family);
        debug_assert!(before.is_none(), "{name} stands twice");
        name.clone_into(&mut self.current);
    }

    /// Adds a line to the family begun last.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let suffix = name.strip_prefix(self.current.as_str());
        debug_assert!(suffix.is_some(), "{name} is not of {}", self.current);
        let Some(family) = self.families.get_mut(&self.current) else { return };
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        family.lines.push(MetricLine { suffix: suffix.unwrap_or_default().to_owned(), labels, value });
    }

    /// All families in the text format.
    pub fn into_text(self) -> String {
        let mut out = String::new();
        for (name, Family { kind, help, lines }) in &self.families {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for MetricLine { suffix, labels, value } in lines {
                let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                write_sample(&format!("{name}{suffix}"), labels, *value, None, Escaping::Underscores, &mut out);
            }
        }
        out
    }

    /// The families whose names `wanted` accepts, in the JSON form of Prometheus' protobuf messages.
    pub fn into_json(self, wanted: impl Fn(&str) -> bool) -> Value {
        let families = self.families.into_iter().filter(|(name, family)| wanted(name) && !family.lines.is_empty());
        let family = |(name, family): (String, Family)| {
            let kind = family.kind.to_uppercase();
            json!({"name": name, "help": family.help, "type": kind, "metric": metrics(&family)})
        };
        families.map(family).collect()
    }

    pub fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help);
        self.line(name, &[], value);
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.line(name, &[], value);
    }

    /// A family with one line per value of a label.
    pub fn by<K: AsRef<str>>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (K, f64)>,
    ) {
        self.family(name, kind, help);
        for (key, value) in values {
            self.line(name, &[(label, key.as_ref())], value);
        }
    }

    /// Microseconds as a summary in seconds.
    pub fn summary(&mut self, name: &str, help: &str, quantiles: &[f64], histogram: &Histogram<u64>) {
        self.family(name, "summary", help);
        self.summary_lines(name, &[], quantiles, histogram);
    }

    /// Adds the lines of one summary in seconds, of microseconds, to the family begun last.
    pub fn summary_lines(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        quantiles: &[f64],
        histogram: &Histogram<u64>,
    ) {
        for quantile in quantiles {
            let value = match histogram.len() {
                0 => f64::NAN,
                _ => histogram.value_at_quantile(*quantile) as f64 / 1e6,
            };
            self.line(name, &[labels, &[("quantile", &quantile.to_string())]].concat(), value);
        }
        self.sum_and_count(name, labels, std::iter::once(histogram));
    }

    fn sum_and_count<'a>(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        histograms: impl Iterator<Item = &'a Histogram<u64>> + Clone,
    ) {
        let there = histograms.filter(|histogram| !histogram.is_empty());
        let sum: f64 = there.clone().map(|histogram| histogram.mean() * histogram.len() as f64 / 1e6).sum();
        self.line(&format!("{name}_sum"), labels, sum);
        self.line(&format!("{name}_count"), labels, there.map(Histogram::len).sum::<u64>() as f64);
    }

    /// Microseconds of all cores as a histogram in seconds.
    pub fn histogram<'a>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl Iterator<Item = &'a Histogram<u64>> + Clone,
    ) {
        self.family(name, "histogram", help);
        self.histogram_lines(name, &[], &BOUNDS_SECONDS, histograms);
    }

    /// Adds the lines of one histogram in seconds, of microseconds, to the family begun last.
    pub fn histogram_lines<'a>(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        histograms: impl Iterator<Item = &'a Histogram<u64>> + Clone,
    ) {
        let bucket = format!("{name}_bucket");
        let below = |us: u64| histograms.clone().map(|histogram| histogram.count_between(0, us)).sum::<u64>();
        let count: u64 = histograms.clone().map(Histogram::len).sum();
        let counts = bounds.iter().map(|bound| (bound.to_string(), below((bound * 1e6) as u64)));
        for (bound, count) in counts.chain([("+Inf".to_owned(), count)]) {
            self.line(&bucket, &[labels, &[("le", &bound)]].concat(), count as f64);
        }
        self.sum_and_count(name, labels, histograms);
    }
}

/// A number as protobuf's JSON has it.
fn number(value: f64) -> Value {
    match value {
        value if value.is_nan() => json!("NaN"),
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        value => json!(value),
    }
}

/// Labels of a line that tell metrics of a family apart.
type LabelRefs<'a> = Vec<&'a (String, String)>;

/// The metrics of a family: one for each label set, without the labels that tell buckets and quantiles apart.
fn metrics(family: &Family) -> Vec<Value> {
    let mut metrics: Vec<(LabelRefs, Map<String, Value>)> = Vec::new();
    for line in &family.lines {
        let is_part = |name: &str| matches!(name, "le" | "quantile");
        let labels: Vec<_> = line.labels.iter().filter(|(name, _)| !is_part(name)).collect();
        let part = line.labels.iter().find(|(name, _)| is_part(name)).map(|(_, value)| value.as_str());
        let bound = || number(part.and_then(|part| part.parse().ok()).unwrap_or(f64::INFINITY));
        let at = metrics.iter().position(|(known, _)| *known == labels).unwrap_or_else(|| {
            metrics.push((labels, Map::new()));
            metrics.len() - 1
        });
        let fields = &mut metrics[at].1;
        let mut add = |list: &str, entry: Value| {
            if let Value::Array(entries) = fields.entry(list).or_insert_with(|| json!([])) {
                entries.push(entry);
            }
        };
        // Counts are strings, as all 64-bit numbers are there.
        let count = (line.value as u64).to_string();
        match (line.suffix.as_str(), family.kind.as_str()) {
            ("_bucket", _) => add("bucket", json!({"cumulativeCount": count, "upperBound": bound()})),
            ("_sum", _) => drop(fields.insert("sampleSum".into(), number(line.value))),
            ("_count", _) => drop(fields.insert("sampleCount".into(), json!(count))),
            (_, "summary") => add("quantile", json!({"quantile": bound(), "value": number(line.value)})),
            _ => drop(fields.insert("value".into(), number(line.value))),
        }
    }
    let metric = |(labels, fields): (LabelRefs, Map<String, Value>)| {
        let labels: Vec<Value> = labels.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        json!({"label": labels, (family.kind.as_str()): fields})
    };
    metrics.into_iter().map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> MetricsWriter {
        let mut writer = MetricsWriter::default();
        writer.by("b_total", "counter", "Of b.", "x", [("y", 2.0)]);
        writer.family("a", "histogram", "Of a.");
        writer.line("a_bucket", &[("le", "1")], 3.0);
        writer.line("a_bucket", &[("le", "+Inf")], 4.0);
        writer.line("a_sum", &[], 2.5);
        writer.line("a_count", &[], 4.0);
        writer
    }

    #[test]
    fn text_is_sorted_by_family() {
        let want = "# HELP a Of a.\n# TYPE a histogram\na_bucket{le=\"1\"} 3\na_bucket{le=\"+Inf\"} 4\na_sum 2.5\n\
                    a_count 4\n# HELP b_total Of b.\n# TYPE b_total counter\nb_total{x=\"y\"} 2\n";
        assert_eq!(written().into_text(), want);
    }

    #[test]
    fn json_is_that_of_the_messages() {
        let histogram = json!({
            "sampleCount": "4",
            "sampleSum": 2.5,
            "bucket": [{"cumulativeCount": "3", "upperBound": 1.0}, {"cumulativeCount": "4", "upperBound": "Infinity"}],
        });
        let a = json!({"name": "a", "help": "Of a.", "type": "HISTOGRAM", "metric": [{"label": [], "histogram": histogram}]});
        let metric = json!({"label": [{"name": "x", "value": "y"}], "counter": {"value": 2.0}});
        let b = json!({"name": "b_total", "help": "Of b.", "type": "COUNTER", "metric": [metric]});
        assert_eq!(written().into_json(|_| true), json!([a, b]));
        assert_eq!(written().into_json(|name| name == "a"), json!([a]));
    }
}
