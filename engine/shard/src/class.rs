//! From one line's text to the series it is: honor_labels, `exported_`, metric relabelling, label limits.
//!
//! The outcome depends on the line and on a few traits of the target: the names of its labels, its job's rules and
//! limits. Targets alike in these share a [`Class`], and with it every outcome. Their label values matter only if the
//! rules read them; then the class is the target's own.
//!
//! Invariants:
//!   * a slot's labels and its target's labels, merged with the slot's winning and empty ones dropped, are the series'
//!     labels; an empty slot label stands for "the target's label does not apply here"

use config::ScrapeConfig;
use relabel::NameScheme;
use series::{Labels, LabelsBuilder, METRIC_NAME};
use std::fmt;

use fetch::Reason;

/// What becomes of a line, the same at every scrape.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Kept, as a slot with these labels of its own.
    Keep(Labels),
    /// Dropped by metric_relabel_configs.
    Drop,
    /// Fails the scrape.
    Fail(LineError),
}

/// Why a line fails its scrape. The texts are Prometheus'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineError {
    NoName,
    BadName(String),
    NotUnique(String),
    TooManyLabels { metric: String, count: usize, limit: u64 },
    LabelName { metric: String, name: String, limit: u64 },
    LabelValue { metric: String, name: String, value: String, limit: u64 },
}

impl LineError {
    pub fn reason(&self) -> Reason {
        match self {
            LineError::NoName | LineError::BadName(_) | LineError::NotUnique(_) => Reason::Name,
            _ => Reason::LabelLimit,
        }
    }
}

/// The first 50 characters, as Go's `%.50s`.
fn first_50(text: &str) -> &str {
    text.char_indices().nth(50).map_or(text, |(end, _)| &text[..end])
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::NoName => f.write_str("missing metric name (__name__ label)"),
            LineError::NotUnique(name) => write!(f, "label name {name:?} is not unique: invalid sample"),
            LineError::BadName(labels) => write!(f, "invalid metric name or label names: {labels}"),
            LineError::TooManyLabels { metric, count, limit } => {
                let metric = first_50(metric);
                write!(f, "label_limit exceeded (metric: {metric}, number of labels: {count}, limit: {limit})")
            }
            LineError::LabelName { metric, name, limit } => write!(
                f,
                "label_name_length_limit exceeded (metric: {}, label name: {}, length: {}, limit: {limit})",
                first_50(metric),
                first_50(name),
                name.len()
            ),
            LineError::LabelValue { metric, name, value, limit } => write!(
                f,
                "label_value_length_limit exceeded (metric: {}, label name: {}, value: {:?}, length: {}, limit: {limit})",
                first_50(metric),
                first_50(name),
                first_50(value),
                value.len()
            ),
        }
    }
}

/// Stands for the label value of any target. One byte long, so that no length limit can mind it; a line that exposes
/// it as the value of a label that its target has, with honor_labels, gets the target's value.
const ANY_VALUE: &str = "\u{1}";

/// What a job and a target's labels decide about lines.
#[derive(Clone, Debug)]
pub struct Class {
    pub honor_labels: bool,
    pub honor_timestamps: bool,
    rules: relabel::Program,
    names: NameScheme,
    label_limit: u64,
    label_name_length_limit: u64,
    label_value_length_limit: u64,
    /// The target's labels; in a class that is shared, every value is [`ANY_VALUE`].
    target_labels: Labels,
    /// Whether the rules may look at target label values, so that only targets with equal ones belong here.
    private: bool,
}

impl Class {
    pub fn new(job: &ScrapeConfig, target_labels: &Labels) -> Class {
        let private = !job.metric_relabel_configs.is_empty() && {
            let used = job.metric_relabel_configs.reads_or_writes();
            target_labels.iter().any(|(name, _)| used.contains(name))
        };
        let own = |name: &str, value: &str| (name.to_owned(), if private { value } else { ANY_VALUE }.to_owned());
        Class {
            honor_labels: job.honor_labels,
            honor_timestamps: job.honor_timestamps,
            rules: job.metric_relabel_configs.clone(),
            names: job.metric_name_validation_scheme,
            label_limit: job.label_limit,
            label_name_length_limit: job.label_name_length_limit,
            label_value_length_limit: job.label_value_length_limit,
            target_labels: Labels::from_pairs(target_labels.iter().map(|(name, value)| own(name, value))),
            private,
        }
    }

    /// The same class for one target alone: its error texts show the target's label values.
    pub fn for_target(&self, target_labels: &Labels) -> Class {
        Class { target_labels: target_labels.clone(), private: true, ..self.clone() }
    }

    /// Whether lines of a target with this class have the same outcomes as those of `other`.
    pub fn same_as(&self, other: &Class) -> bool {
        let limits = |class: &Class| {
            let lengths = (class.label_name_length_limit, class.label_value_length_limit);
            (class.honor_labels, class.honor_timestamps, class.names, class.label_limit, lengths, class.private)
        };
        limits(self) == limits(other) && self.target_labels == other.target_labels && self.rules == other.rules
    }

