//! An alert as it goes to an Alertmanager, and the label rules that it passes on its way.

use relabel::Program;
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};
use series::{Labels, Rfc3339, Timestamp};

/// What an Alertmanager is told: that this fires, or that it is over.
///
/// Written as the API v2 wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// `alertname` among them; they are the alert's identity.
    pub labels: Labels,
    /// Texts for people.
    pub annotations: Labels,
    /// When it began to fire.
    pub starts_at: Timestamp,
    /// When it was resolved; of one that fires, until when that holds if nothing more is heard of it.
    pub ends_at: Timestamp,
    /// Where a person sees the expression.
    pub generator_url: String,
}

impl Alert {
    /// Whether it is over at `now`.
    pub fn is_resolved(&self, now: Timestamp) -> bool {
        self.ends_at <= now
    }

    /// The alert with the labels that `external` adds to those it has, and what the rules make of them. `None` if they
    /// drop it.
    pub(crate) fn relabelled(&self, external: &Labels, rules: &Program) -> Option<Alert> {
        let mut labels = self.labels.to_builder();
        for (name, value) in external.iter() {
            if labels.get(name).is_empty() {
                labels.set(name, value);
            }
        }
        if !rules.apply(&mut labels).is_kept() {
            return None;
        }
        // An Alertmanager refuses empty values.
        labels.retain(|_, value| !value.is_empty());
        Some(Alert { labels: labels.build(), ..self.clone() })
    }
}

/// Labels as a JSON object.
struct Object<'a>(&'a Labels);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Serialize for Alert {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Alert", 5)?;
        fields.serialize_field("annotations", &Object(&self.annotations))?;
        fields.serialize_field("endsAt", &Rfc3339(self.ends_at).to_string())?;
        fields.serialize_field("startsAt", &Rfc3339(self.starts_at).to_string())?;
        fields.serialize_field("generatorURL", &self.generator_url)?;
        fields.serialize_field("labels", &Object(&self.labels))?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(labels: &[(&str, &str)]) -> Alert {
        Alert {
            labels: Labels::from_pairs(labels.iter().copied()),
            annotations: Labels::from_pairs([("summary", "a \"b\"")]),
            starts_at: Timestamp(1_000),
            ends_at: Timestamp(2_500),
            generator_url: "http://h/graph".to_owned(),
        }
    }

    #[test]
    fn written_as_the_api_wants_it() {
        assert_eq!(
            serde_json::to_string(&alert(&[("alertname", "A")])).unwrap(),
            r#"{"annotations":{"summary":"a \"b\""},"endsAt":"1970-01-01T00:00:02.5Z","startsAt":"1970-01-01T00:00:01Z","generatorURL":"http://h/graph","labels":{"alertname":"A"}}"#
        );
    }

    #[track_caller]
    fn check(rules: &str, labels: &[(&str, &str)], want: Option<&str>) {
        let yaml = format!("alerting:\n  alert_relabel_configs: {rules}\n");
        let config = config::parse_config("prometheus.yml".as_ref(), &yaml, &config::Env::process()).unwrap();
        let external = Labels::from_pairs([("region", "r"), ("replica", "a")]);
        let got = alert(labels).relabelled(&external, &config.alerting.alert_relabel_configs);
        assert_eq!(got.map(|alert| alert.labels.to_string()).as_deref(), want);
    }

    #[test]
    fn external_labels_are_added_and_rules_applied() {
        check("[]", &[("alertname", "A")], Some(r#"{alertname="A", region="r", replica="a"}"#));
        check("[]", &[("region", "own")], Some(r#"{region="own", replica="a"}"#));
        check("[{regex: replica, action: labeldrop}]", &[("alertname", "A")], Some(r#"{alertname="A", region="r"}"#));
        check("[{source_labels: [alertname], regex: A, action: drop}]", &[("alertname", "A")], None);
    }

    #[test]
    fn an_end_that_has_passed_resolves() {
        let alert = alert(&[]);
        assert!(!alert.is_resolved(Timestamp(2_499)));
        assert!(alert.is_resolved(Timestamp(2_500)));
    }
}
