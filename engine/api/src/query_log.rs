//! The log of queries, `query_log_file`: one line of JSON for each, as Prometheus writes it.
//!
//! A thread writes, so that no query waits for a disk. Lines that it cannot take are counted and lost.

use crate::answer::rfc3339;
use crate::json::result::stats;
use query::{QueryObserver, QueryReport};
use serde_json::{Map, Value, json};
use series::clock::now_ms;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Lines that wait to be written.
const LINES_WAITING_MAX: usize = 1024;
/// `O_NONBLOCK` of Linux, so that a pipe that nobody reads holds nothing up.
const NONBLOCK: i32 = 0o4000;

/// The address that a client asked for, behind the prefix of all routes.
#[derive(Clone, Debug)]
pub struct RequestedUri(pub axum::http::Uri);

enum Entry {
    /// Another file from now on, opened anew; none ends the log.
    File(Option<PathBuf>),
    Line(Vec<u8>),
}

/// Where queries are logged.
#[derive(Debug)]
pub struct QueryLog {
    entries: SyncSender<Entry>,
    /// Whether the configuration names a file.
    is_open: AtomicBool,
    failures: Arc<AtomicU64>,
}

impl QueryLog {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start() -> io::Result<QueryLog> {
        let (entries, waiting) = sync_channel(LINES_WAITING_MAX);
        let failures = Arc::new(AtomicU64::new(0));
        let count = failures.clone();
        std::thread::Builder::new().name("query-log".into()).spawn(move || write(&waiting, &count))?;
        Ok(QueryLog { entries, is_open: AtomicBool::new(false), failures })
    }

    /// Opens the file anew, also if it is the same: it may have been moved away.
    pub fn reopen(&self, file: Option<&Path>) {
        self.is_open.store(file.is_some(), Ordering::Relaxed);
        self.send(Entry::File(file.map(Path::to_owned)));
    }

    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Queries that could not be logged.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn send(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl QueryObserver for QueryLog {
    fn is_interested(&self) -> bool {
        self.is_open()
    }

    fn query_ended(&self, report: &QueryReport) {
        let mut line = line(report, now_ms()).into_bytes();
        line.push(b'\n');
        self.send(Entry::Line(line));
    }
}

/// Always with three digits behind the second, unlike elsewhere in the API.
fn with_millis(unix_ms: i64) -> String {
    let second = rfc3339(unix_ms - unix_ms.rem_euclid(1000));
    format!("{}.{:03}Z", second.trim_end_matches('Z'), unix_ms.rem_euclid(1000))
}

fn line(report: &QueryReport, now_ms: i64) -> String {
    let params = json!({
        "end": with_millis(report.end.0),
        "query": report.expr,
        "start": with_millis(report.start.0),
        "step": report.step_ms / 1000,
    });
    let mut all = Map::new();
    all.insert("time".into(), with_millis(now_ms).into());
    all.insert("level".into(), "INFO".into());
    all.insert("msg".into(), "promql query logged".into());
    all.insert("params".into(), params);
    match &report.outcome {
        Ok(cost) => drop(all.insert("stats".into(), stats(cost))),
        Err(error) => drop(all.insert("error".into(), error.to_string().into())),
    }
    if let Some(caller) = report.caller {
        let fields: Map<String, Value> =
            caller.fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        all.insert(caller.kind.into(), fields.into());
    }
    Value::Object(all).to_string()
}

fn write(entries: &Receiver<Entry>, failures: &AtomicU64) {
    let mut file: Option<File> = None;
    for entry in entries {
        match entry {
            Entry::File(None) => file = None,
            Entry::File(Some(path)) => {
                let opened = OpenOptions::new().append(true).create(true).custom_flags(NONBLOCK).open(&path);
                if let Err(error) = &opened {
                    tracing::error!(file = %path.display(), %error, "the log of queries cannot be opened");
                }
                file = opened.ok();
            }
            Entry::Line(line) => {
                let written = file.as_mut().map(|file| file.write_all(&line));
                if !matches!(written, Some(Ok(()))) {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
