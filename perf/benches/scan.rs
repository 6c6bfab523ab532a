//! The template scan beside the plain parser, on payloads that are known, new, and slightly changed; and the same content as
//! OpenMetrics, with and without exemplars.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use exposition::{Format, Kind, LayoutPart, Parser, Readings, ScanProgress, ScanResult, Template, walk};
use perf::corpora::{ALL, Corpus};
use std::hint::black_box;

/// Takes a walk to its end.
fn walked<T: AsRef<Template>>(walk: ScanProgress<'_, T>) -> ScanResult {
    match walk {
        ScanProgress::Warm => ScanResult::Warm,
        ScanProgress::Unfinished(mut walker) => {
            while walker.step() {}
            walker.finish()
        }
    }
}

fn pieces(walked: ScanResult) -> usize {
    match walked {
        ScanResult::Warm => 0,
        ScanResult::Changed { pieces, .. } => pieces.len(),
    }
}

/// The same samples as OpenMetrics; each so many-th line has an exemplar, whose text depends on `seed`.
fn openmetrics(text: &str, exemplar_every: usize, seed: u64) -> String {
    let mut body = String::with_capacity(text.len() * 2);
    for (index, line) in text.lines().enumerate() {
        let is_metadata = line.starts_with("# HELP ") || line.starts_with("# TYPE ");
        if line.is_empty() || line.starts_with('#') && !is_metadata {
            continue;
        }
        let line = line.trim_end();
        if is_metadata {
            let kind = line.strip_suffix(" untyped").filter(|_| line.starts_with("# TYPE "));
            match kind {
                Some(name) => body.extend([name, " unknown\n"]),
                None => body.extend([line, "\n"]),
            }
            continue;
        }
        // A time of 13 digits behind the value, in milliseconds.
        match line.rsplit_once(' ').filter(|(before, stamp)| {
            stamp.len() == 13 && stamp.bytes().all(|byte| byte.is_ascii_digit()) && before.contains(' ')
        }) {
            Some((before, stamp)) => body.extend([before, " ", &stamp[..10], ".", &stamp[10..]]),
            None => body.push_str(line),
        }
        if exemplar_every > 0 && index % exemplar_every == 0 {
            let trace = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64);
            body.push_str(&format!(" # {{trace_id=\"{trace:032x}\"}} 0.067 1520879607.789"));
        }
        body.push('\n');
    }
    body + "# EOF\n"
}

fn shape_of(format: Format, body: &str) -> Vec<Template> {
    let mut readings = Readings::default();
    let ScanResult::Changed { pieces, error } = walked(walk::<Template>(&[], format, body.as_bytes(), &mut readings))
    else {
        return Vec::new();
    };
    assert_eq!(error, None);
    let new = |piece| match piece {
        LayoutPart::New(template) => template,
        LayoutPart::Known(_) => unreachable!("nothing was known"),
    };
    pieces.into_iter().map(new).collect()
}

fn benches(criterion: &mut Criterion) {
    for Corpus { name, body } in &ALL {
        let (first, second) = (body(1), body(2));
        let shape = shape_of(Format::Text, &first);
        let samples: usize = shape.iter().map(Template::len).sum();
        let mut group = criterion.benchmark_group(format!("{name}/{samples} samples"));
        group.throughput(Throughput::Bytes(second.len() as u64));
        let mut readings = Readings::default();
        // Lines that change their places are walked, too: how far the templates help then is what is measured.
        group.bench_function("warm scan", |bencher| {
            bencher.iter(|| pieces(walked(walk(&shape, Format::Text, black_box(second.as_bytes()), &mut readings))));
        });
        for (name, every, is_changing) in [
            ("warm openmetrics", 0, false),
            ("warm openmetrics, exemplar on each fourth line", 4, false),
            ("warm openmetrics, another exemplar on each fourth line", 4, true),
        ] {
            let shape = shape_of(Format::OpenMetrics, &openmetrics(&first, every, 1));
            let bodies = [2, if is_changing { 3 } else { 2 }].map(|seed| openmetrics(&second, every, seed));
            let mut turn = 0;
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    turn ^= 1;
                    let body = black_box(bodies[turn].as_bytes());
                    let count = pieces(walked(walk(&shape, Format::OpenMetrics, body, &mut readings)));
                    let Readings { exemplars, seen, .. } = &mut readings;
                    seen.clear();
                    seen.extend(exemplars.iter().map(|exemplar| (exemplar.value, exemplar.hash)));
                    count
                });
            });
            readings.seen.clear();
        }
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
        group.bench_function("cold walk", |bencher| {
            bencher.iter(|| shape_of(Format::Text, black_box(&second)).len());
        });
        let half = second.len() / 2;
        let line = half + second[half..].find('\n').expect("lines") + 1;
        let changed = format!("{}new_metric{{x=\"y\"}} 1\n{}", &second[..line], &second[line..]);
        group.bench_function("one line more", |bencher| {
            bencher.iter(|| pieces(walked(walk(&shape, Format::Text, black_box(changed.as_bytes()), &mut readings))));
        });
        group.finish();
    }
}

criterion_group!(scan, benches);
criterion_main!(scan);
