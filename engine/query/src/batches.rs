//! Reads the series of a select in batches, where they are too many to be held at once.
//!
//! The values of one label are dealt out to shares, and each share is read by itself: the series with one of its values. The
//! last share is of all series that have none of the values, so that a value that comes meanwhile is not missed. A share that
//! is still too large is divided again.
//!
//! Invariants:
//!   * every series is in exactly one share, however the set of values changes between two reads
//!   * a batch is larger than [`MemoryBounds::batch_bytes_max`] only where no label divides its series
//!
//! [`MemoryBounds::batch_bytes_max`]: crate::MemoryBounds::batch_bytes_max

use crate::error::QueryError;
use crate::gather::range::ReadBounds;
use crate::gather::{Gathered, Gatherer};
use crate::request::LabelRequest;
use crate::task::QueryTask;
use promql::{EvalError, Select, SeriesBatch, SeriesSource};
use series::{MatchOp, Matcher, Timestamp};
use shard::LabelsWanted;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The label that divides most fleets evenly.
const INSTANCE: &str = "instance";
/// Shares that one is divided into.
const SHARES: usize = 16;
/// Values in one matcher: as many as its expression compares as a list.
const VALUES_PER_MATCHER: usize = 4096;
/// Bytes of an expression.
const EXPRESSION_BYTES_MAX: usize = 256 << 10;
/// Values of a label that are dealt out; series with others stay together.
const VALUES_MAX: usize = 200_000;
/// With so many values a label is taken without looking at others.
const VALUES_PLENTY: usize = 4 * SHARES;

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
        let matchers = [&self.matchers, more].concat();
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
        let (label, values) = self.dividing_label().await?;
        let shares = Share::all(values);
        Ok(Batches { reader: self, label, shares, bytes_max, runtime: Handle::current() })
    }

    /// The label with the most values, and these.
    async fn dividing_label(&self) -> Result<(String, Vec<Arc<str>>), QueryError> {
        let instances = self.values(INSTANCE).await?;
        if instances.len() >= VALUES_PLENTY {
            return Ok((INSTANCE.to_owned(), instances));
        }
        let mut best = (INSTANCE.to_owned(), instances);
        let names = self.gatherer.label_texts(&self.task, self.label_request(0), LabelsWanted::Names).await?;
        for name in names.entries.iter().filter(|name| &***name != INSTANCE) {
            let values = self.values(name).await?;
            if values.len() > best.1.len() {
                best = ((**name).to_owned(), values);
            }
        }
        Ok(best)
    }

    async fn values(&self, name: &str) -> Result<Vec<Arc<str>>, QueryError> {
        let wanted = LabelsWanted::Values(name.to_owned());
        Ok(self.gatherer.label_texts(&self.task, self.label_request(VALUES_MAX), wanted).await?.entries)
    }

    fn label_request(&self, limit: usize) -> LabelRequest {
        LabelRequest { selectors: vec![self.matchers.clone()], from: self.from, to: self.to, limit }
    }
}

/// Series that are read together: those with one of `values`, or all that have none of `excluded`.
struct Share {
    values: Vec<Arc<str>>,
    excluded: Vec<Arc<str>>,
}

impl Share {
    /// Shares that are everything together, whatever values there are by then.
    fn all(values: Vec<Arc<str>>) -> Vec<Share> {
        let with = Share { values, excluded: Vec::new() };
        let others = Share { values: Vec::new(), excluded: with.values.clone() };
        let mut shares = vec![others];
        match with.values.len() {
            0 => {}
            1 => shares.push(with),
            _ => shares.extend(with.divided()),
        }
        shares
    }

    /// Smaller shares that are this one together; none if it cannot be divided.
    fn divided(&self) -> Vec<Share> {
        if self.values.len() < 2 {
            return Vec::new();
        }
        let each = self.values.len().div_ceil(SHARES);
        let share = |values: &[Arc<str>]| Share { values: values.to_vec(), excluded: Vec::new() };
        // Several matchers would have to hold all at once: one has all values of a share.
        self.values.chunks(each).flat_map(in_one_expression).map(share).collect()
    }

    /// Matchers that select it.
    fn matchers(&self, label: &str) -> Result<Vec<Matcher>, QueryError> {
        let (op, values) = match self.values.is_empty() {
            true => (MatchOp::NotRegex, &self.excluded),
            false => (MatchOp::Regex, &self.values),
        };
        let matcher =
            |source: &str| Matcher::new(label, op, source).map_err(|error| QueryError::Internal(error.to_string()));
        expressions(values).iter().map(|source| matcher(source)).collect()
    }
}

