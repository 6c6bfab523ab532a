//! Sections of discovery: what they may say, what they may not, and what the effective configuration shows of them.

use config::{Config, ConfigErrors, Env};
use std::path::Path;

fn parse(section: &str) -> Result<Config, ConfigErrors> {
    let yaml = format!("scrape_configs:\n  - job_name: j\n    {section}\n");
    config::parse_config("prometheus.yml".as_ref(), &yaml, &Env::process())
}

#[track_caller]
fn bad(section: &str, want: &str) {
    match parse(section) {
        Ok(_) => panic!("{section}: accepted, wanted {want:?}"),
        Err(errors) => assert!(errors.to_string().contains(want), "{section}: {errors}\nwanted {want:?}"),
    }
}

/// The effective configuration has these parts.
#[track_caller]
fn good(section: &str, want: &[&str]) {
    let config = parse(section).unwrap_or_else(|errors| panic!("{section}: {errors}"));
    let shown = config.to_yaml();
    for part in want {
        assert!(shown.contains(part), "{section}: no {part:?} in\n{shown}");
    }
    assert_eq!(config.unsupported_settings(), [""; 0], "{section}");
    // What is shown may be loaded again.
    if let Err(errors) = config::parse_config("prometheus.yml".as_ref(), &shown, &Env::process()) {
        assert!(shown.contains("<secret>"), "{section}: {errors}\n{shown}");
    }
}

#[test]
fn defaults_are_those_of_prometheus() {
    good(
        "nomad_sd_configs: [{}]",
        &[
            "server: \"http://localhost:4646\"",
            "namespace: default",
            "region: global",
            "allow_stale: true",
            "refresh_interval: 1m",
            "tag_separator: \",\"",
        ],
    );
    good("eureka_sd_configs: [{server: 'http://e/'}]", &["refresh_interval: 30s", "follow_redirects: true"]);
    good(
        "triton_sd_configs: [{account: a, dns_suffix: d, endpoint: e}]",
        &["role: container", "port: 9163", "version: 1"],
    );
    good(
        "azure_sd_configs: [{subscription_id: s, authentication_method: SDK}]",
        &["environment: AzurePublicCloud", "refresh_interval: 5m"],
    );
    good("kuma_sd_configs: [{server: 'http://k'}]", &["refresh_interval: 15s", "fetch_timeout: 2m"]);
    good("serverset_sd_configs: [{servers: [a], paths: [/p]}]", &["timeout: 10s"]);
    good("stackit_sd_configs: [{}]", &["region: eu01"]);
    good("digitalocean_sd_configs: [{}]", &["role: droplets", "port: 80"]);
    good("linode_sd_configs: [{}]", &["tag_separator: \",\""]);
    good("vultr_sd_configs: [{}]", &["refresh_interval: 1m"]);
    good("ecs_sd_configs: [{}]", &["request_concurrency: 20"]);
    good("msk_sd_configs: [{clusters: [a]}]", &["request_concurrency: 10"]);
    good("rds_sd_configs: [{filters: [{name: a, values: [b]}]}]", &["request_concurrency: 10"]);
    good("elasticache_sd_configs: [{}]", &["request_concurrency: 10"]);
    good("lightsail_sd_configs: [{}]", &["port: 80"]);
    good("aws_sd_configs: [{role: msk, filters: [{name: a}], clusters: [c]}]", &["role: msk"]);
    good("ec2_sd_configs: [{}]", &["port: 80"]);
    good(
        "ovhcloud_sd_configs: [{application_key: a, application_secret: b, consumer_key: c, service: vps}]",
        &["endpoint: ovh-eu"],
    );
    good("openstack_sd_configs: [{role: instance, region: r}]", &["availability: public"]);
    good(
        "uyuni_sd_configs: [{server: 'https://u', username: a, password: b}]",
        &["entitlement: monitoring_entitled", "separator: \",\""],
    );
    good(
        "scaleway_sd_configs: [{role: instance, project_id: 11111111-1111-1111-1111-111111111111, access_key: SCWABCDEFGHIJKLMN234, secret_key_file: key}]",
        &["zone: fr-par-1", "api_url: \"https://api.scaleway.com\""],
    );
    good("outscale_sd_configs: [{access_key: a, secret_key: b}]", &["region: eu-west-2"]);
    good("oci_sd_configs: [{region: r, auth: instance_principal}]", &["auth: instance_principal"]);
    good("gce_sd_configs: [{project: p, zone: z}]", &["tag_separator: \",\""]);
    good("puppetdb_sd_configs: [{url: 'http://p', query: q}]", &["port: 80"]);
    good("marathon_sd_configs: [{servers: [a], auth_token: t}]", &["refresh_interval: 30s"]);
    good("hetzner_sd_configs: [{role: robot}]", &["role: robot"]);
    good("ionos_sd_configs: [{datacenter_id: d}]", &["datacenter_id: d"]);
    good("dockerswarm_sd_configs: [{host: 'unix:///s', role: nodes}]", &["role: nodes"]);
}

