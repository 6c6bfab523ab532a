//! Where targets come from. The mechanisms that matter most on bare metal have types; of the others we check the names
//! and kinds of their fields, so that a typing error shows today and not on the day they are carried out.

use crate::decode::{Context, Fields, Section, Step, Tree, Value, choices, section};
use crate::http::{HttpConfig, TlsConfig};
use crate::yaml::{Kind, Node};
use crate::{ConfigError, ConfigErrors, Secret};
use relabel::NameScheme;
use series::Labels;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

const SECOND: Duration = Duration::from_secs(1);

/// One source of targets.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there are few per job, and they are built once per reload")]
pub enum Discovery {
    /// All groups of a job's `static_configs`.
    Static(Vec<TargetGroup>),
    /// `file_sd_configs`
    File(FileSdConfig),
    /// `http_sd_configs`
    Http(HttpSdConfig),
    /// `dns_sd_configs`
    Dns(DnsSdConfig),
    /// `consul_sd_configs`
    Consul(ConsulSdConfig),
    /// `kubernetes_sd_configs`
    Kubernetes(KubernetesSdConfig),
    /// `docker_sd_configs`
    Docker(DockerSdConfig),
    /// Any other of Prometheus' mechanisms.
    Other(OtherSdConfig),
}

section! {
    /// Targets that share labels.
    pub struct TargetGroup in "static_config" {
        /// Addresses as `host:port`.
        targets: Vec<String> = Vec::new(),
        /// Set on all of them unless the target has its own.
        labels: Labels = Labels::empty(),
    }
}

section! {
    /// Files with target groups in JSON or YAML.
    pub struct FileSdConfig in "file_sd_config", check = FileSdConfig::check {
        /// Absolute paths; the last part may hold one `*`.
        files: Vec<PathBuf> = Vec::new(),
        /// How often the files are read again whether or not they seem to have changed. Default 5m.
        refresh_interval: Duration = 300 * SECOND,
    }
}

section! {
    /// A service that answers with target groups in JSON.
    pub struct HttpSdConfig in "http_sd_config", check = HttpSdConfig::check {
        /// Required, http or https.
        url: Option<Url> = None,
        /// Default 1m.
        refresh_interval: Duration = 60 * SECOND,
    }
    inline {
        /// How to speak to the service.
        http: HttpConfig = HttpConfig::default(),
    }
}

section! {
    /// Names to look up.
    pub struct DnsSdConfig in "dns_sd_config", check = DnsSdConfig::check {
        /// At least one.
        names: Vec<String> = Vec::new(),
        /// Default SRV.
        r#type: DnsType = DnsType::Srv,
        /// The port of the targets; required unless the type is SRV.
        port: u64 = 0,
        /// Default 30s.
        refresh_interval: Duration = 30 * SECOND,
    }
}

choices! {
    /// A kind of DNS record. Its name may be written in any case.
    pub enum DnsType, any_case {
        Srv = "SRV",
        A = "A",
        Aaaa = "AAAA",
        Mx = "MX",
        Ns = "NS",
    }
}

section! {
    /// Services of a Consul catalogue.
    pub struct ConsulSdConfig in "consul_sd_config", check = ConsulSdConfig::check {
        /// Default localhost:8500.
        server: String = "localhost:8500".to_owned(),
        /// Before the path of each request. Default: nothing.
        path_prefix: String = String::new(),
        /// For the ACLs of Consul. Default: none.
        token: Option<Secret> = None,
        /// Default: that of the agent.
        datacenter: String = String::new(),
        /// Enterprise only. Default: none.
        namespace: String = String::new(),
        /// Enterprise only. Default: none.
        partition: String = String::new(),
        /// Joins the tags to one label. Default `,`.
        tag_separator: String = ",".to_owned(),
        /// Default http.
        scheme: String = "http".to_owned(),
        /// The old way of basic_auth.
        username: String = String::new(),
        /// The old way of basic_auth.
        password: Option<Secret> = None,
        /// Whether any server may answer. Default true.
        allow_stale: bool = true,
        /// Default 30s.
        refresh_interval: Duration = 30 * SECOND,
        /// Default: all.
        services: Vec<String> = Vec::new(),
        /// Tags that a service must have, all of them.
        tags: Vec<String> = Vec::new(),
        /// Metadata that a node must have.
        node_meta: Vec<(String, String)> = Vec::new(),
        /// Expression for the catalogue.
        filter: String = String::new(),
        /// Expression for the health service.
        health_filter: String = String::new(),
    }
    inline {
        /// How to speak to the service.
        http: HttpConfig = HttpConfig::default(),
    }
}

