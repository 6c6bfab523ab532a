//! `ringscrape migrate`: setups of Prometheus and vmagent as they are met, and what is said and written for each.

mod support;

use std::path::Path;
use std::process::Command;
use support::{FakeTarget, config, job, root};

/// What the command printed, and whether it found nothing that has to be changed first.
struct Outcome {
    text: String,
    is_possible: bool,
}

fn migrate(from: &str, file: &Path, flags: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .args(["migrate", "--from", from])
        .arg(file)
        .args(flags)
        .current_dir(file.parent().unwrap())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap() + &stderr;
    Outcome { text, is_possible: output.status.success() }
}

impl Outcome {
    /// The lines of a part of the report.
    fn part(&self, title: &str) -> String {
        let mut lines = self.text.lines().skip_while(|line| !line.starts_with(title));
        lines.next();
        lines.take_while(|line| line.starts_with("  ")).map(|line| format!("{line}\n")).collect()
    }
}

const FAILED: &str = "To be changed first";

#[track_caller]
fn has(part: &str, wanted: &[&str]) {
    for want in wanted {
        assert!(part.contains(want), "{want} in:\n{part}");
    }
}

/// The unit of Debian's package, with a configuration and a data folder; what is written starts and scrapes.
#[test]
fn the_unit_of_debian_is_moved_over_and_starts() {
    let target = FakeTarget::saying("a 1\n");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("metrics2/wal")).unwrap();
    std::fs::write(path("prometheus.yml"), config(&[job("node", &[target.address], "")])).unwrap();
    std::fs::write(
        path("default"),
        format!(
            "# flags\nARGS=\"--config.file={} \\\n  --storage.tsdb.path={} --storage.tsdb.retention.time=30d \\\n  \
             --no-storage.tsdb.wal-compression --web.listen-address=127.0.0.1:0 --enable-feature=exemplar-storage,st-synthesis\"\n",
            path("prometheus.yml").display(),
            path("metrics2/").display(),
        ),
    )
    .unwrap();
    let unit = format!(
        "[Unit]\nDescription=Monitoring system\nAfter=time-sync.target\n\n[Service]\nRestart=on-failure\nUser=prometheus\n\
         EnvironmentFile={}\nExecStart=/usr/bin/prometheus $ARGS\nExecReload=/bin/kill -HUP $MAINPID\nTimeoutStopSec=20s\n\
         SendSIGKILL=no\nLimitMEMLOCK=0\nLimitNOFILE=32768\nPrivateUsers=true\nMemoryMax=4G\nExecStartPre=/bin/true\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        path("default").display()
    );
    std::fs::write(path("prometheus.service"), unit).unwrap();

    let outcome = migrate("prometheus", &path("prometheus.service"), &["--write=new"]);
    assert!(outcome.is_possible, "{}", outcome.text);
    has(
        &outcome.part("The same"),
        &["--storage.tsdb.retention.time", "1 jobs, 0 rule groups", "wal/) is turned into blocks"],
    );
    has(
        &outcome.part("Different"),
        &["--storage.tsdb.wal-compression: the log", "ExecStartPre=/bin/true: not taken over"],
    );
    has(&outcome.part("Missing"), &["st-synthesis"]);
    has(&outcome.part("Then"), &["systemctl enable --now ringscrape", "tsdb export"]);

    let unit = std::fs::read_to_string(path("new/ringscrape.service")).unwrap();
    has(
        &unit,
        &[
            "User=prometheus\n",
            "After=network-online.target time-sync.target prometheus.service\n",
            "Conflicts=prometheus.service\n",
            "MemoryMax=4G\n",
            "LimitMEMLOCK=1G\n",
            "Type=notify\n",
            "ExecStart=/usr/bin/ringscrape \\\n",
            &format!("ReadWritePaths={}\n", path("metrics2/").display()),
        ],
    );
    assert!(!unit.contains("StateDirectory") && !unit.contains("wal-compression"), "{unit}");
    if let Ok(verified) = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(write_with_program(&path("new/verify"), &unit))
        .output()
    {
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(!said.contains("ringscrape.service:"), "{said}");
    }

    // A second run overwrites nothing.
    let again = migrate("prometheus", &path("prometheus.service"), &["--write=new"]);
    assert!(!again.is_possible && again.text.contains("there is one already"), "{}", again.text);

    let mut child = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .arg(format!("@{}", path("new/ringscrape.flags").display()))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    support::until("the target is scraped", || (target.request_count() > 0).then_some(()));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

