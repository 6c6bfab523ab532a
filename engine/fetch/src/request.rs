//! What a scrape asks: the request's bytes, built once per target, and where a redirect leads.

use super::ways::Proxy;
use super::{ConnectOptions, FetchError};
use crate::Reason;
use std::borrow::Cow;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use targets::{Scheme, TargetUrl};

/// What a job says about its requests. Not printable: headers may hold secrets.
#[derive(Clone)]
pub struct RequestOptions {
    /// Told to the target in a header.
    pub timeout: Duration,
    /// The formats, for the header Accept.
    pub accept: String,
    /// `enable_compression`: ask for gzip. Default true.
    pub compression: bool,
    /// `follow_redirects`. Default true.
    pub follow_redirects: bool,
    /// Headers on top of ours, credentials among them. They are sent to the target's own host and port only.
    pub headers: Vec<(String, String)>,
    /// How connections are made.
    pub ways: Arc<ConnectOptions>,
}

impl Default for RequestOptions {
    fn default() -> RequestOptions {
        let timeout = Duration::from_secs(10);
        RequestOptions {
            timeout,
            accept: "*/*".to_owned(),
            compression: true,
            follow_redirects: true,
            headers: Vec::new(),
            ways: Arc::default(),
        }
    }
}

/// A request ready to send. Cloning copies pointers.
#[derive(Clone)]
pub struct Request {
    pub(super) url: Rc<TargetUrl>,
    pub(super) bytes: Rc<[u8]>,
    pub(super) proxy: Option<Rc<Proxy>>,
    options: Rc<RequestOptions>,
    /// Whether this is for the target's own host, where the headers of the options may go.
    pub(super) is_at_home: bool,
}

impl Request {
    /// Builds the request for `url`; an error if it cannot be sent.
    pub fn new(url: TargetUrl, options: RequestOptions) -> Result<Request, FetchError> {
        Request::build(Rc::new(url), Rc::new(options), true, None)
    }