#[test]
fn secrets_are_hidden() {
    for section in [
        "openstack_sd_configs: [{role: instance, region: r, password: hush, application_credential_secret: hush}]",
        "ovhcloud_sd_configs: [{application_key: a, application_secret: hush, consumer_key: hush, service: vps}]",
        "azure_sd_configs: [{subscription_id: s, tenant_id: t, client_id: c, client_secret: hush}]",
        "ec2_sd_configs: [{access_key: a, secret_key: hush}]",
        "aws_sd_configs: [{role: ecs, access_key: a, secret_key: hush}]",
        "uyuni_sd_configs: [{server: 'https://u', username: a, password: hush}]",
        "marathon_sd_configs: [{servers: [a], auth_token: hush}]",
        "outscale_sd_configs: [{access_key: a, secret_key: hush}]",
        "stackit_sd_configs: [{project: p, private_key: hush, service_account_key: hush}]",
        "oci_sd_configs: [{region: r, tenancy: t, user: u, fingerprint: f, key_file: k, key_passphrase: hush}]",
        "nomad_sd_configs: [{authorization: {credentials: hush}}]",
        "linode_sd_configs: [{basic_auth: {username: u, password: hush}}]",
    ] {
        let config = parse(section).unwrap_or_else(|errors| panic!("{section}: {errors}"));
        for shown in [config.to_yaml(), format!("{:?}", config.scrape_configs)] {
            assert!(shown.contains("<secret>") && !shown.contains("hush"), "{section}: {shown}");
        }
    }
}

