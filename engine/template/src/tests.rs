use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

/// The expansion of a template for an alert with some labels, or the error.
fn expand(text: &str, value: f64) -> String {
    let own = labels(&[("instance", "host.example.org:9100"), ("job", "node")]);
    let external = labels(&[("region", "eu")]);
    let context = Context {
        labels: &own,
        external_labels: &external,
        external_url: "http://prom.example.org/base",
        value,
        now_ms: 1_500,
    };
    let mut query = |expression: &str| match expression {
        "up" => Ok(vec![
            Sample { labels: labels(&[("instance", "b"), ("__value__", "raw")]), value: 1.0 },
            Sample { labels: labels(&[("instance", "a")]), value: 12_345_678.0 },
        ]),
        "none" => Ok(Vec::new()),
        other => Err(format!("no answer to {other}")),
    };
    let parsed = Template::parse("__alert_x", text);
    parsed.and_then(|template| template.expand(&context, &mut query)).unwrap_or_else(|error| error.to_string())
}

#[track_caller]
fn check(text: &str, want: &str) {
    assert_eq!(expand(text, 0.25), want, "{text}");
}

#[track_caller]
fn check_value(text: &str, value: f64, want: &str) {
    assert_eq!(expand(text, value), want, "{text} of {value}");
}

#[test]
fn alerts_and_their_variables() {
    check("plain text", "plain text");
    check("{{ $labels.instance }} of {{ .Labels.job }}", "host.example.org:9100 of node");
    check("[{{ $labels.missing }}]", "[]");
    check("{{ $value }} {{ .Value }}", "0.25 0.25");
    check(
        "{{ $externalLabels.region }} {{ .ExternalURL }} {{ externalURL }} {{ pathPrefix }}",
        "eu http://prom.example.org/base http://prom.example.org/base /base",
    );
    check("{{ $labels }}", "map[instance:host.example.org:9100 job:node]");
    check("{{ $.Value }}", "0.25");
    check("{{ .Labels.instance | stripPort | toUpper }}", "HOST.EXAMPLE.ORG");
    check_value("{{ $value }}", 1e6, "1e+06");
    check_value("{{ $value }}", f64::NAN, "NaN");
    check_value("{{ $value }}", f64::INFINITY, "+Inf");
}

#[test]
fn white_space_and_comments() {
    check("a {{- 1 -}} b", "a1b");
    check("a {{-1}} b", "a -1 b");
    check("a{{/* nothing */}}b", "ab");
    check("a {{- /* nothing */ -}} b", "ab");
    check("{{ `raw \\n` }}{{ \"q\\t\\\"\\u00e9\\x41\" }}{{ 'a' }}", "raw \\nq\t\"éA97");
    check("}} {", "}} {");
}

#[test]
fn control_flow() {
    check("{{ if gt $value 0.2 }}high{{ else }}low{{ end }}", "high");
    check("{{ if eq $labels.job \"x\" }}x{{ else if eq $labels.job \"node\" }}n{{ else }}o{{ end }}", "n");
    check("{{ with $labels.missing }}there{{ else }}gone{{ end }}", "gone");
    check("{{ with $labels.job }}{{ . }}{{ end }}", "node");
    check(
        "{{ range $i, $s := query \"up\" }}{{ $i }}={{ $s.Labels.instance }}:{{ .Value }} {{ end }}",
        "0=b:1 1=a:1.2345678e+07 ",
    );
    check("{{ range query \"none\" }}x{{ else }}none{{ end }}", "none");
    check("{{ range $name, $text := $labels }}{{ $name }};{{ end }}", "instance;job;");
    check("{{ range 3 }}{{ . }}{{ end }}", "012");
    check(
        "{{ range 9 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ if eq . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}",
        "02",
    );
    check("{{ $x := 1 }}{{ range 3 }}{{ $x = . }}{{ end }}{{ $x }}", "2");
    check("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21");
    check("{{ define \"t\" }}<{{ .arg0 }}|{{ .arg1 }}>{{ end }}{{ template \"t\" (args 1 \"b\") }}", "<1|b>");
    check("{{ block \"b\" $value }}[{{ . }}]{{ end }}", "[0.25]");
    check("{{ and 1 0 }} {{ and 1 2 }} {{ or 0 \"x\" }} {{ not true }}", "0 2 x false");
    check("{{ or true (query \"bad\") }}", "true");
    check(
        "{{ eq 1 2 1 }} {{ ne \"a\" \"b\" }} {{ lt 1 2 }} {{ le 2 2 }} {{ ge 1.5 2.5 }}",
        "true true true true false",
    );
    check("{{ (index (query \"up\") 0).Labels.instance }}", "b");
}

