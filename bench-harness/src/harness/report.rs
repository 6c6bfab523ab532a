//! Results as text: ratios first, then figures with their spread, then everything that a doubter would ask.

use std::fmt::Write;

use crate::results::{Outcome, Results, Round, Runs};
use crate::statistics::{Spread, count_of, digits};

/// A figure of a round, if it has one.
type Figure = Box<dyn Fn(&Round) -> Option<f64>>;

/// One measured quantity; less of it is better.
pub struct Metric {
    pub title: String,
    pub unit: &'static str,
    of: Figure,
    /// Whether it says something of contenders that only forward.
    forwarders_too: bool,
}

impl Metric {
    fn new(title: &str, unit: &'static str, of: impl Fn(&Round) -> Option<f64> + 'static) -> Self {
        Self { title: title.to_owned(), unit, of: Box::new(of), forwarders_too: true }
    }

    fn stores_only(mut self) -> Self {
        self.forwarders_too = false;
        self
    }

    /// A value per round.
    pub fn values(&self, runs: &Runs) -> Vec<Option<f64>> {
        if runs.stores || self.forwarders_too { runs.values(&self.of) } else { vec![None; runs.rounds.len()] }
    }
}

/// All of them, in the order of the report. Queries are those that the scenario has.
pub fn metrics(results: &Results) -> Vec<Metric> {
    let per_million = |seconds: f64, samples: u64| Some(seconds / samples as f64 * 1e6);
    let per = |bytes: f64, count: u64| Some(bytes / count as f64);
    let mut metrics = vec![
        Metric::new("CPU", "s per million samples", move |r| per_million(r.cpu_user_s + r.cpu_system_s, r.samples)),
        Metric::new("CPU, user", "s per million samples", move |r| per_million(r.cpu_user_s, r.samples)),
        Metric::new("CPU, system", "s per million samples", move |r| per_million(r.cpu_system_s, r.samples)),
        Metric::new("memory (RSS)", "bytes per series", move |r| per(r.rss_bytes as f64, r.series)),
        Metric::new("anonymous memory", "bytes per series", move |r| per(r.anonymous_bytes as f64, r.series)),
        Metric::new("written to disk", "bytes per sample", move |r| per(r.bytes_written? as f64, r.samples)),
        Metric::new("kept on disk", "bytes per sample", move |r| per(r.bytes_kept as f64, r.samples)).stores_only(),
        Metric::new("system calls", "per scrape", |r| r.syscalls_per_scrape),
        Metric::new("ready after kill -9", "s", |r| Some(r.restart.as_ref()?.ready_s)),
        Metric::new("ready after kill -9", "s per million stored samples", move |r| {
            let restart = r.restart.as_ref().filter(|restart| restart.fault.is_none())?;
            per_million(restart.ready_s, restart.samples)
        })
        .stores_only(),
        Metric::new("answers after kill -9", "s", |r| r.restart.as_ref()?.answered_s),
        Metric::new("answers after kill -9", "s per million stored samples", move |r| {
            let restart = r.restart.as_ref()?;
            per_million(restart.answered_s?, restart.samples)
        }),
        Metric::new("most memory until then (RSS)", "times that before the kill", |r| {
            let restart = r.restart.as_ref().filter(|restart| restart.rss_peak_bytes > 0)?;
            Some(restart.rss_peak_bytes as f64 / restart.rss_before_bytes as f64)
        }),
    ];
    for (at, query) in results.scenario.queries.iter().enumerate() {
        let asked = move |r: &Round| r.queries.get(at).filter(|asked| asked.fault.is_none()).cloned();
        metrics.push(Metric::new(&format!("query: {}", query.name), "ms", move |r| Some(asked(r)?.wall_ms)));
        metrics.push(Metric::new(&format!("query: {}", query.name), "CPU ms", move |r| Some(asked(r)?.cpu_ms)));
    }
    let federation = |r: &Round| r.federation.clone().filter(|asked| asked.fault.is_none());
    metrics.push(Metric::new("federation", "ms", move |r| Some(federation(r)?.wall_ms)));
    metrics.push(Metric::new("federation", "CPU ms", move |r| Some(federation(r)?.cpu_ms)));
    let rules = |r: &Round| r.rules.clone().filter(|rules| rules.fault.is_none());
    metrics.push(Metric::new("recording rules", "CPU ms per evaluation", move |r| Some(rules(r)?.cpu_ms)));
    metrics.push(Metric::new("scrapes beside rules, largest deviation", "ms", move |r| {
        Some(rules(r)?.deviation_max_us as f64 / 1e3)
    }));
    metrics
}

