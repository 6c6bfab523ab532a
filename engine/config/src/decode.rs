//! Decodes YAML nodes into values: a trait for values, a macro for sections, and a context with the current path.
//!
//! Invariants:
//!   * every error has file, line, column and the path of the field; reading continues after it, so that one run
//!     shows up to [`ERRORS_MAX`] of them
//!   * a field that no section has read is an error, so a field cannot be forgotten unnoticed

use crate::errors::{ConfigError, ERRORS_MAX};
pub(crate) use crate::tree::Tree;
use crate::yaml::{Kind, Node, SourceLocation};
use relabel::NameScheme;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// A value of a field or an item of a list.
pub(crate) trait Value: Sized {
    /// Reads a node. On failure returns `None` after adding an error to `cx`.
    fn read(node: &Node, cx: &Context) -> Option<Self>;

    /// Returns the value as it is written in a file, with secrets hidden.
    fn write(&self) -> Tree;

    /// Returns whether it is the empty value of its type. Such a field is not printed unless its default is not empty.
    fn is_empty(&self) -> bool {
        false
    }

    /// Returns the value of a field whose value is null; `None`: as if the field were absent.
    fn of_null() -> Option<Self> {
        None
    }

    /// Returns the value of a null within a list or a free mapping; `None`: it is an error there. Go's decoder gives such
    /// a null the zero value of its type, which Prometheus accepts for texts and lists.
    fn of_null_element() -> Option<Self> {
        None
    }
}

/// A struct that is read from the fields of a mapping.
pub(crate) trait Section: Sized {
    fn read_fields(&mut self, fields: &mut Fields);
    fn write_fields(&self, out: &mut Vec<(String, Tree)>);
}

/// The file and path being read, settings that hold there, and the errors so far.
pub(crate) struct Context<'a> {
    /// Name of the file in messages.
    pub file: &'a Path,
    /// Base of relative paths in the file. Absolute.
    pub folder: &'a Path,
    /// The name scheme of the section being read.
    pub scheme: Cell<NameScheme>,
    path: RefCell<String>,
    errors: RefCell<Vec<ConfigError>>,
}

/// The fields of a mapping, which are read one by one.
pub(crate) struct Fields<'a> {
    pub cx: &'a Context<'a>,
    mark: SourceLocation,
    entries: &'a [(Rc<Node>, Rc<Node>)],
    known: BTreeSet<&'static str>,
}

impl<'a> Context<'a> {
    pub fn new(file: &'a Path, folder: &'a Path, scheme: NameScheme) -> Context<'a> {
        let path = RefCell::default();
        Context { file, folder, scheme: Cell::new(scheme), path, errors: RefCell::default() }
    }

    pub fn into_errors(self) -> Vec<ConfigError> {
        self.errors.into_inner()
    }

    /// Adds an error at `mark`, unless there are too many already or a part of the same field has an error: a failed
    /// check is then probably a consequence.
    pub fn refuse(&self, mark: SourceLocation, message: impl Into<String>) {
        let mut errors = self.errors.borrow_mut();
        let path = self.path.borrow().clone();
        let is_known = errors.iter().any(|error| {
            let rest = error.path.strip_prefix(&*path);
            !path.is_empty() && rest.is_some_and(|rest| rest.starts_with(['.', '[']))
        });
        if errors.len() < ERRORS_MAX && !is_known {
            let file = self.file.to_owned();
            errors.push(ConfigError { file, line: mark.line, column: mark.column, path, message: message.into() });
        }
    }

    /// Runs `read` with `.key` or `[index]` added to the path.
    pub fn within<T>(&self, step: Step, read: impl FnOnce() -> T) -> T {
        let length = self.path.borrow().len();
        step.push_to(&mut self.path.borrow_mut());
        let value = read();
        self.path.borrow_mut().truncate(length);
        value
    }

    /// Returns the path below the file's folder. As in Prometheus, `..` of a relative path takes away the name before it, so
    /// that files and groups of rules are shown by their plain names.
    pub fn absolute(&self, path: &str) -> PathBuf {
        let joined = self.folder.join(path);
        if Path::new(path).is_absolute() {
            return joined;
        }
        let mut clean = PathBuf::new();
        for component in joined.components() {
            match component {
                Component::ParentDir => {
                    clean.pop();
                }
                component => clean.push(component),
            }
        }
        clean
    }
}

