//! Which format a response is in, and whether we read it.

use crate::fetch::{FetchError, Fetched};
use crate::status::Reason;
use config::{ScrapeConfig, ScrapeProtocol};

/// Whether the body is text format, by its Content-Type or the job's fallback. An empty body is nothing, in any format.
pub fn check(fetched: &Fetched, job: &ScrapeConfig) -> Result<(), FetchError> {
    if fetched.body().is_empty() {
        return Ok(());
    }
    decide(&fetched.content_type(), job.fallback_scrape_protocol)
}

fn decide(content_type: &str, fallback: Option<ScrapeProtocol>) -> Result<(), FetchError> {
    let error = |text| Err(FetchError { reason: Reason::ContentType, text });
    let media = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match media.as_str() {
        "text/plain" => return Ok(()),
        "application/openmetrics-text" | "application/vnd.google.protobuf" => {
            return error(format!(
                "received Content-Type {content_type:?}, which this build does not read and did not ask for"
            ));
        }
        _ => {}
    }
    match fallback {
        Some(ScrapeProtocol::PrometheusText0_0_4 | ScrapeProtocol::PrometheusText1_0_0) => Ok(()),
        Some(other) => error(format!(
            "received Content-Type {content_type:?}, and this build does not read the fallback_scrape_protocol {}",
            other.name()
        )),
        None if content_type.is_empty() => error(
            "non-compliant scrape target sending blank Content-Type and no fallback_scrape_protocol specified for target"
                .to_owned(),
        ),
        None => error(format!(
            "received unsupported Content-Type {content_type:?} and no fallback_scrape_protocol specified for target"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content_type: &str, fallback: Option<ScrapeProtocol>, want: &str) {
        match decide(content_type, fallback) {
            Ok(()) => assert_eq!(want, "", "{content_type}"),
            Err(error) => assert!(!want.is_empty() && error.text.contains(want), "{content_type}: {}", error.text),
        }
    }

    #[test]
    fn decision_table() {
        let text = Some(ScrapeProtocol::PrometheusText0_0_4);
        check("text/plain", None, "");
        check("text/plain; version=0.0.4; charset=utf-8", None, "");
        check("Text/Plain;version=1.0.0", None, "");
        check("", None, "sending blank Content-Type");
        check("", text, "");
        check("application/foo", None, "received unsupported Content-Type \"application/foo\" and no fallback");
        check("application/foo", text, "");
        check("text/html", None, "unsupported Content-Type");
        check("application/openmetrics-text; version=1.0.0", text, "does not read");
        check("", Some(ScrapeProtocol::PrometheusProto), "PrometheusProto");
    }
}
