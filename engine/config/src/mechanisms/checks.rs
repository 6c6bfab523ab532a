//! What the sections may not say, with the texts of Prometheus 3.14.

use super::MechanismConfig;
use crate::decode::Fields;
use url::Url;

/// Roles of `aws_sd_configs`, each a mechanism of its own.
pub(super) const AWS_ROLES: [&str; 6] = ["ec2", "ecs", "elasticache", "lightsail", "msk", "rds"];

/// Scheme and host of a URL as Go's parser sees them; `None` if the text is no URL.
fn scheme_and_host(text: &str) -> Option<(String, String)> {
    if text.starts_with(':') {
        return None;
    }
    match Url::parse(text) {
        Ok(url) => Some((url.scheme().to_owned(), url.host_str().unwrap_or_default().to_owned())),
        // A path or a name alone: Go accepts it as a URL without scheme and host.
        Err(url::ParseError::RelativeUrlWithoutBase) => Some((String::new(), String::new())),
        Err(url::ParseError::EmptyHost) => Some((text.split(':').next()?.to_owned(), String::new())),
        Err(_) => None,
    }
}

/// Refuses a field that is empty.
fn require(config: &MechanismConfig, fields: &Fields, name: &str, message: &str) -> bool {
    let is_given = !config.text(name).is_empty() || config.secret(name).is_some() || config.path(name).is_some();
    if !is_given {
        fields.refuse(name, message);
    }
    is_given
}

/// Refuses a role that is missing or unknown.
fn role(config: &MechanismConfig, fields: &Fields, roles: &[&str], missing: &str, unknown: &str) {
    let role = config.text("role");
    if role.is_empty() {
        fields.refuse("role", missing);
    } else if !roles.contains(&role) {
        fields.refuse("role", &unknown.replace("{}", role));
    }
}

/// Refuses an endless loop of requests. Prometheus ends with a panic for most mechanisms.
pub(super) fn refresh_interval(config: &MechanismConfig, fields: &Fields) {
    let (name, interval) = match config.kind {
        "nerve" | "serverset" => ("timeout", config.duration("timeout")),
        _ => ("refresh_interval", config.refresh_interval()),
    };
    if interval.is_zero() {
        let message = match config.kind {
            "triton" => "triton SD configuration requires RefreshInterval to be a positive integer".to_owned(),
            "oci" => "oci_sd: refresh_interval must be positive, got 0s".to_owned(),
            _ => format!("{name} must be positive, got 0s"),
        };
        fields.refuse(name, &message);
    }
}

pub(super) fn nothing(_: &MechanismConfig, _: &Fields) {}

pub(super) fn aws(config: &MechanismConfig, fields: &Fields) {
    let role = config.text("role");
    if !AWS_ROLES.contains(&role) {
        fields.refuse("role", &format!("unknown AWS SD role {role:?}"));
    }
}

pub(super) fn ec2(config: &MechanismConfig, fields: &Fields) {
    if config.filters("filters").iter().any(|filter| filter.values.is_empty()) {
        fields.refuse("filters", "EC2 SD configuration filter values cannot be empty");
    }
}

pub(super) fn azure(config: &MechanismConfig, fields: &Fields) {
    require(config, fields, "subscription_id", "azure SD configuration requires a subscription_id");
    match config.text("authentication_method") {
        "OAuth" => {
            for name in ["tenant_id", "client_id", "client_secret"] {
                require(config, fields, name, &format!("azure SD configuration requires a {name}"));
            }
        }
        "ManagedIdentity" | "SDK" | "WorkloadIdentity" => {}
        other => fields.refuse(
            "authentication_method",
            &format!(
                "unknown authentication_type {other:?}. Supported types are \"OAuth\", \"ManagedIdentity\", \"SDK\" or \
                 \"WorkloadIdentity\""
            ),
        ),
    }
}

pub(super) fn digitalocean(config: &MechanismConfig, fields: &Fields) {
    let role = config.text("role");
    if !["droplets", "databases"].contains(&role) {
        fields.refuse("role", &format!("unknown DigitalOcean SD role {role:?}"));
    }
}

pub(super) fn dockerswarm(config: &MechanismConfig, fields: &Fields) {
    if require(config, fields, "host", "host missing") && scheme_and_host(config.text("host")).is_none() {
        fields.refuse("host", "this is not a URL; write unix:///var/run/docker.sock or a TCP address");
    }
    let missing = "role missing (one of: tasks, services, nodes)";
    let unknown = "invalid role {}, expected tasks, services, or nodes";
    role(config, fields, &["tasks", "services", "nodes"], missing, unknown);
}

pub(super) fn eureka(config: &MechanismConfig, fields: &Fields) {
    if !require(config, fields, "server", "eureka_sd: empty or null eureka server") {
        return;
    }
    if scheme_and_host(config.text("server")).is_none_or(|(scheme, host)| scheme.is_empty() || host.is_empty()) {
        fields.refuse("server", "eureka_sd: invalid eureka server URL");
    }
}

