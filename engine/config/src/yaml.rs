//! Parses YAML text into a tree of nodes with source locations.
//!
//! Anchors, aliases and merge keys work as in Go programs. Difference from Prometheus: a second document in the file is
//! an error if it is not empty, where Prometheus ignores it.
//!
//! Invariants:
//!   * size, depth and the number of nodes after expansion of aliases are bounded before anyone walks the tree
//!   * no mapping has a key twice

use crate::text::find_control;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Size of a file, in bytes: far above any real file, far below what would delay the control plane.
pub(crate) const FILE_BYTES_MAX: usize = 64 << 20;
/// Levels of nesting. Prometheus' own sections nest about ten levels.
const DEPTH_MAX: usize = 100;
/// Number of nodes that aliases may add to those of the file.
const ALIAS_NODES_MAX: usize = 1_000_000;

/// A location in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLocation {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub mark: SourceLocation,
    pub kind: Kind,
    /// Number of nodes of this subtree, with each alias expanded.
    nodes_count: usize,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Null,
    /// A number, boolean or word without quotes.
    Plain(String),
    /// A text in quotes, a block, or tagged `!!str`.
    Text(String),
    List(Vec<Rc<Node>>),
    Map(Entries),
}

impl Node {
    /// Returns the text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Plain(text) | Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the tag by which errors of Go's YAML package name it.
    pub fn tag(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "!!null",
            Kind::Plain(text) => plain_tag(text),
            Kind::Text(_) => "!!str",
            Kind::List(_) => "!!seq",
            Kind::Map(_) => "!!map",
        }
    }

    /// The same with the start of a scalar's text. Only for a place where one word is wanted: a longer text may hold
    /// anything, also a secret.
    pub fn describe(&self) -> String {
        let start = |text: &str| text.chars().take_while(|c| !c.is_control()).take(40).collect::<String>();
        match self.text() {
            Some(text) => format!("{} `{}`", self.tag(), start(text)),
            None => self.tag().to_owned(),
        }
    }
}

/// Returns the tag of a word without quotes.
pub(crate) fn plain_tag(text: &str) -> &'static str {
    if as_bool(text).is_some() {
        "!!bool"
    } else if text.parse::<i128>().is_ok() {
        "!!int"
    } else if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) && text.parse::<f64>().is_ok() {
        "!!float"
    } else {
        "!!str"
    }
}

/// Reads a boolean of YAML 1.1, as Go programs accept them.
pub(crate) fn as_bool(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// Keys and values of a mapping, in the order of the file.
pub(crate) type Entries = Vec<(Rc<Node>, Rc<Node>)>;

/// A list or mapping whose end has not been read. `key` is the key of the next value.
enum OpenCollection {
    List { items: Vec<Rc<Node>> },
    Map { entries: Entries, key: Option<Rc<Node>> },
}

struct Builder {
    open: Vec<(OpenCollection, SourceLocation, usize)>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    nodes_count: usize,
    aliased_count: usize,
}

type ReadError = (SourceLocation, String);

/// Reads the one document of a file. An empty file is a null.
pub(crate) fn parse(text: &str) -> Result<Rc<Node>, ReadError> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes; at most {FILE_BYTES_MAX} are read, split it", text.len());
        return Err((SourceLocation { line: 1, column: 1 }, message));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some((line, column)) = find_control(text) {
        let mark = SourceLocation { line, column };
        return Err((
            mark,
            "control characters are not allowed; remove it, or write it as an escape in quotes".to_owned(),
        ));
    }
    let mut builder =
        Builder { open: Vec::new(), anchors: HashMap::new(), root: None, nodes_count: 0, aliased_count: 0 };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let mark = SourceLocation { line: error.marker().line(), column: error.marker().col() + 1 };
            (mark, format!("this is not YAML: {}; check quotes and indentation", error.info()))
        })?;
        builder.take(event, span)?;
    }
    Ok(builder.root.unwrap_or_else(|| {
        Rc::new(Node { mark: SourceLocation { line: 1, column: 1 }, kind: Kind::Null, nodes_count: 1 })
    }))
}