#[test]
fn mistakes_have_the_texts_of_prometheus() {
    bad("nomad_sd_configs: [{server: ' '}]", "nomad SD configuration requires a server address");
    bad("nomad_sd_configs: [{token: a}]", "field token not found");
    bad("puppetdb_sd_configs: [{query: q}]", "URL is missing");
    bad("puppetdb_sd_configs: [{url: 'ftp://a', query: q}]", "URL scheme must be 'http' or 'https'");
    bad("puppetdb_sd_configs: [{url: 'http://', query: q}]", "host is missing in URL");
    bad("puppetdb_sd_configs: [{url: 'http://p'}]", "query missing");
    bad("hetzner_sd_configs: [{}]", "role missing (one of: robot, hcloud)");
    bad("hetzner_sd_configs: [{role: x}]", "unknown role \"x\"");
    bad(
        "ovhcloud_sd_configs: [{endpoint: '', application_key: a, application_secret: b, consumer_key: c, service: vps}]",
        "endpoint can not be empty",
    );
    bad(
        "ovhcloud_sd_configs: [{application_secret: b, consumer_key: c, service: vps}]",
        "application key can not be empty",
    );
    bad(
        "ovhcloud_sd_configs: [{application_key: a, consumer_key: c, service: vps}]",
        "application secret can not be empty",
    );
    bad(
        "ovhcloud_sd_configs: [{application_key: a, application_secret: b, service: vps}]",
        "consumer key can not be empty",
    );
    bad(
        "ovhcloud_sd_configs: [{application_key: a, application_secret: b, consumer_key: c, service: x}]",
        "unknown service: x",
    );
    let scaleway = |more: &str| {
        format!(
            "scaleway_sd_configs: [{{role: instance, project_id: 11111111-1111-1111-1111-111111111111, access_key: SCWABCDEFGHIJKLMN234, {more}}}]"
        )
    };
    bad(&scaleway("zone: fr-par-1"), "one of secret_key & secret_key_file must be configured");
    bad(
        &scaleway("secret_key: 11111111-1111-1111-1111-111111111111, secret_key_file: f"),
        "at most one of secret_key & secret_key_file",
    );
    bad(&scaleway("secret_key_file: f, zone: paris"), "invalid default zone format 'paris'");
    bad("scaleway_sd_configs: [{role: x}]", "unknown role \"x\"");
    bad("scaleway_sd_configs: [{}]", "role missing (one of: instance, baremetal)");
    bad("scaleway_sd_configs: [{role: instance, project_id: p}]", "invalid project ID format 'p', expected a UUID");
    bad(
        "scaleway_sd_configs: [{role: instance, access_key: a}]",
        "invalid access key format 'a', expected SCWXXXXXXXXXXXXXXXXX format",
    );
    bad("openstack_sd_configs: [{region: r}]", "role missing (one of: instance, hypervisor, loadbalancer)");
    bad("openstack_sd_configs: [{role: x, region: r}]", "unknown OpenStack SD role \"x\"");
    bad("openstack_sd_configs: [{role: instance}]", "openstack SD configuration requires a region");
    bad(
        "openstack_sd_configs: [{role: instance, region: r, availability: x}]",
        "unknown availability x, must be one of admin, internal or public",
    );
    bad("dockerswarm_sd_configs: [{role: nodes}]", "host missing");
    bad("dockerswarm_sd_configs: [{host: 'http://h'}]", "role missing (one of: tasks, services, nodes)");
    bad("dockerswarm_sd_configs: [{host: 'http://h', role: x}]", "invalid role x, expected tasks, services, or nodes");
    bad("uyuni_sd_configs: [{username: a, password: b}]", "Uyuni SD configuration requires server host");
    bad("uyuni_sd_configs: [{server: ':', username: a, password: b}]", "Uyuni Server URL is not valid: :");
    bad("uyuni_sd_configs: [{server: 'https://u', password: b}]", "Uyuni SD configuration requires a username");
    bad("uyuni_sd_configs: [{server: 'https://u', username: a}]", "Uyuni SD configuration requires a password");
    bad("triton_sd_configs: [{dns_suffix: d, endpoint: e}]", "triton SD configuration requires an account");
    bad("triton_sd_configs: [{account: a, endpoint: e}]", "triton SD configuration requires a dns_suffix");
    bad("triton_sd_configs: [{account: a, dns_suffix: d}]", "triton SD configuration requires an endpoint");
    bad(
        "triton_sd_configs: [{account: a, dns_suffix: d, endpoint: e, role: x}]",
        "requires role to be 'container' or 'cn'",
    );
    bad(
        "triton_sd_configs: [{account: a, dns_suffix: d, endpoint: e, refresh_interval: 0s}]",
        "triton SD configuration requires RefreshInterval to be a positive integer",
    );
    bad("eureka_sd_configs: [{}]", "eureka_sd: empty or null eureka server");
    bad("eureka_sd_configs: [{server: 'e'}]", "eureka_sd: invalid eureka server URL");
    bad("marathon_sd_configs: [{}]", "marathon_sd: must contain at least one Marathon server");
    bad(
        "marathon_sd_configs: [{servers: [a], auth_token: t, auth_token_file: f}]",
        "marathon_sd: at most one of auth_token & auth_token_file must be configured",
    );
    bad(
        "marathon_sd_configs: [{servers: [a], auth_token: t, basic_auth: {username: u}}]",
        "marathon_sd: at most one of basic_auth, auth_token & auth_token_file must be configured",
    );
    bad(
        "marathon_sd_configs: [{servers: [a], auth_token: t, bearer_token: b}]",
        "marathon_sd: at most one of bearer_token, bearer_token_file, auth_token & auth_token_file must be configured",
    );
    bad(
        "marathon_sd_configs: [{servers: [a], auth_token_file: t, authorization: {credentials: b}}]",
        "marathon_sd: at most one of auth_token, auth_token_file & authorization must be configured",
    );
    bad("serverset_sd_configs: [{paths: [/a]}]", "serverset SD config must contain at least one Zookeeper server");
    bad("serverset_sd_configs: [{servers: [a]}]", "serverset SD config must contain at least one path");
    bad("nerve_sd_configs: [{servers: [a], paths: [b]}]", "nerve SD config paths must begin with '/': b");
    bad("kuma_sd_configs: [{}]", "kuma SD server must not be empty: ");
    bad("kuma_sd_configs: [{server: k}]", "kuma SD server must not be empty and have a scheme: k");
    bad("digitalocean_sd_configs: [{role: x}]", "unknown DigitalOcean SD role \"x\"");
    bad("vultr_sd_configs: [{region: x}]", "field region not found");
    bad("ionos_sd_configs: [{}]", "datacenter id can't be empty");
    bad("stackit_sd_configs: [{endpoint: ':'}]", "stackit_sd: invalid endpoint \":\"");
    bad("stackit_sd_configs: [{region: ''}]", "stackit_sd: endpoint and region missing");
    bad("outscale_sd_configs: [{secret_key: b}]", "outscale SD configuration requires access_key");
    bad(
        "outscale_sd_configs: [{access_key: a, secret_key: b, region: ''}]",
        "outscale SD configuration requires a region",
    );
    bad("outscale_sd_configs: [{access_key: a}]", "one of secret_key & secret_key_file must be configured");
    bad("gce_sd_configs: [{zone: z}]", "GCE SD configuration requires a project");
    bad("gce_sd_configs: [{project: p}]", "GCE SD configuration requires a zone");
    bad("azure_sd_configs: [{authentication_method: SDK}]", "azure SD configuration requires a subscription_id");
    bad(
        "azure_sd_configs: [{subscription_id: s, client_id: c, client_secret: x}]",
        "azure SD configuration requires a tenant_id",
    );
    bad(
        "azure_sd_configs: [{subscription_id: s, tenant_id: t, client_secret: x}]",
        "azure SD configuration requires a client_id",
    );
    bad(
        "azure_sd_configs: [{subscription_id: s, tenant_id: t, client_id: c}]",
        "azure SD configuration requires a client_secret",
    );
    bad(
        "azure_sd_configs: [{subscription_id: s, authentication_method: x}]",
        "unknown authentication_type \"x\". Supported types are \"OAuth\"",
    );
    bad("oci_sd_configs: [{tenancy: t, user: u, fingerprint: f, key_file: k}]", "oci_sd: region is required");
    bad(
        "oci_sd_configs: [{region: r, auth: x}]",
        "oci_sd: unknown auth method \"x\", expected \"api_key\" or \"instance_principal\"",
    );
    bad("oci_sd_configs: [{region: r}]", "oci_sd: api_key auth requires tenancy");
    bad(
        "oci_sd_configs: [{region: r, auth: instance_principal, user: u}]",
        "oci_sd: instance_principal auth must not have user",
    );
    bad(
        "oci_sd_configs: [{region: r, tenancy: t, user: u, fingerprint: f, key_file: k, key_passphrase: a, key_passphrase_file: b}]",
        "oci_sd: at most one of key_passphrase",
    );
    bad(
        "oci_sd_configs: [{region: r, tenancy: t, user: u, fingerprint: f, key_file: k, compartments: ['']}]",
        "oci_sd: compartments[0] must not be empty",
    );
    bad(
        "oci_sd_configs: [{region: r, tenancy: t, user: u, fingerprint: f, key_file: k, refresh_interval: 0s}]",
        "oci_sd: refresh_interval must be positive, got 0s",
    );
    bad("ec2_sd_configs: [{filters: [{name: a}]}]", "EC2 SD configuration filter values cannot be empty");
    bad("aws_sd_configs: [{role: x}]", "unknown AWS SD role \"x\"");
    bad("aws_sd_configs: [{role: ec2, request_concurrency: 1}]", "field request_concurrency not found");
    bad("lightsail_sd_configs: [{filters: []}]", "field filters not found");
    bad("http_sd_configs: [{url: 'http://a', refresh_interval: 0s}]", "refresh_interval must be positive");
    bad("consul_sd_configs: [{refresh_interval: 0s}]", "refresh_interval must be positive");
    bad("nomad_sd_configs: [{refresh_interval: 0s}]", "refresh_interval must be positive");
}