pub(super) fn gce(config: &MechanismConfig, fields: &Fields) {
    require(config, fields, "project", "GCE SD configuration requires a project");
    require(config, fields, "zone", "GCE SD configuration requires a zone");
}

pub(super) fn hetzner(config: &MechanismConfig, fields: &Fields) {
    let missing = "role missing (one of: robot, hcloud)";
    role(config, fields, &["robot", "hcloud"], missing, "unknown role \"{}\"");
}

pub(super) fn ionos(config: &MechanismConfig, fields: &Fields) {
    require(config, fields, "datacenter_id", "datacenter id can't be empty");
}

pub(super) fn kuma(config: &MechanismConfig, fields: &Fields) {
    let server = config.text("server");
    if !require(config, fields, "server", "kuma SD server must not be empty: ") {
        return;
    }
    match scheme_and_host(server) {
        None => fields.refuse("server", "kuma SD server is not a URL; write http://host:port"),
        Some((scheme, host)) if scheme.is_empty() || host.is_empty() => {
            fields.refuse("server", &format!("kuma SD server must not be empty and have a scheme: {server}"));
        }
        Some(_) => {}
    }
}

pub(super) fn marathon(config: &MechanismConfig, fields: &Fields) {
    if config.texts("servers").is_empty() {
        fields.refuse("servers", "marathon_sd: must contain at least one Marathon server");
    }
    let has_token = config.secret("auth_token").is_some();
    let has_file = config.path("auth_token_file").is_some();
    let has_bearer = fields.has("bearer_token") || fields.has("bearer_token_file");
    let message = match (has_token, has_file) {
        (false, false) => return,
        (true, true) => "at most one of auth_token & auth_token_file must be configured",
        _ if config.http.basic_auth.is_some() => {
            "at most one of basic_auth, auth_token & auth_token_file must be configured"
        }
        _ if has_bearer => {
            "at most one of bearer_token, bearer_token_file, auth_token & auth_token_file must be configured"
        }
        _ if config.http.authorization.is_some() => {
            "at most one of auth_token, auth_token_file & authorization must be configured"
        }
        _ => return,
    };
    fields.refuse(fields.last_of(&["auth_token_file", "auth_token"]), &format!("marathon_sd: {message}"));
}

pub(super) fn zookeeper(config: &MechanismConfig, fields: &Fields) {
    let kind = config.kind;
    if config.texts("servers").is_empty() {
        fields.refuse("servers", &format!("{kind} SD config must contain at least one Zookeeper server"));
    }
    if config.texts("paths").is_empty() {
        fields.refuse("paths", &format!("{kind} SD config must contain at least one path"));
    }
    for path in config.texts("paths").iter().filter(|path| !path.starts_with('/')) {
        fields.refuse("paths", &format!("{kind} SD config paths must begin with '/': {path}"));
    }
}

pub(super) fn nomad(config: &MechanismConfig, fields: &Fields) {
    if config.text("server").trim().is_empty() {
        fields.refuse("server", "nomad SD configuration requires a server address");
    }
}

pub(super) fn oci(config: &MechanismConfig, fields: &Fields) {
    require(config, fields, "region", "oci_sd: region is required");
    match config.text("auth") {
        "api_key" => {
            for name in ["tenancy", "user", "fingerprint", "key_file"] {
                require(config, fields, name, &format!("oci_sd: api_key auth requires {name}"));
            }
            if config.secret("key_passphrase").is_some() && config.path("key_passphrase_file").is_some() {
                fields.refuse(
                    "key_passphrase_file",
                    "oci_sd: at most one of key_passphrase & key_passphrase_file must be configured",
                );
            }
        }
        "instance_principal" => {
            for name in ["tenancy", "user", "fingerprint", "key_file", "key_passphrase", "key_passphrase_file"] {
                if fields.has(name) {
                    fields.refuse(name, &format!("oci_sd: instance_principal auth must not have {name}"));
                }
            }
        }
        other => fields.refuse(
            "auth",
            &format!("oci_sd: unknown auth method {other:?}, expected \"api_key\" or \"instance_principal\""),
        ),
    }
    for (index, _) in config.texts("compartments").iter().enumerate().filter(|(_, name)| name.is_empty()) {
        fields.refuse("compartments", &format!("oci_sd: compartments[{index}] must not be empty"));
    }
}

pub(super) fn openstack(config: &MechanismConfig, fields: &Fields) {
    match config.text("availability") {
        "public" | "internal" | "admin" => {}
        other => fields
            .refuse("availability", &format!("unknown availability {other}, must be one of admin, internal or public")),
    }
    let missing = "role missing (one of: instance, hypervisor, loadbalancer)";
    role(config, fields, &["instance", "hypervisor", "loadbalancer"], missing, "unknown OpenStack SD role \"{}\"");
    require(config, fields, "region", "openstack SD configuration requires a region");
}

