//! Prometheus' flags, read as Prometheus reads them, on their way to the command line of `cli`.
//!
//! Invariants:
//!   * every flag of Prometheus 3.14 is in [`PROMETHEUS_FLAGS`]; its value is checked even where nothing acts on it
//!   * what leaves here is in a form that clap reads: `--name=value`, or `--name` for a switch that is on

use std::collections::{BTreeMap, BTreeSet};

/// Arguments after `@file` has been expanded, nesting of such files, and bytes of one.
const ARGUMENTS_MAX: usize = 10_000;
const FILE_DEPTH_MAX: usize = 16;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a flag's value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// On or off: `--name`, `--no-name`.
    Switch,
    Text,
    /// Read as a float and cut, as in Prometheus: `5e7`, `1.9`.
    Integer {
        min: i64,
    },
    /// At most 1 and above 0.
    Ratio,
    /// `15s`, `1h30m`.
    Duration,
    /// Go's own form of durations: `2ms`, `1.5s`.
    GoDuration,
    Size {
        min: u64,
        max: u64,
    },
    OneOf(&'static [&'static str]),
    Regex,
}

/// Where Prometheus takes a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Both,
    Server,
    Agent,
}

/// One flag of Prometheus.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    /// As `/api/v1/status/flags` shows it.
    pub default: &'static str,
    pub mode: Mode,
    /// Whether this build acts on it: then clap knows it as well.
    pub acts: bool,
}

const fn acts(name: &'static str, kind: Kind, default: &'static str, mode: Mode) -> Flag {
    Flag { name, kind, default, mode, acts: true }
}

const fn passive(name: &'static str, kind: Kind, default: &'static str, mode: Mode) -> Flag {
    Flag { name, kind, default, mode, acts: false }
}

use Kind::{Duration, GoDuration, Integer, OneOf, Ratio, Regex, Size, Switch, Text};
use Mode::{Agent, Both, Server};

const ANY: Kind = Integer { min: i64::MIN };
const NOT_NEGATIVE: Kind = Integer { min: 0 };
const COMPRESSIONS: Kind = OneOf(&["snappy", "zstd"]);
const WAL_SEGMENT: Kind = Size { min: 10 << 20, max: 256 << 20 };
const MESSAGES: Kind = OneOf(&["prometheus.WriteRequest", "io.prometheus.write.v2.Request"]);