section! {
    /// Objects of a Kubernetes cluster.
    pub struct KubernetesSdConfig in "kubernetes_sd_config", check = KubernetesSdConfig::check {
        /// Default: the cluster that we run in.
        api_server: Option<Url> = None,
        /// Required.
        role: Option<KubernetesRole> = None,
        /// Instead of `api_server` and the client's settings.
        kubeconfig_file: Option<PathBuf> = None,
        /// Where to look. Default: everywhere.
        namespaces: KubernetesNamespaces = KubernetesNamespaces::default(),
        /// Narrow what is watched. Default: nothing is narrowed.
        selectors: Vec<KubernetesSelector> = Vec::new(),
        /// What else to tell about a target. Default: nothing.
        attach_metadata: KubernetesMetadata = KubernetesMetadata::default(),
    }
    inline {
        /// How to speak to the service.
        http: HttpConfig = HttpConfig::default(),
    }
}

choices! {
    /// What becomes a target.
    pub enum KubernetesRole {
        Node = "node",
        Pod = "pod",
        Service = "service",
        Endpoints = "endpoints",
        EndpointSlice = "endpointslice",
        Ingress = "ingress",
    }
}

section! {
    /// Default: all namespaces.
    pub struct KubernetesNamespaces in "namespaces" {
        /// Whether that which we run in is one of them.
        own_namespace: bool = false,
        /// Default: all.
        names: Vec<String> = Vec::new(),
    }
}

section! {
    /// Limits what the API server sends.
    pub struct KubernetesSelector in "selectors", check = KubernetesSelector::check {
        /// Which objects it narrows. Required.
        role: Option<KubernetesRole> = None,
        /// Selector of labels. Default: any.
        label: String = String::new(),
        /// Selector of fields. Default: any.
        field: String = String::new(),
    }
}

section! {
    /// What else to tell about a target; all default to false.
    pub struct KubernetesMetadata in "attach_metadata" {
        /// Of the node that a pod runs on.
        node: bool = false,
        /// Enterprise only. Default: none.
        namespace: bool = false,
        /// Of the deployment of a pod.
        deployment: bool = false,
        /// Of the job of a pod.
        job: bool = false,
        /// Of the cron job of a pod.
        cronjob: bool = false,
    }
}

section! {
    /// Containers of a Docker daemon.
    pub struct DockerSdConfig in "docker_sd_config", check = DockerSdConfig::check {
        /// Required: `unix:///var/run/docker.sock` or a TCP address.
        host: String = String::new(),
        /// Port for containers that publish none. Default 80.
        port: u64 = 80,
        /// Narrow what the service sends. Default: nothing is narrowed.
        filters: Vec<SdFilter> = Vec::new(),
        /// The host of containers that use the host's network. Default localhost.
        host_networking_host: String = "localhost".to_owned(),
        /// Whether only the first network of a container counts. Default true.
        match_first_network: bool = true,
        /// Default 1m.
        refresh_interval: Duration = 60 * SECOND,
    }
    inline {
        /// How to speak to the service.
        http: HttpConfig = HttpConfig::default(),
    }
}

section! {
    /// Limits what a service sends, in its own terms.
    pub struct SdFilter in "filters" {
        /// What is filtered by.
        name: String = String::new(),
        /// Any of these will do.
        values: Vec<String> = Vec::new(),
    }
}

/// A mechanism that we know by name and fields only.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherSdConfig {
    /// Its name, such as `nomad`.
    pub kind: &'static str,
    /// The fields that the file gave, in the order of Prometheus' manual.
    pub fields: Vec<(&'static str, OtherValue)>,
    /// Settings of its HTTP client, where it has one.
    pub http: HttpConfig,
}

/// The value of a field of a mechanism that we know by name only.
#[derive(Clone, Debug, PartialEq)]
pub enum OtherValue {
    Text(String),
    Number(u64),
    Flag(bool),
    Duration(Duration),
    Secret(Secret),
    Texts(Vec<String>),
    Filters(Vec<SdFilter>),
    Tls(TlsConfig),
}

