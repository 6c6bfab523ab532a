use super::*;
use series::histogram::{BucketCount, CUSTOM_SCHEMA, ResetHint};
use series::{Histogram, Matcher, STALE_NAN};
use std::collections::BTreeMap;

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    }
}

fn some(next: &mut impl FnMut(u64) -> u64) -> Histogram {
    if next(9) == 0 {
        return Histogram { sum: STALE_NAN, ..Histogram::default() };
    }
    let fraction = [0.0, 0.5][next(2) as usize];
    let mut index = -20;
    let mut side = || -> Vec<BucketCount> {
        let count = next(9);
        let one = |_| {
            index += 1 + next(5) as i32;
            BucketCount { index, count: (1 + next(1 << 20)) as f64 + fraction }
        };
        (0..count).map(one).collect()
    };
    let (mut positive, negative) = (side(), side());
    let hint = [ResetHint::Unknown, ResetHint::Reset, ResetHint::NotReset, ResetHint::Gauge][next(4) as usize];
    let custom = next(3) == 0;
    if custom {
        // As many as there are bounds, and one above.
        positive.truncate(4);
        (0..).zip(&mut positive).for_each(|(index, bucket)| bucket.index = index);
    }
    let count = positive.iter().chain(&negative).map(|bucket| bucket.count).sum();
    Histogram {
        hint,
        schema: if custom { CUSTOM_SCHEMA } else { next(13) as i32 - 4 },
        zero_threshold: if custom { 0.0 } else { 0.001 },
        zero_count: if custom { 0.0 } else { 7.0 },
        count,
        sum: next(1000) as f64 / 7.0,
        positive,
        negative: if custom { Vec::new() } else { negative },
        custom_values: if custom { [0.5, 1.0, 7.25].into() } else { [].into() },
    }
}

#[test]
fn histograms_come_back_from_bytes() {
    let mut next = random(3);
    let mut refused = 0;
    for _ in 0..2_000 {
        let histogram = some(&mut next);
        let mut bytes = Vec::new();
        super::bytes::put(&histogram, &mut bytes);
        let read = super::bytes::read(&bytes).unwrap();
        if histogram.sum.is_nan() {
            assert_eq!(read.sum.to_bits(), STALE_NAN.to_bits());
        } else {
            assert_eq!(read, histogram);
        }
        for _ in 0..10 {
            let mut mutated = bytes.clone();
            let at = next(mutated.len() as u64) as usize;
            match next(3) {
                0 => mutated[at] = next(256) as u8,
                1 => mutated.truncate(at),
                _ => mutated.insert(at, 0xff),
            }
            refused += usize::from(super::bytes::read(&mutated).is_err());
        }
    }
    assert!(refused > 2_000, "{refused}");
}

fn labels(i: u64) -> Labels {
    Labels::from_pairs([("__name__", format!("h{i}").as_str())])
}

type Samples = BTreeMap<Labels, BTreeMap<i64, Histogram>>;

fn read(head: &HistogramHead, from: i64, to: i64) -> Samples {
    let mut all = Samples::new();
    let none: &[Matcher] = &[];
    let matching = |group: &Arc<SlotGroup>| group.matching(none, &Labels::empty()).into();
    head.range(Timestamp(from), Timestamp(to), u64::MAX, matching, |group, slot, samples| {
        assert!(samples.is_sorted_by(|one, next| one.0 < next.0));
        for (at, histogram) in samples {
            let of_series = all.entry(group.labels(slot as usize)).or_default();
            assert!(of_series.insert(at, (*histogram).clone()).is_none(), "{at} is there twice");
        }
    });
    all
}

