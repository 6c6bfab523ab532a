//! Native histograms from a writer to an answer: beside Debian's Prometheus, over kills, in blocks, by rules.

mod support;

use serde_json::Value;
use series::STALE_NAN;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{SystemTime, UNIX_EPOCH};
use support::protobuf::{bytes, double, number, varint};
use support::{Prometheus, Response, Ringscrape, encode, request, request_with_body, until};

const SIGKILL: i32 = 9;
const RECEIVER: &str = "--web.enable-remote-write-receiver";
const V1: &str = "application/x-protobuf";
const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

// --- protobuf, by hand ----------------------------------------------------------------------------------------------

fn signed(field: u64, value: i64, out: &mut Vec<u8>) {
    number(field, (value << 1 ^ value >> 63) as u64, out);
}

/// A histogram as a test thinks of it: counts of neighbouring buckets, none on the negative side but one.
#[derive(Clone)]
struct Histogram {
    schema: i64,
    first: i64,
    counts: Vec<u64>,
    negative: u64,
    zero: u64,
    sum: f64,
    /// Of floats: each count and half an observation.
    is_float: bool,
    hint: u64,
    bounds: Vec<f64>,
}

impl Histogram {
    fn new(counts: &[u64]) -> Histogram {
        let sum = counts.iter().sum::<u64>() as f64 * 1.5;
        let counts = counts.to_vec();
        let bounds = Vec::new();
        Histogram { schema: 1, first: -1, counts, negative: 0, zero: 1, sum, is_float: false, hint: 0, bounds }
    }

    /// With buckets that end at these bounds.
    fn custom(counts: &[u64], bounds: &[f64]) -> Histogram {
        Histogram { schema: -53, first: 0, zero: 0, bounds: bounds.to_vec(), ..Histogram::new(counts) }
    }

    fn encode(&self, at: i64, count: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let half = if self.is_float { 0.5 } else { 0.0 };
        if self.is_float {
            let buckets = self.counts.len() + usize::from(self.negative > 0);
            double(2, count as f64 + half * buckets as f64, &mut out);
            double(7, self.zero as f64, &mut out);
        } else {
            number(1, count, &mut out);
            number(6, self.zero, &mut out);
        }
        double(3, self.sum, &mut out);
        signed(4, self.schema, &mut out);
        double(5, if self.bounds.is_empty() { 0.001 } else { 0.0 }, &mut out);
        let mut side = |first: i64, counts: &[u64], spans: u64| {
            let mut span = Vec::new();
            signed(1, first, &mut span);
            number(2, counts.len() as u64, &mut span);
            bytes(spans, &span, &mut out);
            let mut packed = Vec::new();
            let mut last = 0;
            for count in counts {
                if self.is_float {
                    packed.extend_from_slice(&(*count as f64 + half).to_le_bytes());
                } else {
                    let delta = *count as i64 - last;
                    varint((delta << 1 ^ delta >> 63) as u64, &mut packed);
                    last = *count as i64;
                }
            }
            bytes(if self.is_float { spans + 2 } else { spans + 1 }, &packed, &mut out);
        };
        if self.negative > 0 {
            side(2, &[self.negative], 8);
        }
        if !self.counts.is_empty() {
            side(self.first, &self.counts, 11);
        }
        number(14, self.hint, &mut out);
        number(15, at as u64, &mut out);
        if !self.bounds.is_empty() {
            let packed: Vec<u8> = self.bounds.iter().flat_map(|bound| bound.to_le_bytes()).collect();
            bytes(16, &packed, &mut out);
        }
        out
    }

    fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.negative + self.zero
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Samples of a series: encoded floats, and encoded histograms.
#[derive(Clone, Default)]
struct Samples {
    floats: Vec<Vec<u8>>,
    histograms: Vec<Vec<u8>>,
}

impl Samples {
    fn float(mut self, at: i64, value: f64) -> Samples {
        let mut sample = Vec::new();
        double(1, value, &mut sample);
        number(2, at as u64, &mut sample);
        self.floats.push(sample);
        self
    }

