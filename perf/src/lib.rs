//! Corpora that the benches share: payloads as targets say them, made from a seed.

use std::fmt::Write;

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
