//! Corpora: payloads as targets say them, made from a seed or taken from programs. Each has a page in perf/corpora.

use std::fmt::Write;

/// A payload in its versions: `body(n)` is what a target says at its n-th scrape, with the same lines unless the corpus is
/// about lines that change.
pub struct Corpus {
    pub name: &'static str,
    pub body: fn(u64) -> String,
}

/// All of them.
pub const ALL: [Corpus; 7] = [
    Corpus { name: "application", body: application },
    Corpus { name: "node", body: node },
    Corpus { name: "node-exporter", body: node_exporter },
    Corpus { name: "prometheus", body: prometheus },
    Corpus { name: "pathological", body: pathological },
    Corpus { name: "long-labels", body: long_labels },
    Corpus { name: "unstable", body: unstable },
];

/// The one of this name.
pub fn corpus(name: &str) -> &'static Corpus {
    ALL.iter().find(|corpus| corpus.name == name).expect("a corpus of this name")
}

/// Two scrapes of a node exporter, five seconds apart.
fn node_exporter(generation: u64) -> String {
    let bodies = [include_str!("../corpora/node-exporter/1.txt"), include_str!("../corpora/node-exporter/2.txt")];
    bodies[generation as usize % 2].to_owned()
}

/// Two scrapes of a Prometheus server, two seconds apart.
fn prometheus(generation: u64) -> String {
    let bodies = [include_str!("../corpora/prometheus/1.txt"), include_str!("../corpora/prometheus/2.txt")];
    bodies[generation as usize % 2].to_owned()
}

/// Labels of 4 kB, as those who put whole queries or stack traces into them have.
pub fn long_labels(generation: u64) -> String {
    let mut body = String::new();
    for line in 0..100u64 {
        let text = format!("select column_{line} from table where id in (").repeat(90);
        let _ = writeln!(body, "query_seconds_total{{statement=\"{text}\"}} {}", line + generation);
    }
    body
}

/// Lines in another order at each scrape, as maps of some languages give them; the series are the same.
pub fn unstable(generation: u64) -> String {
    let count = 1_000;
    let mut body = String::from("# TYPE cache_hits_total counter\n");
    // A step without a common factor visits every line once.
    let step = [7, 11, 13, 17][generation as usize % 4];
    for at in 0..count {
        let line = (at * step + generation) % count;
        let _ = writeln!(body, "cache_hits_total{{shard=\"{line}\",zone=\"z{}\"}} {}", line % 7, line + generation);
    }
    body
}

/// A small generator of numbers that is the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// An application's payload: 1,360 samples in about 117 kB, request histograms and counters of many endpoints.
/// `generation` moves about 40 % of the values; text and order stay.
pub fn application(generation: u64) -> String {
    let mut body = String::with_capacity(120_000);
    let mut random = Random::new(1);
    let mut value = |body: &mut String, kind: u64| {
        let base = random.below(1_000_000);
        let moves = if random.below(100) < 41 { generation * (1 + base % 97) } else { 0 };
        let _ = match kind {
            0 => writeln!(body, "{}", base + moves),
            1 => writeln!(body, "{}.{:03}", base % 10_000 + moves, base % 1000),
            _ => writeln!(body, "{}.0", base % 100 + moves),
        };
    };
    for family in 0..40 {
        let name = format!("http_server_requests_f{family:02}_seconds");
        let _ = writeln!(body, "# HELP {name} Duration of requests of family {family}.\n# TYPE {name} histogram");
        for (method, status) in [("GET", "200"), ("POST", "503")] {
            let labels = format!("method=\"{method}\",status=\"{status}\",uri=\"/api/v1/resource/{family}\"");
            for le in ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"] {
                let _ = write!(body, "{name}_bucket{{{labels},le=\"{le}\"}} ");
                value(&mut body, 0);
            }
            let _ = write!(body, "{name}_sum{{{labels}}} ");
            value(&mut body, 1);
            let _ = write!(body, "{name}_count{{{labels}}} ");
            value(&mut body, 0);
        }
    }
    for gauge in 0..240 {
        let name = format!("jvm_memory_pool_{gauge:03}_bytes");
        let _ = writeln!(body, "# HELP {name} Pool {gauge}.\n# TYPE {name} gauge");
        let _ = write!(body, "{name}{{area=\"heap\",id=\"pool-{gauge}\"}} ");
        value(&mut body, gauge % 3);
    }
    body
}

/// A node exporter's payload: many small families, a third of the values with many decimals.
pub fn node(generation: u64) -> String {
    let mut body = String::with_capacity(100_000);
    let mut random = Random::new(2);
    for family in 0..260 {
        let kind = if family % 3 == 0 { "counter" } else { "gauge" };
        let _ = writeln!(
            body,
            "# HELP node_family_{family}_total Field {family}.\n# TYPE node_family_{family}_total {kind}"
        );
        for line in 0..family % 9 + 1 {
            let _ = write!(body, "node_family_{family}_total{{cpu=\"{line}\",device=\"sd{line}\"}} ");
            let base = random.below(1 << 40);
            let moves = if random.below(100) < 22 { generation * 977 } else { 0 };
            let _ = match family % 3 {
                0 => writeln!(body, "{}.{:02}", (base + moves) % 10_000_000, base % 100),
                1 => writeln!(body, "{:e}", (base + moves) as f64),
                _ => writeln!(body, "{}", (base + moves) % 1000),
            };
        }
    }
    body
}

/// What hurts a scanner: labels full of escapes, values that no fast path takes, timestamps, blank lines.
pub fn pathological(generation: u64) -> String {
    let mut body = String::new();
    for line in 0..2_000u64 {
        let _ = writeln!(
            body,
            "\nodd{{path=\"C:\\\\dir\\\\{line}\",quote=\"say \\\"{line}\\\"\",text=\"a\\nb\"}} {}e-{} {}",
            u128::from(line + generation) * 1_000_000_007 * 1_000_000_007,
            line % 300,
            1_700_000_000_000 + generation
        );
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(body: &str) -> Vec<&str> {
        let lines = body.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut series: Vec<&str> =
            lines.map(|line| line.split("} ").next().unwrap().split(' ').next().unwrap()).collect();
        series.sort_unstable();
        series
    }

    #[test]
    fn every_corpus_has_a_page_and_keeps_its_series() {
        for Corpus { name, body } in &ALL {
            let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora").join(name).join("README.md");
            assert!(page.is_file(), "no {}", page.display());
            let (first, second) = (body(1), body(2));
            assert_ne!(first, second, "{name}");
            assert_eq!(series(&first), series(&second), "{name}");
            assert_eq!(first, body(1), "{name} is the same each time");
        }
    }
}
