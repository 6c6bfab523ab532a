//! The web pages. They need no other host; everything from outside is escaped. All but `/query` are made on the server and
//! need no script.

use crate::answer::{ApiError, Data, short_duration};
use crate::params::Params;
use crate::state::State;
use crate::{remote_write, storage, v1};
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use series::Labels;
use shard::{Health, TargetStatus};
use std::time::{SystemTime, UNIX_EPOCH};
use targets::{Pool, Target};

/// Files that pages refer to: name, ending, kind and content.
const ASSETS: [(&str, &str, &str, &str); 4] = [
    ("style", "css", "text/css; charset=utf-8", include_str!("../assets/style.css")),
    ("query", "js", "text/javascript; charset=utf-8", include_str!("../assets/query.js")),
    ("uplot", "css", "text/css; charset=utf-8", include_str!("../assets/uplot/uPlot.min.css")),
    ("uplot", "js", "text/javascript; charset=utf-8", include_str!("../assets/uplot/uPlot.iife.min.js")),
];
/// Targets on one page.
const PAGE_TARGETS: usize = 100;
/// Dropped and failed targets shown of a job; the API has all.
const SHOWN_MAX: usize = 20;

/// A page that cannot be made says why, in the frame of the others.
pub struct PageError(ApiError);

impl From<ApiError> for PageError {
    fn from(error: ApiError) -> PageError {
        PageError(error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let body = frame("Error", "", html! { p.note { (self.0.text) } });
        (self.0.status, body.into_response()).into_response()
    }
}

pub(crate) type Page = Result<Response, PageError>;

/// What every page has around it. All pages lie in one folder and all links are relative, so it does not matter under which
/// path a proxy shows them.
pub(crate) fn frame(title: &str, path: &str, content: Markup) -> Html {
    let links = [
        ("query", "Query"),
        ("targets", "Targets"),
        ("rules", "Rules"),
        ("alerts", "Alerts"),
        ("service-discovery", "Discovery"),
        ("fleet", "Fleet"),
        ("tsdb-status", "Storage"),
        ("config", "Configuration"),
        ("flags", "Flags"),
        ("status", "Status"),
    ];
    Html(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · ringscrape" }
                link rel="stylesheet" href=(asset_path("style", "css"));
                link rel="icon" href="data:,";
            }
            body {
                header {
                    strong { "ringscrape" }
                    nav {
                        @for (link, name) in links {
                            a href=(link) aria-current=[(link == path).then_some("page")] { (name) }
                        }
                        a href="metrics" { "Metrics" }
                    }
                }
                main { h1 { (title) } (content) }
            }
        }
    })
}

/// A finished page.
pub(crate) struct Html(Markup);

impl IntoResponse for Html {
    fn into_response(self) -> Response {
        let Html(PreEscaped(text)) = self;
        ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
    }
}

/// The name changes with the content, so browsers may keep the file for ever.
fn asset_path(name: &str, ending: &str) -> String {
    let content = ASSETS.iter().find(|asset| asset.0 == name && asset.1 == ending).map_or("", |asset| asset.3);
    format!("assets/{name}-{:016x}.{ending}", xxhash_rust::xxh3::xxh3_64(content.as_bytes()))
}

pub async fn asset(request: extract::Request) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    let Some((_, _, kind, content)) = ASSETS.iter().find(|(name, ending, ..)| asset_path(name, ending) == path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    (headers, *content).into_response()
}

