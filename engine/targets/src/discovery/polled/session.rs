//! The requests of one section: bounded, counted, with secrets kept out of messages.
//!
//! Invariants:
//!   * a refresh sends at most [`REQUESTS_MAX`] requests and reads at most [`ANSWERS_BYTES_MAX`] bytes
//!   * a list that repeats a page, or has more than [`TARGETS_MAX`] rows, is an error
//!   * a link in an answer chooses the parameters of the next request and never its host or path
//!   * no message holds a secret of the section or a token that was obtained with it

use super::super::TARGETS_MAX;
use super::row::rows_of;
use super::xml;
use client::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH};
use client::{Client, ClientOptions, HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Url};
use config::{HttpConfig, MechanismConfig, Secret};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_64;

/// Number of requests of one refresh. Prometheus has no bound; a service per request is the largest case.
pub const REQUESTS_MAX: usize = 20_000;
/// Number of requests at once.
const AT_ONCE_MAX: usize = 16;
/// Size of one answer, in bytes. As parsed values it takes up to ten times that.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Number of values of one answer. Values of three bytes would take many times their size.
const VALUES_PER_ANSWER_MAX: usize = 8_000_000;
/// Size of all answers of one refresh, in bytes.
const ANSWERS_BYTES_MAX: usize = 256 << 20;
/// Size of an answer from which it is parsed on a thread for blocking work, in bytes.
const PARSE_APART_BYTES: usize = 64 << 10;
/// Bounds of the time of one request: the refresh interval within these.
const WITHIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Time for services of the host that give credentials.
const METADATA_WITHIN: Duration = Duration::from_secs(5);
/// Length of what is shown of an answer with an error, in characters.
const SHOWN_MAX: usize = 200;
/// Size of the answers kept with their ETags, in bytes.
const TAGGED_BYTES_MAX: usize = 16 << 20;
/// Number of values kept from one refresh to the next: tokens, and interfaces of machines.
const VALUES_MAX: usize = 5_000;
/// A token is renewed so long before it expires.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// The section, its client, and what is kept from one refresh to the next. Cloning copies a pointer.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    settings: MechanismConfig,
    client: Client,
    /// For services of the host itself: no credentials, no proxy.
    plain: Client,
    /// All requests go to this server, with the host that was meant in their header. For tests.
    instead: Option<Url>,
    requests: AtomicUsize,
    answers_bytes: AtomicUsize,
    state: Mutex<SessionState>,
    at_once: Arc<Semaphore>,
}

#[derive(Default)]
struct SessionState {
    warnings: Vec<String>,
    /// Secrets that were obtained, to be kept out of messages.
    hidden: Vec<String>,
    tokens: HashMap<String, (Value, Option<Instant>)>,
    cache_hits: u64,
    /// Answers with their ETags, by URL.
    answers: HashMap<String, (HeaderValue, Arc<Value>, usize)>,
}

/// How an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Xml,
    /// A text as it is.
    Text,
    /// The body counts for nothing.
    None,
}

/// Which statuses are answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accept {
    Ok,
    Success,
    Any,
}

/// A request and how its answer is read.
#[derive(Clone, Debug)]
pub struct Call {
    request: Request,
    format: Format,
    accept: Accept,
    is_plain: bool,
    reads_body_of_ok_only: bool,
}

/// An answer with an accepted status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// Returns a header as text, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// Why there is no answer. The status is known if there was one.
#[derive(Debug)]
pub struct CallError {
    pub status: Option<StatusCode>,
    pub text: String,
}

impl From<CallError> for String {
    fn from(error: CallError) -> String {
        error.text
    }
}

impl Call {
    pub fn get(url: Url) -> Call {
        let request = Request::get(url).header(ACCEPT, "application/json");
        Call { request, format: Format::Json, accept: Accept::Ok, is_plain: false, reads_body_of_ok_only: false }
    }

    /// A POST of JSON.
    pub fn post(url: Url, body: &Value) -> Call {
        Call::post_text(url, "application/json", body.to_string())
    }

    /// A POST of a form.
    pub fn form(url: Url, pairs: &[(impl AsRef<str>, impl AsRef<str>)]) -> Call {
        let mut form = form_of(pairs);
        // SigV4 and some services count `+` as itself.
        form = form.replace('+', "%20");
        Call::post_text(url, "application/x-www-form-urlencoded", form)
    }