#[test]
fn queries() {
    check("{{ query \"up\" | first | value }}", "1");
    check("{{ query \"up\" | first | label \"instance\" }}", "b");
    check("{{ query \"up\" | first | strvalue }}", "raw");
    check("{{ query \"up\" | sortByLabel \"instance\" | first | value | humanize }}", "12.35M");
    check(
        "{{ query \"none\" | first }}",
        "error executing template __alert_x: template: __alert_x:1:18: executing \"__alert_x\" at <first>: error calling \
         first: first() called on vector with no elements",
    );
    check(
        "{{ query \"bad\" }}",
        "error executing template __alert_x: template: __alert_x:1:3: executing \"__alert_x\" at <query \"bad\">: error \
         calling query: no answer to bad",
    );
    check("{{ len (query \"up\") }}", "2");
}

#[test]
fn numbers_for_people() {
    for (value, humanize, humanize1024, duration, percentage) in [
        (0.0, "0", "0", "0s", "0%"),
        (1.0, "1", "1", "1s", "100%"),
        (1_234_567.0, "1.235M", "1.177Mi", "14d 6h 56m 7s", "1.235e+08%"),
        (0.000_123, "123u", "0.000123", "123us", "0.0123%"),
        (-3_661.0, "-3.661k", "-3.575ki", "-1h 1m 1s", "-3.661e+05%"),
        (59.999_9, "60", "60", "60s", "6000%"),
        (0.1899, "189.9m", "0.1899", "189.9ms", "18.99%"),
        (f64::INFINITY, "+Inf", "+Inf", "+Inf", "+Inf%"),
        (f64::NAN, "NaN", "NaN", "NaN", "NaN%"),
    ] {
        check_value("{{ humanize $value }}", value, humanize);
        check_value("{{ humanize1024 $value }}", value, humanize1024);
        check_value("{{ humanizeDuration $value }}", value, duration);
        check_value("{{ humanizePercentage $value }}", value, percentage);
    }
    check_value("{{ humanizeTimestamp $value }}", 1_435_065_584.128, "2015-06-23 13:19:44.128 +0000 UTC");
    check_value("{{ humanizeTimestamp $value }}", -1.0, "1969-12-31 23:59:59 +0000 UTC");
    check_value("{{ humanizeTimestamp $value }}", f64::NAN, "NaN");
    check_value("{{ toTime $value }}", 951_782_400.0, "2000-02-29 00:00:00 +0000 UTC");
    check_value("{{ toDuration $value }}", 3_723.5, "1h2m3.5s");
    check_value("{{ toDuration $value }}", 0.0015, "1.5ms");
    check("{{ humanize \"1e3\" }} {{ now }} {{ parseDuration \"1h30m\" }}", "1k 1.5 5400");
    assert!(
        expand("{{ toTime 1e30 }}", 0.0)
            .ends_with("1e+30 cannot be represented as a nanoseconds timestamp since it overflows int64")
    );
    assert!(expand("{{ humanize \"x\" }}", 0.0).contains("strconv.ParseFloat: parsing \"x\": invalid syntax"));
    assert!(expand("{{ parseDuration \"1s1h\" }}", 0.0).contains("not a valid duration string"));
}

