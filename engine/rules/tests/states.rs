//! Rules over series in memory, evaluated by hand: what is written, what fires, what is told.

use promql::PlanOptions;
use promql::notation::Value;
use relabel::NameScheme;
use rules::unit::MemoryBackend;
use rules::{AlertState, ConcurrencyLimit, Group, Health, Options, RuleKind, Settings, Timings, compile};
use series::{Labels, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn settings() -> Settings {
    Settings {
        interval: Duration::from_secs(60),
        query_offset: Duration::ZERO,
        external_labels: Labels::from_pairs([("cluster", "c")]),
        external_url: "http://here".into(),
        parse: promql::ParseOptions::default(),
        scheme: NameScheme::Utf8,
    }
}

fn group(rules: &str, restored: bool) -> Group {
    let file = config::parse_rules(Path::new("r.yml"), rules, NameScheme::Utf8).unwrap();
    let spec = compile(&file, &settings()).unwrap().remove(0);
    Group::new(Arc::new(spec), restored)
}

/// A group and its world, by the minute.
struct Bench {
    group: Group,
    world: MemoryBackend,
    options: Options,
}

impl Bench {
    fn new(rules: &str) -> Bench {
        let options = Options::default();
        Bench { group: group(rules, true), world: MemoryBackend::new(PlanOptions::default()), options }
    }

    fn set(&self, series: &str, minute: i64, value: f64) {
        let labels = promql::parse_metric(series).unwrap();
        self.world.insert(labels, minute * 60_000, Value::Float(value));
    }

    fn step(&mut self, minute: i64) {
        let at = Timestamp(minute * 60_000);
        self.group.evaluate(at, at, &self.world, &self.options, &Timings::default());
    }

    /// What an expression yields, as text.
    fn ask(&self, expr: &str, minute: i64) -> Vec<String> {
        let found = rules::RuleBackend::query(&self.world, &self.group.spec, expr, Timestamp(minute * 60_000)).unwrap();
        let text = |(labels, value): &(_, series::Value)| match value {
            series::Value::Float(value) => format!("{labels} {value}"),
            series::Value::Histogram(histogram) => format!("{labels} {histogram}"),
        };
        let mut found: Vec<String> = found.iter().map(text).collect();
        found.sort();
        found
    }

    fn state(&self, rule: usize) -> AlertState {
        match &self.group.view().rules[rule].kind {
            RuleKind::Alerting { state, .. } => *state,
            RuleKind::Recording => panic!("it records"),
        }
    }

    fn error(&self, rule: usize) -> Option<String> {
        let view = self.group.view();
        assert_eq!(view.rules[rule].health == Health::Bad, view.rules[rule].last_error.is_some());
        view.rules[rule].last_error.clone()
    }
}

#[test]
fn later_rules_see_earlier_ones_and_vanished_series_end() {
    let rules = "groups: [{name: g, labels: {team: t}, rules: [
        {record: a, expr: 'sum by (x) (m)'}, {record: b, expr: a * 2, labels: {team: own}}]}]";
    let mut bench = Bench::new(rules);
    bench.set("m{x=\"1\"}", 0, 2.0);
    bench.set("m{x=\"2\"}", 0, 3.0);
    bench.step(0);
    let want = [r#"{__name__="b", team="own", x="1"} 4"#, r#"{__name__="b", team="own", x="2"} 6"#];
    assert_eq!(bench.ask("b", 0), want);
    bench.set("m{x=\"2\"}", 1, series::STALE_NAN);
    bench.step(1);
    assert_eq!(bench.ask("a", 1), [r#"{__name__="a", team="t", x="1"} 2"#]);
    assert_eq!(bench.ask("b", 1), [r#"{__name__="b", team="own", x="1"} 4"#]);
}

#[test]
fn concurrent_rules_see_the_same() {
    let rules = "groups: [{name: g, rules: [{record: a, expr: m + 0}, {record: free, expr: m + 1},
        {record: b, expr: a + b or a}, {record: c, expr: '{__name__=~\"b|free\"} + 0'}, {record: m2, expr: c}]}]";
    let results: Vec<Vec<String>> = [false, true]
        .into_iter()
        .map(|concurrent| {
            let mut bench = Bench::new(rules);
            bench.options.concurrent_rules = concurrent;
            bench.options.concurrency = ConcurrencyLimit::new(3);
            for minute in 0..5 {
                bench.set("m{x=\"1\"}", minute, minute as f64);
                bench.step(minute);
            }
            assert_eq!(bench.group.errors().count(), 1, "c has two of the same labels");
            bench.ask("{__name__=~\".+\"}", 4)
        })
        .collect();
    assert_eq!(results[0], results[1]);
}

#[test]
fn query_offset_looks_back_and_dates_back() {
    let mut bench = Bench::new("groups: [{name: g, query_offset: 1m, rules: [{record: a, expr: m}]}]");
    bench.set("m", 0, 1.0);
    bench.set("m", 1, 2.0);
    bench.step(1);
    assert_eq!(bench.ask("a", 0), ["{__name__=\"a\"} 1"]);
    assert_eq!(bench.ask("timestamp(a)", 1), ["{} 0"]);
}

const UP: &str = "groups: [{name: g, rules: [{alert: Down, expr: up == 0, for: 2m, keep_firing_for: 2m,
    labels: {severity: page}, annotations: {summary: '{{ $labels.i }} is {{ $value }}'}}]}]";

