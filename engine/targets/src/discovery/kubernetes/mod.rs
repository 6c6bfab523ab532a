//! Objects of a Kubernetes cluster, by list and watch (decision 017: no kube crate).
//!
//! Invariants:
//!   * the first list is reported when every required kind has been listed
//!   * an object is processed only if a field that affects targets has changed; it costs the groups
//!     that it is part of, found by an index and not by a pass over all objects
//!   * a failed watch keeps the known objects

mod access;
mod dependents;
mod exec;
mod labels;
mod objects;
mod watch;

use super::{Group, ReceiverClosed, Reporter};
use config::{KubernetesRole, KubernetesSdConfig};
use dependents::Dependents;
use objects::{Key, Object};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use watch::{Kind, Scope, SourceUpdate, Watcher, What};

/// Time for which changes are collected before a list is reported.
const SETTLE: Duration = Duration::from_millis(500);
const NEWS_WAITING_MAX: usize = 1024;
/// Pause before the settings are read again if they are invalid.
const REACH_AGAIN: Duration = Duration::from_secs(30);

/// Objects of one kind.
pub type Store = BTreeMap<Key, Arc<Object>>;

/// Objects of all kinds that the role requires.
#[derive(Default)]
pub struct Stores {
    nodes: Store,
    services: Store,
    pods: Store,
    endpoints: Store,
    slices: Store,
    ingresses: Store,
    namespaces: Store,
    replica_sets: Store,
    jobs: Store,
}

impl Stores {
    fn of(&mut self, kind: Kind) -> &mut Store {
        match kind {
            Kind::Node => &mut self.nodes,
            Kind::Service => &mut self.services,
            Kind::Pod => &mut self.pods,
            Kind::Endpoints => &mut self.endpoints,
            Kind::EndpointSlice => &mut self.slices,
            Kind::Ingress => &mut self.ingresses,
            Kind::Namespace => &mut self.namespaces,
            Kind::ReplicaSet => &mut self.replica_sets,
            Kind::Job => &mut self.jobs,
        }
    }
}

/// Reports the targets of the cluster until it is dropped.
pub async fn follow(settings: KubernetesSdConfig, mut report: Reporter) {
    let Some(role) = settings.role else { return };
    let access = loop {
        let read = settings.clone();
        let reached = tokio::task::spawn_blocking(move || access::reach(&read)).await;
        match reached.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(access) => break Arc::new(access),
            Err(error) => {
                if report.failed(error).await.is_err() {
                    return;
                }
                report.pause(REACH_AGAIN).await;
            }
        }
    };
    let scopes = match scopes(&settings, role, &access.own_namespace) {
        Ok(scopes) => scopes,
        Err(error) => {
            let _ = report.failed(error).await;
            return;
        }
    };
    let (news, mut inbox) = mpsc::channel(NEWS_WAITING_MAX);
    // Aborts the watches when this future is dropped.
    let mut tasks = JoinSet::new();
    for (number, scope) in scopes.iter().enumerate() {
        let (access, scope, news) = (access.clone(), scope.clone(), news.clone());
        tasks.spawn(Watcher { access, number, scope, news, version: String::new() }.follow());
    }
    let mut cluster = Cluster::new(role, settings, scopes);
    while let Some(first) = inbox.recv().await {
        cluster.take(first, &mut report);
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                Some(news) = inbox.recv() => cluster.take(news, &mut report),
                () = &mut settled => break,
            }
        }
        let errors: Vec<String> = cluster.failing.values().map(|error| format!("kubernetes: {error}")).collect();
        let told = if cluster.silent.is_empty() {
            let groups = cluster.groups();
            report.good(groups, errors).await
        } else if let Some(error) = cluster.failing.values().next() {
            report.failed(error.clone()).await
        } else {
            Ok(())
        };
        if let Err(ReceiverClosed) = told {
            return;
        }
    }
}

/// Returns the scopes to watch.
fn scopes(settings: &KubernetesSdConfig, role: KubernetesRole, own_namespace: &str) -> Result<Vec<Scope>, String> {
    let attach = &settings.attach_metadata;
    let mut kinds = vec![kind_of(role)];
    if matches!(role, KubernetesRole::Endpoints | KubernetesRole::EndpointSlice) {
        kinds.extend([Kind::Service, Kind::Pod]);
    }
    let has_pods = matches!(role, KubernetesRole::Pod | KubernetesRole::Endpoints | KubernetesRole::EndpointSlice);
    if has_pods && (attach.node || selects_nodes(settings)) {
        kinds.push(Kind::Node);
    }
    if role != KubernetesRole::Node && attach.namespace {
        kinds.push(Kind::Namespace);
    }
    if has_pods && attach.deployment {
        kinds.push(Kind::ReplicaSet);
    }
    if has_pods && attach.cronjob {
        kinds.push(Kind::Job);
    }
    let mut namespaces = settings.namespaces.names.clone();
    if settings.namespaces.own_namespace {
        if own_namespace.is_empty() {
            return Err("own_namespace: the namespace that we run in is not known; name it in `names`".to_owned());
        }
        namespaces.push(own_namespace.to_owned());
    }
    if namespaces.is_empty() {
        namespaces.push(String::new());
    }
    namespaces.sort();
    namespaces.dedup();
    let mut scopes = Vec::new();
    for kind in kinds {
        let selector = settings.selectors.iter().find(|selector| selector.role.map(kind_of) == Some(kind));
        let text = |of: fn(&config::KubernetesSelector) -> &String| selector.map(of).cloned().unwrap_or_default();
        let scope = |namespace: &String| Scope {
            kind,
            namespace: namespace.clone(),
            label_selector: text(|selector| &selector.label),
            field_selector: text(|selector| &selector.field),
        };
        if matches!(kind, Kind::Node | Kind::Namespace) {
            scopes.push(scope(&String::new()));
        } else {
            scopes.extend(namespaces.iter().map(scope));
        }
    }
    Ok(scopes)
}