/// What kind of value a field takes. An upper-case letter marks a field that must be given.
///
/// t text, s secret, n number, b boolean, d duration, l list of texts, f filters, c TLS
type FieldKinds = &'static [(&'static str, char)];

/// How a mechanism is called, whether HTTP client settings stand beside its fields, and its fields.
struct OtherKind {
    name: &'static str,
    section: &'static str,
    has_http: bool,
    fields: FieldKinds,
}

const fn other(name: &'static str, section: &'static str, has_http: bool, fields: FieldKinds) -> OtherKind {
    OtherKind { name, section, has_http, fields }
}

const AWS: FieldKinds = &[
    ("role", 'T'),
    ("region", 't'),
    ("endpoint", 't'),
    ("access_key", 't'),
    ("secret_key", 's'),
    ("profile", 't'),
    ("role_arn", 't'),
    ("external_id", 't'),
    ("refresh_interval", 'd'),
    ("port", 'n'),
    ("filters", 'f'),
    ("clusters", 'l'),
    ("request_concurrency", 'n'),
];

const EC2: FieldKinds = &[
    ("region", 't'),
    ("endpoint", 't'),
    ("access_key", 't'),
    ("secret_key", 's'),
    ("profile", 't'),
    ("role_arn", 't'),
    ("external_id", 't'),
    ("refresh_interval", 'd'),
    ("port", 'n'),
    ("filters", 'f'),
];

const AZURE: FieldKinds = &[
    ("environment", 't'),
    ("authentication_method", 't'),
    ("subscription_id", 'T'),
    ("tenant_id", 't'),
    ("client_id", 't'),
    ("client_secret", 's'),
    ("resource_group", 't'),
    ("refresh_interval", 'd'),
    ("port", 'n'),
];

const OPENSTACK: FieldKinds = &[
    ("role", 'T'),
    ("region", 'T'),
    ("identity_endpoint", 't'),
    ("username", 't'),
    ("userid", 't'),
    ("password", 's'),
    ("domain_name", 't'),
    ("domain_id", 't'),
    ("project_name", 't'),
    ("project_id", 't'),
    ("application_credential_name", 't'),
    ("application_credential_id", 't'),
    ("application_credential_secret", 's'),
    ("all_tenants", 'b'),
    ("refresh_interval", 'd'),
    ("port", 'n'),
    ("availability", 't'),
    ("tls_config", 'c'),
];

const OCI: FieldKinds = &[
    ("auth", 't'),
    ("tenancy", 't'),
    ("user", 't'),
    ("fingerprint", 't'),
    ("key_file", 't'),
    ("key_passphrase", 's'),
    ("key_passphrase_file", 't'),
    ("region", 'T'),
    ("compartments", 'l'),
    ("port", 'n'),
    ("refresh_interval", 'd'),
];

const STACKIT: FieldKinds = &[
    ("project", 'T'),
    ("region", 't'),
    ("endpoint", 't'),
    ("port", 'n'),
    ("private_key", 's'),
    ("private_key_path", 't'),
    ("service_account_key", 's'),
    ("service_account_key_path", 't'),
    ("credentials_file_path", 't'),
    ("refresh_interval", 'd'),
];

const SCALEWAY: FieldKinds = &[
    ("access_key", 'T'),
    ("secret_key", 's'),
    ("secret_key_file", 't'),
    ("project_id", 'T'),
    ("role", 'T'),
    ("port", 'n'),
    ("api_url", 't'),
    ("zone", 't'),
    ("name_filter", 't'),
    ("tags_filter", 'l'),
    ("refresh_interval", 'd'),
];

