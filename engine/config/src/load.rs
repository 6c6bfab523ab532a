//! Loads files into a [`Config`].

use crate::decode::{Context, Fields, Section, Step, Value};
use crate::env::Env;
use crate::errors::{ConfigError, ConfigErrors, ERRORS_MAX};
use crate::glob::{glob, is_valid_pattern};
use crate::job::name_scheme;
use crate::text::{TextError, decode_text};
use crate::types::{Config, Global, ScrapeConfig};
use crate::yaml::{FILE_BYTES_MAX, Kind, Node, SourceLocation, parse};
use relabel::NameScheme;
use series::{Labels, LabelsBuilder};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Reads prometheus.yml and the `scrape_config_files` that it names. Either everything is good, or the errors say where
/// and what to do; there is nothing in between. An empty file is valid.
pub fn load(path: &Path, env: &Env) -> Result<Config, ConfigErrors> {
    parse_config(path, &read(path)?, env)
}

/// The same for agent mode, where nothing answers queries, evaluates rules or sends alerts: the sections for that are refused.
pub fn load_for_agent(path: &Path, env: &Env) -> Result<Config, ConfigErrors> {
    let text = read(path)?;
    let config = parse_config(path, &text, env)?;
    let Config { alerting, rule_files, remote_read, object_storage, .. } = &config;
    let sections = [
        ("alerting", !alerting.alertmanagers.is_empty() || !alerting.alert_relabel_configs.is_empty()),
        ("rule_files", !rule_files.is_empty()),
        ("remote_read", !remote_read.is_empty()),
        ("object_storage", object_storage.is_some()),
    ];
    let node = parse(&text).ok();
    let location_of = |name: &str| {
        let Kind::Map(entries) = &node.as_ref()?.kind else { return None };
        entries.iter().find(|(key, _)| key.text() == Some(name)).map(|(key, _)| key.mark)
    };
    let refused = |(name, is_there): (&str, bool)| {
        let location = location_of(name).unwrap_or(SourceLocation { line: 0, column: 0 });
        is_there.then(|| ConfigError {
            file: path.to_owned(),
            line: location.line,
            column: location.column,
            path: String::new(),
            message: format!("field {name} is not allowed in agent mode"),
        })
    };
    let errors: Vec<ConfigError> = sections.into_iter().filter_map(refused).collect();
    if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
}

/// Reads a text as if it were the content of `path`. The files that it names are read.
pub fn parse_config(path: &Path, text: &str, env: &Env) -> Result<Config, ConfigErrors> {
    let file = std::path::absolute(path)
        .map_err(|error| ConfigErrors::unreadable(path.to_owned(), format!("cannot be found: {error}")))?;
    let cx = Context::new(path, file.parent().unwrap_or(Path::new("/")), NameScheme::Utf8);
    let mut job_names = HashMap::new();
    let config = match parse(text) {
        Ok(node) => read_config(&node, &file, env, &cx, &mut job_names),
        Err((mark, message)) => {
            cx.refuse(mark, message);
            None
        }
    };
    let mut errors = cx.into_errors();
    if let Some(mut config) = config {
        for path in config.scrape_config_files.iter().flat_map(|pattern| glob(pattern)) {
            match read_jobs_file(&path, &config.global, &mut job_names) {
                Ok(jobs) => config.scrape_configs.extend(jobs),
                Err(more) => errors.extend(more.0),
            }
        }
        if errors.is_empty() {
            return Ok(config);
        }
    }
    errors.truncate(ERRORS_MAX);
    errors.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    Err(ConfigErrors(errors))
}

/// Parses any YAML as plain data, for files of other programs that a configuration refers to.
pub fn parse_yaml(text: &str) -> Result<crate::Tree, String> {
    let cx = Context::new(Path::new(""), Path::new("/"), NameScheme::Utf8);
    let node = parse(text).map_err(|(mark, message)| format!("{}:{}: {message}", mark.line, mark.column))?;
    let tree = crate::Tree::read(&node, &cx);
    match cx.into_errors().into_iter().next() {
        Some(error) => Err(format!("{}:{}: {}", error.line, error.column, error.message)),
        None => tree.ok_or_else(|| "empty".to_owned()),
    }
}

