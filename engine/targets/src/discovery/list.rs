//! Target groups in JSON, as files and HTTP services contain them.
//!
//! Invariants:
//!   * a group with the text of a group of the last valid list is not parsed again and is the same `Arc`
//!   * the meaning of a list does not depend on the lists before it

use super::bounded::Bounded;
use super::{Group, TARGETS_MAX, random};
use ahash::HashMap;
use memchr::memchr2;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use series::Labels;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128_with_seed;

const TOO_MANY_GROUPS: &str = "more than 500000 groups; split the list";
/// The list is parsed as a whole if more than one of this many groups has changed.
const FEW_OF: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonGroup<'a> {
    #[serde(borrow, default)]
    targets: Option<Vec<&'a str>>,
    #[serde(borrow, default)]
    labels: Option<BTreeMap<&'a str, &'a str>>,
}

impl<'a> JsonGroup<'a> {
    fn into_parts(self) -> Parts<'a> {
        (self.targets.unwrap_or_default(), self.labels.unwrap_or_default())
    }
}

/// The same as Go reads it: names of fields in any case, the last of two equal ones, and nulls as empty texts.
#[derive(Default)]
struct GoGroup {
    targets: Vec<String>,
    labels: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for GoGroup {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<GoGroup, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = GoGroup;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a target group")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<GoGroup, M::Error> {
                let mut group = GoGroup::default();
                while let Some(name) = fields.next_key::<Cow<str>>()? {
                    if name.eq_ignore_ascii_case("targets") {
                        let targets = fields.next_value::<Option<Vec<Option<String>>>>()?;
                        group.targets = targets.into_iter().flatten().map(Option::unwrap_or_default).collect();
                    } else if name.eq_ignore_ascii_case("labels") {
                        let labels = fields.next_value::<Option<BTreeMap<String, Option<String>>>>()?;
                        let labels = labels.into_iter().flatten();
                        group.labels = labels.map(|(name, value)| (name, value.unwrap_or_default())).collect();
                    } else {
                        return Err(de::Error::custom(format_args!("unknown field {name:?}")));
                    }
                }
                Ok(group)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Parses the successive lists of one source. Cloning copies a pointer.
#[derive(Clone)]
pub struct ListReader {
    /// A label that is added to every group.
    origin: (&'static str, Arc<str>),
    /// The groups of the last valid list and a hash of the text of each; empty if the text could not be split.
    last: Arc<Vec<(u128, Arc<Group>)>>,
    /// Random, so that the writer of a list cannot construct two groups with equal hashes.
    seed: u64,
}

impl ListReader {
    pub fn new(label: &'static str, origin: &str) -> ListReader {
        ListReader { origin: (label, origin.into()), last: Arc::default(), seed: random() }
    }

    /// Parses the next list.
    pub fn read(&mut self, json: &[u8]) -> Result<Vec<Arc<Group>>, String> {
        let texts = split(json);
        if texts.as_ref().is_some_and(|texts| texts.len() > TARGETS_MAX) {
            return Err(TOO_MANY_GROUPS.to_owned());
        }
        let hash = |text: &Range<usize>| xxh3_128_with_seed(&json[text.clone()], self.seed);
        let hashes: Vec<u128> = texts.iter().flatten().map(hash).collect();
        let groups = match texts.and_then(|texts| self.read_news(json, &texts, &hashes)) {
            Some(groups) => groups,
            // The fast parser knows lists as nearly all are; what it refuses may be one in Go's eyes.
            None if !hashes.is_empty() => match parse(&mut json.to_vec(), self.origin()) {
                Ok(groups) => groups,
                Err(_) => parse_as_go(json, self.origin())?,
            },
            None => parse_as_go(json, self.origin())?,
        };
        let count: usize = groups.iter().map(|group| group.targets.len()).sum();
        if count > TARGETS_MAX {
            return Err(too_many(count));
        }
        let is_apart = hashes.len() == groups.len();
        self.last =
            Arc::new(if is_apart { hashes.into_iter().zip(groups.iter().cloned()).collect() } else { Vec::new() });
        Ok(groups)
    }

    fn origin(&self) -> (&str, &str) {
        (self.origin.0, &self.origin.1)
    }

    /// Returns the list, if few of its groups have to be parsed and they are valid.
    fn read_news(&self, json: &[u8], texts: &[Range<usize>], hashes: &[u128]) -> Option<Vec<Arc<Group>>> {
        let news_max = self.last.len() / FEW_OF;
        if texts.len() > self.last.len() + news_max {
            return None;
        }
        let mut by_hash: Option<HashMap<u128, &Arc<Group>>> = None;
        let mut news_count = 0;
        let mut groups = Vec::with_capacity(texts.len());
        for (index, (text, hash)) in texts.iter().zip(hashes).enumerate() {
            let known = match self.last.get(index) {
                Some((last, group)) if last == hash => Some(group),
                _ => {
                    let all = || self.last.iter().map(|(hash, group)| (*hash, group)).collect();
                    by_hash.get_or_insert_with(all).get(hash).copied()
                }
            };
            match known {
                Some(group) => groups.push(group.clone()),
                None if news_count == news_max => return None,
                None => {
                    news_count += 1;
                    let mut alone = [b"[", &json[text.clone()], b"]"].concat();
                    groups.append(&mut parse(&mut alone, self.origin()).ok()?);
                }
            }
        }
        Some(groups)
    }
}

/// Returns the byte ranges of the groups of a list, or `None` if the text is no list of objects. Does not validate them.
/// Stops after more groups than a list may have: built, empty groups would take many times the size of their text.
fn split(json: &[u8]) -> Option<Vec<Range<usize>>> {
    let skip = |at: usize| at + json[at..].iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
    let mut texts = Vec::new();
    let mut at = skip(0);
    if json.get(at) != Some(&b'[') {
        return None;
    }
    loop {
        at = skip(at + 1);
        let start = at;
        at = object_end(json, start)?;
        texts.push(start..at);
        if texts.len() > TARGETS_MAX {
            return Some(texts);
        }
        at = skip(at);
        match json.get(at)? {
            b',' => {}
            b']' if skip(at + 1) == json.len() => return Some(texts),
            _ => return None,
        }
    }
}

/// Returns the end of the object that begins here.
fn object_end(json: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = start;
    if json.get(at) != Some(&b'{') {
        return None;
    }
    loop {
        match json.get(at)? {
            b'"' => at = string_end(json, at + 1)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return Some(at + 1),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}

/// Returns the position of the quote that ends the string.
fn string_end(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Parses a whole list. The text is overwritten.
fn parse(json: &mut [u8], origin: (&str, &str)) -> Result<Vec<Arc<Group>>, String> {
    let groups: Vec<Option<JsonGroup>> = simd_json::serde::from_slice(json).map_err(no_list)?;
    build(groups.into_iter().map(|group| group.map(JsonGroup::into_parts)), origin)
}

/// The same by the rules of Go's decoder, for lists that the fast parser refuses. Bytes that are no UTF-8 are replaced.
fn parse_as_go(json: &[u8], origin: (&str, &str)) -> Result<Vec<Arc<Group>>, String> {
    let text = String::from_utf8_lossy(json);
    let groups: Bounded<Option<GoGroup>> = serde_json::from_str(&text).map_err(no_list)?;
    let borrowed = groups.0.iter().map(|group| {
        let group = group.as_ref()?;
        let labels = group.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Some((group.targets.iter().map(String::as_str).collect(), labels))
    });
    build(borrowed, origin)
}

fn no_list(error: impl fmt::Display) -> String {
    format!("not a list of target groups in JSON: {error}")
}

/// Addresses and labels of a group as its text has them.
type Parts<'a> = (Vec<&'a str>, BTreeMap<&'a str, &'a str>);

/// Builds groups of their parts.
fn build<'a>(
    groups: impl ExactSizeIterator<Item = Option<Parts<'a>>>,
    origin: (&'a str, &'a str),
) -> Result<Vec<Arc<Group>>, String> {
    let mut built = Vec::with_capacity(groups.len());
    let mut count = 0;
    let mut error = None;
    for (index, group) in groups.enumerate() {
        let Some((targets, mut labels)) = group else {
            error.get_or_insert_with(|| format!("nil target group item found (index {index})"));
            continue;
        };
        count += targets.len();
        if labels.contains_key("") {
            error.get_or_insert_with(|| format!("\"\" is not a valid label name (group {index})"));
        }
        // A list that is too long is counted to its end, and not built.
        if count > TARGETS_MAX || error.is_some() {
            continue;
        }
        labels.insert(origin.0, origin.1);
        let target = |address: &str| Labels::from_sorted([("__address__", address)]);
        let targets = targets.into_iter().map(target).collect();
        built.push(Arc::new(Group { targets, labels: Labels::from_sorted(labels) }));
    }
    if count > TARGETS_MAX {
        return Err(too_many(count));
    }
    error.map_or(Ok(built), Err)
}

/// Returns the error for a list that is too long.
pub fn too_many(count: usize) -> String {
    format!("{count} targets are more than the {TARGETS_MAX} that one source may give; split the list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, want: Result<&str, &str>) {
        check_after(json, json, want);
    }

    /// Returns the meaning of a list for a reader that has read another one before.
    #[track_caller]
    fn check_after(before: &str, json: &str, want: Result<&str, &str>) {
        let mut reader = ListReader::new("__meta_url", "u");
        let _ = reader.read(before.as_bytes());
        let got = reader.read(json.as_bytes());
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
        // As Go's decoder reads them.
        let a = Ok(r#"{__meta_url="u", x="y"} {__address__="a:1"}"#);
        check(r#"[{"Targets": ["a:1"], "LABELS": {"x": "y"}}]"#, a);
        check(r#"[{"targets": ["b:1"], "targets": ["a:1"], "labels": {"x": "y"}}]"#, a);
        check(
            r#"[{"targets": [null, "a:1"], "labels": null}]"#,
            Ok(r#"{__meta_url="u"} {__address__=""} {__address__="a:1"}"#),
        );
        check(r#"[{"labels": {"x": null}, "targets": ["a:1"]}]"#, Ok(r#"{__meta_url="u", x=""} {__address__="a:1"}"#));
        check("null", Err("JSON"));
        check("[[]]", Err("JSON"));
        check(r#"[{"targets": ["a:1"], "labels": {"x": 5}}]"#, Err("JSON"));
        check(r#"[{"targets": ["a:1"], "labels": {"x": true}}]"#, Err("JSON"));
        check(r#"[{"labels": {"": "x"}}]"#, Err("not a valid label name"));
        check(r#"[{"target": ["a"]}]"#, Err("unknown field"));
        check(r#"[{"targets": ["a", 5]}]"#, Err("JSON"));
        check(r#"{"targets": []}"#, Err("JSON"));
        check(r#"[{"targets": ["a:1"]}"#, Err("JSON"));
        check("", Err("JSON"));
        check("<html>", Err("JSON"));
    }

    #[test]
    fn bytes_that_are_no_utf_8_are_replaced() {
        let groups =
            ListReader::new("m", "u").read(b"[{\"targets\": [\"a:1\"], \"labels\": {\"x\": \"\xff\"}}]").unwrap();
        assert_eq!(groups[0].labels.get("x"), Some("\u{fffd}"));
    }

    #[test]
    fn a_list_that_is_too_long_is_refused() {
        let json = format!("[{{\"targets\": [{}\"x\"]}}]", "\"x\",".repeat(1_000_000));
        check(&json, Err("1000001 targets are more than the 500000"));
        check(&format!("[{}{{}}]", "{},".repeat(TARGETS_MAX)), Err("more than 500000 groups"));
        // A list that begins with a null is not split.
        check(&format!("[null{}]", ",{}".repeat(TARGETS_MAX)), Err("more than 500000 entries"));
    }

    #[test]
    fn a_list_cut_anywhere_is_an_error() {
        let json = r#"[{"targets": ["a:1", "b"], "labels": {"x": "y"}}]"#;
        for length in 0..json.len() {
            let mut reader = ListReader::new("m", "u");
            assert!(reader.read(&json.as_bytes()[..length]).is_err(), "cut at {length}");
            reader.read(json.as_bytes()).unwrap();
            assert!(reader.read(&json.as_bytes()[..length]).is_err(), "cut at {length}, known whole");
        }
    }

    /// A list of twenty groups, and changes of it.
    #[test]
    fn only_news_are_read() {
        let group = |i: usize| format!(r#"{{"targets": ["t{i}:1"], "labels": {{"q": "\"}}]{i}"}}}}"#);
        let list = |groups: &[String]| format!("[ {} ]", groups.join(" ,\n"));
        let all: Vec<String> = (0..20).map(group).collect();
        let mut reader = ListReader::new("m", "u");
        let first = reader.read(list(&all).as_bytes()).unwrap();
        let same = |got: &[Arc<Group>]| got.iter().filter(|new| first.iter().any(|old| Arc::ptr_eq(old, new))).count();
        let address = |group: &Arc<Group>| group.targets[0].get("__address__").unwrap().to_owned();
        let mut changed = all.clone();
        changed[7] = group(99);
        let got = reader.read(list(&changed).as_bytes()).unwrap();
        assert_eq!((got.len(), same(&got), address(&got[7])), (20, 19, "t99:1".to_owned()));
        let mut moved = changed[1..].to_vec();
        moved.insert(3, all[7].clone());
        let got = reader.read(list(&moved).as_bytes()).unwrap();
        assert_eq!((got.len(), address(&got[3])), (20, "t7:1".to_owned()));
        assert_eq!(same(&got), 18, "a group that has been gone is read again");
        let mut broken = moved.clone();
        broken[5] = r#"{"targets": [5]}"#.to_owned();
        assert!(reader.read(list(&broken).as_bytes()).is_err());
        assert_eq!(same(&reader.read(list(&moved).as_bytes()).unwrap()), 18, "the last good list is still known");
        assert_eq!(reader.read(b"[]").unwrap().len(), 0);
        assert_eq!(reader.read(list(&all).as_bytes()).unwrap(), first);
    }

    #[test]
    fn lists_mean_the_same_after_any_other() {
        let many = |last: &str| format!("[{}{last}]", r#"{"targets": ["x"]},"#.repeat(40));
        let good = many(r#"{"targets": ["a"]}"#);
        let shown = |last: &str| format!("{}{last}", r#"{__meta_url="u"} {__address__="x"}; "#.repeat(40));
        let a = shown(r#"{__meta_url="u"} {__address__="a"}"#);
        let b = shown(r#"{__meta_url="u"} {__address__="b"}"#);
        check_after(&good, &good, Ok(&a));
        check_after(&good, &many(r#"{"targets": ["b"]}"#), Ok(&b));
        for (last, want) in [
            ("null", "nil target group item found (index 40)"),
            (r#"{"target": ["a"]}"#, "unknown field"),
            (r#"{"targets": ["a"}]"#, "JSON"),
            (r#"{"targets": ["a"]} {}"#, "JSON"),
            (r#"{"targets": ["a"]},"#, "JSON"),
            (r#"{"labels": {"": "x"}}"#, "(group 40)"),
            ("{\"targets\": [\"\u{1}\"]}", "JSON"),
            (r#"{"targets": ["a\"]}"#, "JSON"),
        ] {
            check_after(&good, &many(last), Err(want));
        }
        check_after(&good, &format!("{good} x"), Err("JSON"));
        check_after(&good, &good[1..], Err("JSON"));
    }
}
