//! Whether two servers answer the same: two that run, or ringscrape and a Prometheus that has opened its blocks.
//!
//! Two scrapers of one farm never see the same values, as each scrape moves a target on; so the second form lets one
//! program scrape, takes a snapshot, and lets the other answer from that.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::compare::free_port;
use crate::contender::{Contender, RunPaths};
use crate::farm::Farm;
use crate::http::Client;
use crate::machine;
use crate::process::Process;
use crate::scenario::Scenario;

/// The questions asked when no file is given.
pub const QUERIES: &str = include_str!("../../agree.txt");
/// Sums are made in another order by each program.
const DEVIATION_MAX: f64 = 1e-9;
const PATIENCE: Duration = Duration::from_secs(120);
/// Steps of range queries, in seconds, and how many.
const STEP_S: u64 = 1;
const STEPS: u64 = 5;

/// What came of it.
#[derive(Debug, Default, PartialEq)]
pub struct Agreement {
    pub asked: usize,
    /// Those that had an answer with something in it.
    pub not_empty: usize,
    pub differences: Vec<String>,
}

impl Agreement {
    /// One line for people, or an error with the first differences.
    pub fn conclude(&self) -> anyhow::Result<String> {
        let shown: Vec<&str> = self.differences.iter().take(10).map(String::as_str).collect();
        let count = self.differences.len();
        ensure!(count == 0, "{count} of {} answers differ:\n{}", self.asked, shown.join("\n"));
        ensure!(self.not_empty > 0, "all {} answers were empty, which proves nothing", self.asked);
        Ok(format!("{} answers agree, {} of them with something in them", self.asked, self.not_empty))
    }
}

/// The queries of a file: one a line, `#` for remarks.
pub fn queries(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Asks both the same, at one time and over a short range that ends there.
pub fn servers(left: &Client, right: &Client, queries: &[&str], at_s: u64) -> anyhow::Result<Agreement> {
    let mut agreement = Agreement::default();
    let at = at_s.to_string();
    let start = (at_s - STEP_S * STEPS).to_string();
    let step = STEP_S.to_string();
    for query in queries {
        let instant: &[(&str, &str)] = &[("query", query), ("time", &at)];
        let range: &[(&str, &str)] = &[("query", query), ("start", &start), ("end", &at), ("step", &step)];
        for (path, parameters) in [("/api/v1/query", instant), ("/api/v1/query_range", range)] {
            // A range selector has no graph; both have to refuse.
            let ask = |server: &Client| server.api(path, parameters).and_then(|data| Series::read(&data));
            agreement.asked += 1;
            let difference = match (ask(left), ask(right)) {
                (Ok(left), Ok(right)) => {
                    agreement.not_empty += usize::from(!left.0.is_empty());
                    left.difference(&right)
                }
                (Err(_), Err(_)) => None,
                (Ok(_), Err(error)) | (Err(error), Ok(_)) => Some(format!("one refuses: {error:#}")),
            };
            agreement.differences.extend(difference.map(|what| format!("{path} {query}: {what}")));
        }
    }
    Ok(agreement)
}

/// Lets `scraper` scrape a small farm, opens its snapshot with `reader`, and asks both.
pub fn blocks(scraper: &Contender, reader: &Contender, seconds: u64, queries: &[&str]) -> anyhow::Result<Agreement> {
    let find = |contender: &Contender| {
        contender.find().with_context(|| format!("no program \"{}\" on this machine", contender.program))
    };
    let (scraper_program, reader_program) = (find(scraper)?, find(reader)?);
    let work = tempfile::tempdir()?;
    let scenario = Scenario::parse(
        "agree",
        "about = \"A small farm.\"\ntargets = 20\npayload = \"node\"\ninterval_s = 1\nwarm_up_s = 0\nduration_s = 2\nrounds = 1\n",
    )?;
    let farm = Farm::start(&scenario, work.path())?;
    let config = work.path().join("scraper.yml");
    let job = format!(
        "scrape_configs:\n  - job_name: farm\n    file_sd_configs: [{{files: ['{}']}}]\n",
        farm.targets_file.display()
    );
    std::fs::write(&config, format!("global: {{scrape_interval: 1s}}\n{job}"))?;
    let data = work.path().join("data");
    std::fs::create_dir(&data)?;
    let (mut first, left) = start(scraper, &scraper_program, &config, &data, &["--web.enable-admin-api"], work.path())?;
    let mut targets = 0;
    first.wait_until("every target's first scrape", PATIENCE, || {
        targets = farm.served().map_or(targets, |served| served.targets_seen);
        targets >= scenario.targets as u64
    })?;
    std::thread::sleep(Duration::from_secs(seconds));
    first.check_alive()?;
    let at_s = machine::now_s() - 1;
    std::thread::sleep(Duration::from_secs(2));
    let answer = left.post("/api/v1/admin/tsdb/snapshot")?;
    let answer: Value = serde_json::from_slice(&answer.body)?;
    let Some(name) = answer["data"]["name"].as_str() else { bail!("a snapshot without a name: {answer}") };
    let snapshot = data.join("snapshots").join(name);
    let idle = work.path().join("reader.yml");
    std::fs::write(&idle, "scrape_configs: []\n")?;
    let (_second, right) = start(reader, &reader_program, &idle, &snapshot, &[], work.path())?;
    servers(&left, &right, queries, at_s)
}

fn start(
    contender: &Contender,
    program: &Path,
    config: &Path,
    data: &Path,
    more: &[&str],
    work: &Path,
) -> anyhow::Result<(Process, Client)> {
    let port = free_port()?;
    let places = RunPaths { program, config, data, targets: config, port, sink_port: 0 };
    let arguments = contender.arguments.iter().map(|argument| places.fill(argument));
    let arguments = arguments.chain(more.iter().map(|&argument| argument.to_owned()));
    let output = work.join(format!("{}.log", contender.name));
    let mut process = Process::start(&contender.title, program, arguments, None, &output)?;
    let client = Client::local(port, PATIENCE);
    let ready = process.wait_until("to be ready", PATIENCE, || client.is_ok(&contender.ready));
    ready.with_context(|| std::fs::read_to_string(&output).unwrap_or_default())?;
    Ok((process, client))
}

/// An answer without its order: labels to times and values.
#[derive(Debug, PartialEq)]
struct Series(BTreeMap<String, Vec<(f64, f64)>>);

impl Series {
    fn read(data: &Value) -> anyhow::Result<Self> {
        let mut series = BTreeMap::new();
        let result = &data["result"];
        let kind = data["resultType"].as_str().unwrap_or_default();
        match kind {
            "scalar" => _ = series.insert("scalar".to_owned(), vec![point(result)?]),
            "vector" | "matrix" => {
                for one in result.as_array().context("a result that is no list")? {
                    let labels = one["metric"].to_string();
                    let points = match kind {
                        "vector" => vec![point(&one["value"])?],
                        _ => {
                            one["values"].as_array().into_iter().flatten().map(point).collect::<anyhow::Result<_>>()?
                        }
                    };
                    ensure!(series.insert(labels.clone(), points).is_none(), "{labels} is there twice");
                }
            }
            _ => bail!("an answer of type \"{kind}\""),
        }
        Ok(Self(series))
    }

    fn difference(&self, other: &Self) -> Option<String> {
        if self.0.len() != other.0.len() {
            return Some(format!("{} series and {}", self.0.len(), other.0.len()));
        }
        self.0.iter().find_map(|(labels, left)| {
            let Some(right) = other.0.get(labels) else { return Some(format!("only one has {labels}")) };
            if left.len() != right.len() {
                return Some(format!("{labels} has {} points and {}", left.len(), right.len()));
            }
            let differing =
                left.iter().zip(right).find(|(left, right)| left.0 != right.0 || !is_close(left.1, right.1));
            differing.map(|(left, right)| format!("{labels}: {left:?} and {right:?}"))
        })
    }
}

fn point(value: &Value) -> anyhow::Result<(f64, f64)> {
    let time = value[0].as_f64().context("a point without a time")?;
    let text = value[1].as_str().context("a point without a value")?;
    let number = match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        _ => text.parse().with_context(|| format!("value \"{text}\""))?,
    };
    Ok((time, number))
}

