//! A small S3 of the tests' own: checks signatures, keeps objects in memory, fails as it is told, and notes what no shipper may do.

use super::http_server::{Request, listen, read_request};
use client::aws_signature::{SigningKey, authorization};
use client::{HeaderMap, HeaderName, HeaderValue, Url};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub const SECRET_KEY: &str = "wJalrXUtnFEMI-the-secret";
pub const BUCKET: &str = "blocks";

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Call {
    /// How many came before it.
    pub number: usize,
    pub method: String,
    /// Name of the object.
    pub key: String,
    pub query: String,
    /// Kind of the credentials, and whose they are.
    pub authorization: String,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Refused with this status.
    Status(u16),
    /// The connection ends before the request is carried out, or behind it, without a response.
    CutBefore,
    CutAfter,
    /// The response comes late.
    Slow(Duration),
    /// The response comes twice.
    Twice,
    /// What comes is no HTTP, has a head without end, or a body without end.
    Garbage,
    EndlessHead,
    EndlessBody,
}

type Decide = dyn Fn(&Call) -> Fault + Send + Sync;

#[derive(Default)]
pub struct Content {
    pub objects: BTreeMap<String, Vec<u8>>,
    /// Parts of uploads that are not complete.
    parts: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    pub calls: Vec<Call>,
    /// Broken promises.
    pub violations: Vec<String>,
    /// Whether requests may be signed for other clouds, or not at all.
    pub takes_all: bool,
}

pub struct FakeS3 {
    pub address: SocketAddr,
    decide: Arc<Mutex<Arc<Decide>>>,
    content: Arc<Mutex<Content>>,
}

impl FakeS3 {
    pub fn start(decide: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> FakeS3 {
        let decide: Arc<Mutex<Arc<Decide>>> = Arc::new(Mutex::new(Arc::new(decide)));
        let content: Arc<Mutex<Content>> = Arc::default();
        let (deciding, served) = (decide.clone(), content.clone());
        let address = listen(move |stream| while serve(&stream, &deciding, &served).is_some() {});
        FakeS3 { address, decide, content }
    }

    pub fn now(&self, decide: impl Fn(&Call) -> Fault + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Arc::new(decide);
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Content) -> T) -> T {
        look(&mut self.content.lock().unwrap())
    }

    /// A section of a configuration that uploads here.
    pub fn section(&self) -> String {
        format!(
            "object_storage:\n  type: S3\n  prefix: some/where\n  config:\n    bucket: {BUCKET}\n    endpoint: {}\n    insecure: true\n    \
             access_key: {ACCESS_KEY}\n    secret_key: {SECRET_KEY}\n    part_size: 5242880\n",
            self.address
        )
    }

    /// `meta.json` of the blocks that are there, by ULID.
    pub fn metas(&self) -> BTreeMap<String, serde_json::Value> {
        self.with(|content| {
            let metas = content.objects.iter().filter_map(|(key, bytes)| {
                let ulid = key.strip_prefix("some/where/")?.strip_suffix("/meta.json")?;
                Some((ulid.to_owned(), serde_json::from_slice(bytes).unwrap()))
            });
            metas.collect()
        })
    }
}

/// Whether a request is signed with our key, by other code than that of who signed it.
fn is_signed(request: &Request, address: SocketAddr) -> bool {
    let Some(given) = request.headers.get("authorization") else { return false };
    let part = |name: &str| given.split_once(name).map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default());
    let (Some(signed), Some(signature)) = (part("SignedHeaders="), part("Signature=")) else { return false };
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    // The signing function wants names that live as long as the program.
    let names: Vec<&'static str> =
        signed.split(';').filter(|name| *name != "host").map(|name| &*name.to_owned().leak()).collect();
    let url = Url::parse(&format!("http://{address}{}", request.target)).unwrap();
    let key = SigningKey { access_key: ACCESS_KEY, secret_key: SECRET_KEY, region: "us-east-1", service: "s3" };
    let date = request.headers.get("x-amz-date").cloned().unwrap_or_default();
    let want = authorization(&key, &date, &request.method, &url, &headers, &names, &request.body);
    want.ends_with(&format!("Signature={signature}")) && given.contains(&format!("Credential={ACCESS_KEY}/"))
}

