use super::*;
use crate::ingest::Interner;
use crate::test_job;
use exposition::{Format, Readings};
use futures_lite::future::block_on;
use series::Labels;

const BODY: &str = "# HELP a Of a.\n# TYPE a counter\na{x=\"1\"} 1\na{x=\"2\"} 2\nb 3 1000\nc 4\n";

/// Readers of one core.
struct Rig {
    interner: Interner,
    settings: String,
    readings: Readings,
}

impl Rig {
    fn new(settings: &str) -> Rig {
        Rig { interner: Interner::default(), settings: settings.to_owned(), readings: Readings::default() }
    }

    fn reader(&mut self, instance: &str) -> Reader {
        let labels = Labels::from_pairs([("instance", instance), ("job", "j")]);
        Reader::new(&mut self.interner, &test_job(&self.settings), &labels)
    }

    /// Warm, remembered slots, kept samples, and the error.
    fn read(&mut self, reader: &mut Reader, body: &str) -> (bool, u64, usize, Option<String>) {
        let read = reader.read(Format::Text, body.as_bytes(), u64::MAX, &mut self.readings, async || {});
        let ingested = block_on(read);
        assert!(!ingested.warm || ingested.remembered == 0 || ingested.reshaped, "the head has to be told");
        let kept = if ingested.refusal.is_some() { 0 } else { self.readings.values.len() };
        (ingested.warm, ingested.remembered, kept, ingested.refusal.map(|refusal| refusal.text))
    }
}

/// The folder after a run in which targets 1, 2, … had these bodies.
fn run_with(bodies: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new("");
    let mut collector = LayoutCollector::default();
    // Together, as targets of a core are: what is equal is shared.
    let mut readers: Vec<Reader> = (0..bodies.len()).map(|at| rig.reader(&at.to_string())).collect();
    for (at, (reader, body)) in readers.iter_mut().zip(bodies).enumerate() {
        rig.read(reader, body);
        collector.add(TargetId(at as u64 + 1), reader);
    }
    collector.finish().write(folder.path(), 0, 1).unwrap();
    folder
}

fn remembered(folder: &tempfile::TempDir) -> Remembered {
    Remembered::new(open(folder.path())).expect("there is a file")
}

/// What the first body of target 1 is read as, with these settings, after a run in which it had [`BODY`].
#[track_caller]
fn check(settings: &str, body: &str, want: (bool, u64, usize, Option<&str>)) {
    let remembered = remembered(&run_with(&[BODY]));
    let mut rig = Rig::new(settings);
    let mut reader = rig.reader("0");
    remembered.apply_to(TargetId(1), &mut reader);
    let found = rig.read(&mut reader, body);
    assert_eq!((found.0, found.1, found.2, found.3.as_deref()), want, "{settings} {body}");

    // Whatever was remembered, the body is read as without it.
    let mut plain = Rig::new(settings);
    let mut other = plain.reader("0");
    let told = plain.read(&mut other, body);
    assert_eq!((found.2, &found.3), (told.2, &told.3));
    if found.3.is_none() {
        assert_eq!((&rig.readings.values, &rig.readings.stamps), (&plain.readings.values, &plain.readings.stamps));
        let labels = |reader: &Reader| -> Vec<Labels> {
            let groups = reader.groups();
            groups.iter().flat_map(|group| (0..group.len()).map(|slot| group.labels(slot))).collect()
        };
        assert_eq!(labels(&reader), labels(&other));
    }
}

#[test]
fn the_first_body_of_a_run_is_walked_along_the_layout_of_the_last() {
    check("", BODY, (true, 4, 4, None));
    check("", &BODY.replace("} 1\n", "} 7\n"), (true, 4, 4, None));
}

#[test]
fn what_is_new_in_the_first_body_is_parsed_and_counts_as_added() {
    check("", &format!("{BODY}d 5\n"), (false, 4, 5, None));
    check("", &BODY.replace("c 4\n", ""), (false, 3, 3, None));
    check("", "e 1\n", (false, 0, 1, None));
    check("", "", (false, 0, 0, None));
}

#[test]
fn outcomes_are_those_of_the_new_settings() {
    check("metric_relabel_configs: [{source_labels: [__name__], regex: b, action: drop}]", BODY, (true, 3, 3, None));
    check("honor_timestamps: false", BODY, (true, 4, 4, None));
    check("sample_limit: 3", BODY, (true, 4, 0, Some("sample limit exceeded")));
    // Two lines are one series now: which one counts is found by parsing.
    check("metric_relabel_configs: [{regex: x, action: labeldrop}]", BODY, (false, 0, 3, None));
    let limit = "label_limit exceeded (metric: a, number of labels: 4, limit: 3)";
    check("label_limit: 3", BODY, (false, 0, 0, Some(limit)));
}

