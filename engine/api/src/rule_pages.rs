//! The pages `/rules` and `/alerts`: what the rules are, how their last evaluation went, and what fires.

use crate::answer::{rfc3339, short_duration};
use crate::pages::{Page, frame, labels};
use crate::params::Params;
use crate::state::State;
use axum::extract;
use axum::response::IntoResponse;
use maud::{Markup, html};
use rules::{AlertState, AlertView, GroupView, Health, RuleKind, RuleView, Snapshot};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Alerts shown of one rule; the API has all.
const ALERTS_SHOWN_MAX: usize = 100;

/// What of the rules is to be shown.
struct Wanted {
    state: String,
    search: String,
    now_ms: i64,
}

impl Wanted {
    fn of(params: &Params) -> Wanted {
        let text = |name| params.get(name).unwrap_or("").trim().to_owned();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        Wanted { state: text("state"), search: text("search"), now_ms }
    }

    /// Whether the search text is in the rule's name, expression, labels, error or place.
    fn is_found(&self, group: &GroupView, rule: &RuleView) -> bool {
        let needle = self.search.to_lowercase();
        let holds = |text: &str| text.to_lowercase().contains(&needle);
        holds(&rule.name)
            || holds(&rule.query)
            || holds(&group.name)
            || holds(&group.file.display().to_string())
            || rule.last_error.as_deref().is_some_and(holds)
            || rule.labels.iter().any(|(name, value)| holds(&format!("{name}={value}")))
    }

    fn form(&self, path: &str, states: &[&str]) -> Markup {
        html! {
            form method="get" action=(path) role="search" {
                select name="state" aria-label="State" {
                    option value="" selected[self.state.is_empty()] { "all states" }
                    @for state in states { option value=(state) selected[*state == self.state] { (state) } }
                }
                input type="search" name="search" value=(self.search) aria-label="Search"
                    placeholder="name, expression, label=value, file or error";
                button { "Show" }
            }
        }
    }
}

pub async fn rules(state: extract::State<State>, params: Params) -> Page {
    let content = rules_content(&state.parts.rules.snapshot(), &Wanted::of(&params));
    Ok(frame("Rules", "rules", content).into_response())
}

pub async fn alerts(state: extract::State<State>, params: Params) -> Page {
    let content = alerts_content(&state.parts.rules.snapshot(), &Wanted::of(&params));
    let notifier = state.parts.notifier.stats();
    let content = html! {
        (content)
        h2 { "Alertmanagers" small { (notifier.alertmanagers.len()) " get alerts" } }
        @for error in &notifier.errors { p.note { (error) } }
        @if !notifier.alertmanagers.is_empty() {
            div.scroll { table {
                thead { tr {
                    th { "Alertmanager" } th.number { "Waiting" } th.number { "Sent" } th.number { "Errors" }
                    th.number { "Dropped" }
                } }
                tbody { @for one in &notifier.alertmanagers { tr {
                    td.url { (one.url) }
                    td.number { (one.queue_length) }
                    td.number { (one.counts.sent) }
                    td.number { (one.counts.errors) }
                    td.number { (one.counts.dropped) }
                } } }
            } }
        }
    };
    Ok(frame("Alerts", "alerts", content).into_response())
}

/// The word for a health, and the class that colours it.
fn health(health: Health) -> (&'static str, &'static str) {
    match health {
        Health::Good => ("ok", "up"),
        Health::Bad => ("err", "down"),
        Health::Unknown => ("unknown", "unknown"),
    }
}

fn class_of(state: AlertState) -> &'static str {
    match state {
        AlertState::Inactive => "up",
        AlertState::Pending => "unknown",
        AlertState::Firing => "down",
    }
}

fn expression(query: &str) -> Markup {
    let link = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("g0.expr", query), ("g0.tab", "table")])
        .finish();
    html! { a.expr href=(format!("query?{link}")) { (query) } }
}

