//! One condition on one label, as in a selector.

use crate::{Labels, Quoted, Regex, RegexError, is_legacy_label_name};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

/// `name op "value"`. Expressions match the whole value. An absent label compares as the empty string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    name: Box<str>,
    value: Box<str>,
    op: MatchOp,
    comparison: Comparison,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Comparison {
    Text,
    Regex(Box<Regex>),
    /// The values whose hashes leave this remainder.
    Share {
        remainder: u64,
        count: u64,
    },
}

impl Matcher {
    /// Returns a matcher.
    ///
    /// # Errors
    /// If `value` is an invalid expression of a `=~` or `!~`.
    pub fn new(name: &str, op: MatchOp, value: &str) -> Result<Matcher, RegexError> {
        let comparison = match op {
            MatchOp::Regex | MatchOp::NotRegex => Comparison::Regex(Box::new(Regex::new(value)?)),
            MatchOp::Equal | MatchOp::NotEqual => Comparison::Text,
        };
        Ok(Matcher { name: name.into(), value: value.into(), op, comparison })
    }

    /// Returns a matcher that no selector can express, for one of `count` shares of all values: those whose hash divided by
    /// `count` leaves `remainder`. Every value, the absent one included, is in one share. A share of 3 is divided into shares
    /// of 48 with the remainders r, r + 3, r + 6, and so on.
    #[must_use]
    pub fn share(name: &str, remainder: u64, count: u64) -> Matcher {
        let value = format!("share {remainder} of {count}");
        let comparison = Comparison::Share { remainder, count: count.max(1) };
        Matcher { name: name.into(), value: value.into(), op: MatchOp::Regex, comparison }
    }

    /// Returns the name of the label.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how the value is compared.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// Returns the value or the text of the expression.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns the expression of a `=~` or `!~`, for callers that look up values by its literals or its prefix.
    pub fn regex(&self) -> Option<&Regex> {
        match &self.comparison {
            Comparison::Regex(regex) => Some(regex),
            Comparison::Text | Comparison::Share { .. } => None,
        }
    }

    /// Returns whether a label with this value satisfies the matcher. An absent label has the value "".
    pub fn matches(&self, value: &str) -> bool {
        let is_match = match &self.comparison {
            Comparison::Text => value == &*self.value,
            Comparison::Regex(regex) => regex.is_match(value),
            Comparison::Share { remainder, count } => xxh3_64(value.as_bytes()) % count == *remainder,
        };
        is_match == matches!(self.op, MatchOp::Equal | MatchOp::Regex)
    }

    /// Returns whether the label set satisfies the matcher.
    pub fn matches_labels(&self, labels: &Labels) -> bool {
        self.matches(labels.get(&self.name).unwrap_or(""))
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        };
        if is_legacy_label_name(&self.name) {
            f.write_str(&self.name)?
        } else {
            Quoted(&self.name).fmt(f)?
        }
        write!(f, "{op}{}", Quoted(&self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(op: MatchOp, value: &str, text: &str, matching: &[&str], others: &[&str]) {
        let matcher = Matcher::new("zone", op, value).unwrap();
        assert_eq!(matcher.to_string(), text);
        for (zones, want) in [(matching, true), (others, false)] {
            for zone in zones {
                assert_eq!(matcher.matches(zone), want, "{matcher} on {zone:?}");
                let labels = Labels::from_pairs([("job", "x"), ("zone", *zone)]);
                assert_eq!(matcher.matches_labels(&labels), want, "{matcher} on {labels}");
            }
        }
        let without = Labels::from_pairs([("job", "x")]);
        assert_eq!(matcher.matches_labels(&without), matcher.matches(""), "{matcher} without the label");
    }

    #[test]
    fn the_whole_value_is_compared() {
        check(MatchOp::Equal, "a", r#"zone="a""#, &["a"], &["", "ab"]);
        check(MatchOp::Equal, "", r#"zone="""#, &[""], &["a"]);
        check(MatchOp::NotEqual, "a", r#"zone!="a""#, &["", "b"], &["a"]);
        check(MatchOp::Regex, "a|b", r#"zone=~"a|b""#, &["a", "b"], &["", "ab"]);
        check(MatchOp::Regex, "a.*", r#"zone=~"a.*""#, &["a", "a\n"], &["", "ba"]);
        check(MatchOp::NotRegex, ".+", r#"zone!~".+""#, &[""], &["a"]);
    }

    #[test]
    fn shares_are_disjoint_and_complete_also_when_divided() {
        let values = (0..1000).map(|i| format!("10.0.0.{i}:9100")).chain([String::new(), "é".into()]);
        for value in values {
            let of = |count: u64| {
                let share = |remainder: &u64| Matcher::share("zone", *remainder, count).matches(&value);
                let all: Vec<u64> = (0..count).filter(share).collect();
                assert_eq!(all.len(), 1, "{value:?} is in {all:?} of {count}");
                all[0]
            };
            assert_eq!((of(1), of(48) % 3), (0, of(3)), "{value:?}");
        }
    }

    #[test]
    fn a_refused_expression_is_an_error() {
        assert!(Matcher::new("zone", MatchOp::Regex, "(").is_err());
        assert!(Matcher::new("zone", MatchOp::Equal, "(").is_ok());
    }

    #[test]
    fn names_are_quoted_where_they_need_it() {
        assert_eq!(Matcher::new("a.b", MatchOp::Equal, "c").unwrap().to_string(), r#""a.b"="c""#);
    }
}