/// Kinds of Prometheus 3.14 other than those with a type of their own, in the order of their names.
const OTHERS: &[OtherKind] = &[
    other("aws", "aws_sd_configs", true, AWS),
    other("azure", "azure_sd_configs", true, AZURE),
    other("digitalocean", "digitalocean_sd_configs", true, &[("role", 't'), ("port", 'n'), ("refresh_interval", 'd')]),
    other(
        "dockerswarm",
        "dockerswarm_sd_configs",
        true,
        &[("host", 'T'), ("role", 'T'), ("port", 'n'), ("filters", 'f'), ("refresh_interval", 'd')],
    ),
    other("ec2", "ec2_sd_configs", true, EC2),
    other("eureka", "eureka_sd_configs", true, &[("server", 'T'), ("refresh_interval", 'd')]),
    other(
        "gce",
        "gce_sd_configs",
        false,
        &[
            ("project", 'T'),
            ("zone", 'T'),
            ("filter", 't'),
            ("refresh_interval", 'd'),
            ("port", 'n'),
            ("tag_separator", 't'),
        ],
    ),
    other(
        "hetzner",
        "hetzner_sd_configs",
        true,
        &[("role", 'T'), ("port", 'n'), ("refresh_interval", 'd'), ("label_selector", 't')],
    ),
    other("ionos", "ionos_sd_configs", true, &[("datacenter_id", 'T'), ("port", 'n'), ("refresh_interval", 'd')]),
    other(
        "kuma",
        "kuma_sd_configs",
        true,
        &[("server", 'T'), ("client_id", 't'), ("refresh_interval", 'd'), ("fetch_timeout", 'd')],
    ),
    other("lightsail", "lightsail_sd_configs", true, EC2),
    other(
        "linode",
        "linode_sd_configs",
        true,
        &[("region", 't'), ("port", 'n'), ("tag_separator", 't'), ("refresh_interval", 'd')],
    ),
    other(
        "marathon",
        "marathon_sd_configs",
        true,
        &[("servers", 'L'), ("refresh_interval", 'd'), ("auth_token", 's'), ("auth_token_file", 't')],
    ),
    other("nerve", "nerve_sd_configs", false, &[("servers", 'L'), ("paths", 'L'), ("timeout", 'd')]),
    other(
        "nomad",
        "nomad_sd_configs",
        true,
        &[
            ("allow_stale", 'b'),
            ("namespace", 't'),
            ("refresh_interval", 'd'),
            ("region", 't'),
            ("server", 'T'),
            ("tag_separator", 't'),
        ],
    ),
    other("oci", "oci_sd_configs", true, OCI),
    other("openstack", "openstack_sd_configs", false, OPENSTACK),
    other(
        "outscale",
        "outscale_sd_configs",
        true,
        &[
            ("region", 't'),
            ("access_key", 'T'),
            ("secret_key", 's'),
            ("secret_key_file", 't'),
            ("endpoint", 't'),
            ("port", 'n'),
            ("refresh_interval", 'd'),
        ],
    ),
    other(
        "ovhcloud",
        "ovhcloud_sd_configs",
        false,
        &[
            ("application_key", 'T'),
            ("application_secret", 'S'),
            ("consumer_key", 'S'),
            ("service", 'T'),
            ("endpoint", 't'),
            ("refresh_interval", 'd'),
        ],
    ),
    other(
        "puppetdb",
        "puppetdb_sd_configs",
        true,
        &[("url", 'T'), ("query", 'T'), ("include_parameters", 'b'), ("refresh_interval", 'd'), ("port", 'n')],
    ),
    other("scaleway", "scaleway_sd_configs", true, SCALEWAY),
    other("serverset", "serverset_sd_configs", false, &[("servers", 'L'), ("paths", 'L'), ("timeout", 'd')]),
    other("stackit", "stackit_sd_configs", true, STACKIT),
    other(
        "triton",
        "triton_sd_configs",
        false,
        &[
            ("account", 'T'),
            ("role", 't'),
            ("dns_suffix", 'T'),
            ("endpoint", 'T'),
            ("groups", 'l'),
            ("port", 'n'),
            ("refresh_interval", 'd'),
            ("version", 'n'),
            ("tls_config", 'c'),
        ],
    ),
    other(
        "uyuni",
        "uyuni_sd_configs",
        true,
        &[
            ("server", 'T'),
            ("username", 'T'),
            ("password", 'S'),
            ("entitlement", 't'),
            ("separator", 't'),
            ("refresh_interval", 'd'),
        ],
    ),
    other(
        "vultr",
        "vultr_sd_configs",
        true,
        &[
            ("port", 'n'),
            ("refresh_interval", 'd'),
            ("region", 't'),
            ("label", 't'),
            ("firewall_group_id", 't'),
            ("hostname", 't'),
        ],
    ),
];