fn ago(at_ms: Option<i64>, now_ms: i64) -> Markup {
    html! {
        @match at_ms {
            Some(at) => { (short_duration(Duration::from_millis((now_ms - at).max(0) as u64))) " ago" }
            None => { span.faint { "never" } }
        }
    }
}

fn rules_content(snapshot: &Snapshot, wanted: &Wanted) -> Markup {
    let fits = |group: &GroupView, rule: &RuleView| {
        (wanted.state.is_empty() || rule.health.as_str() == wanted.state) && wanted.is_found(group, rule)
    };
    let all = || snapshot.groups.iter().flat_map(|group| &group.rules);
    let count = |health| all().filter(|rule| rule.health == health).count();
    let is_narrowed = !wanted.state.is_empty() || !wanted.search.is_empty();
    html! {
        (wanted.form("rules", &["ok", "err", "unknown"]))
        p.tally {
            span { strong { (all().count()) } " rules" }
            span { strong { (snapshot.groups.len()) } " groups" }
            span.up { strong { (count(Health::Good)) } " ok" }
            span.down { strong { (count(Health::Bad)) } " failing" }
            span.unknown { strong { (count(Health::Unknown)) } " not evaluated yet" }
        }
        @if snapshot.groups.is_empty() { p.faint { "No rules. They come from the files of rule_files." } }
        @for group in &snapshot.groups {
            @let shown: Vec<&RuleView> = group.rules.iter().filter(|rule| fits(group, rule)).collect();
            @if !shown.is_empty() || (group.rules.is_empty() && !is_narrowed) { (rule_group(group, &shown, wanted.now_ms)) }
        }
    }
}

fn rule_group(group: &GroupView, shown: &[&RuleView], now_ms: i64) -> Markup {
    let failing = group.rules.iter().filter(|rule| rule.health == Health::Bad).count();
    html! {
        details.group open {
            summary {
                strong { (group.name) }
                span.faint {
                    " " (group.file.display()) " · every " (config::format_duration(group.interval))
                    " · evaluated " (ago(group.last_evaluation, now_ms))
                    " in " (short_duration(group.evaluation_time))
                    @if group.limit > 0 { " · limit " (group.limit) }
                    @if group.counters.missed > 0 { " · " (group.counters.missed) " evaluations missed" }
                }
                @if failing > 0 { span.down { " " (failing) " failing" } }
            }
            div.scroll { table {
                thead { tr {
                    th { "State" } th { "Rule" } th { "Expression" } th { "Labels" } th.number { "Evaluated" }
                    th.number { "Took" } th { "Last error" }
                } }
                tbody { @for rule in shown {
                    @let (word, class) = health(rule.health);
                    tr {
                        td { span class=(format!("state {class}")) { (word.to_uppercase()) } }
                        td.url {
                            (rule.name) br;
                            span.faint {
                                @match &rule.kind {
                                    RuleKind::Recording => { "recording" }
                                    RuleKind::Alerting { hold, keep_firing, .. } => {
                                        "alerting" (hold_text(*hold, *keep_firing))
                                    }
                                }
                            }
                        }
                        td.url { (expression(&rule.query)) }
                        td { (labels(&rule.labels)) }
                        td.number { (ago(rule.last_evaluation, now_ms)) }
                        td.number { (short_duration(rule.evaluation_time)) }
                        td.error { (rule.last_error.as_deref().unwrap_or("")) }
                    }
                } }
            } }
        }
    }
}

fn value_text(value: f64) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = series::format_float_json(value, &mut text);
    text
}

fn hold_text(hold: Duration, keep_firing: Duration) -> String {
    let mut text = String::new();
    if !hold.is_zero() {
        text += &format!(", for {}", config::format_duration(hold));
    }
    if !keep_firing.is_zero() {
        text += &format!(", keeps firing for {}", config::format_duration(keep_firing));
    }
    text
}

/// An alerting rule with its group and its alerts.
struct Alerting<'a> {
    group: &'a GroupView,
    rule: &'a RuleView,
    state: AlertState,
    alerts: &'a [AlertView],
    annotations: &'a series::Labels,
    hold: String,
}

