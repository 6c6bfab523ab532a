//! The command line of the program that is moved over: read from a unit file, or from a text that holds it.
//!
//! A text is a shell command, a line of `docker run`, or one argument a line, also as a YAML list as it stands in a manifest.

use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of a unit, of an environment file and of a command line.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Programs that start the one that is looked for.
const LAUNCHERS: [&str; 9] = ["docker", "podman", "nerdctl", "sudo", "env", "exec", "nohup", "setpriv", "taskset"];
/// Their options whose value may have the program's name.
const LAUNCHER_OPTIONS: [&str; 14] = [
    "-v",
    "--volume",
    "--mount",
    "--name",
    "--network",
    "--net",
    "-h",
    "--hostname",
    "-u",
    "--user",
    "-w",
    "--workdir",
    "-l",
    "--label",
];

/// How the other program is started.
#[derive(Debug, Default)]
pub struct Source {
    /// Arguments behind the program's name.
    pub arguments: Vec<String>,
    /// The settings of a unit file, in order: section, name, value.
    pub unit: Option<Vec<(String, String, String)>>,
    /// What could not be followed, for the report.
    pub notes: Vec<String>,
}

impl Source {
    /// The last value of a setting of the unit's section `Service`.
    pub fn service(&self, name: &str) -> Option<&str> {
        self.all_of_service(name).next_back()
    }

    /// All values of such a setting.
    pub fn all_of_service(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        let settings = self.unit.iter().flatten();
        settings
            .filter(move |(section, key, _)| section == "Service" && key == name)
            .map(|(_, _, value)| value.as_str())
    }
}

