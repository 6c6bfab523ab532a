//! `ringscrape check config|web-config FILE...`: the verdict on each file, exit code 1 if one is bad.

use crate::tool::say;
use std::path::PathBuf;
use std::process::ExitCode;

/// Reads each file as the server would and prints what it found.
pub fn config(files: &[PathBuf], for_agent: bool) -> ExitCode {
    let load = if for_agent { config::load_for_agent } else { config::load };
    let mut verdict = ExitCode::SUCCESS;
    let mut good: Vec<config::Config> = Vec::new();
    for file in files {
        say!("Checking {}", file.display());
        match load(file, &config::Env::process()) {
            Ok(config) => {
                verdict = rule_files(&config).unwrap_or(verdict);
                let findings = crate::check_files::findings(&config);
                for finding in &findings {
                    say!("  {}: {}", if finding.is_failure { "FAILED" } else { "WARNING" }, finding.text);
                }
                if findings.iter().any(|finding| finding.is_failure) {
                    verdict = ExitCode::FAILURE;
                    continue;
                }
                let targets = config.scrape_configs.len();
                say!("  SUCCESS: {} is valid: {targets} scrape configs", file.display());
                let passive = config.unsupported_settings();
                if !passive.is_empty() {
                    say!("  NOTE: read and checked, but not carried out by this build: {}", passive.join(", "));
                }
                config.lint().iter().for_each(|warning| say!("  WARNING: {warning}"));
                good.push(config);
            }
            Err(errors) => {
                say!("  FAILED: {errors}");
                verdict = ExitCode::FAILURE;
            }
        }
    }
    // Hubs and edges that are checked together know of each other.
    let pairs = good.iter().flat_map(|hub| good.iter().map(move |edge| (hub, edge)));
    pairs.flat_map(|(hub, edge)| hub.lint_with_edge(edge)).for_each(|warning| say!("WARNING: {warning}"));
    verdict
}

/// The same of files for `--web.config.file`.
pub fn web_config(files: &[PathBuf]) -> ExitCode {
    let mut verdict = ExitCode::SUCCESS;
    for file in files {
        match api::Security::check(file) {
            Ok(()) => say!("{} SUCCESS", file.display()),
            Err(error) => {
                say!("FAILED: {error}");
                verdict = ExitCode::FAILURE;
            }
        }
    }
    verdict
}

/// The verdict on the rule files of a configuration, if it is bad.
fn rule_files(config: &config::Config) -> Option<ExitCode> {
    let mut verdict = None;
    for file in config.rule_files.iter().flat_map(|pattern| config::glob(pattern)) {
        say!("  Checking {}", file.display());
        match crate::rules::check_file(&file) {
            Ok((groups, duplicates)) => {
                let count: usize = groups.iter().map(|group| group.rules.len()).sum();
                say!("    SUCCESS: {count} rules found");
                crate::rules::print_duplicates(&duplicates);
            }
            Err(errors) => {
                say!("    FAILED: {errors}");
                verdict = Some(ExitCode::FAILURE);
            }
        }
    }
    verdict
}
