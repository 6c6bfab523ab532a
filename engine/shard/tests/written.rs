//! Samples that no scrape brings, on real cores with a real log.

use series::{Labels, MatchOp, Matcher, Timestamp, Value};
use shard::{InstantRequest, Options, RangeRequest, Shards, WriteOutcome, default_cpus, start};
use std::time::Duration;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn series(name: &str, instance: &str) -> Labels {
    Labels::from_pairs([("__name__", name), ("instance", instance)])
}

fn all() -> Vec<Vec<Matcher>> {
    vec![vec![Matcher::new("__name__", MatchOp::NotEqual, "").unwrap()]]
}

/// Newest samples as `labels value @ms`, sorted.
async fn now(shards: &Shards, at: i64) -> Vec<String> {
    let lookback = Duration::from_secs(300);
    let request = InstantRequest { selectors: all(), at: Timestamp(at), lookback, series_max: 0 };
    let samples = shards.instant(request).await.unwrap().samples;
    let mut lines: Vec<String> =
        samples.iter().map(|sample| format!("{} {} @{}", sample.labels, sample.value, sample.timestamp.0)).collect();
    lines.sort();
    lines
}

async fn count(shards: &Shards, to: i64) -> usize {
    let (from, to) = (Timestamp(0), Timestamp(to));
    let request = RangeRequest { selectors: all(), from, to, samples_max: 0, labels_only: false };
    shards.range(request).await.unwrap().iter().map(|series| series.samples.len()).sum()
}

#[test]
fn acknowledged_rows_can_be_asked_for_and_survive() {
    let folder = tempfile::tempdir().unwrap();
    let store = tsdb::Store::open(tsdb::StoreOptions::new(folder.path())).unwrap();
    let cpu = default_cpus(Some(1)).unwrap()[0];
    let options = Options { cpus: vec![cpu, cpu], offset_seed: 1, store: Some(store.clone()) };
    let shards = start(&options).unwrap();
    let begin = 1_700_000_000_000;
    runtime().block_on(async {
        for row in 0..3 {
            let at = begin + row * 1000;
            for group in ["a", "b", "c"] {
                let rows =
                    vec![(series(group, "1"), Value::Float(row as f64)), (series(group, "2"), Value::Float(2.0))];
                let outcome = shards.write_rows(group, Timestamp(at), rows).await.unwrap();
                assert_eq!(outcome, WriteOutcome { samples: 2, ..WriteOutcome::default() });
                assert!(now(&shards, at).await.contains(&format!("{} {row} @{at}", series(group, "1"))));
            }
        }
        assert_eq!(count(&shards, begin + 10_000).await, 18);
        let at = begin + 3000;
        shards.write_rows("a", Timestamp(at), vec![(series("a", "1"), Value::Float(9.0))]).await.unwrap();
        shards.write_rows("b", Timestamp(at), vec![]).await.unwrap();
        let want = [
            format!("{} 9 @{at}", series("a", "1")),
            format!("{} 2 @{}", series("c", "1"), at - 1000),
            format!("{} 2 @{}", series("c", "2"), at - 1000),
        ];
        assert_eq!(now(&shards, at).await, want, "series that are not in the row have ended");
        let late = shards.write_rows("a", Timestamp(at), vec![(series("a", "1"), Value::Float(9.0))]).await.unwrap();
        assert_eq!(late.out_of_order, 1);
        assert_eq!(shards.stats().await.unwrap().iter().map(|stats| stats.samples_appended).sum::<u64>(), 19);
        assert_eq!(shards.cardinality().await.unwrap().pairs[&("instance".into(), "1".into())], 3);
    });
    // What was acknowledged is in the log: another process finds it without an orderly end of this one.
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("log")).unwrap();
    for file in std::fs::read_dir(store.log_folder()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join("log").join(file.file_name())).unwrap();
    }
    let again = tsdb::Store::open(tsdb::StoreOptions::new(copy.path())).unwrap();
    while !again.replay().done {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut samples = 0;
    let stop = std::sync::atomic::AtomicBool::new(false);
    again
        .select(
            &all(),
            Timestamp(0),
            Timestamp(i64::MAX),
            |_| false,
            &stop,
            |piece| {
                samples += piece.samples.iter().filter(|sample| !series::is_stale(sample.value)).count();
                true
            },
        )
        .unwrap();
    assert_eq!(samples, 19);
}