/// The unit with this program in the place of the one that is not installed here.
fn write_with_program(folder: &Path, unit: &str) -> std::path::PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let file = folder.join("ringscrape.service");
    std::fs::write(&file, unit.replace("/usr/bin/ringscrape", env!("CARGO_BIN_EXE_ringscrape"))).unwrap();
    file
}

/// Arguments as the operator writes them into a StatefulSet, and a configuration as it generates it.
#[test]
fn what_the_operator_generates_is_moved_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(
        path("args.yml"),
        "- --config.file=/etc/prometheus/config_out/prometheus.env.yaml\n\
         - --web.enable-lifecycle\n\
         - --web.external-url=http://prometheus.example/prom\n\
         - --web.route-prefix=/\n\
         - --storage.tsdb.retention.time=24h\n\
         - --storage.tsdb.path=/prometheus\n\
         - --web.config.file=/etc/prometheus/web_config/web-config.yaml\n\
         - --no-storage.tsdb.allow-overlapping-compaction\n\
         - --web.console.templates=/etc/prometheus/consoles\n\
         - --web.console.libraries=/etc/prometheus/console_libraries\n",
    )
    .unwrap();
    std::fs::write(path("prometheus.env.yaml"), OPERATOR_CONFIG).unwrap();
    let outcome = migrate("prometheus", &path("args.yml"), &["--config.file=prometheus.env.yaml"]);
    assert!(outcome.is_possible, "{}", outcome.text);
    has(&outcome.part("The same"), &["--web.route-prefix", "2 jobs"]);
    has(
        &outcome.part("Different"),
        &["allow-overlapping-compaction: each sample", "not looked at", "--web.cors.origin"],
    );
    has(&outcome.part("Missing"), &["--web.console.templates: there are no consoles"]);
}

const OPERATOR_CONFIG: &str = r#"global:
  evaluation_interval: 30s
  scrape_interval: 30s
  external_labels:
    prometheus: monitoring/k8s
    prometheus_replica: $(POD_NAME)
rule_files: []
scrape_configs:
- job_name: serviceMonitor/monitoring/node-exporter/0
  honor_labels: false
  kubernetes_sd_configs:
  - role: endpoints
    namespaces:
      names:
      - monitoring
  scrape_interval: 15s
  scheme: https
  tls_config:
    insecure_skip_verify: true
  relabel_configs:
  - source_labels:
    - job
    target_label: __tmp_prometheus_job_name
  - action: keep
    source_labels:
    - __meta_kubernetes_service_label_app_kubernetes_io_name
    - __meta_kubernetes_service_labelpresent_app_kubernetes_io_name
    regex: (node-exporter);true
  - source_labels:
    - __address__
    - __tmp_hash
    target_label: __tmp_hash
    regex: (.+);
    replacement: $1
    action: replace
  - source_labels:
    - __tmp_hash
    target_label: __tmp_hash
    modulus: 1
    action: hashmod
  - source_labels:
    - __tmp_hash
    - __tmp_disable_sharding
    regex: $(SHARD);|.+;.+
    action: keep
  metric_relabel_configs: []
- job_name: podMonitor/monitoring/app/0
  kubernetes_sd_configs:
  - role: pod
  relabel_configs:
  - action: drop
    source_labels:
    - __meta_kubernetes_pod_phase
    regex: (Failed|Succeeded)
alerting:
  alert_relabel_configs:
  - action: labeldrop
    regex: prometheus_replica
  alertmanagers:
  - path_prefix: /
    scheme: http
    kubernetes_sd_configs:
    - role: endpoints
      namespaces:
        names:
        - monitoring
    api_version: v2
    relabel_configs:
    - action: keep
      source_labels:
      - __meta_kubernetes_service_name
      regex: alertmanager-main