/// The key of Scaleway or Outscale: inline or in a file.
fn secret_key(config: &MechanismConfig, fields: &Fields) {
    match (config.secret("secret_key").is_some(), config.path("secret_key_file").is_some()) {
        (false, false) => fields.refuse("secret_key", "one of secret_key & secret_key_file must be configured"),
        (true, true) => {
            fields.refuse("secret_key_file", "at most one of secret_key & secret_key_file must be configured");
        }
        _ => {}
    }
}

pub(super) fn outscale(config: &MechanismConfig, fields: &Fields) {
    require(config, fields, "region", "outscale SD configuration requires a region");
    require(config, fields, "access_key", "outscale SD configuration requires access_key");
    secret_key(config, fields);
}

pub(super) fn ovhcloud(config: &MechanismConfig, fields: &Fields) {
    for (name, message) in [
        ("endpoint", "endpoint can not be empty"),
        ("application_key", "application key can not be empty"),
        ("application_secret", "application secret can not be empty"),
        ("consumer_key", "consumer key can not be empty"),
    ] {
        require(config, fields, name, message);
    }
    let service = config.text("service");
    if !["dedicated_server", "vps"].contains(&service) {
        fields.refuse("service", &format!("unknown service: {service}"));
    }
}

pub(super) fn puppetdb(config: &MechanismConfig, fields: &Fields) {
    if require(config, fields, "url", "URL is missing") {
        match scheme_and_host(config.text("url")) {
            None => fields.refuse("url", "not a URL; write it as http://host:port/path"),
            Some((scheme, _)) if scheme != "http" && scheme != "https" => {
                fields.refuse("url", "URL scheme must be 'http' or 'https'");
            }
            Some((_, host)) if host.is_empty() => fields.refuse("url", "host is missing in URL"),
            Some(_) => {}
        }
    }
    require(config, fields, "query", "query missing");
}

/// Whether a text is a UUID with hyphens.
fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

pub(super) fn scaleway(config: &MechanismConfig, fields: &Fields) {
    const UUID: &str = "expected a UUID: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    let missing = "role missing (one of: instance, baremetal)";
    role(config, fields, &["instance", "baremetal"], missing, "unknown role \"{}\"");
    let project = config.text("project_id");
    if require(config, fields, "project_id", "project_id is mandatory") && !is_uuid(project) {
        fields.refuse("project_id", &format!("scaleway-sdk-go: invalid project ID format '{project}', {UUID}"));
    }
    secret_key(config, fields);
    if config.secret("secret_key").is_some_and(|key| !is_uuid(key.reveal())) {
        fields.refuse("secret_key", &format!("scaleway-sdk-go: invalid secret key format, {UUID}"));
    }
    let key = config.text("access_key");
    let is_key = key.len() == 20
        && key.starts_with("SCW")
        && key.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if require(config, fields, "access_key", "access_key is mandatory") && !is_key {
        fields.refuse(
            "access_key",
            &format!("scaleway-sdk-go: invalid access key format '{key}', expected SCWXXXXXXXXXXXXXXXXX format"),
        );
    }
    let zone = config.text("zone");
    let parts: Vec<&str> = zone.split('-').collect();
    let is_zone = matches!(parts[..], [country, city, number] if country.len() == 2 && city.len() == 3
        && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_zone {
        fields.refuse(
            "zone",
            &format!(
                "scaleway-sdk-go: invalid default zone format '{zone}', available zones are: fr-par-1, nl-ams-1, …"
            ),
        );
    }
    if scheme_and_host(config.text("api_url")).is_none_or(|(scheme, host)| scheme.is_empty() || host.is_empty()) {
        fields.refuse("api_url", &format!("scaleway-sdk-go: invalid url {}", config.text("api_url")));
    }
}

pub(super) fn stackit(config: &MechanismConfig, fields: &Fields) {
    let endpoint = config.text("endpoint");
    if endpoint.is_empty() && config.text("region").is_empty() {
        fields.refuse("endpoint", "stackit_sd: endpoint and region missing");
    }
    if !endpoint.is_empty() && scheme_and_host(endpoint).is_none() {
        fields.refuse("endpoint", &format!("stackit_sd: invalid endpoint {endpoint:?}; write https://host"));
    }
}

pub(super) fn triton(config: &MechanismConfig, fields: &Fields) {
    require(config, fields, "account", "triton SD configuration requires an account");
    require(config, fields, "dns_suffix", "triton SD configuration requires a dns_suffix");
    require(config, fields, "endpoint", "triton SD configuration requires an endpoint");
    if !["container", "cn"].contains(&config.text("role")) {
        fields.refuse("role", "triton SD configuration requires role to be 'container' or 'cn'");
    }
}

pub(super) fn uyuni(config: &MechanismConfig, fields: &Fields) {
    let server = config.text("server");
    if require(config, fields, "server", "Uyuni SD configuration requires server host")
        && scheme_and_host(server).is_none()
    {
        fields.refuse("server", &format!("Uyuni Server URL is not valid: {server}"));
    }
    require(config, fields, "username", "Uyuni SD configuration requires a username");
    require(config, fields, "password", "Uyuni SD configuration requires a password");
}
