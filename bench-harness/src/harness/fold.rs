//! What `perf script` says, folded: one line per stack for flame graphs, and the names that most time went to.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::BufRead;

/// Samples by stack.
#[derive(Debug, Default)]
pub struct Folded {
    /// Frames from the outermost to the innermost, joined by `;`, the thread's name first.
    stacks: HashMap<String, u64>,
    samples: u64,
}

impl Folded {
    /// Reads the whole of a `perf script`.
    pub fn read(text: impl BufRead) -> std::io::Result<Self> {
        let mut folded = Self::default();
        let mut thread = String::new();
        let mut frames: Vec<String> = Vec::new();
        for line in text.split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if line.trim().is_empty() {
                folded.add(&thread, &mut frames);
            } else if line.starts_with([' ', '\t']) && !thread.is_empty() {
                frames.extend(frame(&line));
            } else if !line.starts_with('#') {
                folded.add(&thread, &mut frames);
                thread = thread_name(&line);
            }
        }
        folded.add(&thread, &mut frames);
        Ok(folded)
    }

    fn add(&mut self, thread: &str, frames: &mut Vec<String>) {
        if frames.is_empty() {
            return;
        }
        let stack = std::iter::once(thread).chain(frames.iter().rev().map(String::as_str));
        let stack = stack.collect::<Vec<_>>().join(";");
        *self.stacks.entry(stack).or_default() += 1;
        self.samples += 1;
        frames.clear();
    }

    /// Lines of `stack count`, as flame graph programs take them.
    pub fn lines(&self) -> String {
        let mut stacks: Vec<_> = self.stacks.iter().collect();
        stacks.sort_unstable();
        let mut out = String::new();
        stacks.iter().for_each(|(stack, count)| _ = writeln!(out, "{stack} {count}"));
        out
    }

    /// The names with most samples: their own, those below them included, and by thread.
    pub fn top(&self, count: usize) -> String {
        let mut own: HashMap<&str, u64> = HashMap::new();
        let mut with_callees: HashMap<&str, u64> = HashMap::new();
        let mut threads: HashMap<&str, u64> = HashMap::new();
        for (stack, samples) in &self.stacks {
            let mut frames: Vec<&str> = stack.split(';').collect();
            *threads.entry(frames.remove(0)).or_default() += samples;
            *own.entry(frames.last().copied().unwrap_or_default()).or_default() += samples;
            // Once per stack, however often a name calls itself.
            frames.sort_unstable();
            frames.dedup();
            frames.iter().for_each(|frame| *with_callees.entry(frame).or_default() += samples);
        }
        let mut out = format!("{} samples\n", self.samples);
        for (title, names) in [("by thread", threads), ("own time", own), ("with what it calls", with_callees)] {
            _ = writeln!(out, "\n{title}:");
            let mut names: Vec<_> = names.into_iter().collect();
            names.sort_unstable_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
            for (name, samples) in names.into_iter().take(count) {
                _ = writeln!(out, "{:6.2} %  {name}", samples as f64 / self.samples as f64 * 100.0);
            }
        }
        out
    }
}

/// `ringscrape-0 12/34 [001] 56.7: cpu-clock:` without the numbers; the name may hold spaces and numbers of its own.
fn thread_name(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_time = |word: &&str| word.strip_suffix(':').is_some_and(|time| time.parse::<f64>().is_ok());
    let is_core = |word: &&str| word.starts_with('[');
    let time = words.iter().position(is_time).unwrap_or(words.len());
    // Before the time stand the core, which need not be there, and the process.
    let numbers = 1 + usize::from(time > 0 && is_core(&words[time - 1]));
    words[..time.saturating_sub(numbers).max(1).min(words.len())].join("_").replace(';', "_")
}

/// `  55d0 name<with spaces>::x+0x12 (/path)` without address, offset, file and the hash behind Rust's names.
fn frame(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(' ')?;
    let name = rest.rsplit_once(" (").map_or(rest, |(name, _)| name);
    let name = match name.rsplit_once("+0x") {
        Some((name, offset)) if offset.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => name,
    };
    let name = match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => name,
    };
    Some(name.replace(';', ":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
shard 0  123/456  1.5: 250000 cpu-clock:pppH:
\t    ffff libdeflate_gzip+0x12 (/bin/ringscrape)
\t    aaaa <shard::Core as core::Run>::fetch::h0123456789abcdef+0x1 (/bin/ringscrape)
\t    bbbb main (/bin/ringscrape)

shard 0  123/456  1.6: 250000 cpu-clock:pppH:
\t    aaaa <shard::Core as core::Run>::fetch::h0123456789abcdef+0x1 (/bin/ringscrape)
\t    bbbb main (/bin/ringscrape)

sync 7 1.7: 250000 cpu-clock:pppH:
\t    cccc [unknown] ([kernel.kallsyms])
";

    #[test]
    fn stacks_are_folded_from_the_outermost() {
        let folded = Folded::read(SCRIPT.as_bytes()).unwrap();
        let want = "shard_0;main;<shard::Core as core::Run>::fetch 1\n\
                    shard_0;main;<shard::Core as core::Run>::fetch;libdeflate_gzip 1\n\
                    sync;[unknown] 1\n";
        assert_eq!(folded.lines(), want);
    }

    #[test]
    fn most_time_comes_first() {
        let top = Folded::read(SCRIPT.as_bytes()).unwrap().top(2);
        for part in ["3 samples", " 66.67 %  shard_0", " 66.67 %  <shard::Core as core::Run>::fetch\n 66.67 %  main"] {
            assert!(top.contains(part), "no {part} in {top}");
        }
        assert!(!top.contains("libdeflate") || top.contains(" 33.33 %  <shard"), "{top}");
    }

    #[test]
    fn threads_have_names() {
        for (line, want) in [
            ("a 1 2.5: 10 cpu-clock:", "a"),
            ("core 0 1/2 [001] 2.5: 10 cpu-clock:", "core_0"),
            ("a;b 1/2 2.5: 10 cpu-clock:", "a_b"),
            ("nothing", "nothing"),
            ("2.5:", "2.5:"),
        ] {
            assert_eq!(thread_name(line), want, "{line}");
        }
    }

    #[test]
    fn what_is_no_profile_has_no_samples() {
        assert_eq!(Folded::read("".as_bytes()).unwrap().lines(), "");
        assert_eq!(Folded::read("# comment\nnothing here\n".as_bytes()).unwrap().samples, 0);
    }
}