    /// Equal for classes that are the same; for finding one among many.
    pub fn fingerprint(&self) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        (self.honor_labels, self.label_limit, &self.target_labels).hash(&mut hasher);
        hasher.finish()
    }

    /// What becomes of a line with these labels, metric name included.
    pub fn outcome<'a>(&self, exposed: impl IntoIterator<Item = (&'a str, &'a str)>) -> Outcome {
        let mut labels = LabelsBuilder::default();
        let mut twice = None;
        let mut empty: Vec<&str> = Vec::new();
        for (name, value) in exposed {
            if value.is_empty() {
                empty.push(name);
            } else if labels.contains(name) {
                twice.get_or_insert(name);
                continue;
            }
            labels.set_keep_empty(name, value);
        }
        // A label that is empty at one of its places is none.
        for name in &empty {
            labels.set_keep_empty(name, "");
        }
        if let Some(name) = twice.filter(|name| !empty.contains(name)) {
            return Outcome::Fail(LineError::NotUnique(name.to_owned()));
        }
        self.add_target_labels(&mut labels);
        labels.retain(|_, value| !value.is_empty());
        if !self.rules.is_empty() && !self.rules.apply(&mut labels).is_keep() {
            return Outcome::Drop;
        }
        if labels.iter().next().is_none() {
            return Outcome::Drop;
        }
        match self.check(&labels) {
            Ok(()) => Outcome::Keep(self.slot_labels(&labels)),
            Err(error) => Outcome::Fail(error),
        }
    }

    /// honor_labels and the `exported_` rules.
    fn add_target_labels(&self, labels: &mut LabelsBuilder) {
        if self.honor_labels {
            for (name, value) in self.target_labels.iter() {
                if !labels.contains(name) {
                    labels.set(name, value);
                }
            }
            return;
        }
        let mut conflicts: Vec<(&str, String)> = Vec::new();
        for (name, value) in self.target_labels.iter() {
            let exposed = labels.get(name);
            if !exposed.is_empty() {
                conflicts.push((name, exposed.to_owned()));
            }
            labels.set(name, value);
        }
        // Shortest name first, so that a label that already begins with exported_ gives way to its longer twin.
        conflicts.sort_by_key(|(name, _)| name.len());
        for (name, value) in conflicts {
            let mut name = format!("exported_{name}");
            while !labels.get(&name).is_empty() {
                name.insert_str(0, "exported_");
            }
            labels.set(&name, &value);
        }
    }

    fn check(&self, labels: &LabelsBuilder) -> Result<(), LineError> {
        let metric = labels.get(METRIC_NAME);
        if metric.is_empty() {
            return Err(LineError::NoName);
        }
        let valid = match self.names {
            NameScheme::Utf8 => {
                let is_utf8 = |text: &str| text.is_ascii() || !text.contains(exposition::is_invalid_byte);
                is_utf8(metric) && labels.iter().all(|(name, _)| !name.is_empty() && is_utf8(name))
            }
            NameScheme::Legacy => {
                series::is_legacy_metric_name(metric)
                    && labels.iter().all(|(name, _)| series::is_legacy_label_name(name))
            }
        };
        if !valid {
            return Err(LineError::BadName(exposition::write_invalid_bytes(&labels.build().to_string())));
        }
        self.check_limits(metric, labels.iter())
    }

    fn check_limits<'a>(
        &self,
        metric: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<(), LineError> {
        let (count, limit) = (labels.clone().count(), self.label_limit);
        if limit > 0 && count as u64 > limit {
            return Err(LineError::TooManyLabels { metric: metric.to_owned(), count, limit });
        }
        self.check_lengths(metric, labels)
    }

    /// The limits on the length of names and values. Also for target labels, whose values are not the class's.
    pub fn check_lengths<'a>(
        &self,
        metric: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), LineError> {
        let over = |text: &str, limit: u64| limit > 0 && text.len() as u64 > limit;
        for (name, value) in labels {
            let metric = || metric.to_owned();
            if over(name, self.label_name_length_limit) {
                let limit = self.label_name_length_limit;
                return Err(LineError::LabelName { metric: metric(), name: name.to_owned(), limit });
            }
            if over(value, self.label_value_length_limit) {
                let (name, value, limit) = (name.to_owned(), value.to_owned(), self.label_value_length_limit);
                return Err(LineError::LabelValue { metric: metric(), name, value, limit });
            }
        }
        Ok(())
    }

    /// The labels that are the line's own: those that the target's labels do not give.
    fn slot_labels(&self, labels: &LabelsBuilder) -> Labels {
        let mut own = labels.clone();
        for (name, value) in self.target_labels.iter() {
            match labels.get(name) {
                "" => own.set_keep_empty(name, ""),
                same if same == value => own.remove(name),
                _ => {}
            }
        }
        own.build()
    }
}

