//! Negotiation: which formats a target is asked for, and which one a response is in.

use crate::Reason;
use crate::{FetchError, Fetched};
use config::{EscapingScheme, ScrapeConfig, ScrapeProtocol};
use exposition::Format;
use std::fmt::Write;

/// Weight of the first format in tenths; each further one has a tenth less, as Prometheus has it.
const FIRST_WEIGHT: usize = 6;

/// How a payload is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadFormat {
    Lines(Format),
    Protobuf,
}

const TEXT: PayloadFormat = PayloadFormat::Lines(Format::Text);
const OPEN_METRICS: PayloadFormat = PayloadFormat::Lines(Format::OpenMetrics);

/// The value of the header Accept.
pub fn accept(job: &ScrapeConfig) -> String {
    use ScrapeProtocol::*;
    let asked = &job.scrape_protocols;
    let mut header = String::new();
    for (index, protocol) in asked.iter().enumerate() {
        let (media, is_1_0_0) = match protocol {
            PrometheusProto => {
                let media =
                    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
                (media, false)
            }
            PrometheusText0_0_4 => ("text/plain;version=0.0.4", false),
            PrometheusText1_0_0 => ("text/plain;version=1.0.0", true),
            OpenMetricsText0_0_1 => ("application/openmetrics-text;version=0.0.1", false),
            OpenMetricsText1_0_0 => ("application/openmetrics-text;version=1.0.0", true),
        };
        header.push_str(media);
        if is_1_0_0 {
            let escaping = match job.metric_name_escaping_scheme {
                EscapingScheme::AllowUtf8 => "allow-utf-8",
                EscapingScheme::Underscores => "underscores",
                EscapingScheme::Dots => "dots",
                EscapingScheme::Values => "values",
            };
            let _ = write!(header, ";escaping={escaping}");
        }
        let _ = write!(header, ";q=0.{},", FIRST_WEIGHT - index);
    }
    let _ = write!(header, "*/*;q=0.{}", FIRST_WEIGHT - asked.len());
    header
}

/// The format of a response, by its Content-Type or the job's fallback. An empty body is nothing, in any format.
pub fn format_of(fetched: &Fetched, job: &ScrapeConfig) -> Result<PayloadFormat, FetchError> {
    if fetched.body().is_empty() {
        return Ok(TEXT);
    }
    decide(&fetched.content_type(), job.fallback_scrape_protocol)
}

fn decide(content_type: &str, fallback: Option<ScrapeProtocol>) -> Result<PayloadFormat, FetchError> {
    use ScrapeProtocol::*;
    let error = |text| Err(FetchError { reason: Reason::ContentType, text });
    let parsed = media_type(content_type);
    match parsed.as_deref() {
        Ok("text/plain") => return Ok(TEXT),
        Ok("application/openmetrics-text") => return Ok(OPEN_METRICS),
        Ok("application/vnd.google.protobuf") => return Ok(PayloadFormat::Protobuf),
        _ => {}
    }
    match (fallback, parsed) {
        (Some(PrometheusText0_0_4 | PrometheusText1_0_0), _) => Ok(TEXT),
        (Some(OpenMetricsText0_0_1 | OpenMetricsText1_0_0), _) => Ok(OPEN_METRICS),
        (Some(PrometheusProto), _) => Ok(PayloadFormat::Protobuf),
        (None, _) if content_type.is_empty() => error(
            "non-compliant scrape target sending blank Content-Type and no fallback_scrape_protocol specified for target"
                .to_owned(),
        ),
        (None, Ok(_)) => error(format!(
            "received unsupported Content-Type {content_type:?} and no fallback_scrape_protocol specified for target"
        )),
        (None, Err(why)) => {
            error(format!("cannot parse Content-Type {content_type:?} and no fallback_scrape_protocol for target\n{why}"))
        }
    }
}

/// Media type in lower case; the parameters must be well formed and none may come twice with different values. It
/// accepts what Go's `mime.ParseMediaType` accepts, whose words the errors have.
fn media_type(text: &str) -> Result<String, &'static str> {
    let (base, mut rest) = text.split_at(text.find(';').unwrap_or(text.len()));
    let media = base.to_lowercase().trim().to_owned();
    let (kind, behind) = token(&media);
    if kind.is_empty() {
        return Err("mime: no media type");
    }
    if !behind.is_empty() {
        let Some(subtype) = behind.strip_prefix('/') else { return Err("mime: expected slash after first token") };
        match token(subtype) {
            ("", _) => return Err("mime: expected token after slash"),
            (_, "") => {}
            _ => return Err("mime: unexpected content after media subtype"),
        }
    }
    let mut parameters: Vec<(String, String)> = Vec::new();
    loop {
        rest = rest.trim_start();
        // A semicolon may end it.
        if rest.is_empty() || rest.trim_end() == ";" {
            return Ok(media);
        }
        let (name, value, behind) = parameter(rest).ok_or("mime: invalid media parameter")?;
        let same = parameters.iter().find(|(known, _)| *known == name);
        if same.is_some_and(|(_, known)| *known != value) {
            return Err("mime: duplicate parameter name");
        }
        parameters.push((name, value));
        rest = behind;
    }
}

