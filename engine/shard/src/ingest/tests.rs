use super::*;
use crate::class::series_labels;
use crate::test_job;
use futures_lite::future::block_on;

/// One target's reader with its core's interner.
struct Rig {
    interner: Interner,
    reader: Reader,
    target: Labels,
    readings: Readings,
    samples_max: u64,
}

impl Rig {
    fn new(settings: &str) -> Rig {
        let mut interner = Interner::default();
        let target = Labels::from_pairs([("instance", "i"), ("job", "j")]);
        let reader = Reader::new(&mut interner, &test_job(settings), &target);
        Rig { interner, reader, target, readings: Readings::default(), samples_max: u64::MAX }
    }

    fn read(&mut self, body: &str) -> Ingested {
        self.read_as(Format::Text, body)
    }

    fn read_as(&mut self, format: Format, body: &str) -> Ingested {
        block_on(self.reader.read(format, body.as_bytes(), self.samples_max, &mut self.readings, async || {}))
    }

    /// The series of the last body as `labels value`, without the target's labels.
    fn series(&self) -> Vec<String> {
        let mut values = self.readings.values.iter();
        let mut stamps = self.readings.stamps.iter();
        let mut all = Vec::new();
        for group in self.reader.groups().iter().skip(1) {
            for slot in 0..group.len() {
                let labels = series_labels(&group.labels(slot), &self.target).to_string();
                let labels = labels.replace(r#", instance="i", job="j""#, "");
                let stamp = group.is_stamped(slot).then(|| format!(" @{}", stamps.next().unwrap()));
                all.push(format!("{labels} {}{}", values.next().unwrap(), stamp.unwrap_or_default()));
            }
        }
        assert_eq!((values.next(), stamps.next()), (None, None));
        all
    }
}

fn counts(ingested: &Ingested) -> (u64, u64, u64) {
    (ingested.samples_scraped, ingested.samples_post_relabel, ingested.duplicates)
}

#[test]
fn second_body_is_warm_and_reads_the_same_slots() {
    let mut rig = Rig::new("metric_relabel_configs: [{source_labels: [__name__], regex: 'b.*', action: drop}]");
    let first = rig.read("a 1\nb 2\nc{x=\"y\"} 3\n");
    assert!(!first.warm && first.reshaped);
    assert_eq!(counts(&first), (3, 2, 0));
    assert_eq!(rig.series(), [r#"{__name__="a"} 1"#, r#"{__name__="c", x="y"} 3"#]);
    let second = rig.read("a 4\nb 5\nc{x=\"y\"} 6\n");
    assert!(second.warm && !second.reshaped);
    assert_eq!(counts(&second), (3, 2, 0));
    assert_eq!(rig.readings.values, [4.0, 6.0]);
}

#[test]
fn first_of_equal_lines_wins() {
    let mut rig = Rig::new("");
    for warm in [false, true] {
        let ingested = rig.read("a 1\na 2\na{} 3\na 4\nb{x=\"1\",y=\"2\"} 5\nb{y=\"2\",x=\"1\"} 6\n");
        assert_eq!(ingested.warm, warm);
        assert_eq!(counts(&ingested), (6, 6, 2), "only repeated texts are counted");
        assert_eq!(rig.readings.values, [1.0, 5.0]);
    }
    rig.read("b{y=\"2\",x=\"1\"} 7\n");
    assert_eq!(rig.readings.values, [7.0], "what was a repeat is now the first");
}

#[test]
fn report_series_cannot_be_spoofed() {
    let mut rig = Rig::new("");
    let ingested = rig.read("up 5\nup{job=\"other\"} 6\nscrape_series_added 7 123\na 1\n");
    assert_eq!(counts(&ingested), (4, 4, 2));
    assert_eq!(rig.series(), [r#"{__name__="up", exported_job="other"} 6"#, r#"{__name__="a"} 1"#]);
}

#[test]
fn timestamps_are_kept_or_ignored() {
    let body = "a 1 5\nb 2\na 3 6\n";
    let mut rig = Rig::new("");
    rig.read(body);
    assert_eq!(rig.series(), [r#"{__name__="a"} 1 @5"#, r#"{__name__="b"} 2"#, r#"{__name__="a"} 3 @6"#]);
    let mut rig = Rig::new("honor_timestamps: false");
    for _ in 0..2 {
        rig.read(body);
        assert_eq!(rig.series(), [r#"{__name__="a"} 1"#, r#"{__name__="b"} 2"#]);
    }
}

#[test]
fn refused_bodies_leave_what_is_known() {
    let mut rig = Rig::new("sample_limit: 3\nlabel_limit: 4");
    rig.read("a 1\nb 2\n");
    let check = |rig: &mut Rig, body: &str, reason, text: &str, samples| {
        let ingested = rig.read(body);
        let refusal = ingested.refusal.clone().unwrap_or_else(|| panic!("{body:?} was taken"));
        assert_eq!(
            (refusal.reason, samples),
            (reason, (ingested.samples_scraped, ingested.samples_post_relabel)),
            "{body:?}"
        );
        assert!(refusal.text.contains(text), "{refusal:?}");
        assert!(rig.read("a 3\nb 4\n").warm, "after {body:?}");
    };
    check(&mut rig, "a 1\nb 2\n7\n", Reason::Parse, "expected a valid start token", (2, 2));
    check(&mut rig, "7\n", Reason::Parse, "expected a valid start token", (0, 0));
    check(&mut rig, "a 1\nb 1\nc 1\nd 1\n", Reason::SampleLimit, "sample limit exceeded", (4, 4));
    assert_eq!(rig.read("a 1\nb 1\na 2\nc 1\na 3\n").refusal, None, "what repeats a text is not limited");
    rig.read("a 1\nb 2\n");
    check(&mut rig, "a 1\nc{d=\"1\",e=\"2\"} 1\nf 1\n", Reason::LabelLimit, "label_limit exceeded (metric: c", (2, 1));
}

#[test]
fn safe_mode_refuses_long_bodies_before_their_end() {
    let lines = |count: usize| (0..count).map(|i| format!("a{{i=\"{i}\"}} 1\n")).collect::<String>();
    let mut rig = Rig::new("");
    rig.read(&lines(20_000));
    rig.samples_max = 15_000;
    for body in [lines(20_000), lines(100_000)] {
        let ingested = rig.read(&body);
        let refusal = ingested.refusal.expect("it is too long");
        assert_eq!(refusal.reason, Reason::SafeMode);
        assert!(refusal.text.contains("no target may have more than 15000 samples"), "{}", refusal.text);
        assert!((15_001..20_000).contains(&ingested.samples_scraped), "{}", ingested.samples_scraped);
    }
    assert_eq!(rig.read(&lines(15_000)).refusal, None);
    rig.samples_max = u64::MAX;
    assert_eq!(rig.read(&lines(20_000)).refusal, None);
}

#[test]
fn label_limit_shows_the_target_it_belongs_to() {
    let mut rig = Rig::new("metric_name_validation_scheme: legacy");
    let refusal = rig.read("{\"a.b\"} 1\n").refusal.unwrap();
    assert_eq!(refusal.text, r#"invalid metric name or label names: {__name__="a.b", instance="i", job="j"}"#);
    let mut rig = Rig::new("label_value_length_limit: 2");
    rig.reader.target_labels = Labels::from_pairs([("instance", "long")]);
    let refusal = rig.read("a 1\n").refusal.unwrap();
    assert!(refusal.text.contains("(metric: a, label name: instance, value: \"long\""), "{}", refusal.text);
    // A label that every line brings along is not the target's.
    let mut rig = Rig::new("label_value_length_limit: 2\nhonor_labels: true");
    rig.reader.target_labels = Labels::from_pairs([("instance", "long")]);
    assert_eq!(rig.read("a{instance=\"i\"} 1\nb{instance=\"i\"} 1\n").refusal, None);
    let refusal = rig.read("a{instance=\"i\"} 1\nb 1\n").refusal.unwrap();
    assert!(refusal.text.contains("(metric: b, label name: instance, value: \"long\""), "{}", refusal.text);
}

#[test]
fn other_limits_keep_the_shape_and_other_rules_do_not() {
    let mut rig = Rig::new("");
    rig.read("a 1\n");
    let job = test_job("sample_limit: 10\nbody_size_limit: 1MB\nscrape_timeout: 5s");
    assert!(rig.reader.retarget(&mut rig.interner, &job).is_none());
    assert!(rig.read("a 2\n").warm);
    let job = test_job("honor_labels: true\nextra_scrape_metrics: true");
    assert_eq!(rig.reader.retarget(&mut rig.interner, &job).unwrap().len(), 8);
    assert!(!rig.read("a 3\n").warm);
}

#[test]
fn neighbours_share_and_the_unused_is_forgotten() {
    let mut rig = Rig::new("");
    rig.read("a 1\nb 2\n");
    let other_target = Labels::from_pairs([("instance", "other"), ("job", "j")]);
    let mut other = Reader::new(&mut rig.interner, &test_job(""), &other_target);
    block_on(other.read(Format::Text, b"a 5\nb 6\n", u64::MAX, &mut rig.readings, async || {}));
    assert_eq!(rig.interner.sweep().0, 1);
    drop(other);
    assert_eq!(rig.interner.sweep().0, 1);
    rig.read("");
    assert_eq!(rig.interner.sweep(), (0, 0));
}

/// Groups of slots by address.
fn groups(rig: &Rig) -> Vec<usize> {
    rig.reader.groups().iter().map(|group| Arc::as_ptr(group).addr()).collect()
}

/// A body of many lines, two of which are others in each generation.
fn churning(generation: usize) -> String {
    let line = |i: usize| match i % 100 {
        50 => format!("a{{i=\"{i}\",generation=\"{generation}\"}} {generation}\n"),
        _ => format!("a{{i=\"{i}\"}} {generation}\n"),
    };
    (0..200).map(line).collect()
}

#[test]
fn line_that_changes_costs_its_neighbours_nothing() {
    let mut rig = Rig::new("");
    for generation in 0..2 {
        assert!(rig.read(&churning(generation)).reshaped);
    }
    for generation in 2..6 {
        let before = groups(&rig);
        assert!(rig.read(&churning(generation)).reshaped);
        let new = groups(&rig).into_iter().filter(|group| !before.contains(group)).count();
        assert_eq!(new, 2);
        assert_eq!(rig.series().len(), 200);
        assert!(rig.series()[50].ends_with(&format!("generation=\"{generation}\", i=\"50\"}} {generation}")));
    }
    assert!(rig.read(&churning(5)).warm);
}

#[test]
fn shape_that_was_cut_up_becomes_that_of_its_neighbours_again() {
    let mut rig = Rig::new("");
    rig.read(&churning(1));
    let at_first = groups(&rig);
    rig.read(&churning(2));
    rig.read(&churning(1));
    assert_ne!(groups(&rig), at_first);
    for _ in 0..WARM_BEFORE_REJOINING {
        assert!(rig.read(&churning(1)).warm);
    }
    assert!(rig.read(&churning(1)).reshaped);
    assert_eq!(groups(&rig).len(), at_first.len());
    for _ in 0..2 * WARM_BEFORE_REJOINING {
        assert!(rig.read(&churning(1)).warm, "it is as it is to be");
    }
}

#[test]
fn lines_that_change_their_places_do_not_cut_a_shape_up() {
    // All over the body, and neighbours only: there nearly all lines are found one by one.
    let shuffled = |round: usize, i: usize| i * (round + 7) % 997;
    let swapped = |round: usize, i: usize| i ^ (round & 1);
    let places: [&dyn Fn(usize, usize) -> usize; 2] = [&shuffled, &swapped];
    for (case, place) in places.into_iter().enumerate() {
        let mut rig = Rig::new("");
        for round in 0..20 {
            let body: String = (0..996).map(|i| format!("a{{i=\"{}\"}} 1\n", place(round, i))).collect();
            rig.read(&body);
            assert_eq!(rig.series().len(), 996);
            assert!(groups(&rig).len() < 150, "case {case}, round {round}: {} groups", groups(&rig).len());
        }
    }
}

#[test]
fn new_line_that_repeats_a_known_one_is_found() {
    let mut rig = Rig::new("");
    let body = |more: &str| churning(1).replace("a{i=\"120\"} 1\n", &format!("a{{i=\"120\"}} 1\n{more}"));
    rig.read(&body(""));
    for (more, samples) in [
        ("a{i=\"30\"} 7\n", 200),
        ("b 1\n", 201),
        ("b 1\nb 2\n", 201),
        ("scrape_samples_scraped 1\n", 200),
        ("b 1\nup 2\n", 201),
        ("", 200),
    ] {
        let scraped = rig.read(&body(more)).samples_scraped;
        assert_eq!(scraped, 200 + more.lines().count() as u64);
        let mut series = rig.series();
        assert_eq!(series.len(), samples, "{more:?}");
        series.iter_mut().for_each(|line| line.truncate(line.rfind(' ').unwrap()));
        series.sort();
        series.dedup();
        assert_eq!(series.len(), samples, "{more:?}");
        assert!(rig.read(&body(more)).warm || more.is_empty());
    }
}

#[test]
fn exemplars_follow_their_slots() {
    let mut rig = Rig::new("metric_relabel_configs: [{source_labels: [__name__], regex: 'b.*', action: drop}]");
    let body = "a 1 # {t=\"1\"} 1\nb 2 # {t=\"2\"} 2\nc 3\nd 4 # {t=\"3\"} 3\na 5 # {t=\"4\"} 4\n# EOF\n";
    for warm in [false, true] {
        assert_eq!(rig.read_as(Format::OpenMetrics, body).warm, warm);
        let found: Vec<_> =
            rig.readings.exemplars.iter().map(|found| (found.value, &body[found.text.clone()])).collect();
        assert_eq!(found, [(0, " # {t=\"1\"} 1"), (2, " # {t=\"3\"} 3")]);
        assert!(rig.readings.exemplars.iter().all(|found| found.is_new != warm));
    }
    rig.read_as(Format::OpenMetrics, &body.replace("{t=\"3\"} 3", "{} 7"));
    assert_eq!(rig.readings.exemplars.iter().map(|found| found.is_new).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn format_may_change_from_scrape_to_scrape() {
    let mut rig = Rig::new("");
    for (format, body, stamp) in [
        (Format::Text, "a 1 5\nb 2\n", 5),
        (Format::OpenMetrics, "a 1 5\nb 2\n# EOF\n", 5000),
        (Format::Text, "a 1 5\nb 2\n# EOF\n", 5),
    ] {
        let first = rig.read_as(format, body);
        assert!((first.refusal.is_none(), first.reshaped, first.warm) == (true, true, false), "{first:?}");
        assert_eq!(rig.series(), [format!(r#"{{__name__="a"}} 1 @{stamp}"#), r#"{__name__="b"} 2"#.to_owned()]);
        assert!(rig.read_as(format, body).warm);
        assert_eq!(rig.readings.stamps, [stamp]);
    }
    let ingested = rig.read_as(Format::OpenMetrics, "");
    assert!(ingested.refusal.is_none() && rig.series().is_empty(), "an empty body needs no end");
    assert!(rig.read_as(Format::OpenMetrics, "a 1\n").refusal.unwrap().text.contains("# EOF"));
}

#[test]
fn names_that_are_no_utf8_fail_behind_relabelling() {
    let body = b"a 1\n{\"b\xff\",\"c\xfe\"=\"d\"} 2\n";
    let read = |settings: &str| {
        let mut rig = Rig::new(settings);
        let read = rig.reader.read(Format::Text, body, u64::MAX, &mut rig.readings, async || {});
        block_on(read)
    };
    let ingested = read("");
    assert_eq!(counts(&ingested), (2, 1, 0));
    assert_eq!(
        ingested.refusal.unwrap().text,
        r#"invalid metric name or label names: {__name__="b\xff", "c\xfe"="d", instance="i", job="j"}"#
    );
    let dropped = read("metric_relabel_configs: [{source_labels: [__name__], regex: 'a', action: keep}]");
    assert_eq!((counts(&dropped), dropped.refusal), ((2, 1, 0), None));
}

#[test]
fn label_that_is_empty_at_one_of_its_places_is_none() {
    let mut rig = Rig::new("");
    rig.read("a{b=\"\",b=\"c\"} 1\nd{b=\"c\",b=\"\"} 2\n");
    assert_eq!(rig.series(), [r#"{__name__="a"} 1"#, r#"{__name__="d"} 2"#]);
    let twice = rig.read("a{b=\"c\",b=\"d\"} 1\n").refusal.unwrap();
    assert_eq!(twice.text, r#"label name "b" is not unique: invalid sample"#);
    let empty = rig.read("{\"a\",\"\"=\"c\"} 1\n").refusal.unwrap();
    assert!(empty.text.starts_with("invalid metric name or label names: {"), "{}", empty.text);
}

#[test]
fn metadata_of_a_metric_is_one() {
    let mut rig = Rig::new("");
    rig.read("# HELP a One.\na 1\n# TYPE b gauge\nb 1\n# TYPE a counter\n# HELP a Two.\n");
    let found = rig.reader.metadata(&mut MetadataCache::default());
    let found: Vec<_> = found.iter().map(|m| (m.metric.as_str(), m.kind.as_str(), m.help.as_str())).collect();
    assert_eq!(found, [("a", "counter", "Two."), ("b", "gauge", "")]);
    rig.read_as(Format::OpenMetrics, "# TYPE a_seconds stateset\n# UNIT a_seconds seconds\n# EOF\n");
    let found = rig.reader.metadata(&mut MetadataCache::default());
    assert_eq!((found[0].kind.as_str(), found[0].unit.as_str()), ("stateset", "seconds"));
}

#[test]
fn metadata_of_refused_and_empty_bodies() {
    let mut rig = Rig::new("sample_limit: 1");
    let names = |rig: &Rig| {
        let found = rig.reader.metadata(&mut MetadataCache::default());
        found.iter().map(|metadata| format!("{} {}", metadata.metric, metadata.kind)).collect::<Vec<_>>()
    };
    assert!(rig.read("# TYPE a counter\na 1\nb 2\n").refusal.is_some());
    assert_eq!(names(&rig), ["a counter"], "what a refused body says counts");
    assert!(rig.read("# TYPE b gauge\nb 1\n?").refusal.is_some());
    assert_eq!(names(&rig), ["b gauge"]);
    rig.read("# TYPE c gauge\nc 1\n");
    assert_eq!(names(&rig), ["c gauge", "b gauge"]);
    (0..9).for_each(|_| drop(rig.read("# TYPE c gauge\nc 1\n")));
    assert_eq!(names(&rig), ["c gauge"]);
    rig.read("");
    assert_eq!(names(&rig), ["c gauge"], "an empty body takes nothing away");
    (0..9).for_each(|_| drop(rig.read("")));
    assert_eq!(names(&rig), ["c gauge"]);
    rig.read("");
    assert!(names(&rig).is_empty());
}

#[test]
fn metadata_of_the_last_good_body() {
    let mut rig = Rig::new("");
    rig.read("# HELP a Text.\n# TYPE a counter\na 1\n# TYPE b gauge\nb 1\n");
    let found = rig.reader.metadata(&mut MetadataCache::default());
    let found: Vec<_> = found.iter().map(|m| (m.metric.as_str(), m.kind.as_str(), m.help.as_str())).collect();
    assert_eq!(found, [("a", "counter", "Text."), ("b", "gauge", "")]);
}
