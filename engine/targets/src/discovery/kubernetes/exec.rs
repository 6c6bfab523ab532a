//! Credentials by a command that a kubeconfig names (ExecCredential of client.authentication.k8s.io).
//!
//! Invariants:
//!   * a command ends within [`COMMAND_WITHIN`] or is killed, and at most [`OUTPUT_BYTES_MAX`] of its output are read
//!   * what a command writes is shown nowhere

use config::Tree;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest time that a command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// Size of the output of a command, in bytes.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// How often a running command is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Credentials are renewed so long before they expire.
const RENEW_BEFORE: Duration = Duration::from_secs(30);

/// A command of a kubeconfig.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecCommand {
    api_version: String,
    command: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    /// What the command is told of the cluster, if it wants to know.
    cluster: Option<Value>,
}

/// What a command has given.
#[derive(Clone, Default)]
pub struct ExecCredentials {
    pub token: String,
    pub certificate: String,
    pub key: String,
    pub holds_until: Option<Instant>,
}

impl ExecCommand {
    /// Reads the section `exec` of a user. `folder` is the base of a relative command; `cluster` the section of the cluster.
    pub fn read(exec: &Tree, cluster: &Tree, folder: &Path) -> Result<ExecCommand, String> {
        let api_version = text(exec, "apiVersion");
        if !["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"].contains(&api_version) {
            return Err(format!(
                "users: exec: apiVersion {api_version:?} is not known; use client.authentication.k8s.io/v1"
            ));
        }
        let command = text(exec, "command");
        if command.is_empty() {
            return Err("users: exec: command is missing".to_owned());
        }
        if text(exec, "interactiveMode") == "Always" {
            return Err("users: exec: interactiveMode Always needs a terminal".to_owned());
        }
        // A name without a slash is looked for in the PATH.
        let command = if command.contains('/') { folder.join(command) } else { PathBuf::from(command) };
        let arguments = list(exec, "args").iter().map(|item| scalar(item).to_owned()).collect();
        let variables = list(exec, "env").iter();
        let variables = variables.map(|item| (text(item, "name").to_owned(), text(item, "value").to_owned())).collect();
        let cluster = (text(exec, "provideClusterInfo") == "true").then(|| {
            json!({
                "server": text(cluster, "server"),
                "tls-server-name": text(cluster, "tls-server-name"),
                "certificate-authority-data": text(cluster, "certificate-authority-data"),
                "insecure-skip-tls-verify": text(cluster, "insecure-skip-tls-verify") == "true",
            })
        });
        Ok(ExecCommand { api_version: api_version.to_owned(), command, arguments, variables, cluster })
    }

    /// Runs the command. Blocks.
    pub fn run(&self) -> Result<ExecCredentials, String> {
        let name = self.command.display();
        let failed = |why: String| format!("users: exec: {name}: {why}");
        let mut spec = json!({"interactive": false});
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        let info = json!({"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec});
        let mut child = Command::new(&self.command)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let output = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.map(|output| output.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut bytes));
            (read.is_some_and(|read| read.is_ok()), bytes)
        });
        let deadline = Instant::now() + COMMAND_WITHIN;
        let status = loop {
            match child.try_wait().map_err(|error| failed(error.to_string()))? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(failed(format!("did not end within {COMMAND_WITHIN:?}")));
                }
                None => std::thread::sleep(LOOK_EVERY),
            }
        };
        if !status.success() {
            return Err(failed(status.to_string()));
        }
        // Something that the command has left running may hold its output open: it is not waited for longer.
        while !reader.is_finished() {
            if Instant::now() > deadline {
                return Err(failed("its output does not end".to_owned()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let (is_read, bytes) = reader.join().map_err(|_| failed("its output could not be read".to_owned()))?;
        if !is_read || bytes.len() as u64 > OUTPUT_BYTES_MAX {
            return Err(failed(format!("its output has more than {OUTPUT_BYTES_MAX} bytes or could not be read")));
        }
        credentials(&bytes).map_err(failed)
    }
}

/// Reads the output of a command.
fn credentials(output: &[u8]) -> Result<ExecCredentials, String> {
    let answer: Value = serde_json::from_slice(output).map_err(|_| "its output is no JSON".to_owned())?;
    if answer["kind"] != "ExecCredential" {
        return Err("its output is no ExecCredential".to_owned());
    }
    let text = |name: &str| answer["status"][name].as_str().unwrap_or_default().to_owned();
    let found = ExecCredentials {
        token: text("token"),
        certificate: text("clientCertificateData"),
        key: text("clientKeyData"),
        holds_until: expires(&text("expirationTimestamp")),
    };
    if found.token.is_empty() && (found.certificate.is_empty() || found.key.is_empty()) {
        return Err("its output has neither a token nor a certificate with its key".to_owned());
    }
    Ok(found)
}

/// Returns when to renew credentials that expire at a time such as `2026-01-02T03:04:05Z`.
fn expires(text: &str) -> Option<Instant> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || !text.ends_with('Z')
    {
        return None;
    }
    // Days since 1970 of the calendar (Howard Hinnant's algorithm).
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).saturating_sub(719_468);
    let at = Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Instant::now().checked_add(at.saturating_sub(now).saturating_sub(RENEW_BEFORE))
}

