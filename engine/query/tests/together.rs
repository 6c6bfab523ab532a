//! Questions that are asked together, on a core that is made up here.

use promql::budget::Charge;
use query::{MemoryBounds, QueryError, QueryService, QuerySettings};
use series::{Labels, Sample, Timestamp};
use shard::{Command, RangeAnswer, ReduceRequest, Shards};
use std::time::Duration;
use tsdb::SeriesPart;

/// What cannot be answered together is asked alone: one that takes too long harms no other.
#[tokio::test]
async fn expressions_that_fail_together_are_asked_alone() {
    let (queue, commands) = flume::bounded(8);
    std::thread::spawn(move || {
        for command in commands {
            match command {
                Command::Reduce(requests, _, reply) if requests.len() > 1 => drop(reply),
                Command::Reduce(requests, _, reply) => {
                    let partial = promql::PartialAggregate::new(requests[0].reduction.clone());
                    drop(reply.send(vec![Ok(whole_series_wanted(partial, &requests[0]))]));
                }
                Command::Range(request, reply) => {
                    let samples = vec![Sample { timestamp: Timestamp(5), value: 2.5 }];
                    let labels = Labels::from_pairs([("__name__", "a")]);
                    let (pieces, charge) =
                        (vec![SeriesPart { samples, ..SeriesPart::new(labels) }], Charge::empty(&request.budget));
                    drop(reply.send(Ok(RangeAnswer { pieces, charge })));
                }
                _ => unreachable!("nothing else is asked"),
            }
        }
    });
    let settings = QuerySettings {
        plan: promql::PlanOptions::default(),
        timeout: Duration::from_secs(30),
        concurrency: 1,
        samples_max: 1000,
        memory: MemoryBounds::new(None, None),
        panics_on: None,
    };
    let queries = QueryService::new(Shards::new(vec![queue], None), settings);
    let exprs = ["max(max_over_time(a[1m]))", "sum(", "count(count_over_time(a[1m]))"];
    let found = queries.instant_many(&exprs, Timestamp(6), Duration::from_secs(15), None).await;
    let elements = |at: usize| found[at].as_ref().unwrap().evaluated.value.clone().into_elements().unwrap();
    let element = |value| vec![(Labels::empty(), series::Value::Float(value))];
    assert_eq!((elements(0), elements(2)), (element(2.5), element(1.0)));
    assert!(matches!(found[1], Err(QueryError::Syntax(_))), "{:?}", found[1]);
}

/// An answer of a core that leaves an aggregation to the asker.
fn whole_series_wanted(partial: promql::PartialAggregate, request: &ReduceRequest) -> shard::ReduceAnswer {
    shard::ReduceAnswer {
        partial,
        whole: Vec::new(),
        pieces: Vec::new(),
        identities: Vec::new(),
        pieces_identities: Default::default(),
        series: Vec::new(),
        refused: true,
        samples: 0,
        charge: Charge::empty(&request.budget),
    }
}
