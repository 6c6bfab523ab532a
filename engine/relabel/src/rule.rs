//! One relabelling rule: its specification, validation, compilation and effect on a label set.

use crate::Verdict;
use crate::case_mapping;
use md5::{Digest, Md5};
use series::{Groups, LabelsBuilder, Regex, Replacement, is_legacy_label_name};
use std::fmt;
use std::fmt::Write;
use std::sync::LazyLock;

const SEPARATOR: &str = ";";
const REGEX: &str = "(.*)";
const REPLACEMENT: &str = "$1";

/// A rule as a file specifies it. `None` and empty mean that the field is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleSpec {
    /// Labels whose joined values are the input of the rule. An empty name, which a null in a file gives, has no value.
    pub source_labels: Vec<String>,
    /// Text between the joined values. Default `;`.
    pub separator: Option<String>,
    /// Label to compare with or to write. It may contain `$1` if the action is `replace`.
    pub target_label: String,
    /// Anchored expression. Default `(.*)`. `regex:` without a value is an empty expression, `Some("")`.
    pub regex: Option<String>,
    /// Divisor of `hashmod`. 0: absent.
    pub modulus: u64,
    /// Value to write. Default `$1`.
    pub replacement: Option<String>,
    /// Name of the action, in upper or lower case. Default `replace`.
    pub action: Option<String>,
}

/// The rule for valid label names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NameScheme {
    /// Any text but the empty one.
    #[default]
    Utf8,
    /// `[a-zA-Z_][a-zA-Z0-9_]*`
    Legacy,
}

/// The effect of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

/// Why a rule was rejected, with the error text of Prometheus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuleError {
    /// Name of the field at fault, which may be absent.
    pub field: &'static str,
    pub message: String,
}

/// A compiled rule. Two are equal if their specs and name schemes are.
#[derive(Clone, Debug)]
pub struct Rule {
    spec: RuleSpec,
    scheme: NameScheme,
    action: Action,
    regex: Regex,
    target: Replacement,
    replacement: Replacement,
}

/// Buffers that all rules of one run share.
#[derive(Default)]
pub(crate) struct Scratch {
    joined: String,
    target: String,
    value: String,
    groups: Groups,
}

impl NameScheme {
    /// Returns whether a label may have this name.
    pub fn is_valid(self, name: &str) -> bool {
        match self {
            NameScheme::Utf8 => !name.is_empty(),
            NameScheme::Legacy => is_legacy_label_name(name),
        }
    }

    /// Returns whether this template can expand to a valid label name. With UTF-8 names every template can.
    fn is_valid_template(self, template: &str) -> bool {
        static LEGACY: LazyLock<Regex> =
            LazyLock::new(|| Regex::new("(?:(?:[a-zA-Z_]|\\$(?:\\{\\w+\\}|\\w+))+\\w*)+").expect("a valid expression"));
        match self {
            NameScheme::Utf8 => !template.is_empty(),
            NameScheme::Legacy => LEGACY.is_match(template),
        }
    }
}

impl Action {
    const ALL: [Action; 11] = [
        Action::Replace,
        Action::Keep,
        Action::Drop,
        Action::KeepEqual,
        Action::DropEqual,
        Action::HashMod,
        Action::LabelMap,
        Action::LabelDrop,
        Action::LabelKeep,
        Action::Lowercase,
        Action::Uppercase,
    ];