/// Expressions, as a graph or a table. The page asks the API by itself.
pub async fn query() -> Page {
    let content = html! {
        link rel="stylesheet" href=(asset_path("uplot", "css"));
        form #ask {
            div.expression {
                textarea #expression rows="2" spellcheck="false" autocomplete="off" aria-label="Expression"
                    placeholder="Expression, such as sum by (job) (rate(scrape_samples_scraped[5m])). Enter runs it." {}
                ul #completion hidden {}
            }
            button { "Run" }
        }
        div.controls {
            span role="tablist" {
                button #tab-graph type="button" role="tab" { "Graph" }
                button #tab-table type="button" role="tab" { "Table" }
            }
            span #graph-controls {
                label { "range " input #range size="6"; }
                label { "step " input #step size="6" placeholder="auto"; }
            }
            label { "until (UTC) " input #end type="datetime-local" step="1"; }
            select #history aria-label="History" {}
            span.faint #summary {}
        }
        div #notes {}
        noscript { p.note { "This page needs JavaScript; the API does not: /api/v1/query." } }
        section #graph {
            div #plot {}
            p.faint #when {}
            ul #legend {}
        }
        section #table hidden { div.scroll { table { tbody #rows {} } } }
        script src=(asset_path("uplot", "js")) {}
        script src=(asset_path("query", "js")) {}
    };
    Ok(frame("Query", "query", content).into_response())
}

/// What is stored, and which names and labels it consists of.
pub async fn storage(state: extract::State<State>, params: Params) -> Page {
    let Data(tsdb) = storage::status_tsdb(state, params).await?;
    let tsdb = serde_json::to_value(tsdb).unwrap_or_default();
    let list = |key: &str| tsdb[key].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let content = html! {
        h2 { "In memory and chunks" }
        div.scroll { table { tbody {
            @for (name, value) in tsdb["headStats"].as_object().into_iter().flatten() {
                tr { th scope="row" { (name) } td.number { (text(value)) } }
            }
        } } }
        @for (title, key) in [
            ("Series by metric name", "seriesCountByMetricName"),
            ("Values by label name", "labelValueCountByLabelName"),
            ("Series by label pair", "seriesCountByLabelValuePair"),
            ("Bytes by label name", "memoryInBytesByLabelName"),
        ] {
            h2 { (title) small { "top " (list(key).len()) } }
            div.scroll { table { tbody {
                @for row in list(key) {
                    tr { th scope="row" { (text(&row["name"])) } td.number { (text(&row["value"])) } }
                }
            } } }
        }
    };
    Ok(frame("Storage", "tsdb-status", content).into_response())
}

pub async fn root(state: extract::State<State>) -> Redirect {
    Redirect::to(&format!("{}/targets", state.parts.external_path))
}

/// A target with its state and its job.
struct Row<'a> {
    pool: &'a Pool,
    target: &'a Target,
    status: Option<&'a TargetStatus>,
}

impl Row<'_> {
    fn health(&self) -> Health {
        self.status.map_or(Health::Unknown, |status| status.health)
    }

    fn error(&self) -> &str {
        self.status.and_then(|status| status.last_error.as_deref()).unwrap_or("")
    }

    /// Whether the search text, in lower case, is in what the row shows.
    fn contains(&self, text: &str) -> bool {
        text.is_empty()
            || self.target.url.to_string().to_lowercase().contains(text)
            || self.error().to_lowercase().contains(text)
            || self.target.labels.iter().any(|(name, value)| format!("{name}={value}").to_lowercase().contains(text))
    }
}

