//! Signatures of requests by AWS Signature Version 4.

use super::clock;
use client::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName};
use client::{HeaderValue, Request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::{digest, hmac};

/// Characters that a canonical request does not encode.
const UNENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");

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

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
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
    let host = request.url.host_str().unwrap_or("").to_owned();
    let host = request.url.port().map_or(host.clone(), |port| format!("{host}:{port}"));
    let mut headers = vec![("host".to_owned(), host)];
    let mut signed = vec![CONTENT_TYPE, DATE, TOKEN, TARGET];
    if scope.signs_accept {
        signed.push(ACCEPT);
    }
    for name in signed {
        if let Some(value) = request.headers.get(&name).and_then(|value| value.to_str().ok()) {
            headers.push((name.as_str().to_owned(), value.trim().to_owned()));
        }
    }
    headers.sort();
    let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    // Outside S3 the path, which is encoded already, is encoded once more.
    let path: Vec<String> =
        request.url.path().split('/').map(|part| utf8_percent_encode(part, UNENCODED).to_string()).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{names}\n{}",
        request.method,
        path.join("/"),
        canonical_query(request.url.query().unwrap_or("")),
        sha256(&request.body)
    );
    let day = &date[..8];
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{place}\n{}", sha256(canonical.as_bytes()));
    let mut key = mac(format!("AWS4{}", credentials.secret_key).as_bytes(), day);
    for part in [scope.region, scope.service, "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = hex(&mac(&key, &text));
    let header = format!(
        "AWS4-HMAC-SHA256 Credential={}/{place}, SignedHeaders={names}, Signature={signature}",
        credentials.access_key
    );
    if let Ok(mut value) = HeaderValue::from_str(&header) {
        value.set_sensitive(true);
        request.headers.insert(AUTHORIZATION, value);
    }
}

/// Returns the parameters sorted, each encoded anew.
fn canonical_query(query: &str) -> String {
    let encode = |text: &str| {
        let plain = text.replace('+', " ");
        let plain = percent_decode_str(&plain).collect::<Vec<u8>>();
        percent_encoding::percent_encode(&plain, UNENCODED).to_string()
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn queries_are_sorted_and_encoded() {
        assert_eq!(canonical_query("b=x+y&a=%2F&c"), "a=%2F&b=x%20y&c=");
    }
}
