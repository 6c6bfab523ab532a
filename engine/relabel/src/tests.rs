use super::*;
use series::Regex;
use std::collections::BTreeMap;

/// A rule in short: `action a,b -> target` and then `re=`, `to=`, `sep=`, `mod=` with values up to two blanks.
fn spec(text: &str) -> RuleSpec {
    let mut spec = RuleSpec::default();
    for (i, field) in text.split("  ").enumerate() {
        let text = |value: &str| Some(value.to_owned());
        match field.split_once('=') {
            _ if i == 0 => {
                let (action, labels) = field.split_once(' ').unwrap_or((field, ""));
                let (sources, target) = labels.split_once("->").unwrap_or((labels, ""));
                let names = sources.split(',').map(str::trim).filter(|name| !name.is_empty());
                spec.action = text(action).filter(|action| action != "-");
                spec.source_labels = names.map(str::to_owned).collect();
                spec.target_label = target.trim().to_owned();
            }
            Some(("re", value)) => spec.regex = text(value),
            Some(("to", value)) => spec.replacement = text(value),
            Some(("sep", value)) => spec.separator = text(value),
            Some(("mod", value)) => spec.modulus = value.parse().unwrap(),
            _ => panic!("{field:?}"),
        }
    }
    spec
}

fn program(rules: &[&str], scheme: NameScheme) -> Program {
    Program::compile(rules.iter().map(|rule| spec(rule)), scheme).unwrap_or_else(|error| panic!("{rules:?}: {error}"))
}

fn labels(text: &str) -> Labels {
    Labels::from_pairs(text.split(' ').filter_map(|label| label.split_once('=')))
}

#[track_caller]
fn check_scheme(scheme: NameScheme, rules: &[&str], before: &str, want: Option<&str>) {
    let mut builder = labels(before).to_builder();
    let verdict = program(rules, scheme).apply(&mut builder);
    let got = verdict.is_keep().then(|| builder.build());
    assert_eq!(got, want.map(labels), "{rules:?} on {before}");
}

/// One rule on some labels gives `want`, or drops them.
#[track_caller]
fn check(rule: &str, before: &str, want: Option<&str>) {
    check_scheme(NameScheme::Utf8, &[rule], before, want);
}

