//! The sections beside the jobs: alerting, remote storage, our own storage, tracing, OTLP and the Go runtime.
//!
//! They are read and checked in full whether or not this build carries them out: a file that works with Prometheus shall
//! load, and one that does not shall be refused.

use crate::Secret;
use crate::decode::{Fields, choices, section};
use crate::discovery::{Discovery, check_static_targets};
use crate::http::{HttpConfig, TlsConfig, check_header};
use crate::units::Size;
use relabel::{NameScheme, Program};
use series::Labels;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

const SECOND: Duration = Duration::from_secs(1);

section! {
    /// Where alerts go.
    pub struct Alerting in "alerting" {
        /// What is done to the labels of an alert before it is sent.
        alert_relabel_configs: Program = Program::default(),
        /// Groups of Alertmanagers. Default: none.
        alertmanagers: Vec<AlertmanagerConfig> = Vec::new(),
    }
}

section! {
    /// A group of Alertmanagers that are found and spoken to alike.
    pub struct AlertmanagerConfig in "alertmanager_config", check = AlertmanagerConfig::check {
        /// http or https. Default http.
        scheme: String = "http".to_owned(),
        /// Before the path of each request. Default `/`.
        path_prefix: String = "/".to_owned(),
        /// Default 10s.
        timeout: Duration = 10 * SECOND,
        /// v2 is the only one.
        api_version: AlertmanagerApi = AlertmanagerApi::V2,
        /// Requests signed for AWS. Default: not signed.
        sigv4: Option<SigV4> = None,
        /// What is done to the labels of a discovered Alertmanager.
        relabel_configs: Program = Program::default(),
        /// What is done to the labels of an alert for this group.
        alert_relabel_configs: Program = Program::default(),
    }
    inline {
        /// How to speak to the other end.
        http: HttpConfig = HttpConfig::default(),
        /// Where the Alertmanagers are found.
        discoveries: Vec<Discovery> = Vec::new(),
    }
}

choices! {
    /// How to speak to an Alertmanager.
    pub enum AlertmanagerApi {
        V2 = "v2",
    }
}

section! {
    /// Where samples are sent.
    pub struct RemoteWrite in "remote_write", check = RemoteWrite::check {
        /// Required.
        url: Option<Url> = None,
        /// Default 30s.
        remote_timeout: Duration = 30 * SECOND,
        /// Headers added to each request.
        headers: Vec<(String, String)> = Vec::new(),
        /// What is done to the labels of a sample, external labels included.
        write_relabel_configs: Program = Program::default(),
        /// Unique. Default: made of the settings.
        name: String = String::new(),
        /// Default false.
        send_exemplars: bool = false,
        /// Default false.
        send_native_histograms: bool = false,
        /// Whether a random address of the host is used. Default false.
        round_robin_dns: bool = false,
        /// Default prometheus.WriteRequest.
        protobuf_message: WriteMessage = WriteMessage::V1,
        /// Whether requests that fail for good are logged at debug level. Default false.
        failed_request_logging: bool = false,
        /// How samples wait.
        queue_config: QueueConfig = QueueConfig::default(),
        /// Significant figures to which values are rounded. 0, the default: they are not. Prometheus has no such field.
        significant_figures: u64 = 0,
        /// Digits behind the point to which values are rounded. 100, the default: they are not. Prometheus has no such field.
        round_digits: i64 = 100,
        /// Endpoints of one group divide the series. Default: each gets all. Prometheus has no such field.
        sharding: Option<Sharding> = None,
        /// How HELP and TYPE are sent.
        metadata_config: MetadataConfig = MetadataConfig::default(),
        /// Requests signed for AWS. Default: not signed.
        sigv4: Option<SigV4> = None,
        /// Credentials of Azure. Default: none.
        azuread: Option<AzureAd> = None,
        /// Credentials of Google's cloud. Default: none.
        google_iam: Option<GoogleIam> = None,
    }
    inline {
        /// How to speak to the other end.
        http: HttpConfig = HttpConfig::without_http2(),
    }
}

