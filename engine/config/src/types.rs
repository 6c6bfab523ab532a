//! What a configuration comes down to: the global settings and the jobs, everything inherited, compiled and checked.

use crate::decode::{choices, section};
use crate::units::Size;
use crate::{
    Alerting, Discovery, Federation, Fleet, HttpConfig, ObjectStorage, Otlp, RemoteRead, RemoteWrite, Runtime, Storage,
    Tracing,
};
use relabel::{NameScheme, Program};
use series::Labels;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Prometheus' period between scrapes and between rule evaluations when the file names none.
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
/// Prometheus' limit of a scrape's duration when the file names none.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// A whole prometheus.yml. Two are equal if a reload from one to the other would change nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Completed: nothing in it is unset that has a default.
    pub global: Global,
    /// Go runtime settings; `None` if the section is absent. Checked, without effect here.
    pub runtime: Option<Runtime>,
    /// Absolute glob patterns of rule files.
    pub rule_files: Vec<PathBuf>,
    /// Absolute glob patterns of files with more scrape configs; those are part of `scrape_configs` already.
    pub scrape_config_files: Vec<PathBuf>,
    /// All jobs: those of the main file in its order, then those of `scrape_config_files` in the order of their paths.
    pub scrape_configs: Vec<Arc<ScrapeConfig>>,
    /// Where alerts go; empty if the section is absent.
    pub alerting: Alerting,
    /// Where samples are sent, in order.
    pub remote_write: Vec<RemoteWrite>,
    /// Where queries look for more, in order.
    pub remote_read: Vec<RemoteRead>,
    /// Settings of the storage; `None` if the section is absent.
    pub storage: Option<Storage>,
    /// Traces of ourselves; `None` if the section is absent.
    pub tracing: Option<Tracing>,
    /// How OTLP metrics become series; `None` if the section is absent.
    pub otlp: Option<Otlp>,
    /// Guards of `/federate`; `None` if the section is absent.
    pub federation: Option<Federation>,
    /// The fleet that this process is a member of; `None` if the section is absent.
    pub fleet: Option<Fleet>,
    /// Where finished blocks are uploaded to; `None` if the section is absent.
    pub object_storage: Option<ObjectStorage>,
    /// The main file, absolute.
    pub(crate) file: PathBuf,
    /// How many of `scrape_configs` stand in the main file.
    pub(crate) own_jobs_count: usize,
}

section! {
    /// Settings that hold for all jobs unless a job has its own.
    pub struct Global in "global", check = Global::check {
        /// Time from the start of one scrape of a target to that of the next. Default 1m.
        scrape_interval: Duration = Duration::ZERO,
        /// How long a scrape may take. Default 10s or the interval, whichever is shorter; never more than the interval.
        scrape_timeout: Duration = Duration::ZERO,
        /// Formats to ask for, best first. Empty: depends on `scrape_native_histograms` of the job.
        scrape_protocols: Vec<ScrapeProtocol> = Vec::new(),
        /// Time between evaluations of a rule group. Default 1m.
        evaluation_interval: Duration = Duration::ZERO,
        /// How far into the past rules look. Default 0s.
        rule_query_offset: Duration = Duration::ZERO,
        /// Where queries are logged. Default: nowhere.
        query_log_file: Option<PathBuf> = None,
        /// Where failed scrapes are logged. Default: nowhere.
        scrape_failure_log_file: Option<PathBuf> = None,
        /// Labels for the outside world, environment variables expanded. Default: none.
        external_labels: Labels = Labels::empty(),
        /// Bytes of an unpacked body beyond which a scrape fails. 0, the default: no limit.
        body_size_limit: Size = Size(0),
        /// Samples after metric relabelling beyond which a scrape fails. 0, the default: no limit.
        sample_limit: u64 = 0,
        /// Targets of a job beyond which all of them fail. 0, the default: no limit.
        target_limit: u64 = 0,
        /// Labels of one sample beyond which a scrape fails. 0, the default: no limit.
        label_limit: u64 = 0,
        /// Bytes of a label name beyond which a scrape fails. 0, the default: no limit.
        label_name_length_limit: u64 = 0,
        /// Bytes of a label value beyond which a scrape fails. 0, the default: no limit.
        label_value_length_limit: u64 = 0,
        /// Dropped targets that a job remembers. 0, the default: all.
        keep_dropped_targets: u64 = 0,
        /// Which names are valid. Default utf8.
        metric_name_validation_scheme: NameScheme = NameScheme::Utf8,
        /// How a target shall escape names that are not legacy. `None`: depends on the validation scheme of the job.
        metric_name_escaping_scheme: Option<EscapingScheme> = None,
        /// Whether native histograms are ingested as such. Default false.
        scrape_native_histograms: bool = false,
        /// Whether classic histograms become native ones with custom buckets. Default false.
        convert_classic_histograms_to_nhcb: bool = false,
        /// Whether the classic form is kept beside the native one. Default false.
        always_scrape_classic_histograms: bool = false,
        /// Whether three more report series are written per scrape. Default false.
        extra_scrape_metrics: bool = false,
    }
}

