use super::*;
use series::STALE_NAN;

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    }
}

fn buckets(counts: &[(i32, f64)]) -> Vec<BucketCount> {
    counts.iter().map(|(index, count)| BucketCount { index: *index, count: *count }).collect()
}

fn counter(counts: &[(i32, f64)]) -> Histogram {
    let positive = buckets(counts);
    let count = positive.iter().map(|bucket| bucket.count).sum();
    Histogram { schema: 3, zero_threshold: 2f64.powi(-128), count, sum: count * 1.5, positive, ..Histogram::default() }
}

fn marker() -> Histogram {
    Histogram { sum: STALE_NAN, ..Histogram::default() }
}

fn timed(samples: Vec<Histogram>) -> Vec<(i64, Arc<Histogram>)> {
    samples.into_iter().enumerate().map(|(i, one)| (1000 + 15_000 * i as i64, Arc::new(one))).collect()
}

fn read(chunks: &[Chunk]) -> Vec<(i64, Histogram)> {
    let mut read = Vec::new();
    for chunk in chunks {
        let before = read.len();
        decode(chunk.encoding, &chunk.bytes, |_, at, histogram| read.push((at, histogram))).unwrap();
        assert_eq!(read.len() - before, usize::from(chunk.samples()));
        assert_eq!((chunk.min, chunk.max), (read[before].0, read[read.len() - 1].0));
    }
    read
}

/// Encoding and head of each chunk; what is read is what was written.
#[track_caller]
fn check(samples: Vec<Histogram>, want: &[(u8, u8)]) {
    let samples = timed(samples);
    let chunks = encode(&samples, &[]);
    let heads: Vec<(u8, u8)> = chunks.iter().map(|chunk| (chunk.encoding, chunk.bytes[2])).collect();
    assert_eq!(heads, want);
    let read = read(&chunks);
    assert_eq!(read.len(), samples.len());
    for ((at, got), (want_at, want)) in read.iter().zip(&samples) {
        assert_eq!((at, got.sum.to_bits()), (want_at, want.sum.to_bits()));
        assert!(is_stale(want.sum) || got.same_as(want), "{got} is not {want}");
    }
}

#[test]
fn chunks_begin_where_counting_does() {
    let (one, more) = (counter(&[(1, 2.0), (4, 1.0)]), counter(&[(1, 2.0), (2, 7.0), (4, 1.0)]));
    let other_schema = Histogram { schema: 2, ..more.clone() };
    let other_zero = Histogram { zero_threshold: 0.001, ..more.clone() };
    let gauge = |from: &Histogram| Histogram { hint: ResetHint::Gauge, ..from.clone() };
    let reset = Histogram { hint: ResetHint::Reset, ..more.clone() };
    check(vec![], &[]);
    check(vec![Histogram::default()], &[(HISTOGRAM, 0)]);
    // New buckets fit in; those that vanish are a reset, unless they are of a gauge.
    check(vec![one.clone(), more.clone(), more.clone()], &[(HISTOGRAM, 0)]);
    check(vec![more.clone(), one.clone()], &[(HISTOGRAM, 0), (HISTOGRAM, RESET)]);
    check(vec![gauge(&more), gauge(&one)], &[(HISTOGRAM, GAUGE)]);
    check(vec![one.clone(), gauge(&one)], &[(HISTOGRAM, 0), (HISTOGRAM, GAUGE)]);
    check(vec![one.clone(), reset], &[(HISTOGRAM, 0), (HISTOGRAM, RESET)]);
    check(vec![one.clone(), other_schema.clone(), other_zero], &[(HISTOGRAM, 0); 3]);
    // Nothing but markers comes behind a marker.
    check(vec![one.clone(), marker(), marker(), more.clone()], &[(HISTOGRAM, 0), (HISTOGRAM, 0)]);
    check(vec![marker(), marker()], &[(HISTOGRAM, 0)]);
    let half = counter(&[(1, 2.5), (4, 1.0)]);
    check(vec![one.clone(), half.clone(), marker()], &[(FLOAT_HISTOGRAM, 0)]);
    check(vec![half, one.clone()], &[(FLOAT_HISTOGRAM, 0), (FLOAT_HISTOGRAM, RESET)]);
    check(vec![one; 250], &[(HISTOGRAM, 0), (HISTOGRAM, NO_RESET), (HISTOGRAM, NO_RESET)]);
}

#[test]
fn hints_say_what_is_known() {
    let samples = timed(vec![counter(&[(1, 5.0)]), counter(&[(1, 6.0)]), counter(&[(1, 1.0)]), counter(&[(1, 2.0)])]);
    let hints: Vec<ResetHint> = read(&encode(&samples, &[])).iter().map(|(_, one)| one.hint).collect();
    use ResetHint::{NotReset, Reset, Unknown};
    assert_eq!(hints, [Unknown, NotReset, Reset, NotReset]);
}

#[test]
fn custom_bounds_come_back() {
    let custom = |values: &[f64], counts: &[(i32, f64)]| Histogram {
        schema: CUSTOM_SCHEMA,
        zero_threshold: 0.0,
        custom_values: values.into(),
        ..counter(counts)
    };
    let bounds = [-1.5, 0.005, 0.1, 2.5, 1.0 / 3.0 + 5.0, 33_554.43, 33_554.431, 1e300];
    check(
        vec![custom(&bounds, &[(0, 1.0), (8, 4.0)]), custom(&bounds, &[(0, 1.0), (3, 1.0), (8, 4.0)])],
        &[(HISTOGRAM, 0)],
    );
    check(vec![custom(&[1.0], &[(0, 1.0)]), custom(&[2.0], &[(0, 1.0)])], &[(HISTOGRAM, 0); 2]);
}

