//! A program under measurement: started on its cores, looked at through /proc, ended by its own id.
//!
//! Invariants:
//!   * a child never outlives us: it dies when its handle is dropped, and the kernel ends it should we be killed
//!   * what is read of it is read from outside: no contender is asked what it costs

use std::ffi::OsStr;
use std::fs::{File, read_to_string};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::machine::{field, kilobytes};

/// Clock ticks a second in /proc/PID/stat: a constant of the kernel's interface on every architecture that we meet.
const TICKS_PER_S: f64 = 100.0;

/// A child process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

/// CPU seconds so far, all threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    pub user_s: f64,
    pub system_s: f64,
}

impl Cpu {
    pub fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }
}

/// Memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    pub rss_bytes: u64,
    pub anonymous_bytes: u64,
}

/// Whether a program is on PATH.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

impl Process {
    /// Starts a program on the given cores, its output going to a file. A child that dies with us and stays on its cores
    /// needs setpriv and taskset; without them it is started all the same.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        cpus: Option<&str>,
        output: &Path,
    ) -> anyhow::Result<Self> {
        let mut words: Vec<&OsStr> = Vec::new();
        if on_path("setpriv") {
            words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(OsStr::new));
        }
        if let Some(cpus) = cpus {
            ensure!(on_path("taskset"), "no taskset here to keep {name} on cores {cpus}; install util-linux");
            words.extend(["taskset", "-c", cpus].map(OsStr::new));
        }
        words.push(program.as_os_str());
        let log = File::options().create(true).append(true).open(output);
        let log = log.with_context(|| format!("opening {}", output.display()))?;
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name} ({})", program.display()))?;
        Ok(Self { child, name: name.to_owned() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended by itself.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status})", self.name),
        }
    }

    /// Waits until `done` says so.
    pub fn wait_until(&mut self, what: &str, patience: Duration, done: impl FnMut() -> bool) -> anyhow::Result<f64> {
        self.wait_until_every(what, patience, Duration::from_millis(10), done)
    }

    /// Waits until `done` says so, asking every so often; returns how long it took, in seconds.
    pub fn wait_until_every(
        &mut self,
        what: &str,
        patience: Duration,
        pause: Duration,
        mut done: impl FnMut() -> bool,
    ) -> anyhow::Result<f64> {
        let start = Instant::now();
        loop {
            if done() {
                return Ok(start.elapsed().as_secs_f64());
            }
            self.check_alive()?;
            ensure!(start.elapsed() < patience, "{}: {what} took more than {} s", self.name, patience.as_secs());
            std::thread::sleep(pause);
        }
    }

    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        parse_cpu(&self.read("stat")?).with_context(|| format!("/proc/{}/stat", self.id()))
    }

    /// CPU seconds so far to the nanosecond, for spans shorter than a tick. Threads that have ended are not in it.
    pub fn cpu_of_threads_s(&self) -> anyhow::Result<f64> {
        let folder = format!("/proc/{}/task", self.id());
        let tasks = std::fs::read_dir(&folder).with_context(|| format!("reading {folder} of {}", self.name))?;
        let of_task = |task: std::fs::DirEntry| -> Option<f64> {
            read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        Ok(tasks.flatten().filter_map(of_task).sum::<f64>() / 1e9)
    }

    pub fn memory(&self) -> anyhow::Result<Memory> {
        let text = self.read("smaps_rollup")?;
        let bytes = |name| field(&text, name).map_or(0, kilobytes);
        Ok(Memory { rss_bytes: bytes("Rss"), anonymous_bytes: bytes("Anonymous") })
    }

    /// The most memory that it had so far (RSS).
    pub fn memory_peak(&self) -> anyhow::Result<u64> {
        Ok(field(&self.read("status")?, "VmHWM").map_or(0, kilobytes))
    }

    /// Bytes that it caused to be written to a disk so far. `None` where we may not read it.
    pub fn bytes_written(&self) -> Option<u64> {
        field(&self.read("io").ok()?, "write_bytes")?.parse().ok()
    }

    /// System calls in the given time, by perf. `None` without perf or the right to use it.
    pub fn system_calls(&self, duration: Duration) -> Option<u64> {
        let id = self.id().to_string();
        let seconds = duration.as_secs_f64().to_string();
        let output = Command::new("perf")
            .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &id, "--", "sleep", &seconds])
            .output()
            .ok()?;
        parse_perf_count(&String::from_utf8_lossy(&output.stderr))
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.id());
        read_to_string(&path).with_context(|| format!("reading {path} of {}", self.name))
    }

    /// Makes it read its configuration again.
    pub fn hang_up(&self) -> anyhow::Result<()> {
        let status = Command::new("kill").args(["-HUP", &self.id().to_string()]).status()?;
        ensure!(status.success(), "{} cannot be signalled", self.name);
        Ok(())
    }

    /// Ends it as a power cut would: no chance to tidy up.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn parse_cpu(stat: &str) -> anyhow::Result<Cpu> {
    // The name stands in parentheses and may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(')').context("no name in parentheses")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<f64> { Ok(fields.get(at).context("too few fields")?.parse()?) };
    Ok(Cpu { user_s: ticks(11)? / TICKS_PER_S, system_s: ticks(12)? / TICKS_PER_S })
}