/// Every flag of Prometheus 3.14, hidden ones included, and behind them those of older versions that are still taken.
#[rustfmt::skip]
pub const PROMETHEUS_FLAGS: &[Flag] = &[
    acts("config.file", Text, "prometheus.yml", Both),
    acts("config.auto-reload", Switch, "false", Both),
    acts("config.auto-reload-interval", Duration, "30s", Both),
    acts("web.listen-address", Text, "0.0.0.0:9090", Both),
    acts("web.config.file", Text, "", Both),
    acts("web.max-connections", Integer { min: 1 }, "512", Both),
    acts("web.read-timeout", Duration, "5m", Both),
    acts("web.external-url", Text, "", Both),
    acts("web.route-prefix", Text, "", Both),
    acts("web.enable-lifecycle", Switch, "false", Both),
    acts("web.enable-admin-api", Switch, "false", Both),
    acts("web.enable-remote-write-receiver", Switch, "false", Both),
    passive("web.remote-write-receiver.accepted-protobuf-messages", MESSAGES, "prometheus.WriteRequest,io.prometheus.write.v2.Request", Both),
    acts("web.enable-otlp-receiver", Switch, "false", Both),
    acts("web.max-notifications-subscribers", NOT_NEGATIVE, "16", Both),
    passive("web.console.templates", Text, "consoles", Both),
    passive("web.console.libraries", Text, "console_libraries", Both),
    passive("web.user-assets", Text, "", Both),
    passive("web.page-title", Text, "Prometheus Time Series Collection and Processing Server", Both),
    acts("web.cors.origin", Regex, "", Both),
    passive("web.search.max-limit", NOT_NEGATIVE, "10000", Server),
    passive("auto-gomaxprocs", Switch, "true", Both),
    passive("auto-gomemlimit", Switch, "true", Both),
    passive("auto-gomemlimit.ratio", Ratio, "0.9", Both),
    passive("auto-gomemlimit.refresh-interval", Duration, "0s", Both),
    acts("storage.tsdb.path", Text, "data/", Server),
    acts("storage.tsdb.retention.time", Duration, "0s", Server),
    acts("storage.tsdb.retention.size", Size { min: 0, max: u64::MAX }, "0B", Server),
    acts("storage.tsdb.min-block-duration", Duration, "2h", Server),
    acts("storage.tsdb.max-block-duration", Duration, "0s", Server),
    passive("storage.tsdb.max-block-chunk-segment-size", Size { min: 1 << 20, max: u64::MAX }, "512MB", Server),
    passive("storage.tsdb.wal-segment-size", WAL_SEGMENT, "128MB", Server),
    passive("storage.tsdb.no-lockfile", Switch, "false", Server),
    passive("storage.tsdb.head-chunks-write-queue-size", ANY, "0", Server),
    passive("storage.tsdb.samples-per-chunk", ANY, "120", Server),
    passive("storage.tsdb.allow-overlapping-compaction", Switch, "true", Server),
    passive("storage.tsdb.wal-compression", Switch, "true", Server),
    passive("storage.tsdb.wal-compression-type", COMPRESSIONS, "snappy", Server),
    passive("storage.tsdb.delayed-compaction.max-percent", ANY, "10", Server),
    passive("storage.tsdb.delay-compact-file.path", Text, "", Server),
    passive("storage.tsdb.block-reload-interval", Duration, "1m", Server),
    acts("storage.agent.path", Text, "data-agent/", Agent),
    passive("storage.agent.wal-segment-size", WAL_SEGMENT, "128MB", Agent),
    passive("storage.agent.wal-compression", Switch, "true", Agent),
    passive("storage.agent.wal-compression-type", COMPRESSIONS, "snappy", Agent),
    acts("storage.agent.wal-truncate-frequency", Duration, "2h", Agent),
    acts("storage.agent.retention.min-time", Duration, "5m", Agent),
    acts("storage.agent.retention.max-time", Duration, "4h", Agent),
    passive("storage.agent.no-lockfile", Switch, "false", Agent),
    passive("storage.agent.checkpoint-from-in-memory-series", Switch, "false", Agent),
    passive("storage.agent.checkpoint-batch-size", Integer { min: 1 }, "1000", Agent),
    acts("agent", Switch, "false", Both),
    acts("storage.remote.flush-deadline", Duration, "1m", Both),
    acts("storage.remote.read-sample-limit", NOT_NEGATIVE, "50000000", Server),
    acts("storage.remote.read-concurrent-limit", NOT_NEGATIVE, "10", Server),
    acts("storage.remote.read-max-bytes-in-frame", NOT_NEGATIVE, "1048576", Server),
    acts("rules.alert.for-outage-tolerance", Duration, "1h", Server),
    acts("rules.alert.for-grace-period", Duration, "10m", Server),
    acts("rules.alert.resend-delay", Duration, "1m", Server),
    acts("rules.max-concurrent-evals", NOT_NEGATIVE, "4", Server),
    passive("scrape.adjust-timestamps", Switch, "true", Both),
    passive("scrape.timestamp-tolerance", GoDuration, "2ms", Both),
    passive("scrape.discovery-reload-interval", Duration, "5s", Both),
    acts("alertmanager.notification-queue-capacity", NOT_NEGATIVE, "10000", Server),
    acts("alertmanager.notification-batch-size", NOT_NEGATIVE, "256", Server),
    acts("alertmanager.drain-notification-queue-on-shutdown", Switch, "true", Server),
    acts("query.lookback-delta", Duration, "5m", Server),
    acts("query.timeout", Duration, "2m", Server),
    acts("query.max-concurrency", NOT_NEGATIVE, "20", Server),
    acts("query.max-samples", NOT_NEGATIVE, "50000000", Server),
    acts("enable-feature", Text, "", Both),
    acts("log.level", OneOf(&["debug", "info", "warn", "error"]), "info", Both),
    acts("log.format", OneOf(&["logfmt", "json"]), "logfmt", Both),
    // Of older versions.
    acts("storage.tsdb.retention", Duration, "", Server),
    passive("storage.tsdb.allow-overlapping-blocks", Switch, "", Server),
    passive("storage.exemplars.exemplars-limit", ANY, "", Server),
    passive("scrape.name-escaping-scheme", Text, "", Both),
];

