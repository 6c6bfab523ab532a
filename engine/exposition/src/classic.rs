//! Takes classic histograms out of a payload of lines and makes native ones of them.
//!
//! Lines of one histogram follow each other; any other line, metadata too, ends it. What is no histogram stays as it is and goes
//! on as a payload of the same format.
//!
//! Invariants:
//!   * linear time; the lines that stay are at most as long as the payload; at most [`NATIVES_MAX`] histograms are converted
//!   * a payload that cannot be parsed stays so, with the same error at the same line
//!
//! Where we differ from Prometheus 3.14: a histogram that cannot be converted stays classic, where it vanishes there, and its
//! time is that of its own last line.

use crate::native::{ClassicHistogram, HistogramOptions, NATIVES_MAX, NativeHistogram, Transcoded};
use crate::openmetrics::{Exemplar, exemplar};
use crate::series_text::SeriesText;
use crate::text::{Kind, Metadata, SampleLine, labels, metadata};
use crate::{Format, PayloadParser, number};
use series::METRIC_NAME;
use std::ops::Range;

/// Lines that a step reads.
const LINES_PER_STEP: usize = 256;

/// Converts a payload in steps.
pub struct ClassicConverter<'a> {
    body: &'a [u8],
    format: Format,
    parser: PayloadParser<'a>,
    keeps_classic: bool,
    /// The name that the last TYPE line names.
    family: String,
    /// The histogram at hand.
    histogram: ClassicHistogram,
    /// Its text without a bound, empty if there is none.
    raw: Vec<u8>,
    lines: Range<usize>,
    timestamp: Option<i64>,
    exemplars: Vec<Exemplar>,
    /// What stays.
    text: Vec<u8>,
    natives: Vec<NativeHistogram>,
    /// Text and labels of the line at hand, to be used again.
    line_raw: Vec<u8>,
    series: SeriesText,
    at: usize,
}

/// What a line says of a histogram.
enum Part {
    Bucket(f64),
    Count,
    Sum,
}

