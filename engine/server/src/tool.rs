//! How the tools write text for people and pipes, and how they end.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// 1 where something is wrong with what was looked at, or the tool failed, which it says.
pub fn end(outcome: anyhow::Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // A reader that has seen enough, `head` for example.
        Err(error)
            if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringscrape: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A line on standard output. The program ends where nobody reads any more.
macro_rules! say {
    ($($text:tt)*) => { $crate::tool::line(format_args!($($text)*)) };
}
pub(crate) use say;

pub fn line(text: Arguments) {
    let mut out = std::io::stdout().lock();
    let Err(error) = writeln!(out, "{text}") else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("ringscrape: standard output: {error}");
    std::process::exit(1);
}
