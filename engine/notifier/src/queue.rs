//! The queue of one Alertmanager: a state machine without I/O, whose clock is an argument.
//!
//! Invariants:
//!   * at most `capacity` alerts are queued; a newer one drops the oldest, which is counted
//!   * an alert is queued in its newest state only: an alert with the same labels, start and phase replaces a queued one.
//!     Firing and resolved are two phases and are sent in this order
//!   * every alert that was pushed was sent or dropped (both counted), replaced by its newer state, or is still queued

use crate::Alert;
use series::{Labels, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Number of attempts after which an alert is dropped.
pub const TRIES_MAX: u32 = 3;

/// Identifies an alert and its phase.
type Key = (Labels, Timestamp, bool);

/// An alert in the queue or in a batch.
#[derive(Clone, Debug)]
pub struct QueuedAlert {
    pub alert: Arc<Alert>,
    /// Position in the queue; lower is older.
    position: u64,
    tries: u32,
    is_resolved: bool,
}

impl QueuedAlert {
    fn key(&self) -> Key {
        (self.alert.labels.clone(), self.alert.starts_at, self.is_resolved)
    }
}

/// Counters of alerts by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted by the Alertmanager.
    pub sent: u64,
    /// Not accepted; counted once for each attempt.
    pub errors: u64,
    /// Dropped for newer ones, after too many attempts, or at the end of the queue.
    pub dropped: u64,
    /// Replaced by a newer state before they were sent.
    pub replaced: u64,
}

/// Outcome of sending a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    Sent,
    /// A retry may succeed.
    Failed,
    /// A retry would fail again.
    Refused,
}

#[derive(Debug)]
pub struct Queue {
    capacity: usize,
    batch_max: usize,
    waiting: BTreeMap<u64, QueuedAlert>,
    places: HashMap<Key, u64>,
    position_next: u64,
    counts: Counts,
}

