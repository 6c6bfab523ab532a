//! What a receiver's response means for a request. Pure: no clocks, no I/O.
//!
//! The rules are those of the remote-write specifications and of Prometheus, with two exceptions that keep samples which
//! Prometheus loses: a receiver that does not read 2.0 gets 1.0 instead, and a request that is refused as a whole because
//! of some of its samples is sent in halves (decision 049).

use client::HeaderMap;
use client::StatusCode;
use client::header::{HeaderName, LOCATION, RETRY_AFTER};
use remote::{Counts, Message};
use std::time::{Duration, SystemTime};

/// Bytes of a response's body in an error text.
const SHOWN_BYTES_MAX: usize = 256;
/// Bytes of a redirect's Location in an error text.
const LOCATION_BYTES_MAX: usize = 200;
/// The longest pause that a receiver may ask for: one that lies must not stop an endpoint for good.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// What to do with a request after a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// So much is stored. If that is less than what was sent, the text says so; the rest is lost.
    Accepted { written: Counts, warning: Option<String> },
    /// Not stored as a whole. It may be later, and not before `after`. What is stored already is accepted again then.
    Retry { error: String, after: Option<Duration>, is_throttled: bool },
    /// Too large, or refused as a whole because of some of its samples: send smaller parts.
    Split { error: String },
    /// The receiver does not read 2.0: send 1.0.
    Downgrade { error: String },
    /// The receiver does not read this format, but another one: send it at once in that.
    Repack,
    /// Not stored, apart from `written`, and never will be.
    Rejected { error: String, written: Counts },
}

/// What a verdict depends on besides the response.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub message: Message,
    pub counts: Counts,
    /// `retry_on_http_429`.
    pub retries_throttled: bool,
    /// Whether 1.0 may be sent instead of 2.0.
    pub may_downgrade: bool,
}

const WRITTEN: [HeaderName; 3] = [
    HeaderName::from_static("x-prometheus-remote-write-samples-written"),
    HeaderName::from_static("x-prometheus-remote-write-histograms-written"),
    HeaderName::from_static("x-prometheus-remote-write-exemplars-written"),
];

/// What the headers say is stored; nothing without any of them. One that is missing or no number is 0.
fn written(headers: &HeaderMap, sent: Counts) -> Option<Counts> {
    let number = |name: &HeaderName| headers.get(name).map(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    let [samples, histograms, exemplars] = WRITTEN.each_ref().map(number);
    if samples.is_none() && histograms.is_none() && exemplars.is_none() {
        return None;
    }
    let told = |number: Option<Option<u64>>| number.flatten().unwrap_or(0);
    // Never more than was sent, so that a receiver that lies does not make counters wrong.
    Some(Counts {
        samples: told(samples).min(sent.samples),
        histograms: told(histograms).min(sent.histograms),
        exemplars: told(exemplars).min(sent.exemplars),
    })
}

/// `Retry-After` in seconds or as a date. Nothing if it is absent, zero, in the past, or makes no sense: the usual backoff
/// applies then.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?,
    };
    (!pause.is_zero()).then_some(pause.min(RETRY_AFTER_MAX))
}

