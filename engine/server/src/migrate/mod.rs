//! `ringscrape migrate`: moves a setup of Prometheus or vmagent over.
//!
//! Reads how the other program is started and its configuration, reports what will be the same, different or missing for
//! this setup, and writes a unit file and flags. Nothing of the other program is changed, and nothing is started.

mod prometheus;
mod source;
mod unit;
mod vmagent;

use crate::cli::{Migrate, MigrateFrom};
use crate::tool::{end, say};
use source::Source;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What becomes of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Same,
    Different,
    Missing,
    /// It has to be changed before there can be a start.
    Refused,
}

impl Verdict {
    const ALL: [Verdict; 4] = [Verdict::Same, Verdict::Different, Verdict::Missing, Verdict::Refused];

    fn title(self) -> &'static str {
        match self {
            Verdict::Same => "The same",
            Verdict::Different => "Different",
            Verdict::Missing => "Missing",
            Verdict::Refused => "To be changed first: ringscrape does not start with this",
        }
    }
}

/// A setting of the other program, as tables have it: name, verdict, reason.
pub type Note = (&'static str, Verdict, &'static str);

/// Findings about one setup, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<(Verdict, String)>,
}

impl Report {
    pub fn add(&mut self, verdict: Verdict, subject: &str, reason: &str) {
        let text = if reason.is_empty() { subject.to_owned() } else { format!("{subject}: {reason}") };
        // Two flags may lead to the same.
        if !self.findings.iter().any(|(_, other)| *other == text) {
            self.findings.push((verdict, text));
        }
    }

    pub fn has(&self, verdict: Verdict) -> bool {
        self.findings.iter().any(|(found, _)| *found == verdict)
    }

    fn print(&self) {
        for verdict in Verdict::ALL {
            let mut found = self.findings.iter().filter(|(found, _)| *found == verdict).peekable();
            if found.peek().is_some() {
                say!("\n{}:", verdict.title());
            }
            for (_, text) in found {
                say!("  - {}", text.replace('\n', "\n    "));
            }
        }
    }
}

/// What takes the place of the other program.
#[derive(Debug)]
pub struct Plan {
    pub report: Report,
    /// Flags of ringscrape.
    pub arguments: Vec<String>,
    /// A configuration to be written, where the other program's cannot be used as it is.
    pub config: Option<String>,
    pub data_folder: PathBuf,
    /// Commands that follow, in order.
    pub steps: Vec<String>,
}

/// The setup that is moved over.
#[derive(Debug)]
pub struct Setup {
    pub source: Source,
    /// The file that was read.
    pub file: PathBuf,
    /// Instead of the configuration that the command line names.
    pub config_file: Option<PathBuf>,
    /// Where files will be that are written.
    pub folder: Option<PathBuf>,
}

impl Setup {
    /// A path as the other program sees it: relative to the folder in which it runs.
    pub fn path(&self, path: &str) -> PathBuf {
        self.source
            .service("WorkingDirectory")
            .map_or_else(|| PathBuf::from(path), |folder| Path::new(folder).join(path))
    }

    /// The name of the unit that is replaced.
    pub fn unit_name(&self) -> Option<&str> {
        let name = self.file.file_name()?.to_str()?;
        (self.source.unit.is_some() && name.ends_with(".service") && name != "ringscrape.service").then_some(name)
    }
}

/// Prints the report and writes the files. Exit code 1 if something has to be changed first.
pub fn run(options: &Migrate) -> ExitCode {
    end(migrate(options))
}

fn migrate(options: &Migrate) -> anyhow::Result<bool> {
    let (program, plan): (_, fn(&Setup) -> Plan) = match options.from {
        MigrateFrom::Prometheus => ("prometheus", prometheus::plan),
        MigrateFrom::Vmagent => ("vmagent", vmagent::plan),
    };
    let setup = Setup {
        source: source::read(&options.file, program)?,
        file: options.file.clone(),
        config_file: options.config_file.clone(),
        folder: options.write.clone(),
    };
    let mut plan = plan(&setup);
    for note in &setup.source.notes {
        plan.report.add(Verdict::Different, note, "");
    }
    let unit = unit::text(&setup, &plan.arguments, &plan.data_folder, &mut plan.report);
    say!("{program} of {} -> ringscrape", options.file.display());
    plan.report.print();
    let is_possible = !plan.report.has(Verdict::Refused);
    say!("\nFlags:");
    plan.arguments.iter().for_each(|argument| say!("  {argument}"));
    if let Some(folder) = options.write.as_ref().filter(|_| is_possible) {
        let flags: String = plan.arguments.iter().map(|argument| format!("{argument}\n")).collect();
        let mut files = BTreeMap::from([("ringscrape.service", unit), ("ringscrape.flags", flags)]);
        files.extend(plan.config.map(|text| ("prometheus.yml", text)));
        write(folder, &files)?;
    }
    if !is_possible && options.write.is_some() {
        say!("\nNothing was written.");
    }
    if is_possible {
        say!("\nThen:");
        plan.steps.iter().enumerate().for_each(|(index, step)| say!("  {}. {step}", index + 1));
    }
    Ok(is_possible)
}

/// Writes files that are not there yet. They may hold passwords, as the command line did.
fn write(folder: &Path, files: &BTreeMap<&str, String>) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::create_dir_all(folder).map_err(|error| anyhow::anyhow!("{}: {error}", folder.display()))?;
    for name in files.keys() {
        let path = folder.join(name);
        anyhow::ensure!(!path.exists(), "{}: there is one already; nothing was written", path.display());
    }
    say!("\nWritten:");
    for (name, text) in files {
        let path = folder.join(name);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        say!("  {}", path.display());
    }
    Ok(())
}

/// Adds what is different or missing in a configuration, or why it cannot be used. `file` is its name for the reader.
pub fn examine_config(
    report: &mut Report,
    serve: &crate::cli::Serve,
    file: &Path,
    loaded: Result<config::Config, config::ConfigErrors>,
    hint: impl Fn(&config::ConfigError) -> &'static str,
) {
    let config = match loaded {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(|error| report.add(Verdict::Refused, &error.to_string(), hint(error)));
            return;
        }
    };
    match crate::rules::load(&config, &serve.external_url(), serve.parse_options()) {
        Ok(groups) => {
            let (jobs, writers) = (config.scrape_configs.len(), config.remote_write.len());
            let text = format!("{jobs} jobs, {} rule groups, {writers} endpoints of remote write", groups.len());
            report.add(Verdict::Same, &format!("configuration {}", file.display()), &text);
        }
        Err(errors) => report.add(Verdict::Refused, &errors.to_string(), ""),
    }
    for setting in config.unsupported_settings() {
        report.add(Verdict::Missing, &setting, "read and checked, but not carried out by this build");
    }
    for warning in config.lint() {
        report.add(Verdict::Different, &warning.to_string(), "");
    }
}