/// One job: how to find its targets, how to scrape them and what to keep. Nothing is left to inherit.
#[derive(Clone, Debug, PartialEq)]
pub struct ScrapeConfig {
    /// Unique name; the default of the label `job`.
    pub job_name: String,
    /// Whether a label of a sample wins over the target's label of the same name. Default false.
    pub honor_labels: bool,
    /// Whether timestamps that a target exposes are used. Default true.
    pub honor_timestamps: bool,
    /// Whether series with explicit timestamps get staleness markers as well. Default false.
    pub track_timestamps_staleness: bool,
    /// URL parameters in the order of their names. Default: none.
    pub params: Vec<(String, Vec<String>)>,
    /// Time from the start of one scrape of a target to that of the next. Default: global.
    pub scrape_interval: Duration,
    /// How long a scrape may take, connect included; never more than the interval. Default: global or the interval,
    /// whichever is shorter.
    pub scrape_timeout: Duration,
    /// Formats to ask for, best first; never empty. Default: global.
    pub scrape_protocols: Vec<ScrapeProtocol>,
    /// Format to assume where a response names none that we know. `None`, the default: such a scrape fails.
    pub fallback_scrape_protocol: Option<ScrapeProtocol>,
    /// Default `/metrics`.
    pub metrics_path: String,
    /// `http`, the default, or `https`.
    pub scheme: String,
    /// Whether to ask for compressed bodies. Default true.
    pub enable_compression: bool,
    /// Where failed scrapes of the job are logged. Default: global.
    pub scrape_failure_log_file: Option<PathBuf>,
    /// Bytes of an unpacked body beyond which a scrape fails. 0: no limit. Default: global.
    pub body_size_limit: u64,
    /// Samples after metric relabelling beyond which a scrape fails. 0: no limit. Default: global.
    pub sample_limit: u64,
    /// Targets beyond which all of the job fail. 0: no limit. Default: global.
    pub target_limit: u64,
    /// Labels of one sample beyond which a scrape fails. 0: no limit. Default: global.
    pub label_limit: u64,
    /// Bytes of a label name beyond which a scrape fails. 0: no limit. Default: global.
    pub label_name_length_limit: u64,
    /// Bytes of a label value beyond which a scrape fails. 0: no limit. Default: global.
    pub label_value_length_limit: u64,
    /// Buckets of a native histogram beyond which its resolution is lowered. 0, the default: no limit.
    pub native_histogram_bucket_limit: u64,
    /// Smallest growth from bucket to bucket of a native histogram. 0, the default: the finest that there is.
    pub native_histogram_min_bucket_factor: f64,
    /// Dropped targets to remember. 0: all. Default: global.
    pub keep_dropped_targets: u64,
    /// Which names are valid. Default: global.
    pub metric_name_validation_scheme: NameScheme,
    /// How a target shall escape names that are not legacy. Default: global, or by the validation scheme.
    pub metric_name_escaping_scheme: EscapingScheme,
    /// Whether native histograms are ingested as such. Default: global.
    pub scrape_native_histograms: bool,
    /// Whether classic histograms become native ones with custom buckets. Default: global.
    pub convert_classic_histograms_to_nhcb: bool,
    /// Whether the classic form is kept beside the native one. Default: global.
    pub always_scrape_classic_histograms: bool,
    /// Whether three more report series are written per scrape. Default: global.
    pub extra_scrape_metrics: bool,
    /// What is done to the labels of a discovered target. Default: nothing.
    pub relabel_configs: Program,
    /// What is done to the labels of a sample. Default: nothing.
    pub metric_relabel_configs: Program,
    /// Credentials, TLS, proxy and headers of the requests.
    pub http: HttpConfig,
    /// Where targets come from: static groups first, then the other mechanisms by name.
    pub discoveries: Vec<Discovery>,
}

choices! {
    /// A format that a target may be asked for.
    pub enum ScrapeProtocol {
        PrometheusProto = "PrometheusProto",
        PrometheusText0_0_4 = "PrometheusText0.0.4",
        PrometheusText1_0_0 = "PrometheusText1.0.0",
        OpenMetricsText0_0_1 = "OpenMetricsText0.0.1",
        OpenMetricsText1_0_0 = "OpenMetricsText1.0.0",
    }
}

choices! {
    /// How a target shall write names that are not legacy names.
    pub enum EscapingScheme {
        AllowUtf8 = "allow-utf-8",
        Underscores = "underscores",
        Dots = "dots",
        Values = "values",
    }
}