fn serve(stream: &TcpStream, decide: &Mutex<Arc<Decide>>, content: &Mutex<Content>) -> Option<()> {
    let (request, address) = (read_request(stream)?, stream.local_addr().ok()?);
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let key = path.strip_prefix(&format!("/{BUCKET}/")).unwrap_or(path).replace("%2F", "/");
    let number = content.lock().unwrap().calls.len();
    let authorization = request.headers.get("authorization").cloned().unwrap_or_default();
    let call = Call { number, method: request.method.clone(), key, query: query.to_owned(), authorization };
    content.lock().unwrap().calls.push(call.clone());
    let decide = decide.lock().unwrap().clone();
    let fault = decide(&call);
    let (status, headers, body) = match fault {
        Fault::CutBefore => return None,
        Fault::Garbage | Fault::EndlessHead | Fault::EndlessBody => return answer_nonsense(stream, fault),
        Fault::Status(status) => {
            (status, String::new(), format!("<?xml version=\"1.0\"?><Error><Code>Code{status}</Code></Error>"))
        }
        _ if !content.lock().unwrap().takes_all && !is_signed(&request, address) => {
            content.lock().unwrap().violations.push(format!("not signed: {call:?}"));
            (403, String::new(), "<Error><Code>SignatureDoesNotMatch</Code></Error>".to_owned())
        }
        _ => content.lock().unwrap().carry_out(&call, &request),
    };
    match fault {
        Fault::CutAfter => return None,
        Fault::Slow(pause) => std::thread::sleep(pause),
        _ => {}
    }
    let is_head = request.method == "HEAD";
    let length = if is_head { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let body = if is_head { "" } else { &body };
    let response = format!("HTTP/1.1 {status} Whatever\r\n{length}{headers}\r\n{body}");
    let times = if fault == Fault::Twice { 2 } else { 1 };
    (&mut &*stream).write_all(response.repeat(times).as_bytes()).ok()
}

/// Writes until the other end has had enough, up to a bound.
fn answer_nonsense(mut stream: &TcpStream, fault: Fault) -> Option<()> {
    let (begin, more) = match fault {
        Fault::EndlessHead => ("HTTP/1.1 200 OK\r\n", "X-More: and more and more and more\r\n"),
        Fault::EndlessBody => {
            ("HTTP/1.1 500 Broken\r\nTransfer-Encoding: chunked\r\n\r\n", "10\r\n0123456789abcdef\r\n")
        }
        _ => ("\u{1}\u{0}SSH-2.0-x\r\n\r\n", ""),
    };
    stream.write_all(begin.as_bytes()).ok()?;
    let more = more.repeat(1000);
    for _ in 0..2000 {
        stream.write_all(more.as_bytes()).ok()?;
    }
    None
}

impl Content {
    /// Status, headers and body of the response.
    fn carry_out(&mut self, call: &Call, request: &Request) -> (u16, String, String) {
        let value = |name: &str| {
            let pairs = call.query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let etag = "ETag: \"e\"\r\n".to_owned();
        match (&*call.method, value("uploadId")) {
            ("HEAD", _) => match self.objects.get(&call.key) {
                None => (404, "Content-Length: 0\r\n".to_owned(), String::new()),
                Some(object) => {
                    let length = object.len();
                    let date = "Mon, 30 Nov 2026 20:00:00 GMT";
                    (200, format!("{etag}Last-Modified: {date}\r\nContent-Length: {length}\r\n"), String::new())
                }
            },
            ("POST", None) if call.query.starts_with("uploads") => {
                let id = format!("upload-{}", call.number);
                self.parts.insert(id.clone(), BTreeMap::new());
                (
                    200,
                    String::new(),
                    format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
                )
            }
            ("PUT", Some(id)) => {
                let number = value("partNumber").and_then(|number| number.parse().ok()).unwrap();
                self.parts.get_mut(&id).unwrap().insert(number, request.body.clone());
                (200, etag, String::new())
            }
            ("POST", Some(id)) => {
                let whole = self.parts.remove(&id).unwrap().into_values().flatten().collect();
                self.put(&call.key, whole);
                let result = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>";
                (200, etag, result.to_owned())
            }
            ("DELETE", Some(id)) => {
                self.parts.remove(&id);
                (204, String::new(), String::new())
            }
            ("PUT", None) => {
                let conditions = ["if-none-match", "x-goog-if-generation-match"];
                let is_new_only = conditions.iter().any(|name| request.headers.contains_key(*name));
                if is_new_only && self.objects.contains_key(&call.key) {
                    return (412, String::new(), "<Error><Code>PreconditionFailed</Code></Error>".to_owned());
                }
                self.put(&call.key, request.body.clone());
                (200, etag, String::new())
            }
            _ => {
                self.violations.push(format!("unexpected: {call:?}"));
                (400, String::new(), String::new())
            }
        }
    }

    fn put(&mut self, key: &str, object: Vec<u8>) {
        let (folder, _) = key.split_once("/chunks/").or_else(|| key.rsplit_once('/')).unwrap();
        if self.objects.contains_key(&format!("{folder}/meta.json")) {
            self.violations.push(format!("{key} is put behind its meta.json"));
        }
        if key.ends_with("/meta.json") {
            let meta: serde_json::Value = serde_json::from_slice(&object).unwrap();
            for file in meta["thanos"]["files"].as_array().unwrap() {
                let name = file["rel_path"].as_str().unwrap();
                let size = self.objects.get(&format!("{folder}/{name}")).map(|object| object.len() as u64);
                if name != "meta.json" && size != file["size_bytes"].as_u64() {
                    self.violations.push(format!("{key} is there before {name}"));
                }
            }
        }
        self.objects.insert(key.to_owned(), object);
    }

    /// Uploads in parts that nobody completed.
    pub fn open_uploads(&self) -> usize {
        self.parts.len()
    }
}