    fn build(
        url: Rc<TargetUrl>,
        options: Rc<RequestOptions>,
        is_at_home: bool,
        referer: Option<&str>,
    ) -> Result<Request, FetchError> {
        if let Some(defect) = &url.defect {
            return Err(FetchError { reason: Reason::Unsupported, text: defect.error.clone() });
        }
        let unsendable = |what: &str| {
            let reason = Reason::Unsupported;
            Err(FetchError { reason, text: format!("Get {:?}: {what}", url.to_string()) })
        };
        let own_headers = if is_at_home { &options.headers[..] } else { &[] };
        // A line end in any of these would let a label write headers.
        if url.authority.is_empty() || url.authority.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return unsendable("invalid Host header");
        }
        for (name, value) in own_headers {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) {
                return unsendable(&format!("net/http: invalid header field name {name:?}"));
            }
            if value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
                // The value may be a secret.
                return unsendable(&format!("net/http: invalid header field value for {name:?}"));
            }
        }
        let is_tls = url.scheme == Scheme::Https;
        let proxy = options.ways.proxies.of(is_tls, &url.host, url.port).map(Proxy::of).transpose();
        let proxy = match proxy {
            Ok(proxy) => proxy,
            Err(why) => return unsendable(&why),
        };
        let mut text = String::with_capacity(512);
        text.push_str("GET ");
        // A proxy needs to be told where to; through one in TLS there is a tunnel.
        let reader = proxy.as_ref().filter(|_| !is_tls);
        if reader.is_some() {
            let _ = write!(text, "http://{}", url.authority);
        }
        if !url.path_and_query.starts_with('/') {
            text.push('/');
        }
        push_escaped(&mut text, &url.path_and_query);
        let _ = write!(text, " HTTP/1.1\r\nHost: {}\r\n", without_zone(&url.authority));
        let encoding = if options.compression { "gzip" } else { "identity" };
        let timeout_seconds = options.timeout.as_secs_f64().to_string();
        let standard = [
            ("User-Agent", concat!("ringscrape/", env!("CARGO_PKG_VERSION"))),
            ("Accept", &options.accept),
            ("Accept-Encoding", encoding),
            ("X-Prometheus-Scrape-Timeout-Seconds", &timeout_seconds),
            ("Referer", referer.unwrap_or_default()),
        ];
        let overridden = |name: &str| own_headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let standard = standard.into_iter().filter(|(name, value)| !value.is_empty() && !overridden(name));
        let own = own_headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in standard.chain(own) {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if let Some(authorization) = reader.and_then(|proxy| proxy.authorization.as_ref()) {
            let _ = write!(text, "Proxy-Authorization: {authorization}\r\n");
        }
        text.push_str("\r\n");
        Ok(Request { url, bytes: text.into_bytes().into(), proxy: proxy.map(Rc::new), options, is_at_home })
    }

    /// How connections are made.
    pub(super) fn ways(&self) -> &ConnectOptions {
        &self.options.ways
    }

    /// Whether a redirect is a step or the end.
    pub(super) fn follows_redirects(&self) -> bool {
        self.options.follow_redirects
    }

    /// The request that a redirect asks for.
    pub(super) fn redirected(&self, location: &[u8]) -> Result<Request, FetchError> {
        let location = String::from_utf8_lossy(location);
        let failed = |why: &dyn std::fmt::Display| FetchError {
            reason: Reason::Redirect,
            text: format!("Get {:?}: failed to parse Location header {location:?}: {why}", self.url.to_string()),
        };
        let base = url::Url::parse(&self.url.to_string()).map_err(|error| failed(&error))?;
        let url = base.join(&location).map_err(|error| failed(&error))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => {
                let text = format!("Get {:?}: unsupported protocol scheme {other:?}", url.as_str());
                return Err(FetchError { reason: Reason::Redirect, text });
            }
        };
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(failed(&"no host"));
        };
        // User and password in the URL are left out: where the target sends us is no place to log in.
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path_and_query = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let url = TargetUrl { scheme, host, port, authority, path_and_query, defect: None };
        let is_secured = (self.url.scheme, url.scheme) == (Scheme::Http, Scheme::Https);
        if (self.url.scheme, url.scheme) == (Scheme::Https, Scheme::Http) {
            let why = format_args!("redirected from https to http, {url}, which is not followed");
            return Err(self.failed(Reason::Redirect, why));
        }
        let same_port = self.url.scheme == url.scheme && self.url.port == url.port;
        let is_same_host = url.host.eq_ignore_ascii_case(&self.url.host) && (same_port || is_secured);
        let referer = self.url.to_string();
        Request::build(Rc::new(url), self.options.clone(), self.is_at_home && is_same_host, Some(&referer))
    }

    /// An error before the body, as Go words it.
    pub(super) fn failed(&self, reason: Reason, why: impl std::fmt::Display) -> FetchError {
        FetchError { reason, text: format!("Get \"{}\": {why}", self.url) }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({})", self.url)
    }
}

/// The name of a host without the zone of an IPv6 address, which means something on this machine only.
fn without_zone(authority: &str) -> Cow<'_, str> {
    let zone = authority.find('%').zip(authority.find(']'));
    match zone.filter(|(zone, end)| zone < end && authority.starts_with('[')) {
        Some((zone, end)) => format!("{}{}", &authority[..zone], &authority[end..]).into(),
        None => authority.into(),
    }
}

