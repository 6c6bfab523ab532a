//! What the measuring ran on, and when: figures without it say nothing.

use std::fs::read_to_string;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One machine at one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu_model: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Whether the processor says that it is a guest's.
    pub virtual_machine: bool,
    /// Load average of the last minute before the first run.
    pub load: f64,
}

impl Machine {
    /// This one, now.
    pub fn here() -> Self {
        let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cpu_model: field(&cpu, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field(&memory, "MemTotal").map_or(0, kilobytes),
            kernel: release(&read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()).to_owned(),
            virtual_machine: field(&cpu, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            load: load(),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "{}, {} cores{}, {:.0} GiB of memory, Linux {}, load {:.2} before the first run",
            self.cpu_model,
            self.cores,
            if self.virtual_machine { " of a virtual machine" } else { "" },
            self.memory_bytes as f64 / (1u64 << 30) as f64,
            self.kernel,
            self.load,
        )
    }
}

/// The number of a kernel, without what its builder has added.
fn release(text: &str) -> &str {
    text.trim().split('-').next().unwrap_or_default()
}

/// The load average of the last minute.
pub fn load() -> f64 {
    let text = read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

/// The first value of `name : value` or `name: value`.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// "123 kB" in bytes.
pub fn kilobytes(text: &str) -> u64 {
    text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The day in UTC, as 2026-11-25.
pub fn date(unix_s: u64) -> String {
    // Days since 0000-03-01, in eras of 400 years (Hinnant's days_from_civil, the other way round).
    let days = unix_s / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (unix_s, want) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_767_225_599, "2025-12-31"),
            (1_795_564_800, "2026-11-25"),
        ] {
            assert_eq!(date(unix_s), want);
        }
    }

    #[test]
    fn kernels_are_told_by_their_number() {
        assert_eq!(release("6.1.0-18-amd64\n"), "6.1.0");
        assert_eq!(release("6.18.4\n"), "6.18.4");
    }

    #[test]
    fn fields_of_proc_files() {
        assert_eq!(field("a\t: b c\nMemTotal:  12 kB\n", "MemTotal"), Some("12 kB"));
        assert_eq!(field("a\t: b c\n", "a"), Some("b c"));
        assert_eq!(field("a\n", "a"), None);
        assert_eq!(kilobytes("12 kB"), 12 * 1024);
    }

    #[test]
    fn this_machine_has_a_description() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
        assert!(machine.line().contains("Linux"));
    }
}
