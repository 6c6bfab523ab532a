//! Labels by role, from objects as the API server writes them; and which groups a change touches.

use super::*;
use series::Labels;

/// Objects of a cluster: kind and JSON.
fn cluster(role: KubernetesRole, attach: &str, objects: &[(Kind, &str)]) -> Cluster {
    let yaml = format!(
        "scrape_configs: [{{job_name: j, kubernetes_sd_configs: [{{role: {}, attach_metadata: {{{attach}}}}}]}}]",
        role.name()
    );
    let config = config::parse_config("p.yml".as_ref(), &yaml, &config::Env::process()).unwrap();
    let config::Discovery::Kubernetes(settings) = &config.scrape_configs[0].discoveries[0] else { unreachable!() };
    let scopes = scopes(settings, role, "").unwrap();
    let mut cluster = Cluster::new(role, settings.clone(), scopes);
    for (kind, json) in objects {
        cluster.put(*kind, object(json));
    }
    cluster
}

fn object(json: &str) -> Object {
    simd_json::serde::from_slice(&mut json.as_bytes().to_vec()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn short(labels: &Labels) -> String {
    let one = |(name, value)| format!("{}={value}", str::strip_prefix(name, "__meta_kubernetes_").unwrap_or(name));
    labels.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// The labels of the group, then those of each target.
#[track_caller]
fn check(role: KubernetesRole, attach: &str, objects: &[(Kind, &str)], want: &[&str]) {
    let groups = cluster(role, attach, objects).groups();
    let lines: Vec<String> = groups
        .iter()
        .flat_map(|group| std::iter::once(short(&group.labels)).chain(group.targets.iter().map(short)))
        .collect();
    assert_eq!(lines, want);
}

const NODE: &str = r#"{"metadata": {"name": "n1", "labels": {"a/b": "c"}, "annotations": {"x": "y"}},
    "spec": {"providerID": "p://1"},
    "status": {"addresses": [{"type": "Hostname", "address": "n1.h"}, {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "InternalIP", "address": "10.0.0.2"}],
    "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
    "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}}"#;

const POD: &str = r#"{"metadata": {"name": "p", "namespace": "ns", "uid": "u1", "labels": {"app": "web"},
    "ownerReferences": [{"kind": "ReplicaSet", "name": "rs", "controller": true}]},
    "spec": {"nodeName": "n1", "containers": [
        {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"},
            {"containerPort": 81, "protocol": "TCP"}]}],
        "initContainers": [{"name": "init", "image": "j"}]},
    "status": {"podIP": "1.2.3.4", "hostIP": "10.0.0.1", "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "c", "containerID": "docker://x"}]}}"#;

const SERVICE: &str = r#"{"metadata": {"name": "s", "namespace": "ns", "annotations": {"k": "v"}},
    "spec": {"type": "LoadBalancer", "clusterIP": "10.1.0.1", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    "status": {"loadBalancer": {"ingress": [{"ip": "5.6.7.8"}, {"ip": "5.6.7.9"}]}}}"#;

const POD_LABELS: &str = "namespace=ns pod_controller_kind=ReplicaSet pod_controller_name=rs pod_host_ip=10.0.0.1 \
    pod_ip=1.2.3.4 pod_label_app=web pod_labelpresent_app=true pod_name=p pod_node_name=n1 pod_phase=Running \
    pod_ready=true pod_uid=u1";

#[test]
fn nodes() {
    check(
        KubernetesRole::Node,
        "",
        &[(Kind::Node, NODE), (Kind::Node, r#"{"metadata": {"name": "no address"}}"#)],
        &[
            "node_annotation_x=y node_annotationpresent_x=true node_condition_ready=true node_label_a_b=c \
             node_labelpresent_a_b=true node_name=n1 node_provider_id=p://1",
            "__address__=10.0.0.1:10250 node_address_Hostname=n1.h node_address_InternalIP=10.0.0.1 instance=n1",
        ],
    );
}

#[test]
fn services() {
    let external = r#"{"metadata": {"name": "e", "namespace": "ns"},
        "spec": {"type": "ExternalName", "externalName": "x.example", "clusterIP": "no", "ports": [{"port": 1}]}}"#;
    let namespace = r#"{"metadata": {"name": "ns", "labels": {"team": "t"}}}"#;
    check(
        KubernetesRole::Service,
        "namespace: true",
        &[(Kind::Service, SERVICE), (Kind::Service, external), (Kind::Namespace, namespace)],
        &[
            "namespace=ns namespace_label_team=t namespace_labelpresent_team=true service_name=e",
            "__address__=e.ns.svc:1 service_external_name=x.example service_port_number=1 service_type=ExternalName",
            "namespace=ns namespace_label_team=t namespace_labelpresent_team=true service_annotation_k=v \
             service_annotationpresent_k=true service_name=s",
            "__address__=s.ns.svc:80 service_cluster_ip=10.1.0.1 service_loadbalancer_ip=5.6.7.8,5.6.7.9 \
             service_port_name=http service_port_number=80 service_port_protocol=TCP service_type=LoadBalancer",
        ],
    );
}

#[test]
fn pods() {
    let targets = [
        "__address__=1.2.3.4:80 pod_container_id=docker://x pod_container_image=i pod_container_init=false \
         pod_container_name=c pod_container_port_name=http pod_container_port_number=80 pod_container_port_protocol=TCP",
        "__address__=1.2.3.4:81 pod_container_id=docker://x pod_container_image=i pod_container_init=false \
         pod_container_name=c pod_container_port_number=81 pod_container_port_protocol=TCP",
        "__address__=1.2.3.4 pod_container_image=j pod_container_init=true pod_container_name=init",
    ];
    check(KubernetesRole::Pod, "", &[(Kind::Pod, POD)], &[POD_LABELS, targets[0], targets[1], targets[2]]);
    let with_more = format!(
        "namespace=ns node_annotation_x=y node_annotationpresent_x=true node_label_a_b=c node_labelpresent_a_b=true \
         node_name=n1 {}",
        POD_LABELS.trim_start_matches("namespace=ns ").replace("pod_host_ip", "pod_deployment_name=d pod_host_ip")
    );
    check(
        KubernetesRole::Pod,
        "node: true, deployment: true",
        &[(Kind::Pod, POD), (Kind::Node, NODE), (Kind::ReplicaSet, REPLICA_SET)],
        &[&with_more, targets[0], targets[1], targets[2]],
    );
    check(
        KubernetesRole::Pod,
        "",
        &[(Kind::Pod, r#"{"metadata": {"name": "p"}, "status": {"phase": "Pending"}}"#)],
        &[],
    );
    let job = r#"{"metadata": {"name": "p", "namespace": "ns",
        "ownerReferences": [{"kind": "Job", "name": "b", "controller": true}]},
        "spec": {"containers": [{"name": "c"}]}, "status": {"podIP": "::1"}}"#;
    let of_job = r#"{"metadata": {"name": "b", "namespace": "ns",
        "ownerReferences": [{"kind": "CronJob", "name": "cj", "controller": true}]}}"#;
    check(
        KubernetesRole::Pod,
        "job: true, cronjob: true",
        &[(Kind::Pod, job), (Kind::Job, of_job)],
        &[
            "namespace=ns pod_controller_kind=Job pod_controller_name=b pod_cronjob_name=cj pod_ip=::1 pod_job_name=b \
             pod_name=p pod_ready=unknown",
            "__address__=::1 pod_container_init=false pod_container_name=c",
        ],
    );
}

#[test]
fn endpoints() {
    let object = r#"{"metadata": {"name": "s", "namespace": "ns", "labels": {"l": "1"}}, "subsets": [{
        "addresses": [{"ip": "1.2.3.4", "nodeName": "n1", "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p"}}],
        "notReadyAddresses": [{"ip": "9.9.9.9", "hostname": "h"}],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}, {"addresses": null, "ports": null}]}"#;
    let pod = POD_LABELS.replace("namespace=ns ", "");
    let of_pod = |before: &str, container: &str| format!("{before} namespace=ns {container} {pod}");
    let bound = of_pod(
        "__address__=1.2.3.4:80 endpoint_address_target_kind=Pod endpoint_address_target_name=p endpoint_node_name=n1 \
         endpoint_port_name=http endpoint_port_protocol=TCP endpoint_ready=true",
        "pod_container_image=i pod_container_init=false pod_container_name=c pod_container_port_name=http \
         pod_container_port_number=80 pod_container_port_protocol=TCP",
    );
    let other = of_pod(
        "__address__=1.2.3.4:81",
        "pod_container_image=i pod_container_init=false pod_container_name=c pod_container_port_number=81 \
         pod_container_port_protocol=TCP",
    );
    let of_init = of_pod(
        "__address__=1.2.3.4:82",
        "pod_container_image=j pod_container_init=true pod_container_name=init pod_container_port_number=82 \
         pod_container_port_protocol=TCP",
    );
    let with_init =
        POD.replace(r#""image": "j"}"#, r#""image": "j", "ports": [{"containerPort": 82, "protocol": "TCP"}]}"#);
    check(
        KubernetesRole::Endpoints,
        "",
        &[(Kind::Endpoints, object), (Kind::Pod, &with_init), (Kind::Service, SERVICE)],
        &[
            "endpoints_label_l=1 endpoints_labelpresent_l=true endpoints_name=s namespace=ns service_annotation_k=v \
             service_annotationpresent_k=true service_name=s",
            &bound,
            "__address__=9.9.9.9:80 endpoint_hostname=h endpoint_port_name=http endpoint_port_protocol=TCP \
             endpoint_ready=false",
            &other,
            &of_init,
        ],
    );
}