impl<'a> ClassicConverter<'a> {
    pub fn new(format: Format, body: &'a [u8], options: HistogramOptions) -> ClassicConverter<'a> {
        ClassicConverter {
            body,
            format,
            parser: PayloadParser::new(format, body, 0, Kind::Unknown),
            keeps_classic: options.always_classic,
            family: String::new(),
            histogram: ClassicHistogram::default(),
            raw: Vec::new(),
            lines: 0..0,
            timestamp: None,
            exemplars: Vec::new(),
            text: Vec::with_capacity(body.len()),
            natives: Vec::new(),
            line_raw: Vec::new(),
            series: SeriesText::default(),
            at: 0,
        }
    }

    /// Reads some lines. False at the end of the body, or where it cannot be parsed.
    pub fn step(&mut self) -> bool {
        for _ in 0..LINES_PER_STEP {
            let Ok(Some(line)) = self.parser.next_sample() else { return false };
            self.line(&line);
            self.at = line.end;
        }
        true
    }

    /// What was read. The rest, an error too, stays.
    pub fn finish(mut self) -> Transcoded {
        self.end_histogram();
        self.text.extend_from_slice(&self.body[self.at..]);
        Transcoded { text: self.text, natives: self.natives }
    }

    fn line(&mut self, line: &SampleLine) {
        let before = &self.body[line.literal.start..line.raw.start];
        if memchr::memchr(b'#', before).is_some() {
            self.end_histogram();
            for entry in metadata(before, self.format) {
                if matches!(entry.fact, Metadata::Kind(_)) {
                    self.family = entry.metric;
                }
            }
        }
        let part = if line.kind == Kind::Histogram { self.part(line) } else { None };
        let Some(part) = part else {
            self.end_histogram();
            self.text.extend_from_slice(&self.body[line.literal.start..line.end]);
            return;
        };
        if self.raw != self.line_raw {
            self.end_histogram();
            std::mem::swap(&mut self.raw, &mut self.line_raw);
            // Metadata before its first line stays.
            let comments = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
            self.text.extend_from_slice(&before[..comments]);
            self.lines = line.literal.start + comments..line.end;
        }
        self.lines.end = line.end;
        self.timestamp = line.timestamp;
        match part {
            Part::Bucket(bound) => self.histogram.buckets.push((bound, line.value)),
            Part::Count => self.histogram.count = self.histogram.count.or(Some(line.value)),
            Part::Sum => self.histogram.sum = self.histogram.sum.or(Some(line.value)),
        }
        if let Some(text) = &line.exemplar {
            self.exemplars.extend(exemplar(&self.body[text.clone()]).filter(|exemplar| exemplar.timestamp.is_some()));
        }
    }

    /// What a line of a histogram says, with its text less the bound in `line_raw`.
    fn part(&mut self, line: &SampleLine) -> Option<Part> {
        let labels = labels(&self.body[line.raw.clone()], line.kind);
        let name = labels.iter().find(|(name, _)| name == METRIC_NAME).map(|(_, value)| &**value)?;
        let bound = labels.iter().find(|(name, _)| name == "le").map(|(_, value)| &**value);
        let part = match name.strip_prefix(self.family.as_str())? {
            "_bucket" => Part::Bucket(number::parse_go_float(bound?).filter(|bound| !bound.is_nan())?),
            "_count" => Part::Count,
            "_sum" => Part::Sum,
            _ => return None,
        };
        self.series.clear();
        for (name, value) in &labels {
            if name != METRIC_NAME && name != "le" {
                self.series.label(name, value);
            }
        }
        self.line_raw.clear();
        self.series.write(&self.family, "", None, &mut self.line_raw);
        Some(part)
    }

    fn end_histogram(&mut self) {
        if self.raw.is_empty() {
            return;
        }
        let has_room = self.natives.len() < NATIVES_MAX;
        let converted = self.histogram.convert().ok().filter(|_| has_room);
        if self.keeps_classic || converted.is_none() {
            self.text.extend_from_slice(&self.body[self.lines.clone()]);
        }
        let raw = std::mem::take(&mut self.raw);
        let exemplars = std::mem::take(&mut self.exemplars);
        if let Some(native) = converted {
            self.natives.push(NativeHistogram { raw, timestamp: self.timestamp, exemplars, ..native });
        }
        self.histogram.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(format: Format, body: &[u8], keeps_classic: bool) -> Transcoded {
        let options = HistogramOptions { always_classic: keeps_classic, ..HistogramOptions::default() };
        let mut converter = ClassicConverter::new(format, body, options);
        while converter.step() {}
        converter.finish()
    }

    /// The natives as `text count[bounds]`, then what stays.
    #[track_caller]
    fn check(body: &str, natives: &[&str], text: &str) {
        let converted = convert(Format::Text, body.as_bytes(), false);
        let show = |native: &NativeHistogram| {
            format!("{} {}{:?}", String::from_utf8_lossy(&native.raw), native.count, native.custom_bounds)
        };
        assert_eq!(converted.natives.iter().map(show).collect::<Vec<_>>(), natives, "{body:?}");
        assert_eq!(String::from_utf8(converted.text).unwrap(), text, "{body:?}");
        let all = convert(Format::Text, body.as_bytes(), true);
        assert_eq!(String::from_utf8(all.text).unwrap(), body, "all stays where classic ones are wanted");
        assert_eq!(all.natives, converted.natives);
    }

    #[test]
    fn lines_of_a_histogram_become_one() {
        let of = |labels: &str, more: &str, counts: [u32; 3]| {
            format!(
                "h_bucket{{{more}le=\"1\"}} {}\nh_bucket{{{more}le=\"+Inf\"}} {}\nh_sum{labels} 4\nh_count{labels} {}\n",
                counts[0], counts[1], counts[2]
            )
        };
        let one = of("", "", [2, 9, 9]);
        check(
            &format!("a 1\n# HELP h x\n# TYPE h histogram\n{one}# TYPE b gauge\nb 2\n"),
            &["h 9[1.0]"],
            "a 1\n# HELP h x\n# TYPE h histogram\n# TYPE b gauge\nb 2\n",
        );
        let two = of("{a=\"1\"}", "a=\"1\",", [2, 9, 9]) + &of("{a=\"2\"}", "a=\"2\",", [3, 8, 8]);
        check(
            &format!("# TYPE h histogram\n{two}"),
            &["h{a=\"1\"} 9[1.0]", "h{a=\"2\"} 8[1.0]"],
            "# TYPE h histogram\n",
        );
        check(&format!("# TYPE h gauge\n{one}"), &[], &format!("# TYPE h gauge\n{one}"));
        check(&one, &[], &one);
        let broken = of("", "", [2, 7, 8]);
        check(&format!("# TYPE h histogram\n{broken}"), &[], &format!("# TYPE h histogram\n{broken}"));
        check("# TYPE h histogram\nh_count 7\nh_sum 3\n", &["h 7[]"], "# TYPE h histogram\n");
        check(
            "# TYPE h histogram\nh_bucket{le=\"x\"} 1\nh_bucket 1\nh 4\nother_count 1\n",
            &[],
            "# TYPE h histogram\nh_bucket{le=\"x\"} 1\nh_bucket 1\nh 4\nother_count 1\n",
        );
        check(
            "# TYPE h histogram\nh_count 7\n\n# a comment\nh_count 7",
            &["h 7[]", "h 7[]"],
            "# TYPE h histogram\n\n# a comment\n",
        );
        check("# TYPE h histogram\nh_count 7\nbroken", &["h 7[]"], "# TYPE h histogram\nbroken");
    }

    #[test]
    fn openmetrics_keeps_its_end_and_exemplars_with_a_time() {
        let body = b"# TYPE h histogram\nh_bucket{le=\"1.0\"} 2 # {t=\"a\"} 0.5 1700.5\nh_bucket{le=\"+Inf\"} 3 # {t=\"b\"} 2\n\
                     h_count 3 1700\n# EOF\n";
        let converted = convert(Format::OpenMetrics, body, false);
        assert_eq!(converted.text, b"# TYPE h histogram\n# EOF\n");
        let native = &converted.natives[0];
        assert_eq!((native.timestamp, native.exemplars.len()), (Some(1_700_000), 1));
        assert_eq!(native.exemplars[0].timestamp, Some(1_700_500));
    }

    #[test]
    fn mutated_payloads_keep_every_line() {
        let mut state = 9u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let good = "# TYPE h histogram\nh_bucket{a=\"1\",le=\"1\"} 2\nh_bucket{a=\"1\",le=\"+Inf\"} 9\nh_sum{a=\"1\"} 4\n\
                    h_count{a=\"1\"} 9\nh_count{a=\"2\"} 9\n# TYPE b gauge\nb 2\n";
        let samples = |body: &[u8]| {
            let mut parser = PayloadParser::new(Format::Text, body, 0, Kind::Unknown);
            let mut count = 0;
            let error = loop {
                match parser.next_sample() {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => return (count, None),
                    Err(error) => break error.text,
                }
            };
            (count, Some(error))
        };
        let mut changed = 0;
        for _ in 0..20_000 {
            let mut body = good.as_bytes().to_vec();
            for _ in 0..1 + next(4) {
                let at = next(body.len());
                match next(4) {
                    0 => body[at] = next(256) as u8,
                    1 => body[at] = b"\n#{}=\",1 "[next(9)],
                    2 => body.truncate(at.max(1)),
                    _ => body.insert(at, b'\n'),
                }
            }
            let all = convert(Format::Text, &body, true);
            assert_eq!(all.text, body);
            let converted = convert(Format::Text, &body, false);
            assert!(converted.text.len() <= body.len());
            let (before, after) = (samples(&body), samples(&converted.text));
            assert_eq!(before.1, after.1, "{:?}", String::from_utf8_lossy(&body));
            assert!(after.0 <= before.0);
            changed += usize::from(after.0 < before.0);
        }
        assert!(changed > 1000, "{changed}");
    }
}
