//! A receiver of remote write that counts and forgets, for contenders that keep nothing themselves.
//!
//! One thread per connection: senders keep a handful of them open. Snappy and both versions of the protocol are taken;
//! another encoding is answered with 415, which makes those who prefer zstd go back to snappy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, bail, ensure};

use crate::wire::{self, Counts, Version};

/// Largest head and body of a request, and what a body may unpack to; senders stay below 10 MB.
const HEAD_BYTES_MAX: u64 = 64 << 10;
const BODY_BYTES_MAX: usize = 64 << 20;
const UNPACKED_BYTES_MAX: usize = 256 << 20;

/// What has come so far.
#[derive(Debug, Default)]
struct Totals {
    requests: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
    series: AtomicU64,
    samples: AtomicU64,
    histograms: AtomicU64,
    exemplars: AtomicU64,
}

impl Totals {
    fn add(&self, bytes: usize, counts: Counts) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.series.fetch_add(counts.series, Relaxed);
        self.samples.fetch_add(counts.samples, Relaxed);
        self.histograms.fetch_add(counts.histograms, Relaxed);
        self.exemplars.fetch_add(counts.exemplars, Relaxed);
    }

    /// The page /stats.
    fn json(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        format!(
            "{{\"requests\": {}, \"refused\": {}, \"bytes\": {}, \"series\": {}, \"samples\": {}, \"histograms\": {}, \
             \"exemplars\": {}}}\n",
            of(&self.requests),
            of(&self.refused),
            of(&self.bytes),
            of(&self.series),
            of(&self.samples),
            of(&self.histograms),
            of(&self.exemplars),
        )
    }
}

/// Serves until the process ends. The first line that it prints says the port.
pub fn serve(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("listening on port {port}"))?;
    println!("sink listening on 127.0.0.1:{}", listener.local_addr()?.port());
    let totals = Arc::new(Totals::default());
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let totals = Arc::clone(&totals);
        // A sender that goes away, or talks nonsense, ends its connection and nothing else.
        std::thread::spawn(move || _ = connection(&stream, &totals));
    }
    Ok(())
}

fn connection(stream: &TcpStream, totals: &Totals) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut body = Vec::new();
    let mut unpacked = Vec::new();
    while let Some(head) = read_head(&mut reader)? {
        body.resize(head.body_bytes, 0);
        reader.read_exact(&mut body)?;
        let answer = match (head.is_post, head.path.as_str()) {
            (false, "/stats") => reply("200 OK", "Content-Type: application/json\r\n", &totals.json()),
            (true, _) => match take(&head, &body, &mut unpacked) {
                Ok(counts) => {
                    totals.add(body.len(), counts);
                    let Counts { samples, histograms, exemplars, .. } = counts;
                    let written = "X-Prometheus-Remote-Write-";
                    let headers = format!(
                        "{written}Samples-Written: {samples}\r\n{written}Histograms-Written: {histograms}\r\n\
                         {written}Exemplars-Written: {exemplars}\r\n"
                    );
                    reply("204 No Content", &headers, "")
                }
                Err(refusal) => {
                    totals.refused.fetch_add(1, Relaxed);
                    reply(refusal.status, "", &format!("{}\n", refusal.why))
                }
            },
            _ => reply("404 Not Found", "", "POST remote write to any path; GET /stats\n"),
        };
        (&*stream).write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    let length = if status.starts_with("204") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status}\r\n{headers}{length}\r\n{body}")
}

/// What matters of a request's head.
#[derive(Debug, PartialEq)]
struct Head {
    is_post: bool,
    path: String,
    version: Version,
    encoding: String,
    body_bytes: usize,
}

/// `None` when the peer has closed between two requests.
fn read_head(reader: &mut impl BufRead) -> anyhow::Result<Option<Head>> {
    let mut text = Vec::new();
    let mut limited = reader.take(HEAD_BYTES_MAX);
    while !text.ends_with(b"\r\n\r\n") {
        if limited.read_until(b'\n', &mut text)? == 0 {
            ensure!(text.is_empty(), "a head without an end");
            return Ok(None);
        }
    }
    parse_head(&text).map(Some)
}

