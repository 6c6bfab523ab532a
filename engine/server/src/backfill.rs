//! `ringscrape tsdb create-blocks-from openmetrics`: blocks from a file of samples with times, as promtool makes them.
//!
//! The file is read once, line by line. A sample line is a series, a value, a time in seconds and perhaps an exemplar,
//! which is left out. Series and values are read by the parser of scrapes.

use blocks::{BlockBuilder, BuilderOptions, CHUNK_BYTES_MAX, Meta, NoChunks, SeriesNumber};
use exposition::{Kind, LINE_BYTES_MAX, Parser};
use series::{Labels, METRIC_NAME};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Length of Prometheus' smallest block, and by what each level is longer.
const BLOCK_MS: i64 = 2 * 3600 * 1000;
const LEVEL_FACTOR: i64 = 3;
/// Series texts that are remembered; beyond them each is parsed again.
const TEXTS_MAX: usize = 1 << 20;
const END: &[u8] = b"# EOF";

struct Backfill {
    builder: BlockBuilder<NoChunks>,
    /// Series by their text and the kind of their family.
    texts: HashMap<(Kind, Box<[u8]>), SeriesNumber>,
    kind: Kind,
    added: Vec<(String, String)>,
}

/// The longest block of Prometheus' levels that is not longer than asked for.
fn block_ms(longest: Duration) -> i64 {
    let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
    let mut length = BLOCK_MS;
    while length.saturating_mul(LEVEL_FACTOR) <= longest {
        length *= LEVEL_FACTOR;
    }
    length
}

/// Writes the blocks of a file; returns them, oldest first. Nothing is written of a file with an error.
pub fn create_blocks(
    input: &Path,
    output: &Path,
    longest: Duration,
    added: &[(String, String)],
) -> anyhow::Result<Vec<Meta>> {
    let file = File::open(input).map_err(|error| anyhow::anyhow!("{}: {error}", input.display()))?;
    std::fs::create_dir_all(output)?;
    // Removed by the next start if this run is killed.
    let work = output.join(format!("backfill{}", blocks::UNFINISHED));
    std::fs::create_dir_all(&work)?;
    let options = BuilderOptions { work: work.clone(), range_ms: block_ms(longest), chunk_bytes_max: CHUNK_BYTES_MAX };
    let builder = BlockBuilder::new(options, NoChunks);
    let mut backfill = Backfill { builder, texts: HashMap::new(), kind: Kind::Unknown, added: added.to_vec() };
    let read = backfill.read(BufReader::with_capacity(1 << 20, file));
    let built = read.and_then(|()| Ok(backfill.builder.finish(output, tsdb::new_ulid, &AtomicBool::new(false))?));
    std::fs::remove_dir_all(&work)?;
    built.map_err(|error| anyhow::anyhow!("{}: {error:#}", input.display()))
}

impl Backfill {
    fn read(&mut self, mut lines: impl BufRead) -> anyhow::Result<()> {
        let mut line = Vec::new();
        let mut has_ended = false;
        for number in 1u64.. {
            line.clear();
            lines.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                break;
            }
            anyhow::ensure!(!has_ended, "line {number}: unexpected data after # EOF");
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            anyhow::ensure!(line.len() <= LINE_BYTES_MAX, "line {number} is longer than {LINE_BYTES_MAX} bytes");
            has_ended = line == END;
            if let Some(comment) = line.strip_prefix(b"# ") {
                self.read_comment(comment);
            } else if !line.is_empty() {
                self.read_sample(&line).map_err(|error| anyhow::anyhow!("line {number}: {error:#}"))?;
            }
        }
        anyhow::ensure!(has_ended, "data does not end with # EOF");
        Ok(())
    }

    /// Bounds of buckets and quantiles are numbers under these types.
    fn read_comment(&mut self, comment: &[u8]) {
        let mut words = comment.split(|byte| *byte == b' ');
        if words.next() == Some(b"TYPE") {
            self.kind = match words.nth(1) {
                Some(b"counter") => Kind::Counter,
                Some(b"gauge") => Kind::Gauge,
                Some(b"histogram") => Kind::Histogram,
                Some(b"summary") => Kind::Summary,
                _ => Kind::Unknown,
            };
        }
    }

    fn read_sample(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let series_end = series_end(line);
        let (series, rest) = line.split_at(series_end);
        let rest = std::str::from_utf8(rest)?;
        let rest = rest.split_once(" # ").map_or(rest, |(sample, _)| sample);
        let mut words = rest.split_ascii_whitespace();
        let value = words.next().ok_or_else(|| anyhow::anyhow!("expected a value"))?;
        let time = words.next().ok_or_else(|| {
            anyhow::anyhow!("expected timestamp for series {}, got none", String::from_utf8_lossy(series))
        })?;
        anyhow::ensure!(words.next().is_none(), "unexpected data after the timestamp");
        let seconds: f64 = time.parse().map_err(|_| anyhow::anyhow!("invalid timestamp {time:?}"))?;
        anyhow::ensure!(seconds.is_finite() && seconds.abs() < 1e15, "invalid timestamp {time}");
        // Cut, not rounded, as in Prometheus.
        let at = (seconds * 1000.0) as i64;
        let text = [series, b" ", value.as_bytes(), b"\n"].concat();
        let sample = Parser::new(&text, 0, self.kind).next_sample()?;
        let sample = sample.ok_or_else(|| anyhow::anyhow!("expected a series"))?;
        let key = (self.kind, series.into());
        let number = match self.texts.get(&key) {
            Some(number) => *number,
            None => {
                let number = self.builder.series(self.labels(&text[sample.raw.clone()])?);
                if self.texts.len() >= TEXTS_MAX {
                    self.texts.clear();
                }
                self.texts.insert(key, number);
                number
            }
        };
        Ok(self.builder.push_float(number, at, sample.value)?)
    }

    fn labels(&self, raw: &[u8]) -> anyhow::Result<Labels> {
        let own = exposition::labels(raw, self.kind);
        let mut names: Vec<&str> = own.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            anyhow::bail!("label name {:?} is not unique", pair[0]);
        }
        anyhow::ensure!(names.contains(&METRIC_NAME), "missing metric name");
        let mut labels = Labels::from_pairs(own.iter().map(|(name, value)| (&**name, &**value))).to_builder();
        for (name, value) in &self.added {
            labels.set(name, value);
        }
        labels.retain(|_, value| !value.is_empty());
        Ok(labels.build())
    }
}

