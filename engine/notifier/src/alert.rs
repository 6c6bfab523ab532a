//! An alert as it is sent to an Alertmanager, and its relabelling.

use relabel::Program;
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};
use series::{Labels, Rfc3339, Timestamp};

/// An alert that fires or has been resolved. It serializes to the form of the Alertmanager's API v2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Identity of the alert; contains `alertname`.
    pub labels: Labels,
    /// Texts for the receivers of notifications.
    pub annotations: Labels,
    /// When it began to fire.
    pub starts_at: Timestamp,
    /// When it was resolved. For a firing alert, the time at which the Alertmanager resolves it unless it is sent again.
    pub ends_at: Timestamp,
    /// Address of the page that shows the expression.
    pub generator_url: String,
}

impl Alert {
    /// Returns whether it is resolved at `now`.
    pub fn is_resolved(&self, now: Timestamp) -> bool {
        self.ends_at <= now
    }

    /// Returns the alert with `external` added to its labels and the rules applied to them, or `None` if the rules drop
    /// it. Its own labels win over external ones.
    pub(crate) fn relabelled(&self, external: &Labels, rules: &Program) -> Option<Alert> {
        let mut labels = self.labels.to_builder();
        for (name, value) in external.iter() {
            if labels.get(name).is_empty() {
                labels.set(name, value);
            }
        }
        if !rules.apply(&mut labels).is_keep() {
            return None;
        }
        // An Alertmanager rejects empty values.
        labels.retain(|_, value| !value.is_empty());
        Some(Alert { labels: labels.build(), ..self.clone() })
    }
}

/// Serializes labels as a JSON object.
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
