//! The command line: Prometheus' flag names, our few own, and the tools as subcommands.
//!
//! A unit file that starts `prometheus` starts `ringscrape` after changing the binary: every flag of Prometheus is
//! accepted ([`flags`]). Those that this build does not act on are collected in [`Cli::passive`] for one warning.

use crate::flags;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Scrape engine for large Linux hosts: reads prometheus.yml, scrapes on io_uring, one pinned core per shard.
#[derive(Parser, Debug)]
#[command(name = "ringscrape", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Serve,
    /// Flags of Prometheus that were given and change nothing here, with their values.
    #[arg(skip)]
    pub passive: BTreeMap<String, String>,
    /// The other arguments, in the form that this program's own flags have.
    #[arg(skip)]
    pub normalized: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Check files before they go to production.
    Check {
        #[command(subcommand)]
        what: Check,
    },
    /// Run unit tests.
    Test {
        #[command(subcommand)]
        what: Test,
    },
    /// Fetch once and show what a target would bring: samples, series, bytes, top metrics and labels, limits it breaks.
    Preview(Preview),
    /// Ask the discovery of a configuration once and show what each mechanism yields, before and after relabelling.
    Discover(Discover),
    /// Several processes with one configuration: who scrapes what, and can they be told apart.
    Fleet {
        #[command(subcommand)]
        what: Fleet,
    },
    /// Look into a data folder that no server holds.
    Tsdb {
        #[command(subcommand)]
        what: Tsdb,
    },
    /// Move over from another program: what will be the same, different or missing for this setup, a unit file and flags.
    /// Exit code 1 if something has to be changed first.
    Migrate(Migrate),
    /// Collect what a server says of itself into one archive for support, without secrets.
    Debug(DebugBundle),
    /// Write man pages and completions for shells into a folder: for packages.
    #[command(hide = true)]
    Generate { folder: PathBuf },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MigrateFrom {
    Prometheus,
    Vmagent,
}

#[derive(Args, Debug)]
pub struct DebugBundle {
    /// Address of the server.
    #[arg(default_value = "http://localhost:9090", value_parser = parse_server_url)]
    pub url: url::Url,
    /// The archive to be written.
    #[arg(long, default_value = "ringscrape-debug.tar.gz", value_name = "FILE")]
    pub out: PathBuf,
    /// User that the server asks for.
    #[arg(long, requires = "password_file")]
    pub username: Option<String>,
    /// File with the user's password.
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// Authority that signed the server's certificate.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Do not look at the server's certificate.
    #[arg(long)]
    pub insecure: bool,
}

