//! Records of benches: what criterion has estimated, kept dated, and set beside an earlier one.
//!
//! Reads the files that criterion leaves in its folder (`*/new/benchmark.json` and `estimates.json`); a record is one small
//! JSON file in perf/results.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Quotients closer to 1 than this say nothing on a machine that is shared.
const NOISE: f64 = 0.05;

/// All benches of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The day in UTC.
    pub date: String,
    /// The commit, as git says it.
    pub commit: String,
    pub machine: String,
    /// Load average of the last minute when it was made: one core is the bench's own.
    pub load: f64,
    pub benches: BTreeMap<String, Estimate>,
}

/// Nanoseconds of one iteration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub median_ns: f64,
    /// The interval that holds the median with a confidence of 95 %.
    pub low_ns: f64,
    pub high_ns: f64,
    /// What one iteration works on; 0 if the bench does not say.
    pub elements: u64,
    pub bytes: u64,
}

impl Estimate {
    fn text(&self) -> String {
        let time = match self.median_ns {
            ns if ns < 1e3 => format!("{ns:.1} ns"),
            ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
            ns => format!("{:.2} ms", ns / 1e6),
        };
        match (self.elements, self.bytes) {
            (0, 0) => time,
            (0, bytes) => format!("{time}, {:.2} GB/s", bytes as f64 / self.median_ns),
            (elements, _) => format!("{time}, {:.2} ns each", self.median_ns / elements as f64),
        }
    }
}

/// Collects what criterion has left below `folder`.
pub fn collect(folder: &Path) -> Result<BTreeMap<String, Estimate>, String> {
    let mut benches = BTreeMap::new();
    visit(folder, &mut benches)?;
    if benches.is_empty() {
        return Err(format!("no benches in {}; run cargo bench -p ringscrape-perf first", folder.display()));
    }
    Ok(benches)
}

fn visit(folder: &Path, benches: &mut BTreeMap<String, Estimate>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("reading {}: {error}", folder.display()))?;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()) {
        if path.ends_with("new") && path.join("estimates.json").is_file() {
            let (name, estimate) = read(&path)?;
            benches.insert(name, estimate);
        } else {
            visit(&path, benches)?;
        }
    }
    Ok(())
}

