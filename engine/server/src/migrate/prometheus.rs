//! A server or agent of Prometheus: flags, features, configuration and data folder.
//!
//! Invariant: every flag and feature of Prometheus that changes nothing here has a note with the reason.

use super::Verdict::{Different, Missing, Refused, Same};
use super::{Note, Plan, Report, Setup, examine_config};
use crate::cli::{Cli, CliError};
#[cfg(test)]
use crate::flags;
use std::path::{Path, PathBuf};

const LOG: &str = "the log has a format and files of its own (docs/format)";
const NO_GO: &str =
    "settings of Go's runtime; cores are chosen by --shards, and queries are bounded by --query.max-memory-total";
const NO_CHECKPOINT: &str = "there are no checkpoints: a log file goes when every endpoint has it";
const NO_CONSOLES: &str = "there are no consoles and no files of users";
const START_TIMES: &str = "start times are not invented where a target gives none";
const OWN_BLOCKS: &str = "blocks are written and joined in a way of their own; Prometheus opens them";

/// Flags of Prometheus that change nothing here.
pub const PASSIVE_FLAGS: &[Note] = &[
    ("web.remote-write-receiver.accepted-protobuf-messages", Different, "both messages are taken"),
    ("web.console.templates", Missing, NO_CONSOLES),
    ("web.console.libraries", Missing, NO_CONSOLES),
    ("web.user-assets", Missing, NO_CONSOLES),
    ("web.page-title", Missing, "the title of the pages is fixed"),
    ("web.search.max-limit", Missing, "there is no search API"),
    ("auto-gomaxprocs", Different, NO_GO),
    ("auto-gomemlimit", Different, NO_GO),
    ("auto-gomemlimit.ratio", Different, NO_GO),
    ("auto-gomemlimit.refresh-interval", Different, NO_GO),
    ("storage.tsdb.max-block-chunk-segment-size", Different, OWN_BLOCKS),
    ("storage.tsdb.wal-segment-size", Different, LOG),
    ("storage.tsdb.no-lockfile", Different, "the folder is locked always, and the lock ends with the process"),
    ("storage.tsdb.head-chunks-write-queue-size", Different, "chunks are written by a thread with a bound of its own"),
    ("storage.tsdb.samples-per-chunk", Different, "a chunk has the samples of a segment of about 120 scrapes"),
    (
        "storage.tsdb.allow-overlapping-compaction",
        Different,
        "each sample is stored in the block of its own time, so that blocks do not overlap",
    ),
    ("storage.tsdb.wal-compression", Different, LOG),
    ("storage.tsdb.wal-compression-type", Different, LOG),
    ("storage.tsdb.delayed-compaction.max-percent", Different, "a block is written half its range after its end"),
    (
        "storage.tsdb.delay-compact-file.path",
        Missing,
        "blocks are joined whether they were uploaded or not; with Thanos, set --storage.tsdb.max-block-duration to --storage.tsdb.min-block-duration",
    ),
    ("storage.tsdb.block-reload-interval", Different, OWN_BLOCKS),
    ("storage.agent.wal-segment-size", Different, LOG),
    ("storage.agent.wal-compression", Different, LOG),
    ("storage.agent.wal-compression-type", Different, LOG),
    ("storage.agent.no-lockfile", Different, "the folder is locked always, and the lock ends with the process"),
    ("storage.agent.checkpoint-from-in-memory-series", Different, NO_CHECKPOINT),
    ("storage.agent.checkpoint-batch-size", Different, NO_CHECKPOINT),
    ("scrape.adjust-timestamps", Different, "scrapes of a target begin on a grid of 50 ms"),
    ("scrape.timestamp-tolerance", Different, "scrapes of a target begin on a grid of 50 ms"),
    ("scrape.discovery-reload-interval", Different, "a change of discovery reaches the targets at once"),
    ("storage.tsdb.allow-overlapping-blocks", Different, "always; Prometheus 3 refuses this flag"),
    (
        "storage.exemplars.exemplars-limit",
        Missing,
        "set storage.exemplars.max_exemplars in the configuration; Prometheus 3 refuses this flag",
    ),
    (
        "scrape.name-escaping-scheme",
        Missing,
        "set metric_name_escaping_scheme in the configuration; Prometheus 3 refuses this flag",
    ),
];

