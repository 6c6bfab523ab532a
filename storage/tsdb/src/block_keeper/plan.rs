//! What to do with blocks and ranges next: a pure function of what there is.

use blocks::Meta;

/// The part of a range that late samples have before the range becomes a block, and the time between two blocks of late
/// samples of one range.
const LATE_PARTS: i64 = 2;
/// Each level of compaction is this many times as long as the one before.
const LEVEL_FACTOR: i64 = 3;

/// How blocks are made and for how long they stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockSettings {
    /// Length of the smallest blocks, and of the longest that they are compacted to; milliseconds.
    pub block_ms: i64,
    pub block_ms_max: i64,
    /// Blocks that are this much older than the newest are removed; 0 keeps all.
    pub retention_ms: i64,
    /// Bytes beyond which the oldest blocks are removed; 0 is no limit.
    pub retention_bytes: u64,
}

impl BlockSettings {
    /// How long late samples of a range are collected.
    pub fn late_ms(&self) -> i64 {
        self.block_ms / LATE_PARTS
    }

    /// Lengths of blocks, ascending.
    fn levels(&self) -> Vec<i64> {
        let longer = |length: &i64| Some(length * LEVEL_FACTOR).filter(|length| *length <= self.block_ms_max);
        std::iter::successors(Some(self.block_ms), longer).collect()
    }
}

/// A block, as far as planning looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockState<'a> {
    pub meta: &'a Meta,
    pub tombstones: u64,
    pub bytes: u64,
    /// It is not compacted before it is uploaded, and later ones neither: a joined block has no gap.
    pub awaits_upload: bool,
}

/// A range that has chunk files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RangeState {
    pub start: i64,
    /// It is not touched before this time: a block was made of it, or that failed.
    pub not_before: i64,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Remove a block that is beyond the retention: by its age, or because all take too much room.
    Remove { ulid: String, for_age: bool },
    /// Make a block of the chunks of the range that begins there.
    CompactHead(i64),
    /// Make one block of these.
    Compact(Vec<String>),
}

/// The next step; None if there is nothing to do. `blocks` and `ranges` are sorted by their beginning; `other_bytes` is what
/// log and chunk files take. Room is made first: a full disk is no reason to keep what is too old.
pub(crate) fn plan(
    now: i64,
    blocks: &[BlockState],
    ranges: &[RangeState],
    other_bytes: u64,
    settings: &BlockSettings,
    may_compact: bool,
) -> Option<Action> {
    if let Some((block, for_age)) = beyond_retention(now, blocks, other_bytes, settings) {
        return Some(Action::Remove { ulid: block.meta.ulid.clone(), for_age });
    }
    let late = settings.late_ms();
    let is_due =
        |range: &&RangeState| range.start.saturating_add(settings.block_ms + late) <= now && range.not_before <= now;
    if let Some(range) = ranges.iter().find(is_due) {
        return Some(Action::CompactHead(range.start));
    }
    if !may_compact {
        return None;
    }
    // Blocks that could not be compacted are left alone.
    let free = blocks.iter().take_while(|block| !block.awaits_upload);
    let metas: Vec<(&Meta, u64)> = free.map(|block| (block.meta, block.tombstones)).collect();
    let chosen = blocks::plan(&metas, &settings.levels());
    (!chosen.is_empty()).then_some(Action::Compact(chosen))
}