    pub fn post_text(url: Url, content_type: &'static str, body: String) -> Call {
        let request =
            Request::post(url, body.into_bytes()).header(ACCEPT, "application/json").header(CONTENT_TYPE, content_type);
        Call { request, format: Format::Json, accept: Accept::Ok, is_plain: false, reads_body_of_ok_only: false }
    }

    /// With another method.
    pub fn method(mut self, method: client::Method) -> Call {
        self.request.method = method;
        self
    }

    /// With a header that is no secret.
    pub fn header(mut self, name: &'static str, value: &str) -> Call {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.request.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// With a header that goes to no other host.
    pub fn secret_header(mut self, name: &'static str, value: &str) -> Call {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            self.request.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// With a token in the Authorization header.
    pub fn bearer(self, token: &str) -> Call {
        self.secret_header("authorization", &format!("Bearer {token}"))
    }

    /// An answer in XML.
    pub fn xml(mut self) -> Call {
        self.request.headers.remove(ACCEPT);
        self.format = Format::Xml;
        self
    }

    /// An answer that is a text.
    pub fn text(mut self) -> Call {
        self.request.headers.remove(ACCEPT);
        self.format = Format::Text;
        self
    }

    /// An answer whose body counts for nothing.
    pub fn no_body(mut self) -> Call {
        self.format = Format::None;
        self
    }

    /// Any 2xx is an answer.
    pub fn any_success(mut self) -> Call {
        self.accept = Accept::Success;
        self
    }

    /// Any status is an answer.
    pub fn any_status(mut self) -> Call {
        self.accept = Accept::Any;
        self
    }

    /// The body of an answer other than 200 counts for nothing.
    pub fn no_json_unless_ok(mut self) -> Call {
        self.reads_body_of_ok_only = true;
        self
    }

    /// Without the credentials and the proxy of the section.
    pub fn plain(mut self) -> Call {
        self.is_plain = true;
        self
    }

    /// Within this time instead of that of the section.
    pub fn within(mut self, within: Duration) -> Call {
        self.request.timeout = Some(within);
        self
    }

    pub fn url(&self) -> &Url {
        &self.request.url
    }

    /// The request, for those who sign it.
    pub fn request_mut(&mut self) -> &mut Request {
        &mut self.request
    }

    /// The same with other parameters.
    pub fn query(mut self, query: Option<&str>) -> Call {
        self.request.url.set_query(query);
        self
    }
}

/// Returns pairs as a form or a query, encoded.
pub fn form_of(pairs: &[(impl AsRef<str>, impl AsRef<str>)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    let mut url = Url::parse("http://h/").expect("a constant");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or("").to_owned()
}

/// Returns the URL of a base with a path below it. `base` may end with a slash or not.
pub fn below(base: &str, path: &str) -> Result<Url, String> {
    // The text is not repeated: it may hold a password.
    let mut url = Url::parse(base).map_err(|error| format!("no URL: {error}"))?;
    if !url.has_host() || !matches!(url.scheme(), "http" | "https") {
        return Err("no http or https URL".to_owned());
    }
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let joined = format!("{}/{}", url.path().trim_end_matches('/'), path.trim_start_matches('/'));
    url.set_path(&joined);
    url.set_query(query);
    Ok(url)
}

/// Returns a URL with these parameters; those without a value are left out.
pub fn with_params(mut url: Url, params: &[(&str, &str)]) -> Url {
    for (name, value) in params.iter().filter(|(_, value)| !value.is_empty()) {
        url.query_pairs_mut().append_pair(name, value);
    }
    url
}

/// Returns a text as one segment of a path.
pub fn segment(text: &str) -> String {
    const UNENCODED: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    match text {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => percent_encoding::utf8_percent_encode(text, UNENCODED).to_string(),
    }
}

impl Session {
    pub fn new(settings: MechanismConfig, socket: Option<PathBuf>, instead: Option<Url>) -> Result<Session, String> {
        let timeout = settings.refresh_interval().clamp(WITHIN.0, WITHIN.1);
        let options = ClientOptions { timeout, body_bytes_max: BODY_BYTES_MAX, ..ClientOptions::default() };
        let http = settings.client();
        let client = match socket {
            Some(socket) => Client::on_socket(&http, options.clone(), socket),
            None => Client::new(&http, options.clone()),
        };
        let options = ClientOptions { timeout: METADATA_WITHIN, ..options };
        Ok(Session(Arc::new(Inner {
            client: client.map_err(|error| error.text)?,
            plain: Client::new(&HttpConfig::default(), options).map_err(|error| error.text)?,
            settings,
            instead,
            requests: AtomicUsize::new(0),
            answers_bytes: AtomicUsize::new(0),
            state: Mutex::default(),
            at_once: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        })))
    }

    pub fn settings(&self) -> &MechanismConfig {
        &self.0.settings
    }

    /// The text of a field.
    pub fn text(&self, name: &str) -> &str {
        self.0.settings.text(name)
    }

    /// The port of the targets.
    pub fn port(&self) -> u64 {
        self.0.settings.number("port")
    }

    fn state(&self) -> MutexGuard<'_, SessionState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a refresh: its bounds count from here.
    pub fn begin(&self) {
        self.0.requests.store(0, Ordering::Relaxed);
        self.0.answers_bytes.store(0, Ordering::Relaxed);
        self.state().warnings.clear();
    }

    /// Number of requests of this refresh.
    pub fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Notes a part that was left out of the list.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut state = self.state();
        if state.warnings.len() < 100 {
            state.warnings.push(text);
        }
    }

    /// Returns what was noted in this refresh.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = std::mem::take(&mut self.state().warnings);
        warnings.into_iter().map(|text| self.redacted(text)).collect()
    }

    /// Returns a message without the secrets of the section.
    pub fn redacted(&self, mut text: String) -> String {
        let mut hide = |secret: &str| {
            if secret.len() > 2 && text.contains(secret) {
                text = text.replace(secret, "<secret>");
            }
        };
        self.0.settings.secrets().into_iter().for_each(&mut hide);
        self.state().hidden.iter().for_each(|secret| hide(secret));
        text
    }

    /// Keeps a secret that was obtained out of messages.
    pub fn hide(&self, secret: &str) {
        let mut state = self.state();
        if !state.hidden.iter().any(|known| known == secret) {
            // Tokens come and go; the last ones are those that an answer may repeat.
            if state.hidden.len() >= 32 {
                state.hidden.remove(0);
            }
            state.hidden.push(secret.to_owned());
        }
    }

    /// Returns a secret that stands in the file or in another one, which is read now.
    pub async fn secret(&self, inline: &str, file: &str) -> Result<String, String> {
        if let Some(secret) = self.0.settings.secret(inline) {
            return Ok(secret.reveal().to_owned());
        }
        match self.0.settings.path(file) {
            Some(path) => {
                let secret = read_secret(path).await?;
                self.hide(&secret);
                Ok(secret)
            }
            None => Ok(String::new()),
        }
    }

    /// Returns what was kept under this name and has not expired.
    pub fn recall(&self, name: &str) -> Option<Value> {
        let state = self.state();
        let (value, expires) = state.tokens.get(name)?;
        expires.is_none_or(|expires| Instant::now() < expires).then(|| value.clone())
    }

    /// Counts answers that did not have to be asked for again.
    pub fn count_cache_hits(&self, count: u64) {
        self.state().cache_hits += count;
    }

    /// Returns the number of such answers since the last call.
    pub fn take_cache_hits(&self) -> u64 {
        std::mem::take(&mut self.state().cache_hits)
    }

    /// Keeps a value for later refreshes, at most for this time.
    pub fn keep(&self, name: &str, value: Value, holds: Option<Duration>) {
        let now = Instant::now();
        let expires = holds.map(|holds| now + holds);
        let mut state = self.state();
        if state.tokens.len() >= VALUES_MAX {
            state.tokens.retain(|_, (_, expires)| expires.is_none_or(|expires| now < expires));
        }
        if state.tokens.len() < VALUES_MAX || state.tokens.contains_key(name) {
            state.tokens.insert(name.to_owned(), (value, expires));
        }
    }

    /// Keeps a token until shortly before it expires, and out of messages.
    pub fn keep_token(&self, name: &str, token: &str, holds: Duration) {
        self.hide(token);
        self.keep(name, Value::from(token), Some(holds.saturating_sub(RENEW_BEFORE)));
    }

    pub fn forget(&self, name: &str) {
        self.state().tokens.remove(name);
    }

    /// Sends a request and reads its answer.
    pub async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let fail = |text: String| CallError { status: None, text };
        if self.0.requests.fetch_add(1, Ordering::Relaxed) >= REQUESTS_MAX {
            return Err(fail(format!("a refresh takes more than {REQUESTS_MAX} requests; narrow it by filters")));
        }
        let Call { mut request, format, accept, is_plain, reads_body_of_ok_only } = call;
        let place = client::shown(&request.url);
        let key = request.url.to_string();
        let is_get = request.method == client::Method::GET && format == Format::Json;
        let known = if is_get { self.state().answers.get(&key).cloned() } else { None };
        if let Some((tag, _, _)) = &known {
            request.headers.insert(IF_NONE_MATCH, tag.clone());
        }
        self.redirect(&mut request);
        let sender = if is_plain { &self.0.plain } else { &self.0.client };
        let response = sender.send(request).await.map_err(|error| fail(error.text))?;
        let read = self.0.answers_bytes.fetch_add(response.body.len(), Ordering::Relaxed);
        if read + response.body.len() > ANSWERS_BYTES_MAX {
            let mib = ANSWERS_BYTES_MAX >> 20;
            return Err(fail(format!(
                "{place}: the answers of a refresh have more than {mib} MiB; narrow it by filters"
            )));
        }
        let status = response.status;
        if let (StatusCode::NOT_MODIFIED, Some((_, body, _))) = (status, &known) {
            return Ok(Answer { status: StatusCode::OK, headers: response.headers, body: (**body).clone() });
        }
        let is_accepted = match accept {
            Accept::Ok => matches!(status.as_u16(), 200 | 201),
            Accept::Success => status.is_success(),
            Accept::Any => true,
        };
        if !is_accepted {
            let words = shown_body(&response.body);
            let text = format!("{place}: server returned HTTP status {status}{words}");
            return Err(CallError { status: Some(status), text });
        }
        let format = if reads_body_of_ok_only && status != StatusCode::OK { Format::None } else { format };
        let headers = response.headers;
        let size = response.body.len();
        let bytes = response.body;
        let separator = if format == Format::Xml { b'<' } else { b',' };
        let parse = move || match format {
            Format::Json | Format::Xml if memchr::memchr_iter(separator, &bytes).count() > VALUES_PER_ANSWER_MAX => {
                Err(format!("more than {VALUES_PER_ANSWER_MAX} values"))
            }
            Format::Json => serde_json::from_slice(&bytes).map_err(|error| format!("not the expected JSON: {error}")),
            Format::Xml => xml::parse(&bytes),
            Format::Text => Ok(Value::from(String::from_utf8_lossy(&bytes).into_owned())),
            Format::None => Ok(Value::Null),
        };
        let body = if size < PARSE_APART_BYTES {
            parse()
        } else {
            tokio::task::spawn_blocking(parse).await.unwrap_or_else(|panic| Err(panic.to_string()))
        };
        let body = body.map_err(|error| CallError { status: Some(status), text: format!("{place}: {error}") })?;
        if is_get {
            self.keep_answer(key, headers.get(ETAG), &body, size);
        }
        Ok(Answer { status, headers, body })
    }

