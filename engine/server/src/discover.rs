//! `ringscrape discover FILE [JOB]`: asks each source of discovery once and prints what it yields, before and after relabelling.

use crate::cli::Discover as Options;
use crate::tool::say;
use config::ScrapeConfig;
use std::process::ExitCode;
use std::sync::Arc;
use targets::{Pool, SdOptions, SourceAnswer, TargetBuild};

/// Prints a report per job; exit code 1 if a source has failed or a target cannot be scraped.
pub fn run(options: &Options) -> ExitCode {
    match jobs(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringscrape: {error}");
            ExitCode::FAILURE
        }
    }
}

fn jobs(options: &Options) -> Result<bool, String> {
    let file = options.file.display();
    let config = config::load(&options.file, &config::Env::process()).map_err(|errors| errors.to_string())?;
    let is_wanted = |job: &&Arc<ScrapeConfig>| options.job.as_ref().is_none_or(|name| *name == job.job_name);
    let jobs: Vec<&Arc<ScrapeConfig>> = config.scrape_configs.iter().filter(is_wanted).collect();
    if let (Some(name), true) = (&options.job, jobs.is_empty()) {
        let names: Vec<&str> = config.scrape_configs.iter().map(|job| job.job_name.as_str()).collect();
        return Err(format!("{file} has no job {name:?}; it has {}", names.join(", ")));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let sd = SdOptions { keep_in: None, dns_servers: options.dns_servers.clone() };
    let mut is_good = true;
    for job in jobs {
        let (answers, pool) = runtime.block_on(targets::discover_now(job, &sd));
        is_good &= print(job, &answers, &pool, options.targets);
    }
    // A request that nobody waits for any more does not hold up the end.
    runtime.shutdown_background();
    Ok(is_good)
}

/// Prints what the sources of a job have given. Returns whether all is well.
fn print(job: &Arc<ScrapeConfig>, answers: &[SourceAnswer], pool: &Pool, targets_max: usize) -> bool {
    say!("job {:?}", job.job_name);
    let mut is_good = true;
    for answer in answers {
        let count: usize = answer.groups.iter().map(|group| group.targets.len()).sum();
        let milliseconds = answer.time.as_secs_f64() * 1e3;
        let requests = match answer.requests {
            0 => String::new(),
            1 => ", 1 request".to_owned(),
            count => format!(", {count} requests"),
        };
        say!("  {}: {count} targets in {milliseconds:.1} ms{requests}", answer.kind);
        for error in &answer.errors {
            say!("    ERROR {error}");
            is_good = false;
        }
        let all = answer.groups.iter().flat_map(|group| group.targets.iter().map(move |own| (own, &group.labels)));
        let shown_max = if targets_max == 0 { usize::MAX } else { targets_max };
        for (own, shared) in all.take(shown_max) {
            match targets::build(job, own, shared) {
                TargetBuild::Target(target) => {
                    say!("    {}", target.discovered);
                    say!("      -> {} {}", target.url, target.labels);
                }
                TargetBuild::Dropped { discovered } => {
                    say!("    {discovered}");
                    say!("      -> dropped by relabelling");
                }
                TargetBuild::Failed { discovered, error } => {
                    say!("    {discovered}");
                    say!("      -> cannot be scraped: {error}");
                }
            }
        }
        if count > shown_max {
            say!("    and {} more", count - shown_max);
        }
    }
    let (active, dropped, duplicates) = (pool.active.len(), pool.dropped_count, pool.duplicates_count);
    let failed = pool.failed.len();
    say!("  {active} targets to scrape; {dropped} dropped, {duplicates} duplicates, {failed} cannot be scraped");
    is_good && failed == 0
}
