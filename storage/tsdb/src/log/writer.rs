//! What to write when: a log's policy as a plain state machine. Whoever owns the disk carries its actions out.
//!
//! Invariants:
//!   * one action is in flight at a time, and its outcome is told before the next is asked for
//!   * after a failed write or sync the file is never touched again: what it did not make durable goes to a new one
//!   * what has not been made durable is kept, up to `kept_bytes_max`; beyond, records are discarded and the epoch moves
//!     once writing works again, which tells the heads to begin new segments
//!   * the bound holds as well while an action does not return
//!   * a file that never had anything durable is removed at once; its place in the order stays, because what was to be in it
//!     is in the next one and stays as long

use crate::log::frame::{FileId, put_frame, put_parity};
use std::sync::Arc;

/// Kind of the first record of a file.
pub const HEADER: u8 = 0;
/// Payload of the first record.
pub const HEADER_V1: &[u8] = b"ringscrape log 1";
/// Files that are not looked at for segments that alone need them.
const FILES_NEWEST: usize = 3;
/// Few are one of so many.
const FEW_OF: usize = 4;
/// A call of the system that takes longer is a stall: the disk counts as failing until it returns.
const STALL_MS: u64 = 10_000;
const STALLED: &str = "the disk does not answer";
/// First and longest wait after a failure.
const RETRY_MS_MIN: u64 = 100;
const RETRY_MS_MAX: u64 = 5_000;

/// Bounds of a log.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A file is followed by another when it is this long …
    pub file_bytes_max: u64,
    /// … or this old.
    pub file_age_ms_max: u64,
    /// Time between syncs; 0 syncs every batch, and nothing is visible before.
    pub sync_interval_ms: u64,
    /// Records that wait for a failing disk.
    pub kept_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { file_bytes_max: 64 << 20, file_age_ms_max: 600_000, sync_interval_ms: 1000, kept_bytes_max: 64 << 20 }
    }
}

/// What the owner of the disk has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create the file, which does not exist, and make its name durable.
    Create(FileId),
    /// Write at the offset, which is the end of the file.
    Write { file: FileId, offset: u64, bytes: Vec<u8> },
    /// Make everything written durable.
    Sync(FileId),
    /// Close the file; its outcome does not matter.
    Close(FileId),
}

/// Held by whoever needs the file to stay: the segments that began in it.
pub type FileToken = Arc<FileId>;

struct Open {
    id: FileId,
    offset: u64,
    abandoned: bool,
}

/// A file that some segment may need.
struct LogFile {
    token: FileToken,
    /// Segments that began in it.
    segments: usize,
    /// Some of it was written as a whole batch, and is durable.
    is_written: bool,
    is_synced: bool,
    /// It was given up.
    is_abandoned: bool,
    /// It is deleted, or about to be.
    is_removed: bool,
}

impl LogFile {
    fn new(id: FileId) -> LogFile {
        LogFile {
            token: Arc::new(id),
            segments: 0,
            is_written: false,
            is_synced: false,
            is_abandoned: false,
            is_removed: false,
        }
    }
}

/// A batch that is being written.
struct Batch {
    records: Vec<u8>,
    /// Position behind its last record.
    position: u64,
    bytes: Vec<u8>,
    written: usize,
}

/// One log.
pub struct Writer {
    options: Options,
    /// Files that are not deleted, oldest first; the last takes what is appended now.
    files: Vec<LogFile>,
    begun_ms: Option<u64>,
    /// Records for the last file, and those that were written but are not durable: kind, length, payload.
    pending: Vec<u8>,
    unsynced: Vec<u8>,
    /// Positions count records: the last appended, written, and made durable.
    appended: u64,
    written: u64,
    durable: u64,
    open: Option<Open>,
    batch: Option<Batch>,
    in_flight: bool,
    /// When the action in flight was begun, and whether it takes too long.
    in_flight_ms: u64,
    is_stalled: bool,
    synced_ms: u64,
    /// From when on something has waited to be durable.
    behind_since_ms: Option<u64>,
    failing: Option<String>,
    failures: u64,
    retry_ms: u64,
    retry_wait_ms: u64,
    discarding: bool,
    discarded: u64,
    epoch: u32,
    bytes_written: u64,
    syncs: u64,
}