    fn histogram(mut self, at: i64, histogram: &Histogram) -> Samples {
        self.histograms.push(histogram.encode(at, histogram.count()));
        self
    }
}

fn v1(series: &[(Labels, Samples)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (labels, samples) in series {
        let mut message = Vec::new();
        for (name, value) in *labels {
            let mut label = Vec::new();
            bytes(1, name.as_bytes(), &mut label);
            bytes(2, value.as_bytes(), &mut label);
            bytes(1, &label, &mut message);
        }
        samples.floats.iter().for_each(|one| bytes(2, one, &mut message));
        samples.histograms.iter().for_each(|one| bytes(4, one, &mut message));
        bytes(1, &message, &mut out);
    }
    out
}

fn v2(series: &[(Labels, Samples)], help: &str) -> Vec<u8> {
    let mut symbols = vec!["", help];
    let mut out = Vec::new();
    for (labels, samples) in series {
        let (mut message, mut references) = (Vec::new(), Vec::new());
        for text in labels.iter().flat_map(|(name, value)| [*name, *value]) {
            let known = symbols.iter().position(|symbol| *symbol == text).unwrap_or_else(|| {
                symbols.push(text);
                symbols.len() - 1
            });
            varint(known as u64, &mut references);
        }
        bytes(1, &references, &mut message);
        samples.floats.iter().for_each(|one| bytes(2, one, &mut message));
        samples.histograms.iter().for_each(|one| bytes(3, one, &mut message));
        let mut metadata = Vec::new();
        number(1, 3, &mut metadata);
        number(3, 1, &mut metadata);
        bytes(5, &metadata, &mut message);
        bytes(5, &message, &mut out);
    }
    symbols.iter().for_each(|symbol| bytes(4, symbol.as_bytes(), &mut out));
    out
}

fn take_varint(rest: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = rest[0];
        *rest = &rest[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

/// Number of each field and its bytes; a number is one byte, as far as this test looks at any.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| {
            let key = take_varint(&mut rest);
            let length = match key & 7 {
                0 => rest.iter().position(|byte| *byte < 0x80).unwrap() + 1,
                1 => 8,
                _ => take_varint(&mut rest) as usize,
            };
            let (field, behind) = rest.split_at(length);
            rest = behind;
            (key >> 3, field)
        })
    })
}

/// The body of the answer to a read request.
fn read(address: SocketAddr, question: &[u8]) -> Vec<u8> {
    let body = snap::raw::Encoder::new().compress_vec(question).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let length = body.len();
    let head = format!("POST /api/v1/read HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&answer));
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    answer.split_off(end + 4)
}

fn write(address: SocketAddr, kind: &str, message: &[u8]) -> Response {
    let body = snap::raw::Encoder::new().compress_vec(message).unwrap();
    let headers = [("Content-Encoding", "snappy"), ("Content-Type", kind)];
    request_with_body(address, "POST", "/api/v1/write", &headers, &body)
}

// --- answers --------------------------------------------------------------------------------------------------------

/// Numbers with as many digits as two programs agree on.
fn rounded(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(rounded).collect::<Vec<_>>().join(",")),
        Value::Object(all) => {
            let mut pairs: Vec<String> = all.iter().map(|(name, value)| format!("{name}:{}", rounded(value))).collect();
            pairs.sort();
            pairs.join(",")
        }
        Value::String(text) => text.parse::<f64>().map_or(text.clone(), |number| format!("{number:.10e}")),
        other => other.to_string(),
    }
}

/// What a query answers, series by series.
fn answer(address: SocketAddr, path: &str) -> BTreeMap<String, String> {
    let answer = request(address, "GET", path, &[]);
    let json: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body));
    let result = json["data"]["result"].as_array().unwrap_or_else(|| panic!("{path}: {json}"));
    let of_series = |series: &Value| {
        let kinds = ["value", "values", "histogram", "histograms"].map(|kind| rounded(&series[kind]));
        (series["metric"].to_string(), kinds.join(" "))
    };
    result.iter().map(of_series).collect()
}

/// Tells where two answers begin to differ.
#[track_caller]
fn same(got: &BTreeMap<String, String>, want: &BTreeMap<String, String>, what: &str) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{what}");
    for (labels, want) in want {
        let got = &got[labels];
        let place = got.bytes().zip(want.bytes()).take_while(|(one, other)| one == other).count();
        let behind = |text: &str| text[place.saturating_sub(100)..].chars().take(400).collect::<String>();
        assert!(got == want, "{what}: {labels}: ours …{}… theirs …{}…", behind(got), behind(want));
    }
}

