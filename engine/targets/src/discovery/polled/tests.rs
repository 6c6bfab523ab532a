//! Every mechanism against a fake of its service, driven by the files in `fixtures`.
//!
//! A fixture begins with the section of a job. Then come exchanges and the targets that they yield:
//!
//! ```text
//! nomad_sd_configs: [{server: 'http://nomad.test:4646'}]
//! > GET nomad.test:4646 /v1/services?namespace=default&region=global&stale=
//! > authorization: Bearer hush
//! > {"a": "body"}
//! < 200
//! < etag: "1"
//! [{"an": "answer"}]
//! = __address__=10.0.0.1:80 | nomad_dc=dc1
//! ```
//!
//! A `*` at the end of a header or body stands for anything; `< 200 ~` marks an answer without which the list is whole.
//! `RINGSCRAPE_WRITE_FIXTURES=1` writes the lines with targets anew.

use super::super::{DiscoveryContext, DiscoveryState, List, Reporter, SourceId, UPDATES_MAX, Update};
use super::*;
use config::{Discovery, Env};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Longest time that anything may take to happen.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
struct Exchange {
    /// Method, host, and path with parameters.
    question: String,
    headers: Vec<String>,
    body: Option<String>,
    status: String,
    is_optional: bool,
    answer_headers: Vec<String>,
    answer: String,
}

#[derive(Clone, Debug, Default)]
struct Fixture {
    name: String,
    section: String,
    exchanges: Vec<Exchange>,
    targets: Vec<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/discovery/polled/fixtures")
}

fn fixtures() -> Vec<Fixture> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files.iter().map(|file| read_fixture(file)).collect()
}

fn read_fixture(file: &Path) -> Fixture {
    let mut fixture = Fixture { name: file.file_stem().unwrap().to_string_lossy().into_owned(), ..Fixture::default() };
    let mut was_answer = true;
    for line in std::fs::read_to_string(file).unwrap().lines() {
        if let Some(question) = line.strip_prefix("> ") {
            if was_answer {
                fixture.exchanges.push(Exchange { question: question.to_owned(), ..Exchange::default() });
                was_answer = false;
                continue;
            }
            let exchange = fixture.exchanges.last_mut().unwrap();
            let is_header = question.split_once(": ").is_some_and(|(name, _)| {
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            });
            if is_header {
                exchange.headers.push(question.to_owned())
            } else {
                exchange.body = Some(question.to_owned())
            }
        } else if let Some(answer) = line.strip_prefix("< ") {
            let exchange = fixture.exchanges.last_mut().unwrap();
            if was_answer {
                exchange.answer_headers.push(answer.to_owned());
            } else {
                exchange.is_optional = answer.ends_with('~');
                answer.trim_end_matches(['~', ' ']).clone_into(&mut exchange.status);
                was_answer = true;
            }
        } else if let Some(target) = line.strip_prefix("= ") {
            fixture.targets.push(target.to_owned());
        } else {
            match fixture.exchanges.last_mut() {
                None => fixture.section.extend([line, "\n"]),
                Some(exchange) => exchange.answer.extend([line, "\n"]),
            }
        }
    }
    fixture
}

impl Fixture {
    fn settings(&self) -> MechanismConfig {
        let section =
            self.section.trim_end().replace('\n', "\n    ").replace("FOLDER", &folder().display().to_string());
        let yaml = format!("scrape_configs:\n  - job_name: j\n    {section}\n");
        let config = config::parse_config("prometheus.yml".as_ref(), &yaml, &Env::process());
        let config = config.unwrap_or_else(|errors| panic!("{}: {errors}", self.name));
        match &config.scrape_configs[0].discoveries[0] {
            Discovery::Mechanism(settings) => settings.clone(),
            other => panic!("{}: {other:?}", self.name),
        }
    }
}

