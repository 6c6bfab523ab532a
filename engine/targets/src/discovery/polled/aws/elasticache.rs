//! ElastiCache: the nodes of cache clusters, and serverless caches.

use super::super::row::{Label, Row, text_at};
use super::super::session::{Call, Session};
use super::super::xml;
use super::{Account, Query, fields, rds};
use Label::{Between, Pairs};
use serde_json::Value;
use series::Labels;
use std::collections::HashMap;

const PREFIX: &str = "__meta_elasticache_";
const SERVICE: Query = Query { name: "elasticache", version: "2015-02-02", has_endpoint: true };

#[rustfmt::skip]
const CLUSTER: &[&str] = &[
    "AtRestEncryptionEnabled", "AuthTokenEnabled", "AutoMinorVersionUpgrade", "CacheClusterCreateTime", "CacheClusterId",
    "CacheClusterStatus", "CacheNodeType", "CacheSubnetGroupName", "ClientDownloadLandingPage", "Engine",
    "EngineVersion", "IpDiscovery", "NetworkType", "NumCacheNodes", "PreferredAvailabilityZone",
    "PreferredMaintenanceWindow", "PreferredOutpostArn", "ReplicationGroupId", "ReplicationGroupLogDeliveryEnabled",
    "SnapshotRetentionLimit", "SnapshotWindow", "TransitEncryptionEnabled", "TransitEncryptionMode",
];

const CLUSTER_RENAMED: &[(&str, &str)] = &[
    ("arn", "/ARN"),
    ("auth_token_last_modified", "/AuthTokenLastModifiedDate"),
    ("cache_parameter_group", "/CacheParameterGroup/CacheParameterGroupName"),
    ("configuration_endpoint_address", "/ConfigurationEndpoint/Address"),
    ("configuration_endpoint_port", "/ConfigurationEndpoint/Port"),
    ("notification_topic_arn", "/NotificationConfiguration/TopicArn"),
    ("notification_topic_status", "/NotificationConfiguration/TopicStatus"),
    ("pending_modified_values_auth_token_status", "/PendingModifiedValues/AuthTokenStatus"),
    ("pending_modified_values_cache_node_type", "/PendingModifiedValues/CacheNodeType"),
    ("pending_modified_values_engine_version", "/PendingModifiedValues/EngineVersion"),
    ("pending_modified_values_num_cache_nodes", "/PendingModifiedValues/NumCacheNodes"),
    ("pending_modified_values_transit_encryption_enabled", "/PendingModifiedValues/TransitEncryptionEnabled"),
    ("pending_modified_values_transit_encryption_mode", "/PendingModifiedValues/TransitEncryptionMode"),
];

const NODE: &[(&str, &str)] = &[
    ("id", "/CacheNodeId"),
    ("status", "/CacheNodeStatus"),
    ("create_time", "/CacheNodeCreateTime"),
    ("availability_zone", "/CustomerAvailabilityZone"),
    ("customer_outpost_arn", "/CustomerOutpostArn"),
    ("source_cache_node_id", "/SourceCacheNodeId"),
    ("parameter_group_status", "/ParameterGroupStatus"),
    ("endpoint_address", "/Endpoint/Address"),
    ("endpoint_port", "/Endpoint/Port"),
];

const LOG_DELIVERY: &[(&str, &str)] = &[
    ("destination_type", "/DestinationType"),
    ("log_format", "/LogFormat"),
    ("log_type", "/LogType"),
    ("status", "/Status"),
    ("message", "/Message"),
    ("log_group", "/DestinationDetails/CloudWatchLogsDetails/LogGroup"),
    ("delivery_stream", "/DestinationDetails/KinesisFirehoseDetails/DeliveryStream"),
];

