use super::*;

/// Writes messages.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl Message {
    fn number(mut self, field: u64, value: u64) -> Message {
        varint(field << 3, &mut self.0);
        varint(value, &mut self.0);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Message {
        varint(field << 3 | 1, &mut self.0);
        self.0.extend_from_slice(&value.to_bits().to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, bytes: impl AsRef<[u8]>) -> Message {
        varint(field << 3 | 2, &mut self.0);
        varint(bytes.as_ref().len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    fn message(self, field: u64, message: Message) -> Message {
        self.bytes(field, message.0)
    }

    fn label(self, name: &str, value: &str) -> Message {
        self.message(1, new().bytes(1, name).bytes(2, value))
    }
}

fn new() -> Message {
    Message::default()
}

fn family(name: &str, help: &str, kind: u64, metrics: Vec<Message>) -> Message {
    metrics
        .into_iter()
        .fold(new().bytes(1, name).bytes(2, help).number(3, kind), |family, metric| family.message(4, metric))
}

fn delimited(families: &[Message]) -> Vec<u8> {
    let mut body = Vec::new();
    for family in families {
        varint(family.0.len() as u64, &mut body);
        body.extend_from_slice(&family.0);
    }
    body
}

fn read(body: &[u8], options: HistogramOptions) -> (Transcoded, Option<String>) {
    let mut transcoder = Transcoder::new(body, options);
    let error = loop {
        match transcoder.step() {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => break Some(error.text),
        }
    };
    (transcoder.finish(), error)
}

const NATIVE: HistogramOptions =
    HistogramOptions { native: true, always_classic: false, convert_classic: false, start_times: false };

#[track_caller]
fn check(families: &[Message], want: &str) {
    let (transcoded, error) = read(&delimited(families), HistogramOptions::default());
    assert_eq!(error, None);
    assert_eq!(String::from_utf8(transcoded.text).unwrap(), format!("{want}# EOF\n"));
}

#[track_caller]
fn refuse(body: &[u8], want: &str) {
    let (transcoded, error) = read(body, NATIVE);
    let error = error.expect("an error");
    assert!(error.contains(want), "{error} has no {want}");
    assert!(!transcoded.text.ends_with(b"# EOF\n"));
}

fn bucket(bound: f64, count: u64) -> Message {
    new().number(1, count).double(2, bound)
}

#[test]
fn values_of_all_types() {
    let exemplar = new().label("trace_id", "abc").double(2, 0.5).message(3, new().number(1, 1700).number(2, 5_000_000));
    check(
        &[
            family(
                "c_total",
                "Two\nlines \"\\\".",
                0,
                vec![
                    new().label("a", "x\"y\\z\n").message(3, new().double(1, 7.0).message(2, exemplar)),
                    new().number(6, 1_700_000_000_123),
                ],
            ),
            family("g", "", 1, vec![new().message(2, new().double(1, -0.25)), new().label("", "")]),
            family("u", "", 3, vec![new().message(5, new().double(1, 1e300)), new().message(5, new())]),
        ],
        "# HELP c_total Two\\nlines \\\"\\\\\\\".\n# TYPE c_total counter\n\
         c_total{a=\"x\\\"y\\\\z\\n\"} 7 # {trace_id=\"abc\"} 0.5 1700.005\nc_total 0.0 1700000000.123\n\
         # HELP g \n# TYPE g gauge\ng -0.25\ng 0.0\n# HELP u \n# TYPE u unknown\nu 1e300\nu 0.0\n",
    );
}

#[test]
fn start_times_become_lines_where_they_are_read() {
    let start = || new().number(1, 1_796_029_656).number(2, 125_999_999);
    let families = [
        family("c_total", "", 0, vec![new().label("a", "b").message(3, new().double(1, 7.0).message(3, start()))]),
        family("g", "", 1, vec![new().message(2, new().double(1, 1.0).message(3, start()))]),
        family("s", "", 2, vec![new().message(4, new().number(1, 3).message(4, start()))]),
        family("h", "", 4, vec![new().message(7, new().number(1, 2).message(15, start()))]),
        family("n", "", 4, vec![new().message(7, new().number(7, 1).number(1, 1).message(15, start()))]),
        family("z", "", 0, vec![new().message(3, new().message(3, new()))]),
    ];
    let (transcoded, error) = read(&delimited(&families), HistogramOptions { start_times: true, ..NATIVE });
    assert_eq!(error, None);
    let text = String::from_utf8(transcoded.text).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("_created")).collect();
    let at = "1796029656.125";
    assert_eq!(
        lines,
        [format!("c_total_created{{a=\"b\"}} {at}"), format!("s_created {at}"), format!("h_created {at}")]
    );
    assert_eq!(transcoded.natives[0].start, Some(1_796_029_656_125));
    let (transcoded, _) = read(&delimited(&families), NATIVE);
    assert!(!String::from_utf8(transcoded.text).unwrap().contains("_created") && transcoded.natives[0].start.is_none());
}

#[test]
fn parts_of_summaries_and_histograms() {
    let quantile = |quantile: f64, value: f64| new().double(1, quantile).double(2, value);
    let summary = new().number(1, 3).double(2, 4.5).message(3, quantile(0.5, 1.0)).message(3, quantile(0.99, f64::NAN));
    let histogram = new().number(1, 9).double(2, 4.0).message(3, bucket(1.0, 2)).message(3, bucket(2.5, 9));
    check(
        &[
            family("s", "", 2, vec![new().label("a", "b").message(4, summary)]),
            family("h", "", 4, vec![new().message(7, histogram.clone())]),
            family(
                "gh",
                "",
                5,
                vec![new().message(7, histogram.message(3, bucket(f64::INFINITY, 9)).message(3, bucket(5.0, 9)))],
            ),
        ],
        "# HELP s \n# TYPE s summary\ns_count{a=\"b\"} 3\ns_sum{a=\"b\"} 4.5\ns{a=\"b\",quantile=\"0.5\"} 1\n\
         s{a=\"b\",quantile=\"0.99\"} NaN\n# HELP h \n# TYPE h histogram\nh_count 9\nh_sum 4\nh_bucket{le=\"1.0\"} 2\n\
         h_bucket{le=\"2.5\"} 9\nh_bucket{le=\"+Inf\"} 9\n# HELP gh \n# TYPE gh gaugehistogram\ngh_count 9\ngh_sum 4\n\
         gh_bucket{le=\"1.0\"} 2\ngh_bucket{le=\"2.5\"} 9\ngh_bucket{le=\"+Inf\"} 9\n",
    );
}

#[test]
fn names_and_units() {
    let value = new().message(2, new().double(1, 1.0));
    check(
        &[
            family("a.b", "", 1, vec![value.clone().label("c.d", "e")]),
            family("x_seconds", "", 1, vec![value.clone()]).bytes(5, "seconds"),
            family("y", "", 1, vec![value]).bytes(5, "seconds"),
            family("bad\u{0}", "", 7, vec![]),
        ],
        "# HELP \"a.b\" \n# TYPE \"a.b\" gauge\n{\"a.b\",\"c.d\"=\"e\"} 1\n# HELP x_seconds \n# TYPE x_seconds gauge\n\
         # UNIT x_seconds seconds\nx_seconds 1\n# HELP y \n# TYPE y gauge\ny 1\n",
    );
}

#[test]
fn native_histograms_are_read_where_they_are_wanted() {
    let span = |offset: u64, length: u64| new().number(1, offset).number(2, length);
    let native = new().number(1, 10).double(2, 5.5).number(5, 6).double(6, 0.001).number(7, 1);
    let native = native.message(12, span(2, 2)).number(13, 4).bytes(13, [2u8]).message(9, span(0, 1)).number(10, 8);
    let exemplar = new().label("t", "1").double(2, 1.0);
    let timed = exemplar.clone().message(3, new().number(1, 5));
    let native = native.message(16, exemplar).message(16, timed);
    let both = native.clone().message(3, bucket(1.0, 2));
    let body = delimited(&[family(
        "h",
        "",
        4,
        vec![
            new().label("a", "1").message(7, native),
            new().label("a", "2").message(7, both.clone()),
            new().label("a", "3").message(7, new()),
        ],
    )]);
    let (got, error) = read(&body, NATIVE);
    assert_eq!((error, got.natives.len()), (None, 2));
    let first = &got.natives[0];
    assert_eq!((first.raw.as_slice(), first.schema, first.count, first.sum), (&b"h{a=\"1\"}"[..], 3, 10.0, 5.5));
    assert_eq!((first.zero_threshold, first.zero_count, first.is_float, first.is_gauge), (0.001, 1.0, false, false));
    let positive = BucketSide { spans: vec![(1, 2)], deltas: vec![2, 1], counts: vec![] };
    assert_eq!(first.positive, positive);
    assert_eq!(first.negative, BucketSide { spans: vec![(0, 1)], deltas: vec![4], counts: vec![] });
    assert_eq!(first.exemplars.len(), 1, "those without a time are none");
    let classic =
        "# HELP h \n# TYPE h histogram\nh_count{a=\"3\"} 0\nh_sum{a=\"3\"} 0.0\nh_bucket{a=\"3\",le=\"+Inf\"} 0\n";
    assert_eq!(String::from_utf8(got.text).unwrap(), format!("{classic}# EOF\n"));
    let (got, _) = read(&body, HistogramOptions { always_classic: true, ..NATIVE });
    let text = String::from_utf8(got.text).unwrap();
    assert!(!text.contains("a=\"1\"") && text.contains("h_bucket{a=\"2\",le=\"1.0\"} 2\n"), "{text}");
    assert_eq!(got.natives.len(), 2);
    let (got, _) = read(&body, HistogramOptions::default());
    let text = String::from_utf8(got.text).unwrap();
    assert!(got.natives.is_empty() && text.contains("h_bucket{a=\"1\",le=\"+Inf\"} 10\n"), "{text}");
    // Nothing observed, but a span says that it is native.
    let empty = new().message(12, span(0, 0));
    let (got, _) = read(&delimited(&[family("e", "", 5, vec![new().message(7, empty)])]), NATIVE);
    assert!(got.natives.len() == 1 && got.natives[0].is_gauge);
    // Of floats.
    let floats = new().double(4, 3.5).double(2, 1.0).message(12, span(0, 1)).double(14, 3.5);
    let (got, _) = read(&delimited(&[family("f", "", 4, vec![new().message(7, floats)])]), NATIVE);
    assert!(got.natives[0].is_float && got.natives[0].count == 3.5 && got.natives[0].positive.counts == [3.5]);
}

#[test]
fn refusals() {
    refuse(b"a 1\n", "clientpb: insufficient length of buffer, expected at least 98 bytes, got 4 bytes");
    refuse(&[0xff; 9], "clientpb: invalid varint encountered");
    refuse(&[0x80], "clientpb: invalid varint encountered");
    let value = || new().message(2, new().double(1, 1.0));
    refuse(&delimited(&[family("", "", 1, vec![value()])]), "invalid metric name: ");
    refuse(&delimited(&[family("a", "", 9, vec![value()])]), "unknown metric type for metric \"a\": 9");
    refuse(&delimited(&[family("a", "", 1, vec![value().label("", "x")])]), "invalid label name: ");
    refuse(&delimited(&[new().number(1, 5).message(4, value())]), "proto: wrong wireType = 0 for field Name");
    refuse(&delimited(&[new().bytes(1, "a").bytes(2, [0xff]).message(4, value())]), "invalid help for metric \"a\"");
    refuse(&delimited(&[new().bytes(1, "a").number(3, 1).bytes(4, [0x12, 0x09, 0x09])]), "unexpected EOF");
    let (got, _) = read(&delimited(&[family("a", "", 1, vec![value()]), family("b", "", 9, vec![value()])]), NATIVE);
    assert!(got.text.ends_with(b"a 1\n"), "what stood before the fault is counted");
}

#[test]
fn text_is_bounded() {
    let long = "x".repeat(60_000);
    let buckets = (0..40_000).fold(new(), |histogram, i| histogram.message(3, bucket(f64::from(i), 1)));
    let body = delimited(&[family(&long, "", 4, vec![new().message(7, buckets)])]);
    refuse(&body, "bytes of names, labels and values");
    let buckets = (0..BUCKETS_MAX + 1).fold(new(), |histogram, _| histogram.bytes(3, []));
    refuse(&delimited(&[family("a", "", 4, vec![new().message(7, buckets)])]), "classic buckets or exemplars");
    // Many small histograms of a family with a long name.
    let native = new().message(7, new().bytes(12, []));
    let many = delimited(&[family(&long, "", 4, vec![native; 10_000])]);
    refuse(&many, "bytes of names, labels and values");
    let spans = (0..BUCKETS_MAX + 1).fold(new(), |histogram, _| histogram.bytes(12, []));
    refuse(&delimited(&[family("a", "", 4, vec![new().message(7, spans)])]), "spans and buckets");
}

#[test]
fn mutated_bodies_never_panic_and_their_text_parses() {
    let span = || new().number(1, 0).number(2, 2);
    let native = new().number(1, 3).message(12, span()).bytes(13, [2, 2]).double(6, 0.1).message(3, bucket(1.0, 1));
    let body = delimited(&[
        family("c", "Help.", 0, vec![new().label("a", "b").message(3, new().double(1, 5.0)).number(6, 5)]),
        family("h", "", 4, vec![new().label("x", "y").message(7, native)]),
        family("s", "", 2, vec![new().message(4, new().number(1, 3).message(3, new().double(1, 0.5)))]).bytes(5, "s"),
    ]);
    let mut state = 5u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for _ in 0..30_000 {
        let mut mutated = body.clone();
        for _ in 0..next(4) + 1 {
            let at = next(mutated.len());
            match next(4) {
                0 => mutated[at] = next(256) as u8,
                1 => drop(mutated.remove(at)),
                2 => mutated.insert(at, next(256) as u8),
                _ => mutated[at] ^= 1 << next(8),
            }
        }
        let options = HistogramOptions {
            native: next(2) == 0,
            always_classic: next(2) == 0,
            convert_classic: next(2) == 0,
            start_times: next(2) == 0,
        };
        let (transcoded, error) = read(&mutated, options);
        let mut parser = crate::PayloadParser::new(crate::Format::OpenMetrics, &transcoded.text, 0, Kind::Unknown);
        let parsed = loop {
            match parser.next_sample() {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error.text),
            }
        };
        let nul = transcoded.text.contains(&0);
        match (&error, &parsed) {
            (None, None) => {}
            (Some(_), Some(text)) => assert!(nul || text.contains("# EOF"), "{text}"),
            // Names with a NUL in them are none in OpenMetrics.
            (None, Some(text)) => assert!(nul, "{text}: {:?}", String::from_utf8_lossy(&transcoded.text)),
            (Some(error), None) => panic!("the text ends, after {error}"),
        }
    }
}
