//! The control plane's handle on the cores: bounded queues that carry commands to them, and the wait for their replies.
//!
//! Invariants:
//!   * a command queue holds at most [`COMMANDS_MAX`]; a sender waits when it is full
//!   * a core that does not answer within [`ANSWER_TIMEOUT`] is an error that names the core, never a silent gap

use crate::exemplars::{ExemplarsRequest, StoredExemplar};
use crate::message::{Cardinality, Command, LimitError, MetadataRequest, TargetMetadata};
use crate::status::{CoreStats, TargetStatus};
use crate::written::{
    self, HistogramStamps, PushedSeries, ReceiveOutcome, ReceiveRequest, WriteError, WriteOutcome, WriteRowsRequest,
};
use exposition::Exemplar;
use series::{Labels, Timestamp, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use targets::TargetDiff;
use tokio::sync::oneshot;
use tsdb::{AgentStore, Flushable, Store};

/// Commands waiting for one core.
pub const COMMANDS_MAX: usize = 256;

/// How long the control plane waits for a core's answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a question to the cores has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    #[error("core {core} did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout { core: usize },
    #[error("core {core} has stopped")]
    Stopped { core: usize },
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("reading blocks: {0}")]
    Blocks(String),
    #[error(transparent)]
    NotKept(#[from] WriteError),
}

/// The cores, as seen from the control plane. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Shards {
    queues: Arc<[flume::Sender<Command>]>,
    store: Option<Arc<Store>>,
    agent: Option<Arc<AgentStore>>,
}

impl Shards {
    /// A handle on cores that read these queues, and on the data folder that takes what they close.
    pub fn new(queues: Vec<flume::Sender<Command>>, store: Option<Arc<Store>>) -> Shards {
        Shards { queues: queues.into(), store, agent: None }
    }

    /// The same in agent mode, with its data folder.
    pub fn with_agent(self, agent: Option<Arc<AgentStore>>) -> Shards {
        Shards { agent, ..self }
    }

    /// The data folder in agent mode: nothing can be selected then.
    pub fn agent(&self) -> Option<&Arc<AgentStore>> {
        self.agent.as_ref()
    }

    /// The data folder.
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// How many cores there are.
    pub fn count(&self) -> usize {
        self.queues.len()
    }

    /// Changes the targets of one core; returns once the change is live.
    pub async fn apply(&self, core: usize, diff: TargetDiff) -> Result<(), ShardError> {
        self.request(core, |reply| Command::Apply(diff, reply)).await
    }

    /// State of every target of every core, in no particular order.
    pub async fn statuses(&self) -> Result<Vec<TargetStatus>, ShardError> {
        Ok(self.request_all(Command::Statuses).await?.into_iter().flatten().collect())
    }

    /// Writes samples of one time that no scrape brings: what a rule group made. `source` names who brings them; its
    /// series that are not among `rows` end. Returns once the log has them and they can be asked for.
    pub async fn write_rows(
        &self,
        source: &str,
        at: Timestamp,
        rows: Vec<(Labels, Value)>,
    ) -> Result<WriteOutcome, ShardError> {
        let core = (written::source_id(source) % self.count() as u64) as usize;
        let request = Arc::new(WriteRowsRequest {
            source: source.to_owned(),
            at,
            rows,
            stamps: HistogramStamps::default(),
            starts: Vec::new(),
        });
        Ok(self.request(core, |reply| Command::WriteRows(request, reply)).await??)
    }