/// Reads the text of a file, within the bound of size.
pub(crate) fn read(path: &Path) -> Result<String, ConfigErrors> {
    let unreadable = |message: String| ConfigErrors::unreadable(path.to_owned(), message);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(format!("cannot be opened: {error}")))?;
    file.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    decode_text(bytes).map_err(|TextError { line, column, message }| {
        let message = message.to_owned();
        ConfigErrors(vec![ConfigError { file: path.to_owned(), line, column, path: String::new(), message }])
    })
}

/// The same for a file that the configuration names: a pipe or a device could hold the reader up for ever.
pub(crate) fn read_regular(path: &Path) -> Result<String, ConfigErrors> {
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() && !meta.is_dir() => {
            Err(ConfigErrors::unreadable(path.to_owned(), "is a pipe, a socket or a device; name a file".to_owned()))
        }
        _ => read(path),
    }
}

/// Where each job name was first used, for the error of the second use.
type JobNames = HashMap<String, String>;

/// The top level of the main file. A new section is one more line here and one more field of [`Config`].
fn read_config(node: &Node, file: &Path, env: &Env, cx: &Context, names: &mut JobNames) -> Option<Config> {
    let mut fields = Fields::of(node, cx, "the configuration")?;
    let mut global = read_global(&mut fields, env);
    cx.scheme.set(global.metric_name_validation_scheme);
    let scrape_configs = read_jobs(&mut fields, &global, names);
    let fleet = read_fleet(&mut fields, env, &mut global);
    let object_storage = read_object_storage(&mut fields, &global);
    let remote_write = read_named(&mut fields, "remote_write", |config: &crate::RemoteWrite| &config.name);
    if let Some(mistake) = crate::Sharding::mistake(&remote_write) {
        fields.refuse("remote_write", &mistake);
    }
    let config = Config {
        fleet,
        object_storage,
        runtime: fields.take("runtime"),
        rule_files: read_patterns(&mut fields, "rule_files", "rule file"),
        scrape_config_files: read_patterns(&mut fields, "scrape_config_files", "scrape config file"),
        own_jobs_count: scrape_configs.len(),
        scrape_configs,
        alerting: fields.take("alerting").unwrap_or_default(),
        remote_write,
        remote_read: read_named(&mut fields, "remote_read", |config: &crate::RemoteRead| &config.name),
        storage: fields.take("storage"),
        tracing: fields.take("tracing"),
        otlp: fields.take("otlp"),
        federation: fields.take("federation"),
        file: file.to_owned(),
        global,
    };
    fields.finish("the configuration");
    Some(config)
}

fn read_global(fields: &mut Fields, env: &Env) -> Global {
    let Some(node) = fields.take_node("global") else { return Global::absent() };
    let cx = fields.cx;
    let read = || {
        let mut fields = Fields::of(node, cx, "global")?;
        cx.scheme.set(name_scheme(&fields, NameScheme::Utf8));
        let mut global = Global::default();
        global.read_fields(&mut fields);
        fields.finish("global");
        Some(global)
    };
    let mut global = cx.within(Step::Key("global"), read).unwrap_or_else(Global::absent);
    let expanded = global.external_labels.iter().map(|(name, value)| (name.to_owned(), env.expand(value)));
    let mut labels: LabelsBuilder = Labels::empty().to_builder();
    expanded.for_each(|(name, value)| labels.set(&name, &value));
    global.external_labels = labels.build();
    global
}

/// The section, and the name of the member among the external labels where it asks for that.
fn read_fleet(fields: &mut Fields, env: &Env, global: &mut Global) -> Option<crate::Fleet> {
    let mut fleet: crate::Fleet = fields.take("fleet")?;
    fleet.member = env.expand(&fleet.member);
    if fleet.member.is_empty() {
        fields.refuse("fleet", "the name of this member is empty once the environment is expanded; set the variable");
    }
    if !fleet.external_label.is_empty() && global.external_labels.get(&fleet.external_label).is_none() {
        let mut labels = global.external_labels.to_builder();
        labels.set(&fleet.external_label, &fleet.member);
        global.external_labels = labels.build();
    }
    Some(fleet)
}

/// The section. Labels of a block identify its stream, so blocks without labels would be mixed with those of others.
fn read_object_storage(fields: &mut Fields, global: &Global) -> Option<crate::ObjectStorage> {
    let storage = fields.take("object_storage")?;
    if global.external_labels.is_empty() {
        let text = "no external labels configured; blocks in object storage are told apart by external_labels of global, \
                    which must be unique";
        fields.refuse("object_storage", text);
    }
    Some(storage)
}