impl Discovery {
    /// The name of the mechanism: `static`, `file`, `http` and so on.
    pub fn kind(&self) -> &'static str {
        match self {
            Discovery::Static(_) => "static",
            Discovery::File(_) => "file",
            Discovery::Http(_) => "http",
            Discovery::Dns(_) => "dns",
            Discovery::Consul(_) => "consul",
            Discovery::Kubernetes(_) => "kubernetes",
            Discovery::Docker(_) => "docker",
            Discovery::Other(other) => other.kind,
        }
    }

    fn write(&self) -> Tree {
        match self {
            Discovery::Static(groups) => groups.write(),
            Discovery::File(config) => config.write(),
            Discovery::Http(config) => config.write(),
            Discovery::Dns(config) => config.write(),
            Discovery::Consul(config) => config.write(),
            Discovery::Kubernetes(config) => config.write(),
            Discovery::Docker(config) => config.write(),
            Discovery::Other(config) => config.write(),
        }
    }
}

/// All `*_sd_configs` and `static_configs` of a mapping.
impl Section for Vec<Discovery> {
    fn read_fields(&mut self, fields: &mut Fields) {
        fn each<T: Value>(fields: &mut Fields, name: &'static str) -> Vec<T> {
            fields.take(name).unwrap_or_default()
        }
        let groups: Vec<TargetGroup> = each(fields, "static_configs");
        if !groups.is_empty() {
            self.push(Discovery::Static(groups));
        }
        self.extend(each(fields, "file_sd_configs").into_iter().map(Discovery::File));
        self.extend(each(fields, "http_sd_configs").into_iter().map(Discovery::Http));
        self.extend(each(fields, "dns_sd_configs").into_iter().map(Discovery::Dns));
        self.extend(each(fields, "consul_sd_configs").into_iter().map(Discovery::Consul));
        self.extend(each(fields, "kubernetes_sd_configs").into_iter().map(Discovery::Kubernetes));
        self.extend(each(fields, "docker_sd_configs").into_iter().map(Discovery::Docker));
        for kind in OTHERS {
            let Some(node) = fields.take_node(kind.section) else { continue };
            let cx = fields.cx;
            cx.within(Step::Key(kind.section), || match &node.kind {
                Kind::Null => {}
                Kind::List(items) => {
                    for (index, item) in items.iter().enumerate() {
                        let read = || OtherSdConfig::read(kind, item, cx);
                        self.extend(cx.within(Step::Index(index), read).map(Discovery::Other));
                    }
                }
                _ => cx.refuse(node.mark, format!("cannot unmarshal {} into a list; write `- `", node.tag())),
            });
        }
    }

    fn write_fields(&self, out: &mut Vec<(String, Tree)>) {
        for discovery in self {
            let (name, items) = match (discovery, discovery.write()) {
                (Discovery::Static(_), Tree::List(groups)) => ("static_configs".to_owned(), groups),
                (_, item) => (format!("{}_sd_configs", discovery.kind()), vec![item]),
            };
            match out.iter_mut().find(|(key, _)| *key == name) {
                Some((_, Tree::List(list))) => list.extend(items),
                _ => out.push((name, Tree::List(items))),
            }
        }
    }
}

impl OtherSdConfig {
    fn read(kind: &OtherKind, node: &Node, cx: &Context) -> Option<OtherSdConfig> {
        if matches!(node.kind, Kind::Null) {
            cx.refuse(node.mark, "empty or null item in a list; remove the dash or write the item");
            return None;
        }
        let mut fields = Fields::of(node, cx, kind.section)?;
        let mut values = Vec::new();
        for (name, letter) in kind.fields {
            let value = match letter.to_ascii_lowercase() {
                'n' => fields.take(name).map(OtherValue::Number),
                'b' => fields.take(name).map(OtherValue::Flag),
                'd' => fields.take(name).map(OtherValue::Duration),
                's' => fields.take(name).map(OtherValue::Secret),
                'l' => fields.take(name).map(OtherValue::Texts),
                'f' => fields.take(name).map(OtherValue::Filters),
                'c' => fields.take(name).map(OtherValue::Tls),
                _ => fields.take(name).map(OtherValue::Text),
            };
            if letter.is_ascii_uppercase() && !fields.has(name) {
                fields.refuse(name, &format!("{} SD configuration requires a {name}; add it", kind.name));
            }
            values.extend(value.map(|value| (*name, value)));
        }
        let mut http = HttpConfig::default();
        if kind.has_http {
            http.read_fields(&mut fields);
        }
        fields.finish(kind.section);
        Some(OtherSdConfig { kind: kind.name, fields: values, http })
    }