impl Writer {
    /// A log whose first file is `first`.
    pub fn new(first: FileId, options: Options) -> Writer {
        Writer {
            options,
            files: vec![LogFile::new(first)],
            begun_ms: None,
            pending: Vec::new(),
            unsynced: Vec::new(),
            appended: 0,
            written: 0,
            durable: 0,
            open: None,
            batch: None,
            in_flight: false,
            in_flight_ms: 0,
            is_stalled: false,
            synced_ms: 0,
            behind_since_ms: None,
            failing: None,
            failures: 0,
            retry_ms: 0,
            retry_wait_ms: 0,
            discarding: false,
            discarded: 0,
            epoch: 0,
            bytes_written: 0,
            syncs: 0,
        }
    }

    /// The file that takes the next record. May begin another one.
    pub fn file(&mut self, now_ms: u64) -> &FileToken {
        let full = self.open.as_ref().is_some_and(|open| open.offset >= self.options.file_bytes_max);
        let old = self.begun_ms.is_some_and(|begun| now_ms >= begun + self.options.file_age_ms_max);
        if (full || old) && self.pending.is_empty() && self.batch.is_none() {
            self.begin_file();
        }
        &self.last_file().token
    }

    /// The file that takes the next record, which begins a segment.
    pub fn begin_segment(&mut self, now_ms: u64) -> FileToken {
        let token = self.file(now_ms).clone();
        self.files.last_mut().expect("there is always a file").segments += 1;
        token
    }

    /// Files that only few of the segments need that began in them: closing these frees more than it costs. The newest
    /// files are none of them.
    pub fn pinned_by_few(&self) -> Vec<FileId> {
        let older = self.files.iter().rev().skip(FILES_NEWEST);
        let by_few = |file: &&LogFile| (Arc::strong_count(&file.token) - 1) * FEW_OF <= file.segments;
        older.filter(by_few).map(|file| *file.token).collect()
    }

    fn last_file(&self) -> &LogFile {
        self.files.last().expect("there is always a file")
    }

    fn begin_file(&mut self) {
        let last = *self.last_file().token;
        self.files.push(LogFile::new(FileId { sequence: last.sequence + 1, ..last }));
        self.begun_ms = None;
    }