#[test]
fn selectors_of_kubernetes_are_checked() {
    let with =
        |role: &str, selectors: &str| format!("kubernetes_sd_configs: [{{role: {role}, selectors: [{selectors}]}}]");
    good(
        &with("pod", "{role: pod, label: 'a/b=c,!d, e notin (x,y)'}, {role: node, field: 'metadata.name=n'}"),
        &["field: "],
    );
    good(&with("endpoints", "{role: service, label: a}, {role: pod}, {role: endpoints}"), &["role: service"]);
    bad(&with("service", "{role: pod}"), "service role supports only service selectors");
    bad(&with("pod", "{role: service}"), "pod role supports only pod, node selectors");
    bad(
        &with("endpointslice", "{role: node}"),
        "endpointslice role supports only pod, service, endpointslice selectors",
    );
    bad(&with("pod", "{role: pod}, {role: pod}"), "duplicated selector role: pod");
    bad(&with("pod", "null"), "null");
    bad(&with("pod", "{label: a}"), "role missing");
    bad(&with("pod", "{role: pod, label: 'a in (b'}"), "label: found '', expected: ',' or ')'");
    bad(&with("pod", "{role: pod, field: 'abc'}"), "field: invalid selector: 'abc'; can't understand 'abc'");
    bad("kubernetes_sd_configs: [{}]", "role missing (one of: pod, service, endpoints, endpointslice, node, ingress)");
    bad("kubernetes_sd_configs: [{role: x}]", "unknown value \"x\"");
    bad(
        "kubernetes_sd_configs: [{role: pod, api_server: 'http://a', kubeconfig_file: f}]",
        "cannot use 'kubeconfig_file' and 'api_server' simultaneously",
    );
    bad(
        "kubernetes_sd_configs: [{role: pod, bearer_token: a}]",
        "to use custom HTTP client configuration please provide the 'api_server' URL explicitly",
    );
    bad(
        "kubernetes_sd_configs: [{role: pod, kubeconfig_file: f, follow_redirects: false}]",
        "cannot use a custom HTTP client configuration together with 'kubeconfig_file'",
    );
    bad(
        "kubernetes_sd_configs: [{role: pod, api_server: 'http://a', namespaces: {own_namespace: true}}]",
        "cannot use 'api_server' and 'namespaces.own_namespace' simultaneously",
    );
    bad("kubernetes_sd_configs: [{role: pod, namespaces: [a]}]", "cannot unmarshal !!seq into namespaces");
}

