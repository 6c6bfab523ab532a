//! The functions of templates: Go's predefined ones and Prometheus'.

use crate::value::{Sample, Value};
use crate::{OUTPUT_BYTES_MAX, Query, humanize, printf};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use series::{DurationError, Regex, Replacement};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

/// Data that functions may use besides their arguments.
pub struct FunctionContext<'a> {
    pub query: Query<'a>,
    pub external_url: &'a str,
    pub now_ms: i64,
}

type Call = fn(&[Value], &mut FunctionContext) -> Result<Value, String>;

pub enum FunctionKind {
    And,
    Or,
    Call(Call),
}

pub struct Function {
    pub name: &'static str,
    /// Least and greatest number of arguments.
    pub arguments: (usize, usize),
    pub kind: FunctionKind,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

pub fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

const ANY: usize = usize::MAX;

const fn function(name: &'static str, least: usize, most: usize, call: Call) -> Function {
    Function { name, arguments: (least, most), kind: FunctionKind::Call(call) }
}

static FUNCTIONS: &[Function] = &[
    Function { name: "and", arguments: (1, ANY), kind: FunctionKind::And },
    Function { name: "or", arguments: (1, ANY), kind: FunctionKind::Or },
    function("not", 1, 1, |a, _| Ok(Value::Bool(!a[0].is_true()))),
    function("len", 1, 1, |a, _| len(&a[0])),
    function("index", 1, ANY, |a, _| a[1..].iter().try_fold(a[0].clone(), |value, at| index(&value, at))),
    function("slice", 1, 3, |a, _| slice(a)),
    function("print", 0, ANY, |a, _| Ok(Value::text(print(a)))),
    function("println", 0, ANY, |a, _| {
        Ok(Value::text(a.iter().map(Value::to_text).collect::<Vec<_>>().join(" ") + "\n"))
    }),
    function("printf", 1, ANY, |a, _| bounded(printf::printf(text(&a[0])?, &a[1..]))),
    function("html", 0, ANY, |a, _| bounded(html(&print(a)))),
    function("js", 0, ANY, |a, _| bounded(js(&print(a)))),
    function("urlquery", 0, ANY, |a, _| bounded(query_escape(&print(a)))),
    function("eq", 2, ANY, |a, _| {
        a[1..].iter().try_fold(false, |found, other| Ok(found || equal(&a[0], other)?)).map(Value::Bool)
    }),
    function("ne", 2, 2, |a, _| equal(&a[0], &a[1]).map(|same| Value::Bool(!same))),
    function("lt", 2, 2, |a, _| order(&a[0], &a[1]).map(|order| Value::Bool(order == Some(Ordering::Less)))),
    function("le", 2, 2, |a, _| {
        order(&a[0], &a[1]).map(|order| Value::Bool(order.is_some_and(|order| order != Ordering::Greater)))
    }),
    function("gt", 2, 2, |a, _| order(&a[0], &a[1]).map(|order| Value::Bool(order == Some(Ordering::Greater)))),
    function("ge", 2, 2, |a, _| {
        order(&a[0], &a[1]).map(|order| Value::Bool(order.is_some_and(|order| order != Ordering::Less)))
    }),
    function("query", 1, 1, |a, context| {
        let found = (context.query)(text(&a[0])?)?;
        Ok(Value::List(Rc::new(found.into_iter().map(|sample| Value::Sample(Rc::new(sample))).collect())))
    }),
    function("first", 1, 1, |a, _| match &a[0] {
        Value::List(items) => items.first().cloned().ok_or_else(|| "first() called on vector with no elements".into()),
        other => Err(wrong(other, "a vector")),
    }),
    function("label", 2, 2, |a, _| Ok(Value::text(sample(&a[1])?.labels.get(text(&a[0])?).unwrap_or("")))),
    function("value", 1, 1, |a, _| Ok(Value::Float(sample(&a[0])?.value))),
    function("strvalue", 1, 1, |a, _| Ok(Value::text(sample(&a[0])?.labels.get("__value__").unwrap_or("")))),
    function("sortByLabel", 2, 2, |a, _| sort_by_label(text(&a[0])?, &a[1])),
    function("args", 0, ANY, |a, _| {
        let named = a.iter().enumerate().map(|(i, value)| (format!("arg{i}"), value.clone()));
        Ok(Value::Map(Rc::new(named.collect::<BTreeMap<_, _>>())))
    }),
    function("safeHtml", 1, 1, |a, _| Ok(Value::text(text(&a[0])?))),
    function("externalURL", 0, 0, |_, context| Ok(Value::text(context.external_url))),
    function("pathPrefix", 0, 0, |_, context| Ok(Value::text(path_of(context.external_url)))),
    function("match", 2, 2, |a, _| Ok(Value::Bool(regex(text(&a[0])?)?.is_match(text(&a[1])?)))),
    function("reReplaceAll", 3, 3, |a, _| replace_all(text(&a[0])?, text(&a[1])?, text(&a[2])?)),
    function("title", 1, 1, |a, _| Ok(Value::text(title(text(&a[0])?)))),
    function("toUpper", 1, 1, |a, _| Ok(Value::text(text(&a[0])?.to_uppercase()))),
    function("toLower", 1, 1, |a, _| Ok(Value::text(text(&a[0])?.to_lowercase()))),
    function("stripPort", 1, 1, |a, _| {
        let address = text(&a[0])?;
        Ok(Value::text(host_and_port(address).map_or(address, |(host, _)| host)))
    }),
    function("stripDomain", 1, 1, |a, _| Ok(Value::text(strip_domain(text(&a[0])?)))),
    function("graphLink", 1, 1, |a, _| Ok(Value::text(link(text(&a[0])?, 0)))),
    function("tableLink", 1, 1, |a, _| Ok(Value::text(link(text(&a[0])?, 1)))),
    function("urlQueryEscape", 1, 1, |a, _| bounded(query_escape(text(&a[0])?))),
    function("humanize", 1, 1, |a, _| Ok(Value::text(humanize::humanize(number(&a[0])?)))),
    function("humanize1024", 1, 1, |a, _| Ok(Value::text(humanize::humanize1024(number(&a[0])?)))),
    function("humanizeDuration", 1, 1, |a, _| Ok(Value::text(humanize::duration(number(&a[0])?)))),
    function("humanizePercentage", 1, 1, |a, _| Ok(Value::text(humanize::percentage(number(&a[0])?)))),
    function("humanizeTimestamp", 1, 1, |a, _| {
        let seconds = number(&a[0])?;
        if !seconds.is_finite() {
            return Ok(Value::text(printf::general(seconds, 4, false)));
        }
        time(seconds).map(|ms| Value::text(crate::value::time_text(ms)))
    }),
    function("toTime", 1, 1, |a, _| time(number(&a[0])?).map(Value::Time)),
    function("toDuration", 1, 1, |a, _| nanos(number(&a[0])?).map(Value::Duration)),
    function("parseDuration", 1, 1, |a, _| parse_duration(text(&a[0])?).map(Value::Float)),
    function("now", 0, 0, |_, context| Ok(Value::Float(context.now_ms as f64 / 1000.0))),
];

fn wrong(value: &Value, want: &str) -> String {
    format!("wrong type: want {want}, got {}", value.type_name())
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(format!("wrong type for value; expected string; got {}", other.type_name())),
    }
}