/// Returns whether pods count only if they run on certain nodes.
fn selects_nodes(settings: &KubernetesSdConfig) -> bool {
    let is_of_nodes = |selector: &config::KubernetesSelector| selector.role == Some(KubernetesRole::Node);
    settings.role == Some(KubernetesRole::Pod) && settings.selectors.iter().any(is_of_nodes)
}

fn kind_of(role: KubernetesRole) -> Kind {
    match role {
        KubernetesRole::Node => Kind::Node,
        KubernetesRole::Pod => Kind::Pod,
        KubernetesRole::Service => Kind::Service,
        KubernetesRole::Endpoints => Kind::Endpoints,
        KubernetesRole::EndpointSlice => Kind::EndpointSlice,
        KubernetesRole::Ingress => Kind::Ingress,
    }
}

/// The known objects and their target groups.
struct Cluster {
    role: KubernetesRole,
    settings: KubernetesSdConfig,
    scopes: Vec<Scope>,
    stores: Stores,
    dependents: Dependents,
    groups: BTreeMap<Key, Arc<Group>>,
    /// Objects of the role whose groups have to be rebuilt.
    dirty: BTreeSet<Key>,
    /// Scopes that have not been listed yet.
    silent: BTreeSet<usize>,
    failing: BTreeMap<usize, String>,
}

impl Cluster {
    fn new(role: KubernetesRole, settings: KubernetesSdConfig, scopes: Vec<Scope>) -> Cluster {
        Cluster {
            role,
            dependents: Dependents::new(role, &settings),
            settings,
            silent: (0..scopes.len()).collect(),
            scopes,
            stores: Stores::default(),
            groups: BTreeMap::new(),
            dirty: BTreeSet::new(),
            failing: BTreeMap::new(),
        }
    }

    fn take(&mut self, news: SourceUpdate, report: &mut Reporter) {
        let scope = self.scopes[news.scope].clone();
        let now = Instant::now();
        match news.what {
            What::List(objects) => {
                report.attempted(now);
                self.silent.remove(&news.scope);
                self.failing.remove(&news.scope);
                self.replace(&scope, objects);
            }
            What::Added(object) => {
                report.event("add", scope.kind.name());
                self.put(scope.kind, object);
            }
            What::Changed(object) => {
                report.event("update", scope.kind.name());
                self.put(scope.kind, object);
            }
            What::Deleted(object) => {
                report.event("delete", scope.kind.name());
                self.remove(scope.kind, &object.key());
            }
            What::Failed(error) => {
                report.attempted(now);
                report.count_failure();
                self.failing.insert(news.scope, error);
            }
            What::Fine => drop(self.failing.remove(&news.scope)),
        }
    }

    /// Applies a new list of all objects in a scope; objects that are not in it are removed.
    fn replace(&mut self, scope: &Scope, objects: Vec<Object>) {
        let store = self.stores.of(scope.kind);
        let within = |key: &Key| scope.namespace.is_empty() || key.0 == scope.namespace;
        let mut gone: BTreeSet<Key> = store.keys().filter(|key| within(key)).cloned().collect();
        for mut object in objects {
            object.metadata.resource_version.clear();
            gone.remove(&object.key());
            self.put(scope.kind, object);
        }
        for key in gone {
            self.remove(scope.kind, &key);
        }
    }

    fn remove(&mut self, kind: Kind, key: &Key) {
        if let Some(old) = self.stores.of(kind).remove(key) {
            self.dependents.change(kind, key, Some(&old), None);
            self.touch(kind, key);
        }
    }

    fn put(&mut self, kind: Kind, object: Object) {
        let key = object.key();
        let store = self.stores.of(kind);
        if store.get(&key).is_some_and(|old| **old == object) {
            return;
        }
        let object = Arc::new(object);
        let old = store.insert(key.clone(), object.clone());
        self.dependents.change(kind, &key, old.as_deref(), Some(&object));
        self.touch(kind, &key);
    }

    /// Marks the objects of the role whose groups depend on an object.
    fn touch(&mut self, kind: Kind, key: &Key) {
        let of_role = kind_of(self.role);
        if kind == of_role {
            self.dirty.insert(key.clone());
        } else if kind == Kind::Namespace {
            let own = self.stores.of(of_role);
            let within = own.range((key.1.clone(), String::new())..).take_while(|(own, _)| own.0 == key.1);
            self.dirty.extend(within.map(|(key, _)| key.clone()));
        } else {
            self.dependents.of(kind, key, &mut self.dirty);
        }
    }

    /// Returns all groups, after rebuilding the marked ones.
    fn groups(&mut self) -> Vec<Arc<Group>> {
        let kind = kind_of(self.role);
        let selects_nodes = selects_nodes(&self.settings);
        for key in std::mem::take(&mut self.dirty) {
            let object = self.stores.of(kind).get(&key).cloned();
            let stores = &self.stores;
            let runs_here = |pod: &Arc<Object>| stores.nodes.contains_key(&(String::new(), pod.spec.node_name.clone()));
            let object = object.filter(|object| !selects_nodes || runs_here(object));
            let attach = &self.settings.attach_metadata;
            match object.and_then(|object| labels::group(self.role, attach, stores, &object)) {
                Some(group) => drop(self.groups.insert(key, Arc::new(group))),
                None => drop(self.groups.remove(&key)),
            }
        }
        self.groups.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
