//! Native histograms of a scrape: line policies, checks, resolution, limits.
//!
//! They lie in rows of their own beside those of the target's floats, written in the same turn of the shard (decision 052).

use crate::class::{Class, Outcome, series_labels};
use crate::ingest::{Reader, Refusal};
use crate::native_state::NativeCounts;
use exposition::{Exemplar, Kind, NativeHistogram};
use fetch::Reason;
use remote::{HistogramParts, check_histogram};
use series::histogram::{ResetHint, SCHEMA_MAX, SCHEMA_MIN};
use series::{Histogram, Labels, Timestamp, Value, with_metadata_labels};

/// Histograms that are read before other tasks of the shard get their turn.
const HISTOGRAMS_PER_TURN: u64 = 64;

/// What a target's native histograms have come to.
#[derive(Debug, Default)]
pub struct NativeRows {
    /// Those that are stored, with the labels of their series.
    pub rows: Vec<(Labels, Value)>,
    /// Own times of the rows, where any has one that is honored.
    pub stamps: Vec<Option<Timestamp>>,
    pub exemplars: Vec<(Labels, Vec<Exemplar>)>,
    /// Places of rows, and when their series began.
    pub starts: Vec<(usize, i64)>,
    /// Counts of the payload.
    pub counts: NativeCounts,
    /// Series of texts that the payload before had not.
    pub series_added: u64,
}

impl Reader {
    /// Applies the job's rules and limits. The first histogram that fails its checks fails the scrape. That one has too many
    /// buckets is in the counts: other reasons to fail come first.
    /// `pause` lets others run now and then.
    pub async fn read_natives(
        &mut self,
        natives: Vec<NativeHistogram>,
        pause: &impl AsyncFn(),
    ) -> Result<NativeRows, (NativeCounts, Refusal)> {
        self.native_policies.begin_payload();
        let outcome = self.read_each_native(natives, pause).await;
        self.native_policies.retain_present();
        outcome
    }

    async fn read_each_native(
        &mut self,
        natives: Vec<NativeHistogram>,
        pause: &impl AsyncFn(),
    ) -> Result<NativeRows, (NativeCounts, Refusal)> {
        let mut found = NativeRows { rows: Vec::with_capacity(natives.len()), ..NativeRows::default() };
        let mut class = None;
        for mut native in natives {
            let exemplars = std::mem::take(&mut native.exemplars);
            found.counts.scraped += 1;
            if found.counts.scraped.is_multiple_of(HISTOGRAMS_PER_TURN) {
                pause().await;
            }
            let series = match self.native_policies.get(&native.raw) {
                Some(series) => series,
                None => {
                    let class = class.get_or_insert_with(|| self.class_of_target());
                    let series = match self.native_policy(class, &native) {
                        Ok(series) => series,
                        Err(refusal) => return Err((found.counts, refusal)),
                    };
                    found.series_added += u64::from(series.is_some());
                    self.native_policies.insert(std::mem::take(&mut native.raw), series.clone());
                    series
                }
            };
            let Some(series) = series else { continue };
            found.counts.kept += 1;
            let start = native.start;
            let stamp = native.timestamp.filter(|_| self.job().honor_timestamps).map(Timestamp);
            let histogram = match checked(native, self.job().native_histogram_min_bucket_factor) {
                Ok(histogram) => histogram,
                Err(text) => return Err((found.counts, Refusal { reason: Reason::Parse, text })),
            };
            match within_limit(histogram, self.job().native_histogram_bucket_limit) {
                Some(histogram) => {
                    if !exemplars.is_empty() {
                        found.exemplars.push((series.clone(), exemplars));
                    }
                    if stamp.is_some() && found.stamps.is_empty() {
                        found.stamps.resize(found.rows.len(), None);
                    }
                    found.starts.extend(start.map(|start| (found.rows.len(), start)));
                    found.rows.push((series, Value::Histogram(histogram.into())));
                    if stamp.is_some() || !found.stamps.is_empty() {
                        found.stamps.push(stamp);
                    }
                }
                None => found.counts.limit_exceeded = true,
            }
        }
        Ok(found)
    }

    /// The labels of the series of this text, or None if it is dropped.
    fn native_policy(&self, class: &Class, native: &NativeHistogram) -> Result<Option<Labels>, Refusal> {
        let labels = exposition::labels(&native.raw, Kind::Unknown);
        let kind = if native.is_gauge { Kind::GaugeHistogram } else { Kind::Histogram };
        let kind_label = if self.labels_types() { kind.as_str() } else { "" };
        let exposed = labels.iter().map(|(name, value)| (&**name, &**value));
        match class.outcome(with_metadata_labels(exposed, kind_label, "")) {
            Outcome::Keep(own) => Ok(Some(series_labels(&own, self.target_labels()))),
            Outcome::Drop => Ok(None),
            Outcome::Fail(error) => Err(Refusal { reason: error.reason(), text: error.to_string() }),
        }
    }
}

/// The histogram, if it is one, at no finer a resolution than `factor` asks for.
fn checked(native: NativeHistogram, factor: f64) -> Result<Histogram, String> {
    let coarsest = schema_of_factor(factor);
    let sent = native.schema;
    let parts = HistogramParts {
        hint: if native.is_gauge { ResetHint::Gauge } else { ResetHint::Unknown },
        is_float: native.is_float,
        schema: i32::try_from(sent).unwrap_or(i32::MAX),
        zero_threshold: native.zero_threshold,
        zero_count: native.zero_count,
        count: native.count,
        sum: native.sum,
        positive: (native.positive.spans, native.positive.deltas, native.positive.counts),
        negative: (native.negative.spans, native.negative.deltas, native.negative.counts),
        custom_bounds: native.custom_bounds,
    };
    let mut histogram = check_histogram(parts)?;
    if sent > i64::from(SCHEMA_MAX) && coarsest.is_none_or(|schema| schema >= SCHEMA_MAX) {
        return Err(format!(
            "histogram has an invalid schema, which must be between {SCHEMA_MIN} and {SCHEMA_MAX} for exponential buckets, \
             or -53 for custom buckets, got schema {sent}"
        ));
    }
    if let Some(schema) = coarsest.filter(|schema| !histogram.is_custom() && *schema < histogram.schema) {
        histogram.reduce(schema);
    }
    Ok(histogram)
}