#[derive(Args, Debug)]
pub struct Migrate {
    /// The program that runs today.
    #[arg(long, value_enum)]
    pub from: MigrateFrom,
    /// Its unit file; or a file with its command line, its `docker run`, or its arguments one a line.
    pub file: PathBuf,
    /// Its configuration, if it is not where the command line says.
    #[arg(long = "config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Write the unit file, the flags and, where there has to be another one, the configuration into this folder.
    #[arg(long, value_name = "FOLDER")]
    pub write: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum Fleet {
    /// Compare configuration files: equal external labels, targets that hashmod rules give to none or to two. Exit code 1
    /// if something is wrong.
    Check {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// External labels that tell replicas apart.
        #[arg(long, value_delimiter = ',', default_value = "replica,prometheus_replica")]
        replica_labels: Vec<String>,
    },
    /// What a changed list of members would move, by the ring and by hashmod.
    Plan(FleetPlan),
}

#[derive(Args, Debug)]
pub struct FleetPlan {
    /// Configuration with a section `fleet`, or none if --members says who is there.
    #[arg(long = "config.file")]
    pub config_file: PathBuf,
    /// Targets instead of those that the configuration finds: a file for file_sd, or a saved answer of /api/v1/targets.
    #[arg(long)]
    pub targets: Option<PathBuf>,
    /// Members now, NAME or NAME=WEIGHT. Default: the list of the configuration.
    #[arg(long, value_delimiter = ',')]
    pub members: Vec<String>,
    /// Members that join, NAME or NAME=WEIGHT.
    #[arg(long, value_delimiter = ',')]
    pub join: Vec<String>,
    /// Members that leave.
    #[arg(long, value_delimiter = ',')]
    pub leave: Vec<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Moves shown in the table; 0 shows all.
    #[arg(long, default_value_t = 20)]
    pub moves: usize,
}

#[derive(Subcommand, Debug)]
pub enum Tsdb {
    /// Blocks, and what is in none yet.
    List { folder: PathBuf },
    /// Read every byte; exit code 1 if something is damaged.
    Verify {
        folder: PathBuf,
        /// Write what can be read of each block into this new folder; exit code 1 if something was lost.
        #[arg(long, value_name = "FOLDER")]
        repair_to: Option<PathBuf>,
    },
    /// Samples of a selector as text: labels, value, milliseconds.
    Dump {
        folder: PathBuf,
        /// Such as '{job="node"}'.
        selector: String,
    },
    /// Turn the head that Prometheus left in its data folder (write-ahead log, checkpoint, mapped chunks) into blocks, and
    /// say what was taken. A start of the server does the same. Exit code 1 if something was damaged.
    Import { folder: PathBuf },
    /// Put everything that is in logs and chunks into blocks, so that Prometheus can go on in the folder.
    Export {
        folder: PathBuf,
        /// Into blocks of the same folder: the only form there is.
        #[arg(long, default_value_t = true)]
        to_blocks: bool,
    },
    /// Upload the blocks of a folder to the object storage of a configuration, with its external labels. Blocks that are in the
    /// bucket, or whose parts are, stay as they are there. Exit code 1 if one could not be uploaded.
    Ship {
        folder: PathBuf,
        /// A prometheus.yml with object_storage.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make blocks of files, as promtool does.
    CreateBlocksFrom {
        #[command(subcommand)]
        what: BlocksFrom,
    },
}

#[derive(Subcommand, Debug)]
pub enum BlocksFrom {
    /// Samples with times in OpenMetrics text.
    Openmetrics {
        input: PathBuf,
        #[arg(default_value = "data/")]
        output: PathBuf,
        /// Longest block.
        #[arg(long, default_value = "2h", value_parser = parse_duration)]
        max_block_duration: Duration,
        /// Label that every series gets, NAME=VALUE. May be given more than once.
        #[arg(long, value_parser = parse_label)]
        label: Vec<(String, String)>,
        /// Do not list the blocks.
        #[arg(short, long)]
        quiet: bool,
    },
}

#[derive(Subcommand, Debug)]
pub enum Check {
    /// Read configuration files as the server would; exit code 1 if one is bad.
    Config {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Check for agent mode.
        #[arg(long)]
        agent: bool,
    },
    /// Read files for --web.config.file and the certificates that they name; exit code 1 if one is bad.
    WebConfig {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Read rule files and look for duplicates; exit code 1 if one is bad.
    Rules {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// End with exit code 3 if there are duplicates.
        #[arg(long)]
        lint_fatal: bool,
    },
}

#[derive(Subcommand, Debug)]
pub enum Test {
    /// Run unit tests of rules, in promtool's format; exit code 1 if one fails.
    Rules {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Only test groups whose name this expression matches somewhere.
        #[arg(long, value_name = "REGEX")]
        run: Option<String>,
    },
}

#[derive(Args, Debug)]
pub struct Discover {
    /// Configuration file.
    pub file: PathBuf,
    /// Job to ask for; by default all of them.
    pub job: Option<String>,
    /// Targets of each source that are shown; 0 shows all.
    #[arg(long, default_value_t = 20)]
    pub targets: usize,
    /// DNS server for dns_sd_configs, instead of those of /etc/resolv.conf. May be given more than once.
    #[arg(long = "discovery.dns-server", value_name = "ADDRESS:PORT")]
    pub dns_servers: Vec<std::net::SocketAddr>,
}

#[derive(Args, Debug)]
pub struct Preview {
    /// URL to fetch; or a job of the configuration file, whose first targets are fetched.
    pub url_or_job: String,
    /// Configuration that holds the job.
    #[arg(long = "config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Targets of the job that are fetched.
    #[arg(long, default_value_t = 1)]
    pub targets: usize,
    /// Rows of each top list.
    #[arg(long, default_value_t = 10)]
    pub top: usize,
    /// Longest time for one fetch when a URL is given.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
}

#[derive(Args, Debug)]
pub struct Serve {
    /// Configuration file.
    #[arg(long = "config.file", default_value = "prometheus.yml", value_name = "FILE")]
    pub config_file: PathBuf,
    /// Load the configuration again when its files change.
    #[arg(long = "config.auto-reload")]
    pub config_auto_reload: bool,
    /// How often to look whether they changed.
    #[arg(long = "config.auto-reload-interval", default_value = "30s", value_parser = parse_duration)]
    pub config_auto_reload_interval: Duration,
    /// Address for UI, API and telemetry. May be given more than once.
    #[arg(long = "web.listen-address", default_value = "0.0.0.0:9090", value_name = "ADDRESS")]
    pub web_listen_address: Vec<String>,
    /// Address that serves /federate, /-/healthy and /-/ready and nothing else. May be given more than once.
    #[arg(long = "web.federation-listen-address", value_name = "ADDRESS")]
    pub web_federation_listen_address: Vec<String>,
    /// TLS, basic authentication and headers of what is served. Followed while running.
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub web_config_file: Option<PathBuf>,
    /// Open connections of all addresses together. When one more comes, the one that has been idle longest is closed.
    #[arg(long = "web.max-connections", default_value_t = 512)]
    pub web_max_connections: usize,
    /// Clients that may listen at /api/v1/notifications/live at once.
    #[arg(long = "web.max-notifications-subscribers", default_value_t = 16)]
    pub web_max_notifications_subscribers: usize,
    /// Longest time to read a request, and time that a kept connection may be idle.
    #[arg(long = "web.read-timeout", default_value = "5m", value_parser = parse_duration)]
    pub web_read_timeout: Duration,
    /// URL under which this server is reached from outside.
    #[arg(long = "web.external-url", value_name = "URL", value_parser = parse_external_url)]
    pub web_external_url: Option<String>,
    /// Path before all routes. By default that of --web.external-url.
    #[arg(long = "web.route-prefix", value_name = "PATH")]
    pub web_route_prefix: Option<String>,
    /// Allow reload and shutdown by HTTP.
    #[arg(long = "web.enable-lifecycle")]
    pub web_enable_lifecycle: bool,
    /// Origins that may read the API from a browser, as a regular expression. By default none.
    #[arg(long = "web.cors.origin", value_name = "REGEX")]
    pub web_cors_origin: Option<String>,
    /// Allow deletions and snapshots by HTTP.
    #[arg(long = "web.enable-admin-api")]
    pub web_enable_admin_api: bool,
    /// Keep target lists in the data folder, so that a restart without their sources still scrapes the last known fleet.
    #[arg(long = "discovery.keep-lists", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub discovery_keep_lists: bool,
    /// DNS server for dns_sd_configs, instead of those of /etc/resolv.conf. May be given more than once.
    #[arg(long = "discovery.dns-server", value_name = "ADDRESS:PORT")]
    pub discovery_dns_server: Vec<std::net::SocketAddr>,
    /// Take samples that others write to /api/v1/write.
    #[arg(long = "web.enable-remote-write-receiver")]
    pub web_enable_remote_write_receiver: bool,
    /// Take metrics that OpenTelemetry sends to /api/v1/otlp/v1/metrics.
    #[arg(long = "web.enable-otlp-receiver")]
    pub web_enable_otlp_receiver: bool,
    /// Most samples of an answer of remote read that is sent in one piece. 0 is no limit.
    #[arg(long = "storage.remote.read-sample-limit", default_value_t = 50_000_000)]
    pub storage_remote_read_sample_limit: usize,
    /// Remote reads answered at once. 0 is no limit.
    #[arg(long = "storage.remote.read-concurrent-limit", default_value_t = 10)]
    pub storage_remote_read_concurrent_limit: usize,
    /// Bytes of a frame of a streamed answer of remote read.
    #[arg(long = "storage.remote.read-max-bytes-in-frame", default_value_t = 1 << 20)]
    pub storage_remote_read_max_bytes_in_frame: usize,
    /// Folder for logs, chunks and blocks.
    #[arg(long = "storage.tsdb.path", default_value = "data/", value_name = "FOLDER")]
    pub storage_tsdb_path: PathBuf,
    /// How long samples are kept. 0 keeps them for ever; by default 15d unless a size is given.
    #[arg(long = "storage.tsdb.retention.time", alias = "storage.tsdb.retention", value_parser = parse_duration)]
    pub storage_tsdb_retention_time: Option<Duration>,
    /// How many bytes are kept, such as 500GB. 0 is no limit.
    #[arg(long = "storage.tsdb.retention.size", value_parser = parse_size)]
    pub storage_tsdb_retention_size: Option<u64>,
    /// Time that a block covers when it is first written.
    #[arg(long = "storage.tsdb.min-block-duration", default_value = "2h", value_parser = parse_duration)]
    pub storage_tsdb_min_block_duration: Duration,
    /// Time that a block covers at most after compaction. By default a tenth of the retention, at most 31d.
    #[arg(long = "storage.tsdb.max-block-duration", value_parser = parse_duration)]
    pub storage_tsdb_max_block_duration: Option<Duration>,
    /// When the server ends, put everything that is in logs and chunks into blocks, so that Prometheus can go on in the folder.
    #[arg(long = "storage.tsdb.export-on-shutdown")]
    pub storage_tsdb_export_on_shutdown: bool,
    /// Scrape and send by remote write, and nothing else: no queries, no rules, no alerts, no blocks.
    #[arg(long = "agent")]
    pub agent: bool,
    /// Folder for logs in agent mode.
    #[arg(long = "storage.agent.path", default_value = "data-agent/", value_name = "FOLDER")]
    pub storage_agent_path: PathBuf,
    /// Least value of --storage.agent.retention.max-time. Logs that every endpoint has are removed at once.
    #[arg(long = "storage.agent.retention.min-time", default_value = "5m", value_parser = parse_duration)]
    pub storage_agent_retention_min_time: Duration,
    /// How long logs are kept for an endpoint that does not take them.
    #[arg(long = "storage.agent.retention.max-time", default_value = "4h", value_parser = parse_duration)]
    pub storage_agent_retention_max_time: Duration,
    /// Least value of --storage.agent.retention.max-time as well. Logs are looked at each second.
    #[arg(long = "storage.agent.wal-truncate-frequency", default_value = "2h", value_parser = parse_duration)]
    pub storage_agent_wal_truncate_frequency: Duration,
    /// How many bytes of logs are kept for endpoints that do not take them, such as 20GB; beyond them the oldest are given
    /// up. 0 is no limit.
    #[arg(long = "storage.agent.retention.size", default_value = "0", value_parser = parse_size)]
    pub storage_agent_retention_size: u64,
    /// How long the end waits at most for remote write to send what is left. What an endpoint has not taken then is sent after
    /// the next start.
    #[arg(long = "storage.remote.flush-deadline", default_value = "1m", value_parser = parse_duration)]
    pub storage_remote_flush_deadline: Duration,
    /// Time between syncs of the logs: what a power cut can cost. 0s syncs every write before it is visible.
    #[arg(long = "storage.wal-sync-interval", default_value = "1s", value_parser = parse_duration)]
    pub storage_wal_sync_interval: Duration,
    /// After three crashes within this time the next start is in safe mode for as long: logs are replayed one by one, and
    /// targets with far more samples than the others are held back. 0s never is.
    #[arg(long = "storage.safe-mode-window", default_value = "10m", value_parser = parse_duration)]
    pub storage_safe_mode_window: Duration,
    /// Features to switch on, separated by commas. May be given more than once; unknown ones are named in the log.
    #[arg(long = "enable-feature", value_delimiter = ',', value_name = "FEATURE")]
    pub enable_feature: Vec<String>,
    /// How long a query may take, the wait for its turn included.
    #[arg(long = "query.timeout", default_value = "2m", value_parser = parse_duration)]
    pub query_timeout: Duration,
    /// Queries evaluated at once.
    #[arg(long = "query.max-concurrency", default_value_t = 20)]
    pub query_max_concurrency: usize,
    /// Most samples that one question may load into memory.
    #[arg(long = "query.max-samples", default_value_t = 50_000_000)]
    pub query_max_samples: usize,
    /// Memory that one query may use: samples, label sets, values and the answer. Default: half of
    /// --query.max-memory-total.
    #[arg(long = "query.max-memory-per-query", value_parser = parse_size)]
    pub query_max_memory_per_query: Option<u64>,
    /// Memory that all queries together may use. Default: a quarter of the memory that this process may have.
    #[arg(long = "query.max-memory-total", value_parser = parse_size)]
    pub query_max_memory_total: Option<u64>,
    /// How far back an instant query looks for the newest sample.
    #[arg(long = "query.lookback-delta", default_value = "5m", value_parser = parse_duration)]
    pub query_lookback_delta: Duration,
    /// Alerts that may wait for one Alertmanager; beyond them the oldest are dropped.
    #[arg(long = "alertmanager.notification-queue-capacity", default_value_t = 10_000)]
    pub alertmanager_notification_queue_capacity: usize,
    /// Alerts in one request to an Alertmanager.
    #[arg(long = "alertmanager.notification-batch-size", default_value_t = 256)]
    pub alertmanager_notification_batch_size: usize,
    /// Send the alerts that wait before the process ends; --no-… ends without.
    #[arg(long = "alertmanager.drain-notification-queue-on-shutdown", default_value_t = true,
        num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub alertmanager_drain: bool,
    /// How old an alert's `for` state may be to be restored after a restart.
    #[arg(long = "rules.alert.for-outage-tolerance", default_value = "1h", value_parser = parse_duration)]
    pub rules_alert_for_outage_tolerance: Duration,
    /// Least time between a restart and the firing of an alert that was pending before; alerts with a shorter `for`
    /// begin anew.
    #[arg(long = "rules.alert.for-grace-period", default_value = "10m", value_parser = parse_duration)]
    pub rules_alert_for_grace_period: Duration,
    /// Least time before an alert that goes on firing is sent again.
    #[arg(long = "rules.alert.resend-delay", default_value = "1m", value_parser = parse_duration)]
    pub rules_alert_resend_delay: Duration,
    /// Threads for rules beside those of their groups, with --enable-feature=concurrent-rule-eval.
    #[arg(long = "rules.max-concurrent-evals", default_value_t = 4)]
    pub rules_max_concurrent_evals: usize,
    /// Cores that scrape. By default all; on hosts of eight CPUs and more, one in sixteen is left to the control plane.
    #[arg(long)]
    pub shards: Option<usize>,
    /// CPUs that the cores are pinned to, such as 2-15,18. Their number is the number of cores.
    #[arg(long = "shard-cpus", value_name = "LIST", conflicts_with = "shards", value_parser = parse_cpus)]
    pub shard_cpus: Option<Cpus>,
    /// debug, info, warn or error.
    #[arg(long = "log.level", default_value = "info")]
    pub log_level: String,
    /// logfmt or json.
    #[arg(long = "log.format", default_value = "logfmt")]
    pub log_format: String,
}

/// For tests: the expression in this variable panics when it is evaluated.
const PANIC_VARIABLE: &str = "RINGSCRAPE_TEST_PANICKING_QUERY";
/// The old name of --config.auto-reload.
const RELOAD_FEATURE: &str = "auto-reload-config";
/// Stores exemplars of scrapes.
pub const EXEMPLAR_FEATURE: &str = "exemplar-storage";
/// Stores a zero at the time at which a series began.
pub const ZERO_FEATURE: &str = "created-timestamp-zero-ingestion";
/// Stores the times at which what samples count began.
pub const START_FEATURE: &str = "st-storage";
/// Gives series labels for the type and unit of their metric.
pub const TYPE_FEATURE: &str = "type-and-unit-labels";
/// Has PromQL look at them.
const START_QUERY_FEATURE: &str = "use-start-timestamps";
/// Lets rules of a group that do not read each other be evaluated at once.
const RULE_FEATURE: &str = "concurrent-rule-eval";

/// What is done with deltas of OTLP: added up, or stored as they are.
const DELTA_FEATURES: [&str; 2] = ["otlp-deltatocumulative", "otlp-native-delta-ingestion"];
/// Features that change what queries may say.
const QUERY_FEATURES: [&str; 4] = [
    "promql-experimental-functions",
    "promql-extended-range-selectors",
    "promql-binop-fill-modifiers",
    "promql-delayed-name-removal",
];

impl Serve {
    /// Whether exemplars are stored.
    pub fn stores_exemplars(&self) -> bool {
        self.has(EXEMPLAR_FEATURE)
    }