#[test]
fn thresholds_come_back() {
    for threshold in [0.0, 2f64.powi(-243), 2f64.powi(-244), 2f64.powi(-128), 0.001, 1024.0, 2048.0, 1e-320] {
        let (mut bits, mut out) = (BitWriter::default(), Vec::new());
        put_threshold(threshold, &mut bits, &mut out);
        bits.finish(&mut out);
        assert_eq!(take_threshold(&mut Bits::new(&out)), Ok(threshold));
    }
    let (mut bits, mut out) = (BitWriter::default(), Vec::new());
    put_threshold(2f64.powi(-128), &mut bits, &mut out);
    bits.finish(&mut out);
    assert_eq!(out, [116], "as Prometheus says of its default");
}

/// A series that grows, is reset, changes its schema, is a gauge for a while, ends and begins.
fn some(next: &mut impl FnMut(u64) -> u64, count: usize, whole: bool) -> Vec<(i64, Arc<Histogram>)> {
    let (mut at, mut now) = ([0, -5_000, 1_700_000_000_000][next(3) as usize], counter(&[]));
    let mut samples = Vec::new();
    for _ in 0..count {
        let far = next(1 << 40) as i64;
        at += [15_000, 15_000, 15_001, 1, far][next(5) as usize];
        let step = |next: &mut dyn FnMut(u64) -> u64| {
            let bits = [2, 8, 30][next(3) as usize];
            next(1 << bits) as f64
        };
        let fraction = if whole { 0.0 } else { 0.1 };
        match next(20) {
            0 => now = counter(&[]),
            1 => now.schema = next(9) as i32 - 4,
            2 => now.hint = if now.hint == ResetHint::Gauge { ResetHint::Unknown } else { ResetHint::Gauge },
            3 => {
                samples.push((at, Arc::new(marker())));
                continue;
            }
            4 => now.zero_threshold = [0.0, 0.5, 0.7, 2f64.powi(-128)][next(4) as usize],
            _ => {}
        }
        for _ in 0..next(6) {
            let index = next(400) as i32 - 200;
            let side = if next(4) == 0 { &mut now.negative } else { &mut now.positive };
            let more = step(next) + 1.0 + fraction;
            match side.binary_search_by_key(&index, |bucket| bucket.index) {
                Ok(place) => side[place].count += more,
                Err(place) => side.insert(place, BucketCount { index, count: more }),
            }
            now.count += more;
        }
        now.zero_count += step(next);
        now.sum += step(next) / 7.0;
        samples.push((at, Arc::new(now.clone())));
    }
    samples
}

#[test]
fn samples_come_back() {
    let mut next = random(1);
    for round in 0..200 {
        let count = 1 + next(300) as usize;
        let samples = some(&mut next, count, round % 2 == 0);
        let chunks = encode(&samples, &[]);
        assert!(chunks.iter().all(|chunk| round % 2 == 1 || chunk.encoding == HISTOGRAM));
        let read = read(&chunks);
        assert_eq!(read.len(), samples.len());
        let mut before: Option<&Histogram> = None;
        for ((at, got), (want_at, want)) in read.iter().zip(&samples) {
            assert_eq!(at, want_at);
            assert!(if is_stale(want.sum) { is_stale(got.sum) } else { got.same_as(want) }, "round {round}");
            // What a hint says is so.
            if let (ResetHint::NotReset, Some(before)) = (got.hint, before) {
                assert!(!got.detect_reset(before), "round {round}: {got} after {before}");
            }
            before = Some(got);
        }
    }
}

#[test]
fn damaged_chunks_are_errors_or_samples() {
    let mut next = random(2);
    let mut refused = 0;
    for round in 0..400 {
        let samples = some(&mut next, 40, round % 2 == 0);
        for chunk in encode(&samples, &[]) {
            for _ in 0..40 {
                let mut bytes = chunk.bytes.clone();
                for _ in 0..1 + next(3) {
                    let at = next(bytes.len() as u64) as usize;
                    match next(4) {
                        0 => bytes[at] = next(256) as u8,
                        1 => bytes.truncate(at.max(1)),
                        2 => bytes[at] ^= 1 << next(8),
                        _ => bytes.insert(at, next(256) as u8),
                    }
                }
                let (mut count, bits) = (0, bytes.len() * 8);
                let encoding = [chunk.encoding, HISTOGRAM, FLOAT_HISTOGRAM, 5, 6][next(5) as usize];
                let outcome = decode(encoding, &bytes, |_, _, histogram| {
                    count += 1;
                    assert!(
                        histogram.positive.len() + histogram.negative.len() + histogram.custom_values.len() <= bits
                    );
                });
                refused += usize::from(outcome.is_err());
                assert!(count <= 65_535);
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
    for bytes in [&[][..], &[0, 1], &[0, 1, 0], &[0xff; 40]] {
        assert!(decode(HISTOGRAM, bytes, |_, _, _| ()).is_err());
    }
    assert!(decode(9, &[0, 1, 0], |_, _, _| ()).is_err());
}

#[test]
fn chunks_of_many_buckets_stay_short() {
    let wide = |by: f64| counter(&(0..5_000).map(|i| (i * 3, by + f64::from(i) / 7.0)).collect::<Vec<_>>());
    let samples = timed((1..40).map(|i| wide(f64::from(i))).collect());
    let chunks = encode(&samples, &[]);
    assert_eq!(chunks.len(), 3);
    assert!(chunks.iter().all(|chunk| chunk.bytes.len() < CHUNK_BYTES_MAX));
    assert_eq!(read(&chunks).len(), samples.len());
}