#[test]
fn endpoint_slices() {
    let slice = r#"{"metadata": {"name": "s-x", "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 9, "protocol": "TCP", "appProtocol": "http"}, {"port": null}],
        "endpoints": [{"addresses": ["8.8.8.8"], "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": "n1", "zone": "z", "hostname": "h", "targetRef": {"kind": "Node", "name": "n1"},
        "deprecatedTopology": {"kubernetes.io/hostname": "n1"}}]}"#;
    let rest = "endpointslice_address_target_kind=Node endpointslice_address_target_name=n1 \
        endpointslice_endpoint_conditions_ready=true endpointslice_endpoint_conditions_serving=true \
        endpointslice_endpoint_conditions_terminating=false endpointslice_endpoint_hostname=h \
        endpointslice_endpoint_node_name=n1 endpointslice_endpoint_topology_kubernetes_io_hostname=n1 \
        endpointslice_endpoint_topology_present_kubernetes_io_hostname=true endpointslice_endpoint_zone=z";
    let node =
        "node_annotation_x=y node_annotationpresent_x=true node_label_a_b=c node_labelpresent_a_b=true node_name=n1";
    check(
        KubernetesRole::EndpointSlice,
        "node: true",
        &[(Kind::EndpointSlice, slice), (Kind::Service, SERVICE), (Kind::Node, NODE)],
        &[
            "endpointslice_address_type=IPv4 endpointslice_label_kubernetes_io_service_name=s \
             endpointslice_labelpresent_kubernetes_io_service_name=true endpointslice_name=s-x namespace=ns \
             service_annotation_k=v service_annotationpresent_k=true service_name=s",
            &format!(
                "__address__=8.8.8.8:9 {rest} endpointslice_port=9 endpointslice_port_app_protocol=http \
                 endpointslice_port_protocol=TCP {node}"
            ),
            &format!("__address__=8.8.8.8 {rest} {node}"),
        ],
    );
}

