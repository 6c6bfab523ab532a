//! One scrape for a look: what a target would bring, before it goes to production. Stores nothing.

use crate::class::{Class, Outcome};
use crate::payload::{histogram_options, transcode};
use crate::runtime;
use config::ScrapeConfig;
use exposition::{Format, Kind, PayloadParser};
use fetch::Accesses;
use fetch::build_request;
use fetch::content_type;
use fetch::content_type::PayloadFormat;
use fetch::{BodyLimit, Client, Fetcher};
use fetch::{Resolver, ResolverThreads};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use targets::Target;

/// What one scrape would bring.
#[derive(Clone, Debug, Default)]
pub struct Preview {
    pub duration: Duration,
    pub wire_bytes: usize,
    pub body_bytes: usize,
    /// Lines with a value.
    pub samples: usize,
    /// Different series after relabelling.
    pub series: usize,
    /// Samples that metric_relabel_configs drops, by metric.
    pub dropped: BTreeMap<String, usize>,
    /// Series by metric name.
    pub by_metric: BTreeMap<String, usize>,
    /// Values of each label, and how many series have the label.
    pub by_label: BTreeMap<String, (BTreeSet<String>, usize)>,
    /// Why the scrape fails, or would fail under the job's limits.
    pub problems: Vec<String>,
}

/// Fetches a target once, on an executor of its own.
pub fn preview(target: Target) -> Result<Preview, runtime::StartError> {
    let cpus = runtime::default_cpus(None)?;
    runtime::probe(&cpus)?;
    let threads = ResolverThreads::system()
        .map_err(|source| runtime::StartError::Os { what: "starting the resolver threads", source })?;
    let accesses = Accesses::start()
        .map_err(|source| runtime::StartError::Os { what: "starting the thread that reads credentials", source })?;
    let failed = |reason: String| runtime::StartError::Core { core: 0, reason };
    let executor = runtime::executor(0, cpus[0])
        .spawn(move || async move { look(&target, Resolver::new(threads), &accesses).await });
    executor.map_err(|error| failed(error.to_string()))?.join().map_err(|error| failed(error.to_string()))
}

async fn look(target: &Target, resolver: Resolver, accesses: &Accesses) -> Preview {
    let mut preview = Preview::default();
    let begun = Instant::now();
    let prepared = accesses.of(&target.job.http).ready().await;
    let request = match (&target.forced_error, build_request(target, &prepared)) {
        (None, Ok(request)) => request,
        (Some(error), _) => return Preview { problems: vec![error.to_string()], ..preview },
        (None, Err(error)) => return Preview { problems: vec![error.text], ..preview },
    };
    let mut client = Client::default();
    let fetcher = Fetcher::new(resolver);
    let limit = BodyLimit::new(target.job.body_size_limit);
    let fetched = {
        let fetch = std::pin::pin!(client.fetch(&fetcher, &request, limit, begun + target.timeout));
        let late = async {
            glommio::timer::Timer::new(target.timeout).await;
            None
        };
        futures_lite::future::or(async { Some(fetch.await) }, late).await
    };
    preview.duration = begun.elapsed();
    let fetched = match fetched.unwrap_or_else(|| Err(client.timed_out(&request))) {
        Ok(fetched) => fetched,
        Err(error) => return Preview { problems: vec![error.text], ..preview },
    };
    preview.wire_bytes = fetched.wire_bytes();
    preview.body_bytes = fetched.body().len();
    let format = content_type::format_of(&fetched, &target.job).unwrap_or_else(|error| {
        preview.problems.push(error.text);
        PayloadFormat::Lines(Format::Text)
    });
    let transcoded;
    let body = match format {
        PayloadFormat::Lines(format) if !target.convert_classic_histograms_to_nhcb => (format, fetched.body()),
        payload_format => {
            let format;
            (format, transcoded) = lines_of(&mut preview, (payload_format, fetched.body()), target).await;
            (format, &transcoded[..])
        }
    };
    tally(&mut preview, body, &target.job, &Class::new(&target.job, &target.labels).for_target(&target.labels));
    preview
}

/// A body as lines of a format; native histograms become a line each.
async fn lines_of(preview: &mut Preview, (format, body): (PayloadFormat, &[u8]), target: &Target) -> (Format, Vec<u8>) {
    let (format, transcoded, error) = transcode(format, body, histogram_options(target, false), &async || ()).await;
    preview.problems.extend(error);
    let mut lines: Vec<u8> = transcoded.natives.iter().flat_map(|native| [&native.raw[..], b" 1\n"].concat()).collect();
    lines.extend_from_slice(&transcoded.text);
    if format == Format::OpenMetrics && !lines.ends_with(b"# EOF\n") {
        lines.extend_from_slice(b"# EOF\n");
    }
    (format, lines)
}

/// Counts what is in a body.
fn tally(preview: &mut Preview, (format, body): (Format, &[u8]), job: &Arc<ScrapeConfig>, class: &Class) {
    let format = if body.is_empty() { Format::Text } else { format };
    let mut parser = PayloadParser::new(format, body, 0, Kind::Unknown);
    let mut series = BTreeSet::new();
    loop {
        let line = match parser.next_sample() {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) => {
                preview.problems.push(error.text);
                break;
            }
        };
        preview.samples += 1;
        let labels = exposition::labels(&body[line.raw.clone()], line.kind);
        let name = labels.first().map_or("", |(_, name)| name).to_owned();
        match class.outcome(labels.iter().map(|(name, value)| (&**name, &**value))) {
            Outcome::Keep(own) => {
                series.insert(own);
            }
            Outcome::Drop => *preview.dropped.entry(name).or_default() += 1,
            Outcome::Fail(error) => {
                let text = error.to_string();
                if !preview.problems.contains(&text) {
                    preview.problems.push(text);
                }
            }
        }
    }
    preview.series = series.len();
    for own in series {
        *preview.by_metric.entry(own.metric_name().to_owned()).or_default() += 1;
        for (name, value) in own.iter().filter(|(name, value)| *name != series::METRIC_NAME && !value.is_empty()) {
            let (values, count) = preview.by_label.entry(name.to_owned()).or_default();
            values.insert(value.to_owned());
            *count += 1;
        }
    }
    let dropped: usize = preview.dropped.values().sum();
    let kept = (preview.samples - dropped) as u64;
    if job.sample_limit > 0 && kept > job.sample_limit {
        preview.problems.push(format!("sample limit exceeded: {kept} samples, sample_limit is {}", job.sample_limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_job;
    use series::Labels;

    #[test]
    fn body_is_counted_as_a_scrape_would_take_it() {
        let job = test_job(
            "sample_limit: 2\nmetric_relabel_configs: [{source_labels: [__name__], regex: go_.*, action: drop}]",
        );
        let class = Class::new(&job, &Labels::empty());
        let mut preview = Preview::default();
        let body = b"a{x=\"1\"} 1\na{x=\"2\"} 1\na{x=\"2\"} 1\ngo_x 1\nb 1\n7\n";
        tally(&mut preview, (Format::Text, body), &job, &class);
        assert_eq!((preview.samples, preview.series), (5, 3));
        assert_eq!(preview.by_metric["a"], 2);
        assert_eq!(preview.by_label["x"].0.len(), 2);
        assert_eq!(preview.dropped["go_x"], 1);
        assert!(preview.problems[0].contains("expected a valid start token"), "{:?}", preview.problems);
        assert!(preview.problems[1].starts_with("sample limit exceeded: 4 samples"), "{:?}", preview.problems);
    }
}