    /// What is stored besides samples as they come.
    pub fn sample_features(&self) -> shard::SampleFeatures {
        shard::SampleFeatures {
            injects_zeros: self.has(ZERO_FEATURE),
            stores_starts: self.has(START_FEATURE),
            labels_types: self.has(TYPE_FEATURE),
        }
    }

    /// The configuration with what features change in it.
    pub fn configured(&self, mut config: config::Config) -> config::Config {
        if self.sample_features().reads_starts() {
            config.request_protobuf_first();
        }
        config
    }

    fn has(&self, feature: &str) -> bool {
        self.enable_feature.iter().any(|enabled| enabled == feature)
    }

    /// How often the files of the configuration are looked at, if they are.
    pub fn reload_interval(&self) -> Option<Duration> {
        (self.config_auto_reload || self.has(RELOAD_FEATURE)).then_some(self.config_auto_reload_interval)
    }

    /// The data folder.
    pub fn folder(&self) -> &std::path::Path {
        if self.agent { &self.storage_agent_path } else { &self.storage_tsdb_path }
    }

    /// How much is kept for endpoints of remote write that do not take it.
    pub fn log_retention(&self) -> remote_write::Retention {
        if !self.agent {
            return remote_write::Retention::default();
        }
        let max_time = self.storage_agent_retention_max_time;
        let age_max = max_time.max(self.storage_agent_retention_min_time);
        remote_write::Retention {
            age_max: age_max.max(self.storage_agent_wal_truncate_frequency),
            bytes_max: self.storage_agent_retention_size,
        }
    }

