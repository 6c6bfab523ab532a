//! Watches one kind of object: a list in pages, then a watch from its version on.
//!
//! Invariants:
//!   * a watch continues from the last version; when the server no longer has it (410 Gone), the list is read again
//!   * a watch without an event for longer than the server keeps it open is aborted
//!   * a line is at most [`LINE_BYTES_MAX`], a list at most [`OBJECTS_MAX`]

use super::super::{pause, random};
use super::access::Access;
use super::objects::{Event, List, Object};
use client::{Request, StatusCode, Streaming};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Number of objects in a page.
const PAGE_OBJECTS: usize = 500;
/// Number of pages of a list. A page may be empty if a selector excludes all of its objects.
const PAGES_MAX: usize = 10_000;
/// Number of objects of a kind.
const OBJECTS_MAX: usize = 500_000;
/// Size of an object with its frame, in bytes.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Time after which the server ends a watch; then the next one begins.
const WATCH_SECONDS: u64 = 300;
const SILENT_MAX: Duration = Duration::from_secs(WATCH_SECONDS + 30);
/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Length of a server's message that is shown, in bytes.
const SHOWN_CHARS_MAX: usize = 200;

/// Kinds of objects: those of the roles, and those that are only looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Node,
    Service,
    Pod,
    Endpoints,
    EndpointSlice,
    Ingress,
    Namespace,
    ReplicaSet,
    Job,
}

impl Kind {
    /// Returns the name in the metric `prometheus_sd_kubernetes_events_total`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::Service => "service",
            Kind::Pod => "pod",
            Kind::Endpoints => "endpoints",
            Kind::EndpointSlice => "endpointslice",
            Kind::Ingress => "ingress",
            Kind::Namespace => "namespace",
            Kind::ReplicaSet => "replicaset",
            Kind::Job => "job",
        }
    }

    /// Returns group and version, and the name of the kind in a path.
    fn path(self) -> (&'static str, &'static str) {
        match self {
            Kind::Node => ("api/v1", "nodes"),
            Kind::Service => ("api/v1", "services"),
            Kind::Pod => ("api/v1", "pods"),
            Kind::Endpoints => ("api/v1", "endpoints"),
            Kind::EndpointSlice => ("apis/discovery.k8s.io/v1", "endpointslices"),
            Kind::Ingress => ("apis/networking.k8s.io/v1", "ingresses"),
            Kind::Namespace => ("api/v1", "namespaces"),
            Kind::ReplicaSet => ("apis/apps/v1", "replicasets"),
            Kind::Job => ("apis/batch/v1", "jobs"),
        }
    }
}

/// Scope of a watch: a kind, in one namespace or all, restricted by selectors.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    pub kind: Kind,
    /// Empty: all.
    pub namespace: String,
    pub label_selector: String,
    pub field_selector: String,
}

/// An event of a watch.
pub struct SourceUpdate {
    /// Which of the scopes.
    pub scope: usize,
    pub what: What,
}

pub enum What {
    /// All objects.
    List(Vec<Object>),
    Added(Object),
    Changed(Object),
    Deleted(Object),
    /// The watch failed.
    Failed(String),
    /// The watch works again.
    Fine,
}

/// Why a watch ended.
enum End {
    /// It can continue from here.
    Again,
    /// The server no longer has the version.
    ReceiverClosed,
    Failed(String),
    /// The receiver was dropped.
    Closed,
}

/// The watch of a scope.
pub struct Watcher {
    pub access: Arc<Access>,
    /// Which of the scopes.
    pub number: usize,
    pub scope: Scope,
    pub news: mpsc::Sender<SourceUpdate>,
    /// The last version; empty if there is none that a watch could continue from.
    pub version: String,
}

impl Watcher {
    /// Runs until it is dropped.
    pub async fn follow(mut self) {
        let mut failures_in_row = 0;
        loop {
            let since = Instant::now();
            match self.round(failures_in_row > 0).await {
                Ok(()) | Err(End::Again) => failures_in_row = 0,
                Err(End::ReceiverClosed) => {
                    failures_in_row = 0;
                    self.version.clear();
                }
                Err(End::Failed(error)) => {
                    failures_in_row += 1;
                    if self.report(What::Failed(error)).await.is_err() {
                        return;
                    }
                }
                Err(End::Closed) => return,
            }
            // Avoids a busy loop with a server that ends each watch at once.
            let is_hasty = since.elapsed() < Duration::from_secs(1);
            if failures_in_row > 0 || is_hasty {
                tokio::time::sleep(pause(failures_in_row.max(1), RETRY_MAX, random())).await;
            }
        }
    }

    async fn report(&self, what: What) -> Result<(), End> {
        self.news.send(SourceUpdate { scope: self.number, what }).await.map_err(|_| End::Closed)
    }

    /// Reads a list if there is no version, then watches until the watch ends.
    async fn round(&mut self, has_failed: bool) -> Result<(), End> {
        if self.version.is_empty() {
            let (objects, version) = list(&self.access, &self.scope).await.map_err(End::Failed)?;
            self.report(What::List(objects)).await?;
            self.version = version;
        }
        let (place, stream) = self.begin().await?;
        if has_failed {
            self.report(What::Fine).await?;
        }
        self.watch(&place, stream).await
    }

