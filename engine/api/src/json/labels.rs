//! Labels and texts as JSON.

use serde_json::Value;
use series::Labels;
use std::fmt::Write;

/// Writes a label set as an object.
pub fn write_labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (i, (name, value)) in labels.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_text(out, name);
        out.push(':');
        write_text(out, value);
    }
    out.push('}');
}

/// Writes a text with its quotes.
pub fn write_text(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // Writing into a string does not fail.
        let _ = write!(out, "{}", Value::from(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        write_labels(&mut out, &Labels::from_pairs([("a\"", "x\ny"), ("b", "é")]));
        assert_eq!(out, r#"{"a\"":"x\ny","b":"é"}"#);
        assert!(serde_json::from_str::<Value>(&out).is_ok());
    }
}