choices! {
    /// What a remote-write request holds.
    pub enum WriteMessage {
        V1 = "prometheus.WriteRequest",
        V2 = "io.prometheus.write.v2.Request",
    }
}

section! {
    /// How the endpoints of a group divide the series.
    pub struct Sharding in "sharding", check = Sharding::check {
        /// Required. Endpoints with the same one divide the series.
        group: String = String::new(),
        /// Labels by whose values series are divided. Default: all.
        labels: Vec<String> = Vec::new(),
        /// Labels by which they are not divided. At most one of the two.
        ignore_labels: Vec<String> = Vec::new(),
        /// Endpoints that get a series. Default 1.
        replicas: u64 = 1,
    }
}

impl Sharding {
    fn check(&mut self, fields: &mut Fields) {
        if self.group.is_empty() {
            fields.refuse("group", "sharding without a group; endpoints with the same group divide the series");
        }
        if !self.labels.is_empty() && !self.ignore_labels.is_empty() {
            fields.refuse("ignore_labels", "at most one of labels and ignore_labels can be given; remove one");
        }
        if self.replicas == 0 {
            fields.refuse("replicas", "replicas must be at least 1");
        }
    }

    /// Endpoints of one group that do not agree how to divide, or are too few.
    pub(crate) fn mistake(all: &[RemoteWrite]) -> Option<String> {
        let of_all: Vec<&Sharding> = all.iter().filter_map(|one| one.sharding.as_ref()).collect();
        of_all.iter().find_map(|one| {
            let group = || of_all.iter().filter(|other| other.group == one.group);
            if group().any(|other| other != one) {
                return Some(format!(
                    "endpoints of sharding group {:?} have different settings; make them equal",
                    one.group
                ));
            }
            let count = group().count() as u64;
            let too_few = one.replicas > count;
            too_few
                .then(|| format!("sharding group {:?} has {} replicas and {count} endpoints", one.group, one.replicas))
        })
    }
}

section! {
    /// How samples are queued for an endpoint.
    pub struct QueueConfig in "queue_config", check = QueueConfig::check {
        /// Checked, but without effect: the log is the queue. Default 10000.
        capacity: u64 = 10_000,
        /// The largest number of requests in flight. Default 50.
        max_shards: u64 = 50,
        /// Checked, but without effect: there are as many requests in flight as batches wait. Default 1.
        min_shards: u64 = 1,
        /// Default 2000.
        max_samples_per_send: u64 = 2000,
        /// How long a sample may wait for others. Default 5s.
        batch_send_deadline: Duration = 5 * SECOND,
        /// First delay of a retry; doubled each time. Default 30ms.
        min_backoff: Duration = Duration::from_millis(30),
        /// Default 5s.
        max_backoff: Duration = 5 * SECOND,
        /// Default false.
        retry_on_http_429: bool = false,
        /// Older samples are not sent. Default 0s: all are.
        sample_age_limit: Duration = Duration::ZERO,
    }
}

impl QueueConfig {
    fn check(&mut self, fields: &mut Fields) {
        let counts = [
            ("max_shards", self.max_shards),
            ("min_shards", self.min_shards),
            ("max_samples_per_send", self.max_samples_per_send),
            ("capacity", self.capacity),
        ];
        for (name, _) in counts.iter().filter(|(_, value)| *value == 0) {
            fields.refuse(name, &format!("remote write queue {name} must be positive; write at least 1"));
        }
        if self.min_shards > self.max_shards {
            fields.refuse("min_shards", "remote write queue min_shards must not be greater than max_shards");
        }
        if self.max_backoff < self.min_backoff {
            fields.refuse("max_backoff", "remote write queue max_backoff must not be less than min_backoff");
        }
    }
}

section! {
    /// How HELP and TYPE are sent.
    pub struct MetadataConfig in "metadata_config" {
        /// Default true.
        send: bool = true,
        /// Default 1m.
        send_interval: Duration = 60 * SECOND,
        /// Default 2000.
        max_samples_per_send: u64 = 2000,
    }
}

