//! A block from the chunks of a range of time.
//!
//! Invariant: memory is twelve bytes a series and the postings of the writer; labels are compared where they lie.

use crate::chunks::{ChunkFile, Corruption};
use crate::deletions::Deletion;
use crate::group::SlotGroup;
use ahash::AHashMap;
use blocks::{BlockWriter, Chunk, ChunkError, Compaction, LinkedFile, Meta, encode_with_starts, merge_chunks};
use series::Labels;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Neighbouring chunks with so few samples together are made one.
const SAMPLES_TOGETHER_MAX: u32 = 120;

/// What came of a report.
#[derive(Debug, Default)]
pub struct HeadCompactionReport {
    /// None if there was nothing to write.
    pub meta: Option<Meta>,
    pub corruptions: Vec<Corruption>,
}

/// A series in the files: numbers of its target and its group over all files, and its slot.
type Item = (u32, u32, u32);

/// Where the chunks of a target's group are: file, entry, first slot.
type ChunksBySeries = AHashMap<(u32, u32), Vec<(u32, u32, u32)>>;

/// Writes a block named `ulid` in `parent` with all that the files hold in `range`, its end excluded, without what was
/// deleted. With `may_link` it takes over chunk files that are as they should be; then its chunks lie target by target.
/// `yield_now` is called for every series.
pub fn compact_head(
    parent: &Path,
    ulid: &str,
    files: &[Arc<ChunkFile>],
    range: (i64, i64),
    deletions: &[Deletion],
    may_link: bool,
    mut yield_now: impl FnMut(),
) -> io::Result<HeadCompactionReport> {
    let mut targets: Vec<Labels> = Vec::new();
    let mut groups: Vec<Arc<SlotGroup>> = Vec::new();
    let mut target_numbers: AHashMap<Labels, u32> = AHashMap::new();
    let mut places = ChunksBySeries::new();
    for (file_number, file) in files.iter().enumerate() {
        let contents = file.contents();
        let of_file: Vec<u32> = contents
            .targets
            .iter()
            .map(|labels| {
                *target_numbers.entry(labels.clone()).or_insert_with(|| {
                    targets.push(labels.clone());
                    targets.len() as u32 - 1
                })
            })
            .collect();
        let first_group = groups.len() as u32;
        groups.extend(contents.groups);
        for (target, group, entry, base) in contents.spans {
            let key = (of_file[target as usize], first_group + group);
            places.entry(key).or_default().push((file_number as u32, entry, base));
        }
    }
    let mut symbols: BTreeSet<String> = BTreeSet::new();
    let mut add = |text: &str| {
        if !symbols.contains(text) {
            symbols.insert(text.to_owned());
        }
    };
    for (name, value) in targets.iter().flat_map(|labels| labels.iter()) {
        add(name);
        add(value);
    }
    for group in &groups {
        for (name, value) in (0..group.len()).flat_map(|slot| group.label_pairs(slot)) {
            add(name);
            add(value);
        }
    }
    symbols.remove("");
    let mut items: Vec<Item> = Vec::new();
    for (target, group) in places.keys() {
        items.extend((0..groups[*group as usize].len() as u32).map(|slot| (*target, *group, slot)));
    }
    let pairs = |item: &Item| groups[item.1 as usize].series_pairs(item.2 as usize, &targets[item.0 as usize]);
    items.sort_unstable_by(|one, other| pairs(one).cmp(pairs(other)).then(one.cmp(other)));

    let mut writer = BlockWriter::new(parent, ulid, &symbols)?;
    drop(symbols);
    // What is deleted must not stay in a file.
    let may_link = may_link && !deletions.iter().any(|deletion| deletion.from < range.1 && deletion.to >= range.0);
    let link = |file: &Arc<ChunkFile>| -> Option<LinkedFile> {
        let may_link = may_link && file.may_be_taken_over(range);
        // Where there are no hard links, chunks are copied.
        may_link.then(|| writer.link_chunk_file(file.path()).ok())?
    };
    let linked: Vec<Option<LinkedFile>> = files.iter().map(link).collect();
    let mut report = HeadCompactionReport::default();
    let mut rest = items.into_iter().peekable();
    while let Some(item) = rest.next() {
        let labels = Labels::from_sorted(pairs(&item));
        let mut of_series = vec![item];
        while let Some(other) = rest.next_if(|other| pairs(other).eq(pairs(&item))) {
            of_series.push(other);
        }
        let mut hidden: Vec<(i64, i64)> = deletions.iter().filter_map(|deletion| deletion.range_of(&labels)).collect();
        hidden.extend([(i64::MIN, range.0.saturating_sub(1)), (range.1, i64::MAX)]);
        let mut chunks = Vec::new();
        for (target, group, slot) in of_series {
            for (file, entry, base) in &places[&(target, group)] {
                match files[*file as usize].chunks(*entry, base + slot, linked[*file as usize]) {
                    Ok(found) => {
                        let here = found.into_iter().filter(|chunk| chunk.min < range.1 && chunk.max >= range.0);
                        chunks.extend(here.map(|chunk| {
                            let touches = |hidden: &&(i64, i64)| chunk.min <= hidden.1 && chunk.max >= hidden.0;
                            let hidden = hidden.iter().filter(touches).copied().collect();
                            (chunk, hidden)
                        }));
                    }
                    Err(corruption) => report.corruptions.push(corruption),
                }
            }
        }
        match merge_chunks(chunks).and_then(merge_small_chunks) {
            Ok(chunks) if chunks.is_empty() => {}
            Ok(chunks) => {
                writer.add_series(&labels, &chunks)?;
            }
            Err(error) => report.corruptions.push(Corruption {
                file: parent.join(ulid),
                offset: 0,
                reason: format!("series {labels} left out: {error}"),
            }),
        }
        yield_now();
    }
    if writer.stats().num_series > 0 {
        let compaction = Compaction { level: 1, sources: vec![ulid.to_owned()], ..Compaction::default() };
        let meta = Meta { min_time: range.0, max_time: range.1, compaction, ..Meta::default() };
        report.meta = Some(writer.finish(meta)?);
    }
    Ok(report)
}

/// Makes one chunk of neighbours that are short: restarts leave such.
fn merge_small_chunks(chunks: Vec<Chunk>) -> Result<Vec<Chunk>, ChunkError> {
    let mut joined: Vec<Chunk> = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let fits = |last: &mut Chunk| {
            let samples = u32::from(last.samples()) + u32::from(chunk.samples());
            samples <= SAMPLES_TOGETHER_MAX && last.encoding == chunk.encoding && last.max < chunk.min
        };
        if let Some(last) = joined.pop_if(fits) {
            let (mut samples, mut starts) = (Vec::with_capacity(SAMPLES_TOGETHER_MAX as usize), Vec::new());
            for chunk in [&last, &chunk] {
                chunk.decode_with_starts(|start, at, value| {
                    samples.push((at, value));
                    starts.push(start);
                })?;
            }
            // Histograms may not go together.
            joined.append(&mut encode_with_starts(&samples, &starts));
        } else {
            joined.push(chunk);
        }
    }
    Ok(joined)
}
