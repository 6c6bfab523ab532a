//! ECS: the tasks of clusters, with the addresses of their interfaces or of the machines that they run on.

use super::super::row::{Label, Row, rows_of, text_at};
use super::super::session::{Answer, Session};
use super::{Account, Query, ec2, numbered};
use Label::{At, Pairs};
use serde_json::{Value, json};
use series::Labels;
use std::collections::HashMap;

const PREFIX: &str = "__meta_ecs_";
/// Machines and interfaces are asked of EC2; the endpoint of the section is that of ECS.
const MACHINES: Query = Query { has_endpoint: false, ..ec2::SERVICE };

const TASK: &[Label] = &[
    At("task_group", "/group"),
    At("task_arn", "/taskArn"),
    At("task_definition", "/taskDefinitionArn"),
    At("launch_type", "/launchType"),
    At("availability_zone", "/availabilityZone"),
    At("desired_status", "/desiredStatus"),
    At("last_status", "/lastStatus"),
    At("health_status", "/healthStatus"),
    At("platform_family", "/platformFamily"),
    At("platform_version", "/platformVersion"),
    At("container_instance_arn", "/containerInstanceArn"),
    Pairs("tag_task_", "/tags", "/key", "/value"),
];

const CLUSTER: &[Label] = &[
    At("cluster", "/clusterName"),
    At("cluster_arn", "/clusterArn"),
    Pairs("tag_cluster_", "/tags", "/key", "/value"),
];

const SERVICE: &[Label] = &[
    At("service", "/serviceName"),
    At("service_arn", "/serviceArn"),
    At("service_status", "/status"),
    Pairs("tag_service_", "/tags", "/key", "/value"),
];

