//! What a change of members moves, over seeds.

use fleet::{Member, Mode, Rules, View, plan};
use std::collections::BTreeSet;

const TARGETS: usize = 10_000;

fn keys(seed: usize) -> Vec<String> {
    let mut keys: Vec<String> = (0..TARGETS).map(|i| format!("host-{seed}-{i}.example:9100")).collect();
    keys.sort();
    keys
}

fn view(seed: usize, members: impl IntoIterator<Item = usize>, rules: &Rules) -> View {
    let member = |i: usize| Member { zone: format!("z{}", i % 3), ..Member::named(&format!("m{seed}-{i}")) };
    let (view, problems) = View::new(members.into_iter().map(member).collect(), rules.clone());
    assert_eq!(problems, []);
    view
}

#[test]
fn joining_takes_a_share_and_leaving_is_the_mirror() {
    for seed in 0..4 {
        let keys = keys(seed);
        for count in 1..=12 {
            let (few, more) = (view(seed, 0..count, &Rules::default()), view(seed, 0..=count, &Rules::default()));
            let newcomer = format!("m{seed}-{count}");
            let joined = plan(&few, &more, &keys);
            let share_max = (1.15 / (count + 1) as f64 * TARGETS as f64) as usize;
            assert!(joined.moves.len() <= share_max, "seed {seed}, {count}: {} > {share_max}", joined.moves.len());
            assert!(joined.moves.iter().all(|step| step.to.as_ref() == Some(&newcomer)), "seed {seed}, {count}");
            let left = plan(&more, &few, &keys);
            let turned = |step: &fleet::Move| (step.target, step.to.clone(), step.from.clone());
            let there: Vec<_> =
                joined.moves.iter().map(|step| (step.target, step.from.clone(), step.to.clone())).collect();
            assert_eq!(left.moves.iter().map(turned).collect::<Vec<_>>(), there);
            assert_eq!((joined.stray_count, left.stray_count), (0, 0));
        }
    }
}

#[test]
fn any_member_may_leave_and_only_its_targets_move() {
    let keys = keys(9);
    let all = view(9, 0..7, &Rules::default());
    for gone in 0..7 {
        let rest = view(9, (0..7).filter(|i| *i != gone), &Rules::default());
        let name = format!("m9-{gone}");
        let left = plan(&all, &rest, &keys);
        assert!(left.moves.iter().all(|step| step.from.as_ref() == Some(&name)));
        let load = left.loads.iter().find(|load| load.member == name).unwrap();
        assert_eq!((load.before, load.after), (Some(left.moves.len()), None));
    }
}

#[test]
fn replicas_stand_in_different_zones_and_move_one_at_a_time() {
    let rules = Rules { replicas: 2, zones: true, ..Rules::default() };
    let keys = keys(3);
    for count in 3..8 {
        let (few, more) = (view(3, 0..count, &rules), view(3, 0..=count, &rules));
        for key in &keys {
            let owners = few.owners(key);
            let zones: BTreeSet<&str> = owners.iter().map(|owner| few.members()[*owner].zone.as_str()).collect();
            assert_eq!((owners.len(), zones.len()), (2, 2), "{key}");
        }
        let joined = plan(&few, &more, &keys);
        assert_eq!(joined.stray_count, 0, "{count}");
        let mut moved: Vec<usize> = joined.moves.iter().map(|step| step.target).collect();
        moved.dedup();
        assert_eq!(moved.len(), joined.moves.len(), "one owner changes at most");
    }
}

#[test]
fn load_stays_within_its_bound_at_the_price_of_few_stray_moves() {
    for (load_max, stray_max) in [(1.05, 0.06), (1.25, 0.0)] {
        let rules = Rules { load_max: Some(load_max), ..Rules::default() };
        for seed in 0..3 {
            let keys = keys(seed);
            for count in [2, 5, 11] {
                let (few, more) = (view(seed, 0..count, &rules), view(seed, 0..=count, &rules));
                let joined = plan(&few, &more, &keys);
                for load in &joined.loads {
                    let bound = |members: usize| (load_max * TARGETS as f64 / members as f64).ceil() as usize;
                    assert!(load.before.unwrap_or(0) <= bound(count) && load.after.unwrap() <= bound(count + 1));
                }
                let stray = joined.stray_count as f64 / TARGETS as f64;
                assert!(stray <= stray_max, "bound {load_max}, seed {seed}, {count} members: {stray}");
            }
        }
    }
}

