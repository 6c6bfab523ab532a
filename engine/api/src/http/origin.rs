//! Requests that a page of another origin makes a browser send.

use axum::http::{HeaderMap, Method, header};
use regex::Regex;

fn text(headers: &HeaderMap, name: impl axum::http::header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The origin of a request, if `--web.cors.origin` lets it read answers.
pub(crate) fn allowed_origin(headers: &HeaderMap, cors_origin: Option<&Regex>) -> Option<String> {
    let origin = text(headers, header::ORIGIN)?;
    cors_origin.is_some_and(|regex| regex.is_match(origin)).then(|| origin.to_owned())
}

/// Whether a request that may change something was made by a page of another origin.
///
/// The browser's own word (`Sec-Fetch-Site`) counts first: a proxy leaves it, and no page can set it. Browsers that say
/// nothing send `Origin`, which has to be the host that the request was sent to: as `Host` has it, as a proxy passes it on
/// (`X-Forwarded-Host`, `Forwarded`; a page cannot set these without asking first), or as `--web.external-url` has it.
/// Programs that are no browser send neither.
pub(crate) fn is_cross_origin(method: &Method, headers: &HeaderMap, external_host: Option<&str>) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    match text(headers, "sec-fetch-site") {
        Some("same-origin" | "none") => return false,
        Some(_) => return true,
        None => {}
    }
    let Some(origin) = text(headers, header::ORIGIN) else { return false };
    let Some((_, origin_host)) = origin.split_once("://") else { return true };
    let forwarded = text(headers, header::FORWARDED).into_iter().flat_map(|value| value.split([',', ';']));
    let forwarded = forwarded.filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim_matches('"'))
    });
    let forwarded_hosts = text(headers, "x-forwarded-host").into_iter().flat_map(|value| value.split(','));
    let hosts = text(headers, header::HOST).into_iter().chain(external_host).chain(forwarded_hosts).chain(forwarded);
    !hosts.map(str::trim).any(|host| host.eq_ignore_ascii_case(origin_host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pairs: &[(&'static str, &str)], want: bool) {
        let mut headers = HeaderMap::new();
        pairs.iter().for_each(|(name, value)| drop(headers.insert(*name, value.parse().unwrap())));
        assert_eq!(is_cross_origin(&Method::POST, &headers, Some("prom.example")), want, "{pairs:?}");
        assert!(!is_cross_origin(&Method::GET, &headers, None));
    }

    #[test]
    fn pages_of_other_origins_are_told_apart() {
        check(&[], false);
        check(&[("host", "a:9090"), ("origin", "http://A:9090")], false);
        check(&[("host", "a:9090"), ("origin", "https://evil.example")], true);
        check(&[("host", "a:9090"), ("origin", "null")], true);
        check(&[("host", "127.0.0.1:9090"), ("origin", "https://prom.example")], false);
        check(&[("host", "127.0.0.1"), ("origin", "https://p.x"), ("x-forwarded-host", "p.x, inner")], false);
        check(&[("host", "127.0.0.1"), ("origin", "https://p.x"), ("forwarded", "for=1.2.3.4;Host=\"p.x\"")], false);
        check(&[("host", "127.0.0.1"), ("origin", "https://p.x"), ("sec-fetch-site", "same-origin")], false);
        check(&[("host", "p.x"), ("origin", "https://p.x"), ("sec-fetch-site", "cross-site")], true);
    }
}
