//! Writing samples as /federate does.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use exposition::{Escaping, write_sample, write_type};

const SAMPLES: usize = 1_360;

fn benches(criterion: &mut Criterion) {
    let labels: Vec<Vec<(String, String)>> = (0..SAMPLES)
        .map(|at| {
            let pairs = [("instance", "10.1.2.3:9100".to_owned()), ("job", "node".to_owned()), ("le", at.to_string())];
            pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
        })
        .collect();
    let mut out = String::with_capacity(1 << 20);
    let mut group = criterion.benchmark_group("federate");
    group.throughput(Throughput::Elements(SAMPLES as u64));
    for (name, family, escaping) in [
        ("plain names", "http_server_requests_seconds_bucket", Escaping::Underscores),
        ("names with dots, escaped", "http.server.requests", Escaping::Values),
        ("names with dots, quoted", "http.server.requests", Escaping::AllowUtf8),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                write_type(family, "untyped", escaping, &mut out);
                for (at, labels) in labels.iter().enumerate() {
                    let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                    write_sample(family, labels, at as f64 * 1.5, Some(1_700_000_000_000), escaping, &mut out);
                }
                out.len()
            });
        });
    }
    group.finish();
}

criterion_group!(federate, benches);
criterion_main!(federate);
