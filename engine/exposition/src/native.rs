//! Native histograms of payloads, and classic histograms that become such.

use crate::openmetrics::Exemplar;
use series::histogram::CUSTOM_SCHEMA;

/// Spans, differences and counts of a native histogram; buckets of a classic one that becomes native.
pub(crate) const BUCKETS_MAX: usize = 65_536;

/// Most native histograms of a payload: they are stored in one turn of their shard.
pub(crate) const NATIVES_MAX: usize = 100_000;

/// What a job wants of histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HistogramOptions {
    /// Native histograms are read as such. Otherwise their native parts are ignored.
    pub native: bool,
    /// Classic buckets beside a native histogram are series, too.
    pub always_classic: bool,
    /// Classic histograms become native ones with their bounds.
    pub convert_classic: bool,
    /// Start times of protobuf become `_created` lines.
    pub start_times: bool,
}

/// One side of a native histogram as it is sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BucketSide {
    /// Offset to the span before, and length.
    pub spans: Vec<(i64, u64)>,
    pub deltas: Vec<i64>,
    pub counts: Vec<f64>,
}

/// A native histogram as it is sent; nothing of it is checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NativeHistogram {
    /// Name and labels as OpenMetrics text, see [`crate::labels`].
    pub raw: Vec<u8>,
    pub timestamp: Option<i64>,
    /// When it began to count, in milliseconds, where that is said and asked for.
    pub start: Option<i64>,
    pub is_gauge: bool,
    /// Counts are floats.
    pub is_float: bool,
    pub schema: i64,
    pub zero_threshold: f64,
    pub zero_count: f64,
    pub count: f64,
    pub sum: f64,
    pub positive: BucketSide,
    pub negative: BucketSide,
    /// Upper bounds of buckets, where the schema is [`CUSTOM_SCHEMA`].
    pub custom_bounds: Vec<f64>,
    /// Those with a time.
    pub exemplars: Vec<Exemplar>,
}

impl NativeHistogram {
    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let side = |side: &BucketSide| side.spans.len() * 16 + (side.deltas.len() + side.counts.len()) * 8;
        // Buckets are read into as much again.
        let numbers = 2 * (side(&self.positive) + side(&self.negative)) + self.custom_bounds.len() * 8;
        size_of::<NativeHistogram>() + self.raw.len() + numbers + self.exemplars.len() * EXEMPLAR_BYTES
    }
}

/// An exemplar with a label or two, in memory.
const EXEMPLAR_BYTES: usize = 128;

/// What came of a body.
pub struct Transcoded {
    /// OpenMetrics, without its end after an error.
    pub text: Vec<u8>,
    /// In the order of the body.
    pub natives: Vec<NativeHistogram>,
}

/// A classic histogram: what its series say.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClassicHistogram {
    /// Upper bound and cumulative count, in the order in which they came.
    pub buckets: Vec<(f64, f64)>,
    pub count: Option<f64>,
    pub sum: Option<f64>,
}

impl ClassicHistogram {
    pub fn clear(&mut self) {
        self.buckets.clear();
        (self.count, self.sum) = (None, None);
    }

