//! Rules in the server: who answers them and takes what they yield, how their files are loaded, and the tools for them.

use crate::tool::say;
use api::ActiveConfig;
use config::{Config, ConfigErrors};
use notifier::{Alert, Notifier};
use query::{Caller, QueryAnswer, QueryError, QueryService, SelectRequest};
use rules::{Duplicate, GroupSpec, PendingWrite, RuleBackend, Settings, VectorElements};
use series::{Labels, Matcher, Timestamp, Value};
use shard::Shards;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Exit code of a check that found duplicates when they are fatal, as promtool's.
const EXIT_LINT: u8 = 3;

/// The server as rules see it.
pub struct ServerHost {
    pub queries: Arc<QueryService>,
    pub shards: Shards,
    pub notifier: Notifier,
    pub running: watch::Receiver<Arc<ActiveConfig>>,
    /// Where the answers are waited for; the threads that evaluate rules may block.
    pub runtime: Handle,
}

impl RuleBackend for ServerHost {
    fn is_ready(&self) -> bool {
        self.queries.is_ready()
    }

    fn query_all(&self, group: &GroupSpec, exprs: &[&str], at: Timestamp) -> Vec<Result<VectorElements, String>> {
        let inner_step = self.running.borrow().config.global.evaluation_interval;
        let fields = vec![("file", group.file.display().to_string()), ("name", group.name.clone())];
        let caller = Some(Arc::new(Caller { kind: "ruleGroup", fields }));
        let answers = self.runtime.block_on(self.queries.instant_many(exprs, at, inner_step, caller));
        let elements = |answer: Result<QueryAnswer, QueryError>| {
            let answer = answer.map_err(|error| error.to_string())?.evaluated.value;
            answer.into_elements().ok_or_else(|| rules::NO_VECTOR.to_owned())
        };
        answers.into_iter().map(elements).collect()
    }

    fn write(&self, source: &str, at: Timestamp, rows: Vec<(Labels, Value)>) -> PendingWrite {
        let (shards, source) = (self.shards.clone(), source.to_owned());
        // Under way at once, so that the next rule need not wait for the log.
        let written = self.runtime.spawn(async move { shards.write_rows(&source, at, rows).await });
        let runtime = self.runtime.clone();
        Box::new(move || match runtime.block_on(written) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        })
    }

    fn newest(
        &self,
        matchers: &[Matcher],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Labels, series::Sample)>, String> {
        let request = SelectRequest { matchers: matchers.to_vec(), from, to, samples_max: 0 };
        let found = self.runtime.block_on(self.queries.select_raw(request)).map_err(|error| error.to_string())?;
        Ok(found.series.into_iter().filter_map(|series| Some((series.labels, *series.samples.last()?))).collect())
    }

    fn notify(&self, alerts: Vec<Alert>) {
        self.notifier.send(alerts);
    }
}

/// The groups of a configuration's rule files; the mistakes of all of them if there is one.
pub fn load(config: &Config, external_url: &str, parse: promql::ParseOptions) -> Result<Vec<GroupSpec>, ConfigErrors> {
    rules::load(&config.rule_files, &Settings::of(config, external_url, parse))
}

/// What holds for files that no server has loaded: everything that a file may ask for is allowed.
fn tool_settings() -> Settings {
    let config = config::parse_config(Path::new("none"), "", &config::Env::process());
    let parse = promql::ParseOptions {
        experimental_functions: true,
        extended_range_selectors: true,
        fill_modifiers: true,
        ..promql::ParseOptions::default()
    };
    Settings::of(&config.expect("an empty configuration is valid"), "", parse)
}

/// Groups of a file and the rules of it that look like another.
pub fn check_file(path: &Path) -> Result<(Vec<GroupSpec>, Vec<Duplicate>), ConfigErrors> {
    let settings = tool_settings();
    let groups = rules::compile(&config::load_rules(path, settings.scheme)?, &settings)?;
    let duplicates = rules::duplicates(&groups);
    Ok((groups, duplicates))
}

/// `ringscrape check rules FILE...`: the verdict on each file.
pub fn check(files: &[PathBuf], lint_fatal: bool) -> ExitCode {
    let mut verdict = ExitCode::SUCCESS;
    for file in files {
        say!("Checking {}", file.display());
        match check_file(file) {
            Err(errors) => {
                say!("  FAILED:");
                errors.iter().for_each(|error| say!("  {error}"));
                verdict = ExitCode::FAILURE;
            }
            Ok((groups, duplicates)) => {
                let count: usize = groups.iter().map(|group| group.rules.len()).sum();
                say!("  SUCCESS: {count} rules found");
                print_duplicates(&duplicates);
                if !duplicates.is_empty() && lint_fatal && verdict == ExitCode::SUCCESS {
                    verdict = ExitCode::from(EXIT_LINT);
                }
            }
        }
        say!("");
    }
    verdict
}

pub fn print_duplicates(duplicates: &[Duplicate]) {
    if duplicates.is_empty() {
        return;
    }
    say!("  {} duplicate rule(s) found.", duplicates.len());
    for duplicate in duplicates {
        say!("  Metric: {}", duplicate.name);
        say!("  Label(s):");
        duplicate.labels.iter().for_each(|(name, value)| say!("  \t{name}: {value}"));
    }
    say!("  Might cause inconsistency while recording expressions.");
}

/// `ringscrape test rules FILE...`: runs unit tests; exit code 1 if one fails.
pub fn test(files: &[PathBuf], only: Option<&str>) -> ExitCode {
    let only = match only.map(regex_of).transpose() {
        Ok(only) => only,
        Err(error) => {
            eprintln!("ringscrape: --run: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut verdict = ExitCode::SUCCESS;
    for file in files {
        say!("Unit Testing:  {}", file.display());
        let failures =
            rules::unit::run_file(file, &tool_settings(), |name| only.as_ref().is_none_or(|only| only.is_match(name)));
        if failures.is_empty() {
            say!("  SUCCESS");
        } else {
            say!("  FAILED:");
            failures.iter().for_each(|failure| say!("    {}", failure.replace('\n', "\n    ")));
            verdict = ExitCode::FAILURE;
        }
        say!("");
    }
    verdict
}

fn regex_of(text: &str) -> Result<series::Regex, String> {
    series::Regex::new(&format!("(?s:.*)(?:{text})(?s:.*)")).map_err(|error| error.to_string())
}
