//! One rule, compiled.

use config::{ConfigError, RuleSpec};
use promql::{ParseOptions, Plan, PlanOptions, Select};
use series::{Labels, METRIC_NAME, Matcher};
use std::path::Path;
use std::time::Duration;
use template::Template;

pub const ALERTS: &str = "ALERTS";
pub const ALERTS_FOR_STATE: &str = "ALERTS_FOR_STATE";
pub const ALERT_NAME: &str = "alertname";
pub const ALERT_STATE: &str = "alertstate";

/// A rule that can be evaluated.
#[derive(Debug)]
pub struct Rule {
    /// Of the recorded metric or of the alert.
    pub name: String,
    /// The canonical form of the expression.
    pub expr: String,
    /// The group's and its own, as written.
    pub labels: Labels,
    /// None: the rule records.
    pub alert: Option<Alerting>,
    /// What its name selectors may read: of each select the matchers on the name.
    reads: Vec<Vec<Matcher>>,
}

/// What makes a rule alert.
#[derive(Debug)]
pub struct Alerting {
    pub hold: Duration,
    pub keep_firing: Duration,
    /// As written.
    pub annotations: Labels,
    pub label_templates: Vec<(String, Template)>,
    pub annotation_templates: Vec<(String, Template)>,
}

impl Rule {
    /// Compiles what is written; mistakes come with their place.
    pub fn compile(
        spec: &RuleSpec,
        group: &config::RuleGroup,
        number: usize,
        file: &Path,
        parse: &ParseOptions,
    ) -> Result<Rule, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let here = format!("group {:?}, rule {number}, {:?}", group.name, spec.name);
        let mut refuse = |place: config::Place, message: String| {
            errors.push(ConfigError {
                file: file.to_owned(),
                line: place.line,
                column: place.column,
                path: String::new(),
                message: format!("{here}: {message}"),
            });
        };
        let mut expr = String::new();
        let mut reads = Vec::new();
        match promql::parse(&spec.expr, parse) {
            Err(error) => refuse(spec.expr_place, format!("could not parse expression: {error}")),
            Ok(parsed) => {
                expr = parsed.to_string();
                let options = PlanOptions { parse: *parse, ..PlanOptions::default() };
                if let Ok(plan) = Plan::instant(&spec.expr, 0, &options) {
                    reads = plan.selects().iter().map(on_name).collect();
                }
            }
        }
        let mut labels = Labels::empty().to_builder();
        for (name, value) in group.labels.iter().chain(&spec.labels) {
            labels.set_keep_empty(name, value);
        }
        let labels = labels.build();
        let mut alert = None;
        if spec.is_alert {
            let mut templates = |list: &mut dyn Iterator<Item = (&str, &str)>, what: &str, place| {
                let mut compiled = Vec::new();
                for (name, text) in list {
                    match Template::parse(&format!("__alert_{}", spec.name), text) {
                        Ok(template) => compiled.push((name.to_owned(), template)),
                        Err(error) => refuse(place, format!("{what} {name:?}: {error}")),
                    }
                }
                compiled
            };
            let annotations = Labels::from_pairs(spec.annotations.iter().map(|(name, text)| (name, text)));
            alert = Some(Alerting {
                hold: spec.hold,
                keep_firing: spec.keep_firing,
                label_templates: templates(&mut labels.iter(), "label", spec.labels_place),
                annotation_templates: templates(&mut annotations.iter(), "annotation", spec.annotations_place),
                annotations: annotations.clone(),
            });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Rule { name: spec.name.clone(), expr, labels, alert, reads })
    }

    /// Whether its expression may select what `other` writes.
    pub fn may_read(&self, other: &Rule) -> bool {
        let written: &[&str] = if other.alert.is_some() { &[ALERTS, ALERTS_FOR_STATE] } else { &[&other.name] };
        let may = |matchers: &Vec<Matcher>| written.iter().any(|name| matchers.iter().all(|m| m.matches(name)));
        self.reads.iter().any(may)
    }

    /// Everything that decides what it does: equal for rules between which a reload changes nothing.
    pub fn fingerprint(&self) -> String {
        let alert = self.alert.as_ref().map(|alert| (alert.hold, alert.keep_firing, alert.annotations.to_string()));
        format!("{:?} {:?} {} {alert:?}", self.name, self.expr, self.labels)
    }
}

fn on_name(select: &Select) -> Vec<Matcher> {
    select.matchers.iter().filter(|matcher| matcher.name() == METRIC_NAME).cloned().collect()
}
