//! The members of a fleet, and the owners of targets.
//!
//! Owners are chosen by rendezvous hashing (Thaler and Ravishankar, 1998): every member has a score for a target from a
//! hash of both, and the highest wins. Scores are weighted as by Schindelhauer and Schomaker (2005). A ring with
//! infinitely many virtual nodes per member would divide in the same way; so there is no number of nodes to configure. The bound of load is that of
//! Mirrokni, Thorup and Zadimoghaddam (2016) over these scores instead of a ring.
//!
//! Invariants:
//!   * names are unique, members are in the order of their names
//!   * a list of owners contains a member once, and as many members as `replicas` and the fleet allow

use md5::{Digest, Md5};
use xxhash_rust::xxh64::xxh64;

/// Largest number of members. More are an error of the list, and the last ones are ignored.
pub const MEMBERS_MAX: usize = 1_000;
/// Largest weight; the smallest is its inverse. A mistaken weight cannot attract all targets.
const WEIGHT_MAX: f64 = 1_000.0;

/// One process of the fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub name: String,
    /// `host:port` at which it serves the other members.
    pub address: String,
    /// Zone; empty: none.
    pub zone: String,
    /// Relative share of targets; the default is 1.
    pub weight: f64,
    /// Its number for `hashmod`, if it is not given by the order of names.
    pub shard: Option<u32>,
}

impl Member {
    /// Returns a member with the default weight.
    pub fn named(name: &str) -> Member {
        Member { name: name.to_owned(), address: String::new(), zone: String::new(), weight: 1.0, shard: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rendezvous hashing.
    Ring,
    /// MD5 modulo the number of members, as Prometheus' `hashmod` divides.
    Hashmod,
}

/// Rules of division.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub mode: Mode,
    /// Number of owners of each target.
    pub replicas: usize,
    /// Whether the owners of a target are in different zones, as far as there are enough zones.
    pub zones: bool,
    /// Largest load of a member as a multiple of its share, such as 1.25; `None`: no bound.
    pub load_max: Option<f64>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { mode: Mode::Ring, replicas: 1, zones: false, load_max: None }
    }
}

/// A problem of a list of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Two entries with one name and different addresses. The one with the lower address is used.
    Duplicate { name: String, addresses: Vec<String> },
    /// A weight that is not a positive number, or beyond the bounds.
    Weight { name: String },
    /// More than [`MEMBERS_MAX`].
    TooMany { count: usize },
    /// `shard` numbers that are not 0 to one less than the number of members, each once.
    Shards,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Duplicate { name, addresses } => {
                write!(
                    f,
                    "member {name:?} is listed at {}; the first counts, give the others names",
                    addresses.join(", ")
                )
            }
            Problem::Weight { name } => {
                write!(f, "weight of member {name:?} is not between {} and {WEIGHT_MAX}; corrected", 1.0 / WEIGHT_MAX)
            }
            Problem::TooMany { count } => write!(f, "{count} members listed, {MEMBERS_MAX} are used; divide the fleet"),
            Problem::Shards => {
                f.write_str("shard numbers are not 0, 1, … each once; members are numbered by the order of their names")
            }
        }
    }
}

/// The members and the rules by which they divide.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    members: Vec<Member>,
    /// Hash of the name of each member.
    seeds: Vec<u64>,
    rules: Rules,
    /// Whether all weights are equal, so that scores are compared as integers.
    is_even: bool,
    /// Members by their number for `hashmod`.
    numbered: Vec<usize>,
}

/// Returns the hash key of a target: the values of the labels, joined as by `hashmod`.
pub fn key_of<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    values.into_iter().collect::<Vec<_>>().join(";")
}

impl View {
    /// Returns a view of this list, and the problems of the list. Its order does not matter.
    pub fn new(mut members: Vec<Member>, rules: Rules) -> (View, Vec<Problem>) {
        let mut problems = Vec::new();
        members.sort_by(|one, other| (&one.name, &one.address).cmp(&(&other.name, &other.address)));
        for same in members.chunk_by(|one, other| one.name == other.name) {
            let mut addresses: Vec<String> = same.iter().map(|member| member.address.clone()).collect();
            addresses.dedup();
            if addresses.len() > 1 {
                problems.push(Problem::Duplicate { name: same[0].name.clone(), addresses });
            }
        }
        members.dedup_by(|later, first| later.name == first.name);
        if members.len() > MEMBERS_MAX {
            problems.push(Problem::TooMany { count: members.len() });
            members.truncate(MEMBERS_MAX);
        }
        for member in &mut members {
            if !(1.0 / WEIGHT_MAX..=WEIGHT_MAX).contains(&member.weight) {
                problems.push(Problem::Weight { name: member.name.clone() });
                let is_number = member.weight > 0.0;
                member.weight = if is_number { member.weight.clamp(1.0 / WEIGHT_MAX, WEIGHT_MAX) } else { 1.0 };
            }
        }
        let mut numbered: Vec<usize> = (0..members.len()).collect();
        if members.iter().any(|member| member.shard.is_some()) {
            let number = |index: &usize| members[*index].shard.map_or(usize::MAX, |shard| shard as usize);
            let mut by_number = numbered.clone();
            by_number.sort_by_key(number);
            if by_number.iter().enumerate().all(|(want, index)| number(index) == want) {
                numbered = by_number;
            } else {
                problems.push(Problem::Shards);
            }
        }
        let seeds = members.iter().map(|member| xxh64(member.name.as_bytes(), 0)).collect();
        let is_even = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        (View { members, seeds, rules, is_even, numbered }, problems)
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the index of the member with this name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.members.binary_search_by(|member| member.name.as_str().cmp(name)).ok()
    }