fn sample(value: &Value) -> Result<&Sample, String> {
    match value {
        Value::Sample(sample) => Ok(sample),
        other => Err(format!("wrong type for value; expected *template.sample; got {}", other.type_name())),
    }
}

fn number(value: &Value) -> Result<f64, String> {
    match value {
        Value::Float(value) => Ok(*value),
        Value::Int(value) => Ok(*value as f64),
        Value::Duration(nanos) => Ok(*nanos as f64 / 1e9),
        Value::Text(text) => {
            series::parse_float(text).map_err(|_| format!("strconv.ParseFloat: parsing {text:?}: invalid syntax"))
        }
        other => Err(format!("can't convert {} to float", other.type_name())),
    }
}

fn bounded(text: String) -> Result<Value, String> {
    if text.len() > OUTPUT_BYTES_MAX {
        return Err(too_long());
    }
    Ok(Value::text(text))
}

fn too_long() -> String {
    format!("more than {OUTPUT_BYTES_MAX} bytes")
}

fn len(value: &Value) -> Result<Value, String> {
    let count = match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Labels(labels) => labels.iter().count(),
        Value::Map(map) => map.len(),
        other => return Err(format!("len of type {}", other.type_name())),
    };
    Ok(Value::Int(count as i64))
}

fn index(value: &Value, at: &Value) -> Result<Value, String> {
    let position = |length: usize| match at {
        Value::Int(at) => usize::try_from(*at)
            .ok()
            .filter(|at| *at < length)
            .ok_or_else(|| format!("error calling index: reflect: slice index out of range: {at}")),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match value {
        Value::List(items) => Ok(items[position(items.len())?].clone()),
        Value::Text(text) => Ok(Value::Int(i64::from(text.as_bytes()[position(text.len())?]))),
        Value::Labels(labels) => Ok(Value::text(labels.get(text(at)?).unwrap_or(""))),
        Value::Map(map) => Ok(map.get(text(at)?).cloned().unwrap_or(Value::Nil)),
        Value::Nil => Err("index of untyped nil".into()),
        other => Err(format!("can't index item of type {}", other.type_name())),
    }
}

fn slice(arguments: &[Value]) -> Result<Value, String> {
    let bound = |at: Option<&Value>, default: usize, length: usize| match at {
        None => Ok(default),
        Some(Value::Int(at)) => {
            usize::try_from(*at).ok().filter(|at| *at <= length).ok_or_else(|| format!("index out of range: {at}"))
        }
        Some(other) => Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    let length = match &arguments[0] {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    let from = bound(arguments.get(1), 0, length)?;
    let to = bound(arguments.get(2), length, length)?;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    match &arguments[0] {
        Value::List(items) => Ok(Value::List(Rc::new(items[from..to].to_vec()))),
        value => Ok(Value::text(String::from_utf8_lossy(&text(value)?.as_bytes()[from..to]).into_owned())),
    }
}

/// Formats as Go's `Sprint`: with a space between two operands if neither is a string.
fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut last_text = true;
    for (i, value) in arguments.iter().enumerate() {
        let is_text = matches!(value, Value::Text(_));
        if i > 0 && !is_text && !last_text {
            out.push(' ');
        }
        value.print(&mut out);
        last_text = is_text;
    }
    out
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if c < ' ' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Encodes as Go's `QueryEscape`: a space becomes a plus.
fn query_escape(text: &str) -> String {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');
    utf8_percent_encode(text, ESCAPED).to_string().replace(' ', "+")
}

fn link(expression: &str, tab: u8) -> String {
    format!("/graph?g0.expr={}&g0.tab={tab}", query_escape(expression))
}

fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("", |slash| rest[slash..].trim_end_matches('/'))
}

/// Compares values of one type. Numbers of different types are not comparable, as in Go.
fn equal(one: &Value, other: &Value) -> Result<bool, String> {
    match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => Ok(one == other),
        (Value::Int(one), Value::Int(other)) => Ok(one == other),
        (Value::Float(one), Value::Float(other)) => Ok(one == other),
        (Value::Text(one), Value::Text(other)) => Ok(one == other),
        (Value::Time(one), Value::Time(other)) | (Value::Duration(one), Value::Duration(other)) => Ok(one == other),
        (Value::Nil, other) | (other, Value::Nil) => Ok(*other == Value::Nil),
        (Value::List(_) | Value::Labels(_) | Value::Map(_), _) => Err("non-comparable type".into()),
        _ => Err("incompatible types for comparison".into()),
    }
}

fn order(one: &Value, other: &Value) -> Result<Option<Ordering>, String> {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => Ok(Some(one.cmp(other))),
        (Value::Float(one), Value::Float(other)) => Ok(one.partial_cmp(other)),
        (Value::Text(one), Value::Text(other)) => Ok(Some(one.cmp(other))),
        (Value::Int(_) | Value::Float(_) | Value::Text(_), Value::Int(_) | Value::Float(_) | Value::Text(_)) => {
            Err("incompatible types for comparison".into())
        }
        _ => Err("invalid type for comparison".into()),
    }
}

