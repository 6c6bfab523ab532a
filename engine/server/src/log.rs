//! Logging as operators of Prometheus know it: one line an event on stderr, logfmt or JSON.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// Starts logging; wrong names are an error for the command line.
pub fn start(level: &str, format: &str) -> Result<(), String> {
    let level = match level {
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" => LevelFilter::ERROR,
        other => return Err(format!("--log.level: {other:?} is none of debug, info, warn, error")),
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_timer(SystemTime)
        .with_writer(std::io::stderr);
    match format {
        "logfmt" => lines.init(),
        "json" => lines.json().init(),
        other => return Err(format!("--log.format: {other:?} is none of logfmt, json")),
    }
    Ok(())
}