    fn keep_answer(&self, key: String, tag: Option<&HeaderValue>, body: &Value, size: usize) {
        let mut state = self.state();
        state.answers.remove(&key);
        let used: usize = state.answers.values().map(|(_, _, size)| size).sum();
        if let Some(tag) = tag
            && used + size <= TAGGED_BYTES_MAX
        {
            state.answers.insert(key, (tag.clone(), Arc::new(body.clone()), size));
        }
    }

    /// Sends the request to the server of a test.
    fn redirect(&self, request: &mut Request) {
        let Some(instead) = &self.0.instead else { return };
        let host = request.url.host_str().unwrap_or("").to_owned();
        let host = request.url.port().map_or(host.clone(), |port| format!("{host}:{port}"));
        if let Ok(host) = HeaderValue::from_str(&host) {
            request.headers.entry(HOST).or_insert(host);
        }
        let _ = request.url.set_scheme(instead.scheme());
        let _ = request.url.set_host(instead.host_str());
        let _ = request.url.set_port(instead.port());
    }

    /// Sends requests, some at once, and returns their outcomes in the order of the requests.
    pub async fn each(&self, calls: Vec<Call>) -> Result<Vec<Result<Answer, CallError>>, String> {
        if self.requests() + calls.len() > REQUESTS_MAX {
            return Err(format!("a refresh takes more than {REQUESTS_MAX} requests; narrow it by filters"));
        }
        let mut answers: Vec<Option<Result<Answer, CallError>>> = calls.iter().map(|_| None).collect();
        let mut running = JoinSet::new();
        for (index, call) in calls.into_iter().enumerate() {
            let session = self.clone();
            running.spawn(async move {
                let permit = session.0.at_once.clone().acquire_owned().await;
                let answer = session.call(call).await;
                drop(permit);
                (index, answer)
            });
        }
        while let Some(done) = running.join_next().await {
            let (index, answer) = done.map_err(|panic| panic.to_string())?;
            answers[index] = Some(answer);
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Sends requests of which each must be answered.
    pub async fn all(&self, calls: Vec<Call>) -> Result<Vec<Answer>, String> {
        self.each(calls).await?.into_iter().map(|answer| answer.map_err(String::from)).collect()
    }

    /// Returns the rows of all pages of a list. `next` returns the request for the page after an answer, given the number of
    /// rows so far.
    pub async fn pages(
        &self,
        first: Call,
        pointer: &str,
        mut next: impl FnMut(&Answer, usize) -> Option<Call>,
    ) -> Result<Vec<Value>, String> {
        let mut rows = Vec::new();
        let mut asked = HashSet::new();
        let mut call = first;
        loop {
            let place = client::shown(call.url());
            let identity = [call.request.url.as_str().as_bytes(), &call.request.body].concat();
            if !asked.insert(xxh3_64(&identity)) {
                return Err(format!("{place}: the pages do not end: one of them is named again"));
            }
            let mut answer = self.call(call).await?;
            let page = rows_of(&mut answer.body, pointer).map_err(|error| format!("{place}: {error}"))?;
            let count = page.len();
            rows.extend(page);
            if rows.len() > TARGETS_MAX {
                return Err(format!("{place}: more than the {TARGETS_MAX} entries that one source may give"));
            }
            // An empty page that names a further one is as endless as a page that repeats itself.
            let Some(following) = next(&answer, rows.len()) else { return Ok(rows) };
            if count == 0 {
                return Err(format!("{place}: the pages do not end: an empty page names a further one"));
            }
            call = following;
        }
    }

    /// Returns the rows of a list without pages.
    pub async fn rows(&self, call: Call, pointer: &str) -> Result<Vec<Value>, String> {
        self.pages(call, pointer, |_, _| None).await
    }
}

/// Returns what an answer with an error says, shortened.
fn shown_body(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_MAX)]);
    let text: String = text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

