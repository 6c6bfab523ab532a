//! Services that are registered in ZooKeeper: as serversets (Twitter) or by Nerve (Airbnb).
//!
//! One session reads the trees below all paths and watches each node: on an event, that node is read again. Only the two
//! requests that this takes are spoken (docs/decisions/056).
//!
//! Invariants:
//!   * a list is reported when no request is open; after the loss of a session, the trees are read as a whole again
//!   * at most [`NODES_MAX`] nodes and [`DATA_BYTES_MAX`] bytes of them are read

mod frame;
#[cfg(test)]
mod tests;

use super::polled::row::{Label, Row, text_at};
use super::{Group, ReceiverClosed, Reporter, random, sanitized};
use Label::At;
use config::MechanismConfig;
use frame::{Answer, FRAME_BYTES_MAX, Incoming, Read};
use serde_json::Value;
use series::Labels;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Number of nodes of all trees.
const NODES_MAX: usize = 500_000;
/// Size of the data of all nodes that are read for one list, in bytes.
const DATA_BYTES_MAX: usize = 256 << 20;
/// Length of a path, in bytes.
const PATH_BYTES_MAX: usize = 4096;
/// Number of requests that are open at once.
const OPEN_MAX: usize = 64;
/// Time for which changes are collected before a list is reported.
const SETTLE: Duration = Duration::from_millis(100);
/// Time after which a list is reported although changes keep coming.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Time for a connection and the first answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Pause after the loss of a session, and before a path that does not exist is read again.
const RETRY: Duration = Duration::from_secs(10);
const PORT: u16 = 2181;

const SERVERSET: &[Label] = &[
    At("status", "/status"),
    At("shard", "/shard"),
    At("endpoint_host", "/serviceEndpoint/host"),
    At("endpoint_port", "/serviceEndpoint/port"),
];

const NERVE: &[Label] = &[At("endpoint_host", "/host"), At("endpoint_port", "/port"), At("endpoint_name", "/name")];

/// Reports the members until it is dropped.
pub async fn follow(settings: MechanismConfig, mut report: Reporter) {
    loop {
        let Err(Ended::Failed(error)) = session(&settings, &mut report).await else { return };
        if report.failed(error).await.is_err() {
            return;
        }
        report.pause(RETRY).await;
    }
}

/// Why a session has ended.
enum Ended {
    ReceiverClosed,
    Failed(String),
}

impl From<ReceiverClosed> for Ended {
    fn from(_: ReceiverClosed) -> Ended {
        Ended::ReceiverClosed
    }
}

impl From<String> for Ended {
    fn from(error: String) -> Ended {
        Ended::Failed(error)
    }
}

/// What is known of the trees.
struct Tree {
    kind: &'static str,
    roots: Vec<String>,
    nodes: BTreeMap<String, Node>,
    /// Requests that were not sent yet.
    waiting: VecDeque<(Read, String)>,
    /// Requests that were sent, in order.
    open: VecDeque<(i32, Read, String)>,
    id_next: i32,
    data_bytes: usize,
    missing: BTreeSet<String>,
    has_changed: bool,
    requests: u64,
}

#[derive(Default)]
struct Node {
    group: Option<Arc<Group>>,
    data_bytes: usize,
    children: BTreeSet<String>,
}

/// A connection with a session of its own.
struct Connection {
    stream: TcpStream,
    /// Bytes that have come, and where the next frame begins.
    inbox: Vec<u8>,
    session_timeout: Duration,
}

impl Connection {
    async fn open(settings: &MechanismConfig) -> Result<Connection, String> {
        let servers = settings.texts("servers");
        let first = random() as usize % servers.len().max(1);
        let mut failure = "no server".to_owned();
        for server in servers.iter().cycle().skip(first).take(servers.len()) {
            match timeout(CONNECT_WITHIN, Connection::open_to(server, settings.duration("timeout"))).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failure = format!("{server}: {error}"),
                Err(_) => failure = format!("{server}: no answer within {CONNECT_WITHIN:?}"),
            }
        }
        Err(failure)
    }

    async fn open_to(server: &str, wanted: Duration) -> Result<Connection, String> {
        let has_port = server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { server.to_owned() } else { format!("{server}:{PORT}") };
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let mut connection = Connection { stream, inbox: Vec::new(), session_timeout: wanted };
        let wanted_ms = i32::try_from(wanted.as_millis()).unwrap_or(i32::MAX);
        connection.send(&frame::connect(wanted_ms)).await?;
        let answer = connection.receive().await?;
        let timeout_ms = frame::connected(&answer)?;
        // A server may grant another time; that of a pointless one is bounded.
        connection.session_timeout = Duration::from_millis(timeout_ms.max(1000) as u64);
        Ok(connection)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|error| error.to_string())
    }

    /// Returns the next frame. May be dropped while it waits: nothing is lost.
    async fn receive(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(head) = self.inbox.first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if length > FRAME_BYTES_MAX {
                    return Err(format!("a frame of {length} bytes is larger than {FRAME_BYTES_MAX}"));
                }
                if self.inbox.len() >= 4 + length {
                    let rest = self.inbox.split_off(4 + length);
                    let mut frame = std::mem::replace(&mut self.inbox, rest);
                    frame.drain(..4);
                    return Ok(frame);
                }
            }
            let read = self.stream.read_buf(&mut self.inbox).await.map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("the connection was closed".to_owned());
            }
        }
    }
}

