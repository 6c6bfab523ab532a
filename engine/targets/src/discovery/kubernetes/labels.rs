//! Target groups of objects, with the labels of Prometheus' manual.

use super::super::{Group, host_port, sanitized};
use super::Stores;
use super::objects::{Container, EndpointAddress, Key, Object, Reference, SliceEndpoint};
use config::{KubernetesMetadata, KubernetesRole};
use series::Labels;
use std::collections::BTreeMap;

const P: &str = "__meta_kubernetes_";
const ADDRESS: &str = "__address__";

/// Labels under construction.
type Map = BTreeMap<String, String>;

fn put(map: &mut Map, name: &str, value: impl Into<String>) {
    map.insert(format!("{P}{name}"), value.into());
}

fn labels(map: &Map) -> Labels {
    Labels::from_sorted(map.iter().filter(|(_, v)| !v.is_empty()).map(|(name, value)| (name.as_str(), value.as_str())))
}

/// A target under construction: the address, and labels that begin with the prefix.
fn target(address: String) -> Map {
    Map::from([(ADDRESS.to_owned(), address)])
}

/// Returns the group of an object of the role; `None` if it has no targets.
pub fn group(role: KubernetesRole, attach: &KubernetesMetadata, stores: &Stores, object: &Object) -> Option<Group> {
    let mut shared = Map::new();
    let mut targets = match role {
        KubernetesRole::Node => node(object, &mut shared)?,
        KubernetesRole::Service => service_targets(object, &mut shared),
        KubernetesRole::Pod => pod_targets(attach, stores, object, &mut shared)?,
        KubernetesRole::Endpoints => endpoints(attach, stores, object, &mut shared),
        KubernetesRole::EndpointSlice => slice(attach, stores, object, &mut shared),
        KubernetesRole::Ingress => ingress(object, &mut shared),
    };
    if attach.namespace
        && role != KubernetesRole::Node
        && let Some(namespace) = stores.namespaces.get(&(String::new(), object.metadata.namespace.clone()))
    {
        texts(&mut shared, "namespace", namespace);
    }
    if targets.is_empty() {
        return None;
    }
    Some(Group { targets: targets.drain(..).map(|target| labels(&target)).collect(), labels: labels(&shared) })
}

/// Adds labels and annotations of an object.
fn texts(map: &mut Map, kind: &str, object: &Object) {
    for (what, texts) in [("label", &object.metadata.labels), ("annotation", &object.metadata.annotations)] {
        for (name, value) in texts {
            let name = sanitized(name);
            put(map, &format!("{kind}_{what}_{name}"), value);
            put(map, &format!("{kind}_{what}present_{name}"), "true");
        }
    }
}

fn named(map: &mut Map, kind: &str, object: &Object) {
    put(map, &format!("{kind}_name"), &object.metadata.name);
    texts(map, kind, object);
}

