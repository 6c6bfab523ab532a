//! The fields of each mechanism with their defaults, as Prometheus 3.14 has them.

use super::FieldType::{Duration, Filters, Flag, Number, Path, Secret, Text, Texts, Tls};
use super::{Field, MechanismConfig, MechanismSection, checks};
use crate::decode::Fields;

const PORT: Field = ("port", Number, "80");
const EACH_MINUTE: Field = ("refresh_interval", Duration, "60s");
const REGION: Field = ("region", Text, "");
const ENDPOINT: Field = ("endpoint", Text, "");
const ACCESS_KEY: Field = ("access_key", Text, "");
const SECRET_KEY: Field = ("secret_key", Secret, "");
const SECRET_KEY_FILE: Field = ("secret_key_file", Path, "");
const PROFILE: Field = ("profile", Text, "");
const ROLE_ARN: Field = ("role_arn", Text, "");
const EXTERNAL_ID: Field = ("external_id", Text, "");
const FILTERS: Field = ("filters", Filters, "");
const CLUSTERS: Field = ("clusters", Texts, "");
const ROLE: Field = ("role", Text, "");

macro_rules! aws {
    ($($more:expr),*) => {
        &[REGION, ENDPOINT, ACCESS_KEY, SECRET_KEY, PROFILE, ROLE_ARN, EXTERNAL_ID, PORT, EACH_MINUTE $(, $more)*]
    };
}

const AZURE: &[Field] = &[
    ("environment", Text, "AzurePublicCloud"),
    PORT,
    ("subscription_id", Text, ""),
    ("tenant_id", Text, ""),
    ("client_id", Text, ""),
    ("client_secret", Secret, ""),
    ("refresh_interval", Duration, "5m"),
    ("authentication_method", Text, "OAuth"),
    ("resource_group", Text, ""),
];

const OPENSTACK: &[Field] = &[
    ("identity_endpoint", Text, ""),
    ("username", Text, ""),
    ("userid", Text, ""),
    ("password", Secret, ""),
    ("project_name", Text, ""),
    ("project_id", Text, ""),
    ("domain_name", Text, ""),
    ("domain_id", Text, ""),
    ("application_credential_name", Text, ""),
    ("application_credential_id", Text, ""),
    ("application_credential_secret", Secret, ""),
    ROLE,
    REGION,
    EACH_MINUTE,
    PORT,
    ("all_tenants", Flag, ""),
    ("tls_config", Tls, ""),
    ("availability", Text, "public"),
];

const OCI: &[Field] = &[
    ("auth", Text, "api_key"),
    ("tenancy", Text, ""),
    ("user", Text, ""),
    ("fingerprint", Text, ""),
    ("key_file", Path, ""),
    ("key_passphrase", Secret, ""),
    ("key_passphrase_file", Path, ""),
    REGION,
    ("compartments", Texts, ""),
    PORT,
    EACH_MINUTE,
];

const STACKIT: &[Field] = &[
    ("project", Text, ""),
    ("region", Text, "eu01"),
    ENDPOINT,
    PORT,
    ("private_key", Secret, ""),
    ("private_key_path", Text, ""),
    ("service_account_key", Secret, ""),
    ("service_account_key_path", Text, ""),
    ("credentials_file_path", Text, ""),
    EACH_MINUTE,
];

const SCALEWAY: &[Field] = &[
    ("project_id", Text, ""),
    ("api_url", Text, "https://api.scaleway.com"),
    ("zone", Text, "fr-par-1"),
    ACCESS_KEY,
    SECRET_KEY,
    SECRET_KEY_FILE,
    ("name_filter", Text, ""),
    ("tags_filter", Texts, ""),
    EACH_MINUTE,
    PORT,
    ROLE,
];

const ZOOKEEPER: &[Field] = &[("servers", Texts, ""), ("paths", Texts, ""), ("timeout", Duration, "10s")];

const fn section(
    (kind, name): (&'static str, &'static str),
    has_http: bool,
    fields: &'static [Field],
    check: fn(&MechanismConfig, &Fields),
) -> MechanismSection {
    MechanismSection { kind, name, has_http, fields, check }
}

macro_rules! named {
    ($kind:literal) => {
        ($kind, concat!($kind, "_sd_configs"))
    };
}

