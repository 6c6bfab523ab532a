//! What was deleted from samples that are in no block yet: kept beside them until they are.

use crate::bytes::{Reader, put_varint, unzigzag, zigzag};
use crate::log::{put_matchers, read_matchers};
use series::{Labels, Matcher};
use std::io;
use std::path::{Path, PathBuf};

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
#[derive(Debug)]
pub struct Deletions {
    path: PathBuf,
    all: Vec<Deletion>,
}

impl Deletions {
    /// Reads the file; a damaged one is an error that names it.
    pub fn open(folder: &Path) -> io::Result<Deletions> {
        let path = folder.join("deletions");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Deletions { path, all: Vec::new() }),
            Err(error) => return Err(error),
        };
        match read(&bytes) {
            Ok(all) => Ok(Deletions { path, all }),
            Err(reason) => Err(io::Error::other(format!(
                "{}: {reason}; move the file away to go on without the deletions in it",
                path.display()
            ))),
        }
    }

    pub fn all(&self) -> &[Deletion] {
        &self.all
    }

    /// Adds one, durably.
    pub fn add(&mut self, deletion: Deletion) -> io::Result<()> {
        let mut all = self.all.clone();
        all.push(deletion);
        self.replace(all)
    }

    /// Forgets those that end before `oldest`: what they hid is in blocks, without it.
    pub fn forget_before(&mut self, oldest: i64) -> io::Result<()> {
        let left: Vec<Deletion> = self.all.iter().filter(|deletion| deletion.to >= oldest).cloned().collect();
        if left.len() == self.all.len() { Ok(()) } else { self.replace(left) }
    }

    fn replace(&mut self, all: Vec<Deletion>) -> io::Result<()> {
        blocks::file::replace(&self.path, &write(&all))?;
        self.all = all;
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
    fn deletions_come_back_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut deletions = Deletions::open(folder.path()).unwrap();
        let matcher = Matcher::new("job", MatchOp::Regex, "a|b").unwrap();
        deletions.add(Deletion { matchers: vec![matcher], from: i64::MIN, to: 77 }).unwrap();
        deletions.add(Deletion { matchers: vec![], from: 5, to: 6 }).unwrap();
        deletions.forget_before(50).unwrap();
        let again = Deletions::open(folder.path()).unwrap();
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
    }
}
