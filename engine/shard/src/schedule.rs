//! When each target is due: phases, deadlines, missed ticks. A plain state machine; the runtime carries it out.
//!
//! A target's due times are `phase + k * interval` on the wall clock at the moment it was added, so they survive a
//! restart, and run on the monotonic clock from then on, so a clock step moves no scrape. Phases lie on a grid of
//! [`PHASE_GRID_US`]: targets due together are served by one wake of the core, and because a phase is fixed, the grid
//! costs no jitter.
//!
//! Invariants:
//!   * a target is never started while it is in flight
//!   * at most [`STARTS_MAX`] targets share a phase, as long as their cell of the grid has room for the others
//!   * a tick that passes without a start is counted once, with its reason
//!   * all times are microseconds of the monotonic clock handed in, which never goes back

use crate::status::Missed;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Distance of two phases. 50 ms keeps the wakes of a core at 20 per second, and what answers bring, whatever the number
/// of its targets.
pub const PHASE_GRID_US: u64 = 50_000;
/// So many scrapes start together. They occupy the core, and on a small machine its CPU, for a few milliseconds, in which
/// queries wait.
const STARTS_MAX: usize = 16;
/// What is due beyond that moves so far, once and for good: it stays within its cell of the grid.
const SHIFT_US: u64 = PHASE_GRID_US / 10;
const SHIFTS_MAX: u8 = 9;

/// Index of a target within its core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u32);

