//! The template scan beside the plain parser, on payloads that are known, new, and slightly changed.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use exposition::{Kind, Parser, Piece, Readings, Template, Walk, Walked, walk};
use perf::corpora::{ALL, Corpus};
use std::hint::black_box;

/// Takes a walk to its end.
fn walked<T: AsRef<Template>>(walk: Walk<'_, T>) -> Walked {
    match walk {
        Walk::Warm => Walked::Warm,
        Walk::Unfinished(mut walker) => {
            while walker.step() {}
            walker.finish()
        }
    }
}

fn pieces(walked: Walked) -> usize {
    match walked {
        Walked::Warm => 0,
        Walked::Changed { pieces, .. } => pieces.len(),
    }
}

fn shape_of(body: &str) -> Vec<Template> {
    let mut readings = Readings::default();
    let Walked::Changed { pieces, error } = walked(walk::<Template>(&[], body.as_bytes(), &mut readings)) else {
        return Vec::new();
    };
    assert_eq!(error, None);
    let new = |piece| match piece {
        Piece::New(template) => template,
        Piece::Known(_) => unreachable!("nothing was known"),
    };
    pieces.into_iter().map(new).collect()
}

fn benches(criterion: &mut Criterion) {
    for Corpus { name, body } in &ALL {
        let (first, second) = (body(1), body(2));
        let shape = shape_of(&first);
        let samples: usize = shape.iter().map(Template::len).sum();
        let mut group = criterion.benchmark_group(format!("{name}/{samples} samples"));
        group.throughput(Throughput::Bytes(second.len() as u64));
        let mut readings = Readings::default();
        // Lines that change their places are walked, too: how far the templates help then is what is measured.
        group.bench_function("warm scan", |bencher| {
            bencher.iter(|| pieces(walked(walk(&shape, black_box(second.as_bytes()), &mut readings))));
        });
        group.bench_function("plain parse", |bencher| {
            bencher.iter(|| {
                let mut parser = Parser::new(black_box(second.as_bytes()), 0, Kind::Unknown);
                let mut sum = 0.0;
                while let Some(line) = parser.next_sample().expect("the corpus parses") {
                    sum += line.value;
                }
                sum
            });
        });
        group.bench_function("cold walk", |bencher| bencher.iter(|| shape_of(black_box(&second)).len()));
        let half = second.len() / 2;
        let line = half + second[half..].find('\n').expect("lines") + 1;
        let changed = format!("{}new_metric{{x=\"y\"}} 1\n{}", &second[..line], &second[line..]);
        group.bench_function("one line more", |bencher| {
            bencher.iter(|| pieces(walked(walk(&shape, black_box(changed.as_bytes()), &mut readings))));
        });
        group.finish();
    }
}

criterion_group!(scan, benches);
criterion_main!(scan);