fn alerts_content(snapshot: &Snapshot, wanted: &Wanted) -> Markup {
    let mut all = Vec::new();
    for group in &snapshot.groups {
        for rule in &group.rules {
            if let RuleKind::Alerting { state, hold, keep_firing, annotations, alerts } = &rule.kind {
                let hold = hold_text(*hold, *keep_firing);
                all.push(Alerting { group, rule, state: *state, alerts, annotations, hold });
            }
        }
    }
    let count = |state| all.iter().filter(|one| one.state == state).count();
    let fits = |one: &&Alerting| {
        (wanted.state.is_empty() || one.state.as_str() == wanted.state)
            && (wanted.is_found(one.group, one.rule)
                || one.alerts.iter().any(|alert| {
                    let needle = wanted.search.to_lowercase();
                    alert.labels.iter().any(|(name, value)| format!("{name}={value}").to_lowercase().contains(&needle))
                }))
    };
    let mut shown: Vec<&Alerting> = all.iter().filter(fits).collect();
    // What fires first.
    shown.sort_by_key(|one| match one.state {
        AlertState::Firing => 0,
        AlertState::Pending => 1,
        AlertState::Inactive => 2,
    });
    html! {
        (wanted.form("alerts", &["firing", "pending", "inactive"]))
        p.tally {
            span { strong { (all.len()) } " alerting rules" }
            span.down { strong { (count(AlertState::Firing)) } " firing" }
            span.unknown { strong { (count(AlertState::Pending)) } " pending" }
            span.up { strong { (count(AlertState::Inactive)) } " inactive" }
        }
        @if all.is_empty() { p.faint { "No alerting rules. They come from the files of rule_files." } }
        @for one in shown { (alerting_rule(one, wanted.now_ms)) }
    }
}