/// The labels of a series: the slot's own, then the target's; empty ones are dropped.
pub fn series_labels(slot: &Labels, target: &Labels) -> Labels {
    let merged = slot.merged(target);
    if merged.iter().all(|(_, value)| !value.is_empty()) {
        return merged;
    }
    Labels::from_sorted(merged.iter().filter(|(_, value)| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_job;

    /// The series that a line becomes, for a target with the labels instance="i" and job="j".
    #[track_caller]
    fn check(settings: &str, exposed: &[(&str, &str)], want: &str) {
        let target = Labels::from_pairs([("instance", "i"), ("job", "j")]);
        let class = Class::new(&test_job(settings), &target);
        let got = match class.outcome(exposed.iter().copied()) {
            Outcome::Keep(own) => series_labels(&own, &target).to_string(),
            Outcome::Drop => "dropped".to_owned(),
            Outcome::Fail(error) => error.to_string(),
        };
        assert_eq!(got, want, "{settings} {exposed:?}");
    }

    #[test]
    fn target_labels_are_added() {
        check("", &[("__name__", "a")], r#"{__name__="a", instance="i", job="j"}"#);
        check("", &[("__name__", "a"), ("x", "")], r#"{__name__="a", instance="i", job="j"}"#);
    }

    #[test]
    fn conflicting_labels_are_exported() {
        check(
            "",
            &[
                ("__name__", "e"),
                ("job", "jj"),
                ("instance", "ii"),
                ("exported_job", "ej"),
                ("exported_exported_job", "eej"),
            ],
            "{__name__=\"e\", exported_exported_exported_job=\"jj\", exported_exported_job=\"eej\", \
             exported_instance=\"ii\", exported_job=\"ej\", instance=\"i\", job=\"j\"}",
        );
        check("", &[("__name__", "e"), ("job", "")], r#"{__name__="e", instance="i", job="j"}"#);
    }

    #[test]
    fn honored_labels_win_even_if_empty() {
        let honor = "honor_labels: true";
        check(honor, &[("__name__", "a"), ("job", "own")], r#"{__name__="a", instance="i", job="own"}"#);
        check(honor, &[("__name__", "a"), ("instance", "")], r#"{__name__="a", job="j"}"#);
        check(honor, &[("__name__", "a"), ("job", "j")], r#"{__name__="a", instance="i", job="j"}"#);
    }

    #[test]
    fn rules_see_and_change_target_labels() {
        let drop = "metric_relabel_configs: [{source_labels: [instance], regex: i, action: drop}]";
        check(drop, &[("__name__", "a")], "dropped");
        let other = "metric_relabel_configs: [{source_labels: [instance], regex: other, action: drop}]";
        check(other, &[("__name__", "a")], r#"{__name__="a", instance="i", job="j"}"#);
        let labeldrop = "metric_relabel_configs: [{regex: instance, action: labeldrop}]";
        check(labeldrop, &[("__name__", "a")], r#"{__name__="a", job="j"}"#);
        let overwrite = "metric_relabel_configs: [{target_label: job, replacement: x}]";
        check(overwrite, &[("__name__", "a")], r#"{__name__="a", instance="i", job="x"}"#);
        let unnamed = "metric_relabel_configs: [{regex: __name__, action: labeldrop}]";
        check(unnamed, &[("__name__", "a")], "missing metric name (__name__ label)");
    }

    #[test]
    fn limits_and_names() {
        let count = "label_limit: 3";
        check(count, &[("__name__", "a")], r#"{__name__="a", instance="i", job="j"}"#);
        check(
            count,
            &[("__name__", "a"), ("b", "1")],
            "label_limit exceeded (metric: a, number of labels: 4, limit: 3)",
        );
        check(
            "label_value_length_limit: 3",
            &[("__name__", "a"), ("b", "1234")],
            "label_value_length_limit exceeded (metric: a, label name: b, value: \"1234\", length: 4, limit: 3)",
        );
        check("", &[("__name__", "a"), ("b", "1"), ("b", "2")], "label name \"b\" is not unique: invalid sample");
        let legacy = "metric_name_validation_scheme: legacy";
        check(
            legacy,
            &[("__name__", "a.b")],
            r#"invalid metric name or label names: {__name__="a.b", instance="\x01", job="\x01"}"#,
        );
    }

    #[test]
    fn targets_share_a_class_unless_rules_look_at_them() {
        let one = Labels::from_pairs([("instance", "1"), ("job", "j")]);
        let two = Labels::from_pairs([("instance", "2"), ("job", "j")]);
        let same = |settings: &str| {
            let job = test_job(settings);
            let (one, two) = (Class::new(&job, &one), Class::new(&job, &two));
            assert_eq!(one.same_as(&two), one.fingerprint() == two.fingerprint());
            one.same_as(&two)
        };
        assert!(same(""));
        assert!(same("metric_relabel_configs: [{source_labels: [__name__], regex: x, action: drop}]"));
        assert!(!same("metric_relabel_configs: [{source_labels: [instance], regex: x, action: drop}]"));
        let other = Labels::from_pairs([("zone", "1"), ("job", "j")]);
        assert!(!Class::new(&test_job(""), &one).same_as(&Class::new(&test_job(""), &other)));
    }
}
