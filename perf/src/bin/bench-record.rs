//! Keeps what `cargo bench` has found, or sets it beside the last record.
//!
//!     bench-record keep       writes perf/results/DATE.json
//!     bench-record compare    the benches as they are now beside the newest record; nothing is written

use perf::record::{Record, collect};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let action = std::env::args().nth(1).unwrap_or_default();
    match run(&action) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: &str) -> Result<String, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let results = Path::new("perf/results");
    let now = || -> Result<Record, String> {
        let benches = collect(&target.join("criterion"))?;
        let (date, commit) =
            (output_of("date", &["-u", "+%F"]), output_of("git", &["describe", "--always", "--dirty"]));
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        Ok(Record { date, commit, machine: machine(), load, benches })
    };
    match action {
        "keep" => {
            let now = now()?;
            let path = now.write(results)?;
            Ok(format!("{}\nkept in {}\n", now.table(), path.display()))
        }
        "compare" => {
            let newest = Record::newest(results).ok_or("no record in perf/results; make bench writes one")?;
            Ok(now()?.compare(&Record::load(&newest)?))
        }
        _ => Err("say keep or compare".to_owned()),
    }
}

/// The first line that a program says; empty if it cannot.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores")
}
