//! `ringscrape debug`: a bundle for support, one archive with what a server says of itself and no secret.
//!
//! Invariants:
//!   * nothing is asked that changes something, and nothing of samples but the server's own metrics
//!   * every text is masked before it is written: credentials, values of parameters and headers, queries of URLs
//!   * what cannot be had is in the bundle as the reason

use crate::cli::DebugBundle;
use crate::tool::{end, say};
use anyhow::Context;
use client::{Client, ClientOptions};
use flate2::{Compression, write::GzEncoder};
use regex::{Captures, Regex};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Of one document; a longer one is left out.
const DOCUMENT_BYTES_MAX: usize = 64 << 20;
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Names in the bundle, and what is asked.
const DOCUMENTS: [(&str, &str); 19] = [
    ("ready.txt", "-/ready"),
    ("buildinfo.json", "api/v1/status/buildinfo"),
    ("runtimeinfo.json", "api/v1/status/runtimeinfo"),
    ("flags.json", "api/v1/status/flags"),
    ("config.json", "api/v1/status/config"),
    ("features.json", "api/v1/features"),
    ("walreplay.json", "api/v1/status/walreplay"),
    ("tsdb.json", "api/v1/status/tsdb"),
    ("blocks.json", "api/v1/status/tsdb/blocks"),
    ("targets.json", "api/v1/targets"),
    ("rules.json", "api/v1/rules"),
    ("alerts.json", "api/v1/alerts"),
    ("alertmanagers.json", "api/v1/alertmanagers"),
    ("remote_write.json", "api/v1/ringscrape/status/remote_write"),
    ("object_storage.json", "api/v1/ringscrape/status/object_storage"),
    ("history_1h.json", "api/v1/ringscrape/status/history?range=1h"),
    ("history_24h.json", "api/v1/ringscrape/status/history?range=24h"),
    ("fleet.json", "api/v1/status/fleet"),
    ("metrics.txt", "metrics"),
];

/// Files of the machine on which the command runs.
const MACHINE: [(&str, &str); 9] = [
    ("machine/version", "/proc/version"),
    ("machine/meminfo", "/proc/meminfo"),
    ("machine/loadavg", "/proc/loadavg"),
    ("machine/io_uring_disabled", "/proc/sys/kernel/io_uring_disabled"),
    ("machine/os-release", "/etc/os-release"),
    ("machine/cpu_pressure", "/proc/pressure/cpu"),
    ("machine/io_pressure", "/proc/pressure/io"),
    ("machine/memory_pressure", "/proc/pressure/memory"),
    ("machine/cpus", "/sys/devices/system/cpu/online"),
];

pub fn run(options: &DebugBundle) -> ExitCode {
    end(bundle(options).map(|()| true))
}

fn bundle(options: &DebugBundle) -> anyhow::Result<()> {
    let mut base = options.url.clone();
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let http = http_config(options);
    let client_options =
        ClientOptions { timeout: DOCUMENT_TIMEOUT, body_bytes_max: DOCUMENT_BYTES_MAX, ..ClientOptions::default() };
    let client = runtime.block_on(async { Client::new(&http, client_options) })?;
    let mask = Mask::new();
    let mut files: Vec<(String, String)> = Vec::new();
    let mut answered = 0;
    for (name, path) in DOCUMENTS {
        let url = base.join(path)?;
        let text = match runtime.block_on(client.get(&url)) {
            Ok(response) if response.status.is_success() => {
                answered += 1;
                mask.text(&String::from_utf8_lossy(&response.body))
            }
            Ok(response) => format!("status {}\n", response.status),
            Err(error) => format!("error: {}\n", mask.text(&error.to_string())),
        };
        files.push((name.to_owned(), text));
    }
    anyhow::ensure!(answered > 0, "{}: {}", mask.text(base.as_str()), files[0].1.trim());
    for (name, path) in MACHINE {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| format!("error: {error}\n"));
        files.push((name.to_owned(), text));
    }
    let about = format!(
        "ringscrape {} debug\nserver: {}\nThe folder machine/ is about the machine on which the command ran.\n",
        env!("CARGO_PKG_VERSION"),
        mask.text(base.as_str())
    );
    files.push(("README".to_owned(), about));
    write(&options.out, &files).with_context(|| options.out.display().to_string())?;
    say!("{}: {} files, {answered} of {} documents", options.out.display(), files.len(), DOCUMENTS.len());
    Ok(())
}

fn http_config(options: &DebugBundle) -> config::HttpConfig {
    let basic_auth = options.username.as_ref().map(|username| config::BasicAuth {
        username: username.clone(),
        password_file: options.password_file.clone(),
        ..config::BasicAuth::default()
    });
    let tls_config = config::TlsConfig {
        ca_file: options.ca_file.clone(),
        insecure_skip_verify: options.insecure,
        ..config::TlsConfig::default()
    };
    config::HttpConfig { basic_auth, tls_config, ..config::HttpConfig::default() }
}

/// The archive, readable by its owner alone.
fn write(path: &Path, files: &[(String, String)]) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, Path::new("ringscrape-debug").join(name), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()?;
    Ok(())
}