/// What the service does instead of answering.
#[derive(Clone, Debug, PartialEq)]
enum Fault {
    /// Another answer: its status and body.
    Answer(&'static str, String),
    /// The first half of the answer in a connection that then ends.
    Half,
    /// The first half of the answer as a whole one.
    Truncated,
    /// The connection ends without an answer.
    Closed,
}

/// The state of a fake: its exchanges, and what went wrong.
struct Fake {
    exchanges: Vec<Exchange>,
    used: Mutex<Vec<usize>>,
    problems: Mutex<Vec<String>>,
    /// The exchange that is faulty.
    fault: Mutex<Option<(usize, Fault)>>,
}

impl Fake {
    async fn start(fixture: &Fixture) -> (Arc<Fake>, Url, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let fake = Arc::new(Fake {
            exchanges: fixture.exchanges.clone(),
            used: Mutex::new(vec![0; fixture.exchanges.len()]),
            problems: Mutex::default(),
            fault: Mutex::default(),
        });
        let serving = fake.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        (fake, url, task)
    }

    async fn serve(self: Arc<Fake>, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        let (head, body) = loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = header(head, "content-length").parse().unwrap_or(0);
                if body.len() >= length {
                    break (head.to_owned(), body.to_owned());
                }
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let answer = self.answer(&head, &body);
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
    }

    /// Finds the exchange of a request and checks what it must have.
    fn answer(&self, head: &str, body: &str) -> Vec<u8> {
        let problem = |text: String| self.problems.lock().unwrap().push(text);
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let question = format!("{method} {} {path}", header(head, "host"));
        let mut used = self.used.lock().unwrap();
        let fits = |exchange: &Exchange| {
            // Calls of AWS differ in this header alone.
            let is_target = |header: &&String| header.starts_with("x-amz-target: ");
            let target = exchange.headers.iter().find(is_target).and_then(|header| header.split_once(": "));
            matches(&exchange.question, &question)
                && target.is_none_or(|(name, want)| want == header(head, name))
                && exchange.body.as_ref().is_none_or(|want| matches(want, body.trim_end()))
        };
        let fitting = (0..self.exchanges.len()).filter(|index| fits(&self.exchanges[*index]));
        // Equal questions have their answers in turn.
        let Some(index) = fitting.min_by_key(|index| (used[*index], *index)) else {
            problem(format!("unexpected: {question} {body}"));
            return b"HTTP/1.1 599 Unexpected\r\nContent-Length: 0\r\n\r\n".to_vec();
        };
        used[index] += 1;
        let exchange = &self.exchanges[index];
        for want in &exchange.headers {
            let (name, value) = want.split_once(": ").unwrap();
            if !matches(value, header(head, name)) {
                problem(format!("{question}: {name} is {:?}, wanted {value:?}", header(head, name)));
            }
        }
        let fault = self.fault.lock().unwrap().clone();
        let fault = fault.filter(|(faulty, _)| *faulty == index).map(|(_, fault)| fault);
        let (status, body) = match &fault {
            Some(Fault::Answer(status, body)) => (*status, body.as_str()),
            Some(Fault::Closed) => return Vec::new(),
            Some(Fault::Truncated) => (exchange.status.as_str(), &exchange.answer[..exchange.answer.len() / 2]),
            _ => (exchange.status.as_str(), exchange.answer.as_str()),
        };
        let kind = if exchange.answer.starts_with('<') { "text/xml" } else { "application/json" };
        let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        head.extend([format!("Content-Type: {kind}\r\n")]);
        head.extend(exchange.answer_headers.iter().map(|header| format!("{header}\r\n")));
        let body = if method == "HEAD" { "" } else { body };
        let whole = format!("{head}\r\n{body}").into_bytes();
        let cut = if fault == Some(Fault::Half) { whole.len() - body.len() / 2 } else { whole.len() };
        whole[..cut].to_vec()
    }

