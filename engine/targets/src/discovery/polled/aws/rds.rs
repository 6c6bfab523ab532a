//! RDS: the instances of database clusters.

use super::super::row::Label::Pairs;
use super::super::row::{Row, rows_of, text_at};
use super::super::session::Session;
use super::super::xml;
use super::{Account, Query, fields, numbered};
use serde_json::Value;
use series::Labels;
use std::collections::HashSet;

const PREFIX: &str = "__meta_rds_";
const SERVICE: Query = Query { name: "rds", version: "2014-10-31", has_endpoint: true };

#[rustfmt::skip]
const CLUSTER: &[&str] = &[
    "ActivityStreamKinesisStreamName", "ActivityStreamKmsKeyId", "ActivityStreamMode", "ActivityStreamStatus",
    "AllocatedStorage", "AutoMinorVersionUpgrade", "AutomaticRestartTime", "AwsBackupRecoveryPointArn",
    "BacktrackConsumedChangeRecords", "BacktrackWindow", "BackupRetentionPeriod", "Capacity", "CharacterSetName",
    "CloneGroupId", "ClusterCreateTime", "ClusterScalabilityType", "CopyTagsToSnapshot", "CrossAccountClone", "DBSystemId",
    "DatabaseInsightsMode", "DatabaseName", "DeletionProtection", "EarliestBacktrackTime", "EarliestRestorableTime",
    "Endpoint", "Engine", "EngineLifecycleSupport", "EngineMode", "EngineVersion", "GlobalClusterIdentifier",
    "GlobalWriteForwardingRequested", "GlobalWriteForwardingStatus", "HostedZoneId", "HttpEndpointEnabled",
    "IAMDatabaseAuthenticationEnabled", "IOOptimizedNextAllowedModificationTime", "Iops", "KmsKeyId",
    "LatestRestorableTime", "LocalWriteForwardingStatus", "MasterUsername", "MonitoringInterval", "MonitoringRoleArn",
    "MultiAZ", "NetworkType", "PercentProgress", "PerformanceInsightsEnabled", "PerformanceInsightsKMSKeyId",
    "PerformanceInsightsRetentionPeriod", "Port", "PreferredBackupWindow", "PreferredMaintenanceWindow",
    "PubliclyAccessible", "ReaderEndpoint", "ReplicationSourceIdentifier", "ServerlessV2PlatformVersion", "Status",
    "StorageEncrypted", "StorageEncryptionType", "StorageThroughput", "StorageType", "UpgradeRolloutOrder",
];

const CLUSTER_RENAMED: &[(&str, &str)] = &[
    ("arn", "/DBClusterArn"),
    ("identifier", "/DBClusterIdentifier"),
    ("instance_class", "/DBClusterInstanceClass"),
    ("parameter_group", "/DBClusterParameterGroup"),
    ("subnet_group", "/DBSubnetGroup"),
    ("resource_id", "/DbClusterResourceId"),
];

#[rustfmt::skip]
const INSTANCE: &[&str] = &[
    "ActivityStreamEngineNativeAuditFieldsIncluded", "ActivityStreamKinesisStreamName", "ActivityStreamKmsKeyId",
    "ActivityStreamMode", "ActivityStreamPolicyStatus", "ActivityStreamStatus", "AllocatedStorage",
    "AutoMinorVersionUpgrade", "AutomaticRestartTime", "AutomationMode", "AvailabilityZone",
    "AwsBackupRecoveryPointArn", "BackupRetentionPeriod", "BackupTarget", "CACertificateIdentifier", "CharacterSetName",
    "CopyTagsToSnapshot", "CustomIamInstanceProfile", "CustomerOwnedIpEnabled", "DBClusterIdentifier", "DBName",
    "DBSystemId", "DatabaseInsightsMode", "DedicatedLogVolume", "DeletionProtection", "Engine",
    "EngineLifecycleSupport", "EngineVersion", "EnhancedMonitoringResourceArn", "IAMDatabaseAuthenticationEnabled",
    "InstanceCreateTime", "Iops", "IsStorageConfigUpgradeAvailable", "KmsKeyId", "LatestRestorableTime", "LicenseModel",
    "MasterUsername", "MaxAllocatedStorage", "MonitoringInterval", "MonitoringRoleArn", "MultiAZ", "MultiTenant",
    "NcharCharacterSetName", "NetworkType", "PercentProgress", "PerformanceInsightsEnabled",
    "PerformanceInsightsKMSKeyId", "PerformanceInsightsRetentionPeriod", "PreferredBackupWindow",
    "PreferredMaintenanceWindow", "PromotionTier", "PubliclyAccessible", "ReadReplicaSourceDBClusterIdentifier",
    "ReadReplicaSourceDBInstanceIdentifier", "ReplicaMode", "ResumeFullAutomationModeTime", "SecondaryAvailabilityZone",
    "StorageEncrypted", "StorageEncryptionType", "StorageThroughput", "StorageType", "StorageVolumeStatus",
    "TdeCredentialArn", "Timezone", "UpgradeRolloutOrder",
];

