//! The web UI in a real browser: Node and Debian's chromium run the tests of `engine/api/ui/tests` against this build.
//!
//! A machine without them skips these tests aloud; in CI that is a failure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One browser at a time: each needs a core of its own.
static BROWSER: Mutex<()> = Mutex::new(());

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/ui")
}

/// What is missing here; None: nothing.
fn missing() -> Option<&'static str> {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|ran| ran.status.success());
    if !runs("node") {
        Some("node")
    } else if !runs("chromium") {
        Some("chromium")
    } else if !folder().join("node_modules/playwright-core").exists() {
        Some("the packages of engine/api/ui")
    } else {
        None
    }
}

fn run(file: &str) {
    if let Some(missing) = missing() {
        assert!(std::env::var_os("CI").is_none(), "{missing} is missing; make test-deps installs it");
        eprintln!("SKIPPED: the web UI is not tested in a browser: {missing} is missing (make test-deps installs it)");
        return;
    }
    let _alone = BROWSER.lock().unwrap_or_else(PoisonError::into_inner);
    let ran = Command::new("node")
        .arg("--test")
        .arg(folder().join("tests").join(file))
        .env("RINGSCRAPE_BIN", env!("CARGO_BIN_EXE_ringscrape"))
        // What the tests say is read when one fails.
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    println!("{said}");
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(said.contains("# pass ") && !said.contains("# pass 0"), "no test ran: {said}");
}

#[test]
fn pages_do_what_readers_expect() {
    run("ui.test.mjs");
}

#[test]
fn hostile_texts_stay_texts() {
    run("hostile.test.mjs");
}

#[test]
fn ten_thousand_targets_are_shown_quickly() {
    run("scale.test.mjs");
}
