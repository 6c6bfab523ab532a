//! Names of metrics, units and labels, as Prometheus translates them.

use super::data::{Metric, MetricData};

/// What becomes of names that are not legacy names, and whether units and types are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameStrategy {
    pub escapes: bool,
    pub has_suffixes: bool,
    /// A label name that begins with one underscore gets `key` before it.
    pub sanitizes_underscores: bool,
    /// Several underscores of a label name stay several.
    pub preserves_underscores: bool,
}

impl Default for NameStrategy {
    fn default() -> NameStrategy {
        NameStrategy { escapes: true, has_suffixes: true, sanitizes_underscores: true, preserves_underscores: true }
    }
}

/// Units of OTLP, and what they are called here.
const UNITS: [(&str, &str); 26] = [
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
];
/// Units behind a slash.
const PER_UNITS: [(&str, &str); 7] =
    [("s", "second"), ("m", "minute"), ("h", "hour"), ("d", "day"), ("w", "week"), ("mo", "month"), ("y", "year")];

fn find(units: &[(&str, &'static str)], unit: &str) -> Option<&'static str> {
    units.iter().find(|(from, _)| *from == unit).map(|(_, to)| *to)
}

/// The unit, and the unit behind the slash with `per_` before it; either may be empty.
fn unit_suffixes(unit: &str) -> (String, String) {
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    let is_unit = |unit: &&str| !unit.is_empty() && !unit.contains(['{', '}']);
    let main = Some(main.trim()).filter(is_unit).map(|main| find(&UNITS, main).unwrap_or(main));
    let per = Some(per.trim()).filter(is_unit).map(|per| find(&PER_UNITS, per).unwrap_or(per));
    (main.unwrap_or_default().to_owned(), per.map(|per| format!("per_{per}")).unwrap_or_default())
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == ':'
}

/// Other characters become underscores, several of them one, and none is at the beginning.
fn clean_unit(unit: &str) -> String {
    let mut clean = String::new();
    for c in unit.chars() {
        match is_name_char(c) {
            true => clean.push(c),
            false if clean.ends_with('_') => {}
            false => clean.push('_'),
        }
    }
    clean.strip_prefix('_').map(str::to_owned).unwrap_or(clean)
}

/// The unit as metadata has it: `bytes_per_second`.
pub fn unit_name(unit: &str) -> String {
    let (main, per) = unit_suffixes(unit);
    let (main, per) = (clean_unit(&main), clean_unit(&per));
    let joined = if main.is_empty() || per.is_empty() { main + &per } else { format!("{main}_{per}") };
    joined.trim_matches('_').to_owned()
}

impl NameStrategy {
    /// The name of a metric's family.
    ///
    /// # Errors
    /// If nothing is left of it.
    pub fn metric_name(&self, metric: &Metric) -> Result<String, String> {
        let is_counter = matches!(&metric.data, MetricData::Sum { is_monotonic: true, .. });
        let is_ratio = metric.unit == "1" && matches!(&metric.data, MetricData::Gauge(_));
        let name = match (self.escapes, self.has_suffixes) {
            (true, true) => escaped_with_suffixes(&metric.name, &metric.unit, is_counter, is_ratio),
            (true, false) => escaped(&metric.name),
            (false, true) => with_suffixes(&metric.name, &metric.unit, is_counter, is_ratio),
            (false, false) => metric.name.clone(),
        };
        if name.is_empty() {
            return Err(format!("normalization for metric {:?} resulted in empty name", metric.name));
        }
        if self.escapes && name != metric.name && name.chars().all(|c| c == '_') {
            return Err(format!("normalization for metric {:?} resulted in invalid name {name:?}", metric.name));
        }
        Ok(name)
    }

    /// The name of the label that an attribute becomes.
    ///
    /// # Errors
    /// If nothing is left of it.
    pub fn label_name(&self, attribute: &str) -> Result<String, String> {
        if attribute.is_empty() {
            return Err(format!("normalization for label name {attribute:?} resulted in empty name"));
        }
        if !self.escapes {
            return Ok(attribute.to_owned());
        }
        let mut name = String::with_capacity(attribute.len());
        for c in attribute.chars() {
            match c.is_ascii_alphanumeric() {
                true => name.push(c),
                // A reserved name keeps both underscores at its beginning.
                false if !self.preserves_underscores && name.len() > 1 && name.ends_with('_') => {}
                false => name.push('_'),
            }
        }
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert_str(0, "key_");
        } else if self.sanitizes_underscores && name.starts_with('_') && !name.starts_with("__") {
            name.insert_str(0, "key");
        }
        if name != attribute && name.chars().all(|c| c == '_') {
            return Err(format!("normalization for label name {attribute:?} resulted in invalid name {name:?}"));
        }
        Ok(name)
    }
}

fn with_digit_first(name: String) -> String {
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

fn escaped(name: &str) -> String {
    let is_other = |c: char| !is_name_char(c) && c != '_';
    let tokens: Vec<&str> = name.split(is_other).filter(|token| !token.is_empty()).collect();
    with_digit_first(tokens.join("_"))
}

fn escaped_with_suffixes(name: &str, unit: &str, is_counter: bool, is_ratio: bool) -> String {
    let mut tokens: Vec<&str> = name.split(|c: char| !is_name_char(c)).filter(|token| !token.is_empty()).collect();
    let (main, per) = unit_suffixes(unit);
    let (mut main, mut per) = (clean_unit(&main), clean_unit(&per));
    if tokens.contains(&main.as_str()) {
        main.clear();
    }
    per = if per == "per_" { String::new() } else { per.strip_suffix('_').unwrap_or(&per).to_owned() };
    if tokens.contains(&per.as_str()) {
        per.clear();
    }
    if !per.is_empty() {
        main = main.strip_suffix('_').unwrap_or(&main).to_owned();
    }
    tokens.extend([main.as_str(), per.as_str()].into_iter().filter(|suffix| !suffix.is_empty()));
    for (_, word) in [(is_counter, "total"), (is_ratio, "ratio")].into_iter().filter(|(applies, _)| *applies) {
        tokens.retain(|token| *token != word);
        tokens.push(word);
    }
    with_digit_first(tokens.join("_"))
}

/// Without a suffix and the character before it.
fn without_suffix<'n>(name: &'n str, suffix: &str) -> &'n str {
    let Some(rest) = name.strip_suffix(suffix).filter(|rest| rest.chars().count() > 1) else { return name };
    let last = rest.char_indices().next_back().map_or(0, |(at, _)| at);
    &rest[..last]
}

fn with_suffixes(name: &str, unit: &str, is_counter: bool, is_ratio: bool) -> String {
    let (main, per) = unit_suffixes(unit);
    let mut rest = name;
    if is_ratio {
        rest = without_suffix(rest, "ratio");
    }
    if is_counter {
        rest = without_suffix(rest, "total");
    }
    if !per.is_empty() {
        rest = without_suffix(rest, &per);
    }
    let mut name = rest.to_owned();
    let main = if name.ends_with(&main) { String::new() } else { main };
    let words =
        [main.as_str(), per.as_str(), if is_counter { "total" } else { "" }, if is_ratio { "ratio" } else { "" }];
    for word in words.into_iter().filter(|word| !word.is_empty()) {
        name.push('_');
        name.push_str(word);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::data::Temporality;

    fn metric(name: &str, unit: &str, kind: &str) -> Metric {
        let data = match kind {
            "counter" => MetricData::Sum { points: vec![], temporality: Temporality::Cumulative, is_monotonic: true },
            "gauge" => MetricData::Gauge(vec![]),
            _ => MetricData::Unset,
        };
        Metric { name: name.into(), unit: unit.into(), data, ..Metric::default() }
    }

    #[track_caller]
    fn check(name: &str, unit: &str, kind: &str, want: [&str; 3]) {
        let metric = metric(name, unit, kind);
        let of = |escapes, has_suffixes| {
            let strategy = NameStrategy { escapes, has_suffixes, ..NameStrategy::default() };
            strategy.metric_name(&metric).unwrap_or_default()
        };
        assert_eq!([of(true, true), of(true, false), of(false, true)], want, "{name} {unit} {kind}");
        assert_eq!(of(false, false), name);
    }

    /// Names that Prometheus' translator gives: escaped with and without suffixes, and as they are with suffixes.
    #[test]
    fn names_of_metrics() {
        check("my.gauge", "s", "gauge", ["my_gauge_seconds", "my_gauge", "my.gauge_seconds"]);
        check("http.requests", "", "counter", ["http_requests_total", "http_requests", "http.requests_total"]);
        check(
            "total.http.requests",
            "1",
            "counter",
            ["http_requests_total", "total_http_requests", "total.http.requests_total"],
        );
        check("cpu.ratio", "1", "gauge", ["cpu_ratio", "cpu_ratio", "cpu_ratio"]);
        check("cpu", "1", "gauge", ["cpu_ratio", "cpu", "cpu_ratio"]);
        check("io.seconds.total", "s", "counter", ["io_seconds_total", "io_seconds_total", "io.seconds_total"]);
        check("network", "By/s", "gauge", ["network_bytes_per_second", "network", "network_bytes_per_second"]);
        check("calls", "{call}/min", "gauge", ["calls_per_min", "calls", "calls_per_min"]);
        check("3d.prints", "{print}", "gauge", ["_3d_prints", "_3d_prints", "3d.prints"]);
        check("a__b..c", "", "", ["a_b_c", "a__b_c", "a__b..c"]);
        check("hell°", "°F", "", ["hell_F", "hell", "hell°_°F"]);
        check("°°", "", "", ["", "", "°°"]);
        check("load%", "%", "gauge", ["load_percent", "load", "load%_percent"]);
    }

    #[test]
    fn units_of_metadata() {
        for (unit, want) in
            [("s", "seconds"), ("By/s", "bytes_per_second"), ("1", ""), ("{x}/s", "per_second"), ("", "")]
        {
            assert_eq!(unit_name(unit), want, "{unit}");
        }
    }

    #[test]
    fn names_of_labels() {
        let check = |strategy: NameStrategy, name: &str, want: &str| {
            assert_eq!(strategy.label_name(name).unwrap_or_default(), want, "{name} {strategy:?}");
        };
        let usual = NameStrategy::default();
        for (name, want) in [
            ("http.method", "http_method"),
            ("3x", "key_3x"),
            ("_x", "key_x"),
            ("__x__", "__x__"),
            ("a..b", "a__b"),
            ("ok", "ok"),
            ("", ""),
            ("..", ""),
        ] {
            check(usual, name, want);
        }
        check(NameStrategy { sanitizes_underscores: false, ..usual }, "_x", "_x");
        check(NameStrategy { preserves_underscores: false, ..usual }, "a..b__c", "a_b_c");
        check(NameStrategy { escapes: false, ..usual }, "a..ö", "a..ö");
    }
}
