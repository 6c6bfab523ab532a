//! A scenario file: what the farm serves, how it is scraped, how long is measured, and what is asked.
//!
//! Every field has a unit in its name and a default where one is sensible; a field that is not known is an error, so a
//! misspelt one cannot quietly measure something else.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::contender::check_placeholders;

/// More targets than these need more addresses than a machine is likely to have memory for.
const TARGETS_MAX: usize = 1_000_000;

/// One load, and what is measured under it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without its ending, whatever the file says.
    #[serde(default)]
    pub name: String,
    /// One sentence: what it stands for.
    pub about: String,
    pub targets: usize,
    /// What a target exposes: app, node, small, huge or mix (`farm --kind`).
    #[serde(default = "default_payload")]
    pub payload: String,
    /// Samples of an app payload.
    #[serde(default = "default_samples")]
    pub samples: usize,
    pub interval_s: u64,
    /// Default: the interval, at most 10.
    pub timeout_s: Option<u64>,
    /// Percent of the values that change from scrape to scrape.
    #[serde(default = "default_changing")]
    pub changing_percent: f64,
    /// Percent of the samples whose labels are others at each scrape.
    #[serde(default)]
    pub churn_percent: f64,
    /// Whether the targets pack their bodies, if the scraper takes that.
    #[serde(default = "default_gzip")]
    pub gzip: bool,
    /// Milliseconds that each target takes to answer.
    #[serde(default)]
    pub delay_ms: u64,
    /// From the first answer of the contender to the begin of the measured time.
    pub warm_up_s: u64,
    /// The measured time.
    pub duration_s: u64,
    /// Each contender is run so often, interleaved with the others.
    pub rounds: usize,
    /// Cores of the contenders, as taskset takes them; all by default.
    pub cpus_contender: Option<String>,
    /// Cores of the farm and of the sink; all by default.
    pub cpus_farm: Option<String>,
    /// Names of contenders to run, in this order; all that there are by default.
    #[serde(default)]
    pub contenders: Vec<String>,
    /// Given to every contender beside its own, with the same places.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Asked of contenders that answer queries.
    #[serde(default, rename = "query")]
    pub queries: Vec<Query>,
    /// Asked of contenders that federate.
    pub federate: Option<String>,
    /// Recording rules that contenders which store evaluate in a window of their own, after everything else.
    pub rules: Option<Rules>,
    /// How often each query and federation is asked; the median counts.
    #[serde(default = "default_repeats")]
    pub repeats: usize,
    /// The time of each answer, at most; what takes longer is said to.
    #[serde(default = "default_answer_s")]
    pub answer_s: u64,
    /// Whether the contender is killed at the end and started again on what it has kept.
    #[serde(default = "default_restart")]
    pub restart: bool,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub name: String,
    /// The endpoint.
    #[serde(default = "default_query_path")]
    pub path: String,
    /// An expression for the endpoint of queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expr: Option<String>,
    /// Parameters of another endpoint.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

impl Query {
    pub fn parameters(&self) -> Vec<(&str, &str)> {
        let expr = self.expr.as_deref().map(|expr| ("query", expr));
        expr.into_iter().chain(self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect()
    }
}

fn default_query_path() -> String {
    QUERY_PATH.into()
}

const QUERY_PATH: &str = "/api/v1/query";

/// Recording rules over the app payload: groups of twenty, each over one of its families of counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    pub count: usize,
    pub interval_s: u64,
    /// The time in which evaluations are measured.
    pub duration_s: u64,
}

fn default_payload() -> String {
    "app".into()
}

fn default_samples() -> usize {
    1_360
}

fn default_changing() -> f64 {
    40.0
}

fn default_gzip() -> bool {
    true
}

fn default_repeats() -> usize {
    5
}

fn default_answer_s() -> u64 {
    30
}

fn default_restart() -> bool {
    true
}

