//! The page `/service-discovery`: what discovery has found, what became of it and why, and how relabelling got there.
//!
//! Bounded for jobs of any size: a page shows [`PAGE_ROWS`] addresses, and looks at each address once.

use crate::answer::ApiError;
use crate::pages::{Page, frame, labels};
use crate::params::Params;
use crate::state::State;
use axum::extract;
use axum::response::IntoResponse;
use maud::{Markup, html};
use series::Labels;
use std::collections::{BTreeMap, HashMap};
use targets::{Pool, Target, TargetId};

/// Addresses on one page.
const PAGE_ROWS: usize = 100;
/// Errors shown of one job.
const ERRORS_MAX: usize = 20;

/// What became of an address.
struct Row<'a> {
    pool: &'a Pool,
    discovered: &'a Labels,
    target: Option<&'a Target>,
    /// `active`, or the reason why it is not scraped.
    state: &'a str,
    error: &'a str,
    /// The members of the fleet that scrape it, if this one does not, or soon will not.
    owners: &'a [String],
}

impl Row<'_> {
    /// Whether the search text, in lower case, is in what the row shows.
    fn contains(&self, text: &str) -> bool {
        let has = |labels: &Labels| {
            labels.iter().any(|(name, value)| format!("{name}={value}").to_lowercase().contains(text))
        };
        let is_owner = |owner: &String| owner.to_lowercase().contains(text);
        text.is_empty()
            || self.owners.iter().any(is_owner)
            || has(self.discovered)
            || self.target.is_some_and(|target| has(&target.labels))
    }
}

fn rows(pool: &Pool) -> impl Iterator<Item = Row<'_>> {
    let leaving: HashMap<TargetId, &[String]> =
        pool.leaving.iter().map(|leaving| (leaving.id, leaving.to.as_slice())).collect();
    let active = pool.active.iter().map(move |target| {
        let owners = leaving.get(&target.id).copied();
        Row {
            pool,
            discovered: &target.discovered,
            target: Some(target),
            state: match owners {
                _ if target.forced_error.is_some() => "limit",
                Some(_) => "leaving",
                None => "active",
            },
            error: target.forced_error.as_deref().unwrap_or(""),
            owners: owners.unwrap_or(&[]),
        }
    });
    let dropped = pool.dropped.iter().map(move |dropped| Row {
        pool,
        discovered: &dropped.discovered,
        target: None,
        state: dropped.reason.as_str(),
        error: "",
        owners: &[],
    });
    let failed = pool.failed.iter().map(move |failed| Row {
        pool,
        discovered: &failed.discovered,
        target: None,
        state: "failed",
        error: &failed.error,
        owners: &[],
    });
    let others = pool.others.iter().map(move |other| Row {
        pool,
        discovered: &other.discovered,
        target: None,
        state: "other-member",
        error: "",
        owners: &other.owners,
    });
    failed.chain(active).chain(dropped).chain(others)
}

pub async fn page(state: extract::State<State>, params: Params) -> Page {
    let set = state.target_set();
    let wanted = |name| params.get(name).unwrap_or("").trim().to_owned();
    let (outcome, job, search) = (wanted("state"), wanted("job"), wanted("search"));
    let needle = search.to_lowercase();
    let pools: Vec<&Pool> =
        set.pools.iter().map(|pool| &**pool).filter(|pool| job.is_empty() || pool.job.job_name == job).collect();
    let fits = |row: &Row| (outcome.is_empty() || row.state == outcome) && row.contains(&needle);
    let shown: Vec<Row> = pools.iter().flat_map(|pool| rows(pool)).filter(fits).collect();
    let pages = shown.len().div_ceil(PAGE_ROWS).max(1);
    let page = params.get("page").and_then(|page| page.parse::<usize>().ok()).unwrap_or(1).clamp(1, pages);
    let from = (page - 1) * PAGE_ROWS;
    let on_page = &shown[from..shown.len().min(from + PAGE_ROWS)];
    let link = |to: usize| {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("state", &outcome), ("job", &job), ("search", &search), ("page", &to.to_string())])
            .finish();
        format!("service-discovery?{query}")
    };
    let states = [
        ("", "all"),
        ("active", "active"),
        ("relabelling", "dropped by relabelling"),
        ("duplicate", "dropped as duplicates"),
        ("limit", "over target_limit"),
        ("failed", "cannot be targets"),
        ("leaving", "on their way to other members"),
        ("other-member", "of other members"),
    ];
    let content = html! {
        form method="get" action="service-discovery" role="search" {
            select name="state" aria-label="Outcome" {
                @for (value, name) in states { option value=(value) selected[value == outcome] { (name) } }
            }
            select name="job" aria-label="Job" {
                option value="" selected[job.is_empty()] { "all jobs" }
                @for pool in &set.pools {
                    option value=(pool.job.job_name) selected[pool.job.job_name == job] { (pool.job.job_name) }
                }
            }
            input type="search" name="search" value=(search) placeholder="label=value" aria-label="Search";
            button { "Show" }
        }
        p.tally { span { strong { (shown.len()) } " shown" } }
        @for pool in &pools {
            @let of_pool: Vec<&Row> = on_page.iter().filter(|row| std::ptr::eq(row.pool, *pool)).collect();
            @if page == 1 || !of_pool.is_empty() { (pool_section(pool, &of_pool)) }
        }
        @if pages > 1 {
            div.pages {
                @if page > 1 { a href=(link(page - 1)) rel="prev" { "← previous" } }
                span { "page " (page) " of " (pages) }
                @if page < pages { a href=(link(page + 1)) rel="next" { "next →" } }
            }
        }
    };
    Ok(frame("Service discovery", "service-discovery", content).into_response())
}

