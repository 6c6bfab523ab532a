//! Which core scrapes a target: a consistent ring with bounded load, weighted by what targets cost.
//!
//! The idea is that of consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016): a target goes to
//! the first core behind it on the ring that is not overloaded.
//!
//! Invariants:
//!   * a target keeps its core for as long as it is there: its history lies on that core
//!   * a new target never goes to a core with more than [`LOAD_MAX`] times the average load, itself counted

use crate::target::TargetId;
use std::collections::HashMap;
use xxhash_rust::xxh64::xxh64;

/// Places of one core on the ring.
const VIRTUAL_NODES: u64 = 128;
/// How far above the average a core may be loaded.
const LOAD_MAX: f64 = 1.15;

/// Who is where.
#[derive(Debug)]
pub struct Placement {
    /// Place on the ring and core, sorted.
    ring: Vec<(u64, usize)>,
    /// Core and weight of every target.
    placed: HashMap<TargetId, (usize, f64)>,
    load: Vec<f64>,
    /// Cost of targets as far as it is known, in any unit.
    costs: HashMap<TargetId, f64>,
    cost_average: f64,
}

impl Placement {
    pub fn new(cores: usize) -> Placement {
        assert!(cores > 0, "there is a core");
        let places = |core: usize| {
            (0..VIRTUAL_NODES).map(move |node| (xxh64(&[core as u64, node].map(u64::to_le_bytes).concat(), 0), core))
        };
        let mut ring: Vec<(u64, usize)> = (0..cores).flat_map(places).collect();
        ring.sort_unstable();
        Placement { ring, placed: HashMap::new(), load: vec![0.0; cores], costs: HashMap::new(), cost_average: 1.0 }
    }

    /// What targets have been seen to cost; weighs those that are placed from now on.
    pub fn set_costs(&mut self, costs: HashMap<TargetId, f64>) {
        let good: Vec<f64> = costs.values().copied().filter(|cost| cost.is_finite() && *cost > 0.0).collect();
        if !good.is_empty() {
            self.cost_average = good.iter().sum::<f64>() / good.len() as f64;
        }
        self.costs = costs;
    }

    /// The core of a target that is placed.
    pub fn core_of(&self, id: TargetId) -> Option<usize> {
        self.placed.get(&id).map(|(core, _)| *core)
    }

    /// Places a target and returns its core; one that is placed stays.
    pub fn place(&mut self, id: TargetId) -> usize {
        if let Some(core) = self.core_of(id) {
            return core;
        }
        let cost = self.costs.get(&id).copied().filter(|cost| cost.is_finite() && *cost > 0.0);
        let weight = cost.unwrap_or(self.cost_average) / self.cost_average;
        let bound = LOAD_MAX * (self.load.iter().sum::<f64>() + weight) / self.load.len() as f64;
        // Hashed once more, so that the ring and the scrape phase do not share their bits.
        let start = self.ring.partition_point(|(place, _)| *place < xxh64(&id.0.to_le_bytes(), 1));
        let (behind, before) = self.ring.split_at(start);
        let mut candidates = before.iter().chain(behind).map(|(_, core)| *core);
        let fits = |core: &usize| self.load[*core] + weight <= bound.max(weight);
        let core = candidates.find(fits).unwrap_or_else(|| {
            let least = |one: &usize, other: &usize| self.load[*one].total_cmp(&self.load[*other]);
            (0..self.load.len()).min_by(least).expect("there is a core")
        });
        self.load[core] += weight;
        self.placed.insert(id, (core, weight));
        core
    }

    /// Forgets a target; returns the core it was on.
    pub fn remove(&mut self, id: TargetId) -> Option<usize> {
        let (core, weight) = self.placed.remove(&id)?;
        self.load[core] -= weight;
        Some(core)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u64) -> impl Iterator<Item = TargetId> {
        (0..count).map(|i| TargetId(xxh64(&i.to_le_bytes(), 9)))
    }

    #[test]
    fn load_is_even() {
        for cores in [1, 2, 3, 8, 64] {
            for count in [1_000, 10_000] {
                let mut placement = Placement::new(cores);
                let mut counts = vec![0; cores];
                ids(count).for_each(|id| counts[placement.place(id)] += 1);
                let most = *counts.iter().max().unwrap() as f64;
                assert!(most <= 1.0 + 1.15 * count as f64 / cores as f64, "{count} on {cores}: {counts:?}");
            }
        }
    }

    #[test]
    fn costly_targets_count_for_more() {
        let mut placement = Placement::new(2);
        placement.set_costs(ids(100).enumerate().map(|(i, id)| (id, if i < 10 { 91.0 } else { 1.0 })).collect());
        let mut load = [0.0_f64; 2];
        for (i, id) in ids(100).enumerate() {
            load[placement.place(id)] += if i < 10 { 91.0 } else { 1.0 };
        }
        assert!(load[0].max(load[1]) <= 0.6 * (load[0] + load[1]), "{load:?}");
    }

    #[test]
    fn placed_targets_stay_and_the_ring_is_the_same_everywhere() {
        let (mut one, mut other) = (Placement::new(4), Placement::new(4));
        let first: Vec<usize> = ids(100).map(|id| one.place(id)).collect();
        assert_eq!(first, ids(100).map(|id| other.place(id)).collect::<Vec<_>>());
        for id in ids(5_000) {
            one.place(id);
        }
        assert_eq!(first, ids(100).map(|id| one.place(id)).collect::<Vec<_>>());
        let id = ids(1).next().unwrap();
        assert_eq!(one.remove(id), Some(first[0]));
        assert_eq!((one.remove(id), one.core_of(id)), (None, None));
    }

    #[test]
    fn one_core_more_moves_few() {
        let (mut seven, mut eight) = (Placement::new(7), Placement::new(8));
        let moved = ids(10_000).filter(|id| seven.place(*id) != eight.place(*id)).count();
        // An eighth has to move; bounded load moves some more.
        assert!(moved < 10_000 / 4, "{moved} moved");
    }
}
