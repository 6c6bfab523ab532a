//! Why a query has no answer. The texts that equal Prometheus' stay here, so that the API and the rules agree.

use promql::budget::BudgetError;
use promql::{EvalError, ParseError};
use shard::{LimitError, ShardError};

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The text of the query is wrong.
    #[error(transparent)]
    Syntax(#[from] ParseError),
    /// The query cannot be evaluated over what it selects.
    #[error("{0}")]
    Execution(String),
    #[error("{0}")]
    Timeout(String),
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// A bound of samples or memory was reached; the text names the flag to raise.
    #[error("{0}")]
    Limit(String),
    /// More samples than the request itself allows.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// Chunks or blocks could not be read.
    #[error("reading blocks: {0}")]
    Storage(String),
    /// Nothing can be answered now.
    #[error("{0}")]
    Unavailable(String),
    /// A defect of this program.
    #[error("{0}")]
    Internal(String),
}

impl From<ShardError> for QueryError {
    fn from(error: ShardError) -> QueryError {
        match error {
            ShardError::Timeout { .. } => QueryError::Timeout(error.to_string()),
            ShardError::Stopped { .. } | ShardError::NotKept(_) => QueryError::Unavailable(error.to_string()),
            ShardError::Limit(limit) => limit.into(),
            ShardError::Blocks(text) => QueryError::Storage(text),
        }
    }
}

impl From<LimitError> for QueryError {
    fn from(error: LimitError) -> QueryError {
        match error {
            LimitError::Samples => QueryError::TooManySamples,
            LimitError::Bytes => QueryError::Limit(error.to_string()),
            LimitError::Budget(error) => error.into(),
        }
    }
}

impl From<BudgetError> for QueryError {
    fn from(error: BudgetError) -> QueryError {
        match error {
            BudgetError::Timeout => QueryError::Timeout(error.to_string()),
            BudgetError::Canceled => QueryError::Canceled,
            _ => QueryError::Limit(error.to_string()),
        }
    }
}

impl From<EvalError> for QueryError {
    fn from(error: EvalError) -> QueryError {
        match error {
            EvalError::Execution(text) => QueryError::Execution(text),
            EvalError::TooLarge(error) => error.into(),
            EvalError::Timeout => QueryError::Timeout(error.to_string()),
            EvalError::Canceled => QueryError::Canceled,
        }
    }
}