    /// Returns a hash that is equal for members with the same division.
    pub fn fingerprint(&self) -> u64 {
        let mut text = format!("{:?}", self.rules);
        for member in &self.members {
            text += &format!("|{:?} {:?} {} {:?}", member.name, member.zone, member.weight, member.shard);
        }
        xxh64(text.as_bytes(), 0)
    }

    /// Returns the owners of a target; the first is the only owner with one replica. The load is not bounded, see
    /// [`View::divide`].
    pub fn owners(&self, key: &str) -> Vec<usize> {
        match self.rules.mode {
            Mode::Hashmod => self.modulo(key),
            Mode::Ring => self.spread(&self.preferred(key)),
        }
    }

    /// Returns whether a member is among the owners of a target.
    pub fn owns(&self, member: usize, key: &str) -> bool {
        if self.rules.mode == Mode::Ring && self.rules.replicas == 1 {
            return self.best(key) == Some(member);
        }
        self.owners(key).contains(&member)
    }

    /// Returns whether owners depend on all targets, so that [`View::divide`] is needed.
    pub fn is_bounded(&self) -> bool {
        self.rules.mode == Mode::Ring && self.rules.load_max.is_some()
    }

    /// Returns the owners of all targets of a sorted, unique list, within the bound of load if there is one.
    ///
    /// The targets are assigned in the order of their hashes, so that every member with the same list computes the same
    /// result. Each is assigned to its best members below the bound.
    pub fn divide(&self, keys: &[impl AsRef<str>]) -> Vec<Vec<usize>> {
        let Some(load_max) = self.rules.load_max.filter(|_| self.is_bounded()) else {
            return keys.iter().map(|key| self.owners(key.as_ref())).collect();
        };
        let replicas = self.replicas();
        let total = (keys.len() * replicas) as f64;
        let weights: f64 = self.members.iter().map(|member| member.weight).sum();
        let room = |member: &Member| (load_max.max(1.0) * total * member.weight / weights).ceil() as usize;
        let mut room: Vec<usize> = self.members.iter().map(room).collect();
        let mut order: Vec<(u64, usize)> =
            keys.iter().enumerate().map(|(index, key)| (xxh64(key.as_ref().as_bytes(), 1), index)).collect();
        order.sort_unstable();
        let mut owners = vec![Vec::new(); keys.len()];
        for (_, index) in order {
            let preferred = self.preferred(keys[index].as_ref());
            let with_room: Vec<usize> = preferred.iter().copied().filter(|member| room[*member] > 0).collect();
            let mut chosen = self.spread(&with_room);
            // The last targets may find fewer members below the bound than replicas; then the bound is exceeded.
            chosen.extend(preferred.iter().copied().filter(|member| room[*member] == 0));
            chosen.truncate(replicas);
            for member in &chosen {
                room[*member] = room[*member].saturating_sub(1);
            }
            owners[index] = chosen;
        }
        owners
    }

    fn replicas(&self) -> usize {
        self.rules.replicas.clamp(1, self.members.len().max(1))
    }

    /// Returns the member by Prometheus' `hashmod`, and the next ones for further replicas.
    fn modulo(&self, key: &str) -> Vec<usize> {
        if self.members.is_empty() {
            return Vec::new();
        }
        let digest = Md5::digest(key.as_bytes());
        let low = digest[8..].iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let count = self.members.len();
        let first = (low % count as u64) as usize;
        (0..self.replicas()).map(|step| self.numbered[(first + step) % count]).collect()
    }

    /// Returns the hash of a member and a target.
    fn hash(&self, member: usize, key_hash: u64) -> u64 {
        xxh64(&key_hash.to_le_bytes(), self.seeds[member])
    }

    /// Returns the score; greater is better. The hash becomes a number in (0, 1), whose logarithm is divided by the weight.
    fn score(&self, member: usize, key_hash: u64) -> f64 {
        let unit = ((self.hash(member, key_hash) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        unit.ln() / self.members[member].weight
    }

    fn best(&self, key: &str) -> Option<usize> {
        let key_hash = xxh64(key.as_bytes(), 0);
        let all = 0..self.members.len();
        if self.is_even {
            all.max_by_key(|member| (self.hash(*member, key_hash), std::cmp::Reverse(*member)))
        } else {
            let scored = all.map(|member| (self.score(member, key_hash), member));
            scored.max_by(|one, other| one.0.total_cmp(&other.0).then(other.1.cmp(&one.1))).map(|(_, member)| member)
        }
    }

    /// Returns all members, the best first.
    fn preferred(&self, key: &str) -> Vec<usize> {
        let key_hash = xxh64(key.as_bytes(), 0);
        let mut members: Vec<usize> = (0..self.members.len()).collect();
        if self.is_even {
            members.sort_by_cached_key(|member| (std::cmp::Reverse(self.hash(*member, key_hash)), *member));
        } else {
            let scores: Vec<f64> = members.iter().map(|member| self.score(*member, key_hash)).collect();
            members.sort_by(|one, other| scores[*other].total_cmp(&scores[*one]).then(one.cmp(other)));
        }
        members
    }

    /// Returns the first of these, each in a zone of its own as long as there are zones, then the next ones.
    fn spread(&self, preferred: &[usize]) -> Vec<usize> {
        let replicas = self.replicas();
        if !self.rules.zones || replicas == 1 {
            return preferred.iter().copied().take(replicas).collect();
        }
        let zone = |member: usize| self.members[member].zone.as_str();
        let mut chosen: Vec<usize> = Vec::with_capacity(replicas);
        for member in preferred {
            if chosen.len() < replicas && !chosen.iter().any(|other| zone(*other) == zone(*member)) {
                chosen.push(*member);
            }
        }
        for member in preferred {
            if chosen.len() < replicas && !chosen.contains(member) {
                chosen.push(*member);
            }
        }
        chosen
    }
}
