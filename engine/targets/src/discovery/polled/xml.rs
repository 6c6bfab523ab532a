//! XML answers as JSON values, so that the same tables read both.
//!
//! An element with text is a text, an element with elements is an object; several elements of one name are a list. A list of
//! AWS (`<set><item/><item/></set>`) and of XML-RPC is one by [`lists`]. Attributes are fields with `@` before their names.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde_json::{Map, Value};

/// Depth of nested elements.
const DEPTH_MAX: usize = 64;
/// Number of elements of one document.
const ELEMENTS_MAX: usize = 20_000_000;

/// An element that is not closed yet.
#[derive(Default)]
struct Open {
    name: String,
    fields: Map<String, Value>,
    text: String,
}

impl Open {
    fn of(start: &BytesStart) -> Result<Open, String> {
        let mut open = Open { name: start.local_name().as_ref().to_owned(), ..Open::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| wrong(&error))?;
            let name = attribute.key.local_name().as_ref().to_owned();
            if attribute.key.as_ref().starts_with("xmlns") {
                continue;
            }
            let value = quick_xml::escape::unescape(&attribute.value).map_err(|error| wrong(&error))?.into_owned();
            open.fields.insert(format!("@{name}"), Value::from(value));
        }
        Ok(open)
    }

    fn into_value(self) -> Value {
        if self.fields.is_empty() {
            return Value::from(self.text);
        }
        let mut fields = self.fields;
        if !self.text.trim().is_empty() {
            fields.insert("#text".to_owned(), Value::from(self.text));
        }
        Value::Object(fields)
    }

    fn add(&mut self, name: String, value: Value) {
        match self.fields.get_mut(&name) {
            None => drop(self.fields.insert(name, value)),
            Some(Value::Array(list)) => list.push(value),
            Some(one) => {
                let first = one.take();
                *one = Value::Array(vec![first, value]);
            }
        }
    }
}

fn wrong(error: &dyn std::fmt::Display) -> String {
    format!("not the expected XML: {error}")
}

/// Parses a document into an object with one field: its root element.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| wrong(&error))?;
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Open> = vec![Open::default()];
    let mut count = 0;
    loop {
        match reader.read_event().map_err(|error| wrong(&error))? {
            Event::Start(start) => {
                count += 1;
                if open.len() > DEPTH_MAX || count > ELEMENTS_MAX {
                    return Err(wrong(&format!("more than {DEPTH_MAX} levels or {ELEMENTS_MAX} elements")));
                }
                open.push(Open::of(&start)?);
            }
            Event::Empty(start) => {
                let mut element = Open::of(&start)?;
                let name = std::mem::take(&mut element.name);
                if let Some(parent) = open.last_mut() {
                    parent.add(name, element.into_value());
                }
            }
            Event::End(_) => {
                let Some(mut element) = open.pop() else { return Err(wrong(&"an element ends that did not begin")) };
                let name = std::mem::take(&mut element.name);
                let Some(parent) = open.last_mut() else { return Err(wrong(&"an element ends that did not begin")) };
                parent.add(name, element.into_value());
            }
            Event::Text(piece) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&piece);
                }
            }
            Event::CData(piece) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&piece);
                }
            }
            Event::GeneralRef(entity) => {
                let reference = format!("&{};", &*entity);
                let character = quick_xml::escape::unescape(&reference).map_err(|error| wrong(&error))?.into_owned();
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&character);
                }
            }
            Event::Eof => break,
            // Declarations, comments and processing instructions. Entities of a document type are not known.
            _ => {}
        }
    }
    match open.pop() {
        Some(root) if open.is_empty() && root.fields.len() == 1 => Ok(Value::Object(root.fields)),
        _ => Err(wrong(&"the document ends within an element or has none")),
    }
}

/// Turns the elements `name` below each object into lists, wherever they are: `{"name": x}` becomes `[x]`.
pub fn lists(value: &mut Value, names: &[&str]) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| lists(value, names)),
        Value::Object(fields) => {
            if fields.len() == 1
                && let Some((name, _)) = fields.iter().next()
                && names.contains(&name.as_str())
            {
                let name = name.clone();
                let mut inner = match fields.remove(&name) {
                    Some(Value::Array(list)) => Value::Array(list),
                    Some(one) => Value::Array(vec![one]),
                    None => Value::Null,
                };
                lists(&mut inner, names);
                *value = inner;
                return;
            }
            fields.iter_mut().for_each(|(_, value)| lists(value, names));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn elements_become_values() {
        let value = parse(
            br#"<?xml version="1.0"?><!-- x --><r xmlns="u"><a>1 &amp; 2</a><b k="v">t</b><c/><d>x</d><d>y</d><e><![CDATA[<z>]]></e></r>"#,
        );
        let want = json!({"r": {"a": "1 & 2", "b": {"@k": "v", "#text": "t"}, "c": "", "d": ["x", "y"], "e": "<z>"}});
        assert_eq!(value, Ok(want));
    }

    #[test]
    fn sets_become_lists() {
        let mut value =
            parse(b"<r><set><item><id>1</id></item></set><two><item>a</item><item>b</item></two><no/></r>").unwrap();
        lists(&mut value, &["item"]);
        assert_eq!(value, json!({"r": {"set": [{"id": "1"}], "two": ["a", "b"], "no": ""}}));
    }

    #[test]
    fn what_is_no_document_is_an_error() {
        for text in
            ["", "x", "<a>", "<a></b>", "<a/><b/>", "</a>", "<a>&unknown;</a>", "<a b></a>", "{}", "<a", "<a>&#0;</a>"]
        {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse("<a>".repeat(100_000).as_bytes()).is_err());
        assert!(parse(&[b'<', b'a', b'>', 0xff, b'<', b'/', b'a', b'>']).is_err());
        let bomb = b"<!DOCTYPE a [<!ENTITY x \"yyyyyyyyyyyyyyyy\">]><a>&x;</a>";
        assert!(parse(bomb).is_err());
    }
}
