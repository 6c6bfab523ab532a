//! MSK: the brokers and controllers of Kafka clusters.

use super::super::row::{Label, Row, text_at};
use super::super::session::{Answer, Call, Session, form_of, segment};
use super::Account;
use Label::{At, Map};
use serde_json::Value;
use series::Labels;

const PREFIX: &str = "__meta_msk_";

const CLUSTER: &[Label] = &[
    At("cluster_name", "/clusterName"),
    At("cluster_arn", "/clusterArn"),
    At("cluster_state", "/state"),
    At("cluster_type", "/clusterType"),
    At("cluster_version", "/currentVersion"),
    At("cluster_kafka_version", "/provisioned/currentBrokerSoftwareInfo/kafkaVersion"),
    At("cluster_configuration_arn", "/provisioned/currentBrokerSoftwareInfo/configurationArn"),
    At("cluster_configuration_revision", "/provisioned/currentBrokerSoftwareInfo/configurationRevision"),
    At("cluster_jmx_exporter_enabled", "/provisioned/openMonitoring/prometheus/jmxExporter/enabledInBroker"),
    Map("cluster_tag_", "/tags"),
];

const NODE: &[Label] = &[
    At("node_arn", "/nodeARN"),
    At("node_added_time", "/addedToClusterTime"),
    At("node_instance_type", "/instanceType"),
];

const BROKER: &[Label] = &[
    At("node_attached_eni", "/brokerNodeInfo/attachedENIId"),
    At("broker_client_subnet", "/brokerNodeInfo/clientSubnet"),
    At("broker_client_vpc_ip", "/brokerNodeInfo/clientVpcIpAddress"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let account = Account::of(session).await?;
    let clusters = clusters(&account).await.inspect_err(|_| session.forget("credentials"))?;
    let mut targets = Vec::new();
    for cluster in &clusters {
        let arn = text_at(cluster, "/clusterArn");
        let nodes = list(&account, &format!("v1/clusters/{}/nodes", segment(arn)), &[], "/nodeInfoList").await;
        let nodes = nodes.map_err(|error| format!("could not list nodes for cluster {arn}: {error}"))?;
        for node in &nodes {
            node_targets(&account, cluster, node, &mut targets)?;
        }
    }
    Ok(targets)
}

async fn clusters(account: &Account<'_>) -> Result<Vec<Value>, String> {
    let wanted = account.session.settings().texts("clusters");
    if wanted.is_empty() {
        let filter = [("clusterTypeFilter", "PROVISIONED")];
        let clusters = list(account, "api/v2/clusters", &filter, "/clusterInfoList").await;
        return clusters.map_err(|error| format!("could not list clusters: {error}"));
    }
    let call = |arn: &String| account.rest("kafka", &format!("api/v2/clusters/{}", segment(arn)));
    let calls = wanted.iter().map(call).collect::<Result<Vec<Call>, String>>()?;
    let mut clusters = Vec::new();
    for mut answer in account.session.all(calls).await? {
        let Some(cluster) = answer.body.get_mut("clusterInfo").map(Value::take).filter(Value::is_object) else {
            return Err("the answer has no clusterInfo".to_owned());
        };
        // Others have no nodes.
        if text_at(&cluster, "/clusterType") == "PROVISIONED" {
            clusters.push(cluster);
        }
    }
    Ok(clusters)
}

async fn list(account: &Account<'_>, path: &str, params: &[(&str, &str)], pointer: &str) -> Result<Vec<Value>, String> {
    let page = |token: &str| {
        let mut all = params.to_vec();
        all.push(("maxResults", "100"));
        if !token.is_empty() {
            all.push(("nextToken", token));
        }
        account.rest("kafka", &format!("{path}?{}", form_of(&all)))
    };
    let next = |answer: &Answer, _| {
        let token = text_at(&answer.body, "/nextToken");
        if token.is_empty() { None } else { page(token).ok() }
    };
    account.session.pages(page("")?, pointer, next).await
}

fn node_targets(account: &Account, cluster: &Value, node: &Value, targets: &mut Vec<Labels>) -> Result<(), String> {
    let mut row = Row::new(PREFIX);
    row.fill(CLUSTER, cluster);
    row.fill(NODE, node);
    let (kind, label) = if node.get("brokerNodeInfo").is_some_and(Value::is_object) {
        row.set("node_type", "BROKER");
        row.fill(BROKER, node);
        row.fill(
            &[At(
                "broker_node_exporter_enabled",
                "/provisioned/openMonitoring/prometheus/nodeExporter/enabledInBroker",
            )],
            cluster,
        );
        let id = node.pointer("/brokerNodeInfo/brokerId").and_then(Value::as_f64).unwrap_or(0.0);
        row.set("broker_id", format!("{id:.0}"));
        ("brokerNodeInfo", "broker_endpoint_index")
    } else if node.get("controllerNodeInfo").is_some_and(Value::is_object) {
        row.set("node_type", "CONTROLLER");
        ("controllerNodeInfo", "controller_endpoint_index")
    } else {
        return Ok(());
    };
    for (index, endpoint) in row.scalars(node, &format!("/{kind}/endpoints")).iter().enumerate() {
        let mut row = row.clone();
        row.set(label, index.to_string());
        row.address(endpoint, account.session.port());
        targets.push(row.finish()?);
    }
    row.finish().map(drop)
}
