//! Bodies rendered before the first scrape, so that serving one is a single write of memory that is already there.
//!
//! A payload is one set of series in `variants` versions that a target cycles through. From one version to the next the
//! stated share of values changes; counters only grow until the cycle wraps, where they fall back like those of a
//! restarted process.
//!
//! Invariants:
//!   * the same seed and settings give the same bytes
//!   * any two neighbouring variants, the last and the first included, differ in exactly the chosen samples
//!   * the gzip form unpacks to the plain form

use std::fmt::Write as _;
use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use crate::rng::Rng;

/// What real exporters send for the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What they send for OpenMetrics.
const CONTENT_TYPE_OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a payload is to change from scrape to scrape.
#[derive(Clone, Debug)]
pub struct Motion {
    /// Versions held in memory; 1 = nothing ever changes.
    pub variants: usize,
    /// Percent of values that change from one variant to the next.
    pub changing_percent: f64,
    /// Percent of samples that carry a label whose value is another one in each variant.
    pub churn_percent: f64,
    /// Whether lines change places inside their family from variant to variant.
    pub shuffled: bool,
    /// OpenMetrics instead of text, with another exemplar in each variant on every bucket that moves.
    pub openmetrics: bool,
    /// Picks all values, and which of them move.
    pub seed: u64,
}

/// How the exporter that is imitated spells a float.
#[derive(Clone, Copy, Debug)]
pub enum FloatStyle {
    /// As Go's exporters do: shortest digits, `1.5e+06` from a million upwards.
    Go,
    /// As Java's clients do: always a fraction, `1.5E7` from ten million upwards.
    Java,
}

/// The value of a unit and how it moves.
#[derive(Debug)]
pub enum Shape {
    /// Never moves: an info series, a limit, a version.
    Fixed(f64),
    /// Grows by `step` per variant.
    Counter { start: f64, step: f64 },
    /// Swings between `base` and `base + swing`.
    Gauge { base: f64, swing: f64 },
    /// Classic histogram: one bucket series per bound, then `_sum` and `_count`.
    Histogram { bounds: &'static [&'static str], counts: Vec<u64>, step: u64 },
}

/// What moves together: a single sample, or all samples of one histogram.
#[derive(Debug)]
pub struct Unit {
    suffix: &'static str,
    /// The text between the braces, without the braces; empty = none.
    labels: String,
    shape: Shape,
    moving: usize,
    churns: bool,
}

impl Unit {
    /// A unit that does not move until a payload chooses it.
    pub fn new(labels: String, shape: Shape) -> Self {
        Self { suffix: "", labels, shape, moving: 0, churns: false }
    }

    /// A part of a summary: no labels, a suffix behind the family's name.
    pub fn suffixed(suffix: &'static str, shape: Shape) -> Self {
        Self { suffix, ..Self::new(String::new(), shape) }
    }

    /// How many lines it renders to.
    pub fn samples(&self) -> usize {
        match &self.shape {
            Shape::Histogram { bounds, .. } => bounds.len() + 2,
            _ => 1,
        }
    }

    fn can_move(&self) -> bool {
        !matches!(self.shape, Shape::Fixed(_))
    }
}

/// A metric family: one HELP, one TYPE, many units.
#[derive(Debug)]
pub struct Family {
    pub name: String,
    pub help: String,
    pub kind: &'static str,
    pub units: Vec<Unit>,
}

/// Everything that one kind of target exposes.
#[derive(Debug)]
pub struct Catalogue {
    pub families: Vec<Family>,
    pub floats: FloatStyle,
}

/// One version of a body, ready to be written: HTTP head and body in one piece.
pub struct Variant {
    pub plain: Vec<u8>,
    pub gzip: Vec<u8>,
}

/// A rendered catalogue.
pub struct Payload {
    pub variants: Vec<Variant>,
    pub samples: usize,
    /// Samples whose value differs between two neighbouring variants.
    pub samples_changing: usize,
    /// Sizes of the first variant's body, for the start-up line.
    pub body_bytes: usize,
    pub body_gzip_bytes: usize,
}

