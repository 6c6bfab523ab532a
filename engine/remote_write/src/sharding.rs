//! Series divided among the endpoints of a group, as vmagent's `shardByURL` does: each series goes to `replicas` of them, the same
//! ones for as long as the group is the same. If an endpoint comes or goes, only the series that it gets or had move.

use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Which series one endpoint of a group gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// Hashes of the endpoints' keys.
    members: Arc<[u64]>,
    own: u64,
    settings: config::Sharding,
}

impl Shard {
    /// `members` are the keys of all endpoints of the group, this one's among them.
    pub fn new(settings: &config::Sharding, own: &str, members: &[&str]) -> Shard {
        let mut hashes: Vec<u64> = members.iter().map(|key| xxh3_64(key.as_bytes())).collect();
        hashes.sort_unstable();
        Shard { members: hashes.into(), own: xxh3_64(own.as_bytes()), settings: settings.clone() }
    }

    /// Whether the endpoint gets a series with these labels, sorted by name.
    pub fn owns(&self, labels: &[(&str, &str)]) -> bool {
        let config::Sharding { labels: only, ignore_labels, replicas, .. } = &self.settings;
        let counts = |name: &str| match only.is_empty() {
            true => ignore_labels.iter().all(|ignored| ignored != name),
            false => only.iter().any(|only| only == name),
        };
        let mut text = Vec::with_capacity(256);
        for (name, value) in labels.iter().filter(|(name, _)| counts(name)) {
            text.extend_from_slice(name.as_bytes());
            text.push(0xff);
            text.extend_from_slice(value.as_bytes());
            text.push(0xff);
        }
        let series = xxh3_64(&text);
        let score = |member: u64| (xxh3_64(&[series.to_le_bytes(), member.to_le_bytes()].concat()), member);
        let own = score(self.own);
        let before = self.members.iter().filter(|member| score(**member) > own).count();
        (before as u64) < *replicas
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Sharding;

    fn owners(settings: &Sharding, members: &[&str], labels: &[(&str, &str)]) -> Vec<usize> {
        let owns = |at: &usize| Shard::new(settings, members[*at], members).owns(labels);
        (0..members.len()).filter(owns).collect()
    }

    #[test]
    fn each_series_has_as_many_owners_as_replicas_and_few_move() {
        let settings = |replicas| Sharding { group: "g".into(), replicas, ..Sharding::default() };
        let (all, fewer) = (["a", "b", "c", "d"], ["a", "b", "c"]);
        let (mut counts, mut moved) = ([0; 4], 0);
        for number in 0..2000 {
            let instance = number.to_string();
            let labels = [("__name__", "up"), ("instance", &*instance)];
            let one = owners(&settings(1), &all, &labels);
            assert_eq!(one.len(), 1);
            counts[one[0]] += 1;
            let two = owners(&settings(2), &all, &labels);
            assert!(two.len() == 2 && two.contains(&one[0]));
            assert_eq!(owners(&settings(9), &all, &labels).len(), 4);
            let without = owners(&settings(1), &fewer, &labels);
            moved += usize::from(without != one);
            assert!(one[0] == 3 || without == one, "a series moves though its owner stays");
        }
        assert_eq!(moved, counts[3]);
        assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
    }

    #[test]
    fn only_the_chosen_labels_count() {
        let all = ["a", "b", "c", "d"];
        let by = |labels: &[&str], ignore: &[&str]| {
            let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            let settings = Sharding {
                group: "g".into(),
                labels: texts(labels),
                ignore_labels: texts(ignore),
                ..Sharding::default()
            };
            let of = |le: &str| owners(&settings, &all, &[("__name__", "h_bucket"), ("instance", "i"), ("le", le)]);
            let first = of("0");
            (1..50).all(|le| of(&le.to_string()) == first)
        };
        assert!(by(&["instance"], &[]) && by(&[], &["le"]));
        assert!(!by(&[], &[]) && !by(&["le"], &[]) && !by(&[], &["instance"]));
    }
}
