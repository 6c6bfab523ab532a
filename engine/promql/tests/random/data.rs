//! Random series: targets whose series share their times, as scrapes have them, and series with times of their own.
//!
//! Values are small whole numbers, quarters among them, so that sums are exact in any order.

use super::Random;
use crate::plain::{Stored, Value};
use series::histogram::{BucketCount, CUSTOM_SCHEMA, Histogram, ResetHint};
use series::{Labels, STALE_NAN};
use std::sync::Arc;

/// Series of one target: a value, or none, for each of the target's times.
pub struct Target {
    pub times: Vec<i64>,
    pub series: Vec<(Labels, Vec<Option<f64>>)>,
}

pub struct Data {
    pub targets: Vec<Target>,
    /// Series of other sources.
    pub others: Vec<Stored>,
}

/// All samples lie within this of zero, in milliseconds.
pub const LENGTH_MS: i64 = 1_200_000;

const COUNTERS: [&str; 3] = ["a_total", "b_total", "a_count"];
const GAUGES: [&str; 3] = ["m", "n", "temperature"];
const BOUNDS: [&str; 5] = ["0.5", "1", "2.5", "10", "+Inf"];

fn times(random: &mut Random) -> Vec<i64> {
    let step = [5_000, 15_000, 30_000, 60_000][random.below(4)];
    let mut time = random.below(LENGTH_MS as usize / 6) as i64;
    let mut times = Vec::new();
    let end = LENGTH_MS - random.below(LENGTH_MS as usize / 4) as i64;
    // Aligned scrapes meet the edges of windows.
    if random.one_in(2) {
        time -= time % step;
    }
    while time < end && times.len() < 80 {
        times.push(time);
        time += step;
        if random.one_in(8) {
            time += random.below(3_000) as i64;
        }
        if random.one_in(25) {
            // A gap, longer than the lookback at times.
            time += step * random.below(12) as i64;
        }
    }
    times
}

fn gauge(random: &mut Random) -> f64 {
    match random.below(60) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => -0.0,
        4..=20 => random.below(5) as f64,
        _ => random.below(400) as f64 / 4.0 - 30.0,
    }
}

/// Values for so many times, with gaps.
fn values(random: &mut Random, count: usize, is_counter: bool) -> Vec<Option<f64>> {
    let mut now = random.below(100) as f64;
    let constant = random.one_in(6);
    // Most series are there all the time.
    let has_gaps = random.one_in(3);
    let mut absent = has_gaps && random.one_in(4);
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        if has_gaps && random.one_in(12) {
            absent = !absent;
        }
        if !constant {
            if is_counter && random.one_in(200) {
                now = f64::INFINITY;
            } else if !is_counter {
                now = gauge(random);
            } else if random.one_in(15) {
                now = random.below(5) as f64;
            } else {
                now += random.below(20) as f64;
            }
        }
        out.push((!absent).then_some(now));
    }
    out
}

fn labels(random: &mut Random, name: &str, instance: &str) -> Labels {
    let mut pairs = vec![("__name__", name), ("instance", instance), ("job", "j")];
    if !random.one_in(5) {
        pairs.push(("x", random.pick(&["1", "2", "3"])));
    }
    if random.one_in(2) {
        pairs.push(("y", random.pick(&["p", "q"])));
    }
    Labels::from_pairs(pairs)
}

impl Data {
    pub fn new(random: &mut Random) -> Data {
        let mut data = Data { targets: Vec::new(), others: Vec::new() };
        for instance in ["i1", "i2", "i3", "i4"].iter().take(1 + random.below(4)) {
            let times = times(random);
            let mut target = Target { series: Vec::new(), times };
            for _ in 0..3 + random.below(6) {
                let counter = random.one_in(2);
                let name = if counter { random.pick(&COUNTERS) } else { random.pick(&GAUGES) };
                let labels = labels(random, name, instance);
                if target.series.iter().all(|(known, _)| *known != labels) {
                    let values = values(random, target.times.len(), counter);
                    target.series.push((labels, values));
                }
            }
            if random.one_in(3) {
                target.buckets(random, instance);
            }
            if random.one_in(2) {
                target.infos(random, instance);
            }
            data.targets.push(target);
        }
        for instance in ["o1", "o2", "o3"].iter().take(random.below(4)) {
            let samples = histogram_samples(random);
            let labels = labels(random, random_name(instance), instance);
            data.others.push(Stored { labels, samples });
        }
        data
    }

