//! Which blocks are uploaded: a pure function of what there is.

use crate::uploaded::UploadedBlocks;
use blocks::Meta;

/// What happens with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Upload,
    /// It is in the bucket.
    Done,
    Held(Held),
}

/// Why a block is not uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It has no samples.
    IsEmpty,
    /// It is damaged.
    IsDamaged,
    /// It was made of several: those were uploaded, or are older than the shipper.
    IsJoined,
    /// It has samples of a time of which a block was uploaded: Thanos' compactor halts on that.
    Overlaps,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Held::IsEmpty => "it has no samples",
            Held::IsDamaged => "it is damaged",
            Held::IsJoined => "it was made of several blocks",
            Held::Overlaps => "it overlaps a block that was uploaded",
        })
    }
}

/// Whether samples of a block are in the bucket: its own, or those of blocks that it was made of.
fn is_in_bucket(meta: &Meta, uploaded: &UploadedBlocks) -> bool {
    uploaded.has(&meta.ulid) || meta.compaction.sources.iter().any(|source| uploaded.has(source))
}

pub fn verdict(
    meta: &Meta,
    all: &[&Meta],
    uploaded: &UploadedBlocks,
    with_joined: bool,
    allow_overlaps: bool,
) -> Verdict {
    if is_in_bucket(meta, uploaded) {
        return Verdict::Done;
    }
    if meta.stats.num_samples == 0 {
        return Verdict::Held(Held::IsEmpty);
    }
    if meta.compaction.failed {
        return Verdict::Held(Held::IsDamaged);
    }
    if meta.is_joined() && !with_joined {
        return Verdict::Held(Held::IsJoined);
    }
    let overlaps = |other: &&&Meta| {
        other.ulid != meta.ulid
            && other.min_time < meta.max_time
            && meta.min_time < other.max_time
            && (is_in_bucket(other, uploaded) || (other.is_joined() && !with_joined))
    };
    if !allow_overlaps && all.iter().any(|other| overlaps(&other)) {
        return Verdict::Held(Held::Overlaps);
    }
    Verdict::Upload
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of one source, or of several.
    fn meta(ulid: &str, range: (i64, i64), sources: &[&str]) -> Meta {
        let mut meta = Meta { ulid: ulid.into(), min_time: range.0, max_time: range.1, ..Meta::default() };
        meta.stats.num_samples = 1;
        meta.compaction.sources = sources.iter().map(ToString::to_string).collect();
        meta.compaction.level = if sources.len() > 1 { 2 } else { 1 };
        meta
    }

    #[track_caller]
    fn check(metas: &[Meta], uploaded: &[&str], with_joined: bool, allow_overlaps: bool, want: &[Verdict]) {
        let mut done = UploadedBlocks::default();
        uploaded.iter().for_each(|ulid| done.add(ulid));
        let all: Vec<&Meta> = metas.iter().collect();
        let got: Vec<Verdict> =
            all.iter().map(|meta| verdict(meta, &all, &done, with_joined, allow_overlaps)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn blocks_are_uploaded_once_and_never_with_their_parts() {
        use Verdict::{Done, Upload};
        let (joined, overlaps) = (Verdict::Held(Held::IsJoined), Verdict::Held(Held::Overlaps));
        let plain = [meta("a", (0, 10), &["a"]), meta("b", (10, 20), &["b"]), meta("c", (20, 30), &["c"])];
        check(&plain, &["a"], false, false, &[Done, Upload, Upload]);
        // Made of uploaded blocks, of others, and by writing one anew.
        let others = [meta("d", (0, 20), &["a", "b"]), meta("e", (20, 40), &["x", "y"]), meta("f", (40, 50), &["z"])];
        check(&others, &["a", "z"], false, false, &[Done, joined, Done]);
        check(&others, &["a"], true, false, &[Done, Upload, Upload]);
        // Late samples of a range that is in the bucket, or in a block that was made before there was a shipper.
        let late = [meta("a", (0, 10), &["a"]), meta("late", (5, 10), &["late"]), meta("g", (10, 20), &["g"])];
        check(&late, &["a"], false, false, &[Done, overlaps, Upload]);
        check(&late, &["a"], false, true, &[Done, Upload, Upload]);
        check(&[meta("j", (0, 40), &["x", "y"]), meta("h", (20, 30), &["h"])], &[], false, false, &[joined, overlaps]);
    }

    #[test]
    fn what_is_empty_or_damaged_stays() {
        let (mut empty, mut damaged) = (meta("a", (0, 10), &["a"]), meta("b", (10, 20), &["b"]));
        empty.stats.num_samples = 0;
        damaged.compaction.failed = true;
        let want = [Verdict::Held(Held::IsEmpty), Verdict::Held(Held::IsDamaged)];
        check(&[empty, damaged], &[], true, true, &want);
    }
}
