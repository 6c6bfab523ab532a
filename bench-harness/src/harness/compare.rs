//! Runs contenders on one farm, one after the other, over rounds, and measures each in the same way.
//!
//! A run: start, wait until ready, warm up, then the window in which CPU time, bytes and scrapes are counted; after it,
//! in this order, so that none disturbs the one before: memory, acceptance, system calls, queries, federation, recording
//! rules, kill -9 and a start on what was kept. The order of contenders turns by one with each round, so that a neighbour's busy minute
//! does not always meet the same one.
//!
//! Per sample means: per sample that the farm served in the window, by its own count. That all of them have arrived is
//! checked against the contender's counter (or the sink's) over its whole life, which has no edges to argue about.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::contender::{Contender, RunPaths};
use crate::farm::{Farm, Served, Sink};
use crate::http::Client;
use crate::machine::{self, Machine};
use crate::process::{self, Process};
use crate::results::{
    Acceptance, Evaluated, FORMAT, Outcome, QueryMeasurement, Restart, Results, Round, Runs, Skipped,
};
use crate::rules;
use crate::scenario::{Rules, Scenario};
use crate::statistics::Spread;

const READY_PATIENCE: Duration = Duration::from_secs(120);
/// From ready to the last target's first scrape, beyond the warm-up.
const FIRST_SCRAPES_PATIENCE: Duration = Duration::from_secs(120);
/// Samples may be on their way for so long after the window: batches, retries, a log that is synced each second.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(30);
/// A start after a kill may replay for so long.
const RESTART_PATIENCE: Duration = Duration::from_secs(600);
/// For counting system calls.
const SYSTEM_CALLS_S: u64 = 5;

/// What to run.
#[derive(Debug)]
pub struct Plan {
    pub scenario: Scenario,
    pub contenders: Vec<Contender>,
    /// The contender that the others are divided by.
    pub base: String,
    /// Data folders and logs go below it.
    pub work: PathBuf,
    /// For the report: how to do it again.
    pub command: String,
}

/// Everything a run needs besides the contender.
struct Field<'a> {
    scenario: &'a Scenario,
    work: &'a Path,
    farm: Farm,
    progress: Progress,
}

/// Lines on stderr that say where we are.
struct Progress {
    start: Instant,
    heading: String,
}

impl Progress {
    fn report(&self, what: &str) {
        let elapsed = self.start.elapsed().as_secs();
        eprintln!("[{:3}:{:02}] {}{what}", elapsed / 60, elapsed % 60, self.heading);
    }
}

/// Runs all; a contender that fails is a line of the results, not an end.
pub fn run(plan: Plan) -> anyhow::Result<Results> {
    let Plan { scenario, contenders, base, work, command } = plan;
    // A folder of ours alone: what was left of a run before is nobody's data.
    let work = tempfile::Builder::new().prefix("run-").tempdir_in(&work)?;
    let machine = Machine::here();
    let mut skipped = Vec::new();
    let mut runs = Vec::new();
    let mut programs = Vec::new();
    for contender in contenders {
        match contender.find() {
            None => {
                let why = format!("no program \"{}\" on this machine", contender.program);
                skipped.push(Skipped { title: contender.title, why });
            }
            Some(program) => {
                let version = contender.version(&program);
                let (name, title, stores) = (contender.name.clone(), contender.title.clone(), contender.stores);
                runs.push(Runs { name, title, version, stores, rounds: Vec::new() });
                programs.push((contender, program));
            }
        }
    }
    ensure!(!runs.is_empty(), "no contender's program is on this machine; scripts/bench-deps installs Debian's");
    eprintln!("{}: {}", scenario.name, scenario.line());
    eprintln!("{}", machine.line());
    runs.iter().for_each(|run| eprintln!("  {} ({})", run.title, run.version));
    skipped.iter().for_each(|absent| eprintln!("  left out: {}: {}", absent.title, absent.why));
    let count = runs.len() * scenario.rounds;
    eprintln!("{count} runs, about {} minutes", (count as u64 * scenario.run_s()).div_ceil(60));

    let farm = Farm::start(&scenario, work.path())?;
    let progress = Progress { start: Instant::now(), heading: String::new() };
    let mut field = Field { scenario: &scenario, work: work.path(), farm, progress };
    for round in 0..scenario.rounds {
        for at in order(runs.len(), round) {
            let (contender, program) = &programs[at];
            field.progress.heading = format!("round {}/{}, {}: ", round + 1, scenario.rounds, contender.title);
            let outcome = match field.run(contender, program) {
                Ok(result) => Outcome::Measured(Box::new(result)),
                Err(error) => {
                    field.progress.report(&format!("failed: {error:#}"));
                    Outcome::Failed(format!("{error:#}"))
                }
            };
            runs[at].rounds.push(outcome);
        }
    }
    let base = if runs.iter().any(|run| run.name == base) { base } else { runs[0].name.clone() };
    let date = machine::date(machine::now_s());
    Ok(Results { format: FORMAT, date, command, machine, scenario, base, contenders: runs, skipped })
}

