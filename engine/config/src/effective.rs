//! Views of a configuration: as YAML, as a list of files, and as a list of settings without effect in this build.

use crate::decode::{Tree, Value};
use crate::glob::glob;
use crate::types::Config;
use std::path::PathBuf;

impl Config {
    /// The configuration with all defaults, secrets hidden. Jobs of `scrape_config_files` are not shown, their patterns
    /// are: the text would load to the same configuration but for the secrets.
    pub fn to_yaml(&self) -> String {
        let mut out = Vec::new();
        let mut put = |name: &str, value: Option<Tree>| out.extend(value.map(|value| (name.to_owned(), value)));
        put("global", Some(escaped(self.global.write())));
        put("runtime", self.runtime.as_ref().map(Value::write));
        put("rule_files", unless_empty(&self.rule_files));
        put("scrape_config_files", unless_empty(&self.scrape_config_files));
        let own_jobs = &self.scrape_configs[..self.own_jobs_count];
        let jobs = || Tree::List(own_jobs.iter().map(|job| job.to_tree()).collect());
        put("scrape_configs", (!own_jobs.is_empty()).then(jobs));
        put("alerting", unless_empty(&self.alerting));
        put("remote_write", unless_empty(&self.remote_write));
        put("remote_read", unless_empty(&self.remote_read));
        put("storage", self.storage.as_ref().map(Value::write));
        put("tracing", self.tracing.as_ref().map(Value::write));
        put("otlp", self.otlp.as_ref().map(Value::write));
        put("federation", self.federation.as_ref().map(Value::write));
        // The name was expanded already.
        let fleet =
            self.fleet.as_ref().map(|fleet| crate::Fleet { member: fleet.member.replace('$', "$$"), ..fleet.clone() });
        put("fleet", fleet.as_ref().map(Value::write));
        put("object_storage", self.object_storage.as_ref().map(Value::write));
        crate::tree::print(&Tree::Map(out))
    }

    /// The files whose content makes up the configuration, as they exist now: the main file first. One that has come to
    /// match `scrape_config_files` since the load is among them, so that a watcher sees it.
    pub fn files(&self) -> Vec<PathBuf> {
        let more = self.scrape_config_files.iter().flat_map(|pattern| glob(pattern));
        std::iter::once(self.file.clone()).chain(more).collect()
    }

    /// Returns the settings that this build does not implement, each as a few words for a warning.
    pub fn unsupported_settings(&self) -> Vec<String> {
        let tsdb = |asks: &dyn Fn(&crate::TsdbConfig) -> bool| {
            self.storage.as_ref().and_then(|storage| storage.tsdb.as_ref()).is_some_and(asks)
        };
        let sections = [
            ("remote_read", !self.remote_read.is_empty()),
            ("storage.tsdb.stale_series_compaction_threshold", tsdb(&|t| t.stale_series_compaction_threshold > 0.0)),
            ("storage.tsdb.chunk_encoding", tsdb(&|tsdb| tsdb.chunk_encoding.is_some())),
            (
                "storage.tsdb.retention.percentage",
                tsdb(&|tsdb| tsdb.retention.as_ref().is_some_and(|r| r.percentage > 0)),
            ),
            ("tracing", self.tracing.is_some()),
            ("runtime", self.runtime.is_some()),
        ];
        sections.into_iter().filter(|(_, given)| *given).map(|(name, _)| name.to_owned()).collect()
    }
}

fn unless_empty<T: Value>(value: &T) -> Option<Tree> {
    (!value.is_empty()).then(|| value.write())
}

/// Variables in external labels were expanded already, so a remaining dollar sign is literal.
fn escaped(global: Tree) -> Tree {
    let Tree::Map(mut fields) = global else { return global };
    for (_, labels) in fields.iter_mut().filter(|(name, _)| name == "external_labels") {
        let Tree::Map(labels) = labels else { continue };
        for (_, value) in labels {
            if let Tree::Text(text) = value {
                *text = text.replace('$', "$$");
            }
        }
    }
    Tree::Map(fields)
}
