//! What was deleted from samples that are in no block yet: kept beside them until they are.

use crate::bytes::{Reader, put_varint, unzigzag, zigzag};
use crate::log::{FileId, put_matchers, read_matchers};
use series::{Labels, Matcher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

const MAGIC: &[u8] = b"ringscrape deletions 1\n";

/// Samples in `[from, to]` of series that satisfy all matchers are gone.
#[derive(Clone, Debug)]
pub struct Deletion {
    pub matchers: Vec<Matcher>,
    pub from: i64,
    pub to: i64,
}

impl Deletion {
    /// The range, if the series is meant.
    pub fn range_of(&self, labels: &Labels) -> Option<(i64, i64)> {
        let meant = self.matchers.iter().all(|matcher| matcher.matches_labels(labels));
        meant.then_some((self.from, self.to))
    }
}

/// All deletions of a data folder, in a file that is replaced as a whole.
///
/// A deletion is remembered as long as what it deletes may come back: out of a log that was there when it was made, out of
/// chunks, or out of rows that stay in memory beside their chunks.
#[derive(Debug)]
pub struct Deletions {
    path: PathBuf,
    all: RwLock<Arc<[Deletion]>>,
    /// Of each the logs that there were.
    logs: Mutex<Vec<Vec<FileId>>>,
}

/// Ranges after its end for which a deletion is remembered at least: rows stay in memory beside their chunks for less.
const RANGES_REMEMBERED: i64 = 3;

impl Deletions {
    /// Reads the file. One that cannot be read is an error, with the empty list to go on with. `logs` are those that there
    /// are.
    pub fn open(folder: &Path, logs: &[FileId]) -> (Deletions, io::Result<()>) {
        let path = folder.join("deletions");
        let read = match std::fs::read(&path) {
            Ok(bytes) => read(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let (all, outcome) = match read {
            Ok(all) => (all, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        let logs = Mutex::new(vec![logs.to_vec(); all.len()]);
        (Deletions { path, all: RwLock::new(all.into()), logs }, outcome)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn all(&self) -> Arc<[Deletion]> {
        self.all.read().expect("no panic while held").clone()
    }

    /// Adds one, durably. `logs` are those that there are.
    pub fn add(&self, deletion: Deletion, logs: Vec<FileId>) -> io::Result<()> {
        let mut of_all = self.logs.lock().expect("no panic while held");
        let mut all = self.all().to_vec();
        all.push(deletion);
        self.replace(all)?;
        of_all.push(logs);
        Ok(())
    }

    /// Forgets those whose samples are nowhere any more. `logs` are those that there are, `oldest` is the time of the oldest
    /// sample in chunks.
    pub fn forget(&self, now: i64, block_ms: i64, oldest: Option<i64>, logs: &[FileId]) -> io::Result<()> {
        let mut of_all = self.logs.lock().expect("no panic while held");
        let all = self.all();
        let stays = |(deletion, of_deletion): (&Deletion, &Vec<FileId>)| {
            oldest.is_some_and(|oldest| deletion.to >= oldest)
                || deletion.to.saturating_add(RANGES_REMEMBERED.saturating_mul(block_ms)) > now
                || of_deletion.iter().any(|log| logs.contains(log))
        };
        let stay: Vec<bool> = all.iter().zip(of_all.iter()).map(stays).collect();
        if stay.iter().all(|stays| *stays) {
            return Ok(());
        }
        let left = all.iter().zip(&stay).filter(|(_, stays)| **stays).map(|(deletion, _)| deletion.clone());
        self.replace(left.collect())?;
        let mut stay = stay.into_iter();
        of_all.retain(|_| stay.next().unwrap_or(true));
        Ok(())
    }

    fn replace(&self, all: Vec<Deletion>) -> io::Result<()> {
        blocks::file::replace(&self.path, &write(&all))?;
        *self.all.write().expect("no panic while held") = all.into();
        Ok(())
    }
}

fn write(all: &[Deletion]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_varint(all.len() as u64, &mut out);
    for deletion in all {
        put_varint(zigzag(deletion.from), &mut out);
        put_varint(zigzag(deletion.to), &mut out);
        put_matchers(&deletion.matchers, &mut out);
    }
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

fn read(bytes: &[u8]) -> Result<Vec<Deletion>, &'static str> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(crate::bytes::SHORT)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err("the checksum does not fit");
    }
    let mut reader = Reader::new(body.strip_prefix(MAGIC).ok_or("no deletions of version 1")?);
    (0..reader.count()?)
        .map(|_| {
            let (from, to) = (unzigzag(reader.varint()?), unzigzag(reader.varint()?));
            Ok(Deletion { from, to, matchers: read_matchers(&mut reader)? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use series::MatchOp;

    #[test]
    fn deletions_come_back_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let (deletions, outcome) = Deletions::open(folder.path(), &[]);
            outcome.unwrap();
            deletions
        };
        let deletions = open();
        let matcher = Matcher::new("job", MatchOp::Regex, "a|b").unwrap();
        deletions.add(Deletion { matchers: vec![matcher], from: i64::MIN, to: 77 }, vec![]).unwrap();
        deletions.add(Deletion { matchers: vec![], from: 5, to: 6 }, vec![]).unwrap();
        deletions.forget(40, 10, Some(50), &[]).unwrap();
        let again = open();
        assert_eq!(format!("{:?}", again.all()), format!("{:?}", deletions.all()));
        assert_eq!(again.all().len(), 1);
        assert_eq!(again.all()[0].range_of(&Labels::from_pairs([("job", "a")])), Some((i64::MIN, 77)));
        assert_eq!(again.all()[0].range_of(&Labels::from_pairs([("job", "c")])), None);
        let path = folder.path().join("deletions");
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            assert!(read(&bytes).is_err(), "byte {at}");
            assert!(read(&good[..at]).is_err(), "cut at {at}");
        }
        std::fs::write(&path, &good[1..]).unwrap();
        let (deletions, outcome) = Deletions::open(folder.path(), &[]);
        assert!(outcome.is_err() && deletions.all().is_empty());
    }

    #[test]
    fn a_deletion_is_remembered_while_its_samples_may_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let (deletions, _) = Deletions::open(folder.path(), &[]);
        let log = FileId { boot: 1, writer: 0, sequence: 7 };
        let later = FileId { sequence: 8, ..log };
        let check = |now: i64, oldest: Option<i64>, logs: &[FileId], want: usize| {
            deletions.forget(now, 10, oldest, logs).unwrap();
            assert_eq!(deletions.all().len(), want, "at {now}, chunks from {oldest:?}, logs {logs:?}");
        };
        deletions.add(Deletion { matchers: vec![], from: 0, to: 100 }, vec![log]).unwrap();
        check(1000, None, &[log, later], 1);
        check(1000, Some(100), &[later], 1);
        check(129, Some(101), &[later], 1);
        check(130, Some(101), &[later], 0);
    }
}
