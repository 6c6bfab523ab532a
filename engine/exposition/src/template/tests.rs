use super::*;
use crate::text::labels;

/// Labels, value bits, timestamp and text of the exemplar.
type Sample = (String, u64, Option<i64>, Option<String>);

/// What the plain parser reads: every sample; or the error and the samples before.
type Plain = (Vec<Sample>, Option<String>);

fn plain(body: &[u8]) -> Plain {
    plain_of(Format::Text, body)
}

fn plain_of(format: Format, body: &[u8]) -> Plain {
    let mut parser = PayloadParser::new(format, body, 0, Kind::Unknown);
    let mut samples = Vec::new();
    loop {
        match parser.next_sample() {
            Ok(Some(line)) => {
                let labels = format!("{:?}", labels(&body[line.raw.clone()], line.kind));
                let exemplar = line.exemplar.map(|text| String::from_utf8_lossy(&body[text]).into_owned());
                samples.push((labels, line.value.to_bits(), line.timestamp, exemplar));
            }
            Ok(None) => return (samples, None),
            Err(error) => return (samples, Some(error.text)),
        }
    }
}

/// The same by a walk along `shape`, and the shape that comes out of it.
fn walked(shape: &[Template], body: &[u8]) -> (Plain, Vec<Template>, bool) {
    walked_of(Format::Text, shape, body, &mut Readings::default())
}

fn walked_of(format: Format, shape: &[Template], body: &[u8], readings: &mut Readings) -> (Plain, Vec<Template>, bool) {
    let walked = match walk(shape, format, body, readings) {
        ScanProgress::Warm => ScanResult::Warm,
        ScanProgress::Unfinished(mut walker) => {
            while walker.step() {}
            walker.finish()
        }
    };
    let (shape, error, warm) = match walked {
        ScanResult::Warm => (shape.to_vec(), None, true),
        ScanResult::Changed { pieces, error } => {
            let template = |piece| match piece {
                LayoutPart::Known(i) => shape[i].clone(),
                LayoutPart::New(template) => template,
            };
            (pieces.into_iter().map(template).collect(), error, false)
        }
    };
    let mut stamps = readings.stamps.iter();
    let mut values = readings.values.iter();
    let mut exemplars = readings.exemplars.iter().peekable();
    let mut samples = Vec::new();
    for template in &shape {
        for (line, kind) in template.kinds().enumerate() {
            let labels = format!("{:?}", labels(template.raw(line), kind));
            let stamp = template.is_stamped(line).then(|| *stamps.next().unwrap());
            let exemplar = exemplars.next_if(|exemplar| exemplar.value as usize == samples.len());
            let exemplar = exemplar.map(|found| String::from_utf8_lossy(&body[found.text.clone()]).into_owned());
            samples.push((labels, values.next().unwrap().to_bits(), stamp, exemplar));
        }
    }
    assert_eq!((values.next(), stamps.next(), exemplars.next()), (None, None, None));
    readings.seen = readings.exemplars.iter().map(|exemplar| (exemplar.value, exemplar.hash)).collect();
    ((samples, error.map(|error| error.text)), shape, warm)
}

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    }
}

/// A payload with families of all kinds; `skip` leaves lines out, `values` seeds the values.
fn payload(families: u64, values: u64, skip: impl Fn(u64, u64) -> bool) -> String {
    use std::fmt::Write;
    let mut value = random(values);
    let mut body = String::new();
    for family in 0..families {
        let kind = ["counter", "gauge", "histogram", "summary"][family as usize % 4];
        if family % 5 != 4 {
            writeln!(body, "# HELP fam_{family} Text of {family}.\n# TYPE fam_{family} {kind}").unwrap();
        }
        for line in 0..(family * 7) % 40 + 1 {
            if skip(family, line) {
                continue;
            }
            let label = if kind == "histogram" { "le" } else { "code" };
            write!(body, "fam_{family}{{{label}=\"{line}\",path=\"/x\"}} ").unwrap();
            match value(4) {
                0 => write!(body, "{}", value(1_000_000)).unwrap(),
                1 => write!(body, "{}.{}", value(1000), value(1000)).unwrap(),
                2 => write!(body, "{}e+09", value(100)).unwrap(),
                _ => body.push_str(["NaN", "+Inf", "0", "-3"][value(4) as usize]),
            }
            body.push_str(if family % 9 == 3 { " 1700000000000\n" } else { "\n" });
        }
    }
    body
}

#[test]
fn second_walk_is_warm_and_reads_the_same() {
    let first = payload(60, 1, |_, _| false);
    let (got, shape, warm) = walked(&[], first.as_bytes());
    assert!(!warm);
    assert_eq!(got, plain(first.as_bytes()));
    assert!(shape.len() > 5, "cut into {} runs", shape.len());
    let second = payload(60, 2, |_, _| false);
    let (got, _, warm) = walked(&shape, second.as_bytes());
    assert!(warm);
    assert_eq!(got, plain(second.as_bytes()));
}

