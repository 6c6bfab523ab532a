//! The farm and the sink as children of the harness.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::Value;

use crate::http::Client;
use crate::process::Process;
use crate::scenario::Scenario;

/// Rendering a payload's variants takes a second or two, more on a machine with other work.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// Longest run of a farm that its harness does not end.
const FARM_SECONDS_MAX: u64 = 24 * 3_600;

/// A running farm.
pub struct Farm {
    _process: Process,
    client: Client,
    pub targets_file: PathBuf,
}

/// What the farm has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    pub scrapes_ever: u64,
    pub samples_ever: u64,
    pub targets_seen: u64,
    pub missed: u64,
    pub overlaps: u64,
    pub deviation_mean_us: u64,
    pub deviation_max_us: u64,
    /// Upper bounds of the histogram's buckets that hold these shares of all intervals; `None` beyond the last bound.
    pub deviation_p99_ms: Option<u64>,
    pub deviation_p999_ms: Option<u64>,
}

fn beside(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    if path.is_file() {
        return Ok(path);
    }
    Err(anyhow!("{} is not there; build it with cargo build --release -p bench-harness", path.display()))
}

/// Waits for the line that says the port.
fn reported_port(process: &mut Process, output: &Path, start: &str) -> anyhow::Result<u16> {
    let mut port = None;
    process.wait_until("the start", START_PATIENCE, || {
        let text = std::fs::read_to_string(output).unwrap_or_default();
        // The line is whole when another follows, or its end is there.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        port = whole.lines().find_map(|line| line.strip_prefix(start)?.parse().ok());
        port.is_some()
    })?;
    port.context("no port")
}

impl Farm {
    /// Starts the farm that the scenario asks for; its target list goes into `folder`.
    pub fn start(scenario: &Scenario, folder: &Path) -> anyhow::Result<Self> {
        let output = folder.join("farm.log");
        let program = beside("farm")?;
        let interval_ms = (scenario.interval_s * 1_000).to_string();
        let targets_max = scenario.targets.max(1).to_string();
        let mut arguments: Vec<String> = ["--listen", "0", "--kind", &scenario.payload]
            .into_iter()
            .chain(["--samples", &scenario.samples.to_string(), "--interval-ms", &interval_ms])
            .chain(["--changing", &scenario.changing_percent.to_string(), "--targets-max", &targets_max])
            .chain(["--churn", &scenario.churn_percent.to_string(), "--delay-ms", &scenario.delay_ms.to_string()])
            .chain(["--max-seconds", &FARM_SECONDS_MAX.to_string()])
            .map(str::to_owned)
            .collect();
        if !scenario.gzip {
            arguments.push("--plain".into());
        }
        let mut process = Process::start("the farm", &program, &arguments, scenario.cpus_farm.as_deref(), &output)?;
        let port = reported_port(&mut process, &output, "farm listening on 127.0.0.1:")?;
        let list = std::process::Command::new(&program)
            .args(["targets", "--format", "file_sd", "--count", &scenario.targets.to_string()])
            .args(["--port", &port.to_string()])
            .output()?;
        let targets_file = folder.join("farm.json");
        std::fs::write(&targets_file, list.stdout)?;
        let client = Client::local(port, Duration::from_secs(30));
        Ok(Self { _process: process, client, targets_file })
    }

    pub fn served(&self) -> anyhow::Result<Served> {
        Ok(read_served(&self.client.json("/stats", &[])?))
    }

    /// Forgets all but what was ever served.
    pub fn reset(&self) -> anyhow::Result<()> {
        self.client.post("/stats/reset").map(|_| ())
    }
}

fn read_served(stats: &Value) -> Served {
    let number = |name: &str| stats[name].as_u64().unwrap_or(0);
    let buckets: Vec<(Option<u64>, u64)> = match stats["interval_deviation_ms"].as_object() {
        Some(buckets) => {
            let bound = |name: &String| name.strip_prefix("le_").and_then(|ms| ms.parse().ok());
            buckets.iter().map(|(name, count)| (bound(name), count.as_u64().unwrap_or(0))).collect()
        }
        None => Vec::new(),
    };
    Served {
        scrapes_ever: number("scrapes_ever"),
        samples_ever: number("samples_ever"),
        targets_seen: number("targets_seen"),
        missed: number("intervals_missed"),
        overlaps: number("overlapping_scrapes"),
        deviation_mean_us: number("interval_deviation_us_mean"),
        deviation_max_us: number("interval_deviation_us_max"),
        deviation_p99_ms: bound_of_share(&buckets, 0.99),
        deviation_p999_ms: bound_of_share(&buckets, 0.999),
    }
}

fn bound_of_share(buckets: &[(Option<u64>, u64)], share: f64) -> Option<u64> {
    let mut buckets = buckets.to_vec();
    // JSON objects have no order; the bucket without a bound is the last.
    buckets.sort_by_key(|(bound, _)| bound.unwrap_or(u64::MAX));
    let all: u64 = buckets.iter().map(|(_, count)| count).sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut seen = 0;
    let reached = buckets.iter().find(|(_, count)| {
        seen += count;
        seen >= wanted
    });
    reached.and_then(|(bound, _)| *bound).filter(|_| all > 0)
}

/// A running sink.
pub struct Sink {
    _process: Process,
    client: Client,
    pub port: u16,
}

impl Sink {
    pub fn start(cpus: Option<&str>, folder: &Path) -> anyhow::Result<Self> {
        let output = folder.join("sink.log");
        // A log of a sink before would say its port.
        _ = std::fs::remove_file(&output);
        let program = beside("harness")?;
        let mut process = Process::start("the sink", &program, ["sink", "--listen", "0"], cpus, &output)?;
        let port = reported_port(&mut process, &output, "sink listening on 127.0.0.1:")?;
        Ok(Self { _process: process, client: Client::local(port, Duration::from_secs(30)), port })
    }

    pub fn samples(&self) -> anyhow::Result<u64> {
        self.client.json("/stats", &[])?["samples"].as_u64().context("the sink's page has no samples")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(buckets: &[(Option<u64>, u64)], share: f64, want: Option<u64>) {
        assert_eq!(bound_of_share(buckets, share), want);
    }

    #[test]
    fn shares_of_a_histogram() {
        let buckets = [(Some(1), 980), (None, 0), (Some(10), 15), (Some(5), 5)];
        check(&buckets, 0.5, Some(1));
        check(&buckets, 0.985, Some(5));
        check(&buckets, 0.999, Some(10));
        check(&[(Some(1), 1), (None, 1)], 0.99, None);
        check(&[], 0.5, None);
    }

    #[test]
    fn pages_of_the_farm_are_read() {
        let page = r#"{"scrapes_ever": 7, "samples_ever": 9520, "targets_seen": 3, "intervals_missed": 1,
            "interval_deviation_us_max": 900, "interval_deviation_ms": {"le_1": 7, "more": 0}}"#;
        let served = read_served(&serde_json::from_str(page).unwrap());
        let want = Served {
            scrapes_ever: 7,
            samples_ever: 9520,
            targets_seen: 3,
            missed: 1,
            deviation_max_us: 900,
            deviation_p99_ms: Some(1),
            deviation_p999_ms: Some(1),
            ..Served::default()
        };
        assert_eq!(served, want);
    }
}