/// Escapes what may not stand in a request line; the rest is taken to be escaped already.
fn push_escaped(text: &mut String, path_and_query: &str) {
    for byte in path_and_query.bytes() {
        match byte {
            0..=b' ' | 0x7f.. | b'"' | b'<' | b'>' => {
                let _ = write!(text, "%{byte:02X}");
            }
            _ => text.push(char::from(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(host: &str, port: u16, path_and_query: &str) -> TargetUrl {
        let (host, path_and_query) = (host.to_owned(), path_and_query.to_owned());
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        TargetUrl { scheme: Scheme::Http, host, port, authority, path_and_query, defect: None }
    }

    fn text(request: &Request) -> &str {
        std::str::from_utf8(&request.bytes).unwrap()
    }

    fn secret() -> RequestOptions {
        let headers = vec![("Authorization".to_owned(), "Bearer s3cret".to_owned())];
        RequestOptions { headers, ..RequestOptions::default() }
    }

    #[test]
    fn request_says_what_we_can_read() {
        let options = RequestOptions { timeout: Duration::from_millis(1500), ..secret() };
        let request = Request::new(url("localhost", 9100, "/metrics?a=b"), options).unwrap();
        let want = format!(
            "GET /metrics?a=b HTTP/1.1\r\n\
             Host: localhost:9100\r\n\
             User-Agent: ringscrape/{}\r\n\
             Accept: */*\r\n\
             Accept-Encoding: gzip\r\n\
             X-Prometheus-Scrape-Timeout-Seconds: 1.5\r\n\
             Authorization: Bearer s3cret\r\n\r\n",
            env!("CARGO_PKG_VERSION"),
        );
        assert_eq!(text(&request), want);
    }

    #[test]
    fn options_change_the_request() {
        let options = RequestOptions {
            compression: false,
            timeout: Duration::from_secs(1),
            headers: vec![("user-agent".into(), "probe".into())],
            ..RequestOptions::default()
        };
        let request = Request::new(url("::1", 80, "/"), options).unwrap();
        let text = text(&request);
        assert!(text.contains("\r\nAccept-Encoding: identity\r\n"));
        assert!(text.contains("\r\nX-Prometheus-Scrape-Timeout-Seconds: 1\r\n"));
        assert!(text.contains("\r\nuser-agent: probe\r\n") && !text.contains("ringscrape"));
        assert!(text.contains("\r\nHost: [::1]:80\r\n"));
    }

    #[test]
    fn nothing_writes_lines_of_its_own() {
        let request = Request::new(url("a", 1, "/x\r\nEvil: 1 \u{e9}"), secret()).unwrap();
        assert!(text(&request).starts_with("GET /x%0D%0AEvil:%201%20%C3%A9 HTTP/1.1\r\nHost: a:1\r\n"));
        assert!(Request::new(url("a\r\nEvil", 1, "/"), secret()).is_err());
        for (name, value) in [("X", "1\r\nEvil: 1"), ("X\r\nEvil", "1"), ("X Y", "1"), ("", "1")] {
            let headers = vec![(name.to_owned(), value.to_owned())];
            let options = RequestOptions { headers, ..RequestOptions::default() };
            let error = Request::new(url("a", 1, "/"), options).unwrap_err();
            assert!(error.reason == Reason::Unsupported && !error.text.contains("Evil: 1"), "{error}");
        }
    }

    /// With a proxy for everything, `url` is asked for by a request that begins so.
    #[track_caller]
    fn check_proxied(scheme: Scheme, want: &str, with_password: bool) {
        let proxy = url::Url::parse("http://me:hush@proxy:3128").unwrap();
        let proxies = client::proxy::Proxies::new(Some(&proxy), "", false, |_| None).unwrap();
        let ways = Arc::new(ConnectOptions { proxies, ..ConnectOptions::default() });
        let url = TargetUrl { scheme, ..url("here", 9100, "/m") };
        let request = Request::new(url, RequestOptions { ways, ..RequestOptions::default() }).unwrap();
        assert!(text(&request).starts_with(want), "{}", text(&request));
        let password = text(&request).contains("\r\nProxy-Authorization: Basic bWU6aHVzaA==\r\n");
        assert_eq!(password, with_password);
        assert!(request.proxy.is_some_and(|proxy| proxy.port == 3128));
    }

    #[test]
    fn proxy_is_told_where_to() {
        check_proxied(Scheme::Http, "GET http://here:9100/m HTTP/1.1\r\nHost: here:9100\r\n", true);
        check_proxied(Scheme::Https, "GET /m HTTP/1.1\r\nHost: here:9100\r\n", false);
    }

    /// A redirect from `http://here:9100/a/b?c=d` to `location` goes to `want`, with our credentials or without.
    #[track_caller]
    fn check_redirect(location: &str, want: &str, with_credentials: bool) {
        let request = Request::new(url("here", 9100, "/a/b?c=d"), secret()).unwrap();
        let next = request.redirected(location.as_bytes()).unwrap();
        assert_eq!(next.url.to_string(), want);
        assert_eq!(text(&next).contains("s3cret"), with_credentials);
    }

    #[test]
    fn redirect_is_relative_to_where_it_was_found() {
        check_redirect("/x", "http://here:9100/x", true);
        check_redirect("x?y=z", "http://here:9100/a/x?y=z", true);
        check_redirect("?y=z#part", "http://here:9100/a/b?y=z", true);
        check_redirect("../..//x", "http://here:9100//x", true);
        check_redirect("http://HERE:9100/x", "http://here:9100/x", true);
    }

    #[test]
    fn redirect_says_where_it_came_from() {
        let request = Request::new(url("here", 9100, "/a?b=c"), secret()).unwrap();
        assert!(!text(&request).contains("Referer"));
        let next = request.redirected(b"/x").unwrap();
        assert!(text(&next).contains("\r\nReferer: http://here:9100/a?b=c\r\n"), "{}", text(&next));
        let last = next.redirected(b"http://there/").unwrap();
        assert!(text(&last).contains("\r\nReferer: http://here:9100/x\r\n"), "{}", text(&last));
    }

    #[test]
    fn odd_urls_become_requests() {
        let request = Request::new(url("fe80::1%eth0", 9100, "/m"), secret()).unwrap();
        assert!(text(&request).starts_with("GET /m HTTP/1.1\r\nHost: [fe80::1]:9100\r\n"), "{}", text(&request));
        for (path, want) in [("", "GET / HTTP"), ("?a=b", "GET /?a=b HTTP")] {
            assert!(text(&Request::new(url("a", 1, path), secret()).unwrap()).starts_with(want));
        }
        let defect = Some(targets::UrlDefect { scheme: "ftp".into(), error: "no".into() }.into());
        let error = Request::new(TargetUrl { defect, ..url("a", 1, "/") }, secret()).unwrap_err();
        assert_eq!((error.reason, error.text.as_str()), (Reason::Unsupported, "no"));
    }

    #[test]
    fn credentials_stay_at_home() {
        check_redirect("//there/x", "http://there/x", false);
        check_redirect("http://here/x", "http://here/x", false);
        check_redirect("http://here:9101/x", "http://here:9101/x", false);
        check_redirect("http://[::1]:9100/x", "http://[::1]:9100/x", false);
        check_redirect("http://user:password@there:9100/", "http://there:9100/", false);
    }

    #[test]
    fn credentials_do_not_come_back() {
        let request = Request::new(url("here", 9100, "/"), secret()).unwrap();
        let secured = request.redirected(b"https://here/").unwrap();
        let away = secured.redirected(b"https://there:9100/").unwrap();
        let back = away.redirected(b"https://here/").unwrap();
        assert!(
            text(&secured).contains("s3cret") && !text(&away).contains("s3cret") && !text(&back).contains("s3cret")
        );
        let error = secured.redirected(b"http://here:9100/").unwrap_err();
        assert_eq!(error.reason, Reason::Redirect, "{error}");
    }

    #[test]
    fn redirect_to_nowhere_fails() {
        let request = Request::new(url("here", 9100, "/"), secret()).unwrap();
        for (location, reason) in [
            ("http://", Reason::Redirect),
            ("http://a:99999/", Reason::Redirect),
            ("ftp://there/", Reason::Redirect),
            ("file:///etc/passwd", Reason::Redirect),
        ] {
            assert_eq!(request.redirected(location.as_bytes()).unwrap_err().reason, reason, "{location}");
        }
    }
}
