//! Rule files: Prometheus' groups, read as strictly as prometheus.yml.
//!
//! Expressions and templates are not parsed here; each has its [`SourceLocation`], so that errors of compiling it can
//! refer to it.
//!
//! Invariants:
//!   * a group's name is unique in its file, and a rule either records or alerts
//!   * every name of a label or annotation is valid

use crate::decode::{Context, Fields, Step, Value};
use crate::errors::{ConfigError, ConfigErrors, ERRORS_MAX};
use crate::yaml::{Kind, Node, SourceLocation, parse};
use relabel::NameScheme;
use series::METRIC_NAME;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// A file with its groups, in order.
#[derive(Clone, Debug)]
pub struct RuleFile {
    pub path: PathBuf,
    pub groups: Vec<RuleGroup>,
}

/// Rules that are evaluated one after the other, at the same times.
#[derive(Clone, Debug)]
pub struct RuleGroup {
    pub name: String,
    /// Default: `global.evaluation_interval`.
    pub interval: Option<Duration>,
    /// How far into the past the rules look. Default: `global.rule_query_offset`.
    pub query_offset: Option<Duration>,
    /// Alerts or series that a rule may yield. 0, the default: no limit.
    pub limit: usize,
    /// Labels of every rule that does not set them itself.
    pub labels: Vec<(String, String)>,
    pub rules: Vec<RuleSpec>,
    pub place: SourceLocation,
}

/// One rule as it is written.
#[derive(Clone, Debug)]
pub struct RuleSpec {
    /// Of the recorded metric or of the alert.
    pub name: String,
    pub is_alert: bool,
    pub expr: String,
    /// How long an alert is pending. Default 0s.
    pub hold: Duration,
    /// How long an alert goes on after its condition has ended. Default 0s.
    pub keep_firing: Duration,
    /// Own labels, in the order of their names; templates, if the rule alerts.
    pub labels: Vec<(String, String)>,
    /// Templates.
    pub annotations: Vec<(String, String)>,
    pub place: SourceLocation,
    pub expr_place: SourceLocation,
    pub labels_place: SourceLocation,
    pub annotations_place: SourceLocation,
}

/// Reads a rule file.
pub fn load_rules(path: &Path, scheme: NameScheme) -> Result<RuleFile, ConfigErrors> {
    parse_rules(path, &crate::load::read_regular(path)?, scheme)
}

/// The same for a text that is at hand, as if `path` held it.
pub fn parse_rules(path: &Path, text: &str, scheme: NameScheme) -> Result<RuleFile, ConfigErrors> {
    let cx = Context::new(path, path.parent().unwrap_or(Path::new("/")), scheme);
    let groups = match parse(text) {
        Ok(node) => Fields::of(&node, &cx, "a rule file").map(|mut fields| {
            let groups = fields.take_node("groups");
            let groups = cx.within(Step::Key("groups"), || read_groups(groups, &cx));
            fields.finish("a rule file");
            groups
        }),
        Err((mark, message)) => {
            cx.refuse(mark, message);
            None
        }
    };
    let errors = cx.into_errors();
    match groups {
        Some(groups) if errors.is_empty() => Ok(RuleFile { path: path.to_owned(), groups }),
        _ => Err(ConfigErrors(errors)),
    }
}

/// Refusals of what stands in rule files, from those who compile it; up to the bound of a load.
pub fn refusals(mut errors: Vec<ConfigError>) -> ConfigErrors {
    errors.truncate(ERRORS_MAX);
    ConfigErrors(errors)
}

/// The items of a list that may be absent.
fn items<'a>(node: Option<&'a Node>, cx: &Context, what: &str) -> &'a [Rc<Node>] {
    match node.map(|node| (&node.kind, node)) {
        None | Some((Kind::Null, _)) => &[],
        Some((Kind::List(items), _)) => items,
        Some((_, node)) => {
            cx.refuse(
                node.mark,
                format!("cannot unmarshal {} into a list of {what}; write each as `- ..`", node.tag()),
            );
            &[]
        }
    }
}

fn read_groups(node: Option<&Node>, cx: &Context) -> Vec<RuleGroup> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let read = |(index, item): (usize, &Rc<Node>)| {
        cx.within(Step::Index(index), || {
            let group = read_group(item, cx)?;
            if let Some(first) = seen.insert(group.name.clone(), item.mark.line) {
                let message = format!(
                    "groupname: {:?} is repeated in the same file; the first is in line {first}, rename one",
                    group.name
                );
                cx.refuse(item.mark, message);
            }
            Some(group)
        })
    };
    items(node, cx, "groups").iter().enumerate().filter_map(read).collect()
}