    fn problems(&self) -> Vec<String> {
        std::mem::take(&mut self.problems.lock().unwrap())
    }
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or("")
}

fn matches(want: &str, got: &str) -> bool {
    match want.strip_suffix('*') {
        Some(start) => got.starts_with(start),
        None => want == got,
    }
}

fn shown(labels: &Labels) -> String {
    let one = |(name, value): (&str, &str)| format!("{}={value}", name.strip_prefix("__meta_").unwrap_or(name));
    labels.iter().map(one).collect::<Vec<_>>().join(" | ")
}

fn mechanism_of(settings: &MechanismConfig) -> &'static Mechanism {
    MECHANISMS.iter().find(|mechanism| mechanism.kind == settings.mechanism()).unwrap()
}

async fn refresh(settings: &MechanismConfig, session: &Session) -> Result<Option<Vec<Labels>>, String> {
    session.begin();
    (mechanism_of(settings).refresh)(session).await
}

#[tokio::test]
async fn every_mechanism_asks_its_service_and_makes_its_targets() {
    let mut kinds = BTreeSet::new();
    for fixture in fixtures() {
        let settings = fixture.settings();
        kinds.insert(settings.mechanism());
        let (fake, url, task) = Fake::start(&fixture).await;
        let session = Session::new(settings.clone(), None, Some(url)).unwrap();
        let refreshed = refresh(&settings, &session).await;
        task.abort();
        assert_eq!(fake.problems(), [""; 0], "{}: {refreshed:?}", fixture.name);
        let mut targets = refreshed.unwrap_or_else(|error| panic!("{}: {error}", fixture.name)).unwrap();
        targets.sort();
        let targets: Vec<String> = targets.iter().map(shown).collect();
        if std::env::var_os("RINGSCRAPE_WRITE_FIXTURES").is_some() {
            let file = folder().join(format!("{}.txt", fixture.name));
            let text = std::fs::read_to_string(&file).unwrap();
            let mut lines: Vec<String> =
                text.lines().filter(|line| !line.starts_with("= ")).map(str::to_owned).collect();
            lines.extend(targets.iter().map(|target| format!("= {target}")));
            std::fs::write(file, lines.join("\n") + "\n").unwrap();
            continue;
        }
        assert_eq!(targets, fixture.targets, "{}", fixture.name);
        let unused = fake.used.lock().unwrap().iter().position(|count| *count == 0);
        assert_eq!(unused.map(|index| &fixture.exchanges[index].question), None, "{}: not asked", fixture.name);
    }
    let missing: Vec<&str> = MECHANISMS.iter().map(|one| one.kind).filter(|kind| !kinds.contains(kind)).collect();
    assert_eq!(missing, [""; 0], "mechanisms without a fixture");
}

/// The same list in which the first list of the document is a text, an entry of it null, or there are a million of it.
fn with_list(answer: &str, change: impl Fn(&mut serde_json::Value)) -> Option<String> {
    fn first_list(value: &mut serde_json::Value) -> Option<&mut serde_json::Value> {
        if value.is_array() {
            return Some(value);
        }
        value.as_object_mut()?.iter_mut().find_map(|(_, value)| first_list(value))
    }
    let mut value = serde_json::from_str(answer).ok()?;
    change(first_list(&mut value)?);
    Some(value.to_string())
}

