//! Where targets come from. The mechanisms that matter most on bare metal have types; the sections of the others are
//! tables (`mechanisms`).

use crate::decode::{Context, Fields, Section, Step, Tree, Value, choices, section};
use crate::http::HttpConfig;
use crate::mechanisms::{MechanismConfig, SECTIONS, SdFilter};
use crate::selector::{check_field_selector, check_label_selector};
use crate::yaml::Kind;
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
    Mechanism(MechanismConfig),
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
            Discovery::Mechanism(config) => config.kind,
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
            Discovery::Mechanism(config) => config.write(),
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
        for section in SECTIONS {
            let Some(node) = fields.take_node(section.name) else { continue };
            let cx = fields.cx;
            cx.within(Step::Key(section.name), || match &node.kind {
                Kind::Null => {}
                Kind::List(items) => {
                    for (index, item) in items.iter().enumerate() {
                        let read = || MechanismConfig::read(section, item, cx);
                        self.extend(cx.within(Step::Index(index), read).map(Discovery::Mechanism));
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

/// Refuses an endless loop of requests; Prometheus ends with a panic.
fn check_interval(interval: Duration, fields: &mut Fields) {
    if interval.is_zero() {
        fields.refuse("refresh_interval", "refresh_interval must be positive, got 0s");
    }
}

impl FileSdConfig {
    fn check(&mut self, fields: &mut Fields) {
        check_interval(self.refresh_interval, fields);
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
        check_interval(self.refresh_interval, fields);
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
        check_interval(self.refresh_interval, fields);
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
        check_interval(self.refresh_interval, fields);
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
        let mut allowed = match role {
            KubernetesRole::Pod => vec![KubernetesRole::Pod, KubernetesRole::Node],
            KubernetesRole::Endpoints | KubernetesRole::EndpointSlice => {
                vec![KubernetesRole::Pod, KubernetesRole::Service, role]
            }
            _ => vec![role],
        };
        if self.attach_metadata.node && matches!(role, KubernetesRole::Endpoints | KubernetesRole::EndpointSlice) {
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
        if let Err(error) = check_field_selector(&self.field) {
            fields.refuse("field", &error);
        }
        if let Err(error) = check_label_selector(&self.label) {
            fields.refuse("label", &error);
        }
        if self.role.is_none() && !fields.has("role") {
            fields.refuse("role", "role missing (one of: pod, service, endpoints, endpointslice, node, ingress)");
        }
    }
}

impl DockerSdConfig {
    fn check(&mut self, fields: &mut Fields) {
        check_interval(self.refresh_interval, fields);
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