/// The whole report, in Markdown.
pub fn markdown(results: &Results) -> String {
    let mut out = format!("# Comparison: {}, {}\n\n", results.scenario.name, results.date);
    _ = writeln!(out, "{} {}.\n", results.scenario.about, results.scenario.line());
    _ = writeln!(out, "Machine: {}. Again: `{}`.\n", results.machine.line(), results.command);
    for runs in &results.contenders {
        _ = writeln!(out, "- {}: {}", runs.title, runs.version);
    }
    for absent in &results.skipped {
        _ = writeln!(out, "- left out: {} ({})", absent.title, absent.why);
    }
    ratios(results, &mut out);
    figures(results, &mut out);
    punctuality(results, &mut out);
    acceptance(results, &mut out);
    let faults = results.faults();
    if !faults.is_empty() {
        out.push_str("\n## To be seen with these figures\n\n");
        faults.iter().for_each(|fault| _ = writeln!(out, "- {}", fault.trim().replace('\n', "; ")));
    }
    out
}

fn ratios(results: &Results, out: &mut String) {
    let Some(base) = results.base() else { return };
    let others: Vec<&Runs> = results.contenders.iter().filter(|runs| runs.name != base.name).collect();
    if others.is_empty() {
        return;
    }
    _ = writeln!(out, "\n## Ratios to {}\n", base.title);
    let rounds = count_of(results.scenario.rounds);
    _ = writeln!(out, "How many times as much each takes; in brackets the least and the most of {rounds}.\n");
    table_head(out, others.iter().map(|runs| runs.title.as_str()));
    for metric in metrics(results) {
        let below = metric.values(base);
        let cells: Vec<Option<Spread>> =
            others.iter().map(|runs| Spread::of_ratios(&metric.values(runs), &below)).collect();
        let cell = |ratio: Option<Spread>| match ratio {
            None => "-".to_owned(),
            Some(s) if s.min == s.max => format!("**{}**", digits(s.median)),
            Some(s) => format!("**{}** ({} to {})", digits(s.median), digits(s.min), digits(s.max)),
        };
        if cells.iter().any(Option::is_some) {
            row(out, &metric, cells.into_iter().map(cell));
        }
    }
}

fn figures(results: &Results, out: &mut String) {
    _ = writeln!(out, "\n## Figures\n\nLeast, median and most of {}.\n", count_of(results.scenario.rounds));
    table_head(out, results.contenders.iter().map(|runs| runs.title.as_str()));
    for metric in metrics(results) {
        let cells: Vec<Option<Spread>> =
            results.contenders.iter().map(|runs| Spread::of(metric.values(runs).into_iter().flatten())).collect();
        let cell = |spread: Option<Spread>| match spread {
            None => "-".to_owned(),
            Some(s) if s.min == s.max => digits(s.median),
            Some(s) => format!("{} / **{}** / {}", digits(s.min), digits(s.median), digits(s.max)),
        };
        if cells.iter().any(Option::is_some) {
            row(out, &metric, cells.into_iter().map(cell));
        }
    }
}

fn table_head<'a>(out: &mut String, titles: impl Iterator<Item = &'a str>) {
    let titles: Vec<&str> = titles.collect();
    _ = writeln!(out, "| | | {} |", titles.join(" | "));
    _ = writeln!(out, "| --- | --- |{}", " --- |".repeat(titles.len()));
}

