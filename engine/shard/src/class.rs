//! From one line's text to the series it is: honor_labels, `exported_`, metric relabelling, label limits.
//!
//! The outcome depends on the line and on a few traits of the target: the names of its labels, its job's rules and
//! limits. Targets alike in these share a [`Class`], and with it every outcome. Their label values matter only if the
//! rules read them; then the class is the target's own.
//!
//! Invariants:
//!   * a slot's labels and its target's labels, merged with the slot's winning and empty ones dropped, are the series'
//!     labels; an empty slot label stands for "the target's label does not apply here"

use config::{NameScheme, ScrapeConfig};
use series::{Labels, LabelsBuilder, METRIC_NAME};
use std::fmt;

use crate::status::Reason;

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
    TooManyLabels { metric: String, count: usize, limit: u64 },
    LabelName { metric: String, name: String, limit: u64 },
    LabelValue { metric: String, name: String, value: String, limit: u64 },
}

impl LineError {
    pub fn reason(&self) -> Reason {
        match self {
            LineError::NoName | LineError::BadName(_) => Reason::Name,
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
        let private = !job.metric_relabel_configs.is_empty()
            && match job.metric_relabel_configs.label_use() {
                relabel::LabelUse::All => true,
                relabel::LabelUse::Names(used) => target_labels.iter().any(|(name, _)| used.contains(name)),
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
        limits(self) == limits(other)
            && self.target_labels == other.target_labels
            && self.rules == other.rules
    }

    /// Equal for classes that are the same; for finding one among many.
    pub fn fingerprint(&self) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        (self.honor_labels, self.label_limit, &self.target_labels).hash(&mut hasher);
        hasher.finish()
    }

    /// What becomes of a line with these labels (metric name included; of equal names the last one counts).
    pub fn outcome<'a>(&self, exposed: impl IntoIterator<Item = (&'a str, &'a str)>) -> Outcome {
        let mut labels = LabelsBuilder::default();
        for (name, value) in exposed {
            labels.set_keep_empty(name, value);
        }
        self.add_target_labels(&mut labels);
        labels.retain(|_, value| !value.is_empty());
        if !self.rules.is_empty() && !self.rules.apply(&mut labels) {
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
            NameScheme::Utf8 => true,
            NameScheme::Legacy => {
                series::is_legacy_metric_name(metric)
                    && labels.iter().all(|(name, _)| series::is_legacy_label_name(name))
            }
        };
        if !valid {
            return Err(LineError::BadName(labels.build().to_string()));
        }
        self.check_limits(metric, labels.iter())
    }

    /// The label limits, in Prometheus' order. Also for target labels, whose values are not the class's.
    pub fn check_limits<'a>(
        &self,
        metric: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<(), LineError> {
        let over = |value: usize, limit: u64| limit > 0 && value as u64 > limit;
        let metric = || metric.to_owned();
        let count = labels.clone().count();
        if over(count, self.label_limit) {
            return Err(LineError::TooManyLabels { metric: metric(), count, limit: self.label_limit });
        }
        for (name, value) in labels {
            if over(name.len(), self.label_name_length_limit) {
                let limit = self.label_name_length_limit;
                return Err(LineError::LabelName { metric: metric(), name: name.to_owned(), limit });
            }
            if over(value.len(), self.label_value_length_limit) {
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