#[test]
fn a_refused_first_body_leaves_nothing_of_the_last_run() {
    let remembered = remembered(&run_with(&[BODY]));
    let mut rig = Rig::new("");
    let mut reader = rig.reader("0");
    for body in ["a{x=\"1\"} 1\na{", "?"] {
        remembered.apply_to(TargetId(1), &mut reader);
        assert!(rig.read(&mut reader, body).3.is_some());
        assert_eq!((reader.groups().len(), reader.shape().is_none()), (1, true));
    }
    remembered.apply_to(TargetId(1), &mut reader);
    assert_eq!(rig.read(&mut reader, BODY), (true, 4, 4, None));
    assert_eq!(rig.read(&mut reader, BODY), (true, 0, 4, None), "it is the second body of the run");
    remembered.apply_to(TargetId(1), &mut reader);
    assert_eq!(rig.read(&mut reader, "z 1\n"), (false, 0, 1, None), "only the first body is walked along it");
}

#[test]
fn targets_with_the_same_payload_share_a_layout() {
    let folder = run_with(&[BODY, BODY, "other 1\n", "a 1\na 2\n"]);
    let files = open(folder.path());
    let layouts = files[0].borrow_dependent();
    assert_eq!((layouts.targets.len(), layouts.layouts.len()), (3, 2), "repeated lines are not remembered");
    let remembered = Remembered::new(files).unwrap();
    let mut rig = Rig::new("");
    for (id, body, want) in [
        (2, BODY, (true, 4, 4, None)),
        (3, "other 2\n", (true, 1, 1, None)),
        (4, BODY, (false, 0, 4, None)),
        (9, BODY, (false, 0, 4, None)),
    ] {
        let mut reader = rig.reader(&id.to_string());
        remembered.apply_to(TargetId(id), &mut reader);
        assert_eq!(rig.read(&mut reader, body), want, "{id}");
    }
}

#[test]
fn files_of_cores_that_are_no_more_go() {
    let folder = run_with(&[BODY]);
    for core in [1, 2] {
        Layouts::default().write(folder.path(), core, 3).unwrap();
    }
    std::fs::write(folder.path().join("core-of-somebody"), "").unwrap();
    Layouts::default().write(folder.path(), 0, 2).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["core-0", "core-1", "core-of-somebody"]);
}

#[test]
fn what_has_no_room_is_left_out() {
    let mut rig = Rig::new("");
    let mut collector = LayoutCollector { text_bytes: TEXT_BYTES_MAX - 40, ..LayoutCollector::default() };
    for (id, body) in [(1, "a 1\n"), (2, BODY), (3, "b 1\n")] {
        let mut reader = rig.reader("0");
        rig.read(&mut reader, body);
        collector.add(TargetId(id), &reader);
    }
    let layouts = collector.finish();
    assert_eq!(layouts.targets.iter().map(|target| target.0).collect::<Vec<_>>(), [1, 3]);
}

/// A file that is cut, or of which any byte is another, is not used.
#[test]
fn damaged_files_are_not_used() {
    let folder = run_with(&[BODY, "other 1\n"]);
    let path = folder.path().join("core-0");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        assert!(open(folder.path()).is_empty(), "byte {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(open(folder.path()).is_empty(), "cut at {at}");
    }
    std::fs::write(&path, &whole).unwrap();
    std::fs::create_dir(folder.path().join("core-1")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(folder.path().join("core-2")).status();
    assert!(pipe.unwrap().success());
    assert_eq!(open(folder.path()).len(), 1);
}

/// An archive whose hash was made to fit is checked all the same: no place and no line leads out of it.
#[test]
fn contradictions_in_an_archive_end_nothing() {
    let folder = run_with(&[BODY, "other 1\n"]);
    let path = folder.path().join("core-0");
    let whole = std::fs::read(&path).unwrap();
    let mut usable = 0;
    for at in HEADER_BYTES..whole.len() {
        for change in [1, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            let hash = xxh3_64(&damaged[HEADER_BYTES..]).to_le_bytes();
            damaged[MAGIC.len()..HEADER_BYTES].copy_from_slice(&hash);
            std::fs::write(&path, &damaged).unwrap();
            for file in open(folder.path()).iter() {
                for layout in 0..3 {
                    usable += file.templates(layout).flatten().map(|template| template.len()).sum::<usize>();
                }
                let _ = file.layout_of(TargetId(1));
            }
        }
    }
    assert!(usable > 0);
}