/// What a response means.
pub fn judge(sent: &Sent, status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Verdict {
    let confirmed = written(headers, sent.counts);
    let is_v2 = sent.message == Message::V2;
    if status.is_success() {
        return match confirmed {
            Some(written) if written == sent.counts => Verdict::Accepted { written, warning: None },
            Some(written) => {
                let warning =
                    format!("server returned HTTP status {status}, but stored {} only", of_sent(written, sent));
                Verdict::Accepted { written, warning: Some(warning) }
            }
            None if !is_v2 => Verdict::Accepted { written: sent.counts, warning: None },
            None => {
                let error = format!(
                    "server returned HTTP status {status} to a 2.0 request without the X-Prometheus-Remote-Write-Samples-Written \
                     headers, so it has probably stored nothing"
                );
                match sent.may_downgrade {
                    true => Verdict::Downgrade { error },
                    false => Verdict::Accepted { written: Counts::default(), warning: Some(error) },
                }
            }
        };
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
    let mut error = format!("server returned HTTP status {status}: {}", text.trim());
    if status.is_redirection() {
        let location = headers.get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let location: String = location.unwrap_or_default().chars().take(LOCATION_BYTES_MAX).collect();
        error = format!(
            "server returned HTTP status {status} to {location:?}; a POST is not redirected there, set url to it"
        );
    }
    let written = confirmed.unwrap_or_default();
    let is_throttled = status == StatusCode::TOO_MANY_REQUESTS;
    if status.is_server_error() || (is_throttled && sent.retries_throttled) {
        return Verdict::Retry { error, after: retry_after(headers, now), is_throttled };
    }
    if is_v2 && sent.may_downgrade && confirmed.is_none() && is_about_content_type(status, &text) {
        return Verdict::Downgrade { error };
    }
    let is_of_some = !is_v2 && status == StatusCode::BAD_REQUEST && confirmed.is_none() && is_about_some_samples(&text);
    if status == StatusCode::PAYLOAD_TOO_LARGE || is_of_some {
        return Verdict::Split { error };
    }
    Verdict::Rejected { error, written }
}

fn of_sent(written: Counts, sent: &Sent) -> String {
    let Counts { samples, histograms, .. } = sent.counts;
    format!("{} of {samples} samples and {} of {histograms} histograms", written.samples, written.histograms)
}

/// 415, or a 400 that speaks of the content type or the message.
fn is_about_content_type(status: StatusCode, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    status == StatusCode::UNSUPPORTED_MEDIA_TYPE
        || (status == StatusCode::BAD_REQUEST
            && ["content type", "content-type", "io.prometheus.write.v2", "proto parameter"]
                .iter()
                .any(|part| text.contains(part)))
}

/// Texts of Prometheus, Mimir and Thanos for a sample that they do not take beside others that they would.
fn is_about_some_samples(text: &str) -> bool {
    ["out of order", "duplicate sample", "too old", "out of bounds", "too far in the future", "out-of-order"]
        .iter()
        .any(|part| text.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Counts = Counts { samples: 10, histograms: 2, exemplars: 0 };
    const ALL: [(&str, &str); 2] =
        [("x-prometheus-remote-write-samples-written", "10"), ("x-prometheus-remote-write-histograms-written", "2")];
    const NOTHING: [(&str, &str); 0] = [];

    fn verdict(message: Message, status: u16, headers: &[(&'static str, &str)], body: &str) -> Verdict {
        let sent = Sent { message, counts: SENT, retries_throttled: false, may_downgrade: true };
        judge_with(sent, status, headers, body)
    }

    fn judge_with(sent: Sent, status: u16, headers: &[(&'static str, &str)], body: &str) -> Verdict {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        judge(&sent, status.try_into().unwrap(), &headers.collect(), body.as_bytes(), SystemTime::UNIX_EPOCH)
    }

    /// `want` is what is stored, and a part of the warning.
    #[track_caller]
    fn accepts(message: Message, status: u16, headers: &[(&'static str, &str)], want: (u64, u64), warns: &str) {
        let Verdict::Accepted { written, warning } = verdict(message, status, headers, "") else {
            panic!("{:?}", verdict(message, status, headers, ""))
        };
        assert_eq!((written.samples, written.histograms), want);
        let warning = warning.unwrap_or_default();
        assert!(warning.contains(warns) && warning.is_empty() == warns.is_empty(), "{warning}");
    }

    #[test]
    fn headers_say_what_was_stored() {
        use Message::{V1, V2};
        accepts(V1, 204, &NOTHING, (10, 2), "");
        accepts(V1, 200, &ALL, (10, 2), "");
        accepts(V1, 200, &[("x-prometheus-remote-write-samples-written", "4")], (4, 0), "4 of 10 samples");
        accepts(V2, 204, &ALL, (10, 2), "");
        accepts(V2, 202, &[("x-prometheus-remote-write-exemplars-written", "0")], (0, 0), "0 of 10 samples");
        accepts(V2, 200, &[("x-prometheus-remote-write-samples-written", "99999")], (10, 0), "0 of 2 histograms");
        accepts(V2, 200, &[("x-prometheus-remote-write-samples-written", "-1")], (0, 0), "0 of 10 samples");
    }

    #[test]
    fn a_receiver_that_does_not_read_2_0_gets_1_0() {
        let downgrades = |status, headers: &[(&'static str, &str)], body: &str| {
            matches!(verdict(Message::V2, status, headers, body), Verdict::Downgrade { .. })
        };
        assert!(downgrades(204, &NOTHING, ""));
        assert!(downgrades(415, &NOTHING, "unsupported media type"));
        assert!(downgrades(400, &NOTHING, "invalid Content-Type"));
        assert!(!downgrades(400, &NOTHING, "out of order sample"));
        assert!(!downgrades(415, &ALL, ""));
        assert!(!downgrades(500, &NOTHING, "content type"));
        for status in [204, 415] {
            assert!(!matches!(verdict(Message::V1, status, &NOTHING, ""), Verdict::Downgrade { .. }));
        }
        // One that takes 2.0 alone and confirms nothing: as Prometheus counts it.
        let sent = Sent { message: Message::V2, counts: SENT, retries_throttled: false, may_downgrade: false };
        let Verdict::Accepted { written, warning } = judge_with(sent, 204, &NOTHING, "") else { panic!() };
        assert_eq!((written, warning.is_some()), (Counts::default(), true));
    }

    #[test]
    fn what_may_help_is_tried() {
        use Message::{V1, V2};
        let check = |message, status, body: &str, want: &str| {
            let name = match verdict(message, status, &NOTHING, body) {
                Verdict::Accepted { .. } => "accepted",
                Verdict::Retry { .. } => "retry",
                Verdict::Split { .. } => "split",
                Verdict::Downgrade { .. } => "downgrade",
                Verdict::Repack => "repack",
                Verdict::Rejected { .. } => "rejected",
            };
            assert_eq!(name, want, "{message:?} {status} {body}");
        };
        for message in [V1, V2] {
            for status in [500, 502, 503, 504, 599] {
                check(message, status, "", "retry");
            }
            for status in [401, 403, 404, 408, 409, 422, 429, 451, 100, 199] {
                check(message, status, "", "rejected");
            }
            check(message, 413, "", "split");
        }
        check(V1, 400, "out of order sample", "split");
        check(V1, 400, "duplicate sample for timestamp", "split");
        check(V1, 400, "no metric name", "rejected");
        check(V2, 400, "out of order sample", "rejected");
        let sent = Sent { message: V1, counts: SENT, retries_throttled: true, may_downgrade: true };
        let throttled = judge_with(sent, 429, &[("retry-after", "7")], "slow down");
        let Verdict::Retry { after, is_throttled, .. } = throttled else { panic!("{throttled:?}") };
        assert_eq!((after, is_throttled), (Some(Duration::from_secs(7)), true));
    }

    #[test]
    fn redirects_are_refused_with_their_location() {
        for status in [301, 302, 303] {
            let verdict = verdict(Message::V1, status, &[("location", "http://other/write")], "<html>");
            let Verdict::Rejected { error, .. } = verdict else { panic!("{verdict:?}") };
            assert!(error.contains("http://other/write"), "{error}");
        }
    }

    #[test]
    fn what_is_stored_counts_beside_an_error() {
        let headers = [("x-prometheus-remote-write-samples-written", "7")];
        let Verdict::Rejected { written, .. } = verdict(Message::V2, 400, &headers, "bad") else { panic!() };
        assert_eq!(written, Counts { samples: 7, ..Counts::default() });
    }

    #[test]
    fn retry_after_has_two_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let check = |text: &str, want: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), want.map(Duration::from_secs), "{text}");
        };
        check("7", Some(7));
        check(" 7 ", Some(7));
        check("0", None);
        check("-3", None);
        check("soon", None);
        check("", None);
        check("99999999999", Some(300));
        check("99999999999999999999999", None);
        check("Sun, 06 Nov 1994 08:49:47 GMT", Some(10));
        check("Sun, 06 Nov 1994 08:49:27 GMT", None);
        check("Sun, 06 Nov 1994 08:49:37 GMT", None);
        check("Sat, 06 Nov 2094 08:49:37 GMT", Some(300));
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
