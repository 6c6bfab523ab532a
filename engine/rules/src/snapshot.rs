//! An immutable copy of the state of all rules, for the API and the pages.

use crate::alert::AlertState;
use crate::stats::Counters;
use series::Labels;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// All groups, sorted by file and name.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub groups: Vec<Arc<GroupView>>,
}

#[derive(Clone, Debug)]
pub struct GroupView {
    pub name: String,
    pub file: PathBuf,
    pub interval: Duration,
    /// 0 is no limit.
    pub limit: usize,
    pub rules: Vec<RuleView>,
    /// Duration of the last evaluation.
    pub evaluation_time: Duration,
    /// Start of the last evaluation in Unix milliseconds; None before the first.
    pub last_evaluation: Option<i64>,
    /// The newest evaluations, oldest first.
    pub evaluations: Vec<Evaluation>,
    pub counters: Counters,
}

/// When an evaluation of a group began, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evaluation {
    pub at_ms: i64,
    pub took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Unknown,
    Good,
    Bad,
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Good => "ok",
            Health::Bad => "err",
        }
    }
}

#[derive(Clone, Debug)]
pub struct RuleView {
    pub name: String,
    /// The expression.
    pub query: String,
    /// Before templates.
    pub labels: Labels,
    pub health: Health,
    pub last_error: Option<String>,
    pub evaluation_time: Duration,
    /// Unix milliseconds; None before the first.
    pub last_evaluation: Option<i64>,
    pub kind: RuleKind,
}

#[derive(Clone, Debug)]
pub enum RuleKind {
    Recording,
    Alerting {
        /// The highest state of its alerts.
        state: AlertState,
        /// Time for which an alert is pending.
        hold: Duration,
        keep_firing: Duration,
        /// Before templates.
        annotations: Labels,
        /// Pending and firing alerts, sorted by labels.
        alerts: Vec<AlertView>,
    },
}

#[derive(Clone, Debug)]
pub struct AlertView {
    pub labels: Labels,
    pub annotations: Labels,
    pub state: AlertState,
    /// Unix milliseconds.
    pub active_at: i64,
    pub keep_firing_since: Option<i64>,
    pub value: f64,
}
