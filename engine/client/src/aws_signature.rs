//! AWS Signature Version 4 of a request, without I/O.

use http::HeaderMap;
use ring::{digest, hmac};
use std::fmt::Write;
use url::Url;

/// Who signs, and for what.
#[derive(Clone, Copy)]
pub struct SigningKey<'a> {
    pub access_key: &'a str,
    pub secret_key: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Percent-encodes all but what RFC 3986 leaves alone.
fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
        out
    })
}

/// The host as the request names it.
pub fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The value of the Authorization header. `date` is `YYYYMMDD'T'HHMMSS'Z'`, as `x-amz-date` among the headers is. Of the
/// headers, those named in `signed` are signed if the request has them, and the host; others may be added later.
pub fn authorization(
    key: &SigningKey,
    date: &str,
    method: &str,
    url: &Url,
    headers: &HeaderMap,
    signed: &[&'static str],
    body: &[u8],
) -> String {
    let given =
        |name: &&'static str| headers.get(*name).and_then(|value| value.to_str().ok()).map(|value| (*name, value));
    let own_host = host(url);
    let mut signed: Vec<(&str, &str)> = signed.iter().filter_map(given).chain([("host", &*own_host)]).collect();
    signed.sort_unstable();
    let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    // The path is encoded once in the URL, and once more here.
    let path: Vec<String> = url.path().split('/').map(encode).collect();
    let mut query: Vec<(String, String)> =
        url.query_pairs().map(|(name, value)| (encode(&name), encode(&value))).collect();
    query.sort_unstable();
    let query: Vec<String> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut canonical = format!("{method}\n{}\n{}\n", path.join("/"), query.join("&"));
    for (name, value) in &signed {
        let value: Vec<&str> = value.split_whitespace().collect();
        let _ = writeln!(canonical, "{name}:{}", value.join(" "));
    }
    let _ = write!(canonical, "\n{names}\n{}", sha256(body));
    let day = date.get(..8).unwrap_or(date);
    let scope = format!("{day}/{}/{}/aws4_request", key.region, key.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let secret = format!("AWS4{}", key.secret_key);
    let parts = [day, key.region, key.service, "aws4_request"];
    let derived = parts.iter().fold(secret.into_bytes(), |key, part| hmac_sha256(&key, part));
    let signature = hex(&hmac_sha256(&derived, &to_sign));
    format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", key.access_key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[track_caller]
    fn check(service: &str, method: &str, url: &str, given: &[(&str, &str)], body: &[u8], want: &str) {
        let key = SigningKey {
            access_key: "AKIDEXAMPLE",
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            service,
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-date", HeaderValue::from_static("20150830T123600Z"));
        for (name, value) in given {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        let url = Url::parse(url).unwrap();
        let found =
            authorization(&key, "20150830T123600Z", method, &url, &headers, &["content-type", "x-amz-date"], body);
        assert!(found.ends_with(want), "{url}: {found}");
    }

    /// From AWS' test suite of the signature, and from its documentation.
    #[test]
    fn published_examples() {
        let host = "https://example.amazonaws.com";
        let signature = "SignedHeaders=host;x-amz-date, \
                         Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        check("service", "GET", &format!("{host}/"), &[], b"", signature);
        let signature = "Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
        check("service", "POST", &format!("{host}/"), &[], b"", signature);
        let signature = "Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500";
        check("service", "GET", &format!("{host}/?Param2=value2&Param1=value1"), &[], b"", signature);
        let signature = "Signature=a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb";
        check("service", "GET", &format!("{host}/?Param1=value1"), &[], b"", signature);
        let content = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let signature = "Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
                         SignedHeaders=content-type;host;x-amz-date, \
                         Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        let url = "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08";
        check("iam", "GET", url, &content, b"", signature);
    }
}
