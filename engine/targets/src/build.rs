//! Builds a target from a discovered address and the settings of its job, or returns why there is none.

use crate::target::{Scheme, Target, TargetId, TargetUrl, UrlDefect};
use config::ScrapeConfig;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use series::{Labels, LabelsBuilder};
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh64::Xxh64;

const ADDRESS: &str = "__address__";
const INTERVAL: &str = "__scrape_interval__";
const TIMEOUT: &str = "__scrape_timeout__";
const PATH: &str = "__metrics_path__";
const SCHEME: &str = "__scheme__";
const PARAM: &str = "__param_";
const CLASSIC_TO_NHCB: &str = "__convert_classic_histograms_to_nhcb__";
const ALWAYS_CLASSIC: &str = "__always_scrape_classic_histograms__";
const NATIVE: &str = "__scrape_native_histograms__";

/// Characters that Go does not encode in a path.
const PATH_UNENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');
/// Characters that Go does not encode in a query.
const QUERY_UNENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

/// Result of building a target.
#[derive(Debug)]
pub enum TargetBuild {
    Target(Target),
    Dropped { discovered: Labels },
    Failed { discovered: Labels, error: String },
}

/// Builds the target of an address with `own` labels, `__address__` among them, in a group with `shared` labels.
pub fn build(job: &Arc<ScrapeConfig>, own: &Labels, shared: &Labels) -> TargetBuild {
    build_with(job, own, shared, |_| {})
}

/// Does the same. `look` is called with the labels after relabelling, unless they are dropped.
pub fn build_with(
    job: &Arc<ScrapeConfig>,
    own: &Labels,
    shared: &Labels,
    look: impl FnOnce(&LabelsBuilder),
) -> TargetBuild {
    let discovered = discovered_labels(job, own, shared);
    let mut labels = discovered.to_builder();
    if !job.relabel_configs.apply(&mut labels).is_keep() {
        return TargetBuild::Dropped { discovered };
    }
    look(&labels);
    match finish(job, labels, &discovered) {
        Ok(target) => TargetBuild::Target(target),
        Err(error) => TargetBuild::Failed { discovered, error },
    }
}

/// Returns the labels before relabelling, in Prometheus' order of precedence.
pub fn discovered_labels(job: &ScrapeConfig, own: &Labels, shared: &Labels) -> Labels {
    let (interval, timeout) =
        (config::format_duration(job.scrape_interval), config::format_duration(job.scrape_timeout));
    let param = |(name, values): &'_ (String, Vec<String>)| Some((format!("{PARAM}{name}"), values.first()?.clone()));
    let params: Vec<(String, String)> = job.params.iter().filter_map(param).collect();
    let defaults = [
        ("job", job.job_name.as_str()),
        (INTERVAL, &interval),
        (TIMEOUT, &timeout),
        (PATH, &job.metrics_path),
        (SCHEME, &job.scheme),
        (CLASSIC_TO_NHCB, flag(job.convert_classic_histograms_to_nhcb)),
        (ALWAYS_CLASSIC, flag(job.always_scrape_classic_histograms)),
        (NATIVE, flag(job.scrape_native_histograms)),
    ];
    let params = params.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // Of equal names the first one wins. An empty value hides the value of the group, and a default replaces it.
    let mut labels: Vec<(&str, &str)> = own.iter().chain(shared.iter()).collect();
    let settle = |labels: &mut Vec<(&str, &str)>| {
        labels.sort_by_key(|(name, _)| *name);
        labels.dedup_by_key(|(name, _)| *name);
        labels.retain(|(_, value)| !value.is_empty());
    };
    settle(&mut labels);
    labels.extend(defaults);
    labels.extend(params);
    settle(&mut labels);
    Labels::from_sorted(labels)
}

