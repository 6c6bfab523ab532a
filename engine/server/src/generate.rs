//! Man pages and completions for shells, made of the command line itself.

use crate::cli::Cli;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Writes `man1/*.1` and a completion for each shell into this folder, under the names that distributions use.
pub fn run(folder: &Path) -> ExitCode {
    crate::tool::end(write_all(folder).map(|()| true))
}

fn write_all(folder: &Path) -> anyhow::Result<()> {
    let pages = folder.join("man1");
    std::fs::create_dir_all(&pages)?;
    let mut command = Cli::command();
    command.build();
    write_pages(&command, "ringscrape", &pages)?;
    for (shell, name) in [(Shell::Bash, "ringscrape"), (Shell::Zsh, "_ringscrape"), (Shell::Fish, "ringscrape.fish")] {
        std::fs::write(folder.join(name), completion(shell))?;
    }
    Ok(())
}

/// The page of a command, and those of its subcommands: `ringscrape-check-config.1`.
fn write_pages(command: &clap::Command, name: &str, folder: &Path) -> anyhow::Result<()> {
    std::fs::write(folder.join(format!("{name}.1")), page(command, name)?)?;
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        if subcommand.get_name() != "help" {
            write_pages(subcommand, &format!("{name}-{}", subcommand.get_name()), folder)?;
        }
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str) -> anyhow::Result<Vec<u8>> {
    // The page's title is that of its file; clap knows the words of a subcommand with blanks between them.
    let title = name.to_uppercase();
    let mut text = Vec::new();
    let command = command.clone().display_name(name.to_owned());
    clap_mangen::Man::new(command).title(title).section("1").date("").manual("ringscrape").render(&mut text)?;
    Ok(text)
}

fn completion(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ringscrape", &mut text);
    text
}

/// Answers the hidden flags of Prometheus that print something about the command line.
pub fn answer(flag: &str) -> Option<Vec<u8>> {
    match flag {
        "--help-long" => Some(Cli::command().render_long_help().to_string().into_bytes()),
        "--help-man" => page(&Cli::command(), "ringscrape").ok(),
        "--completion-script-bash" => Some(completion(Shell::Bash)),
        "--completion-script-zsh" => Some(completion(Shell::Zsh)),
        _ => None,
    }
}

/// Prints such an answer and ends the process, if the arguments ask for one.
pub fn print_and_exit() {
    let Some(text) = std::env::args().skip(1).find_map(|argument| answer(&argument)) else { return };
    // A reader that has seen enough is no failure.
    let _ = std::io::stdout().write_all(&text);
    std::process::exit(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_a_completion() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let server = read("man1/ringscrape.1");
        assert!(server.contains("storage.tsdb.retention.time"), "{server}");
        assert!(read("man1/ringscrape-tsdb-create-blocks-from-openmetrics.1").contains("OpenMetrics"));
        assert!(!folder.path().join("man1/ringscrape-generate.1").exists(), "a hidden command has none");
        for shell in ["ringscrape", "_ringscrape", "ringscrape.fish"] {
            assert!(read(shell).contains("web.enable-lifecycle"), "{shell}");
        }
    }

    #[test]
    fn hidden_flags_of_prometheus_print() {
        for (flag, want) in [
            ("--help-long", "Usage"),
            ("--help-man", ".TH"),
            ("--completion-script-bash", "complete"),
            ("--completion-script-zsh", "#compdef ringscrape"),
        ] {
            assert!(String::from_utf8(answer(flag).unwrap()).unwrap().contains(want), "{flag}");
        }
        assert!(answer("--help").is_none());
    }
}