/// Where name and labels of a line end.
fn series_end(line: &[u8]) -> usize {
    let (mut is_quoted, mut is_escaped, mut depth) = (false, false, 0u32);
    for (i, byte) in line.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'{' if !is_quoted => depth += 1,
            b'}' if !is_quoted => depth = depth.saturating_sub(1),
            b' ' if !is_quoted && depth == 0 => return i,
            _ => {}
        }
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of all samples, or the error.
    #[track_caller]
    fn check(text: &str, want: Result<&[&str], &str>) {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("input");
        std::fs::write(&input, text).unwrap();
        let output = folder.path().join("data");
        let added = [("site".to_owned(), "x".to_owned())];
        let outcome = create_blocks(&input, &output, Duration::from_secs(7200), &added);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&output).unwrap() {
            let block = blocks::Block::open(&entry.unwrap().path()).unwrap();
            block.select(&[vec![]], i64::MIN, i64::MAX, |reader, series| {
                let mut line = |at, value| found.push(format!("{} {value:?} {at}", series.labels));
                reader.samples(&series, i64::MIN, i64::MAX, &mut line).unwrap();
                true
            });
        }
        found.sort();
        match want {
            Ok(lines) => {
                outcome.unwrap();
                assert_eq!(found, lines);
            }
            Err(part) => {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains(part), "{error}");
                assert!(found.is_empty(), "nothing is written of a file with an error");
            }
        }
    }

    #[test]
    fn files_become_blocks_or_name_the_line() {
        let lines = [
            r#"{__name__="a_bucket", le="1.0", site="x"} Float(3.0) 5999"#,
            r#"{__name__="b", c="d } # e", site="x"} Float(1.5) 1000"#,
            r#"{__name__="b", c="d } # e", site="x"} Float(2.5) 9000000"#,
        ];
        let text = "# TYPE a histogram\na_bucket{le=\"1\"} 3 5.9999 # {trace=\"x\"} 1 5\n# TYPE b gauge\nb{c=\"d } # e\"} 1.5 1\nb{c=\"d } # e\",site=\"y\"} 2.5 9000\n# EOF\n";
        check(text, Ok(&lines));
        check("a 1 1\n", Err("does not end with # EOF"));
        check("a 1\n# EOF\n", Err("line 1: expected timestamp"));
        check("a 1 1\na{b=\"c\",b=\"d\"} 1 1\n# EOF", Err("line 2: label name \"b\" is not unique"));
        check("a x 1\n# EOF\n", Err("line 1"));
        check("a 1 NaN\n# EOF\n", Err("invalid timestamp"));
        check("# EOF\na 1 1\n", Err("line 2: unexpected data after # EOF"));
        check("# EOF\n", Ok(&[]));
    }

    #[test]
    fn blocks_have_the_lengths_of_prometheus_levels() {
        let hours = |hours: u64| block_ms(Duration::from_secs(hours * 3600)) / 3_600_000;
        assert_eq!([1, 2, 5, 6, 24, 54].map(hours), [2, 2, 2, 6, 18, 54]);
    }
}