/// Who comes when in a round.
fn order(contenders: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |place| (place + round) % contenders)
}

/// A contender at work.
struct RunningContender {
    process: Process,
    client: Client,
    sink: Option<Sink>,
    /// What the farm had served before it began.
    before: Served,
}

impl RunningContender {
    /// Samples that it says have arrived.
    fn counted(&self, contender: &Contender) -> anyhow::Result<u64> {
        match &self.sink {
            Some(sink) => sink.samples(),
            None => Ok(self.client.counter(&contender.counter)? as u64),
        }
    }
}

impl Field<'_> {
    /// Starts a contender once, measures it, removes what it kept.
    fn run(&self, contender: &Contender, program: &Path) -> anyhow::Result<Round> {
        // Not named after the contender alone: a run before may have failed half-way.
        let folder = tempfile::Builder::new().prefix(&format!("{}-", contender.name)).tempdir_in(self.work)?;
        self.measure(contender, program, folder.path()).map_err(|error| {
            let log = std::fs::read_to_string(folder.path().join("output.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(5)..].join("\n");
            if last.is_empty() { error } else { error.context(format!("its last words:\n{last}\n")) }
        })
    }

    fn measure(&self, contender: &Contender, program: &Path, folder: &Path) -> anyhow::Result<Round> {
        let scenario = self.scenario;
        let load = machine::load();
        let data = folder.join("data");
        std::fs::create_dir(&data)?;
        self.progress.report("starting");
        let port = free_port()?;
        let sink = contender.forwards().then(|| Sink::start(scenario.cpus_farm.as_deref(), folder)).transpose()?;
        let config = folder.join("prometheus.yml");
        let sink_port = sink.as_ref().map_or(0, |sink| sink.port);
        let targets = &self.farm.targets_file;
        let places = RunPaths { program, config: &config, data: &data, targets, port, sink_port };
        std::fs::write(&config, self.config(contender, &places))?;
        let before = self.farm.served()?;
        self.farm.reset()?;
        let client = Client::local(port, Duration::from_secs(scenario.answer_s));
        let process = self.start(contender, &places, folder)?;
        let mut running = RunningContender { process, client, sink, before };
        running.process.wait_until("to be ready", READY_PATIENCE, || running.client.is_ok(&contender.ready))?;

        self.progress.report(&format!("warming up for {} s", scenario.warm_up_s));
        self.sleep(&mut running.process, scenario.warm_up_s)?;
        let mut seen = 0;
        running.process.wait_until("every target's first scrape", FIRST_SCRAPES_PATIENCE, || {
            seen = self.farm.served().map_or(seen, |served| served.targets_seen);
            seen >= scenario.targets as u64
        })?;

        self.progress.report(&format!("measuring for {} s", scenario.duration_s));
        let (mut round, cpu_per_s) = self.window(&mut running, &data)?;
        round.load = load;
        round.acceptance = self.acceptance(contender, &running)?;
        let per_million = (round.cpu_user_s + round.cpu_system_s) / round.samples as f64 * 1e6;
        self.progress
            .report(&format!("{per_million:.3} CPU s per million samples, {} MB", round.rss_bytes / 1_000_000));

        round.syscalls_per_scrape = self.system_calls(&running);
        if contender.stores {
            for query in &scenario.queries {
                self.progress.report(&format!("query: {}", query.name));
                let asked = self.measure_query(&running, &query.name, &query.path, &query.parameters(), cpu_per_s);
                round.queries.push(asked);
            }
        }
        if let Some(selector) = scenario.federate.as_ref().filter(|_| contender.federates) {
            self.progress.report("federation");
            round.federation =
                Some(self.measure_query(&running, "federation", "/federate", &[("match[]", selector)], cpu_per_s));
        }
        if let Some(rules) = scenario.rules.as_ref().filter(|_| contender.stores) {
            self.progress.report(&format!("{} recording rules for {} s", rules.count, rules.duration_s));
            round.rules = Some(self.evaluate(&mut running, rules, &config, folder, cpu_per_s)?);
        }
        if scenario.restart {
            self.progress.report("kill -9, and a start on what it has kept");
            round.restart = Some(self.restart(contender, running, &places, folder)?);
        }
        Ok(round)
    }

    fn config(&self, contender: &Contender, places: &RunPaths) -> String {
        let Scenario { interval_s, .. } = self.scenario;
        format!(
            "global:\n  scrape_interval: {interval_s}s\n  scrape_timeout: {}s\nscrape_configs:\n  - job_name: farm\n    \
             file_sd_configs:\n      - files: ['{}']\n{}",
            self.scenario.timeout_s(),
            places.targets.display(),
            places.fill(&contender.config),
        )
    }

    fn start(&self, contender: &Contender, places: &RunPaths, folder: &Path) -> anyhow::Result<Process> {
        let arguments =
            contender.arguments.iter().chain(&self.scenario.arguments).map(|argument| places.fill(argument));
        let cpus = self.scenario.cpus_contender.as_deref();
        Process::start(&contender.title, places.program, arguments, cpus, &folder.join("output.log"))
    }

    fn sleep(&self, process: &mut Process, seconds: u64) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            process.check_alive()?;
            std::thread::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_secs(1)));
        }
        Ok(())
    }

    /// The window; returns CPU seconds per second as well, for what runs beside scraping.
    fn window(&self, running: &mut RunningContender, data: &Path) -> anyhow::Result<(Round, f64)> {
        self.farm.reset()?;
        let served_before = self.farm.served()?;
        let folder_before = process::folder_bytes(data);
        let written_before = running.process.bytes_written();
        let cpu_before = running.process.cpu()?;
        let start = Instant::now();
        self.sleep(&mut running.process, self.scenario.duration_s)?;
        let cpu = running.process.cpu()?;
        let window_s = start.elapsed().as_secs_f64();
        let served = self.farm.served()?;
        let written = running.process.bytes_written();
        let folder_bytes = process::folder_bytes(data);
        let memory = running.process.memory()?;
        let scrapes = served.scrapes_ever - served_before.scrapes_ever;
        let samples = served.samples_ever - served_before.samples_ever;
        ensure!(scrapes > 0, "not one scrape in {} s", self.scenario.duration_s);
        let round = Round {
            window_s,
            scrapes,
            samples,
            targets: served.targets_seen,
            series: (samples as f64 / scrapes as f64 * served.targets_seen as f64) as u64,
            cpu_user_s: cpu.user_s - cpu_before.user_s,
            cpu_system_s: cpu.system_s - cpu_before.system_s,
            rss_bytes: memory.rss_bytes,
            anonymous_bytes: memory.anonymous_bytes,
            bytes_written: written_before.zip(written).map(|(before, after)| after.saturating_sub(before)),
            bytes_kept: folder_bytes as i64 - folder_before as i64,
            folder_bytes,
            missed: served.missed,
            overlaps: served.overlaps,
            deviation_mean_us: served.deviation_mean_us,
            deviation_max_us: served.deviation_max_us,
            deviation_p99_ms: served.deviation_p99_ms,
            deviation_p999_ms: served.deviation_p999_ms,
            ..Round::default()
        };
        let cpu_per_s = (round.cpu_user_s + round.cpu_system_s) / window_s;
        Ok((round, cpu_per_s))
    }

    /// Waits until what was served has been counted, then looks that no more was than could be.
    fn acceptance(&self, contender: &Contender, running: &RunningContender) -> anyhow::Result<Acceptance> {
        let since_start = |served: Served| served.samples_ever - running.before.samples_ever;
        let served = since_start(self.farm.served()?);
        let end = Instant::now() + ARRIVAL_PATIENCE;
        let mut counted = running.counted(contender)?;
        while counted < served && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(250));
            counted = running.counted(contender)?;
        }
        let now = self.farm.served()?;
        let scrapes_now = now.scrapes_ever - running.before.scrapes_ever;
        let churn = self.scenario.churn_percent / 100.0;
        let fault = judge(counted, served, since_start(now), scrapes_now * contender.extra_samples_max, churn);
        Ok(Acceptance { served, counted, fault })
    }

    fn system_calls(&self, running: &RunningContender) -> Option<f64> {
        if !process::on_path("perf") {
            return None;
        }
        let before = self.farm.served().ok()?;
        let seconds = SYSTEM_CALLS_S.max(self.scenario.interval_s).min(self.scenario.duration_s);
        let calls = running.process.system_calls(Duration::from_secs(seconds))?;
        let scrapes = self.farm.served().ok()?.scrapes_ever - before.scrapes_ever;
        (scrapes > 0).then_some(calls as f64 / scrapes as f64)
    }

    fn measure_query(
        &self,
        running: &RunningContender,
        name: &str,
        path: &str,
        parameters: &[(&str, &str)],
        cpu_per_s: f64,
    ) -> QueryMeasurement {
        let mut walls = Vec::new();
        let mut cpus = Vec::new();
        let mut answer_bytes = 0;
        let mut once = || -> anyhow::Result<()> {
            let (before, start) = (running.process.cpu_of_threads_s()?, Instant::now());
            let answer = running.client.get(path, parameters)?;
            let beside = cpu_per_s * start.elapsed().as_secs_f64();
            cpus.push(1e3 * (running.process.cpu_of_threads_s()? - before - beside).max(0.0));
            walls.push(1e3 * answer.wall_s);
            answer_bytes = answer.body.len() as u64;
            Ok(())
        };
        let fault = (0..self.scenario.repeats).find_map(|_| once().err()).map(|error| format!("{error:#}"));
        let median = |values: Vec<f64>| Spread::of(values).map_or(0.0, |spread| spread.median);
        QueryMeasurement { name: name.to_owned(), wall_ms: median(walls), cpu_ms: median(cpus), answer_bytes, fault }
    }

    /// Has rules evaluated for a while, beside scraping.
    fn evaluate(
        &self,
        running: &mut RunningContender,
        rules: &Rules,
        config: &Path,
        folder: &Path,
        cpu_per_s: f64,
    ) -> anyhow::Result<Evaluated> {
        let file = folder.join("rules.yml");
        std::fs::write(&file, rules::file(rules))?;
        let text = std::fs::read_to_string(config)?;
        std::fs::write(config, format!("rule_files: ['{}']\n{text}", file.display()))?;
        running.process.hang_up()?;
        self.sleep(&mut running.process, 2 * rules.interval_s)?;
        self.farm.reset()?;
        let (cpu_before, start) = (running.process.cpu()?, Instant::now());
        self.sleep(&mut running.process, rules.duration_s)?;
        let beside_s = cpu_per_s * start.elapsed().as_secs_f64();
        let cpu_s = running.process.cpu()?.total_s() - cpu_before.total_s() - beside_s;
        let served = self.farm.served()?;
        let ask = |query: String| {
            let data = running.client.api("/api/v1/query", &[("query", query.as_str())]).unwrap_or_default();
            data["result"][0]["value"][1].as_str().and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
        };
        let evaluations = ask(format!("count_over_time({}[{}s])", rules::name(0), rules.duration_s));
        let recorded = ask("count({__name__=~\"bench:requests:rate1m_.*\"})".to_owned());
        let due = rules.duration_s / rules.interval_s;
        let fault = (recorded != rules.count as u64 || evaluations + 1 < due).then(|| {
            format!("{recorded} rules of {} have a result, the first {evaluations} of about {due}", rules.count)
        });
        Ok(Evaluated {
            cpu_ms: 1e3 * cpu_s * rules.interval_s as f64 / rules.duration_s as f64,
            evaluations,
            missed: served.missed,
            deviation_max_us: served.deviation_max_us,
            deviation_p999_ms: served.deviation_p999_ms,
            fault,
        })
    }

    fn restart(
        &self,
        contender: &Contender,
        running: RunningContender,
        places: &RunPaths,
        folder: &Path,
    ) -> anyhow::Result<Restart> {
        let samples = running.counted(contender)?;
        let RunningContender { process, client, .. } = running;
        let mut restart = Restart { samples, rss_before_bytes: process.memory()?.rss_bytes, ..Restart::default() };
        process.kill()?;
        let start = Instant::now();
        let mut process = self.start(contender, places, folder)?;
        let short = Client::local(places.port, Duration::from_secs(5));
        match process.wait_until("to be ready again", RESTART_PATIENCE, || short.is_ok(&contender.ready)) {
            Ok(_) => restart.ready_s = start.elapsed().as_secs_f64(),
            Err(error) => restart.fault = Some(format!("{error:#}")),
        }
        if contender.stores && restart.fault.is_none() {
            // The targets' own samples of before the kill: a scrape after it cannot be at this time.
            let asked_at = (machine::now_s() - start.elapsed().as_secs() - 1).to_string();
            let parameters = [("query", "count(up{job=\"farm\"})"), ("time", asked_at.as_str())];
            let answered = process.wait_until("to answer from what it kept", RESTART_PATIENCE, || {
                let data = client.api("/api/v1/query", &parameters).unwrap_or_default();
                data["result"].as_array().is_some_and(|series| !series.is_empty())
            });
            match answered {
                Ok(_) => restart.answered_s = Some(start.elapsed().as_secs_f64()),
                Err(error) => restart.fault = Some(format!("{error:#}")),
            }
        }
        restart.rss_peak_bytes = process.memory_peak().unwrap_or(0);
        restart.cpu_s = process.cpu().map_or(0.0, |cpu| cpu.total_s());
        Ok(restart)
    }
}

