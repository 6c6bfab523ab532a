//! Writes the text format 0.0.4, as `/federate` and `/metrics` serve it.

use std::fmt::Write;

/// What becomes of names that are not `[a-zA-Z_:][a-zA-Z0-9_:]*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Escaping {
    /// Every other character becomes `_`.
    #[default]
    Underscores,
    /// Names are written as they are, quoted.
    AllowUtf8,
    /// `.` becomes `_dot_`, `_` becomes `__`, every other character `__`.
    Dots,
    /// `U__` in front, every other character as its hexadecimal number between `_`.
    Values,
}

impl Escaping {
    /// From the `escaping=` of an Accept header.
    pub fn from_text(text: &str) -> Option<Escaping> {
        Some(match text {
            "underscores" => Escaping::Underscores,
            "allow-utf-8" => Escaping::AllowUtf8,
            "dots" => Escaping::Dots,
            "values" => Escaping::Values,
            _ => return None,
        })
    }

    /// As the Content-Type says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Escaping::Underscores => "underscores",
            Escaping::AllowUtf8 => "allow-utf-8",
            Escaping::Dots => "dots",
            Escaping::Values => "values",
        }
    }

    /// Writes `name` so that a reader without UTF-8 names can take it; with [`Escaping::AllowUtf8`] as it is.
    fn write_name(self, name: &str, out: &mut String) {
        let plain =
            |at: usize, c: char| c.is_ascii_alphabetic() || c == '_' || c == ':' || (at > 0 && c.is_ascii_digit());
        if self == Escaping::AllowUtf8 || (self != Escaping::Dots && name.char_indices().all(|(at, c)| plain(at, c))) {
            out.push_str(name);
            return;
        }
        if self == Escaping::Values {
            out.push_str("U__");
        }
        for (at, c) in name.char_indices() {
            match (self, c) {
                (Escaping::Dots, '_') | (Escaping::Values, '_') => out.push_str("__"),
                (Escaping::Dots, '.') => out.push_str("_dot_"),
                _ if plain(at, c) => out.push(c),
                (Escaping::Dots, _) => out.push_str("__"),
                (Escaping::Values, _) => {
                    let _ = write!(out, "_{:x}_", c as u32);
                }
                _ => out.push('_'),
            }
        }
    }
}

/// Writes `# TYPE name kind`.
pub fn write_type(name: &str, kind: &str, escaping: Escaping, out: &mut String) {
    out.push_str("# TYPE ");
    write_metric_name(name, escaping, out);
    out.push(' ');
    out.push_str(kind);
    out.push('\n');
}

/// Writes one sample line. Labels come in the order in which they shall be written, without `__name__`.
pub fn write_sample<'a>(
    name: &str,
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    value: f64,
    timestamp_ms: Option<i64>,
    escaping: Escaping,
    out: &mut String,
) {
    let quoted_name = escaping == Escaping::AllowUtf8 && !series::is_legacy_metric_name(name);
    let mut open = false;
    if quoted_name {
        out.push_str("{\"");
        write_label_value(name, out);
        out.push('"');
        open = true;
    } else {
        escaping.write_name(name, out);
    }
    for (label, value) in labels {
        out.push(if open { ',' } else { '{' });
        open = true;
        if escaping == Escaping::AllowUtf8 && !series::is_legacy_label_name(label) {
            out.push('"');
            write_label_value(label, out);
            out.push('"');
        } else {
            escaping.write_name(label, out);
        }
        out.push_str("=\"");
        write_label_value(value, out);
        out.push('"');
    }
    out.push_str(if open { "} " } else { " " });
    let _ = series::format_float(value, out);
    if let Some(ms) = timestamp_ms {
        let _ = write!(out, " {ms}");
    }
    out.push('\n');
}

fn write_metric_name(name: &str, escaping: Escaping, out: &mut String) {
    if escaping == Escaping::AllowUtf8 && !series::is_legacy_metric_name(name) {
        out.push('"');
        write_label_value(name, out);
        out.push('"');
    } else {
        escaping.write_name(name, out);
    }
}

/// Writes a label value with `\`, `"` and line ends escaped.
pub fn write_label_value(value: &str, out: &mut String) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, labels: &[(&str, &str)], escaping: Escaping, want: &str) {
        let mut out = String::new();
        write_sample(name, labels.iter().copied(), 1.5, Some(-7), escaping, &mut out);
        assert_eq!(out, format!("{want} 1.5 -7\n"));
    }

    #[test]
    fn names_and_values() {
        check("a", &[], Escaping::Underscores, "a");
        check("a", &[("b", "c"), ("d", "")], Escaping::Underscores, "a{b=\"c\",d=\"\"}");
        check("a", &[("b", "x\"y\\z\nw")], Escaping::Underscores, "a{b=\"x\\\"y\\\\z\\nw\"}");
        check("a.b_c", &[("d.e", "f")], Escaping::Underscores, "a_b_c{d_e=\"f\"}");
        check("a.b_c", &[("d.e", "f")], Escaping::AllowUtf8, "{\"a.b_c\",\"d.e\"=\"f\"}");
        check("a.b_c", &[("d.e", "f")], Escaping::Dots, "a_dot_b__c{d_dot_e=\"f\"}");
        check("a.b_c", &[("d.é", "f")], Escaping::Values, "U__a_2e_b__c{U__d_2e__e9_=\"f\"}");
        check("0a", &[], Escaping::Underscores, "_a");
    }

    #[test]
    fn type_lines() {
        let mut out = String::new();
        write_type("a.b", "untyped", Escaping::AllowUtf8, &mut out);
        write_type("a.b", "untyped", Escaping::Underscores, &mut out);
        assert_eq!(out, "# TYPE \"a.b\" untyped\n# TYPE a_b untyped\n");
    }
}