pub async fn targets(state: extract::State<State>, params: Params) -> Page {
    let set = state.target_set();
    let statuses = v1::statuses(&state).await?;
    let wanted = |name| params.get(name).unwrap_or("").trim().to_owned();
    let (health, job, search) = (wanted("state"), wanted("job"), wanted("search"));
    let needle = search.to_lowercase();

    let all: Vec<Row> = set
        .pools
        .iter()
        .flat_map(|pool| pool.active.iter().map(|target| Row { pool, target, status: statuses.get(&target.id) }))
        .collect();
    let count = |health| all.iter().filter(|row| row.health() == health).count();
    let (up, down, unknown) = (count(Health::Up), count(Health::Down), count(Health::Unknown));
    let fits = |row: &&Row| {
        (health.is_empty() || row.health().as_str() == health)
            && (job.is_empty() || row.pool.job.job_name == job)
            && row.contains(&needle)
    };
    let shown: Vec<&Row> = all.iter().filter(fits).collect();
    let pages = shown.len().div_ceil(PAGE_TARGETS).max(1);
    let page = params.get("page").and_then(|page| page.parse::<usize>().ok()).unwrap_or(1).clamp(1, pages);
    let from = (page - 1) * PAGE_TARGETS;
    let rows = &shown[from..shown.len().min(from + PAGE_TARGETS)];
    let link = |to: usize| {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("state", &health), ("job", &job), ("search", &search), ("page", &to.to_string())])
            .finish();
        format!("targets?{query}")
    };
    let running = state.running();
    let content = html! {
        @if let Some(error) = &running.refused {
            p.note { strong { "The last configuration was refused; the one before it is in force. " } (error) }
        }
        form method="get" action="targets" role="search" {
            select name="state" aria-label="State" {
                @for (value, name) in [("", "all states"), ("up", "up"), ("down", "down"), ("unknown", "unknown")] {
                    option value=(value) selected[value == health] { (name) }
                }
            }
            select name="job" aria-label="Job" {
                option value="" selected[job.is_empty()] { "all jobs" }
                @for pool in &set.pools {
                    option value=(pool.job.job_name) selected[pool.job.job_name == job] { (pool.job.job_name) }
                }
            }
            input type="search" name="search" value=(search) placeholder="URL, label=value or error" aria-label="Search";
            button { "Show" }
        }
        p.tally {
            span { strong { (all.len()) } " targets" }
            span.up { strong { (up) } " up" }
            span.down { strong { (down) } " down" }
            span.unknown { strong { (unknown) } " unknown" }
            @if shown.len() != all.len() { span { strong { (shown.len()) } " shown" } }
        }
        @for pool in set.pools.iter().filter(|pool| job.is_empty() || pool.job.job_name == job) {
            @let of_pool: Vec<&&Row> = rows.iter().filter(|row| std::ptr::eq(row.pool, &**pool)).collect();
            @let has_news = !pool.failed.is_empty() || !pool.source_errors.is_empty();
            @if !of_pool.is_empty() || (page == 1 && (has_news || pool.active.is_empty())) {
                (pool_section(pool, &of_pool, &all, page == 1))
            }
        }
        @if pages > 1 {
            div.pages {
                @if page > 1 { a href=(link(page - 1)) rel="prev" { "← previous" } }
                span { "page " (page) " of " (pages) }
                @if page < pages { a href=(link(page + 1)) rel="next" { "next →" } }
            }
        }
    };
    Ok(frame("Targets", "targets", content).into_response())
}

fn pool_section(pool: &Pool, rows: &[&&Row], all: &[Row], with_notes: bool) -> Markup {
    let up = all.iter().filter(|row| std::ptr::eq(row.pool, pool) && row.health() == Health::Up).count();
    html! {
        section {
            h2 {
                (pool.job.job_name)
                small {
                    (up) "/" (pool.active.len()) " up"
                    @if pool.dropped_count > 0 { " · " (pool.dropped_count) " dropped by relabelling" }
                }
            }
            @if with_notes { (pool_notes(pool)) }
            @if pool.active.is_empty() { p.faint { "No targets." } }
            @if !rows.is_empty() { (table(rows)) }
        }
    }
}

fn pool_notes(pool: &Pool) -> Markup {
    html! {
        @for error in &pool.source_errors { p.note { strong { "Discovery: " } (error) } }
        @for failed in pool.failed.iter().take(SHOWN_MAX) {
            p.note { strong { "Cannot be scraped: " } (failed.error) " " (labels(&failed.discovered)) }
        }
        @if pool.failed.len() > SHOWN_MAX { p.faint { "and " (pool.failed.len() - SHOWN_MAX) " more; see /api/v1/targets" } }
        @if !pool.dropped.is_empty() {
            details {
                summary { "Dropped targets" }
                @for dropped in pool.dropped.iter().take(SHOWN_MAX) { p { span.reason { (dropped.reason.as_str()) } " " (labels(&dropped.discovered)) } }
                @if pool.dropped_count > SHOWN_MAX { p.faint { (pool.dropped_count) " in all; see /api/v1/targets" } }
            }
        }
    }
}