/// What is wrong with a count, if anything is. `served_now` is what the farm had served after the count was taken.
fn judge(counted: u64, served: u64, served_now: u64, extra_max: u64, churn: f64) -> Option<String> {
    if counted < served {
        return Some(format!("{counted} samples arrived of {served} that the farm had served"));
    }
    // A series that ends may get one marker.
    let counted_max = served_now + extra_max + (served_now as f64 * churn).ceil() as u64;
    (counted > counted_max).then(|| {
        format!(
            "{counted} samples were counted where the farm's {served_now} and report series give {counted_max} at most"
        )
    })
}

/// A port that is free now. Another program may take it before ours does; that shows as a failed start.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}

/// Ends the progress with where things are.
pub fn done(path: &Path, faults: &[String]) {
    let mut stderr = std::io::stderr().lock();
    faults.iter().for_each(|fault| _ = writeln!(stderr, "note: {fault}"));
    _ = writeln!(stderr, "{}\n{}", path.display(), path.with_extension("md").display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_turns_with_each_round() {
        let orders: Vec<Vec<usize>> = (0..4).map(|round| order(3, round).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
    }

    #[track_caller]
    fn check(counted: u64, served: u64, served_now: u64, churn: f64, want: Option<&str>) {
        let got = judge(counted, served, served_now, 50, churn);
        assert_eq!(got.is_some(), want.is_some(), "{got:?}");
        assert!(got.unwrap_or_default().contains(want.unwrap_or_default()));
    }

    #[test]
    fn counts_are_judged_on_both_sides() {
        check(1_000, 1_000, 1_000, 0.0, None);
        check(1_150, 1_000, 1_100, 0.0, None);
        check(999, 1_000, 1_000, 0.0, Some("999 samples arrived of 1000"));
        check(1_151, 1_000, 1_100, 0.0, Some("give 1150 at most"));
        check(1_151, 1_000, 1_100, 0.1, None);
    }
}