/// A step of a path: a key or an index.
pub(crate) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Step<'_> {
    fn push_to(&self, path: &mut String) {
        use std::fmt::Write;
        match self {
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => path.extend([".", key]),
            Step::Index(index) => write!(path, "[{index}]").expect("a string takes everything"),
        }
    }
}

impl<'a> Fields<'a> {
    /// Returns the fields of a mapping; `None` after an error. A null counts as an empty mapping.
    pub fn of(node: &'a Node, cx: &'a Context<'a>, what: &str) -> Option<Fields<'a>> {
        let entries: &[_] = match &node.kind {
            Kind::Map(entries) => entries,
            Kind::Null => &[],
            _ => {
                cx.refuse(
                    node.mark,
                    format!("cannot unmarshal {} into {what}; write fields as `name: value`", node.tag()),
                );
                return None;
            }
        };
        Some(Fields { cx, mark: node.mark, entries, known: BTreeSet::new() })
    }

    fn entry(&self, name: &str) -> Option<&'a (Rc<Node>, Rc<Node>)> {
        self.entries.iter().find(|(key, _)| key.text() == Some(name))
    }

    /// Returns whether the field has a value. An empty text counts as none, as in Prometheus.
    pub fn has(&self, name: &str) -> bool {
        self.entry(name).is_some_and(|(_, node)| !matches!(node.kind, Kind::Null) && node.text() != Some(""))
    }