fn pool_section(pool: &Pool, rows: &[&Row]) -> Markup {
    let kept = pool.dropped.len();
    let dropped = pool.dropped_count + pool.duplicates_count;
    html! {
        section {
            h2 {
                (pool.job.job_name)
                small {
                    (pool.active.len()) " active of " (pool.discovered_count) " discovered"
                    @if pool.dropped_count > 0 { " · " (pool.dropped_count) " dropped by relabelling" }
                    @if pool.duplicates_count > 0 { " · " (pool.duplicates_count) " duplicates" }
                    @if !pool.failed.is_empty() { " · " (pool.failed.len()) " cannot be targets" }
                    @if pool.others_count > 0 { " · " (pool.others_count) " of other members" }
                }
            }
            @for error in pool.source_errors.iter().take(ERRORS_MAX) { p.note { strong { "Discovery: " } (error) } }
            @if pool.source_errors.len() > ERRORS_MAX {
                p.faint { "and " (pool.source_errors.len() - ERRORS_MAX) " more errors" }
            }
            @if kept < dropped {
                p.faint { (kept) " of " (dropped) " dropped addresses are remembered; see keep_dropped_targets" }
            }
            @if pool.others.len() < pool.others_count {
                p.faint { (pool.others.len()) " of " (pool.others_count) " addresses of other members are listed" }
            }
            @if !rows.is_empty() {
                div.scroll { table {
                    thead { tr { th { "Outcome" } th { "Discovered labels" } th { "Target labels" } th {} } }
                    tbody { @for row in rows { (table_row(row)) } }
                } }
            }
        }
    }
}

fn table_row(row: &Row) -> Markup {
    html! {
        tr {
            td {
                span.reason { (row.state) }
                @if !row.error.is_empty() { br; (row.error) }
                @if !row.owners.is_empty() { br; (row.owners.join(", ")) }
            }
            td { (labels(row.discovered)) }
            td { @if let Some(target) = row.target { (labels(&target.labels)) } }
            td { a href=(explain_link(&row.pool.job.job_name, row.discovered)) { "explain" } }
        }
    }
}

fn explain_link(job: &str, discovered: &Labels) -> String {
    let map: BTreeMap<&str, &str> = discovered.iter().collect();
    let labels = serde_json::to_string(&map).unwrap_or_default();
    let query =
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs([("job", job), ("labels", &labels)]).finish();
    format!("service-discovery-explain?{query}")
}

/// Rule by rule, what relabelling does to labels.
pub async fn explain(state: extract::State<State>, params: Params) -> Page {
    let name = params.get("job").unwrap_or("");
    let given: BTreeMap<String, String> = serde_json::from_str(params.get("labels").unwrap_or("{}"))
        .map_err(|error| ApiError::bad_data(format!("labels are not a JSON object of strings: {error}")))?;
    let set = state.target_set();
    let pool = set.pools.iter().find(|pool| pool.job.job_name == name);
    let pool = pool.ok_or_else(|| ApiError::not_found(format!("no such scrape pool: {name:?}")))?;
    let before = Labels::from_pairs(given);
    let steps = pool.job.relabel_configs.explain(before.clone());
    let last = steps.last();
    let is_kept = last.is_none_or(|step| step.kept);
    let after = last.map_or(&before, |step| &step.labels);
    // What the first step began with is what the one before it ended with.
    let begins = std::iter::once(&before).chain(steps.iter().map(|step| &step.labels));
    let content = html! {
        p { a href="service-discovery" { "Service discovery" } " · job " strong { (name) } }
        h2 { "Discovered" }
        p { (labels(&before)) }
        @if steps.is_empty() { p.faint { "The job has no relabel_configs." } }
        @for (step, begin) in steps.iter().zip(begins) {
            h2 { "Rule " (step.rule_index + 1) small { @if !step.kept { "drops it" } @else if step.labels == *begin { "changes nothing" } } }
            pre { (step.rendering) }
            @if step.kept && step.labels != *begin { (changes(begin, &step.labels)) }
        }
        h2 { @if is_kept { "Target labels" } @else { "Dropped" } }
        @if is_kept { p { (labels(&Labels::from_sorted(after.iter().filter(|(name, _)| !name.starts_with("__"))))) } }
    };
    Ok(frame("Relabelling", "service-discovery", content).into_response())
}

/// Labels that one set has and the other has not, or has with another value.
fn changes(before: &Labels, after: &Labels) -> Markup {
    let gone = before.iter().filter(|(name, value)| after.get(name) != Some(value));
    let new = after.iter().filter(|(name, value)| before.get(name) != Some(value));
    html! {
        div.scroll { table { tbody {
            @for (name, value) in gone { tr { td { "−" } td { span.label { (name) "=\"" (value) "\"" } } } }
            @for (name, value) in new { tr { td { "+" } td { span.label { (name) "=\"" (value) "\"" } } } }
        } } }
    }
}
