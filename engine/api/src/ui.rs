//! The documents and files of the web UI. A page is a document of the server with its title and links; a script, made
//! from `engine/api/ui` and committed in `assets/ui`, fills it from the JSON API.
//!
//! Invariants:
//!   * all pages lie in one folder and all links are relative: it does not matter under which path a proxy shows them
//!   * no document has a script, a style or a text that comes from outside of the server

use crate::http::{ContentEncoding, preferred_encoding};
use crate::state::State;
use axum::extract;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::borrow::Cow;
use std::sync::OnceLock;

type S = extract::State<State>;

/// What a browser may do with our pages. No script, style or request but to ourselves, and no text that becomes a script:
/// Trusted Types without a policy leave none of the browser's functions that turn text into elements.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// A file that documents refer to.
struct Asset {
    name: &'static str,
    ending: &'static str,
    kind: &'static str,
    content: &'static str,
    /// Compressed at the first request for it.
    gzip: OnceLock<Vec<u8>>,
    zstd: OnceLock<Vec<u8>>,
}

impl Asset {
    const fn new(name: &'static str, ending: &'static str, kind: &'static str, content: &'static str) -> Asset {
        Asset { name, ending, kind, content, gzip: OnceLock::new(), zstd: OnceLock::new() }
    }

    /// Its path below the pages. The name changes with the content, so browsers may keep the file for ever.
    fn path(&self) -> String {
        format!("assets/{}-{:016x}.{}", self.name, xxhash_rust::xxh3::xxh3_64(self.content.as_bytes()), self.ending)
    }

    fn bytes(&'static self, encoding: Option<ContentEncoding>) -> Cow<'static, [u8]> {
        let compressed = |encoding: ContentEncoding| encoding.compress(self.content.as_bytes()).unwrap_or_default();
        let bytes = match encoding {
            None => return self.content.as_bytes().into(),
            Some(ContentEncoding::Gzip) => self.gzip.get_or_init(|| compressed(ContentEncoding::Gzip)),
            Some(ContentEncoding::Zstd) => self.zstd.get_or_init(|| compressed(ContentEncoding::Zstd)),
        };
        bytes.as_slice().into()
    }
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
static ASSETS: [Asset; 5] = [
    Asset::new("style", "css", "text/css; charset=utf-8", include_str!("../assets/ui/style.css")),
    Asset::new("theme", "js", SCRIPT, include_str!("../assets/ui/theme.js")),
    Asset::new("app", "js", SCRIPT, include_str!("../assets/ui/app.js")),
    Asset::new("editor", "js", SCRIPT, include_str!("../assets/ui/editor.js")),
    Asset::new("licenses", "txt", "text/plain; charset=utf-8", include_str!("../assets/ui/licenses.txt")),
];

/// The path of a file of ours; the name is one of [`ASSETS`].
fn asset_path(name: &str) -> String {
    ASSETS.iter().find(|asset| asset.name == name).map(Asset::path).unwrap_or_default()
}

/// `/assets/…`
pub(crate) async fn asset(headers: HeaderMap, request: extract::Request) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    let Some(asset) = ASSETS.iter().find(|asset| asset.path() == path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let encoding = preferred_encoding(&headers);
    // Compressing the largest takes some tens of milliseconds, once.
    let bytes = tokio::task::spawn_blocking(move || asset.bytes(encoding)).await.unwrap_or_default();
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.as_str()));
    }
    response
}

/// Links of the header: path and title.
const LINKS: [(&str, &str); 11] = [
    ("overview", "Overview"),
    ("targets", "Targets"),
    ("query", "Query"),
    ("alerts", "Alerts"),
    ("rules", "Rules"),
    ("service-discovery", "Discovery"),
    ("fleet", "Fleet"),
    ("tsdb-status", "Storage"),
    ("config", "Configuration"),
    ("flags", "Flags"),
    ("status", "Status"),
];

/// Pages that need stored samples, rules or alerts.
const NOT_IN_AGENT_MODE: [&str; 4] = ["query", "alerts", "rules", "tsdb-status"];

/// What tells this server from others: the values of its external labels.
fn instance(state: &State) -> String {
    let running = state.running();
    let labels = running.config.global.external_labels.iter().map(|(_, value)| value);
    labels.collect::<Vec<_>>().join("/")
}

/// What every page has around its content.
fn frame(state: &State, title: &str, path: &str, content: Markup) -> Html {
    let (instance, is_agent) = (instance(state), state.parts.shards.agent().is_some());
    let links = LINKS.iter().filter(|(link, _)| !is_agent || !NOT_IN_AGENT_MODE.contains(link));
    Html(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) @if !instance.is_empty() { " · " (instance) } " · ringscrape" }
                link rel="stylesheet" href=(asset_path("style"));
                link rel="icon" href="data:,";
                script src=(asset_path("theme")) {}
                script type="module" src=(asset_path("app")) {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    strong { "ringscrape" }
                    @if !instance.is_empty() { span.instance { (instance) } }
                    nav aria-label="Pages" {
                        @if is_agent { a href="agent" aria-current=[(path == "agent").then_some("page")] { "Agent" } }
                        @for (link, name) in links {
                            a href=(link) aria-current=[(*link == path).then_some("page")] { (name) }
                        }
                        a href="metrics" { "Metrics" }
                    }
                    div #tools {}
                }
                main #main { h1 { (title) } (content) }
            }
        }
    })
}

/// A finished page.
pub(crate) struct Html(Markup);

impl IntoResponse for Html {
    fn into_response(self) -> Response {
        let Html(PreEscaped(text)) = self;
        let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
        (headers, text).into_response()
    }
}

/// A page that the script fills.
struct Page {
    title: &'static str,
    /// Its name in the script.
    name: &'static str,
    /// The link of the header that leads to it.
    path: &'static str,
    /// Where a program, or a reader without script, finds the same.
    api: &'static str,
}

impl Page {
    fn document(&self, state: &State) -> Html {
        let Page { title, name, path, api } = self;
        let content = html! {
            div #app data-page=(name) data-editor=(asset_path("editor")) {
                noscript { p.note { "This page needs JavaScript. The API does not: " a href=(api) { (api) } "." } }
            }
        };
        frame(state, title, path, content)
    }
}

/// `/`
pub(crate) async fn root(state: S) -> Redirect {
    Redirect::to(&format!("{}/overview", state.parts.external_path))
}

macro_rules! pages {
    ($($handler:ident: $title:literal, $path:literal, $api:literal;)*) => {
        $(
            pub(crate) async fn $handler(state: S) -> Html {
                Page { title: $title, name: stringify!($handler), path: $path, api: $api }.document(&state)
            }
        )*
    };
}

pages! {
    agent: "Agent", "agent", "api/v1/ringscrape/status/remote_write";
    overview: "Overview", "overview", "api/v1/ringscrape/status/history";
    query: "Query", "query", "api/v1/query?query=up";
    targets: "Targets", "targets", "api/v1/targets?state=active";
    target: "Target", "targets", "api/v1/targets?state=active";
    discovery: "Service discovery", "service-discovery", "api/v1/ringscrape/discovery";
    rules: "Rules", "rules", "api/v1/rules";
    alerts: "Alerts", "alerts", "api/v1/alerts";
    fleet: "Fleet", "fleet", "api/v1/status/fleet";
    storage: "Storage", "tsdb-status", "api/v1/status/tsdb";
    config: "Configuration", "config", "api/v1/status/config";
    flags: "Flags", "flags", "api/v1/status/flags";
    status: "Status", "status", "api/v1/status/runtimeinfo";
}
