//! What the server hands in, and what every handler may look at.

use crate::active_notifications::ActiveNotifications;
use crate::federation_stats::FederationStats;
use crate::query_log::QueryLog;
use crate::remote_state::{Remote, RemoteSettings};
use config::Config;
use query::QueryService;
use regex::Regex;
use shard::Shards;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::SystemTime;
use targets::{FleetHandle, ManagerHandle, TargetSet};
use tokio::sync::{mpsc, oneshot, watch};

/// The configuration in force, and what came of the last attempt to load another.
#[derive(Clone, Debug)]
pub struct ActiveConfig {
    pub config: Arc<Config>,
    /// When `config` was loaded.
    pub loaded_at: SystemTime,
    /// Why the last reload was refused; None if it was not.
    pub refused: Option<String>,
}

impl ActiveConfig {
    /// A configuration that was taken over now.
    pub fn good(config: Arc<Config>) -> ActiveConfig {
        ActiveConfig { config, loaded_at: SystemTime::now(), refused: None }
    }

    /// The same configuration after an attempt that failed.
    pub fn refused(&self, error: String) -> ActiveConfig {
        ActiveConfig { refused: Some(error), ..self.clone() }
    }
}

/// A wish to reload; the answer tells what came of it.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// What the server hands in.
pub struct Parts {
    pub shards: Shards,
    pub targets: ManagerHandle,
    pub notifier: notifier::Notifier,
    pub remote_write: remote_write::RemoteWrite,
    pub shipper: shipper::Shipper,
    pub fleet: FleetHandle,
    pub running: watch::Receiver<Arc<ActiveConfig>>,
    /// Command-line flags and their values.
    pub flags: BTreeMap<String, String>,
    pub query: Arc<QueryService>,
    pub query_log: Arc<QueryLog>,
    pub remote: RemoteSettings,
    pub rules: rules::Manager,
    /// URL under which the server is reached from outside.
    pub external_url: Option<String>,
    /// Its path: "", or "/prometheus" for example.
    pub external_path: String,
    /// The same before all routes, where it reaches us.
    pub route_prefix: String,
    /// Whether reload and shutdown by HTTP are allowed.
    pub enable_lifecycle: bool,
    /// Whether deletions and snapshots are.
    pub enable_admin_api: bool,
    /// Origins that may read the API from a browser; None allows no other than our own.
    pub cors_origin: Option<String>,
    pub reload: mpsc::Sender<ReloadRequest>,
    pub quit: mpsc::Sender<()>,
    /// True once the process is about to end.
    pub stopping: watch::Receiver<bool>,
    /// Clients that may listen to notifications at once.
    pub notifications_subscribers_max: usize,
}

/// Shared by all handlers. Cloning copies a pointer.
#[derive(Clone)]
pub struct State(Arc<Inner>);

pub struct Inner {
    pub parts: Parts,
    pub cors_origin: Option<Regex>,
    pub started_at: SystemTime,
    pub remote: Remote,
    pub federations: FederationStats,
    pub(crate) notifications: ActiveNotifications,
    /// Held while the cardinality of labels is counted.
    pub(crate) cardinality_turn: tokio::sync::Mutex<()>,
}

impl std::ops::Deref for State {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl State {
    /// An error if a part cannot be used.
    pub fn new(parts: Parts) -> anyhow::Result<State> {
        let cors_origin = match &parts.cors_origin {
            Some(source) => Some(
                Regex::new(&format!("^(?:{source})$"))
                    .map_err(|error| anyhow::anyhow!("--web.cors.origin: {error}"))?,
            ),
            None => None,
        };
        let remote = Remote::new(&parts.remote);
        Ok(State(Arc::new(Inner {
            parts,
            cors_origin,
            started_at: SystemTime::now(),
            remote,
            federations: FederationStats::default(),
            notifications: ActiveNotifications::default(),
            cardinality_turn: tokio::sync::Mutex::default(),
        })))
    }

    /// For tasks that must not keep the server alive.
    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }
}

impl Inner {
    /// The targets of all jobs as they are now.
    pub fn target_set(&self) -> Arc<TargetSet> {
        self.parts.targets.watch().borrow().clone()
    }

    /// The configuration as it is now.
    pub fn running(&self) -> Arc<ActiveConfig> {
        self.parts.running.borrow().clone()
    }
}
