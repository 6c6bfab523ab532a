//! Relabelling of targets: ten rules such as a fleet of machines has, over a thousand targets of sixteen labels.
//!
//! To meet: 50,000 targets in under one CPU-second, which is 20 us per target or 2 us per rule. Copying the label sets
//! is not part of the number; building the final set is.
//!
//!     cargo bench -p ringscrape-perf --bench relabel

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use relabel::{NameScheme, Program, RuleSpec};
use series::{Labels, LabelsBuilder, Regex};
use std::hint::black_box;

const TARGETS: usize = 1000;

fn rule(action: &str, sources: &[&str], regex: Option<&str>, target: &str, replacement: Option<&str>) -> RuleSpec {
    RuleSpec {
        source_labels: sources.iter().map(|name| (*name).to_owned()).collect(),
        separator: None,
        target_label: target.to_owned(),
        regex: regex.map(str::to_owned),
        modulus: if action == "hashmod" { 4 } else { 0 },
        replacement: replacement.map(str::to_owned),
        action: Some(action.to_owned()),
    }
}

fn ten_rules() -> Program {
    let address_and_port = Some("([^:]+)(?::\\d+)?;(\\d+)");
    let rules = [
        rule("keep", &["__meta_scrape"], Some("true"), "", None),
        rule("drop", &["__meta_state"], Some("broken|retired|spare"), "", None),
        rule("replace", &["__meta_path"], Some("(.+)"), "__metrics_path__", None),
        rule("replace", &["__address__", "__meta_port"], address_and_port, "__address__", Some("$1:$2")),
        rule("labelmap", &[], Some("__meta_label_(.+)"), "", None),
        rule("replace", &["__address__"], Some("([^:]+)(:[0-9]+)?"), "instance", Some("${1}")),
        rule("replace", &["__meta_datacenter"], None, "datacenter", None),
        rule("replace", &[], None, "environment", Some("production")),
        rule("hashmod", &["__address__"], None, "__tmp_shard", None),
        rule("keep", &["__tmp_shard"], Some("[0-3]"), "", None),
    ];
    Program::compile(rules, NameScheme::Utf8).expect("valid rules")
}

fn target(i: usize) -> LabelsBuilder {
    let (address, host) = (format!("node-{i:05}.example:8080"), format!("node-{i:05}"));
    let (rack, datacenter) = (format!("r{}", i % 40), format!("dc{}", i % 3));
    Labels::from_pairs([
        ("__address__", &*address),
        ("__meta_datacenter", &*datacenter),
        ("__meta_filepath", "/etc/targets/nodes.json"),
        ("__meta_label_host", &*host),
        ("__meta_label_os", "linux"),
        ("__meta_label_rack", &*rack),
        ("__meta_label_team", "storage"),
        ("__meta_path", "/metrics"),
        ("__meta_port", "9100"),
        ("__meta_scrape", "true"),
        ("__meta_state", "serving"),
        ("__metrics_path__", "/metrics"),
        ("__scheme__", "http"),
        ("__scrape_interval__", "15s"),
        ("__scrape_timeout__", "10s"),
        ("job", "node"),
    ])
    .to_builder()
}

fn targets(c: &mut Criterion) {
    let program = ten_rules();
    let targets: Vec<LabelsBuilder> = (0..TARGETS).map(target).collect();
    let mut group = c.benchmark_group("relabel");
    group.throughput(Throughput::Elements(TARGETS as u64));
    group.bench_function("ten_rules_1000_targets", |b| {
        let run = |targets: &mut Vec<LabelsBuilder>| {
            for target in targets {
                assert!(program.apply(target).is_keep());
                black_box(target.build());
            }
        };
        b.iter_batched_ref(|| targets.clone(), run, BatchSize::LargeInput);
    });
    group.finish();
}

/// One match each, by text alone and by the engine.
fn regexes(c: &mut Criterion) {
    let mut group = c.benchmark_group("regex");
    for (name, source) in [
        ("word", "node-00017.example:8080"),
        ("words", "broken|node-00017.example:8080|spare"),
        ("prefix", "node-.*"),
        ("contains", ".*example.*"),
        ("engine", "node-\\d+\\.example:(\\d+)"),
    ] {
        let regex = Regex::new(source).expect("a valid expression");
        group.bench_function(name, |b| b.iter(|| regex.is_match(black_box("node-00017.example:8080"))));
    }
    group.finish();
}

criterion_group!(benches, targets, regexes);
criterion_main!(benches);
