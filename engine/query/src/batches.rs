//! Reads the series of a select in batches, where they are too many to be held at once.
//!
//! The series are dealt out to shares by the hash of one label's value, and each share is read by itself. One that is still too
//! large is divided again, by the same label or another.
//!
//! Invariants:
//!   * every series is in exactly one share, whatever series come and go between two reads
//!   * a batch is larger than [`MemoryBounds::batch_bytes_max`] only where no label divides its series
//!
//! [`MemoryBounds::batch_bytes_max`]: crate::MemoryBounds::batch_bytes_max

use crate::error::QueryError;
use crate::gather::range::ReadBounds;
use crate::gather::{Gathered, Gatherer};
use crate::request::LabelRequest;
use crate::task::QueryTask;
use promql::{EvalError, Select, SeriesBatch, SeriesSource};
use series::{Matcher, Timestamp};
use shard::LabelsWanted;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The label that divides most fleets evenly.
const INSTANCE: &str = "instance";
/// Shares that one is divided into.
const SHARES: u64 = 16;
/// Values of a label that are counted; how many more there are makes no difference.
const VALUES_MAX: usize = 100_000;
/// With fewer values of a label for each share, it is divided by another label.
const VALUES_EACH_MIN: u64 = 2;

/// What a select reads, and how its samples become series.
pub(crate) struct SelectReader {
    gatherer: Gatherer,
    task: QueryTask,
    matchers: Vec<Matcher>,
    from: Timestamp,
    to: Timestamp,
    /// Of an instant select: how far back its newest samples may lie.
    lookback: Option<Duration>,
    wants_starts: bool,
}

impl SelectReader {
    pub fn new(gatherer: &Gatherer, task: &QueryTask, select: &Select, lookback: Duration) -> SelectReader {
        let is_newest = select.is_instant && select.to - select.from == lookback.as_millis() as i64 - 1;
        SelectReader {
            gatherer: gatherer.clone(),
            task: task.clone(),
            matchers: select.matchers.clone(),
            from: Timestamp(select.from),
            to: Timestamp(select.to),
            lookback: is_newest.then_some(lookback).filter(|_| !select.wants_starts),
            wants_starts: select.wants_starts,
        }
    }

    /// The series that satisfy `more`, too; None if they are larger than `bytes_max`. 0 is no limit.
    pub async fn read(&self, more: &[Matcher], bytes_max: u64) -> Result<Option<Gathered>, QueryError> {
        // The others first: most series fail them.
        let matchers = [more, &self.matchers].concat();
        match self.lookback {
            Some(lookback) => self.gatherer.instant(&self.task, &matchers, self.to, lookback, bytes_max).await,
            None => {
                let bounds = ReadBounds { samples_max: 0, bytes_max, wants_starts: self.wants_starts };
                self.gatherer.range(&self.task, matchers, (self.from, self.to), bounds).await
            }
        }
    }

    /// Divides what is too large to be read at once.
    pub async fn batches(self, bytes_max: u64) -> Result<Batches, QueryError> {
        let instances = self.count_of_values(INSTANCE).await?;
        let labels = vec![(INSTANCE.into(), instances)];
        let all = Share(Vec::new());
        Ok(Batches {
            reader: self,
            labels,
            knows_all_labels: false,
            shares: vec![all],
            bytes_max,
            runtime: Handle::current(),
        })
    }

    /// The labels beside the first that may divide the series, and how many values each has.
    async fn other_labels(&self) -> Result<Vec<(Arc<str>, usize)>, QueryError> {
        let names = self.gatherer.label_texts(&self.task, self.label_request(0), LabelsWanted::Names).await?;
        let mut labels = Vec::new();
        for name in names.entries.into_iter().filter(|name| &**name != INSTANCE) {
            let values = self.count_of_values(&name).await?;
            labels.push((name, values));
        }
        Ok(labels)
    }

    async fn count_of_values(&self, name: &str) -> Result<usize, QueryError> {
        let wanted = LabelsWanted::Values(name.to_owned());
        Ok(self.gatherer.label_texts(&self.task, self.label_request(VALUES_MAX), wanted).await?.entries.len())
    }

    fn label_request(&self, limit: usize) -> LabelRequest {
        LabelRequest { selectors: vec![self.matchers.clone()], from: self.from, to: self.to, limit }
    }
}

/// Series that are read together: for each of the labels, those with a value whose hash leaves a remainder. Of labels that are
/// not in the list, all.
#[derive(Clone, Debug)]
struct Share(Vec<Part>);

#[derive(Clone, Copy, Debug)]
struct Part {
    remainder: u64,
    count: u64,
}

