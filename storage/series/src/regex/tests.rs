use super::*;

#[track_caller]
fn check(source: &str, matching: &[&str], others: &[&str]) {
    let regex = Regex::new(source).unwrap_or_else(|error| panic!("{source:?}: {error}"));
    for (texts, want) in [(matching, true), (others, false)] {
        for text in texts {
            assert_eq!(regex.is_match(text), want, "{source:?} on {text:?}");
            assert_eq!(regex.compiled().is_match(text), want, "{source:?} on {text:?}, by the engine");
            assert_eq!(regex.find_groups(text, &mut Groups::new()), want, "{source:?} on {text:?}, with groups");
        }
    }
}

#[track_caller]
fn check_error(source: &str, want: &str) {
    let got = Regex::new(source).map(|_| "accepted".to_owned()).unwrap_or_else(|error| error.to_string());
    assert_eq!(got, format!("error parsing regexp: {want}"), "{source:?}");
}

#[test]
fn both_ends_are_anchored() {
    check("foo", &["foo"], &["", "xfoo", "foox", "foo\n"]);
    check("^foo$", &["foo"], &["foo\n", "\nfoo"]);
    check("a|b", &["a", "b"], &["ab", "ax", "xb"]);
    check("", &[""], &["a"]);
    check("(?m)a$", &["a"], &["a\n", "a\nb"]);
    check("(?m)a$.^b", &["a\nb"], &["ab"]);
    check("\\Aa\\z", &["a"], &["a\n"]);
}

#[test]
fn a_parenthesis_may_leave_the_anchored_group_as_in_prometheus() {
    check("a)|(b", &["a", "ax", "b", "xb"], &["xax", "bx", "xa"]);
}

#[test]
fn the_dot_takes_newlines() {
    check("a.b", &["a\nb", "axb", "aéb"], &["ab"]);
    check("(?-s)a.b", &["axb"], &["a\nb"]);
    check(".*", &["", "\n", "a\nb"], &[]);
    check(".+", &["\n", "é"], &[""]);
}

#[test]
fn perl_and_posix_classes_are_ascii() {
    check("\\d", &["7"], &["٧"]);
    check("\\w", &["a", "_", "7"], &["é", "-"]);
    check("\\W", &["é"], &["a"]);
    check("\\s", &["\t", "\n", "\x0c", "\r", " "], &["\x0b", "\u{a0}"]);
    check("[[:space:]]", &["\x0b", " "], &["a"]);
    check("[[:alpha:][:digit:]_]", &["a", "7", "_"], &["é", "-", ":"]);
    check("[[:^alpha:]]", &["7", "é"], &["a"]);
    check(".\\bé", &["aé"], &["éé"]);
    check("(?i)\\w", &["\u{212a}", "ſ"], &["é"]);
    check("[\\d-z]", &["7", "-", "z"], &["a"]);
}

#[test]
fn unicode_classes_go_by_category_and_script() {
    check("\\pL", &["a", "é", "β"], &["7"]);
    check("\\PL", &["7"], &["a"]);
    check("\\p{Greek}", &["β"], &["b"]);
    check("\\p{^Greek}", &["b"], &["β"]);
    check("[^\\p{Lu}a]", &["b"], &["A", "a"]);
    check("\\p{Uppercase_Letter}", &["É"], &["é"]);
    check("(?i)\\p{Lu}", &["é", "É"], &["7"]);
    check("\\p{Any}", &["x", "\n"], &[]);
    for refused in ["\\p{isGreek}", "\\p{Grek}", "\\p{Alphabetic}", "\\p{sc=Greek}", "\\p{}", "\\pX"] {
        check_error(refused, &format!("invalid character class range: `{refused}`"));
    }
}

#[test]
fn brackets_neither_nest_nor_know_set_operations() {
    check("[a[b]", &["a", "[", "b"], &["]"]);
    check("[a&&b]", &["a", "&", "b"], &["c"]);
    check("[a~~b]", &["a", "~"], &["c"]);
    check("[&--]", &["&", "(", "-"], &["."]);
    check("[]a]", &["]", "a"], &["["]);
    check("[^]a]", &["b", "\n"], &["]", "a"]);
    check("[a-]", &["a", "-"], &["b"]);
    check("[[a]]", &["a]", "[]"], &["a"]);
    check("[^\\x00-\\x{10FFFF}]", &[], &["", "a"]);
    check("[^\\x00-\\x{D7FF}\\x{E000}-\\x{10FFFF}]", &[], &["\u{d7ff}", "\u{e000}"]);
    check("[\\x{D800}-\\x{DFFF}]", &[], &["\u{d7ff}", "\u{e000}"]);
    check("[\\x{D7FF}-\\x{E000}]", &["\u{d7ff}", "\u{e000}"], &["a"]);
}

