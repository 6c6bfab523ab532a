//! Rules in the whole program: recorded and alerting, reloaded, restored, checked, tested.

mod support;

use std::process::Command;
use support::{FakeTarget, Ringscrape, encode, job, root, until};

const FAST: &[&str] = &["--rules.alert.for-grace-period=1s"];

fn config(target: &FakeTarget) -> String {
    format!(
        "global: {{evaluation_interval: 200ms, external_labels: {{cluster: c}}}}\nrule_files: [rules/*.yml]\nscrape_configs:\n{}",
        job("j", &[target.address], "")
    )
}

/// A server with these rules in `rules/a.yml`.
fn start(target: &FakeTarget, rules: &str) -> Ringscrape {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("rules")).unwrap();
    std::fs::write(folder.path().join("rules/a.yml"), rules).unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), config(target)).unwrap();
    let flags = [FAST, &["--web.enable-lifecycle"]].concat();
    Ringscrape::start_in(folder, &flags)
}

/// The values of an instant query.
fn values(server: &Ringscrape, query: &str) -> Vec<String> {
    let data = server.api(&format!("/api/v1/query?query={}", encode(query)));
    let result = data["result"].as_array().unwrap();
    result.iter().map(|one| one["value"][1].as_str().unwrap().to_owned()).collect()
}

const RULES: &str = "groups:
- name: first
  rules:
  - {record: twice, expr: m * 2, labels: {kind: own}}
  - {record: fourfold, expr: twice * 2}
  - {record: other, expr: count(m)}
- name: second
  rules:
  - {alert: High, expr: m > 5, labels: {severity: page}, annotations: {text: '{{ $value }} of {{ $externalLabels.cluster }}'}}
  - {alert: Later, expr: m > 5, for: 1h}
";

#[test]
fn rules_record_and_alert() {
    let target = FakeTarget::saying("m 1\n");
    let server = start(&target, RULES);
    until("recorded", || (values(&server, "fourfold{kind=\"own\"}") == ["4"]).then_some(()));
    assert!(values(&server, "ALERTS").is_empty());
    target.now_says("m 7\n");
    until("firing", || (values(&server, "ALERTS{alertname=\"High\",alertstate=\"firing\"}") == ["1"]).then_some(()));
    until("pending", || (values(&server, "ALERTS{alertname=\"Later\",alertstate=\"pending\"}") == ["1"]).then_some(()));

    let data = server.api("/api/v1/rules?type=alert&rule_name[]=High");
    let group = &data["groups"][0];
    assert_eq!((group["name"].as_str(), group["interval"].as_f64()), (Some("second"), Some(0.2)));
    let rule = &group["rules"][0];
    assert_eq!(rule["type"], "alerting");
    assert_eq!(rule["state"], "firing");
    assert_eq!(rule["query"], "m > 5");
    assert_eq!(rule["health"], "ok");
    let alert = &rule["alerts"][0];
    assert_eq!(alert["value"], "7e+00");
    assert_eq!(alert["annotations"]["text"], "7 of c");
    assert_eq!(alert["labels"]["severity"], "page");
    assert_eq!(server.api("/api/v1/alerts")["alerts"].as_array().unwrap().len(), 2);
    let names = |query: &str| -> Vec<String> {
        let data = server.api(&format!("/api/v1/rules?{query}"));
        let groups = data["groups"].as_array().unwrap().clone();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone());
        rules.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("type=record"), ["twice", "fourfold", "other"]);
    assert_eq!(names(&format!("match[]={}", encode("{severity=\"page\"}"))), ["High"]);
    assert_eq!(names("rule_group[]=second"), ["High", "Later"]);
    assert!(names("file[]=none").is_empty());
    let page = server.api("/api/v1/rules?group_limit=1");
    assert_eq!(page["groups"][0]["name"], "first");
    let token = page["groupNextToken"].as_str().unwrap();
    let page = server.api(&format!("/api/v1/rules?group_limit=1&group_next_token={token}"));
    assert_eq!(page["groups"][0]["name"], "second");
    assert!(page.get("groupNextToken").is_none());
    for bad in ["type=x", "group_limit=-1", "group_next_token=x", "group_limit=1&group_next_token=x", "match[]=("] {
        assert_eq!(server.get(&format!("/api/v1/rules?{bad}")).status, 400, "{bad}");
    }
    let key = format!("{};first", server.path("rules/a.yml").display());
    let count = |name: &str| server.metric(&format!("prometheus_rule_{name}{{rule_group=\"{key}\"}}"));
    assert!(count("evaluations_total").unwrap() >= 3.0);
    assert_eq!(count("group_rules"), Some(3.0));

    target.now_says("other 1\n");
    until("recorded series end", || values(&server, "twice or fourfold or ALERTS").is_empty().then_some(()));
}

