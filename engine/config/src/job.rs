//! Jobs: read, completed with what the global section says, checked.
//!
//! A limit of 0 in a job inherits the global one, so a job cannot switch a global limit off. Prometheus has it so.

use crate::decode::{Context, Fields, Section, Tree, section};
use crate::discovery::{Discovery, check_static_targets};
use crate::http::HttpConfig;
use crate::sections::check_scheme;
use crate::types::{Config, EscapingScheme, Global, INTERVAL_DEFAULT, ScrapeConfig, ScrapeProtocol, TIMEOUT_DEFAULT};
use crate::units::{Size, format_duration};
use crate::yaml::Node;
use relabel::{NameScheme, Program};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

section! {
    /// A job as a file says it; zero, empty and `None` mean that the file says nothing.
    pub struct JobFields in "scrape_config" {
        job_name: String = String::new(),
        scrape_interval: Duration = Duration::ZERO,
        scrape_timeout: Duration = Duration::ZERO,
        scrape_protocols: Vec<ScrapeProtocol> = Vec::new(),
        fallback_scrape_protocol: Option<ScrapeProtocol> = None,
        scrape_native_histograms: Option<bool> = None,
        always_scrape_classic_histograms: Option<bool> = None,
        convert_classic_histograms_to_nhcb: Option<bool> = None,
        extra_scrape_metrics: Option<bool> = None,
        honor_labels: bool = false,
        honor_timestamps: bool = true,
        track_timestamps_staleness: bool = false,
        params: Vec<(String, Vec<String>)> = Vec::new(),
        metrics_path: String = "/metrics".to_owned(),
        scheme: String = "http".to_owned(),
        enable_compression: bool = true,
        scrape_failure_log_file: Option<PathBuf> = None,
        body_size_limit: Size = Size(0),
        sample_limit: u64 = 0,
        target_limit: u64 = 0,
        label_limit: u64 = 0,
        label_name_length_limit: u64 = 0,
        label_value_length_limit: u64 = 0,
        native_histogram_bucket_limit: u64 = 0,
        native_histogram_min_bucket_factor: f64 = 0.0,
        keep_dropped_targets: u64 = 0,
        metric_name_validation_scheme: Option<NameScheme> = None,
        metric_name_escaping_scheme: Option<EscapingScheme> = None,
    }
    inline {
        http: HttpConfig = HttpConfig::default(),
        relabelling: Relabelling = Relabelling::default(),
        discoveries: Vec<Discovery> = Vec::new(),
    }
}

section! {
    /// The rules of a job; they stand behind the settings of the client.
    pub struct Relabelling in "scrape_config" {
        relabel_configs: Program = Program::default(),
        metric_relabel_configs: Program = Program::default(),
    }
}

/// What a job or the global section says of the name scheme: rules and labels beside it are read by it.
pub(crate) fn name_scheme(fields: &Fields, default: NameScheme) -> NameScheme {
    match fields.text("metric_name_validation_scheme") {
        Some("legacy") => NameScheme::Legacy,
        Some("utf8") => NameScheme::Utf8,
        _ => default,
    }
}

impl Global {
    /// Completes what depends on other fields.
    pub(crate) fn check(&mut self, fields: &mut Fields) {
        check_protocols(fields, &self.scrape_protocols);
        check_escaping(fields, self.metric_name_escaping_scheme, self.metric_name_validation_scheme);
        if self.scrape_interval.is_zero() {
            self.scrape_interval = INTERVAL_DEFAULT;
        }
        if self.evaluation_interval.is_zero() {
            self.evaluation_interval = INTERVAL_DEFAULT;
        }
        check_timeout(fields, "global scrape timeout", self.scrape_timeout, self.scrape_interval);
        if self.scrape_timeout.is_zero() {
            self.scrape_timeout = TIMEOUT_DEFAULT.min(self.scrape_interval);
        }
    }

    /// The global section of a file that has none.
    pub(crate) fn absent() -> Global {
        let intervals = (INTERVAL_DEFAULT, TIMEOUT_DEFAULT);
        Global {
            scrape_interval: intervals.0,
            evaluation_interval: intervals.0,
            scrape_timeout: intervals.1,
            ..Global::default()
        }
    }
}

