//! Rule files and files of unit tests: good ones, and what is said of bad ones.

use relabel::NameScheme;
use rules::{Settings, compile, duplicates, unit};
use series::Labels;
use std::path::Path;
use std::time::Duration;

fn settings() -> Settings {
    Settings {
        interval: Duration::from_secs(60),
        query_offset: Duration::from_secs(5),
        external_labels: Labels::empty(),
        external_url: String::new(),
        parse: promql::ParseOptions::default(),
        scheme: NameScheme::Utf8,
    }
}

fn load(text: &str, scheme: NameScheme) -> Result<Vec<rules::GroupSpec>, String> {
    let file = config::parse_rules(Path::new("r.yml"), text, scheme).map_err(|errors| errors.to_string())?;
    compile(&file, &settings()).map_err(|errors| errors.to_string())
}

#[test]
fn groups_inherit_and_rules_override() {
    let groups = load(
        "groups:\n- name: a\n  rules: []\n- name: b\n  interval: 15s\n  query_offset: 0s\n  limit: 3\n  labels: {x: g, y: g}\n  rules:\n  - record: r\n    expr: sum  by(a)(m)\n    labels: {x: own}\n",
        NameScheme::Utf8,
    )
    .unwrap();
    assert_eq!((groups[0].interval, groups[0].query_offset), (Duration::from_secs(60), Duration::from_secs(5)));
    let group = &groups[1];
    assert_eq!((group.interval, group.query_offset, group.limit), (Duration::from_secs(15), Duration::ZERO, 3));
    assert_eq!(group.rules[0].expr, "sum by (a) (m)");
    assert_eq!(group.rules[0].labels.to_string(), r#"{x="own", y="g"}"#);
    assert!(load("", NameScheme::Utf8).unwrap().is_empty());
    assert!(load("groups:\n", NameScheme::Utf8).unwrap().is_empty());
}

#[track_caller]
fn check_bad(text: &str, want: &str) {
    let error = load(text, NameScheme::Utf8).map(|_| ()).unwrap_err();
    assert!(error.contains(want), "{text}\n{error}");
}

#[test]
fn mistakes_have_a_place() {
    let rule = |rule: &str| format!("groups:\n- name: g\n  rules:\n  - {rule}\n");
    check_bad(
        &rule("{record: r, expr: 'sum('}"),
        "r.yml:4:23: group \"g\", rule 1, \"r\": could not parse expression: 1:5: parse error",
    );
    check_bad(&rule("{record: r, alert: a, expr: m}"), "only one of 'record' and 'alert' must be set");
    check_bad(&rule("{expr: m}"), "one of 'record' or 'alert' must be set");
    check_bad(&rule("{record: r}"), "field 'expr' must be set in rule");
    check_bad(&rule("{record: r, expr: m, for: 1m}"), "invalid field 'for' in recording rule");
    check_bad(&rule("{record: r, expr: m, keep_firing_for: 1m}"), "invalid field 'keep_firing_for' in recording rule");
    check_bad(&rule("{record: r, expr: m, annotations: {a: b}}"), "invalid field 'annotations' in recording rule");
    check_bad(&rule("{record: 'r{a=\"b\"}', expr: m}"), "braces present in the recording rule name");
    check_bad(&rule("{record: r, expr: m, labels: {__name__: b}}"), "invalid label name: __name__");
    check_bad(
        &rule("{alert: a, expr: m, labels: {x: '{{ $y }}'}}"),
        "label \"x\": error parsing template __alert_a: template: __alert_a:1:",
    );
    check_bad(
        &rule("{alert: a, expr: m, annotations: {x: '{{ nothing }}'}}"),
        "annotation \"x\": error parsing template",
    );
    check_bad(
        &rule("{alert: a, expr: m, fro: 1m}"),
        "r.yml:4:25: groups[0].rules[0].fro: field fro not found in a rule",
    );
    check_bad("groups: [{name: g}, {name: g}]", "groupname: \"g\" is repeated in the same file");
    check_bad("groups: [{rules: []}]", "Groupname must not be empty");
    check_bad("groups: [{name: g, interval: x}]", "not a valid duration string");
    check_bad("group: []", "field group not found in a rule file; did you mean groups?");
    check_bad("groups: {}", "cannot unmarshal !!map into a list of groups");
    assert!(load(&rule("{record: 'a.b', expr: m}"), NameScheme::Utf8).is_ok());
    assert!(load(&rule("{record: 'a.b', expr: m}"), NameScheme::Legacy).is_err());
}

#[test]
fn duplicates_are_found() {
    let groups = load(
        "groups:\n- name: g\n  rules:\n  - {record: r, expr: a}\n  - {record: r, expr: b}\n  - {record: r, expr: b, labels: {x: y}}\n",
        NameScheme::Utf8,
    );
    let found = duplicates(&groups.unwrap());
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name.as_str(), found[0].labels.is_empty()), ("r", true));
}

