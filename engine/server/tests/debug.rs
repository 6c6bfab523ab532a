//! What support asks for: the bundle of `ringscrape debug`, and the state dump on SIGUSR1.

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};
use support::{FakeTarget, Ringscrape, config, job, until};

fn debug(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringscrape")).arg("debug").args(arguments).current_dir(folder).output().unwrap()
}

fn unpack(file: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(file).unwrap()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name.strip_prefix("ringscrape-debug/").unwrap().to_owned(), text);
    }
    files
}

#[test]
fn a_bundle_has_what_is_needed_and_no_secret() {
    let target = FakeTarget::saying("a 1\n");
    let extra = "params: {token: [geheim1], b: ['geheim2']}\nbasic_auth: {username: u, password: geheim3}\n\
                 http_headers: {X-Key: {values: [geheim4], secrets: [geheim5]}}\n\
                 relabel_configs: [{target_label: __param_more, replacement: geheim6}]";
    let remote = "remote_write: [{url: 'http://us:geheim7@127.0.0.1:1/w?key=geheim8', headers: {X-Scope: geheim9}, \
                  authorization: {credentials: geheim10}}]\n";
    let server = Ringscrape::start(&format!("{}{remote}", config(&[job("node", &[target.address], extra)])), &[]);
    until("the target is scraped", || server.value("a"));
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}", server.address);
    let output = debug(&[&url, "--out=b.tar.gz"], folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bundle = folder.path().join("b.tar.gz");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&bundle).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "for its owner alone");
    let files = unpack(&bundle);
    for (name, want) in [
        ("config.json", "job_name: node"),
        ("flags.json", "config.file"),
        ("targets.json", "\"health\":\"up\""),
        ("metrics.txt", "ringscrape_scrapes_total"),
        ("buildinfo.json", "version"),
        ("walreplay.json", "done"),
        ("remote_write.json", "127.0.0.1:1"),
        ("object_storage.json", "objectStorage"),
        ("machine/version", "Linux"),
        ("README", "ringscrape"),
    ] {
        assert!(files[name].contains(want), "{name}: {}", files[name]);
    }
    for (name, text) in &files {
        assert!(!text.contains("geheim"), "{name}: {text}");
    }

    // It overwrites nothing, and says why there is no bundle.
    assert!(!debug(&[&url, "--out=b.tar.gz"], folder.path()).status.success());
    let refused = debug(&["http://127.0.0.1:1"], folder.path());
    assert!(!refused.status.success() && !folder.path().join("ringscrape-debug.tar.gz").exists());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("refused") && text.lines().count() == 1, "{text}");
}

#[test]
fn the_state_is_dumped_on_a_signal() {
    let target = FakeTarget::saying("a 1\n");
    let server = Ringscrape::start(&config(&[job("node", &[target.address], "")]), &["--shards=1"]);
    until("the target is scraped", || server.value("a"));
    server.signal(10);
    until("the dump ends", || server.log().contains("msg=\"end of the state\"").then_some(()));
    let log = server.log();
    for want in [
        "msg=\"state of the process\"",
        "msg=\"state of a job\" job=node targets=1",
        "msg=\"state of a core\" core=0",
        "msg=\"state of the storage\"",
        "msg=\"state of queries\"",
    ] {
        assert!(log.contains(want), "{want} in {log}");
    }
    assert_eq!(server.get("/-/healthy").status, 200, "and it goes on");
}
