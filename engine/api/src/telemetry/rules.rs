//! Metrics of rules, under Prometheus' names.

use crate::metrics_writer::{BOUNDS_BESIDE_SUMMARIES, MetricsWriter, SUMMARY_QUANTILES};
use crate::state::State;
use ::rules::GroupView;

pub(super) fn rules(writer: &mut MetricsWriter, state: &State) {
    let manager = &state.parts.rules;
    let snapshot = manager.snapshot();
    let groups = || snapshot.groups.iter().map(|group| (format!("{};{}", group.file.display(), group.name), &**group));
    type Number = fn(&GroupView) -> f64;
    let families: [(&str, &str, &str, Number); 11] = [
        ("evaluations_total", "counter", "Evaluations of rules.", |group| group.counters.evaluations as f64),
        ("evaluation_failures_total", "counter", "Evaluations that failed.", |group| group.counters.failures as f64),
        ("group_iterations_total", "counter", "Evaluations of a group, missed ones included.", |group| {
            group.counters.iterations as f64
        }),
        ("group_iterations_missed_total", "counter", "Evaluations of a group that came too late.", |group| {
            group.counters.missed as f64
        }),
        ("group_interval_seconds", "gauge", "Time between evaluations.", |group| group.interval.as_secs_f64()),
        ("group_rules", "gauge", "Rules of the group.", |group| group.rules.len() as f64),
        ("group_last_duration_seconds", "gauge", "Time that the last evaluation took.", |group| {
            group.evaluation_time.as_secs_f64()
        }),
        ("group_last_rule_duration_sum_seconds", "gauge", "Sum of the last times of its rules.", |group| {
            group.counters.rules_seconds
        }),
        (
            "group_last_restore_duration_seconds",
            "gauge",
            "Time that looking for alerts of the last run took.",
            |group| group.counters.restore.as_secs_f64(),
        ),
        ("group_last_evaluation_timestamp_seconds", "gauge", "When the last evaluation began.", |group| {
            group.last_evaluation.unwrap_or(0) as f64 / 1000.0
        }),
        ("group_last_evaluation_samples", "gauge", "Samples of the last evaluation.", |group| {
            group.counters.samples as f64
        }),
    ];
    for (name, kind, help, value) in families {
        let values = groups().map(|(key, group)| (key, value(group)));
        writer.by(&format!("prometheus_rule_{name}"), kind, help, "rule_group", values);
    }
    let (expansions, failures) = manager.timings().expansions();
    let help = "Templates of labels and annotations that were expanded.";
    writer.counter("prometheus_template_text_expansions_total", help, expansions as f64);
    let help = "Templates of labels and annotations that could not be expanded.";
    writer.counter("prometheus_template_text_expansion_failures_total", help, failures as f64);
    let (of_rules, of_groups) = manager.timings().histograms();
    writer.summary(
        "prometheus_rule_evaluation_duration_seconds",
        "Time that rules take.",
        &SUMMARY_QUANTILES,
        &of_rules,
    );
    let quantiles = [0.01, 0.05, 0.5, 0.9, 0.99];
    writer.summary("prometheus_rule_group_duration_seconds", "Time that groups take.", &quantiles, &of_groups);
    for (what, help, times) in
        [("evaluation", "Time that rules take.", &of_rules), ("group", "Time that groups take.", &of_groups)]
    {
        let name = format!("prometheus_rule_{what}_duration_histogram_seconds");
        writer.family(&name, "histogram", help);
        writer.histogram_lines(&name, &[], &BOUNDS_BESIDE_SUMMARIES, std::iter::once(times));
    }
}
