//! The state dump: what this process is doing, as lines of the log, on SIGUSR1.
//!
//! It asks what the API asks, and hides what it hides. A core that does not reply is in it as such, after a bound of time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time that the cores have to reply: less than the watchdog's.
const REPLY_WITHIN: Duration = Duration::from_secs(5);
/// Queries that are listed; the oldest first.
const QUERIES_MAX: usize = 20;

/// Where the state is.
#[derive(Clone)]
pub struct StateDump {
    pub shards: shard::Shards,
    pub store: Option<Arc<tsdb::Store>>,
    pub queries: Arc<query::QueryService>,
    pub remote_write: remote_write::RemoteWrite,
    pub targets: targets::ManagerHandle,
    /// One dump at a time.
    pub is_running: Arc<AtomicBool>,
}

impl StateDump {
    /// Writes the state to the log, unless a dump is under way.
    pub async fn write(self) {
        if self.is_running.swap(true, Ordering::Relaxed) {
            return;
        }
        self.write_all().await;
        self.is_running.store(false, Ordering::Relaxed);
    }

    async fn write_all(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            rss = field("VmRSS"),
            rss_peak = field("VmHWM"),
            threads = field("Threads"),
            cpus = field("Cpus_allowed_list"),
            "state of the process"
        );
        self.write_targets();
        self.write_cores().await;
        if let Some(store) = &self.store {
            tracing::info!(stats = ?store.stats(), safe_mode = store.safe_mode().is_some(), "state of the storage");
        }
        self.write_queries();
        for endpoint in self.remote_write.stats() {
            let stats = &endpoint.stats;
            tracing::info!(
                name = endpoint.name,
                url = endpoint.url,
                in_flight = stats.in_flight.load(Ordering::Relaxed),
                shards_max = endpoint.shards_max,
                lag_bytes = stats.lag_bytes.load(Ordering::Relaxed),
                lag_seconds = stats.lag().map_or(-1.0, |lag| lag.as_secs_f64()),
                files_lost = stats.files_lost.load(Ordering::Relaxed),
                "state of an endpoint of remote write"
            );
        }
        tracing::info!("end of the state");
    }

    fn write_targets(&self) {
        let set = self.targets.watch().borrow().clone();
        for pool in &set.pools {
            tracing::info!(
                job = pool.job.job_name,
                targets = pool.active.len(),
                interval = config::format_duration(pool.job.scrape_interval),
                "state of a job"
            );
        }
    }

    async fn write_cores(&self) {
        let stats = match tokio::time::timeout(REPLY_WITHIN, self.shards.stats()).await {
            Ok(Ok(stats)) => stats,
            Ok(Err(error)) => return tracing::error!(%error, "state of the cores: no reply"),
            Err(_) => return tracing::error!("state of the cores: no reply within {REPLY_WITHIN:?}"),
        };
        for core in stats {
            tracing::info!(
                core = core.core,
                cpu = core.cpu.map_or(-1, |cpu| cpu as i64),
                targets = core.targets,
                series = core.series,
                scrapes = core.scrapes,
                failed = core.scrapes_failed.values().sum::<u64>(),
                missed = core.missed.values().sum::<u64>(),
                head_bytes = core.head_bytes,
                cpu_seconds = core.cpu_seconds,
                stall_max_seconds = core.stall_max.as_secs_f64(),
                log_behind = core.log.records_behind,
                log_failing = core.log.failing.as_deref().unwrap_or(""),
                "state of a core"
            );
        }
    }

    fn write_queries(&self) {
        let active = self.queries.stats().active();
        tracing::info!(queries = active.len(), ready = self.queries.is_ready(), "state of queries");
        for query in active.iter().take(QUERIES_MAX) {
            tracing::info!(
                query = &*query.text,
                origin = query.origin,
                seconds = query.started.elapsed().as_secs_f64(),
                "state of a query"
            );
        }
    }
}
