//! What ends a query before its answer: memory, time, a caller that leaves. The cores are made up here.

use query::{MemoryBounds, Origin, QueryError, QueryOptions, QueryService, QuerySettings};
use series::{Labels, Sample, Timestamp};
use shard::message::piece_bytes;
use shard::{Command, RangeAnswer, RangeRequest, Shards};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tsdb::SeriesPart;

/// A service with one core, and the commands that the core gets.
fn service(query_bytes_max: u64) -> (Arc<QueryService>, flume::Receiver<Command>) {
    let (queue, commands) = flume::bounded(8);
    let settings = QuerySettings {
        plan: promql::PlanOptions::default(),
        timeout: Duration::from_secs(30),
        concurrency: 2,
        samples_max: 1000,
        memory: MemoryBounds::new(Some(query_bytes_max), Some(1 << 30)),
        panics_on: None,
    };
    (Arc::new(QueryService::new(Shards::new(vec![queue], None), settings)), commands)
}

fn options(timeout: Duration) -> QueryOptions {
    QueryOptions { plan: promql::PlanOptions::default(), timeout, origin: Origin::Api, caller: None }
}

/// The request of a range select, and what its reply goes to.
async fn range_request(
    commands: &flume::Receiver<Command>,
) -> (Arc<RangeRequest>, tokio::sync::oneshot::Sender<Result<RangeAnswer, shard::LimitError>>) {
    match commands.recv_async().await.unwrap() {
        Command::Range(request, reply) => (request, reply),
        other => panic!("{other:?}"),
    }
}

/// Waits until the budget is cancelled; how long that took.
async fn until_cancelled(request: &RangeRequest) -> Duration {
    let begun = Instant::now();
    while !request.budget.is_canceled() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the budget is not cancelled");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_what_works_for_it() {
    let (service, commands) = service(1 << 20);
    let asked = service.clone();
    let query =
        tokio::spawn(async move { asked.instant("a[1m]", Timestamp(60_000), &options(Duration::from_secs(30))).await });
    let (request, _reply) = range_request(&commands).await;
    assert!(!request.budget.is_canceled());
    assert_eq!(service.stats().active_count(), 1);
    query.abort();
    until_cancelled(&request).await;
    assert_eq!(service.stats().active_count(), 0);
}

#[tokio::test]
async fn a_deadline_cancels_what_works_for_the_query() {
    let (service, commands) = service(1 << 20);
    let asked = service.clone();
    let query = tokio::spawn(async move {
        asked.instant("a[1m]", Timestamp(60_000), &options(Duration::from_millis(50))).await.map(|_| ())
    });
    let (request, _reply) = range_request(&commands).await;
    let error = query.await.unwrap().unwrap_err();
    assert_eq!(error, QueryError::Timeout("query timed out in expression evaluation".into()));
    assert!(request.budget.is_canceled());
}

#[tokio::test]
async fn memory_is_bounded_and_given_back() {
    for (query_bytes_max, fits) in [(2000, false), (100_000, true)] {
        let (service, commands) = service(query_bytes_max);
        let asked = service.clone();
        let query = tokio::spawn(async move {
            let answer = asked.instant("a[1m]", Timestamp(60_000), &options(Duration::from_secs(30))).await;
            let bytes = asked.memory().bytes();
            answer.map(|_| bytes)
        });
        let (request, reply) = range_request(&commands).await;
        let samples = (0..500).map(|i| Sample { timestamp: Timestamp(i * 100), value: 1.0 }).collect();
        let piece = SeriesPart { samples, ..SeriesPart::new(Labels::from_pairs([("__name__", "a")])) };
        // As a core does: the charge comes before the answer.
        let answer = request.budget.charge(0, piece_bytes(&piece));
        let answer = answer.map(|charge| RangeAnswer { pieces: vec![piece], charge });
        assert_eq!(answer.is_ok(), fits);
        reply.send(answer.map_err(Into::into)).unwrap();
        match query.await.unwrap() {
            Ok(bytes) => assert!(fits && bytes >= 8000, "the answer holds {bytes} bytes"),
            Err(QueryError::Limit(text)) => {
                let want = "of memory, which exceeds --query.max-memory-per-query=2000B";
                assert!(!fits && text.ends_with(want), "{text}");
            }
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(service.memory().bytes(), 0, "nothing is held any more");
    }
}