    /// Every series, markers where one ends, sorted by labels.
    pub fn stored(&self) -> Vec<Stored> {
        let mut all = self.others.clone();
        for target in &self.targets {
            for (labels, values) in &target.series {
                let mut samples = Vec::new();
                let mut present = false;
                for (time, value) in target.times.iter().zip(values) {
                    match value {
                        Some(value) => samples.push((*time, Value::Float(*value))),
                        None if present => samples.push((*time, Value::Float(STALE_NAN))),
                        None => {}
                    }
                    present = value.is_some();
                }
                all.push(Stored { labels: labels.clone(), samples });
            }
        }
        all.retain(|stored| !stored.samples.is_empty());
        all.sort_by(|one, other| one.labels.cmp(&other.labels));
        all
    }
}

fn random_name(instance: &str) -> &'static str {
    if instance == "o1" { "h" } else { "m" }
}

impl Target {
    /// Info metrics: one says v="1" and, after a while, v="2"; sometimes both say so at once.
    fn infos(&mut self, random: &mut Random, instance: &str) {
        let count = self.times.len();
        let turn = random.below(count + 1);
        let overlap = if random.one_in(5) { 2 } else { 0 };
        for (v, from, to) in [("1", 0, turn + overlap), ("2", turn, count)] {
            let pairs = [("__name__", "target_info"), ("instance", instance), ("job", "j"), ("v", v)];
            let values = (0..count).map(|i| (from..to).contains(&i).then_some(1.0)).collect();
            self.series.push((Labels::from_pairs(pairs), values));
        }
        if random.one_in(2) {
            let (v, w) = (random.pick(&["1", "3"]), random.pick(&["1", "2"]));
            let pairs = [("__name__", "b_info"), ("instance", instance), ("job", "j"), ("v", v), ("w", w)];
            self.series.push((Labels::from_pairs(pairs), vec![Some(1.0); count]));
        }
    }

    /// A classic histogram.
    fn buckets(&mut self, random: &mut Random, instance: &str) {
        let mut counts = vec![0.0; BOUNDS.len()];
        let mut rows: Vec<Vec<Option<f64>>> = vec![Vec::new(); BOUNDS.len()];
        for _ in 0..self.times.len() {
            let from = random.below(BOUNDS.len() + 1);
            counts[from.min(BOUNDS.len() - 1)..].iter_mut().for_each(|count| *count += random.below(4) as f64);
            for (row, count) in rows.iter_mut().zip(&counts) {
                row.push(Some(*count));
            }
        }
        for (bound, row) in BOUNDS.iter().zip(rows) {
            let pairs = [("__name__", "c_bucket"), ("instance", instance), ("job", "j"), ("le", bound)];
            self.series.push((Labels::from_pairs(pairs), row));
        }
    }
}

fn histogram_samples(random: &mut Random) -> Vec<(i64, Value)> {
    let custom = random.one_in(3);
    let mixed = random.one_in(3);
    let gauge = random.one_in(4);
    let mut now = Histogram { schema: if custom { CUSTOM_SCHEMA } else { 1 }, ..Histogram::default() };
    if custom {
        now.custom_values = [1.0, 2.0, 5.0].into();
    } else if random.one_in(2) {
        now.zero_threshold = 0.125;
    }
    let mut samples = Vec::new();
    let mut before: Option<Histogram> = None;
    for time in times(random) {
        if random.one_in(10) {
            // A gap, with or without a marker.
            if random.one_in(2) && !samples.is_empty() {
                samples.push((time, Value::Float(STALE_NAN)));
            }
            continue;
        }
        if mixed && random.one_in(4) {
            samples.push((time, Value::Float(random.below(50) as f64)));
            before = None;
            continue;
        }
        if random.one_in(12) {
            // A reset.
            now.positive.clear();
            now.negative.clear();
            (now.count, now.sum, now.zero_count) = (0.0, 0.0, 0.0);
        }
        for _ in 0..random.below(4) {
            observe(random, &mut now, custom);
        }
        let mut sample = now.clone();
        sample.compact();
        sample.hint = match &before {
            _ if gauge => ResetHint::Gauge,
            // As chunks say it, for samples that are not the first of one.
            Some(before) if !sample.detect_reset(before) && !random.one_in(5) => ResetHint::NotReset,
            _ => ResetHint::Unknown,
        };
        before = Some(sample.clone());
        samples.push((time, Value::Histogram(Arc::new(sample))));
    }
    samples
}

fn observe(random: &mut Random, histogram: &mut Histogram, custom: bool) {
    let count = 1.0 + random.below(3) as f64;
    histogram.count += count;
    histogram.sum += count * random.below(8) as f64;
    if !custom && random.one_in(5) {
        histogram.zero_count += count;
        return;
    }
    let negative = !custom && random.one_in(6);
    let index = if custom { random.below(4) as i32 } else { random.below(8) as i32 - 2 };
    let side = if negative { &mut histogram.negative } else { &mut histogram.positive };
    match side.binary_search_by_key(&index, |bucket| bucket.index) {
        Ok(at) => side[at].count += count,
        Err(at) => side.insert(at, BucketCount { index, count }),
    }
}