    /// Requests the events from the version on.
    async fn begin(&self) -> Result<(String, Streaming), End> {
        let seconds = WATCH_SECONDS.to_string();
        let request = request(
            &self.access,
            &self.scope,
            &[
                ("watch", "true"),
                ("allowWatchBookmarks", "true"),
                ("timeoutSeconds", &seconds),
                ("resourceVersion", &self.version),
            ],
        );
        let place = client::shown(&request.url);
        let client = self.access.client().await.map_err(End::Failed)?;
        let mut stream = client.stream(request).await.map_err(|error| End::Failed(error.text))?;
        if stream.status == StatusCode::UNAUTHORIZED {
            self.access.refused();
        }
        match stream.status {
            StatusCode::OK => Ok((place, stream)),
            StatusCode::GONE => Err(End::ReceiverClosed),
            status => {
                let body = tokio::time::timeout(Duration::from_secs(1), stream.chunk()).await;
                let body = body.ok().and_then(Result::ok).flatten().unwrap_or_default();
                Err(End::Failed(refused(&place, status, &body)))
            }
        }
    }

    async fn watch(&mut self, place: &str, mut stream: Streaming) -> Result<(), End> {
        let mut line = Vec::new();
        loop {
            let silent = |_| End::Failed(format!("{place}: the watch has been silent for {SILENT_MAX:?}"));
            // A broken connection is handled as the end of the watch: the next one continues from the same version.
            let chunk = tokio::time::timeout(SILENT_MAX, stream.chunk()).await.map_err(silent)?;
            let Ok(Some(chunk)) = chunk else { return Err(End::Again) };
            for part in chunk.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if line.len() > LINE_BYTES_MAX {
                    return Err(End::Failed(format!("{place}: an object is larger than {LINE_BYTES_MAX} bytes")));
                }
                if line.ends_with(b"\n") {
                    if line.len() > 1 {
                        self.event(place, &mut line).await?;
                    }
                    line.clear();
                }
            }
        }
    }

    async fn event(&mut self, place: &str, line: &mut [u8]) -> Result<(), End> {
        let broken = |error| End::Failed(format!("{place}: an event is not JSON: {error}"));
        let event: Event = simd_json::serde::from_slice(line).map_err(broken)?;
        let mut object = event.object;
        let new = std::mem::take(&mut object.metadata.resource_version);
        if event.r#type == "ERROR" {
            return Err(match object.code {
                410 => End::ReceiverClosed,
                code => End::Failed(format!("{place}: the watch ended: {code} {}", shown(&object.message))),
            });
        }
        if !new.is_empty() {
            self.version = new;
        }
        match event.r#type.as_str() {
            "ADDED" => self.report(What::Added(object)).await,
            "MODIFIED" => self.report(What::Changed(object)).await,
            "DELETED" => self.report(What::Deleted(object)).await,
            // Bookmarks only change the version; unknown events are ignored.
            _ => Ok(()),
        }
    }
}

fn request(access: &Access, scope: &Scope, params: &[(&str, &str)]) -> Request {
    let mut url = access.server.clone();
    let (group, plural) = scope.kind.path();
    let before = url.path().trim_matches('/').to_owned();
    let slash = if before.is_empty() { "" } else { "/" };
    let namespace = if scope.namespace.is_empty() { String::new() } else { format!("/namespaces/{}", scope.namespace) };
    url.set_path(&format!("{before}{slash}{group}{namespace}/{plural}"));
    let selectors =
        [("labelSelector", scope.label_selector.as_str()), ("fieldSelector", scope.field_selector.as_str())];
    let given = selectors.iter().filter(|(_, text)| !text.is_empty());
    url.query_pairs_mut().extend_pairs(given).extend_pairs(params);
    Request::get(url).header(client::header::ACCEPT, "application/json")
}

/// Reads all objects, page by page. Returns them and the version at which a watch begins.
async fn list(access: &Access, scope: &Scope) -> Result<(Vec<Object>, String), String> {
    let mut objects = Vec::new();
    let mut next = String::new();
    let mut pages = 0;
    let limit = PAGE_OBJECTS.to_string();
    loop {
        let mut params = vec![("limit", limit.as_str())];
        if !next.is_empty() {
            params.push(("continue", &next));
        }
        let request = request(access, scope, &params);
        let place = client::shown(&request.url);
        let response = access.client().await?.send(request).await.map_err(|error| error.text)?;
        if response.status == StatusCode::UNAUTHORIZED {
            access.refused();
        }
        if response.status != StatusCode::OK {
            return Err(refused(&place, response.status, &response.body));
        }
        let parsed =
            tokio::task::spawn_blocking(move || simd_json::serde::from_slice::<List>(&mut response.body.to_vec()));
        let page = parsed.await.map_err(|panic| panic.to_string())?.map_err(|error| format!("{place}: {error}"))?;
        objects.extend(page.items.into_iter().flat_map(|items| items.0));
        if objects.len() > OBJECTS_MAX {
            return Err(format!("{place}: more than {OBJECTS_MAX} objects; narrow them by selectors or namespaces"));
        }
        if page.metadata.next.is_empty() {
            return Ok((objects, page.metadata.resource_version));
        }
        pages += 1;
        if page.metadata.next == next || pages == PAGES_MAX {
            return Err(format!("{place}: the pages of the list do not end"));
        }
        next = page.metadata.next;
    }
}

/// Returns the error for a response that is no list, with the message of the server if there is one.
fn refused(place: &str, status: StatusCode, body: &[u8]) -> String {
    let message = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = message.as_ref().and_then(|status| status["message"].as_str()).unwrap_or("");
    format!("{place}: answered {status} {}", shown(message)).trim_end().to_owned()
}

fn shown(message: &str) -> String {
    message.chars().take(SHOWN_CHARS_MAX).collect()
}
