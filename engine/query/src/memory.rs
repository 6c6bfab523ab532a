//! How much memory queries may use where no flag says so.
//!
//! Linux only: the smallest limit of the control groups of this process, or the memory of the machine.

use std::path::{Path, PathBuf};

/// Without any information about the machine.
const MEMORY_BYTES_UNKNOWN: u64 = 2 << 30;
/// Of the memory there is, all queries together may use this part: the rest is for samples, scrapes and the kernel's
/// cache of files.
const TOTAL_DIVISOR: u64 = 4;
/// One query may use half of what all may use, so that one bomb leaves room for others.
const QUERY_DIVISOR: u64 = 2;
/// Less than this serves no dashboard.
const TOTAL_BYTES_MIN: u64 = 64 << 20;

/// Series that are read at once are at most this part of what a query may use.
const BATCHES: u64 = 4;
/// More at once makes no query faster.
const BATCH_BYTES_MAX: u64 = 32 << 20;

/// Bounds of memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Of one query.
    pub query_bytes_max: u64,
    /// Of all queries together.
    pub total_bytes_max: u64,
    /// Of the series of a select that are read at once.
    pub batch_bytes_max: u64,
}

impl MemoryBounds {
    /// Bounds from flags, where they are set and not 0; from the machine's memory otherwise.
    pub fn new(query: Option<u64>, total: Option<u64>) -> MemoryBounds {
        MemoryBounds::of(query, total, available_bytes(Path::new("/")))
    }

    fn of(query: Option<u64>, total: Option<u64>, memory: u64) -> MemoryBounds {
        let set = |flag: Option<u64>| flag.filter(|bytes| *bytes > 0);
        let total_bytes_max = set(total).unwrap_or((memory / TOTAL_DIVISOR).max(TOTAL_BYTES_MIN));
        let query_bytes_max = set(query).unwrap_or(total_bytes_max / QUERY_DIVISOR).min(total_bytes_max);
        let batch_bytes_max = (query_bytes_max / BATCHES).clamp(1, BATCH_BYTES_MAX);
        MemoryBounds { query_bytes_max, total_bytes_max, batch_bytes_max }
    }
}

/// The memory that this process can have, read below `root`.
fn available_bytes(root: &Path) -> u64 {
    let machine = std::fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| machine_bytes(&text));
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = group_files(&groups).into_iter().filter_map(|file| {
        let text = std::fs::read_to_string(root.join(file)).ok()?;
        text.trim().parse::<u64>().ok()
    });
    limits.chain(machine).min().unwrap_or(MEMORY_BYTES_UNKNOWN)
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Files with the memory limits of the control groups in `/proc/self/cgroup`, and of all groups above them.
fn group_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, name) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let inner = Path::new(path.trim_start_matches('/'));
        // Within a container the path may be the one outside: then its own group is mounted at the top.
        files.extend(inner.ancestors().map(|group| Path::new(mount).join(group).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_come_from_flags_and_memory() {
        let bounds = |query, total, memory| {
            let bounds = MemoryBounds::of(query, total, memory);
            (bounds.query_bytes_max >> 20, bounds.total_bytes_max >> 20)
        };
        assert_eq!(bounds(None, None, 16 << 30), (2048, 4096));
        assert_eq!(bounds(None, None, 100 << 20), (32, 64), "small machines serve dashboards, too");
        assert_eq!(bounds(Some(100 << 20), Some(0), 16 << 30), (100, 4096));
        assert_eq!(bounds(Some(100 << 20), Some(50 << 20), 16 << 30), (50, 50));
    }

    #[test]
    fn the_smallest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        assert_eq!(available_bytes(root.path()), MEMORY_BYTES_UNKNOWN);
        write("proc/meminfo", "MemTotal:        8000000 kB\nMemFree: 1 kB\n");
        assert_eq!(available_bytes(root.path()), 8_000_000 << 10);
        write("proc/self/cgroup", "0::/system.slice/r.service\n");
        write("sys/fs/cgroup/system.slice/r.service/memory.max", "max\n");
        assert_eq!(available_bytes(root.path()), 8_000_000 << 10);
        write("sys/fs/cgroup/system.slice/memory.max", "1073741824\n");
        assert_eq!(available_bytes(root.path()), 1 << 30);
        write("proc/self/cgroup", "5:cpu,memory:/docker/abc\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
        assert_eq!(available_bytes(root.path()), 512 << 20);
    }
}