#[test]
fn long_bodies_are_walked_in_steps() {
    let body = |value: u64, last: &str| {
        let lines = 0..3 * KNOWN_LINES_PER_STEP;
        lines.map(|i| format!("a{{i=\"{i}\"}} {value} {value}\n")).collect::<String>() + last
    };
    let (_, shape, _) = walked(&[], body(1, "b 1\n").as_bytes());
    for (last, warm) in [("b 7\n", true), ("c 7\n", false), ("b 7\nc 8\n", false), ("", false), ("b\n", false)] {
        let body = body(2, last);
        let mut readings = Readings::default();
        let ScanProgress::Unfinished(mut walker) = walk(&shape, Format::Text, body.as_bytes(), &mut readings) else {
            panic!("one step is not enough")
        };
        assert!(walker.samples() < 2 * KNOWN_LINES_PER_STEP);
        let mut steps = 1;
        while walker.step() {
            steps += 1;
        }
        assert!(steps >= 2, "{last:?}: {steps} steps");
        let (got, _, was_warm) = walked(&shape, body.as_bytes());
        assert_eq!((got, was_warm), (plain(body.as_bytes()), warm), "{last:?}");
    }
}

#[test]
fn line_that_comes_and_goes_is_soon_alone() {
    let whole = payload(60, 1, |_, _| false);
    let (_, whole_shape, _) = walked(&[], whole.as_bytes());
    for family in 0..60 {
        let less = payload(60, 3, |f, line| f == family && line == family % 3);
        let mut shape = whole_shape.clone();
        for round in 0..6 {
            let body = if round % 2 == 0 { &less } else { &whole };
            let (got, patched, _) = walked(&shape, body.as_bytes());
            assert_eq!(got, plain(body.as_bytes()));
            let new = || patched.iter().filter(|template| !shape.contains(template));
            let (templates, lines) = (new().count(), new().map(Template::len).sum::<usize>());
            assert!(templates <= 4, "family {family}, round {round}: {templates} of {} are new", patched.len());
            // The line behind the first of a family has the comments in turn with it.
            assert!(round < 2 || lines <= 2, "family {family}, round {round}: {lines} lines are new");
            shape = patched;
        }
    }
}

/// Scattered lines that are others in each payload: the first changes cut the templates, then only they are new.
#[test]
fn lines_that_change_leave_their_neighbours_alone() {
    let body = |round: u64| {
        let line = |i: u64| match i % 70 {
            33 => format!("a{{i=\"{i}\",generation=\"{round}\"}} 1\n"),
            _ => format!("a{{i=\"{i}\"}} {round}\n"),
        };
        (0..1_400).map(line).collect::<String>()
    };
    let (_, mut shape, _) = walked(&[], body(0).as_bytes());
    for round in 1..5 {
        let (got, patched, _) = walked(&shape, body(round).as_bytes());
        assert_eq!(got, plain(body(round).as_bytes()));
        let new: Vec<usize> = patched.iter().filter(|template| !shape.contains(template)).map(Template::len).collect();
        assert!(round == 1 || new == [1; 20], "round {round}: {new:?}");
        shape = patched;
    }
}

#[test]
fn slices_are_what_a_parse_of_their_lines_gives() {
    let body = payload(30, 1, |_, _| false) + "# end\n";
    let (_, shape, _) = walked(&[], body.as_bytes());
    let mut at = 0;
    for template in &shape {
        let len = template.len();
        for cut in 0..len {
            let (head, rest) = (template.slice(0..cut), template.slice(cut..len));
            assert_eq!((head.len(), rest.len()), (cut, len - cut));
            assert_eq!(head.kinds().chain(rest.kinds()).collect::<Vec<_>>(), template.kinds().collect::<Vec<_>>());
            assert_eq!((head.kind_before, rest.kind_behind), (template.kind_before, template.kind_behind));
            assert_eq!(head.kind_behind, rest.kind_before);
            let (mut readings, mut whole) = (Readings::default(), Readings::default());
            let Scan { at: behind, whole: fits, .. } = template.scan(body.as_bytes(), at, &mut whole);
            assert!(fits);
            let scan = head.scan(body.as_bytes(), at, &mut readings);
            assert!(scan.whole);
            assert_eq!(
                rest.scan(body.as_bytes(), scan.at, &mut readings),
                Scan { line: len - cut, at: behind, whole: true }
            );
            assert_eq!(readings.values.len(), whole.values.len());
        }
        at = template.scan(body.as_bytes(), at, &mut Readings::default()).at;
    }
    assert_eq!(at, body.len());
}