/// The finest schema whose buckets grow by at least this factor.
fn schema_of_factor(factor: f64) -> Option<i32> {
    (factor > 1.0).then(|| (-factor.log2().log2()).floor().clamp(f64::from(SCHEMA_MIN), f64::from(SCHEMA_MAX)) as i32)
}

/// The histogram with at most so many buckets, at a coarser resolution if need be; 0 is no limit.
fn within_limit(mut histogram: Histogram, buckets_max: u64) -> Option<Histogram> {
    let count = |histogram: &Histogram| (histogram.positive.len() + histogram.negative.len()) as u64;
    while buckets_max > 0 && count(&histogram) > buckets_max {
        if histogram.is_custom() || histogram.schema <= SCHEMA_MIN {
            return None;
        }
        histogram.reduce(histogram.schema - 1);
    }
    Some(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::Interner;
    use crate::test_job;
    use exposition::BucketSide;
    use futures_lite::future::block_on;

    fn native(name: &str, schema: i64, deltas: Vec<i64>, count: f64) -> NativeHistogram {
        let length = deltas.len() as u64;
        NativeHistogram {
            raw: name.as_bytes().to_vec(),
            schema,
            count,
            sum: 1.0,
            positive: BucketSide { spans: vec![(0, length)], deltas, counts: Vec::new() },
            ..NativeHistogram::default()
        }
    }

    /// What is stored, as `name schema buckets`, or the error.
    #[track_caller]
    fn check(settings: &str, natives: Vec<NativeHistogram>, want: Result<&[&str], &str>) {
        let target = Labels::from_pairs([("instance", "i"), ("job", "j")]);
        let mut reader = Reader::new(&mut Interner::default(), &test_job(settings), &target);
        for _ in 0..2 {
            match (block_on(reader.read_natives(natives.clone(), &async || {})), want) {
                (Ok(found), Err(want)) if found.counts.limit_exceeded => {
                    assert_eq!(want, "histogram bucket limit exceeded");
                }
                (Ok(found), Ok(want)) => {
                    let show = |(labels, value): &(Labels, Value)| {
                        let Value::Histogram(histogram) = value else { panic!("a float") };
                        assert_eq!(labels.get("instance"), Some("i"));
                        format!("{} {} {}", labels.metric_name(), histogram.schema, histogram.positive.len())
                    };
                    assert_eq!(found.rows.iter().map(show).collect::<Vec<_>>(), want);
                    assert_eq!(found.counts.scraped, natives.len() as u64);
                }
                (Err((_, refusal)), Err(want)) => assert!(refusal.text.contains(want), "{}", refusal.text),
                (got, want) => panic!("{got:?}, want {want:?}"),
            }
        }
    }

    #[test]
    fn rules_and_limits() {
        let eight = || native("h{a=\"b\"}", 3, vec![1, 0, 0, 0, 0, 0, 0, 0], 8.0);
        check("", vec![eight()], Ok(&["h 3 8"]));
        check("native_histogram_bucket_limit: 2", vec![eight()], Ok(&["h 0 2"]));
        check("native_histogram_min_bucket_factor: 1.5", vec![eight()], Ok(&["h 0 2"]));
        check("native_histogram_min_bucket_factor: 1.1", vec![eight()], Ok(&["h 2 5"]));
        let mut wide = native("h", 8, vec![1, 0], 2.0);
        wide.positive.spans = vec![(0, 1), (1_000_000, 1)];
        check("native_histogram_bucket_limit: 1", vec![wide], Err("histogram bucket limit exceeded"));
        let rules = "metric_relabel_configs: [{source_labels: [__name__], regex: h, action: drop}]";
        check(rules, vec![eight(), native("k", 0, vec![1], 1.0)], Ok(&["k 0 1"]));
    }

    #[test]
    fn histograms_that_contradict_themselves_fail_the_scrape() {
        check(
            "",
            vec![native("h", 3, vec![10], 11.0)],
            Err("10 observations found in buckets, but the Count field is 11"),
        );
        check("", vec![native("h", 9, vec![1], 1.0)], Err("got schema 9"));
        check("native_histogram_min_bucket_factor: 2", vec![native("h", 9, vec![1], 1.0)], Ok(&["h 0 1"]));
        check("", vec![native("h", 3, vec![-1], 0.0)], Err("observation count is negative"));
        let mut short = native("h", 3, vec![1], 1.0);
        short.positive.spans = vec![(0, 2)];
        check("", vec![short], Err("positive side: spans need 2 buckets, have 1 buckets"));
        check("label_limit: 2", vec![native("h{a=\"b\"}", 3, vec![1], 1.0)], Err("label_limit exceeded"));
    }

    #[test]
    fn factors_become_schemas() {
        for (factor, schema) in [
            (0.0, None),
            (1.0, None),
            (1.1, Some(2)),
            (1.5, Some(0)),
            (2.0, Some(0)),
            (4.0, Some(-1)),
            (65536.0, Some(-4)),
        ] {
            assert_eq!(schema_of_factor(factor), schema, "{factor}");
        }
    }
}
