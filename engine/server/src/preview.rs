//! `ringscrape preview`: fetches once and prints what a target would bring.

use crate::cli::Preview as Options;
use crate::tool::say;
use series::Labels;
use shard::Preview;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use targets::{Target, TargetBuild};

/// Prints a report per target; exit code 1 if one has a problem.
pub fn run(options: &Options) -> ExitCode {
    let targets = match find(options) {
        Ok(targets) => targets,
        Err(error) => {
            eprintln!("ringscrape: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut verdict = ExitCode::SUCCESS;
    for target in targets {
        let url = target.url.to_string();
        match shard::preview(target) {
            Ok(preview) => {
                print(&url, &preview, options.top);
                if !preview.problems.is_empty() {
                    verdict = ExitCode::FAILURE;
                }
            }
            Err(error) => {
                eprintln!("ringscrape: {error}");
                return ExitCode::from(3);
            }
        }
    }
    verdict
}

fn find(options: &Options) -> Result<Vec<Target>, String> {
    match &options.config_file {
        Some(file) => of_job(file, &options.url_or_job, options.targets),
        None => of_url(options).map(|target| vec![target]),
    }
}

/// The target behind a URL, in a job with nothing but defaults.
fn of_url(options: &Options) -> Result<Target, String> {
    let text = &options.url_or_job;
    let url =
        url::Url::parse(text).map_err(|error| format!("{text:?} is no URL ({error}); for a job, add --config.file"))?;
    let Some(host) = url.host_str() else { return Err(format!("{text:?} has no host")) };
    let address = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let timeout = config::format_duration(options.timeout);
    let yaml =
        format!("scrape_configs: [{{job_name: preview, scrape_interval: {timeout}, scrape_timeout: {timeout}}}]");
    let config = config::parse_config(Path::new("preview"), &yaml, &config::Env::process());
    let job = config.map_err(|errors| errors.to_string())?.scrape_configs[0].clone();
    let mut labels = vec![
        ("__address__".to_owned(), address),
        ("__scheme__".to_owned(), url.scheme().to_owned()),
        ("__metrics_path__".to_owned(), url.path().to_owned()),
    ];
    labels.extend(url.query_pairs().map(|(name, value)| (format!("__param_{name}"), value.into_owned())));
    match targets::build(&job, &Labels::from_pairs(labels), &Labels::empty()) {
        TargetBuild::Target(target) => Ok(target),
        TargetBuild::Failed { error, .. } => Err(error),
        TargetBuild::Dropped { .. } => unreachable!("the job has no rules"),
    }
}

/// The first targets of a job.
fn of_job(file: &Path, name: &str, count: usize) -> Result<Vec<Target>, String> {
    let config = config::load(file, &config::Env::process()).map_err(|errors| errors.to_string())?;
    let job = config.scrape_configs.iter().find(|job| job.job_name == name);
    let job = job.ok_or_else(|| {
        let names: Vec<&str> = config.scrape_configs.iter().map(|job| job.job_name.as_str()).collect();
        format!("{} has no job {name:?}; it has {}", file.display(), names.join(", "))
    })?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let pool = runtime.block_on(targets::pool_now(job, &targets::SdOptions::default()));
    for error in &pool.source_errors {
        eprintln!("discovery: {error}");
    }
    for failed in &pool.failed {
        eprintln!("cannot be scraped: {} {}", failed.error, failed.discovered);
    }
    if pool.active.is_empty() {
        return Err(format!("job {name:?} has no targets; {} were dropped by relabelling", pool.dropped_count));
    }
    say!("{} targets; the first {} of them:", pool.active.len(), count.min(pool.active.len()));
    Ok(pool.active.into_iter().take(count).map(Arc::unwrap_or_clone).collect())
}

fn print(url: &str, preview: &Preview, top: usize) {
    say!("\n{url}");
    say!("  time      {:.1} ms", preview.duration.as_secs_f64() * 1e3);
    say!("  bytes     {} plain, {} on the wire", preview.body_bytes, preview.wire_bytes);
    say!("  samples   {}", preview.samples);
    say!("  series    {} after relabelling", preview.series);
    let dropped: usize = preview.dropped.values().sum();
    say!("  dropped   {dropped} samples by metric_relabel_configs");
    for problem in &preview.problems {
        say!("  PROBLEM   {problem}");
    }
    let list = |title: &str, rows: Vec<(usize, String)>| {
        if rows.is_empty() {
            return;
        }
        say!("  {title}");
        let mut rows = rows;
        rows.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        for (count, text) in rows.into_iter().take(top) {
            say!("    {count:>8}  {text}");
        }
    };
    list("metrics by series", preview.by_metric.iter().map(|(name, count)| (*count, name.clone())).collect());
    let label = |(name, (values, count)): (&String, &(std::collections::BTreeSet<String>, usize))| {
        (*count, format!("{name} ({} values)", values.len()))
    };
    list("labels by series", preview.by_label.iter().map(label).collect());
    list("dropped by metric", preview.dropped.iter().map(|(name, count)| (*count, name.clone())).collect());
}