#[test]
fn payloads_of_neighbours_share_their_templates() {
    let (_, one, _) = walked(&[], payload(60, 1, |family, line| family == 11 && line == 3).as_bytes());
    let (_, other, _) = walked(&[], payload(60, 1, |family, line| family == 40 && line == 3).as_bytes());
    let shared = one.iter().filter(|template| other.contains(template)).count();
    assert!(shared * 3 >= one.len() * 2, "{shared} of {} are shared", one.len());
    for template in &one {
        for twin in other.iter().filter(|twin| *twin == template) {
            assert_eq!(template.content_hash(), twin.content_hash());
        }
    }
}

#[test]
fn ends_of_payloads() {
    for (first, second) in [
        ("a 1\n", "a 2"),
        ("a 1", "a 2\n"),
        ("a 1\n# end\n", "a 2\n# end\n"),
        ("a 1\n# end\n", "a 2\n# end\nb 1\n"),
        ("a 1\n# end\n", "a 2\n"),
        ("a 1\n", "a 1\n# end"),
        ("", "a 1\n"),
        ("a 1\n", ""),
        ("# only\n", "# only\n"),
        ("# only\n", ""),
        ("a 1\nb 2\n", "a 1\n"),
        ("a 1\n", "a 1\nb 2\n"),
        ("a 1\n", "a 1\n7\n"),
        ("a 1 5\n", "a 1\n"),
        ("a 1\n", "a 1 5\n"),
        ("# TYPE a histogram\na{le=\"1\"} 1\n", "# TYPE b gauge\na{le=\"1\"} 1\n"),
    ] {
        let (got, shape, _) = walked(&[], first.as_bytes());
        assert_eq!(got, plain(first.as_bytes()), "{first:?}");
        let (got, shape, _) = walked(&shape, second.as_bytes());
        assert_eq!(got, plain(second.as_bytes()), "{first:?} then {second:?}");
        if got.1.is_none() {
            let (again, _, warm) = walked(&shape, second.as_bytes());
            assert_eq!(again, got);
            assert!(warm || second.is_empty(), "{second:?} is known now");
        }
    }
}

/// An OpenMetrics payload: families of all types, exemplars on some lines, times on some.
fn openmetrics_payload(families: u64, values: u64, skip: impl Fn(u64, u64) -> bool) -> String {
    use std::fmt::Write;
    let mut value = random(values);
    let mut body = String::new();
    let types =
        ["counter", "gauge", "histogram", "summary", "gaugehistogram", "info", "stateset", "unknown", "counter"];
    for family in 0..families {
        let kind = types[family as usize % types.len()];
        if family % 5 != 4 {
            writeln!(body, "# HELP fam_{family}_seconds Text of {family}.").unwrap();
            writeln!(body, "# UNIT fam_{family}_seconds seconds").unwrap();
            writeln!(body, "# TYPE fam_{family}_seconds {kind}").unwrap();
        }
        for line in 0..(family * 7) % 40 + 1 {
            if skip(family, line) {
                continue;
            }
            let label = if kind == "histogram" { "le" } else { "code" };
            write!(body, "fam_{family}_seconds{{{label}=\"{line}\",path=\"/x\"}} ").unwrap();
            match value(3) {
                0 => write!(body, "{}", value(1_000_000)).unwrap(),
                1 => write!(body, "{}.{}", value(1000), value(1000)).unwrap(),
                _ => body.push_str(["NaN", "+Inf", "0", "-3e5"][value(4) as usize]),
            }
            if family % 7 == 3 {
                write!(body, " 17000000{}.{}", value(100), value(10_000)).unwrap();
            }
            match value(4) {
                0 => write!(body, " # {{trace_id=\"{:x}\"}} 0.{} 1700000000.{}", value(9), value(9), value(9)).unwrap(),
                1 => write!(body, " # {{}} {}", value(9)).unwrap(),
                _ => {}
            }
            body.push('\n');
        }
    }
    body + "# EOF\n"
}

#[test]
fn openmetrics_lines_stay_known_while_values_and_exemplars_change() {
    let first = openmetrics_payload(60, 1, |_, _| false);
    let mut readings = Readings::default();
    let (got, shape, warm) = walked_of(Format::OpenMetrics, &[], first.as_bytes(), &mut readings);
    assert!(!warm);
    assert_eq!(got, plain_of(Format::OpenMetrics, first.as_bytes()));
    assert!(readings.exemplars.len() > 100 && readings.exemplars.iter().all(|exemplar| exemplar.is_new));
    for values in 2..6 {
        let next = openmetrics_payload(60, values, |_, _| false);
        let (got, _, warm) = walked_of(Format::OpenMetrics, &shape, next.as_bytes(), &mut readings);
        assert!(warm, "{values}");
        assert_eq!(got, plain_of(Format::OpenMetrics, next.as_bytes()));
        let (again, _, warm) = walked_of(Format::OpenMetrics, &shape, next.as_bytes(), &mut readings);
        assert!(warm && again == got);
        assert!(readings.exemplars.iter().all(|exemplar| !exemplar.is_new), "nothing has changed");
    }
}

