//! Why a query has no answer. The texts that equal Prometheus' stay here, so that the API and the rules agree.

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
    /// A limit was reached while samples or series were read.
    #[error(transparent)]
    Limit(#[from] LimitError),
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
            ShardError::Limit(limit) => QueryError::Limit(limit),
            ShardError::Blocks(text) => QueryError::Storage(text),
        }
    }
}

impl From<EvalError> for QueryError {
    fn from(error: EvalError) -> QueryError {
        match error {
            EvalError::Execution(text) => QueryError::Execution(text),
            EvalError::TooLarge(error) => QueryError::Execution(error.to_string()),
            EvalError::Timeout => QueryError::Timeout(error.to_string()),
            EvalError::Canceled => QueryError::Canceled,
        }
    }
}