/// Those of older versions among them.
pub const OLD_FLAGS: [&str; 4] = [
    "storage.tsdb.retention",
    "storage.tsdb.allow-overlapping-blocks",
    "storage.exemplars.exemplars-limit",
    "scrape.name-escaping-scheme",
];

/// Flags that may be given more than once.
const REPEATED: [&str; 3] =
    ["web.listen-address", "enable-feature", "web.remote-write-receiver.accepted-protobuf-messages"];

/// A command line that cannot be used, and the exit code that Prometheus has for it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct FlagError {
    pub text: String,
    pub exit_code: u8,
}

/// Exit codes of Prometheus: arguments that cannot be read, and flags of server and agent together.
const EXIT_USAGE: u8 = 2;
const EXIT_MODE: u8 = 3;

fn usage(text: impl Into<String>) -> FlagError {
    FlagError { text: text.into(), exit_code: EXIT_USAGE }
}

/// Arguments as clap reads them, and the flags that were given without effect.
#[derive(Debug, Default)]
pub struct Normalized {
    pub arguments: Vec<String>,
    pub passive: BTreeMap<String, String>,
}

/// Reads arguments (without the program's name). `switches` are our own flags that are on or off.
///
/// # Errors
///
/// What Prometheus refuses: a value that is none, a flag given twice, flags of another mode, a file that cannot be read.
pub fn normalize(arguments: Vec<String>, switches: &BTreeSet<String>) -> Result<Normalized, FlagError> {
    let arguments = expand(arguments, 0)?;
    // The tools have their own command lines.
    if arguments.first().is_some_and(|first| !first.starts_with('-')) {
        return Ok(Normalized { arguments, ..Normalized::default() });
    }
    let mut out = Normalized::default();
    let mut given: Vec<&'static Flag> = Vec::new();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            out.arguments.push(argument);
            out.arguments.extend(arguments);
            break;
        }
        let Some(text) = argument.strip_prefix("--") else {
            out.arguments.push(argument);
            continue;
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let (flag, negated) = match (find(name), name.strip_prefix("no-").and_then(find)) {
            (Some(flag), _) => (flag, false),
            (None, Some(flag)) if flag.kind == Switch => (flag, true),
            _ => {
                match name.strip_prefix("no-").filter(|name| switches.contains(*name)) {
                    // A switch of ours is off unless it is given.
                    Some(_) if value.is_none() => {}
                    _ => out.arguments.push(argument),
                }
                continue;
            }
        };
        let value = match (flag.kind, value) {
            (Switch, None) => (!negated).to_string(),
            (Switch, Some(value)) if !negated && matches!(value.as_str(), "true" | "false") => value,
            (Switch, Some(value)) => return Err(usage(format!("unexpected {value}"))),
            (_, Some(value)) => value,
            (_, None) => match arguments.next_if(|next| next == "-" || !next.starts_with('-')) {
                Some(value) => value,
                None => return Err(usage(format!("expected argument for flag '--{name}'"))),
            },
        };
        if given.iter().any(|other| other.name == flag.name) && !REPEATED.contains(&flag.name) {
            return Err(usage(format!("flag '{}' cannot be repeated", flag.name)));
        }
        given.push(flag);
        let value = checked(flag, value).map_err(|text| usage(format!("--{}: {text}", flag.name)))?;
        out.add(flag, value);
    }
    check_modes(&given, out.arguments.iter().any(|argument| argument == "--agent"))?;
    Ok(out)
}