#[test]
fn exemplars_that_cannot_be_read_fail_a_known_line() {
    let mut readings = Readings::default();
    let base = b"a 1 # {b=\"c\"} 1\nd 1\n# EOF\n";
    let (_, shape, _) = walked_of(Format::OpenMetrics, &[], base, &mut readings);
    for (body, warm) in [
        (&b"a 2 # {b=\"c\"} 1\nd 1\n# EOF\n"[..], true),
        (b"a 2 # {b=\"d\"} 1 5\nd 1 # {} 2\n# EOF\n", true),
        (b"a 2\nd 1\n# EOF\n", true),
        (b"a 2 # {b=\"c\"}\nd 1\n# EOF\n", false),
        (b"a 2 # {b=\"c\"} x\nd 1\n# EOF\n", false),
        (b"a 2 # {b} 1\nd 1\n# EOF\n", false),
        (b"a 2 5 # {b=\"c\"} 1\nd 1\n# EOF\n", false),
        (b"a 2 #\nd 1\n# EOF\n", false),
        (b"a 2 # {\nd 1\n# EOF\n", false),
        (b"a 2\nd 1\n# EOF", false),
        (b"a 2\nd 1\n", false),
        (b"a 2\n# EOF\n", false),
        (b"a 2\nd 1\n# EOF\n\n", false),
        (b"a 2\nd 1\nx 1", false),
    ] {
        let (got, _, was_warm) = walked_of(Format::OpenMetrics, &shape, body, &mut readings);
        let shown = String::from_utf8_lossy(body).into_owned();
        assert_eq!(got, plain_of(Format::OpenMetrics, body), "{shown:?}");
        assert_eq!(was_warm, warm, "{shown:?}");
    }
    let long = "x".repeat(LINE_BYTES_MAX);
    for body in [format!("a 1 # {{b=\"{long}\"}} 1\nd 1\n# EOF\n"), format!("a 1 # {{}} 1 0.{long}\nd 1\n# EOF\n")] {
        let (got, _, _) = walked_of(Format::OpenMetrics, &shape, body.as_bytes(), &mut readings);
        assert!(got.1.is_some());
        assert_eq!(got, plain_of(Format::OpenMetrics, body.as_bytes()));
    }
}

/// The fast path and the oracle agree on whatever a hostile target makes of a payload.
#[test]
fn mutated_payloads_read_as_the_oracle_reads_them() {
    mutate(Format::Text, payload(24, 1, |_, _| false).into_bytes(), 99);
}

#[test]
fn mutated_openmetrics_payloads_read_as_the_oracle_reads_them() {
    mutate(Format::OpenMetrics, openmetrics_payload(20, 1, |_, _| false).into_bytes(), 7);
}

fn mutate(format: Format, base: Vec<u8>, seed: u64) {
    let mut readings = Readings::default();
    let (_, shape, _) = walked_of(format, &[], &base, &mut readings);
    let mut next = random(seed);
    let bits: &[u8] = b"\n\n {}\",=#ae0.-\\\xff\0\r\t";
    for round in 0..6_000 {
        let mut body = base.clone();
        for _ in 0..next(4) + 1 {
            let at = next(body.len() as u64) as usize;
            match next(5) {
                0 => body[at] = bits[next(bits.len() as u64) as usize],
                1 => {
                    body.remove(at);
                }
                2 => body.insert(at, bits[next(bits.len() as u64) as usize]),
                3 => {
                    let end = (at + next(200) as usize).min(body.len());
                    let copy = body[at..end].to_vec();
                    let to = next(body.len() as u64) as usize;
                    body.splice(to..to, copy);
                }
                _ => body.truncate(at.max(1)),
            }
        }
        let (got, patched, _) = walked_of(format, &shape, &body, &mut readings);
        let want = plain_of(format, &body);
        assert_eq!(got, want, "round {round}");
        if want.1.is_none() && round % 10 == 0 {
            let (again, _, _) = walked_of(format, &patched, &body, &mut readings);
            assert_eq!(again, want, "round {round} again");
            let (back, _, _) = walked_of(format, &patched, &base, &mut readings);
            assert_eq!(back, plain_of(format, &base), "round {round} back");
        }
    }
}