/// Features of Prometheus 3.14, with the reason if this build does nothing for it.
pub const FEATURES: &[Note] = &[
    ("exemplar-storage", Same, ""),
    ("memory-snapshot-on-shutdown", Different, "a start replays the log while it scrapes already"),
    ("extra-scrape-metrics", Different, "set `extra_scrape_metrics: true` in the configuration"),
    ("metadata-wal-records", Different, "metadata is sent without it"),
    ("promql-per-step-stats", Missing, "statistics have no parts for steps"),
    ("promql-experimental-functions", Same, ""),
    ("promql-extended-range-selectors", Same, ""),
    ("promql-binop-fill-modifiers", Same, ""),
    ("promql-delayed-name-removal", Same, ""),
    ("promql-duration-expr", Same, "always on, as in Prometheus 3.14"),
    ("concurrent-rule-eval", Same, ""),
    ("created-timestamp-zero-ingestion", Same, ""),
    (
        "st-storage",
        Same,
        "the same, whatever `storage.tsdb.chunk_encoding.floats` says: chunks with start times are XOR2",
    ),
    ("st-synthesis", Missing, START_TIMES),
    ("use-start-timestamps", Same, ""),
    ("xor2-encoding", Different, "chunks without start times are XOR chunks, which every version of Prometheus reads"),
    ("histograms-st-encoding", Different, "with `st-storage`, start times of histograms are always in chunks"),
    ("type-and-unit-labels", Same, ""),
    ("delayed-compaction", Different, "a block is written half its range after its end"),
    ("use-uncached-io", Different, OWN_BLOCKS),
    ("fast-startup", Different, "a start replays the log while it scrapes already"),
    ("otlp-deltatocumulative", Same, ""),
    ("otlp-native-delta-ingestion", Same, ""),
    ("search-api", Missing, "there is no search API"),
    ("old-ui", Missing, "there is one interface"),
    ("auto-reload-config", Same, ""),
    (
        "native-histograms",
        Same,
        "does nothing in Prometheus 3.14 either; scrape_native_histograms of the configuration decides",
    ),
    ("ooo-native-histograms", Same, "does nothing in Prometheus 3.14 either"),
];

pub fn plan(setup: &Setup) -> Plan {
    let mut report = Report::default();
    let mut arguments = setup.source.arguments.clone();
    if let Some(file) = &setup.config_file {
        arguments.retain(|argument| !argument.starts_with("--config.file"));
        arguments.push(format!("--config.file={}", file.display()));
    }
    let cli = match Cli::try_parse_args(std::iter::once("ringscrape".to_owned()).chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            // clap adds how to get help.
            let text = match &error {
                CliError::Flag(error) => error.to_string(),
                CliError::Clap(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
            };
            report.add(Refused, &text, "Prometheus 3.14 and ringscrape refuse this command line");
            return Plan {
                report,
                arguments: Vec::new(),
                config: None,
                data_folder: PathBuf::new(),
                steps: Vec::new(),
            };
        }
    };
    let acting: Vec<String> = cli.normalized.clone();
    if !acting.is_empty() {
        let names: Vec<&str> = acting.iter().map(|flag| flag.split('=').next().unwrap_or_default()).collect();
        report.add(Same, &names.join(", "), "as in Prometheus");
    }
    for name in cli.passive.keys() {
        let (_, verdict, reason) =
            PASSIVE_FLAGS.iter().find(|(flag, ..)| flag == name).expect("a test holds both lists together");
        report.add(*verdict, &format!("--{name}"), reason);
    }
    add_features(&mut report, &cli);
    if cli.serve.web_cors_origin.is_none() {
        let reason =
            "pages of other origins may not read the API; Prometheus lets all of them (--web.cors.origin='.*')";
        report.add(Different, "--web.cors.origin is not given", reason);
    }
    let config_file = setup.path(&cli.serve.config_file.display().to_string());
    let load = if cli.serve.agent { config::load_for_agent } else { config::load };
    let loaded = load(&config_file, &config::Env::process());
    examine_config(&mut report, &cli.serve, &config_file, loaded, |_| "");
    let data_folder = setup.path(&cli.serve.folder().display().to_string());
    let back = examine_folder(&mut report, cli.serve.agent, &data_folder);
    if !report.has(Missing) && !report.has(Refused) {
        report.add(Same, "everything else", "docs/compatibility.md lists what differs in general");
    }
    let steps = steps(setup, &back);
    Plan { report, arguments: acting, config: None, data_folder, steps }
}

fn add_features(report: &mut Report, cli: &Cli) {
    let without_effect = cli.serve.unknown_features();
    for feature in &cli.serve.enable_feature {
        let subject = format!("--enable-feature={feature}");
        let note = FEATURES.iter().find(|(name, ..)| name == feature);
        match note {
            _ if !without_effect.contains(&feature.as_str()) => report.add(Same, &subject, ""),
            Some((_, verdict, reason)) => report.add(*verdict, &subject, reason),
            None => report.add(Same, &subject, "unknown to Prometheus 3.14 as well: a warning at the start"),
        }
    }
}

