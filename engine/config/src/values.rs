//! Reading and printing of each type of value.

use crate::decode::{Context, Fields, Step, Tree, Value, read_choice};
use crate::secret::{HIDDEN, Secret};
use crate::units::{Size, format_duration, format_size, parse_duration, parse_size};
use crate::yaml::{Kind, Node, as_bool};
use relabel::{NameScheme, Program, Rule, RuleSpec};
use series::Labels;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// Adds an error for a field that requires a list or a mapping.
fn refuse_shape<T>(node: &Node, cx: &Context, want: &str) -> Option<T> {
    cx.refuse(node.mark, format!("cannot unmarshal {} into {want}", node.tag()));
    None
}

/// Adds an error for a field that requires one word.
fn refuse_type<T>(node: &Node, cx: &Context, want: &str) -> Option<T> {
    cx.refuse(node.mark, format!("cannot unmarshal {} into {want}", node.describe()));
    None
}

impl Value for String {
    fn read(node: &Node, cx: &Context) -> Option<String> {
        match node.text() {
            Some(text) => Some(text.to_owned()),
            None => refuse_shape(node, cx, "string; write one text, in quotes if it has special characters"),
        }
    }

    fn write(&self) -> Tree {
        Tree::Text(self.clone())
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn of_null_element() -> Option<String> {
        Some(String::new())
    }
}

impl Value for bool {
    fn read(node: &Node, cx: &Context) -> Option<bool> {
        match &node.kind {
            Kind::Plain(text) if as_bool(text).is_some() => as_bool(text),
            _ => refuse_type(node, cx, "bool; write true or false"),
        }
    }

    fn write(&self) -> Tree {
        Tree::Plain(self.to_string())
    }

    fn is_empty(&self) -> bool {
        !self
    }
}

impl Value for u64 {
    fn read(node: &Node, cx: &Context) -> Option<u64> {
        let number = match &node.kind {
            Kind::Plain(text) => parse_integer(text),
            _ => None,
        };
        number.or_else(|| refuse_type(node, cx, "uint; write a whole number that is not negative"))
    }

    fn write(&self) -> Tree {
        Tree::Plain(self.to_string())
    }

    fn is_empty(&self) -> bool {
        *self == 0
    }
}

impl Value for i64 {
    fn read(node: &Node, cx: &Context) -> Option<i64> {
        let number = match &node.kind {
            Kind::Plain(text) => match text.strip_prefix('-') {
                Some(digits) => parse_integer(digits).and_then(|n| 0_i64.checked_sub_unsigned(n)),
                None => parse_integer(text).and_then(|n| i64::try_from(n).ok()),
            },
            _ => None,
        };
        number.or_else(|| refuse_type(node, cx, "int; write a whole number"))
    }

    fn write(&self) -> Tree {
        Tree::Plain(self.to_string())
    }

    fn is_empty(&self) -> bool {
        *self == 0
    }
}

/// Reads an integer of YAML 1.1: decimal, `0x`, `0b`, octal by `0` or `0o`, underscores between digits. A float up to 2^64 is
/// truncated, as Go's decoder does: `1e6`, `2.5`.
fn parse_integer(text: &str) -> Option<u64> {
    let text: String = text.strip_prefix('+').unwrap_or(text).chars().filter(|c| *c != '_').collect();
    let based = |prefix: &str, base| text.strip_prefix(prefix).map(|digits| u64::from_str_radix(digits, base).ok());
    let octal =
        || text.strip_prefix('0').filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    if let Some(number) = based("0x", 16).or_else(|| based("0b", 2)).or_else(|| based("0o", 8)) {
        return number;
    }
    if let Some(digits) = octal() {
        return u64::from_str_radix(digits, 8).ok();
    }
    text.parse().ok().or_else(|| {
        const END: f64 = 18_446_744_073_709_551_616.0;
        let number: f64 = text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.parse().ok())??;
        // 2^64 itself passes Go's check, and its conversion on amd64 gives 2^63.
        (number <= END).then_some(if number == END { 1 << 63 } else { number as u64 })
    })
}

