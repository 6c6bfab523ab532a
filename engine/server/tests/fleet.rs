//! Several processes with one configuration: every target once, nothing lost on the way, and the tools beside them.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use support::{FakeTarget, Ringscrape, free, ok, root, until};

const TARGETS: usize = 40;

/// The list of members as a file that all of them follow.
struct Fleet {
    folder: tempfile::TempDir,
    target: FakeTarget,
    members: BTreeMap<String, (SocketAddr, Ringscrape)>,
}

impl Fleet {
    fn new() -> Fleet {
        // One server stands for all targets: each has a path of its own.
        let target = FakeTarget::start(|_| ok("a 1\n"));
        Fleet { folder: tempfile::tempdir().unwrap(), target, members: BTreeMap::new() }
    }

    fn list(&self, names: &[&str]) {
        let groups: Vec<String> = names
            .iter()
            .map(|name| format!(r#"{{"targets": ["{}"], "labels": {{"member": "{name}"}}}}"#, self.members[*name].0))
            .collect();
        self.write_list(&format!("[{}]", groups.join(",")));
    }

    fn write_list(&self, text: &str) {
        let file = self.folder.path().join("members.json");
        std::fs::write(file.with_extension("new"), text).unwrap();
        std::fs::rename(file.with_extension("new"), &file).unwrap();
    }

    fn start(&mut self, name: &str, extra: &str) {
        // The others have to know the address before it listens.
        let address = free("127.0.0.9");
        let paths: String = (0..TARGETS)
            .map(|i| {
                format!(
                    "      - {{targets: ['{}'], labels: {{__metrics_path__: '/t{i}', shard_by: 't{i}'}}}}\n",
                    self.target.address
                )
            })
            .collect();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nfleet:\n  member: {name}\n  external_label: member\n  \
             hash_labels: [shard_by]\n  file_sd_configs: [{{files: ['{}']}}]\n{extra}scrape_configs:\n  - job_name: j\n    \
             static_configs:\n{paths}",
            self.folder.path().join("members.json").display()
        );
        let listen = format!("--web.listen-address={address}");
        let process = Ringscrape::start(&config, &[&listen, "--shards=1"]);
        self.members.insert(name.to_owned(), (address, process));
    }

    fn process(&self, name: &str) -> &Ringscrape {
        &self.members[name].1
    }

    /// Targets of each member once all are settled: none on its way, each scraped by one.
    fn settled(&self, names: &[&str]) -> BTreeMap<String, usize> {
        until("the fleet is settled", || {
            let look = |name: &&str| self.process(name).api("/api/v1/status/fleet");
            let all: Vec<_> = names.iter().map(look).collect();
            let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
            let leaving: usize = all.iter().map(|one| number(&one["leaving"])).sum();
            let active: Vec<usize> = all.iter().map(|one| number(&one["active"])).collect();
            // Those that have not read the list yet are alike, too, and one of them has nothing.
            let is_known = active.iter().all(|count| *count > 0);
            let is_alike = all.iter().all(|one| one["fingerprint"] == all[0]["fingerprint"]);
            (leaving == 0 && is_known && is_alike && active.iter().sum::<usize>() == TARGETS)
                .then(|| names.iter().map(|name| (*name).to_owned()).zip(active).collect())
        })
    }

    /// Scrapes of each target so far.
    fn scrapes(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (_, head) in self.target.requests.lock().unwrap().iter() {
            *counts.entry(head.split(' ').nth(1).unwrap().to_owned()).or_default() += 1;
        }
        counts
    }
}

#[test]
fn members_come_and_go_and_every_target_is_scraped_by_one() {
    let mut fleet = Fleet::new();
    fleet.write_list("[]");
    fleet.start("a", "");
    let problems = fleet.process("a").api("/api/v1/status/fleet")["problems"].to_string();
    assert!(problems.contains("empty"), "{problems}");
    assert_eq!(fleet.process("a").targets().len(), TARGETS, "without a list nothing goes unscraped");
    fleet.list(&["a"]);
    assert_eq!(fleet.settled(&["a"])["a"], TARGETS);
    until("all are scraped", || (fleet.scrapes().len() == TARGETS).then_some(()));

    fleet.start("b", "");
    fleet.list(&["a", "b"]);
    let shares = fleet.settled(&["a", "b"]);
    assert!(shares.values().all(|count| *count > 5), "{shares:?}");
    let handed_over = fleet.process("a").metric("ringscrape_fleet_handed_over_total").unwrap();
    assert_eq!(handed_over as usize, shares["b"]);
    assert_eq!(fleet.process("a").metric("ringscrape_fleet_handover_expired_total"), Some(0.0));
    // A target that moved has no marker: its last value is still the newest at its old owner.
    let labels = fleet.process("a").api("/api/v1/query?query=count(a)");
    assert_eq!(labels["result"][0]["value"][1], TARGETS.to_string(), "{labels}");

    // The mirror: b leaves the list, goes on until a has scraped, and has nothing left.
    fleet.list(&["a"]);
    until("b has handed over", || {
        let b = fleet.process("b").api("/api/v1/status/fleet");
        (b["active"] == 0 && b["problems"].to_string().contains("not in the list")).then_some(())
    });
    assert_eq!(fleet.settled(&["a"])["a"], TARGETS);
    // An empty list changes nothing.
    fleet.write_list("[]");
    until("a says so", || {
        fleet.process("a").api("/api/v1/status/fleet")["problems"].to_string().contains("stays in use").then_some(())
    });
    assert_eq!(fleet.process("a").targets().len(), TARGETS);
}

#[test]
fn an_owner_that_does_not_answer_gets_its_targets_at_the_deadline() {
    let mut fleet = Fleet::new();
    fleet.write_list("[]");
    fleet.start("a", "  handover_deadline: 2s\n");
    let nobody = r#"{"targets": ["127.0.0.9:1"], "labels": {"member": "dead"}}"#;
    let a = format!(r#"{{"targets": ["{}"], "labels": {{"member": "a"}}}}"#, fleet.members["a"].0);
    fleet.write_list(&format!("[{a},{nobody}]"));
    let expired = until("the deadline passes", || {
        fleet.process("a").metric("ringscrape_fleet_handover_expired_total").filter(|count| *count > 0.0)
    });
    let active = until("a keeps its own", || {
        let active = fleet.process("a").targets().len();
        (active < TARGETS).then_some(active)
    });
    assert_eq!(expired as usize + active, TARGETS);
    until("the status shows it", || {
        let page = fleet.process("a").get("/api/v1/status/fleet").body;
        (page.contains("dead") && fleet.process("a").metric("ringscrape_fleet_members_unreachable") == Some(1.0))
            .then_some(())
    });
}

/// New settings of a job end nothing that is on its way, and what others have is listed with their names.
#[test]
fn new_settings_do_not_end_a_handover() {
    let mut fleet = Fleet::new();
    fleet.write_list("[]");
    fleet.start("a", "  handover_deadline: 1h\n");
    let nobody = r#"{"targets": ["127.0.0.9:1"], "labels": {"member": "dead"}}"#;
    let me = format!(r#"{{"targets": ["{}"], "labels": {{"member": "a"}}}}"#, fleet.members["a"].0);
    fleet.write_list(&format!("[{me},{nobody}]"));
    let a = fleet.process("a");
    let leaving =
        until("some are on their way", || a.metric("ringscrape_fleet_targets_leaving").filter(|count| *count > 0.0));
    let shown = a.api("/api/v1/ringscrape/discovery?state=leaving");
    assert_eq!(shown["total"], leaving as u64, "{shown}");
    assert_eq!(shown["rows"][0]["owners"], serde_json::json!(["dead"]), "{shown}");
    let all = TARGETS.to_string();
    let scraped = || a.api("/api/v1/query?query=count(a)")["result"][0]["value"][1] == all.as_str();
    until("all are scraped", || scraped().then_some(()));
    let file = a.path("prometheus.yml");
    let limited =
        std::fs::read_to_string(&file).unwrap().replace("job_name: j\n", "job_name: j\n    sample_limit: 9\n");
    std::fs::write(&file, limited).unwrap();
    a.signal(1);
    until("the settings are in use", || {
        a.api("/api/v1/status/config").to_string().contains("sample_limit").then_some(())
    });
    assert_eq!(a.metric("ringscrape_fleet_targets_leaving"), Some(leaving));
    assert_eq!(a.targets().len(), TARGETS);
    assert!(scraped(), "no marker ended a series");
    // A member that begins now knows what the other one has.
    fleet.start("b", "");
    let b = format!(r#"{{"targets": ["{}"], "labels": {{"member": "b"}}}}"#, fleet.members["b"].0);
    fleet.write_list(&format!("[{me},{nobody},{b}]"));
    let b = fleet.process("b");
    until("b lists targets of the others", || {
        let all = b.api("/api/v1/targets?state=dropped");
        let listed = all["otherMembersTargets"].as_array()?;
        let has = |member: &str| listed.iter().any(|target| target["members"] == serde_json::json!([member]));
        let count = all["otherMembersTargetCounts"]["j"].as_u64()? as usize;
        (has("a") && has("dead") && listed.len() == count).then_some(())
    });
}

#[test]
fn members_with_equal_labels_are_told_and_strangers_refused() {
    let mut fleet = Fleet::new();
    fleet.write_list("[]");
    for name in ["a", "b"] {
        fleet.start(name, "  authorization: {credentials: s3cret}\n");
    }
    fleet.list(&["a", "b"]);
    fleet.settled(&["a", "b"]);
    let a = fleet.process("a");
    assert_eq!(a.metric("ringscrape_fleet_check_errors"), Some(0.0), "the label member tells them apart");
    assert_eq!(a.get("/api/v1/fleet/member").status, 401);
    assert!(!a.get("/api/v1/fleet/member").body.contains("s3cret"));
    let with = [("Authorization", "Bearer s3cret")];
    let asked = support::request(a.address, "GET", "/api/v1/fleet/member", &with);
    assert!(asked.status == 200 && asked.body.contains("\"a\""), "{}", asked.body);
    let too_many = format!("{{\"targets\": [{}\"0\"]}}", "\"0\",".repeat(10_000));
    for (body, status) in [("{", 400), ("{\"targets\": [\"zz\"]}", 200), (too_many.as_str(), 400)] {
        let answer = support::request_with_body(a.address, "POST", "/api/v1/fleet/scraped", &with, body.as_bytes());
        assert_eq!(answer.status, status, "{}", answer.body);
    }
}

fn tool(arguments: &[&str]) -> (bool, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_ringscrape")).args(arguments).env("MEMBER", "scrape-1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// A reader that has seen enough ends the tool, and nothing else happens.
#[test]
fn a_plan_may_be_read_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let (file, saved) = (folder.path().join("p.yml"), folder.path().join("targets.json"));
    std::fs::write(&file, "").unwrap();
    // Far more than a pipe holds.
    let list: Vec<String> = (0..9_000).map(|i| format!("\"h{i}:9100\"")).collect();
    std::fs::write(&saved, format!("[{{\"targets\": [{}]}}]", list.join(","))).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .args(["fleet", "plan", "--members=a,b,c", "--join=d", "--json"])
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--targets={}", saved.display()))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    let mut out = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut first).unwrap();
    drop(out);
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn plan_shows_the_ring_beside_hashmod() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yml");
    std::fs::write(&file, "").unwrap();
    let list: Vec<String> = (0..3_000).map(|i| format!("\"h{i}:9100\"")).collect();
    let saved = folder.path().join("targets.json");
    std::fs::write(&saved, format!("[{{\"targets\": [{}]}}]", list.join(","))).unwrap();
    let (file, saved) = (format!("--config.file={}", file.display()), format!("--targets={}", saved.display()));
    let (good, text) = tool(&["fleet", "plan", &file, &saved, "--members=a,b,c", "--join=d", "--json"]);
    assert!(good, "{text}");
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    let moved = |mode: &str| plan[mode]["moved"].as_u64().unwrap();
    assert!(moved("ring") < 3_000 * 115 / 400 && moved("hashmod") > 2_000, "{} {}", moved("ring"), moved("hashmod"));
    assert!(plan["ring"]["moves"].as_array().unwrap().iter().all(|step| step["to"] == "d"));
    let (good, text) = tool(&["fleet", "plan", &file, &saved, "--members=a,b,c=2", "--leave=b", "--moves=3"]);
    assert!(good && text.contains("0 of them between members that stay") && text.contains("and "), "{text}");
    for wrong in ["--leave=x", "--join=a", "--join=z=heavy"] {
        assert!(!tool(&["fleet", "plan", &file, &saved, "--members=a,b", wrong]).0, "{wrong}");
    }
}

/// Three nodes as in configs/hashmod, over these targets.
fn hashmod_nodes(folder: &Path, passes: [&str; 3], shards: [&str; 3], count: usize) -> Vec<String> {
    let list: Vec<String> =
        (0..count).map(|i| format!("\"10.{}.{}.{}:9100\"", i / 65_536, i / 256 % 256, i % 256)).collect();
    std::fs::write(folder.join("t.json"), format!("[{{\"targets\": [{}]}}]", list.join(","))).unwrap();
    let example = std::fs::read_to_string(root().join("configs/hashmod/node-0.yml")).unwrap();
    let (head, rest) = example.split_once("    consul_sd_configs:\n").unwrap();
    let (_, rules) = rest.split_once("    relabel_configs:\n").unwrap();
    let write = |(pass, shard): (&str, &str)| {
        let text = format!("{head}    file_sd_configs: [{{files: [t.json]}}]\n    relabel_configs:\n{rules}");
        let text = text
            .replace("regex: \"0\"", &format!("regex: \"{pass}\""))
            .replace("shard: \"0\"", &format!("shard: {shard}"));
        let path = folder.join(format!("n-{pass}-{shard}.yml"));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    passes.into_iter().zip(shards).map(write).collect()
}

#[test]
fn check_finds_targets_of_none_and_of_two_and_equal_labels() {
    let folder = tempfile::tempdir().unwrap();
    for (passes, shards, want) in [
        (["0", "1", "2"], ["a", "b", "c"], "good"),
        (["0", "1", "3"], ["a", "b", "c"], "owned by none"),
        (["0", "1", ".*"], ["a", "b", "c"], "owned by several"),
        (["0", "1", "2"], ["a", "b", "a"], "same external_labels"),
    ] {
        let files = hashmod_nodes(folder.path(), passes, shards, 600);
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let (good, text) = tool(&[&["fleet", "check"], files.as_slice()].concat());
        assert!(text.contains(want) && good == (want == "good"), "{passes:?} {shards:?}: {text}");
    }
}

#[test]
fn ten_thousand_targets_divide_as_in_prometheus() {
    let folder = tempfile::tempdir().unwrap();
    let files = hashmod_nodes(folder.path(), ["0", "1", "2"], ["a", "b", "c"], 10_000);
    let mut owners: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (number, file) in (0..).zip(&files) {
        let path = std::path::PathBuf::from(file);
        let config = config::load(&path, &config::Env::process()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for target in
            &runtime.block_on(targets::pool_now(&config.scrape_configs[0], &targets::SdOptions::default())).active
        {
            owners.entry(target.url.authority.clone()).or_default().push(number);
            assert!(target.labels.iter().all(|(name, _)| !name.starts_with("__")), "{}", target.labels);
        }
    }
    assert_eq!(owners.len(), 10_000);
    for (address, owner) in &owners {
        assert_eq!(owner.len(), 1, "{address}");
    }
    for (address, want) in PYTHON {
        assert_eq!(owners[*address], [*want], "{address}");
    }
}

/// From Python: `int.from_bytes(hashlib.md5(s).digest()[8:], 'big') % 3`.
const PYTHON: &[(&str, u64)] = &[
    ("10.0.0.0:9100", 0),
    ("10.0.1.244:9100", 2),
    ("10.0.3.232:9100", 1),
    ("10.0.5.220:9100", 2),
    ("10.0.7.208:9100", 0),
    ("10.0.9.196:9100", 1),
    ("10.0.11.184:9100", 0),
    ("10.0.13.172:9100", 2),
    ("10.0.15.160:9100", 0),
    ("10.0.17.148:9100", 0),
    ("10.0.19.136:9100", 0),
    ("10.0.21.124:9100", 0),
    ("10.0.23.112:9100", 1),
    ("10.0.25.100:9100", 0),
    ("10.0.27.88:9100", 0),
    ("10.0.29.76:9100", 2),
    ("10.0.31.64:9100", 2),
    ("10.0.33.52:9100", 1),
    ("10.0.35.40:9100", 0),
    ("10.0.37.28:9100", 1),
    ("10.0.39.15:9100", 1),
];

#[test]
fn shards_by_function_can_be_told_apart() {
    let files: Vec<String> = ["core-infra", "payment-api", "data-pipelines"]
        .map(|name| root().join(format!("configs/functional/{name}.yml")).display().to_string())
        .to_vec();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let (good, text) = tool(&[&["fleet", "check"], files.as_slice()].concat());
    assert!(good && text.contains("good"), "{text}");
}
