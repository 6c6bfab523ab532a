//! The unit file that takes the place of another one: ours, with the user, folders, limits and variables of the other.

use super::{Report, Setup, Verdict};
use std::path::Path;

/// The unit file of the packages.
const OURS: &str = include_str!("../../../../packaging/ringscrape.service");
/// Settings of the other unit that stay as they are.
const PRESERVED: [&str; 18] = [
    "WorkingDirectory",
    "Environment",
    "EnvironmentFile",
    "Slice",
    "CPUAffinity",
    "AllowedCPUs",
    "CPUQuota",
    "CPUWeight",
    "MemoryMax",
    "MemoryHigh",
    "IOWeight",
    "Nice",
    "OOMScoreAdjust",
    "SupplementaryGroups",
    "LoadCredential",
    "BindPaths",
    "BindReadOnlyPaths",
    "ReadWritePaths",
];
/// Settings that ours has its own value for, which is no news.
const REPLACED: [&str; 46] = [
    "Type",
    "User",
    "Group",
    "ExecStart",
    "ExecReload",
    "Restart",
    "RestartSec",
    "RestartPreventExitStatus",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "TimeoutSec",
    "SendSIGKILL",
    "KillSignal",
    "KillMode",
    "LimitNOFILE",
    "LimitMEMLOCK",
    "LimitNPROC",
    "LimitCORE",
    "NotifyAccess",
    "WatchdogSec",
    "UMask",
    "StateDirectory",
    "StateDirectoryMode",
    "CapabilityBoundingSet",
    "AmbientCapabilities",
    "NoNewPrivileges",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "PrivateDevices",
    "DeviceAllow",
    "DevicePolicy",
    "PrivateTmp",
    "PrivateUsers",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectSystem",
    "RemoveIPC",
    "RestrictNamespaces",
    "RestrictRealtime",
    "SyslogIdentifier",
    "SystemCallArchitectures",
];
/// Ports below need a capability.
const PORT_FREE_MIN: u16 = 1024;

/// Our unit for these arguments.
pub fn text(setup: &Setup, arguments: &[String], data_folder: &Path, report: &mut Report) -> String {
    let source = &setup.source;
    let (user, group) = match (&source.unit, source.service("User")) {
        (None, _) => ("ringscrape", None),
        (Some(_), Some(user)) => (user, source.service("Group")),
        (Some(_), None) => {
            report.add(Verdict::Same, "the user is root", "as before; another User= needs the data folder given to it");
            ("root", None)
        }
    };
    let mut kept = String::new();
    for (section, name, value) in source.unit.iter().flatten().filter(|(section, ..)| section == "Service") {
        if PRESERVED.contains(&name.as_str()) {
            kept.push_str(&format!("{name}={value}\n"));
        } else if !REPLACED.contains(&name.as_str()) {
            report.add(
                Verdict::Different,
                &format!("{name}={value}"),
                &format!("not taken over into [{section}] of the unit"),
            );
        }
    }
    let mut out = String::new();
    let mut command = String::from("ExecStart=/usr/bin/ringscrape");
    for argument in arguments {
        command.push_str(" \\\n    ");
        command.push_str(&quoted(argument));
    }
    let needs_port = needs_privileged_port(arguments);
    let is_at_home = ["/home", "/root", "/run/user"].iter().any(|home| data_folder.starts_with(home));
    for line in OURS.lines() {
        let name = line.split('=').next().unwrap_or_default();
        match name {
            "Environment" | "EnvironmentFile" | "StateDirectoryMode" => {}
            "# The data folder. Another --storage.tsdb.path needs ReadWritePaths" => {
                out.push_str("# The data folder.\n")
            }
            "StateDirectory" => {
                out.push_str(&format!("ReadWritePaths={}\n", quoted(&data_folder.display().to_string())))
            }
            "ExecStart" => out.push_str(&format!("{kept}{command}\n")),
            "User" => out.push_str(&format!("User={user}\n")),
            "Group" => group.iter().for_each(|group| out.push_str(&format!("Group={group}\n"))),
            "ProtectHome" if is_at_home => out.push_str("# The data folder is in a home.\nProtectHome=no\n"),
            "CapabilityBoundingSet" | "AmbientCapabilities" if needs_port => {
                out.push_str(&format!("{name}=CAP_NET_BIND_SERVICE\n"));
            }
            "PrivateUsers" if needs_port => {
                out.push_str("# A port below 1024 is one of the machine's own users.\nPrivateUsers=no\n")
            }
            "After" => {
                out.push_str(line);
                // Starting this one stops the other, and waits for its end.
                if let Some(other) = setup.unit_name() {
                    out.push_str(&format!(" {other}\nConflicts={other}"));
                }
                out.push('\n');
            }
            _ => out.push_str(&format!("{line}\n")),
        }
    }
    out
}

fn needs_privileged_port(arguments: &[String]) -> bool {
    let addresses = arguments.iter().filter_map(|argument| argument.strip_prefix("--web.listen-address="));
    let port = |address: &str| address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    addresses.filter_map(port).any(|port| port < PORT_FREE_MIN)
}

/// A word as ExecStart reads it.
fn quoted(word: &str) -> String {
    let text = word.replace('%', "%%").replace('$', "$$");
    let is_plain = |c: char| !c.is_whitespace() && !"\"'\\;".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_systemd_would_read_them_otherwise() {
        for (word, want) in [
            ("--a=b", "--a=b"),
            ("--a=b c", "\"--a=b c\""),
            ("--a=5%", "--a=5%%"),
            ("--a=^x$", "--a=^x$$"),
            (r#"--a="\d""#, r#""--a=\"\\d\"""#),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(word), want);
        }
    }

    #[test]
    fn ports_below_1024_are_seen() {
        let needs = |argument: &str| needs_privileged_port(&[argument.to_owned()]);
        assert!(needs("--web.listen-address=:80") && needs("--web.listen-address=[::]:443"));
        assert!(!needs("--web.listen-address=:9090") && !needs("--query.timeout=1m"));
    }
}