impl Builder {
    fn take(&mut self, event: Event, span: Span) -> Result<(), ReadError> {
        let mark = SourceLocation { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let kind = scalar(text, style, tag, mark)?;
                self.close(Node { mark, kind, nodes_count: 1 }, anchor)
            }
            Event::SequenceStart(anchor, _) => self.open(OpenCollection::List { items: Vec::new() }, mark, anchor),
            Event::MappingStart(anchor, _) => {
                self.open(OpenCollection::Map { entries: Vec::new(), key: None }, mark, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let (open, mark, anchor) = self.open.pop().ok_or((mark, "unexpected end".to_owned()))?;
                let (kind, nodes_count) = match open {
                    OpenCollection::List { items } => {
                        let count: usize = items.iter().map(|node| node.nodes_count).sum();
                        (Kind::List(items), count)
                    }
                    OpenCollection::Map { entries, .. } => {
                        let entries = merge(entries)?;
                        let count: usize = entries.iter().map(|(key, node)| key.nodes_count + node.nodes_count).sum();
                        (Kind::Map(entries), count)
                    }
                };
                self.close(Node { mark, kind, nodes_count: 1 + nodes_count }, anchor)
            }
            Event::Alias(anchor) => {
                let unfinished = "the anchor of this alias holds the alias itself; name another anchor";
                let node = self.anchors.get(&anchor).cloned().ok_or((mark, unfinished.to_owned()))?;
                self.aliased_count += node.nodes_count;
                if self.aliased_count > ALIAS_NODES_MAX {
                    let message = format!(
                        "document contains excessive aliasing: more than {ALIAS_NODES_MAX} values by aliases; write them out"
                    );
                    return Err((mark, message));
                }
                self.place(node)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn open(&mut self, open: OpenCollection, mark: SourceLocation, anchor: usize) -> Result<(), ReadError> {
        if self.open.len() == DEPTH_MAX {
            return Err((mark, format!("more than {DEPTH_MAX} levels of nesting; flatten this")));
        }
        self.open.push((open, mark, anchor));
        Ok(())
    }

    fn close(&mut self, node: Node, anchor: usize) -> Result<(), ReadError> {
        self.nodes_count += 1;
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node)
    }

    fn place(&mut self, node: Rc<Node>) -> Result<(), ReadError> {
        match self.open.last_mut() {
            Some((OpenCollection::List { items }, ..)) => items.push(node),
            Some((OpenCollection::Map { entries, key }, ..)) => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.push((key, node)),
            },
            None if self.root.is_none() => self.root = Some(node),
            None if matches!(node.kind, Kind::Null) => {}
            None => return Err((node.mark, "a second document in the file; keep only one".to_owned())),
        }
        Ok(())
    }
}

fn scalar(text: Cow<str>, style: ScalarStyle, tag: Option<Cow<Tag>>, mark: SourceLocation) -> Result<Kind, ReadError> {
    let suffix = tag.as_ref().filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    if suffix == Some("binary") {
        return binary(&text).map(Kind::Text).map_err(|error| (mark, format!("!!binary value {error}")));
    }
    Ok(match (style, suffix) {
        (_, Some("str")) => Kind::Text(text.into_owned()),
        (ScalarStyle::Plain, _) if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") => Kind::Null,
        (ScalarStyle::Plain, _) | (_, Some("bool" | "int" | "float")) => Kind::Plain(text.into_owned()),
        _ => Kind::Text(text.into_owned()),
    })
}

/// Returns the text of a `!!binary` value: base64 with padding, in which line breaks do not count.
fn binary(text: &str) -> Result<String, &'static str> {
    const BASE64: GeneralPurpose =
        GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let bytes = BASE64.decode(text).map_err(|_| "contains invalid base64 data; correct it or write the text itself")?;
    String::from_utf8(bytes).map_err(|_| "is no UTF-8; no setting takes other bytes")
}

/// Refuses keys that stand there twice and carries out merge keys: what stands in the mapping itself wins, then the
/// first of several that are merged.
fn merge(entries: Entries) -> Result<Entries, ReadError> {
    let is_merge = |key: &Node| matches!(&key.kind, Kind::Plain(text) if text == "<<");
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| is_merge(key));
    let mut seen = HashSet::new();
    for (key, _) in &own {
        if let Some(name) = key.text()
            && !seen.insert(name.to_owned())
        {
            return Err((key.mark, format!("key {name:?} already set in map; keep one of them")));
        }
    }
    for (_, source) in merges {
        let sources: &[Rc<Node>] = match &source.kind {
            Kind::List(items) => items,
            _ => std::slice::from_ref(&source),
        };
        for source in sources {
            let Kind::Map(merged) = &source.kind else {
                return Err((source.mark, "map merge requires map or sequence of maps as the value".to_owned()));
            };
            for (key, node) in merged {
                if key.text().is_none_or(|name| seen.insert(name.to_owned())) {
                    own.push((key.clone(), node.clone()));
                }
            }
        }
    }
    Ok(own)
}
