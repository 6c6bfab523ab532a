//! What a comparison found: the file that tables and pictures are made from.
//!
//! Invariants:
//!   * a results file says everything that its report says; the report can be made again from it
//!   * figures are those of one round; spreads and ratios are made when they are shown

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::scenario::Scenario;

/// Raised when a field changes its meaning.
pub const FORMAT: u32 = 1;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    /// The day in UTC.
    pub date: String,
    pub command: String,
    pub machine: Machine,
    pub scenario: Scenario,
    /// The contender that the others are divided by.
    pub base: String,
    pub contenders: Vec<Runs>,
    pub skipped: Vec<Skipped>,
}

/// A contender that was not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    pub title: String,
    pub why: String,
}

/// One contender's rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Runs {
    pub name: String,
    pub title: String,
    pub version: String,
    pub stores: bool,
    pub rounds: Vec<Outcome>,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Measured(Box<Round>),
    Failed(String),
}

/// One contender, once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Load average when it began.
    pub load: f64,
    pub window_s: f64,
    /// Scrapes and samples that the farm served in the window.
    pub scrapes: u64,
    pub samples: u64,
    pub targets: u64,
    /// Series that these targets expose.
    pub series: u64,
    pub acceptance: Acceptance,
    pub cpu_user_s: f64,
    pub cpu_system_s: f64,
    pub rss_bytes: u64,
    pub anonymous_bytes: u64,
    /// Caused to be written in the window; `None` where the kernel does not tell.
    pub bytes_written: Option<u64>,
    /// Growth of the data folder in the window, and its size at the end of it.
    pub bytes_kept: i64,
    pub folder_bytes: u64,
    pub syscalls_per_scrape: Option<f64>,
    pub missed: u64,
    pub overlaps: u64,
    pub deviation_mean_us: u64,
    pub deviation_max_us: u64,
    pub deviation_p99_ms: Option<u64>,
    pub deviation_p999_ms: Option<u64>,
    pub queries: Vec<QueryMeasurement>,
    pub federation: Option<QueryMeasurement>,
    pub rules: Option<Evaluated>,
    pub restart: Option<Restart>,
}

/// Recording rules, in a window of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Of the process per evaluation of all rules, less what scraping takes in that time.
    pub cpu_ms: f64,
    /// Samples that the first rule has written by then: it was evaluated so often.
    pub evaluations: u64,
    pub missed: u64,
    pub deviation_max_us: u64,
    pub deviation_p999_ms: Option<u64>,
    pub fault: Option<String>,
}

/// Whether all that the farm served has arrived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Since the contender's start: what the farm had served when the window ended, and what the contender counted once
    /// it had caught up, with its own report series.
    pub served: u64,
    pub counted: u64,
    /// What is wrong, if anything is.
    pub fault: Option<String>,
}

/// A question, asked several times; medians.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryMeasurement {
    pub name: String,
    pub wall_ms: f64,
    /// What the process used meanwhile, less what scraping takes in that time.
    pub cpu_ms: f64,
    pub answer_bytes: u64,
    /// Why there is no figure.
    pub fault: Option<String>,
}

/// A start on what was kept, after kill -9.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    pub samples: u64,
    pub ready_s: f64,
    /// Until a query for a series of before the kill has an answer; contenders that store only.
    pub answered_s: Option<f64>,
    pub cpu_s: f64,
    /// What it had in memory (RSS) before it was killed, and the most until it was ready and has answered.
    #[serde(default)]
    pub rss_before_bytes: u64,
    #[serde(default)]
    pub rss_peak_bytes: u64,
    pub fault: Option<String>,
}

impl Runs {
    /// The rounds that gave figures, with `None` in place of the others, so that rounds stay aligned.
    pub fn values(&self, of: impl Fn(&Round) -> Option<f64>) -> Vec<Option<f64>> {
        let value = |outcome: &Outcome| match outcome {
            Outcome::Measured(round) => of(round),
            Outcome::Failed(_) => None,
        };
        self.rounds.iter().map(value).collect()
    }
}