section! {
    /// Requests signed as AWS wants it.
    pub struct SigV4 in "sigv4", check = SigV4::check {
        /// Default: that of the environment.
        region: String = String::new(),
        /// Default: that of the environment.
        access_key: String = String::new(),
        /// Given if and only if `access_key` is.
        secret_key: Option<Secret> = None,
        /// A named profile of AWS. Default: none.
        profile: String = String::new(),
        /// A role to assume. Default: none.
        role_arn: String = String::new(),
        /// Goes with `role_arn`. Default: none.
        external_id: String = String::new(),
        /// Default false.
        use_fips_sts_endpoint: bool = false,
        /// The service to sign for. Default: that of Prometheus.
        service_name: String = String::new(),
    }
}

section! {
    /// Credentials of Azure.
    pub struct AzureAd in "azuread", check = AzureAd::check {
        /// Default AzurePublic.
        cloud: AzureCloud = AzureCloud::Public,
        /// One of five ways; exactly one is given.
        managed_identity: Option<AzureManagedIdentity> = None,
        /// One of five ways; exactly one is given.
        workload_identity: Option<AzureWorkloadIdentity> = None,
        /// One of five ways; exactly one is given.
        oauth: Option<AzureOAuth> = None,
        /// One of five ways; exactly one is given.
        certificate: Option<AzureCertificate> = None,
        /// One of five ways; exactly one is given.
        sdk: Option<AzureSdk> = None,
        /// What to ask for. Default: by the cloud.
        scope: String = String::new(),
    }
}

choices! {
    /// Which of Microsoft's clouds.
    pub enum AzureCloud {
        Public = "AzurePublic",
        China = "AzureChina",
        Government = "AzureGovernment",
    }
}

section! {
    /// The identity of the machine.
    pub struct AzureManagedIdentity in "managed_identity" {
        /// The application.
        client_id: String = String::new(),
    }
}

section! {
    /// The identity of a Kubernetes service account.
    pub struct AzureWorkloadIdentity in "workload_identity", check = AzureWorkloadIdentity::check {
        /// The application.
        client_id: String = String::new(),
        /// The directory.
        tenant_id: String = String::new(),
        /// The token of the service account. Default: by the environment.
        token_file_path: Option<PathBuf> = None,
    }
}

section! {
    /// A registered application.
    pub struct AzureOAuth in "oauth", check = AzureOAuth::check {
        /// The application.
        client_id: String = String::new(),
        /// Required.
        client_secret: Option<Secret> = None,
        /// The directory.
        tenant_id: String = String::new(),
    }
}

section! {
    /// A registered application with a certificate.
    pub struct AzureCertificate in "certificate", check = AzureCertificate::check {
        /// The application.
        client_id: String = String::new(),
        /// The directory.
        tenant_id: String = String::new(),
        /// Required.
        certificate_path: Option<PathBuf> = None,
        /// Default: the key is in the certificate file.
        certificate_key_path: Option<PathBuf> = None,
        /// Default: none.
        certificate_password: Option<Secret> = None,
        /// Default false.
        send_certificate_chain: bool = false,
    }
}

section! {
    /// Whatever the SDK finds.
    pub struct AzureSdk in "sdk" {
        /// The directory.
        tenant_id: String = String::new(),
    }
}

section! {
    /// Credentials of Google's cloud.
    pub struct GoogleIam in "google_iam" {
        /// Default: those of the environment.
        credentials_file: Option<PathBuf> = None,
    }
}