#[test]
fn an_alert_is_pending_fires_is_kept_and_resolves() {
    let mut bench = Bench::new(UP);
    let mut states = Vec::new();
    for (minute, value) in [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0].into_iter().enumerate() {
        let minute = minute as i64;
        bench.set("up{i=\"a\"}", minute, value);
        bench.step(minute);
        states.push(bench.state(0).as_str());
        if minute == 2 {
            let firing = r#"{__name__="ALERTS", alertname="Down", alertstate="firing", i="a", severity="page"} 1"#;
            assert_eq!(bench.ask("ALERTS", 2), [firing]);
            let labels = r#"{__name__="ALERTS_FOR_STATE", alertname="Down", i="a", severity="page"} 0"#;
            assert_eq!(bench.ask("ALERTS_FOR_STATE", 2), [labels]);
        }
    }
    assert_eq!(states, ["pending", "pending", "firing", "firing", "firing", "inactive", "inactive"]);
    assert!(bench.ask("ALERTS", 5).is_empty());
    let told = bench.world.take_notified();
    let first = &told[0];
    assert_eq!(first.labels.to_string(), r#"{alertname="Down", i="a", severity="page"}"#);
    assert_eq!(first.annotations.to_string(), r#"{summary="a is 0"}"#);
    assert_eq!((first.starts_at.0, first.ends_at.0), (120_000, 120_000 + 4 * 60_000));
    assert_eq!(first.generator_url, "http://here/graph?g0.expr=up+%3D%3D+0&g0.tab=1");
    let last = told.last().unwrap();
    assert_eq!((last.starts_at.0, last.ends_at.0), (120_000, 300_000));
}

#[test]
fn resolved_alerts_are_told_for_a_quarter_of_an_hour() {
    let mut bench = Bench::new("groups: [{name: g, rules: [{alert: A, expr: m > 0}]}]");
    bench.set("m", 0, 1.0);
    bench.step(0);
    bench.world.take_notified();
    let mut told = 0;
    for minute in 1..40 {
        bench.set("m", minute, 0.0);
        bench.step(minute);
        told += bench.world.take_notified().len();
    }
    // At once, then every second minute: the delay has to have passed.
    assert_eq!(told, 8);
}

#[test]
fn rules_that_fail_harm_no_other() {
    let mut bench = Bench::new(
        "groups: [{name: g, limit: 1, rules: [
        {record: many, expr: m}, {record: twice, expr: m, labels: {x: same}}, {alert: Many, expr: m},
        {alert: Twice, expr: m, labels: {x: same}}, {record: one, expr: sum(m)},
        {alert: Broken, expr: 'sum(m)', annotations: {a: '{{ query \"(\" }}'}}, {record: s, expr: '\"text\"'}]}]",
    );
    bench.set("m{x=\"1\"}", 0, 1.0);
    bench.set("m{x=\"2\"}", 0, 1.0);
    bench.step(0);
    let same = |what: &str| format!("vector contains metrics with the same labelset after applying {what} labels");
    assert_eq!(bench.error(0).unwrap(), "exceeded limit of 1 with 2 series");
    assert_eq!(bench.error(1).unwrap(), same("rule"));
    assert_eq!(bench.error(2).unwrap(), "exceeded limit of 1 with 2 alerts");
    assert_eq!(bench.error(3).unwrap(), same("alert"));
    assert_eq!(bench.error(4), None);
    let broken = bench.error(5).unwrap();
    assert!(broken.starts_with("error executing template __alert_Broken: "), "{broken}");
    assert_eq!(bench.error(6).unwrap(), "rule result is not a vector or scalar");
    assert_eq!(bench.ask("one", 0), ["{__name__=\"one\"} 2"]);
    // It fires all the same, and says in its text what is wrong.
    assert_eq!(bench.state(5), AlertState::Firing);
    let told = bench.world.take_notified();
    let text = told.iter().find_map(|alert| alert.annotations.get("a")).unwrap();
    assert!(text.starts_with("<error expanding template: error executing template"), "{text}");
    assert_eq!(bench.group.view().counters.failures, 6);
    assert_eq!(bench.group.view().counters.evaluations, 7);
}