    /// Returns the name in a file.
    pub fn name(self) -> &'static str {
        match self {
            Action::Replace => "replace",
            Action::Keep => "keep",
            Action::Drop => "drop",
            Action::KeepEqual => "keepequal",
            Action::DropEqual => "dropequal",
            Action::HashMod => "hashmod",
            Action::LabelMap => "labelmap",
            Action::LabelDrop => "labeldrop",
            Action::LabelKeep => "labelkeep",
            Action::Lowercase => "lowercase",
            Action::Uppercase => "uppercase",
        }
    }

    fn needs_target(self) -> bool {
        match self {
            Action::Replace
            | Action::KeepEqual
            | Action::DropEqual
            | Action::HashMod
            | Action::Lowercase
            | Action::Uppercase => true,
            Action::Keep | Action::Drop | Action::LabelMap | Action::LabelDrop | Action::LabelKeep => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Rule {
    /// Validates and compiles a rule. `scheme` is the validation scheme for label names of the job.
    ///
    /// # Errors
    /// The first mistake, in the order in which Prometheus checks.
    pub fn compile(spec: RuleSpec, scheme: NameScheme) -> Result<Rule, RuleError> {
        let regex = match spec.regex.as_deref() {
            None | Some(REGEX) => default_regex(),
            Some(source) => Regex::new(source).map_err(|error| refused("regex", error.to_string()))?,
        };
        let action = match spec.action.as_deref() {
            None => Action::Replace,
            Some(given) => {
                let is_given = |action: &Action| action.name() == given.to_lowercase();
                let unknown = || refused("action", format!("unknown relabel action {given:?}"));
                Action::ALL.into_iter().find(is_given).ok_or_else(unknown)?
            }
        };
        check(&spec, action, scheme)?;
        let replacement = Replacement::parse(spec.replacement.as_deref().unwrap_or(REPLACEMENT), &regex);
        let target = Replacement::parse(&spec.target_label, &regex);
        Ok(Rule { spec, scheme, action, regex, target, replacement })
    }

    /// Returns the specification that the rule was compiled from.
    pub fn spec(&self) -> &RuleSpec {
        &self.spec
    }

    /// Returns the validation scheme of label names.
    pub fn scheme(&self) -> NameScheme {
        self.scheme
    }

    /// Returns the action.
    pub fn action(&self) -> Action {
        self.action
    }

    /// Returns the names of the source labels.
    pub fn source_labels(&self) -> &[String] {
        &self.spec.source_labels
    }

    /// Returns the separator, or its default.
    pub fn separator(&self) -> &str {
        self.spec.separator.as_deref().unwrap_or(SEPARATOR)
    }

    /// Returns the text of the expression, or its default, without anchors.
    pub fn regex(&self) -> &str {
        self.regex.source()
    }

    /// Returns the target label, or "" if there is none.
    pub fn target_label(&self) -> &str {
        &self.spec.target_label
    }

    /// Returns the replacement, or its default.
    pub fn replacement(&self) -> &str {
        self.spec.replacement.as_deref().unwrap_or(REPLACEMENT)
    }

    /// Returns the divisor, or 0 if there is none.
    pub fn modulus(&self) -> u64 {
        self.spec.modulus
    }

    pub(crate) fn apply(&self, labels: &mut LabelsBuilder, scratch: &mut Scratch) -> Verdict {
        let keep_if = |kept: bool| if kept { Verdict::Keep } else { Verdict::Drop };
        let target = &*self.spec.target_label;
        match self.action {
            Action::Keep => return keep_if(self.regex.is_match(self.source(labels, &mut scratch.joined))),
            Action::Drop => return keep_if(!self.regex.is_match(self.source(labels, &mut scratch.joined))),
            Action::KeepEqual => return keep_if(labels.get(target) == self.source(labels, &mut scratch.joined)),
            Action::DropEqual => return keep_if(labels.get(target) != self.source(labels, &mut scratch.joined)),
            Action::Replace => self.replace(labels, scratch),
            Action::HashMod => {
                let hash = Md5::digest(self.source(labels, &mut scratch.joined));
                let low: [u8; 8] = hash[8..].try_into().expect("MD5 has 16 bytes");
                scratch.value.clear();
                let part = u64::from_be_bytes(low) % self.spec.modulus;
                write!(scratch.value, "{part}").expect("a string takes everything");
                labels.set(target, &scratch.value);
            }
            Action::Lowercase | Action::Uppercase => {
                let push =
                    if self.action == Action::Lowercase { case_mapping::push_lower } else { case_mapping::push_upper };
                scratch.value.clear();
                push(self.source(labels, &mut scratch.joined), &mut scratch.value);
                labels.set(target, &scratch.value);
            }
            Action::LabelMap => self.map_names(labels),
            Action::LabelDrop => labels.retain(|name, _| !self.regex.is_match(name)),
            Action::LabelKeep => labels.retain(|name, _| self.regex.is_match(name)),
        }
        Verdict::Keep
    }

    /// Returns the joined values of the source labels. The value of a single label is not copied.
    fn source<'a>(&self, labels: &'a LabelsBuilder, joined: &'a mut String) -> &'a str {
        match &*self.spec.source_labels {
            [] => "",
            [name] => labels.get(name),
            names => {
                joined.clear();
                for (i, name) in names.iter().enumerate() {
                    if i > 0 {
                        joined.push_str(self.separator());
                    }
                    joined.push_str(labels.get(name));
                }
                joined
            }
        }
    }

    fn replace(&self, labels: &mut LabelsBuilder, scratch: &mut Scratch) {
        let source = self.source(labels, &mut scratch.joined);
        if let (Some(target), Some(value)) = (self.target.constant(), self.replacement.constant()) {
            if self.regex.is_match(source) && self.scheme.is_valid(target) {
                labels.set(target, value);
            }
            return;
        }
        if !self.regex.find_groups(source, &mut scratch.groups) {
            return;
        }
        let target = self.target.expand(source, &scratch.groups, &mut scratch.target);
        if !self.scheme.is_valid(target) {
            return;
        }
        // Copied, because both may borrow from the labels that are changed.
        scratch.value.clear();
        self.replacement.append(source, &scratch.groups, &mut scratch.value);
        match self.target.constant() {
            Some(target) => labels.set(target, &scratch.value),
            None => {
                let target = target.to_owned();
                labels.set(&target, &scratch.value);
            }
        }
    }

    fn map_names(&self, labels: &mut LabelsBuilder) {
        let is_mapped = |(name, value): &(&str, &str)| !value.is_empty() && self.regex.is_match(name);
        let mapped = |(name, value): (&str, &str)| {
            let expand = |groups: &Groups, out: &mut String| self.replacement.append(name, groups, out);
            (self.regex.replace_all(name, expand), value.to_owned())
        };
        let copies: Vec<(String, String)> = labels.iter().filter(is_mapped).map(mapped).collect();
        for (name, value) in copies {
            labels.set(&name, &value);
        }
    }

    /// Returns whether the rule can change the label `name` of any label set.
    pub(crate) fn may_write(&self, name: &str) -> bool {
        match self.action {
            Action::Keep | Action::Drop | Action::KeepEqual | Action::DropEqual => false,
            Action::Replace => self.target.constant().is_none_or(|target| target == name),
            Action::HashMod | Action::Lowercase | Action::Uppercase => self.spec.target_label == name,
            // Any label may be mapped to this name, unless all are mapped to one other name.
            Action::LabelMap => self.replacement.constant().is_none_or(|target| target == name),
            Action::LabelDrop => self.regex.is_match(name),
            Action::LabelKeep => !self.regex.is_match(name),
        }
    }

    /// Calls `list` with every label that the rule can read or write. Returns false if that may be any label.
    pub(crate) fn list_labels(&self, list: &mut impl FnMut(&str)) -> bool {
        match self.action {
            Action::LabelMap | Action::LabelDrop | Action::LabelKeep => return false,
            Action::Replace => match self.target.constant() {
                // An invalid name is not written.
                Some(target) if self.scheme.is_valid(target) => list(target),
                Some(_) => {}
                None => return false,
            },
            Action::KeepEqual | Action::DropEqual | Action::HashMod | Action::Lowercase | Action::Uppercase => {
                list(&self.spec.target_label);
            }
            Action::Keep | Action::Drop => {}
        }
        self.spec.source_labels.iter().filter(|name| !name.is_empty()).for_each(|name| list(name));
        true
    }
}

fn default_regex() -> Regex {
    static DEFAULT: LazyLock<Regex> = LazyLock::new(|| Regex::new(REGEX).expect("a valid expression"));
    DEFAULT.clone()
}

fn refused(field: &'static str, message: String) -> RuleError {
    RuleError { field, message }
}

/// Validates in the order in which Prometheus does, so that of two mistakes the same one is reported.
fn check(spec: &RuleSpec, action: Action, scheme: NameScheme) -> Result<(), RuleError> {
    let target = &*spec.target_label;
    let replacement = spec.replacement.as_deref().unwrap_or(REPLACEMENT);
    if action == Action::HashMod && spec.modulus == 0 {
        let message = "relabel configuration for hashmod requires non-zero modulus";
        return Err(refused("modulus", message.to_owned()));
    }
    if action.needs_target() && target.is_empty() {
        let message = format!("relabel configuration for {action} action requires 'target_label' value");
        return Err(refused("target_label", message));
    }
    let target_is_valid = match action {
        Action::Replace if target.contains('$') => scheme.is_valid_template(target),
        _ => !action.needs_target() || scheme.is_valid(target),
    };
    if !target_is_valid {
        return Err(refused("target_label", format!("{target:?} is invalid 'target_label' for {action} action")));
    }
    let fixed_replacement =
        matches!(action, Action::Lowercase | Action::Uppercase | Action::KeepEqual | Action::DropEqual);
    if fixed_replacement && replacement != REPLACEMENT {
        return Err(refused("replacement", format!("'replacement' can not be set for {action} action")));
    }
    if action == Action::LabelMap && !scheme.is_valid_template(replacement) {
        return Err(refused("replacement", format!("{replacement:?} is invalid 'replacement' for {action} action")));
    }

    let separator_given = spec.separator.as_deref().is_some_and(|separator| separator != SEPARATOR);
    let superfluous =
        |fields: &[(&'static str, bool)]| fields.iter().find(|(_, given)| *given).map(|(field, _)| *field);
    match action {
        Action::KeepEqual | Action::DropEqual => {
            // An expression that equals the default is still present.
            let fields =
                [("regex", spec.regex.is_some()), ("modulus", spec.modulus != 0), ("separator", separator_given)];
            superfluous(&fields).map_or(Ok(()), |field| {
                let message =
                    format!("{action} action requires only 'source_labels' and `target_label`, and no other fields");
                Err(refused(field, message))
            })
        }
        Action::LabelDrop | Action::LabelKeep => {
            let fields = [
                ("source_labels", !spec.source_labels.is_empty()),
                ("target_label", !target.is_empty()),
                ("modulus", spec.modulus != 0),
                ("separator", separator_given),
                ("replacement", replacement != REPLACEMENT),
            ];
            superfluous(&fields).map_or(Ok(()), |field| {
                Err(refused(field, format!("{action} action requires only 'regex', and no other fields")))
            })
        }
        _ => Ok(()),
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.spec == other.spec && self.scheme == other.scheme
    }
}

impl Eq for Rule {}

impl fmt::Display for Rule {
    /// Writes the rule as one line of YAML: the fields that are present, and always the action.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.spec;
        f.write_str("{")?;
        if !spec.source_labels.is_empty() {
            f.write_str("source_labels: [")?;
            for (i, name) in spec.source_labels.iter().enumerate() {
                f.write_str(if i > 0 { ", " } else { "" })?;
                if name.is_empty() {
                    f.write_str("null")?;
                } else {
                    write_quoted(name, f)?;
                }
            }
            f.write_str("], ")?;
        }
        let target = Some(&spec.target_label).filter(|target| !target.is_empty());
        for (field, value) in [
            ("separator", spec.separator.as_ref()),
            ("regex", spec.regex.as_ref()),
            ("target_label", target),
            ("replacement", spec.replacement.as_ref()),
        ] {
            if let Some(value) = value {
                write!(f, "{field}: ")?;
                write_quoted(value, f)?;
                f.write_str(", ")?;
            }
        }
        if spec.modulus != 0 {
            write!(f, "modulus: {}, ", spec.modulus)?;
        }
        write!(f, "action: {}}}", self.action)
    }
}

/// Writes a text in double quotes with YAML's escapes.
fn write_quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            control if control.is_control() => write!(f, "\\u{:04x}", u32::from(control))?,
            other => f.write_char(other)?,
        }
    }
    f.write_str("\"")
}