section! {
    /// Where queries look for what we do not have.
    pub struct RemoteRead in "remote_read", check = RemoteRead::check {
        /// Required.
        url: Option<Url> = None,
        /// Default 1m.
        remote_timeout: Duration = 60 * SECOND,
        /// Bytes of one frame of a streamed answer. Default 50000000.
        chunked_read_limit: u64 = 50_000_000,
        /// Headers added to each request.
        headers: Vec<(String, String)> = Vec::new(),
        /// Whether to ask for what we should have ourselves. Default false.
        read_recent: bool = false,
        /// Unique. Default: made of the settings.
        name: String = String::new(),
        /// Labels that a selector must have. Default: none.
        required_matchers: Labels = Labels::empty(),
        /// Whether external labels are part of the question. Default true.
        filter_external_labels: bool = true,
    }
    inline {
        /// How to speak to the other end.
        http: HttpConfig = HttpConfig::default(),
    }
}

section! {
    /// Settings of the storage that can change while it runs.
    pub struct Storage in "storage" {
        /// The time series database.
        tsdb: Option<TsdbConfig> = None,
        /// The ring of exemplars.
        exemplars: Option<ExemplarsConfig> = None,
    }
}

section! {
    /// Settings of the time series database.
    pub struct TsdbConfig in "tsdb", check = TsdbConfig::check {
        /// How far a sample may lie before the newest. Default 0s.
        out_of_order_time_window: Duration = Duration::ZERO,
        /// Share of stale series at which they leave the memory; 0 to 1. Default 0: never.
        stale_series_compaction_threshold: f64 = 0.0,
        /// How values are packed.
        chunk_encoding: Option<ChunkEncoding> = None,
        /// What is kept.
        retention: Option<Retention> = None,
    }
}

section! {
    /// How values are packed.
    pub struct ChunkEncoding in "chunk_encoding" {
        /// Default xor.
        floats: Option<FloatEncoding> = None,
    }
}

choices! {
    /// How floats are packed.
    pub enum FloatEncoding {
        Xor = "xor",
        Xor2 = "xor2",
    }
}

section! {
    /// What is kept. If nothing is set, 15 days are.
    pub struct Retention in "retention", check = Retention::check {
        /// 0: for ever.
        time: Option<Duration> = None,
        /// Bytes of blocks. 0, the default: no limit.
        size: Size = Size(0),
        /// Percent of the disk. 0, the default: no limit.
        percentage: u64 = 0,
    }
}

section! {
    /// The ring of exemplars.
    pub struct ExemplarsConfig in "exemplars" {
        /// Default 100000.
        max_exemplars: i64 = 100_000,
    }
}

section! {
    /// Traces of ourselves.
    pub struct Tracing in "tracing", check = Tracing::check {
        /// Default grpc.
        client_type: TracingClient = TracingClient::Grpc,
        /// Required, `host:port`.
        endpoint: String = String::new(),
        /// 0 to 1. Default 0.
        sampling_fraction: f64 = 0.0,
        /// Whether to do without TLS. Default false.
        insecure: bool = false,
        /// Headers added to each request.
        headers: Vec<(String, String)> = Vec::new(),
        /// Default: none.
        compression: Option<TracingCompression> = None,
        /// Default 10s.
        timeout: Duration = 10 * SECOND,
        /// TLS of the connection.
        tls_config: TlsConfig = TlsConfig::default(),
    }
}

choices! {
    /// How traces travel.
    pub enum TracingClient {
        Http = "http",
        Grpc = "grpc",
    }
}

choices! {
    /// How traces are packed.
    pub enum TracingCompression {
        Gzip = "gzip",
    }
}

section! {
    /// How OTLP metrics become series.
    pub struct Otlp in "otlp", check = Otlp::check {
        /// Whether all resource attributes become labels. Default false.
        promote_all_resource_attributes: bool = false,
        /// Those that become labels. Default: none.
        promote_resource_attributes: Vec<String> = Vec::new(),
        /// Those that do not, if all others do. Default: none.
        ignore_resource_attributes: Vec<String> = Vec::new(),
        /// Default UnderscoreEscapingWithSuffixes.
        translation_strategy: TranslationStrategy = TranslationStrategy::UnderscoreEscapingWithSuffixes,
        /// Whether `target_info` keeps what became `job` and `instance`. Default false.
        keep_identifying_resource_attributes: bool = false,
        /// Whether histograms become native ones with custom buckets. Default false.
        convert_histograms_to_nhcb: bool = false,
        /// Whether scope metadata becomes labels. Default false.
        promote_scope_metadata: bool = false,
        /// Default true.
        label_name_underscore_sanitization: bool = true,
        /// Default true.
        label_name_preserve_multiple_underscores: bool = true,
    }
}