impl Share {
    /// Smaller shares that are this one together, by the label that has most values for each share; None if none has enough.
    fn divided(&self, labels: &[(Arc<str>, usize)]) -> Option<Vec<Share>> {
        let mut parts = self.0.clone();
        parts.resize(labels.len(), Part { remainder: 0, count: 1 });
        let values_each = |at: &usize| labels[*at].1 as u64 / parts[*at].count;
        let by = (0..labels.len()).max_by_key(values_each).filter(|at| values_each(at) >= VALUES_EACH_MIN)?;
        let Part { remainder, count } = parts[by];
        let share = |i| {
            let mut parts = parts.clone();
            parts[by] = Part { remainder: remainder + i * count, count: count * SHARES };
            Share(parts)
        };
        Some((0..SHARES).map(share).collect())
    }

    /// Matchers that select it.
    fn matchers(&self, labels: &[(Arc<str>, usize)]) -> Vec<Matcher> {
        let divides = self.0.iter().zip(labels).filter(|(part, _)| part.count > 1);
        divides.map(|(part, (label, _))| Matcher::share(label, part.remainder, part.count)).collect()
    }
}

/// The series of a select, share by share. For a thread that may block.
pub(crate) struct Batches {
    reader: SelectReader,
    /// Labels that divide the series, and how many values each has. The first alone until it divides no more: whole targets
    /// have one of its values.
    labels: Vec<(Arc<str>, usize)>,
    knows_all_labels: bool,
    /// Those that are not read yet, the next one last.
    shares: Vec<Share>,
    bytes_max: u64,
    runtime: Handle,
}

impl Batches {
    fn read_next(&mut self) -> Result<Option<Gathered>, QueryError> {
        while let Some(share) = self.shares.pop() {
            let mut smaller = share.divided(&self.labels);
            if smaller.is_none() && !self.knows_all_labels {
                self.labels.extend(self.runtime.block_on(self.reader.other_labels())?);
                self.knows_all_labels = true;
                smaller = share.divided(&self.labels);
            }
            if share.0.is_empty() && smaller.is_some() {
                // Everything: that it is too large is known.
                self.shares.extend(smaller.into_iter().flatten());
                continue;
            }
            let bytes_max = if smaller.is_some() { self.bytes_max } else { 0 };
            let matchers = share.matchers(&self.labels);
            match self.runtime.block_on(self.reader.read(&matchers, bytes_max))? {
                Some(gathered) if gathered.series.is_empty() => {}
                Some(gathered) => return Ok(Some(gathered)),
                None => self.shares.extend(smaller.into_iter().flatten()),
            }
        }
        Ok(None)
    }
}

impl SeriesSource for Batches {
    fn next_batch(&mut self) -> Result<Option<SeriesBatch>, EvalError> {
        match self.read_next() {
            Ok(gathered) => Ok(gathered.map(SeriesBatch::from)),
            Err(QueryError::Timeout(_)) => Err(EvalError::Timeout),
            Err(QueryError::Canceled) => Err(EvalError::Canceled),
            Err(error) => Err(EvalError::Execution(error.to_string())),
        }
    }
}

/// Series that were read at once: one batch.
pub(crate) struct SingleBatch(pub Option<Gathered>);

impl SeriesSource for SingleBatch {
    fn next_batch(&mut self) -> Result<Option<SeriesBatch>, EvalError> {
        Ok(self.0.take().map(SeriesBatch::from))
    }
}

impl From<Gathered> for SeriesBatch {
    fn from(Gathered { series, charge }: Gathered) -> SeriesBatch {
        SeriesBatch { series, charge: Some(charge) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every series is in one share only, also after shares were divided again, by whatever label.
    #[test]
    fn shares_are_disjoint_and_complete() {
        let labels: Vec<(Arc<str>, usize)> = vec![("job".into(), 3), ("instance".into(), 40), ("k".into(), 100_000)];
        let mut shares = vec![Share(Vec::new())];
        for round in 0..3 {
            let last = shares.pop().unwrap();
            shares.extend(last.divided(&labels).unwrap());
            let matchers: Vec<Vec<Matcher>> = shares.iter().map(|share| share.matchers(&labels)).collect();
            for i in 0..500 {
                let value = i.to_string();
                let series = series::Labels::from_pairs([("instance", "a"), ("k", &value)]);
                let of = matchers.iter().filter(|all| all.iter().all(|matcher| matcher.matches_labels(&series)));
                assert_eq!(of.count(), 1, "{series} after {round} divisions");
            }
        }
    }

    /// Dividing ends: where labels have no more values than there are shares, and where there are none.
    #[test]
    fn what_no_label_divides_stays_together() {
        assert!(Share(Vec::new()).divided(&[]).is_none());
        let labels: Vec<(Arc<str>, usize)> = vec![("job".into(), 3), ("zone".into(), 1)];
        let all = Share(Vec::new());
        for share in all.divided(&labels).unwrap() {
            assert!(share.divided(&labels).is_none(), "{share:?}");
        }
    }
}