#[test]
fn rows_read_as_they_were_written() {
    let mut next = random(4);
    let key = TargetKey { id: 1, labels: Labels::empty() };
    let limits = SegmentLimits { range_ms: 1_000_000, ..SegmentLimits::default() };
    let mut head = HistogramHead::new(key, limits);
    let mut journal = Journal::off();
    let mut truth = Samples::new();
    let mut known: Vec<Labels> = Vec::new();
    let mut at = 5_000_000;
    for round in 0..400 {
        if round % 40 == 0 {
            let fresh: Vec<Labels> = (0..90).map(|i| labels(round * 3 + i)).collect();
            head.add(&fresh);
            known.extend(fresh);
        }
        if round % 100 == 99 {
            let kept: Vec<u32> = (0..known.len() as u32).filter(|series| series % 3 > 0).collect();
            head.keep(&kept);
            known = kept.iter().map(|series| known[*series as usize].clone()).collect();
        }
        assert_eq!(head.series(), known.len());
        at += next(20_000) as i64;
        let mut samples: BTreeMap<(u32, i64), Arc<Histogram>> = BTreeMap::new();
        for _ in 0..next(20) {
            let (series, late) = (next(known.len() as u64) as u32, [0, 0, 7_000_000][next(3) as usize]);
            let stamp = at - next(1_000) as i64 - late;
            let there = truth.get(&known[series as usize]).is_some_and(|samples| samples.contains_key(&stamp));
            if !there {
                let mut histogram = some(&mut next);
                if histogram.sum.is_nan() {
                    // Markers are not equal to themselves.
                    histogram.sum = 1.0;
                }
                truth.entry(known[series as usize].clone()).or_default().insert(stamp, histogram.clone());
                samples.insert((series, stamp), Arc::new(histogram));
            }
        }
        let given = |((series, at), histogram)| HistogramSample { series, at, start: 0, histogram };
        let samples: Vec<_> = samples.into_iter().map(given).collect();
        head.append(&samples, &mut journal);
    }
    truth.retain(|_, samples| !samples.is_empty());
    assert_eq!(read(&head, i64::MIN, i64::MAX), truth);
    for samples in truth.values_mut() {
        samples.retain(|stamp, _| (5_500_000..=6_000_000).contains(stamp));
    }
    truth.retain(|_, samples| !samples.is_empty());
    assert_eq!(read(&head, 5_500_000, 6_000_000), truth);
    assert!(head.heap_bytes() > 0 && head.bounds().is_some());

    // And as chunks.
    head.close();
    let whole = read(&head, i64::MIN, i64::MAX);
    let mut segments = Vec::new();
    head.take_closed(|closed| segments.push(closed));
    assert!(segments.len() > 2, "{} segments", segments.len());
    let mut of_chunks: BTreeMap<Labels, BTreeMap<i64, f64>> = BTreeMap::new();
    for closed in &segments {
        let parts = closed.segment.encode(1_000_000);
        assert!(parts.iter().all(|part| part.first >= part.range && part.last < part.range + 1_000_000));
        for part in &parts {
            let slots =
                closed.segment.placed.iter().flat_map(|(group, _)| (0..group.len()).map(|slot| group.labels(slot)));
            let mut start = 0;
            for (labels, end) in slots.zip(&part.ends) {
                let entry = &part.entries[start..*end as usize];
                start = *end as usize;
                if entry.is_empty() {
                    continue;
                }
                for chunk in read_entry(&entry[4..], part.first).unwrap() {
                    let mut decode = |at, value| {
                        let series::Value::Histogram(histogram) = value else { panic!("a float") };
                        of_chunks.entry(labels.clone()).or_default().insert(at, histogram.sum);
                    };
                    chunk.decode(&mut decode).unwrap();
                }
            }
        }
        closed.mark_flushed();
    }
    let sums = |samples: &BTreeMap<i64, Histogram>| samples.iter().map(|(at, one)| (*at, one.sum)).collect();
    assert_eq!(of_chunks, whole.iter().map(|(labels, samples)| (labels.clone(), sums(samples))).collect());
    assert!(!head.drop_flushed() && read(&head, i64::MIN, i64::MAX).is_empty());
    assert!(head.newest_at() > Some(5_000_000));
}
