//! What an operator should know now, since when, and how many clients listen.

use crate::answer::rfc3339_of;
use crate::metrics_writer::MetricsWriter;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Notification {
    pub text: &'static str,
    pub date: String,
    pub active: bool,
}

/// What was to know when somebody last looked, since when, and who listens.
#[derive(Debug, Default)]
pub(crate) struct ActiveNotifications {
    since: Mutex<BTreeMap<&'static str, SystemTime>>,
    pub subscribers: AtomicUsize,
    pub sent: AtomicU64,
}

impl ActiveNotifications {
    /// Takes note of what is to know now, and tells it with the time since when.
    pub fn update(&self, texts: &[&'static str]) -> Vec<Notification> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|text, _| texts.contains(text));
        for text in texts {
            since.entry(text).or_insert_with(SystemTime::now);
        }
        since.iter().map(|(text, since)| Notification { text, date: rfc3339_of(*since), active: true }).collect()
    }

    pub fn write(&self, writer: &mut MetricsWriter) {
        let subscribers = self.subscribers.load(Ordering::Relaxed) as f64;
        writer.gauge(
            "prometheus_api_notification_active_subscribers",
            "Clients that listen to notifications.",
            subscribers,
        );
        let sent = self.sent.load(Ordering::Relaxed) as f64;
        writer.counter("prometheus_api_notification_updates_sent_total", "Notifications sent to listeners.", sent);
        let help = "Always 0: a slow listener gets what holds when it reads again.";
        writer.counter("prometheus_api_notification_updates_dropped_total", help, 0.0);
    }
}
