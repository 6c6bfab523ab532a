//! Which logs are kept for endpoints that have not acknowledged them, and which are given up.
//!
//! Invariants:
//!   * a file that every endpoint has acknowledged, and that none needs for the segments that began in it, is removed
//!   * what is removed before it was acknowledged is counted for each endpoint that loses it: files, bytes and scrapes
//!   * a file that its writer still has is not removed: that would free nothing, and it would be linked again

use crate::cursor::SendCursor;
use crate::stats::Stats;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tsdb::log::{FileId, RetainedLogs};

/// How much of the logs is kept for endpoints that do not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A file that was written last so long ago is given up.
    pub age_max: Duration,
    /// Beyond so many bytes of all files the oldest are given up; 0 is no limit.
    pub bytes_max: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { age_max: Duration::from_hours(3), bytes_max: 0 }
    }
}

/// An endpoint: how far it has acknowledged, and its counters.
type Acknowledged = (SendCursor, Arc<Stats>);

/// A kept file and who still needs it.
struct RetainedFile<'a> {
    file: FileId,
    bytes: u64,
    age: Duration,
    /// Whether its writer has it, or may add to it.
    is_in_use: bool,
    is_needed: bool,
    /// Endpoints that have not acknowledged all of it, with the offset where each stands.
    unread: Vec<(&'a Stats, u64)>,
}

impl Retention {
    /// Removes files that no endpoint needs, and those that are too old or too many.
    pub fn remove_unneeded(&self, logs: &RetainedLogs, boot: u32, endpoints: &[Acknowledged]) {
        let mut kept = retained_files(logs, boot, endpoints);
        let is_free = |one: &RetainedFile| !one.is_in_use && !one.is_needed;
        for one in kept.iter().filter(|one| is_free(one)) {
            remove(logs, one.file);
        }
        kept.retain(|one| !is_free(one));
        // The oldest go first: the order of their last write is that of their samples.
        kept.sort_by_key(|one| std::cmp::Reverse(one.age));
        let mut bytes: u64 = kept.iter().map(|one| one.bytes).sum();
        for one in kept.iter().filter(|one| !one.is_in_use && !one.unread.is_empty()) {
            let is_too_much = self.bytes_max > 0 && bytes > self.bytes_max;
            if one.age <= self.age_max && !is_too_much {
                continue;
            }
            bytes -= one.bytes;
            count_lost(logs, one);
            let (age_seconds, file) = (one.age.as_secs(), one.file);
            let limit = if is_too_much { "bytes" } else { "age" };
            tracing::error!(
                %file,
                bytes = one.bytes,
                age_seconds,
                limit,
                "dropping a log file that a remote-write endpoint has not read within the retention limit"
            );
            remove(logs, file);
        }
    }
}

fn remove(logs: &RetainedLogs, file: FileId) {
    if let Err(error) = logs.remove(file) {
        tracing::warn!(%file, %error, "removing a log file that was sent failed");
    }
}

/// A file that was read may be needed for longer: for the segments that began in it.
fn retained_files<'a>(logs: &RetainedLogs, boot: u32, endpoints: &'a [Acknowledged]) -> Vec<RetainedFile<'a>> {
    let in_use = logs.in_use().unwrap_or_default();
    let mut kept = Vec::new();
    for (log, files) in logs.files().unwrap_or_default() {
        let first_in_use = in_use.get(&log).and_then(|files| files.first()).map_or(u32::MAX, |first| first.sequence);
        let last = files.last().copied();
        for file in files {
            let Ok((bytes, age)) = logs.size_and_age(file) else { continue };
            let positions = endpoints.iter().filter_map(|(cursor, stats)| Some((cursor.position(log)?, &**stats)));
            let needed: Vec<_> = positions.filter(|(position, _)| file.sequence >= position.first).collect();
            let unread = needed.iter().filter(|(position, _)| file.sequence >= position.border.sequence);
            let stands_at = |border: tsdb::log_reader::BatchOffset| {
                if border.sequence == file.sequence { border.offset } else { 0 }
            };
            let unread = unread.map(|(position, stats)| (*stats, stands_at(position.border))).collect();
            let is_in_use = file.sequence >= first_in_use || log.0 == boot && Some(file) == last;
            // Without anybody who needs it, the last one is as good as read.
            let is_in_use = is_in_use && (file.sequence >= first_in_use || !needed.is_empty());
            kept.push(RetainedFile { file, bytes, age, is_in_use, is_needed: !needed.is_empty(), unread });
        }
    }
    kept
}

