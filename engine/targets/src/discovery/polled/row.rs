//! From a row of an answer to the labels of a target: tables of labels, and texts as Prometheus has them.

use super::super::{host_port, sanitized};
use serde_json::Value;
use series::Labels;

/// One entry of a table of labels. Names stand without the prefix of the mechanism; pointers are JSON pointers from the row.
/// What is absent, null or empty gives no label; what has another type than expected is an error.
#[derive(Clone, Copy, Debug)]
pub enum Label {
    /// The scalar at the pointer.
    At(&'static str, &'static str),
    /// The same in lower case.
    Lower(&'static str, &'static str),
    /// A list of scalars with commas between them and around them.
    Around(&'static str, &'static str),
    /// A list of scalars with commas between them.
    Between(&'static str, &'static str),
    /// An object: name and sanitized key, with the value.
    Map(&'static str, &'static str),
    /// An object: name and sanitized key, with `true`.
    Present(&'static str, &'static str),
    /// A list of objects: name and sanitized value of the first field, with the value of the second one.
    Pairs(&'static str, &'static str, &'static str, &'static str),
}

/// Builds the labels of one target. The first error is kept and returned at the end.
#[derive(Clone, Debug)]
pub struct Row {
    prefix: &'static str,
    labels: Vec<(String, String)>,
    error: Option<String>,
}

impl Row {
    pub fn new(prefix: &'static str) -> Row {
        Row { prefix, labels: Vec::new(), error: None }
    }

    /// Takes the labels of a table from a row of an answer.
    pub fn fill(&mut self, table: &[Label], row: &Value) {
        for label in table {
            self.take(label, row);
        }
    }

    fn take(&mut self, label: &Label, row: &Value) {
        match *label {
            Label::At(name, pointer) => {
                let value = self.scalar(row, pointer);
                self.set(name, value);
            }
            Label::Lower(name, pointer) => {
                let value = self.scalar(row, pointer).to_lowercase();
                self.set(name, value);
            }
            Label::Around(name, pointer) => {
                let texts = self.scalars(row, pointer);
                self.set(name, around(&texts, ","));
            }
            Label::Between(name, pointer) => {
                let texts = self.scalars(row, pointer);
                self.set(name, texts.join(","));
            }
            Label::Map(name, pointer) | Label::Present(name, pointer) => {
                let is_present = matches!(label, Label::Present(..));
                for (key, value) in self.object(row, pointer) {
                    let value = if is_present { Ok("true".to_owned()) } else { text_of(value) };
                    let value = self.checked(value, pointer);
                    self.set(&format!("{name}{}", sanitized(key)), value);
                }
            }
            Label::Pairs(name, pointer, key, value) => {
                for pair in self.list(row, pointer) {
                    let (key, value) = (self.scalar(pair, key), self.scalar(pair, value));
                    if !key.is_empty() {
                        self.set(&format!("{name}{}", sanitized(&key)), value);
                    }
                }
            }
        }
    }

    /// Sets a label of the mechanism. An empty value gives none.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let name = format!("{}{name}", self.prefix);
        self.set_plain(name, value);
    }

    /// Sets a label without the prefix.
    pub fn set_plain(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.labels.push((name.into(), value));
        }
    }

    /// Sets the address; without a host there is none, and the target is shown as one that cannot be scraped.
    pub fn address(&mut self, host: &str, port: impl std::fmt::Display) {
        if !host.is_empty() {
            self.set_plain("__address__", host_port(host, port));
        }
    }

    /// Keeps the first error.
    pub fn fail(&mut self, error: impl Into<String>) {
        if self.error.is_none() {
            self.error = Some(error.into());
        }
    }

    fn checked(&mut self, value: Result<String, String>, pointer: &str) -> String {
        value.unwrap_or_else(|error| {
            self.fail(format!("{pointer}: {error}"));
            String::new()
        })
    }

    /// Returns the scalar at a pointer as text.
    pub fn scalar(&mut self, row: &Value, pointer: &str) -> String {
        let value = row.pointer(pointer).map_or(Ok(String::new()), text_of);
        self.checked(value, pointer)
    }

    /// Returns the list of scalars at a pointer.
    pub fn scalars(&mut self, row: &Value, pointer: &str) -> Vec<String> {
        let list = self.list(row, pointer);
        list.iter().map(|value| self.checked(text_of(value), pointer)).collect()
    }

    /// Returns the list at a pointer; absent and null are empty lists.
    pub fn list<'a>(&mut self, row: &'a Value, pointer: &str) -> &'a [Value] {
        match row.pointer(pointer) {
            Some(Value::Array(list)) => list,
            None | Some(Value::Null) => &[],
            // An element without content in XML.
            Some(Value::String(text)) if text.trim().is_empty() => &[],
            Some(_) => {
                self.fail(format!("{pointer}: not a list"));
                &[]
            }
        }
    }

    fn object<'a>(&mut self, row: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        let object = match row.pointer(pointer) {
            Some(Value::Object(object)) => Some(object),
            None | Some(Value::Null) => None,
            Some(_) => {
                self.fail(format!("{pointer}: not an object"));
                None
            }
        };
        object.into_iter().flatten()
    }

    /// Returns the labels, in which the first of equal names counts.
    pub fn finish(self) -> Result<Labels, String> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut labels = self.labels;
        labels.sort_by(|one, other| one.0.cmp(&other.0));
        labels.dedup_by(|later, first| later.0 == first.0);
        Ok(Labels::from_pairs(labels))
    }
}