fn sort_by_label(name: &str, vector: &Value) -> Result<Value, String> {
    let Value::List(items) = vector else { return Err(wrong(vector, "a vector")) };
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.iter() {
        keyed.push((sample(item)?.labels.get(name).unwrap_or("").to_owned(), item.clone()));
    }
    keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Value::List(Rc::new(keyed.into_iter().map(|(_, item)| item).collect())))
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::unanchored(pattern).map_err(|error| error.to_string())
}

fn replace_all(pattern: &str, replacement: &str, text: &str) -> Result<Value, String> {
    let regex = regex(pattern)?;
    let replacement = Replacement::parse(replacement, &regex);
    let replaced = regex.try_replace_all(text, |groups, out| {
        replacement.append(text, groups, out);
        if out.len() > OUTPUT_BYTES_MAX { Err(too_long()) } else { Ok(()) }
    });
    bounded(replaced?)
}

/// Returns the text with the first letter of each word in upper case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut within = false;
    for c in text.chars() {
        let letter = c.is_alphanumeric() || c == '_' || (within && c == '\'');
        if letter && !within {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        within = letter;
    }
    out
}

/// Splits `host:port` and `[v6]:port`.
fn host_and_port(address: &str) -> Option<(&str, &str)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, behind) = rest.split_once(']')?;
        return Some((host, behind.strip_prefix(':')?));
    }
    let (host, port) = address.rsplit_once(':')?;
    (!host.contains(':')).then_some((host, port))
}