/// Divides texts into parts of which each fits into one expression.
fn in_one_expression(texts: &[Arc<str>]) -> Vec<&[Arc<str>]> {
    let (mut parts, mut rest) = (Vec::new(), texts);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |text: &&Arc<str>| {
            bytes += expression_bytes(text);
            bytes <= EXPRESSION_BYTES_MAX
        };
        let count = rest.iter().take(VALUES_PER_MATCHER).take_while(fits).count().max(1);
        let (part, others) = rest.split_at(count);
        parts.push(part);
        rest = others;
    }
    parts
}

/// Bytes that a text takes in an expression, the separator included.
fn expression_bytes(text: &str) -> usize {
    1 + text.len() + text.bytes().filter(u8::is_ascii_punctuation).count()
}

/// Expressions that match exactly these texts, in turn.
fn expressions(texts: &[Arc<str>]) -> Vec<String> {
    let mut sources = Vec::new();
    for part in in_one_expression(texts) {
        let mut source = String::new();
        for (i, text) in part.iter().enumerate() {
            if i > 0 {
                source.push('|');
            }
            for char in text.chars() {
                if char.is_ascii_punctuation() {
                    source.push('\\');
                }
                source.push(char);
            }
        }
        sources.push(source);
    }
    sources
}

/// The series of a select, share by share. For a thread that may block.
pub(crate) struct Batches {
    reader: SelectReader,
    label: String,
    /// Those that are not read yet, the next one last.
    shares: Vec<Share>,
    bytes_max: u64,
    runtime: Handle,
}

impl Batches {
    fn read_next(&mut self) -> Result<Option<Gathered>, QueryError> {
        while let Some(share) = self.shares.pop() {
            let bytes_max = if share.values.len() > 1 { self.bytes_max } else { 0 };
            let matchers = share.matchers(&self.label)?;
            match self.runtime.block_on(self.reader.read(&matchers, bytes_max))? {
                Some(gathered) if gathered.series.is_empty() => {}
                Some(gathered) => return Ok(Some(gathered)),
                None => self.shares.extend(share.divided()),
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

    fn texts(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|i| format!("10.0.0.{i}:9100 (a_+b|c)\\é").into()).collect()
    }

    /// Every value, known or not, is in one share only, also after shares were divided again.
    #[test]
    fn shares_are_disjoint_and_complete() {
        for count in [0, 1, 2, 15, 16, 17, 100, 3 * VALUES_PER_MATCHER, 40 * VALUES_PER_MATCHER] {
            let values = texts(count);
            let mut shares = Share::all(values.clone());
            assert!(shares.len() <= SHARES + 1 + count / 1000);
            let last = shares.pop().unwrap();
            let divided = last.divided();
            shares.extend(if divided.is_empty() { vec![last] } else { divided });
            let matchers: Vec<Vec<Matcher>> = shares.iter().map(|share| share.matchers("x").unwrap()).collect();
            let others: Vec<Arc<str>> = vec!["".into(), "10.0.0.1:9100".into(), "new".into()];
            let step = values.len().div_ceil(50).max(1);
            for value in values.iter().step_by(step).chain(&others) {
                let of = matchers.iter().filter(|all| all.iter().all(|matcher| matcher.matches(value)));
                assert_eq!(of.count(), 1, "{value} of {count}");
            }
        }
    }

    /// Matchers of a share hold all at once: two lists of values would select nothing.
    #[test]
    fn a_share_with_values_has_one_matcher() {
        let long: Vec<Arc<str>> = (0..40).map(|i| format!("{i}{}", "é".repeat(20_000)).into()).collect();
        for values in
            [texts(40 * VALUES_PER_MATCHER), long, vec!["x".repeat(2 * EXPRESSION_BYTES_MAX).into(), "y".into()]]
        {
            for share in Share::all(values).iter().filter(|share| !share.values.is_empty()) {
                assert_eq!(share.matchers("x").unwrap().len(), 1, "{} values", share.values.len());
            }
        }
    }

    #[test]
    fn expressions_are_compared_as_lists() {
        for source in expressions(&texts(VALUES_PER_MATCHER)) {
            assert!(
                Matcher::new("x", MatchOp::Regex, &source).unwrap().regex().unwrap().literal_alternatives().is_some()
            );
        }
    }
}