fn read_jobs(fields: &mut Fields, global: &Global, names: &mut JobNames) -> Vec<Arc<ScrapeConfig>> {
    let cx = fields.cx;
    let Some(node) = fields.take_node("scrape_configs") else { return Vec::new() };
    let items: &[Rc<Node>] = match &node.kind {
        Kind::List(items) => items,
        Kind::Null => &[],
        _ => {
            fields.refuse(
                "scrape_configs",
                &format!("cannot unmarshal {} into a list of jobs; write each as `- job_name: ..`", node.tag()),
            );
            &[]
        }
    };
    let read = |(index, item): (usize, &Rc<Node>)| {
        cx.within(Step::Index(index), || {
            if matches!(item.kind, Kind::Null) {
                cx.refuse(item.mark, "empty or null scrape config section; remove the dash or write the job");
                return None;
            }
            let job = ScrapeConfig::read(item, global, cx)?;
            refuse_second(item, &job.job_name, cx, names);
            Some(Arc::new(job))
        })
    };
    cx.within(Step::Key("scrape_configs"), || items.iter().enumerate().filter_map(read).collect())
}

fn refuse_second(item: &Node, name: &str, cx: &Context, names: &mut JobNames) {
    if name.is_empty() {
        return;
    }
    let name_mark = match &item.kind {
        Kind::Map(entries) => entries.iter().find(|(key, _)| key.text() == Some("job_name")).map(|(_, node)| node.mark),
        _ => None,
    };
    let mark = name_mark.unwrap_or(item.mark);
    let place = format!("{}:{}", cx.file.display(), mark.line);
    if let Some(first) = names.get(name) {
        let message = format!("found multiple scrape configs with job name {name:?}, the first at {first}; rename one");
        cx.within(Step::Key("job_name"), || cx.refuse(mark, message));
    } else {
        names.insert(name.to_owned(), place);
    }
}

/// Reads glob patterns and makes them absolute. As in Prometheus, a `*` may be in the last part only.
fn read_patterns(fields: &mut Fields, name: &'static str, what: &str) -> Vec<PathBuf> {
    let texts: Vec<String> = fields.take(name).unwrap_or_default();
    let has_early_star = |text: &str| text.find('*').is_some_and(|at| text[at..].contains('/'));
    for text in texts.iter().filter(|text| has_early_star(text) || text.contains('\0')) {
        fields.refuse(name, &format!("invalid {what} path {text:?}; a `*` may stand in the last part only"));
    }
    for text in texts.iter().filter(|text| !is_valid_pattern(text)) {
        fields.refuse(
            name,
            &format!("error retrieving {what}s for {text}: syntax error in pattern; close the bracket or escape it"),
        );
    }
    // An empty pattern, or a null, names no file.
    texts.iter().filter(|text| !text.is_empty()).map(|text| fields.cx.absolute(text)).collect()
}

/// A list of sections whose names, where they have one, are unique.
fn read_named<T: Value>(fields: &mut Fields, name: &'static str, name_of: impl Fn(&T) -> &String) -> Vec<T> {
    let list: Vec<T> = fields.take(name).unwrap_or_default();
    for (index, item) in list.iter().enumerate() {
        let own = name_of(item);
        if !own.is_empty() && list[..index].iter().any(|other| name_of(other) == own) {
            let what = name.replace('_', " ");
            fields.refuse(name, &format!("found multiple {what} configs with job name {own:?}; rename one"));
        }
    }
    list
}

/// One of `scrape_config_files`: a mapping with `scrape_configs` and nothing else.
fn read_jobs_file(path: &Path, global: &Global, names: &mut JobNames) -> Result<Vec<Arc<ScrapeConfig>>, ConfigErrors> {
    let text = read_regular(path)?;
    let cx = Context::new(path, path.parent().unwrap_or(Path::new("/")), global.metric_name_validation_scheme);
    let jobs = match parse(&text) {
        Ok(node) => Fields::of(&node, &cx, "a scrape config file").map(|mut fields| {
            let jobs = read_jobs(&mut fields, global, names);
            fields.finish("a scrape config file");
            jobs
        }),
        Err((SourceLocation { line, column }, message)) => {
            cx.refuse(SourceLocation { line, column }, message);
            None
        }
    };
    let errors = cx.into_errors();
    jobs.filter(|_| errors.is_empty()).ok_or(ConfigErrors(errors))
}