fn strip_domain(address: &str) -> String {
    let (host, port) = host_and_port(address).map_or((address, None), |(host, port)| (host, Some(port)));
    if host.parse::<IpAddr>().is_ok() {
        return address.to_owned();
    }
    let short = host.split('.').next().unwrap_or(host);
    port.map_or_else(|| short.to_owned(), |port| format!("{short}:{port}"))
}

/// Converts seconds to Unix milliseconds.
fn time(seconds: f64) -> Result<i64, String> {
    nanos(seconds).map(|nanos| nanos.div_euclid(1_000_000)).map_err(|_| match seconds.is_finite() {
        false => "value is NaN or Inf".into(),
        true => format!(
            "{} cannot be represented as a nanoseconds timestamp since it overflows int64",
            Value::Float(seconds).to_text()
        ),
    })
}

fn nanos(seconds: f64) -> Result<i64, String> {
    let nanos = seconds * 1e9;
    if !nanos.is_finite() {
        return Err("value is NaN or Inf".into());
    }
    if nanos.abs() >= i64::MAX as f64 {
        let text = Value::Float(seconds).to_text();
        return Err(format!("{text} cannot be represented as a nanoseconds duration since it overflows int64"));
    }
    Ok(nanos as i64)
}

/// Reads a duration such as `1h30m` and returns seconds.
fn parse_duration(text: &str) -> Result<f64, String> {
    let ms = series::parse_duration(text).map_err(|error| match error {
        DurationError::Invalid => format!("{error}: {text:?}"),
        DurationError::Empty | DurationError::OutOfRange => error.to_string(),
    })?;
    Ok(ms as f64 / 1000.0)
}
