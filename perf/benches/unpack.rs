//! Unpacking gzip bodies by the two ways that a core has: in one go by libdeflate, in steps by zlib-rs.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use libdeflater::Decompressor;
use perf::corpora::{ALL, Corpus};
use std::hint::black_box;
use std::io::{Read, Write};

fn benches(criterion: &mut Criterion) {
    for Corpus { name, body } in &ALL {
        let plain = body(1);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain.as_bytes()).expect("memory takes it");
        let packed = encoder.finish().expect("memory takes it");
        let mut group = criterion.benchmark_group(format!("unpack/{name}"));
        group.throughput(Throughput::Bytes(plain.len() as u64));
        let mut out = vec![0; plain.len()];
        let mut decompressor = Decompressor::new();
        group.bench_function("in one go", |bencher| {
            bencher.iter(|| decompressor.gzip_decompress(black_box(&packed), &mut out).expect("our own packing"));
        });
        group.bench_function("in steps", |bencher| {
            bencher.iter(|| MultiGzDecoder::new(black_box(&packed[..])).read_exact(&mut out).expect("our own packing"));
        });
        group.finish();
    }
}

criterion_group!(unpack, benches);
criterion_main!(unpack);