impl Value for f64 {
    fn read(node: &Node, cx: &Context) -> Option<f64> {
        let number = match &node.kind {
            Kind::Plain(text) => text.replace('_', "").parse().ok().filter(|number: &f64| number.is_finite()),
            _ => None,
        };
        number.or_else(|| refuse_type(node, cx, "float64; write a number such as 0.5"))
    }

    fn write(&self) -> Tree {
        Tree::Plain(self.to_string())
    }

    fn is_empty(&self) -> bool {
        *self == 0.0
    }
}

impl Value for Duration {
    fn read(node: &Node, cx: &Context) -> Option<Duration> {
        let text = String::read(node, cx)?;
        parse_duration(&text).map_err(|error| cx.refuse(node.mark, error.to_string())).ok()
    }

    fn write(&self) -> Tree {
        Tree::Plain(format_duration(*self))
    }

    fn is_empty(&self) -> bool {
        self.is_zero()
    }
}

impl Value for Size {
    fn read(node: &Node, cx: &Context) -> Option<Size> {
        let text = String::read(node, cx)?;
        parse_size(&text).map(Size).map_err(|error| cx.refuse(node.mark, error.to_string())).ok()
    }

    fn write(&self) -> Tree {
        Tree::Plain(format_size(self.0))
    }

    fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

impl Value for Secret {
    fn read(node: &Node, cx: &Context) -> Option<Secret> {
        String::read(node, cx).map(Secret::new)
    }

    fn write(&self) -> Tree {
        Tree::Text(HIDDEN.to_owned())
    }

    fn is_empty(&self) -> bool {
        self.reveal().is_empty()
    }

    fn of_null_element() -> Option<Secret> {
        Some(Secret::new(String::new()))
    }
}

impl Value for PathBuf {
    fn read(node: &Node, cx: &Context) -> Option<PathBuf> {
        let text = String::read(node, cx)?;
        if text.contains('\0') {
            return refuse_shape(node, cx, "path; remove the NUL");
        }
        Some(cx.absolute(&text))
    }

    fn write(&self) -> Tree {
        Tree::Text(self.display().to_string())
    }
}

impl Value for Url {
    fn read(node: &Node, cx: &Context) -> Option<Url> {
        let text = String::read(node, cx)?;
        match Url::parse(&text) {
            Ok(_) if has_broken_escape(&text) => Err("invalid URL escape".to_owned()),
            Ok(url) if url.has_host() => Ok(url),
            Ok(_) => Err("host is missing in URL".to_owned()),
            Err(error) => Err(error.to_string()),
        }
        // The text is not repeated, because it may contain a password.
        .map_err(|error| cx.refuse(node.mark, format!("not a URL: {error}; write it as http://host:port/path")))
        .ok()
    }

    fn write(&self) -> Tree {
        let text = match self.password() {
            Some(password) => self.as_str().replacen(&format!(":{password}@"), &format!(":{HIDDEN}@"), 1),
            None => self.as_str().to_owned(),
        };
        Tree::Text(text)
    }
}

/// Returns whether a percent sign before the query does not begin an escape.
fn has_broken_escape(url: &str) -> bool {
    let before_query = url.split('?').next().unwrap_or(url).as_bytes();
    let is_digit = |at: usize| before_query.get(at).is_some_and(u8::is_ascii_hexdigit);
    (0..before_query.len()).any(|at| before_query[at] == b'%' && !(is_digit(at + 1) && is_digit(at + 2)))
}

impl Value for NameScheme {
    fn read(node: &Node, cx: &Context) -> Option<NameScheme> {
        read_choice(
            node,
            cx,
            false,
            &[("utf8", NameScheme::Utf8), ("legacy", NameScheme::Legacy), ("", NameScheme::Utf8)],
        )
    }

