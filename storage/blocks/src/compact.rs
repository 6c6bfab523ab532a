//! Several blocks into one, and which.
//!
//! Invariants:
//!   * one series at a time is in memory, whatever the blocks hold
//!   * of two samples at one time the first block's stays; chunks that overlap nothing are copied as they are

use crate::chunk::{Chunk, encode};
use crate::reader::{Block, Found};
use crate::writer::BlockWriter;
use crate::xor::ChunkError;
use crate::{BlockError, Compaction, Meta, Parent};
use series::Value;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes one block with everything in `blocks`; None if nothing was left. Ends early when told to `stop`.
pub fn compact(
    parent: &Path,
    ulid: &str,
    blocks: &[&Block],
    stop: &AtomicBool,
    mut breathe: impl FnMut(),
) -> Result<Option<Meta>, BlockError> {
    let failed = |error: std::io::Error| BlockError::new(&parent.join(ulid), 0, error.to_string());
    let mut symbols = BTreeSet::new();
    for block in blocks {
        for name in block.label_names() {
            symbols.insert(name.to_owned());
            symbols.extend(block.label_values(name).map(str::to_owned));
        }
    }
    let mut writer = BlockWriter::new(parent, ulid, &symbols).map_err(failed)?;
    drop(symbols);
    let ids: Vec<Vec<u32>> = blocks.iter().map(|block| block.ids(&[])).collect::<Result<_, _>>()?;
    let mut next = vec![0usize; blocks.len()];
    let mut heads: BinaryHeap<Reverse<(series::Labels, usize)>> = BinaryHeap::new();
    let mut current: Vec<Option<Found>> = vec![None; blocks.len()];
    let advance = |block: usize, next: &mut [usize], current: &mut [Option<Found>]| {
        current[block] = None;
        while let Some(id) = ids[block].get(next[block]) {
            next[block] += 1;
            current[block] = blocks[block].series(*id, i64::MIN, i64::MAX)?;
            if current[block].is_some() {
                break;
            }
        }
        Ok::<_, BlockError>(current[block].as_ref().map(|found| Reverse((found.labels.clone(), block))))
    };
    for block in 0..blocks.len() {
        heads.extend(advance(block, &mut next, &mut current)?);
    }
    while let Some(Reverse((labels, first))) = heads.pop() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut of_series = vec![first];
        while heads.peek().is_some_and(|Reverse((other, _))| *other == labels) {
            of_series.extend(heads.pop().map(|Reverse((_, block))| block));
        }
        let mut chunks = Vec::new();
        for block in of_series {
            let found = current[block].take().expect("its labels were on the heap");
            let deleted = blocks[block].deleted(found.id);
            for chunk in blocks[block].chunks(&found)? {
                let touched = deleted.iter().any(|(min, max)| chunk.min <= *max && chunk.max >= *min);
                chunks.push((chunk, if touched { deleted.clone() } else { Vec::new() }));
            }
            heads.extend(advance(block, &mut next, &mut current)?);
        }
        let merged = merge_chunks(chunks)
            .map_err(|error| BlockError::new(blocks[first].folder(), 0, format!("series {labels}: {error}")))?;
        if !merged.is_empty() {
            writer.add_series(&labels, &merged).map_err(failed)?;
        }
        breathe();
    }
    if writer.stats().num_series == 0 {
        return Ok(None);
    }
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
    writer.finish(meta).map(Some).map_err(failed)
}

/// What came of merging chunks.
pub type Merged = Vec<Chunk>;