impl Normalized {
    fn add(&mut self, flag: &Flag, value: String) {
        if !flag.acts {
            let known = self.passive.entry(flag.name.to_owned()).or_default();
            if !known.is_empty() && REPEATED.contains(&flag.name) {
                known.push(',');
                known.push_str(&value);
            } else {
                *known = value;
            }
            return;
        }
        match (flag.kind, value.as_str()) {
            // clap has this one with a value, for its default is on.
            (Switch, _) if flag.default == "true" => self.arguments.push(format!("--{}={value}", flag.name)),
            (Switch, "true") => self.arguments.push(format!("--{}", flag.name)),
            // Charts leave empty what they have no value for.
            (Switch, _) => {}
            (Text | Regex, "") if flag.default.is_empty() => {}
            _ => self.arguments.push(format!("--{}={value}", flag.name)),
        }
    }
}

fn find(name: &str) -> Option<&'static Flag> {
    PROMETHEUS_FLAGS.iter().find(|flag| flag.name == name)
}

/// The value in the form that clap reads, or why it is none.
fn checked(flag: &Flag, value: String) -> Result<String, String> {
    match flag.kind {
        Switch => {}
        Text if value.is_empty() && !flag.default.is_empty() && flag.acts => {
            return Err(format!("a value is required; the default is {}", flag.default));
        }
        Text => {}
        Integer { min } => return integer(&value, min).map(|number| number.to_string()),
        Ratio => {
            let ratio = value.parse::<f64>().ok().filter(|ratio| *ratio > 0.0 && *ratio <= 1.0);
            ratio.ok_or_else(|| format!("{value:?} must be above 0 and at most 1"))?;
        }
        Duration => drop(config::parse_duration(&value).map_err(|error| error.to_string())?),
        GoDuration => go_duration(&value)?,
        Size { min, max } => {
            let bytes = config::parse_size(&value).map_err(|error| error.to_string())?;
            if bytes < min || bytes > max {
                let (min, max) = (config::format_size(min), config::format_size(max));
                return Err(format!("{value:?} is not between {min} and {max}"));
            }
        }
        OneOf(names) => {
            // Prometheus takes levels in any case, and everything else as it is written.
            let value = if flag.name == "log.level" { value.to_ascii_lowercase() } else { value };
            if !names.contains(&value.as_str()) {
                return Err(format!("must be one of {}, not {value:?}", names.join(", ")));
            }
            return Ok(value);
        }
        Regex => {
            regex::Regex::new(&format!("^(?:{value})$")).map_err(|error| format!("{value:?} is no regex: {error}"))?;
        }
    }
    Ok(value)
}

/// Reads `5e7`, `1.9` (as 1) and plain numbers.
fn integer(text: &str, min: i64) -> Result<i64, String> {
    let plain = text.parse::<i64>().ok();
    let is_number =
        !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let cut = || text.parse::<f64>().ok().filter(|number| is_number && number.abs() < 9e15).map(|number| number as i64);
    let number = plain.or_else(cut).ok_or_else(|| format!("{text:?} is not a number"))?;
    if number < min {
        return Err(match min {
            0 => format!("{text} must not be negative"),
            _ => format!("{text} must be at least {min}"),
        });
    }
    Ok(number)
}