    fn write(&self) -> Tree {
        Tree::Text(if *self == NameScheme::Utf8 { "utf8" } else { "legacy" }.to_owned())
    }
}

/// An empty text counts as absent, because Prometheus does not distinguish the two.
impl<T: Value> Value for Option<T> {
    fn read(node: &Node, cx: &Context) -> Option<Option<T>> {
        match &node.kind {
            Kind::Plain(text) | Kind::Text(text) if text.is_empty() => Some(None),
            _ => T::read(node, cx).map(Some),
        }
    }

    fn write(&self) -> Tree {
        match self {
            Some(value) => value.write(),
            None => Tree::Plain("null".to_owned()),
        }
    }

    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(node: &Node, cx: &Context) -> Option<Vec<T>> {
        let Kind::List(items) = &node.kind else {
            return refuse_shape(node, cx, "a list; write items as `- item` or [item, item]");
        };
        let mut values = Vec::with_capacity(items.len());
        let mut all_good = true;
        for (index, item) in items.iter().enumerate() {
            cx.within(Step::Index(index), || {
                let value = match item.kind {
                    Kind::Null => T::of_null_element().or_else(|| {
                        cx.refuse(item.mark, "empty or null item in a list; remove the dash or write the item");
                        None
                    }),
                    _ => T::read(item, cx),
                };
                all_good &= value.is_some();
                values.extend(value);
            });
        }
        all_good.then_some(values)
    }

    fn write(&self) -> Tree {
        Tree::List(self.iter().map(Value::write).collect())
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn of_null_element() -> Option<Vec<T>> {
        Some(Vec::new())
    }
}

/// A mapping with free keys, in the order of the keys: the order in the file has no meaning.
impl<T: Value> Value for Vec<(String, T)> {
    fn read(node: &Node, cx: &Context) -> Option<Vec<(String, T)>> {
        let Kind::Map(entries) = &node.kind else {
            return refuse_shape(node, cx, "map; write entries as `name: value`");
        };
        let mut values = Vec::with_capacity(entries.len());
        let mut all_good = true;
        for (key, node) in entries {
            let value = String::read(key, cx).and_then(|key| {
                let null = || if matches!(node.kind, Kind::Null) { T::of_null_element() } else { None };
                let value = null().or_else(|| cx.within(Step::Key(&key), || T::read(node, cx)))?;
                Some((key, value))
            });
            all_good &= value.is_some();
            values.extend(value);
        }
        values.sort_by(|a, b| a.0.cmp(&b.0));
        all_good.then_some(values)
    }