/// What is in the data folder; returns the command that makes it fit for Prometheus again.
fn examine_folder(report: &mut Report, is_agent: bool, folder: &Path) -> String {
    let shown = folder.display();
    if is_agent {
        if folder.join("wal").is_dir() {
            let reason = "what the agent of Prometheus has not sent stays there: wait until prometheus_remote_storage_samples_pending is 0 before the change";
            report.add(Different, &format!("{shown}/wal"), reason);
        }
        return "true".to_owned();
    }
    match folder.join("wal").is_dir() {
        true => report.add(
            Same,
            &format!("{shown}: blocks are served as they are"),
            "the head (wal/) is turned into blocks at the first start",
        ),
        false if folder.is_dir() => report.add(Same, &format!("{shown}: blocks are served as they are"), ""),
        false => report.add(Different, &format!("{shown}"), "is not here; the data folder was not looked at"),
    }
    format!("ringscrape tsdb export {shown}")
}

fn steps(setup: &Setup, export: &str) -> Vec<String> {
    let folder = setup.folder.as_ref().map_or_else(|| "FOLDER".to_owned(), |folder| folder.display().to_string());
    let other = setup.unit_name().unwrap_or("prometheus.service");
    let write = setup
        .folder
        .is_none()
        .then(|| "run this again with --write=FOLDER: it writes the unit file and the flags".to_owned());
    let install = format!("cp {folder}/ringscrape.service /etc/systemd/system/ && systemctl daemon-reload");
    let start = match setup.unit_name() {
        Some(_) => format!("systemctl disable {other}; systemctl enable --now ringscrape   (this stops {other} first)"),
        None => format!(
            "stop the other program, then: systemctl enable --now ringscrape; or start `ringscrape @{folder}/ringscrape.flags`"
        ),
    };
    let back = match export {
        "true" => format!("and back: systemctl disable --now ringscrape; systemctl enable --now {other}"),
        export => format!("and back: systemctl disable --now ringscrape; {export}; systemctl enable --now {other}"),
    };
    write.into_iter().chain([install, start, back]).collect()
}

/// The table of flags for the documentation.
#[cfg(test)]
fn flag_table() -> String {
    let mut out = String::from(
        "# Flags\n\nEvery flag of Prometheus 3.14 and what it does here; made from the code by\n`RINGSCRAPE_WRITE_DOCS=1 cargo test \
         -p ringscrape-server flags_are_documented`. `ringscrape --help` lists our own besides.\n\n\
         | flag | default | mode | here |\n| --- | --- | --- | --- |\n",
    );
    for flag in flags::PROMETHEUS_FLAGS.iter().filter(|flag| !flags::OLD_FLAGS.contains(&flag.name)) {
        let note = PASSIVE_FLAGS.iter().find(|(name, ..)| *name == flag.name);
        let text = note.map_or_else(|| "the same".to_owned(), |(_, _, reason)| format!("no effect: {reason}"));
        let mode = match flag.mode {
            flags::Mode::Both => "both",
            flags::Mode::Server => "server",
            flags::Mode::Agent => "agent",
        };
        out += &format!(
            "| `--{}` | {} | {mode} | {text} |\n",
            flag.name,
            if flag.default.is_empty() { "-" } else { flag.default }
        );
    }
    out += "\n## Features\n\n| `--enable-feature=` | here |\n| --- | --- |\n";
    for (name, verdict, reason) in FEATURES {
        let text = match (verdict, *reason) {
            (Same, "") => "the same".to_owned(),
            (Same, reason) => reason.to_owned(),
            (_, reason) => format!("no effect: {reason}"),
        };
        out += &format!("| `{name}` | {text} |\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_and_feature_without_effect_has_a_reason() {
        for flag in flags::PROMETHEUS_FLAGS {
            let note = PASSIVE_FLAGS.iter().find(|(name, ..)| *name == flag.name);
            assert_eq!(note.is_some(), !flag.acts, "--{}", flag.name);
        }
        assert!(PASSIVE_FLAGS.iter().all(|(name, ..)| flags::PROMETHEUS_FLAGS.iter().any(|flag| flag.name == *name)));
        for (name, verdict, reason) in FEATURES {
            let arguments = ["ringscrape".to_owned(), format!("--enable-feature={name}")];
            let cli = Cli::try_parse_args(arguments).unwrap();
            let acts = cli.serve.unknown_features().is_empty();
            assert!(!acts || *verdict == Same, "{name} acts, and its note says that it does not");
            assert!(acts || !reason.is_empty(), "{name} needs a reason");
        }
    }

    #[test]
    fn flags_are_documented() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/flags.md");
        let table = flag_table();
        if std::env::var_os("RINGSCRAPE_WRITE_DOCS").is_some() {
            std::fs::write(file, &table).unwrap();
        }
        let found = std::fs::read_to_string(file).unwrap_or_default();
        assert!(found == table, "docs/flags.md is not that of the code; make it with RINGSCRAPE_WRITE_DOCS=1");
    }
}