/// Looks whether this is a duration as Go writes it.
fn go_duration(text: &str) -> Result<(), String> {
    let invalid = || format!("{text:?} is not a duration; write a number and a unit, such as 2ms");
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(());
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, tail) = rest.split_at(digits);
        number.parse::<f64>().map_err(|_| invalid())?;
        let unit = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"]
            .into_iter()
            .find(|unit| tail.strip_prefix(unit).is_some_and(|after| !after.starts_with(|c: char| c.is_alphabetic())));
        rest = &tail[unit.ok_or_else(invalid)?.len()..];
    }
    Ok(())
}

/// Prometheus refuses flags of the server in agent mode, and flags of the agent outside.
fn check_modes(given: &[&'static Flag], is_agent: bool) -> Result<(), FlagError> {
    let (wrong, words) = match is_agent {
        true => (Server, "The following flag(s) can not be used in agent mode"),
        false => (Agent, "The following flag(s) can only be used in agent mode"),
    };
    let names: Vec<String> =
        given.iter().filter(|flag| flag.mode == wrong).map(|flag| format!("\"--{}\"", flag.name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(FlagError { text: format!("{words}: [{}]", names.join(" ")), exit_code: EXIT_MODE })
}

/// Puts the lines of files in the place of `@file`.
fn expand(arguments: Vec<String>, depth: usize) -> Result<Vec<String>, FlagError> {
    let mut out = Vec::new();
    let mut is_positional = false;
    for argument in arguments {
        is_positional |= argument == "--";
        match argument.strip_prefix('@') {
            Some("") if !is_positional => return Err(usage("expected @ file to expand arguments from")),
            Some(file) if !is_positional => {
                if depth == FILE_DEPTH_MAX {
                    return Err(usage(format!("arguments file {file:?} is nested more than {FILE_DEPTH_MAX} deep")));
                }
                out.extend(expand(read_arguments(file)?, depth + 1)?);
            }
            _ => out.push(argument),
        }
        if out.len() > ARGUMENTS_MAX {
            return Err(usage(format!("more than {ARGUMENTS_MAX} arguments")));
        }
    }
    Ok(out)
}

/// The lines of a file of arguments, without blank ones and those that begin with `#`.
fn read_arguments(file: &str) -> Result<Vec<String>, FlagError> {
    let failed = |error: String| usage(format!("failed to open arguments file {file:?}: {error}"));
    let length = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(format!("it has {length} bytes, more than {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Normalized, FlagError> {
        let switches = BTreeSet::from(["own".to_owned()]);
        normalize(arguments.iter().map(ToString::to_string).collect(), &switches)
    }

    #[track_caller]
    fn check(arguments: &[&str], want: &[&str]) {
        let found = read(arguments).unwrap();
        assert_eq!(found.arguments, want, "{arguments:?}");
    }

    #[track_caller]
    fn check_error(arguments: &[&str], want: &str, exit_code: u8) {
        let error = read(arguments).unwrap_err();
        assert!(error.text.contains(want) && error.exit_code == exit_code, "{arguments:?}: {error}");
    }

    #[test]
    fn flags_become_what_clap_reads() {
        check(
            &["--config.file", "a.yml", "--web.enable-lifecycle"],
            &["--config.file=a.yml", "--web.enable-lifecycle"],
        );
        check(&["--no-web.enable-lifecycle", "--no-config.auto-reload", "--no-own", "--own"], &["--own"]);
        check(
            &["--query.max-samples=5e7", "--query.max-concurrency", "1.9"],
            &["--query.max-samples=50000000", "--query.max-concurrency=1"],
        );
        check(&["--web.config.file=", "--web.external-url="], &[]);
        check(&["--log.level=WARN"], &["--log.level=warn"]);
        const DRAIN: &str = "alertmanager.drain-notification-queue-on-shutdown";
        check(&[&format!("--no-{DRAIN}")], &[&format!("--{DRAIN}=false")]);
        check(&["check", "config", "--no-such"], &["check", "config", "--no-such"]);
        check(
            &["--shards=2", "--web.federation-listen-address", ":1"],
            &["--shards=2", "--web.federation-listen-address", ":1"],
        );
        let passive =
            read(&["--no-storage.tsdb.allow-overlapping-compaction", "--web.page-title", "x y"]).unwrap().passive;
        assert_eq!(passive["storage.tsdb.allow-overlapping-compaction"], "false");
        assert_eq!(passive["web.page-title"], "x y");
    }

    #[test]
    fn every_flag_is_taken_with_its_default_and_switches_with_their_negation() {
        for flag in PROMETHEUS_FLAGS {
            let agent = if flag.mode == Agent { &["--agent"][..] } else { &[] };
            let with = |argument: String| read(&[agent, &[argument.as_str()]].concat());
            if flag.kind == Switch {
                for form in ["--", "--no-"] {
                    with(format!("{form}{}", flag.name)).unwrap();
                }
                assert!(with(format!("--{}=x", flag.name)).is_err());
            } else if !flag.default.is_empty() {
                let value = flag.default.split(',').next().unwrap();
                with(format!("--{}={value}", flag.name)).unwrap();
                assert!(
                    with(format!("--no-{}", flag.name)).unwrap().arguments.len() == 1 + agent.len(),
                    "clap refuses it"
                );
            }
        }
    }

    #[test]
    fn what_prometheus_refuses_is_refused() {
        check_error(
            &["--web.page-title", "--web.enable-lifecycle"],
            "expected argument for flag '--web.page-title'",
            2,
        );
        check_error(&["--storage.tsdb.path=a", "--storage.tsdb.path=b"], "cannot be repeated", 2);
        check_error(&["--no-agent", "--agent"], "cannot be repeated", 2);
        check_error(&["--no-agent=true"], "unexpected true", 2);
        check_error(&["--web.read-timeout=5"], "not a valid duration", 2);
        check_error(&["--query.max-samples=0x10"], "not a number", 2);
        check_error(&["--query.max-samples=nan"], "not a number", 2);
        check_error(&["--query.max-samples=-1"], "must not be negative", 2);
        check_error(&["--auto-gomemlimit.ratio=2"], "at most 1", 2);
        check_error(&["--storage.tsdb.wal-compression-type=lz4"], "must be one of snappy, zstd", 2);
        check_error(&["--storage.tsdb.wal-segment-size=1MB"], "between 10MiB and 256MiB", 2);
        check_error(&["--scrape.timestamp-tolerance=2"], "not a duration", 2);
        check_error(&["--web.cors.origin=("], "regex", 2);
        check_error(&["--storage.tsdb.path="], "a value is required", 2);
        check_error(&["--agent", "--query.timeout=1m"], "can not be used in agent mode: [\"--query.timeout\"]", 3);
        check_error(&["--storage.agent.path=x"], "can only be used in agent mode: [\"--storage.agent.path\"]", 3);
        read(&["--scrape.timestamp-tolerance=1.5ms", "--web.listen-address=:1", "--web.listen-address=:2"]).unwrap();
    }

    #[test]
    fn files_hold_arguments() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("inner"), "--web.page-title\r\n a title\r\n").unwrap();
        let inner = format!("@{}", path("inner"));
        std::fs::write(path("outer"), format!("# comment\n\n--web.enable-lifecycle\n{inner}\n")).unwrap();
        let outer = format!("@{}", path("outer"));
        let found = read(&[&outer, "--log.level=debug"]).unwrap();
        assert_eq!(found.arguments, ["--web.enable-lifecycle", "--log.level=debug"]);
        assert_eq!(found.passive["web.page-title"], " a title");
        std::fs::write(path("loop"), format!("@{}", path("loop"))).unwrap();
        check_error(&[&format!("@{}", path("loop"))], "nested", 2);
        check_error(&["@/nowhere"], "failed to open arguments file \"/nowhere\"", 2);
        check_error(&["@"], "expected @ file", 2);
        check(&["--shards=1", "--", "@x"], &["--shards=1", "--", "@x"]);
    }
}
