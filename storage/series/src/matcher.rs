//! One condition on one label, as in a selector.

use crate::{Labels, Quoted, Regex, RegexError, is_legacy_label_name};
use std::fmt;

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
    regex: Option<Regex>,
}

impl Matcher {
    /// Returns a matcher.
    ///
    /// # Errors
    /// If `value` is an invalid expression of a `=~` or `!~`.
    pub fn new(name: &str, op: MatchOp, value: &str) -> Result<Matcher, RegexError> {
        let regex = match op {
            MatchOp::Regex | MatchOp::NotRegex => Some(Regex::new(value)?),
            MatchOp::Equal | MatchOp::NotEqual => None,
        };
        Ok(Matcher { name: name.into(), value: value.into(), op, regex })
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
        self.regex.as_ref()
    }

    /// Returns whether a label with this value satisfies the matcher. An absent label has the value "".
    pub fn matches(&self, value: &str) -> bool {
        let regex = || self.regex.as_ref().is_some_and(|regex| regex.is_match(value));
        match self.op {
            MatchOp::Equal => value == &*self.value,
            MatchOp::NotEqual => value != &*self.value,
            MatchOp::Regex => regex(),
            MatchOp::NotRegex => !regex(),
        }
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
    fn a_refused_expression_is_an_error() {
        assert!(Matcher::new("zone", MatchOp::Regex, "(").is_err());
        assert!(Matcher::new("zone", MatchOp::Equal, "(").is_ok());
    }

    #[test]
    fn names_are_quoted_where_they_need_it() {
        assert_eq!(Matcher::new("a.b", MatchOp::Equal, "c").unwrap().to_string(), r#""a.b"="c""#);
    }
}