fn parse_head(text: &[u8]) -> anyhow::Result<Head> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(text)?;
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map_or("", |header| std::str::from_utf8(header.value).unwrap_or_default())
    };
    let path = request.path.unwrap_or_default();
    let length = header("content-length");
    let body_bytes = if length.is_empty() { 0 } else { length.parse().context("Content-Length")? };
    ensure!(body_bytes <= BODY_BYTES_MAX, "a body of {body_bytes} bytes; {BODY_BYTES_MAX} at most");
    if header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        bail!("a chunked body; remote write says its length");
    }
    let two = header("content-type").contains("io.prometheus.write.v2.Request");
    Ok(Head {
        is_post: request.method == Some("POST"),
        path: path.split('?').next().unwrap_or_default().to_owned(),
        version: if two { Version::Two } else { Version::One },
        encoding: header("content-encoding").to_owned(),
        body_bytes,
    })
}

struct Refusal {
    status: &'static str,
    why: String,
}

fn take(head: &Head, body: &[u8], unpacked: &mut Vec<u8>) -> Result<Counts, Refusal> {
    let bad = |why: String| Refusal { status: "400 Bad Request", why };
    if head.encoding != "snappy" {
        let why = format!("content encoding \"{}\"; only snappy is taken", head.encoding);
        return Err(Refusal { status: "415 Unsupported Media Type", why });
    }
    let length = snap::raw::decompress_len(body).map_err(|error| bad(error.to_string()))?;
    if length > UNPACKED_BYTES_MAX {
        return Err(bad(format!("unpacks to {length} bytes; {UNPACKED_BYTES_MAX} at most")));
    }
    unpacked.resize(length, 0);
    let length = snap::raw::Decoder::new().decompress(body, unpacked).map_err(|error| bad(error.to_string()))?;
    wire::count(&unpacked[..length], head.version).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_head(text: &str, want: Result<(bool, &str, Version, &str, usize), &str>) {
        let got = parse_head(text.as_bytes()).map_err(|error| format!("{error:#}"));
        let want = want.map_err(str::to_owned).map(|(is_post, path, version, encoding, body_bytes)| Head {
            is_post,
            path: path.into(),
            version,
            encoding: encoding.into(),
            body_bytes,
        });
        assert_eq!(got, want);
    }

    #[test]
    fn heads() {
        check_head("GET /stats?x HTTP/1.1\r\n\r\n", Ok((false, "/stats", Version::One, "", 0)));
        check_head(
            "POST /w HTTP/1.1\r\ncontent-encoding: snappy\r\nContent-Length: 7\r\n\r\n",
            Ok((true, "/w", Version::One, "snappy", 7)),
        );
        check_head(
            "POST /w HTTP/1.1\r\nContent-Type: application/x-protobuf;proto=io.prometheus.write.v2.Request\r\n\r\n",
            Ok((true, "/w", Version::Two, "", 0)),
        );
        check_head(
            "POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
            Err("a body of 99999999999 bytes; 67108864 at most"),
        );
        check_head(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err("a chunked body; remote write says its length"),
        );
    }

    #[track_caller]
    fn check_take(encoding: &str, body: &[u8], want: Result<u64, &str>) {
        let head =
            Head { is_post: true, path: "/".into(), version: Version::One, encoding: encoding.into(), body_bytes: 0 };
        let got = take(&head, body, &mut Vec::new());
        match (got, want) {
            (Ok(counts), Ok(samples)) => assert_eq!(counts.samples, samples),
            (Err(refusal), Err(status)) => assert!(refusal.status.starts_with(status), "{}", refusal.why),
            (got, want) => panic!("{:?}, not {want:?}", got.map_err(|refusal| refusal.why)),
        }
    }

    #[test]
    fn bodies_are_unpacked_and_counted() {
        let packed = snap::raw::Encoder::new().compress_vec(&wire::tests::series(3)).unwrap();
        check_take("snappy", &packed, Ok(3));
        check_take("zstd", &packed, Err("415"));
        check_take("snappy", &packed[..packed.len() - 1], Err("400"));
        check_take("snappy", &[], Err("400"));
        check_take("snappy", &snap::raw::Encoder::new().compress_vec(b"\x0b").unwrap(), Err("400"));
        // Says that it unpacks to 4 GiB.
        check_take("snappy", &[0xff, 0xff, 0xff, 0xff, 0x0f, 0], Err("400"));
    }
}