/// Returns texts with a separator between them and around them, or an empty text for none.
pub fn around(texts: &[String], separator: &str) -> String {
    if texts.is_empty() { String::new() } else { format!("{separator}{}{separator}", texts.join(separator)) }
}

/// Returns a scalar as text; null is empty.
pub fn text_of(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => general(float),
            None => number.to_string(),
        }),
        Value::Array(_) => Err("a list where a text was expected".to_owned()),
        Value::Object(_) => Err("an object where a text was expected".to_owned()),
    }
}

/// Returns the text at a pointer, or an empty one.
pub fn text_at<'a>(row: &'a Value, pointer: &str) -> &'a str {
    row.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// Returns a number as Go's `%g` has it.
pub fn general(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return number.to_string();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Takes the rows of a list out of an answer. It must be there: an answer without it says nothing about the list.
pub fn rows_of(body: &mut Value, pointer: &str) -> Result<Vec<Value>, String> {
    let (pointer, may_be_absent) = pointer.strip_suffix('?').map_or((pointer, false), |pointer| (pointer, true));
    let shown = if pointer.is_empty() { "the answer" } else { pointer };
    if may_be_absent && !body.is_object() && !pointer.is_empty() {
        return Err("the answer is not an object".to_owned());
    }
    let rows = match body.pointer_mut(pointer).map(Value::take) {
        Some(Value::Array(rows)) => rows,
        None | Some(Value::Null) if may_be_absent => return Ok(Vec::new()),
        // An element without content in XML.
        Some(Value::String(text)) if may_be_absent && text.trim().is_empty() => return Ok(Vec::new()),
        None => return Err(format!("the answer has no list {shown}")),
        Some(_) => return Err(format!("{shown} is not a list")),
    };
    match rows.iter().find(|row| matches!(row, Value::Null | Value::Array(_) | Value::Bool(_))) {
        Some(_) => Err(format!("{shown} holds an entry that is no object")),
        None => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(table: &[Label], row: Value, want: &str) {
        let mut labels = Row::new("p_");
        labels.fill(table, &row);
        let shown = |labels: Labels| labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        assert_eq!(labels.finish().map_or_else(|error| error, |labels| shown(labels).join(" ")), want);
    }

    #[test]
    fn tables_become_labels() {
        use Label::{Around, At, Between, Lower, Map, Pairs, Present};
        let row = || {
            json!({"id": 7, "f": 1.5, "b": false, "n": null, "dc": {"name": "FSN1"}, "tags": ["x", 2], "none": [],
                   "labels": {"a-b": "c"}, "pairs": [{"k": "Na me", "v": "w"}, {"k": "", "v": "u"}, {"k": "only"}]})
        };
        check(
            &[At("id", "/id"), At("f", "/f"), At("b", "/b"), At("n", "/n"), At("x", "/x/y")],
            row(),
            "p_b=false p_f=1.5 p_id=7",
        );
        check(&[Lower("dc", "/dc/name")], row(), "p_dc=fsn1");
        check(&[Around("t", "/tags"), Between("u", "/tags"), Around("e", "/none")], row(), "p_t=,x,2, p_u=x,2");
        check(&[Map("l_", "/labels"), Present("lp_", "/labels")], row(), "p_l_a_b=c p_lp_a_b=true");
        check(&[Pairs("tag_", "/pairs", "/k", "/v")], row(), "p_tag_Na_me=w");
        check(&[At("id", "/dc")], row(), "/dc: an object where a text was expected");
        check(&[At("id", "/tags")], row(), "/tags: a list where a text was expected");
        check(&[Around("t", "/id")], row(), "/id: not a list");
        check(&[Map("t", "/tags")], row(), "/tags: not an object");
        check(&[At("first", "/id"), At("first", "/f")], row(), "p_first=7");
    }

    #[test]
    fn numbers_are_texts_as_go_has_them() {
        let texts = [1.5, 9100.0, 123_456.0, 1_234_567.0, 1e21, 1e-5, 0.001, 1.25e-7].map(general);
        assert_eq!(texts, ["1.5", "9100", "123456", "1.234567e+06", "1e+21", "1e-05", "0.001", "1.25e-07"]);
    }

    #[test]
    fn lists_are_there_or_errors() {
        let rows = |mut body: Value, pointer: &str| rows_of(&mut body, pointer).map(|rows| rows.len());
        assert_eq!(rows(json!({"a": [{}, {}]}), "/a"), Ok(2));
        assert_eq!(rows(json!([{}]), ""), Ok(1));
        for (body, pointer) in [
            (json!({}), "/a"),
            (json!(null), "/a"),
            (json!(null), ""),
            (json!({"a": null}), "/a"),
            (json!({"a": {}}), "/a"),
            (json!({"a": {}}), "/a?"),
            (json!([]), "/a?"),
            (json!({"a": [null]}), "/a"),
            (json!({"a": [[]]}), "/a"),
        ] {
            assert!(rows(body.clone(), pointer).is_err(), "{body} {pointer}");
        }
        assert_eq!(rows(json!({}), "/a?"), Ok(0));
        assert_eq!(rows(json!({"a": null}), "/a?"), Ok(0));
    }
}