impl Results {
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading results {}", path.display()))?;
        let results: Self = serde_json::from_str(&text).with_context(|| format!("results {}", path.display()))?;
        ensure!(
            results.format == FORMAT,
            "{} has format {}; this program reads {FORMAT}",
            path.display(),
            results.format
        );
        Ok(results)
    }

    /// The contender that the others are divided by.
    pub fn base(&self) -> Option<&Runs> {
        self.contenders.iter().find(|runs| runs.name == self.base)
    }

    /// Everything that must not go unseen: faults, failures, figures that stand on unequal ground.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for runs in &self.contenders {
            for (at, outcome) in runs.rounds.iter().enumerate() {
                let mut add = |what: &str| faults.push(format!("{}, round {}: {what}", runs.title, at + 1));
                match outcome {
                    Outcome::Failed(why) => add(why),
                    Outcome::Measured(round) => {
                        round.acceptance.fault.iter().for_each(|fault| add(fault));
                        if round.missed > 0 {
                            add(&format!("{} scrapes never came", round.missed));
                        }
                        if round.overlaps > 0 {
                            add(&format!("{} scrapes overlapped on their target", round.overlaps));
                        }
                        round.queries.iter().chain(&round.federation).for_each(|asked| {
                            asked.fault.iter().for_each(|fault| add(&format!("{}: {fault}", asked.name)));
                        });
                        round.rules.iter().flat_map(|rules| &rules.fault).for_each(|fault| add(fault));
                        round.restart.iter().flat_map(|restart| &restart.fault).for_each(|fault| add(fault));
                    }
                }
            }
        }
        faults
    }

    /// Writes `DATE-SCENARIO.json` and, by `report`, the same as `.md`; another run of that day gets a number.
    pub fn write(&self, folder: &Path, report: &str) -> anyhow::Result<PathBuf> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let name = |number: usize| match number {
            1 => format!("{}-{}", self.date, self.scenario.name),
            _ => format!("{}-{}-{number}", self.date, self.scenario.name),
        };
        let free = (1..).map(|number| folder.join(format!("{}.json", name(number)))).find(|path| !path.exists());
        let path = free.context("no free name")?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        std::fs::write(path.with_extension("md"), report)?;
        Ok(path)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two contenders, two rounds; the second one fails in its second round.
    pub(crate) fn example() -> Results {
        let round = |factor: f64| Round {
            window_s: 60.0,
            scrapes: 12_000,
            samples: 16_000_000,
            targets: 1_000,
            series: 1_360_000,
            cpu_user_s: 1.5 * factor,
            cpu_system_s: 0.5 * factor,
            rss_bytes: (136e6 * factor) as u64,
            anonymous_bytes: (120e6 * factor) as u64,
            bytes_written: Some((16e6 * factor) as u64),
            bytes_kept: (16e6 * factor) as i64,
            folder_bytes: 40_000_000,
            deviation_max_us: 2_100,
            deviation_p99_ms: Some(1),
            deviation_p999_ms: Some(5),
            queries: vec![QueryMeasurement {
                name: "count of all".into(),
                wall_ms: 10.0 * factor,
                cpu_ms: 5.0 * factor,
                answer_bytes: 100,
                fault: None,
            }],
            restart: Some(Restart {
                samples: 20_000_000,
                ready_s: 0.8 * factor,
                answered_s: Some(factor),
                cpu_s: 1.0,
                rss_before_bytes: 200_000_000,
                rss_peak_bytes: 210_000_000,
                fault: None,
            }),
            ..Round::default()
        };
        let measured = |factor| Outcome::Measured(Box::new(round(factor)));
        let runs = |name: &str, title: &str, rounds| Runs {
            name: name.into(),
            title: title.into(),
            version: "1.0".into(),
            stores: true,
            rounds,
        };
        let scenario =
            "about = \"An <example>.\"\ntargets = 1000\ninterval_s = 5\nwarm_up_s = 40\nduration_s = 60\nrounds = 2\n";
        Results {
            format: FORMAT,
            date: "2026-11-25".into(),
            command: "harness compare example".into(),
            machine: Machine { cpu_model: "Test CPU".into(), cores: 2, ..Machine::default() },
            scenario: Scenario::parse("example", scenario).unwrap(),
            base: "ours".into(),
            contenders: vec![
                runs("ours", "Ours", vec![measured(1.0), measured(1.5)]),
                runs("theirs", "Theirs & more", vec![measured(10.0), Outcome::Failed("it fell over".into())]),
            ],
            skipped: vec![Skipped { title: "Absent".into(), why: "no program \"absent\" on this machine".into() }],
        }
    }

    #[test]
    fn results_are_kept_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let results = example();
        let first = results.write(folder.path(), "report").unwrap();
        let second = results.write(folder.path(), "report").unwrap();
        assert!(first.ends_with("2026-11-25-example.json") && second.ends_with("2026-11-25-example-2.json"));
        assert_eq!(Results::load(&first).unwrap(), results);
        assert_eq!(std::fs::read_to_string(first.with_extension("md")).unwrap(), "report");
        std::fs::write(&first, "{}").unwrap();
        assert!(Results::load(&first).is_err());
    }

    #[test]
    fn faults_are_all_listed() {
        let mut results = example();
        if let Outcome::Measured(round) = &mut results.contenders[0].rounds[0] {
            round.missed = 2;
            round.acceptance.fault = Some("took less".into());
            round.queries[0].fault = Some("timed out".into());
        }
        let want = [
            "Ours, round 1: took less",
            "Ours, round 1: 2 scrapes never came",
            "Ours, round 1: count of all: timed out",
            "Theirs & more, round 2: it fell over",
        ];
        assert_eq!(results.faults(), want);
    }
}