/// The names of the usage limits are those of Prometheus, which lack an underscore.
const SERVERLESS: &[(&str, &str)] = &[
    ("arn", "/ARN"),
    ("name", "/ServerlessCacheName"),
    ("create_time", "/CreateTime"),
    ("description", "/Description"),
    ("engine", "/Engine"),
    ("full_engine_version", "/FullEngineVersion"),
    ("major_engine_version", "/MajorEngineVersion"),
    ("status", "/Status"),
    ("kms_key_id", "/KmsKeyId"),
    ("user_group_id", "/UserGroupId"),
    ("daily_snapshot_time", "/DailySnapshotTime"),
    ("snapshot_retention_limit", "/SnapshotRetentionLimit"),
    ("endpoint_address", "/Endpoint/Address"),
    ("endpoint_port", "/Endpoint/Port"),
    ("endpoint_reader_address", "/ReaderEndpoint/Address"),
    ("endpoint_reader_port", "/ReaderEndpoint/Port"),
    ("cache_usage_limit_data_storagemaximum", "/CacheUsageLimits/DataStorage/Maximum"),
    ("cache_usage_limit_data_storageminimum", "/CacheUsageLimits/DataStorage/Minimum"),
    ("cache_usage_limit_data_storageunit", "/CacheUsageLimits/DataStorage/Unit"),
    ("cache_usage_limit_ecpu_per_secondmaximum", "/CacheUsageLimits/ECPUPerSecond/Maximum"),
    ("cache_usage_limit_ecpu_per_secondminimum", "/CacheUsageLimits/ECPUPerSecond/Minimum"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let account = Account::of(session).await?;
    let (serverless, clusters) = find(&account).await.inspect_err(|_| session.forget("credentials"))?;
    let mut arns: Vec<&str> = serverless.iter().chain(&clusters).map(|cache| text_at(cache, "/ARN")).collect();
    arns.retain(|arn| !arn.is_empty());
    arns.sort_unstable();
    arns.dedup();
    let tags = tags(&account, &arns).await?;
    let none = Value::Null;
    let tags_of = |cache: &Value| tags.get(text_at(cache, "/ARN")).unwrap_or(&none);
    let mut targets = Vec::new();
    for cache in &serverless {
        targets.push(serverless_target(cache, tags_of(cache))?);
    }
    for cluster in &clusters {
        cluster_targets(cluster, tags_of(cluster), &mut targets)?;
    }
    // Prometheus calls for the nodes twice and has each target twice.
    targets.sort();
    targets.dedup();
    Ok(targets)
}

/// Serverless caches, and clusters: those that are named, or all.
async fn find(account: &Account<'_>) -> Result<(Vec<Value>, Vec<Value>), String> {
    let (mut names, mut ids) = (Vec::new(), Vec::new());
    for arn in account.session.settings().texts("clusters") {
        match arn.split(':').collect::<Vec<&str>>().as_slice() {
            [_, _, _, _, _, "serverlesscache", name, ..] => names.push(Some((*name).to_owned())),
            [_, _, _, _, _, "replicationgroup", id, ..] => ids.push(Some((*id).to_owned())),
            _ => {}
        }
    }
    // As in Prometheus, a kind of which none is named is listed whole.
    for list in [&mut names, &mut ids] {
        if list.is_empty() {
            list.push(None);
        }
    }
    let mut serverless = Vec::new();
    for name in names {
        let params: Vec<_> = name.map(|name| ("ServerlessCacheName".to_owned(), name)).into_iter().collect();
        let found = rds::describe(account, &SERVICE, "DescribeServerlessCaches", "ServerlessCaches", &params);
        serverless.extend(found.await?);
    }
    let mut clusters = Vec::new();
    for id in ids {
        for is_alone in ["false", "true"] {
            let mut params = vec![
                ("ShowCacheNodeInfo".to_owned(), "true".to_owned()),
                ("ShowCacheClustersNotInReplicationGroups".to_owned(), is_alone.to_owned()),
            ];
            params.extend(id.clone().map(|id| ("CacheClusterId".to_owned(), id)));
            let found = rds::describe(account, &SERVICE, "DescribeCacheClusters", "CacheClusters", &params);
            clusters.extend(found.await?);
        }
    }
    Ok((serverless, clusters))
}

/// The tags of resources by their ARNs.
async fn tags(account: &Account<'_>, arns: &[&str]) -> Result<HashMap<String, Value>, String> {
    let call =
        |arn: &&str| account.query(&SERVICE, "ListTagsForResource", &[("ResourceName".to_owned(), (*arn).to_owned())]);
    let calls = arns.iter().map(call).collect::<Result<Vec<Call>, String>>()?;
    let mut tags = HashMap::new();
    for (arn, mut answer) in arns.iter().zip(account.session.all(calls).await?) {
        xml::lists(&mut answer.body, &["Tag"]);
        let Some(result) = answer.body.pointer_mut("/ListTagsForResourceResponse/ListTagsForResourceResult") else {
            return Err("the answer is no ListTagsForResourceResponse".to_owned());
        };
        tags.insert((*arn).to_owned(), result.take());
    }
    Ok(tags)
}

/// Sets a label for each entry of a list, with its number behind the name.
fn numbered(row: &mut Row, label: &str, owner: &Value, pointer: &str) {
    for (index, text) in row.scalars(owner, pointer).into_iter().enumerate() {
        row.set(&format!("{label}_{index}"), text);
    }
}

fn serverless_target(cache: &Value, tags: &Value) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    row.set("deployment_option", "serverless");
    fields::fill(&mut row, "serverless_cache_", cache, SERVERLESS, &[]);
    numbered(&mut row, "serverless_cache_security_group_id", cache, "/SecurityGroupIds");
    numbered(&mut row, "serverless_cache_subnet_id", cache, "/SubnetIds");
    row.fill(&[Pairs("serverless_cache_tag_", "/TagList", "/Key", "/Value")], tags);
    let port = text_at(cache, "/Endpoint/Port");
    if !port.is_empty() {
        row.address(text_at(cache, "/Endpoint/Address"), port);
    }
    row.finish()
}

fn cluster_targets(cluster: &Value, tags: &Value, targets: &mut Vec<Labels>) -> Result<(), String> {
    let mut common = Row::new(PREFIX);
    common.set("deployment_option", "node");
    fields::fill(&mut common, "cache_cluster_", cluster, CLUSTER_RENAMED, CLUSTER);
    common.fill(
        &[Between(
            "cache_cluster_pending_modified_values_cache_node_ids_to_remove",
            "/PendingModifiedValues/CacheNodeIdsToRemove",
        )],
        cluster,
    );
    for (index, delivery) in common.list(cluster, "/LogDeliveryConfigurations").iter().enumerate() {
        for (label, pointer) in LOG_DELIVERY {
            let text = common.scalar(delivery, pointer);
            common.set(&format!("cache_cluster_log_delivery_configuration_{label}_{index}"), text);
        }
    }
    for (index, group) in common.list(cluster, "/SecurityGroups").iter().enumerate() {
        for (label, pointer) in [("id", "/SecurityGroupId"), ("status", "/Status")] {
            let text = text_at(group, pointer);
            common.set(&format!("cache_cluster_security_group_membership_{label}_{index}"), text);
        }
    }
    common.fill(&[Pairs("cache_cluster_tag_", "/TagList", "/Key", "/Value")], tags);
    for node in common.list(cluster, "/CacheNodes") {
        let mut row = common.clone();
        fields::fill(&mut row, "cache_cluster_node_", node, NODE, &[]);
        let port = text_at(node, "/Endpoint/Port");
        if !port.is_empty() {
            row.address(text_at(node, "/Endpoint/Address"), port);
        }
        targets.push(row.finish()?);
    }
    common.finish().map(drop)
}
