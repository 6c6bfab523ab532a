//! Durations, sizes, patterns and target groups: what is read and how it is written back.

use config::{format_duration, format_size, parse_duration, parse_size, parse_target_groups};
use std::path::Path;
use std::time::Duration;

/// `written` is the duration as it is formatted, or empty if the text is refused.
#[track_caller]
fn check_duration(text: &str, written: &str) {
    assert_eq!(parse_duration(text).map(format_duration).unwrap_or_default(), written, "{text:?}");
}

#[track_caller]
fn check_size(text: &str, bytes: Option<u64>, written: &str) {
    let size = parse_size(text).ok();
    assert_eq!(size, bytes, "{text:?}");
    assert_eq!(size.map(format_size).unwrap_or_default(), written, "{text:?}");
}

#[test]
fn durations() {
    let cases = [
        ("0", "0s"),
        ("0s", "0s"),
        ("15s", "15s"),
        ("90s", "1m30s"),
        ("1m30s", "1m30s"),
        ("1500ms", "1s500ms"),
        ("24h", "1d"),
        ("25h", "1d1h"),
        ("7d", "1w"),
        ("8d", "8d"),
        ("365d", "1y"),
        ("1y2w3d4h5m6s7ms", "382d4h5m6s7ms"),
        ("292y", "292y"),
        ("293y", ""),
        ("99999999999999999999s", ""),
        ("", ""),
        ("15", ""),
        ("s", ""),
        ("1s1s", ""),
        ("1s1m", ""),
        ("1.5s", ""),
        ("-1s", ""),
        (" 1s", ""),
        ("1s ", ""),
        ("1S", ""),
        ("1µs", ""),
    ];
    for (text, written) in cases {
        check_duration(text, written);
    }
    assert_eq!(parse_duration("1y").ok(), Some(Duration::from_secs(365 * 86_400)));
}

#[test]
fn sizes() {
    check_size("0", Some(0), "0B");
    check_size("0B", Some(0), "0B");
    check_size("1KB", Some(1024), "1KiB");
    check_size("1KiB", Some(1024), "1KiB");
    check_size("512MB", Some(512 << 20), "512MiB");
    check_size("1.5GB", Some(3 << 29), "1GiB512MiB");
    check_size("1MB512KB", Some(3 << 19), "1MiB512KiB");
    check_size("1EB", Some(1 << 60), "1EiB");
    for bad in ["", "5", "MB", "1mb", "1 MB", "-1MB", "8EB", "9999EB", "1..5MB", "1XB", "1K"] {
        check_size(bad, None, "");
    }
}

#[test]
fn target_groups_are_read_from_yaml_and_json() {
    let check = |text: &str, want: &str| {
        let got = match parse_target_groups(Path::new("t.yml"), text) {
            Ok(groups) => format!("{:?}", groups.iter().map(|g| (&g.targets, g.labels.len())).collect::<Vec<_>>()),
            Err(errors) => errors.to_string(),
        };
        assert!(got.starts_with(want), "{got}\nwant {want}");
    };
    check("- targets: [a:1, b:2]\n  labels: {x: y}\n", "[([\"a:1\", \"b:2\"], 1)]");
    check("[{\"targets\": [\"a:1\"], \"labels\": {\"x\": \"y\"}},\n\t{\"targets\": []}]", "[([\"a:1\"], 1), ([], 0)]");
    check("", "[]");
    check("[]", "[]");
    check(
        "- targets: [a:1]\n  label: {}\n",
        "t.yml:2:3: [0].label: field label not found in static_config; did you mean labels?",
    );
    check("- targets: [a", "t.yml:2:1: this is not YAML");
}

#[test]
fn patterns_list_what_exists() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["a1.yml", "a2.yml", "b.yml", "c.json", ".d.yml", "[x].yml"] {
        std::fs::write(folder.path().join(name), "").expect("a file");
    }
    let check = |pattern: &str, want: &[&str]| {
        let found = config::glob(&folder.path().join(pattern));
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, want, "{pattern}");
    };
    check("*.yml", &[".d.yml", "[x].yml", "a1.yml", "a2.yml", "b.yml"]);
    check("a*.yml", &["a1.yml", "a2.yml"]);
    check("a?.yml", &["a1.yml", "a2.yml"]);
    check("[ab]*", &["a1.yml", "a2.yml", "b.yml"]);
    check("[^a.[]*", &["b.yml", "c.json"]);
    check("a[2-9].y*l", &["a2.yml"]);
    check("\\[x].yml", &["[x].yml"]);
    check("*.*n", &["c.json"]);
    check("c.json", &["c.json"]);
    check("none.yml", &[]);
    check("[", &[]);
}
