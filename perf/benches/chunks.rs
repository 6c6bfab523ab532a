//! XOR chunks of 120 samples: made from columns, and read back, for values of several kinds.

use blocks::xor::{Encoder, Times, decode, encode_steps};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use perf::Random;
use std::hint::black_box;

const SAMPLES: usize = 120;

/// Kinds of series, from what packs best to what does not pack.
fn columns() -> [(&'static str, Vec<f64>); 4] {
    let mut random = Random::new(5);
    let mut total = 1e6;
    let counter = (0..SAMPLES).map(|_| {
        total += random.below(60) as f64;
        total
    });
    let counter = counter.collect();
    let gauge = (0..SAMPLES).map(|_| random.below(100_000) as f64 / 100.0).collect();
    // Bits of every exponent, as no exporter sends and an attacker may.
    let wild = (0..SAMPLES).map(|_| f64::from_bits(random.below(1 << 31) << 32 | random.below(1 << 31))).collect();
    [("constant", vec![1.0; SAMPLES]), ("counter", counter), ("gauge", gauge), ("wild", wild)]
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunk/120 samples");
    group.throughput(Throughput::Elements(SAMPLES as u64));
    for (name, values) in columns() {
        let mut out = Vec::with_capacity(4096);
        let mut encoder = Encoder::default();
        let mut encode = |out: &mut Vec<u8>| {
            out.clear();
            for (at, value) in values.iter().enumerate() {
                encoder.push(1_700_000_000_000 + at as i64 * 5_000, *value, out);
            }
            encoder.finish(0, out);
        };
        group.bench_function(format!("encode {name}"), |bencher| bencher.iter(|| encode(&mut out)));
        let times = Times::new(&std::array::from_fn::<_, SAMPLES, _>(|at| 1_700_000_000_000 + at as i64 * 5_000));
        let changed = |at: &usize| *at == 0 || values[*at].to_bits() != values[at - 1].to_bits();
        let steps: Vec<(u32, f64)> = (0..SAMPLES).filter(changed).map(|at| (at as u32, values[at])).collect();
        group.bench_function(format!("encode steps {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_steps(&times, black_box(&steps), &mut out);
            });
        });
        encode(&mut out);
        group.bench_function(format!("decode {name}"), |bencher| {
            bencher.iter(|| {
                let mut sum = 0.0;
                decode(black_box(&out), |_, value| sum += value).expect("our own chunk");
                sum
            });
        });
    }
    group.finish();
}

criterion_group!(chunks, benches);
criterion_main!(chunks);
