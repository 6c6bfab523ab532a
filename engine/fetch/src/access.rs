//! What a job's http_config comes to at the moment: headers with credentials, certificates, proxies.
//!
//! Files are read and tokens fetched on a thread of their own; a core takes what is there and never blocks.
//!
//! Invariants:
//!   * jobs with equal http_config share one [`Access`]; it is kept current for as long as somebody holds it
//!   * a changed file is noticed within [`CHECK_EVERY`]; what it made of the settings is published only if they are good,
//!     or still bad at the next check: two files are never replaced at one moment
//!   * equal certificates keep the same [`ConnectOptions`], so a new password costs no handshake
//!   * no text that leaves here holds a secret

use crate::{ConnectOptions, TlsOutcome};
use client::header::AUTHORIZATION;
use client::oauth2::Tokens;
use client::proxy::Proxies;
use client::tls::Pem;
use client::{HeaderName, HeaderValue};
use config::HttpConfig;
use rustls::ClientConfig;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often files are looked at and tokens tried for their end.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long a refused token or a failed token service is left alone.
const TOKEN_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for a token service.
const TOKEN_WITHIN: Duration = Duration::from_secs(10);
/// Threads that read files; a file system that hangs holds up as many jobs.
const FILE_THREADS: usize = 4;

/// Headers for the target's own host.
pub type Headers = Vec<(String, String)>;

/// The settings of the moment.
#[derive(Clone)]
pub struct HttpSettings {
    /// `None` until they are known for the first time; an error fails the scrape.
    pub headers: Option<Result<Headers, String>>,
    pub ways: Arc<ConnectOptions>,
}

/// One http_config, kept current.
pub struct Access {
    http: HttpConfig,
    now: watch::Receiver<Arc<HttpSettings>>,
}

impl Access {
    pub fn now(&self) -> Arc<HttpSettings> {
        self.now.borrow().clone()
    }

    /// Waits until the headers are known.
    pub async fn ready(&self) -> Arc<HttpSettings> {
        let mut now = self.now.clone();
        // Its keeper publishes before it ends.
        match now.wait_for(|prepared| prepared.headers.is_some()).await {
            Ok(prepared) => prepared.clone(),
            Err(_) => self.now(),
        }
    }
}

/// All of them, and the thread that keeps them. Cloning copies pointers.
#[derive(Clone)]
pub struct Accesses {
    known: Arc<Mutex<Vec<Weak<Access>>>>,
    runtime: tokio::runtime::Handle,
}

impl Accesses {
    /// Starts the thread; it lives as long as the process.
    pub fn start() -> std::io::Result<Accesses> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(FILE_THREADS)
            .thread_name("credentials-files")
            .build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("credentials".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Accesses { known: Arc::default(), runtime: handle })
    }

    /// The one for these settings.
    pub fn of(&self, http: &HttpConfig) -> Arc<Access> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|access| access.strong_count() > 0);
        let same = known.iter().filter_map(Weak::upgrade).find(|access| access.http == *http);
        same.unwrap_or_else(|| {
            let waiting = HttpSettings { headers: None, ways: Arc::default() };
            let (publish, now) = watch::channel(Arc::new(waiting));
            let access = Arc::new(Access { http: http.clone(), now });
            known.push(Arc::downgrade(&access));
            self.runtime.spawn(keep(http.clone(), Arc::downgrade(&access), publish));
            access
        })
    }
}

/// Size, inode and times of change of each file; `None` for one that is not there.
type Stamps = Vec<Option<(u64, u64, i64, i64, i64)>>;

/// The last good value, or the error that stood for two looks in a row.
struct Debounced<T> {
    value: Option<Result<T, String>>,
    failed_once: bool,
}

impl<T> Debounced<T> {
    const UNKNOWN: Debounced<T> = Debounced { value: None, failed_once: false };

    fn take(&mut self, seen: Result<T, String>) {
        let is_first_failure = seen.is_err() && matches!(self.value, Some(Ok(_))) && !self.failed_once;
        self.failed_once = seen.is_err();
        if !is_first_failure {
            self.value = Some(seen);
        }
    }
}

/// What becomes of one http_config.
struct SettingsRefresher {
    http: HttpConfig,
    paths: Arc<[PathBuf]>,
    proxies: Proxies,
    connect_headers: Headers,
    tokens: Option<Tokens>,
    token: Debounced<(String, String)>,
    token_again: Instant,
    headers: Debounced<Headers>,
    /// What was made of the certificates, and of which.
    tls: Debounced<(Pem, Arc<ClientConfig>)>,
    /// The last look at the files was no good: look again, changed or not.
    look_again: bool,
    ways: Arc<ConnectOptions>,
}