fn is_close(left: f64, right: f64) -> bool {
    left == right
        || (left.is_nan() && right.is_nan())
        || (left - right).abs() <= DEVIATION_MAX * left.abs().max(right.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: &str = r#"{"resultType": "vector", "result": [
        {"metric": {"a": "1"}, "value": [7, "0.30000000000000004"]}, {"metric": {"a": "2"}, "value": [7, "NaN"]}]}"#;

    #[track_caller]
    fn check(other: &str, want: Option<&str>) {
        let read = |text: &str| Series::read(&serde_json::from_str(text).unwrap()).unwrap();
        let got = read(VECTOR).difference(&read(other));
        assert_eq!(got.is_some(), want.is_some(), "{got:?}");
        assert!(got.clone().unwrap_or_default().contains(want.unwrap_or_default()), "{got:?}");
    }

    #[test]
    fn order_and_last_digits_do_not_matter() {
        check(VECTOR, None);
        let turned = r#"{"resultType": "vector", "result": [
            {"metric": {"a": "2"}, "value": [7.0, "NaN"]}, {"metric": {"a": "1"}, "value": [7, "0.3"]}]}"#;
        check(turned, None);
        check(&turned.replace("0.3", "0.31"), Some("{\"a\":\"1\"}: (7.0, 0.30000000000000004) and (7.0, 0.31)"));
        check(&turned.replace("NaN", "+Inf"), Some("{\"a\":\"2\"}"));
        check(&turned.replace("[7, ", "[8, "), Some("{\"a\":\"1\"}"));
        check(&turned.replace("\"1\"", "\"3\""), Some("only one has {\"a\":\"1\"}"));
        check(r#"{"resultType": "vector", "result": []}"#, Some("2 series and 0"));
    }

    #[test]
    fn answers_that_cannot_be_read_are_errors() {
        for text in [
            r#"{"resultType": "vector", "result": [{"metric": {}, "value": [7]}]}"#,
            r#"{"resultType": "vector", "result": [{"metric": {}, "value": [7, "x"]}]}"#,
            r#"{"resultType": "vector", "result": {}}"#,
            r#"{"resultType": "picture"}"#,
            r#"{"resultType": "vector", "result": [{"metric": {}, "value": [7, "1"]}, {"metric": {}, "value": [7, "1"]}]}"#,
        ] {
            assert!(Series::read(&serde_json::from_str(text).unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn agreement_has_to_be_about_something() {
        let agreement = |not_empty, differences: &[&str]| {
            let differences = differences.iter().map(|&text| text.to_owned()).collect();
            Agreement { asked: 4, not_empty, differences }.conclude().map_err(|error| error.to_string())
        };
        assert_eq!(agreement(3, &[]), Ok("4 answers agree, 3 of them with something in them".into()));
        assert_eq!(agreement(0, &[]), Err("all 4 answers were empty, which proves nothing".into()));
        assert_eq!(agreement(3, &["up: a"]), Err("1 of 4 answers differ:\nup: a".into()));
    }

    #[test]
    fn remarks_are_no_queries() {
        assert_eq!(queries("# x\n\n up \nsum(up)"), ["up", "sum(up)"]);
        assert!(queries(QUERIES).len() > 10);
    }
}
