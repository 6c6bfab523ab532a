//! Where targets come from. Every mechanism is a task that sends whole lists of groups; what it last sent stays in use
//! while it has trouble, and the trouble is told beside it.

mod file;

use config::{Discovery, TargetGroup};
use series::Labels;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Discovered addresses that share labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Each with `__address__` and labels of its own.
    pub targets: Vec<Labels>,
    pub labels: Labels,
}

impl Group {
    /// A group as a file or a configuration states it.
    fn stated(group: &TargetGroup, labels: Labels) -> Group {
        let target = |address: &String| Labels::from_pairs([("__address__", address.as_str())]);
        Group { targets: group.targets.iter().map(target).collect(), labels }
    }
}

/// What a source knows at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The last good list.
    pub groups: Arc<Vec<Arc<Group>>>,
    /// What is wrong now.
    pub errors: Vec<String>,
    /// Failed attempts since the source began.
    pub failures_total: u64,
}

/// Names a source for as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(pub u64);

/// News of a source.
pub struct Update {
    pub source: SourceId,
    pub found: Found,
}

/// Updates waiting for the manager.
pub const UPDATES_MAX: usize = 64;

/// A mechanism at work; it ends when this is dropped.
pub struct Source {
    pub id: SourceId,
    pub discovery: Discovery,
    pub found: Found,
    task: Option<JoinHandle<()>>,
}

impl Source {
    /// Starts the mechanism. Targets that are known without waiting are in `found` at once.
    pub async fn start(id: SourceId, discovery: &Discovery, updates: mpsc::Sender<Update>) -> Source {
        let (found, task) = match discovery {
            Discovery::Static(groups) => {
                let groups = groups.iter().map(|group| Arc::new(Group::stated(group, group.labels.clone()))).collect();
                (Found { groups: Arc::new(groups), ..Found::default() }, None)
            }
            Discovery::File(settings) => {
                let mut files = file::Files::new(settings.clone());
                let found = files.read().await;
                (found, Some(tokio::spawn(files.follow(id, updates))))
            }
            // Read and checked by the configuration, named in its warning; nothing is found.
            _ => (Found::default(), None),
        };
        Source { id, discovery: discovery.clone(), found, task }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