fn node(object: &Object, shared: &mut Map) -> Option<Vec<Map>> {
    let addresses = &object.status.addresses;
    let of = |kind: &&str| addresses.iter().find(|address| address.r#type == **kind);
    let order = ["InternalIP", "InternalDNS", "ExternalIP", "ExternalDNS", "LegacyHostIP", "Hostname"];
    let address = &order.iter().find_map(of)?.address;
    named(shared, "node", object);
    put(shared, "node_provider_id", &object.spec.provider_id);
    for condition in &object.status.conditions {
        let name = sanitized(&condition.r#type.to_lowercase());
        put(shared, &format!("node_condition_{name}"), condition.status.to_lowercase());
    }
    let mut one = target(host_port(address, object.status.daemon_endpoints.kubelet_endpoint.port));
    one.insert("instance".to_owned(), object.metadata.name.clone());
    for address in addresses.iter().rev() {
        put(&mut one, &format!("node_address_{}", sanitized(&address.r#type)), &address.address);
    }
    Some(vec![one])
}

/// Adds labels and names of the node, if it is known and requested.
fn attach_node(map: &mut Map, attach: &KubernetesMetadata, stores: &Stores, name: &str) {
    if attach.node
        && let Some(node) = stores.nodes.get(&(String::new(), name.to_owned()))
    {
        named(map, "node", node);
    }
}

fn service_labels(map: &mut Map, object: &Object) {
    put(map, "namespace", &object.metadata.namespace);
    named(map, "service", object);
}

fn service_targets(object: &Object, shared: &mut Map) -> Vec<Map> {
    service_labels(shared, object);
    let (name, namespace, spec) = (&object.metadata.name, &object.metadata.namespace, &object.spec);
    let one = |port: &super::objects::ServicePort| {
        let mut one = target(host_port(&format!("{name}.{namespace}.svc"), port.port));
        put(&mut one, "service_port_name", &port.name);
        put(&mut one, "service_port_number", port.port.to_string());
        put(&mut one, "service_port_protocol", &port.protocol);
        put(&mut one, "service_type", &spec.r#type);
        if spec.r#type == "ExternalName" {
            put(&mut one, "service_external_name", &spec.external_name);
        } else {
            put(&mut one, "service_cluster_ip", &spec.cluster_ip);
        }
        if spec.r#type == "LoadBalancer" {
            let addresses = object.status.load_balancer.ingress.iter().map(|ingress| ingress.ip.as_str());
            let addresses = addresses.filter(|ip| !ip.is_empty()).collect::<Vec<_>>().join(",");
            let address = if addresses.is_empty() { spec.load_balancer_ip.clone() } else { addresses };
            put(&mut one, "service_loadbalancer_ip", address);
        }
        one
    };
    spec.ports.iter().map(one).collect()
}

fn pod_labels(map: &mut Map, attach: &KubernetesMetadata, stores: &Stores, pod: &Object) {
    let (metadata, status) = (&pod.metadata, &pod.status);
    named(map, "pod", pod);
    put(map, "namespace", &metadata.namespace);
    let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready");
    put(map, "pod_ready", ready.map_or("unknown".to_owned(), |condition| condition.status.to_lowercase()));
    put(map, "pod_ip", &status.pod_ip);
    put(map, "pod_phase", &status.phase);
    put(map, "pod_node_name", &pod.spec.node_name);
    put(map, "pod_host_ip", &status.host_ip);
    put(map, "pod_uid", &metadata.uid);
    let Some(controller) = pod.controller() else { return };
    put(map, "pod_controller_kind", &controller.kind);
    put(map, "pod_controller_name", &controller.name);
    let key = (metadata.namespace.clone(), controller.name.clone());
    let above = |store: &super::Store| store.get(&key).and_then(|object| object.controller()).cloned();
    if controller.kind == "ReplicaSet"
        && attach.deployment
        && let Some(owner) = above(&stores.replica_sets).filter(|owner| owner.kind == "Deployment")
    {
        put(map, "pod_deployment_name", owner.name);
    }
    if controller.kind == "Job" {
        if attach.job {
            put(map, "pod_job_name", &controller.name);
        }
        if attach.cronjob
            && let Some(owner) = above(&stores.jobs).filter(|owner| owner.kind == "CronJob")
        {
            put(map, "pod_cronjob_name", owner.name);
        }
    }
}

/// Returns the containers of a pod, and whether each is an init container.
fn containers(pod: &Object) -> impl Iterator<Item = (&Container, bool)> {
    let own = pod.spec.containers.iter().map(|container| (container, false));
    own.chain(pod.spec.init_containers.iter().map(|container| (container, true)))
}

fn container_labels(map: &mut Map, container: &Container, is_init: bool) {
    put(map, "pod_container_name", &container.name);
    put(map, "pod_container_image", &container.image);
    put(map, "pod_container_init", is_init.to_string());
}

fn container_port_labels(map: &mut Map, port: &super::objects::ContainerPort) {
    put(map, "pod_container_port_name", &port.name);
    put(map, "pod_container_port_number", port.container_port.to_string());
    put(map, "pod_container_port_protocol", &port.protocol);
}

fn pod_targets(attach: &KubernetesMetadata, stores: &Stores, pod: &Object, shared: &mut Map) -> Option<Vec<Map>> {
    let address = &pod.status.pod_ip;
    if address.is_empty() {
        return None;
    }
    pod_labels(shared, attach, stores, pod);
    attach_node(shared, attach, stores, &pod.spec.node_name);
    let mut targets = Vec::new();
    for (container, is_init) in containers(pod) {
        let mut common = Map::new();
        container_labels(&mut common, container, is_init);
        let status = &pod.status;
        let statuses = if is_init { &status.init_container_statuses } else { &status.container_statuses };
        if let Some(status) = statuses.iter().find(|status| status.name == container.name) {
            put(&mut common, "pod_container_id", &status.container_id);
        }
        if container.ports.is_empty() {
            // Without a port; relabelling may add one.
            let mut one = target(address.clone());
            one.append(&mut common);
            targets.push(one);
            continue;
        }
        for port in &container.ports {
            let mut one = target(host_port(address, port.container_port));
            one.extend(common.clone());
            container_port_labels(&mut one, port);
            targets.push(one);
        }
    }
    Some(targets)
}

/// The pods behind the addresses of a service, and those of their ports that have a target already.
#[derive(Default)]
struct BackingPods(BTreeMap<Key, Vec<u64>>);

impl BackingPods {
    /// Adds the labels of the pod behind an address.
    fn add(
        &mut self,
        one: &mut Map,
        attach: &KubernetesMetadata,
        stores: &Stores,
        reference: Option<&Reference>,
        port: Option<u64>,
    ) {
        let Some(reference) = reference.filter(|reference| reference.kind == "Pod") else { return };
        let key = (reference.namespace.clone(), reference.name.clone());
        let Some(pod) = stores.pods.get(&key) else { return };
        pod_labels(one, attach, stores, pod);
        for (container, is_init) in containers(pod) {
            if let Some(port) = container.ports.iter().find(|own| Some(own.container_port) == port) {
                container_labels(one, container, is_init);
                container_port_labels(one, port);
            }
        }
        self.0.entry(key).or_default().extend(port);
    }

    /// Returns targets for the other ports of the same pods.
    fn other_ports(self, attach: &KubernetesMetadata, stores: &Stores, targets: &mut Vec<Map>) {
        for (key, seen) in self.0 {
            let Some(pod) = stores.pods.get(&key).filter(|pod| !pod.status.pod_ip.is_empty()) else { continue };
            for (container, is_init) in containers(pod) {
                for port in container.ports.iter().filter(|port| !seen.contains(&port.container_port)) {
                    let mut one = target(host_port(&pod.status.pod_ip, port.container_port));
                    container_labels(&mut one, container, is_init);
                    container_port_labels(&mut one, port);
                    pod_labels(&mut one, attach, stores, pod);
                    targets.push(one);
                }
            }
        }
    }
}

fn node_referred(reference: Option<&Reference>) -> Option<&str> {
    reference.filter(|reference| reference.kind == "Node").map(|reference| reference.name.as_str())
}

/// Returns the node of an address of endpoints: the one that it runs on, else the one that it refers to.
pub fn node_of_address(address: &EndpointAddress) -> &str {
    let referred = node_referred(address.target_ref.as_ref()).unwrap_or("");
    if address.node_name.is_empty() { referred } else { &address.node_name }
}

/// Returns the node of an endpoint of a slice: the one that it refers to, else the one that it runs on.
pub fn node_of_endpoint(endpoint: &SliceEndpoint) -> &str {
    node_referred(endpoint.target_ref.as_ref()).or(endpoint.node_name.as_deref()).unwrap_or("")
}

fn endpoints(attach: &KubernetesMetadata, stores: &Stores, object: &Object, shared: &mut Map) -> Vec<Map> {
    put(shared, "namespace", &object.metadata.namespace);
    named(shared, "endpoints", object);
    if let Some(service) = stores.services.get(&object.key()) {
        service_labels(shared, service);
    }
    let mut targets = Vec::new();
    let mut behind = BackingPods::default();
    for subset in &object.subsets {
        for port in &subset.ports {
            let ready = subset.addresses.iter().map(|address| (address, "true"));
            for (address, is_ready) in ready.chain(subset.not_ready_addresses.iter().map(|address| (address, "false")))
            {
                let mut one = target(host_port(&address.ip, port.port));
                put(&mut one, "endpoint_port_name", &port.name);
                put(&mut one, "endpoint_port_protocol", &port.protocol);
                put(&mut one, "endpoint_ready", is_ready);
                put(&mut one, "endpoint_hostname", &address.hostname);
                put(&mut one, "endpoint_node_name", &address.node_name);
                if let Some(reference) = &address.target_ref {
                    put(&mut one, "endpoint_address_target_kind", &reference.kind);
                    put(&mut one, "endpoint_address_target_name", &reference.name);
                }
                let reference = address.target_ref.as_ref();
                attach_node(&mut one, attach, stores, node_of_address(address));
                behind.add(&mut one, attach, stores, reference, Some(port.port));
                targets.push(one);
            }
        }
    }
    behind.other_ports(attach, stores, &mut targets);
    targets
}

fn slice(attach: &KubernetesMetadata, stores: &Stores, object: &Object, shared: &mut Map) -> Vec<Map> {
    put(shared, "namespace", &object.metadata.namespace);
    put(shared, "endpointslice_address_type", &object.address_type);
    named(shared, "endpointslice", object);
    if let Some(service) = service_of_slice(object).and_then(|key| stores.services.get(&key)) {
        service_labels(shared, service);
    }
    let mut targets = Vec::new();
    let mut behind = BackingPods::default();
    for endpoint in &object.endpoints {
        for port in &object.ports {
            for address in &endpoint.addresses {
                let mut one = target(port.port.map_or(address.clone(), |port| host_port(address, port)));
                let conditions = &endpoint.conditions;
                let flag = |flag: Option<bool>| flag.map(|flag| flag.to_string());
                let known = [
                    ("port_name", port.name.clone()),
                    ("port_protocol", port.protocol.clone()),
                    ("port", port.port.map(|port| port.to_string())),
                    ("port_app_protocol", port.app_protocol.clone()),
                    ("endpoint_conditions_ready", flag(conditions.ready)),
                    ("endpoint_conditions_serving", flag(conditions.serving)),
                    ("endpoint_conditions_terminating", flag(conditions.terminating)),
                    ("endpoint_hostname", endpoint.hostname.clone()),
                    ("endpoint_node_name", endpoint.node_name.clone()),
                    ("endpoint_zone", endpoint.zone.clone()),
                    ("address_target_kind", endpoint.target_ref.as_ref().map(|r| r.kind.clone())),
                    ("address_target_name", endpoint.target_ref.as_ref().map(|r| r.name.clone())),
                ];
                for (name, value) in known {
                    if let Some(value) = value {
                        put(&mut one, &format!("endpointslice_{name}"), value);
                    }
                }
                for (name, value) in &endpoint.deprecated_topology {
                    let name = sanitized(name);
                    put(&mut one, &format!("endpointslice_endpoint_topology_{name}"), value);
                    put(&mut one, &format!("endpointslice_endpoint_topology_present_{name}"), "true");
                }
                let reference = endpoint.target_ref.as_ref();
                attach_node(&mut one, attach, stores, node_of_endpoint(endpoint));
                behind.add(&mut one, attach, stores, reference, port.port);
                targets.push(one);
            }
        }
    }
    behind.other_ports(attach, stores, &mut targets);
    targets
}

/// Returns the service that a slice belongs to.
pub fn service_of_slice(slice: &Object) -> Option<Key> {
    let name = slice.metadata.labels.get("kubernetes.io/service-name")?;
    Some((slice.metadata.namespace.clone(), name.clone()))
}

fn ingress(object: &Object, shared: &mut Map) -> Vec<Map> {
    put(shared, "namespace", &object.metadata.namespace);
    named(shared, "ingress", object);
    put(shared, "ingress_class_name", &object.spec.ingress_class_name);
    let mut targets = Vec::new();
    for rule in &object.spec.rules {
        let has_tls = object.spec.tls.iter().flat_map(|tls| &tls.hosts).any(|host| covers(host, &rule.host));
        let mut paths: Vec<&str> = rule.http.paths.iter().map(|path| path.path.as_str()).collect();
        if paths.is_empty() {
            paths.push("/");
        }
        for path in paths {
            let mut one = target(rule.host.clone());
            put(&mut one, "ingress_scheme", if has_tls { "https" } else { "http" });
            put(&mut one, "ingress_host", &rule.host);
            put(&mut one, "ingress_path", if path.is_empty() { "/" } else { path });
            targets.push(one);
        }
    }
    targets
}

/// Returns whether a host of a certificate, which may begin with a wildcard, matches the host of a rule.
fn covers(pattern: &str, host: &str) -> bool {
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((_, rest))) => domain == rest,
        _ => pattern == host,
    }
}
