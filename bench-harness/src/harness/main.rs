//! The harness: runs programs that scrape side by side on one farm, and makes tables and pictures of what it saw.
//!
//! Knows the contenders as programs only, ringscrape included: what they cost is read from /proc, what they got is read
//! from the farm, and both in the same way for all.

mod agree;
mod compare;
mod contender;
mod farm;
mod fold;
mod http;
mod machine;
mod picture;
mod process;
mod report;
mod results;
mod rules;
mod scenario;
mod sink;
mod statistics;
mod wire;

use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};

use contender::Contender;
use http::Client;
use results::Results;
use scenario::Scenario;

/// Measures programs that scrape, side by side.
#[derive(Parser)]
#[command(name = "harness", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs contenders on one farm over rounds, and writes a results file and a report.
    Compare(Compare),
    /// Writes the report of a results file to stdout.
    Report { results: PathBuf },
    /// Draws the main ratios of a results file.
    Picture {
        results: PathBuf,
        /// The SVG file.
        #[arg(long)]
        out: PathBuf,
    },
    /// Receives remote write, counts and forgets; GET /stats says what came.
    Sink {
        /// Port on 127.0.0.1; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        listen: u16,
    },
    /// Asks two servers the same, and says where they differ.
    Agree(Agree),
    /// Folds a `perf script` on stdin: stacks for flame graphs into a file, the names with most time to stdout.
    Fold {
        /// The file of stacks.
        #[arg(long)]
        out: PathBuf,
        /// How many names.
        #[arg(long, default_value_t = 30)]
        top: usize,
    },
}

#[derive(clap::Args)]
struct Compare {
    /// A name in the folder of scenarios, or a file.
    scenario: String,
    /// Files of contenders.
    #[arg(long, default_value = "bench-harness/contenders")]
    contenders: PathBuf,
    /// Files of scenarios.
    #[arg(long, default_value = "bench-harness/scenarios")]
    scenarios: PathBuf,
    /// Run these only, in this order; else those of the scenario, else all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The contender that the others are divided by.
    #[arg(long, default_value = "ringscrape")]
    base: String,
    /// Where results are kept.
    #[arg(long, default_value = "bench-harness/results")]
    results: PathBuf,
    /// Data of the contenders goes below this folder; it should be on the disk that is to be measured.
    #[arg(long, default_value = "data")]
    work: PathBuf,
    /// Draws the main ratios into this file as well.
    #[arg(long)]
    picture: Option<PathBuf>,
    /// More or fewer rounds than the scenario says.
    #[arg(long)]
    rounds: Option<usize>,
    /// Another measured time than the scenario says, in seconds.
    #[arg(long)]
    duration_s: Option<u64>,
}

#[derive(clap::Args)]
struct Agree {
    #[command(subcommand)]
    what: AgreeWhat,
}

#[derive(Subcommand)]
enum AgreeWhat {
    /// Two that are running, by their URLs.
    Servers {
        left: String,
        right: String,
        /// One query a line; by default those for the farm.
        #[arg(long)]
        queries: Option<PathBuf>,
        /// Unix seconds at which is asked; by default ten seconds ago.
        #[arg(long)]
        at: Option<u64>,
    },
    /// Lets one scrape a small farm, opens its snapshot with the other, and asks both.
    Blocks {
        #[arg(long, default_value = "ringscrape")]
        scraper: String,
        #[arg(long, default_value = "prometheus")]
        reader: String,
        /// Files of contenders.
        #[arg(long, default_value = "bench-harness/contenders")]
        contenders: PathBuf,
        /// How long is scraped.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// One query a line; by default those for the farm.
        #[arg(long)]
        queries: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Compare(wish) => compare(&wish),
        Command::Report { results } => print(&report::markdown(&Results::load(&results)?)),
        Command::Picture { results, out } => draw(&Results::load(&results)?, &out),
        Command::Sink { listen } => sink::serve(listen),
        Command::Agree(Agree { what }) => print(&format!("{}\n", agree(what)?)),
        Command::Fold { out, top } => {
            let folded = fold::Folded::read(BufReader::new(std::io::stdin()))?;
            std::fs::write(&out, folded.lines()).with_context(|| format!("writing {}", out.display()))?;
            print(&folded.top(top))
        }
    }
}

