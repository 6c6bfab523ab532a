//! OpenStack: hypervisors, the addresses of instances, and load balancers, behind a token of Keystone.

use super::super::host_port;
use super::row::{Label, Row, text_at};
use super::session::{Answer, Call, Session, below, reveal};
use Label::{At, Between, Map};
use client::Url;
use serde_json::{Value, json};
use series::Labels;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const PREFIX: &str = "__meta_openstack_";

const HYPERVISOR: &[Label] = &[
    At("hypervisor_id", "/id"),
    At("hypervisor_hostname", "/hypervisor_hostname"),
    At("hypervisor_host_ip", "/host_ip"),
    At("hypervisor_status", "/status"),
    At("hypervisor_state", "/state"),
    At("hypervisor_type", "/hypervisor_type"),
];

const INSTANCE: &[Label] = &[
    At("instance_id", "/id"),
    At("instance_name", "/name"),
    At("instance_status", "/status"),
    At("project_id", "/tenant_id"),
    At("user_id", "/user_id"),
    At("instance_image", "/image/id"),
    Map("tag_", "/metadata"),
];

const LOADBALANCER: &[Label] = &[
    At("loadbalancer_id", "/id"),
    At("loadbalancer_name", "/name"),
    At("loadbalancer_operating_status", "/operating_status"),
    At("loadbalancer_provisioning_status", "/provisioning_status"),
    At("loadbalancer_availability_zone", "/availability_zone"),
    At("loadbalancer_vip", "/vip_address"),
    At("loadbalancer_provider", "/provider"),
    At("project_id", "/project_id"),
    Between("loadbalancer_tags", "/tags"),
];

/// A token, and the endpoints of the services in the region.
struct Cloud<'a> {
    session: &'a Session,
    token: String,
    catalog: Vec<Value>,
}

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let cloud = log_in(session).await?;
    match session.text("role") {
        "hypervisor" => hypervisors(&cloud).await,
        "loadbalancer" => load_balancers(&cloud).await,
        _ => instances(&cloud).await,
    }
}

/// What the section or, without an endpoint in it, the environment says.
struct Credentials<'a> {
    session: &'a Session,
    from_environment: bool,
}

impl Credentials<'_> {
    fn of(&self, field: &str, variables: &[&str]) -> String {
        if !self.from_environment {
            return self.session.text(field).to_owned();
        }
        variables.iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty()).unwrap_or_default()
    }

    fn secret(&self, field: &str, variable: &str) -> String {
        if self.from_environment {
            let secret = std::env::var(variable).unwrap_or_default();
            self.session.hide(&secret);
            secret
        } else {
            reveal(self.session.settings().secret(field)).to_owned()
        }
    }
}

