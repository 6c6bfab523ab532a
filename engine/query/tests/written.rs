//! Samples that no scrape brings, on real cores with a real log.

use promql::SelectedSeries;
use query::{MemoryBounds, Origin, QueryOptions, QueryService, QuerySettings, SelectRequest};
use series::{Labels, MatchOp, Matcher, Timestamp, Value};
use shard::{Cardinality, FailureLog, Options, Shards, WriteOutcome, default_cpus, start};
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

fn service(shards: &Shards) -> QueryService {
    let settings = QuerySettings {
        plan: promql::PlanOptions::default(),
        timeout: Duration::from_secs(30),
        concurrency: 4,
        samples_max: 0,
        memory: MemoryBounds::new(None, None),
        panics_on: None,
    };
    QueryService::new(shards.clone(), settings)
}

/// Samples of every series in `(after, to]`.
async fn raw(shards: &Shards, after: i64, to: i64) -> Vec<SelectedSeries> {
    let (from, to) = (Timestamp(after + 1), Timestamp(to));
    let matchers = all().remove(0);
    service(shards).select_raw(SelectRequest { matchers, from, to, samples_max: 0 }).await.unwrap().series
}

/// Newest samples as `labels value @ms`, sorted; an instant query agrees.
async fn now(shards: &Shards, at: i64) -> Vec<String> {
    let service = service(shards);
    let options = QueryOptions {
        plan: service.settings().plan,
        timeout: service.settings().timeout,
        origin: Origin::Api,
        caller: None,
    };
    let answer = service.instant(r#"{__name__!=""}"#, Timestamp(at), &options).await.unwrap();
    let elements = answer.evaluated.value.into_elements().unwrap();
    let mut found: Vec<String> = elements.iter().map(|(labels, value)| format!("{labels} {value:?}")).collect();
    found.sort();
    let series = raw(shards, at - 300_000, at).await;
    let newest = series.iter().map(|series| (&series.labels, series.samples[series.samples.len() - 1]));
    let alive: Vec<_> = newest.filter(|(_, sample)| !series::is_stale(sample.value)).collect();
    let value = |value| Value::Float(value);
    let mut want: Vec<String> =
        alive.iter().map(|(labels, sample)| format!("{labels} {:?}", value(sample.value))).collect();
    want.sort();
    assert_eq!(found, want);
    let mut lines: Vec<String> =
        alive.iter().map(|(labels, sample)| format!("{labels} {} @{}", sample.value, sample.timestamp.0)).collect();
    lines.sort();
    lines
}

async fn count(shards: &Shards, to: i64) -> usize {
    raw(shards, -1, to).await.iter().map(|series| series.samples.len()).sum()
}

#[test]
fn acknowledged_rows_can_be_asked_for_and_survive() {
    let folder = tempfile::tempdir().unwrap();
    let store = tsdb::Store::open(tsdb::StoreOptions::new(folder.path())).unwrap();
    let cpu = default_cpus(Some(1)).unwrap()[0];
    let failures = FailureLog::start().unwrap();
    let options = Options {
        cpus: vec![cpu, cpu],
        offset_seed: 1,
        store: Some(store.clone()),
        agent: None,
        failures,
        features: shard::SampleFeatures::default(),
    };
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
        assert_eq!(Cardinality::sum(shards.cardinality().await.unwrap()).pairs[&("instance".into(), "1".into())], 3);
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
