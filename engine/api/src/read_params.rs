//! Parameters that the endpoints for reading share: selectors, limits, escaped label names.
//!
//! Invariant: a selector that every series satisfies is refused, whoever takes selectors. A client that wants all series
//! says so, for example by `{__name__!=""}`.

use crate::answer::ApiError;
use crate::params::Params;
use ahash::AHashSet;
use promql::{MATCHERS_MAX, SELECTORS_MATCHERS_MAX};
use series::Matcher;

/// Prometheus' text for a selector that every series satisfies.
const SELECTS_EVERYTHING: &str = "match[] must contain at least one non-empty matcher";
/// What an escaped label name begins with.
const ESCAPED: &str = "U__";
/// Digits of the highest character.
const HEX_DIGITS_MAX: usize = 6;

/// The selectors of `match[]`, in their order; none if the parameter is not there.
///
/// # Errors
/// The text about the first selector that cannot be read, else about one that selects everything.
pub fn selectors(params: &Params) -> Result<Vec<Vec<Matcher>>, String> {
    let parse = |text| promql::parse_selector(text).map_err(|error| error.to_string());
    // A selector that is given again selects nothing more.
    let mut known = AHashSet::new();
    let texts = params.all("match[]").filter(|text| known.insert(*text));
    let all: Vec<Vec<Matcher>> = texts.map(parse).collect::<Result<_, _>>()?;
    if all.iter().map(Vec::len).sum::<usize>() > SELECTORS_MATCHERS_MAX {
        return Err(format!("the selectors have more than {SELECTORS_MATCHERS_MAX} matchers"));
    }
    all.iter().try_for_each(|matchers| refuse_everything(matchers))?;
    Ok(all)
}

/// An error for matchers that every series satisfies, and for more than a selector may have.
pub fn refuse_everything(matchers: &[Matcher]) -> Result<(), String> {
    match promql::selects_anything(matchers) {
        true => Err(SELECTS_EVERYTHING.to_owned()),
        false if matchers.len() > MATCHERS_MAX => Err(format!("a selector has more than {MATCHERS_MAX} matchers")),
        false => Ok(()),
    }
}

/// The selectors of `match[]` for endpoints of the API.
pub fn api_selectors(params: &Params) -> Result<Vec<Vec<Matcher>>, ApiError> {
    selectors(params).map_err(|error| ApiError::bad_data(format!("invalid parameter \"match[]\": {error}")))
}

/// Most entries of an answer; 0 is no limit.
pub fn limit(params: &Params) -> Result<usize, ApiError> {
    let invalid = |text: &str| ApiError::bad_data(format!("invalid parameter \"limit\": {text}"));
    match params.get("limit") {
        None | Some("") => Ok(0),
        Some(text) => match text.parse::<i64>() {
            Ok(limit) if limit < 0 => Err(invalid("limit must be non-negative")),
            Ok(limit) => Ok(limit as usize),
            Err(_) => Err(invalid(&format!("strconv.Atoi: parsing {text:?}: invalid syntax"))),
        },
    }
}

/// A label name that may be escaped: behind `U__`, `__` is an underscore and `_2e_` the character U+002E. What is not
/// well escaped stays as it is.
pub fn label_name(name: &str) -> String {
    name.strip_prefix(ESCAPED).and_then(unescaped).unwrap_or_else(|| name.to_owned())
}

fn unescaped(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('_') {
        name.push_str(&rest[..at]);
        let (code, behind) = rest[at + 1..].split_once('_')?;
        match code {
            "" => name.push('_'),
            _ if code.len() > HEX_DIGITS_MAX || !code.bytes().all(|byte| byte.is_ascii_hexdigit()) => return None,
            _ => name.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?),
        }
        rest = behind;
    }
    name.push_str(rest);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names() {
        for (escaped, want) in [
            ("instance", "instance"),
            ("a_b", "a_b"),
            ("U__service_2e_name", "service.name"),
            ("U__a__b", "a_b"),
            ("U___fc_", "ü"),
            ("U__", ""),
            ("U__a_2e", "U__a_2e"),
            ("U__a_xy_b", "U__a_xy_b"),
            ("U__a_110000_", "U__a_110000_"),
            ("U__a_d800_", "U__a_d800_"),
        ] {
            assert_eq!(label_name(escaped), want, "{escaped}");
        }
    }
}