fn alerting_rule(one: &Alerting, now_ms: i64) -> Markup {
    let (state, class) = (one.state.as_str(), class_of(one.state));
    html! {
        details.group open[one.state != AlertState::Inactive] {
            summary {
                span class=(format!("state {class}")) { (state.to_uppercase()) } " "
                strong { (one.rule.name) }
                span.faint {
                    @if !one.alerts.is_empty() { " " (one.alerts.len()) " active ·" }
                    " " (one.group.name) " · " (one.group.file.display())
                }
            }
            p { (expression(&one.rule.query)) span.faint { (one.hold) } }
            p { (labels(&one.rule.labels)) }
            @for (name, text) in one.annotations.iter() { p.faint { (name) ": " (text) } }
            @if let Some(error) = &one.rule.last_error { p.note { (error) } }
            @if !one.alerts.is_empty() {
                div.scroll { table {
                    thead { tr {
                        th { "State" } th { "Labels" } th { "Annotations" } th.number { "Active for" } th.number { "Value" }
                    } }
                    tbody { @for alert in one.alerts.iter().take(ALERTS_SHOWN_MAX) { tr {
                        td {
                            span class=(format!("state {}", class_of(alert.state))) { (alert.state.as_str().to_uppercase()) }
                            @if alert.keep_firing_since.is_some() { br; span.faint { "kept firing" } }
                        }
                        td { (labels(&alert.labels)) }
                        td.url { @for (name, text) in alert.annotations.iter() { span.faint { (name) ": " } (text) br; } }
                        td.number title=(rfc3339(alert.active_at)) {
                            (short_duration(Duration::from_millis((now_ms - alert.active_at).max(0) as u64)))
                        }
                        td.number { (value_text(alert.value)) }
                    } } }
                } }
                @if one.alerts.len() > ALERTS_SHOWN_MAX { p.faint { (one.alerts.len()) " in all; see /api/v1/alerts" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use series::Labels;
    use std::sync::Arc;

    fn rule(name: &str, query: &str, health: Health, kind: RuleKind) -> RuleView {
        RuleView {
            name: name.to_owned(),
            query: query.to_owned(),
            labels: Labels::from_pairs([("severity", "<b>page</b>")]),
            health,
            last_error: (health == Health::Bad).then(|| "many-to-many <i>".to_owned()),
            evaluation_time: Duration::from_millis(3),
            last_evaluation: Some(1_000),
            kind,
        }
    }

    fn alerting(state: AlertState, alerts: usize) -> RuleKind {
        let alert = |number| AlertView {
            labels: Labels::from_pairs([("alertname", "A".to_owned()), ("n", format!("<script>{number}"))]),
            annotations: Labels::from_pairs([("summary", "<img>")]),
            state,
            active_at: 2_000,
            keep_firing_since: None,
            value: 0.5,
        };
        RuleKind::Alerting {
            state,
            hold: Duration::from_secs(60),
            keep_firing: Duration::ZERO,
            annotations: Labels::from_pairs([("summary", "{{ $value }}")]),
            alerts: (0..alerts).map(alert).collect(),
        }
    }

    fn snapshot() -> Snapshot {
        let group = GroupView {
            name: "g <1>".to_owned(),
            file: "/etc/rules.yml".into(),
            interval: Duration::from_secs(15),
            limit: 0,
            rules: vec![
                rule("job:up:sum", "sum by (job) (up)", Health::Good, RuleKind::Recording),
                rule("Down", "up < 1", Health::Good, alerting(AlertState::Firing, 150)),
                rule("Slow", "latency > 1", Health::Bad, alerting(AlertState::Inactive, 0)),
            ],
            evaluation_time: Duration::from_millis(7),
            last_evaluation: Some(1_000),
            counters: rules::Counters::default(),
        };
        Snapshot { groups: vec![Arc::new(group)] }
    }

    fn wanted(state: &str, search: &str) -> Wanted {
        Wanted { state: state.to_owned(), search: search.to_owned(), now_ms: 62_000 }
    }

    /// Names of the rules that a page shows.
    #[track_caller]
    fn check(page: fn(&Snapshot, &Wanted) -> Markup, state: &str, search: &str, want: &[&str]) {
        let text = page(&snapshot(), &wanted(state, search)).into_string();
        let shown = ["job:up:sum", "Down", "Slow"]
            .into_iter()
            .filter(|name| text.contains(&format!("<strong>{name}</strong>")) || text.contains(&format!("{name}<br>")));
        assert_eq!(shown.collect::<Vec<_>>(), want, "{state} {search}");
    }

    #[test]
    fn filters_narrow_the_list() {
        check(rules_content, "", "", &["job:up:sum", "Down", "Slow"]);
        check(rules_content, "ok", "", &["job:up:sum", "Down"]);
        check(rules_content, "err", "", &["Slow"]);
        check(rules_content, "", "LATENCY", &["Slow"]);
        check(rules_content, "", "rules.yml", &["job:up:sum", "Down", "Slow"]);
        check(rules_content, "", "many-to-many", &["Slow"]);
        check(alerts_content, "", "", &["Down", "Slow"]);
        check(alerts_content, "firing", "", &["Down"]);
        check(alerts_content, "inactive", "", &["Slow"]);
        check(alerts_content, "", "n=<script>7", &["Down"]);
        check(alerts_content, "", "nothing of this", &[]);
    }

    #[test]
    fn what_comes_from_outside_is_text() {
        for page in [rules_content, alerts_content] {
            let text = page(&snapshot(), &wanted("", "\"><script>")).into_string();
            let text = text + &page(&snapshot(), &wanted("", "")).into_string();
            for markup in ["<script>", "<img>", "<b>", "<i>"] {
                assert!(!text.contains(markup), "{markup}");
            }
        }
    }

    #[test]
    fn alerts_have_age_value_and_an_end() {
        let text = alerts_content(&snapshot(), &wanted("", "")).into_string();
        assert!(text.contains("60.0s") && text.contains(">0.5<"), "{text}");
        assert_eq!(text.matches("&lt;script&gt;").count(), ALERTS_SHOWN_MAX);
        assert!(text.contains("150 in all"));
        assert!(text.contains("g0.expr=up+%3C+1"));
    }
}