const INSTANCE_RENAMED: &[(&str, &str)] = &[
    ("arn", "/DBInstanceArn"),
    ("identifier", "/DBInstanceIdentifier"),
    ("class", "/DBInstanceClass"),
    ("status", "/DBInstanceStatus"),
    ("port", "/DbInstancePort"),
    ("resource_id", "/DbiResourceId"),
    ("subnet_group", "/DBSubnetGroup/DBSubnetGroupName"),
    ("endpoint_address", "/Endpoint/Address"),
    ("endpoint_port", "/Endpoint/Port"),
    ("endpoint_hosted_zone_id", "/Endpoint/HostedZoneId"),
    ("listener_endpoint_address", "/ListenerEndpoint/Address"),
    ("listener_endpoint_port", "/ListenerEndpoint/Port"),
    ("listener_endpoint_hosted_zone_id", "/ListenerEndpoint/HostedZoneId"),
];

pub async fn targets(session: &Session) -> Result<Vec<Labels>, String> {
    let account = Account::of(session).await?;
    let wanted = session.settings().texts("clusters");
    let mut clusters = Vec::new();
    if wanted.is_empty() {
        let found = describe(&account, &SERVICE, "DescribeDBClusters", "DBClusters", &[]).await;
        clusters = found.inspect_err(|_| session.forget("credentials"))?;
    }
    for arn in wanted {
        let params = [("DBClusterIdentifier".to_owned(), arn.clone())];
        let found = describe(&account, &SERVICE, "DescribeDBClusters", "DBClusters", &params).await?;
        if found.is_empty() {
            return Err(format!("no DB cluster found for ARN {arn}"));
        }
        clusters.extend(found);
    }
    let mut targets = Vec::new();
    for cluster in &clusters {
        let mut params = filter(1, "db-cluster-id", [text_at(cluster, "/DBClusterArn")]);
        for (index, one) in session.settings().filters("filters").iter().enumerate() {
            params.extend(filter(index + 2, &one.name, one.values.iter().map(String::as_str)));
        }
        for instance in describe(&account, &SERVICE, "DescribeDBInstances", "DBInstances", &params).await? {
            targets.push(target(session, cluster, &instance)?);
        }
    }
    Ok(targets)
}

fn filter<'a>(number: usize, name: &str, values: impl IntoIterator<Item = &'a str>) -> Vec<(String, String)> {
    let base = format!("Filters.Filter.{number}");
    let mut params = vec![(format!("{base}.Name"), name.to_owned())];
    params.extend(numbered(&format!("{base}.Values.Value"), values));
    params
}

/// Elements of lists whose name tells what they hold; all others are in `member`.
const ITEMS: [&str; 12] = [
    "member",
    "DBCluster",
    "DBInstance",
    "DBClusterMember",
    "Tag",
    "CacheCluster",
    "CacheNode",
    "SecurityGroupId",
    "SubnetId",
    "LogDeliveryConfiguration",
    "ServerlessCache",
    "CacheNodeId",
];

/// All pages of a list of a service with markers.
pub async fn describe(
    account: &Account<'_>,
    service: &Query,
    action: &str,
    list: &str,
    params: &[(String, String)],
) -> Result<Vec<Value>, String> {
    let (size, token, answered) = match action {
        "DescribeServerlessCaches" => (("MaxResults", "50"), "NextToken", "NextToken"),
        _ => (("MaxRecords", "100"), "Marker", "Marker"),
    };
    let mut rows = Vec::new();
    let mut next = String::new();
    let mut seen = HashSet::new();
    loop {
        let mut params = params.to_vec();
        params.push((size.0.to_owned(), size.1.to_owned()));
        if !next.is_empty() {
            params.push((token.to_owned(), next));
        }
        params.sort();
        let asked = account.session.call(account.query(service, action, &params)?).await;
        let mut body = asked.map_err(|error| format!("{action}: {}", error.text))?.body;
        xml::lists(&mut body, &ITEMS);
        let Some(result) = body.pointer_mut(&format!("/{action}Response/{action}Result")) else {
            return Err(format!("{action}: the answer is no {action}Response"));
        };
        if result.get(list).is_none() {
            return Err(format!("{action}: the answer has no element <{list}>"));
        }
        next = text_at(result, &format!("/{answered}")).to_owned();
        rows.append(&mut rows_of(result, &format!("/{list}?")).map_err(|error| format!("{action}: {error}"))?);
        if next.is_empty() {
            return Ok(rows);
        }
        if !seen.insert(next.clone()) {
            return Err(format!("{action}: the pages do not end: a marker is given again"));
        }
    }
}

fn target(session: &Session, cluster: &Value, instance: &Value) -> Result<Labels, String> {
    let mut row = Row::new(PREFIX);
    fields::fill(&mut row, "cluster_", cluster, CLUSTER_RENAMED, CLUSTER);
    row.fill(&[Pairs("cluster_tag_", "/TagList", "/Key", "/Value")], cluster);
    fields::fill(&mut row, "instance_", instance, INSTANCE_RENAMED, INSTANCE);
    row.fill(&[Pairs("instance_tag_", "/TagList", "/Key", "/Value")], instance);
    let id = text_at(instance, "/DBInstanceIdentifier");
    let members = row.list(cluster, "/DBClusterMembers");
    if let Some(member) = members.iter().find(|member| text_at(member, "/DBInstanceIdentifier") == id) {
        row.set("instance_is_cluster_writer", text_at(member, "/IsClusterWriter"));
    }
    if !text_at(instance, "/Endpoint/Port").is_empty() {
        row.address(text_at(instance, "/Endpoint/Address"), session.port());
    }
    row.finish()
}