#[test]
fn mutated_files_are_read_or_refused() {
    let seed = "groups:\n- name: g\n  limit: 1\n  rules:\n  - alert: A\n    expr: up == 0\n    for: 5m\n    labels: {s: '{{ $value }}'}\n";
    let mut state = 3_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    for _ in 0..2000 {
        let mut letters: Vec<char> = seed.chars().collect();
        for _ in 0..=random(4) {
            let at = random(letters.len());
            match random(3) {
                0 => drop(letters.remove(at)),
                1 => letters.insert(at, ['{', '}', '-', ':', '\n', '\'', 'é'][random(7)]),
                _ => letters.swap(at, 0),
            }
        }
        let _ = load(&letters.into_iter().collect::<String>(), NameScheme::Utf8);
    }
}

/// Runs a file of tests beside a file of rules; gives the failures.
fn run(rules: &str, tests: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yml"), rules).unwrap();
    std::fs::write(folder.path().join("test.yml"), format!("rule_files: [rules.yml]\n{tests}")).unwrap();
    unit::run_file(&folder.path().join("test.yml"), &settings(), |_| true)
}

const RULES: &str = "groups:
- name: second
  rules: [{record: twice, expr: once * 2}]
- name: first
  rules:
  - {record: once, expr: sum(m)}
  - {alert: High, expr: m > 5, for: 2m, labels: {c: '{{ $externalLabels.c }}'}, annotations: {u: '{{ $externalURL }}', v: '{{ $value }}'}}
";

#[test]
fn unit_tests_pass_and_fail_as_promtool_has_it() {
    let good = "group_eval_order: [first, second]
tests:
- interval: 1m
  name: n
  start_timestamp: 2021-01-01T00:00:00Z
  external_labels: {c: x}
  external_url: http://u
  input_series: [{series: 'm{a=\"1\"}', values: '1+1x10'}, {series: 'h', values: '{{count:2 sum:3}}x10'}]
  alert_rule_test:
  - {eval_time: 6m, alertname: High}
  - eval_time: 7m
    alertname: High
    exp_alerts: [{exp_labels: {a: \"1\", c: x}, exp_annotations: {u: http://u, v: '8'}}]
  promql_expr_test:
  - {expr: twice, eval_time: 3m, exp_samples: [{labels: twice, value: 8}]}
  - {expr: time(), eval_time: 1m, exp_samples: [{value: 1.60945926e+09}]}
  - {expr: 'm / 0', eval_time: 1m, exp_samples: [{labels: '{a=\"1\"}', value: .inf}]}
  - {expr: h, eval_time: 1m, exp_samples: [{labels: h, histogram: '{{count:2 sum:3}}'}]}
  - {expr: nothing, eval_time: 1m}
";
    assert_eq!(run(RULES, good), Vec::<String>::new());
    let bad = good.replace("value: 8}", "value: 9}").replace("eval_time: 6m, alertname", "eval_time: 8m, alertname");
    let failures = run(RULES, &bad);
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(
        failures[0].starts_with("name: n,\n    alertname: High, time: 8m, \n        exp:[], \n        got:["),
        "{}",
        failures[0]
    );
    assert!(failures[1].contains("expr: \"twice\", time: 3m"), "{}", failures[1]);
}

#[test]
fn bad_unit_tests_are_told() {
    for (tests, want) in [
        ("tests: [{input_series: [{series: 'm{', values: '1'}]}]", "series"),
        ("tests: [{input_series: [{series: m, values: '1x'}]}]", "values of m"),
        ("tests: [{input_series: [{series: m, values: '1x999999999'}]}]", "more than"),
        ("tests: [{start_timestamp: today}]", "neither Unix seconds nor RFC 3339"),
        ("group_eval_order: [a, a]", "group name repeated in evaluation order: a"),
        ("test: []", "field test not found in a test file; did you mean tests?"),
        ("tests: [{promql_expr_test: [{expr: 'sum(', eval_time: 1m}]}]", "parse error"),
        ("evaluation_interval: 1ms\ntests: [{promql_expr_test: [{expr: m, eval_time: 1000y}]}]", ""),
    ] {
        let failures = run("", tests);
        assert!(!failures.is_empty() && failures[0].contains(want), "{tests}: {failures:?}");
    }
}
