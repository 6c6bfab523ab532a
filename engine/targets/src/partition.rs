//! The partition of a member: which targets of a job it owns.
//!
//! The owner follows from the values of `hash_labels` after relabelling. Where no rule can change those labels, the values
//! before relabelling are the same, and addresses of other members are skipped before any rule runs.

use crate::target::TargetId;
use config::ScrapeConfig;
use fleet::View;
use series::Labels;
use std::collections::HashSet;
use std::sync::Arc;

/// The members of the fleet, and which of them this process is.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetPartition {
    pub view: View,
    /// `None`: this process is not in the list. It then owns nothing, and scrapes its targets until others have taken over.
    pub me: Option<usize>,
    pub hash_labels: Vec<String>,
}

/// The partition as a pool sees it while it is built.
#[derive(Clone, Copy)]
pub struct PartitionView<'a> {
    pub division: &'a Arc<FleetPartition>,
    /// Targets that other members have scraped.
    pub released: &'a HashSet<TargetId>,
}

impl FleetPartition {
    /// Returns whether the relabelling rules of the job cannot change the labels that decide about the owner.
    pub fn is_known_before(&self, job: &ScrapeConfig) -> bool {
        !self.hash_labels.iter().any(|name| job.relabel_configs.may_write(name))
    }

    /// Returns the hash key of a target with these labels.
    pub fn key<'a>(&self, value: impl Fn(&str) -> &'a str) -> String {
        fleet::key_of(self.hash_labels.iter().map(|name| value(name)))
    }

    /// Returns the hash key of an address before relabelling, if it has all labels of the key.
    pub fn key_of_found(&self, own: &Labels, shared: &Labels) -> Option<String> {
        let value = |name: &str| own.get(name).or_else(|| shared.get(name)).filter(|value| !value.is_empty());
        self.hash_labels.iter().all(|name| value(name).is_some()).then(|| self.key(|name| value(name).unwrap_or("")))
    }

    pub fn owns(&self, key: &str) -> bool {
        self.me.is_some_and(|me| self.view.owns(me, key))
    }

    /// Returns the names of these members.
    pub fn names(&self, owners: &[usize]) -> Vec<String> {
        owners.iter().map(|owner| self.view.members()[*owner].name.clone()).collect()
    }
}
