//! Runs scripts in the test language of Prometheus: those beside this file, and those of a folder named by
//! RINGSCRAPE_PROMQL_SCRIPTS, if it is set.

mod language;

use std::path::Path;

fn run_folder(folder: &Path) -> (usize, Vec<String>) {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .collect();
    files.sort();
    let (mut passed, mut failures) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a script is text");
        let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let result = language::run(&text);
        println!("{name}: {} of {} evaluations pass", result.passed, result.passed + result.failures.len());
        passed += result.passed;
        failures.extend(result.failures.into_iter().map(|failure| format!("{name}:{failure}")));
    }
    (passed, failures)
}

#[test]
fn own_scripts_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let (passed, failures) = run_folder(&folder);
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(passed > 100, "only {passed} evaluations ran");
}

#[test]
fn foreign_scripts_pass() {
    let Some(folder) = std::env::var_os("RINGSCRAPE_PROMQL_SCRIPTS") else { return };
    let (passed, failures) = run_folder(Path::new(&folder));
    assert!(failures.is_empty(), "{}\n{passed} pass, {} fail", failures.join("\n\n"), failures.len());
}