/// Reads a file of at most [`FILE_BYTES_MAX`].
pub fn read_file(path: &Path) -> anyhow::Result<String> {
    use std::io::Read;
    let failed = |error: std::io::Error| anyhow::anyhow!("{}: {error}", path.display());
    // Before it is opened: opening a pipe waits for a writer.
    anyhow::ensure!(std::fs::metadata(path).map_err(failed)?.is_file(), "{}: this is not a file", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    anyhow::ensure!(text.len() as u64 <= FILE_BYTES_MAX, "{}: more than {FILE_BYTES_MAX} bytes", path.display());
    Ok(text)
}

/// Reads a unit file or a text with a command line. `program` is the name that is looked for in the latter.
///
/// # Errors
///
/// A file that cannot be read, a unit without a command, quotes without an end.
pub fn read(path: &Path, program: &str) -> anyhow::Result<Source> {
    let text = read_file(path)?;
    let is_unit = text.lines().any(|line| line.trim() == "[Service]");
    let source = if is_unit { of_unit(&text) } else { of_text(&text, program) };
    source.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

/// Lines of which those that end with a backslash are joined; without comments and empty ones.
fn joined_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for part in text.lines() {
        let is_comment = part.trim_start().starts_with(['#', ';']);
        if is_comment {
            continue;
        }
        match part.trim_end().strip_suffix('\\') {
            Some(part) => {
                line.push_str(part);
                line.push(' ');
            }
            None => {
                line.push_str(part);
                lines.push(std::mem::take(&mut line));
            }
        }
    }
    lines.push(line);
    lines.retain(|line| !line.trim().is_empty());
    lines
}

fn of_unit(text: &str) -> anyhow::Result<Source> {
    let mut source = Source::default();
    let mut settings = Vec::new();
    let mut section = String::new();
    for line in joined_lines(text) {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=') {
            settings.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    source.unit = Some(settings);
    let variables = variables(&mut source);
    let command = source.service("ExecStart").map(|command| command.trim_start_matches(['-', '@', ':', '+', '!']));
    let Some(command) = command.filter(|command| !command.is_empty()) else {
        anyhow::bail!("the unit has no ExecStart");
    };
    let words = words(command)?;
    let mut arguments = Vec::new();
    for word in words.iter().skip(1) {
        match word.strip_prefix('$').filter(|name| is_variable(name)) {
            // A variable by itself is split at blanks.
            Some(name) => match variables.get(name) {
                Some(value) => arguments.extend(self::words(value)?),
                None => {
                    source.notes.push(format!("${name} in ExecStart is not set by the unit; its flags are not seen"))
                }
            },
            None => arguments.push(expanded(word, &variables)),
        }
    }
    let specifiers = arguments.iter().filter(|argument| argument.contains('%')).cloned().collect::<Vec<_>>();
    for argument in specifiers {
        source.notes.push(format!("{argument}: the unit's specifiers (%) are taken as they are written"));
    }
    source.arguments = arguments;
    Ok(source)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The variables of `Environment=` and, over them, of `EnvironmentFile=`.
fn variables(source: &mut Source) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut notes = Vec::new();
    for assignments in source.all_of_service("Environment") {
        for assignment in words(assignments).unwrap_or_default() {
            if let Some((name, value)) = assignment.split_once('=') {
                variables.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    for file in source.all_of_service("EnvironmentFile") {
        let file = file.strip_prefix('-').unwrap_or(file);
        let text = match read_file(Path::new(file)) {
            Ok(text) => text,
            Err(error) => {
                notes.push(format!("EnvironmentFile: {error}; its flags are not seen"));
                continue;
            }
        };
        for line in joined_lines(&text) {
            let Some((name, value)) = line.trim().split_once('=') else { continue };
            let name = name.trim().trim_start_matches("export ").trim();
            variables.insert(name.to_owned(), unquoted(value.trim()));
        }
    }
    source.notes.extend(notes);
    variables
}

/// A value of an environment file, without the quotes around it.
fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote)) {
            return if quote == '"' { inner.replace("\\\"", "\"").replace("\\\\", "\\") } else { inner.to_owned() };
        }
    }
    value.to_owned()
}

/// The word with `${NAME}` replaced, `$$` and `%%` as the single signs.
fn expanded(word: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(start) = rest.find(['$', '%']) {
        out.push_str(&rest[..start]);
        let tail = &rest[start..];
        let name = tail.strip_prefix("${").and_then(|tail| tail.split_once('}')).filter(|(name, _)| is_variable(name));
        if let Some((name, behind)) = name {
            out.push_str(variables.get(name).map_or("", String::as_str));
            rest = behind;
        } else {
            let sign = &tail[..1];
            out.push_str(sign);
            rest = tail[1..].strip_prefix(sign).unwrap_or(&tail[1..]);
        }
    }
    out + rest
}

fn of_text(text: &str, program: &str) -> anyhow::Result<Source> {
    // An item of a YAML list is an argument of its own.
    let unlisted = |line: &str| line.trim_start().strip_prefix("- ").unwrap_or(line).trim_end_matches(',').to_owned();
    let text: Vec<String> = joined_lines(text).iter().map(|line| unlisted(line)).collect();
    let mut words = words(&text.join("\n"))?;
    let is_program = |index: &usize| {
        let word = &words[*index];
        let is_value = index.checked_sub(1).is_some_and(|before| LAUNCHER_OPTIONS.contains(&words[before].as_str()));
        let name = word.rsplit('/').next().unwrap_or_default();
        let name = name.split(':').next().unwrap_or_default();
        let rest = name.strip_prefix(program).filter(|rest| ["", "-prod", "-agent"].contains(rest));
        rest.is_some() && !is_value && !word.starts_with('-')
    };
    let first = words.first().map_or("", |first| first.rsplit('/').next().unwrap_or_default());
    let behind = if LAUNCHERS.contains(&first) {
        (0..words.len()).find(is_program).map(|index| index + 1)
    } else {
        Some(words.iter().take(1).filter(|word| !word.starts_with(['-', '@'])).count())
    };
    let Some(behind) = behind else { anyhow::bail!("no {program} in this command line") };
    let arguments = words.split_off(behind);
    anyhow::ensure!(!arguments.is_empty(), "no arguments found");
    Ok(Source { arguments, ..Source::default() })
}

/// The words of a line, as a shell and systemd split it: at blanks outside of quotes, with backslashes before signs.
fn words(line: &str) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), character) if open == character => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => match characters.next() {
                Some('\n') | None => {}
                Some(next) if quote.is_none() || matches!(next, '"' | '\\' | '$' | '`') => {
                    word.get_or_insert_default().push(next);
                }
                Some(next) => word.get_or_insert_default().extend(['\\', next]),
            },
            (None, character) if character.is_whitespace() => words.extend(word.take()),
            (_, character) => word.get_or_insert_default().push(character),
        }
    }
    anyhow::ensure!(quote.is_none(), "a quote without an end");
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, text).unwrap();
        assert_eq!(read(&file, "prometheus").unwrap().arguments, want, "{text}");
    }

    #[test]
    fn command_lines_in_all_their_forms() {
        check("/usr/bin/prometheus --a=1 --b 'x y' \\\n  --c=\"d e\"\n", &["--a=1", "--b", "x y", "--c=d e"]);
        check("# args of the pod\n- --a=1\n- \"--b=x y\"\n-   --c\n", &["--a=1", "--b=x y", "--c"]);
        check(
            "--a=1\n--storage.tsdb.path /var/lib/prometheus\n",
            &["--a=1", "--storage.tsdb.path", "/var/lib/prometheus"],
        );
        check(
            "docker run -v /etc/prometheus:/etc/prometheus --name prometheus prom/prometheus:v3.14.0 --a=/etc/prometheus",
            &["--a=/etc/prometheus"],
        );
        check(
            "docker run --rm prom/prometheus --storage.tsdb.path /prometheus --b",
            &["--storage.tsdb.path", "/prometheus", "--b"],
        );
        check("exec /opt/prometheus @flags", &["@flags"]);
    }

    #[test]
    fn units_with_variables_and_continuations() {
        let folder = tempfile::tempdir().unwrap();
        let defaults = folder.path().join("default");
        std::fs::write(&defaults, "# flags\nARGS=\"--a=1 \\\n  --b='x y'\"\nNAME=n\n").unwrap();
        let unit = format!(
            "[Unit]\nDescription=x\n[Service]\nUser=prom\nEnvironment=\"PORT=9090\" ARGS=old\nEnvironmentFile=-{}\n\
             ExecStart=-/usr/bin/prometheus $ARGS --web=:${{PORT}} \\\n  # a comment within\n  --cost=$$5%%\\\n  --n=${{NAME}}\n\
             [Install]\nWantedBy=multi-user.target\n",
            defaults.display()
        );
        check(&unit, &["--a=1", "--b=x y", "--web=:9090", "--cost=$5%", "--n=n"]);
        check("[Service]\nExecStart=/p $MISSING --a\n", &["--a"]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        for (text, want) in [
            ("[Service]\nUser=a\n", "no ExecStart"),
            ("prometheus --a='x", "quote without an end"),
            ("docker run -d nginx --a", "no prometheus"),
            ("", "no arguments"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = read(&file, "prometheus").unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        assert!(read(folder.path(), "prometheus").unwrap_err().to_string().contains("not a file"));
    }
}