/// Takes out what may be secret. The server hides what it knows to be secret already; these are the places where a
/// configuration may have more than it knows.
struct Mask {
    /// User and password of a URL.
    user: Regex,
    /// The value of a parameter in the query of a URL.
    query: Regex,
    /// Labels that become parameters, in JSON.
    label: Regex,
    /// The text of the configuration in JSON.
    yaml: Regex,
}

const MASKED: &str = "***";
/// Sections of the configuration whose values are anybody's texts.
const SECTIONS: [&str; 5] = ["params:", "headers:", "http_headers:", "proxy_connect_header:", "endpoint_params:"];

impl Mask {
    fn new() -> Mask {
        let regex = |text: &str| Regex::new(text).expect("these are valid");
        Mask {
            user: regex(r#"://[^/\s"'\\@]*@"#),
            query: regex(r#"([?&][^=&\s"'\\]+=)[^&\s"'\\]+"#),
            label: regex(r#"("__param_[^"]*":\s*)"(?:[^"\\]|\\.)*""#),
            yaml: regex(r#""yaml":"((?:[^"\\]|\\.)*)""#),
        }
    }

    fn text(&self, text: &str) -> String {
        let text = self.yaml.replace_all(text, |found: &Captures| {
            let quoted = format!("\"{}\"", &found[1]);
            let yaml = serde_json::from_str::<String>(&quoted).unwrap_or_default();
            format!("\"yaml\":{}", serde_json::Value::from(mask_sections(&yaml)))
        });
        let text = self.user.replace_all(&text, format!("://{MASKED}@"));
        let text = self.query.replace_all(&text, |found: &Captures| format!("{}{MASKED}", &found[1]));
        self.label.replace_all(&text, |found: &Captures| format!("{}\"{MASKED}\"", &found[1])).into_owned()
    }
}

/// Masks the values below the keys of [`SECTIONS`]: everything that is indented further, and items of a list beside it.
fn mask_sections(yaml: &str) -> String {
    let mut out = String::new();
    let mut within: Option<usize> = None;
    // The rule that is being read makes a parameter of a URL.
    let mut makes_parameter = false;
    for line in yaml.lines() {
        let body = line.trim_start();
        if body.starts_with("- ") {
            makes_parameter = false;
        }
        // A list may begin with the key: `- params:`.
        let key = body.trim_start_matches("- ");
        let indent = line.len() - key.len();
        if within.is_some_and(|section| indent <= section) {
            within = None;
        }
        match within {
            None => {
                if let Some(section) = SECTIONS.iter().find(|section| key.starts_with(**section)) {
                    within = Some(indent);
                    out.push_str(&line[..indent + section.len()]);
                    if key.len() > section.len() {
                        out.push(' ');
                        out.push_str(MASKED);
                    }
                } else if makes_parameter && key.starts_with("replacement:") {
                    out.push_str(&line[..indent]);
                    out.push_str("replacement: ");
                    out.push_str(MASKED);
                } else {
                    makes_parameter |= key.starts_with("target_label: __param_");
                    out.push_str(line);
                }
            }
            Some(_) => match key.split_once(':') {
                Some((name, rest)) if !name.contains(['"', '\'']) => {
                    out.push_str(&line[..line.len() - key.len()]);
                    out.push_str(name);
                    out.push(':');
                    if !rest.trim().is_empty() {
                        out.push(' ');
                        out.push_str(MASKED);
                    }
                }
                _ => {
                    out.push_str(&line[..line.len() - key.len()]);
                    out.push_str(MASKED);
                }
            },
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_may_be_secret_are_masked() {
        let mask = Mask::new();
        for (text, want) in [
            ("http://u:p@h/x", "http://***@h/x"),
            (r#"{"scrapeUrl":"http://h:1/m?token=abc&b=c#x"}"#, r#"{"scrapeUrl":"http://h:1/m?token=***&b=***"}"#),
            (r#"{"__param_token":"a\"b","job":"j"}"#, r#"{"__param_token":"***","job":"j"}"#),
            ("nothing here: a@b", "nothing here: a@b"),
        ] {
            assert_eq!(mask.text(text), want);
        }
    }

    #[test]
    fn values_of_parameters_and_headers_are_masked_in_the_configuration() {
        let yaml = "scrape_configs:\n- job_name: a\n  params:\n    token:\n    - secret1\n    b: [secret2]\n  metrics_path: /m\n  \
                    http_headers:\n    X-Key:\n      values:\n      - secret3\nremote_write:\n- url: http://x/\n  headers:\n    \
                    X-Scope: secret4\n  name: n\n  write_relabel_configs:\n  - target_label: __param_a\n    replacement: \
                    secret6\n  - target_label: b\n    replacement: kept\n- headers: {a: secret5}\n  url: http://y/\n";
        let masked = mask_sections(yaml);
        assert!(!masked.contains("secret"), "{masked}");
        for kept in [
            "job_name: a",
            "metrics_path: /m",
            "name: n",
            "replacement: kept",
            "X-Scope: ***",
            "url: http://y/",
            "token:",
        ] {
            assert!(masked.contains(kept), "{kept} in {masked}");
        }
    }
}