/// The block to remove next, and whether it is for its age.
fn beyond_retention<'a, 'b>(
    now: i64,
    blocks: &'b [BlockState<'a>],
    other_bytes: u64,
    settings: &BlockSettings,
) -> Option<(&'b BlockState<'a>, bool)> {
    let newest = blocks.iter().map(|block| block.meta.max_time).max()?.min(now);
    let too_old = |block: &&BlockState| newest.saturating_sub(block.meta.max_time) >= settings.retention_ms;
    if settings.retention_ms > 0
        && let Some(block) = blocks.iter().find(too_old)
    {
        return Some((block, true));
    }
    let bytes = other_bytes + blocks.iter().map(|block| block.bytes).sum::<u64>();
    let is_full = settings.retention_bytes > 0 && bytes > settings.retention_bytes;
    blocks.first().filter(|_| is_full).map(|block| (block, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BlockSettings =
        BlockSettings { block_ms: 20, block_ms_max: 180, retention_ms: 200, retention_bytes: 1000 };

    fn meta(ulid: &str, min: i64, max: i64) -> Meta {
        Meta { ulid: ulid.into(), min_time: min, max_time: max, ..Meta::default() }
    }

    /// Blocks `(from, to, bytes, failed)`, ranges `(start, not before)`.
    #[track_caller]
    fn check(now: i64, blocks: &[(i64, i64, u64, bool)], ranges: &[(i64, i64)], want: Option<Action>) {
        let metas: Vec<Meta> = blocks
            .iter()
            .map(|(min, max, _, failed)| {
                let mut meta = meta(&min.to_string(), *min, *max);
                meta.compaction.failed = *failed;
                meta
            })
            .collect();
        let state = |(meta, block): (_, &(i64, i64, u64, bool))| BlockState {
            meta,
            tombstones: 0,
            bytes: block.2,
            awaits_upload: false,
        };
        let states: Vec<BlockState> = metas.iter().zip(blocks).map(state).collect();
        let ranges: Vec<RangeState> =
            ranges.iter().map(|(start, not_before)| RangeState { start: *start, not_before: *not_before }).collect();
        assert_eq!(plan(now, &states, &ranges, 100, &SETTINGS, true), want, "{blocks:?} {ranges:?}");
    }

    #[test]
    fn a_range_becomes_a_block_half_a_range_after_its_end() {
        check(29, &[], &[(0, 0), (20, 0)], None);
        check(30, &[], &[(0, 0), (20, 0)], Some(Action::CompactHead(0)));
        check(50, &[], &[(0, 60), (20, 0)], Some(Action::CompactHead(20)));
        check(60, &[], &[(0, 60)], Some(Action::CompactHead(0)));
    }

    #[test]
    fn what_is_too_old_or_too_much_goes_first() {
        let remove = |ulid: &str, for_age| Some(Action::Remove { ulid: ulid.into(), for_age });
        check(1000, &[(0, 20, 10, false), (200, 220, 10, false)], &[(220, 0)], remove("0", true));
        check(1000, &[(10, 30, 10, false), (200, 220, 10, false)], &[], None);
        // The clock is far back: nothing is old.
        check(50, &[(0, 20, 10, false), (200, 220, 10, false)], &[], None);
        check(1000, &[(40, 60, 500, false), (200, 220, 401, false)], &[], remove("40", false));
        check(1000, &[(40, 60, 500, false), (200, 220, 400, false)], &[], None);
    }

    #[test]
    fn blocks_are_compacted_up_to_the_first_that_is_not_uploaded() {
        let metas: Vec<Meta> = (0..9).map(|n| meta(&n.to_string(), n * 20, (n + 1) * 20)).collect();
        let planned = |waits_from: usize| {
            let state = |(n, meta)| BlockState { meta, tombstones: 0, bytes: 1, awaits_upload: n >= waits_from };
            let states: Vec<BlockState> = metas.iter().enumerate().map(state).collect();
            plan(200, &states, &[], 0, &BlockSettings { retention_ms: 0, ..SETTINGS }, true)
        };
        let compact = |ulids: [&str; 3]| Some(Action::Compact(ulids.map(str::to_owned).to_vec()));
        assert_eq!(planned(9), compact(["0", "1", "2"]));
        assert_eq!(planned(4), compact(["0", "1", "2"]));
        assert_eq!(planned(2), None);
        assert_eq!(planned(0), None);
    }

    #[test]
    fn a_block_that_failed_is_left_alone_and_the_rest_goes_on() {
        let compact = |ulids: &[i64]| Some(Action::Compact(ulids.iter().map(i64::to_string).collect()));
        let ok = |min: i64| (min, min + 20, 1, false);
        let bad = |min: i64| (min, min + 20, 1, true);
        check(200, &[ok(0), ok(20), ok(40), ok(60), ok(80), ok(100), ok(120)], &[], compact(&[0, 20, 40]));
        check(200, &[ok(0), bad(20), ok(40), ok(60), ok(80), ok(100), ok(120)], &[], compact(&[0, 40]));
        check(200, &[ok(0), (10, 30, 1, true), ok(60), (70, 90, 1, false), ok(120)], &[], compact(&[60, 70]));
        check(200, &[ok(0), (10, 30, 1, true), ok(120)], &[], None);
    }
}
