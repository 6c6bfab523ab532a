//! Which of a job's targets are this member's.
//!
//! The values of `hash_labels` after relabelling decide. Where no rule can change those labels they are the same before, and
//! addresses of other members are left out before any rule runs.

use crate::target::TargetId;
use config::ScrapeConfig;
use fleet::View;
use series::Labels;
use std::collections::HashSet;
use std::sync::Arc;

/// The members, and which of them this process is.
#[derive(Clone, Debug, PartialEq)]
pub struct Division {
    pub view: View,
    /// `None`: not in the list. This member then owns nothing and goes on only until others have taken over.
    pub me: Option<usize>,
    pub hash_labels: Vec<String>,
}

/// What the build of a pool has to know of the fleet.
#[derive(Clone, Copy)]
pub struct Share<'a> {
    pub division: &'a Arc<Division>,
    /// Targets that others scrape by now.
    pub released: &'a HashSet<TargetId>,
}

impl Division {
    /// Whether the labels that decide come out of the job's rules as they go in.
    pub fn is_known_before(&self, job: &ScrapeConfig) -> bool {
        !self.hash_labels.iter().any(|name| job.relabel_configs.may_write(name))
    }

    /// What is hashed of a target with these labels.
    pub fn key<'a>(&self, value: impl Fn(&str) -> &'a str) -> String {
        fleet::key_of(self.hash_labels.iter().map(|name| value(name)))
    }

    /// The same for an address as it was found, if it has all the labels itself.
    pub fn key_of_found(&self, own: &Labels, shared: &Labels) -> Option<String> {
        let value = |name: &str| own.get(name).or_else(|| shared.get(name)).filter(|value| !value.is_empty());
        self.hash_labels.iter().all(|name| value(name).is_some()).then(|| self.key(|name| value(name).unwrap_or("")))
    }

    pub fn owns(&self, key: &str) -> bool {
        self.me.is_some_and(|me| self.view.owns(me, key))
    }

    /// Names of the owners among these.
    pub fn names(&self, owners: &[usize]) -> Vec<String> {
        owners.iter().map(|owner| self.view.members()[*owner].name.clone()).collect()
    }
}
