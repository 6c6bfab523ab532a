//! Values of a template, and how Go prints them.

use series::{Labels, civil_from_days, format_float};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;

/// An element of a query's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: Labels,
    pub value: f64,
}

/// A value of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value: a missing argument, the element of an empty map.
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    List(Rc<Vec<Value>>),
    /// A map of strings; a missing key is an empty string.
    Labels(Rc<Labels>),
    /// A map that `args` returns.
    Map(Rc<BTreeMap<String, Value>>),
    /// The initial value of dot. A missing name is an error.
    Root(Rc<BTreeMap<&'static str, Value>>),
    Sample(Rc<Sample>),
    /// Unix milliseconds.
    Time(i64),
    /// Nanoseconds.
    Duration(i64),
}

impl Value {
    pub fn text(text: impl Into<Rc<str>>) -> Value {
        Value::Text(text.into())
    }

    /// Returns Go's name of the type, for errors.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::List(_) => "[]interface {}",
            Value::Labels(_) => "map[string]string",
            Value::Map(_) => "map[string]interface {}",
            Value::Root(_) => "struct",
            Value::Sample(_) => "*template.sample",
            Value::Time(_) => "*time.Time",
            Value::Duration(_) => "*time.Duration",
        }
    }

    /// Returns whether `if` takes the value for true.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Nil => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Labels(labels) => labels.iter().next().is_some(),
            Value::Map(map) => !map.is_empty(),
            Value::Root(_) | Value::Sample(_) | Value::Time(_) | Value::Duration(_) => true,
        }
    }

    /// Appends the form of Go's `%v`.
    pub fn print(&self, out: &mut String) {
        // Writing into a string does not fail.
        let _ = match self {
            Value::Nil => write!(out, "<no value>"),
            Value::Bool(value) => write!(out, "{value}"),
            Value::Int(value) => write!(out, "{value}"),
            Value::Float(value) => format_float(*value, out),
            Value::Text(text) => write!(out, "{text}"),
            Value::List(items) => {
                out.push('[');
                print_all(items.iter().map(|item| (None, item.clone())), out);
                write!(out, "]")
            }
            Value::Labels(labels) => {
                out.push_str("map[");
                print_all(labels.iter().map(|(name, value)| (Some(name), Value::text(value))), out);
                write!(out, "]")
            }
            Value::Map(map) => {
                out.push_str("map[");
                print_all(map.iter().map(|(name, value)| (Some(name.as_str()), value.clone())), out);
                write!(out, "]")
            }
            Value::Root(map) => {
                out.push('{');
                print_all(map.values().map(|value| (None, value.clone())), out);
                write!(out, "}}")
            }
            Value::Sample(sample) => {
                out.push_str("&{");
                Value::Labels(Rc::new(sample.labels.clone())).print(out);
                out.push(' ');
                Value::Float(sample.value).print(out);
                write!(out, "}}")
            }
            Value::Time(ms) => write!(out, "{}", time_text(*ms)),
            Value::Duration(nanos) => write!(out, "{}", duration_text(*nanos)),
        };
    }

    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.print(&mut out);
        out
    }
}

fn print_all<'a>(items: impl Iterator<Item = (Option<&'a str>, Value)>, out: &mut String) {
    for (i, (name, value)) in items.enumerate() {
        if i > 0 {
            out.push(' ');
        }
        if let Some(name) = name {
            out.push_str(name);
            out.push(':');
        }
        value.print(out);
    }
}

/// Returns `2026-01-02 03:04:05.678 +0000 UTC`, without trailing zeros of the fraction.
pub fn time_text(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (seconds, fraction) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:03}") };
    let fraction = fraction.trim_end_matches('0');
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} +0000 UTC")
}

/// Returns a duration as Go prints it: `1h2m3.5s`, `1.5ms`, `0s`.
fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() || unit == 1 { String::new() } else { format!(".{fraction}") };
        format!("{}{point}", value / unit)
    };
    match total {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{total}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(total, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(total, 1_000_000)),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = decimal(total % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}