    pub fn rule_options(&self) -> rules::Options {
        rules::Options {
            for_outage_tolerance: self.rules_alert_for_outage_tolerance,
            for_grace_period: self.rules_alert_for_grace_period,
            resend_delay: self.rules_alert_resend_delay,
            concurrent_rules: self.has(RULE_FEATURE),
            concurrency: rules::ConcurrencyLimit::new(self.rules_max_concurrent_evals),
        }
    }

    /// What templates of alerts know as the external URL, without a slash at its end.
    pub fn external_url(&self) -> String {
        let own = || {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let port = self.web_listen_address.first().and_then(|address| address.rsplit(':').next()).unwrap_or("9090");
            format!("http://{}:{port}", host.trim())
        };
        self.web_external_url.clone().unwrap_or_else(own).trim_end_matches('/').to_owned()
    }

    /// The path under which we are reached from outside. It may stand in the flag alone.
    pub fn external_path(&self) -> String {
        let external = self.web_external_url.as_deref().unwrap_or_default();
        let url = url::Url::parse(external).ok().filter(|url| !url.cannot_be_a_base());
        let path = url.as_ref().map_or(external, url::Url::path);
        if path.starts_with('/') { prefix(path) } else { String::new() }
    }

    /// The path before all routes.
    pub fn route_prefix(&self) -> String {
        self.web_route_prefix.as_deref().map_or_else(|| self.external_path(), prefix)
    }