/// What the runtime has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Start a scrape that was due at `due_us`; it must end by `deadline_us`.
    Start { slot: Slot, due_us: u64, deadline_us: u64 },
    /// The deadline of the scrape in flight has passed: end it. The schedule counts it as ended: the runtime does not
    /// report it with [`Schedule::finished`].
    Expire { slot: Slot },
    /// `ticks` due times passed without a scrape.
    Missed { slot: Slot, reason: Missed, ticks: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Event {
    at_us: u64,
    slot: u32,
    generation: u32,
    kind: EventKind,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum EventKind {
    /// The number tells which scrape of the target the deadline belongs to. Before `Due`: a scrape that may last to
    /// the next tick ends before that tick starts the next one.
    Deadline(u32),
    Due,
}

#[derive(Clone, Debug)]
struct Entry {
    interval_us: u64,
    timeout_us: u64,
    generation: u32,
    /// Counts starts, so that the deadline of an ended scrape is recognised.
    scrape: u32,
    in_flight: bool,
    /// Of the scrape in flight.
    deadline_us: u64,
    /// How often its phase has moved by [`SHIFT_US`].
    shifts: u8,
}

/// All targets of one core by time.
#[derive(Debug, Default)]
pub struct Schedule {
    events: BinaryHeap<Reverse<Event>>,
    entries: Vec<Option<Entry>>,
    generation: u32,
}

/// First due time after `now` of a target with this hash, as microseconds from now in `(0, interval]`.
///
/// `seed` differs between the members of a redundant pair, so that they do not scrape a target at the same moment.
pub fn first_due_in_us(hash: u64, seed: u64, interval_us: u64, wall_now_us: u64) -> u64 {
    let phase = (hash ^ seed) % interval_us;
    let phase = if interval_us.is_multiple_of(PHASE_GRID_US) { phase - phase % PHASE_GRID_US } else { phase };
    let into = wall_now_us % interval_us;
    if phase > into { phase - into } else { phase + interval_us - into }
}

impl Schedule {
    /// Adds a target whose first scrape is due at `due_us`. The slot must be free.
    pub fn add(&mut self, slot: Slot, due_us: u64, interval_us: u64, timeout_us: u64) {
        let index = slot.0 as usize;
        if self.entries.len() <= index {
            self.entries.resize(index + 1, None);
        }
        assert!(self.entries[index].is_none(), "slot {index} is free");
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        self.entries[index] =
            Some(Entry { interval_us, timeout_us, generation, scrape: 0, in_flight: false, deadline_us: 0, shifts: 0 });
        self.events.push(Reverse(Event { at_us: due_us, slot: slot.0, generation, kind: EventKind::Due }));
    }

    /// Gives a target another interval and timeout, the next scrape due at `due_us`. A scrape in flight goes on under
    /// its old deadline.
    pub fn change(&mut self, slot: Slot, due_us: u64, interval_us: u64, timeout_us: u64) {
        let Some(entry) = self.entry(slot) else { return };
        let old = entry.clone();
        self.remove(slot);
        self.add(slot, due_us, interval_us, timeout_us);
        let generation = self.generation;
        if old.in_flight {
            let entry = self.entry(slot).expect("just added");
            (entry.scrape, entry.in_flight, entry.deadline_us) = (old.scrape, true, old.deadline_us);
            let kind = EventKind::Deadline(old.scrape);
            self.events.push(Reverse(Event { at_us: old.deadline_us, slot: slot.0, generation, kind }));
        }
    }

    /// Forgets a target; its pending events die with it.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(slot.0 as usize) {
            *entry = None;
        }
    }

    /// The scrape in flight has ended, well or badly.
    pub fn finished(&mut self, slot: Slot) {
        if let Some(entry) = self.entry(slot) {
            entry.in_flight = false;
        }
    }

    /// When the next event is, if there is one.
    pub fn next_us(&self) -> Option<u64> {
        self.events.peek().map(|event| event.0.at_us)
    }

    /// Takes every event up to `now_us` and says what follows from it.
    pub fn step(&mut self, now_us: u64, actions: &mut Vec<Action>) {
        // Since when starts are counted that count as due together, and how many there are.
        let (mut together_us, mut starts) = (0, 0);
        while let Some(&Reverse(event)) = self.events.peek() {
            if event.at_us > now_us {
                return;
            }
            self.events.pop();
            let slot = Slot(event.slot);
            let Some(entry) = self.entry(slot).filter(|entry| entry.generation == event.generation) else { continue };
            match event.kind {
                EventKind::Deadline(scrape) => {
                    if entry.in_flight && entry.scrape == scrape {
                        entry.in_flight = false;
                        actions.push(Action::Expire { slot });
                    }
                }
                EventKind::Due => {
                    if event.at_us >= together_us + SHIFT_US / 2 {
                        (together_us, starts) = (event.at_us, 0);
                    }
                    if starts >= STARTS_MAX && entry.shifts < SHIFTS_MAX {
                        entry.shifts += 1;
                        self.events.push(Reverse(Event { at_us: event.at_us + SHIFT_US, ..event }));
                        continue;
                    }
                    // Late by whole intervals (a stall, a suspended machine): those ticks are gone, no burst makes up
                    // for them. The newest one is still worth a scrape.
                    let gone = (now_us - event.at_us) / entry.interval_us;
                    if gone > 0 {
                        actions.push(Action::Missed { slot, reason: Missed::CoreLate, ticks: gone });
                    }
                    let due_us = event.at_us + gone * entry.interval_us;
                    let next = Event { at_us: due_us + entry.interval_us, ..event };
                    if entry.in_flight {
                        actions.push(Action::Missed { slot, reason: Missed::InFlight, ticks: 1 });
                    } else {
                        starts += 1;
                        entry.in_flight = true;
                        entry.scrape = entry.scrape.wrapping_add(1);
                        // Up to the grid, so that deadlines cost no wakes of their own, but never past the next tick.
                        let allowed_us = (now_us - due_us + entry.timeout_us).next_multiple_of(PHASE_GRID_US);
                        let deadline_us = due_us + allowed_us.min(entry.interval_us);
                        entry.deadline_us = deadline_us;
                        let kind = EventKind::Deadline(entry.scrape);
                        self.events.push(Reverse(Event { at_us: deadline_us, kind, ..event }));
                        actions.push(Action::Start { slot, due_us, deadline_us });
                    }
                    self.events.push(Reverse(next));
                }
            }
        }
    }

    fn entry(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.entries.get_mut(slot.0 as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn step(schedule: &mut Schedule, now_us: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        schedule.step(now_us, &mut actions);
        actions
    }

    fn start(slot: u32, due_us: u64, deadline_us: u64) -> Action {
        Action::Start { slot: Slot(slot), due_us, deadline_us }
    }

    #[test]
    fn phase_is_fixed_to_the_wall_clock() {
        let interval = 15 * S;
        for hash in [0, 7, u64::MAX, 0x1234_5678_9abc] {
            let due = |now| now + first_due_in_us(hash, 42, interval, now);
            let first = due(1_000 * S);
            assert!(first > 1_000 * S && first <= 1_015 * S);
            assert_eq!(due(first - 1), first, "the tick itself is met from just before");
            assert_eq!(due(first), first + interval, "and is past when it is now");
            assert_eq!(first % PHASE_GRID_US, 0);
        }
        assert_ne!(first_due_in_us(9 << 30, 1, interval, 0), first_due_in_us(9 << 30, 1 << 40, interval, 0));
    }

    #[test]
    fn crowded_phases_are_spread_once() {
        let mut schedule = Schedule::default();
        (0..100).for_each(|slot| schedule.add(Slot(slot), S, S, S));
        let mut rounds = Vec::new();
        for round in 1..4 {
            let starts: Vec<usize> = (0..10)
                .map(|shift| {
                    let actions = step(&mut schedule, round * S + shift * SHIFT_US);
                    let started = actions.iter().filter_map(|action| match action {
                        Action::Start { slot, due_us, .. } => Some((*slot, *due_us)),
                        _ => None,
                    });
                    let started: Vec<_> = started.collect();
                    for (slot, due_us) in &started {
                        assert_eq!(*due_us, round * S + shift * SHIFT_US, "on time");
                        schedule.finished(*slot);
                    }
                    started.len()
                })
                .collect();
            rounds.push(starts);
        }
        assert_eq!(rounds, vec![vec![16, 16, 16, 16, 16, 16, 4, 0, 0, 0]; 3]);
    }

    #[test]
    fn a_full_cell_of_the_grid_starts_all() {
        let mut schedule = Schedule::default();
        (0..1000).for_each(|slot| schedule.add(Slot(slot), S, S, S));
        let started = |schedule: &mut Schedule, now_us| {
            let actions = step(schedule, now_us);
            actions.iter().filter(|action| matches!(action, Action::Start { .. })).count()
        };
        let starts: Vec<usize> = (0..11).map(|shift| started(&mut schedule, S + shift * SHIFT_US)).collect();
        assert_eq!(starts, [16, 16, 16, 16, 16, 16, 16, 16, 16, 856, 0]);
        assert_eq!(started(&mut schedule, S + PHASE_GRID_US), 0);
    }

    #[test]
    fn interval_off_the_grid_keeps_its_phase() {
        assert_eq!(first_due_in_us(12_345, 0, 30_001, 0), 12_345);
    }

    #[test]
    fn scrapes_follow_each_other_at_the_interval() {
        let mut schedule = Schedule::default();
        schedule.add(Slot(0), 5 * S, 10 * S, 2 * S);
        assert_eq!(step(&mut schedule, 5 * S - 1), []);
        assert_eq!(step(&mut schedule, 5 * S), [start(0, 5 * S, 7 * S)]);
        schedule.finished(Slot(0));
        assert_eq!(step(&mut schedule, 7 * S), [], "the deadline of an ended scrape says nothing");
        assert_eq!(step(&mut schedule, 15 * S + 3), [start(0, 15 * S, 17 * S + PHASE_GRID_US)]);
        assert_eq!(step(&mut schedule, 17 * S + PHASE_GRID_US), [Action::Expire { slot: Slot(0) }]);
    }

    #[test]
    fn timeout_as_long_as_the_interval_ends_at_the_next_tick() {
        let mut schedule = Schedule::default();
        schedule.add(Slot(0), S, S, S);
        assert_eq!(step(&mut schedule, S + 10), [start(0, S, 2 * S)]);
        assert_eq!(step(&mut schedule, 2 * S), [Action::Expire { slot: Slot(0) }, start(0, 2 * S, 3 * S)]);
    }

    #[test]
    fn stall_skips_whole_intervals_without_a_burst() {
        let mut schedule = Schedule::default();
        schedule.add(Slot(0), S, S, S / 2);
        assert_eq!(
            step(&mut schedule, 4 * S + 5),
            [
                Action::Missed { slot: Slot(0), reason: Missed::CoreLate, ticks: 3 },
                start(0, 4 * S, 4 * S + S / 2 + PHASE_GRID_US)
            ]
        );
        assert_eq!(schedule.next_us(), Some(4 * S + S / 2 + PHASE_GRID_US));
    }

    #[test]
    fn removed_target_and_its_successor_do_not_mix() {
        let mut schedule = Schedule::default();
        schedule.add(Slot(0), S, S, S);
        step(&mut schedule, S);
        schedule.remove(Slot(0));
        schedule.add(Slot(0), 10 * S, 5 * S, S);
        assert_eq!(step(&mut schedule, 9 * S), []);
        assert_eq!(step(&mut schedule, 10 * S), [start(0, 10 * S, 11 * S)]);
    }

    #[test]
    fn change_keeps_the_scrape_in_flight_and_its_deadline() {
        let mut schedule = Schedule::default();
        schedule.add(Slot(0), S, 10 * S, 3 * S);
        step(&mut schedule, S);
        schedule.change(Slot(0), 2 * S, 2 * S, S);
        assert_eq!(step(&mut schedule, 2 * S), [Action::Missed { slot: Slot(0), reason: Missed::InFlight, ticks: 1 }]);
        assert_eq!(step(&mut schedule, 4 * S)[0], Action::Expire { slot: Slot(0) });
        schedule.finished(Slot(0));
        assert_eq!(step(&mut schedule, 6 * S), [start(0, 6 * S, 7 * S)]);
    }

    /// Random adds, ends and steps against the two promises: no overlap, every tick is accounted for.
    #[test]
    fn every_tick_is_a_scrape_or_is_counted() {
        let mut seed = 1u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        let mut schedule = Schedule::default();
        let interval = 10_000;
        let first: Vec<u64> = (0..50).map(|_| 1 + random(interval)).collect();
        for (slot, due) in first.iter().enumerate() {
            schedule.add(Slot(slot as u32), *due, interval, 9_000);
        }
        let (mut in_flight, mut ticks) = (vec![false; 50], vec![0u64; 50]);
        let mut now = 0;
        for _ in 0..20_000 {
            let stall = random(100) == 0;
            now += random(if stall { 50_000 } else { 500 });
            for action in step(&mut schedule, now) {
                match action {
                    Action::Start { slot, due_us, .. } => {
                        assert!(!std::mem::replace(&mut in_flight[slot.0 as usize], true), "no overlap");
                        assert!(due_us <= now && now - due_us < interval);
                        ticks[slot.0 as usize] += 1;
                    }
                    Action::Missed { slot, ticks: missed, .. } => ticks[slot.0 as usize] += missed,
                    Action::Expire { slot } => {
                        assert!(std::mem::replace(&mut in_flight[slot.0 as usize], false));
                    }
                }
            }
            let slot = random(50) as u32;
            in_flight[slot as usize] = false;
            schedule.finished(Slot(slot));
        }
        for (slot, due) in first.iter().enumerate() {
            assert_eq!(ticks[slot], (now - due) / interval + 1, "target {slot}");
        }
    }
}
