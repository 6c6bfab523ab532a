//! The addresses of several discovery sources together, for callers that need no scrape targets: Alertmanagers and members.

use crate::discovery::{DiscoveryContext, Source, SourceId, UPDATES_MAX, Update};
use config::Discovery;
use series::Labels;
use tokio::sync::mpsc;

/// Running discovery sources. They end when this is dropped.
pub struct DiscoveryWatcher {
    sources: Vec<Source>,
    updates: mpsc::Receiver<Update>,
    // Keeps the channel open if there is no source.
    _updates_to: mpsc::Sender<Update>,
}

impl DiscoveryWatcher {
    /// Starts the sources. Static addresses and cached lists are available at once.
    pub async fn start(discoveries: &[Discovery], sd: &DiscoveryContext) -> DiscoveryWatcher {
        let (updates_to, updates) = mpsc::channel(UPDATES_MAX);
        let mut sources = Vec::with_capacity(discoveries.len());
        for (number, discovery) in (0..).zip(discoveries) {
            let updates = updates_to.clone();
            sources.push(Source::start(SourceId(number), discovery, updates, sd).await);
        }
        DiscoveryWatcher { sources, updates, _updates_to: updates_to }
    }

    /// Returns the current addresses, each with `__address__` and all labels of its discovery.
    pub fn addresses(&self) -> Vec<Labels> {
        let groups = self.sources.iter().flat_map(|source| source.found.groups.iter());
        groups.flat_map(|group| group.targets.iter().map(|own| own.merged(&group.labels))).collect()
    }

    /// Returns the current errors of the sources, whose last valid lists stay in use.
    pub fn errors(&self) -> Vec<String> {
        self.sources.iter().flat_map(|source| source.found.errors.iter().cloned()).collect()
    }

    /// Waits until addresses or errors may have changed.
    pub async fn changed(&mut self) {
        let mut news = self.updates.recv().await;
        // Further updates in the queue are applied at the same time.
        while let Some(update) = news {
            if let Some(source) = self.sources.iter_mut().find(|source| source.id == update.source) {
                source.found = update.found;
            }
            news = self.updates.try_recv().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_job;

    #[tokio::test]
    async fn static_and_file_addresses_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list.yml");
        std::fs::write(&file, "[{targets: ['b:1'], labels: {zone: z}}]").unwrap();
        let settings =
            format!("static_configs: [{{targets: ['a:1']}}]\nfile_sd_configs: [{{files: ['{}']}}]", file.display());
        let mut follow =
            DiscoveryWatcher::start(&test_job("j", &settings).discoveries, &DiscoveryContext::default()).await;
        let addresses = |follow: &DiscoveryWatcher| {
            let all = follow.addresses();
            all.iter().map(|labels| labels.get("__address__").unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&follow), ["a:1", "b:1"]);
        assert_eq!(follow.addresses()[1].get("zone"), Some("z"));
        std::fs::write(&file, "[{targets: ['c:1']}]").unwrap();
        while addresses(&follow) != ["a:1", "c:1"] {
            let news = tokio::time::timeout(std::time::Duration::from_secs(30), follow.changed());
            news.await.expect("the file's change is seen");
        }
        assert!(follow.errors().is_empty());
    }
}
