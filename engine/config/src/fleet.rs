//! The section `fleet`: several processes with one configuration divide its targets. Prometheus has no such section.

use crate::decode::{Fields, choices, section};
use crate::discovery::Discovery;
use crate::http::HttpConfig;
use crate::sections::check_scheme;
use relabel::Program;
use std::time::Duration;

choices! {
    /// By what targets are divided.
    pub enum FleetMode {
        Ring = "ring",
        Hashmod = "hashmod",
    }
}

section! {
    /// Who the members are and how they divide the targets of all jobs.
    pub struct Fleet in "fleet", check = Fleet::check {
        /// Name of this member as the list has it, environment variables expanded. Required.
        member: String = String::new(),
        /// External label that gets the name of the member unless it is set. Default: none.
        external_label: String = String::new(),
        /// Labels whose values decide who owns a target, as they are after relabelling. Default `__address__`.
        hash_labels: Vec<String> = vec!["__address__".to_owned()],
        /// `hashmod` divides as a rule of that name would, for a migration. Default ring.
        mode: FleetMode = FleetMode::Ring,
        /// Members that scrape each target. Default 1.
        replication_factor: u64 = 1,
        /// Whether those are put into different zones. Default false.
        zone_aware: bool = false,
        /// How far above its share a member may be loaded, such as 1.25. 0, the default: no bound.
        bounded_load: f64 = 0.0,
        /// How long a member goes on with a target that its new owner has not been seen to scrape. Default 2m.
        handover_deadline: Duration = Duration::from_secs(120),
        /// External labels that tell replicas apart. Default replica, prometheus_replica.
        replica_labels: Vec<String> = vec!["replica".to_owned(), "prometheus_replica".to_owned()],
        /// How members speak to each other: http or https. Default http.
        scheme: String = "http".to_owned(),
        /// What is done to the labels of a discovered member: `member` (default: its address), `zone`, `weight`, `shard`.
        relabel_configs: Program = Program::default(),
    }
    inline {
        /// How members speak to each other. Basic authentication or credentials are asked for, too.
        http: HttpConfig = HttpConfig::default(),
        /// Where the members are listed.
        discoveries: Vec<Discovery> = Vec::new(),
    }
}

/// Owners of one target.
const REPLICATION_MAX: u64 = 16;

impl Fleet {
    fn check(&mut self, fields: &mut Fields) {
        check_scheme(fields, &self.scheme);
        if self.member.is_empty() {
            fields
                .refuse("member", "member is empty; say which entry of the list this process is, such as ${HOSTNAME}");
        }
        if self.hash_labels.is_empty() || self.hash_labels.iter().any(String::is_empty) {
            fields.refuse("hash_labels", "hash_labels needs names of labels; leave it out for __address__");
        }
        if !(1..=REPLICATION_MAX).contains(&self.replication_factor) {
            fields.refuse("replication_factor", &format!("replication_factor must be 1 to {REPLICATION_MAX}"));
        }
        if self.bounded_load != 0.0 && !(1.0..=100.0).contains(&self.bounded_load) {
            fields.refuse("bounded_load", "bounded_load must be 1 or more, such as 1.25, or 0 for no bound");
        }
        if self.bounded_load != 0.0 && self.mode == FleetMode::Hashmod {
            fields.refuse("bounded_load", "hashmod knows no bound of load; remove bounded_load or use mode: ring");
        }
        if self.discoveries.is_empty() {
            fields.refuse("member", "no list of members; add static_configs or another discovery to the section");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Env, parse_config};

    fn parse(settings: &str) -> Result<crate::Config, String> {
        let yaml = format!("global: {{external_labels: {{c: x}}}}\nfleet:\n{settings}");
        let env = Env::from_pairs([("MEMBER", "m$1")]);
        parse_config("p.yml".as_ref(), &yaml, &env).map_err(|errors| errors.to_string())
    }

    const LIST: &str = "  static_configs: [{targets: ['x:1']}]\n";

    #[test]
    fn the_member_is_known_and_among_the_external_labels_if_asked() {
        let config = parse(&format!("  member: ${{MEMBER}}\n  external_label: member\n{LIST}")).unwrap();
        assert_eq!(config.global.external_labels.to_string(), r#"{c="x", member="m$1"}"#);
        let again = parse_config("p.yml".as_ref(), &config.to_yaml(), &Env::process()).unwrap();
        assert_eq!(again.fleet, config.fleet);
        assert_eq!(again.global.external_labels, config.global.external_labels);
        let own = parse(&format!("  member: a\n  external_label: c\n{LIST}")).unwrap();
        assert_eq!(own.global.external_labels.get("c"), Some("x"), "what is set stays");
        let without = parse(&format!("  member: a\n{LIST}")).unwrap();
        assert_eq!(without.global.external_labels.len(), 1);
    }

    #[test]
    fn mistakes_are_refused_with_their_remedy() {
        for (settings, want) in [
            ("", "member is empty"),
            ("  member: ${NOT_SET}\n", "is empty once the environment is expanded"),
            ("  member: a\n  replication_factor: 0\n", "must be 1 to 16"),
            ("  member: a\n  bounded_load: 0.5\n", "bounded_load must be 1 or more"),
            ("  member: a\n  bounded_load: 1.2\n  mode: hashmod\n", "hashmod knows no bound"),
            ("  member: a\n  hash_labels: ['']\n", "needs names of labels"),
            ("  member: a\n  mode: rendezvous\n", "mode"),
            ("  member: a\n  virtual_nodes: 9\n", "virtual_nodes"),
            ("  member: a\n  scheme: ftp\n", "scheme"),
        ] {
            let error = parse(&format!("{settings}{LIST}")).unwrap_err();
            assert!(error.contains(want), "{settings}: {error}");
        }
        assert!(parse("  member: a\n").unwrap_err().contains("no list of members"));
    }
}