fn count_lost(logs: &RetainedLogs, one: &RetainedFile) {
    for (stats, offset) in &one.unread {
        stats.files_lost.fetch_add(1, Ordering::Relaxed);
        stats.log_bytes_lost.fetch_add(one.bytes.saturating_sub(*offset), Ordering::Relaxed);
        let rows = logs.count_rows(one.file, *offset).unwrap_or_default();
        stats.rows_lost.fetch_add(rows, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::LogPosition;
    use crate::{KEEP_EVERY, measure};
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::SystemTime;
    use tsdb::log_reader::BatchOffset;

    fn id(boot: u32, sequence: u32) -> FileId {
        FileId { boot, writer: 0, sequence }
    }

    fn with_stats(cursors: &[SendCursor]) -> Vec<Acknowledged> {
        cursors.iter().map(|cursor| (cursor.clone(), Arc::default())).collect()
    }

    fn kept(logs: &RetainedLogs) -> Vec<FileId> {
        logs.files().unwrap().into_values().flatten().collect()
    }

    fn set_age(folder: &Path, file: FileId, age: Duration) {
        let file = std::fs::File::options().append(true).open(folder.join(file.to_string())).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    /// A cursor of the log of the second start.
    fn at(border: u32, offset: u64, first: u32) -> SendCursor {
        let position = LogPosition { border: BatchOffset { sequence: border, offset }, first };
        SendCursor { boot: 2, positions: BTreeMap::from([((2, 0), position)]) }
    }

    #[test]
    fn files_are_removed_when_every_endpoint_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let logs = RetainedLogs::new(folder.path().join("log"), folder.path());
        let all = [id(1, 1), id(1, 2), id(2, 1), id(2, 2), id(2, 3)];
        all.iter().for_each(|id| std::fs::write(folder.path().join(id.to_string()), "x").unwrap());
        let retention = Retention::default();
        let at_first = |first| LogPosition { border: BatchOffset { sequence: 9, offset: 0 }, first };
        let one = SendCursor { boot: 1, positions: BTreeMap::from([((1, 0), at_first(2)), ((2, 0), at_first(3))]) };
        let other = SendCursor { boot: 2, positions: BTreeMap::from([((2, 0), at_first(2))]) };
        retention.remove_unneeded(&logs, 2, &with_stats(&[one.clone(), SendCursor::new(2)]));
        assert_eq!(kept(&logs), all[1..], "one that has not begun needs all of this start");
        retention.remove_unneeded(&logs, 2, &with_stats(&[one, other.clone()]));
        assert_eq!(kept(&logs), [id(1, 2), id(2, 2), id(2, 3)]);
        retention.remove_unneeded(&logs, 2, &with_stats(std::slice::from_ref(&other)));
        assert_eq!(kept(&logs), [id(2, 2), id(2, 3)]);
        // Nobody reads them any more, but for the last one.
        let old = retention.age_max + Duration::from_secs(60);
        [id(2, 2), id(2, 3)].into_iter().for_each(|id| set_age(folder.path(), id, old));
        retention.remove_unneeded(&logs, 2, &with_stats(&[other]));
        assert_eq!(kept(&logs), [id(2, 2), id(2, 3)], "they were read, and are needed for what began there");
        let away = with_stats(&[at(2, 9, 2)]);
        measure(&logs, &away, KEEP_EVERY);
        let lag = away[0].1.lag_bytes.load(Ordering::Relaxed);
        assert_eq!(lag, 1, "the last file; the first is acknowledged beyond its end");
        retention.remove_unneeded(&logs, 2, &away);
        assert_eq!(kept(&logs), [id(2, 3)]);
        assert_eq!(away[0].1.files_lost.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn beyond_the_bound_of_bytes_the_oldest_are_given_up_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let logs = RetainedLogs::new(folder.path().join("log"), folder.path());
        for (sequence, age) in [(1, 50), (2, 40), (3, 30), (4, 20)] {
            std::fs::write(folder.path().join(id(2, sequence).to_string()), vec![b'x'; 100]).unwrap();
            set_age(folder.path(), id(2, sequence), Duration::from_secs(age));
        }
        let retention = Retention { bytes_max: 250, ..Retention::default() };
        // One is through the first half of the first file, the other has read that one; both are away.
        let endpoints = with_stats(&[at(1, 50, 1), at(2, 0, 1)]);
        retention.remove_unneeded(&logs, 2, &endpoints);
        assert_eq!(kept(&logs), [id(2, 3), id(2, 4)]);
        let lost = |endpoint: &Acknowledged| {
            let stats = &endpoint.1;
            (stats.files_lost.load(Ordering::Relaxed), stats.log_bytes_lost.load(Ordering::Relaxed))
        };
        assert_eq!([lost(&endpoints[0]), lost(&endpoints[1])], [(2, 150), (1, 100)]);
        // What the writer has stays, however much it is.
        std::fs::create_dir(folder.path().join("log")).unwrap();
        std::fs::write(folder.path().join("log").join(id(2, 3).to_string()), "x").unwrap();
        let retention = Retention { bytes_max: 10, ..retention };
        retention.remove_unneeded(&logs, 2, &endpoints);
        assert_eq!(kept(&logs), [id(2, 3), id(2, 4)]);
    }
}