fn flag(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn finish(job: &Arc<ScrapeConfig>, mut labels: LabelsBuilder, discovered: &Labels) -> Result<Target, String> {
    let address = labels.get(ADDRESS).to_owned();
    if address.is_empty() {
        return Err("no address".into());
    }
    if address.contains('/') {
        return Err(format!("{address:?} is not a valid hostname"));
    }
    let interval = duration(&labels, INTERVAL, "interval")?;
    let timeout = duration(&labels, TIMEOUT, "timeout")?;
    if timeout > interval {
        let (timeout, interval) = (labels.get(TIMEOUT), labels.get(INTERVAL));
        return Err(format!("scrape timeout cannot be greater than scrape interval ({timeout:?} > {interval:?})"));
    }
    for name in [CLASSIC_TO_NHCB, ALWAYS_CLASSIC, NATIVE] {
        let value = labels.get(name);
        if !value.is_empty() && !is_go_bool(value) {
            return Err(format!("error parsing {name}: strconv.ParseBool: parsing {value:?}: invalid syntax"));
        }
    }
    let is_true = |name: &str| ["1", "t", "T", "TRUE", "true", "True"].contains(&labels.get(name));
    let (scrape_native_histograms, always_scrape_classic_histograms) = (is_true(NATIVE), is_true(ALWAYS_CLASSIC));
    let convert_classic_histograms_to_nhcb = is_true(CLASSIC_TO_NHCB);
    labels.retain(|name, _| !name.starts_with("__meta_"));
    if labels.get("instance").is_empty() {
        labels.set("instance", &address);
    }
    let url = url(job, &labels, &address);
    let on_samples = labels.iter().filter(|(name, _)| !name.starts_with("__"));
    Ok(Target {
        id: identity(job, &labels, &url),
        job: job.clone(),
        labels: Labels::from_sorted(on_samples),
        discovered: discovered.clone(),
        url,
        interval,
        timeout,
        scrape_native_histograms,
        always_scrape_classic_histograms,
        convert_classic_histograms_to_nhcb,
        forced_error: None,
    })
}

fn is_go_bool(text: &str) -> bool {
    ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"].contains(&text)
}

fn duration(labels: &LabelsBuilder, name: &str, what: &str) -> Result<Duration, String> {
    let parsed =
        config::parse_duration(labels.get(name)).map_err(|error| format!("error parsing scrape {what}: {error}"))?;
    if parsed.is_zero() {
        return Err(format!("scrape {what} cannot be 0"));
    }
    Ok(parsed)
}

/// Returns the URL, with the reason where it cannot be requested: what discovery yields is a target all the same.
fn url(job: &ScrapeConfig, labels: &LabelsBuilder, address: &str) -> TargetUrl {
    let written = labels.get(SCHEME);
    let (scheme, scheme_error) = match written.to_ascii_lowercase().as_str() {
        "http" => (Scheme::Http, None),
        "https" => (Scheme::Https, None),
        other => (Scheme::Http, Some(format!("unsupported protocol scheme {other:?}"))),
    };
    let path = labels.get(PATH);
    let slash = if path.starts_with('/') || path.is_empty() { "" } else { "/" };
    let query = query(job, labels);
    let question = if query.is_empty() { "" } else { "?" };
    let mut url = TargetUrl {
        scheme,
        host: String::new(),
        port: 0,
        authority: address.to_owned(),
        path_and_query: format!("{slash}{}{question}{query}", utf8_percent_encode(path, PATH_UNENCODED)),
        defect: None,
    };
    let split = split_address(address);
    let error = match (&split, scheme_error) {
        (Err(AddressError::Parse(_)), _) | (_, None) => None,
        (_, Some(error)) => Some(Err(AddressError::Request(error))),
    };
    match error.unwrap_or(split) {
        Ok((host, port)) => {
            (url.host, url.port) = (host, port.unwrap_or(if scheme == Scheme::Http { 80 } else { 443 }));
        }
        Err(error) => {
            // The text shows the URL with the scheme as it is written.
            url.defect = Some(Arc::new(UrlDefect { scheme: written.to_owned(), error: String::new() }));
            let error = match error {
                AddressError::Parse(why) => format!("parse {:?}: {why}", url.to_string()),
                AddressError::Request(why) => format!("Get {:?}: {why}", url.to_string()),
            };
            url.defect = Some(Arc::new(UrlDefect { scheme: written.to_owned(), error }));
        }
    }
    url
}

/// Returns the parameters as Go encodes them: sorted by name, a space as `+`. A `__param_` label replaces the first value.
fn query(job: &ScrapeConfig, labels: &LabelsBuilder) -> String {
    let mut params: Vec<(String, Vec<String>)> = job.params.clone();
    for (name, value) in labels.iter() {
        let Some(name) = name.strip_prefix(PARAM) else { continue };
        match params.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) if !values.is_empty() => value.clone_into(&mut values[0]),
            Some((_, values)) => values.push(value.to_owned()),
            None => params.push((name.to_owned(), vec![value.to_owned()])),
        }
    }
    params.sort();
    let encode = |text: &str| utf8_percent_encode(text, QUERY_UNENCODED).to_string().replace(' ', "+");
    let pairs = params.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    pairs.map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect::<Vec<_>>().join("&")
}

/// Why an address cannot be requested: Go's client does not even parse the URL, or not connect to it.
enum AddressError {
    Parse(String),
    Request(String),
}