#[test]
fn weights_are_shares() {
    let member = |(name, weight): (&str, f64)| Member { weight, ..Member::named(name) };
    let (view, _) = View::new([("a", 1.0), ("b", 2.0), ("c", 3.0)].map(member).to_vec(), Rules::default());
    let mut counts = [0_usize; 3];
    keys(5).iter().for_each(|key| counts[view.owners(key)[0]] += 1);
    for (count, share) in counts.iter().zip([1.0, 2.0, 3.0]) {
        let want = TARGETS as f64 * share / 6.0;
        assert!((0.9..1.1).contains(&(*count as f64 / want)), "{counts:?}");
    }
    for key in keys(5).iter().take(500) {
        assert!(view.owns(view.owners(key)[0], key));
    }
}

#[test]
fn hashmod_mode_divides_as_the_rule_and_moves_most() {
    let rules = Rules { mode: Mode::Hashmod, ..Rules::default() };
    let shard = |(name, shard): (&str, u32)| Member { shard: Some(shard), ..Member::named(name) };
    let (view, problems) = View::new([("x", 1), ("y", 0), ("z", 2)].map(shard).to_vec(), rules.clone());
    assert_eq!(problems, []);
    // From Python: int.from_bytes(hashlib.md5(s).digest()[8:], 'big') % 3.
    for (key, want) in [("a", 1), ("10.0.0.1:9100", 2), ("host:1;job", 0)] {
        assert_eq!(view.members()[view.owners(key)[0]].shard, Some(want), "{key}");
    }
    let keys = keys(1);
    let grown = plan(&self::view(1, 0..4, &rules), &self::view(1, 0..5, &rules), &keys);
    assert!(grown.moves.len() > TARGETS * 7 / 10 && grown.stray_count > TARGETS / 2);
}

#[test]
fn a_list_with_mistakes_still_divides() {
    let at = |name: &str, address: &str| Member { address: address.to_owned(), ..Member::named(name) };
    let odd = |weight| Member { weight, ..Member::named("odd") };
    let (view, problems) =
        View::new(vec![at("a", "y:1"), at("a", "x:1"), at("b", "z:1"), at("b", "z:1")], Rules::default());
    assert_eq!(view.members().iter().map(|member| member.address.as_str()).collect::<Vec<_>>(), ["x:1", "z:1"]);
    assert_eq!(problems.len(), 1);
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        let (view, problems) = View::new(vec![odd(weight), Member::named("b")], Rules::default());
        assert_eq!(problems.len(), 1, "{weight}");
        assert!(view.members().iter().all(|member| member.weight.is_finite() && member.weight > 0.0));
    }
    let (view, problems) = View::new((0..1_005).map(|i| Member::named(&i.to_string())).collect(), Rules::default());
    assert_eq!((view.members().len(), problems.len()), (1_000, 1));
    let (empty, _) = View::new(Vec::new(), Rules::default());
    assert!(empty.is_empty() && empty.owners("x").is_empty());
    assert_eq!(empty.divide(&["x"]), [Vec::<usize>::new()]);
}

#[test]
fn views_with_one_fingerprint_divide_alike() {
    let (one, other) = (view(1, 0..5, &Rules::default()), view(1, (0..5).rev(), &Rules::default()));
    assert_eq!(one.fingerprint(), other.fingerprint());
    assert!(keys(1).iter().all(|key| one.owners(key) == other.owners(key)));
    assert_ne!(one.fingerprint(), view(1, 0..4, &Rules::default()).fingerprint());
}
