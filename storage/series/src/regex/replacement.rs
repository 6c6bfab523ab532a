//! `$1`, `${name}` and `$$` in the replacement of a match: parsed once, expanded for every match.
//!
//! The rules are those of Go's `Regexp.Expand`. A name extends over all letters, digits and underscores, so `$1x` names
//! the group "1x". A group that does not exist or took no part is empty. A `$` before anything else is a dollar sign.

use super::{Groups, Regex};
use std::sync::LazyLock;

/// A replacement text whose group names are resolved.
#[derive(Clone, Debug)]
pub struct Replacement(Vec<Part>);

/// A part of a replacement. Neighbouring texts are one part, and no text is empty.
#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// The first of these groups that took part in the match.
    Group(Vec<usize>),
}

impl Replacement {
    /// Parses `text` for matches of `regex`.
    pub fn parse(text: &str, regex: &Regex) -> Replacement {
        let mut replacement = Replacement(Vec::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            replacement.push_text(before);
            if let Some(after) = after.strip_prefix('$') {
                replacement.push_text("$");
                rest = after;
            } else if let Some((name, after)) = reference(after) {
                replacement.push_group(name, regex);
                rest = after;
            } else {
                replacement.push_text("$");
                rest = after;
            }
        }
        replacement.push_text(rest);
        replacement
    }

    /// Returns the text if it is the same for every match.
    pub fn constant(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Returns the text for a match in `source`. `buffer` is used only if the text consists of several parts.
    pub fn expand<'a>(&'a self, source: &'a str, groups: &Groups, buffer: &'a mut String) -> &'a str {
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

    /// Appends the text for a match in `source` to `out`.
    pub fn append(&self, source: &str, groups: &Groups, out: &mut String) {
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

/// Splits the text after a `$` into the name and what follows it.
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

/// Returns the number of a group. Digits with leading zeros, and more than nine of them, are a name.
fn group_number(name: &str) -> Option<usize> {
    let is_number = name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    (is_number && name.len() <= 9).then(|| name.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_are_expanded_as_go_expands_them() {
        let regex = Regex::new("(?P<first>a+)-(?P<second>b*)(?P<both>x)?(?P<both>y)?").unwrap();
        for (template, want) in [
            ("", ""),
            ("plain", "plain"),
            ("$1", "aa"),
            ("$1$2", "aab"),
            ("${1}x$2", "aaxb"),
            ("$1x", ""),
            ("$first ${second}", "aa b"),
            ("$0", "aa-by"),
            ("$both", "y"),
            ("$3", ""),
            ("$9", ""),
            ("$01", ""),
            ("$$1 $", "$1 $"),
            ("${1", "${1"),
            ("$-", "$-"),
            ("${}", "${}"),
            ("$é", ""),
        ] {
            let replacement = Replacement::parse(template, &regex);
            let (text, mut groups, mut buffer, mut appended) = ("aa-by", Groups::new(), String::new(), String::new());
            assert!(regex.find_groups(text, &mut groups));
            assert_eq!(replacement.expand(text, &groups, &mut buffer), want, "{template:?}");
            replacement.append(text, &groups, &mut appended);
            assert_eq!(appended, want, "{template:?}");
            assert!(replacement.constant().is_none_or(|constant| constant == want), "{template:?}");
        }
    }
}
