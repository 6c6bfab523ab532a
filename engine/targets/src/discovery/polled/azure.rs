//! Azure: virtual machines and those of scale sets, with the addresses of their primary network interfaces.

use super::super::random;
use super::jwt;
use super::row::{Label, Row, text_at};
use super::session::{Answer, Call, Session, below, read_secret, reveal, segment, with_params};
use Label::{At, Map};
use client::{StatusCode, Url};
use serde_json::Value;
use series::Labels;
use std::path::Path;

const PREFIX: &str = "__meta_azure_";
const METADATA: &str = "http://169.254.169.254/metadata/identity/oauth2/token";

/// A cloud of Azure: its tokens, its interface, and for what a token is asked.
struct Cloud {
    login: &'static str,
    management: &'static str,
    resource: &'static str,
}

const PUBLIC: Cloud = Cloud {
    login: "https://login.microsoftonline.com",
    management: "https://management.azure.com",
    resource: "https://management.core.windows.net/",
};
const CHINA: Cloud = Cloud {
    login: "https://login.chinacloudapi.cn",
    management: "https://management.chinacloudapi.cn",
    resource: "https://management.core.chinacloudapi.cn/",
};
const GOVERNMENT: Cloud = Cloud {
    login: "https://login.microsoftonline.us",
    management: "https://management.usgovcloudapi.net",
    resource: "https://management.core.usgovcloudapi.net/",
};

const LABELS: &[Label] = &[
    At("machine_id", "/id"),
    At("machine_name", "/name"),
    At("machine_computer_name", "/properties/osProfile/computerName"),
    At("machine_os_type", "/properties/storageProfile/osDisk/osType"),
    At("machine_location", "/location"),
    At("machine_size", "/properties/hardwareProfile/vmSize"),
    Map("machine_tag_", "/tags"),
];

/// A machine, and the scale set that it belongs to.
struct Machine {
    value: Value,
    scale_set: String,
}

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let cloud = cloud(session.text("environment"))?;
    let token = token(session, &cloud).await?;
    let found = find(session, &cloud, &token).await;
    if found.is_err() {
        session.forget("token");
    }
    found
}

fn cloud(name: &str) -> Result<Cloud, String> {
    match name.to_ascii_lowercase().as_str() {
        "azurepubliccloud" | "azurecloud" | "azuregermancloud" => Ok(PUBLIC),
        "azurechinacloud" => Ok(CHINA),
        "azureusgovernment" | "azureusgovernmentcloud" => Ok(GOVERNMENT),
        _ => Err(format!("unknown environment {name:?}")),
    }
}

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The token for the management interface, by the method of the section.
async fn token(session: &Session, cloud: &Cloud) -> Result<String, String> {
    let settings = session.settings();
    let has_assertion = !environment("AZURE_FEDERATED_TOKEN_FILE").is_empty();
    let method = match settings.text("authentication_method") {
        "SDK" if !environment("AZURE_CLIENT_SECRET").is_empty() => "environment",
        "SDK" if has_assertion => "WorkloadIdentity",
        "SDK" => "ManagedIdentity",
        method => method,
    };
    let or = |field: &str, variable: &str| match settings.text(field) {
        "" => environment(variable),
        text => text.to_owned(),
    };
    let scope = format!("{}/.default", cloud.resource);
    let (client_id, tenant, proof) = match method {
        "ManagedIdentity" => {
            let params = [
                ("api-version", "2018-02-01"),
                ("resource", cloud.resource),
                ("client_id", settings.text("client_id")),
            ];
            let url = with_params(Url::parse(METADATA).map_err(|error| error.to_string())?, &params);
            if let Some(token) = session.recall("token") {
                return Ok(token.as_str().unwrap_or_default().to_owned());
            }
            return jwt::take_token(session, "token", Call::get(url).plain().header("metadata", "true")).await;
        }
        "WorkloadIdentity" => {
            let file = environment("AZURE_FEDERATED_TOKEN_FILE");
            if file.is_empty() {
                return Err("AZURE_FEDERATED_TOKEN_FILE is not set".to_owned());
            }
            let assertion = read_secret(Path::new(&file)).await?;
            session.hide(&assertion);
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned();
            let proof = vec![("client_assertion_type", kind), ("client_assertion", assertion)];
            (or("client_id", "AZURE_CLIENT_ID"), or("tenant_id", "AZURE_TENANT_ID"), proof)
        }
        "environment" => {
            let secret = environment("AZURE_CLIENT_SECRET");
            session.hide(&secret);
            (environment("AZURE_CLIENT_ID"), environment("AZURE_TENANT_ID"), vec![("client_secret", secret)])
        }
        _ => {
            let secret = reveal(settings.secret("client_secret")).to_owned();
            (
                settings.text("client_id").to_owned(),
                settings.text("tenant_id").to_owned(),
                vec![("client_secret", secret)],
            )
        }
    };
    let mut form = vec![("client_id", client_id.as_str())];
    form.extend(proof.iter().map(|(name, value)| (*name, value.as_str())));
    form.extend([("grant_type", "client_credentials"), ("scope", scope.as_str())]);
    let url = below(cloud.login, &format!("{}/oauth2/v2.0/token", segment(&tenant)))?;
    jwt::token(session, "token", url, &form).await
}