    fn write(&self) -> Tree {
        let value = |value: &OtherValue| match value {
            OtherValue::Text(text) => text.write(),
            OtherValue::Number(number) => number.write(),
            OtherValue::Flag(flag) => flag.write(),
            OtherValue::Duration(duration) => duration.write(),
            OtherValue::Secret(secret) => secret.write(),
            OtherValue::Texts(texts) => texts.write(),
            OtherValue::Filters(filters) => filters.write(),
            OtherValue::Tls(tls) => tls.write(),
        };
        let mut out: Vec<_> = self.fields.iter().map(|(name, field)| ((*name).to_owned(), value(field))).collect();
        if OTHERS.iter().any(|kind| kind.name == self.kind && kind.has_http) {
            self.http.write_fields(&mut out);
        }
        Tree::Map(out)
    }
}

/// Refuses URLs among static targets, for sections in which no relabelling could make addresses of them.
pub(crate) fn check_static_targets(fields: &mut Fields) {
    let Some(Kind::List(groups)) = fields.take_node("static_configs").map(|node| &node.kind) else { return };
    let cx = fields.cx;
    for (group_index, group) in groups.iter().enumerate() {
        let Kind::Map(entries) = &group.kind else { continue };
        let targets = entries.iter().find(|(key, _)| key.text() == Some("targets")).map(|(_, node)| &node.kind);
        let Some(Kind::List(targets)) = targets else { continue };
        for (index, target) in targets.iter().enumerate() {
            let Some(address) = target.text().filter(|address| address.contains('/')) else { continue };
            let message = format!(
                "{address:?} is not a valid hostname; write host:port and set scheme and metrics_path for the job"
            );
            let refuse = || cx.within(Step::Index(index), || cx.refuse(target.mark, message));
            let refuse = || cx.within(Step::Key("targets"), refuse);
            cx.within(Step::Key("static_configs"), || cx.within(Step::Index(group_index), refuse));
        }
    }
}

impl FileSdConfig {
    fn check(&mut self, fields: &mut Fields) {
        if self.files.is_empty() {
            fields.refuse("files", "file service discovery config must contain at least one path name; add one");
        }
        for file in &self.files {
            if !is_file_pattern(file) {
                fields.refuse(
                    "files",
                    &format!(
                        "path name {:?} is not valid for file discovery; it must end in .json, .yml or .yaml and may \
                         have one `*` in its last part",
                        file.display().to_string()
                    ),
                );
            }
        }
    }
}

fn is_file_pattern(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let has_ending = [".json", ".yml", ".yaml", ".JSON", ".YML", ".YAML"].iter().any(|ending| name.ends_with(ending));
    has_ending && !path.parent().is_some_and(|p| p.to_string_lossy().contains('*'))
}

impl HttpSdConfig {
    fn check(&mut self, fields: &mut Fields) {
        match &self.url {
            None if !fields.has("url") => fields.refuse("url", "URL is missing; say where the targets are to be had"),
            Some(url) if !matches!(url.scheme(), "http" | "https") => {
                fields.refuse("url", "URL scheme must be 'http' or 'https'");
            }
            _ => {}
        }
    }
}

impl DnsSdConfig {
    fn check(&mut self, fields: &mut Fields) {
        if self.names.is_empty() {
            fields.refuse("names", "DNS-SD config must contain at least one SRV record name; add one");
        }
        if self.r#type != DnsType::Srv && self.port == 0 {
            fields.refuse("port", "a port is required in DNS-SD configs for all record types except SRV; add it");
        }
    }
}

impl ConsulSdConfig {
    fn check(&mut self, fields: &mut Fields) {
        if self.server.trim().is_empty() {
            fields.refuse("server", "consul SD configuration requires a server address; write host:port");
        }
        let has_user = !self.username.is_empty() || self.password.is_some();
        if has_user && self.http.basic_auth.is_some() {
            fields.refuse(
                "basic_auth",
                "at most one of consul SD configuration username and password and basic auth can be configured; keep one",
            );
        }
        if self.token.is_some() && self.http.auth_count() > 0 {
            fields.refuse(
                "token",
                "at most one of consul SD token, basic_auth, authorization & oauth2 can be configured; keep one",
            );
        }
    }
}