    /// Takes a record; it is readable by others once [`Writer::visible`] has reached the position returned.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> u64 {
        self.appended += 1;
        let kept =
            self.pending.len() + self.unsynced.len() + self.batch.as_ref().map_or(0, |batch| batch.records.len());
        if self.failing().is_some() && kept + payload.len() > self.options.kept_bytes_max && !self.discarding {
            self.discarded += (each(&self.unsynced).count() + each(&self.pending).count()) as u64;
            self.pending.clear();
            self.unsynced.clear();
            self.discarding = true;
        }
        if self.discarding {
            self.discarded += 1;
            return self.appended;
        }
        self.pending.push(kind);
        self.pending.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.pending.extend_from_slice(payload);
        self.appended
    }

    /// Changes when records were discarded: what comes has to stand by itself.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Position of the last record that readers may see: written to the kernel; while the disk fails, everything.
    pub fn visible(&self) -> u64 {
        if self.failing().is_some() {
            u64::MAX
        } else if self.options.sync_interval_ms == 0 {
            self.durable
        } else {
            self.written
        }
    }

    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// Position of the last record that survives a power cut.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// How long the oldest record that is not durable has waited, as of the last [`Writer::tick`] or action.
    pub fn behind_ms(&self, now_ms: u64) -> u64 {
        self.behind_since_ms.map_or(0, |since| now_ms.saturating_sub(since))
    }

    /// Notes what is not durable at this time.
    fn note_behind(&mut self, now_ms: u64) {
        self.behind_since_ms = (self.appended > self.durable).then(|| self.behind_since_ms.unwrap_or(now_ms));
    }

    /// Why writing does not work, while it does not.
    pub fn failing(&self) -> Option<&str> {
        self.failing.as_deref().or(self.is_stalled.then_some(STALLED))
    }

    /// Says what time it is while an action is in flight.
    pub fn tick(&mut self, now_ms: u64) {
        self.note_behind(now_ms);
        let stalls = self.in_flight && now_ms >= self.in_flight_ms + STALL_MS;
        self.failures += u64::from(stalls && !self.is_stalled);
        self.is_stalled = stalls;
    }

    /// Failed operations so far.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Records that were given up because the disk failed for too long.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Files that nobody needs any more, oldest first; they are forgotten here.
    pub fn take_unused(&mut self) -> Vec<FileId> {
        let open = self.open.as_ref().map(|open| open.id);
        let is_failing = self.failing().is_some();
        let mut unused = Vec::new();
        for file in &mut self.files {
            // What was in it and not durable is in the next file, once that is written.
            let is_void = !file.is_written || !file.is_synced && !is_failing;
            let is_void = is_void && file.is_abandoned && open != Some(*file.token);
            if is_void && !std::mem::replace(&mut file.is_removed, true) {
                unused.push(*file.token);
            }
        }
        let is_unused = |file: &&LogFile| Arc::strong_count(&file.token) == 1 && open != Some(*file.token);
        let count = self.files[..self.files.len() - 1].iter().take_while(is_unused).count();
        unused.extend(self.files.drain(..count).filter(|file| !file.is_removed).map(|file| *file.token));
        unused.sort_unstable();
        unused
    }

    /// What to do now. `finish` is for the end of the process: everything is written and synced.
    pub fn next(&mut self, now_ms: u64, finish: bool) -> Option<Action> {
        assert!(!self.in_flight, "the outcome of the last action was told");
        if self.failing.is_some() && now_ms < self.retry_ms && self.open.as_ref().is_none_or(|open| !open.abandoned) {
            return None;
        }
        let action = self.choose(now_ms, finish)?;
        self.in_flight = true;
        self.in_flight_ms = now_ms;
        Some(action)
    }

    fn choose(&mut self, now_ms: u64, finish: bool) -> Option<Action> {
        let target = *self.last_file().token;
        if let Some(open) = &self.open
            && (open.abandoned || open.id != target)
        {
            let sync = !open.abandoned && !self.unsynced.is_empty();
            return Some(if sync { Action::Sync(open.id) } else { Action::Close(open.id) });
        }
        let strict = self.options.sync_interval_ms == 0;
        let due = strict || finish || now_ms >= self.synced_ms + self.options.sync_interval_ms;
        if let Some(open) = &self.open
            && self.batch.is_none()
            && !self.unsynced.is_empty()
            && due
        {
            return Some(Action::Sync(open.id));
        }
        // While records are discarded, the header alone tries whether the disk works again.
        if self.pending.is_empty() && self.batch.is_none() && !self.discarding {
            return None;
        }
        let Some(open) = &self.open else { return Some(Action::Create(target)) };
        let (id, offset) = (open.id, open.offset);
        if self.batch.is_none() {
            self.batch = Some(self.make_batch(id, offset));
        }
        let batch = self.batch.as_ref().expect("made above");
        Some(Action::Write { file: id, offset, bytes: batch.bytes[batch.written..].to_vec() })
    }

    fn make_batch(&mut self, id: FileId, offset: u64) -> Batch {
        let records = std::mem::take(&mut self.pending);
        let mut bytes = Vec::with_capacity(records.len() + records.len() / 32 + 1024);
        if offset == 0 {
            put_frame(id, offset, HEADER, HEADER_V1, &mut bytes);
        }
        for (kind, payload) in each(&records) {
            put_frame(id, offset, kind, payload, &mut bytes);
        }
        put_parity(id, offset, &mut bytes);
        Batch { records, position: self.appended, bytes, written: 0 }
    }

    /// The outcome of the last action: bytes written, 0 for others.
    pub fn done(&mut self, action: &Action, outcome: Result<usize, String>, now_ms: u64) {
        assert!(std::mem::take(&mut self.in_flight), "an action was in flight");
        self.is_stalled = false;
        match (action, outcome) {
            (Action::Close(_), _) => self.open = None,
            (_, Err(error)) => self.failed(error, now_ms),
            (Action::Write { .. }, Ok(0)) => self.failed("the file took no bytes".into(), now_ms),
            (Action::Create(id), Ok(_)) => {
                self.open = Some(Open { id: *id, offset: 0, abandoned: false });
                self.begun_ms = Some(now_ms);
                if self.unsynced.is_empty() {
                    self.synced_ms = now_ms;
                }
            }
            (Action::Write { .. }, Ok(count)) => self.wrote(count, now_ms),
            (Action::Sync(id), Ok(_)) => {
                if let Some(file) = self.files.iter_mut().rev().find(|file| *file.token == *id) {
                    file.is_synced = true;
                }
                self.unsynced.clear();
                self.durable = self.written;
                self.synced_ms = now_ms;
                // What came after the sync had begun is not older than that.
                self.behind_since_ms = Some(self.in_flight_ms);
                self.note_behind(now_ms);
                self.syncs += 1;
            }
        }
    }

    fn wrote(&mut self, count: usize, now_ms: u64) {
        let batch = self.batch.as_mut().expect("a batch was being written");
        let open = self.open.as_mut().expect("into an open file");
        let count = count.min(batch.bytes.len() - batch.written);
        batch.written += count;
        open.offset += count as u64;
        self.bytes_written += count as u64;
        if batch.written < batch.bytes.len() {
            return;
        }
        let batch = self.batch.take().expect("looked at above");
        let id = open.id;
        if let Some(file) = self.files.iter_mut().rev().find(|file| *file.token == id) {
            file.is_written = true;
        }
        if self.unsynced.is_empty() {
            self.synced_ms = self.synced_ms.max(now_ms.saturating_sub(self.options.sync_interval_ms));
        }
        self.unsynced.extend_from_slice(&batch.records);
        self.written = batch.position;
        self.failing = None;
        self.retry_wait_ms = 0;
        if std::mem::take(&mut self.discarding) {
            self.epoch += 1;
        }
        // The buffer is used again unless a burst made it large.
        if self.pending.is_empty() && batch.records.capacity() <= 1 << 20 {
            self.pending = batch.records;
            self.pending.clear();
        }
    }

    /// Everything that is not durable goes to a new file, after a wait.
    fn failed(&mut self, error: String, now_ms: u64) {
        self.failures += 1;
        self.failing = Some(error);
        self.retry_wait_ms = (self.retry_wait_ms * 2).clamp(RETRY_MS_MIN, RETRY_MS_MAX);
        self.retry_ms = now_ms + self.retry_wait_ms;
        let mut kept = std::mem::take(&mut self.unsynced);
        if let Some(batch) = self.batch.take() {
            kept.extend_from_slice(&batch.records);
        }
        kept.append(&mut self.pending);
        self.pending = kept;
        // A name that was tried once is not tried again: the file may be there in part.
        if let Some(open) = &mut self.open {
            open.abandoned = true;
        }
        let failed = self.open.as_ref().map_or(*self.last_file().token, |open| open.id);
        if let Some(file) = self.files.iter_mut().rev().find(|file| *file.token == failed) {
            file.is_abandoned = true;
        }
        self.begin_file();
    }
}

