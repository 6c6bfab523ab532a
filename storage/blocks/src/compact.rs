//! Several blocks into one, and which.
//!
//! Invariants:
//!   * one series at a time is in memory, whatever the blocks hold; beside it the symbols, and what the writer needs
//!   * of two samples at one time the first block's stays; chunks that overlap nothing are as they were, copied or where
//!     they are: files may be taken over (docs/decisions/095)
//!   * a block that cannot be read whole is an error that names its file; nothing of the new block stays

use crate::chunk::LinkedFile;
use crate::merge::merge_chunks;
use crate::reader::{Block, BlockReader, IdReader, SeriesEntry};
use crate::writer::BlockWriter;
use crate::{BlockError, Compaction, Meta, Parent};
use series::Labels;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Chunk files that a block takes over at most; beyond, they are written together.
const LINKED_FILES_MAX: usize = 100;

/// Writes one block with everything in `blocks`; None if nothing was left. Ends early when told to `stop`. `yield_now` is
/// called for every series.
pub fn compact(
    parent: &Path,
    ulid: &str,
    blocks: &[&Block],
    stop: &AtomicBool,
    yield_now: impl FnMut(),
) -> Result<Option<Meta>, BlockError> {
    let mut sources: BTreeSet<String> = BTreeSet::new();
    let (mut min, mut max, mut level) = (i64::MAX, i64::MIN, 0);
    for meta in blocks.iter().map(|block| block.meta()) {
        sources.extend(meta.compaction.sources.iter().cloned());
        (min, max, level) = (min.min(meta.min_time), max.max(meta.max_time), level.max(meta.compaction.level));
    }
    let parents = blocks.iter().map(|block| block.meta()).map(|meta| Parent {
        ulid: meta.ulid.clone(),
        min_time: meta.min_time,
        max_time: meta.max_time,
    });
    let compaction = Compaction {
        level: level + 1,
        sources: sources.into_iter().collect(),
        parents: parents.collect(),
        ..Compaction::default()
    };
    let meta = Meta {
        min_time: min,
        max_time: max,
        compaction,
        other: blocks.first().map(|block| block.meta().other.clone()).unwrap_or_default(),
        ..Meta::default()
    };
    merge_blocks(parent, ulid, blocks, meta, stop, yield_now)
}

/// A block that is read series by series.
struct Input<'a> {
    block: &'a Block,
    reader: BlockReader<'a>,
    /// Its chunk files, if the new block takes them over.
    linked: Vec<LinkedFile>,
    ids: IdReader<'a>,
    current: Option<SeriesEntry>,
}

impl Input<'_> {
    /// Goes on to the next series that has chunks.
    fn advance(&mut self) -> Result<(), BlockError> {
        self.current = None;
        while self.current.is_none()
            && let Some(id) = self.ids.next()?
        {
            self.current = self.reader.series(id, i64::MIN, i64::MAX)?;
        }
        Ok(())
    }

    fn labels(&self) -> Option<Labels> {
        self.current.as_ref().map(|entry| entry.labels.clone())
    }
}