#[test]
fn a_reload_takes_all_rule_files_or_none() {
    let target = FakeTarget::saying("m 1\n");
    let server = start(&target, "groups: [{name: g, rules: [{record: old, expr: m}, {record: kept, expr: m}]}]");
    until("recorded", || (values(&server, "old") == ["1"]).then_some(()));
    std::fs::write(server.path("rules/b.yml"), "groups:\n- name: g\n  rules:\n  - record: r\n    expr: sum(\n")
        .unwrap();
    let answer = server.post("/-/reload");
    assert_eq!(answer.status, 500);
    assert!(
        answer.body.contains("b.yml:5:11: group \"g\", rule 1, \"r\": could not parse expression"),
        "{}",
        answer.body
    );
    assert_eq!(values(&server, "old"), ["1"]);
    std::fs::remove_file(server.path("rules/b.yml")).unwrap();
    std::fs::write(
        server.path("rules/a.yml"),
        "groups: [{name: g, rules: [{record: new, expr: m}, {record: kept, expr: m}]}]",
    )
    .unwrap();
    assert_eq!(server.post("/-/reload").status, 200);
    until("the new rule", || (values(&server, "new") == ["1"]).then_some(()));
    until("the old one's series end", || values(&server, "old").is_empty().then_some(()));
    assert_eq!(values(&server, "kept"), ["1"]);
    std::fs::remove_file(server.path("rules/a.yml")).unwrap();
    assert_eq!(server.post("/-/reload").status, 200);
    until("all series end", || values(&server, "new or kept").is_empty().then_some(()));
}

#[test]
fn for_state_survives_a_kill() {
    let target = FakeTarget::saying("m 1\n");
    let mut server = start(&target, "groups: [{name: g, rules: [{alert: A, expr: m > 0, for: 1h}]}]");
    let number = |server: &Ringscrape, query: &str| values(server, query).first()?.parse::<f64>().ok();
    // So long that a new beginning would show.
    let age = "timestamp(ALERTS_FOR_STATE) - ALERTS_FOR_STATE";
    until("pending for a while", || number(&server, age).filter(|age| *age >= 10.0));
    server.restart(9, &[FAST, &["--web.enable-lifecycle"]].concat());
    let restarted = until("the log is read", || {
        let answer = server.get("/api/v1/query?query=time()");
        (answer.status == 200).then(|| number(&server, "vector(time())"))?
    });
    until("written again", || number(&server, "timestamp(ALERTS_FOR_STATE)").filter(|at| *at > restarted));
    assert!(number(&server, age).unwrap() >= 10.0, "it began anew");
}

fn tool(program: &str, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program).args(arguments).current_dir(root()).output().expect("make test-deps");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

/// Runs ringscrape and promtool on the same files; both give this exit code.
#[track_caller]
fn check_tools(arguments: &[&str], want: i32) -> String {
    let (code, text) = tool(env!("CARGO_BIN_EXE_ringscrape"), arguments);
    let (theirs, their_text) = tool("promtool", arguments);
    assert_eq!((code, theirs), (want, want), "{arguments:?}\n{text}\n{their_text}");
    text
}

#[test]
fn guardrails_hold_here_and_in_promtool() {
    let text = check_tools(&["check", "rules", "configs/rules/guardrails.yml"], 0);
    assert!(text.contains("SUCCESS: 13 rules found"), "{text}");
    check_tools(&["test", "rules", "configs/rules/guardrails_test.yml"], 0);
    let text = check_tools(&["check", "rules", "configs/rules/operations.yml"], 0);
    assert!(text.contains("SUCCESS: 18 rules found"), "{text}");
    check_tools(&["test", "rules", "configs/rules/operations_test.yml"], 0);
}