    fn write(&self) -> Tree {
        Tree::Map(self.iter().map(|(key, value)| (key.clone(), value.write())).collect())
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Value for Labels {
    fn read(node: &Node, cx: &Context) -> Option<Labels> {
        let pairs = <Vec<(String, String)>>::read(node, cx)?;
        let Kind::Map(entries) = &node.kind else { return None };
        let bad = entries.iter().find(|(key, _)| !cx.scheme.get().is_valid(key.text().unwrap_or_default()));
        if let Some((key, _)) = bad {
            let name = key.text().unwrap_or_default();
            cx.refuse(key.mark, format!("{name:?} is not a valid label name; use letters, digits and underscores"));
            return None;
        }
        Some(Labels::from_pairs(pairs))
    }

    fn write(&self) -> Tree {
        Tree::Map(self.iter().map(|(name, value)| (name.to_owned(), Tree::Text(value.to_owned()))).collect())
    }

    fn is_empty(&self) -> bool {
        Labels::is_empty(self)
    }
}

impl Value for Tree {
    fn read(node: &Node, cx: &Context) -> Option<Tree> {
        Some(match &node.kind {
            Kind::Null => Tree::Plain("null".to_owned()),
            Kind::Plain(text) => Tree::Plain(text.clone()),
            Kind::Text(text) => Tree::Text(text.clone()),
            Kind::List(items) => Tree::List(items.iter().map(|item| Tree::read(item, cx)).collect::<Option<_>>()?),
            Kind::Map(_) => Tree::Map(<Vec<(String, Tree)>>::read(node, cx)?),
        })
    }

    fn write(&self) -> Tree {
        self.clone()
    }

    fn is_empty(&self) -> bool {
        matches!(self, Tree::Text(text) if text.is_empty())
    }
}

/// A text that is empty if the field is null, and has its default only if the field is absent: so Go decodes texts.
struct NullableText(String);

impl Value for NullableText {
    fn read(node: &Node, cx: &Context) -> Option<NullableText> {
        String::read(node, cx).map(NullableText)
    }

    fn write(&self) -> Tree {
        self.0.write()
    }

    fn of_null() -> Option<NullableText> {
        Some(NullableText(String::new()))
    }
}

/// The name of a source label: empty if it is null, for which Prometheus reads no label; an empty text is refused.
struct SourceLabel(String);

impl Value for SourceLabel {
    fn read(node: &Node, cx: &Context) -> Option<SourceLabel> {
        let name = String::read(node, cx)?;
        if name.is_empty() {
            cx.refuse(node.mark, "\"\" is not a valid label name; correct or remove it");
            return None;
        }
        Some(SourceLabel(name))
    }

    fn write(&self) -> Tree {
        if self.0.is_empty() { Tree::Plain("null".to_owned()) } else { self.0.write() }
    }

    fn of_null_element() -> Option<SourceLabel> {
        Some(SourceLabel(String::new()))
    }
}

impl Value for Rule {
    fn read(node: &Node, cx: &Context) -> Option<Rule> {
        let mut fields = Fields::of(node, cx, "relabel_config")?;
        let source_labels: Vec<SourceLabel> = fields.take("source_labels").unwrap_or_default();
        let spec = RuleSpec {
            source_labels: source_labels.into_iter().map(|label| label.0).collect(),
            separator: fields.take::<NullableText>("separator").map(|separator| separator.0),
            target_label: fields.take("target_label").unwrap_or_default(),
            regex: fields.take::<NullableText>("regex").map(|expression| expression.0),
            modulus: fields.take("modulus").unwrap_or_default(),
            replacement: fields.take::<NullableText>("replacement").map(|replacement| replacement.0),
            action: fields.take::<NullableText>("action").map(|action| action.0),
        };
        if spec.action.as_deref() == Some("") {
            fields.refuse("action", "relabel action cannot be empty");
            fields.finish("relabel_config");
            return None;
        }
        let rule = Rule::compile(spec, cx.scheme.get())
            .map_err(|error| fields.refuse(error.field, &format!("{error}; correct or remove {}", error.field)));
        fields.finish("relabel_config");
        rule.ok()
    }

    fn write(&self) -> Tree {
        let spec = self.spec();
        let mut out = Vec::new();
        let mut put = |name: &str, value: Tree| out.push((name.to_owned(), value));
        if !spec.source_labels.is_empty() {
            let names = spec.source_labels.iter().map(|name| SourceLabel(name.clone()).write());
            put("source_labels", Tree::List(names.collect()));
        }
        if let Some(separator) = &spec.separator {
            put("separator", separator.write());
        }
        if !spec.target_label.is_empty() {
            put("target_label", spec.target_label.write());
        }
        if let Some(regex) = &spec.regex {
            put("regex", regex.write());
        }
        if spec.modulus > 0 {
            put("modulus", spec.modulus.write());
        }
        if let Some(replacement) = &spec.replacement {
            put("replacement", replacement.write());
        }
        put("action", Tree::Text(self.action().name().to_owned()));
        Tree::Map(out)
    }
}

impl Value for Program {
    fn read(node: &Node, cx: &Context) -> Option<Program> {
        <Vec<Rule>>::read(node, cx).map(Program::from)
    }

    fn write(&self) -> Tree {
        Tree::List(self.rules().iter().map(Value::write).collect())
    }

    fn is_empty(&self) -> bool {
        Program::is_empty(self)
    }
}