    /// Returns the text of a field, without marking it as read.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.entry(name).and_then(|(_, node)| node.text())
    }

    /// Reads the value of a field; `None` if it is absent or has an error.
    pub fn take<T: Value>(&mut self, name: &'static str) -> Option<T> {
        self.known.insert(name);
        let (_, node) = self.entry(name)?;
        if matches!(node.kind, Kind::Null) {
            return T::of_null();
        }
        self.cx.within(Step::Key(name), || T::read(node, self.cx))
    }

    /// Returns the node of a field, for callers that read it themselves.
    pub fn take_node(&mut self, name: &'static str) -> Option<&'a Node> {
        self.known.insert(name);
        self.entry(name).map(|(_, node)| &**node)
    }

    /// Returns the first of `names` that is in the mapping, or the last one if none is.
    pub fn last_of(&self, names: &[&'static str]) -> &'static str {
        let found = names.iter().find(|name| self.has(name));
        found.or(names.last()).copied().unwrap_or_default()
    }

    /// Adds an error at the value of a field, or at the section if the field is missing.
    pub fn refuse(&self, name: &str, message: &str) {
        let mark = self.entry(name).map_or(self.mark, |(_, node)| node.mark);
        self.cx.within(Step::Key(name), || self.cx.refuse(mark, message));
    }

    /// Adds an error for each field that was not read.
    pub fn finish(self, what: &str) {
        for (key, _) in self.entries {
            let Some(name) = key.text() else {
                self.cx.refuse(key.mark, format!("cannot unmarshal {} into a field name", key.tag()));
                continue;
            };
            if !self.known.contains(name) {
                let shown = shown(name);
                let advice = match closest(name, &self.known) {
                    Some(close) => format!("did you mean {close}?"),
                    None => "check the spelling and the indentation".to_owned(),
                };
                self.cx.within(Step::Key(shown), || {
                    self.cx.refuse(key.mark, format!("field {shown} not found in {what}; {advice}"));
                });
            }
        }
    }
}

/// Reads a complete section: its fields, its checks, and an error for every other field.
pub(crate) fn read_section<T: Section>(mut value: T, node: &Node, cx: &Context, what: &str) -> Option<T> {
    let mut fields = Fields::of(node, cx, what)?;
    value.read_fields(&mut fields);
    fields.finish(what);
    Some(value)
}

/// Returns the start of a key that can be the name of a field: a value in the wrong place, possibly a secret, is not repeated.
fn shown(key: &str) -> &str {
    let end = key.find(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c));
    &key[..end.unwrap_or(key.len()).min(60)]
}

/// Returns the known name with the smallest edit distance, if that is small for its length.
fn closest(name: &str, known: &BTreeSet<&'static str>) -> Option<&'static str> {
    if name.len() > 60 {
        return None;
    }
    let edits = known.iter().map(|candidate| (edit_distance(name, candidate), *candidate));
    edits.min().filter(|(distance, candidate)| *distance <= candidate.len() / 3).map(|(_, candidate)| candidate)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Appends a field unless both its value and its default are empty.
pub(crate) fn write_field<T: Value>(out: &mut Vec<(String, Tree)>, name: &str, value: &T, default: &T) {
    if !value.is_empty() || !default.is_empty() {
        out.push((name.to_owned(), value.write()));
    }
}

/// Reads one of a set of words.
pub(crate) fn read_choice<T: Copy>(
    node: &Node,
    cx: &Context,
    any_case: bool,
    choices: &[(&'static str, T)],
) -> Option<T> {
    let text = String::read(node, cx)?;
    let is_word = |word: &str| word == text || any_case && word.eq_ignore_ascii_case(&text);
    let found = choices.iter().find(|(word, _)| is_word(word));
    if found.is_none() {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        cx.refuse(node.mark, format!("unknown value {text:?}; use one of {}", words.join(", ")));
    }
    found.map(|(_, choice)| *choice)
}

/// Declares a section: a struct with documented fields, their defaults, how it is read and how it is printed.
///
/// `check` runs after the fields were read, still inside the section: it may refuse, complete, or take more fields.
/// `null_element` gives the value of a null in a list of such sections, where Prometheus takes one.
/// What follows `inline` stands in the same mapping.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident in $what:literal $(, check = $check:path)? $(, null_element = $null:path)? {
            $($(#[$field_meta:meta])* $field:ident: $Type:ty = $default:expr,)*
        }
        $(inline { $($(#[$inline_meta:meta])* $inline:ident: $Inline:ty = $inline_default:expr,)* })?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Name {
            $($(#[$field_meta])* pub $field: $Type,)*
            $($($(#[$inline_meta])* pub $inline: $Inline,)*)?
        }

        impl Default for $Name {
            fn default() -> $Name {
                $Name { $($field: $default,)* $($($inline: $inline_default,)*)? }
            }
        }

        impl $crate::decode::Section for $Name {
            fn read_fields(&mut self, fields: &mut $crate::decode::Fields) {
                $(
                    let name = stringify!($field);
                    if let Some(value) = fields.take(name.strip_prefix("r#").unwrap_or(name)) {
                        self.$field = value;
                    }
                )*
                $($($crate::decode::Section::read_fields(&mut self.$inline, fields);)*)?
                $($check(self, fields);)?
            }

            fn write_fields(&self, out: &mut Vec<(String, $crate::decode::Tree)>) {
                $(
                    let name = stringify!($field);
                    let default: $Type = $default;
                    $crate::decode::write_field(out, name.strip_prefix("r#").unwrap_or(name), &self.$field, &default);
                )*
                $($($crate::decode::Section::write_fields(&self.$inline, out);)*)?
            }
        }

        impl $crate::decode::Value for $Name {
            fn read(node: &$crate::yaml::Node, cx: &$crate::decode::Context) -> Option<$Name> {
                $crate::decode::read_section($Name::default(), node, cx, $what)
            }

            fn write(&self) -> $crate::decode::Tree {
                let mut out = Vec::new();
                $crate::decode::Section::write_fields(self, &mut out);
                $crate::decode::Tree::Map(out)
            }

            fn is_empty(&self) -> bool {
                matches!($crate::decode::Value::write(self), $crate::decode::Tree::Map(fields) if fields.is_empty())
            }

            $(fn of_null_element() -> Option<$Name> {
                Some($null())
            })?
        }
    };
}

/// Declares a set of words of which a field is one, in the case given or, where it says so, in `any_case`.
macro_rules! choices {
    ($(#[$meta:meta])* pub enum $Name:ident $(, $any_case:ident)? { $($Choice:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Name { $(#[doc = concat!("`", $word, "`")] $Choice,)* }

        impl $Name {
            /// All of them, in the order of their declaration.
            pub const ALL: &'static [$Name] = &[$($Name::$Choice,)*];

            /// Its name in a file.
            pub fn name(self) -> &'static str {
                match self { $($Name::$Choice => $word,)* }
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl $crate::decode::Value for $Name {
            fn read(node: &$crate::yaml::Node, cx: &$crate::decode::Context) -> Option<$Name> {
                let any_case: &[&str] = &[$(stringify!($any_case))?];
                $crate::decode::read_choice(node, cx, !any_case.is_empty(), &[$(($word, $Name::$Choice),)*])
            }

            fn write(&self) -> $crate::decode::Tree {
                $crate::decode::Tree::Text(self.name().to_owned())
            }
        }
    };
}
pub(crate) use {choices, section};
