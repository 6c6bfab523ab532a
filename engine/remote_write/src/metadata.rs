//! Metadata of metrics: in 1.0 requests of its own, in 2.0 beside series.
//!
//! In 2.0 a target's series carry it with the first row in each `send_interval`, not with every sample: receivers keep what
//! they got, and HELP is several times as long as a sample.

use crate::send::{FlushLimits, Sender};
use ahash::AHashMap;
use config::MetadataConfig;
use remote::{Message, SeriesMetadata, WriteBuilder, family_of, kind_number};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tsdb::SlotGroup;
use tsdb::log::TargetKey;

/// How often targets are asked for metadata while none is known.
const RETRY_EMPTY: Duration = Duration::from_secs(5);
/// Targets whose last row with metadata is remembered.
const TARGETS_MAX: usize = 1 << 20;

/// HELP, TYPE and unit of a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub metric: String,
    pub kind: String,
    pub help: String,
    pub unit: String,
}

/// Gives the metadata of all targets.
pub type MetadataSource = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Metadata>> + Send>> + Send + Sync>;

type ByMetric = AHashMap<String, Metadata>;

/// The metadata of all metrics as it was known last, for the thread that makes requests of 2.0.
#[derive(Debug, Default)]
pub struct MetadataSnapshot(Mutex<Arc<ByMetric>>);

impl MetadataSnapshot {
    fn set(&self, all: Vec<Metadata>) {
        // Of several for one metric the first.
        let by_metric = all.into_iter().rev().map(|one| (one.metric.clone(), one)).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(by_metric);
    }

    fn get(&self) -> Arc<ByMetric> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which series of 2.0 carry metadata.
pub struct MetadataSchedule {
    snapshot: Option<Arc<MetadataSnapshot>>,
    interval_ms: i64,
    /// Time of the last row of a target whose series carried it.
    rows: AHashMap<u64, i64>,
    /// Target and row of the last sample; with the metadata, if its series carry it.
    last: (u64, i64, Option<Arc<ByMetric>>),
}

impl MetadataSchedule {
    pub fn new(interval: Duration) -> MetadataSchedule {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
        MetadataSchedule { snapshot: None, interval_ms, rows: AHashMap::new(), last: (0, i64::MIN, None) }
    }

    /// Where metadata is taken from.
    pub fn set(&mut self, snapshot: Option<Arc<MetadataSnapshot>>) {
        self.snapshot = snapshot;
    }

    /// The metadata that a sample of a row carries.
    pub fn of(
        &mut self,
        target: &TargetKey,
        row: i64,
        group: &SlotGroup,
        slot: usize,
        builder: &mut WriteBuilder,
    ) -> Option<SeriesMetadata> {
        if builder.message() == Message::V1 {
            return None;
        }
        if (self.last.0, self.last.1) != (target.id, row) {
            self.last = (target.id, row, self.begin_row(target.id, row));
        }
        let by_metric = self.last.2.as_ref()?;
        let name = group.metric_name(slot);
        let Metadata { kind, help, unit, .. } = find(by_metric, name)?;
        let kind = kind_number(kind) as u8;
        Some(SeriesMetadata { kind, help: builder.intern(help), unit: builder.intern(unit) })
    }

    fn begin_row(&mut self, target: u64, row: i64) -> Option<Arc<ByMetric>> {
        let before = self.rows.get(&target);
        if before.is_some_and(|before| row.saturating_sub(*before) < self.interval_ms) {
            return None;
        }
        let by_metric = self.snapshot.as_ref()?.get();
        if by_metric.is_empty() {
            return None;
        }
        if self.rows.len() >= TARGETS_MAX {
            self.rows.clear();
        }
        self.rows.insert(target, row);
        Some(by_metric)
    }
}

/// Metadata for a series: of the metric with its name, or of the histogram or summary that it is a part of.
fn find<'a>(by_metric: &'a ByMetric, name: &str) -> Option<&'a Metadata> {
    by_metric.get(name).or_else(|| {
        let parts = ["_bucket", "_count", "_sum", "_total", "_created", "_info"];
        let family = parts.iter().find_map(|part| name.strip_suffix(part))?;
        let found = by_metric.get(family)?;
        let is_part = family_of(name, &found.kind) == family || matches!(&*found.kind, "counter" | "info");
        is_part.then_some(found)
    })
}

/// Sends metadata in 1.0, or refreshes what 2.0 carries, until it is stopped.
pub async fn run(
    sender: Arc<Sender>,
    config: MetadataConfig,
    source: MetadataSource,
    snapshot: Arc<MetadataSnapshot>,
    mut stop: watch::Receiver<Option<FlushLimits>>,
) {
    let interval = config.send_interval.max(Duration::from_secs(1));
    loop {
        let all = tokio::select! {
            all = source() => all,
            _ = stop.wait_for(Option::is_some) => return,
        };
        let is_empty = all.is_empty();
        if sender.protocol.format().message == Message::V1 {
            for some in all.chunks(config.max_samples_per_send.max(1) as usize) {
                let mut builder = WriteBuilder::new(Message::V1);
                for Metadata { metric, kind, help, unit } in some {
                    builder.add_metadata(metric, kind, help, unit);
                }
                tokio::select! {
                    () = sender.send_metadata(remote::pack(&builder.finish()), some.len()) => {}
                    _ = stop.wait_for(Option::is_some) => return,
                }
            }
        } else {
            snapshot.set(all);
        }
        let pause = if is_empty { interval.min(RETRY_EMPTY) } else { interval };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(Option::is_some) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use series::Labels;
    use tsdb::GroupBuilder;

    #[test]
    fn series_carry_metadata_once_in_each_interval() {
        let snapshot = Arc::new(MetadataSnapshot::default());
        let mut schedule = MetadataSchedule::new(Duration::from_secs(60));
        schedule.set(Some(snapshot.clone()));
        let mut builder = WriteBuilder::new(Message::V2);
        let mut group = GroupBuilder::default();
        for name in ["h_bucket", "h", "c_total", "other_sum", "g_sum"] {
            group.push(&Labels::from_pairs([("__name__", name)]), false);
        }
        let group = group.build();
        let key = |id| TargetKey { id, labels: Labels::empty() };
        let mut carries = |target, row, builder: &mut WriteBuilder| {
            (0..group.len()).map(|slot| schedule.of(&key(target), row, &group, slot, builder).map(|m| m.kind)).collect()
        };
        let check = |got: Vec<Option<u8>>, want: &[Option<u8>]| assert_eq!(got, want);
        let nothing = [None; 5];
        check(carries(1, 1_000, &mut builder), &nothing);
        let one = |metric: &str, kind: &str, help: &str| Metadata {
            metric: metric.into(),
            kind: kind.into(),
            help: help.into(),
            unit: String::new(),
        };
        snapshot.set(vec![
            one("h", "histogram", "H."),
            one("h", "gauge", "Not."),
            one("c", "counter", ""),
            one("g", "gauge", ""),
        ]);
        let all = [Some(3), Some(3), Some(1), None, None];
        check(carries(1, 2_000, &mut builder), &all);
        check(carries(1, 3_000, &mut builder), &nothing);
        check(carries(2, 3_000, &mut builder), &all);
        check(carries(1, 62_000, &mut builder), &all);
        check(carries(1, 200_000, &mut WriteBuilder::new(Message::V1)), &nothing);
    }
}
