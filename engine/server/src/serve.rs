//! From the command line to a running server, and back to an orderly end.
//!
//! Order: configuration, probes, cores, targets, API. A failure ends the start before anything later is touched.

use crate::cli::{Cli, Serve};
use crate::reload::{self, ExemplarStorage, Reloader};
use crate::service_manager::ServiceManager;
use crate::state_dump::StateDump;
use remote_write::RemoteWrite;
use std::fmt::Display;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

/// Exit code for a configuration that cannot be used, as in Prometheus; also that of wrong arguments.
const EXIT_CONFIG: u8 = 2;
/// Exit code for everything else that ends a start.
const EXIT_OTHER: u8 = 1;
/// Exit code when the machine does not allow what is needed.
const EXIT_MACHINE: u8 = 3;
/// Stands for no limit.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Files beside those of clients that even a small server has open: blocks, logs, connections to some hundred targets.
const FILES_BESIDE_CLIENTS: u64 = 1024;
/// 2020-01-01: a clock that says less has not been set. Samples would get times that no query looks for, and a block of
/// 1970 would be the oldest, which retention removes.
const CLOCK_SECONDS_MIN: u64 = 1_577_836_800;
/// How often the placement learns what targets cost.
const COSTS_EVERY: Duration = Duration::from_secs(60);
/// What a scrape costs beside its samples, in samples: wakes and system calls. From the record of 2026-11-23.
const SCRAPE_COST_SAMPLES: f64 = 400.0;
/// Reload requests that may wait.
const RELOADS_WAITING_MAX: usize = 16;

/// Memory in pages of 4 KiB (decision 029). Where the kernel does not know how, we only take more of it.
fn small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::info!(%error, "huge pages stay on; this process will take more memory than it needs");
    }
}