impl Queue {
    pub fn new(capacity: usize, batch_max: usize) -> Queue {
        Queue {
            capacity,
            batch_max: batch_max.max(1),
            waiting: BTreeMap::new(),
            places: HashMap::new(),
            position_next: 0,
            counts: Counts::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Queues alerts. Returns how many older ones were dropped for them.
    pub fn push(&mut self, alerts: impl IntoIterator<Item = Arc<Alert>>, now: Timestamp) -> usize {
        let mut dropped = 0;
        for alert in alerts {
            let is_resolved = alert.is_resolved(now);
            let mut waiting = QueuedAlert { alert, position: self.position_next, tries: 0, is_resolved };
            if let Some(position) = self.places.get(&waiting.key()) {
                waiting.position = *position;
                self.waiting.insert(*position, waiting);
                self.counts.replaced += 1;
            } else {
                self.position_next += 1;
                dropped += self.insert(waiting);
            }
        }
        dropped
    }

    /// Returns the next batch, oldest first; empty if none is queued. The caller returns each batch by [`Queue::done`].
    pub fn next_batch(&mut self) -> Vec<QueuedAlert> {
        let mut batch = Vec::with_capacity(self.len().min(self.batch_max));
        while batch.len() < self.batch_max
            && let Some((_, waiting)) = self.waiting.pop_first()
        {
            self.places.remove(&waiting.key());
            batch.push(waiting);
        }
        batch
    }

    /// Records the outcome of a batch and queues alerts for a retry at their old positions. Returns how many were dropped.
    pub fn done(&mut self, batch: Vec<QueuedAlert>, outcome: DeliveryOutcome) -> usize {
        let count = batch.len() as u64;
        if outcome == DeliveryOutcome::Sent {
            self.counts.sent += count;
            return 0;
        }
        self.counts.errors += count;
        let mut dropped = 0;
        for mut waiting in batch {
            waiting.tries += 1;
            if outcome == DeliveryOutcome::Refused || waiting.tries >= TRIES_MAX {
                self.counts.dropped += 1;
                dropped += 1;
            } else if self.places.contains_key(&waiting.key()) {
                // A newer state was pushed while this one was being sent.
                self.counts.replaced += 1;
            } else {
                dropped += self.insert(waiting);
            }
        }
        dropped
    }

    /// Drops all queued alerts. Returns how many there were.
    pub fn drop_all(&mut self) -> usize {
        let dropped = self.waiting.len();
        self.counts.dropped += dropped as u64;
        self.waiting.clear();
        self.places.clear();
        dropped
    }

    /// Inserts one at its position, and drops the oldest beyond the capacity.
    fn insert(&mut self, waiting: QueuedAlert) -> usize {
        self.places.insert(waiting.key(), waiting.position);
        self.waiting.insert(waiting.position, waiting);
        let mut dropped = 0;
        while self.waiting.len() > self.capacity
            && let Some((_, oldest)) = self.waiting.pop_first()
        {
            self.places.remove(&oldest.key());
            dropped += 1;
        }
        self.counts.dropped += dropped as u64;
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn alert(number: u64, is_resolved: bool, version: &str) -> Arc<Alert> {
        Arc::new(Alert {
            labels: Labels::from_pairs([("alertname", format!("a{number}"))]),
            annotations: Labels::from_pairs([("version", version)]),
            starts_at: Timestamp(1),
            ends_at: NOW.plus_ms(if is_resolved { 0 } else { 60_000 }),
            generator_url: String::new(),
        })
    }

    fn firing(numbers: std::ops::Range<u64>) -> Vec<Arc<Alert>> {
        numbers.map(|number| alert(number, false, "1")).collect()
    }

    /// Name, phase and version of each alert of a batch.
    fn shown(batch: &[QueuedAlert]) -> Vec<String> {
        let show = |waiting: &QueuedAlert| {
            let phase = if waiting.is_resolved { "resolved" } else { "firing" };
            let alert = &waiting.alert;
            format!("{} {phase} {}", alert.labels.get("alertname").unwrap(), alert.annotations.get("version").unwrap())
        };
        batch.iter().map(show).collect()
    }

    #[test]
    fn oldest_go_first_and_are_counted() {
        let mut queue = Queue::new(3, 2);
        assert_eq!(queue.push(firing(0..5), NOW), 2);
        assert_eq!(shown(&queue.next_batch()), ["a2 firing 1", "a3 firing 1"]);
        assert_eq!(shown(&queue.next_batch()), ["a4 firing 1"]);
        assert!(queue.next_batch().is_empty());
        assert_eq!(queue.counts(), Counts { dropped: 2, ..Counts::default() });
    }

    #[test]
    fn newest_state_waits_in_the_place_of_the_older() {
        let mut queue = Queue::new(10, 10);
        queue.push([alert(0, false, "1"), alert(1, false, "1"), alert(0, false, "2"), alert(0, true, "3")], NOW);
        assert_eq!(shown(&queue.next_batch()), ["a0 firing 2", "a1 firing 1", "a0 resolved 3"]);
        assert_eq!(queue.counts().replaced, 1);
    }

    #[test]
    fn failed_batch_keeps_its_place_but_not_against_newer_states() {
        let mut queue = Queue::new(10, 2);
        queue.push(firing(0..3), NOW);
        let batch = queue.next_batch();
        queue.push([alert(1, false, "2")], NOW);
        assert_eq!(queue.done(batch, DeliveryOutcome::Failed), 0);
        assert_eq!(shown(&queue.next_batch()), ["a0 firing 1", "a2 firing 1"]);
        assert_eq!(shown(&queue.next_batch()), ["a1 firing 2"]);
        assert_eq!(queue.counts(), Counts { errors: 2, replaced: 1, ..Counts::default() });
    }

    #[test]
    fn alerts_are_dropped_after_too_many_failures_or_a_refusal() {
        let mut queue = Queue::new(10, 10);
        queue.push(firing(0..2), NOW);
        for tries in 1..=TRIES_MAX {
            let batch = queue.next_batch();
            assert_eq!(queue.done(batch, DeliveryOutcome::Failed), if tries == TRIES_MAX { 2 } else { 0 });
        }
        queue.push(firing(2..3), NOW);
        let batch = queue.next_batch();
        assert_eq!(queue.done(batch, DeliveryOutcome::Refused), 1);
        assert!(queue.is_empty());
        assert_eq!(queue.counts(), Counts { errors: 7, dropped: 3, ..Counts::default() });
    }

    #[test]
    fn full_queue_drops_what_comes_back() {
        let mut queue = Queue::new(2, 2);
        queue.push(firing(0..2), NOW);
        let batch = queue.next_batch();
        queue.push(firing(2..4), NOW);
        assert_eq!(queue.done(batch, DeliveryOutcome::Failed), 2);
        assert_eq!(shown(&queue.next_batch()), ["a2 firing 1", "a3 firing 1"]);
    }

    #[test]
    fn queue_without_room_drops_all() {
        let mut queue = Queue::new(0, 2);
        assert_eq!(queue.push(firing(0..3), NOW), 3);
        assert!(queue.is_empty());
    }

    /// With Alertmanagers that hang, fail, refuse and accept at random, no alert is lost without being counted, and an alert
    /// is never sent in an older state than before.
    #[test]
    fn every_alert_is_accounted_for() {
        for seed in 1..=200_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let capacity = 1 + next(30) as usize;
            let mut queue = Queue::new(capacity, 1 + next(10) as usize);
            let (mut pushed, mut under_way, mut version) = (0, None, 0_u64);
            let mut newest_sent: HashMap<Key, u64> = HashMap::new();
            for _ in 0..500 {
                if next(2) == 0 {
                    let count = next(8);
                    let alerts: Vec<_> = (0..count)
                        .map(|_| {
                            version += 1;
                            alert(next(40), next(4) == 0, &version.to_string())
                        })
                        .collect();
                    pushed += count;
                    queue.push(alerts, NOW);
                }
                match under_way.take() {
                    None => under_way = Some(queue.next_batch()),
                    // It hangs.
                    Some(batch) if next(3) == 0 => under_way = Some(batch),
                    Some(batch) => {
                        let outcome = [DeliveryOutcome::Sent, DeliveryOutcome::Failed, DeliveryOutcome::Refused]
                            [next(3) as usize];
                        if outcome == DeliveryOutcome::Sent {
                            for waiting in &batch {
                                let version = waiting.alert.annotations.get("version").unwrap().parse().unwrap();
                                let before = newest_sent.insert(waiting.key(), version);
                                assert!(before.is_none_or(|before| before < version), "seed {seed}");
                            }
                        }
                        queue.done(batch, outcome);
                    }
                }
                assert!(queue.len() <= capacity, "seed {seed}");
                assert_eq!(queue.places.len(), queue.waiting.len(), "seed {seed}");
                let Counts { sent, dropped, replaced, .. } = queue.counts();
                let held = queue.len() + under_way.as_ref().map_or(0, Vec::len);
                assert_eq!(pushed, sent + dropped + replaced + held as u64, "seed {seed}");
            }
        }
    }
}
