//! Compiles rule files into groups, and finds duplicates.

use crate::rule::Rule;
use config::{Config, ConfigErrors, RuleFile};
use promql::ParseOptions;
use relabel::NameScheme;
use series::Labels;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Settings that groups inherit.
#[derive(Clone, Debug)]
pub struct Settings {
    pub interval: Duration,
    pub query_offset: Duration,
    pub external_labels: Labels,
    pub external_url: String,
    pub parse: ParseOptions,
    pub scheme: NameScheme,
}

impl Settings {
    pub fn of(config: &Config, external_url: &str, parse: ParseOptions) -> Settings {
        Settings {
            interval: config.global.evaluation_interval,
            query_offset: config.global.rule_query_offset,
            external_labels: config.global.external_labels.clone(),
            external_url: external_url.to_owned(),
            parse,
            scheme: config.global.metric_name_validation_scheme,
        }
    }
}

/// A compiled group.
#[derive(Debug)]
pub struct GroupSpec {
    pub file: PathBuf,
    pub name: String,
    pub interval: Duration,
    pub query_offset: Duration,
    /// 0 is no limit.
    pub limit: usize,
    pub rules: Vec<Arc<Rule>>,
    pub external_labels: Labels,
    pub external_url: String,
}

impl GroupSpec {
    /// Unique among all groups.
    pub fn key(&self) -> String {
        format!("{};{}", self.file.display(), self.name)
    }

    /// Equal for groups that a reload may leave as they are.
    pub fn fingerprint(&self) -> String {
        let rules: Vec<String> = self.rules.iter().map(|rule| rule.fingerprint()).collect();
        format!(
            "{:?} {:?} {} {} {} {}",
            self.interval,
            self.query_offset,
            self.limit,
            self.external_labels,
            self.external_url,
            rules.join("\n")
        )
    }
}

/// Compiles the groups of one file, or returns every error in its expressions and templates.
pub fn compile(file: &RuleFile, settings: &Settings) -> Result<Vec<GroupSpec>, ConfigErrors> {
    let mut errors = Vec::new();
    let mut groups = Vec::with_capacity(file.groups.len());
    for group in &file.groups {
        let mut rules = Vec::with_capacity(group.rules.len());
        for (index, spec) in group.rules.iter().enumerate() {
            match Rule::compile(spec, group, index + 1, &file.path, &settings.parse) {
                Ok(rule) => rules.push(Arc::new(rule)),
                Err(more) => errors.extend(more),
            }
        }
        groups.push(GroupSpec {
            file: file.path.clone(),
            name: group.name.clone(),
            interval: group.interval.unwrap_or(settings.interval),
            query_offset: group.query_offset.unwrap_or(settings.query_offset),
            limit: group.limit,
            rules,
            external_labels: settings.external_labels.clone(),
            external_url: settings.external_url.clone(),
        });
    }
    if errors.is_empty() { Ok(groups) } else { Err(config::refusals(errors)) }
}

/// Compiles the groups of all files that match the patterns, in the order of files and groups, or returns all errors.
pub fn load(patterns: &[PathBuf], settings: &Settings) -> Result<Vec<GroupSpec>, ConfigErrors> {
    let mut groups = Vec::new();
    let mut errors = Vec::new();
    for path in patterns.iter().flat_map(|pattern| config::glob(pattern)) {
        match load_one(&path, settings) {
            Ok(more) => groups.extend(more),
            Err(more) => errors.extend(more.iter().cloned()),
        }
    }
    if errors.is_empty() { Ok(groups) } else { Err(config::refusals(errors)) }
}

fn load_one(path: &Path, settings: &Settings) -> Result<Vec<GroupSpec>, ConfigErrors> {
    compile(&config::load_rules(path, settings.scheme)?, settings)
}

/// Rules with the same name and labels, which may yield the same series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duplicate {
    pub name: String,
    pub labels: Labels,
}

/// Returns the rules of a file that have the name and labels of another one in it.
pub fn duplicates(groups: &[GroupSpec]) -> Vec<Duplicate> {
    let mut seen: HashMap<(&str, &Labels), usize> = HashMap::new();
    for rule in groups.iter().flat_map(|group| &group.rules) {
        *seen.entry((&rule.name, &rule.labels)).or_default() += 1;
    }
    let mut found: Vec<Duplicate> = seen
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|((name, labels), _)| Duplicate { name: name.to_owned(), labels: labels.clone() })
        .collect();
    found.sort();
    found
}