fn read(folder: &Path) -> Result<(String, Estimate), String> {
    let load = |file: &str| -> Result<Value, String> {
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (about, estimates) = (load("benchmark.json")?, load("estimates.json")?);
    let name = about["full_id"].as_str().ok_or_else(|| format!("{}: no full_id", folder.display()))?;
    let median = &estimates["median"];
    let number = |value: &Value| value.as_f64().ok_or_else(|| format!("{}: no median", folder.display()));
    let interval = &median["confidence_interval"];
    let estimate = Estimate {
        median_ns: number(&median["point_estimate"])?,
        low_ns: number(&interval["lower_bound"])?,
        high_ns: number(&interval["upper_bound"])?,
        elements: about["throughput"]["Elements"].as_u64().unwrap_or(0),
        bytes: about["throughput"]["Bytes"].as_u64().unwrap_or(0),
    };
    Ok((name.to_owned(), estimate))
}

impl Record {
    pub fn load(path: &Path) -> Result<Record, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("reading {}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Keeps it as `DATE.json`; a second one of a day gets a number.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, String> {
        let name = |number: usize| if number == 1 { String::new() } else { format!("-{number}") };
        let path = (1..).map(|number| folder.join(format!("{}{}.json", self.date, name(number))));
        let path = path.into_iter().find(|path| !path.exists()).ok_or("no free name")?;
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())? + "\n";
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
        written.map_err(|error| format!("writing {}: {error}", path.display()))?;
        Ok(path)
    }

    /// The newest of a folder: by date, then by number.
    pub fn newest(folder: &Path) -> Option<PathBuf> {
        let key = |path: &PathBuf| {
            let stem = path.file_stem()?.to_str()?.to_owned();
            let (date, rest) = stem.split_at_checked(10)?;
            Some((date.to_owned(), rest.strip_prefix('-').map_or(Some(1), |number| number.parse().ok())?))
        };
        let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let records = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        records.filter_map(|path| Some((key(&path)?, path))).max().map(|(_, path): ((String, u32), _)| path)
    }

    /// A table of both, the largest change first.
    pub fn compare(&self, earlier: &Record) -> String {
        let title = |record: &Record| format!("{} ({}, load {:.1})", record.date, record.commit, record.load);
        let mut out = format!("{} beside {}\n\n", title(self), title(earlier));
        if self.machine != earlier.machine {
            let _ = writeln!(out, "Not the same machine: {} and {}.\n", self.machine, earlier.machine);
        }
        out.push_str("| bench | earlier | now | now / earlier | |\n| --- | --- | --- | --- | --- |\n");
        let both = self.benches.iter().filter_map(|(name, now)| Some((name, now, earlier.benches.get(name)?)));
        let mut rows: Vec<_> =
            both.map(|(name, now, then)| (now.median_ns / then.median_ns, name, now, then)).collect();
        rows.sort_by(|one, other| other.0.ln().abs().total_cmp(&one.0.ln().abs()));
        for (ratio, name, now, then) in rows {
            // Only where the intervals do not touch either: a wide one is noise of its own.
            let apart = now.low_ns > then.high_ns || now.high_ns < then.low_ns;
            let verdict = match ratio {
                _ if !apart => "",
                ratio if ratio > 1.0 + NOISE => "slower",
                ratio if ratio < 1.0 - NOISE => "faster",
                _ => "",
            };
            let _ = writeln!(out, "| {name} | {} | {} | {ratio:.2} | {verdict} |", then.text(), now.text());
        }
        for name in self.benches.keys().filter(|name| !earlier.benches.contains_key(*name)) {
            let _ = writeln!(out, "| {name} | - | {} | | new |", self.benches[name].text());
        }
        for name in earlier.benches.keys().filter(|name| !self.benches.contains_key(*name)) {
            let _ = writeln!(out, "| {name} | {} | - | | gone |", earlier.benches[name].text());
        }
        out
    }

    /// A table of this one alone.
    pub fn table(&self) -> String {
        let Record { date, commit, machine, load, benches } = self;
        let mut out = format!("{date} ({commit}), {machine}, load {load:.1}\n\n| bench | |\n| --- | --- |\n");
        for (name, estimate) in benches {
            let _ = writeln!(out, "| {name} | {} |", estimate.text());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(median_ns: f64) -> Estimate {
        Estimate { median_ns, low_ns: median_ns * 0.99, high_ns: median_ns * 1.01, elements: 10, bytes: 0 }
    }

    fn record(date: &str, benches: &[(&str, f64)]) -> Record {
        let benches = benches.iter().map(|&(name, median_ns)| (name.to_owned(), estimate(median_ns))).collect();
        Record { date: date.into(), commit: "abc".into(), machine: "m".into(), load: 1.0, benches }
    }

    #[track_caller]
    fn check(earlier: &[(&str, f64)], now: &[(&str, f64)], want: &str) {
        let table = record("2026-11-25", now).compare(&record("2026-11-24", earlier));
        assert!(table.contains(want), "no {want} in\n{table}");
    }

    #[test]
    fn changes_are_named() {
        check(
            &[("a", 100.0)],
            &[("a", 150.0)],
            "| a | 100.0 ns, 10.00 ns each | 150.0 ns, 15.00 ns each | 1.50 | slower |",
        );
        check(
            &[("a", 2e3)],
            &[("a", 1e3)],
            "| a | 2.00 µs, 200.00 ns each | 1.00 µs, 100.00 ns each | 0.50 | faster |",
        );
        check(&[("a", 100.0)], &[("a", 104.0)], "| 1.04 |  |");
        check(&[], &[("b", 5e6)], "| b | - | 5.00 ms, 500000.00 ns each | | new |");
        check(&[("c", 1.0)], &[], "| c | 1.0 ns, 0.10 ns each | - | | gone |");
        check(&[("a", 1.0), ("b", 1.0)], &[("a", 1.1), ("b", 3.0)], "| 3.00 | slower |\n| a |");
    }

    #[test]
    fn the_newest_record_is_found_by_date_and_number() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::newest(folder.path()), None);
        let older = record("2026-11-24", &[("a", 1.0)]);
        let newer = record("2026-11-25", &[("a", 2.0)]);
        for (record, want) in [(&newer, "2026-11-25"), (&older, "2026-11-24"), (&newer, "2026-11-25-2")] {
            assert!(record.write(folder.path()).unwrap().ends_with(format!("{want}.json")));
        }
        std::fs::write(folder.path().join("notes.json"), "").unwrap();
        let path = Record::newest(folder.path()).unwrap();
        assert!(path.ends_with("2026-11-25-2.json"), "{}", path.display());
        assert_eq!(Record::load(&path).unwrap(), newer);
    }

    #[test]
    fn criterions_folder_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(collect(folder.path()).unwrap_err().contains("no benches in"));
        let new = folder.path().join("group/bench/new");
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(new.join("benchmark.json"), r#"{"full_id": "group/bench", "throughput": {"Bytes": 7}}"#)
            .unwrap();
        let estimates =
            r#"{"median": {"point_estimate": 2, "confidence_interval": {"lower_bound": 1, "upper_bound": 3}}}"#;
        std::fs::write(new.join("estimates.json"), estimates).unwrap();
        let want = Estimate { median_ns: 2.0, low_ns: 1.0, high_ns: 3.0, elements: 0, bytes: 7 };
        assert_eq!(collect(folder.path()).unwrap(), BTreeMap::from([("group/bench".to_owned(), want)]));
        std::fs::write(new.join("estimates.json"), "{}").unwrap();
        assert!(collect(folder.path()).unwrap_err().contains("no median"));
    }
}