impl KubernetesSdConfig {
    fn check(&mut self, fields: &mut Fields) {
        if self.role.is_none() && !fields.has("role") {
            fields.refuse("role", "role missing (one of: pod, service, endpoints, endpointslice, node, ingress)");
        }
        if self.kubeconfig_file.is_some() && self.api_server.is_some() {
            fields.refuse("kubeconfig_file", "cannot use 'kubeconfig_file' and 'api_server' simultaneously; keep one");
        }
        if self.kubeconfig_file.is_some() && self.http != HttpConfig::default() {
            fields.refuse(
                "kubeconfig_file",
                "cannot use a custom HTTP client configuration together with 'kubeconfig_file'",
            );
        }
        let has_client = self.http != HttpConfig::default();
        if self.api_server.is_none() && self.kubeconfig_file.is_none() && has_client {
            fields.refuse(
                "api_server",
                "to use custom HTTP client configuration please provide the 'api_server' URL explicitly",
            );
        }
        if self.api_server.is_some() && self.namespaces.own_namespace {
            fields.refuse(
                "namespaces",
                "cannot use 'api_server' and 'namespaces.own_namespace' simultaneously; keep one",
            );
        }
        if self.kubeconfig_file.is_some() && self.namespaces.own_namespace {
            fields.refuse(
                "namespaces",
                "cannot use 'kubeconfig_file' and 'namespaces.own_namespace' simultaneously; keep one",
            );
        }
        self.check_selectors(fields);
    }

    /// A role can only be narrowed by selectors of the objects that it watches.
    fn check_selectors(&self, fields: &mut Fields) {
        let Some(role) = self.role else { return };
        let mut allowed = vec![role];
        match role {
            KubernetesRole::Endpoints => allowed.extend([KubernetesRole::Pod, KubernetesRole::Service]),
            KubernetesRole::EndpointSlice => allowed.extend([KubernetesRole::Pod, KubernetesRole::Service]),
            _ => {}
        }
        if self.attach_metadata.node
            && matches!(role, KubernetesRole::Pod | KubernetesRole::Endpoints | KubernetesRole::EndpointSlice)
        {
            allowed.push(KubernetesRole::Node);
        }
        let mut seen = Vec::new();
        for selector in self.selectors.iter().filter_map(|selector| selector.role) {
            if !allowed.contains(&selector) {
                fields.refuse("selectors", &format!("{role} role supports only {} selectors", join(&allowed)));
            }
            if seen.contains(&selector) {
                fields.refuse("selectors", &format!("duplicated selector role: {selector}; join the two"));
            }
            seen.push(selector);
        }
    }
}

fn join(roles: &[KubernetesRole]) -> String {
    roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ")
}

impl KubernetesSelector {
    fn check(&mut self, fields: &mut Fields) {
        if self.role.is_none() && !fields.has("role") {
            fields.refuse("role", "role missing (one of: pod, service, endpoints, endpointslice, node, ingress)");
        }
    }
}

impl DockerSdConfig {
    fn check(&mut self, fields: &mut Fields) {
        if self.host.is_empty() {
            fields.refuse("host", "host missing; write unix:///var/run/docker.sock or a TCP address");
        } else if Url::parse(&self.host).is_err() {
            fields.refuse("host", "this is not a URL; write unix:///var/run/docker.sock or a TCP address");
        }
    }
}

/// Reads the target groups of a `file_sd` file or an HTTP answer, in YAML or JSON. `name` is for messages.
pub fn parse_target_groups(name: &Path, text: &str) -> Result<Vec<TargetGroup>, ConfigErrors> {
    let cx = Context::new(name, Path::new("/"), NameScheme::Utf8);
    let groups = match crate::yaml::parse(text) {
        Ok(node) if matches!(node.kind, Kind::Null) => Some(Vec::new()),
        Ok(node) => <Vec<TargetGroup>>::read(&node, &cx),
        Err((mark, message)) => {
            cx.refuse(mark, message);
            None
        }
    };
    let errors: Vec<ConfigError> = cx.into_errors();
    groups.filter(|_| errors.is_empty()).ok_or(ConfigErrors(errors))
}