    pub fn parse_options(&self) -> promql::ParseOptions {
        self.query_settings().plan.parse
    }

    /// Features that were asked for and change nothing here.
    pub fn unknown_features(&self) -> Vec<&str> {
        let known = |feature: &&String| {
            let feature = feature.as_str();
            let alone = [
                RULE_FEATURE,
                RELOAD_FEATURE,
                EXEMPLAR_FEATURE,
                ZERO_FEATURE,
                START_FEATURE,
                TYPE_FEATURE,
                START_QUERY_FEATURE,
            ];
            !QUERY_FEATURES.contains(&feature) && !DELTA_FEATURES.contains(&feature) && !alone.contains(&feature)
        };
        self.enable_feature.iter().filter(known).map(String::as_str).collect()
    }

    pub fn notifier_options(&self) -> notifier::Options {
        notifier::Options {
            queue_capacity: self.alertmanager_notification_queue_capacity,
            batch_max: self.alertmanager_notification_batch_size,
            drain_on_shutdown: self.alertmanager_drain,
        }
    }

    /// What is done with deltas of OTLP; see [`Serve::feature_conflict`].
    fn otlp_deltas(&self) -> api::DeltaHandling {
        use api::DeltaHandling;
        match (self.has(DELTA_FEATURES[0]), self.has(DELTA_FEATURES[1])) {
            (true, _) => DeltaHandling::Accumulate,
            (false, true) => DeltaHandling::Store,
            (false, false) => DeltaHandling::Reject,
        }
    }

