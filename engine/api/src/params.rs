//! Query parameters, from the URL and from a form, with repeats kept.

use crate::answer::ApiError;
use axum::extract::{FromRequest, Request};
use axum::http::{Method, header};
use url::form_urlencoded;

/// Largest form.
const FORM_BYTES_MAX: usize = 1 << 20;

/// All parameters of a request, in their order.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A count; absent and negative ones are no limit.
    pub fn limit(&self, name: &str) -> Result<usize, ApiError> {
        match self.get(name) {
            None | Some("") => Ok(usize::MAX),
            Some(text) => match text.parse::<i64>() {
                Ok(limit) if limit < 0 => Ok(usize::MAX),
                Ok(limit) => Ok(limit as usize),
                Err(_) => Err(ApiError::bad_data(format!("{name} must be a number"))),
            },
        }
    }
}

impl Params {
    /// Unix milliseconds from seconds or RFC 3339.
    pub fn time(&self, name: &str, default: i64) -> Result<i64, ApiError> {
        match self.get(name) {
            None | Some("") => Ok(default),
            Some(text) => parse_time(text).ok_or_else(|| {
                let cannot = format!("cannot parse {text:?} to a valid timestamp");
                ApiError::bad_data(format!("invalid parameter {name:?}: invalid time value for '{name}': {cannot}"))
            }),
        }
    }

    /// The same of a range query: it has to be there, and its error has fewer words, as in Prometheus.
    pub fn required_time(&self, name: &str) -> Result<i64, ApiError> {
        let text = self.get(name).unwrap_or("");
        parse_time(text).ok_or_else(|| {
            ApiError::bad_data(format!("invalid parameter {name:?}: cannot parse {text:?} to a valid timestamp"))
        })
    }
}

/// Prometheus' first and last time: years that RFC 3339 cannot write.
const MIN_TIME: (&str, i64) = ("-292273086-05-16T16:47:06Z", (i64::MIN / 1000 + 62_135_596_801) * 1000);
const MAX_TIME: (&str, i64) = ("292277025-08-18T07:12:54.999999999Z", (i64::MAX / 1000 - 62_135_596_801) * 1000 + 999);
/// Beyond so many seconds, milliseconds do not fit.
const SECONDS_MAX: f64 = 9.2e15;

/// Seconds since 1970 with a fraction, or RFC 3339.
fn parse_time(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        // What is no time, or too far away, is a time without samples.
        let seconds = if seconds.is_nan() { -SECONDS_MAX } else { seconds.clamp(-SECONDS_MAX, SECONDS_MAX) };
        // As Prometheus rounds: the fraction alone.
        return Some(seconds.trunc() as i64 * 1000 + (seconds.fract() * 1000.0).round() as i64);
    }
    let bound = [MIN_TIME, MAX_TIME].into_iter().find(|(name, _)| *name == text);
    bound.map(|(_, ms)| ms).or_else(|| series::parse_rfc3339(text).map(|time| time.0))
}

impl<S: Sync> FromRequest<S> for Params {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Params, ApiError> {
        let of_url: Vec<(String, String)> = pairs(request.uri().query().unwrap_or("").as_bytes()).collect();
        // As in Go, what the form says goes first.
        let mut params = Vec::new();
        let is_form = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        if request.method() == Method::POST && is_form {
            let body = axum::body::to_bytes(request.into_body(), FORM_BYTES_MAX)
                .await
                .map_err(|_| ApiError::bad_data(format!("the form is larger than {FORM_BYTES_MAX} bytes")))?;
            params.extend(pairs(&body));
        }
        params.extend(of_url);
        Ok(Params(params))
    }
}

/// The parameters of a query string or a form. As in Go, those with a percent sign before no two hexadecimal digits are left
/// out.
fn pairs(text: &[u8]) -> impl Iterator<Item = (String, String)> {
    let is_whole = |pair: &&[u8]| {
        let mut escapes = pair.split(|byte| *byte == b'%').skip(1);
        escapes.all(|after| after.len() >= 2 && after[..2].iter().all(u8::is_ascii_hexdigit))
    };
    text.split(|byte| *byte == b'&').filter(is_whole).flat_map(|pair| form_urlencoded::parse(pair).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_with_broken_escapes_are_left_out() {
        let of = |text: &str| pairs(text.as_bytes()).map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        assert_eq!(of("query=up%zz&time=1"), ["time=1"]);
        assert_eq!(of("a=%&b=%4&c=%41%4&d=%41+b&%e=1&e=%C3%BC"), ["d=A b", "e=\u{fc}"]);
        assert_eq!(of("query=up{job=\"a\"}&&x"), ["query=up{job=\"a\"}", "x="]);
    }

    #[test]
    fn times_in_every_form() {
        for (text, want) in [
            ("1709210096.789", Some(1_709_210_096_789)),
            ("-1", Some(-1000)),
            ("-1.5", Some(-1500)),
            ("1796136147.0005", Some(1_796_136_147_000)),
            ("1796136147.9996", Some(1_796_136_148_000)),
            ("2024-02-29T12:34:56.789Z", Some(1_709_210_096_789)),
            ("2024-02-29T13:34:56.789+01:00", Some(1_709_210_096_789)),
            ("2024-02-29T12:34:56Z", Some(1_709_210_096_000)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29 12:34:56Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("1e300", Some(9_200_000_000_000_000_000)),
            ("NaN", Some(-9_200_000_000_000_000_000)),
            ("-292273086-05-16T16:47:06Z", Some(-9_223_309_901_257_974_000)),
            ("292277025-08-18T07:12:54.999999999Z", Some(9_223_309_901_257_974_999)),
            ("-292273087-05-16T16:47:06Z", None),
            ("yesterday", None),
            ("2024-02-29T12:34:56é", None),
        ] {
            assert_eq!(parse_time(text), want, "{text}");
        }
    }
}