choices! {
    /// What becomes of names that are not legacy names.
    pub enum TranslationStrategy {
        UnderscoreEscapingWithSuffixes = "UnderscoreEscapingWithSuffixes",
        UnderscoreEscapingWithoutSuffixes = "UnderscoreEscapingWithoutSuffixes",
        NoUtf8EscapingWithSuffixes = "NoUTF8EscapingWithSuffixes",
        NoTranslation = "NoTranslation",
    }
}

section! {
    /// Settings of the Go runtime. There is none here; they are accepted so that a file can serve both.
    pub struct Runtime in "runtime" {
        /// Default 75.
        gogc: i64 = 75,
    }
}

/// Refuses schemes other than `http` and `https`, in any case.
pub(crate) fn check_scheme(fields: &mut Fields, scheme: &str) {
    if !["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
        fields.refuse("scheme", &format!("unknown scheme {scheme:?}; write http or https"));
    }
}

impl AlertmanagerConfig {
    fn check(&mut self, fields: &mut Fields) {
        check_scheme(fields, &self.scheme);
        if self.relabel_configs.is_empty() {
            check_static_targets(fields);
        }
        if self.http.auth_count() > 0 && self.sigv4.is_some() {
            fields.refuse(
                "sigv4",
                "at most one of basic_auth, authorization, oauth2, or sigv4 must be configured; keep one",
            );
        }
    }
}

impl RemoteWrite {
    fn cloud_count(&self) -> usize {
        let clouds = [self.sigv4.is_some(), self.azuread.is_some(), self.google_iam.is_some()];
        clouds.into_iter().filter(|given| *given).count()
    }

    fn check(&mut self, fields: &mut Fields) {
        if !fields.has("url") {
            fields.refuse("url", "url for remote_write is empty; say where samples go");
        }
        for (name, _) in &self.headers {
            check_header(fields, "headers", name);
        }
        if self.cloud_count() + self.http.auth_count() > 1 {
            fields.refuse(
                fields.last_of(&["google_iam", "azuread", "sigv4"]),
                "at most one of basic_auth, authorization, oauth2, sigv4, azuread or google_iam must be configured; keep one",
            );
        }
    }
}

impl SigV4 {
    fn check(&mut self, fields: &mut Fields) {
        if self.access_key.is_empty() != self.secret_key.is_none() {
            fields.refuse(
                fields.last_of(&["access_key", "secret_key"]),
                "must provide a AWS SigV4 access key and secret key if credentials are specified in the config; add the other",
            );
        }
        if !self.external_id.is_empty() && self.role_arn.is_empty() {
            fields.refuse("external_id", "external_id can only be used with role_arn; add role_arn or remove it");
        }
    }
}

impl AzureAd {
    fn check(&mut self, fields: &mut Fields) {
        let ways = [
            self.managed_identity.is_some(),
            self.workload_identity.is_some(),
            self.oauth.is_some(),
            self.certificate.is_some(),
            self.sdk.is_some(),
        ];
        match ways.into_iter().filter(|given| *given).count() {
            0 => fields.refuse(
                "managed_identity",
                "must provide an Azure Managed Identity, Azure Workload Identity, Azure OAuth, Azure Certificate or Azure \
                 SDK in the Azure AD config; add one",
            ),
            1 => {}
            _ => fields.refuse(
                fields.last_of(&["sdk", "certificate", "oauth", "workload_identity"]),
                "cannot provide more than one way to authenticate in the Azure AD config; keep one",
            ),
        }
    }
}

/// Refuses a required text that is empty.
fn require(fields: &Fields, name: &str, is_given: bool) {
    if !is_given {
        fields.refuse(name, &format!("must provide {name} in the Azure AD config; add it"));
    }
}

