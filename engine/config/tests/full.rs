//! One file with everything: it loads, its effective YAML loads to the same, and no mutation of it does harm.

use config::{Config, ConfigErrors, Discovery, Env, load};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FULL: &str = include_str!("data/full.yml");
const MUTATIONS_COUNT: u64 = 500;

fn env() -> Env {
    Env::from_pairs([("HALL", "north"), ("REPLICA", "a")])
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn full() -> Config {
    load(&data().join("full.yml"), &env()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn load_bytes(folder: &Path, bytes: &[u8]) -> Result<Config, ConfigErrors> {
    let path = folder.join("p.yml");
    std::fs::write(&path, bytes).expect("a file");
    load(&path, &env())
}

#[test]
fn everything_is_read() {
    let config = full();
    let names: Vec<&str> = config.scrape_configs.iter().map(|job| &*job.job_name).collect();
    assert_eq!(names, ["node", "app", "token", "alias", "from another file"]);
    let labels: Vec<_> = config.global.external_labels.iter().collect();
    assert_eq!(labels, [("price", "5$"), ("replica", "a"), ("site", "hall-north")]);
    assert_eq!(config.rule_files, [data().join("rules/*.yml")]);

    let app = &config.scrape_configs[1];
    assert_eq!((app.scrape_interval, app.scrape_timeout), (Duration::from_secs(90), Duration::from_secs(20)));
    assert_eq!(app.body_size_limit, 3 << 29);
    assert_eq!(app.http.basic_auth.as_ref().and_then(|auth| auth.password.as_ref()).unwrap().reveal(), "hunter2");
    let kinds: Vec<_> = app.discoveries.iter().map(Discovery::kind).collect();
    assert_eq!(kinds, ["http", "dns", "dns", "consul", "kubernetes", "docker", "nomad", "openstack"]);

    let alias = &config.scrape_configs[3];
    assert_eq!(alias.http.tls_config.ca_file, Some(data().join("tls/ca.pem")));
    assert!(alias.http.tls_config.insecure_skip_verify);
    assert_eq!(alias.http.tls_config.server_name, "alias.example");

    // Relative paths start at the folder of the file that has them.
    let Discovery::File(files) = &config.scrape_configs[4].discoveries[0] else { panic!("no files") };
    assert_eq!(files.files, [data().join("jobs/more.json")]);
    assert_eq!(config.files(), [data().join("full.yml"), data().join("jobs/more.yml")]);
}

#[test]
fn what_is_not_carried_out_is_named() {
    let names = full().unsupported_settings();
    let want = [
        "remote_read",
        "storage.tsdb.stale_series_compaction_threshold",
        "storage.tsdb.chunk_encoding",
        "storage.tsdb.retention.percentage",
        "tracing",
        "runtime",
    ];
    assert_eq!(names, want);
}

#[test]
fn no_secret_is_shown() {
    let config = full();
    let shown = [config.to_yaml(), format!("{:?}", config.scrape_configs[2]), config.scrape_configs[1].to_yaml()];
    for text in shown {
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("<secret>"), "{text}");
    }
}

#[test]
fn effective_yaml_loads_to_the_same() {
    let config = full();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let again = load_bytes(folder.path(), config.to_yaml().as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(again.to_yaml(), config.to_yaml());
    assert_eq!(again.scrape_configs[4], config.scrape_configs[4]);
}

#[test]
fn a_reload_of_the_same_files_changes_nothing() {
    assert_eq!(full(), full());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = FULL.replace("sample_limit: 50000", "sample_limit: 50001");
    let changed = load_bytes(folder.path(), text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    let same = load_bytes(folder.path(), FULL.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_ne!(changed, same);
    assert_ne!(changed.scrape_configs[0], same.scrape_configs[0]);
}

#[test]
fn scrape_config_files_are_checked_with_the_main_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("d")).expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("d/b.yml", "scrape_configs: [{job_name: x}]\nglobal: {}\n");
    write("d/a.yml", "scrape_configs: [{job_name: y, scrape_timeout: 2m}]\n");
    let text = b"scrape_config_files: [d/*.yml, none/*.yml]\nscrape_configs: [{job_name: x}]\n";
    let errors = load_bytes(folder.path(), text).expect_err("three errors").to_string();
    let lines: Vec<&str> = errors.lines().map(|line| line.rsplit_once("/d/").expect("a file in d").1).collect();
    assert_eq!(lines.len(), 3, "{errors}");
    assert!(lines[0].starts_with("a.yml:1:48: scrape_configs[0].scrape_timeout: "), "{errors}");
    assert!(errors.contains("d/b.yml:1:29: scrape_configs[0].job_name: found multiple"), "{errors}");
    assert!(lines[2].starts_with("b.yml:2:1: global: field global not found in a scrape config file"), "{errors}");
}

/// What a file below `configs` is by its place and name is what it can be read as.
#[test]
fn every_example_loads() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")];
    let env = Env::from_pairs([("MEMBER", "scrape-1")]);
    let mut loaded = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let outcome = match name.as_str() {
                // Of tests of rules, of Alertmanager and of Grafana.
                "guardrails_test.yml" | "operations_test.yml" | "alertmanager.yml" => continue,
                _ if folder.ends_with("dashboards") => continue,
                "members.yml" | "nodes.json" => {
                    let text = std::fs::read_to_string(&path).expect("a file");
                    config::parse_target_groups(&path, &text).map(drop)
                }
                _ if folder.ends_with("rules") => config::load_rules(&path, config::NameScheme::Utf8).map(drop),
                _ => load(&path, &env).map(drop),
            };
            outcome.unwrap_or_else(|errors| panic!("{errors}"));
            loaded += 1;
        }
    }
    assert!(loaded >= 15, "{loaded} examples");
}

