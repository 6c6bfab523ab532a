//! Who is told of every query when it has ended: the log of queries.

use crate::error::QueryError;
use crate::request::{Caller, QueryCost};
use series::Timestamp;

/// A query that has ended.
#[derive(Debug)]
pub struct QueryReport<'a> {
    pub expr: &'a str,
    pub start: Timestamp,
    pub end: Timestamp,
    /// 0 of an instant query.
    pub step_ms: i64,
    pub caller: Option<&'a Caller>,
    pub outcome: Result<QueryCost, &'a QueryError>,
}

/// Is told of queries. Must not block.
pub trait QueryObserver: Send + Sync {
    /// Whether it wants to be told now.
    fn is_interested(&self) -> bool;

    fn query_ended(&self, report: &QueryReport);
}