/// An alert with `for: 30m` that went down after 20 minutes and is seen again `away` minutes later.
#[track_caller]
fn check_restored(away: i64, active_at_minute: i64) {
    let rules = "groups: [{name: g, rules: [{alert: A, expr: m > 0, for: 30m}]}]";
    let mut bench = Bench::new(rules);
    for minute in 0..=20 {
        bench.set("m", minute, 1.0);
        bench.step(minute);
    }
    bench.group = group(rules, false);
    let back = 20 + away;
    for minute in [back, back + 1] {
        bench.set("m", minute, 1.0);
        bench.step(minute);
    }
    let end = Timestamp((back + 1) * 60_000);
    bench.group.restore(end, &bench.world, &bench.options);
    let view = bench.group.view();
    let RuleKind::Alerting { alerts, .. } = &view.rules[0].kind else { panic!("it records") };
    assert_eq!(alerts[0].active_at, active_at_minute * 60_000, "away for {away} minutes");
    bench.step(back + 1);
    assert_eq!(bench.ask("count(ALERTS)", back + 1), ["{} 1"]);
}

#[test]
fn for_state_is_restored_after_a_restart() {
    // The time away does not count as pending.
    check_restored(5, 6);
    check_restored(30, 31);
    // Too long ago: it begins anew.
    check_restored(70, 90);
}

#[test]
fn an_alert_that_was_about_to_fire_waits_for_the_grace_period() {
    let rules = "groups: [{name: g, rules: [{alert: A, expr: m > 0, for: 15m}]}]";
    let mut bench = Bench::new(rules);
    for minute in 0..=10 {
        bench.set("m", minute, 1.0);
        bench.step(minute);
    }
    bench.group = group(rules, false);
    bench.set("m", 12, 1.0);
    bench.step(12);
    bench.group.restore(Timestamp(12 * 60_000), &bench.world, &bench.options);
    for minute in 13..=22 {
        bench.set("m", minute, 1.0);
        bench.step(minute);
        let want = if minute < 22 { AlertState::Pending } else { AlertState::Firing };
        assert_eq!(bench.state(0), want, "minute {minute}");
    }
}

#[test]
fn a_clock_that_jumps_neither_fires_nor_resolves() {
    let mut bench = Bench::new("groups: [{name: g, rules: [{alert: A, expr: vector(1), for: 10m}]}]");
    bench.step(0);
    bench.step(1);
    // An hour forward.
    bench.group.shift(3_600_000);
    bench.step(62);
    assert_eq!(bench.state(0), AlertState::Pending);
    // And back.
    bench.group.shift(-3_600_000);
    bench.step(3);
    assert_eq!(bench.state(0), AlertState::Pending);
    bench.step(10);
    assert_eq!(bench.state(0), AlertState::Firing);
}

#[test]
fn a_changed_group_keeps_what_its_rules_know() {
    let mut bench = Bench::new(
        "groups: [{name: g, rules: [{alert: A, expr: m > 0, for: 5m}, {record: gone, expr: m}, {record: kept, expr: m}]}]",
    );
    bench.set("m", 0, 1.0);
    bench.step(0);
    let changed = "groups: [{name: g, rules: [{record: kept, expr: m}, {alert: A, expr: m > 0.5, for: 1m}]}]";
    let old = std::mem::replace(&mut bench.group, group(changed, true));
    bench.group.take_over(old);
    bench.set("m", 1, 1.0);
    bench.step(1);
    assert_eq!(bench.state(1), AlertState::Firing, "pending since minute 0");
    assert!(bench.ask("gone", 1).is_empty(), "its series end");
    assert_eq!(bench.ask("kept", 1).len(), 1);
}
