//! Warnings about known mistakes of federation that are no errors.

use crate::types::{Config, ScrapeConfig};
use crate::units::format_duration;
use series::{METRIC_NAME, MatchOp, Matcher};

/// Values that no sensible selector lets pass all.
const PROBES: [&str; 6] = ["a", "up", "node_cpu_seconds_total", "job:requests:rate5m", "Zq9", "0"];

impl Config {
    /// Returns the mistakes that this configuration shows by itself, as sentences.
    pub fn lint(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for job in self.scrape_configs.iter().filter(|job| is_federation(job)) {
            let name = &job.job_name;
            if !job.honor_labels {
                warnings.push(format!(
                    "job {name:?} scrapes /federate without honor_labels: the edge's job and instance become \
                     exported_job and exported_instance; set honor_labels: true"
                ));
            }
            let selectors = job.params.iter().filter(|(name, _)| name == "match[]").flat_map(|(_, values)| values);
            let mut any = false;
            for selector in selectors {
                any = true;
                match promql::parse_selector(selector) {
                    Ok(matchers) if matchers.iter().all(matches_everything) => warnings.push(format!(
                        "job {name:?} asks for every series of the edge by {selector:?}: name what the hub needs, such \
                         as '{{__name__=~\"job:.*\"}}'"
                    )),
                    Ok(_) => {}
                    Err(error) => warnings.push(format!("job {name:?}: match[] {selector:?} is refused: {error}")),
                }
            }
            if !any {
                warnings.push(format!("job {name:?} scrapes /federate without match[]: the answer is empty"));
            }
            if !job.honor_timestamps {
                warnings.push(format!(
                    "job {name:?} scrapes /federate without honor_timestamps: samples get the time of the hub's scrape, \
                     up to an interval too late"
                ));
            }
            warnings.extend(self.shorter_than_rules(job, "evaluation_interval here"));
        }
        if self.federation.is_some() && self.global.external_labels.is_empty() {
            warnings.push(
                "federation is configured without global.external_labels: a hub cannot tell this edge's series from \
                 another's"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Returns the mistakes of this hub that the configuration of one of its edges shows, as sentences.
    pub fn lint_with_edge(&self, edge: &Config) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut jobs = self.scrape_configs.iter().filter(|job| is_federation(job)).peekable();
        let edge_is_hub = edge.scrape_configs.iter().any(|job| is_federation(job));
        if jobs.peek().is_none() || edge_is_hub {
            return warnings;
        }
        let file = edge.file.display();
        if !edge.rule_files.is_empty() {
            warnings
                .extend(jobs.filter_map(|job| edge.shorter_than_rules(job, &format!("evaluation_interval in {file}"))));
        }
        if edge.global.external_labels.is_empty() {
            warnings.push(format!(
                "{file} has no global.external_labels: the hub cannot tell its series from those of another edge"
            ));
        }
        warnings
    }

    fn shorter_than_rules(&self, job: &ScrapeConfig, of: &str) -> Option<String> {
        let rules = self.global.evaluation_interval;
        (job.scrape_interval < rules).then(|| {
            format!(
                "job {:?} scrapes /federate every {}, the {of} is {}: rules evaluated at that pace give the hub the \
                 same samples again",
                job.job_name,
                format_duration(job.scrape_interval),
                format_duration(rules)
            )
        })
    }
}

fn is_federation(job: &ScrapeConfig) -> bool {
    job.metrics_path.trim_end_matches('/').ends_with("/federate")
}

/// Returns whether a matcher matches every value, by its effect and not by its spelling.
fn matches_everything(matcher: &Matcher) -> bool {
    let absent = matcher.name() == METRIC_NAME || matcher.matches("") || matcher.op() == MatchOp::Regex;
    absent && PROBES.iter().all(|probe| matcher.matches(probe))
}
