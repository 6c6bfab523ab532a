//! Logging as operators of Prometheus know it: one line an event on stderr, in logfmt or JSON, with Prometheus' keys.
//!
//! `time=2026-11-30T10:00:00.000Z level=INFO source=serve.rs:123 msg="shutting down"`, then the event's own fields.

use serde_json::Value;
use std::fmt::{self, Debug, Write};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Logfmt,
    Json,
}

/// Starts logging.
///
/// # Errors
///
/// A level or format that does not exist, in words for the command line.
pub fn start(level: &str, format: &str) -> Result<(), String> {
    // Prometheus takes levels in any case, formats in lower case.
    let level = match level.to_ascii_lowercase().as_str() {
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" => LevelFilter::ERROR,
        _ => return Err(format!("--log.level: {level:?} is none of debug, info, warn, error")),
    };
    let format = match format {
        "logfmt" => Format::Logfmt,
        "json" => Format::Json,
        other => return Err(format!("--log.format: {other:?} is none of logfmt, json")),
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .event_format(Line(format))
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

struct Line(Format);

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let now_ms = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let file = metadata.file().and_then(|file| file.rsplit('/').next()).unwrap_or_default();
        let source = format!("{file}:{}", metadata.line().unwrap_or(0));
        let time = timestamp(now_ms);
        let level = metadata.level().as_str();
        let line = match self.0 {
            Format::Logfmt => logfmt(&time, level, &source, &fields),
            Format::Json => json(&time, level, &source, &fields),
        };
        writeln!(writer, "{line}")
    }
}

/// RFC 3339 in UTC, always with milliseconds.
fn timestamp(unix_ms: i64) -> String {
    let ms = unix_ms.rem_euclid(1000);
    let second = series::Rfc3339(series::Timestamp(unix_ms - ms)).to_string();
    format!("{}.{ms:03}Z", second.trim_end_matches('Z'))
}

/// The fields of an event, in their order; the text is apart.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            // Prometheus' key for errors.
            ("error", value) => self.others.push(("err", value)),
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        self.add(field, number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}").into());
    }
}

fn logfmt(time: &str, level: &str, source: &str, fields: &Fields) -> String {
    let mut out = format!("time={time} level={level} source=");
    write_value(&mut out, source);
    out.push_str(" msg=");
    write_value(&mut out, &fields.message);
    for (name, value) in &fields.others {
        let _ = write!(out, " {name}=");
        match value {
            Value::String(text) => write_value(&mut out, text),
            other => write_value(&mut out, &other.to_string()),
        }
    }
    out
}

fn json(time: &str, level: &str, source: &str, fields: &Fields) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let mut out = format!(
        "{{\"time\":{},\"level\":{},\"source\":{},\"msg\":{}",
        text(time),
        text(level),
        text(source),
        text(&fields.message)
    );
    for (name, value) in &fields.others {
        let _ = write!(out, ",{}:{value}", text(name));
    }
    out.push('}');
    out
}

/// A value as Go's slog writes it: in quotes if it is empty or holds what would end it.
fn write_value(out: &mut String, value: &str) {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '=' && c != '"' && c != '\u{fffd}';
    if !value.is_empty() && value.chars().all(is_plain) {
        out.push_str(value);
        return;
    }
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(message: &str, others: &[(&'static str, Value)]) -> Fields {
        Fields { message: message.into(), others: others.to_vec() }
    }

    #[test]
    fn lines_are_those_of_slog() {
        let fields = fields("it's \"so\"", &[("err", "a=b\nc".into()), ("count", 3.into()), ("file", "x.yml".into())]);
        assert_eq!(
            logfmt("T", "INFO", "a.rs:1", &fields),
            r#"time=T level=INFO source=a.rs:1 msg="it's \"so\"" err="a=b\nc" count=3 file=x.yml"#
        );
        let line: Value = serde_json::from_str(&json("T", "INFO", "a.rs:1", &fields)).unwrap();
        assert_eq!(
            line,
            serde_json::json!({
                "time": "T", "level": "INFO", "source": "a.rs:1", "msg": "it's \"so\"", "err": "a=b\nc", "count": 3,
                "file": "x.yml"
            })
        );
    }

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(timestamp(1_709_210_096_000), "2024-02-29T12:34:56.000Z");
        assert_eq!(timestamp(1_709_210_096_070), "2024-02-29T12:34:56.070Z");
    }

    #[test]
    fn values_are_quoted_where_they_have_to_be() {
        for (value, want) in
            [("", r#""""#), ("a\\b", "a\\b"), ("a b", "\"a b\""), ("ü", "ü"), ("\x1b[0m", r#""\x1b[0m""#)]
        {
            let mut out = String::new();
            write_value(&mut out, value);
            assert_eq!(out, want);
        }
    }
}
