//! `$1`, `${name}` and `$$` in a replacement, read once, filled in for every match.
//!
//! The rules are those of Go's `Regexp.Expand`: a name is as long as letters, digits and underscores go, so `$1x` is the
//! group "1x"; a group that is not there or took no part is empty; a `$` that begins nothing is itself.

use series::{Groups, Regex};
use std::sync::LazyLock;

/// A replacement whose group names are resolved.
#[derive(Clone, Debug)]
pub(crate) struct Template(Vec<Part>);

/// Neighbouring texts are one part, and no text is empty.
#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// The first of these groups that took part.
    Group(Vec<usize>),
}

impl Template {
    pub(crate) fn parse(text: &str, regex: &Regex) -> Template {
        let mut template = Template(Vec::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            template.push_text(before);
            if let Some(after) = after.strip_prefix('$') {
                template.push_text("$");
                rest = after;
            } else if let Some((name, after)) = reference(after) {
                template.push_group(name, regex);
                rest = after;
            } else {
                template.push_text("$");
                rest = after;
            }
        }
        template.push_text(rest);
        template
    }

    /// The text, if no group is part of it.
    pub(crate) fn constant(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text for a match in `source`; `buffer` is used only if the text has to be put together.
    pub(crate) fn expand<'a>(&'a self, source: &'a str, groups: &Groups, buffer: &'a mut String) -> &'a str {
        match &*self.0 {
            [] => "",
            [Part::Text(text)] => text,
            [Part::Group(indexes)] => group(indexes, source, groups),
            _ => {
                buffer.clear();
                self.append(source, groups, buffer);
                buffer
            }
        }
    }

    /// Appends the text for a match in `source`.
    pub(crate) fn append(&self, source: &str, groups: &Groups, out: &mut String) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Group(indexes) => out.push_str(group(indexes, source, groups)),
            }
        }
    }

    fn push_text(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Text(last)) => last.push_str(text),
            _ => self.0.push(Part::Text(text.to_owned())),
        }
    }

    fn push_group(&mut self, name: &str, regex: &Regex) {
        let indexes: Vec<usize> = match group_number(name) {
            Some(number) => (number < regex.group_count()).then_some(number).into_iter().collect(),
            None => regex.groups_named(name).collect(),
        };
        // A group that does not exist is always empty.
        if !indexes.is_empty() {
            self.0.push(Part::Group(indexes));
        }
    }
}

fn group<'a>(indexes: &[usize], source: &'a str, groups: &Groups) -> &'a str {
    indexes.iter().find_map(|index| groups[*index]).map_or("", |(start, end)| &source[start..end])
}

/// The name after a `$` and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (inner, braced) = text.strip_prefix('{').map_or((text, false), |inner| (inner, true));
    let end = inner.find(|c| !is_name_character(c)).unwrap_or(inner.len());
    let (name, rest) = inner.split_at(end);
    let rest = if braced { rest.strip_prefix('}')? } else { rest };
    (!name.is_empty()).then_some((name, rest))
}

fn is_name_character(c: char) -> bool {
    static LETTER_OR_DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new("[\\pL\\p{Nd}]").expect("a valid class"));
    match c.is_ascii() {
        true => c == '_' || c.is_ascii_alphanumeric(),
        false => LETTER_OR_DIGIT.is_match(c.encode_utf8(&mut [0; 4])),
    }
}

/// Digits are a number, unless there are leading zeros or too many; then they are a name.
fn group_number(name: &str) -> Option<usize> {
    let is_number = name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    (is_number && name.len() <= 9).then(|| name.parse().ok())?
}
