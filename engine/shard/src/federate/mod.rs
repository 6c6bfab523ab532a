//! A stream of newest values: what a request is, and what goes between a core and whoever merges.
//!
//! A request goes through up to three steps. Each core looks for what matches and tells how much that is ([`FederateSummary`]). If
//! series of several targets may be the same, or chunks may hold some that are newest, the cores then tell what they
//! have ([`Claim`]), and one owner is chosen for each. At last every core writes the lines of what it owns, name by
//! name, in pieces.
//!
//! Invariants:
//!   * a core has at most [`PIECES_WAITING_MAX`] pieces of [`PIECE_BYTES`] (and one line) waiting for the merger
//!   * names come in order from each core, so the merger needs one piece of each
//!   * a core keeps places, not values: a value is read when its line is written

pub(crate) mod index;
pub(crate) mod lines;

use ahash::{AHashMap, AHashSet, RandomState};
use exposition::Escaping;
use series::{Labels, Matcher};
use std::sync::Arc;
use std::time::Duration;

use crate::status::InstantSample;
pub use lines::write_line;

/// Text of a piece.
pub const PIECE_BYTES: usize = 32 << 10;
/// Messages of one core that may wait for the merger.
pub const PIECES_WAITING_MAX: usize = 2;
/// Series that are kept while a request lasts because no core has them as newest values.
pub const LEFTOVERS_MAX: usize = 1_000_000;
/// Claims of one message.
pub(crate) const CLAIMS_PER_PIECE: usize = 4096;
/// Labels that tell targets apart, and with them their series, as long as no series has others of its own.
pub(crate) const IDENTITY: [&str; 2] = ["instance", "job"];

/// Newest samples of series that satisfy one of the selectors (each a list of matchers that must all hold).
#[derive(Clone, Debug)]
pub struct FederateRequest {
    pub selectors: Vec<Vec<Matcher>>,
    /// If there are any, only series that satisfy one of these.
    pub allow: Vec<Vec<Matcher>>,
    /// No series that satisfies one of these.
    pub deny: Vec<Vec<Matcher>>,
    pub lookback: Duration,
    /// Written behind a series' own labels, where it has none of the name; empty ones, too.
    pub external_labels: Labels,
    pub escaping: Escaping,
    /// Whether to tell which names match.
    pub names: bool,
    /// Of this request: equal on all cores.
    pub hashing: RandomState,
}

/// What a core has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FederateSummary {
    /// Series that match, and all that there are.
    pub series: u64,
    pub series_all: u64,
    /// Names of series that match, and of series that do not, if asked for.
    pub names: Vec<String>,
    pub names_of_others: Vec<String>,
    /// Job and instance of each target with matching series, hashed.
    pub identities: Vec<u64>,
    /// Whether series here may be those of another target whatever their identities.
    pub clashing: bool,
    /// Ids of targets about which chunks know nothing more.
    pub whole: Vec<u64>,
    /// Whether there are others.
    pub partial: bool,
    /// Whether any series has native histograms.
    pub has_histograms: bool,
}

/// A series that a core has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub hash: u64,
    /// Milliseconds of the newest sample or marker; of a series that has ended without a marker of its own, of its target's
    /// newest row.
    pub at: i64,
    pub state: ClaimState,
    /// The target, as the core counts them.
    pub owner: u32,
}

/// What a core knows of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimState {
    Alive,
    /// It ended at that time: nothing older counts.
    EndedAt,
    /// It has ended at that time or before.
    Ended,
}

/// Who writes a series that several have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Target {
        core: usize,
        owner: u32,
    },
    /// It is among the leftovers.
    Merger,
}

/// The owners of series that several have, by hash.
pub type Owners = AHashMap<u64, Owner>;

/// What a core is told when it has begun.
#[derive(Clone, Debug)]
pub enum FederateCommand {
    /// Tell what there is of clashing series and of targets with these identities.
    Claim {
        identities: Arc<Vec<u64>>,
        partial: bool,
    },
    Write(Arc<Owners>),
}

/// What a core tells.
#[derive(Clone, Debug)]
pub enum FederateReply {
    Begun(Box<FederateSummary>),
    Claims(Vec<Claim>),
    /// Series of no target that is there, or not among its newest values.
    Leftovers(Vec<InstantSample>),
    Lines(Lines),
    /// The end of the claims, and of the lines.
    Done,
}

/// Lines of one or more names.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    pub text: String,
    /// Names in order, and where their lines end in the text.
    pub names: Vec<(Arc<str>, usize)>,
    pub series: u64,
}

/// The ends of a core's talk with the merger.
#[derive(Debug)]
pub struct FederateChannel {
    pub told: flume::Sender<FederateReply>,
    pub go: flume::Receiver<FederateCommand>,
}

impl FederateRequest {
    /// Hash of a series, equal on all cores for one request.
    pub fn hash<'a>(&self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> u64 {
        use std::hash::{BuildHasher, Hash, Hasher};
        let mut hasher = self.hashing.build_hasher();
        pairs.for_each(|pair| pair.hash(&mut hasher));
        hasher.finish()
    }

    pub(crate) fn identity(&self, target: &Labels) -> u64 {
        self.hash(IDENTITY.map(|name| (name, target.get(name).unwrap_or(""))).into_iter())
    }
}

impl FederateSummary {
    /// Adds what another core has found.
    pub fn add(&mut self, mut other: FederateSummary) {
        self.series += other.series;
        self.series_all += other.series_all;
        self.names.append(&mut other.names);
        self.names_of_others.append(&mut other.names_of_others);
        self.identities.append(&mut other.identities);
        self.clashing |= other.clashing;
        self.whole.append(&mut other.whole);
        self.partial |= other.partial;
        self.has_histograms |= other.has_histograms;
    }

    /// Whether a series of every name matches. Names must have been asked for.
    pub fn is_every_name(&self) -> bool {
        let names: AHashSet<&String> = self.names.iter().collect();
        !names.is_empty() && self.names_of_others.iter().all(|name| names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_counted_over_all_cores() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut all =
            FederateSummary { names: names(&["a"]), names_of_others: names(&["b"]), ..FederateSummary::default() };
        assert!(!all.is_every_name());
        all.add(FederateSummary { names: names(&["b"]), names_of_others: names(&["a"]), ..FederateSummary::default() });
        assert!(all.is_every_name());
        assert!(!FederateSummary::default().is_every_name(), "nothing matches");
    }
}
