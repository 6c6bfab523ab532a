//! How the control plane talks to the cores: bounded commands in, answers out.
//!
//! Invariants:
//!   * a command queue holds at most [`COMMANDS_MAX`]; a sender waits when it is full
//!   * a core that does not answer within [`ANSWER_TIMEOUT`] is an error that names the core, never a silent gap

use crate::status::{CoreStats, InstantSample, Metadata, TargetStatus};
use series::{Matcher, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use targets::{TargetDiff, TargetId};
use tokio::sync::oneshot;

/// Commands waiting for one core.
pub const COMMANDS_MAX: usize = 256;

/// How long the control plane waits for a core's answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a core can be asked.
#[derive(Debug)]
pub enum Command {
    /// Change the set of targets; answered once the change is live.
    Apply(TargetDiff, oneshot::Sender<()>),
    /// State of every target, in no particular order.
    Statuses(oneshot::Sender<Vec<TargetStatus>>),
    /// Newest values of matching series, in no particular order.
    Instant(Arc<InstantRequest>, oneshot::Sender<Result<Vec<InstantSample>, LimitError>>),
    /// Metadata per target.
    Metadata(Arc<MetadataRequest>, oneshot::Sender<Vec<TargetMetadata>>),
    Stats(oneshot::Sender<Box<CoreStats>>),
    /// End all scrapes and leave; answered when the core owns nothing any more.
    Shutdown(oneshot::Sender<()>),
}

/// Newest samples of the union of `selectors` (each a list of matchers that must all hold) in
/// `(at - lookback, at]`; series that are stale there are left out.
#[derive(Clone, Debug)]
pub struct InstantRequest {
    pub selectors: Vec<Vec<Matcher>>,
    pub at: Timestamp,
    pub lookback: Duration,
    /// Most series one core may answer with; 0 is no limit.
    pub series_max: usize,
}

/// Which metadata is wanted.
#[derive(Clone, Debug, Default)]
pub struct MetadataRequest {
    /// Only this metric.
    pub metric: Option<String>,
    /// Only targets whose labels satisfy all of these.
    pub target_matchers: Vec<Matcher>,
    /// Most targets one core may answer with; 0 is no limit.
    pub targets_max: usize,
}

/// Metadata that one target exposes.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetMetadata {
    pub target: TargetId,
    /// Shared between targets that expose the same.
    pub metrics: Vec<Arc<Metadata>>,
}

/// An answer would be larger than asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {series_max} series match on one core; narrow the selector or raise the limit")]
pub struct LimitError {
    pub series_max: usize,
}

/// Why a question to the cores has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("core {core} did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout { core: usize },
    #[error("core {core} has stopped")]
    Stopped { core: usize },
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// The cores, as seen from the control plane. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Shards {
    queues: Arc<[flume::Sender<Command>]>,
}

impl Shards {
    /// A handle on cores that read these queues.
    pub fn new(queues: Vec<flume::Sender<Command>>) -> Shards {
        Shards { queues: queues.into() }
    }

    /// How many cores there are.
    pub fn count(&self) -> usize {
        self.queues.len()
    }

    /// Changes the targets of one core; returns once the change is live.
    pub async fn apply(&self, core: usize, diff: TargetDiff) -> Result<(), AskError> {
        self.ask(core, |reply| Command::Apply(diff, reply)).await
    }

    /// State of every target of every core, in no particular order.
    pub async fn statuses(&self) -> Result<Vec<TargetStatus>, AskError> {
        Ok(self.ask_all(Command::Statuses).await?.into_iter().flatten().collect())
    }

    /// Newest values of matching series, in no particular order; two targets may yield the same labels.
    pub async fn instant(&self, request: InstantRequest) -> Result<Vec<InstantSample>, AskError> {
        let request = Arc::new(request);
        let answers = self.ask_all(|reply| Command::Instant(request.clone(), reply)).await?;
        let mut samples = Vec::new();
        for answer in answers {
            samples.append(&mut answer?);
        }
        Ok(samples)
    }

    /// Metadata of every target that satisfies the request.
    pub async fn metadata(&self, request: MetadataRequest) -> Result<Vec<TargetMetadata>, AskError> {
        let request = Arc::new(request);
        let answers = self.ask_all(|reply| Command::Metadata(request.clone(), reply)).await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Counters of every core, in core order.
    pub async fn stats(&self) -> Result<Vec<CoreStats>, AskError> {
        Ok(self.ask_all(Command::Stats).await?.into_iter().map(|stats| *stats).collect())
    }

    /// Ends every core's work.
    pub async fn shutdown(&self) -> Result<(), AskError> {
        self.ask_all(Command::Shutdown).await.map(|_| ())
    }

    async fn ask<T>(&self, core: usize, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, AskError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.queues[core].send_async(command(reply)).await.map_err(|_| AskError::Stopped { core })?;
            answer.await.map_err(|_| AskError::Stopped { core })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| AskError::Timeout { core })?
    }

    /// Asks every core at once; answers come in core order.
    async fn ask_all<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Result<Vec<T>, AskError> {
        let mut answers = Vec::with_capacity(self.count());
        for (core, queue) in self.queues.iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            let send = queue.send_async(command(reply));
            match tokio::time::timeout(ANSWER_TIMEOUT, send).await {
                Err(_) => return Err(AskError::Timeout { core }),
                Ok(Err(_)) => return Err(AskError::Stopped { core }),
                Ok(Ok(())) => answers.push(answer),
            }
        }
        let mut values = Vec::with_capacity(answers.len());
        for (core, answer) in answers.into_iter().enumerate() {
            match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                Err(_) => return Err(AskError::Timeout { core }),
                Ok(Err(_)) => return Err(AskError::Stopped { core }),
                Ok(Ok(value)) => values.push(value),
            }
        }
        Ok(values)
    }
}