    /// Features that exclude each other, in Prometheus' words.
    pub fn feature_conflict(&self) -> Option<String> {
        let [one, other] = DELTA_FEATURES;
        (self.has(one) && self.has(other)).then(|| format!("cannot enable {one} and {other} features at the same time"))
    }

    pub fn remote_settings(&self) -> api::RemoteSettings {
        api::RemoteSettings {
            features: self.sample_features(),
            receiver: self.web_enable_remote_write_receiver,
            otlp_receiver: self.web_enable_otlp_receiver,
            otlp_deltas: self.otlp_deltas(),
            read_samples_max: self.storage_remote_read_sample_limit,
            read_concurrency: self.storage_remote_read_concurrent_limit,
            frame_bytes_max: self.storage_remote_read_max_bytes_in_frame,
        }
    }

    pub fn query_settings(&self) -> query::QuerySettings {
        let parse = promql::ParseOptions {
            experimental_functions: self.has(QUERY_FEATURES[0]),
            extended_range_selectors: self.has(QUERY_FEATURES[1]),
            fill_modifiers: self.has(QUERY_FEATURES[2]),
            ..promql::ParseOptions::default()
        };
        query::QuerySettings {
            plan: promql::PlanOptions {
                parse,
                lookback: self.query_lookback_delta,
                delayed_name_removal: self.has(QUERY_FEATURES[3]),
                start_times: self.has(START_QUERY_FEATURE),
                ..promql::PlanOptions::default()
            },
            timeout: self.query_timeout,
            concurrency: self.query_max_concurrency,
            samples_max: self.query_max_samples,
            memory: query::MemoryBounds::new(self.query_max_memory_per_query, self.query_max_memory_total),
            panics_on: std::env::var(PANIC_VARIABLE).ok(),
        }
    }
}

/// The path with a slash before it and none behind it; "" for none.
fn prefix(path: &str) -> String {
    match path.trim_matches('/') {
        "" => String::new(),
        path => format!("/{path}"),
    }
}

/// A command line that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Flag(#[from] flags::FlagError),
    #[error(transparent)]
    Clap(#[from] clap::Error),
}

/// Our flags that are on or off.
fn switches() -> BTreeSet<String> {
    let command = Cli::command();
    let is_switch = |argument: &&clap::Arg| matches!(argument.get_action(), clap::ArgAction::SetTrue);
    command.get_arguments().filter(is_switch).filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
}

/// `NAME=VALUE` as `--label` has it.
fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a label is NAME=VALUE")?;
    if name.is_empty() {
        return Err("a label has a name".into());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// CPU numbers in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus(pub Vec<usize>);

impl Cli {
    /// Reads the arguments; on a mistake prints it and ends the process, with Prometheus' exit code.
    pub fn parse_args(arguments: impl IntoIterator<Item = String>) -> Cli {
        match Cli::try_parse_args(arguments) {
            Ok(cli) => cli,
            Err(CliError::Flag(error)) => {
                eprintln!("ringscrape: {error}; see --help");
                std::process::exit(error.exit_code.into())
            }
            Err(CliError::Clap(error)) => error.exit(),
        }
    }

    /// # Errors
    ///
    /// A command line that cannot be used, and the requests for help and the version, which clap counts as errors.
    pub fn try_parse_args(arguments: impl IntoIterator<Item = String>) -> Result<Cli, CliError> {
        let mut arguments = arguments.into_iter();
        let program = arguments.next().unwrap_or_default();
        let normalized = flags::normalize(arguments.collect(), &switches())?;
        let mut cli = Cli::try_parse_from(std::iter::once(program).chain(normalized.arguments.iter().cloned()))?;
        cli.normalized = normalized.arguments;
        cli.passive = normalized.passive;
        Ok(cli)
    }

    /// Every flag with its value, as `/api/v1/status/flags` shows them.
    pub fn flags(&self) -> BTreeMap<String, String> {
        let serve = &self.serve;
        let all = flags::PROMETHEUS_FLAGS.iter().map(|flag| (flag.name.to_owned(), flag.default.to_owned()));
        let mut flags: BTreeMap<String, String> = all.collect();
        // Of older versions: shown only if they were given.
        for old in flags::OLD_FLAGS {
            flags.remove(old);
        }
        flags.extend(self.passive.clone());
        let mut set = |name: &str, value: String| flags.insert(name.to_owned(), value);
        set("config.file", serve.config_file.display().to_string());
        set("config.auto-reload", serve.config_auto_reload.to_string());
        set("config.auto-reload-interval", config::format_duration(serve.config_auto_reload_interval));
        set("web.listen-address", serve.web_listen_address.join(","));
        set("web.federation-listen-address", serve.web_federation_listen_address.join(","));
        let web_config = serve.web_config_file.as_ref().map(|file| file.display().to_string());
        set("web.config.file", web_config.unwrap_or_default());
        set("web.max-connections", serve.web_max_connections.to_string());
        set("web.max-notifications-subscribers", serve.web_max_notifications_subscribers.to_string());
        set("web.read-timeout", config::format_duration(serve.web_read_timeout));
        set("web.external-url", serve.web_external_url.clone().unwrap_or_default());
        set("web.route-prefix", format!("{}/", serve.route_prefix()));
        set("web.enable-lifecycle", serve.web_enable_lifecycle.to_string());
        set("web.enable-admin-api", serve.web_enable_admin_api.to_string());
        set("discovery.keep-lists", serve.discovery_keep_lists.to_string());
        let servers: Vec<String> = serve.discovery_dns_server.iter().map(ToString::to_string).collect();
        set("discovery.dns-server", servers.join(","));
        set("web.enable-remote-write-receiver", serve.web_enable_remote_write_receiver.to_string());
        set("web.enable-otlp-receiver", serve.web_enable_otlp_receiver.to_string());
        set("storage.remote.read-sample-limit", serve.storage_remote_read_sample_limit.to_string());
        set("storage.remote.read-concurrent-limit", serve.storage_remote_read_concurrent_limit.to_string());
        set("storage.remote.read-max-bytes-in-frame", serve.storage_remote_read_max_bytes_in_frame.to_string());
        set("storage.tsdb.path", serve.storage_tsdb_path.display().to_string());
        let time = serve.storage_tsdb_retention_time.map(config::format_duration);
        // Prometheus keeps 15 days where nothing is said.
        let default = if serve.storage_tsdb_retention_size.is_none() { "15d" } else { "0s" };
        set("storage.tsdb.retention.time", time.unwrap_or_else(|| default.into()));
        let size = serve.storage_tsdb_retention_size.unwrap_or(0);
        set("storage.tsdb.retention.size", config::format_size(size));
        set("storage.tsdb.min-block-duration", config::format_duration(serve.storage_tsdb_min_block_duration));
        let longest = serve.storage_tsdb_max_block_duration.map(config::format_duration);
        set("storage.tsdb.max-block-duration", longest.unwrap_or_else(|| "0s".into()));
        set("agent", serve.agent.to_string());
        set("storage.agent.path", serve.storage_agent_path.display().to_string());
        let duration = |duration: Duration| config::format_duration(duration);
        set("storage.agent.retention.min-time", duration(serve.storage_agent_retention_min_time));
        set("storage.agent.retention.max-time", duration(serve.storage_agent_retention_max_time));
        set("storage.agent.wal-truncate-frequency", duration(serve.storage_agent_wal_truncate_frequency));
        set("storage.remote.flush-deadline", duration(serve.storage_remote_flush_deadline));
        set("storage.agent.retention.size", config::format_size(serve.storage_agent_retention_size));
        set("storage.safe-mode-window", config::format_duration(serve.storage_safe_mode_window));
        set("storage.wal-sync-interval", config::format_duration(serve.storage_wal_sync_interval));
        set("enable-feature", serve.enable_feature.join(","));
        set("query.timeout", config::format_duration(serve.query_timeout));
        set("query.max-concurrency", serve.query_max_concurrency.to_string());
        set("query.max-samples", serve.query_max_samples.to_string());
        let bytes = |bytes: Option<u64>| bytes.map_or(String::new(), |bytes| format!("{bytes}B"));
        set("query.max-memory-per-query", bytes(serve.query_max_memory_per_query));
        set("query.max-memory-total", bytes(serve.query_max_memory_total));
        set("web.cors.origin", serve.web_cors_origin.clone().unwrap_or_default());
        set("query.lookback-delta", config::format_duration(serve.query_lookback_delta));
        let notifier = serve.notifier_options();
        set("alertmanager.notification-queue-capacity", notifier.queue_capacity.to_string());
        set("alertmanager.notification-batch-size", notifier.batch_max.to_string());
        set("alertmanager.drain-notification-queue-on-shutdown", notifier.drain_on_shutdown.to_string());
        let tolerance = serve.rules_alert_for_outage_tolerance;
        set("rules.alert.for-outage-tolerance", config::format_duration(tolerance));
        set("rules.alert.for-grace-period", config::format_duration(serve.rules_alert_for_grace_period));
        set("rules.alert.resend-delay", config::format_duration(serve.rules_alert_resend_delay));
        set("rules.max-concurrent-evals", serve.rules_max_concurrent_evals.to_string());
        set("shards", serve.shards.map(|count| count.to_string()).unwrap_or_default());
        let cpus = serve.shard_cpus.as_ref().map(|cpus| cpus.0.iter().map(usize::to_string).collect::<Vec<_>>());
        set("shard-cpus", cpus.unwrap_or_default().join(","));
        set("log.level", serve.log_level.clone());
        set("log.format", serve.log_format.clone());
        flags
    }
}

/// A URL, or a path alone. Quotes around it come from a shell or a unit file that was not read as was meant.
fn parse_external_url(text: &str) -> Result<String, String> {
    let is_quote = |c: char| c == '"' || c == '\'';
    if text.starts_with(is_quote) || text.ends_with(is_quote) {
        return Err(format!("URL must not begin or end with quotes: {text}"));
    }
    Ok(text.to_owned())
}

/// A URL of a server.
fn parse_server_url(text: &str) -> Result<url::Url, String> {
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    let is_http = matches!(url.scheme(), "http" | "https") && url.host().is_some();
    if is_http { Ok(url) } else { Err("write http://HOST:PORT or https://HOST:PORT".to_owned()) }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(|error| error.to_string())
}

fn parse_size(text: &str) -> Result<u64, String> {
    config::parse_size(text).map_err(|error| error.to_string())
}

/// `0,2-5` as the kernel writes CPU lists.
fn parse_cpus(text: &str) -> Result<Cpus, String> {
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("{text:?} is not a CPU number"));
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= 4096 {
            return Err(format!("{part:?} is not a range of CPUs"));
        }
        for cpu in first..=last {
            if cpus.contains(&cpu) {
                return Err(format!("CPU {cpu} is named twice"));
            }
            cpus.push(cpu);
        }
    }
    Ok(Cpus(cpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, CliError> {
        Cli::try_parse_args(std::iter::once("ringscrape").chain(arguments.iter().copied()).map(String::from))
    }

    #[test]
    fn prometheus_unit_file_is_accepted() {
        let cli = parse(&[
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/var/lib/prometheus/metrics2/",
            "--storage.tsdb.retention.time",
            "30d",
            "--web.enable-lifecycle",
            "--web.enable-admin-api",
            "--no-storage.tsdb.wal-compression",
            "--enable-feature=exemplar-storage",
            "--web.listen-address=127.0.0.1:9090",
        ])
        .unwrap();
        assert!(cli.serve.web_enable_lifecycle);
        assert_eq!(cli.flags()["storage.tsdb.retention.time"], "30d");
        assert_eq!(cli.flags()["storage.tsdb.path"], "/var/lib/prometheus/metrics2/");
        assert!(cli.serve.web_enable_admin_api);
        assert_eq!(cli.passive["storage.tsdb.wal-compression"], "false");
        assert_eq!(cli.flags()["config.file"], "/etc/prometheus/prometheus.yml");
        assert_eq!(cli.flags()["query.lookback-delta"], "5m");
        assert_eq!(cli.flags()["alertmanager.notification-queue-capacity"], "10000");
        const DRAIN: &str = "alertmanager.drain-notification-queue-on-shutdown";
        for (given, want) in [("", "true"), ("=false", "false"), ("=true", "true")] {
            assert_eq!(parse(&[&format!("--{DRAIN}{given}")]).unwrap().flags()[DRAIN], want);
        }
        assert_eq!(parse(&[&format!("--no-{DRAIN}")]).unwrap().flags()[DRAIN], "false");
    }

    #[test]
    fn mistakes_are_named() {
        for (arguments, want) in [
            (&["--storage.tsdb.path"][..], "storage.tsdb.path"),
            (&["--no-such-flag"], "--no-such-flag"),
            (&["--query.lookback-delta=5x"], "5x"),
            (&["--shard-cpus=3-1"], "3-1"),
            (&["--shard-cpus=1,1"], "twice"),
        ] {
            let text = parse(arguments).unwrap_err().to_string();
            assert!(text.contains(want), "{text}");
        }
    }

    #[test]
    fn urls_are_those_of_servers() {
        assert!(parse_server_url("http://a:9090/prefix").is_ok());
        for text in ["a:9090", "ftp://a/", "", "unix:/x"] {
            assert!(parse_server_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpus("0,2-4"), Ok(Cpus(vec![0, 2, 3, 4])));
        assert!(parse_cpus("").is_err());
    }
}
