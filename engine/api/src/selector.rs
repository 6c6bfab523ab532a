//! Selectors as text, by way of the promql-parser crate. The only file that knows that crate.

use promql_parser::label::{MatchOp as ParsedOp, Matcher as ParsedMatcher};
use promql_parser::parser::{Expr, parse};
use series::{MatchOp, Matcher};

/// Longest selector.
const SELECTOR_BYTES_MAX: usize = 64 << 10;

/// Reads an instant selector; the error is for whoever wrote it.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, String> {
    if text.len() > SELECTOR_BYTES_MAX {
        return Err(format!("selector of {} bytes is longer than {SELECTOR_BYTES_MAX}", text.len()));
    }
    let expression = parse(text).map_err(|error| format!("parse error: {error}"))?;
    let Expr::VectorSelector(selector) = expression else {
        return Err("parse error: expected an instant vector selector".to_owned());
    };
    if selector.offset.is_some() || selector.at.is_some() {
        return Err("parse error: a selector here takes no offset and no @".to_owned());
    }
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
