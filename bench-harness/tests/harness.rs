//! The harness as a program: a whole comparison, and a whole check of agreement, with Debian's Prometheus.
//!
//! Nothing here looks at how much time anything took.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCENARIO: &str = "\
about = \"A few small targets.\"
targets = 5
samples = 200
interval_s = 1
warm_up_s = 2
duration_s = 4
rounds = 1
repeats = 1
federate = '{job=\"farm\"}'

[[query]]
name = \"count\"
expr = 'count({job=\"farm\"})'
";

fn harness(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_harness")).args(arguments).output().expect("starting the harness");
    assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

fn contenders() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contenders")
}

/// The farm has to be there: the harness looks for it beside itself.
fn farm() {
    assert!(Path::new(env!("CARGO_BIN_EXE_farm")).with_file_name("harness").exists());
}

#[test]
fn a_whole_comparison() {
    farm();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("tiny.toml"), SCENARIO).unwrap();
    let contenders = contenders();
    std::fs::create_dir(path("contenders")).unwrap();
    for name in ["prometheus.toml", "prometheus-agent.toml"] {
        std::fs::copy(contenders.join(name), Path::new(&path("contenders")).join(name)).unwrap();
    }
    let absent = "title = \"Absent\"\nprogram = \"no-such-program\"\nready = \"/\"\ncounter = \"c\"\narguments = []\n";
    std::fs::write(path("contenders/absent.toml"), absent).unwrap();
    let output = harness(&[
        "compare",
        &path("tiny.toml"),
        "--contenders",
        &path("contenders"),
        "--results",
        &path("results"),
        "--work",
        &path("work"),
        "--base",
        "prometheus",
    ]);
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(progress.contains("round 1/1, Prometheus, agent: measuring for 4 s"), "{progress}");
    let files: Vec<PathBuf> = std::fs::read_dir(path("results")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let json =
        files.iter().find(|file| file.extension().is_some_and(|ending| ending == "json")).expect("a results file");
    let results: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(results["skipped"][0]["title"], "Absent");
    for contender in results["contenders"].as_array().unwrap() {
        let round = &contender["rounds"][0]["measured"];
        assert_eq!(round["acceptance"]["fault"], serde_json::Value::Null, "{contender}\n{progress}");
        assert!(round["acceptance"]["counted"].as_u64().unwrap() >= 5 * 200 * 4, "{contender}");
        assert_eq!(round["series"], 1_000, "{contender}");
        assert!(round["rss_bytes"].as_u64().unwrap() > 1_000_000, "{contender}");
        assert_eq!(round["restart"]["fault"], serde_json::Value::Null, "{contender}");
        if contender["name"] == "prometheus" {
            assert_eq!(round["queries"][0]["fault"], serde_json::Value::Null, "{contender}");
            assert!(round["federation"]["answer_bytes"].as_u64().unwrap() > 10_000, "{contender}");
        }
    }
    // The report can be made again from the file, and is what was printed.
    let report = String::from_utf8(output.stdout).unwrap();
    let again = harness(&["report", &json.to_string_lossy()]).stdout;
    assert_eq!(report, String::from_utf8(again).unwrap());
    assert!(report.contains("## Ratios to Prometheus"), "{report}");
    harness(&["picture", &json.to_string_lossy(), "--out", &path("ratios.svg")]);
    assert!(std::fs::read_to_string(path("ratios.svg")).unwrap().contains("memory per series"));
    // Nothing is left of the runs.
    assert_eq!(std::fs::read_dir(path("work")).unwrap().count(), 0);
}

#[test]
fn blocks_that_one_wrote_are_answered_from_by_another() {
    farm();
    let contenders = contenders();
    let contenders = contenders.to_string_lossy();
    let arguments = ["agree", "blocks", "--scraper", "prometheus", "--seconds", "6", "--contenders", &contenders];
    let output = harness(&arguments);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("answers agree"), "{said}");
}