/// All mechanisms whose section is a table, in the order of their names.
pub(crate) const SECTIONS: &[MechanismSection] = &[
    section(named!("aws"), true, aws![ROLE, FILTERS, CLUSTERS], checks::aws),
    section(named!("azure"), true, AZURE, checks::azure),
    section(named!("digitalocean"), true, &[EACH_MINUTE, PORT, ("role", Text, "droplets")], checks::digitalocean),
    section(named!("dockerswarm"), true, &[("host", Text, ""), ROLE, PORT, FILTERS, EACH_MINUTE], checks::dockerswarm),
    section(named!("ec2"), true, aws![FILTERS], checks::ec2),
    section(named!("ecs"), true, aws![CLUSTERS, ("request_concurrency", Number, "20")], checks::nothing),
    section(named!("elasticache"), true, aws![CLUSTERS, ("request_concurrency", Number, "10")], checks::nothing),
    section(named!("eureka"), true, &[("server", Text, ""), ("refresh_interval", Duration, "30s")], checks::eureka),
    section(
        named!("gce"),
        false,
        &[
            ("project", Text, ""),
            ("zone", Text, ""),
            ("filter", Text, ""),
            EACH_MINUTE,
            PORT,
            ("tag_separator", Text, ","),
        ],
        checks::gce,
    ),
    section(named!("hetzner"), true, &[EACH_MINUTE, PORT, ROLE, ("label_selector", Text, "")], checks::hetzner),
    section(named!("ionos"), true, &[("datacenter_id", Text, ""), PORT, EACH_MINUTE], checks::ionos),
    section(
        named!("kuma"),
        true,
        &[
            ("server", Text, ""),
            ("refresh_interval", Duration, "15s"),
            ("fetch_timeout", Duration, "2m"),
            ("client_id", Text, ""),
        ],
        checks::kuma,
    ),
    section(named!("lightsail"), true, aws![], checks::nothing),
    section(named!("linode"), true, &[EACH_MINUTE, PORT, ("tag_separator", Text, ","), REGION], checks::nothing),
    section(
        named!("marathon"),
        true,
        &[
            ("servers", Texts, ""),
            ("refresh_interval", Duration, "30s"),
            ("auth_token", Secret, ""),
            ("auth_token_file", Path, ""),
        ],
        checks::marathon,
    ),
    section(named!("msk"), true, aws![CLUSTERS, ("request_concurrency", Number, "10")], checks::nothing),
    section(named!("nerve"), false, ZOOKEEPER, checks::zookeeper),
    section(
        named!("nomad"),
        true,
        &[
            ("allow_stale", Flag, "true"),
            ("namespace", Text, "default"),
            EACH_MINUTE,
            ("region", Text, "global"),
            ("server", Text, "http://localhost:4646"),
            ("tag_separator", Text, ","),
        ],
        checks::nomad,
    ),
    section(named!("oci"), true, OCI, checks::oci),
    section(named!("openstack"), false, OPENSTACK, checks::openstack),
    section(
        named!("outscale"),
        true,
        &[("region", Text, "eu-west-2"), ACCESS_KEY, SECRET_KEY, SECRET_KEY_FILE, ENDPOINT, PORT, EACH_MINUTE],
        checks::outscale,
    ),
    section(
        named!("ovhcloud"),
        false,
        &[
            ("endpoint", Text, "ovh-eu"),
            ("application_key", Text, ""),
            ("application_secret", Secret, ""),
            ("consumer_key", Secret, ""),
            EACH_MINUTE,
            ("service", Text, ""),
        ],
        checks::ovhcloud,
    ),
    section(
        named!("puppetdb"),
        true,
        &[EACH_MINUTE, ("url", Text, ""), ("query", Text, ""), ("include_parameters", Flag, ""), PORT],
        checks::puppetdb,
    ),
    section(named!("rds"), true, aws![CLUSTERS, FILTERS, ("request_concurrency", Number, "10")], checks::nothing),
    section(named!("scaleway"), true, SCALEWAY, checks::scaleway),
    section(named!("serverset"), false, ZOOKEEPER, checks::zookeeper),
    section(named!("stackit"), true, STACKIT, checks::stackit),
    section(
        named!("triton"),
        false,
        &[
            ("account", Text, ""),
            ("role", Text, "container"),
            ("dns_suffix", Text, ""),
            ENDPOINT,
            ("groups", Texts, ""),
            ("port", Number, "9163"),
            EACH_MINUTE,
            ("tls_config", Tls, ""),
            ("version", Number, "1"),
        ],
        checks::triton,
    ),
    section(
        named!("uyuni"),
        true,
        &[
            ("server", Text, ""),
            ("username", Text, ""),
            ("password", Secret, ""),
            ("entitlement", Text, "monitoring_entitled"),
            ("separator", Text, ","),
            EACH_MINUTE,
        ],
        checks::uyuni,
    ),
    section(named!("vultr"), true, &[EACH_MINUTE, PORT], checks::nothing),
];