/// Writes to stdout; a reader that has seen enough is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to stdout"),
    }
}

fn compare(wish: &Compare) -> anyhow::Result<()> {
    let named = Path::new(&wish.scenario);
    let file = if named.is_file() { named.into() } else { wish.scenarios.join(format!("{}.toml", wish.scenario)) };
    let mut scenario = Scenario::load(&file)?;
    if let Some(rounds) = wish.rounds {
        ensure!(rounds > 0, "--rounds: at least 1");
        scenario.rounds = rounds;
    }
    if let Some(duration_s) = wish.duration_s {
        ensure!(duration_s >= 2 * scenario.interval_s, "--duration-s: two intervals at least");
        scenario.duration_s = duration_s;
    }
    let wanted = if wish.only.is_empty() { scenario.contenders.clone() } else { wish.only.clone() };
    let contenders = choose(Contender::load_all(&wish.contenders)?, &wanted)?;
    std::fs::create_dir_all(&wish.work).with_context(|| format!("making {}", wish.work.display()))?;
    let work = wish.work.canonicalize()?;
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let command = format!("harness {command}");
    let results = compare::run(compare::Plan { scenario, contenders, base: wish.base.clone(), work, command })?;
    let report = report::markdown(&results);
    let path = results.write(&wish.results, &report)?;
    if let Some(picture) = &wish.picture {
        draw(&results, picture)?;
    }
    print(&report)?;
    compare::done(&path, &results.faults());
    Ok(())
}

fn draw(results: &Results, path: &Path) -> anyhow::Result<()> {
    std::fs::write(path, picture::svg(results)).with_context(|| format!("writing {}", path.display()))
}

/// Those that are wanted, in the order in which they are; all if none is named.
fn choose(all: Vec<Contender>, wanted: &[String]) -> anyhow::Result<Vec<Contender>> {
    if wanted.is_empty() {
        return Ok(all);
    }
    let names: Vec<&str> = all.iter().map(|contender| contender.name.as_str()).collect();
    let one = |name: &String| {
        let found = all.iter().find(|contender| contender.name == *name);
        found.cloned().with_context(|| format!("no contender \"{name}\"; there are {names:?}"))
    };
    wanted.iter().map(one).collect()
}

fn agree(what: AgreeWhat) -> anyhow::Result<String> {
    let text = |file: &Option<PathBuf>| match file {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("reading queries {}", file.display())),
        None => Ok(agree::QUERIES.to_owned()),
    };
    let agreement = match what {
        AgreeWhat::Servers { left, right, queries, at } => {
            let text = text(&queries)?;
            let client = |url: &str| Client::new(url, Duration::from_secs(120));
            let at = at.unwrap_or_else(|| machine::now_s() - 10);
            agree::servers(&client(&left), &client(&right), &agree::queries(&text), at)?
        }
        AgreeWhat::Blocks { scraper, reader, contenders, seconds, queries } => {
            let text = text(&queries)?;
            let two = choose(Contender::load_all(&contenders)?, &[scraper, reader])?;
            agree::blocks(&two[0], &two[1], seconds, &agree::queries(&text))?
        }
    };
    agreement.conclude()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_are_run_in_the_order_asked_for() {
        let contender = |name: &str| {
            let text = "title = \"X\"\nprogram = \"x\"\nready = \"/\"\ncounter = \"c\"\narguments = []";
            Contender::parse(name, text).unwrap()
        };
        let all = || vec![contender("a"), contender("b"), contender("c")];
        let names = |wanted: &[&str]| -> anyhow::Result<Vec<String>> {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.into()).collect();
            Ok(choose(all(), &wanted)?.into_iter().map(|contender| contender.name).collect())
        };
        assert_eq!(names(&[]).unwrap(), ["a", "b", "c"]);
        assert_eq!(names(&["c", "a"]).unwrap(), ["c", "a"]);
        assert!(names(&["d"]).unwrap_err().to_string().contains("no contender \"d\"; there are [\"a\", \"b\", \"c\"]"));
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
