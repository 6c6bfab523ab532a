//! Target groups in JSON, as files, HTTP services and our own folder hold them.
//!
//! The whole text is looked at by simd-json in place, so a list of 50,000 targets costs a few milliseconds.

use super::{Group, TARGETS_MAX};
use serde::Deserialize;
use series::Labels;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonGroup<'a> {
    #[serde(borrow, default)]
    targets: Option<Vec<&'a str>>,
    #[serde(borrow, default)]
    labels: Option<BTreeMap<&'a str, &'a str>>,
}

/// Reads the list; the text is used up. `origin` is one more label of every group.
pub fn parse(json: &mut [u8], origin: (&str, &str)) -> Result<Vec<Arc<Group>>, String> {
    let groups: Vec<Option<JsonGroup>> =
        simd_json::serde::from_slice(json).map_err(|error| format!("not a list of target groups in JSON: {error}"))?;
    let count: usize = groups.iter().flatten().filter_map(|group| group.targets.as_ref()).map(Vec::len).sum();
    if count > TARGETS_MAX {
        return Err(too_many(count));
    }
    let group = |(index, group): (usize, Option<JsonGroup>)| {
        let group = group.ok_or_else(|| format!("nil target group item found (index {index})"))?;
        let mut labels = group.labels.unwrap_or_default();
        if labels.contains_key("") {
            return Err(format!("\"\" is not a valid label name (group {index})"));
        }
        labels.insert(origin.0, origin.1);
        let target = |address: &str| Labels::from_sorted([("__address__", address)]);
        let targets = group.targets.unwrap_or_default().into_iter().map(target).collect();
        Ok(Arc::new(Group { targets, labels: Labels::from_sorted(labels) }))
    };
    groups.into_iter().enumerate().map(group).collect()
}

/// What to say of a list that is too long.
pub fn too_many(count: usize) -> String {
    format!("{count} targets are more than the {TARGETS_MAX} that one source may give; split the list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, want: Result<&str, &str>) {
        let got = parse(&mut json.as_bytes().to_vec(), ("__meta_url", "u"));
        let shown = got.map(|groups| {
            let group = |group: &Arc<Group>| {
                let targets: Vec<String> = group.targets.iter().map(Labels::to_string).collect();
                format!("{} {}", group.labels, targets.join(" "))
            };
            groups.iter().map(group).collect::<Vec<_>>().join("; ")
        });
        match (shown, want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{json}"),
            (Err(got), Err(want)) => assert!(got.contains(want), "{json}: {got}"),
            (got, want) => panic!("{json}: {got:?}, wanted {want:?}"),
        }
    }

    #[test]
    fn lists() {
        check("[]", Ok(""));
        check(r#"[{"targets": ["a:1"]}]"#, Ok(r#"{__meta_url="u"} {__address__="a:1"}"#));
        check(
            r#"[{"labels": {"b": "\"\u00e9", "a": ""}, "targets": ["x", "y"]}, {"targets": null}]"#,
            Ok(r#"{__meta_url="u", a="", b="\"é"} {__address__="x"} {__address__="y"}; {__meta_url="u"} "#),
        );
        check("[null]", Err("nil target group item found (index 0)"));
        check(r#"[{"labels": {"": "x"}}]"#, Err("not a valid label name"));
        check(r#"[{"target": ["a"]}]"#, Err("unknown field"));
        check(r#"[{"targets": ["a", 5]}]"#, Err("JSON"));
        check(r#"{"targets": []}"#, Err("JSON"));
        check(r#"[{"targets": ["a:1"]}"#, Err("JSON"));
        check("", Err("JSON"));
        check("<html>", Err("JSON"));
    }

    #[test]
    fn a_list_that_is_too_long_is_refused() {
        let json = format!("[{{\"targets\": [{}\"x\"]}}]", "\"x\",".repeat(1_000_000));
        check(&json, Err("1000001 targets are more than the 500000"));
    }

    #[test]
    fn a_list_cut_anywhere_is_an_error() {
        let json = r#"[{"targets": ["a:1", "b"], "labels": {"x": "y"}}]"#;
        for length in 0..json.len() {
            assert!(parse(&mut json.as_bytes()[..length].to_vec(), ("m", "u")).is_err(), "cut at {length}");
        }
    }
}