"#;

#[test]
fn what_cannot_start_is_said_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("command");
    std::fs::write(folder.path().join("bad.yml"), "scrape_configs: [{job_name: a, scrape_intervall: 5s}]\n").unwrap();
    std::fs::write(folder.path().join("good.yml"), "remote_write: [{url: 'http://a/'}]\n").unwrap();
    for (command, want) in [
        ("prometheus --config.file=bad.yml", "bad.yml:1:32: scrape_configs[0].scrape_intervall"),
        ("prometheus --config.file=none.yml", "none.yml"),
        ("prometheus --query.timeout=5", "not a valid duration"),
        ("prometheus --no-such-flag", "--no-such-flag"),
        ("prometheus --agent --query.timeout=5m", "agent mode"),
        ("vmagent -promscrape.config=good.yml", "at least one endpoint"),
        ("vmagent -remoteWrite.url=http://a/ -promscrape.config=http://b/c.yml", "a configuration is a file"),
        ("vmagent -remoteWrite.url=http://a/ -remoteWrite.maxDiskUsagePerURL=x", "is no size"),
    ] {
        std::fs::write(&file, command).unwrap();
        let outcome = migrate(command.split(' ').next().unwrap(), &file, &[]);
        assert!(!outcome.is_possible, "{command}:\n{}", outcome.text);
        has(&outcome.part(FAILED), &[want]);
    }
    std::fs::write(&file, "prometheus --agent --config.file=good.yml").unwrap();
    let agent = migrate("prometheus", &file, &[]);
    assert!(agent.is_possible, "{}", agent.text);
}

#[test]
fn vmagent_becomes_an_agent_with_remote_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("scrape.yml"), "global:\n  scrape_interval: 15s\nscrape_configs:\n- job_name: node\n  static_configs:\n  - targets: ['n:9100']\n").unwrap();
    std::fs::write(path("relabel.yml"), "- action: drop\n  source_labels: [__name__]\n  regex: go_.*\n").unwrap();
    std::fs::write(path("token"), "secret\n").unwrap();
    std::fs::write(
        path("vmagent.service"),
        format!(
            "[Service]\nUser=vm\nWorkingDirectory={}\nExecStart=/usr/bin/vmagent-prod -promscrape.config=scrape.yml \\\n \
             -remoteWrite.url=http://one/api/v1/write -remoteWrite.url=https://two/api/v1/write \\\n \
             -remoteWrite.basicAuth.username=u,v -remoteWrite.basicAuth.password='p\"1',p2 \\\n \
             -remoteWrite.bearerTokenFile=,token -remoteWrite.label=dc=eu$1 -remoteWrite.relabelConfig=relabel.yml \\\n \
             -remoteWrite.maxDiskUsagePerURL=1GiB -remoteWrite.tmpDataPath=/var/lib/vm -remoteWrite.queues=4 \\\n \
             -remoteWrite.headers='X-Scope-OrgID: a^^X-B: c' -remoteWrite.tlsInsecureSkipVerify \\\n \
             -promscrape.cluster.membersCount=2 -promscrape.cluster.memberNum=0 -loggerFormat=json -loggerLevel=WARN \\\n \
             -graphiteListenAddr=:2003 -promscrape.configCheckInterval=1m -what.is.this=1 -httpListenAddr=127.0.0.1:8429\n",
            folder.path().display()
        ),
    )
    .unwrap();
    let outcome = migrate("vmagent", &path("vmagent.service"), &["--write=new"]);
    // Two authentications for one endpoint are a mistake in both.
    assert!(!outcome.is_possible, "{}", outcome.text);
    has(&outcome.part(FAILED), &["remote_write[1]", "at most one of"]);

    let unit =
        std::fs::read_to_string(path("vmagent.service")).unwrap().replace("-remoteWrite.bearerTokenFile=,token", "");
    std::fs::write(path("vmagent.service"), unit).unwrap();
    assert!(!path("new").exists(), "nothing is written before");
    let outcome = migrate("vmagent", &path("vmagent.service"), &["--write=new"]);
    assert!(outcome.is_possible, "{}", outcome.text);
    has(&outcome.part("The same"), &["2 entries of remote_write", "1 jobs, 0 rule groups, 2 endpoints"]);
    has(&outcome.part("Different"), &["honor_timestamps", "body_size_limit", "vmagent's queues"]);
    has(
        &outcome.part("Missing"),
        &["-graphiteListenAddr", "-promscrape.cluster.membersCount", "-what.is.this: this flag is not known"],
    );

    let flags = std::fs::read_to_string(path("new/ringscrape.flags")).unwrap();
    has(
        &flags,
        &[
            "--agent\n",
            "--web.listen-address=127.0.0.1:8429\n",
            "--log.format=json\n",
            "--log.level=warn\n",
            "--config.auto-reload-interval=1m\n",
            "--storage.agent.retention.size=2147483648B\n",
        ],
    );
    let text = std::fs::read_to_string(path("new/prometheus.yml")).unwrap();
    has(
        &text,
        &[
            "job_name: node",
            "password: \"p\\\"1\"",
            "username: \"v\"",
            "\"X-Scope-OrgID\": \"a\"",
            "insecure_skip_verify: true",
            "target_label: \"dc\", replacement: \"eu$$1\"",
            "regex: go_.*",
            "max_shards: 4",
        ],
    );
    let checked = Command::new(env!("CARGO_BIN_EXE_ringscrape"))
        .args(["check", "config", "--agent"])
        .arg(path("new/prometheus.yml"))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    // Passwords are for the user of the service alone.
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path("new/prometheus.yml")).unwrap().permissions());
    assert_eq!(mode & 0o007, 0);
}