impl ScrapeConfig {
    /// Reads one job. Refusals are in `cx`; the value is complete even if there were some.
    pub(crate) fn read(node: &Node, global: &Global, cx: &Context) -> Option<ScrapeConfig> {
        let mut fields = Fields::of(node, cx, "scrape_config")?;
        cx.scheme.set(name_scheme(&fields, global.metric_name_validation_scheme));
        let mut job = JobFields::default();
        job.read_fields(&mut fields);
        if job.job_name.is_empty() {
            fields.refuse("job_name", "job_name is empty; give the job a name");
        }
        check_scheme(&mut fields, &job.scheme);
        check_protocols(&fields, &job.scrape_protocols);
        if job.relabelling.relabel_configs.is_empty() {
            check_static_targets(&mut fields);
        }
        let job = job.inherit(global, &fields);
        fields.finish("scrape_config");
        cx.scheme.set(global.metric_name_validation_scheme);
        Some(job)
    }

    /// The job as a file would say it, nothing left to inherit, secrets hidden.
    pub fn to_yaml(&self) -> String {
        crate::tree::print(&self.to_tree())
    }

    pub(crate) fn to_tree(&self) -> Tree {
        let job = JobFields {
            job_name: self.job_name.clone(),
            scrape_interval: self.scrape_interval,
            scrape_timeout: self.scrape_timeout,
            scrape_protocols: self.scrape_protocols.clone(),
            fallback_scrape_protocol: self.fallback_scrape_protocol,
            scrape_native_histograms: Some(self.scrape_native_histograms),
            always_scrape_classic_histograms: Some(self.always_scrape_classic_histograms),
            convert_classic_histograms_to_nhcb: Some(self.convert_classic_histograms_to_nhcb),
            extra_scrape_metrics: Some(self.extra_scrape_metrics),
            honor_labels: self.honor_labels,
            honor_timestamps: self.honor_timestamps,
            track_timestamps_staleness: self.track_timestamps_staleness,
            params: self.params.clone(),
            metrics_path: self.metrics_path.clone(),
            scheme: self.scheme.clone(),
            enable_compression: self.enable_compression,
            scrape_failure_log_file: self.scrape_failure_log_file.clone(),
            body_size_limit: Size(self.body_size_limit),
            sample_limit: self.sample_limit,
            target_limit: self.target_limit,
            label_limit: self.label_limit,
            label_name_length_limit: self.label_name_length_limit,
            label_value_length_limit: self.label_value_length_limit,
            native_histogram_bucket_limit: self.native_histogram_bucket_limit,
            native_histogram_min_bucket_factor: self.native_histogram_min_bucket_factor,
            keep_dropped_targets: self.keep_dropped_targets,
            metric_name_validation_scheme: Some(self.metric_name_validation_scheme),
            metric_name_escaping_scheme: Some(self.metric_name_escaping_scheme),
            http: self.http.clone(),
            relabelling: Relabelling {
                relabel_configs: self.relabel_configs.clone(),
                metric_relabel_configs: self.metric_relabel_configs.clone(),
            },
            discoveries: self.discoveries.clone(),
        };
        let mut out = Vec::new();
        job.write_fields(&mut out);
        Tree::Map(out)
    }
}

