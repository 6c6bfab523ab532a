//! Writes the target list that fits the farm: file_sd JSON or a whole prometheus.yml.
//!
//! Both go through `address::address_of`, the same function by which the farm knows its targets again.

use std::fmt::Write;

use anyhow::ensure;

use crate::address::{TARGETS_MAX, address_of};
use crate::evil::EVILS;

/// The form of the list.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Format {
    /// A JSON list of target groups, for file_sd_configs.
    #[value(name = "file_sd")]
    FileSd,
    /// A whole configuration with static targets.
    Prometheus,
}

/// What the list is to say.
#[derive(Debug)]
pub struct Wish {
    pub count: usize,
    pub port: u16,
    pub format: Format,
    pub interval: String,
    pub timeout: Option<String>,
    /// So many of the targets, the last ones, get a hostile path each, in the order of the table.
    pub hostile: usize,
}

/// The list as text.
pub fn render(wish: &Wish) -> anyhow::Result<String> {
    ensure!(wish.count <= TARGETS_MAX, "{} targets; 127.0.0.0/8 has room for {TARGETS_MAX}", wish.count);
    ensure!(wish.hostile <= wish.count, "{} of {} targets cannot be hostile", wish.hostile, wish.count);
    let good = wish.count - wish.hostile;
    let name = |target: usize| address_of(target).map(|ip| format!("{ip}:{}", wish.port)).unwrap_or_default();
    let evil = |target: usize| EVILS[(target - good) % EVILS.len()].name;
    let mut out = String::new();
    match wish.format {
        Format::FileSd => {
            out.push_str("[\n  {\"targets\": [");
            let names: Vec<String> = (0..good).map(|target| format!("\"{}\"", name(target))).collect();
            _ = write!(out, "{}], \"labels\": {{\"farm\": \"good\"}}}}", names.join(", "));
            for target in good..wish.count {
                let (name, evil) = (name(target), evil(target));
                _ = write!(out, ",\n  {{\"targets\": [\"{name}\"], \"labels\": {{\"farm\": \"hostile\", ");
                _ = write!(out, "\"evil\": \"{evil}\", \"__metrics_path__\": \"/evil/{evil}\"}}}}");
            }
            out.push_str("\n]\n");
        }
        Format::Prometheus => {
            _ = writeln!(out, "global:\n  scrape_interval: {}", wish.interval);
            if let Some(timeout) = &wish.timeout {
                _ = writeln!(out, "  scrape_timeout: {timeout}");
            }
            out.push_str("scrape_configs:\n  - job_name: farm\n    static_configs:\n      - targets:\n");
            (0..good).for_each(|target| _ = writeln!(out, "          - {}", name(target)));
            if wish.hostile > 0 {
                out.push_str("  - job_name: hostile\n    static_configs:\n");
            }
            for target in good..wish.count {
                let (name, evil) = (name(target), evil(target));
                _ = writeln!(out, "      - targets: [\"{name}\"]");
                _ = writeln!(out, "        labels: {{evil: {evil}, __metrics_path__: /evil/{evil}}}");
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: Format, count: usize, hostile: usize, want: &str) {
        let wish = Wish { count, port: 9900, format, interval: "15s".into(), timeout: None, hostile };
        assert_eq!(render(&wish).unwrap(), want);
    }

    #[test]
    fn file_sd_is_a_list_of_groups() {
        let good =
            "[\n  {\"targets\": [\"127.1.0.1:9900\", \"127.1.0.2:9900\"], \"labels\": {\"farm\": \"good\"}}\n]\n";
        check(Format::FileSd, 2, 0, good);
        check(
            Format::FileSd,
            2,
            1,
            "[\n  {\"targets\": [\"127.1.0.1:9900\"], \"labels\": {\"farm\": \"good\"}},\n  \
             {\"targets\": [\"127.1.0.2:9900\"], \"labels\": {\"farm\": \"hostile\", \
             \"evil\": \"never-answers\", \"__metrics_path__\": \"/evil/never-answers\"}}\n]\n",
        );
    }

    #[test]
    fn prometheus_is_a_whole_configuration() {
        check(
            Format::Prometheus,
            2,
            1,
            "global:\n  scrape_interval: 15s\nscrape_configs:\n  - job_name: farm\n    static_configs:\n      \
             - targets:\n          - 127.1.0.1:9900\n  - job_name: hostile\n    static_configs:\n      \
             - targets: [\"127.1.0.2:9900\"]\n        \
             labels: {evil: never-answers, __metrics_path__: /evil/never-answers}\n",
        );
    }

    #[test]
    fn more_hostile_targets_than_targets_is_an_error() {
        let wish = Wish { count: 1, port: 1, format: Format::FileSd, interval: "1s".into(), timeout: None, hostile: 2 };
        assert!(render(&wish).is_err());
    }
}