/// SplitMix64: a seed gives the same mutations everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % bound.max(1) as u64).expect("below a usize")
    }
}

/// One to three changes of the kinds that editors, merges and half-written files make.
fn mutate(text: &[u8], random: &mut Random) -> Vec<u8> {
    const SCRAPS: &[&[u8]] = &[
        b": ", b"- ", b"\n", b"  ", b"{", b"]", b"&a ", b"*a", b"null", b"\"", b"'", b"|", b"0", b"-1", b"\xff", b"\t",
        b"$", b"<<: ",
    ];
    let mut text = text.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(text.len());
        let line_start = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let line_end = text[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |length| at + length + 1);
        match random.below(7) {
            0 => drop(text.remove(at)),
            1 => text[at] = u8::try_from(random.below(256)).expect("a byte"),
            2 => drop(text.drain(line_start..line_end)),
            3 => {
                let line = text[line_start..line_end].to_vec();
                text.splice(line_end..line_end, line);
            }
            4 => drop(text.splice(at..at, SCRAPS[random.below(SCRAPS.len())].iter().copied())),
            5 => drop(text.splice(line_start..line_start, *b"  ")),
            _ => {
                let value = text[line_start..line_end].iter().position(|b| *b == b':');
                let from = value.map_or(at, |at| line_start + at + 1);
                let scrap = SCRAPS[random.below(SCRAPS.len())];
                text.splice(from..line_end.max(from + 1) - 1, b" ".iter().chain(scrap).copied());
            }
        }
        if text.is_empty() {
            break;
        }
    }
    text
}

#[test]
fn no_mutation_does_harm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut refused_count = 0;
    for seed in 0..MUTATIONS_COUNT {
        let text = mutate(FULL.as_bytes(), &mut Random(seed));
        let lines_count = text.iter().filter(|b| **b == b'\n').count() + 1;
        match load_bytes(folder.path(), &text) {
            Ok(config) => {
                let yaml = config.to_yaml();
                let again = load_bytes(folder.path(), yaml.as_bytes())
                    .unwrap_or_else(|errors| panic!("seed {seed}: {errors}\n{yaml}"));
                assert_eq!(again.to_yaml(), yaml, "seed {seed}");
            }
            Err(errors) => {
                refused_count += 1;
                assert!(errors.iter().count() > 0, "seed {seed}");
                for error in errors.iter() {
                    let is_place = (1..=lines_count + 1).contains(&error.line) && error.column > 0;
                    assert!(is_place, "seed {seed} of {lines_count} lines: {error}");
                    assert!(!error.message.is_empty(), "seed {seed}");
                    assert!(!error.message.contains("hunter2"), "seed {seed}: {error}");
                }
            }
        }
    }
    assert!(refused_count > MUTATIONS_COUNT / 4, "only {refused_count} of {MUTATIONS_COUNT} mutations were refused");
}