#[test]
fn older_mechanisms_are_checked() {
    good("file_sd_configs: [{files: ['a/*.json', b.YML, '.yaml']}]", &["refresh_interval: 5m"]);
    bad("file_sd_configs: [{}]", "file service discovery config must contain at least one path name");
    bad("file_sd_configs: [{files: [a.txt]}]", "path name");
    bad("file_sd_configs: [{files: ['a*/b.json']}]", "is not valid for file discovery");
    bad("file_sd_configs: [{files: ['a.Json']}]", "is not valid for file discovery");
    good("http_sd_configs: [{url: 'HTTP://A/'}]", &["refresh_interval: 1m"]);
    bad("http_sd_configs: [{}]", "URL is missing");
    bad("http_sd_configs: [{url: 'ftp://a/'}]", "URL scheme must be 'http' or 'https'");
    bad("http_sd_configs: [{url: 'http://'}]", "not a URL");
    bad("http_sd_configs: [{url: '//a/'}]", "not a URL");
    good("dns_sd_configs: [{names: [a], type: srv}]", &["type: SRV", "refresh_interval: 30s"]);
    good("dns_sd_configs: [{names: [a], type: mx, port: 1}]", &["type: MX"]);
    bad("dns_sd_configs: [{}]", "DNS-SD config must contain at least one SRV record name");
    bad(
        "dns_sd_configs: [{names: [a], type: A}]",
        "a port is required in DNS-SD configs for all record types except SRV",
    );
    bad("dns_sd_configs: [{names: [a], type: TXT}]", "unknown value \"TXT\"");
    good("consul_sd_configs: [{}]", &["server: \"localhost:8500\"", "allow_stale: true", "refresh_interval: 30s"]);
    good(
        "consul_sd_configs: [{services: [null], tags: [null], node_meta: {a: null}, path_prefix: /c}]",
        &["path_prefix"],
    );
    bad("consul_sd_configs: [{server: ' '}]", "consul SD configuration requires a server address");
    bad(
        "consul_sd_configs: [{username: a, basic_auth: {username: b}}]",
        "at most one of consul SD configuration username and password and basic auth can be configured",
    );
    bad(
        "consul_sd_configs: [{token: a, authorization: {credentials: b}}]",
        "at most one of consul SD token, basic_auth, authorization & oauth2 can be configured",
    );
    bad("consul_sd_configs: [{service: a}]", "field service not found");
    good("docker_sd_configs: [{host: 'unix:///var/run/docker.sock'}]", &["port: 80", "match_first_network: true"]);
    bad("docker_sd_configs: [{}]", "host missing");
    bad("docker_sd_configs: [{host: 'a b'}]", "this is not a URL");
    bad("docker_sd_configs: [{host: 'tcp://a', filters: [{name: [a]}]}]", "cannot unmarshal !!seq into string");
    good("static_configs: [{targets: null, labels: null}]", &["static_configs"]);
    bad("static_configs: [{target: [a]}]", "field target not found");
    for kind in ["file", "http", "dns", "consul", "kubernetes", "docker", "nomad", "ec2", "oci", "kuma", "serverset"] {
        bad(&format!("{kind}_sd_configs: [null]"), "null");
        bad(&format!("{kind}_sd_configs: a"), "cannot unmarshal !!str into");
        bad(&format!("{kind}_sd_configs: [a]"), "cannot unmarshal !!str into");
        assert!(parse(&format!("{kind}_sd_configs: null")).is_ok());
        assert!(parse(&format!("{kind}_sd_configs: []")).is_ok());
    }
}

#[test]
fn examples_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/discovery");
    let mut shown = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let config = config::load(&file, &Env::process()).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.unsupported_settings(), [""; 0], "{}", file.display());
        shown += &config.to_yaml();
    }
    for kind in [
        "aws",
        "azure",
        "consul",
        "digitalocean",
        "dockerswarm",
        "ec2",
        "ecs",
        "elasticache",
        "eureka",
        "gce",
        "hetzner",
        "ionos",
        "kubernetes",
        "kuma",
        "linode",
        "marathon",
        "msk",
        "nerve",
        "nomad",
        "oci",
        "openstack",
        "outscale",
        "ovhcloud",
        "puppetdb",
        "rds",
        "scaleway",
        "serverset",
        "stackit",
        "triton",
        "uyuni",
        "vultr",
    ] {
        assert!(shown.contains(&format!("{kind}_sd_configs:")), "no example of {kind}");
    }
}
