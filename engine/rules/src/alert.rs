//! The states of the alerts of one rule: a state machine whose inputs are the time and the result of the expression.
//!
//! Invariants:
//!   * an alert is identified by its labels
//!   * a resolved alert is kept for [`RESOLVED_RETENTION_MS`], so that an Alertmanager that was unreachable still receives it

use crate::rule::{ALERT_NAME, ALERT_STATE, ALERTS, ALERTS_FOR_STATE};
use series::{Labels, METRIC_NAME, Sample, Timestamp, is_stale};
use std::collections::{BTreeMap, HashMap};

/// Time for which a resolved alert is kept and sent.
const RESOLVED_RETENTION_MS: i64 = 15 * 60 * 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertState {
    Inactive,
    Pending,
    Firing,
}

impl AlertState {
    pub fn as_str(self) -> &'static str {
        match self {
            AlertState::Inactive => "inactive",
            AlertState::Pending => "pending",
            AlertState::Firing => "firing",
        }
    }
}

/// An element of the expression's result with its expanded templates.
#[derive(Clone, Debug)]
pub struct Element {
    pub labels: Labels,
    pub annotations: Labels,
    pub value: f64,
}

/// An alert. Times are Unix milliseconds.
#[derive(Clone, Debug)]
pub struct Alert {
    pub state: AlertState,
    pub annotations: Labels,
    pub value: f64,
    pub active_at: i64,
    pub fired_at: Option<i64>,
    pub resolved_at: Option<i64>,
    pub last_sent_at: Option<i64>,
    pub keep_firing_since: Option<i64>,
}

/// Durations and limit that hold for all alerts of a rule.
#[derive(Clone, Copy, Debug)]
pub struct AlertTimings {
    pub hold_ms: i64,
    pub keep_firing_ms: i64,
    /// 0 is no limit.
    pub limit: usize,
}

/// The alerts of one rule, by their labels.
#[derive(Clone, Debug, Default)]
pub struct Alerts {
    pub active: BTreeMap<Labels, Alert>,
}

/// Returns whether an alert has to be sent, for the first time or again.
fn resend_needed(alert: &Alert, now: i64, resend_delay_ms: i64) -> bool {
    if alert.state == AlertState::Pending {
        return false;
    }
    match (alert.resolved_at, alert.last_sent_at) {
        (Some(resolved), Some(sent)) if resolved > sent => true,
        (_, Some(sent)) => sent + resend_delay_ms < now,
        (_, None) => true,
    }
}

impl Alerts {
    /// Applies the result of the expression at `now`. Errors have Prometheus' texts, and clear the same alerts as there.
    pub fn step(&mut self, now: i64, elements: Vec<Element>, terms: AlertTimings) -> Result<(), String> {
        let mut result: HashMap<Labels, Element> = HashMap::with_capacity(elements.len());
        for element in elements {
            if result.insert(element.labels.clone(), element).is_some() {
                return Err("vector contains metrics with the same labelset after applying alert labels".into());
            }
        }
        for element in result.values() {
            match self.active.get_mut(&element.labels) {
                Some(alert) if alert.state != AlertState::Inactive => {
                    alert.value = element.value;
                    alert.annotations = element.annotations.clone();
                }
                _ => {
                    let alert = Alert {
                        state: AlertState::Pending,
                        annotations: element.annotations.clone(),
                        value: element.value,
                        active_at: now,
                        fired_at: None,
                        resolved_at: None,
                        last_sent_at: None,
                        keep_firing_since: None,
                    };
                    self.active.insert(element.labels.clone(), alert);
                }
            }
        }
        let mut active_count = 0;
        self.active.retain(|labels, alert| {
            let mut kept = true;
            if result.contains_key(labels) {
                alert.keep_firing_since = None;
            } else {
                let keeps_firing = alert.state == AlertState::Firing && terms.keep_firing_ms > 0 && {
                    let since = *alert.keep_firing_since.get_or_insert(now);
                    now - since < terms.keep_firing_ms
                };
                let is_old = alert.resolved_at.is_some_and(|at| now - at > RESOLVED_RETENTION_MS);
                kept = alert.state != AlertState::Pending && !is_old;
                if !keeps_firing {
                    if alert.state != AlertState::Inactive {
                        alert.state = AlertState::Inactive;
                        alert.resolved_at = Some(now);
                    }
                    return kept;
                }
            }
            active_count += 1;
            if alert.state == AlertState::Pending && now - alert.active_at >= terms.hold_ms {
                alert.state = AlertState::Firing;
                alert.fired_at = Some(now);
            }
            kept
        });
        if terms.limit > 0 && active_count > terms.limit {
            self.active.clear();
            return Err(format!("exceeded limit of {} with {active_count} alerts", terms.limit));
        }
        Ok(())
    }

