//! Hostile targets: one path for each thing that a target can do to the one who scrapes it.
//!
//! A line of `EVILS` is a whole target: its name (the path is `/evil/<name>`), the fault it stands for, what it does,
//! what a scraper should make of it, and the script that does it. Some are not hostile at all but rare; those say
//! `up 1`, and a scraper that refuses them is as wrong as one that falls for the others.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use crate::payload::{CONTENT_TYPE, gzip};
use crate::script::Step;

/// Bytes between two events of a slow target.
const DRIP_GAP: Duration = Duration::from_secs(1);
const MIB: usize = 1024 * 1024;
const FOR_EVER: u64 = u64::MAX;

/// What a script may depend on.
pub struct Request<'a> {
    /// The address and port that were asked.
    pub local: Ipv4Addr,
    pub port: u16,
    /// How often this path was asked for before, by anyone.
    pub served_before: u64,
    /// Wall clock, Unix milliseconds.
    pub now_ms: i64,
    /// What follows the name in the path, without the slash.
    pub rest: &'a str,
}

/// One hostile target.
pub struct Evil {
    pub name: &'static str,
    /// The row of the reliability list it covers.
    pub fault: &'static str,
    pub does: &'static str,
    pub expect: &'static str,
    pub script: fn(&Request) -> Vec<Step>,
}

/// The table, by name.
pub fn find(name: &str) -> Option<usize> {
    EVILS.iter().position(|evil| evil.name == name)
}

/// One line per hostile target, for people.
pub fn listing() -> String {
    let mut out =
        String::from("full-backlog         F19  separate port: a listener that never accepts => up 0 at the timeout\n");
    for evil in EVILS {
        out.push_str(&format!("{:<20} {}  {} => {}\n", evil.name, evil.fault, evil.does, evil.expect));
    }
    out
}

/// Name, fault, what it does, what to make of it, how.
macro_rules! evils {
    ($($name:literal $fault:literal $does:literal => $expect:literal, $script:expr;)*) => {
        /// Every hostile target, in the order of the faults.
        pub const EVILS: &[Evil] =
            &[$(Evil { name: $name, fault: $fault, does: $does, expect: $expect, script: $script }),*];
    };
}