/// Returns host (an IPv6 address without brackets) and port of `host`, `host:port`, `[v6]` or `[v6%zone]:port`. A host may
/// be empty: it is this one.
fn split_address(address: &str) -> Result<(String, Option<u16>), AddressError> {
    let parse = |why: String| Err(AddressError::Parse(why));
    let is_allowed =
        |char: char| !char.is_ascii() || char.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(char);
    if let Some(char) = address.chars().find(|char| !is_allowed(*char)) {
        return parse(format!("invalid URL escape \"%{:02X}\"", char as u32));
    }
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => match rest.rsplit_once(']') {
            Some((host, port)) => (host, port),
            None => return parse("missing ']' in host".to_owned()),
        },
        None => address.split_at(address.rfind(':').unwrap_or(address.len())),
    };
    let digits = port.strip_prefix(':');
    if !port.is_empty() && !digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) {
        return parse(format!("invalid port {port:?} after host"));
    }
    if !address.starts_with('[') && host.contains(':') {
        return Err(AddressError::Request(format!("dial tcp: address {address}: too many colons in address")));
    }
    match digits.filter(|digits| !digits.is_empty()) {
        // The port of the scheme, as Go's client has it.
        None => Ok((host.to_owned(), None)),
        Some(digits) => match digits.parse::<u16>() {
            Ok(port) => Ok((host.to_owned(), Some(port))),
            Err(_) => Err(AddressError::Request(format!("dial tcp: address {digits}: invalid port"))),
        },
    }
}