/// Returns the non-empty ones of these as an object.
fn object(pairs: &[(&str, Value)]) -> Value {
    let is_given = |value: &Value| !value.is_null() && value.as_str() != Some("");
    pairs.iter().filter(|(_, value)| is_given(value)).map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

async fn log_in(session: &Session) -> Result<Cloud<'_>, String> {
    let from_environment = session.text("identity_endpoint").is_empty();
    let given = Credentials { session, from_environment };
    let endpoint = given.of("identity_endpoint", &["OS_AUTH_URL"]);
    if endpoint.is_empty() {
        return Err("could not authenticate to OpenStack: neither identity_endpoint nor OS_AUTH_URL is set".to_owned());
    }
    let domain = object(&[
        ("id", given.of("domain_id", &["OS_DOMAIN_ID", "OS_USER_DOMAIN_ID"]).into()),
        ("name", given.of("domain_name", &["OS_DOMAIN_NAME", "OS_USER_DOMAIN_NAME"]).into()),
    ]);
    let domain = if domain.as_object().is_some_and(|fields| fields.is_empty()) { Value::Null } else { domain };
    let user_id = given.of("userid", &["OS_USERID", "OS_USER_ID"]);
    // A user who is named by an id needs no domain.
    let user_domain = if user_id.is_empty() { domain.clone() } else { Value::Null };
    let user = [
        ("id", Value::from(user_id)),
        ("name", given.of("username", &["OS_USERNAME"]).into()),
        ("domain", user_domain),
    ];
    let application_id = given.of("application_credential_id", &["OS_APPLICATION_CREDENTIAL_ID"]);
    let application_name = given.of("application_credential_name", &["OS_APPLICATION_CREDENTIAL_NAME"]);
    let auth = if application_id.is_empty() && application_name.is_empty() {
        let mut user = object(&user);
        user["password"] = given.secret("password", "OS_PASSWORD").into();
        let project_id = given.of("project_id", &["OS_PROJECT_ID", "OS_TENANT_ID"]);
        let project_name = given.of("project_name", &["OS_PROJECT_NAME", "OS_TENANT_NAME"]);
        let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
        if !project_id.is_empty() {
            auth["scope"] = json!({"project": {"id": project_id}});
        } else if !project_name.is_empty() {
            auth["scope"] = json!({"project": object(&[("name", project_name.into()), ("domain", domain)])});
        }
        auth
    } else {
        let secret = given.secret("application_credential_secret", "OS_APPLICATION_CREDENTIAL_SECRET");
        let mut credential = object(&[("id", application_id.as_str().into()), ("secret", secret.into())]);
        if application_id.is_empty() {
            credential["name"] = application_name.into();
            credential["user"] = object(&user);
        }
        json!({"identity": {"methods": ["application_credential"], "application_credential": credential}})
    };
    let path = if endpoint.trim_end_matches('/').ends_with("/v3") { "auth/tokens" } else { "v3/auth/tokens" };
    let call = Call::post(below(&endpoint, path)?, &json!({"auth": auth})).any_success();
    let failed = |error: String| format!("could not authenticate to OpenStack: {error}");
    let answer = session.call(call).await.map_err(|error| failed(error.text))?;
    let token = answer.header("x-subject-token").to_owned();
    if token.is_empty() {
        return Err(failed("the answer has no header X-Subject-Token".to_owned()));
    }
    session.hide(&token);
    let mut body = answer.body;
    let catalog = super::row::rows_of(&mut body, "/token/catalog").map_err(failed)?;
    Ok(Cloud { session, token, catalog })
}

impl Cloud<'_> {
    /// The URL of a service in the region, with a version behind it.
    fn endpoint(&self, kind: &str, name: &str, version: &str) -> Result<String, String> {
        let (interface, region) = (self.session.text("availability"), self.session.text("region"));
        let is_ours = |endpoint: &&Value| {
            text_at(endpoint, "/interface") == interface
                && [text_at(endpoint, "/region"), text_at(endpoint, "/region_id")].contains(&region)
        };
        let services = self.catalog.iter().filter(|service| text_at(service, "/type") == kind);
        let mut endpoints =
            services.flat_map(|service| service.get("endpoints").and_then(Value::as_array).into_iter().flatten());
        let url = endpoints.find(is_ours).map(|endpoint| text_at(endpoint, "/url").trim_end_matches('/'));
        let Some(url) = url.filter(|url| !url.is_empty()) else {
            return Err(format!(
                "could not create OpenStack {name} session: no {interface} endpoint of type {kind} in region {region:?}"
            ));
        };
        let is_version =
            |part: &str| part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        Ok(if url.split('/').any(is_version) { url.to_owned() } else { format!("{url}/{version}") })
    }

    /// All pages of a list. Of a link to the next page only its parameters count: they are asked of the same place.
    async fn list(&self, endpoint: &str, path: &str, list: &str) -> Result<Vec<Value>, String> {
        let call = Call::get(below(endpoint, path)?).secret_header("x-auth-token", &self.token);
        let links = format!("/{list}_links");
        let first = call.clone();
        let next = |answer: &Answer, _| {
            let links = answer.body.pointer(&links)?.as_array()?;
            let link = links.iter().find(|link| text_at(link, "/rel") == "next")?;
            let url = Url::parse(text_at(link, "/href")).ok()?;
            Some(call.clone().query(url.query()))
        };
        self.session.pages(first, &format!("/{list}"), next).await
    }
}

async fn hypervisors(cloud: &Cloud<'_>) -> Result<Vec<Labels>, String> {
    let compute = cloud.endpoint("compute", "compute", "v2.1")?;
    let rows = cloud.list(&compute, "os-hypervisors/detail", "hypervisors").await?;
    let target = |hypervisor: &Value| {
        let mut row = Row::new(PREFIX);
        row.fill(HYPERVISOR, hypervisor);
        let host = row.scalar(hypervisor, "/host_ip");
        row.address(&host, cloud.session.port());
        row.finish()
    };
    rows.iter().map(target).collect()
}