fn row(out: &mut String, metric: &Metric, cells: impl Iterator<Item = String>) {
    _ = writeln!(out, "| {} | {} | {} |", metric.title, metric.unit, cells.collect::<Vec<_>>().join(" | "));
}

fn punctuality(results: &Results, out: &mut String) {
    out.push_str(
        "\n## Punctuality\n\nAs the farm saw it: how far the time between two scrapes of a target was from the interval, \
         and scrapes that never came.\n\n\
         | | round | scrapes | missed | overlapping | mean ms | 99 % within ms | 99.9 % within ms | largest ms |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let bound = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
    each_round(results, |runs, number, r| {
        _ = writeln!(
            out,
            "| {} | {number} | {} | {} | {} | {} | {} | {} | {} |",
            runs.title,
            r.scrapes,
            r.missed,
            r.overlaps,
            digits(r.deviation_mean_us as f64 / 1e3),
            bound(r.deviation_p99_ms),
            bound(r.deviation_p999_ms),
            digits(r.deviation_max_us as f64 / 1e3),
        );
    });
}

fn acceptance(results: &Results, out: &mut String) {
    out.push_str(
        "\n## Samples\n\nServed: by the farm since the contender's start, when the window ended. Counted: by the contender, or \
         by the sink that it sends to, report series included, as soon as it was as many. Per sample means per sample \
         that the farm served in the window.\n\n\
         | | round | load | in the window | served | counted | all there |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    each_round(results, |runs, number, r| {
        let all = if r.acceptance.fault.is_none() { "yes" } else { "no" };
        let (served, counted) = (r.acceptance.served, r.acceptance.counted);
        let (title, load, samples) = (&runs.title, digits(r.load), r.samples);
        _ = writeln!(out, "| {title} | {number} | {load} | {samples} | {served} | {counted} | {all} |");
    });
}

fn each_round(results: &Results, mut show: impl FnMut(&Runs, usize, &Round)) {
    for runs in &results.contenders {
        for (at, outcome) in runs.rounds.iter().enumerate() {
            if let Outcome::Measured(round) = outcome {
                show(runs, at + 1, round);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[track_caller]
    fn check(results: &Results, want: &[&str]) {
        let report = markdown(results);
        want.iter().for_each(|line| assert!(report.contains(line), "no {line} in\n{report}"));
    }

    #[test]
    fn ratios_come_first_and_name_their_spread() {
        let mut results = example();
        check(
            &results,
            &[
                "## Ratios to Ours",
                "| CPU | s per million samples | **10.0** |",
                "| memory (RSS) | bytes per series | **10.0** |",
                "| CPU | s per million samples | 0.125 / **0.1562** / 0.1875 | 1.25 |",
                "| kept on disk | bytes per sample | 1.00 / **1.25** / 1.50 | 10.0 |",
                "- left out: Absent (no program \"absent\" on this machine)",
                "- Theirs & more, round 2: it fell over",
                "| Ours | 1 | 12000 | 0 | 0 | 0 | 1 | 5 | 2.10 |",
            ],
        );
        let report = markdown(&results);
        assert!(report.find("## Ratios").unwrap() < report.find("## Figures").unwrap());
        assert!(!report.contains("system calls"), "a row without a figure:\n{report}");
        results.contenders[1].rounds[1] = results.contenders[0].rounds[1].clone();
        check(&results, &["| CPU | s per million samples | **5.50** (1.00 to 10.0) |"]);
    }

    #[test]
    fn what_forwards_keeps_nothing() {
        let mut results = example();
        results.contenders[1].stores = false;
        check(&results, &["| kept on disk | bytes per sample | 1.00 / **1.25** / 1.50 | - |"]);
    }

    #[test]
    fn a_single_contender_has_figures_and_no_ratios() {
        let mut results = example();
        results.contenders.truncate(1);
        let report = markdown(&results);
        assert!(!report.contains("## Ratios") && report.contains("## Figures"));
    }
}
