//! Values of attributes, and the text that a label gets of them.

use std::fmt::Write;

/// A value of an attribute.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AnyValue {
    #[default]
    Empty,
    Text(String),
    Bool(bool),
    Integer(i64),
    Double(f64),
    Bytes(Vec<u8>),
    List(Vec<AnyValue>),
    Map(Vec<(String, AnyValue)>),
}

impl AnyValue {
    /// As a label has it: texts as they are, lists and maps as JSON, bytes in base64.
    pub fn to_text(&self) -> String {
        match self {
            AnyValue::Empty => String::new(),
            AnyValue::Text(text) => text.clone(),
            AnyValue::Bytes(bytes) => base64(bytes),
            AnyValue::Bool(_) | AnyValue::Integer(_) | AnyValue::Double(_) | AnyValue::List(_) | AnyValue::Map(_) => {
                let mut out = String::new();
                self.write_json(&mut out);
                out
            }
        }
    }

    fn write_json(&self, out: &mut String) {
        match self {
            AnyValue::Empty => out.push_str("null"),
            AnyValue::Text(text) => out.push_str(&serde_json::Value::from(text.as_str()).to_string()),
            AnyValue::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            AnyValue::Integer(value) => drop(write!(out, "{value}")),
            AnyValue::Double(value) => write_double(*value, out),
            AnyValue::Bytes(bytes) => drop(write!(out, "\"{}\"", base64(bytes))),
            AnyValue::List(values) => {
                out.push('[');
                for (i, value) in values.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    value.write_json(out);
                }
                out.push(']');
            }
            AnyValue::Map(entries) => {
                // Go writes the keys of a map in order.
                let mut entries: Vec<&(String, AnyValue)> = entries.iter().collect();
                entries.sort_by(|one, other| one.0.cmp(&other.0));
                out.push('{');
                for (i, (name, value)) in entries.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    let _ = write!(out, "{}:", serde_json::Value::from(name.as_str()));
                    value.write_json(out);
                }
                out.push('}');
            }
        }
    }
}

/// As Go's JSON has floats: an exponent only for very small and very large ones.
fn write_double(value: f64, out: &mut String) {
    let size = value.abs();
    if !value.is_finite() {
        out.push_str(match value {
            value if value.is_nan() => "NaN",
            value if value > 0.0 => "+Inf",
            _ => "-Inf",
        });
    } else if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        out.push_str(&if text.contains("e-") { text } else { text.replace('e', "e+") });
    } else {
        let _ = write!(out, "{value}");
    }
}

/// Base64 with padding, as JSON has bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: AnyValue, want: &str) {
        assert_eq!(value.to_text(), want);
    }

    #[test]
    fn values_have_the_text_that_go_gives_them() {
        check(AnyValue::Empty, "");
        check(AnyValue::Text("a \"b\"".into()), "a \"b\"");
        check(AnyValue::Bool(true), "true");
        check(AnyValue::Integer(-7), "-7");
        for (value, want) in [(1.0, "1"), (0.25, "0.25"), (1e21, "1e+21"), (1.5e-7, "1.5e-7"), (0.0, "0")] {
            check(AnyValue::Double(value), want);
        }
        for (bytes, want) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foob", "Zm9vYg==")]
        {
            check(AnyValue::Bytes(bytes.to_vec()), want);
        }
        let list = AnyValue::List(vec![AnyValue::Text("x".into()), AnyValue::Double(2.0), AnyValue::Empty]);
        check(list.clone(), "[\"x\",2,null]");
        check(
            AnyValue::Map(vec![("b".into(), list), ("a".into(), AnyValue::Bool(false))]),
            "{\"a\":false,\"b\":[\"x\",2,null]}",
        );
    }
}
