//! Loading the configuration again: by signal, by HTTP, or because its files changed.
//!
//! Invariants:
//!   * reloads follow each other, one at a time
//!   * a bad configuration changes nothing; the page, the API and the log say why it was refused

use crate::service_manager::ServiceManager;
use api::ActiveConfig;
use config::Config;
use notifier::Notifier;
use remote_write::RemoteWrite;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use targets::{FleetHandle, ManagerHandle};
use tokio::sync::{mpsc, oneshot, watch};

/// A wish to reload; the answer tells what came of it.
pub type Request = oneshot::Sender<Result<(), String>>;

/// Who reloads.
pub struct Reloader {
    pub file: PathBuf,
    /// Whether sections for what agent mode does not do are refused.
    pub is_agent: bool,
    /// Whether a feature has targets asked for protobuf first.
    pub prefers_protobuf: bool,
    pub running: watch::Sender<Arc<ActiveConfig>>,
    pub targets: ManagerHandle,
    pub notifier: Notifier,
    pub remote_write: RemoteWrite,
    pub fleet: FleetHandle,
    pub rules: rules::Manager,
    pub query_log: Arc<api::QueryLog>,
    pub failures: shard::FailureLog,
    /// What templates of alerts know as the external URL.
    pub external_url: String,
    pub parse: promql::ParseOptions,
    pub service_manager: ServiceManager,
    pub exemplars: ExemplarStorage,
    pub shipper: shipper::Shipper,
}

/// The rings of exemplars, which a configuration makes smaller and larger.
pub struct ExemplarStorage {
    pub shards: shard::Shards,
    /// By `--enable-feature=exemplar-storage`.
    pub is_on: bool,
    pub is_agent: bool,
}

impl ExemplarStorage {
    /// Makes room for as many exemplars as `storage.exemplars.max_exemplars` says.
    pub async fn reload(&self, config: &Config) {
        let settings = config.storage.as_ref().and_then(|storage| storage.exemplars.clone()).unwrap_or_default();
        // An agent stores none to be found, but those that it sends it tells apart from those that it has sent.
        let is_on = self.is_on || self.is_agent && config.remote_write.iter().any(|one| one.send_exemplars);
        let max = if is_on { usize::try_from(settings.max_exemplars).unwrap_or(0) } else { 0 };
        if let Err(error) = self.shards.resize_exemplars(max).await {
            tracing::error!(%error, "the storage of exemplars could not be resized");
        }
    }
}

impl Reloader {
    /// Serves requests until all who could make one are gone. With `auto`, also looks for changed files that often.
    pub async fn run(self, mut requests: mpsc::Receiver<Request>, auto: Option<Duration>) {
        let mut seen = self.fingerprint();
        // A disabled timer still needs a period; it is never polled.
        let mut look = tokio::time::interval(auto.unwrap_or(Duration::from_secs(3600)));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let request = tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
                _ = look.tick(), if auto.is_some() => {
                    if self.fingerprint() == seen {
                        continue;
                    }
                    None
                }
            };
            seen = self.fingerprint();
            self.service_manager.reloading();
            let outcome = self.reload().await;
            self.service_manager.reloaded(&match &outcome {
                Ok(()) => format!("configuration loaded from {}", self.file.display()),
                Err(error) => format!("configuration refused, the one before stays: {error}"),
            });
            if let Some(request) = request {
                // Who asked may have gone; the reload is done all the same.
                let _ = request.send(outcome);
            }
        }
    }

    async fn reload(&self) -> Result<(), String> {
        let (file, external_url, parse) = (self.file.clone(), self.external_url.clone(), self.parse);
        let prefers_protobuf = self.prefers_protobuf;
        let load_config = if self.is_agent { config::load_for_agent } else { config::load };
        let load = move || {
            let mut config = load_config(&file, &config::Env::process())?;
            if prefers_protobuf {
                config.request_protobuf_first();
            }
            let groups = crate::rules::load(&config, &external_url, parse)?;
            Ok::<_, config::ConfigErrors>((config, groups))
        };
        let outcome = match tokio::task::spawn_blocking(load).await {
            Ok(Ok((config, groups))) => {
                let config = Arc::new(config);
                warn_of(&config);
                self.fleet.reload(config.clone()).await;
                self.targets.reload(config.clone()).await;
                self.notifier.reload(&config).await;
                self.remote_write.reload(&config).await;
                self.query_log.reopen(config.global.query_log_file.as_deref());
                self.failures.reopen(&config);
                self.exemplars.reload(&config).await;
                self.shipper.reload(&config);
                self.running.send_modify(|running| *running = Arc::new(ActiveConfig::good(config)));
                self.rules.reload(groups).await;
                tracing::info!(file = %self.file.display(), "configuration loaded");
                Ok(())
            }
            Ok(Err(errors)) => Err(errors.to_string()),
            Err(panic) => Err(format!("reading the configuration failed: {panic}")),
        };
        if let Err(error) = &outcome {
            tracing::error!(error, "configuration refused; the running one stays");
            self.running.send_modify(|running| *running = Arc::new(running.refused(error.clone())));
        }
        outcome
    }

    /// Changes when a file of the configuration does: names, sizes and times of change.
    fn fingerprint(&self) -> Vec<(PathBuf, Option<(u64, SystemTime)>)> {
        let mut files = self.running.borrow().config.files();
        files.push(self.file.clone());
        files.extend(self.running.borrow().config.rule_files.iter().flat_map(|pattern| config::glob(pattern)));
        let stat = |file: &PathBuf| {
            let data = std::fs::metadata(file).ok()?;
            Some((data.len(), data.modified().ok()?))
        };
        files.into_iter().map(|file| (file.clone(), stat(&file))).collect()
    }
}

/// One line that names what was read and checked and is not carried out by this build, and one for each known mistake.
pub fn warn_of(config: &Config) {
    config.lint().into_iter().for_each(|warning| tracing::warn!("{warning}"));
    let passive = config.unsupported_settings();
    if !passive.is_empty() {
        tracing::warn!(sections = passive.join(", "), "read and checked, but not carried out by this build");
    }
}
