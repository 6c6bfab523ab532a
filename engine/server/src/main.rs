//! The program ringscrape: command line, boot, reload, shutdown.
//!
//! Exit codes of the server, those of Prometheus where it has one (docs/operations.md): 0 ended as asked, 1 something else
//! than the following, 2 wrong arguments or a configuration that cannot be used, 3 this machine does not allow what is
//! needed, or flags of the server and the agent together. The tools: 0 good, 1 bad.

mod backfill;
mod check;
mod check_files;
mod cli;
mod debug;
mod discover;
mod flags;
mod fleet;
mod generate;
mod log;
mod migrate;
mod preview;
mod reload;
mod rules;
mod serve;
mod service_manager;
mod state_dump;
mod tool;
mod tsdb_cmd;

use std::process::ExitCode;

/// The scrape path allocates little, but bodies, rows and answers come in all sizes on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    generate::print_and_exit();
    let cli = cli::Cli::parse_args(std::env::args());
    match &cli.command {
        Some(cli::Command::Check { what: cli::Check::Config { files, agent } }) => check::config(files, *agent),
        Some(cli::Command::Check { what: cli::Check::WebConfig { files } }) => check::web_config(files),
        Some(cli::Command::Fleet { what }) => fleet::run(what),
        Some(cli::Command::Check { what: cli::Check::Rules { files, lint_fatal } }) => rules::check(files, *lint_fatal),
        Some(cli::Command::Test { what: cli::Test::Rules { files, run } }) => rules::test(files, run.as_deref()),
        Some(cli::Command::Discover(options)) => discover::run(options),
        Some(cli::Command::Preview(options)) => preview::run(options),
        Some(cli::Command::Tsdb { what }) => tsdb_cmd::run(what),
        Some(cli::Command::Migrate(options)) => migrate::run(options),
        Some(cli::Command::Debug(options)) => debug::run(options),
        Some(cli::Command::Generate { folder }) => generate::run(folder),
        None => serve::run(&cli),
    }
}