#[test]
fn what_only_the_engine_understands_is_literal_or_refused() {
    check("\\<a\\>", &["<a>"], &["a"]);
    check("a\\b{start}", &["a{start}"], &["a"]);
    check("a{,2}", &["a{,2}"], &["a", "aa"]);
    check("a#b", &["a#b"], &["a"]);
    check_error("(?x)a", "invalid or unsupported Perl syntax: `(?x`");
    check_error("(?u)a", "invalid or unsupported Perl syntax: `(?u`");
    check_error("(?R)a", "invalid or unsupported Perl syntax: `(?R`");
    check_error("\\u0041", "invalid escape sequence: `\\u`");
    check_error("\\h", "invalid escape sequence: `\\h`");
}

#[test]
fn escapes_are_those_of_re2() {
    check("\\Qa.b\\E+", &["a.b", "a.bb"], &["axb", "a.ba.b"]);
    check("\\x41\\x{e9}\\101\\07", &["AéA\x07"], &[]);
    check("\\a\\f\\n\\r\\t\\v\\_\\-", &["\x07\x0c\n\r\t\x0b_-"], &[]);
    for refused in ["\\C", "\\1", "\\8", "\\Z", "\\é"] {
        check_error(refused, &format!("invalid escape sequence: `{refused}`"));
    }
    check_error("\\x{110000}", "invalid escape sequence: `\\x{110000`");
    check_error("[\\Q]", "invalid escape sequence: `\\Q`");
    check_error("\\", "missing closing ): `^(?s:\\)$`");
}

#[test]
fn flags_hold_to_the_end_of_their_group() {
    check("(?i)foo|BAR", &["FOO", "bar"], &["baz"]);
    check("(?i:f)oo", &["Foo", "foo"], &["FOO"]);
    check("((?i)f)oo", &["Foo"], &["fOO"]);
    check("(?i)k", &["K", "\u{212a}"], &["j"]);
    check("(?i)[^k]", &["j"], &["K", "\u{212a}"]);
    check_error("(?i-)a", "invalid or unsupported Perl syntax: `(?i-)`");
    check_error("(?=a)", "invalid or unsupported Perl syntax: `(?=`");
}

#[test]
fn errors_are_in_the_words_of_go() {
    check_error("(a", "missing closing ): `^(?s:(a)$`");
    check_error("a)", "unexpected ): `^(?s:a))$`");
    check_error("[a", "missing closing ]: `[a)$`");
    check_error("[b-a]", "invalid character class range: `b-a`");
    check_error("[[:foo:]]", "invalid character class range: `[:foo:]`");
    check_error("*", "missing argument to repetition operator: `*`");
    check_error("a|+?", "missing argument to repetition operator: `+?`");
    check_error("a**", "invalid nested repetition operator: `**`");
    check_error("a{2}{3}", "invalid nested repetition operator: `{2}{3}`");
    check_error("(?P<n-m>a)", "invalid named capture: `(?P<n-m>`");
    check_error("(?P<n", "invalid named capture: `(?P<n)$`");
}

#[test]
fn size_is_bounded() {
    check("a{1000}", &[], &["a"]);
    check("a{0,1000}", &["", "aaa"], &["b"]);
    check_error("a{1001}", "invalid repeat count: `{1001}`");
    check_error("a{2,1}", "invalid repeat count: `{2,1}`");
    check_error("a{99999999999999999999}", "invalid repeat count: `{99999999999999999999}`");
    check_error("((a{10}){10}){11}", "invalid repeat count: `{11}`");
    let large = "\\pL{1000}";
    check_error(large, &format!("expression too large: `{large}`"));
    let nested = |depth: usize| format!("{}a|b{}", "(x*".repeat(depth), ")".repeat(depth));
    check(&nested(50), &["xa"], &["xxx"]);
    check_error(&nested(500), &format!("expression nests too deeply: `^(?s:{})$`", nested(500)));
}

#[test]
fn the_deepest_expression_fits_a_small_stack() {
    let depth = re2::NESTING_MAX as usize - 2;
    let source = format!("{}[ab]{}", "(".repeat(depth), ")".repeat(depth));
    let deepest = move || Regex::new(&source).is_ok_and(|regex| regex.compiled().is_match("a"));
    assert!(std::thread::Builder::new().stack_size(1 << 20).spawn(deepest).unwrap().join().unwrap());
}