/// Reads the trees and follows their changes until the session is lost.
async fn session(settings: &MechanismConfig, report: &mut Reporter) -> Result<(), Ended> {
    let mut since = Instant::now();
    let mut connection = match Connection::open(settings).await {
        Ok(connection) => connection,
        Err(error) => {
            report.attempted(since);
            return Err(error.into());
        }
    };
    let ping_every = connection.session_timeout / 3;
    let mut tree = Tree::new(settings);
    let mut last_heard = Instant::now();
    let mut last_sent = Instant::now();
    let mut retry_at: Option<Instant> = None;
    loop {
        let requests = tree.requests();
        if !requests.is_empty() {
            connection.send(&requests).await?;
            last_sent = Instant::now();
        }
        let wait = match (tree.is_quiet() && tree.has_changed, retry_at) {
            (true, _) => SETTLE,
            (false, Some(at)) => at.saturating_duration_since(Instant::now()).min(ping_every),
            (false, None) => ping_every.saturating_sub(last_sent.elapsed()),
        };
        match timeout(wait, connection.receive()).await {
            Ok(received) => {
                last_heard = Instant::now();
                let body = received?;
                if tree.is_quiet() && !tree.has_changed {
                    since = Instant::now();
                }
                tree.take(&body)?;
                // A burst of events is one list, unless it does not end.
                if !tree.is_quiet() || !tree.has_changed || since.elapsed() < SETTLE_MAX {
                    continue;
                }
            }
            Err(_) if last_heard.elapsed() > connection.session_timeout => {
                return Err(format!("nothing was heard for {:?}", connection.session_timeout).into());
            }
            Err(_) => {}
        }
        if last_sent.elapsed() >= ping_every {
            connection.send(&frame::ping()).await?;
            last_sent = Instant::now();
        }
        if tree.is_quiet() && tree.has_changed {
            tree.has_changed = false;
            report.attempted(since);
            report.count_requests(std::mem::take(&mut tree.requests));
            since = Instant::now();
            retry_at = (!tree.missing.is_empty()).then(|| Instant::now() + RETRY);
            match tree.missing.first() {
                Some(path) => report.failed(format!("path {path:?} does not exist")).await?,
                None => report.good(tree.groups(), Vec::new()).await?,
            }
        }
        if retry_at.is_some_and(|at| Instant::now() >= at) {
            retry_at = None;
            for path in std::mem::take(&mut tree.missing) {
                tree.wait_for(path);
            }
        }
    }
}

impl Tree {
    fn new(settings: &MechanismConfig) -> Tree {
        let trimmed = |path: &String| match path.trim_end_matches('/') {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        let roots: Vec<String> = settings.texts("paths").iter().map(trimmed).collect();
        let mut tree = Tree {
            kind: settings.kind,
            nodes: BTreeMap::new(),
            waiting: VecDeque::new(),
            open: VecDeque::new(),
            id_next: 1,
            data_bytes: 0,
            missing: BTreeSet::new(),
            has_changed: true,
            requests: 0,
            roots: roots.clone(),
        };
        roots.into_iter().for_each(|path| tree.wait_for(path));
        tree
    }

    /// Whether no request is open or waits to be sent.
    fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.waiting.is_empty()
    }

    /// A node that is to be read.
    fn wait_for(&mut self, path: String) {
        self.nodes.entry(path.clone()).or_default();
        self.waiting.push_back((Read::Data, path.clone()));
        self.waiting.push_back((Read::Children, path));
    }

    /// Returns the bytes of requests that may be sent now.
    fn requests(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.open.len() < OPEN_MAX
            && let Some((what, path)) = self.waiting.pop_front()
        {
            bytes.extend(frame::read(self.id_next, what, &path));
            self.open.push_back((self.id_next, what, path));
            self.id_next = if self.id_next == i32::MAX { 1 } else { self.id_next + 1 };
            self.requests += 1;
        }
        bytes
    }

    /// Takes a frame of the server.
    fn take(&mut self, body: &[u8]) -> Result<(), String> {
        match frame::incoming(body)? {
            Incoming::Pong => Ok(()),
            Incoming::Event(kind, path) => {
                self.event(kind, path);
                Ok(())
            }
            Incoming::Answer(id, error, rest) => match self.open.pop_front() {
                Some((asked, what, path)) if asked == id => {
                    let answer = frame::answer(what, error, rest).map_err(|error| format!("{path}: {error}"))?;
                    self.answered(path, answer)
                }
                _ => Err(format!("an answer to request {id}, which was not asked")),
            },
        }
    }

