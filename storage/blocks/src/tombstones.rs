//! What was deleted from a block without writing it anew.

use crate::codec::{ByteCursor, put_uvarint, put_varint};
use crate::{BlockError, Fault, TOMBSTONES_MAGIC, file};
use ahash::AHashMap;
use std::path::Path;

/// Deleted ranges of time, both ends included, by series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tombstones(pub AHashMap<u32, Vec<(i64, i64)>>);

impl Tombstones {
    /// Of a block's folder; none if there is no such file.
    pub fn read(folder: &Path) -> Result<Tombstones, BlockError> {
        let path = folder.join("tombstones");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Tombstones::default()),
            Err(error) => return Err(BlockError::io(&path, 0, &error)),
        };
        let bad = |reason: &str| BlockError::new(&path, 0, reason);
        let (head, rest) = bytes.split_at_checked(5).ok_or_else(|| bad("it ends early"))?;
        if head[..4] != TOMBSTONES_MAGIC.to_be_bytes() || head[4] != 1 {
            return Err(bad("no tombstones of version 1"));
        }
        let (stones, sum) = rest.split_last_chunk::<4>().ok_or_else(|| bad("it ends early"))?;
        let (want, got) = (u32::from_be_bytes(*sum), crc32c::crc32c(stones));
        if want != got {
            return Err(BlockError {
                file: path,
                offset: bytes.len() as u64 - 4,
                fault: Fault::Checksum { want, got },
            });
        }
        let mut all = Tombstones::default();
        let mut cursor = ByteCursor::new(stones);
        while !cursor.is_empty() {
            let mut stone = || {
                let series = u32::try_from(cursor.uvarint()?).map_err(|_| "a series is out of range")?;
                Ok((series, cursor.varint()?, cursor.varint()?))
            };
            let (series, min, max) = stone().map_err(bad)?;
            all.add(series, min, max);
        }
        Ok(all)
    }

    pub fn add(&mut self, series: u32, min: i64, max: i64) {
        let ranges = self.0.entry(series).or_default();
        ranges.push((min, max));
        ranges.sort_unstable();
        ranges.dedup_by(|later, earlier| {
            let joins = later.0 <= earlier.1.saturating_add(1);
            if joins {
                earlier.1 = earlier.1.max(later.1);
            }
            joins
        });
    }

    pub fn count(&self) -> u64 {
        self.0.values().map(|ranges| ranges.len() as u64).sum()
    }

    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let mut stones = Vec::new();
        let mut series: Vec<_> = self.0.iter().collect();
        series.sort_unstable_by_key(|(series, _)| **series);
        for (series, ranges) in series {
            for (min, max) in ranges {
                put_uvarint(u64::from(*series), &mut stones);
                put_varint(*min, &mut stones);
                put_varint(*max, &mut stones);
            }
        }
        let mut bytes = TOMBSTONES_MAGIC.to_be_bytes().to_vec();
        bytes.push(1);
        bytes.extend_from_slice(&stones);
        bytes.extend_from_slice(&crc32c::crc32c(&stones).to_be_bytes());
        file::replace(&folder.join("tombstones"), &bytes)
    }
}
