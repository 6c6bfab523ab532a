//! A remote-write receiver of the tests' own: takes requests apart, decides by a closure, and keeps what it accepted.

use super::http_server::{Request, listen, read_request};
use remote::{Incoming, Message, WriteLimits, decode_write, unpack, unpack_zstd};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

/// One request as it came.
#[derive(Debug)]
pub struct WriteCall {
    /// How many came before it.
    pub number: usize,
    pub method: String,
    pub path: String,
    /// Lower-case names.
    pub headers: BTreeMap<String, String>,
    pub message: Message,
    pub body_bytes: usize,
    /// Equal bodies have equal ones.
    pub body_hash: u32,
    pub unpacked_bytes: usize,
    /// Empty if the body was not understood.
    pub series: Vec<Incoming>,
    pub metadata: Vec<remote::IncomingMetadata>,
    pub exemplars: Vec<remote::IncomingExemplar>,
}

impl WriteCall {
    pub fn samples(&self) -> usize {
        self.series.iter().map(|series| series.samples.len()).sum()
    }

    pub fn histograms(&self) -> usize {
        self.series.iter().map(|series| series.histograms.len()).sum()
    }

    /// Whether a series of this metric is in it.
    pub fn has(&self, metric: &str) -> bool {
        self.series.iter().any(|series| series.labels.metric_name() == metric)
    }
}

/// What a receiver does with a request.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// Whether the request is stored.
    pub stores: bool,
    /// The connection ends without a response.
    pub resets: bool,
}

impl Reply {
    /// Stored, and confirmed as 2.0 wants it.
    pub fn stored(call: &WriteCall) -> Reply {
        let headers = vec![
            ("X-Prometheus-Remote-Write-Samples-Written", call.samples().to_string()),
            ("X-Prometheus-Remote-Write-Histograms-Written", call.histograms().to_string()),
            ("X-Prometheus-Remote-Write-Exemplars-Written", call.exemplars.len().to_string()),
        ];
        Reply { headers, stores: true, ..Reply::status(204, "") }
    }

    /// Not stored.
    pub fn status(status: u16, body: &str) -> Reply {
        Reply { status, headers: Vec::new(), body: body.to_owned(), stores: false, resets: false }
    }

    pub fn header(mut self, name: &'static str, value: impl ToString) -> Reply {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// Series to time to the bits of the value.
pub type Samples = BTreeMap<String, BTreeMap<i64, u64>>;

#[derive(Default)]
pub struct Stored {
    pub samples: Samples,
    /// Of histograms: series, time, count of observations.
    pub histograms: BTreeMap<String, BTreeMap<i64, f64>>,
    pub calls: Vec<WriteCall>,
    /// Samples that were there already, and new ones older than their series' newest.
    pub repeated: usize,
    pub out_of_order: usize,
}

type Decide = dyn Fn(&WriteCall) -> Reply + Send + Sync;

pub struct Receiver {
    pub address: SocketAddr,
    decide: Arc<Mutex<Arc<Decide>>>,
    stored: Arc<Mutex<Stored>>,
}

impl Receiver {
    pub fn start(decide: impl Fn(&WriteCall) -> Reply + Send + Sync + 'static) -> Receiver {
        let decide: Arc<Mutex<Arc<Decide>>> = Arc::new(Mutex::new(Arc::new(decide)));
        let stored: Arc<Mutex<Stored>> = Arc::default();
        let (deciding, kept) = (decide.clone(), stored.clone());
        let address = listen(move |stream| while serve(&stream, &deciding, &kept).is_some() {});
        Receiver { address, decide, stored }
    }

    pub fn now(&self, decide: impl Fn(&WriteCall) -> Reply + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Arc::new(decide);
    }

    /// A section of a configuration that sends here.
    pub fn section(&self, more: &str) -> String {
        format!(
            "  - url: http://{}/write\n    name: far\n    queue_config: {{batch_send_deadline: 100ms, max_backoff: 200ms}}\n{more}",
            self.address
        )
    }

    pub fn with<T>(&self, look: impl FnOnce(&Stored) -> T) -> T {
        look(&self.stored.lock().unwrap())
    }

    pub fn calls(&self) -> usize {
        self.with(|stored| stored.calls.len())
    }

    /// Stored samples of the series whose text contains this, by time.
    pub fn of(&self, part: &str) -> BTreeMap<i64, u64> {
        self.with(|stored| {
            let of = stored.samples.iter().filter(|(series, _)| series.contains(part));
            of.flat_map(|(_, samples)| samples.clone()).collect()
        })
    }
}

/// Takes one request and answers it.
fn serve(stream: &TcpStream, decide: &Mutex<Arc<Decide>>, stored: &Mutex<Stored>) -> Option<()> {
    let Request { method, target: path, headers, body } = read_request(stream)?;
    let is_v2 = headers.get("content-type").is_some_and(|kind| kind.contains("v2.Request"));
    let message = if is_v2 { Message::V2 } else { Message::V1 };
    let unpacked = match headers.get("content-encoding").map(String::as_str) {
        Some("zstd") => unpack_zstd(&body, 64 << 20),
        _ => unpack(&body, 64 << 20),
    };
    let unpacked = unpacked.unwrap_or_default();
    let write = decode_write(message, &unpacked, &WriteLimits::default()).unwrap();
    assert_eq!(write.refusals, Vec::<String>::new());
    let call = WriteCall {
        number: stored.lock().unwrap().calls.len(),
        method,
        path,
        headers,
        message,
        body_bytes: body.len(),
        body_hash: crc32c::crc32c(&body),
        unpacked_bytes: unpacked.len(),
        series: write.series,
        metadata: write.metadata,
        exemplars: write.exemplars,
    };
    let reply = decide.lock().unwrap().clone()(&call);
    stored.lock().unwrap().take(call, reply.stores);
    if reply.resets {
        return None;
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
    reply.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    (&mut &*stream).write_all(format!("{head}\r\n{}", reply.body).as_bytes()).ok()
}

impl Stored {
    fn take(&mut self, call: WriteCall, stores: bool) {
        for series in call.series.iter().filter(|_| stores) {
            let of_series = self.samples.entry(series.labels.to_string()).or_default();
            for sample in &series.samples {
                let (at, bits) = (sample.timestamp.0, sample.value.to_bits());
                let is_older = of_series.last_key_value().is_some_and(|(last, _)| at < *last);
                let before = of_series.insert(at, bits);
                self.out_of_order += usize::from(is_older && before.is_none());
                self.repeated += usize::from(before.is_some());
                assert!(before.is_none_or(|before| before == bits), "another value for the same time");
            }
            for (at, histogram) in &series.histograms {
                self.histograms.entry(series.labels.to_string()).or_default().insert(*at, histogram.count);
            }
        }
        self.calls.push(call);
    }
}