fn field<'a>(map: &'a Tree, name: &str) -> Option<&'a Tree> {
    match map {
        Tree::Map(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, value)| value),
        _ => None,
    }
}

fn scalar(tree: &Tree) -> &str {
    match tree {
        Tree::Text(text) | Tree::Plain(text) => text,
        _ => "",
    }
}

fn text<'a>(map: &'a Tree, name: &str) -> &'a str {
    field(map, name).map_or("", scalar)
}

fn list<'a>(map: &'a Tree, name: &str) -> &'a [Tree] {
    match field(map, name) {
        Some(Tree::List(items)) => items,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(script: &str) -> ExecCommand {
        let yaml = format!(
            "{{apiVersion: client.authentication.k8s.io/v1, command: sh, args: ['-c', {}], env: [{{name: X, value: hush}}], provideClusterInfo: true}}",
            serde_json::to_string(script).unwrap()
        );
        let cluster = config::parse_yaml("{server: 'https://k'}").unwrap();
        ExecCommand::read(&config::parse_yaml(&yaml).unwrap(), &cluster, Path::new("/")).unwrap()
    }

    #[test]
    fn commands_give_credentials() {
        let script = r#"echo "{\"kind\": \"ExecCredential\", \"status\": {\"token\": \"$X-$(echo $KUBERNETES_EXEC_INFO | wc -c)\", \"expirationTimestamp\": \"2100-02-28T23:59:59Z\"}}""#;
        let found = command(script).run().unwrap();
        assert!(found.token.starts_with("hush-") && found.token.len() == 8, "{}", found.token);
        let years = found.holds_until.unwrap().duration_since(Instant::now()).as_secs() / (365 * 86_400);
        assert!((50..80).contains(&years), "{years} years");
        for (script, want) in [
            ("echo hush; exit 3", "exit status: 3"),
            ("echo hush", "no JSON"),
            ("echo '{}'", "no ExecCredential"),
            (r#"echo '{"kind": "ExecCredential", "status": {"clientCertificateData": "x"}}'"#, "neither a token"),
            ("yes hush | head -c 2000000; exit 0", "more than 1048576 bytes"),
        ] {
            let Err(error) = command(script).run() else { panic!("{script}: good") };
            assert!(error.contains(want) && !error.contains("hush"), "{script}: {error}");
        }
    }

    #[test]
    fn sections_that_cannot_be_run_are_refused() {
        let read = |yaml: &str| {
            let tree = config::parse_yaml(yaml).unwrap();
            ExecCommand::read(&tree, &Tree::Map(Vec::new()), Path::new("/etc")).map(|command| command.command)
        };
        let version = "apiVersion: client.authentication.k8s.io/v1beta1";
        assert_eq!(read(&format!("{{{version}, command: ./get}}")), Ok(PathBuf::from("/etc/./get")));
        assert!(read("{command: x}").unwrap_err().contains("apiVersion \"\""));
        assert!(read(&format!("{{{version}}}")).unwrap_err().contains("command is missing"));
        assert!(read(&format!("{{{version}, command: x, interactiveMode: Always}}")).unwrap_err().contains("terminal"));
        assert_eq!(expires("soon"), None);
        assert_eq!(expires("2026-13-02T03:04:05Z"), None);
    }
}