#[track_caller]
fn check_refused(scheme: NameScheme, rule: &str, field: &str, message: &str) {
    let got = Rule::compile(spec(rule), scheme).map(|rule| rule.to_string());
    let got = got.map_err(|error| (error.field, error.message));
    assert_eq!(got, Err((field.to_owned().leak() as &'static str, message.to_owned())), "{rule:?}");
}

#[test]
fn replace_writes_what_matched() {
    check("- a -> b", "a=1", Some("a=1 b=1"));
    check("replace a,b -> c", "a=1 b=2", Some("a=1 b=2 c=1;2"));
    check("REPLACE a,b -> c  sep=", "a=1 b=2", Some("a=1 b=2 c=12"));
    check("replace a,b,x -> c  sep=--", "a=1 b=2", Some("a=1 b=2 c=1--2--"));
    check("replace a -> a  re=f(.)o", "a=foo", Some("a=o"));
    check("replace a -> a  re=f(.)o  to=${1}x", "a=foo", Some("a=ox"));
    check("replace a -> b  re=(\\w+):(\\d+)  to=$2/$1", "a=h:9", Some("a=h:9 b=9/h"));
    check("replace -> b  to=static", "a=1", Some("a=1 b=static"));
    check("replace a -> b  re=  to=default", "", Some("b=default"));
    check("replace a -> b  re=  to=default", "a=1", Some("a=1"));
}

#[test]
fn replace_without_a_match_does_nothing() {
    check("replace a -> b  re=x", "a=1 b=2", Some("a=1 b=2"));
    check("replace a -> b  re=1  to=y", "a=11 b=2", Some("a=11 b=2"));
    check("replace a -> b  re=(.+)", "b=2", Some("b=2"));
}

#[test]
fn replace_with_an_empty_result_deletes() {
    check("replace x -> b", "a=1 b=2", Some("a=1"));
    check("replace a -> b  to=", "a=1 b=2", Some("a=1"));
    check("replace a -> a  re=(1)|(2)  to=$2", "a=1", Some(""));
}

#[test]
fn replace_expands_the_target_too() {
    check("replace a -> ${1}_x  re=(.)(.)  to=$2", "a=pq", Some("a=pq p_x=q"));
    check("replace a -> $1", "a=name", Some("a=name name=name"));
    check("replace x -> $1  to=v", "a=1", Some("a=1"));
    check("replace a -> $1  to=v", "a=not.legacy", Some("a=not.legacy not.legacy=v"));
    check_scheme(NameScheme::Legacy, &["replace a -> $1  to=v"], "a=not.legacy", Some("a=not.legacy"));
    check_scheme(NameScheme::Legacy, &["replace a -> x$1  to=v"], "a=9", Some("a=9 x9=v"));
    check("replace a -> $$  to=v", "a=1", Some("a=1 $=v"));
    check("replace a -> $9  to=v", "a=1", Some("a=1"));
}

#[test]
fn references_are_those_of_go() {
    for (replacement, want) in [
        ("$1x", "b"),
        ("${1}x", "bAx"),
        ("$0", "bAB"),
        ("$2$1", "bBA"),
        ("$$1", "b$1"),
        ("$n", "bB"),
        ("${n}", "bB"),
        ("$nn", "b"),
        ("$3", "b"),
        ("$01", "b"),
        ("$", "b$"),
        ("a$-", "ba$-"),
        ("${1", "b${1"),
        ("${}", "b${}"),
        ("${1x}", "b"),
        ("$1é", "b"),
        ("$1·", "bA·"),
        ("$99999999999999999999", "b"),
    ] {
        let rule = format!("replace a -> b  re=(A)(?P<n>B)  to=b{replacement}");
        check(&rule, "a=AB", Some(&format!("a=AB b={want}")));
    }
    check("replace a -> b  re=(?P<n>A)|(?P<n>B)  to=$n", "a=B", Some("a=B b=B"));
}

#[test]
fn keep_and_drop_look_at_the_whole_value() {
    check("keep a  re=1|2", "a=1", Some("a=1"));
    check("keep a  re=1|2", "a=12", None);
    check("keep a,b  re=1;2", "a=1 b=2", Some("a=1 b=2"));
    check("keep x  re=.+", "a=1", None);
    check("keep a", "a=1", Some("a=1"));
    check("drop a  re=foo.*", "a=foobar", None);
    check("drop a  re=foo.*", "a=xfoo", Some("a=xfoo"));
    check("drop x  re=", "a=1", None);
    check("drop a  re=.*b.*", "a=abc", None);
}

#[test]
fn keepequal_and_dropequal_compare_with_the_target() {
    check("keepequal a -> b", "a=1 b=1", Some("a=1 b=1"));
    check("keepequal a -> b", "a=1 b=2", None);
    check("keepequal a -> b", "a=1", None);
    check("keepequal x -> y", "a=1", Some("a=1"));
    check("dropequal a -> b", "a=1 b=1", None);
    check("dropequal a -> b", "a=1 b=2", Some("a=1 b=2"));
    check("dropequal a,b -> c", "a=1 b=2 c=1;2", None);
}

/// Numbers from Python: `int.from_bytes(hashlib.md5(s).digest()[8:], 'big') % m`.
#[test]
fn hashmod_takes_the_low_half_of_md5() {
    for (value, modulus, want) in [
        ("foo", 1000, "696"),
        ("foo", u64::MAX, "17145033699835028696"),
        ("127.0.0.1:9100", 3, "1"),
        ("127.0.0.1:9100", 1000, "150"),
        ("node-17.example:9100", 2, "1"),
        ("é", 1000, "23"),
        ("foo", 1, "0"),
    ] {
        check(&format!("hashmod a -> h  mod={modulus}"), &format!("a={value}"), Some(&format!("a={value} h={want}")));
    }
    check("hashmod a,b -> h  mod=1000", "a=a b=b", Some("a=a b=b h=74"));
    check("hashmod x -> h  mod=1000", "", Some("h=958"));
}

#[test]
fn labelmap_copies_under_the_new_name() {
    check("labelmap  re=meta_(.+)", "meta_a=1 meta_b=2 x=3", Some("a=1 b=2 meta_a=1 meta_b=2 x=3"));
    check("labelmap  re=(.)(.)  to=$2$1", "ab=1 ba=2", Some("ab=2 ba=1"));
    check("labelmap  re=a(.)  to=x", "a1=1 a2=2", Some("a1=1 a2=2 x=2"));
    check("labelmap  re=a  to=b", "a=1 b=2", Some("a=1 b=1"));
    check("labelmap  re=a)|(c  to=b", "ac=1", Some("ac=1 bb=1"));
    check("labelmap", "a=1", Some("a=1"));
}

#[test]
fn labeldrop_and_labelkeep_look_at_names() {
    check("labeldrop  re=a.*", "a=1 ab=2 b=3", Some("b=3"));
    check("labeldrop  re=__.*", "__address__=h b=3", Some("b=3"));
    check("labelkeep  re=a|b", "a=1 ab=2 b=3", Some("a=1 b=3"));
    check("labelkeep", "a=1", Some("a=1"));
}

#[test]
fn letters_change_case() {
    check("lowercase a -> b", "a=FooÉ", Some("a=FooÉ b=fooé"));
    check("uppercase a,b -> c", "a=x b=ß", Some("a=x b=ß c=X;ß"));
    check("uppercase x -> a", "a=1 b=2", Some("b=2"));
}

#[test]
fn rules_follow_each_other_until_one_drops() {
    let rules = ["- a -> b  to=x$1", "keep b  re=x1", "- b -> c"];
    check_scheme(NameScheme::Utf8, &rules, "a=1", Some("a=1 b=x1 c=x1"));
    check_scheme(NameScheme::Utf8, &rules, "a=2", None);
    check_scheme(NameScheme::Utf8, &[], "a=2", Some("a=2"));
}

#[test]
fn an_empty_label_is_an_absent_one() {
    let mut builder = Labels::from_pairs([("meta_a", ""), ("a", "1")]).to_builder();
    assert!(program(&["labelmap  re=meta_(.+)"], NameScheme::Utf8).apply(&mut builder).is_keep());
    assert_eq!(builder.get("a"), "1");
}

#[test]
fn what_prometheus_refuses_is_refused_in_its_words() {
    use NameScheme::{Legacy, Utf8};
    let needs_target =
        |action: &str| format!("relabel configuration for {action} action requires 'target_label' value");
    for action in ["replace", "hashmod", "lowercase", "uppercase", "keepequal", "dropequal"] {
        check_refused(Utf8, &format!("{action} a  mod=1"), "target_label", &needs_target(action));
        let invalid = format!("\"a.b\" is invalid 'target_label' for {action} action");
        check_refused(Legacy, &format!("{action} a -> a.b  mod=1"), "target_label", &invalid);
    }
    for action in ["lowercase", "uppercase", "keepequal", "dropequal"] {
        let message = format!("'replacement' can not be set for {action} action");
        check_refused(Utf8, &format!("{action} a -> b  to=x"), "replacement", &message);
    }
    for action in ["keepequal", "dropequal"] {
        let message = format!("{action} action requires only 'source_labels' and `target_label`, and no other fields");
        check_refused(Utf8, &format!("{action} a -> b  re=(.*)"), "regex", &message);
        check_refused(Utf8, &format!("{action} a -> b  mod=1"), "modulus", &message);
        check_refused(Utf8, &format!("{action} a -> b  sep=,"), "separator", &message);
    }
    for action in ["labeldrop", "labelkeep"] {
        let message = format!("{action} action requires only 'regex', and no other fields");
        check_refused(Utf8, &format!("{action} a"), "source_labels", &message);
        check_refused(Utf8, &format!("{action} -> b"), "target_label", &message);
        check_refused(Utf8, &format!("{action}  mod=1"), "modulus", &message);
        check_refused(Utf8, &format!("{action}  sep=,"), "separator", &message);
        check_refused(Utf8, &format!("{action}  to=x"), "replacement", &message);
    }
    let modulus = "relabel configuration for hashmod requires non-zero modulus";
    check_refused(Utf8, "hashmod a", "modulus", modulus);
    check_refused(Utf8, "foo a -> b", "action", "unknown relabel action \"foo\"");
    check_refused(Utf8, " a -> b", "action", "unknown relabel action \"\"");
    check_refused(Utf8, "labelmap  to=", "replacement", "\"\" is invalid 'replacement' for labelmap action");
    check_refused(Legacy, "labelmap  to=a.b", "replacement", "\"a.b\" is invalid 'replacement' for labelmap action");
    check_refused(Legacy, "- a -> ${", "target_label", "\"${\" is invalid 'target_label' for replace action");
    let regex = "error parsing regexp: missing argument to repetition operator: `*`";
    check_refused(Utf8, "keep a  re=*", "regex", regex);
}

/// A null among the source labels of a file: Prometheus joins an empty value.
#[test]
fn a_source_label_without_a_name_has_no_value() {
    let spec = RuleSpec {
        source_labels: vec!["a".into(), String::new()],
        target_label: "b".into(),
        regex: Some("(.*);".into()),
        ..RuleSpec::default()
    };
    let rule = Rule::compile(spec, NameScheme::Utf8).unwrap();
    assert!(rule.to_string().contains(r#"source_labels: ["a", null]"#), "{rule}");
    let mut labels = Labels::from_pairs([("a", "1")]).to_builder();
    assert_eq!(Program::from(vec![rule]).apply(&mut labels), Verdict::Keep);
    assert_eq!(labels.build(), Labels::from_pairs([("a", "1"), ("b", "1")]));
}

#[test]
fn targets_with_references_have_the_legacy_form() {
    for (target, valid) in [
        ("label$1", true),
        ("${1}label", true),
        ("$1", true),
        ("a$2a", true),
        ("_${1}_", true),
        ("foo${bar}foo", true),
        ("$", false),
        ("${}", false),
        ("foo${", false),
        ("-foo${1}", false),
        ("bar.foo${1}bar", false),
    ] {
        let rule = format!("replace a -> {target}");
        assert_eq!(Rule::compile(spec(&rule), NameScheme::Legacy).is_ok(), valid, "{target}");
        assert!(Rule::compile(spec(&rule), NameScheme::Utf8).is_ok(), "{target}");
    }
}

#[test]
fn a_refused_rule_is_counted_from_one_in_the_text() {
    let error = Program::compile([spec("keep a"), spec("hashmod a")], NameScheme::Utf8).unwrap_err();
    assert_eq!(error.rule_index, 1);
    assert_eq!(error.to_string(), "relabel rule 2: relabel configuration for hashmod requires non-zero modulus");
}

#[test]
fn explain_shows_the_labels_after_each_rule() {
    let rules = program(&["- a,b -> c  re=(.);.*", "drop c  re=1", "- -> d  to=x"], NameScheme::Utf8);
    let steps = rules.explain(labels("a=1 b=2"));
    let got: Vec<_> = steps.iter().map(|step| (step.rule_index, &*step.rendering, step.kept)).collect();
    assert_eq!(
        got,
        [
            (0, r#"{source_labels: ["a", "b"], regex: "(.);.*", target_label: "c", action: replace}"#, true),
            (1, r#"{source_labels: ["c"], regex: "1", action: drop}"#, false),
        ]
    );
    assert_eq!(steps[0].labels, labels("a=1 b=2 c=1"));
    assert_eq!(steps[1].labels, labels("a=1 b=2 c=1"));
    assert!(Program::default().explain(labels("a=1")).is_empty());
}

#[test]
fn a_rule_renders_as_yaml() {
    let rule = Rule::compile(spec("HashMod a\"\\\n -> h  mod=4  sep=\u{7}"), NameScheme::Utf8).unwrap();
    let want = r#"{source_labels: ["a\"\\"], separator: "\u0007", target_label: "h", modulus: 4, action: hashmod}"#;
    assert_eq!(rule.to_string(), want);
}

#[test]
fn programs_are_equal_by_what_they_were_made_from() {
    let one = || program(&["keep a  re=x"], NameScheme::Utf8);
    assert_eq!(one(), one());
    assert_ne!(one(), program(&["keep a  re=x"], NameScheme::Legacy));
    assert_ne!(one(), program(&["keep a  re=(x)"], NameScheme::Utf8));
    assert_eq!((one().len(), one().is_empty(), Program::default().is_empty()), (1, false, true));
}

#[test]
fn the_labels_a_program_uses_are_listed() {
    #[track_caller]
    fn check(rules: &[&str], want: Option<&[&str]>) {
        let got = match program(rules, NameScheme::Utf8).reads_or_writes() {
            LabelUse::All => None,
            LabelUse::Some(names) => Some(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()),
        };
        assert_eq!(got, want.map(|names| names.iter().map(|name| name.to_string()).collect()), "{rules:?}");
    }
    check(&[], Some(&[]));
    check(&["keep __name__  re=x", "drop a,b"], Some(&["__name__", "a", "b"]));
    check(&["- a -> b", "hashmod c -> d  mod=2", "lowercase e -> f"], Some(&["a", "b", "c", "d", "e", "f"]));
    check(&["keepequal a -> b"], Some(&["a", "b"]));
    check(&["- a -> b$$"], Some(&["a", "b$"]));
    check(&["- a -> $7"], Some(&["a"]));
    check(&["keep a", "- a -> b$1"], None);
    check(&["labelmap"], None);
    check(&["labeldrop  re=x"], None);
    check(&["labelkeep  re=x"], None);
    assert!(program(&["keep a"], NameScheme::Utf8).reads_or_writes().contains("a"));
    assert!(!program(&["keep a"], NameScheme::Utf8).reads_or_writes().contains("b"));
    assert!(LabelUse::All.contains("b"));
}

/// A fixed sequence of numbers, so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    fn pick(&mut self, texts: &[&str]) -> String {
        texts[self.below(texts.len())].to_owned()
    }
}

const NAMES: [&str; 5] = ["a", "b", "meta_a", "meta_b", "foo"];
const VALUES: [&str; 8] = ["", "1", "foo", "foo:80", "a", "b.c", "Été", "foo\n"];

fn random_spec(numbers: &mut Numbers) -> RuleSpec {
    let maybe = |numbers: &mut Numbers, texts: &[&str]| (numbers.below(3) > 0).then(|| numbers.pick(texts));
    RuleSpec {
        source_labels: (0..numbers.below(3)).map(|_| numbers.pick(&NAMES)).collect(),
        separator: (numbers.below(4) == 0).then(|| numbers.pick(&["", ",", "::"])),
        target_label: numbers.pick(&["", "a", "b", "c", "$1", "x_${1}", "$$", "b.c"]),
        regex: maybe(
            numbers,
            &["(.*)", "(.+)", "foo", "foo|1", "(foo)(.*)", "meta_(.+)", "(.*):(\\d+)", ".*o.*", "", "(a)|(b)", "a)|(b"],
        ),
        modulus: numbers.below(3) as u64,
        replacement: maybe(numbers, &["$1", "x", "", "${1}y$2", "$0", "$$1"]),
        action: maybe(
            numbers,
            &[
                "replace",
                "keep",
                "drop",
                "keepequal",
                "dropequal",
                "hashmod",
                "labelmap",
                "labeldrop",
                "labelkeep",
                "lowercase",
                "uppercase",
            ],
        ),
    }
}

/// What the manual says of a rule, done with the engine alone and without care for speed.
fn plain(rule: &Rule, labels: &mut BTreeMap<String, String>) -> Verdict {
    let get = |labels: &BTreeMap<String, String>, name: &str| labels.get(name).cloned().unwrap_or_default();
    let values: Vec<String> = rule.source_labels().iter().map(|name| get(labels, name)).collect();
    let source = values.join(rule.separator());
    let regex = Regex::new(rule.regex()).unwrap();
    let engine = regex.compiled();
    // The templates of this test have references to numbered groups, braced or not, and `$$` only.
    let expand = |template: &str, captures: &regex::Captures<'_>| {
        let mut out = String::new();
        captures.expand(template, &mut out);
        out
    };
    let set = |labels: &mut BTreeMap<String, String>, name: &str, value: String| {
        if value.is_empty() {
            labels.remove(name)
        } else {
            labels.insert(name.to_owned(), value)
        };
    };
    let keep_if = |kept: bool| if kept { Verdict::Keep } else { Verdict::Drop };
    match rule.action() {
        Action::Keep => return keep_if(engine.is_match(&source)),
        Action::Drop => return keep_if(!engine.is_match(&source)),
        Action::KeepEqual => return keep_if(get(labels, rule.target_label()) == source),
        Action::DropEqual => return keep_if(get(labels, rule.target_label()) != source),
        Action::Replace => {
            if let Some(captures) = engine.captures(&source) {
                let target = expand(rule.target_label(), &captures);
                if rule.scheme().is_valid(&target) {
                    set(labels, &target, expand(rule.replacement(), &captures));
                }
            }
        }
        Action::HashMod => {
            use md5::{Digest, Md5};
            let hash = Md5::digest(&source).iter().skip(8).fold(0u64, |hash, byte| hash << 8 | u64::from(*byte));
            set(labels, rule.target_label(), (hash % rule.modulus()).to_string());
        }
        Action::Lowercase => set(labels, rule.target_label(), source.to_lowercase()),
        Action::Uppercase => set(labels, rule.target_label(), source.to_uppercase()),
        Action::LabelMap => {
            for (name, value) in labels.clone() {
                if engine.is_match(&name) {
                    set(labels, &engine.replace_all(&name, rule.replacement()), value);
                }
            }
        }
        Action::LabelDrop => labels.retain(|name, _| !engine.is_match(name)),
        Action::LabelKeep => labels.retain(|name, _| engine.is_match(name)),
    }
    Verdict::Keep
}

#[test]
fn a_program_does_what_its_rules_plainly_say() {
    let mut numbers = Numbers(3);
    let (mut compiled, mut kept) = (0, 0);
    for round in 0..6000 {
        let scheme = if round % 2 == 0 { NameScheme::Utf8 } else { NameScheme::Legacy };
        let specs: Vec<_> = (0..1 + numbers.below(3)).map(|_| random_spec(&mut numbers)).collect();
        let Ok(program) = Program::compile(specs.clone(), scheme) else { continue };
        compiled += 1;
        for _ in 0..4 {
            let pairs: BTreeMap<String, String> =
                (0..numbers.below(5)).map(|_| (numbers.pick(&NAMES), numbers.pick(&VALUES[1..]))).collect();
            let before = Labels::from_pairs(&pairs);
            let mut builder = before.to_builder();
            let verdict = program.apply(&mut builder);
            let mut want = pairs.clone();
            let drops = |rule: &Rule| plain(rule, &mut want) == Verdict::Drop;
            let want_verdict = if program.rules().iter().any(drops) { Verdict::Drop } else { Verdict::Keep };
            assert_eq!(verdict, want_verdict, "{program:?} on {before}");
            assert_eq!(builder.build(), Labels::from_pairs(&want), "{program:?} on {before}");
            let last = program.explain(before.clone()).pop().unwrap();
            assert_eq!((last.kept, last.labels), (verdict.is_keep(), builder.build()), "{program:?} on {before}");
            kept += usize::from(verdict.is_keep());

            // Labels that the program says it does not use neither change nor change anything.
            let uses = program.reads_or_writes();
            let mut other = before.to_builder();
            let mut foreign = BTreeMap::new();
            for name in NAMES.iter().filter(|name| !uses.contains(name)) {
                let value = numbers.pick(&VALUES);
                other.set(name, &value);
                foreign.insert(*name, value);
            }
            assert_eq!(program.apply(&mut other), verdict, "{program:?} on {before}");
            for (name, value) in &foreign {
                assert_eq!(other.get(name), value, "{program:?} on {before}");
                other.remove(name);
                builder.remove(name);
            }
            assert_eq!(other, builder, "{program:?} on {before}");
        }
    }
    assert!(compiled > 500 && kept > 500, "the rules still compile: {compiled}, {kept}");
}

#[test]
fn no_rule_makes_it_panic() {
    let mut numbers = Numbers(4);
    for _ in 0..4000 {
        let mut spec = random_spec(&mut numbers);
        for text in [spec.regex.as_mut(), spec.replacement.as_mut(), Some(&mut spec.target_label)].into_iter().flatten()
        {
            for _ in 0..numbers.below(3) {
                let at = numbers.below(text.chars().count() + 1);
                let at = text.char_indices().nth(at).map_or(text.len(), |(at, _)| at);
                text.insert_str(at, &numbers.pick(&["$", "{", "}", "(", ")", "é", "\\", "[", "0", "*", "9", "|", "?"]));
            }
        }
        if let Ok(rule) = Rule::compile(spec, NameScheme::Utf8) {
            let pairs = NAMES.map(|name| (name, numbers.pick(&VALUES)));
            assert!(Program::from(vec![rule]).explain(Labels::from_pairs(pairs)).len() == 1);
        }
    }
}

#[test]
fn labels_that_no_rule_changes_are_known() {
    for (text, name, want) in [
        ("- a -> instance", "a", false),
        ("- a -> instance", "instance", true),
        ("- a -> __$1", "b", true),
        ("keep a", "a", false),
        ("hashmod a -> h  mod=2", "h", true),
        ("hashmod a -> h  mod=2", "a", false),
        ("lowercase a -> a", "a", true),
        ("labelmap", "a", true),
        ("labeldrop", "a", true),
        ("labelkeep", "a", false),
    ] {
        assert_eq!(program(&[text], NameScheme::Utf8).may_write(name), want, "{text} {name}");
    }
}