#[test]
fn fields_of_vmagent_alone_are_named_with_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("s.yml"),
        "scrape_configs:\n- job_name: a\n  series_limit: 5\n  scrape_align_interval: 1m\n  headers: ['A: b']\n  static_configs: [{targets: ['%{HOST}:1']}]\n",
    )
    .unwrap();
    let file = folder.path().join("c");
    std::fs::write(
        &file,
        "docker run --name vmagent victoriametrics/vmagent:latest -remoteWrite.url=http://a/ -promscrape.config=s.yml",
    )
    .unwrap();
    let outcome = migrate("vmagent", &file, &[]);
    assert!(!outcome.is_possible);
    has(
        &outcome.part(FAILED),
        &["s.yml:3:3", "remove it; sample_limit", "scrape_align_interval", "write http_headers"],
    );
    has(&outcome.part("Missing"), &["%{NAME}"]);
}

/// Every configuration that is shipped, as a Prometheus would run it.
#[test]
fn example_configurations_are_moved_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("command");
    for config in [
        "configs/prometheus.yml",
        "configs/ha-pair/prometheus-a.yml",
        "configs/hashmod/node-0.yml",
        "configs/discovery/bare-metal.yml",
    ] {
        std::fs::write(&file, format!("prometheus --config.file={}", root().join(config).display())).unwrap();
        let outcome = migrate("prometheus", &file, &[]);
        assert!(outcome.is_possible, "{config}:\n{}", outcome.text);
    }
}

/// Input without sense ends in an error, not in a panic.
#[test]
fn input_without_sense_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    for text in [
        &b"\xff\xfe\x00"[..],
        b"",
        b"[Service]\n",
        b"[Service]\nExecStart=\n",
        b"'",
        b"$ % \\",
        b"[Service]\nExecStart=/p ${ $ $$ %\n",
        b"@missing",
        b"--a\n\n\n--",
    ] {
        std::fs::write(&file, text).unwrap();
        for from in ["prometheus", "vmagent"] {
            let outcome = migrate(from, &file, &[]);
            assert!(!outcome.is_possible, "{from} {text:?}: {}", outcome.text);
        }
    }
    assert!(!migrate("prometheus", folder.path(), &[]).is_possible, "a folder");
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(migrate("prometheus", &pipe, &[]).text.contains("this is not a file"), "a pipe is not waited for");
}