#[test]
fn few_words_are_listed() {
    #[track_caller]
    fn check(source: &str, want: Option<&[&str]>) {
        let regex = Regex::new(source).unwrap();
        let got: Option<Vec<&str>> = regex.literal_alternatives().map(|all| all.iter().map(|text| &**text).collect());
        assert_eq!(got.as_deref(), want, "{source:?}");
        assert!(want.is_none() || regex.0.engine.get().is_none(), "{source:?} needs no engine");
    }
    check("foo", Some(&["foo"]));
    check("", Some(&[""]));
    check("foo|bar|foo", Some(&["bar", "foo"]));
    check("foo|fob|f", Some(&["f", "fob", "foo"]));
    check("(node-[1-3]|x)y?", Some(&["node-1", "node-1y", "node-2", "node-2y", "node-3", "node-3y", "x", "xy"]));
    check("\\Qa.b\\E", Some(&["a.b"]));
    check("(?i)ab", Some(&["AB", "Ab", "aB", "ab"]));
    check("[^\\x00-\\x{10FFFF}]", Some(&[]));
    check("(?i)a{0,2}", Some(&["", "A", "AA", "Aa", "a", "aA", "aa"]));
    check("a.b", None);
    check("a*", None);
    check("[a-z]{9}", None);
    check("foo\\b", None);
    check("a)|(b", None);
    let names: Vec<String> = (0..5000).map(|i| format!("pod-{i:04}")).collect();
    check(&names.join("|"), Some(&names.iter().map(String::as_str).collect::<Vec<_>>()));
}

#[test]
fn the_common_beginning_is_known() {
    for (source, want) in [
        ("foo.*", "foo"),
        ("(foo)(?:bar)+", "foobar"),
        ("foo|fob", "fo"),
        ("é|è", ""),
        ("(ab)c*", "ab"),
        ("ab?", "a"),
        ("a{2,}b", "a"),
        (".*foo", ""),
        ("(?i)foo.*", ""),
        ("(?i)1foo.*", "1"),
        ("foo)|(bar", ""),
    ] {
        assert_eq!(Regex::new(source).unwrap().prefix(), want, "{source:?}");
    }
}

#[test]
fn groups_are_numbered_as_they_are_written() {
    #[track_caller]
    fn check(source: &str, text: &str, want: &[Option<&str>]) {
        let regex = Regex::new(source).unwrap();
        let mut groups = Groups::new();
        assert!(regex.find_groups(text, &mut groups), "{source:?}");
        let got: Vec<Option<&str>> = groups.iter().map(|group| group.map(|(start, end)| &text[start..end])).collect();
        assert_eq!(got, want, "{source:?} on {text:?}");
    }
    check("(.*)", "a\nb", &[Some("a\nb"), Some("a\nb")]);
    check("(a(.+)(b))", "axxb", &[Some("axxb"), Some("axxb"), Some("xx"), Some("b")]);
    check("()a(b)()", "ab", &[Some("ab"), Some(""), Some("b"), Some("")]);
    check("(.*?);(.*)", "a;b;c", &[Some("a;b;c"), Some("a"), Some("b;c")]);
    check("(a)|(b)", "b", &[Some("b"), None, Some("b")]);
    check("(a){0}(b)", "b", &[Some("b"), None, Some("b")]);
    check("(?:(a)|b)*", "ab", &[Some("ab"), Some("a")]);
    check("(a{2})?", "aa", &[Some("aa"), Some("aa")]);
    let named = Regex::new("(?P<n>a)(?<1m>b)(?P<n>c)").unwrap();
    assert_eq!(named.groups_named("n").collect::<Vec<_>>(), [1, 3]);
    assert_eq!(named.groups_named("1m").collect::<Vec<_>>(), [2]);
    assert_eq!(named.group_count(), 4);
}

#[test]
fn replacing_keeps_what_does_not_match() {
    #[track_caller]
    fn check(source: &str, text: &str, want: &str) {
        let regex = Regex::new(source).unwrap();
        let got = regex.replace_all(text, |groups, out| {
            let (start, end) = groups[0].unwrap();
            out.push_str(&format!("<{}>", &text[start..end]));
        });
        assert_eq!(got, want, "{source:?} on {text:?}");
    }
    check("foo", "foo", "<foo>");
    check("foo", "foox", "foox");
    check("a)|(b", "a-b", "<a>-<b>");
    check("a*", "", "<>");
}

