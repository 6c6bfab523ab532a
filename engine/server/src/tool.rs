//! How the tools end that write text for people and pipes.

use std::io::ErrorKind;
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