fn identity(job: &ScrapeConfig, labels: &LabelsBuilder, url: &TargetUrl) -> TargetId {
    let mut hasher = Xxh64::new(0);
    let mut part = |text: &str| {
        hasher.update(text.as_bytes());
        hasher.update(&[0xff]);
    };
    part(&job.job_name);
    for (name, value) in labels.iter().filter(|(name, _)| *name != INTERVAL && *name != TIMEOUT) {
        part(name);
        part(value);
    }
    part(&url.to_string());
    TargetId(hasher.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_job;

    fn built(settings: &str, own: &[(&str, &str)], shared: &[(&str, &str)]) -> TargetBuild {
        let labels = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied());
        build(&test_job("j", settings), &labels(own), &labels(shared))
    }

    /// Returns the labels of samples, and the URL.
    #[track_caller]
    fn check(settings: &str, own: &[(&str, &str)], shared: &[(&str, &str)], want: &str) {
        let got = match built(settings, own, shared) {
            TargetBuild::Target(target) => {
                let defect = target.url.defect.as_ref().map(|defect| format!(" {}", defect.error));
                format!("{} {}{}", target.labels, target.url, defect.unwrap_or_default())
            }
            TargetBuild::Dropped { .. } => "dropped".to_owned(),
            TargetBuild::Failed { error, .. } => error,
        };
        assert_eq!(got, want, "{settings}");
    }

    const X: &[(&str, &str)] = &[("__address__", "x:1")];

    #[test]
    fn labels_and_urls() {
        check("", X, &[], r#"{instance="x:1", job="j"} http://x:1/metrics"#);
        check("", X, &[("zone", "z")], r#"{instance="x:1", job="j", zone="z"} http://x:1/metrics"#);
        check(
            "",
            &[("__address__", "x:1"), ("zone", "own")],
            &[("zone", "z")],
            r#"{instance="x:1", job="j", zone="own"} http://x:1/metrics"#,
        );
        check("", X, &[("job", "other")], r#"{instance="x:1", job="other"} http://x:1/metrics"#);
        check(
            "",
            X,
            &[("__metrics_path__", "/a b?c"), ("__meta_x", "1"), ("__tmp", "2")],
            r#"{instance="x:1", job="j"} http://x:1/a%20b%3Fc"#,
        );
        check(
            "metrics_path: m",
            &[("__address__", "[::1]:9")],
            &[],
            r#"{instance="[::1]:9", job="j"} http://[::1]:9/m"#,
        );
        check("scheme: https", &[("__address__", "x")], &[], r#"{instance="x", job="j"} https://x/metrics"#);
        check("scheme: HTTPS", &[("__address__", "x")], &[], r#"{instance="x", job="j"} https://x/metrics"#);
        check("", &[("__address__", "x:")], &[], r#"{instance="x:", job="j"} http://x:/metrics"#);
        check(
            "params: {b: ['1', '2'], a: ['x y&']}",
            X,
            &[("__param_b", "9"), ("__param_c", "")],
            r#"{instance="x:1", job="j"} http://x:1/metrics?a=x+y%26&b=9&b=2"#,
        );
        check(
            "relabel_configs: [{source_labels: [__address__], target_label: instance, replacement: 'n-$1'}]",
            X,
            &[],
            r#"{instance="n-x:1", job="j"} http://x:1/metrics"#,
        );
        check("relabel_configs: [{source_labels: [job], regex: j, action: drop}]", X, &[], "dropped");
    }

    #[test]
    fn default_port_is_for_the_connection_only() {
        for (settings, port) in [("", 80), ("scheme: https", 443)] {
            let TargetBuild::Target(target) = built(settings, &[("__address__", "x")], &[]) else { panic!() };
            assert_eq!((target.url.port, target.url.authority.as_str()), (port, "x"));
        }
    }

    /// What Prometheus keeps as a target is one here, scraped if it can be.
    #[test]
    fn addresses_that_cannot_be_requested_are_targets_that_are_down() {
        let check = |address: &str, url: &str, error: &str| {
            let want =
                format!("{{instance={address:?}, job=\"j\"}} {url}{}{error}", if error.is_empty() { "" } else { " " });
            check("", &[("__address__", address)], &[], &want);
        };
        check(
            "user:pass@host:1",
            "http://user:pass%40host:1/metrics",
            r#"parse "http://user:pass%40host:1/metrics": invalid URL escape "%40""#,
        );
        check(
            "localhost:http",
            "http://localhost:http/metrics",
            r#"parse "http://localhost:http/metrics": invalid port ":http" after host"#,
        );
        check(
            "host:99999",
            "http://host:99999/metrics",
            r#"Get "http://host:99999/metrics": dial tcp: address 99999: invalid port"#,
        );
        check(
            "::1",
            "http://::1/metrics",
            r#"Get "http://::1/metrics": dial tcp: address ::1: too many colons in address"#,
        );
        check("[::1", "http://[::1/metrics", r#"parse "http://[::1/metrics": missing ']' in host"#);
        check("a b:1", "http://a%20b:1/metrics", r#"parse "http://a%20b:1/metrics": invalid URL escape "%20""#);
        check("host:", "http://host:/metrics", "");
        check(":9100", "http://:9100/metrics", "");
        check("[fe80::1%eth0]:9100", "http://[fe80::1%25eth0]:9100/metrics", "");
        for (address, host, port) in
            [(":9100", "", 9100), ("host:", "host", 80), ("[fe80::1%eth0]:1", "fe80::1%eth0", 1)]
        {
            let TargetBuild::Target(target) = built("", &[("__address__", address)], &[]) else { panic!() };
            assert_eq!((target.url.host.as_str(), target.url.port), (host, port), "{address}");
        }
    }

    #[test]
    fn odd_schemes_and_paths_are_targets() {
        let relabelled =
            |label: &str, value: &str| format!("relabel_configs: [{{target_label: {label}, replacement: '{value}'}}]");
        let own = r#"{instance="x:1", job="j"}"#;
        check(&relabelled("__scheme__", "HTTP"), X, &[], &format!("{own} http://x:1/metrics"));
        check(
            &relabelled("__scheme__", "ftp"),
            X,
            &[],
            &format!(r#"{own} ftp://x:1/metrics Get "ftp://x:1/metrics": unsupported protocol scheme "ftp""#),
        );
        check(
            &relabelled("__scheme__", ""),
            X,
            &[],
            &format!(r#"{own} //x:1/metrics Get "//x:1/metrics": unsupported protocol scheme """#),
        );
        check(&relabelled("__metrics_path__", ""), X, &[], &format!("{own} http://x:1"));
        let with_query = format!("params: {{a: [b]}}\n{}", relabelled("__metrics_path__", ""));
        check(&with_query, X, &[], &format!("{own} http://x:1?a=b"));
    }

    #[test]
    fn what_cannot_be_scraped() {
        check("", &[], &[], "no address");
        check("", &[("__address__", "x/y")], &[], r#""x/y" is not a valid hostname"#);
        check("", X, &[("__scrape_interval__", "0s")], "scrape interval cannot be 0");
        check("", X, &[("__scrape_timeout__", "0")], "scrape timeout cannot be 0");
        check(
            "",
            X,
            &[("__scrape_interval__", "1s"), ("__scrape_timeout__", "2s")],
            r#"scrape timeout cannot be greater than scrape interval ("2s" > "1s")"#,
        );
        check(
            "",
            X,
            &[("__scrape_native_histograms__", "maybe")],
            r#"error parsing __scrape_native_histograms__: strconv.ParseBool: parsing "maybe": invalid syntax"#,
        );
        let TargetBuild::Failed { error, .. } = built("", X, &[("__scrape_interval__", "soon")]) else { panic!() };
        assert!(error.starts_with("error parsing scrape interval: "), "{error}");
    }

    #[test]
    fn identity_is_not_touched_by_times_and_limits() {
        let id = |settings: &str, shared: &[(&str, &str)]| {
            let TargetBuild::Target(target) = built(settings, X, shared) else { panic!() };
            target.id
        };
        let plain = id("", &[]);
        assert_eq!(plain, id("scrape_interval: 7s\nscrape_timeout: 3s\nsample_limit: 5", &[]));
        assert_ne!(plain, id("metrics_path: /other", &[]));
        assert_ne!(plain, id("", &[("zone", "z")]));
        assert_ne!(plain, id("params: {a: [b]}", &[]));
    }
}