fn read_group(node: &Node, cx: &Context) -> Option<RuleGroup> {
    let mut fields = Fields::of(node, cx, "a rule group")?;
    let name: String = fields.take("name").unwrap_or_default();
    if name.is_empty() {
        fields.refuse("name", "Groupname must not be empty; name the group");
    }
    let limit: i64 = fields.take("limit").unwrap_or_default();
    let group = RuleGroup {
        interval: fields.take("interval").filter(|interval: &Duration| !interval.is_zero()),
        query_offset: fields.take("query_offset"),
        limit: usize::try_from(limit).unwrap_or(0),
        labels: read_labels(&mut fields, "labels", "label"),
        rules: {
            let rules = fields.take_node("rules");
            let read =
                |(index, item): (usize, &Rc<Node>)| cx.within(Step::Index(index), || read_rule(item, &name, index, cx));
            cx.within(Step::Key("rules"), || items(rules, cx, "rules").iter().enumerate().filter_map(read).collect())
        },
        place: node.mark,
        name,
    };
    fields.finish("a rule group");
    Some(group)
}

/// Names and values, the names valid.
fn read_labels(fields: &mut Fields, field: &'static str, what: &str) -> Vec<(String, String)> {
    let node = fields.take_node(field);
    let cx = fields.cx;
    let Some(node) = node.filter(|node| !matches!(node.kind, Kind::Null)) else { return Vec::new() };
    cx.within(Step::Key(field), || {
        if let Kind::Map(entries) = &node.kind {
            for (key, _) in entries {
                let name = key.text().unwrap_or_default();
                if !cx.scheme.get().is_valid(name) || what == "label" && name == METRIC_NAME {
                    cx.refuse(key.mark, format!("invalid {what} name: {name}; rename it"));
                }
            }
        }
        Value::read(node, cx).unwrap_or_default()
    })
}

fn read_rule(node: &Node, group: &str, index: usize, cx: &Context) -> Option<RuleSpec> {
    let mut fields = Fields::of(node, cx, "a rule")?;
    let place = |fields: &mut Fields, name| fields.take_node(name).map_or(node.mark, |node| node.mark);
    let record: String = fields.take("record").unwrap_or_default();
    let alert: String = fields.take("alert").unwrap_or_default();
    let is_alert = !alert.is_empty();
    let name = if is_alert { alert.clone() } else { record.clone() };
    let here = format!("group {group:?}, rule {}, {name:?}", index + 1);
    let rule = RuleSpec {
        is_alert,
        expr_place: place(&mut fields, "expr"),
        labels_place: place(&mut fields, "labels"),
        annotations_place: place(&mut fields, "annotations"),
        expr: fields.take("expr").unwrap_or_default(),
        hold: fields.take("for").unwrap_or_default(),
        keep_firing: fields.take("keep_firing_for").unwrap_or_default(),
        labels: read_labels(&mut fields, "labels", "label"),
        annotations: read_labels(&mut fields, "annotations", "annotation"),
        place: node.mark,
        name,
    };
    match (record.is_empty(), alert.is_empty()) {
        (false, false) => fields.refuse("alert", &format!("{here}: only one of 'record' and 'alert' must be set")),
        (true, true) => {
            let message = format!("group {group:?}, rule {}: one of 'record' or 'alert' must be set", index + 1);
            cx.refuse(node.mark, message);
        }
        _ => {}
    }
    if rule.expr.is_empty() && (!fields.has("expr") || fields.text("expr").is_some()) {
        fields.refuse("expr", &format!("{here}: field 'expr' must be set in rule"));
    }
    if !record.is_empty() {
        if !rule.annotations.is_empty() {
            fields.refuse("annotations", &format!("{here}: invalid field 'annotations' in recording rule"));
        }
        if !rule.hold.is_zero() {
            fields.refuse("for", &format!("{here}: invalid field 'for' in recording rule"));
        }
        if !rule.keep_firing.is_zero() {
            fields.refuse("keep_firing_for", &format!("{here}: invalid field 'keep_firing_for' in recording rule"));
        }
        let legacy = cx.scheme.get() == NameScheme::Legacy;
        if record.contains(['{', '}']) {
            let message = format!("{here}: braces present in the recording rule name; should it be in expr?: {record}");
            fields.refuse("record", &message);
        } else if legacy && !series::is_legacy_metric_name(&record) {
            fields.refuse("record", &format!("{here}: invalid recording rule name: {record}"));
        }
    }
    fields.finish("a rule");
    Some(rule)
}
