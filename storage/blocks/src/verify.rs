//! Reads every byte of a block, says all that is wrong with it, and writes anew what can be read.

use crate::chunk::Chunk;
use crate::error::BlockError;
use crate::merge::{check_times, merge_chunks};
use crate::reader::Block;
use crate::writer::BlockWriter;
use crate::{Compaction, Meta};
use series::{Labels, Matcher};
use std::collections::BTreeSet;
use std::path::Path;

/// Faults that a check lists; the others are counted.
const FAULTS_MAX: usize = 64;

/// What a check of a block found.
#[derive(Clone, Debug, Default)]
pub struct BlockCheck {
    pub series: u64,
    pub samples: u64,
    /// The first faults.
    pub faults: Vec<BlockError>,
    pub fault_count: u64,
}

impl BlockCheck {
    pub fn is_good(&self) -> bool {
        self.fault_count == 0
    }

    fn add(&mut self, error: BlockError) {
        // It may have been met before, by a query.
        if self.faults.contains(&error) {
            return;
        }
        self.fault_count += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(error);
        }
    }
}

/// What a repair kept.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// None if nothing could be read.
    pub meta: Option<Meta>,
    pub series_lost: u64,
    pub chunks_lost: u64,
}

impl Block {
    /// Reads every byte that a query could need, and counts the samples.
    ///
    /// # Errors
    /// The first fault.
    pub fn verify(&self) -> Result<u64, BlockError> {
        let check = self.check();
        check.faults.into_iter().next().map_or(Ok(check.samples), Err)
    }

    /// Reads every byte that a query could need, and compares what the files say of each other.
    pub fn check(&self) -> BlockCheck {
        let mut check = BlockCheck::default();
        self.faults().first.into_iter().for_each(|error| check.add(error));
        let all = match self.ids(&[]) {
            Ok(ids) => ids,
            Err(error) => {
                check.add(error);
                let mut ids = Vec::new();
                self.scan_ids(|id| {
                    match id {
                        Ok(id) => ids.push(id),
                        Err(error) => check.add(error),
                    }
                    true
                });
                ids
            }
        };
        self.check_postings(&all, &mut check);
        let mut reader = self.reader();
        let mut last: Option<Labels> = None;
        for id in all {
            let entry = match reader.series(id, i64::MIN, i64::MAX) {
                Ok(Some(entry)) => entry,
                // A series without chunks is legal.
                Ok(None) => continue,
                Err(error) => {
                    check.add(error);
                    continue;
                }
            };
            let at_entry = |reason: String| BlockError::new(&self.folder().join("index"), u64::from(id) * 16, reason);
            if last.as_ref().is_some_and(|last| *last >= entry.labels) {
                check.add(at_entry(format!("series {} is not in order", entry.labels)));
            }
            let bounds =
                entry.bounds().filter(|(min, max)| *min < self.meta().min_time || *max >= self.meta().max_time);
            if let Some((min, max)) = bounds {
                let of_block = (self.meta().min_time, self.meta().max_time);
                check.add(at_entry(format!("chunks of {min} to {max} in a block of {} to {}", of_block.0, of_block.1)));
            }
            check.series += 1;
            let mut bad = Vec::new();
            check.samples += reader.verify_series(&entry, |error| bad.push(error));
            bad.into_iter().for_each(|error| check.add(error));
            last = Some(entry.labels);
        }
        let stats = self.meta().stats;
        if check.is_good() && stats.num_samples > 0 && stats.num_samples != check.samples {
            let reason = format!("it says {} samples, the chunks have {}", stats.num_samples, check.samples);
            check.add(BlockError::new(&self.folder().join("meta.json"), 0, reason));
        }
        check
    }

    /// Reads the postings of every label.
    fn check_postings(&self, all: &[u32], check: &mut BlockCheck) {
        let names = match self.label_names(&[]) {
            Ok(names) => names,
            Err(error) => return check.add(error),
        };
        for name in names {
            let any = Matcher::new(&name, series::MatchOp::NotEqual, "").expect("no expression");
            match self.ids(std::slice::from_ref(&any)) {
                Ok(ids) if ids.iter().all(|id| all.binary_search(id).is_ok()) => {}
                Ok(_) => {
                    let reason = format!("postings of label {name:?} have a series that is not among all");
                    check.add(BlockError::new(&self.folder().join("index"), 0, reason));
                }
                Err(error) => check.add(error),
            }
        }
    }
}

/// Writes a block with all that can be read of `block`, deletions carried out, as `ulid` into `parent`. Label sets of all
/// series are held in memory.
///
/// # Errors
/// If the new block cannot be written.
pub fn repair(block: &Block, parent: &Path, ulid: &str) -> Result<Repaired, BlockError> {
    let failed = |error: std::io::Error| BlockError::io(&parent.join(ulid), 0, &error);
    let mut repaired = Repaired::default();
    let mut reader = block.reader();
    let mut all: Vec<(Labels, u32)> = Vec::new();
    let mut was_bad = false;
    block.scan_ids(|id| {
        let entry = id.and_then(|id| Ok((id, reader.series(id, i64::MIN, i64::MAX)?)));
        // Within a damaged entry others seem to begin.
        let is_bad = entry.is_err();
        repaired.series_lost += u64::from(is_bad && !was_bad);
        was_bad = is_bad;
        if let Ok((id, Some(entry))) = entry {
            all.push((entry.labels, id));
        }
        true
    });
    // Stable: of equal label sets the first stays first.
    all.sort_by(|one, other| one.0.cmp(&other.0));
    let texts = all.iter().flat_map(|(labels, _)| labels.iter().flat_map(|(name, value)| [name, value]));
    let symbols: BTreeSet<String> = texts.map(str::to_owned).collect();
    let mut writer = BlockWriter::new(parent, ulid, &symbols).map_err(failed)?;
    let (mut min, mut max) = (i64::MAX, i64::MIN);
    for of_series in all.chunk_by(|one, other| one.0 == other.0) {
        let mut chunks: Vec<(Chunk, Vec<(i64, i64)>)> = Vec::new();
        for (_, id) in of_series {
            let Ok(Some(entry)) = reader.series(*id, i64::MIN, i64::MAX) else { continue };
            let deleted = block.deleted(*id);
            let readable = reader.readable_chunks(&entry, |_| repaired.chunks_lost += 1);
            for chunk in readable {
                match check_times(&chunk) {
                    Ok(()) => chunks.push((chunk, deleted.clone())),
                    Err(_) => repaired.chunks_lost += 1,
                }
            }
        }
        let merged = merge_chunks(chunks).expect("every chunk was decoded before");
        if let (Some(first), Some(last)) = (merged.first(), merged.last()) {
            (min, max) = (min.min(first.min), max.max(last.max));
            writer.add_series(&of_series[0].0, &merged).map_err(failed)?;
        }
    }
    if writer.stats().num_series > 0 {
        let compaction = Compaction { failed: false, ..block.meta().compaction.clone() };
        let other = block.meta().other.clone();
        let bounds = (min.max(block.meta().min_time), (max + 1).min(block.meta().max_time));
        let (min_time, max_time) = if bounds.0 <= min && bounds.1 > max { bounds } else { (min, max + 1) };
        let meta = Meta { min_time, max_time, compaction, other, ..Meta::default() };
        repaired.meta = Some(writer.finish(meta).map_err(failed)?);
    }
    Ok(repaired)
}