#[test]
fn unanchored_expressions_search_within_a_text() {
    #[track_caller]
    fn check(source: &str, text: &str, replacement: &str, want: &str) {
        let regex = Regex::unanchored(source).unwrap();
        let replacement = Replacement::parse(replacement, &regex);
        assert_eq!(regex.replace_all(text, |groups, out| replacement.append(text, groups, out)), want, "{source:?}");
        assert_eq!(regex.is_match(text), text != want || source.is_empty(), "{source:?}");
    }
    check("a", "banana", "<$0>", "b<a>n<a>n<a>");
    check("^b|a$", "banana", "", "anan");
    check("(?P<c>[an])n", "banana", "${c}-", "ba-a-a");
    check("", "ab", "-", "-a-b-");
    check("x", "banana", "y", "banana");
    check("a.c", "a\nc", "y", "a\nc");
    assert_eq!(Regex::unanchored("(").unwrap_err().to_string(), "error parsing regexp: missing closing ): `(`");
    assert_ne!(Regex::unanchored("a").unwrap(), Regex::new("a").unwrap());
    let regex = Regex::unanchored("a").unwrap();
    let refused = regex.try_replace_all("banana", |_, out| if out.len() < 3 { Ok(()) } else { Err("long") });
    assert_eq!(refused, Err("long"));
}

/// A fixed sequence of numbers, so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Pieces that build expressions, so that a good share of them compiles.
const PIECES: [&str; 52] = [
    "a",
    "b",
    "foo",
    "bar",
    ".",
    ".*",
    ".+",
    ".*?",
    "\\.",
    "(",
    "(",
    ")",
    ")",
    "(?:",
    "(?i)",
    "(?-s)",
    "(?m)",
    "(?U)",
    "(?P<n>",
    "[",
    "]",
    "[a-c]",
    "[^a]",
    "^",
    "$",
    "\\b",
    "\\B",
    "\\d",
    "\\w",
    "\\s",
    "\\pL",
    "[[:alpha:]]",
    "*",
    "+",
    "?",
    "{2}",
    "{0}",
    "{1,2}",
    "{2,}",
    "|",
    "|",
    "\\Q",
    "\\E",
    "k",
    "ſ",
    "é",
    "-",
    "&&",
    "\\",
    "(.*)",
    "(.+)",
    "\n",
];

#[test]
fn the_ways_to_an_answer_agree() {
    let texts = ["", "a", "b", "ab", "foo", "bar", "foobar", "foo\n", "k", "\u{212a}", "é", "a.b", "aab", "-", "fooé"];
    let mut numbers = Numbers(1);
    let (mut compiled, mut without_engine) = (0, 0);
    for _ in 0..4000 {
        let source: String = (0..1 + numbers.below(6)).map(|_| PIECES[numbers.below(PIECES.len())]).collect();
        let Ok(regex) = Regex::new(&source) else { continue };
        compiled += 1;
        without_engine += usize::from(regex.0.engine.get().is_none());
        let tree = re2::parse(&anchored(&source)).unwrap().tree;
        let engine = Engine::build(&tree, PROGRAM_BYTES_MAX).unwrap();
        for text in texts {
            let want = engine.compiled.captures(text);
            let mut want_groups = Groups::new();
            if let Some(captures) = &want {
                engine.copy_groups(captures, regex.group_count(), &mut want_groups);
            }
            let mut groups = Groups::new();
            assert_eq!(regex.is_match(text), want.is_some(), "{source:?} on {text:?}");
            assert_eq!(regex.find_groups(text, &mut groups), want.is_some(), "{source:?} on {text:?}");
            assert_eq!(groups, want_groups, "{source:?} on {text:?}");
            if want.is_some() && regex.0.matches_whole_text {
                assert!(text.starts_with(regex.prefix()), "{source:?} on {text:?}");
            }
            if let Some(literals) = regex.literal_alternatives() {
                assert_eq!(literals.iter().any(|literal| **literal == *text), want.is_some(), "{source:?} on {text:?}");
            }
        }
    }
    assert!(compiled > 1000 && without_engine > 200, "the pieces still build: {compiled}, {without_engine}");
}

#[test]
fn no_expression_makes_it_panic() {
    let seeds = ["^(?s:(.*))$", "(?P<n>[[:alpha:]]+)-\\x{e9}{2,3}?|\\Qa\\E", "[\\p{Greek}^a-z\\d]*(?i-s:b|c){1000}\\z"];
    let mut numbers = Numbers(2);
    for _ in 0..6000 {
        let mut source: Vec<char> = seeds[numbers.below(seeds.len())].chars().collect();
        for _ in 0..1 + numbers.below(4) {
            let at = numbers.below(source.len());
            match numbers.below(3) {
                0 => drop(source.remove(at)),
                1 => source.insert(at, char::from(32 + numbers.below(95) as u8)),
                _ => source.truncate(at + 1),
            }
            if source.is_empty() {
                source.push('\\');
            }
        }
        let source: String = source.into_iter().collect();
        if let Err(error) = Regex::new(&source) {
            assert!(!error.0.contains("internal error"), "{source:?}: {error}");
        }
    }
}