impl JobFields {
    fn inherit(self, global: &Global, fields: &Fields) -> ScrapeConfig {
        let limit = |own: u64, inherited: u64| if own == 0 { inherited } else { own };
        let interval = if self.scrape_interval.is_zero() { global.scrape_interval } else { self.scrape_interval };
        check_timeout(fields, "scrape timeout", self.scrape_timeout, interval);
        let timeout =
            if self.scrape_timeout.is_zero() { global.scrape_timeout.min(interval) } else { self.scrape_timeout };
        let native = self.scrape_native_histograms.unwrap_or(global.scrape_native_histograms);
        let names = self.metric_name_validation_scheme.unwrap_or(global.metric_name_validation_scheme);
        let escaping = self.metric_name_escaping_scheme.or(global.metric_name_escaping_scheme);
        check_escaping(fields, escaping, names);
        let default_escaping = match names {
            NameScheme::Utf8 => EscapingScheme::AllowUtf8,
            NameScheme::Legacy => EscapingScheme::Underscores,
        };
        let protocols = [self.scrape_protocols, global.scrape_protocols.clone(), default_protocols(native)];
        ScrapeConfig {
            job_name: self.job_name,
            honor_labels: self.honor_labels,
            honor_timestamps: self.honor_timestamps,
            track_timestamps_staleness: self.track_timestamps_staleness,
            params: self.params,
            scrape_interval: interval,
            scrape_timeout: timeout,
            scrape_protocols: protocols.into_iter().find(|list| !list.is_empty()).expect("the default is not empty"),
            fallback_scrape_protocol: self.fallback_scrape_protocol,
            metrics_path: self.metrics_path,
            scheme: self.scheme,
            enable_compression: self.enable_compression,
            scrape_failure_log_file: self.scrape_failure_log_file.or_else(|| global.scrape_failure_log_file.clone()),
            body_size_limit: limit(self.body_size_limit.0, global.body_size_limit.0),
            sample_limit: limit(self.sample_limit, global.sample_limit),
            target_limit: limit(self.target_limit, global.target_limit),
            label_limit: limit(self.label_limit, global.label_limit),
            label_name_length_limit: limit(self.label_name_length_limit, global.label_name_length_limit),
            label_value_length_limit: limit(self.label_value_length_limit, global.label_value_length_limit),
            native_histogram_bucket_limit: self.native_histogram_bucket_limit,
            native_histogram_min_bucket_factor: self.native_histogram_min_bucket_factor,
            keep_dropped_targets: limit(self.keep_dropped_targets, global.keep_dropped_targets),
            metric_name_validation_scheme: names,
            metric_name_escaping_scheme: escaping.unwrap_or(default_escaping),
            scrape_native_histograms: native,
            convert_classic_histograms_to_nhcb: self
                .convert_classic_histograms_to_nhcb
                .unwrap_or(global.convert_classic_histograms_to_nhcb),
            always_scrape_classic_histograms: self
                .always_scrape_classic_histograms
                .unwrap_or(global.always_scrape_classic_histograms),
            extra_scrape_metrics: self.extra_scrape_metrics.unwrap_or(global.extra_scrape_metrics),
            relabel_configs: self.relabelling.relabel_configs,
            metric_relabel_configs: self.relabelling.metric_relabel_configs,
            http: self.http,
            discoveries: self.discoveries,
        }
    }
}

/// What to ask for if no file says.
fn default_protocols(native_histograms: bool) -> Vec<ScrapeProtocol> {
    use ScrapeProtocol::*;
    let text = [OpenMetricsText1_0_0, OpenMetricsText0_0_1, PrometheusText1_0_0, PrometheusText0_0_4];
    native_histograms.then_some(PrometheusProto).into_iter().chain(text).collect()
}

impl Config {
    /// Asks targets for protobuf before all else, where the configuration does not say what to ask for: some features make
    /// this the default. A list that is the default one counts as none.
    pub fn request_protobuf_first(&mut self) {
        let default = default_protocols(false);
        for job in self.scrape_configs.iter_mut().filter(|job| job.scrape_protocols == default) {
            Arc::make_mut(job).scrape_protocols = default_protocols(true);
        }
    }
}

fn check_timeout(fields: &Fields, what: &str, timeout: Duration, interval: Duration) {
    if timeout > interval {
        let (timeout, interval) = (format_duration(timeout), format_duration(interval));
        let message = format!(
            "{what} greater than scrape interval: {timeout} is longer than the scrape_interval {interval}; lower the \
             timeout or raise the interval"
        );
        fields.refuse("scrape_timeout", &message);
    }
}

fn check_protocols(fields: &Fields, protocols: &[ScrapeProtocol]) {
    if protocols.is_empty() && fields.has("scrape_protocols") {
        fields.refuse("scrape_protocols", "scrape_protocols cannot be empty; name one or remove the field");
    }
    for (index, protocol) in protocols.iter().enumerate() {
        if protocols[..index].contains(protocol) {
            let message = format!("duplicated protocol in scrape_protocols: {protocol}; keep one");
            fields.refuse("scrape_protocols", &message);
        }
    }
}

fn check_escaping(fields: &Fields, escaping: Option<EscapingScheme>, names: NameScheme) {
    if escaping == Some(EscapingScheme::AllowUtf8) && names == NameScheme::Legacy {
        fields.refuse(
            fields.last_of(&["metric_name_escaping_scheme", "metric_name_validation_scheme"]),
            "utf8 metric names requested but validation scheme is not set to UTF8; choose underscores, dots or values",
        );
    }
}
