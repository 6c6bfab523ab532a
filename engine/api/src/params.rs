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
                ApiError::bad_data(format!("invalid parameter {name:?}: cannot parse {text:?} to a valid timestamp"))
            }),
        }
    }
}

/// Seconds since 1970 with a fraction, or RFC 3339.
fn parse_time(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        // Beyond this, milliseconds do not fit.
        return (seconds.abs() < 9.2e15).then_some((seconds * 1000.0).round() as i64);
    }
    series::parse_rfc3339(text).map(|time| time.0)
}

impl<S: Sync> FromRequest<S> for Params {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Params, ApiError> {
        let mut params: Vec<(String, String)> = pairs(request.uri().query().unwrap_or("").as_bytes()).collect();
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
            ("2024-02-29T12:34:56.789Z", Some(1_709_210_096_789)),
            ("2024-02-29T13:34:56.789+01:00", Some(1_709_210_096_789)),
            ("2024-02-29T12:34:56Z", Some(1_709_210_096_000)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29 12:34:56Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("1e300", None),
            ("NaN", None),
            ("yesterday", None),
            ("2024-02-29T12:34:56é", None),
        ] {
            assert_eq!(parse_time(text), want, "{text}");
        }
    }
}