/// The records of a buffer of ours.
fn each(mut records: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = records.split_at_checked(5)?;
        let length = u32::from_le_bytes(head[1..].try_into().expect("four bytes")) as usize;
        let (payload, rest) = rest.split_at(length);
        records = rest;
        Some((head[0], payload))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: FileId = FileId { boot: 1, writer: 0, sequence: 1 };

    /// Does what is to be done; calls whose kind is in `fails` fail.
    fn carry_out(writer: &mut Writer, now_ms: u64, fails: &[&str]) {
        while let Some(action) = writer.next(now_ms, false) {
            let kind = match &action {
                Action::Create(_) => "create",
                Action::Write { .. } => "write",
                Action::Sync(_) => "sync",
                Action::Close(_) => "close",
            };
            let length = if let Action::Write { bytes, .. } = &action { bytes.len() } else { 0 };
            let outcome = if fails.contains(&kind) { Err("it fails".to_owned()) } else { Ok(length) };
            writer.done(&action, outcome, now_ms);
        }
    }

    #[test]
    fn a_disk_that_fails_for_long_has_no_more_files() {
        let mut writer = Writer::new(FIRST, Options::default());
        // A segment that needs the file as long as the disk fails.
        let token = writer.begin_segment(0);
        let mut there = 0i64;
        for second in 0..600 {
            writer.append(5, b"a row");
            let before = writer.files.last().unwrap().token.sequence;
            carry_out(&mut writer, second * 1000, &["write"]);
            there += i64::from(writer.files.last().unwrap().token.sequence - before);
            there -= writer.take_unused().len() as i64;
            assert!(there <= 2, "{there} files after {second} s");
        }
        assert!(writer.failing().is_some());
        carry_out(&mut writer, 700_000, &[]);
        assert!(writer.failing().is_none() && writer.visible() == writer.appended());
        // What the segment needs is in the file behind those that were given up.
        assert!(writer.take_unused().len() <= 1 && writer.files.len() > 100);
        drop(token);
        writer.begin_file();
        carry_out(&mut writer, 701_000, &[]);
        writer.take_unused();
        assert!(writer.files.len() <= 2, "{} files", writer.files.len());
    }

    #[test]
    fn what_is_written_and_not_synced_stays_until_it_is_written_again() {
        let mut writer = Writer::new(FIRST, Options { sync_interval_ms: 1, ..Options::default() });
        writer.append(5, b"a row");
        carry_out(&mut writer, 10, &[]);
        carry_out(&mut writer, 20, &["sync"]);
        assert!(writer.failing().is_some());
        let token = writer.files[0].token.clone();
        assert_eq!(writer.take_unused(), [], "a kill would lose what was visible");
        carry_out(&mut writer, 10_000, &[]);
        assert_eq!(writer.take_unused(), [FIRST]);
        drop(token);
    }

    #[test]
    fn a_call_that_does_not_return_counts_as_a_failing_disk() {
        let options = Options { kept_bytes_max: 1000, ..Options::default() };
        let mut writer = Writer::new(FIRST, options);
        writer.append(5, &[0; 100]);
        let action = writer.next(0, false).unwrap();
        writer.tick(STALL_MS - 1);
        assert!(writer.failing().is_none() && writer.visible() < writer.appended());
        writer.tick(STALL_MS);
        assert!(writer.failing().is_some() && writer.visible() > writer.appended());
        for _ in 0..100 {
            writer.append(5, &[0; 100]);
        }
        assert!(writer.pending.len() <= 1200, "{} bytes wait", writer.pending.len());
        assert!(writer.discarded() > 80);
        writer.done(&action, Ok(0), 60_000);
        carry_out(&mut writer, 60_000, &[]);
        assert!(writer.failing().is_none() && writer.epoch() == 1, "heads begin new segments");
    }

    #[test]
    fn how_long_records_wait_to_be_durable_is_known() {
        let mut writer = Writer::new(FIRST, Options { sync_interval_ms: 1000, ..Options::default() });
        assert_eq!(writer.behind_ms(5000), 0);
        writer.append(5, b"a row");
        writer.tick(5000);
        carry_out(&mut writer, 5100, &["sync"]);
        writer.tick(7000);
        assert_eq!(writer.behind_ms(7500), 2500, "it fails since");
        carry_out(&mut writer, 20_000, &[]);
        assert_eq!(writer.behind_ms(30_000), 0);

        // A record that comes while a sync is in flight waits for the next one.
        writer.append(5, b"a row");
        writer.tick(30_000);
        while let Some(action) = writer.next(31_000, false) {
            if matches!(action, Action::Sync(_)) {
                writer.append(5, b"a row");
                writer.done(&action, Ok(0), 31_500);
                break;
            }
            let length = if let Action::Write { bytes, .. } = &action { bytes.len() } else { 0 };
            writer.done(&action, Ok(length), 31_000);
        }
        assert_eq!(writer.behind_ms(32_000), 1000);
    }

    #[test]
    fn a_file_that_one_of_many_needs_is_told() {
        let mut writer = Writer::new(FIRST, Options::default());
        let mut tokens: Vec<FileToken> = (0..10).map(|_| writer.begin_segment(0)).collect();
        (0..4).for_each(|_| writer.begin_file());
        assert_eq!(writer.pinned_by_few(), [FileId { sequence: 2, ..FIRST }]);
        tokens.truncate(2);
        assert_eq!(writer.pinned_by_few(), [FileId { sequence: 2, ..FIRST }, FIRST]);
    }
}
