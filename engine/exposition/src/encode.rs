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

    /// The name as it is written.
    pub fn escaped(self, name: &str) -> String {
        let mut out = String::with_capacity(name.len());
        self.write_name(name, &mut out);
        out
    }

    /// Writes `name` so that a reader without UTF-8 names can take it; with [`Escaping::AllowUtf8`] as it is.
    fn write_name(self, name: &str, out: &mut String) {
        let plain =
            |at: usize, c: char| c.is_ascii_alphabetic() || c == '_' || c == ':' || (at > 0 && c.is_ascii_digit());
        if self == Escaping::AllowUtf8 || (self != Escaping::Dots && series::is_legacy_metric_name(name)) {
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
    let mut line = Line::begin(name, escaping, out);
    labels.for_each(|(name, value)| line.label(name, value));
    line.end(value, timestamp_ms);
}

/// A sample line while it is written, label by label.
pub struct Line<'o> {
    escaping: Escaping,
    open: bool,
    out: &'o mut String,
}

impl<'o> Line<'o> {
    pub fn begin(name: &str, escaping: Escaping, out: &'o mut String) -> Line<'o> {
        let open = escaping == Escaping::AllowUtf8 && !series::is_legacy_metric_name(name);
        if open {
            out.push_str("{\"");
            write_label_value(name, out);
            out.push('"');
        } else {
            escaping.write_name(name, out);
        }
        Line { escaping, open, out }
    }

    /// Writes the next label; `__name__` is none.
    #[inline]
    pub fn label(&mut self, name: &str, value: &str) {
        self.out.push(if self.open { ',' } else { '{' });
        self.open = true;
        if self.escaping == Escaping::AllowUtf8 && !series::is_legacy_label_name(name) {
            self.out.push('"');
            write_label_value(name, self.out);
            self.out.push('"');
        } else {
            self.escaping.write_name(name, self.out);
        }
        self.out.push_str("=\"");
        write_label_value(value, self.out);
        self.out.push('"');
    }

    pub fn end(self, value: f64, timestamp_ms: Option<i64>) {
        self.out.push_str(if self.open { "} " } else { " " });
        write_value(value, self.out);
        if let Some(ms) = timestamp_ms {
            self.out.push(' ');
            write_integer(ms.unsigned_abs(), ms < 0, self.out);
        }
        self.out.push('\n');
    }
}

/// Integers from here on are written with an exponent.
const EXPONENT_FROM: f64 = 1e6;

/// Writes a value as Go does; whole numbers without the long way.
fn write_value(value: f64, out: &mut String) {
    let whole = value as i64;
    if whole as f64 == value && value.abs() < EXPONENT_FROM && (whole != 0 || value.is_sign_positive()) {
        write_integer(whole.unsigned_abs(), whole < 0, out);
    } else {
        let _ = series::format_float(value, out);
    }
}

fn write_integer(mut rest: u64, negative: bool, out: &mut String) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if negative {
        out.push('-');
    }
    out.extend(digits[at..].iter().map(|digit| char::from(*digit)));
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
    while let Some(at) = memchr::memchr3(b'\\', b'"', b'\n', rest.as_bytes()) {
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
    fn numbers_are_those_of_the_long_way() {
        for value in [0.0, -0.0, 1.0, -1.0, 999_999.0, 1e6, -1e6, 0.5, 1e-5, 1e18, f64::NAN, f64::INFINITY, -7.25e-9] {
            let (mut short, mut long) = (String::new(), String::new());
            write_value(value, &mut short);
            series::format_float(value, &mut long).unwrap();
            assert_eq!(short, long);
        }
        for ms in [0, 7, -7, 1_700_000_000_123, i64::MAX, i64::MIN] {
            let mut out = String::new();
            write_sample("a", std::iter::empty(), 1.0, Some(ms), Escaping::Underscores, &mut out);
            assert_eq!(out, format!("a 1 {ms}\n"));
        }
    }

    #[test]
    fn type_lines() {
        let mut out = String::new();
        write_type("a.b", "untyped", Escaping::AllowUtf8, &mut out);
        write_type("a.b", "untyped", Escaping::Underscores, &mut out);
        assert_eq!(out, "# TYPE \"a.b\" untyped\n# TYPE a_b untyped\n");
    }
}
