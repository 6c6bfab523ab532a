//! The choice of a shard for each target: consistent hashing with bounded load, weighted by the cost of targets.
//!
//! Source: consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016). A target is placed on the first
//! shard after it on the ring that is not overloaded.
//!
//! Invariants:
//!   * a target stays on its shard for as long as it exists, because its head is there
//!   * a new target is never placed on a shard with more than [`LOAD_MAX`] times the average load, the target included

use crate::target::TargetId;
use std::collections::HashMap;
use xxhash_rust::xxh64::xxh64;

/// Number of points of one shard on the ring.
const VIRTUAL_NODES: u64 = 128;
/// Largest load of a shard, as a multiple of the average.
const LOAD_MAX: f64 = 1.15;

/// The placement of all targets.
#[derive(Debug)]
pub struct Placement {
    /// Points on the ring with their shards, sorted.
    ring: Vec<(u64, usize)>,
    /// Shard and weight of every target.
    placed: HashMap<TargetId, (usize, f64)>,
    load: Vec<f64>,
    /// Measured cost of targets, in an arbitrary unit.
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

    /// Sets the measured cost of targets, which weighs those that are placed from now on.
    pub fn set_costs(&mut self, costs: HashMap<TargetId, f64>) {
        let good: Vec<f64> = costs.values().copied().filter(|cost| cost.is_finite() && *cost > 0.0).collect();
        if !good.is_empty() {
            self.cost_average = good.iter().sum::<f64>() / good.len() as f64;
        }
        self.costs = costs;
    }

    /// Returns the shard of a target that is placed.
    pub fn core_of(&self, id: TargetId) -> Option<usize> {
        self.placed.get(&id).map(|(core, _)| *core)
    }

    /// Places a target and returns its shard. A target that is placed already stays where it is.
    pub fn place(&mut self, id: TargetId) -> usize {
        if let Some(core) = self.core_of(id) {
            return core;
        }
        let cost = self.costs.get(&id).copied().filter(|cost| cost.is_finite() && *cost > 0.0);
        let weight = cost.unwrap_or(self.cost_average) / self.cost_average;
        let bound = LOAD_MAX * (self.load.iter().sum::<f64>() + weight) / self.load.len() as f64;
        // Hashed again, so that ring and scrape phase depend on different bits.
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

    /// Removes a target. Returns the shard it was on.
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
        // An eighth has to move, and some more because of the bounded load.
        assert!(moved < 10_000 / 4, "{moved} moved");
    }
}