/// Keeps one access current until nobody holds it; once is enough where nothing can change.
async fn keep(http: HttpConfig, access: Weak<Access>, publish: watch::Sender<Arc<HttpSettings>>) {
    let mut keeper = match SettingsRefresher::new(http) {
        Ok(keeper) => keeper,
        Err(text) => {
            publish.send_replace(Arc::new(HttpSettings { headers: Some(Err(text)), ways: Arc::default() }));
            return;
        }
    };
    let mut seen = None;
    while access.strong_count() > 0 {
        // Looked at before they are read: a change in between is seen the next time.
        let stamps = stamps(&keeper.paths).await;
        if keeper.look_again || seen.as_ref() != Some(&stamps) {
            keeper.read().await;
            seen = Some(stamps);
        }
        keeper.renew_token().await;
        let prepared = keeper.prepared();
        publish.send_if_modified(|now| {
            let is_same = now.headers == prepared.headers && Arc::ptr_eq(&now.ways, &prepared.ways);
            if !is_same {
                *now = Arc::new(prepared);
            }
            !is_same
        });
        if keeper.paths.is_empty() && keeper.tokens.is_none() {
            return;
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

impl SettingsRefresher {
    fn new(http: HttpConfig) -> Result<SettingsRefresher, String> {
        let env = |name: &str| std::env::var(name).ok();
        let proxies = Proxies::new(http.proxy_url.as_ref(), &http.no_proxy, http.proxy_from_environment, env)?;
        let tokens = http.oauth2.as_ref().map(|oauth2| Tokens::new(oauth2, TOKEN_WITHIN)).transpose();
        let connect_headers = http
            .proxy_connect_header
            .iter()
            .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.reveal().to_owned())));
        Ok(SettingsRefresher {
            paths: paths(&http).into(),
            proxies,
            connect_headers: connect_headers.collect(),
            tokens: tokens.map_err(|error| error.text)?,
            token: Debounced::UNKNOWN,
            token_again: Instant::now(),
            headers: Debounced::UNKNOWN,
            tls: Debounced::UNKNOWN,
            look_again: false,
            ways: Arc::default(),
            http,
        })
    }

    /// Reads every file.
    async fn read(&mut self) {
        let http = self.http.clone();
        let read = move || {
            let headers = client::auth::headers(&http).map_err(|error| error.text);
            (headers.and_then(|headers| headers.iter().map(text_of).collect()), Pem::read(&http.tls_config))
        };
        // Without files it is quick.
        let outcome = if self.paths.is_empty() { Ok(read()) } else { tokio::task::spawn_blocking(read).await };
        let (headers, pem) = match outcome {
            Ok((headers, pem)) => (headers, pem.map_err(|error| error.text)),
            Err(panic) => (Err(panic.to_string()), Err(panic.to_string())),
        };
        // A certificate and its key are two files: they count once they fit.
        let tls = pem.and_then(|pem| match &self.tls.value {
            Some(Ok(known)) if known.0 == pem => Ok(known.clone()),
            _ => {
                let config = client::tls::client_config(&self.http.tls_config, &pem);
                let mut config = config.map_err(|error| error.text)?;
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                Ok((pem, Arc::new(config)))
            }
        });
        self.look_again = headers.is_err() || tls.is_err();
        self.headers.take(headers);
        self.tls.take(tls);
    }

    /// Asks for a token that is good for the next seconds; the one in use costs no request.
    async fn renew_token(&mut self) {
        let Some(tokens) = &self.tokens else { return };
        if Instant::now() < self.token_again {
            return;
        }
        if self.ways.refused.swap(false, Ordering::Relaxed) {
            tokens.forget().await;
            self.token_again = Instant::now() + TOKEN_AGAIN_AFTER;
        }
        let header = tokens.header().await.map_err(|error| error.text);
        if header.is_err() {
            self.token_again = Instant::now() + TOKEN_AGAIN_AFTER;
        }
        self.token.take(header.and_then(|value| text_of(&(AUTHORIZATION, value))));
    }

    /// What there is now.
    fn prepared(&mut self) -> HttpSettings {
        let tls = match &self.tls.value {
            None => None,
            Some(Ok((_, config))) => Some(Ok(config.clone())),
            Some(Err(text)) => Some(Err(text.clone())),
        };
        if !is_same_tls(&tls, &self.ways.tls) {
            self.ways = Arc::new(ConnectOptions {
                tls,
                server_name: self.http.tls_config.server_name.clone(),
                proxies: self.proxies.clone(),
                connect_headers: self.connect_headers.clone(),
                refused: self.ways.refused.clone(),
            });
        }
        let headers = match (&self.headers.value, &self.token.value) {
            (None, _) => None,
            (_, None) if self.tokens.is_some() => None,
            (Some(Err(text)), _) | (_, Some(Err(text))) => Some(Err(text.clone())),
            (Some(Ok(headers)), None) => Some(Ok(headers.clone())),
            (Some(Ok(headers)), Some(Ok(token))) => Some(Ok(headers.iter().chain([token]).cloned().collect())),
        };
        HttpSettings { headers, ways: self.ways.clone() }
    }
}

