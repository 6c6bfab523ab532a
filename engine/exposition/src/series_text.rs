//! Names and labels as OpenMetrics text, for samples that do not come as lines.

use crate::text::bound_text;

/// Labels of the metric at hand as they stand between braces, without a comma at the end.
#[derive(Default)]
pub(crate) struct SeriesText(Vec<u8>);

impl SeriesText {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn label(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push(b',');
        }
        push_label(name, value, &mut self.0);
    }

    /// The series of these labels and one more, perhaps.
    pub fn write(&self, name: &str, suffix: &str, bound: Option<(&str, f64)>, out: &mut Vec<u8>) {
        let is_plain = series::is_legacy_metric_name(name);
        let mut parts = 0;
        if is_plain {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(suffix.as_bytes());
            if self.0.is_empty() && bound.is_none() {
                return;
            }
        }
        out.push(b'{');
        if !is_plain {
            push_quoted(&format!("{name}{suffix}"), out);
            parts += 1;
        }
        if !self.0.is_empty() {
            if parts > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&self.0);
            parts += 1;
        }
        if let Some((name, bound)) = bound {
            if parts > 0 {
                out.push(b',');
            }
            push_label(name, &bound_text(bound), out);
        }
        out.push(b'}');
    }
}

pub(crate) fn push_label(name: &str, value: &str, out: &mut Vec<u8>) {
    match series::is_legacy_label_name(name) {
        true => out.extend_from_slice(name.as_bytes()),
        false => push_quoted(name, out),
    }
    out.push(b'=');
    push_quoted(value, out);
}

pub(crate) fn push_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr3(b'\\', b'"', b'\n', rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\\' => br"\\",
            b'"' => br#"\""#,
            _ => br"\n",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
