//! 50,000 discovered targets of sixteen labels and ten rules: building all of them, and a list in which one has changed.
//!
//! To meet: all in under one CPU-second; a change of one in under 50 ms, reading the list included.
//!
//!     cargo bench -p ringscrape-perf --bench discovery

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use targets::{BuildCache, ListReader};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RULES: &str = r"
scrape_configs:
  - job_name: fleet
    relabel_configs:
      - {source_labels: [__meta_scrape], regex: 'true', action: keep}
      - {source_labels: [__meta_state], regex: broken|retired|spare, action: drop}
      - {source_labels: [__meta_path], regex: (.+), target_label: __metrics_path__}
      - {source_labels: [__address__, __meta_port], regex: '([^:]+)(?::\d+)?;(\d+)', target_label: __address__, replacement: '$1:$2'}
      - {regex: __meta_label_(.+), action: labelmap}
      - {source_labels: [__address__], regex: '([^:]+)(:[0-9]+)?', target_label: instance, replacement: '${1}'}
      - {source_labels: [__meta_datacenter], target_label: datacenter}
      - {target_label: environment, replacement: production}
      - {source_labels: [__address__], modulus: 4, target_label: __tmp_shard, action: hashmod}
      - {source_labels: [__tmp_shard], regex: '[0-3]', action: keep}
";

/// A list with a group per target, as services that know more than an address write it. `changed` has another rack.
fn list(count: usize, changed: Option<usize>) -> String {
    let mut json = "[".to_owned();
    for i in 0..count {
        let rack = if changed == Some(i) { 99 } else { i % 40 };
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(
            json,
            r#"{comma}{{"targets":["node-{i:05}.example:8080"],"labels":{{"__meta_datacenter":"dc{}",
            "__meta_label_host":"node-{i:05}","__meta_label_os":"linux","__meta_label_rack":"r{rack}",
            "__meta_label_team":"storage","__meta_path":"/metrics","__meta_port":"9100","__meta_scrape":"true",
            "__meta_state":"serving"}}}}"#,
            i % 3
        );
    }
    json + "]"
}

fn reader() -> ListReader {
    ListReader::new("__meta_url", "http://fleet.example/targets")
}

fn discovery(criterion: &mut Criterion) {
    // Without measuring, as tests run it, fewer will do.
    let count = if std::env::args().any(|arg| arg == "--bench") { 50_000 } else { 500 };
    let config = config::parse_config("prometheus.yml".as_ref(), RULES, &config::Env::process()).expect("valid");
    let job = &config.scrape_configs[0];
    let (before, after) = (list(count, None), list(count, Some(count / 2)));
    let mut group = criterion.benchmark_group("discovery");
    group.throughput(Throughput::Elements(count as u64)).sample_size(10);
    group.bench_function("read the list", |bencher| bencher.iter(|| reader().read(black_box(after.as_bytes()))));
    let read_again = |reader: &mut ListReader, list: &str| Arc::new(reader.read(list.as_bytes()).expect("a good list"));
    let mut known = reader();
    let (first, second) = (read_again(&mut known, &before), read_again(&mut known, &after));
    let alone = Arc::new(reader().read(after.as_bytes()).expect("a good list"));
    group.bench_function("build all", |bencher| {
        bencher.iter(|| BuildCache::default().build_pool(job, vec![first.clone()], Vec::new(), None, None));
    });
    let fresh = || {
        let mut cache = BuildCache::default();
        let pool = cache.build_pool(job, vec![first.clone()], Vec::new(), None, None);
        assert_eq!(pool.active.len(), count);
        let mut reader = reader();
        read_again(&mut reader, &before);
        (cache, pool, reader)
    };
    group.bench_function("read one that has changed", |bencher| {
        let change = |(cache, pool, mut reader)| (read_again(&mut reader, black_box(&after)), cache, pool, reader);
        bencher.iter_batched(fresh, change, BatchSize::PerIteration);
    });
    // Groups of the second are those of the first; of the third, which another reader has read, none.
    for (name, list) in [("build one that has changed", &second), ("the same of a list that was read anew", &alone)] {
        group.bench_function(name, |bencher| {
            let change = |(mut cache, pool, reader): (BuildCache, targets::Pool, ListReader)| {
                let new = cache.build_pool(job, vec![black_box(list).clone()], Vec::new(), Some(&pool), None);
                (cache, pool, new, reader)
            };
            bencher.iter_batched(fresh, change, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, discovery);
criterion_main!(benches);
