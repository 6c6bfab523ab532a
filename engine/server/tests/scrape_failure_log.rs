//! The logs of failed scrapes, `scrape_failure_log_file`, for all jobs and for one.

mod support;

use serde_json::Value;
use std::path::Path;
use support::{FakeTarget, Ringscrape, config, free, job, until};

/// The lines of a log about a job.
fn lines(file: &Path, job: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["job_name"] == job).collect()
}

#[test]
fn failed_scrapes_are_logged_for_all_jobs_and_for_one() {
    let good = FakeTarget::saying("a 1\n");
    let bad = FakeTarget::saying("a x\n");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let jobs = config(&[
        job("good", &[good.address], ""),
        job("bad", &[bad.address], ""),
        job("own", &[free("127.0.0.1")], "scrape_failure_log_file: own.log"),
    ]);
    std::fs::write(path("prometheus.yml"), format!("global: {{scrape_failure_log_file: all.log}}\n{jobs}")).unwrap();
    let (all, own) = (path("all.log"), path("own.log"));
    let server = Ringscrape::start_in(folder, &[]);
    let refused = until("the closed port is logged", || lines(&own, "own").pop());
    assert!(refused["msg"].as_str().unwrap().contains("connection refused"), "{refused}");
    assert_eq!(refused["level"], "ERROR");
    assert!(refused["target"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{refused}");
    let broken = until("the broken payload is logged", || lines(&all, "bad").pop());
    assert_eq!(broken["target"], format!("http://{}/metrics", bad.address));
    assert!(lines(&all, "good").is_empty() && lines(&all, "own").is_empty(), "the job's own file is instead of it");
    assert!(!server.log().contains("not carried out"), "{}", server.log());

    // Moved away and reloaded, as logrotate does.
    std::fs::rename(&all, all.with_extension("old")).unwrap();
    server.signal(1);
    until("a new file is begun", || lines(&all, "bad").pop());
}

/// Files that cannot be written, and a pipe that nobody reads, cost their lines only.
#[test]
fn files_that_cannot_be_written_cost_their_lines_only() {
    let bad = FakeTarget::saying("a x\n");
    let good = FakeTarget::saying("a 1\n");
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let jobs = [
        job("good", &[good.address], ""),
        job("one", &[bad.address], "scrape_failure_log_file: pipe"),
        job("two", &[bad.address], "scrape_failure_log_file: /dev/full"),
        job("three", &[bad.address], "scrape_failure_log_file: /nowhere/x.log"),
    ];
    std::fs::write(folder.path().join("prometheus.yml"), config(&jobs)).unwrap();
    let server = Ringscrape::start_in(folder, &[]);
    until("the loss is told", || server.log().contains("lines of scrape_failure_log_file were lost").then_some(()));
    assert!(server.log().contains("/nowhere/x.log"), "{}", server.log());
    let count = good.request_count();
    until("scraping goes on", || (good.request_count() > count + 3).then_some(()));
}