fn at_once(query: &str, at: i64) -> String {
    format!("/api/v1/query?query={}&time={}", encode(query), at as f64 / 1000.0)
}

/// Labels of a series, and its histograms and floats with their times.
type Told = (Vec<(&'static str, String)>, Vec<(i64, Result<Histogram, f64>)>);

/// Series that count, are reset, change their resolution, are floats, end, and turn into numbers and back.
fn story(start: i64, step: i64) -> Vec<Told> {
    let mut series = Vec::new();
    for i in 0..6u64 {
        let labels = vec![("__name__", "h".to_owned()), ("job", format!("j{}", i % 2)), ("i", i.to_string())];
        let mut samples = Vec::new();
        let mut counts = vec![0u64; 3];
        for round in 0..60u64 {
            let at = start + round as i64 * step + i as i64;
            counts.iter_mut().zip(1..).for_each(|(count, by)| *count += by * (round % 5) * (i + 1));
            match (i, round) {
                (0, 30) => counts = vec![1, 0, 2],
                (1, 20) => counts.push(7),
                _ => {}
            }
            let mut histogram = Histogram { negative: i, ..Histogram::new(&counts) };
            if i == 2 && round >= 25 {
                histogram.schema = 0;
            }
            histogram.is_float = i == 3;
            let value = match (i, round) {
                (4, 40) => Err(STALE_NAN),
                (4, 41..50) => continue,
                (5, 20..35) => Err(round as f64),
                _ => Ok(histogram),
            };
            samples.push((at, value));
        }
        series.push((labels, samples));
    }
    series
}

/// Sends the story to all of these; gives how many samples it has.
fn tell(addresses: &[SocketAddr], start: i64, step: i64, rounds: i64) -> usize {
    let story = story(start, step);
    // Some rounds a request. Prometheus takes the floats of a request first: no series has both in one.
    let mut next = vec![0; story.len()];
    let mut sent = 0;
    for round in 1..=rounds / 5 {
        let until = start + round * 5 * step;
        let mut labels: Vec<Vec<(&str, &str)>> = Vec::new();
        let mut samples: Vec<Samples> = Vec::new();
        for ((names, all), next) in story.iter().zip(&mut next) {
            while let Some((at, value)) = all.get(*next).filter(|(at, _)| *at < until) {
                labels.push(names.iter().map(|(name, value)| (*name, value.as_str())).collect());
                samples.push(match value {
                    Ok(histogram) => Samples::default().histogram(*at, histogram),
                    Err(value) => Samples::default().float(*at, *value),
                });
                (*next, sent) = (*next + 1, sent + 1);
            }
        }
        let body: Vec<(Labels, Samples)> = labels.iter().map(|labels| &labels[..]).zip(samples).collect();
        for address in addresses {
            let answer = write(*address, V1, &v1(&body));
            assert!(answer.status / 100 == 2, "{address} round {round}: {} {}", answer.status, answer.body);
        }
    }
    sent
}

/// All samples of the story, each for five seconds of a range.
fn whole(start: i64, last: i64) -> String {
    // One version of theirs gives all histograms of a matrix the buckets of the last: asked for one by one.
    let (from, to) = (start as f64 / 1000.0 + 0.5, last as f64 / 1000.0);
    format!("/api/v1/query_range?query=h&start={from}&end={to}&step=5")
}

#[test]
fn prometheus_sends_its_histograms_reads_ours_and_we_its_blocks() {
    let ours = Ringscrape::start("scrape_configs: []\n", &[RECEIVER, "--shards=2"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    let url = format!("http://{}/api/v1/write", ours.address);
    let queue = "queue_config: {batch_send_deadline: 200ms, max_shards: 1}";
    std::fs::write(&file, format!("remote_write: [{{url: '{url}', send_native_histograms: true, {queue}}}]\n"))
        .unwrap();
    let features = ["--enable-feature=native-histograms", RECEIVER, "--web.enable-admin-api"];
    let theirs = Prometheus::start(&file, &folder.path().join("data"), &features);
    // Prometheus sends nothing from before its start.
    let (step, rounds) = (5_000, 60);
    let start = (now() / step + 1) * step;
    let last = start + step * rounds;
    tell(&[theirs.address], start, step, rounds);
    let want = answer(theirs.address, &whole(start, last));
    assert_eq!(want.len(), 6);
    until("all of it has come", || (answer(ours.address, &whole(start, last)) == want).then_some(()));

    // Remote read, of which this version of theirs knows floats only.
    let [samples, frames] = [0, 1].map(|kind| {
        let (mut matcher, mut query, mut question) = (Vec::new(), Vec::new(), Vec::new());
        bytes(2, b"__name__", &mut matcher);
        bytes(3, b"h", &mut matcher);
        number(1, start as u64, &mut query);
        number(2, last as u64, &mut query);
        bytes(3, &matcher, &mut query);
        bytes(1, &query, &mut question);
        number(2, kind, &mut question);
        read(ours.address, &question)
    });
    let samples = snap::raw::Decoder::new().decompress_vec(&samples).unwrap();
    let (mut floats, mut histograms) = (0, 0);
    for series in fields(&samples).flat_map(|(_, result)| fields(result)) {
        floats += fields(series.1).filter(|(number, _)| *number == 2).count();
        histograms += fields(series.1).filter(|(number, _)| *number == 4).count();
    }
    assert_eq!((floats, histograms), (15, 336), "with a marker of one");
    let (mut rest, mut kinds) = (&frames[..], BTreeMap::<u8, usize>::new());
    while !rest.is_empty() {
        let length = take_varint(&mut rest) as usize;
        let message = &rest[4..4 + length];
        rest = &rest[4 + length..];
        for (_, series) in fields(message).filter(|(number, _)| *number == 1) {
            for (_, chunk) in fields(series).filter(|(number, _)| *number == 2) {
                let field = |wanted| fields(chunk).find(|(number, _)| *number == wanted).unwrap().1;
                let encoding = field(3)[0];
                let chunk = blocks::Chunk::new(0, 0, encoding, field(4).to_vec());
                chunk.decode(|_, _| *kinds.entry(encoding).or_default() += 1).unwrap();
            }
        }
    }
    assert_eq!(kinds, BTreeMap::from([(1, 15), (2, 276), (3, 60)]));

    let snapshot = request(theirs.address, "POST", "/api/v1/admin/tsdb/snapshot", &[]);
    let name = serde_json::from_str::<Value>(&snapshot.body).unwrap();
    let blocks = folder.path().join("data/snapshots").join(name["data"]["name"].as_str().unwrap());
    let foreign = tempfile::tempdir().unwrap();
    std::fs::rename(blocks, foreign.path().join("data")).unwrap();
    std::fs::write(foreign.path().join("prometheus.yml"), "scrape_configs: []\n").unwrap();
    let ours = Ringscrape::start_in(foreign, &[]);
    same(&answer(ours.address, &whole(start, last)), &want, "blocks of Prometheus");
    let listed = ours.api("/api/v1/status/tsdb/blocks");
    assert_eq!(listed["badBlocks"].as_array().map_or(0, Vec::len), 0, "{listed}");
}

#[test]
fn same_histograms_give_the_answers_of_prometheus() {
    let flags = [RECEIVER, "--shards=2", "--web.enable-admin-api"];
    let mut ours = Ringscrape::start("scrape_configs: []\n", &flags);
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("prometheus.yml");
    std::fs::write(&empty, "scrape_configs: []\n").unwrap();
    let features = ["--enable-feature=native-histograms", RECEIVER];
    let theirs = Prometheus::start(&empty, &folder.path().join("data"), &features);
    let (step, rounds) = (15_000, 60);
    let start = (now() - step * rounds) / step * step;
    let sent = tell(&[ours.address, theirs.address], start, step, rounds);
    assert_eq!(sent, 351);
    let last = start + step * rounds;
    let check = |ours: SocketAddr, theirs: SocketAddr, when: &str| {
        let all = whole(start, last);
        let (got, want) = (answer(ours, &all), answer(theirs, &all));
        assert_eq!(want.len(), 6, "{when}");
        same(&got, &want, when);
        for query in [
            "h",
            "histogram_count(h)",
            "histogram_sum(h) / histogram_count(h)",
            "sum by (job) (h{i!=\"5\"})",
            "count(h)",
            "timestamp(h)",
            "count_over_time(h{i=\"5\"}[10m])",
        ] {
            for at in [last, last - 7_000, last - 20 * step + 777, last - 37 * step + 100, start + 3 * step + 1] {
                let path = at_once(query, at);
                same(&answer(ours, &path), &answer(theirs, &path), &format!("{when}: {query} at {}", at - start));
            }
            let (from, to) = (start as f64 / 1000.0 + 1.2, last as f64 / 1000.0);
            let path = format!("/api/v1/query_range?query={}&start={from}&end={to}&step=23", encode(query));
            same(&answer(ours, &path), &answer(theirs, &path), &format!("{when}: {query} over a range"));
        }
        for query in [
            "histogram_count(rate(h{i=~\"0|1|3\"}[70s]))",
            "histogram_sum(increase(h{i=~\"0|1\"}[100s]))",
            "sum(rate(h{i=~\"0|1|3\"}[125s]))",
        ] {
            // Not where counting begins: later versions know that it began at zero.
            for at in [last, last - 7_000, last - 20 * step + 777, last - 37 * step + 100] {
                let path = at_once(query, at);
                same(&answer(ours, &path), &answer(theirs, &path), &format!("{when}: {query} at {}", at - start));
            }
        }
    };
    check(ours.address, theirs.address, "in memory");
    for (path, want) in [
        ("/api/v1/series?match[]=h", 6),
        ("/api/v1/label/i/values?match[]=h", 6),
        ("/api/v1/series?match[]=nothing", 0),
    ] {
        assert_eq!(ours.api(path).as_array().unwrap().len(), want, "{path}");
    }
    let federated = ours.get("/federate?match[]=h").body;
    assert!(!federated.contains("h{"), "text has no native histograms: {federated}");

    ours.restart(SIGKILL, &flags);
    ours.until_ready();
    check(ours.address, theirs.address, "after a kill");

    // As blocks, which both read.
    let name = serde_json::from_str::<Value>(&ours.post("/api/v1/admin/tsdb/snapshot").body).unwrap();
    let snapshot = ours.path("data/snapshots").join(name["data"]["name"].as_str().unwrap());
    std::fs::create_dir_all(snapshot.join("wal")).unwrap();
    let listed = std::process::Command::new("promtool").args(["tsdb", "list"]).arg(&snapshot).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    drop(theirs);
    let theirs = Prometheus::start(&empty, &snapshot, &features);
    check(ours.address, theirs.address, "in blocks that Prometheus reads");
    drop(theirs);
    let tool = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_ringscrape");
        let output = std::process::Command::new(program).arg("tsdb").args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let folder = snapshot.to_str().unwrap();
    tool(&["verify", folder]);
    let dumped = tool(&["dump", folder, "h"]);
    assert_eq!(dumped.lines().count(), sent);
    assert!(dumped.contains("{count:"), "{dumped}");

    // What is deleted is gone, of histograms as of floats.
    let path = format!("/api/v1/admin/tsdb/delete_series?match[]={}", encode("h{i=~\"0|5\"}"));
    assert_eq!(ours.post(&path).status, 204);
    assert_eq!(answer(ours.address, &at_once("h[1h]", last + 500)).len(), 4);
}

#[test]
fn verdicts_on_histograms_are_those_of_prometheus() {
    let ours = Ringscrape::start("scrape_configs: []\n", &[RECEIVER]);
    let at = now();
    let name: Labels = &[("__name__", "h"), ("job", "j")];
    let check = |message: &[u8], kind: &str, status: u16, text: &str, histograms: u64| {
        let answer = write(ours.address, kind, message);
        assert!(answer.status == status && answer.body.trim_end() == text, "{}: {}", answer.status, answer.body);
        let head = answer.head.to_ascii_lowercase();
        let want = format!("x-prometheus-remote-write-histograms-written: {histograms}\r\n");
        assert!(head.contains(&want), "{head}");
    };
    let one = Histogram::new(&[1, 2]);
    let more = Histogram::new(&[2, 3]);
    let of = |samples: Samples| v2(&[(name, samples)], "How long.");
    let none = Samples::default;
    check(&of(none().histogram(at, &one)), V2, 204, "", 1);
    check(&of(none().histogram(at, &one)), V2, 204, "", 1);
    let labels = r#"{__name__="h", job="j"}"#;
    let twice = format!("duplicate sample for timestamp for series {labels}");
    check(&of(none().histogram(at, &more)), V2, 400, &twice, 0);
    check(&of(none().float(at, 1.0)), V2, 400, &twice, 0);
    let late = format!("out of order sample for series {labels}");
    check(&of(none().histogram(at - 1, &more).histogram(at + 1, &more)), V2, 400, &late, 1);
    let lies = format!(
        "6 observations found in buckets, but the Count field is 9: histogram's observation count should equal the number \
         of observations found in the buckets (in absence of NaN) for series {labels}"
    );
    let lying = Samples { histograms: vec![more.encode(at + 2, 9)], ..none() };
    check(&v1(&[(name, lying.clone())]), V1, 400, &lies, 0);
    check(&of(lying.histogram(at + 2, &more)), V2, 400, &lies, 1);
    let custom: Labels = &[("__name__", "custom")];
    check(&v2(&[(custom, none().histogram(at, &Histogram::custom(&[4, 5, 6], &[0.5, 2.0])))], ""), V2, 204, "", 1);
    let unsorted = "custom buckets: previous bound is 2.000000 and current is 0.500000: histogram custom bounds must be in \
                    strictly increasing order for series {__name__=\"custom\"}";
    check(&v2(&[(custom, none().histogram(at + 1, &Histogram::custom(&[4], &[2.0, 0.5])))], ""), V2, 400, unsorted, 0);

    let found = answer(ours.address, &at_once("custom", at + 10));
    let buckets = r#"[[3,"-Inf","0.5","4"],[0,"0.5","2","5"],[0,"2","+Inf","6"]]"#;
    let want: Value = serde_json::from_str(buckets).unwrap();
    assert!(found.values().any(|value| value.contains(&rounded(&want))), "{found:?}");
    assert_eq!(answer(ours.address, &at_once("count_over_time(h[1m])", at + 10)).len(), 1);
    let metadata = ours.api("/api/v1/metadata?metric=h");
    assert_eq!(metadata, serde_json::json!({"h": [{"type": "histogram", "help": "How long.", "unit": ""}]}));
}

#[test]
fn rules_record_histograms() {
    let rules = "groups:\n  - name: g\n    interval: 1s\n    rules:\n      - {record: 'job:h:sum', expr: 'sum by (job) \
                 (h)'}\n      - {alert: Some, expr: 'h'}\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yml"), rules).unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), "rule_files: [rules.yml]\nscrape_configs: []\n").unwrap();
    let mut ours = Ringscrape::start_in(folder, &[RECEIVER]);
    let labels: [Labels; 2] = [&[("__name__", "h"), ("job", "j"), ("i", "1")], &[("__name__", "h"), ("job", "j")]];
    let observe = |ours: &Ringscrape| {
        let at = now();
        let body = labels.map(|labels| (labels, Samples::default().histogram(at, &Histogram::new(&[1, 2]))));
        assert_eq!(write(ours.address, V1, &v1(&body)).status, 204);
    };
    observe(&ours);
    let recorded = |ours: &Ringscrape| {
        let found = answer(ours.address, &at_once("histogram_count(job:h:sum)", now()));
        found.values().any(|value| value.contains("8.0000000000e0")).then_some(())
    };
    until("the rule has recorded", || recorded(&ours));
    let health = ours.api("/api/v1/rules");
    assert!(health["groups"][0]["rules"].as_array().unwrap().iter().all(|rule| rule["health"] == "ok"), "{health}");
    let samples = |ours: &Ringscrape| {
        let result = &ours.api(&at_once("count_over_time(job:h:sum[10m])", now()))["result"][0]["value"][1];
        result.as_str().map_or(0.0, |count| count.parse::<f64>().unwrap())
    };
    until("more than one is recorded", || (samples(&ours) >= 3.0).then_some(()));
    let before = samples(&ours);
    ours.restart(SIGKILL, &[RECEIVER]);
    ours.until_ready();
    assert!(samples(&ours) >= before, "nothing that was recorded is lost");
    observe(&ours);
    until("the rule records again", || (samples(&ours) > before + 1.0).then_some(()));
    // Once its series end, so does the rule's.
    let body = labels.map(|labels| (labels, Samples::default().float(now() + 1, STALE_NAN)));
    assert_eq!(write(ours.address, V1, &v1(&body)).status, 204);
    until("the rule's series has ended", || {
        answer(ours.address, &at_once("job:h:sum", now())).is_empty().then_some(())
    });
    assert_eq!(answer(ours.address, &at_once("count_over_time(job:h:sum[10m])", now())).len(), 1);
}