/// Reads a file with a secret, without white space around it.
pub async fn read_secret(path: &Path) -> Result<String, String> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || client::files::read_secret(&path)).await;
    read.map_err(|panic| panic.to_string())?.map_err(|error| error.text)
}

/// Returns a secret's text, or an empty one.
pub fn reveal(secret: Option<&Secret>) -> &str {
    secret.map_or("", Secret::reveal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_put_together() {
        let joined = |base: &str, path: &str| below(base, path).map(|url| url.to_string());
        assert_eq!(joined("http://h:1/base/", "/a/b?x=1").unwrap(), "http://h:1/base/a/b?x=1");
        assert_eq!(joined("http://h", "a").unwrap(), "http://h/a");
        assert!(joined("h:1", "a").is_err());
        assert!(joined("ftp://h", "a").is_err());
        assert_eq!(segment("a/b c%é"), "a%2Fb%20c%25%C3%A9");
        assert_eq!(segment(".."), "%2E%2E");
        let url = Url::parse("http://h/p").unwrap();
        assert_eq!(with_params(url, &[("a", "x y"), ("b", "")]).as_str(), "http://h/p?a=x+y");
    }

    #[test]
    fn bodies_are_shown_in_part() {
        assert_eq!(shown_body(b" \n "), "");
        assert_eq!(shown_body(b"no\r\nway"), ": noway");
        assert_eq!(shown_body(&[b'x'; 5000]).len(), 2 + SHOWN_MAX);
    }
}
