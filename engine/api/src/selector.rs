//! Selectors as text, by way of the promql-parser crate. The only file that knows that crate.

use promql_parser::label::{MatchOp as ParsedOp, Matcher as ParsedMatcher};
use promql_parser::parser::{Expr, Offset, VectorSelector, parse};
use series::{MatchOp, Matcher};
use std::time::Duration;

/// Longest selector.
const SELECTOR_BYTES_MAX: usize = 64 << 10;

/// A selector with what a query may add to it.
#[derive(Debug)]
pub struct Selected {
    pub matchers: Vec<Matcher>,
    /// Of a range selector.
    pub range: Option<Duration>,
    pub offset_ms: i64,
}

fn parse_expression(text: &str) -> Result<Expr, String> {
    if text.len() > SELECTOR_BYTES_MAX {
        return Err(format!("selector of {} bytes is longer than {SELECTOR_BYTES_MAX}", text.len()));
    }
    parse(text).map_err(|error| format!("parse error: {error}"))
}

/// Reads an instant selector; the error is for whoever wrote it.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, String> {
    let Expr::VectorSelector(selector) = parse_expression(text)? else {
        return Err("parse error: expected an instant vector selector".to_owned());
    };
    if selector.offset.is_some() || selector.at.is_some() {
        return Err("parse error: a selector here takes no offset and no @".to_owned());
    }
    matchers_of(&selector)
}

/// Reads a query that is a selector, with or without range and offset.
pub fn parse_selected(text: &str) -> Result<Selected, String> {
    let (selector, range) = match parse_expression(text)? {
        Expr::VectorSelector(selector) => (selector, None),
        Expr::MatrixSelector(matrix) => (matrix.vs, Some(matrix.range)),
        _ => {
            return Err("this build answers selectors only, such as up{job=\"node\"} or up[5m]; no other PromQL".into());
        }
    };
    if selector.at.is_some() {
        return Err("this build does not know the @ modifier".into());
    }
    let millis = |duration: &Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let offset_ms = match &selector.offset {
        None => 0,
        Some(Offset::Pos(back)) => millis(back),
        Some(Offset::Neg(forth)) => -millis(forth),
    };
    Ok(Selected { matchers: matchers_of(&selector)?, range, offset_ms })
}

fn matchers_of(selector: &VectorSelector) -> Result<Vec<Matcher>, String> {
    if !selector.matchers.or_matchers.is_empty() {
        return Err("parse error: a selector here takes no `or`".to_owned());
    }
    let mut matchers = Vec::new();
    if let Some(name) = &selector.name {
        matchers.push(Matcher::new(series::METRIC_NAME, MatchOp::Equal, name).map_err(|error| error.to_string())?);
    }
    for matcher in &selector.matchers.matchers {
        matchers.push(convert(matcher)?);
    }
    if matchers.iter().all(|matcher| matcher.matches("")) {
        return Err("parse error: vector selector must contain at least one non-empty matcher".to_owned());
    }
    Ok(matchers)
}

fn convert(matcher: &ParsedMatcher) -> Result<Matcher, String> {
    let op = match &matcher.op {
        ParsedOp::Equal => MatchOp::Equal,
        ParsedOp::NotEqual => MatchOp::NotEqual,
        ParsedOp::Re(_) => MatchOp::Regex,
        ParsedOp::NotRe(_) => MatchOp::NotRegex,
    };
    Matcher::new(&matcher.name, op, &matcher.value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &[&str]) {
        let got: Vec<String> = parse_selector(text).unwrap().iter().map(Matcher::to_string).collect();
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn selectors() {
        check("up", &[r#"__name__="up""#]);
        check(r#"up{job="j",x!~"a|b"}"#, &[r#"__name__="up""#, r#"job="j""#, r#"x!~"a|b""#]);
        check(r#"{__name__=~"job:.*"}"#, &[r#"__name__=~"job:.*""#]);
        check(r#"{"u.tf8"}"#, &[r#"__name__="u.tf8""#]);
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "{", "{}", "up[5m]", "up + 1", "up offset 5m", r#"{x=~".*"}"#, r#"{x=~"("}"#, "rate(x[1m])"] {
            assert!(parse_selector(text).is_err(), "{text}");
        }
        assert!(parse_selector(&"x".repeat(SELECTOR_BYTES_MAX + 1)).is_err());
    }
}
