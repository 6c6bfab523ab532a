//! Asks programs on this machine over HTTP.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;

/// Largest answer taken in; a federation of some millions of series is about 1 GiB.
const ANSWER_BYTES_MAX: u64 = 4 << 30;
/// Enough of an answer to say what is wrong.
const COMPLAINT_CHARS: usize = 300;

/// One server's client.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
}

/// A whole answer of status 200, and how long it took to its last byte.
#[derive(Debug)]
pub struct Answer {
    pub body: Vec<u8>,
    pub wall_s: f64,
}

impl Client {
    /// For a server at 127.0.0.1.
    pub fn local(port: u16, patience: Duration) -> Self {
        Self::new(&format!("http://127.0.0.1:{port}"), patience)
    }

    /// For a server at a URL without a path; no answer may take longer than `patience`.
    pub fn new(base: &str, patience: Duration) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(patience)).http_status_as_error(false);
        Self { agent: config.build().new_agent(), base: base.trim_end_matches('/').to_owned() }
    }

    pub fn get(&self, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let start = Instant::now();
        let url = format!("{}{path}", self.base);
        let request = self.agent.get(&url).query_pairs(parameters.iter().copied());
        let response = request.call().with_context(|| format!("asking {url}"))?;
        finish(&url, response, start)
    }

    pub fn post(&self, path: &str) -> anyhow::Result<Answer> {
        let start = Instant::now();
        let url = format!("{}{path}", self.base);
        let response = self.agent.post(&url).send_empty().with_context(|| format!("asking {url}"))?;
        finish(&url, response, start)
    }

    /// Whether the path answers 200 now.
    pub fn is_ok(&self, path: &str) -> bool {
        self.get(path, &[]).is_ok()
    }

    pub fn json(&self, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        let answer = self.get(path, parameters)?;
        serde_json::from_slice(&answer.body).with_context(|| format!("{}{path} did not answer in JSON", self.base))
    }

    /// The `data` of an answer of Prometheus' API.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        let mut answer = self.json(path, parameters)?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => bail!("{}{path}: {}", self.base, answer["error"].as_str().unwrap_or("no success and no error")),
        }
    }

    /// The sum of all series of a counter on /metrics; `name` may go on with the first labels as they are written.
    pub fn counter(&self, name: &str) -> anyhow::Result<f64> {
        let answer = self.get("/metrics", &[])?;
        let text = String::from_utf8_lossy(&answer.body);
        sum_of(&text, name).ok_or_else(|| anyhow!("{}/metrics has no {name}", self.base))
    }
}

fn finish(url: &str, mut response: ureq::http::Response<ureq::Body>, start: Instant) -> anyhow::Result<Answer> {
    let status = response.status();
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    let body = body.with_context(|| format!("reading the answer of {url}"))?;
    let wall_s = start.elapsed().as_secs_f64();
    if status.as_u16() != 200 {
        let complaint: String = String::from_utf8_lossy(&body).chars().take(COMPLAINT_CHARS).collect();
        bail!("{url} answered {status}: {}", complaint.trim());
    }
    Ok(Answer { body, wall_s })
}

fn sum_of(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // The name has to end here: a longer one is another metric.
        if !name.contains('{') && !rest.starts_with(['{', ' ']) {
            return None;
        }
        let (_, value) = rest.rsplit_once(' ')?;
        value.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_by_name() {
        let text = "# TYPE a counter\na 1\na{x=\"1\"} 2\na_b 4\nb{type=\"y z\"} 8\nb{type=\"q\"} 16\n";
        for (name, want) in [("a", Some(3.0)), ("a_b", Some(4.0)), ("b{type=\"y z\"", Some(8.0)), ("c", None)] {
            assert_eq!(sum_of(text, name), want, "{name}");
        }
    }
}