#[tokio::test]
async fn no_fault_of_an_answer_passes_for_a_list() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for fixture in fixtures() {
        let settings = fixture.settings();
        let secrets = settings.secrets().join(" ");
        let (fake, url, task) = Fake::start(&fixture).await;
        for (index, exchange) in fixture.exchanges.iter().enumerate().filter(|(_, exchange)| !exchange.is_optional) {
            let mut faults = vec![
                Fault::Answer("401", format!("{{\"error\": \"expired: {secrets}\"}}")),
                Fault::Answer("403", secrets.clone()),
                Fault::Answer("500", "<html>".to_owned()),
                Fault::Answer("204", String::new()),
                Fault::Answer("302", String::new()),
                Fault::Answer("200", "<html><body>Sign in</body></html>".to_owned()),
                Fault::Answer("200", "null".to_owned()),
                Fault::Answer("200", "\"text\"".to_owned()),
                Fault::Answer("200", "[null]".to_owned()),
                Fault::Answer("200", "[".repeat(100_000)),
                Fault::Answer("200", "<a>".repeat(100_000)),
                Fault::Half,
                Fault::Truncated,
                Fault::Closed,
            ];
            let text = with_list(&exchange.answer, |list| *list = "text".into());
            // A null among texts is an empty text, as in Go.
            let null = with_list(&exchange.answer, |list| {
                if list[0].is_object() {
                    *list = serde_json::json!([null]);
                } else {
                    *list = serde_json::json!([[]]);
                }
            });
            faults.extend([text, null].into_iter().flatten().map(|body| Fault::Answer("200", body)));
            for fault in faults {
                *fake.fault.lock().unwrap() = Some((index, fault.clone()));
                // A session of its own, so that nothing is kept of what was good.
                let session = Session::new(settings.clone(), None, Some(url.clone())).unwrap();
                let refreshed = tokio::time::timeout(PATIENCE, refresh(&settings, &session)).await.unwrap();
                let shown = format!("{}: {}: {fault:.100?}", fixture.name, exchange.question);
                count += 1;
                let Err(error) = refreshed else {
                    wrong.push(format!("{shown}: passes for a list"));
                    continue;
                };
                let error = session.redacted(error);
                if settings.secrets().iter().any(|secret| secret.len() > 2 && error.contains(secret)) {
                    wrong.push(format!("{shown}: shows a secret: {error}"));
                }
                if error.len() > 2000 {
                    wrong.push(format!("{shown}: the error has {} bytes", error.len()));
                }
            }
        }
        task.abort();
    }
    assert_eq!(wrong, [""; 0]);
    assert!(count > 1000, "{count} faults");
}