#[test]
fn printf_as_go_does() {
    for (format, want) in [
        ("printf \"%.2f\" 3.14159", "3.14"),
        ("printf \"%5.1f|%-6d|%06.2f|%+d\" 1.25 7 -1.5 3", "  1.2|7     |-01.50|+3"),
        ("printf \"%s is %v\" \"a\" 1.5", "a is 1.5"),
        ("printf \"%q %x %X %t %%\" \"a\\\"b\" 255 255 true", "\"a\\\"b\" ff FF true %"),
        ("printf \"%e %g %.3g %G\" 1234.5 1234567.0 1234567.0 1e-7", "1.234500e+03 1.234567e+06 1.23e+06 1E-07"),
        ("printf \"%d\" 1.5", "%!d(float64=1.5)"),
        ("printf \"%s\" 1", "%!s(int=1)"),
        ("printf \"%d %d\" 1", "1 %!d(MISSING)"),
        ("printf \"x\" 1", "x%!(EXTRA int=1)"),
        ("printf \"%\"", "%!(NOVERB)"),
        ("printf \"%*d\" 4 7", "   7"),
        ("printf \"%v %s\" true nil", "true %!s(<nil>)"),
        ("printf \"%.3s|%5s|%-5s|\" \"abcdef\" \"é\" \"x\"", "abc|    é|x    |"),
        ("print 1 2 \"a\" 3", "1 2a3"),
        ("println \"a\" 1", "a 1\n"),
    ] {
        check(&format!("{{{{ {format} }}}}"), want);
    }
}

#[test]
fn strings() {
    for (call, want) in [
        ("title \"hello wide world\"", "Hello Wide World"),
        ("toLower \"ÀB\"", "àb"),
        ("match \"^h.*d$\" \"hello world\"", "true"),
        ("match \"[0-9]\" \"abc\"", "false"),
        ("reReplaceAll \"(.*):(.*)\" \"$2-${1}\" \"host:80\"", "80-host"),
        ("stripPort \"[::1]:80\"", "::1"),
        ("stripPort \"host\"", "host"),
        ("stripDomain \"a.b.c:80\"", "a:80"),
        ("stripDomain \"10.0.0.1:80\"", "10.0.0.1:80"),
        ("tableLink \"up{job=\\\"a b\\\"}\"", "/graph?g0.expr=up%7Bjob%3D%22a+b%22%7D&g0.tab=1"),
        ("graphLink \"up\"", "/graph?g0.expr=up&g0.tab=0"),
        ("urlQueryEscape \"a b&c~\"", "a+b%26c~"),
        ("html \"<a href='x'>\"", "&lt;a href=&#39;x&#39;&gt;"),
        ("js \"it's <b>\"", "it\\'s \\u003Cb\\u003E"),
        ("safeHtml \"<b>\"", "<b>"),
        ("slice \"abcdef\" 1 3", "bc"),
        ("index \"abc\" 1", "98"),
        ("index (args 5 6) \"arg1\"", "6"),
    ] {
        check(&format!("{{{{ {call} }}}}"), want);
    }
}

#[test]
fn mistakes_name_their_place() {
    for (text, want) in [
        ("{{ $labels.job", "error parsing template __alert_x: template: __alert_x:1: unclosed action"),
        (
            "a\n{{ nosuch 1 }}",
            "error parsing template __alert_x: template: __alert_x:2: function \"nosuch\" not defined",
        ),
        ("{{ if true }}x", "error parsing template __alert_x: template: __alert_x:1: unexpected EOF"),
        ("{{ end }}", "error parsing template __alert_x: template: __alert_x:1: unexpected {{end}}"),
        ("{{ $nope }}", "error parsing template __alert_x: template: __alert_x:1: undefined variable \"$nope\""),
        ("{{ 1 2 }}", "error parsing template __alert_x: template: __alert_x:1: can't give argument to non-function"),
        ("{{ }}", "error parsing template __alert_x: template: __alert_x:1: missing value for command"),
        ("{{ break }}", "error parsing template __alert_x: template: __alert_x:1: {{break}} outside {{range}}"),
        (
            "x\n  {{ .Nope }}",
            "error executing template __alert_x: template: __alert_x:2:5: executing \"__alert_x\" at <.Nope>: can't evaluate \
             field Nope in type struct",
        ),
        (
            "{{ gt $value 1 }}",
            "error executing template __alert_x: template: __alert_x:1:3: executing \"__alert_x\" at <gt $value 1>: error \
             calling gt: incompatible types for comparison",
        ),
        (
            "{{ humanize }}",
            "error executing template __alert_x: template: __alert_x:1:3: executing \"__alert_x\" at <humanize>: wrong number \
             of args for humanize: want 1 got 0",
        ),
    ] {
        check(text, want);
    }
}