    /// Takes samples that somebody writes to us, each with its time. Returns once the log has what could be taken.
    pub async fn receive(&self, series: Vec<PushedSeries>) -> Result<ReceiveOutcome, ShardError> {
        let mut of_cores: Vec<ReceiveRequest> = (0..self.count()).map(|_| ReceiveRequest::default()).collect();
        for (source, series) in written::source_of(series) {
            let core = (source.hash64() % self.count() as u64) as usize;
            of_cores[core].sources.push((source, series));
        }
        // All cores at once, and all are waited for: each waits for a write of its log.
        let mut asked = tokio::task::JoinSet::new();
        for (core, request) in of_cores.into_iter().enumerate().filter(|(_, request)| !request.sources.is_empty()) {
            let shards = self.clone();
            asked.spawn(async move { shards.request(core, |reply| Command::Receive(request, reply)).await });
        }
        let mut all = ReceiveOutcome::default();
        let mut failed = None;
        while let Some(answer) = asked.join_next().await {
            match answer.expect("asking does not panic") {
                Ok(Ok(outcome)) => all.add(outcome),
                Ok(Err(error)) => failed = Some(error.into()),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(all), Err)
    }

    /// Everything that is in memory and not in chunks yet, as segments that can be put into chunks.
    pub async fn unflushed(&self) -> Result<Vec<Arc<dyn Flushable>>, ShardError> {
        Ok(self.request_all(Command::Unflushed).await?.into_iter().flatten().collect())
    }

    /// Metadata of every target that satisfies the request.
    pub async fn metadata(&self, request: MetadataRequest) -> Result<Vec<TargetMetadata>, ShardError> {
        let request = Arc::new(request);
        let answers = self.request_all(|reply| Command::Metadata(request.clone(), reply)).await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Exemplars that the request selects: by series, in the order of their labels, and by time.
    pub async fn exemplars(&self, request: ExemplarsRequest) -> Result<Vec<(Labels, Vec<StoredExemplar>)>, ShardError> {
        let request = Arc::new(request);
        let answers = self.request_all(|reply| Command::Exemplars(request.clone(), reply)).await?;
        let mut by_series: BTreeMap<Labels, Vec<StoredExemplar>> = BTreeMap::new();
        for (series, exemplar) in answers.into_iter().flatten() {
            by_series.entry(series).or_default().push(exemplar);
        }
        for exemplars in by_series.values_mut() {
            exemplars.sort_by_key(|exemplar| exemplar.timestamp);
            // Two cores have it when a target moved from one to the other.
            exemplars.dedup();
        }
        Ok(by_series.into_iter().collect())
    }

    /// Stores exemplars that were written to us, with the labels of their series. Returns how many were accepted: those that
    /// are stored, also from before.
    pub async fn append_exemplars(&self, exemplars: Vec<(Labels, Exemplar)>) -> Result<u64, ShardError> {
        let mut sources: BTreeMap<Labels, Vec<(Labels, Exemplar)>> = BTreeMap::new();
        for (series, exemplar) in exemplars {
            let (source, own) = written::source_labels(&series);
            sources.entry(source).or_default().push((own, exemplar));
        }
        let mut of_cores: Vec<Vec<_>> = vec![Vec::new(); self.count()];
        for (source, exemplars) in sources {
            // Where the samples go: those of a series have one order.
            of_cores[(source.hash64() % self.count() as u64) as usize].push((source, exemplars));
        }
        let mut accepted = 0;
        for (core, exemplars) in of_cores.into_iter().enumerate().filter(|(_, exemplars)| !exemplars.is_empty()) {
            accepted += self.request(core, |reply| Command::AppendExemplars(exemplars, reply)).await?;
        }
        Ok(accepted)
    }

    /// Sets how many exemplars all shards together store; each has its share.
    pub async fn resize_exemplars(&self, max: usize) -> Result<(), ShardError> {
        let share = max.div_ceil(self.count());
        self.request_all(|reply| Command::ResizeExemplars(share, reply)).await.map(|_| ())
    }

    /// Counters of every core, in core order.
    pub async fn stats(&self) -> Result<Vec<CoreStats>, ShardError> {
        Ok(self.request_all(Command::Stats).await?.into_iter().map(|stats| *stats).collect())
    }

    /// Live series by label, of each core.
    pub async fn cardinality(&self) -> Result<Vec<Cardinality>, ShardError> {
        Ok(self.request_all(Command::Cardinality).await?.into_iter().map(|of_core| *of_core).collect())
    }

    /// Ends every core's work.
    pub async fn shutdown(&self) -> Result<(), ShardError> {
        self.request_all(Command::Shutdown).await.map(|_| ())
    }

    /// Puts a command into the queue of one core. Returns before the core has looked at it.
    pub async fn send(&self, core: usize, command: Command) -> Result<(), ShardError> {
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, self.queues[core].send_async(command));
        sent.await.map_err(|_| ShardError::Timeout { core })?.map_err(|_| ShardError::Stopped { core })
    }

    async fn request<T>(
        &self,
        core: usize,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ShardError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.queues[core].send_async(command(reply)).await.map_err(|_| ShardError::Stopped { core })?;
            answer.await.map_err(|_| ShardError::Stopped { core })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| ShardError::Timeout { core })?
    }

    /// Sends a command to every core at once and waits for all replies; they come in core order.
    pub async fn request_all<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Result<Vec<T>, ShardError> {
        self.request_all_within(ANSWER_TIMEOUT, command).await
    }

    /// The same for a command on which a core may work longer than [`ANSWER_TIMEOUT`]: each waits for `timeout`.
    pub async fn request_all_within<T>(
        &self,
        timeout: Duration,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Result<Vec<T>, ShardError> {
        let mut answers = Vec::with_capacity(self.count());
        for (core, queue) in self.queues.iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            let send = queue.send_async(command(reply));
            match tokio::time::timeout(timeout, send).await {
                Err(_) => return Err(ShardError::Timeout { core }),
                Ok(Err(_)) => return Err(ShardError::Stopped { core }),
                Ok(Ok(())) => answers.push(answer),
            }
        }
        let mut values = Vec::with_capacity(answers.len());
        for (core, answer) in answers.into_iter().enumerate() {
            match tokio::time::timeout(timeout, answer).await {
                Err(_) => return Err(ShardError::Timeout { core }),
                Ok(Err(_)) => return Err(ShardError::Stopped { core }),
                Ok(Ok(value)) => values.push(value),
            }
        }
        Ok(values)
    }
}