impl Scenario {
    /// Reads a file and checks what it says.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading scenario {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).with_context(|| format!("scenario {}", path.display()))
    }

    /// Reads the text of a file.
    pub fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut scenario: Self = toml::from_str(text)?;
        scenario.name = name.to_owned();
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> anyhow::Result<()> {
        let kinds = ["app", "node", "small", "huge", "mix"];
        ensure!((1..=TARGETS_MAX).contains(&self.targets), "targets: {}; use 1 to {TARGETS_MAX}", self.targets);
        ensure!(kinds.contains(&self.payload.as_str()), "payload \"{}\"; use one of {kinds:?}", self.payload);
        ensure!(self.samples > 0, "samples: a payload has at least one");
        ensure!(self.interval_s > 0, "interval_s: at least 1");
        ensure!(self.timeout_s() <= self.interval_s, "timeout_s: no longer than the interval");
        for (field, percent) in [("changing_percent", self.changing_percent), ("churn_percent", self.churn_percent)] {
            ensure!((0.0..=100.0).contains(&percent), "{field}: {percent}; use 0 to 100");
        }
        ensure!(
            self.duration_s >= 2 * self.interval_s,
            "duration_s: {}; two intervals at least, or the edges are all that is measured",
            self.duration_s
        );
        self.arguments.iter().try_for_each(|argument| check_placeholders(argument))?;
        for query in &self.queries {
            let name = &query.name;
            ensure!(
                query.expr.is_some() == (query.path == QUERY_PATH),
                "query \"{name}\": expr goes with {QUERY_PATH}, and only with it"
            );
        }
        ensure!(self.rounds > 0 && self.repeats > 0, "rounds, repeats: at least 1");
        if let Some(rules) = &self.rules {
            ensure!(self.payload == "app", "rules: they are over the app payload");
            ensure!(rules.count > 0 && rules.interval_s > 0, "rules: count and interval_s are at least 1");
            ensure!(rules.duration_s >= 2 * rules.interval_s, "rules: duration_s holds two evaluations at least");
        }
        Ok(())
    }

    /// What the configuration says as scrape_timeout.
    pub fn timeout_s(&self) -> u64 {
        self.timeout_s.unwrap_or(self.interval_s.min(10))
    }

    /// About how long one contender takes once, in seconds: the parts that are fixed, and a guess for the others.
    pub fn run_s(&self) -> u64 {
        let asked = self.queries.len() as u64 + u64::from(self.federate.is_some());
        let rules = self.rules.as_ref().map_or(0, |rules| rules.duration_s + 2 * rules.interval_s);
        self.warm_up_s + self.duration_s + rules + asked * self.repeats as u64 + if self.restart { 15 } else { 5 }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let kind = match self.payload.as_str() {
            "app" => format!("{} samples", self.samples),
            other => format!("\"{other}\" payloads"),
        };
        format!(
            "{} targets x {kind} every {} s, {}, {} % of the values changing, {} % churn; {} s of warm-up, {} s measured, \
             {}",
            self.targets,
            self.interval_s,
            if self.gzip { "gzipped" } else { "plain" },
            self.changing_percent,
            self.churn_percent,
            self.warm_up_s,
            self.duration_s,
            crate::statistics::count_of(self.rounds),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "about = \"x\"\ntargets = 2\ninterval_s = 1\nwarm_up_s = 1\nduration_s = 2\nrounds = 1\n";

    #[track_caller]
    fn check(more: &str, want: Result<(), &str>) {
        let got = Scenario::parse("s", &format!("{SMALLEST}{more}")).map_err(|e| format!("{e:#}"));
        match (got, want) {
            (Ok(_), Ok(())) => {}
            (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
            (got, want) => panic!("{got:?}, not {want:?}"),
        }
    }

    #[test]
    fn fields_are_checked() {
        check("", Ok(()));
        check("[[query]]\nname = \"n\"\nexpr = \"up\"", Ok(()));
        check("[[query]]\nname = \"n\"\npath = \"/api/v1/series\"\nparameters = { \"match[]\" = \"up\" }", Ok(()));
        check("[[query]]\nname = \"n\"", Err("query \"n\": expr goes with /api/v1/query"));
        check("payload = \"jvm\"", Err("payload \"jvm\"; use one of"));
        check("changing_percent = 101", Err("changing_percent: 101"));
        check("churn = 5", Err("unknown field `churn`"));
        check("timeout_s = 2", Err("no longer than the interval"));
        check("repeats = 0", Err("at least 1"));
        check("arguments = [\"--data={dta}\"]", Err("{dta} in \"--data={dta}\"; use one of"));
        check("[rules]\ncount = 1\ninterval_s = 5\nduration_s = 10", Ok(()));
        check("[rules]\ncount = 1\ninterval_s = 5\nduration_s = 9", Err("two evaluations"));
        check("payload = \"node\"\n[rules]\ncount = 1\ninterval_s = 5\nduration_s = 10", Err("the app payload"));
        check("samples = 0", Err("at least one"));
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let scenario = Scenario::parse("s", SMALLEST).unwrap();
        assert_eq!((scenario.name.as_str(), scenario.payload.as_str(), scenario.samples), ("s", "app", 1_360));
        assert_eq!((scenario.timeout_s(), scenario.gzip, scenario.restart), (1, true, true));
    }

    #[test]
    fn every_scenario_of_the_folder_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 3);
        files.iter().for_each(|file| assert!(!Scenario::load(file).unwrap().line().is_empty()));
    }
}