#[test]
fn everything_is_bounded() {
    let deep = format!("{}1{}", "{{ (".to_owned() + &"(".repeat(500), ")".repeat(501) + " }}");
    assert!(expand(&deep, 0.0).contains("nested deeper than 100 levels"));
    let nested = "{{ if true }}".repeat(300) + &"{{ end }}".repeat(300);
    assert!(expand(&nested, 0.0).contains("nested deeper than 100 levels"));
    let chain = format!("{{{{ if false }}}}{}{{{{ end }}}}", "{{ else if false }}".repeat(300));
    assert!(expand(&chain, 0.0).contains("nested deeper than 100 levels"));
    let endless = "{{ define \"t\" }}{{ template \"t\" . }}{{ end }}{{ template \"t\" . }}";
    assert!(expand(endless, 0.0).contains("exceeded maximum template depth (100)"));
    let long = "{{ range 900000 }}{{ range 900000 }}{{ end }}{{ end }}";
    assert!(expand(long, 0.0).contains("more than 1000000 steps"));
    let large = "{{ range 900000 }}{{ printf \"%900d\" . }}{{ end }}";
    assert!(expand(large, 0.0).contains("more than 1048576 bytes of output"));
    let doubling = format!("{{{{ $x := \"aaaaaaaa\" }}}}{}", "{{ $x = printf \"%s%s\" $x $x }}".repeat(40));
    assert!(expand(&doubling, 0.0).contains("more than 1048576 bytes"));
}

/// Whatever comes is an expansion or an error.
#[test]
fn mutated_templates_do_not_panic() {
    let seeds = [
        "{{ range $i, $s := query \"up\" | sortByLabel \"instance\" }}{{ $i }}{{ $s.Labels.instance }}{{ end }}",
        "{{ if and (gt $value 1.0) (eq $labels.job \"a\") }}{{ printf \"%.2f\" $value }}{{ else }}é{{ end -}} x",
        "{{ define \"t\" }}{{ .arg0 | humanize }}{{ end }}{{ template \"t\" (args 1.5 'x' `r` -0x1f) }}",
        "{{ with $x := reReplaceAll \"(a+)\" \"$1\" .Labels.job }}{{ $x | title | len }}{{ end }}{{/* c */}}",
    ];
    let mut state = 11u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let pieces =
        ["{{", "}}", " ", "|", "(", ")", ".", "$x", "range", "end", "else", "\"", "`", "-", "0", "é", ":=", ","];
    let mut good = 0;
    for round in 0..20_000 {
        let mut text: Vec<char> = seeds[round % seeds.len()].chars().collect();
        for _ in 0..=random(4) {
            let at = random(text.len());
            match random(3) {
                0 => drop(text.remove(at)),
                1 => text.splice(at..at, pieces[random(pieces.len())].chars()).for_each(drop),
                _ => {
                    let end = (at + random(8)).min(text.len());
                    text.drain(at..end).for_each(drop);
                }
            }
            if text.is_empty() {
                text.push('x');
            }
        }
        let text: String = text.into_iter().collect();
        good += usize::from(!expand(&text, 1.5).starts_with("error "));
    }
    assert!(good > 1000, "{good} of the mutated templates expand");
}
