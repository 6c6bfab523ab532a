//! Start times of series: the `_created` lines of OpenMetrics, which say when the samples before them began to count.
//!
//! A line belongs to the samples of its metric that stand before it, up to the `_created` line before it: to those with its
//! labels, but for `le` and `quantile`. Prometheus compares labels as they are written; here their order means nothing.

use exposition::{Format, Kind, START_SUFFIX};
use series::METRIC_NAME;

/// A line that says when series began.
#[derive(Clone, Debug, PartialEq)]
pub struct StartLine {
    /// Place of its value in the readings of a walk.
    pub value: u32,
    /// What it says, in seconds since 1970.
    pub seconds: f64,
    /// Whether it says something else than what was noted last.
    pub is_new: bool,
    /// The series, by their places among the slots of the payload.
    pub slots: Box<[u32]>,
}

impl StartLine {
    /// Milliseconds since 1970, cut as Prometheus cuts them.
    pub fn at_ms(&self) -> i64 {
        (self.seconds * 1000.0) as i64
    }
}

/// A line of a payload.
pub struct PayloadLine {
    /// Place of its value in the readings of a walk.
    pub value: u32,
    /// Place of its series among the slots, unless it has none.
    pub slot: Option<u32>,
    pub kind: Kind,
    /// With the metric's name.
    pub labels: Vec<(String, String)>,
}

/// Whether series of this type have start times.
pub fn has_start(kind: Kind) -> bool {
    matches!(kind, Kind::Counter | Kind::Summary | Kind::Histogram)
}

/// Whether a line with this name is no sample, but says when samples began.
pub fn is_start_line(format: Format, kind: Kind, name: &str) -> bool {
    format == Format::OpenMetrics && has_start(kind) && name.ends_with(START_SUFFIX)
}

/// The lines that say when series began, with the series. `lines` are those of types that have start times, in the order
/// of the payload.
pub fn start_lines(lines: Vec<PayloadLine>) -> Vec<StartLine> {
    let mut found: Vec<StartLine> = Vec::new();
    // From the end: the next line that says a start time.
    let mut next: Option<(PayloadLine, Vec<u32>)> = None;
    let mut finish = |next: Option<(PayloadLine, Vec<u32>)>| {
        if let Some((line, mut slots)) = next.filter(|(_, slots)| !slots.is_empty()) {
            slots.reverse();
            found.push(StartLine { value: line.value, seconds: 0.0, is_new: true, slots: slots.into() });
        }
    };
    for line in lines.into_iter().rev() {
        if is_start_line(Format::OpenMetrics, line.kind, name_of(&line)) {
            finish(next.replace((line, Vec::new())));
        } else if let (Some((start, slots)), Some(slot)) = (&mut next, line.slot)
            && belongs(&line, start)
        {
            slots.push(slot);
        }
    }
    finish(next);
    found.reverse();
    found
}

fn name_of(line: &PayloadLine) -> &str {
    line.labels.iter().find(|(name, _)| name == METRIC_NAME).map_or("", |(_, name)| name)
}

/// Whether a sample is one of the metric whose start time a line says.
fn belongs(sample: &PayloadLine, start: &PayloadLine) -> bool {
    let name = name_of(sample);
    let suffixes: &[&str] = match sample.kind {
        Kind::Counter => &["_total"],
        Kind::Histogram => &["_bucket", "_count", "_sum"],
        _ => &["_count", "_sum"],
    };
    let Some(metric) = name_of(start).strip_suffix(START_SUFFIX) else { return false };
    let is_of_metric = name == metric || suffixes.iter().any(|suffix| name.strip_suffix(suffix) == Some(metric));
    is_of_metric && sample.kind == start.kind && own_labels(sample) == own_labels(start)
}

fn own_labels(line: &PayloadLine) -> Vec<(&str, &str)> {
    let is_own = |name: &str| ![METRIC_NAME, "le", "quantile"].contains(&name);
    let own = line.labels.iter().filter(|(name, value)| is_own(name) && !value.is_empty());
    let mut own: Vec<(&str, &str)> = own.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    own.sort_unstable();
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which slots each line that says a start time has, for lines as `type series`.
    #[track_caller]
    fn check(lines: &[&str], want: &[(u32, &[u32])]) {
        let line = |(at, text): (usize, &&str)| {
            let (kind, raw) = text.split_once(' ').unwrap();
            let kind = match kind {
                "counter" => Kind::Counter,
                "histogram" => Kind::Histogram,
                _ => Kind::Summary,
            };
            let labels = exposition::labels(raw.as_bytes(), Kind::Unknown);
            let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            PayloadLine { value: at as u32, slot: Some(at as u32), kind, labels }
        };
        let found = start_lines(lines.iter().enumerate().map(line).collect());
        let got: Vec<(u32, &[u32])> = found.iter().map(|start| (start.value, &*start.slots)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn a_start_time_is_that_of_the_samples_before_it() {
        check(&["counter a_total", "counter a_created"], &[(1, &[0])]);
        check(&["counter a_created", "counter a_total"], &[]);
        check(&["counter a_total", "counter b_created"], &[]);
        let sets = [
            "counter c_total{a=\"1\"}",
            "counter c_total{a=\"2\"}",
            "counter c_created{a=\"1\"}",
            "counter c_created{a=\"2\"}",
        ];
        check(&sets, &[(2, &[0])]);
        check(&["counter c_total{a=\"1\",b=\"2\"}", "counter c_created{b=\"2\",a=\"1\"}"], &[(1, &[0])]);
        let histogram = [
            "histogram h_bucket{le=\"1\"}",
            "histogram h_count",
            "histogram h_sum",
            "counter x_total",
            "histogram h_created",
        ];
        check(&histogram, &[(4, &[0, 1, 2])]);
        check(&["summary s{quantile=\"0.5\"}", "summary s_sum", "summary s_created"], &[(2, &[0, 1])]);
        // A counter of protobuf has its whole name.
        check(&["counter a_total", "counter a_total_created"], &[(1, &[0])]);
    }
}