fn is_same_tls(one: &TlsOutcome, other: &TlsOutcome) -> bool {
    match (one, other) {
        (Some(Ok(one)), Some(Ok(other))) => Arc::ptr_eq(one, other),
        (Some(Err(one)), Some(Err(other))) => one == other,
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn text_of((name, value): &(HeaderName, HeaderValue)) -> Result<(String, String), String> {
    let text =
        String::from_utf8(value.as_bytes().to_vec()).map_err(|_| format!("the value of header {name} is not UTF-8"))?;
    Ok((canonical(name.as_str()), text))
}

/// The name as Go writes it and as people know it: each word begins with a capital letter.
fn canonical(name: &str) -> String {
    let mut starts_word = true;
    let letter = |char: char| {
        let char = if starts_word { char.to_ascii_uppercase() } else { char };
        starts_word = char == '-';
        char
    };
    name.chars().map(letter).collect()
}

/// The files that these settings name and that are ours to read; a token's are read when one is fetched.
fn paths(http: &HttpConfig) -> Vec<PathBuf> {
    let tls = &http.tls_config;
    let mut paths: Vec<&Option<PathBuf>> = vec![&tls.ca_file, &tls.cert_file, &tls.key_file];
    if let Some(basic) = &http.basic_auth {
        paths.extend([&basic.username_file, &basic.password_file]);
    }
    if let Some(authorization) = &http.authorization {
        paths.push(&authorization.credentials_file);
    }
    let of_headers = http.http_headers.iter().flat_map(|(_, values)| &values.files);
    paths.into_iter().flatten().chain(of_headers).cloned().collect()
}

async fn stamps(paths: &Arc<[PathBuf]>) -> Stamps {
    if paths.is_empty() {
        return Stamps::new();
    }
    let paths = paths.clone();
    let look = move || {
        let stamp = |path: &PathBuf| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.len(), data.ino(), data.mtime(), data.mtime_nsec(), data.ctime_nsec()))
        };
        paths.iter().map(stamp).collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::BasicAuth;

    /// What the settings come to, once they come to what is wanted.
    #[track_caller]
    fn check(access: &Access, want: Result<&str, &str>) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let headers = access.now().headers.clone();
            let good = match (&headers, want) {
                (Some(Ok(headers)), Ok(want)) => {
                    headers.iter().any(|(name, value)| name == "Authorization" && value == want)
                }
                (Some(Err(text)), Err(want)) => text.contains(want) && !text.contains("sesame"),
                _ => false,
            };
            if good {
                return;
            }
            let shown = headers.map(|headers| headers.map(|headers| headers.len()));
            assert!(Instant::now() < end, "{shown:?}, want {want:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn credentials_follow_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "open sesame\n").unwrap();
        let basic = BasicAuth { username: "Aladdin".into(), password_file: Some(file.clone()), ..BasicAuth::default() };
        let http = HttpConfig { basic_auth: Some(basic), ..HttpConfig::default() };
        let accesses = Accesses::start().unwrap();
        let access = accesses.of(&http);
        assert!(Arc::ptr_eq(&access, &accesses.of(&http)), "equal settings share one");
        check(&access, Ok("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        let ways = access.now().ways.clone();
        std::fs::write(&file, "other").unwrap();
        check(&access, Ok("Basic QWxhZGRpbjpvdGhlcg=="));
        assert!(Arc::ptr_eq(&ways, &access.now().ways), "a password costs no handshake");
        std::fs::remove_file(&file).unwrap();
        check(&access, Err("password: No such file"));
        std::fs::write(&file, "open sesame").unwrap();
        check(&access, Ok("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
    }

    #[test]
    fn names_of_headers_are_written_as_go_writes_them() {
        for (name, want) in [("authorization", "Authorization"), ("x-scope-orgid", "X-Scope-Orgid"), ("te", "Te")] {
            assert_eq!(canonical(name), want);
        }
    }

    #[test]
    fn one_bad_look_changes_nothing() {
        let mut settled = Debounced::UNKNOWN;
        let mut check = |seen: Result<u8, &str>, want: Result<u8, &str>| {
            settled.take(seen.map_err(str::to_owned));
            assert_eq!(settled.value, Some(want.map_err(str::to_owned)));
        };
        check(Err("a"), Err("a"));
        check(Ok(1), Ok(1));
        check(Err("b"), Ok(1));
        check(Ok(2), Ok(2));
        check(Err("c"), Ok(2));
        check(Err("d"), Err("d"));
    }
}