    /// Returns the samples of `ALERTS` and `ALERTS_FOR_STATE` for pending and firing alerts.
    pub fn rows(&self, name: &str) -> Vec<(Labels, f64)> {
        let mut rows = Vec::with_capacity(2 * self.active.len());
        for (labels, alert) in self.active.iter().filter(|(_, alert)| alert.state != AlertState::Inactive) {
            let mut builder = labels.to_builder();
            builder.set(ALERT_NAME, name);
            builder.set(METRIC_NAME, ALERTS_FOR_STATE);
            rows.push((builder.build(), alert.active_at.div_euclid(1000) as f64));
            builder.set(METRIC_NAME, ALERTS);
            builder.set(ALERT_STATE, alert.state.as_str());
            rows.push((builder.build(), 1.0));
        }
        rows
    }

    /// Returns the alerts to send at `now` and marks them as sent.
    pub fn notices(
        &mut self,
        now: i64,
        resend_delay_ms: i64,
        interval_ms: i64,
        generator_url: &str,
    ) -> Vec<notifier::Alert> {
        let mut notices = Vec::new();
        for (labels, alert) in &mut self.active {
            if !resend_needed(alert, now, resend_delay_ms) {
                continue;
            }
            alert.last_sent_at = Some(now);
            // Two evaluations or deliveries may fail before the Alertmanager resolves it.
            let valid_until = now + 4 * interval_ms.max(resend_delay_ms);
            notices.push(notifier::Alert {
                labels: labels.clone(),
                annotations: alert.annotations.clone(),
                starts_at: Timestamp(alert.fired_at.unwrap_or(alert.active_at)),
                ends_at: Timestamp(alert.resolved_at.unwrap_or(valid_until)),
                generator_url: generator_url.to_owned(),
            });
        }
        notices
    }

    /// Restores since when alerts were pending in the last run. `known` has the newest sample of each of the rule's
    /// `ALERTS_FOR_STATE` series, by labels without the name.
    pub fn restore(&mut self, now: i64, known: &HashMap<Labels, Sample>, hold_ms: i64, grace_ms: i64) {
        for (labels, alert) in &mut self.active {
            let Some(sample) = known.get(labels).filter(|sample| !is_stale(sample.value)) else { continue };
            let down_at = sample.timestamp.0;
            let active_at = sample.value as i64 * 1000;
            let remaining = hold_ms - (down_at - active_at);
            alert.active_at = if remaining <= 0 {
                // It fired when the process ended, and fires again with the next evaluation.
                active_at
            } else if remaining < grace_ms {
                now + grace_ms - hold_ms
            } else {
                active_at + (now - down_at)
            };
        }
    }

    /// Moves all times by the change of the wall clock.
    pub fn shift(&mut self, ms: i64) {
        for alert in self.active.values_mut() {
            alert.active_at += ms;
            for time in
                [&mut alert.fired_at, &mut alert.resolved_at, &mut alert.last_sent_at, &mut alert.keep_firing_since]
            {
                *time = time.map(|time| time + ms);
            }
        }
    }

    /// Returns the highest state of any alert.
    pub fn state(&self) -> AlertState {
        self.active.values().map(|alert| alert.state).max().unwrap_or(AlertState::Inactive)
    }
}