/// Runs until SIGTERM, SIGINT or `/-/quit`.
pub fn run(cli: &Cli) -> ExitCode {
    let serve = &cli.serve;
    if let Err(error) = crate::log::start(&serve.log_level, &serve.log_format) {
        eprintln!("ringscrape: {error}");
        return ExitCode::FAILURE;
    }
    small_pages();
    if let Some(conflict) = serve.feature_conflict() {
        return fail(EXIT_OTHER, &conflict);
    }
    // A core whose task panics would go on half alive; the process ends instead and is started again. A query that panics
    // costs itself.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if query::isolation::note_panic(panic) {
            return;
        }
        report(panic);
        std::process::abort();
    }));
    let load = if serve.agent { config::load_for_agent } else { config::load };
    let config = match load(&serve.config_file, &config::Env::process()) {
        Ok(config) => Arc::new(serve.configured(config)),
        Err(errors) => return fail(EXIT_CONFIG, &errors),
    };
    if let Err(errors) = crate::rules::load(&config, &serve.external_url(), serve.parse_options()) {
        return fail(EXIT_CONFIG, &errors);
    }
    // Whoever asks for protection is never served without it.
    if let Some(Err(error)) = serve.web_config_file.as_deref().map(api::Security::check) {
        return fail(EXIT_OTHER, &format!("--web.config.file: {error}"));
    }
    reload::warn_of(&config);
    if serve.agent && config.remote_write.is_empty() {
        tracing::warn!("agent mode without remote_write: what is scraped goes nowhere");
    }
    let unknown = cli.serve.unknown_features();
    if !unknown.is_empty() {
        tracing::warn!(
            features = unknown.join(", "),
            "accepted with --enable-feature, but without effect in this build"
        );
    }
    if !cli.passive.is_empty() {
        let flags: Vec<&str> = cli.passive.keys().map(String::as_str).collect();
        tracing::warn!(flags = flags.join(", "), "flags accepted that change nothing in this build");
    }
    match shard::raise_open_files() {
        Ok(limit) => {
            tracing::info!(open_files = limit.soft, "open-file limit raised to the hard limit");
            let needed = serve.web_max_connections as u64 + FILES_BESIDE_CLIENTS;
            if limit.soft < needed {
                tracing::warn!(
                    open_files = limit.soft,
                    needed,
                    "few files may be open: targets and clients may be refused; ulimit -Hn, or LimitNOFILE= in the unit file"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the open-file limit stays as it is"),
    }
    let cpus = match &serve.shard_cpus {
        Some(cpus) => Ok(cpus.0.clone()),
        None => shard::default_cpus(serve.shards),
    };
    let cpus = match cpus.and_then(|cpus| shard::probe(&cpus).map(|()| cpus)) {
        Ok(cpus) => cpus,
        Err(error) => return fail(EXIT_MACHINE, &error),
    };
    if let Err(error) = check_clock(SystemTime::now()) {
        return fail(EXIT_MACHINE, &error);
    }
    let listeners = match listeners(serve) {
        Ok(listeners) => listeners,
        Err(error) => return fail(EXIT_OTHER, &error),
    };
    let service_manager = ServiceManager::from_env();
    let extending = service_manager.extend_while_opening("opening the data folder");
    // After all this, so that a start that cannot succeed leaves the folder untouched.
    let storage = match Storage::open(serve, &config) {
        Ok(storage) => storage,
        Err(error) => return fail(EXIT_OTHER, &format!("{error}{}", folder_advice(&error, serve.agent))),
    };
    drop(extending);
    let ended = run_with(cli, config, cpus, storage.clone(), listeners, service_manager);
    storage.record_clean_shutdown();
    if serve.storage_tsdb_export_on_shutdown && !serve.agent {
        drop(storage);
        let error = crate::tsdb_cmd::become_export(&serve.storage_tsdb_path);
        tracing::error!(%error, "the export into blocks could not be started; `ringscrape tsdb export` does it");
        return ExitCode::FAILURE;
    }
    ended
}

/// Says why there is no start, on one line, or on one for each mistake of a file.
fn fail(exit_code: u8, error: &dyn Display) -> ExitCode {
    eprintln!("ringscrape: {error:#}");
    ExitCode::from(exit_code)
}

/// # Errors
///
/// A clock that has not been set since the machine was switched on.
fn check_clock(now: SystemTime) -> Result<(), String> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if seconds >= CLOCK_SECONDS_MIN {
        return Ok(());
    }
    let date = series::Rfc3339(series::Timestamp(seconds as i64 * 1000));
    Err(format!(
        "the clock says {date}, so it has not been set: samples would get wrong times; set it (chronyd, ntpd, `date -s`) \
         and start again"
    ))
}

/// What to change about a data folder that cannot be opened.
fn folder_advice(error: &tsdb::OpenError, is_agent: bool) -> String {
    let tsdb::OpenError::Io { source, .. } = error else { return String::new() };
    let flag = if is_agent { "--storage.agent.path" } else { "--storage.tsdb.path" };
    match source.kind() {
        ErrorKind::PermissionDenied => {
            format!("; give it to the user that runs ringscrape, or choose another {flag}")
        }
        ErrorKind::ReadOnlyFilesystem => format!("; choose a {flag} that can be written"),
        ErrorKind::StorageFull => format!("; free some space, or choose another {flag}"),
        ErrorKind::NotFound => format!("; choose a {flag} whose parent exists"),
        _ => String::new(),
    }
}

/// The data folder: of a server, or of an agent.
#[derive(Clone)]
enum Storage {
    Store(Arc<tsdb::Store>),
    Agent(Arc<tsdb::AgentStore>),
}

impl Storage {
    fn open(serve: &Serve, config: &config::Config) -> Result<Storage, tsdb::OpenError> {
        if serve.agent {
            tsdb::AgentStore::open(crate::tsdb_cmd::agent_options(serve, config)).map(Storage::Agent)
        } else {
            tsdb::Store::open(crate::tsdb_cmd::store_options(serve, config)).map(Storage::Store)
        }
    }

    fn store(&self) -> Option<Arc<tsdb::Store>> {
        if let Storage::Store(store) = self { Some(store.clone()) } else { None }
    }

    fn agent(&self) -> Option<Arc<tsdb::AgentStore>> {
        if let Storage::Agent(agent) = self { Some(agent.clone()) } else { None }
    }

    /// Logs that are to be sent, and the number of this start.
    fn retained_logs(&self) -> (tsdb::log::RetainedLogs, u32) {
        match self {
            Storage::Store(store) => (store.retained_logs(), store.boot()),
            Storage::Agent(agent) => (agent.retained_logs(), agent.boot()),
        }
    }

    fn record_clean_shutdown(&self) {
        match self {
            Storage::Store(store) => store.record_clean_shutdown(),
            Storage::Agent(agent) => agent.record_clean_shutdown(),
        }
    }
}

/// A socket that listens, and what is served there.
type Listener = (std::net::TcpListener, api::ListenerRole);

/// Listens at all addresses.
fn listeners(serve: &Serve) -> anyhow::Result<Vec<Listener>> {
    let everything =
        serve.web_listen_address.iter().map(|address| ("web.listen-address", address, api::ListenerRole::Everything));
    let federation = serve
        .web_federation_listen_address
        .iter()
        .map(|address| ("web.federation-listen-address", address, api::ListenerRole::Federation));
    let listen = |(flag, address, role): (&str, &String, api::ListenerRole)| {
        let listener = api::bind(address).map_err(|error| {
            let advice = match error.kind() {
                ErrorKind::AddrInUse => "; another process listens there: end it, or choose another port",
                ErrorKind::AddrNotAvailable => "; no interface of this machine has this address",
                ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
                _ => "",
            };
            anyhow::anyhow!("--{flag}={address}: {error}{advice}")
        })?;
        Ok((listener, role))
    };
    everything.chain(federation).map(listen).collect()
}

/// What comes after the data folder is open. Whatever ends it is an end in order, if it returns.
fn run_with(
    cli: &Cli,
    config: Arc<config::Config>,
    cpus: Vec<usize>,
    storage: Storage,
    listeners: Vec<Listener>,
    service_manager: ServiceManager,
) -> ExitCode {
    let failures = match shard::FailureLog::start() {
        Ok(failures) => failures,
        Err(error) => return fail(EXIT_MACHINE, &format!("starting the log of failed scrapes: {error}")),
    };
    failures.reopen(&config);
    let started = {
        let offset_seed = offset_seed(&config.global.external_labels);
        let (store, agent) = (storage.store(), storage.agent());
        let (failures, features) = (failures.clone(), cli.serve.sample_features());
        shard::start(&shard::Options { cpus, offset_seed, store, agent, failures, features })
    };
    let shards = match started {
        Ok(started) => started,
        Err(error) => return fail(EXIT_MACHINE, &error),
    };
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(control_threads())
        .thread_name("control")
        .enable_all()
        .build();
    let control = match control {
        Ok(control) => control,
        Err(error) => return fail(EXIT_MACHINE, &format!("starting the control threads: {error}")),
    };
    match control.block_on(control_plane(cli, config, shards, &storage, listeners, service_manager, failures)) {
        Ok(()) => {
            tracing::info!("ended");
            ExitCode::SUCCESS
        }
        Err(error) => fail(EXIT_OTHER, &error),
    }
}

/// One on small hosts, where the cores need the CPUs; two from eight CPUs on.
fn control_threads() -> usize {
    if std::thread::available_parallelism().map_or(1, usize::from) < 8 { 1 } else { 2 }
}

/// FNV-1a over host name and external labels: differs between the members of a redundant pair.
fn offset_seed(external_labels: &series::Labels) -> u64 {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let text = format!("{}{external_labels}", host.trim());
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

async fn control_plane(
    cli: &Cli,
    config: Arc<config::Config>,
    shards: shard::Shards,
    storage: &Storage,
    listeners: Vec<Listener>,
    service_manager: ServiceManager,
    failures: shard::FailureLog,
) -> anyhow::Result<()> {
    let serve = &cli.serve;
    // Signals first: one that comes during the start is not lost, and SIGHUP never ends the process.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut dump = signal(SignalKind::user_defined1())?;

    let (logs, boot) = storage.retained_logs();
    let remote_write = RemoteWrite::new(logs, boot, serve.log_retention(), metadata_source(shards.clone()));
    remote_write.reload(&config).await;
    let (running_to, running) = watch::channel(Arc::new(api::ActiveConfig::good(config.clone())));
    let sink = shards.clone();
    let discovery = targets::DiscoveryContext::start(targets::SdOptions {
        keep_in: serve.discovery_keep_lists.then(|| serve.folder().join("discovery")),
        dns_servers: serve.discovery_dns_server.clone(),
    });
    let targets = targets::Manager::start(shards.count(), discovery.clone(), move |core, diff| {
        let sink = sink.clone();
        async move {
            if let Err(error) = sink.apply(core, diff).await {
                tracing::error!(core, %error, "targets did not reach their core");
            }
        }
    });
    let (is_on, is_agent) = (serve.stores_exemplars(), serve.agent);
    let exemplars = ExemplarStorage { shards: shards.clone(), is_on, is_agent };
    exemplars.reload(&config).await;
    // Before the targets: the first build is this member's share already.
    let fleet = targets::FleetHandle::start(targets.clone(), discovery.clone());
    fleet.reload(config.clone()).await;
    targets.reload(config.clone()).await;
    let notifier = notifier::Notifier::new(serve.notifier_options(), discovery);
    notifier.reload(&config).await;

    let shipper = match storage.store() {
        Some(store) => shipper::Shipper::start(store)?,
        None => shipper::Shipper::none(),
    };
    shipper.reload(&config);

    let (reload_to, reload_requests) = mpsc::channel(RELOADS_WAITING_MAX);
    // The only one: its limits hold for the API and the rules together.
    let queries = Arc::new(query::QueryService::new(shards.clone(), serve.query_settings()));
    let query_log = Arc::new(api::QueryLog::start()?);
    query_log.reopen(config.global.query_log_file.as_deref());
    queries.observe(query_log.clone());
    let host = crate::rules::ServerHost {
        queries: queries.clone(),
        shards: shards.clone(),
        notifier: notifier.clone(),
        running: running.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let rules = rules::Manager::new(Arc::new(host), serve.rule_options());
    rules.reload(crate::rules::load(&config, &serve.external_url(), serve.parse_options())?).await;
    let reloader = Reloader {
        file: serve.config_file.clone(),
        is_agent: serve.agent,
        prefers_protobuf: serve.sample_features().reads_starts(),
        running: running_to,
        targets: targets.clone(),
        notifier: notifier.clone(),
        remote_write: remote_write.clone(),
        fleet: fleet.clone(),
        rules: rules.clone(),
        query_log: query_log.clone(),
        failures,
        external_url: serve.external_url(),
        parse: serve.parse_options(),
        service_manager: service_manager.clone(),
        exemplars,
        shipper: shipper.clone(),
    };
    tokio::spawn(reloader.run(reload_requests, serve.reload_interval()));

    tokio::spawn(learn_costs(shards.clone(), targets.clone()));

    let state_dump = StateDump {
        shards: shards.clone(),
        store: storage.store(),
        queries: queries.clone(),
        remote_write: remote_write.clone(),
        targets: targets.clone(),
        is_running: Arc::default(),
    };
    let (quit_to, mut quit) = mpsc::channel(1);
    let (stop_to, stop) = watch::channel(false);
    let state = api::State::new(api::Parts {
        shards: shards.clone(),
        targets,
        notifier: notifier.clone(),
        remote_write: remote_write.clone(),
        shipper: shipper.clone(),
        rules: rules.clone(),
        fleet,
        running,
        flags: cli.flags(),
        query: queries,
        query_log,
        remote: serve.remote_settings(),
        external_url: serve.web_external_url.clone(),
        external_path: serve.external_path(),
        route_prefix: serve.route_prefix(),
        enable_lifecycle: serve.web_enable_lifecycle,
        enable_admin_api: serve.web_enable_admin_api,
        cors_origin: serve.web_cors_origin.clone(),
        reload: reload_to.clone(),
        quit: quit_to,
        stopping: stop.clone(),
        notifications_subscribers_max: serve.web_max_notifications_subscribers,
    })?;
    let security = match &serve.web_config_file {
        Some(file) => api::Security::follow(file).map_err(|error| anyhow::anyhow!("--web.config.file: {error}"))?,
        None => api::Security::none(),
    };
    let scheme = if security.is_encrypted() { "https" } else { "http" };
    // As in Go, 0 is no limit.
    let read_timeout = Some(serve.web_read_timeout).filter(|timeout| !timeout.is_zero()).unwrap_or(YEAR);
    let limits = api::ConnectionLimits { connections_max: serve.web_max_connections, read_timeout };
    let server = api::server(state, security, limits);
    let mut servers = tokio::task::JoinSet::new();
    let mut addresses = Vec::new();
    for (listener, role) in listeners {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let local = listener.local_addr()?;
        match role {
            api::ListenerRole::Everything => tracing::info!("listening on {scheme}://{local}"),
            api::ListenerRole::Federation => tracing::info!("federation alone is served on {scheme}://{local}"),
        }
        addresses.push(format!("{scheme}://{local}"));
        let mut stop = stop.clone();
        let stopped = async move {
            let _ = stop.wait_for(|stop| *stop).await;
        };
        servers.spawn(server.clone().serve(listener, role, stopped));
    }
    let store = storage.store();
    let replay = move || store.as_ref().map(|store| store.replay());
    let serving = format!("serving at {}", addresses.join(", "));
    tokio::spawn(service_manager.clone().report_start(replay, serving));
    tokio::spawn(service_manager.clone().send_signs_of_life());
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                // The reloader writes the outcome to the log; nobody here waits for it.
                let (reply, _) = oneshot::channel();
                let _ = reload_to.send(reply).await;
            }
            _ = dump.recv() => drop(tokio::spawn(state_dump.clone().write())),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = quit.recv() => break,
        }
    }
    tracing::info!("shutting down");
    service_manager.stopping();
    let _ = stop_to.send(true);
    let drained = async { while servers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(5), drained).await;
    rules.shutdown().await;
    notifier.shutdown().await;
    // Nothing is scraped or written from here on, so what remote write reads now is all there is.
    let ended = shards.shutdown().await;
    shipper.shutdown().await;
    remote_write.shutdown(serve.storage_remote_flush_deadline).await;
    Ok(ended?)
}