#[test]
fn ingresses() {
    let object = r#"{"metadata": {"name": "i", "namespace": "ns"}, "spec": {"ingressClassName": "nginx",
        "tls": [{"hosts": ["*.example.com"]}], "rules": [
        {"host": "a.example.com", "http": {"paths": [{"path": "/x"}, {}]}},
        {"host": "a.b.example.com"}]}}"#;
    check(
        KubernetesRole::Ingress,
        "",
        &[(Kind::Ingress, object)],
        &[
            "ingress_class_name=nginx ingress_name=i namespace=ns",
            "__address__=a.example.com ingress_host=a.example.com ingress_path=/x ingress_scheme=https",
            "__address__=a.example.com ingress_host=a.example.com ingress_path=/ ingress_scheme=https",
            "__address__=a.b.example.com ingress_host=a.b.example.com ingress_path=/ ingress_scheme=http",
        ],
    );
}

const REPLICA_SET: &str = r#"{"metadata": {"name": "rs", "namespace": "ns",
    "ownerReferences": [{"kind": "Deployment", "name": "d", "controller": true}]}}"#;

/// Endpoints with one address, which is a pod's.
fn endpoints_of(name: &str, pod: &str) -> String {
    format!(
        r#"{{"metadata": {{"name": "{name}", "namespace": "ns"}}, "subsets": [{{"addresses": [{{"ip": "1.1.1.1",
        "targetRef": {{"kind": "Pod", "namespace": "ns", "name": "{pod}"}}}}], "ports": [{{"port": 1}}]}}]}}"#
    )
}