async fn instances(cloud: &Cloud<'_>) -> Result<Vec<Labels>, String> {
    let network = cloud.endpoint("network", "network", "v2.0")?;
    let compute = cloud.endpoint("compute", "compute", "v2.1")?;
    let ports = cloud.list(&network, "ports", "ports").await?;
    let devices: HashMap<&str, &str> =
        ports.iter().map(|port| (text_at(port, "/id"), text_at(port, "/device_id"))).collect();
    let floating = cloud.list(&network, "floatingips", "floatingips").await?;
    let mut public: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut floating_addresses: BTreeSet<&str> = BTreeSet::new();
    for ip in &floating {
        let (address, fixed) = (text_at(ip, "/floating_ip_address"), text_at(ip, "/fixed_ip_address"));
        if fixed.is_empty() {
            continue;
        }
        floating_addresses.insert(address);
        if let Some(device) = devices.get(text_at(ip, "/port_id")) {
            public.insert((device, fixed), address);
        }
    }
    let all = if cloud.session.settings().flag("all_tenants") { "?all_tenants=true" } else { "" };
    let servers = cloud.list(&compute, &format!("servers/detail{all}"), "servers").await?;
    let mut targets = Vec::new();
    for server in &servers {
        let Some(pools) = server.get("addresses").and_then(Value::as_object) else { continue };
        let flavor = match text_at(server, "/flavor/original_name") {
            "" => text_at(server, "/flavor/id"),
            name => name,
        };
        if flavor.is_empty() {
            cloud.session.warn(format!("server {:?} is left out: it has no flavor", text_at(server, "/id")));
            continue;
        }
        let mut common = Row::new(PREFIX);
        common.fill(INSTANCE, server);
        common.set("instance_flavor", flavor);
        for (pool, addresses) in pools {
            for address in addresses.as_array().into_iter().flatten() {
                let ip = text_at(address, "/addr");
                if ip.is_empty() || floating_addresses.contains(ip) {
                    continue;
                }
                let mut row = common.clone();
                row.set("address_pool", pool.as_str());
                row.set("private_ip", ip);
                if let Some(public) = public.get(&(text_at(server, "/id"), ip)) {
                    row.set("public_ip", *public);
                }
                row.set_plain("__address__", host_port(ip, cloud.session.port()));
                targets.push(row.finish()?);
            }
        }
    }
    Ok(targets)
}

async fn load_balancers(cloud: &Cloud<'_>) -> Result<Vec<Labels>, String> {
    let network = cloud.endpoint("network", "network", "v2.0")?;
    let balancing = cloud.endpoint("load-balancer", "load balancer", "v2.0")?;
    let balancers = cloud.list(&balancing, "lbaas/loadbalancers", "loadbalancers").await?;
    let listeners = cloud.list(&balancing, "lbaas/listeners", "listeners").await?;
    let floating = cloud.list(&network, "floatingips", "floatingips").await?;
    let floating: HashMap<&str, &str> =
        floating.iter().map(|ip| (text_at(ip, "/port_id"), text_at(ip, "/floating_ip_address"))).collect();
    let mut ports: HashMap<&str, u64> = HashMap::new();
    for listener in listeners.iter().filter(|listener| text_at(listener, "/protocol") == "PROMETHEUS") {
        let port = listener.get("protocol_port").and_then(Value::as_u64).unwrap_or_default();
        for balancer in listener.get("loadbalancers").and_then(Value::as_array).into_iter().flatten() {
            ports.insert(text_at(balancer, "/id"), port);
        }
    }
    let mut targets = Vec::new();
    for balancer in &balancers {
        let Some(port) = ports.get(text_at(balancer, "/id")) else { continue };
        let mut row = Row::new(PREFIX);
        row.fill(LOADBALANCER, balancer);
        let vip_port = text_at(balancer, "/vip_port_id");
        row.set(
            "loadbalancer_floating_ip",
            floating.get(vip_port).copied().filter(|_| !vip_port.is_empty()).unwrap_or(""),
        );
        row.address(text_at(balancer, "/vip_address"), port);
        targets.push(row.finish()?);
    }
    Ok(targets)
}