fn table(rows: &[&&Row]) -> Markup {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th { "State" }
                        th { "Target" }
                        th { "Labels" }
                        th.number { "Last scrape" }
                        th.number { "Took" }
                        th.number { "Samples" }
                        th.number { "Bytes" }
                        th.number { "Missed" }
                        th.number { "Core" }
                        th { "Last error" }
                    }
                }
                tbody { @for row in rows { (table_row(row, now_ms)) } }
            }
        }
    }
}

fn table_row(row: &Row, now_ms: i64) -> Markup {
    let health = row.health().as_str();
    let (interval, timeout) =
        (config::format_duration(row.target.interval), config::format_duration(row.target.timeout));
    let ago = row.status.and_then(|status| status.last_scrape).map(|at| (now_ms - at.0).max(0) as u64);
    let missed = row.status.map_or(0, |status| status.missed_in_flight + status.missed_core_late);
    html! {
        tr {
            td { span class=(format!("state {health}")) { (health.to_uppercase()) } }
            td.url { a href=(row.target.url) { (row.target.url) } }
            td { (labels(&row.target.labels)) }
            td.number {
                @match ago {
                    Some(ms) => { (short_duration(std::time::Duration::from_millis(ms))) " ago" }
                    None => { span.faint { "never" } }
                }
                br;
                span.faint title="interval / timeout" { (interval) " / " (timeout) }
            }
            @if let Some(status) = row.status.filter(|status| status.scrapes > 0) {
                td.number { (short_duration(status.last_duration)) }
                td.number { (status.samples_scraped) }
                td.number title="unpacked / on the wire" { (bytes(status.body_bytes)) br; span.faint { (bytes(status.wire_bytes)) } }
                td.number title="in flight / core late" { (missed) }
                td.number { (status.core) }
                td.error {
                    @if let Some(reason) = status.last_reason { span.reason { (reason.as_str()) } }
                    (row.error())
                }
            } @else {
                td.number {} td.number {} td.number {}
                td.number { (missed) }
                td.number { @if let Some(status) = row.status { (status.core) } }
                td {}
            }
        }
    }
}

pub(crate) fn labels(labels: &Labels) -> Markup {
    html! { @for (name, value) in labels.iter() { span.label { (name) "=\"" (value) "\"" } } }
}

fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}

pub async fn configuration(state: extract::State<State>) -> Page {
    let running = state.running();
    let content = html! {
        @if let Some(error) = &running.refused { p.note { (error) } }
        pre { (running.config.to_yaml()) }
    };
    Ok(frame("Configuration", "config", content).into_response())
}

pub async fn flags(state: extract::State<State>) -> Page {
    let content = html! {
        div.scroll { table { tbody {
            @for (name, value) in &state.parts.flags { tr { th scope="row" { "--" (name) } td { (value) } } }
        } } }
    };
    Ok(frame("Flags", "flags", content).into_response())
}

pub async fn status(state: extract::State<State>) -> Page {
    let info = serde_json::to_value(v1::runtime_info(&state).await?).unwrap_or_default();
    let build = serde_json::to_value(v1::build_info()).unwrap_or_default();
    let show = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let content = html! {
        @for (title, fields) in [("Build", &build), ("Runtime", &info)] {
            h2 { (title) }
            div.scroll { table { tbody {
                @for (name, value) in fields.as_object().into_iter().flatten() {
                    tr { th scope="row" { (name) } td { (show(value)) } }
                }
            } } }
        }
        (remote_write::section(&state))
    };
    Ok(frame("Status", "status", content).into_response())
}