/// Names of the objects whose targets a change touches; they are made anew.
fn touched(cluster: &mut Cluster, kind: Kind, json: &str) -> Vec<String> {
    cluster.put(kind, object(json));
    let names = cluster.dirty.iter().map(|key| key.1.clone()).collect();
    cluster.groups();
    names
}

#[test]
fn only_what_is_touched_is_made_anew() {
    let (a, b) = (endpoints_of("a", "p"), endpoints_of("b", "q"));
    let objects = [(Kind::Endpoints, a.as_str()), (Kind::Endpoints, b.as_str())];
    let mut cluster = cluster(KubernetesRole::Endpoints, "node: true", &objects);
    cluster.groups();
    let mut touched = |kind, json: &str| touched(&mut cluster, kind, json);
    assert_eq!(touched(Kind::Pod, POD), ["a"]);
    assert_eq!(touched(Kind::Pod, POD), [""; 0], "the same again");
    assert_eq!(touched(Kind::Service, &SERVICE.replace("\"s\"", "\"b\"")), ["b"]);
    assert_eq!(touched(Kind::Node, NODE), [""; 0], "no address is on it");
    let on_node = a.replace(r#""ip""#, r#""nodeName": "n1", "ip""#);
    assert_eq!(touched(Kind::Endpoints, &on_node), ["a"]);
    assert_eq!(touched(Kind::Node, &NODE.replace(r#""x": "y""#, r#""x": "z""#)), ["a"]);
    assert_eq!(touched(Kind::Node, NODE), ["a"]);
    assert_eq!(touched(Kind::Node, &NODE.replace("2026-01", "2026-02")), [""; 0], "a heartbeat");
    assert_eq!(touched(Kind::Endpoints, &a.replace("1.1.1.1", "2.2.2.2")), ["a"]);
}

#[test]
fn a_change_of_a_node_costs_what_is_on_it() {
    let pod = |name: &str, node: &str| POD.replace(r#""p""#, &format!("{name:?}")).replace("n1", node);
    let pods = [pod("a", "n1"), pod("b", "n2"), pod("c", "n2")];
    let objects: Vec<(Kind, &str)> = pods.iter().map(|pod| (Kind::Pod, pod.as_str())).collect();
    let mut cluster = cluster(KubernetesRole::Pod, "node: true, deployment: true", &objects);
    cluster.groups();
    let mut touched = |kind, json: &str| touched(&mut cluster, kind, json);
    let node = NODE.replace("n1", "n2");
    assert_eq!(touched(Kind::Node, &node), ["b", "c"]);
    assert_eq!(touched(Kind::Node, &node.replace(r#""x": "y""#, r#""x": "z""#)), ["b", "c"]);
    assert_eq!(touched(Kind::Pod, &pod("c", "n1")), ["c"]);
    assert_eq!(touched(Kind::Node, &node), ["b"]);
    assert_eq!(touched(Kind::ReplicaSet, REPLICA_SET), ["a", "b", "c"]);
    assert_eq!(touched(Kind::ReplicaSet, &REPLICA_SET.replace("ns", "other")), [""; 0]);
    for (name, dependents) in [("a", 4), ("b", 2), ("c", 0)] {
        cluster.remove(Kind::Pod, &("ns".to_owned(), name.to_owned()));
        assert_eq!(cluster.dependents.len(), dependents);
    }
}

#[test]
fn a_replica_set_costs_the_endpoints_of_its_pods() {
    let (a, b) = (endpoints_of("a", "p"), endpoints_of("b", "q"));
    let objects = [(Kind::Endpoints, a.as_str()), (Kind::Endpoints, b.as_str()), (Kind::Pod, POD)];
    let mut cluster = cluster(KubernetesRole::Endpoints, "deployment: true", &objects);
    cluster.groups();
    cluster.put(Kind::ReplicaSet, object(REPLICA_SET));
    assert_eq!(cluster.dirty, BTreeSet::from([("ns".to_owned(), "a".to_owned())]));
    let groups = cluster.groups();
    assert!(short(&groups[0].targets[0]).contains("pod_deployment_name=d"));
}

#[test]
fn pods_on_nodes_that_the_selector_excludes_are_no_targets() {
    let yaml =
        "scrape_configs: [{job_name: j, kubernetes_sd_configs: [{role: pod, selectors: [{role: node, label: a=b}]}]}]";
    let config = config::parse_config("p.yml".as_ref(), yaml, &config::Env::process()).unwrap();
    let config::Discovery::Kubernetes(settings) = &config.scrape_configs[0].discoveries[0] else { unreachable!() };
    let scopes = scopes(settings, KubernetesRole::Pod, "").unwrap();
    let mut cluster = Cluster::new(KubernetesRole::Pod, settings.clone(), scopes);
    cluster.put(Kind::Pod, object(POD));
    assert!(cluster.groups().is_empty());
    cluster.put(Kind::Node, object(NODE));
    let groups = cluster.groups();
    assert_eq!(short(&groups[0].labels), POD_LABELS, "labels of nodes are not asked for");
    cluster.remove(Kind::Node, &(String::new(), "n1".to_owned()));
    assert!(cluster.groups().is_empty(), "a node that the selector no longer matches");
}

/// CPU time of this thread so far, in nanoseconds.
fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn first_lists_take_no_quadratic_work() {
    let lists = |count: usize| {
        let endpoints = |i: usize| {
            object(&format!(
                r#"{{"metadata": {{"name": "e{i}", "namespace": "ns"}}, "subsets": [{{"addresses": [{{"ip": "1.1.1.1",
                "nodeName": "n{}", "targetRef": {{"kind": "Pod", "namespace": "ns", "name": "p{i}"}}}}]}}]}}"#,
                i % 100
            ))
        };
        let pod = |i: usize| object(&format!(r#"{{"metadata": {{"name": "p{i}", "namespace": "ns"}}}}"#));
        let node = |i: usize| object(&format!(r#"{{"metadata": {{"name": "n{i}"}}}}"#));
        let scope = |kind| Scope {
            kind,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: String::new(),
        };
        [
            (scope(Kind::Endpoints), (0..count).map(endpoints).collect::<Vec<_>>()),
            (scope(Kind::Pod), (0..count).map(pod).collect()),
            (scope(Kind::Node), (0..100).map(node).collect()),
            (scope(Kind::Pod), Vec::new()),
        ]
    };
    let cost = |count: usize| {
        let mut cluster = cluster(KubernetesRole::Endpoints, "node: true", &[]);
        let lists = lists(count);
        let since = cpu_nanos();
        for (scope, objects) in lists {
            cluster.replace(&scope, objects);
        }
        assert_eq!((cluster.dirty.len(), cluster.dependents.len()), (count, 2 * count));
        cpu_nanos() - since
    };
    cost(1_000);
    let (few, many) = (cost(5_000), cost(20_000));
    // Four times as much is linear, sixteen times quadratic.
    assert!(many < 9 * few, "{few} ns for 5,000 and {many} ns for 20,000");
}

#[test]
fn scopes_are_those_that_the_role_needs() {
    let names = |role: KubernetesRole, more: &str| {
        let yaml =
            format!("scrape_configs: [{{job_name: j, kubernetes_sd_configs: [{{role: {}, {more}}}]}}]", role.name());
        let config = config::parse_config("p.yml".as_ref(), &yaml, &config::Env::process()).unwrap();
        let config::Discovery::Kubernetes(settings) = &config.scrape_configs[0].discoveries[0] else { unreachable!() };
        let shown = |scope: &Scope| format!("{}@{}{}", scope.kind.name(), scope.namespace, scope.label_selector);
        scopes(settings, role, "mine").map(|scopes| scopes.iter().map(shown).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(names(KubernetesRole::Node, "").unwrap(), "node@");
    assert_eq!(
        names(KubernetesRole::Endpoints, "namespaces: {names: [b, a]}, attach_metadata: {node: true}").unwrap(),
        "endpoints@a endpoints@b service@a service@b pod@a pod@b node@"
    );
    assert_eq!(names(KubernetesRole::Pod, "namespaces: {own_namespace: true}").unwrap(), "pod@mine");
    assert_eq!(names(KubernetesRole::Pod, "selectors: [{role: pod, label: 'x=y'}]").unwrap(), "pod@x=y");
    assert_eq!(
        names(KubernetesRole::Pod, "selectors: [{role: node, label: 'x=y'}, {role: pod, field: a=b}]").unwrap(),
        "pod@ node@x=y"
    );
}
