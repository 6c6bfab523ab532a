//! Members of a fleet from discovered addresses.

use config::{Fleet, FleetMode};
use fleet::{Member, Rules};
use series::Labels;

/// Returns the members with these addresses, but for those that the rules of the section drop.
pub fn members(settings: &Fleet, addresses: &[Labels]) -> Vec<Member> {
    addresses.iter().filter_map(|address| member(settings, address)).collect()
}

fn member(settings: &Fleet, found: &Labels) -> Option<Member> {
    let mut labels = found.to_builder();
    if !settings.relabel_configs.apply(&mut labels).is_keep() {
        return None;
    }
    let address = labels.get("__address__").to_owned();
    let name = match labels.get("member") {
        "" => address.clone(),
        name => name.to_owned(),
    };
    // An invalid weight is NaN here; the view reports it and uses 1.
    let weight = match labels.get("weight") {
        "" => 1.0,
        text => text.parse().unwrap_or(f64::NAN),
    };
    let shard = labels.get("shard").parse().ok();
    Some(Member { name, address, zone: labels.get("zone").to_owned(), weight, shard })
}

/// Returns the rules of division of the section.
pub fn rules(settings: &Fleet) -> Rules {
    Rules {
        mode: match settings.mode {
            FleetMode::Ring => fleet::Mode::Ring,
            FleetMode::Hashmod => fleet::Mode::Hashmod,
        },
        replicas: usize::try_from(settings.replication_factor).unwrap_or(usize::MAX),
        zones: settings.zone_aware,
        load_max: (settings.bounded_load > 0.0).then_some(settings.bounded_load),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_list_describe_members() {
        let yaml = "fleet:\n  member: a\n  static_configs: [{targets: ['x:1']}]\n  relabel_configs:\n  \
                    - {source_labels: [__meta_gone], regex: 'yes', action: drop}\n  \
                    - {source_labels: [__meta_rack], target_label: zone}\n";
        let config = config::parse_config("p.yml".as_ref(), yaml, &config::Env::process()).unwrap();
        let list = [
            Labels::from_pairs([("__address__", "x:1"), ("member", "a"), ("__meta_rack", "r1"), ("weight", "2")]),
            Labels::from_pairs([("__address__", "y:1"), ("weight", "much"), ("shard", "4")]),
            Labels::from_pairs([("__address__", "z:1"), ("__meta_gone", "yes")]),
        ];
        let got = members(config.fleet.as_ref().unwrap(), &list);
        let short: Vec<_> = got.iter().map(|m| (&*m.name, &*m.address, &*m.zone, m.weight.is_nan(), m.shard)).collect();
        assert_eq!(short, [("a", "x:1", "r1", false, None), ("y:1", "y:1", "", true, Some(4))]);
        assert_eq!(got[0].weight, 2.0);
    }
}
