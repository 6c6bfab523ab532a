//! What a scrape asks: the request's bytes, built once per target, and where a redirect leads.

use super::FetchError;
use crate::status::Reason;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;
use targets::{Scheme, TargetUrl};

/// The text formats in the order of preference; weights count down from 0.6 as Prometheus' do.
const ACCEPT: &str = "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.2";

/// What a job says about its requests. Not printable: headers may hold secrets.
#[derive(Clone)]
pub struct RequestOptions {
    /// Told to the target in a header.
    pub timeout: Duration,
    /// `enable_compression`: ask for gzip. Default true.
    pub compression: bool,
    /// `follow_redirects`. Default true.
    pub follow_redirects: bool,
    /// Headers on top of ours, credentials among them. They are sent to the target's own host and port only.
    pub headers: Vec<(String, String)>,
}

impl Default for RequestOptions {
    fn default() -> RequestOptions {
        let timeout = Duration::from_secs(10);
        RequestOptions { timeout, compression: true, follow_redirects: true, headers: Vec::new() }
    }
}

/// A request ready to send. Cloning copies pointers.
#[derive(Clone)]
pub struct Request {
    pub(super) url: Rc<TargetUrl>,
    pub(super) bytes: Rc<[u8]>,
    options: Rc<RequestOptions>,
    /// Where the headers of the options may go.
    origin: Rc<TargetUrl>,
}

impl Request {
    /// Builds the request for `url`; an error if it cannot be sent.
    pub fn new(url: TargetUrl, options: RequestOptions) -> Result<Request, FetchError> {
        let origin = Rc::new(url);
        Request::build(origin.clone(), origin, Rc::new(options))
    }

    fn build(url: Rc<TargetUrl>, origin: Rc<TargetUrl>, options: Rc<RequestOptions>) -> Result<Request, FetchError> {
        let unsendable = |what: &str| {
            let reason = Reason::Unsupported;
            Err(FetchError { reason, text: format!("Get {:?}: {what}", url.to_string()) })
        };
        if url.scheme == Scheme::Https {
            return unsendable("https targets are not supported yet");
        }
        let same_origin = url.host.eq_ignore_ascii_case(&origin.host) && url.port == origin.port;
        let own_headers = if same_origin { &options.headers[..] } else { &[] };
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
        let mut text = String::with_capacity(512);
        text.push_str("GET ");
        push_escaped(&mut text, &url.path_and_query);
        let _ = write!(text, " HTTP/1.1\r\nHost: {}\r\n", url.authority);
        let encoding = if options.compression { "gzip" } else { "identity" };
        let timeout_seconds = options.timeout.as_secs_f64().to_string();
        let standard = [
            ("User-Agent", concat!("ringscrape/", env!("CARGO_PKG_VERSION"))),
            ("Accept", ACCEPT),
            ("Accept-Encoding", encoding),
            ("X-Prometheus-Scrape-Timeout-Seconds", &timeout_seconds),
        ];
        let overridden = |name: &str| own_headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let standard = standard.into_iter().filter(|(name, _)| !overridden(name));
        let own = own_headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in standard.chain(own) {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        Ok(Request { url, bytes: text.into_bytes().into(), options, origin })
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
        let url = TargetUrl { scheme, host, port, authority, path_and_query };
        Request::build(Rc::new(url), self.origin.clone(), self.options.clone())
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
        TargetUrl { scheme: Scheme::Http, host, port, authority, path_and_query }
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
             Accept: text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.2\r\n\
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

    #[test]
    fn https_is_told_not_to_work() {
        let url = TargetUrl { scheme: Scheme::Https, ..url("a", 443, "/metrics") };
        let error = Request::new(url, RequestOptions::default()).unwrap_err();
        assert_eq!(error.text, "Get \"https://a:443/metrics\": https targets are not supported yet");
        assert_eq!(error.reason, Reason::Unsupported);
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
    fn credentials_stay_at_home() {
        check_redirect("//there/x", "http://there/x", false);
        check_redirect("http://here/x", "http://here/x", false);
        check_redirect("http://here:9101/x", "http://here:9101/x", false);
        check_redirect("http://[::1]:9100/x", "http://[::1]:9100/x", false);
        check_redirect("http://user:password@there:9100/", "http://there:9100/", false);
    }

    #[test]
    fn credentials_come_back_with_the_origin() {
        let request = Request::new(url("here", 9100, "/"), secret()).unwrap();
        let away = request.redirected(b"http://there:9100/").unwrap();
        let back = away.redirected(b"http://here:9100/").unwrap();
        assert!(!text(&away).contains("s3cret") && text(&back).contains("s3cret"));
    }

    #[test]
    fn redirect_to_nowhere_fails() {
        let request = Request::new(url("here", 9100, "/"), secret()).unwrap();
        for (location, reason) in [
            ("http://", Reason::Redirect),
            ("http://a:99999/", Reason::Redirect),
            ("ftp://there/", Reason::Redirect),
            ("file:///etc/passwd", Reason::Redirect),
            ("https://here:9100/", Reason::Unsupported),
        ] {
            assert_eq!(request.redirected(location.as_bytes()).unwrap_err().reason, reason, "{location}");
        }
    }
}