async fn find(session: &Session, cloud: &Cloud, token: &str) -> Result<Vec<Labels>, String> {
    let settings = session.settings();
    let mut scope = format!("subscriptions/{}", segment(settings.text("subscription_id")));
    if !settings.text("resource_group").is_empty() {
        scope = format!("{scope}/resourceGroups/{}", segment(settings.text("resource_group")));
    }
    let compute = format!("{scope}/providers/Microsoft.Compute");
    let mut machines = Vec::new();
    for value in list(session, cloud, token, &format!("{compute}/virtualMachines")).await? {
        machines.push(Machine { value, scale_set: String::new() });
    }
    for set in list(session, cloud, token, &format!("{compute}/virtualMachineScaleSets")).await? {
        let (id, name) = (text_at(&set, "/id"), text_at(&set, "/name").to_owned());
        let group = part_after(id, "resourceGroups");
        let subscription = segment(settings.text("subscription_id"));
        let path = format!(
            "subscriptions/{subscription}/resourceGroups/{}/providers/Microsoft.Compute/virtualMachineScaleSets/{}/virtualMachines",
            segment(group),
            segment(&name)
        );
        for value in list(session, cloud, token, &path).await? {
            machines.push(Machine { value, scale_set: name.clone() });
        }
    }
    let interfaces = interfaces(session, cloud, token, &machines).await?;
    let mut targets = Vec::new();
    for (machine, interfaces) in machines.iter().zip(interfaces) {
        targets.extend(target(session, machine, &interfaces)?);
    }
    Ok(targets)
}

async fn list(session: &Session, cloud: &Cloud, token: &str, path: &str) -> Result<Vec<Value>, String> {
    let url = with_params(below(cloud.management, path)?, &[("api-version", "2024-03-01")]);
    let call = Call::get(url).bearer(token);
    let first = call.clone();
    let next = |answer: &Answer, _| {
        let link = Url::parse(text_at(&answer.body, "/nextLink")).ok()?;
        Some(call.clone().query(link.query()))
    };
    session.pages(first, "/value", next).await
}

/// The part of an id after one of this name.
fn part_after<'a>(id: &'a str, name: &str) -> &'a str {
    let mut parts = id.split('/');
    parts.find(|part| part.eq_ignore_ascii_case(name));
    parts.next().unwrap_or("")
}

fn interface_ids(machine: &Machine) -> impl Iterator<Item = &str> {
    let list = machine.value.pointer("/properties/networkProfile/networkInterfaces").and_then(Value::as_array);
    list.into_iter().flatten().map(|interface| text_at(interface, "/id"))
}

/// The network interfaces of each machine; one that is gone is null. They are kept for ten refreshes or somewhat more.
async fn interfaces(
    session: &Session,
    cloud: &Cloud,
    token: &str,
    machines: &[Machine],
) -> Result<Vec<Vec<Value>>, String> {
    let mut calls = Vec::new();
    let mut wanted = Vec::new();
    let mut found: Vec<Vec<Value>> = machines.iter().map(|_| Vec::new()).collect();
    for (index, machine) in machines.iter().enumerate() {
        for id in interface_ids(machine) {
            let version = if machine.scale_set.is_empty() { "2023-05-01" } else { "2018-10-01" };
            let params = [("$expand", "IPConfigurations/PublicIPAddress"), ("api-version", version)];
            let name = format!("nic {id}");
            let kept = session.recall(&name);
            session.count_cache_hits(u64::from(kept.is_some()));
            found[index].push(kept.unwrap_or(Value::Null));
            if found[index].last() == Some(&Value::Null) {
                // The id is a path of the interface; one with other characters leads nowhere.
                let path: Vec<String> = id.split('/').map(segment).collect();
                calls.push(Call::get(with_params(below(cloud.management, &path.join("/"))?, &params)).bearer(token));
                wanted.push((index, found[index].len() - 1, name));
            }
        }
    }
    for ((machine, at, name), answer) in wanted.into_iter().zip(session.each(calls).await?) {
        match answer {
            Ok(answer) => {
                let refreshes = 10.0 + (random() % 300) as f64 / 100.0;
                session.keep(
                    &name,
                    answer.body.clone(),
                    Some(session.settings().refresh_interval().mul_f64(refreshes)),
                );
                found[machine][at] = answer.body;
            }
            Err(error) if error.status == Some(StatusCode::NOT_FOUND) => {}
            Err(error) => return Err(error.text),
        }
    }
    Ok(found)
}

fn target(session: &Session, machine: &Machine, interfaces: &[Value]) -> Result<Option<Labels>, String> {
    let mut row = Row::new(PREFIX);
    row.set("subscription_id", session.text("subscription_id"));
    row.set("tenant_id", session.text("tenant_id"));
    row.fill(LABELS, &machine.value);
    row.set("machine_resource_group", part_after(text_at(&machine.value, "/id"), "resourceGroups"));
    row.set("machine_scale_set", machine.scale_set.as_str());
    for interface in interfaces {
        match interface.pointer("/properties/primary").and_then(Value::as_bool) {
            // Gone, or of a machine that is not running.
            None => return row.finish().map(|_| None),
            Some(false) => continue,
            Some(true) => {}
        }
        let Some(configuration) = interface.pointer("/properties/ipConfigurations/0/properties") else { continue };
        row.set("machine_public_ip", text_at(configuration, "/publicIPAddress/properties/ipAddress"));
        let private = text_at(configuration, "/privateIPAddress");
        if private.is_empty() {
            return Err(format!("unable to find a private IP for VM {}", text_at(&machine.value, "/name")));
        }
        row.set("machine_private_ip", private);
        row.address(private, session.port());
        return row.finish().map(Some);
    }
    row.finish().map(|_| None)
}
