//! A compiled rule.

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
    /// Name of the recorded metric or of the alert.
    pub name: String,
    /// The canonical form of the expression.
    pub expr: String,
    /// Labels of the group and of the rule, before templates.
    pub labels: Labels,
    /// None for a recording rule.
    pub alert: Option<Alerting>,
    /// For each select of the expression, its matchers on the metric name.
    reads: Vec<Vec<Matcher>>,
}

/// Fields of an alerting rule.
#[derive(Debug)]
pub struct Alerting {
    pub hold: Duration,
    pub keep_firing: Duration,
    /// Before templates.
    pub annotations: Labels,
    pub label_templates: Vec<(String, Template)>,
    pub annotation_templates: Vec<(String, Template)>,
}

impl Rule {
    /// Compiles a rule. Errors have their source location.
    pub fn compile(
        spec: &RuleSpec,
        group: &config::RuleGroup,
        number: usize,
        file: &Path,
        parse: &ParseOptions,
    ) -> Result<Rule, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let here = format!("group {:?}, rule {number}, {:?}", group.name, spec.name);
        let mut refuse = |place: config::SourceLocation, message: String| {
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
                    reads = plan.selects().iter().map(name_matchers).collect();
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

    /// Returns whether its expression may select series that `other` writes.
    pub fn may_read(&self, other: &Rule) -> bool {
        let written: &[&str] = if other.alert.is_some() { &[ALERTS, ALERTS_FOR_STATE] } else { &[&other.name] };
        let may = |matchers: &Vec<Matcher>| written.iter().any(|name| matchers.iter().all(|m| m.matches(name)));
        self.reads.iter().any(may)
    }

    /// Returns everything that the rule's behaviour depends on: equal for rules that a reload may leave as they are.
    pub fn fingerprint(&self) -> String {
        let alert = self.alert.as_ref().map(|alert| (alert.hold, alert.keep_firing, alert.annotations.to_string()));
        format!("{:?} {:?} {} {alert:?}", self.name, self.expr, self.labels)
    }
}

fn name_matchers(select: &Select) -> Vec<Matcher> {
    select.matchers.iter().filter(|matcher| matcher.name() == METRIC_NAME).cloned().collect()
}