    /// The histogram with one native bucket for each classic one, without series and exemplars; or why it is none, in
    /// Prometheus' words. Of several buckets with one bound the first counts.
    pub fn convert(&mut self) -> Result<NativeHistogram, String> {
        if self.buckets.len() >= BUCKETS_MAX {
            return Err(format!("a classic histogram has more than {BUCKETS_MAX} buckets"));
        }
        if self.buckets.iter().any(|(bound, _)| bound.is_nan()) {
            return Err("bucket boundary must not be NaN".to_owned());
        }
        let go = |number: f64| {
            let mut text = String::new();
            series::format_float(number, &mut text).expect("writing to a string");
            text
        };
        if let Some((bound, count)) = self.buckets.iter().find(|(_, count)| count.is_nan() || *count < 0.0) {
            return Err(format!("bucket count must be non-negative: le={}, count={}", go(*bound), go(*count)));
        }
        if let Some(count) = self.count.filter(|count| *count < 0.0) {
            return Err(format!("count must be non-negative: count={}", go(count)));
        }
        self.buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        self.buckets.dedup_by(|later, earlier| later.0 == earlier.0);
        if let Some(pair) = self.buckets.windows(2).find(|pair| pair[1].1 < pair[0].1) {
            return Err(format!("count is not cumulative: {} < {}", go(pair[1].1), go(pair[0].1)));
        }
        let last = self.buckets.last().copied();
        let count = self.count.or(last.map(|(_, count)| count)).unwrap_or(0.0);
        if last.is_none_or(|(bound, _)| bound != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        let (bound, highest) = *self.buckets.last().expect("pushed above");
        // A NaN is no count either.
        if highest != count {
            return Err(format!("count mismatch: count={} != le={} count={}", go(count), go(bound), go(highest)));
        }
        let mut before = 0.0;
        let counts = self.buckets.iter().map(|(_, count)| *count - std::mem::replace(&mut before, *count));
        let counts: Vec<f64> = counts.collect();
        let is_float = self.buckets.iter().any(|(_, count)| count.fract() != 0.0 || *count > series::EXACT_INTEGER_MAX);
        let mut positive = BucketSide { spans: vec![(0, counts.len() as u64)], ..BucketSide::default() };
        if is_float {
            positive.counts = counts;
        } else {
            let mut before = 0;
            let delta = |count: &f64| *count as i64 - std::mem::replace(&mut before, *count as i64);
            positive.deltas = counts.iter().map(delta).collect();
        }
        let bounds = &self.buckets[..self.buckets.len() - 1];
        Ok(NativeHistogram {
            is_float,
            schema: i64::from(CUSTOM_SCHEMA),
            count,
            sum: self.sum.unwrap_or(0.0),
            positive,
            custom_bounds: bounds.iter().map(|(bound, _)| *bound).collect(),
            ..NativeHistogram::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of buckets, or the error.
    #[track_caller]
    fn check(buckets: &[(f64, f64)], count: Option<f64>, want: Result<(&[f64], &[f64], f64), &str>) {
        let mut classic = ClassicHistogram { buckets: buckets.to_vec(), count, sum: None };
        let got = classic.convert().map(|native| {
            let mut counts = native.positive.counts.clone();
            let mut sum = 0;
            counts.extend(native.positive.deltas.iter().map(|delta| {
                sum += delta;
                sum as f64
            }));
            (native.custom_bounds, counts, native.count)
        });
        assert_eq!(
            got,
            want.map(|(bounds, counts, count)| (bounds.to_vec(), counts.to_vec(), count)).map_err(Into::into)
        );
    }

    #[test]
    fn classic_histograms_become_native() {
        const INF: f64 = f64::INFINITY;
        check(&[(1.0, 2.0), (2.5, 5.0), (INF, 9.0)], Some(9.0), Ok((&[1.0, 2.5], &[2.0, 3.0, 4.0], 9.0)));
        check(&[(2.5, 5.0), (1.0, 2.0), (1.0, 4.0)], None, Ok((&[1.0, 2.5], &[2.0, 3.0, 0.0], 5.0)));
        check(&[(1.0, 0.5)], Some(1.0), Ok((&[1.0], &[0.5, 0.5], 1.0)));
        check(&[], Some(7.0), Ok((&[], &[7.0], 7.0)));
        check(&[], None, Ok((&[], &[0.0], 0.0)));
        check(&[(INF, 7.0)], Some(8.0), Err("count mismatch: count=8 != le=+Inf count=7"));
        check(&[(1.0, 3.0), (2.0, 2.0)], None, Err("count is not cumulative: 2 < 3"));
        check(&[(f64::NAN, 3.0)], None, Err("bucket boundary must not be NaN"));
        check(&[(1.0, -3.0)], None, Err("bucket count must be non-negative: le=1, count=-3"));
        check(&[(1.0, 3.0)], Some(-1.0), Err("count must be non-negative: count=-1"));
        check(&[(1.0, f64::NAN)], Some(1.0), Err("bucket count must be non-negative: le=1, count=NaN"));
    }
}
