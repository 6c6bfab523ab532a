//! What remote write and remote read share between requests: settings, who is being served, what writers say of metrics.

use remote::IncomingMetadata;
use remote::otlp::{DeltaHandling, DeltaSums};
use shard::Metadata;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::Semaphore;

/// Write requests that are being taken at once.
const WRITES_MAX: usize = 16;

/// How others may write to us and read from us.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// Whether remote write is taken.
    pub receiver: bool,
    /// What is stored besides samples as they come.
    pub features: shard::SampleFeatures,
    /// Whether OTLP is taken, and what is done with its deltas.
    pub otlp_receiver: bool,
    pub otlp_deltas: DeltaHandling,
    /// Most samples of an answer that is sent in one piece; 0 is no limit.
    pub read_samples_max: usize,
    /// Read requests answered at once; 0 is no limit.
    pub read_concurrency: usize,
    /// Length of a frame of a streamed answer.
    pub frame_bytes_max: usize,
}

impl Default for RemoteSettings {
    /// Prometheus' defaults.
    fn default() -> RemoteSettings {
        RemoteSettings {
            features: shard::SampleFeatures::default(),
            receiver: false,
            otlp_receiver: false,
            otlp_deltas: DeltaHandling::Reject,
            read_samples_max: 50_000_000,
            read_concurrency: 10,
            frame_bytes_max: 1 << 20,
        }
    }
}

/// Metrics of which we remember what writers say.
const METADATA_METRICS_MAX: usize = 100_000;
/// Different things that writers may say of one metric.
const METADATA_OF_METRIC_MAX: usize = 10;
/// Bytes of all that is remembered.
const METADATA_BYTES_MAX: usize = 64 << 20;

/// What writers say of metrics: remembered until the end of the process, as far as there is room.
#[derive(Default)]
pub struct WrittenMetadata(RwLock<MetadataByName>);

#[derive(Default)]
struct MetadataByName {
    metrics: BTreeMap<String, Vec<Arc<Metadata>>>,
    bytes: usize,
}

impl WrittenMetadata {
    /// Remembers what a writer says of its metrics.
    pub fn take(&self, all: Vec<IncomingMetadata>) {
        let fresh = {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let is_known = |said: &IncomingMetadata| {
                let of_metric = known.metrics.get(&said.metric);
                of_metric.is_some_and(|of_metric| of_metric.iter().any(|one| same(one, said)))
            };
            all.into_iter().filter(|said| !is_known(said)).collect::<Vec<_>>()
        };
        if fresh.is_empty() {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let MetadataByName { metrics, bytes } = &mut *known;
        for said in fresh {
            let size = said.metric.len() * 2 + said.help.len() + said.unit.len() + size_of::<Metadata>();
            let full = metrics.len() >= METADATA_METRICS_MAX && !metrics.contains_key(&said.metric);
            if full || *bytes + size > METADATA_BYTES_MAX {
                return;
            }
            let of_metric = metrics.entry(said.metric.clone()).or_default();
            if of_metric.len() < METADATA_OF_METRIC_MAX && !of_metric.iter().any(|one| same(one, &said)) {
                *bytes += size;
                let IncomingMetadata { metric, kind, help, unit } = said;
                of_metric.push(Arc::new(Metadata { metric, kind: kind.to_owned(), help, unit }));
            }
        }
    }

    /// Of one metric, or of all.
    pub fn all(&self, metric: Option<&str>) -> Vec<Arc<Metadata>> {
        let metrics = &self.0.read().unwrap_or_else(PoisonError::into_inner).metrics;
        match metric {
            Some(metric) => metrics.get(metric).cloned().unwrap_or_default(),
            None => metrics.values().flatten().cloned().collect(),
        }
    }
}

fn same(one: &Metadata, said: &IncomingMetadata) -> bool {
    (&one.metric, &*one.kind, &one.help, &one.unit) == (&said.metric, said.kind, &said.help, &said.unit)
}

/// Who is being served.
pub struct Remote {
    pub writes: Semaphore,
    pub reads: Semaphore,
    pub metadata: WrittenMetadata,
    /// Sums of what OTLP brings as deltas.
    pub deltas: Mutex<DeltaSums>,
    pub otlp_rejected_points: AtomicU64,
}

impl Remote {
    pub fn new(settings: &RemoteSettings) -> Remote {
        let reads = match settings.read_concurrency {
            0 => Semaphore::MAX_PERMITS,
            count => count.min(Semaphore::MAX_PERMITS),
        };
        let metadata = WrittenMetadata::default();
        Remote {
            writes: Semaphore::new(WRITES_MAX),
            reads: Semaphore::new(reads),
            metadata,
            deltas: Mutex::default(),
            otlp_rejected_points: AtomicU64::new(0),
        }
    }
}