impl Payload {
    /// Chooses what moves and renders every variant.
    pub fn render(mut catalogue: Catalogue, motion: &Motion) -> Payload {
        let mut rng = Rng::new(motion.seed ^ 0x6d6f_7469_6f6e);
        let samples = catalogue.families.iter().flat_map(|f| &f.units).map(Unit::samples).sum();
        let samples_changing = choose_moving(&mut catalogue, motion, samples, &mut rng);
        choose_churning(&mut catalogue, motion, samples, &mut rng);
        let bodies: Vec<String> = (0..motion.variants).map(|v| body(&catalogue, motion, v, &mut rng)).collect();
        let variants: Vec<Variant> = bodies
            .iter()
            .map(|body| Variant {
                plain: response(motion, "", body.as_bytes()),
                gzip: response(motion, "Content-Encoding: gzip\r\n", &gzip(body.as_bytes())),
            })
            .collect();
        Payload {
            samples,
            samples_changing,
            body_bytes: bodies[0].len(),
            body_gzip_bytes: gzip(bodies[0].as_bytes()).len(),
            variants,
        }
    }
}

/// A whole 200 response of the usual Content-Type.
fn response(motion: &Motion, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let kind = if motion.openmetrics { CONTENT_TYPE_OPENMETRICS } else { CONTENT_TYPE };
    let mut out =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{headers}Content-Length: {length}\r\n\r\n").into_bytes();
    out.extend_from_slice(body);
    out
}

/// One gzip member, at the level that exporters use by default.
pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// Marks the share of samples that change; returns how many those are.
///
/// A histogram moves from some bucket upwards, as it does when new observations fall into that bucket. Its size makes
/// an exact share impossible, so single samples make up the difference, and only when those run out do histograms that
/// move already move in more buckets.
fn choose_moving(catalogue: &mut Catalogue, motion: &Motion, samples: usize, rng: &mut Rng) -> usize {
    if motion.variants < 2 {
        return 0;
    }
    let wanted = (samples as f64 * motion.changing_percent / 100.0).round() as usize;
    let units = catalogue.families.iter_mut().flat_map(|f| &mut f.units).filter(|u| u.can_move());
    let (mut histograms, mut singles): (Vec<&mut Unit>, Vec<&mut Unit>) = units.partition(|u| u.samples() > 1);
    rng.shuffle(&mut histograms);
    rng.shuffle(&mut singles);
    let in_histograms: usize = histograms.iter().map(|u| u.samples()).sum();
    let mut histograms_left = (in_histograms as f64 * motion.changing_percent / 100.0).round() as usize;
    let mut left = wanted;
    for unit in &mut histograms {
        // Sum, count and the last bucket move whenever any bucket does.
        let all = unit.samples();
        let moving = rng.between(all as u64 / 2, all as u64 + 1) as usize;
        let moving = moving.max(3).min(histograms_left);
        if moving < 3 {
            break;
        }
        unit.moving = moving;
        histograms_left -= moving;
        left -= moving;
    }
    for unit in singles.into_iter().take(left) {
        unit.moving = 1;
        left -= 1;
    }
    for unit in histograms {
        let more = (unit.samples() - unit.moving).min(left);
        if unit.moving + more >= 3 {
            unit.moving += more;
            left -= more;
        }
    }
    wanted - left
}

fn choose_churning(catalogue: &mut Catalogue, motion: &Motion, samples: usize, rng: &mut Rng) {
    let mut left = (samples as f64 * motion.churn_percent / 100.0).round() as usize;
    let mut units: Vec<&mut Unit> = catalogue.families.iter_mut().flat_map(|f| &mut f.units).collect();
    rng.shuffle(&mut units);
    for unit in units {
        if unit.samples() <= left {
            unit.churns = true;
            left -= unit.samples();
        }
    }
}

