//! Which groups an object is part of, by an index: a change of a pod, a node or a service costs the groups that name it.
//!
//! Invariants:
//!   * the index holds exactly what the stored objects name; an object that is removed takes its entries with it
//!   * objects of the role have no entry of their own: a change of one costs its own group

use super::labels::{node_of_address, node_of_endpoint, service_of_slice};
use super::objects::{Key, Object};
use super::watch::Kind;
use super::{kind_of, selects_nodes};
use config::{KubernetesRole, KubernetesSdConfig};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// An object of the role, or a pod behind one.
type Dependent = (Kind, Arc<Key>);

/// Objects of the role, and pods behind them, by what they name.
pub struct Dependents {
    role: KubernetesRole,
    reads_nodes: bool,
    /// Kinds of the controllers above pods that are looked up.
    controllers: Vec<(&'static str, Kind)>,
    index: HashMap<(Kind, Key), BTreeSet<Dependent>>,
}

impl Dependents {
    pub fn new(role: KubernetesRole, settings: &KubernetesSdConfig) -> Dependents {
        let attach = &settings.attach_metadata;
        let controllers = [("ReplicaSet", Kind::ReplicaSet, attach.deployment), ("Job", Kind::Job, attach.cronjob)];
        Dependents {
            role,
            reads_nodes: attach.node || selects_nodes(settings),
            controllers: controllers.into_iter().filter(|one| one.2).map(|one| (one.0, one.1)).collect(),
            index: HashMap::new(),
        }
    }

    /// Applies a change of a stored object to the index.
    pub fn change(&mut self, kind: Kind, key: &Key, old: Option<&Object>, new: Option<&Object>) {
        let names = |object: Option<&Object>| object.map(|object| self.names(kind, object)).unwrap_or_default();
        let (old, new) = (names(old), names(new));
        if old == new {
            return;
        }
        let this = (kind, Arc::new(key.clone()));
        for gone in old.difference(&new) {
            if let Some(set) = self.index.get_mut(gone) {
                set.remove(&this);
                if set.is_empty() {
                    self.index.remove(gone);
                }
            }
        }
        for added in new.difference(&old) {
            self.index.entry(added.clone()).or_default().insert(this.clone());
        }
    }

    /// Adds the keys of the objects of the role whose groups depend on an object of another kind.
    pub fn of(&self, kind: Kind, key: &Key, found: &mut BTreeSet<Key>) {
        if kind == Kind::Service && self.role == KubernetesRole::Endpoints {
            found.insert(key.clone());
            return;
        }
        for (kind, key) in self.index.get(&(kind, key.clone())).into_iter().flatten() {
            if *kind == kind_of(self.role) {
                found.insert((**key).clone());
            } else {
                // A pod behind endpoints: no object of the index names itself, and pods name no pods.
                self.of(*kind, key, found);
            }
        }
    }

    /// Returns the objects whose fields become labels of an object's targets.
    fn names(&self, kind: Kind, object: &Object) -> BTreeSet<(Kind, Key)> {
        let mut names = BTreeSet::new();
        let node = |name: &str| (Kind::Node, (String::new(), name.to_owned()));
        if kind == Kind::Pod {
            if self.reads_nodes && self.role == KubernetesRole::Pod {
                names.insert(node(&object.spec.node_name));
            }
            let controller = object.controller();
            let above = self.controllers.iter().filter(|(kind, _)| controller.is_some_and(|one| one.kind == *kind));
            let name = controller.map_or("", |controller| &controller.name);
            names.extend(above.map(|(_, kind)| (*kind, (object.metadata.namespace.clone(), name.to_owned()))));
            return names;
        }
        if kind != kind_of(self.role) {
            return names;
        }
        names.extend(service_of_slice(object).filter(|_| kind == Kind::EndpointSlice).map(|key| (Kind::Service, key)));
        let addresses = object.subsets.iter().flat_map(|one| one.addresses.iter().chain(&one.not_ready_addresses));
        let addresses = addresses.map(|address| (address.target_ref.as_ref(), node_of_address(address)));
        let endpoints = object.endpoints.iter().map(|one| (one.target_ref.as_ref(), node_of_endpoint(one)));
        for (reference, node_name) in addresses.chain(endpoints) {
            if let Some(reference) = reference.filter(|reference| reference.kind == "Pod") {
                names.insert((Kind::Pod, (reference.namespace.clone(), reference.name.clone())));
            }
            if self.reads_nodes && !node_name.is_empty() {
                names.insert(node(node_name));
            }
        }
        names
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.index.values().map(BTreeSet::len).sum()
    }
}