const MACHINE: &[Label] = &[
    At("ec2_instance_id", "/instanceId"),
    At("ec2_instance_type", "/instanceType"),
    At("ec2_instance_private_ip", "/privateIpAddress"),
    At("ec2_instance_public_ip", "/ipAddress"),
    Pairs("tag_ec2_", "/tagSet", "/key", "/value"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let account = Account::of(session).await?;
    let wanted = session.settings().texts("clusters");
    let clusters = if wanted.is_empty() {
        let listed = list(&account, "ListClusters", json!({}), "/clusterArns").await;
        listed.inspect_err(|_| session.forget("credentials"))?
    } else {
        wanted.to_vec()
    };
    let described = describe(&account, "DescribeClusters", &clusters, 100, |batch| {
        (json!({"clusters": batch, "include": ["TAGS"]}), "/clusters")
    });
    let described = described.await?;
    let by_arn: HashMap<&str, &Value> =
        described.iter().map(|cluster| (text_at(cluster, "/clusterArn"), cluster)).collect();
    let mut targets = Vec::new();
    let mut failed = 0;
    for name in &clusters {
        let is_named = |cluster: &&&Value| text_at(cluster, "/clusterName") == name;
        let cluster = by_arn.get(name.as_str()).or_else(|| by_arn.values().find(is_named)).copied();
        match cluster_targets(&account, name, cluster.unwrap_or(&Value::Null)).await {
            Ok(found) => targets.extend(found),
            Err(error) => {
                failed += 1;
                session.warn(format!("cluster {name} is left out: {error}"));
            }
        }
    }
    if failed > 0 && failed == clusters.len() {
        session.forget("credentials");
        return Err(session.warnings().into_iter().next().unwrap_or_default());
    }
    Ok(targets)
}

fn target_of(action: &str) -> String {
    format!("AmazonEC2ContainerServiceV20141113.{action}")
}

/// All pages of a list of ARNs.
async fn list(account: &Account<'_>, action: &str, body: Value, pointer: &str) -> Result<Vec<String>, String> {
    let page = |token: &str| {
        let mut body = body.clone();
        body["maxResults"] = 100.into();
        if !token.is_empty() {
            body["nextToken"] = token.into();
        }
        account.json("ecs", &target_of(action), &body)
    };
    let next = |answer: &Answer, _| {
        let token = text_at(&answer.body, "/nextToken");
        if token.is_empty() { None } else { page(token).ok() }
    };
    let rows = account.session.pages(page("")?, pointer, next).await.map_err(|error| format!("{action}: {error}"))?;
    Ok(rows.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The descriptions of all these, asked for in batches.
async fn describe(
    account: &Account<'_>,
    action: &str,
    all: &[String],
    batch_max: usize,
    body: impl Fn(&[String]) -> (Value, &'static str),
) -> Result<Vec<Value>, String> {
    let mut calls = Vec::new();
    let mut pointer = "";
    for batch in all.chunks(batch_max) {
        let (body, list) = body(batch);
        pointer = list;
        calls.push(account.json("ecs", &target_of(action), &body)?);
    }
    let mut rows = Vec::new();
    for mut answer in account.session.all(calls).await.map_err(|error| format!("{action}: {error}"))? {
        rows.append(&mut rows_of(&mut answer.body, pointer)?);
    }
    Ok(rows)
}

async fn cluster_targets(account: &Account<'_>, name: &str, cluster: &Value) -> Result<Vec<Labels>, String> {
    let services = list(account, "ListServices", json!({"cluster": name}), "/serviceArns").await?;
    let tasks = list(account, "ListTasks", json!({"cluster": name}), "/taskArns").await?;
    let services = describe(account, "DescribeServices", &services, 10, |batch| {
        (json!({"cluster": name, "services": batch, "include": ["TAGS"]}), "/services")
    });
    let services = services.await?;
    let tasks = describe(account, "DescribeTasks", &tasks, 100, |batch| {
        (json!({"cluster": name, "tasks": batch, "include": ["TAGS"]}), "/tasks")
    });
    let tasks = tasks.await?;
    let containers: Vec<String> = distinct(tasks.iter().map(|task| text_at(task, "/containerInstanceArn")));
    let containers = describe(account, "DescribeContainerInstances", &containers, 100, |batch| {
        (json!({"cluster": name, "containerInstances": batch}), "/containerInstances")
    });
    let containers = containers.await?;
    let ids = distinct(containers.iter().map(|container| text_at(container, "/ec2InstanceId")));
    let machines = machines(account, &ids).await?;
    let interfaces = distinct(tasks.iter().filter_map(interface).map(|details| detail(details, "networkInterfaceId")));
    let public = public_addresses(account, &interfaces).await?;
    let by_name: HashMap<&str, &Value> =
        services.iter().map(|service| (text_at(service, "/serviceName"), service)).collect();
    let machine_of: HashMap<&str, &Value> = containers
        .iter()
        .filter_map(|container| {
            let machine = machines.get(text_at(container, "/ec2InstanceId"))?;
            Some((text_at(container, "/containerInstanceArn"), machine))
        })
        .collect();
    let mut targets = Vec::new();
    for task in &tasks {
        let service = text_at(task, "/group").strip_prefix("service:").and_then(|name| by_name.get(name)).copied();
        let machine = machine_of.get(text_at(task, "/containerInstanceArn")).copied();
        targets.extend(target(account, (cluster, service, machine), task, &public)?);
    }
    Ok(targets)
}

fn distinct<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut texts: Vec<String> = texts.filter(|text| !text.is_empty()).map(str::to_owned).collect();
    texts.sort();
    texts.dedup();
    texts
}

/// The details of the interface of a task.
fn interface(task: &Value) -> Option<&Vec<Value>> {
    let attachments = task.get("attachments")?.as_array()?;
    let attachment = attachments.iter().find(|attachment| text_at(attachment, "/type") == "ElasticNetworkInterface")?;
    attachment.get("details")?.as_array()
}

fn detail<'a>(details: &'a [Value], name: &str) -> &'a str {
    details.iter().find(|detail| text_at(detail, "/name") == name).map_or("", |detail| text_at(detail, "/value"))
}

/// Machines by their ids.
async fn machines(account: &Account<'_>, ids: &[String]) -> Result<HashMap<String, Value>, String> {
    let mut machines = HashMap::new();
    for ids in ids.chunks(100) {
        let params = numbered("InstanceId", ids.iter().map(String::as_str));
        for mut reservation in ec2::describe(account, &MACHINES, "DescribeInstances", "reservationSet", &params).await?
        {
            for machine in rows_of(&mut reservation, "/instancesSet?")? {
                machines.insert(text_at(&machine, "/instanceId").to_owned(), machine);
            }
        }
    }
    Ok(machines)
}

/// Public addresses of interfaces by their ids.
async fn public_addresses(account: &Account<'_>, ids: &[String]) -> Result<HashMap<String, String>, String> {
    let mut addresses = HashMap::new();
    for ids in ids.chunks(100) {
        let params = numbered("NetworkInterfaceId", ids.iter().map(String::as_str));
        let found = ec2::describe(account, &MACHINES, "DescribeNetworkInterfaces", "networkInterfaceSet", &params);
        for interface in found.await? {
            let (id, public) =
                (text_at(&interface, "/networkInterfaceId"), text_at(&interface, "/association/publicIp"));
            addresses.insert(id.to_owned(), public.to_owned());
        }
    }
    Ok(addresses)
}

fn target(
    account: &Account,
    (cluster, service, machine): (&Value, Option<&Value>, Option<&Value>),
    task: &Value,
    public: &HashMap<String, String>,
) -> Result<Option<Labels>, String> {
    let mut row = Row::new(PREFIX);
    row.set("region", account.region.as_str());
    row.fill(CLUSTER, cluster);
    row.fill(TASK, task);
    if let Some(service) = service {
        row.fill(SERVICE, service);
    }
    if let Some(machine) = machine {
        row.fill(MACHINE, machine);
    }
    let (address, public, subnet) = match (interface(task), machine) {
        (Some(details), _) => {
            row.set("network_mode", "awsvpc");
            let public = public.get(detail(details, "networkInterfaceId")).map_or("", String::as_str);
            (detail(details, "privateIPv4Address"), public, detail(details, "subnetId"))
        }
        (None, Some(machine)) => {
            row.set("network_mode", "bridge");
            let at = |field: &str| text_at(machine, field);
            (at("/privateIpAddress"), at("/ipAddress"), at("/subnetId"))
        }
        (None, None) => ("", "", ""),
    };
    row.set("ip_address", address);
    row.set("public_ip", public);
    row.set("subnet_id", subnet);
    row.address(address, account.session.port());
    let labels = row.finish()?;
    Ok((!address.is_empty()).then_some(labels))
}