impl AzureWorkloadIdentity {
    fn check(&mut self, fields: &mut Fields) {
        require(fields, "client_id", !self.client_id.is_empty());
        require(fields, "tenant_id", !self.tenant_id.is_empty());
    }
}

impl AzureOAuth {
    fn check(&mut self, fields: &mut Fields) {
        require(fields, "client_id", !self.client_id.is_empty());
        require(fields, "client_secret", self.client_secret.is_some());
        require(fields, "tenant_id", !self.tenant_id.is_empty());
    }
}

impl AzureCertificate {
    fn check(&mut self, fields: &mut Fields) {
        require(fields, "client_id", !self.client_id.is_empty());
        require(fields, "tenant_id", !self.tenant_id.is_empty());
        require(fields, "certificate_path", self.certificate_path.is_some());
    }
}

impl RemoteRead {
    fn check(&mut self, fields: &mut Fields) {
        if !fields.has("url") {
            fields.refuse("url", "url for remote_read is empty; say where to read from");
        }
        for (name, _) in &self.headers {
            check_header(fields, "headers", name);
        }
    }
}

impl TsdbConfig {
    fn check(&mut self, fields: &mut Fields) {
        if !(0.0..=1.0).contains(&self.stale_series_compaction_threshold) {
            fields.refuse("stale_series_compaction_threshold", "the threshold is a share; write a number from 0 to 1");
        }
    }
}

impl Retention {
    fn check(&mut self, fields: &mut Fields) {
        if self.percentage > 100 {
            fields.refuse(
                "percentage",
                &format!("{} percent of a disk is more than there is; write at most 100", self.percentage),
            );
        }
    }
}

impl Tracing {
    fn check(&mut self, fields: &mut Fields) {
        if self.endpoint.is_empty() {
            fields.refuse("endpoint", "tracing endpoint must be set; write host:port");
        }
        if !(0.0..=1.0).contains(&self.sampling_fraction) {
            fields.refuse("sampling_fraction", "the fraction of traces to keep; write a number from 0 to 1");
        }
        for (name, _) in &self.headers {
            check_header(fields, "headers", name);
        }
    }
}

impl Otlp {
    fn check(&mut self, fields: &mut Fields) {
        let keeps_names = matches!(
            self.translation_strategy,
            TranslationStrategy::NoUtf8EscapingWithSuffixes | TranslationStrategy::NoTranslation
        );
        if keeps_names && fields.cx.scheme.get() == NameScheme::Legacy {
            let strategy = fields.text("translation_strategy").unwrap_or_default().to_owned();
            fields.refuse(
                "translation_strategy",
                &format!("OTLP translation strategy {strategy:?} is not allowed when UTF8 is disabled"),
            );
        }
        if self.promote_all_resource_attributes && !self.promote_resource_attributes.is_empty() {
            fields.refuse(
                "promote_resource_attributes",
                "'promote_all_resource_attributes' and 'promote_resource_attributes' cannot be configured simultaneously; \
                 keep one",
            );
        }
        if !self.promote_all_resource_attributes && !self.ignore_resource_attributes.is_empty() {
            fields.refuse(
                "ignore_resource_attributes",
                "'ignore_resource_attributes' cannot be configured unless 'promote_all_resource_attributes' is true",
            );
        }
        for (name, list) in [
            ("promote_resource_attributes", &mut self.promote_resource_attributes),
            ("ignore_resource_attributes", &mut self.ignore_resource_attributes),
        ] {
            check_attributes(fields, name, list);
        }
    }
}

/// Attribute names lose the blanks around them; then they must be there, and once.
fn check_attributes(fields: &Fields, field: &str, names: &mut [String]) {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        *name = name.trim().to_owned();
        if name.is_empty() {
            fields.refuse(field, "empty OTel resource attribute; name it or remove it");
        } else if !seen.insert(name.clone()) {
            fields.refuse(field, &format!("duplicated OTel resource attribute {name:?}; keep one"));
        }
    }
}