    fn event(&mut self, kind: i32, path: &str) {
        if !self.nodes.contains_key(path) {
            return;
        }
        let what: &[Read] = match kind {
            4 => &[Read::Children],
            3 => &[Read::Data],
            // Created or deleted: both say whether it is there.
            _ => &[Read::Data, Read::Children],
        };
        for what in what {
            // One that is waiting already will see what this event tells.
            let is_waiting = self.waiting.len() < OPEN_MAX && self.waiting.iter().any(|(w, p)| w == what && p == path);
            if !is_waiting {
                self.waiting.push_back((*what, path.to_owned()));
            }
        }
    }

    fn answered(&mut self, path: String, answer: Answer) -> Result<(), String> {
        self.has_changed = true;
        if !self.nodes.contains_key(&path) {
            // Removed while it was asked for.
            return Ok(());
        }
        match answer {
            Answer::Data(None) | Answer::Children(None) => {
                let is_root = self.roots.contains(&path);
                self.remove(&path);
                if is_root {
                    self.missing.insert(path);
                }
            }
            Answer::Data(Some(data)) => {
                let group = target(self.kind, &path, &data)?;
                let node = self.nodes.entry(path).or_default();
                self.data_bytes = self.data_bytes - node.data_bytes + data.len();
                node.data_bytes = data.len();
                if self.data_bytes > DATA_BYTES_MAX {
                    return Err(format!("the nodes hold more than {} MiB; name narrower paths", DATA_BYTES_MAX >> 20));
                }
                let is_same = matches!((&node.group, &group), (Some(old), Some(new)) if old.targets[0] == *new);
                if !is_same {
                    node.group = group.map(|labels| Arc::new(Group { targets: vec![labels], labels: Labels::empty() }));
                }
            }
            Answer::Children(Some(names)) => self.set_children(path, names)?,
        }
        Ok(())
    }

    fn set_children(&mut self, path: String, names: Vec<String>) -> Result<(), String> {
        let base = if path == "/" { String::new() } else { path.clone() };
        let valid = |name: &String| !name.is_empty() && !name.contains('/');
        if let Some(name) = names.iter().find(|name| !valid(name)) {
            return Err(format!("{path}: {name:?} is no name of a node"));
        }
        let children: BTreeSet<String> = names.into_iter().map(|name| format!("{base}/{name}")).collect();
        if let Some(long) = children.iter().find(|child| child.len() > PATH_BYTES_MAX) {
            return Err(format!("a path has {} bytes, more than {PATH_BYTES_MAX}", long.len()));
        }
        let Some(node) = self.nodes.get_mut(&path) else { return Ok(()) };
        let before = std::mem::replace(&mut node.children, children.clone());
        before.difference(&children).for_each(|gone| self.remove(gone));
        for child in children.difference(&before) {
            self.wait_for(child.clone());
        }
        if self.nodes.len() > NODES_MAX {
            return Err(format!("more than {NODES_MAX} nodes; name narrower paths"));
        }
        Ok(())
    }

    /// Removes a node and all below it.
    fn remove(&mut self, path: &str) {
        let mut stack = vec![path.to_owned()];
        while let Some(path) = stack.pop() {
            if let Some(node) = self.nodes.remove(&path) {
                self.data_bytes -= node.data_bytes;
                stack.extend(node.children);
            }
        }
    }

    fn groups(&self) -> Vec<Arc<Group>> {
        self.nodes.values().filter_map(|node| node.group.clone()).collect()
    }
}

/// Returns the target of a node; inner nodes and what is not JSON are none.
fn target(kind: &str, path: &str, data: &[u8]) -> Result<Option<Labels>, String> {
    let Ok(value @ Value::Object(_)) = serde_json::from_slice::<Value>(data) else { return Ok(None) };
    let (prefix, table, host, port) = match kind {
        "nerve" => ("__meta_nerve_", NERVE, "/host", "/port"),
        _ => ("__meta_serverset_", SERVERSET, "/serviceEndpoint/host", "/serviceEndpoint/port"),
    };
    let mut row = Row::new(prefix);
    row.set("path", path);
    row.fill(table, &value);
    for (name, endpoint) in value.get("additionalEndpoints").and_then(Value::as_object).into_iter().flatten() {
        for field in ["host", "port"] {
            let text = row.scalar(endpoint, &format!("/{field}"));
            row.set(&format!("endpoint_{field}_{}", sanitized(name)), text);
        }
    }
    let port = row.scalar(&value, port);
    row.address(text_at(&value, host), port);
    // A member with other types than those of the format is none, as any other node that is not a member.
    Ok(row.finish().ok())
}