/// A source that is followed, and its latest state.
struct Followed {
    state: watch::Receiver<DiscoveryState>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Followed {
    fn start(settings: MechanismConfig, url: Url) -> Followed {
        let (updates, mut inbox) = mpsc::channel::<Update>(UPDATES_MAX);
        let report = Reporter {
            source: SourceId(0),
            kind: settings.kind,
            updates,
            found: DiscoveryState::default(),
            failures_in_row: 0,
            keep: DiscoveryContext::default().keeper,
            discovery: Discovery::Mechanism(settings.clone()),
        };
        let (sender, state) = watch::channel(DiscoveryState::default());
        let collect = tokio::spawn(async move {
            while let Some(update) = inbox.recv().await {
                sender.send_replace(update.found);
            }
        });
        Followed { state, tasks: [tokio::spawn(follow_at(settings, report, Some(url))), collect] }
    }

    async fn wait(&mut self, what: &str, is_so: impl Fn(&DiscoveryState) -> bool) -> DiscoveryState {
        let found = tokio::time::timeout(PATIENCE, self.state.wait_for(|state| is_so(state))).await;
        found.unwrap_or_else(|_| panic!("{what}")).unwrap().clone()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn same_groups(one: &List, other: &List) -> bool {
    one.len() == other.len() && one.iter().zip(other.iter()).all(|(one, other)| Arc::ptr_eq(one, other))
}

#[tokio::test]
async fn the_last_list_stays_while_the_service_fails() {
    let fixture = fixtures().into_iter().find(|fixture| fixture.name == "nomad").unwrap();
    let settings = Fixture { section: fixture.section.replace("[{", "[{refresh_interval: 50ms, "), ..fixture.clone() };
    let (fake, url, task) = Fake::start(&fixture).await;
    let mut followed = Followed::start(settings.settings(), url);
    let first = followed.wait("the first list", |state| !state.groups.is_empty()).await;
    assert_eq!(first.groups.len(), fixture.targets.len());
    assert_eq!(first.attempts.requests, fixture.exchanges.len() as u64);
    let million = format!("[{}{{}}]", "{},".repeat(1_000_000));
    for (fault, want) in [
        (
            Fault::Answer("401", "hush is expired".to_owned()),
            "server returned HTTP status 401 Unauthorized: <secret> is expired",
        ),
        (Fault::Answer("200", million), "more than the 500000 entries"),
        (Fault::Answer("200", format!("[{}{{}}]", "{},".repeat(8_000_001))), "more than 8000000 values"),
        (Fault::Answer("200", " ".repeat((64 << 20) + 1)), "larger than"),
        (Fault::Closed, "/v1/services"),
    ] {
        *fake.fault.lock().unwrap() = Some((0, fault));
        let failed = |state: &DiscoveryState| state.errors.iter().any(|error| error.contains(want));
        let state = followed.wait(want, failed).await;
        assert!(state.failing_since.is_some() && state.attempts.last.is_some());
        assert!(state.errors[0].starts_with("nomad: ") && state.errors[0].ends_with("; its last good list is in use"));
        assert!(same_groups(&state.groups, &first.groups), "{want}");
        *fake.fault.lock().unwrap() = None;
        let state = followed.wait("no error", |state| state.errors.is_empty()).await;
        assert_eq!(state.failing_since, None);
        assert!(same_groups(&state.groups, &first.groups), "a target that has not changed is the same one");
    }
    let before = followed.state.borrow().failures_total;
    task.abort();
    let state = followed.wait("refused", |state| state.failures_total > before).await;
    assert!(same_groups(&state.groups, &first.groups));
}

#[tokio::test]
async fn pages_that_do_not_end_are_an_error() {
    let section = "nomad_sd_configs: [{}]\n";
    let page = |path: &str, answer: &str| Exchange {
        question: format!("GET h {path}"),
        status: "200".to_owned(),
        answer: answer.to_owned(),
        ..Exchange::default()
    };
    let fixture = Fixture {
        section: section.to_owned(),
        exchanges: vec![
            page("/loop", r#"{"rows": [{}], "next": "loop2"}"#),
            page("/loop2", r#"{"rows": [{}], "next": "loop"}"#),
            page("/empty", r#"{"rows": [], "next": "empty2"}"#),
            page("/many*", &format!(r#"{{"rows": [{}{{}}], "next": "many"}}"#, "{},".repeat(300_000))),
        ],
        ..Fixture::default()
    };
    let (_fake, url, task) = Fake::start(&fixture).await;
    for (path, want) in [("loop", "named again"), ("empty", "an empty page"), ("many", "more than the 500000 entries")]
    {
        let session = Session::new(fixture.settings(), None, Some(url.clone())).unwrap();
        let call = |path: &str| session::Call::get(session::below("http://h", path).unwrap());
        let mut number = 0;
        let next = |answer: &session::Answer, _| {
            number += 1;
            let path = answer.body["next"].as_str()?;
            Some(call(&if path == "many" { format!("many{number}") } else { path.to_owned() }))
        };
        let error = session.pages(call(path), "/rows", next).await.unwrap_err();
        assert!(error.contains(want), "{path}: {error}");
    }
    task.abort();
}

#[tokio::test]
async fn an_answer_with_a_tag_is_not_sent_again() {
    let exchange = |headers: &[&str], status: &str, answer: &str| Exchange {
        question: "GET nomad.test /v1/services?namespace=default&region=global&stale=".to_owned(),
        headers: headers.iter().map(|header| (*header).to_owned()).collect(),
        status: status.to_owned(),
        answer_headers: vec!["ETag: \"7\"".to_owned()],
        answer: answer.to_owned(),
        ..Exchange::default()
    };
    let fixture = Fixture {
        section: "nomad_sd_configs: [{server: 'http://nomad.test'}]\n".to_owned(),
        exchanges: vec![exchange(&[], "200", "[]"), exchange(&["if-none-match: \"7\""], "304", "")],
        ..Fixture::default()
    };
    let (fake, url, task) = Fake::start(&fixture).await;
    let settings = fixture.settings();
    let session = Session::new(settings.clone(), None, Some(url)).unwrap();
    for _ in 0..2 {
        assert_eq!(refresh(&settings, &session).await, Ok(Some(Vec::new())));
    }
    assert_eq!((fake.problems(), fake.used.lock().unwrap().clone()), (Vec::new(), vec![1, 1]));
    task.abort();
}
