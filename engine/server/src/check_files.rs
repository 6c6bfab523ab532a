//! What `check config` finds beside the text of a configuration: files that are not there, targets without an address.
//!
//! Verdicts are those of promtool; a missing file that it does not look for is a warning.

use config::{Config, Tree};
use std::path::Path;

/// A finding, and whether promtool fails for it.
#[derive(Debug, PartialEq, Eq)]
pub struct FileProblem {
    pub is_failure: bool,
    pub text: String,
}

/// Signs of a pattern.
const PATTERN: [char; 3] = ['*', '?', '['];
/// Fields with files that the server writes.
const WRITTEN: [&str; 2] = ["query_log_file", "scrape_failure_log_file"];

/// Looks at the files of a configuration that was loaded.
pub fn findings(config: &Config) -> Vec<FileProblem> {
    let mut found = Vec::new();
    for file in &config.rule_files {
        if !file.to_string_lossy().contains(PATTERN) && !file.exists() {
            found.push(failure(format!("{:?} does not point to an existing file", file.display().to_string())));
        }
    }
    match config::parse_yaml(&config.to_yaml()) {
        Ok(tree) => visit(&tree, &mut Vec::new(), &mut found),
        Err(error) => found.push(failure(format!("the configuration as it is in force cannot be read: {error}"))),
    }
    found
}

fn failure(text: String) -> FileProblem {
    FileProblem { is_failure: true, text }
}

/// Visits every field; `path` has the keys that lead to it.
fn visit(tree: &Tree, path: &mut Vec<String>, found: &mut Vec<FileProblem>) {
    match tree {
        Tree::Map(fields) => {
            for (name, value) in fields {
                path.push(name.clone());
                match value {
                    Tree::Text(file) | Tree::Plain(file)
                        if name.ends_with("_file") && !WRITTEN.contains(&name.as_str()) =>
                    {
                        look_for(file, path, found);
                    }
                    Tree::List(groups) if name == "static_configs" => check_addresses(groups, found),
                    Tree::List(files) if name == "files" && path.iter().any(|key| key == "file_sd_configs") => {
                        files.iter().for_each(|file| check_target_file(file, found));
                    }
                    value => visit(value, path, found),
                }
                path.pop();
            }
        }
        Tree::List(items) => items.iter().for_each(|item| visit(item, path, found)),
        Tree::Text(_) | Tree::Plain(_) => {}
    }
}

fn look_for(file: &str, path: &[String], found: &mut Vec<FileProblem>) {
    let Err(error) = std::fs::metadata(file) else { return };
    // promtool looks for the credentials of jobs alone.
    let is_job = path.first().is_some_and(|key| key == "scrape_configs") && path.len() <= 3;
    if is_job && matches!(path.last().map(String::as_str), Some("credentials_file" | "bearer_token_file")) {
        found.push(failure(format!("error checking authorization credentials or bearer token file {file:?}: {error}")));
    } else {
        found.push(FileProblem { is_failure: false, text: format!("{}: {file}: {error}", path.join(".")) });
    }
}

fn check_target_file(file: &Tree, found: &mut Vec<FileProblem>) {
    let (Tree::Text(file) | Tree::Plain(file)) = file else { return };
    if !config::is_valid_pattern(file) {
        found.push(failure(format!("{file}: syntax error in pattern")));
    } else if config::glob(Path::new(file)).is_empty() {
        found.push(FileProblem { is_failure: false, text: format!("file_sd_configs: no file is {file}") });
    }
}

fn check_addresses(groups: &[Tree], found: &mut Vec<FileProblem>) {
    for (index, group) in groups.iter().enumerate() {
        let Tree::Map(fields) = group else { continue };
        let targets = fields.iter().find(|(name, _)| name == "targets").map(|(_, targets)| targets);
        let Some(Tree::List(targets)) = targets else { continue };
        for (instance, target) in targets.iter().enumerate() {
            if matches!(target, Tree::Text(text) | Tree::Plain(text) if text.is_empty()) {
                found.push(failure(format!("instance {instance} in group {index}: no address")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &[(bool, &str)]) {
        let config = config::parse_config(Path::new("/nowhere/p.yml"), text, &config::Env::process()).unwrap();
        let found = findings(&config);
        assert_eq!(found.len(), want.len(), "{text}: {found:?}");
        for (finding, (is_failure, part)) in found.iter().zip(want) {
            assert!(finding.is_failure == *is_failure && finding.text.contains(part), "{text}: {finding:?}");
        }
    }

    #[test]
    fn verdicts_are_those_of_promtool() {
        check("rule_files: [r.yml]", &[(true, "\"/nowhere/r.yml\" does not point to an existing file")]);
        check("rule_files: ['*.yml']", &[]);
        let job = |settings: &str| format!("scrape_configs: [{{job_name: j, {settings}}}]");
        check(&job("authorization: {credentials_file: c}"), &[(true, "bearer token file \"/nowhere/c\"")]);
        check(&job("basic_auth: {username: u, password_file: p}"), &[(false, "password_file: /nowhere/p")]);
        check(&job("tls_config: {ca_file: ca}"), &[(false, "/nowhere/ca")]);
        check(&job("static_configs: [{targets: [a:1, null]}]"), &[(true, "instance 1 in group 0: no address")]);
        check(&job("file_sd_configs: [{files: ['a[.yml']}]"), &[(true, "syntax error in pattern")]);
        check(&job("file_sd_configs: [{files: [t.yml]}]"), &[(false, "no file is /nowhere/t.yml")]);
        check(
            "remote_write: [{url: 'http://a/', authorization: {credentials_file: c}}]",
            &[(false, "credentials_file")],
        );
        check("global: {query_log_file: q.log, scrape_failure_log_file: s.log}", &[]);
        check(&job("metrics_path: /x_file"), &[]);
    }
}