fn body(catalogue: &Catalogue, motion: &Motion, variant: usize, rng: &mut Rng) -> String {
    let mut out = String::new();
    for family in &catalogue.families {
        _ = writeln!(out, "# HELP {} {}", family.name, family.help);
        let kind = if motion.openmetrics && family.kind == "untyped" { "unknown" } else { family.kind };
        _ = writeln!(out, "# TYPE {} {kind}", family.name);
        let mut order: Vec<&Unit> = family.units.iter().collect();
        if motion.shuffled {
            rng.shuffle(&mut order);
        }
        order.into_iter().for_each(|unit| unit_lines(&mut out, catalogue.floats, family, unit, motion, variant));
    }
    if motion.openmetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn unit_lines(out: &mut String, floats: FloatStyle, family: &Family, unit: &Unit, motion: &Motion, variant: usize) {
    let mut labels = unit.labels.clone();
    if unit.churns {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut name = Rng::new(motion.seed ^ ((variant as u64) << 32));
        _ = write!(labels, "{comma}generation=\"{:010x}\"", name.bits() >> 24);
    }
    let mut line = |suffix: &str, bound: Option<&str>, value: f64| {
        out.push_str(&family.name);
        out.push_str(suffix);
        match (labels.is_empty(), bound) {
            (true, None) => {}
            (false, None) => _ = write!(out, "{{{labels}}}"),
            (true, Some(le)) => _ = write!(out, "{{le=\"{le}\"}}"),
            (false, Some(le)) => _ = write!(out, "{{{labels},le=\"{le}\"}}"),
        }
        out.push(' ');
        push_float(out, floats, value);
        if motion.openmetrics && suffix == "_bucket" && unit.moving > 0 {
            let mut trace = Rng::new(motion.seed ^ ((variant as u64) << 32) ^ value.to_bits());
            _ = write!(out, " # {{trace_id=\"{:016x}{:016x}\"}} 0.067 1520879607.789", trace.bits(), trace.bits());
        }
        out.push('\n');
    };
    let steps = if unit.moving > 0 { variant as f64 } else { 0.0 };
    match &unit.shape {
        Shape::Fixed(value) => line(unit.suffix, None, *value),
        Shape::Counter { start, step } => line(unit.suffix, None, hundredths(start + step * steps)),
        Shape::Gauge { base, swing } => {
            let place = if unit.moving > 0 { swing_place(variant, motion.variants) } else { 0 };
            line(unit.suffix, None, hundredths(base + swing * place as f64 / motion.variants as f64));
        }
        Shape::Histogram { bounds, counts, step } => {
            // The first of the moving buckets takes all new observations, so it and those above it grow alike.
            let bucket_first = (bounds.len() + 2).saturating_sub(unit.moving);
            let fresh = if unit.moving > 0 { step * variant as u64 } else { 0 };
            let mut total = 0;
            for (bucket, (bound, count)) in bounds.iter().zip(counts).enumerate() {
                total += count;
                let seen = if bucket >= bucket_first { total + fresh } else { total };
                line("_bucket", Some(bound), seen as f64);
            }
            line("_sum", None, hundredths((total + fresh) as f64 * 0.17));
            line("_count", None, (total + fresh) as f64);
        }
    }
}

/// Up on the even places and down on the odd ones: a closed walk on which neighbours always differ.
fn swing_place(variant: usize, variants: usize) -> usize {
    if 2 * variant < variants { 2 * variant } else { 2 * (variants - variant) - 1 }
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn push_float(out: &mut String, style: FloatStyle, value: f64) {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("LowerExp writes an exponent");
    let exponent: i32 = exponent.parse().expect("LowerExp writes an exponent");
    match style {
        FloatStyle::Go if (-4..6).contains(&exponent) || value == 0.0 => _ = write!(out, "{value}"),
        FloatStyle::Go => {
            let sign = if exponent < 0 { '-' } else { '+' };
            _ = write!(out, "{digits}e{sign}{:02}", exponent.abs());
        }
        FloatStyle::Java if (-3..7).contains(&exponent) || value == 0.0 => _ = write!(out, "{value:?}"),
        FloatStyle::Java => {
            let fraction = if digits.contains('.') { "" } else { ".0" };
            _ = write!(out, "{digits}{fraction}E{exponent}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;

    #[track_caller]
    fn check_float(style: FloatStyle, value: f64, want: &str) {
        let mut out = String::new();
        push_float(&mut out, style, value);
        assert_eq!(out, want);
    }

    #[test]
    fn floats_are_spelt_as_the_exporters_spell_them() {
        check_float(FloatStyle::Go, 0.0, "0");
        check_float(FloatStyle::Go, 123456.78, "123456.78");
        check_float(FloatStyle::Go, 1234567.0, "1.234567e+06");
        check_float(FloatStyle::Go, 0.00001, "1e-05");
        check_float(FloatStyle::Java, 12.0, "12.0");
        check_float(FloatStyle::Java, 1234567.0, "1234567.0");
        check_float(FloatStyle::Java, 20000000.0, "2.0E7");
    }

    fn motion(changing_percent: f64) -> Motion {
        Motion { variants: 5, changing_percent, churn_percent: 0.0, shuffled: false, openmetrics: false, seed: 7 }
    }

    fn text(variant: &Variant) -> &str {
        let response = std::str::from_utf8(&variant.plain).unwrap();
        response.split_once("\r\n\r\n").unwrap().1
    }

    fn samples(body: &str) -> Vec<&str> {
        body.lines().filter(|line| !line.starts_with('#')).collect()
    }

    fn series(sample: &str) -> &str {
        sample.rsplit_once(' ').unwrap().0
    }

    /// Every pair of neighbours, the wrap included, differs in exactly `want` values and in no series.
    #[track_caller]
    fn check_share(catalogue: Catalogue, changing_percent: f64, want: usize) {
        let payload = Payload::render(catalogue, &motion(changing_percent));
        assert_eq!(payload.samples_changing, want);
        for variant in 0..5 {
            let before = samples(text(&payload.variants[variant]));
            let after = samples(text(&payload.variants[(variant + 1) % 5]));
            assert_eq!(before.len(), payload.samples);
            let differing = before.iter().zip(&after).filter(|(b, a)| b != a).count();
            assert_eq!(differing, want, "from variant {variant}");
            assert!(before.iter().zip(&after).all(|(b, a)| series(b) == series(a)));
        }
    }

    #[test]
    fn the_share_of_changing_values_is_the_stated_one() {
        check_share(catalogue::app(1_360, 7), 40.0, 544);
        check_share(catalogue::app(1_000, 7), 10.0, 100);
        check_share(catalogue::app(1_360, 7), 0.0, 0);
        check_share(catalogue::small(7), 50.0, 10);
    }

    #[test]
    fn counters_only_grow_until_the_wrap() {
        let payload = Payload::render(catalogue::app(1_360, 7), &motion(100.0));
        let values = |variant: usize| -> Vec<f64> {
            let counters = samples(text(&payload.variants[variant])).into_iter().filter(|s| s.contains("_bucket{"));
            counters.map(|s| s.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
        };
        for variant in 1..5 {
            assert!(values(variant - 1).iter().zip(values(variant)).all(|(b, a)| *b < a), "variant {variant}");
        }
        assert!(values(4).iter().zip(values(0)).all(|(b, a)| *b > a));
    }

    #[test]
    fn buckets_are_cumulative() {
        let payload = Payload::render(catalogue::app(1_360, 7), &motion(40.0));
        for variant in &payload.variants {
            let mut below = ("", 0.0);
            for sample in samples(text(variant)).into_iter().filter(|s| s.contains("_bucket{")) {
                let histogram = sample.split_once(",le=").unwrap().0;
                let count: f64 = sample.rsplit_once(' ').unwrap().1.parse().unwrap();
                assert!(histogram != below.0 || count >= below.1, "{sample} below {}", below.1);
                below = (histogram, count);
            }
        }
    }

    #[test]
    fn churn_renames_the_stated_share_in_every_variant() {
        let churning = Motion { churn_percent: 10.0, ..motion(0.0) };
        let payload = Payload::render(catalogue::app(1_360, 7), &churning);
        let bodies: Vec<Vec<&str>> = payload.variants.iter().map(|v| samples(text(v))).collect();
        for pair in bodies.windows(2) {
            let renamed = pair[0].iter().zip(&pair[1]).filter(|(b, a)| series(b) != series(a)).count();
            assert_eq!(renamed, 136);
        }
    }

    #[test]
    fn openmetrics_is_the_same_content_with_exemplars_and_an_end() {
        let render = |openmetrics| Payload::render(catalogue::app(1_360, 7), &Motion { openmetrics, ..motion(40.0) });
        let (text, open) = (render(false), render(true));
        for (text, open) in text.variants.iter().zip(&open.variants) {
            let body = |bytes: &[u8]| {
                let bytes = String::from_utf8(bytes.to_vec()).unwrap();
                bytes.split_once("\r\n\r\n").unwrap().1.to_owned()
            };
            let (text, open) = (body(&text.plain), body(&open.plain));
            assert!(open.contains("_bucket{") && open.contains(" # {trace_id=\"") && open.ends_with("# EOF\n"));
            let stripped: String = open
                .lines()
                .filter(|line| *line != "# EOF")
                .map(|line| line.split(" # {").next().unwrap().to_owned() + "\n")
                .collect();
            assert_eq!(stripped.replace(" unknown\n", " untyped\n"), text);
        }
    }

    #[test]
    fn shuffled_lines_are_the_same_lines() {
        let shuffled = Motion { shuffled: true, ..motion(0.0) };
        let payload = Payload::render(catalogue::app(1_360, 7), &shuffled);
        let mut first = samples(text(&payload.variants[0]));
        let mut second = samples(text(&payload.variants[1]));
        assert_ne!(first, second);
        first.sort_unstable();
        second.sort_unstable();
        assert_eq!(first, second);
    }

    #[test]
    fn a_seed_is_a_payload() {
        let bytes =
            |seed| Payload::render(catalogue::node(seed), &Motion { seed, ..motion(40.0) }).variants.remove(3).plain;
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }
}