/// Tools end quietly where nobody reads what they say.
#[test]
fn verdicts_may_be_read_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("empty.yml");
    std::fs::write(&file, "").unwrap();
    for tool in [["check", "rules"], ["check", "config"], ["test", "rules"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringscrape"));
        let ended = command.args(tool).arg(&file).stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let ended = ended.wait_with_output().unwrap();
        assert!(ended.status.success() && ended.stderr.is_empty(), "{tool:?}: {ended:?}");
    }
}

#[test]
fn tools_judge_as_promtool_does() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let rules = write(
        "rules.yml",
        "groups: [{name: g, rules: [{alert: A, expr: m > 1, for: 1m, labels: {l: '{{ $value }}'}}]}]",
    );
    let bad = write("bad.yml", "groups: [{name: g, rules: [{record: r, expr: 'sum('}]}]");
    let unknown = write("unknown.yml", "groups: [{name: g, rules: [{record: r, expr: m, fro: 1m}]}]");
    let twice = write("twice.yml", "groups: [{name: g, rules: [{record: r, expr: m}, {record: r, expr: n}]}]");
    check_tools(&["check", "rules", &rules], 0);
    assert!(check_tools(&["check", "rules", &bad], 1).contains("bad.yml:1:"));
    check_tools(&["check", "rules", &unknown], 1);
    assert!(check_tools(&["check", "rules", &twice], 0).contains("1 duplicate rule(s) found."));
    check_tools(&["check", "rules", "--lint-fatal", &twice], 3);
    let case = |value: &str, alerts: &str| {
        format!(
            "rule_files: [rules.yml]\ntests: [{{interval: 1m, input_series: [{{series: m, values: '{value}'}}], alert_rule_test: [{{eval_time: 3m, alertname: A, exp_alerts: [{alerts}]}}]}}]"
        )
    };
    let good = write("good_test.yml", &case("2x5", "{exp_labels: {l: '2'}}"));
    let fails = write("fails_test.yml", &case("2x5", ""));
    let none = write("none_test.yml", &case("0 1 _ 1 stale", ""));
    check_tools(&["test", "rules", &good], 0);
    check_tools(&["test", "rules", &none], 0);
    assert!(check_tools(&["test", "rules", &fails], 1).contains("alertname: A, time: 3m"));
    let prometheus_yml = write("prometheus.yml", "rule_files: [bad.yml]");
    assert!(check_tools(&["check", "config", &prometheus_yml], 1).contains("could not parse expression"));
}

#[test]
fn evaluations_of_a_group_are_remembered() {
    let target = FakeTarget::saying("m 1\n");
    let server = start(&target, RULES);
    let file = server.path("rules/a.yml").display().to_string();
    let path = |name: &str| format!("/api/v1/ringscrape/rules/evaluations?file={}&name={name}", encode(&file));
    let at = |data: &serde_json::Value| -> Vec<i64> {
        let all = data["evaluations"].as_array().unwrap();
        assert!(all.iter().all(|one| one[1].as_f64().unwrap() > 0.0), "{data}");
        all.iter().map(|one| one[0].as_i64().unwrap()).collect()
    };
    let three = until("three evaluations", || Some(server.api(&path("first"))).filter(|data| at(data).len() >= 3));
    assert!(at(&three).is_sorted_by(|one, next| one < next), "{three}");
    assert_eq!(three["interval"], 0.2);
    // They stay when the group is changed.
    std::fs::write(&file, RULES.replace("m * 2", "m * 3")).unwrap();
    assert_eq!(server.post("/-/reload").status, 200);
    assert_eq!(at(&server.api(&path("first")))[..3], at(&three)[..3]);
    assert_eq!(server.get(&path("none")).status, 404);
    assert_eq!(server.get("/api/v1/ringscrape/rules/evaluations").status, 404);
}