/// Chunks of one series without overlap, in order of time. Each comes with the ranges that are deleted from it; of two
/// samples at one time, the one that comes first stays, a marker gives way to a sample.
pub fn merge_chunks(mut chunks: Vec<(Chunk, Vec<(i64, i64)>)>) -> Result<Merged, ChunkError> {
    chunks.sort_by_key(|(chunk, _)| chunk.min);
    let mut merged: Vec<Chunk> = Vec::with_capacity(chunks.len());
    let mut rest = chunks.into_iter().peekable();
    while let Some((chunk, deleted)) = rest.next() {
        let mut max = chunk.max;
        let mut group = vec![(chunk, deleted)];
        while let Some(next) = rest.next_if(|(next, _)| next.min <= max) {
            max = max.max(next.0.max);
            group.push(next);
        }
        if let [(_, deleted)] = &group[..]
            && deleted.is_empty()
        {
            merged.extend(group.into_iter().map(|(chunk, _)| chunk));
            continue;
        }
        let mut samples: Vec<(i64, Value)> = Vec::new();
        for (chunk, deleted) in &group {
            chunk.decode(|at, value| {
                if !deleted.iter().any(|(min, max)| at >= *min && at <= *max) {
                    samples.push((at, value));
                }
            })?;
        }
        // Stable: equal times stay in the order in which they came.
        samples.sort_by_key(|(at, value)| (*at, value.is_stale()));
        samples.dedup_by_key(|(at, _)| *at);
        merged.append(&mut encode(&samples));
    }
    Ok(merged)
}

/// Which blocks to compact next, by Prometheus' rules: overlapping ones; else the oldest full range of `ranges`
/// (ascending, milliseconds); else a large block of which more than 5 % is deleted. Metas with their tombstones.
pub fn plan(metas: &[(&Meta, u64)], ranges: &[i64]) -> Vec<String> {
    let mut sorted: Vec<&(&Meta, u64)> = metas.iter().collect();
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
            let failed = group.iter().any(|(meta, _)| meta.compaction.failed);
            let (first, end) = (group[0].0.min_time, group[in_range - 1].0.max_time);
            let full = end - first == *range || end <= last_start;
            let small = group.iter().all(|(meta, _)| meta.max_time - meta.min_time <= smaller.max(range - 1));
            if in_range > 1 && full && small && !failed {
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
    use crate::xor;
    use series::Histogram;

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

    #[test]
    fn overlapping_chunks_are_merged_and_the_first_sample_stays() {
        let chunk = |samples: &[(i64, f64)]| {
            let samples: Vec<_> = samples.iter().map(|(at, value)| (*at, Value::Float(*value))).collect();
            encode(&samples).remove(0)
        };
        let a = chunk(&[(1, 1.0), (3, 3.0), (5, series::STALE_NAN)]);
        let b = chunk(&[(3, 9.0), (4, 4.0), (5, 5.0)]);
        let c = chunk(&[(10, 10.0), (11, 11.0)]);
        let merged = merge_chunks(vec![(a, vec![]), (c.clone(), vec![]), (b, vec![(4, 4)])]).unwrap();
        let mut read = Vec::new();
        xor::decode(&merged[0].bytes, |at, value| read.push((at, value))).unwrap();
        assert_eq!(read, [(1, 1.0), (3, 3.0), (5, 5.0)]);
        assert_eq!(merged[1], c);
    }

    #[test]
    fn histograms_are_merged_with_floats_and_each_other() {
        let histogram = |count: f64| Value::Histogram(Histogram { count, ..Histogram::default() }.into());
        let chunk = |samples: &[(i64, Value)]| (encode(samples).remove(0), vec![]);
        let merged = merge_chunks(vec![
            chunk(&[(1, histogram(1.0)), (5, histogram(5.0)), (9, histogram(9.0))]),
            chunk(&[(2, histogram(2.0)), (5, histogram(4.0))]),
            chunk(&[(6, Value::Float(6.0)), (9, Value::Float(series::STALE_NAN))]),
        ]);
        let mut read = Vec::new();
        for chunk in merged.unwrap() {
            let before = read.len();
            chunk.decode(|at, value| read.push((at, matches!(value, Value::Float(_))))).unwrap();
            assert_eq!((chunk.min, chunk.max), (read[before].0, read[read.len() - 1].0));
        }
        assert_eq!(read, [(1, false), (2, false), (5, false), (6, true), (9, false)]);
    }
}