/// Like [`compact`], with the meta of the new block but for its ULID and counts.
pub(crate) fn merge_blocks(
    parent: &Path,
    ulid: &str,
    blocks: &[&Block],
    meta: Meta,
    stop: &AtomicBool,
    mut yield_now: impl FnMut(),
) -> Result<Option<Meta>, BlockError> {
    let failed = |error: std::io::Error| BlockError::io(&parent.join(ulid), 0, &error);
    let mut symbols = BTreeSet::new();
    for block in blocks {
        block.each_symbol(|text| {
            if !symbols.contains(text) {
                symbols.insert(text.to_owned());
            }
            true
        })?;
    }
    let mut writer = BlockWriter::new(parent, ulid, &symbols).map_err(failed)?;
    drop(symbols);
    let mut inputs = Vec::with_capacity(blocks.len());
    let mut heads: BinaryHeap<Reverse<(Labels, usize)>> = BinaryHeap::new();
    let may_link = may_take_over(blocks);
    for (i, block) in blocks.iter().enumerate() {
        let linked = if may_link { take_over(&mut writer, block) } else { Vec::new() };
        let mut input = Input { block, reader: block.reader(), linked, ids: block.all_ids()?, current: None };
        input.advance()?;
        heads.extend(input.labels().map(|labels| Reverse((labels, i))));
        inputs.push(input);
    }
    while let Some(Reverse((labels, first))) = heads.pop() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut of_series = vec![first];
        while heads.peek().is_some_and(|Reverse((other, _))| *other == labels) {
            of_series.extend(heads.pop().map(|Reverse((_, input))| input));
        }
        let mut chunks = Vec::new();
        for i in &of_series {
            let input = &mut inputs[*i];
            let entry = input.current.as_ref().expect("its labels were on the heap");
            let deleted = input.block.deleted(entry.id);
            let read = input.reader.linked_chunks(entry, &input.linked)?;
            chunks.extend(read.into_iter().map(|chunk| (chunk, deleted.clone())));
        }
        let merged = match merge_chunks(chunks) {
            Ok(merged) => merged,
            Err(error) => {
                // Which of the chunks it is was not looked at before.
                let mut found = None;
                for i in &of_series {
                    let input = &mut inputs[*i];
                    let entry = input.current.as_ref().expect("its labels were on the heap");
                    input.reader.verify_series(entry, |error| found = found.take().or(Some(error)));
                }
                let other = || BlockError::new(blocks[first].folder(), 0, format!("series {labels}: {error}"));
                return Err(found.unwrap_or_else(other));
            }
        };
        if !merged.is_empty() {
            writer.add_series(&labels, &merged).map_err(failed)?;
        }
        for i in of_series {
            inputs[i].advance()?;
            let Some(next) = inputs[i].labels() else { continue };
            if next <= labels {
                let reason = format!("series {next} is not behind {labels}");
                return Err(BlockError::new(&blocks[i].folder().join("index"), 0, reason));
            }
            heads.push(Reverse((next, i)));
        }
        yield_now();
    }
    if writer.stats().num_series == 0 {
        return Ok(None);
    }
    writer.finish(meta).map(Some).map_err(failed)
}

/// Whether a block of these takes their chunk files over. Not where chunks are to be joined or samples left out, as what is
/// replaced would stay in the files; and not of first blocks, whose chunks may lie target by target: here they are put into
/// the order of series, in which a query over many series reads least.
fn may_take_over(blocks: &[&Block]) -> bool {
    let mut sorted: Vec<&Meta> = blocks.iter().map(|block| block.meta()).collect();
    sorted.sort_by_key(|meta| meta.min_time);
    let files: usize = blocks.iter().map(|block| block.chunk_paths().len()).sum();
    blocks.len() > 1
        && files <= LINKED_FILES_MAX
        && blocks.iter().all(|block| block.tombstones() == 0 && block.meta().compaction.level > 1)
        && sorted.is_sorted_by(|one, other| one.max_time <= other.min_time)
}

/// Takes the chunk files of a block over. Where that fails, all chunks are copied.
fn take_over(writer: &mut BlockWriter, block: &Block) -> Vec<LinkedFile> {
    let mut linked = Vec::new();
    for path in block.chunk_paths() {
        match writer.link_chunk_file(path) {
            Ok(file) => linked.push(file),
            // Chunks of the files behind it are copied.
            Err(_) => break,
        }
    }
    linked
}

