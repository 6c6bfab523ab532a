//! The fields of Kubernetes objects that affect targets. All kinds share one structure; fields that a kind does not have are empty.
//!
//! Equal values give equal targets, so a change of other fields (a heartbeat, for instance) is not a change.

use super::super::bounded::Bounded;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// A field that may be null or absent.
fn null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Identifies an object within its kind: namespace (empty for cluster-wide objects) and name.
pub type Key = (String, String);

macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$attr])* #[serde(deserialize_with = "null")] pub $field: $kind,)* }
    };
}

object!(
    /// Any object.
    Object {
        metadata: Metadata,
        spec: Spec,
        status: Status,
        subsets: Vec<Subset>,
        address_type: String,
        endpoints: Vec<SliceEndpoint>,
        ports: Vec<SlicePort>,
        /// Status of the end of a watch.
        code: u16,
        message: String,
    }
);
object!(Metadata {
    name: String,
    namespace: String,
    uid: String,
    /// Removed before an object is stored.
    resource_version: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    owner_references: Vec<Owner>,
});
object!(Owner { kind: String, name: String, controller: bool });
object!(Spec {
    #[serde(rename = "providerID")]
    provider_id: String,
    r#type: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    external_name: String,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: String,
    ports: Vec<ServicePort>,
    node_name: String,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ingress_class_name: String,
    tls: Vec<IngressTls>,
    rules: Vec<IngressRule>,
});
object!(ServicePort { name: String, port: u64, protocol: String });
object!(Container { name: String, image: String, ports: Vec<ContainerPort>, });
object!(ContainerPort { name: String, container_port: u64, protocol: String });
object!(IngressTls { hosts: Vec<String>, });
object!(IngressRule { host: String, http: IngressHttp });
object!(IngressHttp { paths: Vec<IngressPath>, });
object!(IngressPath { path: String });
object!(Status {
    conditions: Vec<Condition>,
    addresses: Vec<NodeAddress>,
    daemon_endpoints: DaemonEndpoints,
    load_balancer: LoadBalancer,
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
});
object!(Condition { r#type: String, status: String });
object!(NodeAddress { r#type: String, address: String });
object!(DaemonEndpoints { kubelet_endpoint: KubeletEndpoint });
object!(KubeletEndpoint {
    #[serde(rename = "Port")]
    port: u64,
});
object!(LoadBalancer { ingress: Vec<LoadBalancerIngress>, });
object!(LoadBalancerIngress { ip: String });
object!(ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    container_id: String,
});
object!(Subset {
    addresses: Vec<EndpointAddress>,
    not_ready_addresses: Vec<EndpointAddress>,
    ports: Vec<ServicePort>,
});
object!(EndpointAddress {
    ip: String,
    hostname: String,
    node_name: String,
    target_ref: Option<Reference>,
});
object!(Reference { kind: String, namespace: String, name: String });
object!(SliceEndpoint {
    addresses: Vec<String>,
    conditions: SliceConditions,
    hostname: Option<String>,
    node_name: Option<String>,
    zone: Option<String>,
    target_ref: Option<Reference>,
    deprecated_topology: BTreeMap<String, String>,
});
object!(SliceConditions { ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>, });
object!(SlicePort {
    name: Option<String>,
    port: Option<u64>,
    protocol: Option<String>,
    app_protocol: Option<String>,
});

impl Object {
    pub fn key(&self) -> Key {
        (self.metadata.namespace.clone(), self.metadata.name.clone())
    }

    /// Owners of the object.
    pub fn controller(&self) -> Option<&Owner> {
        self.metadata.owner_references.iter().find(|owner| owner.controller)
    }
}

/// A page of a list.
#[derive(Deserialize)]
pub struct List {
    pub metadata: ListMetadata,
    #[serde(default)]
    pub items: Option<Bounded<Object>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMetadata {
    #[serde(deserialize_with = "null")]
    pub resource_version: String,
    #[serde(deserialize_with = "null", rename = "continue")]
    pub next: String,
}

/// One line of a watch.
#[derive(Deserialize)]
pub struct Event {
    pub r#type: String,
    pub object: Object,
}