/// What all targets say of their metrics, each metric once.
fn metadata_source(shards: shard::Shards) -> remote_write::MetadataSource {
    Arc::new(move || {
        let shards = shards.clone();
        Box::pin(async move {
            let all = shard::MetadataRequest { metric: None, target_matchers: Vec::new(), targets_max: 0 };
            let targets = shards.metadata(all).await.unwrap_or_default();
            let mut seen = std::collections::HashSet::new();
            let metrics = targets.into_iter().flat_map(|target| target.metrics);
            let new = metrics.filter(|metadata| seen.insert(metadata.metric.clone()));
            let entry = |metadata: Arc<shard::Metadata>| remote_write::Metadata {
                metric: metadata.metric.clone(),
                kind: metadata.kind.clone(),
                help: metadata.help.clone(),
                unit: metadata.unit.clone(),
            };
            new.map(entry).collect()
        })
    })
}

/// Tells the placement what each target has cost so far, in samples per second, for ever.
async fn learn_costs(shards: shard::Shards, targets: targets::ManagerHandle) {
    loop {
        tokio::time::sleep(COSTS_EVERY).await;
        let Ok(statuses) = shards.statuses().await else { continue };
        let intervals: std::collections::HashMap<_, _> = {
            let set = targets.watch().borrow().clone();
            let all = set.pools.iter().flat_map(|pool| &pool.active);
            all.map(|target| (target.id, target.interval.as_secs_f64())).collect()
        };
        let cost = |status: &shard::TargetStatus| {
            let interval = intervals.get(&status.id)?;
            Some((status.id, (status.samples_scraped as f64 + SCRAPE_COST_SAMPLES) / interval))
        };
        targets.set_costs(statuses.iter().filter_map(cost).collect()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_not_set_is_no_start() {
        assert_eq!(check_clock(SystemTime::now()), Ok(()));
        let error = check_clock(UNIX_EPOCH + Duration::from_secs(100)).unwrap_err();
        assert!(error.contains("1970-01-01T00:01:40Z") && error.contains("set it"), "{error}");
        assert!(check_clock(UNIX_EPOCH - Duration::from_secs(5)).is_err());
    }
}