/// Which blocks to compact next, by Prometheus' rules: overlapping ones; else the oldest full range of `ranges`
/// (ascending, milliseconds); else a large block of which more than 5 % is deleted. Metas with their tombstones.
pub fn plan(metas: &[(&Meta, u64)], ranges: &[i64]) -> Vec<String> {
    let mut sorted: Vec<&(&Meta, u64)> = metas.iter().filter(|(meta, _)| !meta.compaction.failed).collect();
    sorted.sort_by_key(|(meta, _)| meta.min_time);
    let ulids = |group: &[&(&Meta, u64)]| group.iter().map(|(meta, _)| meta.ulid.clone()).collect::<Vec<_>>();
    // Overlapping blocks first.
    let mut group: Vec<&(&Meta, u64)> = Vec::new();
    let mut end = i64::MIN;
    for block in &sorted {
        if block.0.min_time < end {
            group.push(block);
        } else if group.len() > 1 {
            break;
        } else {
            group = vec![block];
        }
        end = end.max(block.0.max_time);
    }
    if group.len() > 1 {
        return ulids(&group);
    }
    // The newest block stays: a backup may be being made of it.
    let Some((_, older)) = sorted.split_last() else { return Vec::new() };
    let last_start = older.last().map_or(i64::MIN, |(meta, _)| meta.min_time);
    for (i, range) in ranges.iter().enumerate().skip(1) {
        let smaller = ranges[i - 1];
        let mut at = 0;
        while at < older.len() {
            let start = older[at].0.min_time.div_euclid(*range) * range;
            let in_range = older[at..].iter().take_while(|(meta, _)| meta.max_time <= start + range).count();
            if in_range == 0 {
                at += 1;
                continue;
            }
            let group = &older[at..at + in_range];
            let (first, end) = (group[0].0.min_time, group[in_range - 1].0.max_time);
            let full = end - first == *range || end <= last_start;
            let small = group.iter().all(|(meta, _)| meta.max_time - meta.min_time <= smaller.max(range - 1));
            if in_range > 1 && full && small {
                return ulids(group);
            }
            at += in_range;
        }
    }
    let largest = ranges.len().checked_sub(2).and_then(|i| ranges.get(i)).copied().unwrap_or(0);
    let worn = older.iter().find(|(meta, deleted)| {
        meta.max_time - meta.min_time >= largest && *deleted as f64 / (meta.stats.num_series + 1) as f64 > 0.05
    });
    worn.map(|(meta, _)| vec![meta.ulid.clone()]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(ulid: &str, min: i64, max: i64) -> Meta {
        Meta { ulid: ulid.into(), min_time: min, max_time: max, ..Meta::default() }
    }

    #[track_caller]
    fn check(blocks: &[(i64, i64)], want: &[usize]) {
        let metas: Vec<Meta> =
            blocks.iter().enumerate().map(|(i, (min, max))| meta(&i.to_string(), *min, *max)).collect();
        let metas: Vec<(&Meta, u64)> = metas.iter().map(|meta| (meta, 0)).collect();
        let want: Vec<String> = want.iter().map(usize::to_string).collect();
        assert_eq!(plan(&metas, &[20, 60, 180]), want, "{blocks:?}");
    }

    #[test]
    fn blocks_are_joined_by_range() {
        check(&[], &[]);
        check(&[(0, 20)], &[]);
        check(&[(0, 20), (20, 40), (40, 60)], &[]);
        check(&[(0, 20), (20, 40), (40, 60), (60, 80)], &[0, 1, 2]);
        check(&[(20, 40), (40, 60), (60, 80)], &[]);
        check(&[(0, 20), (20, 40), (60, 80), (80, 100)], &[0, 1]);
        check(&[(0, 60), (60, 120), (120, 180), (180, 200)], &[0, 1, 2]);
        check(&[(0, 60), (60, 120), (120, 180)], &[]);
        check(&[(0, 60), (60, 120), (120, 140)], &[]);
        check(&[(0, 20), (10, 30), (40, 60)], &[0, 1]);
    }

    #[test]
    fn worn_blocks_are_written_anew() {
        let mut worn = meta("w", 0, 60);
        worn.stats.num_series = 100;
        let newest = meta("n", 60, 80);
        assert_eq!(plan(&[(&worn, 10), (&newest, 0)], &[20, 60, 180]), ["w"]);
        assert_eq!(plan(&[(&worn, 2), (&newest, 0)], &[20, 60, 180]), Vec::<String>::new());
    }
}