evils! {
    "never-answers" "F19" "reads the request and stays silent" => "up 0 at the timeout",
        |_| vec![Step::Hang];
    "close-unanswered" "F19" "closes without a byte" => "up 0 at once",
        |_| vec![Step::Close];
    "reset-unanswered" "F19" "resets without a byte" => "up 0 at once",
        |_| vec![Step::Reset];

    "slow-headers" "F20" "sends the head at one byte a second" => "up 0 at the timeout, not later",
        |_| vec![Step::Drip { bytes: page("", GOOD), gap: DRIP_GAP }];
    "slow-loris" "F20" "sends the body at one byte a second" => "up 0 at the timeout, not later",
        |_| vec![Step::Send(head("Content-Length: 2097152\r\n")), drip_for_ever()];
    "slow-chunks" "F20" "sends chunks of one byte, one a second" => "up 0 at the timeout, not later",
        |_| vec![Step::Send(head(CHUNKED)), Step::Drip { bytes: b"1\r\n#\r\n".repeat(100_000), gap: DRIP_GAP / 6 }];
    "stall-in-body" "F20" "sends half of the body and stays silent" => "up 0 at the timeout",
        |_| vec![Step::Send(half_page()), Step::Hang];

    "half-close" "F21" "sends half of the body, then a FIN, and keeps its own side open" => "up 0, nothing kept",
        |_| vec![Step::Send(half_page()), Step::HalfClose, Step::Hang];
    "reset-in-body" "F21" "sends half of the body and resets" => "up 0, nothing kept",
        |_| vec![Step::Send(half_page()), Step::Reset];
    "length-too-long" "F21" "promises more bytes than it sends, then closes" => "up 0, nothing kept",
        |_| vec![Step::Send(with_length(&(GOOD.len() + 100).to_string())), Step::Close];
    "length-too-long-open" "F21" "promises more bytes than it sends and keeps the connection" => "up 0 at the timeout",
        |_| vec![Step::Send(with_length(&(GOOD.len() + 100).to_string())), Step::Hang];
    "length-too-short" "F21" "sends more bytes than promised, on a line boundary" =>
        "up 1 with what was promised; the rest never becomes the next reply",
        |_| vec![Step::Send(with_length(&line_boundary().to_string()))];
    "length-twice" "F21" "says the same Content-Length twice" => "up 1",
        |_| vec![Step::Send(page(&format!("Content-Length: {}\r\n", GOOD.len()), GOOD))];
    "length-conflicting" "F21" "says two different Content-Lengths" => "up 0",
        |_| vec![Step::Send(page("Content-Length: 5\r\n", GOOD)), Step::Close];
    "length-negative" "F21" "says Content-Length: -1" => "up 0", |_| vec![Step::Send(with_length("-1")), Step::Close];
    "length-overflowing" "F21" "says a Content-Length beyond 64 bits" => "up 0",
        |_| vec![Step::Send(with_length("99999999999999999999")), Step::Close];
    "length-huge" "F21" "promises 8 EiB and sends a little" => "up 0, and no memory is taken on the promise",
        |_| vec![Step::Send(with_length("9223372036854775807")), Step::Close];
    "length-and-chunks" "F21" "says Content-Length and chunked at once" => "up 1 by the chunks, connection not reused",
        |_| vec![Step::Send(head("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n")), chunk(GOOD), last_chunk()];
    "chunk-size-bad" "F21" "sends a chunk size that is no number" => "up 0",
        |_| vec![Step::Send(head(CHUNKED)), send("zz\r\nup 1\n\r\n0\r\n\r\n"), Step::Close];
    "chunk-size-overflowing" "F21" "sends a chunk size beyond 64 bits" => "up 0",
        |_| vec![Step::Send(head(CHUNKED)), send("fffffffffffffffff\r\nup 1\n\r\n"), Step::Close];
    "chunk-unterminated" "F21" "sends a chunk that is longer than its size" => "up 0",
        |_| vec![Step::Send(head(CHUNKED)), send("4\r\ngood_metric 1\n\r\n0\r\n\r\n"), Step::Close];
    "chunks-cut" "F21" "closes after a chunk, without the last one" => "up 0, nothing kept",
        |_| vec![Step::Send(head(CHUNKED)), chunk(GOOD), Step::Close];
    "chunks-tiny" "F21" "sends a good body in chunks of one byte, with trailers" => "up 1",
        |_| {
            let mut steps = vec![Step::Send(head(CHUNKED))];
            steps.extend(GOOD.as_bytes().iter().map(|byte| chunk(std::str::from_utf8(&[*byte]).unwrap_or("#"))));
            steps.push(send("0\r\nX-Trailer: yes\r\n\r\n"));
            steps
        };

    "endless-chunks" "F22" "sends comments for ever, chunked" => "up 0 at the body limit, connection closed at once",
        |_| vec![Step::Send(head(CHUNKED)), Step::Repeat { block: framed(&comments(64 * 1024)), times: FOR_EVER }];
    "endless-close" "F22" "sends comments for ever, without a length" => "up 0 at the body limit, closed at once",
        |_| vec![Step::Send(head("Connection: close\r\n")), endless(&comments(64 * 1024))];
    "endless-samples" "F22" "sends new samples for ever, chunked" => "up 0 at a limit, nothing kept",
        |_| vec![Step::Send(head(CHUNKED)), fresh_series(0, FOR_EVER)];
    "endless-line" "F22" "sends one line for ever" => "up 0 at the line or body limit",
        |_| vec![Step::Send(head("Connection: close\r\n")), send("endless{a=\""), endless(&[b'a'; 64 * 1024])];

    "gzip-bomb" "F23" "sends 10 GiB of zeros in 10 MB" => "up 0 at the body or ratio limit, memory flat",
        |_| bomb(&[0; MIB]);
    "gzip-bomb-comments" "F23" "sends 10 GiB of comments in 32 MB" => "up 0 at the body or ratio limit, memory flat",
        |_| bomb(&comments(MIB));
    "gzip-size-lies" "F23" "says an unpacked size of 4 GiB in the trailer" => "up 0, no memory taken on the promise",
        |_| zipped(|z| z.iter_mut().rev().take(4).for_each(|byte| *byte = 0xff));

    "gzip-truncated" "F24" "cuts the gzip stream in half" => "up 0, nothing kept",
        |_| zipped(|z| z.truncate(z.len() / 2));
    "gzip-no-trailer" "F24" "leaves out checksum and size" => "up 0",
        |_| zipped(|z| z.truncate(z.len() - 8));
    "gzip-bad-crc" "F24" "sends a wrong checksum" => "up 0, nothing kept",
        |_| zipped(|z| { let crc = z.len() - 8; z[crc] ^= 1; });
    "gzip-bit-flip" "F24" "flips a bit in the middle of the stream" => "up 0, nothing kept",
        |_| zipped(|z| { let middle = z.len() / 2; z[middle] ^= 0x10; });
    "gzip-two-members" "F24" "sends two gzip members after one another" => "up 1 with the samples of both",
        |_| zipped(|z| z.extend(gzip(b"second_member 2\n")));
    "gzip-tail" "F24" "sends rubbish after the gzip member" => "up 0",
        |_| zipped(|z| z.extend_from_slice(b"rubbish after the end"));
    "gzip-rubbish" "F24" "says gzip and sends noise" => "up 0",
        |_| zipped(|z| z.iter_mut().skip(2).enumerate().for_each(|(i, byte)| *byte = (i * 151) as u8));
    "gzip-undeclared" "F24" "sends gzip without saying so" => "up 0",
        |_| vec![Step::Send(page_bytes("", &gzip(GOOD.as_bytes())))];
    "encoding-lies" "F24" "says gzip and sends plain text" => "up 0",
        |_| vec![Step::Send(page("Content-Encoding: gzip\r\n", GOOD))];
    "encoding-unknown" "F24" "says br, which nobody asked for" => "as plain text if it is one: up 1 here",
        |_| vec![Step::Send(page("Content-Encoding: br\r\n", GOOD))];

    "utf8-invalid" "F25" "has bytes in a label value that are not UTF-8" => "up 0, the reason shown escaped",
        |_| vec![Step::Send(page_bytes("", b"good_metric{a=\"\xff\xfe\xc0\x80\"} 1\n"))];
    "utf8-invalid-name" "F25" "has bytes in a metric name that are not UTF-8" => "up 0",
        |_| vec![Step::Send(page_bytes("", b"bad_\xff_name 1\n"))];
    "utf8-names" "F25" "has quoted names beyond ASCII" => "up 1 under the utf8 scheme",
        |_| vec![body("{\"höhe.über.null\",\"längen.grad\"=\"9°\"} 438\n")];
    "nul-in-value" "F25" "has a NUL byte in a label value" => "up 1, logs and pages show it escaped",
        |_| vec![body("good_metric{a=\"x\0y\"} 1\nother_metric 2\n")];
    "nul-lines" "F25" "has NUL bytes between lines" => "up 1 with what came before: a NUL is the end of the text",
        |_| vec![body("good_metric 1\n\0\0\0\nother_metric 2\n")];
    "nul-in-name" "F25" "has a NUL byte in a metric name" => "up 0",
        |_| vec![body("good_metric 1\ngood\0metric 1\nother_metric 2\n")];
    "control-bytes" "F25" "has control characters in a label value" => "up 1, logs and pages show them escaped",
        |_| vec![body("good_metric{a=\"\u{1}\u{7}\u{8}\u{b}\u{7f}\u{85}\"} 1\n")];
    "ansi-escapes" "F25" "has terminal escapes in a label value and in HELP" =>
        "up 1, logs and pages show them escaped",
        |_| vec![body("# HELP good_metric \u{1b}[2J\u{1b}]0;owned\u{7}\ngood_metric{a=\"\u{1b}[31mred\"} 1\n")];
    "markup" "F25" "has markup and a script in a label value and in HELP" => "up 1, pages show it as text",
        |_| vec![body(
            "# HELP good_metric <script>alert(1)</script>\ngood_metric{a=\"<img src=x onerror=alert(1)>\"} 1\n")];

    "value-1mib" "F26" "has a label value of 1 MiB" => "up 0 where lengths are capped, with the name of the cap",
        |_| vec![body(&format!("good_metric{{a=\"{}\"}} 1\n", "v".repeat(MIB)))];
    "name-1mib" "F26" "has a metric name of 1 MiB" => "up 0 where lengths are capped, with the name of the cap",
        |_| vec![body(&format!("{} 1\n", "n".repeat(MIB)))];
    "labels-100k" "F26" "has one series of 100,000 labels" => "up 0 where lengths are capped, with the name of the cap",
        |_| {
            let labels: Vec<String> = (0..100_000).map(|n| format!("l{n}=\"v\"")).collect();
            vec![body(&format!("good_metric{{{}}} 1\n", labels.join(",")))]
        };
    "line-100mib" "F26" "has one line of 100 MiB" => "up 0 at the line or body limit",
        |_| vec![
            Step::Send(head(&format!("Content-Length: {}\r\n", 100 * MIB + 14))),
            send("long{a=\""), Step::Repeat { block: vec![b'a'; MIB].into(), times: 100 }, send("\"} 1 \n"),
        ];
    "help-1mib" "F26" "has a HELP text of 1 MiB" => "up 1 or the line limit; metadata memory bounded",
        |_| vec![body(&format!("# HELP good_metric {}\ngood_metric 1\n", "h".repeat(MIB - 32)))];

    "series-twice" "F27" "exposes a series twice, with two values" => "up 1, the first wins, the second is counted",
        |_| vec![body("good_metric{a=\"x\"} 1\ngood_metric{a=\"x\"} 2\n")];
    "series-twice-reordered" "F27" "exposes a series twice, its labels in another order" => "up 1, the first wins",
        |_| vec![body("good_metric{a=\"x\",b=\"y\"} 1\ngood_metric{b=\"y\",a=\"x\"} 2\n")];
    "label-twice" "F27" "uses one label name twice in a series" => "up 0",
        |_| vec![body("good_metric{a=\"x\",a=\"y\"} 1\n")];

    "time-future" "F28" "dates samples a day ahead" => "up 1, samples refused and counted, others unharmed",
        |request| vec![body(&format!("good_metric 1\nfuture_metric 2 {}\n", request.now_ms + 86_400_000))];
    "time-past" "F28" "dates samples to 1970" => "up 1, samples refused and counted",
        |_| vec![body("good_metric 1\npast_metric 2 1000\n")];
    "time-latest" "F28" "dates a sample to the last millisecond of 64 bits" =>
        "up 1, sample refused, no arithmetic wraps",
        |_| vec![body("good_metric 1\nlatest 2 9223372036854775807\n")];
    "time-earliest" "F28" "dates a sample to the first millisecond of 64 bits" =>
        "up 0, as the text form takes no minus sign there",
        |_| vec![body("good_metric 1\nearliest 3 -9223372036854775808\n")];
    "time-negative" "F28" "dates a sample before 1970" => "up 0, as the text form takes no minus sign there",
        |_| vec![body("good_metric 1\nnegative 3 -1000\n")];
    "time-overflowing" "F28" "dates a sample beyond 64 bits" => "up 0",
        |_| vec![body("good_metric 1\nbeyond 2 9223372036854775808\n")];
    "time-backwards" "F28" "dates each scrape a minute before the last" => "up 1, samples refused and counted",
        |request| vec![body(&format!("backwards 1 {}\n", request.now_ms - 60_000 * request.served_before as i64))];
    "time-frozen" "F28" "sends the same time with another value" => "up 1, samples refused and counted",
        |request| vec![body(&format!("frozen {} {}\n", request.served_before, request.now_ms / 3_600_000 * 3_600_000))];

    "values-odd" "F29" "sends NaN, infinities, -0, subnormals and the largest float" => "up 1, exact bits kept",
        |_| vec![body(
            "v{n=\"1\"} NaN\nv{n=\"2\"} nan\nv{n=\"3\"} +Inf\nv{n=\"4\"} -inf\nv{n=\"5\"} -0\nv{n=\"6\"} 5e-324\n\
             v{n=\"7\"} 1.7976931348623157e308\nv{n=\"8\"} Infinity\nv{n=\"9\"} 1e-400\n")];
    "value-1e400" "F29" "sends a value beyond the range of floats" => "up 0", |_| vec![body("good_metric 1e400\n")];
    "value-nan-payload" "F29" "tries to spell a NaN with a payload" => "up 0, never a staleness marker",
        |_| vec![body("good_metric nan(0x7ff0000000000002)\n")];
    "value-hex" "F29" "sends a hexadecimal float" => "up 0", |_| vec![body("good_metric 0x1p-2\n")];
    "value-underscore" "F29" "sends digits parted by underscores" => "up 0", |_| vec![body("good_metric 1_000\n")];

    "type-absent" "F30" "has no Content-Type" => "up 0, unless a fallback protocol is set",
        |_| vec![Step::Send(typed(None))];
    "type-empty" "F30" "has an empty Content-Type" => "up 0, unless a fallback protocol is set",
        |_| vec![Step::Send(typed(Some("")))];
    "type-wrong" "F30" "calls the text image/png" => "up 0, unless a fallback protocol is set",
        |_| vec![Step::Send(typed(Some("image/png")))];
    "type-garbled" "F30" "has a Content-Type that cannot be parsed" => "up 0, unless a fallback protocol is set",
        |_| vec![Step::Send(typed(Some(";;text//plain;=;")))];
    "type-openmetrics" "F30" "calls 0.0.4 text without EOF mark OpenMetrics" => "up 0",
        |_| vec![Step::Send(typed(Some("application/openmetrics-text; version=1.0.0")))];
    "type-protobuf" "F30" "calls text protobuf" => "up 0",
        |_| vec![Step::Send(typed(Some(
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited")))];
    "type-changing" "F30" "has a good, a wrong and no Content-Type in turn" => "up 1, 0, 0 in turn",
        |request| {
            let types = [Some(CONTENT_TYPE), Some("image/png"), None];
            vec![Step::Send(typed(types[request.served_before as usize % 3]))]
        };
    "html-page" "F30" "sends a web page" => "up 0",
        |_| vec![Step::Send(reply("200 OK", "Content-Type: text/html\r\n", b"<!doctype html><title>Hello</title>\n"))];

    "header-flood" "F31" "sends 100,000 header lines" => "up 0 at the header limit",
        |_| vec![
            send("HTTP/1.1 200 OK\r\n"),
            Step::Repeat { block: b"X-Flood: yes\r\n".repeat(1_000).into(), times: 100 },
            send("Content-Length: 0\r\n\r\n"),
        ];
    "header-1gib" "F31" "sends one header line of 1 GiB" => "up 0 at the header limit, memory flat",
        |_| vec![send("HTTP/1.1 200 OK\r\nX-Long: "), Step::Repeat { block: vec![b'h'; MIB].into(), times: 1_024 },
            send("\r\nContent-Length: 0\r\n\r\n")];
    "status-line-endless" "F31" "never ends the status line" => "up 0 at the header limit",
        |_| vec![send("HTTP/1.1 200 "), endless(&[b'K'; 64 * 1024])];
    "interim-few" "F31" "sends three interim replies before the real one" => "up 1",
        |_| vec![
            send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
            send("HTTP/1.1 102 Processing\r\n\r\n"),
            body(GOOD),
        ];
    "interim-endless" "F31" "sends interim replies for ever" => "up 0 after a few",
        |_| vec![endless(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(2_000))];
    "chunk-extension-huge" "F31" "sends a chunk extension for ever" => "up 0",
        |_| vec![Step::Send(head(CHUNKED)), send("5;x="), endless(&[b'e'; 64 * 1024])];
    "trailer-flood" "F31" "sends trailers for ever" => "up 0",
        |_| vec![Step::Send(head(CHUNKED)), chunk(GOOD), send("0\r\n"), endless(&b"X-Trailer: yes\r\n".repeat(4_000))];
    "header-folded" "F31" "folds a header and has a line without a colon" => "up 0",
        |_| vec![Step::Send(page("X-Folded: a\r\n b\r\nno colon here\r\n", GOOD)), Step::Close];
    "not-http" "F31" "answers as if it were a mail server" => "up 0",
        |_| vec![send("220 mail.example ESMTP ready\r\n500 unrecognised command\r\n"), Step::Close];

    "redirect-loop" "F32" "redirects to itself" => "up 0 after a few hops",
        |_| vec![redirect("/evil/redirect-loop")];
    "redirect-chain" "F32" "redirects as often as the number behind the name says (3), then to /metrics" =>
        "up 1 within the hop limit",
        |request| {
            let hops: u32 = request.rest.parse().unwrap_or(3);
            vec![match hops {
                0 | 1 => redirect("/metrics"),
                more => redirect(&format!("/evil/redirect-chain/{}", more.min(100) - 1)),
            }]
        };
    "redirect-long" "F32" "redirects twenty times, then to /metrics" => "up 0 after a few hops",
        |_| vec![redirect("/evil/redirect-chain/20")];
    "redirect-elsewhere" "F32" "redirects to another host (127.0.0.2)" => "up 1, but credentials stay behind",
        |request| vec![redirect(&format!("http://127.0.0.2:{}/metrics", request.port))];
    "redirect-no-location" "F32" "redirects without saying where" => "up 0",
        |_| vec![Step::Send(reply("302 Found", "", b""))];
    "redirect-file" "F32" "redirects to a file" => "up 0, no file is read", |_| vec![redirect("file:///etc/hostname")];
    "redirect-rubbish" "F32" "redirects to something that is no URL" => "up 0",
        |_| vec![redirect("http://[::1:99999/\u{1}")];
    "redirect-tls" "F32" "redirects to https on this plain port" => "up 0",
        |request| vec![redirect(&format!("https://{}:{}/metrics", request.local, request.port))];

    "spoofs-up" "F33" "exposes up 5 and the other report series" => "up 1; the reported series are the scraper's own",
        |_| vec![body(
            "up 5\nscrape_duration_seconds 99\nscrape_samples_scraped 99\nscrape_series_added 99\ngood_metric 1\n")];
    "sets-target-labels" "F33" "sets job and instance itself" =>
        "up 1, renamed to exported_ unless labels are honoured",
        |_| vec![body("good_metric{job=\"other\",instance=\"other:1\",exported_job=\"third\"} 1\n")];
    "sets-reserved" "F33" "sets labels that begin with two underscores" => "up 1, no other series touched",
        |_| vec![body("good_metric{__address__=\"10.0.0.1\",__scheme__=\"https\",__tmp=\"x\"} 1\n")];
    "sets-name" "F33" "sets __name__ as a label" => "up 0, or no other target's series touched",
        |_| vec![body("good_metric{__name__=\"up\"} 5\n")];

    "cardinality-bomb" "F34" "exposes a million series, all new in each scrape" =>
        "up 0 at a limit; the process lives on",
        |request| vec![Step::Send(head(CHUNKED)), fresh_series(request.served_before, 1_000), last_chunk()];
    "churning-labels" "F34" "exposes 1,000 series, all new in each scrape" => "up 1 within the budget, memory bounded",
        |request| {
            let mut text = Vec::new();
            series_block(request.served_before, 0, &mut text);
            vec![Step::Send(page_bytes("", &text))]
        };

    "broken-middle" "text" "has a line in the middle that is no sample" => "up 0, nothing kept",
        |_| vec![body("good_metric 1\nthis is not{ a sample\nother_metric 2\n")];
    "quote-open" "text" "never closes a quote" => "up 0", |_| vec![body("good_metric{a=\"never closed} 1\nother 2\n")];
    "no-final-newline" "text" "leaves out the last newline" => "up 1", |_| vec![body("good_metric 1\nother_metric 2")];
    "crlf-lines" "text" "ends lines as DOS does" => "up 0", |_| vec![body("good_metric 1\r\nother_metric 2\r\n")];
    "cr-lines" "text" "ends lines as old Macs did" => "up 0", |_| vec![body("good_metric 1\rother_metric 2\r")];
    "type-twice" "text" "declares a family twice, with two types" => "up 1, last metadata wins",
        |_| vec![body("# TYPE good_metric counter\n# TYPE good_metric gauge\ngood_metric 1\n")];
    "comments-only" "text" "sends nothing but comments" => "up 1 with 0 samples",
        |_| vec![body("# nothing\n# TYPE good_metric counter\n# HELP good_metric here\n")];
    "empty" "text" "sends an empty body" => "up 1 with 0 samples", |_| vec![body("")];
    "status-204" "status" "answers 204 No Content" => "up 0",
        |_| vec![send("HTTP/1.1 204 No Content\r\n\r\n")];
    "status-404" "status" "answers 404, with a body that would parse" => "up 0",
        |_| vec![Step::Send(reply("404 Not Found", TYPE, GOOD.as_bytes()))];
    "status-500" "status" "answers 500, with a body that would parse" => "up 0",
        |_| vec![Step::Send(reply("500 Internal Server Error", TYPE, GOOD.as_bytes()))];
    "status-503" "status" "answers 503 with Retry-After" => "up 0, next try at the next tick",
        |_| vec![Step::Send(reply("503 Service Unavailable", "Retry-After: 3600\r\n", b"busy\n"))];
    "status-flapping" "status" "answers 200 and 500 in turn" => "up 1 and 0 in turn, markers between",
        |request| vec![match request.served_before % 2 {
            0 => body(GOOD),
            _ => Step::Send(reply("500 Internal Server Error", TYPE, GOOD.as_bytes())),
        }];
}

/// A body that nobody can object to.
pub const GOOD: &str = "\
# HELP good_metric A metric that is fine.
# TYPE good_metric gauge
good_metric{part=\"first\"} 1
good_metric{part=\"second\"} 2.5
# HELP good_total A counter that is fine.
# TYPE good_total counter
good_total{code=\"200\",method=\"get\"} 1027
good_total{code=\"400\",method=\"get\"} 3
";

const TYPE: &str = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Any reply with a true Content-Length.
pub fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

fn page_bytes(headers: &str, body: &[u8]) -> Vec<u8> {
    reply("200 OK", &format!("{TYPE}{headers}"), body)
}

fn page(headers: &str, body: &str) -> Vec<u8> {
    page_bytes(headers, body.as_bytes())
}

fn body(text: &str) -> Step {
    Step::Send(page("", text))
}

/// A head of status 200 that leaves the length to the caller.
fn head(headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{TYPE}{headers}\r\n").into_bytes()
}

fn half_page() -> Vec<u8> {
    let mut whole = page("", GOOD);
    whole.truncate(whole.len() - GOOD.len() / 2);
    whole
}

fn with_length(length: &str) -> Vec<u8> {
    [head(&format!("Content-Length: {length}\r\n")), GOOD.as_bytes().to_vec()].concat()
}

/// The end of a line near the middle of the good body.
fn line_boundary() -> usize {
    GOOD[..GOOD.len() / 2].rfind('\n').map_or(0, |newline| newline + 1)
}

fn typed(content_type: Option<&str>) -> Vec<u8> {
    let header = content_type.map_or(String::new(), |value| format!("Content-Type: {value}\r\n"));
    reply("200 OK", &header, GOOD.as_bytes())
}

fn redirect(location: &str) -> Step {
    Step::Send(reply("302 Found", &format!("Location: {location}\r\n"), b""))
}

fn framed(bytes: &[u8]) -> Arc<[u8]> {
    let mut out = format!("{:x}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    out.into()
}

fn chunk(text: &str) -> Step {
    Step::Repeat { block: framed(text.as_bytes()), times: 1 }
}

fn last_chunk() -> Step {
    send("0\r\n\r\n")
}

fn endless(block: &[u8]) -> Step {
    Step::Repeat { block: block.into(), times: FOR_EVER }
}

fn drip_for_ever() -> Step {
    Step::Drip { bytes: comments(2 * MIB), gap: DRIP_GAP }
}

/// Whole comment lines, exactly so many bytes of them.
fn comments(bytes: usize) -> Vec<u8> {
    let mut out = b"# a comment that says nothing at all\n".repeat(bytes / 37 + 1);
    out.truncate(bytes);
    if let Some(last) = out.last_mut() {
        *last = b'\n';
    }
    out
}

/// A thousand series whose labels depend on the scrape and the block, so that none ever comes again.
fn series_block(scrape: u64, block: u64, out: &mut Vec<u8>) {
    for n in 0..1_000 {
        writeln!(out, "exploding_metric{{user=\"{scrape:08x}-{block:08x}-{n:03}\",path=\"/u/{n}\"}} {n}")
            .expect("writing to memory");
    }
}

fn fresh_series(scrape: u64, blocks: u64) -> Step {
    let make = move |block: u64, out: &mut Vec<u8>| {
        let mut text = Vec::with_capacity(96 * 1024);
        series_block(scrape, block, &mut text);
        out.extend_from_slice(&framed(&text));
    };
    Step::Generate { make: Box::new(make), blocks }
}

/// A good body in gzip, spoilt by `spoil`, with a Content-Length that is true for the result.
fn zipped(spoil: fn(&mut Vec<u8>)) -> Vec<Step> {
    let mut body = gzip(GOOD.as_bytes());
    spoil(&mut body);
    vec![Step::Send(page_bytes("Content-Encoding: gzip\r\n", &body))]
}

/// 10 GiB as one valid gzip member, made of 10,240 copies of `unit` (1 MiB).
///
/// After a full flush a deflate stream starts on a byte and without history, so the packed form of one MiB can be
/// repeated as it is. Only the checksum needs the number of copies, and checksums can be added without the bytes.
fn bomb(unit: &[u8]) -> Vec<Step> {
    const COPIES: u64 = 10 * 1024;
    let mut packed = Vec::with_capacity(64 * 1024);
    let mut deflate = Compress::new(Compression::best(), false);
    let status = deflate.compress_vec(unit, &mut packed, FlushCompress::Full).expect("deflating zeros");
    assert!(status == Status::Ok && deflate.total_in() == unit.len() as u64, "one MiB fits the buffer when packed");
    let mut crc_unit = Crc::new();
    crc_unit.update(unit);
    let mut crc = Crc::new();
    (0..COPIES).for_each(|_| crc.combine(&crc_unit));

    let mut end = vec![0x03, 0x00]; // an empty last block
    end.extend_from_slice(&crc.sum().to_le_bytes());
    end.extend_from_slice(&((COPIES * unit.len() as u64) as u32).to_le_bytes());
    let start = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let length = start.len() + packed.len() * COPIES as usize + end.len();
    let headers = format!("Content-Encoding: gzip\r\nContent-Length: {length}\r\n");
    vec![
        Step::Send(head(&headers)),
        Step::Send(start.to_vec()),
        Step::Repeat { block: packed.repeat(16).into(), times: COPIES / 16 },
        Step::Send(end),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::io::Read;

    #[test]
    fn names_are_unique_paths() {
        let names: HashSet<&str> = EVILS.iter().map(|evil| evil.name).collect();
        assert_eq!(names.len(), EVILS.len());
        assert!(
            names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
        );
    }

    #[test]
    fn every_fault_of_a_target_is_covered() {
        for fault in 19..=34 {
            let row = format!("F{fault}");
            assert!(EVILS.iter().any(|evil| evil.fault == row), "nothing for {row}");
        }
    }

    #[test]
    fn every_verdict_is_stated_first() {
        for evil in EVILS {
            let stated = evil.expect.starts_with("up ") || evil.expect.starts_with("as plain text");
            assert!(stated, "{}: {}", evil.name, evil.expect);
        }
    }

    #[test]
    fn the_bomb_is_a_valid_stream_of_the_stated_size() {
        let mut steps = bomb(&[0; MIB]);
        // All of the first eight blocks are unpacked; the 10 GiB would take too long here.
        let Step::Repeat { block, .. } = steps.remove(2) else { panic!("the bomb has another shape") };
        let Step::Send(start) = steps.remove(1) else { panic!("the bomb has another shape") };
        let stream = [start, block.to_vec()].concat();
        let mut zeros = Vec::new();
        let cut = flate2::read::GzDecoder::new(&stream[..]).read_to_end(&mut zeros);
        assert!(cut.is_err(), "without the end it is a truncated stream");
        assert_eq!(zeros.len(), 16 * MIB);
        assert!(zeros.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn checksums_of_copies_add_up() {
        let mut unit = Crc::new();
        unit.update(&[7; 1000]);
        let mut sum = Crc::new();
        (0..5).for_each(|_| sum.combine(&unit));
        let mut whole = Crc::new();
        whole.update(&[7; 5000]);
        assert_eq!((sum.sum(), sum.amount()), (whole.sum(), whole.amount()));
    }

    #[test]
    fn comments_are_whole_lines() {
        for bytes in [1, 37, 38, 65_536] {
            let text = comments(bytes);
            assert_eq!(text.len(), bytes);
            assert_eq!(text.last(), Some(&b'\n'));
        }
    }
}
