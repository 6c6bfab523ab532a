//! Signatures of requests by AWS Signature Version 4.

use super::clock;
use client::aws_signature::{self, SigningKey};
use client::header::{AUTHORIZATION, HeaderName};
use client::{HeaderValue, Request};

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Keys, and the token of a session where they have one.
#[derive(Clone, Default)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
    pub token: String,
}

/// For what a signature holds.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub region: &'a str,
    pub service: &'a str,
    /// Whether the header Accept is signed, too.
    pub signs_accept: bool,
}

/// Signs a request with its headers and body as they are now.
pub fn sign(request: &mut Request, credentials: &Credentials, scope: &Scope, seconds: u64) {
    let date = clock::utc(seconds).basic_text();
    if let Ok(value) = HeaderValue::from_str(&date) {
        request.headers.insert(DATE, value);
    }
    if let Ok(mut value) = HeaderValue::from_str(&credentials.token)
        && !credentials.token.is_empty()
    {
        value.set_sensitive(true);
        request.headers.insert(TOKEN, value);
    }
    let signed: &[&str] = match scope.signs_accept {
        true => &["accept", "content-type", "x-amz-date", "x-amz-security-token", "x-amz-target"],
        false => &["content-type", "x-amz-date", "x-amz-security-token", "x-amz-target"],
    };
    let Credentials { access_key, secret_key, .. } = credentials;
    let key = SigningKey { access_key, secret_key, region: scope.region, service: scope.service };
    let (method, url, headers) = (request.method.as_str(), &request.url, &request.headers);
    let header = aws_signature::authorization(&key, &date, method, url, headers, signed, &request.body);
    if let Ok(mut value) = HeaderValue::from_str(&header) {
        value.set_sensitive(true);
        request.headers.insert(AUTHORIZATION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::header::CONTENT_TYPE;
    use client::{Method, Url};

    /// Examples that AWS has published, all of one time and one pair of keys.
    #[track_caller]
    fn check(method: Method, url: &str, content_type: &str, body: &'static str, scope: (&str, &str), want: &str) {
        let mut request = Request::post(Url::parse(url).unwrap(), body);
        request.method = method;
        if !content_type.is_empty() {
            request.headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        }
        let credentials = Credentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            token: String::new(),
        };
        let scope = Scope { region: scope.0, service: scope.1, signs_accept: false };
        sign(&mut request, &credentials, &scope, 1_440_938_160);
        let header = request.headers[AUTHORIZATION].to_str().unwrap().to_owned();
        assert!(header.ends_with(&format!("Signature={want}")), "{header}");
        assert!(header.contains("Credential=AKIDEXAMPLE/20150830/us-east-1/"), "{header}");
    }

    #[test]
    fn published_examples() {
        let service = ("us-east-1", "service");
        check(
            Method::GET,
            "https://example.amazonaws.com/",
            "",
            "",
            service,
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        );
        check(
            Method::POST,
            "https://example.amazonaws.com/",
            "",
            "",
            service,
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        );
        check(
            Method::GET,
            "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
            "application/x-www-form-urlencoded; charset=utf-8",
            "",
            ("us-east-1", "iam"),
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        );
    }
}