fn parse_perf_count(text: &str) -> Option<u64> {
    text.lines().find(|line| line.contains("raw_syscalls:sys_enter"))?.split(',').next()?.trim().parse().ok()
}

/// What a folder takes on the disk. Files that vanish meanwhile count as nothing.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of_entry = |entry: std::io::Result<std::fs::DirEntry>| -> u64 {
        let Ok(entry) = entry else { return 0 };
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        }
    };
    entries.map(of_entry).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_read_behind_the_name() {
        let stat = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(parse_cpu(stat).unwrap(), Cpu { user_s: 2.5, system_s: 0.5 });
        assert!(parse_cpu("7 (x) R 1").is_err());
        assert!(parse_cpu("").is_err());
    }

    #[test]
    fn counts_of_perf() {
        assert_eq!(parse_perf_count("4711,,raw_syscalls:sys_enter,200,100.00,,\n"), Some(4711));
        assert_eq!(parse_perf_count("<not counted>,,raw_syscalls:sys_enter,0,,,\n"), None);
        assert_eq!(parse_perf_count("event syntax error"), None);
    }

    #[test]
    fn a_child_is_looked_at_and_killed() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let sh = Path::new("/bin/sh");
        let mut child = Process::start("sh", sh, ["-c", "echo here; while :; do :; done"], Some("0"), &output).unwrap();
        child
            .wait_until("writing", Duration::from_secs(30), || std::fs::read_to_string(&output).unwrap() == "here\n")
            .unwrap();
        let rss_bytes = child.memory().unwrap().rss_bytes;
        assert!(rss_bytes > 0 && child.memory_peak().unwrap() >= rss_bytes);
        let mut seen = 0.0;
        let id = child.id();
        child
            .wait_until("burning time", Duration::from_secs(30), || {
                seen = parse_cpu(&read_to_string(format!("/proc/{id}/stat")).unwrap()).unwrap().total_s();
                seen > 0.0
            })
            .unwrap();
        assert!(child.cpu().unwrap().total_s() >= seen);
        assert!(child.cpu_of_threads_s().unwrap() > 0.0);
        child.kill().unwrap();
        let mut ended = Process::start("sh", sh, ["-c", "exit 3"], None, &output).unwrap();
        let error = ended.wait_until("nothing", Duration::from_secs(30), || false).unwrap_err();
        assert_eq!(error.to_string(), "sh ended by itself (exit status: 3)");
    }

    #[test]
    fn folders_have_sizes() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/b"), vec![1; 10_000]).unwrap();
        assert!(folder_bytes(folder.path()) >= 10_000);
        assert_eq!(folder_bytes(&folder.path().join("none")), 0);
    }
}