/// The token that a text begins with, and what is behind it.
fn token(text: &str) -> (&str, &str) {
    let is_token = |byte: u8| byte.is_ascii_graphic() && !br#"()<>@,;:\"/[]?="#.contains(&byte);
    text.split_at(text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len()))
}

/// `; name=value`, and what is behind it.
fn parameter(text: &str) -> Option<(String, String, &str)> {
    let (name, rest) = token(text.strip_prefix(';')?.trim_start());
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => quoted_value(quoted)?,
        None => match token(rest) {
            ("", _) => return None,
            (value, rest) => (value.to_owned(), rest),
        },
    };
    Some((name.to_lowercase(), value, rest))
}

/// What stands before the closing quote, and what is behind it.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\r' | '\n' => return None,
            '\\' => match chars.next_if(|(_, next)| r#"()<>@,;:\"/[]?="#.contains(*next)) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_job;

    #[track_caller]
    fn check(content_type: &str, fallback: Option<ScrapeProtocol>, want: Result<PayloadFormat, &str>) {
        match (decide(content_type, fallback), want) {
            (Ok(format), Ok(want)) => assert_eq!(format, want, "{content_type}"),
            (Err(error), Err(want)) => assert!(error.text.contains(want), "{content_type}: {}", error.text),
            (got, want) => panic!("{content_type}: {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn decision_table() {
        let fallback = Some(ScrapeProtocol::PrometheusText0_0_4);
        for good in [
            "text/plain",
            "text/plain; version=0.0.4; charset=utf-8",
            "Text/Plain;version=1.0.0",
            "text/plain; version=99; a=\"b;c\\\"\"",
            "text/plain;",
            "text/plain; ",
            "text/plain; a=1; A=1",
            " text/plain ; a = 1",
        ] {
            check(good, None, Ok(TEXT));
        }
        for version in ["", "; version=0.0.1", "; version=1.0.0; charset=utf-8", ";version=2.0.0;escaping=dots"] {
            check(&format!("application/openmetrics-text{version}"), None, Ok(OPEN_METRICS));
            check(&format!("application/OpenMetrics-Text{version}"), fallback, Ok(OPEN_METRICS));
        }
        for (bad, words) in [
            ("text/plain;;", "mime: invalid media parameter"),
            ("text/plain; a", "mime: invalid media parameter"),
            ("text/plain; a=", "mime: invalid media parameter"),
            ("text/plain; a=\"", "mime: invalid media parameter"),
            ("text/plain; a=1; a=2", "mime: duplicate parameter name"),
            ("a/b/c", "mime: unexpected content after media subtype"),
            ("text/", "mime: expected token after slash"),
            ("text plain", "mime: expected slash after first token"),
            (";", "mime: no media type"),
        ] {
            let text = format!("cannot parse Content-Type {bad:?} and no fallback_scrape_protocol for target\n{words}");
            check(bad, None, Err(&text));
            check(bad, fallback, Ok(TEXT));
            check(bad, Some(ScrapeProtocol::OpenMetricsText0_0_1), Ok(OPEN_METRICS));
        }
        check("", None, Err("sending blank Content-Type"));
        check("", fallback, Ok(TEXT));
        check("", Some(ScrapeProtocol::OpenMetricsText1_0_0), Ok(OPEN_METRICS));
        check("application/foo", None, Err("received unsupported Content-Type \"application/foo\" and no fallback"));
        check("application/foo", fallback, Ok(TEXT));
        check("text/html", None, Err("unsupported Content-Type"));
        check("text", None, Err("unsupported Content-Type \"text\""));
        for parameters in ["", "; proto=io.prometheus.client.MetricFamily; encoding=delimited", ";encoding=text"] {
            check(&format!("application/vnd.google.protobuf{parameters}"), fallback, Ok(PayloadFormat::Protobuf));
        }
        check("", Some(ScrapeProtocol::PrometheusProto), Ok(PayloadFormat::Protobuf));
    }

    #[track_caller]
    fn check_accept(settings: &str, want: &str) {
        assert_eq!(accept(&test_job(settings)), want, "{settings}");
    }

    #[test]
    fn accept_says_what_the_job_wants() {
        check_accept(
            "",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        );
        check_accept(
            "scrape_protocols: [PrometheusText0.0.4, OpenMetricsText1.0.0]\nmetric_name_escaping_scheme: dots",
            "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;escaping=dots;q=0.5,*/*;q=0.4",
        );
        check_accept(
            "scrape_protocols: [PrometheusText1.0.0]\nmetric_name_validation_scheme: legacy",
            "text/plain;version=1.0.0;escaping=underscores;q=0.6,*/*;q=0.5",
        );
        check_accept(
            "scrape_protocols: [PrometheusText1.0.0]\nmetric_name_escaping_scheme: values",
            "text/plain;version=1.0.0;escaping=values;q=0.6,*/*;q=0.5",
        );
    }

    #[test]
    fn protobuf_comes_first_where_native_histograms_are_wanted() {
        const PROTOBUF: &str =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,";
        check_accept("scrape_protocols: [PrometheusProto]", &format!("{PROTOBUF}*/*;q=0.5"));
        check_accept(
            "scrape_native_histograms: true",
            &format!(
                "{PROTOBUF}application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
            ),
        );
    }
}
